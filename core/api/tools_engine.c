/* SPDX-License-Identifier: Apache-2.0 */
/* tools.h: engines. */
#include <inttypes.h>
#include <stdio.h>

#include "api/tools.h"
#include "base/mem.h"
#include "base/progress.h"
#include "engine/engine.h"
#include "engine/names.h"
#include "engine/plan_json.h"
#include "engine/plan_text.h"

static const char *kind_name(uint32_t kind)
{
    static const char *const names[] = {"?", "weights", "plan", "tensors", "meta"};

    return kind < sizeof names / sizeof *names ? names[kind] : "?";
}

static json_t *hex_json(const uint8_t *bytes, size_t n)
{
    char hex[2 * 32 + 1];

    hex_encode(bytes, n, hex);
    return json_string(hex);
}

static json_t *sections_json(const struct engine *e)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < e->header.n_sections; i++) {
        const struct engine_section *s = &e->header.sections[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:o}", "kind", kind_name(s->kind),
                                              "offset", (json_int_t)s->offset, "bytes",
                                              (json_int_t)s->size, "xxh128",
                                              hex_json(s->digest, sizeof s->digest)));
    }
    return list;
}

static json_t *tensor_json(const struct engine *e, uint32_t i)
{
    const struct plan_weight *w = &e->plan->weights[i];
    const struct engine_tensor *t = &e->tensors[i];
    json_t *dims = json_array();

    for (uint32_t d = 0; d < w->n_dims; d++)
        json_array_append_new(dims, json_integer((json_int_t)w->dims[d]));
    return json_pack("{s:s, s:s, s:s, s:o, s:s, s:I, s:b}", "name", w->name, "role",
                     role_name(w->role), "dtype", tn_dtype_name(w->dtype), "dims", dims, "shard",
                     shard_name(w->shard), "bytes", (json_int_t)t->bytes, "dummy", (int)t->dummy);
}

/* Sums over all weights: count, bytes, parameters. */
static json_t *weights_json(const struct engine *e, bool tensors)
{
    uint64_t bytes = 0, params = 0;
    json_t *list = tensors ? json_array() : NULL, *o;

    for (uint32_t i = 0; i < e->plan->n_weights; i++) {
        const struct plan_weight *w = &e->plan->weights[i];
        bytes += plan_weight_bytes(w);
        if (w->role != TN_ROLE_TABLE)
            params += plan_weight_bytes(w) * 8 / tn_dtype_bits(w->dtype);
        if (list)
            json_array_append_new(list, tensor_json(e, i));
    }
    o = json_pack("{s:I, s:I, s:I}", "count", (json_int_t)e->plan->n_weights, "bytes",
                  (json_int_t)bytes, "parameters", (json_int_t)params);
    if (list)
        json_object_set_new(o, "tensors", list);
    return o;
}

int32_t tool_engine_inspect(const char *engine, bool tensors, json_t **out, tn_err *err)
{
    struct engine *e = NULL;
    json_t *plan = NULL;
    int32_t rc = engine_open(engine, &e, err);

    if (rc == TN_OK)
        rc = plan_to_json(e->plan, &plan, err);
    if (rc == TN_OK) {
        *out = json_pack("{s:s, s:I, s:o, s:O, s:O, s:I, s:o, s:o}", "file", e->path, "bytes",
                         (json_int_t)e->map.size, "build_id",
                         hex_json(e->header.build_id, sizeof e->header.build_id), "meta", e->meta,
                         "hyper", json_object_get(plan, "hyper"), "ops", (json_int_t)e->plan->n_ops,
                         "sections", sections_json(e), "weights", weights_json(e, tensors));
        rc = *out ? TN_OK : err_nomem(err, "inspecting an engine");
    }
    json_decref(plan);
    engine_close(e);
    return rc;
}

int32_t tool_engine_plan(const char *engine, char **out, tn_err *err)
{
    struct strbuf text = STRBUF_INIT;
    struct engine *e = NULL;
    int32_t rc = engine_open(engine, &e, err);

    if (rc != TN_OK)
        return rc;
    plan_print(e->plan, &text);
    engine_close(e);
    *out = strbuf_detach(&text);
    return *out ? TN_OK : err_nomem(err, "printing a plan");
}

/* -- verify ---------------------------------------------------------------------------------------------- */

struct verifying {
    struct progress bar;
    int (*stop)(void *arg);
    void *arg;
};

static int on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct verifying *v = arg;

    (void)total;
    progress_update(&v->bar, done);
    return v->stop && v->stop(v->arg);
}

