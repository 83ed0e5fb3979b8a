/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/rank.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "engine/names.h"
#include "loop/tune.h"
#include "plugin/cpu.h"

/* -- The device ---------------------------------------------------------------------------------------- */

static int32_t open_device(struct rank *r, tn_err *err)
{
    const struct instance *in = r->in;
    uint32_t index = r->o.device_index, count = 0;
    int32_t rc = in->api->count(in->device_instance, &count, err);

    if (rc == TN_OK && index >= count) {
        err_at(err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, "device.index",
               "is %" PRIu32 ", but there are %" PRIu32 " devices of kind %s", index, count,
               in->api->kind);
        return TN_E_NOTFOUND;
    }
    snprintf(r->place, sizeof r->place, "%s:%" PRIu32, in->api->kind, index);
    r->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    if (rc == TN_OK)
        rc = in->api->info(in->device_instance, index, &r->info, err);
    if (rc == TN_OK)
        rc = in->api->open(in->device_instance, index, r->o.share, r->o.n_shares, &r->device, err);
    if (rc != TN_OK)
        err_plugin(err, registry_plugin_of(in->view, in->api));
    return rc;
}

static int32_t attach_sets(struct rank *r, tn_err *err)
{
    const struct registry_sets *sets = &r->in->sets;
    int32_t rc = TN_OK;

    r->comm.api = r->in->api;
    r->comm.device = r->device;
    atomic_store(&r->comm.beat.peer, -1);
    for (uint32_t i = 0; i < sets->count && rc == TN_OK; i++) {
        const struct registry_set *s = &sets->items[i];
        if (s->set->attach)
            rc = s->set->attach(s->instance, r->in->api, r->device, err);
        if (rc != TN_OK) {
            err_plugin(err, s->plugin_name);
            return rc;
        }
        r->sources[r->n_attached++] = (struct kernel_source){s->plugin_name, s->set, s->instance};
    }
    return rc;
}

static void set_dtypes(struct rank *r)
{
    const struct instance *in = r->in;
    const char *act = conf_text(in->o.conf, CONF_DEVICE_DTYPE);
    const char *kv = conf_text(in->o.conf, CONF_KV_DTYPE);

    r->act_dtype = strcmp(act, "auto") == 0 ? in->api->act_dtype(r->device, in->meta.dtype)
                                            : dtype_number(act);
    r->kv_dtype = strcmp(kv, "auto") == 0   ? in->meta.kv_dtype ? in->meta.kv_dtype : r->act_dtype
                  : strcmp(kv, "fp8") == 0  ? TN_DT_F8E4M3
                  : strcmp(kv, "int8") == 0 ? TN_DT_I8
                                            : dtype_number(kv);
}

/* -- Binding ------------------------------------------------------------------------------------------- */

static int32_t copy_pins(struct rank *r, tn_err *err)
{
    const struct conf_pin *pins;
    uint32_t count = conf_pins(r->in->o.conf, &pins);

    r->pins = mem_zarray(count, sizeof *r->pins);
    if (!r->pins)
        return err_nomem(err, "pins");
    for (uint32_t i = 0; i < count; i++)
        if (pins[i].device[0] == '\0' || strcmp(pins[i].device, r->place) == 0)
            r->pins[r->n_pins++] = (struct pin){pins[i].op, pins[i].variant};
    return TN_OK;
}

const char *rank_fallback_text(const struct rank *r)
{
    const char *how = json_string_value(json_at(r->in->engine->meta, "quant.fallback"));

    return how ? how : "it is computed in wider arithmetic";
}

/* Never silently: the user asked for arithmetic that this device does not have. */
static void tell_fallback(const struct rank *r)
{
    const char *op = binding_fallback(r->binding);

    if (op && r->o.topo.tp_rank == 0)
        log_warn("%s has no arithmetic of its own for %s: %s", r->place, op, rank_fallback_text(r));
}

/* What a set's times depend on beside itself; "" if on nothing. */
static const char *set_depends_on(const struct rank *r, const struct kernel_source *s)
{
    const char *text = TN_HAS(tn_kernel_set, s->set, depends_on) && s->set->depends_on
                           ? s->set->depends_on(s->instance, r->device)
                           : NULL;

    return text ? text : "";
}

