/* SPDX-License-Identifier: Apache-2.0 */
#include "comm/contract.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tenon/dtype.h"
#include "tenon/float.h"

struct run {
    const tn_comm_backend *b;
    tn_comm_group *g;
    uint32_t rank, n;
    const struct contract_memory *m;   /* NULL: the host's */
    unsigned char *send, *recv, *want; /* host */
    void *from, *to; /* what calls are given: send and recv, or memory of the device */
    tn_stream *stream;
    tn_err *err;
};

#define MAX_COUNT 200000u /* more than a backend moves at a time */
#define TURNS 8

/* Element i of rank r: small whole numbers and halves, exact in every dtype, also when summed. */
static float element(uint32_t r, uint64_t i)
{
    return (float)((int)((i * 7 + r * 3) % 17) - 8) * 0.5f;
}

static void put(unsigned char *data, uint64_t i, float x, uint32_t dtype)
{
    uint16_t half = dtype == TN_DT_F16 ? tn_f32_to_f16(x) : tn_f32_to_bf16(x);
    int32_t whole = (int32_t)(2 * x);

    if (dtype == TN_DT_F32)
        memcpy(data + 4 * i, &x, 4);
    else if (dtype == TN_DT_I32)
        memcpy(data + 4 * i, &whole, 4);
    else
        memcpy(data + 2 * i, &half, 2);
}

static float get(const unsigned char *data, uint64_t i, uint32_t dtype)
{
    uint16_t half;
    float x;

    if (dtype == TN_DT_F32) {
        memcpy(&x, data + 4 * i, 4);
        return x;
    }
    memcpy(&half, data + 2 * i, 2);
    return dtype == TN_DT_F16 ? tn_f16_to_f32(half) : tn_bf16_to_f32(half);
}

static void fill(const struct run *u, uint64_t count, uint32_t dtype)
{
    for (uint64_t i = 0; i < count; i++)
        put(u->send, i, element(u->rank, i), dtype);
    memset(u->recv, 0xEE, 64);
}

/* Brings what stands in `send` to where calls find it, and nothing of use to where they write. */
static int32_t push(const struct run *u, uint64_t bytes)
{
    int32_t rc;

    if (!u->m)
        return TN_OK;
    rc = u->m->api->fill(u->m->device, u->stream, u->to, 0xEE, 64, u->err);
    return rc == TN_OK ? u->m->api->copy(u->m->device, u->stream, u->from, u->send, bytes,
                                         TN_COPY_HOST_TO_DEVICE, u->err)
                       : rc;
}

/* Brings what a call wrote to `got`, which is u->from or u->to, to the host: u->send or u->recv. */
static int32_t pull(const struct run *u, const void *got, uint64_t bytes)
{
    unsigned char *to = got == u->from ? u->send : u->recv;
    int32_t rc;

    if (!u->m)
        return TN_OK;
    rc = u->m->api->copy(u->m->device, u->stream, to, got, bytes, TN_COPY_DEVICE_TO_HOST, u->err);
    return rc == TN_OK ? u->m->api->stream_sync(u->m->device, u->stream, u->err) : rc;
}

static float sum(const struct run *u, uint64_t i)
{
    float x = 0;

    for (uint32_t r = 0; r < u->n; r++)
        x += element(r, i);
    return x;
}

static int32_t same(const struct run *u, const void *got, uint64_t bytes, const char *what)
{
    int32_t rc = pull(u, got, bytes);

    if (rc != TN_OK)
        return rc;
    if (memcmp(got == u->from ? u->send : u->recv, u->want, bytes) == 0)
        return TN_OK;
    return tn_err_set(u->err, TN_E_INTERNAL, "rank %u: %s of %llu bytes is wrong",
                      (unsigned)u->rank, what, (unsigned long long)bytes);
}

