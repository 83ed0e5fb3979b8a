/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantizing a plan: which linears there are and what stands before them, what a scheme (tenon/quant.h) makes of them,
 * and the plan that results. Nothing of the plan is changed: quant_rewrite makes another, whose weights say how they
 * come about, and stream.c makes them so while it writes.
 *
 * Used by one thread; quantized_make of different matrices may run at once.
 */
#ifndef CORE_BUILD_QUANT_H
#define CORE_BUILD_QUANT_H

#include "base/limits.h"
#include "build/calibration.h"
#include "build/emit.h"
#include "plugin/registry.h"
#include "tenon/quant.h"

/* A matrix that becomes the tensors of `plan`. */
struct quantized {
    const tn_quant_scheme *scheme;
    void *build;
    const char *plugin;
    tn_op op; /* the linear, for the scheme; what it points to follows */
    tn_value in, out_value;
    const tn_value *in_list[1], *out_list[1];
    tn_weight weights[2];
    const tn_weight *weight_list[2];
    const tn_quant_stats *stats;
    uint32_t group; /* of linears, in struct quant */
    /* Of a stack of experts: its matrices, and what is known of the rows that each reads (NULL: `stats` of all); 0 of a linear. */
    uint32_t n_experts;
    const struct quant_group *experts;
    const struct stored *stored; /* the checkpoint has it quantized; NULL: the scheme does it */
    double weight_error; /* of what was made, see tn_quant_format::fill; negative: unknown */
    tn_quant_plan plan;
    struct plan_weight source;
    struct weight_origin origin;
    void *out[TN_QUANT_MAX_TENSORS]; /* between quantized_make and quantized_drop */
};

/* Called before a matrix is made: of a linear's once, of a stack for each expert. `before` may be NULL. */
struct quantized_hook {
    int32_t (*before)(void *arg, const struct quantized *m, uint32_t expert);
    void *arg;
};

/* made.c: fills m->out. */
int32_t quantized_make(struct quantized *m, const struct checkpoint *c,
                       const struct quantized_hook *hook, tn_err *err);
void quantized_drop(struct quantized *m);

#define QUANT_WHY 192

/* Of ranges of the cache that are estimated from what calibration saw before values and keys were changed. */
#define QUANT_RANGE_MARGIN 1.25f

#define QUANT_STACKS 3 /* of moe_mlp */
#define QUANT_ROUTED UINT32_MAX
#define QUANT_EXPERT_NAME (LIMIT_TENSOR_NAME + 16)

/* A linear of the plan, or a stack of experts' matrices, which is seen as one matrix [E * N, K] (experts.c). */
struct quant_linear {
    uint32_t op;            /* in plan->ops */
    uint32_t weight;        /* its matrix, in plan->weights */
    uint32_t part, n_parts; /* which of how many of the op's matrices; they stand together */
    uint32_t group;
    uint32_t experts; /* of a stack: the group of its first expert, others follow; 0: none */
    /* Its tensors have column order[k] of the matrix as column k; NULL: k. Linears of a group that agree share the array. */
    const uint32_t *order;
    bool folded; /* what it reads comes in that order, see columns.c; else behind a `reorder` */
    bool chosen; /* it becomes what made.plan says; else `why` tells */
    bool raised; /* by the gate: stays as it is, whatever the scheme would do */
    char why[QUANT_WHY]; /* "" if chosen */
    struct quantized made;
    double error; /* relative error of its output, measured; negative: not measured */
};

/* Linears that read one value; or of experts, matrices of one expert that read the same rows. */
struct quant_group {
    uint32_t value;   /* QUANT_ROUTED: rows of one expert */
    uint32_t expert;  /* which */
    bool inside;      /* they are what its down reads; else what its gate and up read, */
    uint32_t outside; /* which is divided as the value of this group is */
    uint32_t n_linears, *linears;
    uint32_t n_readers;                  /* ops that they belong to */
    uint32_t before;                     /* ::tn_quant_before, 0: nothing that could take factors */
    uint32_t n_targets, targets[2];      /* weights whose entries of dims[0] are divided */
    float offset;                        /* of the norm */
    uint64_t n_channels, n_entries;      /* of the value, and of the targets */
    const uint32_t *entry;               /* channel -> entry of the targets; NULL: the same */
    float *divide;                       /* per channel; NULL: not smoothed */
    const struct calibration_input *raw; /* what calibration saw; NULL: nothing */
    tn_quant_stats stats;                /* the same after smoothing */
    struct hessian hessian;              /* while it is gathered and used, see calibrate.h */
};

