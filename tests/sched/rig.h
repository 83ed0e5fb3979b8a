/* SPDX-License-Identifier: Apache-2.0 */
/* A scheduler without a device, for unit tests: the test itself says which tokens a step returned. */
#ifndef TESTS_SCHED_RIG_H
#define TESTS_SCHED_RIG_H

#include <math.h>

#include "base/err.h"
#include "base/mem.h"
#include "check_util.h"
#include "sched/sched.h"

#define VOCAB 100u
#define BT 4u
#define PLAIN 7 /* a token that ends nothing */
#define MAX_EVENTS 512

/* A scheduler, its cache, and all that it said. */
struct rig {
    struct kv_config kv_config;
    struct sched_config config;
    struct kv_cache *kv;
    struct sched *s;
    struct sched_event events[MAX_EVENTS];
    struct sched_usage usages[MAX_EVENTS];
    uint32_t n_events;
    uint64_t now;
    int32_t sampled[64]; /* what the next commit returns; PLAIN unless set */
    int32_t seq_status[64];
};

static inline void on_event(void *arg, const struct sched_event *e)
{
    struct rig *g = arg;

    ck_assert_uint_lt(g->n_events, MAX_EVENTS);
    g->events[g->n_events] = *e;
    if (e->usage)
        g->usages[g->n_events] = *e->usage;
    g->n_events++;
}

/* 16 blocks of 4 tokens, 4 sequences, 32 rows; change g->config before rig_open. */
static inline void rig_init(struct rig *g)
{
    *g = (struct rig){.kv_config = {.n_blocks = 16, .block_tokens = BT, .prefix_reuse = true},
                      .config = SCHED_CONFIG_INIT,
                      .now = 1000};
    g->config.max_batch_size = 4;
    g->config.max_num_tokens = 32;
    g->config.max_seq_len = 64;
    g->config.vocab = VOCAB;
    g->config.audit = true;
    for (int i = 0; i < 64; i++)
        g->sampled[i] = PLAIN;
}

static inline void rig_open(struct rig *g)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(kv_new(&g->kv_config, &g->kv, &err), &err);
    ck_assert_ok(sched_new(&g->config, g->kv, on_event, g, &g->s, &err), &err);
}

/* Everything came back: no request, no holder of a block. */
static inline void rig_close(struct rig *g)
{
    struct sched_stats st;
    tn_err err = TN_ERR_INIT;

    sched_get_stats(g->s, &st);
    ck_assert_ok(sched_audit(g->s, &err), &err);
    ck_assert(sched_idle(g->s));
    ck_assert_uint_eq(st.kv.n_held, 0);
    ck_assert_uint_eq(st.n_reserved, 0);
    ck_assert_uint_eq(st.n_draining, 0);
    sched_free(g->s);
    kv_free(g->kv);
}

static inline const int32_t *tokens_from(int32_t base)
{
    static int32_t tokens[4][128];
    static int next;
    int32_t *t = tokens[next++ % 4];

    for (int32_t i = 0; i < 128; i++)
        t[i] = (base + i) % (int32_t)VOCAB;
    return t;
}

/* Tokens base, base + 1, ...; n_prompt of them. */
static inline struct request_spec spec_of(int32_t base, uint32_t n_prompt, uint32_t max_new)
{
    struct request_spec spec = REQUEST_SPEC_INIT;

    spec.prompt = tokens_from(base);
    spec.n_prompt = n_prompt;
    spec.max_new_tokens = max_new;
    return spec;
}

static inline uint64_t submit(struct rig *g, struct request_spec spec)
{
    struct request *r = NULL;
    tn_err err = TN_ERR_INIT;
    uint64_t id = 0;

    ck_assert_ok(request_new(g->s, &spec, &r, &err), &err);
    ck_assert_ok(sched_submit(g->s, r, g->now, &id, &err), &err);
    return id;
}

static inline const struct sched_step *schedule(struct rig *g)
{
    const struct sched_step *step = NULL;
    tn_err err = TN_ERR_INIT;

    g->now += 10;
    ck_assert_ok(sched_schedule(g->s, g->now, &step, &err), &err);
    return step;
}

/* Commits with what stands in g->sampled and g->seq_status, which are then plain again. */
static inline void commit(struct rig *g, const struct sched_step *step)
{
    struct sched_result result = {.sampled = g->sampled, .seq_status = g->seq_status};
    tn_err err = TN_ERR_INIT;

    ck_assert_ptr_nonnull(step);
    g->now += 10;
    ck_assert_ok(sched_commit(g->s, step, &result, g->now, &err), &err);
    for (int i = 0; i < 64; i++) {
        g->sampled[i] = PLAIN;
        g->seq_status[i] = TN_OK;
    }
}

/* Steps until nothing is left, plain tokens only; returns how many. */
static inline uint32_t drain(struct rig *g)
{
    const struct sched_step *step;
    uint32_t n = 0;

    for (; (step = schedule(g)); n++) {
        ck_assert_uint_lt(n, 1000);
        commit(g, step);
    }
    return n;
}

static inline const struct sched_event *finish_of(const struct rig *g, uint64_t id)
{
    const struct sched_event *found = NULL;

    for (uint32_t i = 0; i < g->n_events; i++) {
        if (g->events[i].id != id)
            continue;
        ck_assert_msg(found == NULL, "an event after the last one, or a second end");
        if (g->events[i].kind == SCHED_EVENT_FINISHED)
            found = &g->events[i];
    }
    return found;
}

static inline const struct sched_usage *usage_of(const struct rig *g, uint64_t id)
{
    const struct sched_event *e = finish_of(g, id);

    ck_assert_ptr_nonnull(e);
    return &g->usages[e - g->events];
}

static inline void ck_ended(const struct rig *g, uint64_t id, uint32_t reason, int32_t status)
{
    const struct sched_event *e = finish_of(g, id);

    ck_assert_msg(e != NULL, "not finished");
    ck_assert_str_eq(sched_reason_text(e->reason), sched_reason_text(reason));
    ck_assert_int_eq(e->status, status);
}

static inline uint32_t n_held(const struct rig *g)
{
    struct kv_stats st;

    kv_get_stats(g->kv, &st);
    return st.n_held;
}

#endif
