/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chat templates: an interpreter of the Jinja that Hugging Face templates use, with their environment
 * (trim_blocks, lstrip_blocks, break/continue, {% generation %}, the immutable sandbox) and the results of
 * Python's str, list and dict. Templates and their inputs are untrusted: every render runs under a budget of
 * steps, output and memory, and reaches nothing but the values it was given.
 *
 * The rendered text comes with its provenance. Each byte is either the template's own (literal text,
 * string literals, what the caller marked as trusted) or not (message contents, tool schemas, ...). A
 * tokenizer that looks for special tokens only inside trusted ranges cannot be talked into one by a user.
 */
#ifndef TEXT_JINJA_JINJA_H
#define TEXT_JINJA_JINJA_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strbuf.h"

/* A compiled template. Immutable: any number of threads may render it at once. */
struct jinja;

/* What ended a compile or a render; `native` of the error record. The names follow the exceptions of Python
 * and jinja2 that the same template raises there. */
enum jinja_failure {
    JINJA_OK,
    JINJA_SYNTAX, /* the template is not well formed, or names a filter or test that does not exist */
    JINJA_RAISED,     /* the template called raise_exception; msg is its message and nothing else */
    JINJA_UNDEFINED,  /* an operation on a value that does not exist */
    JINJA_SECURITY,   /* what the sandbox forbids: mutating methods, underscore names */
    JINJA_RUNTIME,    /* other errors of jinja2 */
    JINJA_TYPE,       /* TypeError */
    JINJA_VALUE,      /* ValueError, AssertionError */
    JINJA_LOOKUP,     /* KeyError, IndexError */
    JINJA_ARITHMETIC, /* division by zero, OverflowError, a number that does not fit 64 bits */
    JINJA_LIMIT,      /* fuel, output, memory or nesting cap */
    JINJA_UNSUPPORTED, /* legal in jinja2, absent here */
    JINJA_NOMEM        /* the host is out of memory */
};

/* Caps of one render. Zero means the default, a generous multiple of what published templates need. */
#define JINJA_DEFAULT_FUEL                                                                         \
    (UINT64_C(20) * 1000 * 1000) /* a second of loops, some of text; 1000 messages need < 1e6 */
#define JINJA_DEFAULT_OUTPUT (UINT64_C(64) << 20) /* 16 million tokens of text */
#define JINJA_DEFAULT_MEMORY                                                                       \
    (UINT64_C(256) << 20) /* values are freed at the end of a render only */

struct jinja_limits {
    uint64_t fuel;         /* steps: one per node, item or 32 bytes of text that are touched */
    uint64_t output_bytes; /* of the rendered text */
    uint64_t memory_bytes; /* of all values made on the way */
};

/* The moment that strftime_now sees. */
struct jinja_time {
    int64_t unix_s;
    int32_t micros;       /* 0 to 999999 */
    int32_t utc_offset_s; /* of the local clock: 3600 for UTC+1 */
};

struct jinja_options {
    struct jinja_limits limits;
    const struct jinja_time *now; /* NULL: the system's clock and time zone */
    /*
     * Values of the context that are as good as template text, by path: "bos_token" is one variable with all
     * it holds, "messages[].role" the role of every message. A role may be trusted only if the caller has
     * checked it against a fixed list: several templates build special tokens from it. At most
     * JINJA_MAX_TRUSTED paths.
     */
    const char *const *trusted;
    size_t trusted_count;
};

#define JINJA_MAX_TRUSTED 64

/* Bytes [begin, end) of the rendered text. The ranges of a result are in order, touch each other, alternate in
 * `trusted`, and cover all of the text. */
struct jinja_range {
    size_t begin, end;
    bool trusted;
};

/* Bytes that one {% generation %} block produced. Nested blocks come before the one around them. A block
 * inside a macro, set or filter block reports where the root output stood, as transformers does. */
struct jinja_span {
    size_t begin, end;
};

struct jinja_result {
    struct strbuf text; /* UTF-8; may hold NUL bytes if the context does */
    struct jinja_range *ranges;
    size_t range_count;
    struct jinja_span *generations;
    size_t generation_count;
    uint64_t fuel_used, memory_used;
};

#define JINJA_RESULT_INIT                                                                          \
    {                                                                                              \
        STRBUF_INIT, NULL, 0, NULL, 0, 0, 0                                                        \
    }

/*
 * Compiles `len` bytes of UTF-8 (at most LIMIT_TEMPLATE_BYTES). `name` stands for the file in errors; it is
 * copied. On failure `err` has file, offset (byte in the text), field ("line 3, column 7"), native
 * (enum jinja_failure) and the message; `*out` stays as it was.
 * Codes: TN_E_FORMAT (syntax), TN_E_UNSUPPORTED, TN_E_LIMIT, TN_E_NOMEM.
 */
int32_t jinja_compile(const char *name, const char *text, size_t len, struct jinja **out,
                      tn_err *err);
void jinja_free(struct jinja *t); /* NULL is allowed */

/* Whether the template reads (or sets) a variable of that name anywhere: "tools", "enable_thinking". */
bool jinja_mentions(const struct jinja *t, const char *variable);

/*
 * Renders with `context`, a JSON object of variables (messages, tools, documents, add_generation_prompt,
 * bos_token, ...). The object is only read and must not change during the call. `options` may be NULL.
 * `*out` starts as JINJA_RESULT_INIT or a released result; release it with jinja_result_release. On failure it
 * stays as it was and `err` is filled as by jinja_compile.
 * Codes: TN_E_INVALID (the template refused its input: raised, undefined, wrong type, ...), TN_E_RANGE
 * (a number over 64 bits), TN_E_LIMIT (a cap), TN_E_UNSUPPORTED, TN_E_NOMEM.
 * The call uses at most about 1 MiB of C stack.
 */
int32_t jinja_render(const struct jinja *t, const json_t *context,
                     const struct jinja_options *options, struct jinja_result *out, tn_err *err);
void jinja_result_release(struct jinja_result *r); /* a zeroed result is allowed */

/*
 * Adds variables chosen by a client to `context`. Only the `allowed` names may be set, and none that the context
 * has already; anything else, and a `kwargs` that is no object, is TN_E_INVALID, with the name in `field`, and
 * changes nothing.
 */
int32_t jinja_add_kwargs(json_t *context, const json_t *kwargs, const char *const *allowed,
                         size_t allowed_count, tn_err *err);

#endif
