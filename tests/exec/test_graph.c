/* SPDX-License-Identifier: Apache-2.0 */
/* A plan cut for one rank: shapes for 2 and 4 ranks, replicas, and what cannot be divided. */
#include "exec/graph.h"

#include "base/mem.h"
#include "check_util.h"
#include "engine/sample_plan.h"

static tn_err err;

static int32_t cut(const struct plan *p, uint32_t rank, uint32_t ranks, struct graph **g)
{
    struct topology t = {rank, ranks, 0, 1};

    *g = NULL;
    err = (tn_err)TN_ERR_INIT;
    return graph_new(p, &t, TN_DT_F16, g, &err);
}

static const tn_op *op_of(const struct graph *g, const char *name, int n)
{
    for (size_t i = 0; i < g->n_ops; i++)
        if (strcmp(g->ops[i]->op.name, name) == 0 && n-- == 0)
            return &g->ops[i]->op;
    return NULL;
}

static const tn_weight *weight_of(const struct graph *g, const char *name)
{
    for (size_t i = 0; i < g->plan->n_weights; i++)
        if (strcmp(g->plan->weights[i].name, name) == 0)
            return &g->weights[i];
    ck_abort_msg("no weight %s", name);
    return NULL;
}

static void check_dims(const struct graph *g, const char *name, uint64_t d0, uint64_t d1,
                       uint64_t stride0)
{
    const tn_weight *w = weight_of(g, name);

    ck_assert_msg(w->dims[0] == d0 && w->dims[1] == d1 && w->stride0 == stride0,
                  "%s is [%d, %d] with rows of %d bytes", name, (int)w->dims[0], (int)w->dims[1],
                  (int)w->stride0);
}

START_TEST(one_rank_holds_everything_and_needs_no_collectives)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct graph *g;

    ck_assert_ok(cut(p, 0, 1, &g), &err);
    ck_assert_ptr_null(op_of(g, TN_OP_ALL_REDUCE, 0));
    ck_assert_ptr_null(op_of(g, TN_OP_ALL_GATHER, 0));
    /* The first norm reads what the embedding wrote, and sample what logits wrote. */
    ck_assert_ptr_eq(op_of(g, TN_OP_RMS_NORM, 0)->in[0], op_of(g, TN_OP_EMBEDDING, 0)->out[0]);
    ck_assert_ptr_eq(op_of(g, TN_OP_SAMPLE, 0)->in[0], op_of(g, TN_OP_LOGITS, 0)->out[0]);
    ck_assert_uint_eq(op_of(g, TN_OP_LINEAR, 0)->out[0]->dtype, TN_DT_F16);
    ck_assert_uint_eq(op_of(g, TN_OP_LOGITS, 0)->out[0]->dtype, TN_DT_F32);
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_EMBEDDING, 0), "vocab_first", -1), -1);
    check_dims(g, "embed", 32, 16, 32);
    graph_free(g);
    plan_free(p);
}
END_TEST

START_TEST(two_ranks_share_heads_rows_and_vocabulary)
{
    struct sample_model m =
        SAMPLE_MODEL; /* 4 heads, 2 kv heads of 4; ffn 24; hidden 16; vocab 32 */
    struct plan *p = sample_model(&m);
    struct graph *g;

    ck_assert_ok(cut(p, 1, 2, &g), &err);
    check_dims(g, "embed", 16, 16, 32);
    check_dims(g, "layers.0.q", 8, 16, 32);
    check_dims(g, "layers.0.k", 4, 16, 32);
    check_dims(g, "layers.0.o", 16, 8, 32); /* half of each row, in rows of full length */
    check_dims(g, "layers.1.gate", 12, 16, 32);
    check_dims(g, "layers.1.down", 16, 12, 48);
    check_dims(g, "head", 16, 16, 32);
    ck_assert_uint_eq(weight_of(g, "layers.0.attn_norm")->dims[0], 16);
    const tn_op *attention = op_of(g, TN_OP_ATTENTION, 0);
    ck_assert_int_eq(tn_op_int(attention, "n_heads", 0), 2);
    ck_assert_int_eq(tn_op_int(attention, "n_kv_heads", 0), 1);
    ck_assert_int_eq(tn_op_int(attention, "head_dim", 0), 4);
    ck_assert_uint_eq(attention->out[0]->width, 8);
    ck_assert_uint_eq(op_of(g, TN_OP_ADD, 0)->out[0]->width, 16);
    ck_assert_uint_eq(op_of(g, TN_OP_LOGITS, 0)->out[0]->width, 16);
    ck_assert_uint_eq(op_of(g, TN_OP_ALL_GATHER, 0)->out[0]->width, 32);
    ck_assert_uint_eq(op_of(g, TN_OP_SAMPLE, 0)->in[0]->width, 32);
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_EMBEDDING, 0), "vocab_first", 0), 16);
    graph_free(g);
    ck_assert_ok(cut(p, 0, 2, &g), &err);
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_EMBEDDING, 0), "vocab_first", 0), 0);
    graph_free(g);
    plan_free(p);
}
END_TEST

