// SPDX-License-Identifier: Apache-2.0
// Attention of single rows over the paged cache: memory-bound, so everything serves the stream of keys and values.
//
// An item is a row and a kv head (or eight of its query heads). The blocks of a cluster split the item's context and
// merge through distributed shared memory, so there is no workspace and no second kernel. A warp takes 16 tokens:
// scores are K q^T with tokens on the M and heads on the N of mma.sync, outputs are V^T p^T likewise; between both,
// movmatrix turns p. Online softmax in base 2 (Milakov and Gimelshein 2018; Dao et al. 2022). Items are read from device
// state, so a captured graph stays valid when contexts grow.
//
// What depends on how the cache is stored is a class C of its file (decode.cu, decode8.cu): its dtypes, how the copy engine
// brings a box, where an element of it lies, and both products of a warp.
#ifndef HOPPER_DECODE_CUH
#define HOPPER_DECODE_CUH

#include "shape_one.cuh"

#define TOKENS DECODE_TILE // sixteen for each of four warps
#define THREADS DECODE_THREADS
#define CONSUMERS 128  // threads: all but the warp that loads
#define NOTHING -1e30f // the maximum of no scores; finite, so that differences of it are

template <typename C> struct decode_shape {
    static constexpr uint32_t stage =
        TOKENS * C::dim * 2 * sizeof(typename C::cell); // keys and values
    static constexpr uint32_t pitch = C::dim + 4;       // floats; no bank conflicts
    static constexpr uint32_t q_pitch = C::dim + 8;     // elements
    static constexpr uint32_t q_at = C::stages * stage, own_at = q_at + 8 * q_pitch * 2;
    static constexpr uint32_t barriers =
        own_at + 2 * C::dim * sizeof(typename C::cell); // own: the row's key and value
    static constexpr uint32_t shaping =
        SHAPE_BEHIND(barriers + 16 * C::stages); // what shape_one wants
    // The results lie in the ring when it has been read: per warp, then of the block.
    static constexpr uint32_t part = 8 * pitch, merged = 4 * part * 4;
};

// What a block works on.
struct decode_item {
    uint32_t row, kv_head, first_head, heads;
    int32_t position, start; // of the row; first token that it sees
    uint32_t begin, end;     // tiles of TOKENS
    const int32_t *blocks;
    bool appends;         // this block stores the row's key and value
    float k_unit, v_unit; // of the head's keys and values in a cache of 8 bits, else 1
};

