/* SPDX-License-Identifier: Apache-2.0 */
#include "exec/comm.h"

#include <inttypes.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/err.h"
#include "tenon/ops.h"

static const char *const names[COMM_CALLS] = {"all_reduce", "all_gather", "send", "recv"};

const char *comm_call_name(uint32_t call)
{
    return call < COMM_CALLS ? names[call] : "?";
}

/* -- What the rank is doing ------------------------------------------------------------------------------- */

/* Notes that a wait for others begins. */
static void begin_wait(struct comm *c)
{
    atomic_store_explicit(&c->beat.since_ns, clock_ns(), memory_order_relaxed);
    atomic_store_explicit(&c->beat.waits, true, memory_order_release);
}

/* Notes that a call begins which may wait for others. */
static void begin(struct comm *c, enum comm_call call, int64_t peer, uint64_t bytes)
{
    atomic_store_explicit(&c->beat.call, names[call], memory_order_relaxed);
    atomic_store_explicit(&c->beat.peer, peer, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->beat.n_calls, 1, memory_order_relaxed);
    begin_wait(c);
    atomic_fetch_add_explicit(&c->counts.calls[call], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->counts.bytes[call], bytes, memory_order_relaxed);
}

static int32_t end(struct comm *c, const struct comm_line *line, int32_t rc, tn_err *err)
{
    /* After a failure the call stays the last thing that the rank did: nobody shall take it for at work. */
    if (rc == TN_OK)
        atomic_store_explicit(&c->beat.waits, false, memory_order_release);
    else
        err_plugin(err, line->plugin);
    return rc;
}

/* -- Collectives as kernels ------------------------------------------------------------------------------- */

static uint64_t rows_of(const tn_launch *l)
{
    return l->op->out[0]->kind == TN_VALUE_LOGITS ? l->batch->n_logits : l->batch->n_rows;
}

static int32_t check_reduce(void *instance, const tn_op *op, tn_err *err)
{
    const struct comm *c = instance;

    if (c->tensor.backend->dtypes & TN_DT_BIT(op->in[0]->dtype))
        return TN_OK;
    return tn_err_set(err, TN_E_UNSUPPORTED, "does not add %s", tn_dtype_name(op->in[0]->dtype));
}

/* Guesses of a shared-memory transport; there is one variant of each, so they matter in sums only. */
static double cost_ns(void *instance, const tn_op *op, uint32_t rows)
{
    const struct comm *c = instance;
    uint64_t bytes = op->out[0]->width * tn_dtype_bits(op->out[0]->dtype) / 8;

    return 5000.0 + (double)(bytes * rows) * c->tensor.n_ranks * 0.1;
}

static int32_t launch_reduce(void *instance, const tn_launch *l, tn_err *err)
{
    struct comm *c = instance;
    uint64_t count = rows_of(l) * l->op->in[0]->width;
    uint32_t dtype = l->op->in[0]->dtype;
    int32_t rc;

    begin(c, COMM_ALL_REDUCE, -1, count * tn_dtype_bits(dtype) / 8);
    rc = c->tensor.backend->all_reduce(c->tensor.group, l->in[0], l->out[0], count, dtype,
                                       l->stream, err);
    return end(c, &c->tensor, rc, err);
}

static int32_t gather_workspace(void *instance, const tn_op *op, uint32_t max_rows,
                                uint32_t max_seqs, uint32_t max_context, uint64_t *bytes,
                                tn_err *err)
{
    (void)instance;
    (void)max_seqs;
    (void)max_context;
    (void)err;
    *bytes = max_rows * op->out[0]->width * tn_dtype_bits(op->out[0]->dtype) / 8;
    return TN_OK;
}

/* From rank by rank to row by row. */
static int32_t interleave(const struct comm *c, const tn_launch *l, uint64_t rows, uint64_t part,
                          tn_err *err)
{
    const uint8_t *src = l->workspace;
    uint8_t *dst = l->out[0];
    bool strided = TN_HAS(tn_device_api, c->api, copy_rows) && c->api->copy_rows;
    int32_t rc = TN_OK;

    for (uint32_t r = 0; r < c->tensor.n_ranks && rc == TN_OK && strided; r++)
        rc = c->api->copy_rows(c->device, l->stream, dst + r * part, c->tensor.n_ranks * part,
                               src + r * rows * part, part, part, rows, err);
    for (uint64_t row = 0; row < rows && rc == TN_OK && !strided; row++)
        for (uint32_t r = 0; r < c->tensor.n_ranks && rc == TN_OK; r++)
            rc = c->api->copy(c->device, l->stream, dst + (row * c->tensor.n_ranks + r) * part,
                              src + (r * rows + row) * part, part, TN_COPY_DEVICE_TO_DEVICE, err);
    return rc;
}

