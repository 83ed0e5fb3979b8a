/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel set "cuda": which variants there are, and attaching it to devices: loading its images.
 */
#include "set.h"

#include "device.h"

/* What can_run functions do not say: the GPUs that there is code for. */
static const tn_gpu_target gpus[] = {CUDA_TARGETS{0, 0, 0, 0}};

#define FLAGS (TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT)

#define VARIANT(id, op_name, composition, more, weights, kv, work)                                 \
    static const tn_variant variant_##id = {                                                       \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id ".cuda",                                                                       \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags = FLAGS | (more),                                                                   \
        .act_dtypes = CUDA_FLOATS,                                                                 \
        .weight_dtypes = (weights),                                                                \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = (kv) ? TN_KV_LAYOUT_HND : NULL,                                               \
        .gpus = gpus,                                                                              \
        .can_run = id##_can_run,                                                                   \
        .cost_ns = id##_cost_ns,                                                                   \
        .workspace = work,                                                                         \
        .launch = id##_launch,                                                                     \
    };
#define PLAIN(id, op_name, equals, weights, kv) VARIANT(id, op_name, equals, 0, weights, kv, NULL)
#define FEEDS(id, op_name, equals, weights, kv)                                                    \
    VARIANT(id, op_name, equals, TN_VARIANT_FEEDS, weights, kv, NULL)
#define PARTS(id, op_name, equals, weights, kv)                                                    \
    VARIANT(id, op_name, equals, TN_VARIANT_PARTS, weights, kv, NULL)
#define WORKING(id, op_name, equals, weights, kv)                                                  \
    VARIANT(id, op_name, equals, 0, weights, kv, id##_workspace)
ROWS_OPS(PLAIN)
FEEDS_OPS(FEEDS)
PARTS_OPS(PARTS)
WORKSPACE_OPS(WORKING)

/* The library sums in an order that depends on the number of rows. */
#define GEMM(id, op_name, composition)                                                             \
    static const tn_variant gemm_##id = {                                                          \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id ".cublaslt",                                                                   \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC,                                 \
        .act_dtypes = CUDA_FLOATS,                                                                 \
        .weight_dtypes = CUDA_FLOATS,                                                              \
        .gpus = gpus,                                                                              \
        .can_run = gemm_can_run,                                                                   \
        .cost_ns = gemm_cost_ns,                                                                   \
        .workspace = gemm_workspace,                                                               \
        .launch = gemm_##id##_launch,                                                              \
    };
GEMM_OPS(GEMM)

#define GEMM_QUANT(id, op_name, way, dtype, more)                                                  \
    static const tn_variant gemm_quant_##id = {                                                    \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id ".cublaslt",                                                                   \
        .op = op_name,                                                                             \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | (more),                        \
        .act_dtypes = CUDA_FLOATS,                                                                 \
        .weight_dtypes = TN_DT_BIT(dtype),                                                         \
        .gpus = gpus,                                                                              \
        .can_run = gemm_##id##_can_run,                                                            \
        .cost_ns = gemm_##way##_cost_ns,                                                           \
        .workspace = gemm_##way##_workspace,                                                       \
        .launch = gemm_##way##_launch,                                                             \
    };
GEMM_QUANT_OPS(GEMM_QUANT)

#define GATE_QUANT(act, scheme, linear, dtype)                                                     \
    static const tn_variant act##_##scheme = {                                                     \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #act "_linear_" #scheme ".cublaslt",                                               \
        .op = #act "_linear." #scheme,                                                             \
        .equals = TN_TEXT_ACT_LINEAR(linear, #act),                                                \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC,                                 \
        .act_dtypes = TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16),                                \
        .weight_dtypes = TN_DT_BIT(dtype),                                                         \
        .gpus = gpus,                                                                              \
        .can_run = gate_quant_can_run,                                                             \
        .cost_ns = gate_quant_cost_ns,                                                             \
        .workspace = gemm_quant_workspace,                                                         \
        .launch = gemm_quant_launch,                                                               \
    };
GATE_QUANT_OPS(GATE_QUANT)

static const tn_range few_rows[] = {{"rows", 1, 16, 1}};
static const tn_variant few_int4 = {
    .h = TN_HDR(tn_variant),
    .name = "linear_int4_few.cuda",
    .op = TN_OP_LINEAR_INT4,
    .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC,
    .act_dtypes = CUDA_FLOATS,
    .weight_dtypes = TN_DT_BIT(TN_DT_I4),
    .gpus = gpus,
    .ranges = few_rows,
    .n_ranges = 1,
    .can_run = few_int4_can_run,
    .cost_ns = few_int4_cost_ns,
    .launch = few_int4_launch,
};

static const tn_variant short_fp8 = {
    .h = TN_HDR(tn_variant),
    .name = "linear_fp8_short.cuda",
    .op = TN_OP_LINEAR_FP8,
    .flags = FLAGS | TN_VARIANT_WIDE_ROWS,
    .act_dtypes = CUDA_FLOATS,
    .weight_dtypes = TN_DT_BIT(TN_DT_F8E4M3),
    .gpus = gpus,
    .can_run = short_fp8_can_run,
    .cost_ns = short_fp8_cost_ns,
    .launch = short_fp8_launch,
};

