/* SPDX-License-Identifier: Apache-2.0 */
#include "build/safetensors.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "tenon/dtype.h"

/* The format's dtype names with their width; 0 as dtype: Tenon has no such type, but can skip it. */
static const struct {
    const char *name;
    uint32_t dtype, bits;
} dtypes[] = {{"F64", TN_DT_F64, 64},
              {"F32", TN_DT_F32, 32},
              {"F16", TN_DT_F16, 16},
              {"BF16", TN_DT_BF16, 16},
              {"F8_E4M3", TN_DT_F8E4M3, 8},
              {"F8_E5M2", TN_DT_F8E5M2, 8},
              {"I64", TN_DT_I64, 64},
              {"I32", TN_DT_I32, 32},
              {"I8", TN_DT_I8, 8},
              {"U8", TN_DT_U8, 8},
              {"I16", 0, 16},
              {"U16", 0, 16},
              {"U32", 0, 32},
              {"U64", 0, 64},
              {"BOOL", 0, 8},
              {"F8_E8M0", 0, 8},
              {"F4", 0, 4},
              {"C64", 0, 64}};

static int32_t bad(const char *file, const char *name, tn_err *err, const char *why)
{
    return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, name, "%s", why);
}

static bool get_u64(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static int32_t parse_tensor(const char *name, const json_t *o, const char *file, uint64_t base,
                            struct st_tensor *t, tn_err *err)
{
    const char *dtype = json_plain(json_object_get(o, "dtype"));
    const json_t *shape = json_object_get(o, "shape"), *at = json_object_get(o, "data_offsets");
    uint64_t begin, end, bits = 0;
    size_t d = 0;

    *t = (struct st_tensor){.name = name};
    if (!dtype || !json_is_array(shape) || !json_is_array(at) || json_array_size(at) != 2)
        return bad(file, name, err, "needs a dtype, a shape and two data_offsets");
    while (d < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[d].name, dtype) != 0)
        d++;
    if (d == sizeof dtypes / sizeof *dtypes)
        return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, name, "has the unknown dtype \"%.32s\"",
                      dtype);
    if (json_array_size(shape) > SAFETENSORS_MAX_DIMS)
        return bad(file, name, err, "has more than 8 dimensions");
    t->dtype = dtypes[d].dtype;
    t->n_dims = (uint32_t)json_array_size(shape);
    bits = dtypes[d].bits;
    for (uint32_t i = 0; i < t->n_dims; i++)
        if (!get_u64(json_array_get(shape, i), &t->dims[i]) ||
            !checked_mul(bits, t->dims[i], &bits))
            return bad(file, name, err,
                       "its shape is not a list of sizes whose product fits 64 bits");
    if (!get_u64(json_array_get(at, 0), &begin) || !get_u64(json_array_get(at, 1), &end) ||
        end < begin || !checked_add(base, end, &t->offset))
        return bad(file, name, err, "its data_offsets are not two ascending sizes");
    t->offset = base + begin;
    t->bytes = end - begin;
    if (bits % 8 != 0 || t->bytes != bits / 8)
        return err_at(err, TN_E_FORMAT, file, t->offset, name,
                      "has %" PRIu64 " bytes, but its shape and dtype need %" PRIu64, t->bytes,
                      bits / 8);
    return TN_OK;
}

static int compare_offsets(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;

    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* empty tensors share an offset */
}

static int32_t check_tiling(const struct st_header *h, const char *file, uint64_t base,
                            uint64_t file_size, tn_err *err)
{
    uint64_t expect = base;

    for (size_t i = 0; i < h->n_tensors; i++) {
        const struct st_tensor *t = &h->tensors[i];
        if (t->offset != expect)
            return err_at(err, TN_E_FORMAT, file, t->offset, t->name,
                          "begins at byte %" PRIu64 ", but the tensor before it ends at %" PRIu64,
                          t->offset, expect);
        expect += t->bytes;
    }
    if (expect != file_size) {
        err_at(err, TN_E_FORMAT, file, expect < file_size ? expect : file_size, NULL,
               "the file has %" PRIu64 " bytes, its header accounts for %" PRIu64 ": it is %s",
               file_size, expect, file_size < expect ? "truncated" : "followed by foreign bytes");
        err_remedy(err, "download the checkpoint again");
        return TN_E_FORMAT;
    }
    return TN_OK;
}

