/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small host for kernel plugins: loads one, builds ops and batches, runs variants on them.
 *
 * Only SDK headers: what is tested is the plugin that a user loads. Everything that a test builds lives until
 * kit_free. Failures end the test through Check.
 */
#ifndef TESTS_KERNELS_HARNESS_H
#define TESTS_KERNELS_HARNESS_H

#include <stdbool.h>

#include "check_util.h"
#include "tenon/float.h"
#include "tenon/kernels.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"

/* Whether grids shrink: under a sanitizer, or for one on the device (GPU_SMALL=1). */
bool harness_slow(void);
#define HARNESS_SLOW harness_slow()

/* Like ck_assert_msg, for inner loops: Check writes a line to a file for each assertion that holds. */
#define expect(cond, ...)                                                                          \
    do {                                                                                           \
        if (!(cond))                                                                               \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

/* -- Plugins ------------------------------------------------------------------------------------- */

struct plug {
    void *handle;
    tn_host host;
    const tn_plugin *plugin;
    void *instance;
    const tn_kernel_set *set;     /* NULL: has none */
    const tn_device_api *devices; /* NULL: has none */
    tn_device *device;            /* opened from `devices` and attached to `set` */
    bool borrows;                 /* the device is another plugin's */
    bool remote;                  /* it does not compute in host memory */
    tn_stream *stream;            /* if remote */
    int allocations;              /* of the plugin, not yet freed */
    int threads;                  /* started and not yet joined */
};

/* Loads lib/tenon/plugins/NAME.so, makes an instance with `threads` workers (0: the default), opens device 0
 * and attaches the set. */
void plug_load(struct plug *p, const char *name, const char *threads);
/* The same with these settings. */
void plug_load_with(struct plug *p, const char *name, const tn_kv *config, uint32_t n_config);
/* Whether there is such a plugin. */
bool plug_exists(const char *name);
/* The same for a plugin with a set alone: it is attached to the device that `owner` has opened. */
void plug_load_on(struct plug *p, const char *name, const struct plug *owner);
/* Undoes it all, and fails if the plugin kept memory or threads. */
void plug_unload(struct plug *p);
/* The variant called `name`, or of basic op `name` if there is one only; fails if there is none. */
const tn_variant *plug_variant(const struct plug *p, const char *name);
/* CPU features of this machine, less those masked by the environment variable KERNELS_CPU_MASK (hex). */
uint64_t machine_cpu(void);
/* Nonzero if this machine can run `v`. */
bool can_run_here(const tn_variant *v);

/* -- Random data --------------------------------------------------------------------------------- */

struct random {
    uint64_t state;
};

uint64_t random_u64(struct random *r);
/* Uniform in [low, high). */
float random_float(struct random *r, float low, float high);
uint32_t random_below(struct random *r, uint32_t n);

/* -- Ops ----------------------------------------------------------------------------------------- */

/* Owns what a test builds. */
struct kit {
    struct random random;
    void **owned;
    size_t n_owned;
    uint32_t n_values;
};

void kit_init(struct kit *k, uint64_t seed);
void kit_free(struct kit *k);
/* Zeroed memory that lives as long as the kit. */
void *kit_alloc(struct kit *k, size_t bytes);

tn_value *kit_value(struct kit *k, uint32_t kind, uint32_t dtype, uint64_t width);
/* A weight with random entries in [-limit, limit); rows (dims[0]) lie `gap` bytes further apart than they
 * must, so that strides are honoured or noticed. cols 0: one dimension. */
tn_weight *kit_weight(struct kit *k, uint32_t dtype, uint64_t rows, uint64_t cols, float limit,
                      uint64_t gap);
tn_weight *kit_stack(struct kit *k, uint32_t dtype, uint64_t n, uint64_t rows, uint64_t cols,
                     float limit);

/* An op without inputs, outputs, weights and attributes, and ways to add them. */
tn_op *kit_op(struct kit *k, const char *name);
void op_in(tn_op *op, const tn_value *v);
void op_out(tn_op *op, const tn_value *v);
void op_weight(tn_op *op, const tn_weight *w);
void op_int(tn_op *op, const char *name, int64_t value);
void op_real(tn_op *op, const char *name, double value);
void op_text(tn_op *op, const char *name, const char *value);

/* -- Batches ------------------------------------------------------------------------------------- */

/* Sequence s has rows[s] rows at the end of a context of context[s] tokens. Pages are dealt out in random
 * order. All rows want logits if `all_logits`, else the last of each sequence. */
tn_batch *kit_batch(struct kit *k, uint32_t n_seqs, const uint32_t *rows, const uint32_t *context,
                    uint32_t block_tokens, uint32_t vocab, bool all_logits);
/* The same sequences and pages, but only rows [first, first + n) of sequence `seq`. */
tn_batch *kit_slice(struct kit *k, const tn_batch *whole, uint32_t seq, uint32_t first, uint32_t n);
/* First row of the slice in the whole. */
uint32_t slice_row(const tn_batch *whole, uint32_t seq, uint32_t first);
/* Pages that the batch uses, numbered from 0. */
uint32_t batch_blocks(const tn_batch *b);

/* A cache for `b`: random in every slot below a sequence's context, NaN in every other. */
tn_kv_layer *kit_kv(struct kit *k, const tn_batch *b, uint32_t heads, uint32_t dim, uint32_t dtype);
/* Gives a cache of float8_e4m3 random feedback; unless it `settles`, such that elements are stored once (kv_append in ops.h). */
void kit_feedback(struct kit *k, tn_kv_layer *kv, bool settles);
tn_kv_layer *kit_kv_copy(struct kit *k, const tn_kv_layer *kv);
uint64_t kv_bytes(const tn_kv_layer *kv);

/* -- Running ------------------------------------------------------------------------------------- */

#define MAX_VALUES 256

#define MAX_PARTS 9

/* The data of values by id, and the cache. Of a variant that adds up over ranks, their parts as in tn_comm_parts; without any
 * there is one rank, whose part is the first input. */
struct env {
    void *data[MAX_VALUES];
    tn_kv_layer *kv;
    const void *part[MAX_PARTS];
    uint32_t n_parts;
    uint64_t each;
    uint32_t feed; /* tn_launch::feed */
};

#define STATE_LAUNCHES 3

uint64_t value_rows(const tn_value *v, const tn_batch *b);
uint64_t value_bytes(const tn_value *v, const tn_batch *b);
/* Fills an input with random numbers in [-limit, limit), rounded to bfloat16 first if that is `coarse`. */
void env_fill(struct kit *k, struct env *e, const tn_value *v, const tn_batch *b, float limit,
              uint32_t coarse);

/* Runs `v` on `op`: packs weights, sizes workspace, poisons outputs, workspace and what lies behind them,
 * launches, and checks that nothing was written where it must not be. Makes the outputs in `e`. A variant with a state is launched
 * three times, each finding what the one before has left. */
void run_variant(struct kit *k, const struct plug *p, const tn_variant *v, const tn_op *op,
                 const tn_batch *b, struct env *e);
/* Runs `op` on the reference set; of a fused op, its members one by one. */
void run_reference(struct kit *k, const struct plug *reference, const tn_op *op, const tn_batch *b,
                   struct env *e);

/* Element i of a value's data as float32. */
float value_at(const tn_value *v, const void *data, uint64_t i);
void value_put(const tn_value *v, void *data, uint64_t i, float x);

/* |a - b| <= absolute + relative * |b| for all elements of output `i` of `op`; both NaN is equal. */
void expect_close(const tn_variant *v, const tn_op *op, const tn_batch *b, const struct env *got,
                  const struct env *want, double absolute, double relative);
/* Nonzero if row `row` of `a` has the bits of row `other` of `b`. */
bool same_row(const tn_value *v, const void *a, uint64_t row, const void *b, uint64_t other);

#endif
