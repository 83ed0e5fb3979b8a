// SPDX-License-Identifier: Apache-2.0
// Attention of single rows over the paged cache: memory-bound, so everything serves the stream of keys and values.
//
// An item is a row and a kv head (or eight of its query heads). The blocks of a cluster split the item's context and
// merge through distributed shared memory, so there is no workspace and no second kernel. A warp takes 16 tokens:
// scores are K q^T with tokens on the M and heads on the N of mma.sync, outputs are V^T p^T likewise; between both,
// movmatrix turns p. Online softmax in base 2 (Milakov and Gimelshein 2018; Dao et al. 2022). Items are read from device
// state, so a captured graph stays valid when contexts grow.
#include "rope.cuh"

#define TOKENS DECODE_TILE // sixteen for each of four warps
#define THREADS DECODE_THREADS
#define NOTHING -1e30f // the maximum of no scores; finite, so that differences of it are

template <int D, int STAGES> struct decode_shape {
    static constexpr uint32_t stage = TOKENS * D * 2 * 2; // keys and values
    static constexpr uint32_t pitch = D + 4;              // floats; no bank conflicts
    static constexpr uint32_t q_pitch = D + 8;            // elements
    static constexpr uint32_t q_at = STAGES * stage, own_at = q_at + 8 * q_pitch * 2;
    static constexpr uint32_t barriers = own_at + 2 * D * 2; // own: the row's key and value
    // The results lie in the ring when it has been read: per warp, then of the block.
    static constexpr uint32_t part = 8 * pitch, merged = 4 * part * 4;
};

// What a block works on.
struct decode_item {
    uint32_t row, kv_head, first_head, heads;
    int32_t position, start; // of the row; first token that it sees
    uint32_t begin, end;     // tiles of TOKENS
    const int32_t *blocks;
    bool appends; // this block stores the row's key and value
};

__device__ __forceinline__ decode_item decode_find(const attention_params &p)
{
    const uint32_t splits = cluster_size(), rank = cluster_rank(), item = blockIdx.x / splits;
    const uint32_t per_row = p.kv_heads * p.subgroups, sub = item % p.subgroups;
    decode_item t;

    t.row = item / per_row;
    t.kv_head = item % per_row / p.subgroups;
    t.first_head = t.kv_head * p.group + sub * 8;
    t.heads = min(8u, p.group - sub * 8);
    t.position = p.positions[t.row];
    t.start = p.window ? max(0, t.position - static_cast<int32_t>(p.window) + 1) : 0;
    t.blocks = p.block_table + static_cast<uint64_t>(p.row_seq[t.row]) * p.max_blocks;
    if (t.position < 0 || p.row_slot[t.row] < 0) { // a row that only fills a bucket
        t.position = -1;
        t.begin = t.end = 0;
        t.appends = false;
        return t;
    }
    const uint32_t first = t.start / TOKENS, n = t.position / TOKENS + 1 - first;
    t.begin = first + n * rank / splits;
    t.end = first + n * (rank + 1) / splits;
    t.appends = p.k && rank + 1 == splits;
    return t;
}

template <int D, int STAGES>
__device__ __forceinline__ void decode_produce(const attention_params &p, const decode_item &t,
                                               uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = decode_shape<D, STAGES>;
    const uint32_t lane = threadIdx.x % 32, per_block = p.block_tokens, box = 1u << p.box_shift;
    const uint32_t boxes = TOKENS >> p.box_shift, box_bytes = shape::stage / TOKENS * box;
    const uint32_t past = static_cast<uint32_t>(t.position) + 1;

    for (uint32_t i = 0; i < t.end - t.begin; i++) {
        const uint32_t s = i % STAGES, tile = (t.begin + i) * TOKENS;
        const uint32_t there = min(boxes, (past - tile + box - 1) >> p.box_shift);
        if (i >= STAGES)
            barrier_wait(empty + 8 * s, (i / STAGES - 1) & 1);
        if (lane == 0)
            barrier_arrive_expect(full + 8 * s, there * box_bytes);
        __syncwarp();
        for (uint32_t b = lane; b < there; b += 32) {
            const uint32_t token = tile + b * box;
            const int32_t block =
                max(t.blocks[token / per_block], 0); // behind the window: masked, but read
            const int32_t row = static_cast<int32_t>(t.kv_head * per_block + token % per_block);
            copy_5d(ring + s * shape::stage + b * box_bytes, &p.cache, 0, row, 0, 0, block,
                    full + 8 * s, EVICT_FIRST);
        }
    }
}

