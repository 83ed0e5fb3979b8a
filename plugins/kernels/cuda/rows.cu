/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Portable kernels that go row by row: element-wise ops, norms, tables (table.cuh), rope and the cache. Arithmetic is float32 in the
 * order of the reference set; products and sums that it rounds one by one are written so that none is contracted
 * where a later comparison would hang on it.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_kv_shape.cuh"
#include "../common/cuda_reduce.cuh"
#include "act.cuh"
#include "args.h"
#include "peers.cuh"
#include "table.cuh"

#define TN_NOISE_FUNCTION __device__ __forceinline__
#include "tenon/noise.h"

#include <cuda_fp8.h>

/* -- Element by element -------------------------------------------------------------------------------- */

__device__ __forceinline__ float relu(float x)
{
    return x > 0.0f ? x : x * 0.0f; /* x * 0 keeps NaN */
}

template <int kind> __device__ __forceinline__ float apply(float a, float b, float factor)
{
    switch (kind) {
    case MAP_ADD: return a + b;
    case MAP_MUL: return a * b;
    case MAP_SILU: return silu(a);
    case MAP_GELU: return gelu(a);
    case MAP_GELU_TANH: return gelu_tanh(a);
    case MAP_RELU: return relu(a);
    case MAP_RELU2: return relu(a) * relu(a);
    case MAP_SCALE: return factor * a;
    case MAP_SOFTCAP: return factor * tanhf(__fdividef(a, factor));
    case MAP_SILU_MUL: return silu(a) * b;
    case MAP_GELU_MUL: return gelu(a) * b;
    default: return gelu_tanh(a) * b;
    }
}

template <typename T, int kind> __device__ void map_run(const map_args &p)
{
    constexpr int per = per16<T>;
    constexpr bool two = kind == MAP_ADD || kind == MAP_MUL || kind >= MAP_SILU_MUL;
    const T *a = (const T *)p.a, *b = (const T *)p.b;
    T *y = (T *)p.y;
    uint64_t at = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x, vectors = p.n / per;

    for (uint64_t i = at; i < vectors; i += step) {
        float fa[per], fb[per];
        widen16<T>(((const uint4 *)a)[i], fa);
        if (two)
            widen16<T>(((const uint4 *)b)[i], fb);
#pragma unroll
        for (int e = 0; e < per; e++)
            fa[e] = apply<kind>(fa[e], two ? fb[e] : 0.0f, p.factor);
        ((uint4 *)y)[i] = narrow16<T>(fa);
    }
    for (uint64_t i = vectors * per + at; i < p.n; i += step)
        y[i] = narrow<T>(apply<kind>(widen(a[i]), two ? widen(b[i]) : 0.0f, p.factor));
}

#define MAP_KINDS(X)                                                                               \
    X(MAP_ADD)                                                                                     \
    X(MAP_MUL)                                                                                     \
    X(MAP_SILU)                                                                                    \
    X(MAP_GELU)                                                                                    \
    X(MAP_GELU_TANH)                                                                               \
    X(MAP_RELU)                                                                                    \
    X(MAP_RELU2)                                                                                   \
    X(MAP_SCALE)                                                                                   \
    X(MAP_SOFTCAP)                                                                                 \
    X(MAP_SILU_MUL)                                                                                \
    X(MAP_GELU_MUL)                                                                                \
    X(MAP_GELU_TANH_MUL)

template <typename T> __device__ __forceinline__ void map(const map_args &p)
{
    wait_for_previous();
    switch (p.kind) {
#define MAP_CASE(kind)                                                                             \
    case kind: map_run<T, kind>(p); break;
        MAP_KINDS(MAP_CASE)
    }
}

/* Of any dtypes, one element at a time. */
extern "C" __global__ void __launch_bounds__(256) map_any(map_args p)
{
    for (uint64_t i = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; i < p.n;
         i += (uint64_t)gridDim.x * blockDim.x) {
        float a = load_any(p.a, p.a_dtype, i), b = p.b ? load_any(p.b, p.b_dtype, i) : 0.0f;
        float y = 0.0f;
        switch (p.kind) {
#define MAP_ANY_CASE(kind)                                                                         \
    case kind: y = apply<kind>(a, b, p.factor); break;
            MAP_KINDS(MAP_ANY_CASE)
        }
        store_any(p.y, p.y_dtype, i, y);
    }
}

/* -- Norms ------------------------------------------------------------------------------------------------ */

