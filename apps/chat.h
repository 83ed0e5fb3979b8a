/* SPDX-License-Identifier: Apache-2.0 */
/* Conversations of the command line: JSON files through the tokenizer's chat template. */
#ifndef APPS_CHAT_H
#define APPS_CHAT_H

#include <stddef.h>

#include "tenon_text.h"

struct opts;

/* What is rendered, as texts; NULL if absent. */
struct chat_source {
    char *messages, *tools, *documents, *variables;
    size_t messages_len, tools_len, documents_len, variables_len;
};

/*
 * Reads the files that --messages, --tools, --documents and --variables of `o` name. A file of messages is a
 * list of them, or an object with the lists "messages", "tools" and "documents". An option that the
 * command does not have counts as not given.
 */
int32_t chat_read(const struct opts *o, struct chat_source *out, tn_err *err);
/* One message of the user. */
int32_t chat_prompt(const char *text, struct chat_source *out, tn_err *err);
/* Takes `text` for the file of messages; it becomes the source's. */
int32_t chat_messages(char *text, size_t len, const char *name, struct chat_source *out,
                      tn_err *err);
void chat_source_release(struct chat_source *s); /* a zeroed one is allowed */

/* Renders with the template `name` (NULL: as tn_chat_open). flags: TN_CHAT_... */
int32_t chat_render(const tn_tokenizer *t, const char *name, const struct chat_source *s,
                    uint32_t flags, tn_chat_text *out, tn_err *err);

#endif
