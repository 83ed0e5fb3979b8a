/* SPDX-License-Identifier: Apache-2.0 */
#include "build/calibrate.h"

#include <inttypes.h>
#include <math.h>

#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "build/convert.h"
#include "build/matrix.h"
#include "build/routed.h"
#include "tenon/ops.h"

#define IDENTITY_PIECE 64 /* elements of a matrix that its model is told by */

/* Names of inputs by the first matrix that reads them, see calibration.h. */
struct calibrating {
    struct quant *q;
    struct calibration *c;
    float *rows;
    size_t cap_rows;
    uint64_t stride;       /* of the rows that Hessians take in, and experts */
    struct routed *routed; /* NULL: nothing of experts is wanted */
};

/* Every stride-th row of the data; those that go in are moved to the start of x->rows. */
static int32_t take_hessian(struct calibrating *x, const struct calibration_input *in,
                            uint32_t n_rows, tn_err *err)
{
    uint64_t first = in->n_rows - n_rows, n = 0;

    for (uint64_t t = 0; t < n_rows && in->hessian; t++) {
        if ((first + t) % x->stride != 0)
            continue;
        memmove(x->rows + n * in->n_channels, x->rows + t * in->n_channels,
                (size_t)in->n_channels * sizeof *x->rows);
        n++;
    }
    return n ? hessian_take(in->hessian, x->rows, n, err) : TN_OK;
}

static int32_t take_rows(struct calibrating *x, struct calibration_input *in,
                         const struct run_moment *m, uint32_t i, tn_err *err)
{
    size_t n = (size_t)m->n_rows * (size_t)in->n_channels;
    int32_t rc;

    if (m->op->in[i]->width != in->n_channels)
        return tn_err_set(err, TN_E_INTERNAL, "%s has another width than its plan says", in->name);
    if (!mem_grow(&x->rows, &x->cap_rows, n, sizeof *x->rows))
        return err_nomem(err, "calibration");
    rc = m->get(m->io, false, i, x->rows, err);
    if (rc == TN_OK)
        rc = calibration_take_rows(in, x->rows, m->n_rows, err);
    return rc == TN_OK ? take_hessian(x, in, m->n_rows, err) : rc;
}

/* What goes into the cache: values; keys as they are, and as hadamard makes them. */
static int32_t take_cached(struct calibrating *x, const struct run_moment *m, tn_err *err)
{
    static const char kinds[] = "vkh"; /* h follows k, whose rows it turns */
    const tn_attr *dim = NULL;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < m->op->n_attrs; i++)
        if (strcmp(m->op->attrs[i].name, "head_dim") == 0)
            dim = &m->op->attrs[i];
    for (uint32_t i = 0; i < 3 && rc == TN_OK; i++) {
        struct calibration_input *in;
        char name[32];
        snprintf(name, sizeof name, "kv.%" PRId32 ".%c", m->op->layer, kinds[i]);
        in = calibration_find(x->c, name);
        if (in && i < 2) {
            rc = take_rows(x, in, m, i == 0, err);
        } else if (in && dim) {
            quant_turn(x->rows, (size_t)m->n_rows * (size_t)in->n_channels, (uint64_t)dim->i);
            rc = calibration_take_rows(in, x->rows, m->n_rows, err);
        }
    }
    return rc;
}

/* Queries as hadamard makes them. */
static int32_t take_queries(struct calibrating *x, const struct run_moment *m, tn_err *err)
{
    struct calibration_input *in;
    char name[32];
    int32_t rc;

    snprintf(name, sizeof name, "kv.%" PRId32 ".q", m->op->layer);
    in = calibration_find(x->c, name);
    if (!in)
        return TN_OK;
    if (m->op->in[0]->width != in->n_channels)
        return tn_err_set(err, TN_E_INTERNAL, "%s has another width than its plan says", name);
    if (!mem_grow(&x->rows, &x->cap_rows, (size_t)(m->n_rows * in->n_channels), sizeof *x->rows))
        return err_nomem(err, "calibration");
    rc = m->get(m->io, false, 0, x->rows, err);
    if (rc != TN_OK)
        return rc;
    quant_turn(x->rows, (size_t)(m->n_rows * in->n_channels), in->dim);
    return calibration_take_rows(in, x->rows, m->n_rows, err);
}

