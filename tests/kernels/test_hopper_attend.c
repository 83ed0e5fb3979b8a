/* SPDX-License-Identifier: Apache-2.0 */
/* The hopper set's attention on the host: which kernels it launches for which steps and caches. */
#include "kernels/hopper_notes.h"

/* -- Attention ----------------------------------------------------------------------------------------- */

static tn_attr attrs[8];

static tn_op *attention(int64_t heads, int64_t kv_heads, int64_t dim)
{
    const tn_attr a[] = {TN_ATTR_INT("n_heads", heads), TN_ATTR_INT("n_kv_heads", kv_heads),
                         TN_ATTR_INT("head_dim", dim), TN_ATTR_REAL("scale", 0.1)};

    memcpy(attrs, a, sizeof a);
    value(0, TN_VALUE_ROWS, (uint64_t)(heads * dim));
    value(1, TN_VALUE_KV, 0);
    value(2, TN_VALUE_ROWS, (uint64_t)(heads * dim));
    ops[0] = (tn_op){.h = TN_HDR(tn_op),
                     .name = TN_OP_ATTENTION,
                     .n_in = 2,
                     .n_out = 1,
                     .n_attrs = 4,
                     .in = value_list,
                     .out = &value_list[2],
                     .attrs = attrs};
    return &ops[0];
}

static tn_kv_layer cache(uint32_t kv_heads, uint32_t dim, uint32_t block_tokens)
{
    return (tn_kv_layer){.h = TN_HDR(tn_kv_layer),
                         .n_kv_heads = kv_heads,
                         .head_dim = dim,
                         .block_tokens = block_tokens,
                         .dtype = TN_DT_BF16,
                         .n_blocks = 100,
                         .block_bytes =
                             4ull * kv_heads * dim * block_tokens + 64, /* pages may lie apart */
                         .base = memory};
}

START_TEST(attention_has_a_block_for_every_head_of_every_row)
{
    static const int64_t heads[][2] = {{32, 32}, {32, 8}, {8, 1}, {64, 2}};

    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (uint32_t rows = 1; rows <= 256; rows *= 2)
            for (uint32_t tokens = 1; tokens <= 256; tokens *= 2) {
                const struct attention_params *p = &launches[0].attention;
                tn_batch b = batch_of(rows);
                tn_kv_layer kv = cache((uint32_t)heads[i][1], 128, tokens);
                b.block_tokens = tokens;
                launch(&hopper_attention_bf16, attention(heads[i][0], heads[i][1], 128), &b, &kv);
                ck_assert_uint_eq(n_launches, 1);
                ck_assert_uint_ge(p->subgroups * 8, p->group);
                ck_assert_uint_eq(launches[0].k.grid[0] / launches[0].k.cluster[0],
                                  rows * p->kv_heads * p->subgroups);
                ck_assert_uint_eq(1u << p->box_shift, tokens < 64 ? tokens : 64);
                ck_assert_uint_eq(page_stride, kv.block_bytes);
            }
}
END_TEST

START_TEST(long_runs_of_rows_take_the_kernel_for_them)
{
    tn_batch b = batch_of(300);
    tn_kv_layer kv = cache(8, 64, 16);

    b.n_seqs = 2;
    b.max_rows_per_seq = 299;
    launch(&hopper_attention_bf16, attention(32, 8, 64), &b, &kv);
    ck_assert_str_eq(launches[0].entry, "prefill_bf16_64");
    ck_assert_uint_eq(page_stride, kv.block_bytes);
    ck_assert_uint_ge(launches[0].k.grid[1], 4); /* 299 and 1 rows in tiles of 128 */
}
END_TEST

static tn_kv_layer cache8(uint32_t kv_heads, uint32_t dim, uint32_t block_tokens, uint32_t dtype)
{
    static const float scales[64] = {1.0f};
    tn_kv_layer kv = cache(kv_heads, dim, block_tokens);

    kv.dtype = dtype;
    kv.block_bytes = 2ull * kv_heads * dim * block_tokens + 64;
    kv.k_scale = scales;
    kv.v_scale = scales + 32;
    return kv;
}

/* Tiles, of keys and of values, that a kernel for a cache of 8 bits has on their way must fit what it asks for; the copy
 * engine's swizzle is as wide as a row. */
