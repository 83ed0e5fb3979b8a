/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention: cutting a step into items, and merging what they find. Any thread.
 *
 * An item is a block of rows of one sequence for one kv head: the queries of all heads that share it. It goes
 * through the chunks of its context (attend.h) in ascending order, keeping a running softmax (Milakov and
 * Gimelshein 2018): maximum, sum, and mean not yet divided. When a step has fewer items than would keep all
 * workers busy (decoding a few long sequences), chunks become items of their own, and are merged afterwards by
 * the same operations in the same order.
 */
#include "attention.h"

#include <math.h>
#include <string.h>

#include "attend.h"
#include "check.h"
#include "share.h"

#define BLOCK_QUERIES 64 /* queries of an item, if the group of heads is not larger */
#define ALIGN 64u

#define MERGE_NS 0.3 /* nanoseconds per float that a chunk leaves, roughly */

/* Items per worker below which chunks are split. */
#define SPLIT_BELOW 2

/* -- Shapes ---------------------------------------------------------------------------------------- */

struct shape {
    uint32_t dim, kv_heads, group; /* group: heads per kv head */
    uint32_t padded;               /* dim of a vector in scratch (attend.h) */
    uint32_t block_rows, block_queries;
    float scale, softcap;
    int64_t window;
};

static void shape_of(const tn_op *op, struct shape *s)
{
    s->dim = (uint32_t)tn_op_int(op, "head_dim", 0);
    s->padded = (s->dim + ATTEND_ALIGN - 1) / ATTEND_ALIGN * ATTEND_ALIGN;
    s->kv_heads = (uint32_t)tn_op_int(op, "n_kv_heads", 0);
    s->group = (uint32_t)tn_op_int(op, "n_heads", 0) / s->kv_heads;
    s->block_rows = s->group < BLOCK_QUERIES ? BLOCK_QUERIES / s->group : 1;
    s->block_queries = s->block_rows * s->group;
    s->scale = (float)tn_op_real(op, "scale", 1.0);
    s->softcap = (float)tn_op_real(op, "softcap", 0.0);
    s->window = tn_op_int(op, "window", 0);
}

int32_t attention_can_run(const tn_op *op, tn_err *err)
{
    int64_t heads = tn_op_int(op, "n_heads", 0), kv_heads = tn_op_int(op, "n_kv_heads", 0);
    int64_t dim = tn_op_int(op, "head_dim", 0);

    if (!check_form(op, 2, 1, 0, 0))
        return check_require(op, 0, "needs float32 queries, a cache and a float32 output", err);
    if (heads <= 0 || kv_heads <= 0 || heads % kv_heads || dim <= 0 || dim > 1024)
        return check_require(op, 0, "head_dim must be 1 to 1024", err);
    return check_require(op,
                         op->in[0]->width == (uint64_t)(heads * dim) &&
                             op->out[0]->width == (uint64_t)(heads * dim),
                         "query and output must be n_heads * head_dim wide", err);
}

double attention_cost_ns(const struct cpu_instance *in, const tn_op *op, uint32_t rows)
{
    /* Contexts are not known here; 512 keys per row is a guess that is the same for all variants. */
    return 1000.0 + (double)rows * 512.0 * (double)op->in[0]->width * 0.02 / share_workers(in);
}

/* -- Scratch --------------------------------------------------------------------------------------- */

/* What one worker works in: arrays for the block_queries queries of an item. */
struct scratch {
    const unsigned char **keys;              /* [ATTEND_CHUNK] */
    float *q, *score, *block, *mean, *total; /* total: the running mean */
    float *largest, *sum, *total_largest, *total_sum;
    uint32_t *first, *last;
};

/* The next `bytes` of `base`, or NULL if that is NULL; `at` is moved on either way. */
static void *take(unsigned char *base, uint64_t *at, uint64_t bytes)
{
    void *p = base ? base + *at : NULL;

    *at += (bytes + ALIGN - 1) / ALIGN * ALIGN;
    return p;
}

/* Cuts a worker's scratch out of `base` (NULL: only tells the size); returns its size in bytes. */
static uint64_t scratch_at(const struct shape *s, unsigned char *base, struct scratch *x)
{
    uint64_t n = s->block_queries, vectors = n * s->padded * sizeof(float), at = 0;

    x->keys = take(base, &at, ATTEND_CHUNK * sizeof *x->keys);
    x->q = take(base, &at, vectors);
    x->score = take(base, &at, n * ATTEND_CHUNK * sizeof(float));
    x->block = take(base, &at, (uint64_t)ATTEND_BLOCK * s->padded * sizeof(float));
    x->mean = take(base, &at, vectors);
    x->total = take(base, &at, vectors);
    x->largest = take(base, &at, n * sizeof(float));
    x->sum = take(base, &at, n * sizeof(float));
    x->total_largest = take(base, &at, n * sizeof(float));
    x->total_sum = take(base, &at, n * sizeof(float));
    x->first = take(base, &at, n * sizeof(uint32_t));
    x->last = take(base, &at, n * sizeof(uint32_t));
    return at;
}

