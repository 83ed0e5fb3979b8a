// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of a sequence: bound by arithmetic. After FlashAttention-3 (Shah et al. 2024): one warpgroup brings
// keys and values, two of 64 rows each take turns on the tensor cores; each computes the softmax of one tile while
// the probabilities of the tile before meet its values. Scores and outputs stay in registers, p is wgmma's A.
//
// A block takes 128 rows of one sequence and one head, and walks tiles of 128 tokens from the diagonal backwards. Blocks
// with the most tiles come first.
//
// What depends on how the cache is stored is a class C of its file (prefill.cu, prefill8.cu): its dtypes, how tiles get into
// shared memory in the dtype of the products, and what scales there are.
#ifndef HOPPER_PREFILL_CUH
#define HOPPER_PREFILL_CUH

#include "params.h"
#include "wgmma.cuh"

#define TILE 128 // tokens
#define ROWS 128 // of a block
#define THREADS 384
#define STAGES PREFILL_STAGES
#define NOTHING -1e30f

template <int D> struct prefill_shape {
    static constexpr uint32_t plane = TILE * 128;    // 64 elements of each token
    static constexpr uint32_t tile = D / 64 * plane; // keys, or values
    static constexpr uint32_t query = ROWS * D * 2, keys = query, values = keys + STAGES * tile;
    static constexpr uint32_t end = values + STAGES * tile;
};

// Addresses of the barriers: of the queries, then per stage of each kind.
struct prefill_barriers {
    uint32_t query, k_full, k_empty, v_full, v_empty, raw; // raw: of the class
};

// What a block works on; the same for all its threads.
struct prefill_item {
    uint32_t seq, row, rows;   // sequence; first row, and rows that are its own
    int32_t position, context; // of the first row; of the sequence
    uint32_t first, last;      // tiles
};

// Finds the block's sequence: the sequences' tiles in order, the last first. One warp; 0 rows if there is nothing to do.
__device__ __forceinline__ prefill_item prefill_find(const attention_params &p)
{
    const uint32_t lane = threadIdx.x % 32;
    uint32_t want = gridDim.y - 1 - blockIdx.y, before = 0;
    prefill_item t = {};

    for (uint32_t base = 0; base < p.seqs; base += 32) {
        const uint32_t s = base + lane;
        const uint32_t from = s < p.seqs ? p.first_row[s] : 0;
        const uint32_t n = s < p.seqs ? p.first_row[s + 1] - from : 0;
        const int32_t context = s < p.seqs ? p.context[s] : 0; // 0: padding
        uint32_t sum = (n + ROWS - 1) / ROWS;
        const uint32_t tiles = sum;
        for (int step = 1; step < 32; step *= 2) {
            const uint32_t other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
            sum += lane >= step ? other : 0;
        }
        const uint32_t hit = __ballot_sync(0xFFFFFFFFu, want < before + sum);
        if (hit) {
            const int who = __ffs(hit) - 1;
            const uint32_t in = want - (before + sum - tiles); // of `who`
            t.seq = base + who;
            t.row = __shfl_sync(0xFFFFFFFFu, from + in * ROWS, who);
            t.rows = __shfl_sync(0xFFFFFFFFu, min(n - in * ROWS, static_cast<uint32_t>(ROWS)), who);
            t.position =
                __shfl_sync(0xFFFFFFFFu, context - static_cast<int32_t>(n - in * ROWS), who);
            t.context = __shfl_sync(0xFFFFFFFFu, context, who);
            break;
        }
        before += __shfl_sync(0xFFFFFFFFu, sum, 31);
    }
    if (t.rows == 0 || t.context == 0)
        return t;
    const int32_t start = p.window ? max(0, t.position - static_cast<int32_t>(p.window) + 1) : 0;
    t.first = start / TILE;
    t.last = (t.position + static_cast<int32_t>(t.rows) - 1) / TILE;
    return t;
}