static int32_t reductions(const struct run *u, uint64_t count, uint32_t dtype)
{
    uint64_t size = tn_dtype_bits(dtype) / 8;
    int32_t rc;

    fill(u, count, dtype);
    for (uint64_t i = 0; i < count; i++)
        put(u->want, i, sum(u, i), dtype);
    rc = push(u, count * size);
    if (rc == TN_OK)
        rc = u->b->all_reduce(u->g, u->from, u->to, count, dtype, u->stream, u->err);
    if (rc == TN_OK)
        rc = same(u, u->to, count * size, "all_reduce");
    if (rc == TN_OK && (u->b->flags & TN_COMM_IN_PLACE)) {
        rc = u->b->all_reduce(u->g, u->from, u->from, count, dtype, u->stream, u->err);
        if (rc == TN_OK)
            rc = same(u, u->from, count * size, "all_reduce in place");
    }
    if (rc != TN_OK)
        return rc;
    fill(u, count * u->n, dtype);
    for (uint64_t i = 0; i < count; i++)
        put(u->want, i, sum(u, count * u->rank + i), dtype);
    rc = push(u, count * size * u->n);
    if (rc == TN_OK)
        rc = u->b->reduce_scatter(u->g, u->from, u->to, count, dtype, u->stream, u->err);
    return rc == TN_OK ? same(u, u->to, count * size, "reduce_scatter") : rc;
}

/* What kernels would do with the parts of a sum, one element per row. */
static int32_t add_parts(const struct run *u, const tn_comm_parts *p, uint64_t count,
                         uint32_t dtype)
{
    uint64_t size = tn_dtype_bits(dtype) / 8;
    unsigned char *seen = malloc(count * size * p->n_parts);
    int32_t rc = seen ? TN_OK : TN_E_NOMEM;

    for (uint32_t r = 0; r < p->n_parts && rc == TN_OK; r++) {
        uint64_t first = p->each * r < count ? p->each * r : count;
        uint64_t end = p->each == 0 || count - first < p->each ? count : first + p->each;
        unsigned char *to = seen + r * count * size + first * size;
        const unsigned char *from = (const unsigned char *)p->part[r] + first * size;
        if (!u->m)
            memcpy(to, from, (end - first) * size);
        else if (end > first)
            rc = u->m->api->copy(u->m->device, u->stream, to, from, (end - first) * size,
                                 TN_COPY_DEVICE_TO_HOST, u->err);
    }
    if (rc == TN_OK && u->m)
        rc = u->m->api->stream_sync(u->m->device, u->stream, u->err);
    for (uint64_t i = 0; i < count && rc == TN_OK; i++) {
        float x = 0;
        for (uint32_t r = 0; r < (p->each ? 1 : p->n_parts); r++)
            x += get(seen, (p->each ? i / p->each : r) * count + i, dtype);
        if (x != get(u->want, i, dtype))
            rc = tn_err_set(u->err, TN_E_INTERNAL, "rank %u: element %llu of %u parts is %g",
                            (unsigned)u->rank, (unsigned long long)i, (unsigned)p->n_parts,
                            (double)x);
    }
    free(seen);
    return rc;
}

/* The two halves of a sum, where the backend has them. What was shown may change as soon as it is hidden. */
static int32_t halves(const struct run *u, uint64_t count, uint32_t dtype)
{
    tn_comm_parts parts = {.h = TN_HDR(tn_comm_parts)};
    uint64_t size = tn_dtype_bits(dtype) / 8;
    int32_t rc;

    if (!TN_HAS(tn_comm_backend, u->b, hide) || !u->b->show || dtype == TN_DT_I32)
        return TN_OK;
    fill(u, count, dtype);
    for (uint64_t i = 0; i < count; i++)
        put(u->want, i, sum(u, i), dtype);
    rc = push(u, count * size);
    if (rc == TN_OK)
        rc = u->b->show(u->g, u->from, u->to, count, 1, dtype, &parts, u->stream, u->err);
    if (rc == TN_OK)
        rc = add_parts(u, &parts, count, dtype);
    if (rc == TN_OK)
        rc = u->b->hide(u->g, u->stream, u->err);
    if (rc != TN_OK)
        return rc;
    memset(u->send, 0x77, count * size);
    memset(u->recv, 0x77, count * size);
    rc = push(u, count * size);
    return rc == TN_OK && u->m ? u->m->api->stream_sync(u->m->device, u->stream, u->err) : rc;
}

