/* SPDX-License-Identifier: Apache-2.0 */
/* tenon text encode|decode|chat: the tokenizer and its chat templates on their own, stdin to JSON. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "app.h"
#include "base/err.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "chat.h"
#include "tenon_text.h"

#define LIMIT_STDIN (256 * MIB)

static int32_t read_stdin(struct strbuf *out, tn_err *err)
{
    char buf[1 << 16];
    ssize_t n;

    while ((n = read(STDIN_FILENO, buf, sizeof buf)) != 0) {
        if (n < 0 && errno == EINTR && !app_interrupted(NULL))
            continue;
        if (n < 0)
            return err_errno(err, "read", "standard input", errno);
        strbuf_append(out, buf, (size_t)n);
        if (out->len > LIMIT_STDIN)
            return err_at(err, TN_E_LIMIT, "standard input", TN_NO_OFFSET, NULL, "is over 256 MiB");
    }
    return out->failed ? err_nomem(err, "standard input") : TN_OK;
}

/* -- encode ------------------------------------------------------------------------------------------ */

/* A token's text as the vocabulary writes it; bytes that are no UTF-8 cannot stand in JSON and become null. */
static json_t *token_json(const tn_tokenizer *t, uint32_t id)
{
    const char *text = NULL;
    size_t len = 0;
    json_t *s =
        tn_tokenizer_id_to_token(t, id, &text, &len) == TN_OK ? json_stringn(text, len) : NULL;

    return s ? s : json_null();
}

static json_t *encoding_json(const tn_tokenizer *t, const tn_encoding *e)
{
    json_t *ids = json_array(), *tokens = json_array(), *offsets = json_array();
    const tn_token_span *spans = tn_encoding_spans(e);

    for (size_t i = 0; i < tn_encoding_count(e); i++) {
        uint32_t id = tn_encoding_ids(e)[i];
        json_array_append_new(ids, json_integer(id));
        json_array_append_new(tokens, token_json(t, id));
        json_array_append_new(offsets, json_pack("[i, i]", (int)spans[i].begin, (int)spans[i].end));
    }
    return json_pack("{s:o, s:o, s:o}", "ids", ids, "tokens", tokens, "offsets", offsets);
}

static int32_t encode(const struct opts *o, tn_err *err)
{
    tn_encode_options options = TN_ENCODE_OPTIONS(0);
    struct strbuf text = STRBUF_INIT;
    tn_tokenizer *t = NULL;
    tn_encoding *e = NULL;
    int32_t rc = tn_tokenizer_open(opts_text(o, "tokenizer"), &t, err);

    if (!opts_flag(o, "no-special"))
        options.flags |= TN_ENCODE_ADD_SPECIAL;
    if (!opts_flag(o, "user-text"))
        options.flags |= TN_ENCODE_SPECIAL;
    if (opts_flag(o, "byte-offsets"))
        options.flags |= TN_ENCODE_BYTE_OFFSETS;
    if (rc == TN_OK)
        rc = read_stdin(&text, err);
    if (rc == TN_OK)
        rc = tn_encoding_new(&e, err);
    if (rc == TN_OK)
        rc = tn_encode(t, strbuf_str(&text), text.len, &options, e, err);
    if (rc == TN_OK)
        rc = app_print_json(encoding_json(t, e), err);
    tn_encoding_free(e);
    tn_tokenizer_close(t);
    strbuf_release(&text);
    return rc;
}

/* -- decode ------------------------------------------------------------------------------------------ */

/* A list of ids, or an object with one under "ids" (what encode prints). */
static int32_t parse_ids(const struct strbuf *text, uint32_t vocab, uint32_t **ids, size_t *n,
                         tn_err *err)
{
    const char *file = "standard input";
    json_t *root = NULL;
    const json_t *list;
    uint32_t *out = NULL;
    int32_t rc = json_parse(strbuf_str(text), text->len, file, &root, err);

    if (rc != TN_OK)
        return rc;
    list = json_is_object(root) ? json_object_get(root, "ids") : root;
    if (!json_is_array(list))
        rc = err_at(err, TN_E_FORMAT, file, TN_NO_OFFSET, "ids", "is not a list of token ids");
    out = rc == TN_OK ? mem_array(json_array_size(list), sizeof *out) : NULL;
    if (rc == TN_OK && !out)
        rc = err_nomem(err, "token ids");
    for (size_t i = 0; rc == TN_OK && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
            rc = err_at(err, TN_E_RANGE, file, TN_NO_OFFSET, "ids",
                        "entry %zu is not a token id below %u", i, vocab);
        else
            out[i] = (uint32_t)json_integer_value(v);
    }
    *n = rc == TN_OK ? json_array_size(list) : 0;
    json_decref(root);
    if (rc != TN_OK)
        mem_free(out);
    else
        *ids = out;
    return rc;
}

