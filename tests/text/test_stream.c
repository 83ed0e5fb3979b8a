/* SPDX-License-Identifier: Apache-2.0 */
/* Streams of text: what each decoder lets out and when, that it is the same in sum as at once, and stop strings. */
#include "base/utf8.h"
#include "tokenizers.h"

/* A model whose tokens are `texts` with ids from 0 on, and a decoder. */
static tn_tokenizer *open_decoder(const char *const *texts, const char *decoder)
{
    struct strbuf b = STRBUF_INIT;
    tn_tokenizer *t;

    strbuf_puts(&b, "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (unsigned i = 0; texts[i]; i++)
        strbuf_printf(&b, "%s\"%s\":%u", i ? "," : "", texts[i], i);
    strbuf_printf(&b, "}},\"decoder\":%s}", decoder);
    t = open_json(strbuf_str(&b));
    strbuf_release(&b);
    return t;
}

/* Pushes ids 0, 1, ... (or `ids`) and writes what comes, "|" between the calls; compares with the text at once. */
static void stream(const tn_tokenizer *t, const uint32_t *ids, size_t n, uint32_t flags, char *out,
                   size_t size)
{
    tn_err err = TN_ERR_INIT;
    struct strbuf all = STRBUF_INIT, shown = STRBUF_INIT;
    tn_detok *d = NULL;
    const char *text;
    char *whole = NULL;
    size_t len;

    ck_assert_ok(tn_detok_new(t, flags, &d, &err), &err);
    for (size_t i = 0; i <= n; i++) {
        ck_assert_ok(i < n ? tn_detok_push(d, ids[i], &text, &len, &err)
                           : tn_detok_flush(d, &text, &len, &err),
                     &err);
        ck_assert_msg(utf8_valid(text, len), "half a character came out");
        strbuf_append(&all, text, len);
        strbuf_puts(&shown, i ? "|" : "");
        strbuf_append(&shown, text, len);
    }
    ck_assert_ok(tn_decode(t, ids, n, flags, &whole, &len, &err), &err);
    ck_assert_uint_eq(len, all.len);
    ck_assert_str_eq(whole, strbuf_str(&all));
    snprintf(out, size, "%s", strbuf_str(&shown));
    tn_text_free(whole);
    tn_detok_free(d);
    strbuf_release(&all);
    strbuf_release(&shown);
}

static void ck_stream(const char *decoder, const char *const *texts, const char *want)
{
    tn_tokenizer *t = open_decoder(texts, decoder);
    uint32_t ids[32];
    size_t n = 0;
    char got[512];

    for (; texts[n]; n++)
        ids[n] = (uint32_t)n;
    stream(t, ids, n, 0, got, sizeof got);
    ck_assert_str_eq(got, want);
    tn_tokenizer_close(t);
}

#define TEXTS(...) ((const char *const[]){__VA_ARGS__, NULL})

START_TEST(byte_level_holds_back_unfinished_characters_only)
{
    /* U+20AC in three tokens, a byte that is none, a token outside the alphabet */
    ck_stream("{\"type\":\"ByteLevel\"}",
              TEXTS("a\xc3\xa2", "\xc4\xa4", "\xc2\xac\xc4\xa0x",
                    "\xc3\xbf"
                    "b",
                    "\xe2\x82\xac", "\xc3\x83"),
              "a||\xe2\x82\xac x|\xef\xbf\xbd"
              "b|\xe2\x82\xac||\xef\xbf\xbd");
}
END_TEST

START_TEST(bytes_come_out_when_their_run_is_over_or_broken)
{
    const char *decoder = "{\"type\":\"ByteFallback\"}";

    ck_stream(decoder, TEXTS("x", "<0xC3>", "<0xa9>", "y"), "x|||\xc3\xa9y|");
    ck_stream(decoder, TEXTS("<0xC3>", "z", "<0x41>"), "|\xef\xbf\xbdz||A");
    /* From the broken byte on the whole run is lost, and each byte is sure at once. */
    ck_stream(decoder, TEXTS("<0x41>", "<0xFF>", "<0x42>", "w"),
              "|\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd|w|");
    ck_stream(decoder, TEXTS("<0x4", "<0xG1>", "<0x411>", "<"), "<0x4|<0xG1>|<0x411>|<|");
}
END_TEST

START_TEST(llama_streams_without_its_first_space)
{
    ck_stream(
        "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}",
        TEXTS("\xe2\x96\x81\xe2\x96\x81Hi", "\xe2\x96\x81there", "<0xE2>", "<0x82>", "<0xAC>", "!"),
        " Hi| there||||\xe2\x82\xac!|");
}
END_TEST

START_TEST(metaspace_drops_marks_of_the_first_token_only)
{
    const char *const *texts = TEXTS("\xe2\x96\x81"
                                     "a\xe2\x96\x81",
                                     "\xe2\x96\x81"
                                     "b",
                                     "c");

    ck_stream(
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"always\"}",
        texts, "a| b|c|");
    ck_stream(
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"never\"}",
        texts, " a | b|c|");
}
END_TEST

START_TEST(replacing_after_fusing_sees_across_tokens)
{
    const char *decoder = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                          "\"Replace\",\"pattern\":{\"String\":\"abac\"},\"content\":\"X\"}]}";

    ck_stream(decoder, TEXTS("zab", "a", "b", "ac", "ab"), "z||ab|X||ab");
    ck_stream("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Replace\","
              "\"pattern\":{\"Regex\":\"b+\"},\"content\":\"-\"}]}",
              TEXTS("ab", "b", "c"), "|||a-c");
}
END_TEST

START_TEST(strip_holds_back_what_may_be_the_end)
{
    ck_stream("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
              "\"content\":\"_\",\"start\":2,\"stop\":2}]}",
              TEXTS("_", "__a", "__", "___", "b_"), "|_a||___|__b|");
    ck_stream("{\"type\":\"Strip\",\"content\":\"_\",\"start\":1,\"stop\":1}",
              TEXTS("_", "__", "_a_"), "||a|");
}
END_TEST

START_TEST(word_pieces_get_their_spaces)
{
    ck_stream("{\"type\":\"WordPiece\",\"prefix\":\"##\",\"cleanup\":true}",
              TEXTS("do", "##n", "'", "t", "stop", "."), "do|n| '| t| stop|.|");
    ck_stream("{\"type\":\"BPEDecoder\",\"suffix\":\"</w>\"}", TEXTS("a", "b</w>", "c</w>"),
              "a|b| c|");
    ck_stream(
        "{\"type\":\"CTC\",\"pad_token\":\"<p>\",\"word_delimiter_token\":\"/\",\"cleanup\":true}",
        TEXTS("<p>", "a", "b", "/", "c"), "|a|b| |c|");
    ck_stream("null", TEXTS("a", "b", "c"), "a| b| c|");
}
END_TEST

START_TEST(clean_up_holds_back_a_space_that_may_go)
{
    tn_tokenizer *t = open_decoder(TEXTS("Hi", ".", "I", "'m", "x", "n't", "you"), "null");
    const uint32_t ids[] = {0, 1, 2, 3, 4, 5, 6};
    char got[256];

    stream(t, ids, 7, TN_DECODE_CLEAN_UP, got, sizeof got);
    ck_assert_str_eq(got, "Hi|.| I|'m| x|n't| you|");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(special_and_unused_ids_are_nothing)
{
    tn_tokenizer *t = open_json(
        "{\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"a\":0,\"b\":1}},\"added_tokens\":"
        "[{\"id\":2,\"content\":\"<s>\",\"special\":true}],\"decoder\":{\"type\":\"Fuse\"}}");
    const uint32_t ids[] = {2, 0, 77, 2, 1, UINT32_MAX};
    char got[256];

    stream(t, ids, 6, 0, got, sizeof got);
    ck_assert_str_eq(got, "<s>|a||<s>|b||");
    stream(t, ids, 6, TN_DECODE_SKIP_SPECIAL, got, sizeof got);
    ck_assert_str_eq(got, "|a|||b||");
    tn_tokenizer_close(t);
}
END_TEST

/* -- Stop strings ----------------------------------------------------------------------------------------------------- */

/* Feeds `parts`; "|" between what comes out, "#i" where string i was found. */
static void ck_stop(const char *const *stops, const char *const *parts, const char *want)
{
    struct strbuf shown = STRBUF_INIT;
    tn_err err = TN_ERR_INIT;
    size_t n = 0, lens[8], len;
    tn_stop *s = NULL;
    const char *safe;
    int32_t found;

    for (; stops[n]; n++)
        lens[n] = strlen(stops[n]);
    ck_assert_ok(tn_stop_new(stops, lens, n, &s, &err), &err);
    for (size_t i = 0; parts[i]; i++) {
        ck_assert_ok(tn_stop_push(s, parts[i], strlen(parts[i]), &safe, &len, &found, &err), &err);
        strbuf_append(&shown, safe, len);
        if (found >= 0)
            strbuf_printf(&shown, "#%d", (int)found);
        strbuf_puts(&shown, "|");
    }
    ck_assert_ok(tn_stop_flush(s, &safe, &len, &err), &err);
    strbuf_append(&shown, safe, len);
    ck_assert_str_eq(strbuf_str(&shown), want);
    strbuf_release(&shown);
    tn_stop_free(s);
}

START_TEST(stop_strings_are_found_across_parts_and_delay_nothing_else)
{
    ck_stop(TEXTS("END"), TEXTS("abE", "N", "x", "END!", "more"), "ab||ENx|#0|#0|");
    ck_stop(TEXTS("\n\n"), TEXTS("a\n", "b\n", "\nc"), "a|\nb|#0|");
    ck_stop(TEXTS("aab"), TEXTS("aa", "a", "a", "b"), "|a|a|#0|");
    ck_stop(TEXTS("xyz"), TEXTS("ab", "xy"), "ab||xy");
    ck_stop(TEXTS("\xe2\x82\xac"), TEXTS("a\xe2\x82\xad", "\xe2\x82\xac"), "a\xe2\x82\xad|#0|");
}
END_TEST

START_TEST(the_stop_string_that_ends_first_counts_and_of_those_the_longest)
{
    ck_stop(TEXTS("cd", "bcde"), TEXTS("abcde"), "ab#0|");
    ck_stop(TEXTS("c", "abc", "bc"), TEXTS("xa", "bc"), "x|#1|");
    ck_stop(TEXTS("same", "same"), TEXTS("same"), "#0|");
}
END_TEST

START_TEST(stop_strings_out_of_bounds_are_refused)
{
    char big[1025];
    const char *many[33];
    size_t lens[33];
    tn_stop *s = NULL;
    tn_err err = TN_ERR_INIT;
    const char *one = big;

    memset(big, 'a', sizeof big);
    lens[0] = sizeof big;
    ck_assert_int_eq(tn_stop_new(&one, lens, 1, &s, &err), TN_E_LIMIT);
    lens[0] = 0;
    ck_assert_int_eq(tn_stop_new(&one, lens, 1, &s, &err), TN_E_LIMIT);
    one = "\xe2\x82";
    lens[0] = 2;
    ck_assert_int_eq(tn_stop_new(&one, lens, 1, &s, &err), TN_E_INVALID);
    for (size_t i = 0; i < 33; i++) {
        many[i] = "x";
        lens[i] = 1;
    }
    ck_assert_int_eq(tn_stop_new(many, lens, 33, &s, &err), TN_E_LIMIT);
    ck_assert_ok(tn_stop_new(NULL, NULL, 0, &s, &err), &err);
    tn_stop_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stream");
    TCase *c = tcase_create("stream");

    tcase_add_test(c, byte_level_holds_back_unfinished_characters_only);
    tcase_add_test(c, bytes_come_out_when_their_run_is_over_or_broken);
    tcase_add_test(c, llama_streams_without_its_first_space);
    tcase_add_test(c, metaspace_drops_marks_of_the_first_token_only);
    tcase_add_test(c, replacing_after_fusing_sees_across_tokens);
    tcase_add_test(c, strip_holds_back_what_may_be_the_end);
    tcase_add_test(c, word_pieces_get_their_spaces);
    tcase_add_test(c, clean_up_holds_back_a_space_that_may_go);
    tcase_add_test(c, special_and_unused_ids_are_nothing);
    tcase_add_test(c, stop_strings_are_found_across_parts_and_delay_nothing_else);
    tcase_add_test(c, the_stop_string_that_ends_first_counts_and_of_those_the_longest);
    tcase_add_test(c, stop_strings_out_of_bounds_are_refused);
    suite_add_tcase(s, c);
    return run_suite(s);
}
