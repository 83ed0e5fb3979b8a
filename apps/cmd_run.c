/* SPDX-License-Identifier: Apache-2.0 */
/* tenon run: one prompt, one output. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/strbuf.h"
#include "chat.h"
#include "textio.h"

/* What is being generated, and how far it is. */
struct generation {
    const struct opts *o;
    tn_runtime *rt;
    tn_runtime_info info;
    struct textio *text; /* NULL: the engine has no tokenizer */
    struct textio_stream *stream;
    int32_t *prompt, *stop_ids, *bias_ids, *output;
    float *bias_values;
    uint32_t n_prompt, n_stop_ids, n_bias, n_output, cap_output;
    struct strbuf out; /* text so far */
    size_t printed;    /* bytes of it that were streamed */
    bool stopped;      /* by a stop string */
    tn_event end;
    tn_err *err;
};

/* -- Reading the command line -------------------------------------------------------------------------- */

static int32_t bad_list(const char *flag, const char *value, tn_err *err)
{
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, flag,
                  "is \"%.60s\"; token ids separated by commas are wanted", value);
}

/* "1,2,3" */
static int32_t parse_ids(const char *flag, const char *value, int32_t **ids, uint32_t *n,
                         tn_err *err)
{
    size_t room = strlen(value) / 2 + 1;
    const char *p = value;
    int32_t *list = mem_array(room, sizeof *list);

    if (!list)
        return err_nomem(err, "token ids");
    *n = 0;
    for (;;) {
        char *end;
        long v = *p >= '0' && *p <= '9' ? strtol(p, &end, 10) : -1;
        if (v < 0 || v > INT32_MAX || (*end != ',' && *end != '\0')) {
            mem_free(list);
            return bad_list(flag, value, err);
        }
        list[(*n)++] = (int32_t)v;
        if (*end == '\0')
            break;
        p = end + 1;
    }
    *ids = list;
    return TN_OK;
}

/* "--logit-bias ID=VALUE", any number of times. */
static int32_t parse_bias(struct generation *g)
{
    const char *pair;
    uint32_t n = 0;

    while (opts_nth(g->o, "logit-bias", n))
        n++;
    g->bias_ids = mem_array(n, sizeof *g->bias_ids);
    g->bias_values = mem_array(n, sizeof *g->bias_values);
    if (!g->bias_ids || !g->bias_values)
        return err_nomem(g->err, "logit biases");
    for (; (pair = opts_nth(g->o, "logit-bias", g->n_bias)) != NULL; g->n_bias++) {
        char *end;
        long id = strtol(pair, &end, 10);
        float v = 0;
        bool ok = end != pair && *end == '=' && id >= 0 && id <= INT32_MAX;
        if (ok) {
            const char *number = end + 1;
            v = strtof(number, &end);
            ok = end != number && *end == '\0' && isfinite(v);
        }
        if (!ok)
            return err_at(g->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--logit-bias",
                          "is \"%.60s\"; ID=VALUE is wanted", pair);
        g->bias_ids[g->n_bias] = (int32_t)id;
        g->bias_values[g->n_bias] = v;
    }
    return TN_OK;
}

static int32_t need_text(const struct generation *g, const char *flag)
{
    if (g->text)
        return TN_OK;
    err_at(g->err, TN_E_NOTFOUND, NULL, TN_NO_OFFSET, flag,
           "needs a tokenizer, which the engine lacks");
    err_remedy(g->err,
               "use --prompt-ids, or build the engine from a checkpoint with a tokenizer.json");
    return TN_E_NOTFOUND;
}

/* What ends a turn by the tokenizer's files ends the output, too: chat models share their weights' settings with
 * the base models, whose end is the end of a document. */
static int32_t add_end_token(struct generation *g)
{
    int32_t id = textio_end_token(g->text);
    size_t cap = g->n_stop_ids;

    if (id < 0 || opts_flag(g->o, "ignore-eos"))
        return TN_OK;
    if (!mem_grow(&g->stop_ids, &cap, g->n_stop_ids + 1, sizeof *g->stop_ids))
        return err_nomem(g->err, "stop ids");
    g->stop_ids[g->n_stop_ids++] = id;
    return TN_OK;
}

