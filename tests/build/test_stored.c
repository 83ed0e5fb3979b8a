/* SPDX-License-Identifier: Apache-2.0 */
/* Quantized matrices of a checkpoint through the plugin that reads them: parts of one linear, whose scales differ. */
#include "build/stored.h"

#include "base/mem.h"
#include "base/rng.h"
#include "build/emit.h"
#include "check_util.h"
#include "tenon/float.h"
#include "tenon/ops.h"

static char dir[64];
static struct registry *registry;
static const struct registry_view *view;
static struct checkpoint *checkpoint;
static struct stored *stored;
static json_t *config;

#define MAX_TENSORS 16

static struct st_tensor tensors[MAX_TENSORS];
static const void *datas[MAX_TENSORS];
static size_t n_tensors;

static void put(const char *name, uint32_t dtype, uint64_t d0, uint64_t d1, const void *data)
{
    struct st_tensor *t = &tensors[n_tensors];

    *t = (struct st_tensor){.name = name, .dtype = dtype, .n_dims = d1 ? 2 : 1, .dims = {d0, d1}};
    t->bytes = d0 * (d1 ? d1 : 1) * tn_dtype_bits(dtype) / 8;
    datas[n_tensors++] = data;
}

static void open_plugins(void)
{
    const char *paths[] = {BUILD_DIR "/lib/tenon/plugins"};
    struct registry_options o = {.paths = paths, .n_paths = 1};
    tn_err err = TN_ERR_INIT;

    temp_dir(dir, sizeof dir);
    n_tensors = 0;
    ck_assert_ok(registry_open(&o, &registry, &err), &err);
    view = registry_acquire(registry);
}

/* The checkpoint of what was put, described by `text`. */
static int32_t open_checkpoint(const char *text, tn_err *err)
{
    char path[128];
    int32_t rc;

    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ck_assert_ok(safetensors_write(path, tensors, datas, n_tensors, err), err);
    ck_assert_ok(checkpoint_open(dir, &checkpoint, err), err);
    ck_assert_ok(json_parse(text, strlen(text), "config.json", &config, err), err);
    rc = stored_open(view, config, "config.json", checkpoint, &stored, err);
    return rc;
}

static void close_all(void)
{
    tn_err err = TN_ERR_INIT;

    stored_close(stored);
    checkpoint_close(checkpoint);
    json_decref(config);
    registry_release(view);
    registry_close(registry);
    stored = NULL;
    checkpoint = NULL;
    config = NULL;
    ck_assert_ok(dir_remove(dir, &err), &err);
}

/* Which of two groups each of 16 columns is in. */
static const int32_t by_importance[16] = {1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0};

static struct weight_source rows_of(const char *tensor, uint64_t begin, uint64_t end)
{
    return (struct weight_source){
        .tensor = tensor, .row_begin = begin, .row_end = end, .stored = stored};
}

/* -- Eight bits ------------------------------------------------------------------------------------------ */

