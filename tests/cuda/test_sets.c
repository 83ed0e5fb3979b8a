/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel sets "cuda" and "ampere" over a false driver: what they offer, what they refuse and why, how launches are
 * shaped, and that attaching leaves nothing behind, whichever call fails. (What kernels compute: tests/gpu.)
 */
#include <dlfcn.h>

#include "cuda/fake_driver.h"
#include "kernels/compose.h"
#include "tenon/fusions.h"

static const tn_kv config[] = {{"driver", FAKE_DRIVER},
                               {"cublaslt", "/nonexistent/libcublasLt.so"}};
static const struct fake_api *fake;
static struct plug cuda, ampere;
static struct kit k;

static void setup_on(int major, int minor)
{
    void *driver = dlopen(FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL);

    ck_assert_msg(driver != NULL, "%s", dlerror());
    fake = dlsym(driver, "fake_api");
    fake->reset();
    fake->set_capability(major, minor);
    plug_load_with(&cuda, "cuda", config, 2);
    plug_load_on(&ampere, "ampere", &cuda);
    kit_init(&k, 1);
}

static void setup(void)
{
    setup_on(9, 0);
}

static void setup_older(void)
{
    setup_on(8, 0);
}

static void teardown(void)
{
    kit_free(&k);
    plug_unload(&ampere);
    plug_unload(&cuda);
    ck_assert_int_eq(fake->live(), 0);
}

/* -- What is offered ------------------------------------------------------------------------------------ */

START_TEST(the_portable_set_has_every_op_in_every_float_dtype)
{
    static const char *const ops[] = {
        TN_OP_EMBEDDING,   TN_OP_POSITION, TN_OP_RMS_NORM,    TN_OP_LAYER_NORM,    TN_OP_LINEAR,
        TN_OP_REORDER,     TN_OP_HADAMARD, TN_OP_ROPE,        TN_OP_KV_APPEND,     TN_OP_ATTENTION,
        TN_OP_ADD,         TN_OP_MUL,      TN_OP_SILU,        TN_OP_GELU,          TN_OP_GELU_TANH,
        TN_OP_RELU,        TN_OP_RELU2,    TN_OP_SCALE,       TN_OP_SOFTCAP,       TN_OP_MOE_ROUTE,
        TN_OP_MOE_MLP,     TN_OP_LOGITS,   TN_OP_SAMPLE,      TN_OP_LINEAR_INT8,   TN_OP_LINEAR_FP8,
        TN_OP_LINEAR_INT4, TN_OP_FEED,     TN_OP_LOGITS_INT8, TN_OP_EMBEDDING_INT8};
    const uint32_t floats = TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16);

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        const tn_variant *v = plug_variant(&cuda, ops[i]);
        ck_assert_msg(v->act_dtypes == floats, "%s: dtypes %x", v->name, v->act_dtypes);
        ck_assert_msg(v->flags & TN_VARIANT_GRAPH_SAFE, "%s cannot be captured", v->name);
        ck_assert_msg(v->flags & TN_VARIANT_BATCH_INVARIANT, "%s depends on its batch", v->name);
    }
    for (uint32_t i = 0; i < cuda.set->n_variants; i++)
        ck_assert_msg(cuda.set->variants[i]->gpus && cuda.set->variants[i]->gpus->vendor == 0x10de,
                      "%s names no GPU", cuda.set->variants[i]->name);
}
END_TEST

START_TEST(names_are_unique)
{
    const struct plug *plugs[] = {&cuda, &ampere};

    for (int p = 0; p < 2; p++)
        for (uint32_t i = 0; i < plugs[p]->set->n_variants; i++)
            for (uint32_t j = 0; j < i; j++)
                ck_assert_str_ne(plugs[p]->set->variants[i]->name,
                                 plugs[p]->set->variants[j]->name);
}
END_TEST

