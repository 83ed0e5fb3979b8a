/* SPDX-License-Identifier: Apache-2.0 */
/* libtenon from the outside: requests beside each other, cancels, limits, closing. */
#include <math.h>

#include "api/engines.h"
#include "base/file.h"
#include "base/rng.h"
#include "check_util.h"
#include "tenon.h"

static char dir[64], engine[128];

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    build_dummy_engine(dir, "float32");
    snprintf(engine, sizeof engine, "%s/engine", dir);
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

/* TENON_TEST_DEVICE and TENON_TEST_SETS name another device and its kernels, for machines that have it. */
static const char *device = "cpu";
static const char *sets[] = {"reference", "cpu,reference"};

static tn_runtime *open_with(const tn_kv *settings, uint32_t n)
{
    tn_kv all[16] = {{"device.kind", device}};
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;

    for (uint32_t i = 0; i < n; i++)
        all[i + 1] = settings[i];
    o.engine = engine;
    o.settings = all;
    o.n_settings = n + 1;
    ck_assert_ok(tn_open(&o, &rt, &err), &err);
    return rt;
}

/* -- Requests, made from a seed ------------------------------------------------------------------------ */

#define MAX_PROMPT 60
#define MAX_OUTPUT 24

struct job {
    int32_t prompt[MAX_PROMPT];
    int32_t bias_ids[2];
    float bias_values[2];
    tn_request_params params;
    int32_t tokens[MAX_OUTPUT];
    uint32_t n_tokens;
    uint32_t finish;
};

/* Every fourth prompt shares a prefix of three pages with others; half of the requests sample. */
static void make_job(struct job *j, uint64_t seed)
{
    struct rng r = {seed}, shared = {7};
    uint32_t n = 1 + (uint32_t)rng_below(&r, MAX_PROMPT);

    *j = (struct job){.params = TN_REQUEST_PARAMS_INIT};
    if (seed % 4 == 0)
        n = 50 + (uint32_t)rng_below(&r, 10);
    for (uint32_t i = 0; i < n; i++)
        j->prompt[i] = (int32_t)rng_below(seed % 4 == 0 && i < 48 ? &shared : &r, 199);
    j->params.prompt = j->prompt;
    j->params.n_prompt = n;
    j->params.max_new_tokens = 1 + (uint32_t)rng_below(&r, MAX_OUTPUT);
    j->params.ignore_eos = seed % 3 != 0;
    if (seed % 2) {
        j->params.temperature = 0.5f + rng_unit(&r);
        j->params.top_k = (uint32_t)rng_below(&r, 60);
        j->params.top_p = 0.6f + 0.4f * rng_unit(&r);
        j->params.seed = rng_u64(&r);
    }
    if (seed % 5 == 0) {
        j->params.repetition_penalty = 1.3f;
        j->params.presence_penalty = 0.4f;
        j->params.frequency_penalty = 0.2f;
    }
    if (seed % 7 == 0) {
        j->bias_ids[0] = 5;
        j->bias_values[0] = 2.5f;
        j->bias_ids[1] = 9;
        j->bias_values[1] = -100.0f;
        j->params.bias_ids = j->bias_ids;
        j->params.bias_values = j->bias_values;
        j->params.n_bias = 2;
    }
}

static tn_request *submit(tn_runtime *rt, const struct job *j)
{
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;

    ck_assert_ok(tn_submit(rt, &j->params, &req, &err), &err);
    return req;
}

static void collect(tn_request *req, struct job *j)
{
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;

    j->n_tokens = 0;
    do {
        ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
        if (ev.kind == TN_EVENT_TOKEN) {
            ck_assert_uint_eq(ev.index, j->n_tokens);
            ck_assert(ev.logprob <= 0);
            j->tokens[j->n_tokens++] = ev.token;
        }
    } while (ev.kind != TN_EVENT_FINISHED);
    j->finish = ev.finish;
    ck_assert_uint_eq(ev.usage.n_output, j->n_tokens);
    ck_assert_int_eq(tn_next_event(req, 0, &ev, &err), TN_E_CLOSED);
    tn_release(req);
}

#define JOBS 64

/* All jobs one after another, each alone in its step. */
static void run_alone(const char *kernels, struct job *jobs)
{
    tn_kv s[] = {
        {"kernels.sets", kernels}, {"scheduler.max_batch_size", "1"}, {"kv.prefix_reuse", "false"}};
    tn_runtime *rt = open_with(s, 3);

    for (uint64_t i = 0; i < JOBS; i++) {
        make_job(&jobs[i], i);
        collect(submit(rt, &jobs[i]), &jobs[i]);
    }
    tn_close(rt);
}