// Boxes of a tile that the context reaches into.
__device__ __forceinline__ uint32_t prefill_boxes(const attention_params &p, const prefill_item &t,
                                                  uint32_t tile)
{
    const uint32_t box = 1u << p.box_shift, left = static_cast<uint32_t>(t.context) - tile * TILE;

    return min(static_cast<uint32_t>(TILE), (left + box - 1) & ~(box - 1)) >> p.box_shift;
}

// The block's queries, 64 rows for each warpgroup. One thread.
template <int D>
__device__ __forceinline__ void prefill_query(const attention_params &p, const prefill_item &t,
                                              uint32_t memory, const prefill_barriers &b)
{
    barrier_arrive_expect(b.query, prefill_shape<D>::query);
    for (uint32_t w = 0; w < 2; w++)
        for (uint32_t half = 0; half < D / 64; half++)
            copy_2d(memory + (w * (D / 64) + half) * 8192, &p.query,
                    static_cast<int32_t>(blockIdx.x * D + half * 64),
                    static_cast<int32_t>(t.row + w * 64), b.query, EVICT_FIRST);
}

// A barrier of one warpgroup that multiplies.
__device__ __forceinline__ void prefill_meet(uint32_t wg)
{
    asm volatile("bar.sync %0, 128;" ::"r"(1 + wg) : "memory");
}

// Values beyond the context must be numbers, since they are multiplied by zero. One warpgroup.
template <int D>
__device__ __forceinline__ void prefill_clear(unsigned char *values, uint32_t from, uint32_t wg)
{
    using shape = prefill_shape<D>;

    for (uint32_t i = from * 8 + threadIdx.x % 128; i < TILE * 8; i += 128)
        for (uint32_t half = 0; half < D / 64; half++)
            *reinterpret_cast<uint4 *>(values + half * shape::plane + i * 16) =
                make_uint4(0, 0, 0, 0);
    proxy_fence();
    prefill_meet(wg);
}

// The state of a thread: rows r = lane / 4 and r + 8 of its warp's sixteen.
template <int D> struct prefill_state {
    float m[2], l[2], o[D / 2], s[TILE / 2];
    uint32_t p[TILE / 16][4];
};

// Scores into powers of two, in place; corr: what sums of earlier tiles shrink by. `low`: position of the thread's first
// row less the tile's first token less what the thread's column adds, so that score j is seen if its column is at most that.
template <int D>
__device__ __forceinline__ void prefill_softmax(const attention_params &p, prefill_state<D> &a,
                                                float scale, int32_t low, bool masked,
                                                float (&corr)[2])
{
    const float factor = p.softcap > 0.0f ? 1.44269504f : scale * 1.44269504f;

    if (p.softcap > 0.0f)
#pragma unroll
        for (int i = 0; i < TILE / 2; i++)
            a.s[i] = p.softcap * tanhf(a.s[i] * scale / p.softcap);
    if (masked) {
        const int32_t window = p.window ? static_cast<int32_t>(p.window) : INT32_MAX;
#pragma unroll
        for (int i = 0; i < TILE / 2; i++) {
            const int32_t back =
                low + (i & 2) * 4 - (i / 4 * 8 + (i & 1)); // how far behind the row
            a.s[i] = back < 0 || back >= window ? -INFINITY : a.s[i];
        }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = a.m[h], sum = 0.0f;
#pragma unroll
        for (int i = 2 * h; i < TILE / 2; i += 4)
            most = fmaxf(most, fmaxf(a.s[i], a.s[i + 1]));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
        const float offset = most * factor;
        corr[h] = power_of_two((a.m[h] - most) * factor);
        a.m[h] = most;
#pragma unroll
        for (int i = 2 * h; i < TILE / 2; i += 4) {
            a.s[i] = power_of_two(a.s[i] * factor - offset);
            a.s[i + 1] = power_of_two(a.s[i + 1] * factor - offset);
            sum += a.s[i] + a.s[i + 1];
        }
        a.l[h] = a.l[h] * corr[h] + sum;
    }
}

