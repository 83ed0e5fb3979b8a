/* SPDX-License-Identifier: Apache-2.0 */
#include "build/llama_plugin.h"

#include <dlfcn.h>

#include "base/mem.h"
#include "base/strbuf.h"
#include "build/checkpoint_maker.h"
#include "check_util.h"
#include "tenon/plugin.h"

static const tn_model_arch *arch(void)
{
    const tn_plugin *(*query)(const tn_host *, uint32_t);
    void *lib = dlopen(BUILD_DIR "/lib/tenon/plugins/llama.so", RTLD_NOW | RTLD_LOCAL);
    const tn_plugin *plugin;
    void *symbol;

    ck_assert_msg(lib != NULL, "%s", dlerror());
    symbol = dlsym(lib, TN_PLUGIN_SYMBOL);
    memcpy(&query, &symbol, sizeof query); /* ISO C has no conversion to a function pointer */
    plugin = query(NULL, TN_ABI_MINOR);
    ck_assert_str_eq(plugin->ifaces[0].id, TN_IFACE_MODEL);
    return plugin->ifaces[0].vtbl;
}

json_t *llama_config(void)
{
    json_t *c =
        json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s}", "model_type", "llama",
                  "vocab_size", 16, "hidden_size", 8, "num_hidden_layers", 2, "num_attention_heads",
                  2, "num_key_value_heads", 1, "intermediate_size", 12, "max_position_embeddings",
                  64, "rms_norm_eps", 1e-5, "torch_dtype", "bfloat16");

    ck_assert_ptr_nonnull(c);
    return c;
}

int32_t llama_emit(const json_t *config, const struct checkpoint *c, struct emission *out,
                   tn_err *err)
{
    struct emit_input in = {.arch = arch(),
                            .plugin = "llama",
                            .config = config,
                            .config_path = "config.json",
                            .checkpoint = c,
                            .dtype = TN_DT_BF16};

    *err = (tn_err)TN_ERR_INIT;
    return emit_plan(&in, out, err);
}

/* -- The checkpoint ------------------------------------------------------------------------------------- */

struct writing {
    struct strbuf header;
    const struct llama_tweak *tweak;
    size_t at;
};

static bool is(const char *a, const char *b)
{
    return a && strcmp(a, b) == 0;
}

static void tensor(struct writing *w, const char *name, size_t rows, size_t cols)
{
    size_t elements;

    if (is(w->tweak->omit, name))
        return;
    rows += is(w->tweak->resize, name);
    elements = rows * (cols ? cols : 1);
    strbuf_printf(&w->header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[", w->at ? "," : "{", name);
    if (cols && !is(w->tweak->flatten, name))
        strbuf_printf(&w->header, "%zu,%zu", rows, cols);
    else
        strbuf_printf(&w->header, "%zu", elements);
    strbuf_printf(&w->header, "],\"data_offsets\":[%zu,%zu]}", w->at, w->at + 2 * elements);
    w->at += 2 * elements;
}

static void layer_tensor(struct writing *w, int layer, const char *name, size_t rows, size_t cols)
{
    char full[128];

    snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    tensor(w, full, rows, cols);
}

static void layer_tensors(struct writing *w, int i)
{
    static const struct {
        const char *name;
        size_t rows, cols;
        bool bias;
    } all[] = {
        {"input_layernorm.weight", 8, 0, false},  {"self_attn.q_proj.weight", 8, 8, false},
        {"self_attn.k_proj.weight", 4, 8, false}, {"self_attn.v_proj.weight", 4, 8, false},
        {"self_attn.o_proj.weight", 8, 8, false}, {"self_attn.q_proj.bias", 8, 0, true},
        {"self_attn.k_proj.bias", 4, 0, true},    {"self_attn.v_proj.bias", 4, 0, true},
        {"self_attn.o_proj.bias", 8, 0, true},    {"post_attention_layernorm.weight", 8, 0, false},
        {"mlp.gate_proj.weight", 12, 8, false},   {"mlp.up_proj.weight", 12, 8, false},
        {"mlp.down_proj.weight", 8, 12, false}};

    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        if (!all[k].bias || w->tweak->bias)
            layer_tensor(w, i, all[k].name, all[k].rows, all[k].cols);
}

void llama_checkpoint(const char *dir, const struct llama_tweak *t)
{
    struct writing w = {.tweak = t};

    tensor(&w, "model.embed_tokens.weight", 16, 8);
    layer_tensors(&w, 0);
    layer_tensors(&w, 1);
    tensor(&w, "model.norm.weight", 8, 0);
    if (!t->no_head)
        tensor(&w, "lm_head.weight", 16, 8);
    if (t->extra)
        tensor(&w, t->extra, 8, 0);
    strbuf_putc(&w.header, '}');
    st_file(dir, "model.safetensors", strbuf_str(&w.header), w.at);
    strbuf_release(&w.header);
}
