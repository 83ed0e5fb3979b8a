/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The Hugging Face types `qwen2` (Yang et al. 2024) and `qwen3` (Yang et al. 2025): LLaMA's build. The former has biases on q, k
 * and v only; the latter norms every head of q and k instead. Both may let upper layers see a window only.
 */
#include <string.h>

#include "../common/decoder.h"
#include "../common/plugin.h"

MODEL_NOTE("qwen");

static int32_t build(void *instance, const tn_config_api *capi, const tn_config *config,
                     const tn_plan_api *papi, tn_plan_builder *builder, tn_err *err)
{
    struct decoder_defaults absent = {.kv_heads = MODEL_REQUIRED, .positions = 32768};
    struct model m = MODEL_BEGIN(capi, config, papi, builder, err);
    bool third = strcmp(model_text(&m, "model_type", ""), "qwen3") == 0;
    struct decoder d;

    (void)instance;
    absent.head_dim = third ? 128 : 0;
    decoder_read(&m, &absent, &d);
    d.act = model_activation(&m, "hidden_act", "silu");
    d.qkv_bias = !third || model_flag(&m, "attention_bias", false);
    d.o_bias = third && d.qkv_bias;
    d.head_norms = third;
    if (model_flag(&m, "use_sliding_window", false))
        d.window = model_int(&m, "sliding_window", 1, 1 << 26, 4096);
    decoder_windows(&m, &d, model_int(&m, "max_window_layers", 0, 1 << 20, 28), 1);
    return decoder_build(&m, &d);
}

static const char *const model_types[] = {"qwen2", "qwen3", NULL};
MODEL_PLUGIN("qwen", model_types, build)
