/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions, by precedence from the loosest (inline if) to primaries. */
#include <string.h>

#include "jinja/call.h"
#include "jinja/parser.h"
#include "jinja/str.h"

static struct jnode *parse_or(struct jparser *p);
static struct jnode *parse_unary(struct jparser *p, bool with_filter);
static struct jnode *parse_postfix(struct jparser *p, struct jnode *n);

static struct jnode *node1(struct jparser *p, enum jkind kind, uint32_t pos, struct jnode *a)
{
    struct jnode *n = a ? jnode_new(p->c, kind, pos, 1) : NULL;

    return n && jnode_set(p->c, n, 0, a) ? n : NULL;
}

static struct jnode *node2(struct jparser *p, enum jkind kind, uint32_t pos, struct jnode *a,
                           struct jnode *b)
{
    struct jnode *n = a && b ? jnode_new(p->c, kind, pos, 2) : NULL;

    return n && jnode_set(p->c, n, 0, a) && jnode_set(p->c, n, 1, b) ? n : NULL;
}

static struct jnode *constant(struct jparser *p, uint32_t pos, struct jvalue v)
{
    struct jnode *n = jnode_new(p->c, JN_CONST, pos, 0);

    if (n)
        n->value = v;
    return n;
}

static struct jnode *string_constant(struct jparser *p, uint32_t pos, const char *text, size_t len)
{
    const struct jstr *s = jcompile_str(p->c, text, len);

    return s ? constant(p, pos, (struct jvalue){.type = J_STR, .u.s = s}) : NULL;
}

static bool token_is_name(const struct jtoken *t, const char *name)
{
    return t->type == JT_NAME && t->len == strlen(name) && memcmp(t->text, name, t->len) == 0;
}

/* a if b else c, which nests to the right. */
static struct jnode *parse_cond(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *then = parse_or(p);

    while (then && jparser_skip(p, "if")) {
        struct jnode *test = parse_or(p), *otherwise = NULL, *n;
        if (test && jparser_skip(p, "else")) {
            otherwise = jparse_expression(p, false);
            if (!otherwise)
                return NULL;
        }
        n = test && !p->c->failed ? jnode_new(p->c, JN_COND, pos, 3) : NULL;
        if (!n || !jnode_set(p->c, n, 0, test) || !jnode_set(p->c, n, 1, then) ||
            !jnode_set(p->c, n, 2, otherwise))
            return NULL;
        then = n;
    }
    return p->c->failed ? NULL : then;
}

struct jnode *jparse_expression(struct jparser *p, bool no_cond)
{
    struct jnode *n;

    if (!jparser_enter(p))
        return NULL;
    n = no_cond ? parse_or(p) : parse_cond(p);
    jparser_leave(p);
    return n;
}

static struct jnode *parse_not(struct jparser *p);

static struct jnode *parse_and(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *left = parse_not(p);

    while (left && jparser_skip(p, "and"))
        left = node2(p, JN_AND, pos, left, parse_not(p));
    return p->c->failed ? NULL : left;
}

static struct jnode *parse_or(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *left = parse_and(p);

    while (left && jparser_skip(p, "or"))
        left = node2(p, JN_OR, pos, left, parse_and(p));
    return p->c->failed ? NULL : left;
}

static struct jnode *parse_pow(struct jparser *p)
{
    struct jnode *left = parse_unary(p, true);

    while (left && p->current.type == JT_POW) {
        uint32_t pos = p->current.pos;
        if (!jparser_next(p))
            return NULL;
        left = node2(p, JN_BINARY, pos, left, parse_unary(p, true));
        if (left)
            left->op = JOP_POW;
    }
    return left;
}

static struct jnode *parse_product(struct jparser *p)
{
    struct jnode *left = parse_pow(p);

