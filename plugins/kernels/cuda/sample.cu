/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: one token per logits row by the procedure of tn_sample_row (tenon/batch.h). What a block draws from is in draw.cuh.
 *
 * Where there are few rows, the blocks of a cluster share each (sample_shared). On GPUs without clusters, and of more rows,
 * one block has each (sample), and where they are not many sample_best goes before: its blocks share a row, and only the best of
 * each is looked at. Whoever adds up a row for its log-probability does so in the same order, so that no bit of it depends on how
 * many rows there are.
 */
#include "../common/cuda_cluster.cuh"
#include "draw.cuh"

/* -- Steps 1 to 3 ------------------------------------------------------------------------------------------ */

__device__ __forceinline__ bool is_adjusted(const tn_sample_row &r)
{
    return r.n_bias != 0 || r.history_len != 0;
}

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

/* The row after biases and penalties, in `x`, behind which there is room for marks: `row` itself if there are none. */
__device__ const float *adjust(const sample_args &p, const tn_sample_row &r, const float *row,
                               float *x)
{
    if (!is_adjusted(r))
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

/* -- The largest --------------------------------------------------------------------------------------------- */

/* What stands for the key of NaN and +inf: above all others, so that it is the largest of whatever it is among. */
#define BAD (~0ull)

/* The largest of what a thread meets, in ascending order of ids: keys are made of it alone, not of each, which takes several times
 * the instructions. Of nothing it is the key of -inf. */
struct largest_met {
    float value = -INFINITY;
    uint32_t id = 0;
    bool bad = false;

    __device__ __forceinline__ void meet(float v, uint64_t at)
    {
        bad = bad || !(v < INFINITY);
        id = v > value ? (uint32_t)at : id;
        value = v > value ? v : value;
    }
    __device__ __forceinline__ unsigned long long key() const
    {
        return bad ? BAD : rank_key(value, id);
    }
};

__device__ __forceinline__ unsigned long long larger(unsigned long long a, unsigned long long b)
{
    return a > b ? a : b;
}

/* The largest key of a warp. */
__device__ __forceinline__ unsigned long long warp_max_key(unsigned long long key)
{
#if __CUDA_ARCH__ >= 800
    /* Reductions of 32 bits are one instruction: ten shuffles less to wait for. */
    uint32_t high = __reduce_max_sync(FULL_WARP, (uint32_t)(key >> 32));
    uint32_t low = __reduce_max_sync(FULL_WARP, (uint32_t)(key >> 32) == high ? (uint32_t)key : 0u);

    return (unsigned long long)high << 32 | low;
#else
    return warp_reduce(key, max_op());
#endif
}

/* The key of the largest of x[0 .. n - 1], whose ids begin with `first`, lowest id on ties; BAD if any is NaN or +inf. */
__device__ unsigned long long largest_of(const float *x, uint64_t first, uint64_t n,
                                         shared_space *s)
{
    largest_met best;

    each(x, n, [&](uint64_t id, float v) { best.meet(v, first + id); });
    return block_reduce(warp_max_key(best.key()), max_op(), s->keys);
}

/* The largest of what sample_best found in the parts of a row: each warp looks for itself, without a barrier. */
__device__ unsigned long long largest_part(const unsigned long long *parts, uint32_t n)
{
    unsigned long long best = 0;

    for (uint32_t i = threadIdx.x & 31; i < n; i += 32)
        best = larger(best, parts[i]);
    return warp_max_key(best);
}

/* A row's largest key, or 0: it has NaN, +inf, or nothing finite. */
__device__ __forceinline__ unsigned long long usable(unsigned long long best)
{
    return best == BAD || (uint32_t)(best >> 32) == ordered(-INFINITY) ? 0 : best;
}

__device__ __forceinline__ int32_t id_of(unsigned long long key)
{
    return (int32_t)(0xffffffffu - (uint32_t)key);
}

/* -- Log-probabilities ------------------------------------------------------------------------------------------- */

/* The whole sum of e^(x - max), of the parts of all shares' warps, of which a lane has the four from 4 * lane on. */
__device__ __forceinline__ double sum_of_parts(double a, double b, double c, double d)
{
    return warp_reduce((a + b) + (c + d), plus_op());
}

/* The same by one block. */
__device__ double sum_alone(const sample_args &p, const float *row, float max, shared_space *s)
{
    int lane = threadIdx.x & 31, warp = threadIdx.x / 32;
    const double *mine = s->parts + 4 * lane;
    double sum[SHARES] = {};

    auto add = [&](int k, uint64_t, float v) { sum[k] += (double)expf(v - max); };
    if (in_fours(row, p.vocab))
        each_from<SHARES, 1>((const float4 *)row, p.vocab / 4, threadIdx.x, add);
    else
        each_from<SHARES, 1>(row, p.vocab, threadIdx.x, add);
#pragma unroll
    for (int k = 0; k < SHARES; k++) {
        double part = warp_reduce(sum[k], plus_op());
        if (lane == 0)
            s->parts[k * WARPS + warp] = part;
    }
    __syncthreads();
    return sum_of_parts(mine[0], mine[1], mine[2], mine[3]);
}

/* The largest of the unmodified row: `best` is its key, if nothing was added to it. */
__device__ float max_of(const sample_args &p, const tn_sample_row &r, const float *row,
                        unsigned long long best, shared_space *s)
{
    float max = -INFINITY;

    if (!is_adjusted(r))
        return value_of(best);
    each(row, p.vocab, [&](uint64_t, float v) { max = fmaxf(max, v); });
    return block_reduce(max, max_op(), s->maxima);
}

/* -- The whole ------------------------------------------------------------------------------------------------- */

/* Steps 4 to 8 on `x`, behind steps 1 to 3, whose largest has the key `best`, 0 for none. `weights` is room for the row's. */
__device__ int32_t choose(const sample_args &p, const tn_sample_row &r, const float *x,
                          unsigned long long best, float *weights, shared_space *s)
{
    int32_t id = best ? id_of(best) : TN_SAMPLE_NAN;

    if (!best || !(r.temperature > 0.0f))
        return id;
    draw_from d = {x, NULL, p.vocab, x[id], r.temperature, 0.0f, 0, 0};
    filter(r, &d, weights, s);
    return draw(r, d, s);
}

/* One thread. `sum` is that of e^(x - max) over the unmodified row, whose value at `id` is `at`. */
__device__ __forceinline__ void write_row(const sample_args &p, uint32_t i, int32_t id, float at,
                                          float max, double sum)
{
    p.out[i] = id;
    if (p.sampled)
        p.sampled[i] = id;
    if (p.logprob)
        p.logprob[i] = id == TN_SAMPLE_NAN ? NAN : at - max - (float)log(sum) + 0.0f; /* not -0 */
}

/* For rows that are not many and that no cluster shares: a block per part of a row, so that a large vocabulary does not pass through
 * one multiprocessor. */
extern "C" __global__ void __launch_bounds__(THREADS) sample_best(sample_args p)
{
    __shared__ shared_space s;
    const uint64_t part = (p.vocab + p.parts - 1) / p.parts + 3 & ~(uint64_t)3;
    const uint64_t first = blockIdx.x * part, row = blockIdx.y;
    const uint64_t n = first < p.vocab ? min(part, p.vocab - first) : 0;

    let_next_begin();
    wait_for_previous();
    if (is_adjusted(((const tn_sample_row *)p.sample)[row]))
        return;
    const unsigned long long best = largest_of(p.x + row * p.vocab + first, first, n, &s);
    if (threadIdx.x == 0)
        p.best[row * p.parts + blockIdx.x] = best;
}

extern "C" __global__ void __launch_bounds__(THREADS) sample(sample_args p)
{
    __shared__ shared_space s;
    /* This block's: an adjusted row, and behind it the marks of adjust(), then weights. */
    float *room = (float *)p.scratch + blockIdx.x * 2 * p.vocab;

    for (uint32_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
        const tn_sample_row r = ((const tn_sample_row *)p.sample)[i];
        wait_for_previous();
        const float *row = p.x + i * p.vocab, *x = adjust(p, r, row, room);
        const unsigned long long best =
            usable(p.best && !is_adjusted(r) ? largest_part(p.best + (uint64_t)i * p.parts, p.parts)
                                             : largest_of(x, 0, p.vocab, &s));
        int32_t id = choose(p, r, x, best, room + p.vocab, &s);
        float max = 0.0f;
        double sum = 0.0;
        if (p.logprob && best) {
            max = max_of(p, r, row, best, &s);
            sum = sum_alone(p, row, max, &s);
        }
        if (threadIdx.x == 0)
            write_row(p, i, id, id != TN_SAMPLE_NAN ? row[id] : 0.0f, max, sum);
        __syncthreads();
    }
}

#if __CUDA_ARCH__ >= 900
/* The largest key of a row of which each warp of the cluster has found one. What a warp looks for stands four to a lane, as parts
 * of sums do: so there is no barrier but the cluster's. */
__device__ unsigned long long largest_shared(unsigned long long best, shared_space *s)
{
    const uint32_t lane = threadIdx.x & 31, peer = lane / 4;
    const unsigned long long *theirs = s->keys + lane % 4 * 4;

    best = warp_max_key(best);
    if (lane == 0)
        s->keys[threadIdx.x / 32] = best;
    cluster_sync();
    best = larger(larger(peer_load(theirs, peer), peer_load(theirs + 1, peer)),
                  larger(peer_load(theirs + 2, peer), peer_load(theirs + 3, peer)));
    return warp_max_key(best);
}

/* What sum_alone() finds of the parts of the cluster's warps, for all threads of its first block. */
__device__ double sum_shared(double part, shared_space *s)
{
    const uint32_t lane = threadIdx.x & 31, peer = lane / 4;
    const double *theirs = s->parts + lane % 4 * 4;

    part = warp_reduce(part, plus_op());
    if (lane == 0)
        s->parts[threadIdx.x / 32] = part;
    cluster_sync();
    if (cluster_rank() != 0)
        return 0.0;
    return sum_of_parts(peer_load(theirs, peer), peer_load(theirs + 1, peer),
                        peer_load(theirs + 2, peer), peer_load(theirs + 3, peer));
}

/* The largest key of a row of n pieces, and in the first block the sum for its log-probability. A barrier of the cluster empties
 * the first-level cache: what the sum needs again stays in registers, at least of the first rounds. */
template <typename T>
__device__ __forceinline__ unsigned long long look_at_share(const sample_args &p, const T *at,
                                                            uint64_t n, double *sum,
                                                            shared_space *s)
{
    const uint64_t first = cluster_rank() * THREADS + threadIdx.x;
    largest_met mine;
    double part = 0.0;
    T held[AHEAD];

    auto each_mine = [&](auto f) {
        each_of_pieces<1, AHEAD>(held, n, first, f);
        each_from<1, AHEAD>(at, n, first + AHEAD * SHARES * THREADS, f);
    };
    load_pieces<1, AHEAD>(at, n, first, held);
    each_mine([&](int, uint64_t id, float v) { mine.meet(v, id); });
    const unsigned long long best = largest_shared(mine.key(), s);
    const float max = value_of(best);
    if (p.logprob) {
        each_mine([&](int, uint64_t, float v) { part += (double)expf(v - max); });
        *sum = sum_shared(part, s);
    }
    return best;
}

/* What is left of row i for one block, given the largest key and the sum of the unmodified row. */
__device__ __forceinline__ void finish_alone(const sample_args &p, const tn_sample_row &r,
                                             uint32_t i, unsigned long long best, double sum,
                                             shared_space *s)
{
    const float max = value_of(best), *row = p.x + i * p.vocab;
    float *room = (float *)p.scratch + (uint64_t)i * 2 * p.vocab;
    const float *x = adjust(p, r, row, room);

    if (is_adjusted(r))
        best = largest_of(x, 0, p.vocab, s);
    int32_t id = choose(p, r, x, usable(best), room + p.vocab, s);
    if (threadIdx.x == 0)
        write_row(p, i, id, id != TN_SAMPLE_NAN ? row[id] : 0.0f, max, sum);
}
#endif

/*
 * For few rows: each block of a cluster takes a share of the row, and what it finds goes to the others through shared memory. So
 * one kernel does it, and waits for memory once, for the logits. Where more is to be done than to take the largest, the first
 * block goes on alone. (One block per multiprocessor is what ptxas presumes where nothing is said, but not of clusters on
 * capability 10.0.)
 */
extern "C" __global__ void __launch_bounds__(THREADS, 1) sample_shared(sample_args p)
{
#if __CUDA_ARCH__ >= 900
    __shared__ shared_space s;
    const uint32_t i = blockIdx.x / SHARES, rank = cluster_rank();
    const tn_sample_row r = ((const tn_sample_row *)p.sample)[i];
    const float *row = p.x + i * p.vocab;
    const bool plain = !is_adjusted(r) && !(r.temperature > 0.0f);
    double sum = 0.0;

    wait_for_previous(); /* what to do may be read before it is to be done */
    const unsigned long long best =
        in_fours(row, p.vocab) ? look_at_share(p, (const float4 *)row, p.vocab / 4, &sum, &s)
                               : look_at_share(p, row, p.vocab, &sum, &s);
    const float max = value_of(best);
    cluster_arrive();
    if (plain && rank == 0 && threadIdx.x == 0)
        write_row(p, i, usable(best) ? id_of(best) : TN_SAMPLE_NAN, max, max, sum);
    cluster_wait(); /* until then others may read this block's keys and parts */
    if (!plain && rank == 0)
        finish_alone(p, r, i, best, sum, &s);
#endif
}
