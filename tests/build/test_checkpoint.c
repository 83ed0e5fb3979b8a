/* SPDX-License-Identifier: Apache-2.0 */
/* Checkpoint directories: one file, shards under an index, and indexes that lie. */
#include "build/checkpoint.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "build/checkpoint_maker.h"
#include "check_util.h"

#define A "{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}"
#define B                                                                                          \
    "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"                              \
    "\"c\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}"
#define INDEX "model.safetensors.index.json"

static char dir[64];

static void make_dir(void)
{
    temp_dir(dir, sizeof dir);
}

static void remove_dir(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_remove(dir, &err), &err);
}

static void write_shards(const char *index)
{
    st_file(dir, "s1.safetensors", A, 5);
    st_file(dir, "s2.safetensors", B, 5);
    text_file(dir, INDEX, index);
}

static void check_bad(int32_t code, const char *text)
{
    struct checkpoint *c = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_msg(checkpoint_open(dir, &c, &err) == code, "%d: %s: %s", err.code, err.file,
                  err.msg);
    ck_assert_err_has(&err, text);
    ck_assert_err_has(&err, dir);
    ck_assert_ptr_null(c);
}

static struct checkpoint *open_good(void)
{
    struct checkpoint *c = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(checkpoint_open(dir, &c, &err), &err);
    return c;
}

static int count(void *arg, const struct st_tensor *t)
{
    (void)t;
    return ++*(int *)arg == 2; /* ends at the second */
}

START_TEST(shards_are_one_checkpoint)
{
    struct checkpoint *c;
    unsigned char buf[5];
    tn_err err = TN_ERR_INIT;
    int n = 0;

    write_shards("{\"metadata\":{},\"weight_map\":{\"a\":\"s1.safetensors\","
                 "\"b\":\"s2.safetensors\",\"c\":\"s2.safetensors\"}}");
    c = open_good();
    ck_assert_uint_eq(checkpoint_n_tensors(c), 3);
    ck_assert_ptr_nonnull(strstr(checkpoint_file_of(c, "c"), "s2.safetensors"));
    ck_assert_ok(checkpoint_read(c, "c", 1, buf, 2, &err), &err);
    ck_assert_uint_eq(buf[0], st_byte(3));
    ck_assert_ptr_null(checkpoint_find(c, "d"));
    ck_assert_str_eq(checkpoint_file_of(c, "d"), "");
    checkpoint_each(c, count, &n);
    ck_assert_int_eq(n, 2);
    checkpoint_close(c);
}
END_TEST

START_TEST(reads_beyond_a_tensor_are_refused)
{
    struct checkpoint *c;
    unsigned char buf[8];
    tn_err err = TN_ERR_INIT;

    st_file(dir, "model.safetensors", B, 5);
    c = open_good();
    ck_assert_int_eq(checkpoint_read(c, "b", 0, buf, 3, &err), TN_E_INTERNAL);
    ck_assert_int_eq(checkpoint_read(c, "b", 3, buf, 0, &err), TN_E_INTERNAL);
    ck_assert_int_eq(checkpoint_read(c, "b", UINT64_MAX, buf, 2, &err), TN_E_INTERNAL);
    ck_assert_int_eq(checkpoint_read(c, "d", 0, buf, 1, &err), TN_E_INTERNAL);
    ck_assert_ok(checkpoint_read(c, "b", 2, buf, 0, &err), &err);
    checkpoint_close(c);
}
END_TEST

START_TEST(file_that_shrinks_while_open_is_noticed)
{
    struct checkpoint *c;
    unsigned char buf[8];
    tn_err err = TN_ERR_INIT;
    char path[128];

    st_file(dir, "model.safetensors", A, 5);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    c = open_good();
    ck_assert_int_eq(truncate(path, 64), 0);
    ck_assert_int_eq(checkpoint_read(c, "a", 0, buf, 5, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "ends early");
    ck_assert_str_eq(err.field, "a");
    checkpoint_close(c);
}
END_TEST

START_TEST(single_files_are_found)
{
    st_file(dir, "weights-of-any-name.safetensors", A, 5);
    checkpoint_close(open_good());
    st_file(dir, "model.safetensors", B, 5); /* the usual name wins */
    struct checkpoint *c = open_good();
    ck_assert_ptr_nonnull(checkpoint_find(c, "b"));
    ck_assert_ptr_null(checkpoint_find(c, "a"));
    checkpoint_close(c);
}
END_TEST

START_TEST(directory_without_weights_is_refused)
{
    check_bad(TN_E_NOTFOUND, "no *.safetensors");
    text_file(dir, "pytorch_model.bin", "");
    check_bad(TN_E_NOTFOUND, "pickled");
    st_file(dir, "x.safetensors", A, 5);
    st_file(dir, "y.safetensors", B, 5);
    check_bad(TN_E_NOTFOUND, "2 *.safetensors");
}
END_TEST

START_TEST(absent_shard_is_named)
{
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s3.safetensors\"}}");
    check_bad(TN_E_NOTFOUND, "s3.safetensors");
}
END_TEST

