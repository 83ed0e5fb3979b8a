/* SPDX-License-Identifier: Apache-2.0 */
/* Unigram, WordPiece and WordLevel: tokens as the reference gives them, refused vocabularies, and long words. */
#include "model.h"
#include "text_util.h"

static int32_t load(const char *json, struct model **out, tn_err *err)
{
    struct tape t = parse_json(json);
    struct model_hints hints = {false};
    int32_t rc;

    *out = NULL;
    rc = model_load(&t, 0, &hints, out, err);
    tape_release(&t);
    return rc;
}

static int32_t encode(const struct model *m, const char *text, size_t len, tn_encoding *e,
                      tn_err *err)
{
    struct sink s = {e, NULL, len, 0};
    struct model_work *w = NULL;
    int32_t rc = m->type->work_new(m, &w, err);

    e->count = 0;
    e->has_spans = true;
    e->has_edges = true;
    if (rc == TN_OK)
        rc = m->type->encode(m, w, text, len, &s, err);
    m->type->work_free(w);
    return rc;
}

#define UNIGRAM                                                                                    \
    "{\"type\": \"Unigram\", \"unk_id\": 0, \"byte_fallback\": %s, \"vocab\": [[\"<unk>\", 0],"    \
    "[\"a\", 0.0], [\"b\", 0], [\"c\", 0], [\"d\", 0], [\"cd\", 1], [\"ab\", 2], [\"abc\", 5],"    \
    "[\"abcd\", 10], [\"q!\", -3], [\"q\", -1], [\"!\", -2], [\"<0xC3>\", -9], [\"<0xA9>\", -9],"  \
    "[\"zz\", -50], [\"q\", -1.5]]}"
#define WORDPIECE                                                                                  \
    "{\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"continuing_subword_prefix\": \"##\","   \
    "\"max_input_chars_per_word\": 8, \"vocab\": {\"[UNK]\": 0, \"##\": 1, \"un\": 2, \"##aff\": " \
    "3,"                                                                                           \
    "\"##able\": 4, \"una\": 5, \"\\u00e9\": 6, \"##\\u00e9\": 7, \"##a\": 8}}"
#define WORDLEVEL                                                                                  \
    "{\"type\": \"WordLevel\", \"unk_token\": \"?\", \"vocab\": {\"?\": 3, \"a\": 0, \"a b\": 7}}"

/* What tokenizers 0.23.3 gives. */
static const struct {
    const char *json, *text, *tokens;
} rows[] = {
    {UNIGRAM, "abcdacdxx", "8:0-4 1:4-5 5:5-7 0:7-9"},
    {UNIGRAM, "abcdacdxx", "8:0-4 1:4-5 5:5-7 0:7-9"},
    {UNIGRAM, "xxabyy", "0:0-2 6:2-4 0:4-6"},
    {UNIGRAM, "xxabyy", "0:0-2 6:2-4 0:4-6"},
    {UNIGRAM, "q!", "9:0-2"},
    {UNIGRAM, "q!", "9:0-2"},
    {UNIGRAM, "\303\251", "0:0-2"},
    {UNIGRAM, "\303\251", "12:0-2 13:0-2"},
    {UNIGRAM, "\303\251x\303\251", "0:0-5"},
    {UNIGRAM, "\303\251x\303\251", "0:0-5"},
    {UNIGRAM, "zz", "14:0-2"},
    {UNIGRAM, "zz", "14:0-2"},
    {UNIGRAM, "zza", "14:0-2 1:2-3"},
    {UNIGRAM, "zza", "14:0-2 1:2-3"},
    {UNIGRAM, "<unk>", "0:0-5"},
    {UNIGRAM, "<unk>", "0:0-5"},
    {UNIGRAM, "x<unk>y", "0:0-7"},
    {UNIGRAM, "x<unk>y", "0:0-7"},
    {UNIGRAM, "qq!q", "15:0-1 9:1-3 15:3-4"},
    {UNIGRAM, "qq!q", "15:0-1 9:1-3 15:3-4"},
    {UNIGRAM, "\360\237\230\200\303\251a", "0:0-6 1:6-7"},
    {UNIGRAM, "\360\237\230\200\303\251a", "0:0-6 1:6-7"},
    {WORDPIECE, "unaffable", "0:0-9"},
    {WORDPIECE, "unaffabl", "0:0-8"},
    {WORDPIECE, "un", "2:0-2"},
    {WORDPIECE, "##", "1:0-2"},
    {WORDPIECE, "un##", "0:0-4"},
    {WORDPIECE, "\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251",
     "6:0-2 7:2-4 7:4-6 7:6-8 7:8-10 7:10-12 7:12-14 7:14-16"},
    {WORDPIECE, "\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251\303\251",
     "0:0-18"},
    {WORDPIECE, "unaaff", "5:0-3 3:3-6"},
    {WORDPIECE, "x", "0:0-1"},
    {WORDPIECE, "unx", "0:0-3"},
    {WORDLEVEL, "a", "0:0-1"},
    {WORDLEVEL, "a b", "7:0-3"},
    {WORDLEVEL, "b", "3:0-1"},
    {WORDLEVEL, "\077", "3:0-1"},
};

