/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steps 5 to 8 of the procedure of tn_sample_row (tenon/batch.h), by one block, and how rows of logits are walked; the vocabulary
 * is never sorted.
 *
 * top_k and top_p both keep the tokens of highest rank until an amount is reached: k tokens, or top_p of the mass. A
 * token's rank is a 64-bit key, its value's bits above its id's complement, so the edge is the largest key such that the
 * amount of the keys from it on suffices. It is found by radix selection: three passes over the row, each of which adds
 * up amounts by the next digit of the value, and one more where only some of equal values stay. A small top_k takes
 * a shorter way: a histogram tells how far down the best CANDIDATES reach, and only they are ordered, in shared memory.
 * Amounts are integers (of mass: in fixed point), so that it does not matter in which order atomics add them up; all
 * other sums are in double and in an order that depends on the row only. So equal rows give equal tokens.
 */
#ifndef CUDA_DRAW_CUH
#define CUDA_DRAW_CUH

#include "../common/cuda_reduce.cuh"
#include "args.h"
#include "tenon/batch.h"

#define THREADS SAMPLE_THREADS
#define WARPS (THREADS / 32)
#define SHARES SAMPLE_SHARES
#define CANDIDATES 2048
#define BINS 1024    /* of the histogram, two per thread */
#define BIN_SCALE 32 /* bins per unit of the scaled logit, downwards from the largest */
#define DIGITS 2048  /* of a pass of radix selection, four per thread */
#define AHEAD 4      /* loads of 16 bytes that a thread has under way */

static_assert(BINS == 2 * THREADS && DIGITS == 4 * THREADS, "threads share them out");
static_assert(SHARES * WARPS == 4 * 32, "a lane takes four parts");

/* What the tokens of each digit amount to, in halves: shared memory adds 32 bits at a time. */
struct amounts {
    uint32_t low[DIGITS], high[DIGITS];
};

struct shared_space {
    double sums[32];
    unsigned long long keys[32];
    double parts[SHARES * WARPS]; /* of the sum for a log-probability; in a cluster its own WARPS */
    float maxima[32];
    int32_t chosen;
    uint32_t n_candidates;
    int32_t reach;                           /* bin, digit, or index of a candidate */
    unsigned long long total, above, inside; /* amounts: of all, above the digit, of its own */
    uint32_t bins[BINS];
    union {
        unsigned long long candidates[CANDIDATES];
        amounts digits;
    };
};

