/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sums and gathers of ranks with a device each, whose kernels wait for each other: tn_device_api::meet_sum and meet_gather. What a
 * call is the how-manieth is counted in device memory, so that a graph may be replayed.
 *
 * Small sums ("one shot") write their part into the peers' memory, each 8 bytes with the call's number beside both words, which
 * therefore arrive together: whoever finds the number has the data (NCCL's protocol LL). There is a slot per thread, in two turns:
 * a slot is written again in call k + 2 of its block, when all peers have sent something of call k + 1, and so have ended call k.
 *
 * Larger calls ("two shots": each rank adds up its share and hands it out) write into the peers' memory, too, and then meet, block
 * by block, by flags. Slots belong to a block, so blocks need not wait for each other. Parts are read between the first meeting and
 * the second, sums after it, and written again after the next first one; what is gathered lies in two turns, as above.
 *
 * A wait ends when the host says so or time is up. Then what is computed is worthless, and nobody waits any more.
 */
#include "../common/cuda_dtype.cuh"
#include "../common/cuda_reduce.cuh"
#include "args.h"
#include "peers.cuh"

#define LOOKS                                                                                      \
    4096 /* at a flag, between two at the clock and at the host's word, which lies far away */

/* -- Adding up ----------------------------------------------------------------------------------- */

/* W words of T, added in float32; whole numbers wrap around. */
template <typename T, int W> struct running {
    static constexpr int per = 4 / (int)sizeof(T);
    float x[W * per];

    __device__ __forceinline__ static void widen_words(const uint32_t *w, float *out)
    {
#pragma unroll
        for (int i = 0; i < W; i++) {
            T e[per];
            memcpy(e, &w[i], 4);
#pragma unroll
            for (int k = 0; k < per; k++)
                out[i * per + k] = widen(e[k]);
        }
    }

    __device__ __forceinline__ void set(const uint32_t *w)
    {
        widen_words(w, x);
    }

    __device__ __forceinline__ void add(const uint32_t *w)
    {
        float y[W * per];
        widen_words(w, y);
#pragma unroll
        for (int i = 0; i < W * per; i++)
            x[i] += y[i];
    }

    __device__ __forceinline__ void get(uint32_t *w) const
    {
#pragma unroll
        for (int i = 0; i < W; i++) {
            T e[per];
#pragma unroll
            for (int k = 0; k < per; k++)
                e[k] = narrow<T>(x[i * per + k]);
            memcpy(&w[i], e, 4);
        }
    }
};

template <int W> struct running<int32_t, W> {
    uint32_t x[W];

    __device__ __forceinline__ void set(const uint32_t *w)
    {
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] = w[i];
    }

    __device__ __forceinline__ void add(const uint32_t *w)
    {
#pragma unroll
        for (int i = 0; i < W; i++)
            x[i] += w[i];
    }

    __device__ __forceinline__ void get(uint32_t *w) const
    {
#pragma unroll
        for (int i = 0; i < W; i++)
            w[i] = x[i];
    }
};

/* -- Memory -------------------------------------------------------------------------------------- */

/* Vector `i` of W words; of the last one, what there is, and zeros. */
template <int W>
__device__ __forceinline__ void load_words(const meet_args &p, uint64_t i, uint32_t *w)
{
    const unsigned char *at = (const unsigned char *)p.src + i * W * 4;
    uint64_t left = p.bytes - i * W * 4;

    if (p.aligned && left >= W * 4) {
        if constexpr (W == 4)
            *(uint4 *)w = *(const uint4 *)at;
        else
            *(uint2 *)w = *(const uint2 *)at;
        return;
    }
#pragma unroll
    for (int k = 0; k < W; k++) {
        w[k] = 0;
        for (int b = 0; b < 4; b++)
            if (4 * k + b < left)
                w[k] |= (uint32_t)at[4 * k + b] << (8 * b);
    }
}

/* To vector `i` of `dst`, as many bytes as `p.bytes` has there. */
template <int W>
__device__ __forceinline__ void store_words(const meet_args &p, void *dst, uint64_t i,
                                            const uint32_t *w)
{
    unsigned char *at = (unsigned char *)dst + i * W * 4;
    uint64_t left = p.bytes - i * W * 4;

    if (p.aligned && left >= W * 4) {
        if constexpr (W == 4)
            *(uint4 *)at = *(const uint4 *)w;
        else
            *(uint2 *)at = *(const uint2 *)w;
        return;
    }
#pragma unroll
    for (int k = 0; k < W; k++)
        for (int b = 0; b < 4; b++)
            if (4 * k + b < left)
                at[4 * k + b] = (unsigned char)(w[k] >> (8 * b));
}

