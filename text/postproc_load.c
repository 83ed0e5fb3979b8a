/* SPDX-License-Identifier: Apache-2.0 */
/* Reads post-processors (postproc.h) from a tokenizer.json. One thread. */
#include "base/mem.h"
#include "postproc.h"
#include "steps.h"
#include "textlimits.h"

static const char part[] = "post_processor";

void postproc_release(struct postproc *p)
{
    for (size_t i = 0; i < p->count; i++) {
        mem_free(p->steps[i].single.pieces);
        mem_free(p->steps[i].pair.pieces);
    }
    mem_free(p->steps);
    mem_free(p->ids);
    memset(p, 0, sizeof *p);
}

static struct postproc_step *append(struct postproc *p, enum postproc_kind kind, tn_err *err)
{
    if (!mem_grow(&p->steps, &p->cap, p->count + 1, sizeof *p->steps)) {
        err_nomem(err, "a post-processor");
        return NULL;
    }
    memset(&p->steps[p->count], 0, sizeof *p->steps);
    p->steps[p->count].kind = kind;
    p->trims = p->trims || kind == POSTPROC_TRIM;
    return &p->steps[p->count++];
}

static int32_t add_piece(struct postproc_template *t, struct postproc_piece x, tn_err *err)
{
    if (!mem_grow(&t->pieces, &t->cap, t->count + 1, sizeof *t->pieces))
        return err_nomem(err, "a post-processor");
    t->pieces[t->count++] = x;
    return TN_OK;
}

static int32_t add_ids(struct postproc *p, const uint32_t *ids, size_t n, tn_err *err)
{
    if (!mem_grow(&p->ids, &p->id_cap, p->id_count + n, sizeof *p->ids))
        return err_nomem(err, "a post-processor");
    memcpy(p->ids + p->id_count, ids, n * sizeof *ids);
    p->id_count += n;
    return TN_OK;
}

/* The ids of a special token of the template, as pieces refer to it. */
static int32_t load_token(struct postproc *p, const struct tape *t, uint32_t tokens, uint32_t name,
                          struct postproc_template *out, tn_err *err)
{
    size_t len;
    const char *text = tape_str(t, name, &len);
    uint32_t token = tape_get_n(t, tokens, text, len), ids = tape_get(t, token, "ids"), at;
    struct postproc_piece x = {false, 0, (uint32_t)p->id_count, 0};
    int32_t rc = TN_OK;

    if (token == TAPE_NONE) {
        out->broken = true;
        return TN_OK;
    }
    if (!tape_is(t, ids, TAPE_ARRAY) || t->nodes[ids].len > LIMIT_TEMPLATE_PIECES)
        return tape_err(t, token, "special_tokens.ids", err, "must be a short list of token ids");
    x.count = t->nodes[ids].len;
    at = ids + 1;
    for (uint32_t i = 0; rc == TN_OK && i < x.count; i++, at = t->nodes[at].next) {
        uint32_t id;
        if (!tape_uint(t, at, &id) || id >= LIMIT_VOCAB)
            return tape_err(t, at, "special_tokens.ids", err, "must be token ids");
        rc = add_ids(p, &id, 1, err);
    }
    return rc == TN_OK ? add_piece(out, x, err) : rc;
}

/* A list of {"Sequence": {"id": "A"}} and {"SpecialToken": {"id": "..."}}. */
static int32_t load_template(struct postproc *p, const struct tape *t, uint32_t node,
                             const char *field, struct postproc_template *out, tn_err *err)
{
    uint32_t list = tape_get(t, node, field), tokens = tape_get(t, node, "special_tokens");
    uint32_t at = list + 1;
    int32_t rc = TN_OK;

    if (!tape_is(t, list, TAPE_ARRAY))
        return tape_err(t, list == TAPE_NONE ? node : list, field, err, "must be a list");
    if (t->nodes[list].len > LIMIT_TEMPLATE_PIECES)
        return tape_err(t, list, field, err, "has more than %d pieces", LIMIT_TEMPLATE_PIECES);
    for (uint32_t i = 0; rc == TN_OK && i < t->nodes[list].len; i++, at = t->nodes[at].next) {
        uint32_t sequence = tape_get(t, tape_get(t, at, "Sequence"), "id");
        uint32_t token = tape_get(t, tape_get(t, at, "SpecialToken"), "id");
        if (tape_is(t, token, TAPE_STRING))
            rc = load_token(p, t, tokens, token, out, err);
        else if (tape_eq(t, sequence, "A") || tape_eq(t, sequence, "B"))
            rc =
                add_piece(out, (struct postproc_piece){true, tape_eq(t, sequence, "B"), 0, 0}, err);
        else
            rc = tape_err(t, at, field, err, "has a piece that is no Sequence A or B and no token");
    }
    return rc;
}