// Where token `r` (of a stage) lies in it, and the element `d` of its key; `kv` is 1 for its value. The swizzle is
// a matter of the address: bits 4 to 6 are turned by bits 7 to 9. Boxes of eight tokens or more keep those of the row.
template <int D>
__device__ __forceinline__ uint32_t token_address(uint32_t stage, uint32_t shift, uint32_t r,
                                                  uint32_t d, uint32_t kv)
{
    const uint32_t in = r & ((1u << shift) - 1), plane = 128u << shift;
    const uint32_t at =
        stage + (r >> shift) * (2 * (D / 64) * plane) + in * 128 + (kv * (D / 64) + d / 64) * plane;

    return at + ((d % 64 / 8) ^ (shift >= 3 ? in % 8 : at / 128 % 8)) * 16 + d % 8 * 2;
}

// The row's own key, rotated, and its value: into the cache, and into `own` for the tile that it belongs to. Warps 0 to 3.
template <typename T, int D>
__device__ __forceinline__ void decode_append(const attention_params &p, const decode_item &t,
                                              T *own)
{
    const uint64_t row = (static_cast<uint64_t>(t.row) * p.kv_heads + t.kv_head) * D;
    const uint64_t slot = static_cast<uint64_t>(p.row_slot[t.row]);
    const uint64_t block = slot / p.block_tokens, in = slot % p.block_tokens;
    T *keys = reinterpret_cast<T *>(static_cast<unsigned char *>(p.keys) + block * p.block_bytes);
    T *values = keys + static_cast<uint64_t>(p.kv_heads) * p.block_tokens * D;
    const uint64_t at = (static_cast<uint64_t>(t.kv_head) * p.block_tokens + in) * D;
    const bool writes = t.first_head == t.kv_head * p.group; // of several blocks only one
    const uint32_t i = threadIdx.x;

    if (i < D / 2) {
        rope_pair<T>(p.rope_k, static_cast<const T *>(p.k) + row, t.position, i,
                     [&](uint32_t d, T v) {
                         own[d] = v;
                         if (writes)
                             keys[at + d] = v;
                     });
    } else if (i < D) {
        for (uint32_t d = 2 * (i - D / 2), end = d + 2; d < end; d++) {
            own[D + d] = static_cast<const T *>(p.v)[row + d];
            if (writes)
                values[at + d] = own[D + d];
        }
    }
}

// Sixteen tokens at the edge of what the row sees: values of the others must be numbers. One warp.
template <typename T, int D>
__device__ __forceinline__ void decode_edge(const attention_params &p, const decode_item &t,
                                            unsigned char *memory, const T *own, uint32_t stage,
                                            int32_t first, uint32_t r)
{
    for (uint32_t i = threadIdx.x % 32; i < 16 * D / 8; i += 32) {
        const int32_t token = first + static_cast<int32_t>(i / (D / 8));
        if (token < t.start || token > t.position)
            *reinterpret_cast<uint4 *>(memory + token_address<D>(stage, p.box_shift,
                                                                 r + i / (D / 8), i % (D / 8) * 8,
                                                                 1)) = make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    if (t.appends && first <= t.position && t.position < first + 16)
        for (uint32_t i = threadIdx.x % 32; i < 2 * D; i += 32)
            *reinterpret_cast<T *>(memory + token_address<D>(stage, p.box_shift,
                                                             r + t.position - first, i % D,
                                                             i / D)) = own[i];
    proxy_fence(); // the copy engine may write here next
    __syncwarp();
}

// The state of a warp: of heads h = 2 (lane % 4) and the next, and outputs d = 16 m + lane / 4 (and + 8).
template <int D> struct decode_state {
    float m[2], l[2], o[D / 16][4];
};

template <int D>
__device__ __forceinline__ void decode_softmax(const attention_params &p, const decode_item &t,
                                               decode_state<D> &a, float (&s)[4], int32_t first)
{
    const int32_t token = first + static_cast<int32_t>(threadIdx.x % 32 / 4);
    float corr[2];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int32_t j = token + (i >= 2 ? 8 : 0);
        s[i] *= p.scale;
        if (p.softcap > 0.0f)
            s[i] = p.softcap * tanhf(s[i] / p.softcap);
        s[i] = j < t.start || j > t.position ? -INFINITY : s[i] * 1.44269504f;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(a.m[h], fmaxf(s[h], s[2 + h]));
        for (int step = 4; step < 32; step *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, step));
        corr[h] = power_of_two(a.m[h] - most);
        a.m[h] = most;
        s[h] = power_of_two(s[h] - most);
        s[2 + h] = power_of_two(s[2 + h] - most);
        a.l[h] = a.l[h] * corr[h] + s[h] + s[2 + h];
    }
#pragma unroll
    for (int m = 0; m < D / 16; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            a.o[m][i] *= corr[i % 2];
}

