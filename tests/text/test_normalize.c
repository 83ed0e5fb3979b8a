/* SPDX-License-Identifier: Apache-2.0 */
/* Normalizers: text and spans as the reference gives them, character maps from hostile files, and memory that ends. */
#include "base/utf8.h"
#include "base64.h"
#include "charsmap.h"
#include "normalize.h"
#include "text_util.h"
#include "uniform.h"

struct row {
    const char *json, *in, *out, *spans;
};

/* What tokenizers 0.23.3 gives. */
static const struct row rows[] = {
    {"{\"type\": \"NFC\"}", "e\314\201a\314\212\314\243x", "\303\251\341\272\241\314\212x",
     "0-1 3-4 6-8 8-9"},
    {"{\"type\": \"NFC\"}", "\341\204\200\341\205\241\341\206\250\352\260\200\341\206\250",
     "\352\260\201\352\260\201", "0-3 9-12"},
    {"{\"type\": \"NFC\"}", "\314\201a\314\225\314\200\326\256\314\200b",
     "\314\201\303\240\326\256\314\200\314\225b", "0-2 2-3 5-7 7-9 9-11 11-12"},
    {"{\"type\": \"NFC\"}", "\360\235\205\236 \342\204\253",
     "\360\235\205\227\360\235\205\245 \303\205", "0-4 0-4 4-5 5-8"},
    {"{\"type\": \"NFD\"}", "\303\251\341\273\207\352\260\201",
     "e\314\201e\314\243\314\202\341\204\200\341\205\241\341\206\250",
     "0-2 0-2 2-5 2-5 2-5 5-8 5-8 5-8"},
    {"{\"type\": \"NFD\"}", "\314\201\314\247a", "\314\247\314\201a", "0-2 2-4 4-5"},
    {"{\"type\": \"NFKC\"}", "\357\254\203\302\275 e\314\201", "ffi1\342\201\2042 \303\251",
     "0-3 0-3 0-3 3-5 3-5 3-5 5-6 6-7"},
    {"{\"type\": \"NFKC\"}", "\342\221\240\357\274\241", "1A", "0-3 3-6"},
    {"{\"type\": \"NFKD\"}", "\357\254\203\302\275\341\272\233\314\243",
     "ffi1\342\201\2042s\314\243\314\207", "0-3 0-3 0-3 3-5 3-5 3-5 5-8 8-10 8-10"},
    {"{\"type\": \"Lowercase\"}", "A\304\260\316\243\341\272\2361", "ai\314\207\317\203\303\2371",
     "0-1 1-3 1-3 3-5 5-8 8-9"},
    {"{\"type\": \"StripAccents\"}", "\314\201e\314\201\314\243a\340\244\203", "ea", "2-3 7-8"},
    {"{\"type\": \"StripAccents\"}", "\314\201", "", ""},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "  a b\302\240\012",
     "a b", "2-3 3-4 4-5"},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "   ", "", ""},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "", "", ""},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": true}", "\343\200\200\303\251 ",
     "\303\251", "3-5"},
    {"{\"type\": \"Strip\", \"strip_left\": true, \"strip_right\": false}", " a ", "a ", "1-2 2-3"},
    {"{\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": true}", " a ", " a", "0-1 1-2"},
    {"{\"type\": \"Nmt\"}", "a\001\011b\342\200\213\357\273\277\177", "a b  ",
     "0-1 2-3 3-4 4-7 7-10"},
    {"{\"type\": \"ByteLevel\"}", "a \303\251\012\360\237\230\200",
     "a\304\240\303\203\302\251\304\212\303\260\305\201\304\272\304\242",
     "0-1 1-2 2-4 2-4 4-5 5-9 5-9 5-9 5-9"},
    {"{\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, "
     "\"strip_accents\": null, \"lowercase\": true}",
     "H\303\251\001\011A\344\275\240b\304\260\357\277\275", "he a \344\275\240 bi",
     "0-1 1-3 4-5 5-6 6-9 6-9 6-9 9-10 10-12"},
    {"{\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, "
     "\"strip_accents\": false, \"lowercase\": false}",
     "H\303\251\342\200\215\357\244\200", "H\303\251 \357\244\200 ", "0-1 1-3 6-9 6-9 6-9"},
    {"{\"type\": \"Prepend\", \"prepend\": \"\\u2581x\"}", "\303\251a", "\342\226\201x\303\251a",
     "0-2 0-2 0-2 2-3"},
    {"{\"type\": \"Prepend\", \"prepend\": \"\\u2581x\"}", "", "", ""},
    {"{\"type\": \"Prepend\", \"prepend\": \"\"}", "\303\251a", "\303\251a", "0-0 2-3"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": \"\\u2581\"}",
     " a  b ", "\342\226\201a\342\226\201\342\226\201b\342\226\201", "0-1 1-2 2-3 3-4 4-5 5-6"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"aa\"}, \"content\": \"\"}", "aaaab", "b",
     "4-5"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \" {2,}\"}, \"content\": \"\\u2581\"}",
     "a   b c  ", "a\342\226\201b c\342\226\201", "0-1 3-4 4-5 5-6 6-7 8-9"},
    {"{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"^\"}, \"content\": \"Q\"}", "ab", "Qab",
     "0-0 0-1 1-2"},
    {"{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"-\"}", "ab", "-a-b-",
     "0-0 0-1 0-1 1-2 1-2"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\", \"prepend\": "
     "\"\\u2581\"}, {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
     "\"\\u2581\"}]}",
     "a b", "\342\226\201a\342\226\201b", "0-1 0-1 1-2 2-3"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Replace\", \"pattern\": {\"Regex\": "
     "\"^\"}, \"content\": \"Q\"}, {\"type\": \"Strip\", \"strip_left\": false, \"strip_right\": "
     "true}]}",
     "ab  ", "QQab", "0-0 0-1 1-2 2-3"},
    {"{\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFKD\"}, {\"type\": "
     "\"StripAccents\"}, {\"type\": \"Lowercase\"}]}",
     "\303\211\357\254\201 \342\204\253", "efi a", "0-2 2-5 2-5 5-6 6-9"},
};

