/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command-line options from one table per command. Parsing, --help, the manual pages and docs/cli.md all come
 * from it, so they cannot disagree.
 */
#ifndef APPS_OPT_H
#define APPS_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tenon/error.h"
#include "tenon/host.h"

struct strbuf;

enum opt_kind {
    OPT_FLAG, /* --name */
    OPT_TEXT, /* --name VALUE */
    OPT_INT,  /* --name N, min..max */
    OPT_REAL, /* --name X, min..max */
    OPT_LIST  /* --name VALUE, may be given several times */
};

struct opt {
    const char *name; /* without the dashes */
    enum opt_kind kind;
    const char *value; /* placeholder: "DIR" */
    const char *help;  /* one line */
    double min, max;
    const char *setting; /* configuration key that the option sets, or NULL */
    bool required;
};

/* A command: "run", "engine inspect". */
struct command {
    const char *name;
    const char *summary;    /* one line */
    const char *positional; /* "A B", or NULL: none */
    uint32_t n_positional;
    const char *details;         /* paragraphs for the manual page, or NULL */
    const struct opt *own;       /* ends with name NULL */
    bool takes_conf;             /* also the options of opt_conf */
    const char *const *examples; /* ends with NULL; may be NULL */
    int (*run)(const struct command *c, int argc, char **argv);
};

/* --config, --set, and the settings that users of the field know as flags. */
extern const struct opt opt_conf[];

#define OPT_MAX_SETTINGS 64
#define OPT_MAX_GIVEN 256

struct opts {
    const struct command *command;
    const char **values; /* per option of `own` then opt_conf; NULL: not given */
    size_t n_values;
    const char *positional[4];
    struct {
        const struct opt *opt;
        const char *value;
    } given[OPT_MAX_GIVEN]; /* options of kind OPT_LIST, in the order of the command line */
    uint32_t n_given;
    tn_kv settings[OPT_MAX_SETTINGS]; /* from opt_conf and own options with a setting */
    uint32_t n_settings;
    bool help;
};

/* Parses; on failure prints what is wrong and returns TN_E_CONFIG. argv must outlive `out`. Release in any case. */
int32_t opts_parse(const struct command *c, int argc, char **argv, struct opts *out);
void opts_release(struct opts *o);

/* The value of an option of the command's own table; NULL or `absent` if it was not given. */
const char *opts_text(const struct opts *o, const char *name);
/* The ith value of an option of kind OPT_LIST; NULL past the last. */
const char *opts_nth(const struct opts *o, const char *name, uint32_t i);
bool opts_flag(const struct opts *o, const char *name);
int64_t opts_int(const struct opts *o, const char *name, int64_t absent);
double opts_real(const struct opts *o, const char *name, double absent);

/* --config, or NULL. */
const char *opts_config(const struct opts *o);

void command_help(const struct command *c, struct strbuf *out);
void command_man(const struct command *c, struct strbuf *out);
void command_markdown(const struct command *c, struct strbuf *out);

#endif
