/* SPDX-License-Identifier: Apache-2.0 */
/* Vocabulary files of SentencePiece and tiktoken: what they open as, and what damage does to them. */
#include "base/strbuf.h"
#include "import.h"
#include "tenon_text.h"
#include "text_util.h"

/* --- A SentencePiece model, written field by field --- */

struct bytes {
    char data[4096];
    size_t len;
};

static void put(struct bytes *b, const void *data, size_t n)
{
    ck_assert_uint_le(b->len + n, sizeof b->data);
    memcpy(b->data + b->len, data, n);
    b->len += n;
}

static void put_varint(struct bytes *b, uint64_t v)
{
    do {
        unsigned char c = (unsigned char)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        put(b, &c, 1);
        v >>= 7;
    } while (v);
}

static void put_int(struct bytes *b, uint32_t field, uint64_t v)
{
    put_varint(b, field << 3);
    put_varint(b, v);
}

static void put_bytes(struct bytes *b, uint32_t field, const void *data, size_t n)
{
    put_varint(b, field << 3 | 2);
    put_varint(b, n);
    put(b, data, n);
}

static void put_float(struct bytes *b, uint32_t field, float v)
{
    put_varint(b, field << 3 | 5);
    put(b, &v, 4);
}

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, UNUSED = 5, BYTE = 6 };

static void put_piece(struct bytes *b, const char *text, float score, uint64_t type)
{
    struct bytes p = {.len = 0};

    put_bytes(&p, 1, text, strlen(text));
    put_float(&p, 2, score);
    if (type != NORMAL)
        put_int(&p, 3, type);
    put_bytes(b, 1, p.data, p.len);
}

static void put_trainer(struct bytes *b, uint64_t model_type, bool byte_fallback)
{
    struct bytes t = {.len = 0};

    put_int(&t, 3, model_type);
    put_int(&t, 35, byte_fallback);
    put_int(&t, 41, 1);
    put_int(&t, 42, 2);
    put_bytes(b, 2, t.data, t.len);
}

static void put_normalizer(struct bytes *b, bool prefix, bool trim)
{
    struct bytes n = {.len = 0};

    put_int(&n, 3, prefix);
    put_int(&n, 4, trim);
    put_bytes(b, 3, n.data, n.len);
}

#define META "\xe2\x96\x81"

static void begin_model(struct bytes *b)
{
    b->len = 0;
    put_piece(b, "<unk>", 0, UNKNOWN);
    put_piece(b, "<s>", 0, CONTROL);
    put_piece(b, "</s>", 0, CONTROL);
}

static struct bytes bpe_model(void)
{
    struct bytes b;

    begin_model(&b);
    put_piece(&b, META "a", -1, NORMAL);   /* 3 */
    put_piece(&b, "bb", -2, NORMAL);       /* 4 */
    put_piece(&b, META, -3, NORMAL);       /* 5 */
    put_piece(&b, "a", -4, NORMAL);        /* 6 */
    put_piece(&b, "b", -5, NORMAL);        /* 7 */
    put_piece(&b, "<t*ol>", 0, USER);      /* 8 */
    put_piece(&b, META "bab", -6, NORMAL); /* 9 */
    put_trainer(&b, 2, false);
    put_normalizer(&b, true, false);
    return b;
}

static struct bytes unigram_model(void)
{
    struct bytes b;

    begin_model(&b);
    put_piece(&b, META, -2, NORMAL);     /* 3 */
    put_piece(&b, "a", -3, NORMAL);      /* 4 */
    put_piece(&b, META "a", -4, NORMAL); /* 5 */
    put_piece(&b, "ab", -1, USER);       /* 6 */
    put_piece(&b, "aaa", -1, UNUSED);    /* 7 */
    put_trainer(&b, 1, false);
    put_normalizer(&b, true, true);
    return b;
}

static int32_t import(const struct bytes *b, tn_err *err)
{
    struct strbuf json = STRBUF_INIT;
    int32_t rc = import_sentencepiece("t.model", b->data, b->len, NULL, &json, err);

    strbuf_release(&json);
    return rc;
}

/* --- Through the front door --- */

static char dir[64];

static void make_dir(void)
{
    temp_dir(dir, sizeof dir);
}

static void remove_dir(void)
{
    char command[96];

    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static void put_file(const char *name, const void *data, size_t n)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    write_file(path, data, n);
}

static void check_tokens(const tn_tokenizer *t, const char *text, uint32_t flags,
                         const char *expected)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(flags | TN_ENCODE_BYTE_OFFSETS);
    tn_encoding *e = NULL;
    char got[256];
    tn_err err;

    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(tn_encode(t, text, strlen(text), &o, e, &err), &err);
    print_tokens(e, got, sizeof got);
    ck_assert_str_eq(got, expected);
    tn_encoding_free(e);
}

