/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What lies between devices, as measured: what drivers tell of it is not always so, and some ways that they name lose what
 * is sent. Everything is opened, timed and given back within a call; the devices must not be at work.
 */
#ifndef CORE_LOOP_MEASURE_H
#define CORE_LOOP_MEASURE_H

#include <stdbool.h>

#include "base/err.h"
#include "tenon/comm.h"
#include "tenon/device.h"

/* Copies one way from a device to another. */
struct measured_way {
    bool tried;        /* the others hold only then */
    bool intact;       /* what was sent arrived */
    double latency_ns; /* of 4 KiB, with the wait for it */
    double bandwidth;  /* bytes per second, of 16 MiB */
};

struct measured_pair {
    struct measured_way
        direct; /* one device reads the other's memory; not tried if it does not reach it */
    struct measured_way staged; /* through page-locked memory of the host, both halves at once */
};

/* Times copies from device `a` to device `b`, two of a kind: a few milliseconds, beside opening them. */
int32_t measure_pair(const tn_device_api *api, void *instance, uint32_t a, uint32_t b,
                     struct measured_pair *out, tn_err *err);

/* Nanoseconds by which a message of `bytes` is slower on the direct way than through the host: infinite if it does not arrive,
 * negative where the direct way is to be taken. */
double measured_loss_ns(const struct measured_pair *p, double bytes);

/* Ranks of one process that sum up, joined by a backend. */
struct measure_sums {
    const tn_comm_backend *backend;
    void *instance;
    const tn_device_api *api;
    void *device_instance;
    uint32_t n_ranks, n_devices; /* rank i is on device i % n_devices */
};

#define MEASURED_SUMS 3

/* Bytes of the all-reduces that are timed: of a decode step with one row and with several, and of a prompt. */
extern const uint64_t measured_sum_bytes[MEASURED_SUMS];

/* Median nanoseconds of an all-reduce of each size in float32. Fails as joining or the first call does. */
int32_t measure_sums(const struct measure_sums *m, double ns[MEASURED_SUMS], tn_err *err);

#endif
