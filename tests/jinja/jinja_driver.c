/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C side of the differential test: reads one JSON object per line, {"template", "context", "trusted", "now",
 * "fuel"}, compiles and renders, and writes one per line: {"text", "ranges", "generations"} or {"failure", "msg", "field"}.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jinja/jinja.h"

static const char *const failures[] = {
    "ok",    "syntax", "raised",     "undefined", "security",    "runtime", "type",
    "value", "lookup", "arithmetic", "limit",     "unsupported", "nomem"};

static json_t *error_json(const tn_err *err)
{
    const char *failure =
        err->native >= 0 && err->native <= JINJA_NOMEM ? failures[err->native] : "?";

    return json_pack("{s:s, s:s, s:s, s:I}", "failure", failure, "msg", err->msg, "field",
                     err->field, "code", (json_int_t)err->code);
}

static json_t *result_json(const struct jinja_result *r)
{
    json_t *ranges = json_array(), *spans = json_array();

    for (size_t i = 0; i < r->range_count; i++)
        json_array_append_new(ranges,
                              json_pack("[I, I, b]", (json_int_t)r->ranges[i].begin,
                                        (json_int_t)r->ranges[i].end, (int)r->ranges[i].trusted));
    for (size_t i = 0; i < r->generation_count; i++)
        json_array_append_new(spans, json_pack("[I, I]", (json_int_t)r->generations[i].begin,
                                               (json_int_t)r->generations[i].end));
    return json_pack("{s:o, s:o, s:o, s:I, s:I}", "text",
                     json_stringn(strbuf_str(&r->text), r->text.len), "ranges", ranges,
                     "generations", spans, "fuel", (json_int_t)r->fuel_used, "memory",
                     (json_int_t)r->memory_used);
}

static json_t *run(const json_t *job)
{
    struct jinja_result result = JINJA_RESULT_INIT;
    struct jinja_options options = {0};
    struct jinja_time now = {0};
    const char *trusted[JINJA_MAX_TRUSTED];
    const json_t *list = json_object_get(job, "trusted"), *clock = json_object_get(job, "now");
    const json_t *text = json_object_get(job, "template");
    tn_err err = TN_ERR_INIT;
    struct jinja *t = NULL;
    json_t *out;

    options.limits.fuel = (uint64_t)json_integer_value(json_object_get(job, "fuel"));
    options.trusted = trusted;
    for (size_t i = 0; i < json_array_size(list) && i < JINJA_MAX_TRUSTED; i++)
        trusted[options.trusted_count++] = json_string_value(json_array_get(list, i));
    if (clock) {
        now.unix_s = json_integer_value(clock);
        now.micros = 123456;
        options.now = &now;
    }
    if (jinja_compile("template", json_string_value(text), json_string_length(text), &t, &err) ||
        jinja_render(t, json_object_get(job, "context"), &options, &result, &err))
        out = error_json(&err);
    else
        out = result_json(&result);
    jinja_free(t);
    jinja_result_release(&result);
    return out;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;

    while ((n = getline(&line, &room, stdin)) > 0) {
        json_error_t error;
        json_t *job = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, &error), *out;
        char *text;
        if (!job) {
            fprintf(stderr, "bad job: %s\n", error.text);
            return EXIT_FAILURE;
        }
        out = run(job);
        text = json_dumps(out, JSON_COMPACT);
        printf("%s\n", text ? text : "null");
        fflush(stdout);
        free(text);
        json_decref(out);
        json_decref(job);
    }
    free(line);
    return EXIT_SUCCESS;
}