template <typename T, int D, int STAGES>
__device__ __forceinline__ void decode_consume(const attention_params &p, const decode_item &t,
                                               unsigned char *memory, const T *own,
                                               const uint32_t (&q)[D / 16][2], decode_state<D> &a,
                                               uint32_t full, uint32_t empty)
{
    using shape = decode_shape<D, STAGES>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, ring = shared_address(memory);
    const uint32_t k_row = warp * 16 + lane % 16, v_row = warp * 16 + lane / 16 * 8 + lane % 8;

    for (uint32_t i = 0; i < t.end - t.begin; i++) {
        const uint32_t s = i % STAGES, stage = s * shape::stage;
        const int32_t first = static_cast<int32_t>((t.begin + i) * TOKENS + warp * 16);
        barrier_wait(full + 8 * s, (i / STAGES) & 1);
        if (first <= t.position && first + 15 >= t.start) {
            float scores[4] = {0, 0, 0, 0};
            uint32_t x[4];
            if (first < t.start || first + 15 >= t.position)
                decode_edge<T, D>(p, t, memory, own, stage, first, warp * 16);
#pragma unroll
            for (int k = 0; k < D / 16; k++) {
                load_matrices(x, ring + token_address<D>(stage, p.box_shift, k_row,
                                                         16 * k + lane / 16 * 8, 0));
                element<T>::mma(scores, x, q[k][0], q[k][1]);
            }
            decode_softmax<D>(p, t, a, scores, first);
            const uint32_t b0 = transpose_matrix(element<T>::pack(scores[0], scores[1]));
            const uint32_t b1 = transpose_matrix(element<T>::pack(scores[2], scores[3]));
#pragma unroll
            for (int m = 0; m < D / 16; m++) {
                load_matrices_transposed(x, ring + token_address<D>(stage, p.box_shift, v_row,
                                                                    16 * m + lane / 8 % 2 * 8, 1));
                element<T>::mma(a.o[m], x, b0, b1);
            }
        }
        __syncwarp();
        if (lane == 0)
            barrier_arrive(empty + 8 * s);
    }
}

// Four warps' states become one: outputs [8][D], then maxima and sums, at shape::merged.
template <int D, int STAGES>
__device__ __forceinline__ void decode_merge_warps(decode_state<D> &a, unsigned char *memory,
                                                   uint32_t heads)
{
    using shape = decode_shape<D, STAGES>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = lane % 4 * 2;
    float *parts = reinterpret_cast<float *>(memory), *mine = parts + warp * shape::part;
    float *out = reinterpret_cast<float *>(memory + shape::merged), *stats = out + 8 * D;

    asm volatile("bar.sync 1, 128;" ::: "memory"); // the ring has been read
#pragma unroll
    for (int h = 0; h < 2; h++)
        for (int step = 4; step < 32; step *= 2)
            a.l[h] += __shfl_xor_sync(0xFFFFFFFFu, a.l[h], step);
#pragma unroll
    for (int m = 0; m < D / 16; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            mine[(head + i % 2) * shape::pitch + 16 * m + lane / 4 + i / 2 * 8] = a.o[m][i];
    if (lane < 4)
        for (int h = 0; h < 2; h++) {
            stats[16 + warp * 16 + head + h] = a.m[h];
            stats[16 + warp * 16 + 8 + head + h] = a.l[h];
        }
    asm volatile("bar.sync 1, 128;" ::: "memory");
    for (uint32_t i = threadIdx.x; i < heads * D; i += 128) {
        const uint32_t h = i / D;
        float most = NOTHING, sum = 0.0f, total = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++)
            most = fmaxf(most, stats[16 + w * 16 + h]);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float weight = power_of_two(stats[16 + w * 16 + h] - most);
            total += weight * stats[16 + w * 16 + 8 + h];
            sum += weight * parts[w * shape::part + h * shape::pitch + i % D];
        }
        out[i] = sum;
        if (i % D == 0) {
            stats[h] = most;
            stats[8 + h] = total;
        }
    }
}

// The cluster's states become the output; each block writes a share of it. All loads of one kind go out before the first is
// used: a peer's memory is far away.
template <typename T, int D, int SPLITS>
__device__ __forceinline__ void decode_store_share(const attention_params &p, const decode_item &t,
                                                   uint32_t at)
{
    const uint32_t stats = at + 8 * D * 4, share = (t.heads * D + SPLITS - 1) / SPLITS;
    const uint32_t first = cluster_rank() * share, last = min(first + share, t.heads * D);
    T *out = static_cast<T *>(p.out) + (static_cast<uint64_t>(t.row) * p.heads + t.first_head) * D;

    for (uint32_t i = first + threadIdx.x; i < last; i += THREADS) {
        float m[SPLITS], l[SPLITS], o[SPLITS], most = NOTHING, sum = 0.0f, total = 0.0f;
#pragma unroll
        for (int c = 0; c < SPLITS; c++) {
            m[c] = peer_load(peer_address(stats + i / D * 4, c));
            l[c] = peer_load(peer_address(stats + 32 + i / D * 4, c));
            o[c] = peer_load(peer_address(at + i * 4, c));
        }
#pragma unroll
        for (int c = 0; c < SPLITS; c++)
            most = fmaxf(most, m[c]);
#pragma unroll
        for (int c = 0; c < SPLITS; c++) {
            const float weight = power_of_two(m[c] - most);
            total += weight * l[c];
            sum += weight * o[c];
        }
        out[i] = static_cast<T>(total > 0.0f ? sum / total : 0.0f);
    }
}

