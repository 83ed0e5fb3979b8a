/* SPDX-License-Identifier: Apache-2.0 */
/* How much workspace each op of the reference set needs. Any thread. */
#include <string.h>

#include "ref.h"

int32_t ref_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                      uint32_t max_context, uint64_t *bytes, tn_err *err)
{
    const char *name = op->name;

    (void)instance;
    (void)max_rows;
    (void)max_seqs;
    (void)err;
    *bytes = 0;
    if (strcmp(name, TN_OP_ATTENTION) == 0)
        *bytes = (uint64_t)max_context * sizeof(float); /* scores of one head of one row */
    else if (strcmp(name, TN_OP_SAMPLE) == 0)
        *bytes = op->in[0]->width * 20; /* sample.c: struct scratch */
    else if (strcmp(name, TN_OP_MOE_MLP) == 0)
        *bytes = (op->weights[0]->dims[1] + op->out[0]->width) * sizeof(float);
    else if (strcmp(name, TN_OP_LINEAR_INT8) == 0 || strcmp(name, TN_OP_LOGITS_INT8) == 0 ||
             strcmp(name, TN_OP_LINEAR_FP8) == 0)
        *bytes = op->in[0]->width * sizeof(float); /* the quantized row */
    return TN_OK;
}
