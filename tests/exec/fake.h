/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel set whose variants, costs and refusals a test sets, and a device that counts what it hands out. */
#ifndef TESTS_EXEC_FAKE_H
#define TESTS_EXEC_FAKE_H

#include <stdbool.h>

#include "exec/select.h"
#include "tenon/kernels.h"

#define FAKE_FLOATS (TN_DT_BIT(TN_DT_F32) | TN_DT_BIT(TN_DT_F16) | TN_DT_BIT(TN_DT_BF16))

struct fake {
    tn_variant v;
    double fixed, per_row; /* cost in nanoseconds */
    const char *refuse;    /* can_run says this; NULL: it can */
    uint64_t pack_bytes;   /* pack_size; 0: as many as the slices hold */
    uint64_t workspace;
    int32_t pack_status;
    uint32_t launches, last_rows;
    const tn_launch *last;
};

/* All variants are gone, the device is empty. */
void fake_reset(void);

/* Adds a variant that takes every float dtype and, of cache ops, the layout "hnd"; costs 100 + 10 per row. */
struct fake *fake_add(const char *name, const char *op);

/* Adds "OP.f" for every basic op. */
void fake_basics(void);

/* What was added so far as the set of a plugin "fake" for the device "fake". */
const struct kernel_source *fake_source(void);

/* The variants [first, last) as a set of another plugin. */
const struct kernel_source *fake_source_of(const char *plugin, size_t first, size_t last);
size_t fake_count(void);

/* Options that fit the fake set: bfloat16 plan, float32 activations and cache, 64 rows, 8 logits. */
struct select_options fake_options(void);

/* Names of the ops that run, in order, with a blank between: "embedding rms_norm qkv". In the layer only; -2: all. */
const char *fake_sequence(const struct selection *s, int32_t layer);

/* What was selected for the nth op of that name; NULL if there is none. */
const struct selected *fake_selected(const struct selection *s, const char *op, int n);

/* -- The device ---------------------------------------------------------------------------------------- */

struct fake_device {
    uint64_t bytes;      /* handed out now */
    uint64_t blocks;     /* likewise */
    uint64_t copies;     /* host to device, so far */
    uint64_t fail_alloc; /* this allocation from now fails (1: the next); 0: none */
};

extern struct fake_device fake_device;
extern const tn_device_api fake_api;

/* Flags of ::tn_device_flag that `fake_options` reports. */
void fake_device_flags(uint32_t flags);

#endif
