/* SPDX-License-Identifier: Apache-2.0 */
/*
 * linear.int4. Included once per kernel by an isa_*.c file, after simd_*.h and finish_tmpl.h, with these defined:
 *
 *   INT4_ID      name of the kernel: i4_avx2
 *   INT4_GFLOPS  prior speed of a core
 *   INT4_DOT(acc, w, a) adds to each int32 lane the products of two int16 of w and the two of the 4-byte group `a`
 *
 * Widening weights to float32 would cost more than reading them. So rows of x become int16, with a step per run of
 * weights that share a scale (g->run of them): an error of 2^-16 of the largest element of the run, below what
 * bfloat16 loses and near what float32 sums do. Products and sums of a run are exact in int32; scales follow in float32,
 * run after run.
 *
 * A panel has, per run: scales and zero points (plus 8, as int32) of its columns; then per 4 consecutive k two vectors of
 * 2 bytes per column. Byte p of a column has element p of the 4 in its low nibble, and p + 2 in the high one, both plus 8.
 */

#define INT4_JOIN_(a, b) a##b
#define INT4_JOIN(a, b) INT4_JOIN_(a, b)
#define INT4_FN(name) INT4_JOIN(name##_, INT4_ID)

/* Weights are asked for this far ahead of their use. */
#define INT4_AHEAD 4096

/* A run of x as pairs of int16 that lie `rows` apart; the end of the last is zero. Returns the step; *sum is that of what
 * was stored. */
static float INT4_FN(pack_run)(const float *x, uint64_t n, uint32_t *a, uint32_t rows, int32_t *sum)
{
    int16_t q[GEMM_MAX_RUN + 2 * LANES];
    vf most = v_zero(), bad = v_zero();
    float step, worst;

    for (uint64_t i = 0; i < n; i += LANES) {
        vf v = v_load_some(x + i, n - i);
        most = v_max(most, v_abs(v));
        bad = v_fma(v, v_zero(), bad); /* 0 * inf and 0 * NaN are NaN, and stay */
    }
    worst = v_sum(bad);
    step = v_largest(most) / 32767.0f;
    *sum = 0;
    memset(q + n, 0, 4 * sizeof *q);
    if (worst != 0.0f || !(step >= 1e-30f)) {
        memset(q, 0, n * sizeof *q);
        step = worst; /* NaN, or 0: so small that nothing is left */
    } else {
        vf by = v_set1(1.0f / step);
        for (uint64_t i = 0; i < n; i += LANES)
            v_store_i16(q + i, v_mul(v_load_some(x + i, n - i), by));
        for (uint64_t i = 0; i < n; i++)
            *sum += q[i];
    }
    for (uint64_t i = 0; i < (n + 3) / 4 * 2; i++)
        memcpy(&a[i * rows], q + 2 * i, sizeof *a);
    return step;
}

static void INT4_FN(pack_rows)(const struct gemm *g, uint32_t first, uint32_t last)
{
    uint64_t runs = g->k / g->run, pairs = gemm_run_steps(g->run), steps = runs * pairs;

    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), end = gemm_tile_row(g, tile + 1);
        for (uint32_t r = begin; r < end; r++)
            for (uint64_t i = 0; i < runs; i++)
                g->run_step[r * runs + i] = INT4_FN(pack_run)(
                    g->x + r * g->k + i * g->run, g->run,
                    g->a + begin * steps + i * pairs * (end - begin) + (r - begin), end - begin,
                    &g->run_sum[r * runs + i]);
    }
}

/* The sums of one run: acc[rows][2]. */
static CPU_INLINE void INT4_FN(run_sums)(const int rows, const unsigned char *w, const uint32_t *a,
                                         uint64_t quads, vi acc[][2])
{
    CPU_UNROLL
    for (int r = 0; r < rows; r++)
        acc[r][0] = acc[r][1] = (vi){0};
    for (uint64_t s = 0; s < quads; s++) {
        CPU_PREFETCH(w + INT4_AHEAD);
        CPU_UNROLL
        for (int v = 0; v < 2; v++) {
            vi both = v_load_words(w + v * 2 * LANES), low = v_low_nibbles(both),
               high = v_high_nibbles(both);
            CPU_UNROLL
            for (int r = 0; r < rows; r++) {
                acc[r][v] = INT4_DOT(acc[r][v], low, a[r]);
                acc[r][v] = INT4_DOT(acc[r][v], high, a[rows + r]);
            }
        }
        w += 4 * LANES;
        a += 2 * rows;
    }
}

