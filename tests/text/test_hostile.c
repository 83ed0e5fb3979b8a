/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vocabularies and texts made to hurt: refused files, long runs, merges that fight. A test that is quadratic anywhere
 * runs into CTest's limit; nothing here asks a clock.
 */
#include "base/rng.h"
#include "naive_bpe.h"
#include "textlimits.h"
#include "tokenizers.h"

static void ck_refused(const char *json, int32_t code, const char *says)
{
    tn_err err = TN_ERR_INIT;
    tn_tokenizer *t = NULL;

    ck_assert_msg(try_open(json, &t, &err) == code, "%s: status %d: %s", json, err.code, err.msg);
    ck_assert_err_has(&err, says);
    ck_assert_err_has(&err, "tokenizer.json");
    ck_assert_ptr_null(t);
}

#define MODEL(vocab, merges)                                                                       \
    "{\"model\":{\"type\":\"BPE\",\"vocab\":{" vocab "},\"merges\":[" merges "]}}"

START_TEST(vocabularies_that_contradict_themselves_are_refused)
{
    ck_refused(MODEL("", ""), TN_E_FORMAT, "empty");
    ck_refused(MODEL("\"a\":0,\"a\":1", ""), TN_E_FORMAT, "\"a\"");
    ck_refused(MODEL("\"a\":0,\"b\":0", ""), TN_E_FORMAT, "id 0");
    ck_refused(MODEL("\"a\":-1", ""), TN_E_FORMAT, "\"a\"");
    ck_refused(MODEL("\"a\":1.5", ""), TN_E_FORMAT, "\"a\"");
    ck_refused(MODEL("\"a\":4294967296", ""), TN_E_FORMAT, "\"a\"");
    ck_refused(MODEL("\"a\":0,\"b\":16777216", ""), TN_E_FORMAT, "16777216");
    ck_refused(MODEL("\"a\":0,\"b\":16000000", ""), TN_E_FORMAT, "2 tokens");
    ck_refused(MODEL("\"a\":\"0\"", ""), TN_E_FORMAT, "\"a\"");
}
END_TEST

START_TEST(merges_that_name_absent_tokens_are_refused)
{
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a x\""), TN_E_FORMAT, "\"x\"");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"x b\""), TN_E_FORMAT, "\"x\"");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"b a\""), TN_E_FORMAT, "\"ba\"");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"ab\""), TN_E_FORMAT, "\"ab\"");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a b c\""), TN_E_FORMAT, "a b c");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "[\"a\"]"), TN_E_FORMAT, "merge");
    ck_refused(MODEL("\"a\":0,\"b\":1,\"ab\":2", "[\"a\",7]"), TN_E_FORMAT, "merge");
    ck_refused(MODEL("\"a\":0", "7"), TN_E_FORMAT, "merge");
}
END_TEST

START_TEST(merges_in_a_circle_end)
{
    /* With an empty token a merge makes what it began with; none of them can ever apply. */
    tn_tokenizer *t = open_json(
        MODEL("\"a\":0,\"\":1,\"aa\":2", "[\"a\",\"\"],[\"\",\"a\"],[\"a\",\"a\"],[\"a\",\"\"]"));

    ck_encodes(t, "aaa", 0, "2:0-2 0:2-3");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(tokens_longer_than_the_limit_are_refused)
{
    struct strbuf b = STRBUF_INIT;

    strbuf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"");
    for (size_t i = 0; i <= LIMIT_TOKEN_BYTES; i++)
        strbuf_putc(&b, 'x');
    strbuf_puts(&b, "\":0}}}");
    ck_refused(strbuf_str(&b), TN_E_FORMAT, "65537 bytes");
    strbuf_release(&b);
}
END_TEST

