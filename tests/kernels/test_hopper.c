/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of plugins/kernels/hopper on a device that only notes what is launched: what a variant refuses, and that
 * plans of launches cover their work within the limits of the chip. The arithmetic is tested on a GPU (tests/gpu).
 */
#include "check_util.h"
#include "eight.h"
#include "hopper.h"
#include "tenon/plugin.h"

#define SHARED_LIMIT (227u * 1024) /* of a block on compute capability 9.0 */

#define IMAGE(IMAGE, name)                                                                         \
    const unsigned char tenon_image_##name[] = #name;                                              \
    const uint64_t tenon_image_##name##_bytes = 1;
HOPPER_IMAGES(IMAGE)

extern const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor);

/* -- A device that notes ----------------------------------------------------------------------------- */

static struct noted {
    const char *entry;
    tn_kernel_launch k;
    struct product_params products;
    struct eight_params eight;
    struct quantize_params quantize;
    struct attention_params attention;
} launches[8];
static uint32_t swizzles[8]; /* of the last tensor that was encoded with so many dimensions */
static uint32_t n_launches, n_images;
static int32_t image_status;
static uint64_t page_stride; /* of the cache in the last tensor that was encoded for it */

static int32_t encode(void *map, int32_t type, uint32_t rank, void *address, const uint64_t *dims,
                      const uint64_t *strides, const uint32_t *box, const uint32_t *element_strides,
                      int32_t interleave, int32_t swizzle, int32_t promotion, int32_t fill)
{
    (void)address;
    (void)element_strides;
    (void)interleave;
    (void)promotion;
    (void)fill;
    memset(map, type, sizeof(struct tensor_map));
    swizzles[rank] = (uint32_t)swizzle;
    if (rank > 2)
        page_stride = strides[rank - 2];
    for (uint32_t i = 0; i < rank; i++) /* what the driver demands */
        if (dims[i] == 0 || box[i] == 0 || box[i] > 256 || (i && strides[i - 1] % 16))
            return 1;
    return 0;
}

static int32_t native_symbol(tn_device *d, const char *name, void **out, tn_err *err)
{
    int32_t (*f)(void *, int32_t, uint32_t, void *, const uint64_t *, const uint64_t *,
                 const uint32_t *, const uint32_t *, int32_t, int32_t, int32_t, int32_t) = encode;

    (void)d;
    if (strcmp(name, "cuTensorMapEncodeTiled") != 0)
        return tn_err_set(err, TN_E_NOTFOUND, "no %s", name);
    memcpy(out, &f, sizeof *out);
    return TN_OK;
}

static int32_t image_load(tn_device *d, const void *image, uint64_t bytes, tn_image **out,
                          tn_err *err)
{
    (void)d;
    (void)bytes;
    if (image_status)
        return tn_err_set(err, image_status, "no code");
    n_images++;
    *out = (tn_image *)(uintptr_t)image;
    return TN_OK;
}

static int32_t image_entry(tn_device *d, tn_image *image, const char *name, void **out, tn_err *err)
{
    (void)d;
    (void)image;
    (void)err;
    *out = (void *)(uintptr_t)name;
    return TN_OK;
}

static void image_unload(tn_device *d, tn_image *image)
{
    (void)d;
    (void)image;
    n_images--;
}

static int32_t note_launch(tn_device *d, tn_stream *s, const tn_kernel_launch *k, tn_err *err)
{
    struct noted *n = &launches[n_launches++];

    (void)d;
    (void)s;
    (void)err;
    ck_assert_uint_le(n_launches, 8);
    n->entry = k->entry;
    n->k = *k;
    if (strncmp(n->entry, "skinny", 6) == 0 || strncmp(n->entry, "wide", 4) == 0)
        n->products = *(const struct product_params *)k->params[0];
    if (strncmp(n->entry, "few", 3) == 0 || strncmp(n->entry, "many", 4) == 0)
        n->eight = *(const struct eight_params *)k->params[0];
    if (strncmp(n->entry, "quantize", 8) == 0)
        n->quantize = *(const struct quantize_params *)k->params[0];
    if (strncmp(n->entry, "decode", 6) == 0 || strncmp(n->entry, "prefill", 7) == 0)
        n->attention = *(const struct attention_params *)k->params[0];
    ck_assert_uint_le(k->shared_bytes, SHARED_LIMIT);
    ck_assert_uint_eq(k->grid[0] % k->cluster[0], 0);
    ck_assert_uint_le(k->cluster[0], 8);
    ck_assert_uint_eq(k->flags, TN_LAUNCH_OVERLAP);
    return TN_OK;
}

