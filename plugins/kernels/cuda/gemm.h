/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Matrix products by cuBLASLt, which is found at run time: without it plain kernels serve. What the library's heuristics
 * choose is kept per shape. One gemm serves one device and is used by the thread that runs its steps.
 */
#ifndef PLUGINS_KERNELS_CUDA_GEMM_H
#define PLUGINS_KERNELS_CUDA_GEMM_H

#include <cublasLt.h>

#include "tenon/device.h"

/* Bytes of workspace that a product may use; NVIDIA's advice for Hopper, and enough for others. */
#define GEMM_WORKSPACE (UINT64_C(32) << 20)

#define GEMM_CACHE 512

/* What a choice of the library depends on: y[rows, n] = x[rows, k] * w[n, k]^T. */
struct gemm_shape {
    uint64_t n, k, stride; /* stride: elements between rows of w */
    uint32_t rows;
    uint32_t dtype; /* of x and w */
    uint32_t
        out_dtype; /* of y, bias and residual: dtype or float32; of int8: int32, and alpha is 1 */
    uint32_t bias, adds; /* has a bias; adds a residual */
};

struct gemm_plan {
    struct gemm_shape shape;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulAlgo_t algo;
};

/* The functions of the library that are used. */
struct gemm_library {
    void *handle;
    size_t (*version)(void);
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *,
                               size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t,
                                    int64_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t,
                                     cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t[], int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
                             cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t,
                             const void *, const void *, cublasLtMatrixLayout_t, void *,
                             cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
};

struct gemm {
    struct gemm_library lib;
    cublasLtHandle_t handle; /* NULL: there is no library */
    char reason[160];        /* why not */
    char version[32];        /* "cuBLASLt 130002" */
    struct gemm_plan *plans; /* [GEMM_CACHE], the n_plans first are used */
    uint32_t n_plans, next;  /* next: the one to replace once all are used */
};

/* Operands of one product; device addresses. */
struct gemm_call {
    struct gemm_shape shape;
    const void *x, *w, *bias, *residual;
    void *y;
    float alpha;
    void *workspace; /* GEMM_WORKSPACE bytes */
    void *stream;    /* the driver's */
};

/* Opens the library `path` (NULL: by its usual names) for the current context; `plans` has GEMM_CACHE zeroed entries. A
 * library that is not there is no error: g->reason tells. */
void gemm_open(struct gemm *g, const char *path, struct gemm_plan *plans);
void gemm_close(struct gemm *g); /* of zeroed memory: nothing */

/* Enqueues y = alpha * x * w^T (+ bias) (+ residual). */
int32_t gemm_run(struct gemm *g, const struct gemm_call *c, tn_err *err);

#endif
