/* SPDX-License-Identifier: Apache-2.0 */
/* The half of file.h that deals with names and directories. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

char *path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    size_t room = n + strlen(name) + 2;
    char *out = mem_alloc(room);

    if (out)
        snprintf(out, room, "%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
    return out;
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

bool path_exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

bool path_is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool path_is_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int32_t dir_make(const char *path, tn_err *err)
{
    char *copy = mem_strdup(path);
    int32_t rc = TN_OK;

    if (!copy)
        return err_nomem(err, "a directory name");
    for (char *p = copy + 1; rc == TN_OK; p++) {
        char c = *p;
        if (c != '/' && c != '\0')
            continue;
        *p = '\0';
        if (mkdir(copy, 0755) != 0 && errno != EEXIST)
            rc = err_errno(err, "make directory", copy, errno);
        *p = c;
        if (c == '\0')
            break;
    }
    if (rc == TN_OK && !path_is_dir(path))
        rc = err_at(err, TN_E_EXISTS, path, TN_NO_OFFSET, NULL, "is in the way: not a directory");
    mem_free(copy);
    return rc;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int32_t dir_list(const char *path, char ***names, size_t *count, tn_err *err)
{
    char **list = NULL;
    size_t n = 0, cap = 0;
    struct dirent *e;
    int32_t rc = TN_OK;
    DIR *d = opendir(path);

    if (!d)
        return err_errno(err, "open directory", path, errno);
    while ((errno = 0, e = readdir(d)) != NULL) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (!mem_grow(&list, &cap, n + 1, sizeof *list) || !(list[n] = mem_strdup(e->d_name))) {
            rc = err_nomem(err, "a directory listing");
            goto done;
        }
        n++;
    }
    if (errno != 0) {
        rc = err_errno(err, "read directory", path, errno);
        goto done;
    }
    if (n > 1)
        qsort(list, n, sizeof *list, compare_names);
    *names = list;
    *count = n;
    list = NULL;
    n = 0;
done:
    dir_list_free(list, n);
    closedir(d);
    return rc;
}

void dir_list_free(char **names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mem_free(names[i]);
    mem_free(names);
}

/* Depth is bounded since only directories that we made ourselves are ever removed. */
static int32_t remove_tree(const char *path, int depth, tn_err *err)
{
    struct stat st;
    char **names;
    size_t n;
    int32_t rc;

    if (lstat(path, &st) != 0)
        return errno == ENOENT ? TN_OK : err_errno(err, "stat", path, errno);
    if (!S_ISDIR(st.st_mode))
        return unlink(path) == 0 ? TN_OK : err_errno(err, "remove", path, errno);
    if (depth > 16)
        return err_at(err, TN_E_LIMIT, path, TN_NO_OFFSET, NULL, "is nested too deeply to remove");
    rc = dir_list(path, &names, &n, err);
    if (rc != TN_OK)
        return rc;
    for (size_t i = 0; i < n && rc == TN_OK; i++) {
        char *child = path_join(path, names[i]);
        rc = child ? remove_tree(child, depth + 1, err) : err_nomem(err, "a file name");
        mem_free(child);
    }
    dir_list_free(names, n);
    if (rc == TN_OK && rmdir(path) != 0)
        rc = err_errno(err, "remove directory", path, errno);
    return rc;
}

int32_t dir_remove(const char *path, tn_err *err)
{
    return remove_tree(path, 0, err);
}
