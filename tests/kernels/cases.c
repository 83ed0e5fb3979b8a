/* SPDX-License-Identifier: Apache-2.0 */
/* The grids of shapes of cases.h. One thread. */
#include "cases.h"

#include <math.h>

#include "tenon/noise.h"

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* Rows are rounded to bfloat16 on the way. */
static uint32_t rounds_rows(const tn_variant *v)
{
    return v->cpu[0] & TN_CPU(AVX512BF16) ? TN_DT_BF16 : 0;
}

/* What rounding to `dtype` may cost an element of the size that the cases have, relative and absolute: intermediates
 * of a composition are rounded by the reference and need not be by a fused op, and probabilities that meet values on
 * tensor cores are rounded to the dtype of the rows. A handful of roundings of 2^-9 or 2^-12 each. */
static double slack(uint32_t dtype)
{
    return dtype == TN_DT_BF16 ? 2e-2 : dtype == TN_DT_F16 ? 3e-3 : 0.0;
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

bool subject_takes(const struct subject *s, const tn_op *op, const tn_batch *b)
{
    const tn_variant *v = s->v;
    tn_err err = TN_ERR_INIT;
    uint32_t rows = 0;

    for (uint32_t i = 0; i < op->n_out; i++)
        rows = op->out[i]->kind == TN_VALUE_LOGITS ? b->n_logits : b->n_rows;
    for (uint32_t i = 0; i < v->n_ranges; i++)
        if (is(v->ranges[i].dim, "rows") && (rows < v->ranges[i].min || rows > v->ranges[i].max))
            return false;
    return !v->can_run || v->can_run(s->plug->instance, op, &err) == TN_OK;
}

/* How far an element of the cache may be from `want`. What was rotated on the way may be rounded, and cells of 8 bits are
 * coarse: a step of them is allowed, and what rounding rows of up to 8 costs in units of the smallest scale. */
static double cache_slack(const struct subject *s, const tn_kv_layer *kv, double want)
{
    double rounding = s->act == TN_DT_BF16 ? 0x1p-7 : s->act == TN_DT_F16 ? 0x1p-10 : 1e-5;
    double step = kv->dtype == TN_DT_I8 ? 1.0 : larger(fabs(want) / 8, 0x1p-9), unit = INFINITY;

    if (tn_dtype_bits(kv->dtype) != 8)
        return larger(larger(1e-5, slack(kv->dtype)), slack(s->act)) * larger(1.0, fabs(want));
    if (!s->v->equals)
        return 0.0;
    for (uint32_t h = 0; h < kv->n_kv_heads; h++)
        unit = fmin(unit, (double)kv->k_scale[h]);
    return step + rounding / unit;
}

void case_compare(struct kit *k, const struct subject *s, const tn_op *op, const tn_batch *b,
                  tn_kv_layer *kv, uint32_t coarse, double absolute, double relative)
{
    struct env got = {.kv = kv}, want = {.kv = kv ? kit_kv_copy(k, kv) : NULL};

    if (s->v->gpus && !subject_takes(s, op, b))
        return;
    (*s->ran)++;
    if (!test_turn())
        return;
    for (uint32_t i = 0; i < op->n_in; i++) {
        env_fill(k, &got, op->in[i], b, 3.0f, coarse);
        want.data[op->in[i]->id] = got.data[op->in[i]->id];
    }
    run_variant(k, s->plug, s->v, op, b, &got);
    run_reference(k, s->reference,
                  s->v->flags & TN_VARIANT_WIDE_ROWS ? compose_wide_rows(k, op) : op, b, &want);
    expect_close(s->v, op, b, &got, &want, larger(absolute, slack(s->act)),
                 larger(relative, slack(s->act)));
    for (uint64_t i = 0; kv && i < kv_bytes(kv) / (tn_dtype_bits(kv->dtype) / 8); i++) {
        tn_value element = {.dtype = kv->dtype};
        double x = (double)value_at(&element, got.kv->base, i);
        double y = (double)value_at(&element, want.kv->base, i);
        expect((isnan(x) && isnan(y)) || fabs(x - y) <= cache_slack(s, kv, y),
               "%s: element %llu of the cache is %g, not %g", s->v->name, (unsigned long long)i, x,
               y);
    }
}

/* -- Matrix products ------------------------------------------------------------------------------- */

/* Static scales that clip some elements, or those of the rows. */
static double act_scale_for(uint32_t matrix, uint32_t rows, uint64_t k_width)
{
    bool is_static = rows % 3 == 0 || k_width % 640 == 0;

    if (matrix == TN_DT_F8E4M3)
        return is_static ? 0.005 : 0.0;
    return matrix == TN_DT_I8 && is_static ? 0.02 : 0.0;
}

/* The largest group of int4 weights that kernels like, or all inputs as one. */
static uint64_t group_for(uint64_t width)
{
    for (uint64_t group = 128; group >= 8; group /= 2)
        if (width % group == 0)
            return group;
    return width;
}

static bool makes_logits(const tn_variant *v)
{
    return strncmp(v->op, TN_OP_LOGITS, strlen(TN_OP_LOGITS)) == 0;
}

double product_tolerance(const struct subject *s, uint32_t matrix)
{
    if (matrix == TN_DT_I8 && !s->v->equals)
        return makes_logits(s->v) ? 2e-6 : 0.0; /* of tanh every set has its own */
    /* Rows between a pair of products are rounded elsewhere than in the reference. */
    if (strstr(s->v->op, "add_norm"))
        return 5e-2;
    /* The library's matrices are widened to 16 bits: of half a million elements, one is off by nine times what most are. */
    if (matrix == TN_DT_I4 && strstr(s->v->name, ".cublaslt"))
        return larger(2e-5, 1.75 * slack(s->act));
    if (matrix == TN_DT_I4 && !s->v->gpus)
        return s->v->equals && strstr(s->v->equals, "mul") ? 5e-3 : 6e-4;
    /* Sums of e4m3 on tensor cores have few bits. */
    return matrix == TN_DT_F8E4M3 && s->v->gpus && !(s->v->flags & TN_VARIANT_WIDE_ROWS) &&
                   !strstr(s->v->name, ".cuda")
               ? 1e-2
               : 2e-5;
}

static void product_case_of(const struct subject *s, uint32_t matrix, uint32_t rows,
                            uint64_t k_width, uint64_t n, bool bias)
{
    struct kit k;
    struct shape x = {.in_width = {k_width, n},
                      .linear_width = {n, n, n, n},
                      .act = s->act,
                      .matrix = matrix,
                      .bias = bias};
    uint32_t seq_rows[] = {rows}, context[] = {rows + 3};
    double absolute = product_tolerance(s, matrix);
    tn_batch *b;

    kit_init(&k, rows * 1000003u + k_width * 131u + n);
    x.vector = bias && rows % 2 ? TN_DT_BF16 : TN_DT_F32;
    x.gap = rows % 3 * (s->v->gpus ? 16 : 12);
    x.softcap = rows % 2 ? 3.0 : 0.0;
    x.scale = makes_logits(s->v) ? 0.7 : 0.0;
    if (makes_logits(s->v) && s->v->gpus && x.softcap > 0.0) /* their tanhf is not the host's */
        absolute = larger(absolute, 2e-5);
    x.act_scale = act_scale_for(matrix, rows, k_width);
    x.quant_group = s->v->gpus && rows % 4 == 0 ? k_width : group_for(k_width);
    x.zero = rows % 2;
    if (strstr(s->v->op, "qkv")) { /* three different widths, aligned if n is */
        x.linear_width[1] = n % 32 ? n / 3 + 1 : n / 2;
        x.linear_width[2] = n % 32 ? n / 4 + 1 : n / 4;
    }
    if (strstr(s->v->op, "_linear.") && !strstr(s->v->op, "norm_")) /* both halves of a gate */
        x.in_width[1] = k_width;
    b = kit_batch(&k, 1, seq_rows, context, 16, 50, rows != 7);
    case_compare(&k, s, compose(&k, s->v, &x), b, NULL, rounds_rows(s->v), absolute, absolute);
    if (rounds_rows(s->v) == TN_DT_BF16)
        case_compare(&k, s, compose(&k, s->v, &x), b, NULL, false,
                     strstr(s->v->op, "gate") ? 8e-2 : 2e-2, 1e-2);
    kit_free(&k);
}

void product_case(const struct subject *s, uint32_t rows, uint64_t k_width, uint64_t n, bool bias)
{
    for (uint32_t matrix = 0; matrix < TN_DT_COUNT; matrix++)
        if (s->v->weight_dtypes & TN_DT_BIT(matrix))
            product_case_of(s, matrix, rows, k_width, n, bias);
}

/* What only kernels for devices care about: all sides of their tiles, with widths that loads of 16 bytes fit. */
static void aligned_product_cases(const struct subject *s)
{
    static const uint32_t rows[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 63, 64, 65, 128, 256};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        product_case(s, rows[i], 264 + 8 * (rows[i] % 3), 96 + 64 * (rows[i] % 2), i % 2 == 0);
        if (s->v->weight_dtypes & TN_DT_BIT(TN_DT_I4)) /* groups of 128, 32 and 64, or one */
            product_case(s, rows[i], 256 + 32 * (rows[i] % 3), 95 + 64 * (rows[i] % 2), i % 2);
    }
    product_case(s, 7, 272, 104, false); /* logits of the last row alone */
    product_case(s, 26, 272, 96, true);
    product_case(s, 100, 272, 160, true);
    product_case(s, 300, 272, 160, true); /* more than kernels for few rows take in two runs */
    if (HARNESS_SLOW)
        return;
    product_case(s, 300, 32, 6528, false); /* tiles enough for the widest to be chosen */
    /* Tiles enough that none is split, and more of K than is on its way at a time; the last tile is half one. */
    product_case(s, 64, 1032, 7712, false);
    product_case(s, 256, 1160, 2240, false);
    product_case(s, 1, 4096, 1056, false);
    product_case(s, 4, 2048, 544, true);
    product_case(s, 16, 4096, 288, false);
    product_case(s, 48, 1032, 160, true);
}

