/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/tuning.h"

#include <inttypes.h>

#include "base/arena.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/strbuf.h"

#define MAX_POINTS 24 /* numbers of rows that one variant is measured at */
#define NAME 192      /* "plugin/variant HEX" */
#define MAX_FILE (16 * MIB)
#define VERSION 1

/* One variant on one shape of op: times by ascending rows. */
struct curve {
    const char *name;
    uint32_t n;
    uint32_t rows[MAX_POINTS];
    double ns[MAX_POINTS];
};

struct tuning {
    struct arena arena;
    char *key;
    struct curve **curves;
    size_t n, cap;
    struct map index; /* name -> number of its curve */
};

/* -- Names ----------------------------------------------------------------------------------------------- */

static void put_value(struct strbuf *b, const tn_value *v)
{
    strbuf_printf(b, " %" PRIu32 ":%" PRIu32 ":%" PRIu64, v->kind, v->dtype, v->width);
}

static void put_attrs(struct strbuf *b, const tn_op *op)
{
    strbuf_printf(b, " %s(", op->name);
    for (uint32_t i = 0; i < op->n_attrs; i++) {
        const tn_attr *a = &op->attrs[i];
        if (a->kind == TN_ATTR_STR)
            strbuf_printf(b, "%s=%s ", a->name, a->s);
        else
            strbuf_printf(b, "%s=%" PRId64 ",%g ", a->name, a->i, a->f);
    }
    strbuf_putc(b, ')');
}

/* All that the time of an op depends on, but for the rows and what its inputs hold. */
static void describe(struct strbuf *b, const tn_op *op)
{
    put_attrs(b, op);
    for (uint32_t i = 0; i < op->n_members; i++)
        put_attrs(b, op->members[i]);
    for (uint32_t i = 0; i < op->n_in; i++)
        put_value(b, op->in[i]);
    for (uint32_t i = 0; i < op->n_out; i++)
        put_value(b, op->out[i]);
    for (uint32_t i = 0; i < op->n_weights; i++) {
        const tn_weight *w = op->weights[i];
        strbuf_printf(b, " %" PRIu32, w->dtype);
        for (uint32_t d = 0; d < w->n_dims; d++)
            strbuf_printf(b, "x%" PRIu64, w->dims[d]);
    }
}

static bool curve_name(const char *plugin, const tn_variant *v, const tn_op *op, char name[NAME])
{
    struct strbuf text = STRBUF_INIT;
    uint8_t digest[XXH128_BYTES];
    char hex[2 * XXH128_BYTES + 1];
    bool ok;

    describe(&text, op);
    xxh128_of(text.data, text.len, digest);
    hex_encode(digest, sizeof digest, hex);
    ok = !text.failed && snprintf(name, NAME, "%s/%s %s", plugin, v->name, hex) < NAME;
    strbuf_release(&text);
    return ok;
}

/* -- Curves ---------------------------------------------------------------------------------------------- */

static struct curve *find(const struct tuning *t, const char *name)
{
    uint64_t i = 0;

    return map_get(&t->index, name, strlen(name), &i) ? t->curves[i] : NULL;
}

static struct curve *find_or_make(struct tuning *t, const char *name)
{
    struct curve *c = find(t, name);

    if (c)
        return c;
    c = arena_alloc(&t->arena, sizeof *c);
    if (!c || !mem_grow(&t->curves, &t->cap, t->n + 1, sizeof *t->curves))
        return NULL;
    *c = (struct curve){.name = arena_strdup(&t->arena, name)};
    if (!c->name || map_put(&t->index, c->name, strlen(c->name), t->n) != MAP_ADDED)
        return NULL;
    t->curves[t->n++] = c;
    return c;
}

/* False if the curve has no room. */
static bool set_point(struct curve *c, uint32_t rows, double ns)
{
    uint32_t at = 0;

    while (at < c->n && c->rows[at] < rows)
        at++;
    if (at == c->n || c->rows[at] != rows) {
        if (c->n == MAX_POINTS)
            return false;
        memmove(&c->rows[at + 1], &c->rows[at], (c->n - at) * sizeof *c->rows);
        memmove(&c->ns[at + 1], &c->ns[at], (c->n - at) * sizeof *c->ns);
        c->n++;
    }
    c->rows[at] = rows;
    c->ns[at] = ns;
    return true;
}

static double read_curve(const struct curve *c, uint32_t rows)
{
    uint32_t at = 0;

    while (at < c->n && c->rows[at] < rows)
        at++;
    if (at == c->n)
        return c->ns[at - 1] * rows / c->rows[at - 1];
    if (at == 0 || c->rows[at] == rows)
        return c->ns[at];
    return c->ns[at - 1] +
           (c->ns[at] - c->ns[at - 1]) * (rows - c->rows[at - 1]) / (c->rows[at] - c->rows[at - 1]);
}

int32_t tuning_set(struct tuning *t, const char *plugin, const tn_variant *v, const tn_op *op,
                   uint32_t rows, double ns, tn_err *err)
{
    char name[NAME];
    struct curve *c = curve_name(plugin, v, op, name) ? find_or_make(t, name) : NULL;

    if (!c)
        return err_nomem(err, "measured times");
    set_point(c, rows, ns);
    return TN_OK;
}

