/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree of a template. Every node holds its children in one array, in the order in which jinja2 lists the
 * fields of its node of that name: the rules of scope depend on that order. The tree is built by the
 * parser, annotated by scope.c, and read-only from then on.
 */
#ifndef TEXT_JINJA_NODE_H
#define TEXT_JINJA_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/map.h"
#include "jinja/jinja.h"
#include "jinja/value.h"

enum jkind {
    /* Expressions: what `kid` holds. */
    JN_CONST,   /* value */
    JN_NAME,    /* name, ctx */
    JN_NSREF,   /* name, attr: a.b as the target of an assignment */
    JN_TUPLE,   /* items */
    JN_LIST,    /* items */
    JN_DICT,    /* key, value, key, value, ... */
    JN_NOT,     /* operand */
    JN_NEG,     /* operand */
    JN_POS,     /* operand */
    JN_AND,     /* left, right */
    JN_OR,      /* left, right */
    JN_BINARY,  /* left, right; op: enum jop */
    JN_CONCAT,  /* items */
    JN_COMPARE, /* first, then one per op; ops: enum jop each */
    JN_COND,    /* test, then, else (NULL: undefined) */
    JN_FILTER,  /* subject (NULL in a filter block), then the arguments; builtin */
    JN_TEST,    /* subject, then the arguments; builtin */
    JN_CALL,    /* callee, then the arguments */
    JN_GETATTR, /* owner; value: the name as a string */
    JN_GETITEM, /* owner, key */
    JN_SLICE,   /* start, stop, step; each may be NULL */
    /* Statements. */
    JN_BODY,         /* statements */
    JN_OUTPUT,       /* expressions */
    JN_FOR,          /* see JFOR_ */
    JN_IF,           /* test, body, elifs (a JN_BODY of JN_IF), else (NULL: none) */
    JN_MACRO,        /* args, defaults, body (a JN_BODY each); name */
    JN_CALL_BLOCK,   /* call, args, defaults, body; call is NULL in a generation block */
    JN_FILTER_BLOCK, /* body, filter */
    JN_WITH,         /* targets, values, body (a JN_BODY each) */
    JN_ASSIGN,       /* target, value */
    JN_ASSIGN_BLOCK, /* target, filter (may be NULL), body */
    JN_AUTOESCAPE,   /* condition, body */
    JN_BLOCK,        /* body; name */
    JN_LOADER, /* extends, include, import: an expression, never evaluated; name NULL or bound */
    JN_BREAK,
    JN_CONTINUE
};

enum { JFOR_TARGET, JFOR_ITER, JFOR_BODY, JFOR_ELSE, JFOR_TEST, JFOR_KIDS };
enum { JIF_TEST, JIF_BODY, JIF_ELIFS, JIF_ELSE, JIF_KIDS };
enum { JMACRO_ARGS, JMACRO_DEFAULTS, JMACRO_BODY, JMACRO_KIDS };
enum { JCALL_CALL, JCALL_ARGS, JCALL_DEFAULTS, JCALL_BODY, JCALL_KIDS };

enum jop {
    JOP_ADD,
    JOP_SUB,
    JOP_MUL,
    JOP_DIV,
    JOP_FLOORDIV,
    JOP_MOD,
    JOP_POW,
    JOP_EQ,
    JOP_NE,
    JOP_LT,
    JOP_LE,
    JOP_GT,
    JOP_GE,
    JOP_IN,
    JOP_NOT_IN
};

enum jctx { JCTX_LOAD, JCTX_STORE, JCTX_PARAM };

/* Flags of a node; which kinds they concern. */
#define JNF_RECURSIVE 1 /* for */
#define JNF_LOOP 2      /* for: the body uses `loop` */
#define JNF_EXPORT                                                                                 \
    4 /* assign, macro, ...: at the root, so that it also sets a variable of the context */
#define JNF_SCOPED 8       /* block */
#define JNF_REQUIRED 16    /* block */
#define JNF_CALLER 32      /* macro, call block: the body uses caller, kwargs, varargs */
#define JNF_KWARGS 64      /*   "   */
#define JNF_VARARGS 128    /*   "   */
#define JNF_OWN_CALLER 256 /* macro: an argument is called caller */
#define JNF_SELF 512       /* root, block: the body uses `self` */
#define JNF_SUPER 1024     /* block: the body uses `super` */

/* A variable's place: `slot` in the activation that is `hops` functions further out. */
struct jref {
    uint32_t slot;
    uint32_t hops;
};

enum jload_kind { JLOAD_UNDEFINED, JLOAD_ALIAS, JLOAD_RESOLVE, JLOAD_PARAM };

/* What entering a scope does to one variable. */
struct jload {
    enum jload_kind kind;
    uint32_t slot;
    uint32_t name;    /* JLOAD_RESOLVE: number of the name to look up in the context */
    struct jref from; /* JLOAD_ALIAS */
};

