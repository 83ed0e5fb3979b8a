/* SPDX-License-Identifier: Apache-2.0 */
/* Plans to and from JSON; the format is described in plan_json.h. */
#include "engine/plan_json.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/json.h"
#include "base/limits.h"
#include "engine/names.h"

#define FORMAT 1

/* -- Writing -------------------------------------------------------------------------------------- */

/* jansson fails for want of memory only, and takes NULL for a value that could not be made. A list or object that an
 * entry is missing from is given up here, so that NULL reaches plan_to_json and nothing is lost on the way. */
static json_t *append(json_t *list, json_t *v)
{
    if (json_array_append_new(list, v) == 0)
        return list;
    json_decref(list);
    return NULL;
}

static json_t *set(json_t *object, const char *key, json_t *v)
{
    if (json_object_set_new(object, key, v) == 0)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *weight_json(const struct plan_weight *w)
{
    json_t *dims = json_array();

    for (uint32_t i = 0; i < w->n_dims; i++)
        dims = append(dims, json_integer((json_int_t)w->dims[i]));
    return json_pack("{s:s, s:s, s:s, s:o, s:s, s:i}", "name", w->name, "role", role_name(w->role),
                     "dtype", tn_dtype_name(w->dtype), "dims", dims, "shard", shard_name(w->shard),
                     "units", (int)w->shard_units);
}

static json_t *ids_json(const uint32_t *ids, uint32_t n)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < n; i++)
        list = append(list, json_integer(ids[i]));
    return list;
}

static json_t *number_or_text(uint32_t kind, int64_t i, double f, const char *s)
{
    return kind == TN_ATTR_I64   ? json_integer(i)
           : kind == TN_ATTR_F64 ? json_real(f)
                                 : json_string(s);
}

static json_t *attrs_json(const struct plan_op *op)
{
    json_t *o = json_object();

    for (uint32_t i = 0; i < op->n_attrs; i++) {
        const tn_attr *a = &op->attrs[i];
        char key[LIMIT_PLAN_ATTR_NAME + 2];
        snprintf(key, sizeof key, "%s%s", a->name, a->flags & TN_ATTR_SHARDED ? "*" : "");
        o = set(o, key, number_or_text(a->kind, a->i, a->f, a->s));
    }
    return o;
}

static json_t *op_json(const struct plan *p, const struct plan_op *op)
{
    json_t *out = json_array();

    for (uint32_t i = 0; i < op->n_out; i++) {
        const struct plan_value *v = &p->values[op->out[i]];
        const char *dtype = v->kind == TN_VALUE_KV ? "" : tn_dtype_name(v->dtype);
        out = append(out, json_pack("[s, s, I, i]", value_kind_name(v->kind), dtype,
                                    (json_int_t)v->width, (int)v->shard_units));
    }
    return json_pack("{s:s, s:i, s:o, s:o, s:o, s:o}", "op", op->name, "layer", (int)op->layer,
                     "in", ids_json(op->in, op->n_in), "w", ids_json(op->weights, op->n_weights),
                     "attrs", attrs_json(op), "out", out);
}

static json_t *hyper_json(const struct plan *p)
{
    json_t *o = json_object();

    for (size_t i = 0; i < p->n_hyper; i++) {
        const struct plan_hyper *h = &p->hyper[i];
        o = set(o, h->name, number_or_text(h->kind, h->i, h->f, h->s));
    }
    return o;
}

int32_t plan_to_json(const struct plan *p, json_t **out, tn_err *err)
{
    json_t *weights = json_array(), *ops = json_array(), *root;

    for (size_t i = 0; i < p->n_weights && weights; i++)
        weights = append(weights, weight_json(&p->weights[i]));
    for (size_t i = 0; i < p->n_ops && ops; i++)
        ops = append(ops, op_json(p, &p->ops[i]));
    root = json_pack("{s:i, s:o, s:o, s:o}", "format", FORMAT, "hyper", hyper_json(p), "weights",
                     weights, "ops", ops);
    if (!root)
        return err_nomem(err, "a plan as JSON");
    *out = root;
    return TN_OK;
}

/* -- Reading -------------------------------------------------------------------------------------- */

struct reading {
    const char *file;
    struct plan *p;
    tn_err *err;
    char at[64]; /* "weights[3]", for messages */
};

static int32_t bad(struct reading *r, const char *field, const char *why)
{
    char path[128];

    snprintf(path, sizeof path, "%s.%s", r->at, field);
    return err_at(r->err, TN_E_FORMAT, r->file, TN_NO_OFFSET, path, "%s", why);
}

static int32_t get_str(struct reading *r, const json_t *o, const char *key, const char **out)
{
    *out = json_plain(json_object_get(o, key));
    return *out ? TN_OK : bad(r, key, "is missing or not a plain string");
}

