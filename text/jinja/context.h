/* SPDX-License-Identifier: Apache-2.0 */
/* From the caller's JSON to values. */
#ifndef TEXT_JINJA_CONTEXT_H
#define TEXT_JINJA_CONTEXT_H

#include "jinja/vm.h"

/* Fills vm->globals: the functions every template has, and over them the variables of `context` that the template
 * mentions. Strings are not copied: the JSON must outlive the render. */
bool jcontext_load(struct jvm *vm, const json_t *context);

#endif
