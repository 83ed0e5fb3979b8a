/* SPDX-License-Identifier: Apache-2.0 */
#include "api/engines.h"

#include <sys/stat.h>

#include "api/tools.h"
#include "check_util.h"

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 199, \"hidden_size\": 64,"
    " \"intermediate_size\": 96, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2,"
    " \"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-5,"
    " \"tie_word_embeddings\": false, \"initializer_range\": 0.02,"
    " \"bos_token_id\": 1, \"eos_token_id\": [2, 3], \"dtype\": \"float32\"}";

static void build(const struct tool_build *b)
{
    tn_err err = TN_ERR_INIT;
    json_t *report = NULL;

    ck_assert_ok(tool_build_engine(b, &report, &err), &err);
    json_decref(report);
}

void build_dummy_engine(const char *dir, const char *dtype)
{
    char model[256], path[300], out[300];

    snprintf(model, sizeof model, "%s/model", dir);
    snprintf(path, sizeof path, "%s/config.json", model);
    snprintf(out, sizeof out, "%s/engine", dir);
    ck_assert_int_eq(mkdir(model, 0755), 0);
    write_file(path, config, sizeof config - 1);
    build(&(struct tool_build){
        .model = model, .output = out, .dtype = dtype, .dummy = true, .quiet = true});
}

void build_engine_of(const char *model, const char *dir, const char *dtype)
{
    char out[300];

    snprintf(out, sizeof out, "%s/engine", dir);
    build(&(struct tool_build){.model = model, .output = out, .dtype = dtype, .quiet = true});
}
