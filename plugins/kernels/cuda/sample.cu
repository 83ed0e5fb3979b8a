/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: one token per logits row by the procedure of tn_sample_row (tenon/batch.h), one block per row; the vocabulary
 * is never sorted.
 *
 * top_k and top_p both keep the tokens of highest rank until an amount is reached: k tokens, or top_p of the mass. A
 * token's rank is a 64-bit key, its value's bits above its id's complement, so the edge is the largest key such that the
 * amount of the keys from it on suffices. Mostly it lies among few: a histogram tells how far down the best
 * CANDIDATES reach, and only they are ordered, in shared memory. Where that is not far enough the edge is found three
 * bits at a time, with seven pivots per pass over the row (after the dual pivots of FlashInfer's sampling kernels).
 * All sums are in double and in an order that depends on the row only, so equal rows give equal tokens.
 */
#include "../common/cuda_reduce.cuh"
#include "args.h"
#include "tenon/batch.h"

#define THREADS 512
#define WARPS (THREADS / 32)
#define PIVOTS 7
#define BATCH_BITS 3
#define CANDIDATES 2048
#define BINS 1024    /* of the histogram, two per thread */
#define BIN_SCALE 32 /* bins per unit of the scaled logit, downwards from the largest */

struct shared_space {
    double sums[32];
    double amounts[PIVOTS][WARPS];
    unsigned long long keys[32];
    float maxima[32];
    int32_t chosen;
    uint32_t bins[BINS];
    unsigned long long candidates[CANDIDATES];
    uint32_t n_candidates;
    int32_t reach; /* bin, or index of a candidate */
};

/* What a row is drawn from: its logits after steps 1 to 3, and what steps 5 to 7 keep. */
struct draw_from {
    const float *x;
    uint64_t vocab;
    float max, temperature, least; /* least: weights below it are dropped */
    unsigned long long edge_k, edge_p;
};

/* Bits of `x` in an order that unsigned comparison follows; -0 ranks as 0. */
__device__ __forceinline__ uint32_t ordered(float x)
{
    uint32_t u = __float_as_uint(x + 0.0f);

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ unsigned long long rank_key(float value, uint64_t id)
{
    return (unsigned long long)ordered(value) << 32 | (0xffffffffu - (uint32_t)id);
}

/* f(id, x[id]) for all ids, in ascending order within a thread. */
template <typename F> __device__ __forceinline__ void each(const float *x, uint64_t n, F f)
{
    if (((uintptr_t)x & 15) == 0 && n % 4 == 0) {
#pragma unroll 2
        for (uint64_t i = threadIdx.x; i < n / 4; i += THREADS) {
            float4 v = ((const float4 *)x)[i];
            f(4 * i, v.x);
            f(4 * i + 1, v.y);
            f(4 * i + 2, v.z);
            f(4 * i + 3, v.w);
        }
        return;
    }
    for (uint64_t i = threadIdx.x; i < n; i += THREADS)
        f(i, x[i]);
}

/* -- Steps 1 to 3 ------------------------------------------------------------------------------------------ */

/* All biases of one id are added by the thread of the first, in their order. */
__device__ void add_biases(const sample_args &p, const tn_sample_row &r, float *x)
{
    const int32_t *ids = p.bias_ids + r.first_bias;

    for (uint32_t i = threadIdx.x; i < r.n_bias; i += THREADS) {
        bool first = (uint64_t)(int64_t)ids[i] < p.vocab;
        for (uint32_t j = 0; j < i && first; j++)
            first = ids[j] != ids[i];
        for (uint32_t j = i; j < r.n_bias && first; j++)
            if (ids[j] == ids[i])
                x[ids[i]] = __fadd_rn(x[ids[i]], p.bias_values[r.first_bias + j]);
    }
}

#define SEEN 0x80000000u

/* mark[id] counts the output's occurrences and tells that the id occurs; whoever takes it applies the penalties. */
__device__ void penalise(const sample_args &p, const tn_sample_row &r, float *x, uint32_t *mark)
{
    const int32_t *history = p.history + r.first_history;

    for (uint32_t i = threadIdx.x; i < r.history_len; i += THREADS)
        if ((uint64_t)(int64_t)history[i] < p.vocab)
            mark[history[i]] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r.history_len; i += THREADS)
        if ((uint64_t)(int64_t)history[i] < p.vocab) {
            atomicOr(&mark[history[i]], SEEN);
            if (i >= r.prompt_len)
                atomicAdd(&mark[history[i]], 1u);
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < r.history_len; i += THREADS) {
        uint32_t m = (uint64_t)(int64_t)history[i] < p.vocab ? atomicExch(&mark[history[i]], 0) : 0;
        if (m == 0)
            continue;
        float v = x[history[i]];
        if (r.repetition_penalty != 1.0f)
            v = v > 0.0f ? v / r.repetition_penalty : __fmul_rn(v, r.repetition_penalty);
        if (m & ~SEEN)
            v = __fsub_rn(v, __fadd_rn(__fmul_rn((float)(m & ~SEEN), r.frequency_penalty),
                                       r.presence_penalty));
        x[history[i]] = v;
    }
}

/* The row after biases and penalties: `row` itself if there are none. */
__device__ const float *adjust(const sample_args &p, const tn_sample_row &r, const float *row)
{
    float *x = (float *)p.scratch + blockIdx.x * 2 * p.vocab;

    if (r.n_bias == 0 && r.history_len == 0)
        return row;
    for (uint64_t i = threadIdx.x; i < p.vocab; i += THREADS)
        x[i] = row[i];
    __syncthreads();
    add_biases(p, r, x);
    __syncthreads();
    if (r.history_len)
        penalise(p, r, x, (uint32_t *)(x + p.vocab));
    __syncthreads();
    return x;
}

/* -- Steps 5 to 7 ------------------------------------------------------------------------------------------- */

__device__ __forceinline__ float scaled(const draw_from &d, float x)
{
    return (x - d.max) / d.temperature;
}

/* The weight of a token as far as it is decided; 0 if it is dropped. */
__device__ __forceinline__ float weight_of(const draw_from &d, uint64_t id, float x)
{
    float s = scaled(d, x), w;

    if (d.edge_k && rank_key(s, id) < d.edge_k)
        return 0.0f;
    w = expf(s);
    if (d.edge_p && rank_key(w, id) < d.edge_p)
        return 0.0f;
    return w < d.least ? 0.0f : w;
}

/* The sums over the block of PIVOTS numbers per thread; everyone gets them. */
__device__ void block_sums(double amount[PIVOTS], shared_space *s)
{
    for (int i = 0; i < PIVOTS; i++) {
        double a = warp_reduce(amount[i], plus_op());
        if ((threadIdx.x & 31) == 0)
            s->amounts[i][threadIdx.x / 32] = a;
    }
    __syncthreads();
    for (int i = 0; i < PIVOTS; i++) {
        amount[i] = 0.0;
        for (int w = 0; w < WARPS; w++)
            amount[i] += s->amounts[i][w];
    }
    __syncthreads();
}

/* The largest key such that the tokens of that key and above amount to `need`: by_mass: weights, else one each. 0, so that
 * all stay, if together they do not. */
__device__ unsigned long long find_edge(const draw_from &d, double need, bool by_mass,
                                        shared_space *s)
{
    unsigned long long edge = 0;

    int id_bits = 32 - __clz((int)d.vocab); /* the complement of an id has ones above them */

    for (int bit = 64; bit > 0;) {
        if (bit == 32) {
            bit = id_bits;
            edge += 0x100000000ull - (1ull << id_bits);
        }
        int left = bit > 32 ? bit - 32 : bit, bits = left < BATCH_BITS ? left : BATCH_BITS;
        int n = (1 << bits) - 1;
        double amount[PIVOTS] = {};
        bit -= bits;
        each(d.x, d.vocab, [&](uint64_t id, float x) {
            float w = by_mass ? weight_of(d, id, x) : 1.0f;
            unsigned long long key = rank_key(by_mass ? w : scaled(d, x), id);
#pragma unroll
            for (int i = 0; i < PIVOTS; i++)
                if (i < n && key >= edge + ((unsigned long long)(i + 1) << bit))
                    amount[i] += (double)w;
        });
        block_sums(amount, s);
        unsigned long long digit = 0;
        for (int i = 0; i < n; i++)
            digit += amount[i] >= need;
        edge += digit << bit;
    }
    return edge;
}

__device__ double total_weight(const draw_from &d, shared_space *s)
{
    double sum = 0.0;

    each(d.x, d.vocab, [&](uint64_t id, float x) { sum += (double)weight_of(d, id, x); });
    return block_reduce(sum, plus_op(), s->sums);
}

/* The sum of the threads' x up to and with this one's. */
template <typename T> __device__ __forceinline__ T block_scan(T x, T *scratch)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    T before = 0;

    for (int step = 1; step < 32; step *= 2) {
        T below = __shfl_up_sync(FULL_WARP, x, step);
        x += lane >= step ? below : 0;
    }
    if (lane == 31)
        scratch[warp] = x;
    __syncthreads();
    for (int i = 0; i < warp; i++)
        before += scratch[i];
    __syncthreads();
    return before + x;
}