struct jscope {
    struct jload *loads;
    size_t count;
    const struct jfunc *func; /* set if entering the scope starts a new activation */
    struct jnode *target;     /* of the filter of a loop: its own copy of the loop's target */
};

/* A function: the root, the body of a macro, of a call block, of a block, of a recursive loop, and the filter
 * of a loop. Each run of it has an activation. */
struct jfunc {
    uint32_t number;
    uint32_t slots;
};

/* How the kids of a filter, test or call continue after the first: `args` positional ones, one per keyword,
 * then *args and **kwargs (each may be NULL). */
struct jsignature {
    size_t args;
    size_t keywords;
    const struct jstr **names; /* of the keywords */
    bool star, star_star;      /* are there */
};

struct jnode {
    uint8_t kind;
    uint8_t op;  /* enum jop */
    uint8_t ctx; /* enum jctx */
    uint16_t flags;
    uint16_t height; /* of the subtree: bounds the recursion over it */
    uint32_t pos;    /* byte in the source */
    size_t count;
    struct jnode **kids;
    uint32_t name; /* number of the name: JN_NAME, JN_NSREF, JN_MACRO, JN_BLOCK, JN_LOADER */
    struct jref ref;
    struct jvalue value; /* JN_CONST, JN_GETATTR, and the attribute of JN_NSREF */
    const struct jbuiltin
        *built;               /* JN_FILTER, JN_TEST; NULL: unknown, an error when it is reached */
    const struct jstr *label; /* of the filter or test, for that error */
    struct jsignature *sig;
    uint8_t *ops; /* JN_COMPARE */
    /* The scopes that the node opens: body (for, macro, call block, with, ...), else and test of a loop. */
    struct jscope *scope, *else_scope, *test_scope;
    /* Special parameters. A block keeps `self` in caller_ref and `super` in kwargs_ref. */
    struct jref loop_ref, caller_ref, kwargs_ref, varargs_ref;
};

/* Variables are numbered when the parser first sees them. */
struct jname {
    const struct jstr *text;
};

struct jinja {
    struct arena arena;
    char *name; /* for errors */
    char *source;
    size_t source_len; /* after newlines were unified */
    struct jname *names;
    size_t name_count, name_cap;
    struct map name_map;
    struct jnode *root; /* a JN_BODY */
    struct jscope *scope;
    struct jref self_ref;  /* slot of `self` in the root, if JNF_SELF is set in root->flags */
    struct jnode **blocks; /* by order of definition */
    size_t block_count, block_cap;
    uint32_t funcs; /* how many functions */
};

/* The state of a compile. */
struct jcompile {
    struct jinja *t;
    tn_err *err;
    uint64_t
        steps; /* budget left, so that hostile nesting cannot make the scope rules quadratic for long */
    bool failed;
};

/* Nesting that the parser follows; Python's own limits stop templates earlier. */
#define JPARSE_NESTING 200
/* Height of the tree; chains such as a.b.c.d or a + b + c are as high as they are long. */
#define JPARSE_HEIGHT 400
/* Memory of a compiled template. */
#define JPARSE_MEMORY (UINT64_C(128) << 20)

/* Fills the error of a compile with the place `pos`; false. */
TN_PRINTF(4, 5)
bool jcompile_fail(struct jcompile *c, uint32_t pos, enum jinja_failure why, const char *fmt, ...);
void *jcompile_alloc(struct jcompile *c, size_t bytes);
bool jcompile_spend(struct jcompile *c, uint32_t pos, uint64_t n);

/* A literal string of the template, trusted; NULL after filling the error. `data` is not copied. */
const struct jstr *jcompile_str(struct jcompile *c, const char *data, size_t len);
/* The number of a variable's name; UINT32_MAX after filling the error. */
uint32_t jcompile_name(struct jcompile *c, const char *data, size_t len);

struct jnode *jnode_new(struct jcompile *c, enum jkind kind, uint32_t pos, size_t kids);
/* Sets kid i (which may be NULL) and keeps the height; false if the tree gets too high. */
bool jnode_set(struct jcompile *c, struct jnode *n, size_t i, struct jnode *kid);

/* A list of nodes that grows; jnode_list makes the node of it. */
struct jnodes {
    struct jnode **items;
    size_t count, cap;
};
bool jnodes_push(struct jcompile *c, struct jnodes *l, struct jnode *n);
struct jnode *jnode_list(struct jcompile *c, enum jkind kind, uint32_t pos, const struct jnodes *l);

/* Line and column (in code points, both from 1) of a byte of the source. */
void jsource_place(const struct jinja *t, uint32_t pos, size_t *line, size_t *column);
/* Shared by compile and render: writes the record. */
void jerror_fill(tn_err *err, const struct jinja *t, uint32_t pos, enum jinja_failure why,
                 const char *msg);

#endif
