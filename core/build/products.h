/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of float32 matrices on the host, in tiles of eight by eight: what calibration needs of arithmetic. A panel holds
 * eight rows of a matrix so that a tile reads memory in order: [n][PRODUCTS_LANES].
 */
#ifndef CORE_BUILD_PRODUCTS_H
#define CORE_BUILD_PRODUCTS_H

#include <stdint.h>

#define PRODUCTS_LANES 8

/* sums[i][j] = sum over r < n of a[r][i] * b[r][j], all rows being PRODUCTS_LANES long; all three aligned to 32 bytes. */
typedef void (*products_fn)(const float *a, const float *b, uint64_t n, float *sums);

/* The fastest that this CPU has. */
products_fn products_choose(void);

/* panels[c / LANES][r][c % LANES] = rows[r][c] for n_rows rows of n columns; the last panel's columns beyond n stay as they are. */
void products_panels(const float *rows, uint64_t n_rows, uint64_t n, float *panels);

/* Calls work(arg) on this thread and as many others as so many operations are worth; returns when all have. `work` takes
 * tasks from a counter of its own. */
void products_share(void *(*work)(void *arg), void *arg, double operations);

#endif
