/* SPDX-License-Identifier: Apache-2.0 */
/* Layout of ranks. Written by the thread that opens a crew, read by all its members. */
#include "loop/groups.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "tenon/ops.h"

/* -- Sizes --------------------------------------------------------------------------------------------------- */

static uint32_t size_of(const struct conf *conf, enum conf_key key, int64_t engine)
{
    int64_t v = conf_int(conf, key);

    return (uint32_t)(v > 0 ? v : engine);
}

static int32_t set_sizes(struct groups *g, const struct instance *in, tn_err *err)
{
    uint32_t layers = (uint32_t)plan_hyper_int(in->engine->plan, TN_HP_LAYERS, 1);

    g->tp_size = size_of(in->o.conf, CONF_PARALLEL_TP, in->meta.tp_size);
    g->pp_size = size_of(in->o.conf, CONF_PARALLEL_PP, in->meta.pp_size);
    if (g->pp_size > layers) {
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.pp_size",
               "is %" PRIu32 ", but the model has %" PRIu32 " layers", g->pp_size, layers);
        err_remedy(err, "choose a --pp-size of at most %" PRIu32, layers);
        return TN_E_CONFIG;
    }
    if ((uint64_t)g->tp_size * g->pp_size > LIMIT_RANKS)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "parallel.tp_size",
                      "times parallel.pp_size is more than %d ranks", LIMIT_RANKS);
    g->world = g->tp_size * g->pp_size;
    g->n_processes = g->n_processes ? g->n_processes : 1;
    g->host_size = g->host_size ? g->host_size : 1;
    if (g->world % g->n_processes != 0) {
        err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.tp_size",
               "%" PRIu32 " x %" PRIu32 " ranks cannot be shared out among %" PRIu32 " processes",
               g->tp_size, g->pp_size, g->n_processes);
        err_remedy(err, "start as many processes as ranks, or a number that divides them");
        return TN_E_CONFIG;
    }
    g->n_local = g->world / g->n_processes;
    g->first_local = g->process * g->n_local;
    return TN_OK;
}

/* The widest thing that goes over a line. */
static void set_max_bytes(struct groups *g, const struct instance *in)
{
    const struct plan *p = in->engine->plan;
    uint64_t most = 0;

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        bool reduce = strcmp(op->name, TN_OP_ALL_REDUCE) == 0;
        if (!reduce && strcmp(op->name, TN_OP_ALL_GATHER) != 0)
            continue;
        const struct plan_value *v = &p->values[op->out[0]];
        uint64_t rows = v->kind == TN_VALUE_LOGITS ? in->max_logits : in->max_num_tokens;
        most = rows * v->width > most ? rows * v->width : most;
    }
    g->max_bytes = most * sizeof(float);
}

/* -- Groups -------------------------------------------------------------------------------------------------- */

static uint32_t rank_of(const struct groups *g, uint32_t stage, uint32_t part)
{
    return (g->pp_size - 1 - stage) * g->tp_size + part;
}

static int32_t plan_groups(struct groups *g, tn_err *err)
{
    uint32_t *at;

    g->memory = mem_zarray(4 * g->world, sizeof *g->memory);
    g->tensor = mem_zarray(g->pp_size, sizeof *g->tensor);
    g->pipeline = mem_zarray(g->tp_size, sizeof *g->pipeline);
    if (!g->memory || !g->tensor || !g->pipeline)
        return err_nomem(err, "groups of ranks");
    at = g->memory;
    for (uint32_t s = 0; s < g->pp_size; s++) {
        g->tensor[s].members = at;
        for (g->tensor[s].n = 0; g->tensor[s].n < g->tp_size; g->tensor[s].n++)
            *at++ = rank_of(g, s, g->tensor[s].n);
    }
    for (uint32_t t = 0; t < g->tp_size; t++) {
        g->pipeline[t].members = at;
        for (g->pipeline[t].n = 0; g->pipeline[t].n < g->pp_size; g->pipeline[t].n++)
            *at++ = rank_of(g, g->pipeline[t].n, t);
    }
    for (uint32_t i = 0; i < g->pp_size + g->tp_size; i++) {
        struct group_plan *p = i < g->pp_size ? &g->tensor[i] : &g->pipeline[i - g->pp_size];
        p->processes = at;
        for (uint32_t k = 0; k < p->n; k++)
            *at++ = p->members[k] / g->n_local;
    }
    return TN_OK;
}

static bool is_local(const struct groups *g, uint32_t rank)
{
    return rank >= g->first_local && rank < g->first_local + g->n_local;
}

static uint32_t local_members(const struct groups *g, const struct group_plan *p)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < p->n; i++)
        n += is_local(g, p->members[i]);
    return n;
}

