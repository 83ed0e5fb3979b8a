/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scope rules of jinja2, which are those of the Python code it generates. A frame is a piece of the
 * template with variables of its own: the root, the body of a loop, macro, with, set block, ... What a
 * frame assigns anywhere is its own from the start: at entry it takes the value from the frame around it (an
 * alias), from the context (resolve), or none. What it only reads comes from the nearest frame around that knows the
 * name, else from the context, at entry. An if is no frame of its own; a name that one of its branches assigns
 * falls back to the outer value. Macros, call blocks, recursive loops and loop filters are functions:
 * their variables live in activations, and inner functions see those of outer ones, late, as closures do.
 */
#include "jinja/scope.h"

#include <string.h>

#include "jinja/str.h"

struct binding {
    struct binding *outer;   /* what the name means around the frame */
    struct binding *sibling; /* of the same frame */
    struct frame *frame;
    uint32_t name, slot;
    enum jload_kind kind;
    bool stored;
};

struct frame {
    struct jfunc *func;
    uint32_t func_depth;
    struct binding *bindings;
    size_t count;
    /* Names whose `stored` was set, in order: an if looks at what its branches added. */
    struct binding **stored;
    size_t stored_count, stored_cap;
};

/* Where the walk stands. */
struct place {
    struct frame *frame;
    bool
        toplevel; /* the root, not in a loop or the like: assignments are variables of the context, too */
    bool soft;    /* in an if: unknown filters are errors only when they are reached */
    bool in_loop; /* break and continue have a target */
};

enum special { S_CALLER, S_KWARGS, S_VARARGS, S_LOOP, S_SELF, S_SUPER, S_COUNT };

struct scoping {
    struct jcompile *c;
    struct binding **meaning; /* by name: what it means at the moment */
    uint32_t special[S_COUNT];
};

static bool walk(struct scoping *s, struct jnode *n, struct place at);
static bool analyze(struct scoping *s, struct frame *f, struct jnode *n);

static struct jfunc *new_func(struct scoping *s)
{
    struct jfunc *f = jcompile_alloc(s->c, sizeof *f);

    if (f)
        f->number = s->c->t->funcs++;
    return f;
}

static struct frame *new_frame(struct scoping *s, const struct frame *around, bool function)
{
    struct frame *f = jcompile_alloc(s->c, sizeof *f);

    if (!f)
        return NULL;
    f->func = function || !around ? new_func(s) : around->func;
    f->func_depth = (around ? around->func_depth : 0) + (function && around);
    return f->func ? f : NULL;
}

static struct binding *bind(struct scoping *s, struct frame *f, uint32_t name, enum jload_kind kind)
{
    struct binding *b = s->meaning[name];

    if (b && b->frame == f) {
        b->kind = kind;
        return b;
    }
    b = jcompile_alloc(s->c, sizeof *b);
    if (!b)
        return NULL;
    *b = (struct binding){s->meaning[name], f->bindings, f, name, f->func->slots++, kind, false};
    f->bindings = b;
    f->count++;
    s->meaning[name] = b;
    return b;
}

static struct jref ref_to(const struct frame *from, const struct binding *b)
{
    return (struct jref){b->slot, from->func_depth - b->frame->func_depth};
}

/* The frame is done: its names mean again what they meant around it. */
static struct jscope *close_frame(struct scoping *s, struct frame *f, bool function)
{
    struct jscope *scope = jcompile_alloc(s->c, sizeof *scope);
    size_t i = 0;

    if (!scope || !(scope->loads = jcompile_alloc(s->c, f->count * sizeof *scope->loads)))
        return NULL;
    scope->count = f->count;
    scope->func = function ? f->func : NULL;
    for (struct binding *b = f->bindings; b; b = b->sibling, i++) {
        struct jload *l = &scope->loads[i];
        l->kind = b->kind;
        l->slot = b->slot;
        l->name = b->name;
        if (b->kind == JLOAD_ALIAS)
            l->from = ref_to(f, b->outer);
        s->meaning[b->name] = b->outer;
    }
    return scope;
}

