/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets with deadlines, and SipHash-2-4 (Aumasson & Bernstein 2012). Any thread, one per socket. */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>

#include "tcp.h"

uint64_t tcp_now(const struct tcp *t)
{
    return t->host->now_ns(t->host->ctx);
}

static int32_t await(int fd, short events, const struct tcp *t, uint64_t until_ns)
{
    for (;;) {
        uint64_t now = tcp_now(t);
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, now < until_ns ? (int)((until_ns - now) / 1000000 % 1000 + 1) : 0);
        if (n > 0)
            return TN_OK;
        if (n < 0 && errno != EINTR)
            return TN_E_IO;
        if (tcp_now(t) >= until_ns)
            return TN_E_TIMEOUT;
    }
}

static void tune(int fd)
{
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
}

int wire_listen(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -1;
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, MAX_RANKS) != 0 ||
        getsockname(fd, (struct sockaddr *)&a, &n) != 0) {
        close(fd);
        return -1;
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    *port = ntohs(a.sin_port);
    return fd;
}

int wire_accept(int listener, const struct tcp *t, uint64_t until_ns)
{
    while (await(listener, POLLIN, t, until_ns) == TN_OK) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0) {
            tune(fd);
            return fd;
        }
    }
    return -1;
}

static int connect_to(const char *host, uint16_t port, const struct tcp *t, uint64_t until_ns)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), e = 0;
    socklen_t n = sizeof e;

    if (fd < 0)
        return -1;
    tune(fd);
    if (inet_pton(AF_INET, host, &a.sin_addr) == 1 &&
        (connect(fd, (struct sockaddr *)&a, sizeof a) == 0 ||
         (errno == EINPROGRESS && await(fd, POLLOUT, t, until_ns) == TN_OK &&
          getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n) == 0 && e == 0)))
        return fd;
    close(fd);
    return -1;
}

int wire_connect(const struct address *a, const struct tcp *t, uint64_t until_ns)
{
    char hosts[sizeof a->hosts + 1], *save = NULL;
    int fd = -1;

    memcpy(hosts, a->hosts, sizeof a->hosts);
    hosts[sizeof a->hosts] = '\0';
    for (char *h = strtok_r(hosts, ",", &save); h && fd < 0; h = strtok_r(NULL, ",", &save)) {
        uint64_t soon = tcp_now(t) + 1000000000u;
        fd = connect_to(h, a->port, t, soon < until_ns ? soon : until_ns);
    }
    return fd;
}

int32_t wire_read(int fd, void *data, size_t n, const struct tcp *t, uint64_t until_ns)
{
    unsigned char *at = data;

    while (n > 0) {
        ssize_t got = recv(fd, at, n, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return TN_E_CLOSED;
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            return TN_E_IO;
        if (got < 0) {
            int32_t rc = await(fd, POLLIN, t, until_ns);
            if (rc != TN_OK)
                return rc;
            continue;
        }
        at += got;
        n -= (size_t)got;
    }
    return TN_OK;
}

int32_t wire_write(int fd, const void *data, size_t n, const struct tcp *t, uint64_t until_ns)
{
    const unsigned char *at = data;

    while (n > 0) {
        ssize_t put = send(fd, at, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0 && (errno == EPIPE || errno == ECONNRESET))
            return TN_E_CLOSED;
        if (put < 0 && errno != EAGAIN && errno != EINTR)
            return TN_E_IO;
        if (put < 0) {
            int32_t rc = await(fd, POLLOUT, t, until_ns);
            if (rc != TN_OK)
                return rc;
            continue;
        }
        at += put;
        n -= (size_t)put;
    }
    return TN_OK;
}

void wire_own_hosts(char *out, size_t size)
{
    struct ifaddrs *list = NULL;
    size_t n = (size_t)snprintf(out, size, "127.0.0.1");

    if (getifaddrs(&list) != 0)
        return;
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
}

/* -- Proofs ------------------------------------------------------------------------------------------------- */

static uint64_t rotl(uint64_t x, int b)
{
    return (x << b) | (x >> (64 - b));
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotl(v[1], 13) ^ v[0];
    v[0] = rotl(v[0], 32);
    v[2] += v[3];
    v[3] = rotl(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotl(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotl(v[1], 17) ^ v[2];
    v[2] = rotl(v[2], 32);
}

uint64_t wire_mac(const uint8_t key[KEY_BYTES], const void *data, size_t n)
{
    const unsigned char *at = data;
    uint64_t k[2], v[4], word;
    size_t left = n;

    memcpy(k, key, sizeof k);
    v[0] = k[0] ^ UINT64_C(0x736f6d6570736575);
    v[1] = k[1] ^ UINT64_C(0x646f72616e646f6d);
    v[2] = k[0] ^ UINT64_C(0x6c7967656e657261);
    v[3] = k[1] ^ UINT64_C(0x7465646279746573);
    for (;; at += 8, left -= 8) {
        word = left < 8 ? (uint64_t)n << 56 : 0;
        memcpy(&word, at, left < 8 ? left : 8);
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
        if (left < 8)
            break;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

#define MAX_PROVED 512

int32_t wire_prove(int fd, const uint8_t key[KEY_BYTES], const void *data, size_t n,
                   const struct tcp *t, uint64_t until_ns)
{
    uint8_t both[NONCE_BYTES + MAX_PROVED];
    uint64_t mac;
    int32_t rc = wire_read(fd, both, NONCE_BYTES, t, until_ns);

    if (rc != TN_OK)
        return rc;
    memcpy(both + NONCE_BYTES, data, n);
    mac = wire_mac(key, both, NONCE_BYTES + n);
    rc = wire_write(fd, data, n, t, until_ns);
    return rc == TN_OK ? wire_write(fd, &mac, sizeof mac, t, until_ns) : rc;
}

int32_t wire_check(int fd, const uint8_t key[KEY_BYTES], void *data, size_t n, const struct tcp *t,
                   uint64_t until_ns)
{
    uint8_t both[NONCE_BYTES + MAX_PROVED];
    uint64_t mac = 0;
    int32_t rc;

    if (getrandom(both, NONCE_BYTES, 0) != NONCE_BYTES)
        return TN_E_IO;
    if ((rc = wire_write(fd, both, NONCE_BYTES, t, until_ns)) != TN_OK ||
        (rc = wire_read(fd, both + NONCE_BYTES, n, t, until_ns)) != TN_OK ||
        (rc = wire_read(fd, &mac, sizeof mac, t, until_ns)) != TN_OK)
        return rc;
    if (mac != wire_mac(key, both, NONCE_BYTES + n))
        return TN_E_REFUSED;
    memcpy(data, both + NONCE_BYTES, n);
    return TN_OK;
}