/* Measured times are thrown away when this changes. */
START_TEST(times_depend_on_the_version_of_cublaslt)
{
    static const tn_kv with[] = {{"driver", FAKE_DRIVER}, {"cublaslt", FAKE_CUBLASLT}};

    ck_assert_str_eq(cuda.set->depends_on(cuda.instance, cuda.device), "no cuBLASLt");
    ck_assert(ampere.set->depends_on == NULL);
    plug_unload(&ampere);
    plug_unload(&cuda);
    plug_load_with(&cuda, "cuda", with, 2);
    ck_assert_str_eq(cuda.set->depends_on(cuda.instance, cuda.device), "cuBLASLt 90100");
    plug_unload(&cuda);
    ck_assert_int_eq(setenv("FAKE_CUBLASLT", "90200", 1), 0);
    plug_load_with(&cuda, "cuda", with, 2);
    ck_assert_str_eq(cuda.set->depends_on(cuda.instance, cuda.device), "cuBLASLt 90200");
    plug_load_on(&ampere, "ampere", &cuda);
    ck_assert_int_eq(unsetenv("FAKE_CUBLASLT"), 0);
}
END_TEST

/* -- What is refused ------------------------------------------------------------------------------------- */

static const tn_variant *variant(const struct plug *p, const char *name)
{
    const tn_variant *v = plug_variant(p, name);

    ck_assert_str_eq(v->name, name);
    return v;
}

