/* SPDX-License-Identifier: Apache-2.0 */
/* Building a plan and asking it questions. Shape rules are in opset.c, the stored form in plan_json.c. */
#include "engine/plan.h"

#include <inttypes.h>
#include <math.h>

#include "base/checked.h"
#include "base/limits.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "engine/opset.h"
#include "tenon/ops.h"

int32_t plan_new(struct plan **out, tn_err *err)
{
    struct plan *p = mem_zalloc(sizeof *p);

    if (!p)
        return err_nomem(err, "a plan");
    *out = p;
    return TN_OK;
}

void plan_free(struct plan *p)
{
    if (!p)
        return;
    mem_free(p->hyper);
    mem_free(p->values);
    mem_free(p->weights);
    mem_free(p->ops);
    map_release(&p->weight_names);
    arena_release(&p->arena);
    mem_free(p);
}

/* Names end up in files, logs and terminals: short, valid UTF-8, no control bytes. */
static int32_t check_name(const char *what, const char *name, tn_err *err)
{
    size_t n = strnlen(name, LIMIT_TENSOR_NAME + 1);

    if (n == 0 || n > LIMIT_TENSOR_NAME)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, what,
                      "the name has %zu bytes; 1 to %d are allowed", n, LIMIT_TENSOR_NAME);
    if (!utf8_valid(name, n))
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, what, "the name is not UTF-8");
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, what,
                          "the name holds the control byte 0x%02x", (unsigned char)name[i]);
    return TN_OK;
}

static int32_t add_hyper(struct plan *p, const struct plan_hyper *h, tn_err *err)
{
    struct plan_hyper copy = *h;
    int32_t rc;

    rc = check_name("hyper-parameter", h->name, err);
    if (rc != TN_OK)
        return rc;
    if (p->n_hyper >= LIMIT_PLAN_HYPER)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, h->name, "more than %d hyper-parameters",
                      LIMIT_PLAN_HYPER);
    if (plan_hyper(p, h->name))
        return err_at(err, TN_E_EXISTS, NULL, TN_NO_OFFSET, h->name, "is set twice");
    copy.name = arena_strdup(&p->arena, h->name);
    copy.s = h->s ? arena_strdup(&p->arena, h->s) : NULL;
    if (!copy.name || (h->s && !copy.s) ||
        !mem_grow(&p->hyper, &p->cap_hyper, p->n_hyper + 1, sizeof *p->hyper))
        return err_nomem(err, "a plan");
    p->hyper[p->n_hyper++] = copy;
    return TN_OK;
}

int32_t plan_set_int(struct plan *p, const char *name, int64_t value, tn_err *err)
{
    return add_hyper(p, &(struct plan_hyper){name, TN_ATTR_I64, value, 0.0, NULL}, err);
}

int32_t plan_set_real(struct plan *p, const char *name, double value, tn_err *err)
{
    if (!isfinite(value))
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, name, "is not a finite number");
    return add_hyper(p, &(struct plan_hyper){name, TN_ATTR_F64, 0, value, NULL}, err);
}

int32_t plan_set_str(struct plan *p, const char *name, const char *value, tn_err *err)
{
    if (!utf8_valid(value, strlen(value)))
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, name, "is not UTF-8");
    return add_hyper(p, &(struct plan_hyper){name, TN_ATTR_STR, 0, 0.0, value}, err);
}

const struct plan_hyper *plan_hyper(const struct plan *p, const char *name)
{
    for (size_t i = 0; i < p->n_hyper; i++)
        if (strcmp(p->hyper[i].name, name) == 0)
            return &p->hyper[i];
    return NULL;
}

int64_t plan_hyper_int(const struct plan *p, const char *name, int64_t absent)
{
    const struct plan_hyper *h = plan_hyper(p, name);

    return h && h->kind == TN_ATTR_I64 ? h->i : absent;
}

/* Elements and bytes of a weight; false on overflow. int4 packs two elements per byte along the last axis. */
static bool weight_bytes(const struct plan_weight *w, uint64_t *bytes)
{
    uint64_t n = 1, bits;

    for (uint32_t i = 0; i < w->n_dims; i++)
        if (!checked_mul(n, w->dims[i], &n))
            return false;
    if (!checked_mul(n, tn_dtype_bits(w->dtype), &bits))
        return false;
    *bytes = ceil_div(bits, 8);
    return true;
}

