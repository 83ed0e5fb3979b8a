/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `sample` of every set, step by step of the procedure in batch.h: each step alone on rows whose outcome can be
 * worked out by hand, then all variants against the reference on random rows, then the frequencies of draws.
 */
#include <dlfcn.h>
#include <math.h>

#include "cases.h"

#define VOCAB 1000

static const char *const sets[] = {"reference", "cpu", "cuda", "ampere", "hopper"};
static struct plug plugs[5];
static uint32_t n_plugs;

static struct subject subjects[8];
static uint32_t n_subjects;
static struct kit k;

static void setup(void)
{
    bool gpu = dlopen("libcuda.so.1", RTLD_NOW) != NULL;

    plug_load(&plugs[0], sets[0], NULL);
    plug_load(&plugs[1], sets[1], "2");
    n_plugs = 2;
    for (uint32_t i = 2; gpu && i < 5; i++)
        if (plug_exists(sets[i]) && i == 2)
            plug_load(&plugs[n_plugs++], sets[i], NULL);
        else if (plug_exists(sets[i]))
            plug_load_on(&plugs[n_plugs++], sets[i], &plugs[2]);
    kit_init(&k, 17);
    n_subjects = 0;
    for (uint32_t p = 0; p < n_plugs; p++)
        for (uint32_t i = 0; i < plugs[p].set->n_variants; i++) {
            const tn_variant *v = plugs[p].set->variants[i];
            if (strcmp(v->op, TN_OP_SAMPLE) == 0 && can_run_here(v))
                subjects[n_subjects++] = (struct subject){.plug = &plugs[p], .v = v};
        }
}

static void teardown(void)
{
    kit_free(&k);
    while (n_plugs > 0)
        plug_unload(&plugs[--n_plugs]);
}

/* `n` logits rows of `vocab` logits, all `fill`, greedy. */
struct question {
    tn_op *op;
    tn_batch *b;
    struct env e;
    float *x;
    tn_sample_row *row;
    uint32_t n;
    uint64_t vocab;
};

static void ask(struct question *q, uint32_t n, uint64_t vocab, float fill)
{
    struct shape s = {.in_width = {vocab}};
    uint32_t context = n + 1;

    memset(&q->e, 0, sizeof q->e);
    q->b = kit_batch(&k, 1, &n, &context, 16, 50, true);
    q->op = compose_basic(&k, TN_OP_SAMPLE, &s);
    q->n = n;
    q->vocab = vocab;
    env_fill(&k, &q->e, q->op->in[0], q->b, 1.0f, false);
    q->x = q->e.data[q->op->in[0]->id];
    q->row = (tn_sample_row *)q->b->host->sample;
    for (uint64_t i = 0; i < n * vocab; i++)
        q->x[i] = fill;
    for (uint32_t i = 0; i < n; i++)
        q->row[i] = (tn_sample_row){.top_p = 1.0f, .repetition_penalty = 1.0f};
}

/* Runs one subject; answers are in b->host->sampled. */
static const int32_t *answer(struct question *q, const struct subject *s)
{
    const tn_batch_arrays *a = q->b->host;

    run_variant(&k, s->plug, s->v, q->op, q->b, &q->e);
    ck_assert(memcmp(a->sampled, q->e.data[q->op->out[0]->id], q->n * sizeof(int32_t)) == 0);
    for (uint32_t i = 0; a->logprob && i < q->n; i++) {
        double sum = 0.0;
        if (a->sampled[i] < 0) {
            expect(isnan(a->logprob[i]), "%s: logprob %g of no token", s->v->name,
                   (double)a->logprob[i]);
            continue;
        }
        for (uint64_t j = 0; j < q->vocab; j++)
            sum += exp((double)q->x[i * q->vocab + j]);
        double want = (double)q->x[i * q->vocab + (uint64_t)a->sampled[i]] - log(sum);
        expect(fabs((double)a->logprob[i] - want) < 2e-5, "%s: logprob %g, not %g", s->v->name,
               (double)a->logprob[i], want);
    }
    return a->sampled;
}

START_TEST(greedy_takes_the_lowest_of_equals)
{
    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        ask(&q, 4, VOCAB, -2.0f);
        q.x[999] = 5.0f;
        q.x[VOCAB + 17] = q.x[VOCAB + 700] = 3.0f;
        q.x[2 * VOCAB + 3] = -INFINITY; /* a token ruled out is no error */
        q.x[3 * VOCAB + 998] = 0.5f;
        const int32_t *got = answer(&q, &subjects[i]);
        ck_assert(got[0] == 999 && got[1] == 17 && got[2] == 0 && got[3] == 998);
    }
}
END_TEST

