/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration files: what the scan lets through, libconfig must take, and what was read must print and read back. */
#include <stdlib.h>
#include <string.h>

#include "base/strbuf.h"
#include "conf/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_back(const struct conf *c)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    tn_err err = TN_ERR_INIT;
    struct conf *copy;

    if (conf_load(NULL, &copy, &errors) != TN_OK)
        abort();
    for (int i = 0; i < CONF_KEYS; i++) {
        struct strbuf text = STRBUF_INIT, again = STRBUF_INIT;
        const struct conf_row *row = conf_row((enum conf_key)i);
        conf_print_value(c, (enum conf_key)i, &text);
        /* A flag's lists are separated by commas, so an entry with a comma cannot be written as one. */
        if (row->type != CONF_LIST && row->type != CONF_PINS) {
            if (conf_override(copy, row->path, strbuf_str(&text), &err) != TN_OK)
                abort();
            conf_print_value(copy, (enum conf_key)i, &again);
            if (strcmp(strbuf_str(&text), strbuf_str(&again)) != 0)
                abort();
        }
        strbuf_release(&text);
        strbuf_release(&again);
    }
    conf_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf_errors errors = CONF_ERRORS_INIT;
    struct strbuf text = STRBUF_INIT;
    struct conf *c = NULL;

    if (conf_parse((const char *)data, size, "fuzz.conf", &c, &errors) == TN_OK) {
        conf_check(c, &errors);
        read_back(c);
    } else if (errors.count == 0) {
        abort(); /* refused without a word */
    }
    for (uint32_t i = 0; i < errors.count; i++)
        if (strncmp(errors.items[i].msg, "libconfig:", 10) == 0 ||
            errors.items[i].code != TN_E_CONFIG)
            abort(); /* the scan let through what libconfig does not take */
    conf_errors_print(&errors, &text);
    strbuf_release(&text);
    conf_errors_release(&errors);
    conf_free(c);
    return 0;
}
