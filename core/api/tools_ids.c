/* SPDX-License-Identifier: Apache-2.0 */
/* tools.h: token ids and logits in files. */
#include <inttypes.h>

#include "api/tools.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"
#include "build/safetensors.h"
#include "tenon/dtype.h"

#define MAX_IDS_BYTES (4 * GIB)

/* Number of ids if the tensor is a list of integers: [n] or [1, n]. */
static bool is_id_list(const struct st_tensor *t, uint64_t *n)
{
    if (t->dtype != TN_DT_I32 && t->dtype != TN_DT_I64)
        return false;
    if (t->n_dims == 2 && t->dims[0] != 1)
        return false;
    if (t->n_dims < 1 || t->n_dims > 2)
        return false;
    *n = t->dims[t->n_dims - 1];
    return *n > 0 && *n <= INT32_MAX;
}

static int32_t decode_ids(const struct file_reader *f, const struct st_tensor *t, int32_t **ids,
                          uint32_t *n, tn_err *err)
{
    uint64_t count = 0;
    uint8_t *raw = NULL;
    int32_t *list = NULL;
    int32_t rc;

    if (!is_id_list(t, &count))
        return err_at(err, TN_E_FORMAT, f->path, t->offset, t->name,
                      "must be int32 or int64 of shape [n] or [1, n], n > 0");
    raw = mem_alloc((size_t)t->bytes);
    list = mem_array((size_t)count, sizeof *list);
    rc = raw && list ? file_reader_at(f, t->offset, raw, (size_t)t->bytes, err)
                     : err_nomem(err, "token ids");
    for (uint64_t i = 0; i < count && rc == TN_OK; i++) {
        int64_t v = 0;
        int32_t v32 = 0;
        if (t->dtype == TN_DT_I64)
            memcpy(&v, raw + 8 * i, 8);
        else
            memcpy(&v32, raw + 4 * i, 4);
        v = t->dtype == TN_DT_I64 ? v : v32;
        if (v < 0 || v > INT32_MAX)
            rc = err_at(err, TN_E_RANGE, f->path, t->offset, t->name,
                        "entry %" PRIu64 " is %" PRId64 ", not a token id", i, v);
        list[i] = (int32_t)v;
    }
    mem_free(raw);
    if (rc != TN_OK) {
        mem_free(list);
        return rc;
    }
    *ids = list;
    *n = (uint32_t)count;
    return TN_OK;
}

int32_t tool_read_ids(const char *path, int32_t **ids, uint32_t *n, tn_err *err)
{
    struct file_reader f;
    struct st_header h = {0};
    const struct st_tensor *t;
    int32_t rc = file_reader_open(path, &f, err);

    if (rc != TN_OK)
        return rc;
    rc = safetensors_read(&f, &h, err);
    if (rc == TN_OK) {
        t = safetensors_find(&h, "input_ids");
        rc = t ? decode_ids(&f, t, ids, n, err)
               : err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, "input_ids",
                        "the file has no tensor of this name");
        st_header_release(&h);
    }
    file_reader_release(&f);
    return rc;
}

int32_t tool_read_raw_ids(const char *path, int32_t **ids, uint64_t *n, tn_err *err)
{
    size_t len = 0, name = strlen(path), width;
    char *raw = NULL;
    int32_t *list;
    int32_t rc = file_read(path, MAX_IDS_BYTES, &raw, &len, err);

    if (rc != TN_OK)
        return rc;
    width = name > 4 && strcmp(path + name - 4, ".i32") == 0 ? 4 : 2;
    list = mem_array(len / width, sizeof *list);
    if (!list) {
        mem_free(raw);
        return err_nomem(err, "token ids");
    }
    if (len % width != 0 || len == 0) {
        mem_free(raw);
        mem_free(list);
        return err_at(err, TN_E_FORMAT, path, len, NULL, "is not a whole number of %zu-byte ids",
                      width);
    }
    for (size_t i = 0; i < len / width; i++) {
        uint16_t h;
        if (width == 4) {
            memcpy(&list[i], raw + 4 * i, 4);
            continue;
        }
        memcpy(&h, raw + 2 * i, 2);
        list[i] = h;
    }
    mem_free(raw);
    *ids = list;
    *n = len / width;
    return TN_OK;
}

int32_t tool_write_logits(const char *path, const float *logits, uint64_t rows, uint64_t vocab,
                          tn_err *err)
{
    struct st_tensor t = {.name = "logits",
                          .dtype = TN_DT_F32,
                          .n_dims = 2,
                          .dims = {rows, vocab},
                          .bytes = rows * vocab * sizeof(float)};
    const void *data[] = {logits};

    return safetensors_write(path, &t, data, 1, err);
}
