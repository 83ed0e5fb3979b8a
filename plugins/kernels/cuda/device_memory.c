/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a CUDA device, page-locked host memory, and copies. Any thread. */
#include "device.h"

int32_t device_mem_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    CUdeviceptr ptr = 0;
    CUresult r;
    int32_t rc = device_enter(d, err);

    if (rc)
        return rc;
    r = d->driver->mem_alloc(&ptr, bytes ? bytes : 1);
    if (r == CUDA_ERROR_OUT_OF_MEMORY) {
        size_t left = 0, total = 0;
        d->driver->mem_info(&left, &total);
        if (err)
            err->native = (int32_t)r;
        return tn_err_set(err, TN_E_NOSPACE, "cuda:%u: %llu bytes asked for, %llu of %llu free",
                          (unsigned)d->index, (unsigned long long)bytes, (unsigned long long)left,
                          (unsigned long long)total);
    }
    if (r)
        return driver_status(d->driver, r, err, "allocating %llu bytes", (unsigned long long)bytes);
    atomic_fetch_add(&d->n_blocks, 1);
    *out = (void *)(uintptr_t)ptr;
    return TN_OK;
}

/* A free that fails is one of two things: the pointer is not ours, or earlier work died and took the context along. Either
 * way there is nobody to tell but the log. */
static void note_free(tn_device *d, CUresult r)
{
    tn_err err = TN_ERR_INIT;

    atomic_fetch_sub(&d->n_blocks, 1);
    if (driver_status(d->driver, r, &err, "freeing memory"))
        d->host->log(d->host->ctx, TN_LOG_WARN, err.msg);
}

void device_mem_free(tn_device *d, void *ptr)
{
    if (ptr && device_enter(d, NULL) == TN_OK)
        note_free(d, d->driver->mem_free((CUdeviceptr)(uintptr_t)ptr));
}

int32_t device_mem_info(tn_device *d, uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err)
{
    size_t left = 0, total = 0;
    int32_t rc = device_enter(d, err);

    if (!rc)
        rc = driver_status(d->driver, d->driver->mem_info(&left, &total), err,
                           "asking for free memory");
    if (rc)
        return rc;
    *free_bytes = left;
    *total_bytes = total;
    return TN_OK;
}

int32_t device_pinned_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    CUresult r;
    int32_t rc = device_enter(d, err);
    void *ptr = NULL;

    if (rc)
        return rc;
    r = d->driver->host_alloc(&ptr, bytes ? bytes : 1, CU_MEMHOSTALLOC_PORTABLE);
    if (r) {
        rc = driver_status(d->driver, r, err, "page-locking %llu bytes of host memory",
                           (unsigned long long)bytes);
        if (rc != TN_E_NOSPACE)
            return rc;
        if (err)
            err->code = TN_E_NOMEM; /* what has run out is the host's */
        return TN_E_NOMEM;
    }
    atomic_fetch_add(&d->n_blocks, 1);
    *out = ptr;
    return TN_OK;
}

void device_pinned_free(tn_device *d, void *ptr)
{
    if (ptr && device_enter(d, NULL) == TN_OK)
        note_free(d, d->driver->host_free(ptr));
}

int32_t device_copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err)
{
    CUdeviceptr to = (CUdeviceptr)(uintptr_t)dst, from = (CUdeviceptr)(uintptr_t)src;
    CUstream stream = (CUstream)(void *)s;
    int32_t rc = device_enter(d, err);
    CUresult r;

    if (rc || bytes == 0)
        return rc;
    switch (kind) {
    case TN_COPY_HOST_TO_DEVICE: r = d->driver->copy_in(to, src, bytes, stream); break;
    case TN_COPY_DEVICE_TO_HOST: r = d->driver->copy_out(dst, from, bytes, stream); break;
    case TN_COPY_DEVICE_TO_DEVICE: r = d->driver->copy_over(to, from, bytes, stream); break;
    default: return tn_err_set(err, TN_E_INVALID, "cuda: %u is no kind of copy", (unsigned)kind);
    }
    return driver_status(d->driver, r, err, "copying %llu bytes", (unsigned long long)bytes);
}

int32_t device_fill(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err)
{
    int32_t rc = device_enter(d, err);

    if (rc || bytes == 0)
        return rc;
    return driver_status(
        d->driver, d->driver->fill((CUdeviceptr)(uintptr_t)dst, byte, bytes, (CUstream)(void *)s),
        err, "filling %llu bytes", (unsigned long long)bytes);
}
