/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin "cpu": the device kind "cpu" and its fast kernels. Descriptor, instance and settings.
 *
 *     cpu: { threads = 2;          default: the CPUs that the process may use
 *            spin_us = 200;        how long an idle worker spins before it sleeps
 *            pin = false;          true: worker i stays on CPU i of the process's affinity mask
 *            round_rows = false; } true: products may round activations to bfloat16 where weights are, which CPUs with AVX-512
 *                                  BF16 multiply twice as fast in prompts; logits then differ by some hundredths
 *
 * The note asks for no CPU feature: this file and all others but the isa_* files are compiled for the
 * baseline. What is compiled for more runs only as part of a variant whose needs the host has checked.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "tenon/plugin.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_DEVICE | TN_KIND_KERNELS, .name = "cpu",
               .vendor = "tenon", .version = VERSION);

/* The settings that the configuration may change: key, range, and where the number goes. */
static const struct setting {
    const char *key;
    uint32_t min, max;
    size_t at;
} settings[] = {
    {"threads", 1, CPU_MAX_THREADS, offsetof(struct cpu_settings, threads)},
    {"spin_us", 0, 10 * 1000 * 1000, offsetof(struct cpu_settings, spin_us)},
    {"pin", 0, 1, offsetof(struct cpu_settings, pin)},
    {"round_rows", 0, 1, offsetof(struct cpu_settings, round_rows)},
};

static int32_t refuse(const tn_kv *kv, const char *why, tn_err *err)
{
    if (err) {
        snprintf(err->plugin, sizeof err->plugin, "cpu");
        snprintf(err->field, sizeof err->field, "%s", kv->key);
        snprintf(
            err->remedy, sizeof err->remedy,
            "known keys: threads (1..%d), spin_us (0..10000000), pin, round_rows (true or false)",
            CPU_MAX_THREADS);
    }
    return tn_err_set(err, TN_E_CONFIG, "cpu: %s = \"%s\": %s", kv->key, kv->value, why);
}

static int32_t apply(struct cpu_settings *s, const tn_kv *kv, tn_err *err)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const struct setting *row = &settings[i];
        char *end;
        unsigned long v;
        if (strcmp(row->key, kv->key) != 0)
            continue;
        v = strtoul(kv->value, &end, 10);
        if (row->max == 1 && strcmp(kv->value, "true") == 0)
            v = 1;
        else if (row->max == 1 && strcmp(kv->value, "false") == 0)
            v = 0;
        else if (end == kv->value || *end || kv->value[0] == '-')
            return refuse(kv, "not a whole number", err);
        if (v < row->min || v > row->max)
            return refuse(kv, "out of range", err);
        *(uint32_t *)((char *)s + row->at) = (uint32_t)v;
        return TN_OK;
    }
    return refuse(kv, "unknown key", err);
}

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err)
{
    struct cpu_settings s = {.threads = host->n_cpus, .spin_us = 200, .pin = 0};
    struct cpu_instance *in;

    if (s.threads < 1)
        s.threads = 1;
    if (s.threads > CPU_MAX_THREADS)
        s.threads = CPU_MAX_THREADS;
    for (uint32_t i = 0; i < n_config; i++) {
        int32_t rc = apply(&s, &config[i], err);
        if (rc)
            return rc;
    }
    in = host->alloc(host->ctx, sizeof *in, 64);
    if (!in)
        return tn_err_set(err, TN_E_NOMEM, "cpu: no memory for an instance");
    in->host = host;
    in->settings = s;
    *instance = in;
    return TN_OK;
}

static void fini(void *instance)
{
    struct cpu_instance *in = instance;

    if (in)
        in->host->free(in->host->ctx, in);
}

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_DEVICE, .vtbl = &cpu_device_api},
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &cpu_kernel_set},
};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "cpu",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = sizeof ifaces / sizeof *ifaces,
    .ifaces = ifaces,
    .init = init,
    .fini = fini,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
