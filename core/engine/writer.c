/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/writer.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "engine/names.h"
#include "engine/plan_json.h"

struct engine_writer {
    const struct plan *plan;
    char *path;
    int fd;
    struct engine_header header;
    struct engine_tensor *tensors;
    size_t current;         /* weight being written */
    uint64_t filled;        /* bytes of it so far */
    uint64_t end;           /* end of what is written, from the start of the weights */
    bool any_stored;        /* some weight is not a dummy */
    struct xxh128 *tensor;  /* digest of the current weight */
    struct xxh128 *section; /* digest of the tensors' digests */
};

int32_t engine_writer_open(const char *path, const struct plan *plan, struct engine_writer **out,
                           tn_err *err)
{
    struct engine_writer *w = mem_zalloc(sizeof *w);
    int32_t rc = TN_OK;

    if (!w)
        return err_nomem(err, "an engine writer");
    w->plan = plan;
    w->fd = -1;
    w->path = mem_strdup(path);
    w->tensors = mem_zarray(plan->n_weights, sizeof *w->tensors);
    if (!w->path || !w->tensors)
        rc = err_nomem(err, "an engine writer");
    if (rc == TN_OK)
        rc = xxh128_new(&w->tensor, err);
    if (rc == TN_OK)
        rc = xxh128_new(&w->section, err);
    if (rc == TN_OK) {
        w->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (w->fd < 0)
            rc = err_errno(err, "create", path, errno);
    }
    for (size_t i = 0; i < sizeof w->header.build_id; i += 8) {
        uint64_t r = rng_entropy();
        memcpy(w->header.build_id + i, &r, 8);
    }
    if (rc != TN_OK) {
        engine_writer_free(w);
        return rc;
    }
    *out = w;
    return TN_OK;
}

void engine_writer_free(struct engine_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    xxh128_free(w->tensor);
    xxh128_free(w->section);
    mem_free(w->tensors);
    mem_free(w->path);
    mem_free(w);
}

static void finish_weight(struct engine_writer *w)
{
    struct engine_tensor *t = &w->tensors[w->current];

    xxh128_final(w->tensor, t->digest);
    xxh128_update(w->section, t->digest, sizeof t->digest);
    xxh128_reset(w->tensor);
    w->end = t->offset + t->bytes;
    w->current++;
    w->filled = 0;
}

int32_t engine_writer_append(struct engine_writer *w, const void *data, size_t n, tn_err *err)
{
    struct engine_tensor *t = &w->tensors[w->current];
    int32_t rc;

    assert(w->current < w->plan->n_weights);
    if (w->filled == 0) {
        t->offset = align_up(w->end, ENGINE_ALIGN);
        t->bytes = plan_weight_bytes(&w->plan->weights[w->current]);
        w->any_stored = true;
    }
    assert(n <= t->bytes - w->filled);
    rc = file_write_at(w->fd, w->path, ENGINE_HEADER_BYTES + t->offset + w->filled, data, n, err);
    if (rc != TN_OK)
        return rc;
    xxh128_update(w->tensor, data, n);
    w->filled += n;
    if (w->filled == t->bytes)
        finish_weight(w);
    return TN_OK;
}

int32_t engine_writer_dummy(struct engine_writer *w, uint64_t seed, tn_err *err)
{
    struct engine_tensor *t = &w->tensors[w->current];

    (void)err;
    assert(w->current < w->plan->n_weights && w->filled == 0);
    t->dummy = true;
    t->seed = seed;
    w->current++;
    return TN_OK;
}

/* -- The JSON sections ----------------------------------------------------------------------------- */

/* Any NULL on the way (jansson has no memory) makes the result NULL. */
static json_t *tensor_json(const struct plan_weight *w, const struct engine_tensor *t)
{
    json_t *dims = json_array();
    char hex[2 * XXH128_BYTES + 1];

    for (uint32_t i = 0; i < w->n_dims; i++) {
        if (json_array_append_new(dims, json_integer((json_int_t)w->dims[i])) != 0) {
            json_decref(dims);
            return NULL;
        }
    }
    if (t->dummy)
        return json_pack("{s:s, s:s, s:o, s:I}", "name", w->name, "dtype", tn_dtype_name(w->dtype),
                         "dims", dims, "dummy", (json_int_t)t->seed);
    hex_encode(t->digest, sizeof t->digest, hex);
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:s}", "name", w->name, "dtype",
                     tn_dtype_name(w->dtype), "dims", dims, "offset", (json_int_t)t->offset,
                     "bytes", (json_int_t)t->bytes, "xxh128", hex);
}

/* The header lists sections in the order of the file; each begins where the one before ends, rounded up. */
static void add_section(struct engine_writer *w, uint32_t kind, uint64_t size,
                        const uint8_t digest[XXH128_BYTES])
{
    struct engine_header *h = &w->header;
    struct engine_section *s = &h->sections[h->n_sections++];

    s->kind = kind;
    s->offset = h->n_sections == 1 ? ENGINE_HEADER_BYTES : align_up(h->file_size, ENGINE_ALIGN);
    s->size = size;
    memcpy(s->digest, digest, XXH128_BYTES);
    h->file_size = s->offset + size;
}

