/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every variant of the cpu set against the reference set, over a grid of shapes.
 *
 * Tolerances. float32 sums of up to a few hundred products of size about 1 differ by reordering: 2e-5. Where
 * rows are rounded to bfloat16 first (VDPBF16PS), inputs that are bfloat16 already must meet the same bound, and
 * others 2e-2 (the product
 * of two such sums 8e-2): 2^-9 relative per product. linear.int8 alone must be exact.
 */
#include <math.h>

#include "compose.h"

static struct plug cpu, reference;

static void load_plugins(void)
{
    plug_load(&cpu, "cpu", "2");
    plug_load(&reference, "reference", NULL);
}

static void unload_plugins(void)
{
    plug_unload(&reference);
    plug_unload(&cpu);
}

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

static bool rounds_rows(const tn_variant *v)
{
    return (v->cpu[0] & TN_CPU(AVX512BF16)) != 0;
}

/* Runs `v` and the reference on `op` with equal random inputs and compares outputs and cache. */
static void compare(struct kit *k, const tn_variant *v, const tn_op *op, const tn_batch *b,
                    tn_kv_layer *kv, bool coarse, double absolute, double relative)
{
    struct env got = {.kv = kv}, want = {.kv = kv ? kit_kv_copy(k, kv) : NULL};

    for (uint32_t i = 0; i < op->n_in; i++) {
        env_fill(k, &got, op->in[i], b, 3.0f, coarse);
        want.data[op->in[i]->id] = got.data[op->in[i]->id];
    }
    run_variant(k, &cpu, v, op, b, &got);
    run_reference(k, &reference, op, b, &want);
    expect_close(v, op, b, &got, &want, absolute, relative);
    for (uint64_t i = 0; kv && i < kv_bytes(kv) / (tn_dtype_bits(kv->dtype) / 8); i++) {
        tn_value element = {.dtype = kv->dtype};
        double x = (double)value_at(&element, got.kv->base, i);
        double y = (double)value_at(&element, want.kv->base, i);
        double step = kv->dtype == TN_DT_F32 ? 1e-5 : kv->dtype == TN_DT_F16 ? 2e-3 : 2e-2;
        expect((isnan(x) && isnan(y)) || fabs(x - y) <= step,
               "%s: element %llu of the cache is %g, not %g", v->name, (unsigned long long)i, x, y);
    }
}

/* -- Matrix products ------------------------------------------------------------------------------- */

static void product_case(const tn_variant *v, uint32_t rows, uint64_t k_width, uint64_t n,
                         bool bias)
{
    struct kit k;
    struct shape s = {.in_width = {k_width, n}, .linear_width = {n, n, n}, .bias = bias};
    uint32_t seq_rows[] = {rows}, context[] = {rows + 3};
    bool int8 = (v->weight_dtypes & TN_DT_BIT(TN_DT_I8)) != 0;
    double absolute = int8 && !v->equals ? 0.0 : 2e-5;
    tn_batch *b;

    kit_init(&k, rows * 1000003u + k_width * 131u + n);
    while (!(v->weight_dtypes & TN_DT_BIT(s.matrix)))
        s.matrix++;
    s.vector = bias && rows % 2 ? TN_DT_BF16 : TN_DT_F32;
    s.gap = rows % 3 * 12;
    s.softcap = rows % 2 ? 3.0 : 0.0;
    s.scale = is(v->op, TN_OP_LOGITS) ? 0.7 : 0.0;
    if (is(v->op, "cpu.qkv")) { /* three different widths */
        s.linear_width[1] = n / 3 + 1;
        s.linear_width[2] = n / 4 + 1;
    }
    b = kit_batch(&k, 1, seq_rows, context, 16, 50, rows != 7);
    compare(&k, v, compose(&k, v, &s), b, NULL, rounds_rows(v), absolute, absolute);
    if (rounds_rows(v))
        compare(&k, v, compose(&k, v, &s), b, NULL, false, strstr(v->op, "gate") ? 8e-2 : 2e-2,
                1e-2);
    kit_free(&k);
}

