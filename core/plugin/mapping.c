/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/mapping.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "plugin/os.h"

/* A name under which something was mapped. Never removed, since a library may stay mapped after dlclose, and the
 * descriptor behind a /proc name must not be given to another file. */
struct mapped {
    struct mapped *next;
    char *name; /* what was given to dlopen */
    uint8_t identity[SHA256_BYTES];
    bool sealed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the list and dlerror's text */
static struct mapped *list;

static struct mapped *by_name(const char *name)
{
    struct mapped *m = list;

    while (m && strcmp(m->name, name) != 0)
        m = m->next;
    return m;
}

static struct mapped *by_content(const uint8_t *identity)
{
    struct mapped *m = list;

    while (m && !(m->sealed && memcmp(m->identity, identity, SHA256_BYTES) == 0))
        m = m->next;
    return m;
}

static int32_t remember(const char *name, const uint8_t *identity, bool sealed, struct mapped **out,
                        tn_err *err)
{
    struct mapped *m = mem_zalloc(sizeof *m);

    if (m)
        m->name = mem_strdup(name);
    if (!m || !m->name) {
        mem_free(m);
        return err_nomem(err, "the list of mapped plugins");
    }
    memcpy(m->identity, identity, SHA256_BYTES);
    m->sealed = sealed;
    m->next = list;
    list = m;
    *out = m;
    return TN_OK;
}

static int32_t name_sealed(const struct mapping_source *src, struct mapped **out, tn_err *err)
{
    char name[40];
    int32_t rc;
    int fd;

    *out = by_content(src->identity);
    if (*out)
        return TN_OK;
    rc = os_sealed_copy(path_base(src->path), src->data, src->size, &fd, err);
    if (rc != TN_OK)
        return rc;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    rc = remember(name, src->identity, true, out, err);
    if (rc != TN_OK)
        close(fd);
    return rc; /* fd stays open for good: see struct mapped */
}

static int32_t name_path(const struct mapping_source *src, struct mapped **out, tn_err *err)
{
    *out = by_name(src->path);
    if (!*out)
        return remember(src->path, src->identity, false, out, err);
    if (memcmp((*out)->identity, src->identity, SHA256_BYTES) == 0)
        return TN_OK;
    return name_sealed(src, out, err);
}

int32_t mapping_open(const struct mapping_source *src, void **handle, tn_err *err)
{
    struct mapped *m = NULL;
    const char *text;
    int32_t rc;

    pthread_mutex_lock(&lock);
    rc = src->sealed ? name_sealed(src, &m, err) : name_path(src, &m, err);
    if (rc != TN_OK)
        goto done;
    *handle = dlopen(m->name, RTLD_NOW | RTLD_LOCAL);
    if (!*handle) {
        text = dlerror();
        rc = err_at(err, TN_E_REFUSED, src->path, TN_NO_OFFSET, NULL,
                    "the dynamic linker refuses it: %s", text ? text : "no reason given");
    }
done:
    pthread_mutex_unlock(&lock);
    return rc;
}

int32_t mapping_symbol(void *handle, const char *path, const char *symbol, void **out, tn_err *err)
{
    const char *text;
    int32_t rc = TN_OK;

    pthread_mutex_lock(&lock);
    *out = dlsym(handle, symbol);
    if (!*out) {
        text = dlerror();
        rc = err_at(err, TN_E_REFUSED, path, TN_NO_OFFSET, symbol, "is not exported: %s",
                    text ? text : "its address is NULL");
    }
    pthread_mutex_unlock(&lock);
    return rc;
}

void mapping_close(void *handle)
{
    if (handle)
        dlclose(handle);
}
