/* SPDX-License-Identifier: Apache-2.0 */
/* Rows made so that quantizing them, or adding up what came of that, goes wrong if anything does: see cases.h. */
#include "cases.h"

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* The variant against the reference, both given what `got` holds; a device's may decline. */
static void compare_given(struct kit *k, const struct subject *s, const tn_op *op,
                          const tn_batch *b, struct env *got, uint32_t matrix)
{
    struct env want = *got;
    double tolerance = product_tolerance(s, matrix);

    if (s->v->gpus && !subject_takes(s, op, b))
        return;
    run_variant(k, s->plug, s->v, op, b, got);
    run_reference(k, s->reference, op, b, &want);
    expect_close(s->v, op, b, got, &want, tolerance, tolerance);
}

/* Rows full of numbers halfway between two steps of quantization: dividing by the step and multiplying by its
 * reciprocal round them differently. Rows of e4m3 have powers of two as steps. */
static void ties(const struct subject *s, uint32_t matrix)
{
    struct kit k;
    struct shape x = {.in_width = {128}, .linear_width = {48}, .matrix = matrix};
    uint32_t rows[] = {30}, context[] = {30};
    struct env got = {.kv = NULL};

    kit_init(&k, 4);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, s->v, &x);
    env_fill(&k, &got, op->in[0], b, 1.0f, false);
    for (uint32_t i = 0; i < 30 * 128; i++) {
        uint32_t c = i % 128, row = i / 128;
        float step = 0.01f * (1.0f + (float)row), t = (float)c - (c < 127 ? 0.5f : 0.0f);
        if (matrix == TN_DT_F8E4M3) { /* code 126 is the largest, 448 */
            t = 0.5f * (tn_f8e4m3_to_f32((uint8_t)c) + tn_f8e4m3_to_f32((uint8_t)(c + 1)));
            t = c < 126 ? t : 448.0f;
            step = ldexpf(1.0f, 8 * (int)row - 130); /* the first are below the smallest */
        }
        ((float *)got.data[op->in[0]->id])[i] = t * step;
    }
    compare_given(&k, s, op, b, &got, matrix);
    kit_free(&k);
}

/* Bit `i` of one of eight patterns. */
static bool is_set(uint64_t pattern, uint64_t i)
{
    static const uint8_t patterns[8] = {0x00, 0xff, 0x55, 0xaa, 0x33, 0xcc, 0x0f, 0x81};

    return patterns[pattern % 8] >> (i % 8) & 1;
}

/* The largest products there are, in all combinations of signs: what instructions sum up in 16 bits must not saturate. */
static void extremes(const struct subject *s)
{
    struct kit k;
    struct shape x = {.in_width = {128}, .linear_width = {48}, .matrix = TN_DT_I8};
    uint32_t rows[] = {24}, context[] = {24};
    struct env got = {.kv = NULL};

    kit_init(&k, 5);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, s->v, &x);
    const tn_weight *w = op->weights[0];
    for (uint64_t n = 0; n < w->dims[0]; n++)
        for (uint64_t i = 0; i < w->dims[1]; i++)
            ((int8_t *)w->data)[n * w->stride0 + i] = is_set(n, i) ? -128 : 127;
    env_fill(&k, &got, op->in[0], b, 1.0f, false);
    for (uint32_t i = 0; i < 24 * 128; i++)
        ((float *)got.data[op->in[0]->id])[i] = is_set(i / 128, i % 128) ? -1.0f : 1.0f;
    compare_given(&k, s, op, b, &got, TN_DT_I8);
    kit_free(&k);
}

/* Size of element i of a row of `width` in pattern `pattern`; `small` if it is none of the large ones. */
static float crowd_size(uint32_t pattern, uint32_t i, uint32_t width, float small)
{
    uint32_t eight = i / 8;
    bool large = i == 3; /* so that steps are 1 */

    switch (pattern) {
    case 0: break;
    case 1: large |= eight % 9 == 0 || i + 9 > width; break;   /* all of some eights, and the end */
    case 2: large |= eight % 7 == 2 && i % 4 < 2; break;       /* halves of their fours */
    case 3: large |= eight % 7 == 3 && i % 4 >= 2; break;      /* the other ones */
    case 4: large |= eight % 2 == 0; break;                    /* so many that no list takes them */
    case 5: large |= i % 8 == 5; break;                        /* many, none beside another */
    case 6: small = i % 8 == 0 || i % 8 == 2 ? 65 : 64; break; /* 257 in fours: just too large */
    default: large = true; break;
    }
    return large ? 127.0f : small;
}

/* Few and many large elements among small ones, in every place of the eight that a kernel may add up in 16 bits. */
static void crowds(const struct subject *s, uint32_t n_rows, uint32_t width)
{
    struct kit k;
    struct shape x = {.in_width = {width}, .linear_width = {49}, .matrix = TN_DT_I8};
    uint32_t rows[] = {n_rows}, context[] = {n_rows};
    struct env got = {.kv = NULL};

    kit_init(&k, width);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, s->v, &x);
    const tn_weight *w = op->weights[0];
    for (uint64_t n = 0; n < 8; n++)
        for (uint64_t i = 0; i < width; i++)
            ((int8_t *)w->data)[n * w->stride0 + i] = is_set(n, i / 4) ? -128 : 127;
    env_fill(&k, &got, op->in[0], b, 1.0f, false);
    for (uint32_t i = 0; i < n_rows * width; i++) {
        float *at = (float *)got.data[op->in[0]->id] + i;
        *at = copysignf(crowd_size(i / width * 5 % 8, i % width, width, floorf(30 * fabsf(*at))),
                        *at);
    }
    compare_given(&k, s, op, b, &got, TN_DT_I8);
    kit_free(&k);
}

/* One row, as one.cuh takes it: tiles of 32 rows that are one for each multiprocessor, with scales of the row's own and static ones,
 * or three, with other widths for one matrix than for three; the last stage is half one, and the last tile, too. */
void one_row_cases(const struct subject *s)
{
    if (!(s->v->weight_dtypes & (TN_DT_BIT(TN_DT_I8) | TN_DT_BIT(TN_DT_F8E4M3))))
        return;
    product_case(s, 1, 640, 6720, true);
    product_case(s, 1, 640, 12272, false);
    if (!s->v->equals || !HARNESS_SLOW)
        product_case(s, 1, 8576, 4080, true);
    if (HARNESS_SLOW)
        return;
    product_case(s, 1, 8320, 4096, true);
    product_case(s, 1, 8576, 2304, false);
    product_case(s, 1, 2176, 12288, false);
}

void quantized_cases(const struct subject *s)
{
    if (s->act != TN_DT_F32)
        return;
    if (is(s->v->op, TN_OP_LINEAR_INT8)) {
        ties(s, TN_DT_I8);
        extremes(s);
        crowds(s, 1, 524);
        crowds(s, 23, 524); /* an odd number of fours */
        crowds(s, 14, 1029);
    }
    if (is(s->v->op, TN_OP_LINEAR_FP8) && !(s->v->flags & TN_VARIANT_WIDE_ROWS))
        ties(s, TN_DT_F8E4M3);
}