bool groups_reach_out(const struct groups *g, const struct group_plan *p)
{
    for (uint32_t i = 1; i < p->n; i++)
        if (p->members[i] / g->n_local != p->members[0] / g->n_local)
            return true;
    return false;
}

/* What lies between the devices of a group's ranks, as far as they are in this process. */
struct between {
    bool host, shared, reach,
        nvlink; /* all in host memory; two on one device; all reach all; and by NVLink */
    const struct group_pair *worst; /* measured, where the direct way loses most or what is sent */
};

/* The times between two devices, measured when they are first asked for; NULL: they cannot be had. */
static const struct group_pair *pair_of(struct groups *g, const struct instance *in, uint32_t a,
                                        uint32_t c)
{
    struct group_pair *p;
    tn_err why = TN_ERR_INIT;

    for (size_t i = 0; i < g->n_pairs; i++)
        if (g->pairs[i].from == a && g->pairs[i].to == c)
            return &g->pairs[i];
    if (!mem_grow(&g->pairs, &g->cap_pairs, g->n_pairs + 1, sizeof *g->pairs))
        return NULL;
    p = &g->pairs[g->n_pairs++];
    *p = (struct group_pair){.from = a, .to = c};
    if (measure_pair(in->api, in->device_instance, a, c, &p->times, &why) != TN_OK) {
        log_warn("the way from device %" PRIu32 " to device %" PRIu32 " could not be measured: %s",
                 a, c, why.msg);
        p->times = (struct measured_pair){0};
    }
    return p;
}

/* Sums of decode steps are as long as this, roughly. */
#define USUAL_BYTES 65536.0

static double direct_loses_ns(const struct group_pair *p)
{
    return measured_loss_ns(&p->times, USUAL_BYTES);
}

static void look_at_pair(struct groups *g, const struct instance *in, uint32_t a, uint32_t c,
                         struct between *b)
{
    tn_device_link link = {.h = TN_HDR(tn_device_link)};
    size_t worst = b->worst ? (size_t)(b->worst - g->pairs) : 0;
    const struct group_pair *p;

    if (a != c && (!TN_HAS(tn_device_api, in->api, link) || !in->api->link ||
                   in->api->link(in->device_instance, a, c, &link, NULL) != TN_OK))
        link.access = 0;
    b->shared = b->shared || a == c;
    b->reach = b->reach && (a == c || link.access);
    b->nvlink = b->nvlink && a != c && strcmp(link.kind, "nvlink") == 0;
    if (!g->measure || a == c || !link.access)
        return;
    p = pair_of(g, in, a, c);
    b->worst = b->worst ? &g->pairs[worst] : NULL; /* the list may have moved */
    if (p && p->times.staged.tried && (!b->worst || direct_loses_ns(p) > direct_loses_ns(b->worst)))
        b->worst = p;
}

static struct between look_between(struct groups *g, const struct instance *in,
                                   const struct group_plan *p)
{
    struct between b = {.reach = true, .nvlink = true};
    tn_device_info info = {.h = TN_HDR(tn_device_info)};
    struct rank_options at = {.device_index = 0}, other = at;

    b.host = in->api->info(in->device_instance, 0, &info, NULL) == TN_OK &&
             (info.flags & TN_DEVICE_HOST_MEMORY);
    for (uint32_t i = 0; i < p->n && !b.host; i++)
        for (uint32_t k = i + 1; k < p->n; k++) {
            if (!is_local(g, p->members[i]) || !is_local(g, p->members[k]))
                continue;
            groups_place(g, in, p->members[i] - g->first_local, &at, NULL);
            groups_place(g, in, p->members[k] - g->first_local, &other, NULL);
            look_at_pair(g, in, at.device_index, other.device_index, &b);
        }
    return b;
}

/* What was measured, behind what is known of the devices; returns whether the direct way is to be taken. */
static bool tell_measured(struct group_plan *p, const struct group_pair *worst)
{
    const struct measured_way *d = &worst->times.direct, *h = &worst->times.staged;
    size_t n = strlen(p->why);
    bool takes = direct_loses_ns(worst) <= 0;

    if (!d->tried || !d->intact)
        snprintf(p->why, sizeof p->why,
                 "devices %" PRIu32 " and %" PRIu32
                 " say that they reach each other, but what is sent does not arrive",
                 worst->from, worst->to);
    else
        snprintf(p->why + n, sizeof p->why - n,
                 "; %s: %.1f us and %.1f GB/s, through the host %.1f us and %.1f GB/s",
                 takes ? "measured" : "but that was measured to be slower", d->latency_ns / 1e3,
                 d->bandwidth / 1e9, h->latency_ns / 1e3, h->bandwidth / 1e9);
    return takes;
}