uint64_t plan_weight_bytes(const struct plan_weight *w)
{
    uint64_t bytes = 0;

    weight_bytes(w, &bytes);
    return bytes;
}

int plan_shard_axis(const struct plan_weight *w)
{
    switch (w->shard) {
    case TN_SHARD_AXIS0: return 0;
    case TN_SHARD_AXIS1: return 1;
    case TN_SHARD_AXIS2: return 2;
    default: return -1;
    }
}

static int32_t check_shard(const struct plan_weight *w, tn_err *err)
{
    int axis = plan_shard_axis(w);

    if (w->shard > TN_SHARD_AXIS2 || axis >= (int)w->n_dims)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                      "has the impossible shard rule %" PRIu32, w->shard);
    if (axis >= 0 && w->shard_units && w->dims[axis] % w->shard_units != 0)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                      "its %" PRIu64 " entries are no multiple of its %" PRIu32 " shard units",
                      w->dims[axis], w->shard_units);
    return TN_OK;
}

static int32_t check_weight(const struct plan_weight *w, tn_err *err)
{
    uint64_t bytes;
    int32_t rc;

    rc = check_name("weight", w->name, err);
    if (rc != TN_OK)
        return rc;
    if (w->role < TN_ROLE_MATRIX || w->role > TN_ROLE_SCALE)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name, "has the unknown role %" PRIu32,
                      w->role);
    if (tn_dtype_bits(w->dtype) == 0)
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, w->name,
                      "has the unknown dtype %" PRIu32, w->dtype);
    if (w->n_dims < 1 || w->n_dims > TN_MAX_DIMS)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                      "has %" PRIu32 " dimensions; 1 to %d are allowed", w->n_dims, TN_MAX_DIMS);
    for (uint32_t i = 0; i < w->n_dims; i++)
        if (w->dims[i] == 0)
            return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                          "dimension %" PRIu32 " is 0", i);
    if (w->dtype == TN_DT_I4 && w->dims[w->n_dims - 1] % 2 != 0)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
                      "int4 rows of %" PRIu64 " elements do not end with a byte",
                      w->dims[w->n_dims - 1]);
    if (w->dtype == TN_DT_I4 &&
        w->n_dims == 1) /* its entries would be 0 bytes apart: nothing could be copied */
        return err_at(
            err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name,
            "a vector of int4 has no whole bytes; int4 is for rows of two dimensions or more");
    if (!weight_bytes(w, &bytes) || bytes > INT64_MAX)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, w->name, "its size overflows 64 bits");
    return check_shard(w, err);
}

int32_t plan_set_as(struct plan *p, const struct plan_hyper *h, tn_err *err)
{
    switch (h->kind) {
    case TN_ATTR_I64: return plan_set_int(p, h->name, h->i, err);
    case TN_ATTR_F64: return plan_set_real(p, h->name, h->f, err);
    default: return plan_set_str(p, h->name, h->s, err);
    }
}

int32_t plan_add_weight(struct plan *p, const struct plan_weight *w, uint32_t *id, tn_err *err)
{
    struct plan_weight copy = *w;
    uint64_t at;
    int32_t rc;

    rc = check_weight(w, err);
    if (rc != TN_OK)
        return rc;
    if (p->n_weights >= LIMIT_PLAN_WEIGHTS)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, w->name, "more than %d weights",
                      LIMIT_PLAN_WEIGHTS);
    if (map_get(&p->weight_names, w->name, strlen(w->name), &at))
        return err_at(err, TN_E_EXISTS, NULL, TN_NO_OFFSET, w->name, "is declared twice");
    copy.name = arena_strdup(&p->arena, w->name);
    if (!copy.name ||
        !mem_grow(&p->weights, &p->cap_weights, p->n_weights + 1, sizeof *p->weights) ||
        map_put(&p->weight_names, copy.name, strlen(copy.name), p->n_weights) != MAP_ADDED)
        return err_nomem(err, "a plan");
    *id = (uint32_t)p->n_weights;
    p->weights[p->n_weights++] = copy;
    return TN_OK;
}

