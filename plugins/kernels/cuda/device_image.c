/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device code for kernel sets, and launching it. A kernel is handed out as the driver's function, made ready when it is
 * asked for: a kernel that becomes ready at its first launch would wait there for all that runs. Any thread.
 */
#include <dlfcn.h>
#include <stdbool.h>

#include "device.h"

#define MAX_ATTRIBUTES 2

struct tn_image {
    CUlibrary library;
};

static int32_t explain_load(const tn_device *d, CUresult r, uint64_t bytes, tn_err *err)
{
    if (r == CUDA_ERROR_NO_BINARY_FOR_GPU) {
        if (err)
            err->native = (int32_t)r;
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "cuda:%u: the image has no code for compute capability %d.%d",
                          (unsigned)d->index, d->major, d->minor);
    }
    return driver_status(d->driver, r, err, "loading an image of %llu bytes",
                         (unsigned long long)bytes);
}

int32_t device_image_load(tn_device *d, const void *image, uint64_t bytes, tn_image **out,
                          tn_err *err)
{
    tn_image *i;
    CUresult r;
    int32_t rc = device_enter(d, err);

    if (rc)
        return rc;
    i = d->host->alloc(d->host->ctx, sizeof *i, 64);
    if (!i)
        return tn_err_set(err, TN_E_NOMEM, "cuda: no memory for an image");
    r = d->driver->library_load(&i->library, image, NULL, NULL, 0, NULL, NULL, 0);
    if (r) {
        d->host->free(d->host->ctx, i);
        return explain_load(d, r, bytes, err);
    }
    *out = i;
    return TN_OK;
}

/* A block may then use all the shared memory that the device has for one, and clusters their full size. */
static int32_t raise_limits(const tn_device *d, CUfunction f, tn_err *err)
{
    int fixed = 0;
    CUresult r = d->driver->function_get(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, f);

    if (!r)
        r = d->driver->function_set(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                    d->shared_limit - fixed);
    if (!r && d->major >= 9)
        r = d->driver->function_set(f, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
    return driver_status(d->driver, r, err, "raising a kernel's limits");
}

int32_t device_image_entry(tn_device *d, tn_image *image, const char *name, void **out, tn_err *err)
{
    CUkernel kernel = NULL;
    CUfunction f = NULL;
    int32_t rc = device_enter(d, err);

    if (!rc)
        rc = driver_status(d->driver, d->driver->library_kernel(&kernel, image->library, name), err,
                           "finding the kernel %s", name);
    if (!rc)
        rc = driver_status(d->driver, d->driver->kernel_function(&f, kernel), err,
                           "making the kernel %s ready", name);
    if (!rc)
        rc = raise_limits(d, f, err);
    if (!rc)
        *out = f;
    return rc;
}

void device_image_unload(tn_device *d, tn_image *image)
{
    tn_err err = TN_ERR_INIT;

    if (!image)
        return;
    if (device_enter(d, NULL) == TN_OK &&
        driver_status(d->driver, d->driver->library_unload(image->library), &err,
                      "unloading an image"))
        d->host->log(d->host->ctx, TN_LOG_WARN, err.msg);
    d->host->free(d->host->ctx, image);
}

int32_t device_launch(tn_device *d, tn_stream *s, const tn_kernel_launch *k, tn_err *err)
{
    uint32_t c[3] = {k->cluster[0] ? k->cluster[0] : 1, k->cluster[1] ? k->cluster[1] : 1,
                     k->cluster[2] ? k->cluster[2] : 1};
    bool clusters = c[0] * c[1] * c[2] > 1;
    CUlaunchAttribute attrs[MAX_ATTRIBUTES];
    CUlaunchConfig config = {.gridDimX = k->grid[0],
                             .gridDimY = k->grid[1],
                             .gridDimZ = k->grid[2],
                             .blockDimX = k->block[0],
                             .blockDimY = k->block[1],
                             .blockDimZ = k->block[2],
                             .sharedMemBytes = k->shared_bytes,
                             .hStream = (CUstream)(void *)s,
                             .attrs = attrs};
    int32_t rc = device_enter(d, err);

    if (rc)
        return rc;
    if (clusters && d->major < 9)
        return tn_err_set(err, TN_E_UNSUPPORTED,
                          "cuda:%u: compute capability %d.%d knows no clusters", (unsigned)d->index,
                          d->major, d->minor);
    if (clusters)
        attrs[config.numAttrs++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                                       .value.clusterDim = {c[0], c[1], c[2]}};
    if ((k->flags & TN_LAUNCH_OVERLAP) && d->major >= 9) /* elsewhere kernels just run in order */
        attrs[config.numAttrs++] =
            (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
                                .value.programmaticStreamSerializationAllowed = 1};
    return driver_status(
        d->driver, d->driver->launch(&config, (CUfunction)k->entry, k->params, NULL), err,
        "launching a kernel of %u x %u x %u blocks of %u threads, %u bytes of shared memory",
        k->grid[0], k->grid[1], k->grid[2], k->block[0] * k->block[1] * k->block[2],
        k->shared_bytes);
}

int32_t device_native_symbol(tn_device *d, const char *name, void **out, tn_err *err)
{
    void *symbol = dlsym(d->driver->library, name);

    if (!symbol)
        return tn_err_set(err, TN_E_NOTFOUND, "cuda: the driver has no function %s", name);
    *out = symbol;
    return TN_OK;
}

void *device_native_context(tn_device *d)
{
    return d->context;
}

void *device_native_stream(tn_device *d, tn_stream *s)
{
    (void)d;
    return s;
}
