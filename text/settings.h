/* SPDX-License-Identifier: Apache-2.0 */
/* What stands beside a tokenizer.json: tokenizer_config.json, special_tokens_map.json, chat templates. */
#ifndef TEXT_SETTINGS_H
#define TEXT_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* A text with a name: a role and its token, a template. */
struct named_text {
    char *name;
    char *text;
    size_t len;
};

struct named_list {
    struct named_text *items;
    size_t count, cap;
};

struct named_flag {
    char *name;
    bool on;
};

struct settings {
    struct named_list roles;     /* "bos_token": "<s>" */
    struct named_list templates; /* "default" first if there is one */
    struct named_flag *flags;    /* members that are true or false */
    size_t flag_count, flag_cap;
};

/* Reads the files of a directory; those that are not there are no error. On failure release it, too. */
int32_t settings_read(const char *dir, struct settings *out, tn_err *err);
void settings_release(struct settings *s); /* zeroed is allowed */

/* The entry of that name, or NULL. */
const struct named_text *named_find(const struct named_list *l, const char *name);

#endif