static int32_t get_int(struct reading *r, const json_t *v, const char *key, int64_t min,
                       int64_t max, int64_t *out)
{
    if (!json_is_integer(v))
        return bad(r, key, "is missing or not an integer");
    if (json_integer_value(v) < min || json_integer_value(v) > max)
        return bad(r, key, "is out of range");
    *out = json_integer_value(v);
    return TN_OK;
}

static int32_t read_weight(struct reading *r, const json_t *o)
{
    struct plan_weight w = {0};
    const char *role, *dtype, *shard;
    const json_t *dims = json_object_get(o, "dims");
    int64_t v = 0;
    uint32_t id;
    int32_t rc;

    if ((rc = get_str(r, o, "name", &w.name)) != TN_OK ||
        (rc = get_str(r, o, "role", &role)) != TN_OK ||
        (rc = get_str(r, o, "dtype", &dtype)) != TN_OK ||
        (rc = get_str(r, o, "shard", &shard)) != TN_OK ||
        (rc = get_int(r, json_object_get(o, "units"), "units", 0, INT32_MAX, &v)) != TN_OK)
        return rc;
    w.shard_units = (uint32_t)v;
    w.role = role_number(role);
    w.dtype = dtype_number(dtype);
    if (w.role == 0)
        return bad(r, "role", "is not a known role");
    if (w.dtype == 0)
        return bad(r, "dtype", "is not a known dtype");
    if (!shard_number(shard, &w.shard))
        return bad(r, "shard", "is not a known shard rule");
    if (!json_is_array(dims) || json_array_size(dims) < 1 || json_array_size(dims) > TN_MAX_DIMS)
        return bad(r, "dims", "is not a list of 1 to 4 integers");
    w.n_dims = (uint32_t)json_array_size(dims);
    for (uint32_t i = 0; i < w.n_dims; i++) {
        rc = get_int(r, json_array_get(dims, i), "dims", 1, INT64_MAX, &v);
        if (rc != TN_OK)
            return rc;
        w.dims[i] = (uint64_t)v;
    }
    return plan_add_weight(r->p, &w, &id, r->err);
}

static int32_t read_ids(struct reading *r, const json_t *o, const char *key, uint32_t *ids,
                        uint32_t *n)
{
    const json_t *a = json_object_get(o, key);
    int64_t v = 0;
    int32_t rc;

    if (!json_is_array(a) || json_array_size(a) > TN_OP_MAX_VALUES)
        return bad(r, key, "is not a list of at most 12 numbers");
    *n = (uint32_t)json_array_size(a);
    for (uint32_t i = 0; i < *n; i++) {
        rc = get_int(r, json_array_get(a, i), key, 0, UINT32_MAX, &v);
        if (rc != TN_OK)
            return rc;
        ids[i] = (uint32_t)v;
    }
    return TN_OK;
}

/* Fills attrs[] (room for LIMIT_PLAN_ATTRS) from {"name": value}; names are copied to `names` when a "*" must go. */
static int32_t read_attrs(struct reading *r, const json_t *o, tn_attr *attrs,
                          char (*names)[LIMIT_PLAN_ATTR_NAME + 2], uint32_t *n)
{
    const json_t *obj = json_object_get(o, "attrs");
    const char *key;
    json_t *v;

    *n = 0;
    if (!json_is_object(obj) || json_object_size(obj) > LIMIT_PLAN_ATTRS)
        return bad(r, "attrs", "is not an object of at most 64 members");
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        size_t len = strlen(key);
        tn_attr *a = &attrs[*n];
        *a = (tn_attr){.h = TN_HDR(tn_attr)};
        if (len == 0 || len >= sizeof names[0])
            return bad(r, "attrs", "holds a name that is empty or too long");
        memcpy(names[*n], key, len + 1);
        if (key[len - 1] == '*') {
            a->flags = TN_ATTR_SHARDED;
            names[*n][len - 1] = '\0';
        }
        a->name = names[*n];
        a->kind = json_is_integer(v) ? TN_ATTR_I64
                  : json_is_real(v)  ? TN_ATTR_F64
                  : json_plain(v)    ? TN_ATTR_STR
                                     : 0;
        if (a->kind == 0)
            return bad(r, "attrs", "holds a value that is no number or plain string");
        a->i = json_integer_value(v);
        a->f = json_real_value(v);
        a->s = json_string_value(v);
        (*n)++;
    }
    return TN_OK;
}

