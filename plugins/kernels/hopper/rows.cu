// SPDX-License-Identifier: Apache-2.0
// Ops that go row by row: norms, rotation with append, gathering. One block per row.
#include "../common/cuda_kv8.cuh"
#include "rows.cuh"
#include "shape.cuh"

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

// Where elements of a head go: as they are, or as a cache of 8 bits keeps them.
template <typename T> struct rope_rows {
    T *to;
    __device__ __forceinline__ void eight(uint32_t i, const float (&x)[8]) const
    {
        store8<T>(to, i, x);
    }
    __device__ __forceinline__ void one(uint32_t i, float x) const
    {
        to[i] = static_cast<T>(x);
    }
};

template <typename T, typename E> struct rope_cells {
    uint8_t *to;
    const float *center; // of keys, or NULL
    float unit;
    __device__ __forceinline__ void one(uint32_t i, float x) const
    {
        x = to_float(static_cast<T>(x)); // as if it had been stored in between
        to[i] = kv8_store<E>(center ? x - center[i] : x, unit);
    }
    __device__ __forceinline__ void eight(uint32_t i, const float (&x)[8]) const
    {
        const float r = __frcp_rn(unit);
        uint32_t words[2] = {0, 0};
#pragma unroll
        for (uint32_t j = 0; j < 8; j++) {
            const float f = to_float(static_cast<T>(x[j])) - (center ? center[i + j] : 0.0f);
            words[j / 4] |= static_cast<uint32_t>(kv8_narrow<E>(kv8_divide(f, unit, r)))
                            << j % 4 * 8;
        }
        *reinterpret_cast<uint2 *>(to + i) = make_uint2(words[0], words[1]);
    }
};

// The op `hadamard` on a head that d / 16 neighbouring lanes have, each eight pairs of it: every bit of an element's index is
// one of the registers' or one of the lanes'. What was rotated counts as rounded.
template <typename T>
__device__ __forceinline__ void rope_hadamard8(float (&u)[8], float (&v)[8], uint32_t eight,
                                               uint32_t d)
{
    const uint32_t lanes = d / 16, mask = ((1u << lanes) - 1) << (threadIdx.x % 32 & ~(lanes - 1));
    const float unit = rsqrtf(static_cast<float>(d));

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float a = to_float(static_cast<T>(u[i])), b = to_float(static_cast<T>(v[i]));
        u[i] = a + b;
        v[i] = a - b;
    }
#pragma unroll
    for (int step = 1; step < 8; step *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (!(i & step)) {
                const float a = u[i], b = u[i + step], c = v[i], e = v[i + step];
                u[i] = a + b;
                u[i + step] = a - b;
                v[i] = c + e;
                v[i + step] = c - e;
            }
    for (uint32_t step = 1; step < lanes; step *= 2)
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float a = __shfl_xor_sync(mask, u[i], step),
                        b = __shfl_xor_sync(mask, v[i], step);
            u[i] = eight & step ? a - u[i] : u[i] + a;
            v[i] = eight & step ? b - v[i] : v[i] + b;
        }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u[i] *= unit;
        v[i] *= unit;
    }
}

// Eight pairs j .. j + 7 of a head that is rotated as a whole.
template <typename T, typename To>
__device__ __forceinline__ void rope_eight(const rope_params &r, const T *x, const To &y,
                                           const float2 *table, uint32_t j, uint32_t d)
{
    const uint32_t first = r.pairs ? 2 * j : j, second = r.pairs ? 2 * j + 8 : j + d / 2;
    float a[8], b[8], u[8], v[8];

    load8<T>(x, first, a);
    load8<T>(x, second, b);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float2 t = table[j + i];
        const float c = r.pairs ? (i < 4 ? a[2 * i % 8] : b[2 * i % 8]) : a[i];
        const float e = r.pairs ? (i < 4 ? a[2 * i % 8 + 1] : b[2 * i % 8 + 1]) : b[i];
        u[i] = c * t.x - e * t.y;
        v[i] = e * t.x + c * t.y;
    }
    if (r.hadamard)
        rope_hadamard8<T>(u, v, j / 8, d);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a[i] = r.pairs ? (i % 2 ? v[i / 2] : u[i / 2]) : u[i];
        b[i] = r.pairs ? (i % 2 ? v[4 + i / 2] : u[4 + i / 2]) : v[i];
    }
    y.eight(first, a);
    y.eight(second, b);
}

template <typename T, typename To>
__device__ __forceinline__ void rope_head(const rope_params &r, const T *x, const To &y,
                                          const float2 *table, uint32_t eight, uint32_t d)
{
    const uint32_t half = r.rotary / 2;

    if (r.rotary == d) {
        rope_eight<T>(r, x, y, table, eight * 8, d);
        return;
    }
    for (uint32_t i = eight * 8; i < eight * 8 + 8; i++) { // pairs
        const bool turns = i < half;
        const uint32_t first = turns && !r.pairs ? i : 2 * i;
        const uint32_t second = turns && !r.pairs ? i + half : 2 * i + 1;
        const float2 t = turns ? table[i] : make_float2(1.0f, 0.0f);
        const float a = to_float(x[first]), b = to_float(x[second]);
        y.one(first, a * t.x - b * t.y);
        y.one(second, b * t.x + a * t.y);
    }
}

