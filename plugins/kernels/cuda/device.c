/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device "cuda": which GPUs there are, and opening them. A device is opened through its primary context, which it
 * shares with every library of the process that uses CUDA's runtime. Threads: as tenon/device.h says; each call makes the
 * context the calling thread's, which costs some 20 ns.
 */
#include "device.h"

#include <string.h>

#include "tenon/dtype.h"

#define NVIDIA 0x10de

static int32_t count(void *instance, uint32_t *n, tn_err *err)
{
    const struct cuda_instance *in = instance;
    int there = 0;
    int32_t rc =
        driver_status(&in->driver, in->driver.device_count(&there), err, "counting devices");

    if (!rc)
        *n = there > 0 ? (uint32_t)there : 0;
    return rc;
}

static int32_t find(const struct cuda_instance *in, uint32_t index, CUdevice *device, tn_err *err)
{
    uint32_t n = 0;
    int32_t rc = count((void *)(uintptr_t)in, &n, err);

    if (rc)
        return rc;
    if (index >= n)
        return tn_err_set(err, TN_E_RANGE, "cuda: device %u of %u", (unsigned)index, (unsigned)n);
    return driver_status(&in->driver, in->driver.device_get(device, (int)index), err,
                         "finding device %u", (unsigned)index);
}

static int32_t attribute(const struct driver *d, CUdevice device, CUdevice_attribute which,
                         int *value, tn_err *err)
{
    return driver_status(d, d->device_attribute(value, which, device), err,
                         "asking for attribute %d of a device", (int)which);
}

