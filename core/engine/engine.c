/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and verifying engines. The bytes may come from anywhere: every offset is checked before use. */
#include "engine/engine.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/mem.h"
#include "engine/names.h"
#include "engine/plan_json.h"

#define VERIFY_CHUNK (4 * MIB)

static const char *const section_names[] = {"?", "weights", "plan", "tensors", "meta"};

static const char *section_name(uint32_t kind)
{
    return kind < sizeof section_names / sizeof *section_names ? section_names[kind] : "unknown";
}

static int32_t check_section(const struct engine *e, const struct engine_section *s, tn_err *err)
{
    uint8_t digest[XXH128_BYTES];

    xxh128_of(e->map.data + s->offset, (size_t)s->size, digest);
    if (memcmp(digest, s->digest, sizeof digest) == 0)
        return TN_OK;
    err_at(err, TN_E_DIGEST, e->path, s->offset, section_name(s->kind),
           "the section does not match its digest: the file is damaged");
    err_remedy(err, "copy the engine again, or build it again");
    return TN_E_DIGEST;
}

/* Parses one JSON section after checking its digest. */
static int32_t read_json(const struct engine *e, uint32_t kind, json_t **out, tn_err *err)
{
    const struct engine_section *s = engine_header_find(&e->header, kind);
    int32_t rc;

    if (!s)
        return err_at(err, TN_E_FORMAT, e->path, TN_NO_OFFSET, section_name(kind),
                      "the section is missing");
    if (s->size > LIMIT_ENGINE_JSON)
        return err_at(err, TN_E_LIMIT, e->path, s->offset, section_name(kind),
                      "the section has %" PRIu64 " bytes; %" PRIu64 " are allowed", s->size,
                      LIMIT_ENGINE_JSON);
    file_map_fetch(&e->map, s->offset, s->size);
    rc = check_section(e, s, err);
    if (rc != TN_OK)
        return rc;
    return json_parse((const char *)e->map.data + s->offset, (size_t)s->size, e->path, out, err);
}

/* -- The tensor index ------------------------------------------------------------------------------ */

static int32_t bad_tensor(const struct engine *e, const char *name, const char *why, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, e->path, TN_NO_OFFSET, name, "%s", why);
}

static bool dims_match(const json_t *dims, const struct plan_weight *w)
{
    if (!json_is_array(dims) || json_array_size(dims) != w->n_dims)
        return false;
    for (uint32_t i = 0; i < w->n_dims; i++) {
        const json_t *d = json_array_get(dims, i);
        if (!json_is_integer(d) || (uint64_t)json_integer_value(d) != w->dims[i])
            return false;
    }
    return true;
}

static int32_t read_place(const struct engine *e, const json_t *o, const struct plan_weight *w,
                          struct engine_tensor *t, tn_err *err)
{
    const struct engine_section *s = engine_header_find(&e->header, ENGINE_WEIGHTS);
    const char *hex = json_string_value(json_object_get(o, "xxh128"));
    const json_t *offset = json_object_get(o, "offset"), *bytes = json_object_get(o, "bytes");
    uint64_t end;

    if (!s)
        return bad_tensor(e, w->name, "has stored elements, but the file has no weights section",
                          err);
    if (!json_is_integer(offset) || !json_is_integer(bytes) || json_integer_value(offset) < 0 ||
        json_integer_value(bytes) < 0)
        return bad_tensor(e, w->name, "offset or bytes is missing or negative", err);
    if (!hex || hex_decode(hex, t->digest, XXH128_BYTES) != 0)
        return bad_tensor(e, w->name, "xxh128 is missing or not 32 hex digits", err);
    t->offset = (uint64_t)json_integer_value(offset);
    t->bytes = (uint64_t)json_integer_value(bytes);
    if (t->offset % ENGINE_ALIGN != 0)
        return bad_tensor(e, w->name, "its offset is not a multiple of 4096", err);
    if (t->bytes != plan_weight_bytes(w))
        return bad_tensor(e, w->name, "its size does not match its shape and dtype", err);
    if (!checked_add(t->offset, t->bytes, &end) || end > s->size)
        return bad_tensor(e, w->name, "reaches beyond the weights section", err);
    return TN_OK;
}

