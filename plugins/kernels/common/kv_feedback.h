/* SPDX-License-Identifier: Apache-2.0 */
/* Storing a head of a cache in float8_e4m3, for sets that compute in host memory: to the nearest, or with feedback
 * (kv_append in tenon/ops.h). Both sets that have it use this text, so that they store the same bits. Any thread. */
#ifndef PLUGINS_KERNELS_COMMON_KV_FEEDBACK_H
#define PLUGINS_KERNELS_COMMON_KV_FEEDBACK_H

#include <math.h>
#include <stdint.h>

#include "tenon/float.h"
#include "tenon/kv_feedback.h"

#define KV_FEEDBACK_MAX_DIM 1024 /* head_dim: targets live on the stack; longer heads get none */
#define KV_FEEDBACK_PASSES 2     /* after the first */

/* What is stored in the place of `y`; 0 for NaN, and for what is far beyond the range. */
static inline float kv_error(uint8_t stored, float y)
{
    float error = tn_f8e4m3_to_f32(stored) - y;

    return fabsf(error) <= 448.0f ? error : 0.0f;
}

/* A pass over elements that are stored already: each is rounded anew to what suits the errors of all others. pull[i] is the
 * sum of what these weigh with element i. */
static inline void kv_settle(uint8_t *to, const float *y, float *error, float *pull,
                             const float *weights, uint64_t dim)
{
    for (uint64_t i = dim; i-- > 0;) {
        const float *row = weights + i * dim;
        float changed, before = error[i];
        if (!(row[i] > 0.0f))
            continue;
        to[i] = tn_f32_to_f8e4m3(y[i] - pull[i] / row[i]);
        error[i] = kv_error(to[i], y[i]);
        changed = error[i] - before;
        if (!(fabsf(changed) > 0.0f)) /* most */
            continue;
        for (uint64_t j = 0; j < i; j++)
            pull[j] += weights[j * dim + i] * changed;
        for (uint64_t j = i + 1; j < dim; j++)
            pull[j] += row[j] * changed;
    }
}

/* The first pass, run by run from the last on: what the errors of a run ask of the elements before it. */
static inline void kv_shape(uint8_t *to, const float *y, float *error, const float *feedback,
                            uint64_t dim)
{
    float target[KV_FEEDBACK_MAX_DIM];

    for (uint64_t i = 0; i < dim; i++)
        target[i] = y[i];
    for (uint64_t end = dim; end > 0;) {
        uint64_t begin = (end - 1) / TN_KV_FEEDBACK_RUN * TN_KV_FEEDBACK_RUN;
        for (uint64_t i = begin; i < end; i++) {
            const float *row = feedback + i * dim;
            to[i] = tn_f32_to_f8e4m3(target[i]);
            error[i] = kv_error(to[i], y[i]);
            for (uint64_t j = 0; j < begin; j++)
                target[j] -= row[j] * error[i];
        }
        end = begin;
    }
}

static inline void kv_store_shaped(uint8_t *to, const float *y, const float *feedback, uint64_t dim)
{
    float error[KV_FEEDBACK_MAX_DIM], pull[KV_FEEDBACK_MAX_DIM];

    kv_shape(to, y, error, feedback, dim);
    for (uint64_t i = 0; i < dim; i++)
        pull[i] = 0.0f;
    for (uint64_t i = dim; i-- > 0;) {
        const float *row = feedback + i * dim;
        for (uint64_t j = i + 1; j < dim; j++) {
            pull[i] += row[j] * error[j];
            pull[j] += row[j] * error[i];
        }
    }
    for (int pass = 0; pass < KV_FEEDBACK_PASSES; pass++)
        kv_settle(to, y, error, pull, feedback, dim);
}

/* x [dim], `center` [dim] or NULL, `feedback` [dim, dim] or NULL; `to` receives dim bytes. */
static inline void kv_store_f8e4m3(uint8_t *to, const float *x, const float *center, float scale,
                                   const float *feedback, uint64_t dim)
{
    float y[KV_FEEDBACK_MAX_DIM];

    if (!feedback || dim > KV_FEEDBACK_MAX_DIM) {
        for (uint64_t i = 0; i < dim; i++)
            to[i] = tn_f32_to_f8e4m3((center ? x[i] - center[i] : x[i]) / scale);
        return;
    }
    for (uint64_t i = 0; i < dim; i++)
        y[i] = (center ? x[i] - center[i] : x[i]) / scale;
    kv_store_shaped(to, y, feedback, dim);
}

#endif
