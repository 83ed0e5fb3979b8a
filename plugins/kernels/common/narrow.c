/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of narrow.cuh: what these products take, what they cost, in which tiles they are launched. Threads: as in
 * tn_variant.
 */
#include "narrow.h"

#include <string.h>

#define SHAPE(bm, bn, stages) {bm, bn, stages},
static const struct shape {
    uint32_t bm, bn, stages; /* rows of a matrix and of x in a tile */
} shapes[] = {NARROW_SHAPES(SHAPE)};

#define N_SHAPES (sizeof shapes / sizeof *shapes)

_Static_assert(2 * N_SHAPES == N_NARROW_NAMES, "names of all kernels");

const tn_range narrow_rows[] = {{"rows", 1, NARROW_MAX_ROWS, 1}};

/* Prior of the time: bytes per nanosecond from memory, operations per nanosecond, and what a launch adds. */
#define BYTES_PER_NS 2400.0
#define FLOPS_PER_NS 150e3
#define LAUNCH_NS 2000.0

/* -- Forms ------------------------------------------------------------------------------------------------------- */

/* What an op asks for, by its name before the scheme's and behind "norm_". */
struct form {
    const char *name;
    enum finish finish;
    uint32_t matrices, members; /* members: without the norm */
};

static int has_norm(const tn_op *op)
{
    return strncmp(op->name, "norm_", 5) == 0;
}

static const struct form *form_of(const tn_op *op)
{
    static const struct form forms[] = {
        {"linear", FINISH_STORE, 1, 0},   {"qkv", FINISH_STORE, 3, 3},
        {"linear_add", FINISH_ADD, 1, 2}, {"gate_silu", FINISH_SILU, 2, 4},
        {"gate_gelu", FINISH_GELU, 2, 4}, {"gate_gelu_tanh", FINISH_GELU_TANH, 2, 4},
        {"logits", FINISH_LOGITS, 1, 0},
    };
    const char *name = op->name + (has_norm(op) ? 5 : 0);
    size_t n = strcspn(name, ".");

    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (strlen(forms[i].name) == n && strncmp(forms[i].name, name, n) == 0)
            return &forms[i];
    return NULL;
}

/* Members that an op of form `f` has. */
static uint32_t members_of(const tn_op *op, const struct form *f)
{
    return has_norm(op) ? (f->members ? f->members : 1) + 1 : f->members;
}

static const tn_op *linear_of(const tn_op *op, uint32_t i)
{
    return op->n_members ? op->members[has_norm(op) + i] : op;
}

const tn_op *narrow_linear(const tn_op *op, const tn_op **norm)
{
    *norm = has_norm(op) ? op->members[0] : NULL;
    return linear_of(op, 0);
}

static uint32_t dtype_of(const tn_op *op)
{
    return linear_of(op, 0)->weights[0]->dtype;
}

/* The matrix, its scales, perhaps its zero points; then comes the bias. */
static uint32_t needed(const tn_op *linear)
{
    return linear->weights[0]->dtype == TN_DT_I4 && tn_op_int(linear, "zero", 0) ? 3 : 2;
}

/* -- What is taken ------------------------------------------------------------------------------------------------- */

static int32_t check_groups(const tn_op *m, uint64_t n, uint64_t k, tn_err *err)
{
    int64_t group = tn_op_int(m, "group", 0);

    if (group <= 0 || group % 32 || k % (uint64_t)group)
        return cuda_require(m, 0, "wants groups of a multiple of 32 inputs, and whole ones", err);
    for (uint32_t i = 1; i < needed(m); i++) {
        const tn_weight *w = m->weights[i];
        if (w->n_dims != 2 || w->dims[0] != n || w->dims[1] != k / (uint64_t)group ||
            w->dtype != (i == 1 ? (uint32_t)TN_DT_F32 : (uint32_t)TN_DT_I8))
            return cuda_require(m, 0, "needs a scale (and a zero point) per output and group", err);
    }
    return TN_OK;
}

