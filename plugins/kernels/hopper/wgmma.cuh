// SPDX-License-Identifier: Apache-2.0
// wgmma: the matrix product of a warpgroup, d[64 x N] += a[64 x 16] b[16 x N] with float32 accumulators.
//
// Lane l of warp w holds of d: row 16 w + l / 4 (elements 4 j, 4 j + 1) and that row + 8 (4 j + 2, 4 j + 3), columns
// 8 j + 2 (l % 4) and the next. Operands in shared memory lie in rows of 128 bytes with the 128-byte swizzle.
#ifndef HOPPER_WGMMA_CUH
#define HOPPER_WGMMA_CUH

#include "ptx.cuh"

// A descriptor of an operand at `address`: rows of 128 bytes, groups of eight rows 1,024 bytes apart. Adding n to
// it moves on by 16 n bytes.
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t address)
{
    return (1ull << 62) | (64ull << 32) | (1ull << 16) | ((address & 0x3FFFFu) >> 4);
}

// The same for a B that lies as [16 k][N], N along the rows: 64 columns per row of 128 bytes, the next 64 `bytes` on.
__device__ __forceinline__ uint64_t wgmma_transposed(uint32_t address, uint32_t bytes)
{
    return (1ull << 62) | (64ull << 32) | (static_cast<uint64_t>(bytes >> 4) << 16) |
           ((address & 0x3FFFFu) >> 4);
}

__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most N groups are under way.
template <int N> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// run: both operands in shared memory, B as [N][16 k]. run_transposed: A in registers, B as [16 k][N], see
// wgmma_transposed. d is overwritten if `add` is 0.
template <typename T, int N> struct wgmma;

#define WGMMA_8(T, type)                                                                           \
    template <> struct wgmma<T, 8> {                                                               \
        static __device__ __forceinline__ void run(float (&d)[4], uint64_t a, uint64_t b, int add) \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\n"                               \
                         "wgmma.mma_async.sync.aligned.m64n8k16.f32." #type "." #type " {"         \
                         "%0, %1, %2, %3"                                                          \
                         "}, %4, %5, p, 1, 1, 0, 0;\n}"                                            \
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                          \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };
WGMMA_8(__nv_bfloat16, bf16)
WGMMA_8(__half, f16)

#define WGMMA_16(T, type)                                                                          \
    template <> struct wgmma<T, 16> {                                                              \
        static __device__ __forceinline__ void run(float (&d)[8], uint64_t a, uint64_t b, int add) \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %10, 0;\n"                              \
                         "wgmma.mma_async.sync.aligned.m64n16k16.f32." #type "." #type " {"        \
                         "%0, %1, %2, %3, %4, %5, %6, %7"                                          \
                         "}, %8, %9, p, 1, 1, 0, 0;\n}"                                            \
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
                           "+f"(d[6]), "+f"(d[7])                                                  \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };
WGMMA_16(__nv_bfloat16, bf16)
WGMMA_16(__half, f16)

#define WGMMA_32(T, type)                                                                          \
    template <> struct wgmma<T, 32> {                                                              \
        static __device__ __forceinline__ void run(float (&d)[16], uint64_t a, uint64_t b,         \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"                              \
                         "wgmma.mma_async.sync.aligned.m64n32k16.f32." #type "." #type " {"        \
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "       \
                         "%15"                                                                     \
                         "}, %16, %17, p, 1, 1, 0, 0;\n}"                                          \
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
                           "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),            \
                           "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])         \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };
WGMMA_32(__nv_bfloat16, bf16)
WGMMA_32(__half, f16)

#define WGMMA_64(T, type)                                                                          \
    template <> struct wgmma<T, 64> {                                                              \
        static __device__ __forceinline__ void run(float (&d)[32], uint64_t a, uint64_t b,         \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                              \
                         "wgmma.mma_async.sync.aligned.m64n64k16.f32." #type "." #type " {"        \
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "       \
                         "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "       \
                         "%28, %29, %30, %31"                                                      \
                         "}, %32, %33, p, 1, 1, 0, 0;\n}"                                          \
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
                           "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),            \
                           "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),        \
                           "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),        \
                           "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),        \
                           "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),        \
                           "+f"(d[31])                                                             \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
        static __device__ __forceinline__ void run_transposed(float (&d)[32],                      \
                                                              const uint32_t (&a)[4], uint64_t b,  \
                                                              int add)                             \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                              \
                         "wgmma.mma_async.sync.aligned.m64n64k16.f32." #type "." #type " {"        \
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "       \
                         "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "       \
                         "%28, %29, %30, %31"                                                      \
                         "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                            \
                         : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), \
                           "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),            \
                           "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),        \
                           "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),        \
                           "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]),        \
                           "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),        \
                           "+f"(d[31])                                                             \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));          \
        }                                                                                          \
    };