START_TEST(tokens_that_look_like_bytes_but_are_none_stay_text)
{
    tn_tokenizer *t = open_json(
        "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"unk_token\":\"u\",\"merges\":[],"
        "\"vocab\":{\"u\":0,\"<0x-1>\":1,\"<0xZZ>\":2,\"<0x100>\":3,\"<0x78>\":4,\"a\":5}},"
        "\"decoder\":{\"type\":\"ByteFallback\"}}");
    const uint32_t ids[] = {1, 2, 3, 4, 5};
    tn_err err = TN_ERR_INIT;
    char *text = NULL;
    size_t len;

    ck_encodes(t, "ax\xc3\xbf", 0, "5:0-1 4:1-2 0:2-3");
    ck_assert_ok(tn_decode(t, ids, 5, 0, &text, &len, &err), &err);
    ck_assert_str_eq(text, "<0x-1><0xZZ><0x100>xa");
    tn_text_free(text);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(ids_with_gaps_leave_holes_that_decode_to_nothing)
{
    tn_tokenizer *t =
        open_json("{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":3,\"b\":7}},"
                  "\"decoder\":{\"type\":\"Fuse\"}}");
    const uint32_t ids[] = {0, 3, 5, 7, 8, 4000000000u};
    tn_err err = TN_ERR_INIT;
    char *text = NULL;
    size_t len;

    ck_assert_uint_eq(tn_tokenizer_vocab_size(t), 8);
    ck_assert_ok(tn_decode(t, ids, 6, 0, &text, &len, &err), &err);
    ck_assert_str_eq(text, "ab");
    tn_text_free(text);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(added_tokens_are_numbered_behind_the_vocabulary_whatever_they_say)
{
    /* As in the reference: the model's id, or the next free one; the file's number is not believed. */
    tn_tokenizer *t = open_json(
        "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"b\":1}},\"added_tokens\":["
        "{\"id\":4000000000,\"content\":\"<x>\",\"special\":true},{\"id\":9,\"content\":\"b\"}]}");
    uint32_t id = 99;

    ck_assert_int_eq(tn_tokenizer_token_to_id(t, "<x>", 3, &id), TN_OK);
    ck_assert_uint_eq(id, 2);
    ck_encodes(t, "ab<x>", TN_ENCODE_SPECIAL, "0:0-1 1:1-2 2:2-5");
    tn_tokenizer_close(t);
    ck_refused(
        "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0}},\"added_tokens\":[{}]}",
        TN_E_FORMAT, "content");
}
END_TEST

START_TEST(steps_that_are_not_known_are_refused_by_name)
{
    static const char *const parts[] = {"normalizer", "pre_tokenizer", "post_processor", "decoder"};
    char json[512];

    for (size_t i = 0; i < 4; i++) {
        snprintf(json, sizeof json,
                 "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0}},\"%s\":{\"type\":"
                 "\"Wonder\"}}",
                 parts[i]);
        ck_refused(json, TN_E_UNSUPPORTED, "Wonder");
        snprintf(json, sizeof json,
                 "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0}},\"%s\":[]}",
                 parts[i]);
        ck_refused(json, TN_E_FORMAT, parts[i]);
    }
    ck_refused("{\"model\":{\"type\":\"Oracle\"}}", TN_E_UNSUPPORTED, "model.type");
    ck_refused("{\"version\":\"2.0\",\"model\":{}}", TN_E_VERSION, "version");
    ck_refused("[]", TN_E_FORMAT, "object");
    ck_refused("{\"model\":{\"type\":\"BPE\",\"dropout\":0.1,\"merges\":[],\"vocab\":{\"a\":0}}}",
               TN_E_UNSUPPORTED, "dropout");
}
END_TEST

START_TEST(sequences_nested_without_end_are_refused)
{
    struct strbuf b = STRBUF_INIT;

    strbuf_puts(
        &b, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0}},\"pre_tokenizer\":");
    for (int i = 0; i < 100; i++)
        strbuf_puts(&b, "{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 100; i++)
        strbuf_puts(&b, "]}");
    strbuf_puts(&b, "}");
    ck_refused(strbuf_str(&b), TN_E_FORMAT, "pre_tokenizer");
    strbuf_release(&b);
}
END_TEST

/* -- Long texts -------------------------------------------------------------------------------------------------------- */

static tn_tokenizer *doubling_tokenizer(const char *parts)
{
    return open_bytes((const char *const[]){"aa", "aaaa", "aaaaaaaa", NULL},
                      "[[\"a\",\"a\"],[\"aa\",\"aa\"],[\"aaaa\",\"aaaa\"]]", parts);
}

static size_t count_tokens(const tn_tokenizer *t, const char *text, size_t len)
{
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    size_t n;

    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(tn_encode(t, text, len, NULL, e, &err), &err);
    n = tn_encoding_count(e);
    ck_assert_uint_eq(tn_encoding_spans(e)[n - 1].end, len);
    tn_encoding_free(e);
    return n;
}

START_TEST(ten_megabytes_of_one_letter_are_one_word)
{
    tn_tokenizer *t = doubling_tokenizer(",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_"
                                         "space\":false,\"use_regex\":false}");
    size_t len = 10 * 1000 * 1000;
    char *text = mem_alloc(len);

    memset(text, 'a', len);
    ck_assert_uint_eq(count_tokens(t, text, len), len / 8);
    mem_free(text);
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(long_runs_of_one_class_pass_every_kind_of_split)
{
    /* A pattern that has a scanner, one that PCRE2 runs, and one that backtracks along the whole run. */
    static const char *const patterns[] = {"'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| "
                                           "?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+",
                                           "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?+\\\\p{L}+|\\\\p{N}{1,3}|"
                                           "\\\\s*[\\\\r\\\\n]|\\\\s+(?!\\\\S)|\\\\s+",
                                           "(?:\\\\p{L}|\\\\s)+!|."};
    static const char runs[] = {'a', 'Z', ' ', '7', '\n', '!'};
    size_t len = 131072;
    char *text = mem_alloc(len), parts[512];

    for (size_t p = 0; p < 3; p++) {
        tn_tokenizer *t;
        snprintf(parts, sizeof parts,
                 ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
                 "\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\",\"invert\":false},"
                 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}",
                 patterns[p]);
        t = doubling_tokenizer(parts);
        for (size_t r = 0; r < sizeof runs; r++) {
            size_t n = p == 2 ? 4096 : len; /* the last is quadratic by its nature */
            memset(text, runs[r], n);
            ck_assert_uint_gt(count_tokens(t, text, n), 0);
        }
        tn_tokenizer_close(t);
    }
    mem_free(text);
}
END_TEST

START_TEST(patterns_that_explode_are_cut_off)
{
    tn_tokenizer *t = doubling_tokenizer(
        ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
        "\"pattern\":"
        "{\"Regex\":\"(?:a+)+(?:c|d)\"},\"behavior\":\"Isolated\",\"invert\":false},"
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}");
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    char text[64];

    memset(text, 'a', sizeof text);
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_int_eq(tn_encode(t, text, sizeof text, NULL, e, &err), TN_E_LIMIT);
    ck_assert_uint_eq(tn_encoding_count(e), 0);
    tn_encoding_free(e);
    tn_tokenizer_close(t);
}
END_TEST

/* -- Merges ------------------------------------------------------------------------------------------------------------- */

/* Random merges over three letters, so that they overlap, repeat and fight for their places. */
static tn_tokenizer *random_merges(struct rng *r, struct naive_merge *merges, size_t *count)
{
    char texts[64][40];
    const char *tokens[64];
    struct strbuf list = STRBUF_INIT;
    size_t n = 3, made = 0;
    tn_tokenizer *t;

    for (size_t i = 0; i < 3; i++)
        snprintf(texts[i], sizeof texts[i], "%c", (char)('a' + (int)i));
    *count = 0;
    strbuf_putc(&list, '[');
    for (size_t tries = 0; tries < 40 && n < 50; tries++) {
        size_t a = rng_below(r, (uint32_t)n), b = rng_below(r, (uint32_t)n), same = 0;
        if (strlen(texts[a]) + strlen(texts[b]) >= 24)
            continue;
        memcpy(texts[n], texts[a], strlen(texts[a]));
        memcpy(texts[n] + strlen(texts[a]), texts[b], strlen(texts[b]) + 1);
        while (strcmp(texts[same], texts[n]) != 0)
            same++;
        merges[(*count)++] = (struct naive_merge){(uint32_t)(a < 3 ? 'a' + a : 253 + a),
                                                  (uint32_t)(b < 3 ? 'a' + b : 253 + b),
                                                  (uint32_t)(same < 3 ? 'a' + same : 253 + same)};
        strbuf_printf(&list, "%s[\"%s\",\"%s\"]", *count > 1 ? "," : "", texts[a], texts[b]);
        if (same == n) {
            tokens[made++] = texts[n];
            n++;
        }
    }
    strbuf_putc(&list, ']');
    tokens[made] = NULL;
    t = open_bytes(tokens, strbuf_str(&list),
                   ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
                   "regex\":false}");
    strbuf_release(&list);
    return t;
}

START_TEST(merges_give_what_their_definition_gives)
{
    struct naive_merge merges[64];
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    struct rng r = {11};

    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    for (int round = 0; round < 60; round++) {
        size_t count;
        tn_tokenizer *t = random_merges(&r, merges, &count);
        for (int k = 0; k < 30; k++) {
            char text[220];
            uint32_t ids[220];
            size_t len = 1 + rng_below(&r, sizeof text), n;
            for (size_t i = 0; i < len; i++)
                ids[i] =
                    (uint32_t)(unsigned char)(text[i] =
                                                  (char)('a' + (int)rng_below(
                                                                   &r, (uint64_t)(k % 3 + 1))));
            n = naive_bpe(merges, count, ids, len);
            ck_assert_ok(tn_encode(t, text, len, NULL, e, &err), &err);
            ck_assert_uint_eq(tn_encoding_count(e), n);
            ck_assert_mem_eq(tn_encoding_ids(e), ids, n * sizeof *ids);
        }
        tn_tokenizer_close(t);
    }
    tn_encoding_free(e);
}
END_TEST

START_TEST(merges_that_keep_undoing_the_queues_order_stay_n_log_n)
{
    /* Every merge of rank r makes pairs of rank r - 1 again, to the left of what is queued: the latecomers. */
    struct strbuf list = STRBUF_INIT;
    char texts[27][32];
    const char *tokens[27];
    size_t len = 4 * 1000 * 1000;
    char *text = mem_alloc(len);
    tn_tokenizer *t;

    strbuf_puts(&list, "[");
    for (int i = 24; i > 0; i--) {
        snprintf(texts[i], sizeof texts[i], "%c", 'a');
        for (int k = 0; k < i; k++)
            texts[i][k + 1] = (char)('a' + k + 1);
        texts[i][i + 1] = '\0';
    }
    for (int i = 1; i <= 24; i++) {
        tokens[i - 1] = texts[i];
        strbuf_printf(&list, "%s[\"%.*s\",\"%c\"]", i > 1 ? "," : "", i, texts[i], 'a' + i);
    }
    tokens[24] = NULL;
    strbuf_puts(&list, "]");
    t = open_bytes(tokens, strbuf_str(&list),
                   ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_"
                   "regex\":false}");
    for (size_t i = 0; i < len; i++)
        text[i] = (char)('a' + (int)(i % 25));
    ck_assert_uint_eq(count_tokens(t, text, len), len / 25);
    mem_free(text);
    strbuf_release(&list);
    tn_tokenizer_close(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hostile");
    TCase *c = tcase_create("hostile");

    tcase_add_test(c, vocabularies_that_contradict_themselves_are_refused);
    tcase_add_test(c, merges_that_name_absent_tokens_are_refused);
    tcase_add_test(c, merges_in_a_circle_end);
    tcase_add_test(c, tokens_longer_than_the_limit_are_refused);
    tcase_add_test(c, tokens_that_look_like_bytes_but_are_none_stay_text);
    tcase_add_test(c, ids_with_gaps_leave_holes_that_decode_to_nothing);
    tcase_add_test(c, added_tokens_are_numbered_behind_the_vocabulary_whatever_they_say);
    tcase_add_test(c, steps_that_are_not_known_are_refused_by_name);
    tcase_add_test(c, sequences_nested_without_end_are_refused);
    tcase_add_test(c, ten_megabytes_of_one_letter_are_one_word);
    tcase_add_test(c, long_runs_of_one_class_pass_every_kind_of_split);
    tcase_add_test(c, patterns_that_explode_are_cut_off);
    tcase_add_test(c, merges_give_what_their_definition_gives);
    tcase_add_test(c, merges_that_keep_undoing_the_queues_order_stay_n_log_n);
    suite_add_tcase(s, c);
    return run_suite(s);
}