/* Text by text, as the original demands. */
static int32_t check_metadata(json_t *o, const char *file, tn_err *err)
{
    bool ok = json_is_object(o);
    const char *key;
    json_t *v;

    json_object_foreach(o, key, v) ok = ok && json_is_string(v);
    return ok ? TN_OK : bad(file, "__metadata__", err, "is not an object of texts");
}

static int32_t parse_all(struct st_header *h, const char *file, uint64_t base, tn_err *err)
{
    size_t n = json_object_size(h->root);
    const char *name;
    json_t *o;

    if (n > LIMIT_TENSORS)
        return err_at(err, TN_E_LIMIT, file, TN_NO_OFFSET, NULL,
                      "names %zu tensors; %d are allowed", n, LIMIT_TENSORS);
    h->tensors = arena_array(&h->arena, n ? n : 1, sizeof *h->tensors);
    if (!h->tensors || !map_reserve(&h->names, n))
        return err_nomem(err, "a safetensors header");
    json_object_foreach(h->root, name, o)
    {
        bool metadata = strcmp(name, "__metadata__") == 0;
        int32_t rc;
        if (strlen(name) == 0 || strlen(name) > LIMIT_TENSOR_NAME)
            return bad(file, "tensor name", err, "is empty or longer than 512 bytes");
        rc = metadata ? check_metadata(o, file, err)
                      : parse_tensor(name, o, file, base, &h->tensors[h->n_tensors], err);
        if (rc != TN_OK)
            return rc;
        h->n_tensors += !metadata;
    }
    qsort(h->tensors, h->n_tensors, sizeof *h->tensors, compare_offsets);
    for (size_t i = 0; i < h->n_tensors; i++)
        if (map_put(&h->names, h->tensors[i].name, strlen(h->tensors[i].name), i) != MAP_ADDED)
            return err_nomem(err, "a safetensors header");
    return TN_OK;
}

static uint64_t header_length(const uint8_t *p)
{
    uint64_t n = 0;

    for (int i = 7; i >= 0; i--)
        n = n << 8 | p[i];
    return n;
}

/* The header length, checked against cap and file; `base` becomes the offset of the data. */
static int32_t check_length(uint64_t n, uint64_t file_size, const char *file, uint64_t *base,
                            tn_err *err)
{
    if (n > LIMIT_SAFETENSORS_HEADER)
        return err_at(err, TN_E_FORMAT, file, 0, "header length",
                      "is %" PRIu64 "; at most %d bytes are allowed: not a safetensors file", n,
                      LIMIT_SAFETENSORS_HEADER);
    if (n > file_size - 8)
        return err_at(err, TN_E_FORMAT, file, 0, "header length",
                      "is %" PRIu64 ", more than the file has: it is truncated", n);
    *base = n + 8;
    return TN_OK;
}

int32_t safetensors_parse(const uint8_t *data, size_t size, uint64_t file_size, const char *file,
                          struct st_header *out, tn_err *err)
{
    struct st_header h = {0};
    uint64_t base = 0;
    int32_t rc;

    if (size < 8 || file_size < 8)
        return err_at(err, TN_E_FORMAT, file, 0, "header length",
                      "the file has %" PRIu64 " bytes: not a safetensors file", file_size);
    rc = check_length(header_length(data), file_size, file, &base, err);
    if (rc != TN_OK)
        return rc;
    if (base == 8 || size < base || data[8] != '{')
        return err_at(err, TN_E_FORMAT, file, 8, "header", "does not begin with '{'");
    rc = json_parse((const char *)data + 8, (size_t)(base - 8), file, &h.root, err);
    if (rc == TN_OK)
        rc = parse_all(&h, file, base, err);
    if (rc == TN_OK)
        rc = check_tiling(&h, file, base, file_size, err);
    if (rc != TN_OK) {
        st_header_release(&h);
        return rc;
    }
    *out = h;
    return TN_OK;
}

