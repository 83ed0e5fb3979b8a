// SPDX-License-Identifier: Apache-2.0
// Attention of single rows over the paged cache: memory-bound, so everything serves the stream of keys and values.
//
// An item is a row and a kv head (or eight of its query heads). The blocks of a cluster split the item's context and
// send each other what they found through distributed shared memory, so there is no workspace and no second kernel. A warp
// takes 16 tokens: scores are K q^T with tokens on the M and heads on the N of mma.sync, outputs are V^T p^T likewise; between
// both, movmatrix turns p. Online softmax in base 2 (Milakov and Gimelshein 2018; Dao et al. 2022). Items are read from device
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
    static constexpr uint32_t own_there = barriers + 16 * C::stages, parts_there = own_there + 8;
    // What the blocks of a cluster send to this one, and behind it what shape_one wants.
    static constexpr uint32_t sent = DECODE_BEHIND(parts_there + 8);
    static constexpr uint32_t shaping = SHAPE_BEHIND(sent + DECODE_SENT(C::dim));
    // The results lie in the ring when it has been read: per warp, then of the block.
    static constexpr uint32_t part = 8 * pitch, merged = 4 * part * 4;
    static constexpr uint32_t stats = 8 * C::dim * 4; // behind outputs, of the block and sent
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

// The row's own key and value, which the warp that loads has whole: what the others do with tokens before does not wait for them.
template <typename C> struct decode_own {
    using T = typename C::type;
    using cell = typename C::cell;
    static constexpr uint32_t D = C::dim, N = D / 32;
    const rope_params &r;
    float mean[N]; // of its elements of keys
    float2 angles[D / 64];

    // What stands before the step begins.
    __device__ __forceinline__ decode_own(const attention_params &p, const decode_item &t)
        : r(p.rope_k)
    {
#pragma unroll
        for (uint32_t n = 0; n < N; n++)
            mean[n] = C::key_mean(p, t, rope_element<D>(r, n));
#pragma unroll
        for (int j = 0; j < D / 64; j++)
            angles[j] = rope_angle(r, t.position, rope_freq(r, threadIdx.x % 32 + 32 * j));
    }

    // Into `own`, for the tile that they belong to; `barrier` is told. And into the cache.
    __device__ __forceinline__ void store(const attention_params &p, const decode_item &t,
                                          cell *own, uint32_t barrier)
    {
        const uint64_t row = (static_cast<uint64_t>(t.row) * p.kv_heads + t.kv_head) * D;
        T k[N], v[N];
        cell key[N], value[N];

        rope_read<T, D>(r, static_cast<const T *>(p.k) + row, k);
        rope_read<T, D>(r, static_cast<const T *>(p.v) + row, v);
        if (r.hadamard)
            rope_hadamard<T, D>(r, k, angles);
        else
            rope_rotate<T, D>(r, k, angles);
#pragma unroll
        for (uint32_t n = 0; n < N; n++) {
            const uint32_t d = rope_element<D>(r, n);
            own[d] = key[n] = C::narrow_key(t, mean[n], k[n]);
            own[D + d] = value[n] = C::narrow_value(p, t, v[n]);
        }
        barrier_arrive(barrier); // each lane, of what it wrote itself
        // Of several blocks only one, and none if others store rows with feedback.
        if (C::storing != DECODE_NEAREST || t.first_head != t.kv_head * p.group)
            return;
        const decode_slot<C> slot(p, t);
#pragma unroll
        for (uint32_t n = 0; n < N; n++) {
            slot.keys[rope_element<D>(r, n)] = key[n];
            slot.values[rope_element<D>(r, n)] = value[n];
        }
    }
};

