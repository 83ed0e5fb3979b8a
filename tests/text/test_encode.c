/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding from the caller's side: what counts as a special token, spans of any bytes, options, and the files around. */
#include <pthread.h>

#include "base/file.h"
#include "tokenizers.h"

#define SPECIAL(text, id)                                                                          \
    "{\"id\":" #id ",\"content\":\"" text                                                          \
    "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"             \
    "\"special\":true}"
#define PLAIN                                                                                      \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"

static tn_tokenizer *chat_tokenizer(void)
{
    return open_bytes(
        (const char *const[]){"ab", NULL}, "[[\"a\",\"b\"]]",
        "," PLAIN ",\"added_tokens\":[" SPECIAL("<|im_end|>", 257) "," SPECIAL(
            "<s>", 258) "],\"post_processor\":{\"type\":\"TemplateProcessing\","
                        "\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
                        "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
                        "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[258],"
                        "\"tokens\":[\"<s>\"]}}}");
}

START_TEST(user_text_spelling_special_tokens_is_plain_text)
{
    tn_tokenizer *t = chat_tokenizer();

    ck_encodes(t, "ab<s>", 0, "256:0-2 60:2-3 115:3-4 62:4-5");
    ck_encodes(t, "ab<s>", TN_ENCODE_SPECIAL, "256:0-2 258:2-5");
    ck_encodes(t, "ab", TN_ENCODE_ADD_SPECIAL, "258:0-0 256:0-2");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(special_tokens_count_only_inside_a_trusted_part)
{
    tn_tokenizer *t = chat_tokenizer();
    const char *text = "<s>x<s>y<s>";
    /* The frame of a template is trusted, the x and the forged token behind it are a message. */
    const tn_text_range parts[] = {{0, 3}, {7, 11}};
    tn_encode_options o = {sizeof o, 0, parts, 2};
    char got[256];

    encode_options(t, text, strlen(text), &o, got, sizeof got);
    ck_assert_str_eq(got, "258:0-3 120:3-4 60:4-5 115:5-6 62:6-7 121:7-8 258:8-11");
    o.trusted = (const tn_text_range[]){{0, 2}, {2, 11}};
    o.trusted_count = 2; /* no token may be put together across two parts */
    encode_options(t, text, strlen(text), &o, got, sizeof got);
    ck_assert_ptr_eq(strstr(got, "60:0-1 115:1-2 62:2-3"), got);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(trusted_parts_mean_bytes_of_the_input_even_if_it_is_damaged)
{
    tn_tokenizer *t = chat_tokenizer();
    const char text[] = "\xff\xff<s><s>";
    const tn_text_range parts[] = {{2, 5}};
    tn_encode_options o = {sizeof o, TN_ENCODE_BYTE_OFFSETS, parts, 1};
    char got[256];

    encode_options(t, text, strlen(text), &o, got, sizeof got);
    ck_assert_ptr_nonnull(strstr(got, " 258:2-5 60:5-6 115:6-7 62:7-8"));
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(wrong_options_are_refused)
{
    tn_tokenizer *t = chat_tokenizer();
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    const tn_text_range backwards[] = {{2, 3}, {0, 1}}, outside[] = {{0, 9}}, crossed[] = {{2, 1}};
    const struct {
        const tn_text_range *parts;
        size_t n;
    } bad[] = {{backwards, 2}, {outside, 1}, {crossed, 1}};
    tn_encode_options o = TN_ENCODE_OPTIONS(1u << 31);

    ck_assert_int_eq(tn_encoding_new(&e, &err), TN_OK);
    ck_assert_int_eq(tn_encode(t, "abc", 3, &o, e, &err), TN_E_INVALID);
    for (size_t i = 0; i < 3; i++) {
        o = (tn_encode_options){sizeof o, 0, bad[i].parts, bad[i].n};
        ck_assert_int_eq(tn_encode(t, "abc", 3, &o, e, &err), TN_E_INVALID);
    }
    tn_encoding_free(e);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(damaged_utf8_counts_as_replacement_characters_and_keeps_its_places)
{
    tn_tokenizer *t = open_bytes(NO_TOKENS, "[]", "," PLAIN);
    /* a, an overlong slash (two ill-formed bytes), NUL, a cut sequence of three, b */
    const char text[] = "a\xc0\xaf\0\xe2\x82"
                        "b";
    tn_encode_options o = TN_ENCODE_OPTIONS(0);
    char got[512];

    encode_options(t, text, sizeof text - 1, &o, got, sizeof got);
    ck_assert_str_eq(got, "97:0-1 239:1-2 191:1-2 189:1-2 239:2-3 191:2-3 189:2-3 0:3-4 "
                          "239:4-5 191:4-5 189:4-5 98:5-6");
    o.flags = TN_ENCODE_BYTE_OFFSETS;
    encode_options(t, text, sizeof text - 1, &o, got, sizeof got);
    ck_assert_str_eq(got, "97:0-1 239:1-2 191:1-2 189:1-2 239:2-3 191:2-3 189:2-3 0:3-4 "
                          "239:4-6 191:4-6 189:4-6 98:6-7");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(spans_are_whole_characters_even_where_tokens_split_them)
{
    tn_tokenizer *t = open_bytes(NO_TOKENS, "[]", "," PLAIN);
    const char *text = "x\xc3\xa9\xe2\x82\xacy";

    ck_encodes(t, text, 0, "120:0-1 195:1-2 169:1-2 226:2-3 130:2-3 172:2-3 121:3-4");
    ck_encodes(t, text, TN_ENCODE_BYTE_OFFSETS,
               "120:0-1 195:1-3 169:1-3 226:3-6 130:3-6 172:3-6 121:6-7");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(without_offsets_there_are_no_spans)
{
    tn_tokenizer *t = chat_tokenizer();
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_NO_OFFSETS);
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_int_eq(tn_encoding_new(&e, &err), TN_OK);
    ck_assert_ok(tn_encode(t, "abab", 4, &o, e, &err), &err);
    ck_assert_uint_eq(tn_encoding_count(e), 2);
    ck_assert_ptr_null(tn_encoding_spans(e));
    /* The same encoding serves a call that wants them, with more tokens than it had room for spans. */
    o.flags = 0;
    ck_assert_ok(tn_encode(t, "abcdefghijklmnopqrstuvwxyz", 26, &o, e, &err), &err);
    ck_assert_uint_eq(tn_encoding_spans(e)[24].end, 26);
    tn_encoding_free(e);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(an_encoding_moves_between_tokenizers_with_and_without_trimming)
{
    tn_tokenizer *plain = open_bytes(NO_TOKENS, "[]", "," PLAIN);
    tn_tokenizer *trims = open_bytes(
        NO_TOKENS, "[]",
        "," PLAIN ",\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"trim_offsets\":true,\"use_regex\":true}");
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    char text[200];

    memset(text, ' ', sizeof text);
    ck_assert_int_eq(tn_encoding_new(&e, &err), TN_OK);
    ck_assert_ok(tn_encode(plain, text, sizeof text, NULL, e, &err), &err);
    ck_assert_ok(tn_encode(trims, text, sizeof text, NULL, e, &err), &err);
    ck_assert_uint_eq(tn_encoding_spans(e)[199].begin, 200);
    ck_assert_uint_eq(tn_encoding_spans(e)[199].end, 200);
    tn_encoding_free(e);
    tn_tokenizer_close(plain);
    tn_tokenizer_close(trims);
}
END_TEST

#define STRIPS(text, id, left, right)                                                              \
    "{\"id\":" #id ",\"content\":\"" text "\",\"single_word\":false,\"lstrip\":" #left             \
    ",\"rstrip\":" #right ",\"normalized\":false,\"special\":false}"

START_TEST(white_space_belongs_to_one_added_token)
{
    tn_tokenizer *t =
        open_bytes(NO_TOKENS, "[]",
                   "," PLAIN ",\"added_tokens\":[" STRIPS("\\n", 256, true, true) "," STRIPS(
                       "ing", 257, false, true) "," STRIPS(" ", 258, true, false) "]");

    ck_encodes(t, "\n\n\nx", 0, "256:0-3 120:3-4");
    ck_encodes(t, "ing\n \nx", 0, "257:0-6 120:6-7");
    ck_encodes(t, "ing \n ", 0, "257:0-6");
    ck_encodes(t, "\n  x  ", 0, "256:0-3 120:3-4 258:4-5 258:5-6");
    tn_tokenizer_close(t);
}
END_TEST

#define CLS_SEP(kind) "{\"type\":\"" kind "\",\"cls\":[\"a\",97],\"sep\":[\"b\",98]}"

START_TEST(post_processors_follow_one_another)
{
    tn_tokenizer *t =
        open_bytes(NO_TOKENS, "[]",
                   "," PLAIN ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[" CLS_SEP(
                       "BertProcessing") "," CLS_SEP("RobertaProcessing") "]}");

    ck_encodes(t, "x", TN_ENCODE_ADD_SPECIAL, "97:0-0 97:0-0 120:0-1 98:0-0 98:0-0");
    ck_encodes(t, "x", 0, "120:0-1");
    tn_tokenizer_close(t);
    t = open_bytes(
        NO_TOKENS, "[]",
        "," PLAIN ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":["
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"s\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"pair\":[],\"special_tokens\":{\"s\":{\"id\":\"s\","
        "\"ids\":[115],\"tokens\":[\"s\"]}}}," CLS_SEP("BertProcessing") "]}");
    /* The token that the template put in is a sequence of its own to what follows. */
    ck_encodes(t, "x", TN_ENCODE_ADD_SPECIAL, "97:0-0 115:0-0 98:0-0 120:0-1 98:0-0");
    tn_tokenizer_close(t);
}
END_TEST

/* -- Files around the tokenizer ------------------------------------------------------------------------------------- */

static void put(const char *dir, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, text, strlen(text));
}

#define MINI "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"<s>\":1},\"merges\":[]}}"

START_TEST(roles_settings_and_templates_are_found_beside_the_vocabulary)
{
    char dir[64], sub[128];
    tn_tokenizer *t = NULL;
    tn_err err = TN_ERR_INIT;
    uint32_t id = 99;

    temp_dir(dir, sizeof dir);
    put(dir, "tokenizer.json", MINI);
    put(dir, "tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</s>\","
        "\"add_bos_token\":true,\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},"
        "{\"name\":\"tool_use\",\"template\":\"T\"}]}");
    put(dir, "special_tokens_map.json", "{\"pad_token\":\"a\",\"eos_token\":\"other\"}");
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    ck_assert_int_eq(tn_tokenizer_role_id(t, "bos_token", &id), TN_OK);
    ck_assert_uint_eq(id, 1);
    ck_assert_str_eq(tn_tokenizer_role_text(t, "eos_token"), "</s>");
    ck_assert_int_eq(tn_tokenizer_role_id(t, "eos_token", &id), TN_E_NOTFOUND);
    ck_assert_str_eq(tn_tokenizer_role_text(t, "pad_token"), "a");
    ck_assert_int_eq(tn_tokenizer_setting(t, "add_bos_token"), 1);
    ck_assert_int_eq(tn_tokenizer_setting(t, "add_eos_token"), -1);
    ck_assert_uint_eq(tn_tokenizer_template_count(t), 2);
    ck_assert_str_eq(tn_tokenizer_template(t, NULL, NULL), "D");
    ck_assert_str_eq(tn_tokenizer_template(t, "tool_use", NULL), "T");
    tn_tokenizer_close(t);
    /* A file takes the place of all that the configuration has. */
    put(dir, "chat_template.jinja", "J");
    snprintf(sub, sizeof sub, "%s/additional_chat_templates", dir);
    ck_assert_int_eq(dir_make(sub, &err), TN_OK);
    put(sub, "rag.jinja", "R");
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    ck_assert_str_eq(tn_tokenizer_template(t, NULL, NULL), "J");
    ck_assert_str_eq(tn_tokenizer_template(t, "rag", NULL), "R");
    ck_assert_ptr_null(tn_tokenizer_template(t, "tool_use", NULL));
    tn_tokenizer_close(t);
    ck_assert_int_eq(dir_remove(dir, &err), TN_OK);
}
END_TEST

START_TEST(broken_files_beside_the_vocabulary_are_refused_by_name)
{
    static const char *const bad[][2] = {{"tokenizer_config.json", "{"},
                                         {"tokenizer_config.json", "[]"},
                                         {"tokenizer_config.json", "{\"chat_template\":7}"},
                                         {"tokenizer_config.json", "{\"chat_template\":[{}]}"},
                                         {"special_tokens_map.json", "nonsense"},
                                         {"chat_template.jinja", "\xff"}};
    tn_err err = TN_ERR_INIT;
    tn_tokenizer *t = NULL;
    char dir[64];

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        temp_dir(dir, sizeof dir);
        put(dir, "tokenizer.json", MINI);
        put(dir, bad[i][0], bad[i][1]);
        ck_assert_int_eq(tn_tokenizer_open(dir, &t, &err), TN_E_FORMAT);
        ck_assert_err_has(&err, bad[i][0]);
        ck_assert_int_eq(dir_remove(dir, &err), TN_OK);
    }
    ck_assert_int_eq(tn_tokenizer_open("/nonexistent/x", &t, &err), TN_E_NOTFOUND);
}
END_TEST

/* -- Threads and memory ------------------------------------------------------------------------------------------------ */

static void *encode_often(void *arg)
{
    const tn_tokenizer *t = arg;
    char want[256], got[256];
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_SPECIAL);

    encode_options(t, "ab ab <s> abc", 13, &o, want, sizeof want);
    for (int i = 0; i < 300; i++) {
        encode_options(t, "ab ab <s> abc", 13, &o, got, sizeof got);
        if (strcmp(want, got) != 0)
            return "different";
    }
    return NULL;
}

START_TEST(many_threads_share_one_tokenizer)
{
    tn_tokenizer *t = chat_tokenizer();
    pthread_t threads[8];
    void *said;

    for (int i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, encode_often, t), 0);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(pthread_join(threads[i], &said), 0);
        ck_assert_ptr_null(said);
    }
    tn_tokenizer_close(t);
}
END_TEST

static int32_t open_encode_decode(const char *dir, tn_err *err)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(TN_ENCODE_ADD_SPECIAL | TN_ENCODE_SPECIAL);
    const char *text = "The <|eot_id|> na\xc3\xafve server\xff, 12345 times.";
    tn_tokenizer *t = NULL;
    tn_encoding *e = NULL;
    char *back = NULL;
    size_t len = 0;
    int32_t rc = tn_tokenizer_open(dir, &t, err);

    if (rc == TN_OK)
        rc = tn_encoding_new(&e, err);
    if (rc == TN_OK)
        rc = tn_encode(t, text, strlen(text), &o, e, err);
    if (rc == TN_OK)
        rc = tn_decode(t, tn_encoding_ids(e), tn_encoding_count(e), TN_DECODE_SKIP_SPECIAL, &back,
                       &len, err);
    if (rc == TN_OK)
        ck_assert_str_eq(back, "The  na\xc3\xafve server\xef\xbf\xbd, 12345 times.");
    tn_text_free(back);
    tn_encoding_free(e);
    tn_tokenizer_close(t);
    return rc;
}

