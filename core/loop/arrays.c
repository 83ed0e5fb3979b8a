/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/arrays.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

#define ARRAY_ALIGN 64

/* -- Layout -------------------------------------------------------------------------------------------- */

/* Hands out consecutive pieces of a block; with base NULL it only adds up. */
struct carver {
    uint8_t *base;
    uint64_t at;
};

static void *carve(struct carver *c, uint64_t count, uint64_t size)
{
    void *p = c->base ? c->base + c->at : NULL;

    c->at = align_up(c->at + (count ? count : 1) * size, ARRAY_ALIGN);
    return p;
}

/* What every step has. Block tables come last: their size varies most. */
static void carve_fixed(const struct batch_capacity *n, struct carver *c, struct batch_buffers *b,
                        tn_batch_counts **counts)
{
    *counts = carve(c, 1, sizeof **counts);
    b->tokens = carve(c, n->rows, sizeof *b->tokens);
    b->positions = carve(c, n->rows, sizeof *b->positions);
    b->row_seq = carve(c, n->rows, sizeof *b->row_seq);
    b->row_slot = carve(c, n->rows, sizeof *b->row_slot);
    b->token_row = carve(c, n->rows, sizeof *b->token_row);
    b->first_row = carve(c, n->seqs + 1, sizeof *b->first_row);
    b->context = carve(c, n->seqs, sizeof *b->context);
    b->prompt_len = carve(c, n->seqs, sizeof *b->prompt_len);
    b->logits_row = carve(c, n->logits, sizeof *b->logits_row);
    b->sample = carve(c, n->logits, sizeof *b->sample);
    b->block_table = carve(c, n->blocks, sizeof *b->block_table);
}

static void lay_out_input(struct step_arrays *a)
{
    const struct batch_capacity *n = &a->capacity;
    struct carver c = {NULL, 0};
    struct batch_buffers unused;
    tn_batch_counts *counts;

    carve_fixed(n, &c, &unused, &counts);
    a->bias_at = c.at;
    carve(&c, n->bias, sizeof(int32_t));
    a->value_at = c.at;
    carve(&c, n->bias, sizeof(float));
    a->history_at = c.at;
    carve(&c, n->history, sizeof(int32_t));
    a->in_bytes = c.at;
    a->out_bytes = align_up(n->logits * sizeof(int32_t), ARRAY_ALIGN) + n->logits * sizeof(float);
}

static void place_rare(const struct step_arrays *a, uint8_t *base, struct batch_buffers *b)
{
    b->bias_ids = (int32_t *)(base + a->bias_at);
    b->bias_values = (float *)(base + a->value_at);
    b->history = (int32_t *)(base + a->history_at);
}

static float *logprob_of(void *out, uint32_t n_logits)
{
    return (float *)((uint8_t *)out + align_up(n_logits * sizeof(int32_t), ARRAY_ALIGN));
}

static void point_arrays(tn_batch_arrays *to, const struct batch_buffers *b,
                         const tn_batch_counts *counts, void *out, uint32_t n_logits)
{
    *to = (tn_batch_arrays){.h = TN_HDR(tn_batch_arrays),
                            .tokens = b->tokens,
                            .positions = b->positions,
                            .row_seq = b->row_seq,
                            .row_slot = b->row_slot,
                            .first_row = b->first_row,
                            .context = b->context,
                            .prompt_len = b->prompt_len,
                            .block_table = b->block_table,
                            .logits_row = b->logits_row,
                            .sample = b->sample,
                            .bias_ids = b->bias_ids,
                            .bias_values = b->bias_values,
                            .history = b->history,
                            .sampled = out,
                            .logprob = logprob_of(out, n_logits),
                            .token_row = b->token_row,
                            .counts = counts};
}

/* The device's addresses for arrays of these sizes. */
static void point_device(const struct step_arrays *a, const struct batch_capacity *n,
                         tn_batch_arrays *to)
{
    struct carver c = {a->dev_in, 0};
    struct batch_buffers b;
    tn_batch_counts *counts;

    carve_fixed(n, &c, &b, &counts);
    place_rare(a, a->dev_in, &b);
    point_arrays(to, &b, counts, a->dev_out, (uint32_t)n->logits);
}

