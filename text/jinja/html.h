/* SPDX-License-Identifier: Apache-2.0 */
/* Escaping, as markupsafe does it. */
#ifndef TEXT_JINJA_HTML_H
#define TEXT_JINJA_HTML_H

#include "jinja/value.h"

/* str(v) with & < > ' " escaped, as a Markup; a Markup is left alone. */
bool jhtml_escape(struct jvm *vm, struct jvalue v, struct jvalue *out);

#endif
