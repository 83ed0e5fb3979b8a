/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuBLASLt behind dlopen; see gemm.h. The library thinks in columns: row-major y[rows, n] is its column-major
 * [n, rows], so w is its first operand, transposed, and x its second. float32 is computed in float32: TF32 is a compute
 * type of its own, which is never asked for.
 */
#include "gemm.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "tenon/dtype.h"

/* -- The library --------------------------------------------------------------------------------------------- */

static int find(struct gemm *g)
{
    struct gemm_library *l = &g->lib;
    const struct {
        const char *name;
        void **at;
    } symbols[] = {
        {"cublasLtGetVersion", (void **)&l->version},
        {"cublasLtCreate", (void **)&l->create},
        {"cublasLtDestroy", (void **)&l->destroy},
        {"cublasLtMatmulDescCreate", (void **)&l->desc_create},
        {"cublasLtMatmulDescDestroy", (void **)&l->desc_destroy},
        {"cublasLtMatmulDescSetAttribute", (void **)&l->desc_set},
        {"cublasLtMatrixLayoutCreate", (void **)&l->layout_create},
        {"cublasLtMatrixLayoutDestroy", (void **)&l->layout_destroy},
        {"cublasLtMatmulPreferenceCreate", (void **)&l->preference_create},
        {"cublasLtMatmulPreferenceDestroy", (void **)&l->preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", (void **)&l->preference_set},
        {"cublasLtMatmulAlgoGetHeuristic", (void **)&l->heuristic},
        {"cublasLtMatmul", (void **)&l->matmul},
    };

    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        *symbols[i].at = dlsym(l->handle, symbols[i].name);
        if (!*symbols[i].at) {
            snprintf(g->reason, sizeof g->reason, "cuBLASLt has no %s", symbols[i].name);
            return 0;
        }
    }
    return 1;
}

void gemm_open(struct gemm *g, const char *path, struct gemm_plan *plans)
{
    static const char *const usual[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        "/usr/local/cuda/lib64/libcublasLt.so.13",
                                        "/usr/local/cuda/lib64/libcublasLt.so.12"};
    cublasStatus_t status;

    memset(g, 0, sizeof *g);
    g->plans = plans;
    if (path)
        g->lib.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; !path && !g->lib.handle && i < sizeof usual / sizeof *usual; i++)
        g->lib.handle = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
    if (!g->lib.handle) {
        snprintf(g->reason, sizeof g->reason, "cuBLASLt was not found (%s)",
                 path ? path : "libcublasLt.so.13 or .12");
        return;
    }
    if (find(g)) {
        status = g->lib.create(&g->handle);
        snprintf(g->version, sizeof g->version, "cuBLASLt %zu", g->lib.version());
        if (status == CUBLAS_STATUS_SUCCESS)
            return;
        snprintf(g->reason, sizeof g->reason, "cuBLASLt does not start: status %d", (int)status);
    }
    dlclose(g->lib.handle);
    g->lib.handle = NULL;
    g->handle = NULL;
}

static void plan_free(const struct gemm *g, struct gemm_plan *p)
{
    if (p->product)
        g->lib.desc_destroy(p->product);
    if (p->w)
        g->lib.layout_destroy(p->w);
    if (p->x)
        g->lib.layout_destroy(p->x);
    if (p->y)
        g->lib.layout_destroy(p->y);
    memset(p, 0, sizeof *p);
}

void gemm_close(struct gemm *g)
{
    for (uint32_t i = 0; i < g->n_plans; i++)
        plan_free(g, &g->plans[i]);
    if (g->handle)
        g->lib.destroy(g->handle);
    if (g->lib.handle)
        dlclose(g->lib.handle);
    memset(g, 0, sizeof *g);
}

/* -- Plans ----------------------------------------------------------------------------------------------------- */

static cudaDataType_t type_of(uint32_t dtype)
{
    switch (dtype) {
    case TN_DT_BF16: return CUDA_R_16BF;
    case TN_DT_F16: return CUDA_R_16F;
    case TN_DT_F8E4M3: return CUDA_R_8F_E4M3;
    case TN_DT_I8: return CUDA_R_8I;
    case TN_DT_I32: return CUDA_R_32I;
    default: return CUDA_R_32F;
    }
}

