/* SPDX-License-Identifier: Apache-2.0 */
/* Measured times: what they are read back as, whose they are, and that files which are damaged or of another machine harm
 * nothing. */
#include "base/file.h"
#include "base/mem.h"
#include "check_util.h"
#include "exec/tuning.h"

static char dir[64], path[128];
static tn_value x = {.h = TN_HDR(tn_value), .kind = TN_VALUE_ROWS, .dtype = TN_DT_BF16, .width = 8};
static const tn_value *const values[] = {&x};
static const tn_variant fast = {.h = TN_HDR(tn_variant), .name = "silu.fast", .op = "silu"};
static const tn_variant slow = {.h = TN_HDR(tn_variant), .name = "silu.slow", .op = "silu"};
static tn_op op = {
    .h = TN_HDR(tn_op), .name = "silu", .n_in = 1, .n_out = 1, .in = values, .out = values};

static void setup(void)
{
    temp_dir(dir, sizeof dir);
    snprintf(path, sizeof path, "%s/" TUNING_FILE, dir);
    x.width = 8;
}

static void teardown(void)
{
    dir_remove(dir, NULL);
}

static struct tuning *make(const char *key)
{
    tn_err err = TN_ERR_INIT;
    struct tuning *t = NULL;

    ck_assert_ok(tuning_new(key, &t, &err), &err);
    return t;
}

static void set(struct tuning *t, const tn_variant *v, uint32_t rows, double ns)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(tuning_set(t, "acme", v, &op, rows, ns, &err), &err);
}

static double get(const struct tuning *t, const tn_variant *v, uint32_t rows)
{
    return tuning_get(t, "acme", v, &op, rows);
}

START_TEST(times_between_are_interpolated_and_beyond_in_proportion)
{
    struct tuning *t = make("a");

    set(t, &fast, 64, 640);
    set(t, &fast, 16, 100);
    set(t, &fast, 16, 160); /* the later one counts */
    ck_assert(get(t, &fast, 1) == 160 && get(t, &fast, 16) == 160);
    ck_assert(get(t, &fast, 40) == 400);
    ck_assert(get(t, &fast, 128) == 1280);
    ck_assert_uint_eq(tuning_count(t), 2);
    tuning_free(t);
}
END_TEST

START_TEST(a_time_belongs_to_one_variant_and_one_shape)
{
    static const tn_attr attrs[] = {TN_ATTR_INT("top_k", 2)};
    struct tuning *t = make("a");

    set(t, &fast, 1, 10);
    ck_assert(get(t, &slow, 1) < 0);
    ck_assert(tuning_get(t, "other", &fast, &op, 1) < 0);
    ck_assert(tuning_get(NULL, "acme", &fast, &op, 1) < 0);
    x.width = 16;
    ck_assert(get(t, &fast, 1) < 0);
    x.width = 8;
    op.attrs = attrs;
    op.n_attrs = 1;
    ck_assert(get(t, &fast, 1) < 0);
    op.n_attrs = 0;
    ck_assert(get(t, &fast, 1) == 10);
    tuning_free(t);
}
END_TEST

START_TEST(a_file_gives_back_what_was_measured_to_the_same_machine_only)
{
    struct tuning *t = make("GPU \"X\"; 1"), *same = make("GPU \"X\"; 1"),
                  *other = make("GPU Y; 1");
    tn_err err = TN_ERR_INIT;

    set(t, &fast, 1, 12.5);
    set(t, &fast, 8, 20);
    set(t, &slow, 1, 40);
    ck_assert_ok(tuning_load(same, path, &err), &err); /* no file: nothing, and no error */
    ck_assert_uint_eq(tuning_count(same), 0);
    ck_assert_ok(tuning_save(t, path, &err), &err);
    ck_assert_ok(tuning_load(same, path, &err), &err);
    ck_assert_uint_eq(tuning_count(same), 3);
    ck_assert(get(same, &fast, 1) == 12.5 && get(same, &slow, 1) == 40);
    ck_assert_ok(tuning_load(other, path, &err), &err);
    ck_assert_uint_eq(tuning_count(other), 0);
    tuning_free(t);
    tuning_free(same);
    tuning_free(other);
}
END_TEST

START_TEST(damaged_files_add_nothing)
{
    static const char *const texts[] = {
        "",
        "[]",
        "{}",
        "{\"version\": 2, \"key\": \"a\", \"times\": {}}",
        "{\"version\": 1, \"times\": {}}",
        "{\"version\": 1, \"key\": \"a\", \"times\": []}",
        "{\"version\": 1, \"key\": \"a\", \"times\": {\"good\": [[1, 5]], \"bad\": [[0, 5]]}}",
        "{\"version\": 1, \"key\": \"a\", \"times\": {\"bad\": [[1, -5]]}}",
        "{\"version\": 1, \"key\": \"a\", \"times\": {\"bad\": [[1, 1e300]]}}",
        "{\"version\": 1, \"key\": \"a\", \"times\": {\"bad\": [7]}}",
        "{\"version\": 1, \"key\": \"a\", \"times\": {\"bad\": [[1, 5]"};
    struct tuning *t = make("a");

    set(t, &fast, 1, 10);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tn_err err = TN_ERR_INIT;
        write_file(path, texts[i], strlen(texts[i]));
        ck_assert_msg(tuning_load(t, path, &err) != TN_OK, "text %zu was taken", i);
        ck_assert_err_has(&err, TUNING_FILE);
        ck_assert_uint_eq(tuning_count(t), 1);
    }
    tuning_free(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("exec_tuning");
    TCase *t = tcase_create("tuning");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, times_between_are_interpolated_and_beyond_in_proportion);
    tcase_add_test(t, a_time_belongs_to_one_variant_and_one_shape);
    tcase_add_test(t, a_file_gives_back_what_was_measured_to_the_same_machine_only);
    tcase_add_test(t, damaged_files_add_nothing);
    suite_add_tcase(s, t);
    return run_suite(s);
}
