/* SPDX-License-Identifier: Apache-2.0 */
/* The plugin "shadow": its descriptor, and the reference set's functions as kernels of that device. */
#include <stdlib.h>
#include <string.h>

#include "../../plugins/comm/common/sum.h"
#include "../kernels/members.h"
#include "ref.h"
#include "shadow.h"
#include "tenon/fusions.h"
#include "tenon/noise.h"

TN_PLUGIN_NOTE(.swap_class = TN_CLASS_PIN, .kinds = TN_KIND_DEVICE | TN_KIND_KERNELS,
               .name = "shadow", .vendor = "tests", .version = "1");

static const tn_device_api *api = &shadow_device_api;

/* -- Enqueuing ------------------------------------------------------------------------------------- */

/* Products of few rows. */
static int32_t run_few(void *instance, const tn_launch *l, tn_err *err)
{
    return ref_linear_launch(instance, l, err);
}

static int32_t enqueue(int32_t (*run)(void *, const tn_launch *, tn_err *), const tn_launch *l,
                       tn_err *err)
{
    struct shadow_kernel k = {.run = run, .l = *l, .batch = *l->batch, .arrays = *l->batch->dev};
    void *params[] = {&k};
    tn_kernel_launch launch = {.h = TN_HDR(tn_kernel_launch), .params = params};

    k.quick = run == run_few;
    if (l->op->n_weights > SHADOW_WEIGHTS)
        return tn_err_set(err, TN_E_UNSUPPORTED, "shadow: too many weights");
    for (uint32_t i = 0; i < l->op->n_in; i++)
        k.in[i] = l->in[i];
    for (uint32_t i = 0; i < l->op->n_out; i++)
        k.out[i] = l->out[i];
    for (uint32_t i = 0; i < l->op->n_weights; i++)
        k.weights[i] = l->weights[i];
    if (l->kv)
        k.kv = *l->kv;
    if (l->parts) {
        if (l->parts->n_parts > sizeof k.part / sizeof *k.part)
            return tn_err_set(err, TN_E_UNSUPPORTED, "shadow: too many ranks");
        memcpy(k.part, l->parts->part, l->parts->n_parts * sizeof *k.part);
        k.parts = *l->parts;
    }
    if (!(l->batch->flags & TN_BATCH_CAPTURED) && l->batch->host->first_row[0] != 0)
        return tn_err_set(err, TN_E_INTERNAL, "the host's arrays of a step are not there");
    return api->launch(l->device, l->stream, &launch, err);
}

/* -- Running --------------------------------------------------------------------------------------- */

static void translate_arrays(tn_batch_arrays *a)
{
    const void **fields[] = {(const void **)&a->tokens,     (const void **)&a->positions,
                             (const void **)&a->row_seq,    (const void **)&a->row_slot,
                             (const void **)&a->first_row,  (const void **)&a->context,
                             (const void **)&a->prompt_len, (const void **)&a->block_table,
                             (const void **)&a->logits_row, (const void **)&a->sample,
                             (const void **)&a->bias_ids,   (const void **)&a->bias_values,
                             (const void **)&a->history,    (const void **)&a->sampled,
                             (const void **)&a->logprob,    (const void **)&a->token_row,
                             (const void **)&a->counts};

    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        *fields[i] = shadow_host(*fields[i]);
}

/* What batch.h promises of the rows beyond those that are real. */
static int32_t check_padding(const tn_batch *b, const tn_batch_arrays *a, tn_err *err)
{
    for (uint32_t r = a->counts->n_rows; r < b->n_rows; r++) {
        const int32_t *table = a->block_table + (size_t)r * b->max_blocks;
        if (a->row_slot[r] != -1 || a->context[r] != 0 || a->tokens[r] != 0 ||
            a->positions[r] != 0 || a->row_seq[r] != (int32_t)r || a->token_row[r] != -1 ||
            a->logits_row[r] != (int32_t)r || a->sample[r].temperature != 0 ||
            a->sample[r].n_bias != 0 || a->sample[r].history_len != 0 ||
            a->first_row[r] != (int32_t)r || a->first_row[r + 1] != (int32_t)r + 1)
            return tn_err_set(err, TN_E_INTERNAL, "row %u of %u is no padding", (unsigned)r,
                              (unsigned)b->n_rows);
        for (uint32_t i = 0; i < b->max_blocks; i++)
            if (table[i] != TN_NO_BLOCK)
                return tn_err_set(err, TN_E_INTERNAL, "padding has pages");
    }
    return TN_OK;
}