static int32_t run(const struct tape *t, const char *in, size_t len, struct nstr *out, tn_err *err)
{
    struct normalize_work w;
    struct normalizer *n = NULL;
    struct nstr from;
    int32_t rc;

    memset(&w, 0, sizeof w);
    memset(&from, 0, sizeof from);
    memset(out, 0, sizeof *out);
    rc = normalizer_load(t, 0, &n, err);
    if (rc == TN_OK)
        rc = regex_scratch_new(&w.regex, err);
    if (rc == TN_OK) {
        nstr_put_input(&from, in, len, 0);
        rc = from.failed
                 ? TN_E_NOMEM
                 : normalizer_apply(n, &w, (struct nview){from.text, from.align, len}, 0, out, err);
    }
    regex_scratch_free(w.regex);
    normalize_work_release(&w);
    nstr_release(&from);
    normalizer_free(n);
    return rc;
}

START_TEST(text_and_spans_are_the_references)
{
    const struct row *r = &rows[_i];
    struct tape t = parse_json(r->json);
    struct nstr out;
    char spans[512];
    tn_err err;

    ck_assert_ok(run(&t, r->in, strlen(r->in), &out, &err), &err);
    ck_assert_msg(out.len == strlen(r->out) &&
                      memcmp(out.text ? out.text : "", r->out, out.len) == 0,
                  "%s of '%s' is '%.*s', not '%s'", r->json, r->in, (int)out.len, out.text, r->out);
    print_spans(&out, spans, sizeof spans);
    ck_assert_str_eq(spans, r->spans);
    nstr_release(&out);
    tape_release(&t);
}
END_TEST

START_TEST(what_is_said_to_be_kept_is_kept)
{
    const struct row *r = &rows[_i];
    struct tape t = parse_json(r->json);
    struct normalizer *n = NULL;
    tn_err err;

    ck_assert_ok(normalizer_load(&t, 0, &n, &err), &err);
    if (r->in[0] && normalizer_keeps(n, r->in, strlen(r->in)))
        ck_assert_str_eq(r->in, r->out);
    normalizer_free(n);
    tape_release(&t);
}
END_TEST

START_TEST(memory_that_ends_is_an_error)
{
    const struct row *r = &rows[_i];
    struct tape t = parse_json(r->json);
    bool struck = true;

    for (uint64_t nth = 1; struck; nth++) {
        struct nstr out;
        tn_err err;
        int32_t rc;
        mem_fail_nth(nth, false);
        rc = run(&t, r->in, strlen(r->in), &out, &err);
        struck = mem_injected();
        mem_fail_nth(0, false);
        /* A regex runs without its JIT stack, so not every failure is one of ours. */
        ck_assert_msg(rc == TN_OK || (struck && rc == TN_E_NOMEM), "%s: %d", r->json, (int)rc);
        nstr_release(&out);
    }
    tape_release(&t);
}
END_TEST

