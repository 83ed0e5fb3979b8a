/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversations: the tokenizer's chat template, its special tokens, and the JSON of a caller become a rendered
 * text with the ranges that are the template's own (tenon_text.h). Any thread; a tn_chat never changes.
 */
#include <string.h>

#include "base/err.h"
#include "base/json.h"
#include "base/mem.h"
#include "jinja/jinja.h"
#include "tenon_text.h"

struct tn_chat {
    const tn_tokenizer *tokenizer;
    struct jinja *template;
};

/* What transformers passes to every template, by the names of tokenizer_config.json. */
static const char *const token_names[] = {
    "bos_token",   "eos_token",   "unk_token",       "sep_token",        "pad_token",
    "cls_token",   "mask_token",  "image_token",     "boi_token",        "eoi_token",
    "audio_token", "video_token", "image_end_token", "vision_bos_token", "vision_eos_token"};

/* Roles that published models have. Anything else could be the inside of a special token. */
static const char *const known_roles[] = {"system",   "developer", "user",          "assistant",
                                          "model",    "tool",      "tools",         "function",
                                          "ipython",  "tool_call", "tool_response", "observation",
                                          "document", "documents", "context",       "environment"};

int32_t tn_chat_open(const tn_tokenizer *t, const char *name, int tools, tn_chat **out, tn_err *err)
{
    const char *wanted = name ? name : "default", *text;
    tn_chat *c;
    size_t len = 0;
    int32_t rc;

    if (!name && tools && tn_tokenizer_template(t, "tool_use", &len))
        wanted = "tool_use";
    text = tn_tokenizer_template(t, wanted, &len);
    if (!text) {
        err_at(err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, "chat_template",
               "the tokenizer has no chat template named \"%.60s\"", wanted);
        err_remedy(err, "put a chat_template.jinja beside its tokenizer.json");
        return TN_E_NOTFOUND;
    }
    c = mem_zalloc(sizeof *c);
    if (!c)
        return err_nomem(err, "a chat template");
    c->tokenizer = t;
    rc = jinja_compile("chat template", text, len, &c->template, err);
    if (rc != TN_OK) {
        mem_free(c);
        return rc;
    }
    *out = c;
    return TN_OK;
}

void tn_chat_close(tn_chat *c)
{
    if (!c)
        return;
    jinja_free(c->template);
    mem_free(c);
}

/* -- The context --------------------------------------------------------------------------------------- */

static int32_t check_objects(const json_t *list, const char *name, tn_err *err)
{
    if (!json_is_array(list))
        return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, name, "is not a list of objects");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!json_is_object(json_array_get(list, i)))
            return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, name, "entry %zu is not an object",
                          i);
    return TN_OK;
}

/* Adds a list of objects; absent, or null, it is none, as transformers passes it. */
static int32_t add_list(json_t *context, const char *name, const char *text, size_t len,
                        bool needed, tn_err *err)
{
    json_t *v = NULL;
    int32_t rc = text ? json_parse(text, len, name, &v, err) : TN_OK;

    if (rc == TN_OK && (needed || (v && !json_is_null(v))))
        rc = check_objects(v, name, err);
    if (rc == TN_OK && json_object_set(context, name, v ? v : json_null()) != 0)
        rc = err_nomem(err, "a conversation");
    json_decref(v);
    return rc;
}

/* Adds the caller's own variables; they cannot take the place of what is there. */
static int32_t add_variables(json_t *context, const tn_chat_input *in, tn_err *err)
{
    const char *names[256], *name;
    size_t n = 0;
    json_t *v = NULL, *value;
    int32_t rc;

    if (!in->variables)
        return TN_OK;
    rc = json_parse(in->variables, in->variables_len, "variables", &v, err);
    if (rc != TN_OK)
        return rc;
    if (json_object_size(v) > sizeof names / sizeof *names) {
        json_decref(v);
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "variables", "are more than 256");
    }
    json_object_foreach(v, name, value)
    {
        names[n++] = name;
    }
    rc = jinja_add_kwargs(context, v, names, n, err);
    json_decref(v);
    return rc;
}

