/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of core/sched: how requests come and go. One damage each; the simulation (test_sim.c) does
 * the rest. */
#include <pthread.h>

#include "base/err.h"
#include "base/limits.h"
#include "rig.h"
#include "sched/state.h"
#include "tenon/batch.h"

/* -- Refusals ---------------------------------------------------------------------------------- */

static void ck_refused(struct rig *g, struct request_spec spec, int32_t code, const char *field)
{
    struct request *r = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(request_new(g->s, &spec, &r, &err), code);
    ck_assert_str_eq(err.field, field);
    ck_assert_msg(err.msg[0] && err.remedy[0], "no message or no remedy for %s", field);
    ck_assert_ptr_null(r);
}

START_TEST(numbers_out_of_range_are_refused_by_name)
{
    static const int32_t bad_id[] = {0, (int32_t)VOCAB};
    static const int32_t negative[] = {-1};
    static const float values[] = {0, NAN}, many[9];
    struct rig g;
    struct request_spec s;

    rig_init(&g);
    g.config.max_step_bias = 8;
    rig_open(&g);
#define REFUSE(change, code, field)                                                                \
    do {                                                                                           \
        s = spec_of(0, 4, 4);                                                                      \
        change;                                                                                    \
        ck_refused(&g, s, code, field);                                                            \
    } while (0)
    REFUSE(s.n_prompt = 0, TN_E_RANGE, "prompt");
    REFUSE(s.n_prompt = UINT32_MAX, TN_E_RANGE, "prompt");
    REFUSE(s.max_new_tokens = 0, TN_E_RANGE, "max_new_tokens");
    REFUSE(s.max_new_tokens = UINT32_MAX, TN_E_RANGE, "max_new_tokens");
    REFUSE(s.min_new_tokens = 5, TN_E_INVALID, "min_new_tokens");
    REFUSE(s.sampling.temperature = NAN, TN_E_RANGE, "temperature");
    REFUSE(s.sampling.temperature = -1, TN_E_RANGE, "temperature");
    REFUSE(s.sampling.temperature = INFINITY, TN_E_RANGE, "temperature");
    REFUSE(s.sampling.top_p = 0, TN_E_RANGE, "top_p");
    REFUSE(s.sampling.top_p = 1.5f, TN_E_RANGE, "top_p");
    REFUSE(s.sampling.min_p = -0.1f, TN_E_RANGE, "min_p");
    REFUSE(s.sampling.repetition_penalty = 0, TN_E_RANGE, "repetition_penalty");
    REFUSE(s.sampling.repetition_penalty = 1e30f, TN_E_RANGE, "repetition_penalty");
    REFUSE(s.sampling.presence_penalty = 3, TN_E_RANGE, "presence_penalty");
    REFUSE(s.sampling.frequency_penalty = NAN, TN_E_RANGE, "frequency_penalty");
    REFUSE(s.n_stop_ids = LIMIT_STOP_IDS + 1, TN_E_RANGE, "stop_ids");
    REFUSE(s.n_eos_ids = LIMIT_STOP_IDS + 1, TN_E_RANGE, "eos_ids");
    REFUSE(s.n_bias = LIMIT_LOGIT_BIAS + 1, TN_E_RANGE, "logit_bias");
    REFUSE(s.n_logprobs = LIMIT_LOGPROBS + 1, TN_E_RANGE, "n_logprobs");
    REFUSE(s.salt_bytes = LIMIT_SALT_BYTES + 1, TN_E_LIMIT, "salt");
    REFUSE((s.prompt = bad_id, s.n_prompt = 2), TN_E_RANGE, "prompt[1]");
    REFUSE((s.prompt = negative, s.n_prompt = 1), TN_E_RANGE, "prompt[0]");
    REFUSE((s.stop_ids = bad_id, s.n_stop_ids = 2), TN_E_RANGE, "stop_ids[1]");
    REFUSE((s.eos_ids = negative, s.n_eos_ids = 1), TN_E_RANGE, "eos_ids[0]");
    REFUSE((s.bias_ids = bad_id, s.bias_values = values, s.n_bias = 2), TN_E_RANGE,
           "logit_bias[1]");
    REFUSE((s.bias_ids = tokens_from(0), s.bias_values = values, s.n_bias = 2), TN_E_RANGE,
           "logit_bias");
    REFUSE(s.want_logits = true, TN_E_INVALID, "max_new_tokens");
    REFUSE((s.bias_ids = tokens_from(0), s.bias_values = many, s.n_bias = 9), TN_E_LIMIT,
           "logit_bias");
    rig_close(&g);
}
END_TEST

