/* SPDX-License-Identifier: Apache-2.0 */
/* Engine files whose digests are right and whose sections lie: the tensor index and the meta section. */
#include <limits.h>

#include "base/limits.h"
#include "check_util.h"
#include "engine/engine.h"
#include "engine/engine_bytes.h"
#include "engine/meta.h"
#include "engine/plan_json.h"
#include "engine/sample_plan.h"

/* A plan of three weights: embed [32, 64] bfloat16 (4096 bytes), norm [64] float32 (256), head [32, 64]. */
struct file {
    json_t *plan, *index, *meta;
    size_t weights; /* bytes of the weights section; SIZE_MAX: no such section */
};

static json_t *entry(const char *name, const char *dtype, json_t *dims, json_int_t offset,
                     json_int_t bytes)
{
    return json_pack("{s:s, s:s, s:o, s:I, s:I, s:s}", "name", name, "dtype", dtype, "dims", dims,
                     "offset", offset, "bytes", bytes, "xxh128",
                     "00112233445566778899aabbccddeeff");
}

static struct file make_file(void)
{
    static const tn_attr eps[] = {TN_ATTR_REAL("eps", 1e-5)};
    struct plan *p = sample_empty();
    struct file f = {NULL, NULL, sample_meta(), 12288};
    tn_err err = TN_ERR_INIT;
    uint32_t x = sample_rows(p, "embed", 64);

    x = sample_add(p, &(struct sample_op){.name = TN_OP_RMS_NORM,
                                          .layer = -1,
                                          .n_in = 1,
                                          .in = {x},
                                          .n_weights = 1,
                                          .weights = {sample_vector(p, "norm", 64)},
                                          .n_attrs = 1,
                                          .attrs = eps,
                                          .out = {SAMPLE_ROWS(64)}});
    sample_add(p, &(struct sample_op){
                      .name = TN_OP_LOGITS,
                      .layer = -1,
                      .n_in = 1,
                      .in = {x},
                      .n_weights = 1,
                      .weights = {sample_weight(p, "head", TN_ROLE_HEAD, TN_DT_BF16, 32, 64, 0)},
                      .out = {SAMPLE_LOGITS(32)}});
    plan_set_int(p, TN_HP_VOCAB, 32, &err);
    plan_set_int(p, TN_HP_HIDDEN, 64, &err);
    plan_set_int(p, TN_HP_LAYERS, 1, &err);
    plan_set_int(p, TN_HP_MAX_POSITIONS, 128, &err);
    ck_assert_ok(plan_to_json(p, &f.plan, &err), &err);
    plan_free(p);
    f.index =
        json_pack("[o, o, o]", entry("embed", "bfloat16", json_pack("[i, i]", 32, 64), 0, 4096),
                  entry("norm", "float32", json_pack("[i]", 64), 4096, 256),
                  entry("head", "bfloat16", json_pack("[i, i]", 32, 64), 8192, 4096));
    ck_assert_ptr_nonnull(f.index);
    return f;
}

static void free_file(struct file *f)
{
    json_decref(f->plan);
    json_decref(f->index);
    json_decref(f->meta);
}

static int32_t open_file(const struct file *f, tn_err *err)
{
    struct section_bytes s[4];
    const json_t *json[3] = {f->plan, f->index, f->meta};
    static const uint32_t kinds[3] = {ENGINE_PLAN, ENGINE_TENSORS, ENGINE_META};
    struct engine *e = NULL;
    unsigned char *file;
    uint32_t n = 0;
    size_t size;
    int32_t rc;

    *err = (tn_err)TN_ERR_INIT;
    if (f->weights != SIZE_MAX)
        s[n++] = (struct section_bytes){.kind = ENGINE_WEIGHTS, .hole = f->weights};
    for (int i = 0; i < 3; i++) {
        if (!json[i])
            continue;
        s[n].data = json_dumps(json[i], JSON_COMPACT | JSON_ENCODE_ANY);
        s[n] = (struct section_bytes){kinds[i], s[n].data, strlen(s[n].data), 0};
        n++;
    }
    file = engine_bytes(s, n, &size);
    rc = engine_open_bytes(file, size, "hostile.engine", &e, err);
    engine_close(e);
    free(file);
    for (uint32_t i = f->weights != SIZE_MAX; i < n; i++)
        free((void *)(uintptr_t)s[i].data);
    ck_assert(rc == TN_OK || strcmp(err->file, "hostile.engine") == 0);
    return rc;
}

