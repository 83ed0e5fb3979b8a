/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/tune.h"

#include <inttypes.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/opset.h"
#include "exec/judge.h"
#include "loop/tune_subject.h"
#include "tenon/ops.h"

#define ALIGN 256
#define MAX_CANDIDATES 32
#define MAX_COPIES 8
#define SPREAD                                                                                     \
    (256 *                                                                                         \
     MIB) /* bytes of weights in all copies: more than caches hold, where the copies suffice */
#define REPLAY_NS 2e6  /* a replay needs no more launches than take so long, but two */
#define SHORT_NS 3e5   /* one that takes less has more launches, copies in turns, */
#define LAUNCHES 8     /* up to this: what begins and ends a replay counts less then */
#define REPLAYS 3      /* or more of them, */
#define MOST_REPLAYS 8 /* up to this, */
#define REPLAYS_NS 1e6 /* while they have taken no longer: the least of few varies */
#define ENOUGH_NS 5e7  /* a launch that takes longer is not measured at more rows */
#define ONCE_NS 5e6    /* one that takes longer is measured once, from one copy */
#define QUICK_NS 2e6   /* or, at more rows than the settings allow, than this */
#define FAR_BEHIND 8   /* nor one that takes so many times as long as the fastest */
#define MAX_POINTS 32  /* numbers of rows */

/* Variants as they are measured on one op. */
struct trial {
    const struct tune_options *o;
    struct tune_subject s;
    tn_event *from, *to;
    uint32_t
        own_rows; /* that a step has at most by the settings in force; beyond, only what is quick is measured */
    /* Of the candidates so far, by number of rows, 0: none. [1]: of those that serve all rows alone. */
    double fastest[2][MAX_POINTS];
    /* Of the candidate at hand. */
    const struct candidate *c;
    uint8_t *copies; /* n_copies of its weights, packed or canonical */
    uint64_t copy_bytes;
    uint32_t n_copies;
    void *workspace, *state;
};

/* -- One candidate ----------------------------------------------------------------------------------------- */

/* The candidate's packed weights at the first copy. */
static int32_t pack(struct trial *t, tn_err *err)
{
    const struct candidate *c = t->c;
    bool host_memory = t->o->rank->info.flags & TN_DEVICE_HOST_MEMORY;
    bool on_device = c->v->flags & TN_VARIANT_PACK_ON_DEVICE;
    bool here = host_memory || on_device;
    void *target = here ? t->copies : mem_aligned((size_t)t->copy_bytes, 64);
    int32_t rc;

    if (!target)
        return err_nomem(err, "measuring kernels");
    rc = tune_subject_show(&t->s, here, err);
    if (rc == TN_OK)
        rc = c->v->pack(c->source->instance, t->s.op, target, t->s.stream, err);
    if (rc == TN_OK)
        rc = here ? tune_sync(&t->s, err)
                  : tune_upload(&t->s, t->copies, target, t->copy_bytes, err);
    tune_subject_hide(&t->s);
    if (!here)
        mem_free(target);
    return rc;
}

static int32_t copy_weights(struct trial *t, tn_err *err)
{
    const struct tune_subject *s = &t->s;
    int32_t rc = TN_OK;

    if (t->copy_bytes == 0)
        return TN_OK;
    if (t->c->v->pack_layout)
        rc = pack(t, err);
    else
        rc = s->api->copy(s->device, s->stream, t->copies, s->weights, t->copy_bytes,
                          TN_COPY_DEVICE_TO_DEVICE, err);
    for (uint32_t i = 1; i < t->n_copies && rc == TN_OK; i++)
        rc = s->api->copy(s->device, s->stream, t->copies + i * t->copy_bytes, t->copies,
                          t->copy_bytes, TN_COPY_DEVICE_TO_DEVICE, err);
    return rc;
}

static int32_t begin_candidate(struct trial *t, const struct candidate *c, tn_err *err)
{
    struct tune_subject *s = &t->s;
    uint64_t workspace = 0;
    int32_t rc = TN_OK;

    t->c = c;
    t->copy_bytes = s->weight_bytes;
    if (c->v->pack_layout)
        rc = c->v->pack_size(c->source->instance, s->op, &t->copy_bytes, err);
    t->copy_bytes = align_up(t->copy_bytes, ALIGN);
    t->n_copies = t->copy_bytes ? (uint32_t)ceil_div(SPREAD, t->copy_bytes) : 1;
    t->n_copies = t->n_copies > MAX_COPIES ? MAX_COPIES : t->n_copies;
    if (rc == TN_OK && c->v->workspace)
        rc = c->v->workspace(c->source->instance, s->op, s->max_rows, s->max_seqs, s->max_context,
                             &workspace, err);
    if (rc == TN_OK)
        rc = tune_alloc(s, t->copy_bytes * t->n_copies, &t->copies, err);
    if (rc == TN_OK)
        rc = tune_alloc(s, workspace, &t->workspace, err);
    if (rc == TN_OK && TN_HAS(tn_variant, c->v, state_bytes) && c->v->state_bytes > 0)
        rc = tune_alloc(s, c->v->state_bytes, &t->state, err);
    if (rc == TN_OK && t->state)
        rc = s->api->fill(s->device, s->stream, t->state, 0, c->v->state_bytes, err);
    return rc == TN_OK ? copy_weights(t, err) : rc;
}

