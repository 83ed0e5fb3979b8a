/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting steps. On the path between two steps: nothing is allocated after parts_init. The loop's thread. */
#include "loop/parts.h"

#include <assert.h>

#include "base/checked.h"
#include "base/mem.h"

#define ARRAY_ALIGN 64
#define N_ARRAYS 13
/* Rows for which a matrix product takes about as long as reading its weights does. */
#define ROWS_PER_PART 64

static uint64_t block_bytes(const struct batch_capacity *n)
{
    uint64_t seqs = n->seqs + LIMIT_MICRO_BATCHES; /* a cut sequence counts in two parts */
    uint64_t bytes = n->rows * (3 * sizeof(int32_t) + sizeof(int64_t)) +
                     seqs * 3 * sizeof(int32_t) + LIMIT_MICRO_BATCHES * sizeof(int32_t) +
                     n->blocks / n->seqs * seqs * sizeof(int32_t) +
                     n->logits * (sizeof(int32_t) + sizeof(tn_sample_row)) +
                     n->bias * (sizeof(int32_t) + sizeof(float)) + n->history * sizeof(int32_t);

    return bytes + (uint64_t)LIMIT_MICRO_BATCHES * N_ARRAYS * ARRAY_ALIGN;
}

int32_t parts_init(struct step_parts *p, const struct sched *s, struct ledger *ledger, tn_err *err)
{
    struct batch_capacity n = batch_capacity(s);
    int32_t rc;

    *p = (struct step_parts){0};
    rc = ledger_owner(ledger, "step arrays", "host", &p->owner, err);
    if (rc != TN_OK)
        return rc;
    p->block = mem_aligned((size_t)block_bytes(&n), ARRAY_ALIGN);
    p->seqs = mem_array(n.seqs + LIMIT_MICRO_BATCHES, sizeof *p->seqs);
    if (!p->block || !p->seqs) {
        mem_free(p->block);
        mem_free(p->seqs);
        *p = (struct step_parts){0};
        return err_nomem(err, "step arrays");
    }
    p->bytes = block_bytes(&n);
    ledger_take(p->owner, p->bytes);
    return TN_OK;
}

void parts_release(struct step_parts *p)
{
    if (p->block)
        ledger_give(p->owner, p->bytes);
    mem_free(p->block);
    mem_free(p->seqs);
    *p = (struct step_parts){0};
}

uint32_t parts_count(const struct sched_step *step, uint32_t n_stages, uint32_t wanted)
{
    uint32_t n = wanted;

    if (n_stages == 1)
        return 1;
    for (uint32_t i = 0; i < step->n_seqs; i++)
        if (step->seqs[i].n_logits > 1)
            return 1;
    if (n == 0) {
        n = step->n_rows / ROWS_PER_PART;
        n = n > 2 * n_stages ? 2 * n_stages : n;
    }
    n = n > LIMIT_MICRO_BATCHES ? LIMIT_MICRO_BATCHES : n;
    n = n > step->n_rows ? step->n_rows : n;
    return n ? n : 1;
}

/* -- Cutting ------------------------------------------------------------------------------------------------- */

/* Where the cut stands: `used` rows of sequence `seq` are in earlier parts. */
struct cut {
    uint32_t seq, used;
};

/* The next `n_rows` rows of the sequence `q`, of which `used` came before. */
static struct sched_seq piece_of(const struct sched_seq *q, uint32_t used, uint32_t n_rows)
{
    struct sched_seq piece = *q;

    piece.n_rows = n_rows;
    piece.context = q->context - q->n_rows + used + n_rows;
    piece.tokens = q->tokens + used;
    if (used + n_rows < q->n_rows) {
        piece.n_logits = 0;
        piece.samples = false;
        piece.token_row = SCHED_TOKEN_KNOWN;
    }
    return piece;
}

