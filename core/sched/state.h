/* SPDX-License-Identifier: Apache-2.0 */
/* Private to core/sched: the bodies of the scheduler and of a request. Who else needs a field asks
 * sched.h. */
#ifndef CORE_SCHED_STATE_H
#define CORE_SCHED_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "kv/cache.h"
#include "sched/deadline.h"
#include "sched/queue.h"
#include "sched/request.h"
#include "sched/sched.h"

enum request_state {
    REQUEST_NEW,       /* not submitted */
    REQUEST_QUEUED,    /* in `waiting`, never ran */
    REQUEST_PREEMPTED, /* in `waiting`, ran before; holds no blocks */
    REQUEST_PREFILL,   /* in `running`, tokens known at admission are not all computed */
    REQUEST_DECODE,    /* in `running` */
    REQUEST_ENDED      /* in no list: FINISHED was sent, a step in flight still uses its blocks */
};

#define NO_SLOT UINT32_MAX

/*
 * Positions of a sequence, in the order in which they grow:
 *
 *   computed <= scheduled          rows whose result was committed; rows given to some step
 *   computed <= n_tokens           tokens that are known (prompt and output)
 *   scheduled <= n_tokens + pending    where `pending` tokens are being sampled by steps in flight
 */
struct request {
    struct request *prev, *next; /* in waiting or running */
    uint64_t id, user;
    uint64_t arrival; /* order of submission */
    uint32_t state;   /* ::request_state */
    bool evict;       /* to be preempted as soon as no step in flight uses it */
    bool started;     /* ran at least once */

    uint32_t n_prompt, n_tokens, max_new, min_new;
    uint32_t computed, scheduled, pending;
    uint32_t in_flight; /* steps that contain it */
    uint32_t last_row;  /* logits row of its pending token in step last_step */
    uint64_t last_step;
    uint32_t lost; /* positions computed before the last preemption; their logits were delivered */

    uint32_t slot;     /* its row of block tables, or NO_SLOT */
    uint32_t reserved; /* blocks promised to it and not taken yet */
    struct kv_root root;
    struct kv_seq kv;
    uint32_t n_hashed;

    uint64_t deadline_ns, queue_deadline_ns; /* DEADLINE_NONE: none */
    uint64_t heap_key;                       /* deadline in force */
    uint32_t heap_at;                        /* place in the heap plus one; 0: not in it */

    bool want_logits;
    bool penalized; /* the sampler needs the history */
    uint32_t n_logprobs;
    struct request_sampling sampling;
    uint32_t n_ends, n_eos; /* ids that end it; the first n_eos are end ids */
    uint32_t n_bias, n_ban; /* biases asked for; after them, bans in force until min_new */

    struct sched_usage usage;

    /* arrays behind the struct, in the same block of memory */
    uint64_t *hashes;   /* [full blocks of prompt + max_new] */
    int32_t *tokens;    /* [n_prompt + max_new] */
    int32_t *ends;      /* [n_ends] */
    int32_t *bias_ids;  /* [n_bias + n_ban] */
    float *bias_values; /* likewise */
};

/* A request by id: the low bits are an index here, the high bits must equal the serial. */
struct request_entry {
    struct request *request; /* NULL: free */
    uint64_t serial;
};

#define ID_INDEX_BITS 20

struct step_slot {
    struct sched_step step;
    struct sched_seq *seqs; /* [max_batch_size] */
};

struct sched {
    struct sched_config config; /* defaults filled in */
    struct kv_cache *kv;
    sched_sink sink;
    void *sink_arg;
    uint32_t block_tokens;
    uint32_t max_blocks; /* longest block table */
    uint32_t n_slots, n_entries;
    bool closed;

    uint64_t now_ns;
    uint64_t arrivals;
    struct queue waiting, running;
    uint32_t n_preempted; /* of the waiting */
    uint32_t n_evicting;  /* of the running, marked evict */
    uint32_t n_draining;
    uint64_t reserved; /* sum over running */
    struct deadline_heap deadlines;

    /* The head of the queue that could not be admitted, so that its prefix is not looked up again
     * before something changed: more blocks, or more rows, than there were. */
    uint64_t blocked_id;
    int64_t blocked_slack;
    uint32_t blocked_rows;

    struct request_entry *entries; /* [n_entries] */
    uint32_t *free_entries;
    uint32_t n_free_entries;
    int32_t *tables; /* [n_slots][max_blocks] */
    uint32_t *free_slots;
    uint32_t n_free_slots;

    struct step_slot steps[SCHED_IN_FLIGHT_MAX]; /* ring of the steps in flight */
    uint32_t first_step, n_steps;
    uint64_t last_number;

    uint16_t *owned; /* [n_blocks] scratch of the audit */
    struct sched_stats stats;
};

/* Output tokens that are known. */
static inline uint32_t request_n_output(const struct request *r)
{
    return r->n_tokens - r->n_prompt;
}

/* Bias entries of the row that samples the next token. */
static inline uint32_t request_n_bias(const struct request *r)
{
    return r->n_bias + (request_n_output(r) + r->pending < r->min_new ? r->n_ban : 0);
}

/* Positions whose blocks the request may ever need: its last token is never computed. */
static inline uint32_t request_worst_tokens(const struct request *r)
{
    return r->n_prompt + (r->max_new > 0 ? r->max_new - 1 : 0);
}

static inline uint32_t sched_blocks_for(const struct sched *s, uint64_t n_tokens)
{
    return (uint32_t)((n_tokens + s->block_tokens - 1) / s->block_tokens);
}

/* Moves time forward. */
static inline void sched_tick(struct sched *s, uint64_t now_ns)
{
    if (now_ns > s->now_ns)
        s->now_ns = now_ns;
}

/* Ends a live request: takes it out of its list, sends FINISHED, and reclaims it, at once or when
 * the last step that uses it is committed. With SCHED_END_ERROR its blocks leave the index. */
void sched_end(struct sched *s, struct request *r, uint32_t reason, int32_t status);

/* Gives back the blocks and the table of a request that no step in flight uses. */
void sched_vacate(struct sched *s, struct request *r);

/* Frees an ended request that no step in flight uses. */
void sched_reclaim(struct sched *s, struct request *r);

/* Takes a running request's blocks and puts it back among the waiting. No step in flight may use
 * it. */
void sched_preempt(struct sched *s, struct request *r);

#endif
