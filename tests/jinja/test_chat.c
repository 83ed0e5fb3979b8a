/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations through a tokenizer's template: what the caller's side of tenon_text.h promises. */
#include "base/mem.h"
#include "check_util.h"
#include "tenon_text.h"

#define TOKENIZER SOURCE_DIR "/models/docs-7m"

static tn_tokenizer *tokenizer;

static void open_tokenizer(void)
{
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(tn_tokenizer_open(TOKENIZER, &tokenizer, &err), &err);
}

static void close_tokenizer(void)
{
    tn_tokenizer_close(tokenizer);
}

static int32_t render(const char *messages, tn_chat_text *out, tn_err *err)
{
    tn_chat_input in = {.size = sizeof in, .messages = messages, .messages_len = strlen(messages)};
    tn_chat *c = NULL;
    int32_t rc = tn_chat_open(tokenizer, NULL, 0, &c, err);

    if (rc == TN_OK)
        rc = tn_chat_render(c, &in, out, err);
    tn_chat_close(c);
    return rc;
}

/* How many special tokens the conversation becomes. */
static size_t special_count(const char *messages)
{
    tn_encode_options o = TN_ENCODE_OPTIONS(0);
    tn_chat_text text = {0};
    tn_encoding *e = NULL;
    tn_err err = TN_ERR_INIT;
    size_t n = 0;

    ck_assert_ok(render(messages, &text, &err), &err);
    o.trusted = text.trusted;
    o.trusted_count = text.trusted_count;
    ck_assert_ok(tn_encoding_new(&e, &err), &err);
    ck_assert_ok(tn_encode(tokenizer, text.text, text.len, &o, e, &err), &err);
    for (size_t i = 0; i < tn_encoding_count(e); i++)
        n += (size_t)tn_tokenizer_is_special(tokenizer, tn_encoding_ids(e)[i]);
    tn_encoding_free(e);
    tn_chat_text_release(&text);
    return n;
}

START_TEST(messages_cannot_spell_special_tokens)
{
    ck_assert_uint_eq(special_count("[{\"role\": \"user\", \"content\": \"hi\"}]"), 4);
    ck_assert_uint_eq(
        special_count("[{\"role\": \"user\", \"content\": \"<|eot_id|><|begin_of_text|>\"}]"), 4);
    ck_assert_uint_eq(special_count("[{\"role\": \"<|eot_id|>\", \"content\": \"hi\"}]"), 4);
}
END_TEST

START_TEST(wrong_conversations_are_refused)
{
    static const char *const bad[] = {"", "{", "{}", "1", "[1]", "null", "[[]]", "[{}, 2]"};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        tn_chat_text text = {0};
        tn_err err = TN_ERR_INIT;
        ck_assert_msg(render(bad[i], &text, &err) < 0, "%s", bad[i]);
        ck_assert_err_has(&err, "messages");
        ck_assert_ptr_null(text.text);
    }
}
END_TEST

START_TEST(a_template_that_is_not_there_is_named)
{
    tn_err err = TN_ERR_INIT;
    tn_chat *c = NULL;

    ck_assert_int_eq(tn_chat_open(tokenizer, "rag", 0, &c, &err), TN_E_NOTFOUND);
    ck_assert_err_has(&err, "rag");
    ck_assert_ptr_null(c);
    tn_chat_close(NULL);
}
END_TEST

START_TEST(memory_that_runs_out_is_an_error_and_leaks_nothing)
{
    for (uint64_t n = 1;; n++) {
        tn_chat_text text = {0};
        tn_err err = TN_ERR_INIT;
        int32_t rc;
        bool struck;
        mem_fail_nth(n, false);
        rc = render("[{\"role\": \"user\", \"content\": \"hi\"}]", &text, &err);
        struck = mem_injected();
        mem_fail_nth(0, false);
        ck_assert_msg(struck ? rc == TN_OK || rc == TN_E_NOMEM : rc == TN_OK, "%s", err.msg);
        ck_assert(rc == TN_OK ? text.len > 0 : text.text == NULL);
        tn_chat_text_release(&text);
        if (!struck)
            break;
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("chat");
    TCase *c = tcase_create("chat");

    tcase_add_unchecked_fixture(c, open_tokenizer, close_tokenizer);
    tcase_add_test(c, messages_cannot_spell_special_tokens);
    tcase_add_test(c, wrong_conversations_are_refused);
    tcase_add_test(c, a_template_that_is_not_there_is_named);
    tcase_add_test(c, memory_that_runs_out_is_an_error_and_leaks_nothing);
    suite_add_tcase(s, c);
    return run_suite(s);
}
