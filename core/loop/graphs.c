/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/graphs.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/log.h"

/* Small batches are padded least, since a row more costs them most. */
static const uint32_t buckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};

#define N_BUCKETS (sizeof buckets / sizeof *buckets)

static uint64_t free_bytes(const struct step_graphs *g)
{
    uint64_t left = 0, total = 0;

    return g->o.api->mem_info(g->o.device, &left, &total, NULL) == TN_OK ? left : 0;
}

/* The buckets for batches of up to max_batch_size, the last being the first that holds it. */
static uint32_t choose_buckets(uint32_t max_batch_size, uint32_t rows[STEP_GRAPHS_MAX])
{
    uint32_t n = 0;

    for (size_t i = 0; i < N_BUCKETS; i++) {
        rows[n++] = buckets[i] < max_batch_size ? buckets[i] : max_batch_size;
        if (buckets[i] >= max_batch_size)
            break;
    }
    return n;
}

/* Runs a step of padding once, so that whatever a kernel or a library does at its first launch is done: in a capture
 * it might not be allowed. It also shows whether the kernels bear padding. Ranks come together before, so that none makes a graph
 * ready, which takes memory, while the device of another waits for it in a kernel. */
static int32_t warm_up(struct step_graphs *g, const tn_batch *batch, tn_err *err)
{
    const struct step_slot *blank = step_arrays_blank(g->o.arrays, batch->n_rows);
    int32_t rc = binding_meet(g->o.binding, err);

    if (rc == TN_OK)
        rc = step_arrays_move(g->o.arrays, NULL, blank, binding_stream(g->o.binding), err);
    if (rc == TN_OK)
        rc = binding_run(g->o.binding, batch, binding_feeds(g->o.binding), err);
    return rc == TN_OK ? binding_wait(g->o.binding, err) : rc;
}

/* `capture` false: only what other ranks expect of this one. An error is that a step does not run which others run, too; *whole
 * becomes false where it cannot be captured, or does not run for a rank that is alone. */
static int32_t capture_one(struct step_graphs *g, uint32_t i, bool *whole, tn_err *err)
{
    const tn_batch *batch =
        step_arrays_model(g->o.arrays, g->o.block_tokens, g->rows[i], g->o.max_context);
    tn_err why = TN_ERR_INIT;
    int32_t rc = warm_up(g, batch, &why);

    if (rc != TN_OK && g->o.among_several) {
        if (err)
            *err = why;
        return rc;
    }
    if (rc == TN_OK && *whole)
        rc = binding_capture(g->o.binding, batch, &g->steps[i], &why);
    if (rc != TN_OK)
        log_warn("%s: steps of %" PRIu32 " sequences cannot be captured and run op by op: %s",
                 g->o.place, g->rows[i], why.msg);
    *whole = *whole && rc == TN_OK;
    return TN_OK;
}

/* The largest first, so that the smaller ones find the memory that it needed. After one that cannot be captured no other is tried,
 * but a rank among several goes on to run what the others run. */
static int32_t capture_all(struct step_graphs *g, tn_err *err)
{
    uint64_t begin = clock_ns(), before = free_bytes(g), after;
    bool whole = true;
    uint32_t n = 0;
    int32_t rc = TN_OK;

    for (uint32_t i = g->n; i-- > 0 && rc == TN_OK && (whole || g->o.among_several);)
        rc = capture_one(g, i, &whole, err);
    for (uint32_t i = 0; i < g->n; i++) {
        if (!g->steps[i].graph)
            continue;
        g->rows[n] = g->rows[i];
        g->steps[n++] = g->steps[i];
    }
    for (uint32_t i = n; i < g->n; i++)
        g->steps[i].graph = NULL;
    g->n = n;
    after = free_bytes(g);
    g->bytes = before > after ? before - after : 0;
    ledger_take(g->owner, g->bytes);
    g->capture_ns = clock_ns() - begin;
    log_info("%s: %" PRIu32 " graphs captured in %.0f ms, %" PRIu64 " bytes", g->o.place, n,
             (double)g->capture_ns / 1e6, g->bytes);
    return rc;
}

int32_t step_graphs_init(struct step_graphs *g, const struct step_graphs_options *o, tn_err *err)
{
    int32_t rc;

    *g = (struct step_graphs){.o = *o};
    rc = ledger_owner(o->ledger, "graphs", o->place, &g->owner, err);
    if (rc != TN_OK)
        return rc;
    g->n = choose_buckets(o->max_batch_size, g->rows);
    for (uint32_t i = 0; i < g->n; i++) {
        const char *who = binding_uncapturable(o->binding, g->rows[i]);
        if (!who)
            continue;
        log_info("%s: steps are not captured, because of %s", o->place, who);
        g->n = i;
    }
    return g->n > 0 ? capture_all(g, err) : TN_OK;
}

void step_graphs_release(struct step_graphs *g)
{
    for (uint32_t i = 0; i < g->n; i++)
        g->o.api->graph_free(g->o.device, g->steps[i].graph);
    if (g->owner)
        ledger_give(g->owner, g->bytes);
    *g = (struct step_graphs){0};
}

uint32_t step_graphs_bucket(const struct step_graphs *g, uint32_t n_rows, uint32_t n_seqs,
                            uint32_t n_logits)
{
    if (n_rows != n_seqs || n_logits != n_seqs)
        return 0;
    for (uint32_t i = 0; i < g->n; i++)
        if (g->rows[i] >= n_seqs)
            return g->rows[i];
    return 0;
}

int32_t step_graphs_launch(struct step_graphs *g, uint32_t bucket, tn_err *err)
{
    uint32_t i = 0;

    while (g->rows[i] != bucket)
        i++;
    return binding_replay(g->o.binding, &g->steps[i], err);
}
