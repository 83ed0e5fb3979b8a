/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of core/conf: what a mistaken or hostile configuration could break. */
#include <locale.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "check_util.h"
#include "conf/conf.h"

/* Parses a text that must be good. */
static struct conf *good(const char *text)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct strbuf b = STRBUF_INIT;
    struct conf *c = NULL;
    int32_t rc = conf_parse(text, strlen(text), "t.conf", &c, &errors);

    conf_errors_print(&errors, &b);
    ck_assert_msg(rc == TN_OK, "%s", strbuf_str(&b));
    strbuf_release(&b);
    conf_errors_release(&errors);
    return c;
}

/* Parses a text that must be refused; all messages go to `out`. */
static uint32_t bad_bytes(const char *text, size_t len, char *out, size_t size)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct strbuf b = STRBUF_INIT;
    struct conf *c = (struct conf *)&errors; /* must stay untouched */
    uint32_t n;

    ck_assert_int_eq(conf_parse(text, len, "t.conf", &c, &errors), TN_E_CONFIG);
    ck_assert_ptr_eq(c, &errors);
    conf_errors_print(&errors, &b);
    snprintf(out, size, "%s", strbuf_str(&b));
    n = errors.count + errors.more;
    strbuf_release(&b);
    conf_errors_release(&errors);
    return n;
}

static void refused(const char *text, const char *why)
{
    char out[4096];

    bad_bytes(text, strlen(text), out, sizeof out);
    ck_assert_msg(strstr(out, why) != NULL, "'%s' is not in: %s", why, out);
}

/* -- Row 63 and 67: what must not reach libconfig ------------------------------------------------- */

START_TEST(include_is_refused)
{
    refused("@include \".\"\n", "t.conf:1: @include is not supported");
    refused("kv : {\n  @include \"/etc/passwd\"\n};\n", "t.conf:2: kv: @include");
    conf_free(good("# @include \".\"\nlog : { level = \"info\"; };"));
}
END_TEST

START_TEST(nesting_is_capped)
{
    char deep[20000], out[4096];

    memset(deep, 0, sizeof deep);
    for (int i = 0; i < 3000; i++)
        memcpy(deep + 4 * i, "a={ ", 4);
    bad_bytes(deep, strlen(deep), out, sizeof out);
    ck_assert_ptr_nonnull(strstr(out, "nested deeper than 64"));
    memset(deep, '(', 10000);
    memcpy(deep, "a=", 2);
    bad_bytes(deep, strlen(deep), out, sizeof out);
    ck_assert_ptr_nonnull(strstr(out, "nested deeper than 64"));
}
END_TEST

START_TEST(bytes_that_are_no_text_are_refused)
{
    char out[4096];

    bad_bytes("log : { };\n\xff", 12, out, sizeof out);
    ck_assert_ptr_nonnull(strstr(out, "t.conf:2: byte 0xff at offset 11 is not UTF-8"));
    bad_bytes("log\0: { };", 10, out, sizeof out);
    ck_assert_ptr_nonnull(strstr(out, "offset 3 is not text"));
    refused("log : { level = \"in\nfo\"; };", "does not end on its line");
    refused("log : { level = \"in\\x00fo\"; };", "unknown escape");
    refused("log : { level = \"in\\qfo\"; };", "unknown escape");
    refused("device : { kind = \"\\xff\"; };", "must be UTF-8");
    refused("log : { level = 'info'; };", "has no meaning here");
    conf_free(good("\xef\xbb\xbflog : { level = \"info\"; };\r\n"));
}
END_TEST

