/* SPDX-License-Identifier: Apache-2.0 */
/* embedding, position, norms and element-wise ops: checks, and sharing rows among workers. Any thread. */
#include "rows.h"

#include "check.h"
#include "share.h"

/* A launch on its way to the workers. */
struct job {
    const tn_launch *l;
    const struct isa *isa;
    const int32_t *entry; /* tables: entry of each row, minus `first` */
    int64_t first;
    float factor;
    struct norm norm;
    enum map_kind kind;
    uint64_t elements; /* maps: in all */
};

/* Nanoseconds per element that one worker needs, roughly. */
#define COPY_NS 0.1
#define NORM_NS 0.2
#define MAP_NS 0.2
#define REORDER_NS 0.7

static uint64_t width_in(const tn_launch *l, uint32_t i)
{
    return l->op->in[i]->width;
}

/* -- Tables -------------------------------------------------------------------------------------- */

static int32_t check_table(const tn_op *op, tn_err *err)
{
    const tn_weight *w = op->n_weights ? op->weights[0] : NULL;

    return check_require(op,
                         check_form(op, 0, 1, 1, 1) && w->n_dims == 2 &&
                             w->dims[1] == op->out[0]->width &&
                             (TN_DT_BIT(w->dtype) & ROWS_FLOATS) != 0,
                         "needs a table as wide as the float32 output", err);
}

/* Of int8: scales of its entries, and factors of its columns. */
static int32_t check_int8_table(const tn_op *op, tn_err *err)
{
    const tn_weight *const *w = op->weights;

    if (!check_form(op, 0, 1, 3, 3) || w[0]->n_dims != 2 || w[0]->dims[1] != op->out[0]->width ||
        w[0]->dtype != TN_DT_I8)
        return check_require(op, 0, "needs a table of int8 as wide as the float32 output", err);
    return check_require(op,
                         w[1]->dtype == TN_DT_F32 && check_vector(w[1], w[0]->dims[0]) &&
                             w[2]->dtype == TN_DT_F32 && check_vector(w[2], op->out[0]->width),
                         "needs a float32 scale per entry and a float32 factor per column", err);
}

static void table_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_weight *w = job->l->op->weights[0];
    uint64_t width = job->l->op->out[0]->width;

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        int64_t entry = job->entry[t] - job->first;
        float *y = (float *)job->l->out[0] + t * width;
        if (entry >= 0 && (uint64_t)entry < w->dims[0])
            job->isa->widen(y, (const char *)job->l->weights[0] + (uint64_t)entry * w->stride0,
                            w->dtype, width, job->factor);
        else /* another rank's part of the vocabulary */
            memset(y, 0, width * sizeof *y);
    }
}

int32_t embedding_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

static void launch_tokens(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                          share_fn fn, double element_ns)
{
    struct job job = {.l = l, .isa = isa, .entry = l->batch->dev->tokens};

    job.first = tn_op_int(l->op, "vocab_first", 0);
    job.factor = (float)tn_op_real(l->op, "scale", 1.0);
    share_items(in, l, fn, &job, l->batch->n_rows,
                element_ns * (double)(l->batch->n_rows * l->op->out[0]->width));
}

int32_t embedding_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                         tn_err *err)
{
    (void)err;
    launch_tokens(in, l, isa, table_rows, COPY_NS);
    return TN_OK;
}

static void int8_table_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_launch *l = job->l;
    const tn_weight *w = l->op->weights[0];
    const float *scale = l->weights[1], *by = l->weights[2];
    uint64_t width = l->op->out[0]->width;

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        int64_t entry = job->entry[t] - job->first;
        float *y = (float *)l->out[0] + t * width;
        if (entry < 0 || (uint64_t)entry >= w->dims[0]) { /* another rank has it */
            memset(y, 0, width * sizeof *y);
            continue;
        }
        job->isa->widen(y, (const char *)l->weights[0] + (uint64_t)entry * w->stride0, TN_DT_I8,
                        width, job->factor * scale[entry]);
        job->isa->map(MAP_MUL, y, y, by, width, 0.0f);
    }
}

