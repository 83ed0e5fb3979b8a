/* SPDX-License-Identifier: Apache-2.0 */
/* Faults on demand, so that what happens when a rank fails can be tried on any machine: the plugin's own group of the
 * configuration says which rank misbehaves, how, in which call and from which call on. */
#ifndef COMM_COMMON_FAULT_H
#define COMM_COMMON_FAULT_H

#include "tenon/error.h"
#include "tenon/host.h"

enum fault_kind {
    FAULT_NONE,
    FAULT_DELAY, /* comes fault_ms late */
    FAULT_STALL, /* never comes, until the group is aborted */
    FAULT_DROP,  /* goes on as if it had taken part, but nobody hears of it */
    FAULT_FLIP,  /* one bit of what it contributes is wrong */
    FAULT_DEAD   /* fails at once, and in all later calls, telling nobody */
};

struct fault {
    uint32_t kind;  /* ::fault_kind */
    uint32_t rank;  /* in the whole run */
    uint64_t at;    /* which of the rank's calls, from 0 */
    uint64_t count; /* how many calls from there on; 0: all */
    uint64_t ms;
    char call[24]; /* only calls of this name are counted; "": all */
};

/* One setting of the group; TN_E_NOTFOUND if it is not one of the faults'. */
int32_t fault_setting(struct fault *f, const tn_kv *kv, tn_err *err);

/* What befalls a rank's call, of which it made `*calls` before; counts it. */
uint32_t fault_of(const struct fault *f, uint32_t rank, const char *call, uint64_t *calls);

#endif
