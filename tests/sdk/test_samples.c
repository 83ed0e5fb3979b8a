/* SPDX-License-Identifier: Apache-2.0 */
/* The sample plugins, built by sdk_install from an installed SDK: the loader takes them, and they do what they say. */
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>

#include "base/ledger.h"
#include "base/rng.h"
#include "build/emit.h"
#include "check_util.h"
#include "plugin/registry.h"

static struct ledger *ledger;
static struct registry *reg;
static const struct registry_view *view;

/* Settings of acme-loop: a rank that stays away is missed soon. */
static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    static const tn_kv kv[] = {{"timeout_ms", "200"}};

    (void)arg;
    *items = kv;
    return strcmp(plugin, "acme-loop") == 0;
}

static void set_up(void)
{
    static const char *const paths[] = {SDK_WORK "/plugins"};
    struct registry_options o = {.paths = paths, .n_paths = 1, .config = config};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(ledger_new(&ledger, &err), &err);
    o.ledger = ledger;
    ck_assert_ok(registry_open(&o, &reg, &err), &err);
    view = registry_acquire(reg);
}

static void tear_down(void)
{
    registry_release(view);
    registry_close(reg);
    ck_assert_uint_eq(ledger_total(ledger), 0);
    ledger_free(ledger);
}

START_TEST(every_sample_loads)
{
    static const char *const names[] = {"acme-int8", "acme-loop", "acme-qwen2",
                                        "acme",      "int4_g128", "formats"};
    uint32_t found = 0;

    for (uint32_t i = 0; i < registry_count(reg); i++) {
        struct registry_info info;
        registry_info(reg, i, &info);
        ck_assert_msg(info.state == REGISTRY_LOADED, "%s: %s %s", info.path, info.err->field,
                      info.err->msg);
        for (size_t j = 0; j < 6; j++)
            found += strcmp(info.name, names[j]) == 0;
    }
    ck_assert_uint_eq(registry_count(reg), 6);
    ck_assert_uint_eq(found, 6);
}
END_TEST

/* -- model ------------------------------------------------------------------------------------------------ */

static const char qwen2[] =
    "{\"vocab_size\": 96, \"hidden_size\": 48, \"num_hidden_layers\": 3, \"intermediate_size\": 80,"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 128,"
    " \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0 %s}";

static int32_t emit(const char *extra, struct emission *out, tn_err *err)
{
    struct emit_input in = {
        .plugin = "acme-qwen2", .config_path = "config.json", .dtype = TN_DT_BF16};
    char text[1024];
    json_t *json;
    int32_t rc;

    snprintf(text, sizeof text, qwen2, extra);
    json = json_loads(text, 0, NULL);
    ck_assert_ptr_nonnull(json);
    in.config = json;
    ck_assert_ok(registry_model(view, "qwen2", &in.arch, &in.instance, err), err);
    rc = emit_plan(&in, out, err);
    json_decref(json);
    return rc;
}

static uint32_t count_ops(const struct plan *p, const char *name)
{
    uint32_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++)
        n += strcmp(p->ops[i].name, name) == 0;
    return n;
}

START_TEST(the_model_sample_emits_a_sound_plan)
{
    struct emission e;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(emit("", &e, &err), &err);
    ck_assert_ok(plan_check(e.plan, &err), &err);
    ck_assert_uint_eq(count_ops(e.plan, "linear"), 21);
    ck_assert_uint_eq(count_ops(e.plan, "attention"), 3);
    ck_assert_uint_eq(count_ops(e.plan, "all_reduce"), 7);
    /* Per layer seven matrices, three biases, two norms; embedding, head, last norm, frequencies. */
    ck_assert_uint_eq(e.plan->n_weights, 3 * 12 + 4);
    ck_assert_int_eq(plan_hyper_int(e.plan, TN_HP_HEAD_DIM, 0), 12);
    for (size_t i = 0; i < e.plan->n_weights; i++)
        if (strcmp(e.plan->weights[i].name, "rope.freqs") == 0)
            ck_assert_float_eq_tol(((const float *)e.origins[i].table)[1],
                                   powf(1e6f, -2.0f / 12.0f), 1e-7f);
    emission_release(&e);

    ck_assert_ok(emit(", \"tie_word_embeddings\": true", &e, &err), &err);
    ck_assert_uint_eq(e.plan->n_weights, 3 * 12 + 3);
    emission_release(&e);
}
END_TEST

