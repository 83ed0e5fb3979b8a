/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Collectives and messages over the mesh. Everything is one exchange: with each peer, bytes to send and bytes to receive, all
 * at once and without blocking, so that no order of ranks can deadlock. Every message has a head that says what it
 * is; both sides must mean the same. Sums go in rank order.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "../common/sum.h"
#include "tcp.h"

struct head {
    char call[16];
    uint64_t number, bytes;
};

struct flow {
    const unsigned char *out;
    unsigned char *in;
    uint64_t out_bytes, in_bytes;
    bool sends, receives;
    struct head mine, theirs;
    uint64_t number;   /* of the message that is due */
    uint64_t put, got; /* bytes of head and body */
};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool sent(const struct flow *f)
{
    return !f->sends || f->put == sizeof f->mine + f->out_bytes;
}

static bool received(const struct flow *f)
{
    return !f->receives || f->got == sizeof f->theirs + f->in_bytes;
}

static int32_t blame(tn_comm_group *g, int32_t code, const char *call, uint32_t r, const char *what,
                     tn_err *err)
{
    char msg[200];

    snprintf(msg, sizeof msg, "tcp: %s: rank %u %s", call, (unsigned)g->members[r], what);
    return tcp_break(g, code, msg, err);
}

/* Sends what the socket takes. False: the peer is gone. */
static bool push(int fd, struct flow *f)
{
    while (!sent(f)) {
        bool head = f->put < sizeof f->mine;
        const char *from = head ? (const char *)&f->mine + f->put
                                : (const char *)f->out + (f->put - sizeof f->mine);
        uint64_t n = head ? sizeof f->mine - f->put : sizeof f->mine + f->out_bytes - f->put;
        ssize_t put = send(fd, from, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0)
            return errno == EAGAIN || errno == EINTR;
        f->put += (uint64_t)put;
    }
    return true;
}

