/* SPDX-License-Identifier: Apache-2.0 */
/* What every comm backend must do, as one function that each rank of a group runs. */
#ifndef TESTS_COMM_CONTRACT_H
#define TESTS_COMM_CONTRACT_H

#include <stdbool.h>

#include "tenon/comm.h"

/* Where the buffers are: memory of a device, and the stream that calls are enqueued on. */
struct contract_memory {
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream;
    bool of_group; /* buffers lie in memory of the group (tn_comm_backend::memory), if it has any */
};

/* Runs all collectives and messages over sizes and dtypes, in place and not, and compares with what one rank computes.
 * `memory` NULL: the host's. TN_OK, the status of the call that failed, or TN_E_INTERNAL with what was wrong. */
int32_t contract_run(const tn_comm_backend *b, tn_comm_group *g, uint32_t rank, uint32_t n,
                     const struct contract_memory *memory, tn_err *err);

#endif
