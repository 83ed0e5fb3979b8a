/* SPDX-License-Identifier: Apache-2.0 */
/* Normalizers that edit the ends of a text or what a pattern finds: Strip, Prepend, Replace. For any thread. */
#include "base/mem.h"
#include "normalize_types.h"
#include "replacer.h"
#include "unidata.h"

/* --- Strip --- */

struct strip {
    bool left, right;
};

static int32_t load_strip(struct normalize_step *s, const struct tape *t, uint32_t node,
                          tn_err *err)
{
    struct strip x;
    int32_t rc;

    if ((rc = tape_get_bool(t, node, "strip_left", true, &x.left, err)) != TN_OK ||
        (rc = tape_get_bool(t, node, "strip_right", true, &x.right, err)) != TN_OK)
        return rc;
    s->state = mem_alloc(sizeof x);
    if (!s->state)
        return err_nomem(err, "a normalizer");
    memcpy(s->state, &x, sizeof x);
    return TN_OK;
}

static int32_t apply_strip(const struct normalize_step *s, struct normalize_work *w,
                           struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct strip *x = s->state;
    size_t begin = 0, end = in.len, chars = 0, n;
    struct rewrite r;

    (void)w, (void)err;
    for (; x->left && begin < end && uni_is_space(uni_next(in.text + begin, &n)); begin += n)
        chars++;
    while (x->right && begin < end) {
        size_t at = uni_before(in.text, end);
        if (!uni_is_space(uni_next(in.text + at, &n)))
            break;
        end = at;
    }
    if (begin == end)
        return TN_OK;
    if (begin == 0 && end == in.len) {
        nstr_put(out, in.text, in.align, in.len);
        return TN_OK;
    }
    rewrite_begin(&r, in, shift, out);
    rewrite_skip(&r, chars);
    rewrite_copy(&r, in.text + begin, end - begin);
    return TN_OK;
}

static bool keeps_strip(const struct normalize_step *s, const char *text, size_t len)
{
    const struct strip *x = s->state;
    size_t n;

    return !(x->left && uni_is_space(uni_next(text, &n))) &&
           !(x->right && uni_is_space(uni_next(text + uni_before(text, len), &n)));
}

const struct normalize_type normalize_strip = {"Strip", load_strip, normalize_release_state,
                                               apply_strip, keeps_strip};

/* --- Prepend --- */

struct prepend {
    size_t len;
    char text[];
};

static int32_t load_prepend(struct normalize_step *s, const struct tape *t, uint32_t node,
                            tn_err *err)
{
    struct prepend *p;
    const char *text;
    size_t len;
    int32_t rc = tape_need_str(t, node, "prepend", &text, &len, err);

    if (rc != TN_OK)
        return rc;
    if (len > LIMIT_TOKEN_BYTES)
        return tape_err(t, node, "prepend", err, "the text has %zu bytes, the limit is %u", len,
                        (unsigned)LIMIT_TOKEN_BYTES);
    p = mem_alloc(sizeof *p + len);
    if (!p)
        return err_nomem(err, "a normalizer");
    p->len = len;
    memcpy(p->text, text, len);
    s->state = p;
    return TN_OK;
}

static int32_t apply_prepend(const struct normalize_step *s, struct normalize_work *w,
                             struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct prepend *p = s->state;
    size_t first = 0;

    (void)w, (void)err;
    if (in.len == 0)
        return TN_OK;
    if (p->len > 0) {
        nstr_put_as(out, p->text, p->len, in.align[0]);
    } else { /* the reference inserts the first character anew, and it stands for nothing */
        uni_next(in.text, &first);
        nstr_put_as(out, in.text, first, (struct span){shift, shift});
    }
    nstr_put(out, in.text + first, in.align + first, in.len - first);
    return TN_OK;
}

const struct normalize_type normalize_prepend = {"Prepend", load_prepend, normalize_release_state,
                                                 apply_prepend, NULL};

/* --- Replace --- */

static int32_t load_replace(struct normalize_step *s, const struct tape *t, uint32_t node,
                            tn_err *err)
{
    struct replacer *r = mem_alloc(sizeof *r);
    int32_t rc = r ? replacer_load(t, node, r, err) : err_nomem(err, "a normalizer");

    if (rc == TN_OK)
        s->state = r;
    else
        mem_free(r);
    return rc;
}

static void release_replace(struct normalize_step *s)
{
    if (s->state)
        replacer_release(s->state);
    normalize_release_state(s);
}

static int32_t apply_replace(const struct normalize_step *s, struct normalize_work *w,
                             struct nview in, uint32_t shift, struct nstr *out, tn_err *err)
{
    const struct replacer *r = s->state;
    struct replacer_iter it;
    size_t done = 0, begin, end;
    int32_t rc;

    replacer_begin(&it, r, w->regex, in.text, in.len);
    while ((rc = replacer_next(&it, &begin, &end, err)) == 1 && !out->failed) {
        struct span at = end > 0 ? in.align[end - 1] : (struct span){shift, shift};
        nstr_put(out, in.text + done, in.align + done, begin - done);
        nstr_put_as(out, r->content, r->content_len, at);
        done = end;
    }
    if (rc < 0)
        return rc;
    nstr_put(out, in.text + done, in.align + done, in.len - done);
    return TN_OK;
}

static bool keeps_replace(const struct normalize_step *s, const char *text, size_t len)
{
    const struct replacer *r = s->state;
    struct replacer_iter it;
    size_t begin, end;

    if (r->regex)
        return false;
    replacer_begin(&it, r, NULL, text, len);
    return replacer_next(&it, &begin, &end, NULL) == 0;
}

const struct normalize_type normalize_replace = {"Replace", load_replace, release_replace,
                                                 apply_replace, keeps_replace};
