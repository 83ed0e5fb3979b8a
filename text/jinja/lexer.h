/* SPDX-License-Identifier: Apache-2.0 */
/* Template text to tokens, with the whitespace rules of trim_blocks, lstrip_blocks and the - and + marks. */
#ifndef TEXT_JINJA_LEXER_H
#define TEXT_JINJA_LEXER_H

#include "jinja/node.h"

enum jtok {
    JT_EOF,
    JT_DATA, /* text between tags */
    JT_VAR_BEGIN,
    JT_VAR_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    /* Operators. */
    JT_ADD,
    JT_SUB,
    JT_MUL,
    JT_DIV,
    JT_FLOORDIV,
    JT_MOD,
    JT_POW,
    JT_TILDE,
    JT_LBRACKET,
    JT_RBRACKET,
    JT_LPAREN,
    JT_RPAREN,
    JT_LBRACE,
    JT_RBRACE,
    JT_EQ,
    JT_NE,
    JT_GT,
    JT_GE,
    JT_LT,
    JT_LE,
    JT_ASSIGN,
    JT_DOT,
    JT_COLON,
    JT_PIPE,
    JT_COMMA,
    JT_SEMICOLON
};

struct jtoken {
    enum jtok type;
    uint32_t pos;
    const char *text; /* JT_DATA, JT_NAME: in the source; JT_STRING: unescaped, in the arena */
    size_t len;
    struct jvalue value; /* JT_INT, JT_FLOAT */
};

enum jlex_state { JLEX_DATA, JLEX_VAR, JLEX_BLOCK };

struct jlexer {
    struct jcompile *c;
    const char *source;
    uint32_t pos, end;
    enum jlex_state state;
    bool pending;      /* a tag was found behind the data that was just handed out */
    struct jtoken tag; /* that tag */
    /* The closing brackets that the tag still needs. The parser's cap on nesting ends it before the array does. */
    char brackets[JPARSE_NESTING + 56];
    size_t depth;
};

/* Unifies newlines and drops one at the end, as jinja2 does before it looks at anything; returns the length. */
size_t jlexer_normalize(char *text, size_t len);
void jlexer_init(struct jlexer *l, struct jcompile *c);
/* False after filling the error. Behind the end it gives JT_EOF for ever. */
bool jlexer_next(struct jlexer *l, struct jtoken *out);
/* "end of print statement", "name": for messages. */
const char *jtoken_describe(enum jtok type);

#endif
