/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the flags of the cpu variants promise, bit for bit: a row does not depend on the other rows of its step,
 * nor on how its prompt was cut, nor on the number of workers, nor on the time of day.
 */
#include "compose.h"

/* Ragged, with a context of more than one chunk of attention and more rows than a tile of a product. */
static const uint32_t all_rows[] = {5, 1, 40, 1}, all_contexts[] = {70, 33, 600, 1030};
#define N_SEQS 4

static struct plug cpu;

static void load_plugin(void)
{
    plug_load(&cpu, "cpu", "2");
}

static void unload_plugin(void)
{
    plug_unload(&cpu);
}

/* Sampling parameters that take every step of the procedure. */
static void fill_sampling(struct kit *k, tn_batch *b)
{
    int32_t *history = kit_alloc(k, 64 * sizeof *history);

    for (int i = 0; i < 64; i++)
        history[i] = (int32_t)random_below(&k->random, 200);
    ((tn_batch_arrays *)b->host)->history = history;
    for (uint32_t i = 0; i < b->n_logits; i++)
        ((tn_sample_row *)b->host->sample)[i] = (tn_sample_row){.temperature = i % 5 ? 0.8f : 0.0f,
                                                                .top_p = i % 2 ? 0.9f : 1.0f,
                                                                .repetition_penalty = 1.1f,
                                                                .presence_penalty = 0.2f,
                                                                .top_k = i % 3 * 20,
                                                                .seed = 99,
                                                                .position = i,
                                                                .prompt_len = 30,
                                                                .history_len = 64};
}

static void fill_inputs(struct kit *k, struct env *e, const tn_op *op, const tn_batch *b)
{
    for (uint32_t i = 0; i < op->n_in; i++) {
        env_fill(k, e, op->in[i], b, 3.0f, false);
        for (uint64_t j = 0; op->in[i]->dtype == TN_DT_I32 && j < b->n_rows * op->in[i]->width; j++)
            ((int32_t *)e->data[op->in[i]->id])[j] =
                (int32_t)random_below(&k->random, 6); /* experts */
    }
}

/* The inputs of rows [row, row + n) of the whole step. */
static void slice_inputs(const tn_op *op, const struct env *whole, uint32_t row, struct env *part)
{
    for (uint32_t i = 0; i < op->n_in; i++) {
        const tn_value *v = op->in[i];
        if (v->kind != TN_VALUE_KV)
            part->data[v->id] =
                (char *)whole->data[v->id] + row * v->width * tn_dtype_bits(v->dtype) / 8;
    }
}

/* Runs rows [first, first + n) of sequence `seq` as a step of their own and compares them with the whole. */
static void check_slice(struct kit *k, const tn_variant *v, const tn_op *op, const tn_batch *b,
                        const struct env *whole, tn_kv_layer *kv, uint32_t seq, uint32_t first,
                        uint32_t n)
{
    struct env part = {.kv = kv};
    tn_batch *slice = kit_slice(k, b, seq, first, n);
    uint32_t row = slice_row(b, seq, first);

    memcpy((tn_sample_row *)slice->host->sample, b->host->sample + row, n * sizeof(tn_sample_row));
    ((tn_batch_arrays *)slice->host)->history = b->host->history;
    slice_inputs(op, whole, row, &part);
    run_variant(k, &cpu, v, op, slice, &part);
    for (uint32_t o = 0; o < op->n_out; o++)
        for (uint32_t i = 0; op->out[o]->kind != TN_VALUE_KV && i < n; i++)
            expect(same_row(op->out[o], part.data[op->out[o]->id], i, whole->data[op->out[o]->id],
                            row + i),
                   "%s: row %u of sequence %u differs when %u rows are computed from row %u on",
                   v->name, first + i, seq, n, first);
}

static void check_variant(const tn_variant *v)
{
    static const uint32_t pieces[] = {1, 1, 3, 14, 2, 19};
    struct kit k;
    struct shape s = shape_for(v);
    struct env whole = {.kv = NULL};
    tn_kv_layer *kv = NULL;

    kit_init(&k, 7);
    tn_batch *b = kit_batch(&k, N_SEQS, all_rows, all_contexts, 16, 1500, true);
    const tn_op *op = compose(&k, v, &s);
    if (v->kv_dtypes)
        kv = kit_kv(&k, b, s.kv_heads, s.head_dim, TN_DT_F16);
    fill_sampling(&k, b);
    whole.kv = kv ? kit_kv_copy(&k, kv) : NULL;
    fill_inputs(&k, &whole, op, b);
    run_variant(&k, &cpu, v, op, b, &whole);
    for (uint32_t seq = 0; seq < N_SEQS; seq++)
        for (uint32_t first = 0, p = 0; first < all_rows[seq]; first += pieces[p++]) {
            uint32_t left = all_rows[seq] - first;
            check_slice(&k, v, op, b, &whole, kv, seq, first, pieces[p] < left ? pieces[p] : left);
        }
    if (kv)
        ck_assert_msg(memcmp(kv->base, whole.kv->base, kv_bytes(kv)) == 0,
                      "%s: the cache differs when rows are appended in pieces", v->name);
    kit_free(&k);
}

