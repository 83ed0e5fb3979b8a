/* SPDX-License-Identifier: Apache-2.0 */
/* A block's place in its cluster, and the halves of the cluster's barrier: compute capability 9.0 and up. All threads of all blocks of
 * the cluster take part in each. */
#ifndef COMMON_CUDA_CLUSTER_BARRIER_CUH
#define COMMON_CUDA_CLUSTER_BARRIER_CUH

#include <stdint.h>

/* Sources for that chip alone want the names in the host's pass, too. */
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t r;

    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

/* Both halves of a barrier, which wants warps whole. By itself it orders no memory accesses: it is for blocks that must not end, or
 * change what others read, before each of those has used it. */
__device__ __forceinline__ void cluster_arrive()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait()
{
    __syncwarp();
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

#endif