static bool sym_param(struct scoping *s, struct frame *f, uint32_t name)
{
    struct binding *b = bind(s, f, name, JLOAD_PARAM);

    if (b)
        b->stored = true;
    return b != NULL;
}

static bool sym_load(struct scoping *s, struct frame *f, uint32_t name)
{
    return s->meaning[name] || bind(s, f, name, JLOAD_RESOLVE);
}

static bool log_stored(struct scoping *s, struct frame *f, struct binding *b)
{
    if (f->stored_count == f->stored_cap) {
        size_t cap = f->stored_cap ? f->stored_cap * 2 : 8;
        struct binding **more = jcompile_alloc(s->c, cap * sizeof(struct binding *));
        if (!more)
            return false;
        if (f->stored_count)
            memcpy(more, f->stored, f->stored_count * sizeof *more);
        f->stored = more;
        f->stored_cap = cap;
    }
    f->stored[f->stored_count++] = b;
    return true;
}

static bool sym_store(struct scoping *s, struct frame *f, uint32_t name)
{
    struct binding *b = s->meaning[name];

    if (!b || b->frame != f)
        b = bind(s, f, name, b ? JLOAD_ALIAS : JLOAD_UNDEFINED);
    if (!b || b->stored)
        return b != NULL;
    b->stored = true;
    return log_stored(s, f, b);
}

static bool analyze_kids(struct scoping *s, struct frame *f, struct jnode *n)
{
    for (size_t i = 0; i < n->count; i++) {
        if (n->kids[i] && !analyze(s, f, n->kids[i]))
            return false;
    }
    return true;
}

/* Names that a branch assigns, and nothing before the if did, may stay without a value of their own. */
static bool analyze_if(struct scoping *s, struct frame *f, struct jnode *n)
{
    size_t mark;

    if (!analyze(s, f, n->kids[JIF_TEST]))
        return false;
    mark = f->stored_count;
    for (size_t i = JIF_BODY; i < JIF_KIDS; i++) {
        if (n->kids[i] && !analyze(s, f, n->kids[i]))
            return false;
    }
    for (size_t i = mark; i < f->stored_count; i++) {
        struct binding *b = f->stored[i];
        b->kind = b->outer ? JLOAD_ALIAS : JLOAD_RESOLVE;
    }
    return true;
}

/* The names of a for target. */
static bool analyze_params(struct scoping *s, struct frame *f, struct jnode *n)
{
    if (n->kind == JN_NAME)
        return sym_param(s, f, n->name);
    for (size_t i = 0; i < n->count; i++) {
        if (!analyze_params(s, f, n->kids[i]))
            return false;
    }
    return true;
}

/* Enters the names that `n` uses in frame `f` itself; what opens a frame of its own is not looked into. */
static bool analyze(struct scoping *s, struct frame *f, struct jnode *n)
{
    if (!jcompile_spend(s->c, n->pos, 1))
        return false;
    switch (n->kind) {
    case JN_NAME:
        return n->ctx == JCTX_LOAD    ? sym_load(s, f, n->name)
               : n->ctx == JCTX_STORE ? sym_store(s, f, n->name)
                                      : sym_param(s, f, n->name);
    case JN_NSREF: return sym_load(s, f, n->name);
    case JN_IF: return analyze_if(s, f, n);
    case JN_MACRO: return sym_store(s, f, n->name);
    case JN_FOR: return analyze(s, f, n->kids[JFOR_ITER]);
    case JN_CALL_BLOCK: return !n->kids[JCALL_CALL] || analyze(s, f, n->kids[JCALL_CALL]);
    case JN_FILTER_BLOCK: return analyze(s, f, n->kids[1]);
    case JN_WITH: return analyze(s, f, n->kids[1]);
    case JN_ASSIGN: return analyze(s, f, n->kids[1]) && analyze(s, f, n->kids[0]);
    case JN_ASSIGN_BLOCK:
        return analyze(s, f, n->kids[0]) && (!n->kids[1] || analyze(s, f, n->kids[1]));
    case JN_AUTOESCAPE:
    case JN_BLOCK: return true;
    default: return analyze_kids(s, f, n);
    }
}