static const tn_device_api api = {
    .h = TN_HDR(tn_device_api),
    .kind = "cuda",
    .image_load = image_load,
    .image_entry = image_entry,
    .image_unload = image_unload,
    .launch = note_launch,
    .native_symbol = native_symbol,
};

static char places[CUDA_MAX_DEVICES + 1];
static tn_err err;
static void *instance;

static tn_device *device(int i)
{
    return (tn_device *)(void *)&places[i];
}

static void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    (void)ctx;
    (void)align;
    return calloc(1, bytes);
}

static void host_free(tn_host_ctx *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static const tn_host host = {.h = TN_HDR(tn_host), .alloc = host_alloc, .free = host_free};

static void setup(void)
{
    err = (tn_err)TN_ERR_INIT;
    n_launches = 0;
    image_status = TN_OK;
    ck_assert_ok(tn_plugin_query_v1(&host, 0)->init(&host, NULL, 0, &instance, &err), &err);
    ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(0), &err), &err);
}

static void teardown(void)
{
    hopper_kernel_set.detach(instance, device(0));
    ck_assert_uint_eq(n_images, 0);
    tn_plugin_query_v1(&host, 0)->fini(instance);
}

/* -- Ops ----------------------------------------------------------------------------------------------- */

static tn_value values[16];
static tn_weight weights[8];
static tn_op ops[8];
static const tn_value *value_list[16];
static const tn_weight *weight_list[8];
static const tn_op *member_list[8];

static const tn_value *value(int i, uint32_t kind, uint64_t width)
{
    values[i] = (tn_value){TN_HDR(tn_value), kind, TN_DT_BF16, width, 0, 0};
    return value_list[i] = &values[i];
}

static const tn_weight *weight(int i, uint32_t dtype, uint64_t n, uint64_t k)
{
    weights[i] = (tn_weight){.h = TN_HDR(tn_weight),
                             .dtype = dtype,
                             .n_dims = k ? 2 : 1,
                             .dims = {n, k},
                             .stride0 = k ? 2 * k : 2};
    return weight_list[i] = &weights[i];
}

static tn_op *linear(int i, uint64_t n, uint64_t k)
{
    value(2 * i, TN_VALUE_ROWS, k);
    value(2 * i + 1, TN_VALUE_ROWS, n);
    weight(i, TN_DT_BF16, n, k);
    ops[i] = (tn_op){.h = TN_HDR(tn_op),
                     .name = TN_OP_LINEAR,
                     .n_in = 1,
                     .n_out = 1,
                     .n_weights = 1,
                     .in = &value_list[2 * i],
                     .out = &value_list[2 * i + 1],
                     .weights = &weight_list[i]};
    return &ops[i];
}

static tn_batch_arrays arrays;
static char memory[64];

static void launch(const tn_variant *v, const tn_op *op, const tn_batch *b, const tn_kv_layer *kv)
{
    const void *in[8] = {memory, memory, memory, memory, memory, memory, memory, memory};
    void *out[4] = {memory, memory, memory, memory};
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = op,
                   .batch = b,
                   .in = in,
                   .out = out,
                   .weights = in,
                   .kv = kv,
                   .workspace = memory,
                   .device = device(0),
                   .tp_size = 1};

    n_launches = 0;
    ck_assert_ok(v->launch(instance, &l, &err), &err);
}

static tn_batch batch_of(uint32_t rows)
{
    return (tn_batch){.h = TN_HDR(tn_batch),
                      .n_rows = rows,
                      .n_seqs = rows,
                      .n_logits = rows,
                      .block_tokens = 16,
                      .max_blocks = 64,
                      .max_rows_per_seq = 1,
                      .max_context = 1024,
                      .dev = &arrays};
}

/* -- Products ------------------------------------------------------------------------------------------ */

/* Every row of the matrix is in a tile, every token in its columns, and the tile splits evenly over the cluster. */
START_TEST(plan_of_a_product_covers_it)
{
    static const uint32_t ns[] = {8, 64, 136, 1000, 4096, 12288, 128256},
                          ks[] = {8, 64, 712, 11008};

    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++)
            for (uint32_t rows = 1; rows <= 128; rows++) {
                const struct noted *n = &launches[0];
                tn_batch b = batch_of(rows);
                unsigned tile, tokens, stages;
                const tn_op *op = linear(0, ns[i], ks[j]);
                ck_assert_ok(hopper_linear.can_run(instance, op, &err), &err);
                launch(&hopper_linear, op, &b, NULL);
                ck_assert_uint_eq(n_launches, 1);
                ck_assert_int_eq(sscanf(n->entry, "skinny_bf16_%ux%ux%u", &tile, &tokens, &stages),
                                 3);
                ck_assert_uint_ge(tokens, rows);
                ck_assert_uint_ge(n->k.grid[0] / n->k.cluster[0] * tile, ns[i]);
                ck_assert_uint_lt((n->k.grid[0] / n->k.cluster[0] - 1) * tile, ns[i]);
                ck_assert_uint_eq(tile / n->k.cluster[0] % 4, 0);
                ck_assert_uint_ge(n->products.k_blocks * 64, ks[j]);
                ck_assert_uint_ge(n->k.shared_bytes, stages * (tile + tokens) * 128);
            }
}
END_TEST

