#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Tenon with transformers on checkpoints of random shapes (needs torch; not run by the tests).

For every seed: a random configuration (heads, groups, head size, odd widths, ties, biases, windows, experts, caps, rope
scaling, dtype, shards, either spelling of config.json), random weights, logits in float32 from transformers; then
`tenon build` and `tenon eval logits` with each kernel set. A seed that fails prints itself and its configuration.

    tests/models/random_models.py --tenon build/bin/tenon [--arch llama qwen2 ...] [--seeds 40] [--first 0]
                                  [--sets cpu,reference reference] [--device cpu] [--tolerance 1e-3]
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM


transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()


def rope_of(rng, head_dim, positions):
    kind = rng.choice(["default", "default", "linear", "dynamic", "llama3", "yarn"])
    if kind == "dynamic" and head_dim == 2:  # which the library divides by 0 for
        kind = "default"
    factor = rng.choice([1.5, 2.0, 4.0, 8.0])
    if kind == "default":
        return {"rope_type": "default"}
    rope = {"rope_type": kind, "factor": factor}
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = max(8, positions // int(factor + 1))
    if kind == "llama3":
        low = rng.choice([1.0, 2.0])
        rope.update(low_freq_factor=low, high_freq_factor=low * rng.choice([2.0, 4.0]))
    if kind == "yarn" and rng.random() < 0.5:
        rope.update(beta_fast=rng.choice([16.0, 32.0]), beta_slow=1.0)
    return rope


ACTIVATIONS = ["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]


def decoder(rng):
    """What all but gpt2 have in common."""
    heads = rng.choice([1, 2, 3, 4, 6, 8, 12])
    kv = rng.choice([d for d in range(1, heads + 1) if heads % d == 0])
    head_dim = rng.choice([2, 4, 8, 10, 16, 24, 32, 40, 64, 80, 96, 128, 256])
    hidden = heads * (head_dim if rng.random() < 0.5 else rng.choice([5, 11, 16, 25, 33]))
    positions = rng.choice([16, 32, 64, 256])
    rope = rope_of(rng, head_dim, positions)
    rope["rope_theta"] = rng.choice([10000.0, 500000.0, 100.0])
    return dict(vocab_size=rng.choice([33, 96, 128, 257, 1000]), hidden_size=hidden,
                intermediate_size=rng.choice([17, 64, 80, 171, 256]), num_hidden_layers=rng.randint(1, 4),
                num_attention_heads=heads, num_key_value_heads=kv, head_dim=head_dim,
                max_position_embeddings=positions, rms_norm_eps=rng.choice([1e-5, 1e-6]), rope_parameters=rope,
                tie_word_embeddings=rng.random() < 0.4, bos_token_id=1, eos_token_id=2, pad_token_id=None)


def llama(rng):
    return dict(attention_bias=rng.random() < 0.3, mlp_bias=rng.random() < 0.3, hidden_act=rng.choice(ACTIVATIONS))


def mistral(rng):
    return dict(sliding_window=rng.choice([None, 1, 3, 8, 20, 4096]), hidden_act=rng.choice(ACTIVATIONS))


def mixtral(rng):
    experts = rng.choice([1, 2, 3, 8])
    return dict(num_local_experts=experts, num_experts_per_tok=rng.randint(1, min(experts, 4)),
                sliding_window=rng.choice([None, None, 5]), hidden_act=rng.choice(ACTIVATIONS))


def windows(rng):
    return dict(use_sliding_window=rng.random() < 0.5, sliding_window=rng.choice([1, 4, 9]),
                max_window_layers=rng.randint(0, 4))


def qwen2(rng):
    return dict(windows(rng), hidden_act=rng.choice(ACTIVATIONS))


def qwen3(rng):
    return dict(windows(rng), hidden_act=rng.choice(ACTIVATIONS), attention_bias=rng.random() < 0.3)


def gemma2(rng):
    return dict(hidden_activation=rng.choice(["gelu_pytorch_tanh", "gelu", "silu"]), query_pre_attn_scalar=rng.choice([7, 64, 256]),
                attn_logit_softcapping=rng.choice([None, 5.0, 50.0]), final_logit_softcapping=rng.choice([None, 3.0, 30.0]),
                sliding_window=rng.choice([1, 4, 11, 4096]), attention_bias=rng.random() < 0.3)


def gpt2(rng):
    heads = rng.choice([1, 2, 3, 4, 12])
    return dict(vocab_size=rng.choice([33, 128, 1000]), n_embd=heads * rng.choice([2, 7, 16, 64, 80]), n_head=heads,
                n_layer=rng.randint(1, 4), n_positions=rng.choice([8, 32, 200]), n_inner=rng.choice([None, 17, 128]),
                activation_function=rng.choice(["gelu_new", "gelu", "relu", "gelu_pytorch_tanh", "silu"]),
                scale_attn_weights=rng.random() < 0.8, scale_attn_by_inverse_layer_idx=rng.random() < 0.3,
                reorder_and_upcast_attn=rng.random() < 0.2, layer_norm_epsilon=rng.choice([1e-5, 1e-3]),
                tie_word_embeddings=rng.random() < 0.7, bos_token_id=1, eos_token_id=2)


ARCHITECTURES = {f.__name__: f for f in (llama, mistral, mixtral, qwen2, qwen3, gemma2, gpt2)}


def config_of(rng, arch):
    common = {} if arch == "gpt2" else decoder(rng)
    if arch == "qwen2":  # has no head size of its own
        common["hidden_size"] = common["num_attention_heads"] * common.pop("head_dim")
    return dict(common, **ARCHITECTURES[arch](rng))


def older_spelling(path):
    c = json.load(open(path))
    rope = c.pop("rope_parameters", None) or {}
    c["rope_theta"] = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", "default")
    c["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    c["torch_dtype"] = c.pop("dtype", "float32")
    json.dump(c, open(path, "w"))


def make(rng, seed, arch, out):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(arch, **config_of(rng, arch)))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.5 / p.shape[1] ** 0.5)
            else:
                p.normal_(1.0 if p.abs().sum() > 0 else 0.0, 0.2)
    dtype = rng.choice([torch.float32, torch.float16, torch.bfloat16])
    model.to(dtype).save_pretrained(out, max_shard_size=rng.choice(["1GB", "60KB"]))
    if arch != "gpt2" and rng.random() < 0.5:
        older_spelling(os.path.join(out, "config.json"))
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    n = rng.randint(2, model.config.max_position_embeddings)
    ids = torch.tensor([[rng.randrange(model.config.vocab_size) for _ in range(n)]])
    with torch.no_grad():
        logits = model(ids).logits[0].float().numpy()
    save_file({"input_ids": ids[0].to(torch.int32).numpy()}, os.path.join(out, "ids.safetensors"))
    return logits


def tenon(args, *words):
    done = subprocess.run([args.tenon, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tenon {' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def check(args, arch, seed, out):
    rng = random.Random(seed)
    logits = make(rng, seed, arch, out)
    scale = max(1.0, float(np.abs(logits).max()) / 10)
    tenon(args, "build", "--quiet", "--model", out, "--output", out + "/e", "--dtype", "float32")
    worst = 0.0
    for kernels in args.sets:
        result = os.path.join(out, "o.safetensors")
        tenon(args, "eval", "logits", "--engine", out + "/e", "--ids", out + "/ids.safetensors", "--out", result,
              "--device", args.device, "--kernels", kernels)
        worst = max(worst, float(np.abs(load_file(result)["logits"] - logits).max()) / scale)
    return worst


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--tenon", required=True)
    a.add_argument("--arch", nargs="+", default=list(ARCHITECTURES), choices=list(ARCHITECTURES))
    a.add_argument("--seeds", type=int, default=40)
    a.add_argument("--first", type=int, default=0)
    a.add_argument("--sets", nargs="+", default=["cpu,reference", "reference"])
    a.add_argument("--device", default="cpu")
    a.add_argument("--tolerance", type=float, default=1e-3)
    args = a.parse_args()
    failed, worst = 0, 0.0
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as out:
            try:
                arch = args.arch[seed % len(args.arch)]
                difference = check(args, arch, seed, out)
            except RuntimeError as e:
                difference, text = float("inf"), str(e)
            else:
                text = f"logits differ by {difference:.2e}"
            worst = max(worst, difference)
            if difference > args.tolerance:
                failed += 1
                config = open(os.path.join(out, "config.json")).read()
                print(f"seed {seed}, {arch}: {text}\n{config}")
    print(f"{args.seeds - failed} of {args.seeds} checkpoints agree; the largest difference is {worst:.2e}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
