/* SPDX-License-Identifier: Apache-2.0 */
/* The `attribute` arguments of filters: "name", "a.b.0", or a number. */
#ifndef TEXT_JINJA_PICK_H
#define TEXT_JINJA_PICK_H

#include "jinja/call.h"
#include "jinja/iter.h"

struct jgetter {
    struct jvalue *parts; /* keys to follow one after the other; none: the item itself */
    size_t count;
    struct jvalue otherwise; /* in place of an Undefined, if not J_MISSING */
    bool fold;               /* strings are compared in lower case */
};

/* Parts of the attribute; None gives none. */
bool jgetter_init(struct jvm *vm, struct jvalue attribute, struct jgetter *out);
bool jgetter_get(struct jvm *vm, const struct jgetter *g, struct jvalue item, struct jvalue *out);
/* One key per item; a comma separates attributes, and the key is then a list. `key` gets a list in any case. */
bool jgetter_keys(struct jvm *vm, struct jvalue attribute, bool fold, const struct jlist *items,
                  struct jvalue *keys);

#endif
