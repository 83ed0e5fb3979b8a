/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The doors behind the command line's tools: building, looking at plugins and engines. Results come as JSON (jansson),
 * which the caller prints as it is or as a table, and frees with json_decref.
 */
#ifndef CORE_API_TOOLS_H
#define CORE_API_TOOLS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tenon.h"

/* A configuration as the command line names it. */
struct tool_conf {
    const char *path; /* NULL: defaults */
    const tn_kv *settings;
    uint32_t n_settings;
};

/* Sequences of token ids: sequence i is ids[begin[i]..begin[i + 1]). */
struct tool_tokens {
    const int32_t *ids;
    const uint64_t *begin; /* n_seqs + 1 */
    uint64_t n_seqs;
    const char *path; /* the file they come from, for messages; may be NULL */
};

struct tool_build {
    struct tool_conf conf;
    const char *model, *output;
    const char *dtype; /* NULL or "auto": as config.json says */
    bool dummy;
    int64_t max_batch_size, max_input_len, max_output_len, max_num_tokens, tp_size, pp_size;
    const char *quant;               /* scheme; NULL: none */
    bool dequantize;                 /* widen what the checkpoint has quantized first */
    const struct tool_tokens *calib; /* NULL: none */
    const char *calib_stats;         /* read without `calib`, else written; NULL: neither */
    uint64_t calib_seed;
    bool fp8_as_float16;             /* where the device has no FP8 arithmetic */
    bool kv_nearest;                 /* an FP8 cache gets scales alone */
    const struct tool_tokens *eval;  /* NULL: none */
    double max_ppl_increase, max_kl; /* negative: no limit */
    const tn_kv *quant_options;
    uint32_t n_quant_options;
    bool quiet;
    int (*stop)(void *arg);
    void *arg;
};

/* {"model_type", "dtype", "engine_bytes", "weights", "seconds"} */
int32_t tool_build_engine(const struct tool_build *b, json_t **out, tn_err *err);

/* [{"name", "vendor", "version", "kinds": [...], "state", "reason", "path", "sha256", "class",
 *   "variants": [...]}, ...]: every candidate, loaded or not. */
int32_t tool_plugin_list(const struct tool_conf *c, json_t **out, tn_err *err);

/* {"device", "activation_dtype", "kv_dtype", "kv_layout", "comm": [{"group", "plugin", "why"}],
 *   "ops": [{"op", "layers": [..], "chosen":
 *   [{"variant", "max_rows"}], "losers": [{"variant", "reason"}]}]} */
int32_t tool_plugin_explain(const struct tool_conf *c, const char *engine, json_t **out,
                            tn_err *err);

/* The devices of this machine, what lies between them, which comm plugins there are, and who would join ranks on them:
 * {"kinds": [{"kind", "devices": [{"index", "name", "bus", "numa"}], "links": [[{"kind", "access"}]], "paths": [{"ranks",
 *   "plugin", "why"}]}], "comm": [{"name", "moves", "captured", "hosts", "own_device"}]}
 * With `measure`, which opens all devices for a moment, a kind also has "pairs": [{"from", "to", "direct", "staged", "error"}],
 * where a way is {"intact", "latency_us", "gb_per_s"} or null, and "sums": [{"ranks", "plugin", "times": [{"bytes", "us"}],
 * "error"}]; and paths go by what was measured. */
int32_t tool_topo(const struct tool_conf *c, bool measure, json_t **out, tn_err *err);

/* What running an engine would take, by owner and place, without allocating or loading anything: exact, but for graphs, which
 * the device measures as it captures them. {"device", "free_bytes", "kv_pages", "kv_page_bytes", "bytes":
 * [{"owner", "place", "bytes"}]} */
int32_t tool_memory(const struct tool_conf *c, const char *engine, json_t **out, tn_err *err);

/* Measures kernels for an engine on the device that the configuration names, and writes the times beside it, where opening
 * the engine finds them. {"device", "file", "times", "seconds"} */
int32_t tool_tune(const struct tool_conf *c, const char *engine, bool quiet, int (*stop)(void *),
                  void *arg, json_t **out, tn_err *err);

/* {"meta": ..., "hyper": ..., "sections": [...], "weights": {...}, "build_id"} */
int32_t tool_engine_inspect(const char *engine, bool tensors, json_t **out, tn_err *err);

/* Reads and checks every byte; with `finite` also that no weight is NaN or infinite. */
int32_t tool_engine_verify(const char *engine, bool finite, bool quiet, int (*stop)(void *),
                           void *arg, uint64_t *bytes, tn_err *err);

/* [{"what", "a", "b"}, ...]: empty if both would compute the same. */
int32_t tool_engine_diff(const char *a, const char *b, json_t **out, tn_err *err);

/* The plan as text, one op per line; free with mem_free. */
int32_t tool_engine_plan(const char *engine, char **out, tn_err *err);

/* Token ids of a tensor `input_ids` (int32 or int64, one dimension or [1, n]) in a safetensors file. Free with
 * mem_free. */
int32_t tool_read_ids(const char *path, int32_t **ids, uint32_t *n, tn_err *err);

/* A file of little-endian uint16 token ids, or int32 if the name ends in ".i32". */
int32_t tool_read_raw_ids(const char *path, int32_t **ids, uint64_t *n, tn_err *err);

/* A file with one float32 tensor "logits" [rows, vocab]. */
int32_t tool_write_logits(const char *path, const float *logits, uint64_t rows, uint64_t vocab,
                          tn_err *err);

#endif
