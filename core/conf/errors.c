/* SPDX-License-Identifier: Apache-2.0 */
/* The list of errors of one configuration. It never fails visibly: what finds no room is counted. */
#include "conf/internal.h"

#include <inttypes.h>

#include "base/mem.h"

static tn_err *add_item(struct conf_errors *e)
{
    static const tn_err none = TN_ERR_INIT;

    if (!e->items)
        e->items = mem_array(CONF_MAX_ERRORS, sizeof *e->items);
    if (!e->items || e->count == CONF_MAX_ERRORS) {
        e->more++;
        return NULL;
    }
    e->items[e->count] = none;
    return &e->items[e->count++];
}

tn_err *errors_add(struct conf_errors *e, const char *file, uint32_t line, const char *field,
                   const char *fmt, ...)
{
    tn_err *item = add_item(e);
    char text[sizeof item->msg];
    va_list ap;

    if (!item)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    err_at(item, TN_E_CONFIG, file, line > 0 ? line : TN_NO_OFFSET, field, "%s", text);
    return item;
}

void errors_add_err(struct conf_errors *e, const char *file, uint32_t line, const tn_err *err)
{
    tn_err *item = add_item(e);

    if (!item)
        return;
    *item = *err;
    err_file(item, file);
    item->offset = line > 0 ? line : TN_NO_OFFSET;
    if (item->code != TN_E_NOMEM)
        item->code = TN_E_CONFIG;
}

void errors_add_nomem(struct conf_errors *e)
{
    tn_err *item = add_item(e);

    err_nomem(item, "the configuration");
}

uint32_t errors_total(const struct conf_errors *e)
{
    return e->count + e->more;
}

int32_t errors_status(const struct conf_errors *e)
{
    if (errors_total(e) == 0)
        return TN_OK;
    for (uint32_t i = 0; i < e->count; i++)
        if (e->items[i].code == TN_E_NOMEM)
            return TN_E_NOMEM;
    return e->count == 0 ? TN_E_NOMEM : TN_E_CONFIG;
}

void conf_errors_release(struct conf_errors *e)
{
    mem_free(e->items);
    *e = (struct conf_errors)CONF_ERRORS_INIT;
}

void conf_errors_print(const struct conf_errors *e, struct strbuf *out)
{
    for (uint32_t i = 0; i < e->count; i++) {
        const tn_err *err = &e->items[i];
        strbuf_puts_escaped(out, err->file);
        if (err->file[0] && err->offset != TN_NO_OFFSET)
            strbuf_printf(out, ":%" PRIu64, err->offset);
        strbuf_puts(out, err->file[0] ? ": " : "");
        strbuf_puts_escaped(out, err->field);
        strbuf_puts(out, err->field[0] ? ": " : "");
        strbuf_puts_escaped(out, err->msg);
        if (err->remedy[0]) {
            strbuf_puts(out, "; try: ");
            strbuf_puts_escaped(out, err->remedy);
        }
        strbuf_putc(out, '\n');
    }
    if (e->more > 0)
        strbuf_printf(out, "and %" PRIu32 " more\n", e->more);
}

int32_t conf_errors_first(const struct conf_errors *e, tn_err *err)
{
    if (e->count == 0)
        return e->more > 0 ? err_nomem(err, "the configuration's errors") : TN_OK;
    if (err)
        *err = e->items[0];
    return e->items[0].code;
}
