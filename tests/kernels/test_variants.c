/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every variant of the cpu set against the reference set, over the grids of cases.h; and what the set promises beyond
 * results.
 */
#include "cases.h"

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

/* -- All ---------------------------------------------------------------------------------------------- */

static const uint32_t float_dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};

START_TEST(every_variant_equals_the_reference)
{
    uint32_t ran = 0, cases = 0;

    load_plugins();
    for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
        struct subject s = {&cpu, &reference, cpu.set->variants[i], TN_DT_F32, &cases};
        if (!can_run_here(s.v))
            continue;
        cases_of(&s);
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

/* What a plain LLaMA needs, and its embeddings in eight bits, must be there at every level of instruction sets from AVX2 on. */
START_TEST(older_machines_have_all_ops_of_a_llama)
{
    static const char *const ops[] = {
        TN_OP_EMBEDDING, TN_OP_RMS_NORM, TN_OP_ROPE, TN_OP_KV_APPEND, TN_OP_ATTENTION,
        TN_OP_ADD,       TN_OP_MUL,      TN_OP_SILU, TN_OP_SAMPLE,    TN_OP_EMBEDDING_INT8};
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
        if (cost >= 0 && (!best || cost < least)) { /* else only if pinned */
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
        {avx512 | TN_CPU(AVX512BF16), TN_OP_LINEAR, TN_DT_BF16, "linear.bf16.avx512"},
        {avx512 | TN_CPU(AVX512BF16), "cpu.qkv", TN_DT_F16, "qkv.f16.avx512"},
        {avx512, "cpu.gate_silu", TN_DT_F32, "gate_silu.f32.avx512"},
        {avx2, TN_OP_LINEAR_INT8, TN_DT_I8, "linear.i8.avx2"},
        {avx2 | TN_CPU(AVXVNNI), TN_OP_LINEAR_INT8, TN_DT_I8, "linear.i8.avxvnni"},
        {avx512 | TN_CPU(AVXVNNI) | TN_CPU(AVX512VNNI), TN_OP_LINEAR_INT8, TN_DT_I8,
         "linear.i8.avx512vnni"},
        {avx2, TN_OP_LINEAR_INT4, TN_DT_I4, "linear.i4.avx2"},
        {avx2 | TN_CPU(AVXVNNI), TN_OP_LINEAR_INT4, TN_DT_I4, "linear.i4.avxvnni"},
        {avx512, TN_OP_LINEAR_INT4, TN_DT_I4, "linear.i4.avx512"},
        {avx512 | TN_CPU(AVX512VNNI), TN_OP_LINEAR_INT4, TN_DT_I4, "linear.i4.avx512vnni"},
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
                              .quant_group = 64,
                              .heads = 4,
                              .kv_heads = 2,
                              .head_dim = 64};
            ck_assert_str_eq(cheapest(cases[i].cpu_bits, cases[i].op, &s, rows[r])->name,
                             cases[i].want);
        }
    unload_plugins();
}
END_TEST

/* Logits would hang on the machine's instructions by hundredths. */
START_TEST(rows_are_rounded_only_where_that_is_asked_for)
{
    static const tn_kv asked[] = {{"threads", "2"}, {"round_rows", "true"}};
    const uint64_t features = TN_CPU_X86_AVX512 | TN_CPU(AVX512BF16);
    struct shape s = {.in_width = {256, 256},
                      .linear_width = {256, 256, 256},
                      .matrix = TN_DT_BF16,
                      .quant_group = 64};

    load_plugins();
    ck_assert_str_eq(cheapest(features, "cpu.qkv", &s, 64)->name, "qkv.bf16.avx512");
    plug_unload(&cpu);
    plug_load_with(&cpu, "cpu", asked, 2);
    ck_assert_str_eq(cheapest(features, "cpu.qkv", &s, 1)->name, "qkv.bf16.avx512bf16");
    ck_assert_str_eq(cheapest(features, "cpu.qkv", &s, 64)->name, "qkv.bf16.avx512bf16");
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

/* Nor is a table of int8 whose scales and factors are not what its entries and columns need. */
START_TEST(tables_of_int8_that_do_not_fit_are_refused)
{
    const struct plug *plugs[] = {&cpu, &reference};
    struct shape s = {.linear_width = {17}, .matrix = TN_DT_I8, .table = 12};
    struct kit k;

    load_plugins();
    kit_init(&k, 1);
    for (uint32_t i = 0; i < 2 * 3; i++) {
        const struct plug *p = plugs[i / 3];
        const tn_variant *v = plug_variant(p, TN_OP_EMBEDDING_INT8);
        tn_op *op = compose(&k, v, &s);
        tn_weight *w = (tn_weight *)(uintptr_t)op->weights[i % 3];
        uint32_t dtype = w->dtype;
        ck_assert_int_eq(v->can_run(p->instance, op, NULL), TN_OK);
        w->dtype = TN_DT_BF16;
        ck_assert_int_eq(v->can_run(p->instance, op, NULL), TN_E_UNSUPPORTED);
        w->dtype = dtype;
        w->dims[w->n_dims - 1]++;
        ck_assert_int_eq(v->can_run(p->instance, op, NULL), TN_E_UNSUPPORTED);
        w->dims[w->n_dims - 1]--;
        op->n_weights = 2;
        ck_assert_int_eq(v->can_run(p->instance, op, NULL), TN_E_UNSUPPORTED);
    }
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
    tcase_add_test(c, rows_are_rounded_only_where_that_is_asked_for);
    tcase_add_test(c, what_does_not_fit_is_refused_with_a_reason);
    tcase_add_test(c, tables_of_int8_that_do_not_fit_are_refused);
    suite_add_tcase(s, c);
    return run_suite(s);
}
