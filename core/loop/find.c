/* SPDX-License-Identifier: Apache-2.0 */
/* How the processes of a run find each other: a launcher that a comm plugin knows, or what the configuration says. In the
 * first case the launcher's own channel carries a fresh key; in the second there must be one, or no port is opened. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "loop/control.h"

#define MIN_KEY_BYTES 16

/* What process 0 tells the others through the launcher. */
struct rendezvous {
    char hosts[256];
    uint32_t port;
    uint8_t key[SECRET_KEY_BYTES];
};

static int32_t read_key(const char *path, uint8_t key[SECRET_KEY_BYTES], tn_err *err)
{
    char *text = NULL;
    size_t n = 0;
    int32_t rc = file_read(path, 65536, &text, &n, err);

    if (rc != TN_OK)
        return rc;
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        n--;
    if (n < MIN_KEY_BYTES) {
        rc = err_at(err, TN_E_CONFIG, path, TN_NO_OFFSET, "parallel.key_file",
                    "has %zu bytes; a key has at least %d", n, MIN_KEY_BYTES);
        err_remedy(err, "make one: head -c 32 /dev/urandom | base64 > FILE");
    } else {
        secret_from_text(text, n, key);
    }
    mem_free(text);
    return rc;
}

static int32_t split_address(const char *address, struct control_plan *out, tn_err *err)
{
    const char *colon = strrchr(address, ':');
    char *end = NULL;
    unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;

    if (!colon || colon == address || port < 1 || port > 65535 || *end ||
        (size_t)(colon - address) >= sizeof out->host)
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.dist_init_addr",
                      "is \"%.200s\"; HOST:PORT of the process with node rank 0 is wanted",
                      address);
    snprintf(out->host, sizeof out->host, "%.*s", (int)(colon - address), address);
    out->port = (uint16_t)port;
    return TN_OK;
}

static int32_t by_configuration(const struct instance *in, struct control_plan *out, tn_err *err)
{
    const struct conf *conf = in->o.conf;
    const char *key = conf_text(conf, CONF_PARALLEL_KEY);
    int32_t rc;

    out->n_processes = (uint32_t)conf_int(conf, CONF_PARALLEL_NODES);
    out->process = (uint32_t)conf_int(conf, CONF_PARALLEL_NODE_RANK);
    out->host_size = 1;
    snprintf(out->comm, sizeof out->comm, "tcp");
    if (out->process >= out->n_processes)
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.node_rank",
                      "is %" PRIu32 ", but there are %" PRIu32 " nodes", out->process,
                      out->n_processes);
    if (!key[0]) {
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.key_file",
               "is empty: several nodes need a shared key, and no port is opened without one");
        err_remedy(err, "make one (head -c 32 /dev/urandom | base64 > FILE), copy it to all nodes");
        return TN_E_CONFIG;
    }
    rc = split_address(conf_text(conf, CONF_PARALLEL_ADDRESS), out, err);
    if (rc == TN_OK)
        rc = read_key(key, out->key, err);
    if (rc == TN_OK && out->process == 0)
        rc = link_listen(out->host, &out->port, &out->listener, err);
    return rc;
}

static int32_t by_launcher(const struct instance *in, const tn_comm_backend *b, void *instance,
                           struct control_plan *out, tn_err *err)
{
    uint64_t timeout = (uint64_t)conf_int(in->o.conf, CONF_PARALLEL_JOIN_MS) * NS_PER_MS;
    struct rendezvous r;
    int32_t rc = TN_OK;

    memset(&r, 0, sizeof r);
    if (out->process == 0) {
        if ((rc = link_listen(NULL, &out->port, &out->listener, err)) != TN_OK ||
            (rc = link_own_addresses(r.hosts, sizeof r.hosts, err)) != TN_OK ||
            (rc = secret_random(r.key, sizeof r.key, err)) != TN_OK)
            return rc;
        r.port = out->port;
    }
    rc = b->spread(instance, &r, sizeof r, timeout, err);
    if (rc != TN_OK)
        return rc;
    r.hosts[sizeof r.hosts - 1] = '\0';
    memcpy(out->host, r.hosts, sizeof out->host);
    out->port = (uint16_t)r.port;
    memcpy(out->key, r.key, sizeof out->key);
    return TN_OK;
}

/* Processes of one launcher that do not find each other (a plugin is missing, srun speaks another PMI) would each do all of the
 * work, unnoticed; told not to look for each other, they may be meant to. The plugin that knows launchers may be the one that is missing. */
static void warn_if_alone(const char *comm)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && strcmp(comm, "local") != 0; i++) {
        const char *text = getenv(sizes[i]);
        if (!text || strtol(text, NULL, 10) <= 1)
            continue;
        log_warn("a launcher started %.20s processes (%s), but no comm plugin finds the others: "
                 "this one runs by itself; "
                 "see \"tenon plugin list\" for why mpi was not loaded, or srun's --mpi",
                 text, sizes[i]);
        return;
    }
}

int32_t control_find(const struct instance *in, struct control_plan *out, tn_err *err)
{
    const char *name = conf_text(in->o.conf, CONF_PARALLEL_COMM);
    const struct registry_iface *items;
    uint32_t n = registry_ifaces(in->view, TN_IFACE_COMM, &items);
    int32_t rc = TN_OK;

    *out = (struct control_plan){.n_processes = 1, .host_size = 1, .listener = -1};
    if (in->o.dry)
        return TN_OK;
    if (conf_int(in->o.conf, CONF_PARALLEL_NODES) > 1)
        return by_configuration(in, out, err);
    for (uint32_t i = 0; i < n && out->n_processes == 1; i++) {
        const tn_comm_backend *b = items[i].vtbl;
        if (!TN_HAS(tn_comm_backend, b, spread) || !b->world ||
            (strcmp(name, "auto") != 0 && strcmp(name, b->name) != 0))
            continue;
        rc = b->world(items[i].instance, &out->process, &out->n_processes, &out->host_rank,
                      &out->host_size, err);
        snprintf(out->comm, sizeof out->comm, "%s", b->name);
        if (rc == TN_OK && out->n_processes > 1)
            rc = by_launcher(in, b, items[i].instance, out, err);
        if (rc != TN_OK) {
            err_plugin(err, items[i].plugin_name);
            return rc;
        }
    }
    if (out->n_processes == 1)
        warn_if_alone(name);
    return TN_OK;
}