/*
 * Which of the special names `wanted` (bits by enum special) are read in the tree before they are assigned there,
 * in the order of the text. Blocks are not looked into.
 */
struct undeclared {
    uint32_t wanted, found;
};

static bool find_undeclared(struct scoping *s, const struct jnode *n, struct undeclared *u)
{
    if (!jcompile_spend(s->c, n->pos, 1))
        return false;
    if (n->kind == JN_NAME) {
        for (unsigned i = 0; i < S_COUNT; i++) {
            if (n->name != s->special[i] || !(u->wanted & 1u << i))
                continue;
            if (n->ctx == JCTX_LOAD)
                u->found |= 1u << i;
            else
                u->wanted &= ~(1u << i);
        }
    }
    if (n->kind == JN_BLOCK)
        return true;
    for (size_t i = 0; i < n->count; i++) {
        if (n->kids[i] && !find_undeclared(s, n->kids[i], u))
            return false;
    }
    return true;
}

/* Whether a scoped block stands in the tree; an assignment to `loop` is an error. */
static bool check_loop_body(struct scoping *s, const struct jnode *n, bool *scoped)
{
    if (!jcompile_spend(s->c, n->pos, 1))
        return false;
    if (n->kind == JN_NAME && n->ctx == JCTX_STORE && n->name == s->special[S_LOOP])
        return jcompile_fail(s->c, n->pos, JINJA_SYNTAX,
                             "Can't assign to special loop variable in for-loop target");
    if (n->kind == JN_BLOCK && (n->flags & JNF_SCOPED))
        *scoped = true;
    for (size_t i = 0; i < n->count; i++) {
        if (n->kids[i] && !check_loop_body(s, n->kids[i], scoped))
            return false;
    }
    return true;
}

static bool walk_kids(struct scoping *s, struct jnode *n, struct place at)
{
    for (size_t i = 0; i < n->count; i++) {
        if (n->kids[i] && !walk(s, n->kids[i], at))
            return false;
    }
    return true;
}

static struct jnode *copy_target(struct scoping *s, const struct jnode *n)
{
    struct jnode *copy = jnode_new(s->c, n->kind, n->pos, n->count);

    if (!copy)
        return NULL;
    copy->name = n->name;
    copy->ctx = n->ctx;
    for (size_t i = 0; i < n->count; i++) {
        struct jnode *kid = copy_target(s, n->kids[i]);
        if (!kid || !jnode_set(s->c, copy, i, kid))
            return NULL;
    }
    return copy;
}

/* The condition of a loop is a function of its own: it runs when the loop asks for the next item. */
static bool walk_test(struct scoping *s, struct jnode *n, struct place at)
{
    struct frame *f = new_frame(s, at.frame, true);
    struct jnode *target = f ? copy_target(s, n->kids[JFOR_TARGET]) : NULL;
    struct place inside = {.frame = f};

    if (!target || !analyze_params(s, f, target) || !analyze(s, f, n->kids[JFOR_TEST]) ||
        !walk(s, target, inside) || !walk(s, n->kids[JFOR_TEST], inside))
        return false;
    n->test_scope = close_frame(s, f, true);
    if (n->test_scope)
        n->test_scope->target = target;
    return n->test_scope != NULL;
}

