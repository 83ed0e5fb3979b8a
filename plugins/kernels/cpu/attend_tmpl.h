/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention to one chunk (attend.h). Included once by isa_avx2.c and isa_avx512.c, after simd_*.h,
 * simd_math.h and simd_tail.h.
 *
 * Both products go through one small matrix product, `micro`, which keeps up to MICRO_ROWS queries by
 * MICRO_VECS vectors in registers. For scores a lane is a key: keys are unpacked to float32 and transposed, 64 at
 * a time, so that a score is one chain of multiply-adds along the head. For means a lane is an element of the
 * value: a chain along the keys. Grouped heads are just more queries, and share the unpacking.
 */

/* c[rows][vecs * LANES] = (or +=, if `add`) a[rows][k] * b[k][vecs * LANES]; rows and vecs are constants. */
static CPU_INLINE void micro(const int rows, const int vecs, const float *a, uint64_t lda,
                             const float *b, uint64_t ldb, uint64_t k, float *c, uint64_t ldc,
                             int add)
{
    vf acc[MICRO_ROWS][MICRO_VECS];

    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        CPU_UNROLL
        for (int v = 0; v < vecs; v++)
            acc[r][v] = add ? v_load(c + r * ldc + v * LANES) : v_zero();
    }
    for (uint64_t i = 0; i < k; i++, b += ldb) {
        vf row[MICRO_VECS];
        CPU_UNROLL
        for (int v = 0; v < vecs; v++)
            row[v] = v_load(b + v * LANES);
        CPU_UNROLL
        for (int r = 0; r < rows; r++) {
            vf x = v_set1(a[r * lda + i]);
            CPU_UNROLL
            for (int v = 0; v < vecs; v++)
                acc[r][v] = v_fma(x, row[v], acc[r][v]);
        }
    }
    CPU_UNROLL
    for (int r = 0; r < rows; r++) {
        CPU_UNROLL
        for (int v = 0; v < vecs; v++)
            v_store(c + r * ldc + v * LANES, acc[r][v]);
    }
}

/* The same for `vecs` of any number, and rows up to MICRO_ROWS. */
static void multiply(uint32_t rows, uint64_t vecs, const float *a, uint64_t lda, const float *b,
                     uint64_t ldb, uint64_t k, float *c, uint64_t ldc, int add)
{
    while (vecs) {
        uint64_t n = vecs >= MICRO_VECS ? MICRO_VECS : vecs >= 2 ? 2 : 1;
        switch (rows * 8 + n) {
#define MICRO(rows, vecs)                                                                          \
    case (rows)*8 + (vecs):                                                                        \
        micro(rows, vecs, a, lda, b, ldb, k, c, ldc, add);                                         \
        break;
#define MICRO_ROWS_OF(vecs)                                                                        \
    MICRO(1, vecs) MICRO(2, vecs) MICRO(3, vecs) MICRO(4, vecs) MICRO(5, vecs) MICRO(6, vecs)
            MICRO_ROWS_OF(1)
            MICRO_ROWS_OF(2)
#if MICRO_VECS == 4
            MICRO_ROWS_OF(4)
#endif
#undef MICRO_ROWS_OF
#undef MICRO
        default: break;
        }
        b += n * LANES;
        c += n * LANES;
        vecs -= n;
    }
}

/* -- Unpacking the cache ----------------------------------------------------------------------------- */

/* LANES elements from `at` on. */
static CPU_INLINE vf cache_vector(const unsigned char *p, uint32_t dtype, uint64_t at)
{
    switch (dtype) {
    case TN_DT_F32: return v_load((const float *)p + at);
    case TN_DT_BF16: return v_load_bf16((const uint16_t *)p + at);
    case TN_DT_F8E4M3: return v_load_f8_nan(p + at); /* 1/256 of it; the scales know */
    case TN_DT_I8: return v_load_i8((const int8_t *)p + at);
    default: return v_load_f16((const uint16_t *)p + at);
    }
}

/* Bytes of one element of the cache. */
static CPU_INLINE uint64_t cache_size(const uint32_t dtype)
{
    return dtype == TN_DT_F32 ? 4u : dtype == TN_DT_F16 || dtype == TN_DT_BF16 ? 2u : 1u;
}

/* Bytes of one key, and of one value. */
static CPU_INLINE uint64_t key_bytes(const struct attend *t, const uint32_t dtype)
{
    return t->stored * cache_size(dtype);
}

/* The vector at `at` of a key or value of `stored` elements; zeros behind them. */
static CPU_INLINE vf cache_vector_some(const unsigned char *p, const uint32_t dtype, uint64_t at,
                                       uint64_t stored)
{
    unsigned char last[LANES * 4] = {0};

    if (at + LANES <= stored)
        return cache_vector(p, dtype, at);
    if (at < stored)
        memcpy(last, p + at * cache_size(dtype), (stored - at) * cache_size(dtype));
    return cache_vector(last, dtype, 0);
}