START_TEST(what_can_never_run_is_refused_at_once)
{
    struct rig g;

    rig_init(&g);
    g.kv_config.n_blocks = 8; /* 32 tokens */
    rig_open(&g);
    ck_refused(&g, spec_of(0, 60, 5), TN_E_LIMIT, "max_new_tokens"); /* max_seq_len is 64 */
    ck_refused(&g, spec_of(0, 30, 4), TN_E_LIMIT, "max_new_tokens"); /* computes 33 tokens */
    submit(&g, spec_of(0, 30, 3));                                   /* computes 32 */
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(without_chunks_a_prompt_longer_than_a_step_is_refused)
{
    struct rig g;

    rig_init(&g);
    g.config.chunked_prefill = false;
    rig_open(&g);
    ck_refused(&g, spec_of(0, 33, 4), TN_E_LIMIT, "prompt");
    submit(&g, spec_of(0, 32, 4));
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(a_full_queue_answers_busy_and_a_closed_one_closed)
{
    struct rig g;
    struct request_spec spec = spec_of(0, 4, 1);
    struct request *r = NULL;
    tn_err err = TN_ERR_INIT;
    uint64_t id = 99;

    rig_init(&g);
    g.config.max_queued = 2;
    rig_open(&g);
    submit(&g, spec);
    submit(&g, spec);
    ck_assert_ok(request_new(g.s, &spec, &r, &err), &err);
    ck_assert_int_eq(sched_submit(g.s, r, g.now, &id, &err), TN_E_BUSY);
    ck_assert(err.remedy[0] && id == 99);
    drain(&g);
    ck_assert_ok(sched_submit(g.s, r, g.now, &id, &err), &err);
    ck_assert_ok(request_new(g.s, &spec, &r, &err), &err);
    sched_close(g.s);
    ck_assert_int_eq(sched_submit(g.s, r, g.now, &id, &err), TN_E_CLOSED);
    request_free(r);
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(a_configuration_out_of_range_is_refused_by_name)
{
    struct rig g;

    rig_init(&g);
    rig_open(&g);
#define BAD(name, value)                                                                           \
    do {                                                                                           \
        struct sched_config c = g.config;                                                          \
        struct sched *s = NULL;                                                                    \
        tn_err err = TN_ERR_INIT;                                                                  \
        c.name = value;                                                                            \
        ck_assert_int_eq(sched_new(&c, g.kv, on_event, &g, &s, &err), TN_E_RANGE);                 \
        ck_assert_str_eq(err.field, #name);                                                        \
        ck_assert_ptr_null(s);                                                                     \
    } while (0)
    BAD(policy, 2);
    BAD(max_batch_size, 0);
    BAD(max_batch_size, LIMIT_BATCH + 1);
    BAD(max_num_tokens, 3);
    BAD(max_seq_len, 1);
    BAD(max_logits, 3);
    BAD(max_logits, 33);
    BAD(max_queued, 0);
    BAD(max_in_flight, 0);
    BAD(max_in_flight, SCHED_IN_FLIGHT_MAX + 1);
    BAD(vocab, 0);
    BAD(max_step_history, 63);
    rig_close(&g);
}
END_TEST

/* Each allocation in turn fails, once or from then on. */
static void ramp(struct rig *g, bool persistent)
{
    bool struck = true;

    for (uint64_t n = 1; struck; n++) {
        struct request_spec spec = spec_of(0, 20, 20);
        struct sched *s = NULL;
        struct request *r = NULL;
        tn_err err = TN_ERR_INIT;
        uint64_t id;
        int32_t rc;
        ck_assert_uint_lt(n, 100);
        mem_fail_nth(n, persistent);
        rc = sched_new(&g->config, g->kv, on_event, g, &s, &err);
        if (!rc)
            rc = request_new(s, &spec, &r, &err);
        if (!rc)
            rc = sched_submit(s, r, 1, &id, &err);
        struck = mem_injected();
        mem_fail_nth(0, false);
        ck_assert_int_eq(rc, struck ? TN_E_NOMEM : TN_OK);
        sched_free(s);
    }
}

START_TEST(creation_and_submission_survive_memory_running_out)
{
    struct rig g;

    rig_init(&g);
    rig_open(&g);
    ramp(&g, false);
    ramp(&g, true);
    rig_close(&g);
}
END_TEST

struct maker {
    const struct sched *s;
    pthread_t thread;
    uint32_t n_refused;
};

static void *make_requests(void *arg)
{
    struct maker *m = arg;
    int32_t prompt[24];

    for (uint32_t i = 0; i < 2000; i++) {
        struct request_spec spec = REQUEST_SPEC_INIT;
        struct request *r = NULL;
        tn_err err = TN_ERR_INIT;
        for (int32_t t = 0; t < 24; t++)
            prompt[t] = t;
        prompt[23] = i % 2 ? 5 : -1;
        spec.prompt = prompt;
        spec.n_prompt = 24;
        m->n_refused += request_new(m->s, &spec, &r, &err) != TN_OK;
        request_free(r);
    }
    return NULL;
}

/* The thread sanitizer says whether request_new reads anything that steps write. */
START_TEST(requests_can_be_made_by_other_threads_while_steps_run)
{
    struct rig g;
    struct maker makers[2];

    rig_init(&g);
    rig_open(&g);
    for (int i = 0; i < 2; i++) {
        makers[i] = (struct maker){.s = g.s};
        ck_assert_int_eq(pthread_create(&makers[i].thread, NULL, make_requests, &makers[i]), 0);
    }
    for (int32_t i = 0; i < 20; i++) {
        submit(&g, spec_of(i, 17, 20));
        drain(&g);
        g.n_events = 0;
    }
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(pthread_join(makers[i].thread, NULL), 0);
        ck_assert_uint_eq(makers[i].n_refused, 1000);
    }
    rig_close(&g);
}
END_TEST

START_TEST(no_step_allocates)
{
    struct rig g;

    rig_init(&g);
    g.config.policy = SCHED_MAX_UTILIZATION;
    rig_open(&g);
    for (int32_t i = 0; i < 6; i++)
        submit(&g, spec_of(i * 10, 17, 20));
    mem_fail_nth(1, true);
    drain(&g);
    ck_assert(!mem_injected());
    mem_fail_nth(0, false);
    rig_close(&g);
}
END_TEST

/* -- Ends -------------------------------------------------------------------------------------- */

START_TEST(each_way_to_end_is_told_apart)
{
    static const int32_t eos[] = {50, 51}, stop[] = {60};
    struct rig g;
    struct request_spec spec = spec_of(0, 5, 3);
    uint64_t by_eos, by_stop, by_length;
    const struct sched_step *step;

    rig_init(&g);
    rig_open(&g);
    spec.eos_ids = eos;
    spec.n_eos_ids = 2;
    spec.stop_ids = stop;
    spec.n_stop_ids = 1;
    by_eos = submit(&g, spec);
    by_stop = submit(&g, spec);
    spec.ignore_eos = true;
    by_length = submit(&g, spec);
    step = schedule(&g);
    g.sampled[0] = 51;
    g.sampled[1] = 60;
    g.sampled[2] = 51;
    commit(&g, step);
    drain(&g);
    ck_ended(&g, by_eos, SCHED_END_EOS, TN_OK);
    ck_ended(&g, by_stop, SCHED_END_STOP_ID, TN_OK);
    ck_ended(&g, by_length, SCHED_END_LENGTH, TN_OK);
    ck_assert_uint_eq(usage_of(&g, by_eos)->n_output, 1); /* the end id is sent as a token */
    ck_assert_uint_eq(usage_of(&g, by_length)->n_output, 3);
    rig_close(&g);
}
END_TEST

START_TEST(nan_ends_one_request_and_its_blocks_are_not_found_again)
{
    struct rig g;
    uint64_t good, bad, again;
    const struct sched_step *step;

    rig_init(&g);
    rig_open(&g);
    bad = submit(&g, spec_of(0, 9, 4));
    good = submit(&g, spec_of(40, 9, 4));
    step = schedule(&g);
    g.sampled[0] = TN_SAMPLE_NAN;
    commit(&g, step);
    drain(&g);
    ck_ended(&g, bad, SCHED_END_ERROR, TN_E_NAN);
    ck_ended(&g, good, SCHED_END_LENGTH, TN_OK);
    again = submit(&g, spec_of(0, 9, 1));
    good = submit(&g, spec_of(40, 9, 1));
    drain(&g);
    ck_assert_uint_eq(usage_of(&g, again)->n_cached, 0);
    ck_assert_uint_eq(usage_of(&g, good)->n_cached, 8);
    rig_close(&g);
}
END_TEST

START_TEST(a_device_error_of_one_sequence_spares_the_others)
{
    struct rig g;
    uint64_t id[4];
    const struct sched_step *step;

    rig_init(&g);
    rig_open(&g);
    for (int i = 0; i < 4; i++)
        id[i] = submit(&g, spec_of(i * 20, 4, 2));
    step = schedule(&g);
    g.seq_status[1] = TN_E_DEVICE;
    g.sampled[2] = (int32_t)VOCAB; /* samplers gone mad */
    g.sampled[3] = -2;
    commit(&g, step);
    drain(&g);
    ck_ended(&g, id[0], SCHED_END_LENGTH, TN_OK);
    ck_ended(&g, id[1], SCHED_END_ERROR, TN_E_DEVICE);
    ck_ended(&g, id[2], SCHED_END_ERROR, TN_E_DEVICE);
    ck_ended(&g, id[3], SCHED_END_ERROR, TN_E_DEVICE);
    rig_close(&g);
}
END_TEST

START_TEST(a_failed_step_ends_its_sequences_only)
{
    struct rig g;
    struct sched_result result = {.status = TN_E_COMM};
    tn_err err = TN_ERR_INIT;
    uint64_t in, waits;

    rig_init(&g);
    g.config.max_batch_size = 1;
    rig_open(&g);
    in = submit(&g, spec_of(0, 4, 2));
    waits = submit(&g, spec_of(20, 4, 2));
    ck_assert_ok(sched_commit(g.s, schedule(&g), &result, g.now, &err), &err);
    ck_ended(&g, in, SCHED_END_ERROR, TN_E_COMM);
    drain(&g);
    ck_ended(&g, waits, SCHED_END_LENGTH, TN_OK);
    rig_close(&g);
}
END_TEST

START_TEST(steps_are_committed_in_order_and_once)
{
    struct rig g;
    const struct sched_step *one, *two;
    struct sched_result result = {.sampled = g.sampled};
    tn_err err = TN_ERR_INIT;

    rig_init(&g);
    g.config.max_in_flight = 2;
    rig_open(&g);
    submit(&g, spec_of(0, 4, 4));
    one = schedule(&g);
    two = schedule(&g);
    ck_assert(one && two && !schedule(&g));
    ck_assert_int_eq(sched_commit(g.s, two, &result, 0, &err), TN_E_INVALID);
    ck_assert_int_eq(sched_commit(g.s, NULL, &result, 0, &err), TN_E_INVALID);
    commit(&g, one);
    ck_assert_int_eq(sched_commit(g.s, one, &result, 0, &err), TN_E_INVALID);
    commit(&g, two);
    ck_assert_int_eq(sched_commit(g.s, two, &result, 0, &err), TN_E_INVALID);
    drain(&g);
    rig_close(&g);
}
END_TEST

/* -- Cancel ------------------------------------------------------------------------------------ */

START_TEST(cancel_returns_the_blocks_in_every_state)
{
    struct rig g;
    uint64_t queued, chunk, decode, flying;
    const struct sched_step *step;

    rig_init(&g);
    g.config.max_num_tokens = 8;
    rig_open(&g);
    queued = submit(&g, spec_of(0, 9, 4));
    ck_assert(sched_cancel(g.s, queued, g.now)); /* never ran */
    ck_assert(!sched_cancel(g.s, queued, g.now));
    chunk = submit(&g, spec_of(0, 20, 4));
    commit(&g, schedule(&g));
    ck_assert_uint_eq(n_held(&g), 2);
    ck_assert(sched_cancel(g.s, chunk, g.now)); /* 8 of 20 prompt tokens computed */
    ck_assert_uint_eq(n_held(&g), 0);
    decode = submit(&g, spec_of(50, 5, 4));
    commit(&g, schedule(&g));
    commit(&g, schedule(&g));
    ck_assert(sched_cancel(g.s, decode, g.now));
    ck_assert_uint_eq(n_held(&g), 0);
    flying = submit(&g, spec_of(70, 5, 4));
    step = schedule(&g);
    ck_assert(sched_cancel(g.s, flying, g.now));
    ck_ended(&g, flying, SCHED_END_CANCELED, TN_E_CANCELED); /* told at once ... */
    ck_assert_uint_eq(n_held(&g), 2); /* ... but the step still writes them */
    ck_assert_ptr_null(schedule(&g));
    commit(&g, step);
    ck_assert_uint_eq(n_held(&g), 0);
    ck_ended(&g, queued, SCHED_END_CANCELED, TN_E_CANCELED);
    ck_ended(&g, chunk, SCHED_END_CANCELED, TN_E_CANCELED);
    ck_ended(&g, decode, SCHED_END_CANCELED, TN_E_CANCELED);
    ck_assert_uint_eq(usage_of(&g, decode)->n_output, 2);
    rig_close(&g);
}
END_TEST

START_TEST(cancel_of_a_preempted_request_and_of_one_marked_for_it)
{
    struct rig g;
    struct sched_stats st;
    uint64_t old, young;
    const struct sched_step *one, *two = NULL;
    bool lacks;

    rig_init(&g);
    g.config.policy = SCHED_MAX_UTILIZATION;
    g.config.max_in_flight = 2;
    g.kv_config.n_blocks = 9;
    for (int marked = 0; marked < 2; marked++) {
        g.n_events = 0;
        rig_open(&g);
        old = submit(&g, spec_of(0, 12, 24)); /* 3 blocks, then up to 9 */
        young = submit(&g, spec_of(50, 12, 24));
        one = schedule(&g);
        do { /* keep one step in flight, until the oldest lacks a block for the next */
            two = schedule(&g);
            lacks = !two || two->seqs[0].id != old;
            if (!lacks) {
                commit(&g, one);
                one = two;
            }
        } while (!lacks);
        if (!marked) {
            commit(&g, one); /* now the victim's blocks are free, and it waits */
            one = NULL;
            sched_get_stats(g.s, &st);
            ck_assert_uint_eq(st.n_preempted, 1);
        }
        ck_assert(sched_cancel(g.s, young, g.now));
        if (one)
            commit(&g, one);
        if (two)
            commit(&g, two);
        drain(&g);
        ck_ended(&g, young, SCHED_END_CANCELED, TN_E_CANCELED);
        ck_ended(&g, old, SCHED_END_LENGTH, TN_OK);
        rig_close(&g);
    }
}
END_TEST

START_TEST(the_id_of_an_ended_request_names_nobody_else)
{
    struct rig g;
    uint64_t first, second;

    rig_init(&g);
    rig_open(&g);
    first = submit(&g, spec_of(0, 4, 1));
    drain(&g);
    second = submit(&g, spec_of(0, 4, 1)); /* takes the same entry */
    ck_assert(first != second);
    ck_assert(!sched_cancel(g.s, first, g.now));
    ck_assert(!sched_cancel(g.s, 0, g.now));
    ck_assert(!sched_cancel(g.s, UINT64_MAX, g.now));
    drain(&g);
    ck_ended(&g, second, SCHED_END_LENGTH, TN_OK);
    rig_close(&g);
}
END_TEST

START_TEST(cancel_and_end_in_the_same_step_send_one_end)
{
    struct rig g;
    const struct sched_step *step;
    uint64_t id;

    rig_init(&g);
    rig_open(&g);
    id = submit(&g, spec_of(0, 4, 1));
    step = schedule(&g); /* its only token */
    ck_assert(sched_cancel(g.s, id, g.now));
    ck_assert(!sched_stop(g.s, id, g.now));
    commit(&g, step);
    ck_ended(&g, id, SCHED_END_CANCELED, TN_E_CANCELED);
    id = submit(&g, spec_of(0, 4, 1));
    commit(&g, schedule(&g));
    ck_assert(!sched_cancel(g.s, id, g.now));
    ck_ended(&g, id, SCHED_END_LENGTH, TN_OK);
    rig_close(&g);
}
END_TEST

START_TEST(abort_ends_all_once_with_steps_in_flight)
{
    struct rig g;
    uint64_t id[6];

    rig_init(&g);
    g.config.max_in_flight = 2;
    rig_open(&g);
    for (int i = 0; i < 6; i++)
        id[i] = submit(&g, spec_of(i * 10, 5, 8));
    ck_assert(schedule(&g) && schedule(&g));
    ck_assert(sched_stop(g.s, id[0], g.now));
    sched_abort(g.s, TN_E_DEVICE, g.now);
    ck_ended(&g, id[0], SCHED_END_STOPPED, TN_OK);
    for (int i = 1; i < 6; i++)
        ck_ended(&g, id[i], SCHED_END_ERROR, TN_E_DEVICE);
    ck_assert(sched_idle(g.s));
    submit(&g, spec_of(0, 5, 2));
    drain(&g); /* and it goes on */
    rig_close(&g);
}
END_TEST

START_TEST(freeing_a_busy_scheduler_leaks_nothing)
{
    struct rig g;

    rig_init(&g);
    rig_open(&g);
    for (int i = 0; i < 6; i++)
        submit(&g, spec_of(i * 10, 5, 8));
    ck_assert_ptr_nonnull(schedule(&g));
    sched_free(g.s);
    ck_assert_uint_eq(kv_available(g.kv), 16);
    kv_free(g.kv);
}
END_TEST

/* -- Deadlines --------------------------------------------------------------------------------- */

START_TEST(deadlines_end_requests_in_the_queue_and_while_running)
{
    struct rig g;
    struct request_spec spec = spec_of(0, 4, 30);
    uint64_t runs, waits, begins;

    rig_init(&g);
    g.config.max_batch_size = 1;
    rig_open(&g);
    spec.deadline_ns = 2000;
    spec.queue_deadline_ns = 1100;
    runs = submit(&g, spec);
    begins = submit(&g, spec_of(20, 4, 1));
    waits = submit(&g, spec);
    ck_assert_uint_eq(sched_next_deadline(g.s), 1100);
    commit(&g, schedule(&g));
    g.now = 1100;
    sched_expire(g.s, g.now);
    ck_ended(&g, waits, SCHED_END_DEADLINE, TN_E_TIMEOUT);
    ck_assert_ptr_null(finish_of(&g, runs)); /* its queue deadline is over, for it has begun */
    ck_assert_uint_eq(sched_next_deadline(g.s), 2000);
    commit(&g, schedule(&g));
    g.now = 2000;
    commit(&g, schedule(&g));
    ck_ended(&g, runs, SCHED_END_DEADLINE, TN_E_TIMEOUT);
    ck_assert_uint_eq(usage_of(&g, runs)->n_output, 2);
    ck_ended(&g, begins, SCHED_END_LENGTH, TN_OK);
    ck_assert_uint_eq(sched_next_deadline(g.s), UINT64_MAX);
    rig_close(&g);
}
END_TEST

START_TEST(a_clock_that_jumps_back_expires_nobody_and_breaks_nothing)
{
    struct rig g;
    struct request_spec spec = spec_of(0, 4, 2);
    uint64_t id;

    rig_init(&g);
    rig_open(&g);
    spec.deadline_ns = 5000;
    id = submit(&g, spec);
    g.now = 4000;
    commit(&g, schedule(&g));
    g.now = 1;
    commit(&g, schedule(&g));
    ck_ended(&g, id, SCHED_END_LENGTH, TN_OK);
    ck_assert_uint_ge(usage_of(&g, id)->finished_ns, usage_of(&g, id)->first_token_ns);
    rig_close(&g);
}
END_TEST

/* -- The audit ---------------------------------------------------------------------------------- */

static void ck_broken(struct rig *g, const char *what)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(sched_audit(g->s, &err), TN_E_INTERNAL);
    ck_assert_err_has(&err, what);
}

START_TEST(audit_sees_each_kind_of_damage)
{
    struct rig g;
    struct request_spec spec = spec_of(0, 6, 4);
    struct sched *s;
    struct request *a, *b, *c;
    tn_err err = TN_ERR_INIT;

    rig_init(&g);
    g.config.max_batch_size = 2;
    rig_open(&g);
    s = g.s;
    for (int i = 0; i < 3; i++) {
        spec.deadline_ns = 90000 + (uint64_t)i;
        submit(&g, spec);
    }
    commit(&g, schedule(&g));
    a = s->running.first;
    b = s->running.last;
    c = s->waiting.first;
#define DAMAGE(place, value, what)                                                                 \
    do {                                                                                           \
        uint64_t keep_ = (uint64_t)(place);                                                        \
        (place) = (value);                                                                         \
        ck_broken(&g, what);                                                                       \
        memcpy(&(place), &keep_, sizeof(place)); /* little end first */                            \
        ck_assert_ok(sched_audit(s, &err), &err);                                                  \
    } while (0)
    DAMAGE(a->computed, 99, "out of order");
    DAMAGE(a->pending, 1, "out of order");
    DAMAGE(a->max_new, 0, "longer than asked");
    DAMAGE(a->kv.n_blocks, 1, "without a block");
    DAMAGE(a->kv.blocks[1], b->kv.blocks[1], "own it");
    DAMAGE(a->state, REQUEST_QUEUED, "wrong list");
    DAMAGE(c->state, REQUEST_DECODE, "wrong list");
    DAMAGE(b->arrival, 1, "overtook");
    DAMAGE(c->arrival, 1, "overtook");
    DAMAGE(c->reserved, 1, "holds something");
    DAMAGE(s->running.count, 1, "count is wrong");
    DAMAGE(a->slot, b->slot, "block table");
    DAMAGE(a->state, REQUEST_ENDED, "not reclaimed");
    DAMAGE(a->heap_at, b->heap_at, "among the deadlines");
    DAMAGE(a->heap_key, 99999, "out of order");
    DAMAGE(s->deadlines.count, 2, "deadlines are miscounted");
    DAMAGE(s->n_free_entries, 0, "is lost");
    DAMAGE(s->n_free_slots, 1, "is lost");
    DAMAGE(s->reserved, 99, "counter is off");
    DAMAGE(s->n_draining, 1, "counter is off");
    DAMAGE(a->in_flight, 1, "miscounted");
    DAMAGE(s->config.max_batch_size, 1, "more run or wait");
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(a_request_that_cannot_advance_is_reported_not_waited_for)
{
    struct rig g;
    const struct sched_step *step = NULL;
    tn_err err = TN_ERR_INIT;

    rig_init(&g);
    rig_open(&g);
    submit(&g, spec_of(0, 6, 4));
    commit(&g, schedule(&g));
    g.s->running.first->evict = true; /* the damage: marked, and no commit will come */
    g.s->n_evicting = 1;
    ck_assert_int_eq(sched_schedule(g.s, g.now, &step, &err), TN_E_INTERNAL);
    ck_assert_err_has(&err, "cannot advance");
    g.s->running.first->evict = false;
    g.s->n_evicting = 0;
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(texts_of_reasons_are_never_missing)
{
    ck_assert_str_eq(sched_reason_text(SCHED_END_ERROR), "error");
    ck_assert_str_eq(sched_reason_text(99), "unknown");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("sched");
    TCase *t = tcase_create("sched");

    tcase_add_test(t, numbers_out_of_range_are_refused_by_name);
    tcase_add_test(t, what_can_never_run_is_refused_at_once);
    tcase_add_test(t, without_chunks_a_prompt_longer_than_a_step_is_refused);
    tcase_add_test(t, a_full_queue_answers_busy_and_a_closed_one_closed);
    tcase_add_test(t, a_configuration_out_of_range_is_refused_by_name);
    tcase_add_test(t, creation_and_submission_survive_memory_running_out);
    tcase_add_test(t, requests_can_be_made_by_other_threads_while_steps_run);
    tcase_add_test(t, no_step_allocates);
    tcase_add_test(t, each_way_to_end_is_told_apart);
    tcase_add_test(t, nan_ends_one_request_and_its_blocks_are_not_found_again);
    tcase_add_test(t, a_device_error_of_one_sequence_spares_the_others);
    tcase_add_test(t, a_failed_step_ends_its_sequences_only);
    tcase_add_test(t, steps_are_committed_in_order_and_once);
    tcase_add_test(t, cancel_returns_the_blocks_in_every_state);
    tcase_add_test(t, cancel_of_a_preempted_request_and_of_one_marked_for_it);
    tcase_add_test(t, the_id_of_an_ended_request_names_nobody_else);
    tcase_add_test(t, cancel_and_end_in_the_same_step_send_one_end);
    tcase_add_test(t, abort_ends_all_once_with_steps_in_flight);
    tcase_add_test(t, freeing_a_busy_scheduler_leaks_nothing);
    tcase_add_test(t, deadlines_end_requests_in_the_queue_and_while_running);
    tcase_add_test(t, a_clock_that_jumps_back_expires_nobody_and_breaks_nothing);
    tcase_add_test(t, audit_sees_each_kind_of_damage);
    tcase_add_test(t, a_request_that_cannot_advance_is_reported_not_waited_for);
    tcase_add_test(t, texts_of_reasons_are_never_missing);
    suite_add_tcase(s, t);
    return run_suite(s);
}