START_TEST(tensor_outside_its_shard_is_named)
{
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\"}}");
    check_bad(TN_E_FORMAT, "is not in the shard s1.safetensors");
    write_shards("{\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\","
                 "\"c\":\"s2.safetensors\"}}");
    check_bad(TN_E_FORMAT, "is not in the shard");
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"z\":\"s1.safetensors\"}}");
    check_bad(TN_E_FORMAT, "is not in the shard");
}
END_TEST

START_TEST(shard_names_cannot_leave_the_directory)
{
    static const char *const names[] = {
        "../s1.safetensors", "/etc/passwd",       "x/../s1.safetensors", "", ".", "..",
        ".hidden",           "sub/s1.safetensors"};
    char index[256];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(index, sizeof index, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        write_shards(index);
        check_bad(TN_E_FORMAT, "plain file name");
    }
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\\u0000/../x\"}}");
    check_bad(TN_E_FORMAT, "plain file name");
    write_shards("{\"weight_map\":{\"a\":7}}");
    check_bad(TN_E_FORMAT, "plain file name");
}
END_TEST

START_TEST(shard_that_is_a_directory_is_refused)
{
    char path[128];

    write_shards("{\"weight_map\":{\"a\":\"sub\"}}");
    snprintf(path, sizeof path, "%s/sub", dir);
    ck_assert_ok(dir_make(path, NULL), &(tn_err)TN_ERR_INIT);
    check_bad(TN_E_IO, "sub");
}
END_TEST

START_TEST(tensor_in_two_shards_is_refused)
{
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    st_file(dir, "s1.safetensors",
            "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
            2);
    check_bad(TN_E_FORMAT, "two shards");
}
END_TEST

START_TEST(damaged_index_is_refused)
{
    static const char *const bad[] = {"",
                                      "{}",
                                      "[]",
                                      "{\"weight_map\":{}}",
                                      "{\"weight_map\":[]}",
                                      "{\"weight_map\":{\"a\":\"s1.safetensors\"}",
                                      "{\"weight_map\":{\"a\":\"s1.safetensors\","
                                      "\"a\":\"s2.safetensors\"}}"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_shards(bad[i]);
        check_bad(TN_E_FORMAT, "index.json");
    }
}
END_TEST

START_TEST(damaged_shard_is_named)
{
    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    st_file(dir, "s2.safetensors", B, 4);
    check_bad(TN_E_FORMAT, "s2.safetensors");
}
END_TEST

START_TEST(opening_survives_memory_running_out)
{
    struct checkpoint *c = NULL;
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;

    write_shards("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    for (uint64_t n = 1; rc != TN_OK; n++) {
        mem_fail_nth(n, false);
        rc = checkpoint_open(dir, &c, &err);
        ck_assert_int_eq(rc, mem_injected() ? TN_E_NOMEM : TN_OK);
    }
    mem_fail_nth(0, false);
    checkpoint_close(c);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_checkpoint");
    TCase *t = tcase_create("checkpoint");

    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_test(t, shards_are_one_checkpoint);
    tcase_add_test(t, reads_beyond_a_tensor_are_refused);
    tcase_add_test(t, file_that_shrinks_while_open_is_noticed);
    tcase_add_test(t, single_files_are_found);
    tcase_add_test(t, directory_without_weights_is_refused);
    tcase_add_test(t, absent_shard_is_named);
    tcase_add_test(t, tensor_outside_its_shard_is_named);
    tcase_add_test(t, shard_names_cannot_leave_the_directory);
    tcase_add_test(t, shard_that_is_a_directory_is_refused);
    tcase_add_test(t, tensor_in_two_shards_is_refused);
    tcase_add_test(t, damaged_index_is_refused);
    tcase_add_test(t, damaged_shard_is_named);
    tcase_add_test(t, opening_survives_memory_running_out);
    suite_add_tcase(s, t);
    return run_suite(s);
}
