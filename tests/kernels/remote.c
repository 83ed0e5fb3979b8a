/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a variant on a device that has memory of its own: everything it reads is copied there, everything it may
 * write is poisoned, guarded, and copied back. One thread.
 */
#include "remote.h"
#include "tenon/kv_feedback.h"

#define GUARD 256 /* bytes watched behind every buffer */
#define POISON 0xff
#define MAX_BLOCKS 256

struct remote {
    struct kit *k;
    const struct plug *p;
    void *blocks[MAX_BLOCKS];
    uint32_t n;
};

static void *device_alloc(struct remote *r, uint64_t bytes)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_uint_lt(r->n, MAX_BLOCKS);
    ck_assert_ok(r->p->devices->mem_alloc(r->p->device, bytes ? bytes : 1, &r->blocks[r->n], &err),
                 &err);
    return r->blocks[r->n++];
}

static void copy(struct remote *r, void *dst, const void *src, uint64_t bytes, uint32_t kind)
{
    tn_err err = TN_ERR_INIT;

    if (!bytes)
        return;
    ck_assert_ok(r->p->devices->copy(r->p->device, r->p->stream, dst, src, bytes, kind, &err),
                 &err);
    ck_assert_ok(r->p->devices->stream_sync(r->p->device, r->p->stream, &err), &err);
}

/* A copy on the device of `bytes` at `src`; NULL of NULL. */
static void *upload(struct remote *r, const void *src, uint64_t bytes)
{
    void *d;

    if (!src)
        return NULL;
    d = device_alloc(r, bytes);
    copy(r, d, src, bytes, TN_COPY_HOST_TO_DEVICE);
    return d;
}

/* The tables of keys, which those of values follow, as devices have them. */
static void upload_feedback(struct remote *r, tn_kv_layer *kv)
{
    uint64_t dim = kv->head_dim, n = 2 * (uint64_t)kv->n_kv_heads;
    uint64_t table = TN_KV_FEEDBACK_BYTES(dim) / sizeof(uint16_t);
    uint16_t *packed = malloc(n * table * sizeof *packed);

    ck_assert_ptr_nonnull(packed);
    for (uint64_t h = 0; h < n; h++)
        tn_kv_feedback_pack(kv->k_feedback + h * dim * dim, dim, packed + h * table);
    kv->k_feedback_f16 = upload(r, packed, n * table * sizeof *packed);
    kv->v_feedback_f16 = kv->k_feedback_f16 + n / 2 * table;
    kv->k_feedback = kv->v_feedback = NULL;
    free(packed);
}

/* Poisoned memory of the device with a guard behind it. */
static void *guarded(struct remote *r, uint64_t bytes)
{
    tn_err err = TN_ERR_INIT;
    void *d = device_alloc(r, bytes + GUARD);

    ck_assert_ok(r->p->devices->fill(r->p->device, r->p->stream, d, POISON, bytes + GUARD, &err),
                 &err);
    return d;
}

/* Zeros with a guard behind them; NULL for none. */
static void *state(struct remote *r, uint64_t bytes)
{
    void *d = bytes ? guarded(r, bytes) : NULL;
    tn_err err = TN_ERR_INIT;

    if (d)
        ck_assert_ok(r->p->devices->fill(r->p->device, r->p->stream, d, 0, bytes, &err), &err);
    return d;
}

/* The content of guarded memory, after a look at its guard. */
static void *fetch(struct remote *r, const void *d, uint64_t bytes, const char *variant,
                   const char *what)
{
    unsigned char *h = kit_alloc(r->k, bytes + GUARD);

    copy(r, h, d, bytes + GUARD, TN_COPY_DEVICE_TO_HOST);
    for (uint64_t i = 0; i < GUARD; i++)
        expect(h[bytes + i] == POISON, "%s: wrote %llu bytes past its %s", variant,
               (unsigned long long)i + 1, what);
    return h;
}

/* -- The step ------------------------------------------------------------------------------------------ */

