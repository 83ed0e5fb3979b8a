/* SPDX-License-Identifier: Apache-2.0 */
/* Timing of copies and sums. Pairs: on the caller's thread. Sums: a thread per rank, gone when the call returns. */
#include "loop/measure.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mem.h"

#define SMALL_BYTES 4096u
#define LARGE_BYTES (16u << 20)
#define SMALL_RUNS 8
#define LARGE_RUNS 3

/* -- One end ------------------------------------------------------------------------------------------------- */

struct end {
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream;
    void *memory;
    tn_device_info info;
};

static int32_t end_open(struct end *e, const tn_device_api *api, void *instance, uint32_t index,
                        uint32_t share, uint32_t n_shares, uint64_t bytes, tn_err *err)
{
    int32_t rc;

    e->api = api;
    e->info = (tn_device_info){.h = TN_HDR(tn_device_info)};
    rc = api->info(instance, index, &e->info, err);
    if (rc == TN_OK)
        rc = api->open(instance, index, share, n_shares, &e->device, err);
    if (rc == TN_OK && (e->info.flags & TN_DEVICE_STREAMS))
        rc = api->stream_new(e->device, &e->stream, err);
    if (rc == TN_OK)
        rc = api->mem_alloc(e->device, bytes, &e->memory, err);
    return rc;
}

static void end_close(struct end *e)
{
    if (e->stream)
        e->api->stream_free(e->device, e->stream); /* first: its work may still be at the memory */
    if (e->memory)
        e->api->mem_free(e->device, e->memory);
    if (e->device)
        e->api->close(e->device);
}

static int32_t end_sync(const struct end *e, tn_err *err)
{
    return e->stream ? e->api->stream_sync(e->device, e->stream, err) : TN_OK;
}

/* One copy by the end `by`, and how long it took until it was known to be done. */
static int32_t copy(const struct end *by, void *dst, const void *src, uint64_t bytes, uint32_t kind,
                    double *ns, tn_err *err)
{
    uint64_t begin = clock_ns();
    int32_t rc = by->api->copy(by->device, by->stream, dst, src, bytes, kind, err);

    if (rc == TN_OK)
        rc = end_sync(by, err);
    *ns = (double)(clock_ns() - begin);
    return rc;
}

/* -- Pairs --------------------------------------------------------------------------------------------------- */

struct pair {
    struct end from, to;
    bool pinned;
    unsigned char *host; /* [LARGE_BYTES] page-locked where that exists */
    unsigned char *sent; /* [LARGE_BYTES] */
};

static int32_t pair_open(struct pair *p, const tn_device_api *api, void *instance, uint32_t a,
                         uint32_t b, tn_err *err)
{
    void *host = NULL;
    double ns;
    int32_t rc = end_open(&p->from, api, instance, a, 0, 1, LARGE_BYTES, err);

    if (rc == TN_OK)
        rc = end_open(&p->to, api, instance, b, 0, 1, LARGE_BYTES, err);
    if (rc != TN_OK)
        return rc;
    p->pinned = api->pinned_alloc != NULL;
    p->sent = mem_array(LARGE_BYTES, 1);
    if (p->pinned)
        rc = api->pinned_alloc(p->from.device, LARGE_BYTES, &host, err);
    else
        host = mem_array(LARGE_BYTES, 1);
    p->host = host;
    if (rc != TN_OK || !p->host || !p->sent)
        return rc != TN_OK ? rc : err_nomem(err, "measuring the way between devices");
    for (uint64_t i = 0; i < LARGE_BYTES; i += sizeof i) {
        uint64_t word = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
        memcpy(p->sent + i, &word, sizeof word);
    }
    return copy(&p->from, p->from.memory, p->sent, LARGE_BYTES, TN_COPY_HOST_TO_DEVICE, &ns, err);
}

static void pair_close(struct pair *p)
{
    if (p->host && p->pinned)
        p->from.api->pinned_free(p->from.device, p->host);
    else
        mem_free(p->host);
    mem_free(p->sent);
    end_close(&p->to);
    end_close(&p->from);
}

