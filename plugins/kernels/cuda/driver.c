/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CUDA's driver library. It is not linked but opened, so that the plugin can be looked at, and refused with a reason, on a
 * machine without it. Any thread; a struct driver does not change after driver_open.
 */
#include "driver.h"

#include <dlfcn.h>
#include <string.h>

#define NEEDS "this plugin needs a driver for CUDA 12.0 or later"

static int32_t unsupported(tn_err *err, const char *path, const char *msg)
{
    if (err) {
        snprintf(err->file, sizeof err->file, "%s", path);
        snprintf(err->remedy, sizeof err->remedy,
                 "install NVIDIA's driver, or leave it: other devices work without");
    }
    return tn_err_set(err, TN_E_UNSUPPORTED, "%s", msg);
}

static int32_t find_functions(struct driver *d, const char *path, tn_err *err)
{
    char msg[256];

#define DRIVER_FIND(field, type, name)                                                             \
    *(void **)&d->field = dlsym(d->library, name);                                                 \
    if (!d->field) {                                                                               \
        snprintf(msg, sizeof msg, "the CUDA driver lacks %s; " NEEDS, name);                       \
        return unsupported(err, path, msg);                                                        \
    }
    DRIVER_FUNCTIONS(DRIVER_FIND)
#undef DRIVER_FIND
    return TN_OK;
}

/* "580.159.04" from the kernel module's own account; the first word that begins with a digit and has a dot. */
static void read_number(char *number, size_t size)
{
    char line[256] = "", *save = NULL;
    FILE *f = fopen("/proc/driver/nvidia/version", "re");

    if (!f)
        return;
    if (!fgets(line, sizeof line, f))
        line[0] = '\0';
    fclose(f);
    for (char *w = strtok_r(line, " \t\n", &save); w; w = strtok_r(NULL, " \t\n", &save)) {
        if (w[0] < '0' || w[0] > '9' || !strchr(w, '.'))
            continue;
        snprintf(number, size, "%s", w);
        return;
    }
}

static int32_t start(struct driver *d, const char *path, tn_err *err)
{
    int32_t rc = find_functions(d, path, err);
    CUresult r;

    if (rc)
        return rc;
    r = d->init(0);
    if (r) {
        tn_err why = TN_ERR_INIT;
        driver_status(d, r, &why, "the driver does not start");
        if (err)
            err->native = why.native;
        return unsupported(err, path, why.msg);
    }
    r = d->driver_version(&d->version);
    if (r)
        return driver_status(d, r, err, "the driver's version");
    if (d->version < 12000) {
        char msg[128];
        snprintf(msg, sizeof msg, "the driver is made for CUDA %d.%d; " NEEDS, d->version / 1000,
                 d->version % 1000 / 10);
        return unsupported(err, path, msg);
    }
    read_number(d->number, sizeof d->number);
    return TN_OK;
}

int32_t driver_open(struct driver *d, const char *path, tn_err *err)
{
    int32_t rc;

    *d = (struct driver){0};
    d->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!d->library) {
        const char *why = dlerror();
        char msg[400];
        snprintf(msg, sizeof msg, "there is no CUDA driver: %s", why ? why : "cannot be loaded");
        return unsupported(err, path, msg);
    }
    rc = start(d, path, err);
    if (rc)
        driver_close(d);
    return rc;
}

void driver_close(struct driver *d)
{
    if (d->library)
        dlclose(d->library);
    *d = (struct driver){0};
}

static int32_t status_of(CUresult r)
{
    switch (r) {
    case CUDA_SUCCESS: return TN_OK;
    case CUDA_ERROR_OUT_OF_MEMORY: return TN_E_NOSPACE;
    case CUDA_ERROR_NOT_READY: return TN_E_BUSY;
    case CUDA_ERROR_NOT_FOUND: return TN_E_NOTFOUND;
    case CUDA_ERROR_NO_BINARY_FOR_GPU:
    case CUDA_ERROR_UNSUPPORTED_PTX_VERSION:
    case CUDA_ERROR_INVALID_IMAGE:
    case CUDA_ERROR_NOT_SUPPORTED: return TN_E_UNSUPPORTED;
    default: return TN_E_DEVICE;
    }
}

int32_t driver_status(const struct driver *d, CUresult r, tn_err *err, const char *what, ...)
{
    const char *name = NULL, *text = NULL;
    char doing[256];
    va_list ap;

    if (r == CUDA_SUCCESS)
        return TN_OK;
    if (!err)
        return status_of(r);
    va_start(ap, what);
    vsnprintf(doing, sizeof doing, what, ap);
    va_end(ap);
    if (d->error_name(r, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    if (d->error_string(r, &text) != CUDA_SUCCESS || !text)
        text = "no description";
    err->native = (int32_t)r;
    return tn_err_set(err, status_of(r), "cuda: %s: %s (%s)", doing, text, name);
}
