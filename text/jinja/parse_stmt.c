/* SPDX-License-Identifier: Apache-2.0 */
/* Statements, and the token stream that both halves of the parser use. */
#include <stdio.h>
#include <string.h>

#include "jinja/parser.h"
#include "jinja/str.h"

static struct jnode *parse_body(struct jparser *p, const char *const ends[JPARSE_TAGS]);

bool jparser_next(struct jparser *p)
{
    if (p->has_ahead) {
        p->current = p->ahead;
        p->has_ahead = false;
        return true;
    }
    return jlexer_next(&p->lexer, &p->current);
}

bool jparser_peek(struct jparser *p, struct jtoken *out)
{
    if (!p->has_ahead && !jlexer_next(&p->lexer, &p->ahead))
        return false;
    p->has_ahead = true;
    *out = p->ahead;
    return true;
}

bool jparser_is(const struct jparser *p, const char *name)
{
    return p->current.type == JT_NAME && p->current.len == strlen(name) &&
           memcmp(p->current.text, name, p->current.len) == 0;
}

bool jparser_skip(struct jparser *p, const char *name)
{
    return !p->c->failed && jparser_is(p, name) && jparser_next(p);
}

static void describe(const struct jtoken *t, char *out, size_t size)
{
    if (t->type == JT_NAME)
        snprintf(out, size, "%.*s", t->len < 40 ? (int)t->len : 40, t->text);
    else
        snprintf(out, size, "%s", jtoken_describe(t->type));
}

bool jparser_fail(struct jparser *p, const char *what)
{
    char got[64];

    if (p->current.type == JT_EOF)
        return jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX,
                             "unexpected end of template, expected '%s'.", what);
    describe(&p->current, got, sizeof got);
    return jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX, "expected token '%s', got '%s'", what,
                         got);
}

bool jparser_expect(struct jparser *p, enum jtok type)
{
    return p->current.type == type ? jparser_next(p) : jparser_fail(p, jtoken_describe(type));
}

bool jparser_enter(struct jparser *p)
{
    if (p->depth >= JPARSE_NESTING)
        return jcompile_fail(p->c, p->current.pos, JINJA_LIMIT, "nested more than %d deep",
                             JPARSE_NESTING);
    p->depth++;
    return true;
}

static struct jnode *fail_at(struct jparser *p, uint32_t pos, const char *msg)
{
    jcompile_fail(p->c, pos, JINJA_SYNTAX, "%s", msg);
    return NULL;
}

static bool can_assign(const struct jnode *n)
{
    if (n->kind != JN_TUPLE)
        return n->kind == JN_NAME || n->kind == JN_NSREF;
    for (size_t i = 0; i < n->count; i++) {
        if (!can_assign(n->kids[i]))
            return false;
    }
    return true;
}

static void set_ctx(struct jnode *n, enum jctx ctx)
{
    n->ctx = (uint8_t)ctx;
    for (size_t i = 0; i < n->count; i++)
        set_ctx(n->kids[i], ctx);
}

static struct jnode *parse_target(struct jparser *p, enum jctx ctx, bool namespaces)
{
    struct jtuple_rule rule = {.names_only = true, .namespaces = namespaces};
    struct jnode *n = jparse_tuple(p, &rule);

    if (!n)
        return NULL;
    if (!can_assign(n))
        return fail_at(p, n->pos, "can't assign to this expression");
    set_ctx(n, ctx);
    return n;
}

/* A single name that is assigned to. */
static struct jnode *parse_target_name(struct jparser *p, enum jctx ctx)
{
    if (p->current.type != JT_NAME) {
        jparser_expect(p, JT_NAME);
        return NULL;
    }
    {
        struct jnode *n = jparse_primary(p, false);
        if (!n)
            return NULL;
        if (n->kind != JN_NAME)
            return fail_at(p, n->pos, "can't assign to 'const'");
        n->ctx = (uint8_t)ctx;
        return n;
    }
}

static bool set_all(struct jparser *p, struct jnode *n, struct jnode *const *kids, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!jnode_set(p->c, n, i, kids[i]))
            return false;
    }
    return true;
}

