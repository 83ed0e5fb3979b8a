/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step loop: one thread that takes what the scheduler admits, runs it on the device, and hands out tokens.
 *
 * Other threads talk to it through an inbox (submit, cancel, stop) and read results from the events of their ticket.
 * The scheduler, the cache index and the binding belong to the loop's thread alone.
 */
#ifndef CORE_LOOP_LOOP_H
#define CORE_LOOP_LOOP_H

#include "loop/instance.h"
#include "sched/sched.h"

struct loop;
struct ticket;

/* Logits of prompt rows; called on the loop's thread. */
typedef void (*loop_logits)(void *arg, const float *logits, uint32_t first_position,
                            uint32_t n_rows, uint32_t vocab);

/* Starts the loop. The instance outlives it. When a single rank does not get on within parallel.step_timeout_ms, all requests
 * end with TN_E_COMM, and so do later ones; several ranks watch each other (crew.h). */
int32_t loop_start(struct instance *in, struct loop **out, tn_err *err);

/* What a process that follows another does instead: its ranks make ready for the steps of the leader's loop. */
int32_t loop_follow(struct instance *in, tn_err *err);

/* Bytes that the arrays of steps will take, on the host beside the device and on the device; in->n_pages is set. */
int32_t loop_array_bytes(struct instance *in, const tn_device_info *info, uint64_t *host,
                         uint64_t *device, tn_err *err);

/* Cancels everything, stops the thread and frees the loop. Tickets stay valid until released. A thread that was given up
 * because its device does not answer is left alone, and the loop with it; instance_close tells. */
void loop_stop(struct loop *l);

enum ticket_event_kind { TICKET_TOKEN, TICKET_FINISHED };

struct ticket_event {
    enum ticket_event_kind kind;
    int32_t token;
    float logprob;
    uint32_t index;
    uint64_t time_ns; /* clock_ns() */
    uint32_t reason;  /* ::sched_reason */
    int32_t status;
};

struct loop_request {
    struct request_spec spec;
    loop_logits on_logits; /* NULL: tokens are wanted */
    void *arg;
    struct ticket *ticket; /* what loop_submit made of it */
};

/* Checks and queues requests (any thread), all or none; a step that could take several does. A ticket holds room for all
 * its events. */
int32_t loop_submit(struct loop *l, struct loop_request *requests, uint32_t n, tn_err *err);

/* Waits up to timeout_ns (UINT64_MAX: for ever) for the next event. TN_E_TIMEOUT; TN_E_CLOSED after FINISHED. */
int32_t ticket_next(struct ticket *t, uint64_t timeout_ns, struct ticket_event *out);

/* Valid after the FINISHED event. */
const struct sched_usage *ticket_usage(const struct ticket *t);
const char *ticket_message(const struct ticket *t);
uint64_t ticket_submitted_ns(const struct ticket *t);

void ticket_cancel(struct ticket *t);
void ticket_stop(struct ticket *t);
void ticket_release(struct ticket *t); /* cancels if need be; NULL is allowed */

struct loop_stats {
    struct sched_stats sched;
    uint64_t last_progress_ns; /* clock_ns() when a step was committed, or nothing was to do */
};

void loop_get_stats(struct loop *l, struct loop_stats *out);

#endif
