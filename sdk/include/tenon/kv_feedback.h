/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * The tables of a cache of float8_e4m3 as devices have them whose memory is not the host's: of kv_append's F (ops.h) what the first pass
 * takes, in float16, in the order in which a kernel that takes two runs at a time wants it. The host makes them of F when it loads an engine;
 * tests of kernels may, too.
 *
 * A block is what the eight errors j of a run ask of the eight elements i of an earlier one: F[8 run + j][8 of + i] at [i][j], 128 bytes.
 * Of a head there are first those of runs 1 and 0, then those of runs 3 and 2, and so on. Of runs 2 q + 1 and 2 q they are: run 2 q + 1 of
 * run 2 q; then, of runs 2 q - 1, ..., 0, what run 2 q + 1 asks of each, and behind it what run 2 q does. Elements that a head does not
 * have, where head_dim is no multiple of sixteen, are zeros.
 */
#ifndef TENON_KV_FEEDBACK_H
#define TENON_KV_FEEDBACK_H

#include <stdint.h>

#include "float.h"

/** Elements of a head that kv_append rounds at once, if it is told how errors are made good. */
#define TN_KV_FEEDBACK_RUN 8

/** Blocks before those of runs 2 q + 1 and 2 q. */
#define TN_KV_FEEDBACK_PAIR(q) (2 * (q) * (q) - (q))

/** Which block tells what run `run` asks of run `of`, of < run. */
#define TN_KV_FEEDBACK_BLOCK(run, of)                                                              \
    (TN_KV_FEEDBACK_PAIR((run) / 2) +                                                              \
     ((of) == (run) / 2 * 2 ? 0 : (run) / 2 * 4 - 2 * (of) - (run) % 2))

/** Bytes of a head's table: a multiple of 128. */
#define TN_KV_FEEDBACK_BYTES(head_dim) (TN_KV_FEEDBACK_PAIR(((head_dim) + 15) / 16) * 128)

/** What the error of element `j` asks of element `i`, of an earlier run, as float16; what is beyond its range is its largest number. */
static inline uint16_t tn_kv_feedback_entry(const float *table, uint64_t dim, uint64_t j,
                                            uint64_t i)
{
    float x = j < dim && i < dim ? table[j * dim + i] : 0.0f;

    return tn_f32_to_f16(x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x);
}

/** Makes a head's table of F [dim, dim]; `out` receives TN_KV_FEEDBACK_BYTES(dim) / 2 numbers. */
static inline void tn_kv_feedback_pack(const float *table, uint64_t dim, uint16_t *out)
{
    uint64_t runs = (dim + 15) / 16 * 2;

    for (uint64_t run = 1; run < runs; run++)
        for (uint64_t of = 0; of < run; of++) {
            uint16_t *to = out + TN_KV_FEEDBACK_BLOCK(run, of) * 64;
            for (uint64_t e = 0; e < 64; e++)
                to[e] = tn_kv_feedback_entry(table, dim, run * TN_KV_FEEDBACK_RUN + e % 8,
                                             of * TN_KV_FEEDBACK_RUN + e / 8);
        }
}

#endif
