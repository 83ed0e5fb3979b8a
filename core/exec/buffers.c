/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Addresses for the values that flow between steps. Steps run in order, so a value lives from the step that writes it to
 * the last that reads it; values whose lives do not overlap share memory. First fit by descending size, which is
 * within a few per cent of optimal on transformer plans.
 */
#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/digest.h"
#include "base/mem.h"
#include "exec/bound.h"

#define VALUE_ALIGN 256

struct life {
    uint32_t value;
    size_t first, last; /* steps */
    uint64_t bytes, offset;
};

static uint64_t value_bytes(const struct binding *b, const tn_value *v)
{
    uint64_t rows = v->kind == TN_VALUE_LOGITS ? b->o.select.max_logits : b->o.select.max_rows;

    return v->kind == TN_VALUE_KV
               ? 0
               : align_up(rows * v->width * tn_dtype_bits(v->dtype) / 8, VALUE_ALIGN);
}

/* Extends the life of each value that step `i` touches; adds those seen first. */
static void note_lives(const struct binding *b, size_t i, struct life *lives, size_t *n)
{
    const tn_op *op = &b->selection.ops[i].op->op;

    for (uint32_t pass = 0; pass < 2; pass++) {
        const tn_value *const *list = pass ? op->out : op->in;
        for (uint32_t k = 0; k < (pass ? op->n_out : op->n_in); k++) {
            size_t j = 0;
            if (list[k]->kind == TN_VALUE_KV)
                continue;
            while (j < *n && lives[j].value != list[k]->id)
                j++;
            if (j == *n)
                lives[(*n)++] = (struct life){list[k]->id, i, i, value_bytes(b, list[k]), 0};
            lives[j].last = i;
        }
    }
}

/* What comes from the stage before lives from the start, what the next one gets to the end. */
static void note_border(const struct binding *b, const uint32_t *ids, uint32_t n_ids, bool import,
                        struct life *lives, size_t *n)
{
    size_t last = b->selection.n_ops ? b->selection.n_ops - 1 : 0;

    for (uint32_t k = 0; k < n_ids; k++) {
        size_t j = 0;
        while (j < *n && lives[j].value != ids[k])
            j++;
        if (j == *n)
            lives[(*n)++] = (struct life){ids[k], import ? 0 : last, import ? 0 : last,
                                          value_bytes(b, &b->graph->values[ids[k]]), 0};
        if (import)
            lives[j].first = 0;
        else
            lives[j].last = last;
    }
}

static int by_size(const void *a, const void *b)
{
    const struct life *x = a, *y = b;

    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static bool overlap_in_time(const struct life *a, const struct life *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* The lowest offset at which lives[i] collides with none of lives[0..i). */
static void place(struct life *lives, size_t i)
{
    uint64_t at = 0;
    bool moved = true;

    while (moved) {
        moved = false;
        for (size_t j = 0; j < i; j++) {
            if (overlap_in_time(&lives[i], &lives[j]) && at < lives[j].offset + lives[j].bytes &&
                lives[j].offset < at + lives[i].bytes) {
                at = lives[j].offset + lives[j].bytes;
                moved = true;
            }
        }
    }
    lives[i].offset = at;
}

/* What lies where, as one number: equal on ranks that made the same of a plan. */
static uint64_t layout_of(const struct life *lives, size_t n)
{
    uint64_t chain[5] = {0}; /* the digest so far, then a value's place */
    uint8_t digest[XXH128_BYTES];

    for (size_t i = 0; i < n; i++) {
        chain[2] = lives[i].value;
        chain[3] = lives[i].offset;
        chain[4] = lives[i].bytes;
        xxh128_of(chain, sizeof chain, digest);
        memcpy(chain, digest, sizeof digest);
    }
    return chain[0];
}

int32_t bound_place_values(struct binding *b, tn_err *err)
{
    size_t n_values = b->graph->plan->n_values, n = 0;
    struct life *lives = mem_array(n_values, sizeof *lives);
    uint64_t total = 0;
    void *base = NULL;
    int32_t rc = TN_OK;

    b->value_ptr = arena_array(&b->arena, n_values, sizeof *b->value_ptr);
    if (!lives || !b->value_ptr) {
        rc = err_nomem(err, "placing buffers");
        goto done;
    }
    for (size_t i = 0; i < b->selection.n_ops; i++)
        note_lives(b, i, lives, &n);
    note_border(b, b->graph->imports, b->graph->n_imports, true, lives, &n);
    note_border(b, b->graph->exports, b->graph->n_exports, false, lives, &n);
    qsort(lives, n, sizeof *lives, by_size);
    for (size_t i = 0; i < n; i++) {
        place(lives, i);
        if (lives[i].offset + lives[i].bytes > total)
            total = lives[i].offset + lives[i].bytes;
    }
    rc = bound_alloc_shared(b, b->own_buffers, total, layout_of(lives, n), &base, err);
    for (size_t i = 0; i < n && rc == TN_OK; i++)
        b->value_ptr[lives[i].value] = (uint8_t *)base + lives[i].offset;
done:
    mem_free(lives);
    return rc;
}