int32_t embedding_int8_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_int8_table(op, err);
}

int32_t embedding_int8_launch(const struct cpu_instance *in, const tn_launch *l,
                              const struct isa *isa, tn_err *err)
{
    (void)err;
    launch_tokens(in, l, isa, int8_table_rows, COPY_NS + MAP_NS);
    return TN_OK;
}

int32_t position_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_table(op, err);
}

int32_t position_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                        tn_err *err)
{
    struct job job = {.l = l, .isa = isa, .entry = l->batch->dev->positions, .factor = 1.0f};

    job.first = -tn_op_int(l->op, "offset", 0);
    for (uint32_t t = 0; t < l->batch->n_rows; t++) {
        int64_t entry = job.entry[t] - job.first;
        if (entry < 0 || (uint64_t)entry >= l->op->weights[0]->dims[0])
            return tn_err_set(err, TN_E_RANGE, "position: entry %lld of a table of %llu",
                              (long long)entry, (unsigned long long)l->op->weights[0]->dims[0]);
    }
    share_items(in, l, table_rows, &job, l->batch->n_rows,
                COPY_NS * (double)(l->batch->n_rows * l->op->out[0]->width));
    return TN_OK;
}

/* -- Norms --------------------------------------------------------------------------------------- */

static int32_t check_rms_norm(const tn_op *op, const tn_op *norm, tn_err *err)
{
    const tn_weight *w = norm->n_weights == 1 ? norm->weights[0] : NULL;

    return check_require(
        op, w && w->dims[0] && check_vector(w, w->dims[0]) && op->in[0]->width % w->dims[0] == 0,
        "the width must be a multiple of the weight's", err);
}

int32_t rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!check_form(op, 1, 1, 1, 1) || op->out[0]->width != op->in[0]->width)
        return check_require(op, 0, "needs a float32 input and output, equally wide", err);
    return check_rms_norm(op, op, err);
}

int32_t add_rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!check_form(op, 2, 2, 1, 1) || op->n_members != 2 || op->in[1]->width != op->in[0]->width)
        return check_require(op, 0, "needs float32 values, equally wide", err);
    return check_rms_norm(op, op->members[1], err);
}

static void set_norm(const tn_launch *l, const tn_op *op, struct norm *p)
{
    p->width = width_in(l, 0);
    p->group = op->weights[0]->dims[0];
    p->weight = l->weights[0];
    p->weight_dtype = op->weights[0]->dtype;
    p->eps = (float)tn_op_real(op, "eps", 0.0);
    p->offset = (float)tn_op_real(op, "offset", 0.0);
    if (op->n_weights > 1) {
        p->bias = l->weights[1];
        p->bias_dtype = op->weights[1]->dtype;
    }
}

static void rms_norm_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_launch *l = job->l;
    uint64_t width = job->norm.width;
    int adds = l->op->n_in == 2;

    (void)worker;
    for (uint64_t at = first * width; at < last * width; at += width)
        job->isa->rms_norm(&job->norm, (float *)l->out[adds ? 1 : 0] + at,
                           (const float *)l->in[0] + at, adds ? (const float *)l->in[1] + at : NULL,
                           adds ? (float *)l->out[0] + at : NULL);
}

static void layer_norm_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    uint64_t width = job->norm.width;

    (void)worker;
    for (uint64_t at = first * width; at < last * width; at += width)
        job->isa->layer_norm(&job->norm, (float *)job->l->out[0] + at,
                             (const float *)job->l->in[0] + at);
}

static int32_t launch_norm(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                           const tn_op *norm, share_fn fn)
{
    struct job job = {.l = l, .isa = isa};

    set_norm(l, norm, &job.norm);
    share_items(in, l, fn, &job, l->batch->n_rows,
                NORM_NS * (double)(l->batch->n_rows * job.norm.width));
    return TN_OK;
}

int32_t rms_norm_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                        tn_err *err)
{
    (void)err;
    return launch_norm(in, l, isa, l->op, rms_norm_rows);
}