static struct jnode *with_kids(struct jparser *p, enum jkind kind, uint32_t pos,
                               struct jnode *const *kids, size_t count)
{
    struct jnode *n = p->c->failed ? NULL : jnode_new(p->c, kind, pos, count);

    return n && set_all(p, n, kids, count) ? n : NULL;
}

static struct jnode *parse_for(struct jparser *p, uint32_t pos)
{
    static const char *const body_ends[JPARSE_TAGS] = {"endfor", "else"};
    static const char *const else_ends[JPARSE_TAGS] = {"endfor"};
    struct jtuple_rule rule = {.no_cond = true};
    struct jnode *kid[JFOR_KIDS] = {0}, *n;
    bool recursive;

    kid[JFOR_TARGET] = parse_target(p, JCTX_STORE, false);
    if (!kid[JFOR_TARGET])
        return NULL;
    if (!jparser_skip(p, "in")) {
        jparser_fail(p, "in");
        return NULL;
    }
    kid[JFOR_ITER] = jparse_tuple(p, &rule);
    if (!kid[JFOR_ITER])
        return NULL;
    if (jparser_skip(p, "if") && !(kid[JFOR_TEST] = jparse_expression(p, false)))
        return NULL;
    recursive = jparser_skip(p, "recursive");
    kid[JFOR_BODY] = parse_body(p, body_ends);
    if (!kid[JFOR_BODY])
        return NULL;
    if (jparser_skip(p, "else"))
        kid[JFOR_ELSE] = parse_body(p, else_ends);
    jparser_skip(p, "endfor");
    n = with_kids(p, JN_FOR, pos, kid, JFOR_KIDS);
    if (n && recursive)
        n->flags |= JNF_RECURSIVE;
    return n;
}

static struct jnode *parse_if(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"elif", "else", "endif"};
    static const char *const else_ends[JPARSE_TAGS] = {"endif"};
    struct jtuple_rule rule = {.no_cond = true};
    struct jnode *kid[JIF_KIDS] = {0};
    struct jnodes elifs = {0};

    kid[JIF_TEST] = jparse_tuple(p, &rule);
    kid[JIF_BODY] = kid[JIF_TEST] ? parse_body(p, ends) : NULL;
    if (!kid[JIF_BODY])
        return NULL;
    while (jparser_is(p, "elif")) {
        struct jnode *elif[JIF_KIDS] = {0};
        uint32_t at = p->current.pos;
        if (!jparser_next(p) || !(elif[JIF_TEST] = jparse_tuple(p, &rule)) ||
            !(elif[JIF_BODY] = parse_body(p, ends)) ||
            !jnodes_push(p->c, &elifs, with_kids(p, JN_IF, at, elif, JIF_KIDS)))
            return NULL;
    }
    if (jparser_skip(p, "else"))
        kid[JIF_ELSE] = parse_body(p, else_ends);
    jparser_skip(p, "endif");
    kid[JIF_ELIFS] = jnode_list(p->c, JN_BODY, pos, &elifs);
    return kid[JIF_ELIFS] ? with_kids(p, JN_IF, pos, kid, JIF_KIDS) : NULL;
}

static struct jnode *parse_set(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endset"};
    struct jtuple_rule rule = {0};
    struct jnode *kid[3] = {0};

    kid[0] = parse_target(p, JCTX_STORE, true);
    if (!kid[0])
        return NULL;
    if (p->current.type == JT_ASSIGN) {
        kid[1] = jparser_next(p) ? jparse_tuple(p, &rule) : NULL;
        return kid[1] ? with_kids(p, JN_ASSIGN, pos, kid, 2) : NULL;
    }
    kid[1] = jparse_filters(p, NULL, false);
    kid[2] = p->c->failed ? NULL : parse_body(p, ends);
    jparser_skip(p, "endset");
    return kid[2] ? with_kids(p, JN_ASSIGN_BLOCK, pos, kid, 3) : NULL;
}

