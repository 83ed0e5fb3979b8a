/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEXT_JINJA_TOJSON_H
#define TEXT_JINJA_TOJSON_H

#include "jinja/call.h"
#include "jinja/iter.h"

/* Arguments "ensure_ascii? indent? separators? sort_keys?", in this order, as transformers declares them. Item and
 * key separators are trusted; brackets and quotes have the trust of the value they belong to. */
bool jtojson(struct jvm *vm, const struct jargs *a, struct jvalue *out);

#endif
