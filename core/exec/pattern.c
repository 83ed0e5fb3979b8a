/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/pattern.h"

#include <string.h>

struct parser {
    const char *text, *at;
    struct pattern *p;
    bool defined[PATTERN_MAX_NAMES], read[PATTERN_MAX_NAMES];
    tn_err *err;
};

static int32_t fail(struct parser *s, const char *what)
{
    return err_at(s->err, TN_E_FORMAT, NULL, (uint64_t)(s->at - s->text), "equals",
                  "expected %s in the fusion \"%.200s\"", what, s->text);
}

static void skip(struct parser *s)
{
    while (*s->at == ' ' || *s->at == '\n' || *s->at == '\t')
        s->at++;
}

static bool take(struct parser *s, const char *token)
{
    size_t n = strlen(token);

    skip(s);
    if (strncmp(s->at, token, n) != 0)
        return false;
    s->at += n;
    return true;
}

static bool word_char(char c, bool dots)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || (dots && c == '.') ||
           (c >= 'A' && c <= 'Z');
}

/* Copies a word of at most size - 1 characters. */
static int32_t word(struct parser *s, char *out, size_t size, bool dots)
{
    size_t n = 0;

    skip(s);
    while (word_char(s->at[n], dots))
        n++;
    if (n == 0 || n >= size)
        return fail(s, "a name of reasonable length");
    memcpy(out, s->at, n);
    out[n] = '\0';
    s->at += n;
    return TN_OK;
}

/* The index of a name, entered if it is new. */
static int32_t name_index(struct parser *s, uint8_t *index)
{
    char name[PATTERN_NAME] = "";
    int32_t rc = word(s, name, sizeof name, false);

    if (rc != TN_OK)
        return rc;
    for (uint32_t i = 0; i < s->p->n_names; i++) {
        if (strcmp(s->p->names[i], name) == 0) {
            *index = (uint8_t)i;
            return TN_OK;
        }
    }
    if (s->p->n_names == PATTERN_MAX_NAMES)
        return fail(s, "at most 32 names");
    *index = (uint8_t)s->p->n_names;
    memcpy(s->p->names[s->p->n_names++], name, sizeof name);
    return TN_OK;
}

enum role { DEFINES, USES, MENTIONS };

static int32_t names(struct parser *s, uint8_t list[TN_OP_MAX_VALUES], uint32_t *n, enum role role)
{
    int32_t rc;

    *n = 0;
    skip(s);
    if (*s->at == ')')
        return TN_OK;
    do {
        if (*n == TN_OP_MAX_VALUES)
            return fail(s, "at most 12 names in a list");
        rc = name_index(s, &list[*n]);
        if (rc != TN_OK)
            return rc;
        if (role == DEFINES && s->defined[list[*n]])
            return fail(s, "a name that is not defined yet");
        if (role == USES && !s->defined[list[*n]])
            return fail(s, "a name that is defined before");
        for (uint32_t i = 0; role == MENTIONS && i < *n; i++)
            if (list[i] == list[*n])
                return fail(s, "outputs that are named once");
        if (role == USES)
            s->read[list[*n]] = true;
        if (role == DEFINES)
            s->defined[list[*n]] = true;
        (*n)++;
    } while (take(s, ","));
    return TN_OK;
}

static int32_t statement(struct parser *s)
{
    struct pattern_step *step = &s->p->steps[s->p->n_steps];
    uint8_t outs[TN_OP_MAX_VALUES];
    const char *begin = s->at;
    int32_t rc;

    if (s->p->n_steps == TN_OP_MAX_MEMBERS)
        return fail(s, "at most 24 statements");
    /* Outputs become defined after the inputs are read, so that "x = f(x)" is refused. */
    rc = names(s, outs, &step->n_out, MENTIONS);
    if (rc != TN_OK)
        return rc;
    for (uint32_t i = 0; i < step->n_out; i++)
        if (s->defined[outs[i]]) {
            s->at = begin;
            return fail(s, "a name that is not defined yet");
        }
    if (step->n_out == 0 || !take(s, "="))
        return fail(s, "\"=\"");
    rc = word(s, step->op, sizeof step->op, true);
    if (rc == TN_OK && !take(s, "("))
        rc = fail(s, "\"(\"");
    if (rc == TN_OK)
        rc = names(s, step->in, &step->n_in, USES);
    if (rc == TN_OK && !take(s, ")"))
        rc = fail(s, "\")\"");
    if (rc != TN_OK)
        return rc;
    memcpy(step->out, outs, sizeof outs);
    for (uint32_t i = 0; i < step->n_out; i++)
        s->defined[outs[i]] = true;
    s->p->n_steps++;
    return TN_OK;
}

static int32_t heading(struct parser *s)
{
    int32_t rc = TN_OK;

    if (!take(s, "("))
        rc = fail(s, "\"(\"");
    if (rc == TN_OK)
        rc = names(s, s->p->in, &s->p->n_in, DEFINES);
    if (rc == TN_OK && (!take(s, ")") || !take(s, "->") || !take(s, "(")))
        rc = fail(s, "\") -> (\"");
    if (rc == TN_OK)
        rc = names(s, s->p->out, &s->p->n_out, MENTIONS);
    if (rc == TN_OK && (!take(s, ")") || !take(s, ":")))
        rc = fail(s, "\"):\"");
    if (rc == TN_OK && s->p->n_out == 0)
        rc = fail(s, "at least one output");
    return rc;
}

int32_t pattern_parse(const char *text, struct pattern *out, tn_err *err)
{
    struct pattern p = {0};
    struct parser s = {.text = text, .at = text, .p = &p, .err = err};
    int32_t rc = heading(&s);

    if (rc != TN_OK)
        return rc;
    do {
        rc = statement(&s);
    } while (rc == TN_OK && take(&s, ";"));
    skip(&s);
    if (rc == TN_OK && *s.at != '\0')
        rc = fail(&s, "\";\" or the end");
    for (uint32_t i = 0; i < p.n_out && rc == TN_OK; i++)
        if (!s.defined[p.out[i]])
            rc = fail(&s, "every output to be defined by a statement");
    for (uint32_t i = 0; i < p.n_out && rc == TN_OK; i++)
        for (uint32_t j = 0; j < p.n_in; j++)
            if (p.out[i] == p.in[j])
                rc = fail(&s, "outputs that are not inputs");
    for (uint32_t i = 0; i < p.n_in && rc == TN_OK; i++)
        if (!s.read[p.in[i]])
            rc = fail(&s, "every input to be read by a statement");
    if (rc == TN_OK)
        *out = p;
    return rc;
}