/* Of each code point, and of each two that may stand side by side in a script: what is taken for a normal form is one. */
static bool differs;
static const char *expected;

static void compare(void *arg, uint32_t cp, int64_t change)
{
    size_t n;

    (void)arg;
    differs = differs || change != 0 || uni_next(expected, &n) != cp;
    expected += differs ? 0 : n;
}

START_TEST(texts_taken_for_normal_forms_are)
{
    static const uint32_t seconds[] = {0,      'a',    0x301,  0x323, 0x3099,
                                       0x309a, 0x302a, 0x302b, 0x11a8};
    static const uint32_t forms[] = {0, UNIFORM_COMPOSE, UNIFORM_COMPATIBLE,
                                     UNIFORM_COMPOSE | UNIFORM_COMPATIBLE};

    for (uint32_t cp = 1; cp < 0x110000; cp++) {
        char text[9] = {0};
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++) {
            size_t n = utf8_encode(cp, text);
            n += seconds[i] ? utf8_encode(seconds[i], text + n) : 0;
            for (size_t f = 0; f < 4; f++) {
                differs = false;
                expected = text;
                if (!uniform_is(text, n, forms[f]))
                    continue;
                ck_assert(uniform_run(text, n, forms[f], compare, NULL));
                ck_assert_msg(!differs, "U+%04X U+%04X", (unsigned)cp, (unsigned)seconds[i]);
            }
        }
    }
}
END_TEST

/* A long run of marks in the wrong order must not take quadratic time, and comes out in order. */
START_TEST(a_million_marks_are_ordered)
{
    struct tape t = parse_json("{\"type\": \"NFC\"}");
    size_t count = 1000000;
    char *in = mem_alloc(2 * count + 1);
    struct nstr out;
    tn_err err;

    in[0] = 'q'; /* composes with none of them */
    for (size_t i = 0; i < count; i++)
        memcpy(in + 1 + 2 * i, i % 2 ? "\xcc\xa7" : "\xcc\x81", 2); /* classes 202 and 230 */
    ck_assert_ok(run(&t, in, 2 * count + 1, &out, &err), &err);
    ck_assert_uint_eq(out.len, 2 * count + 1);
    ck_assert_mem_eq(out.text + 1, "\xcc\xa7\xcc\xa7", 4);
    ck_assert_mem_eq(out.text + count + 1, "\xcc\x81\xcc\x81", 4);
    nstr_release(&out);
    mem_free(in);
    tape_release(&t);
}
END_TEST

/* A NUL in pattern or content is a character like others. */
START_TEST(patterns_may_hold_nul)
{
    struct tape t = parse_json("{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\\u0000b\"},"
                               "\"content\": \"\\u0000xyz\"}");
    struct nstr out;
    tn_err err;

    ck_assert_ok(run(&t, "a\0b a", 5, &out, &err), &err);
    ck_assert_uint_eq(out.len, 6);
    ck_assert_mem_eq(out.text, "\0xyz a", 6);
    nstr_release(&out);
    tape_release(&t);
}
END_TEST

static const char *const bad_steps[] = {
    "{\"type\": \"NFX\"}",
    "{\"type\": \"Strip\", \"strip_left\": 1}",
    "{\"type\": \"Prepend\"}",
    "{\"type\": \"Prepend\", \"prepend\": 7}",
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\", \"Regex\": \"b\"}, \"content\": "
    "\"\"}",
    "{\"type\": \"Replace\", \"pattern\": \"a\", \"content\": \"\"}",
    "{\"type\": \"Replace\", \"pattern\": {\"Regex\": \"(\"}, \"content\": \"\"}",
    "{\"type\": \"Replace\", \"pattern\": {\"String\": \"a\"}}",
    "{\"type\": \"BertNormalizer\", \"lowercase\": \"yes\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": null}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAA\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AA*A\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAAAA==\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"/////w==\"}",
    "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"BAAAAAAAAAD/\"}",
    "{\"type\": \"Sequence\", \"normalizers\": 3}",
    "{\"type\": \"Sequence\", \"normalizers\": [{}]}",
    "[]",
    "\"NFC\"",
};

START_TEST(bad_steps_are_refused)
{
    struct tape t = parse_json(bad_steps[_i]);
    struct normalizer *n = NULL;
    tn_err err;
    int32_t rc = normalizer_load(&t, 0, &n, &err);

    ck_assert_msg(rc == TN_E_FORMAT || rc == TN_E_TYPE || rc == TN_E_UNSUPPORTED, "%s: %d",
                  bad_steps[_i], (int)rc);
    ck_assert_ptr_null(n);
    tape_release(&t);
}
END_TEST

