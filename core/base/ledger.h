/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The byte ledger: every large block of memory, host or device, is booked to an owner ("weights", "kv",
 * "plugin cpu"). It answers "where did the memory go" and proves that unloading gave all of it back.
 * Thread-safe. The ledger holds counters only; memory is allocated by whoever books it.
 */
#ifndef CORE_BASE_LEDGER_H
#define CORE_BASE_LEDGER_H

#include <stdint.h>

#include "base/err.h"

struct ledger;
struct ledger_owner; /* lives as long as the ledger */

struct ledger_line {
    const char *owner; /* valid as long as the ledger */
    const char *place; /* "host", "cpu:0", "cuda:1" */
    uint64_t bytes;
    uint64_t peak;
};

int32_t ledger_new(struct ledger **out, tn_err *err);
void ledger_free(struct ledger *l); /* NULL is allowed */

/* The owner of that name and place; made on first use. */
int32_t ledger_owner(struct ledger *l, const char *owner, const char *place,
                     struct ledger_owner **out, tn_err *err);

void ledger_take(struct ledger_owner *o, uint64_t bytes);
void ledger_give(struct ledger_owner *o, uint64_t bytes);

/* Bytes booked now, over all owners. */
uint64_t ledger_total(struct ledger *l);

/* Copies up to `max` lines, in order of creation; returns how many owners there are. */
uint32_t ledger_list(struct ledger *l, struct ledger_line *lines, uint32_t max);

#endif
