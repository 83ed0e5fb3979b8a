/* SPDX-License-Identifier: Apache-2.0 */
/* Filling and printing tn_err. Nothing here allocates or fails: errors must work when memory does not. */
#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/strbuf.h"

const char *status_text(int32_t code)
{
    switch (code) {
#define CASE(name, value, text, meaning)                                                           \
    case value: return text;
        TN_STATUS_LIST(CASE)
#undef CASE
    default: return "unknown";
    }
}

int status_exit_code(int32_t code)
{
    switch (code) {
    case TN_OK: return 0;
    case TN_E_INVALID:
    case TN_E_CONFIG: return 2;
    case TN_E_FORMAT:
    case TN_E_VERSION:
    case TN_E_DIGEST:
    case TN_E_REFUSED:
    case TN_E_ABI: return 3;
    case TN_E_COMM: return 4;
    default: return 1;
    }
}

static void copy_text(char *dst, size_t size, const char *src)
{
    size_t n = strnlen(src, size - 1);
    memmove(dst, src, n);
    dst[n] = '\0';
}

int32_t err_at(tn_err *err, int32_t code, const char *file, uint64_t offset, const char *field,
               const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    err->code = code;
    err->offset = offset;
    copy_text(err->file, sizeof err->file, file ? file : "");
    copy_text(err->field, sizeof err->field, field ? field : "");
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return code;
}

int32_t err_errno(tn_err *err, const char *what, const char *file, int errnum)
{
    int32_t code = errnum == ENOENT   ? TN_E_NOTFOUND
                   : errnum == ENOSPC ? TN_E_NOSPACE
                   : errnum == ENOMEM ? TN_E_NOMEM
                                      : TN_E_IO;
    char text[128];

    /* The XSI strerror_r; the GNU one is not selected since _GNU_SOURCE is not defined here. */
    if (strerror_r(errnum, text, sizeof text) != 0)
        snprintf(text, sizeof text, "error %d", errnum);
    err_at(err, code, file, TN_NO_OFFSET, NULL, "cannot %s: %s", what, text);
    if (err)
        err->native = errnum;
    return code;
}

int32_t err_nomem(tn_err *err, const char *what)
{
    return tn_err_set(err, TN_E_NOMEM, "out of memory for %s", what);
}

void err_file(tn_err *err, const char *file)
{
    if (err)
        copy_text(err->file, sizeof err->file, file);
}

void err_field(tn_err *err, const char *field)
{
    if (err)
        copy_text(err->field, sizeof err->field, field);
}

void err_plugin(tn_err *err, const char *plugin)
{
    if (err)
        copy_text(err->plugin, sizeof err->plugin, plugin);
}

void err_remedy(tn_err *err, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return;
    va_start(ap, fmt);
    vsnprintf(err->remedy, sizeof err->remedy, fmt, ap);
    va_end(ap);
}

void err_prefix(tn_err *err, const char *fmt, ...)
{
    char old[sizeof err->msg];
    va_list ap;
    int n;

    if (!err)
        return;
    memcpy(old, err->msg, sizeof old);
    va_start(ap, fmt);
    n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->msg)
        snprintf(err->msg + n, sizeof err->msg - (size_t)n, ": %.*s", (int)sizeof old - 1, old);
}

void err_reset(tn_err *err)
{
    static const tn_err none = TN_ERR_INIT;

    if (err)
        *err = none;
}

void err_print(const tn_err *err, struct strbuf *out)
{
    if (err->plugin[0])
        strbuf_printf(out, "plugin %s: ", err->plugin);
    if (err->file[0]) {
        strbuf_puts_escaped(out, err->file);
        if (err->offset != TN_NO_OFFSET || err->field[0])
            strbuf_puts(out, " (");
        if (err->offset != TN_NO_OFFSET)
            strbuf_printf(out, "offset %" PRIu64, err->offset);
        if (err->offset != TN_NO_OFFSET && err->field[0])
            strbuf_puts(out, ", ");
    }
    if (err->field[0]) {
        strbuf_puts(out, err->file[0] ? "field " : "");
        strbuf_puts_escaped(out, err->field);
    }
    if (err->file[0] && (err->offset != TN_NO_OFFSET || err->field[0]))
        strbuf_puts(out, ")");
    if (err->file[0] || err->field[0])
        strbuf_puts(out, ": ");
    strbuf_puts_escaped(out, err->msg);
    strbuf_printf(out, " [%s]", status_text(err->code));
    if (err->remedy[0]) {
        strbuf_puts(out, "; try: ");
        strbuf_puts_escaped(out, err->remedy);
    }
}
