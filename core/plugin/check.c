/* SPDX-License-Identifier: Apache-2.0 */
#include "plugin/check.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "base/limits.h"
#include "tenon/comm.h"
#include "tenon/device.h"
#include "tenon/kernels.h"
#include "tenon/model.h"
#include "tenon/plugin.h"
#include "tenon/quant.h"
#include "tenon/quant_format.h"

/* No struct of this major comes near; a larger size is garbage, not a later minor. */
#define MAX_STRUCT 65536
#define MAX_IFACES 64
#define MAX_TEXT 128
#define MAX_LIST 256

/* Where in the descriptor we are; its text becomes err->field. */
struct place {
    const char *iface; /* "kernel.set" */
    const char *list;  /* "variants", or NULL */
    uint32_t index;
    tn_err *err;
};

TN_PRINTF(4, 5)
static int32_t fail(const struct place *at, int32_t code, const char *field, const char *fmt, ...)
{
    char name[128], text[300];
    va_list ap;

    if (at->list)
        snprintf(name, sizeof name, "%s.%s[%" PRIu32 "].%s", at->iface, at->list, at->index, field);
    else
        snprintf(name, sizeof name, "%s.%s", at->iface, field);
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return err_at(at->err, code, NULL, TN_NO_OFFSET, name, "%s", text);
}

static int32_t check_header(const struct place *at, const tn_hdr *h, uint64_t least)
{
    if (h->major != TN_ABI_MAJOR)
        return fail(at, TN_E_ABI, "h.major", "is %u; this host speaks ABI %u", h->major,
                    TN_ABI_MAJOR);
    if (h->size < least || h->size > MAX_STRUCT)
        return fail(at, TN_E_ABI, "h.size",
                    "is %" PRIu32 "; ABI %u.0 has %" PRIu64 " bytes here, and later ones more",
                    h->size, TN_ABI_MAJOR, least);
    return TN_OK;
}