/* As NVIDIA's tools print it: "GPU-8f3b...". */
static void print_uuid(const CUuuid *uuid, char *out, size_t size)
{
    const unsigned char *b = (const unsigned char *)uuid->bytes;
    size_t at = (size_t)snprintf(out, size, "GPU-");

    for (int i = 0; i < 16 && at + 3 < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%02x",
                               i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
}

static void describe_driver(const struct driver *d, char *out, size_t size)
{
    size_t at =
        (size_t)snprintf(out, size, "CUDA %d.%d", d->version / 1000, d->version % 1000 / 10);

    if (d->number[0] && at < size)
        snprintf(out + at, size - at, ", %s", d->number);
}

static int32_t info(void *instance, uint32_t index, tn_device_info *info, tn_err *err)
{
    const struct cuda_instance *in = instance;
    const struct driver *d = &in->driver;
    int major = 0, minor = 0, units = 0, node = -1;
    size_t total = 0;
    CUuuid uuid;
    CUdevice device;
    tn_device_info i = *info;
    int32_t rc = find(in, index, &device, err);

    memset(&uuid, 0, sizeof uuid);
    if (rc ||
        (rc = attribute(d, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &major, err)) ||
        (rc = attribute(d, device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &minor, err)) ||
        (rc = attribute(d, device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &units, err)) ||
        (rc = driver_status(d, d->device_memory(&total, device), err, "a device's memory")) ||
        (rc = driver_status(d, d->device_uuid(&uuid, device), err, "a device's uuid")) ||
        (rc = driver_status(d, d->device_name(i.name, (int)sizeof i.name, device), err,
                            "a device's name")))
        return rc;
    if (d->device_attribute(&node, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, device) != CUDA_SUCCESS)
        node = -1; /* drivers before 12.2 do not know */
    i.flags = TN_DEVICE_STREAMS | TN_DEVICE_GRAPHS | TN_DEVICE_IMAGES;
    i.numa_node = node < 0 ? UINT32_MAX : (uint32_t)node;
    i.total_bytes = total;
    i.gpu = (tn_gpu_target){.vendor = NVIDIA, .major = (uint8_t)major, .minor = (uint8_t)minor};
    i.n_units = (uint32_t)units;
    i.reserved0 = 0;
    i.name[sizeof i.name - 1] = '\0';
    print_uuid(&uuid, i.uuid, sizeof i.uuid);
    if (d->device_bus(i.bus, (int)sizeof i.bus, device) != CUDA_SUCCESS)
        i.bus[0] = '\0';
    describe_driver(d, i.driver, sizeof i.driver);
    *info = i;
    return TN_OK;
}

int32_t device_enter(const tn_device *d, tn_err *err)
{
    return driver_status(d->driver, d->driver->ctx_set(d->context), err,
                         "switching to the context of device %u", (unsigned)d->index);
}

static int32_t open_context(tn_device *d, tn_err *err)
{
    int32_t rc;

    if ((rc = attribute(d->driver, d->device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                        &d->major, err)) ||
        (rc = attribute(d->driver, d->device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
                        &d->minor, err)) ||
        (rc = attribute(d->driver, d->device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                        &d->shared_limit, err)))
        return rc;
    return driver_status(d->driver, d->driver->ctx_retain(&d->context, d->device), err,
                         "opening device %u", (unsigned)d->index);
}

static int32_t device_open(void *instance, uint32_t index, uint32_t share, uint32_t n_shares,
                           tn_device **out, tn_err *err)
{
    const struct cuda_instance *in = instance;
    CUdevice device;
    tn_device *d;
    int32_t rc = find(in, index, &device, err);

    (void)share; /* an opening owns nothing that could be divided */
    (void)n_shares;
    if (rc)
        return rc;
    d = in->host->alloc(in->host->ctx, sizeof *d, 64);
    if (!d)
        return tn_err_set(err, TN_E_NOMEM, "cuda: no memory for a device");
    d->host = in->host;
    d->driver = &in->driver;
    d->index = index;
    d->device = device;
    rc = open_context(d, err);
    if (rc) {
        in->host->free(in->host->ctx, d);
        return rc;
    }
    *out = d;
    return TN_OK;
}

static void device_close(tn_device *d)
{
    unsigned long long left;

    if (!d)
        return;
    if (device_enter(d, NULL) == TN_OK)
        d->driver->ctx_sync();
    device_image_unload(d, d->sum_image);
    device_image_unload(d, d->few_image);
    device_image_unload(d, d->meet_image);
    left = atomic_load(&d->n_blocks);
    if (left) {
        char msg[96];
        snprintf(msg, sizeof msg, "cuda:%u was closed with %llu blocks of memory still in use",
                 (unsigned)d->index, left);
        d->host->log(d->host->ctx, TN_LOG_WARN, msg);
    }
    d->driver->ctx_set(NULL);
    d->driver->ctx_release(d->device);
    d->host->free(d->host->ctx, d);
}

/* Activations in the weights' own 16-bit format; for quantized weights bfloat16, whose range nothing overflows, where the
 * chip computes in it (from 8.0 on). */
static uint32_t act_dtype(tn_device *d, uint32_t weight_dtype)
{
    if (weight_dtype == TN_DT_F32 || weight_dtype == TN_DT_F16)
        return weight_dtype;
    return d->major >= 8 ? TN_DT_BF16 : TN_DT_F16;
}

static int32_t peer_access(tn_device *d, tn_device *peer, uint32_t *yes, tn_err *err)
{
    int can = 0;
    CUresult r;
    int32_t rc = device_enter(d, err);

    if (!rc && d->device == peer->device) { /* the driver says no to this question */
        *yes = 1;
        return TN_OK;
    }
    if (!rc)
        rc = driver_status(d->driver, d->driver->can_access_peer(&can, d->device, peer->device),
                           err, "asking whether device %u reaches device %u", (unsigned)d->index,
                           (unsigned)peer->index);
    if (rc)
        return rc;
    if (can) {
        r = d->driver->ctx_enable_peer(peer->context, 0);
        if (r && r != CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED)
            return driver_status(d->driver, r, err, "letting device %u reach device %u",
                                 (unsigned)d->index, (unsigned)peer->index);
    }
    *yes = can != 0;
    return TN_OK;
}

/* The driver ranks the ways between two devices: the best there are go over NVLink. */
static int32_t link_between(void *instance, uint32_t a, uint32_t b, tn_device_link *out,
                            tn_err *err)
{
    const struct cuda_instance *in = instance;
    const struct driver *d = &in->driver;
    int access = 0, native = 0;
    CUdevice from, to;
    int32_t rc = find(in, a, &from, err);

    if (!rc)
        rc = find(in, b, &to, err);
    if (rc)
        return rc;
    if (a == b) {
        snprintf(out->kind, sizeof out->kind, "self");
        out->access = out->atomics = 1;
        return TN_OK;
    }
    if ((rc = driver_status(
             d, d->device_pair(&access, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, from, to), err,
             "asking for the way from device %u to device %u", (unsigned)a, (unsigned)b)) ||
        (rc = driver_status(
             d, d->device_pair(&native, CU_DEVICE_P2P_ATTRIBUTE_NATIVE_ATOMIC_SUPPORTED, from, to),
             err, "asking for atomics from device %u to device %u", (unsigned)a, (unsigned)b)))
        return rc;
    out->access = access != 0;
    out->atomics = native != 0;
    /* Operations of a peer that the memory itself carries out are what NVLink has and PCIe, as GPUs use it, has not. */
    snprintf(out->kind, sizeof out->kind, "%s", access && native ? "nvlink" : "pcie");
    return TN_OK;
}

const tn_device_api cuda_device_api = {
    .h = TN_HDR(tn_device_api),
    .kind = "cuda",
    .count = count,
    .info = info,
    .open = device_open,
    .close = device_close,
    .act_dtype = act_dtype,
    .mem_alloc = device_mem_alloc,
    .mem_free = device_mem_free,
    .mem_info = device_mem_info,
    .pinned_alloc = device_pinned_alloc,
    .pinned_free = device_pinned_free,
    .copy = device_copy,
    .fill = device_fill,
    .stream_new = device_stream_new,
    .stream_free = device_stream_free,
    .stream_sync = device_stream_sync,
    .event_new = device_event_new,
    .event_free = device_event_free,
    .event_record = device_event_record,
    .event_query = device_event_query,
    .event_sync = device_event_sync,
    .event_elapsed_ns = device_event_elapsed,
    .stream_wait = device_stream_wait,
    .capture_begin = device_capture_begin,
    .capture_end = device_capture_end,
    .graph_launch = device_graph_launch,
    .graph_free = device_graph_free,
    .image_load = device_image_load,
    .image_entry = device_image_entry,
    .image_unload = device_image_unload,
    .launch = device_launch,
    .native_symbol = device_native_symbol,
    .native_context = device_native_context,
    .native_stream = device_native_stream,
    .peer_access = peer_access,
    .copy_rows = device_copy_rows,
    .link = link_between,
    .sum = device_sum,
    .meet_bytes = device_meet_bytes,
    .meet_sum = device_meet_sum,
    .meet_gather = device_meet_gather,
    .copy_few = device_copy_few,
};