START_TEST(scales_per_tensor_become_scales_per_row_when_parts_are_joined)
{
    static const uint8_t a[2 * 4] = {1, 2, 3, 4, 5, 6, 7, 8}, b[3 * 4] = {11, 12, 13, 14, 15, 16};
    static const float scale_a = 0.5f, scale_b = 0.25f, in_a = 0.125f, in_b = 0.0625f;
    struct weight_source sources[2];
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    tn_err err = TN_ERR_INIT;
    uint8_t codes[4 * 4] = {0};
    float scales[4] = {0}, wide[2 * 4];
    void *out[] = {codes, scales};
    double error = -1.0;

    put("a.weight", TN_DT_F8E4M3, 2, 4, a);
    put("a.weight_scale", TN_DT_F32, 1, 0, &scale_a);
    put("a.input_scale", TN_DT_F32, 1, 0, &in_a);
    put("b.weight", TN_DT_F8E4M3, 3, 4, b);
    put("b.weight_scale", TN_DT_F32, 1, 0, &scale_b);
    put("b.input_scale", TN_DT_F32, 1, 0, &in_b);
    ck_assert_ok(open_checkpoint("{\"quantization_config\": {\"quant_method\": \"fp8\", "
                                 "\"activation_scheme\": \"static\"}}",
                                 &err),
                 &err);
    sources[0] = rows_of("a.weight", 0, 2);
    sources[1] = rows_of("b.weight", 1, 3);
    ck_assert_ok(stored_plan(stored, sources, 2, &plan, &err), &err);
    ck_assert_str_eq(plan.op, TN_OP_LINEAR_FP8);
    ck_assert_uint_eq(plan.n_tensors, 2);
    ck_assert_uint_eq(plan.tensors[0].dims[0], 4);
    ck_assert_uint_eq(plan.n_attrs, 1);
    ck_assert_str_eq(plan.attrs[0].name, "act_scale");
    ck_assert_double_eq(plan.attrs[0].f,
                        0.125); /* the larger: its range holds the inputs of both */
    ck_assert_ok(stored_fill(stored, sources, 2, out, &error, &err), &err);
    ck_assert_double_eq(error, 0.0);
    ck_assert_mem_eq(codes, a, 8);
    ck_assert_mem_eq(codes + 8, b + 4, 8);
    ck_assert(scales[0] == 0.5f && scales[1] == 0.5f && scales[2] == 0.25f && scales[3] == 0.25f);
    ck_assert_ok(stored_widen(stored, &sources[1], wide, &err), &err);
    for (int i = 0; i < 8; i++)
        ck_assert(wide[i] == 0.25f * tn_f8e4m3_to_f32(b[4 + i]));
}
END_TEST

START_TEST(parts_of_two_kinds_are_declined)
{
    static const uint8_t a[4] = {1, 2, 3, 4};
    static const float scale = 0.5f;
    struct weight_source sources[2];
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    tn_err err = TN_ERR_INIT;

    put("a.weight", TN_DT_F8E4M3, 1, 4, a);
    put("a.weight_scale", TN_DT_F32, 1, 0, &scale);
    put("b.weight", TN_DT_I8, 1, 4, a);
    put("b.weight_scale", TN_DT_F32, 1, 0, &scale);
    ck_assert_ok(
        open_checkpoint("{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", "
                        "\"config_groups\": {"
                        "\"x\": {\"targets\": [\"a\"], \"weights\": {\"type\": \"float\"}, "
                        "\"input_activations\": {\"type\": \"float\", \"dynamic\": true}}, "
                        "\"y\": {\"targets\": [\"Linear\"], \"weights\": {\"type\": \"int\"}, "
                        "\"input_activations\": {\"type\": \"int\", \"dynamic\": true}}}}}",
                        &err),
        &err);
    sources[0] = rows_of("a.weight", 0, 1);
    sources[1] = rows_of("b.weight", 0, 1);
    ck_assert_ok(stored_plan(stored, &sources[1], 1, &plan, &err), &err);
    ck_assert_str_eq(plan.op, TN_OP_LINEAR_INT8);
    ck_assert_int_eq(stored_plan(stored, sources, 2, &plan, &err), TN_E_UNSUPPORTED);
    ck_assert_msg(strstr(err.msg, "different ways") != NULL, "%s", err.msg);
}
END_TEST

/* -- Four bits ------------------------------------------------------------------------------------------- */