static int32_t on_moment(void *arg, const struct run_moment *m, tn_err *err)
{
    struct calibrating *x = arg;
    struct calibration_input *in = NULL;

    if (m->after)
        return TN_OK;
    if (quant_multiplies(m->op->name) || strcmp(m->op->name, TN_OP_LOGITS) == 0) {
        int32_t rc;
        in = calibration_find(x->c, quant_matrix_name(x->q, m->op));
        rc = in ? take_rows(x, in, m, 0, err) : TN_OK;
        return rc == TN_OK && x->routed && m->op->n_in > 1 ? routed_take(x->routed, x->c, m, err)
                                                           : rc;
    }
    if (strcmp(m->op->name, TN_OP_ATTENTION) == 0)
        return take_queries(x, m, err);
    return strcmp(m->op->name, TN_OP_KV_APPEND) == 0 ? take_cached(x, m, err) : TN_OK;
}

/* Sampled rows and histograms take most of the memory: only where they are wanted. */
static uint32_t what_to_keep(const struct quant *q, bool all)
{
    return (all || q->needs & TN_QUANT_SAMPLE ? CALIBRATION_SAMPLES : 0u) |
           (all || q->needs & TN_QUANT_PERCENTILE ? CALIBRATION_HISTOGRAM : 0u);
}

/* Whether an op is attention whose queries' products are kept: they shape errors of a cache of float8_e4m3. */
static bool keeps_products(const struct quant *q, bool all, const struct plan_op *op)
{
    return (all || q->o.hadamard) && strcmp(op->name, TN_OP_ATTENTION) == 0 &&
           plan_attr(op, "head_dim")->i <= CALIBRATION_DIM;
}

/* Whether an op is an output projection, which is no linear of this scheme: schemes that take it want what it reads. */
static bool keeps_head(const struct quant *q, bool all, const struct plan_op *op)
{
    return all && strcmp(op->name, TN_OP_LOGITS) == 0 &&
           quant_users(q->from->plan, op->weights[0]) == 1 &&
           !(q->scheme && q->scheme->flags & TN_QUANT_HEADS);
}

/* What is kept of a group; false: nothing. Of rows that gate and up of an expert read, only Hessians are wanted. */
static bool keep_of(const struct quant *q, const struct quant_group *g, bool all, uint32_t *keep)
{
    *keep = g->value == QUANT_ROUTED && !g->inside ? 0 : what_to_keep(q, all);
    return g->value != QUANT_ROUTED || all || q->needs;
}

/* The memory that statistics take is known, and bounded, before the model runs. */
static int32_t check_memory(const struct quant *q, bool all, tn_err *err)
{
    const struct plan *p = q->from->plan;
    uint64_t sum = 0;
    uint32_t keep;

    for (size_t i = 0; i < p->n_ops; i++)
        if (keeps_products(q, all, &p->ops[i]))
            sum += 2 * calibration_products_bytes((uint64_t)plan_attr(&p->ops[i], "n_kv_heads")->i,
                                                  (uint64_t)plan_attr(&p->ops[i], "head_dim")->i);
    for (size_t i = 0; i < p->n_ops; i++)
        if (keeps_head(q, all, &p->ops[i]))
            sum += calibration_bytes(p->values[p->ops[i].in[0]].width, what_to_keep(q, all));
    for (uint32_t i = 0; i < q->n_groups; i++)
        if (keep_of(q, &q->groups[i], all, &keep))
            sum += calibration_bytes(q->groups[i].n_channels, keep);
    log_info("calibration: statistics of %" PRIu32 " inputs take %" PRIu64 " MiB", q->n_groups,
             sum >> 20);
    if (sum <= LIMIT_CALIBRATION_BYTES)
        return TN_OK;
    err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "--calib-data",
           "statistics of this model would take %" PRIu64 " MiB; %" PRIu64 " are allowed",
           sum >> 20, (uint64_t)(LIMIT_CALIBRATION_BYTES) >> 20);
    err_remedy(err, "leave --calib-stats away, so that only what the scheme needs is kept");
    return TN_E_LIMIT;
}

static void drop_hessians(struct quant *q)
{
    for (uint32_t i = 0; i < q->n_groups; i++) {
        hessian_release(&q->groups[i].hessian);
        q->groups[i].stats.hessian = NULL;
    }
}

