// SPDX-License-Identifier: Apache-2.0
// A kernel that lets the one behind it begin before it has written anything, as kernels of a step do.
#include <cstdint>

// dst[i] = value + i % 7 for i < count, after `clocks` clocks.
extern "C" __global__ void early_write(float *dst, uint32_t count, float value, int64_t clocks)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    for (const int64_t begin = clock64(); clock64() - begin < clocks;)
        ;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x)
        dst[i] = value + static_cast<float>(i % 7);
}
