/* SPDX-License-Identifier: Apache-2.0 */
/* Element types of a checkpoint to those of an engine. */
#ifndef CORE_BUILD_CONVERT_H
#define CORE_BUILD_CONVERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Whether convert_elements knows the pair. Sources: float64, float32, float16, bfloat16. Targets: float32,
 * float16, bfloat16. */
bool convert_known(uint32_t from, uint32_t to);

/*
 * Converts n elements, rounding to nearest even. src and dst do not overlap. Returns the index of the first
 * finite element that becomes infinite in the narrower type, or n if all fit.
 */
size_t convert_elements(const void *src, uint32_t from, void *dst, uint32_t to, size_t n);

/* dst[c][r] = src[r][c] for `rows` rows of `cols` elements of `size` bytes: a block of dst rows
 * [begin, end), written from dst's start. */
void transpose_rows(const void *src, void *dst, size_t rows, size_t cols, size_t size, size_t begin,
                    size_t end);

#endif