/* Name, driver, kernel sets and their libraries: what measured times depend on beside the ops. */
static int32_t tuning_key(const struct rank *r, struct strbuf *key, tn_err *err)
{
    const struct registry *reg = r->in->o.registry;

    strbuf_printf(key, "%s; %u.%u; %s;", r->info.name, (unsigned)r->info.gpu.major,
                  (unsigned)r->info.gpu.minor, r->info.driver);
    for (uint32_t i = 0; i < r->n_attached; i++)
        for (uint32_t k = 0; k < registry_count(reg); k++) {
            struct registry_info p;
            registry_info(reg, k, &p);
            if (p.state == REGISTRY_LOADED && strcmp(p.name, r->sources[i].plugin) == 0)
                strbuf_printf(key, " %s %s %.12s (%s)", p.name, p.version, p.content,
                              set_depends_on(r, &r->sources[i]));
        }
    return key->failed ? err_nomem(err, "measured times") : TN_OK;
}

/* Measured times, if there are any beside the engine. A damaged file is no reason not to run. */
static int32_t open_tuning(struct rank *r, tn_err *err)
{
    struct strbuf key = STRBUF_INIT;
    tn_err why = TN_ERR_INIT;
    char *path = path_join(r->in->engine->dir ? r->in->engine->dir : "", TUNING_FILE);
    int32_t rc = path ? tuning_key(r, &key, err) : err_nomem(err, "measured times");

    if (rc == TN_OK)
        rc = tuning_new(strbuf_str(&key), &r->tuning, err);
    if (rc == TN_OK && r->in->engine->dir && tuning_load(r->tuning, path, &why) != TN_OK)
        log_warn("%s: %s", path, why.msg);
    if (rc == TN_OK && tuning_count(r->tuning) > 0)
        log_info("%s: %zu measured times of %s", r->place, tuning_count(r->tuning), path);
    strbuf_release(&key);
    mem_free(path);
    return rc;
}

enum bind_way {
    BIND_ALL,
    BIND_COUNT, /* books what would be allocated */
    BIND_DRY    /* chooses only */
};

static const char *no_parts(const struct rank *r)
{
    return conf_bool(r->in->o.conf, CONF_PARALLEL_FUSION) ? comm_no_parts(&r->comm)
                                                          : "parallel.fusion is false";
}

static int32_t bind_how(struct rank *r, bool fusion, enum bind_way way, struct binding **out,
                        tn_err *err)
{
    const struct instance *in = r->in;
    struct bind_options o = {.engine = in->engine,
                             .api = in->api,
                             .device = r->device,
                             .place = r->place,
                             .ledger = in->o.ledger,
                             .topo = r->o.topo,
                             .comm = &r->comm,
                             .select = {.sources = r->sources,
                                        .n_sources = r->n_attached,
                                        .device = &r->info,
                                        .device_kind = in->api->kind,
                                        .act_dtype = r->act_dtype,
                                        .kv_dtype = r->kv_dtype,
                                        .max_rows = in->max_num_tokens,
                                        .max_logits = in->max_logits,
                                        .fusion = fusion,
                                        .no_parts = no_parts(r),
                                        .pins = r->pins,
                                        .n_pins = r->n_pins,
                                        .tuning = r->tuning},
                             .max_seqs = in->max_batch_size,
                             .max_context = in->max_seq_len,
                             .block_tokens = in->block_tokens,
                             .progress = in->o.progress,
                             .arg = in->o.arg,
                             .tap = in->o.tap,
                             .tap_arg = in->o.tap_arg,
                             .count = way == BIND_COUNT,
                             .dry = way == BIND_DRY};

    if (r->o.topo.tp_size > 1)
        r->sources[o.select.n_sources++] = comm_source(&r->comm, in->api->kind);
    cpu_features(o.select.cpu);
    return binding_new(&o, out, err);
}

int32_t rank_bind_dry(struct rank *r, bool fusion, struct binding **out, tn_err *err)
{
    return bind_how(r, fusion, BIND_DRY, out, err);
}

int32_t rank_bind(struct rank *r, tn_err *err)
{
    bool fusion = conf_bool(r->in->o.conf, CONF_KERNELS_FUSION);
    int32_t rc = tune_at_first_load(r, err);

    if (rc == TN_OK)
        rc = bind_how(r, fusion, r->in->o.dry ? BIND_DRY : BIND_ALL, &r->binding, err);
    if (rc == TN_OK)
        tell_fallback(r);
    return rc;
}

/* -- Opening ------------------------------------------------------------------------------------------- */

int32_t rank_open(const struct instance *in, const struct rank_options *o, struct rank **out,
                  tn_err *err)
{
    struct rank *r = mem_zalloc(sizeof *r);
    int32_t rc;

    if (!r)
        return err_nomem(err, "a rank");
    r->in = in;
    r->o = *o;
    rc = open_device(r, err);
    if (rc == TN_OK)
        rc = attach_sets(r, err);
    if (rc == TN_OK)
        set_dtypes(r);
    if (rc == TN_OK)
        rc = copy_pins(r, err);
    if (rc == TN_OK)
        rc = open_tuning(r, err);
    if (rc != TN_OK) {
        rank_close(r);
        return rc;
    }
    *out = r;
    return TN_OK;
}

