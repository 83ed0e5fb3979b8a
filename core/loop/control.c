/* SPDX-License-Identifier: Apache-2.0 */
/* Threads: opening, agreeing and sending belong to the thread that opens or steps; the leader has one more, which reads what
 * followers tell. One lock guards beats, one the sending side of the links. */
#include "loop/control.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

enum frame_kind {
    FRAME_HELLO = 1,
    FRAME_WELCOME,
    FRAME_IDS,
    FRAME_NUMBER,
    FRAME_STEP,
    FRAME_BEAT,
    FRAME_FAILED,
    FRAME_BYE
};

/* A follower that has told nothing for so long, when others wait in vain, is stopped, or cannot reach us. */
#define SILENCE_NS (1 * NS_PER_S)
#define FAREWELL_NS (2 * NS_PER_S) /* for followers to read that the run is over */
#define GREET_NS (10 * NS_PER_S)
#define BEAT_NS (250 * NS_PER_MS)
#define PROTOCOL 2

struct hello {
    uint32_t protocol, process, n_processes, tp_size, pp_size;
    uint32_t vocab, max_seq_len, max_batch_size, max_num_tokens, max_logits, block_tokens;
    uint32_t act_dtype, kv_dtype, abi_minor;
    uint8_t engine[SECRET_MAC_BYTES]; /* of its header, which has the digests of all sections */
    char version[32];
};

struct told {
    int32_t code;
    uint32_t rank; /* where it was noticed, or CONTROL_NO_RANK */
    char field[64], msg[512];
};

struct peer {
    struct link *link;
    uint64_t heard_ns;
    struct far_beat *beats; /* [n_local] */
    uint32_t n_beats;
    char last[48]; /* what one of its ranks was last seen in */
    bool done;     /* nothing more is expected of it */
};

struct control {
    const struct instance *in;
    uint32_t process, n_processes, n_local;
    uint64_t join_ns;
    struct peer *peers; /* [n_processes]; the leader's: all but 0; a follower's: only 0 */
    pthread_mutex_t sending, lock; /* `lock` guards beats and heard_ns */
    pthread_t reader;
    bool reading;
    struct pollfd *fds; /* [n_processes] the reader's */
    _Atomic bool closing;
    int wake[2];
    control_failed failed;
    void *arg;
    uint8_t *buffer; /* the leader's */
    size_t capacity;
    uint8_t *steps[2]; /* a follower's: steps received */
    size_t step_caps[2];
    uint32_t turn;
};

bool control_leads(const struct control *c)
{
    return c->process == 0;
}

void control_name(const struct control *c, uint32_t process, char *out, size_t size)
{
    const struct link *l = c->peers[process].link;
    uint32_t first = process * c->n_local, last = first + c->n_local - 1;
    char ranks[48];

    if (first == last)
        snprintf(ranks, sizeof ranks, "rank %" PRIu32, first);
    else
        snprintf(ranks, sizeof ranks, "ranks %" PRIu32 " to %" PRIu32, first, last);
    snprintf(out, size, "process %" PRIu32 " (%s%s%s)", process, ranks, l ? ", " : "",
             l ? link_peer(l) : "");
}

static int32_t lost(const struct control *c, uint32_t process, const char *what, tn_err *err)
{
    char who[140];

    control_name(c, process, who, sizeof who);
    return tn_err_set(err, TN_E_COMM, "%s%s %s", who, process == 0 ? ", the leader," : "", what);
}

/* -- Hello ------------------------------------------------------------------------------------------------------ */

static struct hello hello_of(const struct control *c, const struct groups *g)
{
    const struct instance *in = c->in;
    const struct engine *e = in->engine;
    struct hello h;
    size_t header = 64 < e->map.size ? 4096 : e->map.size;