/* The good file opens; with `key` of entry `i` replaced (NULL: removed) it is refused, naming the tensor. */
static void check_refused(size_t i, const char *key, json_t *value)
{
    struct file f = make_file();
    json_t *o = json_array_get(f.index, i);
    tn_err err;

    ck_assert_int_eq(open_file(&f, &err), TN_OK);
    if (value)
        json_object_set_new(o, key, value);
    else
        json_object_del(o, key);
    ck_assert_msg(open_file(&f, &err) == TN_E_FORMAT, "%s of entry %zu", key, i);
    ck_assert_msg(err.field[0], "the message names no tensor: %s", err.msg);
    free_file(&f);
}

START_TEST(tensor_outside_the_section_is_refused)
{
    check_refused(2, "offset", json_integer(12288));
    check_refused(2, "offset", json_integer(-4096));
    check_refused(2, "offset", json_integer(LLONG_MAX - 4095));
    check_refused(2, "offset", json_integer(LLONG_MIN));
    check_refused(2, "offset", json_real(8192.0));
    check_refused(2, "offset", NULL);
}
END_TEST

START_TEST(misaligned_tensor_is_refused)
{
    check_refused(1, "offset", json_integer(4097));
    check_refused(1, "offset", json_integer(4096 + 64));
}
END_TEST

START_TEST(tensors_that_overlap_are_refused)
{
    check_refused(1, "offset", json_integer(0));
    check_refused(2, "offset", json_integer(0));
    check_refused(2, "offset", json_integer(4096));
}
END_TEST

START_TEST(hole_between_tensors_is_refused)
{
    struct file f = make_file();
    tn_err err;

    f.weights += 4096;
    json_object_set_new(json_array_get(f.index, 2), "offset", json_integer(12288));
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "head");
    ck_assert_err_has(&err, "hole");
    free_file(&f);
}
END_TEST

START_TEST(unnamed_bytes_behind_the_tensors_are_refused)
{
    struct file f = make_file();
    tn_err err;

    f.weights += 1;
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "weights");
    f.weights -= 2;
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "head");
    free_file(&f);
}
END_TEST

START_TEST(wrong_size_dtype_or_shape_is_refused)
{
    check_refused(0, "bytes", json_integer(4095));
    check_refused(0, "bytes", json_integer(0));
    check_refused(0, "bytes", json_integer(-1));
    check_refused(0, "bytes", json_string("4096"));
    check_refused(0, "dtype", json_string("float16"));
    check_refused(0, "dtype", json_string("bogus"));
    check_refused(0, "dtype", NULL);
    check_refused(0, "dims", json_pack("[i, i]", 64, 32));
    check_refused(0, "dims", json_pack("[i]", 2048));
    check_refused(0, "dims", json_pack("[i, i, i]", 32, 64, 1));
    check_refused(0, "dims", json_pack("[i, f]", 32, 64.0));
    check_refused(0, "dims", json_pack("[i, i]", -32, -64));
    check_refused(0, "dims", json_string("32"));
    check_refused(0, "dims", NULL);
}
END_TEST

START_TEST(bad_digest_text_is_refused)
{
    check_refused(0, "xxh128", NULL);
    check_refused(0, "xxh128", json_string("00112233445566778899aabbccddee"));
    check_refused(0, "xxh128", json_string("00112233445566778899aabbccddeefg"));
    check_refused(0, "xxh128", json_integer(0));
}
END_TEST

START_TEST(duplicate_and_unknown_names_are_refused)
{
    check_refused(2, "name", json_string("embed"));
    check_refused(2, "name", json_string("lost"));
    check_refused(2, "name", json_string(""));
    check_refused(2, "name", json_stringn("head\0x", 6));
    check_refused(2, "name", json_integer(3));
    check_refused(2, "name", NULL);
}
END_TEST

