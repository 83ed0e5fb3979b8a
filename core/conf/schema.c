/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of conf/schema.h as data. */
#include <string.h>

#include "conf/internal.h"

#define ROW(path, value, help, choices, type, rule, min, max, rmin, rmax)                          \
    {                                                                                              \
        path, value, help, choices, type, rule, min, max, rmin, rmax                               \
    }
#define ROW_BOOL(key, path, value, help)                                                           \
    ROW(path, value, help, "", CONF_BOOL, CONF_RULE_NONE, 0, 0, 0, 0),
#define ROW_INT(key, path, value, min, max, rule, help)                                            \
    ROW(path, value, help, "", CONF_INT, rule, min, max, 0, 0),
#define ROW_REAL(key, path, value, min, max, help)                                                 \
    ROW(path, value, help, "", CONF_REAL, CONF_RULE_NONE, 0, 0, min, max),
#define ROW_CHOICE(key, path, value, choices, help)                                                \
    ROW(path, value, help, choices, CONF_CHOICE, CONF_RULE_NONE, 0, 0, 0, 0),
#define ROW_TEXT(key, path, value, rule, help)                                                     \
    ROW(path, value, help, "", CONF_TEXT, rule, 0, 0, 0, 0),
#define ROW_LIST(key, path, value, rule, help)                                                     \
    ROW(path, value, help, "", CONF_LIST, rule, 0, 0, 0, 0),
#define ROW_PINS(key, path, help) ROW(path, "", help, "", CONF_PINS, CONF_RULE_NONE, 0, 0, 0, 0),

static const struct conf_row rows[CONF_KEYS] = {
    CONF_SCHEMA(ROW_BOOL, ROW_INT, ROW_REAL, ROW_CHOICE, ROW_TEXT, ROW_LIST, ROW_PINS)};

const struct conf_row *conf_row(enum conf_key key)
{
    return &rows[key];
}

bool conf_find(const char *path, enum conf_key *key)
{
    for (int i = 0; i < CONF_KEYS; i++)
        if (strcmp(rows[i].path, path) == 0) {
            *key = (enum conf_key)i;
            return true;
        }
    return false;
}