START_TEST(rows_that_are_not_numbers_are_reported)
{
    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        ask(&q, 5, 37, 0.0f);
        q.x[36] = NAN;
        q.x[37] = INFINITY;
        for (int j = 0; j < 37; j++)
            q.x[2 * 37 + j] = -INFINITY;
        q.row[4].temperature = 1.0f;
        q.x[4 * 37 + 20] = NAN;
        const int32_t *got = answer(&q, &subjects[i]);
        ck_assert(got[0] == TN_SAMPLE_NAN && got[1] == TN_SAMPLE_NAN && got[2] == TN_SAMPLE_NAN);
        ck_assert(got[3] == 0 && got[4] == TN_SAMPLE_NAN);
    }
}
END_TEST

START_TEST(biases_and_penalties_are_applied_in_order)
{
    static const int32_t bias_ids[] = {4, 5, 5}, history[] = {9, 1, 1, 2, 2, 2, 3};
    static const float bias[] = {1.0f, 2.0f, 1.5f};

    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        ask(&q, 4, 40, 0.0f);
        ((tn_batch_arrays *)q.b->host)->bias_ids = bias_ids;
        ((tn_batch_arrays *)q.b->host)->bias_values = bias;
        ((tn_batch_arrays *)q.b->host)->history = history;
        /* 0: biases add up, and a later one may repeat a token: 4 has 1.0, 5 has 3.5 */
        q.row[0].n_bias = 3;
        q.x[7] = 3.4f;
        /* 1: only the last bias */
        q.row[1].n_bias = 1;
        q.row[1].first_bias = 2;
        q.x[40 + 7] = 1.4f;
        /* 2: prompt 1 1 2, output 2 2 3; repetition 2: 6 -> 3, -1 -> -2; then 2: 2 x 0.75 + 0.5 off */
        q.row[2] = (tn_sample_row){.top_p = 1.0f,
                                   .repetition_penalty = 2.0f,
                                   .presence_penalty = 0.5f,
                                   .frequency_penalty = 0.75f,
                                   .first_history = 1,
                                   .prompt_len = 3,
                                   .history_len = 6};
        for (int j = 0; j < 40; j++)
            q.x[80 + j] = -10.0f;
        q.x[80 + 1] = 4.2f; /* 2.1 */
        q.x[80 + 2] = 8.3f; /* 4.15 - 2 = 2.15 */
        q.x[80 + 3] = 6.8f; /* 3.4 - 1.25 = 2.15 */
        /* 3: a repeated token below 0 falls further */
        q.row[3] = q.row[2];
        q.row[3].presence_penalty = q.row[3].frequency_penalty = 0.0f;
        for (int j = 0; j < 40; j++)
            q.x[120 + j] = -3.0f;
        q.x[120 + 1] = -2.0f; /* -4 */
        q.x[120 + 20] = -2.5f;
        const int32_t *got = answer(&q, &subjects[i]);
        ck_assert_int_eq(got[0], 5);
        ck_assert_int_eq(got[1], 5);
        ck_assert_msg(got[2] == 2 || got[2] == 3, "%d", got[2]);
        ck_assert_int_eq(got[3], 20);
    }
}
END_TEST

/* The tokens that 400 seeds draw from a row with these parameters, as a set. */
static void drawn(const struct subject *s, const tn_sample_row *r, const float *x, uint64_t vocab,
                  bool *set)
{
    struct question q;

    ask(&q, 400, vocab, 0.0f);
    for (uint32_t i = 0; i < 400; i++) {
        memcpy(q.x + i * vocab, x, vocab * sizeof *x);
        q.row[i] = *r;
        q.row[i].seed = 1000 + i;
    }
    const int32_t *got = answer(&q, s);
    memset(set, 0, vocab * sizeof *set);
    for (uint32_t i = 0; i < 400; i++)
        set[got[i]] = true;
}

static void expect_set(const char *name, const bool *set, uint64_t vocab, const char *want)
{
    char got[64] = "";

    for (uint64_t i = 0; i < vocab; i++)
        if (set[i])
            snprintf(got + strlen(got), sizeof got - strlen(got), "%llu ", (unsigned long long)i);
    ck_assert_msg(strcmp(got, want) == 0, "%s drew %s, not %s", name, got, want);
}

