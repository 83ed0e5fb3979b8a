/* SPDX-License-Identifier: Apache-2.0 */
/* What the machine can do: loops that do nothing but read, or nothing but multiply and add. */
#ifndef BENCH_KERNELS_PEAK_H
#define BENCH_KERNELS_PEAK_H

#include <stdint.h>

enum peak {
    PEAK_F32,  /* 512-bit FMA */
    PEAK_BF16, /* VDPBF16PS */
    PEAK_INT8, /* VPDPBUSD */
    PEAK_COUNT
};

/* Nonzero if this machine has the instruction. */
int peak_here(enum peak p);
/* Runs it many times on this thread, from registers; it does peak_flops(p) operations. */
void peak_run(enum peak p);
double peak_flops(enum peak p);

struct peak_read {
    const unsigned char *data;
    uint64_t bytes;
};

/* Reads part `index` of `count` of a struct peak_read; fits tn_parallel_fn. */
void peak_read_part(void *arg, uint32_t index, uint32_t count);

#endif