#define ADDRESS(id, op_name, equals, weights, kv) &variant_##id,
#define GEMM_ADDRESS(id, op_name, equals) &gemm_##id,
#define GEMM_QUANT_ADDRESS(id, op_name, way, dtype, more) &gemm_quant_##id,
#define GATE_QUANT_ADDRESS(act, scheme, linear, dtype) &act##_##scheme,
static const tn_variant *const variants[] = {ROWS_OPS(ADDRESS) FEEDS_OPS(ADDRESS) PARTS_OPS(ADDRESS)
                                                     WORKSPACE_OPS(ADDRESS) GEMM_OPS(GEMM_ADDRESS)
                                                         GEMM_QUANT_OPS(GEMM_QUANT_ADDRESS)
                                                             GATE_QUANT_OPS(GATE_QUANT_ADDRESS) &
                                                 few_int4,
                                             &short_fp8};

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = cuda_hnd_block_bytes};
static const tn_kv_layout *const kv_layouts[] = {&hnd};

double set_time_ns(double bytes, double flops, double flops_per_ns)
{
    double moving = bytes / 2e3, computing = flops / flops_per_ns;

    return 3000.0 + (moving > computing ? moving : computing);
}

/* -- Devices ----------------------------------------------------------------------------------------------- */

#define NAME_ONE(name) #name,
#define NAME_THREE(name) #name "_f32", #name "_f16", #name "_bf16",
#define IMAGE_DECLARE(image, entries)                                                              \
    extern const unsigned char tenon_image_cuda_##image[];                                         \
    extern const uint64_t tenon_image_cuda_##image##_bytes;                                        \
    static const char *const image##_names[] = {entries(NAME_ONE, NAME_THREE)};
IMAGES(IMAGE_DECLARE)

static struct set_state *state_of(void *instance)
{
    return &((struct cuda_instance *)instance)->set;
}

const struct set_device *set_device_of(void *instance, const tn_device *device)
{
    struct set_state *s = state_of(instance);
    uint32_t i = 0;

    while (i + 1 < CUDA_MAX_DEVICES && s->devices[i].device != device)
        i++;
    return &s->devices[i];
}

const struct set_device *set_any_device(void *instance)
{
    struct set_state *s = state_of(instance);

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (s->devices[i].device)
            return &s->devices[i];
    return NULL;
}

static void unload(struct set_device *d)
{
    struct gemm_plan *plans = d->gemm.plans;

    gemm_close(&d->gemm);
    if (plans)
        d->host->free(d->host->ctx, plans);
    for (uint32_t i = 0; i < N_IMAGES; i++)
        code_unload(&d->code[i]);
    memset(d, 0, sizeof *d);
}

static int32_t open_library(struct set_device *d, const char *path, tn_err *err)
{
    struct gemm_plan *plans = d->host->alloc(d->host->ctx, GEMM_CACHE * sizeof *plans, 64);
    int32_t rc = plans ? device_enter(d->device, err)
                       : tn_err_set(err, TN_E_NOMEM, "cuda: no memory for the plans of products");

    if (rc == TN_OK)
        gemm_open(&d->gemm, path[0] ? path : NULL, plans);
    else if (plans)
        d->host->free(d->host->ctx, plans);
    return rc;
}

static int32_t load(struct set_device *d, const tn_device_api *api, tn_device *device,
                    const char *path, tn_err *err)
{
    static const struct {
        const unsigned char *image;
        const uint64_t *bytes;
        const char *const *names;
        uint32_t n;
    } images[] = {
#define IMAGE_ROW(image, entries)                                                                  \
    {tenon_image_cuda_##image, &tenon_image_cuda_##image##_bytes, image##_names,                   \
     N_##image##_entries},
        IMAGES(IMAGE_ROW)};
    int32_t rc = TN_OK;

    d->device = device;
    for (uint32_t i = 0; i < N_IMAGES && rc == TN_OK; i++)
        rc = code_load(&d->code[i], api, device, images[i].image, *images[i].bytes, images[i].names,
                       images[i].n, err);
    if (rc == TN_OK)
        rc = open_library(d, path, err);
    if (rc != TN_OK)
        unload(d);
    return rc;
}

static int32_t attach(void *instance, const tn_device_api *api, tn_device *device, tn_err *err)
{
    struct set_state *s = state_of(instance);

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (!s->devices[i].device) {
            s->devices[i].host = ((struct cuda_instance *)instance)->host;
            return load(&s->devices[i], api, device, s->cublaslt, err);
        }
    return tn_err_set(err, TN_E_LIMIT, "cuda: attached to %d devices already", CUDA_MAX_DEVICES);
}

static void detach(void *instance, tn_device *device)
{
    struct set_state *s = state_of(instance);

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (s->devices[i].device == device) {
            unload(&s->devices[i]);
            return;
        }
}

/* Its heuristics, and what they choose among, change with the library. */
static const char *depends_on(void *instance, tn_device *device)
{
    const struct gemm *g = &set_device_of(instance, device)->gemm;

    return g->handle ? g->version : "no cuBLASLt";
}

const tn_kernel_set cuda_kernel_set = {
    .h = TN_HDR(tn_kernel_set),
    .device = "cuda",
    .n_variants = sizeof variants / sizeof *variants,
    .n_kv_layouts = 1,
    .variants = variants,
    .kv_layouts = kv_layouts,
    .attach = attach,
    .detach = detach,
    .depends_on = depends_on,
};