START_TEST(the_model_sample_windows_upper_layers)
{
    struct emission e;
    tn_err err = TN_ERR_INIT;
    uint32_t layer = 0;

    ck_assert_ok(emit(", \"use_sliding_window\": true, \"sliding_window\": 16, "
                      "\"max_window_layers\": 1",
                      &e, &err),
                 &err);
    for (size_t i = 0; i < e.plan->n_ops; i++)
        if (strcmp(e.plan->ops[i].name, "attention") == 0)
            ck_assert_int_eq(plan_attr(&e.plan->ops[i], "window")->i, layer++ >= 1 ? 16 : 0);
    emission_release(&e);
}
END_TEST

START_TEST(the_model_sample_refuses_what_it_does_not_implement)
{
    static const struct {
        const char *extra, *why;
    } cases[] = {
        {", \"hidden_act\": \"gelu\"", "hidden_act"},
        {", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}", "rope_scaling.type"},
        {", \"num_key_value_heads\": 3", "num_key_value_heads"},
        {", \"num_attention_heads\": 0", "num_attention_heads"},
        {", \"num_attention_heads\": 16", "num_attention_heads"},
        {", \"vocab_size\": null", "vocab_size"},
        {", \"rms_norm_eps\": \"x\"", "rms_norm_eps"},
        {", \"use_sliding_window\": true, \"max_window_layers\": 1, "
         "\"layer_types\": [\"full_attention\", \"full_attention\"]",
         "layer_types[1]"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct emission e;
        tn_err err = TN_ERR_INIT;
        ck_assert_int_ne(emit(cases[i].extra, &e, &err), TN_OK);
        ck_assert_err_has(&err, cases[i].why);
    }
}
END_TEST

/* -- quant -------------------------------------------------------------------------------------------------- */

enum { N = 7, K = 33 };

START_TEST(the_quant_sample_rounds_to_nearest)
{
    const tn_weight weight = {
        .h = TN_HDR(tn_weight), .name = "w", .dtype = TN_DT_F32, .n_dims = 2, .dims = {N, K}};
    const tn_weight *const weights[] = {&weight};
    const tn_op op = {.h = TN_HDR(tn_op), .name = "linear", .n_weights = 1, .weights = weights};
    const tn_quant_scheme *s;
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    float w[N * K], scale[N];
    int8_t q[N * K];
    void *const out[] = {q, scale};
    struct rng rng = {1};
    tn_err err = TN_ERR_INIT;
    void *instance;

    ck_assert_ok(registry_quant(view, "int8_rtn", &s, &instance, &err), &err);
    ck_assert_ok(s->plan(instance, &op, NULL, &plan, &err), &err);
    ck_assert_str_eq(plan.op, "linear.int8");
    ck_assert_uint_eq(plan.n_tensors, 2);
    ck_assert_uint_eq(plan.tensors[0].dims[1], K);
    ck_assert_uint_eq(plan.tensors[1].dtype, TN_DT_F32);
    for (int i = 0; i < N * K; i++)
        w[i] = (rng_unit(&rng) - 0.5f) * (i < K ? 1e-3f : 10.0f);
    memset(w + 2 * K, 0, K * sizeof *w); /* a row of zeros */
    for (int i = 0; i < K; i++)
        w[3 * K + i] = 1e-44f; /* a row of subnormals */
    ck_assert_ok(s->quantize(instance, &op, NULL, w, out, &err), &err);
    for (int i = 0; i < N * K; i++) {
        ck_assert_int_ge(q[i], -127);
        ck_assert_float_le(fabsf(w[i] - q[i] * scale[i / K]), 0.5001f * scale[i / K] + 1e-30f);
    }
    ck_assert_float_eq(scale[2], 0.0f);
    w[5] = NAN;
    ck_assert_int_eq(s->quantize(instance, &op, NULL, w, out, &err), TN_E_NAN);
}
END_TEST

enum { GROUPED = 96, GROUP = 32 };

/* Symmetric (0) and with zero points (1). */
START_TEST(the_int4_scheme_rounds_within_its_groups)
{
    const tn_weight weight = {
        .h = TN_HDR(tn_weight), .name = "w", .dtype = TN_DT_F32, .n_dims = 2, .dims = {N, GROUPED}};
    const tn_weight *const weights[] = {&weight};
    const tn_op op = {.h = TN_HDR(tn_op), .name = "linear", .n_weights = 1, .weights = weights};
    const tn_kv options[] = {{"group", "32"}, {"zero", _i ? "on" : "off"}};
    const tn_quant_scheme *s;
    tn_quant_plan plan = {.h = TN_HDR(tn_quant_plan)};
    float w[N * GROUPED], scale[N * GROUPED / GROUP];
    uint8_t q[N * GROUPED / 2] = {0};
    int8_t zero[N * GROUPED / GROUP] = {0};
    void *const out[] = {q, scale, zero};
    struct rng rng = {1};
    tn_err err = TN_ERR_INIT;
    uint32_t needs = 0;
    void *instance, *build;

    ck_assert_ok(registry_quant(view, "int4_g128", &s, &instance, &err), &err);
    ck_assert_ok(s->open(instance, options, 2, &build, &needs, &err), &err);
    ck_assert_ok(s->plan(build, &op, NULL, &plan, &err), &err);
    ck_assert_str_eq(plan.op, "linear.int4");
    ck_assert_uint_eq(plan.n_tensors, 2 + (uint32_t)_i);
    ck_assert_uint_eq(plan.tensors[0].dtype, TN_DT_I4);
    ck_assert_uint_eq(plan.tensors[1].dims[1], GROUPED / GROUP);
    for (int i = 0; i < N * GROUPED; i++)
        w[i] = (rng_unit(&rng) - (_i ? 0.1f : 0.5f)) * 3.0f;
    ck_assert_ok(s->quantize(build, &op, NULL, w, out, &err), &err);
    for (int i = 0; i < N * GROUPED; i++) {
        int code = q[i / 2] >> (i % 2 * 4) & 15, g = i / GROUP;
        float got = scale[g] * (float)((code > 7 ? code - 16 : code) - zero[g]);
        ck_assert_float_le(fabsf(w[i] - got), 0.5001f * scale[g]);
    }
    s->close(instance, build);
}
END_TEST

/* -- kernels ------------------------------------------------------------------------------------------------ */

static void run_variant(const char *name, float factor, const float *a, const float *b, float *y)
{
    const tn_value v = {
        .h = TN_HDR(tn_value), .kind = TN_VALUE_ROWS, .dtype = TN_DT_F32, .width = 5};
    const tn_value *const in[] = {&v, &v}, *const out[] = {&v};
    const tn_attr attrs[] = {TN_ATTR_REAL("factor", factor)};
    const tn_op op = {.h = TN_HDR(tn_op),
                      .name = name,
                      .n_in = 2,
                      .n_out = 1,
                      .n_attrs = 1,
                      .in = in,
                      .out = out,
                      .attrs = attrs};
    const tn_batch batch = {.h = TN_HDR(tn_batch), .n_rows = 3};
    const void *const from[] = {a, b};
    void *const to[] = {y};
    const tn_launch l = {.h = TN_HDR(tn_launch), .op = &op, .batch = &batch, .in = from, .out = to};
    struct registry_sets sets;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(registry_kernel_sets(view, "cpu", &sets, &err), &err);
    for (uint32_t i = 0; i < sets.items[0].set->n_variants; i++) {
        const tn_variant *variant = sets.items[0].set->variants[i];
        if (strcmp(variant->op, name) != 0)
            continue;
        ck_assert_ok(variant->can_run(sets.items[0].instance, &op, &err), &err);
        ck_assert_double_gt(variant->cost_ns(sets.items[0].instance, &op, 3), 0.0);
        ck_assert_ok(variant->launch(sets.items[0].instance, &l, &err), &err);
        return;
    }
    ck_abort_msg("the set has no %s", name);
}

START_TEST(the_kernel_sample_computes)
{
    float a[15], b[15], y[15];

    for (int i = 0; i < 15; i++) {
        a[i] = (float)(i - 7);
        b[i] = 0.5f * (float)i;
    }
    run_variant("acme.scale_add", 3.0f, a, b, y);
    for (int i = 0; i < 15; i++)
        ck_assert_float_eq(y[i], a[i] + 3.0f * b[i]);
    run_variant("acme.silu_mul", 0.0f, a, b, y);
    for (int i = 0; i < 15; i++)
        ck_assert_float_eq_tol(y[i], a[i] / (1.0f + expf(-a[i])) * b[i], 1e-6f);
}
END_TEST

/* -- comm --------------------------------------------------------------------------------------------------- */

enum { RANKS = 4, COUNT = 1000 };

struct rank {
    pthread_t thread;
    const tn_comm_backend *backend;
    void *instance;
    const uint8_t *id;
    uint32_t rank, n;
    void (*work)(struct rank *r);
    tn_comm_group *group;
    int32_t rc;
    tn_err err;
};

static void *rank_main(void *arg)
{
    struct rank *r = arg;

    static const uint32_t members[RANKS] = {0, 1, 2, 3};
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = r->id,
                        .rank = r->rank,
                        .n_ranks = r->n,
                        .members = members,
                        .timeout_ns = UINT64_C(5000000000)};

    r->rc = r->backend->join(r->instance, &how, &r->group, &r->err);
    if (r->rc != TN_OK)
        return NULL;
    r->work(r);
    r->backend->leave(r->group);
    return NULL;
}

