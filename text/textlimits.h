/* SPDX-License-Identifier: Apache-2.0 */
/* The caps of the text room, beside those of base/limits.h that also concern it (LIMIT_TOKENIZER_BYTES,
 * LIMIT_VOCAB, LIMIT_TEMPLATE_BYTES, LIMIT_STOP_STRINGS, LIMIT_JSON_DEPTH). */
#ifndef TEXT_TEXTLIMITS_H
#define TEXT_TEXTLIMITS_H

#include "base/limits.h"

#define LIMIT_TEXT_BYTES (1 * GIB) /* one text to encode: offsets have 32 bits, tokens are fewer */
#define LIMIT_WORK_BYTES (3 * GIB) /* a text while normalizers work on it */
#define LIMIT_TOKEN_BYTES                                                                          \
    (64 * KIB) /* one vocabulary entry; the longest published are under 1 KiB */
#define LIMIT_MERGES (UINT64_C(1) << 25) /* merges of one vocabulary; the largest have 500,000 */
#define LIMIT_PATTERN_BYTES (16 * KIB)   /* a split regex; published ones are under 1 KiB */
#define LIMIT_STEPS 64 /* normalizers, pre-tokenizers, ... of one tokenizer, nested or not */
#define LIMIT_TEMPLATE_PIECES 256 /* of a TemplateProcessing */
#define LIMIT_TEMPLATES 64        /* named chat templates of one checkpoint */
#define LIMIT_IMPORT_TOKENS                                                                        \
    20000 /* added tokens that a configuration gives an imported vocabulary */
#define LIMIT_RANK_WORK                                                                            \
    (UINT64_C(1) << 32) /* squares of token lengths, summed: ways to cut them, hashed each */
#define LIMIT_REGEX_MATCH 50000000        /* PCRE2 match limit: steps of one search */
#define LIMIT_REGEX_HEAP_KIB (512 * 1024) /* PCRE2 heap of one search, for texts of one long word */

#endif