/* --- Character maps --- */

#define UNITS 1024u
struct map_file {
    unsigned char data[4 + 4 * UNITS + 64];
    size_t len;
};

static void put_unit(struct map_file *f, uint32_t i, uint32_t u)
{
    for (int k = 0; k < 4; k++)
        f->data[4 + 4 * i + (uint32_t)k] = (unsigned char)(u >> 8 * k);
}

/* A map of the single characters a, b, ... to texts at given places. Key k has its unit at 256 ^ k and its value at
 * 512 + k. */
static void begin_map(struct map_file *f, const char *texts, size_t n)
{
    memset(f, 0, sizeof *f);
    f->data[0] = (unsigned char)(4 * UNITS & 0xff);
    f->data[1] = (unsigned char)(4 * UNITS >> 8);
    memcpy(f->data + 4 + 4 * UNITS, texts, n);
    f->len = 4 + 4 * UNITS + n;
    put_unit(f, 0, 256u << 10);
}

static void map_key(struct map_file *f, unsigned char key, uint32_t value)
{
    uint32_t at = 256u ^ key, leaf = 512u + key;

    put_unit(f, at, (at ^ leaf) << 10 | 1u << 8 | key);
    put_unit(f, leaf, UINT32_C(1) << 31 | value);
}

static void load_map(const struct map_file *f, struct charsmap *m)
{
    tn_err err;

    ck_assert_ok(charsmap_load((const char *)f->data, f->len, m, &err), &err);
}

static void print_map(const struct map_file *f, char *json, size_t size)
{
    static const char head[] = "{\"type\": \"Precompiled\", \"precompiled_charsmap\": \"";
    size_t n = base64_size(f->len);

    ck_assert_uint_lt(sizeof head + n + 3, size);
    memcpy(json, head, sizeof head - 1);
    base64_encode((const char *)f->data, f->len, json + sizeof head - 1);
    memcpy(json + sizeof head - 1 + n, "\"}", 3);
}

START_TEST(maps_find_what_is_in_them)
{
    struct map_file f;
    struct charsmap m;
    size_t len;

    begin_map(&f, "xyz\0\0\xc3\xa9", 7);
    map_key(&f, 'a', 0);
    map_key(&f, 'b', 4);
    map_key(&f, 'c', 1);
    map_key(&f, 'd', 5);
    load_map(&f, &m);
    ck_assert_str_eq(charsmap_find(&m, "ax", 2, &len), "xyz");
    ck_assert_str_eq(charsmap_find(&m, "b", 1, &len), "");
    ck_assert_str_eq(charsmap_find(&m, "c", 1, &len), "yz");
    ck_assert_str_eq(charsmap_find(&m, "d", 1, &len), "\xc3\xa9");
    ck_assert_ptr_null(charsmap_find(&m, "e", 1, &len));
    ck_assert_ptr_null(charsmap_find(&m, "\0a", 2, &len));
    ck_assert(m.ascii['a'] && !m.ascii['e'] && m.touches_ascii);
    charsmap_release(&m);
}
END_TEST

START_TEST(values_that_point_nowhere_are_not_followed)
{
    struct map_file f;
    struct charsmap m;
    size_t len;

    begin_map(&f, "xyz\0\0\xc3\xa9", 7);
    map_key(&f, 'a', 8);                                       /* behind the texts */
    map_key(&f, 'b', 0x7fffffff);                              /* far behind */
    map_key(&f, 'c', 6);                                       /* inside a character */
    map_key(&f, 'd', 7);                                       /* the end: an empty text */
    put_unit(&f, 256u ^ 'e', 0x1fffffu << 10 | 3u << 8 | 'e'); /* a value outside the array */
    put_unit(&f, 256u ^ 'f', 0x1fffffu << 10 | 2u << 8 | 'f'); /* a child outside the array */
    load_map(&f, &m);
    ck_assert_ptr_null(charsmap_find(&m, "a", 1, &len));
    ck_assert_ptr_null(charsmap_find(&m, "b", 1, &len));
    ck_assert_ptr_null(charsmap_find(&m, "c", 1, &len));
    ck_assert_str_eq(charsmap_find(&m, "d", 1, &len), "");
    ck_assert_ptr_null(charsmap_find(&m, "e", 1, &len));
    ck_assert_ptr_null(charsmap_find(&m, "ff", 2, &len));
    charsmap_release(&m);
}
END_TEST

