/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing variants: hard requirements filter, a pin wins, then cost decides. One choice is made per op and range of rows;
 * variants that serve one op share its packed weights, so they must name the same layout. A fusion is taken where it costs
 * less than what it replaces; one that serves few rows only, where it costs less than what else would run in these steps,
 * other fusions included, so that ops take turns by the rows of a step.
 *
 * Every rejection leaves a reason, which `tenon plugin explain` prints.
 */
#ifndef CORE_EXEC_SELECT_H
#define CORE_EXEC_SELECT_H

#include "exec/graph.h"
#include "exec/pattern.h"
#include "exec/tuning.h"
#include "tenon/kernels.h"

/* A loaded kernel set. */
struct kernel_source {
    const char *plugin; /* "cpu" */
    const tn_kernel_set *set;
    void *instance;
};

/* A pin of the configuration. `op` names a basic or fused op; `variant` is "plugin/variant". A pinned basic op is never
 * fused away; a pinned fused op goes before other fusions wherever its variant can run, whatever it costs. */
struct pin {
    const char *op;
    const char *variant;
};

struct select_options {
    const struct kernel_source *sources; /* in order of preference: ties go to the earlier */
    uint32_t n_sources;
    const tn_device_info *device;
    const char *device_kind;
    uint64_t cpu[2]; /* usable features of the host */
    uint32_t act_dtype, kv_dtype;
    uint32_t max_rows, max_logits;
    const struct pin *pins;
    uint32_t n_pins;
    bool fusion;
    const char
        *no_parts; /* why nobody shows parts of sums over ranks to kernels; NULL: somebody does */
    const struct tuning
        *tuning; /* measured times, before which estimates count nothing; may be NULL */
};

/* One variant of one set, with what is known about it before any op is looked at. */
struct candidate {
    const struct kernel_source *source;
    const tn_variant *v;
    struct pattern *pattern;     /* NULL unless it fuses */
    const char *excluded;        /* why it cannot run on this device at all; NULL: it can */
    const struct tuning *tuning; /* measured times, or NULL */
    double gap_ns;               /* what it costs its neighbours beyond its own measured time */
};

#define CHOICE_MAX_RANGES 20

/* What runs an op: for up to max_rows rows, variants[i]. The last range of a fused op may end before the rows that a step
 * can have: its members run themselves then. */
struct choice {
    uint32_t n;
    struct {
        uint32_t max_rows;
        const struct candidate *candidate;
    } ranges[CHOICE_MAX_RANGES];
    double cost; /* nanoseconds per row, summed over the powers of two and the most rows */
};

/* The variant for that many rows, of which there is at least one. */
const struct candidate *choice_for(const struct choice *c, uint32_t rows);

/* Why a candidate was not taken for an op. */
struct verdict {
    struct verdict *next;
    const struct candidate *candidate;
    const char *reason;
};

#define SELECT_MAX_TURNS 8

/* An op that will run, in order, in steps of some numbers of rows. */
struct selected {
    struct graph_op *op;
    struct choice choice;
    struct verdict *losers; /* of this op, and of the fusions that lost against it */
    /* Descending: it runs in steps of up to turns[0] rows, but not in those of up to turns[1], but again in those of up to
     * turns[2], and so on: others do its work there. */
    uint32_t n_turns, turns[SELECT_MAX_TURNS];
};

/* Whether the op runs in steps of so many rows. */
bool selected_runs(const struct selected *s, uint32_t rows);

struct selection {
    struct arena arena;
    struct candidate *candidates;
    size_t n_candidates;
    const tn_kv_layout *kv_layout; /* NULL: the plan has no cache */
    struct selected *ops;
    size_t n_ops;
};

/*
 * Selects for every op of `g`, which gains fused ops. TN_E_UNSUPPORTED, naming the op and the nearest miss, if
 * some op has no variant; TN_E_CONFIG if a pin cannot be obeyed.
 */
int32_t select_variants(struct graph *g, const struct select_options *o, struct selection *out,
                        tn_err *err);
void selection_release(struct selection *s);

#endif
