/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams, events and graphs of a CUDA device. A graph keeps its template beside what is launched, so that kernels can be
 * switched in it later. Capture is thread-local: other threads may load images meanwhile, but an allocation or an unload on
 * the capturing thread breaks the capture. Any thread; a stream is used by one at a time.
 */
#include "device.h"

struct tn_graph {
    CUgraph graph;
    CUgraphExec exec;
};

static CUstream stream_of(tn_stream *s)
{
    return (CUstream)(void *)s;
}

static CUevent event_of(tn_event *e)
{
    return (CUevent)(void *)e;
}

/* -- Streams ------------------------------------------------------------------------------------- */

int32_t device_stream_new(tn_device *d, tn_stream **out, tn_err *err)
{
    CUstream s = NULL;
    int32_t rc = device_enter(d, err);

    if (!rc)
        rc = driver_status(d->driver, d->driver->stream_create(&s, CU_STREAM_NON_BLOCKING), err,
                           "making a stream");
    if (!rc)
        *out = (tn_stream *)(void *)s;
    return rc;
}

void device_stream_free(tn_device *d, tn_stream *s)
{
    if (s && device_enter(d, NULL) == TN_OK)
        d->driver->stream_destroy(stream_of(s));
}

int32_t device_stream_sync(tn_device *d, tn_stream *s, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->stream_sync(stream_of(s)), err,
                              "waiting for a stream");
}

int32_t device_stream_wait(tn_device *d, tn_stream *s, tn_event *e, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->stream_wait(stream_of(s), event_of(e), 0), err,
                              "making a stream wait");
}

/* -- Events -------------------------------------------------------------------------------------- */

int32_t device_event_new(tn_device *d, tn_event **out, tn_err *err)
{
    CUevent e = NULL;
    int32_t rc = device_enter(d, err);

    if (!rc)
        rc = driver_status(d->driver, d->driver->event_create(&e, CU_EVENT_DEFAULT), err,
                           "making an event");
    if (!rc)
        *out = (tn_event *)(void *)e;
    return rc;
}

void device_event_free(tn_device *d, tn_event *e)
{
    if (e && device_enter(d, NULL) == TN_OK)
        d->driver->event_destroy(event_of(e));
}

int32_t device_event_record(tn_device *d, tn_event *e, tn_stream *s, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->event_record(event_of(e), stream_of(s)), err,
                              "recording an event");
}

int32_t device_event_query(tn_device *d, tn_event *e, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->event_query(event_of(e)), err,
                              "asking for an event");
}

int32_t device_event_sync(tn_device *d, tn_event *e, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->event_sync(event_of(e)), err,
                              "waiting for an event");
}

int32_t device_event_elapsed(tn_device *d, tn_event *from, tn_event *to, double *ns, tn_err *err)
{
    float ms = 0;
    int32_t rc = device_enter(d, err);

    if (!rc)
        rc = driver_status(d->driver, d->driver->event_elapsed(&ms, event_of(from), event_of(to)),
                           err, "measuring between events");
    if (!rc)
        *ns = (double)ms * 1e6;
    return rc;
}

/* -- Graphs -------------------------------------------------------------------------------------- */

int32_t device_capture_begin(tn_device *d, tn_stream *s, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(
                    d->driver,
                    d->driver->capture_begin(stream_of(s), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL),
                    err, "beginning a capture");
}

int32_t device_capture_end(tn_device *d, tn_stream *s, tn_graph **out, tn_err *err)
{
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    tn_graph *g = NULL;
    int32_t rc = device_enter(d, err);

    if (rc)
        return rc;
    rc = driver_status(d->driver, d->driver->capture_end(stream_of(s), &graph), err,
                       "ending a capture");
    if (!rc)
        rc = driver_status(d->driver, d->driver->graph_instantiate(&exec, graph, 0), err,
                           "making a graph ready");
    /* Uploaded now, or the first replay would pay for it. */
    if (!rc)
        rc = driver_status(d->driver, d->driver->graph_upload(exec, stream_of(s)), err,
                           "uploading a graph");
    if (!rc && !(g = d->host->alloc(d->host->ctx, sizeof *g, 64)))
        rc = tn_err_set(err, TN_E_NOMEM, "cuda: no memory for a graph");
    if (rc) {
        if (exec)
            d->driver->graph_exec_destroy(exec);
        if (graph)
            d->driver->graph_destroy(graph);
        return rc;
    }
    *g = (tn_graph){graph, exec};
    *out = g;
    return TN_OK;
}

int32_t device_graph_launch(tn_device *d, tn_graph *g, tn_stream *s, tn_err *err)
{
    int32_t rc = device_enter(d, err);

    return rc ? rc
              : driver_status(d->driver, d->driver->graph_launch(g->exec, stream_of(s)), err,
                              "launching a graph");
}

void device_graph_free(tn_device *d, tn_graph *g)
{
    if (!g)
        return;
    if (device_enter(d, NULL) == TN_OK) {
        d->driver->graph_exec_destroy(g->exec);
        d->driver->graph_destroy(g->graph);
    }
    d->host->free(d->host->ctx, g);
}