START_TEST(kv_heads_fewer_than_ranks_are_replicated)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct graph *g;

    for (uint32_t rank = 0; rank < 4; rank++) {
        ck_assert_ok(cut(p, rank, 4, &g), &err);
        check_dims(g, "layers.0.q", 4, 16, 32);
        check_dims(g, "layers.0.k", 4, 16, 32); /* one of two heads */
        check_dims(g, "layers.0.o", 16, 4, 32);
        ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_ATTENTION, 0), "n_heads", 0), 1);
        ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_KV_APPEND, 0), "n_kv_heads", 0), 1);
        ck_assert_uint_eq(op_of(g, TN_OP_KV_APPEND, 0)->in[0]->width, 4);
        graph_free(g);
    }
    plan_free(p);
}
END_TEST

START_TEST(biases_follow_their_matrix)
{
    struct sample_model m = SAMPLE_MODEL;
    struct graph *g;
    struct plan *p;

    m.bias = true;
    p = sample_model(&m);
    ck_assert_ok(cut(p, 1, 2, &g), &err);
    ck_assert_uint_eq(weight_of(g, "layers.0.q.bias")->dims[0], 8);
    ck_assert_uint_eq(weight_of(g, "layers.0.o.bias")->dims[0], 16); /* whole; zero but on rank 0 */
    graph_free(g);
    plan_free(p);
}
END_TEST

static void check_indivisible(const struct plan *p, uint32_t ranks, const char *name)
{
    struct graph *g;

    for (uint32_t rank = 0; rank < ranks; rank++) {
        ck_assert_int_eq(cut(p, rank, ranks, &g), TN_E_CONFIG);
        ck_assert_ptr_null(g);
        ck_assert_str_eq(err.field, name);
        ck_assert_err_has(&err, "--tp-size");
    }
}

START_TEST(what_cannot_be_divided_is_named)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);

    check_indivisible(p, 3, "layers.0.q"); /* 4 heads */
    plan_free(p);
}
END_TEST

/* 11 groups of 32 columns, which ranks share. */
static struct plan *grouped_plan(void)
{
    const tn_attr attrs[] = {TN_ATTR_INT("group", 32), TN_ATTR_INT("zero", 1)};
    struct plan *p = sample_empty();
    uint32_t x = sample_rows(p, "x", 16), up = sample_matrix(p, "up", 352, 16), w[3];

    p->weights[up].shard = TN_SHARD_AXIS0;
    x = sample_add(
        p, &(struct sample_op){.name = TN_OP_LINEAR,
                               .n_in = 1,
                               .in = {x},
                               .n_weights = 1,
                               .weights = {up},
                               .out = {{TN_VALUE_ROWS, TN_DT_ACT, 352, .shard_units = 352}}});
    w[0] = sample_weight(p, "down", TN_ROLE_MATRIX, TN_DT_I4, 8, 352, 0);
    w[1] = sample_weight(p, "down.scale", TN_ROLE_SCALE, TN_DT_F32, 8, 11, 0);
    w[2] = sample_weight(p, "down.zero", TN_ROLE_SCALE, TN_DT_I8, 8, 11, 0);
    for (int i = 0; i < 3; i++)
        p->weights[w[i]].shard = TN_SHARD_AXIS1;
    sample_add(p, &(struct sample_op){.name = TN_OP_LINEAR_INT4,
                                      .n_in = 1,
                                      .in = {x},
                                      .n_weights = 3,
                                      .weights = {w[0], w[1], w[2]},
                                      .n_attrs = 2,
                                      .attrs = attrs,
                                      .out = {SAMPLE_ROWS(8)}});
    return p;
}

