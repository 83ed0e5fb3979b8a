/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/plan_text.h"

#include <inttypes.h>

static void print_ids(const uint32_t *ids, uint32_t n, struct strbuf *out)
{
    for (uint32_t i = 0; i < n; i++)
        strbuf_printf(out, "%sv%" PRIu32, i ? ", " : "", ids[i]);
}

static void print_attr(const tn_attr *a, struct strbuf *out)
{
    strbuf_printf(out, ", %s%s=", a->name, a->flags & TN_ATTR_SHARDED ? "*" : "");
    switch (a->kind) {
    case TN_ATTR_I64: strbuf_printf(out, "%" PRId64, a->i); break;
    case TN_ATTR_F64: strbuf_printf(out, "%g", a->f); break;
    default: strbuf_puts_escaped(out, a->s); break;
    }
}

static void print_op(const struct plan *p, const struct plan_op *op, struct strbuf *out)
{
    const struct plan_value *v = &p->values[op->out[0]];

    strbuf_puts(out, "  ");
    print_ids(op->out, op->n_out, out);
    strbuf_printf(out, " = %s(", op->name);
    print_ids(op->in, op->n_in, out);
    for (uint32_t i = 0; i < op->n_weights; i++) {
        strbuf_puts(out, i || op->n_in ? ", " : "");
        strbuf_puts_escaped(out, p->weights[op->weights[i]].name);
    }
    for (uint32_t i = 0; i < op->n_attrs; i++)
        print_attr(&op->attrs[i], out);
    strbuf_puts(out, ")");
    if (v->kind != TN_VALUE_KV)
        strbuf_printf(out, "  # %s[%s, %" PRIu64 "]", tn_dtype_name(v->dtype),
                      v->kind == TN_VALUE_LOGITS ? "L" : "T", v->width);
    strbuf_putc(out, '\n');
}

void plan_print(const struct plan *p, struct strbuf *out)
{
    int32_t layer = -1;

    for (size_t i = 0; i < p->n_hyper; i++)
        if (p->hyper[i].kind == TN_ATTR_I64)
            strbuf_printf(out, "# %s %" PRId64 "\n", p->hyper[i].name, p->hyper[i].i);
    for (size_t i = 0; i < p->n_ops; i++) {
        if (p->ops[i].layer != layer) {
            layer = p->ops[i].layer;
            if (layer >= 0)
                strbuf_printf(out, "layer %" PRId32 "\n", layer);
            else
                strbuf_puts(out, "after the layers\n");
        }
        print_op(p, &p->ops[i], out);
    }
}
