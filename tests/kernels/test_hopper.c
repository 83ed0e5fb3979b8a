/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's side of plugins/kernels/hopper on a device that only notes what is launched: what a variant refuses, and that
 * plans of launches cover their work within the limits of the chip. The arithmetic is tested on a GPU (tests/gpu).
 */
#include "kernels/hopper_notes.h"

/* -- Products ------------------------------------------------------------------------------------------ */

/* Every row of the matrix is in a tile, every token in its columns, and the tile splits evenly over the cluster. */
START_TEST(plan_of_a_product_covers_it)
{
    static const uint32_t ns[] = {8, 64, 136, 1000, 4096, 12288, 128256},
                          ks[] = {8, 64, 712, 11008};

    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++)
            for (uint32_t rows = 1; rows <= 128; rows++) {
                const struct noted *n = &launches[0];
                tn_batch b = batch_of(rows);
                unsigned tile, tokens, stages;
                const tn_op *op = linear(0, ns[i], ks[j]);
                ck_assert_ok(hopper_linear.can_run(instance, op, &err), &err);
                launch(&hopper_linear, op, &b, NULL);
                ck_assert_uint_eq(n_launches, 1);
                ck_assert_int_eq(sscanf(n->entry, "skinny_bf16_%ux%ux%u", &tile, &tokens, &stages),
                                 3);
                ck_assert_uint_ge(tokens, rows);
                ck_assert_uint_ge(n->k.grid[0] / n->k.cluster[0] * tile, ns[i]);
                ck_assert_uint_lt((n->k.grid[0] / n->k.cluster[0] - 1) * tile, ns[i]);
                ck_assert_uint_eq(tile / n->k.cluster[0] % 4, 0);
                ck_assert_uint_le(n->k.cluster[0], 8);
                ck_assert_uint_ge(n->products.k_blocks * 64, ks[j]);
                ck_assert_uint_ge(n->k.shared_bytes, stages * (tile + tokens) * 128);
            }
}
END_TEST

/* Clusters of four leave multiprocessors without a block: of 16 tokens on, 4,096 outputs are 64 pairs of blocks, one each. */
START_TEST(tiles_that_fill_the_chip_once_have_long_rings_in_pairs_of_blocks)
{
    static const struct {
        uint32_t rows, n, k, cluster;
        const char *entry;
    } wanted[] = {{16, 4096, 14336, 2, "skinny_bf16_64x16x14_sums"},
                  {16, 4096, 4096, 2, "skinny_bf16_64x16x10_sums"},
                  {32, 4096, 14336, 2, "skinny_bf16_64x32x12_sums"},
                  {64, 4096, 14336, 2, "skinny_bf16_64x64x12_sums"},
                  {64, 4096, 4096, 2, "skinny_bf16_64x64x10_sums"},
                  {64, 8192, 8192, 1, "skinny_bf16_64x64x12_sums"},
                  {64, 2048, 16384, 4, "skinny_bf16_128x64x4_sums"},
                  {8, 4096, 14336, 2, "skinny_bf16_128x8x8_sums"}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tn_batch b = batch_of(wanted[i].rows);
        launch(&hopper_linear, linear(0, wanted[i].n, wanted[i].k), &b, NULL);
        ck_assert_str_eq(launches[0].entry, wanted[i].entry);
        if (wanted[i].n != 2048)
            ck_assert_uint_eq(launches[0].k.cluster[0], wanted[i].cluster);
    }
}
END_TEST