/* Runs `work` in n of RANKS ranks; all that run must end with `want`. */
static void run_ranks(uint32_t n, uint32_t ranks, void (*work)(struct rank *r), int32_t want)
{
    struct rank r[RANKS];
    uint8_t id[TN_COMM_ID_BYTES];
    const tn_comm_backend *backend;
    tn_err err = TN_ERR_INIT;
    void *instance;

    ck_assert_ok(registry_comm(view, "loop", &backend, &instance, &err), &err);
    ck_assert_ok(backend->can_join(instance, ranks, ranks, NULL, &err), &err);
    ck_assert_ok(backend->make_id(instance, id, &err), &err);
    for (uint32_t i = 0; i < n; i++) {
        r[i] = (struct rank){.backend = backend,
                             .instance = instance,
                             .id = id,
                             .rank = i,
                             .n = ranks,
                             .work = work,
                             .err = TN_ERR_INIT};
        ck_assert_int_eq(pthread_create(&r[i].thread, NULL, rank_main, &r[i]), 0);
    }
    for (uint32_t i = 0; i < n; i++)
        pthread_join(r[i].thread, NULL);
    for (uint32_t i = 0; i < n; i++)
        ck_assert_msg(r[i].rc == want, "rank %u: %d, %s", i, (int)r[i].rc, r[i].err.msg);
}

