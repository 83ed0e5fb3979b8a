/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/upload.h"

#include <pthread.h>

#include "base/checked.h"
#include "base/limits.h"
#include "base/mem.h"
#include "engine/dummy.h"
#include "exec/judge.h"
#include "tenon/ops.h"

/* Large enough that a copy runs at the bus's rate, small enough that the last ones of a weight do not drag. */
#define CHUNK (4 * MIB)
#define BUFFERS 2 /* of each thread: one is filled while the other travels */
#define MAX_THREADS 16
#define QUEUE 64

/* Rows [first, first + rows) of a slice, or a part of one row. At most CHUNK bytes. */
struct job {
    struct upload_slice slice;
    uint64_t first, rows;
    uint64_t skip, bytes; /* within the row, if it is a part */
    uint8_t *dst;
};

struct worker {
    struct upload *u;
    pthread_t thread;
    bool started;
    void *buffers[BUFFERS];
    tn_event *passed[BUFFERS];
    bool travelling[BUFFERS];
};

struct upload {
    struct upload_options o;
    struct ledger_owner *owner;
    uint64_t booked;
    struct worker workers[MAX_THREADS];
    uint32_t n_workers;
    pthread_mutex_t stream_lock; /* the stream is used by one thread at a time */
    pthread_mutex_t lock;        /* guards the rest */
    pthread_cond_t changed;
    struct job queue[QUEUE];
    uint32_t first, n_queued, n_busy;
    bool ending;
    int32_t status;
    tn_err err;              /* of the first job that failed */
    const tn_variant *dummy; /* makes dummy weights on the device; NULL: the threads do */
    const struct kernel_source *dummy_source;
};

/* -- Filling a buffer ------------------------------------------------------------------------------------ */

static int32_t read_range(const struct upload *u, uint32_t weight, uint64_t at, uint64_t bytes,
                          void *dst, tn_err *err)
{
    const struct engine *e = u->o.engine;
    const struct plan_weight *w = &e->plan->weights[weight];
    const uint8_t *mapped = engine_weight(e, weight);
    uint32_t bits = tn_dtype_bits(w->dtype);

    if (!mapped) {
        dummy_fill(w, e->tensors[weight].seed, at * 8 / bits, bytes * 8 / bits, dst);
        return TN_OK;
    }
    if (e->map.fd < 0) { /* opened from memory */
        memcpy(dst, mapped + at, bytes);
        return TN_OK;
    }
    const struct file_reader f = {.fd = e->map.fd, .size = e->map.size, .path = e->path};
    return file_reader_at(&f, (uint64_t)(mapped - e->map.data) + at, dst, (size_t)bytes, err);
}

static int32_t fill(const struct upload *u, const struct job *j, uint8_t *dst, tn_err *err)
{
    const struct upload_slice *s = &j->slice;
    int32_t rc = TN_OK;

    if (s->zero) {
        memset(dst, 0, j->bytes);
        return TN_OK;
    }
    if (s->row_bytes == s->stride || j->rows == 1)
        return read_range(u, s->weight, s->at + j->first * s->stride + j->skip, j->bytes, dst, err);
    for (uint64_t r = 0; r < j->rows && rc == TN_OK; r++)
        rc = read_range(u, s->weight, s->at + (j->first + r) * s->stride, s->row_bytes,
                        dst + r * s->row_bytes, err);
    return rc;
}

/* -- Threads --------------------------------------------------------------------------------------------- */

static int32_t send(struct worker *w, uint32_t buffer, const struct job *j, tn_err *err)
{
    const struct upload_options *o = &w->u->o;
    int32_t rc;

    pthread_mutex_lock(&w->u->stream_lock);
    rc = o->api->copy(o->device, o->stream, j->dst, w->buffers[buffer], j->bytes,
                      TN_COPY_HOST_TO_DEVICE, err);
    if (rc == TN_OK && w->passed[buffer])
        rc = o->api->event_record(o->device, w->passed[buffer], o->stream, err);
    pthread_mutex_unlock(&w->u->stream_lock);
    w->travelling[buffer] = rc == TN_OK && w->passed[buffer];
    return rc;
}

