// SPDX-License-Identifier: Apache-2.0
// Attention of many rows over a cache of 8 bits; see prefill.cuh. Tiles arrive as they are stored; the warpgroup that brings
// them makes float16 of them, which is exact, in the layout that wgmma reads. Queries become float16 with the scales of
// scores and keys in them, so that what overflows is beyond all scores that mean anything.
#include "../common/cuda_kv8.cuh"
#include "prefill.cuh"

#define RAW_SLOTS PREFILL8_SLOTS // tiles that are on their way
#define BRINGERS 128             // threads

template <typename T, typename E, int D> struct tiles8 {
    using type = T;
    using math = __half;
    using shape = prefill_shape<D>;
    static constexpr int dim = D, few = 56, many = 224;
    static constexpr bool clears = false;
    static constexpr uint32_t slot = TILE * D, raw = shape::end, barriers = raw + RAW_SLOTS * slot;

    static __device__ __forceinline__ void init(const prefill_barriers &b)
    {
        for (int i = 0; i < RAW_SLOTS; i++)
            barrier_init(b.raw + 8 * i, 1);
    }
    static __device__ __forceinline__ float score_scale(const attention_params &)
    {
        return 1.0f;
    }
    static __device__ __forceinline__ float value_scale(const attention_params &p)
    {
        return p.v_scale[blockIdx.x / p.group];
    }

    // The warpgroup's queries, in place: elements stay where they are.
    static __device__ __forceinline__ void prepare(const attention_params &p, unsigned char *q,
                                                   uint32_t wg)
    {
        const float scale = p.scale * p.k_scale[blockIdx.x / p.group];

        for (uint32_t i = threadIdx.x % 128; i < D / 64 * 8192 / 16; i += 128) {
            uint4 *at = reinterpret_cast<uint4 *>(q) + i;
            uint32_t words[4] = {at->x, at->y, at->z, at->w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 f = element<T>::unpack(words[j]);
                const __half2 h = __halves2half2(kv8_query(f.x * scale), kv8_query(f.y * scale));
                words[j] = *reinterpret_cast<const uint32_t *>(&h);
            }
            *at = make_uint4(words[0], words[1], words[2], words[3]);
        }
        proxy_fence();
        prefill_meet(wg);
    }

    // Begins to copy item `j`: keys, then values of each tile, from the last backwards. Boxes are dealt to the warps, since a warp
    // hands over one after the other.
    static __device__ __forceinline__ void fetch(const attention_params &p, const prefill_item &t,
                                                 uint32_t j, uint32_t memory,
                                                 const prefill_barriers &b)
    {
        const uint32_t box = 1u << p.box_shift, tile = t.last - j / 2, warps = BRINGERS / 32;
        const uint32_t there = prefill_boxes(p, t, tile), head = blockIdx.x / p.group;
        const uint32_t to = memory + raw + j % RAW_SLOTS * slot,
                       barrier = b.raw + 8 * (j % RAW_SLOTS);
        const int32_t *blocks = p.block_table + static_cast<uint64_t>(t.seq) * p.max_blocks;

        if (threadIdx.x == 0) // the only arrival, so that what has come before is counted, too
            barrier_arrive_expect(barrier, there * box * D);
        for (uint32_t i = threadIdx.x % 32 * warps + threadIdx.x / 32; i < there; i += BRINGERS) {
            const uint32_t at = tile * TILE + i * box;
            const int32_t block = max(blocks[at / p.block_tokens], 0);
            const int32_t row = static_cast<int32_t>((j % 2 * p.kv_heads + head) * p.block_tokens +
                                                     at % p.block_tokens);
            copy_3d(to + i * box * D, &p.cache, 0, row, block, barrier, EVICT_LAST);
        }
    }

    // A tile in float16, with zeros for tokens outside [first, end) of it. A thread takes the same sixteen elements of every APART-th
    // token, which the swizzle treats alike. Rows of eight pieces of sixteen bytes: the upper four swap their halves' order, or they
    // would meet the lower four in the banks.
    template <bool WHOLE>
    static __device__ __forceinline__ void widen_tile(const unsigned char *from, unsigned char *to,
                                                      int32_t first, int32_t end)
    {
        constexpr uint32_t PIECES = D / 16, APART = BRINGERS / PIECES, AT_ONCE = 4;
        static_assert(APART % 8 == 0 && TILE / APART % AT_ONCE == 0, "tokens of a thread");
        const uint32_t token = threadIdx.x / PIECES, c = threadIdx.x % PIECES, turn = c / 4;
        const uint4 *cells = reinterpret_cast<const uint4 *>(from) + threadIdx.x;
        unsigned char *row = to + turn * shape::plane + token * 128;
        unsigned char *one = row + ((c % 4 * 2 + turn) ^ token % 8) * 16;
        unsigned char *other = row + ((c % 4 * 2 + 1 - turn) ^ token % 8) * 16;

#pragma unroll
        for (uint32_t k = 0; k < TILE / APART; k += AT_ONCE) {
            uint4 x[AT_ONCE];
#pragma unroll
            for (uint32_t n = 0; n < AT_ONCE; n++) {
                const int32_t in = static_cast<int32_t>(token + (k + n) * APART);
                x[n] = WHOLE || (in >= first && in < end) ? cells[(k + n) * BRINGERS]
                                                          : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (uint32_t n = 0; n < AT_ONCE; n++) {
                uint4 y, z;
                kv8_widen<E>(turn ? x[n].z : x[n].x, y.x, y.y);
                kv8_widen<E>(turn ? x[n].w : x[n].y, y.z, y.w);
                kv8_widen<E>(turn ? x[n].x : x[n].z, z.x, z.y);
                kv8_widen<E>(turn ? x[n].y : x[n].w, z.z, z.w);
                *reinterpret_cast<uint4 *>(one + (k + n) * APART * 128) = y;
                *reinterpret_cast<uint4 *>(other + (k + n) * APART * 128) = z;
            }
        }
    }

    static __device__ __forceinline__ void produce(const attention_params &p, const prefill_item &t,
                                                   unsigned char *memory, const prefill_barriers &b)
    {
        const uint32_t n = 2 * (t.last + 1 - t.first), at = shared_address(memory);
        const int32_t start =
            p.window ? max(0, t.position - static_cast<int32_t>(p.window) + 1) : 0;

        if (threadIdx.x == 0)
            prefill_query<D>(p, t, at, b);
        for (uint32_t j = 0; j < min(n, static_cast<uint32_t>(RAW_SLOTS)); j++)
            fetch(p, t, j, at, b);
        for (uint32_t j = 0; j < n; j++) {
            const uint32_t i = j / 2, s = i % STAGES, kv = j % 2;
            const int32_t token = static_cast<int32_t>((t.last - i) * TILE);
            if (i >= STAGES)
                barrier_wait((kv ? b.v_empty : b.k_empty) + 8 * s, (i / STAGES - 1) & 1);
            barrier_wait(b.raw + 8 * (j % RAW_SLOTS), (j / RAW_SLOTS) & 1);
            const unsigned char *from = memory + raw + j % RAW_SLOTS * slot;
            unsigned char *to = memory + (kv ? shape::values : shape::keys) + s * shape::tile;
            if (start <= token && token + TILE <= t.context)
                widen_tile<true>(from, to, 0, TILE);
            else
                widen_tile<false>(from, to, start - token, t.context - token);
            proxy_fence();
            asm volatile("bar.sync 5, 128;" ::: "memory");
            if (threadIdx.x == 0)
                barrier_arrive((kv ? b.v_full : b.k_full) + 8 * s);
            if (j + RAW_SLOTS < n)
                fetch(p, t, j + RAW_SLOTS, at, b);
        }
    }
};

#define PREFILL(cells, E, name, T, D)                                                              \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                       \
        prefill_##cells##_##name##_##D(const __grid_constant__ attention_params p)                 \
    {                                                                                              \
        prefill<tiles8<T, E, D>>(p);                                                               \
    }
#define PREFILL_BOTH(cells, E, name, T)                                                            \
    PREFILL(cells, E, name, T, 128)                                                                \
    PREFILL(cells, E, name, T, 64)

PREFILL_BOTH(fp8, e4m3, bf16, __nv_bfloat16)
PREFILL_BOTH(fp8, e4m3, f16, __half)
PREFILL_BOTH(int8, int8_t, bf16, __nv_bfloat16)
PREFILL_BOTH(int8, int8_t, f16, __half)
