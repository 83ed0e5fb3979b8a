/* SPDX-License-Identifier: Apache-2.0 */
/* Matrix products by cuBLASLt, found at run time. (The library is optional: without it plain kernels serve.) */
#ifndef PLUGINS_KERNELS_CUDA_GEMM_H
#define PLUGINS_KERNELS_CUDA_GEMM_H

struct gemm {
    void *library;
};

#endif
