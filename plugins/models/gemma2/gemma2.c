/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Hugging Face `gemma2` type (Gemma Team 2024): LLaMA's build with norms on both sides of attention and feed-forward, which
 * store w - 1; embeddings that are scaled; caps on the scores of attention and on logits; and a window in every other layer,
 * beginning with the first.
 */
#include <math.h>

#include "../common/decoder.h"
#include "../common/plugin.h"

MODEL_NOTE("gemma2");

/* A cap that is null is none; one that is not there is that of the models as published. */
static double cap(struct model *m, const char *name, double published)
{
    const char *key = NULL;

    for (uint64_t i = 0; m->capi->get_key(m->config, "", i, &key, NULL) == TN_OK; i++)
        if (strcmp(key, name) == 0)
            return model_real(m, name, 1e-3, 1e6, 0.0);
    return published;
}

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    const struct decoder_defaults absent = {
        .kv_heads = MODEL_REQUIRED, .head_dim = 256, .positions = 8192, .tied = true};
    struct model m = MODEL_BEGIN(capi, config, papi, builder, err);
    struct decoder d;

    (void)instance;
    decoder_read(&m, &absent, &d);
    d.act = model_activation(&m, "hidden_activation", "gelu_pytorch_tanh");
    d.qkv_bias = d.o_bias = model_flag(&m, "attention_bias", false);
    d.post_norms = true;
    d.norm_offset = 1.0;
    d.embed_scale = sqrt((double)d.hidden);
    d.attn_scale = 1.0 / sqrt(model_real(&m, "query_pre_attn_scalar", 1e-3, 1e6, 256.0));
    d.attn_softcap = cap(&m, "attn_logit_softcapping", 50.0);
    d.softcap = cap(&m, "final_logit_softcapping", 30.0);
    d.window = model_int(&m, "sliding_window", 1, 1 << 26, 4096);
    decoder_windows(&m, &d, 0, 2);
    if (model_flag(&m, "use_bidirectional_attention", false))
        model_refuse(&m, "use_bidirectional_attention", "tokens see what is before them only");
    return decoder_build(&m, &d);
}

static const char *const model_types[] = {"gemma2", NULL};
MODEL_PLUGIN("gemma2", model_types, build)
