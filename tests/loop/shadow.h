/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plugin "shadow": a device for tests that behaves as a GPU does and computes as the reference set does.
 *
 * Its memory is not the host's: addresses are shifted out of what a processor can reach, so whoever reads them on the host
 * dies. Each stream has a thread that works off what was enqueued, so nothing is done when a call returns. It captures and
 * replays; an allocation breaks a capture. There may be several, whose ranks are threads. Plugin settings: devices = N, islands =
 * true; crooked = true: devices say that they reach each other, but copies from one to another bring zeros; fail_launch = N kills the device with its Nth kernel; hang_kernel = N never ends the Nth, hang_launch = N never returns
 * from its launch; expect =
 * "graphs" or "overlap" ends the process if no graph was replayed, or never were two steps in flight. layers = true: a whole
 * decoder layer is one op for up to two rows; expect = "layers" ends the process if that op never found what an earlier launch left.
 * feeds = true: embeddings take tokens of the step before by themselves, and `feed` refuses to run.
 * few = true: a kernel for products of up to two rows says that it takes SHADOW_QUICK_NS, all others SHADOW_SLOW_NS.
 */
#ifndef TESTS_LOOP_SHADOW_H
#define TESTS_LOOP_SHADOW_H

#include <stdatomic.h>
#include <stdbool.h>

#include "tenon/kernels.h"
#include "tenon/plugin.h"

struct shadow {
    const tn_host *host;
    uint64_t fail_launch, hang_kernel, hang_launch; /* 0: never */
    bool expect_graphs, expect_overlap, expect_layers;
    bool layers, few, feeds;
    uint32_t n_devices; /* 1 if not set */
    bool islands;       /* no device reaches another's memory */
    bool crooked;       /* nor does it, but claims to */
    char library[16];   /* what the set says its times depend on */
    atomic_uint_fast64_t n_graphs, n_overlaps;
    atomic_uint_fast64_t n_kernels, n_launches;
};

/* Bits that no address of the host has. */
#define SHADOW_SHIFT ((uintptr_t)1 << 60)

/* Between addresses of the device and the host memory behind them. NULL stays NULL. */
static inline void *shadow_host(const void *device)
{
    return device ? (void *)((uintptr_t)device - SHADOW_SHIFT) : NULL;
}

static inline void *shadow_device(void *host)
{
    return host ? (void *)((uintptr_t)host + SHADOW_SHIFT) : NULL;
}

#define SHADOW_WEIGHTS 24
#define SHADOW_QUICK_NS 100000
#define SHADOW_SLOW_NS 6000000 /* so long that it is measured once */

/* One kernel to run: a reference function and all that it reads, by value. Addresses are the device's. */
struct shadow_kernel {
    int32_t (*run)(void *instance, const tn_launch *l, tn_err *err);
    tn_launch l;
    const void *in[4], *weights[SHADOW_WEIGHTS];
    void *out[4];
    tn_batch batch;
    tn_batch_arrays arrays;
    tn_kv_layer kv;
    const void *part[16];
    tn_comm_parts parts;
    bool quick; /* see `few` above */
};

/* Runs it, on a stream's thread. */
int32_t shadow_run(const struct shadow_kernel *k, tn_err *err);

extern const tn_device_api shadow_device_api;
extern const tn_kernel_set shadow_kernel_set;

#endif
