/* SPDX-License-Identifier: Apache-2.0 */
/* See jobs.h. One thread, which waits for the loop's. */
#include "loop/jobs.h"

#include "base/rng.h"
#include "check_util.h"

void make_job(struct job *j, uint64_t seed)
{
    struct rng r = {seed + 1000}, shared = {7};
    uint32_t n = 1 + (uint32_t)rng_below(&r, MAX_PROMPT);

    *j = (struct job){.params = TN_REQUEST_PARAMS_INIT};
    for (uint32_t i = 0; i < n; i++)
        j->prompt[i] = (int32_t)rng_below(seed % 4 == 0 && i < 48 ? &shared : &r, 199);
    j->params.prompt = j->prompt;
    j->params.n_prompt = n;
    j->params.max_new_tokens = 1 + (uint32_t)rng_below(&r, MAX_OUTPUT);
    j->params.ignore_eos = seed % 3 != 0;
    if (seed % 2) {
        j->params.temperature = 0.5f + rng_unit(&r);
        j->params.top_p = 0.6f + 0.4f * rng_unit(&r);
        j->params.seed = rng_u64(&r);
    }
    if (seed % 5 == 0)
        j->params.repetition_penalty = 1.3f;
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

void collect(tn_request *req, struct job *j)
{
    tn_event ev = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;

    j->n_tokens = 0;
    do {
        ck_assert_ok(tn_next_event(req, 60000, &ev, &err), &err);
        if (ev.kind == TN_EVENT_TOKEN) {
            j->logprobs[j->n_tokens] = ev.logprob;
            j->tokens[j->n_tokens++] = ev.token;
        }
    } while (ev.kind != TN_EVENT_FINISHED);
    j->finish = ev.finish;
    j->status = ev.status;
    snprintf(j->message, sizeof j->message, "%s", ev.message);
    tn_release(req);
}

void run_jobs(tn_runtime *rt, struct job *jobs)
{
    tn_request *reqs[JOBS];
    tn_err err = TN_ERR_INIT;

    for (uint64_t i = 0; i < JOBS; i++) {
        make_job(&jobs[i], i);
        ck_assert_ok(tn_submit(rt, &jobs[i].params, &reqs[i], &err), &err);
    }
    for (uint64_t i = 0; i < JOBS; i++)
        collect(reqs[i], &jobs[i]);
}

void compare(const struct job *got, const struct job *want)
{
    for (int i = 0; i < JOBS; i++) {
        ck_assert_msg(got[i].n_tokens == want[i].n_tokens && got[i].finish == want[i].finish,
                      "request %d: %u tokens, end %u (%s); wanted %u, %u", i, got[i].n_tokens,
                      got[i].finish, got[i].message, want[i].n_tokens, want[i].finish);
        for (uint32_t k = 0; k < got[i].n_tokens; k++)
            ck_assert_msg(got[i].tokens[k] == want[i].tokens[k] &&
                              got[i].logprobs[k] == want[i].logprobs[k],
                          "request %d, token %u: %d (%g), wanted %d (%g)", i, k, got[i].tokens[k],
                          got[i].logprobs[k], want[i].tokens[k], want[i].logprobs[k]);
    }
}