#define DO(call)                                                                                   \
    do {                                                                                           \
        if (r->rc == TN_OK)                                                                        \
            r->rc = (call);                                                                        \
    } while (0)

#define EXPECT(cond)                                                                               \
    do {                                                                                           \
        if (r->rc == TN_OK && !(cond))                                                             \
            r->rc = tn_err_set(&r->err, TN_E_INTERNAL, "%s", #cond);                               \
    } while (0)

static void collectives(struct rank *r)
{
    const tn_comm_backend *b = r->backend;
    static const float scale[RANKS] = {1.0f, 1e-8f, -1.0f, 3.0f};
    float send[COUNT], recv[RANKS * COUNT], word = (float)r->rank;
    float sum = ((scale[0] + scale[1]) + scale[2]) + scale[3]; /* in rank order, exactly */
    tn_comm_link link;

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < COUNT; i++)
            send[i] = scale[r->rank];
        DO(b->all_reduce(r->group, send, recv, COUNT, TN_DT_F32, NULL, &r->err));
        EXPECT(recv[0] == sum && recv[COUNT - 1] == sum);
        for (int i = 0; i < COUNT; i++)
            send[i] = (float)(i + round) * (float)(r->rank + 1);
        DO(b->all_gather(r->group, send, recv, COUNT, TN_DT_F32, NULL, &r->err));
        EXPECT(recv[COUNT] == (float)round * 2 && recv[3 * COUNT + 7] == (float)(7 + round) * 4);
        DO(b->reduce_scatter(r->group, recv, send, COUNT / RANKS, TN_DT_F32, NULL, &r->err));
        EXPECT(send[1] == 4.0f * (float)(1 + round + (int)r->rank * (COUNT / RANKS)));
        memset(recv, r->rank == 2 ? 0x11 : 0, 100);
        DO(b->broadcast(r->group, recv, 100, 2, NULL, &r->err));
        EXPECT(((unsigned char *)recv)[99] == 0x11);
        DO(b->barrier(r->group, NULL, &r->err));
        if (r->rank % 2 == 0)
            DO(b->send(r->group, &word, sizeof word, r->rank + 1, NULL, &r->err));
        else
            DO(b->recv(r->group, &word, sizeof word, r->rank - 1, NULL, &r->err));
        EXPECT(word == (float)(r->rank & ~1u));
        word = (float)r->rank;
    }
    DO(b->async_error(r->group, &r->err));
    DO(b->link(r->group, r->rank, &link, &r->err));
    EXPECT(strcmp(link.kind, "self") == 0);
    if (r->rc == TN_OK &&
        b->all_reduce(r->group, send, recv, 1, TN_DT_I32, NULL, &r->err) != TN_E_UNSUPPORTED)
        r->rc = TN_E_INTERNAL;
}

