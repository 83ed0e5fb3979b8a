/* SPDX-License-Identifier: Apache-2.0 */
/* A plan for people: one statement per op, in the notation of fusion patterns (tenon/kernels.h). */
#ifndef CORE_ENGINE_PLAN_TEXT_H
#define CORE_ENGINE_PLAN_TEXT_H

#include "base/strbuf.h"
#include "engine/plan.h"

void plan_print(const struct plan *p, struct strbuf *out);

#endif
