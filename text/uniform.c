/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Normal forms (uniform.h) by The Unicode Standard, section 3.11 and annex 15, with the changes that the reference's
 * library reports: of a decomposed character the first part takes its place and the others are inserted; they
 * keep that when canonical ordering moves them; what is composed swallows the parts that it took in. For any thread.
 */
#include "uniform.h"

#include "base/mem.h"
#include "unidata.h"

struct part {
    uint32_t cp;
    uint8_t class;
    int64_t change;
};

struct parts {
    struct part *items;
    size_t count, cap;
};

struct run {
    uint32_t flags;
    uniform_emit emit;
    void *arg;
    struct parts pending; /* a starter and what followed it, not yet in canonical order */
    struct parts held;    /* what follows `base` and did not join it */
    struct part base;     /* the last starter, which may still compose */
    bool has_base, failed;
};

static void put(struct run *r, struct parts *to, struct part p)
{
    if (to->count == to->cap && !mem_grow(&to->items, &to->cap, to->count + 1, sizeof p))
        r->failed = true;
    else
        to->items[to->count++] = p;
}

static void emit_held(struct run *r)
{
    for (size_t i = 0; i < r->held.count; i++)
        r->emit(r->arg, r->held.items[i].cp, r->held.items[i].change);
    r->held.count = 0;
}

static void compose(struct run *r, struct part p)
{
    uint8_t last = r->held.count > 0 ? r->held.items[r->held.count - 1].class : 0;
    uint32_t cp;

    if (!r->has_base) {
        if (p.class != 0) {
            r->emit(r->arg, p.cp, p.change);
            return;
        }
        r->base = p;
        r->has_base = true;
        return;
    }
    cp = r->held.count == 0 || last < p.class ? uni_compose(r->base.cp, p.cp) : 0;
    if (cp != 0) {
        r->base.cp = cp;
        r->base.change += p.change - 1;
    } else if (p.class != 0) {
        put(r, &r->held, p);
    } else {
        r->emit(r->arg, r->base.cp, r->base.change);
        emit_held(r);
        r->base = p;
    }
}

/* Sorts by combining class, stable: by insertion if short, else by counting. */
static void order(struct run *r)
{
    struct part *a = r->pending.items, *sorted;
    size_t n = r->pending.count, start[257] = {0};

    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            struct part p = a[i];
            size_t k = i;
            for (; k > 0 && a[k - 1].class > p.class; k--)
                a[k] = a[k - 1];
            a[k] = p;
        }
        return;
    }
    sorted = mem_array(n, sizeof *sorted);
    if (!sorted) {
        r->failed = true;
        return;
    }
    for (size_t i = 0; i < n; i++)
        start[a[i].class + 1]++;
    for (size_t c = 1; c < 257; c++)
        start[c] += start[c - 1];
    for (size_t i = 0; i < n; i++)
        sorted[start[a[i].class]++] = a[i];
    memcpy(a, sorted, n * sizeof *a);
    mem_free(sorted);
}

static void flush(struct run *r)
{
    order(r);
    for (size_t i = 0; i < r->pending.count; i++) {
        struct part p = r->pending.items[i];
        if (r->flags & UNIFORM_COMPOSE)
            compose(r, p);
        else
            r->emit(r->arg, p.cp, p.change);
    }
    r->pending.count = 0;
}

static void take(struct run *r, uint32_t cp, int64_t change)
{
    uint8_t class = uni_combining_class(cp);

    if (class == 0 && r->pending.count > 0)
        flush(r);
    put(r, &r->pending, (struct part){cp, class, change});
}

bool uniform_run(const char *text, size_t len, uint32_t flags, uniform_emit emit, void *arg)
{
    struct run r = {flags, emit, arg, {NULL, 0, 0}, {NULL, 0, 0}, {0, 0, 0}, false, false};

    for (size_t pos = 0, n; pos < len && !r.failed; pos += n) {
        uint32_t d[UNI_MAX_DECOMPOSITION];
        uint32_t cp = uni_next(text + pos, &n);
        size_t parts = uni_decompose(cp, (flags & UNIFORM_COMPATIBLE) != 0, d);
        for (size_t i = 0; i < parts; i++)
            take(&r, d[i], i > 0);
    }
    flush(&r);
    if (r.has_base)
        emit(arg, r.base.cp, r.base.change);
    emit_held(&r);
    mem_free(r.pending.items);
    mem_free(r.held.items);
    return !r.failed;
}

/* Of these neither composes with what stands before, nor decomposes in NFC: common scripts without marks. */
static bool is_composed(uint32_t cp)
{
    return cp < 0x300 || (cp >= 0x3400 && cp <= 0x9fff) || (cp >= 0xac00 && cp <= 0xd7a3) ||
           (cp >= 0x2010 && cp <= 0x2025) || (cp >= 0x3000 && cp <= 0x3029) ||
           (cp >= 0x3030 && cp <= 0x3096) || (cp >= 0x30a0 && cp <= 0x30fe) ||
           (cp >= 0x400 && cp <= 0x482) || (cp >= 0x1f300 && cp <= 0x1f9ff) ||
           (cp >= 0xff01 && cp <= 0xff5e);
}

bool uniform_is(const char *text, size_t len, uint32_t flags)
{
    for (size_t pos = 0, n; pos < len; pos += n) {
        uint32_t cp = uni_next(text + pos, &n);
        if (cp >= 0x80 && (flags != UNIFORM_COMPOSE || !is_composed(cp)))
            return false;
    }
    return true;
}