    memset(&h, 0, sizeof h);
    h.protocol = PROTOCOL;
    h.process = c->process;
    h.n_processes = c->n_processes;
    h.tp_size = g->tp_size;
    h.pp_size = g->pp_size;
    h.vocab = in->vocab;
    h.max_seq_len = in->max_seq_len;
    h.max_batch_size = in->max_batch_size;
    h.max_num_tokens = in->max_num_tokens;
    h.max_logits = in->max_logits;
    h.block_tokens = in->block_tokens;
    h.act_dtype = in->ranks[0]->act_dtype;
    h.kv_dtype = in->ranks[0]->kv_dtype;
    h.abi_minor = TN_ABI_MINOR;
    secret_digest(e->map.data, header < e->map.size ? header : e->map.size, h.engine);
    snprintf(h.version, sizeof h.version, "%s", TENON_VERSION);
    return h;
}

static int32_t differs(const char *who, const char *what, uint64_t theirs, uint64_t ours,
                       tn_err *err)
{
    err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, what,
           "process %s has %" PRIu64 ", the leader has %" PRIu64, who, theirs, ours);
    err_remedy(err, "start all processes with the same engine, configuration and flags");
    return TN_E_CONFIG;
}

/* What must be equal; `who` names the follower. */
static int32_t compare(const struct hello *t, const struct hello *o, const char *who, tn_err *err)
{
    if (t->protocol != o->protocol || strncmp(t->version, o->version, sizeof t->version) != 0)
        return err_at(err, TN_E_VERSION, NULL, TN_NO_OFFSET, "version",
                      "process %s runs Tenon %.31s, the leader %.31s", who, t->version, o->version);
    if (t->n_processes != o->n_processes)
        return differs(who, "parallel.nnodes", t->n_processes, o->n_processes, err);
    if (t->tp_size != o->tp_size)
        return differs(who, "parallel.tp_size", t->tp_size, o->tp_size, err);
    if (t->pp_size != o->pp_size)
        return differs(who, "parallel.pp_size", t->pp_size, o->pp_size, err);
    if (memcmp(t->engine, o->engine, sizeof t->engine) != 0)
        return err_at(err, TN_E_DIGEST, NULL, TN_NO_OFFSET, "engine",
                      "process %s has another engine than the leader", who);
    if (t->max_seq_len != o->max_seq_len)
        return differs(who, "scheduler.max_seq_len", t->max_seq_len, o->max_seq_len, err);
    if (t->max_batch_size != o->max_batch_size)
        return differs(who, "scheduler.max_batch_size", t->max_batch_size, o->max_batch_size, err);
    if (t->max_num_tokens != o->max_num_tokens || t->max_logits != o->max_logits)
        return differs(who, "scheduler.max_num_tokens", t->max_num_tokens, o->max_num_tokens, err);
    if (t->block_tokens != o->block_tokens)
        return differs(who, "kv.block_tokens", t->block_tokens, o->block_tokens, err);
    if (t->act_dtype != o->act_dtype)
        return differs(who, "device.activation_dtype", t->act_dtype, o->act_dtype, err);
    if (t->kv_dtype != o->kv_dtype)
        return differs(who, "kv.dtype", t->kv_dtype, o->kv_dtype, err);
    return TN_OK;
}

static struct told tell(uint32_t rank, const tn_err *err)
{
    struct told t;

    memset(&t, 0, sizeof t);
    t.code = err->code;
    t.rank = rank;
    snprintf(t.field, sizeof t.field, "%s", err->field);
    snprintf(t.msg, sizeof t.msg, "%s", err->msg);
    return t;
}

/* What was told, cut short or not ended as it may be. */
static struct told hear_out(const uint8_t *data, uint64_t bytes)
{
    struct told t;

    memset(&t, 0, sizeof t);
    t.rank = CONTROL_NO_RANK;
    memcpy(&t, data, bytes < sizeof t ? (size_t)bytes : sizeof t);
    t.field[sizeof t.field - 1] = t.msg[sizeof t.msg - 1] = '\0';
    return t;
}

