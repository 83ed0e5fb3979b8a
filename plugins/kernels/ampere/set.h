/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel set "ampere", for compute capability 8.0 and up (tensor cores by mma.sync, asynchronous copies): what its
 * files share. Threads: as in tn_variant; an instance serves any number of devices.
 */
#ifndef PLUGINS_KERNELS_AMPERE_SET_H
#define PLUGINS_KERNELS_AMPERE_SET_H

#include "../common/narrow.h"
#include "args.h"
#include "tenon/host.h"

#define HALVES (TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))

/* Kernels by image, in the order of their enums. */
enum product_entry {
    ENTRY_GEMV_1 = 0, /* then per dtype: float32, float16, bfloat16 */
    ENTRY_GEMV_2 = 3,
    ENTRY_GEMV_4 = 6,
    ENTRY_SKINNY_8 = 9, /* then per dtype: float16, bfloat16 */
    ENTRY_SKINNY_16 = 11,
    ENTRY_SKINNY_32 = 13,
    ENTRY_SKINNY_64 = 15,
    N_PRODUCT_ENTRIES = 17
};

enum attention_entry {
    ENTRY_DECODE = 0,  /* then per head size 64, 128, 256: float16, bfloat16 */
    ENTRY_PREFILL = 6, /* likewise */
    N_ATTENTION_ENTRIES = 12
};

/* Over a cache of 8 bits: e4m3 first, then int8; per head size and dtype as above. */
enum attention8_entry { ENTRY_DECODE8 = 0, ENTRY_PREFILL8 = 12, N_ATTENTION8_ENTRIES = 24 };

/* Counters of arrivals at a sequence and kv head; more than these are not split. */
#define ARRIVALS 65536

/* The set on one device. */
struct set_device {
    tn_device *device; /* NULL: free */
    struct cuda_code products, int4, int8, fp8, attention, attention8;
    uint32_t *arrivals; /* [ARRIVALS] on the device, zero between launches */
};

struct ampere_instance {
    const tn_host *host;
    struct set_device devices[CUDA_MAX_DEVICES];
};

extern const tn_kernel_set ampere_kernel_set;

/* The set on a device that it is attached to. */
const struct set_device *ampere_device(void *instance, const tn_device *device);

/* products.c: linear, logits, and the fusions of products, by the op's name. */
int32_t products_can_run(void *instance, const tn_op *op, tn_err *err);
double products_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t products_launch(void *instance, const tn_launch *l, tn_err *err);

/* narrow.c: linear.int8 and what is fused with it, and logits.int8. */
int32_t int8_can_run(void *instance, const tn_op *op, tn_err *err);
int32_t int8_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                       uint32_t max_context, uint64_t *bytes, tn_err *err);
int32_t int8_launch(void *instance, const tn_launch *l, tn_err *err);

/* attention.c */
int32_t attention_can_run(void *instance, const tn_op *op, tn_err *err);
int32_t attention8_can_run(void *instance, const tn_op *op, tn_err *err);
double attention8_cost_ns(void *instance, const tn_op *op, uint32_t rows);
double attention_cost_ns(void *instance, const tn_op *op, uint32_t rows);
int32_t attention_workspace(void *instance, const tn_op *op, uint32_t max_rows, uint32_t max_seqs,
                            uint32_t max_context, uint64_t *bytes, tn_err *err);
int32_t attention_launch(void *instance, const tn_launch *l, tn_err *err);

#endif