START_TEST(cache_of_8_bits_takes_kernels_of_its_own)
{
    static const uint32_t dims[] = {64, 128};
    static const struct {
        uint32_t dtype;
        const char *name;
    } kinds[] = {{TN_DT_F8E4M3, "fp8"}, {TN_DT_I8, "int8"}};

    for (int i = 0; i < 4; i++)
        for (uint32_t tokens = 1; tokens <= 256; tokens *= 4) {
            const struct attention_params *p = &launches[0].attention;
            uint32_t dim = dims[i / 2];
            tn_batch b = batch_of(7);
            tn_kv_layer kv = cache8(8, dim, tokens, kinds[i % 2].dtype);
            char want[64], first[64], name[8];
            unsigned head_dim, stages;
            b.block_tokens = tokens;
            launch(&hopper_attention_kv8_bf16, attention(32, 8, dim), &b, &kv);
            ck_assert_int_eq(
                sscanf(launches[0].entry, "decode_%7[^_]_bf16_%ux%u", name, &head_dim, &stages), 3);
            ck_assert_str_eq(name, kinds[i % 2].name);
            ck_assert_uint_eq(head_dim, dim);
            ck_assert_uint_ge(launches[0].k.shared_bytes, stages * 64 * dim * 2);
            snprintf(first, sizeof first, "%s", launches[0].entry);
            ck_assert_uint_eq(swizzles[4], dim == 64 ? 2 : 3);
            ck_assert_uint_eq(page_stride, kv.block_bytes);
            ck_assert_ptr_eq(p->k_scale, kv.k_scale);
            ck_assert_ptr_eq(p->v_scale, kv.v_scale);
            b = batch_of(64); /* more than run at once: shorter rings, for twice as many blocks */
            b.block_tokens = tokens;
            launch(&hopper_attention_kv8_bf16, attention(32, 8, dim), &b, &kv);
            ck_assert_str_ne(launches[0].entry, first);
            ck_assert_uint_le(4 * (launches[0].k.shared_bytes + 1024), 228 * 1024);
            b = batch_of(7);
            b.block_tokens = tokens;
            b.n_seqs = 1;
            b.max_rows_per_seq = 300;
            launch(&hopper_attention_kv8_bf16, attention(32, 8, dim), &b, &kv);
            if (tokens * dim < 128) { /* less than the copy engine writes at a time */
                ck_assert_str_eq(launches[0].entry, first);
                continue;
            }
            snprintf(want, sizeof want, "prefill_%s_bf16_%u", kinds[i % 2].name, dim);
            ck_assert_str_eq(launches[0].entry, want);
            ck_assert_uint_ge(launches[0].k.shared_bytes, 128 * dim * (2 + 8 + PREFILL8_SLOTS));
            ck_assert_uint_le(launches[0].k.shared_bytes, 227 * 1024);
            ck_assert_uint_eq(swizzles[3], 0);
        }
}
END_TEST

static tn_op *rope_attention(void)
{
    static const tn_attr append[] = {TN_ATTR_INT("n_kv_heads", 8), TN_ATTR_INT("head_dim", 128)};
    static tn_attr rope[2][6];
    tn_op *a = attention(32, 8, 128);

    for (int i = 0; i < 2; i++) {
        const tn_attr r[] = {TN_ATTR_INT("n_heads", i ? 8 : 32), TN_ATTR_INT("head_dim", 128),
                             TN_ATTR_INT("rotary_dim", 128),     TN_ATTR_TEXT("style", "half"),
                             TN_ATTR_REAL("mscale", 1.0),        TN_ATTR_INT("max_position", 0)};
        memcpy(rope[i], r, sizeof r);
        weight(i, TN_DT_F32, 64, 0);
        ops[1 + i] = (tn_op){.h = TN_HDR(tn_op),
                             .name = TN_OP_ROPE,
                             .n_weights = 1,
                             .n_attrs = 6,
                             .weights = &weight_list[i],
                             .attrs = rope[i]};
        member_list[i] = &ops[1 + i];
    }
    ops[3] = (tn_op){.h = TN_HDR(tn_op), .name = TN_OP_KV_APPEND, .n_attrs = 2, .attrs = append};
    member_list[2] = &ops[3];
    member_list[3] = a;
    value(4, TN_VALUE_ROWS, 4096);
    value(5, TN_VALUE_ROWS, 1024);
    value(6, TN_VALUE_ROWS, 1024);
    ops[4] = (tn_op){.h = TN_HDR(tn_op),
                     .name = TN_FUSED_ROPE_ATTENTION,
                     .n_in = 3,
                     .n_out = 1,
                     .n_weights = 2,
                     .n_members = 4,
                     .in = &value_list[4],
                     .out = &value_list[2],
                     .weights = weight_list,
                     .members = member_list};
    return &ops[4];
}

