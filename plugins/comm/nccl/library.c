/* SPDX-License-Identifier: Apache-2.0 */
/* Opening NCCL, and its errors. Any thread. */
#include "library.h"

#include <dlfcn.h>
#include <stdio.h>

static int32_t unsupported(tn_err *err, const char *path, const char *msg)
{
    if (err) {
        snprintf(err->file, sizeof err->file, "%s", path);
        snprintf(err->remedy, sizeof err->remedy,
                 "install NCCL 2.18 or a later 2.x, or leave it: ranks of one process do without "
                 "(--comm local)");
    }
    return tn_err_set(err, TN_E_UNSUPPORTED, "nccl: %s", msg);
}

static int32_t find_functions(struct nccl_library *l, const char *path, tn_err *err)
{
    char msg[200];

#define NCCL_FIND(field, name, args)                                                               \
    *(void **)&l->field = dlsym(l->file, name);                                                    \
    if (!l->field) {                                                                               \
        snprintf(msg, sizeof msg, "the library lacks %s", name);                                   \
        return unsupported(err, path, msg);                                                        \
    }
    NCCL_FUNCTIONS(NCCL_FIND)
    NCCL_FIND(error_text, "ncclGetErrorString", )
#undef NCCL_FIND
    l->windows = 1;
#define NCCL_FIND(field, name, args)                                                               \
    *(void **)&l->field = dlsym(l->file, name);                                                    \
    l->windows = l->windows && l->field;
    NCCL_WINDOW_FUNCTIONS(NCCL_FIND)
#undef NCCL_FIND
    *(void **)&l->last_error = dlsym(l->file, "ncclGetLastError");
    return TN_OK;
}

int32_t nccl_open(struct nccl_library *l, const char *path, tn_err *err)
{
    char msg[400];
    int32_t rc;

    *l = (struct nccl_library){0};
    l->file = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!l->file) {
        const char *why = dlerror();
        snprintf(msg, sizeof msg, "there is no such library: %s", why ? why : "cannot be loaded");
        return unsupported(err, path, msg);
    }
    rc = find_functions(l, path, err);
    if (rc == TN_OK)
        rc = nccl_status(l, NULL, l->get_version(&l->version), "asking for its version", err);
    if (rc == TN_OK && (l->version < NCCL_LEAST || l->version >= NCCL_BEYOND)) {
        snprintf(msg, sizeof msg, "its version is %d.%d.%d, and 2.18 to 2.x are known",
                 l->version / 10000, l->version % 10000 / 100, l->version % 100);
        rc = unsupported(err, path, msg);
    }
    if (rc != TN_OK)
        nccl_close(l);
    else
        snprintf(l->text, sizeof l->text, "NCCL %d.%d.%d%s", l->version / 10000,
                 l->version % 10000 / 100, l->version % 100,
                 l->windows ? ", symmetric memory" : "");
    return rc;
}

void nccl_close(struct nccl_library *l)
{
    if (l->file)
        dlclose(l->file);
    *l = (struct nccl_library){0};
}

int32_t nccl_status(const struct nccl_library *l, nccl_comm comm, int result, const char *what,
                    tn_err *err)
{
    const char *text, *last;
    int32_t code = TN_E_COMM;

    if (result == NCCL_SUCCESS)
        return TN_OK;
    if (result == NCCL_IN_PROGRESS)
        code = TN_E_BUSY;
    else if (result == NCCL_CUDA_ERROR)
        code = TN_E_DEVICE;
    else if (result == NCCL_INVALID_ARGUMENT || result == NCCL_INVALID_USAGE)
        code = TN_E_INVALID;
    if (!err)
        return code;
    text = l->error_text(result);
    last = l->last_error ? l->last_error(comm) : NULL;
    err->native = result;
    return tn_err_set(err, code, "nccl: %s: %s%s%.300s", what, text ? text : "unknown error",
                      last && last[0] ? ": " : "", last ? last : "");
}
