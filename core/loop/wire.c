/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/wire.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

struct wire_head {
    uint32_t n_parts, reserved;
    uint64_t step;
};

struct wire_part {
    uint32_t rows, seqs, logits, block_tokens, max_blocks, max_rows_per_seq, max_context;
    uint32_t first_logits;
    uint64_t n_bias, n_history;
};

/* One array of a part: where its pointer stands in tn_batch_arrays, and how long it is. */
struct piece {
    size_t field;
    uint64_t count, size;
};

#define N_PIECES 13

static void list_pieces(const struct wire_part *p, struct piece out[N_PIECES])
{
    const struct piece all[N_PIECES] = {
        {offsetof(tn_batch_arrays, tokens), p->rows, 4},
        {offsetof(tn_batch_arrays, positions), p->rows, 4},
        {offsetof(tn_batch_arrays, row_seq), p->rows, 4},
        {offsetof(tn_batch_arrays, row_slot), p->rows, 8},
        {offsetof(tn_batch_arrays, first_row), (uint64_t)p->seqs + 1, 4},
        {offsetof(tn_batch_arrays, context), p->seqs, 4},
        {offsetof(tn_batch_arrays, prompt_len), p->seqs, 4},
        {offsetof(tn_batch_arrays, block_table), (uint64_t)p->seqs * p->max_blocks, 4},
        {offsetof(tn_batch_arrays, logits_row), p->logits, 4},
        {offsetof(tn_batch_arrays, sample), p->logits, sizeof(tn_sample_row)},
        {offsetof(tn_batch_arrays, bias_ids), p->n_bias, 4},
        {offsetof(tn_batch_arrays, bias_values), p->n_bias, 4},
        {offsetof(tn_batch_arrays, history), p->n_history, 4}};

    memcpy(out, all, sizeof all);
}

/* -- Writing ---------------------------------------------------------------------------------------------------- */

static struct wire_part describe(const struct step_parts *p, uint32_t i)
{
    const tn_batch *b = &p->batch[i];
    struct wire_part w = {.rows = b->n_rows,
                          .seqs = b->n_seqs,
                          .logits = b->n_logits,
                          .block_tokens = b->block_tokens,
                          .max_blocks = b->max_blocks,
                          .max_rows_per_seq = b->max_rows_per_seq,
                          .max_context = b->max_context,
                          .first_logits = p->first_logits[i]};

    for (uint32_t k = 0; k < b->n_logits; k++) {
        w.n_bias += b->host->sample[k].n_bias;
        w.n_history += b->host->sample[k].history_len;
    }
    return w;
}

static int32_t append(uint8_t **buffer, size_t *capacity, size_t *at, const void *data,
                      uint64_t bytes, tn_err *err)
{
    size_t room = (size_t)align_up(bytes, 8);

    if (!mem_grow(buffer, capacity, *at + room, 1))
        return err_nomem(err, "a step");
    if (bytes > 0)
        memcpy(*buffer + *at, data, (size_t)bytes);
    memset(*buffer + *at + bytes, 0, room - (size_t)bytes);
    *at += room;
    return TN_OK;
}

int32_t wire_write(const struct step_parts *p, uint8_t **buffer, size_t *capacity, size_t *bytes,
                   tn_err *err)
{
    struct wire_head head = {p->n, 0, p->batch[0].step};
    int32_t rc = append(buffer, capacity, bytes, &head, sizeof head, err);

    for (uint32_t i = 0; i < p->n && rc == TN_OK; i++) {
        struct wire_part part = describe(p, i);
        rc = append(buffer, capacity, bytes, &part, sizeof part, err);
    }
    for (uint32_t i = 0; i < p->n && rc == TN_OK; i++) {
        struct wire_part part = describe(p, i);
        struct piece pieces[N_PIECES];
        list_pieces(&part, pieces);
        for (uint32_t k = 0; k < N_PIECES && rc == TN_OK; k++) {
            const void *data;
            memcpy(&data, (const char *)p->batch[i].host + pieces[k].field, sizeof data);
            rc = append(buffer, capacity, bytes, data, pieces[k].count * pieces[k].size, err);
        }
    }
    return rc;
}

/* -- Reading ---------------------------------------------------------------------------------------------------- */

static int32_t wrong(const char *what, uint64_t value, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, what, "%" PRIu64 " cannot be in a step",
                  value);
}

static int32_t check_counts(const struct wire_part *p, const struct wire_limits *l, tn_err *err)
{
    if (p->rows < 1 || p->rows > l->rows)
        return wrong("rows", p->rows, err);
    if (p->seqs < 1 || p->seqs > l->seqs || p->seqs > p->rows)
        return wrong("seqs", p->seqs, err);
    if (p->logits > l->logits || p->logits > p->rows || p->first_logits > l->logits - p->logits)
        return wrong("logits", p->logits, err);
    if (p->block_tokens != l->block_tokens)
        return wrong("block_tokens", p->block_tokens, err);
    if (p->max_blocks < 1 || p->max_blocks > l->max_context / l->block_tokens + 1)
        return wrong("max_blocks", p->max_blocks, err);
    if (p->max_rows_per_seq < 1 || p->max_rows_per_seq > p->rows)
        return wrong("max_rows_per_seq", p->max_rows_per_seq, err);
    if (p->max_context < 1 || p->max_context > l->max_context)
        return wrong("max_context", p->max_context, err);
    if (p->n_bias > LIMIT_FRAME_BYTES || p->n_history > LIMIT_FRAME_BYTES)
        return wrong("n_history", p->n_history, err);
    return TN_OK;
}

static bool in_range(const int32_t *x, uint64_t n, int64_t least, int64_t most)
{
    for (uint64_t i = 0; i < n; i++)
        if (x[i] < least || x[i] > most)
            return false;
    return true;
}