    while (left) {
        enum jtok t = p->current.type;
        uint32_t pos = p->current.pos;
        if (t != JT_MUL && t != JT_DIV && t != JT_FLOORDIV && t != JT_MOD)
            break;
        if (!jparser_next(p))
            return NULL;
        left = node2(p, JN_BINARY, pos, left, parse_pow(p));
        if (left)
            left->op = t == JT_MUL        ? JOP_MUL
                       : t == JT_DIV      ? JOP_DIV
                       : t == JT_FLOORDIV ? JOP_FLOORDIV
                                          : JOP_MOD;
    }
    return left;
}

static struct jnode *parse_concat(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *first = parse_product(p);
    struct jnodes items = {0};

    if (!first || p->current.type != JT_TILDE)
        return first;
    if (!jnodes_push(p->c, &items, first))
        return NULL;
    while (p->current.type == JT_TILDE) {
        if (!jparser_next(p) || !jnodes_push(p->c, &items, parse_product(p)))
            return NULL;
    }
    return jnode_list(p->c, JN_CONCAT, pos, &items);
}

static struct jnode *parse_sum(struct jparser *p)
{
    struct jnode *left = parse_concat(p);

    while (left && (p->current.type == JT_ADD || p->current.type == JT_SUB)) {
        enum jop op = p->current.type == JT_ADD ? JOP_ADD : JOP_SUB;
        uint32_t pos = p->current.pos;
        if (!jparser_next(p))
            return NULL;
        left = node2(p, JN_BINARY, pos, left, parse_concat(p));
        if (left)
            left->op = (uint8_t)op;
    }
    return left;
}

/* The comparison at the current token, which is consumed; false if there is none. */
static bool comparison(struct jparser *p, enum jop *op)
{
    static const struct {
        enum jtok token;
        enum jop op;
    } signs[] = {{JT_EQ, JOP_EQ}, {JT_NE, JOP_NE}, {JT_LT, JOP_LT},
                 {JT_LE, JOP_LE}, {JT_GT, JOP_GT}, {JT_GE, JOP_GE}};
    struct jtoken ahead;

    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        if (p->current.type == signs[i].token) {
            *op = signs[i].op;
            return jparser_next(p);
        }
    }
    if (jparser_skip(p, "in")) {
        *op = JOP_IN;
        return true;
    }
    *op = JOP_NOT_IN;
    return jparser_is(p, "not") && jparser_peek(p, &ahead) && token_is_name(&ahead, "in") &&
           jparser_next(p) && jparser_next(p);
}

static struct jnode *parse_compare(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *first = parse_sum(p), *n;
    struct jnodes items = {0},
                  ops = {0}; /* an op travels in a node, so that one kind of list will do */
    enum jop op;

    if (!first || !jnodes_push(p->c, &items, first))
        return NULL;
    while (comparison(p, &op)) {
        struct jnode *holder = jnode_new(p->c, JN_CONST, pos, 0);
        if (!holder || !jnodes_push(p->c, &ops, holder) || !jnodes_push(p->c, &items, parse_sum(p)))
            return NULL;
        holder->op = (uint8_t)op;
    }
    if (p->c->failed)
        return NULL;
    if (ops.count == 0)
        return first;
    n = jnode_list(p->c, JN_COMPARE, pos, &items);
    if (!n || !(n->ops = jcompile_alloc(p->c, ops.count)))
        return NULL;
    for (size_t i = 0; i < ops.count; i++)
        n->ops[i] = ops.items[i]->op;
    return n;
}

static struct jnode *parse_not(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *n;

    if (!jparser_is(p, "not"))
        return parse_compare(p);
    if (!jparser_next(p) || !jparser_enter(p))
        return NULL;
    n = node1(p, JN_NOT, pos, parse_not(p));
    jparser_leave(p);
    return n;
}

/* The arguments of a call. */
struct arguments {
    struct jnodes args, values, names;
    struct jnode *star, *star_star;
};