static int32_t moves(const struct run *u, uint64_t count, uint32_t dtype)
{
    uint64_t bytes = count * tn_dtype_bits(dtype) / 8;
    uint32_t root = u->n - 1;
    int32_t rc;

    fill(u, count, dtype);
    for (uint32_t r = 0; r < u->n; r++)
        for (uint64_t i = 0; i < count; i++)
            put(u->want, r * count + i, element(r, i), dtype);
    rc = push(u, bytes);
    if (rc == TN_OK)
        rc = u->b->all_gather(u->g, u->from, u->to, count, dtype, u->stream, u->err);
    if (rc == TN_OK)
        rc = same(u, u->to, bytes * u->n, "all_gather");
    if (rc != TN_OK)
        return rc;
    for (uint64_t i = 0; i < count; i++)
        put(u->want, i, element(root, i), dtype);
    rc = u->b->broadcast(u->g, u->from, bytes, root, u->stream, u->err);
    return rc == TN_OK ? same(u, u->from, bytes, "broadcast") : rc;
}

/* A chain, as the stages of a pipeline: each rank gets from the one before and hands on. */
static int32_t messages(const struct run *u, uint64_t count)
{
    uint64_t bytes = count * 4;
    int32_t rc = TN_OK;

    fill(u, count, TN_DT_F32);
    for (uint64_t i = 0; i < count; i++)
        put(u->want, i, element(0, i), TN_DT_F32);
    rc = push(u, bytes);
    if (rc == TN_OK && u->rank > 0)
        rc = u->b->recv(u->g, u->from, bytes, u->rank - 1, u->stream, u->err);
    if (rc == TN_OK && u->rank + 1 < u->n)
        rc = u->b->send(u->g, u->from, bytes, u->rank + 1, u->stream, u->err);
    return rc == TN_OK ? same(u, u->from, bytes, "a message") : rc;
}

static int32_t move_on_device(const struct run *u, void *dst, const void *src, uint64_t bytes)
{
    if (!u->m)
        memcpy(dst, src, bytes);
    return u->m ? u->m->api->copy(u->m->device, u->stream, dst, src, bytes,
                                  TN_COPY_DEVICE_TO_DEVICE, u->err)
                : TN_OK;
}

/* Sums on end out of one buffer, which is filled anew as soon as a sum is enqueued; no thread waits in between. */
static int32_t reuse(const struct run *u, uint64_t count)
{
    uint64_t bytes = count * 4;
    char *all = u->to;
    int32_t rc;

    fill(u, TURNS * count, TN_DT_F32);
    for (uint64_t i = 0; i < TURNS * count; i++)
        put(u->want, i, sum(u, i), TN_DT_F32);
    rc = push(u, TURNS * bytes);
    if (rc == TN_OK)
        rc = move_on_device(u, all, u->from, TURNS * bytes);
    for (uint32_t k = 0; k < TURNS && rc == TN_OK; k++) {
        rc = move_on_device(u, u->from, all + k * bytes, bytes);
        if (rc == TN_OK)
            rc = u->b->all_reduce(u->g, u->from, all + k * bytes, count, TN_DT_F32, u->stream,
                                  u->err);
    }
    return rc == TN_OK ? same(u, u->to, TURNS * bytes, "sums on end") : rc;
}

static int32_t refusals(const struct run *u)
{
    tn_err err = TN_ERR_INIT;

    if (u->b->all_reduce(u->g, u->from, u->to, 1, TN_DT_I4, u->stream, &err) != TN_E_UNSUPPORTED ||
        u->b->broadcast(u->g, u->from, 1, u->n, u->stream, &err) != TN_E_RANGE ||
        u->b->send(u->g, u->from, 1, u->rank, u->stream, &err) != TN_E_RANGE ||
        u->b->recv(u->g, u->to, 1, u->n, u->stream, &err) != TN_E_RANGE)
        return tn_err_set(u->err, TN_E_INTERNAL, "a call that makes no sense was not refused");
    return u->b->async_error(u->g, u->err); /* and none of them broke anything */
}