/* Rows [row, row + n_rows) of sequence `seq`. */
struct block {
    uint32_t seq, row, n_rows;
};

/* Floats that a split chunk leaves for the merge: maximum, sum and mean of each query of a group. */
static uint64_t partial_floats(const struct shape *s)
{
    return (uint64_t)s->group * (s->padded + 2);
}

static uint64_t chunks_of(uint64_t context)
{
    return (context + ATTEND_CHUNK - 1) / ATTEND_CHUNK;
}

uint64_t attention_workspace(const struct cpu_instance *in, const tn_op *op, uint32_t max_rows,
                             uint32_t max_context)
{
    struct shape s;
    struct scratch unused;
    uint64_t workers = share_workers(in), split;

    shape_of(op, &s);
    split = (uint64_t)max_rows * s.kv_heads;
    if (split > SPLIT_BELOW * workers)
        split = SPLIT_BELOW * workers;
    return max_rows * sizeof(struct block) + workers * scratch_at(&s, NULL, &unused) +
           split * chunks_of(max_context) * partial_floats(&s) * sizeof(float) + 3 * ALIGN;
}

/* -- Items ----------------------------------------------------------------------------------------- */

struct attention {
    const struct isa *isa;
    const tn_launch *l;
    struct shape s;
    struct block *blocks;
    uint32_t n_blocks;
    unsigned char *scratch;
    float *partial;      /* [item][chunk][partial_floats]; NULL: chunks are not split */
    uint32_t max_chunks; /* of an item */
};

static void worker_scratch(const struct attention *a, uint32_t worker, struct scratch *x)
{
    uint64_t size = scratch_at(&a->s, NULL, x);

    scratch_at(&a->s, a->scratch + worker * size, x);
}

/* Position that a row attends from and to, inclusive. */
static int64_t row_last(const struct attention *a, uint32_t row)
{
    return a->l->batch->dev->positions[row];
}

static int64_t row_first(const struct attention *a, uint32_t row)
{
    int64_t first = a->s.window > 0 ? row_last(a, row) - a->s.window + 1 : 0;

    return first > 0 ? first : 0;
}

/* Copies the queries of a block's rows for one kv head to x->q. */
static void gather_queries(const struct attention *a, const struct block *b, uint32_t head,
                           const struct scratch *x)
{
    uint64_t width = a->l->op->in[0]->width, dim = a->s.dim, padded = a->s.padded;

    for (uint32_t i = 0; i < b->n_rows * a->s.group; i++) {
        uint64_t row = b->row + i / a->s.group, h = head * a->s.group + i % a->s.group;
        float *q = x->q + i * padded;
        memcpy(q, (const float *)a->l->in[0] + row * width + h * dim, dim * sizeof *q);
        memset(q + dim, 0, (padded - dim) * sizeof *q);
    }
}

/* Points x->keys at keys [begin, end) of the chunk that starts at position `from`. */
static void find_keys(const struct attention *a, uint32_t seq, uint32_t head, int64_t from,
                      uint32_t begin, uint32_t end, const struct scratch *x)
{
    const tn_kv_layer *kv = a->l->kv;
    const int32_t *table = a->l->batch->dev->block_table + (uint64_t)seq * a->l->batch->max_blocks;
    uint64_t row_bytes = a->s.dim * (uint64_t)tn_dtype_bits(kv->dtype) / 8;
    uint64_t head_bytes = head * kv->block_tokens * row_bytes;

    while (begin < end) { /* page by page */
        uint64_t position = (uint64_t)from + begin, slot = position % kv->block_tokens;
        uint64_t page = (uint64_t)table[position / kv->block_tokens];
        const unsigned char *key = (const unsigned char *)kv->base + page * kv->block_bytes +
                                   head_bytes + slot * row_bytes;
        for (; begin < end && slot < kv->block_tokens; slot++, key += row_bytes)
            x->keys[begin++] = key;
    }
}

/* What is stored of a head is multiplied by this; kernels load 1/256 of e4m3 (simd_avx2.h). */
static float stored_unit(const tn_kv_layer *kv, const float *scales, uint32_t head)
{
    return (scales ? scales[head] : 1.0f) * (kv->dtype == TN_DT_F8E4M3 ? 256.0f : 1.0f);
}