static int32_t make_context(const tn_chat *c, const tn_chat_input *in, json_t *context, tn_err *err)
{
    bool prompt = in->flags & TN_CHAT_GENERATION_PROMPT;
    int32_t rc = add_list(context, "messages", in->messages, in->messages_len, true, err);

    if (rc == TN_OK)
        rc = add_list(context, "tools", in->tools, in->tools_len, false, err);
    if (rc == TN_OK)
        rc = add_list(context, "documents", in->documents, in->documents_len, false, err);
    if (rc == TN_OK &&
        json_object_set_new(context, "add_generation_prompt", json_boolean(prompt)) != 0)
        rc = err_nomem(err, "a conversation");
    for (size_t i = 0; rc == TN_OK && i < sizeof token_names / sizeof *token_names; i++) {
        const char *token = tn_tokenizer_role_text(c->tokenizer, token_names[i]);
        if (token && json_object_set_new(context, token_names[i], json_string(token)) != 0)
            rc = err_nomem(err, "a conversation");
    }
    return rc == TN_OK ? add_variables(context, in, err) : rc;
}

static bool roles_are_known(const json_t *messages)
{
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        bool known = false;
        for (size_t k = 0; role && !known && k < sizeof known_roles / sizeof *known_roles; k++)
            known = strcmp(role, known_roles[k]) == 0;
        if (!known)
            return false;
    }
    return true;
}

/* -- Rendering ----------------------------------------------------------------------------------------- */

static int32_t hand_over(struct jinja_result *r, tn_chat_text *out, tn_err *err)
{
    tn_text_range *trusted = mem_array(r->range_count / 2 + 1, sizeof *trusted);
    size_t len = r->text.len, n = 0;
    char *text = mem_strndup("", 0);

    if (text && r->text.data) {
        mem_free(text);
        text = strbuf_detach(&r->text);
    }
    if (!trusted || !text) {
        mem_free(trusted);
        mem_free(text);
        return err_nomem(err, "a rendered conversation");
    }
    for (size_t i = 0; i < r->range_count; i++)
        if (r->ranges[i].trusted)
            trusted[n++] = (tn_text_range){r->ranges[i].begin, r->ranges[i].end};
    *out = (tn_chat_text){text, len, trusted, n};
    return TN_OK;
}

int32_t tn_chat_render(const tn_chat *c, const tn_chat_input *in, tn_chat_text *out, tn_err *err)
{
    static const size_t named = sizeof token_names / sizeof *token_names;
    const char *trusted[sizeof token_names / sizeof *token_names + 1];
    struct jinja_options options = {.trusted = trusted, .trusted_count = named};
    struct jinja_result result = JINJA_RESULT_INIT;
    json_t *context = json_object();
    int32_t rc;

    memcpy(trusted, token_names, sizeof token_names);
    rc = context ? make_context(c, in, context, err) : err_nomem(err, "a conversation");
    if (rc == TN_OK && roles_are_known(json_object_get(context, "messages")))
        trusted[options.trusted_count++] = "messages[].role";
    /* A token that the caller set as a variable is text like any other. */
    for (size_t i = 0; rc == TN_OK && i < named; i++)
        if (!tn_tokenizer_role_text(c->tokenizer, token_names[i]))
            trusted[i] = "bos_token";
    if (rc == TN_OK)
        rc = jinja_render(c->template, context, &options, &result, err);
    if (rc == TN_OK)
        rc = hand_over(&result, out, err);
    jinja_result_release(&result);
    json_decref(context);
    return rc;
}

void tn_chat_text_release(tn_chat_text *t)
{
    mem_free(t->text);
    mem_free(t->trusted);
    *t = (tn_chat_text){0};
}
