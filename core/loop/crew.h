/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranks of a runtime, driven as one. A single rank runs on the caller's thread. Of several, each has a thread, which
 * waits for work, does its share of the step and reports.
 *
 * Ranks wait for each other inside of a step. So when one fails, or a step takes longer than its deadline, the crew finds
 * out which rank is at fault and in what call, aborts the groups of all, and has failed for good: what the ranks hold of the
 * sequences no longer fits together. The first failure is the one that is told.
 */
#ifndef CORE_LOOP_CREW_H
#define CORE_LOOP_CREW_H

#include "loop/instance.h"
#include "loop/rank.h"

struct crew;

/* Opens the ranks of `in` (in->ranks), joins their groups, binds the plan, and allocates as many cache pages as the rank with
 * the least room can hold (in->n_pages). With in->o.dry only the first rank is opened, and joins nobody.
 * After an error *out is NULL, but for a rank that does not come back: then it is what crew_close will refuse to close. */
int32_t crew_open(struct instance *in, struct crew **out, tn_err *err);

/* NULL is allowed. False if a rank did not come back from a plugin: then it stays as it is, with everything that the rank
 * uses, which is all of `in` and the plugins. Else in->ranks is gone afterwards. */
bool crew_close(struct crew *c);

/* Memory for the steps of `s`, and graphs; once, before the first. Of several processes all do it, those that follow with a
 * scheduler of the same limits. */
int32_t crew_prepare(struct crew *c, const struct sched *s, tn_err *err);

/* How many steps may be submitted and not waited for. */
uint32_t crew_depth(const struct crew *c);

/* Begins a step. The step stays valid until it was waited for. */
int32_t crew_submit(struct crew *c, const struct sched *s, const struct sched_step *step,
                    tn_err *err);

/* Waits for the oldest step that was submitted. */
int32_t crew_wait(struct crew *c, struct rank_result *out, tn_err *err);

/* Whether this process has the scheduler. Of the others, crew_follow is what remains to be done. */
bool crew_leads(const struct crew *c);

/* Runs the steps that the leader announces, until the run is over (TN_OK), `stop` (may be NULL) returns nonzero
 * (TN_E_CANCELED), or somebody fails. */
int32_t crew_follow(struct crew *c, int (*stop)(void *arg), void *arg, tn_err *err);

/* Whether the crew has failed for good; then `err` tells why. Any thread. */
bool crew_failed(struct crew *c, tn_err *err);

/* Of a single rank, which runs on its caller's thread and has nobody else to notice: a number that changes whenever the rank gets
 * on, and giving it up after it did not for `timeout_ns`. Then the crew has failed, and is left behind when it closes:
 * the thread is still in there. Any thread. */
uint64_t crew_pulse(const struct crew *c);
void crew_give_up(struct crew *c, uint64_t timeout_ns);

/* How many ranks there are in all, and processes, and which one this is. */
uint32_t crew_world(const struct crew *c);
void crew_processes(const struct crew *c, uint32_t *process, uint32_t *n_processes);

/* The plugin that joins the ranks which share matrices, or the stages of a pipeline, and why that one. NULL: there is one rank. */
const char *crew_joined_by(const struct crew *c, bool pipeline, const char **why);

/* Calls and bytes that the ranks of this process have handed to their comm lines. */
void crew_moved(const struct crew *c, uint64_t *calls, uint64_t *bytes);

#endif
