/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Channels of keys are brought nearer to one size before the op `hadamard` spreads them over the elements of a cache in
 * float8_e4m3: there all elements are then rounded by what the largest channels would need, and a channel in which keys are
 * small and queries large would suffer. Half way (factors are square roots of sizes) is best where sets round to the nearest, for
 * queries that tell no channel from another, and as good as all the way where they round with feedback. Keys are divided and queries multiplied by the same factors, so that scores stay;
 * weights in front of them take the factors, which are powers of two: no weight loses a bit by it. What shapes rounding
 * (feedback.c), ranges and means of keys follow from statistics of the model as it is.
 */
#include <inttypes.h>
#include <math.h>

#include "base/mem.h"
#include "build/quant.h"
#include "tenon/hadamard.h"
#include "tenon/ops.h"

/* Factors are within 2^-4 and 2^4 of a head's mean, so that queries stay within float16. */
#define MOST_OCTAVES 4

/* Added to second moments, as a share of their mean. */
#define FLOOR 0.01

/* The weights in front of queries or keys that can take factors of `n_entries` elements: one head (then all heads share the
 * factors) or all of them. */
struct side {
    uint32_t n_targets, targets[2];
    float offset; /* of the first */
    uint64_t n_entries, width;
    const struct plan_op *rope; /* NULL: none */
};

struct layer {
    size_t append;              /* index of the op */
    uint64_t heads, dim, share; /* of keys; queries' heads per head of keys */
    struct side keys, queries;
};

/* The factor of order m of tenon/hadamard.h, on m elements that lie `apart`. */
static void turn_base(float *x, uint32_t m, size_t apart, const uint32_t *rows)
{
    float before[TN_HADAMARD_MOST];

    for (uint32_t c = 0; c < m; c++)
        before[c] = x[c * apart];
    for (uint32_t r = 0; r < m; r++) {
        float sum = 0.0f;
        for (uint32_t c = 0; c < m; c++)
            sum += rows[r] >> c & 1 ? -before[c] : before[c];
        x[r * apart] = sum;
    }
}

void quant_turn(float *x, size_t n, uint64_t dim)
{
    uint32_t order = tn_hadamard_order((uint32_t)dim), m = tn_hadamard_base(order), two = order / m;
    uint32_t rows[TN_HADAMARD_MOST];
    float by = 1.0f / sqrtf((float)order);

    for (size_t i = 0; i < n; i++)
        x[i] *= by;
    for (size_t h = 1; h < two; h *= 2)
        for (size_t i = 0; i < n; i++)
            if (!(i & h)) {
                float a = x[i], b = x[i + h];
                x[i] = a + b;
                x[i + h] = a - b;
            }
    tn_hadamard_rows(m, rows);
    for (size_t run = 0; run < n && m > 1; run += order)
        for (size_t i = run; i < run + two; i++)
            turn_base(x + i, m, two, rows);
}

/* -- What takes the factors ----------------------------------------------------------------------------- */

static bool is_op(const struct plan_op *op, const char *name)
{
    return strcmp(op->name, name) == 0;
}

/* The op that makes a value which nobody else reads; NULL: others do, or the step brings it. */
static const struct plan_op *sole_producer(const struct plan *p, uint32_t value)
{
    return quant_readers(p, value) == 1 && p->values[value].producer < p->n_ops
               ? &p->ops[p->values[value].producer]
               : NULL;
}

static bool can_take(const struct quant *q, uint32_t weight)
{
    const struct weight_scale *s = &q->scales[weight];

    return quant_is_plain(q, weight) && !s->divide && !s->rows &&
           quant_users(q->from->plan, weight) == 1;
}

static bool find_side(const struct quant *q, uint32_t value, uint64_t dim, struct side *s)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *op = sole_producer(p, value);
    const tn_attr *offset;

    s->width = p->values[value].width;
    if (op && is_op(op, TN_OP_ROPE)) {
        s->rope = op;
        op = sole_producer(p, op->in[0]);
    }
    if (!op || op->n_weights < 1 || op->n_weights > 2 ||
        !(is_op(op, TN_OP_LINEAR) || is_op(op, TN_OP_RMS_NORM) || is_op(op, TN_OP_LAYER_NORM)))
        return false;
    offset = plan_attr(op, "offset");
    s->offset = offset ? (float)offset->f : 0.0f;
    s->n_targets = op->n_weights;
    memcpy(s->targets, op->weights, op->n_weights * sizeof *op->weights);
    s->n_entries = p->weights[op->weights[0]].dims[0];
    for (uint32_t i = 0; i < s->n_targets; i++)
        if (!can_take(q, s->targets[i]) || p->weights[s->targets[i]].dims[0] != s->n_entries)
            return false;
    return s->n_entries == s->width || s->n_entries == dim;
}

