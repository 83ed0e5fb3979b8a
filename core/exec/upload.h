/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Weights on their way to a device: threads read the engine's file into page-locked buffers of their own, from which the
 * device copies while they fill the next. So loading is bounded by the disk, the bus, or all processors together, never by
 * one of them. Dummy weights are made by the device, if a kernel set offers the op "dummy", else by the threads.
 *
 * One thread puts; what it puts is copied in order on the stream, as far as one put is concerned. Bytes of different puts
 * may arrive in any order until upload_flush.
 */
#ifndef CORE_EXEC_UPLOAD_H
#define CORE_EXEC_UPLOAD_H

#include "base/ledger.h"
#include "engine/engine.h"
#include "exec/select.h"
#include "tenon/device.h"

struct upload;

struct upload_options {
    const struct engine *engine;
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream; /* nobody else's until upload_flush or upload_close */
    struct ledger *ledger;
    uint32_t n_threads;
    const struct select_options
        *select; /* where a variant that makes dummy weights is looked for; NULL: none is */
};

/* A slice of a weight: `rows` pieces of `row_bytes`, `stride` apart, from byte `at` of the whole on. */
struct upload_slice {
    uint32_t weight;
    uint64_t at, rows, row_bytes, stride;
    bool zero; /* zeros instead: what other ranks have is not this one's */
};

int32_t upload_open(const struct upload_options *o, struct upload **out, tn_err *err);

/* Copies a slice to device memory, without gaps between rows. Returns before that has happened. */
int32_t upload_put(struct upload *u, const struct upload_slice *s, void *dst, tn_err *err);

/* Waits until all that was put has been enqueued on the stream. Reports the first error of any put; `u` is of no use then,
 * but for closing. */
int32_t upload_flush(struct upload *u, tn_err *err);

/* Waits for the stream and ends the threads. NULL is allowed. Errors not told yet are lost: flush first. */
void upload_close(struct upload *u);

#endif