START_TEST(filters_keep_exactly_what_they_should)
{
    /* probabilities 0.1 0.3 0.1 0.1 0.4, so that ties stand at the edges */
    static const float p[5] = {0.1f, 0.3f, 0.1f, 0.1f, 0.4f};
    static const struct {
        uint32_t top_k;
        float top_p, min_p;
        const char *want;
    } cases[] = {
        {0, 1.0f, 0.0f, "0 1 2 3 4 "}, {3, 1.0f, 0.0f, "0 1 4 "},      {4, 1.0f, 0.0f, "0 1 2 4 "},
        {1, 1.0f, 0.0f, "4 "},         {99, 1.0f, 0.0f, "0 1 2 3 4 "}, {0, 0.35f, 0.0f, "4 "},
        {0, 0.69f, 0.0f, "1 4 "},      {0, 0.75f, 0.0f, "0 1 4 "},     {0, 0.85f, 0.0f, "0 1 2 4 "},
        {0, 1e-9f, 0.0f, "4 "},        {0, 1.0f, 0.5f, "1 4 "},        {0, 1.0f, 1.0f, "4 "},
        {2, 0.5f, 0.0f, "4 "},         {2, 0.6f, 0.0f, "1 4 "},        {0, 0.99f, 0.3f, "1 4 "},
        {3, 0.95f, 0.2f, "0 1 4 "},
    };

    for (uint32_t i = 0; i < n_subjects; i++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
            tn_sample_row r = {.temperature = 0.5f,
                               .top_p = cases[c].top_p,
                               .min_p = cases[c].min_p,
                               .top_k = cases[c].top_k,
                               .repetition_penalty = 1.0f};
            float x[5];
            bool set[5];
            for (int j = 0; j < 5; j++)
                x[j] = 0.5f * logf(p[j]); /* divided by the temperature: log p */
            x[2] = x[3] = x[0];           /* the same bits */
            drawn(&subjects[i], &r, x, 5, set);
            expect_set(subjects[i].v->name, set, 5, cases[c].want);
        }
}
END_TEST

START_TEST(extreme_temperatures_stay_numbers)
{
    static const float x[4] = {1.0f, 3.0f, 2.999f, -INFINITY};
    static const struct {
        float temperature;
        const char *want;
    } cases[] = {{1e-30f, "1 "}, {1e-4f, "1 "}, {1e30f, "0 1 2 "}};

    for (uint32_t i = 0; i < n_subjects; i++)
        for (int c = 0; c < 3; c++) {
            tn_sample_row r = {
                .temperature = cases[c].temperature, .top_p = 1.0f, .repetition_penalty = 1.0f};
            bool set[4];
            drawn(&subjects[i], &r, x, 4, set);
            expect_set(subjects[i].v->name, set, 4, cases[c].want);
        }
}
END_TEST

/* The draw is the inverse of the distribution at the u that Philox gives: checked with weights that are exact. */
START_TEST(draws_invert_the_distribution)
{
    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        ask(&q, 200, 1024, 0.0f); /* 1024 equal weights: the token is floor(1024 u) */
        for (uint32_t t = 0; t < 200; t++) {
            q.row[t].temperature = 1.0f;
            q.row[t].seed = 0x123456789abcdef0u + t / 2;
            q.row[t].position = t % 2 ? UINT64_C(1) << 33 : t;
        }
        const int32_t *got = answer(&q, &subjects[i]);
        for (uint32_t t = 0; t < 200; t++) {
            uint32_t u = tn_philox_word0(q.row[t].seed, q.row[t].position) >> 8;
            ck_assert_int_eq(got[t], (int32_t)(u >> 14));
        }
    }
}
END_TEST

START_TEST(frequencies_follow_the_probabilities)
{
    const uint32_t draws = HARNESS_SLOW ? 4000 : 20000, vocab = 20;

    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        double p[20], sum = 0.0, chi2 = 0.0;
        uint32_t seen[20] = {0};
        ask(&q, draws, vocab, 0.0f);
        for (uint32_t j = 0; j < vocab; j++)
            sum += p[j] = exp(sin(j) * 2.0 / 0.7);
        for (uint32_t t = 0; t < draws; t++) {
            for (uint32_t j = 0; j < vocab; j++)
                q.x[t * vocab + j] = 2.0f * sinf((float)j);
            q.row[t].temperature = 0.7f;
            q.row[t].seed = 42;
            q.row[t].position = t;
        }
        const int32_t *got = answer(&q, &subjects[i]);
        for (uint32_t t = 0; t < draws; t++)
            seen[got[t]]++;
        for (uint32_t j = 0; j < vocab; j++) {
            double want = p[j] / sum * draws;
            chi2 += (seen[j] - want) * (seen[j] - want) / want;
        }
        ck_assert_msg(chi2 < 43.8, "%s: chi-squared %g of 19 degrees", subjects[i].v->name, chi2);
    }
}
END_TEST

