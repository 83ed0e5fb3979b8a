/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of loader.h. Called by the thread that opens or closes the registry. */
#include "plugin/loader.h"

#include <inttypes.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "plugin/check.h"
#include "plugin/discover.h"
#include "plugin/host.h"
#include "plugin/mapping.h"

#define QUIESCE_NS (5 * NS_PER_S)

typedef const tn_plugin *(*query_fn)(const tn_host *host, uint32_t host_minor);

/* An error record for a plugin to fill, with a margin behind: an overrun is seen, not fatal. */
struct guarded_err {
    tn_err err;
    uint8_t margin[64];
};

static void guard_init(struct guarded_err *g)
{
    static const tn_err none = TN_ERR_INIT;

    g->err = none;
    memset(g->margin, 0xa5, sizeof g->margin);
}

/* Takes over what the plugin wrote, as far as it is sane. */
static int32_t guard_take(struct guarded_err *g, const struct plugin *p, const char *call,
                          int32_t rc, tn_err *err)
{
    tn_err *e = &g->err;

    e->plugin[sizeof e->plugin - 1] = e->file[sizeof e->file - 1] = '\0';
    e->field[sizeof e->field - 1] = e->msg[sizeof e->msg - 1] = '\0';
    e->remedy[sizeof e->remedy - 1] = '\0';
    for (size_t i = 0; i < sizeof g->margin; i++)
        if (g->margin[i] != 0xa5)
            return err_at(err, TN_E_REFUSED, p->path, TN_NO_OFFSET, call,
                          "wrote beyond the error record");
    if (rc == TN_OK)
        return TN_OK;
    *err = *e;
    err->h = (tn_hdr)TN_HDR(tn_err);
    err->code = rc;
    if (rc > 0 || strcmp(status_text(rc), "unknown") == 0) {
        err_at(err, TN_E_REFUSED, p->path, TN_NO_OFFSET, call,
               "returned %" PRId32 ", which is no status", rc);
    } else if (err->msg[0] == '\0') {
        tn_err_set(err, rc, "%s failed without a reason", call);
    } else {
        err_prefix(err, "%s", call);
    }
    if (err->file[0] == '\0')
        err_file(err, p->path);
    return err->code;
}

/* What a plugin may not touch, before and after it was called. */
struct process_state {
    sigset_t signals;
    char locale[256];
};

static void state_save(struct process_state *s)
{
    const char *locale = setlocale(LC_ALL, NULL);

    pthread_sigmask(SIG_SETMASK, NULL, &s->signals);
    snprintf(s->locale, sizeof s->locale, "%s", locale ? locale : "");
}

static void state_restore(const struct process_state *s, const struct plugin *p)
{
    struct process_state now;
    bool signals = false;

    state_save(&now);
    for (int i = 1; i < 32; i++)
        signals |= sigismember(&now.signals, i) != sigismember(&s->signals, i);
    if (signals) {
        log_error("plugin %s: changed the signal mask", p->note.name);
        pthread_sigmask(SIG_SETMASK, &s->signals, NULL);
    }
    if (strcmp(now.locale, s->locale) != 0) {
        log_error("plugin %s: changed the locale", p->note.name);
        setlocale(LC_ALL, s->locale);
    }
}

/* -- Before any of its code runs ------------------------------------------------------------------------ */

static void identify(struct plugin *p, const struct loader *l, const char *data, size_t size)
{
    uint8_t content[XXH128_BYTES];

    xxh128_of(data, size, content);
    hex_encode(content, sizeof content, p->content);
    memcpy(p->identity, content, sizeof content);
    if (!l->check_digests && l->n_digests == 0)
        return;
    sha256_of(data, size, p->identity);
    for (uint32_t i = 0; i < l->n_digests; i++)
        p->listed |= memcmp(l->digests[i], p->identity, SHA256_BYTES) == 0;
}

void plugin_digest(const struct plugin *p, char out[SHA256_HEX])
{
    uint8_t content[XXH128_BYTES], sha[SHA256_BYTES];
    char hex[2 * XXH128_BYTES + 1];
    uint64_t dev, ino;
    tn_err err = TN_ERR_INIT;
    char *data = NULL;
    size_t size = 0;

    out[0] = '\0';
    if (!p->content[0] || discover_read(p->path, &data, &size, &dev, &ino, &err) != TN_OK)
        return;
    xxh128_of(data, size, content);
    hex_encode(content, sizeof content, hex);
    if (strcmp(hex, p->content) == 0) {
        sha256_of(data, size, sha);
        hex_encode(sha, sizeof sha, out);
    }
    mem_free(data);
}

static int32_t check_list(const struct plugin *p, const struct loader *l, tn_err *err)
{
    char digest[SHA256_HEX];

    if (!l->check_digests || p->listed)
        return TN_OK;
    hex_encode(p->identity, sizeof p->identity, digest);
    if (!l->enforce) {
        log_warn("plugin %s: %s is not on the allow-list (sha256 %s)", p->note.name, p->path,
                 digest);
        return TN_OK;
    }
    err_at(err, TN_E_REFUSED, p->path, TN_NO_OFFSET, "plugins.digests",
           "its SHA-256 is not on the allow-list");
    err_remedy(err, "add %s if you trust it", digest);
    return TN_E_REFUSED;
}

