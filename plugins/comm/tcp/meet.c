/* SPDX-License-Identifier: Apache-2.0 */
/* How ranks meet: each listens, tells the meeting where, and gets everybody's place; then the higher of two ranks connects to the
 * lower. The meeting's thread ends when all have come, or with the plugin. */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tcp.h"

#define NS_PER_S 1000000000u
#define GREET_NS (5 * (uint64_t)NS_PER_S)

struct hello {
    uint32_t rank, n;
    struct address at;
};

TN_STATIC_ASSERT(sizeof(struct token) <= TN_COMM_ID_BYTES, "a token fits");

/* -- The meeting -------------------------------------------------------------------------------------------- */

static void hand_out(const struct tcp *t, const int *fds, const struct hello *hellos, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t until = tcp_now(t) + GREET_NS;
        for (uint32_t k = 0; k < n; k++)
            if (wire_write(fds[i], &hellos[k].at, sizeof hellos[k].at, t, until) != TN_OK)
                break;
    }
}

static void meeting_main(void *arg)
{
    struct meeting *m = arg;
    struct hello hellos[MAX_RANKS], h;
    int fds[MAX_RANKS];
    uint32_t n = 0, came = 0;

    memset(fds, 0xff, sizeof fds);
    while (!atomic_load(&m->end) && (n == 0 || came < n)) {
        uint64_t now = tcp_now(m->t);
        int fd = wire_accept(m->listener, m->t, now + NS_PER_S / 5);
        if (fd < 0)
            continue;
        if (wire_check(fd, m->token.key, &h, sizeof h, m->t, now + GREET_NS) != TN_OK || h.n < 1 ||
            h.n > MAX_RANKS || h.rank >= h.n || (n && h.n != n) || fds[h.rank] >= 0) {
            close(
                fd); /* a stranger, or a rank that does not fit: it sees the end of the connection */
            continue;
        }
        n = h.n;
        hellos[h.rank] = h;
        fds[h.rank] = fd;
        came++;
    }
    if (n && came == n)
        hand_out(m->t, fds, hellos, n);
    for (uint32_t i = 0; i < MAX_RANKS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

int32_t tcp_make_id(void *instance, uint8_t id[TN_COMM_ID_BYTES], tn_err *err)
{
    struct tcp *t = instance;
    const tn_host *h = t->host;
    struct meeting *m = h->alloc(h->ctx, sizeof *m, 64);
    int32_t rc;

    if (!m)
        return tn_err_set(err, TN_E_NOMEM, "tcp: no memory for a group");
    m->t = t;
    m->listener = wire_listen(&m->token.at.port);
    wire_own_hosts(m->token.at.hosts, sizeof m->token.at.hosts);
    if (m->listener < 0 || getrandom(m->token.key, KEY_BYTES, 0) != KEY_BYTES)
        rc = tn_err_set(err, TN_E_IO, "tcp: cannot listen");
    else
        rc = h->thread_spawn(h->ctx, "tcp/meet", -1, meeting_main, m, &m->thread, err);
    if (rc != TN_OK) {
        if (m->listener >= 0)
            close(m->listener);
        h->free(h->ctx, m);
        return rc;
    }
    memset(id, 0, TN_COMM_ID_BYTES);
    memcpy(id, &m->token, sizeof m->token);
    pthread_mutex_lock(&t->lock);
    m->next = t->meetings;
    t->meetings = m;
    pthread_mutex_unlock(&t->lock);
    return TN_OK;
}

void tcp_end_meetings(struct tcp *t)
{
    while (t->meetings) {
        struct meeting *m = t->meetings;
        t->meetings = m->next;
        atomic_store(&m->end, 1);
        t->host->thread_join(t->host->ctx, m->thread);
        close(m->listener);
        t->host->free(t->host->ctx, m);
    }
}

/* -- Joining ------------------------------------------------------------------------------------------------ */

int32_t tcp_can_join(void *instance, uint32_t n_ranks, uint32_t n_local, tn_device *const *devices,
                     tn_err *err)
{
    (void)instance;
    (void)n_local;
    (void)devices;
    return n_ranks <= MAX_RANKS
               ? TN_OK
               : tn_err_set(err, TN_E_UNSUPPORTED, "tcp: joins at most %d ranks", MAX_RANKS);
}

/* Tells the meeting where this rank listens, and learns where all do. */
static int32_t attend(const tn_comm_group *g, const struct token *k, const struct address *mine,
                      struct address *all, uint64_t until_ns)
{
    struct hello h = {.rank = g->rank, .n = g->n, .at = *mine};
    int fd = wire_connect(&k->at, g->t, until_ns);
    int32_t rc;

    if (fd < 0)
        return TN_E_TIMEOUT;
    rc = wire_prove(fd, k->key, &h, sizeof h, g->t, until_ns);
    if (rc == TN_OK)
        rc = wire_read(fd, all, g->n * sizeof *all, g->t, until_ns);
    close(fd);
    return rc;
}

static int32_t connect_lower(tn_comm_group *g, const struct token *k, const struct address *all,
                             uint64_t until_ns)
{
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < g->rank && rc == TN_OK; r++) {
        g->peers[r].fd = wire_connect(&all[r], g->t, until_ns);
        rc = g->peers[r].fd < 0
                 ? TN_E_TIMEOUT
                 : wire_prove(g->peers[r].fd, k->key, &g->rank, sizeof g->rank, g->t, until_ns);
    }
    return rc;
}

static int32_t accept_higher(tn_comm_group *g, const struct token *k, int listener,
                             uint64_t until_ns)
{
    for (uint32_t came = g->rank + 1; came < g->n;) {
        int fd = wire_accept(listener, g->t, until_ns);
        uint32_t rank = 0;
        if (fd < 0)
            return TN_E_TIMEOUT;
        if (wire_check(fd, k->key, &rank, sizeof rank, g->t, tcp_now(g->t) + GREET_NS) != TN_OK ||
            rank <= g->rank || rank >= g->n || g->peers[rank].fd >= 0) {
            close(fd);
            continue;
        }
        g->peers[rank].fd = fd;
        came++;
    }
    return TN_OK;
}

static int32_t connect_all(tn_comm_group *g, const struct token *k, uint64_t until_ns, tn_err *err)
{
    struct address mine = {.port = 0}, all[MAX_RANKS];
    int listener = wire_listen(&mine.port);
    int32_t rc;

    if (listener < 0)
        return tn_err_set(err, TN_E_IO, "tcp: cannot listen");
    wire_own_hosts(mine.hosts, sizeof mine.hosts);
    rc = attend(g, k, &mine, all, until_ns);
    if (rc == TN_OK)
        rc = connect_lower(g, k, all, until_ns);
    if (rc == TN_OK)
        rc = accept_higher(g, k, listener, until_ns);
    close(listener);
    if (rc == TN_E_TIMEOUT)
        return tn_err_set(err, TN_E_TIMEOUT, "tcp: not all ranks have joined in time");
    return rc == TN_OK ? TN_OK
                       : tn_err_set(err, TN_E_COMM,
                                    "tcp: rank %u was turned away: another size of group, or its "
                                    "place is taken",
                                    (unsigned)g->members[g->rank]);
}

int32_t tcp_join(void *instance, const tn_comm_join *how, tn_comm_group **out, tn_err *err)
{
    struct tcp *t = instance;
    const tn_host *h = t->host;
    struct token token;
    tn_comm_group *g;
    int32_t rc;

    if (how->n_ranks < 1 || how->n_ranks > MAX_RANKS || how->rank >= how->n_ranks)
        return tn_err_set(err, TN_E_INVALID, "tcp: there is no rank %u of %u", (unsigned)how->rank,
                          (unsigned)how->n_ranks);
    memcpy(&token, how->id, sizeof token);
    g = h->alloc(h->ctx, sizeof *g, 64);
    if (!g)
        return tn_err_set(err, TN_E_NOMEM, "tcp: no memory for a group");
    g->t = t;
    g->rank = how->rank;
    g->n = how->n_ranks;
    g->call_timeout_ns = how->call_timeout_ns;
    memcpy(g->members, how->members, g->n * sizeof *g->members);
    for (uint32_t i = 0; i < MAX_RANKS; i++)
        g->peers[i].fd = -1;
    pthread_mutex_init(&g->lock, NULL);
    g->gathered = h->alloc(h->ctx, (uint64_t)g->n * CHUNK, 4096);
    rc = g->gathered ? connect_all(g, &token, tcp_now(t) + how->timeout_ns, err)
                     : tn_err_set(err, TN_E_NOMEM, "tcp: no memory for a group");
    if (rc != TN_OK) {
        tcp_leave(g);
        return rc;
    }
    *out = g;
    return TN_OK;
}

void tcp_leave(tn_comm_group *g)
{
    const tn_host *h = g->t->host;

    for (uint32_t i = 0; i < g->n; i++)
        if (g->peers[i].fd >= 0)
            close(g->peers[i].fd);
    pthread_mutex_destroy(&g->lock);
    h->free(h->ctx, g->gathered);
    h->free(h->ctx, g);
}

/* -- Breaking ----------------------------------------------------------------------------------------------- */

int32_t tcp_break(tn_comm_group *g, int32_t code, const char *msg, tn_err *err)
{
    pthread_mutex_lock(&g->lock);
    if (atomic_load(&g->broken) == TN_OK) {
        g->why = (tn_err)TN_ERR_INIT;
        tn_err_set(&g->why, code, "%s", msg);
        atomic_store(&g->broken, code);
        for (uint32_t i = 0; i < g->n; i++) /* ends our own waits, and tells the others */
            if (g->peers[i].fd >= 0)
                shutdown(g->peers[i].fd, SHUT_RDWR);
    }
    if (err)
        *err = g->why;
    pthread_mutex_unlock(&g->lock);
    return atomic_load(&g->broken);
}

void tcp_abort(tn_comm_group *g)
{
    tcp_break(g, TN_E_CANCELED, "the group was aborted", NULL);
}

int32_t tcp_error(tn_comm_group *g, tn_err *err)
{
    return atomic_load(&g->broken) == TN_OK ? TN_OK : tcp_break(g, TN_E_CANCELED, "", err);
}