static bool parse_keyword(struct jparser *p, struct arguments *a)
{
    struct jtoken name = p->current;

    for (size_t i = 0; i < a->names.count; i++) {
        const struct jstr *other = a->names.items[i]->value.u.s;
        if (other->len == name.len && memcmp(jstr_data(other), name.text, name.len) == 0)
            return jcompile_fail(p->c, name.pos, JINJA_SYNTAX, "keyword argument repeated: %.*s",
                                 (int)name.len, name.text);
    }
    return !a->star_star && jparser_next(p) && jparser_next(p) &&
           jnodes_push(p->c, &a->names, string_constant(p, name.pos, name.text, name.len)) &&
           jnodes_push(p->c, &a->values, jparse_expression(p, false));
}

static bool parse_argument(struct jparser *p, struct arguments *a)
{
    struct jtoken ahead;

    if (p->current.type == JT_MUL)
        return !a->star && !a->star_star && jparser_next(p) &&
               (a->star = jparse_expression(p, false)) != NULL;
    if (p->current.type == JT_POW)
        return !a->star_star && jparser_next(p) &&
               (a->star_star = jparse_expression(p, false)) != NULL;
    if (p->current.type == JT_NAME) {
        if (!jparser_peek(p, &ahead))
            return false;
        if (ahead.type == JT_ASSIGN)
            return parse_keyword(p, a);
    }
    return !a->star && !a->star_star && a->names.count == 0 &&
           jnodes_push(p->c, &a->args, jparse_expression(p, false));
}

static bool parse_arguments(struct jparser *p, struct arguments *a)
{
    uint32_t pos = p->current.pos;
    bool first = true;

    *a = (struct arguments){0};
    if (!jparser_expect(p, JT_LPAREN))
        return false;
    while (p->current.type != JT_RPAREN) {
        if (!first) {
            if (!jparser_expect(p, JT_COMMA))
                return false;
            if (p->current.type == JT_RPAREN)
                break;
        }
        first = false;
        if (!parse_argument(p, a))
            return jcompile_fail(p->c, pos, JINJA_SYNTAX,
                                 "invalid syntax for function call expression");
    }
    return jparser_expect(p, JT_RPAREN);
}

/* The node of a call, filter or test: subject, then the arguments as jsignature describes them. */
static struct jnode *call_node(struct jparser *p, enum jkind kind, uint32_t pos,
                               struct jnode *subject, const struct arguments *a)
{
    size_t at = 0, extra = (a->star != NULL) + (a->star_star != NULL);
    struct jsignature *sig = jcompile_alloc(p->c, sizeof *sig);
    struct jnode *n =
        sig ? jnode_new(p->c, kind, pos, 1 + a->args.count + a->values.count + extra) : NULL;
    bool ok = n && jnode_set(p->c, n, at++, subject);

    for (size_t i = 0; ok && i < a->args.count; i++)
        ok = jnode_set(p->c, n, at++, a->args.items[i]);
    for (size_t i = 0; ok && i < a->values.count; i++)
        ok = jnode_set(p->c, n, at++, a->values.items[i]);
    if (ok && a->star)
        ok = jnode_set(p->c, n, at++, a->star);
    if (ok && a->star_star)
        ok = jnode_set(p->c, n, at++, a->star_star);
    if (!ok)
        return NULL;
    n->sig = sig;
    sig->args = a->args.count;
    sig->keywords = a->values.count;
    sig->star = a->star != NULL;
    sig->star_star = a->star_star != NULL;
    sig->names = jcompile_alloc(p->c, a->names.count * sizeof(struct jstr *));
    if (!sig->names)
        return NULL;
    for (size_t i = 0; i < a->names.count; i++)
        sig->names[i] = a->names.items[i]->value.u.s;
    return n;
}

static struct jnode *parse_call(struct jparser *p, struct jnode *callee)
{
    uint32_t pos = p->current.pos;
    struct arguments a;

    return parse_arguments(p, &a) ? call_node(p, JN_CALL, pos, callee, &a) : NULL;
}