START_TEST(tokens_are_the_references)
{
    tn_encoding *e = NULL;
    struct model *m;
    char json[2048], got[512];
    tn_err err;

    snprintf(json, sizeof json, rows[_i].json, _i % 2 ? "true" : "false");
    ck_assert_ok(load(json, &m, &err), &err);
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(encode(m, rows[_i].text, strlen(rows[_i].text), e, &err), &err);
    print_tokens(e, got, sizeof got);
    ck_assert_str_eq(got, rows[_i].tokens);
    tn_encoding_free(e);
    model_free(m);
}
END_TEST

/* Of two ways with the same score the one whose last token begins first is kept, as in the reference. */
START_TEST(ties_go_to_the_earlier_beginning)
{
    static const char json[] = "{\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<unk>\", 0],"
                               "[\"a\", -1], [\"aa\", -2], [\"aaa\", -3]]}";
    tn_encoding *e = NULL;
    struct model *m;
    char got[128];
    tn_err err;

    ck_assert_ok(load(json, &m, &err), &err);
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(encode(m, "aaaa", 4, e, &err), &err);
    print_tokens(e, got, sizeof got);
    ck_assert_str_eq(got, "1:0-1 3:1-4");
    tn_encoding_free(e);
    model_free(m);
}
END_TEST

static const char *const bad[] = {
    "{\"type\": \"Unigram\", \"vocab\": {}}",
    "{\"type\": \"Unigram\"}",
    "{\"type\": \"Unigram\", \"vocab\": []}",
    "{\"type\": \"Unigram\", \"vocab\": [[\"a\"]]}",
    "{\"type\": \"Unigram\", \"vocab\": [[\"a\", \"b\"]]}",
    "{\"type\": \"Unigram\", \"vocab\": [[1, 0]]}",
    "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0, 0]]}",
    "{\"type\": \"Unigram\", \"unk_id\": 1, \"vocab\": [[\"a\", 0]]}",
    "{\"type\": \"Unigram\", \"unk_id\": -1, \"vocab\": [[\"a\", 0]]}",
    "{\"type\": \"Unigram\", \"unk_id\": \"a\", \"vocab\": [[\"a\", 0]]}",
    "{\"type\": \"WordPiece\", \"vocab\": {\"a\": 0}}",
    "{\"type\": \"WordPiece\", \"unk_token\": \"a\", \"continuing_subword_prefix\": \"\","
    "\"max_input_chars_per_word\": -1, \"vocab\": {\"a\": 0}}",
    "{\"type\": \"WordPiece\", \"unk_token\": \"a\", \"continuing_subword_prefix\": 3,"
    "\"max_input_chars_per_word\": 1, \"vocab\": {\"a\": 0}}",
    "{\"type\": \"WordPiece\", \"unk_token\": \"a\", \"continuing_subword_prefix\": \"\","
    "\"max_input_chars_per_word\": 1, \"vocab\": {\"a\": 0, \"b\": 0}}",
    "{\"type\": \"WordLevel\", \"unk_token\": \"a\", \"vocab\": [\"a\"]}",
    "{\"type\": \"WordLevel\", \"vocab\": {\"a\": 0}}",
    "{\"type\": \"WordLevel\", \"unk_token\": \"a\", \"vocab\": {\"a\": 4000000000}}",
    "{\"type\": \"WordLevel\", \"unk_token\": \"a\", \"vocab\": {\"a\": -1}}",
    "{\"type\": \"Neural\"}",
    "{}",
    "7",
};

