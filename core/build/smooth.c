/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics of each group's value, and the factors that a scheme wants to divide it by. Groups are taken from the
 * end of the plan to its start, so that a matrix whose rows are divided is seen so when its own columns are smoothed. */
#include <inttypes.h>
#include <math.h>

#include "base/log.h"
#include "base/mem.h"
#include "build/matrix.h"
#include "build/quant.h"

#define PERCENTILE 0.999

/* -- Statistics --------------------------------------------------------------------------------------- */

/* Fills g->stats with what the scheme asks for, of the value divided by `divide` (NULL: by 1). */
int32_t quant_set_stats(struct quant *q, struct quant_group *g, const float *divide, tn_err *err)
{
    const struct calibration_input *in = g->raw;
    uint64_t n = g->n_channels;
    float *absmax = arena_array(&q->arena, (size_t)n, sizeof *absmax);
    float *second = arena_array(&q->arena, (size_t)n, sizeof *second);
    float *sample = arena_array(&q->arena, (size_t)(in->n_sample * n), sizeof *sample);
    float largest = 0.0f;
    int32_t rc;

    if (!absmax || !second || !sample)
        return err_nomem(err, "calibration");
    for (uint64_t k = 0; k < n; k++) {
        double by = divide ? (double)divide[k] : 1.0;
        absmax[k] = (float)((double)in->absmax[k] / by);
        second[k] = (float)(in->squares[k] / (double)in->n_rows / (by * by));
        largest = fmaxf(largest, absmax[k]);
        for (uint64_t r = 0; r < in->n_sample; r++)
            sample[r * n + k] = (float)((double)in->sample[r * n + k] / by);
    }
    g->stats = (tn_quant_stats){.h = TN_HDR(tn_quant_stats),
                                .n_channels = n,
                                .n_rows = in->n_rows,
                                .absmax_channel = absmax,
                                .second_moment = second,
                                .sample = in->n_sample ? sample : NULL,
                                .n_sample = in->n_sample,
                                .absmax = largest};
    if (!in->histogram.counts)
        return TN_OK;
    rc = histogram_percentile(&in->histogram, divide, PERCENTILE, &g->stats.percentile, err);
    g->stats.percentile = fminf(g->stats.percentile, largest);
    return rc;
}

/* Of rows that gate and up of an expert read, a file may know nothing: those of all stand for them then. */
static bool may_miss(const struct quant_group *g, const struct calibration_input *in)
{
    return g->value == QUANT_ROUTED && (in ? in->n_rows == 0 : !g->inside);
}

static int32_t find_stats(struct quant *q, struct quant_group *g, const struct calibration *calib,
                          tn_err *err)
{
    const struct plan_weight *w = &q->from->plan->weights[q->linears[g->linears[0]].weight];
    char name[QUANT_EXPERT_NAME];

    quant_group_name(q, g, name);
    g->raw = calibration_find(calib, name);
    if (may_miss(g, g->raw)) {
        g->raw = NULL;
        return TN_OK;
    }
    if (!g->raw || g->raw->n_channels != g->n_channels || g->raw->n_rows == 0) {
        err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, w->name,
               "the calibration has no statistics of %" PRIu64 " channels for this matrix",
               g->n_channels);
        err_remedy(err, "calibrate this model anew with --calib-data");
        return TN_E_FORMAT;
    }
    if (g->value == QUANT_ROUTED && !g->inside)
        return quant_set_stats(q, g, NULL, err);
    if ((q->needs & TN_QUANT_SAMPLE && !g->raw->n_sample) ||
        (q->needs & TN_QUANT_PERCENTILE && !g->raw->histogram.counts)) {
        err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, w->name,
               "the calibration kept no %s of this matrix's input, which the scheme %s asks for",
               g->raw->n_sample ? "histogram" : "rows", q->name);
        err_remedy(err, "calibrate this model anew with --calib-data");
        return TN_E_FORMAT;
    }
    return quant_set_stats(q, g, NULL, err);
}

/* -- Factors ------------------------------------------------------------------------------------------ */

int32_t quant_check_factors(const struct quant *q, const struct quant_group *g, const float *f,
                            bool *any, tn_err *err)
{
    float *first = mem_zarray((size_t)g->n_entries, sizeof *first);
    int32_t rc = first ? TN_OK : err_nomem(err, "smoothing");

    *any = false;
    for (uint64_t k = 0; k < g->n_channels && rc == TN_OK; k++) {
        float *tied = &first[g->entry ? g->entry[k] : k];
        if (!(f[k] >= 1e-9f && f[k] <= 1e9f) || (*tied > 0.0f && *tied != f[k]))
            rc = err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, q->scheme->name,
                        "divides channel %" PRIu64 " by %g: not from 1e-9 to 1e9, or not what a "
                        "tied channel is divided by",
                        k, (double)f[k]);
        *tied = f[k];
        *any = *any || f[k] != 1.0f;
    }
    mem_free(first);
    if (rc != TN_OK)
        err_plugin(err, q->plugin);
    return rc;
}