/* Attends to chunk `chunk` for a block of rows whose queries lie in x->q: x->largest, sum and mean. */
static void attend_chunk(const struct attention *a, const struct block *b, uint32_t head,
                         uint32_t chunk, const struct scratch *x)
{
    const tn_kv_layer *kv = a->l->kv;
    int64_t from = (int64_t)chunk * ATTEND_CHUNK;
    struct attend t = {.count = b->n_rows * a->s.group,
                       .dim = a->s.padded,
                       .stored = a->s.dim,
                       .begin = ATTEND_CHUNK};

    for (uint32_t i = 0; i < t.count; i++) {
        int64_t first = row_first(a, b->row + i / a->s.group) - from;
        int64_t last = row_last(a, b->row + i / a->s.group) + 1 - from;
        x->first[i] = (uint32_t)(first < 0 ? 0 : first < ATTEND_CHUNK ? first : ATTEND_CHUNK);
        x->last[i] = (uint32_t)(last < 0 ? 0 : last < ATTEND_CHUNK ? last : ATTEND_CHUNK);
        t.begin = x->first[i] < t.begin ? x->first[i] : t.begin;
        t.end = x->last[i] > t.end ? x->last[i] : t.end;
    }
    t.begin = t.begin / ATTEND_BLOCK * ATTEND_BLOCK;
    find_keys(a, b->seq, head, from, t.begin, t.end, x);
    t.q = x->q;
    t.first = x->first;
    t.last = x->last;
    t.scale = a->s.scale * stored_unit(kv, kv->k_scale, head);
    t.softcap = a->s.softcap;
    t.keys = x->keys;
    t.value_offset =
        (uint64_t)kv->n_kv_heads * kv->block_tokens * a->s.dim * tn_dtype_bits(kv->dtype) / 8;
    t.dtype = kv->dtype;
    t.score = x->score;
    t.block = x->block;
    t.largest = x->largest;
    t.sum = x->sum;
    t.mean = x->mean;
    a->isa->attend(&t);
}

/* Merges a chunk (largest, sum, mean) into the running softmax of query i. */
static void merge(const struct attention *a, const struct scratch *x, uint32_t i, float largest,
                  float sum, const float *mean)
{
    float *total = x->total + i * a->s.padded, to, by_total, by_mean;

    if (sum == 0.0f) /* the query sees nothing of this chunk */
        return;
    if (x->total_sum[i] == 0.0f) {
        memcpy(total, mean, a->s.padded * sizeof *total);
        x->total_largest[i] = largest;
        x->total_sum[i] = sum;
        return;
    }
    to = x->total_largest[i] > largest ? x->total_largest[i] : largest;
    by_total = expf(x->total_largest[i] - to);
    by_mean = expf(largest - to);
    a->isa->blend(total, by_total, mean, by_mean, a->s.padded);
    x->total_sum[i] = x->total_sum[i] * by_total + sum * by_mean;
    x->total_largest[i] = to;
}

/* Writes the finished rows of a block. */
static void store_rows(const struct attention *a, const struct block *b, uint32_t head,
                       const struct scratch *x)
{
    uint64_t width = a->l->op->out[0]->width, dim = a->s.dim;
    float unit = stored_unit(a->l->kv, a->l->kv->v_scale, head);

    for (uint32_t i = 0; i < b->n_rows * a->s.group; i++) {
        uint64_t row = b->row + i / a->s.group, h = head * a->s.group + i % a->s.group;
        a->isa->map(MAP_SCALE, (float *)a->l->out[0] + row * width + h * dim,
                    x->total + i * (uint64_t)a->s.padded, NULL, dim, unit / x->total_sum[i]);
    }
}

static void chunk_range(const struct attention *a, const struct block *b, uint32_t *first,
                        uint32_t *last)
{
    *first = (uint32_t)(row_first(a, b->row) / ATTEND_CHUNK);
    *last = (uint32_t)(row_last(a, b->row + b->n_rows - 1) / ATTEND_CHUNK);
}

/* Items are (kv head, block), blocks backwards: those with the longest contexts first. */
static const struct block *item_block(const struct attention *a, uint32_t item, uint32_t *head)
{
    *head = item / a->n_blocks;
    return &a->blocks[a->n_blocks - 1 - item % a->n_blocks];
}

