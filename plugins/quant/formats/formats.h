/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checkpoints that others quantized, in the four layouts that are common (tenon/quant_format.h):
 *
 *   compressed-tensors   github.com/vllm-project/compressed-tensors: float-quantized, int-quantized, naive-quantized,
 *                        pack-quantized
 *   fp8                  AutoFP8, vLLM and transformers: a scale per tensor or row, or per block of 128 x 128 (DeepSeek)
 *   awq                  AutoAWQ's "gemm": [K, N/8], nibbles in the order 0 2 4 6 1 3 5 7
 *   gptq                 AutoGPTQ and GPTQModel: [K/8, N], zero points stored less 1 ("gptq") or as they are ("gptq_v2")
 *
 * All of them say w[n][k] = scale * (code - zero) with a scale (and zero) per some rows and columns. config.c reads what the
 * configuration claims, module.c what tensors a module has and whether they agree, load.c the numbers, and formats.c makes
 * plans and tensors of them. A build's state is immutable after `open`; any thread.
 */
#ifndef QUANT_FORMATS_H
#define QUANT_FORMATS_H

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "tenon/float.h"
#include "tenon/ops.h"
#include "tenon/plugin.h"
#include "tenon/quant_format.h"

enum method { METHOD_COMPRESSED, METHOD_FP8, METHOD_AWQ, METHOD_GPTQ };

enum spread { PER_ANY, PER_TENSOR, PER_ROW, PER_GROUP, PER_BLOCK }; /* ANY: as the tensors are */

enum act { ACT_NONE, ACT_DYNAMIC, ACT_STATIC };

#define MAX_RULES 32
#define MAX_TARGETS 4096
#define MAX_IGNORED 16384
#define MAX_PATTERNS 256 /* regular expressions of one list: each is tried on each module */
#define MAX_NAME 640
#define MAX_SCALES 1024 /* of the keys or values of a layer: one per head */

/* A list of module names and "re:" patterns. */
struct names {
    const char **items;
    uint64_t n;
};

/* How some of the modules are quantized, says the configuration. */
struct rule {
    struct names targets;
    int64_t bits;
    bool is_float, symmetric;
    enum spread spread;
    int64_t group, block[2]; /* group: columns, or -1 for all */
    enum act act;            /* of inputs */
    bool by_importance;      /* columns are in groups that a tensor lists */
};

struct build {
    const tn_host *host;
    tn_quant_source source;
    enum method method;
    struct rule rules[MAX_RULES];
    uint32_t n_rules;
    struct names ignored;
    int zero_offset;      /* gptq: added to the zero points that are stored */
    uint32_t cache_dtype; /* of the scales for a cache, if there are any */
};

enum layout { LAYOUT_ROWS, LAYOUT_AWQ, LAYOUT_GPTQ, LAYOUT_PACKED };

/* A matrix of the checkpoint. */
struct module {
    const char *name;
    const struct rule *rule;
    enum layout layout;
    uint32_t dtype; /* of codes: TN_DT_I8, TN_DT_F8E4M3, TN_DT_I4 */
    uint64_t rows, cols;
    uint64_t block;    /* rows that share a scale */
    uint64_t group;    /* columns that share one */
    uint64_t n_groups; /* of a row */
    const char *scale; /* suffixes of tensors; NULL: there is none */
    const char *zero, *order;
};

/* Rows of a module, as numbers. Release frees it. */
struct loaded {
    uint64_t rows, cols, n_groups;
    uint8_t *codes;  /* [rows, cols]: int8, or e4m3 */
    float *scale;    /* [rows, n_groups] */
    int8_t *zero;    /* likewise; NULL: none */
    uint32_t *order; /* [cols]: the group of each column */
    /* [cols]: the columns group by group, if groups are anything but `group` neighbours; NULL, too, if they are `uneven` */
    uint32_t *columns;
    bool zeros;  /* whether any zero point is not 0 */
    bool uneven; /* whether a group has not `group` columns (the last one: what is left) */
};

/* -- config.c -- */

/* Reads the configuration of `b->source`. */
int32_t config_read(struct build *b, tn_err *err);
void config_release(struct build *b);
/* Whether the configuration leaves the module as it is. */
int32_t config_ignores(const struct build *b, const char *module, bool *out, tn_err *err);
/* The rule for a module. */
int32_t config_rule(const struct build *b, const char *module, const struct rule **out,
                    tn_err *err);

/* -- module.c -- */

/* "MODULE.SUFFIX"; the name is cut at MAX_NAME, which no tensor has. */
void tensor_name(char out[MAX_NAME], const char *module, const char *suffix);
bool has_tensor(const struct build *b, const char *module, const char *suffix);
/* Fills `err` with TN_E_FORMAT and the text, file and tensor; remedy may be NULL. */
TN_PRINTF(5, 6)
int32_t tensor_bad(const struct build *b, const char *module, const char *suffix, tn_err *err,
                   const char *fmt, ...);
/* TN_E_NOTFOUND, err unfilled, if it is stored plainly or not there. */
int32_t module_find(const struct build *b, const char *name, struct module *out, tn_err *err);
/* The static scale of its input. */
int32_t module_act_scale(const struct build *b, const struct module *m, float *out, tn_err *err);
/* The largest of at most `most` (and MAX_SCALES) numbers, which must be finite and positive. */
int32_t read_scale(const struct build *b, const char *module, const char *suffix, uint64_t most,
                   float *out, tn_err *err);

/* -- load.c -- */

/* Scales, zero points and order alone, if `codes` is false. */
int32_t module_load(const struct build *b, const struct module *m, uint64_t begin, uint64_t end,
                    bool codes, struct loaded *out, tn_err *err);
void loaded_release(const struct build *b, struct loaded *l);
void *take(const struct build *b, uint64_t n, uint64_t size, tn_err *err);

#endif
