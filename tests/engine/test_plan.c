/* SPDX-License-Identifier: Apache-2.0 */
/* Plans as a whole: building them, their stored form, and texts that claim to be plans. */
#include "engine/plan.h"

#include <limits.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "check_util.h"
#include "engine/plan_json.h"
#include "engine/plan_text.h"
#include "engine/sample_plan.h"

static json_t *good_json(void)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    tn_err err = TN_ERR_INIT;
    json_t *root = NULL;

    ck_assert_ok(plan_to_json(p, &root, &err), &err);
    plan_free(p);
    return root;
}

static int32_t read_json(const json_t *root, tn_err *err)
{
    struct plan *p = NULL;
    int32_t rc;

    *err = (tn_err)TN_ERR_INIT;
    rc = plan_from_json(root, "p.json", &p, err);
    if (rc != TN_OK) {
        ck_assert_ptr_null(p);
        ck_assert(rc == TN_E_NOMEM || strcmp(err->file, "p.json") == 0);
    }
    plan_free(p);
    return rc;
}

/* -- Round trip -------------------------------------------------------------------------------------- */

START_TEST(stored_form_keeps_everything)
{
    for (int variant = 0; variant < 4; variant++) {
        struct sample_model m = SAMPLE_MODEL;
        struct plan *p, *back = NULL;
        tn_err err = TN_ERR_INIT;
        json_t *a = NULL, *b = NULL, *parsed = NULL;
        char *text;

        m.tied = variant & 1;
        m.bias = variant & 2;
        p = sample_model(&m);
        ck_assert_ok(plan_to_json(p, &a, &err), &err);
        text = json_dumps(a, 0);
        ck_assert_ok(json_parse(text, strlen(text), "p", &parsed, &err), &err);
        ck_assert_ok(plan_from_json(parsed, "p", &back, &err), &err);
        ck_assert_ok(plan_to_json(back, &b, &err), &err);
        ck_assert(json_equal(a, b));
        ck_assert(plan_hyper(back, "rope_theta")->f == 10000.5);
        ck_assert_str_eq(plan_hyper(back, "model_type")->s, "sample");
        ck_assert_uint_eq(back->n_ops, p->n_ops);
        ck_assert(plan_attr(&back->ops[6], "n_heads")->flags == TN_ATTR_SHARDED);
        json_decref(a);
        json_decref(b);
        json_decref(parsed);
        free(text);
        plan_free(p);
        plan_free(back);
    }
}
END_TEST

START_TEST(vendor_ops_and_odd_attributes_are_kept)
{
    static const tn_attr attrs[] = {
        TN_ATTR_INT("least", INT64_MIN),  TN_ATTR_INT("most", INT64_MAX),
        TN_ATTR_REAL("third", 1.0 / 3.0), TN_ATTR_REAL("whole", 2.0),
        TN_ATTR_REAL("tiny", 5e-324),     TN_ATTR_TEXT("text", "a \"quoted\" \xc3\xa9"),
        TN_ATTR_TEXT("empty", ""),        TN_ATTR_HEADS("units", 3)};
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m), *back = NULL;
    const struct plan_op *op;
    tn_err err = TN_ERR_INIT;
    json_t *root = NULL;

    sample_add(p, &(struct sample_op){.name = "acme.x",
                                      .layer = -1,
                                      .n_in = 1,
                                      .in = {0},
                                      .n_attrs = 8,
                                      .attrs = attrs,
                                      .out = {{TN_VALUE_ROWS, TN_DT_I4, 6, 3, 0}}});
    ck_assert_ok(plan_to_json(p, &root, &err), &err);
    ck_assert_ok(plan_from_json(root, "p", &back, &err), &err);
    op = &back->ops[back->n_ops - 1];
    ck_assert_uint_eq(op->n_attrs, 8);
    for (size_t i = 0; i < 8; i++) {
        const tn_attr *a = plan_attr(op, attrs[i].name);
        ck_assert_ptr_nonnull(a);
        ck_assert_uint_eq(a->kind, attrs[i].kind);
        ck_assert_uint_eq(a->flags, attrs[i].flags);
        ck_assert(a->kind != TN_ATTR_I64 || a->i == attrs[i].i);
        ck_assert(a->kind != TN_ATTR_F64 || a->f == attrs[i].f);
        ck_assert(a->kind != TN_ATTR_STR || strcmp(a->s, attrs[i].s) == 0);
    }
    json_decref(root);
    plan_free(p);
    plan_free(back);
}
END_TEST