/* Two products with a norm between them: as many parts of a row as there can be, and one. */
static void pair_cases(const struct subject *s)
{
    static const uint32_t rows[] = {1, 2, 3, 4};

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        product_case(s, rows[i], 64, 256, i % 2 == 0);
        product_case(s, rows[i], 512, 384, i % 2 == 0);
        product_case(s, rows[i], 1024 + 16 * (rows[i] % 3), 128 + 128 * (rows[i] % 2), i % 2 == 1);
    }
    product_case(s, 9, 256, 256, false); /* for others */
    if (HARNESS_SLOW)
        return;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        product_case(s, rows[i], 2048, 512, i % 2 == 1);
        product_case(s, rows[i], 8192, 256, i % 2 == 0);
    }
    product_case(s, 1, 4096, 4096, false);
    product_case(s, 1, 8320, 4096, true); /* one.cuh in front, */
    product_case(s, 1, 512, 6784, false); /* and behind */
    product_case(s, 4, 1024, 4224, true);
}

static void product_cases(const struct subject *s)
{
    if (strstr(s->v->op, "add_norm")) {
        pair_cases(s);
        return;
    }
    if (s->v->gpus) {
        aligned_product_cases(s);
        one_row_cases(s);
    }
    product_case(s, 1, 352, 511, false);
    product_case(s, 1, 96, 64, true);
    product_case(s, 2, 35, 33, true);
    product_case(s, 3, 1, 1, false);
    product_case(s, 7, 101, 97, true);
    product_case(s, 8, 1037, 17, true); /* more than one block of K */
    product_case(s, 15, 64, 31, false);
    product_case(s, 29, 352, 65, true);
    product_case(s, 64, 48, 200, false);
    quantized_cases(s);
    if (HARNESS_SLOW)
        return;
    product_case(s, 17, 2050, 128, true);
    product_case(s, 83, 352, 511, false);
    product_case(s, 500, 130, 70, true); /* more than one block of rows */
    product_case(s, 5003, 6, 9,
                 false); /* so many that blocks of one size would leave none for the last */
    product_case(s, 64, 128, 1000, false);
}

