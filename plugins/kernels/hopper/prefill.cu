// SPDX-License-Identifier: Apache-2.0
// Attention of many rows over a cache in the dtype of the rows; see prefill.cuh.
#include "prefill.cuh"

template <typename T, int D> struct tiles16 {
    using type = T;
    using math = T; // of the products
    using shape = prefill_shape<D>;
    static constexpr int dim = D, few = 24, many = 240; // registers
    static constexpr bool clears = true; // values beyond the context are what is there
    static constexpr uint32_t barriers = shape::end;

    static __device__ __forceinline__ void init(const prefill_barriers &)
    {
    }
    static __device__ __forceinline__ float score_scale(const attention_params &p)
    {
        return p.scale;
    }
    static __device__ __forceinline__ float value_scale(const attention_params &)
    {
        return 1.0f;
    }
    static __device__ __forceinline__ void prepare(const attention_params &, unsigned char *,
                                                   uint32_t)
    {
    }

    // Copies the planes of one tile of keys (kv 0) or values (kv 1). One warp.
    static __device__ __forceinline__ void copy(const attention_params &p, const prefill_item &t,
                                                uint32_t head, uint32_t tile, uint32_t kv,
                                                uint32_t to, uint32_t barrier)
    {
        const uint32_t lane = threadIdx.x % 32, box = 1u << p.box_shift, token = tile * TILE;
        const uint32_t there = prefill_boxes(p, t, tile);
        const int32_t *blocks = p.block_table + static_cast<uint64_t>(t.seq) * p.max_blocks;

        if (lane == 0)
            barrier_arrive_expect(barrier, there * box * D * 2);
        __syncwarp();
        for (uint32_t b = lane; b < there * (D / 64); b += 32) {
            const uint32_t half = b / there, in = b % there * box, at = token + in;
            const int32_t block = max(blocks[at / p.block_tokens], 0);
            const int32_t row = static_cast<int32_t>((kv * p.kv_heads + head) * p.block_tokens +
                                                     at % p.block_tokens);
            copy_3d(to + half * shape::plane + in * 128, &p.cache, static_cast<int32_t>(half * 64),
                    row, block, barrier, EVICT_LAST);
        }
    }

    static __device__ __forceinline__ void produce(const attention_params &p, const prefill_item &t,
                                                   unsigned char *memory, const prefill_barriers &b)
    {
        const uint32_t head = blockIdx.x / p.group, at = shared_address(memory);
        uint32_t i = 0;

        if (threadIdx.x >= 32)
            return;
        if (threadIdx.x == 0)
            prefill_query<D>(p, t, at, b);
        for (uint32_t tile = t.last + 1; tile-- > t.first; i++) {
            const uint32_t s = i % STAGES;
            if (i >= STAGES)
                barrier_wait(b.k_empty + 8 * s, (i / STAGES - 1) & 1);
            copy(p, t, head, tile, 0, at + shape::keys + s * shape::tile, b.k_full + 8 * s);
            if (i >= STAGES)
                barrier_wait(b.v_empty + 8 * s, (i / STAGES - 1) & 1);
            copy(p, t, head, tile, 1, at + shape::values + s * shape::tile, b.v_full + 8 * s);
        }
    }
};

#define PREFILL(name, T, D)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                       \
        prefill_##name##_##D(const __grid_constant__ attention_params p)                           \
    {                                                                                              \
        prefill<tiles16<T, D>>(p);                                                                 \
    }

PREFILL(bf16, __nv_bfloat16, 128)
PREFILL(bf16, __nv_bfloat16, 64)
PREFILL(f16, __half, 128)
PREFILL(f16, __half, 64)
