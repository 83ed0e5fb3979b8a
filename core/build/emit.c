/* SPDX-License-Identifier: Apache-2.0 */
/* tn_plan_api over a plan. What the plugin says is checked like any
 * other input: it may be right for a model that this checkpoint is not. */
#include "build/emit.h"

#include <inttypes.h>

#include "base/json.h"
#include "base/limits.h"
#include "base/mem.h"
#include "build/config.h"

struct tn_plan_builder {
    const struct emit_input *in;
    struct emission *out;
};

/* -- tn_plan_api: weights --------------------------------------------------------------------------- */

static uint32_t stored_dtype(const struct emit_input *in, uint32_t role)
{
    /* Norms, biases and tables are a thousandth of a model and steer all of it: float32 always. */
    return role == TN_ROLE_MATRIX || role == TN_ROLE_EMBEDDING || role == TN_ROLE_HEAD ? in->dtype
                                                                                       : TN_DT_F32;
}

/* Rows (after a transpose) and columns of a checkpoint tensor as a weight of `w`'s rank sees it. */
static int32_t source_shape(const struct emit_input *in, const tn_weight_source *s,
                            const struct st_tensor *t, const struct plan_weight *w, uint64_t *rows,
                            tn_err *err)
{
    const char *file = checkpoint_file_of(in->checkpoint, s->tensor);
    uint64_t dims[SAFETENSORS_MAX_DIMS];

    memcpy(dims, t->dims, sizeof dims);
    if (w->n_dims == 3 && t->n_dims == 2 && !s->transpose) { /* one of a stack of matrices */
        dims[0] = 1;
        memcpy(dims + 1, t->dims, 2 * sizeof *dims);
    } else if (t->n_dims != w->n_dims || (s->transpose && t->n_dims != 2))
        return err_at(err, TN_E_FORMAT, file, t->offset, s->tensor,
                      "has %" PRIu32 " dimensions; config.json makes it %" PRIu32, t->n_dims,
                      w->n_dims);
    if (s->transpose) {
        dims[0] = t->dims[1];
        dims[1] = t->dims[0];
    }
    for (uint32_t i = 1; i < w->n_dims; i++)
        if (dims[i] != w->dims[i])
            return err_at(err, TN_E_FORMAT, file, t->offset, s->tensor,
                          "dimension %" PRIu32 " is %" PRIu64 "; config.json makes it %" PRIu64, i,
                          dims[i], w->dims[i]);
    *rows = dims[0];
    return TN_OK;
}

static int32_t missing_tensor(const struct emit_input *in, const char *tensor, tn_err *err)
{
    err_at(err, TN_E_FORMAT, in->config_path, TN_NO_OFFSET, tensor,
           "the checkpoint lacks this tensor, which its config.json calls for");
    err_remedy(err, "check that all shards are there and that config.json belongs to them");
    return TN_E_FORMAT;
}

/* The same of a matrix that is quantized already: it lies as linears need it, however the model stores its plain ones. */
static int32_t stored_shape(const struct emit_input *in, const tn_weight_source *s,
                            const struct plan_weight *w, uint64_t *rows, tn_err *err)
{
    uint64_t dims[2] = {0, 0};
    int32_t rc =
        in->stored ? stored_describe(in->stored, s->tensor, dims, err) : (int32_t)TN_E_NOTFOUND;

    if (rc != TN_OK)
        return rc;
    if (w->n_dims < 2 || dims[1] != w->dims[w->n_dims - 1] ||
        (w->n_dims == 3 && dims[0] != w->dims[1]))
        return err_at(err, TN_E_FORMAT, in->config_path, TN_NO_OFFSET, s->tensor,
                      "is quantized and has %" PRIu64 " rows of %" PRIu64
                      " columns; config.json makes them %" PRIu64 " long",
                      dims[0], dims[1], w->dims[w->n_dims > 1 ? w->n_dims - 1 : 0]);
    if (s->transpose && checkpoint_find(in->checkpoint, s->tensor))
        return err_at(err, TN_E_UNSUPPORTED, checkpoint_file_of(in->checkpoint, s->tensor),
                      TN_NO_OFFSET, s->tensor, "is quantized and stored transposed");
    *rows = w->n_dims == 3 ? 1 : dims[0]; /* one of a stack of matrices is one row of it */
    return TN_OK;
}

