/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device that is right by construction, for tests: it runs the ragged batch that batch_fill
 * wrote, keeps one value per cache slot, and lets every value depend on all that a real model's
 * would: the token, its position, and the values of the positions before it, read through the block
 * table. A wrong page, slot, position or stale block therefore shows as a wrong token. What it
 * chooses also depends on every field of the sample row.
 *
 * `struct oracle` computes the same for one request, from its tokens alone.
 */
#ifndef TESTS_SCHED_FAKE_H
#define TESTS_SCHED_FAKE_H

#include <stdbool.h>
#include <stdint.h>

#include "sched/batch.h"
#include "sched/sched.h"

/* One launched step: its own copy of the arrays, and the results. */
struct fake_job {
    const struct sched_step *step;
    tn_batch batch;
    tn_batch_arrays arrays;
    struct batch_buffers buf;
    int32_t *sampled;
    float *logprob;
    int32_t *seq_status;
    int32_t status;
    bool ran;
    uint8_t *nan; /* [n_seqs] the sequence's logits turn out as NaN */
};

/* What the pages of a request depend on beside its tokens (tenant, length class). */
typedef uint64_t (*fake_class)(void *arg, uint64_t user);

struct fake_device {
    const struct sched *sched;
    fake_class class_of;
    void *class_arg;
    uint32_t vocab, block_tokens;
    uint64_t *slots; /* [n_blocks * block_tokens] */
    struct fake_job jobs[SCHED_IN_FLIGHT_MAX];
    uint32_t first, count;       /* ring of jobs in flight */
    const int32_t *last_sampled; /* of the step that ran last */
};

void fake_init(struct fake_device *d, const struct sched *s, uint32_t n_blocks,
               uint32_t block_tokens, fake_class class_of, void *class_arg);
void fake_release(struct fake_device *d);

/* Fills the batch of a step and puts it in the queue. The caller may then set failures. */
struct fake_job *fake_launch(struct fake_device *d, const struct sched_step *step,
                             uint32_t min_stride);
/* Runs what has not run yet, oldest first. */
void fake_run(struct fake_device *d);
/* The oldest job, run; NULL if there is none. fake_pop forgets it, after the commit. */
struct fake_job *fake_oldest(struct fake_device *d);
void fake_pop(struct fake_device *d);
/* Forgets all jobs. */
void fake_clear(struct fake_device *d);

/* One request, computed alone. */
struct oracle {
    const struct request_spec *spec;
    uint64_t klass;
    uint32_t vocab;
    uint64_t state; /* of the tokens given so far */
    uint32_t n;
};

void oracle_init(struct oracle *o, const struct request_spec *spec, uint64_t klass, uint32_t vocab);
void oracle_push(struct oracle *o, int32_t token);
/* What the device chooses after the tokens given so far; `tokens` are those, for the penalties. */
int32_t oracle_next(const struct oracle *o, const int32_t *tokens);
/* What it chooses on a row whose logits are wanted. */
int32_t oracle_logits(const struct oracle *o);

#endif