static void upload_batch(struct remote *r, const tn_batch *b, tn_batch *out, tn_batch_arrays *dev)
{
    const tn_batch_arrays *a = b->host;
    uint64_t rows = b->n_rows, seqs = b->n_seqs, n_bias = 0, n_history = 0;
    tn_batch_counts counts = {.n_rows = b->n_rows,
                              .n_seqs = b->n_seqs,
                              .n_logits = b->n_logits,
                              .max_rows_per_seq = b->max_rows_per_seq,
                              .max_context = b->max_context};

    for (uint64_t i = 0; i < seqs; i++)
        counts.sum_context += (uint64_t)a->context[i];
    for (uint32_t i = 0; i < b->n_logits; i++) {
        const tn_sample_row *s = &a->sample[i];
        if (s->n_bias && s->first_bias + s->n_bias > n_bias)
            n_bias = s->first_bias + s->n_bias;
        if (s->history_len && s->first_history + s->history_len > n_history)
            n_history = s->first_history + s->history_len;
    }
    *dev = *a;
    dev->tokens = upload(r, a->tokens, rows * 4);
    dev->positions = upload(r, a->positions, rows * 4);
    dev->row_seq = upload(r, a->row_seq, rows * 4);
    dev->row_slot = upload(r, a->row_slot, rows * 8);
    dev->first_row = upload(r, a->first_row, (seqs + 1) * 4);
    dev->context = upload(r, a->context, seqs * 4);
    dev->prompt_len = upload(r, a->prompt_len, seqs * 4);
    dev->block_table = upload(r, a->block_table, seqs * b->max_blocks * 4);
    dev->logits_row = upload(r, a->logits_row, b->n_logits * 4);
    dev->sample = upload(r, a->sample, b->n_logits * sizeof *a->sample);
    dev->bias_ids = upload(r, a->bias_ids, n_bias * 4);
    dev->bias_values = upload(r, a->bias_values, n_bias * 4);
    dev->history = upload(r, a->history, n_history * 4);
    dev->sampled = upload(r, a->sampled, rows * 4);
    dev->logprob = upload(r, a->logprob, rows * 4);
    dev->token_row = upload(r, a->token_row, rows * 4);
    dev->counts = upload(r, &counts, sizeof counts);
    *out = *b;
    out->dev = dev;
}

static void download_batch(struct remote *r, const tn_batch *b, const tn_batch_arrays *dev)
{
    const tn_batch_arrays *a = b->host;

    copy(r, (void *)a->tokens, dev->tokens, b->n_rows * 4, TN_COPY_DEVICE_TO_HOST);
    copy(r, a->sampled, dev->sampled, b->n_rows * 4, TN_COPY_DEVICE_TO_HOST);
    if (a->logprob)
        copy(r, a->logprob, dev->logprob, b->n_rows * 4, TN_COPY_DEVICE_TO_HOST);
}

/* Packed weights on the device, or NULL. */
static void *pack(struct remote *r, const tn_variant *v, const tn_op *op)
{
    tn_err err = TN_ERR_INIT;
    uint64_t bytes = 0;
    void *host;

    if (!v->pack_layout)
        return NULL;
    ck_assert_msg(!(v->flags & TN_VARIANT_PACK_ON_DEVICE), "%s packs on the device", v->name);
    ck_assert_ok(v->pack_size(r->p->instance, op, &bytes, &err), &err);
    host = kit_alloc(r->k, bytes);
    ck_assert_ok(v->pack(r->p->instance, op, host, r->p->stream, &err), &err);
    return upload(r, host, bytes);
}

static uint64_t weight_bytes(const tn_weight *w)
{
    return w->dims[0] * w->stride0;
}

/* Launches at once, or, every other time where the variant promises to bear it, captured and then replayed. */
static void launch(struct remote *r, const tn_variant *v, const tn_launch *l)
{
    static uint32_t count;
    const tn_device_api *api = r->p->devices;
    tn_device *d = r->p->device;
    tn_graph *graph = NULL;
    tn_err err = TN_ERR_INIT;
    bool captured = api->capture_begin && (v->flags & TN_VARIANT_GRAPH_SAFE) && count++ % 2;

    if (captured)
        ck_assert_ok(api->capture_begin(d, l->stream, &err), &err);
    for (int i = 0; i < (l->state ? STATE_LAUNCHES : 1); i++)
        ck_assert_ok(v->launch(r->p->instance, l, &err), &err);
    if (captured) {
        ck_assert_ok(api->capture_end(d, l->stream, &graph, &err), &err);
        ck_assert_ok(api->graph_launch(d, graph, l->stream, &err), &err);
    }
    ck_assert_ok(api->stream_sync(d, l->stream, &err), &err);
    if (graph)
        api->graph_free(d, graph);
}

