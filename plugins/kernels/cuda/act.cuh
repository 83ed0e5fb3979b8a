/* SPDX-License-Identifier: Apache-2.0 */
/* Activations (silu, gelu, gelu_tanh of tenon/ops.h) in device code. */
#ifndef CUDA_ACT_CUH
#define CUDA_ACT_CUH

__device__ __forceinline__ float silu(float x)
{
    return __fdividef(x, 1.0f + expf(-x)); /* 2 ulp, and no call of a slow path */
}

__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.707106781f));
}

__device__ __forceinline__ float gelu_tanh(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.797884561f * (x + 0.044715f * x * x * x)));
}

#endif