static void expect_refusal(const struct plug *p, const char *name, const struct shape *s,
                           const char *why)
{
    const tn_variant *v = variant(p, name);
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(v->can_run(p->instance, compose(&k, v, s), &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, why);
}

static void expect_taken(const struct plug *p, const char *name, const struct shape *s)
{
    const tn_variant *v = variant(p, name);
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(v->can_run(p->instance, compose(&k, v, s), &err), &err);
}

START_TEST(without_cublaslt_its_variants_say_so_and_plain_ones_serve)
{
    struct shape s = {.in_width = {64, 64},
                      .linear_width = {64, 64, 64},
                      .act = TN_DT_BF16,
                      .matrix = TN_DT_BF16};

    expect_refusal(&cuda, "linear.cublaslt", &s,
                   "cuBLASLt was not found (/nonexistent/libcublasLt.so)");
    expect_refusal(&cuda, "gate_silu.cublaslt", &s, "cuBLASLt was not found");
    expect_taken(&cuda, "linear.cuda", &s);
    expect_taken(&ampere, "gate_silu.half.ampere", &s);
}
END_TEST

START_TEST(shapes_that_do_not_fit_are_refused_with_the_reason)
{
    struct shape s = {
        .in_width = {36, 36}, .linear_width = {64, 64, 64}, .act = TN_DT_F16, .matrix = TN_DT_F16};

    expect_refusal(&ampere, "linear.half.ampere", &s, "rows of a multiple of 16 bytes");
    expect_taken(&cuda, "linear.cuda", &s);
    s.in_width[0] = 64;
    s.gap = 4;
    expect_refusal(&ampere, "qkv.half.ampere", &s, "rows of a multiple of 16 bytes");
    s.gap = 0;
    s.matrix = TN_DT_BF16;
    expect_refusal(&ampere, "linear.half.ampere", &s, "of one dtype");
    s = (struct shape){
        .in_width = {2 * 12}, .heads = 2, .kv_heads = 1, .head_dim = 12, .act = TN_DT_F16};
    expect_refusal(&ampere, "attention.f16.ampere", &s, "multiples of 8");
    expect_taken(&cuda, "attention.cuda", &s);
    s.head_dim = 264;
    s.in_width[0] = 528;
    expect_refusal(&cuda, "attention.cuda", &s, "up to 256");
}
END_TEST

START_TEST(tables_of_int8_have_scales_and_factors)
{
    struct shape s = {.linear_width = {24}, .matrix = TN_DT_I8, .table = 100};
    const tn_variant *v = variant(&cuda, "embedding_int8.cuda");

    expect_taken(&cuda, v->name, &s);
    s.matrix = TN_DT_BF16;
    expect_refusal(&cuda, v->name, &s, "a table of int8");
    s.matrix = TN_DT_I8;
    for (uint32_t i = 1; i < 3; i++) {
        tn_op *op = compose(&k, v, &s);
        tn_err err = TN_ERR_INIT;
        ((tn_weight *)(uintptr_t)op->weights[i])->dims[0]++;
        ck_assert_int_eq(v->can_run(cuda.instance, op, &err), TN_E_UNSUPPORTED);
        ck_assert_err_has(&err, "a float32 scale per entry and a float32 factor per column");
    }
}
END_TEST

START_TEST(narrow_weights_that_do_not_fit_are_refused_with_the_reason)
{
    struct shape s = {.in_width = {192},
                      .linear_width = {40, 24, 8},
                      .act = TN_DT_BF16,
                      .matrix = TN_DT_I4,
                      .quant_group = 48};

    expect_refusal(&ampere, "qkv_int4.ampere", &s, "groups of a multiple of 32");
    s.quant_group = 96; /* three runs of 32 */
    expect_taken(&ampere, "qkv_int4.ampere", &s);
    s.gap = 4;
    expect_refusal(&ampere, "linear_int4.ampere", &s, "at multiples of 16 bytes");
    s.gap = 0;
    s.act = TN_DT_F32;
    expect_refusal(&ampere, "linear_int4.ampere", &s, "rows not 16 bits wide");
    s.act = TN_DT_F16;
    s.matrix = TN_DT_I8;
    expect_taken(&ampere, "norm_qkv_int8.ampere", &s);
    expect_taken(&ampere, "logits_int8.ampere", &s);
    s.act = TN_DT_F32;
    expect_refusal(&ampere, "logits_int8.ampere", &s, "rows not 16 bits wide");
    s.act = TN_DT_F16;
    s.in_width[0] = 40;
    expect_refusal(&ampere, "norm_qkv_int8.ampere", &s, "of a multiple of 16 inputs");
    expect_refusal(&ampere, "logits_int8.ampere", &s, "of a multiple of 16 inputs");
    s.in_width[0] = 32784;
    expect_refusal(&ampere, "linear_int8.ampere", &s, "up to 32768");
    expect_refusal(&ampere, "logits_int8.ampere", &s, "up to 32768");
    s.matrix = TN_DT_F8E4M3; /* no row is quantized */
    expect_taken(&ampere, "linear_fp8_wide.ampere", &s);
}
END_TEST

/* Rows that are not rounded are a fallback, and only where the hardware has nothing better. */
START_TEST(unrounded_rows_of_fp8_are_for_gpus_without_e4m3)
{
    const tn_variant *v = variant(&ampere, "gate_silu_fp8_wide.ampere");

    ck_assert(v->flags & TN_VARIANT_FALLBACK);
    for (const tn_gpu_target *t = v->gpus; t->vendor; t++)
        ck_assert(t->major == 8 && t->minor < 9 && t->mode == TN_GPU_EXACT);
}
END_TEST

/* -- How launches are shaped -------------------------------------------------------------------------------- */

/* Launches `op` on `v` for `rows` rows of as many sequences, or of logits for twice as many, of which `rows` want them; no kernel
 * runs, so no address is read. */
static uint32_t feeding; /* tn_launch::feed */

static const struct fake_launch *launched(const struct plug *p, const tn_variant *v,
                                          const tn_op *op, uint32_t rows, uint32_t max_context,
                                          tn_kv_layer *kv)
{
    static const void *in[8], *weights[8];
    static void *out[8];
    int logits = op->n_out > 0 && op->out[0]->kind == TN_VALUE_LOGITS;
    tn_batch_arrays dev = {.h = TN_HDR(tn_batch_arrays)};
    tn_batch b = {.h = TN_HDR(tn_batch),
                  .n_rows = logits ? 2 * rows : rows,
                  .n_seqs = rows,
                  .n_logits = rows,
                  .max_rows_per_seq = 1,
                  .max_context = max_context,
                  .dev = &dev};
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = op,
                   .batch = &b,
                   .in = in,
                   .out = out,
                   .weights = weights,
                   .kv = kv,
                   .stream = p->stream,
                   .device = p->device,
                   .tp_size = 1,
                   .feed = feeding};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(v->launch(p->instance, &l, &err), &err);
    return fake->last_launch();
}