// Shrinks the sums and rounds p to what wgmma takes.
template <typename T, int D>
__device__ __forceinline__ void prefill_turn(prefill_state<D> &a, const float (&corr)[2])
{
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        a.o[i] *= corr[i / 2 % 2];
#pragma unroll
    for (int j = 0; j < TILE / 4; j++)
        a.p[j / 4][j % 4] = element<T>::pack(a.s[2 * j], a.s[2 * j + 1]);
}

// Begins s = q k^T.
template <typename T, int D>
__device__ __forceinline__ void prefill_scores(prefill_state<D> &a, uint32_t q, uint32_t k)
{
#pragma unroll
    for (int d = 0; d < D / 16; d++)
        wgmma<T, TILE>::run(a.s, wgmma_operand(q + d / 4 * 8192) + d % 4 * 2,
                            wgmma_operand(k + d / 4 * prefill_shape<D>::plane) + d % 4 * 2, d > 0);
    wgmma_commit();
}

// Begins o += p v.
template <typename T, int D>
__device__ __forceinline__ void prefill_values(prefill_state<D> &a, uint32_t v)
{
#pragma unroll
    for (int j = 0; j < TILE / 16; j++)
        wgmma<T, D>::run_transposed(a.o, a.p[j],
                                    wgmma_transposed(v, prefill_shape<D>::plane) + 128 * j, 1);
    wgmma_commit();
}

// Registers that wgmma wrote are read after this only.
template <int N> __device__ __forceinline__ void settle(float (&r)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(r[i])::"memory");
}

// The warpgroups take turns in handing products to the tensor cores, so that one computes exponentials meanwhile.
__device__ __forceinline__ void turn_await(uint32_t wg)
{
#ifndef NO_TURNS
    asm volatile("bar.sync %0, 256;" ::"r"(3 + wg) : "memory");
#endif
}

__device__ __forceinline__ void turn_pass(uint32_t wg)
{
#ifndef NO_TURNS
    asm volatile("bar.arrive %0, 256;" ::"r"(4 - wg) : "memory");
#endif
}

// Where a warpgroup stands: tile i of n, from the last backwards.
struct prefill_place {
    uint32_t q, memory, lane, wg, n;
    int32_t last, mine,
        edge; // first token of the last tile; see `low`; tiles from here on are masked
};

template <typename C>
__device__ __forceinline__ void prefill_probabilities(const attention_params &p,
                                                      prefill_state<C::dim> &a,
                                                      const prefill_place &x, uint32_t i,
                                                      float (&corr)[2])
{
    const int32_t token = x.last - static_cast<int32_t>(i * TILE);

    prefill_softmax<C::dim>(p, a, C::score_scale(p), x.mine - token, token > x.edge || p.window,
                            corr);
}

