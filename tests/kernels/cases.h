/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Grids of shapes, by op, on which a variant is compared with the reference set: ragged batches, one row to hundreds,
 * widths that leave a remainder of every tile, contexts that cross pages.
 *
 * Tolerances. float32 sums of up to a few hundred products of size about 1 differ by reordering: 2e-5. Where
 * rows are rounded to bfloat16 first (VDPBF16PS), inputs that are bfloat16 already must meet the same bound, and
 * others 2e-2 (the product of two such sums 8e-2): 2^-9 relative per product. linear.int8 alone must be exact. Tensor
 * cores add products of e4m3 with some 14 bits, cutting off the rest: 1e-2. The cpu set rounds rows to int16 for linear.int4:
 * 2^-16 of 3, times weights of up to 0.4 * 15 / sqrt(width), is 1e-4 on average in the worst column; 6 times that, and 5e-3 where
 * another sum of up to 15 multiplies it. Rows in bfloat16 or float16 add what rounding to
 * them costs: see slack() in cases.c.
 */
#ifndef TESTS_KERNELS_CASES_H
#define TESTS_KERNELS_CASES_H

#include "compose.h"

/* A variant under test. */
struct subject {
    const struct plug *plug, *reference;
    const tn_variant *v;
    uint32_t act;  /* dtype of rows */
    uint32_t *ran; /* counts the cases, also those of other processes (check_util.h: test_turn) */
};

/* The same for a variant that adds up over ranks: not a bit may differ from the sum and the set's own ops behind it. */
void parts_cases(const struct subject *s);

/* The same for one that does a whole decoder layer. */
void layer_cases(const struct subject *s);

/* Products of quantized rows: ties, the largest sums, large elements side by side. For linear.int8 and linear.fp8. */
void quantized_cases(const struct subject *s);

/* `feed`; and embeddings of tokens that it completed, or that they complete by themselves (TN_VARIANT_FEEDS). */
void feed_cases(const struct subject *s);
void fed_cases(const struct subject *s);

/* Products of one row of 8 bits. */
void one_row_cases(const struct subject *s);

/* A product of random rows [rows, k_width] with matrices of n rows, of each dtype that the variant takes. */
void product_case(const struct subject *s, uint32_t rows, uint64_t k_width, uint64_t n, bool bias);

/* Caches of float8_e4m3 stored with feedback. For what appends to one. */
void shaped_cases(const struct subject *s);

/* How far, absolutely and relatively, a product with weights of dtype `matrix` may be from the reference's. */
double product_tolerance(const struct subject *s, uint32_t matrix);

/* Runs `s` and the reference on `op` with equal random inputs, of bfloat16 if that is `coarse`, and compares outputs and cache. What
 * a device's variant declines is passed over: the CPU's take everything here. */
void case_compare(struct kit *k, const struct subject *s, const tn_op *op, const tn_batch *b,
                  tn_kv_layer *kv, uint32_t coarse, double absolute, double relative);

/* Whether the variant can run `op` on `b`. */
bool subject_takes(const struct subject *s, const tn_op *op, const tn_batch *b);
/* Runs all cases for the op of the variant, and fails at the first that differs from the reference. */
void cases_of(const struct subject *s);

#endif