/* -- Life ---------------------------------------------------------------------------------------------- */

static int32_t host_alloc(struct step_arrays *a, uint64_t bytes, void **out, tn_err *err)
{
    int32_t rc = a->mirrored && a->api->pinned_alloc
                     ? a->api->pinned_alloc(a->device, bytes, out, err)
                 : a->mirrored ? ((*out = mem_aligned((size_t)bytes, ARRAY_ALIGN)) != NULL
                                      ? TN_OK
                                      : err_nomem(err, "the arrays of steps"))
                               : a->api->mem_alloc(a->device, bytes, out, err);

    if (rc == TN_OK)
        ledger_take(a->own_host, bytes);
    return rc;
}

static void host_free(struct step_arrays *a, void *p, uint64_t bytes)
{
    if (!p)
        return;
    if (!a->mirrored)
        a->api->mem_free(a->device, p);
    else if (a->api->pinned_alloc)
        a->api->pinned_free(a->device, p);
    else
        mem_free(p);
    ledger_give(a->own_host, bytes);
}

static int32_t device_alloc(struct step_arrays *a, uint64_t bytes, void **out, tn_err *err)
{
    int32_t rc = a->api->mem_alloc(a->device, bytes, out, err);

    if (rc == TN_OK)
        ledger_take(a->own_device, bytes);
    return rc;
}

static void device_free(struct step_arrays *a, void *p, uint64_t bytes)
{
    if (!p)
        return;
    a->api->mem_free(a->device, p);
    ledger_give(a->own_device, bytes);
}

/* Makes that ready; a device that cannot do it copies as always. */
static bool copies_few(const struct step_arrays *a)
{
    return a->mirrored && a->api->pinned_alloc && TN_HAS(tn_device_api, a->api, copy_few) &&
           a->api->copy_few && a->api->copy_few(a->device, NULL, NULL, 0, NULL) == TN_OK;
}

int32_t step_arrays_init(struct step_arrays *a, const struct batch_capacity *capacity,
                         const tn_device_api *api, tn_device *device, const tn_device_info *info,
                         const char *place, struct ledger *ledger, tn_err *err)
{
    int32_t rc;

    *a = (struct step_arrays){.api = api, .device = device, .capacity = *capacity};
    a->mirrored = !(info->flags & TN_DEVICE_HOST_MEMORY);
    a->n_slots = a->mirrored ? STEP_SLOTS : 1;
    a->few = copies_few(a);
    lay_out_input(a);
    rc = ledger_owner(ledger, "step arrays", place, &a->own_device, err);
    if (rc == TN_OK && a->mirrored)
        rc = ledger_owner(ledger, "step arrays", "host", &a->own_host, err);
    else
        a->own_host = a->own_device;
    for (uint32_t i = 0; i < a->n_slots && rc == TN_OK; i++) {
        rc = host_alloc(a, a->in_bytes, &a->slots[i].in, err);
        if (rc == TN_OK)
            rc = host_alloc(a, a->out_bytes, &a->slots[i].out, err);
    }
    if (rc == TN_OK && a->mirrored)
        rc = device_alloc(a, a->in_bytes, &a->dev_in, err);
    if (rc == TN_OK && a->mirrored)
        rc = device_alloc(a, a->out_bytes, &a->dev_out, err);
    if (rc != TN_OK)
        step_arrays_release(a);
    return rc;
}

void step_arrays_release(struct step_arrays *a)
{
    if (!a->api)
        return;
    for (uint32_t i = 0; i < a->n_slots; i++) {
        host_free(a, a->slots[i].in, a->in_bytes);
        host_free(a, a->slots[i].out, a->out_bytes);
    }
    device_free(a, a->dev_in, a->in_bytes);
    device_free(a, a->dev_out, a->out_bytes);
    *a = (struct step_arrays){0};
}

