/* SPDX-License-Identifier: Apache-2.0 */
/* Reads bytes as the stored form of a plan. What is accepted must be the same after writing and reading it again. */
#include <stdlib.h>

#include "base/json.h"
#include "base/strbuf.h"
#include "engine/plan_json.h"
#include "engine/plan_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_again(const struct plan *p)
{
    struct strbuf text = STRBUF_INIT;
    tn_err err = TN_ERR_INIT;
    json_t *first = NULL, *second = NULL;
    struct plan *back = NULL;

    if (plan_to_json(p, &first, &err) != TN_OK ||
        plan_from_json(first, "again", &back, &err) != TN_OK ||
        plan_to_json(back, &second, &err) != TN_OK || !json_equal(first, second))
        abort();
    plan_print(p, &text);
    strbuf_release(&text);
    json_decref(first);
    json_decref(second);
    plan_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tn_err err = TN_ERR_INIT;
    struct plan *p = NULL;
    json_t *root = NULL;

    if (json_parse((const char *)data, size, "fuzz", &root, &err) != TN_OK)
        return 0;
    if (plan_from_json(root, "fuzz", &p, &err) == TN_OK)
        write_again(p);
    plan_free(p);
    json_decref(root);
    return 0;
}