START_TEST(files_that_are_not_files_are_refused)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    char dir[64], path[128];
    struct conf *c;
    tn_err err = TN_ERR_INIT;
    char *big = mem_zalloc(LIMIT_CONF_BYTES + 1);

    temp_dir(dir, sizeof dir);
    ck_assert_int_eq(conf_load(dir, &c, &errors), TN_E_CONFIG);
    snprintf(path, sizeof path, "%s/absent", dir);
    ck_assert_int_eq(conf_load(path, &c, &errors), TN_E_CONFIG);
    snprintf(path, sizeof path, "%s/fifo", dir);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(conf_load(path, &c, &errors), TN_E_CONFIG);
    memset(big, '\n', LIMIT_CONF_BYTES + 1);
    snprintf(path, sizeof path, "%s/big", dir);
    write_file(path, big, LIMIT_CONF_BYTES + 1);
    ck_assert_int_eq(conf_load(path, &c, &errors), TN_E_CONFIG);
    ck_assert_uint_eq(errors.count, 4);
    for (uint32_t i = 0; i < errors.count; i++)
        ck_assert_int_eq(errors.items[i].code, TN_E_CONFIG);
    write_file(path, big, 100000);
    ck_assert_int_eq(conf_load(path, &c, &errors), TN_OK);
    conf_free(c);
    conf_errors_release(&errors);
    mem_free(big);
    ck_assert_ok(dir_remove(dir, &err), &err);
}
END_TEST

/* -- Row 64 and 65: numbers and loose grammar ------------------------------------------------------- */

START_TEST(integers_do_not_wrap)
{
    struct conf *c = good("kv : { max_bytes = 4294967297; };");

    ck_assert_int_eq(conf_int(c, CONF_KV_MAX_BYTES), INT64_C(4294967297));
    conf_free(c);
    c = good("kv : { max_bytes = 0x100000001; };");
    ck_assert_int_eq(conf_int(c, CONF_KV_MAX_BYTES), INT64_C(4294967297));
    conf_free(c);
    c = good("kv : { max_bytes = 4294967297L; };");
    ck_assert_int_eq(conf_int(c, CONF_KV_MAX_BYTES), INT64_C(4294967297));
    conf_free(c);
    refused("kv : { max_bytes = 99999999999999999999; };", "does not fit into 64 bits");
    refused("kv : { max_bytes = 0xfffffffffffffffff; };", "does not fit into 64 bits");
    refused("kv : { block_tokens = 4294967312; };", "is 4294967312; must be a power of two");
    refused("kv : { block_tokens = 2147483648; };", "is 2147483648; must be");
    refused("kv : { block_tokens = -16; };", "is -16; must be");
    refused("kv : { block_tokens = 24; };", "must be a power of two from 1 to 256");
    refused("kv : { block_tokens = 16MiB; };", "16MiB is not a number");
    refused("kv : { block_tokens = 1_6; };", "1_6 is not a number");
}
END_TEST

START_TEST(reals_are_finite_and_within_range)
{
    struct conf *c = good("kv : { free_mem_fraction = 1; };");

    ck_assert_double_eq(conf_real(c, CONF_KV_FRACTION), 1.0);
    conf_free(c);
    c = good("kv : { free_mem_fraction = 5e-1; };");
    ck_assert_double_eq(conf_real(c, CONF_KV_FRACTION), 0.5);
    conf_free(c);
    refused("kv : { free_mem_fraction = 1e999; };", "1e999 is not a number, or too large");
    refused("kv : { free_mem_fraction = -1e999; };", "too large");
    refused("kv : { free_mem_fraction = .; };", "is not a number");
    refused("kv : { free_mem_fraction = 0.0; };", "is 0; must be a number from 0.01 to 1");
    refused("kv : { free_mem_fraction = 1.5e; };", "is not a number");
}
END_TEST

START_TEST(a_number_at_the_end_of_the_file_is_not_read_past)
{
    char out[256], *text = mem_alloc(6); /* exact size, so that ASan sees an overread by one */

    memcpy(text, "a = 1.", 6);
    bad_bytes(text, 6, out, sizeof out);
    memcpy(text, "a = 1e", 6);
    bad_bytes(text, 6, out, sizeof out);
    mem_free(text);
}
END_TEST

