/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A binding: one engine on one device, ready to run steps. Variants are chosen, weights packed and placed, buffers and
 * workspaces sized for the largest step, the cache allocated. Nothing is allocated when steps run.
 *
 * A binding is used by one thread (its rank's step loop). It is immutable but for buffers and cache, so
 * replacing kernels means making a new one and switching at a step boundary.
 */
#ifndef CORE_EXEC_BIND_H
#define CORE_EXEC_BIND_H

#include "base/ledger.h"
#include "engine/engine.h"
#include "exec/comm.h"
#include "exec/select.h"

struct binding;

struct bind_options {
    const struct engine *engine;
    const tn_device_api *api;
    tn_device *device;
    const char *place; /* "cpu:0", for the ledger and messages */
    struct ledger *ledger;
    struct topology topo;
    struct comm *comm; /* lines to other ranks, and what this one is doing; NULL: nobody asks */
    struct select_options select;
    uint32_t max_seqs;
    uint32_t max_context; /* tokens of the longest sequence */
    uint32_t block_tokens;
    /* Called while weights load; nonzero ends it with TN_E_CANCELED. May be NULL. */
    int (*progress)(void *arg, uint64_t done, uint64_t total);
    void *arg;
    /* Called before and after each op of a step, with the launch as the kernel gets it (device addresses); an error
     * ends the step. For calibration; without fusion, every basic op is seen. May be NULL. */
    int32_t (*tap)(void *arg, const tn_launch *l, bool after, tn_err *err);
    void *tap_arg;
    bool count; /* allocate nothing, load nothing, but book in the ledger what would be allocated */
    bool dry;   /* choose only: allocate nothing, load nothing (`tenon plugin explain`) */
};

int32_t binding_new(const struct bind_options *o, struct binding **out, tn_err *err);
void binding_free(struct binding *b); /* NULL is allowed */

/* Bytes of one cache page over all layers; 0 if the plan has no cache. */
uint64_t binding_page_bytes(const struct binding *b);

/* Allocates the cache: `n_pages` pages per layer. Once, before the first step. */
int32_t binding_alloc_kv(struct binding *b, uint32_t n_pages, tn_err *err);

/* Enqueues one step. On a device that computes in host memory it is complete on return. `feed`: rows take tokens from the
 * step before (tenon/ops.h); only if binding_feeds. */
int32_t binding_run(struct binding *b, const tn_batch *batch, bool feed, tn_err *err);

/* Whether a step can take tokens that the host does not know yet. */
bool binding_feeds(const struct binding *b);

/* Whether steps of that many rows can be captured: NULL, or who is against it, for people. */
const char *binding_uncapturable(const struct binding *b, uint32_t rows);

/* A step that can be replayed, and what its ranks then move. The graph is the caller's; it dies before the binding does. */
struct captured_step {
    tn_graph *graph;
    struct comm_moved moved;
};

/* Comes together with the ranks that share matrices with this one, if there are any: all do so before each step that they run to
 * make ready what is captured next. */
int32_t binding_meet(struct binding *b, tn_err *err);

/* Captures a step, with its feeding if binding_feeds; `batch` as tenon/batch.h says under "Captured steps". */
int32_t binding_capture(struct binding *b, const tn_batch *batch, struct captured_step *out,
                        tn_err *err);

/* Enqueues a captured step. */
int32_t binding_replay(struct binding *b, const struct captured_step *step, tn_err *err);

/* Bytes per second that the device reads from its memory, measured now, which takes a fraction of a second. Any thread, but
 * it competes with the steps that run. */
int32_t binding_bandwidth(const struct binding *b, double *bytes_per_s, tn_err *err);

/* The stream that steps run in; NULL on a device without streams. */
tn_stream *binding_stream(const struct binding *b);

/* Waits for the steps that were enqueued and reports their errors. */
int32_t binding_wait(struct binding *b, tn_err *err);

/* Device address of the logits of the last step: float32 [n_logits, vocab]. */
const float *binding_logits(const struct binding *b);

/* What a variant that runs does not do as its op is defined, for want of hardware: name of the first such op (with a
 * variant of flag TN_VARIANT_FALLBACK), or NULL. */
const char *binding_fallback(const struct binding *b);

/* What was chosen, for explanations. */
const struct selection *binding_selection(const struct binding *b);

/* What it was made with. */
const struct bind_options *binding_options(const struct binding *b);

/* A variant that could run an op, and from how many rows to how many. */
struct binding_candidate {
    const struct candidate *candidate;
    uint32_t rows[2];
};

/* Those that could run a selected op, chosen or not: how many were found, up to `max`. Also how many rows it has at most. */
uint32_t binding_candidates(const struct binding *b, const struct selected *s,
                            struct binding_candidate *out, uint32_t max, uint32_t *max_rows);

/* The layer's cache of an op of the binding that touches it, without memory as long as there is none; else NULL. */
const tn_kv_layer *binding_kv(const struct binding *b, const tn_op *op);

/* Bytes of weights as the kernels read them. */
uint64_t binding_weight_bytes(const struct binding *b);

/* Nanoseconds that bringing them to the device took; 0 of a binding that is dry or only counts. */
uint64_t binding_load_ns(const struct binding *b);

/* How many of them every step reads whole: all but embedding tables, of which a row is gathered per token. This is
 * what the floor of a decode step is computed from. */
uint64_t binding_streamed_bytes(const struct binding *b);

#endif