/* -- Row by row --------------------------------------------------------------------------------------- */

static const uint32_t float_dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};

static void rows_case(const struct subject *s, struct shape x, uint32_t rows, double absolute)
{
    struct kit k;
    uint32_t seq_rows[] = {rows, 1}, context[] = {rows + 40, 7};

    kit_init(&k, rows + x.in_width[0]);
    x.act = s->act;
    tn_batch *b = kit_batch(&k, 2, seq_rows, context, 16, 60, true);
    case_compare(&k, s, compose(&k, s->v, &x), b, NULL, false, absolute, 2e-6);
    kit_free(&k);
}

static bool embeds(const tn_variant *v)
{
    return is(v->op, TN_OP_EMBEDDING) || is(v->op, TN_OP_EMBEDDING_INT8);
}

/* Rows of int8 that begin at multiples of 16 bytes: whole ones, and those that end in the midst of 16. */
static void int8_table_cases(const struct subject *s)
{
    static const uint64_t widths[] = {352, 344, 16, 8};

    for (uint32_t i = 0; i < 4; i++) {
        struct shape x = {.linear_width = {widths[i]}, .matrix = TN_DT_I8, .table = 60};
        x.gap = widths[i] % 16 + (i ? 0 : 16);
        x.scale = i % 2 ? 19.5 : 0.0;
        rows_case(s, x, 5 + i, 0.0);
    }
}

static void table_cases(const struct subject *s)
{
    struct shape wide = {.linear_width = {9008}}; /* more than a block has under way */
    bool int8 = is(s->v->op, TN_OP_EMBEDDING_INT8);

    for (int i = 0; i < 3; i++) {
        wide.matrix = int8 ? TN_DT_I8 : float_dtypes[i];
        wide.table = 60;
        wide.scale = i == 1 ? 19.5 : 0.0;
        rows_case(s, wide, 3, 0.0);
    }
    if (embeds(s->v))
        fed_cases(s);
    if (int8)
        int8_table_cases(s);
    for (int i = 0; i < 3; i++) {
        struct shape x = {.linear_width = {i == 1 ? 352 : 37}};
        x.matrix = int8 ? TN_DT_I8 : float_dtypes[i];
        x.table = 60;
        x.gap = i * 4u;
        x.scale = i == 1 ? 19.5 : 0.0;
        rows_case(s, x, 5, 0.0);
        if (embeds(s->v)) { /* a rank's part of the vocabulary */
            x.table = 20;
            x.first = 30;
            rows_case(s, x, 40, 0.0);
        }
    }
}

