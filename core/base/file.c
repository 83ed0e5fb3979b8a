/* SPDX-License-Identifier: Apache-2.0 */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

/* The least that systems read at once when they are told to. */
#define FETCH_BYTES (128u * 1024)

/* Opens a regular file. O_NONBLOCK keeps a FIFO from hanging us before fstat can refuse it. */
static int32_t open_regular(const char *path, int *fd, uint64_t *size, tn_err *err)
{
    struct stat st;
    int f = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (f < 0)
        return err_errno(err, "open", path, errno);
    if (fstat(f, &st) != 0) {
        int e = errno;
        close(f);
        return err_errno(err, "stat", path, e);
    }
    if (!S_ISREG(st.st_mode)) {
        close(f);
        return err_at(err, TN_E_IO, path, TN_NO_OFFSET, NULL, "is not a regular file");
    }
    *fd = f;
    *size = (uint64_t)st.st_size;
    return TN_OK;
}

static int32_t read_at(int fd, const char *path, uint64_t offset, void *buf, size_t n, tn_err *err)
{
    unsigned char *p = buf;
    size_t done = 0;

    while (done < n) {
        ssize_t got = pread(fd, p + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_errno(err, "read", path, errno);
        if (got == 0)
            return err_at(err, TN_E_FORMAT, path, offset + done, NULL,
                          "the file ends early: %zu more bytes were expected", n - done);
        done += (size_t)got;
    }
    return TN_OK;
}

int32_t file_read(const char *path, uint64_t limit, char **out, size_t *len, tn_err *err)
{
    char *buf = NULL;
    uint64_t size;
    int32_t rc;
    int fd;

    rc = open_regular(path, &fd, &size, err);
    if (rc != TN_OK)
        return rc;
    if (size > limit) {
        rc = err_at(err, TN_E_LIMIT, path, TN_NO_OFFSET, NULL,
                    "has %" PRIu64 " bytes, more than the limit of %" PRIu64, size, limit);
        goto done;
    }
    buf = mem_alloc((size_t)size + 1);
    if (!buf) {
        rc = err_nomem(err, "a file's content");
        err_file(err, path);
        goto done;
    }
    rc = read_at(fd, path, 0, buf, (size_t)size, err);
    if (rc != TN_OK)
        goto done;
    buf[size] = '\0';
    *out = buf;
    *len = (size_t)size;
    buf = NULL;
done:
    mem_free(buf);
    close(fd);
    return rc;
}

int32_t file_map_open(const char *path, struct file_map *out, tn_err *err)
{
    void *p = NULL;
    uint64_t size;
    int32_t rc;
    int fd;

    rc = open_regular(path, &fd, &size, err);
    if (rc != TN_OK)
        return rc;
    if (size > 0) {
        p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            rc = err_errno(err, "map", path, errno);
            close(fd);
            return rc;
        }
    }
    *out = (struct file_map){p, size, fd};
    return TN_OK;
}

void file_map_release(struct file_map *m)
{
    if (m->fd < 0)
        return;
    if (m->data)
        munmap((void *)(uintptr_t)m->data, (size_t)m->size);
    close(m->fd);
    *m = (struct file_map){NULL, 0, -1};
}

/* Whether advice is taken changes speed, and what others read besides, but no byte: failures are ignored. */
void file_map_expect(const struct file_map *m, bool whole)
{
    if (m->fd < 0 || !m->data)
        return;
    madvise((void *)(uintptr_t)m->data, (size_t)m->size, whole ? MADV_NORMAL : MADV_RANDOM);
    posix_fadvise(m->fd, 0, 0, whole ? POSIX_FADV_NORMAL : POSIX_FADV_RANDOM);
}

void file_map_fetch(const struct file_map *m, uint64_t at, uint64_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)m->data + at) & ~(page - 1),
              end = (uintptr_t)m->data + at + bytes;

    if (m->fd < 0 || !m->data || at > m->size || bytes > m->size - at)
        return;
    for (; begin < end;
         begin += FETCH_BYTES) /* of more, the system would read the beginning only */
        madvise((void *)begin, end - begin < FETCH_BYTES ? end - begin : FETCH_BYTES,
                MADV_WILLNEED);
}