static bool rotate_alike(const struct plan_op *a, const struct plan_op *b)
{
    if (!a || !b)
        return a == b;
    return plan_attr(a, "rotary_dim")->i == plan_attr(b, "rotary_dim")->i &&
           strcmp(plan_attr(a, "style")->s, plan_attr(b, "style")->s) == 0;
}

static bool find_layer(const struct quant *q, size_t index, struct layer *out)
{
    const struct plan *p = q->from->plan;
    const struct plan_op *append = &p->ops[index], *attention = NULL;
    struct layer l = {.append = index,
                      .heads = (uint64_t)plan_attr(append, "n_kv_heads")->i,
                      .dim = (uint64_t)plan_attr(append, "head_dim")->i};

    for (size_t i = index; i < p->n_ops && !attention; i++)
        if (is_op(&p->ops[i], TN_OP_ATTENTION) && p->ops[i].in[1] == append->out[0])
            attention = &p->ops[i];
    if (!attention || quant_readers(p, append->out[0]) != 1)
        return false;
    l.share = (uint64_t)plan_attr(attention, "n_heads")->i / l.heads;
    if (!find_side(q, append->in[0], l.dim, &l.keys) ||
        !find_side(q, attention->in[0], l.dim, &l.queries))
        return false;
    *out = l;
    return rotate_alike(l.keys.rope, l.queries.rope);
}

/* -- Factors ---------------------------------------------------------------------------------------------- */

/* The element that a rotation mixes element `i` of a head with; i itself: none. */
static uint64_t partner(const struct plan_op *rope, uint64_t i)
{
    uint64_t rotary = rope ? (uint64_t)plan_attr(rope, "rotary_dim")->i : 0;

    if (i >= rotary)
        return i;
    if (strcmp(plan_attr(rope, "style")->s, "pairs") == 0)
        return i ^ 1;
    return i < rotary / 2 ? i + rotary / 2 : i - rotary / 2;
}

/* Second moments of keys around what the cache leaves out of them. */
static void find_moments(const struct calibration_input *in, bool center, float *out)
{
    double n = (double)(in->n_rows ? in->n_rows : 1);

    for (uint64_t k = 0; k < in->n_channels; k++) {
        double mean = in->sums[k] / n;
        out[k] = (float)fmax(in->squares[k] / n - (center ? mean * mean : 0.0), 0.0);
    }
}

/* What is not to be told apart gets the mean of its moments. */
static void tie_moments(const struct layer *l, float *m)
{
    bool alike = l->keys.n_entries == l->dim || l->queries.n_entries == l->dim;

    for (uint64_t i = 0; i < l->dim && alike; i++) {
        float sum = 0.0f;
        for (uint64_t h = 0; h < l->heads; h++)
            sum += m[h * l->dim + i] / (float)l->heads;
        for (uint64_t h = 0; h < l->heads; h++)
            m[h * l->dim + i] = sum;
    }
    for (uint64_t h = 0; h < l->heads; h++, m += l->dim)
        for (uint64_t i = 0; i < l->dim; i++) {
            uint64_t other = partner(l->keys.rope, i);
            if (other > i)
                m[i] = m[other] = 0.5f * (m[i] + m[other]);
        }
}

/* m[dim] of a head becomes powers of two, by which keys are divided; whether any is not 1. */
static bool make_factors(uint64_t dim, float *m)
{
    double sum = 0.0, middle = 0.0;
    bool any = false;

    for (uint64_t i = 0; i < dim; i++)
        sum += (double)m[i] / (double)dim;
    for (uint64_t i = 0; i < dim; i++)
        middle += 0.5 * log2((double)m[i] + FLOOR * sum) / (double)dim;
    for (uint64_t i = 0; i < dim; i++) {
        double octaves = rint(0.5 * (0.5 * log2((double)m[i] + FLOOR * sum) - middle));
        if (!isfinite(octaves))
            octaves = 0.0;
        m[i] = (float)exp2(fmax(-MOST_OCTAVES, fmin(MOST_OCTAVES, octaves)));
        any = any || octaves < 0.0 || octaves > 0.0;
    }
    return any;
}

/* The weights of one side are divided by the factors, or by their inverses. */
static int32_t hand_over(struct quant *q, const struct layer *l, const struct side *s,
                         const float *factors, uint64_t share, bool invert, tn_err *err)
{
    float *entries = arena_array(&q->arena, (size_t)s->n_entries, sizeof *entries);

    if (!entries)
        return err_nomem(err, "factors of keys");
    for (uint64_t k = 0; k < s->n_entries; k++) {
        float f = factors[k / l->dim / share * l->dim + k % l->dim];
        entries[k] = invert ? 1.0f / f : f;
    }
    for (uint32_t i = 0; i < s->n_targets; i++) {
        q->scales[s->targets[i]].divide = entries;
        q->scales[s->targets[i]].offset = i == 0 ? s->offset : 0.0f;
    }
    return TN_OK;
}

