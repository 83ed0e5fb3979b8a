/* SPDX-License-Identifier: Apache-2.0 */
/* A temporary directory of test plugins, and the registry over it. */
#ifndef TESTS_PLUGIN_FIXTURE_H
#define TESTS_PLUGIN_FIXTURE_H

#include <inttypes.h>
#include <stdbool.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "check_util.h"
#include "plug.h"
#include "plugin/registry.h"

static char dir[64];
static struct plug_counters counters;
static char counters_text[32];
static char fail_text[8];
static char log_text[65536];

TN_UNUSED static void keep_log(void *arg, uint32_t level, const char *line)
{
    size_t n = strlen(log_text);

    (void)arg, (void)level;
    snprintf(log_text + n, sizeof log_text - n, "%s\n", line);
}

static uint32_t config(const void *arg, const char *plugin, const tn_kv **items)
{
    static tn_kv kv[2];

    (void)arg, (void)plugin;
    kv[0] = (tn_kv){"counters", counters_text};
    kv[1] = (tn_kv){"fail", fail_text};
    *items = kv;
    return 2;
}

TN_UNUSED static void set_up(void)
{
    temp_dir(dir, sizeof dir);
    memset(&counters, 0, sizeof counters);
    log_text[0] = '\0';
    snprintf(counters_text, sizeof counters_text, "%" PRIxPTR, (uintptr_t)&counters);
    snprintf(fail_text, sizeof fail_text, "0");
    log_set_sink(keep_log, NULL);
    log_set_level(TN_LOG_DEBUG);
}

TN_UNUSED static void tear_down(void)
{
    tn_err err = TN_ERR_INIT;

    log_set_sink(NULL, NULL);
    ck_assert_ok(dir_remove(dir, &err), &err);
}

TN_UNUSED static const char *in_dir(const char *name)
{
    static char path[4][256];
    static int turn;
    char *p = path[turn++ % 4];

    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* The bytes of a test plugin. */
TN_UNUSED static char *plug_bytes(const char *plug, size_t *size)
{
    char path[512], *data;
    tn_err err = TN_ERR_INIT;

    snprintf(path, sizeof path, "%s/%s.so", PLUG_DIR, plug);
    ck_assert_ok(file_read(path, 64 << 20, &data, size, &err), &err);
    return data;
}

TN_UNUSED static void put_bytes(const char *as, const void *data, size_t size)
{
    unlink(in_dir(as));
    write_file(in_dir(as), data, size);
    ck_assert_int_eq(chmod(in_dir(as), 0644), 0);
}

TN_UNUSED static void put(const char *plug, const char *as)
{
    size_t size;
    char *data = plug_bytes(plug, &size);

    put_bytes(as, data, size);
    mem_free(data);
}

TN_UNUSED static struct registry_options options(void)
{
    static const char *paths[1];
    struct registry_options o = {0};

    paths[0] = dir;
    o.paths = paths;
    o.n_paths = 1;
    o.config = config;
    return o;
}

TN_UNUSED static struct registry *open_with(const struct registry_options *o)
{
    struct registry *reg = NULL;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(registry_open(o, &reg, &err), &err);
    return reg;
}

TN_UNUSED static struct registry *open_dir(void)
{
    struct registry_options o = options();

    return open_with(&o);
}

/* The candidate `index` was refused with `code` and a message (or field, remedy) that has `why`. */
TN_UNUSED static void check_refused(struct registry *reg, uint32_t index, int32_t code,
                                    const char *why)
{
    struct registry_info info;

    ck_assert_uint_lt(index, registry_count(reg));
    registry_info(reg, index, &info);
    ck_assert_msg(info.state == REGISTRY_REFUSED, "%s was not refused", info.path);
    ck_assert_err_has(info.err, why);
    ck_assert_int_eq(info.err->code, code);
    ck_assert_str_eq(info.err->file, info.path);
    ck_assert_uint_eq(info.generation, 0);
}

TN_UNUSED static void check_loaded(struct registry *reg, uint32_t index)
{
    struct registry_info info;

    registry_info(reg, index, &info);
    ck_assert_msg(info.state == REGISTRY_LOADED, "%s: %s: %s", info.path, info.err->field,
                  info.err->msg);
}

/* One plugin, alone in the directory, is refused so. */
TN_UNUSED static void refused(const char *plug, int32_t code, const char *why)
{
    struct registry *reg;
    char name[64];

    snprintf(name, sizeof name, "%s.so", plug);
    put(plug, name);
    reg = open_dir();
    ck_assert_uint_eq(registry_count(reg), 1);
    check_refused(reg, 0, code, why);
    registry_close(reg);
    ck_assert_int_eq(unlink(in_dir(name)), 0);
}

TN_UNUSED static void bytes_refused(const void *data, size_t size, int32_t code, const char *why)
{
    struct registry *reg;

    put_bytes("x.so", data, size);
    reg = open_dir();
    check_refused(reg, 0, code, why);
    registry_close(reg);
}

#endif