int32_t shadow_run(const struct shadow_kernel *kernel, tn_err *err)
{
    struct shadow_kernel k = *kernel;
    int32_t rc = TN_OK;

    translate_arrays(&k.arrays);
    for (int i = 0; i < 4; i++) {
        k.in[i] = shadow_host(k.in[i]);
        k.out[i] = shadow_host(k.out[i]);
    }
    for (int i = 0; i < SHADOW_WEIGHTS; i++)
        k.weights[i] = shadow_host(k.weights[i]);
    if (k.batch.flags & TN_BATCH_CAPTURED) {
        rc = check_padding(&k.batch, &k.arrays, err);
        k.batch.n_rows = k.arrays.counts->n_rows;
        k.batch.n_seqs = k.arrays.counts->n_seqs;
        k.batch.n_logits = k.arrays.counts->n_logits;
    }
    if (rc == TN_OK &&
        (k.arrays.counts->n_rows != k.batch.n_rows || k.arrays.counts->n_seqs != k.batch.n_seqs ||
         k.arrays.first_row[k.batch.n_seqs] != (int32_t)k.batch.n_rows))
        rc = tn_err_set(err, TN_E_INTERNAL, "the counts of a step do not fit its arrays");
    k.batch.host = k.batch.dev = &k.arrays;
    k.kv.base = shadow_host(k.kv.base);
    k.l.batch = &k.batch;
    k.l.in = k.in;
    k.l.out = k.out;
    k.l.weights = k.weights;
    k.l.kv = kernel->l.kv ? &k.kv : NULL;
    k.l.workspace = shadow_host(k.l.workspace);
    k.l.state = shadow_host(k.l.state);
    for (uint32_t i = 0; i < k.parts.n_parts; i++)
        k.part[i] = shadow_host(k.part[i]);
    k.parts.part = k.part;
    k.l.parts = kernel->l.parts ? &k.parts : NULL;
    return rc == TN_OK ? k.run(NULL, &k.l, err) : rc;
}

static int32_t run_feed(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_batch_arrays *a = l->batch->dev;
    int32_t *tokens = (int32_t *)(uintptr_t)a->tokens;

    (void)instance;
    (void)err;
    for (uint32_t r = 0; r < l->batch->n_rows; r++)
        if (a->token_row[r] >= 0)
            tokens[r] = a->sampled[a->token_row[r]] > 0 ? a->sampled[a->token_row[r]] : 0;
    return TN_OK;
}

/* -- The set ---------------------------------------------------------------------------------------- */

static double cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    (void)instance;
    (void)op;
    return rows;
}

static int32_t feed_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    (void)op;
    (void)err;
    return TN_OK;
}

#define VARIANT(id, op_name, weights, kv)                                                          \
    static int32_t launch_##id(void *instance, const tn_launch *l, tn_err *err)                    \
    {                                                                                              \
        (void)instance;                                                                            \
        return enqueue(ref_##id##_launch, l, err);                                                 \
    }                                                                                              \
    static const tn_variant variant_##id = {                                                       \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = op_name ".shadow",                                                                 \
        .op = op_name,                                                                             \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT,    \
        .act_dtypes = REF_FLOATS,                                                                  \
        .weight_dtypes = (weights),                                                                \
        .kv_dtypes = (kv),                                                                         \
        .kv_layout = (kv) ? TN_KV_LAYOUT_HND : NULL,                                               \
        .can_run = ref_##id##_check,                                                               \
        .cost_ns = cost_ns,                                                                        \
        .workspace = ref_workspace,                                                                \
        .launch = launch_##id,                                                                     \
    };

REF_OPS(VARIANT)

/* -- Packing: linear on the device, logits on the host; both are cheaper, so both are chosen ------------- */

