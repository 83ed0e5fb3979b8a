/* SPDX-License-Identifier: Apache-2.0 */
/* The device "shadow": memory out of reach, streams that are threads, capture and replay. */
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "shadow.h"

#include "../../plugins/comm/common/sum.h"

struct tn_device {
    struct shadow *s;
    uint32_t index;
    atomic_int n_blocks;
    atomic_int
        n_pending; /* events recorded that nobody waited for; threads that bring weights record some, too */
    tn_stream *capturing; /* by the thread that runs steps, the only one there is */
};

enum command_kind { DO_COPY, DO_FILL, DO_KERNEL, DO_EVENT, DO_WAIT, DO_SUM, DO_MEET, DO_GRAPH };

struct sum {
    const void *src[TN_SUM_MAX];
    uint32_t n, dtype;
};

#define MEET_BYTES 40000u /* at a time; no multiple of what calls move */

/* A rank's part in meetings of devices; zeroed by whoever made it. */
struct room {
    _Atomic uint32_t came; /* meetings that its rank has come to */
    unsigned char data[2][MEET_BYTES];
};

struct meet {
    struct room *rooms[TN_MEET_MAX];
    _Atomic uint32_t *words;
    uint32_t rank, n, dtype;
    uint64_t timeout_ns;
    bool gather;
};

struct command {
    struct command *next;
    enum command_kind kind;
    void *dst;
    const void *src;
    uint64_t
        bytes; /* of a sum: elements; of an event that is waited for: how often it must have passed */
    uint64_t dst_stride, src_stride, rows; /* of a copy; rows 0: one */
    uint8_t byte;
    struct shadow_kernel kernel;
    struct sum sum;
    struct meet meet;
    tn_event *event;
    tn_stream *stream; /* of that event */
    tn_graph *graph;
};

struct tn_graph {
    struct command *first, **last;
};

struct tn_stream {
    tn_device *d;
    tn_thread *thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct command *first, **last;
    bool ending, busy, broken;
    uint64_t ns; /* that its kernels say they took */
    tn_graph *capture;
    int32_t status; /* of the first work that failed */
    char msg[128];
};

struct tn_event {
    tn_stream *stream; /* where it was last recorded */
    uint64_t recorded, passed;
    uint64_t ns; /* of the stream when it passed last */
};

/* -- A stream's thread ----------------------------------------------------------------------------- */

/* The process may end, but nothing else does. */
static void hang(void)
{
    for (;;)
        pause();
}

static void do_copy(const struct command *c)
{
    for (uint64_t i = 0; i < (c->rows ? c->rows : 1); i++)
        memcpy((char *)c->dst + i * c->dst_stride, (const char *)c->src + i * c->src_stride,
               c->bytes);
}

/* An event passes even where a stream has failed, so this ends. */
static void await(const struct command *c)
{
    pthread_mutex_lock(&c->stream->lock);
    while (c->event->passed < c->bytes)
        pthread_cond_wait(&c->stream->changed, &c->stream->lock);
    pthread_mutex_unlock(&c->stream->lock);
}

static uint64_t now_ns(const tn_stream *s)
{
    return s->d->s->host->now_ns(s->d->s->host->ctx);
}

/* Comes to the next meeting, and waits for the others. False: in vain, or told to give up. */
static bool meet_others(tn_stream *s, const struct meet *m)
{
    uint32_t number = atomic_load(&m->rooms[m->rank]->came) + 1;
    uint64_t begin = now_ns(s);

    atomic_store(&m->rooms[m->rank]->came, number);
    for (uint32_t r = 0; r < m->n; r++)
        while (atomic_load(&m->rooms[r]->came) < number) {
            if (atomic_load(&m->words[TN_MEET_GIVE_UP]) || atomic_load(&m->words[TN_MEET_LATE]))
                return false;
            if (m->timeout_ns && now_ns(s) - begin > m->timeout_ns)
                atomic_store(&m->words[TN_MEET_LATE], r + 1);
            sched_yield();
        }
    return true;
}

