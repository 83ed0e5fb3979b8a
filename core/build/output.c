/* SPDX-License-Identifier: Apache-2.0 */
#include "build/output.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"

/* The path without trailing slashes, so that a sibling's name can be made of it. */
static char *trimmed(const char *path)
{
    size_t n = strlen(path);

    while (n > 1 && path[n - 1] == '/')
        n--;
    return mem_strndup(path, n);
}

static char *sibling(const char *path, const char *suffix)
{
    size_t room = strlen(path) + strlen(suffix) + 1;
    char *s = mem_alloc(room);

    if (s)
        snprintf(s, room, "%s%s", path, suffix);
    return s;
}

static bool holds(const char *dir, const char *name)
{
    char *p = path_join(dir, name);
    bool yes = p && path_exists(p);

    mem_free(p);
    return yes;
}

/* Only an empty directory or an engine may be replaced: never somebody's files. */
static int32_t check_target(const char *path, tn_err *err)
{
    char **names = NULL;
    size_t n = 0;
    int32_t rc;

    if (!path_exists(path))
        return TN_OK;
    if (!path_is_dir(path))
        return err_at(err, TN_E_EXISTS, path, TN_NO_OFFSET, "--output",
                      "is there and is no directory");
    rc = dir_list(path, &names, &n, err);
    dir_list_free(names, n);
    if (rc != TN_OK || n == 0 || holds(path, ENGINE_FILE))
        return rc;
    err_at(err, TN_E_EXISTS, path, TN_NO_OFFSET, "--output",
           "is a directory with other files in it, and not an engine");
    err_remedy(err, "name a new directory");
    return TN_E_EXISTS;
}

static int32_t make_parent(const char *path, tn_err *err)
{
    const char *base = path_base(path);
    char *parent = base == path ? mem_strdup(".") : mem_strndup(path, (size_t)(base - path));
    int32_t rc = parent ? dir_make(parent, err) : err_nomem(err, "a directory name");

    mem_free(parent);
    return rc;
}

int32_t output_open(const char *path, struct output *out, tn_err *err)
{
    struct output o = {NULL, NULL};
    int32_t rc;

    rc = check_target(path, err);
    if (rc != TN_OK)
        return rc;
    o.final = trimmed(path);
    o.temp = o.final ? sibling(o.final, ".tmp-XXXXXX") : NULL;
    if (!o.temp) {
        mem_free(o.final);
        return err_nomem(err, "a directory name");
    }
    rc = make_parent(o.final, err);
    if (rc == TN_OK && !mkdtemp(o.temp))
        rc = err_errno(err, "make a directory beside", path, errno);
    if (rc != TN_OK) {
        mem_free(o.final);
        mem_free(o.temp);
        return rc;
    }
    chmod(o.temp, 0755);
    *out = o;
    return TN_OK;
}

/* -- Companions -------------------------------------------------------------------------------------- */

static int32_t copy_one(const char *from_dir, const char *to_dir, const char *name, tn_err *err)
{
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    int32_t rc = TN_OK;

    if (!from || !to)
        rc = err_nomem(err, "copying a file");
    else if (path_is_file(from))
        rc = file_copy(from, to, LIMIT_TOKENIZER_BYTES, err);
    mem_free(from);
    mem_free(to);
    return rc;
}

static bool has_suffix(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}

static bool is_companion(const char *name)
{
    static const char *const exact[] = {"tokenizer.json",     "tokenizer_config.json",
                                        "tokenizer.model",    "special_tokens_map.json",
                                        "added_tokens.json",  "vocab.json",
                                        "merges.txt",         "vocab.txt",
                                        "chat_template.json", "generation_config.json"};

    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++)
        if (strcmp(name, exact[i]) == 0)
            return true;
    return has_suffix(name, ".jinja") || has_suffix(name, ".tiktoken") ||
           has_suffix(name, ".spm.model");
}

static int32_t copy_matching(const char *from, const char *to, tn_err *err)
{
    char **names = NULL;
    size_t n = 0;
    int32_t rc = dir_list(from, &names, &n, err);

    for (size_t i = 0; i < n && rc == TN_OK; i++)
        if (is_companion(names[i]))
            rc = copy_one(from, to, names[i], err);
    dir_list_free(names, n);
    return rc;
}

int32_t output_copy_companions(const struct output *out, const char *model, tn_err *err)
{
    const char *sub = "additional_chat_templates";
    int32_t rc = copy_matching(model, out->temp, err);
    char *from, *to;

    if (rc != TN_OK || !holds(model, sub))
        return rc;
    from = path_join(model, sub);
    to = path_join(out->temp, sub);
    rc = from && to ? dir_make(to, err) : err_nomem(err, "copying files");
    if (rc == TN_OK)
        rc = copy_matching(from, to, err);
    mem_free(from);
    mem_free(to);
    return rc;
}

/* -- Committing -------------------------------------------------------------------------------------- */

int32_t output_commit(struct output *out, tn_err *err)
{
    char *old = NULL;
    int32_t rc = TN_OK;

    if (path_exists(out->final)) {
        old = sibling(out->temp, ".old");
        if (!old)
            return err_nomem(err, "a directory name");
        if (rename(out->final, old) != 0) {
            rc = err_errno(err, "move aside", out->final, errno);
            mem_free(old);
            return rc;
        }
    }
    if (rename(out->temp, out->final) != 0) {
        rc = err_errno(err, "rename to", out->final, errno);
        if (old)
            rename(old, out->final);
    } else {
        mem_free(out->temp);
        out->temp = NULL;
        if (old && dir_remove(old, NULL) != TN_OK)
            log_warn("%s: the engine that was replaced could not be removed; delete it", old);
    }
    mem_free(old);
    return rc;
}

void output_release(struct output *out)
{
    if (out->temp)
        dir_remove(out->temp, NULL);
    mem_free(out->temp);
    mem_free(out->final);
    *out = (struct output){NULL, NULL};
}
