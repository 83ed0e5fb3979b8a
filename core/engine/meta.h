/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The meta section of an engine: what a run needs beside the plan, and the passport of what made it.
 *
 *   {"tenon": "0.1.0", "model_type": "llama", "dtype": "bfloat16",
 *    "limits": {"max_batch_size": 64, "max_input_len": 2048, "max_output_len": 2048,
 *               "max_num_tokens": 2048, "tp_size": 1, "pp_size": 1},
 *    "kv_dtype": "float8_e4m3",        of the cache unless the configuration says otherwise; absent: dtype
 *    "quant": {...},                   what quantization did, for people; absent: nothing (build/report.h)
 *    "tokens": {"bos": 8187, "eos": [8188]},
 *    "passport": {"built": "2026-11-23T12:00:00Z", "source": "docs-7m", "config_sha256": "...",
 *                 "checkpoint_bytes": ..., "plugin": "llama", "plugin_version": "0.1.0",
 *                 "plugin_sha256": "...", "load_format": "safetensors"}}
 */
#ifndef CORE_ENGINE_META_H
#define CORE_ENGINE_META_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

#define META_MAX_EOS 64

struct engine_meta {
    uint32_t dtype;
    uint32_t kv_dtype; /* default of the cache; 0: dtype */
    int64_t max_batch_size, max_input_len, max_output_len, max_num_tokens;
    int64_t tp_size, pp_size;
    int64_t bos; /* -1: none */
    uint32_t n_eos;
    int32_t eos[META_MAX_EOS];
};

/* Reads the part that a run needs; `vocab` bounds token ids. `file` is for messages. */
int32_t engine_meta_read(const json_t *meta, const char *file, int64_t vocab,
                         struct engine_meta *out, tn_err *err);

#endif