/* Whether the scheme wants it, and one alone has room. */
static bool wants_hessian(const struct quant *q, const struct quant_group *g)
{
    return q->needs & TN_QUANT_HESSIAN && hessian_bytes(g->n_channels) <= LIMIT_HESSIAN_BYTES;
}

/* Makes room for the Hessians of groups from `first` on; the rest waits for another run. */
static int32_t add_hessians(struct quant *q, uint32_t first, tn_err *err)
{
    uint64_t sum = 0;
    int32_t rc = TN_OK;

    drop_hessians(q);
    for (uint32_t i = first; i < q->n_groups && rc == TN_OK; i++) {
        uint64_t bytes = hessian_bytes(q->groups[i].n_channels);
        if (!wants_hessian(q, &q->groups[i]))
            continue;
        if (sum + bytes > LIMIT_HESSIAN_BYTES)
            break;
        sum += bytes;
        rc = hessian_init(&q->groups[i].hessian, q->groups[i].n_channels, err);
    }
    log_info("calibration: second moments between channels take %" PRIu64 " MiB", sum >> 20);
    return rc;
}

static int32_t add_group(struct calibrating *x, struct quant_group *g, uint32_t keep, uint64_t seed,
                         tn_err *err)
{
    struct calibration_input *in;
    char name[QUANT_EXPERT_NAME];
    int32_t rc;

    quant_group_name(x->q, g, name);
    rc = calibration_add(x->c, name, g->n_channels, keep, seed, &in, err);

    if (rc == TN_OK && g->hessian.sum)
        in->hessian = &g->hessian;
    return rc;
}

static int32_t add_queries(struct calibrating *x, const struct plan_op *op, uint64_t seed,
                           tn_err *err)
{
    struct calibration_input *in;
    char name[32];
    int32_t rc;

    snprintf(name, sizeof name, "kv.%" PRId32 ".q", op->layer);
    if (calibration_find(x->c, name))
        return TN_OK;
    rc = calibration_add(x->c, name, x->q->from->plan->values[op->in[0]].width, 0, seed, &in, err);
    return rc == TN_OK
               ? calibration_add_products(x->c, in, (uint64_t)plan_attr(op, "n_kv_heads")->i,
                                          (uint64_t)plan_attr(op, "head_dim")->i, err)
               : rc;
}

static int32_t add_head(struct calibrating *x, const struct plan_op *op, uint64_t seed, tn_err *err)
{
    const struct plan *p = x->q->from->plan;
    struct calibration_input *in;

    return calibration_add(x->c, p->weights[op->weights[0]].name, p->values[op->in[0]].width,
                           what_to_keep(x->q, true), seed, &in, err);
}

static int32_t add_inputs(struct calibrating *x, uint64_t seed, bool all, tn_err *err)
{
    const struct plan *p = x->q->from->plan;
    struct calibration_input *in;
    uint32_t keep;
    int32_t rc = check_memory(x->q, all, err);

    for (uint32_t i = 0; i < x->q->n_groups && rc == TN_OK; i++)
        if (keep_of(x->q, &x->q->groups[i], all, &keep))
            rc = add_group(x, &x->q->groups[i], keep, seed, err);
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        for (uint32_t k = 0; k < 3 && rc == TN_OK; k++) {
            const struct plan_op *op = &p->ops[i];
            char name[32];
            if (strcmp(op->name, TN_OP_KV_APPEND) != 0)
                break;
            snprintf(name, sizeof name, "kv.%" PRId32 ".%c", op->layer, "kvh"[k]);
            rc = calibration_add(x->c, name, p->values[op->in[k == 1]].width, 0, seed, &in, err);
            if (rc == TN_OK && k == 1 && (all || x->q->o.hadamard) &&
                plan_attr(op, "head_dim")->i <= CALIBRATION_DIM)
                rc = calibration_add_products(x->c, in, (uint64_t)plan_attr(op, "n_kv_heads")->i,
                                              (uint64_t)plan_attr(op, "head_dim")->i, err);
        }
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        if (keeps_products(x->q, all, &p->ops[i]))
            rc = add_queries(x, &p->ops[i], seed, err);
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        if (keeps_head(x->q, all, &p->ops[i]))
            rc = add_head(x, &p->ops[i], seed, err);
    return rc;
}