/* -- Hostile texts ------------------------------------------------------------------------------------ */

/* What stands at `path` ("ops[3].in") in a good plan is replaced by the JSON text `value` (NULL: removed). The plan is
 * then refused with `code` and a message that holds `text`. */
static void check_bad(const char *path, const char *value, int32_t code, const char *text)
{
    json_t *root = good_json(), *v = NULL, *parent;
    const char *dot = strrchr(path, '.');
    char above[64] = "";
    tn_err err = TN_ERR_INIT;

    if (value)
        ck_assert_ok(json_parse(value, strlen(value), path, &v, &err), &err);
    snprintf(above, sizeof above, "%.*s", dot ? (int)(dot - path) : 0, path);
    parent = dot ? (json_t *)(uintptr_t)json_at(root, above) : root;
    ck_assert_msg(json_is_object(parent), "the sample has no %s", above);
    if (v)
        json_object_set_new(parent, dot ? dot + 1 : path, v);
    else
        json_object_del(parent, dot ? dot + 1 : path);
    ck_assert_msg(read_json(root, &err) == code, "%s = %s: %d: %s: %s", path, value ? value : "-",
                  err.code, err.field, err.msg);
    ck_assert_err_has(&err, text);
    json_decref(root);
}

START_TEST(missing_or_mistyped_parts_are_refused)
{
    static const char *const parts[] = {"format",           "hyper",
                                        "weights",          "ops",
                                        "weights[0].name",  "weights[0].role",
                                        "weights[0].dtype", "weights[0].dims",
                                        "weights[0].shard", "weights[0].units",
                                        "ops[2].op",        "ops[2].layer",
                                        "ops[2].in",        "ops[2].w",
                                        "ops[2].attrs",     "ops[2].out"};
    static const char *const wrong[] = {NULL,   "null",       "true",          "1.5",
                                        "[[]]", "{\"a\":[]}", "\"a\\u0000b\"", "-7"};

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
            const char *field = strrchr(parts[i], '.') ? strrchr(parts[i], '.') + 1 : parts[i];
            check_bad(parts[i], wrong[k], TN_E_FORMAT, strcmp(field, "ops") == 0 ? "" : "plan");
        }
}
END_TEST

START_TEST(foreign_format_numbers_are_refused)
{
    check_bad("format", "2", TN_E_VERSION, "reads 1");
    check_bad("format", "0", TN_E_FORMAT, "format");
    check_bad("format", "2147483648", TN_E_FORMAT, "format");
}
END_TEST

START_TEST(bad_weights_are_refused)
{
    check_bad("weights[3].name", "\"\"", TN_E_FORMAT, "0 bytes");
    check_bad("weights[3].name", "\"a\\nb\"", TN_E_FORMAT, "control byte");
    check_bad("weights[3].name", "\"embed\"", TN_E_EXISTS, "twice");
    check_bad("weights[3].role", "\"king\"", TN_E_FORMAT, "role");
    check_bad("weights[3].dtype", "\"act\"", TN_E_FORMAT, "dtype");
    check_bad("weights[3].dims", "[]", TN_E_FORMAT, "dims");
    check_bad("weights[3].dims", "[1, 2, 3, 4, 5]", TN_E_FORMAT, "dims");
    check_bad("weights[3].dims", "[16, 0]", TN_E_FORMAT, "range");
    check_bad("weights[3].dims", "[16, -16]", TN_E_FORMAT, "range");
    check_bad("weights[3].dims", "[4294967296, 4294967296]", TN_E_RANGE, "overflows");
    check_bad("weights[3].dims", "[9223372036854775807]", TN_E_RANGE, "overflows");
    check_bad("weights[3].dims", "[16, 16, 1]", TN_E_FORMAT, "rank");
    check_bad("weights[3].shard", "\"axis9\"", TN_E_FORMAT, "shard");
    check_bad("weights[3].shard", "\"axis2\"", TN_E_RANGE, "impossible shard");
    check_bad("weights[3].units", "5", TN_E_RANGE, "shard units");
    check_bad("weights[3].units", "4294967296", TN_E_FORMAT, "range");
}
END_TEST

