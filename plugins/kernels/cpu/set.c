/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel set "cpu": which variants there are, and which devices run them.
 *
 * Matrix products come from products.c. The other ops are stamped out here, once per instruction set: the
 * functions of a tn_variant are not told which variant they are called for. attach and detach are called by
 * the thread that binds a plan, the rest from any.
 */
#include "attention.h"
#include "experts.h"
#include "products.h"
#include "rows.h"
#include "sample.h"

#if defined(__x86_64__)

#define FLAGS (TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT)

#define NEEDS_avx512 TN_CPU_X86_AVX512
#define NEEDS_avx2 TN_CPU_X86_AVX2

/* How much slower an instruction set is where it matters; a prior. */
#define SLOWER_avx512 1.0
#define SLOWER_avx2 1.3

/* -- Row by row ------------------------------------------------------------------------------------ */

static double rows_cost_ns(const tn_op *op, uint32_t rows, double slower)
{
    double width = 0.0;

    for (uint32_t i = 0; i < op->n_in; i++)
        width += (double)op->in[i]->width;
    for (uint32_t i = 0; i < op->n_out; i++)
        width += (double)op->out[i]->width;
    return 300.0 + slower * 0.1 * width * (double)rows;
}

#define ROWS_VARIANT(isa, more, id, op_name, composition, weights, kv)                             \
    static int32_t id##_launch_##isa(void *instance, const tn_launch *l, tn_err *err)              \
    {                                                                                              \
        return id##_launch(instance, l, &isa_##isa, err);                                          \
    }                                                                                              \
    static const tn_variant id##_##isa = {                                                         \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id "." #isa,                                                                      \
        .op = op_name,                                                                             \
        .equals = composition,                                                                     \
        .flags = FLAGS | (more),                                                                   \
        .act_dtypes = TN_DT_BIT(TN_DT_F32),                                                        \
        .weight_dtypes = (weights),                                                                \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = (kv) ? TN_KV_LAYOUT_HND : NULL,                                               \
        .cpu = {NEEDS_##isa, 0},                                                                   \
        .can_run = id##_can_run,                                                                   \
        .cost_ns = rows_cost_ns_##isa,                                                             \
        .launch = id##_launch_##isa,                                                               \
    };

/* -- Attention, experts and sampling ------------------------------------------------------------------------ */

static int32_t attention_can_run_any(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return attention_can_run(op, err);
}

static int32_t attention_workspace_any(void *instance, const tn_op *op, uint32_t max_rows,
                                       uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                       tn_err *err)
{
    (void)max_seqs;
    (void)err;
    *bytes = attention_workspace(instance, op, max_rows, max_context);
    return TN_OK;
}

static int32_t sample_can_run_any(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return sample_can_run(op, err);
}

static int32_t sample_workspace_any(void *instance, const tn_op *op, uint32_t max_rows,
                                    uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                    tn_err *err)
{
    (void)max_rows;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = sample_workspace(instance, op);
    return TN_OK;
}

static int32_t moe_mlp_can_run_any(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return experts_can_run(op, err);
}

static double moe_mlp_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    return experts_cost_ns(op, rows);
}

static int32_t moe_mlp_workspace_any(void *instance, const tn_op *op, uint32_t max_rows,
                                     uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                     tn_err *err)
{
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = experts_workspace(instance, op, max_rows);
    return TN_OK;
}

static void moe_mlp_launch(void *instance, const tn_launch *l, const struct isa *isa)
{
    experts_launch(instance, l, isa);
}

#define EXPERTS (ROWS_FLOATS | TN_DT_BIT(TN_DT_I8) | TN_DT_BIT(TN_DT_F8E4M3) | TN_DT_BIT(TN_DT_I4))

#define OTHER_VARIANT(isa, id, op_name, weights, kv)                                               \
    static double id##_cost_ns_##isa(void *instance, const tn_op *op, uint32_t rows)               \
    {                                                                                              \
        return SLOWER_##isa * id##_cost_ns(instance, op, rows);                                    \
    }                                                                                              \
    static int32_t id##_launch_##isa(void *instance, const tn_launch *l, tn_err *err)              \
    {                                                                                              \
        (void)err;                                                                                 \
        id##_launch(instance, l, &isa_##isa);                                                      \
        return TN_OK;                                                                              \
    }                                                                                              \
    static const tn_variant id##_##isa = {                                                         \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = #id "." #isa,                                                                      \
        .op = op_name,                                                                             \
        .flags = FLAGS,                                                                            \
        .act_dtypes = TN_DT_BIT(TN_DT_F32),                                                        \
        .weight_dtypes = (weights),                                                                \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = (kv) ? TN_KV_LAYOUT_HND : NULL,                                               \
        .cpu = {NEEDS_##isa, 0},                                                                   \
        .can_run = id##_can_run_any,                                                               \
        .cost_ns = id##_cost_ns_##isa,                                                             \
        .workspace = id##_workspace_any,                                                           \
        .launch = id##_launch_##isa,                                                               \
    };