static int32_t judge(struct plugin *p, const struct loader *l, const char *data, size_t size,
                     tn_err *err)
{
    struct elf elf;
    int32_t rc;

    rc = elf_open(data, size, p->path, &elf, err);
    if (rc == TN_OK)
        rc = note_read(&elf, &p->note, err);
    if (rc == TN_OK && l->veto)
        rc = l->veto(l->veto_arg, p, err);
    if (rc == TN_OK)
        rc = check_list(p, l, err);
    if (rc == TN_OK)
        rc = note_judge(&elf, &p->note, &l->host, err);
    return rc;
}

/* -- From here on the plugin's code runs ----------------------------------------------------------------- */

static int32_t map_and_query(struct plugin *p, const struct loader *l, const char *data,
                             size_t size, tn_err *err)
{
    const struct mapping_source src = {p->path, data, size, p->identity, l->check_digests};
    struct process_state state;
    void *symbol;
    query_fn query;
    int32_t rc;

    state_save(&state);
    rc = mapping_open(&src, &p->handle, err);
    state_restore(&state, p);
    if (rc == TN_OK)
        rc = mapping_symbol(p->handle, p->path, TN_PLUGIN_SYMBOL, &symbol, err);
    if (rc != TN_OK)
        return rc;
    memcpy(&query, &symbol, sizeof query); /* ISO C has no cast from data to function pointers */
    p->desc = query(host_table(p->host), TN_ABI_MINOR);
    if (!p->desc)
        return err_at(err, TN_E_ABI, p->path, TN_NO_OFFSET, TN_PLUGIN_SYMBOL,
                      "declined to work with a host of ABI %d.%d", TN_ABI_MAJOR, TN_ABI_MINOR);
    rc = check_plugin(p->desc, &p->note, err);
    if (rc != TN_OK)
        err_file(err, p->path);
    return rc;
}

static int32_t start(struct plugin *p, const struct loader *l, tn_err *err)
{
    const tn_kv *items = NULL;
    uint32_t n = l->config ? l->config(l->config_arg, p->note.name, &items) : 0;
    struct process_state state;
    struct guarded_err g;
    int32_t rc;
    bool made;

    if (!p->desc->init)
        return TN_OK;
    guard_init(&g);
    state_save(&state);
    rc = p->desc->init(host_table(p->host), items, n, &p->instance, &g.err);
    state_restore(&state, p);
    made = rc == TN_OK;
    rc = guard_take(&g, p, "init", rc, err);
    /* An overrun in an init that succeeded: the instance exists and must be ended. */
    if (rc != TN_OK && made)
        p->desc->fini(p->instance);
    return rc;
}

static void undo(struct plugin *p)
{
    bool quiet = host_free(p->host);

    p->host = NULL;
    p->instance = NULL;
    p->desc = NULL;
    if (p->handle && quiet && p->note.swap_class == TN_CLASS_SWAP) {
        mapping_close(p->handle);
        p->handle = NULL;
    }
}

void plugin_refuse(struct plugin *p, const tn_err *err)
{
    p->err = *err;
    p->state = err->code == TN_E_CANCELED ? PLUGIN_DISABLED : PLUGIN_REFUSED;
    if (p->note.name[0])
        err_plugin(&p->err, p->note.name);
}

int32_t plugin_load(struct plugin *p, const struct loader *l)
{
    tn_err err = TN_ERR_INIT;
    char *data = NULL;
    size_t size = 0;
    bool refused = false; /* by its own init, whose reasons are its own */
    int32_t rc;

    rc = discover_read(p->path, &data, &size, &p->dev, &p->ino, &err);
    if (rc != TN_OK)
        goto done;
    identify(p, l, data, size);
    rc = judge(p, l, data, size, &err);
    if (rc != TN_OK)
        goto done;
    rc = host_new(p->note.name, l->host.cpu, l->ledger, &p->host, &err);
    if (rc == TN_OK)
        rc = map_and_query(p, l, data, size, &err);
    if (rc == TN_OK) {
        rc = start(p, l, &err);
        refused = rc != TN_OK;
    }
    if (rc == TN_OK)
        p->state = PLUGIN_LOADED;
    else
        undo(p);
done:
    mem_free(data);
    if (rc != TN_OK)
        plugin_refuse(p, &err);
    return refused ? TN_E_REFUSED : rc;
}

void plugin_end(struct plugin *p)
{
    struct guarded_err g;
    tn_err err = TN_ERR_INIT;
    int32_t rc;

    if (p->state != PLUGIN_LOADED)
        return;
    guard_init(&g);
    if (p->desc->quiesce) {
        rc = p->desc->quiesce(p->instance, QUIESCE_NS, &g.err);
        rc = guard_take(&g, p, "quiesce", rc, &err);
        if (rc != TN_OK) {
            /* Something of it still runs: ending it by force would crash. It stays, and leaks. */
            log_error("plugin %s: %s", p->note.name, err.msg);
            return;
        }
    }
    if (p->desc->fini)
        p->desc->fini(p->instance);
    host_free(p->host);
    p->host = NULL;
    p->instance = NULL;
    p->state = PLUGIN_NEW;
}
