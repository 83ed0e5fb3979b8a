/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sample: one token per logits row by the procedure of tn_sample_row (tenon/batch.h), one block per row. What a block draws from
 * is in draw.cuh. Where there are few rows, sample_best goes before: its blocks share a row, and only the best of each is looked at.
 */
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

/* The row after biases and penalties: `row` itself if there are none. */
__device__ const float *adjust(const sample_args &p, const tn_sample_row &r, const float *row)
{
    float *x = (float *)p.scratch + blockIdx.x * 2 * p.vocab;

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

/* What a part of a row's `best` tells: this instead of a key where the part has NaN or +inf. */
#define BAD_PART (~0ull)

/* The key of the largest of x[0 .. n - 1], whose ids begin with `first`, lowest id on ties; BAD_PART if any is NaN or +inf. */
__device__ unsigned long long largest_of(const float *x, uint64_t first, uint64_t n,
                                         shared_space *s)
{
    unsigned long long best = 0;
    bool bad = false;

    each(x, n, [&](uint64_t id, float v) {
        unsigned long long key = rank_key(v, first + id);
        bad = bad || !(v < INFINITY);
        best = key > best ? key : best;
    });
    best = block_reduce(best, max_op(), s->keys);
    return __syncthreads_or(bad) ? BAD_PART : best;
}

/* The key of the largest x, lowest id on ties; 0 for NaN, +inf, or nothing finite. `parts` are what sample_best found, or NULL. */
__device__ unsigned long long largest(const sample_args &p, const float *x,
                                      const unsigned long long *parts, shared_space *s)
{
    unsigned long long best = 0;

    if (parts) {
        for (uint32_t i = threadIdx.x; i < p.parts; i += THREADS)
            best = parts[i] > best ? parts[i] : best;
        best = block_reduce(best, max_op(), s->keys);
    } else {
        best = largest_of(x, 0, p.vocab, s);
    }
    return best == BAD_PART || (uint32_t)(best >> 32) == ordered(-INFINITY) ? 0 : best;
}

/* -- The whole ------------------------------------------------------------------------------------------------- */

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

/* For few rows: a block per part of a row, so that a large vocabulary does not pass through one multiprocessor. */
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

    wait_for_previous();
    for (uint32_t i = blockIdx.x; i < p.rows; i += gridDim.x) {
        const tn_sample_row r = ((const tn_sample_row *)p.sample)[i];
        const float *x = adjust(p, r, p.x + i * p.vocab);
        const unsigned long long *parts =
            p.best && !is_adjusted(r) ? p.best + (uint64_t)i * p.parts : NULL;
        unsigned long long best = largest(p, x, parts, &s);
        int32_t id = best ? (int32_t)(0xffffffffu - (uint32_t)best) : TN_SAMPLE_NAN;
        if (best && r.temperature > 0.0f) {
            draw_from d = {x, NULL, p.vocab, x[id], r.temperature, 0.0f, 0, 0};
            /* Where the marks were that adjust() took. */
            filter(r, &d, (float *)p.scratch + (blockIdx.x * 2 + 1) * p.vocab, &s);
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