/* Random rows with all steps mixed. Weights differ in the last bit between exp functions, so that once in very
 * many draws a token at an edge may differ; with these seeds none does. */
START_TEST(all_variants_choose_what_the_reference_chooses)
{
    const uint32_t rows = HARNESS_SLOW ? 40 : 400;
    struct question q;
    int32_t *want = kit_alloc(&k, rows * sizeof *want), *history = kit_alloc(&k, 300 * 4);
    int32_t *bias_ids = kit_alloc(&k, 50 * 4);
    float *bias = kit_alloc(&k, 50 * sizeof *bias);

    ask(&q, rows, VOCAB, 0.0f);
    for (int i = 0; i < 300; i++)
        history[i] = (int32_t)random_below(&k.random, VOCAB);
    for (int i = 0; i < 50; i++) {
        bias_ids[i] = (int32_t)random_below(&k.random, VOCAB);
        bias[i] = i % 7 ? random_float(&k.random, -3.0f, 3.0f) : -INFINITY;
    }
    ((tn_batch_arrays *)q.b->host)->history = history;
    ((tn_batch_arrays *)q.b->host)->bias_ids = bias_ids;
    ((tn_batch_arrays *)q.b->host)->bias_values = bias;
    for (uint32_t t = 0; t < rows; t++) {
        for (uint32_t i = 0; i < VOCAB; i++) {
            float x = random_float(&k.random, -6.0f, 6.0f);
            q.x[t * VOCAB + i] =
                t % 4 ? x : roundf(x * 2.0f) / 2.0f; /* every fourth row full of ties */
        }
        q.row[t] =
            (tn_sample_row){.temperature = t % 9 ? random_float(&k.random, 0.2f, 2.0f) : 0.0f,
                            .top_p = t % 3 ? 1.0f : random_float(&k.random, 0.05f, 1.0f),
                            .min_p = t % 5 ? 0.0f : random_float(&k.random, 0.0f, 0.5f),
                            .repetition_penalty = t % 2 ? 1.0f : 1.2f,
                            .presence_penalty = t % 6 ? 0.0f : 0.5f,
                            .frequency_penalty = t % 7 ? 0.0f : 0.3f,
                            .top_k = t % 4 == 1 ? 1 + random_below(&k.random, VOCAB) : 0,
                            .n_bias = t % 3 == 1 ? 20 : 0,
                            .first_bias = t % 30,
                            .seed = random_u64(&k.random),
                            .position = t,
                            .first_history = t % 100,
                            .prompt_len = t % 150,
                            .history_len = t % 8 ? 150 : 0};
    }
    memcpy(want, answer(&q, &subjects[0]), rows * sizeof *want);
    for (uint32_t i = 1; i < n_subjects; i++) {
        const int32_t *got = answer(&q, &subjects[i]);
        for (uint32_t t = 0; t < rows; t++)
            ck_assert_msg(got[t] == want[t], "%s: row %u gives %d, not %d", subjects[i].v->name, t,
                          got[t], want[t]);
    }
}
END_TEST

/* Vocabularies of real size, where edges lie among a few tokens, among many, and among ties; of a width that
 * lets rows be read four logits at a time, and of one that does not. */
