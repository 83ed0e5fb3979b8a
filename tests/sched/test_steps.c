/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of core/sched: what a step holds, whom a policy admits, what the batch says. One damage
 * each. */
#include "rig.h"
#include "sched/batch.h"

/* -- Order and chunks -------------------------------------------------------------------------- */

START_TEST(a_chunk_ends_with_a_block_and_no_younger_prompt_overtakes)
{
    struct rig g;
    const struct sched_step *step;
    uint64_t a, b, c;

    rig_init(&g);
    g.config.max_num_tokens = 12;
    rig_open(&g);
    a = submit(&g, spec_of(0, 3, 9));
    b = submit(&g, spec_of(20, 18, 9));
    c = submit(&g, spec_of(60, 1, 9)); /* would fit beside the first chunk of b */
    step = schedule(&g);
    ck_assert_uint_eq(step->n_seqs, 2);
    ck_assert_uint_eq(step->seqs[1].n_rows, 8);
    ck_assert(step->seqs[0].samples && !step->seqs[1].samples);
    commit(&g, step);
    step = schedule(&g);
    ck_assert_uint_eq(step->seqs[0].id, a); /* the decode row first */
    ck_assert_uint_eq(step->seqs[0].n_rows, 1);
    ck_assert_uint_eq(step->seqs[1].id, b);
    ck_assert_uint_eq(step->seqs[1].n_rows, 10); /* all the rest */
    ck_assert(step->seqs[1].samples);
    ck_assert_uint_eq(step->n_seqs, 3); /* now the one row left is for c */
    ck_assert_uint_eq(step->seqs[2].id, c);
    commit(&g, step);
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(without_chunks_a_prompt_waits_for_room)
{
    struct rig g;
    const struct sched_step *step;

    rig_init(&g);
    g.config.max_num_tokens = 16;
    g.config.chunked_prefill = false;
    rig_open(&g);
    submit(&g, spec_of(0, 10, 3));
    submit(&g, spec_of(50, 16, 3)); /* fits a whole step only */
    for (int i = 0; i < 3; i++) {
        step = schedule(&g);
        ck_assert_uint_eq(step->n_seqs, 1);
        commit(&g, step);
    }
    step = schedule(&g);
    ck_assert_uint_eq(step->n_rows, 16);
    commit(&g, step);
    drain(&g);
    rig_close(&g);
}
END_TEST

/* -- Policies ---------------------------------------------------------------------------------- */

START_TEST(no_evict_admits_only_what_can_run_to_its_end)
{
    struct rig g;
    struct sched_stats st;

    rig_init(&g);
    rig_open(&g);
    submit(&g, spec_of(0, 8, 25));  /* 32 tokens, 8 of 16 blocks */
    submit(&g, spec_of(20, 8, 25)); /* the other 8 */
    submit(&g, spec_of(40, 1, 1));
    commit(&g, schedule(&g));
    sched_get_stats(g.s, &st);
    ck_assert_uint_eq(st.n_running, 2);
    ck_assert_uint_eq(st.n_waiting, 1);
    ck_assert_uint_eq(st.kv.n_held + st.n_reserved, 16);
    drain(&g);
    sched_get_stats(g.s, &st);
    ck_assert_uint_eq(st.preemptions, 0);
    rig_close(&g);
}
END_TEST

START_TEST(a_shared_prefix_is_counted_once_at_admission)
{
    struct rig g;
    struct sched_stats st;

    rig_init(&g);
    g.kv_config.n_blocks = 12;
    rig_open(&g);
    submit(&g, spec_of(0, 33, 4)); /* 9 blocks */
    commit(&g, schedule(&g));
    submit(&g, spec_of(0, 33, 4)); /* 8 of them shared: one of its own */
    submit(&g, spec_of(0, 33, 4));
    submit(&g, spec_of(0, 33, 4));
    commit(&g, schedule(&g));
    commit(&g, schedule(&g));
    sched_get_stats(g.s, &st);
    ck_assert_uint_eq(st.n_running, 4);
    ck_assert_uint_eq(st.kv.n_held, 12);
    drain(&g);
    /* Idle blocks that are adopted are not there to be taken: 9 cached, 3 free, a request of 12. */
    submit(&g, spec_of(0, 33, 13));
    submit(&g, spec_of(70, 1, 1));
    commit(&g, schedule(&g));
    sched_get_stats(g.s, &st);
    ck_assert_uint_eq(st.n_running, 1);
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(max_utilization_preempts_the_newest_and_loses_no_token)
{
    struct rig g;
    struct sched_stats st;
    uint64_t id[3];

    rig_init(&g);
    g.config.policy = SCHED_MAX_UTILIZATION;
    g.kv_config.prefix_reuse = false;
    rig_open(&g);
    for (int i = 0; i < 3; i++)
        id[i] = submit(&g, spec_of(i * 30, 12, 30)); /* 4 blocks each now, 11 at the end */
    drain(&g);
    sched_get_stats(g.s, &st);
    ck_assert_uint_gt(st.preemptions, 0);
    ck_assert_uint_gt(st.recomputed_rows, 0);
    ck_assert_uint_eq(usage_of(&g, id[0])->n_preempted, 0);
    ck_assert_uint_gt(usage_of(&g, id[2])->n_preempted, 0);
    for (int i = 0; i < 3; i++) {
        ck_ended(&g, id[i], SCHED_END_LENGTH, TN_OK);
        ck_assert_uint_eq(usage_of(&g, id[i])->n_output, 30);
    }
    rig_close(&g);
}
END_TEST

START_TEST(a_preempted_request_keeps_its_prompt_length)
{
    struct rig g;
    const struct sched_step *step;
    uint64_t young;
    bool again = false;

    rig_init(&g);
    g.config.policy = SCHED_MAX_UTILIZATION;
    g.kv_config.prefix_reuse = false;
    rig_open(&g);
    submit(&g, spec_of(0, 12, 40));
    young = submit(&g, spec_of(30, 12, 40));
    while ((step = schedule(&g))) {
        for (uint32_t i = 0; i < step->n_seqs; i++) {
            const struct sched_seq *q = &step->seqs[i];
            ck_assert_uint_eq(q->prompt_len, 12);
            again = again || (q->id == young && q->n_rows > 12);
        }
        commit(&g, step);
    }
    ck_assert_msg(again, "the young request was never computed again");
    ck_assert_uint_eq(usage_of(&g, young)->n_prompt, 12);
    rig_close(&g);
}
END_TEST

/* -- Prefixes ---------------------------------------------------------------------------------- */

START_TEST(a_conversation_finds_its_prompt_and_its_answer)
{
    struct rig g;
    int32_t turn[40];
    struct request_spec spec = spec_of(0, 10, 7);
    uint64_t id;

    rig_init(&g);
    rig_open(&g);
    submit(&g, spec);
    drain(&g);
    memcpy(turn, spec.prompt, 10 * sizeof *turn);
    for (int i = 10; i < 40; i++)
        turn[i] = PLAIN;
    spec.prompt = turn;
    spec.n_prompt = 30;
    id = submit(&g, spec);
    drain(&g);
    ck_assert_uint_eq(usage_of(&g, id)->n_cached,
                      16); /* 10 + 6 computed: the 7th was never an input */
    rig_close(&g);
}
END_TEST

START_TEST(other_salts_and_scaled_lengths_do_not_share)
{
    struct rig g;
    struct request_spec spec;
    uint64_t mine, yours, shorter, longer, equal;

    rig_init(&g);
    g.config.length_scaled_above = 16;
    rig_open(&g);
    spec = spec_of(0, 9, 1);
    spec.salt = "a";
    spec.salt_bytes = 1;
    submit(&g, spec);
    drain(&g);
    mine = submit(&g, spec);
    spec.salt = "b";
    yours = submit(&g, spec);
    drain(&g);
    ck_assert_uint_eq(usage_of(&g, mine)->n_cached, 8);
    ck_assert_uint_eq(usage_of(&g, yours)->n_cached, 0);
    submit(&g, spec_of(50, 20, 1));
    drain(&g);
    equal = submit(&g, spec_of(50, 20, 1));
    longer = submit(&g, spec_of(50, 21, 1));
    shorter = submit(&g, spec_of(50, 16, 1));
    drain(&g);
    ck_assert_uint_eq(usage_of(&g, equal)->n_cached, 16);
    ck_assert_uint_eq(usage_of(&g, longer)->n_cached, 0);
    ck_assert_uint_eq(usage_of(&g, shorter)->n_cached, 0);
    rig_close(&g);
}
END_TEST

/* -- Steps ahead ------------------------------------------------------------------------------- */

START_TEST(an_unknown_token_is_named_by_its_row_and_discarded_after_the_end)
{
    static const int32_t eos[] = {50};
    struct rig g;
    struct request_spec spec = spec_of(0, 4, 9);
    const struct sched_step *one, *two;
    struct sched_stats st;
    uint64_t a, b;

    rig_init(&g);
    g.config.max_in_flight = 2;
    rig_open(&g);
    spec.eos_ids = eos;
    spec.n_eos_ids = 1;
    a = submit(&g, spec);
    b = submit(&g, spec_of(40, 3, 2));
    one = schedule(&g);
    two = schedule(&g);
    ck_assert_uint_eq(one->n_seqs, 2);
    ck_assert_uint_eq(two->n_seqs, 2);
    ck_assert_int_eq(two->seqs[0].token_row, (int32_t)one->seqs[0].first_logits);
    ck_assert_int_eq(two->seqs[1].token_row, (int32_t)one->seqs[1].first_logits);
    ck_assert_uint_eq(two->seqs[0].context, 5);
    g.sampled[0] = 50;
    commit(&g, one);
    ck_ended(&g, a, SCHED_END_EOS, TN_OK);
    ck_assert_uint_eq(n_held(&g), 3); /* step two still writes a's second block */
    one = schedule(&g);
    ck_assert_ptr_null(one); /* b's last token is in flight: it is not scheduled beyond it */
    commit(&g, two);
    ck_ended(&g, b, SCHED_END_LENGTH, TN_OK);
    ck_assert_uint_eq(usage_of(&g, a)->n_output, 1);
    sched_get_stats(g.s, &st);
    ck_assert_uint_eq(st.discarded_tokens, 1);
    rig_close(&g);
}
END_TEST

START_TEST(penalties_wait_for_the_token_they_read)
{
    struct rig g;
    const struct sched_step *one;

    rig_init(&g);
    g.config.max_in_flight = 2;
    rig_open(&g);
    for (int kind = 0; kind < 3; kind++) {
        struct request_spec spec = spec_of(kind * 10, 4, 3);
        spec.sampling.repetition_penalty = kind == 0 ? 1.3f : 1;
        spec.sampling.presence_penalty = kind == 1 ? 0.5f : 0;
        spec.sampling.frequency_penalty = kind == 2 ? -0.5f : 0;
        submit(&g, spec);
        one = schedule(&g);
        ck_assert_uint_eq(one->n_history, 4);
        ck_assert_ptr_null(schedule(&g));
        commit(&g, one);
        one = schedule(&g);
        ck_assert_uint_eq(one->n_history, 5);
        ck_assert_int_eq(one->seqs[0].token_row, SCHED_TOKEN_KNOWN);
        commit(&g, one);
        drain(&g);
    }
    rig_close(&g);
}
END_TEST

/* -- Logits ------------------------------------------------------------------------------------ */

START_TEST(prompt_logits_come_whole_in_bounded_chunks)
{
    struct rig g;
    struct request_spec spec = spec_of(0, 30, 0);
    const struct sched_step *step;
    uint64_t id;
    uint32_t rows = 0;

    rig_init(&g);
    g.config.max_logits = 6;
    rig_open(&g);
    submit(&g, spec_of(0, 30, 1));
    drain(&g); /* the prefix is cached, and must not be used: its logits are not */
    g.n_events = 0;
    spec.want_logits = true;
    id = submit(&g, spec);
    while ((step = schedule(&g))) {
        ck_assert_uint_le(step->n_logits, 6);
        ck_assert_uint_eq(step->seqs[0].n_logits, step->seqs[0].n_rows);
        commit(&g, step);
    }
    for (uint32_t i = 0; i < g.n_events; i++) {
        if (g.events[i].kind != SCHED_EVENT_LOGITS)
            continue;
        ck_assert_uint_eq(g.events[i].position, rows);
        rows += g.events[i].n_logits;
    }
    ck_assert_uint_eq(rows, 30);
    ck_ended(&g, id, SCHED_END_LENGTH, TN_OK);
    rig_close(&g);
}
END_TEST

/* -- The batch --------------------------------------------------------------------------------- */

static int32_t tokens[64], positions[64], row_seq[64], first_row[8], context[8], prompt_len[8];
static int32_t table[256], logits_row[64], bias_ids[256], history[256], token_row[64];
static int64_t row_slot[64];
static float bias_values[256];
static tn_sample_row sample[64];
static const struct batch_buffers buffers = {
    .tokens = tokens,
    .positions = positions,
    .row_seq = row_seq,
    .row_slot = row_slot,
    .first_row = first_row,
    .context = context,
    .prompt_len = prompt_len,
    .block_table = table,
    .logits_row = logits_row,
    .sample = sample,
    .bias_ids = bias_ids,
    .bias_values = bias_values,
    .history = history,
    .token_row = token_row,
};

START_TEST(the_batch_matches_its_contract)
{
    struct rig g;
    struct request_spec spec = spec_of(10, 6, 9);
    const struct sched_step *step;
    tn_batch_arrays arrays;
    tn_batch b;

    rig_init(&g);
    rig_open(&g);
    submit(&g, spec_of(0, 3, 9));
    commit(&g, schedule(&g));
    spec.sampling.seed = 77;
    spec.sampling.frequency_penalty = 1;
    submit(&g, spec);
    step = schedule(&g);
    ck_assert_uint_eq(batch_fill(g.s, step, 5, &buffers, &arrays, &b), 0);
    ck_assert_uint_eq(b.n_rows, 7);
    ck_assert_uint_eq(b.n_seqs, 2);
    ck_assert_uint_eq(b.n_logits, 2);
    ck_assert_uint_eq(b.block_tokens, BT);
    ck_assert_uint_eq(b.max_blocks, 5);
    ck_assert_uint_eq(b.max_rows_per_seq, 6);
    ck_assert_uint_eq(b.max_context, 6);
    ck_assert_ptr_eq(b.host, &arrays);
    ck_assert_int_eq(tokens[0], PLAIN);
    ck_assert_int_eq(tokens[1], 10);
    ck_assert_int_eq(tokens[6], 15);
    ck_assert_int_eq(positions[0], 3);
    ck_assert_int_eq(positions[6], 5);
    ck_assert(row_seq[0] == 0 && row_seq[1] == 1 && row_seq[6] == 1);
    ck_assert(first_row[0] == 0 && first_row[1] == 1 && first_row[2] == 7);
    ck_assert(context[0] == 4 && context[1] == 6 && prompt_len[0] == 3 && prompt_len[1] == 6);
    ck_assert_int_eq(table[1], TN_NO_BLOCK);
    ck_assert_int_eq(table[5 + 2], TN_NO_BLOCK);
    ck_assert_int_eq(row_slot[0], table[0] * (int64_t)BT + 3);
    ck_assert_int_eq(row_slot[6], table[5 + 1] * (int64_t)BT + 1);
    ck_assert(logits_row[0] == 0 && logits_row[1] == 6);
    ck_assert_uint_eq(sample[0].position, 4);
    ck_assert_uint_eq(sample[0].history_len, 0);
    ck_assert_uint_eq(sample[1].position, 6);
    ck_assert_uint_eq(sample[1].seed, 77);
    ck_assert_uint_eq(sample[1].history_len, 6);
    ck_assert_int_eq(history[sample[1].first_history + 5], 15);
    commit(&g, step);
    drain(&g);
    rig_close(&g);
}
END_TEST

START_TEST(end_ids_are_banned_until_min_new_tokens)
{
    static const int32_t eos[] = {50}, biased[] = {3};
    static const float values[] = {-2};
    struct rig g;
    struct request_spec spec = spec_of(10, 6, 4);
    const struct sched_step *step;
    tn_batch_arrays arrays;
    tn_batch b;

    rig_init(&g);
    g.config.max_in_flight = 2;
    rig_open(&g);
    spec.eos_ids = eos;
    spec.n_eos_ids = 1;
    spec.min_new_tokens = 2;
    spec.bias_ids = biased;
    spec.bias_values = values;
    spec.n_bias = 1;
    submit(&g, spec);
    for (uint32_t i = 0; i < 4; i++) {
        const struct sched_step *next;
        step = schedule(&g);
        next = i == 0 ? schedule(&g) : NULL; /* the ban must hold for a step ahead, too */
        if (next) {
            batch_fill(g.s, step, 0, &buffers, &arrays, &b);
            ck_assert_uint_eq(sample[0].n_bias, 2);
            commit(&g, step);
            step = next;
            i++;
        }
        batch_fill(g.s, step, 0, &buffers, &arrays, &b);
        ck_assert_uint_eq(sample[0].n_bias, i < 2 ? 2 : 1);
        ck_assert_uint_eq(step->n_bias, sample[0].n_bias);
        ck_assert(bias_ids[0] == 3 && bias_values[0] == -2);
        if (i < 2)
            ck_assert(bias_ids[1] == 50 && isinf(bias_values[1]) && bias_values[1] < 0);
        commit(&g, step);
    }
    rig_close(&g);
}
END_TEST

START_TEST(tiny_temperatures_are_greedy_and_wide_top_k_is_off)
{
    struct rig g;
    struct request_spec spec = spec_of(10, 6, 4);
    tn_batch_arrays arrays;
    tn_batch b;
    const struct sched_step *step;

    rig_init(&g);
    rig_open(&g);
    spec.sampling.temperature = 1e-30f;
    spec.sampling.top_k = VOCAB + 5;
    submit(&g, spec);
    step = schedule(&g);
    batch_fill(g.s, step, 0, &buffers, &arrays, &b);
    ck_assert_float_eq(sample[0].temperature, 0);
    ck_assert_uint_eq(sample[0].top_k, 0);
    commit(&g, step);
    drain(&g);
    rig_close(&g);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("steps");
    TCase *t = tcase_create("steps");

    tcase_add_test(t, a_chunk_ends_with_a_block_and_no_younger_prompt_overtakes);
    tcase_add_test(t, without_chunks_a_prompt_waits_for_room);
    tcase_add_test(t, no_evict_admits_only_what_can_run_to_its_end);
    tcase_add_test(t, a_shared_prefix_is_counted_once_at_admission);
    tcase_add_test(t, max_utilization_preempts_the_newest_and_loses_no_token);
    tcase_add_test(t, a_preempted_request_keeps_its_prompt_length);
    tcase_add_test(t, a_conversation_finds_its_prompt_and_its_answer);
    tcase_add_test(t, other_salts_and_scaled_lengths_do_not_share);
    tcase_add_test(t, an_unknown_token_is_named_by_its_row_and_discarded_after_the_end);
    tcase_add_test(t, penalties_wait_for_the_token_they_read);
    tcase_add_test(t, prompt_logits_come_whole_in_bounded_chunks);
    tcase_add_test(t, the_batch_matches_its_contract);
    tcase_add_test(t, end_ids_are_banned_until_min_new_tokens);
    tcase_add_test(t, tiny_temperatures_are_greedy_and_wide_top_k_is_off);
    suite_add_tcase(s, t);
    return run_suite(s);
}
