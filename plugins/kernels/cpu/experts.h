/* SPDX-License-Identifier: Apache-2.0 */
/* Mixture of experts: moe_mlp, with weights of 32 to 4 bits. */
#ifndef CPU_EXPERTS_H
#define CPU_EXPERTS_H

#include "isa.h"
#include "tenon/ops.h"

/* The contracts of tn_variant's can_run, cost_ns, workspace and launch. */
int32_t experts_can_run(const tn_op *op, tn_err *err);
double experts_cost_ns(const tn_op *op, uint32_t rows);
uint64_t experts_workspace(const struct cpu_instance *in, const tn_op *op, uint32_t max_rows);
void experts_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa);

#endif
