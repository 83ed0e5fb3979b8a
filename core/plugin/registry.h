/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry finds plugins in the configured directories, judges and loads them, and answers who provides
 * what. Refused plugins stay in its list with the reason, so that `tenon plugin list` and every "not found"
 * can tell why something is missing.
 *
 * What is loaded at one time is an immutable *view*. Whoever uses plugins acquires the current view, looks
 * things up in it, and releases it when the last call into them has returned; until then everything found
 * stays valid. Replacing a plugin will mean publishing a new view with a higher generation while holders of the
 * old one drain. Views may be acquired, read and released from any thread; opening and closing belong
 * to one.
 */
#ifndef CORE_PLUGIN_REGISTRY_H
#define CORE_PLUGIN_REGISTRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/digest.h"
#include "base/err.h"
#include "tenon/comm.h"
#include "tenon/device.h"
#include "tenon/kernels.h"
#include "tenon/model.h"
#include "tenon/plugin.h"
#include "tenon/quant.h"
#include "tenon/quant_format.h"

struct ledger;
struct registry;
struct registry_view;

/* -- Opening ------------------------------------------------------------------------------------------ */

enum registry_allow { REGISTRY_ALLOW_OFF, REGISTRY_ALLOW_WARN, REGISTRY_ALLOW_ENFORCE };

/* Zeroed options mean: default directory, everything that is fit, no extra libraries, no allow-list. All
 * texts are copied or read during registry_open only, except what `config` reaches. */
struct registry_options {
    /* Directories, absolute, in order. None: the default directory (see registry_default_dir). */
    const char *const *paths;
    uint32_t n_paths;
    /* Names of plugins to leave out. */
    const char *const *disable;
    uint32_t n_disable;
    /* Plugins whose kernel sets may be used, most preferred first. None: all, in order of loading. */
    const char *const *kernel_sets;
    uint32_t n_kernel_sets;
    /* Shared libraries, beyond the C runtime, that a plugin may need (DT_NEEDED). */
    const char *const *libraries;
    uint32_t n_libraries;
    /* SHA-256 of the files that may be loaded, 64 hex digits each; see `allow`. */
    const char *const *digests;
    uint32_t n_digests;
    enum registry_allow allow;
    /* The plugin's own settings: sets *items and returns their number; NULL: none have any. The texts
     * must live as long as the registry, since an instance may be made again. */
    uint32_t (*config)(const void *arg, const char *plugin, const tn_kv **items);
    const void *config_arg;
    /* Where host memory of plugins is booked, owner "plugin NAME"; NULL: not booked. Must outlive the
     * registry. */
    struct ledger *ledger;
};

/*
 * Finds and loads plugins. A candidate that is refused does not fail the call; it is logged as a warning and
 * listed. TN_E_NOTFOUND if a configured directory does not exist (a missing default directory is only
 * logged), TN_E_INVALID for a relative path or a malformed digest, TN_E_LIMIT for too many files, TN_E_NOMEM.
 */
int32_t registry_open(const struct registry_options *options, struct registry **out, tn_err *err);

/* Ends all plugins in reverse order of loading: now, or when the last view that is held is released, by the thread that
 * does so. The code stays mapped. NULL is allowed. */
void registry_close(struct registry *reg);

/*
 * The default directory: lib/tenon/plugins below the prefix that the program (or libtenon.so) which contains
 * this code is installed in, found from the address of the code and never from argv, the environment or the
 * working directory. Free with mem_free.
 */
int32_t registry_default_dir(char **out, tn_err *err);

/* -- Every candidate, for people ------------------------------------------------------------------------ */

enum registry_state { REGISTRY_LOADED, REGISTRY_DISABLED, REGISTRY_REFUSED };

struct registry_info {
    const char *path;
    const char *name; /* "" if the file has no readable note; likewise the next two */
    const char *vendor;
    const char *version;
    uint32_t kinds;      /* mask of ::tn_kind */
    uint32_t swap_class; /* ::tn_swap_class */
    enum registry_state state;
    uint64_t generation;                /* of the instance; 0 if not loaded */
    char content[2 * XXH128_BYTES + 1]; /* XXH128 of the file, in hex; "" if it was not read */
    bool listed;                        /* its SHA-256 is on the allow-list */
    const tn_err *err;                  /* why it is not loaded; code TN_OK if it is */
};

/* Candidates in the order they were found. What `out` points to lives as long as the registry. */
uint32_t registry_count(const struct registry *reg);
void registry_info(const struct registry *reg, uint32_t index, struct registry_info *out);

/* SHA-256 of the candidate's file, in hex, for people and allow-lists; "" if it was not read or has changed since. Reads it
 * again. */
void registry_digest(const struct registry *reg, uint32_t index, char out[SHA256_HEX]);

/* -- Looking up ------------------------------------------------------------------------------------------- */

const struct registry_view *registry_acquire(struct registry *reg);
void registry_release(const struct registry_view *view); /* NULL is allowed */
uint64_t registry_generation(const struct registry_view *view);

/* One interface of one loaded plugin. */
struct registry_iface {
    const char *plugin_name;
    const void *vtbl; /* of the type that plugin.h gives for the interface id */
    void *instance;
    uint64_t generation; /* of the plugin's instance, counted over all plugins, from 1 */
};

/* All interfaces with that id (TN_IFACE_DEVICE, ...) in order of loading; kernel sets in order of preference.
 * Returns their number; *items lives as long as the view is held. */
uint32_t registry_ifaces(const struct registry_view *view, const char *id,
                         const struct registry_iface **items);

/* A kernel set that may be used. */
struct registry_set {
    const char *plugin_name;
    const tn_kernel_set *set;
    void *instance;
    uint64_t generation;
};

#define REGISTRY_MAX_SETS 64

struct registry_sets {
    uint32_t count;
    struct registry_set items[REGISTRY_MAX_SETS];
};

/*
 * The following fail with TN_E_NOTFOUND if nobody provides it; the message names what there is, the remedy
 * the refused candidates. If several plugins provide the same thing, the first loaded is used and a warning
 * was logged at loading. `instance` may be NULL in any of them only if the plugin has no `init`.
 */

/* The enabled kernel sets for a kind of device, most preferred first; at least one. */
int32_t registry_kernel_sets(const struct registry_view *view, const char *device_kind,
                             struct registry_sets *out, tn_err *err);
int32_t registry_device(const struct registry_view *view, const char *kind,
                        const tn_device_api **api, void **instance, tn_err *err);
/* The architecture that handles `model_type` of a config.json. */
int32_t registry_model(const struct registry_view *view, const char *model_type,
                       const tn_model_arch **arch, void **instance, tn_err *err);
int32_t registry_quant(const struct registry_view *view, const char *name,
                       const tn_quant_scheme **scheme, void **instance, tn_err *err);
/* The reader of checkpoints with that `quant_method`. */
int32_t registry_format(const struct registry_view *view, const char *method,
                        const tn_quant_format **format, void **instance, tn_err *err);
int32_t registry_comm(const struct registry_view *view, const char *name,
                      const tn_comm_backend **backend, void **instance, tn_err *err);

/* Name of the plugin that a vtable found in this view belongs to, for errors; "" if it is none. */
const char *registry_plugin_of(const struct registry_view *view, const void *vtbl);

#endif
