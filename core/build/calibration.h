/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What calibration saw: statistics of the inputs of linears, and ranges of keys and values. Gathered while a model
 * runs (calibrate.h), or read from a file that an earlier build wrote.
 */
#ifndef CORE_BUILD_CALIBRATION_H
#define CORE_BUILD_CALIBRATION_H

#include "base/arena.h"
#include "base/digest.h"
#include "base/err.h"
#include "base/file.h"
#include "base/map.h"
#include "base/rng.h"
#include "build/hessian.h"
#include "build/histogram.h"

/* Rows of each input that are kept: enough to see how rows differ, few enough for the memory of large models. */
#define CALIBRATION_SAMPLE 64

/* Tokens of the data that are kept, so that errors of linears can be measured where only the file is given. */
#define CALIBRATION_FIRST 64

#define CALIBRATION_MODEL (2 * XXH128_BYTES + 1) /* hex digits and NUL */
/* Heads of more elements have no products: their squares would take more memory than they are worth. */
#define CALIBRATION_DIM 512

/* Of one value. Its name is that of the first matrix that reads it, and of rows of an expert (routed.h) the stack's with its number
 * behind a dot; of keys and values "kv.LAYER.k" and "kv.LAYER.v"; of
 * keys after the op hadamard "kv.LAYER.h"; of queries after it "kv.LAYER.q". */
struct calibration_input {
    const char *name;
    uint64_t n_channels, n_rows;
    float *absmax;   /* [n_channels] */
    double *squares; /* [n_channels] sums of x^2 */
    double *sums;    /* [n_channels] sums of x */
    float *sample;   /* [n_sample, n_channels]; NULL: none kept */
    uint64_t n_sample;
    /* [n_groups, dim, dim] sums of x x^T over the runs of `dim` channels (heads) of each group, lower triangles; NULL: not
     * kept */
    double *products;
    uint64_t n_groups, dim;
    struct histogram histogram; /* counts NULL: none kept */
    struct hessian *hessian;    /* whoever wants it; NULL: nobody */
    bool keeps_hessian; /* it belongs into the file, or is in the file that this was read from */
    uint64_t hessian_at, n_hessian_rows; /* there */
    struct rng rng;                      /* which rows are kept */
};

struct calibration {
    struct arena arena;
    struct map names;
    struct calibration_input **inputs;
    size_t n_inputs, cap_inputs;
    char data_sha256[SHA256_HEX];  /* of the token ids */
    char model[CALIBRATION_MODEL]; /* see calibrate_identify */
    uint64_t n_tokens;
    int32_t first[CALIBRATION_FIRST]; /* ids that the first sequence begins with */
    uint64_t n_first;
    struct file_reader file; /* that it was read from, for its Hessians */
};

int32_t calibration_new(struct calibration **out, tn_err *err);
void calibration_free(struct calibration *c); /* NULL is allowed */

struct calibration_input *calibration_find(const struct calibration *c, const char *name);

/* What is kept beyond absmax and sums. */
enum calibration_keep { CALIBRATION_SAMPLES = 1, CALIBRATION_HISTOGRAM = 2 };

/* Bytes that an input of so many channels takes: all that calibration needs, however long the data is. */
uint64_t calibration_bytes(uint64_t n_channels, uint32_t keep);

/* Adds an input. `seed` decides which rows are kept; `keep` is a mask of ::calibration_keep. */
int32_t calibration_add(struct calibration *c, const char *name, uint64_t n_channels, uint32_t keep,
                        uint64_t seed, struct calibration_input **out, tn_err *err);

/* Also keeps products of an input that was just added, whose channels are heads of `dim`, `n_groups` groups of them. */
int32_t calibration_add_products(struct calibration *c, struct calibration_input *in,
                                 uint64_t n_groups, uint64_t dim, tn_err *err);

/* Bytes that these take. */
uint64_t calibration_products_bytes(uint64_t n_groups, uint64_t dim);

/* Takes in one row. Returns false, and takes nothing, if it has NaN or infinity. */
bool calibration_take(struct calibration_input *in, const float *row);

/* Takes in rows[n_rows, n_channels], one by one; TN_E_NAN. */
int32_t calibration_take_rows(struct calibration_input *in, const float *rows, uint64_t n_rows,
                              tn_err *err);

/* Sums of input i of a calibration that keeps them, as hessian_take left them: wanted one after another, and valid until
 * the next is. */
typedef int32_t (*calibration_hessian_fn)(void *arg, size_t i, const struct hessian **out,
                                          tn_err *err);

/* A safetensors file with data/sha256, data/tokens, data/first, model/xxh128, and for each input NAME/absmax, NAME/squares, NAME/sums, NAME/rows, and if they are kept NAME/sample,
 * NAME/histogram and NAME/base, NAME/products; behind all these NAME/hessian_rows and NAME/hessian, a lower triangle, of inputs
 * that keep it (`hessian` may be NULL if none does). They are never in memory at one time. */
int32_t calibration_save(const struct calibration *c, const char *path,
                         calibration_hessian_fn hessian, void *arg, tn_err *err);
/* TN_E_FORMAT unless the statistics are of `model` (calibrate_identify); NULL: of any. Hessians stay in the file, which is
 * open as long as the statistics live. */
int32_t calibration_load(const char *path, const char *model, struct calibration **out,
                         tn_err *err);

/* Reads the Hessian of an input that keeps it; checked as everything else of the file. */
int32_t calibration_read_hessian(const struct calibration *c, const struct calibration_input *in,
                                 struct hessian *out, tn_err *err);

#endif
