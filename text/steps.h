/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of a tokenizer (normalizer, pre-tokenizer, ...) are single steps or Sequences of them, nested at will. */
#ifndef TEXT_STEPS_H
#define TEXT_STEPS_H

#include <stdint.h>

#include "base/err.h"
#include "jsontape.h"

/* Takes one step: an object whose "type" is `type` (a string node), which is not "Sequence". */
typedef int32_t (*steps_take)(void *arg, const struct tape *t, uint32_t node, uint32_t type,
                              tn_err *err);

/*
 * Hands out all steps of a part in order, Sequences taken apart; none if `node` is TAPE_NONE. `part` ("normalizer") is
 * for messages, `list` ("normalizers") names the member of a Sequence that has its steps.
 */
int32_t steps_each(const struct tape *t, uint32_t node, const char *part, const char *list,
                   steps_take take, void *arg, tn_err *err);

/* TN_E_UNSUPPORTED: no step of this type is known. */
int32_t steps_unknown(const struct tape *t, uint32_t type, const char *part, tn_err *err);

#endif
