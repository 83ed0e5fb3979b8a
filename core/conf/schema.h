/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one table of settings. The enum of keys, the defaults, the checks, the search for unknown keys and the
 * generated documentation all come from it. A new setting is a new row, and nothing else.
 *
 *   BOOL(key, path, default, help)            INT(key, path, default, min, max, rule, help)
 *   REAL(key, path, default, min, max, help)  CHOICE(key, path, default, choices, help)
 *   TEXT(key, path, default, rule, help)      LIST(key, path, default, rule, help)
 *   PINS(key, path, help)
 *
 * Every path is "group.name". Defaults are texts in the form that a command-line flag takes and pass the
 * same checks. A number that is 0 "by itself" means: let Tenon decide; its help line says so.
 */
#ifndef CORE_CONF_SCHEMA_H
#define CORE_CONF_SCHEMA_H

#include "base/limits.h"

/* Vendors' libraries that a plugin may be linked with; text of the configuration, not of the core. */
#define CONF_DEFAULT_LIBRARIES                                                                     \
    "libcuda.so.1,libcudart.so.12,libcudart.so.13,libcublas.so.12,libcublas.so.13,"                \
    "libcublasLt.so.12,libcublasLt.so.13,libnvrtc.so.12,libnvrtc.so.13,libnvidia-ml.so.1,"         \
    "libnccl.so.2,libmpi.so.40,libmpi.so.12,libmpich.so.12"

