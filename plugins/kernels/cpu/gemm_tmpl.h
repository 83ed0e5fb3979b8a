/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inner loops of one struct gemm_kernel (gemm.h). Included once per kernel by an isa_*.c file, after
 * simd_*.h and finish_tmpl.h, with these defined:
 *
 *   GEMM_ID        name of the kernel: f32_avx512
 *   GEMM_DTYPE     dtype of the weights
 *   GEMM_UNSIGNED  1 if rows are packed as bytes + 128 (int8 only)
 *   GEMM_GFLOPS    prior speed of a core
 *   GEMM_DEPTH     consecutive k per group (1, 2, 4)
 *   GEMM_BYTES     bytes per weight
 *   GEMM_ACC       type of an accumulator vector: vf, or vi for int8
 *   GEMM_W         type of a vector of weights as loaded
 *   GEMM_LOAD_W(p) loads LANES groups of weights
 *   GEMM_STEP(acc, w, a) multiply-add of a vector of weights with the broadcast group `a`
 *   GEMM_GROUPS(dst, x, n, step) packs n values of x as groups; `step` is int8's quantization step
 *   GEMM_ROW_STEP(x, n, fixed) that step, `fixed` if that is not 0; 0 for other dtypes
 *
 *   GEMM_LOAD_STEP(w0, w1, p) loads two vectors of weights; optional
 *   GEMM_ROUNDS    1 if GEMM_GROUPS rounds x to the dtype of the weights; optional
 *
 * and, where it takes work to make of packed weights what GEMM_STEP multiplies, so that tiles had better share it:
 *
 *   GEMM_WIDE_BYTES       bytes per weight after that work
 *   GEMM_WIDE_LOAD(p)     loads LANES groups of such weights
 *   GEMM_WIDE_STORE(p, w) stores what GEMM_LOAD_W loaded
 */

#define GEMM_JOIN_(a, b) a##b
#define GEMM_JOIN(a, b) GEMM_JOIN_(a, b)
#define GEMM_FN(name) GEMM_JOIN(name##_, GEMM_ID)

#define GEMM_VECTOR_BYTES (LANES * GEMM_DEPTH * GEMM_BYTES)

/* Several rows: weights are asked for this far ahead of their use, which at full speed is the latency of memory. */
#define GEMM_AHEAD 8192
/* One row: nothing is, since memory is the limit, and asking costs some of it; so many steps to a turn of the loop. */
#define GEMM_TURN 4

#ifndef GEMM_ROUNDS
#define GEMM_ROUNDS 0
#endif

/* The two vectors of a step. */
#ifndef GEMM_LOAD_STEP
#define GEMM_LOAD_STEP(w0, w1, p) (w0 = GEMM_LOAD_W(p), w1 = GEMM_LOAD_W((p) + GEMM_VECTOR_BYTES))
#endif

/* Values packed at a time on the way from x to groups. */
#define GEMM_CHUNK 512

#ifdef GEMM_WIDE_BYTES
#define GEMM_HAS_WIDE 1
#else
#define GEMM_HAS_WIDE 0
#define GEMM_WIDE_BYTES GEMM_BYTES
#define GEMM_WIDE_LOAD(p) GEMM_LOAD_W(p)
#endif
#define GEMM_WIDE_VECTOR (LANES * GEMM_DEPTH * GEMM_WIDE_BYTES)

/* Packs one row of x into groups that lie `rows` apart. */
static void GEMM_FN(pack_row)(const float *x, uint64_t k, float step, uint32_t *a, uint32_t rows)
{
    uint32_t group[GEMM_CHUNK / GEMM_DEPTH];

    (void)step;
    for (uint64_t done = 0; done < k; done += GEMM_CHUNK) {
        uint64_t n = k - done < GEMM_CHUNK ? k - done : GEMM_CHUNK;
        uint64_t groups = (n + GEMM_DEPTH - 1) / GEMM_DEPTH;
        GEMM_GROUPS(group, x + done, n, step);
        for (uint64_t i = 0; i < groups; i++)
            a[i * rows] = group[i];
        a += groups * rows;
    }
}

static void GEMM_FN(pack_rows)(const struct gemm *g, uint32_t first, uint32_t last)
{
    uint64_t steps = gemm_steps(g->kernel, g->k, 0);

    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), end = gemm_tile_row(g, tile + 1);
        for (uint32_t r = begin; r < end; r++) {
            const float *x = gemm_row(g, r);
            float step = GEMM_ROW_STEP(x, g->k, g->act_scale);
            GEMM_FN(pack_row)
            (x, g->k, step, g->a + begin * steps + (r - begin), end - begin);
            if (g->a_step) {
                g->a_step[r] = step;
                g->a_rest[r] = 0;
            }
        }
    }
}

/* sum[rows][2][LANES] = from, or 0 if that is NULL, plus what `steps` steps of `rows` rows and one panel add. `rows` and
 * `wide`, whether weights are wide already, are constants where this is inlined. `ahead`: packed weights that will
 * be wanted next. */
