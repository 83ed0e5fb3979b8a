/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A complete program around libtenon: opens an engine, submits a prompt of token ids, prints tokens as they come.
 *
 *     gcc generate.c $(pkg-config --cflags --libs tenon) -o generate
 *     ./generate engines/docs-7m 64 8187 433 4049 1092
 */
#include <stdio.h>
#include <stdlib.h>

#include <tenon.h>

static int fail(const char *what, const tn_err *err)
{
    fprintf(stderr, "%s: %s %s: %s (%s)\n", what, err->file, err->field, err->msg,
            tn_status_text(err->code));
    return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    tn_open_options options = TN_OPEN_OPTIONS_INIT;
    tn_request_params params = TN_REQUEST_PARAMS_INIT;
    tn_event event = TN_EVENT_INIT;
    tn_err err = TN_ERR_INIT;
    tn_runtime *rt = NULL;
    tn_request *request = NULL;
    int32_t prompt[512];

    if (argc < 4 || argc > 512) {
        fprintf(stderr, "usage: %s ENGINE MAX_TOKENS ID...\n", argv[0]);
        return 2;
    }
    for (int i = 3; i < argc; i++)
        prompt[i - 3] = (int32_t)strtol(argv[i], NULL, 10);

    options.engine = argv[1];
    if (tn_open(&options, &rt, &err) != TN_OK)
        return fail("cannot open the engine", &err);
    params.prompt = prompt;
    params.n_prompt = (uint32_t)argc - 3;
    params.max_new_tokens = (uint32_t)strtoul(argv[2], NULL, 10);
    if (tn_submit(rt, &params, &request, &err) != TN_OK) {
        tn_close(rt);
        return fail("cannot submit the request", &err);
    }
    while (tn_next_event(request, -1, &event, &err) == TN_OK && event.kind == TN_EVENT_TOKEN) {
        printf("%d ", event.token);
        fflush(stdout);
    }
    printf("\n%u tokens%s%s\n", event.usage.n_output, event.message ? " " : "", event.message);
    tn_release(request);
    tn_close(rt);
    return event.status == TN_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
