/* SPDX-License-Identifier: Apache-2.0 */
/* Reads pre-tokenizers (pretok.h) from a tokenizer.json. One thread. */
#include "base/mem.h"
#include "pretok.h"
#include "steps.h"
#include "textlimits.h"
#include "unidata.h"

static const char part[] = "pre_tokenizer";

void pretok_release(struct pretok_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        regex_free(l->items[i].regex);
        literal_release(&l->items[i].literal);
    }
    mem_free(l->items);
    memset(l, 0, sizeof *l);
}

/* A new step at the end of the list. */
static struct pretok *append(struct pretok_list *l, enum pretok_kind kind, tn_err *err)
{
    if (!mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items)) {
        err_nomem(err, "a pre-tokenizer");
        return NULL;
    }
    l->items[l->count] = (struct pretok){.kind = kind};
    return &l->items[l->count++];
}

/* Index of a string member among `names`, which ends with NULL; `fallback` if it is absent and that is not -1. */
static int32_t choice(const struct tape *t, uint32_t node, const char *field,
                      const char *const *names, int fallback, int *out, tn_err *err)
{
    uint32_t v = tape_get(t, node, field);

    *out = fallback;
    if (v == TAPE_NONE && fallback >= 0)
        return TN_OK;
    for (int i = 0; v != TAPE_NONE && names[i]; i++) {
        if (tape_eq(t, v, names[i])) {
            *out = i;
            return TN_OK;
        }
    }
    return tape_err(t, v == TAPE_NONE ? node : v, field, err,
                    v == TAPE_NONE ? "is missing" : "has a value that is not known");
}

static int32_t load_behavior(const struct tape *t, uint32_t node, int fallback,
                             enum pretok_behavior *out, tn_err *err)
{
    static const char *const names[] = {"Removed",        "Isolated",   "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous", NULL};
    int i = 0;
    int32_t rc = choice(t, node, "behavior", names, fallback, &i, err);

    *out = (enum pretok_behavior)(i < 0 ? 0 : i);
    return rc;
}

/* A member that is one character. */
static int32_t load_character(const struct tape *t, uint32_t node, const char *field, uint32_t *out,
                              tn_err *err)
{
    const char *text;
    size_t len, n = 0;
    int32_t rc = tape_need_str(t, node, field, &text, &len, err);

    if (rc != TN_OK)
        return rc;
    if (len > 0)
        *out = uni_next(text, &n);
    return n == len && len > 0
               ? TN_OK
               : tape_err(t, tape_get(t, node, field), field, err, "must be one character");
}

static int32_t load_regex(struct pretok *p, const struct tape *t, uint32_t node, tn_err *err)
{
    size_t len;
    const char *text = tape_str(t, node, &len);
    int32_t rc;

    p->scanner = scanner_for(text, len);
    if (p->scanner)
        return TN_OK;
    rc = regex_new(text, len, false, &p->regex, err);
    if (rc != TN_OK) {
        err_file(err, t->file);
        err_field(err, "pre_tokenizer.pattern");
    }
    return rc;
}

static int32_t load_literal(struct pretok *p, const struct tape *t, uint32_t node, tn_err *err)
{
    size_t len;
    const char *text = tape_str(t, node, &len);

    if (len > LIMIT_PATTERN_BYTES)
        return tape_err(t, node, "pattern", err, "has %zu bytes, more than %d", len,
                        (int)LIMIT_PATTERN_BYTES);
    if (len == 0) /* matches between all characters, as the empty regex does */
        return regex_new("", 0, false, &p->regex, err);
    return literal_init(&p->literal, text, len) ? TN_OK : err_nomem(err, "a pre-tokenizer");
}

static int32_t load_split(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err)
{
    struct pretok *p = append(l, PRETOK_SPLIT, err);
    uint32_t pattern = tape_get(t, node, "pattern");
    uint32_t regex = tape_get(t, pattern, "Regex"), literal = tape_get(t, pattern, "String");
    int32_t rc;

    if (!p)
        return TN_E_NOMEM;
    rc = load_behavior(t, node, -1, &p->behavior, err);
    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "invert", false, &p->invert, err);
    if (rc != TN_OK)
        return rc;
    if (tape_is(t, regex, TAPE_STRING))
        return load_regex(p, t, regex, err);
    if (tape_is(t, literal, TAPE_STRING))
        return load_literal(p, t, literal, err);
    return tape_err(t, pattern == TAPE_NONE ? node : pattern, "pattern", err,
                    "must have \"Regex\" or \"String\"");
}

static int32_t load_byte_level(struct pretok_list *l, const struct tape *t, uint32_t node,
                               tn_err *err)
{
    struct pretok *p = append(l, PRETOK_BYTE_LEVEL, err);
    int32_t rc;

    if (!p)
        return TN_E_NOMEM;
    rc = tape_get_bool(t, node, "add_prefix_space", true, &p->prefix_space, err);
    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "use_regex", true, &p->split, err);
    return rc;
}