/* Finds one source; TN_E_NOTFOUND, err unfilled, if the checkpoint lacks it. */
static int32_t find_source(const struct emit_input *in, const tn_weight_source *s,
                           const struct plan_weight *w, uint64_t *rows, bool *quantized,
                           tn_err *err)
{
    const struct st_tensor *t;
    int32_t rc = stored_shape(in, s, w, rows, err);

    *quantized = rc == TN_OK;
    if (rc != TN_E_NOTFOUND)
        return rc;
    t = checkpoint_find(in->checkpoint, s->tensor);
    return t ? source_shape(in, s, t, w, rows, err) : (int32_t)TN_E_NOTFOUND;
}

/* Takes the sources that exist; adds up their rows. */
static int32_t resolve_sources(const struct emit_input *in, const tn_weight_decl *d,
                               const struct plan_weight *w, struct weight_source *out, uint32_t *n,
                               tn_err *err)
{
    uint64_t total = 0;

    *n = 0;
    for (uint32_t i = 0; i < d->n_sources; i++) {
        const tn_weight_source *s = &d->sources[i];
        uint64_t rows = 0, begin = s->row_begin, end;
        bool quantized = false;
        int32_t rc = find_source(in, s, w, &rows, &quantized, err);
        if (rc == TN_E_NOTFOUND && s->optional)
            continue;
        if (rc == TN_E_NOTFOUND)
            return missing_tensor(in, s->tensor, err);
        if (rc != TN_OK)
            return rc;
        end = s->row_end ? s->row_end : rows;
        if (begin >= end || end > rows)
            return err_at(err, TN_E_FORMAT, checkpoint_file_of(in->checkpoint, s->tensor),
                          TN_NO_OFFSET, s->tensor,
                          "has %" PRIu64 " rows; rows %" PRIu64 " to %" PRIu64 " are wanted", rows,
                          begin, end);
        out[(*n)++] = (struct weight_source){.tensor = s->tensor,
                                             .transpose = s->transpose && !quantized,
                                             .row_begin = begin,
                                             .row_end = end,
                                             .stored = quantized ? in->stored : NULL,
                                             .unit = w->n_dims == 3 ? w->dims[1] : 1};
        total += end - begin;
        if (total == w->dims[0])
            break; /* what follows are alternatives */
    }
    if (*n == 0)
        return missing_tensor(in, d->sources[0].tensor, err);
    if (total != w->dims[0])
        return err_at(err, TN_E_FORMAT, checkpoint_file_of(in->checkpoint, out[0].tensor),
                      TN_NO_OFFSET, out[0].tensor,
                      "has %" PRIu64 " rows; config.json makes it %" PRIu64, total, w->dims[0]);
    return TN_OK;
}

static int32_t keep_sources(tn_plan_builder *b, const tn_weight_decl *d,
                            const struct plan_weight *w, struct weight_origin *origin, tn_err *err)
{
    struct weight_source *s = arena_array(&b->out->arena, d->n_sources, sizeof *s);
    int32_t rc;

    if (!s)
        return err_nomem(err, "a plan");
    if (d->n_sources == 0)
        return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, d->name, "has no source");
    if (!b->in->checkpoint)
        return TN_OK;
    rc = resolve_sources(b->in, d, w, s, &origin->n_sources, err);
    for (uint32_t i = 0; i < origin->n_sources && rc == TN_OK; i++) {
        s[i].tensor = arena_strdup(&b->out->arena, s[i].tensor);
        if (!s[i].tensor)
            rc = err_nomem(err, "a plan");
    }
    origin->sources = s;
    return rc;
}