static uint64_t weight_bytes(const tn_weight *w)
{
    uint64_t n = 1;

    for (uint32_t i = 0; i < w->n_dims; i++)
        n *= w->dims[i];
    return n * tn_dtype_bits(w->dtype) / 8;
}

static uint64_t packed_at(const tn_op *op, uint32_t weight)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < weight; i++)
        at += (weight_bytes(op->weights[i]) + 63) / 64 * 64;
    return at;
}

static int32_t pack_size(void *instance, const tn_op *op, uint64_t *bytes, tn_err *err)
{
    (void)instance;
    (void)err;
    *bytes = packed_at(op, op->n_weights);
    return TN_OK;
}

static int32_t pack(const tn_op *op, void *packed, tn_stream *stream, tn_err *err)
{
    for (uint32_t i = 0; i < op->n_weights; i++) {
        const tn_weight *w = op->weights[i];
        uint64_t row = weight_bytes(w) / w->dims[0];
        for (uint64_t r = 0; r < w->dims[0]; r++) {
            uint8_t *to = (uint8_t *)packed + packed_at(op, i) + r * row;
            const uint8_t *from = (const uint8_t *)w->data + r * w->stride0;
            int32_t rc = TN_OK;
            if (stream)
                rc = api->copy(NULL, stream, to, from, row, TN_COPY_DEVICE_TO_DEVICE, err);
            else
                memcpy(to, from, row);
            if (rc != TN_OK)
                return rc;
        }
    }
    return TN_OK;
}

static int32_t pack_device(void *instance, const tn_op *op, void *packed, tn_stream *stream,
                           tn_err *err)
{
    (void)instance;
    return pack(op, packed, stream, err);
}

static int32_t pack_host(void *instance, const tn_op *op, void *packed, tn_stream *stream,
                         tn_err *err)
{
    (void)instance;
    (void)stream;
    return pack(op, packed, NULL, err);
}

static int32_t launch_packed(int32_t (*run)(void *, const tn_launch *, tn_err *),
                             const tn_launch *l, tn_err *err)
{
    const void *weights[4] = {NULL};
    tn_launch here = *l;

    for (uint32_t i = 0; i < l->op->n_weights; i++)
        weights[i] = (const uint8_t *)l->packed + packed_at(l->op, i);
    here.weights = weights;
    return enqueue(run, &here, err);
}

static int32_t launch_packed_linear(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return launch_packed(ref_linear_launch, l, err);
}

static int32_t launch_packed_logits(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return launch_packed(ref_logits_launch, l, err);
}

/* Who serves few rows only reads canonical weights, which nobody else may pack then. */
static int32_t packed_linear_check(void *instance, const tn_op *op, tn_err *err)
{
    const struct shadow *s = instance;

    if (s->layers || s->few)
        return tn_err_set(err, TN_E_UNSUPPORTED, "others read the weights as they are");
    return ref_linear_check(instance, op, err);
}

static const tn_range few_rows[] = {{"rows", 1, 2, 1}};

static double less_ns(void *instance, const tn_op *op, uint32_t rows)
{
    return cost_ns(instance, op, rows) / 2;
}

#define PACKED(id, op_name, more_flags, check, how)                                                \
    static const tn_variant packed_##id = {                                                        \
        .h = TN_HDR(tn_variant),                                                                   \
        .name = op_name ".shadow.packed",                                                          \
        .op = op_name,                                                                             \
        .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | (more_flags),                  \
        .act_dtypes = REF_FLOATS,                                                                  \
        .weight_dtypes = REF_FLOATS,                                                               \
        .pack_layout = "shadow",                                                                   \
        .can_run = check,                                                                          \
        .cost_ns = less_ns,                                                                        \
        .pack_size = pack_size,                                                                    \
        .pack = how,                                                                               \
        .launch = launch_packed_##id,                                                              \
    };

PACKED(linear, TN_OP_LINEAR, TN_VARIANT_PACK_ON_DEVICE, packed_linear_check, pack_device)
PACKED(logits, TN_OP_LOGITS, 0, ref_logits_check, pack_host)