static uint64_t logits_bytes(const struct rank *r)
{
    return (uint64_t)r->in->max_logits * r->in->vocab * sizeof(float);
}

void rank_quiet(struct rank *r)
{
    if (r && r->binding)
        binding_wait(r->binding, NULL);
}

void rank_close(struct rank *r)
{
    if (!r)
        return;
    rank_quiet(r);
    step_graphs_release(&r->graphs);
    for (uint32_t i = 0; i < STEP_SLOTS; i++)
        if (r->done[i])
            r->in->api->event_free(r->device, r->done[i]);
    if (r->logits)
        ledger_give(r->own_logits, logits_bytes(r));
    mem_free(r->logits);
    comm_leave(&r->comm);
    step_arrays_release(&r->arrays);
    mem_free(r->sampled);
    mem_free(r->logprob);
    binding_free(r->binding);
    while (r->n_attached > 0) {
        const struct kernel_source *s = &r->sources[--r->n_attached];
        if (s->set->detach)
            s->set->detach(s->instance, r->device);
    }
    if (r->device)
        r->in->api->close(r->device);
    tuning_free(r->tuning);
    mem_free(r->pins);
    mem_free(r);
}

/* Pages of `b` that fit what is free when `taken` bytes more are taken. */
static int32_t fit_pages(const struct rank *r, const struct binding *b, uint64_t taken, uint32_t *n,
                         tn_err *err)
{
    const struct instance *in = r->in;
    uint64_t page = binding_page_bytes(b);
    uint64_t want = (uint64_t)in->max_batch_size * ceil_div(in->max_seq_len, in->block_tokens);
    uint64_t cap = (uint64_t)conf_int(in->o.conf, CONF_KV_MAX_BYTES);
    uint64_t free_bytes = 0, total = 0, budget, fit;
    int32_t rc = in->api->mem_info(r->device, &free_bytes, &total, err);

    if (rc != TN_OK)
        return rc;
    free_bytes = taken < free_bytes ? free_bytes - taken : 0;
    budget =
        (uint64_t)((double)free_bytes * conf_real(in->o.conf, CONF_KV_FRACTION)) / r->o.n_shares;
    if (cap && cap < budget)
        budget = cap;
    fit = page ? budget / page : want;
    fit = fit < want ? fit : want;
    *n = fit < LIMIT_KV_BLOCKS ? (uint32_t)fit : LIMIT_KV_BLOCKS;
    if (*n == 0) {
        err_at(err, TN_E_NOSPACE, NULL, TN_NO_OFFSET, "kv.max_bytes",
               "the cache may take %" PRIu64 " bytes, less than one page of %" PRIu64, budget,
               page);
        err_remedy(err, "free memory on %s, or raise kv.max_bytes or kv.free_mem_fraction",
                   r->place);
        return TN_E_NOSPACE;
    }
    return TN_OK;
}

int32_t rank_fit_pages(const struct rank *r, uint32_t *n, tn_err *err)
{
    return fit_pages(r, r->binding, 0, n, err);
}

int32_t rank_count(struct rank *r, struct binding **out, uint32_t *n_pages, tn_err *err)
{
    uint64_t before = ledger_total(r->in->o.ledger);
    struct binding *b = NULL;
    int32_t rc = bind_how(r, conf_bool(r->in->o.conf, CONF_KERNELS_FUSION), BIND_COUNT, &b, err);

    if (rc == TN_OK)
        rc = fit_pages(r, b, ledger_total(r->in->o.ledger) - before, n_pages, err);
    if (rc == TN_OK)
        rc = binding_alloc_kv(b, *n_pages, err);
    if (rc != TN_OK) {
        binding_free(b);
        return rc;
    }
    *out = b;
    return TN_OK;
}

int32_t rank_alloc_kv(struct rank *r, uint32_t n_pages, tn_err *err)
{
    log_info("%s: %" PRIu32 " cache pages of %" PRIu64 " bytes", r->place, n_pages,
             binding_page_bytes(r->binding));
    if (r->o.world_size > 1) {
        r->sampled = mem_zarray(r->in->max_logits, sizeof *r->sampled);
        r->logprob = mem_zarray(r->in->max_logits, sizeof *r->logprob);
        if (!r->sampled || !r->logprob)
            return err_nomem(err, "a rank");
    }
    return binding_alloc_kv(r->binding, n_pages, err);
}