static void do_meet(tn_stream *s, const struct command *c)
{
    const struct meet *m = &c->meet;
    const void *src[TN_MEET_MAX];

    for (uint64_t at = 0; at < c->bytes; at += MEET_BYTES) {
        uint64_t some = c->bytes - at < MEET_BYTES ? c->bytes - at : MEET_BYTES;
        uint32_t turn = atomic_load(&m->rooms[m->rank]->came) % 2;
        memcpy(m->rooms[m->rank]->data[turn], (const char *)c->src + at, some);
        if (!meet_others(s, m))
            return;
        for (uint32_t r = 0; r < m->n; r++) {
            src[r] = m->rooms[r]->data[turn];
            if (m->gather)
                memcpy((char *)c->dst + r * c->bytes + at, src[r], some);
        }
        if (!m->gather)
            comm_sum((char *)c->dst + at, src, m->n, some * 8 / tn_dtype_bits(m->dtype), m->dtype);
    }
}

/* Kernels take as long as they take, or what they were told to say. */
static int32_t execute(tn_stream *s, struct command *c, tn_err *err)
{
    uint64_t number = c->kind == DO_KERNEL ? atomic_fetch_add(&s->d->s->n_kernels, 1) + 1 : 0;
    uint64_t begin;
    int32_t rc = TN_OK;

    switch (c->kind) {
    case DO_COPY: do_copy(c); break;
    case DO_WAIT: await(c); break;
    case DO_SUM: comm_sum(c->dst, c->sum.src, c->sum.n, c->bytes, c->sum.dtype); break;
    case DO_MEET: do_meet(s, c); break;
    case DO_FILL: memset(c->dst, c->byte, c->bytes); break;
    case DO_KERNEL:
        if (number == s->d->s->hang_kernel)
            hang();
        if (number == s->d->s->fail_launch)
            return tn_err_set(err, TN_E_DEVICE, "shadow: a kernel has failed, as it was told to");
        begin = now_ns(s);
        rc = shadow_run(&c->kernel, err);
        s->ns += !s->d->s->few     ? now_ns(s) - begin
                 : c->kernel.quick ? SHADOW_QUICK_NS
                                   : SHADOW_SLOW_NS;
        break;
    case DO_GRAPH:
        for (struct command *g = c->graph->first; g && rc == TN_OK; g = g->next)
            rc = execute(s, g, err);
        break;
    case DO_EVENT: c->event->ns = s->ns; break;
    }
    return rc;
}

static void work(void *arg)
{
    tn_stream *s = arg;
    tn_err err = TN_ERR_INIT;

    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct command *c = s->first;
        int32_t rc = s->status;
        if (!c && s->ending)
            break;
        if (!c) {
            pthread_cond_wait(&s->changed, &s->lock);
            continue;
        }
        s->first = c->next;
        if (!s->first)
            s->last = &s->first;
        s->busy = true;
        pthread_mutex_unlock(&s->lock);
        if (rc == TN_OK)
            rc = execute(s, c, &err); /* after a failure nothing runs any more */
        pthread_mutex_lock(&s->lock);
        if (s->status == TN_OK && rc != TN_OK) {
            s->status = rc;
            snprintf(s->msg, sizeof s->msg, "%s", err.msg);
        }
        if (c->kind == DO_EVENT)
            c->event->passed++;
        s->busy = false;
        free(c);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
}

