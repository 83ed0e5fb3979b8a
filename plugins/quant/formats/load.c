/* SPDX-License-Identifier: Apache-2.0 */
/* The numbers of a module: codes one per byte, scales and zero points per row and group, whatever the layout. */
#include "formats.h"

void *take(const struct build *b, uint64_t n, uint64_t size, tn_err *err)
{
    void *p = size && n <= UINT64_MAX / size ? b->host->alloc(b->host->ctx, n * size, 64) : NULL;

    if (!p)
        tn_err_set(err, TN_E_NOMEM, "no memory for %llu elements of %llu bytes",
                   (unsigned long long)n, (unsigned long long)size);
    return p;
}

void loaded_release(const struct build *b, struct loaded *l)
{
    b->host->free(b->host->ctx, l->codes);
    b->host->free(b->host->ctx, l->scale);
    b->host->free(b->host->ctx, l->zero);
    b->host->free(b->host->ctx, l->order);
    b->host->free(b->host->ctx, l->columns);
    *l = (struct loaded){0};
}

static int32_t read_bytes(const struct build *b, const struct module *m, const char *suffix,
                          uint64_t offset, void *out, uint64_t n, tn_err *err)
{
    char name[MAX_NAME];

    tensor_name(name, m->name, suffix);
    return b->source.tapi->read(b->source.checkpoint, name, offset, out, n, err);
}

/* How many codes a word holds. */
static uint64_t per_word(const struct module *m)
{
    return 32 / (uint64_t)m->rule->bits;
}

/* Code `i` of those in a word, in the order of the layout, with its lowest value 0. */
static int32_t code_in(const struct module *m, uint32_t word, uint64_t i)
{
    static const uint8_t awq[8] = {0, 4, 1, 5, 2, 6, 3, 7}; /* where output i of eight lies */
    uint64_t at = m->layout == LAYOUT_AWQ ? awq[i] : i, bits = (uint64_t)m->rule->bits;

    return (int32_t)(word >> (bits * at) & ((1U << bits) - 1));
}

/* The code that stands for 0 where none says otherwise. */
static int32_t middle(const struct module *m)
{
    return 1 << (m->rule->bits - 1);
}

/* -- Codes ------------------------------------------------------------------------------------------------ */

static int32_t load_rows(const struct build *b, const struct module *m, uint64_t begin,
                         struct loaded *l, tn_err *err)
{
    uint64_t n = l->rows * l->cols;
    int32_t rc = read_bytes(b, m, "weight", begin * l->cols, l->codes, n, err);

    for (uint64_t i = 0; i < n && rc == TN_OK && m->dtype != TN_DT_I8; i++) {
        int8_t code = (int8_t)l->codes[i];
        unsigned long long row = begin + i / l->cols, col = i % l->cols;
        if (m->dtype == TN_DT_F8E4M3 && (code & 0x7f) == 0x7f)
            rc = tensor_bad(b, m->name, "weight", err, "element [%llu, %llu] is NaN", row, col);
        else if (m->dtype == TN_DT_I4 && (code < -8 || code > 7))
            rc = tensor_bad(b, m->name, "weight", err, "element [%llu, %llu] is %d, not of 4 bits",
                            row, col, code);
    }
    return rc;
}

/* Words of the packed tensor are [K, N/8], [K/8, N] or [N, K/per_word]. */
static int32_t load_packed(const struct build *b, const struct module *m, uint64_t begin,
                           struct loaded *l, tn_err *err)
{
    bool packed = m->layout == LAYOUT_PACKED, awq = m->layout == LAYOUT_AWQ;
    uint64_t some = per_word(m);
    uint64_t row_words = awq ? m->rows / some : packed ? (m->cols + some - 1) / some : m->rows;
    uint64_t n_words = row_words * (awq ? m->cols : packed ? m->rows : m->cols / some);
    uint32_t *words = take(b, n_words, sizeof *words, err);
    int32_t rc = words ? read_bytes(b, m, packed ? "weight_packed" : "qweight", 0, words,
                                    n_words * sizeof *words, err)
                       : (int32_t)TN_E_NOMEM;

    for (uint64_t r = 0; r < l->rows && rc == TN_OK; r++) {
        uint64_t n = begin + r;
        for (uint64_t k = 0; k < l->cols; k++) {
            uint64_t at = awq      ? k * row_words + n / some
                          : packed ? n * row_words + k / some
                                   : k / some * row_words + n;
            l->codes[r * l->cols + k] =
                (uint8_t)(code_in(m, words[at], (awq ? n : k) % some) - middle(m));
        }
    }
    b->host->free(b->host->ctx, words);
    return rc;
}

/* -- Scales ------------------------------------------------------------------------------------------------ */