/* Moves `bytes` once. *whole: from begin to end; *half: the slower half, which is the pace where halves overlap. */
static int32_t move(struct pair *p, bool staged, uint64_t bytes, double *whole, double *half,
                    tn_err *err)
{
    double out = 0, in = 0;
    int32_t rc;

    if (staged) {
        rc = copy(&p->from, p->host, p->from.memory, bytes, TN_COPY_DEVICE_TO_HOST, &out, err);
        if (rc == TN_OK)
            rc = copy(&p->to, p->to.memory, p->host, bytes, TN_COPY_HOST_TO_DEVICE, &in, err);
    } else {
        rc = copy(&p->to, p->to.memory, p->from.memory, bytes, TN_COPY_DEVICE_TO_DEVICE, &in, err);
    }
    *whole = out + in;
    *half = out > in ? out : in;
    return rc;
}

/* Whether the receiver has what was sent. */
static int32_t compare(struct pair *p, bool *intact, tn_err *err)
{
    double ns;
    int32_t rc = copy(&p->to, p->host, p->to.memory, LARGE_BYTES, TN_COPY_DEVICE_TO_HOST, &ns, err);

    *intact = rc == TN_OK && memcmp(p->host, p->sent, LARGE_BYTES) == 0;
    return rc;
}

static int32_t measure_way(struct pair *p, bool staged, struct measured_way *out, tn_err *err)
{
    double small = 0, large = 0, whole = 0, half = 0;
    int32_t rc = p->to.api->fill(p->to.device, p->to.stream, p->to.memory, 0, LARGE_BYTES, err);

    for (uint32_t i = 0; i < LARGE_RUNS && rc == TN_OK; i++) {
        rc = move(p, staged, LARGE_BYTES, &whole, &half, err);
        large = i == 0 || half < large ? half : large;
    }
    if (rc == TN_OK)
        rc = compare(p, &out->intact, err);
    for (uint32_t i = 0; i < SMALL_RUNS && rc == TN_OK; i++) {
        rc = move(p, staged, SMALL_BYTES, &whole, &half, err);
        small = i == 0 || whole < small ? whole : small;
    }
    out->tried = rc == TN_OK;
    out->latency_ns = small;
    out->bandwidth = large > 0 ? LARGE_BYTES / large * 1e9 : 0;
    return rc;
}

int32_t measure_pair(const tn_device_api *api, void *instance, uint32_t a, uint32_t b,
                     struct measured_pair *out, tn_err *err)
{
    struct pair p = {.pinned = false};
    uint32_t reaches = 0;
    int32_t rc = pair_open(&p, api, instance, a, b, err);

    *out = (struct measured_pair){0};
    if (rc == TN_OK && api->peer_access)
        rc = api->peer_access(p.to.device, p.from.device, &reaches, err);
    if (rc == TN_OK && reaches)
        rc = measure_way(&p, false, &out->direct, err);
    if (rc == TN_OK)
        rc = measure_way(&p, true, &out->staged, err);
    pair_close(&p);
    return rc;
}

static double way_ns(const struct measured_way *w, double bytes)
{
    return w->latency_ns + (w->bandwidth > 0 ? bytes / w->bandwidth * 1e9 : 0);
}

double measured_loss_ns(const struct measured_pair *p, double bytes)
{
    if (!p->direct.tried || !p->direct.intact)
        return INFINITY;
    return way_ns(&p->direct, bytes) - way_ns(&p->staged, bytes);
}

/* -- Sums ---------------------------------------------------------------------------------------------------- */

const uint64_t measured_sum_bytes[MEASURED_SUMS] = {8192, 65536, 1u << 20};

#define SUM_RUNS 15
#define WARM_RUNS 3
#define JOIN_NS (20 * NS_PER_S)

struct summing {
    const struct measure_sums *m;
    uint8_t id[TN_COMM_ID_BYTES];
    uint32_t members[LIMIT_RANKS], processes[LIMIT_RANKS];
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t moved;
    uint32_t n_through, n_started;
};

struct adder {
    struct summing *s;
    pthread_t thread;
    uint32_t rank;
    struct end end;
    tn_comm_group *group;
    double ns[MEASURED_SUMS];
    int32_t rc;
    tn_err err;
};

