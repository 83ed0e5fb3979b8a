/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moe_mlp: rows go to their experts. Every row of an expert's matrix, of whatever dtype, is widened to float32 once and meets all
 * rows that chose the expert: first gate and up, a block of hidden elements to a worker, then down, a block of the output.
 * What a row gets hangs on its own experts alone, in ascending order. Any thread.
 */
#include "experts.h"

#include <string.h>

#include "../common/experts.h"
#include "check.h"
#include "share.h"

#define RUN 256  /* rows at a time, so that hidden rows take memory of bounded size */
#define BLOCK 16 /* rows of matrices that a worker takes at a time */
#define ELEMENT_NS 0.3

/* A run of rows on its way to the workers. A pair is a row and one of its experts. */
struct job {
    const tn_launch *l;
    const struct isa *isa;
    const float *x, *p;
    float *y, *hidden;     /* [pairs, inner] */
    float *scratch;        /* per worker */
    const uint32_t *pairs; /* by expert, ascending within one */
    const uint32_t *begin; /* per expert, where its pairs begin; and one more */
    uint64_t width, inner, top_k, experts;
    uint32_t n_rows;
    enum map_kind act;
};

static const struct {
    const char *name;
    enum map_kind kind;
} acts[] = {{TN_OP_SILU, MAP_SILU},
            {TN_OP_GELU, MAP_GELU},
            {TN_OP_GELU_TANH, MAP_GELU_TANH},
            {TN_OP_RELU, MAP_RELU},
            {TN_OP_RELU2, MAP_RELU2}};

static int act_of(const tn_op *op, enum map_kind *kind)
{
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(tn_op_text(op, "act", TN_OP_SILU), acts[i].name) == 0) {
            *kind = acts[i].kind;
            return 1;
        }
    return 0;
}

int32_t experts_can_run(const tn_op *op, tn_err *err)
{
    const char *fault = experts_fault(op);
    enum map_kind kind;

    if (fault)
        return check_require(op, 0, fault, err);
    return check_require(op,
                         check_f32(op->in[0]) && check_f32(op->out[0]) && act_of(op, &kind) &&
                             op->weights[0]->dims[0] < UINT32_MAX / RUN,
                         "needs float32 rows and an activation that is known", err);
}

double experts_cost_ns(const tn_op *op, uint32_t rows)
{
    return 2000.0 + 0.1 * 3.0 * (double)op->in[0]->width * (double)op->weights[0]->dims[1] *
                        (double)op->in[1]->width * (double)rows;
}

/* -- Memory -------------------------------------------------------------------------------------------- */

static uint64_t scratch_floats(const tn_op *op)
{
    uint64_t width = op->in[0]->width, inner = op->weights[0]->dims[1];

    return 2 * (width > inner ? width : inner);
}

static uint64_t run_pairs(const tn_op *op, uint32_t max_rows)
{
    return (max_rows < RUN ? max_rows : RUN) * op->in[1]->width;
}

uint64_t experts_workspace(const struct cpu_instance *in, const tn_op *op, uint32_t max_rows)
{
    uint64_t pairs = run_pairs(op, max_rows);

    return sizeof(float) *
           (pairs * op->weights[0]->dims[1] + scratch_floats(op) * share_workers(in) + pairs +
            op->weights[0]->dims[0] + 1);
}

/* -- Rows of matrices ------------------------------------------------------------------------------------ */

/* Row n of int4, whose sixteen codes are looked up: per group they are sixteen numbers. */
static void widen_int4(float *y, const uint8_t *w, const float *scale, const int8_t *zero,
                       uint64_t groups, uint64_t width)
{
    uint64_t group = width / groups;

    for (uint64_t g = 0; g < groups; g++) {
        float table[16];
        for (int q = 0; q < 16; q++)
            table[q] = scale[g] * (float)((q ^ 8) - 8 - (zero ? zero[g] : 0));
        for (uint64_t k = g * group; k < (g + 1) * group; k++)
            y[k] = table[w[k / 2] >> (k % 2 * 4) & 15];
    }
}

/* Row n of stack `i`, of expert e. */
static void widen_row(const struct job *j, uint32_t i, uint64_t e, uint64_t n, float *y)
{
    const tn_op *op = j->l->op;
    const tn_weight *w = op->weights[i], *s = op->n_weights > 3 ? op->weights[i + 3] : NULL;
    const char *row = (const char *)j->l->weights[i] + e * w->stride0 +
                      n * (w->dims[2] * tn_dtype_bits(w->dtype) / 8);
    uint64_t groups = experts_groups(op, i);
    const float *scale =
        s ? (const float *)((const char *)j->l->weights[i + 3] + e * s->stride0) + n * groups
          : NULL;
    const int8_t *zero = op->n_weights > 6 ? (const int8_t *)j->l->weights[i + 6] +
                                                 e * op->weights[i + 6]->stride0 + n * groups
                                           : NULL;

    if (w->dtype == TN_DT_I4)
        widen_int4(y, (const uint8_t *)row, scale, zero, groups, w->dims[2]);
    else
        j->isa->widen(y, row, w->dtype, w->dims[2], scale ? *scale : 1.0f);
}