static int32_t load_scales(const struct build *b, const struct module *m, uint64_t begin,
                           struct loaded *l, tn_err *err)
{
    bool by_group = m->layout == LAYOUT_AWQ || m->layout == LAYOUT_GPTQ; /* [groups, N] */
    uint64_t blocks = (m->rows + m->block - 1) / m->block, n = blocks * m->n_groups;
    float *all = take(b, n, sizeof *all, err);
    char name[MAX_NAME];
    int32_t rc = TN_E_NOMEM;

    tensor_name(name, m->name, m->scale);
    if (all)
        rc = b->source.tapi->read_real(b->source.checkpoint, name, 0, all, n, err);
    for (uint64_t i = 0; i < n && rc == TN_OK; i++)
        if (!(all[i] > 0.0f && isfinite(all[i])))
            rc = tensor_bad(b, m->name, m->scale, err,
                            "scale %llu is %g; scales are finite and above 0",
                            (unsigned long long)i, (double)all[i]);
    for (uint64_t r = 0; r < l->rows && rc == TN_OK; r++)
        for (uint64_t g = 0; g < m->n_groups; g++)
            l->scale[r * m->n_groups + g] = by_group
                                                ? all[g * m->rows + begin + r]
                                                : all[(begin + r) / m->block * m->n_groups + g];
    b->host->free(b->host->ctx, all);
    return rc;
}

/* -- Zero points ---------------------------------------------------------------------------------------------- */

/* One per byte, in the shape of the scales: [rows or blocks, groups], or [1]. */
static int32_t zeros_by_byte(const struct build *b, const struct module *m,
                             const tn_stored_tensor *t, uint64_t begin, struct loaded *l,
                             tn_err *err)
{
    uint64_t n = (m->rows + m->block - 1) / m->block * m->n_groups, count = 1;
    int8_t *all;
    int32_t rc;

    for (uint32_t i = 0; i < t->n_dims; i++)
        count *= t->dims[i];
    if (count != n)
        return tensor_bad(b, m->name, m->zero, err, "has %llu zero points for %llu scales",
                          (unsigned long long)count, (unsigned long long)n);
    all = take(b, n, 1, err);
    rc = all ? read_bytes(b, m, m->zero, 0, all, n, err) : (int32_t)TN_E_NOMEM;
    for (uint64_t r = 0; r < l->rows && rc == TN_OK; r++)
        for (uint64_t g = 0; g < m->n_groups; g++)
            l->zero[r * m->n_groups + g] = all[(begin + r) / m->block * m->n_groups + g];
    b->host->free(b->host->ctx, all);
    return rc;
}

/* Packed along the rows: [groups, N/8], or [N/per_word, groups] in compressed-tensors. */
static int32_t packed_zeros(const struct build *b, const struct module *m, uint64_t begin,
                            struct loaded *l, tn_err *err)
{
    bool packed = m->layout == LAYOUT_PACKED;
    uint64_t some = per_word(m), row_words = (m->rows + some - 1) / some;
    uint64_t n = row_words * m->n_groups;
    uint32_t *words = take(b, n, sizeof *words, err);
    int32_t rc =
        words ? read_bytes(b, m, m->zero, 0, words, n * sizeof *words, err) : (int32_t)TN_E_NOMEM;

    for (uint64_t r = 0; r < l->rows && rc == TN_OK; r++)
        for (uint64_t g = 0; g < m->n_groups && rc == TN_OK; g++) {
            uint64_t i = begin + r;
            uint64_t at = packed ? i / some * m->n_groups + g : g * row_words + i / some;
            int offset = m->layout == LAYOUT_GPTQ ? b->zero_offset : 0;
            int32_t zero = code_in(m, words[at], i % some) + offset - middle(m);
            l->zero[r * m->n_groups + g] = (int8_t)zero;
            if (zero > INT8_MAX)
                rc = tensor_bad(b, m->name, m->zero, err,
                                "the zero point of output %llu, group %llu, is beyond 8 bits",
                                (unsigned long long)i, (unsigned long long)g);
        }
    b->host->free(b->host->ctx, words);
    return rc;
}

static int32_t load_zeros(const struct build *b, const struct module *m, uint64_t begin,
                          struct loaded *l, tn_err *err)
{
    uint64_t n = l->rows * m->n_groups, words = (m->rows + per_word(m) - 1) / per_word(m);
    char name[MAX_NAME];
    tn_stored_tensor t;
    int32_t rc;