/* -- Steps --------------------------------------------------------------------------------------------- */

uint32_t rank_depth(const struct rank *r)
{
    return binding_feeds(r->binding) ? STEP_SLOTS : 1;
}

bool rank_wants_logits(const struct sched_step *step)
{
    for (uint32_t i = 0; i < step->n_seqs; i++)
        if (step->seqs[i].n_logits > 0 && !step->seqs[i].samples)
            return true;
    return false;
}

static int32_t capture_steps(struct rank *r, tn_err *err)
{
    const struct step_graphs_options o = {.binding = r->binding,
                                          .arrays = &r->arrays,
                                          .api = r->in->api,
                                          .device = r->device,
                                          .place = r->place,
                                          .ledger = r->in->o.ledger,
                                          .max_batch_size = r->in->max_batch_size,
                                          .max_context = r->in->max_seq_len,
                                          .block_tokens = r->in->block_tokens,
                                          .among_several = r->o.topo.tp_size > 1};

    if (!r->arrays.mirrored || !conf_bool(r->in->o.conf, CONF_KERNELS_GRAPHS))
        return TN_OK;
    return step_graphs_init(&r->graphs, &o, err);
}

int32_t rank_prepare(struct rank *r, const struct batch_capacity *capacity, tn_err *err)
{
    int32_t rc;

    /* Where ranks compute in host memory, they read the arrays that all share. */
    if (r->o.world_size > 1 && (r->info.flags & TN_DEVICE_HOST_MEMORY))
        return TN_OK;
    rc = step_arrays_init(&r->arrays, capacity, r->in->api, r->device, &r->info, r->place,
                          r->in->o.ledger, err);
    for (uint32_t i = 0; i < STEP_SLOTS && rc == TN_OK && binding_stream(r->binding); i++)
        rc = r->in->api->event_new(r->device, &r->done[i], err);
    if (rc == TN_OK)
        rc = ledger_owner(r->in->o.ledger, "logits", "host", &r->own_logits, err);
    return rc == TN_OK ? capture_steps(r, err) : rc;
}

/* Whoever asks for logits measures a model and serves nobody: the memory is made when the first does. */
static int32_t fetch_logits(struct rank *r, const struct step_slot *slot, tn_err *err)
{
    if (!r->logits) {
        r->logits = mem_aligned((size_t)logits_bytes(r), 64);
        if (!r->logits)
            return err_nomem(err, "logits");
        ledger_take(r->own_logits, logits_bytes(r));
    }
    return r->in->api->copy(
        r->device, binding_stream(r->binding), r->logits, binding_logits(r->binding),
        (uint64_t)slot->n_logits * r->in->vocab * sizeof(float), TN_COPY_DEVICE_TO_HOST, err);
}

/* Enqueues what brings the results of the step submitted last, and with it, so that only one kernel lies between two steps, the
 * arrays of the one `ahead`, if it is known by now. */
static int32_t settle(struct rank *r, const struct step_slot *ahead, tn_err *err)
{
    tn_stream *stream = binding_stream(r->binding);
    int32_t rc = step_arrays_move(&r->arrays, r->owed, ahead, stream, err);

    if (rc == TN_OK && r->owed && stream)
        rc = r->in->api->event_record(r->device, r->done[r->owed - r->arrays.slots], stream, err);
    if (rc == TN_OK)
        r->owed = NULL;
    return rc;
}

int32_t rank_submit(struct rank *r, const struct sched *s, const struct sched_step *step,
                    tn_err *err)
{
    uint32_t slot = (uint32_t)(r->submitted % r->arrays.n_slots);
    uint32_t bucket = step_graphs_bucket(&r->graphs, step->n_rows, step->n_seqs, step->n_logits);
    const struct step_slot *t = step_arrays_fill(&r->arrays, slot, s, step, bucket);
    int32_t rc;

    atomic_store(&r->comm.beat.step, step->number);
    rc = settle(r, t, err);
    if (rc == TN_OK)
        rc = bucket ? step_graphs_launch(&r->graphs, bucket, err)
                    : binding_run(r->binding, &t->batch, t->n_unknown > 0, err);
    if (rc == TN_OK && r->arrays.mirrored && rank_wants_logits(step))
        rc = fetch_logits(r, t, err);
    if (rc == TN_OK) {
        r->owed = t;
        r->submitted++;
    }
    return rc;
}

