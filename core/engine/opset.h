/* SPDX-License-Identifier: Apache-2.0 */
/* The basic opset as a table: arity, attributes with their ranges, and the shape rule of each op. It is the
 * executable form of the table in tenon/ops.h. */
#ifndef CORE_ENGINE_OPSET_H
#define CORE_ENGINE_OPSET_H

#include "engine/plan.h"

/* Whether `name` is a basic op. Vendor ops have a dot in their name and are not. */
bool opset_has(const char *name);

/*
 * Checks `op` with outputs `out` against the definition of its basic op. A vendor's op ("acme.x") passes
 * if its values and weights exist; a name without a dot that is not basic is refused.
 */
int32_t opset_check(const struct plan *p, const struct plan_op *op, const struct plan_value *out,
                    tn_err *err);

/* Whether an op of that name makes logits: of a matrix of floats, or of a quantized one. */
bool opset_makes_logits(const char *name);
/* Whether it looks tokens up in a table. */
bool opset_embeds(const char *name);

/* Name of the ith basic op; NULL past the last. */
const char *opset_name(size_t i);

#endif