static int32_t decode(const struct opts *o, tn_err *err)
{
    uint32_t flags = opts_flag(o, "no-special") ? TN_DECODE_SKIP_SPECIAL : 0;
    struct strbuf input = STRBUF_INIT;
    tn_tokenizer *t = NULL;
    uint32_t *ids = NULL;
    char *text = NULL;
    size_t n = 0, len = 0;
    int32_t rc = tn_tokenizer_open(opts_text(o, "tokenizer"), &t, err);

    if (rc == TN_OK)
        flags |= tn_tokenizer_decode_flags(t);
    if (rc == TN_OK)
        rc = read_stdin(&input, err);
    if (rc == TN_OK)
        rc = parse_ids(&input, tn_tokenizer_vocab_size(t), &ids, &n, err);
    if (rc == TN_OK)
        rc = tn_decode(t, ids, n, flags, &text, &len, err);
    if (rc == TN_OK && opts_flag(o, "raw"))
        fwrite(text, 1, len, stdout);
    else if (rc == TN_OK)
        rc = app_print_json(json_pack("{s:s%}", "text", text, len), err);
    tn_text_free(text);
    mem_free(ids);
    tn_tokenizer_close(t);
    strbuf_release(&input);
    return rc;
}

/* -- chat -------------------------------------------------------------------------------------------- */

/* --messages, or standard input. */
static int32_t read_conversation(const struct opts *o, struct chat_source *s, tn_err *err)
{
    struct strbuf text = STRBUF_INIT;
    int32_t rc = chat_read(o, s, err);
    size_t len;

    if (rc != TN_OK || s->messages)
        return rc;
    rc = read_stdin(&text, err);
    len = text.len;
    if (rc == TN_OK && len == 0)
        rc = err_at(err, TN_E_FORMAT, "standard input", TN_NO_OFFSET, NULL, "is empty");
    if (rc != TN_OK) {
        strbuf_release(&text);
        return rc;
    }
    return chat_messages(strbuf_detach(&text), len, "standard input", s, err);
}

static int32_t print_chat(const struct opts *o, const tn_tokenizer *t, const tn_chat_text *text,
                          tn_err *err)
{
    tn_encode_options options = TN_ENCODE_OPTIONS(0);
    tn_encoding *e = NULL;
    json_t *out = NULL;
    int32_t rc = TN_OK;

    options.trusted = text->trusted;
    options.trusted_count = text->trusted_count;
    if (opts_flag(o, "byte-offsets"))
        options.flags |= TN_ENCODE_BYTE_OFFSETS;
    if (!opts_flag(o, "no-tokenize")) {
        rc = tn_encoding_new(&e, err);
        if (rc == TN_OK)
            rc = tn_encode(t, text->text, text->len, &options, e, err);
        out = rc == TN_OK ? encoding_json(t, e) : NULL;
    } else {
        out = json_object();
    }
    if (rc == TN_OK && out)
        json_object_set_new(out, "text", json_stringn(text->text, text->len));
    tn_encoding_free(e);
    return rc == TN_OK ? app_print_json(out, err) : rc;
}

static int32_t chat(const struct opts *o, tn_err *err)
{
    uint32_t flags = opts_flag(o, "add-generation-prompt") ? TN_CHAT_GENERATION_PROMPT : 0;
    struct chat_source source = {0};
    tn_chat_text text = {0};
    tn_tokenizer *t = NULL;
    int32_t rc = tn_tokenizer_open(opts_text(o, "tokenizer"), &t, err);

    if (rc == TN_OK)
        rc = read_conversation(o, &source, err);
    if (rc == TN_OK)
        rc = chat_render(t, opts_text(o, "template"), &source, flags, &text, err);
    if (rc == TN_OK && opts_flag(o, "raw"))
        fwrite(text.text, 1, text.len, stdout);
    else if (rc == TN_OK)
        rc = print_chat(o, t, &text, err);
    tn_chat_text_release(&text);
    chat_source_release(&source);
    tn_tokenizer_close(t);
    return rc;
}