/* A filter's or test's name, which may have dots. */
static const struct jstr *parse_dotted(struct jparser *p)
{
    const char *begin = p->current.text;
    char *name = NULL;
    size_t len = 0;

    if (p->current.type != JT_NAME) {
        jparser_expect(p, JT_NAME);
        return NULL;
    }
    for (;;) {
        struct jtoken t = p->current;
        char *longer;
        if (!jparser_expect(p, JT_NAME))
            return NULL;
        if (!name && p->current.type != JT_DOT)
            return jcompile_str(p->c, begin, t.len);
        longer = jcompile_alloc(p->c, len + t.len + 2);
        if (!longer)
            return NULL;
        if (len)
            memcpy(longer, name, len);
        memcpy(longer + len, t.text, t.len);
        len += t.len;
        name = longer;
        if (p->current.type != JT_DOT)
            return jcompile_str(p->c, name, len);
        name[len++] = '.';
        if (!jparser_next(p))
            return NULL;
    }
}

struct jnode *jparse_filters(struct jparser *p, struct jnode *subject, bool first)
{
    while (first || p->current.type == JT_PIPE) {
        struct arguments a = {0};
        const struct jstr *name;
        uint32_t pos;
        if (!first && !jparser_next(p))
            return NULL;
        first = false;
        pos = p->current.pos;
        name = parse_dotted(p);
        if (!name || (p->current.type == JT_LPAREN && !parse_arguments(p, &a)))
            return NULL;
        subject = call_node(p, JN_FILTER, pos, subject, &a);
        if (!subject)
            return NULL;
        subject->label = name;
        subject->built = jfilter_find(jstr_data(name), name->len);
    }
    return subject;
}

static bool starts_test_argument(const struct jparser *p)
{
    switch (p->current.type) {
    case JT_NAME: return !jparser_is(p, "else") && !jparser_is(p, "or") && !jparser_is(p, "and");
    case JT_STRING:
    case JT_INT:
    case JT_FLOAT:
    case JT_LBRACKET:
    case JT_LBRACE: return true;
    default: return false;
    }
}

static struct jnode *parse_test(struct jparser *p, struct jnode *subject)
{
    uint32_t pos = p->current.pos;
    struct arguments a = {0};
    const struct jstr *name;
    struct jnode *n, *arg;
    bool negated;

    if (!jparser_next(p))
        return NULL;
    negated = jparser_skip(p, "not");
    name = parse_dotted(p);
    if (!name)
        return NULL;
    if (p->current.type == JT_LPAREN) {
        if (!parse_arguments(p, &a))
            return NULL;
    } else if (starts_test_argument(p)) {
        if (jparser_is(p, "is")) {
            jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX,
                          "You cannot chain multiple tests with is");
            return NULL;
        }
        arg = jparse_primary(p, false);
        if (!arg || !jnodes_push(p->c, &a.args, parse_postfix(p, arg)))
            return NULL;
    }
    n = call_node(p, JN_TEST, pos, subject, &a);
    if (!n)
        return NULL;
    n->label = name;
    n->built = jtest_find(jstr_data(name), name->len);
    return negated ? node1(p, JN_NOT, pos, n) : n;
}

static struct jnode *parse_slice(struct jparser *p, uint32_t pos, struct jnode *start)
{
    struct jnode *n = jnode_new(p->c, JN_SLICE, pos, 3);

    if (!n || !jnode_set(p->c, n, 0, start))
        return NULL;
    for (size_t i = 1; i < 3 && p->current.type == JT_COLON; i++) {
        if (!jparser_next(p))
            return NULL;
        if (p->current.type == JT_COLON || p->current.type == JT_RBRACKET ||
            p->current.type == JT_COMMA)
            continue;
        n->kids[i] = jparse_expression(p, false);
        if (!n->kids[i] || !jnode_set(p->c, n, i, n->kids[i]))
            return NULL;
    }
    return n;
}

static struct jnode *parse_subscribed(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnode *n;

    if (p->current.type == JT_COLON)
        return parse_slice(p, pos, NULL);
    n = jparse_expression(p, false);
    return n && p->current.type == JT_COLON ? parse_slice(p, pos, n) : n;
}