/* -- A fusion that keeps the cache to itself: no value of its own tells that it touches it ------------------ */

static int32_t append_attention_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    (void)err;
    return op->n_in == 3 && op->n_out == 1 ? TN_OK : TN_E_UNSUPPORTED;
}

static int32_t append_attention_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                                          uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                          tn_err *err)
{
    return ref_workspace(instance, op->members[1], max_rows, max_seqs, max_context, bytes, err);
}

static int32_t launch_append_attention(void *instance, const tn_launch *l, tn_err *err)
{
    const void *kv_in[] = {l->in[1], l->in[2]}, *attention_in[] = {l->in[0], NULL};
    void *kv_out[] = {NULL};
    tn_launch append = *l, attention = *l;
    int32_t rc;

    (void)instance;
    append.op = l->op->members[0];
    append.in = kv_in;
    append.out = kv_out;
    attention.op = l->op->members[1];
    attention.in = attention_in;
    rc = enqueue(ref_kv_append_launch, &append, err);
    return rc == TN_OK ? enqueue(ref_attention_launch, &attention, err) : rc;
}

static const tn_variant variant_append_attention = {
    .h = TN_HDR(tn_variant),
    .name = "append_attention.shadow",
    .op = "shadow.append_attention",
    .equals = "(q, k, v) -> (y): kv = kv_append(k, v); y = attention(q, kv)",
    .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC,
    .act_dtypes = REF_FLOATS,
    .kv_dtypes = REF_FLOATS,
    .kv_layout = TN_KV_LAYOUT_HND,
    .can_run = append_attention_check,
    .cost_ns = less_ns,
    .workspace = append_attention_workspace,
    .launch = launch_append_attention};

/* -- A whole layer for few rows ----------------------------------------------------------------------------- */

/* What launches of the layer hand to each other, whichever layer they do: how many there were, and the same again, so that
 * memory which did not begin with zeros is told from theirs. */
struct layer_state {
    uint64_t launches, again;
};

static atomic_uint_fast64_t most_launches; /* that any state has counted */

static int32_t layer_check(void *instance, const tn_op *op, tn_err *err)
{
    if (!((const struct shadow *)instance)->layers)
        return tn_err_set(err, TN_E_UNSUPPORTED, "does layers only if it is told to");
    return op->n_weights <= SHADOW_WEIGHTS ? TN_OK : TN_E_UNSUPPORTED;
}

static int32_t layer_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                               uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                               tn_err *err)
{
    *bytes = 0;
    for (uint32_t i = 0; i < op->n_members; i++) {
        uint64_t more = 0;
        int32_t rc =
            ref_workspace(instance, op->members[i], max_rows, max_seqs, max_context, &more, err);
        if (rc != TN_OK)
            return rc;
        *bytes = more > *bytes ? more : *bytes;
    }
    return TN_OK;
}

static int32_t run_member(void *arg, const tn_launch *l, tn_err *err)
{
#define RUN(id, op_name, weights, kv)                                                              \
    if (strcmp(l->op->name, op_name) == 0)                                                         \
        return ref_##id##_launch(arg, l, err);
    REF_OPS(RUN)
    return tn_err_set(err, TN_E_INTERNAL, "shadow: a layer with %s", l->op->name);
}

/* On a stream's thread. */
static int32_t run_layer(void *instance, const tn_launch *l, tn_err *err)
{
    struct layer_state *s = l->state;

    if (l->batch->n_rows > 2 || !s || s->again != s->launches)
        return tn_err_set(err, TN_E_INTERNAL, "shadow: a layer of %u rows, state %llu and %llu",
                          (unsigned)l->batch->n_rows, (unsigned long long)(s ? s->launches : 0),
                          (unsigned long long)(s ? s->again : 0));
    s->again = ++s->launches;
    if (s->launches > atomic_load(&most_launches))
        atomic_store(&most_launches, s->launches);
    return members_run(l, run_member, instance, err);
}

static int32_t launch_layer(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return enqueue(run_layer, l, err);
}