/* The element `i` that is normalised; the first reader of it also writes the sum. */
template <typename T>
__device__ __forceinline__ float norm_input(const norm_args &p, uint64_t at, bool first)
{
    if (!p.add)
        return widen(((const T *)p.x)[at]);
    if (!first)
        return widen(((const T *)p.sum)[at]);
    T s = narrow<T>(widen(((const T *)p.x)[at]) + widen(((const T *)p.add)[at]));
    ((T *)p.sum)[at] = s;
    return widen(s);
}

/* The group of a row that begins at element `base`, by one block. Each thread reads back only what it wrote. */
template <typename T> __device__ __forceinline__ void rms_norm(const norm_args &p, uint64_t base)
{
    __shared__ float scratch[32];
    float sum = 0.0f;

    for (uint64_t i = threadIdx.x; i < p.group; i += blockDim.x) {
        float x = norm_input<T>(p, base + i, true);
        sum += x * x;
    }
    sum = block_reduce(sum, plus_op(), scratch);
    float norm = 1.0f / sqrtf(sum / (float)p.group + p.eps);
    for (uint64_t i = threadIdx.x; i < p.group; i += blockDim.x)
        ((T *)p.y)[base + i] = narrow<T>(norm_input<T>(p, base + i, false) * norm *
                                         (p.offset + load_any(p.w, p.w_dtype, i)));
}

template <typename T> __device__ __forceinline__ void layer_norm(const norm_args &p, uint64_t base)
{
    __shared__ float scratch[32];
    float sum = 0.0f, squares = 0.0f;

    for (uint64_t i = threadIdx.x; i < p.group; i += blockDim.x)
        sum += widen(((const T *)p.x)[base + i]);
    float mean = block_reduce(sum, plus_op(), scratch) / (float)p.group;
    for (uint64_t i = threadIdx.x; i < p.group; i += blockDim.x) {
        float d = widen(((const T *)p.x)[base + i]) - mean;
        squares += d * d;
    }
    squares = block_reduce(squares, plus_op(), scratch);
    float norm = 1.0f / sqrtf(squares / (float)p.group + p.eps);
    for (uint64_t i = threadIdx.x; i < p.group; i += blockDim.x) {
        float y = (widen(((const T *)p.x)[base + i]) - mean) * norm * load_any(p.w, p.w_dtype, i);
        ((T *)p.y)[base + i] = narrow<T>(p.b ? y + load_any(p.b, p.b_dtype, i) : y);
    }
}

/* The sum over ranks, rounded as all_reduce would leave it, and the residual; then the norm of what the block has written. */
template <typename T, bool layer>
__device__ __forceinline__ void reduce_norm(const reduce_norm_args &p)
{
    constexpr int per = per16<T>;
    uint64_t first = blockIdx.x * p.width, vectors = p.aligned ? p.width / per : 0;
    const void *const *part = p.part + (p.each ? first / p.each : 0);
    uint32_t n = p.each ? 1 : p.n_parts;
    T *sum = (T *)p.norm.sum;

    wait_for_previous();
    for (uint64_t i = threadIdx.x; i < vectors; i += blockDim.x) {
        float h[per], r[per];
        sum16<T>(part, n, first / per + i, h);
        widen16<T>(narrow16<T>(h), h);
        widen16<T>(((const uint4 *)p.residual)[first / per + i], r);
#pragma unroll
        for (int e = 0; e < per; e++)
            r[e] += h[e];
        ((uint4 *)sum)[first / per + i] = narrow16<T>(r);
    }
    for (uint64_t i = first + vectors * per + threadIdx.x; i < first + p.width; i += blockDim.x)
        sum[i] =
            narrow<T>(widen(((const T *)p.residual)[i]) + widen(narrow<T>(sum_one<T>(part, n, i))));
    __syncthreads();
    for (uint64_t base = first; base < first + p.width; base += p.norm.group) {
        if (layer)
            layer_norm<T>(p.norm, base);
        else
            rms_norm<T>(p.norm, base);
        __syncthreads(); /* before the next group's sums lie in the same place */
    }
}

/* -- Rope and the cache ------------------------------------------------------------------------------------- */

/* Where element 0 of kv head `head` of a slot lies. */
__device__ __forceinline__ char *cached(const kv_args &kv, uint64_t slot, uint32_t head, bool value)
{
    uint64_t row = (uint64_t)head * kv.block_tokens + slot % kv.block_tokens;

    if (value)
        row += (uint64_t)kv.kv_heads * kv.block_tokens;
    return (char *)kv.base + slot / kv.block_tokens * kv.block_bytes +
           row * kv.head_dim * kv_element_bytes(kv.dtype);
}