START_TEST(parts_of_a_fused_product_begin_at_their_tiles)
{
    const struct product_params *p = &launches[0].products;
    tn_batch b = batch_of(3);
    tn_op fused;
    unsigned tile;

    member_list[0] = linear(0, 4096, 512);
    member_list[1] = linear(1, 1000, 512);
    member_list[2] = linear(2, 1000, 512);
    fused = *linear(3, 0, 512);
    fused.n_out = fused.n_members = fused.n_weights = 3;
    fused.members = member_list;
    fused.weights = weight_list;
    value_list[8] = &values[1];
    value_list[9] = &values[3];
    value_list[10] = &values[5];
    fused.out = &value_list[8];
    ck_assert_ok(hopper_qkv.can_run(instance, &fused, &err), &err);
    launch(&hopper_qkv, &fused, &b, NULL);
    ck_assert_uint_eq(p->n_parts, 3);
    ck_assert_uint_eq(p->parts[1].first, 64); /* tiles of 64 rows */
    ck_assert_uint_eq(p->parts[2].first, 80);
    ck_assert_uint_eq(launches[0].k.grid[0] / launches[0].k.cluster[0], 96);
    b = batch_of(300);
    launch(&hopper_qkv, &fused, &b, NULL);
    ck_assert_int_eq(sscanf(launches[0].entry, "wide_bf16_%ux", &tile), 1);
    ck_assert_uint_eq(p->parts[1].first, (4096 + tile - 1) / tile);
    ck_assert_uint_eq(p->parts[2].first - p->parts[1].first, (1000 + tile - 1) / tile);
    ck_assert_uint_eq(p->tiles - p->parts[2].first, (1000 + tile - 1) / tile);
}
END_TEST

/* What wide.cu counts its tiles by: all of the matrix, and clusters of whole tiles of tokens. */
START_TEST(plan_of_many_rows_covers_them)
{
    static const uint32_t ns[] = {8, 1000, 4096, 11008, 128256},
                          rows[] = {129, 256, 257, 384, 511, 2048, 8192};

    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++)
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
            const struct noted *n = &launches[0];
            tn_batch b = batch_of(rows[j]);
            unsigned tile, stages, blocks, all;
            launch(&hopper_linear, linear(0, ns[i], 4096), &b, NULL);
            ck_assert_uint_eq(n_launches, 1);
            ck_assert_int_eq(sscanf(n->entry, "wide_bf16_%ux%ux%u", &tile, &stages, &blocks), 3);
            ck_assert_uint_eq(n->k.cluster[0], blocks);
            ck_assert_uint_eq(n->products.tiles, (ns[i] + tile - 1) / tile);
            ck_assert_uint_ge(n->k.shared_bytes, stages * (tile + WIDE_TOKENS) * 128);
            all = (rows[j] + WIDE_TOKENS * blocks - 1) / (WIDE_TOKENS * blocks) * blocks *
                  n->products.tiles;
            ck_assert_uint_eq(n->k.grid[0], all < HOPPER_UNITS ? all : HOPPER_UNITS);
        }
}
END_TEST

/* 512 rows of a narrow matrix are few wide tiles: narrower ones keep more multiprocessors at work. */
START_TEST(tiles_are_as_wide_as_keeps_all_units_at_work)
{
    static const struct {
        uint32_t n, rows;
        const char *entry;
    } wanted[] = {{4096, 2048, "wide_bf16_256x4x1"},
                  {4096, 512, "wide_bf16_128x6x1"},
                  {22016, 2048, "wide_bf16_192x5x1"}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tn_batch b = batch_of(wanted[i].rows);
        launch(&hopper_linear, linear(0, wanted[i].n, 4096), &b, NULL);
        ck_assert_str_eq(launches[0].entry, wanted[i].entry);
    }
}
END_TEST

START_TEST(product_that_does_not_fit_is_refused)
{
    static const struct {
        uint64_t n, k;
    } odd[] = {{12, 64}, {64, 12}, {64, 63}};
    tn_op *op;

    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        ck_assert_int_eq(hopper_linear.can_run(instance, linear(0, odd[i].n, odd[i].k), &err),
                         TN_E_UNSUPPORTED);
        ck_assert_err_has(&err, "8 divides");
    }
    op = linear(0, 64, 64);
    weights[0].dtype = TN_DT_F16;
    ck_assert_int_eq(hopper_linear.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "activations' dtype");
    op = linear(0, 64, 64);
    weights[0].stride0 = 132; /* rows at multiples of four */
    ck_assert_int_eq(hopper_linear.can_run(instance, op, &err), TN_E_UNSUPPORTED);
}
END_TEST

