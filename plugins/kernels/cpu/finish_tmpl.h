/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to the sums of a tile: int8 scales, bias, activation, residual, store. Included once by each
 * isa_*.c file that has gemm kernels, after simd_*.h, simd_math.h and simd_tail.h. */

/* Sums of a tile as the kernel leaves them: [row][2][LANES]. */
union tile_sums {
    vf align; /* for aligned stores */
    float f[TILE_ROWS][2][LANES];
    int32_t i[TILE_ROWS][2][LANES]; /* int8 */
};

static CPU_INLINE vf finish_gate(const enum gemm_finish finish, vf gate, vf up)
{
    switch (finish) {
    case GEMM_SILU: return v_mul(v_silu(gate), up);
    case GEMM_GELU: return v_mul(v_gelu(gate), up);
    default: return v_mul(v_gelu_tanh(gate), up);
    }
}

/* Stores v at element `at` of a part's output, as far as the `left` elements of the row go. */
static CPU_INLINE void finish_store(const struct gemm *g, const enum gemm_finish finish, float *y,
                                    uint64_t at, uint64_t left, vf v)
{
    if (finish == GEMM_LOGITS) {
        v = v_mul(v, v_set1(g->factor));
        if (g->softcap > 0.0f)
            v = v_softcap(v, g->softcap);
    }
    if (finish == GEMM_ADD)
        v = v_add(v_load_some(g->addend + at, left), v);
    v_store_some(y + at, v, left);
}

/* Finishes `rows` rows from `first` on of a panel: packed columns from `packed` on, columns from `column` on of `part`.
 * `finish` is a constant where this is inlined. Sums are scaled if they are of int8 or e4m3, and get their bias. */
static CPU_INLINE void finish_rows(const struct gemm *g, const enum gemm_finish finish,
                                   const struct gemm_part *part, uint64_t packed, uint64_t column,
                                   uint32_t first, uint32_t rows, const union tile_sums *sums)
{
    const int gated = finish >= GEMM_SILU && finish <= GEMM_GELU_TANH, scaled = g->scale != NULL;
    const float *step = g->a_step;
    uint64_t at = first * part->width + column, left = part->width - column;
    vf scale[2], bias[2], v[2];

    for (int half = 0; half < 2; half++) {
        bias[half] = v_load(g->bias + packed + half * LANES);
        scale[half] = scaled ? v_load(g->scale + packed + half * LANES) : v_zero();
    }
    for (uint32_t r = 0; r < rows; r++, at += part->width) {
        CPU_UNROLL
        for (int half = 0; half < 2; half++) {
            v[half] = v_load(sums->f[r][half]);
            if (step)
                v[half] = v_mul(v_mul(v_set1(step[first + r]), scale[half]),
                                v_sum_i32(sums->i[r][half], g->offset + packed + half * LANES,
                                          g->a_rest[first + r]));
            else if (scaled)
                v[half] = v_mul(v[half], scale[half]);
            v[half] = v_add(v[half], bias[half]);
        }
        if (gated)
            v[0] = finish_gate(finish, v[0], v[1]);
        finish_store(g, finish, part->y, at, left, v[0]);
        if (!gated && left > LANES)
            finish_store(g, finish, part->y, at + LANES, left - LANES, v[1]);
    }
}

/* Asks for what finish_tile will read of a panel's columns: for one row these lines come straight from memory. */
static inline void finish_prefetch(const struct gemm *g, uint32_t panel)
{
    uint64_t packed = (uint64_t)panel * 2 * LANES;

    CPU_PREFETCH(g->bias + packed);
    if (g->scale)
        CPU_PREFETCH(g->scale + packed);
    if (g->a_step)
        CPU_PREFETCH(g->offset + packed);
}

/* Finishes `rows` rows from `first` on of panel `panel`. */
static void finish_tile(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t rows,
                        const union tile_sums *sums)
{
    const struct gemm_part *part = g->parts;
    uint64_t packed = (uint64_t)panel * 2 * LANES, column;

    while (part + 1 < g->parts + g->n_parts && panel >= part[1].first_panel)
        part++;
    column = (uint64_t)(panel - part->first_panel) * 2 * LANES;
    switch (g->finish) {
#define FINISH(finish, column)                                                                     \
    case finish: finish_rows(g, finish, part, packed, column, first, rows, sums); break;
        FINISH(GEMM_STORE, column)
        FINISH(GEMM_ADD, column)
        FINISH(GEMM_SILU, column / 2)
        FINISH(GEMM_GELU, column / 2)
        FINISH(GEMM_GELU_TANH, column / 2)
        FINISH(GEMM_LOGITS, column)
#undef FINISH
    }
}