/* Stores element `e` of kv head `head` at `to`. */
__device__ __forceinline__ void store_cached(const kv_args &kv, char *to, uint32_t head, uint32_t e,
                                             float x, bool value)
{
    if (kv.dtype != TN_DT_I8 && kv.dtype != TN_DT_F8E4M3) {
        store_any(to, kv.dtype, e, x);
        return;
    }
    if (!value && kv.k_center)
        x -= kv.k_center[(uint64_t)head * kv.head_dim + e];
    const float unit = value ? kv.v_scale[head] : kv.k_scale[head];
    x = kv8_divide(x, unit, __frcp_rn(unit));
    ((uint8_t *)to)[e] = kv.dtype == TN_DT_I8 ? kv8_narrow<int8_t>(x) : kv8_narrow<e4m3>(x);
}

/* The base that replaces the table's when a sequence has outgrown max_position; 0: it has not. */
__device__ float dynamic_base(const rope_args &p, uint32_t row)
{
    double limit = (double)p.max_position, rotary = (double)p.rotary_dim;
    double n = fmax((double)p.prompt_len[p.row_seq[row]], (double)p.positions[row] + 1.0);

    if (limit <= 0.0 || n <= limit)
        return 0.0f;
    return (float)(p.base * pow((double)p.factor * n / limit - ((double)p.factor - 1.0),
                                rotary / (rotary - 2.0)));
}

/* Element `i` of a head at `x`, rotated. angle[j] is cos, angle[half + j] sin. */
template <typename T>
__device__ __forceinline__ float rotated(const rope_args &p, const T *x, uint32_t i,
                                         const float *angle)
{
    uint32_t half = p.rotary_dim / 2, j, other;
    bool second;

    if (i >= p.rotary_dim)
        return widen(x[i]);
    j = p.pairs ? i / 2 : i % half;
    second = p.pairs ? i % 2 : i >= half;
    other = p.pairs ? i ^ 1 : (second ? i - half : i + half);
    float mine = __fmul_rn(widen(x[i]), angle[j]),
          its = __fmul_rn(widen(x[other]), angle[half + j]);
    return second ? mine + its : mine - its;
}

/* The row's keys, rotated, and values, each element to the nearest. */
template <typename T>
__device__ __forceinline__ void append_nearest(const rope_args &p, uint32_t row, const float *angle)
{
    const uint64_t kv_width = (uint64_t)p.kv.kv_heads * p.kv.head_dim;

    for (uint64_t i = threadIdx.x; i < kv_width; i += blockDim.x) {
        uint32_t head = (uint32_t)(i / p.kv.head_dim), e = (uint32_t)(i % p.kv.head_dim);
        const T *k = (const T *)p.k + row * kv_width + (uint64_t)head * p.kv.head_dim;
        const T *v = (const T *)p.v + row * kv_width;
        store_cached(p.kv, cached(p.kv, p.row_slot[row], head, false), head, e,
                     rotated(p, k, e, angle), false);
        store_cached(p.kv, cached(p.kv, p.row_slot[row], head, true), head, e, widen(v[i]), true);
    }
}

/* cos and sin of the angles of a row from pair `first` on, every step-th: angle[j] and angle[half + j]. */
__device__ __forceinline__ void find_angles(const rope_args &p, uint32_t row, float *angle,
                                            uint32_t first, uint32_t step)
{
    const uint32_t half = p.rotary_dim / 2;
    const float base = p.max_position > 0 ? dynamic_base(p, row) : 0.0f;

    for (uint32_t j = first; j < half; j += step) {
        /* The power in double: an error of it counts as often as the position is large. */
        double power = (double)((float)(2 * j) / (float)p.rotary_dim);
        float freq = base > 0.0f ? 1.0f / (float)pow((double)base, power)
                                 : load_any(p.freqs, p.freqs_dtype, j);
        float turn = (float)p.positions[row] * freq;
        angle[j] = p.mscale * cosf(turn);
        angle[half + j] = p.mscale * sinf(turn);
    }
}

