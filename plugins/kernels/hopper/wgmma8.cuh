// SPDX-License-Identifier: Apache-2.0
// wgmma for operands of 8 bits: d[64 x N] += a[64 x 32] b[32 x N], both operands in shared memory as in wgmma.cuh, b as
// [N][32 k]. Sums of e4m3 are float32 (the hardware adds with fewer bits), those of int8 are exact in int32.
#ifndef HOPPER_WGMMA8_CUH
#define HOPPER_WGMMA8_CUH

#include "wgmma.cuh"

struct e4m3 {
    using sum = float;
};

struct s8 {
    using sum = int;
};

// run: as wgmma<T, N>::run.
template <typename E, int N> struct wgmma8;

// The first N registers in text, and as operands with constraint `c`.
#define REGISTERS_4 "%0, %1, %2, %3"
#define REGISTERS_8 REGISTERS_4 ", %4, %5, %6, %7"
#define REGISTERS_16 REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define REGISTERS_32                                                                               \
    REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27"                    \
                 ", %28, %29, %30, %31"
#define REGISTERS_64                                                                               \
    REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43"                    \
                 ", %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55"                    \
                 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define REGISTERS_96                                                                               \
    REGISTERS_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75"                    \
                 ", %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87"                    \
                 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define REGISTERS_128                                                                              \
    REGISTERS_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, "    \
                 "%109, %110, %111"                                                                \
                 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123"        \
                 ", %124, %125, %126, %127"

#define SUMS_4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define SUMS_8(c, i) SUMS_4(c, i), SUMS_4(c, i + 4)
#define SUMS_16(c, i) SUMS_8(c, i), SUMS_8(c, i + 8)
#define SUMS_32(c, i) SUMS_16(c, i), SUMS_16(c, i + 16)
#define SUMS_64(c, i) SUMS_32(c, i), SUMS_32(c, i + 32)
#define SUMS_96(c, i) SUMS_64(c, i), SUMS_32(c, i + 64)
#define SUMS_128(c, i) SUMS_64(c, i), SUMS_64(c, i + 64)

// `sums`: N / 2; a, b, add: the numbers of the operands behind them.
#define WGMMA8(E, types, c, scales, N, sums, a_at, b_at, add_at)                                   \
    template <> struct wgmma8<E, N> {                                                              \
        static __device__ __forceinline__ void run(E::sum (&d)[sums], uint64_t a, uint64_t b,      \
                                                   int add)                                        \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #add_at ", 0;\n"                     \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k32." types " {" REGISTERS_##sums \
                         "}, %" #a_at ", %" #b_at ", p" scales ";\n}"                              \
                         : SUMS_##sums(c, 0)                                                       \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };

#define WGMMA8_ALL(E, types, c, scales)                                                            \
    WGMMA8(E, types, c, scales, 8, 4, 4, 5, 6)                                                     \
    WGMMA8(E, types, c, scales, 16, 8, 8, 9, 10)                                                   \
    WGMMA8(E, types, c, scales, 32, 16, 16, 17, 18)                                                \
    WGMMA8(E, types, c, scales, 64, 32, 32, 33, 34)                                                \
    WGMMA8(E, types, c, scales, 128, 64, 64, 65, 66)                                               \
    WGMMA8(E, types, c, scales, 192, 96, 96, 97, 98)                                               \
    WGMMA8(E, types, c, scales, 256, 128, 128, 129, 130)

WGMMA8_ALL(e4m3, "f32.e4m3.e4m3", "+f", ", 1, 1")
WGMMA8_ALL(s8, "s32.s8.s8", "+r", "")

#undef WGMMA8_ALL
#undef WGMMA8

#endif
