/* SPDX-License-Identifier: Apache-2.0 */
/* Storing a head of a cache in float8_e4m3, for sets that compute in host memory: to the nearest, or with feedback
 * (kv_append in tenon/ops.h). Both sets that have it use this text, so that they store the same bits. Any thread. */
#ifndef PLUGINS_KERNELS_COMMON_KV_FEEDBACK_H
#define PLUGINS_KERNELS_COMMON_KV_FEEDBACK_H

#include <math.h>
#include <stdint.h>

#include "tenon/float.h"

#define KV_FEEDBACK_MAX_DIM 1024 /* head_dim: targets live on the stack; longer heads get none */

/* x [dim], `center` [dim] or NULL, `feedback` [dim, dim] or NULL; `to` receives dim bytes. */
static inline void kv_store_f8e4m3(uint8_t *to, const float *x, const float *center, float scale,
                                   const float *feedback, uint64_t dim)
{
    float target[KV_FEEDBACK_MAX_DIM];

    if (!feedback || dim > KV_FEEDBACK_MAX_DIM) {
        for (uint64_t i = 0; i < dim; i++)
            to[i] = tn_f32_to_f8e4m3((center ? x[i] - center[i] : x[i]) / scale);
        return;
    }
    for (uint64_t i = 0; i < dim; i++)
        target[i] = (center ? x[i] - center[i] : x[i]) / scale;
    for (uint64_t i = dim; i-- > 0;) {
        float y = (center ? x[i] - center[i] : x[i]) / scale, error;
        const float *row = feedback + i * dim;
        to[i] = tn_f32_to_f8e4m3(target[i]);
        error = tn_f8e4m3_to_f32(to[i]) - y;
        if (!(fabsf(error) <= 448.0f)) /* NaN, and what is far beyond the range */
            continue;
        for (uint64_t j = 0; j < i; j++)
            target[j] -= row[j] * error;
    }
}

#endif