static int32_t do_job(struct worker *w, uint32_t buffer, const struct job *j, tn_err *err)
{
    const struct upload_options *o = &w->u->o;
    int32_t rc = TN_OK;

    if (w->travelling[buffer])
        rc = o->api->event_sync(o->device, w->passed[buffer], err);
    w->travelling[buffer] = false;
    if (rc == TN_OK)
        rc = fill(w->u, j, w->buffers[buffer], err);
    return rc == TN_OK ? send(w, buffer, j, err) : rc;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct upload *u = w->u;
    uint32_t buffer = 0;

    pthread_mutex_lock(&u->lock);
    while (!u->ending) {
        tn_err err = TN_ERR_INIT;
        int32_t rc = TN_OK;
        struct job j;
        if (u->n_queued == 0) {
            pthread_cond_wait(&u->changed, &u->lock);
            continue;
        }
        j = u->queue[u->first];
        u->first = (u->first + 1) % QUEUE;
        u->n_queued--;
        u->n_busy++;
        rc = u->status;
        pthread_cond_broadcast(&u->changed);
        pthread_mutex_unlock(&u->lock);
        if (rc == TN_OK)
            rc = do_job(w, buffer, &j, &err);
        buffer = (buffer + 1) % BUFFERS;
        pthread_mutex_lock(&u->lock);
        if (u->status == TN_OK && rc != TN_OK) {
            u->status = rc;
            u->err = err;
        }
        u->n_busy--;
        pthread_cond_broadcast(&u->changed);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

/* -- Life ------------------------------------------------------------------------------------------------ */

static int32_t make_buffers(struct worker *w, tn_err *err)
{
    const struct upload_options *o = &w->u->o;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < BUFFERS && rc == TN_OK; i++) {
        rc = o->api->pinned_alloc
                 ? o->api->pinned_alloc(o->device, CHUNK, &w->buffers[i], err)
                 : ((w->buffers[i] = mem_aligned(CHUNK, 64)) ? TN_OK : err_nomem(err, "loading"));
        if (rc == TN_OK) {
            ledger_take(w->u->owner, CHUNK);
            w->u->booked += CHUNK;
        }
        if (rc == TN_OK && o->stream)
            rc = o->api->event_new(o->device, &w->passed[i], err);
    }
    return rc;
}

static int32_t start_workers(struct upload *u, tn_err *err)
{
    uint32_t n = u->o.n_threads < 1 ? 1 : u->o.n_threads;
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < (n < MAX_THREADS ? n : MAX_THREADS) && rc == TN_OK; i++) {
        struct worker *w = &u->workers[u->n_workers++];
        int e = 0;
        w->u = u;
        rc = make_buffers(w, err);
        if (rc == TN_OK && (e = pthread_create(&w->thread, NULL, worker_main, w)) != 0)
            rc = err_errno(err, "start a thread for", "loading weights", e);
        w->started = rc == TN_OK;
    }
    return rc;
}

int32_t upload_open(const struct upload_options *o, struct upload **out, tn_err *err)
{
    struct upload *u = mem_zalloc(sizeof *u);
    int32_t rc;

    if (!u)
        return err_nomem(err, "loading weights");
    u->o = *o;
    pthread_mutex_init(&u->stream_lock, NULL);
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->changed, NULL);
    rc = ledger_owner(o->ledger, "loading", "host", &u->owner, err);
    if (o->select)
        u->dummy = judge_service(o->select, TN_OP_DUMMY, &u->dummy_source);
    if (rc == TN_OK)
        rc = start_workers(u, err);
    if (rc != TN_OK) {
        upload_close(u);
        return rc;
    }
    *out = u;
    return TN_OK;
}

static void end_worker(struct worker *w)
{
    const struct upload_options *o = &w->u->o;

    for (uint32_t i = 0; i < BUFFERS; i++) {
        if (w->passed[i])
            o->api->event_free(o->device, w->passed[i]);
        if (o->api->pinned_alloc)
            o->api->pinned_free(o->device, w->buffers[i]);
        else
            mem_free(w->buffers[i]);
    }
}

void upload_close(struct upload *u)
{
    if (!u)
        return;
    pthread_mutex_lock(&u->lock);
    u->ending = true;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    for (uint32_t i = 0; i < u->n_workers; i++)
        if (u->workers[i].started)
            pthread_join(u->workers[i].thread, NULL);
    if (u->o.stream)
        u->o.api->stream_sync(u->o.device, u->o.stream, NULL);
    for (uint32_t i = 0; i < u->n_workers; i++)
        end_worker(&u->workers[i]);
    if (u->owner)
        ledger_give(u->owner, u->booked);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    pthread_mutex_destroy(&u->stream_lock);
    mem_free(u);
}

/* -- Putting --------------------------------------------------------------------------------------------- */