__device__ __forceinline__ decode_item decode_find(const attention_params &p)
{
    const uint32_t splits = cluster_size(), rank = cluster_rank();
    const uint32_t block = p.shaping.first ? blockIdx.x : blockIdx.x - p.shaping.blocks;
    const uint32_t item = block / splits;
    const uint32_t per_row = p.kv_heads * p.subgroups, sub = item % p.subgroups;
    decode_item t;

    t.row = item / per_row;
    t.kv_head = item % per_row / p.subgroups;
    t.first_head = t.kv_head * p.group + sub * 8;
    t.heads = min(8u, p.group - sub * 8);
    t.position = p.positions[t.row];
    t.start = p.window ? max(0, t.position - static_cast<int32_t>(p.window) + 1) : 0;
    t.blocks = p.block_table + static_cast<uint64_t>(p.row_seq[t.row]) * p.max_blocks;
    t.k_unit = p.k_scale ? p.k_scale[t.kv_head] : 1.0f;
    t.v_unit = p.v_scale ? p.v_scale[t.kv_head] : 1.0f;
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

// Pages of the boxes of several tiles, one in each lane: each is a read that a copy waits for, and one after the other they
// would take longer than the copies. For pages of fewer tokens than make 32 boxes of a tile.
struct decode_pages {
    uint32_t tiles;     // whose boxes the lanes have
    int32_t now, ahead; // of these tiles, and the next ones
};

// The page of the lane's box of those that begin with tile `first`.
__device__ __forceinline__ int32_t decode_page(const attention_params &p, const decode_item &t,
                                               uint32_t first)
{
    const uint32_t token = first * TOKENS + ((threadIdx.x % 32) << p.box_shift);

    if (token > static_cast<uint32_t>(t.position) || token >= t.end * TOKENS)
        return 0;
    return max(t.blocks[token / p.block_tokens], 0); // behind the window: masked, but read
}

template <typename C>
__device__ __forceinline__ void decode_produce(const attention_params &p, const decode_item &t,
                                               uint32_t ring, uint32_t full, uint32_t empty)
{
    using shape = decode_shape<C>;
    const uint32_t lane = threadIdx.x % 32, per_block = p.block_tokens, box = 1u << p.box_shift;
    const uint32_t boxes = TOKENS >> p.box_shift, box_bytes = shape::stage / TOKENS * box;
    const uint32_t past = static_cast<uint32_t>(t.position) + 1;
    decode_pages pages = {boxes <= 32 ? 32 / boxes : 1, 0, 0};

    if (t.begin < t.end) {
        pages.now = decode_page(p, t, t.begin);
        pages.ahead = decode_page(p, t, t.begin + pages.tiles);
    }
    for (uint32_t i = 0; i < t.end - t.begin; i++) {
        const uint32_t s = i % C::stages, tile = (t.begin + i) * TOKENS, in = i % pages.tiles;
        const uint32_t there = min(boxes, (past - tile + box - 1) >> p.box_shift);
        if (i > 0 && in == 0) {
            pages.now = pages.ahead;
            pages.ahead = decode_page(p, t, t.begin + i + pages.tiles);
        }
        if (i >= C::stages)
            barrier_wait(empty + 8 * s, (i / C::stages - 1) & 1);
        if (lane == 0)
            barrier_arrive_expect(full + 8 * s, there * box_bytes);
        __syncwarp();
        const int32_t mine = __shfl_sync(0xFFFFFFFFu, pages.now, in * boxes + lane);
        for (uint32_t b = lane; b < there; b += 32) {
            const uint32_t token = tile + b * box;
            const int32_t block = boxes <= 32 ? mine : max(t.blocks[token / per_block], 0);
            const int32_t row = static_cast<int32_t>(t.kv_head * per_block + token % per_block);
            C::copy(ring + s * shape::stage + b * box_bytes, &p.cache, row, block, full + 8 * s);
        }
    }
}

// What turns the pairs that a thread has of a head: pair threadIdx.x of each, or, of heads that are multiplied by the Hadamard
// matrix, which a warp has whole, pairs lane + 32 j.
template <int D> struct decode_turn {
    float2 angles[D / 64]; // cos and sin

    static __device__ __forceinline__ uint32_t pair(const rope_params &r, int j)
    {
        return r.hadamard ? threadIdx.x % 32 + 32 * j : threadIdx.x % (D / 2);
    }

    // Frequencies are weights, and the position stands before the step begins.
    __device__ __forceinline__ void prepare(const rope_params &r, int32_t position)
    {
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            if (j == 0 || r.hadamard)
                angles[j] = rope_angle(r, position, rope_freq(r, pair(r, j)));
    }
};

// A warp's head, rotated and multiplied by the Hadamard matrix, as y(element, what it became).
template <typename T, int D, typename Store>
__device__ __forceinline__ void decode_mixed(const rope_params &r, const T *from,
                                             const float2 (&angles)[D / 64], Store y)
{
    T x[D / 32];

    rope_read<T, D>(r, from, x);
    rope_hadamard<T, D>(r, x, angles);
#pragma unroll
    for (int n = 0; n < D / 32; n++)
        y(rope_element<D>(r, n), x[n]);
}

// Where the row's own key and value go in the cache.
template <typename C> struct decode_slot {
    typename C::cell *keys, *values;

    __device__ __forceinline__ decode_slot(const attention_params &p, const decode_item &t)
    {
        using cell = typename C::cell;
        const uint64_t slot = static_cast<uint64_t>(p.row_slot[t.row]), in = slot % p.block_tokens;

        keys = reinterpret_cast<cell *>(static_cast<unsigned char *>(p.keys) +
                                        slot / p.block_tokens * p.block_bytes) +
               (static_cast<uint64_t>(t.kv_head) * p.block_tokens + in) * C::dim;
        values = keys + static_cast<uint64_t>(p.kv_heads) * p.block_tokens * C::dim;
    }
};

// Two neighbouring elements of the row's value, or a pair of its key, as a thread has them: the first half of the threads the key.
template <typename C> struct decode_own {
    using T = typename C::type;
    using cell = typename C::cell;
    static constexpr uint32_t D = C::dim;
    uint2 at; // elements
    T a, b;

    __device__ __forceinline__ void load(const attention_params &p, const decode_item &t)
    {
        const uint64_t row = (static_cast<uint64_t>(t.row) * p.kv_heads + t.kv_head) * D;
        const uint32_t i = threadIdx.x;
        const T *from = static_cast<const T *>(i < D / 2 ? p.k : p.v) + row;

        at = i < D / 2 ? rope_elements(p.rope_k, i) : make_uint2(2 * i - D, 2 * i - D + 1);
        if (i >= D || (i < D / 2 && p.rope_k.hadamard))
            return;
        a = from[at.x];
        b = from[at.y];
    }

    // Into the cache, and into `own` for the tile that they belong to.
    __device__ __forceinline__ void store(const attention_params &p, const decode_item &t,
                                          const decode_turn<D> &turn, cell *own)
    {
        const decode_slot<C> slot(p, t);
        // Of several blocks only one, and none if others store rows with feedback.
        const bool writes = t.first_head == t.kv_head * p.group && !p.shaping.k;
        const uint32_t i = threadIdx.x;
        const auto store_key = [&](uint32_t d, T v) {
            own[d] = C::narrow_key(p, t, d, v);
            if (writes)
                slot.keys[d] = own[d];
        };

        if (p.rope_k.hadamard && i < 32)
            decode_mixed<T, D>(p.rope_k,
                               static_cast<const T *>(p.k) +
                                   (static_cast<uint64_t>(t.row) * p.kv_heads + t.kv_head) * D,
                               turn.angles, store_key);
        if (i < D / 2 && !p.rope_k.hadamard) {
            rope_turn<T>(p.rope_k, i, turn.angles[0], a, b);
            store_key(at.x, a);
            store_key(at.y, b);
        } else if (i >= D / 2 && i < D) {
            own[D + at.x] = C::narrow_value(p, t, a);
            own[D + at.y] = C::narrow_value(p, t, b);
            if (writes) {
                slot.values[at.x] = own[D + at.x];
                slot.values[at.y] = own[D + at.y];
            }
        }
    }
};

// A pair of each of the item's query heads that the thread has.
template <typename C> struct decode_queries {
    using T = typename C::type;
    static constexpr uint32_t D = C::dim;
    static constexpr int N = 8 * (D / 2) / CONSUMERS;
    T a[N], b[N];

    static __device__ __forceinline__ const T *head(const attention_params &p, const decode_item &t,
                                                    uint32_t h)
    {
        return static_cast<const T *>(p.q) +
               (static_cast<uint64_t>(t.row) * p.heads + t.first_head + h) * D;
    }

    __device__ __forceinline__ void load(const attention_params &p, const decode_item &t)
    {
        const uint2 at = rope_elements(p.rope_q, threadIdx.x % (D / 2));

#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t h = (threadIdx.x + n * CONSUMERS) / (D / 2);
            a[n] = b[n] = static_cast<T>(0.0f);
            if (h < t.heads && !p.rope_q.hadamard) {
                a[n] = head(p, t, h)[at.x];
                b[n] = head(p, t, h)[at.y];
            }
        }
    }

    // Rotated into shared memory, zeros for heads that the item lacks.
    __device__ __forceinline__ void store(const attention_params &p, const decode_item &t,
                                          const decode_turn<D> &turn, typename C::math *q,
                                          uint32_t pitch)
    {
        const float scale = C::query_scale(p, t);
        const uint32_t pair = threadIdx.x % (D / 2);
        const uint2 at = rope_elements(p.rope_q, pair);

        for (uint32_t h = threadIdx.x / 32; h < t.heads && p.rope_q.hadamard; h += 4)
            decode_mixed<T, D>(p.rope_q, head(p, t, h), turn.angles,
                               [&](uint32_t d, T v) { q[h * pitch + d] = C::query(v, scale); });
#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t h = (threadIdx.x + n * CONSUMERS) / (D / 2);
            if (h < t.heads && p.rope_q.hadamard)
                continue;
            if (h < t.heads)
                rope_turn<T>(p.rope_q, pair, turn.angles[0], a[n], b[n]);
            q[h * pitch + at.x] = C::query(a[n], scale);
            q[h * pitch + at.y] = C::query(b[n], scale);
        }
    }
};