/* The text goes into a block of the right size: json_dumps (jansson 2.14) can drop a key, and not tell, when its
 * buffer cannot grow. */
static int32_t write_json(struct engine_writer *w, uint32_t kind, const json_t *v, tn_err *err)
{
    size_t n = v ? json_dumpb(v, NULL, 0, JSON_COMPACT) : 0;
    char *text = n ? mem_alloc(n) : NULL;
    uint8_t digest[XXH128_BYTES];
    int32_t rc;

    if (!text || json_dumpb(v, text, n, JSON_COMPACT) != n) {
        mem_free(text);
        return err_nomem(err, "an engine's metadata");
    }
    xxh128_of(text, n, digest);
    add_section(w, kind, n, digest);
    rc = file_write_at(w->fd, w->path, w->header.sections[w->header.n_sections - 1].offset, text, n,
                       err);
    mem_free(text);
    return rc;
}

static int32_t write_index(struct engine_writer *w, tn_err *err)
{
    json_t *list = json_array();
    int32_t rc;

    for (size_t i = 0; list && i < w->plan->n_weights; i++) {
        if (json_array_append_new(list, tensor_json(&w->plan->weights[i], &w->tensors[i])) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    rc = write_json(w, ENGINE_TENSORS, list, err);
    json_decref(list);
    return rc;
}

static int32_t write_header(struct engine_writer *w, tn_err *err)
{
    uint8_t page[ENGINE_HEADER_BYTES];
    int32_t rc;

    engine_header_encode(&w->header, page);
    /* Weights first on disk, then the header that makes them an engine. */
    if (fdatasync(w->fd) != 0)
        return err_errno(err, "sync", w->path, errno);
    rc = file_write_at(w->fd, w->path, 0, page, sizeof page, err);
    if (rc == TN_OK && fsync(w->fd) != 0)
        rc = err_errno(err, "sync", w->path, errno);
    return rc;
}

int32_t engine_writer_finish(struct engine_writer *w, const json_t *meta, tn_err *err)
{
    uint8_t digest[XXH128_BYTES];
    json_t *plan = NULL;
    int32_t rc;

    assert(w->current == w->plan->n_weights);
    if (w->any_stored) {
        xxh128_final(w->section, digest);
        add_section(w, ENGINE_WEIGHTS, w->end, digest);
    }
    rc = plan_to_json(w->plan, &plan, err);
    if (rc == TN_OK)
        rc = write_json(w, ENGINE_PLAN, plan, err);
    if (rc == TN_OK)
        rc = write_index(w, err);
    if (rc == TN_OK)
        rc = write_json(w, ENGINE_META, meta, err);
    if (rc == TN_OK)
        rc = write_header(w, err);
    if (rc == TN_OK) {
        int fd = w->fd;
        w->fd = -1;
        if (close(fd) != 0)
            rc = err_errno(err, "close", w->path, errno);
    }
    json_decref(plan);
    return rc;
}

/* -- Replacing the metadata ------------------------------------------------------------------------ */

static int32_t reopen(struct engine_writer *w, const char *path, tn_err *err)
{
    uint8_t page[ENGINE_HEADER_BYTES] = {0};
    struct file_reader f;
    int32_t rc = file_reader_open(path, &f, err);

    if (rc != TN_OK)
        return rc;
    rc = file_reader_at(&f, 0, page, sizeof page, err);
    if (rc == TN_OK)
        rc = engine_header_decode(page, f.size, path, &w->header, err);
    file_reader_release(&f);
    if (rc == TN_OK && w->header.sections[w->header.n_sections - 1].kind != ENGINE_META)
        rc = err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, "sections",
                    "do not end with the metadata");
    w->path = mem_strdup(path);
    if (rc == TN_OK && !w->path)
        rc = err_nomem(err, "an engine writer");
    if (rc == TN_OK && (w->fd = open(path, O_WRONLY | O_CLOEXEC)) < 0)
        rc = err_errno(err, "open", path, errno);
    return rc;
}

int32_t engine_replace_meta(const char *path, const json_t *meta, tn_err *err)
{
    struct engine_writer *w = mem_zalloc(sizeof *w);
    int32_t rc;

    if (!w)
        return err_nomem(err, "an engine writer");
    w->fd = -1;
    rc = reopen(w, path, err);
    if (rc == TN_OK) {
        const struct engine_section *s = &w->header.sections[--w->header.n_sections];
        w->header.file_size = s->offset;
        if (w->header.n_sections > 0) {
            s = &w->header.sections[w->header.n_sections - 1];
            w->header.file_size = s->offset + s->size;
        }
        if (ftruncate(w->fd, (off_t)w->header.file_size) != 0)
            rc = err_errno(err, "shorten", path, errno);
    }
    if (rc == TN_OK)
        rc = write_json(w, ENGINE_META, meta, err);
    if (rc == TN_OK)
        rc = write_header(w, err);
    engine_writer_free(w);
    return rc;
}