/* -- The two products -------------------------------------------------------------------------------------- */

static uint64_t blocks(uint64_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

/* Item: a block of hidden elements of one expert. */
static void up_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *j = arg;
    float *gate = j->scratch + worker * scratch_floats(j->l->op), *up = gate + j->width;

    for (uint32_t item = first; item < last; item++) {
        uint64_t e = item / blocks(j->inner), n = item % blocks(j->inner) * BLOCK;
        uint64_t end = n + BLOCK < j->inner ? n + BLOCK : j->inner;
        for (; j->begin[e] < j->begin[e + 1] && n < end; n++) {
            widen_row(j, 0, e, n, gate);
            widen_row(j, 1, e, n, up);
            for (uint32_t i = j->begin[e]; i < j->begin[e + 1]; i++) {
                const float *x = j->x + j->pairs[i] / j->top_k * j->width;
                float g = j->isa->dot(gate, x, j->width), a;
                j->isa->map(j->act, &a, &g, NULL, 1, 0.0f);
                j->hidden[j->pairs[i] * j->inner + n] = a * j->isa->dot(up, x, j->width);
            }
        }
    }
}

/* Item: a block of elements of the output. */
static void down_items(void *arg, uint32_t first, uint32_t last, uint32_t worker)
{
    const struct job *j = arg;
    float *down = j->scratch + worker * scratch_floats(j->l->op);
    uint64_t end = (uint64_t)last * BLOCK < j->width ? (uint64_t)last * BLOCK : j->width;

    for (uint64_t n = (uint64_t)first * BLOCK; n < end; n++) {
        for (uint32_t t = 0; t < j->n_rows; t++)
            j->y[t * j->width + n] = 0.0f;
        for (uint64_t e = 0; e < j->experts; e++) {
            if (j->begin[e] < j->begin[e + 1])
                widen_row(j, 2, e, n, down);
            for (uint32_t i = j->begin[e]; i < j->begin[e + 1]; i++)
                j->y[j->pairs[i] / j->top_k * j->width + n] +=
                    j->p[j->pairs[i]] *
                    j->isa->dot(down, j->hidden + j->pairs[i] * j->inner, j->inner);
        }
    }
}

/* Pairs by expert; those of experts that other ranks hold are left out. */
static void sort_pairs(const struct job *j, const int32_t *expert, uint32_t *pairs, uint32_t *begin)
{
    int64_t first = tn_op_int(j->l->op, "expert_first", 0);
    uint32_t n = 0;

    for (uint64_t e = 0; e < j->experts; e++) {
        begin[e] = n;
        for (uint32_t i = 0; i < j->n_rows * j->top_k; i++)
            if (expert[i] - first == (int64_t)e)
                pairs[n++] = i;
    }
    begin[j->experts] = n;
}

static void run_rows(const struct cpu_instance *in, struct job *j, const int32_t *expert,
                     uint32_t *pairs, uint32_t *begin)
{
    double ns = ELEMENT_NS * (double)(j->width * j->inner);

    sort_pairs(j, expert, pairs, begin);
    share_items(in, j->l, up_items, j, (uint32_t)(j->experts * blocks(j->inner)),
                2.0 * ns * (double)begin[j->experts]);
    share_items(in, j->l, down_items, j, (uint32_t)blocks(j->width),
                ns * (double)begin[j->experts]);
}

void experts_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa)
{
    const tn_op *op = l->op;
    struct job j = {.l = l,
                    .isa = isa,
                    .hidden = l->workspace,
                    .width = op->in[0]->width,
                    .inner = op->weights[0]->dims[1],
                    .top_k = op->in[1]->width,
                    .experts = op->weights[0]->dims[0]};
    uint64_t pairs = run_pairs(op, l->batch->n_rows);
    uint32_t *sorted;

    act_of(op, &j.act);
    j.scratch = j.hidden + pairs * j.inner;
    sorted = (uint32_t *)(j.scratch + scratch_floats(op) * share_workers(in));
    j.pairs = sorted;
    j.begin = sorted + pairs;
    for (uint32_t first = 0; first < l->batch->n_rows; first += RUN) {
        uint32_t left = l->batch->n_rows - first;
        j.n_rows = left < RUN ? left : RUN;
        j.x = (const float *)l->in[0] + first * j.width;
        j.p = (const float *)l->in[2] + first * j.top_k;
        j.y = (float *)l->out[0] + first * j.width;
        run_rows(in, &j, (const int32_t *)l->in[1] + first * j.top_k, sorted, sorted + pairs);
    }
}