__device__ __forceinline__ int bin_of(float scaled)
{
    return min(BINS - 1, (int)(-scaled * BIN_SCALE));
}

/* The lowest bin that leaves no more than CANDIDATES tokens in it and above, but not lower than `need` tokens ask for;
 * -1: not even the first. */
__device__ int find_reach(const draw_from &d, uint32_t need, shared_space *s)
{
    for (int i = threadIdx.x; i < BINS; i += THREADS)
        s->bins[i] = 0;
    if (threadIdx.x == 0)
        s->reach = -1;
    __syncthreads();
    each(d.x, d.vocab, [&](uint64_t, float x) { atomicAdd(&s->bins[bin_of(scaled(d, x))], 1u); });
    __syncthreads();
    uint32_t first = s->bins[2 * threadIdx.x], second = s->bins[2 * threadIdx.x + 1];
    uint32_t with = block_scan(first + second, (uint32_t *)s->sums), above = with - first - second;
    if (above + first <= CANDIDATES && above < need)
        atomicMax(&s->reach, (int32_t)(2 * threadIdx.x));
    if (with <= CANDIDATES && above + first < need)
        atomicMax(&s->reach, (int32_t)(2 * threadIdx.x + 1));
    __syncthreads();
    return s->reach;
}

/* Puts the tokens of bins up to `reach` into s->candidates, and zeros behind them. */
__device__ void collect(const draw_from &d, int reach, shared_space *s)
{
    __syncthreads();
    if (threadIdx.x == 0)
        s->n_candidates = 0;
    for (int i = threadIdx.x; i < CANDIDATES; i += THREADS)
        s->candidates[i] = 0;
    __syncthreads();
    each(d.x, d.vocab, [&](uint64_t id, float x) {
        float v = scaled(d, x);
        if (bin_of(v) <= reach)
            s->candidates[atomicAdd(&s->n_candidates, 1u)] = rank_key(v, id);
    });
    __syncthreads();
}

