/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Groups over plain TCP, for hosts without MPI: every pair of ranks has a connection.
 *
 * The token of a group says where its ranks meet: whoever makes it listens, and a thread there hands everybody's address to
 * everybody. The token travels over the core's authenticated links, and has a key: who connects proves that it knows it
 * (SipHash-2-4 over a fresh number). What is sent afterwards is neither secret nor signed; this is for networks that
 * belong to the run.
 */
#ifndef TCP_TCP_H
#define TCP_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "tenon/comm.h"
#include "tenon/host.h"

#define MAX_RANKS 64
#define CHUNK (256u * 1024) /* bytes that each rank contributes to one round */
#define KEY_BYTES 16
#define NONCE_BYTES 16

struct address {
    uint16_t port;
    char hosts[222]; /* IPv4 addresses, separated by commas */
};

/* What a token holds. */
struct token {
    uint8_t key[KEY_BYTES];
    struct address at;
};

/* A place where ranks meet. */
struct meeting {
    struct meeting *next;
    struct tcp *t;
    struct token token;
    int listener;
    tn_thread *thread;
    _Atomic int end;
};

struct tcp {
    const tn_host *host;
    pthread_mutex_t lock; /* guards meetings */
    struct meeting *meetings;
};

struct peer {
    int fd;                  /* -1: oneself */
    uint64_t sent, received; /* messages */
};

struct tn_comm_group {
    struct tcp *t;
    uint32_t rank, n;
    uint32_t members[MAX_RANKS];
    struct peer peers[MAX_RANKS];
    uint64_t call_timeout_ns;
    unsigned char *gathered; /* [n][CHUNK] */
    _Atomic int32_t broken;
    pthread_mutex_t lock; /* guards why */
    tn_err why;
};

uint64_t tcp_now(const struct tcp *t);

/* wire.c: bytes with deadlines. Negative statuses: TN_E_TIMEOUT, TN_E_CLOSED, TN_E_IO. */
int wire_listen(uint16_t *port);
int wire_accept(int listener, const struct tcp *t, uint64_t until_ns);
int wire_connect(const struct address *a, const struct tcp *t, uint64_t until_ns);
int32_t wire_read(int fd, void *data, size_t n, const struct tcp *t, uint64_t until_ns);
int32_t wire_write(int fd, const void *data, size_t n, const struct tcp *t, uint64_t until_ns);
void wire_own_hosts(char *out, size_t size);
uint64_t wire_mac(const uint8_t key[KEY_BYTES], const void *data, size_t n);

/* Proves to the listening side that this one knows the key, or checks such a proof, over `n` bytes that go along. */
int32_t wire_prove(int fd, const uint8_t key[KEY_BYTES], const void *data, size_t n,
                   const struct tcp *t, uint64_t until_ns);
int32_t wire_check(int fd, const uint8_t key[KEY_BYTES], void *data, size_t n, const struct tcp *t,
                   uint64_t until_ns);

/* meet.c: joining and leaving; see tenon/comm.h. */
int32_t tcp_can_join(void *instance, uint32_t n_ranks, uint32_t n_local, tn_device *const *devices,
                     tn_err *err);
int32_t tcp_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err);
int32_t tcp_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err);
void tcp_leave(tn_comm_group *g);
void tcp_abort(tn_comm_group *g);
int32_t tcp_error(tn_comm_group *g, tn_err *err);
int32_t tcp_break(tn_comm_group *g, int32_t code, const char *msg, tn_err *err);
void tcp_end_meetings(struct tcp *t);

/* calls.c */
int32_t tcp_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err);
int32_t tcp_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err);
int32_t tcp_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                           uint32_t dtype, tn_stream *s, tn_err *err);
int32_t tcp_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                      tn_err *err);
int32_t tcp_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err);
int32_t tcp_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err);
int32_t tcp_barrier(tn_comm_group *g, tn_stream *s, tn_err *err);

#endif