/* (a, b=1): names and defaults. */
static bool parse_signature(struct jparser *p, struct jnode **args, struct jnode **defaults)
{
    struct jnodes names = {0}, values = {0};
    uint32_t pos = p->current.pos;

    if (!jparser_expect(p, JT_LPAREN))
        return false;
    while (p->current.type != JT_RPAREN) {
        if (names.count > 0 && !jparser_expect(p, JT_COMMA))
            return false;
        if (!jnodes_push(p->c, &names, parse_target_name(p, JCTX_PARAM)))
            return false;
        if (p->current.type == JT_ASSIGN) {
            if (!jparser_next(p) || !jnodes_push(p->c, &values, jparse_expression(p, false)))
                return false;
        } else if (values.count > 0) {
            return jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX,
                                 "non-default argument follows default argument");
        }
    }
    *args = jnode_list(p->c, JN_BODY, pos, &names);
    *defaults = jnode_list(p->c, JN_BODY, pos, &values);
    return *args && *defaults && jparser_next(p);
}

static struct jnode *parse_macro(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endmacro"};
    struct jnode *name = parse_target_name(p, JCTX_STORE), *kid[JMACRO_KIDS], *n;

    if (!name || !parse_signature(p, &kid[JMACRO_ARGS], &kid[JMACRO_DEFAULTS]) ||
        !(kid[JMACRO_BODY] = parse_body(p, ends)))
        return NULL;
    jparser_skip(p, "endmacro");
    n = with_kids(p, JN_MACRO, pos, kid, JMACRO_KIDS);
    if (n)
        n->name = name->name;
    return n;
}

static struct jnode *parse_call_block(struct jparser *p, uint32_t pos, bool generation)
{
    static const char *const ends[JPARSE_TAGS] = {"endcall"};
    static const char *const generation_ends[JPARSE_TAGS] = {"endgeneration"};
    struct jnodes none = {0};
    struct jnode *kid[JCALL_KIDS] = {0};

    if (!generation && p->current.type == JT_LPAREN) {
        if (!parse_signature(p, &kid[JCALL_ARGS], &kid[JCALL_DEFAULTS]))
            return NULL;
    } else {
        kid[JCALL_ARGS] = jnode_list(p->c, JN_BODY, pos, &none);
        kid[JCALL_DEFAULTS] = jnode_list(p->c, JN_BODY, pos, &none);
    }
    if (!generation) {
        kid[JCALL_CALL] = jparse_expression(p, false);
        if (!kid[JCALL_CALL])
            return NULL;
        if (kid[JCALL_CALL]->kind != JN_CALL)
            return fail_at(p, pos, "expected call");
        for (size_t i = 0; i < kid[JCALL_CALL]->sig->keywords; i++) {
            if (jstr_is(kid[JCALL_CALL]->sig->names[i], "caller"))
                return fail_at(p, pos, "keyword argument repeated: caller");
        }
    }
    kid[JCALL_BODY] = parse_body(p, generation ? generation_ends : ends);
    if (!kid[JCALL_BODY] || !jparser_next(p))
        return NULL;
    return with_kids(p, JN_CALL_BLOCK, pos, kid, JCALL_KIDS);
}

static struct jnode *parse_filter_block(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endfilter"};
    struct jnode *kid[2] = {0};

    kid[1] = jparse_filters(p, NULL, true);
    kid[0] = kid[1] ? parse_body(p, ends) : NULL;
    jparser_skip(p, "endfilter");
    return kid[0] ? with_kids(p, JN_FILTER_BLOCK, pos, kid, 2) : NULL;
}