// Pairs of the item's query heads as a thread has them: pair decode_turn::pair() of each, or, of heads that a warp has whole, all of its
// pairs of every fourth head. What is read is on its way at once.
template <typename C> struct decode_queries {
    using T = typename C::type;
    static constexpr uint32_t D = C::dim;
    static constexpr int PAIRS = D / 64, N = 8 * (D / 2) / CONSUMERS;
    static_assert(N == 2 * PAIRS, "a warp has two heads at most");
    T a[N], b[N];

    static __device__ __forceinline__ uint32_t head(const rope_params &r, int n)
    {
        return r.hadamard ? threadIdx.x / 32 + n / PAIRS * 4
                          : (threadIdx.x + n * CONSUMERS) / (D / 2);
    }
    static __device__ __forceinline__ uint2 at(const rope_params &r, int n)
    {
        return rope_elements(r, decode_turn<D>::pair(r, n % PAIRS));
    }

    __device__ __forceinline__ void load(const attention_params &p, const decode_item &t)
    {
        const T *first = static_cast<const T *>(p.q) +
                         (static_cast<uint64_t>(t.row) * p.heads + t.first_head) * D;

#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t h = head(p.rope_q, n);
            const uint2 i = at(p.rope_q, n);
            a[n] = b[n] = static_cast<T>(0.0f);
            if (h < t.heads) {
                a[n] = first[h * D + i.x];
                b[n] = first[h * D + i.y];
            }
        }
    }

    // Those from the n-th on are a whole head, which the warp has.
    __device__ __forceinline__ void mix(const rope_params &r, const decode_turn<D> &turn, int n)
    {
        T x[2 * PAIRS];

#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            x[2 * j] = a[n + j];
            x[2 * j + 1] = b[n + j];
        }
        rope_hadamard<T, D>(r, x, turn.angles);
#pragma unroll
        for (int j = 0; j < PAIRS; j++) {
            a[n + j] = x[2 * j];
            b[n + j] = x[2 * j + 1];
        }
    }

    // Rotated into shared memory, zeros for heads that the item lacks.
    __device__ __forceinline__ void store(const attention_params &p, const decode_item &t,
                                          const decode_turn<D> &turn, typename C::math *q,
                                          uint32_t pitch)
    {
        const rope_params &r = p.rope_q;
        const float scale = C::query_scale(p, t);

#pragma unroll
        for (int n = 0; n < N; n++) {
            const uint32_t h = head(r, n);
            const uint2 i = at(r, n);
            if (h < t.heads && r.hadamard && n % PAIRS == 0)
                mix(r, turn, n);
            else if (h < t.heads && !r.hadamard)
                rope_turn<T>(r, threadIdx.x % (D / 2), turn.angles[0], a[n], b[n]);
            q[h * pitch + i.x] = C::query(a[n], scale);
            q[h * pitch + i.y] = C::query(b[n], scale);
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
            if (t.appends && first + 15 >= t.position)
                barrier_wait(ring + shape::own_there, 0);
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

// Which outputs of an item, [heads][D], block `rank` of a cluster makes of all blocks' parts: a share of them, from `first` on.
struct decode_outputs {
    uint32_t share, first;

    __device__ __forceinline__ decode_outputs(uint32_t outputs, uint32_t splits, uint32_t rank)
        : share(outputs / splits), first(rank * share)
    {
    }
    // Bytes of all parts: of each block the share's outputs, and for each of its heads maximum and sum.
    __device__ __forceinline__ uint32_t bytes(uint32_t splits, uint32_t dim) const
    {
        const uint32_t heads = (first + share - 1) / dim - first / dim + 1;

        return splits * (share * 4 + heads * 8);
    }
};

// Where the blocks of a cluster put their parts: at shape::sent of the block whose share they are, [block][share], and at shape::stats
// behind, [block][8 heads], maxima and sums. Nobody waits for a way to another block and back.
template <typename C> struct decode_sender {
    using shape = decode_shape<C>;
    uint32_t ring, outputs, splits, rank;

    __device__ __forceinline__ void operator()(uint32_t i, float4 sums, float most,
                                               float total) const
    {
        const decode_outputs mine(outputs, splits, 0);
        const uint32_t to = i / mine.share, in = i % mine.share, h = i / C::dim;
        const uint32_t there = peer_address(ring + shape::parts_there, to);
        const uint32_t at = peer_address(ring + shape::sent, to);

        peer_store4(at + (rank * mine.share + in) * 4, sums, there);
        if (in == 0 || i % C::dim == 0)
            peer_store2(at + shape::stats + (rank * 8 + h) * 8, make_float2(most, total), there);
    }
};

// Of a block that is alone: at shape::merged, likewise.
template <typename C> struct decode_keeper {
    unsigned char *memory;

    __device__ __forceinline__ void operator()(uint32_t i, float4 sums, float most,
                                               float total) const
    {
        unsigned char *at = memory + decode_shape<C>::merged;

        reinterpret_cast<float4 *>(at)[i / 4] = sums;
        if (i % C::dim == 0)
            reinterpret_cast<float2 *>(at + decode_shape<C>::stats)[i / C::dim] =
                make_float2(most, total);
    }
};

// Four warps' states become one: put(output of [8][D], the sums of it and the next three, their head's maximum and sum).
template <typename C, typename Put>
__device__ __forceinline__ void decode_merge_warps(decode_state<C::dim> &a, unsigned char *memory,
                                                   uint32_t heads, Put put)
{
    using shape = decode_shape<C>;
    constexpr uint32_t D = C::dim;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, head = lane % 4 * 2;
    float *parts = reinterpret_cast<float *>(memory), *mine = parts + warp * shape::part;
    // Behind the outputs of a block that is alone, and what it keeps of heads.
    float *stats = reinterpret_cast<float *>(memory + shape::merged + shape::stats) + 16;

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
            stats[warp * 16 + head + h] = a.m[h];
            stats[warp * 16 + 8 + head + h] = a.l[h];
        }
    asm volatile("bar.sync 1, 128;" ::: "memory");
    for (uint32_t i = threadIdx.x * 4; i < heads * D; i += CONSUMERS * 4) {
        const uint32_t h = i / D;
        float4 sums = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        float most = NOTHING, total = 0.0f;
#pragma unroll
        for (int w = 0; w < 4; w++)
            most = fmaxf(most, stats[w * 16 + h]);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float weight = power_of_two(stats[w * 16 + h] - most);
            const float4 part = *reinterpret_cast<const float4 *>(parts + w * shape::part +
                                                                  h * shape::pitch + i % D);
            total += weight * stats[w * 16 + 8 + h];
            sums.x += weight * part.x;
            sums.y += weight * part.y;
            sums.z += weight * part.z;
            sums.w += weight * part.w;
        }
        put(i, sums, most, total);
    }
}

