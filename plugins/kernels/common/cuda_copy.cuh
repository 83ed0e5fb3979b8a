/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous copies into shared memory, past the registers (cp.async, compute capability 8.0). A thread sees what it copied after
 * it has waited for it, others after a barrier behind that.
 */
#ifndef COMMON_CUDA_COPY_CUH
#define COMMON_CUDA_COPY_CUH

#include <stdint.h>

/* Sixteen bytes; both addresses are multiples of as many. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* Zeros instead if `valid` is false; `from` must be readable memory all the same. */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

/* What was copied since the last call is a group. */
__device__ __forceinline__ void copies_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until no more than the last `pending` groups are on their way. */
template <int pending> __device__ __forceinline__ void copies_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

#endif