/* Asks for keys (or, at an offset, values) [begin, begin + n), as far as there are, `bytes` each. */
static CPU_INLINE void cache_prefetch(const struct attend *t, uint64_t begin, uint64_t n,
                                      uint64_t offset, uint64_t bytes)
{
    const unsigned char *const *keys = t->keys;
    uint64_t end = begin + n < t->end ? begin + n : t->end;

    for (uint64_t j = begin; j < end; j++)
        for (const unsigned char *p = keys[j] + offset, *last = p + bytes; p < last; p += 64)
            CPU_PREFETCH(p);
}

/* LANES keys, transposed, to columns of t->block = [dim][ATTEND_BLOCK]. Meanwhile keys from `next` on are asked for, some at a time:
 * more than can be on their way at once would make everything wait. */
static CPU_INLINE void transpose_keys(const struct attend *t, const unsigned char *const *key,
                                      float *to, uint64_t next, const uint32_t dtype)
{
    const uint64_t bytes = key_bytes(t, dtype);
    const uint64_t some = (LANES * LANES + t->stored - 1) / t->stored;

    for (uint64_t at = 0; at < t->stored; at += LANES, next += some) {
        vf r[LANES];
        cache_prefetch(t, next, some, 0, bytes);
        CPU_UNROLL
        for (uint64_t i = 0; i < LANES; i++)
            r[i] = cache_vector_some(key[i], dtype, at, t->stored);
        v_transpose(r);
        CPU_UNROLL
        for (uint64_t i = 0; i < LANES; i++)
            v_store(to + (at + i) * ATTEND_BLOCK, r[i]);
    }
}

/* t->block = [dim][ATTEND_BLOCK]: keys [begin, begin + ATTEND_BLOCK), and some copies of the last one where
 * there is none: what they score is not looked at. Asks for the next block. */
static CPU_INLINE void load_keys(const struct attend *t, uint64_t begin, const uint32_t dtype)
{
    for (uint64_t j = 0; j < ATTEND_BLOCK && begin + j < t->end; j += LANES) {
        const unsigned char *const *key = t->keys + begin + j, *last[LANES];
        if (begin + j + LANES > t->end) {
            for (uint64_t i = 0; i < LANES; i++)
                last[i] = begin + j + i < t->end ? key[i] : key[0];
            key = last;
        }
        transpose_keys(t, key, t->block + j, begin + j + ATTEND_BLOCK, dtype);
    }
}

/* t->block = [ATTEND_BLOCK][dim]: values [begin, begin + ATTEND_BLOCK), as far as there are. Asks for those
 * half a block ahead. */
static CPU_INLINE void load_values(const struct attend *t, uint64_t begin, const uint32_t dtype)
{
    const unsigned char *const *keys = t->keys;
    uint64_t offset = t->value_offset, dim = t->dim, bytes = key_bytes(t, dtype);
    uint64_t end = begin + ATTEND_BLOCK < t->end ? begin + ATTEND_BLOCK : t->end;
    float *to = t->block;

    for (uint64_t j = begin; j < end; j++) {
        cache_prefetch(t, j + ATTEND_BLOCK / 2, 1, offset, bytes);
        for (uint64_t at = 0; at < dim; at += LANES, to += LANES)
            v_store(to, cache_vector_some(keys[j] + offset, dtype, at, t->stored));
    }
}

static void load_block(const struct attend *t, uint64_t begin, int values)
{
    switch (t->dtype * 2 + (uint32_t)values) {
    case TN_DT_F32 * 2: load_keys(t, begin, TN_DT_F32); break;
    case TN_DT_F16 * 2: load_keys(t, begin, TN_DT_F16); break;
    case TN_DT_BF16 * 2: load_keys(t, begin, TN_DT_BF16); break;
    case TN_DT_F32 * 2 + 1: load_values(t, begin, TN_DT_F32); break;
    case TN_DT_F16 * 2 + 1: load_values(t, begin, TN_DT_F16); break;
    case TN_DT_F8E4M3 * 2: load_keys(t, begin, TN_DT_F8E4M3); break;
    case TN_DT_F8E4M3 * 2 + 1: load_values(t, begin, TN_DT_F8E4M3); break;
    case TN_DT_I8 * 2: load_keys(t, begin, TN_DT_I8); break;
    case TN_DT_I8 * 2 + 1: load_values(t, begin, TN_DT_I8); break;
    default: load_values(t, begin, TN_DT_BF16); break;
    }
}

/* -- The two products and the softmax between them ----------------------------------------------------- */

/* Queries are spread evenly over tiles of at most MICRO_ROWS; the first query of tile `tile`. */
static uint32_t tile_query(const struct attend *t, uint32_t tile)
{
    uint32_t tiles = (t->count + MICRO_ROWS - 1) / MICRO_ROWS;

    return (uint32_t)((uint64_t)t->count * tile / tiles);
}