/* Plans keep biases in float32; the kernel must know, or it reads them as pairs of halves. */
START_TEST(biases_are_taken_in_float32_and_in_the_rows_dtype)
{
    static const struct {
        uint32_t dtype, wide;
        int32_t rc;
    } cases[] = {{TN_DT_F32, 1, TN_OK}, {TN_DT_BF16, 0, TN_OK}, {TN_DT_F16, 0, TN_E_UNSUPPORTED}};
    static const uint32_t rows[] = {3, 300};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t j = 0; j < 2; j++) {
            const struct product_part *part = &launches[0].products.parts[0];
            tn_batch b = batch_of(rows[j]);
            tn_op *op = linear(0, 64, 128);
            weight(1, cases[i].dtype, 64, 0);
            op->n_weights = 2;
            ck_assert_int_eq(hopper_linear.can_run(instance, op, &err), cases[i].rc);
            if (cases[i].rc)
                continue;
            launch(&hopper_linear, op, &b, NULL);
            ck_assert_ptr_nonnull(part->bias);
            ck_assert_uint_eq(part->bias_wide, cases[i].wide);
        }
}
END_TEST

/* But not where all do: a step that only decodes would wait for a copy of what it has. */
START_TEST(rows_that_want_logits_are_gathered_first)
{
    tn_batch b = batch_of(5);
    tn_op op = *linear(0, 1000, 512);

    values[1].kind = TN_VALUE_LOGITS;
    values[1].dtype = TN_DT_F32;
    b.n_rows = 300; /* a long prompt among them */
    b.n_logits = 5;
    ck_assert_ok(hopper_logits.can_run(instance, &op, &err), &err);
    launch(&hopper_logits, &op, &b, NULL);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "gather");
    ck_assert_uint_eq(launches[0].k.grid[0], 5);
    ck_assert_uint_eq(launches[1].products.rows, 5);
    b.n_rows = 5;
    launch(&hopper_logits, &op, &b, NULL);
    ck_assert_uint_eq(n_launches, 1);
    ck_assert_uint_eq(launches[0].products.rows, 5);
}
END_TEST

/* -- Products of 8 bits ---------------------------------------------------------------------------------- */

/* Product i in weights 2 i (matrix) and 2 i + 1 (scales). */
static tn_op *eight(int i, uint32_t dtype, uint64_t n, uint64_t k)
{
    value(2 * i, TN_VALUE_ROWS, k);
    value(2 * i + 1, TN_VALUE_ROWS, n);
    weight(2 * i, dtype, n, k);
    weights[2 * i].stride0 = k;
    weight(2 * i + 1, TN_DT_F32, n, 0);
    ops[i] = (tn_op){.h = TN_HDR(tn_op),
                     .name = dtype == TN_DT_I8 ? TN_OP_LINEAR_INT8 : TN_OP_LINEAR_FP8,
                     .n_in = 1,
                     .n_out = 1,
                     .n_weights = 2,
                     .in = &value_list[2 * i],
                     .out = &value_list[2 * i + 1],
                     .weights = &weight_list[2 * i]};
    return &ops[i];
}

/* Rows are quantized, then multiplied by few or by many, in tiles that cover the matrix. */
START_TEST(plan_of_a_product_of_8_bits_covers_it)
{
    static const uint32_t ns[] = {8, 136, 4096, 11008, 128256}, ks[] = {16, 720, 4096, 28672};
    static const uint32_t rows[] = {1, 8, 9, 33, 64, 128, 129, 256, 257, 2048};

    for (size_t i = 0; i < 5 * 4 * 10; i++) {
        uint32_t n = ns[i / 40], k = ks[i / 10 % 4], t = rows[i % 10], units;
        const struct noted *quantizing = &launches[0], *product = &launches[1];
        const struct product_params *p = &product->eight.p;
        tn_batch b = batch_of(t);
        unsigned tile = 256, tokens = 128, stages = 4, threads = 0, chunks = 0;
        int few;
        const tn_op *op = eight(0, TN_DT_F8E4M3, n, k);
        ck_assert_ok(hopper_linear_fp8.can_run(instance, op, &err), &err);
        launch(&hopper_linear_fp8, op, &b, NULL);
        ck_assert_uint_eq(n_launches, 2);
        ck_assert_int_eq(sscanf(quantizing->entry, "quantize_e4m3_bf16_%ux%u", &threads, &chunks),
                         2);
        ck_assert_uint_eq(quantizing->k.block[0], threads);
        ck_assert_uint_ge(threads * chunks * 8, k);
        ck_assert_uint_eq(quantizing->k.grid[0], t);
        few = sscanf(product->entry, "few_e4m3_bf16_%ux%ux%u", &tile, &tokens, &stages) == 3;
        ck_assert_int_ge(few, t <= 128);
        ck_assert_int_le(few, t <= 256);
        if (!few)
            ck_assert_int_eq(sscanf(product->entry, "many_e4m3_bf16_%ux%u", &tile, &stages), 2);
        ck_assert_uint_eq(p->tiles, (n + tile - 1) / tile);
        ck_assert_uint_ge(p->k_blocks * EIGHT_K, k);
        ck_assert_uint_ge(product->k.shared_bytes, stages * (tile + tokens) * 128);
        units = p->tiles * (few ? product->k.cluster[0] : (t + 255) / 256 * 2);
        ck_assert_uint_eq(product->k.grid[0], !few && units > HOPPER_UNITS ? HOPPER_UNITS : units);
        if (few) /* runs of tokens */
            ck_assert_uint_eq(product->k.grid[1], (t + tokens - 1) / tokens);
        ck_assert_ptr_eq(product->eight.step, memory + (uint64_t)t * k);
    }
}
END_TEST