/* Rows full of numbers halfway between two steps of quantization: dividing by the step and multiplying by its
 * reciprocal round them differently. */
static void int8_ties(const tn_variant *v)
{
    struct kit k;
    struct shape s = {.in_width = {128}, .linear_width = {40}, .matrix = TN_DT_I8};
    uint32_t rows[] = {30}, context[] = {30};
    struct env got = {.kv = NULL}, want;

    kit_init(&k, 4);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, v, &s);
    env_fill(&k, &got, op->in[0], b, 1.0f, false);
    for (uint32_t i = 0; i < 30 * 128; i++) {
        float step = 0.01f * (1.0f + (float)(i / 128));
        ((float *)got.data[op->in[0]->id])[i] =
            ((float)(i % 128) - (i % 128 < 127 ? 0.5f : 0.0f)) * step;
    }
    want = got;
    run_variant(&k, &cpu, v, op, b, &got);
    run_reference(&k, &reference, op, b, &want);
    expect_close(v, op, b, &got, &want, 0.0, 0.0);
    kit_free(&k);
}

static void product_cases(const tn_variant *v)
{
    product_case(v, 1, 352, 511, false);
    product_case(v, 1, 96, 64, true);
    product_case(v, 2, 35, 33, true);
    product_case(v, 3, 1, 1, false);
    product_case(v, 7, 101, 97, true);
    product_case(v, 15, 64, 31, false);
    product_case(v, 29, 352, 65, true);
    product_case(v, 64, 48, 200, false);
    if (is(v->op, TN_OP_LINEAR_INT8))
        int8_ties(v);
    if (HARNESS_SLOW)
        return;
    product_case(v, 17, 2050, 128, true);
    product_case(v, 83, 352, 511, false);
    product_case(v, 500, 130, 70, true); /* more than one block of rows */
    product_case(v, 64, 128, 1000, false);
}

/* -- Row by row --------------------------------------------------------------------------------------- */

static const uint32_t float_dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};

static void rows_case(const tn_variant *v, struct shape s, uint32_t rows, double absolute)
{
    struct kit k;
    uint32_t seq_rows[] = {rows, 1}, context[] = {rows + 40, 7};

    kit_init(&k, rows + s.in_width[0]);
    tn_batch *b = kit_batch(&k, 2, seq_rows, context, 16, 60, true);
    compare(&k, v, compose(&k, v, &s), b, NULL, false, absolute, 2e-6);
    kit_free(&k);
}

static void table_cases(const tn_variant *v)
{
    for (int i = 0; i < 3; i++) {
        struct shape s = {.linear_width = {i == 1 ? 352 : 37}, .matrix = float_dtypes[i]};
        s.table = 60;
        s.gap = i * 4u;
        s.scale = i == 1 ? 19.5 : 0.0;
        rows_case(v, s, 5, 0.0);
        if (is(v->op, TN_OP_EMBEDDING)) { /* a rank's part of the vocabulary */
            s.table = 20;
            s.first = 30;
            rows_case(v, s, 40, 0.0);
        }
    }
}

static void norm_cases(const tn_variant *v)
{
    static const uint64_t widths[] = {64, 352, 511, 5, 2048};

    for (int i = 0; i < 5; i++) {
        struct shape s = {.in_width = {widths[i], widths[i]}, .vector = float_dtypes[i % 3]};
        s.bias = i % 2 == 0;
        s.offset = i == 2 ? 1.0 : 0.0;
        rows_case(v, s, 1 + 9 * (uint32_t)i, 2e-5);
        if (strstr(v->op, "rms_norm") && widths[i] % 32 == 0) { /* a norm per head */
            s.group = 32;
            rows_case(v, s, 3, 2e-5);
        }
    }
}

static void map_cases(const tn_variant *v)
{
    static const uint64_t widths[] = {64, 511, 1, 9000};

    for (int i = 0; i < 4; i++) {
        struct shape s = {.in_width = {widths[i], widths[i]}};
        rows_case(v, s, 1 + 4 * (uint32_t)i, 1e-6);
    }
}

