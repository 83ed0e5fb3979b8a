/* SPDX-License-Identifier: Apache-2.0 */
/* "%s" % x, "{}".format(x) and format(x, spec). The format's own characters keep their trust, what is put in
 * keeps its own; digits and padding have that of the value. */
#ifndef TEXT_JINJA_FORMAT_H
#define TEXT_JINJA_FORMAT_H

#include "jinja/call.h"
#include "jinja/str.h"

/* format % args: args is a tuple, a dict or one value. */
bool jformat_percent(struct jvm *vm, struct jvalue format, struct jvalue args, struct jvalue *out);
/* format.format(*args, **kwargs), attributes under the rules of the sandbox. */
bool jformat_braces(struct jvm *vm, struct jvalue format, const struct jcall *call,
                    struct jvalue *out);

/* A format specification, of both languages. */
struct jspec {
    uint32_t fill;
    char align; /* < > = ^, or 0 */
    char sign;  /* + - or space; 0: as - */
    bool alternate, zero;
    char grouping; /* , or _ or 0 */
    bool has_width, has_precision;
    int64_t width, precision;
    char type; /* or 0 */
};

/* Appends format(v, spec); the text of the specification is in `spec`. */
bool jformat_value(struct jbuild *b, struct jvalue v, const struct jstr *spec);
/* Integer (of a base type: d x X o b c) and float (e E f F g G %) conversions. */
bool jformat_int(struct jbuild *b, int64_t v, const struct jspec *s, bool trusted);
bool jformat_float(struct jbuild *b, double v, const struct jspec *s, bool trusted);
/* A string cut to the precision and padded to the width. */
bool jformat_str(struct jbuild *b, const struct jstr *v, const struct jspec *s);

#endif