/* All groups become as long as the pieces, and a scale stands for several; where borders agree, nothing changes. */
START_TEST(groups_that_ranks_cut_become_shorter)
{
    static const struct {
        uint32_t ranks;
        uint64_t cols, group, repeat;
    } cases[] = {{1, 352, 32, 1}, {2, 176, 16, 2}, {4, 88, 8, 4}, {11, 32, 32, 1}};
    struct plan *p = grouped_plan();

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t cols = cases[i].cols, groups = cols / cases[i].group, apart = cases[i].repeat;
        struct graph *g;
        ck_assert_ok(cut(p, cases[i].ranks - 1, cases[i].ranks, &g), &err);
        check_dims(g, "down", 8, cols, 352 / 2);
        check_dims(g, "down.scale", 8, groups, apart > 1 ? groups * 4 : 44);
        check_dims(g, "down.zero", 8, groups, apart > 1 ? groups : 11);
        ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_LINEAR_INT4, 0), "group", 0),
                         (int64_t)cases[i].group);
        ck_assert_uint_eq(g->repeat[2], 1);
        ck_assert_uint_eq(g->repeat[3], apart);
        ck_assert_uint_eq(g->repeat[4], apart);
        graph_free(g);
    }
    check_indivisible(p, 8, "down"); /* 44 columns each: pieces of 4 */
    ck_assert_err_has(&err, "groups of 32");
    ck_assert_err_has(&err, "8 ranks");
    ck_assert_err_has(&err, "matrix is 4;");
    plan_free(p);
}
END_TEST

/* Two ranks with the same head would add its part of the output twice. */
START_TEST(query_heads_fewer_than_ranks_are_refused)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);

    check_indivisible(p, 8, "layers.0.o");
    plan_free(p);
}
END_TEST

/* Each rank then computes all of it, and what would bring the parts together is not there. */
START_TEST(a_vocabulary_that_does_not_divide_is_held_whole)
{
    static const int64_t sizes[] = {33, 3, 1};
    struct sample_model m = SAMPLE_MODEL;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (uint32_t rank = 0; rank < 4; rank++) {
            struct graph *g;
            struct plan *p;
            m.vocab = sizes[i];
            p = sample_model(&m);
            ck_assert_ok(cut(p, rank, 4, &g), &err);
            check_dims(g, "embed", (uint64_t)m.vocab, 16, 32);
            check_dims(g, "head", (uint64_t)m.vocab, 16, 32);
            check_dims(g, "layers.0.q", 4, 16, 32);
            ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_EMBEDDING, 0), "vocab_first", -1), -1);
            ck_assert_ptr_eq(op_of(g, TN_OP_RMS_NORM, 0)->in[0],
                             op_of(g, TN_OP_EMBEDDING, 0)->out[0]);
            ck_assert_ptr_null(op_of(g, TN_OP_ALL_GATHER, 0));
            ck_assert_ptr_eq(op_of(g, TN_OP_SAMPLE, 0)->in[0], op_of(g, TN_OP_LOGITS, 0)->out[0]);
            ck_assert_uint_eq(op_of(g, TN_OP_LOGITS, 0)->out[0]->width, (uint64_t)m.vocab);
            ck_assert_ptr_nonnull(op_of(g, TN_OP_ALL_REDUCE, 3)); /* two in each of two layers */
            ck_assert_ptr_null(op_of(g, TN_OP_ALL_REDUCE, 4));
            graph_free(g);
            plan_free(p);
        }
}
END_TEST

START_TEST(ranks_that_do_not_exist_are_refused)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct topology stages = {0, 1, 2, 2}, many = {0, 1, 2, 3};
    struct graph *g = NULL;

    ck_assert_int_eq(cut(p, 2, 2, &g), TN_E_INVALID);
    ck_assert_int_eq(cut(p, 0, 0, &g), TN_E_INVALID);
    ck_assert_int_eq(graph_new(p, &stages, TN_DT_F32, &g, &err), TN_E_INVALID);
    stages = (struct topology){0, 1, 0, 0};
    ck_assert_int_eq(graph_new(p, &stages, TN_DT_F32, &g, &err), TN_E_INVALID);
    /* Two layers do not make three stages: one of them would have nothing to do. */
    many.pp_rank = 0;
    ck_assert_int_eq(graph_new(p, &many, TN_DT_F32, &g, &err), TN_E_CONFIG);
    ck_assert_err_has(&err, "parallel.pp_size");
    ck_assert_ptr_null(g);
    plan_free(p);
}
END_TEST