static int32_t read_chat(struct generation *g)
{
    const char *prompt = opts_text(g->o, "prompt");
    struct chat_source source = {0};
    int32_t rc = need_text(g, "--chat");

    if (rc == TN_OK)
        rc = chat_read(g->o, &source, g->err);
    if (rc == TN_OK && prompt)
        rc = chat_prompt(prompt, &source, g->err);
    if (rc == TN_OK)
        rc = textio_chat(g->text, opts_text(g->o, "template"), &source, &g->prompt, &g->n_prompt,
                         g->err);
    if (rc == TN_OK && g->n_prompt == 0)
        rc = err_at(g->err, TN_E_INVALID, NULL, TN_NO_OFFSET, "--chat", "has no tokens");
    chat_source_release(&source);
    return rc == TN_OK ? add_end_token(g) : rc;
}

static int32_t read_prompt(struct generation *g)
{
    const char *text = opts_text(g->o, "prompt"), *ids = opts_text(g->o, "prompt-ids");
    uint32_t flags = (opts_flag(g->o, "no-special") ? 0 : TEXTIO_ADD_SPECIAL) |
                     (opts_flag(g->o, "parse-special") ? TEXTIO_READ_SPECIAL : 0);
    int32_t rc;

    if (opts_flag(g->o, "chat"))
        return read_chat(g);
    if (ids)
        return parse_ids("--prompt-ids", ids, &g->prompt, &g->n_prompt, g->err);
    rc = need_text(g, "--prompt");
    if (rc == TN_OK)
        rc = textio_encode(g->text, text, strlen(text), flags, &g->prompt, &g->n_prompt, g->err);
    if (rc == TN_OK && g->n_prompt == 0)
        rc = err_at(g->err, TN_E_INVALID, NULL, TN_NO_OFFSET, "--prompt", "has no tokens");
    return rc;
}

static int32_t check_prompt_flags(const struct opts *o, tn_err *err)
{
    bool text = opts_flag(o, "prompt"), ids = opts_flag(o, "prompt-ids");
    bool messages = opts_flag(o, "messages"), chat = opts_flag(o, "chat");
    static const char *const of_chat[] = {"--messages", "--tools", "--documents", "--variables",
                                          "--template"};

    for (size_t i = 0; !chat && i < sizeof of_chat / sizeof *of_chat; i++)
        if (opts_flag(o, of_chat[i] + 2))
            return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, of_chat[i], "needs --chat");
    if (chat && (ids || text == messages))
        return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--chat",
                      "wants exactly one of --prompt and --messages");
    if (chat || text != ids)
        return TN_OK;
    return err_at(err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--prompt",
                  "exactly one of --prompt and --prompt-ids is wanted");
}

static int32_t open_stream(struct generation *g)
{
    const char *stops[64];
    uint32_t n = 0;
    int32_t rc;

    while (n < 64 && opts_nth(g->o, "stop", n)) {
        stops[n] = opts_nth(g->o, "stop", n);
        if (stops[n][0] == '\0')
            return err_at(g->err, TN_E_CONFIG, NULL, TN_NO_OFFSET, "--stop", "is empty");
        n++;
    }
    if (n > g->info.max_stop_strings)
        return err_at(g->err, TN_E_LIMIT, NULL, TN_NO_OFFSET, "--stop",
                      "is given %" PRIu32 " times; limits.max_stop_strings is %" PRIu32, n,
                      g->info.max_stop_strings);
    if (n > 0 && (rc = need_text(g, "--stop")) != TN_OK)
        return rc;
    return g->text ? textio_stream_new(g->text, stops, n, &g->stream, g->err) : TN_OK;
}

