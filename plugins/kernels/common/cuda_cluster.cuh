/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks of a cluster that read each other's shared memory: compute capability 9.0 and up (the set "hopper" has its own, with
 * what else that chip knows).
 */
#ifndef COMMON_CUDA_CLUSTER_CUH
#define COMMON_CUDA_CLUSTER_CUH

#include "cuda_cluster_barrier.cuh"

#if __CUDA_ARCH__ >= 900
/* What threads wrote to the shared memory of their blocks before is seen by the cluster after. Only that: a barrier that releases
 * all memory waits for the second-level cache. */
__device__ __forceinline__ void cluster_sync()
{
    asm volatile("fence.release.sync_restrict::shared::cta.cluster;" ::: "memory");
    cluster_arrive();
    cluster_wait();
}

/* What the block `rank` of the cluster has where `mine` is in the shared memory of this one. */
__device__ __forceinline__ unsigned long long peer_load(const unsigned long long *mine,
                                                        uint32_t rank)
{
    uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    unsigned long long v;

    asm volatile("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(at) : "r"(rank));
    asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ double peer_load(const double *mine, uint32_t rank)
{
    return __longlong_as_double(static_cast<long long>(
        peer_load(reinterpret_cast<const unsigned long long *>(mine), rank)));
}
#endif

#endif
