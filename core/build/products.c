/* SPDX-License-Identifier: Apache-2.0 */
/* See products.h. Vectors of four, which any machine has, or of eight where the CPU multiplies them. Any thread. */
#include "build/products.h"

#include <pthread.h>

#include "plugin/cpu.h"
#include "plugin/os.h"
#include "tenon/cpu.h"

#define LANES PRODUCTS_LANES
#define MAX_THREADS 32
#define WORTH 4e7 /* operations that a thread is started for */

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

products_fn products_choose(void)
{
#ifdef HAS_AVX2
    uint64_t cpu[2];

    cpu_features(cpu);
    if ((cpu[0] & TN_CPU_X86_AVX2) == TN_CPU_X86_AVX2)
        return multiply_avx2;
#endif
    return multiply_any;
}

void products_share(void *(*work)(void *arg), void *arg, double operations)
{
    pthread_t threads[MAX_THREADS];
    uint32_t n = 0, most = os_cpu_count();

    most = most < MAX_THREADS ? most : MAX_THREADS;
    while (n + 1 < most && (double)(n + 1) * WORTH < operations &&
           pthread_create(&threads[n], NULL, work, arg) == 0)
        n++;
    work(arg);
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

void products_panels(const float *rows, uint64_t n_rows, uint64_t n, float *panels)
{
    for (uint64_t r = 0; r < n_rows; r++)
        for (uint64_t k = 0; k < n; k++)
            panels[(k / LANES * n_rows + r) * LANES + k % LANES] = rows[r * n + k];
}