START_TEST(parts_of_a_fused_product_begin_at_their_tiles)
{
    const struct product_params *p = &launches[0].products;
    tn_batch b = batch_of(3);
    tn_op fused;
    unsigned tile;

    member_list[0] = linear(0, 4096, 512);
    member_list[1] = linear(1, 1000, 512);
    member_list[2] = linear(2, 1000, 512);
    fused = *linear(3, 0, 512);
    fused.n_out = fused.n_members = fused.n_weights = 3;
    fused.members = member_list;
    fused.weights = weight_list;
    value_list[8] = &values[1];
    value_list[9] = &values[3];
    value_list[10] = &values[5];
    fused.out = &value_list[8];
    ck_assert_ok(hopper_qkv.can_run(instance, &fused, &err), &err);
    launch(&hopper_qkv, &fused, &b, NULL);
    ck_assert_uint_eq(p->n_parts, 3);
    ck_assert_uint_eq(p->parts[1].first, 64); /* tiles of 64 rows */
    ck_assert_uint_eq(p->parts[2].first, 80);
    ck_assert_uint_eq(launches[0].k.grid[0] / launches[0].k.cluster[0], 96);
    b = batch_of(300);
    launch(&hopper_qkv, &fused, &b, NULL);
    ck_assert_int_eq(sscanf(launches[0].entry, "wide_bf16_%ux", &tile), 1);
    ck_assert_uint_eq(p->parts[1].first, (4096 + tile - 1) / tile);
    ck_assert_uint_eq(p->parts[2].first - p->parts[1].first, (1000 + tile - 1) / tile);
    ck_assert_uint_eq(p->tiles - p->parts[2].first, (1000 + tile - 1) / tile);
}
END_TEST

/* What wide.cu counts its tiles by: all of the matrix, and clusters of whole tiles of tokens. */
START_TEST(plan_of_many_rows_covers_them)
{
    static const uint32_t ns[] = {8, 1000, 4096, 11008, 128256},
                          rows[] = {129, 256, 257, 384, 511, 2048, 8192};

    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
            const struct noted *n = &launches[0];
            tn_batch b = batch_of(rows[j]);
            unsigned tile, stages, blocks, all;
            launch(&hopper_linear, linear(0, ns[i], 4096), &b, NULL);
            ck_assert_uint_eq(n_launches, 1);
            ck_assert_int_eq(sscanf(n->entry, "wide_bf16_%ux%ux%u", &tile, &stages, &blocks), 3);
            ck_assert_uint_eq(n->k.cluster[0], blocks);
            ck_assert_uint_eq(n->products.tiles, (ns[i] + tile - 1) / tile);
            ck_assert_uint_ge(n->k.shared_bytes, stages * (tile + WIDE_TOKENS) * 128);
            all = (rows[j] + WIDE_TOKENS * blocks - 1) / (WIDE_TOKENS * blocks) * blocks *
                  n->products.tiles;
            ck_assert_uint_eq(n->k.grid[0], all < HOPPER_UNITS ? all : HOPPER_UNITS);
        }
}
END_TEST

/* 512 rows of a narrow matrix are few wide tiles: narrower ones keep more multiprocessors at work. */
START_TEST(tiles_are_as_wide_as_keeps_all_units_at_work)
{
    static const struct {
        uint32_t n, rows;
        const char *entry;
    } wanted[] = {{4096, 2048, "wide_bf16_256x4x1"},
                  {4096, 512, "wide_bf16_128x6x1"},
                  {22016, 2048, "wide_bf16_192x5x1"}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tn_batch b = batch_of(wanted[i].rows);
        launch(&hopper_linear, linear(0, wanted[i].n, 4096), &b, NULL);
        ck_assert_str_eq(launches[0].entry, wanted[i].entry);
    }
}
END_TEST

START_TEST(product_that_does_not_fit_is_refused)
{
    static const struct {
        uint64_t n, k;
    } odd[] = {{12, 64}, {64, 12}, {64, 63}};
    tn_op *op;

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        ck_assert_int_eq(hopper_linear.can_run(instance, linear(0, odd[i].n, odd[i].k), &err),
                         TN_E_UNSUPPORTED);
        ck_assert_err_has(&err, "8 divides");
    }
    op = linear(0, 64, 64);
    weights[0].dtype = TN_DT_F16;
    ck_assert_int_eq(hopper_linear.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "activations' dtype");
    op = linear(0, 64, 64);
    weights[0].stride0 = 132; /* rows at multiples of four */
    ck_assert_int_eq(hopper_linear.can_run(instance, op, &err), TN_E_UNSUPPORTED);
}
END_TEST