START_TEST(the_comm_sample_moves_and_sums)
{
    run_ranks(RANKS, RANKS, collectives, TN_OK);
    run_ranks(RANKS, RANKS, collectives, TN_OK);
}
END_TEST

static void rank_0_stays_away(struct rank *r)
{
    if (r->rank == 0)
        r->rc = TN_E_TIMEOUT;
    DO(r->backend->barrier(r->group, NULL, &r->err));
}

static void rank_0_aborts(struct rank *r)
{
    char c = 0;

    if (r->rank == 0)
        r->backend->abort(r->group);
    else
        DO(r->backend->recv(r->group, &c, 1, 0, NULL, &r->err));
    if (r->rank == 0)
        r->rc = r->backend->async_error(r->group, &r->err);
}

static void sizes_differ(struct rank *r)
{
    char buf[8] = {0};

    DO(r->backend->broadcast(r->group, buf, 4 + r->rank % 2, 0, NULL, &r->err));
}

static void nothing(struct rank *r)
{
    (void)r;
}

START_TEST(the_comm_sample_never_hangs)
{
    const tn_comm_backend *backend;
    uint8_t id[TN_COMM_ID_BYTES] = {1};
    tn_comm_join how = {.h = TN_HDR(tn_comm_join), .id = id, .n_ranks = 2, .timeout_ns = 1000};
    tn_comm_group *g = NULL;
    tn_err err = TN_ERR_INIT;
    void *instance;

    run_ranks(RANKS, RANKS, rank_0_stays_away, TN_E_TIMEOUT);
    run_ranks(RANKS, RANKS, rank_0_aborts, TN_E_CANCELED);
    run_ranks(RANKS, RANKS, sizes_differ, TN_E_COMM);
    run_ranks(RANKS, RANKS, nothing, TN_OK);
    ck_assert_ok(registry_comm(view, "loop", &backend, &instance, &err), &err);
    ck_assert_int_eq(backend->join(instance, &how, &g, &err), TN_E_INVALID);
    ck_assert_ok(backend->make_id(instance, id, &err), &err);
    ck_assert_int_eq(backend->join(instance, &how, &g, &err), TN_E_TIMEOUT);
    ck_assert_ptr_null(g);
    ck_assert_int_eq(backend->can_join(instance, 4, 2, NULL, &err), TN_E_UNSUPPORTED);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("samples");
    TCase *t = tcase_create("samples");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, every_sample_loads);
    tcase_add_test(t, the_model_sample_emits_a_sound_plan);
    tcase_add_test(t, the_model_sample_windows_upper_layers);
    tcase_add_test(t, the_model_sample_refuses_what_it_does_not_implement);
    tcase_add_test(t, the_quant_sample_rounds_to_nearest);
    tcase_add_loop_test(t, the_int4_scheme_rounds_within_its_groups, 0, 2);
    tcase_add_test(t, the_kernel_sample_computes);
    tcase_add_test(t, the_comm_sample_moves_and_sums);
    tcase_add_test(t, the_comm_sample_never_hangs);
    suite_add_tcase(s, t);
    return run_suite(s);
}