/* Narrow tiles where wide ones are too few for all multiprocessors. */
START_TEST(tiles_of_8_bits_are_as_wide_as_keeps_all_units_at_work)
{
    static const struct {
        uint32_t n, rows;
        const char *entry;
    } wanted[] = {{4096, 256, "many_e4m3_bf16_64x8"},
                  {4096, 512, "many_e4m3_bf16_128x6"},
                  {12288, 256, "many_e4m3_bf16_192x5"},
                  {4096, 2048, "many_e4m3_bf16_256x4"}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        tn_batch b = batch_of(wanted[i].rows);
        launch(&hopper_linear_fp8, eight(0, TN_DT_F8E4M3, wanted[i].n, 4096), &b, NULL);
        ck_assert_str_eq(launches[1].entry, wanted[i].entry);
    }
}
END_TEST

/* Rows stay as they are: one launch, whose runs of tokens cover all rows. */
START_TEST(plan_of_rows_that_are_not_rounded_covers_them)
{
    static const uint32_t ns[] = {8, 136, 4096, 11008, 128256}, ks[] = {16, 720, 4096, 28672};
    static const uint32_t rows[] = {1, 8, 9, 16, 33, 64, 65, 128, 257, 2048};

    for (size_t i = 0; i < 5 * 4 * 10; i++) {
        uint32_t n = ns[i / 40], k = ks[i / 10 % 4], t = rows[i % 10];
        const struct noted *product = &launches[0];
        const struct product_params *p = &product->eight.p;
        tn_batch b = batch_of(t);
        unsigned tile, tokens, stages;
        const tn_op *op = eight(0, TN_DT_F8E4M3, n, k);
        ck_assert_ok(hopper_linear_fp8_half.can_run(instance, op, &err), &err);
        launch(&hopper_linear_fp8_half, op, &b, NULL);
        ck_assert_uint_eq(n_launches, 1);
        if (strncmp(product->entry, "one", 3) == 0)
            continue; /* plan_of_one_row_covers_the_matrix */
        ck_assert_int_eq(sscanf(product->entry, "half_bf16_%ux%ux%u", &tile, &tokens, &stages), 3);
        ck_assert_uint_eq(p->tiles, (n + tile - 1) / tile);
        ck_assert_uint_eq(product->k.grid[0], p->tiles * product->k.cluster[0]);
        ck_assert_uint_eq(product->k.grid[1], (t + tokens - 1) / tokens);
        ck_assert_uint_eq(tile / product->k.cluster[0] % 8, 0); /* gated tiles, too */
        ck_assert_uint_ge(p->k_blocks * EIGHT_K, k);
        ck_assert_uint_le(product->k.cluster[0], p->k_blocks);
        ck_assert_uint_ge(product->k.shared_bytes, stages * (tile + 2 * tokens) * 128);
        ck_assert_uint_ge(stages * (tile + 2 * tokens) * 128, tokens * (tile + 4) * 4);
        ck_assert_ptr_null(product->eight.step);
    }
}
END_TEST