/* One follower: its hello is judged and answered. */
static int32_t greet(struct control *c, struct link *l, const struct hello *mine, tn_err *err)
{
    const uint8_t *data;
    struct hello theirs;
    uint64_t bytes;
    uint16_t kind;
    struct told t;
    char who[96];
    tn_err why = TN_ERR_INIT;
    int32_t rc = link_recv(l, clock_ns() + GREET_NS, &kind, &data, &bytes, &why);

    if (rc == TN_OK && (kind != FRAME_HELLO || bytes < sizeof theirs.protocol))
        rc = tn_err_set(&why, TN_E_FORMAT, "%s did not say hello", link_peer(l));
    if (rc == TN_OK) {
        memset(&theirs, 0, sizeof theirs);
        memcpy(&theirs, data, bytes < sizeof theirs ? (size_t)bytes : sizeof theirs);
        snprintf(who, sizeof who, "%" PRIu32 " (%s)", theirs.process, link_peer(l));
        rc = compare(&theirs, mine, who, &why);
    }
    if (rc == TN_OK &&
        (theirs.process < 1 || theirs.process >= c->n_processes || c->peers[theirs.process].link))
        rc = err_at(&why, TN_E_CONFIG, NULL, TN_NO_OFFSET, "parallel.node_rank",
                    "process %s: there is no such place, or it is taken", who);
    t = tell(CONTROL_NO_RANK, &why);
    link_send(l, FRAME_WELCOME, &t, sizeof t, NULL);
    if (rc != TN_OK) {
        link_close(l);
        if (err)
            *err = why;
        return rc;
    }
    c->peers[theirs.process].link = l;
    return TN_OK;
}

/* `why` is what link_accept has to say. */
static int32_t missing(const struct control *c, const tn_err *why, tn_err *err)
{
    for (uint32_t i = 1; i < c->n_processes; i++)
        if (!c->peers[i].link)
            return tn_err_set(err, TN_E_COMM,
                              "process %" PRIu32 " of %" PRIu32 " has not come within %" PRIu64
                              " ms (%s)",
                              i, c->n_processes, c->join_ns / NS_PER_MS, why->msg);
    return TN_OK;
}

static int32_t welcome_all(struct control *c, const struct control_plan *p,
                           const struct hello *mine, tn_err *err)
{
    uint64_t until = clock_ns() + c->join_ns;
    int32_t rc = TN_OK;

    for (uint32_t n = 1; n < c->n_processes && rc == TN_OK; n++) {
        struct link *l = NULL;
        tn_err why = TN_ERR_INIT;
        rc = link_accept(p->listener, p->key, until, &l, &why);
        if (rc == TN_E_TIMEOUT)
            return missing(c, &why, err);
        if (rc == TN_OK)
            rc = greet(c, l, mine, &why);
        if (rc != TN_OK && err)
            *err = why;
    }
    return rc;
}

/* The leader may have several addresses, of which only some can be reached from here. */
static int32_t reach_leader(struct control *c, const struct control_plan *p, tn_err *err)
{
    uint64_t until = clock_ns() + c->join_ns;
    int32_t rc = TN_E_TIMEOUT;
    char hosts[sizeof p->host];

    while (rc == TN_E_TIMEOUT && clock_ns() < until) {
        char *save = NULL;
        snprintf(hosts, sizeof hosts, "%s", p->host);
        for (char *h = strtok_r(hosts, ",", &save); h && rc == TN_E_TIMEOUT;
             h = strtok_r(NULL, ",", &save)) {
            bool only = strchr(p->host, ',') == NULL;
            uint64_t soon = clock_ns() + NS_PER_S;
            rc = link_connect(h, p->port, p->key, only || soon > until ? until : soon,
                              &c->peers[0].link, err);
            if (!only && (rc == TN_E_REFUSED || rc == TN_E_FORMAT))
                rc = TN_E_TIMEOUT; /* somebody else's loopback */
        }
    }
    return rc;
}