// The block's share of the output, of SPLITS blocks' parts, which are `at` there, as a sender or a keeper puts them.
template <typename C, int SPLITS>
__device__ __forceinline__ void decode_store_share(const attention_params &p, const decode_item &t,
                                                   const unsigned char *at)
{
    using T = typename C::type;
    constexpr uint32_t D = C::dim;
    const decode_outputs mine(t.heads * D, SPLITS, SPLITS == 1 ? 0 : cluster_rank());
    const float *parts = reinterpret_cast<const float *>(at), unit = C::value_scale(p, t);
    const float2 *stats = reinterpret_cast<const float2 *>(at + decode_shape<C>::stats);
    T *out = static_cast<T *>(p.out) + (static_cast<uint64_t>(t.row) * p.heads + t.first_head) * D;

    for (uint32_t i = threadIdx.x; i < mine.share; i += CONSUMERS) {
        const uint32_t h = (mine.first + i) / D;
        float2 of[SPLITS]; // maximum and sum
        float o[SPLITS], most = NOTHING, sum = 0.0f, total = 0.0f;
#pragma unroll
        for (int c = 0; c < SPLITS; c++) {
            of[c] = stats[c * 8 + h];
            o[c] = parts[c * mine.share + i];
        }
#pragma unroll
        for (int c = 0; c < SPLITS; c++)
            most = fmaxf(most, of[c].x);
#pragma unroll
        for (int c = 0; c < SPLITS; c++) {
            const float weight = power_of_two(of[c].x - most);
            total += weight * of[c].y;
            sum += weight * o[c];
        }
        out[mine.first + i] = static_cast<T>(unit * (sum / (total > 0.0f ? total : 1.0f)));
    }
}