/* -- Pipeline stages -------------------------------------------------------------------------------------------- */

/* Every op is in one stage, and what a stage hands on is what the next one takes. */
static void check_stages(const struct plan *p, uint32_t tp, uint32_t n_stages)
{
    struct graph *before = NULL;
    size_t next = 0;

    for (uint32_t s = 0; s < n_stages; s++) {
        struct topology t = {0, tp, s, n_stages};
        struct graph *g = NULL;
        ck_assert_ok(graph_new(p, &t, TN_DT_F32, &g, &err), &err);
        ck_assert_uint_eq(g->first_op, next);
        next = g->end_op;
        for (size_t i = 0; i < g->n_ops; i++) {
            ck_assert(g->ops[i]->plan_index >= g->first_op && g->ops[i]->plan_index < g->end_op);
            ck_assert(s == 0 || g->ops[i]->op.layer != 0);
        }
        ck_assert_uint_eq(g->n_imports, before ? before->n_exports : 0);
        for (uint32_t i = 0; i < g->n_imports; i++)
            ck_assert(graph_exports(before, g->imports[i]));
        ck_assert_int_eq(g->n_exports > 0, s + 1 < n_stages);
        graph_free(before);
        before = g;
    }
    ck_assert_uint_eq(next, p->n_ops);
    graph_free(before);
}

START_TEST(stages_share_out_the_layers_and_hand_on_what_is_read_later)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);

    check_stages(p, 1, 1);
    check_stages(p, 1, 2);
    check_stages(p, 2, 2);
    plan_free(p);
}
END_TEST

/* -- Plans whose shard rules contradict each other ------------------------------------------------------------ */

static struct plan_weight *plan_weight_of(struct plan *p, const char *name)
{
    for (size_t i = 0; i < p->n_weights; i++)
        if (strcmp(p->weights[i].name, name) == 0)
            return &p->weights[i];
    return NULL;
}

/* The good plan is fine on one rank and on two; after `spoil` it is fine on one and refused on two. */
static void check_contradiction(void (*spoil)(struct plan *p), const char *text)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct graph *g;

    ck_assert_ok(cut(p, 0, 2, &g), &err);
    graph_free(g);
    spoil(p);
    ck_assert_ok(cut(p, 0, 1, &g), &err);
    graph_free(g);
    ck_assert_int_eq(cut(p, 0, 2, &g), TN_E_FORMAT);
    ck_assert_err_has(&err, "cut for 2 ranks");
    ck_assert_err_has(&err, text);
    plan_free(p);
}

static struct plan_value *output_of(struct plan *p, const char *name)
{
    for (size_t i = 0; i < p->n_ops; i++)
        if (strcmp(p->ops[i].name, name) == 0)
            return &p->values[p->ops[i].out[0]];
    return NULL;
}

static void whole_output_of_a_sliced_matrix(struct plan *p)
{
    output_of(p, TN_OP_LINEAR)->shard_units = 0;
}

static void sliced_output_of_a_whole_matrix(struct plan *p)
{
    plan_weight_of(p, "layers.0.q")->shard = TN_SHARD_NONE;
}

static void matrix_cut_along_the_wrong_axis(struct plan *p)
{
    plan_weight_of(p, "layers.0.o")->shard = TN_SHARD_AXIS0;
}

static void sliced_norm(struct plan *p)
{
    plan_weight_of(p, "layers.0.attn_norm")->shard = TN_SHARD_AXIS0;
    output_of(p, TN_OP_RMS_NORM)->shard_units = 16;
}

static void whole_logits_before_the_gather(struct plan *p)
{
    output_of(p, TN_OP_LOGITS)->shard_units = 0;
    plan_weight_of(p, "head")->shard = TN_SHARD_NONE;
}

static void sliced_logits_after_the_gather(struct plan *p)
{
    output_of(p, TN_OP_ALL_GATHER)->shard_units = 32;
}