/* Receives what has come. TN_E_CLOSED, or TN_E_COMM if it is another message than the one expected. */
static int32_t pull(int fd, struct flow *f)
{
    while (!received(f)) {
        bool head = f->got < sizeof f->theirs;
        char *to = head ? (char *)&f->theirs + f->got : (char *)f->in + (f->got - sizeof f->theirs);
        uint64_t n = head ? sizeof f->theirs - f->got : sizeof f->theirs + f->in_bytes - f->got;
        ssize_t got = recv(fd, to, n, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return TN_OK;
        if (got <= 0)
            return TN_E_CLOSED;
        f->got += (uint64_t)got;
        if (head && f->got == sizeof f->theirs &&
            (memcmp(f->theirs.call, f->mine.call, sizeof f->mine.call) != 0 ||
             f->theirs.number != f->number || f->theirs.bytes != f->in_bytes))
            return TN_E_COMM;
    }
    return TN_OK;
}

/* One look at all peers. *left is what remains to be done. */
static int32_t turn(tn_comm_group *g, struct flow *flows, const char *call, uint32_t *left,
                    tn_err *err)
{
    struct pollfd fds[MAX_RANKS];

    *left = 0;
    for (uint32_t r = 0; r < g->n; r++) {
        struct flow *f = &flows[r];
        int32_t rc = TN_OK;
        fds[r] = (struct pollfd){.fd = -1};
        if (sent(f) && received(f))
            continue;
        if (!push(g->peers[r].fd, f))
            rc = TN_E_CLOSED;
        if (rc == TN_OK)
            rc = pull(g->peers[r].fd, f);
        if (rc != TN_OK && atomic_load(&g->broken) != TN_OK)
            return tcp_error(g, err);
        if (rc != TN_OK)
            return blame(g, TN_E_COMM, call, r,
                         rc == TN_E_CLOSED ? "is gone" : "came to another call, or another size",
                         err);
        if (sent(f) && received(f))
            continue;
        ++*left;
        fds[r].fd = g->peers[r].fd;
        fds[r].events = (short)((sent(f) ? 0 : POLLOUT) | (received(f) ? 0 : POLLIN));
    }
    if (*left)
        poll(fds, g->n, 20);
    return TN_OK;
}

static int32_t exchange(tn_comm_group *g, struct flow *flows, const char *call, tn_err *err)
{
    uint64_t until = g->call_timeout_ns ? tcp_now(g->t) + g->call_timeout_ns : UINT64_MAX;
    uint32_t left = 0;
    char late[64];
    int32_t rc;

    for (uint32_t r = 0; r < g->n; r++) {
        struct flow *f = &flows[r];
        /* On both sides a message is called what its sender calls it. */
        snprintf(f->mine.call, sizeof f->mine.call, "%s",
                 strcmp(call, "recv") == 0 ? "send" : call);
        f->mine.bytes = f->out_bytes;
        f->mine.number = g->peers[r].sent;
        f->number = g->peers[r].received;
        g->peers[r].sent += f->sends;
        g->peers[r].received += f->receives;
    }
    do {
        rc = tcp_error(g, err);
        if (rc == TN_OK)
            rc = turn(g, flows, call, &left, err);
    } while (rc == TN_OK && left > 0 && tcp_now(g->t) < until);
    if (rc != TN_OK || left == 0)
        return rc;
    snprintf(late, sizeof late, "has not come within %llu ms",
             (unsigned long long)(g->call_timeout_ns / 1000000));
    for (uint32_t r = 0; r < g->n; r++)
        if (!sent(&flows[r]) || !received(&flows[r]))
            return blame(g, TN_E_TIMEOUT, call, r, late, err);
    return TN_OK;
}

/* Shows `bytes` bytes to all and gets as many from each, into g->gathered. */
static int32_t gather(tn_comm_group *g, const void *send, uint64_t bytes, const char *call,
                      tn_err *err)
{
    struct flow flows[MAX_RANKS];

    memset(flows, 0, sizeof flows);
    for (uint32_t r = 0; r < g->n; r++)
        if (r != g->rank)
            flows[r] = (struct flow){.out = send,
                                     .in = g->gathered + r * bytes,
                                     .out_bytes = bytes,
                                     .in_bytes = bytes,
                                     .sends = true,
                                     .receives = true};
    if (bytes > 0)
        memcpy(g->gathered + g->rank * bytes, send, bytes);
    return exchange(g, flows, call, err);
}

static int32_t check_dtype(uint32_t dtype, tn_err *err)
{
    return COMM_SUM_DTYPES & TN_DT_BIT(dtype)
               ? TN_OK
               : tn_err_set(err, TN_E_UNSUPPORTED, "tcp: cannot sum %s", tn_dtype_name(dtype));
}

static void sum(const tn_comm_group *g, uint64_t stride, void *recv, uint64_t count, uint32_t dtype)
{
    const void *src[MAX_RANKS];

    for (uint32_t r = 0; r < g->n; r++)
        src[r] = g->gathered + r * stride;
    comm_sum(recv, src, g->n, count, dtype);
}

int32_t tcp_all_reduce(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, at = 0, some;
    int32_t rc = check_dtype(dtype, err);

    (void)s;
    for (; rc == TN_OK && at < count * size; at += some) {
        some = least(CHUNK, count * size - at);
        rc = gather(g, (const char *)send + at, some, "all_reduce", err);
        if (rc == TN_OK)
            sum(g, some, (char *)recv + at, some / size, dtype);
    }
    return rc;
}

int32_t tcp_all_gather(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                       uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8, at = 0, some;
    int32_t rc = TN_OK;

    (void)s;
    for (; rc == TN_OK && at < bytes; at += some) {
        some = least(CHUNK, bytes - at);
        rc = gather(g, (const char *)send + at, some, "all_gather", err);
        for (uint32_t r = 0; r < g->n && rc == TN_OK; r++)
            memcpy((char *)recv + r * bytes + at, g->gathered + r * some, some);
    }
    return rc;
}

int32_t tcp_reduce_scatter(tn_comm_group *g, const void *send, void *recv, uint64_t count,
                           uint32_t dtype, tn_stream *s, tn_err *err)
{
    uint64_t size = tn_dtype_bits(dtype) / 8, bytes = count * size, at = 0, some;
    int32_t rc = check_dtype(dtype, err);

    (void)s;
    for (; rc == TN_OK && at < bytes; at += some) {
        struct flow flows[MAX_RANKS];
        some = least(CHUNK, bytes - at);
        memset(flows, 0, sizeof flows);
        for (uint32_t r = 0; r < g->n; r++)
            if (r != g->rank)
                flows[r] = (struct flow){.out = (const unsigned char *)send + r * bytes + at,
                                         .in = g->gathered + r * some,
                                         .out_bytes = some,
                                         .in_bytes = some,
                                         .sends = true,
                                         .receives = true};
        memcpy(g->gathered + g->rank * some, (const char *)send + g->rank * bytes + at, some);
        rc = exchange(g, flows, "reduce_scatter", err);
        if (rc == TN_OK)
            sum(g, some, (char *)recv + at, some / size, dtype);
    }
    return rc;
}

/* Moves bytes one way: to `to`, or from `from`; MAX_RANKS is nobody, n is everybody. */
static int32_t one_way(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t to, uint32_t from,
                       const char *call, tn_err *err)
{
    struct flow flows[MAX_RANKS];

    memset(flows, 0, sizeof flows);
    for (uint32_t r = 0; r < g->n; r++) {
        if (r == g->rank)
            continue;
        if (r == to || to == g->n)
            flows[r] = (struct flow){.out = buf, .out_bytes = bytes, .sends = true};
        if (r == from)
            flows[r] = (struct flow){.in = buf, .in_bytes = bytes, .receives = true};
    }
    return exchange(g, flows, call, err);
}

int32_t tcp_broadcast(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t root, tn_stream *s,
                      tn_err *err)
{
    (void)s;
    if (root >= g->n)
        return tn_err_set(err, TN_E_RANGE, "tcp: there is no rank %u", (unsigned)root);
    return root == g->rank ? one_way(g, buf, bytes, g->n, MAX_RANKS, "broadcast", err)
                           : one_way(g, buf, bytes, MAX_RANKS + 1, root, "broadcast", err);
}

static int32_t check_peer(const tn_comm_group *g, uint32_t peer, tn_err *err)
{
    return peer < g->n && peer != g->rank
               ? TN_OK
               : tn_err_set(err, TN_E_RANGE, "tcp: rank %u cannot reach rank %u", (unsigned)g->rank,
                            (unsigned)peer);
}

int32_t tcp_send(tn_comm_group *g, const void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    (void)s;
    return rc == TN_OK ? one_way(g, (void *)(uintptr_t)buf, bytes, peer, MAX_RANKS + 1, "send", err)
                       : rc;
}

int32_t tcp_recv(tn_comm_group *g, void *buf, uint64_t bytes, uint32_t peer, tn_stream *s,
                 tn_err *err)
{
    int32_t rc = check_peer(g, peer, err);

    (void)s;
    return rc == TN_OK ? one_way(g, buf, bytes, MAX_RANKS + 1, peer, "recv", err) : rc;
}

int32_t tcp_barrier(tn_comm_group *g, tn_stream *s, tn_err *err)
{
    (void)s;
    return gather(g, g->gathered, 0, "barrier", err);
}