static struct jnode *parse_brackets(struct jparser *p, uint32_t pos, struct jnode *owner)
{
    struct jnodes keys = {0};
    bool slices = false;

    while (p->current.type != JT_RBRACKET) {
        if (keys.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (!jnodes_push(p->c, &keys, parse_subscribed(p)))
            return NULL;
        slices |= keys.items[keys.count - 1]->kind == JN_SLICE;
    }
    if (slices && keys.count > 1) { /* the Python that jinja2 makes of it is not well formed */
        jcompile_fail(p->c, pos, JINJA_SYNTAX, "invalid syntax: a slice among other keys");
        return NULL;
    }
    if (!jparser_next(p))
        return NULL;
    return node2(p, JN_GETITEM, pos, owner,
                 keys.count == 1 ? keys.items[0] : jnode_list(p->c, JN_TUPLE, pos, &keys));
}

static struct jnode *parse_dot(struct jparser *p, uint32_t pos, struct jnode *owner)
{
    struct jtoken t = p->current;
    struct jnode *n;

    if (t.type == JT_INT)
        return jparser_next(p) ? node2(p, JN_GETITEM, pos, owner, constant(p, t.pos, t.value))
                               : NULL;
    if (t.type != JT_NAME) {
        jcompile_fail(p->c, t.pos, JINJA_SYNTAX, "expected name or number");
        return NULL;
    }
    n = node1(p, JN_GETATTR, pos, owner);
    if (!n || !jparser_next(p))
        return NULL;
    n->value = (struct jvalue){.type = J_STR, .u.s = jcompile_str(p->c, t.text, t.len)};
    return n->value.u.s ? n : NULL;
}

static struct jnode *parse_postfix(struct jparser *p, struct jnode *n)
{
    while (n) {
        uint32_t pos = p->current.pos;
        if (p->current.type == JT_DOT)
            n = jparser_next(p) ? parse_dot(p, pos, n) : NULL;
        else if (p->current.type == JT_LBRACKET)
            n = jparser_next(p) ? parse_brackets(p, pos, n) : NULL;
        else if (p->current.type == JT_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* A sign binds tighter than a filter but looser than a subscript: -a.b|abs is (-(a.b))|abs. */
static struct jnode *parse_unary(struct jparser *p, bool with_filter)
{
    enum jtok t = p->current.type;
    uint32_t pos = p->current.pos;
    struct jnode *n;

    if (t == JT_SUB || t == JT_ADD) {
        if (!jparser_next(p) || !jparser_enter(p))
            return NULL;
        n = node1(p, t == JT_SUB ? JN_NEG : JN_POS, pos, parse_unary(p, false));
        jparser_leave(p);
    } else {
        n = jparse_primary(p, false);
    }
    n = parse_postfix(p, n);
    while (n && with_filter) {
        if (p->current.type == JT_PIPE)
            n = jparse_filters(p, n, false);
        else if (jparser_is(p, "is"))
            n = parse_test(p, n);
        else if (p->current.type == JT_LPAREN)
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

static struct jnode *parse_name(struct jparser *p, bool namespaces)
{
    static const char *const words[] = {"true", "True", "false", "False", "none", "None"};
    struct jtoken t = p->current;
    struct jnode *n;

    if (!jparser_next(p))
        return NULL;
    for (size_t i = 0; i < 6; i++) {
        if (token_is_name(&t, words[i]))
            return constant(p, t.pos, i < 4 ? jbool(i < 2) : jnone());
    }
    n = jnode_new(p->c, JN_NAME, t.pos, 0);
    if (!n || (n->name = jcompile_name(p->c, t.text, t.len)) == UINT32_MAX)
        return NULL;
    if (namespaces && p->current.type == JT_DOT) {
        if (!jparser_next(p))
            return NULL;
        t = p->current;
        if (!jparser_expect(p, JT_NAME))
            return NULL;
        n->kind = JN_NSREF;
        n->value = (struct jvalue){.type = J_STR, .u.s = jcompile_str(p->c, t.text, t.len)};
        return n->value.u.s ? n : NULL;
    }
    return n;
}

/* One or more string literals, which join. */
static struct jnode *parse_string(struct jparser *p)
{
    struct jtoken t = p->current;

    if (!jparser_next(p))
        return NULL;
    while (p->current.type == JT_STRING) {
        char *joined = jcompile_alloc(p->c, t.len + p->current.len + 1);
        if (!joined)
            return NULL;
        memcpy(joined, t.text, t.len);
        memcpy(joined + t.len, p->current.text, p->current.len);
        t.text = joined;
        t.len += p->current.len;
        if (!jcompile_spend(p->c, t.pos, t.len / 64 + 1) || !jparser_next(p))
            return NULL;
    }
    return string_constant(p, t.pos, t.text, t.len);
}

static struct jnode *parse_list(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnodes items = {0};

    if (!jparser_next(p))
        return NULL;
    while (p->current.type != JT_RBRACKET) {
        if (items.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (p->current.type == JT_RBRACKET)
            break;
        if (!jnodes_push(p->c, &items, jparse_expression(p, false)))
            return NULL;
    }
    return jparser_next(p) ? jnode_list(p->c, JN_LIST, pos, &items) : NULL;
}

static struct jnode *parse_dict(struct jparser *p)
{
    uint32_t pos = p->current.pos;
    struct jnodes items = {0};

    if (!jparser_next(p))
        return NULL;
    while (p->current.type != JT_RBRACE) {
        if (items.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (p->current.type == JT_RBRACE)
            break;
        if (!jnodes_push(p->c, &items, jparse_expression(p, false)) ||
            !jparser_expect(p, JT_COLON) || !jnodes_push(p->c, &items, jparse_expression(p, false)))
            return NULL;
    }
    return jparser_next(p) ? jnode_list(p->c, JN_DICT, pos, &items) : NULL;
}

struct jnode *jparse_primary(struct jparser *p, bool namespaces)
{
    struct jtoken t = p->current;
    struct jtuple_rule inside = {.parentheses = true};
    struct jnode *n;

    switch (t.type) {
    case JT_NAME: return parse_name(p, namespaces);
    case JT_STRING: return parse_string(p);
    case JT_INT:
    case JT_FLOAT: return jparser_next(p) ? constant(p, t.pos, t.value) : NULL;
    case JT_LPAREN:
        if (!jparser_next(p))
            return NULL;
        n = jparse_tuple(p, &inside);
        return n && jparser_expect(p, JT_RPAREN) ? n : NULL;
    case JT_LBRACKET: return parse_list(p);
    case JT_LBRACE: return parse_dict(p);
    default:
        jcompile_fail(p->c, t.pos, JINJA_SYNTAX, "unexpected '%s'", jtoken_describe(t.type));
        return NULL;
    }
}

static bool tuple_ends(const struct jparser *p)
{
    enum jtok t = p->current.type;

    return t == JT_VAR_END || t == JT_BLOCK_END || t == JT_RPAREN;
}

struct jnode *jparse_tuple(struct jparser *p, const struct jtuple_rule *rule)
{
    uint32_t pos = p->current.pos;
    struct jnodes items = {0};
    bool is_tuple = false;

    for (;;) {
        struct jnode *n;
        if (items.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (tuple_ends(p))
            break;
        n = rule->names_only ? jparse_primary(p, rule->namespaces)
                             : jparse_expression(p, rule->no_cond);
        if (!jnodes_push(p->c, &items, n))
            return NULL;
        if (p->current.type != JT_COMMA)
            break;
        is_tuple = true;
    }
    if (!is_tuple && items.count > 0)
        return items.items[0];
    if (!is_tuple && !rule->parentheses) {
        jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX, "Expected an expression, got '%s'",
                      jtoken_describe(p->current.type));
        return NULL;
    }
    return jnode_list(p->c, JN_TUPLE, pos, &items);
}