#define CONF_SCHEMA(BOOL, INT, REAL, CHOICE, TEXT, LIST, PINS)                                     \
    LIST(PLUGINS_PATH, "plugins.path", "", CONF_RULE_ABSOLUTE,                                     \
         "directories searched for plugins, in order; none: lib/tenon/plugins beside the program") \
    CHOICE(PLUGINS_ALLOW, "plugins.allow", "off", "off|warn|enforce",                              \
           "what happens to a plugin whose SHA-256 is not in plugins.digests")                     \
    LIST(PLUGINS_DIGESTS, "plugins.digests", "", CONF_RULE_SHA256,                                 \
         "SHA-256 of every plugin file that may be loaded, 64 hex digits each")                    \
    LIST(PLUGINS_DISABLE, "plugins.disable", "", CONF_RULE_NAME,                                   \
         "names of plugins that are not to be loaded")                                             \
    LIST(PLUGINS_LIBRARIES, "plugins.allowed_libraries", CONF_DEFAULT_LIBRARIES, CONF_RULE_SONAME, \
         "shared libraries, beyond the C runtime, that a plugin may be linked with")               \
    LIST(KERNELS_SETS, "kernels.sets", "", CONF_RULE_NAME,                                         \
         "plugins whose kernels may run, most preferred first; none: all that load")               \
    PINS(KERNELS_PINS, "kernels.pins",                                                             \
         "variants to use whatever they cost: op, device (all if left out), variant SET/NAME")     \
    BOOL(KERNELS_FUSION, "kernels.fusion", "true",                                                 \
         "replace sequences of ops by the fused ops that kernel sets offer")                       \
    BOOL(KERNELS_GRAPHS, "kernels.graphs", "true",                                                 \
         "capture decode steps and replay them, on devices with graphs")                           \
    BOOL(KERNELS_TUNE, "kernels.tune", "true",                                                     \
         "measure kernels when an engine is opened on a GPU for the first time, and keep the "     \
         "times "                                                                                  \
         "beside it")                                                                              \
    TEXT(DEVICE_KIND, "device.kind", "auto", CONF_RULE_NAME,                                       \
         "kind of device to run on: cpu, cuda, ...; auto: a GPU if a plugin finds one")            \
    INT(DEVICE_INDEX, "device.index", "0", 0, 1023, CONF_RULE_NONE,                                \
        "number of the device among those of its kind")                                            \
    CHOICE(DEVICE_DTYPE, "device.activation_dtype", "auto", "auto|float32|float16|bfloat16",       \
           "dtype of activations; auto: what the device computes best")                            \
    INT(PARALLEL_TP, "parallel.tp_size", "0", 0, LIMIT_RANKS, CONF_RULE_NONE,                      \
        "ranks that share every matrix (tensor parallel); 0: what the engine was built for")       \
    INT(PARALLEL_PP, "parallel.pp_size", "0", 0, LIMIT_RANKS, CONF_RULE_NONE,                      \
        "stages that the layers are cut into (pipeline parallel); 0: what the engine was built "   \
        "for")                                                                                     \
    TEXT(PARALLEL_COMM, "parallel.comm", "auto", CONF_RULE_NAME,                                   \
         "comm plugin that joins the ranks: local, ...; auto: by where the ranks are")             \
    BOOL(PARALLEL_FUSION, "parallel.fusion", "false",                                              \
         "with kernels.fusion: let kernels add up over ranks and go on at once, where the comm "   \
         "plugin offers it")                                                                       \
    BOOL(PARALLEL_MEASURE, "parallel.measure", "true",                                             \
         "with parallel.comm = auto: time copies between the devices before choosing; false: go "  \
         "by what the driver says")                                                                \
    INT(PARALLEL_NODES, "parallel.nnodes", "1", 1, LIMIT_RANKS, CONF_RULE_NONE,                    \
        "processes of the run, each started by hand with its own parallel.node_rank")              \
    INT(PARALLEL_NODE_RANK, "parallel.node_rank", "0", 0, LIMIT_RANKS, CONF_RULE_NONE,             \
        "which of them this is; 0 has the scheduler")                                              \
    TEXT(PARALLEL_ADDRESS, "parallel.dist_init_addr", "", CONF_RULE_NONE,                          \
         "HOST:PORT where the process with node rank 0 listens for the others")                    \
    TEXT(PARALLEL_KEY, "parallel.key_file", "", CONF_RULE_NONE,                                    \
         "file with the key that all processes share; without one no port is opened")              \
    INT(PARALLEL_MICRO, "parallel.micro_batches", "0", 0, LIMIT_MICRO_BATCHES, CONF_RULE_NONE,     \
        "parts of a step that pipeline stages work on at once; 0: by the rows of the step")        \
    INT(PARALLEL_STEP_MS, "parallel.step_timeout_ms", "60000", 10, INT64_C(86400000),              \
        CONF_RULE_NONE,                                                                            \
        "longest time of a step of several ranks, or of an op of a single one, "                   \
        "before a rank counts as lost")                                                            \
    INT(PARALLEL_JOIN_MS, "parallel.join_timeout_ms", "300000", 10, INT64_C(86400000),             \
        CONF_RULE_NONE, "longest wait for all ranks to join and load")                             \
    INT(KV_BLOCK_TOKENS, "kv.block_tokens", "16", 1, 256, CONF_RULE_POWER_OF_TWO,                  \
        "tokens per page of the KV cache")                                                         \
    CHOICE(KV_DTYPE, "kv.dtype", "auto", "auto|float32|float16|bfloat16|fp8|int8",                 \
           "dtype of the KV cache; auto: that of the activations")                                 \
    INT(KV_MAX_BYTES, "kv.max_bytes", "0", 0, INT64_C(1) << 50, CONF_RULE_NONE,                    \
        "largest size of the KV cache in bytes; 0: by kv.free_mem_fraction alone")                 \
    REAL(KV_FRACTION, "kv.free_mem_fraction", "0.9", 0.01, 1.0,                                    \
         "share of the memory left free by the weights that the KV cache may take")                \
    BOOL(KV_PREFIX_REUSE, "kv.prefix_reuse", "true",                                               \
         "keep pages of finished prompts and reuse them for prompts that begin alike")             \
    CHOICE(SCHED_POLICY, "scheduler.policy", "guaranteed_no_evict",                                \
           "guaranteed_no_evict|max_utilization",                                                  \
           "admit a request only if all its pages fit, or admit early and preempt if need be")     \
    INT(SCHED_MAX_BATCH, "scheduler.max_batch_size", "64", 1, LIMIT_BATCH, CONF_RULE_NONE,         \
        "most sequences in one step")                                                              \
    INT(SCHED_MAX_TOKENS, "scheduler.max_num_tokens", "2048", 1, LIMIT_STEP_ROWS, CONF_RULE_NONE,  \
        "most token rows in one step, of prompts and of decoding together")                        \
    INT(SCHED_MAX_SEQ_LEN, "scheduler.max_seq_len", "0", 0, LIMIT_POSITIONS, CONF_RULE_NONE,       \
        "most tokens of a sequence, prompt and output; 0: what the model is made for")             \
    BOOL(SCHED_CHUNKED, "scheduler.chunked_prefill", "true",                                       \
         "split long prompts over several steps so that others keep decoding")                     \
    INT(SCHED_MAX_QUEUE, "scheduler.max_queue", "1024", 1, LIMIT_QUEUED, CONF_RULE_NONE,           \
        "most requests waiting; further ones are refused as busy")                                 \
    INT(LIMITS_INPUT, "limits.max_input_len", "0", 0, LIMIT_POSITIONS, CONF_RULE_NONE,             \
        "most tokens of a prompt; 0: scheduler.max_seq_len less one")                              \
    INT(LIMITS_OUTPUT, "limits.max_output_len", "0", 0, LIMIT_POSITIONS, CONF_RULE_NONE,           \
        "most tokens that a request may ask for; 0: what fits its sequence")                       \
    INT(LIMITS_DEFAULT_OUTPUT, "limits.default_output_len", "0", 0, LIMIT_POSITIONS,               \
        CONF_RULE_NONE, "tokens for a request that names no number; 0: as many as fit")            \
    INT(LIMITS_REQUEST_MS, "limits.request_timeout_ms", "0", 0, INT64_C(604800000),                \
        CONF_RULE_NONE, "longest life of a request, from arrival to last token; 0: no limit")      \
    INT(LIMITS_QUEUE_MS, "limits.queue_timeout_ms", "0", 0, INT64_C(604800000), CONF_RULE_NONE,    \
        "longest wait of a request in the queue; 0: no limit")                                     \
    INT(LIMITS_STOP_STRINGS, "limits.max_stop_strings", "16", 0, LIMIT_STOP_STRINGS,               \
        CONF_RULE_NONE, "most stop strings of a request")                                          \
    INT(LIMITS_LOGIT_BIAS, "limits.max_logit_bias", "1024", 0, LIMIT_LOGIT_BIAS, CONF_RULE_NONE,   \
        "most logit biases of a request")                                                          \
    CHOICE(LOG_LEVEL, "log.level", "warn", "error|warn|info|debug",                                \
           "least severity that is logged to stderr")

#endif
