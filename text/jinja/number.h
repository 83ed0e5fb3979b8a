/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers: text to and from them, and the operators + - * / // % ** on all types that have them. Integers are
 * 64 bits wide; what Python would compute beyond that is an error here, never a wrong number. */
#ifndef TEXT_JINJA_NUMBER_H
#define TEXT_JINJA_NUMBER_H

#include "jinja/node.h"
#include "jinja/value.h"

#define JNUMBER_TEXT 40 /* room for any repr */

/* A C number of the C locale, whatever the process has set. */
double jnumber_strtod(const char *digits);
/* `n` digits of a base from 2 to 36; false if the value does not fit or a digit does not belong. */
bool jnumber_digits(const char *digits, size_t n, unsigned base, int64_t *out);
/* repr(f): the shortest digits that read back as f. Returns the length. */
size_t jnumber_repr(double f, char out[JNUMBER_TEXT]);

enum jparse { JPARSE_OK, JPARSE_BAD, JPARSE_TOO_BIG };
/* int(text, base), base 0 or 2 to 36, and float(text), as Python reads them. */
enum jparse jnumber_int(const char *text, size_t len, int base, int64_t *out);
enum jparse jnumber_float(const char *text, size_t len, double *out);
/* int(f): JPARSE_BAD for nan and inf. */
enum jparse jnumber_truncate(double f, int64_t *out);
/* round(f, digits), halves to even, exact in the decimal digits. */
double jnumber_round(double f, int64_t digits);

/* left op right. */
bool jnumber_binary(struct jvm *vm, enum jop op, struct jvalue a, struct jvalue b,
                    struct jvalue *out);
/* -v and +v. */
bool jnumber_unary(struct jvm *vm, bool minus, struct jvalue v, struct jvalue *out);

#endif
