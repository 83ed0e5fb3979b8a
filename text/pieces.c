/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of text (pieces.h). One thread at a time. */
#include "pieces.h"

#include "base/mem.h"

void pieces_begin(struct pieces *p, const char *text, size_t len)
{
    p->text = text;
    p->len = len;
    p->changed = false;
    p->failed = false;
    nstr_clear(&p->now);
    nstr_clear(&p->next);
    p->list.count = p->next_list.count = 0;
    pieces_put(p, (struct piece){0, (uint32_t)len, 0, PIECE_PLAIN, {0, 0}});
    pieces_swap_list(p);
}

void pieces_release(struct pieces *p)
{
    nstr_release(&p->now);
    nstr_release(&p->next);
    mem_free(p->list.items);
    mem_free(p->next_list.items);
    memset(p, 0, sizeof *p);
}

void pieces_put(struct pieces *p, struct piece x)
{
    struct piece_list *l = &p->next_list;

    if (x.id == PIECE_PLAIN && x.begin == x.end)
        return;
    if (l->count == l->cap && !mem_grow(&l->items, &l->cap, l->count + 1, sizeof *l->items)) {
        p->failed = true;
        return;
    }
    l->items[l->count++] = x;
}

void pieces_put_part(struct pieces *p, size_t begin, size_t end)
{
    if (begin < end)
        pieces_put(
            p, (struct piece){
                   (uint32_t)begin, (uint32_t)end, pieces_origin(p, begin), PIECE_PLAIN, {0, 0}});
}

void pieces_swap_list(struct pieces *p)
{
    struct piece_list l = p->list;

    p->list = p->next_list;
    p->next_list = l;
    p->next_list.count = 0;
}

void pieces_swap_text(struct pieces *p)
{
    struct nstr s = p->now;

    p->now = p->next;
    p->next = s;
    nstr_clear(&p->next);
    p->failed = p->failed || p->now.failed;
    p->text = p->now.text ? p->now.text : "";
    p->len = p->now.len;
    p->changed = true;
    pieces_swap_list(p);
}

struct nview pieces_view(struct pieces *p, const struct piece *x, struct nstr *spare)
{
    size_t n = x->end - x->begin;

    if (p->changed)
        return (struct nview){p->now.text + x->begin, p->now.align + x->begin, n};
    nstr_clear(spare);
    nstr_put_input(spare, p->text + x->begin, n, x->begin);
    p->failed = p->failed || spare->failed;
    return (struct nview){spare->text, spare->align, spare->failed ? 0 : n};
}
