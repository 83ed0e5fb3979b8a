/* SPDX-License-Identifier: Apache-2.0 */
/* The table of variants, and the devices that they are loaded on. */
#include "hopper.h"

#define NVIDIA 0x10de

const tn_gpu_target hopper_gpus[] = {
    {.vendor = NVIDIA, .major = 9, .minor = 0, .mode = TN_GPU_EXACT}, {.vendor = 0}};

#define IMAGE_BYTES(IMAGE, name)                                                                   \
    extern const unsigned char tenon_image_##name[];                                               \
    extern const uint64_t tenon_image_##name##_bytes;
HOPPER_IMAGES(IMAGE_BYTES)

int32_t hopper_find(struct hopper_instance *in, const tn_launch *l,
                    const struct hopper_device **out, tn_err *err)
{
    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (in->devices[i].device == l->device) {
            *out = &in->devices[i];
            return TN_OK;
        }
    return tn_err_set(err, TN_E_INTERNAL, "hopper: launched on a device it is not attached to");
}

int32_t hopper_launch(const struct hopper_device *d, const tn_launch *l, enum hopper_image image,
                      uint32_t entry, struct cuda_grid grid, void *args, tn_err *err)
{
    grid.flags |= TN_LAUNCH_OVERLAP;
    return code_launch(&d->code[image], l->stream, entry, grid, args, err);
}

static void unload(struct hopper_device *d)
{
    for (uint32_t i = 0; i < N_IMAGES; i++)
        code_unload(&d->code[i]);
    d->device = NULL;
}

static int32_t load(struct hopper_device *d, const tn_device_api *api, tn_device *device,
                    tn_err *err)
{
    const struct {
        const unsigned char *image;
        uint64_t bytes;
        const char *const *names;
        uint32_t n;
    } images[N_IMAGES] = {
#define IMAGE_ROW(IMAGE, name)                                                                     \
    {tenon_image_##name, tenon_image_##name##_bytes, name##_entries, n_##name##_entries},
        HOPPER_IMAGES(IMAGE_ROW)};
    void *symbol = NULL;
    int32_t rc = api->native_symbol(device, "cuTensorMapEncodeTiled", &symbol, err);

    for (uint32_t i = 0; i < N_IMAGES && rc == TN_OK; i++)
        rc = code_load(&d->code[i], api, device, images[i].image, images[i].bytes, images[i].names,
                       images[i].n, err);
    if (rc != TN_OK) {
        unload(d);
        return rc;
    }
    memcpy(&d->encode, &symbol, sizeof d->encode);
    d->device = device;
    return TN_OK;
}

/* A set is attached to every device of its kind; on one that it has no code for, no variant of it will be chosen. */
static int32_t attach(void *instance, const tn_device_api *api, tn_device *device, tn_err *err)
{
    struct hopper_instance *in = instance;
    int32_t rc;

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++) {
        if (in->devices[i].device)
            continue;
        rc = load(&in->devices[i], api, device, err);
        return rc == TN_E_UNSUPPORTED ? TN_OK : rc;
    }
    return tn_err_set(err, TN_E_LIMIT, "hopper: attached to %d devices already", CUDA_MAX_DEVICES);
}

static void detach(void *instance, tn_device *device)
{
    struct hopper_instance *in = instance;

    for (uint32_t i = 0; i < CUDA_MAX_DEVICES; i++)
        if (in->devices[i].device == device)
            unload(&in->devices[i]);
}

static uint64_t hnd_block_bytes(const tn_kv_layer *layer)
{
    return cuda_hnd_block_bytes(layer);
}

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = hnd_block_bytes};
static const tn_kv_layout *const kv_layouts[] = {&hnd};

#define ADDRESS(id) &hopper_##id,
static const tn_variant *const variants[] = {HOPPER_VARIANTS(ADDRESS)};

const tn_kernel_set hopper_kernel_set = {
    .h = TN_HDR(tn_kernel_set),
    .device = "cuda",
    .n_variants = sizeof variants / sizeof *variants,
    .n_kv_layouts = 1,
    .variants = variants,
    .kv_layouts = kv_layouts,
    .attach = attach,
    .detach = detach,
};