/* A row has a block: queries rotated into y; keys rotated, and values, into the cache. */
template <typename T> __device__ __forceinline__ void rope(const rope_args &p)
{
    extern __shared__ float angle[]; /* [rotary_dim] */
    const uint32_t row = blockIdx.x;

    wait_for_previous();
    find_angles(p, row, angle, threadIdx.x, blockDim.x);
    __syncthreads();
    for (uint64_t i = threadIdx.x; p.q && i < p.q_width; i += blockDim.x) {
        uint64_t head = i / p.head_dim * p.head_dim;
        ((T *)p.y)[row * p.q_width + i] = narrow<T>(
            rotated(p, (const T *)p.q + row * p.q_width + head, (uint32_t)(i - head), angle));
    }
    if (p.k && p.row_slot[row] >= 0)
        append_nearest<T>(p, row, angle);
}

/* -- The cache, with feedback ------------------------------------------------------------------------------- */

/* A head's table (kv_feedback.h) where the cache has it: of a block each lane has a word. */
struct shape_table {
    const uint32_t *at;

    __device__ __forceinline__ uint32_t pair(int run, int of) const
    {
        return at[TN_KV_FEEDBACK_BLOCK(run, of) * 32 + threadIdx.x % 32];
    }
};

/* A warp's sixteen rows in shared memory, divided by the scale. What is kept of two elements takes their place: errors, then bytes. */
struct shape_rows {
    float *rows;
    uint32_t pitch;

    __device__ __forceinline__ float *at(int run, uint32_t second) const
    {
        const uint32_t lane = threadIdx.x % 32;

        return rows + (lane / 4 + 8 * second) * pitch + run * KV_SHAPE_RUN + lane % 4 * 2;
    }

    __device__ __forceinline__ void load(int run, float (&y)[4]) const
    {
        const float2 a = *(const float2 *)at(run, 0), b = *(const float2 *)at(run, 1);

        y[0] = a.x, y[1] = a.y, y[2] = b.x, y[3] = b.y;
    }

    __device__ __forceinline__ void keep(int run, uint2 error, uint16_t first,
                                         uint16_t second) const
    {
        *(uint2 *)at(run, 0) = make_uint2(error.x, first);
        *(uint2 *)at(run, 1) = make_uint2(error.y, second);
    }

    __device__ __forceinline__ uint2 kept(int run) const
    {
        return make_uint2(*(const uint32_t *)at(run, 0), *(const uint32_t *)at(run, 1));
    }

    __device__ __forceinline__ uint8_t stored(uint32_t row, uint32_t e) const
    {
        return ((const uint8_t *)(rows + row * pitch + (e | 1)))[e % 2];
    }
};

/* Row `row` of the step, to row `to` of the warp's; behind its elements zeros up to a whole run. */
template <typename T>
__device__ __forceinline__ void shape_read(const rope_args &p, uint32_t row, uint32_t head,
                                           bool value, float *angle, float *to)
{
    const uint32_t dim = p.kv.head_dim, lane = threadIdx.x % 32;
    const T *x = (const T *)(value ? p.v : p.k) + ((uint64_t)row * p.kv.kv_heads + head) * dim;
    const float *center = value || !p.kv.k_center ? NULL : p.kv.k_center + (uint64_t)head * dim;
    const float unit = value ? p.kv.v_scale[head] : p.kv.k_scale[head];

    if (!value)
        find_angles(p, row, angle, lane, 32);
    __syncwarp();
    for (uint32_t e = lane; e < dim + KV_SHAPE_RUN - 1; e += 32) {
        float y = e >= dim ? 0.0f : value ? widen(x[e]) : rotated(p, x, e, angle);
        if (center && e < dim)
            y -= center[e];
        if (e < SHAPE_RUNS(dim) * KV_SHAPE_RUN)
            to[e] = kv8_divide(y, unit, __frcp_rn(unit));
    }
    __syncwarp();
}

