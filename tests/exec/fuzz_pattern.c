/* SPDX-License-Identifier: Apache-2.0 */
/* Parses bytes as the text of a fusion. What is accepted must keep to its own limits. */
#include <stdlib.h>
#include <string.h>

#include "exec/pattern.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_list(const struct pattern *p, const uint8_t *list, uint32_t n)
{
    if (n > TN_OP_MAX_VALUES)
        abort();
    for (uint32_t i = 0; i < n; i++)
        if (list[i] >= p->n_names)
            abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    tn_err err = TN_ERR_INIT;
    struct pattern p;

    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    text[size] = '\0';
    if (pattern_parse(text, &p, &err) == TN_OK) {
        if (p.n_names > PATTERN_MAX_NAMES || p.n_steps < 1 || p.n_steps > TN_OP_MAX_MEMBERS)
            abort();
        check_list(&p, p.in, p.n_in);
        check_list(&p, p.out, p.n_out);
        for (uint32_t i = 0; i < p.n_steps; i++) {
            check_list(&p, p.steps[i].in, p.steps[i].n_in);
            check_list(&p, p.steps[i].out, p.steps[i].n_out);
        }
    }
    free(text);
    return 0;
}