static int32_t check_value(const struct plan_op *op, const struct plan_value *v, tn_err *err)
{
    if (v->kind < TN_VALUE_ROWS || v->kind > TN_VALUE_KV)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "an output has the unknown kind %" PRIu32, v->kind);
    if (v->kind == TN_VALUE_KV && (v->width || v->dtype || v->shard_units))
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "a cache output has no width, dtype or shard units");
    if (v->kind == TN_VALUE_KV)
        return TN_OK;
    if (v->dtype != TN_DT_ACT && tn_dtype_bits(v->dtype) == 0)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "an output has the unknown dtype %" PRIu32, v->dtype);
    if (v->width == 0 || v->width > LIMIT_WIDTH)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "an output is %" PRIu64 " wide; 1 to %" PRIu64 " are allowed", v->width,
                      LIMIT_WIDTH);
    if (v->shard_units && v->width % v->shard_units != 0)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "an output %" PRIu64 " wide cannot have %" PRIu32 " shard units", v->width,
                      v->shard_units);
    return TN_OK;
}

/* What the stored form can hold, so that a plan which was built can also be written and read back. */
static int32_t check_attr(const struct plan_op *op, uint32_t i, tn_err *err)
{
    const tn_attr *a = &op->attrs[i];
    size_t n = strlen(a->name);
    int32_t rc = check_name("attribute", a->name, err);

    if (rc != TN_OK)
        return rc;
    if (n > LIMIT_PLAN_ATTR_NAME || a->name[n - 1] == '*')
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "the name of an attribute ends in \"*\" or is over %d bytes long",
                      LIMIT_PLAN_ATTR_NAME);
    if (a->kind < TN_ATTR_I64 || a->kind > TN_ATTR_STR || (a->kind == TN_ATTR_STR && !a->s) ||
        (a->kind == TN_ATTR_F64 && !isfinite(a->f)))
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" is no integer, finite number or text", a->name);
    if (a->kind == TN_ATTR_STR && !utf8_valid(a->s, strlen(a->s)))
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" is not UTF-8", a->name);
    if ((a->flags & ~TN_ATTR_SHARDED) || (a->flags && a->kind != TN_ATTR_I64))
        return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                      "attribute \"%s\" has flags that it cannot have", a->name);
    for (uint32_t k = 0; k < i; k++)
        if (strcmp(op->attrs[k].name, a->name) == 0)
            return err_at(err, TN_E_EXISTS, NULL, TN_NO_OFFSET, op->name,
                          "attribute \"%s\" stands twice", a->name);
    return TN_OK;
}

static int32_t check_op(const struct plan *p, const struct plan_op *op,
                        const struct plan_value *out, tn_err *err)
{
    int32_t rc;

    rc = check_name("op", op->name, err);
    if (rc != TN_OK)
        return rc;
    if (op->n_in > TN_OP_MAX_VALUES || op->n_weights > TN_OP_MAX_VALUES ||
        op->n_out > TN_OP_MAX_VALUES || op->n_out == 0 || op->n_attrs > LIMIT_PLAN_ATTRS)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, op->name,
                      "has %" PRIu32 " inputs, %" PRIu32 " weights, %" PRIu32
                      " outputs and %" PRIu32 " attributes",
                      op->n_in, op->n_weights, op->n_out, op->n_attrs);
    if (p->n_ops >= LIMIT_PLAN_OPS || p->n_values + op->n_out > LIMIT_PLAN_VALUES)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, op->name, "the plan has too many ops");
    if (op->layer < -1 || op->layer >= LIMIT_LAYERS)
        return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                      "stands in layer %" PRId32 "; -1 to %d are allowed", op->layer,
                      LIMIT_LAYERS - 1);
    for (uint32_t i = 0; i < op->n_in; i++)
        if (op->in[i] >= p->n_values)
            return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                          "reads value %" PRIu32 ", which no earlier op writes", op->in[i]);
    for (uint32_t i = 0; i < op->n_weights; i++)
        if (op->weights[i] >= p->n_weights)
            return err_at(err, TN_E_RANGE, NULL, TN_NO_OFFSET, op->name,
                          "uses weight %" PRIu32 ", which does not exist", op->weights[i]);
    for (uint32_t i = 0; i < op->n_out; i++)
        if ((rc = check_value(op, &out[i], err)) != TN_OK)
            return rc;
    for (uint32_t i = 0; i < op->n_attrs; i++)
        if ((rc = check_attr(op, i, err)) != TN_OK)
            return rc;
    return opset_check(p, op, out, err);
}

