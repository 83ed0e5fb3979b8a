/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device "cpu": the machine that the process runs on, as one device that computes in host memory.
 *
 * It has no streams: every call has completed on return. An opened device owns its workers; opening it
 * twice gives two sets of workers, which then share the cores. Threads: as device.h says.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"
#include "pool.h"

struct tn_device {
    const tn_host *host;
    struct pool *pool;
    atomic_ullong blocks; /* allocated and not yet freed */
};

static int32_t count(void *instance, uint32_t *n, tn_err *err)
{
    (void)instance;
    (void)err;
    *n = 1;
    return TN_OK;
}

static int32_t check_index(uint32_t index, tn_err *err)
{
    return index == 0 ? TN_OK : tn_err_set(err, TN_E_RANGE, "cpu: device %u of 1", (unsigned)index);
}

/* The processor's name from /proc/cpuinfo, or "cpu". */
static void cpu_name(char *name, size_t size)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "re");

    snprintf(name, size, "cpu");
    while (f && fgets(line, sizeof line, f)) {
        char *value = strchr(line, ':');
        if (!value || strncmp(line, "model name", 10) != 0)
            continue;
        value += strspn(value, ": \t");
        value[strcspn(value, "\n")] = '\0';
        snprintf(name, size, "%s", value);
        break;
    }
    if (f)
        fclose(f);
}

static int32_t info(void *instance, uint32_t index, tn_device_info *info, tn_err *err)
{
    const struct cpu_instance *in = instance;
    uint64_t free_bytes = 0, total_bytes = 0;
    int32_t rc = check_index(index, err);

    if (!rc)
        rc = memory_info(&free_bytes, &total_bytes, err);
    if (rc)
        return rc;
    info->flags = TN_DEVICE_HOST_MEMORY;
    info->numa_node = UINT32_MAX;
    info->total_bytes = total_bytes;
    memset(&info->gpu, 0, sizeof info->gpu);
    info->n_units = in->host->n_cpus;
    info->reserved0 = 0;
    cpu_name(info->name, sizeof info->name);
    info->uuid[0] = '\0';
    info->driver[0] = '\0';
    return TN_OK;
}

static int32_t device_open(void *instance, uint32_t index, uint32_t share, uint32_t n_shares,
                           tn_device **out, tn_err *err)
{
    const struct cpu_instance *in = instance;
    tn_device *d;
    int32_t rc = check_index(index, err);

    if (rc)
        return rc;
    d = in->host->alloc(in->host->ctx, sizeof *d, 64);
    if (!d)
        return tn_err_set(err, TN_E_NOMEM, "cpu: no memory for a device");
    d->host = in->host;
    rc = pool_open(in->host, &in->settings, share, n_shares, &d->pool, err);
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
    left = atomic_load(&d->blocks);
    if (left) {
        char msg[80];
        snprintf(msg, sizeof msg, "device closed with %llu blocks of memory still in use", left);
        d->host->log(d->host->ctx, TN_LOG_WARN, msg);
    }
    pool_close(d->pool);
    d->host->free(d->host->ctx, d);
}

/* Kernels compute in float32 whatever the weights are: no CPU is faster with narrower activations, and
 * float32 makes one accumulation order, hence one result, affordable. */
static uint32_t act_dtype(tn_device *d, uint32_t weight_dtype)
{
    (void)d;
    (void)weight_dtype;
    return TN_DT_F32;
}

static int32_t mem_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    uint64_t free_bytes = 0, total_bytes = 0;
    void *ptr = memory_alloc(d->host, bytes);

    if (!ptr) {
        memory_info(&free_bytes, &total_bytes, NULL);
        return tn_err_set(err, TN_E_NOSPACE, "cpu: %llu bytes asked for, %llu of %llu free",
                          (unsigned long long)bytes, (unsigned long long)free_bytes,
                          (unsigned long long)total_bytes);
    }
    atomic_fetch_add(&d->blocks, 1);
    *out = ptr;
    return TN_OK;
}

static void mem_free(tn_device *d, void *ptr)
{
    if (!ptr)
        return;
    memory_free(d->host, ptr);
    atomic_fetch_sub(&d->blocks, 1);
}

static int32_t mem_info(tn_device *d, uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err)
{
    (void)d;
    return memory_info(free_bytes, total_bytes, err);
}

static int32_t copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err)
{
    (void)d;
    (void)s;
    (void)kind;
    (void)err;
    if (bytes)
        memmove(dst, src, bytes);
    return TN_OK;
}

static int32_t fill(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err)
{
    (void)d;
    (void)s;
    (void)err;
    if (bytes)
        memset(dst, byte, bytes);
    return TN_OK;
}

static void parallel(tn_device *d, tn_parallel_fn fn, void *arg)
{
    pool_run(d->pool, fn, arg);
}

static uint32_t n_workers(tn_device *d)
{
    return pool_size(d->pool);
}

const tn_device_api cpu_device_api = {
    .h = TN_HDR(tn_device_api),
    .kind = "cpu",
    .count = count,
    .info = info,
    .open = device_open,
    .close = device_close,
    .act_dtype = act_dtype,
    .mem_alloc = mem_alloc,
    .mem_free = mem_free,
    .mem_info = mem_info,
    .copy = copy,
    .fill = fill,
    .parallel = parallel,
    .n_workers = n_workers,
};