static void run_together(const tn_kv *settings, uint32_t n, struct job *jobs)
{
    tn_runtime *rt = open_with(settings, n);
    tn_request *reqs[JOBS];

    for (uint64_t i = 0; i < JOBS; i++) {
        make_job(&jobs[i], i);
        reqs[i] = submit(rt, &jobs[i]);
    }
    for (uint64_t i = 0; i < JOBS; i++)
        collect(reqs[i], &jobs[i]);
    tn_close(rt);
}

static void compare(const struct job *a, const struct job *b)
{
    for (uint32_t i = 0; i < JOBS; i++) {
        ck_assert_msg(a[i].n_tokens == b[i].n_tokens && a[i].finish == b[i].finish,
                      "request %u: %u tokens alone, %u in the batch", i, a[i].n_tokens,
                      b[i].n_tokens);
        for (uint32_t k = 0; k < a[i].n_tokens; k++)
            ck_assert_msg(a[i].tokens[k] == b[i].tokens[k],
                          "request %u, token %u: %d alone, %d in the batch", i, k, a[i].tokens[k],
                          b[i].tokens[k]);
    }
}

/* A request's tokens do not depend on what else is in the batch. */
START_TEST(batch_mates_change_no_token)
{
    static struct job alone[JOBS], together[JOBS];
    tn_kv s[] = {{"kernels.sets", sets[_i]},
                 {"scheduler.max_batch_size", "32"},
                 {"scheduler.max_num_tokens", "64"}};

    run_alone(sets[_i], alone);
    run_together(s, 3, together);
    compare(alone, together);
}
END_TEST

/* Nor on being preempted and computed again, in pages that others used before. */
START_TEST(preemption_changes_no_token)
{
    static struct job alone[JOBS], together[JOBS];
    tn_kv s[] = {{"kernels.sets", sets[_i]},         {"scheduler.max_batch_size", "16"},
                 {"scheduler.max_num_tokens", "48"}, {"scheduler.policy", "max_utilization"},
                 {"scheduler.max_seq_len", "96"},    {"kv.max_bytes", "655360"}};

    run_alone(sets[_i], alone);
    run_together(s, 6, together);
    compare(alone, together);
}
END_TEST

START_TEST(same_seed_same_text)
{
    static struct job a, b;
    tn_runtime *rt = open_with(NULL, 0);

    make_job(&a, 33);
    b = a;
    b.params.prompt = b.prompt;
    collect(submit(rt, &a), &a);
    collect(submit(rt, &b), &b);
    ck_assert_uint_eq(a.n_tokens, b.n_tokens);
    ck_assert_mem_eq(a.tokens, b.tokens, a.n_tokens * sizeof a.tokens[0]);
    tn_close(rt);
}
END_TEST

/* -- Ends ----------------------------------------------------------------------------------------------- */

START_TEST(cancel_ends_a_request_in_any_state)
{
    tn_runtime *rt = open_with((tn_kv[]){{"scheduler.max_batch_size", "2"}}, 1);
    static struct job jobs[12];
    tn_request *reqs[12];
    tn_runtime_stats stats = {.h = TN_HDR(tn_runtime_stats)};

    for (uint64_t i = 0; i < 12; i++) {
        make_job(&jobs[i], i);
        jobs[i].params.max_new_tokens = MAX_OUTPUT;
        jobs[i].params.ignore_eos = 1;
        reqs[i] = submit(rt, &jobs[i]);
    }
    for (uint64_t i = 0; i < 12; i++) {
        if (i % 3 == 0)
            tn_cancel(reqs[i]);
        if (i % 3 == 1)
            tn_end(reqs[i]);
        tn_cancel(reqs[i % 3 == 0 ? i : 0]); /* twice, and late */
    }
    for (uint64_t i = 0; i < 12; i++) {
        collect(reqs[i], &jobs[i]);
        if (i % 3 == 2)
            ck_assert_uint_eq(jobs[i].finish, TN_FINISH_LENGTH);
        else
            ck_assert(jobs[i].finish == TN_FINISH_LENGTH ||
                      jobs[i].finish == (i % 3 ? TN_FINISH_STOPPED : TN_FINISH_CANCELED));
    }
    tn_stats(rt, &stats);
    ck_assert_uint_eq(stats.n_running + stats.n_waiting, 0);
    tn_close(rt);
}
END_TEST

START_TEST(close_finishes_what_runs_and_requests_may_be_released_later)
{
    tn_runtime *rt = open_with(NULL, 0);
    static struct job j;
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;
    tn_request *req;

    make_job(&j, 1);
    j.params.max_new_tokens = 190;
    req = submit(rt, &j);
    tn_close(rt);
    do
        ck_assert_ok(tn_next_event(req, 0, &ev, &err), &err);
    while (ev.kind != TN_EVENT_FINISHED);
    tn_cancel(req); /* harmless */
    tn_release(req);
}
END_TEST

