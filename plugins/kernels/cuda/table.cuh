/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of tables, chosen by token or by position: embedding, of floats or int8, and position. The first kernel of a step, as a rule,
 * which waits for memory that is far away: so what can be asked for early is.
 */
#ifndef CUDA_TABLE_CUH
#define CUDA_TABLE_CUH

#include "../common/cuda_kv8.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"

/* Elements that a thread has under way: a row is taken from memory that is far away. */
#define TABLE_AHEAD 32

template <typename W> constexpr uint32_t table_each = TABLE_RUN;
template <> constexpr uint32_t table_each<int8_t> = TABLE8_RUN;
template <typename W> constexpr uint32_t table_ahead = TABLE_AHEAD / table_each<W>; /* in runs */

template <typename W> struct table_run {
    uint4 raw[table_each<W> / per16<W>];
};

/* What the elements of an entry are multiplied by: a factor. */
struct table_factor {
    float factor;

    __device__ __forceinline__ void enter(int64_t /* entry */)
    {
    }

    __device__ __forceinline__ void load(const table_args &, uint64_t /* column */)
    {
    }

    template <uint32_t n>
    __device__ __forceinline__ void multiply(float (&x)[n], uint32_t /* run */) const
    {
#pragma unroll
        for (uint32_t j = 0; j < n; j++)
            x[j] *= factor;
    }

    __device__ __forceinline__ float product(float x, uint64_t /* column */) const
    {
        return factor * x;
    }
};

/* Of int8: a factor with the entry's scale in it, then the column's, which hangs on no entry and is loaded before there is one. */
struct table_columns {
    float factor;
    const float *scale, *by;
    float4 ahead[table_ahead<int8_t>][TABLE8_RUN / 4]; /* of the runs under way */

    __device__ __forceinline__ void enter(int64_t entry)
    {
        factor *= scale[entry];
    }

    __device__ __forceinline__ void load(const table_args &p, uint64_t at)
    {
#pragma unroll
        for (uint32_t k = 0; k < table_ahead<int8_t>; k++) {
            const uint64_t i = at + k * TABLE8_RUN * blockDim.x;
#pragma unroll
            for (uint32_t j = 0; j < TABLE8_RUN / 4; j++)
                if (i < p.width)
                    ahead[k][j] = ((const float4 *)(by + i))[j];
        }
    }

    __device__ __forceinline__ void multiply(float (&x)[TABLE8_RUN], uint32_t run) const
    {
#pragma unroll
        for (uint32_t j = 0; j < TABLE8_RUN / 4; j++) {
            const float4 m = ahead[run][j];
            x[4 * j] = factor * x[4 * j] * m.x;
            x[4 * j + 1] = factor * x[4 * j + 1] * m.y;
            x[4 * j + 2] = factor * x[4 * j + 2] * m.z;
            x[4 * j + 3] = factor * x[4 * j + 3] * m.w;
        }
    }

    __device__ __forceinline__ float product(float x, uint64_t column) const
    {
        return factor * x * by[column];
    }
};

__device__ __forceinline__ bool table_has(const table_args &p, int64_t entry)
{
    return entry >= 0 && (uint64_t)entry < p.entries;
}

template <typename W>
__device__ __forceinline__ const W *table_entry(const table_args &p, int64_t entry)
{
    return (const W *)((const char *)p.table + (uint64_t)entry * p.stride);
}

/* Runs of an entry from element `at` on, a block apart. */
template <typename W>
__device__ __forceinline__ void table_load(const table_args &p, int64_t entry, uint64_t at,
                                           table_run<W> (&run)[table_ahead<W>])
{
    const W *from = table_entry<W>(p, entry);

#pragma unroll
    for (uint32_t k = 0; k < table_ahead<W>; k++) {
        const uint64_t i = at + k * table_each<W> * blockDim.x;
#pragma unroll
        for (uint32_t j = 0; j < table_each<W> / per16<W>; j++)
            if (i < p.width)
                run[k].raw[j] = ((const uint4 *)(from + i))[j];
    }
}

