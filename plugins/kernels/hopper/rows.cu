// SPDX-License-Identifier: Apache-2.0
// Ops that go row by row: norms, rotation with append, gathering. One block per row.
#include "rows.cuh"

// out = (a + b) / sqrt(mean((a + b)^2) + eps) * (offset + weight); sum = a + b, rounded, if there is a b. A thread has
// CHUNKS times eight elements of the row.
template <typename T, int CHUNKS> __device__ __forceinline__ void norm_row(const norm_params &p)
{
    const uint64_t row = static_cast<uint64_t>(blockIdx.x) * p.width;
    float x[CHUNKS][8], w[CHUNKS][8], squares = 0.0f;

    allow_successor();
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * NORM_THREADS + threadIdx.x) * 8;
        if (i < p.width)
            load_weight8(p.weight, p.weight_dtype, i, w[c]);
    }
    wait_for_predecessor();
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * NORM_THREADS + threadIdx.x) * 8;
        if (i >= p.width)
            continue;
        load8<T>(p.a, row + i, x[c]);
        if (p.b) {
            float y[8];
            load8<T>(p.b, row + i, y);
#pragma unroll
            for (int j = 0; j < 8; j++)
                x[c][j] += y[j];
            store8<T>(p.sum, row + i, x[c]);
        }
#pragma unroll
        for (int j = 0; j < 8; j++)
            squares += x[c][j] * x[c][j];
    }
    const float norm =
        rsqrtf(block_sum<NORM_THREADS>(squares) / static_cast<float>(p.width) + p.eps);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const uint32_t i = (c * NORM_THREADS + threadIdx.x) * 8;
        if (i >= p.width)
            continue;
#pragma unroll
        for (int j = 0; j < 8; j++)
            x[c][j] *= norm * (p.offset + w[c][j]);
        store8<T>(p.out, row + i, x[c]);
    }
}

#define MAX_PAIRS 64 // of a head

// cos and sin of a row's pairs, times mscale.
__device__ __forceinline__ void rope_table(const rope_params &r, int32_t position, float2 *table)
{
    for (uint32_t i = threadIdx.x; i < r.rotary / 2; i += blockDim.x) {
        float s, c;
        sincosf(static_cast<float>(position) * static_cast<const float *>(r.freqs)[i], &s, &c);
        table[i] = make_float2(c * r.mscale, s * r.mscale);
    }
}

// Eight pairs j .. j + 7 of a head of style "half" that is rotated as a whole.
template <typename T>
__device__ __forceinline__ void rope_eight(const T *x, T *y, const float2 *table, uint32_t j,
                                           uint32_t half)
{
    float a[8], b[8], u[8], v[8];

    load8<T>(x, j, a);
    load8<T>(x, j + half, b);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float2 t = table[j + i];
        u[i] = a[i] * t.x - b[i] * t.y;
        v[i] = b[i] * t.x + a[i] * t.y;
    }
    store8<T>(y, j, u);
    store8<T>(y, j + half, v);
}

template <typename T>
__device__ __forceinline__ void rope_head(const rope_params &r, const T *x, T *y,
                                          const float2 *table, uint32_t eight, uint32_t d)
{
    const uint32_t half = r.rotary / 2;

    if (!r.pairs && r.rotary == d) {
        rope_eight<T>(x, y, table, eight * 8, half);
        return;
    }
    for (uint32_t i = eight * 8; i < eight * 8 + 8; i++) { // pairs
        const bool turns = i < half;
        const uint32_t first = turns && !r.pairs ? i : 2 * i;
        const uint32_t second = turns && !r.pairs ? i + half : 2 * i + 1;
        const float2 t = turns ? table[i] : make_float2(1.0f, 0.0f);
        const float a = to_float(x[first]), b = to_float(x[second]);
        y[first] = static_cast<T>(a * t.x - b * t.y);
        y[second] = static_cast<T>(b * t.x + a * t.y);
    }
}

// Rotated queries to p.out, rotated keys and values to their slots. A row whose slot is negative stores nothing.
template <typename T> __device__ __forceinline__ void rope_append(const append_params &p)
{
    __shared__ float2 table[2][MAX_PAIRS];
    const uint32_t d = p.head_dim, eights = d / 16, row = blockIdx.x;

    allow_successor();
    wait_for_predecessor();
    const int64_t slot = p.row_slot[row];
    rope_table(p.rope_q, p.positions[row], table[0]);
    rope_table(p.rope_k, p.positions[row], table[1]);
    __syncthreads();
    const uint64_t block = slot < 0 ? 0 : static_cast<uint64_t>(slot) / p.block_tokens;
    const uint64_t in = slot < 0 ? 0 : static_cast<uint64_t>(slot) % p.block_tokens;
    T *keys = reinterpret_cast<T *>(static_cast<unsigned char *>(p.keys) + block * p.block_bytes);
    T *values = keys + static_cast<uint64_t>(p.kv_heads) * p.block_tokens * d;
    for (uint32_t i = threadIdx.x; i < (p.heads + p.kv_heads) * eights; i += blockDim.x) {
        const uint32_t head = i / eights, eight = i % eights;
        if (head < p.heads) {
            const uint64_t at = (static_cast<uint64_t>(row) * p.heads + head) * d;
            rope_head<T>(p.rope_q, static_cast<const T *>(p.q) + at, static_cast<T *>(p.out) + at,
                         table[0], eight, d);
        } else if (slot >= 0) {
            const uint64_t from = (static_cast<uint64_t>(row) * p.kv_heads + head - p.heads) * d;
            const uint64_t to = ((head - p.heads) * p.block_tokens + in) * d;
            float v[8];
            rope_head<T>(p.rope_k, static_cast<const T *>(p.k) + from, keys + to, table[1], eight,
                         d);
            load8<T>(p.v, from + eight * 16, v);
            store8<T>(values, to + eight * 16, v);
            load8<T>(p.v, from + eight * 16 + 8, v);
            store8<T>(values, to + eight * 16 + 8, v);
        }
    }
}

#define NORM(name, T, CHUNKS)                                                                      \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                     \
        norm_##name##_##CHUNKS(const __grid_constant__ norm_params p)                              \
    {                                                                                              \
        norm_row<T, CHUNKS>(p);                                                                    \
    }

#define APPEND(name, T)                                                                            \
    extern "C" __global__ void __launch_bounds__(APPEND_THREADS)                                   \
        rope_append_##name(const __grid_constant__ append_params p)                                \
    {                                                                                              \
        rope_append<T>(p);                                                                         \
    }

NORM(bf16, __nv_bfloat16, 1)
NORM(bf16, __nv_bfloat16, 2)
NORM(bf16, __nv_bfloat16, 4)
NORM(f16, __half, 1)
NORM(f16, __half, 2)
NORM(f16, __half, 4)
APPEND(bf16, __nv_bfloat16)
APPEND(f16, __half)

extern "C" __global__ void gather(const __grid_constant__ gather_params p)
{
    allow_successor();
    wait_for_predecessor();
    const unsigned char *x = static_cast<const unsigned char *>(p.x);
    const uint64_t from = static_cast<uint64_t>(p.row[blockIdx.x]) * p.bytes;
    const uint64_t to = static_cast<uint64_t>(blockIdx.x) * p.bytes;
    for (uint32_t i = threadIdx.x * 16; i < p.bytes; i += blockDim.x * 16)
        *reinterpret_cast<uint4 *>(static_cast<unsigned char *>(p.out) + to + i) =
            *reinterpret_cast<const uint4 *>(x + from + i);
}