/* Rows of the table "Precompiled" in the reference: a cluster is replaced by what its beginning maps to, and what
 * disappears at the very beginning is forgotten by the spans. */
START_TEST(clusters_and_removed_characters_follow_the_reference)
{
    static const struct {
        const char *in, *out, *spans;
    } cases[] = {{"ea\xcc\x81z", "exyzz", "0-1 1-2 2-4 2-4 4-5"},
                 {"ebe", "ee", "0-1 2-3"},
                 {"be", "e", "0-1"},
                 {"zabz", "zxyzz", "0-1 1-2 1-2 2-3 3-4"},
                 {"zabbz", "zxyzz", "0-1 1-2 1-2 2-3 4-5"},
                 {"\r\n", "\r\n", "0-1 1-2"}};
    static char json[64 + 4 * (4 + 4 * UNITS + 64)];
    struct map_file f;
    struct nstr out;
    char spans[256];
    struct tape t;
    tn_err err;

    begin_map(&f, "xyz\0", 4);
    map_key(&f, 'a', 0);
    map_key(&f, 'b', 3);
    print_map(&f, json, sizeof json);
    t = parse_json(json);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_ok(run(&t, cases[i].in, strlen(cases[i].in), &out, &err), &err);
        ck_assert_uint_eq(out.len, strlen(cases[i].out));
        ck_assert_mem_eq(out.text, cases[i].out, out.len);
        print_spans(&out, spans, sizeof spans);
        ck_assert_str_eq(spans, cases[i].spans);
        nstr_release(&out);
    }
    tape_release(&t);
}
END_TEST

START_TEST(cut_maps_are_refused)
{
    struct map_file f;
    struct charsmap m;
    tn_err err;

    begin_map(&f, "xyz\0", 4);
    map_key(&f, 'a', 0);
    for (size_t n = 0; n < 4 + 4 * UNITS; n++)
        ck_assert_int_eq(charsmap_load((const char *)f.data, n, &m, &err), TN_E_FORMAT);
    f.data[3] = 0x80; /* a trie of 2 GiB */
    ck_assert_int_eq(charsmap_load((const char *)f.data, f.len, &m, &err), TN_E_FORMAT);
    f.data[3] = 0;
    f.data[f.len - 1] = 0xff;
    ck_assert_int_eq(charsmap_load((const char *)f.data, f.len, &m, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "UTF-8");
}
END_TEST

START_TEST(base64_is_strict_and_round_trips)
{
    static const char *const bad[] = {"A",    "AA",   "AAA",  "AAAA\n", "AA==AAAA", "A===",
                                      "====", "AB==", "AAB=", "AA-A",   "AA A",     "AAA\xc3"};
    char text[16], back[16];
    size_t len;

    for (size_t n = 0; n < 10; n++) {
        base64_encode("\0\xff\x10 azAZ~", n, text);
        ck_assert(base64_decode(text, base64_size(n), back, &len));
        ck_assert_uint_eq(len, n);
        ck_assert_int_eq(memcmp(back, "\0\xff\x10 azAZ~", n), 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!base64_decode(bad[i], strlen(bad[i]), back, &len), "%s", bad[i]);
}
END_TEST

int main(void)
{
    int count = (int)(sizeof rows / sizeof *rows);
    Suite *s = suite_create("normalize");
    TCase *c = tcase_create("steps");

    uni_init();
    tcase_add_loop_test(c, text_and_spans_are_the_references, 0, count);
    tcase_add_loop_test(c, what_is_said_to_be_kept_is_kept, 0, count);
    tcase_add_loop_test(c, memory_that_ends_is_an_error, 0, count);
    tcase_add_test(c, texts_taken_for_normal_forms_are);
    tcase_add_test(c, a_million_marks_are_ordered);
    tcase_add_test(c, patterns_may_hold_nul);
    tcase_add_loop_test(c, bad_steps_are_refused, 0, (int)(sizeof bad_steps / sizeof *bad_steps));
    suite_add_tcase(s, c);
    c = tcase_create("maps");
    tcase_add_test(c, maps_find_what_is_in_them);
    tcase_add_test(c, values_that_point_nowhere_are_not_followed);
    tcase_add_test(c, clusters_and_removed_characters_follow_the_reference);
    tcase_add_test(c, cut_maps_are_refused);
    tcase_add_test(c, base64_is_strict_and_round_trips);
    suite_add_tcase(s, c);
    return run_suite(s);
}
