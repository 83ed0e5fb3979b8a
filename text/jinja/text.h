/* SPDX-License-Identifier: Apache-2.0 */
/* What methods of str and the filters of the same names share. All keep the provenance of every character. */
#ifndef TEXT_JINJA_TEXT_H
#define TEXT_JINJA_TEXT_H

#include "jinja/str.h"

enum jcase { JCASE_LOWER, JCASE_UPPER, JCASE_CAPITALIZE, JCASE_TITLE, JCASE_SWAP, JCASE_FOLD };

/* strcase.c. `s` is a string. */
bool jtext_case(struct jvm *vm, enum jcase how, struct jvalue s, struct jvalue *out);
/* Bytes [from, to) of s in lower (or upper) case, as if they were a string of their own. */
bool jtext_lower_part(struct jbuild *b, const struct jstr *s, size_t from, size_t to);
bool jtext_upper_part(struct jbuild *b, const struct jstr *s, size_t from, size_t to);
/* str.islower, str.isupper */
bool jtext_is_lower(const struct jstr *s);
bool jtext_is_upper(const struct jstr *s);

/* methods_str.c */
enum { JSTRIP_LEFT = 1, JSTRIP_RIGHT = 2 };
/* chars NULL: white space. */
bool jtext_strip(struct jvm *vm, struct jvalue s, const struct jstr *chars, int sides,
                 struct jvalue *out);
bool jtext_splitlines(struct jvm *vm, struct jvalue s, bool keep_ends, struct jlist *out);
/* Padding to `width` characters, the larger half on the right. */
bool jtext_center(struct jvm *vm, struct jvalue s, int64_t width, uint32_t fill,
                  struct jvalue *out);

/* methods_search.c. A negative count means all. */
bool jtext_replace(struct jvm *vm, struct jvalue s, const struct jstr *old,
                   const struct jstr *new_text, int64_t count, struct jvalue *out);
bool jtext_rsplit_once(struct jvm *vm, struct jvalue s, uint32_t sep, struct jvalue *out);

#endif
