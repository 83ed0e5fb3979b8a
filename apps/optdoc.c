/* SPDX-License-Identifier: Apache-2.0 */
/* --help, manual pages and docs/cli.md, from the tables of opt.h. */
#include <stdio.h>
#include <string.h>

#include "base/strbuf.h"
#include "opt.h"

static void put_usage(const struct command *c, struct strbuf *out)
{
    strbuf_printf(out, "tenon %s", c->name);
    for (const struct opt *o = c->own; o && o->name; o++)
        if (o->required)
            strbuf_printf(out, " --%s %s", o->name, o->value);
    if (c->positional)
        strbuf_printf(out, " %s", c->positional);
    strbuf_puts(out, " [options]");
}

static void option_title(const struct opt *o, char *buf, size_t size)
{
    snprintf(buf, size, "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
}

static void put_options(const struct opt *list, struct strbuf *out)
{
    for (const struct opt *o = list; o && o->name; o++) {
        char title[96];
        option_title(o, title, sizeof title);
        strbuf_printf(out, "  %-*s %s\n", 34, title, o->help);
    }
}

void command_help(const struct command *c, struct strbuf *out)
{
    strbuf_puts(out, "usage: ");
    put_usage(c, out);
    strbuf_printf(out, "\n\n%s.\n", c->summary);
    if (c->details)
        strbuf_printf(out, "\n%s\n", c->details);
    if (c->own && c->own[0].name) {
        strbuf_puts(out, "\noptions:\n");
        put_options(c->own, out);
    }
    if (c->takes_conf) {
        strbuf_puts(out, "\nsettings (each can stand in the configuration file; a flag wins):\n");
        put_options(opt_conf, out);
    }
    for (const char *const *e = c->examples; e && *e; e++)
        strbuf_printf(out, "%s  %s\n", e == c->examples ? "\nexamples:\n" : "", *e);
}

/* -- Manual pages ----------------------------------------------------------------------------------------- */

/* Text for roff: a leading dot or quote is protected, hyphens are minus signs. */
static void put_roff(const char *s, struct strbuf *out)
{
    for (; *s; s++) {
        if (*s == '-')
            strbuf_puts(out, "\\-");
        else if (*s == '\\')
            strbuf_puts(out, "\\e");
        else
            strbuf_putc(out, *s);
    }
}

static void man_options(const struct opt *list, struct strbuf *out)
{
    for (const struct opt *o = list; o && o->name; o++) {
        char title[96];
        option_title(o, title, sizeof title);
        strbuf_puts(out, ".TP\n.B ");
        put_roff(title, out);
        strbuf_puts(out, "\n");
        put_roff(o->help, out);
        strbuf_puts(out, "\n");
    }
}

void command_man(const struct command *c, struct strbuf *out)
{
    char name[64];
    struct strbuf usage = STRBUF_INIT;

    snprintf(name, sizeof name, "tenon-%s", c->name);
    for (char *p = name; *p; p++)
        if (*p == ' ')
            *p = '-';
    strbuf_printf(out, ".TH \"%s\" 1 \"\" \"tenon %s\" \"User Commands\"\n.SH NAME\n", name,
                  TENON_VERSION);
    put_roff(name, out);
    strbuf_puts(out, " \\- ");
    put_roff(c->summary, out);
    strbuf_puts(out, "\n.SH SYNOPSIS\n.B ");
    put_usage(c, &usage);
    put_roff(strbuf_str(&usage), out);
    strbuf_release(&usage);
    if (c->details) {
        strbuf_puts(out, "\n.SH DESCRIPTION\n");
        put_roff(c->details, out);
    }
    strbuf_puts(out, "\n.SH OPTIONS\n");
    man_options(c->own, out);
    if (c->takes_conf)
        man_options(opt_conf, out);
    for (const char *const *e = c->examples; e && *e; e++) {
        strbuf_puts(out, e == c->examples ? ".SH EXAMPLES\n.nf\n" : "");
        put_roff(*e, out);
        strbuf_puts(out, e[1] ? "\n" : "\n.fi\n");
    }
    strbuf_puts(out, ".SH EXIT STATUS\n0 done, 1 failed at run time, 2 usage or configuration, "
                     "3 a file or plugin was refused.\n");
}

/* -- Markdown --------------------------------------------------------------------------------------------- */

static void markdown_options(const struct opt *list, struct strbuf *out)
{
    for (const struct opt *o = list; o && o->name; o++) {
        char title[96];
        option_title(o, title, sizeof title);
        strbuf_printf(out, "| `%s` | %s%s |\n", title, o->help, o->required ? " (required)" : "");
    }
}

void command_markdown(const struct command *c, struct strbuf *out)
{
    strbuf_printf(out, "## tenon %s\n\n%s.\n\n    ", c->name, c->summary);
    put_usage(c, out);
    strbuf_puts(out, "\n");
    if (c->details)
        strbuf_printf(out, "\n%s\n", c->details);
    if ((c->own && c->own[0].name) || c->takes_conf) {
        strbuf_puts(out, "\n| option | |\n|---|---|\n");
        markdown_options(c->own, out);
        if (c->takes_conf)
            strbuf_puts(out, "| settings | see [Common settings](#common-settings) |\n");
    }
    for (const char *const *e = c->examples; e && *e; e++)
        strbuf_printf(out, "%s    %s\n", e == c->examples ? "\nExamples:\n\n" : "", *e);
    strbuf_puts(out, "\n");
}
