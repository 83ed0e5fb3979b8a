/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the tests of the hopper set's host side share: a device that notes what is launched on it, and ops to launch. Once in
 * a program: it defines the images that the set would have.
 */
#ifndef TESTS_KERNELS_HOPPER_NOTES_H
#define TESTS_KERNELS_HOPPER_NOTES_H
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
    struct norm_params norm;
    struct attention_params attention;
} launches[8];
static uint32_t swizzles[8]; /* of the last tensor that was encoded with so many dimensions */
static uint32_t n_launches, n_images;
static int32_t image_status;
static uint64_t page_stride; /* of the cache in the last tensor that was encoded for it */

static inline int32_t encode(void *map, int32_t type, uint32_t rank, void *address,
                             const uint64_t *dims, const uint64_t *strides, const uint32_t *box,
                             const uint32_t *element_strides, int32_t interleave, int32_t swizzle,
                             int32_t promotion, int32_t fill)
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

static inline int32_t native_symbol(tn_device *d, const char *name, void **out, tn_err *err)
{
    int32_t (*f)(void *, int32_t, uint32_t, void *, const uint64_t *, const uint64_t *,
                 const uint32_t *, const uint32_t *, int32_t, int32_t, int32_t, int32_t) = encode;

    (void)d;
    if (strcmp(name, "cuTensorMapEncodeTiled") != 0)
        return tn_err_set(err, TN_E_NOTFOUND, "no %s", name);
    memcpy(out, &f, sizeof *out);
    return TN_OK;
}

static inline int32_t image_load(tn_device *d, const void *image, uint64_t bytes, tn_image **out,
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

static inline int32_t image_entry(tn_device *d, tn_image *image, const char *name, void **out,
                                  tn_err *err)
{
    (void)d;
    (void)image;
    (void)err;
    *out = (void *)(uintptr_t)name;
    return TN_OK;
}

static inline void image_unload(tn_device *d, tn_image *image)
{
    (void)d;
    (void)image;
    n_images--;
}

static inline int is_kernel(const struct noted *n, const char *name)
{
    return strncmp(n->entry, name, strlen(name)) == 0;
}

static inline int32_t note_launch(tn_device *d, tn_stream *s, const tn_kernel_launch *k,
                                  tn_err *err)
{
    struct noted *n = &launches[n_launches++];

    (void)d;
    (void)s;
    (void)err;
    ck_assert_uint_le(n_launches, 8);
    n->entry = k->entry;
    n->k = *k;
    if (is_kernel(n, "skinny") || is_kernel(n, "wide"))
        n->products = *(const struct product_params *)k->params[0];
    if (is_kernel(n, "few") || is_kernel(n, "many") || is_kernel(n, "half") ||
        is_kernel(n, "one") || is_kernel(n, "logits"))
        n->eight = *(const struct eight_params *)k->params[0];
    if (is_kernel(n, "quantize") || is_kernel(n, "gather_s8"))
        n->quantize = *(const struct quantize_params *)k->params[0];
    if (is_kernel(n, "norm"))
        n->norm = *(const struct norm_params *)k->params[0];
    if (is_kernel(n, "decode") || is_kernel(n, "prefill"))
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

static inline tn_device *device(int i)
{
    return (tn_device *)(void *)&places[i];
}

static inline void *host_alloc(tn_host_ctx *ctx, uint64_t bytes, uint64_t align)
{
    (void)ctx;
    (void)align;
    return calloc(1, bytes);
}

static inline void host_free(tn_host_ctx *ctx, void *p)
{
    (void)ctx;
    free(p);
}

static const tn_host host = {.h = TN_HDR(tn_host), .alloc = host_alloc, .free = host_free};

static inline void setup(void)
{
    err = (tn_err)TN_ERR_INIT;
    n_launches = 0;
    image_status = TN_OK;
    ck_assert_ok(tn_plugin_query_v1(&host, 0)->init(&host, NULL, 0, &instance, &err), &err);
    ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(0), &err), &err);
}

static inline void teardown(void)
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

static inline const tn_value *value(int i, uint32_t kind, uint64_t width)
{
    values[i] = (tn_value){TN_HDR(tn_value), kind, TN_DT_BF16, width, 0, 0};
    return value_list[i] = &values[i];
}

static inline const tn_weight *weight(int i, uint32_t dtype, uint64_t n, uint64_t k)
{
    weights[i] = (tn_weight){.h = TN_HDR(tn_weight),
                             .dtype = dtype,
                             .n_dims = k ? 2 : 1,
                             .dims = {n, k},
                             .stride0 = k ? 2 * k : 2};
    return weight_list[i] = &weights[i];
}

static inline tn_op *linear(int i, uint64_t n, uint64_t k)
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

static inline void launch(const tn_variant *v, const tn_op *op, const tn_batch *b,
                          const tn_kv_layer *kv)
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

static inline tn_batch batch_of(uint32_t rows)
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

#endif