static int32_t check_rows(const struct wire_part *p, const tn_batch_arrays *a,
                          const struct wire_limits *l, tn_err *err)
{
    if (!in_range(a->tokens, p->rows, 0, (int64_t)l->vocab - 1))
        return wrong("tokens", l->vocab, err);
    if (!in_range(a->positions, p->rows, 0, (int64_t)p->max_context - 1))
        return wrong("positions", p->max_context, err);
    if (!in_range(a->row_seq, p->rows, 0, (int64_t)p->seqs - 1))
        return wrong("row_seq", p->seqs, err);
    for (uint32_t i = 0; i < p->rows; i++)
        if (a->row_slot[i] < 0 || a->row_slot[i] / l->block_tokens >= l->n_pages)
            return wrong("row_slot", (uint64_t)a->row_slot[i], err);
    return in_range(a->logits_row, p->logits, 0, (int64_t)p->rows - 1)
               ? TN_OK
               : wrong("logits_row", p->rows, err);
}

static int32_t check_seqs(const struct wire_part *p, const tn_batch_arrays *a,
                          const struct wire_limits *l, tn_err *err)
{
    if (a->first_row[0] != 0 || a->first_row[p->seqs] != (int32_t)p->rows)
        return wrong("first_row", p->rows, err);
    for (uint32_t i = 0; i < p->seqs; i++) {
        int32_t n = a->first_row[i + 1] - a->first_row[i];
        int64_t pages = (a->context[i] + (int64_t)l->block_tokens - 1) / l->block_tokens;
        if (n < 1 || n > (int32_t)p->max_rows_per_seq)
            return wrong("first_row", i, err);
        if (a->context[i] < n || a->context[i] > (int32_t)p->max_context || pages > p->max_blocks)
            return wrong("context", i, err);
        if (!in_range(a->block_table + (size_t)i * p->max_blocks, (uint64_t)pages, 0,
                      (int64_t)l->n_pages - 1))
            return wrong("block_table", i, err);
    }
    return TN_OK;
}

static int32_t check_samples(const struct wire_part *p, const tn_batch_arrays *a,
                             const struct wire_limits *l, tn_err *err)
{
    for (uint32_t i = 0; i < p->logits; i++) {
        const tn_sample_row *s = &a->sample[i];
        if (s->n_bias > p->n_bias || s->first_bias > p->n_bias - s->n_bias)
            return wrong("first_bias", s->first_bias, err);
        if (s->history_len > p->n_history ||
            (s->history_len && s->first_history > p->n_history - s->history_len))
            return wrong("first_history", s->first_history, err);
    }
    if (!in_range(a->bias_ids, p->n_bias, 0, (int64_t)l->vocab - 1))
        return wrong("bias_ids", l->vocab, err);
    return in_range(a->history, p->n_history, 0, (int64_t)l->vocab - 1)
               ? TN_OK
               : wrong("history", l->vocab, err);
}

/* The arrays of one part, which begin at *at. */
static int32_t read_part(const uint8_t *data, size_t bytes, size_t *at, const struct wire_part *p,
                         const struct wire_limits *l, tn_batch_arrays *a, tn_err *err)
{
    struct piece pieces[N_PIECES];
    int32_t rc;

    *a = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays)};
    list_pieces(p, pieces);
    for (uint32_t k = 0; k < N_PIECES; k++) {
        uint64_t size = align_up(pieces[k].count * pieces[k].size, 8);
        const void *begin = data + *at;
        if (size > bytes - *at)
            return wrong("bytes", bytes, err);
        memcpy((char *)a + pieces[k].field, &begin, sizeof begin);
        *at += (size_t)size;
    }
    if ((rc = check_rows(p, a, l, err)) != TN_OK || (rc = check_seqs(p, a, l, err)) != TN_OK)
        return rc;
    return check_samples(p, a, l, err);
}

int32_t wire_read(const uint8_t *data, size_t bytes, const struct wire_limits *limits,
                  struct step_parts *out, tn_err *err)
{
    struct wire_head head;
    struct wire_part parts[LIMIT_MICRO_BATCHES];
    size_t at = sizeof head;
    int32_t rc = TN_OK;

    if (bytes < sizeof head)
        return wrong("bytes", bytes, err);
    memcpy(&head, data, sizeof head);
    if (head.n_parts < 1 || head.n_parts > LIMIT_MICRO_BATCHES || head.reserved != 0 ||
        bytes - at < head.n_parts * sizeof *parts)
        return wrong("parts", head.n_parts, err);
    memcpy(parts, data + at, head.n_parts * sizeof *parts);
    at += head.n_parts * sizeof *parts;
    *out = (struct step_parts){.n = head.n_parts};
    for (uint32_t i = 0; i < head.n_parts && rc == TN_OK; i++) {
        const struct wire_part *p = &parts[i];
        rc = check_counts(p, limits, err);
        if (rc == TN_OK)
            rc = read_part(data, bytes, &at, p, limits, &out->arrays[i], err);
        out->first_logits[i] = p->first_logits;
        out->batch[i] = (tn_batch){.h = TN_HDR(tn_batch),
                                   .n_rows = p->rows,
                                   .n_seqs = p->seqs,
                                   .n_logits = p->logits,
                                   .block_tokens = p->block_tokens,
                                   .max_blocks = p->max_blocks,
                                   .max_rows_per_seq = p->max_rows_per_seq,
                                   .max_context = p->max_context,
                                   .step = head.step,
                                   .host = &out->arrays[i]};
    }
    return rc == TN_OK && at != bytes ? wrong("bytes", bytes, err) : rc;
}
