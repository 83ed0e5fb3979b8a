/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEXT_JINJA_WORDWRAP_H
#define TEXT_JINJA_WORDWRAP_H

#include "jinja/call.h"

/* The filter wordwrap(width=79, break_long_words=True, wrapstring="\n", break_on_hyphens=True). */
bool jwordwrap(struct jvm *vm, const struct jargs *a, struct jvalue *out);

#endif