// Sixteen tokens at the edge of what the row sees: values of the others must be numbers. One warp.
template <typename C>
__device__ __forceinline__ void decode_edge(const attention_params &p, const decode_item &t,
                                            unsigned char *memory, const typename C::cell *own,
                                            uint32_t stage, int32_t first, uint32_t r)
{
    using cell = typename C::cell;
    constexpr uint32_t D = C::dim, run = 16 / sizeof(cell);

    for (uint32_t i = threadIdx.x % 32; i < 16 * D / run; i += 32) {
        const uint32_t in = i / (D / run);
        const int32_t token = first + static_cast<int32_t>(in);
        if (token < t.start || token > t.position)
            *reinterpret_cast<uint4 *>(
                memory + C::address(stage, p.box_shift, r + in, i % (D / run) * run, 1)) =
                make_uint4(0, 0, 0, 0);
    }
    __syncwarp();
    if (t.appends && first <= t.position && t.position < first + 16)
        for (uint32_t i = threadIdx.x % 32; i < 2 * D; i += 32)
            *reinterpret_cast<cell *>(
                memory + C::address(stage, p.box_shift, r + t.position - first, i % D, i / D)) =
                own[i];
    proxy_fence(); // the copy engine may write here next
    __syncwarp();
}

// The state of a warp: of heads h = 2 (lane % 4) and the next, and outputs d = 16 m + C::output(lane) and + C::next.
template <int D> struct decode_state {
    float m[2], l[2], o[D / 16][4];
};