static void end_candidate(struct trial *t)
{
    tune_free(&t->s, t->copies);
    tune_free(&t->s, t->workspace);
    tune_free(&t->s, t->state);
    t->copies = NULL;
    t->workspace = NULL;
    t->state = NULL;
}

static int32_t launch(struct trial *t, uint32_t copy, tn_err *err)
{
    const struct tune_subject *s = &t->s;
    uint8_t *base = t->copies + copy * t->copy_bytes;
    const void *weights[TUNE_MAX_WEIGHTS];
    tn_launch l = {.h = TN_HDR(tn_launch),
                   .op = s->op,
                   .batch = &s->batch.batch,
                   .in = s->in,
                   .out = s->out,
                   .kv = s->kv.base ? &s->kv : NULL,
                   .workspace = t->workspace,
                   .state = t->state,
                   .stream = s->stream,
                   .device = s->device,
                   .tp_rank = t->o->rank->o.topo.tp_rank,
                   .tp_size = t->o->rank->o.topo.tp_size};

    for (uint32_t i = 0; i < s->op->n_weights; i++)
        weights[i] = base + s->weight_at[i];
    if (t->c->v->pack_layout)
        l.packed = base;
    else
        l.weights = weights;
    return t->c->v->launch(t->c->source->instance, &l, err);
}

static int32_t launch_all(struct trial *t, uint32_t copies, uint32_t n, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < n && rc == TN_OK; i++)
        rc = launch(t, i % copies, err);
    return rc;
}

/* -- Timing ------------------------------------------------------------------------------------------------ */

/* Nanoseconds per launch of n, in turns on that many copies, by the graph if there is one. */
static int32_t time_once(struct trial *t, tn_graph *g, uint32_t copies, uint32_t n, double *ns,
                         tn_err *err)
{
    struct tune_subject *s = &t->s;
    uint64_t begin = clock_ns();
    int32_t rc = s->stream ? s->api->event_record(s->device, t->from, s->stream, err) : TN_OK;

    if (rc == TN_OK)
        rc = g ? s->api->graph_launch(s->device, g, s->stream, err) : launch_all(t, copies, n, err);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_record(s->device, t->to, s->stream, err);
    if (rc == TN_OK)
        rc = tune_sync(s, err);
    *ns = (double)(clock_ns() - begin);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_elapsed_ns(s->device, t->from, t->to, ns, err);
    *ns /= n;
    return rc;
}

static int32_t capture(struct trial *t, uint32_t copies, uint32_t n, tn_graph **g, tn_err *err)
{
    struct tune_subject *s = &t->s;
    tn_err ignored = TN_ERR_INIT;
    int32_t rc, end;

    *g = NULL;
    if (!(t->o->rank->info.flags & TN_DEVICE_GRAPHS) || !(t->c->v->flags & TN_VARIANT_GRAPH_SAFE))
        return TN_OK;
    rc = s->api->capture_begin(s->device, s->stream, err);
    if (rc != TN_OK)
        return rc;
    rc = launch_all(t, copies, n, err);
    end = s->api->capture_end(s->device, s->stream, g, rc == TN_OK ? err : &ignored);
    return rc != TN_OK ? rc : end;
}

/* The least of some replays of n launches, per launch: what disturbs makes slower, never faster. */
static int32_t time_replays(struct trial *t, uint32_t copies, uint32_t n, double *best, tn_err *err)
{
    tn_graph *g = NULL;
    double spent = 0;
    int32_t rc = capture(t, copies, n, &g, err);

    for (uint32_t i = 0; i < MOST_REPLAYS && (i < REPLAYS || spent < REPLAYS_NS) && rc == TN_OK;
         i++) {
        double ns = 0;
        rc = time_once(t, g, copies, n, &ns, err);
        *best = ns < *best ? ns : *best;
        spent += n * ns;
    }
    if (g)
        t->s.api->graph_free(t->s.device, g);
    return rc;
}