void st_header_release(struct st_header *h)
{
    map_release(&h->names);
    arena_release(&h->arena);
    json_decref(h->root);
    *h = (struct st_header){0};
}

int32_t safetensors_read(const struct file_reader *f, struct st_header *out, tn_err *err)
{
    uint8_t first[8] = {0};
    uint8_t *data = NULL;
    uint64_t base = 0;
    int32_t rc;

    if (f->size < 8)
        return safetensors_parse(first, 0, f->size, f->path, out, err);
    rc = file_reader_at(f, 0, first, sizeof first, err);
    if (rc == TN_OK)
        rc = check_length(header_length(first), f->size, f->path, &base, err);
    if (rc != TN_OK)
        return rc;
    data = mem_alloc((size_t)base);
    if (!data)
        return err_nomem(err, "a safetensors header");
    rc = file_reader_at(f, 0, data, (size_t)base, err);
    if (rc == TN_OK)
        rc = safetensors_parse(data, (size_t)base, f->size, f->path, out, err);
    mem_free(data);
    return rc;
}

const struct st_tensor *safetensors_find(const struct st_header *h, const char *name)
{
    uint64_t i;

    return map_get(&h->names, name, strlen(name), &i) ? &h->tensors[i] : NULL;
}

/* -- Writing --------------------------------------------------------------------------------------- */

static const char *st_dtype_name(uint32_t dtype)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return "?";
}

static void put_json_string(struct strbuf *b, const char *s)
{
    strbuf_putc(b, '"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\' || (unsigned char)*s < 0x20)
            strbuf_printf(b, "\\u%04x", (unsigned)*s);
        else
            strbuf_putc(b, *s);
    }
    strbuf_putc(b, '"');
}

static void header_json(const struct st_tensor *tensors, size_t n, struct strbuf *b)
{
    uint64_t at = 0;

    strbuf_putc(b, '{');
    for (size_t i = 0; i < n; i++) {
        strbuf_puts(b, i ? "," : "");
        put_json_string(b, tensors[i].name);
        strbuf_printf(b, ":{\"dtype\":\"%s\",\"shape\":[", st_dtype_name(tensors[i].dtype));
        for (uint32_t d = 0; d < tensors[i].n_dims; d++)
            strbuf_printf(b, "%s%" PRIu64, d ? "," : "", tensors[i].dims[d]);
        strbuf_printf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at,
                      at + tensors[i].bytes);
        at += tensors[i].bytes;
    }
    strbuf_putc(b, '}');
    while (b->len % 8 != 0 && !b->failed)
        strbuf_putc(b, ' ');
}

int32_t safetensors_begin(const struct file_writer *w, const struct st_tensor *tensors, size_t n,
                          tn_err *err)
{
    struct strbuf header = STRBUF_INIT;
    uint8_t length[8];
    int32_t rc;

    header_json(tensors, n, &header);
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)header.len >> (8 * i));
    rc = header.failed ? err_nomem(err, "a safetensors file")
                       : file_writer_put(w, length, sizeof length, err);
    if (rc == TN_OK)
        rc = file_writer_put(w, strbuf_str(&header), header.len, err);
    strbuf_release(&header);
    return rc;
}

int32_t safetensors_write(const char *path, const struct st_tensor *tensors,
                          const void *const *data, size_t n, tn_err *err)
{
    struct file_writer w;
    int32_t rc = file_writer_open(path, &w, err);

    if (rc != TN_OK)
        return rc;
    rc = safetensors_begin(&w, tensors, n, err);
    for (size_t i = 0; i < n && rc == TN_OK; i++)
        rc = file_writer_put(&w, data[i], (size_t)tensors[i].bytes, err);
    if (rc == TN_OK)
        return file_writer_commit(&w, err);
    file_writer_release(&w);
    return rc;
}
