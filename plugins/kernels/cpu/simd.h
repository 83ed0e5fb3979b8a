/* SPDX-License-Identifier: Apache-2.0 */
/* Compiler extensions that the inner loops are written with. */
#ifndef CPU_SIMD_H
#define CPU_SIMD_H

/* A function that is a block of its caller: its constant arguments decide how many registers it takes. */
#define CPU_INLINE inline __attribute__((always_inline))

/* Before a loop over registers: unroll it whole, or the registers become memory. */
#if defined(__clang__)
#define CPU_UNROLL _Pragma("clang loop unroll(full)")
#else
#define CPU_UNROLL _Pragma("GCC unroll 16")
#endif

/* The vector register v is final here: compilers that first load every operand of a step run out of registers. */
#define CPU_KEEP(v) __asm__("" : "+x"(v))

/* Asks for a cache line that will be read; any address will do. */
#define CPU_PREFETCH(p) __builtin_prefetch((p), 0, 3)

#endif