START_TEST(attention_without_a_cache_is_refused)
{
    const void *in[4] = {memory, memory, memory, memory};
    void *out[1] = {memory};
    tn_batch b = batch_of(1);
    tn_launch l = {.op = rope_attention(),
                   .batch = &b,
                   .in = in,
                   .out = out,
                   .weights = in,
                   .device = device(0)};

    ck_assert_int_eq(hopper_rope_attention_bf16.launch(instance, &l, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "without a cache");
}
END_TEST

/* The estimate follows what is read: else sets that know better how few bytes grouped heads need are preferred. */
START_TEST(fewer_kv_heads_cost_less)
{
    tn_op *op = attention(32, 32, 128);
    double all = hopper_attention_bf16.cost_ns(instance, op, 64), grouped;

    op = attention(32, 8, 128);
    grouped = hopper_attention_bf16.cost_ns(instance, op, 64);
    ck_assert(grouped < all / 3);
    ck_assert(hopper_attention_kv8_bf16.cost_ns(instance, op, 64) < grouped);
    op = rope_attention();
    ck_assert(hopper_rope_attention_bf16.cost_ns(instance, op, 64) == grouped);
}
END_TEST

/* One row of a sequence appends itself while it attends; several see each other and are appended before. */
START_TEST(rows_of_one_sequence_are_appended_before_they_are_read)
{
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache(8, 128, 16);

    ck_assert_ok(hopper_rope_attention_bf16.can_run(instance, op, &err), &err);
    launch(&hopper_rope_attention_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 1);
    ck_assert_ptr_nonnull(launches[0].attention.k);
    b.max_rows_per_seq = 2;
    launch(&hopper_rope_attention_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "rope_append_bf16");
    ck_assert_ptr_null(launches[1].attention.k);
    ck_assert_ptr_null(launches[1].attention.rope_q.freqs);
}
END_TEST

START_TEST(rows_are_appended_in_the_dtype_of_the_cache)
{
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_I8);

    b.max_rows_per_seq = 2;
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "rope_append_int8_bf16");
    kv.dtype = TN_DT_F8E4M3;
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_str_eq(launches[0].entry, "rope_append_fp8_bf16");
}
END_TEST

static const uint16_t tables[2 * 8 * TN_KV_FEEDBACK_BYTES(128) / 2];

static void give_feedback(tn_kv_layer *kv)
{
    kv->k_feedback_f16 = tables;
    kv->v_feedback_f16 = tables + 8 * TN_KV_FEEDBACK_BYTES(128) / 2;
}

/* Blocks of their own, in whole clusters, ahead of those that attend if all run at once, and behind them if not; or a launch of its own where rows see each other. */
START_TEST(rows_that_are_stored_with_feedback_have_blocks_of_their_own)
{
    static const uint32_t rows[] = {2, 4, 64, 200};
    tn_op *op = rope_attention();
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_F8E4M3);

    for (uint32_t i = 0; i < 4; i++) {
        const struct attention_params *p = &launches[0].attention;
        tn_batch b = batch_of(rows[i]);
        uint32_t attending;
        kv.k_feedback_f16 = kv.v_feedback_f16 = NULL;
        launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
        ck_assert_uint_eq(p->shaping.blocks, 0);
        ck_assert_ptr_null(p->shaping.k);
        attending = launches[0].k.grid[0];
        give_feedback(&kv);
        launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
        ck_assert_uint_eq(n_launches, 1);
        ck_assert_uint_eq(launches[0].k.grid[0], attending + p->shaping.blocks);
        ck_assert_uint_eq(p->shaping.blocks % launches[0].k.cluster[0], 0);
        ck_assert_uint_ge(p->shaping.blocks, p->shaping.items);
        ck_assert_uint_eq(p->shaping.first, rows[i] < 200 ? 0u : attending);
        ck_assert_uint_ge(p->shaping.items * p->shaping.rows, 16 * rows[i]);
        ck_assert_uint_lt(p->shaping.items * (p->shaping.rows - SHAPE_ROWS), 16 * rows[i]);
        ck_assert_uint_ge(launches[0].k.shared_bytes, SHAPE_BYTES(128, 1));
        ck_assert_ptr_eq(p->shaping.v, kv.v_feedback_f16);
        b.max_rows_per_seq = 2;
        launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
        ck_assert_uint_eq(n_launches, 3);
        ck_assert_str_eq(launches[1].entry, "shape_bf16_128");
        ck_assert_uint_eq(launches[1].k.shared_bytes, SHAPE_BYTES(128, 2));
        ck_assert_ptr_null(launches[2].attention.shaping.k);
    }
    kv.dtype = TN_DT_I8; /* whose steps are even */
    tn_batch b = batch_of(4);
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(launches[0].attention.shaping.blocks, 0);
}
END_TEST

