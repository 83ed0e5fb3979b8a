/* SPDX-License-Identifier: Apache-2.0 */
/* What happens to the sums of a tile: int8 scales, bias, activation, residual, store. Included once by each
 * isa_*.c file that has gemm kernels, after simd_*.h, simd_math.h and simd_tail.h. */

/* Sums of a tile as the kernel leaves them: [row][2][LANES]. */
union tile_sums {
    vf align; /* for aligned stores */
    float f[TILE_ROWS][2][LANES];
    int32_t i[TILE_ROWS][2][LANES]; /* int8 */
};

/* Sum `half` of row `row` of the tile, scaled if int8 or e4m3, plus bias. `column` is the packed one. */
static inline vf finish_sum(const struct gemm *g, const union tile_sums *sums, uint32_t row,
                            uint32_t half, uint64_t column, float step, int32_t rest)
{
    vf v = v_load(sums->f[row][half]);

    if (g->a_step) {
        v = v_sum_i32(sums->i[row][half], g->offset + column, rest);
        v = v_mul(v_mul(v_set1(step), v_load(g->scale + column)), v);
    } else if (g->scale) {
        v = v_mul(v, v_load(g->scale + column));
    }
    return v_add(v, v_load(g->bias + column));
}

static inline vf finish_gate(const struct gemm *g, vf gate, vf up)
{
    switch (g->finish) {
    case GEMM_SILU: return v_mul(v_silu(gate), up);
    case GEMM_GELU: return v_mul(v_gelu(gate), up);
    default: return v_mul(v_gelu_tanh(gate), up);
    }
}

/* Stores v as columns [column, column + LANES) of row `row` of a part, as far as it is wide. */
static inline void finish_store(const struct gemm *g, const struct gemm_part *part, uint64_t row,
                                uint64_t column, vf v)
{
    uint64_t at = row * part->width + column;
    uint64_t n = part->width - column;

    if (g->finish == GEMM_LOGITS) {
        v = v_mul(v, v_set1(g->factor));
        if (g->softcap > 0.0f)
            v = v_softcap(v, g->softcap);
    }
    if (g->finish == GEMM_ADD)
        v = v_add(v_load_some(g->addend + at, n), v);
    v_store_some(part->y + at, v, n);
}

/* Finishes `rows` rows from `first` on of panel `panel`. */
static void finish_tile(const struct gemm *g, uint32_t panel, uint32_t first, uint32_t rows,
                        const union tile_sums *sums)
{
    const struct gemm_part *part = g->parts;
    uint64_t packed = (uint64_t)panel * 2 * LANES, column;
    int gated = g->finish >= GEMM_SILU && g->finish <= GEMM_GELU_TANH;

    while (part + 1 < g->parts + g->n_parts && panel >= part[1].first_panel)
        part++;
    column = (uint64_t)(panel - part->first_panel) * (gated ? LANES : 2 * LANES);
    for (uint32_t r = 0; r < rows; r++) {
        float step = g->a_step ? g->a_step[first + r] : 0.0f;
        int32_t rest = g->a_step ? g->a_rest[first + r] : 0;
        vf v0 = finish_sum(g, sums, r, 0, packed, step, rest);
        vf v1 = finish_sum(g, sums, r, 1, packed + LANES, step, rest);
        if (gated) {
            finish_store(g, part, first + r, column, finish_gate(g, v0, v1));
            continue;
        }
        finish_store(g, part, first + r, column, v0);
        if (column + LANES < part->width)
            finish_store(g, part, first + r, column + LANES, v1);
    }
}
