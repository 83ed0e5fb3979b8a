/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows are turned into panels of eight channels, so that a tile of the sum reads memory in order; tasks of four panels' rows
 * of the sum are taken from a counter, longest first. Products of some hundred rows are summed up in registers before they
 * meet the sums: in float32 that keeps about six digits over 65,536 rows.
 */
#include "build/hessian.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "plugin/os.h"

/* GNU C: no vector of the standard is known to both compilers. */
typedef float lanes __attribute__((vector_size(32), may_alias));

#define LANES 8
#define TILE 4    /* rows of the sum that are computed at once */
#define TASK 32   /* rows of the sum of a task */
#define CHUNK 256 /* rows of the value at a time */
#define MAX_THREADS 32
#define WORTH 4e7 /* operations that a thread is started for */

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
    const lanes *panels; /* [(n + 7) / 8][n_rows], channels beyond n are 0 */
    uint64_t n_rows;
    uint64_t n_tasks;
    atomic_uint_fast64_t next;
};

/* Rows i to i + 3 of the sum, columns of panel p. */
static void add_tile(const struct taking *t, uint64_t i, uint64_t p)
{
    const float *a = (const float *)(t->panels + i / LANES * t->n_rows) + i % LANES;
    const lanes *b = t->panels + p * t->n_rows;
    lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, sums[TILE];

    for (uint64_t r = 0; r < t->n_rows; r++, a += LANES) {
        s0 += a[0] * b[r];
        s1 += a[1] * b[r];
        s2 += a[2] * b[r];
        s3 += a[3] * b[r];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
    for (uint64_t k = 0; k < TILE && i + k < t->h->n; k++) {
        float *row = t->h->sum + (i + k) * (i + k + 1) / 2;
        for (uint64_t j = p * LANES; j < (p + 1) * LANES && j <= i + k; j++)
            row[j] += sums[k][j - p * LANES];
    }
}

static void *work(void *arg)
{
    struct taking *t = arg;
    uint64_t i;

    while ((i = atomic_fetch_add(&t->next, 1)) < t->n_tasks) {
        uint64_t from = (t->n_tasks - 1 - i) * TASK;
        for (uint64_t row = from; row < from + TASK && row < t->h->n; row += TILE)
            for (uint64_t p = 0; p <= row / LANES; p++)
                add_tile(t, row, p);
    }
    return NULL;
}

static void take_panels(struct taking *t)
{
    double work_done = (double)t->h->n * (double)t->h->n * (double)t->n_rows;
    pthread_t threads[MAX_THREADS];
    uint32_t n = 0, most = os_cpu_count();

    most = most < MAX_THREADS ? most : MAX_THREADS;
    while (n + 1 < most && (double)(n + 1) * WORTH < work_done &&
           pthread_create(&threads[n], NULL, work, t) == 0)
        n++;
    work(t);
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

static void turn_into_panels(const float *rows, uint64_t n_rows, uint64_t n, float *panels)
{
    for (uint64_t r = 0; r < n_rows; r++)
        for (uint64_t k = 0; k < n; k++)
            panels[(k / LANES * n_rows + r) * LANES + k % LANES] = rows[r * n + k];
}

int32_t hessian_take(struct hessian *h, const float *rows, uint64_t n_rows, tn_err *err)
{
    uint64_t n = h->n, n_panels = (n + LANES - 1) / LANES;
    uint64_t most = n_rows < CHUNK ? n_rows : CHUNK;
    lanes *panels;

    if (n_rows == 0)
        return TN_OK;
    panels = mem_aligned((size_t)(n_panels * most * sizeof *panels), 64);
    if (!panels)
        return err_nomem(err, "calibration");
    for (uint64_t at = 0; at < n_rows; at += most) {
        uint64_t count = n_rows - at < most ? n_rows - at : most;
        struct taking t = {
            .h = h, .panels = panels, .n_rows = count, .n_tasks = (n + TASK - 1) / TASK};
        /* A shorter last chunk leaves the channels beyond n at other places; they must be 0 there, too. */
        if (count < most)
            memset(panels, 0, (size_t)(n_panels * most * sizeof *panels));
        turn_into_panels(rows + at * n, count, n, (float *)panels);
        take_panels(&t);
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