/* Orders the candidates, highest key first (bitonic, Batcher 1968). */
__device__ void order(shared_space *s)
{
    for (int size = 2; size <= CANDIDATES; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            for (int i = threadIdx.x; i < CANDIDATES / 2; i += THREADS) {
                int a = 2 * i - (i & (step - 1)), b = a + step;
                unsigned long long x = s->candidates[a], y = s->candidates[b];
                if ((x < y) == ((a & size) == 0)) {
                    s->candidates[a] = y;
                    s->candidates[b] = x;
                }
            }
            __syncthreads();
        }
}

/* The value in a key. */
__device__ __forceinline__ float value_of(unsigned long long key)
{
    uint32_t u = (uint32_t)(key >> 32);

    return __uint_as_float(u & 0x80000000u ? u & 0x7fffffffu : ~u);
}

/* Replaces the scaled logits in the first `n` candidates' keys by weights, and drops the others. */
__device__ void weigh(uint32_t n, shared_space *s)
{
    for (uint32_t i = threadIdx.x; i < CANDIDATES; i += THREADS) {
        unsigned long long key = s->candidates[i];
        uint32_t id = 0xffffffffu - (uint32_t)key;
        s->candidates[i] = i < n ? rank_key(expf(value_of(key)), id) : 0;
    }
    __syncthreads();
}