struct quant_options {
    const struct registry_view *plugins;
    const char *scheme; /* NULL: none, for a quantized cache alone */
    const struct stored
        *stored; /* without a scheme: what the checkpoint itself has quantized; or NULL */
    const tn_kv *options;
    uint32_t n_options;
    int64_t tp_size;
    bool hadamard; /* queries and keys go through the op of that name, for a cache in float8_e4m3 */
};

/* A head that shared its matrix with embeddings, in the plan that is written. */
enum quant_sharing {
    QUANT_HEAD_APART,  /* it never did, or has one of its own now */
    QUANT_HEAD_SHARES, /* as before */
    QUANT_HEAD_EMBEDS  /* the embeddings read what was made of it */
};

struct quant {
    struct arena arena;
    const struct emission *from; /* the model's, or `parted` */
    struct emission parted; /* see heads.c: whose plan is NULL unless embeddings share a head */
    uint32_t head, shared;  /* then, its weight for the head, and the one that both have */
    enum quant_sharing sharing;
    struct quant_options o;
    const tn_quant_scheme *scheme; /* NULL: none */
    void *instance, *build;
    bool opened;
    const char *plugin, *name; /* of whoever decides: the scheme, or the checkpoint's format */
    uint32_t needs;            /* of calibration; 0: none */
    struct quant_linear *linears;
    /* Those of experts stand behind the one that their gate and up read. Behind the last is one for stacks of down, of which as a
     * whole nothing is known. */
    struct quant_group *groups;
    uint32_t n_linears, n_groups;
    struct weight_scale *scales; /* per weight of the plan */
    /* Per op, where it is kv_append: tables of keys and of values [n_kv_heads, head_dim, head_dim]; NULL: none */
    float *(*feedback)[2];
    /* Likewise: what keys [n_kv_heads * head_dim] are divided by before `hadamard`; NULL: nothing. See keys.c. */
    float **key_factors;
};

/* Finds scheme and linears. Close in any case of success. */
int32_t quant_open(const struct quant_options *o, const struct emission *from, struct quant **out,
                   tn_err *err);
void quant_close(struct quant *q); /* NULL is allowed */

/* Smooths and decides. `c` may be NULL (a dummy build), `calib` too, where the scheme allows. */
int32_t quant_decide(struct quant *q, const struct checkpoint *c, const struct calibration *calib,
                     tn_err *err);

/* The plan that results, with ranges of the cache from `calib` if that is given. `out` lives no longer than `q`. */
int32_t quant_rewrite(struct quant *q, const struct calibration *calib, struct emission *out,
                      tn_err *err);

/* Whether the checkpoint brings scales for an 8-bit cache, which then needs no calibration. */
bool quant_has_cache_scales(const struct quant *q);

/* heads.c: fills q->from, in which an output projection has a weight of its own where an embedding shares it in `from`. */
int32_t quant_part_head(struct quant *q, const struct emission *from, tn_err *err);
/* heads.c: what q->from calls the first matrix of an op of the model or of what it became; NULL: it has none, or looks up a table. */
const char *quant_matrix_name(const struct quant *q, const tn_op *op);
/* heads.c: finds q->sharing, of linears that have been decided. A head that shares is smoothed no more. */
void quant_settle_head(struct quant *q);
/* heads.c: what the columns of the head's matrix are to be multiplied by to be an embedding again; NULL: no memory. */
const float *quant_column_factors(struct quant *q, uint64_t n, tn_err *err);

/* groups.c: fills linears and groups of a new quant. */
int32_t quant_survey(struct quant *q, tn_err *err);
/* smooth.c: statistics of every group, smoothed where the scheme wants it. */
int32_t quant_smooth(struct quant *q, const struct checkpoint *c, const struct calibration *calib,
                     tn_err *err);

/* feedback.c: fills q->feedback, once everything is smoothed. */
int32_t quant_shape_errors(struct quant *q, const struct checkpoint *c,
                           const struct calibration *calib, tn_err *err);

/* experts.c: the expert's matrix as schemes see it. The struct must stay where it is. */
struct quant_expert {
    tn_op op;
    tn_value out_value;
    tn_weight weight;
    const tn_value *out_list[1];
    const tn_weight *weight_list[1];
};
void quant_expert_op(const struct quantized *m, struct quant_expert *out);
/* experts.c: names of inputs of a calibration: of an expert of a stack, and of a group. */
void quant_expert_name(const char *stack, uint32_t expert, char out[QUANT_EXPERT_NAME]);
void quant_group_name(const struct quant *q, const struct quant_group *g,
                      char out[QUANT_EXPERT_NAME]);
