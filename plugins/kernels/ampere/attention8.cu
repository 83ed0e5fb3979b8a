/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over a cache of 8 bits; see attention.cuh. */
#include "attention.cuh"

STAMP_SIZES(fp8_f16, f16, e4m3)
STAMP_SIZES(fp8_bf16, bf16, e4m3)
STAMP_SIZES(int8_f16, f16, int8_t)
STAMP_SIZES(int8_bf16, bf16, int8_t)