/* Takes up to `n_rows` rows from where the cut stands. The part's sequences begin at `seqs`. */
static void take_part(const struct sched_step *step, struct cut *at, uint32_t n_rows,
                      struct sched_seq *seqs, struct sched_step *part)
{
    *part = (struct sched_step){.number = step->number, .seqs = seqs};
    while (part->n_rows < n_rows && at->seq < step->n_seqs) {
        const struct sched_seq *q = &step->seqs[at->seq];
        uint32_t left = q->n_rows - at->used, room = n_rows - part->n_rows;
        struct sched_seq *piece = &seqs[part->n_seqs++];
        *piece = piece_of(q, at->used, left < room ? left : room);
        piece->first_row = part->n_rows;
        piece->first_logits = part->n_logits;
        part->n_rows += piece->n_rows;
        part->n_logits += piece->n_logits;
        at->used += piece->n_rows;
        if (at->used == q->n_rows)
            *at = (struct cut){at->seq + 1, 0};
        if (piece->n_rows > part->max_rows_per_seq)
            part->max_rows_per_seq = piece->n_rows;
        if (piece->context > part->max_context)
            part->max_context = piece->context;
        if (piece->n_blocks > part->max_blocks)
            part->max_blocks = piece->n_blocks;
    }
}

static void *carve(uint8_t **at, uint64_t count, uint64_t size)
{
    void *p = *at;

    *at += align_up(count * size, ARRAY_ALIGN);
    return p;
}

static void carve_part(const struct sched_step *part, struct batch_buffers *b, uint8_t **at)
{
    *b = (struct batch_buffers){0};
    b->tokens = carve(at, part->n_rows, sizeof *b->tokens);
    b->positions = carve(at, part->n_rows, sizeof *b->positions);
    b->row_seq = carve(at, part->n_rows, sizeof *b->row_seq);
    b->row_slot = carve(at, part->n_rows, sizeof *b->row_slot);
    b->first_row = carve(at, part->n_seqs + 1, sizeof *b->first_row);
    b->context = carve(at, part->n_seqs, sizeof *b->context);
    b->prompt_len = carve(at, part->n_seqs, sizeof *b->prompt_len);
    b->block_table = carve(at, (uint64_t)part->n_seqs * part->max_blocks, sizeof *b->block_table);
    b->logits_row = carve(at, part->n_logits, sizeof *b->logits_row);
    b->sample = carve(at, part->n_logits, sizeof *b->sample);
}

/* Counts what batch_fill has written of the arrays whose length only it knows. */
static void count_used(const tn_batch *batch, uint64_t *bias, uint64_t *history)
{
    for (uint32_t i = 0; i < batch->n_logits; i++) {
        *bias += batch->host->sample[i].n_bias;
        *history += batch->host->sample[i].history_len;
    }
}

void parts_fill(struct step_parts *p, const struct sched *s, const struct sched_step *step,
                uint32_t n)
{
    uint8_t *at = p->block;
    struct sched_seq *seqs = p->seqs;
    struct batch_buffers b;
    int32_t *bias_ids = carve(&at, step->n_bias, sizeof *bias_ids);
    float *bias_values = carve(&at, step->n_bias, sizeof *bias_values);
    int32_t *history = carve(&at, step->n_history, sizeof *history);
    uint64_t bias = 0, said = 0;
    uint32_t logits = 0, rows = 0;
    struct cut cut = {0, 0};

    assert(n >= 1 && n <= LIMIT_MICRO_BATCHES);
    for (p->n = 0; p->n < n && rows < step->n_rows; p->n++) {
        struct sched_step part;
        uint32_t left = n - p->n;
        take_part(step, &cut, (step->n_rows - rows + left - 1) / left, seqs, &part);
        carve_part(&part, &b, &at);
        b.bias_ids = bias_ids + bias;
        b.bias_values = bias_values + bias;
        b.history = history + said;
        batch_fill(s, &part, 0, &b, &p->arrays[p->n], &p->batch[p->n]);
        p->first_logits[p->n] = logits;
        count_used(&p->batch[p->n], &bias, &said);
        seqs += part.n_seqs;
        rows += part.n_rows;
        logits += part.n_logits;
    }
    assert(at <= p->block + p->bytes);
}