static int32_t check_linear(const tn_op *m, uint32_t dtype, uint64_t n, uint64_t k, tn_err *err)
{
    const tn_weight *w = m->n_weights >= 2 ? m->weights[0] : NULL;
    int32_t rc;

    if (!w || w->dtype != dtype || w->n_dims != 2 || w->dims[0] != n || w->dims[1] != k ||
        m->n_weights < needed(m) || m->n_weights > needed(m) + 1)
        return cuda_require(m, 0, "needs its quantized matrix and what belongs to it", err);
    if (w->stride0 % 16 || k % 16 || n > UINT32_MAX / 2 || k > UINT32_MAX / 2)
        return cuda_require(m, 0, "wants rows of a multiple of 16 inputs at multiples of 16 bytes",
                            err);
    if (dtype == TN_DT_I4)
        rc = check_groups(m, n, k, err);
    else
        rc = cuda_require(m, m->weights[1]->dtype == TN_DT_F32 && cuda_vector(m->weights[1], n),
                          "needs one float32 scale per output", err);
    return rc ? rc
              : cuda_require(m, m->n_weights == needed(m) || cuda_vector(m->weights[needed(m)], n),
                             "the bias must be as wide as the output", err);
}

static int32_t check_norm(const tn_op *op, tn_err *err)
{
    const tn_op *norm = op->members[0];

    return cuda_require(op, norm->n_weights == 1 && cuda_vector(norm->weights[0], op->in[0]->width),
                        "needs a norm over whole rows", err);
}

/* Whether matrices a and b can share tiles, and the rows that they are multiplied with. */
static int alike(const tn_op *a, const tn_op *b)
{
    return tn_op_int(a, "group", 0) == tn_op_int(b, "group", 0) &&
           tn_op_real(a, "act_scale", 0.0) == tn_op_real(b, "act_scale", 0.0);
}

int32_t narrow_can_run(void *instance, const tn_op *op, tn_err *err)
{
    const struct form *f = form_of(op);
    uint32_t dtype = op->n_in ? op->in[0]->dtype : 0, n_out = f && f->matrices == 3 ? 3 : 1;
    int32_t rc = TN_OK;

    (void)instance;
    if (!f || op->n_members != members_of(op, f) ||
        !cuda_form(op, f->finish == FINISH_ADD ? 2 : 1, n_out, 2, 13) ||
        (dtype != TN_DT_F16 && dtype != TN_DT_BF16) ||
        op->out[0]->dtype != (f->finish == FINISH_LOGITS ? (uint32_t)TN_DT_F32 : dtype))
        return cuda_require(op, 0, "not the form of this variant, or rows not 16 bits wide", err);
    if (has_norm(op))
        rc = check_norm(op, err);
    for (uint32_t i = 0; i < f->matrices && rc == TN_OK; i++) {
        const tn_op *m = linear_of(op, i), *first = linear_of(op, 0);
        rc = check_linear(m, first->n_weights ? first->weights[0]->dtype : 0,
                          op->out[n_out == 3 ? i : 0]->width, op->in[0]->width, err);
        if (rc == TN_OK)
            rc = cuda_require(op, alike(m, first),
                              "its matrices have groups or scales of rows that differ", err);
    }
    return rc ? rc
              : cuda_require(op, op->n_in == 1 || op->in[1]->width == op->out[0]->width,
                             "the residual differs in width", err);
}

/* -- Planning -------------------------------------------------------------------------------------------------------- */

static double outputs(const tn_op *op, const struct form *f)
{
    double n = 0.0;

    for (uint32_t i = 0; i < f->matrices; i++)
        n += (double)linear_of(op, i)->weights[0]->dims[0];
    return n;
}

double narrow_cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    const struct form *f = form_of(op);
    double weights = outputs(op, f) * (double)op->in[0]->width, tiles = cuda_div_up(rows, 32);
    double bytes = dtype_of(op) == TN_DT_I4 ? 0.53 : 1.0;
    double moving = weights * bytes * (1.0 + (double)rows / 64.0) / BYTES_PER_NS;
    double computing = 2.0 * weights * 32.0 * tiles / FLOPS_PER_NS;

    (void)instance;
    return LAUNCH_NS + (moving > computing ? moving : computing);
}

/* The least tile that holds the rows, or else the largest. Of two, that of more rows of the matrix needs x less often, that
 * of fewer gives small matrices enough blocks. */