static const tn_variant variant_layer = {.h = TN_HDR(tn_variant),
                                         .name = "decoder_layer.shadow",
                                         .op = TN_FUSED_DECODER_LAYER,
                                         .equals = TN_TEXT_DECODER_LAYER(TN_OP_LINEAR),
                                         .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC |
                                                  TN_VARIANT_BATCH_INVARIANT,
                                         .act_dtypes = REF_FLOATS,
                                         .weight_dtypes = REF_FLOATS,
                                         .kv_dtypes = REF_FLOATS,
                                         .kv_layout = TN_KV_LAYOUT_HND,
                                         .ranges = few_rows,
                                         .n_ranges = 1,
                                         .can_run = layer_check,
                                         .cost_ns = less_ns,
                                         .workspace = layer_workspace,
                                         .launch = launch_layer,
                                         .state_bytes = sizeof(struct layer_state)};

/* -- Products of few rows ----------------------------------------------------------------------------------- */

static int32_t few_check(void *instance, const tn_op *op, tn_err *err)
{
    if (!((const struct shadow *)instance)->few)
        return tn_err_set(err, TN_E_UNSUPPORTED, "does products only if it is told to");
    return ref_linear_check(instance, op, err);
}

static int32_t launch_few(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return enqueue(run_few, l, err);
}

static const tn_variant variant_few = {.h = TN_HDR(tn_variant),
                                       .name = "linear.shadow.few",
                                       .op = TN_OP_LINEAR,
                                       .flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC,
                                       .act_dtypes = REF_FLOATS,
                                       .weight_dtypes = REF_FLOATS,
                                       .ranges = few_rows,
                                       .n_ranges = 1,
                                       .can_run = few_check,
                                       .cost_ns = less_ns,
                                       .launch = launch_few};

/* -- A fusion that adds up over ranks ----------------------------------------------------------------------- */

static int32_t parts_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    (void)err;
    return op->n_members == 3 && op->in[0]->dtype == TN_DT_F32 ? TN_OK : TN_E_UNSUPPORTED;
}

/* On a stream's thread: the sum, then the other members as the reference set does them. */
static int32_t run_parts(void *instance, const tn_launch *l, tn_err *err)
{
    const tn_comm_parts *p = l->parts;
    uint64_t width = l->op->in[0]->width, count = l->batch->n_rows * width;
    const void *add_in[] = {l->in[1], NULL}, *norm_in[] = {l->out[0]};
    void *add_out[] = {l->out[0]}, *norm_out[] = {l->out[1]};
    tn_launch add = *l, norm = *l;
    float *h = malloc(count * sizeof *h);
    int32_t rc = TN_E_NOMEM;

    if (!h)
        return rc;
    if (p->each)
        for (uint64_t i = 0; i < count; i++)
            h[i] = ((const float *)p->part[i / p->each])[i];
    else
        comm_sum(h, p->part, p->n_parts, count, TN_DT_F32);
    add.op = l->op->members[1];
    add_in[1] = h;
    add.in = add_in;
    add.out = add_out;
    norm.op = l->op->members[2];
    norm.in = norm_in;
    norm.out = norm_out;
    rc = ref_add_launch(instance, &add, err);
    if (rc == TN_OK)
        rc = ref_rms_norm_launch(instance, &norm, err);
    free(h);
    return rc;
}

static int32_t launch_parts(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return enqueue(run_parts, l, err);
}

static const tn_variant variant_parts = {.h = TN_HDR(tn_variant),
                                         .name = "reduce_add_rms_norm.shadow",
                                         .op = TN_FUSED_REDUCE_ADD_RMS_NORM,
                                         .equals = TN_FUSED_REDUCE_ADD_RMS_NORM_TEXT,
                                         .flags = TN_VARIANT_PARTS | TN_VARIANT_GRAPH_SAFE |
                                                  TN_VARIANT_DETERMINISTIC |
                                                  TN_VARIANT_BATCH_INVARIANT,
                                         .act_dtypes = REF_FLOATS,
                                         .can_run = parts_check,
                                         .cost_ns = cost_ns,
                                         .launch = launch_parts};

/* -- Feeding ----------------------------------------------------------------------------------------- */

