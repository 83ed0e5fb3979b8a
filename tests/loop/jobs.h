/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of all kinds, made of a number, and what they got: for comparing two ways to run an engine. */
#ifndef TESTS_LOOP_JOBS_H
#define TESTS_LOOP_JOBS_H

#include "tenon.h"

#define JOBS 28
#define MAX_PROMPT 60
#define MAX_OUTPUT 20

struct job {
    int32_t prompt[MAX_PROMPT], bias_ids[2];
    float bias_values[2];
    tn_request_params params;
    int32_t tokens[MAX_OUTPUT];
    float logprobs[MAX_OUTPUT];
    uint32_t n_tokens, finish;
    int32_t status;
    char message[256];
};

/* Greedy and sampled, with and without penalties, biases, shared prefixes, end tokens. */
void make_job(struct job *j, uint64_t seed);

/* Waits for the end of a request and takes what it got. */
void collect(tn_request *req, struct job *j);

/* Runs the first JOBS of them at once. */
void run_jobs(tn_runtime *rt, struct job *jobs);

/* Fails unless all got the same, to the bit. */
void compare(const struct job *got, const struct job *want);

#endif