START_TEST(few_rows_fill_the_grid_and_fit_the_smallest_shared_memory)
{
    static const uint64_t widths[] = {4096, 1024, 1000};
    struct shape s = {.in_width = {256, 256}, .act = TN_DT_BF16, .matrix = TN_DT_BF16};
    const tn_variant *qkv = variant(&ampere, "qkv.half.ampere");
    const tn_variant *gate = variant(&ampere, "gate_silu.half.ampere");

    memcpy(s.linear_width, widths, sizeof widths);
    for (uint32_t rows = 1; rows <= 64; rows++) {
        uint32_t unit = rows <= 4 ? 16 : rows <= 32 ? 32 : 64, blocks = 0;
        kit_free(&k);
        kit_init(&k, rows);
        const struct fake_launch *l = launched(&ampere, qkv, compose(&k, qkv, &s), rows, 10, NULL);
        for (int i = 0; i < 3; i++)
            blocks += (uint32_t)((widths[i] + unit - 1) / unit);
        ck_assert_uint_eq(l->config.gridDimX, blocks);
        ck_assert_uint_le(l->config.sharedMemBytes, 99 * 1024); /* of capability 8.6 and 8.9 */
    }
    s.linear_width[1] = 4096;
    for (uint32_t rows = 1; rows <= 64; rows *= 4) {
        uint32_t unit = rows <= 4 ? 8 : rows <= 32 ? 16 : 32;
        const struct fake_launch *l =
            launched(&ampere, gate, compose(&k, gate, &s), rows, 10, NULL);
        ck_assert_uint_eq(l->config.gridDimX, 4096 / unit);
    }
}
END_TEST

/* Tiles cover rows and outputs, and the rings of all schemes fit. */
START_TEST(narrow_products_cover_rows_and_outputs)
{
    static const struct {
        const char *name;
        uint32_t matrix, launches;
    } cases[] = {{"qkv_int4.ampere", TN_DT_I4, 1},
                 {"norm_qkv_int8.ampere", TN_DT_I8, 2},
                 {"qkv_fp8_wide.ampere", TN_DT_F8E4M3, 1}};
    static const uint64_t widths[2][3] = {{1000, 65, 1}, {8000, 191, 1}};
    static const uint32_t row_counts[] = {1, 8, 9, 16, 17, 32, 33, 100, 256};

    for (uint32_t i = 0; i < 3 * 2 * 9; i++) {
        const tn_variant *v = variant(&ampere, cases[i % 3].name);
        uint32_t rows = row_counts[i / 6], blocks = 0, outputs = 0;
        uint32_t tokens = rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
        struct shape s = {.in_width = {256}, .act = TN_DT_F16, .matrix = cases[i % 3].matrix};
        int before = fake->calls("cuLaunchKernelEx");
        s.quant_group = 128;
        memcpy(s.linear_width, widths[i / 3 % 2], sizeof widths[0]);
        for (int m = 0; m < 3; m++)
            outputs += (uint32_t)s.linear_width[m];
        uint32_t tile = tokens == 32 ? 64 : 2 * tokens * (outputs >= 8192 ? 2 : 1);
        for (int m = 0; m < 3; m++)
            blocks += (uint32_t)((s.linear_width[m] + tile - 1) / tile);
        kit_free(&k);
        kit_init(&k, i);
        const struct fake_launch *l = launched(&ampere, v, compose(&k, v, &s), rows, 10, NULL);
        ck_assert_uint_eq(l->config.gridDimX, (rows + tokens - 1) / tokens);
        ck_assert_uint_eq(l->config.gridDimY, blocks);
        ck_assert_uint_le(l->config.sharedMemBytes, 99 * 1024); /* of capability 8.6 and 8.9 */
        ck_assert_int_eq(fake->calls("cuLaunchKernelEx") - before, (int)cases[i % 3].launches);
    }
}
END_TEST

