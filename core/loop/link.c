/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/link.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mem.h"

#define MAGIC UINT32_C(0x31464e54) /* "TNF1" */
#define NONCE_BYTES 16
/* A stranger, or a peer that stopped in the middle of a frame, is not waited for longer. */
#define HANDSHAKE_NS (5 * NS_PER_S)
#define STALL_NS (10 * NS_PER_S)

struct frame_head {
    uint32_t magic;
    uint16_t version, kind;
    uint64_t number, bytes;
};

struct link {
    int fd;
    char peer[80];
    uint8_t out_key[SECRET_KEY_BYTES], in_key[SECRET_KEY_BYTES];
    uint64_t sent, received; /* frames */
    uint8_t *buffer;
    size_t capacity;
};

/* -- Bytes ------------------------------------------------------------------------------------------------------ */

/* Waits for `events`; TN_E_TIMEOUT. */
static int32_t await(int fd, short events, uint64_t until_ns, tn_err *err)
{
    for (;;) {
        uint64_t now = clock_ns();
        uint64_t left = until_ns > now ? (until_ns - now) / NS_PER_MS + 1 : 0;
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, left > 1000 ? 1000 : (int)left);
        if (n > 0)
            return TN_OK;
        if (n < 0 && errno != EINTR)
            return err_errno(err, "wait for", "a peer", errno);
        if (clock_ns() >= until_ns)
            return tn_err_set(err, TN_E_TIMEOUT, "nothing came");
    }
}

static int32_t read_all(int fd, void *data, size_t n, uint64_t until_ns, tn_err *err)
{
    uint8_t *at = data;

    while (n > 0) {
        ssize_t got = recv(fd, at, n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return tn_err_set(err, TN_E_CLOSED, "the connection was closed");
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(err, "read from", "a peer", errno);
        if (got < 0) {
            int32_t rc = await(fd, POLLIN, until_ns, err);
            if (rc != TN_OK)
                return rc;
            continue;
        }
        at += got;
        n -= (size_t)got;
    }
    return TN_OK;
}

static int32_t write_all(int fd, const void *data, size_t n, uint64_t until_ns, tn_err *err)
{
    const uint8_t *at = data;

    while (n > 0) {
        ssize_t put = send(fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && (errno == EPIPE || errno == ECONNRESET))
            return tn_err_set(err, TN_E_CLOSED, "the connection was closed");
        if (put < 0 && errno != EAGAIN && errno != EINTR)
            return err_errno(err, "write to", "a peer", errno);
        if (put < 0) {
            int32_t rc = await(fd, POLLOUT, until_ns, err);
            if (rc != TN_OK)
                return rc;
            continue;
        }
        at += put;
        n -= (size_t)put;
    }
    return TN_OK;
}

/* -- Meeting ---------------------------------------------------------------------------------------------------- */

struct greeting {
    uint32_t magic;
    uint16_t version, reserved;
    uint8_t nonce[NONCE_BYTES];
};

/* Both send a fresh number, then a hash of both numbers that only who knows the key can make; the two differ, so that none
 * can be sent back. */
static int32_t shake_hands(struct link *l, const uint8_t key[SECRET_KEY_BYTES], bool server,
                           tn_err *err)
{
    uint64_t until = clock_ns() + HANDSHAKE_NS;
    struct greeting mine = {.magic = MAGIC, .version = LINK_VERSION}, theirs;
    uint8_t both[2 * NONCE_BYTES], proof[SECRET_MAC_BYTES], want[SECRET_MAC_BYTES];
    int32_t rc = secret_random(mine.nonce, sizeof mine.nonce, err);

    if (rc != TN_OK || (rc = write_all(l->fd, &mine, sizeof mine, until, err)) != TN_OK ||
        (rc = read_all(l->fd, &theirs, sizeof theirs, until, err)) != TN_OK)
        return rc;
    if (theirs.magic != MAGIC)
        return tn_err_set(err, TN_E_FORMAT, "%s does not speak our protocol", l->peer);
    if (theirs.version != LINK_VERSION)
        return tn_err_set(err, TN_E_VERSION, "%s speaks version %u of the protocol, this is %d",
                          l->peer, (unsigned)theirs.version, LINK_VERSION);
    memcpy(both, server ? mine.nonce : theirs.nonce, NONCE_BYTES);
    memcpy(both + NONCE_BYTES, server ? theirs.nonce : mine.nonce, NONCE_BYTES);
    secret_derive(key, server ? "server" : "client", both, sizeof both, proof);
    secret_derive(key, server ? "client" : "server", both, sizeof both, want);
    /* Who connects proves itself first, so that a stranger learns nothing. */
    if (!server && (rc = write_all(l->fd, proof, sizeof proof, until, err)) != TN_OK)
        return rc;
    uint8_t got[SECRET_MAC_BYTES];
    rc = read_all(l->fd, got, sizeof got, until, err);
    if (rc != TN_OK || !secret_equal(got, want))
        return tn_err_set(err, TN_E_REFUSED, "%s does not know the key of this run", l->peer);
    secret_derive(key, server ? "from server" : "from client", both, sizeof both, l->out_key);
    secret_derive(key, server ? "from client" : "from server", both, sizeof both, l->in_key);
    return server ? write_all(l->fd, proof, sizeof proof, until, err) : TN_OK;
}

static void name_peer(struct link *l)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;
    char host[64] = "?", port[8] = "?";

    if (getpeername(l->fd, (struct sockaddr *)&a, &n) == 0)
        getnameinfo((struct sockaddr *)&a, n, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(l->peer, sizeof l->peer, "%s:%s", host, port);
}

/* Takes the descriptor over, also on failure. */
static int32_t link_new(int fd, const uint8_t key[SECRET_KEY_BYTES], bool server, struct link **out,
                        tn_err *err)
{
    struct link *l = mem_zalloc(sizeof *l);
    int on = 1;
    int32_t rc;

    if (!l) {
        close(fd);
        return err_nomem(err, "a connection");
    }
    l->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    name_peer(l);
    rc = shake_hands(l, key, server, err);
    if (rc != TN_OK) {
        link_close(l);
        return rc;
    }
    *out = l;
    return TN_OK;
}

void link_finish(struct link *l, uint64_t until_ns)
{
    uint8_t unread[512];
    ssize_t got = 1;

    if (!l || shutdown(l->fd, SHUT_WR) != 0)
        return;
    while (got != 0 && await(l->fd, POLLIN, until_ns, NULL) == TN_OK) {
        got = recv(l->fd, unread, sizeof unread, MSG_DONTWAIT);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return;
    }
}

void link_close(struct link *l)
{
    if (!l)
        return;
    close(l->fd);
    mem_free(l->buffer);
    mem_free(l);
}

int32_t link_listen(const char *host, uint16_t *port, int *out, tn_err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    char service[8];
    int fd = -1, on = 1, e;

    snprintf(service, sizeof service, "%u", (unsigned)*port);
    if (!host)
        hints.ai_family = AF_INET;
    e = getaddrinfo(host, service, &hints, &list);
    if (e != 0)
        return tn_err_set(err, TN_E_NOTFOUND, "cannot find %s: %s", host ? host : "an address",
                          gai_strerror(e));
    fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    e = fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &n) != 0;
    freeaddrinfo(list);
    if (e) {
        e = errno;
        if (fd >= 0)
            close(fd);
        return err_errno(err, "listen on", host ? host : "all addresses", e);
    }
    *port = ntohs(bound.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&bound)->sin6_port
                                              : ((struct sockaddr_in *)&bound)->sin_port);
    *out = fd;
    return TN_OK;
}

