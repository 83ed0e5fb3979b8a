/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tenon_text.h
 * Text in, token ids out, and back: the tokenizers of published checkpoints.
 *
 * A ::tn_tokenizer is opened from a checkpoint directory (or a single file) and does what the Hugging Face
 * `tokenizers` library does with the same file: the same ids, the same offsets, the same text. On top of that
 * it promises, for any bytes whatever:
 *
 *  - **Safety.** Text never becomes a special token unless the caller says so, for the whole text
 *    (::TN_ENCODE_SPECIAL) or for parts of it (tn_encode_options::trusted, made for chat templates, whose
 *    frame is trusted and whose messages are not). Added tokens that the file does not mark special are
 *    recognised always, as in the reference.
 *  - **Bytes.** Input is UTF-8. Each maximal ill-formed part (overlong forms, surrogates and stray bytes
 *    among them) counts as one U+FFFD, as The Unicode Standard recommends; byte offsets still refer to
 *    the input as given. NUL is a character like any other.
 *  - **Time.** Encoding takes time n log n or better in the length of the text for every vocabulary. A
 *    pattern of the file that backtracks without end is cut off with TN_E_LIMIT.
 *
 * Threads: an open tokenizer is immutable; any number of threads may use it at once. It keeps a pool
 * of scratch memory (with a cache of words) that calls borrow. Encodings, detokenizers and stop matchers are
 * used by one thread at a time. All functions return ::TN_OK or a negative ::tn_status and, if they take a
 * ::tn_err (which may be NULL), fill it; on failure outputs stay as they were.
 */
#ifndef TENON_TEXT_H
#define TENON_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "tenon/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Marks the functions that the installed library exports. */
#define TN_TEXT_API TN_EXPORT

/** \name Opening
 * @{ */

/** A vocabulary with its rules; see the file comment for its thread rules. */
typedef struct tn_tokenizer tn_tokenizer;

/**
 * Opens the tokenizer at `path`: a directory, or a file named by its format.
 *
 * In a directory the first of these that exists is read: `tokenizer.json`; `*.tiktoken` or `tiktoken.model`
 * (ranks in base64; a `tokenizer.model` may be of this kind too); `tokenizer.model`, `spiece.model` or
 * `sentencepiece.bpe.model` (SentencePiece). Beside it `tokenizer_config.json`, `special_tokens_map.json` and
 * `chat_template.jinja` are read if they are there. A file is judged by its name and content, and the
 * files beside it are read likewise.
 *
 * A file that breaks its format is TN_E_FORMAT, one that needs something this library lacks
 * TN_E_UNSUPPORTED; the error names the file, the place and the field.
 */
TN_TEXT_API int32_t tn_tokenizer_open(const char *path, tn_tokenizer **out, tn_err *err);

/** Closes; no call may be using it, and nothing made from it may be used after. NULL is allowed. */
TN_TEXT_API void tn_tokenizer_close(tn_tokenizer *t);

/** @} */
/** \name Vocabulary
 * Texts are UTF-8 with a length, since a token may contain NUL, and end with a NUL that the length does not
 * count. They belong to the tokenizer.
 * @{ */

/** One more than the largest token id. Ids below it may be unused. */
TN_TEXT_API uint32_t tn_tokenizer_vocab_size(const tn_tokenizer *t);

/** The id of a token written as in the file ("Ġthe", "<|eot_id|>"); TN_E_NOTFOUND if there is none. */
TN_TEXT_API int32_t tn_tokenizer_token_to_id(const tn_tokenizer *t, const char *text, size_t len,
                                             uint32_t *id);

/** The text of a token as the file writes it; TN_E_NOTFOUND for an unused id. */
TN_TEXT_API int32_t tn_tokenizer_id_to_token(const tn_tokenizer *t, uint32_t id, const char **text,
                                             size_t *len);

/** 1 if the id is a special token, which decoding may skip, else 0. */
TN_TEXT_API int tn_tokenizer_is_special(const tn_tokenizer *t, uint32_t id);

/**
 * The id of the token that a role has by tokenizer_config.json (or special_tokens_map.json): "bos_token",
 * "eos_token", "unk_token", "pad_token", ... TN_E_NOTFOUND if the role is not filled or names no token.
 */
TN_TEXT_API int32_t tn_tokenizer_role_id(const tn_tokenizer *t, const char *role, uint32_t *id);

/** The text of the token that a role has, whether the vocabulary has it or not; NULL if not filled. */
TN_TEXT_API const char *tn_tokenizer_role_text(const tn_tokenizer *t, const char *role);

/** Switches of tokenizer_config.json: "add_bos_token", "add_eos_token", "clean_up_tokenization_spaces", ...
 * 1 or 0; -1 if the file does not say. */
TN_TEXT_API int tn_tokenizer_setting(const tn_tokenizer *t, const char *name);

/** @} */
/** \name Chat templates
 * @{ */