static tn_request_params params_of(const struct generation *g)
{
    const struct opts *o = g->o;
    tn_request_params p = TN_REQUEST_PARAMS_INIT;
    uint32_t room = g->n_prompt < g->info.max_seq_len ? g->info.max_seq_len - g->n_prompt : 1;
    uint32_t some = g->info.default_output_len < room ? g->info.default_output_len : room;

    p.prompt = g->prompt;
    p.n_prompt = g->n_prompt;
    p.max_new_tokens = (uint32_t)opts_int(o, "max-tokens", some);
    p.min_new_tokens = (uint32_t)opts_int(o, "min-tokens", 0);
    p.ignore_eos = opts_flag(o, "ignore-eos");
    p.stop_ids = g->stop_ids;
    p.n_stop_ids = g->n_stop_ids;
    p.temperature = (float)opts_real(o, "temperature", 0);
    p.top_k = (uint32_t)opts_int(o, "top-k", 0);
    p.top_p = (float)opts_real(o, "top-p", 1);
    p.min_p = (float)opts_real(o, "min-p", 0);
    p.repetition_penalty = (float)opts_real(o, "repetition-penalty", 1);
    p.presence_penalty = (float)opts_real(o, "presence-penalty", 0);
    p.frequency_penalty = (float)opts_real(o, "frequency-penalty", 0);
    p.bias_ids = g->bias_ids;
    p.bias_values = g->bias_values;
    p.n_bias = g->n_bias;
    p.seed = opts_flag(o, "seed") ? (uint64_t)opts_int(o, "seed", 0) : rng_entropy();
    return p;
}

/* -- Generating ----------------------------------------------------------------------------------------- */

/* With --stream, text goes out as it becomes certain: plain, or as a JSON line per token. */
static void stream_token(struct generation *g, const tn_event *ev)
{
    const char *fresh = strbuf_str(&g->out) + g->printed;

    if (!opts_flag(g->o, "stream"))
        return;
    if (opts_flag(g->o, "json")) {
        json_t *line = json_pack("{s:i, s:s, s:f}", "token", (int)ev->token, "text", fresh,
                                 "logprob", (double)ev->logprob);
        char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
        puts(text ? text : "{}");
        free(text); /* jansson's */
        json_decref(line);
    } else {
        fputs(fresh, stdout);
    }
    g->printed = g->out.len;
    fflush(stdout);
}

static int32_t take_token(struct generation *g, tn_request *req, const tn_event *ev)
{
    size_t cap = g->cap_output;
    int32_t rc = TN_OK;

    if (g->stopped)
        return TN_OK; /* it came before the stop took effect */
    if (!mem_grow(&g->output, &cap, g->n_output + 1, sizeof *g->output))
        return err_nomem(g->err, "an output");
    g->cap_output = (uint32_t)cap;
    g->output[g->n_output++] = ev->token;
    if (g->stream)
        rc = textio_push(g->stream, ev->token, &g->out, &g->stopped, g->err);
    if (rc == TN_OK)
        stream_token(g, ev);
    if (g->stopped)
        tn_end(req);
    return rc;
}

static int32_t finish_text(struct generation *g)
{
    int32_t rc = TN_OK;

    if (g->stream && !g->stopped)
        rc = textio_flush(g->stream, &g->out, &g->stopped, g->err);
    if (rc == TN_OK && g->out.failed)
        rc = err_nomem(g->err, "an output");
    if (rc == TN_OK && opts_flag(g->o, "stream") && !opts_flag(g->o, "json"))
        fputs(strbuf_str(&g->out) + g->printed, stdout);
    return rc;
}

static int32_t generate(struct generation *g)
{
    tn_request_params p = params_of(g);
    tn_request *req = NULL;
    tn_event ev = TN_EVENT_INIT;
    int32_t rc = tn_submit(g->rt, &p, &req, g->err);

    while (rc == TN_OK && ev.kind != TN_EVENT_FINISHED) {
        rc = tn_next_event(req, 100, &ev, g->err);
        if (app_interrupted(NULL))
            tn_cancel(req);
        if (rc == TN_OK && ev.kind == TN_EVENT_TOKEN)
            rc = take_token(g, req, &ev);
        if (rc == TN_E_TIMEOUT)
            rc = TN_OK;
    }
    g->end = ev;
    if (rc == TN_OK)
        rc = finish_text(g);
    if (rc == TN_OK && (ev.finish == TN_FINISH_ERROR || ev.finish == TN_FINISH_CANCELED ||
                        ev.finish == TN_FINISH_TIMEOUT))
        rc = tn_err_set(g->err, ev.status ? ev.status : TN_E_CANCELED,
                        "the output is incomplete: %s", ev.message);
    tn_release(req);
    return rc;
}

