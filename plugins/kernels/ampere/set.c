/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel set "ampere": which variants there are, and attaching it to devices. */
#include "set.h"

static const tn_gpu_target gpus[] = {CUDA_TARGETS{0, 0, 0, 0}};

#define FLAGS (TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC)

/* Up to this many rows: on tensor cores, and of float32, which they do not have. */
static const tn_range half_rows[] = {{"rows", 1, 64, 1}}, single_rows[] = {{"rows", 1, 4, 1}};

/* X(id, op, composition or NULL) */
#define PRODUCTS(X)                                                                                \
    X(linear, TN_OP_LINEAR, NULL)                                                                  \
    X(logits, TN_OP_LOGITS, NULL)                                                                  \
    X(qkv, TN_FUSED_QKV, TN_FUSED_QKV_TEXT)                                                        \
    X(linear_add, TN_FUSED_LINEAR_ADD, TN_FUSED_LINEAR_ADD_TEXT)                                   \
    X(gate_silu, TN_FUSED_GATE_SILU, TN_FUSED_GATE_SILU_TEXT)                                      \
    X(gate_gelu, TN_FUSED_GATE_GELU, TN_FUSED_GATE_GELU_TEXT)                                      \
    X(gate_gelu_tanh, TN_FUSED_GATE_GELU_TANH, TN_FUSED_GATE_GELU_TANH_TEXT)

#define PRODUCT(id, op_name, composition, suffix, dtypes, row_range)                               \
    static const tn_variant id##_##suffix = {                                                      \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id "." #suffix ".ampere",                                                         \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags = FLAGS,                                                                            \
        .act_dtypes = (dtypes),                                                                    \
        .weight_dtypes = (dtypes),                                                                 \
        .gpus = gpus,                                                                              \
        .ranges = row_range,                                                                       \
        .n_ranges = 1,                                                                             \
        .can_run = products_can_run,                                                               \
        .cost_ns = products_cost_ns,                                                               \
        .launch = products_launch,                                                                 \
    };
#define PRODUCT_BOTH(id, op, equals)                                                               \
    PRODUCT(id, op, equals, half, HALVES, half_rows)                                               \
    PRODUCT(id, op, equals, single, TN_DT_BIT(TN_DT_F32), single_rows)
PRODUCTS(PRODUCT_BOTH)

/* GPUs without e4m3 arithmetic that code for 8.0 runs on. */
static const tn_gpu_target without_e4m3[] = {
#ifdef AMPERE_HAS_80
    {0x10de, 8, 0, TN_GPU_EXACT},
    {0x10de, 8, 6, TN_GPU_EXACT},
    {0x10de, 8, 7, TN_GPU_EXACT},
#endif
    {0, 0, 0, 0}};

#define INT4(id, op, equals)                                                                       \
    static NARROW_VARIANT(id##_int4, #id "_int4.ampere", op, equals, TN_DT_I4, 0, gpus,            \
                          narrow_can_run, NULL, narrow_launch)
#define INT8(id, op, equals)                                                                       \
    static NARROW_VARIANT(id##_int8, #id "_int8.ampere", op, equals, TN_DT_I8, 0, gpus,            \
                          int8_can_run, int8_workspace, int8_launch)
#define FP8(id, op, equals)                                                                        \
    static NARROW_VARIANT(id##_fp8, #id "_fp8_wide.ampere", op, equals, TN_DT_F8E4M3,              \
                          TN_VARIANT_FALLBACK | TN_VARIANT_WIDE_ROWS, without_e4m3,                \
                          narrow_can_run, NULL, narrow_launch)
NARROW_FORMS(INT4, "int4", TN_OP_LINEAR_INT4)
NARROW_FORMS(INT8, "int8", TN_OP_LINEAR_INT8)
NARROW_NORM_FORMS(INT8, "int8", TN_OP_LINEAR_INT8)
INT8(logits, TN_OP_LOGITS_INT8, NULL)
NARROW_FORMS(FP8, "fp8", TN_OP_LINEAR_FP8)

/* Queries and cache of one dtype, or a cache of 8 bits. */
#define ATTENTION(suffix, kv_name, form, dtype, kv)                                                \
    static const tn_variant attention_##suffix = {                                                 \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = "attention." kv_name ".ampere",                                                    \
        .op = TN_OP_ATTENTION,                                                                     \
        .flags = FLAGS,                                                                            \
        .act_dtypes = TN_DT_BIT(dtype),                                                            \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = TN_KV_LAYOUT_HND,                                                             \
        .gpus = gpus,                                                                              \
        .can_run = form##_can_run,                                                                 \
        .cost_ns = form##_cost_ns,                                                                 \
        .workspace = attention_workspace,                                                          \
        .launch = attention_launch,                                                                \
    };
ATTENTION(f16, "f16", attention, TN_DT_F16, TN_DT_BIT(TN_DT_F16))
ATTENTION(bf16, "bf16", attention, TN_DT_BF16, TN_DT_BIT(TN_DT_BF16))
ATTENTION(kv8_f16, "kv8.f16", attention8, TN_DT_F16, CUDA_KV8)
ATTENTION(kv8_bf16, "kv8.bf16", attention8, TN_DT_BF16, CUDA_KV8)