__device__ __forceinline__ void store_peer(void *p, uint4 v)
{
    asm volatile("st.volatile.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}

__device__ __forceinline__ void raise_flag(uint32_t *p, uint32_t v)
{
#if __CUDA_ARCH__ >= 700
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

__device__ __forceinline__ uint32_t look_at_flag(const uint32_t *p)
{
    uint32_t v = 0;
#if __CUDA_ARCH__ >= 700
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
#endif
    return v;
}

__device__ __forceinline__ uint64_t clock_ns()
{
    uint64_t t;

    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
    return t;
}

__device__ __forceinline__ meet_control *control_of(const meet_args &p)
{
    return (meet_control *)p.room[p.rank];
}

/* -- Waiting ------------------------------------------------------------------------------------- */

struct patience {
    uint64_t since;
    uint32_t looks;
};

/* Counts a look in vain for `peer`; true: wait no longer. */
__device__ __forceinline__ bool give_up(const meet_args &p, uint32_t peer, patience &w)
{
    volatile uint32_t *broken = &control_of(p)->broken;

    if (++w.looks % LOOKS != 0)
        return false;
    if (w.looks == LOOKS)
        w.since = clock_ns();
    if (*broken)
        return true;
    if (p.words[TN_MEET_GIVE_UP] == 0) {
        if (p.timeout_ns == 0 || clock_ns() - w.since < p.timeout_ns)
            return false;
        p.words[TN_MEET_LATE] = 1 + peer;
        __threadfence_system();
    }
    *broken = 1;
    return true;
}

/* -- One shot ------------------------------------------------------------------------------------ */

__device__ __forceinline__ uint4 *small_slot(const meet_args &p, uint32_t room, uint32_t turn,
                                             uint32_t from, uint32_t i)
{
    return (uint4 *)((char *)p.room[room] + MEET_BOXES) +
           ((uint64_t)turn * p.n + from) * MEET_SMALL_SLOTS + i;
}

/* The two words of a slot once they are those of call `number`. */
__device__ __forceinline__ bool await_slot(const meet_args &p, const uint4 *slot, uint32_t peer,
                                           uint32_t number, uint32_t *w)
{
    patience waits = {0, 0};

    for (;;) {
        uint4 v = load_peer(slot);
        w[0] = v.x;
        w[1] = v.z;
        if (v.y == number && v.w == number)
            return true;
        if (give_up(p, peer, waits))
            return false;
    }
}

template <typename T>
__device__ __forceinline__ void sum_slot(const meet_args &p, uint32_t i, uint32_t number)
{
    alignas(8) uint32_t own[2], w[2];
    running<T, 2> sum;
    bool ok = true;

    load_words<2>(p, i, own);
    for (uint32_t k = 1; k < p.n; k++) {
        uint32_t to = (p.rank + k) % p.n;
        store_peer(small_slot(p, to, number & 1, p.rank, i), {own[0], number, own[1], number});
    }
    for (uint32_t r = 0; r < p.n && ok; r++) {
        if (r != p.rank)
            ok = await_slot(p, small_slot(p, p.rank, number & 1, r, i), r, number, w);
        const uint32_t *from = r == p.rank ? own : w;
        if (r == 0)
            sum.set(from);
        else
            sum.add(from);
    }
    if (!ok)
        return;
    sum.get(w);
    store_words<2>(p, p.dst, i, w);
}

template <typename T> __device__ __forceinline__ void sum_small(const meet_args &p)
{
    meet_control *c = control_of(p);
    uint32_t i = blockIdx.x * MEET_SMALL_THREADS + threadIdx.x, number;
    bool broken;

    wait_for_previous();
    let_next_begin(); /* it waits for the end of this one, all of whose blocks are there */
    number = ((volatile meet_control *)c)->small[blockIdx.x] + 1;
    broken = ((volatile meet_control *)c)->broken != 0;
    if (number == 0) /* slots begin as zeros; 2 has the same turn */
        number = 2;
    if (!broken && (uint64_t)i * 8 < p.bytes)
        sum_slot<T>(p, i, number);
    __syncthreads();
    if (threadIdx.x == 0)
        c->small[blockIdx.x] = number;
}

/* -- Two shots ----------------------------------------------------------------------------------- */

enum box { PARTS, SUMS, GATHERED }; /* the last in two turns */

/* Where rank `from` puts vector `k` of this thread in a room. */
__device__ __forceinline__ uint4 *large_slot(const meet_args &p, uint32_t room, uint32_t box,
                                             uint32_t from, uint32_t k)
{
    return (uint4 *)((char *)p.room[room] + MEET_BOXES) + 2 * p.n * (uint64_t)MEET_SMALL_SLOTS +
           ((uint64_t)box * p.n + from) * MEET_SLOTS +
           (blockIdx.x * MEET_DEPTH + k) * MEET_THREADS + threadIdx.x;
}

__device__ __forceinline__ uint32_t *flag_of(const meet_args &p, uint32_t room, uint32_t from)
{
    return (uint32_t *)((char *)p.room[room] + MEET_FLAGS) + blockIdx.x * TN_MEET_MAX + from;
}

/* All that this block wrote is there for the peers, and what theirs wrote for it. False: it has been in vain. */
__device__ __forceinline__ bool meet(const meet_args &p, uint32_t &number)
{
    uint32_t peer = threadIdx.x;
    patience waits = {0, 0};
    bool ok = true;

    number++;
    __syncthreads();
    if (peer < p.n && peer != p.rank) {
        raise_flag(flag_of(p, peer, p.rank), number);
        while (ok && (int32_t)(look_at_flag(flag_of(p, p.rank, peer)) - number) < 0)
            ok = !give_up(p, peer, waits);
    }
    return __syncthreads_and(ok) != 0;
}

/* Vector k of this thread in pass `pass`. */
__device__ __forceinline__ uint64_t vector_of(uint64_t pass, uint32_t k)
{
    return ((pass * MEET_DEPTH + k) * gridDim.x + blockIdx.x) * MEET_THREADS + threadIdx.x;
}

struct shares {
    uint64_t vectors, each; /* of 16 bytes: all, and a rank's share */
};

/* The vector at `off` of a rank's share; false if there is none. */
__device__ __forceinline__ bool in_share(const shares &s, uint32_t rank, uint64_t off, uint64_t *i)
{
    *i = s.each * rank + off;
    return off < s.each && *i < s.vectors;
}

__device__ __forceinline__ void hand_out_parts(const meet_args &p, const shares &s, uint64_t pass)
{
    for (uint32_t j = 1; j < p.n; j++) {
        uint32_t to = (p.rank + j) % p.n;
#pragma unroll
        for (uint32_t k = 0; k < MEET_DEPTH; k++) {
            alignas(16) uint32_t w[4];
            uint64_t i;
            if (!in_share(s, to, vector_of(pass, k), &i))
                continue;
            load_words<4>(p, i, w);
            store_peer(large_slot(p, to, PARTS, p.rank, k), *(const uint4 *)w);
        }
    }
}

template <typename T>
__device__ __forceinline__ void add_up_share(const meet_args &p, const shares &s, uint64_t pass)
{
#pragma unroll
    for (uint32_t k = 0; k < MEET_DEPTH; k++) {
        running<T, 4> sum;
        alignas(16) uint32_t w[4];
        uint64_t i;
        if (!in_share(s, p.rank, vector_of(pass, k), &i))
            continue;
        for (uint32_t r = 0; r < p.n; r++) {
            if (r == p.rank)
                load_words<4>(p, i, w);
            else
                *(uint4 *)w = load_peer(large_slot(p, p.rank, PARTS, r, k));
            if (r == 0)
                sum.set(w);
            else
                sum.add(w);
        }
        sum.get(w);
        store_words<4>(p, p.dst, i, w);
        for (uint32_t j = 1; j < p.n; j++)
            store_peer(large_slot(p, (p.rank + j) % p.n, SUMS, p.rank, k), *(const uint4 *)w);
    }
}

__device__ __forceinline__ void take_sums(const meet_args &p, const shares &s, uint64_t pass)
{
    for (uint32_t j = 1; j < p.n; j++) {
        uint32_t from = (p.rank + j) % p.n;
#pragma unroll
        for (uint32_t k = 0; k < MEET_DEPTH; k++) {
            uint64_t i;
            if (!in_share(s, from, vector_of(pass, k), &i))
                continue;
            uint4 v = load_peer(large_slot(p, p.rank, SUMS, from, k));
            store_words<4>(p, p.dst, i, (const uint32_t *)&v);
        }
    }
}

template <typename T> __device__ __forceinline__ void sum_large(const meet_args &p)
{
    uint64_t vectors = (p.bytes + 15) / 16;
    shares s = {vectors, (vectors + p.n - 1) / p.n};
    uint64_t per_pass = (uint64_t)gridDim.x * MEET_THREADS * MEET_DEPTH;
    meet_control *c = control_of(p);
    uint32_t number;
    bool ok;

    wait_for_previous();
    let_next_begin(); /* it waits for the end of this one, all of whose blocks are there */
    number = ((volatile meet_control *)c)->large[blockIdx.x];
    ok = __syncthreads_or(((volatile meet_control *)c)->broken != 0) == 0;
    for (uint64_t pass = 0; pass * per_pass < s.each && ok; pass++) {
        hand_out_parts(p, s, pass);
        ok = meet(p, number);
        if (ok)
            add_up_share<T>(p, s, pass);
        ok = ok && meet(p, number);
        if (ok)
            take_sums(p, s, pass);
    }
    if (threadIdx.x == 0)
        c->large[blockIdx.x] = number;
}

/* (MEET_THREADS, 1): left to itself, ptxas makes room for three blocks on sm_80, and spills. */
#define SUMS_OF(name, T)                                                                           \
    extern "C" __global__ void __launch_bounds__(MEET_SMALL_THREADS)                               \
        meet_small_##name(const __grid_constant__ meet_args p)                                     \
    {                                                                                              \
        sum_small<T>(p);                                                                           \
    }                                                                                              \
    extern "C" __global__ void __launch_bounds__(MEET_THREADS, 1)                                  \
        meet_large_##name(const __grid_constant__ meet_args p)                                     \
    {                                                                                              \
        sum_large<T>(p);                                                                           \
    }
SUMS_OF(f32, float)
SUMS_OF(f16, f16)
SUMS_OF(bf16, bf16)
SUMS_OF(i32, int32_t)

/* -- Gathering ----------------------------------------------------------------------------------- */

extern "C" __global__ void __launch_bounds__(MEET_THREADS, 1)
    meet_gather(const __grid_constant__ meet_args p)
{
    uint64_t vectors = (p.bytes + 15) / 16;
    uint64_t per_pass = (uint64_t)gridDim.x * MEET_THREADS * MEET_DEPTH;
    meet_control *c = control_of(p);
    uint32_t number;
    bool ok;

    wait_for_previous();
    let_next_begin(); /* it waits for the end of this one, all of whose blocks are there */
    number = ((volatile meet_control *)c)->large[blockIdx.x];
    ok = __syncthreads_or(((volatile meet_control *)c)->broken != 0) == 0;
    for (uint64_t pass = 0; pass * per_pass < vectors && ok; pass++) {
        uint32_t box = GATHERED + ((number + 1) & 1);
#pragma unroll
        for (uint32_t k = 0; k < MEET_DEPTH; k++) {
            uint64_t i = vector_of(pass, k);
            alignas(16) uint32_t w[4];
            if (i >= vectors)
                continue;
            load_words<4>(p, i, w);
            for (uint32_t j = 1; j < p.n; j++)
                store_peer(large_slot(p, (p.rank + j) % p.n, box, p.rank, k), *(const uint4 *)w);
            store_words<4>(p, (char *)p.dst + p.rank * p.bytes, i, w);
        }
        ok = meet(p, number);
        for (uint32_t j = 1; j < p.n && ok; j++) {
            uint32_t from = (p.rank + j) % p.n;
#pragma unroll
            for (uint32_t k = 0; k < MEET_DEPTH; k++) {
                uint64_t i = vector_of(pass, k);
                if (i >= vectors)
                    continue;
                uint4 v = load_peer(large_slot(p, p.rank, box, from, k));
                store_words<4>(p, (char *)p.dst + from * p.bytes, i, (const uint32_t *)&v);
            }
        }
    }
    if (threadIdx.x == 0)
        c->large[blockIdx.x] = number;
}
