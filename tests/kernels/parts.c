/* SPDX-License-Identifier: Apache-2.0 */
/* Variants that add up over ranks (TN_VARIANT_PARTS), on parts as a comm plugin would show them. One thread. */
#include <math.h>

#include "cases.h"

static bool is(const char *a, const char *b)
{
    return strcmp(a, b) == 0;
}

/* The variant of the same set and machine that does a basic op. */
static const tn_variant *basic_of(const struct subject *s, const char *op)
{
    const tn_kernel_set *set = s->plug->set;

    for (uint32_t i = 0; i < set->n_variants; i++)
        if (is(set->variants[i]->op, op) && set->variants[i]->cpu[0] == s->v->cpu[0])
            return set->variants[i];
    ck_abort_msg("%s: the set has no %s", s->v->name, op);
    return NULL;
}

static void put(void *data, uint32_t dtype, uint64_t i, float x)
{
    if (dtype == TN_DT_F32)
        ((float *)data)[i] = x;
    else
        ((uint16_t *)data)[i] = dtype == TN_DT_F16 ? tn_f32_to_f16(x) : tn_f32_to_bf16(x);
}

/* What ranks show of a sum: all of it each, or each its rows of what is added up, and nothing of use elsewhere. Returns the
 * sum as all_reduce makes it. */
static void *make_parts(struct kit *k, const tn_value *v, const tn_batch *b, uint32_t n, bool added,
                        struct env *e)
{
    uint64_t count = value_rows(v, b) * v->width;
    uint64_t each = (value_rows(v, b) + n - 1) / n * v->width;
    unsigned char *sum = kit_alloc(k, value_bytes(v, b));

    for (uint32_t r = 0; r < n; r++) {
        env_fill(k, e, v, b, 3.0f, 0);
        e->part[r] = e->data[v->id];
    }
    for (uint64_t i = 0; i < count; i++) {
        float x = 0.0f;
        for (uint32_t r = 0; r < n; r++)
            x = r ? x + value_at(v, e->part[r], i) : value_at(v, e->part[r], i);
        put(sum, v->dtype, i, x);
        for (uint32_t r = 0; r < n && added; r++)
            put((void *)(uintptr_t)e->part[r], v->dtype, i,
                i / each == r ? value_at(v, sum, i) : NAN);
    }
    e->n_parts = n;
    e->each = added ? each : 0;
    return sum;
}

/* Not a bit may differ from the sum and then the set's own ops one by one: some ranks of a run do it so, others do not. */
static void parts_case(const struct subject *s, struct shape x, uint32_t rows, uint32_t n,
                       bool added)
{
    uint32_t seq_rows[] = {rows, 1}, context[] = {rows + 40, 7};
    struct env got = {.kv = NULL}, want = got;
    struct kit k;

    kit_init(&k, rows + x.in_width[0] + n);
    x.act = s->act;
    tn_batch *b = kit_batch(&k, 2, seq_rows, context, 16, 60, true);
    tn_op *op = compose(&k, s->v, &x);
    (*s->ran)++;
    if (test_turn()) {
        want.data[op->members[0]->out[0]->id] = make_parts(&k, op->in[0], b, n, added, &got);
        env_fill(&k, &got, op->in[0], b, 3.0f, 0); /* the variant reads parts only */
        env_fill(&k, &got, op->in[1], b, 3.0f, 0);
        want.data[op->in[1]->id] = got.data[op->in[1]->id];
        for (uint32_t i = 1; i < op->n_members; i++)
            run_variant(&k, s->plug, basic_of(s, op->members[i]->name), op->members[i], b, &want);
        run_variant(&k, s->plug, s->v, op, b, &got);
        for (uint32_t i = 0; i < op->n_out; i++)
            for (uint64_t r = 0; r < value_rows(op->out[i], b); r++)
                expect(
                    same_row(op->out[i], got.data[op->out[i]->id], r, want.data[op->out[i]->id], r),
                    "%s: row %llu of output %u, of %u parts%s, has other bits", s->v->name,
                    (unsigned long long)r, i, n, added ? " added up" : "");
    }
    kit_free(&k);
}

void parts_cases(const struct subject *s)
{
    static const uint64_t widths[] = {64, 352, 511, 5, 2048};
    static const uint32_t ranks[] = {1, 2, 3, 8, 9};
    static const uint32_t vectors[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16};

    for (uint32_t i = 0; i < 5; i++)
        for (uint32_t n = 0; n < 5; n++) {
            struct shape x = {.in_width = {widths[i], widths[i]}, .vector = vectors[i % 3]};
            x.bias = i % 2 == 0;
            x.offset = i == 2 ? 1.0 : 0.0;
            parts_case(s, x, 1 + 9 * i, ranks[n], false);
            parts_case(s, x, 1 + 9 * i, ranks[n], true);
        }
}