static bool walk_loop_body(struct scoping *s, struct jnode *n, struct frame *f)
{
    struct place inside = {.frame = f, .in_loop = true};
    struct undeclared u = {1u << S_LOOP, 0};
    bool scoped = false;

    if (!check_loop_body(s, n, &scoped) || !find_undeclared(s, n->kids[JFOR_BODY], &u))
        return false;
    if (u.found || scoped || (n->flags & JNF_RECURSIVE)) {
        n->flags |= JNF_LOOP;
        if (!sym_param(s, f, s->special[S_LOOP]))
            return false;
        n->loop_ref = ref_to(f, s->meaning[s->special[S_LOOP]]);
    }
    return analyze_params(s, f, n->kids[JFOR_TARGET]) && analyze(s, f, n->kids[JFOR_BODY]) &&
           walk(s, n->kids[JFOR_TARGET], inside) && walk(s, n->kids[JFOR_BODY], inside);
}

static bool walk_for(struct scoping *s, struct jnode *n, struct place at)
{
    bool recursive = n->flags & JNF_RECURSIVE;
    struct frame *f;

    if (!walk(s, n->kids[JFOR_ITER], at) || (n->kids[JFOR_TEST] && !walk_test(s, n, at)))
        return false;
    f = new_frame(s, at.frame, recursive);
    if (!f || !walk_loop_body(s, n, f) || !(n->scope = close_frame(s, f, recursive)))
        return false;
    if (!n->kids[JFOR_ELSE])
        return true;
    {
        /* In a recursive loop the else part runs in the activation of the loop. */
        struct frame *e = new_frame(s, at.frame, false);
        struct place inside = {.frame = e, .in_loop = at.in_loop && !recursive};
        if (!e)
            return false;
        if (recursive) {
            e->func = f->func;
            e->func_depth = f->func_depth;
        }
        return analyze(s, e, n->kids[JFOR_ELSE]) && walk(s, n->kids[JFOR_ELSE], inside) &&
               (n->else_scope = close_frame(s, e, false)) != NULL;
    }
}

/* caller, kwargs and varargs are parameters of a macro that uses them and does not name them itself. */
static bool special_params(struct scoping *s, struct jnode *n, struct frame *f, size_t first)
{
    struct jnode *args = n->kids[first], *defaults = n->kids[first + 1];
    struct undeclared u = {1u << S_CALLER | 1u << S_KWARGS | 1u << S_VARARGS, 0};
    struct jref *refs[] = {&n->caller_ref, &n->kwargs_ref, &n->varargs_ref};
    uint32_t own = 0;

    if (!find_undeclared(s, n->kids[first + 2], &u))
        return false;
    for (size_t i = 0; i < args->count; i++) {
        for (unsigned k = S_CALLER; k <= S_VARARGS; k++) {
            if (args->kids[i]->name != s->special[k])
                continue;
            own |= 1u << k;
            if (k == S_CALLER && (u.found & 1u << S_CALLER) && i + defaults->count < args->count)
                return jcompile_fail(s->c, n->pos, JINJA_SYNTAX,
                                     "When defining macros or call blocks the special \"caller\" "
                                     "argument must be omitted or be given a default.");
        }
    }
    n->flags |= own & 1u << S_CALLER ? JNF_OWN_CALLER : 0;
    n->flags |= u.found & 1u << S_CALLER ? JNF_CALLER : 0;
    n->flags |= (u.found & ~own) & 1u << S_KWARGS ? JNF_KWARGS : 0;
    n->flags |= (u.found & ~own) & 1u << S_VARARGS ? JNF_VARARGS : 0;
    for (unsigned k = S_CALLER; k <= S_VARARGS; k++) {
        if (!(u.found & ~own & 1u << k))
            continue;
        if (!sym_param(s, f, s->special[k]))
            return false;
        *refs[k] = ref_to(f, s->meaning[s->special[k]]);
    }
    return true;
}