static void norm_cases(const struct subject *s)
{
    static const uint64_t widths[] = {64, 352, 511, 5, 2048};

    for (int i = 0; i < 5; i++) {
        struct shape x = {.in_width = {widths[i], widths[i]}, .vector = float_dtypes[i % 3]};
        x.bias = i % 2 == 0;
        x.offset = i == 2 ? 1.0 : 0.0;
        rows_case(s, x, 1 + 9 * (uint32_t)i, 2e-5);
        if (strstr(s->v->op, "rms_norm") && widths[i] % 32 == 0) { /* a norm per head */
            x.group = 32;
            rows_case(s, x, 3, 2e-5);
        }
    }
}

static void map_cases(const struct subject *s)
{
    static const uint64_t widths[] = {64, 511, 1, 9000};

    for (int i = 0; i < 4; i++) {
        struct shape x = {.in_width = {widths[i], widths[i]}};
        rows_case(s, x, 1 + 4 * (uint32_t)i, 1e-6);
    }
}

static void rope_cases(const struct subject *s)
{
    static const struct {
        uint32_t heads, dim, rotary;
        bool pairs;
        int64_t max_position;
    } cases[] = {{4, 64, 64, false, 0}, {2, 80, 80, false, 0},   {3, 128, 128, true, 0},
                 {2, 64, 16, false, 0}, {1, 256, 256, false, 0}, {2, 32, 30, false, 0},
                 {2, 64, 64, false, 20}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct shape x = {.in_width = {cases[i].heads * cases[i].dim},
                          .head_dim = cases[i].dim,
                          .rotary = cases[i].rotary,
                          .pairs = cases[i].pairs,
                          .max_position = cases[i].max_position,
                          .scale = i == 2 ? 1.2 : 0.0};
        rows_case(s, x, 1, 3e-6);
        rows_case(s, x, 23, 3e-6);
    }
}

/* Sums of up to 256 elements. */
static void hadamard_cases(const struct subject *s)
{
    static const uint32_t dims[] = {64, 80, 128, 96, 1, 256, 7, 4, 48, 112, 12, 36, 100};

    for (uint32_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        struct shape x = {.in_width = {(uint64_t)(3 - i % 2) * dims[i]}, .head_dim = dims[i]};
        rows_case(s, x, 1, 1e-5);
        rows_case(s, x, 23, 1e-5);
    }
}

/* kv_append and what is fused with it: the whole cache is compared. */
static void append_cases(const struct subject *s)
{
    static const uint32_t dtypes[] = {TN_DT_F32,    TN_DT_F16,    TN_DT_BF16,   TN_DT_F32,
                                      TN_DT_F16,    TN_DT_BF16,   TN_DT_I8,     TN_DT_F8E4M3,
                                      TN_DT_F8E4M3, TN_DT_F8E4M3, TN_DT_F8E4M3, TN_DT_F8E4M3};

    for (uint32_t i = 0; i < 12; i++) {
        static const uint32_t dims[] = {64, 10, 80, 128, 256, 4, 80, 64, 128, 80, 256, 10};
        static const uint32_t blocks[] = {16, 1, 8, 32, 2, 64, 16, 16, 16, 8, 32, 1};
        uint32_t kv_heads = 1 + i % 3, dim = dims[i];
        uint32_t rows[] = {i ? 5 : 1, 1, 19}, context[] = {30, 17, 19};
        struct kit k;
        struct shape x = {
            .act = s->act, .heads = 2 * kv_heads, .kv_heads = kv_heads, .head_dim = dim};
        uint64_t width = kv_heads * dim;
        int fused = s->v->equals != NULL;

        if (!(s->v->kv_dtypes & TN_DT_BIT(dtypes[i])))
            continue;
        x.in_width[0] = fused ? 2 * width : width;
        x.in_width[1] = x.in_width[2] = width;
        kit_init(&k, i);
        tn_batch *b = kit_batch(&k, 3, rows, context, blocks[i], 50, false);
        tn_kv_layer *kv = kit_kv(&k, b, kv_heads, dim, dtypes[i]);
        /* Keys that were rotated on the way, and what tensor cores ask for, may differ in a bit, which feedback hands on. */
        if (dtypes[i] == TN_DT_F8E4M3 && !fused && !s->v->gpus)
            kit_feedback(&k, kv, true);
        case_compare(&k, s, compose(&k, s->v, &x), b, kv, 0, 3e-6, 2e-6);
        kit_free(&k);
    }
    if (s->v->kv_dtypes & TN_DT_BIT(TN_DT_F8E4M3))
        shaped_cases(s);
}