static CPU_INLINE void GEMM_FN(tile)(const int rows, const int wide, const unsigned char *w,
                                     const unsigned char *ahead, const uint32_t *a, uint64_t steps,
                                     const void *from, void *sum)
{
    const uint64_t vector = wide ? GEMM_WIDE_VECTOR : GEMM_VECTOR_BYTES;
    GEMM_ACC acc[GEMM_MAX_TILE_ROWS][2];

    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        acc[r][0] = from ? ((const GEMM_ACC *)from)[2 * r] : (GEMM_ACC){0};
        acc[r][1] = from ? ((const GEMM_ACC *)from)[2 * r + 1] : (GEMM_ACC){0};
    }
    for (uint64_t s = 0; s < steps; s++) {
        GEMM_W w0, w1;
        if (wide)
            w0 = GEMM_WIDE_LOAD(w), w1 = GEMM_WIDE_LOAD(w + vector);
        else
            GEMM_LOAD_STEP(w0, w1, w);
        CPU_PREFETCH(ahead);
        if (2 * GEMM_VECTOR_BYTES > 64)
            CPU_PREFETCH(ahead + 64);
        ahead += 2 * GEMM_VECTOR_BYTES;
        w += 2 * vector;
        CPU_UNROLL
        for (int r = 0; r < rows; r++) {
            acc[r][0] = GEMM_STEP(acc[r][0], w0, a[r]);
            acc[r][1] = GEMM_STEP(acc[r][1], w1, a[r]);
        }
        a += rows;
    }
    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        ((GEMM_ACC *)sum)[2 * r] = acc[r][0];
        ((GEMM_ACC *)sum)[2 * r + 1] = acc[r][1];
    }
}

/* The same sums for one row, with nothing asked for ahead. */
static CPU_INLINE void GEMM_FN(row)(const unsigned char *w, const uint32_t *a, uint64_t steps,
                                    GEMM_ACC sum[2])
{
    GEMM_ACC acc[2] = {{0}, {0}};
    GEMM_W w0, w1;
    uint64_t s = 0;

#define GEMM_ROW_STEPS(n)                                                                          \
    CPU_UNROLL                                                                                     \
    for (int i = 0; i < (n); i++, w += 2 * GEMM_VECTOR_BYTES, a++) {                               \
        GEMM_LOAD_STEP(w0, w1, w);                                                                 \
        acc[0] = GEMM_STEP(acc[0], w0, *a);                                                        \
        acc[1] = GEMM_STEP(acc[1], w1, *a);                                                        \
    }
    for (; s + GEMM_TURN <= steps; s += GEMM_TURN) {
        GEMM_ROW_STEPS(GEMM_TURN)
    }
    for (; s < steps; s++) {
        GEMM_ROW_STEPS(1)
    }
#undef GEMM_ROW_STEPS
    sum[0] = acc[0];
    sum[1] = acc[1];
}

/* Calls `tile` with a constant number of rows. */
static CPU_INLINE void GEMM_FN(tile_of)(uint32_t rows, const int wide, const unsigned char *w,
                                        const unsigned char *ahead, const uint32_t *a,
                                        uint64_t steps, const void *from, void *sum)
{
    switch (rows) {
    case 1: GEMM_FN(tile)(1, wide, w, ahead, a, steps, from, sum); break;
    case 2: GEMM_FN(tile)(2, wide, w, ahead, a, steps, from, sum); break;
    case 3: GEMM_FN(tile)(3, wide, w, ahead, a, steps, from, sum); break;
    case 4: GEMM_FN(tile)(4, wide, w, ahead, a, steps, from, sum); break;
    case 5: GEMM_FN(tile)(5, wide, w, ahead, a, steps, from, sum); break;
    case 6: GEMM_FN(tile)(6, wide, w, ahead, a, steps, from, sum); break;
#if TILE_ROWS == 14
    case 7: GEMM_FN(tile)(7, wide, w, ahead, a, steps, from, sum); break;
    case 8: GEMM_FN(tile)(8, wide, w, ahead, a, steps, from, sum); break;
    case 9: GEMM_FN(tile)(9, wide, w, ahead, a, steps, from, sum); break;
    case 10: GEMM_FN(tile)(10, wide, w, ahead, a, steps, from, sum); break;
    case 11: GEMM_FN(tile)(11, wide, w, ahead, a, steps, from, sum); break;
    case 12: GEMM_FN(tile)(12, wide, w, ahead, a, steps, from, sum); break;
    case 13: GEMM_FN(tile)(13, wide, w, ahead, a, steps, from, sum); break;
    case 14: GEMM_FN(tile)(14, wide, w, ahead, a, steps, from, sum); break;
#endif
    default: break;
    }
}

