#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes rope.json: rotary frequencies of Hugging Face transformers for config.json files of every kind of scaling.

Run it where torch and transformers are installed; the test reads only the file it wrote:

    python3 tests/build/data/make_rope.py > tests/build/data/rope.json
"""
import json
import sys

import transformers
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BASE = {"hidden_size": 256, "num_attention_heads": 4, "max_position_embeddings": 4096}

LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 1024}
LLAMA32 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 2048}
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}

# name, what config.json adds to BASE
CASES = [
    ("nothing", {}),
    ("theta", {"rope_theta": 500000.0}),
    ("theta in rope_parameters", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    ("theta beside a null scaling", {"rope_theta": 10000, "rope_scaling": None}),
    ("linear, old spelling", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("linear, new spelling",
     {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 20000.0}}),
    ("dynamic", {"rope_theta": 30000.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    ("llama3, old spelling",
     {"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", **LLAMA31}}),
    ("llama3, new spelling",
     {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, **LLAMA32}}),
    ("llama3, wide heads", {"head_dim": 128, "rope_theta": 500000.0,
                            "rope_scaling": {"rope_type": "llama3", **LLAMA31}}),
    ("yarn", {"rope_scaling": {"rope_type": "yarn", **YARN}}),
    ("yarn, new spelling",
     {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}}),
    ("yarn, attention_factor",
     {"rope_scaling": {"rope_type": "yarn", "attention_factor": 0.75, **YARN}}),
    ("yarn, mscale", {"rope_scaling": {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.5,
                                       **YARN}}),
    ("yarn, betas", {"rope_scaling": {"rope_type": "yarn", "beta_fast": 24.0, "beta_slow": 2.0,
                                      **YARN}}),
    ("yarn, no truncation", {"rope_scaling": {"rope_type": "yarn", "truncate": False, **YARN}}),
    ("yarn, factor from the lengths",
     {"rope_scaling": {"rope_type": "yarn", "factor": None,
                       "original_max_position_embeddings": 512}}),
    ("yarn, ramp of no width", {"rope_scaling": {"rope_type": "yarn", "beta_fast": 1e6,
                                                 "beta_slow": 1e5, "truncate": True, **YARN}}),
    ("scaling wins over parameters",
     {"rope_theta": 7000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0},
      "rope_parameters": {"rope_type": "default", "rope_theta": 9000.0}}),
]


def run(name, extra):
    config = {**BASE, **extra}
    rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    return {"name": name, "config": config, "scaling": float(rope.attention_scaling),
            "frequencies": [float(f) for f in rope.inv_freq]}


def main():
    cases = [run(name, extra) for name, extra in CASES]
    sys.stdout.write('{"transformers": "%s", "cases": [\n' % transformers.__version__)
    sys.stdout.write(",\n".join(json.dumps(c) for c in cases))
    sys.stdout.write("\n]}\n")


if __name__ == "__main__":
    main()