START_TEST(rows_that_want_logits_are_gathered_first)
{
    tn_batch b = batch_of(5);
    tn_op op = *linear(0, 1000, 512);

    values[1].kind = TN_VALUE_LOGITS;
    values[1].dtype = TN_DT_F32;
    b.n_rows = 300; /* a long prompt among them */
    b.n_logits = 5;
    ck_assert_ok(hopper_logits.can_run(instance, &op, &err), &err);
    launch(&hopper_logits, &op, &b, NULL);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "gather");
    ck_assert_uint_eq(launches[0].k.grid[0], 5);
    ck_assert_uint_eq(launches[1].products.rows, 5);
}
END_TEST

/* -- Products of 8 bits ---------------------------------------------------------------------------------- */

/* Product i in weights 2 i (matrix) and 2 i + 1 (scales). */
static tn_op *eight(int i, uint32_t dtype, uint64_t n, uint64_t k)
{
    value(2 * i, TN_VALUE_ROWS, k);
    value(2 * i + 1, TN_VALUE_ROWS, n);
    weight(2 * i, dtype, n, k);
    weights[2 * i].stride0 = k;
    weight(2 * i + 1, TN_DT_F32, n, 0);
    ops[i] = (tn_op){.h = TN_HDR(tn_op),
                     .name = dtype == TN_DT_I8 ? TN_OP_LINEAR_INT8 : TN_OP_LINEAR_FP8,
                     .n_in = 1,
                     .n_out = 1,
                     .n_weights = 2,
                     .in = &value_list[2 * i],
                     .out = &value_list[2 * i + 1],
                     .weights = &weight_list[2 * i]};
    return &ops[i];
}

/* Rows are quantized, then multiplied by few or by many, in tiles that cover the matrix. */
START_TEST(plan_of_a_product_of_8_bits_covers_it)
{
    static const uint32_t ns[] = {8, 136, 4096, 11008, 128256}, ks[] = {16, 720, 4096, 28672};
    static const uint32_t rows[] = {1, 8, 9, 33, 64, 128, 129, 256, 257, 2048};

    for (size_t i = 0; i < 5 * 4 * 10; i++) {
        uint32_t n = ns[i / 40], k = ks[i / 10 % 4], t = rows[i % 10], units;
        const struct noted *quantizing = &launches[0], *product = &launches[1];
        const struct product_params *p = &product->eight.p;
        tn_batch b = batch_of(t);
        unsigned tile = 256, tokens = 128, stages = 4, threads = 0, chunks = 0;
        const tn_op *op = eight(0, TN_DT_F8E4M3, n, k);
        ck_assert_ok(hopper_linear_fp8.can_run(instance, op, &err), &err);
        launch(&hopper_linear_fp8, op, &b, NULL);
        ck_assert_uint_eq(n_launches, 2);
        ck_assert_int_eq(sscanf(quantizing->entry, "quantize_e4m3_bf16_%ux%u", &threads, &chunks),
                         2);
        ck_assert_uint_eq(quantizing->k.block[0], threads);
        ck_assert_uint_ge(threads * chunks * 8, k);
        ck_assert_uint_eq(quantizing->k.grid[0], t);
        if (t <= 128)
            ck_assert_int_eq(
                sscanf(product->entry, "few_e4m3_bf16_%ux%ux%u", &tile, &tokens, &stages), 3);
        else
            ck_assert_str_eq(product->entry, "many_e4m3_bf16");
        ck_assert_uint_eq(p->tiles, (n + tile - 1) / tile);
        ck_assert_uint_ge(p->k_blocks * EIGHT_K, k);
        ck_assert_uint_ge(product->k.shared_bytes, stages * (tile + tokens) * 128);
        units = t <= 128 ? p->tiles * product->k.cluster[0] : p->tiles * ((t + 255) / 256) * 2;
        ck_assert_uint_eq(product->k.grid[0],
                          t > 128 && units > HOPPER_UNITS ? HOPPER_UNITS : units);
        ck_assert_ptr_eq(product->eight.step, memory + (uint64_t)t * k);
    }
}
END_TEST