START_TEST(missing_and_surplus_entries_are_refused)
{
    struct file f = make_file();
    tn_err err;

    json_array_append(f.index, json_array_get(f.index, 0));
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "tensors");
    json_array_remove(f.index, 3);
    json_array_remove(f.index, 2);
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_str_eq(err.field, "tensors");
    json_array_append_new(f.index, json_null());
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    free_file(&f);
}
END_TEST

static int32_t open_with_dummies(json_t *seed, size_t weights)
{
    struct file f = make_file();
    tn_err err;
    int32_t rc;

    for (size_t i = 0; i < 3; i++)
        json_object_set(json_array_get(f.index, i), "dummy", seed);
    json_decref(seed);
    f.weights = weights;
    rc = open_file(&f, &err);
    free_file(&f);
    return rc;
}

START_TEST(dummy_seeds_are_integers)
{
    ck_assert_int_eq(open_with_dummies(json_integer(7), SIZE_MAX), TN_OK);
    ck_assert_int_eq(open_with_dummies(json_integer(LLONG_MIN), 0), TN_OK);
    ck_assert_int_eq(open_with_dummies(json_real(7.0), SIZE_MAX), TN_E_FORMAT);
    ck_assert_int_eq(open_with_dummies(json_string("7"), SIZE_MAX), TN_E_FORMAT);
    ck_assert_int_eq(open_with_dummies(json_null(), SIZE_MAX), TN_E_FORMAT);
    ck_assert_int_eq(open_with_dummies(json_integer(7), 4096), TN_E_FORMAT);
}
END_TEST

START_TEST(missing_sections_are_named)
{
    static const char *const names[] = {"plan", "tensors", "meta"};
    tn_err err;

    for (int i = 0; i < 3; i++) {
        struct file f = make_file();
        json_t **part = i == 0 ? &f.plan : i == 1 ? &f.index : &f.meta;
        json_decref(*part);
        *part = NULL;
        ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
        ck_assert_str_eq(err.field, names[i]);
        free_file(&f);
    }
}
END_TEST

START_TEST(stored_tensors_without_their_section_are_refused)
{
    struct file f = make_file();
    tn_err err;

    f.weights = SIZE_MAX;
    ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "no weights section");
    free_file(&f);
}
END_TEST

START_TEST(sections_of_the_wrong_type_are_refused)
{
    tn_err err;

    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 5; k++) {
            struct file f = make_file();
            json_t **part = i == 0 ? &f.plan : i == 1 ? &f.index : &f.meta;
            json_t *wrong[] = {json_null(), json_integer(1), json_string("x"), json_true(),
                               i == 1 ? json_object() : json_array()};
            json_decref(*part);
            *part = json_incref(wrong[k]);
            for (int n = 0; n < 5; n++)
                json_decref(wrong[n]);
            ck_assert_int_eq(open_file(&f, &err), TN_E_FORMAT);
            free_file(&f);
        }
}
END_TEST

/* -- Meta -------------------------------------------------------------------------------------------- */

static int32_t read_meta(json_t *meta, struct engine_meta *out, tn_err *err)
{
    *err = (tn_err)TN_ERR_INIT;
    return engine_meta_read(meta, "m.engine", 32, out, err);
}

START_TEST(good_meta_is_read)
{
    json_t *meta = sample_meta();
    struct engine_meta m;
    tn_err err;

    ck_assert_ok(read_meta(meta, &m, &err), &err);
    ck_assert_int_eq(m.dtype, TN_DT_BF16);
    ck_assert_int_eq(m.max_batch_size, 4);
    ck_assert_int_eq(m.bos, 1);
    ck_assert_int_eq(m.n_eos, 1);
    ck_assert_int_eq(m.eos[0], 2);
    json_object_del(meta, "tokens");
    ck_assert_ok(read_meta(meta, &m, &err), &err);
    ck_assert_int_eq(m.bos, -1);
    ck_assert_int_eq(m.n_eos, 0);
    json_decref(meta);
}
END_TEST

