/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An authenticated connection between two processes of a run: frames over TCP. Both sides prove that they know the shared key
 * before anything else is read; every frame carries a keyed hash over its header, its number and its bytes, with a key of
 * that connection and direction. Nothing is secret, but nobody else's bytes are ever acted upon.
 *
 *   frame:  magic "TNF1", version u16, kind u16, number u64, bytes u64, then the bytes, then the hash [32]
 *
 * All numbers little-endian. A link is used by one thread for sending and one for receiving.
 */
#ifndef CORE_LOOP_LINK_H
#define CORE_LOOP_LINK_H

#include <stdbool.h>

#include "base/secret.h"

#define LINK_VERSION 1

struct link;

/* Listens on host:port; port 0 takes any, and *port tells which. `host` NULL: all addresses. */
int32_t link_listen(const char *host, uint16_t *port, int *out, tn_err *err);

/* Takes the next connection of somebody who knows the key. TN_E_TIMEOUT at `until_ns`; strangers, and who speaks another
 * version, are logged and turned away, and do not end the wait, for anybody can send a number. The message of the timeout tells
 * of the last of them. */
int32_t link_accept(int listener, const uint8_t key[SECRET_KEY_BYTES], uint64_t until_ns,
                    struct link **out, tn_err *err);

/* Connects, trying again until `until_ns`: the other side may not have begun to listen. */
int32_t link_connect(const char *host, uint16_t port, const uint8_t key[SECRET_KEY_BYTES],
                     uint64_t until_ns, struct link **out, tn_err *err);

/* Sends no more, and waits until the other side has closed, or until `until_ns`. Who closes at once while frames of the other
 * side are unread makes the system reset the connection, and what was sent last may be lost. NULL is allowed. */
void link_finish(struct link *l, uint64_t until_ns);
void link_close(struct link *l); /* NULL is allowed */

int32_t link_send(struct link *l, uint16_t kind, const void *data, uint64_t bytes, tn_err *err);

/* The next frame, whose bytes stay valid until the next call. TN_E_TIMEOUT at `until_ns` if none has begun to arrive;
 * TN_E_CLOSED when the other side is gone; TN_E_FORMAT and TN_E_VERSION for what is no frame of ours. */
int32_t link_recv(struct link *l, uint64_t until_ns, uint16_t *kind, const uint8_t **data,
                  uint64_t *bytes, tn_err *err);

/* "192.0.2.7:41234" */
const char *link_peer(const struct link *l);
int link_fd(const struct link *l);

/* Bytes of the listener's own addresses, as texts separated by commas. */
int32_t link_own_addresses(char *out, size_t size, tn_err *err);

#endif
