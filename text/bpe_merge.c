/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Merging (bpe_merge.h). Short words, which are nearly all, are scanned for their best pair again and again: nothing beats
 * that below thirty symbols. Long ones use the queue: a megabyte of one letter is a list walked once per
 * doubling, and no choice of merges makes it worse than n log n.
 */
#include "bpe_merge.h"

#include "base/mem.h"

#define SHORT_WORD 32

static void look_up(const struct bpe *b, struct bpe_symbol *s, const struct bpe_symbol *next)
{
    const struct bpe_pair *p = bpe_find(b, s->id, next->id);

    s->rank = p ? p->rank : BPE_NONE;
    s->merged = p ? p->id : BPE_NONE;
}

static size_t merge_short(const struct bpe *b, struct bpe_symbol *s, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        look_up(b, &s[i], &s[i + 1]);
    s[n - 1].rank = BPE_NONE;
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (s[i].rank < s[best].rank)
                best = i;
        if (n < 2 || s[best].rank == BPE_NONE)
            return n;
        s[best].id = s[best].merged;
        s[best].len += s[best + 1].len;
        memmove(&s[best + 1], &s[best + 2], (n - best - 2) * sizeof *s);
        n--;
        if (best + 1 < n)
            look_up(b, &s[best], &s[best + 1]);
        else
            s[best].rank = BPE_NONE;
        if (best > 0)
            look_up(b, &s[best - 1], &s[best]);
    }
}

void bpe_queue_release(struct bpe_queue *q)
{
    for (size_t i = 0; i < q->made; i++) {
        mem_free(q->buckets[i].items);
        mem_free(q->buckets[i].late);
    }
    mem_free(q->buckets);
    mem_free(q->slots);
    mem_free(q->heap);
    memset(q, 0, sizeof *q);
}

static size_t slot_of(const struct bpe_queue *q, uint32_t rank)
{
    size_t i = (size_t)(rank * UINT32_C(0x9e3779b1)) & (q->slot_cap - 1);

    while (q->slots[i] != 0 && q->buckets[q->slots[i] - 1].rank != rank)
        i = (i + 1) & (q->slot_cap - 1);
    return i;
}

static bool grow_slots(struct bpe_queue *q)
{
    size_t cap = q->slot_cap ? q->slot_cap * 2 : 256;
    uint32_t *slots = mem_zarray(cap, sizeof *slots);

    if (!slots)
        return false;
    mem_free(q->slots);
    q->slots = slots;
    q->slot_cap = cap;
    for (size_t i = 0; i < q->used; i++)
        q->slots[slot_of(q, q->buckets[i].rank)] = (uint32_t)i + 1;
    return true;
}

static struct bpe_bucket *bucket_of(struct bpe_queue *q, uint32_t rank)
{
    struct bpe_bucket *b;
    size_t slot;

    if (2 * (q->used + 1) > q->slot_cap && !grow_slots(q))
        return NULL;
    slot = slot_of(q, rank);
    if (q->slots[slot] != 0)
        return &q->buckets[q->slots[slot] - 1];
    if (q->used == q->made) {
        if (!mem_grow(&q->buckets, &q->cap, q->made + 1, sizeof *q->buckets))
            return NULL;
        q->buckets[q->made++] = (struct bpe_bucket){0, false, NULL, 0, 0, 0, NULL, 0, 0};
    }
    b = &q->buckets[q->used++];
    b->rank = rank;
    b->queued = false;
    b->head = b->count = b->late_count = 0;
    q->slots[slot] = (uint32_t)q->used;
    return b;
}

static bool queue_rank(struct bpe_queue *q, struct bpe_bucket *b)
{
    uint64_t entry = (uint64_t)b->rank << 32 | (uint64_t)(b - q->buckets);
    size_t i = q->heap_count;

    if (!mem_grow(&q->heap, &q->heap_cap, i + 1, sizeof *q->heap))
        return false;
    for (q->heap_count++; i > 0 && q->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        q->heap[i] = q->heap[(i - 1) / 2];
    q->heap[i] = entry;
    b->queued = true;
    return true;
}

static void drop_lowest_rank(struct bpe_queue *q)
{
    uint64_t last = q->heap[--q->heap_count];
    size_t i = 0, n = q->heap_count;

    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && q->heap[child + 1] < q->heap[child])
            child++;
        if (q->heap[child] >= last)
            break;
        q->heap[i] = q->heap[child];
    }
    q->heap[i] = last;
}