START_TEST(large_vocabularies_are_cut_where_the_reference_cuts)
{
    static const float spread[] = {12.0f, 3.0f, 0.5f};
    const uint32_t rows = 12, vocab = (HARNESS_SLOW ? 3000 : 32003) + _i;
    struct question q;
    int32_t *want = kit_alloc(&k, rows * sizeof *want);

    ask(&q, rows, vocab, 0.0f);
    for (uint32_t t = 0; t < rows; t++) {
        for (uint32_t i = 0; i < vocab; i++) {
            float x = spread[t % 3] * random_float(&k.random, -1.0f, 1.0f);
            q.x[t * vocab + i] = t < 6 ? x : roundf(x * 8.0f) / 8.0f;
        }
        q.row[t] = (tn_sample_row){.temperature = 0.9f,
                                   .top_p = t % 4 ? 0.97f : 1.0f,
                                   .repetition_penalty = 1.0f,
                                   .top_k = t % 2   ? 0
                                            : t % 4 ? 5000
                                                    : 50,
                                   .seed = random_u64(&k.random),
                                   .position = t};
    }
    memcpy(want, answer(&q, &subjects[0]), rows * sizeof *want);
    for (uint32_t i = 1; i < n_subjects; i++) {
        const int32_t *got = answer(&q, &subjects[i]);
        for (uint32_t t = 0; t < rows; t++)
            ck_assert_msg(got[t] == want[t], "%s: row %u gives %d, not %d", subjects[i].v->name, t,
                          got[t], want[t]);
    }
}
END_TEST

/* Where several blocks share a row, what only one of them sees decides. */
START_TEST(the_largest_of_a_large_vocabulary_is_found_wherever_it_is)
{
    static const int32_t bias_ids[] = {31000};
    static const float bias[] = {9.0f};
    const uint32_t vocab = 32003 + _i;

    for (uint32_t i = 0; i < n_subjects; i++) {
        struct question q;
        ask(&q, 6, vocab, -2.0f);
        ((tn_batch_arrays *)q.b->host)->bias_ids = bias_ids;
        ((tn_batch_arrays *)q.b->host)->bias_values = bias;
        q.x[vocab - 1] = 5.0f;
        q.x[vocab + 20000] = q.x[vocab + 5] = q.x[2 * vocab - 1] = 3.0f;
        q.x[2 * vocab + 17000] = NAN;
        q.x[4 * vocab - 1] = INFINITY;
        for (uint32_t j = 0; j < vocab; j++)
            q.x[4 * vocab + j] = -INFINITY;
        q.row[5].n_bias = 1;
        q.x[5 * vocab + 100] = 6.0f;
        const int32_t *got = answer(&q, &subjects[i]);
        ck_assert_int_eq(got[0], (int32_t)vocab - 1);
        ck_assert_int_eq(got[1], 5);
        ck_assert_int_eq(got[2], TN_SAMPLE_NAN);
        ck_assert_int_eq(got[3], TN_SAMPLE_NAN);
        ck_assert_int_eq(got[4], TN_SAMPLE_NAN);
        ck_assert_int_eq(got[5], 31000);
    }
}
END_TEST

/* Rows that have little to do with each other: greedy, drawn, adjusted, with NaN. */
#define MIXED 8

struct mixed {
    uint64_t vocab;
    float *x; /* [MIXED, vocab] */
    tn_sample_row row[MIXED];
    int32_t *history, *bias_ids;
    float *bias;
};

static void mix(struct mixed *m, uint64_t vocab)
{
    const tn_sample_row plain = {.top_p = 1.0f, .repetition_penalty = 1.0f};

    *m = (struct mixed){.vocab = vocab,
                        .x = kit_alloc(&k, MIXED * vocab * sizeof(float)),
                        .history = kit_alloc(&k, 100 * sizeof(int32_t)),
                        .bias_ids = kit_alloc(&k, 100 * sizeof(int32_t)),
                        .bias = kit_alloc(&k, 100 * sizeof(float))};
    for (uint64_t i = 0; i < MIXED * vocab; i++)
        m->x[i] = random_float(&k.random, -8.0f, 8.0f);
    for (int i = 0; i < 100; i++) {
        m->history[i] = (int32_t)random_below(&k.random, (uint32_t)vocab);
        m->bias_ids[i] = (int32_t)random_below(&k.random, (uint32_t)vocab);
        m->bias[i] = random_float(&k.random, -3.0f, 12.0f);
    }
    for (uint32_t t = 0; t < MIXED; t++)
        m->row[t] = plain;
    for (uint64_t i = 0; i < vocab; i++) { /* 1: ties from one end to the other; 2: nothing else */
        m->x[vocab + i] = roundf(m->x[vocab + i]);
        m->x[2 * vocab + i] = 1.5f;
    }
    m->row[3].temperature = 0.8f;
    m->row[3].top_p = 0.9f;
    m->row[4].temperature = 1.1f;
    m->row[4].top_k = 30;
    m->row[4].n_bias = m->row[5].n_bias = 100;
    m->row[4].history_len = m->row[6].history_len = 100;
    m->row[4].frequency_penalty = m->row[6].frequency_penalty = 2.0f;
    m->x[7 * vocab + vocab / 2] = NAN;
}