START_TEST(wrong_types_are_named)
{
    refused("kv : { block_tokens = 16.0; };", "is a real number; must be a whole number");
    refused("kv : { block_tokens = \"16\"; };", "is a text; must be a whole number");
    refused("kv : { prefix_reuse = 1; };", "is a whole number; must be true or false");
    refused("kv : { dtype = auto; };", "put texts in quotation marks");
    refused("kv : { dtype = 8; };", "is a whole number; must be a text");
    refused("kv = 3;", "kv: is a whole number; must be a group");
    refused("plugins : { path = \"/opt\"; };", "must be an array of texts");
    refused("plugins : { path = [1, 2]; };", "must be an array of texts");
    refused("kernels : { pins = [\"a\"]; };", "must be a list of groups");
}
END_TEST

START_TEST(loose_grammar_is_refused)
{
    refused("log : { level = \"info\" };\nkv : { block_tokens = 16 dtype = \"auto\"; };",
            "t.conf:2: kv.block_tokens: is not ended before the next thing begins; try: end it");
    refused("plugins : { path = [\"/a\" \"/b\"]; };", "separate entries by ','");
    refused("plugins : { path = [\"/a\",]; };", "a value must stand here");
    refused("plugins : { path = [\"/a\"; \"/b\"]; };", "separate entries by ','");
    refused("kv : { block_tokens = ; };", "a value must stand here");
    refused("kv : { block_tokens; };", "has no value");
    refused("kv : { block_tokens = 16; ", "the '}' that should close this is missing");
    refused("kv : { block_tokens = 16; );", "where '}' should close");
    refused("}", "nothing is open");
    refused(";", "follows no setting");
    refused("log : { level = \"info", "never ends");
    refused("/* log", "never ends");
    refused("kv : { block_tokens = 16", "should close");
    refused("a", "has no value");
    refused("a =", "has no value");
    refused("plugin : { x : { v = [1, 2.5]; }; };", "values of one type only");
    refused("plugin : { x : { v = [[1]]; }; };", "plain values only");
    conf_free(good(""));
    conf_free(good("# only a comment, and no newline"));
    conf_free(good("log : { level = \"in\" /* two */ \"fo\" } kv : { }"));
}
END_TEST

START_TEST(numbers_do_not_depend_on_the_locale)
{
    struct conf *c;

    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8"))
        setlocale(LC_NUMERIC, "C");
    c = good("kv : { free_mem_fraction = 0.25; };");
    ck_assert_double_eq(conf_real(c, CONF_KV_FRACTION), 0.25);
    conf_free(c);
}
END_TEST

START_TEST(the_callers_locale_survives)
{
    locale_t mine = newlocale(LC_ALL_MASK, "C", (locale_t)0);

    uselocale(mine);
    conf_free(good("kv : { free_mem_fraction = 0.25; };"));
    ck_assert(uselocale((locale_t)0) == mine);
    uselocale(LC_GLOBAL_LOCALE);
    freelocale(mine);
}
END_TEST

/* -- Row 66: names ---------------------------------------------------------------------------------- */

START_TEST(unknown_names_come_with_the_nearest)
{
    refused("kv : {\n\n  blok_tokens = 16; };", "t.conf:3: kv.blok_tokens: is not a setting; try: "
                                                "kv.block_tokens");
    refused("kv : { max_batch_size = 8; };", "try: scheduler.max_batch_size");
    refused("block_tokens = 8;", "try: kv.block_tokens");
    refused("plugin_s : { };", "plugin_s: is not a setting");
    refused("log : { level = \"wran\"; };",
            "not one of its values: error|warn|info|debug; try: warn");
    refused("kernels : { pins = ( { opp = \"linear\"; variant = \"a/b\"; op = \"x\"; } ); };",
            "a pin has no \"opp\"");
}
END_TEST