/** How many chat templates the checkpoint has. */
TN_TEXT_API size_t tn_tokenizer_template_count(const tn_tokenizer *t);

/**
 * The text of a chat template (Jinja). `name` NULL means "default". Looked for in `chat_template.jinja`,
 * `additional_chat_templates/NAME.jinja`, then `chat_template` of tokenizer_config.json (a text, or a list
 * of named texts). NULL if there is none of that name.
 */
TN_TEXT_API const char *tn_tokenizer_template(const tn_tokenizer *t, const char *name, size_t *len);

/** The name of template `i` < count. */
TN_TEXT_API const char *tn_tokenizer_template_name(const tn_tokenizer *t, size_t i);

/** @} */
/** \name Encoding
 * @{ */

/** Bytes begin <= b < end of a text. */
typedef struct tn_text_range {
    size_t begin;
    size_t end;
} tn_text_range;

/** Where a token lies in the input: begin <= i < end. Tokens that the post-processor adds have 0, 0. */
typedef struct tn_token_span {
    uint32_t begin;
    uint32_t end;
} tn_token_span;

/** Put the tokens of the post-processor around the text (`<|begin_of_text|>`, `[CLS]`, ...). */
#define TN_ENCODE_ADD_SPECIAL (UINT32_C(1) << 0)
/** Recognise special tokens in the whole text. Only for text that the caller vouches for. */
#define TN_ENCODE_SPECIAL (UINT32_C(1) << 1)
/** Offsets count bytes of the input; without it they count characters (code points), as Python does. */
#define TN_ENCODE_BYTE_OFFSETS (UINT32_C(1) << 2)
/** Ids only: spans are not computed and tn_encoding_spans returns NULL. */
#define TN_ENCODE_NO_OFFSETS (UINT32_C(1) << 3)

/** How to encode. Begins with its size, so that it can grow. */
typedef struct tn_encode_options {
    uint32_t size;  /**< sizeof(tn_encode_options) */
    uint32_t flags; /**< TN_ENCODE_... */
    /**
     * Parts of the text in which special tokens are recognised, ascending and apart; a token counts only
     * if it lies in one part as a whole. NULL, 0: none (unless ::TN_ENCODE_SPECIAL).
     */
    const tn_text_range *trusted;
    size_t trusted_count;
} tn_encode_options;

/** Options with flags and nothing trusted. */
#define TN_ENCODE_OPTIONS(flags)                                                                   \
    {                                                                                              \
        (uint32_t)sizeof(tn_encode_options), (flags), NULL, 0                                      \
    }

/** The tokens of one text. Reuse it: its memory grows to what the texts need and stays. */
typedef struct tn_encoding tn_encoding;

TN_TEXT_API int32_t tn_encoding_new(tn_encoding **out, tn_err *err);
TN_TEXT_API void tn_encoding_free(tn_encoding *e); /**< NULL is allowed */

/**
 * Encodes `len` bytes (at most 1 GiB) at `text` into `e`, whose old content is lost, also on failure. `options` may be
 * NULL: no special tokens, character offsets.
 */
TN_TEXT_API int32_t tn_encode(const tn_tokenizer *t, const char *text, size_t len,
                              const tn_encode_options *options, tn_encoding *e, tn_err *err);

/** How many tokens; their ids; their spans. Valid until the next tn_encode into `e`. */
TN_TEXT_API size_t tn_encoding_count(const tn_encoding *e);
TN_TEXT_API const uint32_t *tn_encoding_ids(const tn_encoding *e);
TN_TEXT_API const tn_token_span *tn_encoding_spans(const tn_encoding *e);

/** @} */
/** \name Conversations
 * A conversation is rendered by a chat template as transformers' `apply_chat_template` does it, errors included.
 * The rendered text says which of its bytes are the template's own; encoded with those as
 * tn_encode_options::trusted, no message can spell a special token.
 * @{ */

/** A compiled chat template with the special tokens of its tokenizer. Immutable; any number of threads may
 * render it at once. It refers to the tokenizer, which must stay open. */
typedef struct tn_chat tn_chat;

/**
 * Compiles the template of that name. NULL: with `tools` the one named "tool_use" if there is one, else "default".
 * TN_E_NOTFOUND if the tokenizer has no such template, TN_E_FORMAT (with line and column in
 * tn_err::field) if it is no template.
 */
TN_TEXT_API int32_t tn_chat_open(const tn_tokenizer *t, const char *name, int tools, tn_chat **out,
                                 tn_err *err);
TN_TEXT_API void tn_chat_close(tn_chat *c); /**< NULL is allowed */

/** End the text where the answer of the model begins. */
#define TN_CHAT_GENERATION_PROMPT (UINT32_C(1) << 0)