void step_arrays_bytes(const struct sched *s, const tn_device_info *info, uint64_t *host,
                       uint64_t *device)
{
    struct step_arrays a = {.capacity = batch_capacity(s)};
    bool mirrored = !(info->flags & TN_DEVICE_HOST_MEMORY);

    lay_out_input(&a);
    *device = a.in_bytes + a.out_bytes;
    *host = mirrored ? STEP_SLOTS * *device : 0;
}

/* -- Filling ------------------------------------------------------------------------------------------- */

static uint32_t widest_table(const struct step_arrays *a)
{
    return (uint32_t)(a->capacity.blocks / a->capacity.seqs);
}

static struct batch_capacity padded(const struct step_arrays *a, uint32_t bucket)
{
    return (struct batch_capacity){.rows = bucket,
                                   .seqs = bucket,
                                   .logits = bucket,
                                   .blocks = (uint64_t)bucket * widest_table(a)};
}

/* Lays out the slot's arrays of these sizes in its block. */
static void lay_out(struct step_arrays *a, struct step_slot *t, const struct batch_capacity *n)
{
    struct carver c = {t->in, 0};

    carve_fixed(n, &c, &t->buffers, &t->counts);
    place_rare(a, t->in, &t->buffers);
    t->bytes = c.at;
    t->sampled = t->out;
    t->logprob = logprob_of(t->out, (uint32_t)n->logits);
    if (a->mirrored)
        point_device(a, n, &t->dev);
}

/* Rows that touch nothing, as batch.h defines them. */
static void pad(struct step_slot *s, const struct batch_capacity *n, uint32_t from)
{
    uint64_t stride = n->blocks / n->seqs;
    struct batch_buffers *b = &s->buffers;

    for (uint32_t i = from; i < n->rows; i++) {
        b->tokens[i] = 0;
        b->positions[i] = 0;
        b->row_seq[i] = (int32_t)i;
        b->row_slot[i] = -1;
        b->token_row[i] = SCHED_TOKEN_KNOWN;
        b->context[i] = 0;
        b->prompt_len[i] = 0;
        b->logits_row[i] = (int32_t)i;
        b->sample[i] = (tn_sample_row){.top_p = 1, .repetition_penalty = 1};
        b->first_row[i + 1] = (int32_t)i + 1;
        for (uint64_t k = 0; k < stride; k++)
            b->block_table[i * stride + k] = TN_NO_BLOCK;
    }
}

static void count(struct step_slot *s, const struct step_arrays *a,
                  const struct batch_capacity *sizes)
{
    const tn_batch *b = &s->batch;

    *s->counts = (tn_batch_counts){.n_rows = b->n_rows,
                                   .n_seqs = b->n_seqs,
                                   .n_logits = b->n_logits,
                                   .max_rows_per_seq = b->max_rows_per_seq,
                                   .max_context = b->max_context};
    for (uint32_t i = 0; i < b->n_seqs; i++)
        s->counts->sum_context += (uint32_t)s->buffers.context[i];
    s->n_logits = b->n_logits;
    point_arrays(&s->host, &s->buffers, s->counts, s->out, (uint32_t)sizes->logits);
    s->batch.host = &s->host;
    s->batch.dev = a->mirrored ? &s->dev : &s->host;
}

struct step_slot *step_arrays_fill(struct step_arrays *a, uint32_t slot, const struct sched *s,
                                   const struct sched_step *step, uint32_t bucket)
{
    struct step_slot *t = &a->slots[slot];
    struct batch_capacity n = {.rows = step->n_rows,
                               .seqs = step->n_seqs,
                               .logits = step->n_logits,
                               .blocks = (uint64_t)step->n_seqs * step->max_blocks};

    if (bucket)
        n = padded(a, bucket);
    lay_out(a, t, &n);
    t->n_bias = step->n_bias;
    t->n_history = step->n_history;
    t->n_unknown = batch_fill(s, step, bucket ? UINT32_MAX : 0, &t->buffers, &t->host, &t->batch);
    if (bucket)
        pad(t, &n, step->n_rows);
    count(t, a, &n);
    return t;
}