/* A single row: one launch, of blocks that have tiles of their own, with the row itself in place of a map of it. */
START_TEST(plan_of_one_row_covers_the_matrix)
{
    static const struct {
        uint32_t int8, n, k;
        const char *entry;
    } wanted[] = {
        {0, 4096, 8192, "one_e4m3_bf16_2x2x14"},   {0, 12288, 4096, "one_e4m3_bf16_2x2x8"},
        {0, 12288, 8192, "half_bf16_64x8x7_sums"}, {0, 4096, 4096, "half_bf16_64x8x7_sums"},
        {0, 6144, 4096, "half_bf16_64x8x7_sums"},  {1, 4096, 8192, "one_s8_bf16_2x2x14"},
        {1, 4096, 32768, "one_s8_bf16_2x2x14"}};

    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        uint32_t n = wanted[i].n, k = wanted[i].k, int8 = wanted[i].int8;
        const struct noted *product = &launches[0];
        const struct product_params *p = &product->eight.p;
        tn_batch b = batch_of(1);
        unsigned groups, chunks, stages;
        launch(int8 ? &hopper_linear_int8 : &hopper_linear_fp8_half,
               eight(0, int8 ? TN_DT_I8 : TN_DT_F8E4M3, n, k), &b, NULL);
        ck_assert_uint_eq(n_launches, 1);
        ck_assert_str_eq(product->entry, wanted[i].entry);
        if (sscanf(product->entry, int8 ? "one_s8_bf16_%ux%ux%u" : "one_e4m3_bf16_%ux%ux%u",
                   &groups, &chunks, &stages) != 3)
            continue;
        ck_assert_uint_eq(product->k.grid[0], (n + 16 * groups - 1) / (16 * groups));
        ck_assert_uint_eq(product->k.cluster[0], 1);
        ck_assert_uint_eq(p->k_blocks * EIGHT_K, k);
        ck_assert_ptr_nonnull(p->row);
        ck_assert_uint_ge(product->k.shared_bytes,
                          stages * chunks * groups * 2048 + k * (int8 ? 3 : 2));
        ck_assert_uint_le(product->k.shared_bytes, 227 * 1024);
    }
}
END_TEST

/* Where its kernel is not for a row: widths that 128 does not divide, two rows, and too many tiles. */
START_TEST(other_rows_of_int8_are_rounded_by_a_kernel)
{
    tn_batch one = batch_of(1), two = batch_of(2);

    launch(&hopper_linear_int8, eight(0, TN_DT_I8, 4096, 8192 + 16), &one, NULL);
    ck_assert_uint_eq(n_launches, 2);
    launch(&hopper_linear_int8, eight(0, TN_DT_I8, 4096, 8192), &two, NULL);
    ck_assert_uint_eq(n_launches, 2);
    launch(&hopper_linear_int8, eight(0, TN_DT_I8, 12288, 4096), &one, NULL);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[1].entry, "few_s8_bf16_64x8x7_sums");
    ck_assert_uint_eq(launches[1].k.grid[0], 384);
}
END_TEST

/* The numbers of rows below which rows are read as they are, and who is left where rows are short. */
START_TEST(rows_are_rounded_only_where_they_are_many_and_long)
{
    static const struct {
        uint32_t k, rows, half;
    } cases[] = {{4096, 1, 1}, {4096, 16, 1}, {4096, 256, 0}, {1024, 2048, 0}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const tn_op *op = eight(0, TN_DT_F8E4M3, 4096, cases[i].k);
        double half = hopper_linear_fp8_half.cost_ns(instance, op, cases[i].rows);
        double rounded = hopper_linear_fp8.cost_ns(instance, op, cases[i].rows);
        ck_assert(half > 0 && rounded > 0);
        ck_assert_int_eq(half < rounded, cases[i].half);
    }
    for (uint32_t rows = 1; rows <= 4096; rows *= 16) {
        const tn_op *op = eight(0, TN_DT_F8E4M3, 4096, 1008);
        ck_assert(hopper_linear_fp8.cost_ns(instance, op, rows) < 0); /* pinned only */
        ck_assert(hopper_linear_fp8_half.cost_ns(instance, op, rows) > 0);
        ck_assert(hopper_linear_int8.cost_ns(instance, eight(0, TN_DT_I8, 4096, 1008), rows) > 0);
    }
    ck_assert(hopper_linear_fp8_half.flags & TN_VARIANT_WIDE_ROWS);
    ck_assert(!(hopper_linear_fp8_half.flags & TN_VARIANT_FALLBACK));
    ck_assert(!(hopper_linear_fp8.flags & TN_VARIANT_WIDE_ROWS));
}
END_TEST

