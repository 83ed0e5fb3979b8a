/* SPDX-License-Identifier: Apache-2.0 */
/* The Hugging Face `llama` type (Touvron et al. 2023; Grattafiori et al. 2024): what ../common/decoder.h is made after. */
#include "../common/decoder.h"
#include "../common/plugin.h"

MODEL_NOTE("llama");

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    const struct decoder_defaults absent = {.positions = 2048};
    struct model m = MODEL_BEGIN(capi, config, papi, builder, err);
    struct decoder d;

    (void)instance;
    decoder_read(&m, &absent, &d);
    d.act = model_activation(&m, "hidden_act", "silu");
    d.qkv_bias = d.o_bias = model_flag(&m, "attention_bias", false);
    d.mlp_bias = model_flag(&m, "mlp_bias", false);
    /* It only reorders sums in transformers; any value means the same model. */
    model_int(&m, "pretraining_tp", 1, 65536, 1);
    return decoder_build(&m, &d);
}

static const char *const model_types[] = {"llama", NULL};
MODEL_PLUGIN("llama", model_types, build)