static void rope_cases(const tn_variant *v)
{
    static const struct {
        uint32_t heads, dim, rotary;
        bool pairs;
        int64_t max_position;
    } cases[] = {{4, 64, 64, false, 0}, {2, 80, 80, false, 0},   {3, 128, 128, true, 0},
                 {2, 64, 16, false, 0}, {1, 256, 256, false, 0}, {2, 32, 30, false, 0},
                 {2, 64, 64, false, 20}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct shape s = {.in_width = {cases[i].heads * cases[i].dim},
                          .head_dim = cases[i].dim,
                          .rotary = cases[i].rotary,
                          .pairs = cases[i].pairs,
                          .max_position = cases[i].max_position,
                          .scale = i == 2 ? 1.2 : 0.0};
        rows_case(v, s, 1, 3e-6);
        rows_case(v, s, 23, 3e-6);
    }
}

/* kv_append and what is fused with it: the whole cache is compared. */
static void append_cases(const tn_variant *v)
{
    for (uint32_t i = 0; i < 6; i++) {
        static const uint32_t dims[] = {64, 10, 80, 128, 256, 4}, blocks[] = {16, 1, 8, 32, 2, 64};
        uint32_t kv_heads = 1 + i % 3, dim = dims[i];
        uint32_t rows[] = {i ? 5 : 1, 1, 19}, context[] = {30, 17, 19};
        struct kit k;
        struct shape s = {.heads = 2 * kv_heads, .kv_heads = kv_heads, .head_dim = dim};
        uint64_t width = kv_heads * dim;
        int fused = v->equals != NULL;

        s.in_width[0] = fused ? 2 * width : width;
        s.in_width[1] = s.in_width[2] = width;
        kit_init(&k, i);
        tn_batch *b = kit_batch(&k, 3, rows, context, blocks[i], 50, false);
        compare(&k, v, compose(&k, v, &s), b, kit_kv(&k, b, kv_heads, dim, float_dtypes[i % 3]),
                false, 3e-6, 2e-6);
        kit_free(&k);
    }
}

/* -- Attention ---------------------------------------------------------------------------------------- */

static void attention_case(const tn_variant *v, uint32_t dim, uint32_t kv_heads, uint32_t group,
                           uint32_t dtype, uint32_t block_tokens, uint32_t n_seqs,
                           const uint32_t *rows, const uint32_t *context, int64_t window,
                           double softcap)
{
    struct kit k;
    struct shape s = {.heads = kv_heads * group,
                      .kv_heads = kv_heads,
                      .head_dim = dim,
                      .window = window,
                      .softcap = softcap};

    s.in_width[0] = s.heads * dim;
    kit_init(&k, dim + 10 * group + 1000 * dtype);
    tn_batch *b = kit_batch(&k, n_seqs, rows, context, block_tokens, 50, false);
    compare(&k, v, compose(&k, v, &s), b, kit_kv(&k, b, kv_heads, dim, dtype), false, 2e-5, 1e-5);
    kit_free(&k);
}

/* Keys and values that a row must not see are NaN: nothing of them may reach it. */
static void attention_sees_its_own(const tn_variant *v, int64_t window, uint32_t bad)
{
    struct kit k;
    struct shape s = {.in_width = {2 * 64}, .heads = 2, .kv_heads = 2, .head_dim = 64};
    uint32_t rows[] = {30}, context[] = {30};
    struct env e = {.kv = NULL};

    s.window = window;
    kit_init(&k, 12);
    tn_batch *b = kit_batch(&k, 1, rows, context, 16, 50, false);
    const tn_op *op = compose(&k, v, &s);
    e.kv = kit_kv(&k, b, 2, 64, TN_DT_F32);
    for (uint32_t pos = bad; pos < bad + 2; pos++) {
        char *page = (char *)e.kv->base + (uint64_t)b->host->block_table[0] * e.kv->block_bytes;
        for (uint32_t h = 0; h < 4; h++) /* keys of both heads, then values */
            memset(page + (h * 16 + pos) * 64 * sizeof(float), 0xff, 64 * sizeof(float));
    }
    env_fill(&k, &e, op->in[0], b, 3.0f, false);
    run_variant(&k, &cpu, v, op, b, &e);
    for (uint32_t t = 0; t < 30; t++) {
        bool sees = t >= bad && (window == 0 || (int64_t)t - (bad + 1) < window);
        float y = value_at(op->out[0], e.data[op->out[0]->id], t * 128 + 70);
        expect((isnan(y) != 0) == sees, "%s: row %u should %ssee the NaN", v->name, t,
               sees ? "" : "not ");
    }
    kit_free(&k);
}