static void check_text(const tn_tokenizer *t, const uint32_t *ids, size_t n, const char *expected)
{
    char *text;
    size_t len;
    tn_err err;

    ck_assert_ok(tn_decode(t, ids, n, TN_DECODE_SKIP_SPECIAL, &text, &len, &err), &err);
    ck_assert_str_eq(text, expected);
    tn_text_free(text);
}

START_TEST(sentencepiece_bpe_opens)
{
    struct bytes b = bpe_model();
    tn_tokenizer *t = NULL;
    tn_err err;

    put_file("tokenizer.model", b.data, b.len);
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    check_tokens(t, "abb", TN_ENCODE_ADD_SPECIAL, "1:0-0 3:0-1 4:1-3");
    check_tokens(t, "abb abb", 0, "3:0-1 4:1-3 3:3-5 4:5-7");
    check_tokens(t, "bbb", 0, "5:0-1 4:0-2 7:2-3"); /* of equal ranks the left one */
    check_tokens(t, "a<t*ol>b", 0, "3:0-1 8:1-7 7:7-8");
    check_tokens(t, "</s>", 0, "5:0-1 0:0-4"); /* text is no control piece */
    check_tokens(t, "</s>a", TN_ENCODE_SPECIAL,
                 "2:0-4 6:4-5"); /* and what follows gets no prefix */
    check_text(t, (uint32_t[]){1, 3, 4, 2}, 4, "abb");
    tn_tokenizer_close(t);
}
END_TEST