void run_remote(struct kit *k, const struct plug *p, const tn_variant *v, const tn_op *op,
                const tn_batch *b, struct env *e)
{
    const void *in[TN_OP_MAX_VALUES] = {0}, *weights[TN_OP_MAX_VALUES * TN_OP_MAX_MEMBERS] = {0};
    void *out[TN_OP_MAX_VALUES] = {0};
    struct remote r = {.k = k, .p = p};
    tn_batch_arrays dev;
    tn_batch batch;
    tn_err err = TN_ERR_INIT;
    uint64_t work = 0;
    tn_kv_layer kv;
    const void *part[MAX_PARTS];
    tn_comm_parts parts = {TN_HDR(tn_comm_parts), e->n_parts ? part : in,
                           e->n_parts ? e->n_parts : 1, 0, e->each};
    tn_launch l = {.h = TN_HDR(tn_launch), .op = op, .batch = &batch, .in = in, .out = out};

    for (uint32_t i = 0; i < e->n_parts; i++)
        part[i] = upload(&r, e->part[i], value_bytes(op->in[0], b));
    l.feed = e->feed;
    l.parts = v->flags & TN_VARIANT_PARTS ? &parts : NULL;
    upload_batch(&r, b, &batch, &dev);
    for (uint32_t i = 0; i < op->n_in; i++)
        if (op->in[i]->kind != TN_VALUE_KV)
            in[i] = upload(&r, e->data[op->in[i]->id], value_bytes(op->in[i], b));
    for (uint32_t i = 0; i < op->n_out; i++)
        if (op->out[i]->kind != TN_VALUE_KV)
            out[i] = guarded(&r, value_bytes(op->out[i], b));
    for (uint32_t i = 0; i < op->n_weights; i++)
        weights[i] = upload(&r, op->weights[i]->data, weight_bytes(op->weights[i]));
    l.packed = pack(&r, v, op);
    l.weights = v->pack_layout ? NULL : weights;
    if (v->workspace)
        ck_assert_ok(
            v->workspace(p->instance, op, b->n_rows, b->n_seqs, b->max_context, &work, &err), &err);
    l.workspace = guarded(&r, work);
    l.state = state(&r, v->state_bytes);
    if (v->kv_dtypes) {
        kv = *e->kv;
        kv.base = upload(&r, kv.base, kv_bytes(&kv));
        kv.k_scale = upload(&r, kv.k_scale, kv.n_kv_heads * sizeof(float));
        kv.v_scale = upload(&r, kv.v_scale, kv.n_kv_heads * sizeof(float));
        kv.k_center =
            upload(&r, kv.k_center, (uint64_t)kv.n_kv_heads * kv.head_dim * sizeof(float));
        if (kv.k_feedback)
            upload_feedback(&r, &kv);
        l.kv = &kv;
    }
    l.stream = p->stream;
    l.device = p->device;
    l.tp_size = 1;
    batch.host = NULL; /* what a captured step would not have */
    launch(&r, v, &l);
    fetch(&r, l.workspace, work, v->name, "workspace");
    if (l.state)
        fetch(&r, l.state, v->state_bytes, v->name, "state");
    for (uint32_t i = 0; i < op->n_out; i++)
        if (out[i])
            e->data[op->out[i]->id] =
                fetch(&r, out[i], value_bytes(op->out[i], b), v->name, "output");
    if (v->kv_dtypes)
        copy(&r, e->kv->base, kv.base, kv_bytes(&kv), TN_COPY_DEVICE_TO_HOST);
    download_batch(&r, b, &dev);
    while (r.n > 0)
        p->devices->mem_free(p->device, r.blocks[--r.n]);
}