static int32_t load_metaspace(struct pretok_list *l, const struct tape *t, uint32_t node,
                              tn_err *err)
{
    static const char *const names[] = {"first", "never", "always", NULL};
    struct pretok *p = append(l, PRETOK_METASPACE, err);
    bool prefix;
    int scheme = PREPEND_ALWAYS;
    int32_t rc;

    if (!p)
        return TN_E_NOMEM;
    rc = load_character(t, node, "replacement", &p->one, err);
    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "add_prefix_space", true, &prefix, err);
    if (rc == TN_OK)
        rc = choice(t, node, "prepend_scheme", names, PREPEND_ALWAYS, &scheme, err);
    if (rc == TN_OK && !prefix && scheme != PREPEND_NEVER)
        rc = tape_err(t, node, "prepend_scheme", err,
                      "must be \"never\" where add_prefix_space is false");
    p->prepend = (enum pretok_prepend)scheme;
    return rc == TN_OK ? tape_get_bool(t, node, "split", true, &p->split, err) : rc;
}

/* A split by a test of single characters. */
static struct pretok *add_chars(struct pretok_list *l, enum pretok_chars chars,
                                enum pretok_behavior behavior, tn_err *err)
{
    struct pretok *p = append(l, PRETOK_CHARS, err);

    if (p) {
        p->chars = chars;
        p->behavior = behavior;
    }
    return p;
}

static int32_t load_digits(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err)
{
    struct pretok *p = add_chars(l, CHARS_NUMERIC, SPLIT_CONTIGUOUS, err);
    bool each = false;
    int32_t rc = p ? tape_get_bool(t, node, "individual_digits", false, &each, err) : TN_E_NOMEM;

    if (rc == TN_OK && each)
        p->behavior = SPLIT_ISOLATED;
    return rc;
}

static int32_t load_punctuation(struct pretok_list *l, const struct tape *t, uint32_t node,
                                tn_err *err)
{
    struct pretok *p = add_chars(l, CHARS_PUNCTUATION, SPLIT_ISOLATED, err);

    return p ? load_behavior(t, node, SPLIT_ISOLATED, &p->behavior, err) : TN_E_NOMEM;
}

static int32_t load_delimiter(struct pretok_list *l, const struct tape *t, uint32_t node,
                              tn_err *err)
{
    struct pretok *p = add_chars(l, CHARS_ONE, SPLIT_REMOVED, err);

    return p ? load_character(t, node, "delimiter", &p->one, err) : TN_E_NOMEM;
}

static int32_t load_white_space(struct pretok_list *l, const struct tape *t, uint32_t node,
                                tn_err *err)
{
    (void)t;
    (void)node;
    return add_chars(l, CHARS_SPACE, SPLIT_REMOVED, err) ? TN_OK : TN_E_NOMEM;
}

static int32_t load_bert(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err)
{
    int32_t rc = load_white_space(l, t, node, err);

    if (rc == TN_OK)
        rc = add_chars(l, CHARS_PUNCTUATION, SPLIT_ISOLATED, err) ? TN_OK : TN_E_NOMEM;
    return rc;
}

static int32_t load_words(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err)
{
    (void)t;
    (void)node;
    return append(l, PRETOK_WORDS, err) ? TN_OK : TN_E_NOMEM;
}

static int32_t load_fixed(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err)
{
    struct pretok *p = append(l, PRETOK_FIXED, err);
    uint32_t v = tape_get(t, node, "length");

    if (!p)
        return TN_E_NOMEM;
    p->length = 5;
    if (v != TAPE_NONE && (!tape_uint(t, v, &p->length) || p->length == 0))
        return tape_err(t, v, "length", err, "must be a number above 0");
    return TN_OK;
}

static int32_t take_step(void *arg, const struct tape *t, uint32_t node, uint32_t type, tn_err *err)
{
    static const struct {
        const char *name;
        int32_t (*load)(struct pretok_list *l, const struct tape *t, uint32_t node, tn_err *err);
    } types[] = {{"Split", load_split},
                 {"ByteLevel", load_byte_level},
                 {"Metaspace", load_metaspace},
                 {"Digits", load_digits},
                 {"Punctuation", load_punctuation},
                 {"Whitespace", load_words},
                 {"WhitespaceSplit", load_white_space},
                 {"BertPreTokenizer", load_bert},
                 {"CharDelimiterSplit", load_delimiter},
                 {"Delimiter", load_delimiter},
                 {"FixedLength", load_fixed}};

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (tape_eq(t, type, types[i].name))
            return types[i].load(arg, t, node, err);
    return steps_unknown(t, type, part, err);
}

int32_t pretok_load(const struct tape *t, uint32_t node, struct pretok_list *out, tn_err *err)
{
    return steps_each(t, node, part, "pretokenizers", take_step, out, err);
}

bool pretok_ends_in_bytes(const struct pretok_list *l)
{
    return l->count > 0 && l->items[l->count - 1].kind == PRETOK_BYTE_LEVEL;
}

void pretok_keep_bytes(struct pretok_list *l)
{
    l->items[l->count - 1].keep_bytes = true;
}