static bool overlaps(const struct fake_launch *l)
{
    for (unsigned i = 0; i < l->config.numAttrs; i++)
        if (l->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
            return true;
    return false;
}

/* Kernels that begin early read the arrays of the step before they wait: so the first waits for the copy of these as a whole. */
START_TEST(a_step_begins_when_its_arrays_are_in_place)
{
    struct shape s = {.linear_width = {64}, .act = TN_DT_BF16, .table = 100};
    const tn_variant *feed = variant(&cuda, "feed.cuda");
    const tn_variant *embedding = variant(&cuda, _i ? "embedding_int8.cuda" : "embedding.cuda");

    s.matrix = _i ? TN_DT_I8 : TN_DT_BF16;
    ck_assert(embedding->flags & TN_VARIANT_FEEDS);

    ck_assert(!overlaps(launched(&cuda, feed, kit_op(&k, TN_OP_FEED), 300, 10, NULL)));
    ck_assert_uint_eq(fake->last_launch()->config.gridDimX, 2);
    ck_assert(overlaps(launched(&cuda, embedding, compose(&k, embedding, &s), 300, 10, NULL)));
    ck_assert_uint_eq(fake->last_launch()->config.gridDimX, 300);
    feeding = 1;
    ck_assert(!overlaps(launched(&cuda, embedding, compose(&k, embedding, &s), 300, 10, NULL)));
    feeding = 0;
}
END_TEST

START_TEST(contexts_are_split_where_sequences_do_not_fill_the_chip)
{
    static const struct {
        uint32_t seqs, kv_heads, context, splits;
    } cases[] = {{1, 8, 32768, 33}, {1, 32, 1024, 8},  {1, 8, 1024, 16}, {1, 1, 100000, 64},
                 {1, 8, 10, 1},     {64, 32, 8192, 1}, {33, 8, 4096, 1}, {16, 8, 4096, 2}};
    const tn_variant *v = variant(&ampere, "attention.bf16.ampere");
    tn_err err = TN_ERR_INIT;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct shape s = {.in_width = {cases[i].kv_heads * 4 * 128},
                          .heads = cases[i].kv_heads * 4,
                          .kv_heads = cases[i].kv_heads,
                          .head_dim = 128,
                          .act = TN_DT_BF16};
        tn_kv_layer kv = {.h = TN_HDR(tn_kv_layer),
                          .n_kv_heads = cases[i].kv_heads,
                          .head_dim = 128,
                          .block_tokens = 16,
                          .dtype = TN_DT_BF16};
        const tn_op *op = compose(&k, v, &s);
        const struct fake_launch *l =
            launched(&ampere, v, op, cases[i].seqs, cases[i].context, &kv);
        uint64_t bytes = 0, needed;
        ck_assert_uint_eq(l->config.gridDimX, cases[i].kv_heads);
        ck_assert_uint_eq(l->config.gridDimY, cases[i].seqs);
        ck_assert_uint_eq(l->config.gridDimZ, cases[i].splits);
        ck_assert_ok(
            v->workspace(ampere.instance, op, 512, cases[i].seqs, cases[i].context, &bytes, &err),
            &err);
        needed = (uint64_t)cases[i].seqs * cases[i].kv_heads * cases[i].splits * 16 * 130 * 4;
        ck_assert_msg(cases[i].splits == 1 || needed <= bytes, "case %zu: %llu bytes of %llu", i,
                      (unsigned long long)needed, (unsigned long long)bytes);
    }
}
END_TEST

/* Half the bytes per token, so larger heads keep two stages; and copies of sixteen cells at a time. */
START_TEST(caches_of_8_bits_take_kernels_that_fit_the_smallest_shared_memory)
{
    static const uint32_t dims[] = {32, 64, 80, 128, 160, 256}, dtypes[] = {TN_DT_F8E4M3, TN_DT_I8};
    const tn_variant *v = variant(&ampere, "attention.kv8.bf16.ampere");
    struct shape s = {
        .in_width = {2 * 24}, .heads = 2, .kv_heads = 1, .head_dim = 24, .act = TN_DT_BF16};

    expect_refusal(&ampere, v->name, &s, "multiples of 16");
    expect_taken(&ampere, "attention.bf16.ampere", &s);
    for (int i = 0; i < 12; i++) {
        uint32_t dim = dims[i / 2], width = dim <= 64 ? 64 : dim <= 128 ? 128 : 256;
        tn_kv_layer kv = {.h = TN_HDR(tn_kv_layer),
                          .n_kv_heads = 1,
                          .head_dim = dim,
                          .block_tokens = 16,
                          .dtype = dtypes[i % 2]};
        s.in_width[0] = 2 * dim;
        s.head_dim = dim;
        const struct fake_launch *l = launched(&ampere, v, compose(&k, v, &s), 3, 1000, &kv);
        ck_assert_uint_eq(l->config.sharedMemBytes, 16 * width * 2 + 2 * 2 * 64 * width);
        ck_assert_uint_le(l->config.sharedMemBytes, 99 * 1024);
    }
}
END_TEST

