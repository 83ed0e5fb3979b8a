/* SPDX-License-Identifier: Apache-2.0 */
/* The normalizers NFC, NFD, NFKC, NFKD (uniform.h). For any thread. */
#include "normalize_types.h"
#include "uniform.h"

static void put_change(void *arg, uint32_t cp, int64_t change)
{
    rewrite_put_cp(arg, cp, change);
}

static int32_t apply_form(struct nview in, uint32_t shift, struct nstr *out, uint32_t flags)
{
    struct rewrite r;

    rewrite_begin(&r, in, shift, out);
    if (!uniform_run(in.text, in.len, flags, put_change, &r))
        out->failed = true;
    return TN_OK;
}

#define FORM(name, flags)                                                                          \
    static int32_t apply_##name(const struct normalize_step *s, struct normalize_work *w,          \
                                struct nview in, uint32_t shift, struct nstr *out, tn_err *err)    \
    {                                                                                              \
        (void)s, (void)w, (void)err;                                                               \
        return apply_form(in, shift, out, flags);                                                  \
    }                                                                                              \
    static bool keeps_##name(const struct normalize_step *s, const char *text, size_t len)         \
    {                                                                                              \
        (void)s;                                                                                   \
        return uniform_is(text, len, flags);                                                       \
    }                                                                                              \
    const struct normalize_type normalize_##name = {#name, normalize_load_nothing, NULL,           \
                                                    apply_##name, keeps_##name};

FORM(NFC, UNIFORM_COMPOSE)
FORM(NFD, 0)
FORM(NFKC, UNIFORM_COMPOSE | UNIFORM_COMPATIBLE)
FORM(NFKD, UNIFORM_COMPATIBLE)
