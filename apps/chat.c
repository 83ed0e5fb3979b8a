/* SPDX-License-Identifier: Apache-2.0 */
#include "chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "opt.h"

#define LIMIT_CHAT_FILE (256 * MIB)

void chat_source_release(struct chat_source *s)
{
    mem_free(s->messages);
    mem_free(s->tools);
    mem_free(s->documents);
    mem_free(s->variables);
    *s = (struct chat_source){0};
}

static int32_t read_option(const struct opts *o, const char *name, char **text, size_t *len,
                           tn_err *err)
{
    const char *path = opts_text(o, name);

    return path ? file_read(path, LIMIT_CHAT_FILE, text, len, err) : TN_OK;
}

/* Replaces *text by the member `name` of `root`, unless it is set already or there is none. */
static int32_t take_member(const json_t *root, const char *name, char **text, size_t *len,
                           tn_err *err)
{
    const json_t *v = json_object_get(root, name);
    char *dump = v && !*text ? json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

    if (!v || *text)
        return TN_OK;
    *text = dump ? mem_strdup(dump) : NULL;
    free(dump); /* jansson's */
    if (!*text)
        return err_nomem(err, "a conversation");
    *len = strlen(*text);
    return TN_OK;
}

int32_t chat_messages(char *text, size_t len, const char *name, struct chat_source *out,
                      tn_err *err)
{
    json_t *root = NULL;
    int32_t rc = json_parse(text, len, name, &root, err);

    if (rc != TN_OK || !json_is_object(root)) {
        out->messages = text;
        out->messages_len = len;
        json_decref(root);
        return rc;
    }
    mem_free(text);
    if (!json_object_get(root, "messages"))
        rc = json_missing(name, "messages", err);
    if (rc == TN_OK)
        rc = take_member(root, "messages", &out->messages, &out->messages_len, err);
    if (rc == TN_OK)
        rc = take_member(root, "tools", &out->tools, &out->tools_len, err);
    if (rc == TN_OK)
        rc = take_member(root, "documents", &out->documents, &out->documents_len, err);
    json_decref(root);
    return rc;
}

int32_t chat_read(const struct opts *o, struct chat_source *out, tn_err *err)
{
    char *messages = NULL;
    size_t len = 0;
    int32_t rc = read_option(o, "tools", &out->tools, &out->tools_len, err);

    if (rc == TN_OK)
        rc = read_option(o, "documents", &out->documents, &out->documents_len, err);
    if (rc == TN_OK)
        rc = read_option(o, "variables", &out->variables, &out->variables_len, err);
    if (rc == TN_OK)
        rc = read_option(o, "messages", &messages, &len, err);
    return rc == TN_OK && messages
               ? chat_messages(messages, len, opts_text(o, "messages"), out, err)
               : rc;
}

int32_t chat_prompt(const char *text, struct chat_source *out, tn_err *err)
{
    json_t *list = json_pack("[{s:s, s:s}]", "role", "user", "content", text);
    json_t *root = list ? json_pack("{s:o}", "messages", list) : NULL;
    int32_t rc;

    if (!root)
        return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, "--prompt", "is not UTF-8");
    rc = take_member(root, "messages", &out->messages, &out->messages_len, err);
    json_decref(root);
    return rc;
}

int32_t chat_render(const tn_tokenizer *t, const char *name, const struct chat_source *s,
                    uint32_t flags, tn_chat_text *out, tn_err *err)
{
    const tn_chat_input in = {.size = sizeof in,
                              .flags = flags,
                              .messages = s->messages,
                              .messages_len = s->messages_len,
                              .tools = s->tools,
                              .tools_len = s->tools_len,
                              .documents = s->documents,
                              .documents_len = s->documents_len,
                              .variables = s->variables,
                              .variables_len = s->variables_len};
    tn_chat *c = NULL;
    int32_t rc = tn_chat_open(t, name, s->tools != NULL, &c, err);

    if (rc == TN_OK)
        rc = tn_chat_render(c, &in, out, err);
    tn_chat_close(c);
    return rc;
}