static cublasStatus_t describe(const struct gemm_library *l, const struct gemm_shape *s,
                               struct gemm_plan *p)
{
    cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    cudaDataType_t in = type_of(s->dtype), out = type_of(s->out_dtype);
    cublasStatus_t status = s->dtype == TN_DT_I8
                                ? l->desc_create(&p->product, CUBLAS_COMPUTE_32I, CUDA_R_32I)
                                : l->desc_create(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (!status)
        status = l->desc_set(p->product, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose);
    if (!status && s->bias)
        status = l->desc_set(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    if (!status)
        status = l->layout_create(&p->w, in, s->k, s->n, (int64_t)s->stride);
    if (!status)
        status = l->layout_create(&p->x, in, s->k, s->rows, (int64_t)s->k);
    if (!status)
        status = l->layout_create(&p->y, out, s->n, s->rows, (int64_t)s->n);
    return status;
}

static cublasStatus_t choose(const struct gemm *g, struct gemm_plan *p)
{
    static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const struct gemm_library *l = &g->lib;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    uint64_t workspace = GEMM_WORKSPACE;
    uint32_t alignment = 16;
    int found = 0;
    cublasStatus_t status = l->preference_create(&preference);

    if (!status)
        status = l->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                   sizeof workspace);
    for (int i = 0; !status && i < 4; i++)
        status = l->preference_set(preference, alignments[i], &alignment, sizeof alignment);
    if (!status)
        status = l->heuristic(g->handle, p->product, p->w, p->x, p->y, p->y, preference, 1, &result,
                              &found);
    if (preference)
        l->preference_destroy(preference);
    if (!status && !found)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!status)
        p->algo = result.algo;
    return status;
}

static int same_shape(const struct gemm_shape *a, const struct gemm_shape *b)
{
    return a->n == b->n && a->k == b->k && a->stride == b->stride && a->rows == b->rows &&
           a->dtype == b->dtype && a->out_dtype == b->out_dtype && a->bias == b->bias &&
           a->adds == b->adds;
}

/* The plan for a shape, made at its first use. */
static cublasStatus_t plan_for(struct gemm *g, const struct gemm_shape *s, struct gemm_plan **out)
{
    struct gemm_plan *p;
    cublasStatus_t status;

    for (uint32_t i = 0; i < g->n_plans; i++)
        if (same_shape(&g->plans[i].shape, s)) {
            *out = &g->plans[i];
            return CUBLAS_STATUS_SUCCESS;
        }
    if (g->n_plans < GEMM_CACHE) {
        p = &g->plans[g->n_plans++];
    } else {
        p = &g->plans[g->next];
        g->next = (g->next + 1) % GEMM_CACHE;
        plan_free(g, p);
    }
    status = describe(&g->lib, s, p);
    if (!status)
        status = choose(g, p);
    if (status)
        plan_free(g, p);
    else
        p->shape = *s;
    *out = p;
    return status;
}

int32_t gemm_run(struct gemm *g, const struct gemm_call *c, tn_err *err)
{
    const struct gemm_shape *s = &c->shape;
    struct gemm_plan *p = NULL;
    float beta = c->residual ? 1.0f : 0.0f;
    int32_t one = 1, none = 0;
    int exact = s->dtype == TN_DT_I8; /* alpha and beta are of the type of the sums */
    cublasStatus_t status;

    if (s->rows == 0)
        return TN_OK;
    status = plan_for(g, s, &p);
    if (!status && c->bias)
        status = g->lib.desc_set(p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c->bias,
                                 sizeof c->bias);
    if (!status)
        status = g->lib.matmul(g->handle, p->product, exact ? (const void *)&one : &c->alpha, c->w,
                               p->w, c->x, p->x, exact ? (const void *)&none : &beta,
                               c->residual ? c->residual : c->y, p->y, c->y, p->y, &p->algo,
                               c->workspace, GEMM_WORKSPACE, c->stream);
    if (!status)
        return TN_OK;
    if (err)
        err->native = (int32_t)status;
    return tn_err_set(err, TN_E_DEVICE,
                      "cuda: cuBLASLt refuses a product of %u rows, %llu outputs, %llu inputs: "
                      "status %d",
                      s->rows, (unsigned long long)s->n, (unsigned long long)s->k, (int)status);
}