static int32_t launch_gather(void *instance, const tn_launch *l, tn_err *err)
{
    struct comm *c = instance;
    uint64_t rows = rows_of(l), width = l->op->in[0]->width;
    uint64_t part = width * tn_dtype_bits(l->op->in[0]->dtype) / 8;
    int32_t rc;

    begin(c, COMM_ALL_GATHER, -1, rows * part);
    rc = c->tensor.backend->all_gather(c->tensor.group, l->in[0],
                                       rows == 1 ? l->out[0] : l->workspace, rows * width,
                                       l->op->in[0]->dtype, l->stream, err);
    rc = end(c, &c->tensor, rc, err);
    return rc == TN_OK && rows > 1 ? interleave(c, l, rows, part, err) : rc;
}

#define ACTS (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))

static const tn_variant reduce = {.h = TN_HDR(tn_variant),
                                  .name = "all_reduce.group",
                                  .op = TN_OP_ALL_REDUCE,
                                  .act_dtypes = ACTS,
                                  .can_run = check_reduce,
                                  .cost_ns = cost_ns,
                                  .launch = launch_reduce};
static const tn_variant gather = {.h = TN_HDR(tn_variant),
                                  .name = "all_gather.group",
                                  .op = TN_OP_ALL_GATHER,
                                  .act_dtypes = ACTS,
                                  .cost_ns = cost_ns,
                                  .workspace = gather_workspace,
                                  .launch = launch_gather};
static bool line_has(const struct comm_line *line, uint32_t flags)
{
    const tn_comm_backend *b = line->backend;

    if (!b)
        return true;
    return ((line->group && TN_HAS(tn_comm_backend, b, group_flags) && b->group_flags
                 ? b->group_flags(line->group)
                 : b->flags) &
            flags) != 0;
}

bool comm_line_captures(const struct comm_line *line)
{
    return line_has(line, TN_COMM_GRAPH_SAFE);
}

bool comm_sums_capture(const struct comm_line *line)
{
    return line_has(line, TN_COMM_GRAPH_SAFE | TN_COMM_GRAPH_SUMS);
}

struct kernel_source comm_source(struct comm *c, const char *device_kind)
{
    c->reduce = reduce;
    c->gather = gather;
    if (comm_sums_capture(&c->tensor)) {
        c->reduce.flags |= TN_VARIANT_GRAPH_SAFE;
        c->gather.flags |= TN_VARIANT_GRAPH_SAFE;
    }
    c->variants[0] = &c->reduce;
    c->variants[1] = &c->gather;
    c->set = (tn_kernel_set){.h = TN_HDR(tn_kernel_set),
                             .device = device_kind,
                             .n_variants = 2,
                             .variants = c->variants};
    return (struct kernel_source){c->tensor.plugin, &c->set, c};
}

/* -- Sums that kernels finish ------------------------------------------------------------------------------- */

const char *comm_no_parts(const struct comm *c)
{
    const tn_comm_backend *b = c->tensor.backend;

    if (!b)
        return "there are no ranks to add up over";
    return TN_HAS(tn_comm_backend, b, hide) && b->show && b->hide
               ? NULL
               : "what joins the ranks does not show parts of sums";
}

#define ROOM_ALIGN 256

uint64_t comm_room(const tn_op *op, uint32_t rows)
{
    return align_up(rows * op->in[0]->width * tn_dtype_bits(op->in[0]->dtype) / 8, ROOM_ALIGN);
}