static struct jnode *parse_with(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endwith"};
    struct jnodes targets = {0}, values = {0};
    struct jnode *kid[3];

    while (p->current.type != JT_BLOCK_END) {
        if (targets.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (!jnodes_push(p->c, &targets, parse_target(p, JCTX_PARAM, false)) ||
            !jparser_expect(p, JT_ASSIGN) ||
            !jnodes_push(p->c, &values, jparse_expression(p, false)))
            return NULL;
    }
    kid[0] = jnode_list(p->c, JN_BODY, pos, &targets);
    kid[1] = jnode_list(p->c, JN_BODY, pos, &values);
    kid[2] = kid[0] && kid[1] ? parse_body(p, ends) : NULL;
    jparser_skip(p, "endwith");
    return kid[2] ? with_kids(p, JN_WITH, pos, kid, 3) : NULL;
}

static struct jnode *parse_autoescape(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endautoescape"};
    struct jnode *kid[2] = {0};

    kid[0] = jparse_expression(p, false);
    kid[1] = kid[0] ? parse_body(p, ends) : NULL;
    jparser_skip(p, "endautoescape");
    return kid[1] ? with_kids(p, JN_AUTOESCAPE, pos, kid, 2) : NULL;
}

/* A required block may hold white space and comments only. */
static bool is_blank(const struct jnode *body)
{
    for (size_t i = 0; i < body->count; i++) {
        const struct jnode *out = body->kids[i];
        if (out->kind != JN_OUTPUT)
            return false;
        for (size_t j = 0; j < out->count; j++) {
            const struct jstr *s = out->kids[j]->value.u.s;
            if (out->kids[j]->kind != JN_CONST || out->kids[j]->value.type != J_STR ||
                strspn(jstr_data(s), " \t\r\n\v\f") < s->len)
                return false;
        }
    }
    return true;
}

static struct jnode *parse_block(struct jparser *p, uint32_t pos)
{
    static const char *const ends[JPARSE_TAGS] = {"endblock"};
    struct jtoken name = p->current;
    struct jnode *kid[1], *n;
    uint16_t flags = 0;

    if (!jparser_expect(p, JT_NAME))
        return NULL;
    if (jparser_skip(p, "scoped"))
        flags |= JNF_SCOPED;
    if (jparser_skip(p, "required"))
        flags |= JNF_REQUIRED;
    if (p->current.type == JT_SUB)
        return fail_at(p, p->current.pos, "Block names may not contain hyphens");
    kid[0] = parse_body(p, ends);
    if (!kid[0] || !jparser_next(p))
        return NULL;
    if ((flags & JNF_REQUIRED) && !is_blank(kid[0]))
        return fail_at(p, pos, "Required blocks can only contain comments or whitespace");
    if (p->current.type == JT_NAME && p->current.len == name.len &&
        memcmp(p->current.text, name.text, name.len) == 0 && !jparser_next(p))
        return NULL;
    n = with_kids(p, JN_BLOCK, pos, kid, 1);
    if (!n || (n->name = jcompile_name(p->c, name.text, name.len)) == UINT32_MAX)
        return NULL;
    n->flags |= flags;
    return n;
}

/* extends, include, import, from: the environment has no loader, so reaching one is an error, as in
 * transformers. The rest of the tag is skipped. */
static struct jnode *parse_loader(struct jparser *p, uint32_t pos)
{
    struct jnode *n;

    if (!jparse_expression(p, false))
        return NULL;
    while (p->current.type != JT_BLOCK_END && p->current.type != JT_EOF) {
        if (!jparser_next(p))
            return NULL;
    }
    n = jnode_new(p->c, JN_LOADER, pos, 0);
    return n;
}

static struct jnode *parse_print(struct jparser *p, uint32_t pos)
{
    struct jnodes items = {0};

    while (p->current.type != JT_BLOCK_END) {
        if (items.count > 0 && !jparser_expect(p, JT_COMMA))
            return NULL;
        if (!jnodes_push(p->c, &items, jparse_expression(p, false)))
            return NULL;
    }
    return jnode_list(p->c, JN_OUTPUT, pos, &items);
}

static struct jnode *parse_break(struct jparser *p, uint32_t pos)
{
    return jnode_new(p->c, JN_BREAK, pos, 0);
}

static struct jnode *parse_continue(struct jparser *p, uint32_t pos)
{
    return jnode_new(p->c, JN_CONTINUE, pos, 0);
}

static struct jnode *parse_call_tag(struct jparser *p, uint32_t pos)
{
    return parse_call_block(p, pos, false);
}

static struct jnode *parse_generation(struct jparser *p, uint32_t pos)
{
    return parse_call_block(p, pos, true);
}

static struct jnode *parse_statement(struct jparser *p)
{
    static const struct {
        const char *tag;
        struct jnode *(*parse)(struct jparser *p, uint32_t pos);
    } tags[] = {
        {"for", parse_for},
        {"if", parse_if},
        {"set", parse_set},
        {"macro", parse_macro},
        {"call", parse_call_tag},
        {"filter", parse_filter_block},
        {"with", parse_with},
        {"autoescape", parse_autoescape},
        {"block", parse_block},
        {"print", parse_print},
        {"break", parse_break},
        {"continue", parse_continue},
        {"include", parse_loader},
        {"extends", parse_loader},
        {"import", parse_loader},
        {"from", parse_loader},
        {"generation", parse_generation},
    };
    struct jtoken t = p->current;
    struct jnode *n = NULL;

    if (t.type != JT_NAME)
        return fail_at(p, t.pos, "tag name expected");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++) {
        if (!jparser_is(p, tags[i].tag))
            continue;
        if (!jparser_next(p) || !jparser_enter(p))
            return NULL;
        n = tags[i].parse(p, t.pos);
        jparser_leave(p);
        return n;
    }
    jcompile_fail(p->c, t.pos, JINJA_SYNTAX, "Encountered unknown tag '%.*s'.",
                  t.len < 60 ? (int)t.len : 60, t.text);
    return NULL;
}

