/* SPDX-License-Identifier: Apache-2.0 */
/* The parser: recursive descent with a cap on nesting (JPARSE_NESTING), after the grammar of jinja2 3.1. */
#ifndef TEXT_JINJA_PARSER_H
#define TEXT_JINJA_PARSER_H

#include "jinja/lexer.h"

#define JPARSE_TAGS 8 /* names that may end a body */

struct jparser {
    struct jcompile *c;
    struct jlexer lexer;
    struct jtoken current, ahead;
    bool has_ahead;
    uint32_t depth;
};

/* The whole template: a JN_BODY, or NULL after filling the error. */
struct jnode *jparse(struct jcompile *c);

/* Shared by parse_expr.c and parse_stmt.c. All return NULL or false after filling the error. */
bool jparser_next(struct jparser *p);
bool jparser_peek(struct jparser *p, struct jtoken *out);
bool jparser_is(const struct jparser *p, const char *name); /* current is that name */
bool jparser_expect(struct jparser *p, enum jtok type);
/* Current is the name: goes on behind it. Errors are left for the caller to see in c->failed. */
bool jparser_skip(struct jparser *p, const char *name);
bool jparser_fail(struct jparser *p, const char *what); /* "expected token X, got Y" */
bool jparser_enter(struct jparser *p);
static inline void jparser_leave(struct jparser *p)
{
    p->depth--;
}

/* How a tuple may look. It ends with the tag or parenthesis around it, or where no comma follows. */
struct jtuple_rule {
    bool names_only;  /* primaries instead of expressions: the target of an assignment */
    bool no_cond;     /* no inline if */
    bool parentheses; /* () is allowed */
    bool namespaces;  /* a.b is the attribute of a namespace */
};

struct jnode *jparse_expression(struct jparser *p, bool no_cond);
struct jnode *jparse_tuple(struct jparser *p, const struct jtuple_rule *rule);
struct jnode *jparse_primary(struct jparser *p, bool namespaces);
/* Filters behind `subject` (NULL in a filter block); `first`: the name stands here without a bar. */
struct jnode *jparse_filters(struct jparser *p, struct jnode *subject, bool first);

#endif
