/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of this room share; nobody else includes it. */
#ifndef CORE_CONF_INTERNAL_H
#define CORE_CONF_INTERNAL_H

#include "base/arena.h"
#include "base/strbuf.h"
#include "conf/conf.h"

/* A configuration has about 50 settings; libconfig looks for duplicates by comparing all with all. */
#define CONF_MAX_SETTINGS 10000
#define CONF_MAX_NAME 64
#define CONF_MAX_LIST 4096

/* One setting's value; which field holds it is a matter of the row's type. */
struct conf_value {
    bool b;
    int64_t i; /* CONF_INT; CONF_CHOICE: position of the word */
    double r;
    const char *s;
    uint32_t n; /* entries of list or pins */
    const char *const *list;
    const struct conf_pin *pins;
    enum conf_origin origin;
    uint32_t line;
};

/* The group of one plugin. */
struct conf_group {
    const char *name; /* as written: no dots */
    tn_kv *items;
    uint32_t n, cap;
};

struct conf {
    struct arena arena; /* every text and list */
    const char *file;   /* "" for defaults */
    struct conf_value values[CONF_KEYS];
    struct conf_group *groups; /* one block of memory, grown */
    size_t n_groups, cap_groups;
};

/* errors.c: adds an error at a line of a file (0: none) about a setting (NULL: none). */
TN_PRINTF(5, 6)
tn_err *errors_add(struct conf_errors *e, const char *file, uint32_t line, const char *field,
                   const char *fmt, ...); /* NULL if there was no room; for err_remedy */
void errors_add_err(struct conf_errors *e, const char *file, uint32_t line, const tn_err *err);
void errors_add_nomem(struct conf_errors *e);
uint32_t errors_total(const struct conf_errors *e);
/* TN_E_NOMEM if memory ran out on the way (other errors may then be its consequences), else TN_E_CONFIG. */
int32_t errors_status(const struct conf_errors *e);

/* scan.c: judges the text before libconfig sees it and writes an equivalent to `out`, in which libconfig's
 * traps are defused: comments are gone, all integers are decimal and 64 bits wide, and the second of two
 * settings of one name is called "*N". Line numbers are kept. False if `out` is not whole, since the grammar is
 * broken; wrong values alone are reported in `errors` and replaced. */
bool conf_scan(const char *text, size_t len, const char *file, struct strbuf *out,
               struct conf_errors *errors);

/* value.c */

/* From a flag's text; checked. Texts are copied to `arena`. */
int32_t value_parse(const struct conf_row *row, const char *text, struct arena *arena,
                    struct conf_value *out, tn_err *err);
/* Range, words and rules of the row; sets v->i of a CONF_CHOICE. Fills `err` with field and remedy. */
int32_t value_check(const struct conf_row *row, struct conf_value *v, tn_err *err);
void value_print(const struct conf_row *row, const struct conf_value *v, struct strbuf *out);
/* The real number that text[0..len) spells, independent of the locale; false unless it is all of it. */
bool value_real(const char *text, size_t len, double *out);
void value_print_real(double v, struct strbuf *out);
bool value_name_ok(const char *name);

/* suggest.c: the path that was probably meant by an unknown one; NULL if nothing is near. */
const char *conf_suggest(const char *path);
/* The word of "a|b|c" nearest to `word`, copied to out (which may stay ""). */
void conf_suggest_word(const char *choices, const char *word, char *out, size_t size);

/* group.c: sets a key of a plugin's group, replacing an earlier value. */
int32_t group_set(struct conf *conf, const char *plugin, const char *key, const char *value,
                  tn_err *err);

/* load.c */
int32_t conf_new(const char *file, struct conf **out, tn_err *err);

#endif
