/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/arrays.h"

#include "base/checked.h"
#include "base/mem.h"

#define ARRAY_ALIGN 64

/* Hands out consecutive pieces of a block; with base NULL it only adds up. */
struct carver {
    uint8_t *base;
    uint64_t at;
};

static void *carve(struct carver *c, uint64_t count, uint64_t size)
{
    void *p = c->base ? c->base + c->at : NULL;

    c->at = align_up(c->at + (count ? count : 1) * size, ARRAY_ALIGN);
    return p;
}

static void carve_all(struct step_arrays *a, const struct batch_capacity *n, struct carver *c)
{
    struct batch_buffers *b = &a->buffers;

    b->tokens = carve(c, n->rows, sizeof *b->tokens);
    b->positions = carve(c, n->rows, sizeof *b->positions);
    b->row_seq = carve(c, n->rows, sizeof *b->row_seq);
    b->row_slot = carve(c, n->rows, sizeof *b->row_slot);
    b->token_row = carve(c, n->rows, sizeof *b->token_row);
    b->first_row = carve(c, n->seqs + 1, sizeof *b->first_row);
    b->context = carve(c, n->seqs, sizeof *b->context);
    b->prompt_len = carve(c, n->seqs, sizeof *b->prompt_len);
    b->block_table = carve(c, n->blocks, sizeof *b->block_table);
    b->logits_row = carve(c, n->logits, sizeof *b->logits_row);
    b->sample = carve(c, n->logits, sizeof *b->sample);
    b->bias_ids = carve(c, n->bias, sizeof *b->bias_ids);
    b->bias_values = carve(c, n->bias, sizeof *b->bias_values);
    b->history = carve(c, n->history, sizeof *b->history);
    a->sampled = carve(c, n->logits, sizeof *a->sampled);
    a->logprob = carve(c, n->logits, sizeof *a->logprob);
}

int32_t step_arrays_init(struct step_arrays *a, const struct sched *s, const tn_device_api *api,
                         tn_device *device, const char *place, struct ledger *ledger, tn_err *err)
{
    struct batch_capacity n = batch_capacity(s);
    struct carver c = {NULL, 0};
    int32_t rc;

    *a = (struct step_arrays){.api = api, .device = device};
    rc = ledger_owner(ledger, "step arrays", place, &a->owner, err);
    if (rc != TN_OK)
        return rc;
    carve_all(a, &n, &c);
    rc = api->mem_alloc(device, c.at, &a->host_block, err);
    if (rc != TN_OK)
        return rc;
    a->bytes = c.at;
    ledger_take(a->owner, a->bytes);
    c = (struct carver){a->host_block, 0};
    carve_all(a, &n, &c);
    return TN_OK;
}

void step_arrays_release(struct step_arrays *a)
{
    if (!a->host_block)
        return;
    a->api->mem_free(a->device, a->host_block);
    ledger_give(a->owner, a->bytes);
    *a = (struct step_arrays){0};
}

void step_arrays_fill(struct step_arrays *a, const struct sched *s, const struct sched_step *step)
{
    batch_fill(s, step, 0, &a->buffers, &a->host, &a->batch);
    a->host.sampled = a->sampled;
    a->host.logprob = a->logprob;
    a->batch.dev = &a->host;
}
