/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings: libconfig files and command-line flags, checked against the table in conf/schema.h.
 *
 *     struct conf_errors errors = CONF_ERRORS_INIT;
 *     rc = conf_load(path, &conf, &errors);              file, or NULL for the defaults
 *     if (rc == TN_OK)
 *         rc = conf_override(conf, "kv.block_tokens", "32", &err);    once per flag
 *     if (rc == TN_OK)
 *         rc = conf_check(conf, &errors);                contradictions between settings
 *
 * All errors of a file are found in one go. After conf_check the object is read only and may be used from any
 * thread. A reload loads a second object and drops the first when that succeeded.
 *
 * The group `plugin` holds one group per plugin, whose keys are the plugin's own business:
 *
 *     plugin : { cpu : { threads = 2; }; };
 *
 * libconfig's names have no dots, so a dot in a plugin's name is written as an underscore there.
 */
#ifndef CORE_CONF_CONF_H
#define CORE_CONF_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "conf/schema.h"
#include "tenon/host.h"

struct conf;
struct strbuf;

/* -- The table ---------------------------------------------------------------------------------- */

enum conf_type {
    CONF_BOOL,
    CONF_INT,
    CONF_REAL,
    CONF_CHOICE, /* one of a few words */
    CONF_TEXT,
    CONF_LIST, /* of texts */
    CONF_PINS
};

enum conf_rule {
    CONF_RULE_NONE,
    CONF_RULE_POWER_OF_TWO,
    CONF_RULE_ABSOLUTE, /* a path that begins with '/' */
    CONF_RULE_SHA256,   /* 64 hex digits */
    CONF_RULE_NAME,     /* [a-z0-9_.-], 1 to 31 characters, as plugins and devices are named */
    CONF_RULE_SONAME    /* a file name of a shared library */
};

enum conf_key {
#define CONF_KEY_(key, ...) CONF_##key,
    CONF_SCHEMA(CONF_KEY_, CONF_KEY_, CONF_KEY_, CONF_KEY_, CONF_KEY_, CONF_KEY_, CONF_KEY_)
#undef CONF_KEY_
        CONF_KEYS
};

struct conf_row {
    const char *path;    /* "kv.block_tokens" */
    const char *value;   /* the default, as a flag's text */
    const char *help;    /* one line */
    const char *choices; /* CONF_CHOICE: "off|warn|enforce" */
    enum conf_type type;
    enum conf_rule rule;
    int64_t min, max;          /* CONF_INT */
    double real_min, real_max; /* CONF_REAL */
};

/* The row of `key`, which counts from 0 to CONF_KEYS - 1 in the order of the table. Static. */
const struct conf_row *conf_row(enum conf_key key);

/* The key with that path; false if there is none. */
bool conf_find(const char *path, enum conf_key *key);

/* -- Errors, all at once -------------------------------------------------------------------------- */

/* Every item has code TN_E_CONFIG (or TN_E_NOMEM); `offset` is the line in `file`, or TN_NO_OFFSET; `field`
 * is the setting's path. After CONF_MAX_ERRORS items only `more` counts on. */
#define CONF_MAX_ERRORS 50

struct conf_errors {
    tn_err *items;
    uint32_t count;
    uint32_t more; /* errors that found no room */
};

#define CONF_ERRORS_INIT                                                                           \
    {                                                                                              \
        NULL, 0, 0                                                                                 \
    }

void conf_errors_release(struct conf_errors *e); /* a zeroed one is allowed */

/* One line per error, each ended by a newline: "tenon.conf:12: kv.block_tokens: is 3; ...; try: ...". */
void conf_errors_print(const struct conf_errors *e, struct strbuf *out);

/* The first error, for callers that pass one tn_err on; returns its code, TN_OK if there is none. */
int32_t conf_errors_first(const struct conf_errors *e, tn_err *err);

/* -- Life ------------------------------------------------------------------------------------------- */

/* Reads the file, or the defaults if `path` is NULL. TN_OK, or TN_E_CONFIG (TN_E_NOMEM) with at least one item
 * in `errors` and `*out` untouched. `errors` is added to. */
int32_t conf_load(const char *path, struct conf **out, struct conf_errors *errors);

/* The same from memory; `name` stands for the file in errors. `text` need not end with NUL. */
int32_t conf_parse(const char *text, size_t len, const char *name, struct conf **out,
                   struct conf_errors *errors);

/*
 * Sets one value as a flag does. Lists are separated by commas and replace the file's; pins are written
 * OP[@DEVICE]=SET/VARIANT, separated by commas. "plugin.NAME.KEY" sets a key of a plugin's group. On failure
 * (TN_E_CONFIG) nothing has changed.
 */
int32_t conf_override(struct conf *conf, const char *path, const char *value, tn_err *err);

/* Finds contradictions between settings; call it once the flags are in. TN_OK or TN_E_CONFIG. */
int32_t conf_check(const struct conf *conf, struct conf_errors *errors);

void conf_free(struct conf *conf); /* NULL is allowed */

/* -- Values ------------------------------------------------------------------------------------------- */

/* Each getter fits one type of row (conf_text serves CONF_CHOICE too); another is a bug of the caller.
 * What they return lives as long as `conf`, or until the setting is overridden. */
bool conf_bool(const struct conf *conf, enum conf_key key);
int64_t conf_int(const struct conf *conf, enum conf_key key);
double conf_real(const struct conf *conf, enum conf_key key);
const char *conf_text(const struct conf *conf, enum conf_key key);
/* Position of a CONF_CHOICE among its choices, from 0. */
uint32_t conf_choice(const struct conf *conf, enum conf_key key);
uint32_t conf_list(const struct conf *conf, enum conf_key key, const char *const **items);

/* One pinned kernel variant. */
struct conf_pin {
    const char *op;
    const char *device;  /* "cpu:0"; "" for every device */
    const char *variant; /* "reference/linear.f32": kernel set, slash, name */
};
uint32_t conf_pins(const struct conf *conf, const struct conf_pin **pins);

/* The keys of the plugin's own group, in the file's order; 0 if it has none. Arrays of scalars become
 * "a,b,c", reals keep all their digits, booleans are "true" or "false". */
uint32_t conf_plugin_group(const struct conf *conf, const char *plugin, const tn_kv **items);

/* Names (as written in the file) of the plugins that have a group, for "no such plugin" warnings. */
uint32_t conf_plugin_count(const struct conf *conf);
const char *conf_plugin_name(const struct conf *conf, uint32_t index);

/* The value as text, in the form that conf_override takes. */
void conf_print_value(const struct conf *conf, enum conf_key key, struct strbuf *out);

enum conf_origin { CONF_FROM_DEFAULT, CONF_FROM_FILE, CONF_FROM_FLAG };

/* Where the value comes from; *line (may be NULL) is its line if that is a file, else 0. */
enum conf_origin conf_origin(const struct conf *conf, enum conf_key key, uint32_t *line);

#endif