/* The function of a macro or call block; kid `first` holds the arguments, then defaults and body. */
static bool walk_function(struct scoping *s, struct jnode *n, size_t first, struct place at)
{
    struct frame *f = new_frame(s, at.frame, true);
    struct place inside = {.frame = f};

    if (!f)
        return false;
    for (size_t i = first; i < first + 3; i++) {
        if (!analyze(s, f, n->kids[i]))
            return false;
    }
    if (!special_params(s, n, f, first))
        return false;
    for (size_t i = first; i < first + 3; i++) {
        if (!walk(s, n->kids[i], inside))
            return false;
    }
    n->scope = close_frame(s, f, true);
    return n->scope != NULL;
}

/* Kids from `first` on in a frame of their own. */
static bool walk_framed(struct scoping *s, struct jnode *n, size_t first, struct place at)
{
    struct frame *f = new_frame(s, at.frame, false);
    struct place inside = {.frame = f, .in_loop = at.in_loop};

    if (!f)
        return false;
    for (size_t i = first; i < n->count; i++) {
        /* The filter of a set block was entered with the frame around, where its names are found. */
        bool skip = n->kind == JN_ASSIGN_BLOCK && i == 1;
        if (!skip && n->kids[i] && !analyze(s, f, n->kids[i]))
            return false;
    }
    for (size_t i = first; i < n->count; i++) {
        if (n->kids[i] && !walk(s, n->kids[i], inside))
            return false;
    }
    n->scope = close_frame(s, f, false);
    return n->scope != NULL;
}

static bool walk_with(struct scoping *s, struct jnode *n, struct place at)
{
    struct frame *f;
    struct place inside = {.in_loop = at.in_loop};

    if (!walk(s, n->kids[1], at)) /* values, before the targets mean anything */
        return false;
    f = new_frame(s, at.frame, false);
    inside.frame = f;
    return f && analyze(s, f, n->kids[0]) && analyze(s, f, n->kids[2]) &&
           walk(s, n->kids[0], inside) && walk(s, n->kids[2], inside) &&
           (n->scope = close_frame(s, f, false)) != NULL;
}

static bool register_block(struct scoping *s, struct jnode *n)
{
    struct jinja *t = s->c->t;

    for (size_t i = 0; i < t->block_count; i++) {
        if (!jcompile_spend(s->c, n->pos, 1))
            return false;
        if (t->blocks[i]->name == n->name)
            return jcompile_fail(s->c, n->pos, JINJA_SYNTAX, "block defined twice");
    }
    if (t->block_count == t->block_cap) {
        size_t cap = t->block_cap ? t->block_cap * 2 : 8;
        struct jnode **more = jcompile_alloc(s->c, cap * sizeof(struct jnode *));
        if (!more)
            return false;
        if (t->block_count)
            memcpy(more, t->blocks, t->block_count * sizeof *more);
        t->blocks = more;
        t->block_cap = cap;
    }
    t->blocks[t->block_count++] = n;
    return true;
}

static bool check_builtin(struct scoping *s, const struct jnode *n, struct place at)
{
    if (n->built || at.soft)
        return true;
    return jcompile_fail(s->c, n->pos, JINJA_SYNTAX, "No %s named '%.*s'.",
                         n->kind == JN_FILTER ? "filter" : "test", jstr_brief(n->label),
                         jstr_data(n->label));
}