START_TEST(int4_rows_end_with_a_byte)
{
    struct plan_weight w = {
        .name = "w", .role = TN_ROLE_MATRIX, .dtype = TN_DT_I4, .n_dims = 2, .dims = {4, 5}};
    struct plan *p = sample_empty();
    tn_err err = TN_ERR_INIT;
    uint32_t id;

    ck_assert_int_eq(plan_add_weight(p, &w, &id, &err), TN_E_RANGE);
    w.dims[1] = 6;
    ck_assert_ok(plan_add_weight(p, &w, &id, &err), &err);
    ck_assert_uint_eq(plan_weight_bytes(&w), 12);
    w.name = "v"; /* of a vector, no entry is a whole number of bytes from the next */
    w.n_dims = 1;
    ck_assert_int_eq(plan_add_weight(p, &w, &id, &err), TN_E_RANGE);
    ck_assert_err_has(&err, "a vector of int4");
    plan_free(p);
}
END_TEST

START_TEST(long_names_are_refused)
{
    char text[LIMIT_TENSOR_NAME + 8];

    memset(text, 'n', sizeof text);
    text[0] = text[LIMIT_TENSOR_NAME + 2] = '"';
    text[LIMIT_TENSOR_NAME + 3] = '\0';
    check_bad("weights[3].name", text, TN_E_FORMAT, "513 bytes");
    check_bad("ops[3].op", text, TN_E_FORMAT, "513 bytes");
}
END_TEST

START_TEST(bad_references_are_refused)
{
    check_bad("ops[2].in", "[2]", TN_E_RANGE, "no earlier op");
    check_bad("ops[2].in", "[4294967295]", TN_E_RANGE, "no earlier op");
    check_bad("ops[2].in", "[4294967296]", TN_E_FORMAT, "range");
    check_bad("ops[2].in", "[-1]", TN_E_FORMAT, "range");
    check_bad("ops[2].in", "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]", TN_E_FORMAT, "at most 12");
    check_bad("ops[2].w", "[9999]", TN_E_RANGE, "does not exist");
    check_bad("ops[2].op", "\"nrom\"", TN_E_FORMAT, "not a basic op");
    check_bad("ops[3].w", "[0]", TN_E_FORMAT, "rank");
}
END_TEST

START_TEST(bad_attributes_are_refused)
{
    check_bad("ops[2].attrs", "{}", TN_E_FORMAT, "lacks");
    check_bad("ops[2].attrs.eps", "1.5", TN_E_RANGE, "eps");
    check_bad("ops[2].attrs.eps", "-0.1", TN_E_RANGE, "eps");
    check_bad("ops[2].attrs.eps", "\"0.1\"", TN_E_TYPE, "eps");
    check_bad("ops[2].attrs.eps", "[0.1]", TN_E_FORMAT, "attrs");
    check_bad("ops[2].attrs.extra", "1", TN_E_FORMAT, "extra");
    check_bad("ops[2].attrs.eps*", "0.1", TN_E_FORMAT, "flags");
    check_bad("ops[6].attrs.n_heads*", "1000000000000", TN_E_RANGE, "n_heads");
    check_bad("ops[6].attrs.n_heads", "4", TN_E_EXISTS, "twice");
    check_bad("ops[6].attrs.style", "\"ha\\u0000lf\"", TN_E_FORMAT, "attrs");
}
END_TEST

START_TEST(bad_outputs_are_refused)
{
    check_bad("ops[2].out", "[]", TN_E_FORMAT, "out");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 16]]", TN_E_FORMAT, "out");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 16, 0, 0]]", TN_E_FORMAT, "out");
    check_bad("ops[2].out", "[[\"rowz\", \"act\", 16, 0]]", TN_E_RANGE, "kind");
    check_bad("ops[2].out", "[[\"rows\", \"\", 16, 0]]", TN_E_RANGE, "dtype");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 0, 0]]", TN_E_RANGE, "wide");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 16777217, 0]]", TN_E_FORMAT, "range");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 16, 5]]", TN_E_RANGE, "shard units");
    check_bad("ops[2].out", "[[\"rows\", \"act\", 8, 0]]", TN_E_FORMAT, "width");
}
END_TEST

