/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops other than matrix products: one table of them per instruction set.
 *
 * The functions work on one row (or head, or tile) at a time and know nothing of launches; rows.c,
 * attention.c and sample.c bring them the work. They may be called from any thread.
 */
#ifndef CPU_ISA_H
#define CPU_ISA_H

#include "cpu.h"

/* y[i] = f(a[i], b[i]); `param` is scale's factor or softcap's cap. */
enum map_kind {
    MAP_ADD,
    MAP_MUL,
    MAP_SILU,
    MAP_GELU,
    MAP_GELU_TANH,
    MAP_RELU,
    MAP_RELU2,
    MAP_SCALE,
    MAP_SOFTCAP,
    MAP_SILU_MUL, /* silu(a) * b */
    MAP_GELU_MUL,
    MAP_GELU_TANH_MUL,
};

/* A norm of rows; weights and bias are in the dtype of the engine. */
struct norm {
    uint64_t width, group; /* elements of a row, and those normalised together */
    const void *weight, *bias;
    uint32_t weight_dtype, bias_dtype;
    float eps, offset;
};

/* Queries of one kv head and a stretch of its cache, see attention_tmpl.h. */
struct attend;

struct isa {
    void (*map)(enum map_kind kind, float *y, const float *a, const float *b, uint64_t n,
                float param);

    /* The sum of a[i] * b[i]. */
    float (*dot)(const float *a, const float *b, uint64_t n);
    /* y[n] = factor * x[n], x of any float dtype, int8 or float8_e4m3; y of any float dtype. */
    void (*widen)(float *y, const void *x, uint32_t dtype, uint64_t n, float factor);
    void (*narrow)(void *y, uint32_t dtype, const float *x, uint64_t n);

    /* One row: y = norm(x), or, with an addend, sum = x + addend and y = norm(sum). */
    void (*rms_norm)(const struct norm *p, float *y, const float *x, const float *addend,
                     float *sum);
    void (*layer_norm)(const struct norm *p, float *y, const float *x);

    /* cosine[j] = mscale * cos(pos * freq[j]), sine likewise, for j < half. */
    void (*rope_angles)(float *cosine, float *sine, const float *freq, uint64_t half, float pos,
                        float mscale);
    /* Rotates one head: style "half", or "pairs" if `pairs`; elements from 2 * half to dim are copied. */
    void (*rope_head)(float *y, const float *x, const float *cosine, const float *sine,
                      uint64_t half, uint64_t dim, int pairs);

    /* y[n] = every run of `order` elements of x, which divides n, times the matrix of tenon/hadamard.h, whose signs `negative` has. */
    void (*hadamard)(float *y, const float *x, uint64_t n, uint64_t order,
                     const uint32_t *negative);

    /* Attention of the queries of `t` to one chunk of keys: t->score, t->largest, t->sum, t->mean. */
    void (*attend)(const struct attend *t);
    /* a[n] = a * by_a + b * by_b: merging two chunks. */
    void (*blend)(float *a, float by_a, const float *b, float by_b, uint64_t n);

    /* The largest of x[n]; NaN if any is NaN or +inf. */
    float (*largest)(const float *x, uint64_t n);
    /* The least i with x[i] == value, n if there is none. */
    uint64_t (*find)(const float *x, uint64_t n, float value);
    /* w[i] = exp((x[i] - from) / by), and their sum; w may be NULL, or x. */
    double (*exp_sum)(float *w, const float *x, uint64_t n, float from, float by);
};

extern const struct isa isa_avx2, isa_avx512;

#endif