int32_t add_rms_norm_launch(const struct cpu_instance *in, const tn_launch *l,
                            const struct isa *isa, tn_err *err)
{
    (void)err;
    return launch_norm(in, l, isa, l->op->members[1], rms_norm_rows);
}

int32_t layer_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    if (!check_form(op, 1, 1, 1, 2) || op->out[0]->width != op->in[0]->width)
        return check_require(op, 0, "needs a float32 input and output, equally wide", err);
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (!check_vector(op->weights[i], op->in[0]->width))
            return check_require(op, 0, "weight and bias must be as wide as a row", err);
    return TN_OK;
}

int32_t layer_norm_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                          tn_err *err)
{
    (void)err;
    return launch_norm(in, l, isa, l->op, layer_norm_rows);
}

/* -- Sums over ranks, the residual, and a norm ---------------------------------------------------- */

static int32_t check_parts(const tn_op *op, uint32_t max_weights, tn_err *err)
{
    return check_require(op,
                         check_form(op, 2, 2, 1, max_weights) && op->n_members == 3 &&
                             op->in[0]->width == op->in[1]->width &&
                             op->out[0]->width == op->in[0]->width &&
                             op->out[1]->width == op->in[0]->width,
                         "needs float32 values, equally wide", err);
}

int32_t reduce_add_rms_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_parts(op, 1, err);

    (void)instance;
    return rc == TN_OK ? check_rms_norm(op, op->members[2], err) : rc;
}

int32_t reduce_add_layer_norm_can_run(void *instance, const tn_op *op, tn_err *err)
{
    int32_t rc = check_parts(op, 2, err);

    return rc == TN_OK ? layer_norm_can_run(instance, op->members[2], err) : rc;
}

/* The sum over ranks of the row that begins at element `at`: where it lies, or added up into `to`. */
static const float *summed_row(const struct job *job, uint64_t at, float *to)
{
    const tn_comm_parts *p = job->l->parts;
    const float *x = (const float *)p->part[p->each ? at / p->each : 0] + at;

    for (uint32_t r = 1; r < p->n_parts && !p->each; r++) {
        job->isa->map(MAP_ADD, to, x, (const float *)p->part[r] + at, job->norm.width, 0.0f);
        x = to;
    }
    return x;
}

static void reduce_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_launch *l = job->l;
    uint64_t width = job->norm.width;
    int layer = strcmp(l->op->members[2]->name, TN_OP_LAYER_NORM) == 0;

    (void)worker;
    for (uint64_t at = first * width; at < last * width; at += width) {
        float *s = (float *)l->out[0] + at, *y = (float *)l->out[1] + at;
        const float *h = summed_row(job, at, s), *residual = (const float *)l->in[1] + at;
        if (layer) {
            job->isa->map(MAP_ADD, s, residual, h, width, 0.0f);
            job->isa->layer_norm(&job->norm, y, s);
        } else {
            job->isa->rms_norm(&job->norm, y, residual, h, s);
        }
    }
}

static int32_t launch_parts(const struct cpu_instance *in, const tn_launch *l,
                            const struct isa *isa, tn_err *err)
{
    if (!l->parts)
        return tn_err_set(err, TN_E_INVALID, "%s: was given no parts to add up", l->op->name);
    return launch_norm(in, l, isa, l->op->members[2], reduce_rows);
}

int32_t reduce_add_rms_norm_launch(const struct cpu_instance *in, const tn_launch *l,
                                   const struct isa *isa, tn_err *err)
{
    return launch_parts(in, l, isa, err);
}

int32_t reduce_add_layer_norm_launch(const struct cpu_instance *in, const tn_launch *l,
                                     const struct isa *isa, tn_err *err)
{
    return launch_parts(in, l, isa, err);
}

/* -- Order ----------------------------------------------------------------------------------------- */