WGMMA_64(__nv_bfloat16, bf16)
WGMMA_64(__half, f16)

#define WGMMA_128(T, type)                                                                         \
    template <> struct wgmma<T, 128> {                                                             \
        static __device__ __forceinline__ void run(float (&d)[64], uint64_t a, uint64_t b,         \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile(                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                       \
                "wgmma.mma_async.sync.aligned.m64n128k16.f32." #type "." #type " {"                \
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "                \
                "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "                \
                "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "                \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "                \
                "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                 \
                "}, %64, %65, p, 1, 1, 0, 0;\n}"                                                   \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),          \
                  "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),        \
                  "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),    \
                  "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),    \
                  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),    \
                  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),    \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),    \
                  "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),    \
                  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),    \
                  "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),    \
                  "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])                               \
                : "l"(a), "l"(b), "r"(add));                                                       \
        }                                                                                          \
        static __device__ __forceinline__ void run_transposed(float (&d)[64],                      \
                                                              const uint32_t (&a)[4], uint64_t b,  \
                                                              int add)                             \
        {                                                                                          \
            asm volatile(                                                                          \
                "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                       \
                "wgmma.mma_async.sync.aligned.m64n128k16.f32." #type "." #type " {"                \
                "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "                \
                "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "                \
                "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "                \
                "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "                \
                "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                 \
                "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                                     \
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),          \
                  "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),        \
                  "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]),    \
                  "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),    \
                  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),    \
                  "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),    \
                  "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),    \
                  "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),    \
                  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]),    \
                  "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),    \
                  "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])                               \
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));                   \
        }                                                                                          \
    };
WGMMA_128(__nv_bfloat16, bf16)
WGMMA_128(__half, f16)

// The operands of the first 96 accumulators.
#define WGMMA_SUMS_96(d)                                                                           \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),            \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
        "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), \
        "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), \
        "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), \
        "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), \
        "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])

#define WGMMA_192(T, type)                                                                         \
    template <> struct wgmma<T, 192> {                                                             \
        static __device__ __forceinline__ void run(float (&d)[96], uint64_t a, uint64_t b,         \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\n"                              \
                         "wgmma.mma_async.sync.aligned.m64n192k16.f32." #type "." #type " {"       \
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "       \
                         "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "       \
                         "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "       \
                         "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "       \
                         "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, "       \
                         "%67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "       \
                         "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, "       \
                         "%93, %94, %95"                                                           \
                         "}, %96, %97, p, 1, 1, 0, 0;\n}"                                          \
                         : WGMMA_SUMS_96(d)                                                        \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };
WGMMA_192(__nv_bfloat16, bf16)
WGMMA_192(__half, f16)

#define WGMMA_256(T, type)                                                                         \
    template <> struct wgmma<T, 256> {                                                             \
        static __device__ __forceinline__ void run(float (&d)[128], uint64_t a, uint64_t b,        \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %130, 0;\n"                             \
                         "wgmma.mma_async.sync.aligned.m64n256k16.f32." #type "." #type " {"       \
                         "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "       \
                         "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "       \
                         "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "       \
                         "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "       \
                         "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, "       \
                         "%67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "       \
                         "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, "       \
                         "%93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, "       \
                         "%105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, "      \
                         "%116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "      \
                         "%127"                                                                    \
                         "}, %128, %129, p, 1, 1, 0, 0;\n}"                                        \
                         : WGMMA_SUMS_96(d), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]),   \
                           "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]),   \
                           "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]),   \
                           "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]),   \
                           "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),   \
                           "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]),   \
                           "+f"(d[125]), "+f"(d[126]), "+f"(d[127])                                \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };
WGMMA_256(__nv_bfloat16, bf16)
WGMMA_256(__half, f16)

#endif
