/* SPDX-License-Identifier: Apache-2.0 */
#include "app.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/progress.h"
#include "base/strbuf.h"

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

int app_interrupted(void *unused)
{
    static bool installed;

    (void)unused;
    if (!installed) {
        /* The second signal ends the process at once. */
        struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
        sigemptyset(&sa.sa_mask);
        sigaction(SIGINT, &sa, NULL);
        sigaction(SIGTERM, &sa, NULL);
        installed = true;
    }
    return interrupted;
}

/* What a file that is mapped belongs to: the engine or checkpoint that the command line names. */
static char mapped[512];

/* Reading a mapped file that has shrunk since, or whose disk fails, is a SIGBUS. Nothing can be undone here; the
 * process ends as it does for other files that cannot be read. */
static void on_bus_error(int sig)
{
    static const char why[] = ": a mapped file was cut short or cannot be read [io]\n";

    (void)sig;
    if (write(STDERR_FILENO, "tenon: ", 7) < 0 ||
        write(STDERR_FILENO, mapped, strlen(mapped)) < 0 ||
        write(STDERR_FILENO, why, sizeof why - 1) < 0)
        _exit(1);
    _exit(1);
}

static void guard_mappings(const struct opts *o)
{
    struct sigaction sa = {.sa_handler = on_bus_error};
    const char *file = opts_text(o, "engine");

    if (!file)
        file = o->positional[0] ? o->positional[0] : opts_text(o, "model");
    snprintf(mapped, sizeof mapped, "%s", file ? file : "a file");
    sigemptyset(&sa.sa_mask);
    sigaction(SIGBUS, &sa, NULL);
}

int app_fail(const tn_err *err)
{
    struct strbuf line = STRBUF_INIT;

    err_print(err, &line);
    fprintf(stderr, "tenon: %s\n", strbuf_str(&line));
    strbuf_release(&line);
    return status_exit_code(err->code);
}

int app_main(const struct command *c, int argc, char **argv,
             int32_t (*body)(const struct opts *, tn_err *))
{
    tn_err err = TN_ERR_INIT;
    struct opts o;
    int code = 0;
    int32_t rc = opts_parse(c, argc, argv, &o);

    if (rc != TN_OK) {
        code = status_exit_code(rc);
    } else if (o.help) {
        struct strbuf text = STRBUF_INIT;
        command_help(c, &text);
        fputs(strbuf_str(&text), stdout);
        strbuf_release(&text);
    } else {
        app_interrupted(NULL);
        guard_mappings(&o);
        rc = body(&o, &err);
        if (rc != TN_OK)
            code = app_fail(&err);
    }
    opts_release(&o);
    if (fflush(stdout) != 0 && code == 0) {
        perror("tenon: cannot write to stdout");
        code = 1;
    }
    return code;
}

int32_t app_print_json(json_t *v, tn_err *err)
{
    size_t flags = isatty(STDOUT_FILENO) ? JSON_INDENT(2) : JSON_COMPACT;
    char *text = v ? json_dumps(v, flags | JSON_ENCODE_ANY) : NULL;

    json_decref(v);
    if (!text)
        return err_nomem(err, "printing JSON");
    puts(text);
    free(text);
    return TN_OK;
}

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;

    if (p->total != total)
        progress_begin(p, "loading", total, !isatty(STDERR_FILENO));
    progress_update(p, done);
    return app_interrupted(NULL);
}

/* A process of a run that somebody else leads has no command of its own: it computes, and ends here. */
static void follow(tn_runtime *rt)
{
    tn_runtime_info info = {.h = TN_HDR(tn_runtime_info)};
    tn_err err = TN_ERR_INIT;
    int code = 0;

    tn_info(rt, &info);
    if (info.process == 0)
        return;
    if (tn_follow(rt, app_interrupted, NULL, &err) != TN_OK)
        code = app_fail(&err);
    tn_close(rt);
    exit(code);
}

int32_t app_open(const struct opts *o, const tn_kv *more, uint32_t n_more, tn_runtime **out,
                 tn_err *err)
{
    tn_kv settings[2 * OPT_MAX_SETTINGS];
    struct progress bar = {.quiet = true};
    tn_open_options open = TN_OPEN_OPTIONS_INIT;
    uint32_t n = 0;
    int32_t rc;

    /* The command's own come first, so that what the user says wins. */
    for (uint32_t i = 0; i < n_more && i < OPT_MAX_SETTINGS; i++)
        settings[n++] = more[i];
    for (uint32_t i = 0; i < o->n_settings; i++)
        settings[n++] = o->settings[i];
    open.engine = opts_text(o, "engine");
    open.config = opts_config(o);
    open.settings = settings;
    open.n_settings = n;
    open.progress = on_progress;
    open.arg = &bar;
    rc = tn_open(&open, out, err);
    progress_end(&bar, rc == TN_OK);
    if (rc == TN_OK)
        follow(*out);
    return rc;
}