static int32_t keep_table(tn_plan_builder *b, const tn_weight_decl *d, const struct plan_weight *w,
                          struct weight_origin *origin, tn_err *err)
{
    if (!d->table)
        return err_at(err, TN_E_INVALID, NULL, TN_NO_OFFSET, d->name, "is a table without values");
    if (plan_weight_bytes(w) > 64 * MIB)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, d->name, "is a table of over 64 MiB");
    origin->table = arena_copy(&b->out->arena, d->table, (size_t)plan_weight_bytes(w));
    return origin->table ? TN_OK : err_nomem(err, "a plan");
}

static int32_t add_weight(tn_plan_builder *b, const tn_weight_decl *d, uint32_t *id, tn_err *err)
{
    struct emission *e = b->out;
    struct weight_origin origin = {0};
    struct plan_weight w = {.name = d->name,
                            .role = d->role,
                            .dtype = stored_dtype(b->in, d->role),
                            .n_dims = d->n_dims,
                            .shard = d->shard,
                            .shard_units = d->shard_units};
    int32_t rc;

    memcpy(w.dims, d->dims, sizeof w.dims);
    if (!mem_grow(&e->origins, &e->cap_origins, e->plan->n_weights + 1, sizeof *e->origins))
        return err_nomem(err, "a plan");
    rc = plan_add_weight(e->plan, &w, id, err);
    if (rc != TN_OK)
        return rc;
    rc = d->role == TN_ROLE_TABLE ? keep_table(b, d, &w, &origin, err)
                                  : keep_sources(b, d, &w, &origin, err);
    e->origins[*id] = origin;
    return rc;
}

/* -- tn_plan_api: the rest -------------------------------------------------------------------------- */

static int32_t set_int(tn_plan_builder *b, const char *name, int64_t value, tn_err *err)
{
    return plan_set_int(b->out->plan, name, value, err);
}

static int32_t set_real(tn_plan_builder *b, const char *name, double value, tn_err *err)
{
    return plan_set_real(b->out->plan, name, value, err);
}

static int32_t set_str(tn_plan_builder *b, const char *name, const char *value, tn_err *err)
{
    return plan_set_str(b->out->plan, name, value, err);
}

static int32_t add_op(tn_plan_builder *b, const tn_op_decl *d, uint32_t *ids, tn_err *err)
{
    struct plan_op op = {.name = d->name,
                         .layer = d->layer,
                         .n_in = d->n_in,
                         .n_weights = d->n_weights,
                         .n_out = d->n_out,
                         .n_attrs = d->n_attrs,
                         .attrs = d->attrs};
    struct plan_value out[TN_OP_MAX_VALUES];

    if (d->n_in > TN_OP_MAX_VALUES || d->n_weights > TN_OP_MAX_VALUES ||
        d->n_out > TN_OP_MAX_VALUES)
        return err_at(err, TN_E_LIMIT, NULL, TN_NO_OFFSET, d->name,
                      "has more than %d inputs, weights or outputs", TN_OP_MAX_VALUES);
    for (uint32_t i = 0; i < d->n_in; i++) /* lists of nothing may be NULL */
        op.in[i] = d->in[i];
    for (uint32_t i = 0; i < d->n_weights; i++)
        op.weights[i] = d->weights[i];
    for (uint32_t i = 0; i < d->n_out; i++)
        out[i] = (struct plan_value){.kind = d->out[i].kind,
                                     .dtype = d->out[i].dtype,
                                     .width = d->out[i].width,
                                     .shard_units = d->out[i].shard_units};
    return plan_add_op(b->out->plan, &op, out, ids, err);
}

static int32_t ignore(tn_plan_builder *b, const char *suffix, tn_err *err)
{
    struct emission *e = b->out;
    char *copy = arena_strdup(&e->arena, suffix);

    if (!copy || !mem_grow(&e->ignored, &e->cap_ignored, e->n_ignored + 1, sizeof *e->ignored))
        return err_nomem(err, "a plan");
    e->ignored[e->n_ignored++] = copy;
    return TN_OK;
}

static uint32_t has_tensor(const tn_plan_builder *b, const char *tensor)
{
    uint64_t dims[2];

    if (!b->in->checkpoint)
        return 0;
    if (checkpoint_find(b->in->checkpoint, tensor))
        return 1;
    /* One that is damaged is there too: whoever declares it hears of that. */
    return b->in->stored && stored_describe(b->in->stored, tensor, dims, NULL) != TN_E_NOTFOUND;
}