static bool walk_statement(struct scoping *s, struct jnode *n, struct place at)
{
    struct place soft = at;

    switch (n->kind) {
    case JN_FOR: return walk_for(s, n, at);
    case JN_IF: soft.soft = true; return walk_kids(s, n, soft);
    case JN_MACRO:
        n->ref = ref_to(at.frame, s->meaning[n->name]);
        n->flags |= at.toplevel ? JNF_EXPORT : 0;
        return walk_function(s, n, JMACRO_ARGS, at);
    case JN_CALL_BLOCK:
        return walk_function(s, n, JCALL_ARGS, at) &&
               (!n->kids[JCALL_CALL] || walk(s, n->kids[JCALL_CALL], at));
    case JN_FILTER_BLOCK:
    case JN_AUTOESCAPE: return walk_framed(s, n, 0, at);
    case JN_WITH: return walk_with(s, n, at);
    case JN_ASSIGN: n->flags |= at.toplevel ? JNF_EXPORT : 0; return walk_kids(s, n, at);
    case JN_ASSIGN_BLOCK:
        n->flags |= at.toplevel ? JNF_EXPORT : 0;
        return walk(s, n->kids[0], at) && walk_framed(s, n, 1, at);
    case JN_BLOCK: return register_block(s, n);
    case JN_BREAK:
    case JN_CONTINUE:
        return at.in_loop || jcompile_fail(s->c, n->pos, JINJA_SYNTAX, "'%s' outside loop",
                                           n->kind == JN_BREAK ? "break" : "continue");
    default: return walk_kids(s, n, at);
    }
}

static bool walk(struct scoping *s, struct jnode *n, struct place at)
{
    if (!jcompile_spend(s->c, n->pos, 1))
        return false;
    switch (n->kind) {
    case JN_NAME:
    case JN_NSREF: n->ref = ref_to(at.frame, s->meaning[n->name]); return true;
    case JN_FILTER:
    case JN_TEST: return check_builtin(s, n, at) && walk_kids(s, n, at);
    case JN_COND: at.soft = true; return walk_kids(s, n, at);
    default: return walk_statement(s, n, at);
    }
}

static bool walk_root(struct scoping *s, struct jnode *root)
{
    struct frame *f = new_frame(s, NULL, true);
    struct place at = {.frame = f, .toplevel = true};
    struct undeclared u = {1u << S_SELF, 0};

    if (!f || !find_undeclared(s, root, &u))
        return false;
    if (u.found) {
        if (!sym_param(s, f, s->special[S_SELF]))
            return false;
        root->flags |= JNF_SELF;
        s->c->t->self_ref = ref_to(f, s->meaning[s->special[S_SELF]]);
    }
    return analyze(s, f, root) && walk(s, root, at) &&
           (s->c->t->scope = close_frame(s, f, true)) != NULL;
}

/* A block sees the context and nothing of the frames around it. */
static bool walk_block(struct scoping *s, struct jnode *n)
{
    struct frame *f = new_frame(s, NULL, true);
    struct place at = {.frame = f};
    struct undeclared u = {1u << S_SELF | 1u << S_SUPER, 0};

    if (!f || !find_undeclared(s, n->kids[0], &u))
        return false;
    if (u.found & 1u << S_SELF) {
        n->flags |= JNF_SELF;
        if (!sym_param(s, f, s->special[S_SELF]))
            return false;
        n->caller_ref = ref_to(f, s->meaning[s->special[S_SELF]]);
    }
    if (u.found & 1u << S_SUPER) {
        n->flags |= JNF_SUPER;
        if (!sym_param(s, f, s->special[S_SUPER]))
            return false;
        n->kwargs_ref = ref_to(f, s->meaning[s->special[S_SUPER]]);
    }
    return analyze(s, f, n->kids[0]) && walk(s, n->kids[0], at) &&
           (n->scope = close_frame(s, f, true)) != NULL;
}

bool jscope_resolve(struct jcompile *c)
{
    static const char *const names[] = {"caller", "kwargs", "varargs", "loop", "self", "super"};
    struct scoping s = {.c = c};

    for (unsigned i = 0; i < S_COUNT; i++) {
        s.special[i] = jcompile_name(c, names[i], strlen(names[i]));
        if (s.special[i] == UINT32_MAX)
            return false;
    }
    s.meaning = jcompile_alloc(c, c->t->name_count * sizeof(struct binding *));
    if (!s.meaning || !walk_root(&s, c->t->root))
        return false;
    for (size_t i = 0; i < c->t->block_count; i++) {
        if (!walk_block(&s, c->t->blocks[i]))
            return false;
    }
    return true;
}