static int32_t run_all(const struct run *u)
{
    static const uint64_t counts[] = {1, 2, 63, 1000, 1025, 70001, MAX_COUNT};
    static const uint32_t dtypes[] = {TN_DT_F32, TN_DT_F16, TN_DT_BF16, TN_DT_I32};
    int32_t rc = TN_OK;

    for (uint32_t i = 0; i < 7 && rc == TN_OK; i++) {
        for (uint32_t d = 0; d < 4 && rc == TN_OK; d++)
            if ((u->b->dtypes & TN_DT_BIT(dtypes[d])) && (d == 0 || counts[i] <= 1025)) {
                rc = reductions(u, counts[i], dtypes[d]);
                if (rc == TN_OK)
                    rc = halves(u, counts[i], dtypes[d]);
                if (rc == TN_OK)
                    rc = moves(u, counts[i], dtypes[d]);
            }
        if (rc == TN_OK)
            rc = messages(u, counts[i]);
        if (rc == TN_OK)
            rc = u->b->barrier(u->g, u->stream, u->err);
    }
    if (rc == TN_OK)
        rc = reuse(u, 1000);
    if (rc == TN_OK)
        rc = reuse(u, MAX_COUNT / TURNS);
    return rc == TN_OK ? refusals(u) : rc;
}

static int32_t run_and_see(const struct run *u)
{
    tn_comm_link link = {.h = TN_HDR(tn_comm_link)};
    int32_t rc = run_all(u);

    if (rc == TN_OK)
        rc = u->b->link(u->g, u->rank, &link, u->err);
    if (rc == TN_OK && strcmp(link.kind, "self") != 0)
        rc = tn_err_set(u->err, TN_E_INTERNAL, "the link to oneself is called %s", link.kind);
    if (rc == TN_OK && u->m)
        rc = u->m->api->stream_sync(u->m->device, u->stream, u->err);
    return rc;
}

/* u->from and u->to on the device. *own: they are not the group's, which goes with it. */
static int32_t find_buffers(struct run *u, uint64_t bytes, bool *own)
{
    const struct contract_memory *m = u->m;
    void *of_group = NULL;
    int32_t rc = TN_OK;

    bytes = (bytes + 255) / 256 * 256;
    u->from = u->to = NULL;
    if (m->of_group && TN_HAS(tn_comm_backend, u->b, memory) && u->b->memory)
        rc = u->b->memory(u->g, 2 * bytes, 1, &of_group, u->err);
    *own = !of_group;
    if (of_group) {
        u->from = of_group;
        u->to = (char *)of_group + bytes;
        return rc;
    }
    if (rc == TN_OK)
        rc = m->api->mem_alloc(m->device, bytes, &u->from, u->err);
    return rc == TN_OK ? m->api->mem_alloc(m->device, bytes, &u->to, u->err) : rc;
}

int32_t contract_run(const tn_comm_backend *b, tn_comm_group *g, uint32_t rank, uint32_t n,
                     const struct contract_memory *memory, tn_err *err)
{
    uint64_t bytes = (uint64_t)MAX_COUNT * n * 4;
    struct run u = {.b = b, .g = g, .rank = rank, .n = n, .m = memory, .err = err};
    int32_t rc = TN_OK;
    bool own = false;

    u.from = u.send = malloc(bytes);
    u.to = u.recv = malloc(bytes);
    u.want = malloc(bytes);
    if (memory) {
        u.stream = memory->stream;
        rc = find_buffers(&u, bytes, &own);
    }
    if (rc == TN_OK)
        rc = u.send && u.recv && u.want ? run_and_see(&u) : TN_E_NOMEM;
    if (memory) {
        memory->api->stream_sync(memory->device, memory->stream, NULL);
        memory->api->mem_free(memory->device, own ? u.from : NULL);
        memory->api->mem_free(memory->device, own ? u.to : NULL);
    }
    if (rc == TN_OK ||
        memory) { /* else others may still be reading what was shown; the test fails anyway */
        free(u.send);
        free(u.recv);
    }
    free(u.want);
    return rc;
}