#if GEMM_HAS_WIDE
/* Wide weights of this many bytes stay in the L1 cache while the rows of tiles pass by ... */
#define GEMM_WIDE_BLOCK 16384
#define GEMM_WIDE_STEPS (GEMM_WIDE_BLOCK / (2 * GEMM_WIDE_VECTOR))
/* ... of this many tiles, whose sums wait meanwhile. That changes neither the order nor the rounding of a sum. */
#define GEMM_WIDE_TILES 40

/* Likewise for several tiles, by blocks of steps. */
static void GEMM_FN(run_wide)(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t last)
{
    uint64_t steps = gemm_steps(g->kernel, g->k, 0);
    const unsigned char *w = g->panels + panel * gemm_panel_bytes(g->kernel, g->k, 0);
    _Alignas(64) unsigned char wide[GEMM_WIDE_BLOCK];
    union tile_sums sums[GEMM_WIDE_TILES];

    for (uint64_t s = 0; s < steps; s += GEMM_WIDE_STEPS) {
        uint64_t n = steps - s < GEMM_WIDE_STEPS ? steps - s : GEMM_WIDE_STEPS;
        for (unsigned char *to = wide; to < wide + 2 * n * GEMM_WIDE_VECTOR;
             w += 2 * GEMM_VECTOR_BYTES) {
            GEMM_W w0, w1;
            GEMM_LOAD_STEP(w0, w1, w);
            GEMM_WIDE_STORE(to, w0);
            GEMM_WIDE_STORE(to + GEMM_WIDE_VECTOR, w1);
            to += 2 * GEMM_WIDE_VECTOR;
        }
        for (uint32_t tile = first; tile < last; tile++) {
            uint32_t begin = gemm_tile_row(g, tile), rows = gemm_tile_row(g, tile + 1) - begin;
            union tile_sums *sum = &sums[tile - first];
            GEMM_FN(tile_of)
            (rows, 1, wide, w, g->a + begin * steps + s * rows, n, s ? sum : NULL, sum);
        }
    }
    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile);
        finish_tile(g, panel, begin, gemm_tile_row(g, tile + 1) - begin, &sums[tile - first]);
    }
}
#endif

static void GEMM_FN(run)(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t last)
{
    uint64_t steps = gemm_steps(g->kernel, g->k, 0);
    const unsigned char *w = g->panels + panel * gemm_panel_bytes(g->kernel, g->k, 0);
    const uint32_t *a = g->a;
    union tile_sums sums;

    finish_prefetch(g, panel);
#if GEMM_HAS_WIDE
    while (last - first > 1) {
        uint32_t end = last - first < GEMM_WIDE_TILES ? last : first + GEMM_WIDE_TILES;
        GEMM_FN(run_wide)(g, panel, first, end);
        first = end;
    }
#endif
    for (uint32_t tile = first; tile < last; tile++) {
        uint32_t begin = gemm_tile_row(g, tile), rows = gemm_tile_row(g, tile + 1) - begin;
        if (rows == 1)
            GEMM_FN(row)(w, a + begin * steps, steps, (GEMM_ACC *)(void *)&sums);
        else
            GEMM_FN(tile_of)(rows, 0, w, w + GEMM_AHEAD, a + begin * steps, steps, NULL, &sums);
        finish_tile(g, panel, begin, rows, &sums);
    }
}

const struct gemm_kernel GEMM_JOIN(gemm_, GEMM_ID) = {
    .weight_dtype = GEMM_DTYPE,
    .lanes = LANES,
    .tile_rows = TILE_ROWS,
    .depth = GEMM_DEPTH,
    .group_bytes = sizeof(uint32_t),
    .unsigned_rows = GEMM_UNSIGNED,
    .rounds = GEMM_ROUNDS,
    .gflops = GEMM_GFLOPS,
    .pack_rows = GEMM_FN(pack_rows),
    .run = GEMM_FN(run),
};

#undef GEMM_ID
#undef GEMM_DTYPE
#undef GEMM_ROUNDS
#undef GEMM_GFLOPS
#undef GEMM_UNSIGNED
#undef GEMM_DEPTH
#undef GEMM_BYTES
#undef GEMM_ACC
#undef GEMM_W
#undef GEMM_LOAD_W
#undef GEMM_LOAD_STEP
#undef GEMM_STEP
#undef GEMM_GROUPS
#undef GEMM_ROW_STEP
#undef GEMM_JOIN_
#undef GEMM_JOIN
#undef GEMM_FN
#undef GEMM_VECTOR_BYTES
#undef GEMM_AHEAD
#undef GEMM_TURN
#undef GEMM_CHUNK
#undef GEMM_HAS_WIDE
#undef GEMM_WIDE_BYTES
#undef GEMM_WIDE_LOAD
#undef GEMM_WIDE_STORE
#undef GEMM_WIDE_VECTOR
#undef GEMM_WIDE_BLOCK
#undef GEMM_WIDE_STEPS
#undef GEMM_WIDE_TILES