static void attention_cases(const tn_variant *v)
{
    static const uint32_t ragged[] = {5, 1, 40, 1}, contexts[] = {70, 33, 40, 129};
    static const uint32_t one[] = {1, 1}, shortest[] = {1, 2}, longer[] = {600, 1100};
    static const uint32_t chunk[] = {37}, after[] = {530};

    for (uint32_t bad = 6; bad < 14; bad++) {
        attention_sees_its_own(v, 0, bad);
        attention_sees_its_own(v, 4, bad);
    }
    attention_case(v, 64, 2, 4, TN_DT_F32, 16, 4, ragged, contexts, 0, 0.0);
    attention_case(v, 32, 3, 1, TN_DT_BF16, 16, 4, ragged, contexts, 0, 0.0);
    attention_case(v, 80, 2, 2, TN_DT_F16, 8, 4, ragged, contexts, 0, 0.0);
    attention_case(v, 128, 1, 8, TN_DT_BF16, 32, 4, ragged, contexts, 0, 0.0);
    attention_case(v, 256, 1, 3, TN_DT_F32, 1, 4, ragged, contexts, 0, 0.0);
    attention_case(v, 64, 1, 71, TN_DT_F16, 64, 2, one, shortest, 0, 0.0);
    attention_case(v, 64, 2, 2, TN_DT_F32, 16, 4, ragged, contexts, 1, 0.0);
    attention_case(v, 64, 2, 2, TN_DT_BF16, 16, 4, ragged, contexts, 30, 4.0);
    attention_case(v, 64, 1, 4, TN_DT_F32, 16, 1, one, longer, 0, 0.0);
    attention_case(v, 64, 1, 2, TN_DT_BF16, 16, 1, one, longer + 1, 0, 0.0); /* chunks are split */
    attention_case(v, 64, 1, 2, TN_DT_F16, 16, 1, one, longer + 1, 300, 0.0);
    if (HARNESS_SLOW)
        return;
    attention_case(v, 64, 4, 8, TN_DT_BF16, 16, 2, one, longer, 0, 0.0);
    attention_case(v, 64, 2, 1, TN_DT_F32, 16, 1, chunk, after, 0, 0.0);
    attention_case(v, 64, 2, 4, TN_DT_F32, 16, 1, chunk, after, 100, 0.0);
    attention_case(v, 128, 2, 4, TN_DT_F16, 16, 1, chunk, after, 515, 30.0);
    for (uint32_t i = 0; i < 6; i++) { /* heads that fill no vector */
        static const uint32_t dims[] = {1, 2, 10, 20, 40, 72};
        attention_case(v, dims[i], 2, 3, float_dtypes[i % 3], 16, 4, ragged, contexts, 0, 0.0);
        attention_case(v, dims[i], 1, 2, float_dtypes[i % 3], 8, 1, one, longer + 1, 0, 0.0);
    }
}

/* -- All ---------------------------------------------------------------------------------------------- */

static void cases_of(const tn_variant *v)
{
    if (v->pack_layout)
        product_cases(v);
    else if (is(v->op, TN_OP_EMBEDDING) || is(v->op, TN_OP_POSITION))
        table_cases(v);
    else if (strstr(v->op, "norm"))
        norm_cases(v);
    else if (is(v->op, TN_OP_ROPE))
        rope_cases(v);
    else if (is(v->op, TN_OP_ATTENTION))
        attention_cases(v);
    else if (v->kv_dtypes)
        append_cases(v);
    else if (is(v->op, TN_OP_SAMPLE))
        return; /* test_sample.c */
    else
        map_cases(v);
}