static int32_t read_outs(struct reading *r, const json_t *o, struct plan_value *out, uint32_t *n)
{
    const json_t *a = json_object_get(o, "out");
    int64_t width = 0, units = 0;
    int32_t rc;

    if (!json_is_array(a) || json_array_size(a) < 1 || json_array_size(a) > TN_OP_MAX_VALUES)
        return bad(r, "out", "is not a list of 1 to 12 values");
    *n = (uint32_t)json_array_size(a);
    for (uint32_t i = 0; i < *n; i++) {
        const json_t *v = json_array_get(a, i);
        const char *kind = json_plain(json_array_get(v, 0));
        const char *dtype = json_plain(json_array_get(v, 1));
        if (json_array_size(v) != 4 || !kind || !dtype)
            return bad(r, "out", "is not [kind, dtype, width, units]");
        rc = get_int(r, json_array_get(v, 2), "out", 0, (int64_t)LIMIT_WIDTH, &width);
        if (rc == TN_OK)
            rc = get_int(r, json_array_get(v, 3), "out", 0, INT32_MAX, &units);
        if (rc != TN_OK)
            return rc;
        out[i] = (struct plan_value){.kind = value_kind_number(kind),
                                     .dtype = strcmp(dtype, "act") == 0 ? TN_DT_ACT
                                                                        : dtype_number(dtype),
                                     .width = (uint64_t)width,
                                     .shard_units = (uint32_t)units};
    }
    return TN_OK;
}

static int32_t read_op(struct reading *r, const json_t *o)
{
    char names[LIMIT_PLAN_ATTRS][LIMIT_PLAN_ATTR_NAME + 2];
    tn_attr attrs[LIMIT_PLAN_ATTRS];
    struct plan_value out[TN_OP_MAX_VALUES];
    struct plan_op op = {.attrs = attrs};
    int64_t layer = -1;
    int32_t rc;

    if ((rc = get_str(r, o, "op", &op.name)) != TN_OK ||
        (rc = get_int(r, json_object_get(o, "layer"), "layer", -1, LIMIT_LAYERS, &layer)) !=
            TN_OK ||
        (rc = read_ids(r, o, "in", op.in, &op.n_in)) != TN_OK ||
        (rc = read_ids(r, o, "w", op.weights, &op.n_weights)) != TN_OK ||
        (rc = read_attrs(r, o, attrs, names, &op.n_attrs)) != TN_OK ||
        (rc = read_outs(r, o, out, &op.n_out)) != TN_OK)
        return rc;
    op.layer = (int32_t)layer;
    return plan_add_op(r->p, &op, out, NULL, r->err);
}

static int32_t read_hyper(struct reading *r, const json_t *root)
{
    const json_t *obj = json_object_get(root, "hyper");
    int32_t rc = TN_OK;
    const char *key;
    json_t *v;

    if (!json_is_object(obj))
        return bad(r, "hyper", "is missing or not an object");
    json_object_foreach((json_t *)(uintptr_t)obj, key, v)
    {
        if (json_is_integer(v))
            rc = plan_set_int(r->p, key, json_integer_value(v), r->err);
        else if (json_is_real(v))
            rc = plan_set_real(r->p, key, json_real_value(v), r->err);
        else if (json_plain(v))
            rc = plan_set_str(r->p, key, json_string_value(v), r->err);
        else
            rc = bad(r, "hyper", "holds a value that is no number or plain string");
        if (rc != TN_OK)
            return rc;
    }
    return TN_OK;
}

/* Applies `read` to each object of the array `key`. */
static int32_t read_all(struct reading *r, const json_t *root, const char *key,
                        int32_t (*read)(struct reading *, const json_t *))
{
    const json_t *a = json_object_get(root, key);
    int32_t rc = TN_OK;

    if (!json_is_array(a)) {
        snprintf(r->at, sizeof r->at, "plan");
        return bad(r, key, "is missing or not a list");
    }
    for (size_t i = 0; i < json_array_size(a) && rc == TN_OK; i++) {
        snprintf(r->at, sizeof r->at, "plan.%s[%zu]", key, i);
        rc = read(r, json_array_get(a, i));
        if (rc != TN_OK && r->err && !r->err->file[0])
            err_prefix(r->err, "%s", r->at);
    }
    return rc;
}

int32_t plan_from_json(const json_t *root, const char *file, struct plan **out, tn_err *err)
{
    struct reading r = {file, NULL, err, "plan"};
    int64_t format = 0;
    int32_t rc;

    rc = plan_new(&r.p, err);
    if (rc != TN_OK)
        return rc;
    rc = get_int(&r, json_object_get(root, "format"), "format", 1, INT32_MAX, &format);
    if (rc == TN_OK && format != FORMAT) {
        rc = err_at(err, TN_E_VERSION, file, TN_NO_OFFSET, "plan.format",
                    "is %" PRId64 "; this program reads %d", format, FORMAT);
        err_remedy(err, "rebuild the engine with this version of tenon, or update tenon");
    }
    if (rc == TN_OK)
        rc = read_hyper(&r, root);
    if (rc == TN_OK)
        rc = read_all(&r, root, "weights", read_weight);
    if (rc == TN_OK)
        rc = read_all(&r, root, "ops", read_op);
    if (rc == TN_OK)
        rc = plan_check(r.p, err);
    if (rc != TN_OK) {
        if (err && !err->file[0])
            err_file(err, file);
        plan_free(r.p);
        return rc;
    }
    *out = r.p;
    return TN_OK;
}