START_TEST(the_portable_set_keeps_caches_of_every_dtype)
{
    static const char *const ops[] = {TN_OP_KV_APPEND, TN_FUSED_ROPE_APPEND, TN_OP_ATTENTION};

    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        uint32_t have = plug_variant(&cuda, ops[i])->kv_dtypes;
        ck_assert(have & TN_DT_BIT(TN_DT_I8));
        ck_assert(have & TN_DT_BIT(TN_DT_F8E4M3));
        ck_assert(have & TN_DT_BIT(TN_DT_BF16));
    }
}
END_TEST

/* Every output is some warp's, and a few rows take the kernel that reads each weight once. */
START_TEST(few_rows_of_int4_have_a_warp_for_every_two_outputs)
{
    const tn_variant *v = variant(&cuda, "linear_int4_few.cuda");
    struct shape s = {.in_width = {256}, .act = TN_DT_BF16, .matrix = TN_DT_I4, .quant_group = 128};

    for (uint64_t n = 1; n < 70; n++) {
        const struct fake_launch *l;
        s.linear_width[0] = n;
        uint32_t rows = 1 + (uint32_t)n % 16, height = rows == 1 ? 1 : 4;
        l = launched(&cuda, v, compose(&k, v, &s), rows, 10, NULL);
        ck_assert_uint_ge(l->config.gridDimX * height, rows);
        ck_assert_uint_ge(l->config.gridDimY * 16, n);
        ck_assert_uint_lt((l->config.gridDimY - 1) * 16, n);
    }
    s.quant_group = 16; /* weights of one load would have two scales */
    expect_refusal(&cuda, "linear_int4_few.cuda", &s, "groups of a multiple of 32");
    expect_taken(&cuda, "linear_int4.cuda", &s);
}
END_TEST

/* Rows are rounded by one kernel, multiplied by the next, which streams the matrix if rows are few and loads fit. */
START_TEST(logits_of_int8_are_made_of_the_rows_that_want_them)
{
    static const uint32_t row_counts[] = {1, 2, 4, 5, 8, 9, 16, 17, 64, 65, 256};
    const tn_variant *plain = variant(&cuda, "logits_int8.cuda");
    const tn_variant *narrow = variant(&ampere, "logits_int8.ampere");

    for (size_t i = 0; i < 2 * sizeof row_counts / sizeof *row_counts; i++) {
        struct shape s = {.in_width = {i % 2 ? 264 : 256},
                          .linear_width = {1000},
                          .act = TN_DT_BF16,
                          .matrix = TN_DT_I8};
        uint32_t rows = row_counts[i / 2], height = rows == 1 ? 1 : rows <= 4 ? 4 : 8;
        int few = rows <= 16 && i % 2 == 0, before = fake->calls("cuLaunchKernelEx");
        const struct fake_launch *l =
            launched(&cuda, plain, compose(&k, plain, &s), rows, 10, NULL);
        ck_assert_uint_eq(l->config.gridDimX, few ? (rows + height - 1) / height : 16);
        ck_assert_uint_eq(l->config.gridDimY, few ? 63 : (rows + 63) / 64);
        ck_assert_int_eq(fake->calls("cuLaunchKernelEx") - before, 2);
        if (i % 2)
            continue;
        l = launched(&ampere, narrow, compose(&k, narrow, &s), rows, 10, NULL);
        height = rows <= 8 ? 8 : rows <= 16 ? 16 : 32;
        ck_assert_uint_eq(l->config.gridDimX, (rows + height - 1) / height);
        ck_assert_int_eq(fake->calls("cuLaunchKernelEx") - before, 4);
    }
}
END_TEST

START_TEST(quantized_products_without_cublaslt_are_left_to_plain_kernels)
{
    struct shape s = {.in_width = {128},
                      .linear_width = {64},
                      .act = TN_DT_BF16,
                      .matrix = TN_DT_I8,
                      .quant_group = 64};

    expect_refusal(&cuda, "linear_int8.cublaslt", &s, "cuBLASLt was not found");
    expect_taken(&cuda, "linear_int8.cuda", &s);
    expect_refusal(&cuda, "logits_int8.cublaslt", &s, "cuBLASLt was not found");
    expect_taken(&cuda, "logits_int8.cuda", &s);
    s.matrix = TN_DT_F8E4M3;
    expect_refusal(&cuda, "linear_fp8.cublaslt", &s, "cuBLASLt was not found");
    expect_taken(&cuda, "linear_fp8.cuda", &s);
    ck_assert(variant(&cuda, "linear_fp8_wide.cublaslt")->flags & TN_VARIANT_FALLBACK);
    s.matrix = TN_DT_I4;
    expect_refusal(&cuda, "linear_int4.cublaslt", &s, "cuBLASLt was not found");
    expect_taken(&cuda, "linear_int4.cuda", &s);
    s.matrix = TN_DT_I8;
    expect_refusal(&cuda, "linear_int4.cuda", &s, "its quantized matrix");
}
END_TEST