static tn_op *norm_qkv(void)
{
    static tn_op fused;
    static const tn_weight *all[7];
    static const tn_value *out[3];

    for (int i = 0; i < 3; i++) {
        member_list[1 + i] = eight(i, TN_DT_I8, i ? 1000 : 4096, 512);
        out[i] = &values[2 * i + 1];
        all[1 + 2 * i] = &weights[2 * i];
        all[2 + 2 * i] = &weights[2 * i + 1];
    }
    all[0] = weight(6, TN_DT_F32, 512, 0);
    ops[3] = (tn_op){
        .h = TN_HDR(tn_op), .name = TN_OP_RMS_NORM, .n_weights = 1, .weights = &weight_list[6]};
    member_list[0] = &ops[3];
    fused = (tn_op){.h = TN_HDR(tn_op),
                    .name = "norm_qkv.int8",
                    .n_in = 1,
                    .n_out = 3,
                    .n_weights = 7,
                    .n_members = 4,
                    .in = value_list,
                    .out = out,
                    .weights = all,
                    .members = member_list};
    return &fused;
}

START_TEST(norm_is_done_while_rows_are_quantized)
{
    const struct eight_params *p = &launches[1].eight;
    tn_batch b = batch_of(3);
    tn_op *op = norm_qkv();

    ck_assert_ok(hopper_norm_qkv_int8.can_run(instance, op, &err), &err);
    launch(&hopper_norm_qkv_int8, op, &b, NULL);
    ck_assert_str_eq(launches[0].entry, "quantize_s8_bf16_512x1");
    ck_assert_ptr_nonnull(launches[0].quantize.weight);
    ck_assert_uint_eq(p->p.n_parts, 3);
    ck_assert_uint_eq(p->p.parts[1].first, 64); /* tiles of 64 rows */
    ck_assert_uint_eq(p->p.parts[2].first, 80);
    launch(&hopper_linear_int8, member_list[1], &b, NULL);
    ck_assert_ptr_null(launches[0].quantize.weight);
}
END_TEST

START_TEST(product_of_8_bits_that_does_not_fit_is_refused)
{
    static const tn_attr one = TN_ATTR_REAL("act_scale", 0.5);
    tn_op *op;

    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_F8E4M3, 64, 24), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "multiple of 16");
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_I8, 64, 64), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_F8E4M3, 64, 32784), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "up to 32768");
    op = eight(0, TN_DT_F8E4M3, 64, 64);
    weights[1].dtype = TN_DT_F16;
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "must be float32");
    op = norm_qkv();
    ops[1].attrs = &one; /* the keys' rows would be divided by another number */
    ops[1].n_attrs = 1;
    ck_assert_int_eq(hopper_norm_qkv_int8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "different scales");
    op = norm_qkv();
    weights[6].dims[0] = 64; /* a norm per head */
    ck_assert_int_eq(hopper_norm_qkv_int8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "whole rows");
}
END_TEST

/* -- Attention ----------------------------------------------------------------------------------------- */

static tn_attr attrs[8];

static tn_op *attention(int64_t heads, int64_t kv_heads, int64_t dim)
{
    const tn_attr a[] = {TN_ATTR_INT("n_heads", heads), TN_ATTR_INT("n_kv_heads", kv_heads),
                         TN_ATTR_INT("head_dim", dim), TN_ATTR_REAL("scale", 0.1)};

    memcpy(attrs, a, sizeof a);
    value(0, TN_VALUE_ROWS, (uint64_t)(heads * dim));
    value(1, TN_VALUE_KV, 0);
    value(2, TN_VALUE_ROWS, (uint64_t)(heads * dim));
    ops[0] = (tn_op){.h = TN_HDR(tn_op),
                     .name = TN_OP_ATTENTION,
                     .n_in = 2,
                     .n_out = 1,
                     .n_attrs = 4,
                     .in = value_list,
                     .out = &value_list[2],
                     .attrs = attrs};
    return &ops[0];
}

static tn_kv_layer cache(uint32_t kv_heads, uint32_t dim, uint32_t block_tokens)
{
    return (tn_kv_layer){.h = TN_HDR(tn_kv_layer),
                         .n_kv_heads = kv_heads,
                         .head_dim = dim,
                         .block_tokens = block_tokens,
                         .dtype = TN_DT_BF16,
                         .n_blocks = 100,
                         .block_bytes =
                             4ull * kv_heads * dim * block_tokens + 64, /* pages may lie apart */
                         .base = memory};
}