START_TEST(end_token_ends_the_output_unless_ignored)
{
    tn_runtime *rt = open_with(NULL, 0);
    static struct job j;

    make_job(&j, 2);
    j.bias_ids[0] = 3;
    j.bias_values[0] = 100.0f;
    j.params.bias_ids = j.bias_ids;
    j.params.bias_values = j.bias_values;
    j.params.n_bias = 1;
    j.params.max_new_tokens = 5;
    j.params.ignore_eos = 0;
    collect(submit(rt, &j), &j);
    ck_assert_uint_eq(j.finish, TN_FINISH_EOS);
    ck_assert_uint_eq(j.n_tokens, 1);
    j.params.ignore_eos = 1;
    collect(submit(rt, &j), &j);
    ck_assert_uint_eq(j.finish, TN_FINISH_LENGTH);
    j.params.stop_ids = (int32_t[]){3};
    j.params.n_stop_ids = 1;
    collect(submit(rt, &j), &j);
    ck_assert_uint_eq(j.finish, TN_FINISH_STOP_ID);
    tn_close(rt);
}
END_TEST

/* -- Many at once ------------------------------------------------------------------------------------------- */

START_TEST(requests_submitted_at_once_share_a_step)
{
    enum { N = 8 };
    tn_runtime *rt = open_with(NULL, 0);
    tn_runtime_stats before = {.h = TN_HDR(tn_runtime_stats)}, after = before;
    const tn_request_params *list[N];
    tn_request *reqs[N];
    struct job jobs[N];
    tn_err err = TN_ERR_INIT;

    for (uint32_t i = 0; i < N; i++) {
        make_job(&jobs[i], 2 * i + 1);
        jobs[i].params.n_prompt = 5;
        jobs[i].params.max_new_tokens = 1;
        list[i] = &jobs[i].params;
    }
    tn_stats(rt, &before);
    ck_assert_ok(tn_submit_many(rt, list, N, reqs, &err), &err);
    for (uint32_t i = 0; i < N; i++)
        collect(reqs[i], &jobs[i]);
    tn_stats(rt, &after);
    ck_assert_uint_eq(after.n_steps - before.n_steps, 1);
    tn_close(rt);
}
END_TEST

START_TEST(one_bad_request_of_many_refuses_all)
{
    tn_runtime *rt = open_with((tn_kv[]){{"scheduler.max_queue", "3"}}, 1);
    struct job jobs[4];
    const tn_request_params *list[4];
    tn_request *reqs[4];
    tn_err err = TN_ERR_INIT;

    for (uint32_t i = 0; i < 4; i++) {
        make_job(&jobs[i], i + 1);
        list[i] = &jobs[i].params;
    }
    jobs[1].params.temperature = -1;
    ck_assert_int_ne(tn_submit_many(rt, list, 3, reqs, &err), TN_OK);
    ck_assert_err_has(&err, "request 1 of 3");
    ck_assert_int_eq(tn_submit_many(rt, list, 0, reqs, &err), TN_E_INVALID);
    make_job(&jobs[1], 2);
    ck_assert_int_eq(tn_submit_many(rt, list, 4, reqs, &err), TN_E_BUSY);
    ck_assert_ok(tn_submit_many(rt, list, 3, reqs, &err), &err);
    for (uint32_t i = 0; i < 3; i++)
        collect(reqs[i], &jobs[i]);
    tn_close(rt);
}
END_TEST

/* -- Refusals --------------------------------------------------------------------------------------------- */

static void refused(tn_runtime *rt, const tn_request_params *p, const char *field)
{
    tn_err err = TN_ERR_INIT;
    tn_request *req = NULL;
    int32_t rc = tn_submit(rt, p, &req, &err);

    ck_assert_msg(rc != TN_OK, "a bad %s was accepted", field);
    ck_assert_err_has(&err, field);
    tn_release(req); /* nothing */
}

START_TEST(bad_parameters_are_refused_by_name)
{
    tn_runtime *rt = open_with(NULL, 0);
    static int32_t ids[300] = {0};
    int32_t wild[] = {199}, negative[] = {-1};
    tn_request_params good = TN_REQUEST_PARAMS_INIT, p;

    good.prompt = ids;
    good.n_prompt = 3;
    p = good, p.n_prompt = 0, refused(rt, &p, "prompt");
    p = good, p.n_prompt = 300, refused(rt, &p, "prompt");
    p = good, p.prompt = wild, p.n_prompt = 1, refused(rt, &p, "prompt");
    p = good, p.prompt = negative, p.n_prompt = 1, refused(rt, &p, "prompt");
    p = good, p.max_new_tokens = 0, refused(rt, &p, "max_new_tokens");
    p = good, p.max_new_tokens = UINT32_MAX, refused(rt, &p, "max_new_tokens");
    p = good, p.temperature = NAN, refused(rt, &p, "temperature");
    p = good, p.temperature = -1, refused(rt, &p, "temperature");
    p = good, p.top_p = 0, refused(rt, &p, "top_p");
    p = good, p.min_p = 2, refused(rt, &p, "min_p");
    p = good, p.repetition_penalty = 0, refused(rt, &p, "repetition_penalty");
    p = good, p.bias_ids = wild, p.bias_values = (float[]){1}, p.n_bias = 1,
    refused(rt, &p, "bias");
    p = good, p.stop_ids = wild, p.n_stop_ids = 1000, refused(rt, &p, "stop");
    tn_close(rt);
}
END_TEST

