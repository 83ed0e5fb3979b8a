#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares Tenon with transformers on LLaMA checkpoints of random shapes (needs torch; not run by the tests).

For every seed: a random configuration (heads, groups, head size, odd widths, ties, biases, rope scaling, dtype,
shards, either spelling of config.json), random weights, logits in float32 from transformers; then `tenon build` and
`tenon eval logits` with each kernel set, and greedy tokens. A seed that fails prints itself and its configuration.

    tests/models/random_llama.py --tenon build/bin/tenon [--seeds 40] [--first 0] [--sets cpu reference] [--device cpu]
                                 [--tolerance 1e-3]
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
from safetensors.numpy import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM


def rope_of(rng, head_dim, positions):
    kind = rng.choice(["default", "default", "linear", "dynamic", "llama3", "yarn"])
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


def config_of(rng):
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
                tie_word_embeddings=rng.random() < 0.4, attention_bias=rng.random() < 0.3,
                mlp_bias=rng.random() < 0.3, bos_token_id=1, eos_token_id=2,
                hidden_act=rng.choice(["silu", "silu", "gelu", "gelu_pytorch_tanh", "relu"]))


def older_spelling(path):
    c = json.load(open(path))
    rope = c.pop("rope_parameters", None) or {}
    c["rope_theta"] = rope.pop("rope_theta", 10000.0)
    kind = rope.pop("rope_type", "default")
    c["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    c["torch_dtype"] = c.pop("dtype", "float32")
    json.dump(c, open(path, "w"))


def make(rng, seed, out):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config_of(rng)))
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.normal_(0, 0.5 / p.shape[1] ** 0.5)
            else:
                p.normal_(1.0 if p.abs().sum() > 0 else 0.0, 0.2)
    dtype = rng.choice([torch.float32, torch.float16, torch.bfloat16])
    model.to(dtype).save_pretrained(out, max_shard_size=rng.choice(["1GB", "60KB"]))
    if rng.random() < 0.5:
        older_spelling(os.path.join(out, "config.json"))
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    n = rng.randint(2, model.config.max_position_embeddings)
    ids = torch.tensor([[rng.randrange(model.config.vocab_size) for _ in range(n)]])
    with torch.no_grad():
        logits = model(ids).logits[0].float().numpy()
    save_file({"input_ids": ids[0].to(torch.int32).numpy()}, os.path.join(out, "ids.safetensors"))
    return logits, ids[0].tolist(), model


def tenon(args, *words):
    done = subprocess.run([args.tenon, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"tenon {' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def check(args, seed, out):
    rng = random.Random(seed)
    logits, ids, model = make(rng, seed, out)
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
    a.add_argument("--seeds", type=int, default=40)
    a.add_argument("--first", type=int, default=0)
    a.add_argument("--sets", nargs="+", default=["cpu", "reference"])
    a.add_argument("--device", default="cpu")
    a.add_argument("--tolerance", type=float, default=1e-3)
    args = a.parse_args()
    failed, worst = 0, 0.0
    for seed in range(args.first, args.first + args.seeds):
        with tempfile.TemporaryDirectory() as out:
            try:
                difference = check(args, seed, out)
            except RuntimeError as e:
                difference, text = float("inf"), str(e)
            else:
                text = f"logits differ by {difference:.2e}"
            worst = max(worst, difference)
            if difference > args.tolerance:
                failed += 1
                config = open(os.path.join(out, "config.json")).read()
                print(f"seed {seed}: {text}\n{config}")
    print(f"{args.seeds - failed} of {args.seeds} checkpoints agree; the largest difference is {worst:.2e}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