START_TEST(a_row_does_not_depend_on_its_batch)
{
    load_plugin();
    for (uint32_t i = 0; i < cpu.set->n_variants; i++) {
        const tn_variant *v = cpu.set->variants[i];
        ck_assert_msg(v->flags & TN_VARIANT_BATCH_INVARIANT, "%s does not promise it", v->name);
        if (can_run_here(v))
            check_variant(v);
    }
    unload_plugin();
}
END_TEST

/* Runs `v` on plugins with different numbers of workers, twice each. */
static void check_workers(struct plug *plugs, uint32_t n, const tn_variant *v)
{
    struct kit k;
    struct shape s = shape_for(v);
    struct env first = {.kv = NULL};

    s.in_width[0] *= v->pack_layout ? 4 : 1; /* long enough to be shared */
    kit_init(&k, 11);
    tn_batch *b = kit_batch(&k, N_SEQS, all_rows, all_contexts, 16, 1500, true);
    const tn_op *op = compose(&k, v, &s);
    tn_kv_layer *kv = v->kv_dtypes ? kit_kv(&k, b, s.kv_heads, s.head_dim, TN_DT_BF16) : NULL;
    fill_sampling(&k, b);
    fill_inputs(&k, &first, op, b);
    for (uint32_t run = 0; run < 2 * n; run++) {
        struct env e = first;
        e.kv = kv;
        run_variant(&k, &plugs[run % n], v, op, b, &e); /* one library, so one set of variants */
        for (uint32_t o = 0; o < op->n_out; o++) {
            const tn_value *out = op->out[o];
            if (out->kind == TN_VALUE_KV)
                continue;
            if (run == 0)
                first.data[out->id] = e.data[out->id];
            expect(memcmp(e.data[out->id], first.data[out->id], value_bytes(out, b)) == 0,
                   "%s: run %u differs from the first", v->name, run);
        }
    }
    kit_free(&k);
}

START_TEST(workers_and_time_change_no_bit)
{
    static const char *const threads[] = {"1", "2", "5"};
    struct plug plugs[3];

    for (int i = 0; i < 3; i++)
        plug_load(&plugs[i], "cpu", threads[i]);
    for (uint32_t i = 0; i < plugs[0].set->n_variants; i++)
        if (can_run_here(plugs[0].set->variants[i]))
            check_workers(plugs, 3, plugs[0].set->variants[i]);
    for (int i = 0; i < 3; i++)
        plug_unload(&plugs[i]);
}
END_TEST

/* Long contexts of few heads are split over workers; the bits must be those of one worker. */
START_TEST(split_contexts_equal_whole_ones)
{
    static const uint32_t one[] = {1}, context[] = {2100};
    static const char *const names[] = {"attention.avx2", "attention.avx512"};
    struct plug alone, many;

    plug_load(&alone, "cpu", "1");
    plug_load(&many, "cpu", "4");
    for (int i = 0; i < 2; i++) {
        const tn_variant *v = plug_variant(&alone, names[i]);
        struct shape s = {.in_width = {4 * 64}, .heads = 4, .kv_heads = 1, .head_dim = 64};
        struct env a = {.kv = NULL}, b;
        struct kit k;
        if (!can_run_here(v))
            continue;
        for (s.window = 0; s.window < 1000; s.window += 700) {
            kit_init(&k, 3);
            tn_batch *batch = kit_batch(&k, 1, one, context, 16, 50, false);
            const tn_op *op = compose(&k, v, &s);
            a.kv = kit_kv(&k, batch, 1, 64, TN_DT_F32);
            env_fill(&k, &a, op->in[0], batch, 3.0f, false);
            b = a;
            run_variant(&k, &alone, v, op, batch, &a);
            run_variant(&k, &many, v, op, batch, &b);
            ck_assert(same_row(op->out[0], a.data[op->out[0]->id], 0, b.data[op->out[0]->id], 0));
            kit_free(&k);
        }
    }
    plug_unload(&many);
    plug_unload(&alone);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_invariance");
    TCase *c = tcase_create("invariance");

    tcase_add_test(c, a_row_does_not_depend_on_its_batch);
    tcase_add_test(c, workers_and_time_change_no_bit);
    tcase_add_test(c, split_contexts_equal_whole_ones);
    suite_add_tcase(s, c);
    return run_suite(s);
}