double tuning_get(const struct tuning *t, const char *plugin, const tn_variant *v, const tn_op *op,
                  uint32_t rows)
{
    char name[NAME];
    const struct curve *c;

    if (!t || t->n == 0 || !curve_name(plugin, v, op, name))
        return -1;
    c = find(t, name);
    return c && c->n > 0 ? read_curve(c, rows) : -1;
}

uint32_t tuning_rows(const struct tuning *t, const char *plugin, const tn_variant *v,
                     const tn_op *op)
{
    char name[NAME];
    const struct curve *c;

    if (!t || t->n == 0 || !curve_name(plugin, v, op, name))
        return 0;
    c = find(t, name);
    return c && c->n > 0 ? c->rows[c->n - 1] : 0;
}

size_t tuning_count(const struct tuning *t)
{
    size_t n = 0;

    for (size_t i = 0; t && i < t->n; i++)
        n += t->curves[i]->n;
    return n;
}

/* -- Files ----------------------------------------------------------------------------------------------- */

/* {"version": 1, "key": "...", "times": {"cuda/linear.cuda 0f3a...": [[1, 8123.5], ...]}} */
static int32_t read_points(struct curve *c, const json_t *points, const char *path, tn_err *err)
{
    size_t i;
    const json_t *p;

    json_array_foreach((json_t *)(uintptr_t)points, i, p)
    {
        json_int_t rows = json_integer_value(json_array_get(p, 0));
        double ns = json_number_value(json_array_get(p, 1));
        if (rows < 1 || rows > LIMIT_STEP_ROWS || !(ns > 0 && ns < 1e12) ||
            !set_point(c, (uint32_t)rows, ns))
            return err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, c->name,
                          "holds a pair that is no number of rows and time");
    }
    return TN_OK;
}

static int32_t read_times(struct tuning *t, const json_t *times, const char *path, tn_err *err)
{
    const char *name;
    json_t *points;

    json_object_foreach((json_t *)(uintptr_t)times, name, points)
    {
        struct curve *c = strlen(name) < NAME ? find_or_make(t, name) : NULL;
        int32_t rc = c ? read_points(c, points, path, err) : err_nomem(err, "measured times");
        if (rc != TN_OK)
            return rc;
    }
    return TN_OK;
}

static int32_t parse(struct tuning *t, const json_t *root, const char *path, tn_err *err)
{
    const json_t *times = json_object_get(root, "times");
    const char *key = json_plain(json_object_get(root, "key"));

    if (json_integer_value(json_object_get(root, "version")) != VERSION || !key ||
        !json_is_object(times)) {
        err_at(err, TN_E_FORMAT, path, TN_NO_OFFSET, NULL, "is no file of measured times");
        err_remedy(err, "delete it; `tenon tune` makes another");
        return TN_E_FORMAT;
    }
    return strcmp(key, t->key) == 0 ? read_times(t, times, path, err) : TN_OK;
}

int32_t tuning_load(struct tuning *t, const char *path, tn_err *err)
{
    struct tuning *read = NULL;
    json_t *root = NULL;
    int32_t rc;

    if (!path_exists(path))
        return TN_OK;
    rc = tuning_new(t->key, &read, err);
    if (rc == TN_OK)
        rc = json_read(path, MAX_FILE, &root, err);
    if (rc == TN_OK)
        rc = parse(read, root, path, err);
    json_decref(root);
    if (rc == TN_OK) { /* what was read takes the place of what was there */
        struct tuning old = *t;
        *t = *read;
        *read = old;
    }
    tuning_free(read);
    return rc;
}

int32_t tuning_save(const struct tuning *t, const char *path, tn_err *err)
{
    struct strbuf b = STRBUF_INIT;
    int32_t rc;

    strbuf_printf(&b, "{\"version\": %d, \"key\": \"%s\", \"times\": {", VERSION, t->key);
    for (size_t i = 0; i < t->n; i++) {
        const struct curve *c = t->curves[i];
        strbuf_printf(&b, "%s\n \"%s\": [", i ? "," : "", c->name);
        for (uint32_t k = 0; k < c->n; k++)
            strbuf_printf(&b, "%s[%" PRIu32 ", %.1f]", k ? ", " : "", c->rows[k], c->ns[k]);
        strbuf_puts(&b, "]");
    }
    strbuf_puts(&b, "\n}}\n");
    rc = b.failed ? err_nomem(err, "measured times") : file_write_atomic(path, b.data, b.len, err);
    strbuf_release(&b);
    return rc;
}

/* -- Life ------------------------------------------------------------------------------------------------ */

int32_t tuning_new(const char *key, struct tuning **out, tn_err *err)
{
    struct tuning *t = mem_zalloc(sizeof *t);
    struct strbuf clean = STRBUF_INIT;

    /* The names of devices and drivers come from outside; in the file they stand between quotes. */
    for (const char *s = key; *s; s++)
        strbuf_putc(&clean, *s == '"' || *s == '\\' || (unsigned char)*s < ' ' ? '?' : *s);
    if (t)
        t->key = strbuf_detach(&clean);
    strbuf_release(&clean);
    if (!t || !t->key) {
        tuning_free(t);
        return err_nomem(err, "measured times");
    }
    *out = t;
    return TN_OK;
}

void tuning_free(struct tuning *t)
{
    if (!t)
        return;
    map_release(&t->index);
    arena_release(&t->arena);
    mem_free(t->curves);
    mem_free(t->key);
    mem_free(t);
}
