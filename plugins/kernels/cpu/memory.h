/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of a cpu device. All functions may be called from any thread. */
#ifndef CPU_MEMORY_H
#define CPU_MEMORY_H

#include "cpu.h"

/* `bytes` bytes, 256-byte aligned, or NULL. Large blocks are mapped on their own at a 2 MiB boundary
 * and ask the kernel for huge pages: weights are streamed, and a 4 KiB page costs a TLB miss per 64 lines. */
void *memory_alloc(const tn_host *host, uint64_t bytes);

/* Gives a block back; NULL is allowed. */
void memory_free(const tn_host *host, void *ptr);

/* What this process may still take, and what there is in all: of the machine or of its control group. */
int32_t memory_info(uint64_t *free_bytes, uint64_t *total_bytes, tn_err *err);

#endif