// Where keys (values: kv 1) of a head of slot `slot` go. E: void, or the elements of a cache of 8 bits.
template <typename T, typename E> struct rope_cache {
    static __device__ __forceinline__ rope_cells<T, E> at(const append_params &p, uint64_t slot,
                                                          uint32_t head, uint32_t kv)
    {
        uint8_t *keys = static_cast<uint8_t *>(p.keys) + slot / p.block_tokens * p.block_bytes;
        const uint64_t row = (kv * p.kv_heads + head) * p.block_tokens + slot % p.block_tokens;
        const float *center = kv || !p.k_center ? nullptr : p.k_center + head * p.head_dim;

        return {keys + row * p.head_dim, center, kv ? p.v_scale[head] : p.k_scale[head]};
    }
};

template <typename T> struct rope_cache<T, void> {
    static __device__ __forceinline__ rope_rows<T> at(const append_params &p, uint64_t slot,
                                                      uint32_t head, uint32_t kv)
    {
        uint8_t *keys = static_cast<uint8_t *>(p.keys) + slot / p.block_tokens * p.block_bytes;
        const uint64_t row = (kv * p.kv_heads + head) * p.block_tokens + slot % p.block_tokens;

        return {reinterpret_cast<T *>(keys) + row * p.head_dim};
    }
};

// Rotated queries to p.out, rotated keys and values to their slots, or, if they are to be stored with feedback, rotated keys to
// p.turned. A row whose slot is negative stores nothing.
template <typename T, typename E>
__device__ __forceinline__ void rope_append(const append_params &p)
{
    __shared__ float2 table[2][MAX_PAIRS];
    const uint32_t d = p.head_dim, eights = d / 16, row = blockIdx.x;

    wait_for_predecessor();
    allow_successor(); // which may read values then
    const int64_t slot = p.row_slot[row];
    rope_table(p.rope_q, p.positions[row], table[0]);
    rope_table(p.rope_k, p.positions[row], table[1]);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < (p.heads + p.kv_heads) * eights; i += blockDim.x) {
        const uint32_t head = i / eights, eight = i % eights;
        if (head < p.heads) {
            const uint64_t at = (static_cast<uint64_t>(row) * p.heads + head) * d;
            rope_head<T>(p.rope_q, static_cast<const T *>(p.q) + at,
                         rope_rows<T>{static_cast<T *>(p.out) + at}, table[0], eight, d);
        } else if (slot >= 0) {
            const uint32_t h = head - p.heads;
            const uint64_t from = (static_cast<uint64_t>(row) * p.kv_heads + h) * d;
            if (p.turned) {
                rope_head<T>(p.rope_k, static_cast<const T *>(p.k) + from,
                             rope_rows<T>{static_cast<T *>(p.turned) + from}, table[1], eight, d);
                continue;
            }
            const auto values = rope_cache<T, E>::at(p, static_cast<uint64_t>(slot), h, 1);
            float v[8];
            rope_head<T>(p.rope_k, static_cast<const T *>(p.k) + from,
                         rope_cache<T, E>::at(p, static_cast<uint64_t>(slot), h, 0), table[1],
                         eight, d);
            load8<T>(p.v, from + eight * 16, v);
            values.eight(eight * 16, v);
            load8<T>(p.v, from + eight * 16 + 8, v);
            values.eight(eight * 16 + 8, v);
        }
    }
}

#define NORM(name, T, CHUNKS)                                                                      \
    extern "C" __global__ void __launch_bounds__(NORM_THREADS)                                     \
        norm_##name##_##CHUNKS(const __grid_constant__ norm_params p)                              \
    {                                                                                              \
        norm_row<T, CHUNKS>(p);                                                                    \
    }

#define APPEND(name, T, E)                                                                         \
    extern "C" __global__ void __launch_bounds__(APPEND_THREADS)                                   \
        rope_append_##name(const __grid_constant__ append_params p)                                \
    {                                                                                              \
        rope_append<T, E>(p);                                                                      \
    }

// After a kernel that turned queries and keys: of steps in which rows of a sequence read each other's keys.
#define SHAPE(name, T, D)                                                                          \
    extern "C" __global__ void __launch_bounds__(SHAPE_THREADS, SHAPE_BLOCKS)                      \
        shape_##name##_##D(const __grid_constant__ append_params p)                                \
    {                                                                                              \
        extern __shared__ __align__(16) unsigned char memory[];                                    \
        allow_successor();                                                                         \
        shape_many<T, D, 2, true>(p, rope_params{}, memory, blockIdx.x);                           \
    }

NORM(bf16, __nv_bfloat16, 1)
NORM(bf16, __nv_bfloat16, 2)
NORM(bf16, __nv_bfloat16, 4)
NORM(f16, __half, 1)
NORM(f16, __half, 2)
NORM(f16, __half, 4)
APPEND(bf16, __nv_bfloat16, void)
APPEND(f16, __half, void)
APPEND(fp8_bf16, __nv_bfloat16, e4m3)
APPEND(fp8_f16, __half, e4m3)
APPEND(int8_bf16, __nv_bfloat16, int8_t)
APPEND(int8_f16, __half, int8_t)

SHAPE(bf16, __nv_bfloat16, 128)
SHAPE(bf16, __nv_bfloat16, 64)
SHAPE(f16, __half, 128)
SHAPE(f16, __half, 64)

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