/* A warp has sixteen rows of keys, or of values, of a head. */
template <typename T> __device__ __forceinline__ void shape(const rope_args &p)
{
    extern __shared__ float room[]; /* of each warp: rows, angles */
    const uint32_t dim = p.kv.head_dim, lane = threadIdx.x % 32, pitch = SHAPE_PITCH(dim);
    const uint32_t tiles = (p.rows + KV_SHAPE_ROWS - 1) / KV_SHAPE_ROWS;
    const uint32_t i = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, side = i / tiles;
    const uint32_t first = i % tiles * KV_SHAPE_ROWS, head = side % p.kv.kv_heads;
    const bool value = side >= p.kv.kv_heads;
    const uint16_t *tables = value ? p.kv.v_feedback : p.kv.k_feedback;
    const shape_table table = {
        (const uint32_t *)(tables + head * (uint64_t)(TN_KV_FEEDBACK_BYTES(dim) / 2))};
    const shape_rows rows = {room + threadIdx.x / 32 * (SHAPE_WARP_BYTES(dim, p.rotary_dim) / 4),
                             pitch};

    wait_for_previous();
    if (side >= 2 * p.kv.kv_heads)
        return;
    const uint32_t n = min(p.rows - first, KV_SHAPE_ROWS);
    for (uint32_t r = 0; r < n; r++)
        if (p.row_slot[first + r] >= 0)
            shape_read<T>(p, first + r, head, value, rows.rows + KV_SHAPE_ROWS * pitch,
                          rows.rows + r * pitch);
    kv_shape(table, rows, SHAPE_RUNS(dim));
    __syncwarp();
    for (uint32_t r = 0; r < n; r++) {
        const int64_t slot = p.row_slot[first + r];
        for (uint32_t e = lane; e < dim && slot >= 0; e += 32)
            cached(p.kv, slot, head, value)[e] = (char)rows.stored(r, e);
    }
}

/* -- The tokens of the step ahead --------------------------------------------------------------------------- */

extern "C" __global__ void __launch_bounds__(256) feed(feed_args p)
{
    uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;

    let_next_begin(); /* the arrays are in place: before this kernel began, all that was ahead had ended */
    if (row >= p.rows || p.token_row[row] < 0)
        return;
    int32_t token = p.sampled[p.token_row[row]];
    p.tokens[row] = token > 0 ? token : 0;
}

/* Reads and does next to nothing: eight independent loads of 16 bytes per thread are in flight before the first is used. */
extern "C" __global__ void __launch_bounds__(512) stream_read(read_args p)
{
    const uint4 *x = (const uint4 *)p.x;
    uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    uint32_t sum = 0;

    for (; i + 7 * step < p.n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = __ldcs(&x[i + k * step]);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    for (; i < p.n; i += step)
        sum ^= x[i].x ^ x[i].y ^ x[i].z ^ x[i].w;
    if (sum ==
        0x9e3779b9) /* hardly ever: whether it stores hangs on every byte, and storing costs nothing */
        *p.y = sum;
}

/* -- Dummy weights ----------------------------------------------------------------------------------------- */

__device__ __forceinline__ void store_noise(const dummy_args &p, uint64_t i, uint16_t bits)
{
    const float f = tn_noise_value(p.role, bits);

    switch (p.dtype) {
    case TN_DT_F32: ((float *)p.y)[i] = f; break;
    case TN_DT_F16: ((__half *)p.y)[i] = __float2half_rn(f); break;
    case TN_DT_BF16: ((__nv_bfloat16 *)p.y)[i] = __float2bfloat16_rn(f); break;
    case TN_DT_F8E4M3:
        ((__nv_fp8_storage_t *)p.y)[i] =
            __nv_cvt_float_to_fp8(__fmul_rn(f, TN_NOISE_FP8), __NV_SATFINITE, __NV_E4M3);
        break;
    default: ((uint8_t *)p.y)[i] = (uint8_t)bits; break;
    }
}

/* Four elements share a word of the stream where they begin at a multiple of four. */
extern "C" __global__ void __launch_bounds__(256) dummy_weight(dummy_args p)
{
    const uint64_t step = (uint64_t)gridDim.x * blockDim.x;
    const uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const bool fours = (p.first | p.row | p.stride | p.count) % 4 == 0;

    if (fours) {
        for (uint64_t i = 4 * thread; i < p.count; i += 4 * step) {
            const uint64_t e = p.first + i / p.row * p.stride + i % p.row;
            const uint64_t word = tn_noise_word(p.seed, e / 4);
            for (int k = 0; k < 4; k++)
                store_noise(p, i + k, (uint16_t)(word >> (16 * k)));
        }
        return;
    }
    for (uint64_t i = thread; i < p.count; i += step)
        store_noise(p, i, tn_noise_bits(p.seed, p.first + i / p.row * p.stride + i % p.row));
}

/* One block per row. */
extern "C" __global__ void __launch_bounds__(256) gather(gather_args p)
{
    const char *from = (const char *)p.x + (uint64_t)p.row_index[blockIdx.x] * p.row_bytes;
    char *to = (char *)p.y + blockIdx.x * p.row_bytes;

    if (p.row_bytes % 16 == 0)
        for (uint64_t i = threadIdx.x; i < p.row_bytes / 16; i += blockDim.x)
            ((uint4 *)to)[i] = ((const uint4 *)from)[i];
    else
        for (uint64_t i = threadIdx.x; i < p.row_bytes / 2; i += blockDim.x)
            ((uint16_t *)to)[i] = ((const uint16_t *)from)[i];
}

/* -- Hadamard ------------------------------------------------------------------------------------------------ */

/* Element i of a head times its row of the factor of order `base`. */
__device__ __forceinline__ float add_signed(const hadamard_args &p, const float *head, uint32_t i)
{
    const uint32_t order = p.base * p.two, negative = p.negative[i % order / p.two];
    const float *x = head + i / order * order + i % p.two;
    float sum = 0.0f;

    for (uint32_t c = 0; c < p.base; c++)
        sum += negative >> c & 1 ? -x[c * p.two] : x[c * p.two];
    return sum;
}

/* One block per head: butterflies of growing width in shared memory. */
template <typename T> __device__ __forceinline__ void hadamard(const hadamard_args &p)
{
    extern __shared__ float head[]; /* [dim] */
    const T *x = (const T *)p.x + blockIdx.x * (uint64_t)p.dim;
    T *y = (T *)p.y + blockIdx.x * (uint64_t)p.dim;
    float by = 1.0f / sqrtf((float)(p.base * p.two));

    wait_for_previous();
    for (uint32_t i = threadIdx.x; i < p.dim; i += blockDim.x)
        head[i] = widen(x[i]) * by;
    for (uint32_t h = 1; h < p.two; h *= 2) {
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < p.dim / 2; i += blockDim.x) {
            float *pair = head + i / h * 2 * h + i % h;
            float a = pair[0], b = pair[h];
            pair[0] = a + b;
            pair[h] = a - b;
        }
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < p.dim; i += blockDim.x)
        y[i] = narrow<T>(p.base == 1 ? head[i] : add_signed(p, head, i));
}

