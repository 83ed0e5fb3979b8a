// SPDX-License-Identifier: Apache-2.0
// Attention of many rows of a sequence: bound by arithmetic. After FlashAttention-3 (Shah et al. 2024), without its
// overlap inside a warpgroup: one warp copies, two warpgroups of 64 rows each take turns on the tensor cores, one
// computing its softmax while the other multiplies. Scores and outputs stay in registers, p is wgmma's A.
//
// A block takes 128 rows of one sequence and one head, and walks tiles of 128 tokens from the diagonal backwards. Blocks
// with the most tiles come first.
#include "params.h"
#include "wgmma.cuh"

#define TILE 128 // tokens
#define ROWS 128 // of a block
#define THREADS 384
#define STAGES 2
#define NOTHING -1e30f

template <int D> struct prefill_shape {
    static constexpr uint32_t plane = TILE * 128;    // 64 elements of each token
    static constexpr uint32_t tile = D / 64 * plane; // keys, or values
    static constexpr uint32_t query = ROWS * D * 2, keys = query, values = keys + STAGES * tile;
    static constexpr uint32_t barriers = values + STAGES * tile;
};

// Addresses of the barriers: of the queries, then per stage of each kind.
struct prefill_barriers {
    uint32_t query, k_full, k_empty, v_full, v_empty;
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
            break;
        }
        before += __shfl_sync(0xFFFFFFFFu, sum, 31);
    }
    if (t.rows == 0)
        return t;
    t.position = p.positions[t.row];
    t.context = p.positions[p.first_row[t.seq + 1] - 1] + 1;
    const int32_t start = p.window ? max(0, t.position - static_cast<int32_t>(p.window) + 1) : 0;
    t.first = start / TILE;
    t.last = (t.position + static_cast<int32_t>(t.rows) - 1) / TILE;
    if (p.row_slot[t.row] < 0) // padding: nothing is seen
        t.context = 0;
    return t;
}

// Copies the planes of one tile of keys (kv 0) or values (kv 1). One warp.
template <int D>
__device__ __forceinline__ void prefill_copy(const attention_params &p, const prefill_item &t,
                                             uint32_t head, uint32_t tile, uint32_t kv, uint32_t to,
                                             uint32_t barrier)
{
    using shape = prefill_shape<D>;
    const uint32_t lane = threadIdx.x % 32, box = 1u << p.box_shift, token = tile * TILE;
    const uint32_t left = static_cast<uint32_t>(t.context) - token;
    const uint32_t there =
        min(static_cast<uint32_t>(TILE), (left + box - 1) & ~(box - 1)) >> p.box_shift;
    const int32_t *blocks = p.block_table + static_cast<uint64_t>(t.seq) * p.max_blocks;

    if (lane == 0)
        barrier_arrive_expect(barrier, there * box * D * 2);
    __syncwarp();
    for (uint32_t b = lane; b < there * (D / 64); b += 32) {
        const uint32_t half = b / there, in = b % there * box, at = token + in;
        const int32_t block = max(blocks[at / p.block_tokens], 0);
        const int32_t row =
            static_cast<int32_t>((kv * p.kv_heads + head) * p.block_tokens + at % p.block_tokens);
        copy_3d(to + half * shape::plane + in * 128, &p.cache, static_cast<int32_t>(half * 64), row,
                block, barrier, EVICT_LAST);
    }
}

template <int D>
__device__ __forceinline__ void prefill_produce(const attention_params &p, const prefill_item &t,
                                                uint32_t memory, const prefill_barriers &b)
{
    using shape = prefill_shape<D>;
    const uint32_t head = blockIdx.x / p.group;
    uint32_t i = 0;

    if (threadIdx.x == 0) {
        barrier_arrive_expect(b.query, shape::query);
        for (uint32_t w = 0; w < 2; w++)
            for (uint32_t half = 0; half < D / 64; half++)
                copy_2d(memory + (w * (D / 64) + half) * 8192, &p.query,
                        static_cast<int32_t>(blockIdx.x * D + half * 64),
                        static_cast<int32_t>(t.row + w * 64), b.query, EVICT_FIRST);
    }
    for (uint32_t tile = t.last + 1; tile-- > t.first; i++) {
        const uint32_t s = i % STAGES;
        if (i >= STAGES)
            barrier_wait(b.k_empty + 8 * s, (i / STAGES - 1) & 1);
        prefill_copy<D>(p, t, head, tile, 0, memory + shape::keys + s * shape::tile,
                        b.k_full + 8 * s);
        if (i >= STAGES)
            barrier_wait(b.v_empty + 8 * s, (i / STAGES - 1) & 1);
        prefill_copy<D>(p, t, head, tile, 1, memory + shape::values + s * shape::tile,
                        b.v_full + 8 * s);
    }
}

// Values beyond the context must be numbers, since they are multiplied by zero. One warpgroup.
template <int D> __device__ __forceinline__ void prefill_clear(unsigned char *values, uint32_t from)
{
    using shape = prefill_shape<D>;

    for (uint32_t i = from * 8 + threadIdx.x % 128; i < TILE * 8; i += 128)
        for (uint32_t half = 0; half < D / 64; half++)
            *reinterpret_cast<uint4 *>(values + half * shape::plane + i * 16) =
                make_uint4(0, 0, 0, 0);
    proxy_fence();
    if (threadIdx.x < 256) // of each warpgroup its own
        asm volatile("bar.sync 1, 128;" ::: "memory");
    else
        asm volatile("bar.sync 2, 128;" ::: "memory");
}