/* -- All of them ----------------------------------------------------------------------------------- */

#define ISA_VARIANTS(isa)                                                                          \
    static double rows_cost_ns_##isa(void *instance, const tn_op *op, uint32_t rows)               \
    {                                                                                              \
        (void)instance;                                                                            \
        return rows_cost_ns(op, rows, SLOWER_##isa);                                               \
    }                                                                                              \
    OTHER_VARIANT(isa, attention, TN_OP_ATTENTION, 0, ROWS_CACHE)                                  \
    OTHER_VARIANT(isa, moe_mlp, TN_OP_MOE_MLP, EXPERTS, 0)                                         \
    OTHER_VARIANT(isa, sample, TN_OP_SAMPLE, 0, 0)

#define ROWS_AVX512(...) ROWS_VARIANT(avx512, 0, __VA_ARGS__)
#define ROWS_AVX2(...) ROWS_VARIANT(avx2, 0, __VA_ARGS__)
#define PARTS_AVX512(...) ROWS_VARIANT(avx512, TN_VARIANT_PARTS, __VA_ARGS__)
#define PARTS_AVX2(...) ROWS_VARIANT(avx2, TN_VARIANT_PARTS, __VA_ARGS__)

ISA_VARIANTS(avx512)
ROWS_OPS(ROWS_AVX512)
ROWS_PARTS(PARTS_AVX512)
ISA_VARIANTS(avx2)
ROWS_OPS(ROWS_AVX2)
ROWS_PARTS(PARTS_AVX2)

#define PRODUCT_ADDRESS(kernel, form, id, op, equals) &product_##id##_##kernel,
#define ROWS_ADDRESSES(id, op, equals, weights, kv) &id##_avx512, &id##_avx2,

static const tn_variant *const variants[] = {
    PRODUCTS(PRODUCT_ADDRESS) ROWS_OPS(ROWS_ADDRESSES) ROWS_PARTS(ROWS_ADDRESSES) &
        attention_avx512,
    &attention_avx2,
    &moe_mlp_avx512,
    &moe_mlp_avx2,
    &sample_avx512,
    &sample_avx2,
};

#define PRODUCT_ONE(kernel, form, id, op, equals) +1
#define ROWS_ONE(id, op, equals, weights, kv) +2
#define N_VARIANTS (PRODUCTS(PRODUCT_ONE) ROWS_OPS(ROWS_ONE) ROWS_PARTS(ROWS_ONE) + 6)

#else /* no kernels for this architecture yet: the device alone, and the reference set on it */

#define variants NULL
#define N_VARIANTS 0

#endif

static uint64_t hnd_block_bytes(const tn_kv_layer *layer)
{
    uint64_t elements = (uint64_t)layer->n_kv_heads * layer->block_tokens * layer->head_dim;

    return 2 * elements * tn_dtype_bits(layer->dtype) / 8; /* keys, then values */
}

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = hnd_block_bytes};
static const tn_kv_layout *const kv_layouts[] = {&hnd};

static int32_t attach(void *instance, const tn_device_api *api, tn_device *device, tn_err *err)
{
    struct cpu_instance *in = instance;

    for (uint32_t i = 0; i < CPU_MAX_ATTACHED; i++) {
        if (in->attached[i])
            continue;
        in->api = api;
        in->attached[i] = device;
        return TN_OK;
    }
    return tn_err_set(err, TN_E_LIMIT, "cpu: attached to %d devices already", CPU_MAX_ATTACHED);
}

static void detach(void *instance, tn_device *device)
{
    struct cpu_instance *in = instance;

    for (uint32_t i = 0; i < CPU_MAX_ATTACHED; i++)
        if (in->attached[i] == device) {
            in->attached[i] = NULL;
            return;
        }
}

const tn_kernel_set cpu_kernel_set = {
    .h = TN_HDR(tn_kernel_set),
    .device = "cpu",
    .n_variants = N_VARIANTS,
    .n_kv_layouts = 1,
    .variants = variants,
    .kv_layouts = kv_layouts,
    .attach = attach,
    .detach = detach,
};