static int32_t introduce(struct control *c, const struct control_plan *p, const struct hello *mine,
                         tn_err *err)
{
    struct told t;
    const uint8_t *data;
    uint64_t bytes;
    uint16_t kind;
    int32_t rc = reach_leader(c, p, err);

    if (rc == TN_E_TIMEOUT)
        return tn_err_set(err, TN_E_COMM,
                          "process 0, the leader, does not answer at %s:%u within %" PRIu64 " ms",
                          p->host, (unsigned)p->port, c->join_ns / NS_PER_MS);
    if (rc == TN_OK)
        rc = link_send(c->peers[0].link, FRAME_HELLO, mine, sizeof *mine, err);
    if (rc == TN_OK)
        rc = link_recv(c->peers[0].link, clock_ns() + c->join_ns, &kind, &data, &bytes, err);
    if (rc == TN_E_TIMEOUT || rc == TN_E_CLOSED)
        return lost(c, 0, rc == TN_E_CLOSED ? "is gone" : "does not answer", err);
    if (rc == TN_OK && (kind != FRAME_WELCOME || bytes != sizeof t))
        rc = tn_err_set(err, TN_E_FORMAT, "the leader did not say welcome");
    if (rc != TN_OK)
        return rc;
    t = hear_out(data, bytes);
    return t.code == TN_OK
               ? TN_OK
               : err_at(err, t.code, NULL, TN_NO_OFFSET, t.field[0] ? t.field : NULL, "%s", t.msg);
}

int32_t control_open(const struct control_plan *plan, const struct groups *g, struct control **out,
                     tn_err *err)
{
    struct control *c = mem_zalloc(sizeof *c);
    struct hello mine;
    int32_t rc;

    if (!c)
        return err_nomem(err, "other processes");
    c->in = g->in;
    c->process = plan->process;
    c->n_processes = plan->n_processes;
    c->n_local = g->n_local;
    c->join_ns = (uint64_t)conf_int(g->in->o.conf, CONF_PARALLEL_JOIN_MS) * NS_PER_MS;
    c->wake[0] = c->wake[1] = -1;
    pthread_mutex_init(&c->sending, NULL);
    pthread_mutex_init(&c->lock, NULL);
    c->peers = mem_zarray(c->n_processes, sizeof *c->peers);
    rc = c->peers ? TN_OK : err_nomem(err, "other processes");
    mine = hello_of(c, g);
    if (rc == TN_OK)
        rc = control_leads(c) ? welcome_all(c, plan, &mine, err) : introduce(c, plan, &mine, err);
    if (rc != TN_OK) {
        control_close(c);
        return rc;
    }
    *out = c;
    return TN_OK;
}

void control_close(struct control *c)
{
    uint64_t until;

    if (!c)
        return;
    until = clock_ns() + FAREWELL_NS;
    atomic_store(&c->closing, true);
    for (uint32_t i = 1; c->peers && control_leads(c) && i < c->n_processes; i++)
        if (c->peers[i].link)
            link_send(c->peers[i].link, FRAME_BYE, NULL, 0, NULL);
    if (c->reading) {
        if (write(c->wake[1], "", 1) < 0)
            log_debug("the reader of beats was awake");
        pthread_join(c->reader, NULL);
    }
    for (uint32_t i = 1; c->peers && control_leads(c) && i < c->n_processes; i++)
        link_finish(c->peers[i].link, until);
    for (uint32_t i = 0; c->peers && i < c->n_processes; i++) {
        link_close(c->peers[i].link);
        mem_free(c->peers[i].beats);
    }
    if (c->wake[0] >= 0) {
        close(c->wake[0]);
        close(c->wake[1]);
    }
    pthread_mutex_destroy(&c->sending);
    pthread_mutex_destroy(&c->lock);
    mem_free(c->fds);
    mem_free(c->buffer);
    mem_free(c->steps[0]);
    mem_free(c->steps[1]);
    mem_free(c->peers);
    mem_free(c);
}

/* -- Agreeing --------------------------------------------------------------------------------------------------- */