#define NEED(at, ptr, field)                                                                       \
    do {                                                                                           \
        if (!(ptr)->field)                                                                         \
            return fail(at, TN_E_REFUSED, #field, "is NULL, but it is required");                  \
    } while (0)

/* Two functions of which one is no use without the other. */
#define NEED_BOTH(at, ptr, a, b)                                                                   \
    do {                                                                                           \
        if (!(ptr)->a != !(ptr)->b)                                                                \
            return fail(at, TN_E_REFUSED, (ptr)->a ? #b : #a, "is NULL, but %s is not",            \
                        (ptr)->a ? #a : #b);                                                       \
    } while (0)

static int32_t check_text(const struct place *at, const char *field, const char *s)
{
    if (!s)
        return fail(at, TN_E_REFUSED, field, "is NULL, but it is required");
    if (s[0] == '\0' || strnlen(s, MAX_TEXT) == MAX_TEXT)
        return fail(at, TN_E_REFUSED, field, "must have 1 to %d characters", MAX_TEXT - 1);
    return TN_OK;
}

static int32_t check_mask(const struct place *at, const char *field, uint32_t value, uint32_t known)
{
    if ((value & ~known) == 0)
        return TN_OK;
    return fail(at, TN_E_ABI, field, "has bits that this host does not know: %#" PRIx32,
                value & ~known);
}

#define DTYPES (TN_DT_BIT(TN_DT_COUNT) - 2)

/* -- Interfaces ------------------------------------------------------------------------------------- */

/* A list of names that ends with NULL and has at least one. */
static int32_t check_names(const struct place *at, const char *field, const char *const *names)
{
    uint32_t n = 0;

    for (; names[n]; n++) {
        int32_t rc = check_text(at, field, names[n]);
        if (rc != TN_OK)
            return rc;
        if (n == MAX_LIST)
            return fail(at, TN_E_REFUSED, field, "has no end within %d entries", MAX_LIST);
    }
    return n > 0 ? TN_OK : fail(at, TN_E_REFUSED, field, "is empty");
}

static int32_t check_model(struct place *at, const tn_model_arch *m)
{
    NEED(at, m, model_types);
    NEED(at, m, build);
    return check_names(at, "model_types", m->model_types);
}

static int32_t check_quant(struct place *at, const tn_quant_scheme *q)
{
    uint32_t needs = TN_QUANT_ABSMAX_CHANNEL | TN_QUANT_ABSMAX_TENSOR | TN_QUANT_PERCENTILE |
                     TN_QUANT_SECOND_MOMENT | TN_QUANT_SAMPLE | TN_QUANT_HESSIAN;
    int32_t rc = check_text(at, "name", q->name);

    if (rc != TN_OK)
        return rc;
    NEED(at, q, summary);
    NEED(at, q, fallback);
    NEED(at, q, plan);
    NEED(at, q, quantize);
    rc = check_mask(at, "needs", q->needs, needs);
    return rc == TN_OK ? check_mask(at, "flags", q->flags, TN_QUANT_NEEDS_OPTIONAL | TN_QUANT_HEADS)
                       : rc;
}

static int32_t check_format(struct place *at, const tn_quant_format *f)
{
    int32_t rc = check_text(at, "name", f->name);

    if (rc != TN_OK)
        return rc;
    NEED(at, f, summary);
    NEED(at, f, fallback);
    NEED(at, f, methods);
    NEED(at, f, open);
    NEED(at, f, close);
    NEED(at, f, describe);
    NEED(at, f, owns);
    NEED(at, f, plan);
    NEED(at, f, fill);
    NEED(at, f, widen);
    return check_names(at, "methods", f->methods);
}

static int32_t check_comm(struct place *at, const tn_comm_backend *c)
{
    uint32_t flags = TN_COMM_HOST_MEMORY | TN_COMM_DEVICE_MEMORY | TN_COMM_GRAPH_SAFE |
                     TN_COMM_MULTI_HOST | TN_COMM_IN_PLACE | TN_COMM_DETERMINISTIC |
                     TN_COMM_OWN_DEVICE | TN_COMM_GRAPH_SUMS;
    int32_t rc = check_text(at, "name", c->name);

    if (rc == TN_OK)
        rc = check_mask(at, "flags", c->flags, flags);
    if (rc == TN_OK)
        rc = check_mask(at, "dtypes", c->dtypes, DTYPES);
    if (rc != TN_OK)
        return rc;
    NEED(at, c, can_join);
    NEED(at, c, make_id);
    NEED(at, c, join);
    NEED(at, c, leave);
    NEED(at, c, abort);
    NEED(at, c, async_error);
    NEED(at, c, link);
    NEED(at, c, all_reduce);
    NEED(at, c, all_gather);
    NEED(at, c, reduce_scatter);
    NEED(at, c, broadcast);
    NEED(at, c, send);
    NEED(at, c, recv);
    NEED(at, c, barrier);
    if ((TN_HAS(tn_comm_backend, c, world) && c->world) !=
        (TN_HAS(tn_comm_backend, c, spread) && c->spread))
        return fail(at, TN_E_REFUSED, "spread", "and world are only of use together");
    if (!(c->flags & (TN_COMM_HOST_MEMORY | TN_COMM_DEVICE_MEMORY)))
        return fail(at, TN_E_REFUSED, "flags", "name no kind of memory that it moves");
    return TN_OK;
}

static int32_t check_device_optional(struct place *at, const tn_device_api *d)
{
    NEED_BOTH(at, d, pinned_alloc, pinned_free);
    NEED_BOTH(at, d, stream_new, stream_free);
    NEED_BOTH(at, d, stream_new, stream_sync);
    NEED_BOTH(at, d, stream_new, stream_wait);
    NEED_BOTH(at, d, stream_new, event_new);
    NEED_BOTH(at, d, event_new, event_free);
    NEED_BOTH(at, d, event_new, event_record);
    NEED_BOTH(at, d, event_new, event_query);
    NEED_BOTH(at, d, event_new, event_sync);
    NEED_BOTH(at, d, event_new, event_elapsed_ns);
    NEED_BOTH(at, d, capture_begin, capture_end);
    NEED_BOTH(at, d, capture_begin, graph_launch);
    NEED_BOTH(at, d, capture_begin, graph_free);
    NEED_BOTH(at, d, image_load, image_entry);
    NEED_BOTH(at, d, image_load, image_unload);
    NEED_BOTH(at, d, parallel, n_workers);
    NEED_BOTH(at, d, meet_bytes, meet_sum);
    NEED_BOTH(at, d, meet_bytes, meet_gather);
    return TN_OK;
}

static int32_t check_device(struct place *at, const tn_device_api *d)
{
    int32_t rc = check_text(at, "kind", d->kind);

    if (rc != TN_OK)
        return rc;
    NEED(at, d, count);
    NEED(at, d, info);
    NEED(at, d, open);
    NEED(at, d, close);
    NEED(at, d, act_dtype);
    NEED(at, d, mem_alloc);
    NEED(at, d, mem_free);
    NEED(at, d, mem_info);
    NEED(at, d, copy);
    NEED(at, d, fill);
    return check_device_optional(at, d);
}

static int32_t check_ranges(const struct place *at, const tn_variant *v)
{
    if (v->n_ranges > MAX_LIST)
        return fail(at, TN_E_REFUSED, "n_ranges", "is %" PRIu32 ", more than %d", v->n_ranges,
                    MAX_LIST);
    if (v->n_ranges > 0)
        NEED(at, v, ranges);
    for (uint32_t i = 0; i < v->n_ranges; i++) {
        const tn_range *r = &v->ranges[i];
        int32_t rc = check_text(at, "ranges.dim", r->dim);
        if (rc != TN_OK)
            return rc;
        if (r->min > r->max || r->multiple < 1)
            return fail(at, TN_E_REFUSED, "ranges",
                        "%s: %" PRId64 " to %" PRId64 " by %" PRId64 " is no range", r->dim, r->min,
                        r->max, r->multiple);
    }
    return TN_OK;
}

static int32_t check_targets(const struct place *at, const tn_variant *v)
{
    for (uint32_t i = 0; v->gpus && v->gpus[i].vendor != 0; i++) {
        if (i == MAX_LIST)
            return fail(at, TN_E_REFUSED, "gpus", "has no end within %d entries", MAX_LIST);
        if (v->gpus[i].mode < TN_GPU_SAME_MAJOR || v->gpus[i].mode > TN_GPU_PTX)
            return fail(at, TN_E_ABI, "gpus", "entry %" PRIu32 " has unknown mode %" PRIu32, i,
                        v->gpus[i].mode);
    }
    return TN_OK;
}

static int32_t check_variant_texts(const struct place *at, const tn_variant *v)
{
    int32_t rc = check_text(at, "name", v->name);

    if (rc == TN_OK)
        rc = check_text(at, "op", v->op);
    if (rc == TN_OK && v->equals && v->equals[0] == '\0')
        rc = fail(at, TN_E_REFUSED, "equals", "is empty; NULL means that the op is not fused");
    if (rc == TN_OK && v->equals && strnlen(v->equals, 4096) == 4096)
        rc = fail(at, TN_E_REFUSED, "equals", "has more than 4095 characters");
    if (rc == TN_OK && v->pack_layout)
        rc = check_text(at, "pack_layout", v->pack_layout);
    if (rc == TN_OK && v->kv_layout)
        rc = check_text(at, "kv_layout", v->kv_layout);
    return rc;
}

static int32_t check_variant(const struct place *at, const tn_variant *v)
{
    uint32_t flags = TN_VARIANT_GRAPH_SAFE | TN_VARIANT_DETERMINISTIC | TN_VARIANT_BATCH_INVARIANT |
                     TN_VARIANT_PACK_ON_DEVICE | TN_VARIANT_FALLBACK | TN_VARIANT_PARTS |
                     TN_VARIANT_WIDE_ROWS | TN_VARIANT_EARLY | TN_VARIANT_FEEDS;
    int32_t rc = check_header(at, &v->h, sizeof *v);

    if (rc == TN_OK)
        rc = check_variant_texts(at, v);
    if (rc == TN_OK)
        rc = check_mask(at, "flags", v->flags, flags);
    if (rc == TN_OK)
        rc = check_mask(at, "act_dtypes", v->act_dtypes, DTYPES);
    if (rc == TN_OK)
        rc = check_mask(at, "weight_dtypes", v->weight_dtypes, DTYPES);
    if (rc == TN_OK)
        rc = check_mask(at, "kv_dtypes", v->kv_dtypes, DTYPES);
    if (rc == TN_OK && v->reserved0 != 0)
        rc = fail(at, TN_E_ABI, "reserved0", "is not zero");
    if (rc == TN_OK && v->state_bytes > LIMIT_KERNEL_STATE)
        rc = fail(at, TN_E_REFUSED, "state_bytes",
                  "is %" PRIu64 "; at most %" PRIu64 " are possible", v->state_bytes,
                  LIMIT_KERNEL_STATE);
    if (rc == TN_OK && !v->kv_layout != !v->kv_dtypes)
        rc = fail(at, TN_E_REFUSED, v->kv_layout ? "kv_dtypes" : "kv_layout",
                  "is not set, but its counterpart is: a variant that touches the cache has both");
    if (rc == TN_OK)
        rc = check_ranges(at, v);
    if (rc == TN_OK)
        rc = check_targets(at, v);
    if (rc != TN_OK)
        return rc;
    NEED(at, v, cost_ns);
    NEED(at, v, launch);
    if (v->pack_layout) {
        NEED(at, v, pack_size);
        NEED(at, v, pack);
    }
    return TN_OK;
}

static int32_t check_variants(struct place *at, const tn_kernel_set *s)
{
    at->list = "variants";
    for (uint32_t i = 0; i < s->n_variants; i++) {
        int32_t rc;
        at->index = i;
        if (!s->variants[i])
            return fail(at, TN_E_REFUSED, "*", "is NULL");
        rc = check_variant(at, s->variants[i]);
        if (rc != TN_OK)
            return rc;
        for (uint32_t j = 0; j < i; j++)
            if (strcmp(s->variants[i]->name, s->variants[j]->name) == 0)
                return fail(at, TN_E_REFUSED, "name", "is \"%s\", like that of variant %" PRIu32,
                            s->variants[i]->name, j);
    }
    at->list = "kv_layouts";
    for (uint32_t i = 0; i < s->n_kv_layouts; i++) {
        const tn_kv_layout *l = s->kv_layouts[i];
        int32_t rc;
        at->index = i;
        if (!l)
            return fail(at, TN_E_REFUSED, "*", "is NULL");
        rc = check_header(at, &l->h, sizeof *l);
        if (rc == TN_OK)
            rc = check_text(at, "name", l->name);
        if (rc != TN_OK)
            return rc;
        NEED(at, l, block_bytes);
    }
    return TN_OK;
}

static int32_t check_kernels(struct place *at, const tn_kernel_set *s)
{
    int32_t rc = check_text(at, "device", s->device);

    if (rc != TN_OK)
        return rc;
    if (s->n_variants == 0 || s->n_variants > LIMIT_VARIANTS)
        return fail(at, TN_E_REFUSED, "n_variants", "is %" PRIu32 "; 1 to %d are possible",
                    s->n_variants, LIMIT_VARIANTS);
    if (s->n_kv_layouts > MAX_LIST)
        return fail(at, TN_E_REFUSED, "n_kv_layouts", "is %" PRIu32 ", more than %d",
                    s->n_kv_layouts, MAX_LIST);
    NEED(at, s, variants);
    if (s->n_kv_layouts > 0)
        NEED(at, s, kv_layouts);
    if (s->attach && !s->detach)
        return fail(at, TN_E_REFUSED, "detach", "is NULL, but attach is not");
    return check_variants(at, s);
}

/* -- The descriptor ------------------------------------------------------------------------------------ */

/* Kinds of interface: id, bit of the note, least size of the vtable. */
static const struct iface_kind {
    const char *id;
    uint32_t kind;
    uint64_t size;
} iface_kinds[] = {
    {TN_IFACE_MODEL, TN_KIND_MODEL, sizeof(tn_model_arch)},
    {TN_IFACE_QUANT, TN_KIND_QUANT, sizeof(tn_quant_scheme)},
    {TN_IFACE_FORMAT, TN_KIND_QUANT, sizeof(tn_quant_format)},
    {TN_IFACE_COMM, TN_KIND_COMM, sizeof(tn_comm_backend)},
    {TN_IFACE_DEVICE, TN_KIND_DEVICE, sizeof(tn_device_api)},
    {TN_IFACE_KERNELS, TN_KIND_KERNELS, sizeof(tn_kernel_set)},
};

static int32_t check_vtable(struct place *at, uint32_t kind, const void *vtbl)
{
    if (strcmp(at->iface, TN_IFACE_FORMAT) == 0)
        return check_format(at, vtbl);
    switch (kind) {
    case TN_KIND_MODEL: return check_model(at, vtbl);
    case TN_KIND_QUANT: return check_quant(at, vtbl);
    case TN_KIND_COMM: return check_comm(at, vtbl);
    case TN_KIND_DEVICE: return check_device(at, vtbl);
    default: return check_kernels(at, vtbl);
    }
}

const tn_iface *check_iface(const tn_plugin *p, uint32_t index)
{
    /* The writer's size is the stride: a later minor may have longer elements. */
    return (const tn_iface *)(const void *)((const unsigned char *)p->ifaces +
                                            (size_t)index * p->ifaces->h.size);
}

static int32_t check_one_iface(const tn_plugin *p, uint32_t index, uint32_t *kinds, tn_err *err)
{
    struct place at = {"plugin", "ifaces", index, err};
    const tn_iface *f = check_iface(p, index);
    int32_t rc = check_header(&at, &f->h, sizeof *f);

    if (rc == TN_OK && f->h.size != p->ifaces->h.size)
        rc = fail(&at, TN_E_ABI, "h.size", "differs from that of the first entry");
    if (rc == TN_OK)
        rc = check_text(&at, "id", f->id);
    if (rc != TN_OK)
        return rc;
    NEED(&at, f, vtbl);
    for (size_t i = 0; i < sizeof iface_kinds / sizeof *iface_kinds; i++) {
        const struct iface_kind *k = &iface_kinds[i];
        struct place inner = {k->id, NULL, 0, err};
        if (strcmp(k->id, f->id) != 0)
            continue;
        *kinds |= k->kind;
        rc = check_header(&inner, f->vtbl, k->size);
        return rc == TN_OK ? check_vtable(&inner, k->kind, f->vtbl) : rc;
    }
    return TN_OK; /* an interface that this host does not know is none of its business */
}

static int32_t check_same(const struct place *at, const char *field, const char *has,
                          const char *note)
{
    if (has && strcmp(has, note) == 0)
        return TN_OK;
    return fail(at, TN_E_REFUSED, field, "is \"%.60s\", but the note says \"%s\"",
                has ? has : "NULL", note);
}

int32_t check_plugin(const tn_plugin *p, const tn_note *note, tn_err *err)
{
    struct place at = {"plugin", NULL, 0, err};
    uint32_t kinds = 0;
    int32_t rc = check_header(&at, &p->h, sizeof *p);

    if (rc == TN_OK)
        rc = check_same(&at, "name", p->name, note->name);
    if (rc == TN_OK)
        rc = check_same(&at, "vendor", p->vendor, note->vendor);
    if (rc == TN_OK)
        rc = check_same(&at, "version", p->version, note->version);
    if (rc == TN_OK && p->reserved0 != 0)
        rc = fail(&at, TN_E_ABI, "reserved0", "is not zero");
    if (rc == TN_OK && (p->n_ifaces == 0 || p->n_ifaces > MAX_IFACES))
        rc = fail(&at, TN_E_REFUSED, "n_ifaces", "is %" PRIu32 "; 1 to %d are possible",
                  p->n_ifaces, MAX_IFACES);
    if (rc != TN_OK)
        return rc;
    NEED(&at, p, ifaces);
    if (p->init)
        NEED(&at, p, fini);
    for (uint32_t i = 0; rc == TN_OK && i < p->n_ifaces; i++)
        rc = check_one_iface(p, i, &kinds, err);
    if (rc == TN_OK && kinds != note->kinds)
        rc = fail(&at, TN_E_REFUSED, "ifaces",
                  "offer kinds %#" PRIx32 ", but the note says %#" PRIx32, kinds, note->kinds);
    return rc;
}
