/* SPDX-License-Identifier: Apache-2.0 */
/* Products with weights of 4 bits (linear.int4), alone and fused: ../common/narrow.c on this set's devices. */
#include "../common/narrow.h"

#include "hopper.h"

const struct cuda_code *narrow_code(void *instance, const tn_device *device, uint32_t dtype)
{
    struct hopper_instance *in = instance;
    uint32_t i = 0;

    (void)dtype;
    while (i + 1 < CUDA_MAX_DEVICES && in->devices[i].device != device)
        i++;
    return &in->devices[i].code[IMAGE_INT4];
}

const char *const int4_entries[] = {NARROW_NAMES("int4")};
const uint32_t n_int4_entries = N_NARROW_NAMES;

#define INT4(id, op, equals)                                                                       \
    NARROW_VARIANT(hopper_##id##_int4, #id "_int4.mma", op, equals, TN_DT_I4, 0, hopper_gpus,      \
                   narrow_can_run, NULL, narrow_launch)
NARROW_FORMS(INT4, "int4", TN_OP_LINEAR_INT4)