static int32_t time_rows(struct trial *t, uint32_t rows, double *best, tn_err *err)
{
    double first = 0, ns = 0;
    uint32_t copies = t->n_copies, n;
    int32_t rc = tune_subject_rows(&t->s, rows, err);

    *best = 1e30;
    if (rc == TN_OK)
        rc = time_once(t, NULL, 1, 1, &first,
                       err); /* what a first launch prepares is not measured */
    if (rc == TN_OK)
        rc = time_once(t, NULL, 1, 1, &ns, err);
    if (rc != TN_OK)
        return rc;
    if (ns > ONCE_NS) { /* what else it took is little, or happens each time */
        *best = ns;
        return TN_OK;
    }
    /* So long a launch finds little of the one before in a cache. */
    while (copies > 2 && (copies - 1) * ns > REPLAY_NS)
        copies--;
    for (n = copies; n < LAUNCHES && n * ns < SHORT_NS;)
        n++;
    return time_replays(t, copies, n, best, err);
}

static uint32_t next_rows(uint32_t rows, uint32_t max_rows)
{
    return rows < max_rows && rows * 2 > max_rows ? max_rows : rows * 2;
}

/* Notes a time; false if it is so far behind that larger ones need not be taken. Who serves `all` rows is held against his like
 * only: one that is fast where rows are few and serves no more would else leave nobody to be measured beyond. */
static bool in_the_race(struct trial *t, bool all, uint32_t point, double ns)
{
    uint32_t at = point < MAX_POINTS ? point : MAX_POINTS - 1;

    for (int i = 0; i <= all; i++)
        if (t->fastest[i][at] == 0 || ns < t->fastest[i][at])
            t->fastest[i][at] = ns;
    return ns < ENOUGH_NS && ns <= FAR_BEHIND * t->fastest[all][at];
}

static int32_t measure_candidate(struct trial *t, const struct binding_candidate *c, tn_err *err)
{
    tn_err why = TN_ERR_INIT;
    const tn_variant *v = c->candidate->v;
    const char *plugin = c->candidate->source->plugin;
    uint32_t max_rows = t->s.max_rows, point = 0;
    uint32_t most = c->rows[1] < max_rows ? c->rows[1] : max_rows;
    bool goes_on = true, slow;
    int32_t rc = begin_candidate(t, c->candidate, &why);

    for (uint32_t rows = 1; rows <= c->rows[1] && rc == TN_OK && goes_on;
         rows = next_rows(rows, max_rows), point++) {
        double ns = 0;
        if (rows < c->rows[0])
            continue;
        rc = time_rows(t, rows, &ns, &why);
        if (rc != TN_OK || !(ns > 0))
            continue;
        goes_on = in_the_race(t, c->rows[1] >= max_rows, point, ns);
        rc = tuning_set(t->o->tuning, plugin, v, t->s.op, rows, ns, &why);
        slow = ns >= ENOUGH_NS || (rows >= t->own_rows && ns >= QUICK_NS);
        goes_on = goes_on && !slow;
        if (rc == TN_OK && slow && rows < most) /* it grows in proportion */
            rc = tuning_set(t->o->tuning, plugin, v, t->s.op, most, ns / rows * most, &why);
    }
    end_candidate(t);
    if (rc == TN_OK)
        return TN_OK;
    /* One that cannot be measured keeps its estimate; a device that died would fail all the others, too. */
    log_warn("%s/%s: not measured: %s", plugin, v->name, why.msg);
    return tune_sync(&t->s, err);
}

/* -- All ops ------------------------------------------------------------------------------------------------ */

static bool measurable_value(const tn_value *v)
{
    return v->kind == TN_VALUE_KV || v->dtype == TN_DT_F32 || v->dtype == TN_DT_F16 ||
           v->dtype == TN_DT_BF16;
}

/* Experts and collectives hang on more than shapes. */
static bool measurable(const tn_op *op)
{
    static const char *const not [] = {TN_OP_MOE_ROUTE, TN_OP_MOE_MLP, TN_OP_ALL_REDUCE,
                                       TN_OP_ALL_GATHER};

    for (size_t i = 0; i < sizeof not / sizeof *not ; i++)
        if (strcmp(op->name, not [i]) == 0)
            return false;
    if (op->n_members > 0 && strcmp(op->members[0]->name, TN_OP_ALL_REDUCE) == 0)
        return false;
    if (op->n_in > TUNE_MAX_WEIGHTS || op->n_out > TUNE_MAX_WEIGHTS ||
        op->n_weights > TUNE_MAX_WEIGHTS)
        return false;
    for (uint32_t i = 0; i < op->n_in; i++)
        if (!measurable_value(op->in[i]))
            return false;
    for (uint32_t i = 0; i < op->n_out && strcmp(op->name, TN_OP_SAMPLE) != 0; i++)
        if (!measurable_value(op->out[i]))
            return false;
    return true;
}

