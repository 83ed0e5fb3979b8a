/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * The matrix of the op `hadamard` (ops.h): which order it has, and the signs of its elements.
 *
 * Of order b = m 2^k, m one of 1, 12, 20 and 28, it is the Kronecker product S (x) W, over sqrt(b). W is Sylvester's, of order
 * 2^k: (-1)^popcount(i & j). S, of order m, is of Paley's second kind (Paley 1933, "On orthogonal matrices"): with q = m / 2 - 1 and C
 * the symmetric conference matrix of order q + 1 whose elements are 0 on the diagonal, else 1 in the first row and column, else
 * 1 where the difference of the row's and the column's number in the field of q elements is a square, -1 where it is not,
 *     S = C (x) [1 1; 1 -1] + I (x) [1 -1; -1 -1].
 * Numbers of a field of 9 elements are 3 a + b for a i + b, i^2 = -1. Both factors are symmetric, so the whole is its own inverse.
 */
#ifndef TENON_HADAMARD_H
#define TENON_HADAMARD_H

#include <stdint.h>

/** The largest m. */
#define TN_HADAMARD_MOST 28

/** The order b for heads of `dim` elements: the largest that divides dim. At least 1. */
static inline uint32_t tn_hadamard_order(uint32_t dim)
{
    uint32_t power = dim & (~dim + 1), odd = dim / power;
    uint32_t times = odd % 7 == 0 ? 7 : odd % 5 == 0 ? 5 : odd % 3 == 0 ? 3 : 1;

    return power >= 4 ? times * power : power;
}

/** m of the order b. */
static inline uint32_t tn_hadamard_base(uint32_t order)
{
    uint32_t power = order & (~order + 1);

    return order == power ? 1 : order / power * 4;
}

/** Whether element (row, column) of C is negative; rows and columns but the first, of the field of q elements. */
static inline uint32_t tn_hadamard_no_square(uint32_t q, uint32_t row, uint32_t column)
{
    uint32_t squares = q == 5 ? 0x12 : q == 9 ? 0x4E : 0x161A; /* bit d: d is one */
    uint32_t d = q == 9 ? (row / 3 + 3 - column / 3) % 3 * 3 + (row % 3 + 3 - column % 3) % 3
                        : (row + q - column) % q;

    return ~squares >> d & 1;
}

/** S of order m by its signs: bit c of rows[r] is set where element (r, c) is negative. */
static inline void tn_hadamard_rows(uint32_t m, uint32_t rows[TN_HADAMARD_MOST])
{
    for (uint32_t r = 0; r < m; r++) {
        rows[r] = 0;
        for (uint32_t c = 0; c < m && m > 1; c++) {
            uint32_t i = r / 2, j = c / 2, both = r & c & 1, any = (r | c) & 1;
            uint32_t conference =
                i == 0 || j == 0 ? 0 : tn_hadamard_no_square(m / 2 - 1, i - 1, j - 1);
            rows[r] |= (i == j ? any : both ^ conference) << c;
        }
    }
}

#endif
