/* SPDX-License-Identifier: Apache-2.0 */
/* attention over the paged cache, layout "hnd". Functions as tn_variant says. */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "isa.h"

int32_t attention_can_run(const tn_op *op, tn_err *err);
double attention_cost_ns(const struct cpu_instance *in, const tn_op *op, uint32_t rows);
uint64_t attention_workspace(const struct cpu_instance *in, const tn_op *op, uint32_t max_rows,
                             uint32_t max_context);
void attention_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa);

#endif