template <typename T, int D, int STAGES>
__device__ __forceinline__ void decode_store(const attention_params &p, const decode_item &t,
                                             uint32_t ring)
{
    const uint32_t at = ring + decode_shape<D, STAGES>::merged;

    switch (cluster_size()) {
    case 1: decode_store_share<T, D, 1>(p, t, at); break;
    case 2: decode_store_share<T, D, 2>(p, t, at); break;
    case 4: decode_store_share<T, D, 4>(p, t, at); break;
    default: decode_store_share<T, D, 8>(p, t, at); break;
    }
}

// Rotated queries of the item's heads into shared memory, zeros for heads that it lacks. Warps 0 to 3.
template <typename T, int D>
__device__ __forceinline__ void decode_query(const attention_params &p, const decode_item &t, T *q,
                                             uint32_t pitch)
{
    for (uint32_t i = threadIdx.x; i < 8 * (D / 2); i += 128) {
        const uint32_t h = i / (D / 2), pair = i % (D / 2);
        T *to = q + h * pitch;
        if (h < t.heads) {
            const T *from = static_cast<const T *>(p.q) +
                            (static_cast<uint64_t>(t.row) * p.heads + t.first_head + h) * D;
            rope_pair<T>(p.rope_q, from, max(t.position, 0), pair,
                         [&](uint32_t d, T v) { to[d] = v; });
        } else {
            to[2 * pair] = to[2 * pair + 1] = static_cast<T>(0.0f);
        }
    }
}

template <typename T, int D, int STAGES>
__device__ __forceinline__ void decode(const attention_params &p)
{
    using shape = decode_shape<D, STAGES>;
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + shape::barriers;
    const uint32_t empty = full + 8 * STAGES, lane = threadIdx.x % 32;
    T *q = reinterpret_cast<T *>(memory + shape::q_at);
    T *own = reinterpret_cast<T *>(memory + shape::own_at);

    if (threadIdx.x == 128) {
        map_prefetch(&p.cache);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 4);
        }
        barrier_init_fence();
    }
    __syncthreads();
    // The arrays of the step stand before its first kernel begins, and of the cache only what this launch itself appends
    // is new: then the copies need not wait.
    if (!p.k)
        wait_for_predecessor();
    const decode_item t = decode_find(p);
    if (threadIdx.x >= 128) {
        decode_produce<D, STAGES>(p, t, ring, full, empty);
        allow_successor(); // its loads follow on these
        __syncwarp();
    } else {
        wait_for_predecessor();
        decode_state<D> a = {{NOTHING, NOTHING}, {0, 0}, {}};
        uint32_t b[D / 16][2];
        if (t.appends)
            decode_append<T, D>(p, t, own);
        decode_query<T, D>(p, t, q, shape::q_pitch);
        asm volatile("bar.sync 1, 128;" ::: "memory");
        const T *mine = q + lane / 4 * shape::q_pitch + lane % 4 * 2;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            b[k][0] = *reinterpret_cast<const uint32_t *>(mine + 16 * k);
            b[k][1] = *reinterpret_cast<const uint32_t *>(mine + 16 * k + 8);
        }
        decode_consume<T, D, STAGES>(p, t, memory, own, b, a, full, empty);
        decode_merge_warps<D, STAGES>(a, memory, t.heads);
    }
    cluster_sync();
    decode_store<T, D, STAGES>(p, t, ring);
    cluster_sync(); // the others may still read this block's part
}

#define DECODE(name, T, D, STAGES)                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                       \
        decode_##name##_##D##x##STAGES(const __grid_constant__ attention_params p)                 \
    {                                                                                              \
        decode<T, D, STAGES>(p);                                                                   \
    }

#define DECODE_BF16(D, STAGES) DECODE(bf16, __nv_bfloat16, D, STAGES)
#define DECODE_F16(D, STAGES) DECODE(f16, __half, D, STAGES)
DECODE_SHAPES(DECODE_BF16)
DECODE_SHAPES(DECODE_F16)