/* With attention behind the append: groups of heads, pages and prompts. A step of single rows may take another way than one in
 * which rows of a sequence see each other. */
static void append_attention_cases(const struct subject *s, uint32_t dtype)
{
    static const uint32_t prompts[] = {1, 70, 3, 150}, single[] = {1, 1, 1, 1};
    static const uint32_t contexts[] = {300, 70, 64, 213}, blocks[] = {16, 64, 1, 8};

    for (uint32_t i = 0; i < 16; i++) {
        uint32_t dim = i % 2 ? 64 : 128, kv_heads = 1 + i % 3, group = i % 4 * 3 + 1;
        struct kit k;
        struct shape x = {
            .act = s->act, .heads = group * kv_heads, .kv_heads = kv_heads, .head_dim = dim};

        if (!(s->v->kv_dtypes & TN_DT_BIT(dtype)))
            return;
        x.pairs = i % 5 == 2;
        x.rotary = i % 7 == 3 && !strstr(s->v->equals, "hadamard") ? dim / 2 : dim;
        x.in_width[0] = x.heads * dim;
        x.in_width[1] = x.in_width[2] = kv_heads * dim;
        kit_init(&k, 100 + i);
        tn_batch *b =
            kit_batch(&k, 4, i < 8 ? single : prompts, contexts, blocks[i % 4], 50, false);
        /* Keys that hadamard has mixed may fall a step of their cells apart, which moves their weights. */
        bool apart = tn_dtype_bits(dtype) == 8 && strstr(s->v->equals, "hadamard");
        case_compare(&k, s, compose(&k, s->v, &x), b, kit_kv(&k, b, kv_heads, dim, dtype), false,
                     apart ? 2e-2 : 2e-5, 1e-5);
        kit_free(&k);
    }
}

static void append_attention_cases_of(const struct subject *s)
{
    append_attention_cases(s, s->act);
    append_attention_cases(s, TN_DT_I8);
    append_attention_cases(s, TN_DT_F8E4M3);
    if (s->v->kv_dtypes & TN_DT_BIT(TN_DT_F8E4M3))
        shaped_cases(s);
}

/* -- Attention ---------------------------------------------------------------------------------------- */

static void attention_case(const struct subject *s, uint32_t dim, uint32_t kv_heads, uint32_t group,
                           uint32_t dtype, uint32_t block_tokens, uint32_t n_seqs,
                           const uint32_t *rows, const uint32_t *context, int64_t window,
                           double softcap)
{
    struct kit k;
    struct shape x = {.act = s->act,
                      .heads = kv_heads * group,
                      .kv_heads = kv_heads,
                      .head_dim = dim,
                      .window = window,
                      .softcap = softcap};

    if (!(s->v->kv_dtypes & TN_DT_BIT(dtype)))
        return;
    x.in_width[0] = x.heads * dim;
    kit_init(&k, dim + 10 * group + 1000 * dtype);
    tn_batch *b = kit_batch(&k, n_seqs, rows, context, block_tokens, 50, false);
    case_compare(&k, s, compose(&k, s->v, &x), b, kit_kv(&k, b, kv_heads, dim, dtype), false, 2e-5,
                 1e-5);
    kit_free(&k);
}

/* Keys and values that a row must not see are NaN: nothing of them may reach it. (Tensor cores multiply what is masked
 * by zero; kernels on them are not run in float32, and must keep to what kit_kv does: NaN beyond each context.) */
static void attention_sees_its_own(const struct subject *s, int64_t window, uint32_t bad)
{
    struct kit k;
    struct shape x = {.in_width = {2 * 64}, .heads = 2, .kv_heads = 2, .head_dim = 64};
    uint32_t rows[] = {30}, context[] = {30};
    struct env e = {.kv = NULL};

    x.window = window;
    kit_init(&k, 12);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, s->v, &x);
    e.kv = kit_kv(&k, b, 2, 64, TN_DT_F32);
    for (uint32_t pos = bad; pos < bad + 2; pos++) {
        char *page = (char *)e.kv->base + (uint64_t)b->host->block_table[0] * e.kv->block_bytes;
        for (uint32_t h = 0; h < 4; h++) /* keys of both heads, then values */
            memset(page + (h * 16 + pos) * 64 * sizeof(float), 0xff, 64 * sizeof(float));
    }
    env_fill(&k, &e, op->in[0], b, 3.0f, false);
    run_variant(&k, s->plug, s->v, op, b, &e);
    for (uint32_t t = 0; t < 30; t++) {
        bool sees = t >= bad && (window == 0 || (int64_t)t - (bad + 1) < window);
        float y = value_at(op->out[0], e.data[op->out[0]->id], t * 128 + 70);
        expect((isnan(y) != 0) == sees, "%s: row %u should %ssee the NaN", s->v->name, t,
               sees ? "" : "not ");
    }
    kit_free(&k);
}