    if (!m->zero)
        return TN_OK;
    l->zero = take(b, n, 1, err);
    if (!l->zero)
        return TN_E_NOMEM;
    tensor_name(name, m->name, m->zero);
    if (b->source.tapi->find(b->source.checkpoint, name, &t) != TN_OK)
        return tensor_bad(b, m->name, m->zero, err, "is not there");
    if (t.dtype == TN_DT_I8)
        rc = zeros_by_byte(b, m, &t, begin, l, err);
    else if (t.dtype == TN_DT_I32 && m->layout != LAYOUT_ROWS &&
             (m->layout != LAYOUT_PACKED ||
              (t.n_dims == 2 && t.dims[0] == words && t.dims[1] == m->n_groups)))
        rc = packed_zeros(b, m, begin, l, err);
    else
        return tensor_bad(b, m->name, m->zero, err,
                          "is stored as %s, or has not the zero points of its scales",
                          tn_dtype_name(t.dtype));
    for (uint64_t i = 0; i < n && rc == TN_OK; i++)
        l->zeros = l->zeros || l->zero[i] != 0;
    return rc;
}

/* -- Order ----------------------------------------------------------------------------------------------------- */

/* Columns of a group stay in their order, so that matrices whose groups agree have their columns in one order. */
static int32_t gather_groups(const struct build *b, const struct module *m, struct loaded *l,
                             tn_err *err)
{
    uint64_t *at = take(b, l->n_groups, sizeof *at, err);

    l->columns = at ? take(b, l->cols, sizeof *l->columns, err) : NULL;
    for (uint64_t g = 0; at && g < l->n_groups; g++)
        at[g] = g * m->group;
    for (uint64_t k = 0; l->columns && k < l->cols && !l->uneven; k++) {
        uint64_t g = l->order[k], end = (g + 1) * m->group;
        l->uneven = at[g] == (end < l->cols ? end : l->cols);
        if (!l->uneven)
            l->columns[at[g]++] = (uint32_t)k;
    }
    b->host->free(b->host->ctx, at);
    if (!l->columns)
        return TN_E_NOMEM;
    if (l->uneven) {
        b->host->free(b->host->ctx, l->columns);
        l->columns = NULL;
    }
    return TN_OK;
}

/* Which group each column belongs to; without a list (or with one that is not filled in) neighbours make groups. */
static int32_t load_order(const struct build *b, const struct module *m, struct loaded *l,
                          tn_err *err)
{
    char name[MAX_NAME];
    tn_stored_tensor t = {.dtype = 0};
    bool given = false, ordered = false;
    int32_t rc = TN_OK;

    l->order = take(b, l->cols, sizeof *l->order, err);
    if (!l->order)
        return TN_E_NOMEM;
    if (m->order) {
        tensor_name(name, m->name, m->order);
        if (b->source.tapi->find(b->source.checkpoint, name, &t) != TN_OK || t.dtype != TN_DT_I32 ||
            t.n_dims != 1 || t.dims[0] != l->cols)
            return tensor_bad(b, m->name, m->order, err, "must be %llu int32",
                              (unsigned long long)l->cols);
        rc = read_bytes(b, m, m->order, 0, l->order, l->cols * sizeof *l->order, err);
    }
    for (uint64_t k = 0; k < l->cols && m->order && rc == TN_OK; k++)
        given = given || (int32_t)l->order[k] != -1;
    for (uint64_t k = 0; k < l->cols && rc == TN_OK; k++) {
        if (!given)
            l->order[k] = (uint32_t)(k / m->group);
        if (l->order[k] >= m->n_groups)
            rc = tensor_bad(b, m->name, m->order, err,
                            "puts column %llu into group %d; there are %llu", (unsigned long long)k,
                            (int)(int32_t)l->order[k], (unsigned long long)m->n_groups);
        ordered = ordered || l->order[k] != k / m->group;
    }
    return rc == TN_OK && ordered ? gather_groups(b, m, l, err) : rc;
}

int32_t module_load(const struct build *b, const struct module *m, uint64_t begin, uint64_t end,
                    bool codes, struct loaded *out, tn_err *err)
{
    struct loaded l = {.rows = end - begin, .cols = m->cols, .n_groups = m->n_groups};
    int32_t rc = TN_OK;

    if (begin >= end || end > m->rows)
        return tn_err_set(err, TN_E_INVALID, "%.120s has no rows %llu to %llu", m->name,
                          (unsigned long long)begin, (unsigned long long)end);
    l.scale = take(b, l.rows * l.n_groups, sizeof *l.scale, err);
    if (codes)
        l.codes = take(b, l.rows * l.cols, 1, err);
    if (!l.scale || (codes && !l.codes))
        rc = TN_E_NOMEM;
    if (rc == TN_OK)
        rc = load_scales(b, m, begin, &l, err);
    if (rc == TN_OK)
        rc = load_zeros(b, m, begin, &l, err);
    if (rc == TN_OK)
        rc = load_order(b, m, &l, err);
    if (rc == TN_OK && codes)
        rc = m->layout == LAYOUT_ROWS ? load_rows(b, m, begin, &l, err)
                                      : load_packed(b, m, begin, &l, err);
    if (rc != TN_OK) {
        loaded_release(b, &l);
        return rc;
    }
    *out = l;
    return TN_OK;
}
