/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tenon.h
 * libtenon: run a Tenon engine inside your program.
 *
 *     tn_runtime *rt;
 *     tn_open_options o = TN_OPEN_OPTIONS_INIT;
 *     o.engine = "engines/docs-7m";
 *     if (tn_open(&o, &rt, &err) != TN_OK) ...
 *
 *     tn_request_params p = TN_REQUEST_PARAMS_INIT;
 *     p.prompt = ids; p.n_prompt = n; p.max_new_tokens = 64;
 *     tn_submit(rt, &p, &req, &err);
 *     while (tn_next_event(req, -1, &ev, &err) == TN_OK && ev.kind != TN_EVENT_FINISHED)
 *         ... ev.token ...
 *     tn_release(req);
 *     tn_close(rt);
 *
 * The library works on token ids; `tenon_text.h` (libtenon-text) turns text into ids and back. Link with
 * `pkg-config --libs tenon`. examples/generate.c is a complete program.
 *
 * Threads. A runtime may be used from any number of threads. A request is used by one thread at a time,
 * except that tn_cancel may be called by any. The runtime computes on its own threads.
 *
 * Ownership. What a function returns through `out` is the caller's until the matching tn_close or
 * tn_release. Pointers inside params are read during the call only, unless said otherwise.
 *
 * Errors. Functions return TN_OK or a negative status (tenon/error.h) and fill `err`, which may be NULL.
 */
#ifndef TENON_H
#define TENON_H

#include "tenon/error.h"
#include "tenon/host.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TN_API __attribute__((visibility("default")))

/** Version of the library, "0.1.0". Static. */
TN_API const char *tn_version(void);

/** The stable text of a status, "out-of-range". Static. */
TN_API const char *tn_status_text(int32_t code);

/* -- Runtimes ----------------------------------------------------------------------------------- */

/** An engine that is loaded on a device and takes requests. */
typedef struct tn_runtime tn_runtime;