static int32_t launch_feed(void *instance, const tn_launch *l, tn_err *err)
{
    if (((const struct shadow *)instance)->feeds)
        return tn_err_set(err, TN_E_INTERNAL, "somebody else feeds");
    return enqueue(run_feed, l, err);
}

static const tn_variant variant_feed = {.h = TN_HDR(tn_variant),
                                        .name = "feed.shadow",
                                        .op = TN_OP_FEED,
                                        .flags = TN_VARIANT_GRAPH_SAFE,
                                        .act_dtypes = REF_FLOATS,
                                        .can_run = feed_check,
                                        .cost_ns = cost_ns,
                                        .launch = launch_feed};

static int32_t run_feeding(void *instance, const tn_launch *l, tn_err *err)
{
    int32_t rc = l->feed ? run_feed(instance, l, err) : TN_OK;

    return rc == TN_OK ? ref_embedding_launch(instance, l, err) : rc;
}

static int32_t feeding_check(void *instance, const tn_op *op, tn_err *err)
{
    if (!((const struct shadow *)instance)->feeds)
        return tn_err_set(err, TN_E_UNSUPPORTED, "feeds only if it is told to");
    return ref_embedding_check(instance, op, err);
}

static int32_t launch_feeding(void *instance, const tn_launch *l, tn_err *err)
{
    (void)instance;
    return enqueue(run_feeding, l, err);
}

static const tn_variant variant_feeding = {.h = TN_HDR(tn_variant),
                                           .name = "embedding.shadow.feeds",
                                           .op = TN_OP_EMBEDDING,
                                           .flags = TN_VARIANT_GRAPH_SAFE |
                                                    TN_VARIANT_DETERMINISTIC |
                                                    TN_VARIANT_BATCH_INVARIANT | TN_VARIANT_FEEDS,
                                           .act_dtypes = REF_FLOATS,
                                           .weight_dtypes = REF_FLOATS,
                                           .can_run = feeding_check,
                                           .cost_ns = less_ns,
                                           .workspace = ref_workspace,
                                           .launch = launch_feeding};

/* -- Dummy weights ------------------------------------------------------------------------------------- */

/* Matrices of float32 alone: other weights come from the host, at the same time. */
static int32_t dummy_check(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (tn_op_int(op, "role", 0) == TN_ROLE_MATRIX && op->out[0]->dtype == TN_DT_F32)
        return TN_OK;
    return tn_err_set(err, TN_E_UNSUPPORTED, "makes matrices of float32");
}

/* On the caller's thread, since the op ends with the call; after all that the stream has to do, which may read the memory
 * that is used again here. */
static int32_t launch_dummy(void *instance, const tn_launch *l, tn_err *err)
{
    float *y = shadow_host(l->out[0]);
    uint64_t seed = (uint64_t)tn_op_int(l->op, "seed", 0), count, row, stride, first;
    int32_t rc = api->stream_sync(l->device, l->stream, err);

    (void)instance;
    if (rc != TN_OK)
        return rc;
    first = (uint64_t)tn_op_int(l->op, "first", 0);
    row = (uint64_t)tn_op_int(l->op, "row", 1);
    stride = (uint64_t)tn_op_int(l->op, "stride", 1);
    count = (uint64_t)tn_op_int(l->op, "count", 0);
    for (uint64_t i = 0; i < count; i++)
        y[i] =
            tn_noise_value(TN_ROLE_MATRIX, tn_noise_bits(seed, first + i / row * stride + i % row));
    return TN_OK;
}

static const tn_variant variant_dummy = {.h = TN_HDR(tn_variant),
                                         .name = "dummy.shadow",
                                         .op = TN_OP_DUMMY,
                                         .act_dtypes = REF_FLOATS,
                                         .can_run = dummy_check,
                                         .cost_ns = cost_ns,
                                         .launch = launch_dummy};

#define ADDRESS(id, op_name, weights, kv) &variant_##id,
static const tn_variant *const variants[] = {&variant_few, /* is measured before who is slower */
                                             REF_OPS(ADDRESS) & variant_feed,
                                             &variant_feeding,
                                             &variant_dummy,
                                             &packed_linear,
                                             &packed_logits,
                                             &variant_append_attention,
                                             &variant_parts,
                                             &variant_layer};