/* -- Printing ------------------------------------------------------------------------------------------- */

static const char *finish_reason(const struct generation *g)
{
    return !g->stopped && g->end.finish == TN_FINISH_LENGTH ? "length" : "stop";
}

static json_t *ids_json(const int32_t *ids, uint32_t n)
{
    json_t *list = json_array();

    for (uint32_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

static json_t *timings_json(const struct generation *g)
{
    const tn_usage *u = &g->end.usage;
    double total = (double)u->finished_ns / 1e6, first = (double)u->first_token_ns / 1e6;
    double started = (double)u->started_ns / 1e6, decode = total - first;

    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "queue_ms", started, "time_to_first_token_ms",
                     first, "decode_ms", decode, "total_ms", total, "decode_tokens_per_s",
                     u->n_output > 1 && decode > 0 ? (u->n_output - 1) * 1e3 / decode : 0.0);
}

static int32_t print_json(struct generation *g)
{
    const tn_usage *u = &g->end.usage;

    return app_print_json(json_pack("{s:o, s:s%, s:s, s:{s:i, s:i, s:i}, s:o}", "output_ids",
                                    ids_json(g->output, g->n_output), "text", strbuf_str(&g->out),
                                    g->out.len, "finish_reason", finish_reason(g), "usage",
                                    "prompt_tokens", (int)u->n_prompt, "cached_tokens",
                                    (int)u->n_cached, "completion_tokens", (int)u->n_output,
                                    "timings", timings_json(g)),
                          g->err);
}

static int32_t print_plain(struct generation *g)
{
    if (!g->text) {
        for (uint32_t i = 0; i < g->n_output; i++)
            printf("%s%" PRId32, i ? "," : "", g->output[i]);
    } else if (!opts_flag(g->o, "stream")) {
        fwrite(strbuf_str(&g->out), 1, g->out.len, stdout);
    }
    putchar('\n');
    return TN_OK;
}

/* -- The command ---------------------------------------------------------------------------------------- */

static int32_t open_all(struct generation *g)
{
    /* One sequence: no reason to hold memory for more, unless the user says so. */
    const tn_kv one = {"scheduler.max_batch_size", "1"};
    int32_t rc;

    rc = textio_open(opts_text(g->o, "engine"), &g->text, g->err);
    if (rc == TN_E_NOTFOUND) {
        err_reset(g->err);
        rc = TN_OK;
    }
    if (rc == TN_OK)
        rc = app_open(g->o, &one, 1, &g->rt, g->err);
    if (rc == TN_OK)
        tn_info(g->rt, &g->info);
    return rc;
}

static void generation_release(struct generation *g)
{
    textio_stream_free(g->stream);
    tn_close(g->rt);
    textio_close(g->text);
    mem_free(g->prompt);
    mem_free(g->stop_ids);
    mem_free(g->bias_ids);
    mem_free(g->bias_values);
    mem_free(g->output);
    strbuf_release(&g->out);
}

static int32_t body(const struct opts *o, tn_err *err)
{
    struct generation g = {.o = o, .info = {.h = TN_HDR(tn_runtime_info)}, .err = err};
    const char *stop_ids = opts_text(o, "stop-ids");
    int32_t rc = check_prompt_flags(o, err);

    if (rc == TN_OK && stop_ids)
        rc = parse_ids("--stop-ids", stop_ids, &g.stop_ids, &g.n_stop_ids, err);
    if (rc == TN_OK)
        rc = parse_bias(&g);
    if (rc == TN_OK)
        rc = open_all(&g);
    if (rc == TN_OK)
        rc = read_prompt(&g);
    if (rc == TN_OK)
        rc = open_stream(&g);
    if (rc == TN_OK)
        rc = generate(&g);
    if (rc == TN_OK)
        rc = opts_flag(o, "json") ? print_json(&g) : print_plain(&g);
    generation_release(&g);
    return rc;
}

static int run(const struct command *c, int argc, char **argv)
{
    return app_main(c, argc, argv, body);
}

static const struct opt options[] = {
    {"engine", OPT_TEXT, "DIR", "engine to run", 0, 0, NULL, true},
    {"prompt", OPT_TEXT, "TEXT", "what to continue", 0, 0, NULL, false},
    {"prompt-ids", OPT_TEXT, "IDS", "the prompt as token ids: 1,2,3", 0, 0, NULL, false},
    {"chat", OPT_FLAG, NULL, "the prompt is a message: render it with the model's chat template", 0,
     0, NULL, false},
    {"messages", OPT_TEXT, "FILE", "with --chat: a conversation instead of a prompt, as JSON", 0, 0,
     NULL, false},
    {"tools", OPT_TEXT, "FILE", "with --chat: functions that the model may call", 0, 0, NULL,
     false},
    {"documents", OPT_TEXT, "FILE", "with --chat: what the answer is to stand on", 0, 0, NULL,
     false},
    {"variables", OPT_TEXT, "FILE", "with --chat: more variables of the template", 0, 0, NULL,
     false},
    {"template", OPT_TEXT, "NAME", "with --chat: which of the tokenizer's templates (default)", 0,
     0, NULL, false},
    {"max-tokens", OPT_INT, "N", "most tokens to generate (limits.default_output_len)", 1,
     134217728, NULL, false},
    {"min-tokens", OPT_INT, "N", "no end before so many (0)", 0, 134217728, NULL, false},
    {"temperature", OPT_REAL, "X", "0 is greedy (0)", 0, 100, NULL, false},
    {"top-k", OPT_INT, "N", "sample among the N most probable; 0: all (0)", 0, 1 << 24, NULL,
     false},
    {"top-p", OPT_REAL, "X", "sample among the most probable that reach this sum (1)", 0, 1, NULL,
     false},
    {"min-p", OPT_REAL, "X", "drop tokens below this share of the most probable (0)", 0, 1, NULL,
     false},
    {"repetition-penalty", OPT_REAL, "X", "divides logits of tokens seen (1)", 0.01, 100, NULL,
     false},
    {"presence-penalty", OPT_REAL, "X", "subtracted once for tokens generated (0)", -2, 2, NULL,
     false},
    {"frequency-penalty", OPT_REAL, "X", "subtracted per occurrence (0)", -2, 2, NULL, false},
    {"logit-bias", OPT_LIST, "ID=X", "added to the logit of a token; may be repeated", 0, 0, NULL,
     false},
    {"seed", OPT_INT, "N", "of the sampling; the same seed gives the same text (random)", 0,
     9007199254740992.0, NULL, false},
    {"stop", OPT_LIST, "TEXT", "end the output before this text; may be repeated", 0, 0, NULL,
     false},
    {"stop-ids", OPT_TEXT, "IDS", "end the output at these tokens: 1,2,3", 0, 0, NULL, false},
    {"ignore-eos", OPT_FLAG, NULL, "the model's end tokens do not end the output", 0, 0, NULL,
     false},
    {"no-special", OPT_FLAG, NULL, "do not add the tokenizer's own tokens (a BOS) to the prompt", 0,
     0, NULL, false},
    {"parse-special", OPT_FLAG, NULL, "special tokens spelt out in the prompt become those tokens",
     0, 0, NULL, false},
    {"stream", OPT_FLAG, NULL, "print text as it is generated; with --json a line per token", 0, 0,
     NULL, false},
    {"json", OPT_FLAG, NULL, "print JSON: output_ids, text, finish_reason, usage, timings", 0, 0,
     NULL, false},
    {NULL, OPT_FLAG, NULL, NULL, 0, 0, NULL, false}};

static const char *const examples[] = {
    "tenon run --engine engines/docs-7m --prompt \"The PostgreSQL server\" --max-tokens 64 "
    "--stream",
    "tenon run --engine engines/docs-7m --chat --prompt \"What is a table?\" --max-tokens 64",
    "tenon run --engine engines/docs-7m --prompt-ids 8187,433 --temperature 0.8 --seed 1 --json",
    NULL};

const struct command cmd_run = {
    .name = "run",
    .summary = "Generate text from a prompt",
    .details =
        "Special tokens spelt out in the prompt are plain text unless --parse-special is given.",
    .own = options,
    .takes_conf = true,
    .examples = examples,
    .run = run};