/* Head sizes, groups, prompts, pages and long contexts for devices. */
static void device_attention_cases(const struct subject *s, uint32_t dtype)
{
    static const uint32_t dims[] = {32, 64, 80, 96, 128, 160, 256}, groups[] = {1, 4, 7, 8, 16, 20};
    static const uint32_t ragged[] = {1, 70, 3, 1, 17}, contexts[] = {900, 70, 64, 1, 213};
    static const uint32_t one[] = {1, 1}, two[] = {2, 5}, longest[] = {32768, 4099};
    static const uint32_t prompt[] = {150}, after[] = {500};
    static const uint32_t alone[] = {1, 1, 1, 1}, brief[] = {200, 1, 64, 33};

    for (uint32_t dim = 64; dim <= 128; dim += 64) /* more heads than blocks run at once */
        attention_case(s, dim, 67, 1, dtype, 16, 4, alone, brief, 0, 0.0);
    for (int i = 0; i < 7; i++) {
        attention_case(s, dims[i], 2, groups[i % 6], dtype, 16, 5, ragged, contexts, 0, 0.0);
        attention_case(s, dims[i], 1, groups[(i + 3) % 6], dtype, 64, 5, ragged, contexts,
                       i % 2 ? 100 : 0, i % 3 ? 0.0 : 20.0);
    }
    if (HARNESS_SLOW)
        return;
    for (int i = 0; i < 6; i += 2)
        attention_case(s, 128, 1, groups[i], dtype, 32, 1, prompt, after, 0, 0.0);
    attention_case(s, 64, 1, 2, dtype, 16, 2, one, longest, 0, 0.0);
    attention_case(s, 128, 1, 1, dtype, 64, 2, two, longest, 0, 0.0);
    attention_case(s, 64, 1, 2, dtype, 16, 2, one, longest, 5000, 0.0);
}

static void attention_cases(const struct subject *s)
{
    static const uint32_t cells[] = {TN_DT_I8, TN_DT_F8E4M3};
    static const uint32_t ragged[] = {5, 1, 40, 1}, contexts[] = {70, 33, 40, 129};
    static const uint32_t one[] = {1, 1}, shortest[] = {1, 2}, longer[] = {600, 1100};
    static const uint32_t chunk[] = {37}, after[] = {530};

    for (int i = 0; i < 3 && s->v->gpus; i++)
        device_attention_cases(s, i < 2 ? cells[i] : s->act);

    for (uint32_t bad = 6; bad < 14 && s->act == TN_DT_F32; bad++) {
        attention_sees_its_own(s, 0, bad);
        attention_sees_its_own(s, 4, bad);
    }
    if (s->v->kv_dtypes & TN_DT_BIT(TN_DT_I8)) {
        attention_case(s, 64, 2, 4, TN_DT_I8, 16, 4, ragged, contexts, 0, 0.0);
        attention_case(s, 64, 1, 2, TN_DT_I8, 16, 1, one, longer + 1, 0, 0.0);
    }
    if (s->v->kv_dtypes & TN_DT_BIT(TN_DT_F8E4M3)) {
        attention_case(s, 80, 3, 1, TN_DT_F8E4M3, 16, 4, ragged, contexts, 0, 0.0);
        attention_case(s, 64, 2, 2, TN_DT_F8E4M3, 16, 4, ragged, contexts, 30, 4.0);
    }
    attention_case(s, 64, 2, 4, TN_DT_F32, 16, 4, ragged, contexts, 0, 0.0);
    attention_case(s, 32, 3, 1, TN_DT_BF16, 16, 4, ragged, contexts, 0, 0.0);
    attention_case(s, 80, 2, 2, TN_DT_F16, 8, 4, ragged, contexts, 0, 0.0);
    attention_case(s, 128, 1, 8, TN_DT_BF16, 32, 4, ragged, contexts, 0, 0.0);
    attention_case(s, 256, 1, 3, TN_DT_F32, 1, 4, ragged, contexts, 0, 0.0);
    attention_case(s, 64, 1, 71, TN_DT_F16, 64, 2, one, shortest, 0, 0.0);
    attention_case(s, 64, 2, 2, TN_DT_F32, 16, 4, ragged, contexts, 1, 0.0);
    attention_case(s, 64, 2, 2, TN_DT_BF16, 16, 4, ragged, contexts, 30, 4.0);
    attention_case(s, 64, 1, 4, TN_DT_F32, 16, 1, one, longer, 0, 0.0);
    attention_case(s, 64, 1, 2, TN_DT_BF16, 16, 1, one, longer + 1, 0, 0.0); /* chunks are split */
    attention_case(s, 64, 1, 2, TN_DT_F16, 16, 1, one, longer + 1, 300, 0.0);
    if (HARNESS_SLOW)
        return;
    attention_case(s, 64, 4, 8, TN_DT_BF16, 16, 2, one, longer, 0, 0.0);
    attention_case(s, 64, 2, 1, TN_DT_F32, 16, 1, chunk, after, 0, 0.0);
    attention_case(s, 64, 2, 4, TN_DT_F32, 16, 1, chunk, after, 100, 0.0);
    attention_case(s, 128, 2, 4, TN_DT_F16, 16, 1, chunk, after, 515, 30.0);
    for (uint32_t i = 0; i < 6; i++) { /* heads that fill no vector */
        static const uint32_t dims[] = {1, 2, 10, 20, 40, 72};
        attention_case(s, dims[i], 2, 3, float_dtypes[i % 3], 16, 4, ragged, contexts, 0, 0.0);
        attention_case(s, dims[i], 1, 2, float_dtypes[i % 3], 8, 1, one, longer + 1, 0, 0.0);
    }
}

