/* SPDX-License-Identifier: Apache-2.0 */
/* Pseudo-random numbers for dummy weights, tests and hash seeds. Sampling uses Philox (tenon/batch.h). */
#ifndef CORE_BASE_RNG_H
#define CORE_BASE_RNG_H

#include <stdint.h>

/* SplitMix64 (Steele, Lea and Flood 2014): any seed is good, period 2^64. */
struct rng {
    uint64_t state;
};

static inline uint64_t rng_u64(struct rng *r)
{
    uint64_t z = (r->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Uniform in [0, n), n > 0, without modulo bias that matters (n is far below 2^64). */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return (uint64_t)(((__uint128_t)rng_u64(r) * n) >> 64);
}

/* Uniform in [0, 1). */
static inline float rng_unit(struct rng *r)
{
    return (float)(rng_u64(r) >> 40) * 0x1p-24f;
}

/* 64 bits from the operating system. */
uint64_t rng_entropy(void);

#endif
