/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Building a step: those that run get their rows in the order of arrival, then the queue is
 * admitted from its head. Continuous batching after Yu et al. 2022 (Orca), chunked prefill after
 * Agrawal et al. 2024 (Sarathi-Serve), preemption by recomputation after Kwon et al. 2023 (vLLM).
 * Called by one thread.
 *
 * Why the oldest always advances: it is served first, so every budget is whole when its turn comes,
 * and sched_new saw to it that each budget holds at least one request. Blocks: under
 * GUARANTEED_NO_EVICT its worst case was promised at admission. Under MAX_UTILIZATION it takes
 * those of the newest, one by one, until it is alone, and alone it fits, for request_new refused
 * what needs more than the pool. A victim that a step in flight still uses is marked and gives its
 * blocks up at that step's commit; nobody is admitted meanwhile.
 */
#include <assert.h>

#include "sched/sched.h"
#include "sched/state.h"

/* What is left of a step while it is being built. */
struct builder {
    struct sched_step *step;
    struct sched_seq *seqs;
    uint32_t rows, logits;
    uint64_t bias, history;
    bool closed; /* nobody else is admitted to this step */
};

/* -- How many rows ----------------------------------------------------------------------------- */

/* Rows that the request could use now if the step had room for all. */
static uint32_t rows_wanted(const struct sched *s, const struct request *r)
{
    if (r->evict)
        return 0;
    if (r->want_logits)
        return r->n_tokens - r->scheduled;
    if (request_n_output(r) + r->pending >= r->max_new)
        return 0;
    /* Its next row needs a token that only the device has. The device can pass it on from one step
     * to the next, but a sampler with penalties reads the whole history from the host. */
    if (r->pending && (r->penalized || r->last_step != s->last_number))
        return 0;
    return r->n_tokens + r->pending - r->scheduled;
}

/* Of the next n rows, those whose logits are due; before a preemption the first ones were
 * delivered. */
static uint32_t logits_due(const struct request *r, uint32_t n)
{
    uint32_t done = r->lost > r->scheduled ? r->lost - r->scheduled : 0;

    return n > done ? n - done : 0;
}

static uint64_t history_wanted(const struct request *r)
{
    return r->penalized ? r->n_tokens : 0;
}

/* Rows that the request gets: all it wants, or a chunk that ends with a block, or none. */
static uint32_t rows_given(const struct sched *s, const struct builder *b, const struct request *r,
                           uint32_t wanted)
{
    uint32_t n = wanted < b->rows ? wanted : b->rows;
    uint32_t end;

    if (r->want_logits && logits_due(r, n) > b->logits)
        n -= logits_due(r, n) - b->logits;
    if (!r->want_logits && n == wanted &&
        (b->logits == 0 || request_n_bias(r) > b->bias || history_wanted(r) > b->history))
        return 0;
    if (n == wanted || n == 0)
        return n;
    /* Recomputing may take more rows than any step has, even where prompts may not be cut. */
    if (!s->config.chunked_prefill && !r->want_logits && wanted <= s->config.max_num_tokens)
        return 0;
    end = (r->scheduled + n) & ~(s->block_tokens - 1);
    if (end > r->scheduled)
        return end - r->scheduled;
    return r->want_logits ? n : 0;
}

/* -- Blocks ------------------------------------------------------------------------------------ */

/* Makes the request hold blocks for its first n_tokens positions, at the cost of the newest if it
 * must. */
static bool take_blocks(struct sched *s, struct builder *b, struct request *r, uint32_t n_tokens)
{
    uint32_t growth = kv_growth(s->kv, &r->kv, n_tokens);
    uint32_t paid = growth < r->reserved ? growth : r->reserved;

    while (!kv_grow(s->kv, &r->kv, n_tokens)) {
        struct request *victim = s->running.last;
        assert(s->config.policy == SCHED_MAX_UTILIZATION);
        b->closed = true;
        /* The newest waits for blocks, which costs nobody anything; and blocks may be on their way
         * already. */
        if (victim == r || s->n_evicting > 0) {
            s->stats.stalls++;
            return false;
        }
        if (victim->in_flight) {
            victim->evict = true;
            s->n_evicting++;
        } else {
            sched_preempt(s, victim);
        }
    }
    r->reserved -= paid;
    s->reserved -= paid;
    return true;
}