START_TEST(attention_has_a_block_for_every_head_of_every_row)
{
    static const int64_t heads[][2] = {{32, 32}, {32, 8}, {8, 1}, {64, 2}};

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (uint32_t rows = 1; rows <= 256; rows *= 2)
            for (uint32_t tokens = 1; tokens <= 256; tokens *= 2) {
                const struct attention_params *p = &launches[0].attention;
                tn_batch b = batch_of(rows);
                tn_kv_layer kv = cache((uint32_t)heads[i][1], 128, tokens);
                b.block_tokens = tokens;
                launch(&hopper_attention_bf16, attention(heads[i][0], heads[i][1], 128), &b, &kv);
                ck_assert_uint_eq(n_launches, 1);
                ck_assert_uint_ge(p->subgroups * 8, p->group);
                ck_assert_uint_eq(launches[0].k.grid[0] / launches[0].k.cluster[0],
                                  rows * p->kv_heads * p->subgroups);
                ck_assert_uint_eq(1u << p->box_shift, tokens < 64 ? tokens : 64);
                ck_assert_uint_eq(page_stride, kv.block_bytes);
            }
}
END_TEST

START_TEST(long_runs_of_rows_take_the_kernel_for_them)
{
    tn_batch b = batch_of(300);
    tn_kv_layer kv = cache(8, 64, 16);

    b.n_seqs = 2;
    b.max_rows_per_seq = 299;
    launch(&hopper_attention_bf16, attention(32, 8, 64), &b, &kv);
    ck_assert_str_eq(launches[0].entry, "prefill_bf16_64");
    ck_assert_uint_eq(page_stride, kv.block_bytes);
    ck_assert_uint_ge(launches[0].k.grid[1], 4); /* 299 and 1 rows in tiles of 128 */
}
END_TEST

static tn_kv_layer cache8(uint32_t kv_heads, uint32_t dim, uint32_t block_tokens, uint32_t dtype)
{
    static const float scales[64] = {1.0f};
    tn_kv_layer kv = cache(kv_heads, dim, block_tokens);

    kv.dtype = dtype;
    kv.block_bytes = 2ull * kv_heads * dim * block_tokens + 64;
    kv.k_scale = scales;
    kv.v_scale = scales + 32;
    return kv;
}

/* Tiles, of keys and of values, that a kernel for a cache of 8 bits has on their way must fit what it asks for; the copy
 * engine's swizzle is as wide as a row. */
START_TEST(cache_of_8_bits_takes_kernels_of_its_own)
{
    static const uint32_t dims[] = {64, 128};
    static const struct {
        uint32_t dtype;
        const char *name;
    } kinds[] = {{TN_DT_F8E4M3, "fp8"}, {TN_DT_I8, "int8"}};

    for (int i = 0; i < 4; i++)
        for (uint32_t tokens = 1; tokens <= 256; tokens *= 4) {
            const struct attention_params *p = &launches[0].attention;
            uint32_t dim = dims[i / 2];
            tn_batch b = batch_of(7);
            tn_kv_layer kv = cache8(8, dim, tokens, kinds[i % 2].dtype);
            char want[64];
            b.block_tokens = tokens;
            launch(&hopper_attention_kv8_bf16, attention(32, 8, dim), &b, &kv);
            snprintf(want, sizeof want, "decode_%s_bf16_%ux%u", kinds[i % 2].name, dim,
                     dim == 64 ? 12u : 6u);
            ck_assert_str_eq(launches[0].entry, want);
            ck_assert_uint_ge(launches[0].k.shared_bytes, 6 * 64 * 128 * 2);
            ck_assert_uint_eq(swizzles[4], dim == 64 ? 2 : 3);
            ck_assert_uint_eq(page_stride, kv.block_bytes);
            ck_assert_ptr_eq(p->k_scale, kv.k_scale);
            ck_assert_ptr_eq(p->v_scale, kv.v_scale);
            b.n_seqs = 1;
            b.max_rows_per_seq = 300;
            launch(&hopper_attention_kv8_bf16, attention(32, 8, dim), &b, &kv);
            if (tokens * dim < 128) { /* less than the copy engine writes at a time */
                ck_assert_str_eq(launches[0].entry, want);
                continue;
            }
            snprintf(want, sizeof want, "prefill_%s_bf16_%u", kinds[i % 2].name, dim);
            ck_assert_str_eq(launches[0].entry, want);
            ck_assert_uint_ge(launches[0].k.shared_bytes, 128 * dim * (2 + 8 + PREFILL8_SLOTS));
            ck_assert_uint_le(launches[0].k.shared_bytes, 227 * 1024);
            ck_assert_uint_eq(swizzles[3], 0);
        }
}
END_TEST