START_TEST(bad_vocabularies_are_refused)
{
    struct model *m;
    tn_err err;
    int32_t rc = load(bad[_i], &m, &err);

    ck_assert_msg(rc == TN_E_FORMAT || rc == TN_E_TYPE || rc == TN_E_UNSUPPORTED, "%s: %d", bad[_i],
                  (int)rc);
    ck_assert_ptr_null(m);
}
END_TEST

/* A text that needs an unknown token which the vocabulary lacks is an error, not a crash or a wrong id. */
START_TEST(missing_unknown_tokens_are_errors)
{
    static const char *const jsons[] = {
        "{\"type\": \"Unigram\", \"vocab\": [[\"a\", 0]]}",
        "{\"type\": \"WordPiece\", \"unk_token\": \"?\", \"continuing_subword_prefix\": \"##\","
        "\"max_input_chars_per_word\": 100, \"vocab\": {\"a\": 0}}",
        "{\"type\": \"WordLevel\", \"unk_token\": \"?\", \"vocab\": {\"a\": 0}}"};
    tn_encoding *e = NULL;
    struct model *m;
    tn_err err;

    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(load(jsons[_i], &m, &err), &err);
    ck_assert_ok(encode(m, "a", 1, e, &err), &err);
    ck_assert_int_eq(encode(m, "b", 1, e, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "unknown token");
    model_free(m);
    tn_encoding_free(e);
}
END_TEST

/* Time is linear in the text: a million letters, all of one word, in each model. */
START_TEST(one_long_word_takes_linear_time)
{
    static const char *const jsons[] = {
        "{\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"?\", 0], [\"a\", -1], [\"aa\", "
        "-1.5],"
        "[\"aaaaaaaa\", -2]]}",
        "{\"type\": \"WordPiece\", \"unk_token\": \"?\", \"continuing_subword_prefix\": \"\","
        "\"max_input_chars_per_word\": 99999999999, \"vocab\": {\"?\": 0, \"a\": 1, \"aaaa\": 2}}",
        "{\"type\": \"WordLevel\", \"unk_token\": \"?\", \"vocab\": {\"?\": 0}}"};
    static const size_t counts[] = {125000, 250000, 1};
    size_t n = 1000000;
    char *text = mem_alloc(n);
    tn_encoding *e = NULL;
    struct model *m;
    tn_err err;

    memset(text, 'a', n);
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(load(jsons[_i], &m, &err), &err);
    ck_assert_ok(encode(m, text, n, e, &err), &err);
    ck_assert_uint_eq(e->count, counts[_i]);
    model_free(m);
    tn_encoding_free(e);
    mem_free(text);
}
END_TEST

/* A character that no token has vanishes if there is no unknown token, and then its neighbours merge, also in texts long
 * enough to be worked on in parts. */
START_TEST(neighbours_of_a_vanished_character_merge)
{
    static const char json[] = "{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2},"
                               "\"merges\": [[\"a\", \"b\"]]}";
    static const char text[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbba\xe2\x98\x83\xe2\x98\x83"
                               "bb";
    tn_encoding *e = NULL;
    struct model *m;
    tn_err err;

    ck_assert_ok(load(json, &m, &err), &err);
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(encode(m, text, sizeof text - 1, e, &err), &err);
    ck_assert_uint_eq(e->count, 32);
    ck_assert_uint_eq(e->ids[30], 2);
    ck_assert_uint_eq(e->ids[31], 1);
    tn_encoding_free(e);
    model_free(m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("models");
    TCase *c = tcase_create("models");

    uni_init();
    tcase_add_loop_test(c, tokens_are_the_references, 0, (int)(sizeof rows / sizeof *rows));
    tcase_add_test(c, ties_go_to_the_earlier_beginning);
    tcase_add_loop_test(c, bad_vocabularies_are_refused, 0, (int)(sizeof bad / sizeof *bad));
    tcase_add_loop_test(c, missing_unknown_tokens_are_errors, 0, 3);
    tcase_add_test(c, neighbours_of_a_vanished_character_merge);
    tcase_add_loop_test(c, one_long_word_takes_linear_time, 0, 3);
    suite_add_tcase(s, c);
    return run_suite(s);
}