#define PRODUCT_ADDRESSES(id, op, equals) &id##_half, &id##_single,
#define INT4_ADDRESS(id, op, equals) &id##_int4,
#define INT8_ADDRESS(id, op, equals) &id##_int8,
#define FP8_ADDRESS(id, op, equals) &id##_fp8,
static const tn_variant *const variants[] = {NARROW_FORMS(INT4_ADDRESS, "", "")          /* */
                                                 NARROW_FORMS(INT8_ADDRESS, "", "")      /* */
                                                 NARROW_NORM_FORMS(INT8_ADDRESS, "", "") /* */
                                                 NARROW_FORMS(FP8_ADDRESS, "", "")       /* */
                                                 PRODUCTS(PRODUCT_ADDRESSES)             /* */
                                                 & attention_f16,
                                             &attention_bf16, &attention_kv8_f16,
                                             &attention_kv8_bf16, &logits_int8};

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = cuda_hnd_block_bytes};
static const tn_kv_layout *const kv_layouts[] = {&hnd};

/* -- Devices ------------------------------------------------------------------------------------------------- */

#define PER_DTYPE(name) name "_f32", name "_f16", name "_bf16"
#define PER_HALF(name) name "_f16", name "_bf16"
static const char *const products_names[N_PRODUCT_ENTRIES] = {
    PER_DTYPE("gemv_1"), PER_DTYPE("gemv_2"),   PER_DTYPE("gemv_4"),   "skinny_8_f16",
    "skinny_8_bf16",     PER_HALF("skinny_16"), PER_HALF("skinny_32"), PER_HALF("skinny_64")};
#define PER_SIZE(name)                                                                             \
    name "_f16_64", name "_bf16_64", name "_f16_128", name "_bf16_128", name "_f16_256",           \
        name "_bf16_256"
static const char *const attention_names[N_ATTENTION_ENTRIES] = {PER_SIZE("decode"),
                                                                 PER_SIZE("prefill")};
static const char *const attention8_names[N_ATTENTION8_ENTRIES] = {
    PER_SIZE("decode_fp8"), PER_SIZE("decode_int8"), PER_SIZE("prefill_fp8"),
    PER_SIZE("prefill_int8")};

static const char *const int4_names[] = {NARROW_NAMES("int4")};
static const char *const int8_names[] = {NARROW_NAMES("int8"), PER_HALF("quantize")};
static const char *const fp8_names[] = {NARROW_NAMES("fp8")};

/* X(image): member of set_device, names and image are called after it. */
#define IMAGES(X) X(products) X(int4) X(int8) X(fp8) X(attention) X(attention8)
#define IMAGE_BYTES(image)                                                                         \
    extern const unsigned char tenon_image_ampere_##image[];                                       \
    extern const uint64_t tenon_image_ampere_##image##_bytes;
IMAGES(IMAGE_BYTES)

const struct set_device *ampere_device(void *instance, const tn_device *device)
{
    struct ampere_instance *in = instance;
    uint32_t i = 0;

    while (i + 1 < CUDA_MAX_DEVICES && in->devices[i].device != device)
        i++;
    return &in->devices[i];
}

/* Counters on the device, zeroed. */
static int32_t make_arrivals(struct set_device *d, const tn_device_api *api, tn_err *err)
{
    void *memory = NULL;
    int32_t rc = api->mem_alloc(d->device, ARRIVALS * sizeof *d->arrivals, &memory, err);

    d->arrivals = memory;
    if (rc == TN_OK)
        rc = api->fill(d->device, NULL, memory, 0, ARRIVALS * sizeof *d->arrivals, err);
    return rc ? rc : api->stream_sync(d->device, NULL, err);
}

static void unload(struct set_device *d, const tn_device_api *api)
{
#define IMAGE_UNLOAD(image) code_unload(&d->image);
    if (d->arrivals)
        api->mem_free(d->device, d->arrivals);
    IMAGES(IMAGE_UNLOAD)
    memset(d, 0, sizeof *d);
}

static int32_t load(struct set_device *d, const tn_device_api *api, tn_device *device, tn_err *err)
{
#define IMAGE_ROW(image)                                                                           \
    {&d->image, tenon_image_ampere_##image, tenon_image_ampere_##image##_bytes, image##_names,     \
     sizeof image##_names / sizeof *image##_names},
    const struct {
        struct cuda_code *code;
        const unsigned char *image;
        uint64_t bytes;
        const char *const *names;
        size_t n;
    } images[] = {IMAGES(IMAGE_ROW)};
    int32_t rc = TN_OK;

    d->device = device;
    for (size_t i = 0; i < sizeof images / sizeof *images && rc == TN_OK; i++)
        rc = code_load(images[i].code, api, device, images[i].image, images[i].bytes,
                       images[i].names, (uint32_t)images[i].n, err);
    if (rc == TN_OK)
        rc = make_arrivals(d, api, err);
    if (rc != TN_OK)
        unload(d, api);
    return rc;
}

static int32_t attach(void *instance, const tn_device_api *api, tn_device *device, tn_err *err)
{
    struct ampere_instance *in = instance;

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (!in->devices[i].device)
            return load(&in->devices[i], api, device, err);
    return tn_err_set(err, TN_E_LIMIT, "ampere: attached to %d devices already", CUDA_MAX_DEVICES);
}

static void detach(void *instance, tn_device *device)
{
    struct ampere_instance *in = instance;

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (in->devices[i].device == device) {
            unload(&in->devices[i], in->devices[i].products.api);
            return;
        }
}

const tn_kernel_set ampere_kernel_set = {
    .h = TN_HDR(tn_kernel_set),
    .device = "cuda",
    .n_variants = sizeof variants / sizeof *variants,
    .n_kv_layouts = 1,
    .variants = variants,
    .kv_layouts = kv_layouts,
    .attach = attach,
    .detach = detach,
};