/* -- Order --------------------------------------------------------------------------------------------------- */

/* One block per row. What is read lies anywhere in a row, which the caches hold; what is written, side by side. */
template <typename T> __device__ __forceinline__ void reorder(const reorder_args &p)
{
    const T *x = (const T *)p.x + blockIdx.x * p.width;
    T *y = (T *)p.y + blockIdx.x * p.width;

    wait_for_previous();
    for (uint64_t i = threadIdx.x; i < p.width; i += blockDim.x)
        y[i] = x[p.order[i]];
}

/* -- Stamped out per dtype of the rows ----------------------------------------------------------------------- */

/* (1024, 1): with 1024 alone, ptxas makes room for two blocks on sm_100, and spills. (SHAPE_THREADS(1), 4): likewise for eight. */
#define STAMP(id, T)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) map_##id(map_args p)                         \
    {                                                                                              \
        map<T>(p);                                                                                 \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024) rms_norm_##id(norm_args p)                  \
    {                                                                                              \
        wait_for_previous();                                                                       \
        rms_norm<T>(p, blockIdx.x * p.group);                                                      \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024) layer_norm_##id(norm_args p)                \
    {                                                                                              \
        wait_for_previous();                                                                       \
        layer_norm<T>(p, blockIdx.x * p.group);                                                    \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                          \
        reduce_rms_norm_##id(const __grid_constant__ reduce_norm_args p)                           \
    {                                                                                              \
        reduce_norm<T, false>(p);                                                                  \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(1024, 1)                                          \
        reduce_layer_norm_##id(const __grid_constant__ reduce_norm_args p)                         \
    {                                                                                              \
        reduce_norm<T, true>(p);                                                                   \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) table_##id(table_args p)                     \
    {                                                                                              \
        table<T>(p);                                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) table8_##id(table8_args p)                   \
    {                                                                                              \
        table8<T>(p);                                                                              \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(ROPE_THREADS) rope_##id(rope_args p)              \
    {                                                                                              \
        rope<T>(p);                                                                                \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(SHAPE_THREADS(1), 4) shape_##id(rope_args p)      \
    {                                                                                              \
        shape<T>(p);                                                                               \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) hadamard_##id(hadamard_args p)               \
    {                                                                                              \
        hadamard<T>(p);                                                                            \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) reorder_##id(reorder_args p)                 \
    {                                                                                              \
        reorder<T>(p);                                                                             \
    }

STAMP(f32, float)
STAMP(f16, f16)
STAMP(bf16, bf16)