/* Eight rows of 16 columns in groups of 16 (a) and 8 (b), all codes 9; zero points 8 and 7. */
START_TEST(groups_of_two_sizes_and_zero_points_of_one_part_are_joined)
{
    uint32_t qa[16 / 8 * 8], qb[16 / 8 * 8], za[1] = {0x77777777}, zb[2] = {0x66666666, 0x66666666};
    uint16_t sa[8], sb[16];
    uint8_t codes[16 * 16 / 2] = {0};
    float scales[16 * 2] = {0};
    int8_t zeros[16 * 2] = {0};
    void *out[] = {codes, scales, zeros};
    struct weight_source sources[2];
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    tn_err err = TN_ERR_INIT;
    double error = -1.0;
    uint64_t dims[2] = {0, 0};

    for (int i = 0; i < 16; i++) {
        qa[i] = qb[i] = 0x99999999;
        sb[i] = tn_f32_to_f16(0.25f);
        sa[i / 2] = tn_f32_to_f16(0.5f);
    }
    put("a.weight_packed", TN_DT_I32, 8, 2, qa);
    put("b.qweight", TN_DT_I32, 2, 8, qb);
    put("b.qzeros", TN_DT_I32, 2, 1, zb);
    put("b.scales", TN_DT_F16, 2, 8, sb);
    put("c.qweight", TN_DT_I32, 2, 8, qa);
    put("c.qzeros", TN_DT_I32, 2, 1, (uint32_t[]){za[0], za[0]});
    put("c.scales", TN_DT_F16, 2, 8,
        (uint16_t[]){sa[0], sa[0], sa[0], sa[0], sa[0], sa[0], sa[0], sa[0], sa[0], sa[0], sa[0],
                     sa[0], sa[0], sa[0], sa[0], sa[0]});
    ck_assert_ok(
        open_checkpoint("{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, "
                        "\"group_size\": 8}}",
                        &err),
        &err);
    ck_assert_int_ne(stored_describe(stored, "a.weight", dims, &err),
                     TN_OK); /* of another layout */
    sources[0] = rows_of("c.weight", 0, 8);
    sources[1] = rows_of("b.weight", 0, 8);
    ck_assert_ok(stored_plan(stored, &sources[0], 1, &plan, &err), &err);
    ck_assert_uint_eq(plan.n_tensors, 2); /* zero points that are all 8 are none */
    plan = (tn_quant_plan){.h = TN_HDR(tn_quant_plan)};
    ck_assert_ok(stored_plan(stored, sources, 2, &plan, &err), &err);
    ck_assert_str_eq(plan.op, TN_OP_LINEAR_INT4);
    ck_assert_uint_eq(plan.n_tensors, 3);
    ck_assert_ok(stored_fill(stored, sources, 2, out, &error, &err), &err);
    for (int i = 0; i < 16 * 16 / 2; i++)
        ck_assert_uint_eq(codes[i], 0x11); /* 9 - 8 */
    for (int i = 0; i < 32; i++) {
        ck_assert_int_eq(zeros[i], i < 16 ? 0 : -1); /* stored 6, which stands for 7: less 8 */
        ck_assert(scales[i] == (i < 16 ? 0.5f : 0.25f));
    }
}
END_TEST

START_TEST(memory_running_out_is_an_error)
{
    static const uint32_t words[16 / 8 * 8] = {0}, zeros[2] = {0x77777777, 0x67777777};
    static const uint16_t scales[16] = {0x3800, 0x3800, 0x3800, 0x3800, 0x3800, 0x3800,
                                        0x3800, 0x3800, 0x3800, 0x3800, 0x3800, 0x3800,
                                        0x3800, 0x3800, 0x3800, 0x3800};
    const char *text = "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, "
                       "\"group_size\": 8, \"modules_to_not_convert\": [\"b\", \"re:c\"]}}";
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;
    uint64_t n;

    put("a.qweight", TN_DT_I32, 2, 8, words);
    put("a.qzeros", TN_DT_I32, 2, 1, zeros);
    put("a.scales", TN_DT_F16, 2, 8, scales);
    put("a.g_idx", TN_DT_I32, 16, 0, by_importance);
    ck_assert_ok(open_checkpoint(text, &err), &err);
    for (n = 1; rc != TN_OK; n++) {
        uint8_t codes[64] = {0};
        float scale[16], wide[128];
        uint32_t order[16];
        int8_t zero[16];
        void *out[] = {codes, scale, zero};
        struct weight_source source;
        tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
        double error;
        stored_close(stored);
        stored = NULL;
        err = (tn_err)TN_ERR_INIT;
        mem_fail_nth(n, false);
        rc = stored_open(view, config, "config.json", checkpoint, &stored, &err);
        source = rows_of("a.weight", 0, 8);
        if (rc == TN_OK)
            rc = stored_plan(stored, &source, 1, &plan, &err);
        if (rc == TN_OK)
            rc = stored_order(stored, &source, 1, order, 16, &err);
        if (rc == TN_OK)
            rc = stored_fill(stored, &source, 1, out, &error, &err);
        if (rc == TN_OK)
            rc = stored_widen(stored, &source, wide, &err);
        mem_fail_nth(0, false);
        ck_assert_msg(rc == TN_OK || rc == TN_E_NOMEM, "allocation %d: %d %s", (int)n, (int)rc,
                      err.msg);
    }
    ck_assert_uint_gt(n, 10);
}
END_TEST