int32_t comm_launch_parts(struct comm *c, const struct candidate *with, const tn_launch *l,
                          tn_err *err)
{
    const tn_comm_backend *b = c->tensor.backend;
    uint64_t rows = rows_of(l), width = l->op->in[0]->width;
    uint32_t dtype = l->op->in[0]->dtype;
    tn_comm_parts parts = {.h = TN_HDR(tn_comm_parts)};
    tn_launch own = *l;
    int32_t rc;

    begin(c, COMM_ALL_REDUCE, -1, rows * width * tn_dtype_bits(dtype) / 8);
    rc = end(c, &c->tensor,
             b->show(c->tensor.group, l->in[0], l->workspace, rows, width, dtype, &parts, l->stream,
                     err),
             err);
    own.parts = &parts;
    own.workspace = (uint8_t *)l->workspace + comm_room(l->op, (uint32_t)rows);
    if (rc == TN_OK)
        rc = with->v->launch(with->source->instance, &own, err);
    if (rc != TN_OK)
        return rc;
    begin_wait(c);
    return end(c, &c->tensor, b->hide(c->tensor.group, l->stream, err), err);
}

/* -- Pipeline --------------------------------------------------------------------------------------------- */

int32_t comm_send(struct comm *c, const void *buf, uint64_t bytes, tn_stream *s, tn_err *err)
{
    const struct comm_line *p = &c->pipeline;

    begin(c, COMM_SEND, p->members[p->rank + 1], bytes);
    return end(c, p, p->backend->send(p->group, buf, bytes, p->rank + 1, s, err), err);
}

int32_t comm_recv(struct comm *c, void *buf, uint64_t bytes, tn_stream *s, tn_err *err)
{
    const struct comm_line *p = &c->pipeline;

    begin(c, COMM_RECV, p->members[p->rank - 1], bytes);
    return end(c, p, p->backend->recv(p->group, buf, bytes, p->rank - 1, s, err), err);
}

int32_t comm_memory(struct comm *c, uint64_t bytes, uint64_t layout, void **out, tn_err *err)
{
    const tn_comm_backend *b = c->tensor.backend;

    *out = NULL;
    if (!c->tensor.group || !TN_HAS(tn_comm_backend, b, memory) || !b->memory)
        return TN_OK;
    begin_wait(c);
    return end(c, &c->tensor, b->memory(c->tensor.group, bytes, layout, out, err), err);
}

/* -- Captured steps --------------------------------------------------------------------------------------- */

int32_t comm_meet(struct comm *c, tn_stream *s, tn_err *err)
{
    return c->tensor.group
               ? end(c, &c->tensor, c->tensor.backend->barrier(c->tensor.group, s, err), err)
               : TN_OK;
}

struct comm_moved comm_moved(const struct comm *c)
{
    struct comm_moved m;

    for (uint32_t i = 0; i < COMM_CALLS; i++) {
        m.calls[i] = atomic_load_explicit(&c->counts.calls[i], memory_order_relaxed);
        m.bytes[i] = atomic_load_explicit(&c->counts.bytes[i], memory_order_relaxed);
    }
    return m;
}

void comm_count(struct comm *c, const struct comm_moved *moved, bool back)
{
    for (uint32_t i = 0; i < COMM_CALLS; i++) {
        uint64_t calls = back ? 0 - moved->calls[i] : moved->calls[i];
        uint64_t bytes = back ? 0 - moved->bytes[i] : moved->bytes[i];
        atomic_fetch_add_explicit(&c->counts.calls[i], calls, memory_order_relaxed);
        atomic_fetch_add_explicit(&c->counts.bytes[i], bytes, memory_order_relaxed);
    }
}

/* -- Ends ------------------------------------------------------------------------------------------------- */

void comm_abort(struct comm *c)
{
    if (c->tensor.group)
        c->tensor.backend->abort(c->tensor.group);
    if (c->pipeline.group)
        c->pipeline.backend->abort(c->pipeline.group);
}

static int32_t check(const struct comm_line *line, tn_err *err)
{
    int32_t rc = line->group ? line->backend->async_error(line->group, err) : TN_OK;

    if (rc != TN_OK)
        err_plugin(err, line->plugin);
    return rc;
}

int32_t comm_check(const struct comm *c, tn_err *err)
{
    int32_t rc = check(&c->tensor, err);

    return rc == TN_OK ? check(&c->pipeline, err) : rc;
}

void comm_leave(struct comm *c)
{
    if (c->tensor.group)
        c->tensor.backend->leave(c->tensor.group);
    if (c->pipeline.group)
        c->pipeline.backend->leave(c->pipeline.group);
    c->tensor.group = c->pipeline.group = NULL;
}