/* -- Mixture of experts -------------------------------------------------------------------------------- */

static void route_case(const struct subject *s, uint32_t experts, uint32_t top_k, const char *norm)
{
    struct shape x = {.in_width = {experts}, .top_k = top_k, .norm = norm};

    rows_case(s, x, 1, 1e-5);
    rows_case(s, x, 23, 1e-5);
}

static void route_cases(const struct subject *s)
{
    route_case(s, 8, 2, NULL);
    route_case(s, 64, 6, "softmax");
    route_case(s, 257, 8, "softmax_renorm");
    route_case(s, 3, 3, NULL);
}

/* Experts are chosen at random, some of them another rank's. */
static void mlp_case(const struct subject *s, uint32_t rows, const struct shape *shape)
{
    struct kit k;
    struct shape x = *shape;
    uint32_t seq_rows[] = {rows}, context[] = {rows};
    struct env got = {.kv = NULL}, want;

    x.in_width[1] = x.in_width[2] = 2;
    x.act = s->act;
    x.experts = 5;
    x.first = 2;
    kit_init(&k, rows + x.in_width[0]);
    tn_batch *b = kit_batch(&k, 1, seq_rows, context, 16, 50, false);
    const tn_op *op = compose(&k, s->v, &x);
    if (s->v->gpus && !subject_takes(s, op, b)) {
        kit_free(&k);
        return;
    }
    (*s->ran)++;
    if (!test_turn()) {
        kit_free(&k);
        return;
    }
    for (uint32_t i = 0; i < op->n_in; i++)
        env_fill(&k, &got, op->in[i], b, 1.0f, false);
    for (uint32_t i = 0; i < 2 * rows; i++)
        ((int32_t *)got.data[op->in[1]->id])[i] = (int32_t)random_below(&k.random, 9);
    want = got;
    run_variant(&k, s->plug, s->v, op, b, &got);
    run_reference(&k, s->reference, op, b, &want);
    expect_close(s->v, op, b, &got, &want, larger(2e-5, slack(s->act)),
                 larger(2e-5, slack(s->act)));
    kit_free(&k);
}

/* Groups of int4 that kernels may like, and those that they surely do not. */
static void mlp_int4_cases(const struct subject *s, uint32_t rows, uint64_t width, uint64_t inner,
                           uint64_t group)
{
    struct shape x = {.in_width = {width},
                      .linear_width = {inner},
                      .matrix = TN_DT_I4,
                      .quant_group = group,
                      .zero = true};

    mlp_case(s, rows, &x);
    x.zero = false;
    mlp_case(s, rows == 1 ? 2 : 1, &x);
}

static void mlp_cases(const struct subject *s)
{
    static const uint32_t dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16, TN_DT_I8, TN_DT_F8E4M3};

    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        struct shape x = {.in_width = {256}, .linear_width = {512}, .matrix = dtypes[i]};
        if (!(s->v->weight_dtypes & TN_DT_BIT(dtypes[i])))
            continue;
        mlp_case(s, 1, &x);
        x = (struct shape){
            .in_width = {75}, .linear_width = {41}, .matrix = dtypes[i], .act_name = "gelu"};
        mlp_case(s, 7, &x);
        x = (struct shape){
            .in_width = {32}, .linear_width = {48}, .matrix = dtypes[i], .act_name = "relu2"};
        mlp_case(s, HARNESS_SLOW ? 9 : 300, &x);
    }
    if (!(s->v->weight_dtypes & TN_DT_BIT(TN_DT_I4)))
        return;
    mlp_int4_cases(s, 1, 256, 512, 128);
    mlp_int4_cases(s, 5, 208, 104, 26);
    mlp_int4_cases(s, HARNESS_SLOW ? 9 : 70, 64, 96, 32);
}