static const tn_attr *copy_attrs(struct plan *p, const struct plan_op *op)
{
    tn_attr *attrs = arena_array(&p->arena, op->n_attrs, sizeof *attrs);

    for (uint32_t i = 0; attrs && i < op->n_attrs; i++) {
        attrs[i] = op->attrs[i];
        attrs[i].h = (tn_hdr)TN_HDR(tn_attr);
        attrs[i].name = arena_strdup(&p->arena, op->attrs[i].name);
        attrs[i].s =
            op->attrs[i].kind == TN_ATTR_STR ? arena_strdup(&p->arena, op->attrs[i].s) : NULL;
        if (!attrs[i].name || (op->attrs[i].kind == TN_ATTR_STR && !attrs[i].s))
            return NULL;
    }
    return attrs;
}

int32_t plan_add_op(struct plan *p, const struct plan_op *op, const struct plan_value *out,
                    uint32_t *ids, tn_err *err)
{
    struct plan_op copy = *op;
    int32_t rc;

    rc = check_op(p, op, out, err);
    if (rc != TN_OK)
        return rc;
    copy.name = arena_strdup(&p->arena, op->name);
    copy.attrs = copy_attrs(p, op);
    if (!copy.name || !copy.attrs ||
        !mem_grow(&p->ops, &p->cap_ops, p->n_ops + 1, sizeof *p->ops) ||
        !mem_grow(&p->values, &p->cap_values, p->n_values + op->n_out, sizeof *p->values))
        return err_nomem(err, "a plan");
    for (uint32_t i = 0; i < op->n_out; i++) {
        struct plan_value *v = &p->values[p->n_values];
        *v = out[i];
        v->producer = (uint32_t)p->n_ops;
        copy.out[i] = (uint32_t)p->n_values++;
        if (ids)
            ids[i] = copy.out[i];
    }
    p->ops[p->n_ops++] = copy;
    return TN_OK;
}

const tn_attr *plan_attr(const struct plan_op *op, const char *name)
{
    for (uint32_t i = 0; i < op->n_attrs; i++)
        if (strcmp(op->attrs[i].name, name) == 0)
            return &op->attrs[i];
    return NULL;
}

/* -- Checks over the whole plan ------------------------------------------------------------------ */

static int32_t check_hyper(const struct plan *p, tn_err *err)
{
    static const struct {
        const char *name;
        int64_t max;
    } needed[] = {{TN_HP_VOCAB, LIMIT_VOCAB},
                  {TN_HP_HIDDEN, LIMIT_WIDTH},
                  {TN_HP_LAYERS, LIMIT_LAYERS},
                  {TN_HP_MAX_POSITIONS, LIMIT_POSITIONS}};

    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        int64_t v = plan_hyper_int(p, needed[i].name, -1);
        if (v < 1 || v > needed[i].max)
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, needed[i].name,
                          "is missing, or not from 1 to %" PRId64, needed[i].max);
    }
    return TN_OK;
}

static int32_t check_order(const struct plan *p, tn_err *err)
{
    int64_t layers = plan_hyper_int(p, TN_HP_LAYERS, 0);
    int32_t last = -1;
    bool after = false;

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        if (op->layer >= layers || (op->layer >= 0 && (after || op->layer < last)))
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                          "op %zu stands in layer %" PRId32 ", out of order or beyond the last", i,
                          op->layer);
        if (op->layer < 0 && last >= 0)
            after = true;
        if (op->layer >= 0)
            last = op->layer;
    }
    return TN_OK;
}

static int32_t check_uses(const struct plan *p, tn_err *err)
{
    bool *used = mem_zarray(p->n_weights, sizeof *used);
    size_t n_logits = 0;
    int32_t rc = TN_OK;

    if (!used)
        return err_nomem(err, "checking a plan");
    for (size_t i = 0; i < p->n_ops; i++) {
        for (uint32_t j = 0; j < p->ops[i].n_weights; j++)
            used[p->ops[i].weights[j]] = true;
        if (opset_makes_logits(p->ops[i].name))
            n_logits++;
    }
    for (size_t i = 0; i < p->n_weights && rc == TN_OK; i++)
        if (!used[i])
            rc = err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, p->weights[i].name,
                        "no op uses this weight");
    if (rc == TN_OK && n_logits != 1)
        rc = tn_err_set(err, TN_E_FORMAT, "the plan has %zu logits ops instead of one", n_logits);
    mem_free(used);
    return rc;
}

