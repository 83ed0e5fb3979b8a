/* SPDX-License-Identifier: Apache-2.0 */
/* A false cuBLASLt: it has a version, starts, and refuses everything else. */
#include <cublasLt.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

/* FAKE_CUBLASLT in the environment, or 90100. */
EXPORT size_t CUBLASWINAPI cublasLtGetVersion(void)
{
    const char *version = getenv("FAKE_CUBLASLT");

    return version ? strtoul(version, NULL, 10) : 90100;
}

EXPORT cublasStatus_t CUBLASWINAPI cublasLtCreate(cublasLtHandle_t *handle)
{
    static char library;

    *handle = (cublasLtHandle_t)(void *)&library;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t CUBLASWINAPI cublasLtDestroy(cublasLtHandle_t handle)
{
    (void)handle;
    return CUBLAS_STATUS_SUCCESS;
}

/* What a caller only asks the address of has no parameters here. */
#define STUB(name)                                                                                 \
    extern EXPORT cublasStatus_t stub_##name(void) __asm__(#name);                                 \
    cublasStatus_t stub_##name(void)                                                               \
    {                                                                                              \
        return CUBLAS_STATUS_NOT_SUPPORTED;                                                        \
    }
STUB(cublasLtMatmulDescCreate)
STUB(cublasLtMatmulDescDestroy)
STUB(cublasLtMatmulDescSetAttribute)
STUB(cublasLtMatrixLayoutCreate)
STUB(cublasLtMatrixLayoutDestroy)
STUB(cublasLtMatmulPreferenceCreate)
STUB(cublasLtMatmulPreferenceDestroy)
STUB(cublasLtMatmulPreferenceSetAttribute)
STUB(cublasLtMatmulAlgoGetHeuristic)
STUB(cublasLtMatmul)
