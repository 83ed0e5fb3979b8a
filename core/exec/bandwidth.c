/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How fast a device can read its memory: what a decode step is measured against. A kernel set may offer the op "read" for
 * it; without one, a device that computes in host memory reads on its workers, and any other copies from memory to memory,
 * which moves every byte twice.
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "base/mem.h"
#include "exec/bound.h"
#include "exec/judge.h"
#include "tenon/ops.h"

#define MOST_BYTES (UINT64_C(1) << 30) /* far more than any cache holds */
#define LEAST_BYTES (UINT64_C(1) << 24)
#define ROUNDS 5
#define REPEATS 8

struct probe {
    const struct bind_options *o;
    const struct kernel_source *source;
    const tn_variant *read; /* NULL: none is offered */
    uint8_t *memory;
    uint64_t bytes;
    tn_stream *stream;
    tn_event *from, *to;
};

/* -- Reading on the host's workers ------------------------------------------------------------------------ */

struct host_read {
    const uint64_t *words;
    uint64_t n;
    atomic_uint_fast64_t sum; /* so that nothing of it can be left out */
};

static void read_part(void *arg, uint32_t index, uint32_t count)
{
    struct host_read *h = arg;
    uint64_t begin = h->n / count * index / 16 * 16, s[16] = {0};
    uint64_t end = index + 1 == count ? h->n / 16 * 16 : h->n / count * (index + 1) / 16 * 16;

    for (uint64_t i = begin; i < end; i += 16)
        for (uint32_t k = 0; k < 16; k++)
            s[k] ^= h->words[i + k];
    for (uint32_t k = 0; k < 16; k++)
        atomic_fetch_add(&h->sum, s[k]);
}

static double host_seconds(struct probe *p)
{
    struct host_read h = {(const uint64_t *)(const void *)p->memory, p->bytes / 8, 0};
    uint64_t begin = clock_ns();

    for (uint32_t i = 0; i < REPEATS; i++) {
        if (p->o->api->parallel)
            p->o->api->parallel(p->o->device, read_part, &h);
        else
            read_part(&h, 0, 1);
    }
    return (double)(clock_ns() - begin) / 1e9;
}

/* -- Reading on a device ---------------------------------------------------------------------------------- */

static int32_t read_once(struct probe *p, tn_err *err)
{
    const tn_value
        x = {.h = TN_HDR(tn_value), .kind = TN_VALUE_ROWS, .dtype = TN_DT_I8, .width = p->bytes},
        y = {.h = TN_HDR(tn_value), .kind = TN_VALUE_ROWS, .dtype = TN_DT_I32, .width = 1};
    const tn_value *in[] = {&x}, *out[] = {&y};
    const tn_op op = {.h = TN_HDR(tn_op),
                      .name = TN_OP_READ,
                      .layer = -1,
                      .n_in = 1,
                      .n_out = 1,
                      .in = in,
                      .out = out};
    const tn_batch one = {.h = TN_HDR(tn_batch), .n_rows = 1};
    const void *from[] = {p->memory};
    void *to[] = {p->memory + p->bytes};
    const tn_launch l = {.h = TN_HDR(tn_launch),
                         .op = &op,
                         .batch = &one,
                         .in = from,
                         .out = to,
                         .stream = p->stream,
                         .device = p->o->device,
                         .tp_size = 1};

    if (p->read)
        return p->read->launch(p->source->instance, &l, err);
    return p->o->api->copy(p->o->device, p->stream, p->memory, p->memory + p->bytes / 2,
                           p->bytes / 2, TN_COPY_DEVICE_TO_DEVICE, err);
}

static int32_t device_seconds(struct probe *p, double *seconds, tn_err *err)
{
    const tn_device_api *api = p->o->api;
    tn_device *d = p->o->device;
    double ns = 0;
    int32_t rc = api->event_record(d, p->from, p->stream, err);

    for (uint32_t i = 0; i < REPEATS && rc == TN_OK; i++)
        rc = read_once(p, err);
    if (rc == TN_OK)
        rc = api->event_record(d, p->to, p->stream, err);
    if (rc == TN_OK)
        rc = api->stream_sync(d, p->stream, err);
    if (rc == TN_OK)
        rc = api->event_elapsed_ns(d, p->from, p->to, &ns, err);
    *seconds = ns / 1e9;
    return rc;
}

/* -- All --------------------------------------------------------------------------------------------------- */

/* Half of what is free, as far as more is of use; the rest is left to others. Behind it, room for the op's output. */
static int32_t open_probe(struct probe *p, tn_err *err)
{
    const tn_device_api *api = p->o->api;
    uint64_t left = 0, total = 0;
    void *memory = NULL;
    int32_t rc = api->mem_info(p->o->device, &left, &total, err);

    if (rc != TN_OK)
        return rc;
    p->bytes = left / 2 < MOST_BYTES ? left / 2 / 4096 * 4096 : MOST_BYTES;
    if (p->bytes < LEAST_BYTES)
        return tn_err_set(err, TN_E_NOSPACE, "%s has too little memory left to measure with",
                          p->o->place);
    rc = api->mem_alloc(p->o->device, p->bytes + 256, &memory, err);
    p->memory = memory;
    p->read = judge_service(&p->o->select, TN_OP_READ, &p->source);
    if (rc == TN_OK && (p->o->select.device->flags & TN_DEVICE_STREAMS)) {
        rc = api->stream_new(p->o->device, &p->stream, err);
        if (rc == TN_OK)
            rc = api->event_new(p->o->device, &p->from, err);
        if (rc == TN_OK)
            rc = api->event_new(p->o->device, &p->to, err);
    }
    /* Zeros could be a special case of something. */
    return rc == TN_OK ? api->fill(p->o->device, p->stream, memory, 0x5a, p->bytes, err) : rc;
}

static void close_probe(struct probe *p)
{
    const tn_device_api *api = p->o->api;

    if (p->from)
        api->event_free(p->o->device, p->from);
    if (p->to)
        api->event_free(p->o->device, p->to);
    if (p->stream)
        api->stream_free(p->o->device, p->stream);
    if (p->memory)
        api->mem_free(p->o->device, p->memory);
}

int32_t binding_bandwidth(const struct binding *b, double *bytes_per_s, tn_err *err)
{
    struct probe p = {.o = &b->o};
    double best = 0, s = 0;
    int32_t rc = open_probe(&p, err);

    for (uint32_t i = 0; i < ROUNDS && rc == TN_OK; i++) {
        if (p.stream)
            rc = device_seconds(&p, &s, err);
        else
            s = host_seconds(&p);
        if (rc == TN_OK && s > 0 && (double)p.bytes * REPEATS / s > best)
            best = (double)p.bytes * REPEATS / s;
    }
    close_probe(&p);
    if (rc == TN_OK)
        *bytes_per_s = best;
    return rc;
}