int32_t link_accept(int listener, const uint8_t key[SECRET_KEY_BYTES], uint64_t until_ns,
                    struct link **out, tn_err *err)
{
    tn_err why = TN_ERR_INIT;

    for (;;) {
        int32_t rc = await(listener, POLLIN, until_ns, err);
        int fd;
        if (rc == TN_E_TIMEOUT && why.code != TN_OK)
            return tn_err_set(err, rc, "last turned away: %s", why.msg);
        if (rc != TN_OK)
            return rc;
        fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue; /* it has gone again */
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        rc = link_new(fd, key, true, out, &why);
        if (rc == TN_OK)
            return TN_OK;
        log_warn("turned a connection away: %s", why.msg);
    }
}

static int connect_once(const struct addrinfo *a, uint64_t until_ns)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t n = sizeof e;

    if (fd < 0)
        return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS && await(fd, POLLOUT, until_ns, NULL) == TN_OK &&
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) == 0 && e == 0)
        return fd;
    close(fd);
    return -1;
}

int32_t link_connect(const char *host, uint16_t port, const uint8_t key[SECRET_KEY_BYTES],
                     uint64_t until_ns, struct link **out, tn_err *err)
{
    const struct timespec pause = {0, 50 * 1000 * 1000};
    struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *list = NULL;
    char service[8];
    int fd = -1, e;

    snprintf(service, sizeof service, "%u", (unsigned)port);
    e = getaddrinfo(host, service, &hints, &list);
    if (e != 0)
        return tn_err_set(err, TN_E_NOTFOUND, "cannot find %s: %s", host, gai_strerror(e));
    while (fd < 0) {
        uint64_t soon = clock_ns() + 2 * NS_PER_S;
        for (const struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
            fd = connect_once(a, soon < until_ns ? soon : until_ns);
        if (fd < 0 && clock_ns() >= until_ns)
            break;
        if (fd < 0)
            nanosleep(&pause, NULL);
    }
    freeaddrinfo(list);
    if (fd < 0)
        return tn_err_set(err, TN_E_TIMEOUT, "nobody answers at %s:%u", host, (unsigned)port);
    return link_new(fd, key, false, out, err);
}

/* -- Frames ----------------------------------------------------------------------------------------------------- */

int32_t link_send(struct link *l, uint16_t kind, const void *data, uint64_t bytes, tn_err *err)
{
    struct frame_head h = {MAGIC, LINK_VERSION, kind, l->sent++, bytes};
    uint8_t mac[SECRET_MAC_BYTES];
    uint64_t until = clock_ns() + STALL_NS;
    int32_t rc;

    secret_mac(l->out_key, &h, sizeof h, data, (size_t)bytes, mac);
    rc = write_all(l->fd, &h, sizeof h, until, err);
    if (rc == TN_OK && bytes > 0)
        rc = write_all(l->fd, data, (size_t)bytes, until, err);
    return rc == TN_OK ? write_all(l->fd, mac, sizeof mac, until, err) : rc;
}

static int32_t check_head(const struct link *l, const struct frame_head *h, tn_err *err)
{
    if (h->magic != MAGIC)
        return tn_err_set(err, TN_E_FORMAT, "%s sent something that is no frame", l->peer);
    if (h->version != LINK_VERSION)
        return tn_err_set(err, TN_E_VERSION, "%s sent a frame of version %u, this is %d", l->peer,
                          (unsigned)h->version, LINK_VERSION);
    if (h->bytes > LIMIT_FRAME_BYTES)
        return tn_err_set(err, TN_E_LIMIT, "%s sent a frame of %" PRIu64 " bytes", l->peer,
                          h->bytes);
    if (h->number != l->received)
        return tn_err_set(err, TN_E_FORMAT, "%s sent frame %" PRIu64 " in the place of %" PRIu64,
                          l->peer, h->number, l->received);
    return TN_OK;
}

int32_t link_recv(struct link *l, uint64_t until_ns, uint16_t *kind, const uint8_t **data,
                  uint64_t *bytes, tn_err *err)
{
    uint8_t mac[SECRET_MAC_BYTES], want[SECRET_MAC_BYTES];
    struct frame_head h;
    uint64_t until;
    int32_t rc = await(l->fd, POLLIN, until_ns, err);

    if (rc != TN_OK)
        return rc;
    until = clock_ns() + STALL_NS;
    if ((rc = read_all(l->fd, &h, sizeof h, until, err)) != TN_OK ||
        (rc = check_head(l, &h, err)) != TN_OK)
        return rc == TN_E_TIMEOUT ? TN_E_CLOSED : rc;
    if (!mem_grow(&l->buffer, &l->capacity, (size_t)h.bytes + 1, 1))
        return err_nomem(err, "a frame");
    if ((rc = read_all(l->fd, l->buffer, (size_t)h.bytes, until, err)) != TN_OK ||
        (rc = read_all(l->fd, mac, sizeof mac, until, err)) != TN_OK)
        return rc == TN_E_TIMEOUT ? TN_E_CLOSED : rc;
    secret_mac(l->in_key, &h, sizeof h, l->buffer, (size_t)h.bytes, want);
    if (!secret_equal(mac, want))
        return tn_err_set(err, TN_E_FORMAT, "a frame from %s was changed on its way", l->peer);
    l->received++;
    *kind = h.kind;
    *data = l->buffer;
    *bytes = h.bytes;
    return TN_OK;
}

const char *link_peer(const struct link *l)
{
    return l->peer;
}

int link_fd(const struct link *l)
{
    return l->fd;
}

int32_t link_own_addresses(char *out, size_t size, tn_err *err)
{
    struct ifaddrs *list = NULL;
    size_t n = (size_t)snprintf(out, size, "127.0.0.1");

    if (getifaddrs(&list) != 0)
        return err_errno(err, "list", "the addresses of this host", errno);
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        char text[INET_ADDRSTRLEN];
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET)
            continue;
        inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)a->ifa_addr)->sin_addr, text,
                  sizeof text);
        if (strcmp(text, "127.0.0.1") != 0 && n + strlen(text) + 2 < size)
            n += (size_t)snprintf(out + n, size - n, ",%s", text);
    }
    freeifaddrs(list);
    return TN_OK;
}