/* Who joins a group of devices within a process if nobody was named, and why. */
static const char *choose_between(struct group_plan *p, const struct between *b)
{
    const char *why = b->shared   ? "ranks share a device"
                      : b->nvlink ? "a device each, joined by NVLink"
                                  : "a device each, which reach each other";

    if (!b->reach)
        why = b->shared ? "ranks share devices that do not reach each other"
                        : "devices do not reach each other";
    snprintf(p->why, sizeof p->why, "%s", why);
    p->staged = b->reach && b->worst && !tell_measured(p, b->worst);
    return b->reach && !p->staged ? "local" : "pcie";
}

static const char *choose_name(const struct groups *g, struct group_plan *p,
                               const struct between *b)
{
    bool out = groups_reach_out(g, p);

    if (!b->host && !out)
        return choose_between(p, b);
    snprintf(p->why, sizeof p->why, "ranks are %s, %s",
             out ? "in several processes" : "threads of one process",
             b->host ? "in host memory" : "with memory of devices");
    if (!b->host)
        return "nccl";
    return out ? g->far_comm : "local";
}

/* Whether the backend moves the memory that the ranks compute in. */
static int32_t check_memory(const struct instance *in, const struct group_plan *p,
                            const struct between *b, tn_err *err)
{
    const tn_comm_backend *c = p->backend;

    if (b->host ? !(c->flags & TN_COMM_HOST_MEMORY)
                : !(c->flags & TN_COMM_DEVICE_MEMORY) ||
                      (c->device && strcmp(c->device, in->api->kind) != 0)) {
        tn_err_set(err, TN_E_UNSUPPORTED, "%s does not move memory of devices of kind %s", c->name,
                   in->api->kind);
        return TN_E_UNSUPPORTED;
    }
    if (!b->host && b->shared && (c->flags & TN_COMM_OWN_DEVICE)) {
        tn_err_set(err, TN_E_UNSUPPORTED,
                   "%s joins ranks that have a device each, and here some share one", c->name);
        err_remedy(err, "use --comm local or pcie, or as many devices as ranks");
        return TN_E_UNSUPPORTED;
    }
    return TN_OK;
}

static int32_t choose_backend(struct groups *g, const struct instance *in, struct group_plan *p,
                              tn_err *err)
{
    const char *name = conf_text(in->o.conf, CONF_PARALLEL_COMM);
    struct between b;
    int32_t rc;

    if (p->n == 1)
        return TN_OK;
    g->measure = g->measure && strcmp(name, "auto") == 0;
    b = look_between(g, in, p);
    snprintf(p->why, sizeof p->why, "the configuration names it");
    if (strcmp(name, "auto") == 0)
        name = choose_name(g, p, &b);
    rc = registry_comm(in->view, name, &p->backend, &p->instance, err);
    if (rc != TN_OK)
        return rc;
    p->plugin = registry_plugin_of(in->view, p->backend);
    rc = check_memory(in, p, &b, err);
    if (rc == TN_OK && local_members(g, p) > 0)
        rc = p->backend->can_join(p->instance, p->n, local_members(g, p), NULL, err);
    if (rc != TN_OK) {
        err_plugin(err, p->plugin);
        err_field(err, "parallel.comm");
    }
    return rc;
}

int32_t groups_init(struct groups *g, struct instance *in, tn_err *err)
{
    int32_t rc;

    g->in = in;
    g->measure = conf_bool(in->o.conf, CONF_PARALLEL_MEASURE);
    if (!g->far_comm[0])
        snprintf(g->far_comm, sizeof g->far_comm, "tcp");
    rc = set_sizes(g, in, err);
    if (rc == TN_OK)
        rc = plan_groups(g, err);
    for (uint32_t s = 0; s < g->pp_size && rc == TN_OK; s++)
        rc = choose_backend(g, in, &g->tensor[s], err);
    for (uint32_t t = 0; t < g->tp_size && rc == TN_OK; t++)
        rc = choose_backend(g, in, &g->pipeline[t], err);
    if (rc != TN_OK)
        return rc;
    set_max_bytes(g, in);
    if (g->world > 1)
        log_info("%" PRIu32 " ranks: tensor parallel %" PRIu32 ", pipeline parallel %" PRIu32,
                 g->world, g->tp_size, g->pp_size);
    if (g->tp_size > 1)
        log_info("tensor parallel ranks are joined by %s: %s", g->tensor[0].plugin,
                 g->tensor[0].why);
    if (g->pp_size > 1)
        log_info("pipeline stages are joined by %s: %s", g->pipeline[0].plugin, g->pipeline[0].why);
    return TN_OK;
}