/* Sets the member `key` of the object `group` (NULL: of the root) and expects a refusal that names it. */
static void check_meta(const char *group, const char *key, json_t *value)
{
    json_t *meta = sample_meta(), *o = group ? json_object_get(meta, group) : meta;
    struct engine_meta m;
    tn_err err;
    int32_t rc;

    json_object_set_new(o, key, value);
    rc = read_meta(meta, &m, &err);
    ck_assert_msg(rc != TN_OK && rc != TN_E_NOTFOUND, "%s is accepted", key);
    ck_assert_str_eq(err.file, "m.engine");
    ck_assert_msg(strstr(err.field, key) != NULL, "%s names %s", key, err.field);
    json_decref(meta);
}

START_TEST(limits_out_of_range_are_refused)
{
    static const char *const keys[] = {"max_batch_size", "max_input_len", "max_output_len",
                                       "max_num_tokens", "tp_size",       "pp_size"};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        check_meta("limits", keys[i], json_integer(0));
        check_meta("limits", keys[i], json_integer(-1));
        check_meta("limits", keys[i], json_integer(LLONG_MAX));
        check_meta("limits", keys[i], json_real(1.5));
        check_meta("limits", keys[i], json_real(1e300));
        check_meta("limits", keys[i], json_string("4"));
        check_meta("limits", keys[i], json_null());
    }
    check_meta(NULL, "limits", json_array());
}
END_TEST

START_TEST(token_ids_beyond_the_vocabulary_are_refused)
{
    json_t *many = json_array();

    for (int i = 0; i < META_MAX_EOS + 1; i++)
        json_array_append_new(many, json_integer(1));
    check_meta("tokens", "bos", json_integer(32));
    check_meta("tokens", "bos", json_integer(-1));
    check_meta("tokens", "bos", json_true());
    check_meta("tokens", "eos", json_pack("[i]", 32));
    check_meta("tokens", "eos", json_pack("[i, i]", 1, -1));
    check_meta("tokens", "eos", json_pack("[n]"));
    check_meta("tokens", "eos", many);
}
END_TEST

START_TEST(end_token_that_is_no_list_is_not_lost)
{
    check_meta("tokens", "eos", json_integer(2));
    check_meta("tokens", "eos", json_pack("{s:i}", "0", 2));
}
END_TEST

START_TEST(unknown_dtype_of_the_engine_is_refused)
{
    check_meta(NULL, "dtype", json_string("float17"));
    check_meta(NULL, "dtype", json_stringn("float32\0x", 9));
    check_meta(NULL, "dtype", json_integer(1));
    check_meta(NULL, "dtype", json_null());
}
END_TEST

int main(void)
{
    Suite *s = suite_create("engine_index");
    TCase *t = tcase_create("index"), *m = tcase_create("meta");

    tcase_add_test(t, tensor_outside_the_section_is_refused);
    tcase_add_test(t, misaligned_tensor_is_refused);
    tcase_add_test(t, tensors_that_overlap_are_refused);
    tcase_add_test(t, hole_between_tensors_is_refused);
    tcase_add_test(t, unnamed_bytes_behind_the_tensors_are_refused);
    tcase_add_test(t, wrong_size_dtype_or_shape_is_refused);
    tcase_add_test(t, bad_digest_text_is_refused);
    tcase_add_test(t, duplicate_and_unknown_names_are_refused);
    tcase_add_test(t, missing_and_surplus_entries_are_refused);
    tcase_add_test(t, dummy_seeds_are_integers);
    tcase_add_test(t, missing_sections_are_named);
    tcase_add_test(t, stored_tensors_without_their_section_are_refused);
    tcase_add_test(t, sections_of_the_wrong_type_are_refused);
    tcase_add_test(m, good_meta_is_read);
    tcase_add_test(m, limits_out_of_range_are_refused);
    tcase_add_test(m, token_ids_beyond_the_vocabulary_are_refused);
    tcase_add_test(m, end_token_that_is_no_list_is_not_lost);
    tcase_add_test(m, unknown_dtype_of_the_engine_is_refused);
    suite_add_tcase(s, t);
    suite_add_tcase(s, m);
    return run_suite(s);
}
