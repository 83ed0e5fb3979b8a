/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory for the arrays of steps (tenon/batch.h), and moving them.
 *
 * On a device that computes in host memory there is one block, which kernels read in place. Any other device has a mirror
 * of it; two blocks of page-locked host memory take turns, so that the host can write the arrays of a step while
 * the step before still reads its own. The arrays of a step lie close together, so that they travel in one copy, and
 * what it samples comes back in one, if the device can by the same kernel that takes the next step's arrays in. Biases and
 * histories, which few steps have, lie apart and travel only if there are any.
 *
 * Used by the thread that runs the rank's steps.
 */
#ifndef CORE_LOOP_ARRAYS_H
#define CORE_LOOP_ARRAYS_H

#include "base/ledger.h"
#include "sched/batch.h"
#include "tenon/device.h"

#define STEP_SLOTS 2

/* The arrays of one step. */
struct step_slot {
    void *in, *out; /* host */
    struct batch_buffers buffers;
    uint64_t bytes; /* of `in` that the step uses, without biases and histories */
    uint64_t n_bias, n_history;
    uint32_t n_unknown; /* rows whose token the step before has */
    uint32_t n_logits;  /* without padding */
    int32_t *sampled;   /* in `out` */
    float *logprob;
    tn_batch_arrays host, dev;
    tn_batch_counts *counts;
    tn_batch batch;
};

struct step_arrays {
    const tn_device_api *api;
    tn_device *device;
    bool mirrored; /* the device does not compute in host memory */
    bool few;      /* it copies few bytes at once */
    struct batch_capacity capacity;
    uint64_t in_bytes, out_bytes;           /* of each block */
    uint64_t bias_at, value_at, history_at; /* where these lie in `in` */
    struct ledger_owner *own_host, *own_device;
    void *dev_in, *dev_out; /* of a mirrored device */
    uint32_t n_slots;
    struct step_slot slots[STEP_SLOTS];
    struct step_slot model; /* the batch of a captured step; its host addresses are never used */
};

/* Memory for any step of that capacity. On failure nothing is kept. */
int32_t step_arrays_init(struct step_arrays *a, const struct batch_capacity *capacity,
                         const tn_device_api *api, tn_device *device, const tn_device_info *info,
                         const char *place, struct ledger *ledger, tn_err *err);
void step_arrays_release(struct step_arrays *a); /* zeroed is allowed */

/* Bytes that step_arrays_init would take, of the host's and of the device's memory. */
void step_arrays_bytes(const struct sched *s, const tn_device_info *info, uint64_t *host,
                       uint64_t *device);

/* Fills slots[slot] for a step. bucket > 0: as a replay of the graph of that many rows reads it, padded to that. */
struct step_slot *step_arrays_fill(struct step_arrays *a, uint32_t slot, const struct sched *s,
                                   const struct sched_step *step, uint32_t bucket);

/* The same for a step, or a part of one, that stands in arrays of the host already, and takes no token from the step before.
 * NULL if there is no room for it, which is so only if it comes from a scheduler with other limits. */
struct step_slot *step_arrays_adopt(struct step_arrays *a, uint32_t slot, const tn_batch *batch,
                                    uint32_t bucket);

/* The batch to capture the graph of `bucket` rows with; valid until the next call. `max_context` of any sequence. */
const tn_batch *step_arrays_model(struct step_arrays *a, uint32_t block_tokens, uint32_t bucket,
                                  uint32_t max_context);

/* Fills slots[0] with nothing but padding, as a replay of `bucket` rows would read it. */
const struct step_slot *step_arrays_blank(struct step_arrays *a, uint32_t bucket);

/* Enqueues the copies between two steps: to the host what `from` sampled, and to the device what `to` reads. Either may be NULL.
 * Nothing to do unless mirrored. */
int32_t step_arrays_move(struct step_arrays *a, const struct step_slot *from,
                         const struct step_slot *to, tn_stream *stream, tn_err *err);

#endif