START_TEST(every_variant_equals_the_reference)
{
    uint32_t ran = 0;

    load_plugins();
    for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
        if (!can_run_here(cpu.set->variants[i]))
            continue;
        cases_of(cpu.set->variants[i]);
        ran++;
    }
    printf("%u of %u variants can run here\n", ran, cpu.set->n_variants);
    unload_plugins();
}
END_TEST

START_TEST(names_are_unique_and_needs_are_declared)
{
    load_plugins();
    for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
        const tn_variant *v = cpu.set->variants[i];
        ck_assert_msg(v->cpu[0] != 0, "%s declares no CPU features", v->name);
        ck_assert_msg(!v->pack_layout || (v->pack && v->pack_size), "%s cannot pack", v->name);
        for (uint32_t j = 0; j < i; j++)
            ck_assert_str_ne(cpu.set->variants[j]->name, v->name);
    }
    unload_plugins();
}
END_TEST

/* What a plain LLaMA needs must be there at every level of instruction sets from AVX2 on. */
START_TEST(older_machines_have_all_ops_of_a_llama)
{
    static const char *const ops[] = {TN_OP_EMBEDDING, TN_OP_RMS_NORM,  TN_OP_ROPE,
                                      TN_OP_KV_APPEND, TN_OP_ATTENTION, TN_OP_ADD,
                                      TN_OP_MUL,       TN_OP_SILU,      TN_OP_SAMPLE};
    static const char *const products[] = {TN_OP_LINEAR, TN_OP_LOGITS, "cpu.qkv", "cpu.gate_silu"};
    static const uint64_t levels[] = {TN_CPU_X86_AVX2, TN_CPU_X86_AVX512};

    load_plugins();
    for (size_t level = 0; level < 2; level++) {
        uint32_t have[16] = {0};
        for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
            const tn_variant *v = cpu.set->variants[i];
            if (v->cpu[0] & ~levels[level])
                continue;
            for (size_t j = 0; j < sizeof ops / sizeof *ops; j++)
                have[j] |= is(ops[j], v->op);
            for (size_t j = 0; j < 4; j++)
                if (is(products[j], v->op))
                    have[10 + j] |= v->weight_dtypes;
        }
        for (size_t j = 0; j < sizeof ops / sizeof *ops; j++)
            ck_assert_msg(have[j], "no %s at level %zu", ops[j], level);
        for (size_t j = 0; j < 4; j++)
            for (int d = 0; d < 3; d++)
                ck_assert_msg(have[10 + j] & TN_DT_BIT(float_dtypes[d]), "no %s for %s",
                              products[j], tn_dtype_name(float_dtypes[d]));
    }
    unload_plugins();
}
END_TEST

/* The variant that a host with CPU features `cpu_bits` would take for `op`, by prior cost alone. */
static const tn_variant *cheapest(uint64_t cpu_bits, const char *name, const struct shape *s,
                                  uint32_t rows)
{
    const tn_variant *best = NULL;
    double least = 0.0;
    tn_err err = TN_ERR_INIT;
    struct kit k;

    kit_init(&k, 1);
    for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
        const tn_variant *v = cpu.set->variants[i];
        if (!is(v->op, name) || (v->cpu[0] & ~cpu_bits))
            continue;
        const tn_op *op = compose(&k, v, s);
        if (v->can_run(cpu.instance, op, &err))
            continue;
        double cost = v->cost_ns(cpu.instance, op, rows);
        if (!best || cost < least) {
            best = v;
            least = cost;
        }
    }
    kit_free(&k);
    ck_assert_msg(best != NULL, "nothing for %s", name);
    return best;
}

