/* SPDX-License-Identifier: Apache-2.0 */
/* Which variable a name means. */
#ifndef TEXT_JINJA_SCOPE_H
#define TEXT_JINJA_SCOPE_H

#include "jinja/node.h"

/* Resolves every name of the tree and attaches the scopes to the nodes that open them; refuses what jinja2 refuses
 * when it generates code: unknown filters, break outside of a loop, ... */
bool jscope_resolve(struct jcompile *c);

#endif
