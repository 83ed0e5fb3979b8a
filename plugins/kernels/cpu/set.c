/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel set "cpu": which variants there are, and which devices run them. */
#include "cpu.h"

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
    .n_kv_layouts = 1,
    .kv_layouts = kv_layouts,
    .attach = attach,
    .detach = detach,
};
