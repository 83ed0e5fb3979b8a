/* SPDX-License-Identifier: Apache-2.0 */
/* The raw Unicode tables that tests/text/gen_unitable.py writes; read them through unidata.h. */
#ifndef TEXT_UNITABLE_H
#define TEXT_UNITABLE_H

#include <stddef.h>
#include <stdint.h>

/* Rows code_point << 8 | class, ascending: every code point from here up to the next row has that class (before
 * the first row: 0). A class is a general category (enum uni_category) | an age (enum uni_age) << 5. */
extern const uint32_t unitable_class[];
extern const size_t unitable_class_count;

/* first, first + step, ... (count of them) have the lower case code point + delta. */
struct unitable_case {
    uint32_t first;
    uint16_t count;
    uint16_t step;
    int32_t delta;
};
extern const struct unitable_case unitable_lower[];
extern const size_t unitable_lower_count;

/* What \w matches beyond letters, letter numbers, marks, decimal digits and connectors. */
struct unitable_range {
    uint32_t first, last;
};
extern const struct unitable_range unitable_word[];
extern const size_t unitable_word_count;

#endif