static int32_t open_trial(struct trial *t, tn_err *err)
{
    struct tune_subject *s = &t->s;
    int32_t rc = tune_subject_open(s, err);

    if (rc == TN_OK && s->stream)
        rc = s->api->event_new(s->device, &t->from, err);
    if (rc == TN_OK && s->stream)
        rc = s->api->event_new(s->device, &t->to, err);
    return rc;
}

static void close_trial(struct trial *t)
{
    struct tune_subject *s = &t->s;

    if (t->from)
        s->api->event_free(s->device, t->from);
    if (t->to)
        s->api->event_free(s->device, t->to);
    tune_subject_close(s);
}

/* Layers look alike: an op of the same shape was measured before, up to as many rows. */
static bool known(const struct tuning *t, const tn_op *op, const struct binding_candidate *list,
                  uint32_t n, uint32_t max_rows)
{
    uint32_t most = 0; /* a fusion may serve fewer rows than a step has, whoever does it */

    for (uint32_t i = 0; i < n; i++)
        most = list[i].rows[1] > most ? list[i].rows[1] : most;
    most = most < max_rows ? most : max_rows;
    for (uint32_t i = 0; i < n; i++)
        if (tuning_rows(t, list[i].candidate->source->plugin, list[i].candidate->v, op) >= most)
            return true;
    return false;
}

/* Times outlive the settings that they are measured under, so that small steps are no reason to measure few rows. */
static uint32_t rows_to_measure(const tn_op *op, uint32_t max_rows)
{
    uint32_t least = TUNE_ROWS;

    for (uint32_t i = 0; i < op->n_in; i++)
        least = op->in[i]->kind == TN_VALUE_LOGITS ? TUNE_SEQS : least;
    for (uint32_t i = 0; i < op->n_out; i++)
        least = op->out[i]->kind == TN_VALUE_LOGITS ? TUNE_SEQS : least;
    return max_rows > least ? max_rows : least;
}

/* The most rows that a variant serves of `max_rows`, whatever steps have now. */
static uint32_t rows_served(const tn_variant *v, uint32_t max_rows)
{
    for (uint32_t i = 0; i < v->n_ranges; i++)
        if (strcmp(v->ranges[i].dim, "rows") == 0 && v->ranges[i].max < max_rows)
            max_rows = (uint32_t)v->ranges[i].max;
    return max_rows;
}

/* The candidates of an op that is to be measured; 0 if it is not. */
static uint32_t candidates(const struct tune_options *o, const struct binding *b,
                           const struct selected *sel, struct binding_candidate *list,
                           uint32_t *max_rows)
{
    const tn_op *op = &sel->op->op;
    uint32_t n = binding_candidates(b, sel, list, MAX_CANDIDATES, max_rows), most = *max_rows;

    /* No fusion takes these: where there is one variant, there is nothing to choose. */
    if (n == 1 && (opset_embeds(op->name) || strcmp(op->name, TN_OP_POSITION) == 0 ||
                   strcmp(op->name, TN_OP_SAMPLE) == 0))
        return 0;
    *max_rows = rows_to_measure(op, most);
    for (uint32_t i = 0; i < n; i++)
        if (list[i].rows[1] == most)
            list[i].rows[1] = rows_served(list[i].candidate->v, *max_rows);
    return measurable(op) && !known(o->tuning, op, list, n, *max_rows) ? n : 0;
}

static int32_t measure_op(const struct tune_options *o, const struct binding *b,
                          const struct selected *sel, tn_err *err)
{
    struct trial t = {.o = o, .s = {.rank = o->rank, .b = b, .op = &sel->op->op}};
    struct binding_candidate list[MAX_CANDIDATES];
    uint32_t n = candidates(o, b, sel, list, &t.s.max_rows);
    uint64_t begin = clock_ns();
    int32_t rc;

    if (n == 0)
        return TN_OK;
    t.own_rows = judge_max_rows(&binding_options(b)->select, sel->op);
    rc = open_trial(&t, err);
    for (uint32_t i = 0; i < n && rc == TN_OK; i++) {
        uint64_t since = clock_ns();
        rc = measure_candidate(&t, &list[i], err);
        log_debug("%s: %s measured in %.1f ms", sel->op->op.name, list[i].candidate->v->name,
                  (double)(clock_ns() - since) / 1e6);
    }
    close_trial(&t);
    log_debug("%s: %" PRIu32 " variants measured in %.1f ms", sel->op->op.name, n,
              (double)(clock_ns() - begin) / 1e6);
    return rc;
}