static void release(struct calibrating *x)
{
    mem_free(x->rows);
    routed_close(x->routed);
}

static int32_t digest_data(const struct token_set *t, struct calibration *c)
{
    uint8_t digest[SHA256_BYTES];

    sha256_of(t->ids, (size_t)t->begin[t->n_seqs] * sizeof *t->ids, digest);
    hex_encode(digest, sizeof digest, c->data_sha256);
    c->n_tokens = t->begin[t->n_seqs];
    c->n_first = t->begin[1] < CALIBRATION_FIRST ? t->begin[1] : CALIBRATION_FIRST;
    memcpy(c->first, t->ids, (size_t)c->n_first * sizeof *c->first);
    return TN_OK;
}

static bool has_experts(const struct calibrating *x)
{
    char name[QUANT_EXPERT_NAME];

    for (uint32_t i = 0; i < x->q->n_groups; i++) {
        quant_group_name(x->q, &x->q->groups[i], name);
        if (x->q->groups[i].value == QUANT_ROUTED && calibration_find(x->c, name))
            return true;
    }
    return false;
}

static int32_t run_all(struct calibrating *x, const struct calibrate_options *o, tn_err *err)
{
    const struct token_set *t = o->data;
    struct progress bar;
    void *run = NULL;
    int32_t rc = has_experts(x) ? routed_open(o->engine, x->stride, &x->routed, err) : TN_OK;

    if (rc == TN_OK)
        rc = o->runner->open(o->runner->arg, o->engine, token_set_longest(t), on_moment, x, &run,
                             err);
    if (rc != TN_OK)
        return rc;
    progress_begin(&bar, "calibrating", t->begin[t->n_seqs] * sizeof *t->ids, o->quiet);
    for (uint64_t i = 0; i < t->n_seqs && rc == TN_OK; i++) {
        rc = o->runner->run(run, t->ids + t->begin[i], (uint32_t)(t->begin[i + 1] - t->begin[i]),
                            NULL, NULL, err);
        progress_update(&bar, t->begin[i + 1] * sizeof *t->ids);
        if (rc == TN_OK && o->stop && o->stop(o->arg))
            rc = tn_err_set(err, TN_E_CANCELED, "the build was interrupted");
    }
    progress_end(&bar, rc == TN_OK);
    o->runner->close(run);
    return rc;
}

static int32_t begin(struct quant *q, const struct calibrate_options *o, struct calibrating *x,
                     tn_err *err)
{
    uint64_t tokens = o->data->begin[o->data->n_seqs];

    *x = (struct calibrating){.q = q,
                              .stride = (tokens + LIMIT_HESSIAN_ROWS - 1) / LIMIT_HESSIAN_ROWS};
    return calibration_new(&x->c, err);
}

int32_t calibrate(struct quant *q, const struct calibrate_options *o, struct calibration **out,
                  tn_err *err)
{
    struct calibrating x;
    int32_t rc = begin(q, o, &x, err);

    if (rc == TN_OK && q->needs & TN_QUANT_HESSIAN)
        rc = add_hessians(q, 0, err);
    if (rc == TN_OK)
        rc = add_inputs(&x, o->seed, o->all, err);
    if (rc == TN_OK)
        rc = digest_data(o->data, x.c);
    if (rc == TN_OK)
        rc = run_all(&x, o, err);
    release(&x);
    if (rc != TN_OK) {
        calibration_free(x.c);
        return rc;
    }
    *out = x.c;
    return TN_OK;
}

/* Another run, for Hessians alone. */
static int32_t run_again(struct quant *q, const struct calibrate_options *o, uint32_t first,
                         tn_err *err)
{
    struct calibrating x;
    int32_t rc = begin(q, o, &x, err);

    if (rc == TN_OK)
        rc = add_hessians(q, first, err);
    for (uint32_t i = first; i < q->n_groups && rc == TN_OK; i++)
        if (q->groups[i].hessian.sum)
            rc = add_group(&x, &q->groups[i], 0, o->seed, err);
    if (rc == TN_OK)
        rc = run_all(&x, o, err);
    release(&x);
    calibration_free(x.c);
    return rc;
}

struct hessians {
    struct quant *q;
    const struct calibrate_options *o;
};