static int run_chat(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, chat);
}

static int run_encode(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, encode);
}

static int run_decode(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, decode);
}

static const struct opt encode_options[] = {
    {"tokenizer", OPT_TEXT, "DIR", "engine, checkpoint, or tokenizer file", 0, 0, NULL, true},
    {"no-special", OPT_FLAG, NULL, "do not add the tokenizer's own tokens (a BOS)", 0, 0, NULL,
     false},
    {"user-text", OPT_FLAG, NULL, "special tokens spelt out in the text are plain text", 0, 0, NULL,
     false},
    {"byte-offsets", OPT_FLAG, NULL, "offsets in bytes instead of characters", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static const char *const encode_examples[] = {
    "printf 'Hello, world!' | tenon text encode --tokenizer engines/docs-7m", NULL};

const struct command cmd_text_encode = {
    .name = "text encode",
    .summary = "Turn standard input into token ids, as JSON with offsets",
    .details =
        "Does what the Hugging Face tokenizer of the same files does, special tokens in the text "
        "included; --user-text encodes as servers encode what users send.",
    .own = encode_options,
    .examples = encode_examples,
    .run = run_encode};

static const struct opt decode_options[] = {
    {"tokenizer", OPT_TEXT, "DIR", "engine, checkpoint, or tokenizer file", 0, 0, NULL, true},
    {"no-special", OPT_FLAG, NULL, "leave special tokens out", 0, 0, NULL, false},
    {"raw", OPT_FLAG, NULL, "print the text itself", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static const char *const decode_examples[] = {
    "echo '[39, 6208, 11, 6784, 0]' | tenon text decode --tokenizer engines/docs-7m", NULL};

const struct command cmd_text_decode = {
    .name = "text decode",
    .summary = "Turn a JSON list of token ids on standard input into text",
    .own = decode_options,
    .examples = decode_examples,
    .run = run_decode};

static const struct opt chat_options[] = {
    {"tokenizer", OPT_TEXT, "DIR", "engine, checkpoint, or tokenizer file", 0, 0, NULL, true},
    {"messages", OPT_TEXT, "FILE", "the conversation (standard input)", 0, 0, NULL, false},
    {"tools", OPT_TEXT, "FILE", "functions that the model may call: a JSON list", 0, 0, NULL,
     false},
    {"documents", OPT_TEXT, "FILE", "what the answer is to stand on: a JSON list", 0, 0, NULL,
     false},
    {"variables", OPT_TEXT, "FILE", "more variables of the template: a JSON object", 0, 0, NULL,
     false},
    {"template", OPT_TEXT, "NAME", "which of the tokenizer's templates (default)", 0, 0, NULL,
     false},
    {"add-generation-prompt", OPT_FLAG, NULL, "end where the answer of the model begins", 0, 0,
     NULL, false},
    {"no-tokenize", OPT_FLAG, NULL, "text only, no ids", 0, 0, NULL, false},
    {"byte-offsets", OPT_FLAG, NULL, "offsets in bytes instead of characters", 0, 0, NULL, false},
    {"raw", OPT_FLAG, NULL, "print the rendered text itself", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static const char *const chat_examples[] = {
    "echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | tenon text chat "
    "--tokenizer engines/docs-7m --add-generation-prompt",
    NULL};

const struct command cmd_text_chat = {
    .name = "text chat",
    .summary = "Render a conversation with the model's chat template, as JSON with text and ids",
    .details =
        "The conversation is a JSON list of messages, or an object with \"messages\" and, if need "
        "be, "
        "\"tools\" and \"documents\". Renders as transformers does. Special tokens of the template "
        "become those tokens; what messages spell is text.",
    .own = chat_options,
    .examples = chat_examples,
    .run = run_chat};
