/* SPDX-License-Identifier: Apache-2.0 */
/* How other threads reach the step loop: a queue of tickets that want something. Tickets and loop share it, so a ticket
 * may outlive its loop: posting to a closed mailbox does nothing. */
#ifndef CORE_LOOP_MAILBOX_H
#define CORE_LOOP_MAILBOX_H

#include <stdbool.h>

#include "base/err.h"
#include "loop/ticket.h"

struct mailbox;

int32_t mailbox_new(struct mailbox **out, tn_err *err);
struct mailbox *mailbox_ref(struct mailbox *m);
void mailbox_unref(struct mailbox *m); /* NULL is allowed */

/* A request, and the ticket that will tell of it. */
struct submission {
    struct ticket *ticket;
    struct request *request;
};

/* Hands over requests, all at once: who takes the first finds the others behind it. False if the mailbox is closed, and
 * then they stay the caller's. */
bool mailbox_submit(struct mailbox *m, const struct submission *list, uint32_t n);

/* A ticket that was handed over wants something else. */
void mailbox_wish(struct mailbox *m, struct ticket *t, enum ticket_wish wish);

/* The oldest ticket and its wants; NULL if there is none. The caller takes over one reference to the ticket. */
struct ticket *mailbox_take(struct mailbox *m, struct request **request, enum ticket_wish *wish);

/* Waits until there is a ticket, mailbox_wake is called, or clock_ns() reaches `until_ns`. */
void mailbox_wait(struct mailbox *m, uint64_t until_ns);

/* No more posts; ends the current and all later waits. */
void mailbox_close(struct mailbox *m);
bool mailbox_closed(struct mailbox *m);

/* Requests posted and not taken. */
uint32_t mailbox_pending(struct mailbox *m);

#endif
