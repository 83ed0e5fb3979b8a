/* SPDX-License-Identifier: Apache-2.0 */
/* Nothing is kept between calls; any thread. */
#include "members.h"

#include <stdlib.h>

#define MAX_VALUES (TN_OP_MAX_VALUES * (TN_OP_MAX_MEMBERS + 2))

/* Where values lie: inputs and outputs of the fused op, and what is made on the way. */
struct values {
    const tn_value *value[MAX_VALUES];
    void *data[MAX_VALUES];
    uint32_t n, n_given; /* the first n_given are the caller's */
};

static void give(struct values *v, const tn_value *value, const void *data)
{
    v->value[v->n] = value;
    v->data[v->n++] = (void *)(uintptr_t)data;
}

static void *find(const struct values *v, const tn_value *value)
{
    for (uint32_t i = 0; i < v->n; i++)
        if (v->value[i]->id == value->id)
            return v->data[i];
    return NULL;
}

/* The memory of an output of a member; NULL of the cache, or without memory. */
static void *make(struct values *v, const tn_value *value, const tn_batch *b)
{
    uint64_t rows = value->kind == TN_VALUE_LOGITS ? b->n_logits : b->n_rows;
    void *data = find(v, value);

    if (data || value->kind == TN_VALUE_KV)
        return data;
    data = malloc(rows * value->width * tn_dtype_bits(value->dtype) / 8);
    if (data)
        give(v, value, data);
    return data;
}

int32_t members_run(const tn_launch *l, member_fn run, void *arg, tn_err *err)
{
    struct values v = {.n = 0};
    int32_t rc = TN_OK;
    uint32_t weight = 0;

    for (uint32_t i = 0; i < l->op->n_in; i++)
        give(&v, l->op->in[i], l->in[i]);
    for (uint32_t i = 0; i < l->op->n_out; i++)
        give(&v, l->op->out[i], l->out[i]);
    v.n_given = v.n;
    for (uint32_t m = 0; m < l->op->n_members && rc == TN_OK; m++) {
        const tn_op *op = l->op->members[m];
        const void *in[TN_OP_MAX_VALUES] = {NULL};
        void *out[TN_OP_MAX_VALUES] = {NULL};
        tn_launch member = *l;
        for (uint32_t i = 0; i < op->n_in; i++)
            in[i] = find(&v, op->in[i]);
        for (uint32_t i = 0; i < op->n_out; i++)
            if (!(out[i] = make(&v, op->out[i], l->batch)) && op->out[i]->kind != TN_VALUE_KV)
                rc = tn_err_set(err, TN_E_NOMEM, "no memory between members");
        member.op = op;
        member.in = in;
        member.out = out;
        member.weights = l->weights + weight;
        weight += op->n_weights;
        if (rc == TN_OK)
            rc = run(arg, &member, err);
    }
    while (v.n > v.n_given)
        free(v.data[--v.n]);
    return rc;
}