int32_t tool_engine_verify(const char *engine, bool finite, bool quiet, int (*stop)(void *),
                           void *arg, uint64_t *bytes, tn_err *err)
{
    struct verifying v = {.stop = stop, .arg = arg};
    struct engine *e = NULL;
    int32_t rc = engine_open(engine, &e, err);

    if (rc != TN_OK)
        return rc;
    progress_begin(&v.bar, "verifying", e->map.size, quiet);
    rc = engine_verify(e, on_progress, &v, err);
    if (rc == TN_OK && finite)
        rc = engine_check_finite(e, on_progress, &v, err);
    progress_end(&v.bar, rc == TN_OK);
    *bytes = e->map.size;
    engine_close(e);
    return rc;
}

/* -- diff ------------------------------------------------------------------------------------------------ */

static void note_difference(json_t *list, const char *what, const json_t *a, const json_t *b)
{
    json_array_append_new(list, json_pack("{s:s, s:O?, s:O?}", "what", what, "a", a, "b", b));
}

/* Members of two objects that differ, below `prefix`. Depth is that of our own metadata. */
static void diff_objects(json_t *list, const char *prefix, const json_t *a, const json_t *b)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)a, key, v)
    {
        const json_t *other = json_object_get(b, key);
        char path[256];
        snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] ? "." : "", key);
        if (json_is_object(v) && json_is_object(other))
            diff_objects(list, path, v, other);
        else if (!other || !json_equal(v, other))
            note_difference(list, path, v, other);
    }
    json_object_foreach((json_t *)(uintptr_t)b, key, v)
    {
        char path[256];
        snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] ? "." : "", key);
        if (!json_object_get(a, key))
            note_difference(list, path, NULL, v);
    }
}

/* What a weight is and holds, as one text. */
static json_t *fingerprint(const struct engine *e, uint32_t i)
{
    json_t *t = tensor_json(e, i);

    if (e->tensors[i].dummy)
        json_object_set_new(t, "seed", json_integer((json_int_t)e->tensors[i].seed));
    else
        json_object_set_new(t, "xxh128", hex_json(e->tensors[i].digest, XXH128_BYTES));
    return t;
}

static void diff_weights(json_t *list, const struct engine *a, const struct engine *b)
{
    for (uint32_t i = 0; i < a->plan->n_weights; i++) {
        const char *name = a->plan->weights[i].name;
        json_t *x = fingerprint(a, i), *y = NULL;
        uint64_t j;
        if (map_get(&b->plan->weight_names, name, strlen(name), &j))
            y = fingerprint(b, (uint32_t)j);
        if (!y || !json_equal(x, y))
            note_difference(list, name, x, y);
        json_decref(x);
        json_decref(y);
    }
    for (uint32_t i = 0; i < b->plan->n_weights; i++) {
        const char *name = b->plan->weights[i].name;
        uint64_t j;
        if (!map_get(&a->plan->weight_names, name, strlen(name), &j)) {
            json_t *y = fingerprint(b, i);
            note_difference(list, name, NULL, y);
            json_decref(y);
        }
    }
}

static int32_t diff_plans(json_t *list, const struct engine *a, const struct engine *b, tn_err *err)
{
    json_t *x = NULL, *y = NULL;
    int32_t rc = plan_to_json(a->plan, &x, err);

    if (rc == TN_OK)
        rc = plan_to_json(b->plan, &y, err);
    if (rc == TN_OK) {
        const json_t *p = json_object_get(x, "ops"), *q = json_object_get(y, "ops");
        size_t n =
            json_array_size(p) > json_array_size(q) ? json_array_size(p) : json_array_size(q);
        diff_objects(list, "hyper", json_object_get(x, "hyper"), json_object_get(y, "hyper"));
        for (size_t i = 0; i < n; i++) {
            char what[32];
            snprintf(what, sizeof what, "op %zu", i);
            if (!json_equal(json_array_get(p, i), json_array_get(q, i)))
                note_difference(list, what, json_array_get(p, i), json_array_get(q, i));
        }
    }
    json_decref(x);
    json_decref(y);
    return rc;
}

int32_t tool_engine_diff(const char *a, const char *b, json_t **out, tn_err *err)
{
    struct engine *x = NULL, *y = NULL;
    json_t *list = json_array();
    int32_t rc = list ? engine_open(a, &x, err) : err_nomem(err, "comparing engines");

    if (rc == TN_OK)
        rc = engine_open(b, &y, err);
    if (rc == TN_OK) {
        diff_objects(list, "", x->meta, y->meta);
        rc = diff_plans(list, x, y, err);
    }
    if (rc == TN_OK)
        diff_weights(list, x, y);
    engine_close(x);
    engine_close(y);
    if (rc != TN_OK) {
        json_decref(list);
        return rc;
    }
    *out = list;
    return TN_OK;
}