START_TEST(layers_out_of_order_are_refused)
{
    check_bad("ops[2].layer", "1", TN_E_FORMAT, "out of order");
    check_bad("ops[2].layer", "2", TN_E_FORMAT, "beyond the last");
    check_bad("ops[2].layer", "1024", TN_E_RANGE, "1023");
    check_bad("ops[2].layer", "1025", TN_E_FORMAT, "range");
    check_bad("ops[2].layer", "-2", TN_E_FORMAT, "range");
    check_bad("ops[9].layer", "-1", TN_E_FORMAT, "out of order");
    check_bad("hyper.n_layers", "1", TN_E_FORMAT, "beyond the last");
}
END_TEST

START_TEST(bad_hyper_parameters_are_refused)
{
    check_bad("hyper.vocab_size", NULL, TN_E_FORMAT, "vocab_size");
    check_bad("hyper.vocab_size", "0", TN_E_FORMAT, "vocab_size");
    check_bad("hyper.vocab_size", "32.0", TN_E_FORMAT, "vocab_size");
    check_bad("hyper.vocab_size", "33", TN_E_FORMAT, "33");
    check_bad("hyper.hidden_size", "-1", TN_E_FORMAT, "hidden_size");
    check_bad("hyper.n_layers", "1000000000", TN_E_FORMAT, "n_layers");
    check_bad("hyper.max_positions", "9223372036854775807", TN_E_FORMAT, "max_positions");
    check_bad("hyper.x", "[]", TN_E_FORMAT, "hyper");
    check_bad("hyper.x", "\"\\u0000\"", TN_E_FORMAT, "hyper");
    check_bad("hyper.a\033b", "1", TN_E_FORMAT, "control byte");
}
END_TEST

/* Every op of the plan of `edit` is checked; the sample has its logits op third from the end. */
START_TEST(number_of_logits_ops_is_one)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    const struct plan_op *logits = &p->ops[p->n_ops - 3];
    tn_err err = TN_ERR_INIT;

    ck_assert_str_eq(logits->name, TN_OP_LOGITS);
    sample_add(p, &(struct sample_op){.name = TN_OP_LOGITS,
                                      .layer = -1,
                                      .n_in = 1,
                                      .in = {logits->in[0]},
                                      .n_weights = 1,
                                      .weights = {logits->weights[0]},
                                      .out = {SAMPLE_LOGITS(m.vocab)}});
    ck_assert_int_eq(plan_check(p, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "2 logits ops");
    p->n_ops -= 4;
    ck_assert_int_eq(plan_check(p, &err), TN_E_FORMAT);
    plan_free(p);
}
END_TEST

START_TEST(unused_weight_is_refused)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    tn_err err = TN_ERR_INIT;

    sample_vector(p, "orphan", 3);
    ck_assert_int_eq(plan_check(p, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "orphan");
    plan_free(p);
}
END_TEST

/* The status of a plan of two layers with cache appends in the layers `a` and `b`. */
static int32_t check_appends(int32_t a, int32_t b, tn_err *err)
{
    static const tn_attr attrs[] = {TN_ATTR_HEADS("n_kv_heads", 2), TN_ATTR_INT("head_dim", 8)};
    struct plan *p = sample_empty();
    uint32_t x = sample_rows(p, "e", 16);
    int32_t rc;

    for (int i = 0; i < 2; i++)
        sample_add(p, &(struct sample_op){.name = TN_OP_KV_APPEND,
                                          .layer = i ? b : a,
                                          .n_in = 2,
                                          .in = {x, x},
                                          .n_attrs = 2,
                                          .attrs = attrs,
                                          .out = {SAMPLE_KV}});
    sample_add(p, &(struct sample_op){.name = TN_OP_LOGITS,
                                      .layer = -1,
                                      .n_in = 1,
                                      .in = {x},
                                      .n_weights = 1,
                                      .out = {SAMPLE_LOGITS(32)}});
    plan_set_int(p, TN_HP_VOCAB, 32, err);
    plan_set_int(p, TN_HP_HIDDEN, 16, err);
    plan_set_int(p, TN_HP_LAYERS, 2, err);
    plan_set_int(p, TN_HP_MAX_POSITIONS, 64, err);
    *err = (tn_err)TN_ERR_INIT;
    rc = plan_check(p, err);
    plan_free(p);
    return rc;
}