static tn_op *norm_qkv(uint32_t dtype)
{
    static tn_op fused;
    static const tn_weight *all[7];
    static const tn_value *out[3];

    for (int i = 0; i < 3; i++) {
        member_list[1 + i] = eight(i, dtype, i ? 1000 : 4096, 512);
        out[i] = &values[2 * i + 1];
        all[1 + 2 * i] = &weights[2 * i];
        all[2 + 2 * i] = &weights[2 * i + 1];
    }
    all[0] = weight(6, TN_DT_F32, 512, 0);
    ops[3] = (tn_op){
        .h = TN_HDR(tn_op), .name = TN_OP_RMS_NORM, .n_weights = 1, .weights = &weight_list[6]};
    member_list[0] = &ops[3];
    fused = (tn_op){.h = TN_HDR(tn_op),
                    .name = "norm_qkv.int8",
                    .n_in = 1,
                    .n_out = 3,
                    .n_weights = 7,
                    .n_members = 4,
                    .in = value_list,
                    .out = out,
                    .weights = all,
                    .members = member_list};
    return &fused;
}

START_TEST(norm_is_done_while_rows_are_quantized)
{
    const struct eight_params *p = &launches[1].eight;
    tn_batch b = batch_of(3);
    tn_op *op = norm_qkv(TN_DT_I8);

    ck_assert_ok(hopper_norm_qkv_int8.can_run(instance, op, &err), &err);
    launch(&hopper_norm_qkv_int8, op, &b, NULL);
    ck_assert_str_eq(launches[0].entry, "quantize_s8_bf16_512x1");
    ck_assert_ptr_nonnull(launches[0].quantize.weight);
    ck_assert_uint_eq(p->p.n_parts, 3);
    ck_assert_uint_eq(p->p.parts[1].first, 64); /* tiles of 64 rows */
    ck_assert_uint_eq(p->p.parts[2].first, 80);
    launch(&hopper_linear_int8, member_list[1], &b, NULL);
    ck_assert_ptr_null(launches[0].quantize.weight);
}
END_TEST

START_TEST(norm_leaves_rows_in_the_workspace_where_they_are_not_rounded)
{
    uint64_t bytes = 0;
    tn_batch b = batch_of(3);
    tn_op *op = norm_qkv(TN_DT_F8E4M3);

    ck_assert_ok(hopper_norm_qkv_fp8_half.can_run(instance, op, &err), &err);
    launch(&hopper_norm_qkv_fp8_half, op, &b, NULL);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "norm_bf16_1");
    ck_assert_ptr_eq(launches[0].norm.out, memory);
    ck_assert_ptr_null(launches[0].norm.b);
    ck_assert_uint_eq(launches[1].eight.p.n_parts, 3);
    ck_assert_ok(hopper_norm_qkv_fp8_half.workspace(instance, op, 3, 3, 64, &bytes, &err), &err);
    ck_assert_uint_eq(bytes, 3 * 512 * 2);
    ck_assert_ok(hopper_linear_fp8_half.workspace(instance, member_list[1], 3, 3, 64, &bytes, &err),
                 &err);
    ck_assert_uint_eq(bytes, 0);
}
END_TEST

