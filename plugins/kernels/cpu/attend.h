/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention of some queries to one chunk of one kv head's cache: the unit that attention.c is built of.
 *
 * Chunks are cut at multiples of ATTEND_CHUNK positions of the sequence, whatever step, batch or worker
 * computes them, and are merged in ascending order; so the bits of a row depend on nothing but the row
 * and its context, be it decoded alone or part of a prompt.
 */
#ifndef CPU_ATTEND_H
#define CPU_ATTEND_H

#include "cpu.h"

#define ATTEND_CHUNK 512 /* keys that share a softmax maximum */
#define ATTEND_BLOCK 64  /* keys that are unpacked at a time; divides ATTEND_CHUNK */

#define ATTEND_ALIGN                                                                               \
    16 /* vectors are padded with zeros to a multiple of it, in scratch though not in the cache */

/* Queries are `count` vectors q[i] of `dim`; query i attends to keys [first[i], last[i]) of the chunk. */
struct attend {
    uint32_t count;
    uint32_t
        dim; /* of a vector in q, block and mean: `stored`, padded with zeros to ATTEND_ALIGN */
    uint32_t stored; /* of a key or value in the cache */
    const float *q;
    const uint32_t *first, *last;
    uint32_t begin, end; /* the union of those ranges; begin is a multiple of ATTEND_BLOCK */
    float scale, softcap;

    const unsigned char *const *keys; /* [end] where key j lies, from `begin` on ... */
    uint64_t value_offset;            /* ... and value j so many bytes behind it */
    uint32_t dtype;                   /* of keys and values */

    float *score; /* scratch [count][ATTEND_CHUNK] */
    float *block; /* scratch [ATTEND_BLOCK * dim] */

    float *largest; /* out [count]: largest score; -inf if the range is empty */
    float *sum;     /* out [count]: sum of p_j = exp(score_j - largest) */
    float *mean;    /* out [count][dim]: sum of p_j * v_j */
};

#endif
