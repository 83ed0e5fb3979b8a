// SPDX-License-Identifier: Apache-2.0
// The instructions of sm_90a that C++ has no words for: mbarriers, the tensor copy engine, clusters, dependent launch.
// Names follow the PTX ISA. Shared addresses are 32 bits wide.
#ifndef HOPPER_PTX_CUH
#define HOPPER_PTX_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "../common/cuda_cluster_barrier.cuh"

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// -- Programmatic dependent launch ---------------------------------------------------------------------

// Returns once the kernel before this one in the stream is done and its writes are visible.
__device__ __forceinline__ void wait_for_predecessor()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

// The next kernel may be launched now; it waits itself before it reads what this one writes.
__device__ __forceinline__ void allow_successor()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// -- Memory ----------------------------------------------------------------------------------------------

// Brings the line of a global address to the second-level cache.
__device__ __forceinline__ void prefetch(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// -- mbarrier --------------------------------------------------------------------------------------------

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ __forceinline__ void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// At a barrier of the cluster, whose address is peer_address's. It orders no ordinary memory accesses beyond the block: with the
// scope of the cluster, each arrival would wait for all stores of the thread to reach the second-level cache.
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_arrive_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra end;\n"
                 "bra again;\n"
                 "end:\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

// -- Tensor copies ---------------------------------------------------------------------------------------

#define EVICT_FIRST 0x12F0000000000000ull // createpolicy's fractional evict_first, all of it
#define EVICT_LAST 0x14F0000000000000ull

__device__ __forceinline__ void map_prefetch(const void *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void copy_2d(uint32_t to, const void *map, int32_t x, int32_t y,
                                        uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
                 : "memory");
}

// Bytes as they lie: a multiple of 16, and from and to one.
__device__ __forceinline__ void copy_bytes(uint32_t to, const void *from, uint32_t bytes,
                                           uint32_t barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

// To the same place in all blocks of the cluster that `blocks` has bits for, and to their barriers.
__device__ __forceinline__ void copy_2d_to(uint32_t to, const void *map, int32_t x, int32_t y,
                                           uint32_t barrier, uint64_t policy, uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void copy_3d(uint32_t to, const void *map, int32_t x, int32_t y,
                                        int32_t z, uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void copy_4d(uint32_t to, const void *map, int32_t x, int32_t y,
                                        int32_t z, int32_t w, uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ void copy_5d(uint32_t to, const void *map, int32_t x, int32_t y,
                                        int32_t z, int32_t w, int32_t v, uint32_t barrier,
                                        uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(v), "r"(barrier), "l"(policy)
                 : "memory");
}

// Ordinary writes to shared memory before this are seen by the copy engine and wgmma after a barrier.
__device__ __forceinline__ void proxy_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// -- Clusters --------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t cluster_size()
{
    uint32_t n;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(n));
    return n;
}

// Both halves of a barrier of the cluster, without any order of memory accesses. An aligned barrier wants warps whole: lanes
// may have left a loop at different times.
__device__ __forceinline__ void cluster_meet()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

// What the cluster's threads wrote to shared memory before is seen by all of them after. Shared memory alone: a barrier that
// releases all memory waits until everything that the thread stored has come to the second-level cache and back.
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("fence.release.sync_restrict::shared::cta.cluster;" ::: "memory");
    cluster_meet();
}

// The end of blocks that sent to others' shared memory: a barrier tripped there or a copy is on its way until memory has answered,
// and a launch fails if it arrives at a block that has ended. A relaxed meeting is enough where others' memory is only read and
// each thread has used what it read.
__device__ __forceinline__ void cluster_end()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

// The address in the shared memory of the cluster's block `rank` that corresponds to `address` in this one's.
__device__ __forceinline__ uint32_t peer_address(uint32_t address, uint32_t rank)
{
    uint32_t a;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(a) : "r"(address), "r"(rank));
    return a;
}

// To an address of a block of the cluster, and to its barrier, which counts the bytes when they are there; both are peer_address's.
// Barriers count stores one after the other: many small ones are waited for.
__device__ __forceinline__ void peer_store4(uint32_t address, float4 v, uint32_t barrier)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, "
                 "%4}, [%5];" ::"r"(address),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(__float_as_uint(v.z)),
                 "r"(__float_as_uint(v.w)), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void peer_store2(uint32_t address, float2 v, uint32_t barrier)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, "
                 "[%3];" ::"r"(address),
                 "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ float4 shared_load4(uint32_t address)
{
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

__device__ __forceinline__ float4 peer_load4(uint32_t address)
{
    float4 v;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

// -- Matrices of a warp ----------------------------------------------------------------------------------

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ uint32_t transpose_matrix(uint32_t a)
{
    uint32_t b;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(b) : "r"(a));
    return b;
}

// 2^x, flushing what is too small to count; 2^-inf is 0.
__device__ __forceinline__ float power_of_two(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// -- Elements ------------------------------------------------------------------------------------------

// What a 16-bit float type needs beyond its own operators.
template <typename T> struct element;

template <> struct element<__nv_bfloat16> {
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<uint32_t *>(&v);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t v)
    {
        return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162 *>(&v));
    }
    // d[16 x 8] += a[16 x 16] b[16 x 8]
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1)
    {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

template <> struct element<__half> {
    static __device__ __forceinline__ uint32_t pack(float low, float high)
    {
        __half2 v = __floats2half2_rn(low, high);
        return *reinterpret_cast<uint32_t *>(&v);
    }
    static __device__ __forceinline__ float2 unpack(uint32_t v)
    {
        return __half22float2(*reinterpret_cast<__half2 *>(&v));
    }
    static __device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1)
    {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
};

template <typename T> __device__ __forceinline__ float to_float(T v)
{
    return static_cast<float>(v);
}

#endif