START_TEST(product_of_8_bits_that_does_not_fit_is_refused)
{
    static const tn_attr one = TN_ATTR_REAL("act_scale", 0.5);
    tn_op *op;

    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_F8E4M3, 64, 24), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "multiple of 16");
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_I8, 64, 64), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, eight(0, TN_DT_F8E4M3, 64, 32784), &err),
                     TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "up to 32768");
    op = eight(0, TN_DT_F8E4M3, 64, 64);
    weights[1].dtype = TN_DT_F16;
    ck_assert_int_eq(hopper_linear_fp8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "must be float32");
    op = norm_qkv(TN_DT_I8);
    ops[1].attrs = &one; /* the keys' rows would be divided by another number */
    ops[1].n_attrs = 1;
    ck_assert_int_eq(hopper_norm_qkv_int8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "different scales");
    op = norm_qkv(TN_DT_I8);
    weights[6].dims[0] = 64; /* a norm per head */
    ck_assert_int_eq(hopper_norm_qkv_int8.can_run(instance, op, &err), TN_E_UNSUPPORTED);
    ck_assert_err_has(&err, "whole rows");
}
END_TEST

/* The same rows as of logits in 16 bits, but rounding gathers them; all of them in tiles that eight_few.cu has. */
START_TEST(rows_that_want_logits_are_gathered_while_they_are_rounded)
{
    static const tn_attr attrs[] = {TN_ATTR_REAL("scale", 0.5), TN_ATTR_REAL("softcap", 30.0)};
    static const int32_t wanted[] = {3, 70, 299};
    const struct eight_params *p = &launches[1].eight;
    tn_batch b = batch_of(300);
    tn_op op = *eight(0, TN_DT_I8, 1000, 512);
    uint64_t bytes = 0;

    op.name = TN_OP_LOGITS_INT8;
    op.attrs = attrs;
    op.n_attrs = 2;
    ck_assert_int_eq(hopper_logits_int8.can_run(instance, &op, &err), TN_E_UNSUPPORTED);
    values[1].kind = TN_VALUE_LOGITS;
    values[1].dtype = TN_DT_F32;
    ck_assert_ok(hopper_logits_int8.can_run(instance, &op, &err), &err);
    ck_assert_int_eq(hopper_linear_int8.can_run(instance, &op, &err), TN_E_UNSUPPORTED);
    arrays.logits_row = wanted;
    b.n_logits = 3;
    launch(&hopper_logits_int8, &op, &b, NULL);
    ck_assert_uint_eq(n_launches, 2);
    ck_assert_str_eq(launches[0].entry, "gather_s8_bf16_512x1");
    ck_assert_uint_eq(launches[0].k.grid[0], 3);
    ck_assert_ptr_eq(launches[0].quantize.row, wanted);
    ck_assert_uint_eq(p->p.rows, 3);
    ck_assert_uint_eq(p->p.finish, PRODUCT_LOGITS);
    ck_assert_uint_eq(p->p.n_parts, 1);
    ck_assert_ptr_eq(p->p.parts[0].out, memory);
    ck_assert_float_eq(p->p.scale, 0.5f);
    ck_assert_float_eq(p->p.softcap, 30.0f);
    ck_assert_ptr_eq(p->step, memory + 3 * 512);
    b.n_rows = 3; /* a step that only decodes */
    launch(&hopper_logits_int8, &op, &b, NULL);
    ck_assert_ptr_null(launches[0].quantize.row);
    b.n_logits = 0;
    launch(&hopper_logits_int8, &op, &b, NULL);
    ck_assert_uint_eq(n_launches, 0);
    ck_assert_ok(hopper_logits_int8.workspace(instance, &op, 3, 3, 64, &bytes, &err), &err);
    ck_assert_uint_eq(bytes, 3 * (512 + 4));
}
END_TEST

START_TEST(plan_of_logits_of_8_bits_covers_them)
{
    static const uint32_t ns[] = {8, 136, 4096, 32000, 128256}, ks[] = {16, 720, 4096, 8192};
    const tn_range *served = hopper_logits_int8.ranges;

    ck_assert_uint_eq(hopper_logits_int8.n_ranges, 1);
    ck_assert_uint_eq(hopper_linear_int8.n_ranges, 0);
    for (uint32_t i = 0; i < 5 * 4; i++)
        for (uint32_t rows = (uint32_t)served->min; rows <= served->max; rows++) {
            uint32_t n = ns[i / 4], k = ks[i % 4];
            tn_batch b = batch_of(rows);
            unsigned tile, tokens, stages;
            tn_op *op = eight(0, TN_DT_I8, n, k);
            values[1].dtype = TN_DT_F32;
            ck_assert_ok(hopper_logits_int8.can_run(instance, op, &err), &err);
            launch(&hopper_logits_int8, op, &b, NULL);
            ck_assert_uint_eq(n_launches, 2); /* no row is rounded by the product itself */
            ck_assert_int_eq(
                sscanf(launches[1].entry, "logits_s8_%ux%ux%u", &tile, &tokens, &stages), 3);
            ck_assert_uint_ge(tokens, rows);
            ck_assert_uint_eq(launches[1].k.grid[1], 1);
            ck_assert_uint_eq(launches[1].k.grid[0] / launches[1].k.cluster[0],
                              (n + tile - 1) / tile);
        }
}
END_TEST