static int32_t send_all(struct control *c, uint16_t kind, const void *data, uint64_t bytes,
                        tn_err *err)
{
    int32_t rc = TN_OK;

    pthread_mutex_lock(&c->sending);
    for (uint32_t i = 0; i < c->n_processes && rc == TN_OK; i++)
        if (c->peers[i].link) {
            rc = link_send(c->peers[i].link, kind, data, bytes, err);
            if (rc != TN_OK)
                rc = lost(c, i, "is gone", err);
        }
    pthread_mutex_unlock(&c->sending);
    return rc;
}

static int32_t told_failure(uint32_t process, const uint8_t *data, uint64_t bytes, uint32_t *rank,
                            tn_err *err)
{
    struct told t = hear_out(data, bytes);

    *rank = t.rank;
    return err_at(err, t.code == TN_OK ? TN_E_COMM : t.code, NULL, TN_NO_OFFSET,
                  t.field[0] ? t.field : NULL, "process %" PRIu32 ": %s", process, t.msg);
}

/* A frame of one kind from one peer, before steps begin. */
static int32_t expect(struct control *c, uint32_t i, uint16_t want, void *out, uint64_t size,
                      tn_err *err)
{
    const uint8_t *data;
    uint64_t bytes;
    uint32_t rank;
    uint16_t kind;
    int32_t rc = link_recv(c->peers[i].link, clock_ns() + c->join_ns, &kind, &data, &bytes, err);

    if (rc == TN_E_TIMEOUT || rc == TN_E_CLOSED)
        return lost(c, i, rc == TN_E_CLOSED ? "is gone" : "does not get ready", err);
    if (rc != TN_OK)
        return rc;
    if (kind == FRAME_FAILED)
        return told_failure(i, data, bytes, &rank, err);
    if (kind != want || bytes != size)
        return tn_err_set(err, TN_E_FORMAT,
                          "process %" PRIu32 " sent frame %u of %" PRIu64 " bytes", i,
                          (unsigned)kind, bytes);
    memcpy(out, data, (size_t)size);
    return TN_OK;
}

int32_t control_ids(struct control *c, struct groups *g, tn_err *err)
{
    uint64_t n = (uint64_t)g->pp_size + g->tp_size, size = n * TN_COMM_ID_BYTES;
    uint8_t *ids = mem_zarray((size_t)n, TN_COMM_ID_BYTES);
    int32_t rc;

    if (!ids)
        return err_nomem(err, "groups of ranks");
    for (uint32_t i = 0; i < n && control_leads(c); i++)
        memcpy(ids + i * TN_COMM_ID_BYTES,
               i < g->pp_size ? g->tensor[i].id : g->pipeline[i - g->pp_size].id, TN_COMM_ID_BYTES);
    rc = control_leads(c) ? send_all(c, FRAME_IDS, ids, size, err)
                          : expect(c, 0, FRAME_IDS, ids, size, err);
    for (uint32_t i = 0; i < n && rc == TN_OK && !control_leads(c); i++) {
        struct group_plan *p = i < g->pp_size ? &g->tensor[i] : &g->pipeline[i - g->pp_size];
        if (groups_reach_out(g, p))
            memcpy(p->id, ids + i * TN_COMM_ID_BYTES, TN_COMM_ID_BYTES);
    }
    mem_free(ids);
    return rc;
}

int32_t control_least(struct control *c, uint32_t *n, tn_err *err)
{
    uint32_t least = *n, theirs = 0;
    int32_t rc = TN_OK;

    if (!control_leads(c)) {
        rc = send_all(c, FRAME_NUMBER, n, sizeof *n, err);
        return rc == TN_OK ? expect(c, 0, FRAME_NUMBER, n, sizeof *n, err) : rc;
    }
    for (uint32_t i = 1; i < c->n_processes && rc == TN_OK; i++) {
        rc = expect(c, i, FRAME_NUMBER, &theirs, sizeof theirs, err);
        least = theirs < least ? theirs : least;
    }
    *n = least;
    return rc == TN_OK ? send_all(c, FRAME_NUMBER, n, sizeof *n, err) : rc;
}