/** Options of tn_open; start from ::TN_OPEN_OPTIONS_INIT. */
typedef struct tn_open_options {
    tn_hdr h;
    const char *engine; /**< engine directory */
    const char *config; /**< libconfig file, or NULL for the defaults */
    /** Settings that win over the file, as key and text: {"kv.block_tokens", "32"}. */
    const tn_kv *settings;
    uint32_t n_settings;
    uint32_t reserved0;
    /** Called on the calling thread while weights load; nonzero ends it with TN_E_CANCELED. Optional. */
    int (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
} tn_open_options;

#define TN_OPEN_OPTIONS_INIT                                                                       \
    {                                                                                              \
        .h = TN_HDR(tn_open_options)                                                               \
    }

/** Loads plugins and the engine and starts the runtime. Takes seconds for large engines. */
TN_API int32_t tn_open(const tn_open_options *options, tn_runtime **out, tn_err *err);

/**
 * Of a run of several processes, all but the first follow: they take no requests (tn_submit refuses), and this call is what
 * they are for. It computes what the first process announces, and returns TN_OK when that one closes, TN_E_CANCELED soon
 * after `stop` (may be NULL) returned nonzero, or TN_E_COMM when a rank anywhere has failed. tn_runtime_info::process tells
 * who follows.
 */
TN_API int32_t tn_follow(tn_runtime *rt, int (*stop)(void *arg), void *arg, tn_err *err);

/** Ends all requests (they finish as canceled) and frees everything. Requests must still be released,
 *  before or after. NULL is allowed. */
TN_API void tn_close(tn_runtime *rt);

/** What a runtime can do. Strings live as long as the runtime. */
typedef struct tn_runtime_info {
    tn_hdr h;
    const char *device; /**< "cpu:0" */
    const char *device_name;
    uint32_t vocab;
    uint32_t max_seq_len;    /**< prompt and output */
    uint32_t max_input_len;  /**< prompt */
    uint32_t max_output_len; /**< output */
    uint32_t max_batch_size;
    uint32_t max_num_tokens;
    uint32_t default_output_len; /**< for requests that name no number; at least 1 */
    uint32_t max_stop_strings;
    int32_t bos; /**< -1: none */
    uint32_t n_eos;
    const int32_t *eos;
    uint64_t weight_bytes;   /**< as kernels read them */
    uint64_t streamed_bytes; /**< of these, what every step reads whole */
    uint32_t kv_pages, kv_page_tokens;
    uint64_t kv_page_bytes;
    uint32_t process; /**< 0: takes requests; others follow, see tn_follow */
    uint32_t n_processes;
    uint32_t n_ranks;  /**< in all processes */
    uint32_t n_graphs; /**< decode steps that were captured, by number of sequences */
    /** Nanoseconds of opening that went into measuring kernels (the first load on a device), weights, and capturing. */
    uint64_t tune_ns, load_ns, capture_ns;
} tn_runtime_info;

/** Fills `info`, whose header tells how much of it the caller knows. */
TN_API void tn_info(const tn_runtime *rt, tn_runtime_info *info);

/** Counters; all since tn_open unless said. */
typedef struct tn_runtime_stats {
    tn_hdr h;
    uint32_t n_running, n_waiting; /**< now */
    uint32_t kv_pages_used;        /**< now, held by running requests */
    uint32_t kv_pages_cached;      /**< now, kept for reuse */
    uint64_t n_steps;
    uint64_t n_prompt_tokens, n_cached_tokens, n_output_tokens;
    uint64_t n_preemptions;
    uint64_t last_step_age_ns; /**< time since the loop last made progress or found nothing to do */
    /** TN_OK while requests can be served; else what ended that for good (TN_E_COMM: a rank failed). */
    int32_t status;
    uint32_t reserved0;
    /** By this process's ranks over their comm lines, all together. */
    uint64_t comm_calls, comm_bytes;
} tn_runtime_stats;

TN_API void tn_stats(tn_runtime *rt, tn_runtime_stats *stats);

/** Measures how many bytes per second the runtime's device reads from its memory, the bound of a decode step; takes a
 *  fraction of a second, and competes with requests that run. */
TN_API int32_t tn_measure_bandwidth(tn_runtime *rt, double *bytes_per_s, tn_err *err);

/* -- Requests ----------------------------------------------------------------------------------- */

typedef struct tn_request tn_request;

/** Receives logits of prompt rows (tn_request_params::on_logits): float32 [n_rows, vocab], of positions
 *  first_position and up. Called on a thread of the runtime: be quick, call nothing of the runtime. */
typedef void (*tn_logits_fn)(void *arg, const float *logits, uint32_t first_position,
                             uint32_t n_rows, uint32_t vocab);

/** What to generate; start from ::TN_REQUEST_PARAMS_INIT (greedy). How tokens are chosen is defined at
 *  tn_sample_row in tenon/batch.h. */
typedef struct tn_request_params {
    tn_hdr h;
    const int32_t *prompt; /**< at least one token id */
    uint32_t n_prompt;
    uint32_t max_new_tokens; /**< at least 1; 0 with on_logits */
    uint32_t min_new_tokens;
    uint32_t ignore_eos;     /**< nonzero: the engine's end tokens do not end the output */
    const int32_t *stop_ids; /**< further tokens that end it */
    uint32_t n_stop_ids;
    float temperature; /**< 0: greedy */
    float top_p;
    float min_p;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint32_t top_k; /**< 0: all */
    uint32_t n_bias;
    const int32_t *bias_ids;
    const float *bias_values;
    uint64_t seed;
    const void *salt; /**< requests share cached prefixes only with those of equal salt */
    uint64_t salt_bytes;
    uint64_t queue_timeout_ms; /**< 0: none */
    uint64_t timeout_ms;       /**< 0: none */
    tn_logits_fn on_logits;    /**< if set, no output: the logits of every prompt row */
    void *arg;
} tn_request_params;

#define TN_REQUEST_PARAMS_INIT                                                                     \
    {                                                                                              \
        .h = TN_HDR(tn_request_params), .max_new_tokens = 16, .top_p = 1.0f,                       \
        .repetition_penalty = 1.0f                                                                 \
    }

enum tn_event_kind {
    TN_EVENT_TOKEN = 1,
    TN_EVENT_FINISHED = 2 /**< exactly once, last */
};

enum tn_finish {
    TN_FINISH_EOS = 1,      /**< an end token was chosen (it came as a token, too) */
    TN_FINISH_STOP_ID = 2,  /**< likewise one of stop_ids */
    TN_FINISH_STOPPED = 3,  /**< tn_end */
    TN_FINISH_LENGTH = 4,   /**< max_new_tokens, or all logits, are out */
    TN_FINISH_CANCELED = 5, /**< tn_cancel or tn_close */
    TN_FINISH_TIMEOUT = 6,
    TN_FINISH_ERROR = 7 /**< status and message tell */
};

/** Times are nanoseconds since tn_submit. */
typedef struct tn_usage {
    uint32_t n_prompt, n_cached, n_output, n_preempted;
    uint64_t started_ns;     /**< first computed */
    uint64_t first_token_ns; /**< 0: none */
    uint64_t finished_ns;
} tn_usage;

typedef struct tn_event {
    tn_hdr h;
    uint32_t kind; /**< ::tn_event_kind */
    /* TOKEN */
    int32_t token;
    uint32_t index;   /**< 0, 1, ... */
    float logprob;    /**< natural logarithm of the model's own probability of the token */
    uint64_t time_ns; /**< when it was chosen, since tn_submit */
    /* FINISHED */
    uint32_t finish; /**< ::tn_finish */
    int32_t status;
    const char *message; /**< valid until tn_release; "" if there is none */
    tn_usage usage;
} tn_event;

#define TN_EVENT_INIT                                                                              \
    {                                                                                              \
        .h = TN_HDR(tn_event)                                                                      \
    }

/** Queues a request. TN_E_RANGE, TN_E_LIMIT and TN_E_INVALID name the field; TN_E_BUSY: queue full. On failure *out is NULL
 *  or as it was. */
TN_API int32_t tn_submit(tn_runtime *rt, const tn_request_params *params, tn_request **out,
                         tn_err *err);

/** Queues `n` requests at once, all or none: a step that has room for several of them takes them together, where calls of
 *  tn_submit one after another may find it begun with the first. Errors as those of tn_submit; the message names the
 *  request, counted from 0. */
TN_API int32_t tn_submit_many(tn_runtime *rt, const tn_request_params *const *params, uint32_t n,
                              tn_request **out, tn_err *err);

/** Takes the next event, waiting up to timeout_ms (-1: as long as it takes). TN_E_TIMEOUT if none
 *  came; TN_E_CLOSED after FINISHED was taken. */
TN_API int32_t tn_next_event(tn_request *req, int64_t timeout_ms, tn_event *event, tn_err *err);

/** Ends the request, whatever its state; its FINISHED event still comes. Any thread, any number of times. */
TN_API void tn_cancel(tn_request *req);

/** The same, but as complete: for callers that found a stop string in the text. */
TN_API void tn_end(tn_request *req);

/** Gives the request back; one that is running is canceled. NULL is allowed. */
TN_API void tn_release(tn_request *req);

#ifdef __cplusplus
}
#endif
#endif