static const tn_plan_api plan_api = {.h = TN_HDR(tn_plan_api),
                                     .set_int = set_int,
                                     .set_real = set_real,
                                     .set_str = set_str,
                                     .weight = add_weight,
                                     .op = add_op,
                                     .ignore = ignore,
                                     .has_tensor = has_tensor};

/* -- Running the plugin ----------------------------------------------------------------------------- */

int32_t emit_plan(const struct emit_input *in, struct emission *out, tn_err *err)
{
    struct emission e = {0};
    tn_config config = {in->config, in->config_path};
    tn_plan_builder builder = {in, &e};
    int32_t rc;

    rc = plan_new(&e.plan, err);
    if (rc != TN_OK)
        return rc;
    rc = in->arch->build(in->instance, &build_config_api, &config, &plan_api, &builder, err);
    if (rc == TN_E_NOTFOUND && err && err->code == TN_OK)
        rc = tn_err_set(err, TN_E_INTERNAL, "the plugin passed on \"not found\" without a message");
    if (rc == TN_OK)
        rc = plan_check(e.plan, err);
    if (rc != TN_OK) {
        if (err && !err->file[0])
            err_file(err, in->config_path);
        err_plugin(err, in->plugin);
        emission_release(&e);
        return rc;
    }
    *out = e;
    return TN_OK;
}

void emission_release(struct emission *e)
{
    plan_free(e->plan);
    mem_free(e->origins);
    mem_free(e->ignored);
    arena_release(&e->arena);
    *e = (struct emission){0};
}

/* -- Tensors that nothing uses ---------------------------------------------------------------------- */

struct unused_search {
    const struct emission *e;
    const struct stored *stored;
    struct map used;
    const char *found;
};

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);

    return n >= m && strcmp(s + n - m, suffix) == 0;
}

/* Belongs to a quantized matrix that is used, or to none. */
static bool accounted(const struct unused_search *u, const char *tensor)
{
    char weight[LIMIT_TENSOR_NAME + 16] = "";
    uint64_t v;

    switch (u->stored ? stored_owner(u->stored, tensor, weight, sizeof weight)
                      : (uint32_t)TN_QUANT_OWNS_NOT) {
    case TN_QUANT_OWNS_PART: return map_get(&u->used, weight, strlen(weight), &v);
    case TN_QUANT_OWNS_EXTRA: return true;
    default: return false;
    }
}

static int visit(void *arg, const struct st_tensor *t)
{
    struct unused_search *u = arg;
    uint64_t v;

    if (map_get(&u->used, t->name, strlen(t->name), &v))
        return 0;
    for (size_t i = 0; i < u->e->n_ignored; i++)
        if (ends_with(t->name, u->e->ignored[i]))
            return 0;
    if (accounted(u, t->name))
        return 0;
    u->found = t->name;
    return 1;
}

int32_t emission_check_unused(const struct emission *e, const struct checkpoint *c,
                              const struct stored *s, tn_err *err)
{
    struct unused_search u = {e, s, MAP_INIT, NULL};
    int32_t rc = TN_OK;

    for (size_t i = 0; i < e->plan->n_weights && rc == TN_OK; i++)
        for (uint32_t j = 0; j < e->origins[i].n_sources && rc == TN_OK; j++) {
            const char *name = e->origins[i].sources[j].tensor;
            if (!map_set(&u.used, name, strlen(name), 1))
                rc = err_nomem(err, "checking a checkpoint");
        }
    if (rc == TN_OK)
        checkpoint_each(c, visit, &u);
    if (u.found) {
        rc = err_at(err, TN_E_FORMAT, checkpoint_file_of(c, u.found), TN_NO_OFFSET, u.found,
                    "the model plugin knows no use for this tensor");
        err_remedy(err, "check that config.json belongs to these weights");
    }
    map_release(&u.used);
    return rc;
}