static void heads_that_stay(struct plan *p)
{
    for (size_t i = 0; i < p->n_ops; i++)
        for (uint32_t k = 0; k < p->ops[i].n_attrs; k++)
            ((tn_attr *)(uintptr_t)p->ops[i].attrs)[k].flags = 0;
}

START_TEST(contradictory_shard_rules_are_refused)
{
    check_contradiction(whole_output_of_a_sliced_matrix, "layers.0.q");
    check_contradiction(sliced_output_of_a_whole_matrix, "layers.0.q");
    check_contradiction(matrix_cut_along_the_wrong_axis, "layers.0.o");
    check_contradiction(sliced_norm, "width");
    check_contradiction(whole_logits_before_the_gather, "do not make 32");
    check_contradiction(sliced_logits_after_the_gather, "do not make 16");
    check_contradiction(heads_that_stay, "width");
}
END_TEST

/* -- Experts and positions ---------------------------------------------------------------------------------- */

static struct plan *experts(uint32_t shard, bool first)
{
    tn_attr route[] = {TN_ATTR_INT("top_k", 2)}, offset[] = {TN_ATTR_INT("expert_first", 10)};
    struct plan *p = sample_empty();
    uint32_t x = sample_rows(p, "e", 8), i = (uint32_t)p->n_values;
    struct sample_op mlp = {.name = TN_OP_MOE_MLP,
                            .n_in = 3,
                            .in = {x, i, i + 1},
                            .n_weights = 3,
                            .n_attrs = first,
                            .attrs = offset,
                            .out = {SAMPLE_ROWS(8)}};

    sample_add(p, &(struct sample_op){.name = TN_OP_MOE_ROUTE,
                                      .n_in = 1,
                                      .in = {x},
                                      .n_attrs = 1,
                                      .attrs = route,
                                      .n_out = 2,
                                      .out = {{TN_VALUE_ROWS, TN_DT_I32, 2, 0, 0},
                                              {TN_VALUE_ROWS, TN_DT_F32, 2, 0, 0}}});
    mlp.weights[0] = sample_weight(p, "gate", TN_ROLE_MATRIX, TN_DT_BF16, 4, 6, 8);
    mlp.weights[1] = sample_weight(p, "up", TN_ROLE_MATRIX, TN_DT_BF16, 4, 6, 8);
    mlp.weights[2] = sample_weight(p, "down", TN_ROLE_MATRIX, TN_DT_BF16, 4, 8, 6);
    sample_add(p, &mlp);
    for (uint32_t k = 1; k < 4; k++)
        p->weights[k].shard = shard != TN_SHARD_AXIS1 ? shard : k < 3 ? shard : TN_SHARD_AXIS2;
    return p;
}

START_TEST(ranks_share_experts_or_their_insides)
{
    struct plan *p = experts(TN_SHARD_AXIS0, false);
    struct graph *g;

    ck_assert_ok(cut(p, 1, 2, &g), &err);
    check_dims(g, "gate", 2, 6, 96);
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_MOE_MLP, 0), "expert_first", 0), 2);
    graph_free(g);
    plan_free(p);
    p = experts(TN_SHARD_AXIS0, true);
    ck_assert_ok(cut(p, 1, 2, &g), &err);
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_MOE_MLP, 0), "expert_first", 0), 12);
    graph_free(g);
    ck_assert_int_eq(cut(p, 0, 8, &g), TN_E_CONFIG); /* 4 experts: a replica would count twice */
    plan_free(p);
    p = experts(TN_SHARD_AXIS1, false);
    ck_assert_ok(cut(p, 1, 2, &g), &err);
    check_dims(g, "gate", 4, 3, 96);        /* a block of whole rows within each expert */
    check_dims(g, "down", 4, 8, 8 * 3 * 2); /* half of each row: gathered */
    ck_assert_int_eq(tn_op_int(op_of(g, TN_OP_MOE_MLP, 0), "expert_first", -1), -1);
    graph_free(g);
    plan_free(p);
}
END_TEST

/* The same with 352 columns of down in 11 groups. */
static struct plan *experts_in_groups(void)
{
    struct plan *p = experts(TN_SHARD_AXIS1, false);
    struct plan_op *mlp = &p->ops[p->n_ops - 1];
    static const char *const names[] = {"sg", "su", "sd"};

