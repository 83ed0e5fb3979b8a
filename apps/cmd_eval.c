/* SPDX-License-Identifier: Apache-2.0 */
/* tenon eval logits|perplexity: what the model says, as numbers that can be compared. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "api/tools.h"
#include "app.h"
#include "base/err.h"
#include "base/mem.h"

/* Submits a request for logits and waits for its end. */
static int32_t run_logits(tn_runtime *rt, const int32_t *ids, uint32_t n, tn_logits_fn fn,
                          void *arg, tn_err *err)
{
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    tn_event ev = TN_EVENT_INIT;
    tn_request *req = NULL;
    int32_t rc;

    p.prompt = ids;
    p.n_prompt = n;
    p.max_new_tokens = 0;
    p.on_logits = fn;
    p.arg = arg;
    rc = tn_submit(rt, &p, &req, err);
    if (rc != TN_OK)
        return rc;
    do {
        rc = tn_next_event(req, 200, &ev, err);
        if (app_interrupted(NULL))
            tn_cancel(req);
    } while (rc == TN_E_TIMEOUT || (rc == TN_OK && ev.kind != TN_EVENT_FINISHED));
    if (rc == TN_OK && ev.finish != TN_FINISH_LENGTH)
        rc = tn_err_set(err, ev.status ? ev.status : TN_E_INTERNAL, "%s", ev.message);
    tn_release(req);
    return rc;
}

/* -- logits ------------------------------------------------------------------------------------------------ */

struct logits {
    float *rows;
    uint32_t vocab;
};

static void keep_rows(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct logits *l = arg;

    memcpy(l->rows + (size_t)first * vocab, logits, (size_t)n * vocab * sizeof *logits);
}

static int32_t eval_logits(const struct opts *o, tn_err *err)
{
    tn_runtime_info info = {.h = TN_HDR(tn_runtime_info)};
    struct logits l = {NULL, 0};
    tn_runtime *rt = NULL;
    int32_t *ids = NULL;
    uint32_t n = 0;
    tn_kv one = {"scheduler.max_batch_size", "1"};
    int32_t rc = tool_read_ids(opts_text(o, "ids"), &ids, &n, err);

    if (rc == TN_OK)
        rc = app_open(o, &one, 1, &rt, err);
    if (rc == TN_OK) {
        tn_info(rt, &info);
        l.vocab = info.vocab;
        l.rows = mem_array((size_t)n * info.vocab, sizeof *l.rows);
        rc = l.rows ? run_logits(rt, ids, n, keep_rows, &l, err) : err_nomem(err, "logits");
    }
    if (rc == TN_OK)
        rc = tool_write_logits(opts_text(o, "out"), l.rows, n, l.vocab, err);
    if (rc == TN_OK)
        printf("%s: float32 [%" PRIu32 ", %" PRIu32 "]\n", opts_text(o, "out"), n, l.vocab);
    tn_close(rt);
    mem_free(l.rows);
    mem_free(ids);
    return rc;
}

/* -- perplexity -------------------------------------------------------------------------------------------- */

struct nll {
    const int32_t *ids; /* of the window */
    uint32_t n;
    double sum;
    uint64_t count;
};

/* Log-probability of `token` under softmax(row). In double: sums of 1e5 terms of float32 would not do. */
static double log_prob(const float *row, uint32_t vocab, int32_t token)
{
    float max = row[0];
    double sum = 0;

    for (uint32_t i = 1; i < vocab; i++)
        max = row[i] > max ? row[i] : max;
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)expf(row[i] - max);
    return (double)(row[token] - max) - log(sum);
}

static void add_rows(void *arg, const float *logits, uint32_t first, uint32_t n, uint32_t vocab)
{
    struct nll *s = arg;

    for (uint32_t i = 0; i < n; i++) {
        if (first + i + 1 >= s->n)
            continue; /* nothing follows the last token */
        s->sum -= log_prob(logits + (size_t)i * vocab, vocab, s->ids[first + i + 1]);
        s->count++;
    }
}

static int32_t check_ids(const int32_t *ids, uint64_t n, uint32_t vocab, const char *path,
                         tn_err *err)
{
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= vocab)
            return err_at(err, TN_E_RANGE, path, TN_NO_OFFSET, NULL,
                          "entry %" PRIu64 " is %" PRId32 ", not a token of this model (%" PRIu32
                          ")",
                          i, ids[i], vocab);
    return TN_OK;
}