START_TEST(duplicates_are_refused_with_both_lines)
{
    refused("kv : { block_tokens = 16;\n block_tokens = 32; };",
            "t.conf:2: kv.block_tokens: is set twice, first in line 1");
    refused("kv : { };\n\nkv : { };", "t.conf:3: kv: is set twice, first in line 1");
    refused("plugin : { x : { a = 1; a = 2; }; };", "plugin.x.a: is set twice");
    refused("plugins : { disable = [\"a\", \"b\", \"a\"]; };", "names \"a\" twice");
    refused("kernels : { pins = ({ op = \"l\"; variant = \"a/b\"; }, { op = \"l\"; variant = "
            "\"a/c\"; }); };",
            "pinned twice");
}
END_TEST

START_TEST(texts_follow_their_rules)
{
    refused("plugins : { path = [\"plugins\"]; };", "\"plugins\" must be an absolute path");
    refused("plugins : { digests = [\"abc\"]; };", "must be a SHA-256");
    refused("plugins : { disable = [\"a b\"]; };", "must be 1 to 31 characters");
    refused("plugins : { allowed_libraries = [\"/lib/x.so\"]; };", "file name without a path");
    refused("kernels : { pins = ( { op = \"linear\"; variant = \"x\"; } ); };",
            "of the form SET/NAME");
    refused("kernels : { pins = ( { variant = \"a/x\"; } ); };", "needs an op");
}
END_TEST

START_TEST(all_errors_are_reported_at_once)
{
    char out[8192];
    const char *text = "kv : { block_tokens = 3; dtype = \"f\"; max_bytes = 99999999999999999999;\n"
                       "       max_bytes = 1; nope = 1; };\n"
                       "log : { level = 4; };\n"
                       "scheduler : { max_queue = 0; };\n"
                       "bad : { };\n";

    ck_assert_uint_eq(bad_bytes(text, strlen(text), out, sizeof out), 8);
}
END_TEST

START_TEST(a_flood_of_errors_is_counted_not_kept)
{
    struct strbuf b = STRBUF_INIT;
    char out[65536];

    for (int i = 0; i < 200; i++)
        strbuf_printf(&b, "x%d = 1;\n", i);
    ck_assert_uint_eq(bad_bytes(b.data, b.len, out, sizeof out), 200);
    ck_assert_ptr_nonnull(strstr(out, "and 150 more\n"));
    strbuf_release(&b);
}
END_TEST

/* -- Row 68: contradictions --------------------------------------------------------------------------- */

static void clashes(const char *text, uint32_t count, const char *why)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct strbuf b = STRBUF_INIT;
    struct conf *c = good(text);

    ck_assert_int_eq(conf_check(c, &errors), TN_E_CONFIG);
    conf_errors_print(&errors, &b);
    ck_assert_msg(strstr(strbuf_str(&b), why) != NULL, "'%s' is not in: %s", why, strbuf_str(&b));
    ck_assert_uint_eq(errors.count, count);
    strbuf_release(&b);
    conf_errors_release(&errors);
    conf_free(c);
}

START_TEST(contradictions_are_found_across_groups)
{
    clashes("scheduler : { max_batch_size = 64; max_num_tokens = 32; };", 1,
            "t.conf:1: scheduler.max_batch_size: is 64, more than scheduler.max_num_tokens");
    clashes("scheduler : { chunked_prefill = false; max_seq_len = 8192; };", 1,
            "must fit into one step");
    clashes("scheduler : { max_seq_len = 100; };\nlimits : { max_input_len = 100; max_output_len = "
            "101; };",
            2, "t.conf:2: limits.max_input_len: is 100, which leaves no room");
    clashes("limits : { default_output_len = 9; max_output_len = 8; };", 1, "more than");
    clashes("limits : { queue_timeout_ms = 9; request_timeout_ms = 8; };", 1, "more than");
    clashes("plugins : { allow = \"enforce\"; };", 1, "plugins.digests is empty");
    clashes("plugins : { disable = [\"cpu\"]; }; kernels : { sets = [\"cpu\"]; };", 1,
            "leaves out");
    clashes("kernels : { sets = [\"cpu\"]; pins = ({ op = \"l\"; variant = \"x/y\"; }); };", 1,
            "kernels.sets leaves out");
}
END_TEST

