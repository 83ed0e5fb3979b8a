/* SPDX-License-Identifier: Apache-2.0 */
/* Puts a tokenizer together from a tokenizer.json. One thread. */
#include "base/mem.h"
#include "textlimits.h"
#include "tokenizer.h"

/* Whether the model may work on bytes where the last pre-tokenizer would make characters of them: without affixes and
 * byte fallback, which see the characters. */
static bool may_take_bytes(const struct tape *t, uint32_t model, const struct pretok_list *pretok)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const struct model_type *type = model_type_of(t, model);

    if (!type || !type->takes_bytes || !pretok_ends_in_bytes(pretok) ||
        tape_is(t, tape_get(t, model, "byte_fallback"), TAPE_TRUE))
        return false;
    for (size_t i = 0; i < 2; i++) {
        uint32_t v = tape_get(t, model, affixes[i]);
        if (v != TAPE_NONE && !tape_eq(t, v, ""))
            return false;
    }
    return true;
}

static int32_t load_model(struct tn_tokenizer *t, const struct tape *json, tn_err *err)
{
    uint32_t node = tape_get(json, 0, "model");
    struct model_hints hints = {may_take_bytes(json, node, &t->pretok)};
    int32_t rc = model_load(json, node, &hints, &t->model, err);

    if (rc == TN_OK && hints.bytes)
        pretok_keep_bytes(&t->pretok);
    return rc;
}

static int32_t read_added(const struct tape *json, uint32_t node, struct added_token *out,
                          tn_err *err)
{
    const char *text;
    int32_t rc = tape_need_str(json, node, "content", &text, &out->len, err);

    if (rc == TN_OK && out->len > LIMIT_TOKEN_BYTES)
        rc = tape_err(json, node, "added_tokens.content", err, "has %zu bytes, more than %llu",
                      out->len, (unsigned long long)LIMIT_TOKEN_BYTES);
    if (rc != TN_OK)
        return rc;
    out->content = (char *)text; /* copied by added_put */
    rc = tape_get_bool(json, node, "special", false, &out->special, err);
    if (rc == TN_OK)
        rc = tape_get_bool(json, node, "single_word", false, &out->single_word, err);
    if (rc == TN_OK)
        rc = tape_get_bool(json, node, "lstrip", false, &out->lstrip, err);
    if (rc == TN_OK)
        rc = tape_get_bool(json, node, "rstrip", false, &out->rstrip, err);
    if (rc == TN_OK)
        rc = tape_get_bool(json, node, "normalized", !out->special, &out->normalized, err);
    return rc;
}

/*
 * The reference does not read the ids of added tokens: one that the model has keeps the model's, and others are
 * numbered from the size of its vocabulary on, in order. What importers write says "explicit_ids" where that would be wrong.
 */
static int32_t load_added(struct tn_tokenizer *t, const struct tape *json, tn_err *err)
{
    uint32_t list = tape_get(json, 0, "added_tokens"), at = list + 1;
    uint32_t next = (uint32_t)t->model->vocab.count;
    bool numbered = false;
    int32_t rc = tape_get_bool(json, 0, "explicit_ids", false, &numbered, err);

    if (rc != TN_OK || list == TAPE_NONE)
        return rc;
    if (!tape_is(json, list, TAPE_ARRAY) || json->nodes[list].len > LIMIT_VOCAB)
        return tape_err(json, list, "added_tokens", err, "must be a list of tokens");
    for (uint32_t i = 0; rc == TN_OK && i < json->nodes[list].len; i++, at = json->nodes[at].next) {
        struct added_token x = {0};
        rc = read_added(json, at, &x, err);
        if (rc != TN_OK || x.len == 0)
            continue;
        if (!added_find(&t->added, x.content, x.len)) {
            x.id = vocab_find(&t->model->vocab, x.content, x.len);
            if (x.id == VOCAB_NONE)
                x.id = next++;
            if (numbered)
                tape_uint(json, tape_get(json, at, "id"), &x.id);
        }
        if (x.id >= LIMIT_VOCAB)
            rc = tape_err(json, at, "added_tokens", err, "makes more than %llu tokens",
                          (unsigned long long)LIMIT_VOCAB);
        if (rc == TN_OK)
            rc = added_put(&t->added, &x, err);
    }
    return rc;
}

/* Tokens marked `normalized` are looked for in the form that the normalizer gives them. */
static int32_t normalize_added(struct tn_tokenizer *t, tn_err *err)
{
    struct normalize_work work = {0};
    struct nstr in = {0}, out = {0};
    int32_t rc = regex_scratch_new(&work.regex, err);

    for (size_t i = 0; rc == TN_OK && i < t->added.count; i++) {
        const struct added_token *x = &t->added.tokens[i];
        if (!x->normalized || normalizer_keeps(t->normalizer, x->content, x->len))
            continue;
        nstr_clear(&in);
        nstr_clear(&out);
        nstr_put_input(&in, x->content, x->len, 0);
        rc = in.failed ? err_nomem(err, "added tokens")
                       : normalizer_apply(t->normalizer, &work,
                                          (struct nview){in.text, in.align, in.len}, 0, &out, err);
        if (rc == TN_OK)
            rc = added_set_pattern(&t->added, i, out.text ? out.text : "", out.len, err);
    }
    nstr_release(&in);
    nstr_release(&out);
    regex_scratch_free(work.regex);
    normalize_work_release(&work);
    return rc;
}

int32_t tokenizer_load(struct tn_tokenizer *t, const struct tape *json, tn_err *err)
{
    uint32_t version = tape_get(json, 0, "version");
    int32_t rc = TN_OK;

    if (!tape_is(json, 0, TAPE_OBJECT))
        return tape_err(json, TAPE_NONE, NULL, err, "must be an object");
    if (version != TAPE_NONE && !tape_eq(json, version, "1.0")) {
        tape_err(json, version, "version", err, "must be \"1.0\"");
        if (err)
            err->code = TN_E_VERSION;
        return TN_E_VERSION;
    }
    rc = normalizer_load(json, tape_get(json, 0, "normalizer"), &t->normalizer, err);
    if (rc == TN_OK)
        rc = pretok_load(json, tape_get(json, 0, "pre_tokenizer"), &t->pretok, err);
    if (rc == TN_OK)
        rc = postproc_load(json, tape_get(json, 0, "post_processor"), &t->postproc, err);
    if (rc == TN_OK)
        rc = decoder_load(json, tape_get(json, 0, "decoder"), &t->decoder, err);
    if (rc == TN_OK)
        rc = load_model(t, json, err);
    if (rc == TN_OK)
        rc = load_added(t, json, err);
    if (rc == TN_OK && t->normalizer)
        rc = normalize_added(t, err);
    if (rc == TN_OK) {
        rc = added_build(&t->added, err);
        if (rc != TN_OK)
            err_file(err, json->file);
    }
    if (rc != TN_OK)
        return rc;
    t->vocab_size = (uint32_t)t->model->vocab.size;
    for (size_t i = 0; i < t->added.count; i++)
        if (t->added.tokens[i].id >= t->vocab_size)
            t->vocab_size = t->added.tokens[i].id + 1;
    return TN_OK;
}