START_TEST(every_failed_allocation_is_an_error_and_leaks_nothing)
{
    tn_err err = TN_ERR_INIT;
    uint64_t n = 1;

    /* Loading makes thousands that are alike (the growing vocabulary); all of the first and then every so-manieth. */
    for (;; n += n < 150 ? 1 : n / 40) {
        mem_fail_nth(n, false);
        if (open_encode_decode(SOURCE_DIR "/models/docs-7m", &err) == TN_OK && !mem_injected())
            break;
        ck_assert_msg(mem_injected(), "failed without cause: %s", err.msg);
    }
    mem_fail_nth(0, false);
    ck_assert_uint_gt(n, 50);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("encode");
    TCase *c = tcase_create("encode");

    tcase_add_test(c, user_text_spelling_special_tokens_is_plain_text);
    tcase_add_test(c, special_tokens_count_only_inside_a_trusted_part);
    tcase_add_test(c, trusted_parts_mean_bytes_of_the_input_even_if_it_is_damaged);
    tcase_add_test(c, wrong_options_are_refused);
    tcase_add_test(c, damaged_utf8_counts_as_replacement_characters_and_keeps_its_places);
    tcase_add_test(c, spans_are_whole_characters_even_where_tokens_split_them);
    tcase_add_test(c, without_offsets_there_are_no_spans);
    tcase_add_test(c, an_encoding_moves_between_tokenizers_with_and_without_trimming);
    tcase_add_test(c, white_space_belongs_to_one_added_token);
    tcase_add_test(c, post_processors_follow_one_another);
    tcase_add_test(c, roles_settings_and_templates_are_found_beside_the_vocabulary);
    tcase_add_test(c, broken_files_beside_the_vocabulary_are_refused_by_name);
    tcase_add_test(c, many_threads_share_one_tokenizer);
    tcase_add_test(c, every_failed_allocation_is_an_error_and_leaks_nothing);
    suite_add_tcase(s, c);
    return run_suite(s);
}