/* t->score = q * keys^T for all keys of [begin, end). */
static void score_keys(const struct attend *t)
{
    cache_prefetch(t, t->begin, ATTEND_BLOCK, 0, key_bytes(t, t->dtype));
    for (uint64_t begin = t->begin; begin < t->end; begin += ATTEND_BLOCK) {
        load_block(t, begin, 0);
        for (uint32_t tile = 0; tile_query(t, tile) < t->count; tile++) {
            uint32_t i = tile_query(t, tile);
            multiply(tile_query(t, tile + 1) - i, ATTEND_BLOCK / LANES, t->q + i * t->dim, t->dim,
                     t->block, ATTEND_BLOCK, t->stored, t->score + i * ATTEND_CHUNK + begin,
                     ATTEND_CHUNK, 0);
        }
    }
}

/* The lanes of keys [j, j + LANES) that a query with range [first, last) sees. */
static inline vm seen(uint64_t j, uint32_t first, uint32_t last)
{
    uint32_t from = first <= j ? 0 : first - j < LANES ? (uint32_t)(first - j) : LANES;
    uint32_t to = last <= j ? 0 : last - j < LANES ? (uint32_t)(last - j) : LANES;

    return v_range(from, to > from ? to : from);
}

/* Turns the scores of query i into p_j = exp(score_j - largest), 0 outside its range. */
static void weigh_keys(const struct attend *t, uint32_t i)
{
    float *score = t->score + i * ATTEND_CHUNK;
    uint32_t first = t->first[i], last = t->last[i];
    vf most = v_set1(-INFINITY), none = most, sum = v_zero();

    for (uint64_t j = t->begin; j < t->end; j += LANES) {
        vf s = v_mul(v_load(score + j), v_set1(t->scale));
        if (t->softcap > 0.0f)
            s = v_softcap(s, t->softcap);
        s = v_select(seen(j, first, last), s, none);
        v_store(score + j, s);
        most = v_max(most, s); /* NaN does not stay here, but in the sum below */
    }
    t->largest[i] = v_largest(most);
    t->sum[i] = 0.0f;
    if (first >= last)
        return;
    most = v_set1(t->largest[i]);
    for (uint64_t j = t->begin; j < t->end; j += LANES) {
        vf p = v_exp(v_sub(v_load(score + j), most));
        p = v_select(seen(j, first, last), p, v_zero());
        v_store(score + j, p);
        sum = v_add(sum, p);
    }
    t->sum[i] = v_sum(sum);
}

static uint32_t clamp(uint32_t x, uint32_t low, uint32_t high)
{
    return x < low ? low : x > high ? high : x;
}

/* t->mean of queries [i, i + n) += p_j * v_j for keys [from, to), which lie in the block at `begin`. */
static void mean_of(const struct attend *t, uint32_t i, uint32_t n, uint32_t from, uint32_t to,
                    uint32_t begin)
{
    if (from < to)
        multiply(n, t->dim / LANES, t->score + i * ATTEND_CHUNK + from, ATTEND_CHUNK,
                 t->block + (from - begin) * t->dim, t->dim, to - from, t->mean + i * t->dim,
                 t->dim, 1);
}

/*
 * Adds one block of values to the means of queries [i, i + n). Keys that all of them see are taken together;
 * those before and after, query by query: a key that a query does not see has p = 0, but its value may be
 * infinite, and 0 * inf would be NaN. Each query still meets its keys in ascending order.
 */
static void mean_tile(const struct attend *t, uint32_t i, uint32_t n, uint32_t begin)
{
    uint32_t end = begin + ATTEND_BLOCK, low = 0, high = UINT32_MAX;

    for (uint32_t q = i; q < i + n; q++) {
        low = t->first[q] > low ? t->first[q] : low;
        high = t->last[q] < high ? t->last[q] : high;
    }
    low = clamp(low, begin, end);
    high = clamp(high, low, end);
    for (uint32_t q = i; q < i + n; q++)
        mean_of(t, q, 1, clamp(t->first[q], begin, end), clamp(t->last[q], begin, low), begin);
    mean_of(t, i, n, low, high, begin);
    for (uint32_t q = i; q < i + n; q++)
        mean_of(t, q, 1, clamp(t->first[q], high, end), clamp(t->last[q], begin, end), begin);
}

static void attend(const struct attend *t)
{
    score_keys(t);
    for (uint32_t i = 0; i < t->count; i++)
        weigh_keys(t, i);
    cache_prefetch(t, t->begin, ATTEND_BLOCK / 2, t->value_offset, key_bytes(t, t->dtype));
    memset(t->mean, 0, (uint64_t)t->count * t->dim * sizeof *t->mean);
    for (uint32_t begin = t->begin; begin < t->end; begin += ATTEND_BLOCK) {
        load_block(t, begin, 1);
        for (uint32_t tile = 0; tile_query(t, tile) < t->count; tile++) {
            uint32_t i = tile_query(t, tile);
            mean_tile(t, i, tile_query(t, tile + 1) - i, begin);
        }
    }
}
