/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CORE_PLUGIN_CPU_H
#define CORE_PLUGIN_CPU_H

#include <stddef.h>
#include <stdint.h>

/* The CPU features that this process can use, as tenon/cpu.h numbers them. Asks the kernel for AMX where the
 * CPU has it; otherwise without side effects. All zero on machines without a list in cpu.h. */
void cpu_features(uint64_t out[2]);

/* "avx512f, bit 60": the names of the features in `set`, cut to `size` bytes with NUL. */
void cpu_feature_names(const uint64_t set[2], char *out, size_t size);

#endif