static int32_t enqueue(tn_stream *s, struct command command, tn_err *err)
{
    struct command *c = malloc(sizeof *c);

    if (!c)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    *c = command;
    c->next = NULL;
    pthread_mutex_lock(&s->lock);
    if (s->capture) {
        *s->capture->last = c;
        s->capture->last = &c->next;
    } else {
        *s->last = c;
        s->last = &c->next;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return TN_OK;
}

static int32_t told(const tn_stream *s, tn_err *err)
{
    return s->status == TN_OK ? TN_OK : tn_err_set(err, s->status, "%s", s->msg);
}

/* -- Devices and memory ----------------------------------------------------------------------------- */

static int32_t count(void *instance, uint32_t *n, tn_err *err)
{
    (void)err;
    *n = ((struct shadow *)instance)->n_devices;
    return TN_OK;
}

static int32_t info(void *instance, uint32_t index, tn_device_info *info, tn_err *err)
{
    (void)instance;
    (void)err;
    info->flags = TN_DEVICE_STREAMS | TN_DEVICE_GRAPHS;
    info->numa_node = UINT32_MAX;
    info->total_bytes = 1u << 30;
    info->n_units = 1;
    snprintf(info->name, sizeof info->name, "shadow");
    snprintf(info->uuid, sizeof info->uuid, "shadow-%u", (unsigned)index);
    snprintf(info->driver, sizeof info->driver, "1");
    return TN_OK;
}

static int32_t device_open(void *instance, uint32_t index, uint32_t share, uint32_t n_shares,
                           tn_device **out, tn_err *err)
{
    struct shadow *s = instance;
    tn_device *d = s->host->alloc(s->host->ctx, sizeof *d, 64);

    (void)share;
    (void)n_shares;
    if (!d)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    d->s = s;
    d->index = index;
    *out = d;
    return TN_OK;
}

static void device_close(tn_device *d)
{
    if (atomic_load(&d->n_blocks) != 0 || (d->s->expect_graphs && d->s->n_graphs == 0) ||
        (d->s->expect_overlap && d->s->n_overlaps == 0))
        abort(); /* a test must not miss it */
    d->s->host->free(d->s->host->ctx, d);
}

static uint32_t act_dtype(tn_device *d, uint32_t weight_dtype)
{
    (void)d;
    (void)weight_dtype;
    return TN_DT_F32;
}

/* All blocks, so that those of a device that hangs are not taken for leaks: nobody else has their addresses. */
struct block {
    struct block *next, **back;
    uint32_t device;
    uint64_t bytes;
};

#define BLOCK_ALIGN 256
static struct block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static int32_t host_block(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    void *p = NULL;
    struct block *b;

    if (posix_memalign(&p, BLOCK_ALIGN, bytes + BLOCK_ALIGN) != 0)
        return tn_err_set(err, TN_E_NOSPACE, "shadow: %llu bytes", (unsigned long long)bytes);
    memset(p, 0xa5, bytes + BLOCK_ALIGN);
    b = p;
    pthread_mutex_lock(&blocks_lock);
    *b = (struct block){blocks, &blocks, d->index, bytes + BLOCK_ALIGN};
    if (b->next)
        b->next->back = &b->next;
    blocks = b;
    pthread_mutex_unlock(&blocks_lock);
    atomic_fetch_add(&d->n_blocks, 1);
    *out = (char *)p + BLOCK_ALIGN;
    return TN_OK;
}

static int32_t mem_alloc(tn_device *d, uint64_t bytes, void **out, tn_err *err)
{
    void *p = NULL;
    int32_t rc;

    if (d->capturing) {
        d->capturing->broken = true;
        return tn_err_set(err, TN_E_DEVICE, "shadow: allocation in a capture");
    }
    rc = host_block(d, bytes, &p, err);
    if (rc == TN_OK)
        *out = shadow_device(p);
    return rc;
}

static void host_block_free(tn_device *d, void *p)
{
    struct block *b;

    if (!p)
        return;
    b = (void *)((char *)p - BLOCK_ALIGN);
    atomic_fetch_sub(&d->n_blocks, 1);
    pthread_mutex_lock(&blocks_lock);
    *b->back = b->next;
    if (b->next)
        b->next->back = b->back;
    pthread_mutex_unlock(&blocks_lock);
    free(b);
}

static void mem_free(tn_device *d, void *p)
{
    host_block_free(d, shadow_host(p));
}

static int32_t mem_info(tn_device *d, uint64_t *free_bytes, uint64_t *total, tn_err *err)
{
    (void)d;
    (void)err;
    *free_bytes = 64u << 20;
    *total = 1u << 30;
    return TN_OK;
}

/* The device that owns that host memory; -1: it is no block, as page-locked memory seen as a device's address is none. */
static int64_t owner_of(const void *host)
{
    int64_t owner = -1;

    pthread_mutex_lock(&blocks_lock);
    for (const struct block *b = blocks; b; b = b->next)
        if ((uintptr_t)host >= (uintptr_t)b && (uintptr_t)host < (uintptr_t)b + b->bytes)
            owner = b->device;
    pthread_mutex_unlock(&blocks_lock);
    return owner;
}

/* Whether that host memory is behind memory of another device. */
static bool is_foreign(const tn_device *d, const void *host)
{
    int64_t owner = owner_of(host);

    return owner >= 0 && owner != d->index;
}

static int32_t copy(tn_device *d, tn_stream *s, void *dst, const void *src, uint64_t bytes,
                    uint32_t kind, tn_err *err)
{
    if (d && d->s->crooked && kind == TN_COPY_DEVICE_TO_DEVICE && is_foreign(d, shadow_host(src)))
        return enqueue(
            s, (struct command){.kind = DO_FILL, .dst = shadow_host(dst), .bytes = bytes}, err);
    return enqueue(s,
                   (struct command){.kind = DO_COPY,
                                    .dst = kind == TN_COPY_DEVICE_TO_HOST ? dst : shadow_host(dst),
                                    .src = kind == TN_COPY_HOST_TO_DEVICE ? src : shadow_host(src),
                                    .bytes = bytes},
                   err);
}

/* The last first: no order is promised. */
static int32_t copy_few(tn_device *d, tn_stream *s, const tn_copy_piece *pieces, uint32_t n,
                        tn_err *err)
{
    int32_t rc = n <= TN_COPY_PIECES ? TN_OK : tn_err_set(err, TN_E_RANGE, "too many pieces");

    while (n-- > 0 && rc == TN_OK) {
        const tn_copy_piece *p = &pieces[n];
        if (p->bytes > 0)
            rc = copy(d, s, p->dst, p->src, p->bytes,
                      owner_of(shadow_host(p->src)) >= 0 ? TN_COPY_DEVICE_TO_HOST
                                                         : TN_COPY_HOST_TO_DEVICE,
                      err);
    }
    return rc;
}

static int32_t fill(tn_device *d, tn_stream *s, void *dst, uint8_t byte, uint64_t bytes,
                    tn_err *err)
{
    (void)d;
    return enqueue(
        s, (struct command){.kind = DO_FILL, .dst = shadow_host(dst), .byte = byte, .bytes = bytes},
        err);
}

/* -- Streams and events ----------------------------------------------------------------------------- */

static int32_t stream_new(tn_device *d, tn_stream **out, tn_err *err)
{
    tn_stream *s = d->s->host->alloc(d->s->host->ctx, sizeof *s, 64);
    int32_t rc;

    if (!s)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    s->d = d;
    s->last = &s->first;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    rc = d->s->host->thread_spawn(d->s->host->ctx, "shadow", -1, work, s, &s->thread, err);
    if (rc == TN_OK)
        *out = s;
    return rc;
}

static void stream_free(tn_device *d, tn_stream *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    d->s->host->thread_join(d->s->host->ctx, s->thread);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    d->s->host->free(d->s->host->ctx, s);
}

static int32_t stream_sync(tn_device *d, tn_stream *s, tn_err *err)
{
    int32_t rc;

    (void)d;
    pthread_mutex_lock(&s->lock);
    while (s->first || s->busy)
        pthread_cond_wait(&s->changed, &s->lock);
    rc = told(s, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int32_t event_new(tn_device *d, tn_event **out, tn_err *err)
{
    tn_event *e = d->s->host->alloc(d->s->host->ctx, sizeof *e, 64);

    if (!e)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    *out = e;
    return TN_OK;
}

static void event_free(tn_device *d, tn_event *e)
{
    d->s->host->free(d->s->host->ctx, e);
}

static int32_t event_record(tn_device *d, tn_event *e, tn_stream *s, tn_err *err)
{
    e->stream = s;
    e->recorded++;
    d->s->n_overlaps += atomic_fetch_add(&d->n_pending, 1) > 0;
    return enqueue(s, (struct command){.kind = DO_EVENT, .event = e}, err);
}

static int32_t event_sync(tn_device *d, tn_event *e, tn_err *err)
{
    tn_stream *s = e->stream;
    int32_t rc;

    atomic_fetch_sub(&d->n_pending, 1);
    pthread_mutex_lock(&s->lock);
    while (e->passed < e->recorded)
        pthread_cond_wait(&s->changed, &s->lock);
    rc = told(s, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int32_t event_query(tn_device *d, tn_event *e, tn_err *err)
{
    tn_stream *s = e->stream;
    int32_t rc;

    (void)d;
    pthread_mutex_lock(&s->lock);
    rc = e->passed < e->recorded ? TN_E_BUSY : told(s, err);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int32_t event_elapsed(tn_device *d, tn_event *from, tn_event *to, double *ns, tn_err *err)
{
    (void)d;
    (void)err;
    *ns = 1000 + (double)(to->ns - from->ns);
    return TN_OK;
}

static int32_t stream_wait(tn_device *d, tn_stream *s, tn_event *e, tn_err *err)
{
    (void)d;
    if (!e->stream)
        return TN_OK; /* never recorded */
    return enqueue(
        s, (struct command){.kind = DO_WAIT, .event = e, .stream = e->stream, .bytes = e->recorded},
        err);
}

/* -- Several devices --------------------------------------------------------------------------------- */

static int32_t peer_access(tn_device *d, tn_device *peer, uint32_t *yes, tn_err *err)
{
    (void)err;
    *yes = d->index == peer->index || !d->s->islands;
    return TN_OK;
}

static int32_t device_link(void *instance, uint32_t a, uint32_t b, tn_device_link *out, tn_err *err)
{
    const struct shadow *s = instance;

    (void)err;
    out->access = out->atomics = a == b || !s->islands;
    snprintf(out->kind, sizeof out->kind, "%s", a == b ? "self" : s->islands ? "pcie" : "nvlink");
    return TN_OK;
}

static int32_t copy_rows(tn_device *d, tn_stream *s, void *dst, uint64_t dst_stride,
                         const void *src, uint64_t src_stride, uint64_t width, uint64_t rows,
                         tn_err *err)
{
    (void)d;
    return rows == 0 ? TN_OK
                     : enqueue(s,
                               (struct command){.kind = DO_COPY,
                                                .dst = shadow_host(dst),
                                                .src = shadow_host(src),
                                                .bytes = width,
                                                .dst_stride = dst_stride,
                                                .src_stride = src_stride,
                                                .rows = rows},
                               err);
}

static int32_t device_sum(tn_device *d, tn_stream *s, void *dst, const void *const *src,
                          uint32_t n_src, uint64_t count, uint32_t dtype, tn_err *err)
{
    struct command c = {.kind = DO_SUM, .dst = shadow_host(dst), .bytes = count};

    (void)d;
    c.sum.n = n_src;
    c.sum.dtype = dtype;
    for (uint32_t i = 0; i < n_src; i++)
        c.sum.src[i] = shadow_host(src[i]);
    return count == 0 ? TN_OK : enqueue(s, c, err);
}

static int32_t meet_bytes(tn_device *d, uint32_t n, uint64_t *bytes, tn_err *err)
{
    (void)d;
    (void)n;
    (void)err;
    *bytes = sizeof(struct room);
    return TN_OK;
}

static int32_t enqueue_meet(tn_stream *s, const tn_device_meet *m, struct command c, tn_err *err)
{
    c.kind = DO_MEET;
    c.dst = shadow_host(c.dst);
    c.src = shadow_host(c.src);
    c.meet.rank = m->rank;
    c.meet.n = m->n;
    c.meet.words = (_Atomic uint32_t *)(uintptr_t)m->words;
    c.meet.timeout_ns = m->timeout_ns;
    for (uint32_t r = 0; r < m->n; r++)
        c.meet.rooms[r] = shadow_host(m->rooms[r]);
    return enqueue(s, c, err);
}

static int32_t meet_sum(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                        const void *src, uint64_t count, uint32_t dtype, tn_err *err)
{
    (void)d;
    return enqueue_meet(s, m,
                        (struct command){.dst = dst,
                                         .src = src,
                                         .bytes = count * tn_dtype_bits(dtype) / 8,
                                         .meet = {.dtype = dtype}},
                        err);
}

static int32_t meet_gather(tn_device *d, tn_stream *s, const tn_device_meet *m, void *dst,
                           const void *src, uint64_t bytes, tn_err *err)
{
    (void)d;
    return enqueue_meet(
        s, m, (struct command){.dst = dst, .src = src, .bytes = bytes, .meet = {.gather = true}},
        err);
}

/* -- Graphs and kernels ------------------------------------------------------------------------------ */

static int32_t capture_begin(tn_device *d, tn_stream *s, tn_err *err)
{
    tn_graph *g = d->s->host->alloc(d->s->host->ctx, sizeof *g, 64);

    if (!g)
        return tn_err_set(err, TN_E_NOMEM, "shadow: no memory");
    g->last = &g->first;
    s->broken = false;
    d->capturing = s;
    pthread_mutex_lock(&s->lock);
    s->capture = g;
    pthread_mutex_unlock(&s->lock);
    return TN_OK;
}

static void graph_free(tn_device *d, tn_graph *g)
{
    while (g && g->first) {
        struct command *c = g->first;
        g->first = c->next;
        free(c);
    }
    d->s->host->free(d->s->host->ctx, g);
}

static int32_t capture_end(tn_device *d, tn_stream *s, tn_graph **out, tn_err *err)
{
    tn_graph *g = s->capture;

    d->capturing = NULL;
    pthread_mutex_lock(&s->lock);
    s->capture = NULL;
    pthread_mutex_unlock(&s->lock);
    if (s->broken) {
        graph_free(d, g);
        return tn_err_set(err, TN_E_DEVICE, "shadow: the capture was broken");
    }
    *out = g;
    return TN_OK;
}

static int32_t graph_launch(tn_device *d, tn_graph *g, tn_stream *s, tn_err *err)
{
    d->s->n_graphs++;
    return enqueue(s, (struct command){.kind = DO_GRAPH, .graph = g}, err);
}

static int32_t launch(tn_device *d, tn_stream *s, const tn_kernel_launch *k, tn_err *err)
{
    struct command c = {.kind = DO_KERNEL};

    if (atomic_fetch_add(&d->s->n_launches, 1) + 1 == d->s->hang_launch)
        hang();

    (void)d;
    memcpy(&c.kernel, k->params[0], sizeof c.kernel);
    return enqueue(s, c, err);
}

const tn_device_api shadow_device_api = {.h = TN_HDR(tn_device_api),
                                         .kind = "shadow",
                                         .count = count,
                                         .info = info,
                                         .open = device_open,
                                         .close = device_close,
                                         .act_dtype = act_dtype,
                                         .mem_alloc = mem_alloc,
                                         .mem_free = mem_free,
                                         .mem_info = mem_info,
                                         .pinned_alloc = host_block,
                                         .pinned_free = host_block_free,
                                         .copy = copy,
                                         .fill = fill,
                                         .stream_new = stream_new,
                                         .stream_free = stream_free,
                                         .stream_sync = stream_sync,
                                         .event_new = event_new,
                                         .event_free = event_free,
                                         .event_record = event_record,
                                         .event_query = event_query,
                                         .event_sync = event_sync,
                                         .event_elapsed_ns = event_elapsed,
                                         .stream_wait = stream_wait,
                                         .capture_begin = capture_begin,
                                         .capture_end = capture_end,
                                         .graph_launch = graph_launch,
                                         .graph_free = graph_free,
                                         .launch = launch,
                                         .peer_access = peer_access,
                                         .copy_rows = copy_rows,
                                         .link = device_link,
                                         .sum = device_sum,
                                         .meet_bytes = meet_bytes,
                                         .meet_sum = meet_sum,
                                         .meet_gather = meet_gather,
                                         .copy_few = copy_few};
