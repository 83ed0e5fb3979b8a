/* SPDX-License-Identifier: Apache-2.0 */
/* The host's side of pairs of products with a norm between them, on a device that only notes what is launched. */
#include "kernels/hopper_notes.h"

enum { X, P, R, H, N, Q, K, V }; /* values: each is what the text of the fusion calls it */

static const tn_value *ins[2], *outs[4];

static tn_op basic(const char *name, uint32_t n_in, int in, int out, uint32_t n_weights, int first)
{
    return (tn_op){.h = TN_HDR(tn_op),
                   .name = name,
                   .n_in = n_in,
                   .n_out = 1,
                   .n_weights = n_weights,
                   .in = &value_list[in],
                   .out = &value_list[out],
                   .weights = &weight_list[first]};
}

/* down of [width, inner] and the next layer's query, key and value. */
static const tn_op *pair(uint64_t inner, uint64_t width)
{
    static const tn_value *addends[2];
    static tn_op fused;
    static const tn_attr eps = {.name = "eps", .kind = TN_ATTR_F64, .f = 1e-5};

    for (int i = X; i <= V; i++)
        value(i, TN_VALUE_ROWS, i == X ? inner : i <= Q ? width : width / 4);
    weight(0, TN_DT_BF16, width, inner);
    weight(1, TN_DT_BF16, width, 0);
    for (int i = 0; i < 3; i++)
        weight(2 + i, TN_DT_BF16, i ? width / 4 : width, width);
    ops[0] = basic(TN_OP_LINEAR, 1, X, P, 1, 0);
    ops[1] = basic(TN_OP_ADD, 2, R, H, 0, 1);
    addends[0] = &values[R];
    addends[1] = &values[P];
    ops[1].in = addends;
    ops[2] = basic(TN_OP_RMS_NORM, 1, H, N, 1, 1);
    ops[2].n_attrs = 1;
    ops[2].attrs = &eps;
    for (int i = 0; i < 3; i++)
        ops[3 + i] = basic(TN_OP_LINEAR, 1, N, Q + i, 1, 2 + i);
    for (int i = 0; i < 6; i++)
        member_list[i] = &ops[i];
    ins[0] = &values[X];
    ins[1] = &values[R];
    outs[0] = &values[H];
    for (int i = 0; i < 3; i++)
        outs[1 + i] = &values[Q + i];
    fused = (tn_op){.h = TN_HDR(tn_op),
                    .name = TN_FUSED_LINEAR_ADD_NORM_QKV,
                    .n_in = 2,
                    .n_out = 4,
                    .n_weights = 5,
                    .n_members = 6,
                    .in = ins,
                    .out = outs,
                    .weights = weight_list,
                    .members = member_list};
    return &fused;
}

/* No kernel for the norm: what the first product leaves is what the second takes, in as many parts as the first has blocks. */
START_TEST(second_product_takes_what_the_first_leaves)
{
    const struct product_params *first = &launches[0].products, *second = &launches[1].products;

    for (uint32_t rows = 1; rows <= PRODUCT_NORM_ROWS; rows++) {
        tn_batch b = batch_of(rows);
        uint64_t bytes = 0;
        const tn_op *op = pair(11008, 4096);
        ck_assert_ok(hopper_pair_qkv.can_run(instance, op, &err), &err);
        launch(&hopper_pair_qkv, op, &b, NULL);
        ck_assert_uint_eq(n_launches, 2);
        ck_assert_uint_eq(first->finish, PRODUCT_ADD_NORM);
        ck_assert_uint_eq(first->norm.parts, launches[0].k.grid[0]);
        ck_assert_uint_eq(first->norm.width, 4096);
        ck_assert_uint_eq(second->finish, PRODUCT_STORE);
        ck_assert_uint_eq(second->n_parts, 3);
        ck_assert_uint_eq(second->k_blocks, 4096 / PRODUCT_K);
        ck_assert(memcmp(&first->norm, &second->norm, sizeof first->norm) == 0);
        ck_assert_float_eq_tol(second->norm.eps, 1e-5f, 1e-9f);
        ck_assert_uint_eq(launches[0].k.block[0], SKINNY_THREADS);
        ck_assert_uint_eq(launches[1].k.block[0], SKINNY_NORM_THREADS);
        ck_assert_ok(hopper_pair_qkv.workspace(instance, op, 8, 8, 64, &bytes, &err), &err);
        ck_assert_ptr_eq(first->norm.rows, memory);
        ck_assert((char *)first->norm.squares >= memory + rows * 4096 * 2);
        ck_assert((char *)(first->norm.squares + rows * first->norm.parts) <= memory + bytes);
    }
}
END_TEST

START_TEST(pair_that_does_not_fit_is_refused)
{
    const tn_op *op = pair(1024, 512);

    ck_assert_ok(hopper_pair_qkv.can_run(instance, op, &err), &err);
    ck_assert_int_eq(hopper_pair_qkv.can_run(instance, pair(1024, 320), &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "128 divides");
    op = pair(1024, 512);
    for (int i = X; i <= V; i++) /* rows times weights may be too large for it */
        values[i].dtype = TN_DT_F16;
    ck_assert_int_eq(hopper_pair_qkv.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "bfloat16");
    op = pair(1024, 512);
    weight(1, TN_DT_BF16, 64, 0); /* a norm per head */
    ck_assert_int_eq(hopper_pair_qkv.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "whole rows");
    op = pair(1024, 512);
    weight(3, TN_DT_F16, 128, 512);
    ck_assert_int_eq(hopper_pair_qkv.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_uint_eq(hopper_pair_qkv.n_ranges, 1);
    ck_assert_int_eq(hopper_pair_qkv.ranges[0].max, PRODUCT_NORM_ROWS);
    ck_assert_int_eq(hopper_pair_qkv_fp8.ranges[0].max, 1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hopper_pair");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, second_product_takes_what_the_first_leaves);
    tcase_add_test(t, pair_that_does_not_fit_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