/* What a row is drawn from: its logits after steps 1 to 3, and what steps 5 to 7 keep. */
struct draw_from {
    const float *x;
    float *weights; /* of all tokens behind step 5; NULL: not worked out */
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

template <typename F> __device__ __forceinline__ void each_of(uint64_t i, float v, F f)
{
    f(i, v);
}

template <typename F> __device__ __forceinline__ void each_of(uint64_t i, float4 v, F f)
{
    f(4 * i, v.x);
    f(4 * i + 1, v.y);
    f(4 * i + 2, v.z);
    f(4 * i + 3, v.w);
}

/* Whether a row is made of four logits at a time. */
__device__ __forceinline__ bool in_fours(const float *x, uint64_t n)
{
    return ((uintptr_t)x & 15) == 0 && n % 4 == 0;
}

/* f(id, x[id]) for all ids, in ascending order within a thread. */
template <typename F> __device__ __forceinline__ void each(const float *x, uint64_t n, F f)
{
    if (in_fours(x, n)) {
        const float4 *at = (const float4 *)x;
        for (uint64_t i = threadIdx.x; i < n / 4; i += AHEAD * THREADS) {
            float4 v[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                v[k] = at[i + k * THREADS < n / 4 ? i + k * THREADS : i];
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                if (i + k * THREADS < n / 4)
                    each_of(i + k * THREADS, v[k], f);
        }
        return;
    }
    for (uint64_t i = threadIdx.x; i < n; i += THREADS)
        f(i, x[i]);
}

/*
 * A row is cut into SHARES shares, of which each has every SHARES-th run of THREADS pieces; a piece is one logit or four. A thread
 * takes one of each run, so that a block for each share and one for all meet a share's logits in the same threads and in the same
 * order. At a time it has ROUNDS pieces of each of N shares: from its first, `i`, the k-th lies here.
 */
template <int N> __device__ __forceinline__ uint64_t piece_of(uint64_t i, int k)
{
    return i + (uint64_t)(k / N * SHARES + k % N) * THREADS;
}

template <int N, int ROUNDS, typename T>
__device__ __forceinline__ void load_pieces(const T *at, uint64_t n, uint64_t i, T (&v)[ROUNDS * N])
{
#pragma unroll
    for (int k = 0; k < ROUNDS * N; k++)
        v[k] = at[piece_of<N>(i, k) < n ? piece_of<N>(i, k) : 0];
}

/* f(share of the N, id, x[id]) for those that load_pieces() got and that there are. */
template <int N, int ROUNDS, typename T, typename F>
__device__ __forceinline__ void each_of_pieces(const T (&v)[ROUNDS * N], uint64_t n, uint64_t i,
                                               F f)
{
#pragma unroll
    for (int k = 0; k < ROUNDS * N; k++)
        if (piece_of<N>(i, k) < n)
            each_of(piece_of<N>(i, k), v[k], [&](uint64_t id, float x) { f(k % N, id, x); });
}

/* The same for all pieces from i on. */
template <int N, int ROUNDS, typename T, typename F>
__device__ __forceinline__ void each_from(const T *at, uint64_t n, uint64_t i, F f)
{
    for (; i < n; i += ROUNDS * SHARES * THREADS) {
        T v[ROUNDS * N];
        load_pieces<N, ROUNDS>(at, n, i, v);
        each_of_pieces<N, ROUNDS>(v, n, i, f);
    }
}

/* -- Steps 5 to 7 ------------------------------------------------------------------------------------------- */

__device__ __forceinline__ float scaled(const draw_from &d, float x)
{
    return (x - d.max) / d.temperature;
}

/* Its weight behind step 5; 0 if it is dropped there. */
__device__ __forceinline__ float top_k_weight(const draw_from &d, uint64_t id, float x)
{
    float s = scaled(d, x);

    return d.edge_k && rank_key(s, id) < d.edge_k ? 0.0f : expf(s);
}

/* The weight of a token; 0 if it is dropped. */
__device__ __forceinline__ float weight_of(const draw_from &d, uint64_t id)
{
    float w = d.weights ? d.weights[id] : top_k_weight(d, id, d.x[id]);

    if (d.edge_p && rank_key(w, id) < d.edge_p)
        return 0.0f;
    return w < d.least ? 0.0f : w;
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

/* Scaled logits, which are not positive, in the order of their 31 bits; one each. */
struct by_count {
    draw_from d;
    double k;

    __device__ __forceinline__ uint32_t rank(float x) const
    {
        return 0x7f800000u - (__float_as_uint(scaled(d, x)) & 0x7fffffffu);
    }
    __device__ __forceinline__ unsigned long long amount(uint32_t) const
    {
        return 1;
    }
    __device__ __forceinline__ float value(uint32_t rank) const
    {
        return -__uint_as_float(0x7f800000u - rank);
    }
    __device__ __forceinline__ double need(unsigned long long) const
    {
        return k;
    }
};

/* Weights, from 0 to 1. `unit` is the power of two by which they are multiplied: so large that they still add up in 63 bits. */
struct by_mass {
    double share;
    float unit;

    __device__ __forceinline__ uint32_t rank(float w) const
    {
        return __float_as_uint(w);
    }
    __device__ __forceinline__ unsigned long long amount(uint32_t rank) const
    {
        return __float2ull_rn(__uint_as_float(rank) * unit);
    }
    __device__ __forceinline__ float value(uint32_t rank) const
    {
        return __uint_as_float(rank);
    }
    __device__ __forceinline__ double need(unsigned long long total) const
    {
        double least = share * (double)total;
        return least < 1.0 ? 1.0 : least; /* at least one token stays */
    }
};

__device__ __forceinline__ void add_amount(amounts *a, uint32_t digit, unsigned long long amount)
{
    uint32_t low = (uint32_t)amount, high = (uint32_t)(amount >> 32);

    if (amount == 0)
        return;
    if (atomicAdd(&a->low[digit], low) + low < low)
        high++; /* this addition carried */
    if (high)
        atomicAdd(&a->high[digit], high);
}

__device__ __forceinline__ unsigned long long amount_of(const amounts *a, uint32_t digit)
{
    return (unsigned long long)a->high[digit] << 32 | a->low[digit];
}

/* Adds up the tokens whose rank begins with `prefix` by the digit behind it; `shift` is where that begins. */
template <typename A>
__device__ void add_digits(const float *x, uint64_t n, const A &a, uint32_t prefix, int shift,
                           shared_space *s)
{
    const bool first = shift == 20;
    const uint32_t mask = first ? 2047 : 1023;

    __syncthreads(); /* the digits lie where the candidates may have been */
    for (int i = threadIdx.x; i < DIGITS; i += THREADS)
        s->digits.low[i] = s->digits.high[i] = 0;
    if (threadIdx.x == 0)
        s->reach = -1;
    __syncthreads();
    each(x, n, [&](uint64_t, float v) {
        uint32_t rank = a.rank(v);
        if (first || rank >> (shift + 10) == prefix)
            add_amount(&s->digits, rank >> shift & mask, a.amount(rank));
    });
    __syncthreads();
}

/* The largest digit with which the amount from the top down reaches `need`, given that `above` comes before; -1: none. Tells
 * s->above and s->inside of it. */
template <typename A>
__device__ int32_t find_digit(const A &a, unsigned long long above, double *need, shared_space *s)
{
    const int per = DIGITS / THREADS;
    int32_t top = DIGITS - 1 - per * (int32_t)threadIdx.x;
    unsigned long long mine = 0, with;

    for (int i = 0; i < per; i++)
        mine += amount_of(&s->digits, top - i);
    with = block_scan(mine, s->keys);
    if (threadIdx.x == THREADS - 1)
        s->total = with;
    __syncthreads();
    if (*need == 0.0)
        *need = a.need(s->total);
    above += with - mine;
    if ((double)above < *need && (double)(above + mine) >= *need)
        for (int i = 0; i < per; i++) { /* one thread's */
            unsigned long long inside = amount_of(&s->digits, top - i);
            if ((double)(above + inside) >= *need) {
                s->reach = top - i;
                s->above = above;
                s->inside = inside;
                break;
            }
            above += inside;
        }
    __syncthreads();
    return s->reach;
}

/* The `count`-th lowest id among the tokens of a rank, of which there are as many. */
template <typename A>
__device__ uint64_t find_equal(const float *x, uint64_t n, const A &a, uint32_t rank,
                               uint32_t count, shared_space *s)
{
    uint64_t segment = (n + THREADS - 1) / THREADS, begin = threadIdx.x * segment;
    uint64_t end = begin + segment < n ? begin + segment : n;
    uint32_t mine = 0;

    for (uint64_t id = begin; id < end; id++)
        mine += a.rank(x[id]) == rank;
    uint32_t with = block_scan(mine, (uint32_t *)s->sums), before = with - mine;
    if (before < count && count <= with)
        for (uint64_t id = begin; id < end && before < count; id++)
            if (a.rank(x[id]) == rank && ++before == count)
                s->chosen = (int32_t)id;
    __syncthreads();
    return (uint64_t)s->chosen;
}

/* The largest key such that the tokens of that key and above amount to what `a` needs; 0, so that all stay, if together they
 * do not. `x` is what `a` ranks tokens by. */
template <typename A>
__device__ unsigned long long find_edge(const float *x, uint64_t n, const A &a, shared_space *s)
{
    unsigned long long above = 0, each_one, all, some;
    uint32_t rank = 0;
    double need = 0.0;

    for (int shift = 20; shift >= 0; shift -= 10) {
        add_digits(x, n, a, rank, shift, s);
        int32_t digit = find_digit(a, above, &need, s);
        if (digit < 0)
            return 0;
        rank = shift == 20 ? digit : rank << 10 | digit;
        above = s->above;
        __syncthreads();
    }
    each_one = a.amount(rank);
    all = s->inside / each_one; /* an edge lies where something is */
    some = (unsigned long long)((need - (double)above) / (double)each_one);
    some = some < 1 ? 1 : some;
    while (some < all && (double)(above + some * each_one) < need)
        some++;
    uint64_t last = some < all ? find_equal(x, n, a, rank, (uint32_t)some, s) : n - 1;
    return rank_key(a.value(rank), last);
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

/* The key of the first of `n` candidates with which the running sum of weights reaches `share` of their sum; 0 if none
 * does. */
__device__ unsigned long long edge_among(uint32_t n, float share, shared_space *s)
{
    constexpr int per = CANDIDATES / THREADS;
    double mine[per], sum = 0.0, total;

    if (threadIdx.x == 0)
        s->reach = CANDIDATES;
    for (int i = 0; i < per; i++) {
        uint32_t at = threadIdx.x * per + i;
        sum += at < n ? (double)value_of(s->candidates[at]) : 0.0;
        mine[i] = sum;
    }
    double with = block_scan(sum, s->sums), before = with - sum;
    total = block_reduce(sum, plus_op(), s->sums);
    for (int i = 0; i < per; i++)
        if (threadIdx.x * per + i < n && before + mine[i] >= (double)share * total) {
            atomicMin(&s->reach, (int32_t)(threadIdx.x * per + i));
            break;
        }
    __syncthreads();
    return s->reach < CANDIDATES ? s->candidates[s->reach] : 0;
}

/* Steps 5 and 6 among the candidates; false if the best top_k are more than those. */
__device__ bool filter_few(const tn_sample_row &r, draw_from *d, shared_space *s)
{
    int reach = r.top_k <= CANDIDATES ? find_reach(*d, r.top_k, s) : -1;

    if (reach < 0)
        return false;
    collect(*d, reach, s);
    if (s->n_candidates < r.top_k)
        return false;
    order(s);
    d->edge_k = s->candidates[r.top_k - 1];
    if (!(r.top_p < 1.0f))
        return true;
    __syncthreads(); /* all have read the edge before the keys change */
    weigh(r.top_k, s);
    order(s);
    d->edge_p = edge_among(r.top_k, r.top_p, s); /* without an edge all that may stay do */
    return true;
}

/* Step 6 among all tokens, whose weights are kept in `weights`: each is worked out once. */
__device__ void filter_mass(const tn_sample_row &r, draw_from *d, float *weights, shared_space *s)
{
    int bits = 32 - __clz((int)d->vocab);
    by_mass a = {(double)r.top_p, __uint_as_float((127u + 62u - bits) << 23)};

    each(d->x, d->vocab, [&](uint64_t id, float x) { weights[id] = top_k_weight(*d, id, x); });
    __syncthreads();
    d->weights = weights;
    d->edge_p = find_edge(weights, d->vocab, a, s);
}

/* Steps 5 to 7. `weights` is room for the row's. */
__device__ void filter(const tn_sample_row &r, draw_from *d, float *weights, shared_space *s)
{
    bool top_k = r.top_k && r.top_k < d->vocab;

    if (!top_k || !filter_few(r, d, s)) {
        if (top_k)
            d->edge_k = find_edge(d->x, d->vocab, by_count{*d, (double)r.top_k}, s);
        if (r.top_p < 1.0f)
            filter_mass(r, d, weights, s);
    }
    d->least = r.min_p; /* the largest weight is 1 */
}

/* -- Step 8 --------------------------------------------------------------------------------------------------- */

/* Weights of the four ids from `id` on. */
__device__ __forceinline__ void weights4(const draw_from &d, uint64_t id, uint64_t end, float w[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        w[i] = id + i < end ? weight_of(d, id + i) : 0.0f;
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

#endif