int32_t file_reader_open(const char *path, struct file_reader *out, tn_err *err)
{
    struct file_reader f = {-1, 0, NULL};
    int32_t rc;

    rc = open_regular(path, &f.fd, &f.size, err);
    if (rc != TN_OK)
        return rc;
    f.path = mem_strdup(path);
    if (!f.path) {
        close(f.fd);
        return err_nomem(err, "a file name");
    }
    *out = f;
    return TN_OK;
}

int32_t file_reader_at(const struct file_reader *f, uint64_t offset, void *buf, size_t n,
                       tn_err *err)
{
    return read_at(f->fd, f->path, offset, buf, n, err);
}

void file_reader_release(struct file_reader *f)
{
    if (f->path)
        close(f->fd);
    mem_free(f->path);
    *f = (struct file_reader){-1, 0, NULL};
}

int32_t file_write_all(int fd, const char *path, const void *data, size_t n, tn_err *err)
{
    const unsigned char *p = data;

    while (n > 0) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(err, "write", path, errno);
        p += put;
        n -= (size_t)put;
    }
    return TN_OK;
}

int32_t file_write_at(int fd, const char *path, uint64_t offset, const void *data, size_t n,
                      tn_err *err)
{
    const unsigned char *p = data;

    while (n > 0) {
        ssize_t put = pwrite(fd, p, n, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return err_errno(err, "write", path, errno);
        p += put;
        offset += (uint64_t)put;
        n -= (size_t)put;
    }
    return TN_OK;
}

int32_t file_writer_open(const char *path, struct file_writer *out, tn_err *err)
{
    size_t room = strlen(path) + 8;
    struct file_writer w = {-1, mem_strdup(path), mem_alloc(room)};
    int32_t rc = w.path && w.temporary ? TN_OK : err_nomem(err, "a file name");

    if (rc == TN_OK) {
        snprintf(w.temporary, room, "%s.XXXXXX", path);
        w.fd = mkstemp(w.temporary);
        if (w.fd < 0)
            rc = err_errno(err, "create", path, errno);
    }
    if (rc != TN_OK) {
        mem_free(w.path);
        mem_free(w.temporary);
        return rc;
    }
    fchmod(w.fd, 0644);
    *out = w;
    return TN_OK;
}

int32_t file_writer_put(const struct file_writer *w, const void *data, size_t n, tn_err *err)
{
    return file_write_all(w->fd, w->path, data, n, err);
}

int32_t file_writer_commit(struct file_writer *w, tn_err *err)
{
    int32_t rc = fsync(w->fd) != 0 ? err_errno(err, "sync", w->path, errno) : TN_OK;

    if (close(w->fd) != 0 && rc == TN_OK)
        rc = err_errno(err, "close", w->path, errno);
    w->fd = -1;
    if (rc == TN_OK && rename(w->temporary, w->path) != 0)
        rc = err_errno(err, "rename", w->path, errno);
    if (rc == TN_OK) {
        mem_free(w->temporary);
        w->temporary = NULL;
    }
    file_writer_release(w);
    return rc;
}

void file_writer_release(struct file_writer *w)
{
    if (w->path && w->fd >= 0)
        close(w->fd);
    if (w->temporary)
        unlink(w->temporary);
    mem_free(w->path);
    mem_free(w->temporary);
    *w = (struct file_writer){-1, NULL, NULL};
}

int32_t file_write_atomic(const char *path, const void *data, size_t n, tn_err *err)
{
    struct file_writer w;
    int32_t rc = file_writer_open(path, &w, err);

    if (rc != TN_OK)
        return rc;
    rc = file_writer_put(&w, data, n, err);
    if (rc == TN_OK)
        return file_writer_commit(&w, err);
    file_writer_release(&w);
    return rc;
}

int32_t file_copy(const char *from, const char *to, uint64_t limit, tn_err *err)
{
    char *data;
    size_t len;
    int32_t rc;

    rc = file_read(from, limit, &data, &len, err);
    if (rc != TN_OK)
        return rc;
    rc = file_write_atomic(to, data, len, err);
    mem_free(data);
    return rc;
}
