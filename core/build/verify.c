/* SPDX-License-Identifier: Apache-2.0 */
/* The engine that was written is tried: whether this machine computes as it says, and what quantization cost. */
#include <errno.h>
#include <inttypes.h>

#include "base/log.h"
#include "build/building.h"
#include "tenon/ops.h"

/* The limit that what was measured exceeds; NULL: it holds. */
static const char *exceeded(const struct building *b)
{
    const struct build_quant *bq = &b->o->quant;
    const struct gate_result *g = &b->gate;

    if (bq->max_ppl_increase >= 0.0 &&
        !(g->perplexity <= g->base_perplexity * (1.0 + bq->max_ppl_increase)))
        return "--max-ppl-increase";
    return bq->max_kl >= 0.0 && !(g->kl <= bq->max_kl) ? "--max-kl" : NULL;
}

static int32_t rewrite_engine(struct building *b, const char *path)
{
    int32_t rc;

    emission_release(&b->quantized);
    rc = quant_rewrite(b->quant, b->calib, &b->quantized, b->err);
    if (rc == TN_OK && remove(path) != 0)
        rc = err_errno(b->err, "remove", path, errno);
    return rc == TN_OK ? building_write(b, path) : rc;
}

static int32_t gate_failed(struct building *b, const char *limit, uint32_t raised, uint32_t all)
{
    if (all)
        log_error("relative error of each linear's output:");
    for (uint32_t i = 0; i < b->quant->n_linears && all; i++) {
        const struct quant_linear *l = &b->quant->linears[i];
        char error[16] = "-";
        if (l->error >= 0.0)
            snprintf(error, sizeof error, "%.4f", l->error);
        log_error("  %-44s %8s %s", l->made.source.name, error,
                  l->chosen ? l->made.plan.op : l->why);
    }
    err_at(b->err, TN_E_RANGE, NULL, TN_NO_OFFSET, limit,
           "perplexity is %.4f after %.4f, KL %.5f, with %" PRIu32 " of %" PRIu32
           " quantized linears at full precision, of which half may be",
           b->gate.perplexity, b->gate.base_perplexity, b->gate.kl, raised, all);
    err_remedy(b->err, "allow more, give more calibration data, or choose another scheme");
    return TN_E_RANGE;
}

/* A tenth of the linears at a time is raised to full precision, worst first, until the limits hold; half at most. */
static int32_t pass_gate(struct building *b, const struct gate_pair *pair, const char *path)
{
    uint32_t all = 0, step, raised = 0;
    const char *limit;
    int32_t rc = gate_compare(pair, &b->eval_data, &b->gate, b->err);

    for (uint32_t i = 0; i < b->quant->n_linears; i++)
        all += b->quant->linears[i].chosen;
    step = (all + 9) / 10;
    while (rc == TN_OK && (limit = exceeded(b)) != NULL) {
        if (step == 0 || raised + step > all / 2)
            return gate_failed(b, limit, raised, all);
        raised += gate_raise(b->quant, step);
        log_warn("perplexity %.4f after %.4f, KL %.5f: %" PRIu32 " of %" PRIu32
                 " linears stay at full precision",
                 b->gate.perplexity, b->gate.base_perplexity, b->gate.kl, raised, all);
        rc = rewrite_engine(b, path);
        if (rc == TN_OK)
            rc = gate_compare(pair, &b->eval_data, &b->gate, b->err);
    }
    return rc;
}

/* What errors of linears are measured on: data that were given, or what a file of statistics kept of its data. */
static int32_t find_measured(const struct building *b, const int32_t **ids, uint32_t *n)
{
    const struct token_set *t = b->eval_data.n_seqs ? &b->eval_data : &b->calib_data;
    uint64_t vocab = (uint64_t)plan_hyper_int(b->emission.plan, TN_HP_VOCAB, 1);

    *ids = t->n_seqs ? t->ids : b->calib ? b->calib->first : NULL;
    *n = t->n_seqs  ? (uint32_t)(t->begin[1] - t->begin[0])
         : b->calib ? (uint32_t)b->calib->n_first
                    : 0;
    *n = *n < CALIBRATION_FIRST ? *n : CALIBRATION_FIRST;
    if (*n > (uint64_t)b->meta.max_input_len)
        *n = (uint32_t)b->meta.max_input_len;
    for (uint32_t i = 0; i < *n; i++)
        if ((*ids)[i] < 0 || (uint64_t)(*ids)[i] >= vocab)
            return err_at(b->err, TN_E_RANGE, b->o->quant.stats, TN_NO_OFFSET, "data/first",
                          "token %" PRIu32 " is %" PRId32 "; the model has the ids 0 to %" PRIu64,
                          i, (*ids)[i], vocab - 1);
    return TN_OK;
}

int32_t building_check_quality(struct building *b, const char *path)
{
    const struct build_quant *bq = &b->o->quant;
    struct gate_pair pair = {bq->runner, b->base_file, path, b->o->quiet, b->o->stop, b->o->arg};
    const int32_t *ids = NULL;
    uint32_t n = 0;
    int32_t rc = b->quant && b->checkpoint ? find_measured(b, &ids, &n) : TN_OK;

    if (rc != TN_OK || n == 0 || (!b->quant->name && !bq->eval))
        return rc;
    if (!b->base_file) {
        struct emission quantized = b->quantized;
        b->quantized = (struct emission){0};
        rc = building_write_base(b);
        b->quantized = quantized;
        pair.base = b->base_file;
    }
    if (rc == TN_OK && b->quant->name)
        rc = gate_measure_linears(&pair, b->quant, ids, n, b->err);
    if (rc == TN_OK && bq->eval)
        rc = pass_gate(b, &pair, path);
    return rc;
}

/* The engine anew, with linears in float16; what quantizes the cache stays. */
static int32_t rewrite_plain(struct building *b, const char *path)
{
    int32_t rc;

    emission_release(&b->quantized);
    quant_close(b->quant);
    b->quant = NULL;
    emission_release(&b->emission);
    b->plain = true;
    b->dtype = TN_DT_F16;
    if ((rc = building_emit(b)) != TN_OK || (rc = building_set_limits(b)) != TN_OK ||
        (rc = building_quantize(b)) != TN_OK)
        return rc;
    if (remove(path) != 0)
        return err_errno(b->err, "remove", path, errno);
    return building_write(b, path);
}

static bool has_fp8(const struct plan *p)
{
    for (size_t i = 0; i < p->n_ops; i++)
        if (strcmp(p->ops[i].name, TN_OP_LINEAR_FP8) == 0)
            return true;
    return false;
}

/* Whether this machine computes FP8; opening the engine so far has said it if not. A machine that cannot run the
 * engine at all may still build it for another. */
int32_t building_check_arithmetic(struct building *b, const char *path)
{
    const struct runner *r = b->o->quant.runner;
    tn_err why = TN_ERR_INIT;

    if (!r || !has_fp8(building_final(b)->plan))
        return TN_OK;
    if (r->probe(r->arg, path, b->fallback, sizeof b->fallback, &why) != TN_OK) {
        log_warn("whether this machine computes FP8 could not be found out: %s", why.msg);
        return TN_OK;
    }
    if (!b->fallback[0])
        return TN_OK;
    if (!b->o->quant.fp8_as_float16) {
        log_warn("--fp8-fallback float16 would build this engine in float16 instead");
        return TN_OK;
    }
    log_warn("the engine is built anew in float16, as --fp8-fallback says");
    return rewrite_plain(b, path);
}