static uint64_t block_bytes(const tn_kv_layer *l)
{
    return 2u * l->n_kv_heads * l->block_tokens * l->head_dim * tn_dtype_bits(l->dtype) / 8;
}

static const tn_kv_layout hnd = {
    .h = TN_HDR(tn_kv_layout), .name = TN_KV_LAYOUT_HND, .block_bytes = block_bytes};
static const tn_kv_layout *const layouts[] = {&hnd};

static const char *depends_on(void *instance, tn_device *device)
{
    const struct shadow *s = instance;

    (void)device;
    return s->library[0] ? s->library : NULL;
}

const tn_kernel_set shadow_kernel_set = {.h = TN_HDR(tn_kernel_set),
                                         .device = "shadow",
                                         .n_variants = sizeof variants / sizeof *variants,
                                         .n_kv_layouts = 1,
                                         .variants = variants,
                                         .kv_layouts = layouts,
                                         .depends_on = depends_on};

/* -- The plugin -------------------------------------------------------------------------------------- */

static int32_t init(const tn_host *host, const tn_kv *config, uint32_t n, void **instance,
                    tn_err *err)
{
    struct shadow *s = host->alloc(host->ctx, sizeof *s, 64);

    if (!s)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    s->host = host;
    s->n_devices = 1;
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(config[i].key, "fail_launch") == 0)
            s->fail_launch = strtoull(config[i].value, NULL, 10);
        if (strcmp(config[i].key, "hang_kernel") == 0)
            s->hang_kernel = strtoull(config[i].value, NULL, 10);
        if (strcmp(config[i].key, "hang_launch") == 0)
            s->hang_launch = strtoull(config[i].value, NULL, 10);
        if (strcmp(config[i].key, "devices") == 0)
            s->n_devices = (uint32_t)strtoul(config[i].value, NULL, 10);
        if (strcmp(config[i].key, "islands") == 0)
            s->islands = strcmp(config[i].value, "true") == 0;
        if (strcmp(config[i].key, "crooked") == 0)
            s->crooked = strcmp(config[i].value, "true") == 0;
        if (strcmp(config[i].key, "layers") == 0)
            s->layers = strcmp(config[i].value, "true") == 0;
        if (strcmp(config[i].key, "few") == 0)
            s->few = strcmp(config[i].value, "true") == 0;
        if (strcmp(config[i].key, "feeds") == 0)
            s->feeds = strcmp(config[i].value, "true") == 0;
        if (strcmp(config[i].key, "library") == 0)
            snprintf(s->library, sizeof s->library, "%s", config[i].value);
        if (strcmp(config[i].key, "expect") != 0)
            continue;
        s->expect_graphs = strstr(config[i].value, "graphs") != NULL;
        s->expect_overlap = strstr(config[i].value, "overlap") != NULL;
        s->expect_layers = strstr(config[i].value, "layers") != NULL;
    }
    *instance = s;
    return TN_OK;
}

static void fini(void *instance)
{
    struct shadow *s = instance;

    if (s && s->expect_layers && atomic_load(&most_launches) < 2) {
        fprintf(stderr, "shadow: no layer found what an earlier one had left\n");
        abort();
    }
    if (s)
        s->host->free(s->host->ctx, s);
}

static const tn_iface ifaces[] = {
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_DEVICE, .vtbl = &shadow_device_api},
    {.h = TN_HDR(tn_iface), .id = TN_IFACE_KERNELS, .vtbl = &shadow_kernel_set},
};

static const tn_plugin plugin = {.h = TN_HDR(tn_plugin),
                                 .name = "shadow",
                                 .vendor = "tests",
                                 .version = "1",
                                 .n_ifaces = 2,
                                 .ifaces = ifaces,
                                 .init = init,
                                 .fini = fini};

const tn_plugin *tn_plugin_query_v1(const tn_host *host, uint32_t host_minor)
{
    (void)host;
    (void)host_minor;
    return &plugin;
}
