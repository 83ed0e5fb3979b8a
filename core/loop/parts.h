/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A step in parts, so that the stages of a pipeline work on several at once (GPipe, Huang et al. 2019: with m parts and p
 * stages a share of (p - 1) / (m + p - 1) of the time is lost). Parts follow one another; a sequence with many rows may
 * reach over several, since each stage computes them in order. The arrays lie in one block of host memory.
 */
#ifndef CORE_LOOP_PARTS_H
#define CORE_LOOP_PARTS_H

#include "base/ledger.h"
#include "base/limits.h"
#include "sched/batch.h"

struct step_parts {
    uint32_t n;
    bool
        wants_logits; /* somebody wants the logits of the step, which then has one part, and rank 0 has to fetch them */
    tn_batch batch[LIMIT_MICRO_BATCHES]; /* without dev, sampled and logprob */
    tn_batch_arrays arrays[LIMIT_MICRO_BATCHES];
    uint32_t
        first_logits[LIMIT_MICRO_BATCHES]; /* logits row of the step with which the part begins */
    /* Private. */
    uint8_t *block;
    uint64_t bytes;
    struct sched_seq *seqs;
    struct ledger_owner *owner;
};

/* Memory for any step of `s`. */
int32_t parts_init(struct step_parts *p, const struct sched *s, struct ledger *ledger, tn_err *err);
void parts_release(struct step_parts *p); /* zeroed is allowed */

/* How many parts a step should have for `n_stages` stages. `wanted` is the setting; with 0 a part has as many rows as make
 * the weights worth reading once more. A step that wants logits of prompts is not cut. */
uint32_t parts_count(const struct sched_step *step, uint32_t n_stages, uint32_t wanted);

/* Cuts a step into at most `n` parts of about equally many rows and fills their arrays. */
void parts_fill(struct step_parts *p, const struct sched *s, const struct sched_step *step,
                uint32_t n);

#endif