/* The key of the first candidate with which the running sum of weights reaches `share` of `total` (negative: of the
 * candidates' own sum); 0 if none does. */
__device__ unsigned long long edge_among(uint32_t n, float share, double total, shared_space *s)
{
    constexpr int per = CANDIDATES / THREADS;
    double mine[per], sum = 0.0;

    if (threadIdx.x == 0)
        s->reach = CANDIDATES;
    for (int i = 0; i < per; i++) {
        uint32_t at = threadIdx.x * per + i;
        sum += at < n ? (double)value_of(s->candidates[at]) : 0.0;
        mine[i] = sum;
    }
    double with = block_scan(sum, s->sums), before = with - sum;
    if (total < 0.0)
        total = block_reduce(sum, plus_op(), s->sums);
    for (int i = 0; i < per; i++)
        if (threadIdx.x * per + i < n && before + mine[i] >= (double)share * total) {
            atomicMin(&s->reach, (int32_t)(threadIdx.x * per + i));
            break;
        }
    __syncthreads();
    return s->reach < CANDIDATES ? s->candidates[s->reach] : 0;
}

/* Steps 5 and 6 among the candidates; false if they do not reach far enough. */
__device__ bool filter_few(const tn_sample_row &r, draw_from *d, bool top_k, shared_space *s)
{
    uint32_t need = top_k ? r.top_k : (uint32_t)d->vocab;
    double total = top_k || !(r.top_p < 1.0f) ? -1.0 : total_weight(*d, s);
    int reach = find_reach(*d, need, s);

    if (reach < 0)
        return false;
    collect(*d, reach, s);
    uint32_t n = s->n_candidates;
    if (top_k && n < need)
        return false;
    order(s);
    if (top_k) {
        n = need;
        d->edge_k = s->candidates[n - 1];
    }
    if (!(r.top_p < 1.0f))
        return true;
    weigh(n, s);
    order(s);
    d->edge_p = edge_among(n, r.top_p, total, s);
    return d->edge_p || n == need; /* without an edge all that may stay do */
}

__device__ void filter(const tn_sample_row &r, draw_from *d, shared_space *s)
{
    bool top_k = r.top_k && r.top_k < d->vocab;

    if ((top_k || r.top_p < 1.0f) && !filter_few(r, d, top_k, s)) {
        d->edge_k = d->edge_p = 0;
        if (top_k)
            d->edge_k = find_edge(*d, (double)r.top_k, false, s);
        if (r.top_p < 1.0f)
            d->edge_p = find_edge(*d, (double)r.top_p * total_weight(*d, s), true, s);
    }
    d->least = r.min_p; /* the largest weight is 1 */
}

/* -- Step 8 --------------------------------------------------------------------------------------------------- */

/* Weights of the four ids from `id` on. */
__device__ __forceinline__ void weights4(const draw_from &d, uint64_t id, uint64_t end, float w[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] = id + i < end ? weight_of(d, id + i, d.x[id + i]) : 0.0f;
}

/* One warp walks the ids of its segment until the running sum exceeds `until`. */
__device__ int32_t walk(const draw_from &d, uint64_t begin, uint64_t end, double sum, double until)
{
    int lane = threadIdx.x & 31;
    int32_t last = -1;

    for (; begin < end; begin += 128) {
        float w[4];
        weights4(d, begin + 4 * lane, end, w);
        double mine = ((double)w[0] + (double)w[1]) + ((double)w[2] + (double)w[3]), up = mine;
        for (int step = 1; step < 32; step *= 2) {
            double below = __shfl_up_sync(FULL_WARP, up, step);
            up += lane >= step ? below : 0.0;
        }
        double run = sum + up - mine;
        int32_t found = -1, positive = -1;
        for (int i = 0; i < 4; i++) {
            run += (double)w[i];
            if (w[i] > 0.0f)
                positive = (int32_t)(begin + 4 * lane + i);
            if (found < 0 && w[i] > 0.0f && run > until)
                found = positive;
        }
        unsigned hit = __ballot_sync(FULL_WARP, found >= 0);
        if (hit)
            return __shfl_sync(FULL_WARP, found, __ffs(hit) - 1);
        last = max(last, warp_reduce(positive, max_op()));
        sum += __shfl_sync(FULL_WARP, up, 31);
    }
    return last;
}

