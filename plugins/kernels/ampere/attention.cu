/* SPDX-License-Identifier: Apache-2.0 */
/* Attention over a cache in the dtype of the rows; see attention.cuh. */
#include "attention.cuh"

STAMP_SIZES(f16, f16, f16)
STAMP_SIZES(bf16, bf16, bf16)