static void whole_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct attention *a = arg;
    struct scratch x;

    worker_scratch(a, worker, &x);
    for (uint32_t item = first; item < last; item++) {
        uint32_t head, chunk, last_chunk;
        const struct block *b = item_block(a, item, &head);
        gather_queries(a, b, head, &x);
        memset(x.total_sum, 0, b->n_rows * a->s.group * sizeof *x.total_sum);
        for (chunk_range(a, b, &chunk, &last_chunk); chunk <= last_chunk; chunk++) {
            attend_chunk(a, b, head, chunk, &x);
            for (uint32_t i = 0; i < b->n_rows * a->s.group; i++)
                merge(a, &x, i, x.largest[i], x.sum[i], x.mean + i * a->s.padded);
        }
        store_rows(a, b, head, &x);
    }
}

static float *partial_at(const struct attention *a, uint32_t item, uint32_t chunk)
{
    return a->partial + ((uint64_t)item * a->max_chunks + chunk) * partial_floats(&a->s);
}

/* Items [item][chunk] of a step whose chunks are split: blocks have one row. */
static void split_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct attention *a = arg;
    struct scratch x;

    worker_scratch(a, worker, &x);
    for (uint32_t i = first; i < last; i++) {
        uint32_t item = i / a->max_chunks, chunk = i % a->max_chunks, head, from, to;
        const struct block *b = item_block(a, item, &head);
        float *partial = partial_at(a, item, chunk);
        chunk_range(a, b, &from, &to);
        if (chunk < from || chunk > to)
            continue;
        gather_queries(a, b, head, &x);
        attend_chunk(a, b, head, chunk, &x);
        memcpy(partial, x.largest, a->s.group * sizeof(float));
        memcpy(partial + a->s.group, x.sum, a->s.group * sizeof(float));
        memcpy(partial + 2 * a->s.group, x.mean, a->s.group * a->s.padded * sizeof(float));
    }
}

static void merge_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct attention *a = arg;
    struct scratch x;

    worker_scratch(a, worker, &x);
    for (uint32_t item = first; item < last; item++) {
        uint32_t head, chunk, last_chunk;
        const struct block *b = item_block(a, item, &head);
        memset(x.total_sum, 0, a->s.group * sizeof *x.total_sum);
        for (chunk_range(a, b, &chunk, &last_chunk); chunk <= last_chunk; chunk++) {
            const float *partial = partial_at(a, item, chunk);
            for (uint32_t i = 0; i < a->s.group; i++)
                merge(a, &x, i, partial[i], partial[a->s.group + i],
                      partial + 2 * a->s.group + i * a->s.padded);
        }
        store_rows(a, b, head, &x);
    }
}

/* Cuts the rows of each sequence into blocks; returns a guess of the time it all takes, in nanoseconds: of few rows that is
 * reading keys and values. */
static double cut_blocks(struct attention *a)
{
    const tn_batch *batch = a->l->batch;
    double keys = 0.0;

    for (uint32_t seq = 0; seq < batch->n_seqs; seq++) {
        uint32_t row = (uint32_t)batch->dev->first_row[seq];
        uint32_t end = (uint32_t)batch->dev->first_row[seq + 1];
        keys += (double)(end - row) * (double)batch->dev->context[seq];
        for (; row < end; row += a->s.block_rows)
            a->blocks[a->n_blocks++] =
                (struct block){seq, row, end - row < a->s.block_rows ? end - row : a->s.block_rows};
    }
    return keys *
           ((double)a->l->op->in[0]->width * 0.02 + (double)(a->s.kv_heads * a->s.dim) * 0.2);
}

void attention_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa)
{
    struct attention a = {.isa = isa, .l = l};
    struct scratch unused;
    unsigned char *at = (unsigned char *)(((uintptr_t)l->workspace + ALIGN - 1) / ALIGN * ALIGN);
    uint32_t workers = share_workers(in), items;
    double ns;

    shape_of(l->op, &a.s);
    a.scratch = at;
    at += workers * scratch_at(&a.s, NULL, &unused);
    a.blocks = (struct block *)at;
    ns = cut_blocks(&a);
    items = a.n_blocks * a.s.kv_heads;
    a.max_chunks = (uint32_t)chunks_of(l->batch->max_context);
    if (l->batch->max_rows_per_seq > 1 || a.max_chunks < 2 || workers < 2 ||
        items >= SPLIT_BELOW * workers) {
        share_items(in, l, whole_items, &a, items, ns);
        return;
    }
    at += (l->batch->n_rows * sizeof(struct block) + ALIGN - 1) / ALIGN * ALIGN;
    a.partial = (float *)at;
    share_items(in, l, split_items, &a, items * a.max_chunks, ns);
    share_items(in, l, merge_items, &a, items,
                (double)(items * a.max_chunks) * (double)partial_floats(&a.s) * MERGE_NS);
}