__device__ int32_t draw(const tn_sample_row &r, const draw_from &d, shared_space *s)
{
    double u = (double)(philox_word0(r.seed, r.position) >> 8) * 5.9604644775390625e-8; /* 2^-24 */
    uint64_t segment = (d.vocab + WARPS * 128 - 1) / (WARPS * 128) * 128;
    int warp = threadIdx.x / 32, lane = threadIdx.x & 31;
    uint64_t begin = warp * segment, end = begin + segment < d.vocab ? begin + segment : d.vocab;
    double sum = 0.0, total = 0.0, before = 0.0;
    int pick = -1;

    for (uint64_t id = begin + 4 * lane; id < end; id += 128) {
        float w[4];
        weights4(d, id, end, w);
        sum += ((double)w[0] + (double)w[1]) + ((double)w[2] + (double)w[3]);
    }
    sum = warp_reduce(sum, plus_op());
    if (lane == 0)
        s->sums[warp] = sum;
    __syncthreads();
    for (int i = 0; i < WARPS; i++)
        total += s->sums[i];
    for (int i = 0; i < WARPS;
         i++) { /* the first segment that gets past u * total, or the last with anything */
        if (s->sums[i] > 0.0)
            pick = i;
        if (before + s->sums[i] > u * total && s->sums[i] > 0.0)
            break;
        before += s->sums[i];
    }
    if (warp == pick) {
        before = 0.0;
        for (int i = 0; i < pick; i++)
            before += s->sums[i];
        int32_t id = walk(d, begin, end, before, u * total);
        if (lane == 0)
            s->chosen = id;
    }
    __syncthreads();
    return s->chosen;
}

/* -- The whole ------------------------------------------------------------------------------------------------- */

/* The key of the largest x, lowest id on ties; 0 for NaN, +inf, or nothing finite. */
__device__ unsigned long long largest(const float *x, uint64_t vocab, shared_space *s)
{
    unsigned long long best = 0;
    bool bad = false;

    each(x, vocab, [&](uint64_t id, float v) {
        unsigned long long key = rank_key(v, id);
        bad = bad || !(v < INFINITY);
        best = key > best ? key : best;
    });
    best = block_reduce(best, max_op(), s->keys);
    if (__syncthreads_or(bad) || (uint32_t)(best >> 32) == ordered(-INFINITY))
        return 0;
    return best;
}

/* log softmax of the unmodified row at `id`. */
__device__ void write_logprob(const sample_args &p, uint32_t i, int32_t id, shared_space *s)
{
    const float *row = p.x + i * p.vocab;
    float max = -INFINITY;
    double sum = 0.0;

    if (id != TN_SAMPLE_NAN) {
        each(row, p.vocab, [&](uint64_t, float v) { max = fmaxf(max, v); });
        max = block_reduce(max, max_op(), s->maxima);
        each(row, p.vocab, [&](uint64_t, float v) { sum += (double)expf(v - max); });
        sum = block_reduce(sum, plus_op(), s->sums);
    }
    if (threadIdx.x == 0)
        p.logprob[i] = id == TN_SAMPLE_NAN ? NAN : row[id] - max - (float)log(sum);
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(sample_args p)
{
    __shared__ shared_space s;

    wait_for_previous();
    for (uint32_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
        const tn_sample_row r = ((const tn_sample_row *)p.sample)[i];
        const float *x = adjust(p, r, p.x + i * p.vocab);
        unsigned long long best = largest(x, p.vocab, &s);
        int32_t id = best ? (int32_t)(0xffffffffu - (uint32_t)best) : TN_SAMPLE_NAN;
        if (best && r.temperature > 0.0f) {
            draw_from d = {x, p.vocab, x[id], r.temperature, 0.0f, 0, 0};
            filter(r, &d, &s);
            id = draw(r, d, &s);
        }
        if (threadIdx.x == 0) {
            p.out[i] = id;
            if (p.sampled)
                p.sampled[i] = id;
        }
        if (p.logprob)
            write_logprob(p, i, id, &s);
        __syncthreads();
    }
}
