/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows are turned into panels of eight channels, so that a tile of the sum reads memory in order; tasks, four panels' rows
 * of the sum, are taken from a counter, longest first. Products of some hundred rows are summed up in registers before they
 * meet the sums: in float32 that keeps about six digits over 65,536 rows.
 */
#include "build/hessian.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "plugin/cpu.h"
#include "plugin/os.h"
#include "tenon/cpu.h"

#define LANES 8   /* rows and columns of the sum that are computed at once */
#define TASK 4    /* panels of a task */
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

/* sums[i][j] = sum over r < n of a[r][i] * b[r][j], all rows being LANES long. */
typedef void (*products_fn)(const float *a, const float *b, uint64_t n, float *sums);

/* GNU C: no vector of the standard is known to both compilers. */
typedef float four __attribute__((vector_size(16), may_alias));
typedef float eight __attribute__((vector_size(32), may_alias));

/* Four rows of the sums: as many as fit the registers that any machine has. */
static void multiply_four(const float *a, const float *b, uint64_t n, float *sums)
{
    four s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, t0 = {0}, t1 = {0}, t2 = {0}, t3 = {0};
    four *out = (four *)sums;

    for (uint64_t r = 0; r < n; r++, a += LANES, b += LANES) {
        four x = *(const four *)b, y = *(const four *)(b + 4);
        s0 += a[0] * x;
        t0 += a[0] * y;
        s1 += a[1] * x;
        t1 += a[1] * y;
        s2 += a[2] * x;
        t2 += a[2] * y;
        s3 += a[3] * x;
        t3 += a[3] * y;
    }
    out[0] = s0, out[1] = t0, out[2] = s1, out[3] = t1;
    out[4] = s2, out[5] = t2, out[6] = s3, out[7] = t3;
}

static void multiply_any(const float *a, const float *b, uint64_t n, float *sums)
{
    multiply_four(a, b, n, sums);
    multiply_four(a + 4, b, n, sums + 4 * LANES);
}

#if defined(__x86_64__)
#define HAS_AVX2 1
__attribute__((target("avx2,fma"))) static void multiply_avx2(const float *a, const float *b,
                                                              uint64_t n, float *sums)
{
    eight s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
    eight *out = (eight *)sums;

    for (uint64_t r = 0; r < n; r++, a += LANES, b += LANES) {
        eight x = *(const eight *)b;
        s0 += a[0] * x;
        s1 += a[1] * x;
        s2 += a[2] * x;
        s3 += a[3] * x;
        s4 += a[4] * x;
        s5 += a[5] * x;
        s6 += a[6] * x;
        s7 += a[7] * x;
    }
    out[0] = s0, out[1] = s1, out[2] = s2, out[3] = s3;
    out[4] = s4, out[5] = s5, out[6] = s6, out[7] = s7;
}
#endif

static products_fn choose_products(void)
{
#ifdef HAS_AVX2
    uint64_t cpu[2];

    cpu_features(cpu);
    if ((cpu[0] & TN_CPU_X86_AVX2) == TN_CPU_X86_AVX2)
        return multiply_avx2;
#endif
    return multiply_any;
}

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
    eight tile[LANES];
    float *sums = (float *)tile;
    uint64_t panel = t->n_rows * LANES;

    t->multiply(t->panels + i * panel, t->panels + p * panel, t->n_rows, sums);
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
                           .multiply = choose_products(),
                           .panels = panels,
                           .n_rows = count,
                           .n_tasks = (n_panels + TASK - 1) / TASK};
        /* A shorter last chunk leaves the channels beyond n at other places; they must be 0 there, too. */
        if (count < most)
            memset(panels, 0, bytes);
        turn_into_panels(rows + at * n, count, n, panels);
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
