/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kernel set "reference": every basic op of ops.h in plain C, one thread, any CPU.
 *
 * It is the definition of the ops wherever the text of ops.h leaves room, the measure that other sets are
 * tested against, and the last resort where no other set offers an op; its cost is set so that it
 * never wins against one that does. Collectives are not here: they belong to comm plugins.
 */
#include "tenon/plugin.h"
#include "ref.h"

#define VERSION "0.1.0"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_KERNELS, .name = "reference",
               .vendor = "tenon", .version = VERSION);

/* Larger than any measured or estimated time, yet a cost: the set is chosen when nothing else fits. */
static double cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    (void)op;
    return 1e15 * (double)rows;
}

#define VARIANT(id, op_name, weights, kv)                                                          \
    static const tn_variant variant_##id = {                                                       \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = op_name ".reference",                                                              \
        .op = op_name,                                                                             \
        .flags = TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT,                            \
        .act_dtypes = REF_FLOATS,                                                                  \
        .weight_dtypes = (weights),                                                                \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = (kv) ? TN_KV_LAYOUT_HND : NULL,                                               \
        .can_run = ref_##id##_check,                                                               \
        .cost_ns = cost_ns,                                                                        \
        .workspace = ref_workspace,                                                                \
        .launch = ref_##id##_launch,                                                               \
    };
REF_OPS(VARIANT)

#define ADDRESS(id, op_name, weights, kv) &variant_##id,
static const tn_variant *const variants[] = {REF_OPS(ADDRESS)};
#define ONE(id, op_name, weights, kv) +1

static uint64_t hnd_block_bytes(const tn_kv_layer *layer)
{
    uint64_t elements = (uint64_t)layer->n_kv_heads * layer->block_tokens * layer->head_dim;

    return 2 * elements * tn_dtype_bits(layer->dtype) / 8; /* keys, then values */
}

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = hnd_block_bytes};
static const tn_kv_layout *const kv_layouts[] = {&hnd};

static const tn_kernel_set kernel_set = {
    .h = TN_HDR(tn_kernel_set),
    .device = "cpu",
    .n_variants = REF_OPS(ONE),
    .n_kv_layouts = 1,
    .variants = variants,
    .kv_layouts = kv_layouts,
};

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &kernel_set}};

static const tn_plugin plugin = {
    .h = TN_HDR(tn_plugin),
    .name = "reference",
    .vendor = "tenon",
    .version = VERSION,
    .n_ifaces = 1,
    .ifaces = ifaces,
};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