/* How many biases and how much history the samplers of a batch point to. */
static void count_rare(const tn_batch *b, struct batch_capacity *n)
{
    for (uint32_t i = 0; i < b->n_logits; i++) {
        const tn_sample_row *r = &b->host->sample[i];
        if (r->n_bias && r->first_bias + r->n_bias > n->bias)
            n->bias = r->first_bias + r->n_bias;
        if (r->history_len && r->first_history + r->history_len > n->history)
            n->history = r->first_history + r->history_len;
    }
}

static bool fits(const struct step_arrays *a, const tn_batch *b, const struct batch_capacity *n)
{
    const struct batch_capacity *most = &a->capacity;

    return n->rows <= most->rows && n->seqs <= most->seqs && n->logits <= most->logits &&
           b->max_blocks <= widest_table(a) && n->bias <= most->bias && n->history <= most->history;
}

static void copy_rare(struct step_slot *t, const tn_batch_arrays *from)
{
    if (t->n_bias) {
        memcpy(t->buffers.bias_ids, from->bias_ids, t->n_bias * sizeof *from->bias_ids);
        memcpy(t->buffers.bias_values, from->bias_values, t->n_bias * sizeof *from->bias_values);
    }
    if (t->n_history)
        memcpy(t->buffers.history, from->history, t->n_history * sizeof *from->history);
}

static void copy_fixed(struct step_slot *t, const tn_batch *b, uint32_t stride)
{
    const tn_batch_arrays *from = b->host;
    struct batch_buffers *to = &t->buffers;

    memcpy(to->tokens, from->tokens, b->n_rows * sizeof *to->tokens);
    memcpy(to->positions, from->positions, b->n_rows * sizeof *to->positions);
    memcpy(to->row_seq, from->row_seq, b->n_rows * sizeof *to->row_seq);
    memcpy(to->row_slot, from->row_slot, b->n_rows * sizeof *to->row_slot);
    for (uint32_t i = 0; i < b->n_rows; i++)
        to->token_row[i] = SCHED_TOKEN_KNOWN;
    memcpy(to->first_row, from->first_row, (b->n_seqs + 1) * sizeof *to->first_row);
    memcpy(to->context, from->context, b->n_seqs * sizeof *to->context);
    memcpy(to->prompt_len, from->prompt_len, b->n_seqs * sizeof *to->prompt_len);
    if (b->n_logits) {
        memcpy(to->logits_row, from->logits_row, b->n_logits * sizeof *to->logits_row);
        memcpy(to->sample, from->sample, b->n_logits * sizeof *to->sample);
    }
    for (uint32_t i = 0; i < b->n_seqs; i++) {
        int32_t *row = to->block_table + (size_t)i * stride;
        memcpy(row, from->block_table + (size_t)i * b->max_blocks, b->max_blocks * sizeof *row);
        for (uint32_t k = b->max_blocks; k < stride; k++)
            row[k] = TN_NO_BLOCK;
    }
}

struct step_slot *step_arrays_adopt(struct step_arrays *a, uint32_t slot, const tn_batch *batch,
                                    uint32_t bucket)
{
    struct step_slot *t = &a->slots[slot];
    struct batch_capacity n = {.rows = batch->n_rows,
                               .seqs = batch->n_seqs,
                               .logits = batch->n_logits,
                               .blocks = (uint64_t)batch->n_seqs * batch->max_blocks};

    count_rare(batch, &n);
    if (!fits(a, batch, &n))
        return NULL;
    t->n_bias = n.bias;
    t->n_history = n.history;
    if (bucket)
        n = padded(a, bucket);
    lay_out(a, t, &n);
    t->batch = *batch;
    t->batch.max_blocks = (uint32_t)(n.blocks / n.seqs);
    t->n_unknown = 0;
    copy_fixed(t, batch, t->batch.max_blocks);
    copy_rare(t, batch->host);
    if (bucket)
        pad(t, &n, batch->n_rows);
    count(t, a, &n);
    return t;
}