static tn_op *rope_attention(void)
{
    static const tn_attr append[] = {TN_ATTR_INT("n_kv_heads", 8), TN_ATTR_INT("head_dim", 128)};
    static tn_attr rope[2][6];
    tn_op *a = attention(32, 8, 128);

    for (int i = 0; i < 2; i++) {
        const tn_attr r[] = {TN_ATTR_INT("n_heads", i ? 8 : 32), TN_ATTR_INT("head_dim", 128),
                             TN_ATTR_INT("rotary_dim", 128),     TN_ATTR_TEXT("style", "half"),
                             TN_ATTR_REAL("mscale", 1.0),        TN_ATTR_INT("max_position", 0)};
        memcpy(rope[i], r, sizeof r);
        weight(i, TN_DT_F32, 64, 0);
        ops[1 + i] = (tn_op){.h = TN_HDR(tn_op),
                             .name = TN_OP_ROPE,
                             .n_weights = 1,
                             .n_attrs = 6,
                             .weights = &weight_list[i],
                             .attrs = rope[i]};
        member_list[i] = &ops[1 + i];
    }
    ops[3] = (tn_op){.h = TN_HDR(tn_op), .name = TN_OP_KV_APPEND, .n_attrs = 2, .attrs = append};
    member_list[2] = &ops[3];
    member_list[3] = a;
    value(4, TN_VALUE_ROWS, 4096);
    value(5, TN_VALUE_ROWS, 1024);
    value(6, TN_VALUE_ROWS, 1024);
    ops[4] = (tn_op){.h = TN_HDR(tn_op),
                     .name = TN_FUSED_ROPE_ATTENTION,
                     .n_in = 3,
                     .n_out = 1,
                     .n_weights = 2,
                     .n_members = 4,
                     .in = &value_list[4],
                     .out = &value_list[2],
                     .weights = weight_list,
                     .members = member_list};
    return &ops[4];
}

START_TEST(attention_without_a_cache_is_refused)
{
    const void *in[4] = {memory, memory, memory, memory};
    void *out[1] = {memory};
    tn_batch b = batch_of(1);
    tn_launch l = {.op = rope_attention(),
                   .batch = &b,
                   .in = in,
                   .out = out,
                   .weights = in,
                   .device = device(0)};

    ck_assert_int_eq(hopper_rope_attention_bf16.launch(instance, &l, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "without a cache");
}
END_TEST

/* The estimate follows what is read: else sets that know better how few bytes grouped heads need are preferred. */
START_TEST(fewer_kv_heads_cost_less)
{
    tn_op *op = attention(32, 32, 128);
    double all = hopper_attention_bf16.cost_ns(instance, op, 64), grouped;

    op = attention(32, 8, 128);
    grouped = hopper_attention_bf16.cost_ns(instance, op, 64);
    ck_assert(grouped < all / 3);
    ck_assert(hopper_attention_kv8_bf16.cost_ns(instance, op, 64) < grouped);
    op = rope_attention();
    ck_assert(hopper_rope_attention_bf16.cost_ns(instance, op, 64) == grouped);
}
END_TEST

/* One row of a sequence appends itself while it attends; several see each other and are appended before. */
START_TEST(rows_of_one_sequence_are_appended_before_they_are_read)
{
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache(8, 128, 16);

    ck_assert_ok(hopper_rope_attention_bf16.can_run(instance, op, &err), &err);
    launch(&hopper_rope_attention_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 1);
    ck_assert_ptr_nonnull(launches[0].attention.k);
    b.max_rows_per_seq = 2;
    launch(&hopper_rope_attention_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "rope_append_bf16");
    ck_assert_ptr_null(launches[1].attention.k);
    ck_assert_ptr_null(launches[1].attention.rope_q.freqs);
}
END_TEST

START_TEST(rows_are_appended_in_the_dtype_of_the_cache)
{
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_I8);

    b.max_rows_per_seq = 2;
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "rope_append_int8_bf16");
    kv.dtype = TN_DT_F8E4M3;
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_str_eq(launches[0].entry, "rope_append_fp8_bf16");
}
END_TEST

/* Of six members those that rotate and append are elsewhere than of four. */
START_TEST(heads_are_turned_in_the_same_launch)
{
    static tn_attr turn[2][2];
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_F8E4M3);
    const tn_op *rope_k = member_list[1], *append = member_list[2], *attend = member_list[3];

    for (int i = 0; i < 2; i++) {
        turn[i][0] = (tn_attr)TN_ATTR_INT("n_heads", i ? 8 : 32);
        turn[i][1] = (tn_attr)TN_ATTR_INT("head_dim", 128);
        ops[5 + i] =
            (tn_op){.h = TN_HDR(tn_op), .name = "hadamard", .n_attrs = 2, .attrs = turn[i]};
        member_list[1 + 2 * i] = &ops[5 + i];
    }
    member_list[2] = rope_k;
    member_list[4] = append;
    member_list[5] = attend;
    op->n_members = 6;
    ck_assert_ok(hopper_rope_hadamard_attention_kv8_bf16.can_run(instance, op, &err), &err);
    launch(&hopper_rope_hadamard_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 1);
    ck_assert_uint_eq(launches[0].attention.rope_q.hadamard, 1);
    ck_assert_uint_eq(launches[0].attention.rope_k.hadamard, 1);
    ck_assert_uint_eq(launches[0].attention.rope_k.rotary, 128);
    ck_assert_uint_eq(launches[0].attention.kv_heads, 8);
    ((tn_attr *)(uintptr_t)rope_k->attrs)[2].i = 64; /* half a head is rotated */
    weights[1].dims[0] = 32;
    ck_assert_int_eq(hopper_rope_hadamard_attention_kv8_bf16.can_run(instance, op, &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "rotated as a whole");
}
END_TEST

