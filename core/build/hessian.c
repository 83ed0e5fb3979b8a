/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows are turned into panels of eight channels, so that a tile of the sum reads memory in order; tasks, four panels' rows
 * of the sum, are taken from a counter, longest first. Products of some hundred rows are summed up in registers before they
 * meet the sums: in float32 that keeps about six digits over 65,536 rows.
 */
#include "build/hessian.h"

#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "build/products.h"

#define LANES PRODUCTS_LANES /* rows and columns of the sum that are computed at once */
#define TASK 4               /* panels of a task */
#define CHUNK 256            /* rows of the value at a time */

uint64_t hessian_bytes(uint64_t n)
{
    uint64_t square;

    if (n > UINT32_MAX || !checked_mul(n, n + 1, &square) || square > UINT64_MAX / 2)
        return UINT64_MAX;
    return square / 2 * sizeof(float);
}

int32_t hessian_init(struct hessian *h, uint64_t n, tn_err *err)
{
    uint64_t bytes = hessian_bytes(n);

    *h = (struct hessian){.n = n};
    if (bytes <= SIZE_MAX / 2)
        h->sum = mem_zalloc((size_t)bytes);
    return h->sum ? TN_OK : err_nomem(err, "second moments between channels");
}

void hessian_release(struct hessian *h)
{
    mem_free(h->sum);
    *h = (struct hessian){.n = 0};
}

/* -- Taking rows in ------------------------------------------------------------------------------------ */

struct taking {
    struct hessian *h;
    products_fn multiply;
    const float *panels; /* [(n + 7) / 8][n_rows][LANES], channels beyond n are 0 */
    uint64_t n_rows;
    uint64_t n_tasks;
    atomic_uint_fast64_t next;
};

/* Rows of panel i of the sum, columns of panel p. */
static void add_tile(const struct taking *t, uint64_t i, uint64_t p)
{
    _Alignas(32) float tile[LANES * LANES];
    const float *sums = tile;
    uint64_t panel = t->n_rows * LANES;

    t->multiply(t->panels + i * panel, t->panels + p * panel, t->n_rows, tile);
    for (uint64_t k = i * LANES; k < (i + 1) * LANES && k < t->h->n; k++, sums += LANES) {
        float *row = t->h->sum + k * (k + 1) / 2 + p * LANES;
        for (uint64_t j = 0; j < LANES && p * LANES + j <= k; j++)
            row[j] += sums[j];
    }
}
static void *work(void *arg)
{
    struct taking *t = arg;
    uint64_t i;

    while ((i = atomic_fetch_add(&t->next, 1)) < t->n_tasks) {
        uint64_t from = (t->n_tasks - 1 - i) * TASK;
        for (uint64_t panel = from; panel < from + TASK && panel * LANES < t->h->n; panel++)
            for (uint64_t p = 0; p <= panel; p++)
                add_tile(t, panel, p);
    }
    return NULL;
}

int32_t hessian_take(struct hessian *h, const float *rows, uint64_t n_rows, tn_err *err)
{
    uint64_t n = h->n, n_panels = (n + LANES - 1) / LANES;
    uint64_t most = n_rows < CHUNK ? n_rows : CHUNK;
    size_t bytes = (size_t)(n_panels * most) * LANES * sizeof(float);
    float *panels;

    if (n_rows == 0)
        return TN_OK;
    panels = mem_aligned(bytes, 64);
    if (!panels)
        return err_nomem(err, "calibration");
    for (uint64_t at = 0; at < n_rows; at += most) {
        uint64_t count = n_rows - at < most ? n_rows - at : most;
        struct taking t = {.h = h,
                           .multiply = products_choose(),
                           .panels = panels,
                           .n_rows = count,
                           .n_tasks = (n_panels + TASK - 1) / TASK};
        /* A shorter last chunk leaves the channels beyond n at other places; they must be 0 there, too. */
        if (count < most)
            memset(panels, 0, bytes);
        products_panels(rows + at * n, count, n, panels);
        products_share(work, &t, (double)n * (double)n * (double)count);
    }
    mem_free(panels);
    h->n_rows += n_rows;
    return TN_OK;
}

void hessian_finish(struct hessian *h, const float *divide)
{
    double by = 1.0 / (double)(h->n_rows ? h->n_rows : 1);
    float *at = h->sum;

    for (uint64_t i = 0; i < h->n; i++)
        for (uint64_t j = 0; j <= i; j++, at++)
            *at =
                (float)((double)*at * by / (divide ? (double)divide[i] * (double)divide[j] : 1.0));
    h->finished = true;
}