static const struct shape *choose_shape(const tn_op *op, const struct form *f, uint32_t rows)
{
    const struct shape *s = shapes;

    while (s + 1 < shapes + N_SHAPES && s->bn < rows)
        s++;
    if (s + 1 < shapes + N_SHAPES && s[1].bn == s->bn && outputs(op, f) >= 8192)
        s++;
    return s;
}

/* As narrow_shape and finish_tile of the device code have it. */
static uint32_t shared_bytes(const struct shape *s, uint32_t dtype)
{
    uint32_t panels = 8 / (s->bm / 16), depth = panels * 64 * (dtype == TN_DT_I4 ? 2 : 1);
    uint32_t stage = s->bm * panels * 64 + s->bn * depth * (dtype == TN_DT_I8 ? 1 : 2) +
                     (dtype == TN_DT_I4 ? s->bm * depth / 32 * 8 : 0);
    uint32_t staged = panels * s->bn * (s->bm + 1) * 4;

    return stage * s->stages > staged ? stage * s->stages : staged;
}

/* -- Launching --------------------------------------------------------------------------------------------------------- */

/* Fills in the matrices; returns the tiles that they need. */
static uint32_t set_parts(const tn_launch *l, const struct form *f, uint32_t bm,
                          struct product_args *a)
{
    int gate = f->matrices == 2;
    uint32_t weight = (uint32_t)has_norm(l->op), tiles = 0;

    for (uint32_t i = 0; i < f->matrices; i++) {
        const tn_op *m = linear_of(l->op, i);
        uint32_t needs = needed(m);
        struct part *p = &a->parts[i];
        p->w = l->weights[weight];
        p->stride = m->weights[0]->stride0;
        p->n = (uint32_t)m->weights[0]->dims[0];
        p->scale = l->weights[weight + 1];
        p->scale_stride = m->weights[1]->stride0;
        if (needs == 3) {
            p->zero = l->weights[weight + 2];
            p->zero_stride = m->weights[2]->stride0;
        }
        if (m->n_weights > needs) {
            p->bias = l->weights[weight + needs];
            p->bias_dtype = m->weights[needs]->dtype;
        }
        p->y = l->out[gate ? 0 : i];
        p->first = gate ? 0 : tiles;
        if (!gate || i == 0)
            tiles += cuda_div_up(p->n, gate ? bm / 2 : bm);
        weight += m->n_weights;
    }
    return tiles;
}

int32_t narrow_multiply(void *instance, const tn_launch *l, const void *x, const float *steps,
                        tn_err *err)
{
    const tn_op *op = l->op;
    const struct form *f = form_of(op);
    uint32_t rows = cuda_rows(l), group = (uint32_t)tn_op_int(linear_of(op, 0), "group", 128);
    const struct shape *s = choose_shape(op, f, rows);
    struct product_args a = {.x = x,
                             .step = steps,
                             .residual = f->finish == FINISH_ADD ? l->in[1] : NULL,
                             .k = op->in[0]->width,
                             .n_parts = f->matrices,
                             .rows = rows,
                             .finish = f->finish,
                             .run_shift = group % 128 == 0 ? 7 : 5};
    struct cuda_grid g = {.x = cuda_div_up(rows, s->bn),
                          .threads = 256,
                          .shared_bytes = shared_bytes(s, dtype_of(op)),
                          .flags = TN_LAUNCH_OVERLAP};
    uint32_t type = cuda_float_index(op->in[0]->dtype) - 1;

    if (f->finish == FINISH_LOGITS) {
        a.scale = (float)tn_op_real(op, "scale", 1.0);
        a.softcap = (float)tn_op_real(op, "softcap", 0.0);
    }
    a.runs = group >> a.run_shift;
    g.y = set_parts(l, f, s->bm, &a);
    return code_launch(narrow_code(instance, l->device, dtype_of(op)), l->stream,
                       type * (uint32_t)N_SHAPES + (uint32_t)(s - shapes), g, &a, err);
}

int32_t narrow_launch(void *instance, const tn_launch *l, tn_err *err)
{
    return narrow_multiply(instance, l, l->in[0], NULL, err);
}