/* Without a prefix a text may be a piece as it stands. */
START_TEST(sentencepiece_text_is_no_control_piece)
{
    struct bytes b;
    tn_tokenizer *t = NULL;
    tn_err err;

    begin_model(&b);
    for (const char *c = "</s>"; *c; c++)
        put_piece(&b, (char[]){*c, '\0'}, -1, NORMAL); /* 3 to 6 */
    put_piece(&b, "ss", 0, USER);                      /* 7 */
    put_trainer(&b, 2, false);
    put_normalizer(&b, false, false);
    put_file("tokenizer.model", b.data, b.len);
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    check_tokens(t, "</s>", 0, "3:0-1 4:1-2 5:2-3 6:3-4");
    check_tokens(t, "ss", 0, "7:0-2");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(sentencepiece_unigram_opens)
{
    struct bytes b = unigram_model();
    static const char config[] = "{\"add_eos_token\": true}";
    tn_tokenizer *t = NULL;
    tn_err err;

    put_file("spiece.model", b.data, b.len);
    put_file("tokenizer_config.json", config, sizeof config - 1);
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    check_tokens(t, "  a   a ", TN_ENCODE_ADD_SPECIAL, "5:2-3 5:3-7 2:0-0");
    check_tokens(t, "aaa", 0, "5:0-1 4:1-2 4:2-3"); /* the unused piece stays so */
    check_tokens(t, "aab", 0, "5:0-1 6:1-3");
    check_tokens(t, "xyz", 0, "3:0-1 0:0-3");
    check_tokens(t, "   ", 0, "");
    tn_tokenizer_close(t);
}
END_TEST

/* Sums of scores are equal but for what the sum before them leaves of their last bits; so a user-defined piece must
 * score what SentencePiece has it score. */
START_TEST(sentencepiece_ties_go_by_rounding)
{
    struct bytes b;
    tn_tokenizer *t = NULL;
    tn_err err;

    begin_model(&b);
    put_piece(&b, META, -2, NORMAL);    /* 3 */
    put_piece(&b, "a", -2.02, NORMAL);  /* 4 */
    put_piece(&b, "aa", -3.11, NORMAL); /* 5 */
    put_piece(&b, "<t*>", 0, USER);     /* 6 */
    put_trainer(&b, 1, false);
    put_normalizer(&b, true, true);
    put_file("spiece.model", b.data, b.len);
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    check_tokens(t, "<t*>aaa", 0, "3:0-1 6:0-4 4:4-5 5:5-7");
    check_tokens(t, "aaa", 0, "3:0-1 5:0-2 4:2-3");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(tiktoken_opens)
{
    /* a, b, space, ab, " ab", and a rank that is left out */
    static const char ranks[] = "YQ== 0\nYg== 1\r\nIA== 2\n\nYWI= 3\nIGFi 5\n";
    static const char config[] = "{\"added_tokens_decoder\": {\"8\": {\"content\": \"<|end|>\","
                                 "\"special\": true}}, \"extra_special_tokens\": [\"<x>\"]}";
    const char *names[] = {"tiktoken.model", "vocab.tiktoken", "tokenizer.model"};
    tn_tokenizer *t = NULL;
    uint32_t id;
    tn_err err;

    put_file(names[_i], ranks, sizeof ranks - 1);
    put_file("tokenizer_config.json", config, sizeof config - 1);
    ck_assert_ok(tn_tokenizer_open(dir, &t, &err), &err);
    check_tokens(t, "ab ab", 0, "3:0-2 5:2-5");
    check_tokens(t, "aab", 0, "0:0-1 3:1-3");
    check_tokens(t, "a<|end|><x>", TN_ENCODE_SPECIAL, "0:0-1 8:1-8 9:8-11");
    ck_assert_int_eq(tn_tokenizer_token_to_id(t, "<|reserved_token_7|>", 20, &id), TN_OK);
    ck_assert_uint_eq(id, 7);
    check_text(t, (uint32_t[]){3, 8, 5}, 3, "ab ab");
    tn_tokenizer_close(t);
}
END_TEST

START_TEST(a_directory_without_vocabulary_is_told)
{
    tn_tokenizer *t = NULL;
    tn_err err;

    ck_assert_int_eq(tn_tokenizer_open(dir, &t, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "vocabulary");
    ck_assert_ptr_null(t);
}
END_TEST

/* --- Damage --- */

START_TEST(cut_models_are_refused_or_whole)
{
    struct bytes whole = _i ? bpe_model() : unigram_model(), cut;
    size_t loaded = 0;
    tn_err err;

    ck_assert_ok(import(&whole, &err), &err);
    for (size_t n = 0; n < whole.len; n++) {
        int32_t rc;
        cut = whole;
        cut.len = n;
        rc = import(&cut, &err);
        ck_assert_msg(rc == TN_OK || rc == TN_E_FORMAT, "%zu bytes: %d", n, (int)rc);
        loaded += rc == TN_OK;
    }
    ck_assert_uint_lt(loaded, 16); /* only cuts between fields can be models */
}
END_TEST

START_TEST(flipped_bits_never_break_the_reader)
{
    struct bytes whole = _i ? bpe_model() : unigram_model();
    tn_err err;

    for (size_t i = 0; i < whole.len * 8; i++) {
        struct bytes b = whole;
        int32_t rc;
        b.data[i / 8] ^= (char)(1 << i % 8);
        rc = import(&b, &err);
        ck_assert_msg(rc == TN_OK || rc == TN_E_FORMAT || rc == TN_E_UNSUPPORTED ||
                          rc == TN_E_LIMIT,
                      "bit %zu: %d", i, (int)rc);
    }
}
END_TEST

static int32_t import_with(const char *text, float score, uint64_t type, uint64_t model_type)
{
    struct bytes b;
    tn_err err;

    begin_model(&b);
    put_piece(&b, text, score, type);
    put_trainer(&b, model_type, false);
    return import(&b, &err);
}

START_TEST(bad_pieces_are_refused)
{
    struct bytes b = {.len = 0};
    float nan = 0;
    tn_err err;

    nan = nan / nan;
    ck_assert_int_eq(import_with("a", -1, NORMAL, 1), TN_OK);
    ck_assert_int_eq(import_with("a", nan, NORMAL, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("a", -1, 7, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("a", -1, UINT64_MAX, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("", -1, NORMAL, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("\xff", -1, NORMAL, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("<unk2>", -1, UNKNOWN, 1), TN_E_FORMAT);
    ck_assert_int_eq(import_with("a", -1, NORMAL, 3), TN_E_UNSUPPORTED);
    ck_assert_int_eq(import_with("a", -1, NORMAL, UINT64_MAX), TN_E_UNSUPPORTED);
    ck_assert_int_eq(import_with("a", -1, UNUSED, 2), TN_E_UNSUPPORTED);
    put_piece(&b, "a", 0, NORMAL);
    ck_assert_int_eq(import(&b, &err), TN_E_FORMAT);
    ck_assert_err_has(&err, "unknown piece");
}
END_TEST

/* A NUL inside a piece is a character like others, and must not cut the copy that its length outlives. */
START_TEST(pieces_may_hold_nul)
{
    struct bytes b = {.len = 0}, p = {.len = 0};
    struct strbuf json = STRBUF_INIT;
    tn_err err;

    put_piece(&b, "<unk>", 0, UNKNOWN);
    put_bytes(&p, 1, "</\0>", 4);
    put_int(&p, 3, CONTROL);
    put_bytes(&b, 1, p.data, p.len);
    ck_assert_ok(import_sentencepiece("t.model", b.data, b.len, NULL, &json, &err), &err);
    ck_assert_ptr_nonnull(strstr(strbuf_str(&json), "\"content\":\"</\\u0000>\""));
    strbuf_release(&json);
}
END_TEST

START_TEST(bad_wire_data_is_refused)
{
    static const struct {
        const char *data;
        size_t len;
    } cases[] = {{"", 0},
                 {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, /* a length of 2^64 - 1 */
                 {"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 12}, /* 11 bytes of varint */
                 {"\x0b\x0c", 2},                                          /* a group */
                 {"\x02\x00", 2},                                          /* field 0 */
                 {"\x0d\x00\x00", 3},                                      /* half a fixed32 */
                 {"\x0a\x05\x0a\x07xyz", 7}, /* longer than its message */
                 {"hello world", 11}};
    struct strbuf json = STRBUF_INIT;
    tn_err err;

    ck_assert_int_eq(
        import_sentencepiece("t.model", cases[_i].data, cases[_i].len, NULL, &json, &err),
        TN_E_FORMAT);
    ck_assert_str_eq(err.file, "t.model");
    strbuf_release(&json);
}
END_TEST

static const char *const bad_ranks[] = {
    "",
    "\n\n",
    "YQ==",
    "YQ== ",
    "YQ== x",
    "YQ== -1",
    "YQ== 1 2",
    "YQ==  1",
    "YQ 0",
    "Y*== 0",
    " 0",
    "YQ== 99999999",
    "YQ== 99999999999999999999",
    "= 0",
    "YQ== 0\nYg== one",
};

START_TEST(bad_rank_files_are_refused)
{
    struct strbuf json = STRBUF_INIT;
    const char *text = bad_ranks[_i];
    tn_err err;
    int32_t rc = import_tiktoken("t.tiktoken", text, strlen(text), NULL, &json, &err);

    ck_assert_msg(rc == TN_E_FORMAT, "'%s': %d", text, (int)rc);
    ck_assert_str_eq(err.file, "t.tiktoken");
    strbuf_release(&json);
}
END_TEST

/* What stands twice is found when the vocabulary is made. */
START_TEST(double_tokens_and_ranks_are_refused)
{
    static const char *const files[] = {"YQ== 0\nYQ== 1\n", "YQ== 0\nYg== 0\n"};
    tn_tokenizer *t = NULL;
    tn_err err;

    put_file("a.tiktoken", files[_i], strlen(files[_i]));
    ck_assert_int_eq(tn_tokenizer_open(dir, &t, &err), TN_E_FORMAT);
    ck_assert_ptr_null(t);
}
END_TEST

START_TEST(bad_configurations_are_refused)
{
    static const char *const configs[] = {
        "{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}",
        "{\"added_tokens_decoder\": {\"-1\": {\"content\": \"a\"}}}",
        "{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"a\"}}}",
        "{\"added_tokens_decoder\": {\"16777215\": {\"content\": \"a\"}}}",
        "{\"added_tokens_decoder\": {\"1\": {\"content\": 7}}}",
        "{\"added_tokens_decoder\": {\"1\": {}}}",
        "{\"added_tokens_decoder\": []}",
        "{",
    };
    tn_tokenizer *t = NULL;
    tn_err err;
    int32_t rc;

    put_file("a.tiktoken", "YQ== 0\n", 7);
    put_file("tokenizer_config.json", configs[_i], strlen(configs[_i]));
    rc = tn_tokenizer_open(dir, &t, &err);
    ck_assert_msg(rc == TN_E_FORMAT || rc == TN_E_LIMIT || rc == TN_E_TYPE, "%s: %d", configs[_i],
                  (int)rc);
    ck_assert_ptr_null(t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("import");
    TCase *c = tcase_create("open");

    uni_init();
    tcase_add_checked_fixture(c, make_dir, remove_dir);
    tcase_add_test(c, sentencepiece_bpe_opens);
    tcase_add_test(c, sentencepiece_text_is_no_control_piece);
    tcase_add_test(c, sentencepiece_unigram_opens);
    tcase_add_test(c, sentencepiece_ties_go_by_rounding);
    tcase_add_loop_test(c, tiktoken_opens, 0, 3);
    tcase_add_test(c, a_directory_without_vocabulary_is_told);
    tcase_add_loop_test(c, double_tokens_and_ranks_are_refused, 0, 2);
    tcase_add_loop_test(c, bad_configurations_are_refused, 0, 8);
    suite_add_tcase(s, c);
    c = tcase_create("damage");
    tcase_add_loop_test(c, cut_models_are_refused_or_whole, 0, 2);
    tcase_add_loop_test(c, flipped_bits_never_break_the_reader, 0, 2);
    tcase_add_test(c, bad_pieces_are_refused);
    tcase_add_test(c, pieces_may_hold_nul);
    tcase_add_loop_test(c, bad_wire_data_is_refused, 0, 8);
    tcase_add_loop_test(c, bad_rank_files_are_refused, 0,
                        (int)(sizeof bad_ranks / sizeof *bad_ranks));
    suite_add_tcase(s, c);
    return run_suite(s);
}
