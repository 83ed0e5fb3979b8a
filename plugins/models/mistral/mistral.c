/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Hugging Face `mistral` type (Jiang et al. 2023) and `mixtral` (Jiang et al. 2024): LLaMA's build with a window that all
 * layers look through, and, of the latter, a mixture of experts in the place of the feed-forward, of which every rank has
 * a slice.
 */
#include <string.h>

#include "../common/decoder.h"
#include "../common/plugin.h"

MODEL_NOTE("mistral");

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    const struct decoder_defaults absent = {.kv_heads = MODEL_REQUIRED,
                                            .positions = MODEL_REQUIRED};
    struct model m = MODEL_BEGIN(capi, config, papi, builder, err);
    struct decoder d;

    (void)instance;
    decoder_read(&m, &absent, &d);
    d.act = model_activation(&m, "hidden_act", "silu");
    /* Checkpoints that see everything say null. */
    d.window = model_int(&m, "sliding_window", 1, 1 << 26, 0);
    decoder_windows(&m, &d, 0, 1);
    if (strcmp(model_text(&m, "model_type", ""), "mixtral") == 0) {
        d.eps = model_real(&m, "rms_norm_eps", 0.0, 1.0, 1e-5);
        d.experts = model_int(&m, "num_local_experts", 1, DECODER_MAX_EXPERTS, MODEL_REQUIRED);
        d.top_k = model_int(&m, "num_experts_per_tok", 1, d.experts, MODEL_REQUIRED);
    }
    return decoder_build(&m, &d);
}

static const char *const model_types[] = {"mistral", "mixtral", NULL};
MODEL_PLUGIN("mistral", model_types, build)
