/* SPDX-License-Identifier: Apache-2.0 */
/* Patterns to replace (replacer.h). Immutable once loaded; an iterator belongs to one thread. */
#include "replacer.h"

#include "base/mem.h"
#include "textlimits.h"

static int32_t load_pattern(const struct tape *t, uint32_t node, struct replacer *r, tn_err *err)
{
    uint32_t text = tape_get(t, node, "String"), regex = tape_get(t, node, "Regex");
    bool literal = tape_is(t, text, TAPE_STRING);
    const char *p;
    size_t len;

    if (literal == tape_is(t, regex, TAPE_STRING))
        return tape_err(t, node, "pattern", err, "a pattern needs either String or Regex");
    p = tape_str(t, literal ? text : regex, &len);
    if (len > LIMIT_PATTERN_BYTES)
        return tape_err(t, node, "pattern", err, "the pattern has %zu bytes, the limit is %u", len,
                        (unsigned)LIMIT_PATTERN_BYTES);
    if (!literal || len == 0)
        return regex_new(p, len, literal, &r->regex, err);
    r->literal = mem_copy(p, len);
    r->literal_len = len;
    return r->literal ? TN_OK : err_nomem(err, "a pattern");
}

int32_t replacer_load(const struct tape *t, uint32_t node, struct replacer *out, tn_err *err)
{
    struct replacer r = {NULL, NULL, 0, NULL, 0};
    uint32_t pattern = tape_get(t, node, "pattern");
    const char *content;
    int32_t rc;

    if (!tape_is(t, pattern, TAPE_OBJECT))
        return tape_err(t, node, "pattern", err, "Replace needs a pattern");
    rc = tape_need_str(t, node, "content", &content, &r.content_len, err);
    if (rc != TN_OK)
        return rc;
    if (r.content_len > LIMIT_TOKEN_BYTES)
        return tape_err(t, node, "content", err, "the content has %zu bytes, the limit is %u",
                        r.content_len, (unsigned)LIMIT_TOKEN_BYTES);
    rc = load_pattern(t, pattern, &r, err);
    if (rc == TN_OK && !(r.content = mem_copy(content, r.content_len)))
        rc = err_nomem(err, "a pattern");
    if (rc == TN_OK)
        *out = r;
    else
        replacer_release(&r);
    return rc;
}

void replacer_release(struct replacer *r)
{
    regex_free(r->regex);
    mem_free(r->literal);
    mem_free(r->content);
    memset(r, 0, sizeof *r);
}

void replacer_begin(struct replacer_iter *it, const struct replacer *r,
                    struct regex_scratch *scratch, const char *text, size_t len)
{
    it->replacer = r;
    it->text = text;
    it->len = len;
    it->from = 0;
    if (r->regex)
        regex_iter_begin(&it->regex, r->regex, scratch, text, len);
}

int32_t replacer_next(struct replacer_iter *it, size_t *begin, size_t *end, tn_err *err)
{
    const struct replacer *r = it->replacer;

    if (r->regex)
        return it->len == 0 ? 0 : regex_iter_next(&it->regex, begin, end, err);
    while (it->len - it->from >= r->literal_len) {
        size_t room = it->len - it->from - r->literal_len + 1;
        const char *at = memchr(it->text + it->from, r->literal[0], room);
        if (!at)
            break;
        it->from = (size_t)(at - it->text);
        if (memcmp(at, r->literal, r->literal_len) == 0) {
            *begin = it->from;
            *end = it->from += r->literal_len;
            return 1;
        }
        it->from++;
    }
    it->from = it->len;
    return 0;
}