    for (uint32_t i = 0; i < 3; i++) {
        uint64_t rows = i < 2 ? 352 : 8;
        struct plan_weight *w = &p->weights[mlp->weights[i]];
        w->dtype = TN_DT_I4;
        w->dims[i < 2 ? 1 : 2] = 352;
        mlp->weights[3 + i] =
            sample_weight(p, names[i], TN_ROLE_SCALE, TN_DT_F32, 4, rows, i < 2 ? 1 : 11);
        p->weights[mlp->weights[3 + i]].shard = i < 2 ? TN_SHARD_AXIS1 : TN_SHARD_AXIS2;
    }
    mlp->n_weights = 6;
    return p;
}

START_TEST(groups_of_experts_that_ranks_cut_become_shorter)
{
    struct plan *p = experts_in_groups();
    struct graph *g;

    ck_assert_ok(cut(p, 1, 2, &g), &err);
    check_dims(g, "gate", 4, 176, 352 * 4);
    check_dims(g, "sg", 4, 176, 352 * 4);
    check_dims(g, "down", 4, 8, 8 * 88); /* 176 columns of half a byte: gathered */
    check_dims(g, "sd", 4, 8, 8 * 11 * 4);
    ck_assert_uint_eq(g->weights[p->ops[p->n_ops - 1].weights[5]].dims[2], 11);
    ck_assert_uint_eq(g->repeat[p->ops[p->n_ops - 1].weights[5]], 2);
    ck_assert_uint_eq(g->repeat[p->ops[p->n_ops - 1].weights[3]], 1);
    graph_free(g);
    ck_assert_ok(cut(p, 3, 11, &g), &err);
    ck_assert_uint_eq(g->repeat[p->ops[p->n_ops - 1].weights[5]], 1);
    ck_assert_uint_eq(g->weights[p->ops[p->n_ops - 1].weights[5]].dims[2], 1);
    graph_free(g);
    check_indivisible(p, 8, "down");
    ck_assert_err_has(&err, "groups of 32");
    plan_free(p);
}
END_TEST

START_TEST(positions_are_not_shared_out)
{
    struct plan *p = sample_empty();
    uint32_t w = sample_weight(p, "pos", TN_ROLE_EMBEDDING, TN_DT_BF16, 32, 16, 0);
    struct graph *g;

    sample_add(
        p, &(struct sample_op){
               .name = TN_OP_POSITION, .n_weights = 1, .weights = {w}, .out = {SAMPLE_ROWS(16)}});
    ck_assert_ok(cut(p, 0, 2, &g), &err);
    graph_free(g);
    p->weights[w].shard = TN_SHARD_AXIS0;
    ck_assert_int_eq(cut(p, 0, 2, &g), TN_E_FORMAT);
    plan_free(p);
}
END_TEST

START_TEST(cutting_survives_memory_running_out)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    struct graph *g = NULL;
    int32_t rc = TN_E_NOMEM;

    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = cut(p, 0, 2, &g);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    graph_free(g);
    plan_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_graph");
    TCase *t = tcase_create("cut");

    tcase_add_test(t, one_rank_holds_everything_and_needs_no_collectives);
    tcase_add_test(t, two_ranks_share_heads_rows_and_vocabulary);
    tcase_add_test(t, kv_heads_fewer_than_ranks_are_replicated);
    tcase_add_test(t, biases_follow_their_matrix);
    tcase_add_test(t, what_cannot_be_divided_is_named);
    tcase_add_test(t, groups_that_ranks_cut_become_shorter);
    tcase_add_test(t, groups_of_experts_that_ranks_cut_become_shorter);
    tcase_add_test(t, query_heads_fewer_than_ranks_are_refused);
    tcase_add_test(t, a_vocabulary_that_does_not_divide_is_held_whole);
    tcase_add_test(t, ranks_that_do_not_exist_are_refused);
    tcase_add_test(t, stages_share_out_the_layers_and_hand_on_what_is_read_later);
    tcase_add_test(t, contradictory_shard_rules_are_refused);
    tcase_add_test(t, ranks_share_experts_or_their_insides);
    tcase_add_test(t, positions_are_not_shared_out);
    tcase_add_test(t, cutting_survives_memory_running_out);
    suite_add_tcase(s, t);
    return run_suite(s);
}