int32_t rank_wait(struct rank *r, struct rank_result *out, tn_err *err)
{
    uint32_t slot = (uint32_t)(r->waited++ % r->arrays.n_slots);
    const struct step_slot *t = &r->arrays.slots[slot];
    int32_t rc;

    *out =
        (struct rank_result){.sampled = t->sampled,
                             .logprob = t->logprob,
                             .logits = r->arrays.mirrored ? r->logits : binding_logits(r->binding)};
    if (!r->done[slot])
        return TN_OK;
    atomic_store(&r->comm.beat.call, "the device");
    rc = r->owed == t ? settle(r, NULL, err) : TN_OK; /* no step came behind it */
    return rc == TN_OK ? r->in->api->event_sync(r->device, r->done[slot], err) : rc;
}

/* -- Steps of several ranks ------------------------------------------------------------------------------ */

static int32_t run_part(struct rank *r, const struct step_parts *p, uint32_t i, tn_err *err)
{
    tn_batch_arrays arrays = p->arrays[i];
    tn_batch batch = p->batch[i];

    arrays.sampled = r->sampled + p->first_logits[i];
    arrays.logprob = r->logprob + p->first_logits[i];
    batch.host = batch.dev = &arrays;
    return binding_run(r->binding, &batch, false, err);
}

/* Waits for the part in a slot, if there is one, and takes what it sampled. */
static int32_t finish_part(struct rank *r, uint32_t slot, tn_err *err)
{
    const struct step_slot *t = &r->arrays.slots[slot];
    int32_t rc;

    if (!r->flying[slot])
        return TN_OK;
    r->flying[slot] = false;
    atomic_store(&r->comm.beat.call, "the device");
    rc = r->in->api->event_sync(r->device, r->done[slot], err);
    if (rc == TN_OK && t->n_logits > 0) {
        memcpy(r->sampled + r->first[slot], t->sampled, t->n_logits * sizeof *t->sampled);
        memcpy(r->logprob + r->first[slot], t->logprob, t->n_logits * sizeof *t->logprob);
    }
    return rc;
}

/* Enqueues a part on a device with memory of its own. Two parts are under way, one behind the other. */
static int32_t enqueue_part(struct rank *r, const struct step_parts *p, uint32_t i, tn_err *err)
{
    const tn_batch *b = &p->batch[i];
    uint32_t slot = i % r->arrays.n_slots;
    uint32_t bucket = step_graphs_bucket(&r->graphs, b->n_rows, b->n_seqs, b->n_logits);
    tn_stream *stream = binding_stream(r->binding);
    const struct step_slot *t;
    int32_t rc = finish_part(r, slot, err);

    if (rc != TN_OK)
        return rc;
    t = step_arrays_adopt(&r->arrays, slot, b, bucket);
    if (!t)
        return tn_err_set(err, TN_E_FORMAT, "a step has more rows than this rank was made for");
    r->first[slot] = p->first_logits[i];
    rc = step_arrays_move(&r->arrays, NULL, t, stream, err);
    if (rc == TN_OK)
        rc = bucket ? step_graphs_launch(&r->graphs, bucket, err)
                    : binding_run(r->binding, &t->batch, false, err);
    if (rc == TN_OK)
        rc = step_arrays_move(&r->arrays, t, NULL, stream, err);
    if (rc == TN_OK && p->wants_logits && r->o.world_rank == 0)
        rc = fetch_logits(r, t, err);
    if (rc == TN_OK)
        rc = r->in->api->event_record(r->device, r->done[slot], stream, err);
    r->flying[slot] = rc == TN_OK;
    return rc;
}

int32_t rank_run_parts(struct rank *r, const struct step_parts *p, tn_err *err)
{
    struct beat *b = &r->comm.beat;
    int32_t rc = TN_OK;

    atomic_store(&b->step, p->batch[0].step);
    atomic_store(&b->since_ns, clock_ns());
    for (uint32_t i = 0; i < p->n && rc == TN_OK; i++)
        rc = r->arrays.mirrored ? enqueue_part(r, p, i, err) : run_part(r, p, i, err);
    for (uint32_t i = 0; i < STEP_SLOTS && rc == TN_OK; i++)
        rc = finish_part(r, (p->n + i) % STEP_SLOTS, err);
    if (rc == TN_OK)
        rc = binding_wait(r->binding, err);
    if (rc == TN_OK)
        rc = comm_check(&r->comm, err);
    if (rc == TN_OK)
        atomic_store(&b->call, NULL);
    return rc;
}

void rank_parts_result(const struct rank *r, struct rank_result *out)
{
    *out =
        (struct rank_result){.sampled = r->sampled,
                             .logprob = r->logprob,
                             .logits = r->arrays.mirrored ? r->logits : binding_logits(r->binding)};
}
