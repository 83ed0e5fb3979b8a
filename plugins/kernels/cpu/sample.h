/* SPDX-License-Identifier: Apache-2.0 */
/* sample: the procedure of tn_sample_row, without sorting the vocabulary. Functions as tn_variant says. */
#ifndef CPU_SAMPLE_H
#define CPU_SAMPLE_H

#include "isa.h"

int32_t sample_can_run(const tn_op *op, tn_err *err);
double sample_cost_ns(const struct cpu_instance *in, const tn_op *op, uint32_t rows);
uint64_t sample_workspace(const struct cpu_instance *in, const tn_op *op);
void sample_launch(const struct cpu_instance *in, const tn_launch *l, const struct isa *isa);

#endif