/* -- Devices ------------------------------------------------------------------------------------------- */

START_TEST(device_without_code_is_left_alone)
{
    tn_batch b = batch_of(1);
    const void *in[1] = {memory};
    void *out[1] = {memory};
    tn_launch l = {.op = linear(0, 64, 64),
                   .batch = &b,
                   .in = in,
                   .out = out,
                   .weights = in,
                   .device = device(1)};

    image_status = TN_E_UNSUPPORTED;
    ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(1), &err), &err);
    ck_assert_int_eq(hopper_linear.launch(instance, &l, &err), TN_E_INTERNAL);
    image_status = TN_E_NOMEM;
    ck_assert_int_eq(hopper_kernel_set.attach(instance, &api, device(1), &err), TN_E_NOMEM);
}
END_TEST

START_TEST(too_many_devices_are_refused)
{
    for (int i = 1; i < CUDA_MAX_DEVICES; i++)
        ck_assert_ok(hopper_kernel_set.attach(instance, &api, device(i), &err), &err);
    ck_assert_int_eq(hopper_kernel_set.attach(instance, &api, device(CUDA_MAX_DEVICES), &err),
                     TN_E_LIMIT);
    for (int i = 1; i < CUDA_MAX_DEVICES; i++)
        hopper_kernel_set.detach(instance, device(i));
}
END_TEST

START_TEST(unknown_setting_is_refused)
{
    const tn_kv kv = {"turbo", "on"};
    void *other = NULL;

    ck_assert_int_eq(tn_plugin_query_v1(&host, 0)->init(&host, &kv, 1, &other, &err), TN_E_CONFIG);
    ck_assert_err_has(&err, "turbo");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hopper");
    TCase *t = tcase_create("all");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, plan_of_a_product_covers_it);
    tcase_add_test(t, tiles_that_fill_the_chip_once_have_long_rings_in_pairs_of_blocks);
    tcase_add_test(t, parts_of_a_fused_product_begin_at_their_tiles);
    tcase_add_test(t, plan_of_many_rows_covers_them);
    tcase_add_test(t, tiles_are_as_wide_as_keeps_all_units_at_work);
    tcase_add_test(t, product_that_does_not_fit_is_refused);
    tcase_add_test(t, biases_are_taken_in_float32_and_in_the_rows_dtype);
    tcase_add_test(t, rows_that_want_logits_are_gathered_first);
    tcase_add_test(t, plan_of_a_product_of_8_bits_covers_it);
    tcase_add_test(t, tiles_of_8_bits_are_as_wide_as_keeps_all_units_at_work);
    tcase_add_test(t, plan_of_rows_that_are_not_rounded_covers_them);
    tcase_add_test(t, plan_of_one_row_covers_the_matrix);
    tcase_add_test(t, other_rows_of_int8_are_rounded_by_a_kernel);
    tcase_add_test(t, rows_are_rounded_only_where_they_are_many_and_long);
    tcase_add_test(t, norm_is_done_while_rows_are_quantized);
    tcase_add_test(t, norm_leaves_rows_in_the_workspace_where_they_are_not_rounded);
    tcase_add_test(t, product_of_8_bits_that_does_not_fit_is_refused);
    tcase_add_test(t, rows_that_want_logits_are_gathered_while_they_are_rounded);
    tcase_add_test(t, plan_of_logits_of_8_bits_covers_them);
    tcase_add_test(t, device_without_code_is_left_alone);
    tcase_add_test(t, too_many_devices_are_refused);
    tcase_add_test(t, unknown_setting_is_refused);
    suite_add_tcase(s, t);
    return run_suite(s);
}