/* -- Dummy weights --------------------------------------------------------------------------------------- */

static double noise_as(uint32_t dtype, uint64_t seed, uint32_t role, uint64_t i)
{
    uint16_t bits = tn_noise_bits(seed, i);
    float f = tn_noise_value(role, bits);

    switch (dtype) {
    case TN_DT_F16: return (double)tn_f16_to_f32(tn_f32_to_f16(f));
    case TN_DT_BF16: return (double)tn_bf16_to_f32(tn_f32_to_bf16(f));
    case TN_DT_F8E4M3: return (double)tn_f8e4m3_to_f32(tn_f32_to_f8e4m3(f * TN_NOISE_FP8));
    case TN_DT_I8: return (int8_t)bits;
    default: return (double)f;
    }
}

/* Rows of `row` elements, `stride` apart, from element `first` on: to the bit what the host makes. */
static void dummy_case(const struct subject *s, uint32_t dtype, uint32_t role, uint64_t first,
                       uint64_t row, uint64_t stride, uint64_t rows)
{
    struct kit k;
    struct env e = {.kv = NULL};
    uint32_t one[] = {1};
    const uint64_t seed = 0x9e3779b97f4a7c15u + dtype;

    kit_init(&k, 5);
    tn_batch *b = kit_batch(&k, 1, one, one, 16, 50, false);
    tn_op *op = kit_op(&k, TN_OP_DUMMY);
    op_out(op, kit_value(&k, TN_VALUE_ROWS, dtype, row * rows));
    op_int(op, "seed", (int64_t)seed);
    op_int(op, "role", role);
    op_int(op, "first", (int64_t)first);
    op_int(op, "row", (int64_t)row);
    op_int(op, "stride", (int64_t)stride);
    op_int(op, "count", (int64_t)(row * rows));
    (*s->ran)++;
    if (test_turn()) {
        run_variant(&k, s->plug, s->v, op, b, &e);
        for (uint64_t i = 0; i < row * rows; i++) {
            double want = noise_as(dtype, seed, role, first + i / row * stride + i % row);
            double got = (double)value_at(op->out[0], e.data[op->out[0]->id], i);
            expect(got == want, "%s: element %llu in %s is %.9g, not %.9g", s->v->name,
                   (unsigned long long)i, tn_dtype_name(dtype), got, want);
        }
    }
    kit_free(&k);
}

static void dummy_cases(const struct subject *s)
{
    static const uint32_t dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16, TN_DT_F8E4M3, TN_DT_I8};
    static const uint32_t roles[] = {TN_ROLE_MATRIX, TN_ROLE_NORM, TN_ROLE_BIAS, TN_ROLE_SCALE};

    for (int i = 0; i < 5; i++) {
        for (int r = 0; r < 4; r++)
            dummy_case(s, dtypes[i], roles[r], 1u << 30, 4096, 8192, 9);
        dummy_case(s, dtypes[i], TN_ROLE_MATRIX, 3, 37, 101, 50);
        dummy_case(s, dtypes[i], TN_ROLE_MATRIX, 4, 1 << 20, 1 << 20, 3);
        dummy_case(s, dtypes[i], TN_ROLE_MATRIX, 0, 1, 1, 1);
    }
}

/* -- All ---------------------------------------------------------------------------------------------- */

static bool has_product(const tn_variant *v)
{
    return strstr(v->equals ? v->equals : v->op, TN_OP_LINEAR) || makes_logits(v);
}

void cases_of(const struct subject *s)
{
    const tn_variant *v = s->v;

    if (v->flags & TN_VARIANT_PARTS)
        parts_cases(s);
    else if (has_product(v) && v->kv_dtypes)
        layer_cases(s);
    else if (has_product(v))
        product_cases(s);
    else if (embeds(v) || is(v->op, TN_OP_POSITION))
        table_cases(s);
    else if (strstr(v->op, "norm"))
        norm_cases(s);
    else if (is(v->op, TN_OP_ROPE))
        rope_cases(s);
    else if (is(v->op, TN_OP_HADAMARD))
        hadamard_cases(s);
    else if (is(v->op, TN_OP_ATTENTION))
        attention_cases(s);
    else if (v->equals && strstr(v->equals, "attention"))
        append_attention_cases_of(s);
    else if (v->kv_dtypes)
        append_cases(s);
    else if (is(v->op, TN_OP_MOE_ROUTE))
        route_cases(s);
    else if (is(v->op, TN_OP_MOE_MLP))
        mlp_cases(s);
    else if (is(v->op, TN_OP_FEED))
        feed_cases(s);
    else if (is(v->op, TN_OP_DUMMY))
        dummy_cases(s);
    else if (is(v->op, TN_OP_SAMPLE) || is(v->op, TN_OP_READ))
        (*s->ran)++; /* test_sample.c; what is read has no result to compare */
    else
        map_cases(s);
}