/* Asks for `n` of the rows, from `first` on and round again. */
static const int32_t *answer_mixed(const struct mixed *m, const struct subject *s, uint32_t first,
                                   uint32_t n, bool logprob, struct question *q)
{
    tn_batch_arrays *a;

    ask(q, n, m->vocab, 0.0f);
    a = (tn_batch_arrays *)q->b->host;
    a->history = m->history;
    a->bias_ids = m->bias_ids;
    a->bias_values = m->bias;
    if (!logprob)
        a->logprob = NULL;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t t = (first + i) % MIXED;
        memcpy(q->x + i * m->vocab, m->x + t * m->vocab, m->vocab * sizeof *m->x);
        q->row[i] = m->row[t];
    }
    return answer(q, s);
}

/* How many rows there are decides how many blocks have a part of each, but nothing that comes out. */
START_TEST(a_row_gets_the_same_bits_alone_and_among_others)
{
    static const uint32_t counts[] = {3, 16, 17, 40};
    struct mixed m;
    struct question q;
    int32_t want[MIXED], id[MIXED];
    float logprob[MIXED];

    mix(&m, (HARNESS_SLOW ? 3000 : 32003) + (uint64_t)_i);
    memcpy(want, answer_mixed(&m, &subjects[0], 0, MIXED, true, &q), sizeof want);
    for (uint32_t i = 0; i < n_subjects; i++) {
        for (uint32_t t = 0; t < MIXED; t++) {
            id[t] = answer_mixed(&m, &subjects[i], t, 1, true, &q)[0];
            logprob[t] = q.b->host->logprob[0];
            expect(id[t] == want[t], "%s: row %u gives %d, not %d", subjects[i].v->name, t, id[t],
                   want[t]);
        }
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            const int32_t *got = answer_mixed(&m, &subjects[i], 0, counts[c], true, &q);
            for (uint32_t t = 0; t < counts[c]; t++)
                expect(got[t] == id[t % MIXED] &&
                           memcmp(&q.b->host->logprob[t], &logprob[t % MIXED], sizeof(float)) == 0,
                       "%s: row %u of %u gives %d and %.9g, alone %d and %.9g", subjects[i].v->name,
                       t, counts[c], got[t], (double)q.b->host->logprob[t], id[t % MIXED],
                       (double)logprob[t % MIXED]);
        }
    }
}
END_TEST

START_TEST(tokens_are_chosen_where_no_logprob_is_wanted)
{
    static const uint32_t counts[] = {1, MIXED, 2 * MIXED + 1};
    struct mixed m;
    struct question q;
    int32_t want[2 * MIXED + 1];

    mix(&m, (HARNESS_SLOW ? 3000 : 32003) + (uint64_t)_i);
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        memcpy(want, answer_mixed(&m, &subjects[0], 3, counts[c], true, &q), counts[c] * 4);
        for (uint32_t i = 0; i < n_subjects; i++) {
            const int32_t *got = answer_mixed(&m, &subjects[i], 3, counts[c], false, &q);
            ck_assert(memcmp(got, want, counts[c] * sizeof *want) == 0);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels_sample");
    TCase *c = tcase_create("sample");

    tcase_add_checked_fixture(c, setup, teardown);
    tcase_add_test(c, greedy_takes_the_lowest_of_equals);
    tcase_add_test(c, rows_that_are_not_numbers_are_reported);
    tcase_add_test(c, biases_and_penalties_are_applied_in_order);
    tcase_add_test(c, filters_keep_exactly_what_they_should);
    tcase_add_test(c, extreme_temperatures_stay_numbers);
    tcase_add_test(c, draws_invert_the_distribution);
    tcase_add_test(c, frequencies_follow_the_probabilities);
    tcase_add_test(c, all_variants_choose_what_the_reference_chooses);
    tcase_add_loop_test(c, large_vocabularies_are_cut_where_the_reference_cuts, 0, 2);
    tcase_add_loop_test(c, the_largest_of_a_large_vocabulary_is_found_wherever_it_is, 0, 2);
    tcase_add_loop_test(c, a_row_gets_the_same_bits_alone_and_among_others, 0, 2);
    tcase_add_loop_test(c, tokens_are_chosen_where_no_logprob_is_wanted, 0, 2);
    suite_add_tcase(s, c);
    return run_suite(s);
}
