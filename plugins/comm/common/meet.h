/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How the ranks of a group come together: meetings of all, boxes that carry messages of two, and faults on demand. The caller
 * moves the data. Every function that returns a status breaks the group if it fails for want of a rank.
 */
#ifndef COMM_COMMON_MEET_H
#define COMM_COMMON_MEET_H

#include "group.h"

/* Begins a meeting: this rank's place in it, to be filled with what it shows. */
struct shown *meet_begin(tn_comm_group *me);

/* What a rank shows in the meeting that the caller is in. */
struct shown *meet_shown(const tn_comm_group *me, uint32_t rank);

/* Returns when all have come to the meeting with the same call and sizes, which `mine` tells. */
int32_t meet_all(tn_comm_group *me, const struct shown *mine, uint32_t fault, tn_err *err);

/* What befalls this call (::fault_kind). Delays and stalls happen here, and a dead rank's call fails; drop and flip are for the
 * caller to act out. */
int32_t meet_fault(tn_comm_group *me, const char *call, uint32_t *kind, tn_err *err);

/* Breaks the group: `rank` (of the group) did `what` in a call. */
int32_t meet_fail(struct group *g, int32_t code, const char *call, uint64_t seq, uint32_t rank,
                  const char *what, tn_err *err);

/* Waits until the box of a message to or from `peer` is in that state. */
int32_t meet_box(tn_comm_group *me, struct box *box, uint32_t state, uint32_t peer,
                 const char *call, tn_err *err);

/* Takes an unread message back, or waits until it has been read: its memory is about to be the sender's again. */
void meet_withdraw(struct box *box);

uint64_t meet_deadline(const tn_comm_group *me); /* of a call that begins now; 0: none */
uint64_t meet_checksum(const unsigned char *data, uint64_t bytes);

/* TN_E_RANGE if there is no such peer; then the group's error. */
int32_t meet_check_peer(tn_comm_group *me, uint32_t peer, tn_err *err);

/* TN_E_UNSUPPORTED, or TN_E_RANGE if `parts` times `count` elements are too many. */
int32_t meet_check_dtype(const tn_comm_group *me, uint32_t dtype, uint64_t count, uint64_t parts,
                         tn_err *err);

#endif