/* Columns of a group come together and keep their order; codes go with them, scales stay. */
START_TEST(groups_by_importance_are_brought_together)
{
    static const char text[] =
        "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, "
        "\"group_size\": 8, \"desc_act\": true}}";
    static const uint32_t zeros[2] = {0x77777777, 0x77777777}; /* 8 less 1 */
    uint32_t words[16], order[16];
    uint16_t scales[16];
    uint8_t codes[64] = {0};
    float scale[16];
    void *out[] = {codes, scale};
    struct weight_source source = rows_of("a.weight", 0, 8);
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    double error = 1.0;
    tn_err err = TN_ERR_INIT;

    for (uint32_t i = 0; i < 16; i++) {
        words[i] = i < 8 ? 0x76543210 : 0xfedcba98; /* column k has code k */
        scales[i] = i < 8 ? 0x3c00 : 0x4000;        /* 1 and 2 */
    }
    put("a.qweight", TN_DT_I32, 2, 8, words);
    put("a.qzeros", TN_DT_I32, 2, 1, zeros);
    put("a.scales", TN_DT_F16, 2, 8, scales);
    put("a.g_idx", TN_DT_I32, 16, 0, by_importance);
    ck_assert_ok(open_checkpoint(text, &err), &err);
    ck_assert_ok(stored_plan(stored, &source, 1, &plan, &err), &err);
    ck_assert_ok(stored_order(stored, &source, 1, order, 16, &err), &err);
    ck_assert_ok(stored_fill(stored, &source, 1, out, &error, &err), &err);
    ck_assert_double_eq(error, 0.0);
    for (uint32_t k = 0; k < 16; k++) {
        ck_assert_uint_eq(order[k], k < 8 ? 2 * k + 1 : 2 * (k - 8));
        ck_assert_uint_eq(codes[k / 2] >> (k % 2 * 4) & 15, (order[k] + 8) % 16);
    }
    ck_assert_float_eq(scale[0], 1.0f);
    ck_assert_float_eq(scale[1], 2.0f);
}
END_TEST

/* -- Anything --------------------------------------------------------------------------------------------- */

static const char *const texts[] = {
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": {"
    "\"x\": {\"targets\": [\"re:a.*\", \"Linear\"], \"weights\": {\"num_bits\": 8, "
    "\"type\": \"float\", \"strategy\": \"block\", \"block_structure\": [2, 4]}, "
    "\"input_activations\": {\"type\": \"float\", \"dynamic\": true}}}, \"ignore\": [\"re:b$\"]}}",
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": {"
    "\"x\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 4, \"group_size\": 8, "
    "\"strategy\": \"group\", \"symmetric\": false}}}}}",
    "{\"quantization_config\": {\"quant_method\": \"fp8\", \"activation_scheme\": \"static\", "
    "\"weight_block_size\": [2, 8]}}",
    "{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 8, "
    "\"zero_point\": true, \"version\": \"gemm\"}}",
    "{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 8, "
    "\"checkpoint_format\": \"gptq\"}}"};