static int32_t tune_binding(const struct tune_options *o, const struct binding *b, tn_err *err)
{
    const struct selection *sel = binding_selection(b);
    int32_t rc = TN_OK;

    for (size_t i = 0; i < sel->n_ops && rc == TN_OK; i++) {
        rc = measure_op(o, b, &sel->ops[i], err);
        if (rc == TN_OK && o->progress &&
            o->progress(o->arg, (uint32_t)i + 1, (uint32_t)sel->n_ops))
            rc = tn_err_set(err, TN_E_CANCELED, "measuring was interrupted");
    }
    return rc;
}

int32_t tune_rank(const struct tune_options *o, const struct binding *chosen, tn_err *err)
{
    struct binding *basic = NULL;
    int32_t rc = tune_binding(o, chosen, err);

    if (rc == TN_OK)
        rc = rank_bind_dry(o->rank, false, &basic, err);
    if (rc == TN_OK)
        rc = tune_binding(o, basic, err);
    binding_free(basic);
    return rc;
}

/* -- At the first load --------------------------------------------------------------------------------------- */

#define ROUNDS 3 /* choices by new times may bring ops that were not measured, but not for ever */
#define TELL_NS UINT64_C(2000000000)

static uint32_t unknown_ops(const struct tune_options *o, const struct binding *b)
{
    const struct selection *sel = binding_selection(b);
    struct binding_candidate list[MAX_CANDIDATES];
    uint32_t n = 0, max_rows;

    for (size_t i = 0; i < sel->n_ops; i++)
        n += candidates(o, b, &sel->ops[i], list, &max_rows) > 0;
    return n;
}

struct telling {
    const char *place;
    uint64_t since;
};

static int tell(void *arg, uint32_t done, uint32_t total)
{
    struct telling *t = arg;
    uint64_t now = clock_ns();

    if (now - t->since >= TELL_NS) {
        log_info("%s: measuring kernels, op %" PRIu32 " of %" PRIu32, t->place, done, total);
        t->since = now;
    }
    return 0;
}

static void save(const struct rank *r, uint64_t begin)
{
    char *path = path_join(r->in->engine->dir, TUNING_FILE);
    tn_err why = TN_ERR_INIT;

    if (!path || tuning_save(r->tuning, path, &why) != TN_OK)
        log_warn("%s: measured times are lost when this ends: %s", r->place, why.msg);
    else
        log_info("%s: %zu times measured in %.1f s, kept in %s", r->place, tuning_count(r->tuning),
                 (double)(clock_ns() - begin) / 1e9, path);
    mem_free(path);
}

static bool tunes(const struct rank *r)
{
    return conf_bool(r->in->o.conf, CONF_KERNELS_TUNE) && r->in->engine->dir && !r->in->o.dry &&
           !r->in->o.tap && r->o.world_size == 1 && !(r->info.flags & TN_DEVICE_HOST_MEMORY);
}

int32_t tune_at_first_load(struct rank *r, tn_err *err)
{
    bool fusion = conf_bool(r->in->o.conf, CONF_KERNELS_FUSION);
    struct telling t = {r->place, clock_ns()};
    struct tune_options o = {.rank = r, .tuning = r->tuning, .progress = tell, .arg = &t};
    struct binding *b = NULL;
    uint64_t begin = t.since;
    tn_err why = TN_ERR_INIT;
    uint32_t round = 0;
    int32_t rc = TN_OK;

    if (!tunes(r))
        return TN_OK;
    for (; rc == TN_OK && round < ROUNDS; round++) {
        rc = rank_bind_dry(r, fusion, &b, err);
        if (rc != TN_OK)
            return rc;
        if (unknown_ops(&o, b) == 0)
            break;
        if (round == 0)
            log_info("%s: the first load of this engine here: measuring kernels (kernels.tune)",
                     r->place);
        rc = tune_rank(&o, b, &why);
        binding_free(b);
        b = NULL;
    }
    binding_free(b);
    r->tune_ns = round > 0 ? clock_ns() - begin : 0;
    if (rc != TN_OK)
        log_warn("%s: kernels are chosen by estimate: %s", r->place, why.msg);
    else if (round > 0)
        save(r, begin);
    return TN_OK;
}
