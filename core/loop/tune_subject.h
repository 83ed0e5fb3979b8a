/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An op as variants are measured on it: weights, inputs, a cache and the arrays of a step, all full of noise, in the device's
 * memory. Noise is made once, a little of it, and copied within the device: what the host makes and sends is what an engine's
 * first load waits for. One thread.
 */
#ifndef CORE_LOOP_TUNE_SUBJECT_H
#define CORE_LOOP_TUNE_SUBJECT_H

#include "exec/bind.h"
#include "loop/rank.h"
#include "loop/tune_batch.h"

/* Rows that are measured at least, of what has one per sequence and of the rest, whatever steps have now; the latter are also
 * the tokens of context, where steps may have no more. */
#define TUNE_SEQS 256
#define TUNE_ROWS 2048
#define TUNE_MAX_WEIGHTS 32 /* and inputs, and outputs, of an op that can be measured */

struct tune_subject {
    /* Given by the caller. */
    const struct rank *rank;
    const struct binding *b;
    const tn_op *op;
    uint32_t max_rows; /* that are measured */
    /* The rest is filled in by tune_subject_open. */
    const tn_device_api *api;
    tn_device *device;
    tn_stream *stream; /* NULL: the device has none */
    uint32_t max_seqs, max_context;
    uint8_t *weights;      /* device: canonical, one after another */
    uint8_t *host_weights; /* the same numbers; NULL until somebody wants them */
    uint64_t weight_at[TUNE_MAX_WEIGHTS], weight_bytes;
    void *values; /* device: inputs and outputs */
    const void *in[TUNE_MAX_WEIGHTS];
    void *out[TUNE_MAX_WEIGHTS];
    struct tune_batch batch;
    void *rows_device; /* its block */
    tn_kv_layer kv;    /* base NULL: the op touches no cache */
    void *kv_scales;
};

/* Makes all of it. On failure tune_subject_close takes what there is. */
int32_t tune_subject_open(struct tune_subject *s, tn_err *err);
void tune_subject_close(struct tune_subject *s);

/* The step that is measured next has `rows` rows, 1 to max_rows. */
int32_t tune_subject_rows(struct tune_subject *s, uint32_t rows, tn_err *err);

/* Points the plan's weights, which carry no data while nothing is loaded, at this op's, for a variant that packs them: in the
 * device's memory if it is read `on_device`, else in the host's. To be taken back by tune_subject_hide. */
int32_t tune_subject_show(struct tune_subject *s, bool on_device, tn_err *err);
void tune_subject_hide(struct tune_subject *s);

/* -- Memory of the subject's device ---------------------------------------------------------------------- */

int32_t tune_alloc(struct tune_subject *s, uint64_t bytes, void *out /* void ** */, tn_err *err);
void tune_free(struct tune_subject *s, void *p); /* NULL: nothing */
int32_t tune_sync(struct tune_subject *s, tn_err *err);

/* Copies from the host, and waits. */
int32_t tune_upload(struct tune_subject *s, void *dst, const void *src, uint64_t bytes,
                    tn_err *err);

#endif