/* Inputs of a calibration begin with those of groups, in their order. */
static int32_t next_hessian(void *arg, size_t i, const struct hessian **out, tn_err *err)
{
    const struct hessians *x = arg;
    struct quant_group *g = &x->q->groups[i];
    int32_t rc = g->hessian.sum ? TN_OK : run_again(x->q, x->o, (uint32_t)i, err);

    *out = &g->hessian;
    return rc;
}

int32_t calibrate_save(struct quant *q, const struct calibrate_options *o, struct calibration *c,
                       const char *path, tn_err *err)
{
    struct hessians x = {q, o};
    int32_t rc;

    for (uint32_t i = 0; i < q->n_groups; i++)
        c->inputs[i]->keeps_hessian = wants_hessian(q, &q->groups[i]) && c->inputs[i]->n_rows > 0;
    rc = calibration_save(c, path, next_hessian, &x, err);
    drop_hessians(q);
    return rc;
}

int32_t calibrate_hessian(struct quant *q, const struct calibrate_options *o,
                          const struct calibration *c, const struct quantized *m, uint32_t expert,
                          tn_err *err)
{
    bool own = m->experts && m->experts[expert].raw;
    uint32_t index = own ? (uint32_t)(m->experts - q->groups) + expert : m->group;
    struct quant_group *g = &q->groups[index];
    bool filed = c->file.path != NULL;
    int32_t rc = TN_OK;

    if (!g->raw || !wants_hessian(q, g) || (filed ? !g->raw->keeps_hessian : !o->data))
        return TN_OK;
    if (!g->hessian.sum && filed) {
        drop_hessians(q);
        rc = calibration_read_hessian(c, g->raw, &g->hessian, err);
    } else if (!g->hessian.sum) {
        rc = run_again(q, o, index, err);
    }
    if (rc != TN_OK)
        return rc;
    if (!g->hessian.finished)
        hessian_finish(&g->hessian, g->divide);
    g->stats.hessian = g->hessian.sum;
    g->stats.n_hessian_rows = g->hessian.n_rows;
    return TN_OK;
}

/* Some elements from the middle of each matrix: of models that were trained on from one, with its norms as they were,
 * statistics differ, too. */
static int32_t digest_matrix(const struct checkpoint *from, const struct weight_origin *o,
                             struct xxh128 *x, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < o->n_sources && rc == TN_OK; i++) {
        const struct st_tensor *t = checkpoint_find(from, o->sources[i].tensor);
        uint8_t bytes[IDENTITY_PIECE * sizeof(double)];
        float values[IDENTITY_PIECE];
        uint64_t size, n;
        if (o->sources[i].stored || !convert_known(t->dtype, TN_DT_F32))
            continue;
        size = tn_dtype_bits(t->dtype) / 8;
        n = t->bytes / size < IDENTITY_PIECE ? t->bytes / size : IDENTITY_PIECE;
        rc = checkpoint_read(from, t->name, (t->bytes / size - n) / 2 * size, bytes,
                             (size_t)(n * size), err);
        if (rc != TN_OK)
            break;
        convert_elements(bytes, t->dtype, values, TN_DT_F32, (size_t)n);
        xxh128_update(x, values, (size_t)n * sizeof *values);
    }
    return rc;
}

int32_t calibrate_identify(const struct emission *e, const struct checkpoint *from,
                           char out[CALIBRATION_MODEL], tn_err *err)
{
    uint8_t digest[XXH128_BYTES];
    struct xxh128 *x = NULL;
    int32_t rc = xxh128_new(&x, err);

    for (size_t i = 0; i < e->plan->n_weights && rc == TN_OK; i++) {
        const struct plan_weight *w = &e->plan->weights[i];
        float *values = NULL;
        if (w->n_dims != 1 || e->origins[i].n_sources == 0) {
            rc = digest_matrix(from, &e->origins[i], x, err);
            continue;
        }
        rc = matrix_load(from, w, &e->origins[i], &values, err);
        if (rc == TN_OK)
            xxh128_update(x, values, (size_t)w->dims[0] * sizeof *values);
        mem_free(values);
    }
    if (rc == TN_OK) {
        xxh128_final(x, digest);
        hex_encode(digest, sizeof digest, out);
    }
    xxh128_free(x);
    return rc;
}
