/* SPDX-License-Identifier: Apache-2.0 */
/* Every cap on input from outside, in one table, each with its reason. SECURITY.md shows this list. */
#ifndef CORE_BASE_LIMITS_H
#define CORE_BASE_LIMITS_H

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* Files read whole into memory. */
#define LIMIT_CONF_BYTES (1 * MIB)        /* configuration: people write these by hand */
#define LIMIT_CONF_DEPTH 64               /* libconfig's parser recurses */
#define LIMIT_CONFIG_JSON_BYTES (4 * MIB) /* config.json of real models is under 100 KiB */
#define LIMIT_INDEX_JSON_BYTES (64 * MIB) /* model.safetensors.index.json: 1e5 tensors are 15 MiB */
#define LIMIT_TOKENIZER_BYTES                                                                      \
    (256 * MIB)                        /* tokenizer.json: the largest real ones are about 35 MiB */
#define LIMIT_TEMPLATE_BYTES (1 * MIB) /* chat templates are under 20 KiB */
#define LIMIT_JSON_DEPTH 256           /* jansson recurses per level */

/* Checkpoints. */
#define LIMIT_SAFETENSORS_HEADER (100 * 1000 * 1000) /* the format's own cap */
#define LIMIT_CALIBRATION_BYTES                                                                    \
    (16 * GIB)                        /* statistics of one model: 800 bytes per input channel */
#define LIMIT_HESSIAN_BYTES (8 * GIB) /* second moments between channels, at one time */
#define LIMIT_HESSIAN_ROWS 65536      /* of one input: what more would tell is not worth its time */
#define LIMIT_TENSORS 1000000         /* per checkpoint or engine */
#define LIMIT_TENSOR_NAME 512
#define LIMIT_SHARDS 10000
#define BUILD_CHUNK_BYTES (16 * MIB) /* unit of streaming: bounds the build's memory */

/* Engine files. */
#define LIMIT_ENGINE_JSON (64 * MIB) /* one metadata section */
#define LIMIT_ENGINE_SECTIONS 16
#define ENGINE_ALIGN 4096

/* Plans. Generous multiples of the largest published models. */
#define LIMIT_PLAN_OPS 100000
#define LIMIT_PLAN_VALUES 400000
#define LIMIT_PLAN_WEIGHTS 1000000
#define LIMIT_PLAN_HYPER 256     /* looked up by walking the list */
#define LIMIT_PLAN_ATTRS 64      /* of one op; likewise */
#define LIMIT_PLAN_ATTR_NAME 126 /* one more byte marks a sharded attribute in the stored form */
#define LIMIT_LAYERS 1024
#define LIMIT_WIDTH (UINT64_C(1) << 24) /* elements per row of a value */
#define LIMIT_VOCAB (UINT64_C(1) << 24)
#define LIMIT_POSITIONS (UINT64_C(1) << 27) /* longest context a plan may state */

/* Plugins. */
#define LIMIT_PLUGIN_BYTES (2 * GIB)
#define LIMIT_PLUGINS 256
#define LIMIT_VARIANTS 4096 /* per kernel set */
#define LIMIT_KERNEL_STATE                                                                         \
    (16 * MIB) /* bytes that launches of one variant hand on: counters, not data */

/* Requests. */
#define LIMIT_QUEUED 65536
#define LIMIT_STOP_IDS 64
#define LIMIT_STOP_STRINGS 32
#define LIMIT_STOP_STRING_BYTES 1024
#define LIMIT_LOGIT_BIAS 4096
#define LIMIT_SALT_BYTES 256
#define LIMIT_BATCH 4096      /* sequences of one step */
#define LIMIT_STEP_ROWS 65536 /* token rows of one step */
#define LIMIT_LOGPROBS 20     /* alternatives per token; what the OpenAI API allows */

/* Ranks */
#define LIMIT_RANKS 1024 /* of one run; also most of a direction */
#define LIMIT_FRAME_BYTES                                                                          \
    (256 * MIB)                /* one message between processes: a step with long histories */
#define LIMIT_MICRO_BATCHES 16 /* parts of a step */

/* KV cache. */
#define LIMIT_KV_BLOCKS (1u << 24) /* 256 Mi tokens at 16 each; the index takes about 130 B each */
#define LIMIT_BLOCK_TOKENS 1024u   /* tokens per page */

#endif