// The state of a thread: rows r = lane / 4 and r + 8 of its warp's sixteen.
template <int D> struct prefill_state {
    float m[2], l[2], o[D / 2], s[TILE / 2];
};

// Scores into powers of two, in place. `low`: position of the thread's first row less the tile's first token less what
// the thread's column adds, so that score j is seen if its column is at most that.
template <int D>
__device__ __forceinline__ void prefill_softmax(const attention_params &p, prefill_state<D> &a,
                                                int32_t low, bool masked)
{
    const float factor = p.softcap > 0.0f ? 1.44269504f : p.scale * 1.44269504f;

    if (p.softcap > 0.0f)
#pragma unroll
        for (int i = 0; i < TILE / 2; i++)
            a.s[i] = p.softcap * tanhf(a.s[i] * p.scale / p.softcap);
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
        const float corr = power_of_two((a.m[h] - most) * factor), offset = most * factor;
        a.m[h] = most;
#pragma unroll
        for (int i = 2 * h; i < TILE / 2; i += 4) {
            a.s[i] = power_of_two(a.s[i] * factor - offset);
            a.s[i + 1] = power_of_two(a.s[i + 1] * factor - offset);
            sum += a.s[i] + a.s[i + 1];
        }
        a.l[h] = a.l[h] * corr + sum;
#pragma unroll
        for (int i = 2 * h; i < D / 2; i += 4) {
            a.o[i] *= corr;
            a.o[i + 1] *= corr;
        }
    }
}

template <typename T, int D>
__device__ __forceinline__ void prefill_consume(const attention_params &p, const prefill_item &t,
                                                unsigned char *memory, const prefill_barriers &b,
                                                prefill_state<D> &a)
{
    using shape = prefill_shape<D>;
    const uint32_t wg = threadIdx.x / 128 - 1, lane = threadIdx.x % 32, at = shared_address(memory);
    const uint32_t q = at + wg * (D / 64) * 8192;
    const int32_t position = t.position + static_cast<int32_t>(wg * 64);
    const int32_t mine =
        position + static_cast<int32_t>(threadIdx.x % 128 / 32 * 16 + lane / 4 - lane % 4 * 2);
    uint32_t i = 0;

    barrier_wait(b.query, 0);
    for (uint32_t tile = t.last + 1; tile-- > t.first; i++) {
        const uint32_t s = i % STAGES, phase = (i / STAGES) & 1;
        const uint32_t k = at + shape::keys + s * shape::tile,
                       v = at + shape::values + s * shape::tile;
        const int32_t token = static_cast<int32_t>(tile * TILE);
        barrier_wait(b.k_full + 8 * s, phase);
        wgmma_fence();
#pragma unroll
        for (int d = 0; d < D / 16; d++)
            wgmma<T, TILE>::run(a.s, wgmma_operand(q + d / 4 * 8192) + d % 4 * 2,
                                wgmma_operand(k + d / 4 * shape::plane) + d % 4 * 2, d > 0);
        wgmma_commit();
        wgmma_wait<0>();
        if (lane == 0)
            barrier_arrive(b.k_empty + 8 * s);
        prefill_softmax<D>(p, a, mine - token, token + TILE - 1 > position || p.window);
        uint32_t x[TILE / 16][4];
#pragma unroll
        for (int j = 0; j < TILE / 4; j++)
            x[j / 4][j % 4] = element<T>::pack(a.s[2 * j], a.s[2 * j + 1]);
        barrier_wait(b.v_full + 8 * s, phase);
        if (token + TILE > t.context)
            prefill_clear<D>(memory + shape::values + s * shape::tile,
                             static_cast<uint32_t>(t.context - token));
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < TILE / 16; j++)
            wgmma<T, D>::run_transposed(a.o, x[j], wgmma_transposed(v, shape::plane) + 128 * j, 1);
        wgmma_commit();
        wgmma_wait<0>();
        if (lane == 0)
            barrier_arrive(b.v_empty + 8 * s);
    }
}

template <typename T, int D>
__device__ __forceinline__ void prefill_store(const attention_params &p, const prefill_item &t,
                                              prefill_state<D> &a)
{
    const uint32_t lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 - 64 + lane / 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        const uint32_t row = first + 8 * h;
        float sum = a.l[h];
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        const float scale = sum > 0.0f ? 1.0f / sum : 0.0f;
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

template <typename T, int D> __device__ __forceinline__ void prefill(const attention_params &p)
{
    using shape = prefill_shape<D>;
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t at = shared_address(memory) + shape::barriers;
    prefill_item *item = reinterpret_cast<prefill_item *>(memory + shape::barriers + 128);
    const prefill_barriers b = {at, at + 8, at + 8 + 8 * STAGES, at + 8 + 16 * STAGES,
                                at + 8 + 24 * STAGES};

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
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x < 32 && t.context > 0)
            prefill_produce<D>(p, t, shared_address(memory), b);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        prefill_state<D> a;
        a.m[0] = a.m[1] = NOTHING;
        a.l[0] = a.l[1] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            a.o[i] = 0.0f;
        if (t.context > 0)
            prefill_consume<T, D>(p, t, memory, b, a);
        prefill_store<T, D>(p, t, a);
    }
}

#define PREFILL(name, T, D)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                       \
        prefill_##name##_##D(const __grid_constant__ attention_params p)                           \
    {                                                                                              \
        prefill<T, D>(p);                                                                          \
    }

PREFILL(bf16, __nv_bfloat16, 128)
PREFILL(bf16, __nv_bfloat16, 64)
PREFILL(f16, __half, 128)
PREFILL(f16, __half, 64)