/* Short rows are left unrounded by variants that are no fallback; those that would round them want to be pinned. */
START_TEST(short_rows_of_fp8_are_not_rounded)
{
    const tn_variant *plain = variant(&cuda, "linear_fp8.cuda");
    const tn_variant *library = variant(&cuda, "linear_fp8.cublaslt");
    const tn_variant *unrounded = variant(&cuda, "linear_fp8_short.cuda");
    struct shape s = {
        .in_width = {1008}, .linear_width = {64}, .act = TN_DT_BF16, .matrix = TN_DT_F8E4M3};
    const tn_op *shorter = compose(&k, plain, &s), *longer;

    s.in_width[0] = 1024;
    longer = compose(&k, plain, &s);
    ck_assert(unrounded->flags & TN_VARIANT_WIDE_ROWS);
    ck_assert(!((unrounded->flags | variant(&cuda, "linear_fp8_short.cublaslt")->flags) &
                TN_VARIANT_FALLBACK));
    ck_assert(plain->cost_ns(cuda.instance, longer, 4) > 0);
    ck_assert(library->cost_ns(cuda.instance, longer, 4) > 0);
    expect_refusal(&cuda, "linear_fp8_short.cuda", &s, "rows of less than 1024");
    expect_refusal(&cuda, "linear_fp8_short.cublaslt", &s, "rows of less than 1024");
    s.in_width[0] = 1008;
    ck_assert(plain->cost_ns(cuda.instance, shorter, 4) < 0);
    ck_assert(library->cost_ns(cuda.instance, shorter, 4) < 0);
    ck_assert(unrounded->cost_ns(cuda.instance, shorter, 4) > 0);
    expect_taken(&cuda, "linear_fp8_short.cuda", &s);
    expect_refusal(&cuda, "linear_fp8_short.cublaslt", &s, "cuBLASLt was not found");
    ck_assert_uint_eq(launched(&cuda, unrounded, shorter, 5, 10, NULL)->config.gridDimX, 1);
}
END_TEST

START_TEST(without_e4m3_short_rows_are_as_others)
{
    struct shape s = {
        .in_width = {512}, .linear_width = {64}, .act = TN_DT_BF16, .matrix = TN_DT_F8E4M3};
    const tn_variant *plain = variant(&cuda, "linear_fp8.cuda");

    ck_assert(plain->cost_ns(cuda.instance, compose(&k, plain, &s), 4) > 0);
    expect_refusal(&cuda, "linear_fp8_short.cuda", &s, "a GPU with e4m3 arithmetic");
    expect_refusal(&cuda, "linear_fp8_short.cublaslt", &s, "a GPU with e4m3 arithmetic");
}
END_TEST

/* A block keeps a row of the gate in shared memory; rows of fp8 that are short may not be rounded there either. */
START_TEST(rows_behind_a_gate_are_rounded_where_they_fit_and_may_be)
{
    static const tn_kv with[] = {{"driver", FAKE_DRIVER}, {"cublaslt", FAKE_CUBLASLT}};
    struct shape s = {
        .in_width = {1024, 1024}, .linear_width = {64}, .act = TN_DT_BF16, .matrix = TN_DT_I8};
    const tn_variant *v;

    expect_refusal(&cuda, "silu_linear_int8.cublaslt", &s, "cuBLASLt was not found");
    plug_unload(&ampere);
    plug_unload(&cuda);
    plug_load_with(&cuda, "cuda", with, 2);
    plug_load_on(&ampere, "ampere", &cuda);
    expect_taken(&cuda, "silu_linear_int8.cublaslt", &s);
    s.in_width[0] = s.in_width[1] = 32768;
    expect_refusal(&cuda, "gelu_linear_int8.cublaslt", &s, "up to 60 KiB");
    s.in_width[0] = s.in_width[1] = 1000;
    expect_refusal(&cuda, "gelu_linear_int8.cublaslt", &s, "a multiple of 16");
    s.matrix = TN_DT_F8E4M3;
    s.in_width[0] = s.in_width[1] = 1008;
    v = variant(&cuda, "gelu_tanh_linear_fp8.cublaslt");
    ck_assert(v->cost_ns(cuda.instance, compose(&k, v, &s), 64) < 0);
    s.in_width[0] = s.in_width[1] = 1024;
    ck_assert(v->cost_ns(cuda.instance, compose(&k, v, &s), 64) > 0);
    s.in_width[1] = 512;
    s.act = TN_DT_F32;
    expect_refusal(&cuda, "gelu_tanh_linear_fp8.cublaslt", &s, "two equal rows");
}
END_TEST