/* Blocks that a request must be able to get, beside what others were promised, to be admitted. */
static uint32_t blocks_needed(const struct sched *s, const struct request *r)
{
    uint32_t worst = request_worst_tokens(r);

    if (s->config.policy == SCHED_MAX_UTILIZATION && r->n_tokens + 1 < worst)
        return sched_blocks_for(s, r->n_tokens + 1);
    return sched_blocks_for(s, worst);
}

/* Blocks that nobody holds and nobody was promised. MAX_UTILIZATION leaves one for each that runs,
 * so that an admission is not followed by a preemption at once. */
static int64_t blocks_spare(const struct sched *s)
{
    int64_t spare = (int64_t)kv_available(s->kv) - (int64_t)s->reserved;

    return s->config.policy == SCHED_MAX_UTILIZATION ? spare - s->running.count : spare;
}

/* -- Placing ----------------------------------------------------------------------------------- */

static void append(struct sched *s, struct builder *b, struct request *r, uint32_t n)
{
    struct sched_step *step = b->step;
    struct sched_seq *q = &b->seqs[step->n_seqs++];
    uint32_t end = r->scheduled + n;
    bool samples = !r->want_logits && end == r->n_tokens + r->pending;

    *q = (struct sched_seq){.request = r,
                            .id = r->id,
                            .user = r->user,
                            .first_row = step->n_rows,
                            .n_rows = n,
                            .context = end,
                            .prompt_len = r->n_prompt,
                            .first_logits = step->n_logits,
                            .n_logits = r->want_logits ? logits_due(r, n) : samples,
                            .samples = samples,
                            .n_logprobs = r->n_logprobs,
                            .tokens = r->tokens + r->scheduled,
                            .token_row = SCHED_TOKEN_KNOWN,
                            .blocks = r->kv.blocks,
                            .n_blocks = sched_blocks_for(s, end)};
    if (end > r->n_tokens) {
        assert(n == 1 && r->pending > 0 && r->last_step == s->last_number);
        q->token_row = (int32_t)r->last_row;
    }
    if (samples) {
        step->n_bias += request_n_bias(r);
        step->n_history += history_wanted(r);
        b->bias -= request_n_bias(r);
        b->history -= history_wanted(r);
        r->pending++;
        r->last_step = step->number;
        r->last_row = q->first_logits;
    }
    step->n_rows += n;
    step->n_logits += q->n_logits;
    step->n_decode += n == 1 && samples;
    step->max_rows_per_seq = n > step->max_rows_per_seq ? n : step->max_rows_per_seq;
    step->max_context = end > step->max_context ? end : step->max_context;
    step->max_blocks = q->n_blocks > step->max_blocks ? q->n_blocks : step->max_blocks;
    b->rows -= n;
    b->logits -= q->n_logits;
    if (r->scheduled < r->lost)
        s->stats.recomputed_rows += (end < r->lost ? end : r->lost) - r->scheduled;
    r->scheduled = end;
    r->in_flight++;
}

/* Gives a running request its rows of the step, if it wants some and there is room. */
static void place(struct sched *s, struct builder *b, struct request *r)
{
    uint32_t wanted = rows_wanted(s, r), n;

    if (wanted == 0)
        return;
    n = rows_given(s, b, r, wanted);
    if (n > 0 && !take_blocks(s, b, r, r->scheduled + n))
        n = 0;
    if (n < wanted)
        b->closed = true;
    if (n > 0)
        append(s, b, r, n);
}

/* -- Admission --------------------------------------------------------------------------------- */

/* The head of the queue begins, or begins again, to run: on blocks[] of the table on top of the
 * free ones. */
static void start(struct sched *s, struct request *r, const struct kv_match *found, uint32_t needed)
{
    queue_remove(&s->waiting, r);
    queue_append(&s->running, r);
    s->n_preempted -= r->state == REQUEST_PREEMPTED;
    r->state = REQUEST_PREFILL;
    r->slot = s->free_slots[--s->n_free_slots];
    kv_adopt(s->kv, &r->kv, found, r->want_logits ? r->lost : r->n_tokens);
    r->computed = r->scheduled = found->n_blocks * s->block_tokens;
    r->reserved = needed - found->n_blocks;
    s->reserved += r->reserved;
    if (r->started)
        return;
    r->started = true;
    r->usage.started_ns = s->now_ns;
    r->usage.n_cached = r->scheduled;
    s->stats.prompt_tokens += r->n_prompt;
    s->stats.cached_tokens += r->scheduled;
    deadline_set(&s->deadlines, r, r->deadline_ns);
}

