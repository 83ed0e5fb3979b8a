/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vocabulary files of other kinds. Each is translated to the text of the tokenizer.json that says the same, and so takes
 * the same way in as all others.
 */
#ifndef TEXT_IMPORT_H
#define TEXT_IMPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strbuf.h"

/* `path` names the file, for messages and because published files are known by their names; `data` is what it holds.
 * `config` is the path of the tokenizer_config.json beside it, or NULL; it may name what the file itself does not say
 * (special tokens, the split pattern). Both append to `out`; errors name file and place. */

/* Ranks in base64, a token a line (tiktoken). */
int32_t import_tiktoken(const char *path, const char *data, size_t len, const char *config,
                        struct strbuf *out, tn_err *err);

/* A SentencePiece model. */
int32_t import_sentencepiece(const char *path, const char *data, size_t len, const char *config,
                             struct strbuf *out, tn_err *err);

#endif