static int32_t all_windows(const struct opts *o, tn_runtime *rt, const int32_t *ids, uint64_t n,
                           struct nll *s, tn_err *err)
{
    uint64_t window = (uint64_t)opts_int(o, "window", 512);
    int64_t limit = opts_int(o, "max-windows", INT64_MAX);
    int32_t rc = TN_OK;

    for (uint64_t at = 0; at + 2 <= n && rc == TN_OK && limit-- > 0; at += window) {
        s->ids = ids + at;
        s->n = (uint32_t)(n - at < window ? n - at : window);
        if (s->n < 2)
            break;
        rc = run_logits(rt, s->ids, s->n, add_rows, s, err);
        if (!opts_flag(o, "json") && !opts_flag(o, "quiet") && s->count)
            fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " tokens, perplexity %.4f", at + s->n, n,
                    exp(s->sum / (double)s->count));
    }
    if (!opts_flag(o, "json") && !opts_flag(o, "quiet"))
        fputc('\n', stderr);
    return rc;
}

static int32_t eval_perplexity(const struct opts *o, tn_err *err)
{
    tn_runtime_info info = {.h = TN_HDR(tn_runtime_info)};
    /* Windows that begin alike must be computed whole: each row's logits are wanted. */
    tn_kv one = {"scheduler.max_batch_size", "1"};
    struct nll s = {0};
    tn_runtime *rt = NULL;
    int32_t *ids = NULL;
    uint64_t n = 0;
    int32_t rc = tool_read_raw_ids(opts_text(o, "ids"), &ids, &n, err);

    if (rc == TN_OK)
        rc = app_open(o, &one, 1, &rt, err);
    if (rc == TN_OK) {
        tn_info(rt, &info);
        rc = check_ids(ids, n, info.vocab, opts_text(o, "ids"), err);
    }
    if (rc == TN_OK)
        rc = all_windows(o, rt, ids, n, &s, err);
    if (rc == TN_OK && s.count == 0)
        rc = tn_err_set(err, TN_E_INVALID, "there are no predictions to score: too few ids");
    if (rc == TN_OK && opts_flag(o, "json"))
        rc = app_print_json(json_pack("{s:f, s:f, s:I, s:I}", "perplexity",
                                      exp(s.sum / (double)s.count), "nll", s.sum / (double)s.count,
                                      "targets", (json_int_t)s.count, "window",
                                      (json_int_t)opts_int(o, "window", 512)),
                            err);
    else if (rc == TN_OK)
        printf("perplexity %.6f over %" PRIu64 " targets\n", exp(s.sum / (double)s.count), s.count);
    tn_close(rt);
    mem_free(ids);
    return rc;
}

static int run_eval_logits(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, eval_logits);
}

static int run_eval_perplexity(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, eval_perplexity);
}

static const struct opt logits_options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to run", 0, 0, NULL, true},
    {"ids", OPT_TEXT, "FILE",
     "safetensors with the tensor input_ids, int32 or int64, [n] or [1, n]", 0, 0, NULL, true},
    {"out", OPT_TEXT, "FILE", "safetensors to write: logits, float32 [n, vocab]", 0, 0, NULL, true},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_eval_logits = {.name = "eval logits",
                                        .summary =
                                            "Write the logits of every position of a sequence",
                                        .own = logits_options,
                                        .takes_conf = true,
                                        .run = run_eval_logits};

static const struct opt perplexity_options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to run", 0, 0, NULL, true},
    {"ids", OPT_TEXT, "FILE", "token ids: little-endian uint16, or int32 in a file named *.i32", 0,
     0, NULL, true},
    {"window", OPT_INT, "N", "tokens per window; windows do not overlap (512)", 2, 1 << 24, NULL,
     false},
    {"max-windows", OPT_INT, "N", "stop after so many", 1, 1e15, NULL, false},
    {"json", OPT_FLAG, NULL, "print JSON: perplexity, nll, targets", 0, 0, NULL, false},
    {"quiet", OPT_FLAG, NULL, "no progress", 0, 0, NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

const struct command cmd_eval_perplexity = {
    .name = "eval perplexity",
    .summary = "Score a file of token ids",
    .details = "The ids are cut into windows. Each window is computed on its own, and every token "
               "but its first "
               "is scored; the result is exp of the mean negative log-probability.",
    .own = perplexity_options,
    .takes_conf = true,
    .run = run_eval_perplexity};