static int32_t put_job(struct upload *u, const struct job *j, tn_err *err)
{
    int32_t rc;

    pthread_mutex_lock(&u->lock);
    while (u->n_queued == QUEUE && u->status == TN_OK)
        pthread_cond_wait(&u->changed, &u->lock);
    rc = u->status;
    if (rc == TN_OK) {
        u->queue[(u->first + u->n_queued++) % QUEUE] = *j;
        pthread_cond_broadcast(&u->changed);
    } else if (err) {
        *err = u->err;
    }
    pthread_mutex_unlock(&u->lock);
    return rc;
}

/* A row that does not fit a buffer travels in parts. */
static int32_t put_long_row(struct upload *u, struct job *j, tn_err *err)
{
    uint64_t end = j->slice.row_bytes;
    int32_t rc = TN_OK;

    for (j->skip = 0; j->skip < end && rc == TN_OK; j->skip += j->bytes) {
        j->bytes = end - j->skip < CHUNK ? end - j->skip : CHUNK;
        rc = put_job(u, j, err);
        j->dst += j->bytes;
    }
    return rc;
}

/* A slice that the device makes itself; *made is false if it cannot. */
static int32_t put_dummy(struct upload *u, const struct upload_slice *s, void *dst, bool *made,
                         tn_err *err)
{
    const struct plan_weight *w = &u->o.engine->plan->weights[s->weight];
    uint64_t bits = tn_dtype_bits(w->dtype), row = s->row_bytes * 8 / bits;
    const tn_attr attrs[] = {
        TN_ATTR_INT("seed", (int64_t)u->o.engine->tensors[s->weight].seed),
        TN_ATTR_INT("role", (int64_t)w->role),
        TN_ATTR_INT("first", (int64_t)(s->at * 8 / bits)),
        TN_ATTR_INT("row", (int64_t)row),
        TN_ATTR_INT("stride", (int64_t)(s->stride * 8 / bits)),
        TN_ATTR_INT("count", (int64_t)(row * s->rows)),
    };
    const tn_value y = {
        .h = TN_HDR(tn_value), .kind = TN_VALUE_ROWS, .dtype = w->dtype, .width = row * s->rows};
    const tn_value *out[] = {&y};
    const tn_op op = {.h = TN_HDR(tn_op),
                      .name = TN_OP_DUMMY,
                      .layer = -1,
                      .n_out = 1,
                      .n_attrs = sizeof attrs / sizeof *attrs,
                      .out = out,
                      .attrs = attrs};
    const tn_batch one = {.h = TN_HDR(tn_batch), .n_rows = 1};
    void *to[] = {dst};
    const tn_launch l = {.h = TN_HDR(tn_launch),
                         .op = &op,
                         .batch = &one,
                         .out = to,
                         .stream = u->o.stream,
                         .device = u->o.device,
                         .tp_size = 1};
    int32_t rc;

    *made =
        u->dummy && !s->zero && !engine_weight(u->o.engine, s->weight) && bits >= 8 &&
        (!u->dummy->can_run || u->dummy->can_run(u->dummy_source->instance, &op, NULL) == TN_OK);
    if (!*made)
        return TN_OK;
    pthread_mutex_lock(&u->stream_lock);
    rc = u->dummy->launch(u->dummy_source->instance, &l, err);
    pthread_mutex_unlock(&u->stream_lock);
    if (rc != TN_OK)
        err_plugin(err, u->dummy_source->plugin);
    return rc;
}

int32_t upload_put(struct upload *u, const struct upload_slice *s, void *dst, tn_err *err)
{
    uint64_t fit = s->row_bytes ? CHUNK / s->row_bytes : 0;
    bool made = false;
    int32_t rc = TN_OK;

    if (s->row_bytes == 0)
        return TN_OK;
    rc = put_dummy(u, s, dst, &made, err);
    if (made)
        return rc;
    for (uint64_t first = 0; first < s->rows && rc == TN_OK; first += fit ? fit : 1) {
        struct job j = {.slice = *s,
                        .first = first,
                        .rows = 1,
                        .bytes = s->row_bytes,
                        .dst = (uint8_t *)dst + first * s->row_bytes};
        if (fit == 0) {
            rc = put_long_row(u, &j, err);
            continue;
        }
        j.rows = s->rows - first < fit ? s->rows - first : fit;
        j.bytes = j.rows * s->row_bytes;
        rc = put_job(u, &j, err);
    }
    return rc;
}

int32_t upload_flush(struct upload *u, tn_err *err)
{
    int32_t rc;

    pthread_mutex_lock(&u->lock);
    while (u->n_queued > 0 || u->n_busy > 0)
        pthread_cond_wait(&u->changed, &u->lock);
    rc = u->status;
    if (rc != TN_OK && err)
        *err = u->err;
    pthread_mutex_unlock(&u->lock);
    return rc;
}
