/* SPDX-License-Identifier: Apache-2.0 */
/* Parsing of options; their printing is in optdoc.c. */
#include "opt.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

const struct opt opt_conf[] = {
    {"config", OPT_TEXT, "FILE", "configuration file (libconfig)", 0, 0, NULL, false},
    {"set", OPT_LIST, "KEY=VALUE", "any setting of the configuration, e.g. kv.block_tokens=32", 0,
     0, NULL, false},
    {"plugin-dir", OPT_TEXT, "DIR", "directory searched for plugins (absolute)", 0, 0,
     "plugins.path", false},
    {"kernels", OPT_TEXT, "SETS", "kernel sets to use, most preferred first: cpu,reference", 0, 0,
     "kernels.sets", false},
    {"device", OPT_TEXT, "KIND", "kind of device: auto, cpu, cuda", 0, 0, "device.kind", false},
    {"device-index", OPT_TEXT, "N", "which of them", 0, 0, "device.index", false},
    {"threads", OPT_TEXT, "N", "worker threads of the cpu device", 0, 0, "plugin.cpu.threads",
     false},
    {"tp-size", OPT_TEXT, "N", "ranks that share every matrix; 0: what the engine was built for", 0,
     0, "parallel.tp_size", false},
    {"pp-size", OPT_TEXT, "N", "stages that the layers are cut into; 0: likewise", 0, 0,
     "parallel.pp_size", false},
    {"nnodes", OPT_TEXT, "N", "processes of the run, if no launcher starts them", 0, 0,
     "parallel.nnodes", false},
    {"node-rank", OPT_TEXT, "K", "which of them this is; 0 has the scheduler", 0, 0,
     "parallel.node_rank", false},
    {"dist-init-addr", OPT_TEXT, "HOST:PORT", "where node rank 0 listens for the others", 0, 0,
     "parallel.dist_init_addr", false},
    {"key-file", OPT_TEXT, "FILE", "the key that all processes share", 0, 0, "parallel.key_file",
     false},
    {"comm", OPT_TEXT, "NAME", "comm plugin that joins the ranks: auto, local, ...", 0, 0,
     "parallel.comm", false},
    {"kv-cache-dtype", OPT_TEXT, "DTYPE", "auto, float32, float16, bfloat16, fp8 or int8", 0, 0,
     "kv.dtype", false},
    {"kv-cache-free-gpu-mem-fraction", OPT_TEXT, "X",
     "share of free device memory that the KV cache may take", 0, 0, "kv.free_mem_fraction", false},
    {"kv-cache-max-bytes", OPT_TEXT, "N", "largest size of the KV cache; 0: by the share alone", 0,
     0, "kv.max_bytes", false},
    {"tokens-per-block", OPT_TEXT, "N", "tokens per page of the KV cache", 0, 0, "kv.block_tokens",
     false},
    {"scheduler-policy", OPT_TEXT, "POLICY", "guaranteed_no_evict or max_utilization", 0, 0,
     "scheduler.policy", false},
    {"log-level", OPT_TEXT, "LEVEL", "error, warn, info or debug", 0, 0, "log.level", false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static size_t count_options(const struct opt *list)
{
    size_t n = 0;

    while (list && list[n].name)
        n++;
    return n;
}

/* The option `name` (of length n) and its index among own and common options; NULL if there is none. */
static const struct opt *find(const struct command *c, const char *name, size_t n, size_t *index)
{
    size_t own = count_options(c->own), common = c->takes_conf ? count_options(opt_conf) : 0;

    for (size_t i = 0; i < own + common; i++) {
        const struct opt *o = i < own ? &c->own[i] : &opt_conf[i - own];
        if (strlen(o->name) == n && strncmp(o->name, name, n) == 0) {
            *index = i;
            return o;
        }
    }
    return NULL;
}

static int32_t usage_error(const struct command *c, const char *fmt, const char *a, const char *b)
{
    fprintf(stderr, "tenon %s: ", c->name);
    fprintf(stderr, fmt, a, b);
    fprintf(stderr, "; see `tenon %s --help`\n", c->name);
    return TN_E_CONFIG;
}

static bool in_range(const struct opt *o, const char *text)
{
    char *end;
    double v;

    errno = 0;
    if (o->kind == OPT_INT) {
        long long i = strtoll(text, &end, 10);
        v = (double)i;
    } else {
        v = strtod(text, &end);
    }
    return errno == 0 && end != text && *end == '\0' && isfinite(v) && v >= o->min && v <= o->max;
}

static int32_t check_value(const struct command *c, const struct opt *o, const char *text)
{
    char want[160];

    if ((o->kind != OPT_INT && o->kind != OPT_REAL) || in_range(o, text))
        return TN_OK;
    snprintf(want, sizeof want, "--%s is \"%.64s\", but must be %s from %.15g to %.15g", o->name,
             text, o->kind == OPT_INT ? "an integer" : "a number", o->min, o->max);
    return usage_error(c, "%s%s", want, "");
}

static int32_t add_setting(const struct command *c, struct opts *out, const char *key,
                           const char *value)
{
    if (out->n_settings == OPT_MAX_SETTINGS)
        return usage_error(c, "too many settings%s%s", "", "");
    out->settings[out->n_settings++] = (tn_kv){key, value};
    return TN_OK;
}

static int32_t add_given(const struct command *c, struct opts *out, const struct opt *o,
                         const char *value)
{
    if (out->n_given == OPT_MAX_GIVEN)
        return usage_error(c, "--%s is given too often%s", o->name, "");
    out->given[out->n_given].opt = o;
    out->given[out->n_given++].value = value;
    return TN_OK;
}

/* "--set KEY=VALUE": the '=' in argv becomes the end of the key. */
static int32_t add_set(const struct command *c, struct opts *out, char *pair)
{
    char *eq = strchr(pair, '=');

    if (!eq || eq == pair)
        return usage_error(c, "--set %s is not KEY=VALUE%s", pair, "");
    *eq = '\0';
    return add_setting(c, out, pair, eq + 1);
}

/* One "--name", "--name=value" or "--name value". Advances *i. */
static int32_t parse_option(const struct command *c, int argc, char **argv, int *i,
                            struct opts *out)
{
    char *arg = argv[*i] + 2, *eq = strchr(arg, '='), *value;
    size_t len = eq ? (size_t)(eq - arg) : strlen(arg), index = 0;
    const struct opt *o = find(c, arg, len, &index);

    if (strcmp(arg, "help") == 0) {
        out->help = true;
        return TN_OK;
    }
    if (!o)
        return usage_error(c, "unknown option --%s%s", arg, "");
    if (o->kind == OPT_FLAG) {
        if (eq)
            return usage_error(c, "--%s takes no value%s", o->name, "");
        out->values[index] = "";
        return TN_OK;
    }
    if (!eq && *i + 1 >= argc)
        return usage_error(c, "--%s needs %s", o->name, o->value);
    value = eq ? eq + 1 : argv[++*i];
    if (strcmp(o->name, "set") == 0)
        return add_set(c, out, value);
    out->values[index] = value;
    if (o->kind == OPT_LIST && add_given(c, out, o, value) != TN_OK)
        return TN_E_CONFIG;
    if (o->setting && add_setting(c, out, o->setting, value) != TN_OK)
        return TN_E_CONFIG;
    return check_value(c, o, value);
}

static int32_t check_complete(const struct command *c, const struct opts *o, uint32_t n_positional)
{
    for (size_t i = 0; i < count_options(c->own); i++)
        if (c->own[i].required && !o->values[i])
            return usage_error(c, "--%s %s is required", c->own[i].name, c->own[i].value);
    if (n_positional < c->n_positional)
        return usage_error(c, "%s is required%s", c->positional, "");
    return TN_OK;
}

int32_t opts_parse(const struct command *c, int argc, char **argv, struct opts *out)
{
    uint32_t n_positional = 0;
    bool only_positional = false;
    int32_t rc = TN_OK;

    *out = (struct opts){.command = c};
    out->n_values = count_options(c->own) + (c->takes_conf ? count_options(opt_conf) : 0);
    out->values = mem_zarray(out->n_values, sizeof *out->values);
    if (!out->values)
        return TN_E_NOMEM;
    for (int i = 0; i < argc && rc == TN_OK && !out->help; i++) {
        if (!only_positional && strcmp(argv[i], "--") == 0)
            only_positional = true;
        else if (!only_positional && strcmp(argv[i], "-h") == 0)
            out->help = true;
        else if (!only_positional && strncmp(argv[i], "--", 2) == 0)
            rc = parse_option(c, argc, argv, &i, out);
        else if (n_positional < c->n_positional)
            out->positional[n_positional++] = argv[i];
        else
            rc = usage_error(c, "unexpected argument \"%s\"%s", argv[i], "");
    }
    return rc == TN_OK && !out->help ? check_complete(c, out, n_positional) : rc;
}

void opts_release(struct opts *o)
{
    mem_free(o->values);
    o->values = NULL;
}

const char *opts_text(const struct opts *o, const char *name)
{
    size_t index = 0;

    return find(o->command, name, strlen(name), &index) ? o->values[index] : NULL;
}

const char *opts_nth(const struct opts *o, const char *name, uint32_t i)
{
    for (uint32_t k = 0; k < o->n_given; k++)
        if (strcmp(o->given[k].opt->name, name) == 0 && i-- == 0)
            return o->given[k].value;
    return NULL;
}

bool opts_flag(const struct opts *o, const char *name)
{
    return opts_text(o, name) != NULL;
}

int64_t opts_int(const struct opts *o, const char *name, int64_t absent)
{
    const char *v = opts_text(o, name);

    return v ? strtoll(v, NULL, 10) : absent;
}

double opts_real(const struct opts *o, const char *name, double absent)
{
    const char *v = opts_text(o, name);

    return v ? strtod(v, NULL) : absent;
}

const char *opts_config(const struct opts *o)
{
    return opts_text(o, "config");
}
