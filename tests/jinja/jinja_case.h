/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of chat templates share: one call that compiles and renders. */
#ifndef TESTS_JINJA_CASE_H
#define TESTS_JINJA_CASE_H

#include "base/mem.h"
#include "check_util.h"
#include "jinja/jinja.h"

/* Compiles and renders `text` with the JSON `context`; limits of `options` may be NULL. */
static inline int32_t render_with(const char *text, const char *context,
                                  const struct jinja_options *options, struct jinja_result *out,
                                  tn_err *err)
{
    json_error_t bad;
    json_t *c = json_loads(context, JSON_ALLOW_NUL, &bad);
    struct jinja *t = NULL;
    int32_t rc;

    ck_assert_msg(c != NULL, "%s", bad.text);
    rc = jinja_compile("chat_template.jinja", text, strlen(text), &t, err);
    if (rc == TN_OK)
        rc = jinja_render(t, c, options, out, err);
    jinja_free(t);
    json_decref(c);
    return rc;
}

/* `text` renders to `expected`. */
static inline void renders(const char *text, const char *context, const char *expected)
{
    struct jinja_result r = JINJA_RESULT_INIT;
    tn_err err = TN_ERR_INIT;

    ck_assert_ok(render_with(text, context, NULL, &r, &err), &err);
    ck_assert_str_eq(strbuf_str(&r.text), expected);
    jinja_result_release(&r);
}

/* `text` fails in the way `why`, under the limits of `options` (NULL: the default ones). */
static inline void fails_with(const char *text, const char *context,
                              const struct jinja_options *options, enum jinja_failure why,
                              tn_err *err)
{
    struct jinja_result r = JINJA_RESULT_INIT;
    int32_t rc;

    *err = (tn_err)TN_ERR_INIT;
    rc = render_with(text, context, options, &r, err);
    ck_assert_msg(rc < 0, "%.80s renders %.80s", text, strbuf_str(&r.text));
    ck_assert_int_eq(rc, err->code);
    ck_assert_msg(err->native == (int64_t)why, "%.80s: failure %d, not %d: %s", text,
                  (int)err->native, (int)why, err->msg);
    ck_assert_uint_eq(r.text.len, 0);
    ck_assert_ptr_null(r.ranges);
}

static inline void fails(const char *text, const char *context, enum jinja_failure why)
{
    tn_err err;

    fails_with(text, context, NULL, why, &err);
    ck_assert_str_ne(err.msg, "");
}

#endif