START_TEST(second_cache_append_in_a_layer_is_refused)
{
    tn_err err;

    ck_assert_int_eq(check_appends(0, 1, &err), TN_OK);
    ck_assert_int_eq(check_appends(0, 0, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "exactly once");
    ck_assert_int_eq(check_appends(-1, 0, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "exactly once");
}
END_TEST

/* -- Tables and windows --------------------------------------------------------------------------------- */

START_TEST(tables_shorter_than_their_index_are_refused)
{
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    static const tn_attr offset[] = {TN_ATTR_INT("offset", 2)};
    tn_err err = TN_ERR_INIT;

    sample_add(p, &(struct sample_op){.name = TN_OP_POSITION,
                                      .layer = -1,
                                      .n_weights = 1,
                                      .weights = {sample_weight(p, "pos", TN_ROLE_EMBEDDING,
                                                                TN_DT_F32, 129, 16, 0)},
                                      .n_attrs = 0,
                                      .attrs = offset,
                                      .out = {SAMPLE_ROWS(16)}});
    ck_assert_ok(plan_check(p, &err), &err); /* 128 positions */
    p->ops[p->n_ops - 1].n_attrs = 1;
    p->ops[p->n_ops - 1].attrs = offset;
    ck_assert_int_eq(plan_check(p, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "pos");
    ck_assert_err_has(&err, "130");
    plan_free(p);
}
END_TEST

/* A cache read by two attentions: one with `first` as its window, one with `second`. */
static uint32_t window_of_two(int64_t first, int64_t second)
{
    tn_attr a[] = {TN_ATTR_HEADS("n_kv_heads", 2), TN_ATTR_INT("head_dim", 8),
                   TN_ATTR_HEADS("n_heads", 2), TN_ATTR_REAL("scale", 1.0),
                   TN_ATTR_INT("window", first)};
    struct plan *p = sample_empty();
    uint32_t x = sample_rows(p, "e", 16), kv;
    struct plan_kv layers[1];

    kv = sample_add(p, &(struct sample_op){.name = TN_OP_KV_APPEND,
                                           .n_in = 2,
                                           .in = {x, x},
                                           .n_attrs = 2,
                                           .attrs = a,
                                           .out = {SAMPLE_KV}});
    for (int i = 0; i < 2; i++) {
        a[4].i = i ? second : first;
        sample_add(p, &(struct sample_op){.name = TN_OP_ATTENTION,
                                          .n_in = 2,
                                          .in = {x, kv},
                                          .n_attrs = a[4].i ? 5 : 4,
                                          .attrs = a,
                                          .out = {SAMPLE_ROWS(16)}});
    }
    ck_assert_uint_eq(plan_kv_layers(p, layers, 1), 1);
    plan_free(p);
    return layers[0].window;
}

START_TEST(cache_serves_the_longest_window)
{
    ck_assert_uint_eq(window_of_two(64, 64), 64);
    ck_assert_uint_eq(window_of_two(64, 256), 256);
    ck_assert_uint_eq(window_of_two(64, 0), 0);
    ck_assert_uint_eq(window_of_two(0, 64), 0);
}
END_TEST

/* -- Limits and memory ------------------------------------------------------------------------------------ */

START_TEST(a_million_hyper_parameters_end_at_the_cap)
{
    json_t *root = good_json(), *hyper = json_object_get(root, "hyper");
    char name[32];
    tn_err err;

    for (int i = 0; i < 1000000; i++) {
        snprintf(name, sizeof name, "x%d", i);
        json_object_set_new(hyper, name, json_integer(i));
    }
    ck_assert_int_eq(read_json(root, &err), TN_E_LIMIT);
    json_decref(root);
}
END_TEST

START_TEST(more_ops_than_allowed_are_refused)
{
    json_t *root = good_json(), *ops = json_object_get(root, "ops");
    json_t *op = json_pack("{s:s, s:i, s:[i], s:[], s:{}, s:[[s, s, i, i]]}", "op", "acme.x",
                           "layer", -1, "in", 0, "w", "attrs", "out", "rows", "act", 16, 0);
    tn_err err;

    while (json_array_size(ops) < LIMIT_PLAN_OPS)
        json_array_append(ops, op);
    ck_assert_int_eq(read_json(root, &err), TN_OK);
    json_array_append(ops, op);
    ck_assert_int_eq(read_json(root, &err), TN_E_LIMIT);
    json_decref(op);
    json_decref(root);
}
END_TEST

START_TEST(more_weights_than_allowed_are_refused)
{
    struct plan *p = sample_empty();
    struct plan_weight w = {.role = TN_ROLE_NORM, .dtype = TN_DT_F32, .n_dims = 1, .dims = {1}};
    tn_err err = TN_ERR_INIT;
    char name[32];
    uint32_t id;

    w.name = name;
    for (int i = 0; i < LIMIT_PLAN_WEIGHTS; i++) {
        snprintf(name, sizeof name, "w%d", i);
        if (plan_add_weight(p, &w, &id, &err) != TN_OK)
            ck_abort_msg("weight %d: %s", i, err.msg);
    }
    snprintf(name, sizeof name, "one more");
    ck_assert_int_eq(plan_add_weight(p, &w, &id, &err), TN_E_LIMIT);
    plan_free(p);
}
END_TEST

START_TEST(reading_a_plan_survives_memory_running_out)
{
    json_t *root = good_json();
    int32_t rc = TN_E_NOMEM;
    tn_err err;

    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = read_json(root, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    json_decref(root);
}
END_TEST

START_TEST(printed_plan_shows_ops_and_cannot_drive_the_terminal)
{
    struct strbuf b = STRBUF_INIT;
    struct sample_model m = SAMPLE_MODEL;
    struct plan *p = sample_model(&m);
    static const tn_attr evil[] = {TN_ATTR_TEXT("x", "\033[31m")};

    sample_add(
        p,
        &(struct sample_op){
            .name = "acme.x", .layer = -1, .n_attrs = 1, .attrs = evil, .out = {SAMPLE_ROWS(1)}});
    plan_print(p, &b);
    ck_assert_ptr_nonnull(strstr(strbuf_str(&b), "layer 1\n"));
    ck_assert_ptr_nonnull(strstr(strbuf_str(&b), "= attention(v"));
    ck_assert_ptr_nonnull(strstr(strbuf_str(&b), "n_heads*=4"));
    ck_assert_ptr_null(strchr(strbuf_str(&b), '\033'));
    strbuf_release(&b);
    plan_free(p);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine_plan");
    TCase *t = tcase_create("json"), *w = tcase_create("whole"), *l = tcase_create("limits");

    tcase_add_test(t, stored_form_keeps_everything);
    tcase_add_test(t, vendor_ops_and_odd_attributes_are_kept);
    tcase_add_test(t, missing_or_mistyped_parts_are_refused);
    tcase_add_test(t, foreign_format_numbers_are_refused);
    tcase_add_test(t, bad_weights_are_refused);
    tcase_add_test(t, int4_rows_end_with_a_byte);
    tcase_add_test(t, long_names_are_refused);
    tcase_add_test(t, bad_references_are_refused);
    tcase_add_test(t, bad_attributes_are_refused);
    tcase_add_test(t, bad_outputs_are_refused);
    tcase_add_test(t, layers_out_of_order_are_refused);
    tcase_add_test(t, bad_hyper_parameters_are_refused);
    tcase_add_test(w, number_of_logits_ops_is_one);
    tcase_add_test(w, unused_weight_is_refused);
    tcase_add_test(w, second_cache_append_in_a_layer_is_refused);
    tcase_add_test(w, tables_shorter_than_their_index_are_refused);
    tcase_add_test(w, cache_serves_the_longest_window);
    tcase_add_test(l, a_million_hyper_parameters_end_at_the_cap);
    tcase_add_test(l, more_ops_than_allowed_are_refused);
    tcase_add_test(l, more_weights_than_allowed_are_refused);
    tcase_add_test(l, reading_a_plan_survives_memory_running_out);
    tcase_add_test(l, printed_plan_shows_ops_and_cannot_drive_the_terminal);
    suite_add_tcase(s, t);
    suite_add_tcase(s, w);
    suite_add_tcase(s, l);
    return run_suite(s);
}