/* -- Failures ------------------------------------------------------------------------------------------------ */

START_TEST(an_attachment_that_fails_leaves_nothing)
{
    const struct plug *plugs[] = {&cuda, &ampere};

    for (int p = 0; p < 2; p++) {
        const tn_kernel_set *set = plugs[p]->set;
        int before, blocks, nth = 0, attached = 0;
        set->detach(plugs[p]->instance, plugs[p]->device);
        before = fake->live();
        blocks = plugs[p]->allocations;
        while (!attached) {
            tn_err err = TN_ERR_INIT;
            fake->arrange(NULL, ++nth, CUDA_ERROR_OUT_OF_MEMORY);
            attached = set->attach(plugs[p]->instance, cuda.devices, cuda.device, &err) == TN_OK;
            fake->arrange(NULL, 0, CUDA_SUCCESS);
            if (attached)
                break;
            ck_assert_msg(err.msg[0] != '\0', "%s: no reason for call %d", plugs[p]->plugin->name,
                          nth);
            ck_assert_int_eq(fake->live(), before);
            ck_assert_int_eq(plugs[p]->allocations, blocks);
        }
        ck_assert_int_gt(nth, 10);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda_sets");
    TCase *c = tcase_create("sets"), *older = tcase_create("older");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, the_portable_set_has_every_op_in_every_float_dtype);
    tcase_add_test(c, names_are_unique);
    tcase_add_test(c, times_depend_on_the_version_of_cublaslt);
    tcase_add_test(c, without_cublaslt_its_variants_say_so_and_plain_ones_serve);
    tcase_add_test(c, shapes_that_do_not_fit_are_refused_with_the_reason);
    tcase_add_test(c, few_rows_fill_the_grid_and_fit_the_smallest_shared_memory);
    tcase_add_test(c, tables_of_int8_have_scales_and_factors);
    tcase_add_test(c, narrow_weights_that_do_not_fit_are_refused_with_the_reason);
    tcase_add_test(c, unrounded_rows_of_fp8_are_for_gpus_without_e4m3);
    tcase_add_test(c, narrow_products_cover_rows_and_outputs);
    tcase_add_loop_test(c, a_step_begins_when_its_arrays_are_in_place, 0, 2);
    tcase_add_test(c, contexts_are_split_where_sequences_do_not_fill_the_chip);
    tcase_add_test(c, caches_of_8_bits_take_kernels_that_fit_the_smallest_shared_memory);
    tcase_add_test(c, the_portable_set_keeps_caches_of_every_dtype);
    tcase_add_test(c, few_rows_of_int4_have_a_warp_for_every_two_outputs);
    tcase_add_test(c, logits_of_int8_are_made_of_the_rows_that_want_them);
    tcase_add_test(c, quantized_products_without_cublaslt_are_left_to_plain_kernels);
    tcase_add_test(c, rows_behind_a_gate_are_rounded_where_they_fit_and_may_be);
    tcase_add_test(c, short_rows_of_fp8_are_not_rounded);
    tcase_add_test(c, an_attachment_that_fails_leaves_nothing);
    suite_add_tcase(s, c);
    tcase_add_checked_fixture(older, setup_older, teardown);
    tcase_add_test(older, without_e4m3_short_rows_are_as_others);
    suite_add_tcase(s, older);
    return run_suite(s);
}
