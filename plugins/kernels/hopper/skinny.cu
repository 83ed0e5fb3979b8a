// SPDX-License-Identifier: Apache-2.0
// Products of few rows in 16-bit floats; see skinny.cuh.
#include "skinny.cuh"

// F: what a kernel finishes.
template <typename T, skinny_finishes F> struct half_operands {
    using params = product_params;
    using sum = float;
    static constexpr uint32_t depth = PRODUCT_K, planes = 1;
    using type = T;
    static constexpr skinny_finishes finishes = F;
    static constexpr bool norms = PRODUCT_NORMS<T> && F != SKINNY_GELU && F != SKINNY_LOGITS;

    static __device__ constexpr bool roomy(int, int)
    {
        return true;
    }

    static __device__ __forceinline__ const product_params &product(const params &p)
    {
        return p;
    }

    template <int BM, int BN, int STAGES>
    static __device__ __forceinline__ void consume(const skinny_tile &t, uint32_t ring,
                                                   uint32_t full, uint32_t empty, sum *staged)
    {
        skinny_consume<half_operands, BM, BN, STAGES>(t, ring, full, empty, staged);
    }

    template <int N>
    static __device__ __forceinline__ void multiply(float (&d)[N / 2], uint64_t a, uint64_t b)
    {
        wgmma<T, N>::run(d, a, b, 1);
    }

    struct column { // biases
        float4 v, u;
    };
    using row = uint2; // of the residual

    static __device__ __forceinline__ column load_column(const params &p, uint32_t part, uint32_t n)
    {
        const float4 none = make_float4(0.0f, 0.0f, 0.0f, 0.0f);

        return {p.parts[part].bias ? product_bias<T>(p.parts[part], n) : none,
                is_gated(p) && p.parts[1].bias ? product_bias<T>(p.parts[1], n) : none};
    }

    static __device__ __forceinline__ row load_row(const params &p, uint32_t part, uint32_t token,
                                                   uint32_t n)
    {
        const uint64_t at = static_cast<uint64_t>(token) * p.parts[part].n + n;

        return p.residual ? load4_raw<T>(p.residual, at) : make_uint2(0, 0);
    }

    template <int FINISH>
    static __device__ __forceinline__ float4 finish(const params &p, uint32_t part, uint32_t token,
                                                    uint32_t n, float4 v, float4 u, const column &c,
                                                    const row &r)
    {
        return product_output<T, FINISH>(p, p.parts[part], token, n, v + c.v, u + c.u,
                                         unpack4<T>(r));
    }
};

#define SKINNY(name, T, finishes, F, BM, BN, STAGES)                                               \
    extern "C" __global__ void __launch_bounds__(SKINNY_NORM_THREADS, BM == 64 ? 3 : 2)            \
        skinny_##name##_##BM##x##BN##x##STAGES##_##finishes(                                       \
            const __grid_constant__ product_params p)                                              \
    {                                                                                              \
        skinny<half_operands<T, F>, BM, BN, STAGES>(p);                                            \
    }

#define BF16(finishes, F, BM, BN, STAGES) SKINNY(bf16, __nv_bfloat16, finishes, F, BM, BN, STAGES)
#define F16(finishes, F, BM, BN, STAGES) SKINNY(f16, __half, finishes, F, BM, BN, STAGES)
#define BOTH(finishes, F, BM, BN, STAGES)                                                          \
    BF16(finishes, F, BM, BN, STAGES) F16(finishes, F, BM, BN, STAGES)
#define ALL(BM, BN, STAGES)                                                                        \
    BOTH(sums, SKINNY_SUMS, BM, BN, STAGES)                                                        \
    BOTH(silu, SKINNY_SILU, BM, BN, STAGES)                                                        \
    BOTH(gelu, SKINNY_GELU, BM, BN, STAGES)                                                        \
    BOTH(logits, SKINNY_LOGITS, BM, BN, STAGES)
#define NORM(BM, BN, STAGES) BF16(norm, SKINNY_NORM, BM, BN, STAGES)
SKINNY_SHAPES(ALL)
SKINNY_SMALLEST(NORM)
