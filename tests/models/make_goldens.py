#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tiny LLaMA checkpoints and their goldens with transformers (needs torch; not run by the tests).

Each directory gets config.json, *.safetensors and golden.safetensors: input_ids [n] int32, logits
[n, vocab] float32 computed in float32 from the stored weights, greedy_ids [prompt + 40] int32 and
greedy_margin [40] float32 (best minus second logit).

    tests/models/make_goldens.py [NAME ...]
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

BASE = dict(vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
            rms_norm_eps=1e-5, rope_theta=10000.0, bos_token_id=1, eos_token_id=2,
            tie_word_embeddings=False)

# name: (changes to BASE, prompt length, stored dtype, shards, older spelling of config.json)
CASES = {
    "rope-linear": (dict(rope_scaling={"rope_type": "linear", "factor": 4.0}), 70, "bfloat16", 1, False),
    "rope-dynamic": (dict(max_position_embeddings=32, rope_scaling={"rope_type": "dynamic", "factor": 4.0}),
                     50, "bfloat16", 1, False),
    "rope-llama3": (dict(head_dim=32, max_position_embeddings=512, rope_theta=500000.0,
                         rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                       "high_freq_factor": 4.0,
                                       "original_max_position_embeddings": 64}), 90, "bfloat16", 1, True),
    "rope-yarn": (dict(head_dim=32, max_position_embeddings=256,
                       rope_scaling={"rope_type": "yarn", "factor": 4.0,
                                     "original_max_position_embeddings": 64}), 90, "float16", 1, False),
    "odd-widths": (dict(hidden_size=36, intermediate_size=59, num_attention_heads=3,
                        num_key_value_heads=1, head_dim=10, vocab_size=101), 33, "float32", 1, True),
    "head-256": (dict(num_attention_heads=2, num_key_value_heads=2, head_dim=256), 40, "bfloat16", 1, False),
    "sharded-tied": (dict(tie_word_embeddings=True, num_hidden_layers=3), 20, "float16", 3, True),
    "biases-gelu": (dict(attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"), 20,
                    "bfloat16", 2, False),
}


def greedy(model, prompt, n):
    ids, margins, past = list(prompt), [], None
    step = torch.tensor([ids])
    for _ in range(n):
        out = model(step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        top = out.logits[0, -1].topk(2).values
        margins.append(float(top[0] - top[1]))
        ids.append(int(out.logits[0, -1].argmax()))
        step = torch.tensor([[ids[-1]]])
    return ids, margins


def older_spelling(config):
    rope = config.pop("rope_parameters", None) or {}
    config["rope_theta"] = rope.pop("rope_theta", 10000.0)
    if rope.get("rope_type", "default") != "default":
        rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
    else:
        config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    return config


def make(name, here):
    changes, prompt_len, dtype, shards, older = CASES[name]
    out = os.path.join(here, name)
    torch.manual_seed(sum(map(ord, name)))
    config = LlamaConfig(**{**BASE, **changes})
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():  # larger than the default 0.02, so that logits differ clearly
            if p.dim() > 1:
                p.normal_(0, 0.15)
            else:
                p.normal_(1.0 if p.abs().sum() > 0 else 0.0, 0.2)
    model = model.to(getattr(torch, dtype))
    limit = {1: "1GB", 2: "60KB", 3: "30KB"}[shards]
    model.save_pretrained(out, max_shard_size=limit)
    path = os.path.join(out, "config.json")
    if older:
        config = older_spelling(json.load(open(path)))
        json.dump(config, open(path, "w"), indent=2)
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(out, extra)):
            os.remove(os.path.join(out, extra))
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(3, BASE["vocab_size"], (prompt_len,))
    with torch.no_grad():
        logits = model(ids[None]).logits[0].float().contiguous()
        prompt = ids[: prompt_len // 2].tolist()
        g, margins = greedy(model, prompt, 40)
    save_file({"input_ids": ids.to(torch.int32), "logits": logits,
               "greedy_ids": torch.tensor(g, dtype=torch.int32),
               "greedy_margin": torch.tensor(margins)}, os.path.join(out, "golden.safetensors"))
    print(name, "logits", tuple(logits.shape), "least margin", min(margins))


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    for case in sys.argv[1:] or CASES:
        make(case, here)