template <typename C>
__device__ __forceinline__ void decode_store(const attention_params &p, const decode_item &t,
                                             const unsigned char *memory)
{
    const unsigned char *at = memory + decode_shape<C>::sent;

    switch (cluster_size()) {
    case 2: decode_store_share<C, 2>(p, t, at); break;
    case 4: decode_store_share<C, 4>(p, t, at); break;
    default: decode_store_share<C, 8>(p, t, at); break;
    }
}

// What the consumers have becomes the output: of a block that is alone, or of its cluster.
template <typename C>
__device__ __forceinline__ void decode_finish(const attention_params &p, const decode_item &t,
                                              unsigned char *memory, decode_state<C::dim> &a)
{
    using shape = decode_shape<C>;
    const uint32_t ring = shared_address(memory), splits = cluster_size();

    if (splits == 1) {
        decode_merge_warps<C>(a, memory, t.heads, decode_keeper<C>{memory});
        asm volatile("bar.sync 1, 128;" ::: "memory");
        decode_store_share<C, 1>(p, t, memory + shape::merged);
        return;
    }
    cluster_wait(); // the others have barriers
    decode_merge_warps<C>(a, memory, t.heads,
                          decode_sender<C>{ring, t.heads * C::dim, splits, cluster_rank()});
    barrier_wait(ring + shape::parts_there, 0); // then nobody sends here any more
    decode_store<C>(p, t, memory);
}

// Whether the block's warp that loads stores with feedback: that of rank 0 the keys of the item's head, 1 the values.
__device__ __forceinline__ bool decode_shapes(const attention_params &p, const decode_item &t)
{
    return cluster_rank() < 2 && t.first_head == t.kv_head * p.group;
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
        barrier_init(ring + shape::own_there, 32);
        barrier_init(ring + shape::parts_there, 1);
        if (C::storing == DECODE_WITHIN)
            barrier_init(ring + shape::shaping - 8, 1);
        barrier_init_fence();
    }
    // The arrays of the step stand before its first kernel begins, and of the cache only what this launch itself appends
    // is new: then the copies need not wait.
    if (!p.k)
        wait_for_predecessor();
    const decode_item t = decode_find(p);
    __syncthreads();
    if (cluster_size() > 1)
        cluster_arrive();
    if (threadIdx.x >= 128) {
        if (threadIdx.x == 128 && cluster_size() > 1)
            barrier_arrive_expect(ring + shape::parts_there,
                                  decode_outputs(t.heads * D, cluster_size(), cluster_rank())
                                      .bytes(cluster_size(), D));
        __syncwarp();
        decode_produce<C>(p, t, ring, full, empty);
        allow_successor(); // its loads follow on these
        __syncwarp();
        if (t.appends) {
            decode_own<C> mine(p, t);
            wait_for_predecessor();
            mine.store(p, t, own, ring + shape::own_there);
        }
        if constexpr (C::storing == DECODE_WITHIN)
            if (decode_shapes(p, t))
                decode_shape_row<C>(p, t, memory);
        if (cluster_size() > 1)
            cluster_wait();
    } else {
        decode_state<D> a = {{NOTHING, NOTHING}, {0, 0}, {}};
        decode_turn<D> turn_q;
        decode_queries<C> queries;
        uint32_t b[D / 16][2];
        turn_q.prepare(p.rope_q, max(t.position, 0));
        wait_for_predecessor();
        queries.load(p, t);
        queries.store(p, t, turn_q, q, shape::q_pitch);
        asm volatile("bar.sync 1, 128;" ::: "memory");
        const math *from = q + lane / 4 * shape::q_pitch + lane % 4 * C::q_step;
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            b[k][0] = *reinterpret_cast<const uint32_t *>(from + 16 * k);
            b[k][1] = *reinterpret_cast<const uint32_t *>(from + 16 * k + C::q_second);
        }
        decode_consume<C>(p, t, memory, own, b, a, full, empty);
        decode_finish<C>(p, t, memory, a);
    }
}

#endif