/* Hands the factors to the weights before and to the matrices behind. */
static int32_t fold(struct quant *q, struct quant_group *g, float *factors, tn_err *err)
{
    float *entries = arena_array(&q->arena, (size_t)g->n_entries, sizeof *entries);

    if (!entries)
        return err_nomem(err, "smoothing");
    for (uint64_t k = 0; k < g->n_channels; k++)
        entries[g->entry ? g->entry[k] : k] = factors[k];
    for (uint32_t i = 0; i < g->n_targets; i++) {
        q->scales[g->targets[i]].divide = entries;
        q->scales[g->targets[i]].offset = i == 0 ? g->offset : 0.0f;
    }
    for (uint32_t i = 0; i < g->n_linears; i++)
        q->scales[q->linears[g->linears[i]].weight].multiply = factors;
    g->divide = factors;
    return quant_set_stats(q, g, factors, err);
}

static int32_t load_group(struct quant *q, const struct quant_group *g, const struct checkpoint *c,
                          float **matrices, const tn_op **ops, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < g->n_linears && rc == TN_OK; i++) {
        const struct quant_linear *l = &q->linears[g->linears[i]];
        struct weight_origin origin = l->made.origin;
        origin.scale = &q->scales[l->weight];
        rc = matrix_load(c, &l->made.source, &origin, &matrices[i], err);
        ops[i] = &l->made.op;
    }
    return rc;
}

static int32_t smooth_group(struct quant *q, struct quant_group *g, const struct checkpoint *c,
                            tn_err *err)
{
    float **matrices = mem_zarray(g->n_linears, sizeof *matrices);
    const tn_op **ops = mem_zarray(g->n_linears, sizeof *ops);
    float *factors = arena_array(&q->arena, (size_t)g->n_channels, sizeof *factors);
    bool any = false;
    int32_t rc = matrices && ops && factors ? TN_OK : err_nomem(err, "smoothing");

    for (uint64_t k = 0; k < g->n_channels && factors; k++)
        factors[k] = 1.0f;
    if (rc == TN_OK)
        rc = load_group(q, g, c, matrices, ops, err);
    if (rc == TN_OK) {
        tn_quant_group group = {.h = TN_HDR(tn_quant_group),
                                .n_ops = g->n_linears,
                                .before = g->before,
                                .n_channels = g->n_channels,
                                .ops = ops,
                                .weights = (const float *const *)matrices,
                                .stats = &g->stats,
                                .tie = g->entry};
        rc = q->scheme->smooth(q->build, &group, factors, err);
        if (rc != TN_OK)
            err_plugin(err, q->plugin);
    }
    if (rc == TN_OK)
        rc = quant_check_factors(q, g, factors, &any, err);
    if (rc == TN_OK && any)
        rc = fold(q, g, factors, err);
    for (uint32_t i = 0; i < g->n_linears && matrices; i++)
        mem_free(matrices[i]);
    mem_free(matrices);
    mem_free(ops);
    return rc;
}

/* Of experts that no row was routed to nothing is known. */
static void tell_unseen(const struct quant *q)
{
    uint32_t n = 0, all = 0;

    for (uint32_t i = 0; i < q->n_groups; i++) {
        all += q->groups[i].inside;
        n += q->groups[i].inside && !q->groups[i].raw;
    }
    if (n)
        log_warn("%" PRIu32 " of %" PRIu32
                 " experts were chosen by no row of the calibration data: their last matrices are "
                 "rounded without it; give more texts, or other ones",
                 n, all);
}

/* Rows of an expert are divided as those of all are. */
static int32_t divide_routed(struct quant *q, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < q->n_groups && rc == TN_OK; i++) {
        struct quant_group *g = &q->groups[i];
        if (g->value != QUANT_ROUTED || g->inside || !g->raw)
            continue;
        g->divide = q->groups[g->outside].divide;
        rc = quant_set_stats(q, g, g->divide, err);
    }
    return rc;
}

int32_t quant_smooth(struct quant *q, const struct checkpoint *c, const struct calibration *calib,
                     tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = q->n_groups; i-- > 0 && rc == TN_OK;) {
        struct quant_group *g = &q->groups[i];
        rc = find_stats(q, g, calib, err);
        if (rc != TN_OK || !q->scheme->smooth || !g->before)
            continue;
        if (g->value != QUANT_ROUTED)
            rc = smooth_group(q, g, c, err);
        else if (g->expert == 0) /* the last to be met */
            rc = quant_smooth_experts(q, g, c, err);
    }
    tell_unseen(q);
    return rc == TN_OK ? divide_routed(q, err) : rc;
}