static int32_t read_tensor(const struct engine *e, const json_t *o, tn_err *err)
{
    const char *name = json_plain(json_object_get(o, "name"));
    const char *dtype = json_plain(json_object_get(o, "dtype"));
    const json_t *dummy = json_object_get(o, "dummy");
    const struct plan_weight *w;
    struct engine_tensor *t;
    uint64_t i;

    if (!name || !name[0] || !dtype)
        return bad_tensor(e, "tensors", "an entry has no name or dtype", err);
    if (!map_get(&e->plan->weight_names, name, strlen(name), &i))
        return bad_tensor(e, name, "the plan has no such weight", err);
    w = &e->plan->weights[i];
    t = &e->tensors[i];
    if (t->bytes != 0)
        return bad_tensor(e, w->name, "stands twice in the index", err);
    if (dtype_number(dtype) != w->dtype || !dims_match(json_object_get(o, "dims"), w))
        return bad_tensor(e, w->name, "has another dtype or shape than the plan says", err);
    if (!dummy)
        return read_place(e, o, w, t, err);
    if (!json_is_integer(dummy))
        return bad_tensor(e, w->name, "its dummy seed is not an integer", err);
    t->dummy = true;
    t->seed = (uint64_t)json_integer_value(dummy);
    t->bytes = plan_weight_bytes(w);
    return TN_OK;
}

struct extent {
    uint64_t begin, end;
    const char *name;
};

