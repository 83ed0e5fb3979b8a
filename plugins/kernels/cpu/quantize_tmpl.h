/* SPDX-License-Identifier: Apache-2.0 */
/* int8 rows of linear.int8, exactly as ops.h defines them: q = round(x / step), step = max|x| / 127.
 * Included by isa_*.c files that have int8 kernels, after simd_*.h and simd_tail.h. */

/* The row's step, `fixed` if that is not 0; NaN if the row holds NaN or infinity, so that what comes of it is NaN. */
static float quantize_step(const float *x, uint64_t n, float fixed)
{
    vf largest = v_zero(), bad = v_zero();
    float worst;

    for (uint64_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i);
        largest = v_max(largest, v_abs(v));
        bad = v_fma(v, v_zero(), bad); /* 0 * inf and 0 * NaN are NaN, and stay */
    }
    worst = v_sum(bad);
    if (worst != 0.0f)
        return worst;
    return fixed > 0.0f ? fixed : v_largest(largest) / 127.0f;
}

static inline vf quantize_round(vf x, vf by)
{
    return v_max(v_min(v_div(x, by), v_set1(127.0f)), v_set1(-127.0f));
}

/* n values as int8, each with its bits xor `flip` (0x80: + 128); the last group is filled up with zeros. */
static inline void quantize_groups(uint32_t *group, const float *x, uint64_t n, float step,
                                   uint8_t flip)
{
    int8_t *q = (int8_t *)group;
    uint64_t i = 0, padded = (n + 3) / 4 * 4;
    vf by = v_set1(step);

    if (!(step > 0.0f)) {
        memset(q, 0, padded);
    } else {
        for (; i + LANES <= n; i += LANES)
            v_store_i8(q + i, quantize_round(v_load(x + i), by));
        if (i < n) {
            int8_t last[LANES];
            v_store_i8(last, quantize_round(v_load_n(x + i, n - i), by));
            memcpy(q + i, last, n - i);
        }
        memset(q + n, 0, padded - n);
    }
    for (uint64_t g = 0; g < padded / 4; g++)
        group[g] ^= 0x01010101u * flip;
}