/* Priors must rank instruction sets alike for every number of rows, or prompts and decoding would differ. */
START_TEST(the_newest_instructions_are_cheapest_for_any_number_of_rows)
{
    static const uint64_t avx2 = TN_CPU_X86_AVX2, avx512 = TN_CPU_X86_AVX512;
    const struct {
        uint64_t cpu_bits;
        const char *op;
        uint32_t matrix;
        const char *want;
    } cases[] = {
        {avx2, TN_OP_LINEAR, TN_DT_BF16, "linear.bf16.avx2"},
        {avx512, TN_OP_LINEAR, TN_DT_BF16, "linear.bf16.avx512"},
        {avx512 | TN_CPU(AVX512BF16), TN_OP_LINEAR, TN_DT_BF16, "linear.bf16.avx512bf16"},
        {avx512 | TN_CPU(AVX512BF16), "cpu.qkv", TN_DT_F16, "qkv.f16.avx512"},
        {avx512, "cpu.gate_silu", TN_DT_F32, "gate_silu.f32.avx512"},
        {avx2, TN_OP_LINEAR_INT8, TN_DT_I8, "linear.i8.avx2"},
        {avx2 | TN_CPU(AVXVNNI), TN_OP_LINEAR_INT8, TN_DT_I8, "linear.i8.avxvnni"},
        {avx512 | TN_CPU(AVXVNNI) | TN_CPU(AVX512VNNI), TN_OP_LINEAR_INT8, TN_DT_I8,
         "linear.i8.avx512vnni"},
        {avx512, TN_OP_ATTENTION, 0, "attention.avx512"},
        {avx512, TN_OP_RMS_NORM, 0, "rms_norm.avx512"},
        {avx2, TN_OP_SAMPLE, 0, "sample.avx2"},
    };
    static const uint32_t rows[] = {1, 7, 64, 2048};

    load_plugins();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int r = 0; r < 4; r++) {
            struct shape s = {.in_width = {256, 256},
                              .linear_width = {256, 256, 256},
                              .matrix = cases[i].matrix,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 64};
            ck_assert_str_eq(cheapest(cases[i].cpu_bits, cases[i].op, &s, rows[r])->name,
                             cases[i].want);
        }
    unload_plugins();
}
END_TEST

START_TEST(what_does_not_fit_is_refused_with_a_reason)
{
    struct kit k;
    tn_err err = TN_ERR_INIT;
    struct shape s = {.in_width = {64}, .linear_width = {32}, .matrix = TN_DT_F16};
    const tn_variant *v;
    tn_op *op;

    load_plugins();
    kit_init(&k, 1);
    v = plug_variant(&cpu, "linear.f32.avx2");
    ck_assert_int_eq(v->can_run(cpu.instance, compose(&k, v, &s), &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "does not fit this variant");
    s.matrix = TN_DT_F32;
    s.act = TN_DT_BF16;
    ck_assert_int_eq(v->can_run(cpu.instance, compose(&k, v, &s), &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "not float32");
    s.act = 0;
    ck_assert_int_eq(v->can_run(cpu.instance, compose(&k, v, &s), &err), TN_OK);

    /* The same wiring, but keys that are rotated otherwise than queries. */
    s = (struct shape){.in_width = {128, 64, 64}, .kv_heads = 1, .head_dim = 64};
    v = plug_variant(&cpu, "rope_append.avx2");
    op = compose(&k, v, &s);
    ck_assert_int_eq(v->can_run(cpu.instance, op, &err), TN_OK);
    ((tn_attr *)tn_op_attr(op->members[1], "style"))->s = "pairs";
    ck_assert_int_eq(v->can_run(cpu.instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "rotated differently");

    s = (struct shape){.in_width = {1040}, .heads = 1, .kv_heads = 1, .head_dim = 1040};
    v = plug_variant(&cpu, "attention.avx2");
    ck_assert_int_eq(v->can_run(cpu.instance, compose(&k, v, &s), &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "head_dim must be 1 to 1024");
    kit_free(&k);
    unload_plugins();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_variants");
    TCase *c = tcase_create("variants");

    tcase_add_test(c, every_variant_equals_the_reference);
    tcase_add_test(c, names_are_unique_and_needs_are_declared);
    tcase_add_test(c, older_machines_have_all_ops_of_a_llama);
    tcase_add_test(c, the_newest_instructions_are_cheapest_for_any_number_of_rows);
    tcase_add_test(c, what_does_not_fit_is_refused_with_a_reason);
    suite_add_tcase(s, c);
    return run_suite(s);
}