static int32_t check_kv(const struct plan *p, tn_err *err)
{
    bool seen[LIMIT_LAYERS] = {false};

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        if (strcmp(op->name, TN_OP_KV_APPEND) != 0)
            continue;
        if (op->layer < 0 || seen[op->layer])
            return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET, op->name,
                          "op %zu: a layer appends to its cache exactly once", i);
        seen[op->layer] = true;
    }
    return TN_OK;
}

static int32_t table_error(const struct plan *p, const struct plan_op *op, const char *what,
                           uint64_t have, int64_t want, tn_err *err)
{
    return err_at(err, TN_E_FORMAT, NULL, TN_NO_OFFSET,
                  op->n_weights ? p->weights[op->weights[0]].name : op->name,
                  "%s has %s %" PRIu64 ", but the model's hyper-parameters make it %" PRId64,
                  op->name, what, have, want);
}

/* Tables that token ids and positions index, and the rows that tokens are sampled from, must cover the whole range: a
 * kernel does not look again. */
static int32_t check_tables(const struct plan *p, tn_err *err)
{
    int64_t vocab = plan_hyper_int(p, TN_HP_VOCAB, 0);
    int64_t positions = plan_hyper_int(p, TN_HP_MAX_POSITIONS, 0);

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        const struct plan_weight *w = op->n_weights ? &p->weights[op->weights[0]] : NULL;
        const tn_attr *offset = plan_attr(op, "offset");
        uint64_t logits = op->n_out ? p->values[op->out[0]].width : 0;
        if (opset_embeds(op->name) && w->dims[0] != (uint64_t)vocab)
            return table_error(p, op, "entries", w->dims[0], vocab, err);
        if (strcmp(op->name, TN_OP_POSITION) == 0 &&
            w->dims[0] < (uint64_t)(positions + (offset ? offset->i : 0)))
            return table_error(p, op, "entries", w->dims[0], positions + (offset ? offset->i : 0),
                               err);
        if (strcmp(op->name, TN_OP_SAMPLE) == 0)
            logits = p->values[op->in[0]].width;
        else if (!opset_makes_logits(op->name))
            continue;
        if (logits != (uint64_t)vocab)
            return table_error(p, op, "a width of", logits, vocab, err);
    }
    return TN_OK;
}

int32_t plan_check(const struct plan *p, tn_err *err)
{
    int32_t rc = check_hyper(p, err);

    if (rc == TN_OK)
        rc = check_order(p, err);
    if (rc == TN_OK)
        rc = check_uses(p, err);
    if (rc == TN_OK)
        rc = check_kv(p, err);
    if (rc == TN_OK)
        rc = check_tables(p, err);
    return rc;
}

static bool reads(const struct plan_op *op, uint32_t value)
{
    for (uint32_t i = 0; i < op->n_in; i++)
        if (op->in[i] == value)
            return true;
    return false;
}

/* The longest window among the ops that read the cache value written by `append`; 0 if one of them needs everything. */
static uint32_t window_of(const struct plan *p, const struct plan_op *append)
{
    uint32_t longest = 0;

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        const tn_attr *a = plan_attr(op, "window");
        if (!reads(op, append->out[0]))
            continue;
        if (strcmp(op->name, TN_OP_ATTENTION) != 0 || !a || a->i == 0)
            return 0;
        longest = (uint32_t)a->i > longest ? (uint32_t)a->i : longest;
    }
    return longest;
}

uint32_t plan_kv_layers(const struct plan *p, struct plan_kv *kv, uint32_t max)
{
    uint32_t n = 0;

    for (size_t i = 0; i < p->n_ops; i++) {
        const struct plan_op *op = &p->ops[i];
        if (strcmp(op->name, TN_OP_KV_APPEND) != 0)
            continue;
        if (n < max)
            kv[n] = (struct plan_kv){(uint32_t)op->layer, (uint32_t)plan_attr(op, "n_kv_heads")->i,
                                     (uint32_t)plan_attr(op, "head_dim")->i, window_of(p, op)};
        n++;
    }
    return n;
}