int32_t reorder_can_run(void *instance, const tn_op *op, tn_err *err)
{
    (void)instance;
    return check_require(op,
                         check_form(op, 1, 1, 1, 1) && op->in[0]->width == op->out[0]->width &&
                             op->weights[0]->n_dims == 1 &&
                             op->weights[0]->dims[0] == op->out[0]->width &&
                             op->weights[0]->dtype == TN_DT_I32,
                         "needs float32 rows of one width and an int32 for each element", err);
}

static void reorder_rows(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const int32_t *order = job->l->weights[0];
    uint64_t width = width_in(job->l, 0);

    (void)worker;
    for (uint32_t t = first; t < last; t++) {
        const float *x = (const float *)job->l->in[0] + t * width;
        float *y = (float *)job->l->out[0] + t * width;
        for (uint64_t i = 0; i < width; i++)
            y[i] = x[order[i]];
    }
}

int32_t reorder_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                       tn_err *err)
{
    struct job job = {.l = l, .isa = isa};

    (void)err;
    share_items(in, l, reorder_rows, &job, l->batch->n_rows,
                REORDER_NS * (double)(l->batch->n_rows * width_in(l, 0)));
    return TN_OK;
}

/* -- Element by element -------------------------------------------------------------------------- */

#define MAP_RUN 8192 /* elements of an item: no row boundary matters, so long rows are shared too */

static int32_t check_map(const tn_op *op, uint32_t n_in, tn_err *err)
{
    int fits = check_form(op, n_in, 1, 0, 0);

    for (uint32_t i = 0; fits && i < n_in; i++)
        fits = op->in[i]->width == op->out[0]->width;
    return check_require(op, fits, "needs float32 values, equally wide", err);
}

static void map_runs(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *job = arg;
    const tn_launch *l = job->l;
    uint64_t at = (uint64_t)first * MAP_RUN, end = (uint64_t)last * MAP_RUN;

    (void)worker;
    if (end > job->elements)
        end = job->elements;
    job->isa->map(job->kind, (float *)l->out[0] + at, (const float *)l->in[0] + at,
                  l->op->n_in > 1 ? (const float *)l->in[1] + at : NULL, end - at, job->factor);
}

static int32_t launch_map(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,
                          enum map_kind kind, const char *attr)
{
    struct job job = {.l = l, .isa = isa, .kind = kind};
    int logits = l->op->out[0]->kind == TN_VALUE_LOGITS;

    job.elements = (logits ? l->batch->n_logits : l->batch->n_rows) * l->op->out[0]->width;
    job.factor = attr ? (float)tn_op_real(l->op, attr, 1.0) : 0.0f;
    share_items(in, l, map_runs, &job, (uint32_t)((job.elements + MAP_RUN - 1) / MAP_RUN),
                MAP_NS * (double)job.elements);
    return TN_OK;
}

#define MAP_OP(id, n_in, kind, attr)                                                               \
    int32_t id##_can_run(void *instance, const tn_op *op, tn_err *err)                             \
    {                                                                                              \
        (void)instance;                                                                            \
        return check_map(op, n_in, err);                                                           \
    }                                                                                              \
    int32_t id##_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa,  \
                        tn_err *err)                                                               \
    {                                                                                              \
        (void)err;                                                                                 \
        return launch_map(in, l, isa, kind, attr);                                                 \
    }

MAP_OP(add, 2, MAP_ADD, NULL)
MAP_OP(mul, 2, MAP_MUL, NULL)
MAP_OP(silu, 1, MAP_SILU, NULL)
MAP_OP(gelu, 1, MAP_GELU, NULL)
MAP_OP(gelu_tanh, 1, MAP_GELU_TANH, NULL)
MAP_OP(relu, 1, MAP_RELU, NULL)
MAP_OP(relu2, 1, MAP_RELU2, NULL)
MAP_OP(scale, 1, MAP_SCALE, "factor")
MAP_OP(softcap, 1, MAP_SOFTCAP, "cap")
MAP_OP(silu_mul, 2, MAP_SILU_MUL, NULL)
MAP_OP(gelu_mul, 2, MAP_GELU_MUL, NULL)
MAP_OP(gelu_tanh_mul, 2, MAP_GELU_TANH_MUL, NULL)