template <typename T, typename W, typename By>
__device__ __forceinline__ void table_store(const table_args &p, T *y, uint64_t at,
                                            const table_run<W> (&run)[table_ahead<W>], const By &by)
{
#pragma unroll
    for (uint32_t k = 0; k < table_ahead<W>; k++) {
        const uint64_t i = at + k * table_each<W> * blockDim.x;
        float x[table_each<W>];
        if (i >= p.width)
            continue;
#pragma unroll
        for (uint32_t j = 0; j < table_each<W> / per16<W>; j++)
            widen16<W>(run[k].raw[j], x + j * per16<W>);
        by.multiply(x, k);
#pragma unroll
        for (uint32_t j = 0; j < table_each<W> / per16<T>; j++)
            ((uint4 *)(y + i))[j] = narrow16<T>(x + j * per16<T>);
    }
}

/* The entry that this block's row takes. Outside of graphs the kernel may be the first of a step, and those behind it trust that the
 * arrays are in place: then the next may begin once the kernel ahead has ended. */
__device__ __forceinline__ int64_t table_row(const table_args &p)
{
    if (!p.early)
        wait_for_previous();
    if (!p.in_place)
        let_next_begin();
    const int32_t from = p.token_row ? p.token_row[blockIdx.x] : -1;
    if (from < 0)
        return (int64_t)__ldcg(p.entry + blockIdx.x) - p.first;
    const int32_t token = max(p.sampled[from], 0);
    if (threadIdx.x == 0)
        p.entry[blockIdx.x] = token; /* for whoever else reads tokens */
    return (int64_t)token - p.first;
}

template <typename T> __device__ __forceinline__ void table_zeros(const table_args &p, T *y)
{
    for (uint64_t i = threadIdx.x; i < p.width; i += blockDim.x)
        y[i] = narrow<T>(0.0f);
}

/* A row in runs of 16 bytes. `by` has loaded the first. */
template <typename T, typename W, typename By>
__device__ __forceinline__ void table_runs(const table_args &p, int64_t entry, T *y, By &by)
{
    const uint64_t first = threadIdx.x * table_each<W>;
    table_run<W> run[table_ahead<W>];

    table_load<W>(p, entry, first, run);
    by.enter(entry);
    wait_for_previous();
    for (uint64_t at = first; at < p.width; at += TABLE_AHEAD * blockDim.x) {
        if (at != first) {
            table_load<W>(p, entry, at, run);
            by.load(p, at);
        }
        table_store<T, W>(p, y, at, run, by);
    }
}

/* A row of any width, one element at a time. */
template <typename T, typename W, typename By>
__device__ __forceinline__ void table_elements(const table_args &p, int64_t entry, T *y, By &by)
{
    by.enter(entry);
    wait_for_previous();
    for (uint64_t i = threadIdx.x; i < p.width; i += blockDim.x)
        y[i] = narrow<T>(by.product(widen(table_entry<W>(p, entry)[i]), i));
}

template <typename T, typename W, typename By>
__device__ __forceinline__ void table_of(const table_args &p, int64_t entry, T *y, By &by)
{
    if (p.aligned)
        table_runs<T, W>(p, entry, y, by);
    else
        table_elements<T, W>(p, entry, y, by);
}

/* Whether the table has the entry that this block's row takes; where it has not, the row is 0. */
template <typename T>
__device__ __forceinline__ bool table_find(const table_args &p, T *y, int64_t &entry)
{
    if (p.in_place)
        let_next_begin();
    entry = table_row(p);
    if (table_has(p, entry))
        return true;
    wait_for_previous();
    table_zeros(p, y);
    return false;
}

/* One block per row. */
template <typename T> __device__ __forceinline__ void table(const table_args &p)
{
    T *y = (T *)p.y + blockIdx.x * p.width;
    table_factor by = {p.factor};
    int64_t entry;

    if (!table_find(p, y, entry))
        return;
    if (p.table_dtype == TN_DT_BF16)
        table_of<T, bf16>(p, entry, y, by);
    else if (p.table_dtype == TN_DT_F16)
        table_of<T, f16>(p, entry, y, by);
    else
        table_of<T, float>(p, entry, y, by);
}

/* The same of int8: a kernel of its own, that neither's first step waits for the other's text. */
template <typename T> __device__ __forceinline__ void table8(const table8_args &a)
{
    const table_args &p = a.table;
    T *y = (T *)p.y + blockIdx.x * p.width;
    table_columns by;
    int64_t entry;

    by.factor = p.factor;
    by.scale = a.scale;
    by.by = a.by;
    if (p.aligned)
        by.load(p, threadIdx.x * TABLE8_RUN);
    if (!table_find(p, y, entry))
        return;
    table_of<T, int8_t>(p, entry, y, by);
}

#endif
