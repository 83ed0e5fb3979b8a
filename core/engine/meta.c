/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/meta.h"

#include <stdio.h>

#include "base/json.h"
#include "base/limits.h"
#include "engine/names.h"

static int32_t needed_int(const json_t *meta, const char *file, const char *path, int64_t max,
                          int64_t *out, tn_err *err)
{
    int32_t rc = json_get_int(meta, file, path, 1, max, out, err);

    return rc == TN_E_NOTFOUND ? json_missing(file, path, err) : rc;
}

static int32_t read_eos(const json_t *meta, const char *file, int64_t vocab,
                        struct engine_meta *out, tn_err *err)
{
    const json_t *eos = json_at(meta, "tokens.eos");
    size_t n = json_array_size(eos);

    if (eos && !json_is_array(eos))
        return err_at(err, TN_E_TYPE, file, TN_NO_OFFSET, "tokens.eos", "is not a list");
    if (n > META_MAX_EOS)
        return err_at(err, TN_E_LIMIT, file, TN_NO_OFFSET, "tokens.eos",
                      "lists %zu ids; %d are allowed", n, META_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        char path[48];
        int64_t id = 0;
        int32_t rc;
        snprintf(path, sizeof path, "tokens.eos[%zu]", i);
        rc = json_get_int(meta, file, path, 0, vocab - 1, &id, err);
        if (rc != TN_OK)
            return rc == TN_E_NOTFOUND ? json_missing(file, path, err) : rc;
        out->eos[out->n_eos++] = (int32_t)id;
    }
    return TN_OK;
}

int32_t engine_meta_read(const json_t *meta, const char *file, int64_t vocab,
                         struct engine_meta *out, tn_err *err)
{
    struct engine_meta m = {.bos = -1};
    const char *dtype = NULL;
    int32_t rc;

    if ((rc = needed_int(meta, file, "limits.max_batch_size", LIMIT_BATCH, &m.max_batch_size,
                         err)) ||
        (rc = needed_int(meta, file, "limits.max_input_len", LIMIT_POSITIONS, &m.max_input_len,
                         err)) ||
        (rc = needed_int(meta, file, "limits.max_output_len", LIMIT_POSITIONS, &m.max_output_len,
                         err)) ||
        (rc = needed_int(meta, file, "limits.max_num_tokens", LIMIT_STEP_ROWS, &m.max_num_tokens,
                         err)) ||
        (rc = needed_int(meta, file, "limits.tp_size", 1024, &m.tp_size, err)) ||
        (rc = needed_int(meta, file, "limits.pp_size", 1024, &m.pp_size, err)))
        return rc;
    rc = json_get_str(meta, file, "dtype", &dtype, err);
    if (rc != TN_OK)
        return rc == TN_E_NOTFOUND ? json_missing(file, "dtype", err) : rc;
    m.dtype = dtype_number(dtype);
    if (m.dtype == 0)
        return err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, "dtype", "is not a known dtype");
    rc = json_get_str(meta, file, "kv_dtype", &dtype, err);
    if (rc == TN_OK)
        m.kv_dtype = dtype_number(dtype);
    if ((rc != TN_OK && rc != TN_E_NOTFOUND) || (rc == TN_OK && m.kv_dtype == 0))
        return rc == TN_OK ? err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, "kv_dtype",
                                    "is not a known dtype")
                           : rc;
    rc = json_get_int(meta, file, "tokens.bos", 0, vocab - 1, &m.bos, err);
    if (rc != TN_OK && rc != TN_E_NOTFOUND)
        return rc;
    rc = read_eos(meta, file, vocab, &m, err);
    if (rc == TN_OK)
        *out = m;
    return rc;
}