/* Tensors of all layouts, each of a random dtype and shape now and then, of random bytes. */
static void put_anything(struct rng *r)
{
    static const struct {
        const char *name;
        uint32_t dtype;
        uint64_t d0, d1;
    } usual[] = {{"a.weight", TN_DT_F8E4M3, 8, 16},
                 {"a.weight_scale", TN_DT_F32, 4, 4},
                 {"a.weight_scale_inv", TN_DT_F32, 4, 2},
                 {"a.input_scale", TN_DT_F32, 1, 0},
                 {"a.weight_packed", TN_DT_I32, 8, 2},
                 {"a.weight_shape", TN_DT_I64, 2, 0},
                 {"a.weight_zero_point", TN_DT_I32, 1, 2},
                 {"a.qweight", TN_DT_I32, 2, 8},
                 {"a.qzeros", TN_DT_I32, 2, 1},
                 {"a.scales", TN_DT_F16, 2, 8},
                 {"a.g_idx", TN_DT_I32, 16, 0},
                 {"a.weight_g_idx", TN_DT_I32, 16, 0}};
    static const uint32_t dtypes[] = {TN_DT_F32, TN_DT_F16,    TN_DT_BF16, TN_DT_I32,
                                      TN_DT_I64, TN_DT_F8E4M3, TN_DT_I8};
    static uint8_t bytes[4096];
    static const int64_t shape[2] = {8, 16};
    static int32_t groups[16];

    for (uint32_t i = 0; i < 16; i++)
        groups[i] = by_importance[i] ^ (rng_below(r, 64) == 0);
    n_tensors = 0;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(rng_below(r, 4) ? 0x3c : rng_below(r, 256));
    for (size_t i = 0; i < sizeof usual / sizeof *usual; i++) {
        bool odd = rng_below(r, 12) == 0;
        uint32_t dtype = odd ? dtypes[rng_below(r, 7)] : usual[i].dtype;
        uint64_t d0 = odd ? rng_below(r, 18) : usual[i].d0,
                 d1 = odd ? rng_below(r, 18) : usual[i].d1;
        const void *data = i == 5 ? (const void *)shape : i > 9 ? (const void *)groups : bytes;
        if (rng_below(r, 5))
            put(usual[i].name, dtype, d0, d1, odd || rng_below(r, 4) == 0 ? bytes : data);
    }
}

/* Asks everything about the matrix; what comes back does not matter, only that it does. */
static void ask_all(void)
{
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    struct weight_source source;
    uint64_t dims[2] = {0, 0};
    void *out[TN_QUANT_MAX_TENSORS] = {NULL};
    double error;
    float *wide;

    if (stored_describe(stored, "a.weight", dims, NULL) != TN_OK)
        return;
    ck_assert(dims[0] > 0 && dims[0] < 256 && dims[1] > 0 && dims[1] < 256);
    source = rows_of("a.weight", dims[0] / 2, dims[0]);
    wide = mem_array((size_t)(dims[0] * dims[1]), sizeof *wide);
    stored_widen(stored, &source, wide, NULL);
    if (stored_plan(stored, &source, 1, &plan, NULL) == TN_OK) {
        for (uint32_t i = 0; i < plan.n_tensors; i++) {
            const tn_quant_tensor *t = &plan.tensors[i];
            uint64_t bits = t->dims[0] * (t->n_dims > 1 ? t->dims[1] : 1) * tn_dtype_bits(t->dtype);
            out[i] = mem_zalloc((size_t)(bits + 7) / 8);
        }
        stored_fill(stored, &source, 1, out, &error, NULL);
        stored_order(stored, &source, 1, (uint32_t *)wide, dims[1], NULL);
        for (uint32_t i = 0; i < plan.n_tensors; i++)
            mem_free(out[i]);
    }
    mem_free(wide);
}