/* The sums of `rows` rows from `first` on (a constant where this is inlined) and one panel. */
static CPU_INLINE void INT4_FN(tile)(const int rows, const struct gemm *g, const unsigned char *w,
                                     uint32_t first, union tile_sums *sums)
{
    uint64_t runs = g->k / g->run, pairs = gemm_run_steps(g->run);
    const uint32_t *a = g->a + first * runs * pairs;
    vi acc[GEMM_MAX_TILE_ROWS][2];

    CPU_UNROLL
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < 2; v++)
            v_store(sums->f[r][v], v_zero());
    for (uint64_t i = 0; i < runs; i++) {
        const float *scale = (const float *)w;
        const int32_t *zero = (const int32_t *)w + 2 * LANES;
        INT4_FN(run_sums)(rows, w + 16 * LANES, a, pairs / 2, acc);
        for (int r = 0; r < rows; r++) {
            vf step = v_set1(g->run_step[(first + (uint64_t)r) * runs + i]);
            int32_t sum = g->run_sum[(first + (uint64_t)r) * runs + i];
            for (int v = 0; v < 2; v++) {
                float *to = sums->f[r][v];
                vf exact = v_less_times(acc[r][v], zero + v * LANES, sum);
                v_store(to, v_fma(v_mul(step, v_load(scale + v * LANES)), exact, v_load(to)));
            }
        }
        w += 16 * LANES + pairs / 2 * 4 * LANES;
        a += pairs * (uint64_t)rows;
    }
}

/* Calls `tile` with a constant number of rows. */
static void INT4_FN(tile_of)(uint32_t rows, const struct gemm *g, const unsigned char *w,
                             uint32_t first, union tile_sums *sums)
{
    switch (rows) {
    case 1: INT4_FN(tile)(1, g, w, first, sums); break;
    case 2: INT4_FN(tile)(2, g, w, first, sums); break;
    case 3: INT4_FN(tile)(3, g, w, first, sums); break;
    case 4: INT4_FN(tile)(4, g, w, first, sums); break;
    case 5: INT4_FN(tile)(5, g, w, first, sums); break;
    case 6: INT4_FN(tile)(6, g, w, first, sums); break;
#if TILE_ROWS == 14
    case 7: INT4_FN(tile)(7, g, w, first, sums); break;
    case 8: INT4_FN(tile)(8, g, w, first, sums); break;
    case 9: INT4_FN(tile)(9, g, w, first, sums); break;
    case 10: INT4_FN(tile)(10, g, w, first, sums); break;
    case 11: INT4_FN(tile)(11, g, w, first, sums); break;
    case 12: INT4_FN(tile)(12, g, w, first, sums); break;
    case 13: INT4_FN(tile)(13, g, w, first, sums); break;
    case 14: INT4_FN(tile)(14, g, w, first, sums); break;
#endif
    default: break;
    }
}

static void INT4_FN(run)(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t last)
{
    const unsigned char *w = g->panels + panel * gemm_panel_bytes(g->kernel, g->k, g->run);
    union tile_sums sums;

    finish_prefetch(g, panel);
    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), rows = gemm_tile_row(g, tile + 1) - begin;
        INT4_FN(tile_of)(rows, g, w, begin, &sums);
        finish_tile(g, panel, begin, rows, &sums);
    }
}

const struct gemm_kernel INT4_JOIN(gemm_, INT4_ID) = {
    .weight_dtype = TN_DT_I4,
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .depth = 2,
    .group_bytes = 4,
    .gflops = INT4_GFLOPS,
    .pack_rows = INT4_FN(pack_rows),
    .run = INT4_FN(run),
};

#undef INT4_ID
#undef INT4_GFLOPS
#undef INT4_DOT
#undef INT4_JOIN_
#undef INT4_JOIN
#undef INT4_FN
#undef INT4_AHEAD