void control_tell(struct control *c, uint32_t rank, const tn_err *err)
{
    struct told t = tell(rank, err);

    pthread_mutex_lock(&c->sending);
    for (uint32_t i = 0; i < c->n_processes; i++)
        if (c->peers[i].link)
            link_send(c->peers[i].link, FRAME_FAILED, &t, sizeof t, NULL);
    pthread_mutex_unlock(&c->sending);
}

/* -- The leader's ears ------------------------------------------------------------------------------------------ */

static int32_t hear_beats(struct control *c, struct peer *p, const uint8_t *data, uint64_t bytes)
{
    uint64_t n = bytes / sizeof(struct far_beat);

    if (bytes % sizeof(struct far_beat) || n > c->n_local)
        return TN_E_FORMAT;
    pthread_mutex_lock(&c->lock);
    p->n_beats = (uint32_t)n;
    if (n > 0)
        memcpy(p->beats, data, (size_t)bytes);
    for (uint32_t i = 0; i < n; i++)
        p->beats[i].call[sizeof p->beats[i].call - 1] = '\0';
    if (n > 0)
        snprintf(p->last, sizeof p->last, "%s of layer %" PRId32, p->beats[0].call,
                 p->beats[0].layer);
    p->heard_ns = clock_ns();
    pthread_mutex_unlock(&c->lock);
    return TN_OK;
}

static void hear(struct control *c, uint32_t i)
{
    struct peer *p = &c->peers[i];
    uint32_t rank = CONTROL_NO_RANK;
    tn_err err = TN_ERR_INIT;
    char what[96];
    const uint8_t *data;
    uint64_t bytes;
    uint16_t kind;
    int32_t rc = link_recv(p->link, clock_ns(), &kind, &data, &bytes, &err);

    if (rc == TN_E_TIMEOUT || p->done)
        return;
    if (rc == TN_OK && kind == FRAME_BEAT && hear_beats(c, p, data, bytes) == TN_OK)
        return;
    p->done = true;
    if (atomic_load(&c->closing))
        return;
    snprintf(what, sizeof what, "is gone%s%s", p->last[0] ? "; it was last seen in " : "", p->last);
    if (rc == TN_E_CLOSED)
        lost(c, i, what, &err);
    else if (rc == TN_OK && kind == FRAME_FAILED)
        told_failure(i, data, bytes, &rank, &err);
    else if (rc == TN_OK)
        tn_err_set(&err, TN_E_FORMAT, "process %" PRIu32 " sent frame %u", i, (unsigned)kind);
    c->failed(c->arg, rank, &err);
}

/* A follower that hears nothing at all takes the leader for lost. Whether it can be reached is found out elsewhere. */
static void give_sign(struct control *c, uint64_t *last_ns)
{
    uint64_t now = clock_ns();

    if (now - *last_ns < BEAT_NS)
        return;
    send_all(c, FRAME_BEAT, NULL, 0, NULL);
    *last_ns = now;
}

static void *reader_main(void *arg)
{
    struct control *c = arg;
    struct pollfd *fds = c->fds;
    uint64_t sign = 0;

    fds[0] = (struct pollfd){.fd = c->wake[0], .events = POLLIN};
    while (!atomic_load(&c->closing)) {
        for (uint32_t i = 1; i < c->n_processes; i++)
            fds[i] = (struct pollfd){.fd = c->peers[i].done ? -1 : link_fd(c->peers[i].link),
                                     .events = POLLIN};
        give_sign(c, &sign);
        if (poll(fds, c->n_processes, (int)(BEAT_NS / NS_PER_MS)) <= 0)
            continue;
        for (uint32_t i = 1; i < c->n_processes && !atomic_load(&c->closing); i++)
            if (fds[i].revents)
                hear(c, i);
    }
    return NULL;
}