/* Output that has gathered becomes one node. */
static bool flush(struct jparser *p, struct jnodes *output, struct jnodes *body)
{
    if (output->count == 0)
        return true;
    if (!jnodes_push(p->c, body, jnode_list(p->c, JN_OUTPUT, output->items[0]->pos, output)))
        return false;
    *output = (struct jnodes){0};
    return true;
}

static struct jnode *data_node(struct jparser *p)
{
    struct jnode *n = jnode_new(p->c, JN_CONST, p->current.pos, 0);
    const struct jstr *s = n ? jcompile_str(p->c, p->current.text, p->current.len) : NULL;

    if (!s)
        return NULL;
    n->value = (struct jvalue){.type = J_STR, .u.s = s};
    return n;
}

static bool at_end(const struct jparser *p, const char *const *ends)
{
    for (size_t i = 0; ends && i < JPARSE_TAGS && ends[i]; i++) {
        if (jparser_is(p, ends[i]))
            return true;
    }
    return false;
}

static void fail_unclosed(struct jparser *p, const char *const *ends)
{
    char tags[128];
    size_t n = 0;

    for (size_t i = 0; i < JPARSE_TAGS && ends[i]; i++)
        n += (size_t)snprintf(tags + n, sizeof tags - n, "%s'%s'", i ? " or " : "", ends[i]);
    jcompile_fail(p->c, p->current.pos, JINJA_SYNTAX,
                  "Unexpected end of template. Jinja was looking for the following tags: %s.",
                  tags);
}

/* Up to one of the tags in `ends` (whose name is then current) or, without any, the end of the template. */
static struct jnode *parse_nodes(struct jparser *p, const char *const *ends)
{
    struct jnodes body = {0}, output = {0};
    struct jtuple_rule rule = {0};
    uint32_t pos = p->current.pos;
    bool ok = true;

    while (ok && p->current.type != JT_EOF) {
        if (p->current.type == JT_DATA) {
            ok = jnodes_push(p->c, &output, data_node(p)) && jparser_next(p);
        } else if (p->current.type == JT_VAR_BEGIN) {
            ok = jparser_next(p) && jnodes_push(p->c, &output, jparse_tuple(p, &rule)) &&
                 jparser_expect(p, JT_VAR_END);
        } else { /* JT_BLOCK_BEGIN: nothing else stands between tags */
            ok = flush(p, &output, &body) && jparser_next(p);
            if (ok && at_end(p, ends))
                return jnode_list(p->c, JN_BODY, pos, &body);
            ok = ok && jnodes_push(p->c, &body, parse_statement(p)) &&
                 jparser_expect(p, JT_BLOCK_END);
        }
    }
    if (!ok)
        return NULL;
    if (ends) {
        fail_unclosed(p, ends);
        return NULL;
    }
    return flush(p, &output, &body) ? jnode_list(p->c, JN_BODY, pos, &body) : NULL;
}

/* The body of a statement, behind its opening tag; the name of the tag that ends it is current. */
static struct jnode *parse_body(struct jparser *p, const char *const ends[JPARSE_TAGS])
{
    if (p->current.type == JT_COLON && !jparser_next(p))
        return NULL;
    return jparser_expect(p, JT_BLOCK_END) ? parse_nodes(p, ends) : NULL;
}

struct jnode *jparse(struct jcompile *c)
{
    struct jparser p = {.c = c};

    jlexer_init(&p.lexer, c);
    return jparser_next(&p) ? parse_nodes(&p, NULL) : NULL;
}
