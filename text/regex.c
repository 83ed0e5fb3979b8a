/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PCRE2 behind regex.h. Text is checked to be UTF-8 once, at the door of the room, so matching skips that check. When
 * the JIT's stack does not suffice the interpreter takes over, whose memory is the heap; both stop at a match limit,
 * so that no pattern of a file can hang a server.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "regex.h"

#include <pcre2.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "onig.h"
#include "textlimits.h"
#include "unidata.h"

#define JIT_STACK_MAX (32 * 1024 * 1024)

struct regex {
    pcre2_code *code;
};

struct regex_scratch {
    pcre2_general_context *memory;
    pcre2_match_context *context;
    pcre2_match_data *match;
    pcre2_jit_stack *stack;
};

static void *allocate(size_t n, void *unused)
{
    (void)unused;
    return mem_alloc(n);
}

static void release(void *p, void *unused)
{
    (void)unused;
    mem_free(p);
}

static int32_t compile(const struct strbuf *pattern, pcre2_code **code, tn_err *err)
{
    pcre2_general_context *memory = pcre2_general_context_create(allocate, release, NULL);
    pcre2_compile_context *context = memory ? pcre2_compile_context_create(memory) : NULL;
    PCRE2_SIZE at = 0;
    int error = 0;
    int32_t rc = TN_OK;

    *code = NULL;
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        *code = pcre2_compile((PCRE2_SPTR)strbuf_str(pattern), pattern->len,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                              &error, &at, context);
    }
    if (!context || (!*code && error == PCRE2_ERROR_HEAP_FAILED)) {
        rc = err_nomem(err, "a regular expression");
    } else if (!*code) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(error, text, sizeof text);
        rc = tn_err_set(err, TN_E_UNSUPPORTED, "the regular expression cannot be used: %s", text);
    } else {
        pcre2_jit_compile(*code,
                          PCRE2_JIT_COMPLETE); /* without a JIT it runs slower, that is all */
    }
    pcre2_compile_context_free(context);
    pcre2_general_context_free(memory);
    return rc;
}

int32_t regex_new(const char *pattern, size_t n, bool literal, struct regex **out, tn_err *err)
{
    struct strbuf translated = STRBUF_INIT;
    struct regex *r = mem_zalloc(sizeof *r);
    int32_t rc = TN_OK;

    if (!r)
        return err_nomem(err, "a regular expression");
    if (literal)
        onig_literal(pattern, n, &translated);
    else
        rc = onig_translate(pattern, n, &translated, err);
    if (rc == TN_OK && translated.failed)
        rc = err_nomem(err, "a regular expression");
    if (rc == TN_OK)
        rc = compile(&translated, &r->code, err);
    strbuf_release(&translated);
    if (rc != TN_OK) {
        regex_free(r);
        return rc;
    }
    *out = r;
    return TN_OK;
}

void regex_free(struct regex *r)
{
    if (!r)
        return;
    pcre2_code_free(r->code);
    mem_free(r);
}

int32_t regex_scratch_new(struct regex_scratch **out, tn_err *err)
{
    struct regex_scratch *s = mem_zalloc(sizeof *s);

    if (!s)
        return err_nomem(err, "matching");
    s->memory = pcre2_general_context_create(allocate, release, NULL);
    s->context = s->memory ? pcre2_match_context_create(s->memory) : NULL;
    s->match = s->memory ? pcre2_match_data_create(1, s->memory) : NULL;
    if (!s->context || !s->match) {
        regex_scratch_free(s);
        return err_nomem(err, "matching");
    }
    pcre2_set_match_limit(s->context, LIMIT_REGEX_MATCH);
    pcre2_set_heap_limit(s->context, LIMIT_REGEX_HEAP_KIB);
    s->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_MAX, s->memory);
    if (s->stack) /* without one the JIT uses 32 KiB of ours */
        pcre2_jit_stack_assign(s->context, NULL, s->stack);
    *out = s;
    return TN_OK;
}

void regex_scratch_free(struct regex_scratch *s)
{
    if (!s)
        return;
    pcre2_jit_stack_free(s->stack);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_general_context_free(s->memory);
    mem_free(s);
}

void regex_iter_begin(struct regex_iter *it, const struct regex *r, struct regex_scratch *s,
                      const char *text, size_t len)
{
    *it = (struct regex_iter){r, s, text, len, 0, SIZE_MAX};
}

static int32_t match_error(int code, tn_err *err)
{
    if (code == PCRE2_ERROR_NOMEMORY)
        return err_nomem(err, "matching a regular expression");
    if (code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_DEPTHLIMIT ||
        code == PCRE2_ERROR_HEAPLIMIT || code == PCRE2_ERROR_JIT_STACKLIMIT)
        return tn_err_set(
            err, TN_E_LIMIT,
            "a regular expression of the tokenizer takes too many steps on this text");
    return tn_err_set(err, TN_E_INTERNAL, "PCRE2 failed with %d", code);
}

int32_t regex_iter_next(struct regex_iter *it, size_t *begin, size_t *end, tn_err *err)
{
    struct regex_scratch *s = it->scratch;
    PCRE2_SPTR text = (PCRE2_SPTR)it->text;
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(s->match);

    while (it->from <= it->len) {
        size_t n;
        int rc = pcre2_match(it->regex->code, text, it->len, it->from, PCRE2_NO_UTF_CHECK, s->match,
                             s->context);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(it->regex->code, text, it->len, it->from,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, s->context);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return match_error(rc, err);
        /* \K in a lookahead can put the start behind the end; such a match is as good as empty. */
        *end = found[1];
        *begin = found[0] < found[1] ? found[0] : found[1];
        if (*begin == *end && it->last_end == *end) {
            if (it->from == it->len)
                break;
            uni_next(it->text + it->from, &n);
            it->from += n;
            continue;
        }
        it->from = it->last_end = *end;
        return 1;
    }
    it->from = it->len + 1;
    return 0;
}