START_TEST(bad_openings_name_the_cause)
{
    tn_open_options o = TN_OPEN_OPTIONS_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;
    tn_kv wrong[] = {{"kv.block_tokens", "17"}}, unknown[] = {{"kv.blok_tokens", "16"}},
          nobody[] = {{"kernels.sets", "nosuchset"}};

    o.engine = "/nonexistent";
    ck_assert_int_eq(tn_open(&o, &rt, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "/nonexistent");
    o.engine = engine;
    o.n_settings = 1;
    o.settings = wrong;
    ck_assert_int_eq(tn_open(&o, &rt, &err), TN_E_CONFIG);
    ck_assert_err_has(&err, "kv.block_tokens");
    o.settings = unknown;
    ck_assert_int_eq(tn_open(&o, &rt, &err), TN_E_CONFIG);
    ck_assert_err_has(&err, "kv.block_tokens"); /* the nearest name */
    o.settings = nobody;
    ck_assert_int_ne(tn_open(&o, &rt, &err), TN_OK);
    ck_assert_ptr_null(rt);
}
END_TEST

/* -- Logits ------------------------------------------------------------------------------------------------ */

struct seen {
    uint32_t next, rows;
    float sum;
};

static void on_logits(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct seen *s = arg;

    ck_assert_uint_eq(first, s->next);
    s->next += n;
    for (uint32_t i = 0; i < n * vocab; i++)
        s->sum += fabsf(logits[i]);
}

START_TEST(logits_of_every_prompt_row_come_in_order)
{
    tn_runtime *rt = open_with(
        (tn_kv[]){{"scheduler.max_num_tokens", "16"}, {"scheduler.max_batch_size", "2"}}, 2);
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;
    static int32_t ids[100];
    struct seen seen = {0};
    tn_request *req = NULL;

    for (int i = 0; i < 100; i++)
        ids[i] = (i * 37) % 199;
    p.prompt = ids;
    p.n_prompt = 100;
    p.max_new_tokens = 0;
    p.on_logits = on_logits;
    p.arg = &seen;
    ck_assert_ok(tn_submit(rt, &p, &req, &err), &err);
    ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
    ck_assert_uint_eq(ev.kind, TN_EVENT_FINISHED);
    ck_assert_uint_eq(ev.finish, TN_FINISH_LENGTH);
    ck_assert_uint_eq(seen.next, 100);
    ck_assert(seen.sum > 0);
    tn_release(req);
    tn_close(rt);
}
END_TEST

START_TEST(two_runtimes_live_in_one_process)
{
    tn_runtime *a = open_with(NULL, 0), *b = open_with(NULL, 0);
    static struct job x, y;

    make_job(&x, 12);
    make_job(&y, 12);
    collect(submit(a, &x), &x);
    collect(submit(b, &y), &y);
    ck_assert_mem_eq(x.tokens, y.tokens, x.n_tokens * sizeof x.tokens[0]);
    tn_close(a);
    collect(submit(b, &y), &y);
    tn_close(b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("api");
    TCase *t = tcase_create("api");

    if (getenv("TENON_TEST_DEVICE"))
        device = getenv("TENON_TEST_DEVICE");
    if (getenv("TENON_TEST_SETS"))
        sets[0] = sets[1] = getenv("TENON_TEST_SETS");

    tcase_add_unchecked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, batch_mates_change_no_token, 0, 2);
    tcase_add_loop_test(t, preemption_changes_no_token, 0, 2);
    tcase_add_test(t, same_seed_same_text);
    tcase_add_test(t, cancel_ends_a_request_in_any_state);
    tcase_add_test(t, close_finishes_what_runs_and_requests_may_be_released_later);
    tcase_add_test(t, end_token_ends_the_output_unless_ignored);
    tcase_add_test(t, requests_submitted_at_once_share_a_step);
    tcase_add_test(t, one_bad_request_of_many_refuses_all);
    tcase_add_test(t, bad_parameters_are_refused_by_name);
    tcase_add_test(t, bad_openings_name_the_cause);
    tcase_add_test(t, logits_of_every_prompt_row_come_in_order);
    tcase_add_test(t, two_runtimes_live_in_one_process);
    suite_add_tcase(s, t);
    return run_suite(s);
}
