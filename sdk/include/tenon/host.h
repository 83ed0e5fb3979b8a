/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file host.h
 * What the host offers to plugins. The table outlives every plugin instance.
 *
 * All functions may be called from any thread between a plugin's `init` and the end of its `fini`, except
 * where said. None may be called from tn_plugin_query_v1.
 */
#ifndef TENON_HOST_H
#define TENON_HOST_H

#include "cpu.h"
#include "error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tn_log_level { TN_LOG_ERROR = 1, TN_LOG_WARN = 2, TN_LOG_INFO = 3, TN_LOG_DEBUG = 4 };

/** A key and its value from the plugin's own group in the configuration, as text. */
typedef struct tn_kv {
    const char *key;
    const char *value;
} tn_kv;

/** A thread that the host started for a plugin. */
typedef struct tn_thread tn_thread;

/** One instance of a plugin as the host sees it; passed back as the first argument of each call. */
typedef struct tn_host_ctx tn_host_ctx;

typedef struct tn_host {
    tn_hdr h;
    uint64_t cpu[2];    /**< usable CPU features, see cpu.h */
    uint32_t n_cpus;    /**< CPUs this process may run on */
    uint32_t reserved0; /**< 0 */
    tn_host_ctx *ctx;   /**< pass it as `ctx` below; differs per instance */

    /** Writes one log line (no newline needed); `msg` is copied, control bytes are escaped. */
    void (*log)(tn_host_ctx *ctx, uint32_t level, const char *msg);

    /** Zeroed host memory of `bytes` bytes at a multiple of `align` (a power of two <= 4096), booked to
     *  the plugin. NULL if there is none. Not to be called on the step path. */
    void *(*alloc)(tn_host_ctx *ctx, uint64_t bytes, uint64_t align);
    /** Returns memory from `alloc`; NULL is allowed. */
    void (*free)(tn_host_ctx *ctx, void *ptr);

    /** Starts a named thread running fn(arg), bound to the `cpu`th CPU of this process's affinity
     *  mask (-1: not bound). It must return before the plugin's `fini` does. */
    int32_t (*thread_spawn)(tn_host_ctx *ctx, const char *name, int32_t cpu, void (*fn)(void *),
                            void *arg, tn_thread **out, tn_err *err);
    /** Waits for the thread to return and frees it. */
    void (*thread_join)(tn_host_ctx *ctx, tn_thread *thread);

    /** Monotonic clock in nanoseconds. */
    uint64_t (*now_ns)(tn_host_ctx *ctx);
} tn_host;

#ifdef __cplusplus
}
#endif
#endif