int32_t control_watch(struct control *c, control_failed failed, void *arg, tn_err *err)
{
    int e;

    c->failed = failed;
    c->arg = arg;
    c->fds = mem_zarray(c->n_processes, sizeof *c->fds);
    if (!c->fds)
        return err_nomem(err, "other processes");
    for (uint32_t i = 1; i < c->n_processes; i++) {
        c->peers[i].heard_ns = clock_ns();
        c->peers[i].beats = mem_zarray(c->n_local, sizeof *c->peers[i].beats);
        if (!c->peers[i].beats)
            return err_nomem(err, "other processes");
    }
    if (pipe(c->wake) != 0)
        return err_errno(err, "make", "a pipe", errno);
    e = pthread_create(&c->reader, NULL, reader_main, c);
    if (e != 0)
        return err_errno(err, "start a thread for", "other processes", e);
    c->reading = true;
    return TN_OK;
}

uint32_t control_beats(struct control *c, struct far_beat *out, uint32_t max, uint32_t *silent)
{
    uint64_t now = clock_ns(), longest = SILENCE_NS;
    uint32_t n = 0;

    *silent = 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 1; i < c->n_processes; i++) {
        const struct peer *p = &c->peers[i];
        if (now - p->heard_ns > longest) {
            longest = now - p->heard_ns;
            *silent = i;
        }
        for (uint32_t k = 0; k < p->n_beats && n < max; k++)
            out[n++] = p->beats[k];
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

/* -- Steps ------------------------------------------------------------------------------------------------------ */

int32_t control_step(struct control *c, const struct step_parts *parts, tn_err *err)
{
    size_t bytes = 0;
    int32_t rc = wire_write(parts, &c->buffer, &c->capacity, &bytes, err);

    return rc == TN_OK ? send_all(c, FRAME_STEP, c->buffer, bytes, err) : rc;
}

/* Nothing came. The leader would have been heard a few times per second, had it not been stopped or cut off. */
static int32_t endure(const struct control *c, uint64_t silence_ns, tn_err *err)
{
    char what[80];

    if (clock_ns() - c->peers[0].heard_ns < silence_ns)
        return TN_OK;
    snprintf(what, sizeof what, "has given no sign of life for %" PRIu64 " ms",
             silence_ns / NS_PER_MS);
    return lost(c, 0, what, err);
}

int32_t control_next(struct control *c, const struct wire_limits *limits, uint64_t silence_ns,
                     struct step_parts *out, bool *got, tn_err *err)
{
    struct peer *leader = &c->peers[0];
    const uint8_t *data;
    uint64_t bytes;
    uint32_t rank;
    uint16_t kind;
    int32_t rc = link_recv(leader->link, clock_ns() + 100 * NS_PER_MS, &kind, &data, &bytes, err);

    *got = false;
    leader->heard_ns = rc == TN_OK || leader->heard_ns == 0 ? clock_ns() : leader->heard_ns;
    if (rc == TN_E_TIMEOUT)
        return endure(c, silence_ns, err);
    if (rc == TN_E_CLOSED)
        return lost(c, 0, "is gone", err);
    if (rc != TN_OK || kind == FRAME_BEAT)
        return rc;
    if (kind == FRAME_BYE)
        return TN_E_CLOSED;
    if (kind == FRAME_FAILED)
        return told_failure(0, data, bytes, &rank, err);
    if (kind != FRAME_STEP)
        return tn_err_set(err, TN_E_FORMAT, "the leader sent frame %u", (unsigned)kind);
    /* The step before may still be running: two buffers take turns. */
    c->turn = 1 - c->turn;
    if (!mem_grow(&c->steps[c->turn], &c->step_caps[c->turn], (size_t)bytes + 1, 1))
        return err_nomem(err, "a step");
    memcpy(c->steps[c->turn], data, (size_t)bytes);
    rc = wire_read(c->steps[c->turn], (size_t)bytes, limits, out, err);
    *got = rc == TN_OK;
    return rc;
}

int32_t control_beat(struct control *c, const struct far_beat *beats, uint32_t n, tn_err *err)
{
    return send_all(c, FRAME_BEAT, beats, n * sizeof *beats, err);
}
