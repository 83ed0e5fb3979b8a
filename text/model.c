/* SPDX-License-Identifier: Apache-2.0 */
/* The table of models (model.h), and which of them a file means. Read-only, any thread. */
#include "model.h"

static const struct model_type *const types[] = {&model_bpe, &model_wordpiece, &model_wordlevel,
                                                 &model_unigram};

const struct model_type *model_type_of(const struct tape *t, uint32_t node)
{
    uint32_t type = tape_get(t, node, "type");

    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (type == TAPE_NONE ? types[i]->fits(t, node) : tape_eq(t, type, types[i]->name))
            return types[i];
    return NULL;
}

int32_t model_load(const struct tape *t, uint32_t node, const struct model_hints *hints,
                   struct model **out, tn_err *err)
{
    const struct model_type *type;
    uint32_t name = tape_get(t, node, "type");

    if (!tape_is(t, node, TAPE_OBJECT))
        return tape_err(t, node, "model", err, "is missing or not an object");
    type = model_type_of(t, node);
    if (type)
        return type->load(t, node, hints, out, err);
    tape_err(t, name == TAPE_NONE ? node : name, "model.type", err,
             "is none of BPE, Unigram, WordPiece, WordLevel");
    if (err)
        err->code = TN_E_UNSUPPORTED;
    return TN_E_UNSUPPORTED;
}
