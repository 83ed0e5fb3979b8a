/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file plugin.h
 * The entry point of a plugin and its descriptor.
 *
 * Life of a plugin: the host judges the ELF note (note.h), maps the file, calls the entry symbol, checks
 * the descriptor, then calls `init` once per instance. An instance offers its interfaces until `fini`.
 */
#ifndef TENON_PLUGIN_H
#define TENON_PLUGIN_H

#include "host.h"
#include "note.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Interface ids and the structs that their vtables are. */
#define TN_IFACE_MODEL "model.arch"    /**< tn_model_arch, model.h */
#define TN_IFACE_QUANT "quant.scheme"  /**< tn_quant_scheme, quant.h */
#define TN_IFACE_FORMAT "quant.format" /**< tn_quant_format, quant_format.h */
#define TN_IFACE_COMM "comm.backend"   /**< tn_comm_backend, comm.h */
#define TN_IFACE_DEVICE "device"       /**< tn_device_api, device.h */
#define TN_IFACE_KERNELS "kernel.set"  /**< tn_kernel_set, kernels.h */

/** One interface that a plugin offers. `vtbl` begins with a ::tn_hdr and lives as long as the mapping. */
typedef struct tn_iface {
    tn_hdr h;
    const char *id;
    const void *vtbl;
} tn_iface;

/** What a plugin is. Static: the host may read it at any time while the plugin is mapped. */
typedef struct tn_plugin {
    tn_hdr h;
    const char *name;    /**< the same as in the note */
    const char *vendor;  /**< the same as in the note */
    const char *version; /**< the same as in the note */
    uint32_t n_ifaces;
    uint32_t reserved0;
    const tn_iface *ifaces;

    /**
     * Makes an instance. `config` holds the plugin's own group of the configuration; unknown keys are
     * for the plugin to refuse. On failure everything acquired has been given back. Optional: without
     * it `instance` is NULL in all calls. Called from the thread that loads plugins. TN_E_UNSUPPORTED if this
     * machine lacks what the plugin is for: it is listed as refused with that reason, without a warning.
     */
    int32_t (*init)(const tn_host *host, const tn_kv *config, uint32_t n_config, void **instance,
                    tn_err *err);
    /** Ends background activity (threads, outstanding work) within `deadline_ns`; optional. */
    int32_t (*quiesce)(void *instance, uint64_t deadline_ns, tn_err *err);
    /** Frees the instance; optional if `init` is absent. No call is in progress or follows. */
    void (*fini)(void *instance);
} tn_plugin;

/**
 * The one symbol that a plugin exports. Pure: it may be called any number of times from any thread,
 * changes nothing and calls nothing of `host`. `host_minor` is the host's ::TN_ABI_MINOR; the plugin
 * returns a descriptor that keeps to the lesser minor, or NULL if it cannot.
 */
TN_EXPORT const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor);

#define TN_PLUGIN_SYMBOL "tn_plugin_query_v1"

#ifdef __cplusplus
}
#endif
#endif