START_TEST(a_flag_can_mend_a_contradiction)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *c = good("scheduler : { max_batch_size = 64; max_num_tokens = 32; };");
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(conf_override(c, "scheduler.max_num_tokens", "64", &err), &err);
    ck_assert_int_eq(conf_check(c, &errors), TN_OK);
    conf_free(c);
}
END_TEST

/* -- Values, flags, plugins' groups -------------------------------------------------------------------- */

START_TEST(defaults_pass_their_own_checks)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *c;

    ck_assert_int_eq(conf_load(NULL, &c, &errors), TN_OK);
    ck_assert_int_eq(conf_check(c, &errors), TN_OK);
    for (int i = 0; i < CONF_KEYS; i++) {
        const struct conf_row *row = conf_row((enum conf_key)i);
        struct strbuf b = STRBUF_INIT;
        enum conf_key key;
        conf_print_value(c, (enum conf_key)i, &b);
        ck_assert_str_eq(strbuf_str(&b), row->value);
        ck_assert(conf_find(row->path, &key) && key == (enum conf_key)i);
        ck_assert_int_eq(conf_origin(c, key, NULL), CONF_FROM_DEFAULT);
        ck_assert(strchr(row->path, '.') && strchr(row->path, '.') == strrchr(row->path, '.'));
        ck_assert_uint_gt(strlen(row->help), 10);
        strbuf_release(&b);
    }
    conf_free(c);
}
END_TEST

START_TEST(the_shipped_file_says_what_the_table_says)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct strbuf b = STRBUF_INIT;
    struct conf *c;
    int32_t rc = conf_load(SOURCE_DIR "/conf/tenon.conf", &c, &errors);

    conf_errors_print(&errors, &b);
    ck_assert_msg(rc == TN_OK, "%s", strbuf_str(&b));
    for (int i = 0; i < CONF_KEYS; i++) {
        const struct conf_row *row = conf_row((enum conf_key)i);
        strbuf_reset(&b);
        conf_print_value(c, (enum conf_key)i, &b);
        ck_assert_str_eq(strbuf_str(&b), row->value);
        ck_assert_msg(conf_origin(c, (enum conf_key)i, NULL) == CONF_FROM_FILE,
                      "%s is not in conf/tenon.conf", row->path);
    }
    strbuf_release(&b);
    conf_free(c);
}
END_TEST

START_TEST(every_type_is_read_from_a_file)
{
    struct conf *c =
        good("plugins : { path = [\"/a\", \"/b\"]; };\n"
             "kernels : { fusion = FALSE; pins = (\n"
             "  { op = \"linear\"; device = \"cpu:0\"; variant = \"reference/linear.f32\"; },\n"
             "  { op = \"rope\"; variant = \"cpu/rope\"; } ); };\n"
             "scheduler : { policy = \"max_utilization\"; };\n");
    const char *const *list;
    const struct conf_pin *pins;
    uint32_t line;

    ck_assert_uint_eq(conf_list(c, CONF_PLUGINS_PATH, &list), 2);
    ck_assert_str_eq(list[1], "/b");
    ck_assert(!conf_bool(c, CONF_KERNELS_FUSION));
    ck_assert_uint_eq(conf_pins(c, &pins), 2);
    ck_assert_str_eq(pins[0].op, "linear");
    ck_assert_str_eq(pins[0].device, "cpu:0");
    ck_assert_str_eq(pins[0].variant, "reference/linear.f32");
    ck_assert_str_eq(pins[1].device, "");
    ck_assert_uint_eq(conf_choice(c, CONF_SCHED_POLICY), 1);
    ck_assert_str_eq(conf_text(c, CONF_SCHED_POLICY), "max_utilization");
    ck_assert_int_eq(conf_origin(c, CONF_SCHED_POLICY, &line), CONF_FROM_FILE);
    ck_assert_uint_eq(line, 5);
    conf_free(c);
}
END_TEST