static int32_t adder_join(struct adder *a)
{
    const struct measure_sums *m = a->s->m;
    uint32_t n = m->n_ranks, share = a->rank / m->n_devices;
    uint32_t n_shares = (n - a->rank % m->n_devices + m->n_devices - 1) / m->n_devices;
    uint64_t bytes = measured_sum_bytes[MEASURED_SUMS - 1];
    tn_comm_join how = {.h = TN_HDR(tn_comm_join),
                        .id = a->s->id,
                        .rank = a->rank,
                        .n_ranks = n,
                        .members = a->s->members,
                        .processes = a->s->processes,
                        .api = m->api,
                        .timeout_ns = JOIN_NS,
                        .call_timeout_ns = JOIN_NS,
                        .max_bytes = bytes,
                        .info = &a->end.info};
    int32_t rc = end_open(&a->end, m->api, m->device_instance, a->rank % m->n_devices, share,
                          n_shares, bytes, &a->err);

    if (rc == TN_OK)
        rc = m->api->fill(a->end.device, a->end.stream, a->end.memory, 0, bytes, &a->err);
    if (rc == TN_OK)
        rc = end_sync(&a->end, &a->err);
    how.device = a->end.device;
    return rc == TN_OK ? m->backend->join(m->instance, &how, &a->group, &a->err) : rc;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* In place, of zeros: they stay what they are. */
static int32_t adder_time(struct adder *a, uint64_t bytes, double *median)
{
    const tn_comm_backend *b = a->s->m->backend;
    double ns[SUM_RUNS];
    int32_t rc = TN_OK;

    for (int i = -WARM_RUNS; i < SUM_RUNS && rc == TN_OK; i++) {
        uint64_t begin = clock_ns();
        rc = b->all_reduce(a->group, a->end.memory, a->end.memory, bytes / sizeof(float), TN_DT_F32,
                           a->end.stream, &a->err);
        if (rc == TN_OK)
            rc = end_sync(&a->end, &a->err);
        if (i >= 0)
            ns[i] = (double)(clock_ns() - begin);
    }
    if (rc != TN_OK)
        return rc;
    qsort(ns, SUM_RUNS, sizeof *ns, by_size);
    *median = ns[SUM_RUNS / 2];
    return TN_OK;
}

/* Others may still read what this rank has shown: nobody leaves before all are through. */
static void wait_for_all(struct summing *s)
{
    pthread_mutex_lock(&s->lock);
    s->n_through++;
    pthread_cond_broadcast(&s->moved);
    while (s->n_through < s->n_started)
        pthread_cond_wait(&s->moved, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

static void *adder_main(void *arg)
{
    struct adder *a = arg;

    a->rc = adder_join(a);
    for (uint32_t i = 0; i < MEASURED_SUMS && a->rc == TN_OK; i++)
        a->rc = adder_time(a, measured_sum_bytes[i], &a->ns[i]);
    end_sync(&a->end,
             NULL); /* a sum that failed half way may have begun to copy into what a group owns */
    wait_for_all(a->s);
    if (a->group)
        a->s->m->backend->leave(a->group);
    end_close(&a->end);
    return NULL;
}

static int32_t run_adders(struct summing *s, struct adder *a, tn_err *err)
{
    uint32_t n = s->m->n_ranks, started = 0;

    s->n_started = n;
    for (; started < n; started++) {
        a[started] = (struct adder){.s = s, .rank = started, .err = TN_ERR_INIT};
        if (pthread_create(&a[started].thread, NULL, adder_main, &a[started]) != 0)
            break;
    }
    pthread_mutex_lock(&s->lock);
    s->n_started = started;
    pthread_cond_broadcast(&s->moved);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(a[i].thread, NULL);
    if (started < n)
        return tn_err_set(err, TN_E_NOMEM, "no threads to measure ranks with");
    for (uint32_t i = 0; i < n; i++)
        if (a[i].rc != TN_OK) {
            if (err)
                *err = a[i].err;
            return a[i].rc;
        }
    return TN_OK;
}

int32_t measure_sums(const struct measure_sums *m, double ns[MEASURED_SUMS], tn_err *err)
{
    struct summing *s = mem_zalloc(sizeof *s);
    struct adder *a = mem_zarray(m->n_ranks, sizeof *a);
    int32_t rc;

    if (!s || !a) {
        mem_free(a);
        mem_free(s);
        return err_nomem(err, "measuring sums over ranks");
    }
    rc = m->backend->make_id(m->instance, s->id, err);
    if (rc == TN_OK) {
        s->m = m;
        for (uint32_t i = 0; i < m->n_ranks; i++)
            s->members[i] = i;
        pthread_mutex_init(&s->lock, NULL);
        pthread_cond_init(&s->moved, NULL);
        rc = run_adders(s, a, err);
        pthread_cond_destroy(&s->moved);
        pthread_mutex_destroy(&s->lock);
    }
    if (rc == TN_OK)
        memcpy(ns, a[0].ns, sizeof a[0].ns);
    mem_free(a);
    mem_free(s);
    return rc;
}