static const struct calibration_input *seen_keys(const struct quant *q,
                                                 const struct calibration *calib, size_t append)
{
    char name[32];

    snprintf(name, sizeof name, "kv.%" PRId32 ".k", q->from->plan->ops[append].layer);
    return calibration_find(calib, name);
}

static int32_t balance_layer(struct quant *q, const struct layer *l,
                             const struct calibration *calib, tn_err *err)
{
    const struct calibration_input *in = seen_keys(q, calib, l->append);
    uint64_t n = l->heads * l->dim;
    float *factors;
    bool any = false;
    int32_t rc;

    if (!in || in->n_channels != n)
        return TN_OK; /* whoever needs ranges says so */
    factors = arena_array(&q->arena, (size_t)n, sizeof *factors);
    if (!factors)
        return err_nomem(err, "factors of keys");
    find_moments(in, quant_may_center(q->from->plan, &q->from->plan->ops[l->append]), factors);
    tie_moments(l, factors);
    for (uint64_t h = 0; h < l->heads; h++)
        any = make_factors(l->dim, factors + h * l->dim) || any;
    if (!any)
        return TN_OK;
    rc = hand_over(q, l, &l->keys, factors, 1, false, err);
    if (rc == TN_OK)
        rc = hand_over(q, l, &l->queries, factors, l->share, true, err);
    q->key_factors[l->append] = factors;
    return rc;
}

int32_t quant_balance_keys(struct quant *q, const struct calibration *calib, tn_err *err)
{
    const struct plan *p = q->from->plan;
    struct layer l;
    int32_t rc = TN_OK;

    q->key_factors = arena_array(&q->arena, p->n_ops, sizeof *q->key_factors);
    if (!q->key_factors)
        return err_nomem(err, "factors of keys");
    for (size_t i = 0; i < p->n_ops && rc == TN_OK; i++)
        if (is_op(&p->ops[i], TN_OP_KV_APPEND) && find_layer(q, i, &l))
            rc = balance_layer(q, &l, calib, err);
    return rc;
}

/* -- What follows for the cache --------------------------------------------------------------------------- */

/* H m H of a square, H being what `hadamard` multiplies by; then or before each entry by both of its factors. */
static void turn_square(double *m, uint64_t dim, float *row)
{
    for (int side = 0; side < 2; side++)
        for (uint64_t i = 0; i < dim; i++) {
            uint64_t down = side ? 1 : dim, along = side ? dim : 1;
            for (uint64_t j = 0; j < dim; j++)
                row[j] = (float)m[i * down + j * along];
            quant_turn(row, dim, dim);
            for (uint64_t j = 0; j < dim; j++)
                m[i * down + j * along] = (double)row[j];
        }
}

int32_t quant_balance_products(const struct quant *q, size_t append, uint64_t heads, uint64_t dim,
                               double *products, tn_err *err)
{
    const float *factors = q->key_factors[append];
    float *row = factors ? mem_array((size_t)dim, sizeof *row) : NULL;

    if (factors && !row)
        return err_nomem(err, "factors of keys");
    for (uint64_t h = 0; h < heads && factors; h++, factors += dim) {
        double *m = products + h * dim * dim;
        for (uint64_t i = 0; i < dim; i++)
            for (uint64_t j = 0; j < i; j++)
                m[j * dim + i] = m[i * dim + j];
        turn_square(m, dim, row);
        for (uint64_t i = 0; i < dim; i++)
            for (uint64_t j = 0; j < dim; j++)
                m[i * dim + j] *= (double)factors[i] * (double)factors[j];
        turn_square(m, dim, row);
    }
    mem_free(row);
    return TN_OK;
}

/* The largest key of a head is taken to be as many times the mean one as without factors, and a little more. */
void quant_balanced_ranges(const struct quant *q, size_t append, const struct calibration *calib,
                           float *ranges)
{
    const struct calibration_input *in = seen_keys(q, calib, append);
    uint64_t dim = (uint64_t)plan_attr(&q->from->plan->ops[append], "head_dim")->i;
    const float *factors = q->key_factors[append];

    for (uint64_t h = 0; h < in->n_channels / dim; h++) {
        double before = 0.0, after = 0.0;
        for (uint64_t i = h * dim; i < (h + 1) * dim; i++) {
            before += in->squares[i];
            after += in->squares[i] / ((double)factors[i] * (double)factors[i]);
        }
        if (before > 0.0)
            ranges[h] *= QUANT_RANGE_MARGIN * (float)sqrt(after / before);
    }
}

void quant_balanced_means(const struct quant *q, size_t append, const struct calibration *calib,
                          float *out)
{
    const struct calibration_input *in = seen_keys(q, calib, append);
    uint64_t dim = (uint64_t)plan_attr(&q->from->plan->ops[append], "head_dim")->i;

    for (uint64_t k = 0; k < in->n_channels; k++)
        out[k] = (float)(in->sums[k] / (double)(in->n_rows ? in->n_rows : 1)) /
                 q->key_factors[append][k];
    quant_turn(out, (size_t)in->n_channels, dim);
}
