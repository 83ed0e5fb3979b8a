/* SPDX-License-Identifier: Apache-2.0 */
/* The device memory of a binding: one list, every block booked to its owner, all freed together. */
#include "exec/bound.h"

static int32_t alloc(struct binding *b, struct ledger_owner *owner, uint64_t bytes, void *borrowed,
                     void **out, tn_err *err)
{
    struct device_block *block = arena_alloc(&b->arena, sizeof *block);
    int32_t rc;

    if (!block)
        return err_nomem(err, "device memory");
    if (b->o.count)
        block->ptr = block; /* any address that is not NULL */
    else if (borrowed)
        block->ptr = borrowed;
    else if ((rc = b->o.api->mem_alloc(b->o.device, bytes ? bytes : 1, &block->ptr, err)) != TN_OK)
        return rc;
    block->borrowed = borrowed != NULL;
    block->owner = owner;
    block->bytes = bytes;
    block->next = b->blocks;
    b->blocks = block;
    ledger_take(owner, bytes);
    *out = block->ptr;
    return TN_OK;
}

int32_t bound_alloc(struct binding *b, struct ledger_owner *owner, uint64_t bytes, void **out,
                    tn_err *err)
{
    return alloc(b, owner, bytes, NULL, out, err);
}

int32_t bound_alloc_shared(struct binding *b, struct ledger_owner *owner, uint64_t bytes,
                           uint64_t layout, void **out, tn_err *err)
{
    void *borrowed = NULL;
    int32_t rc = b->o.count || b->o.dry || !b->o.comm
                     ? TN_OK
                     : comm_memory(b->o.comm, bytes, layout, &borrowed, err);

    return rc == TN_OK ? alloc(b, owner, bytes, borrowed, out, err) : rc;
}

void bound_free_all(struct binding *b)
{
    for (struct device_block *block = b->blocks; block; block = block->next) {
        if (!b->o.count && !block->borrowed)
            b->o.api->mem_free(b->o.device, block->ptr);
        ledger_give(block->owner, block->bytes);
    }
    b->blocks = NULL;
}

int32_t bound_open_owners(struct binding *b, tn_err *err)
{
    struct ledger *l = b->o.ledger;
    int32_t rc;

    if ((rc = ledger_owner(l, "weights", b->o.place, &b->own_weights, err)) != TN_OK ||
        (rc = ledger_owner(l, "activations", b->o.place, &b->own_buffers, err)) != TN_OK ||
        (rc = ledger_owner(l, "workspace", b->o.place, &b->own_workspace, err)) != TN_OK)
        return rc;
    return ledger_owner(l, "kv cache", b->o.place, &b->own_kv, err);
}