static int32_t load_templates(struct postproc *p, const struct tape *t, uint32_t node, tn_err *err)
{
    struct postproc_step *s = append(p, POSTPROC_TEMPLATE, err);
    int32_t rc;

    if (!s)
        return TN_E_NOMEM;
    rc = load_template(p, t, node, "single", &s->single, err);
    if (rc == TN_OK && s->single.broken)
        rc = tape_err(t, node, "single", err, "names a token that special_tokens does not have");
    for (size_t i = 0; rc == TN_OK && i < s->single.count; i++)
        if (s->single.pieces[i].sequence && s->single.pieces[i].which == 1)
            rc = tape_err(t, node, "single", err, "uses the second sequence");
    return rc == TN_OK ? load_template(p, t, node, "pair", &s->pair, err) : rc;
}

/* A member like ["</s>", 2]. */
static int32_t load_named(const struct tape *t, uint32_t node, const char *field, uint32_t *id,
                          tn_err *err)
{
    uint32_t v = tape_get(t, node, field);

    if (!tape_is(t, v, TAPE_ARRAY) || t->nodes[v].len != 2 || !tape_is(t, v + 1, TAPE_STRING) ||
        !tape_uint(t, v + 2, id) || *id >= LIMIT_VOCAB)
        return tape_err(t, v == TAPE_NONE ? node : v, field, err,
                        "must be a token and its id: [\"</s>\", 2]");
    return TN_OK;
}

/* CLS A SEP, and what follows: (SEP) B SEP. */
static int32_t load_cls_sep(struct postproc *p, const struct tape *t, uint32_t node, bool roberta,
                            tn_err *err)
{
    struct postproc_step *s = append(p, POSTPROC_AROUND, err);
    struct postproc_piece cls = {false, 0, (uint32_t)p->id_count, 1};
    struct postproc_piece sep = {false, 0, (uint32_t)p->id_count + 1, 1};
    struct postproc_piece text = {true, 0, 0, 0};
    const struct postproc_piece single[] = {cls, text, sep}, pair[] = {sep, text, sep};
    uint32_t ids[2];
    int32_t rc = s ? load_named(t, node, "cls", &ids[0], err) : TN_E_NOMEM;

    if (rc == TN_OK)
        rc = load_named(t, node, "sep", &ids[1], err);
    if (rc == TN_OK)
        rc = add_ids(p, ids, 2, err);
    for (size_t i = 0; rc == TN_OK && i < 3; i++)
        rc = add_piece(&s->single, single[i], err);
    for (size_t i = roberta ? 0 : 1; rc == TN_OK && i < 3; i++)
        rc = add_piece(&s->pair, pair[i], err);
    return rc;
}

/* The members of ByteLevel and RobertaProcessing that trim. */
static int32_t load_trim(struct postproc *p, const struct tape *t, uint32_t node, tn_err *err)
{
    bool trim = true, prefix = true;
    struct postproc_step *s;
    int32_t rc = tape_get_bool(t, node, "trim_offsets", true, &trim, err);

    if (rc == TN_OK)
        rc = tape_get_bool(t, node, "add_prefix_space", true, &prefix, err);
    if (rc != TN_OK || !trim)
        return rc;
    s = append(p, POSTPROC_TRIM, err);
    if (!s)
        return TN_E_NOMEM;
    s->prefix_space = prefix;
    return TN_OK;
}

static int32_t take_step(void *arg, const struct tape *t, uint32_t node, uint32_t type, tn_err *err)
{
    int32_t rc;

    if (tape_eq(t, type, "TemplateProcessing"))
        return load_templates(arg, t, node, err);
    if (tape_eq(t, type, "ByteLevel"))
        return load_trim(arg, t, node, err);
    if (tape_eq(t, type, "BertProcessing"))
        return load_cls_sep(arg, t, node, false, err);
    if (!tape_eq(t, type, "RobertaProcessing"))
        return steps_unknown(t, type, part, err);
    rc = load_trim(arg, t, node, err);
    return rc == TN_OK ? load_cls_sep(arg, t, node, true, err) : rc;
}

int32_t postproc_load(const struct tape *t, uint32_t node, struct postproc *out, tn_err *err)
{
    memset(out, 0, sizeof *out);
    return steps_each(t, node, part, "processors", take_step, out, err);
}