/* Admits the head of the queue. False if it cannot be, and then nobody is. */
static bool admit(struct sched *s, struct builder *b)
{
    struct request *r = s->waiting.first;
    int64_t spare = blocks_spare(s);
    struct kv_match found = {0, 0};
    uint32_t needed = blocks_needed(s, r), wanted, reusable;
    int32_t *table;

    if (s->running.count == s->config.max_batch_size || b->rows == 0 ||
        (r->id == s->blocked_id && spare <= s->blocked_slack && b->rows <= s->blocked_rows))
        return false;
    assert(s->n_free_slots > 0); /* see sched_new */
    table = s->tables + (size_t)s->free_slots[s->n_free_slots - 1] * s->max_blocks;
    kv_seq_init(&r->kv, &r->root, table, s->max_blocks);
    kv_hash(s->kv, &r->root, r->tokens, r->n_tokens, r->hashes, &r->n_hashed);
    /* The last token is computed in any case, for its logits; so is every row whose logits are due. */
    reusable = r->want_logits ? r->lost : r->n_tokens - 1;
    found = kv_find(s->kv, &r->root, r->hashes, r->tokens, reusable / s->block_tokens, table);
    r->scheduled = found.n_blocks * s->block_tokens;
    wanted = r->n_tokens - r->scheduled;
    s->blocked_id = 0;
    if (spare < (int64_t)found.n_idle + needed - found.n_blocks) {
        s->blocked_id = r->id;
        s->blocked_slack = spare;
        s->blocked_rows = UINT32_MAX;
    } else if (rows_given(s, b, r, wanted) > 0) {
        start(s, r, &found, needed);
        place(s, b, r);
        return !b->closed;
    } else if (b->rows < wanted) {
        s->blocked_id = r->id;
        s->blocked_slack = INT64_MAX;
        s->blocked_rows = b->rows;
    }
    r->scheduled = 0;
    return false;
}

/* -- The step ---------------------------------------------------------------------------------- */

static void build(struct sched *s, struct builder *b)
{
    struct request *r, *next;

    for (r = s->running.first; r; r = next) {
        place(s, b, r);
        next = r->next; /* only now: placing may have preempted younger ones, never itself */
    }
    while (!b->closed && s->n_evicting == 0 && s->waiting.first)
        if (!admit(s, b))
            break;
}

static void publish(struct sched *s, const struct sched_step *step)
{
    s->n_steps++;
    s->last_number = step->number;
    s->stats.steps++;
    s->stats.rows += step->n_rows;
    s->stats.prefill_rows += step->n_rows - step->n_decode;
}

int32_t sched_schedule(struct sched *s, uint64_t now_ns, const struct sched_step **out, tn_err *err)
{
    struct step_slot *slot;
    struct builder b;
    const struct request *oldest;

    *out = NULL;
    sched_expire(s, now_ns);
    if (s->n_steps == s->config.max_in_flight)
        return TN_OK;
    slot = &s->steps[(s->first_step + s->n_steps) % s->config.max_in_flight];
    slot->step = (struct sched_step){.number = s->last_number + 1, .seqs = slot->seqs};
    b = (struct builder){.step = &slot->step,
                         .seqs = slot->seqs,
                         .rows = s->config.max_num_tokens,
                         .logits = s->config.max_logits,
                         .bias = s->config.max_step_bias,
                         .history = s->config.max_step_history};
    build(s, &b);
    oldest = s->running.first ? s->running.first : s->waiting.first;
    if (s->n_steps == 0 && oldest && slot->step.n_seqs == 0)
        return tn_err_set(err, TN_E_INTERNAL,
                          "nothing is in flight and request %llu, the oldest, cannot advance",
                          (unsigned long long)oldest->id);
    assert(s->n_steps > 0 || !oldest || slot->seqs[0].request == oldest);
    if (slot->step.n_seqs == 0)
        return TN_OK;
    publish(s, &slot->step);
    *out = &slot->step;
    return TN_OK;
}