START_TEST(attention_that_does_not_fit_is_refused)
{
    tn_op *op;

    ck_assert_int_eq(hopper_attention_bf16.can_run(instance, attention(8, 8, 96), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "64 or 128");
    ck_assert_int_eq(hopper_attention_bf16.can_run(instance, attention(8, 3, 64), &err),
                     TN_E_UNSUPPORTED);
    op = rope_attention();
    ((tn_attr *)(uintptr_t)ops[1].attrs)[5].i = 4096;
    ck_assert_int_eq(hopper_rope_attention_bf16.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "depends on the length");
    op = rope_attention();
    ((tn_attr *)(uintptr_t)ops[2].attrs)[0].i = 4; /* keys of other heads than the attention's */
    ck_assert_int_eq(hopper_rope_attention_bf16.can_run(instance, op, &err), TN_E_UNSUPPORTED);
}
END_TEST

/* -- Devices ------------------------------------------------------------------------------------------- */

START_TEST(device_without_code_is_left_alone)
{
    tn_batch b = batch_of(1);
    const void *in[1] = {memory};
    void *out[1] = {memory};
    tn_launch l = {.op = linear(0, 64, 64),
                   .batch = &b,
                   .in = in,
                   .out = out,
                   .weights = in,
                   .device = device(1)};

    image_status = TN_E_UNSUPPORTED;
    ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(1), &err), &err);
    ck_assert_int_eq(hopper_linear.launch(instance, &l, &err), TN_E_INTERNAL);
    image_status = TN_E_NOMEM;
    ck_assert_int_eq(hopper_kernel_set.attach(instance, &api, device(1), &err), TN_E_NOMEM);
}
END_TEST

START_TEST(too_many_devices_are_refused)
{
    for (int i = 1; i < CUDA_MAX_DEVICES; i++)
        ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(i), &err), &err);
    ck_assert_int_eq(hopper_kernel_set.attach(instance, &api, device(CUDA_MAX_DEVICES), &err),
                     TN_E_LIMIT);
    for (int i = 1; i < CUDA_MAX_DEVICES; i++)
        hopper_kernel_set.detach(instance, device(i));
}
END_TEST

START_TEST(unknown_setting_is_refused)
{
    const tn_kv kv = {"turbo", "on"};
    void *other = NULL;

    ck_assert_int_eq(tn_plugin_query_v1(&host, 0)->init(&host, &kv, 1, &other, &err), TN_E_CONFIG);
    ck_assert_err_has(&err, "turbo");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hopper");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, plan_of_a_product_covers_it);
    tcase_add_test(t, parts_of_a_fused_product_begin_at_their_tiles);
    tcase_add_test(t, plan_of_many_rows_covers_them);
    tcase_add_test(t, tiles_are_as_wide_as_keeps_all_units_at_work);
    tcase_add_test(t, product_that_does_not_fit_is_refused);
    tcase_add_test(t, rows_that_want_logits_are_gathered_first);
    tcase_add_test(t, plan_of_a_product_of_8_bits_covers_it);
    tcase_add_test(t, norm_is_done_while_rows_are_quantized);
    tcase_add_test(t, product_of_8_bits_that_does_not_fit_is_refused);
    tcase_add_test(t, attention_has_a_block_for_every_head_of_every_row);
    tcase_add_test(t, long_runs_of_rows_take_the_kernel_for_them);
    tcase_add_test(t, attention_without_a_cache_is_refused);
    tcase_add_test(t, fewer_kv_heads_cost_less);
    tcase_add_test(t, rows_of_one_sequence_are_appended_before_they_are_read);
    tcase_add_test(t, cache_of_8_bits_takes_kernels_of_its_own);
    tcase_add_test(t, rows_are_appended_in_the_dtype_of_the_cache);
    tcase_add_test(t, heads_are_turned_in_the_same_launch);
    tcase_add_test(t, attention_that_does_not_fit_is_refused);
    tcase_add_test(t, device_without_code_is_left_alone);
    tcase_add_test(t, too_many_devices_are_refused);
    tcase_add_test(t, unknown_setting_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
