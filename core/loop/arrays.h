/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for the arrays of steps: one block on the host and, unless the device computes in host memory, its
 * mirror on the device, so that a step needs one copy each way. */
#ifndef CORE_LOOP_ARRAYS_H
#define CORE_LOOP_ARRAYS_H

#include "base/ledger.h"
#include "sched/batch.h"
#include "tenon/device.h"

struct step_arrays {
    const tn_device_api *api;
    tn_device *device;
    struct ledger_owner *owner;
    void *host_block;
    uint64_t bytes;
    struct batch_buffers buffers;
    int32_t *sampled;
    float *logprob;
    tn_batch_arrays host;
    tn_batch batch;
};

int32_t step_arrays_init(struct step_arrays *a, const struct sched *s, const tn_device_api *api,
                         tn_device *device, const char *place, struct ledger *ledger, tn_err *err);
void step_arrays_release(struct step_arrays *a); /* zeroed is allowed */

/* Fills the arrays for a step. */
void step_arrays_fill(struct step_arrays *a, const struct sched *s, const struct sched_step *step);

#endif