template <int D>
__device__ __forceinline__ void decode_softmax(const attention_params &p, const decode_item &t,
                                               decode_state<D> &a, float (&s)[4], float scale,
                                               int32_t first)
{
    const int32_t token = first + static_cast<int32_t>(threadIdx.x % 32 / 4);
    float corr[2];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int32_t j = token + (i >= 2 ? 8 : 0);
        s[i] *= scale;
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

template <typename C>
__device__ __forceinline__ void decode_consume(const attention_params &p, const decode_item &t,
                                               unsigned char *memory, const typename C::cell *own,
                                               const uint32_t (&q)[C::dim / 16][2],
                                               decode_state<C::dim> &a, uint32_t full,
                                               uint32_t empty)
{
    using shape = decode_shape<C>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, ring = shared_address(memory);

    for (uint32_t i = 0; i < t.end - t.begin; i++) {
        const uint32_t s = i % C::stages, stage = s * shape::stage;
        const int32_t first = static_cast<int32_t>((t.begin + i) * TOKENS + warp * 16);
        barrier_wait(full + 8 * s, (i / C::stages) & 1);
        if (first <= t.position && first + 15 >= t.start) {
            float scores[4] = {0, 0, 0, 0};
            if (first < t.start || first + 15 >= t.position)
                decode_edge<C>(p, t, memory, own, stage, first, warp * 16);
            C::scores(scores, q, ring, stage, p.box_shift, warp * 16);
            decode_softmax<C::dim>(p, t, a, scores, C::score_scale(p), first);
            const uint32_t b0 =
                transpose_matrix(element<typename C::math>::pack(scores[0], scores[1]));
            const uint32_t b1 =
                transpose_matrix(element<typename C::math>::pack(scores[2], scores[3]));
            C::values(a, b0, b1, ring, stage, p.box_shift, warp * 16);
        }
        __syncwarp();
        if (lane == 0)
            barrier_arrive(empty + 8 * s);
    }
}

// Four warps' states become one: outputs [8][D], then maxima and sums, at shape::merged.
template <typename C>
__device__ __forceinline__ void decode_merge_warps(decode_state<C::dim> &a, unsigned char *memory,
                                                   uint32_t heads)
{
    using shape = decode_shape<C>;
    constexpr uint32_t D = C::dim;
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
            mine[(head + i % 2) * shape::pitch + 16 * m + C::output(lane) + i / 2 * C::next] =
                a.o[m][i];
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

// The cluster's states become the output; each block writes a share of it, with all its threads, or with CONSUMERS of them if it is
// alone. All loads of one kind go out before the first is used: a peer's memory is far away.
template <typename C, int SPLITS>
__device__ __forceinline__ void decode_store_share(const attention_params &p, const decode_item &t,
                                                   uint32_t at)
{
    using T = typename C::type;
    constexpr uint32_t D = C::dim;
    const float unit = C::value_scale(p, t);
    const uint32_t stats = at + 8 * D * 4, share = (t.heads * D + SPLITS - 1) / SPLITS;
    const uint32_t first = cluster_rank() * share, last = min(first + share, t.heads * D);
    T *out = static_cast<T *>(p.out) + (static_cast<uint64_t>(t.row) * p.heads + t.first_head) * D;

    for (uint32_t i = first + threadIdx.x; i < last; i += SPLITS == 1 ? CONSUMERS : THREADS) {
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
        // Of nothing the sum is 0 too. It is used in any case: nothing that was read from others is on its way when they end.
        out[i] = static_cast<T>(unit * (sum / (total > 0.0f ? total : 1.0f)));
    }
}

template <typename C>
__device__ __forceinline__ void decode_store(const attention_params &p, const decode_item &t,
                                             uint32_t ring)
{
    const uint32_t at = ring + decode_shape<C>::merged;

    switch (cluster_size()) {
    case 2: decode_store_share<C, 2>(p, t, at); break;
    case 4: decode_store_share<C, 4>(p, t, at); break;
    default: decode_store_share<C, 8>(p, t, at); break;
    }
}

// What the block's warp that loads stores with feedback, if blocks of their own do not: 0 the keys of the item's head, 1 the values.
template <typename C>
__device__ __forceinline__ bool decode_shapes(const attention_params &p, const decode_item &t)
{
    return C::shaped && p.shaping.k && !p.shaping.blocks && cluster_rank() < 2 &&
           t.first_head == t.kv_head * p.group;
}

template <typename C>
__device__ __forceinline__ void decode_shape_row(const attention_params &p, const decode_item &t,
                                                 unsigned char *memory)
{
    unsigned char *room = memory + decode_shape<C>::shaping;
    const shape_item item = {t.kv_head + cluster_rank() * p.kv_heads, 0, 1};

    shape_one<typename C::type, C::dim>(p, p.rope_k, item, room, shared_address(room) - 8);
}

template <typename C> __device__ __forceinline__ void decode(const attention_params &p)
{
    using math = typename C::math;
    using cell = typename C::cell;
    constexpr int D = C::dim, STAGES = C::stages;
    using shape = decode_shape<C>;
    extern __shared__ __align__(1024) unsigned char memory[];
    const uint32_t ring = shared_address(memory), full = ring + shape::barriers;
    const uint32_t empty = full + 8 * STAGES, lane = threadIdx.x % 32;
    math *q = reinterpret_cast<math *>(memory + shape::q_at);
    cell *own = reinterpret_cast<cell *>(memory + shape::own_at);

    if (threadIdx.x == 128) {
        map_prefetch(&p.cache);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, 4);
        }
        if (C::shaped && p.shaping.k && !p.shaping.blocks)
            barrier_init(ring + shape::shaping - 8, 1);
        barrier_init_fence();
    }
    // The arrays of the step stand before its first kernel begins, and of the cache only what this launch itself appends
    // is new: then the copies need not wait.
    if (!p.k)
        wait_for_predecessor();
    const decode_item t = decode_find(p);
    __syncthreads();
    if (threadIdx.x >= 128) {
        decode_produce<C>(p, t, ring, full, empty);
        allow_successor(); // its loads follow on these
        __syncwarp();
        if constexpr (C::shaped)
            if (decode_shapes<C>(p, t)) { // meanwhile the others merge, and do not need this warp
                cluster_arrive();
                decode_shape_row<C>(p, t, memory);
                cluster_wait();
                cluster_meet();
                return;
            }
    } else {
        decode_state<D> a = {{NOTHING, NOTHING}, {0, 0}, {}};
        decode_turn<D> turn_q, turn_k;
        decode_queries<C> queries;
        decode_own<C> mine;
        uint32_t b[D / 16][2];
        turn_q.prepare(p.rope_q, max(t.position, 0));
        if (t.appends)
            turn_k.prepare(p.rope_k, t.position);
        wait_for_predecessor();
        queries.load(p, t);
        if (t.appends)
            mine.load(p, t);
        queries.store(p, t, turn_q, q, shape::q_pitch);
        if (t.appends)
            mine.store(p, t, turn_k, own);
        asm volatile("bar.sync 1, 128;" ::: "memory");
        const math *from = q + lane / 4 * shape::q_pitch + lane % 4 * C::q_step;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            b[k][0] = *reinterpret_cast<const uint32_t *>(from + 16 * k);
            b[k][1] = *reinterpret_cast<const uint32_t *>(from + 16 * k + C::q_second);
        }
        decode_consume<C>(p, t, memory, own, b, a, full, empty);
        decode_merge_warps<C>(a, memory, t.heads);
        if (cluster_size() == 1) { // who merged also stores: the warp that loads need not come
            asm volatile("bar.sync 1, 128;" ::: "memory");
            decode_store_share<C, 1>(p, t, ring + shape::merged);
        }
    }
    if (cluster_size() == 1)
        return;
    cluster_sync();
    decode_store<C>(p, t, ring);
    cluster_meet(); // the others may still read this block's part
}

#endif
