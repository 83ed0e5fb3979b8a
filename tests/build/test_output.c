/* SPDX-License-Identifier: Apache-2.0 */
/* The directory of a build: it appears when it is complete, and never over somebody's files. */
#include "build/output.h"

#include <sys/stat.h>

#include "base/file.h"
#include "base/mem.h"
#include "build/checkpoint_maker.h"
#include "check_util.h"

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

static const char *path_of(const char *name)
{
    static char paths[4][256];
    static int next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static size_t entries(const char *path)
{
    char **names = NULL;
    size_t n = 0;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_list(path, &names, &n, &err), &err);
    dir_list_free(names, n);
    return n;
}

/* Builds OUT with a file "model.engine" that says `text`. */
static int32_t build(const char *out, const char *text, tn_err *err)
{
    struct output o = {NULL, NULL};
    int32_t rc = output_open(out, &o, err);

    if (rc == TN_OK) {
        text_file(o.temp, "model.engine", text);
        rc = output_commit(&o, err);
    }
    output_release(&o);
    return rc;
}

static void check_content(const char *path, const char *want)
{
    char *text = NULL;
    size_t n;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(file_read(path, 100, &text, &n, &err), &err);
    ck_assert_str_eq(text, want);
    mem_free(text);
}

START_TEST(directory_appears_whole)
{
    struct stat st;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(build(path_of("a/b/engine//"), "one", &err), &err);
    check_content(path_of("a/b/engine/model.engine"), "one");
    ck_assert_uint_eq(entries(path_of("a/b")), 1);
    ck_assert_int_eq(stat(path_of("a/b/engine"), &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0755);
}
END_TEST

START_TEST(engine_is_replaced_by_the_next_build)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(build(path_of("engine"), "one", &err), &err);
    ck_assert_ok(build(path_of("engine"), "two", &err), &err);
    check_content(path_of("engine/model.engine"), "two");
    ck_assert_uint_eq(entries(dir), 1);
}
END_TEST

START_TEST(empty_directory_is_taken)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_make(path_of("engine"), &err), &err);
    ck_assert_ok(build(path_of("engine"), "one", &err), &err);
    check_content(path_of("engine/model.engine"), "one");
}
END_TEST

START_TEST(somebodys_files_are_never_replaced)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_make(path_of("thesis"), &err), &err);
    text_file(path_of("thesis"), "chapter1.tex", "years of work");
    ck_assert_int_eq(build(path_of("thesis"), "x", &err), TN_E_EXISTS);
    check_content(path_of("thesis/chapter1.tex"), "years of work");
    ck_assert_int_eq(build(path_of("thesis/chapter1.tex"), "x", &err), TN_E_EXISTS);
    check_content(path_of("thesis/chapter1.tex"), "years of work");
    ck_assert_uint_eq(entries(dir), 1);
}
END_TEST

START_TEST(abandoned_build_leaves_nothing)
{
    struct output o = {NULL, NULL};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(build(path_of("engine"), "one", &err), &err);
    ck_assert_ok(output_open(path_of("engine"), &o, &err), &err);
    text_file(o.temp, "model.engine", "half");
    output_release(&o);
    output_release(&o); /* zeroed: allowed */
    check_content(path_of("engine/model.engine"), "one");
    ck_assert_uint_eq(entries(dir), 1);
}
END_TEST

START_TEST(companions_are_copied_and_weights_are_not)
{
    static const char *const files[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "merges.txt",
                                        "chat_template.jinja",
                                        "generation_config.json",
                                        "model.safetensors",
                                        "config.json",
                                        "README.md",
                                        "run_me.py"};
    struct output o = {NULL, NULL};
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(dir_make(path_of("model/additional_chat_templates"), &err), &err);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        text_file(path_of("model"), files[i], files[i]);
    text_file(path_of("model/additional_chat_templates"), "rag.jinja", "t");
    text_file(path_of("model/additional_chat_templates"), "rag.py", "t");
    ck_assert_ok(output_open(path_of("engine"), &o, &err), &err);
    ck_assert_ok(output_copy_companions(&o, path_of("model"), &err), &err);
    ck_assert_ok(output_commit(&o, &err), &err);
    output_release(&o);
    ck_assert_uint_eq(entries(path_of("engine")), 6);
    check_content(path_of("engine/merges.txt"), "merges.txt");
    ck_assert_uint_eq(entries(path_of("engine/additional_chat_templates")), 1);
}
END_TEST

START_TEST(output_survives_memory_running_out)
{
    tn_err err = TN_ERR_INIT;
    int32_t rc = TN_E_NOMEM;

    ck_assert_ok(build(path_of("engine"), "old", &err), &err);
    for (uint64_t n = 1; rc != TN_OK; n++) {
        const char *path = path_of("engine");
        mem_fail_nth(n, false);
        rc = build(path, "new", &err);
        if (!mem_injected())
            ck_assert_ok(rc, &err);
        mem_fail_nth(0, false);
        check_content(path_of("engine/model.engine"), rc == TN_OK ? "new" : "old");
        ck_assert(rc == TN_OK || entries(dir) == 1); /* the old engine may be left behind */
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("build_output");
    TCase *t = tcase_create("output");

    tcase_add_checked_fixture(t, make_dir, remove_dir);
    tcase_add_test(t, directory_appears_whole);
    tcase_add_test(t, engine_is_replaced_by_the_next_build);
    tcase_add_test(t, empty_directory_is_taken);
    tcase_add_test(t, somebodys_files_are_never_replaced);
    tcase_add_test(t, abandoned_build_leaves_nothing);
    tcase_add_test(t, companions_are_copied_and_weights_are_not);
    tcase_add_test(t, output_survives_memory_running_out);
    suite_add_tcase(s, t);
    return run_suite(s);
}
