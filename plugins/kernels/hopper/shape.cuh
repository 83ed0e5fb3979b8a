// SPDX-License-Identifier: Apache-2.0
// Keys and values of single rows into a cache of float8_e4m3, with feedback (kv_append in tenon/ops.h). A block has a kv head's keys,
// or its values, of some rows: what is read of their table, 30 KiB for heads of 128 elements, is in shared memory before the step's
// rows are there, and a warp takes a row at a time.
#ifndef HOPPER_SHAPE_CUH
#define HOPPER_SHAPE_CUH

#include "../common/cuda_kv_shape.cuh"
#include "rope.cuh"

// Four elements at a time.
template <int D> __device__ __forceinline__ void shape_table(const float *from, float *table)
{
    for (uint32_t i = threadIdx.x; i < D * D / 4; i += blockDim.x) {
        const uint32_t row = i / (D / 4), column = i % (D / 4) * 4;
        if (column < row / KV_SHAPE_RUN * KV_SHAPE_RUN)
            *reinterpret_cast<float4 *>(table + kv_packed_table::offset(row) + column) =
                reinterpret_cast<const float4 *>(from)[i];
    }
}

// The elements of a head as kv_append reads them, in their order: keys rotated, and multiplied by the Hadamard matrix.
template <typename T, int D>
__device__ __forceinline__ void shape_turn(const rope_params &r, int32_t position, const T *x,
                                           float *turned)
{
    const uint32_t lane = threadIdx.x % 32;
    float2 angles[D / 64];

#pragma unroll
    for (int j = 0; j < D / 64; j++)
        angles[j] = rope_angle(r, position, rope_freq(r, lane + 32 * j));
    if (r.hadamard) {
        rope_hadamard<T, D>(r, x, angles, [&](uint32_t d, T v) { turned[d] = to_float(v); });
        return;
    }
#pragma unroll
    for (int j = 0; j < D / 64; j++) {
        const uint2 at = rope_elements(r, lane + 32 * j);
        T a = x[at.x], b = x[at.y];
        rope_turn<T>(r, lane + 32 * j, angles[j], a, b);
        turned[at.x] = to_float(a);
        turned[at.y] = to_float(b);
    }
}

// One key or value, from `turned`, to where the cache has it.
template <int D>
__device__ __forceinline__ void shape_store(const float *turned, const float *center, float unit,
                                            const float *table, uint8_t *to)
{
    constexpr int N = D / 32;
    const uint32_t first = threadIdx.x % 32 * N;
    const float r = __frcp_rn(unit);
    uint8_t bytes[N];
    uint32_t word = 0;
    float y[N];

#pragma unroll
    for (int n = 0; n < N; n++)
        y[n] = kv8_divide(turned[first + n] - (center ? center[first + n] : 0.0f), unit, r);
    kv_shape<N>(y, kv_packed_table{table}, D, bytes);
#pragma unroll
    for (int n = 0; n < N; n++)
        word |= static_cast<uint32_t>(bytes[n]) << 8 * n;
    if (N == 4)
        *reinterpret_cast<uint32_t *>(to + first) = word;
    else
        *reinterpret_cast<uint16_t *>(to + first) = static_cast<uint16_t>(word);
}

// Block `block` of those that p.shaping tells of; `memory` has SHAPE_BYTES(D). P: attention_params or append_params.
template <typename T, int D, typename P>
__device__ __forceinline__ void shape_block(const P &p, unsigned char *memory, uint32_t block)
{
    const uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32,
                   side = block % (2 * p.kv_heads);
    const uint32_t chunk = block / (2 * p.kv_heads), head = side % p.kv_heads;
    const uint32_t end = min(p.rows, (chunk + 1) * p.shaping.rows);
    const bool value = side >= p.kv_heads;
    const float *center = value || !p.k_center ? nullptr : p.k_center + head * D;
    float *table = reinterpret_cast<float *>(memory);
    float *turned = table + kv_packed_table::offset(D) + warp * D;
    const rope_params none = {};

    shape_table<D>((value ? p.shaping.v : p.shaping.k) + static_cast<uint64_t>(head) * D * D,
                   table);
    wait_for_predecessor();
    __syncthreads();
    for (uint32_t row = chunk * p.shaping.rows + warp; row < end; row += warps) {
        const int64_t slot = p.row_slot[row];
        const uint64_t at = (static_cast<uint64_t>(row) * p.kv_heads + head) * D;
        if (slot < 0)
            continue;
        const uint64_t in = static_cast<uint64_t>(slot) % p.block_tokens;
        uint8_t *to = static_cast<uint8_t *>(p.keys) +
                      static_cast<uint64_t>(slot) / p.block_tokens * p.block_bytes +
                      (static_cast<uint64_t>(side) * p.block_tokens + in) * D;
        shape_turn<T, D>(value ? none : p.rope_k, p.positions[row],
                         static_cast<const T *>(value ? p.v : p.k) + at, turned);
        __syncwarp();
        shape_store<D>(turned, center, value ? p.v_scale[head] : p.k_scale[head], table, to);
        __syncwarp();
    }
}

#endif