static int compare_extents(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;

    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Tensors tile the weights section: no overlap and no hole but alignment, so that no byte goes unnamed. */
static int32_t check_tiling(const struct engine *e, tn_err *err)
{
    const struct engine_section *s = engine_header_find(&e->header, ENGINE_WEIGHTS);
    struct extent *x = mem_array(e->plan->n_weights, sizeof *x);
    uint64_t expect = 0;
    int32_t rc = TN_OK;
    size_t n = 0;

    if (!x)
        return err_nomem(err, "an engine's tensor index");
    for (size_t i = 0; i < e->plan->n_weights; i++)
        if (!e->tensors[i].dummy)
            x[n++] =
                (struct extent){e->tensors[i].offset, e->tensors[i].offset + e->tensors[i].bytes,
                                e->plan->weights[i].name};
    qsort(x, n, sizeof *x, compare_extents);
    for (size_t i = 0; i < n && rc == TN_OK; i++) {
        if (x[i].begin != align_up(expect, ENGINE_ALIGN))
            rc = bad_tensor(e, x[i].name, "overlaps its neighbour or leaves a hole before it", err);
        expect = x[i].end;
    }
    if (rc == TN_OK && s && s->size != expect)
        rc = bad_tensor(e, "weights", "the section is larger than its tensors", err);
    mem_free(x);
    return rc;
}

static int32_t read_tensors(struct engine *e, tn_err *err)
{
    json_t *list = NULL;
    int32_t rc;

    rc = read_json(e, ENGINE_TENSORS, &list, err);
    if (rc != TN_OK)
        return rc;
    if (!json_is_array(list) || json_array_size(list) != e->plan->n_weights) {
        rc = bad_tensor(e, "tensors", "is not a list with one entry per weight of the plan", err);
        goto done;
    }
    e->tensors = mem_zarray(e->plan->n_weights, sizeof *e->tensors);
    if (!e->tensors) {
        rc = err_nomem(err, "an engine's tensor index");
        goto done;
    }
    for (size_t i = 0; i < json_array_size(list) && rc == TN_OK; i++)
        rc = read_tensor(e, json_array_get(list, i), err);
    if (rc == TN_OK)
        rc = check_tiling(e, err);
done:
    json_decref(list);
    return rc;
}

/* -- Opening --------------------------------------------------------------------------------------- */

static int32_t read_plan(struct engine *e, tn_err *err)
{
    json_t *root = NULL;
    int32_t rc;

    rc = read_json(e, ENGINE_PLAN, &root, err);
    if (rc == TN_OK)
        rc = plan_from_json(root, e->path, &e->plan, err);
    json_decref(root);
    return rc;
}

/* Parses what e->map shows. */
static int32_t read_map(struct engine *e, tn_err *err)
{
    int32_t rc;

    rc = engine_header_decode(e->map.data, e->map.size, e->path, &e->header, err);
    if (rc == TN_OK)
        rc = read_plan(e, err);
    if (rc == TN_OK)
        rc = read_tensors(e, err);
    if (rc == TN_OK)
        rc = read_json(e, ENGINE_META, &e->meta, err);
    if (rc == TN_OK && !json_is_object(e->meta))
        rc = err_at(err, TN_E_FORMAT, e->path, TN_NO_OFFSET, "meta", "is not an object");
    return rc;
}

static int32_t read_file(struct engine *e, tn_err *err)
{
    int32_t rc = file_map_open(e->path, &e->map, err);

    if (rc == TN_E_NOTFOUND)
        err_remedy(err, "give the directory that `tenon build --output` made");
    if (rc != TN_OK)
        return rc;
    file_map_expect(&e->map, false);
    return read_map(e, err);
}

int32_t engine_open(const char *dir, struct engine **out, tn_err *err)
{
    struct engine *e = mem_zalloc(sizeof *e);
    int32_t rc;

    if (!e)
        return err_nomem(err, "an engine");
    e->map.fd = -1;
    if (path_is_file(dir)) {
        const char *base = path_base(dir);
        e->path = mem_strdup(dir);
        e->dir = base == dir ? mem_strdup(".") : mem_strndup(dir, (size_t)(base - dir));
    } else {
        e->dir = mem_strdup(dir);
        e->path = path_join(dir, ENGINE_FILE);
    }
    rc = e->dir && e->path ? read_file(e, err) : err_nomem(err, "an engine");
    if (rc != TN_OK) {
        engine_close(e);
        return rc;
    }
    *out = e;
    return TN_OK;
}

int32_t engine_open_bytes(const void *data, uint64_t size, const char *name, struct engine **out,
                          tn_err *err)
{
    struct engine *e = mem_zalloc(sizeof *e);
    int32_t rc;

    if (!e)
        return err_nomem(err, "an engine");
    e->map = (struct file_map){data, size, -1};
    e->path = mem_strdup(name);
    rc = e->path ? read_map(e, err) : err_nomem(err, "an engine");
    if (rc != TN_OK) {
        engine_close(e);
        return rc;
    }
    *out = e;
    return TN_OK;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    json_decref(e->meta);
    mem_free(e->tensors);
    plan_free(e->plan);
    file_map_release(&e->map);
    mem_free(e->path);
    mem_free(e->dir);
    mem_free(e);
}

const void *engine_weight(const struct engine *e, uint32_t i)
{
    const struct engine_section *s = engine_header_find(&e->header, ENGINE_WEIGHTS);

    return e->tensors[i].dummy ? NULL : e->map.data + s->offset + e->tensors[i].offset;
}

/* -- Verifying ------------------------------------------------------------------------------------- */

struct verifying {
    const struct engine *e;
    engine_progress progress;
    void *arg;
    struct xxh128 *hash;
    uint64_t done;
    tn_err *err;
};

static int32_t hash_range(struct verifying *v, uint64_t offset, uint64_t size,
                          uint8_t digest[XXH128_BYTES])
{
    xxh128_reset(v->hash);
    while (size > 0) {
        uint64_t n = size < VERIFY_CHUNK ? size : VERIFY_CHUNK;
        xxh128_update(v->hash, v->e->map.data + offset, (size_t)n);
        offset += n;
        size -= n;
        v->done += n;
        if (v->progress && v->progress(v->arg, v->done, v->e->map.size))
            return tn_err_set(v->err, TN_E_CANCELED, "verification was interrupted");
    }
    xxh128_final(v->hash, digest);
    return TN_OK;
}

/* The digest of the weights section is that of its tensors' digests, so one pass serves both. */
static int32_t verify_weights(struct verifying *v, const struct engine_section *s)
{
    const struct engine *e = v->e;
    struct xxh128 *sum = NULL;
    uint8_t digest[XXH128_BYTES];
    int32_t rc;

    rc = xxh128_new(&sum, v->err);
    for (size_t i = 0; i < e->plan->n_weights && rc == TN_OK; i++) {
        const struct engine_tensor *t = &e->tensors[i];
        if (t->dummy)
            continue;
        rc = hash_range(v, s->offset + t->offset, t->bytes, digest);
        if (rc != TN_OK)
            break;
        if (memcmp(digest, t->digest, sizeof digest) != 0)
            rc = err_at(v->err, TN_E_DIGEST, e->path, s->offset + t->offset,
                        e->plan->weights[i].name, "the tensor does not match its digest");
        xxh128_update(sum, digest, sizeof digest);
    }
    if (rc == TN_OK) {
        xxh128_final(sum, digest);
        if (memcmp(digest, s->digest, sizeof digest) != 0)
            rc = err_at(v->err, TN_E_DIGEST, e->path, s->offset, "weights",
                        "the section does not match its digest");
    }
    xxh128_free(sum);
    return rc;
}

/* Bytes between the end of a section and the next boundary are zero. */
static int32_t verify_gap(const struct engine *e, uint64_t begin, uint64_t end, tn_err *err)
{
    for (uint64_t i = begin; i < end; i++)
        if (e->map.data[i] != 0)
            return err_at(err, TN_E_FORMAT, e->path, i, "padding", "is not zero");
    return TN_OK;
}

static int32_t verify_gaps(const struct engine *e, tn_err *err)
{
    const struct engine_section *w = engine_header_find(&e->header, ENGINE_WEIGHTS);
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i + 1 < e->header.n_sections && rc == TN_OK; i++) {
        const struct engine_section *s = &e->header.sections[i];
        rc = verify_gap(e, s->offset + s->size, e->header.sections[i + 1].offset, err);
    }
    for (size_t i = 0; w && i < e->plan->n_weights && rc == TN_OK; i++) {
        uint64_t end = e->tensors[i].offset + e->tensors[i].bytes;
        uint64_t next = align_up(end, ENGINE_ALIGN);
        if (!e->tensors[i].dummy)
            rc = verify_gap(e, w->offset + end, w->offset + (next < w->size ? next : w->size), err);
    }
    return rc;
}

int32_t engine_verify(const struct engine *e, engine_progress progress, void *arg, tn_err *err)
{
    struct verifying v = {e, progress, arg, NULL, 0, err};
    uint8_t digest[XXH128_BYTES];
    int32_t rc;

    file_map_expect(&e->map, true);
    rc = xxh128_new(&v.hash, err);
    for (uint32_t i = 0; i < e->header.n_sections && rc == TN_OK; i++) {
        const struct engine_section *s = &e->header.sections[i];
        if (s->kind == ENGINE_WEIGHTS) {
            rc = verify_weights(&v, s);
            continue;
        }
        rc = hash_range(&v, s->offset, s->size, digest);
        if (rc == TN_OK && memcmp(digest, s->digest, sizeof digest) != 0)
            rc = err_at(err, TN_E_DIGEST, e->path, s->offset, section_name(s->kind),
                        "the section does not match its digest");
    }
    if (rc == TN_OK)
        rc = verify_gaps(e, err);
    xxh128_free(v.hash);
    return rc;
}