static bool add_late(struct bpe_bucket *b, uint32_t pos)
{
    size_t i = b->late_count;

    if (!mem_grow(&b->late, &b->late_cap, i + 1, sizeof *b->late))
        return false;
    for (b->late_count++; i > 0 && b->late[(i - 1) / 2] > pos; i = (i - 1) / 2)
        b->late[i] = b->late[(i - 1) / 2];
    b->late[i] = pos;
    return true;
}

static uint32_t take_late(struct bpe_bucket *b)
{
    uint32_t first = b->late[0], last = b->late[--b->late_count];
    size_t i = 0, n = b->late_count;

    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && b->late[child + 1] < b->late[child])
            child++;
        if (b->late[child] >= last)
            break;
        b->late[i] = b->late[child];
    }
    if (n > 0)
        b->late[i] = last;
    return first;
}

static bool push(struct bpe_queue *q, uint32_t rank, uint32_t pos)
{
    struct bpe_bucket *b;

    if (rank == BPE_NONE)
        return true;
    b = bucket_of(q, rank);
    if (!b || (!b->queued && !queue_rank(q, b)))
        return false;
    if (b->head == b->count)
        b->head = b->count = 0;
    if (b->count > b->head && b->items[b->count - 1] > pos)
        return add_late(b, pos);
    if (!mem_grow(&b->items, &b->cap, b->count + 1, sizeof *b->items))
        return false;
    b->items[b->count++] = pos;
    return true;
}

/* The leftmost position of the lowest rank; false when the queue is empty. */
static bool pop(struct bpe_queue *q, uint32_t *rank, uint32_t *pos)
{
    while (q->heap_count > 0) {
        struct bpe_bucket *b = &q->buckets[q->heap[0] & UINT32_MAX];
        bool listed = b->head < b->count;
        *rank = b->rank;
        if (b->late_count > 0 && (!listed || b->late[0] < b->items[b->head])) {
            *pos = take_late(b);
            return true;
        }
        if (listed) {
            *pos = b->items[b->head++];
            return true;
        }
        b->queued = false;
        drop_lowest_rank(q);
    }
    return false;
}

/* Forgets the entries. The memory stays for the next word, but a table that one giant word made would cost
 * every later word its clearing. */
static void queue_clear(struct bpe_queue *q)
{
    if (q->slot_cap > 4096) {
        mem_free(q->slots);
        q->slots = NULL;
        q->slot_cap = 0;
    } else if (q->slot_cap > 0) {
        memset(q->slots, 0, q->slot_cap * sizeof *q->slots);
    }
    q->used = 0;
    q->heap_count = 0;
}

static bool merge_at(const struct bpe *b, struct bpe_queue *q, struct bpe_symbol *s, uint32_t pos)
{
    struct bpe_symbol *at = &s[pos], *right = &s[at->next];

    at->id = at->merged;
    at->len += right->len;
    right->len = 0;
    at->next = right->next;
    at->rank = BPE_NONE;
    if (at->next != BPE_NONE) {
        s[at->next].prev = pos;
        look_up(b, at, &s[at->next]);
    }
    if (at->prev != BPE_NONE) {
        look_up(b, &s[at->prev], at);
        if (!push(q, s[at->prev].rank, at->prev))
            return false;
    }
    return push(q, at->rank, pos);
}

static size_t merge_long(const struct bpe *b, struct bpe_queue *q, struct bpe_symbol *s, size_t n)
{
    uint32_t rank, pos;
    size_t kept = 0;
    bool ok = true;

    for (size_t i = 0; ok && i < n; i++) {
        s[i].prev = i > 0 ? (uint32_t)i - 1 : BPE_NONE;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : BPE_NONE;
        s[i].rank = BPE_NONE;
        if (i + 1 < n)
            look_up(b, &s[i], &s[i + 1]);
        ok = push(q, s[i].rank, (uint32_t)i);
    }
    /* An entry whose pair has changed since is passed over: its rank is not the pair's any more. */
    while (ok && pop(q, &rank, &pos))
        if (s[pos].len > 0 && s[pos].rank == rank)
            ok = merge_at(b, q, s, pos);
    queue_clear(q);
    if (!ok)
        return SIZE_MAX;
    for (size_t i = 0; i < n; i++)
        if (s[i].len > 0)
            s[kept++] = s[i];
    return kept;
}

size_t bpe_merge(const struct bpe *b, struct bpe_queue *q, struct bpe_symbol *symbols, size_t n)
{
    if (n < 2)
        return n;
    return n <= SHORT_WORD ? merge_short(b, symbols, n) : merge_long(b, q, symbols, n);
}