int32_t groups_foresee(struct instance *in, uint32_t n, bool measure, const char **plugin,
                       char why[192], tn_err *err)
{
    struct groups g = {.in = in,
                       .measure = measure,
                       .tp_size = n,
                       .pp_size = 1,
                       .world = n,
                       .n_processes = 1,
                       .host_size = 1,
                       .n_local = n};
    int32_t rc = plan_groups(&g, err);

    if (rc == TN_OK)
        rc = choose_backend(&g, in, &g.tensor[0], err);
    if (rc == TN_OK) {
        *plugin = g.tensor[0].plugin;
        memcpy(why, g.tensor[0].why, sizeof g.tensor[0].why);
    }
    groups_release(&g);
    return rc;
}

void groups_release(struct groups *g)
{
    mem_free(g->memory);
    mem_free(g->tensor);
    mem_free(g->pipeline);
    mem_free(g->pairs);
    *g = (struct groups){0};
}

static int32_t make_id(const struct groups *g, struct group_plan *p, tn_err *err)
{
    bool mine = groups_reach_out(g, p) ? g->process == 0 : local_members(g, p) > 0;
    int32_t rc = p->n > 1 && mine ? p->backend->make_id(p->instance, p->id, err) : TN_OK;

    if (rc != TN_OK)
        err_plugin(err, p->plugin);
    return rc;
}

int32_t groups_ids(struct groups *g, tn_err *err)
{
    int32_t rc = TN_OK;

    for (uint32_t s = 0; s < g->pp_size && rc == TN_OK; s++)
        rc = make_id(g, &g->tensor[s], err);
    for (uint32_t t = 0; t < g->tp_size && rc == TN_OK; t++)
        rc = make_id(g, &g->pipeline[t], err);
    return rc;
}

/* -- Ranks --------------------------------------------------------------------------------------------------- */

int32_t groups_place(const struct groups *g, const struct instance *in, uint32_t index,
                     struct rank_options *out, tn_err *err)
{
    uint32_t world_rank = g->first_local + index, first, n_devices = 0, n, share, n_shares;
    int32_t rc = in->api->count(in->device_instance, &n_devices, err);

    if (rc != TN_OK)
        return rc;
    /* From device.index on, one after another; when there are fewer devices than ranks, they share. */
    first = (uint32_t)conf_int(in->o.conf, CONF_DEVICE_INDEX);
    n = n_devices > first ? n_devices - first : 1;
    share = index / n;
    n_shares = (g->n_local - index % n + n - 1) / n;
    *out = (struct rank_options){.topo = {.tp_rank = world_rank % g->tp_size,
                                          .tp_size = g->tp_size,
                                          .pp_rank = g->pp_size - 1 - world_rank / g->tp_size,
                                          .pp_size = g->pp_size},
                                 .world_rank = world_rank,
                                 .world_size = g->world,
                                 .device_index = first + index % n,
                                 .share = g->host_rank * n_shares + share,
                                 .n_shares = g->host_size * n_shares};
    return TN_OK;
}

static struct comm_line line_of(const struct group_plan *p, uint32_t rank)
{
    return (struct comm_line){.backend = p->backend,
                              .instance = p->instance,
                              .plugin = p->plugin,
                              .rank = rank,
                              .n_ranks = p->n,
                              .members = p->members};
}

void groups_lines(const struct groups *g, struct rank *r)
{
    const struct topology *t = &r->o.topo;

    r->comm.tensor = line_of(&g->tensor[t->pp_rank], t->tp_rank);
    r->comm.pipeline = line_of(&g->pipeline[t->tp_rank], t->pp_rank);
}

static int32_t join(const struct groups *g, const struct group_plan *p, struct rank *r,
                    struct comm_line *line, tn_err *err)
{
    const struct conf *conf = g->in->o.conf;
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = p->id,
                        .rank = line->rank,
                        .n_ranks = p->n,
                        .members = p->members,
                        .processes = p->processes,
                        .api = g->in->api,
                        .device = r->device,
                        .timeout_ns = (uint64_t)conf_int(conf, CONF_PARALLEL_JOIN_MS) * NS_PER_MS,
                        .call_timeout_ns =
                            (uint64_t)conf_int(conf, CONF_PARALLEL_STEP_MS) * NS_PER_MS,
                        .max_bytes = g->max_bytes,
                        .info = &r->info,
                        .flags = (p->staged ? TN_COMM_JOIN_STAGED : 0u) |
                                 (r->o.n_shares > 1 ? TN_COMM_JOIN_SHARED : 0u)};
    int32_t rc;

    if (p->n == 1)
        return TN_OK;
    rc = p->backend->join(p->instance, &how, &line->group, err);
    if (rc != TN_OK)
        err_plugin(err, p->plugin);
    return rc;
}

int32_t groups_join(const struct groups *g, struct rank *r, tn_err *err)
{
    const struct topology *t = &r->o.topo;
    int32_t rc = join(g, &g->tensor[t->pp_rank], r, &r->comm.tensor, err);

    return rc == TN_OK ? join(g, &g->pipeline[t->tp_rank], r, &r->comm.pipeline, err) : rc;
}
