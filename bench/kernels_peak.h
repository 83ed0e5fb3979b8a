/* SPDX-License-Identifier: Apache-2.0 */
/* What the machine can do: loops that do nothing but read, or nothing but multiply and add. */
#ifndef BENCH_KERNELS_PEAK_H
#define BENCH_KERNELS_PEAK_H

#include <stdint.h>

enum peak {
    PEAK_F32,
    PEAK_BF16, /* products of bfloat16: VDPBF16PS, or float32 FMAs where that is missing */
    PEAK_INT8, /* VPDPBUSD, or VPMADDUBSW and VPMADDWD */
    PEAK_COUNT
};

/* The instruction that the peak is measured with on this machine; NULL: it has none (no AVX2). */
const char *peak_name(enum peak p);
/* Runs it many times on this thread, from registers; it does peak_flops(p) operations. */
void peak_run(enum peak p);
double peak_flops(enum peak p);

struct peak_read {
    const unsigned char *data; /* aligned to 64 bytes */
    uint64_t bytes;
};

/* Reads part `index` of `count` of a struct peak_read; fits tn_parallel_fn. */
void peak_read_part(void *arg, uint32_t index, uint32_t count);

/* -- Per instruction set, for kernels_peak.c ---------------------------------------------------- */

#define PEAK_STEPS 100000 /* a millisecond or less */
#define PEAK_CHAINS                                                                                \
    16 /* independent accumulators: more than latency times throughput of any of them */

void peak_run_avx2(enum peak p);
double peak_flops_avx2(enum peak p);
void peak_read_avx2(void *arg, uint32_t index, uint32_t count);
void peak_run_avx512(enum peak p);
void peak_read_avx512(void *arg, uint32_t index, uint32_t count);

#endif
