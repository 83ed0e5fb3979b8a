/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of a binding; shared by the files that build it. */
#ifndef CORE_EXEC_BOUND_H
#define CORE_EXEC_BOUND_H

#include "exec/bind.h"

struct upload;

/* A block of device memory, booked to an owner. */
struct device_block {
    struct device_block *next;
    struct ledger_owner *owner;
    void *ptr;
    uint64_t bytes;
    bool borrowed; /* of a group of ranks, which ends later */
};

struct bound_step {
    const struct selected *sel;
    tn_launch launch; /* complete but for the batch */
    const void **in;
    void **out;
    const void **weights;
    bool logits_rows; /* works on logits rows: skipped when a step wants none */
    bool samples;     /* its output is the batch's `sampled` */
};

struct binding {
    struct bind_options o;
    struct arena arena;
    struct graph *graph;
    struct selection selection;
    struct bound_step *steps;
    size_t n_steps;
    struct device_block *blocks; /* all device memory */
    struct ledger_owner *own_weights, *own_buffers, *own_workspace, *own_kv;
    const void **canonical; /* per plan weight: device address of canonical elements, or NULL */
    uint64_t *host_strides; /* per plan weight: stride0 of this rank's slice in the engine's file */
    /* While weights load, unless the device computes in host memory. */
    struct upload *upload;
    void *scratch; /* device memory from which weights are packed */
    uint64_t scratch_bytes;
    struct ledger_owner *own_loading;
    uint64_t weight_bytes, streamed_bytes;
    uint64_t load_ns; /* that bringing the weights here took */
    void **value_ptr; /* per plan value: device address of its buffer, or NULL */
    void *workspace;
    void **states;   /* per candidate of the selection: what its launches share, or NULL */
    tn_kv_layer *kv; /* n_kv of them */
    uint32_t n_kv;
    const float *logits;
    tn_stream *stream;
    const struct kernel_source *feed_source; /* NULL: tokens come from the host alone */
    const tn_variant *feed;
};

/* memory.c: device memory that lives as long as the binding, and its owners in the ledger. */
int32_t bound_open_owners(struct binding *b, tn_err *err);
void bound_free_all(struct binding *b);
int32_t bound_alloc(struct binding *b, struct ledger_owner *owner, uint64_t bytes, void **out,
                    tn_err *err);
/* The same of what ranks add up, where their group has memory for it; `layout` as tn_comm_backend::memory says. */
int32_t bound_alloc_shared(struct binding *b, struct ledger_owner *owner, uint64_t bytes,
                           uint64_t layout, void **out, tn_err *err);

/* weights.c: packs and places the weights of every step. */
int32_t bound_load_weights(struct binding *b, tn_err *err);

/* The same without loading: books what it would take. */
int32_t bound_count_weights(struct binding *b, tn_err *err);

/* run.c: looks for the set that offers `feed`. */
void bound_find_feed(struct binding *b);
/* kv_scale.c: checks that the cache's dtype can be served, and places the scales of a cache of 8 bits. */
int32_t bound_check_kv_dtype(const struct binding *b, tn_err *err);
int32_t bound_place_kv_scales(struct binding *b, tn_err *err);

/* weights.c: this rank's slice of a weight on the host, to be closed; rows lie stride0 apart. */
struct host_view {
    const uint8_t *data;
    uint8_t *own;
};
int32_t bound_view_open(const struct binding *b, uint32_t id, struct host_view *v, tn_err *err);
void bound_view_close(const struct binding *b, uint32_t id, struct host_view *v);

/* buffers.c: gives every value an address; values that do not live at once share memory. */
int32_t bound_place_values(struct binding *b, tn_err *err);

#endif