const tn_batch *step_arrays_model(struct step_arrays *a, uint32_t block_tokens, uint32_t bucket,
                                  uint32_t max_context)
{
    struct step_slot *t = &a->model;
    struct batch_capacity n = padded(a, bucket);

    point_device(a, &n, &t->dev);
    t->batch = (tn_batch){.h = TN_HDR(tn_batch),
                          .n_rows = bucket,
                          .n_seqs = bucket,
                          .n_logits = bucket,
                          .block_tokens = block_tokens,
                          .max_blocks = widest_table(a),
                          .max_rows_per_seq = 1,
                          .max_context = max_context,
                          .flags = TN_BATCH_CAPTURED,
                          .dev = &t->dev};
    return &t->batch;
}

const struct step_slot *step_arrays_blank(struct step_arrays *a, uint32_t bucket)
{
    struct step_slot *t = &a->slots[0];
    struct batch_capacity n = padded(a, bucket);

    lay_out(a, t, &n);
    t->n_bias = t->n_history = 0;
    t->buffers.first_row[0] = 0;
    pad(t, &n, 0);
    *t->counts = (tn_batch_counts){.max_rows_per_seq = 1};
    return t;
}

/* -- Moving -------------------------------------------------------------------------------------------- */

#define FEW_BYTES (64 * 1024) /* more are copied faster than they are begun */

/* Copies that are to be made at once: steps follow each other closely, so that what a copy makes them wait counts. */
struct pieces {
    tn_copy_piece few[TN_COPY_PIECES];
    uint32_t n;
};

/* One of many bytes, or on a device that does not copy few, is enqueued by itself. */
static int32_t add(struct step_arrays *a, struct pieces *p, tn_stream *stream, tn_copy_piece piece,
                   enum tn_copy_kind kind, tn_err *err)
{
    if (piece.bytes == 0)
        return TN_OK;
    if (!a->few || piece.bytes > FEW_BYTES)
        return a->api->copy(a->device, stream, piece.dst, piece.src, piece.bytes, kind, err);
    assert(p->n < TN_COPY_PIECES);
    p->few[p->n++] = piece;
    return TN_OK;
}

static int32_t add_sent(struct step_arrays *a, struct pieces *p, const struct step_slot *slot,
                        tn_stream *stream, tn_err *err)
{
    const struct {
        uint64_t at, bytes;
    } parts[] = {{0, slot->bytes},
                 {a->bias_at, slot->n_bias * sizeof(int32_t)},
                 {a->value_at, slot->n_bias * sizeof(float)},
                 {a->history_at, slot->n_history * sizeof(int32_t)}};
    int32_t rc = TN_OK;

    for (size_t i = 0; i < sizeof parts / sizeof *parts && rc == TN_OK; i++)
        rc = add(a, p, stream,
                 (tn_copy_piece){(uint8_t *)a->dev_in + parts[i].at,
                                 (uint8_t *)slot->in + parts[i].at, parts[i].bytes},
                 TN_COPY_HOST_TO_DEVICE, err);
    return rc;
}

static int32_t add_fetched(struct step_arrays *a, struct pieces *p, const struct step_slot *slot,
                           tn_stream *stream, tn_err *err)
{
    uint64_t bytes = (uint64_t)((uint8_t *)(slot->logprob + slot->n_logits) - (uint8_t *)slot->out);

    if (slot->n_logits == 0)
        return TN_OK;
    return add(a, p, stream, (tn_copy_piece){slot->out, a->dev_out, bytes}, TN_COPY_DEVICE_TO_HOST,
               err);
}

int32_t step_arrays_move(struct step_arrays *a, const struct step_slot *from,
                         const struct step_slot *to, tn_stream *stream, tn_err *err)
{
    struct pieces p = {.n = 0};
    int32_t rc = TN_OK;

    if (!a->mirrored)
        return TN_OK;
    if (from)
        rc = add_fetched(a, &p, from, stream, err);
    if (to && rc == TN_OK)
        rc = add_sent(a, &p, to, stream, err);
    return rc == TN_OK && p.n > 0 ? a->api->copy_few(a->device, stream, p.few, p.n, err) : rc;
}