/* experts.c: how many groups the op's experts have, and those, behind its linears. */
uint32_t quant_expert_groups(const struct quant *q, const struct plan_op *op);
int32_t quant_add_experts(struct quant *q, struct quant_linear *gate, tn_err *err);
/* smooth.c: statistics of a group's value divided by `divide` (NULL: by 1), from what calibration saw. */
int32_t quant_set_stats(struct quant *q, struct quant_group *g, const float *divide, tn_err *err);
/* smooth.c: checks factors of a group; `any` tells whether one is not 1. */
int32_t quant_check_factors(const struct quant *q, const struct quant_group *g, const float *f,
                            bool *any, tn_err *err);
/* experts.c: smooths what down of each expert reads; `first` is the group of the first expert. */
int32_t quant_smooth_experts(struct quant *q, struct quant_group *first, const struct checkpoint *c,
                             tn_err *err);
/* experts.c: whether an op of that name has matrices that are quantized, and how many the op has. */
bool quant_multiplies(const char *op);
uint32_t quant_matrices(const struct plan_op *op);
/* experts.c: the weight as schemes see it, and where that comes from (`o`, changed in place; memory from `a`). */
struct plan_weight quant_matrix(const struct plan_weight *w);
int32_t quant_matrix_origin(struct arena *a, const struct plan_weight *w, struct weight_origin *o,
                            tn_err *err);
/* experts.c: brings a tensor that was made of a stack of matrices into the stack's shape; of a linear's it does nothing. */
void quant_stack(const struct plan_weight *stack, const struct quant_linear *l,
                 struct plan_weight *part);
/* experts.c: why what the linear's plan says cannot become experts; NULL: it can. */
const char *quant_unfit_for_experts(const struct quant_linear *l);
/* experts.c: an op has all stacks alike, or as they were. */
void quant_agree_on_experts(struct quant *q);
/* keys.c: fills q->key_factors, and hands the factors to the weights before keys and queries. */
int32_t quant_balance_keys(struct quant *q, const struct calibration *calib, tn_err *err);
/* Of an op kv_append: makes of E[q q'] [heads, dim, dim], lower triangles, of turned queries those of queries that are multiplied
 * by its factors before; leaves them if it has none. */
int32_t quant_balance_products(const struct quant *q, size_t append, uint64_t heads, uint64_t dim,
                               double *products, tn_err *err);
/* Of an op kv_append that has factors: `ranges` [n_kv_heads] of keys after `hadamard` alone become those of keys that are divided
 * before; `out` receives means [n_kv_heads * head_dim] of the latter. */
void quant_balanced_ranges(const struct quant *q, size_t append, const struct calibration *calib,
                           float *ranges);
void quant_balanced_means(const struct quant *q, size_t append, const struct calibration *calib,
                          float *out);
/* values.c: hands what turns values to the weights before and behind each attention that allows it. */
int32_t quant_turn_values(struct quant *q, const struct calibration *calib, tn_err *err);
/* Of w[rows, cols] the rows of each head, and the columns of each head, in place. */
void quant_turn_rows(const struct head_turn *t, uint64_t rows, uint64_t cols, float *w);
void quant_turn_columns(const struct head_turn *t, uint64_t rows, uint64_t cols, float *w);
/* The op `hadamard` (tenon/ops.h) on `n` elements of heads of `dim`, in place. */
void quant_turn(float *x, size_t n, uint64_t dim);
/* Whether no attention that reads the cache caps its scores: then keys may be stored without their means. */
bool quant_may_center(const struct plan *p, const struct plan_op *append);

/* Whether the weight comes of the checkpoint's tensors as numbers, so that it can still be multiplied: neither made as a table nor
 * stored there quantized. */
bool quant_is_plain(const struct quant *q, uint32_t weight);

/* How many ops read the value, as it is, and how many the weight. */
uint32_t quant_readers(const struct plan *p, uint32_t value);
uint32_t quant_users(const struct plan *p, uint32_t weight);

/* columns.c: units that ranks may divide columns in, so that each is whole shard units and whole groups: 0 if there are none. */
uint64_t quant_column_units(const struct quant_linear *l);
/* columns.c: whether the ranks of the build can share the linear's columns, as its plan has them in groups. */
bool quant_ranks_share(const struct quant *q, const struct quant_linear *l);

/* columns.c: finds l->order, of a linear whose plan was made from the checkpoint. */
int32_t quant_find_order(struct quant *q, struct quant_linear *l, tn_err *err);
/* columns.c: which of the chosen linears' inputs come in order by themselves (l->folded, and the rows in q->scales). Those that
 * ranks could not bring in order are chosen no longer. */
void quant_fold(struct quant *q);

/* The value whose data `value` has once collectives of one rank are removed. */
uint32_t quant_resolve(const struct plan *p, uint32_t value);

#endif