START_TEST(flags_pass_the_same_checks)
{
    struct conf *c = good("kv : { block_tokens = 32; };");
    const char *const *list;
    const struct conf_pin *pins;
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(conf_override(c, "kv.block_tokens", "24", &err), TN_E_CONFIG);
    ck_assert_str_eq(err.field, "kv.block_tokens");
    ck_assert_int_eq(conf_override(c, "kv.block_tokens", "16x", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.block_tokens", "", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.block_tokens", " 16", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.block_tokens", "99999999999999999999", &err),
                     TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.blocktokens", "16", &err), TN_E_CONFIG);
    ck_assert_str_eq(err.remedy, "kv.block_tokens");
    ck_assert_int_eq(conf_override(c, "kv.free_mem_fraction", "nan", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.free_mem_fraction", "0x1p-1", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kv.prefix_reuse", "yes", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "kernels.pins", "linear", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_int(c, CONF_KV_BLOCK_TOKENS), 32);
    err = (tn_err)TN_ERR_INIT;
    ck_assert_ok(conf_override(c, "kv.block_tokens", "64", &err), &err);
    ck_assert_ok(conf_override(c, "kernels.sets", "cpu,reference", &err), &err);
    ck_assert_ok(conf_override(c, "kernels.pins", "linear@cpu:0=cpu/l.1,rope=cpu/r", &err), &err);
    ck_assert_int_eq(conf_int(c, CONF_KV_BLOCK_TOKENS), 64);
    ck_assert_uint_eq(conf_list(c, CONF_KERNELS_SETS, &list), 2);
    ck_assert_str_eq(list[1], "reference");
    ck_assert_uint_eq(conf_pins(c, &pins), 2);
    ck_assert_str_eq(pins[0].device, "cpu:0");
    ck_assert_str_eq(pins[1].variant, "cpu/r");
    ck_assert_ok(conf_override(c, "kernels.sets", "", &err), &err);
    ck_assert_uint_eq(conf_list(c, CONF_KERNELS_SETS, &list), 0);
    conf_free(c);
}
END_TEST

START_TEST(a_plugins_group_is_handed_on_as_text)
{
    struct conf *c = good("plugin : { cpu : { threads = 2; share = 0.1; pin = true; name = \"x\";\n"
                          "  cpus = [0, 1, 2]; empty = []; };\n"
                          "  my_plugin-2 : { }; };");
    tn_err err = TN_ERR_INIT;
    const tn_kv *kv;
    static const char *const want[][2] = {{"threads", "2"}, {"share", "0.1"},  {"pin", "true"},
                                          {"name", "x"},    {"cpus", "0,1,2"}, {"empty", ""}};

    ck_assert_uint_eq(conf_plugin_group(c, "cpu", &kv), 6);
    for (int i = 0; i < 6; i++) {
        ck_assert_str_eq(kv[i].key, want[i][0]);
        ck_assert_str_eq(kv[i].value, want[i][1]);
    }
    ck_assert_uint_eq(conf_plugin_group(c, "my.plugin-2", &kv), 0);
    ck_assert_uint_eq(conf_plugin_count(c), 2);
    ck_assert_str_eq(conf_plugin_name(c, 1), "my_plugin-2");
    ck_assert_ok(conf_override(c, "plugin.cpu.threads", "7", &err), &err);
    ck_assert_ok(conf_override(c, "plugin.my.plugin-2.fresh", "1", &err), &err);
    ck_assert_uint_eq(conf_plugin_group(c, "cpu", &kv), 6);
    ck_assert_str_eq(kv[0].value, "7");
    ck_assert_uint_eq(conf_plugin_group(c, "my.plugin-2", &kv), 1);
    ck_assert_uint_eq(conf_plugin_group(c, "nobody", &kv), 0);
    ck_assert_int_eq(conf_override(c, "plugin.cpu", "7", &err), TN_E_CONFIG);
    ck_assert_int_eq(conf_override(c, "plugin..x", "7", &err), TN_E_CONFIG);
    conf_free(c);
    refused("plugin : { cpu : { a : { b = 1; }; }; };", "must be a plain value or an array");
    refused("plugin : { cpu = 1; };", "must be a group of settings");
    refused("plugin : { CPU : { }; };", "no plugin can have this name");
}
END_TEST

START_TEST(memory_running_out_is_reported_and_leaks_nothing)
{
    static const char text[] = "plugins : { path = [\"/a\", \"/b\"]; };\n"
                               "kernels : { pins = ( { op = \"l\"; variant = \"a/b\"; } ); };\n"
                               "plugin : { cpu : { a = 1; b = [1, 2]; c = \"x\"; }; };\n"
                               "log : { level = \"info\"; };";

    for (uint64_t n = 1;; n++) {
        struct conf_errors errors = CONF_ERRORS_INIT;
        struct conf *c = NULL;
        bool struck;
        int32_t rc;
        mem_fail_nth(n, n % 2 == 0);
        rc = conf_parse(text, sizeof text - 1, "t.conf", &c, &errors);
        struck = mem_injected();
        mem_fail_nth(0, false);
        conf_errors_release(&errors);
        if (rc != TN_OK)
            ck_assert(rc == TN_E_NOMEM);
        conf_free(c);
        if (!struck)
            break;
        ck_assert_uint_lt(n, 10000);
    }
}
END_TEST

START_TEST(a_bad_reload_leaves_the_old_settings)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct conf *live = good("kv : { block_tokens = 32; };");
    struct conf *before = live;

    ck_assert_int_eq(conf_parse("kv : {", 6, "t.conf", &live, &errors), TN_E_CONFIG);
    ck_assert_ptr_eq(live, before);
    ck_assert_int_eq(conf_int(live, CONF_KV_BLOCK_TOKENS), 32);
    conf_errors_release(&errors);
    conf_free(live);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("conf");
    TCase *t = tcase_create("conf");

    tcase_add_test(t, include_is_refused);
    tcase_add_test(t, nesting_is_capped);
    tcase_add_test(t, bytes_that_are_no_text_are_refused);
    tcase_add_test(t, files_that_are_not_files_are_refused);
    tcase_add_test(t, integers_do_not_wrap);
    tcase_add_test(t, reals_are_finite_and_within_range);
    tcase_add_test(t, a_number_at_the_end_of_the_file_is_not_read_past);
    tcase_add_test(t, wrong_types_are_named);
    tcase_add_test(t, loose_grammar_is_refused);
    tcase_add_test(t, numbers_do_not_depend_on_the_locale);
    tcase_add_test(t, the_callers_locale_survives);
    tcase_add_test(t, unknown_names_come_with_the_nearest);
    tcase_add_test(t, duplicates_are_refused_with_both_lines);
    tcase_add_test(t, texts_follow_their_rules);
    tcase_add_test(t, all_errors_are_reported_at_once);
    tcase_add_test(t, a_flood_of_errors_is_counted_not_kept);
    tcase_add_test(t, contradictions_are_found_across_groups);
    tcase_add_test(t, a_flag_can_mend_a_contradiction);
    tcase_add_test(t, defaults_pass_their_own_checks);
    tcase_add_test(t, the_shipped_file_says_what_the_table_says);
    tcase_add_test(t, every_type_is_read_from_a_file);
    tcase_add_test(t, flags_pass_the_same_checks);
    tcase_add_test(t, a_plugins_group_is_handed_on_as_text);
    tcase_add_test(t, memory_running_out_is_reported_and_leaks_nothing);
    tcase_add_test(t, a_bad_reload_leaves_the_old_settings);
    suite_add_tcase(s, t);
    return run_suite(s);
}