/* Under the address sanitizer this finds reads and writes out of bounds. */
START_TEST(whatever_the_files_say_nothing_breaks)
{
    struct rng r = {.state = (uint64_t)_i};
    char text[1024], path[128];
    uint32_t opened = 0;

    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    for (int round = 0; round < 60; round++) {
        tn_err err = TN_ERR_INIT;
        size_t len;
        snprintf(text, sizeof text, "%s", texts[rng_below(&r, sizeof texts / sizeof *texts)]);
        len = strlen(text);
        for (uint64_t hits = rng_below(&r, 3); hits > 0; hits--)
            text[rng_below(&r, (uint32_t)len)] = "0189-{}[]\",:ab"[rng_below(&r, 14)];
        put_anything(&r);
        ck_assert_ok(safetensors_write(path, tensors, datas, n_tensors, &err), &err);
        if (checkpoint_open(dir, &checkpoint, &err) == TN_OK &&
            json_parse(text, len, "config.json", &config, &err) == TN_OK &&
            stored_open(view, config, "config.json", checkpoint, &stored, &err) == TN_OK &&
            stored) {
            opened++;
            ask_all();
        }
        stored_close(stored);
        checkpoint_close(checkpoint);
        json_decref(config);
        stored = NULL;
        checkpoint = NULL;
        config = NULL;
    }
    ck_assert_uint_gt(opened, 10);
}
END_TEST

START_TEST(tensors_know_whose_they_are)
{
    static const uint8_t a[4] = {1, 2, 3, 4};
    static const float scale = 0.5f;
    tn_err err = TN_ERR_INIT;
    char weight[64] = "";
    float scales[2] = {0};
    uint32_t dtype = 0;

    put("l.a.weight", TN_DT_F8E4M3, 1, 4, a);
    put("l.a.weight_scale", TN_DT_F32, 1, 0, &scale);
    put("l.attn.k_scale", TN_DT_F32, 1, 0, &scale);
    put("l.attn.v_scale", TN_DT_F32, 1, 0, &scale);
    ck_assert_ok(open_checkpoint("{\"quantization_config\": {\"quant_method\": \"fp8\"}}", &err),
                 &err);
    ck_assert_uint_eq(stored_owner(stored, "l.a.weight_scale", weight, sizeof weight),
                      TN_QUANT_OWNS_PART);
    ck_assert_str_eq(weight, "l.a.weight");
    ck_assert_uint_eq(stored_owner(stored, "l.attn.k_scale", weight, sizeof weight),
                      TN_QUANT_OWNS_EXTRA);
    ck_assert_uint_eq(stored_owner(stored, "l.a.bias", weight, sizeof weight), TN_QUANT_OWNS_NOT);
    ck_assert_uint_eq(stored_owner(stored, "scale", weight, sizeof weight), TN_QUANT_OWNS_NOT);
    ck_assert_ok(stored_cache(stored, "l.attn.v_proj.weight", &dtype, scales, &err), &err);
    ck_assert_uint_eq(dtype, TN_DT_F8E4M3);
    ck_assert(scales[0] == 0.5f && scales[1] == 0.5f);
    ck_assert_int_eq(stored_cache(stored, "l.a.weight", &dtype, scales, &err), TN_E_NOTFOUND);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_stored");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, open_plugins, close_all);
    tcase_set_timeout(t, 60); /* each file that is written is synchronised */
    tcase_add_test(t, scales_per_tensor_become_scales_per_row_when_parts_are_joined);
    tcase_add_test(t, parts_of_two_kinds_are_declined);
    tcase_add_test(t, groups_of_two_sizes_and_zero_points_of_one_part_are_joined);
    tcase_add_test(t, memory_running_out_is_an_error);
    tcase_add_test(t, groups_by_importance_are_brought_together);
    tcase_add_loop_test(t, whatever_the_files_say_nothing_breaks, 0, 4);
    tcase_add_test(t, tensors_know_whose_they_are);
    suite_add_tcase(s, t);
    return run_suite(s);
}