/** What to render; all texts are JSON, and NULL, 0 if absent. Begins with its size, so that it can grow. */
typedef struct tn_chat_input {
    uint32_t size;        /**< sizeof(tn_chat_input) */
    uint32_t flags;       /**< TN_CHAT_... */
    const char *messages; /**< a list of objects with "role" and "content" */
    size_t messages_len;
    const char *tools; /**< a list of objects: the functions that the model may call */
    size_t tools_len;
    const char *documents; /**< a list of objects: what the answer is to stand on */
    size_t documents_len;
    const char *variables; /**< an object: more variables of the template ("enable_thinking") */
    size_t variables_len;
} tn_chat_input;

/** A rendered conversation. */
typedef struct tn_chat_text {
    char *text; /**< UTF-8, `len` bytes and a NUL */
    size_t len;
    tn_text_range *trusted; /**< what the template wrote itself, ascending and apart */
    size_t trusted_count;
} tn_chat_text;

/**
 * Renders. `*out` is filled; release it with tn_chat_text_release. A template that refuses the conversation
 * (raise_exception) is TN_E_INVALID with the template's message; one that does not end is TN_E_LIMIT.
 *
 * Roles are trusted, since templates make special tokens of them, only if all of them are names that models
 * use ("system", "user", "assistant", "tool", ...).
 */
TN_TEXT_API int32_t tn_chat_render(const tn_chat *c, const tn_chat_input *in, tn_chat_text *out,
                                   tn_err *err);
TN_TEXT_API void tn_chat_text_release(tn_chat_text *t); /**< a zeroed one is allowed */

/** @} */
/** \name Decoding
 * @{ */

/** Leave special tokens out. */
#define TN_DECODE_SKIP_SPECIAL (UINT32_C(1) << 0)
/** Remove the spaces before punctuation and English contractions that old word-piece tokenizers leave
 * (clean_up_tokenization_spaces). */
#define TN_DECODE_CLEAN_UP (UINT32_C(1) << 1)

/** The flags that transformers decodes with when this checkpoint says nothing else: ::TN_DECODE_CLEAN_UP if its
 * tokenizer_config.json sets clean_up_tokenization_spaces, but never for BPE, whose text it would damage. */
TN_TEXT_API uint32_t tn_tokenizer_decode_flags(const tn_tokenizer *t);

/** Decodes `count` ids to UTF-8; unused ids count as nothing. Free the text with tn_text_free. */
TN_TEXT_API int32_t tn_decode(const tn_tokenizer *t, const uint32_t *ids, size_t count,
                              uint32_t flags, char **text, size_t *len, tn_err *err);
TN_TEXT_API void tn_text_free(char *text); /**< NULL is allowed */

/**
 * A detokenizer decodes ids as a model produces them. What it returns is final: whole characters that no later
 * token can change, as early as that is certain. All it returned, joined, is what tn_decode makes of all ids.
 */
typedef struct tn_detok tn_detok;

TN_TEXT_API int32_t tn_detok_new(const tn_tokenizer *t, uint32_t flags, tn_detok **out,
                                 tn_err *err);

/** Takes one id. `*text`, `*len` get the new text (perhaps none), valid until the next call with `d`. */
TN_TEXT_API int32_t tn_detok_push(tn_detok *d, uint32_t id, const char **text, size_t *len,
                                  tn_err *err);

/** No more ids: returns what was held back. Afterwards `d` is as new. */
TN_TEXT_API int32_t tn_detok_flush(tn_detok *d, const char **text, size_t *len, tn_err *err);

TN_TEXT_API void tn_detok_reset(tn_detok *d);
TN_TEXT_API void tn_detok_free(tn_detok *d); /**< NULL is allowed */

/** @} */
/** \name Stop strings
 * @{ */

/**
 * A stop matcher finds the first of several strings in a text that comes in pieces, and passes on at once all text
 * that cannot be part of one. "First" is the one that ends first; of several that end together, the longest.
 */
typedef struct tn_stop tn_stop;

/** `len[i]` bytes at `text[i]`, each valid UTF-8, 1 to 1024 bytes, at most 32 of them (0 is allowed). */
TN_TEXT_API int32_t tn_stop_new(const char *const *text, const size_t *len, size_t count,
                                tn_stop **out, tn_err *err);

/**
 * Takes whole characters (what a detokenizer returns) and gives back the text that is safe to show, valid until the next
 * call. `*found` becomes the index of the stop string that was completed, or -1; the string itself and all after it
 * are withheld, and further pushes give nothing until tn_stop_reset.
 */
TN_TEXT_API int32_t tn_stop_push(tn_stop *s, const char *text, size_t len, const char **safe,
                                 size_t *safe_len, int32_t *found, tn_err *err);

/** No more text: returns what was held back. Afterwards `s` is as new. */
TN_TEXT_API int32_t tn_stop_flush(tn_stop *s, const char **safe, size_t *safe_len, tn_err *err);

TN_TEXT_API void tn_stop_reset(tn_stop *s);
TN_TEXT_API void tn_stop_free(tn_stop *s); /**< NULL is allowed */

/** @} */

#ifdef __cplusplus
}
#endif
#endif
