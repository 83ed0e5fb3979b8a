/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The search for plugins. Only directories that were configured are looked at, never the working directory, never
 * what the environment says; in sorted order, so that every start sees the same. A file is trusted if
 * root or this user owns it and its directory, and nobody else may write to either.
 */
#include "plugin/discover.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"

static int32_t distrust(const char *path, const char *what, const struct stat *st, tn_err *err)
{
    if (st->st_uid != 0 && st->st_uid != geteuid()) {
        err_at(err, TN_E_REFUSED, path, TN_NO_OFFSET, NULL,
               "%s belongs to user %ju, who is neither root nor the user running this", what,
               (uintmax_t)st->st_uid);
        err_remedy(err, "chown it");
        return TN_E_REFUSED;
    }
    if (st->st_mode & (S_IWGRP | S_IWOTH)) {
        err_at(err, TN_E_REFUSED, path, TN_NO_OFFSET, NULL,
               "%s may be written to by others (mode %04o)", what, (unsigned)(st->st_mode & 07777));
        err_remedy(err, "chmod go-w");
        return TN_E_REFUSED;
    }
    return TN_OK;
}

/* The directories above: there, a sticky bit keeps others from replacing what is not theirs. */
static int32_t check_above(const char *path, tn_err *err)
{
    char dir[PATH_MAX];
    struct stat st;
    char *slash;

    snprintf(dir, sizeof dir, "%s", path);
    while ((slash = strrchr(dir, '/')) != NULL) {
        *(slash == dir ? slash + 1 : slash) = '\0';
        if (stat(dir, &st) != 0)
            return err_errno(err, "stat", dir, errno);
        if ((st.st_mode & S_IWOTH) && !(st.st_mode & S_ISVTX)) {
            err_at(err, TN_E_REFUSED, path, TN_NO_OFFSET, NULL,
                   "the directory %.300s above it may be written to by anybody", dir);
            err_remedy(err, "chmod o-w %.200s", dir);
            return TN_E_REFUSED;
        }
        if (slash == dir)
            break;
    }
    return TN_OK;
}

static int32_t check_dir(const char *dir, tn_err *err)
{
    struct stat st;
    int32_t rc;

    if (stat(dir, &st) != 0)
        return err_errno(err, "stat", dir, errno);
    rc = distrust(dir, "the directory", &st, err);
    return rc == TN_OK ? check_above(dir, err) : rc;
}

/* The directory in which the resolved file really lies. */
static int32_t check_home(const char *real, tn_err *err)
{
    char dir[PATH_MAX];
    char *slash;
    int32_t rc;

    snprintf(dir, sizeof dir, "%s", real);
    slash = strrchr(dir, '/');
    if (!slash)
        return err_at(err, TN_E_REFUSED, real, TN_NO_OFFSET, NULL, "is not an absolute path");
    *(slash == dir ? slash + 1 : slash) = '\0';
    rc = check_dir(dir, err);
    if (rc != TN_OK)
        err_file(err, real);
    return rc;
}

static int32_t add(struct candidates *c, const char *path, const tn_err *fault, tn_err *err)
{
    char *copy;

    if (c->count == LIMIT_PLUGINS)
        return err_at(err, TN_E_LIMIT, path, TN_NO_OFFSET, NULL,
                      "is one plugin file more than the %d that are possible", LIMIT_PLUGINS);
    copy = mem_strdup(path);
    if (!copy || !mem_grow(&c->items, &c->cap, c->count + 1, sizeof *c->items)) {
        mem_free(copy);
        return err_nomem(err, "the list of plugins");
    }
    c->items[c->count++] = (struct candidate){copy, *fault};
    return TN_OK;
}

static int32_t add_file(struct candidates *c, const char *path, const tn_err *dir_fault,
                        tn_err *err)
{
    char real[PATH_MAX];
    tn_err fault = TN_ERR_INIT;

    if (!realpath(path, real)) {
        err_errno(&fault, "resolve", path, errno);
        fault.code = TN_E_REFUSED;
        return add(c, path, &fault, err);
    }
    if (dir_fault->code != TN_OK) {
        fault = *dir_fault;
        err_file(&fault, real);
    } else {
        check_home(real, &fault);
    }
    return add(c, real, &fault, err);
}

static bool is_library(const char *name)
{
    size_t n = strlen(name);

    return n > 3 && name[0] != '.' && strcmp(name + n - 3, ".so") == 0;
}

int32_t discover_dir(const char *dir, struct candidates *out, tn_err *err)
{
    tn_err fault = TN_ERR_INIT;
    char **names = NULL;
    size_t n = 0;
    int32_t rc;

    if (dir[0] != '/')
        return err_at(err, TN_E_INVALID, dir, TN_NO_OFFSET, "plugins.path",
                      "is not an absolute path");
    rc = dir_list(dir, &names, &n, err);
    if (rc != TN_OK) {
        err_field(err, "plugins.path");
        return rc;
    }
    check_dir(dir, &fault);
    for (size_t i = 0; rc == TN_OK && i < n; i++) {
        char *path;
        if (!is_library(names[i]))
            continue;
        path = path_join(dir, names[i]);
        rc = path ? add_file(out, path, &fault, err) : err_nomem(err, "a file name");
        mem_free(path);
    }
    dir_list_free(names, n);
    return rc;
}

void discover_release(struct candidates *c)
{
    for (size_t i = 0; i < c->count; i++)
        mem_free(c->items[i].path);
    mem_free(c->items);
    *c = (struct candidates){NULL, 0, 0};
}

static int32_t read_all(int fd, const char *path, size_t size, char **data, tn_err *err)
{
    struct file_reader f = {fd, size, (char *)(uintptr_t)path};
    char *buf = mem_alloc(size > 0 ? size : 1);
    int32_t rc;

    if (!buf)
        return err_nomem(err, "a plugin's file");
    rc = file_reader_at(&f, 0, buf, size, err);
    if (rc != TN_OK) {
        mem_free(buf);
        return rc;
    }
    *data = buf;
    return TN_OK;
}

int32_t discover_read(const char *path, char **data, size_t *size, uint64_t *dev, uint64_t *ino,
                      tn_err *err)
{
    /* The path is resolved: a link that appears now was put there to deceive. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    struct stat st;
    int32_t rc;

    if (fd < 0)
        return err_errno(err, "open", path, errno);
    if (fstat(fd, &st) != 0) {
        rc = err_errno(err, "stat", path, errno);
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_at(err, TN_E_REFUSED, path, TN_NO_OFFSET, NULL, "is not a regular file");
        goto done;
    }
    *dev = (uint64_t)st.st_dev;
    *ino = (uint64_t)st.st_ino;
    rc = distrust(path, "the file", &st, err);
    if (rc != TN_OK)
        goto done;
    if ((uint64_t)st.st_size > LIMIT_PLUGIN_BYTES) {
        rc = err_at(err, TN_E_LIMIT, path, TN_NO_OFFSET, NULL,
                    "has %jd bytes, more than the limit of %" PRIu64, (intmax_t)st.st_size,
                    LIMIT_PLUGIN_BYTES);
        goto done;
    }
    rc = read_all(fd, path, (size_t)st.st_size, data, err);
    if (rc == TN_OK)
        *size = (size_t)st.st_size;
done:
    close(fd);
    return rc;
}