// Without a branch between the beginning of products and the wait for them, or the compiler waits at once.
template <typename C>
__device__ __forceinline__ void prefill_consume(const attention_params &p, const prefill_item &t,
                                                unsigned char *memory, const prefill_barriers &b,
                                                prefill_state<C::dim> &a)
{
    using T = typename C::math;
    constexpr int D = C::dim;
    using shape = prefill_shape<D>;
    const uint32_t wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, at = shared_address(memory);
    const int32_t position = t.position + static_cast<int32_t>(wg * 64);
    const prefill_place x = {
        at + wg * (D / 64) * 8192,
        at,
        lane,
        wg,
        t.last + 1 - t.first,
        static_cast<int32_t>(t.last * TILE),
        position + static_cast<int32_t>(threadIdx.x % 128 / 32 * 16 + lane / 4 - lane % 4 * 2),
        position - TILE + 1};
    float corr[2];

    barrier_wait(b.query, 0);
    C::prepare(p, memory + wg * (D / 64) * 8192, wg);
    barrier_wait(b.k_full, 0);
    wgmma_fence();
    prefill_scores<T, D>(a, x.q, at + shape::keys);
    wgmma_wait<0>();
    settle(a.s);
    if (lane == 0)
        barrier_arrive(b.k_empty);
    prefill_probabilities<C>(p, a, x, 0, corr);
    prefill_turn<T, D>(a, corr);
    barrier_wait(b.v_full, 0);
    if (C::clears && x.last + TILE > t.context)
        prefill_clear<D>(memory + shape::values, static_cast<uint32_t>(t.context - x.last), wg);
    if (wg == 1)
        turn_pass(wg);
    for (uint32_t i = 1; i < x.n; i++) { // scores of tile i, values of tile i - 1
        const uint32_t s = i % STAGES, before = (i + STAGES - 1) % STAGES;
        barrier_wait(b.k_full + 8 * s, (i / STAGES) & 1);
        barrier_wait(b.v_full + 8 * before, ((i - 1) / STAGES) & 1);
        turn_await(wg);
        wgmma_fence();
        prefill_scores<T, D>(a, x.q, at + shape::keys + s * shape::tile);
        prefill_values<T, D>(a, at + shape::values + before * shape::tile);
        turn_pass(wg);
        wgmma_wait<1>();
        settle(a.s);
        if (lane == 0)
            barrier_arrive(b.k_empty + 8 * s);
        prefill_probabilities<C>(p, a, x, i, corr);
        wgmma_wait<0>();
        settle(a.o);
        if (lane == 0)
            barrier_arrive(b.v_empty + 8 * before);
        prefill_turn<T, D>(a, corr);
    }
    if (wg == 0)
        turn_await(wg);
    const uint32_t end = (x.n - 1) % STAGES;
    barrier_wait(b.v_full + 8 * end, ((x.n - 1) / STAGES) & 1);
    wgmma_fence();
    prefill_values<T, D>(a, at + shape::values + end * shape::tile);
    wgmma_wait<0>();
    settle(a.o);
}

template <typename C>
__device__ __forceinline__ void prefill_store(const attention_params &p, const prefill_item &t,
                                              prefill_state<C::dim> &a)
{
    using T = typename C::type;
    constexpr int D = C::dim;
    const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 - 64 + lane / 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t row = first + 8 * h;
        float sum = a.l[h];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        const float scale = sum > 0.0f ? C::value_scale(p) / sum : 0.0f;
        if (row >= t.rows)
            continue;
        T *out = static_cast<T *>(p.out) +
                 (static_cast<uint64_t>(t.row + row) * p.heads + blockIdx.x) * D + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < D / 8; j++)
            *reinterpret_cast<uint32_t *>(out + 8 * j) =
                element<T>::pack(a.o[4 * j + 2 * h] * scale, a.o[4 * j + 2 * h + 1] * scale);
    }
}

template <typename C> __device__ __forceinline__ void prefill(const attention_params &p)
{
    constexpr int D = C::dim;
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t at = shared_address(memory) + C::barriers;
    prefill_item *item = reinterpret_cast<prefill_item *>(memory + C::barriers + 128);
    const prefill_barriers b = {at,
                                at + 8,
                                at + 8 + 8 * STAGES,
                                at + 8 + 16 * STAGES,
                                at + 8 + 24 * STAGES,
                                at + 8 + 32 * STAGES};

    allow_successor();
    if (threadIdx.x == 0) {
        map_prefetch(&p.cache);
        map_prefetch(&p.query);
        barrier_init(b.query, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(b.k_full + 8 * i, 1);
            barrier_init(b.v_full + 8 * i, 1);
            barrier_init(b.k_empty + 8 * i, 8);
            barrier_init(b.v_empty + 8 * i, 8);
        }
        C::init(b);
        barrier_init_fence();
    }
    wait_for_predecessor();
    if (threadIdx.x < 32) {
        const prefill_item found = prefill_find(p);
        if (threadIdx.x == 0)
            *item = found;
    }
    __syncthreads();
    const prefill_item t = *item;
    if (t.rows == 0)
        return;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(C::few));
        if (t.context > 0)
            C::produce(p, t, memory, b);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(C::many));
        prefill_state<D> a;
        a.m[0] = a.m[1] = NOTHING;
        a.l[0] = a.l[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            a.o[i] = 0.0f;
        if (t.context > 0)
            prefill_consume<C>(p, t, memory, b, a);
        prefill_store<C>(p, t, a);
    }
}

#endif
