/* SPDX-License-Identifier: Apache-2.0 */
/* Cases of whole decoder layers: few rows, groups of heads, contexts that cross pages, and prompts of a few tokens. One
 * thread. */
#include "cases.h"

struct model {
    uint64_t hidden, ffn;
    uint32_t heads, kv_heads, dim;
};

/* How far outputs of about 3 may be from the reference, which rounds some fifteen times on the way. Rows that both round to
 * e4m3 may fall a step apart, 6 %, in single elements; caches of 8 bits likewise. */
static double tolerance(const struct subject *s, uint32_t matrix, uint32_t cache)
{
    bool coarse = matrix == TN_DT_F8E4M3 || matrix == TN_DT_I8 || tn_dtype_bits(cache) == 8;

    return coarse ? 1e-1 : s->act == TN_DT_BF16 ? 6e-2 : s->act == TN_DT_F16 ? 1e-2 : 1e-4;
}

static struct shape shape_of(const struct subject *s, const struct model *m, uint32_t matrix)
{
    uint64_t kv = (uint64_t)m->kv_heads * m->dim;

    return (struct shape){
        .in_width = {m->hidden},
        .linear_width = {(uint64_t)m->heads * m->dim, kv, kv, m->hidden, m->ffn, m->ffn, m->hidden},
        .act = s->act,
        .matrix = matrix,
        .heads = m->heads,
        .kv_heads = m->kv_heads,
        .head_dim = m->dim,
        .quant_group = 64};
}

static void layer_case(const struct subject *s, const struct model *m, uint32_t matrix,
                       uint32_t cache, uint32_t n_seqs, const uint32_t *rows,
                       const uint32_t *contexts, uint32_t block_tokens)
{
    struct shape x = shape_of(s, m, matrix);
    double far = tolerance(s, matrix, cache);
    struct kit k;

    if (!(s->v->kv_dtypes & TN_DT_BIT(cache)))
        return;
    kit_init(&k, m->hidden + 7 * contexts[0] + n_seqs);
    x.pairs = contexts[0] % 5 == 0;
    x.vector = rows[0] % 2 ? TN_DT_F32 : TN_DT_BF16;
    tn_batch *b = kit_batch(&k, n_seqs, rows, contexts, block_tokens, 50, false);
    case_compare(&k, s, compose(&k, s->v, &x), b, kit_kv(&k, b, m->kv_heads, m->dim, cache), 0, far,
                 far);
    kit_free(&k);
}

static void model_cases(const struct subject *s, const struct model *m, uint32_t matrix,
                        uint32_t cache)
{
    static const uint32_t single[] = {1, 1, 1, 1}, contexts[] = {300, 17, 64, 213};
    static const uint32_t fresh[] = {1, 3}, four[] = {4}, two[] = {2, 1}, later[] = {35, 8};

    layer_case(s, m, matrix, cache, 1, single, fresh, 16); /* the first token of all */
    for (uint32_t n = 1; n <= 4; n++)
        layer_case(s, m, matrix, cache, n, single, contexts + 4 - n, n % 2 ? 16 : 64);
    layer_case(s, m, matrix, cache, 4, single, contexts, 8);
    layer_case(s, m, matrix, cache, 1, four, four, 16); /* a prompt */
    layer_case(s, m, matrix, cache, 2, two, later, 16); /* the end of one, and another sequence */
}

void layer_cases(const struct subject *s)
{
    static const struct model models[] = {{256, 704, 4, 1, 64},
                                          {512, 1408, 4, 2, 128},
                                          {768, 2048, 12, 4, 64},
                                          {1024, 2816, 8, 8, 128}};
    static const struct model large = {4096, 11008, 32, 32, 128};
    static const uint32_t one[] = {1}, context[] = {1050};
    const uint32_t caches[] = {s->act, TN_DT_I8, TN_DT_F8E4M3};
    const uint32_t n = !s->v->gpus ? 1 : HARNESS_SLOW ? 2 : 4;

    for (uint32_t matrix = 0; matrix < TN_DT_COUNT; matrix++) {
        if (!(s->v->weight_dtypes & TN_DT_BIT(matrix)))
            continue;
        for (uint32_t c = 0; c < 3; c++)
            for (uint32_t i = 0; i < n; i++)
                model_cases(s, &models[i], matrix, caches[c]);
        if (s->v->gpus && !HARNESS_SLOW)
            layer_case(s, &large, matrix, s->act, 1, one, context, 16);
    }
}