/* Blocks that attend have a table each, if eight share an item; where fewer do, all of their warps merge. */
START_TEST(a_single_row_is_stored_by_blocks_that_attend)
{
    tn_op *op = rope_attention();
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_F8E4M3);
    const struct attention_params *p = &launches[0].attention;
    tn_batch b = batch_of(1);
    uint32_t attending, shared;

    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_str_eq(launches[0].entry, "decode_fp8_bf16_128x6");
    attending = launches[0].k.grid[0];
    shared = launches[0].k.shared_bytes;
    give_feedback(&kv);
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(launches[0].k.cluster[0], 8);
    ck_assert_uint_eq(launches[0].k.grid[0], attending);
    ck_assert_uint_eq(p->shaping.blocks, 0);
    ck_assert_ptr_eq(p->shaping.k, kv.k_feedback_f16);
    ck_assert_str_eq(launches[0].entry, "decode_fp8_bf16_128x6_within");
    ck_assert_uint_ge(launches[0].k.shared_bytes, shared + SHAPE_ONE(128) + 8);
    b.max_context = 4 * DECODE_TILE;
    launch(&hopper_rope_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(launches[0].k.cluster[0], 4);
    ck_assert_uint_gt(p->shaping.blocks, 0);
    ck_assert_str_eq(launches[0].entry, "decode_fp8_bf16_128x6_beside");
}
END_TEST

/* Of six members those that rotate and append are elsewhere than of four. */
START_TEST(heads_are_turned_in_the_same_launch)
{
    static tn_attr turn[2][2];
    tn_op *op = rope_attention();
    tn_batch b = batch_of(4);
    tn_kv_layer kv = cache8(8, 128, 16, TN_DT_F8E4M3);
    const tn_op *rope_k = member_list[1], *append = member_list[2], *attend = member_list[3];

    for (int i = 0; i < 2; i++) {
        turn[i][0] = (tn_attr)TN_ATTR_INT("n_heads", i ? 8 : 32);
        turn[i][1] = (tn_attr)TN_ATTR_INT("head_dim", 128);
        ops[5 + i] =
            (tn_op){.h = TN_HDR(tn_op), .name = "hadamard", .n_attrs = 2, .attrs = turn[i]};
        member_list[1 + 2 * i] = &ops[5 + i];
    }
    member_list[2] = rope_k;
    member_list[4] = append;
    member_list[5] = attend;
    op->n_members = 6;
    ck_assert_ok(hopper_rope_hadamard_attention_kv8_bf16.can_run(instance, op, &err), &err);
    launch(&hopper_rope_hadamard_attention_kv8_bf16, op, &b, &kv);
    ck_assert_uint_eq(n_launches, 1);
    ck_assert_uint_eq(launches[0].attention.rope_q.hadamard, 1);
    ck_assert_uint_eq(launches[0].attention.rope_k.hadamard, 1);
    ck_assert_uint_eq(launches[0].attention.rope_k.rotary, 128);
    ck_assert_uint_eq(launches[0].attention.kv_heads, 8);
    ((tn_attr *)(uintptr_t)rope_k->attrs)[2].i = 64; /* half a head is rotated */
    weights[1].dims[0] = 32;
    ck_assert_int_eq(hopper_rope_hadamard_attention_kv8_bf16.can_run(instance, op, &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "rotated as a whole");
}
END_TEST

START_TEST(attention_that_does_not_fit_is_refused)
{
    tn_op *op;

    ck_assert_int_eq(hopper_attention_bf16.can_run(instance, attention(8, 8, 96), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "64 or 128");
    ck_assert_int_eq(hopper_attention_bf16.can_run(instance, attention(8, 3, 64), &err),
                     TN_E_UNSUPPORTED);
    op = rope_attention();
    ((tn_attr *)(uintptr_t)ops[1].attrs)[5].i = 4096;
    ck_assert_int_eq(hopper_rope_attention_bf16.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "depends on the length");
    op = rope_attention();
    ((tn_attr *)(uintptr_t)ops[2].attrs)[0].i = 4; /* keys of other heads than the attention's */
    ck_assert_int_eq(hopper_rope_attention_bf16.can_run(instance, op, &err), TN_E_UNSUPPORTED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hopper_attend");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, attention_has_a_block_for_every_head_of_every_row);
    tcase_add_test(t, long_runs_of_rows_take_the_kernel_for_them);
    tcase_add_test(t, attention_without_a_cache_is_refused);
    tcase_add_test(t, fewer_kv_heads_cost_less);
    tcase_add_test(t, rows_of_one_sequence_are_appended_before_they_are_read);
    tcase_add_test(t, cache_of_8_bits_takes_kernels_of_its_own);
    tcase_add_test(t, rows_are_appended_in_the_dtype_of_the_cache);
    tcase_add_test(t, rows_that_are_stored_with_feedback_have_blocks_of_their_own);
    tcase_add_test(t, a_single_row_is_stored_by_blocks_that_attend);
    tcase_add_test(t, heads_are_turned_in_the_same_launch);
    tcase_add_test(t, attention_that_does_not_fit_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
