#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole model on the CPU against the limits of the machine, measured in the same run.

Builds an engine with random weights (once), then takes turns: what the machine can read and multiply
(`cpu_kernels THREADS roof`), Tenon (`tenon bench latency`), and, with --peer PYTHON, llama.cpp at the same width
of weights (bench/peer_llama_cpp.py). The machine is shared with others as a rule, so each round sets
what it measured against the roof of its own round; the median of the rounds counts.

    bench/cpu_model.py [--build build] [--work DIR] [--config bench/models/llama-1.1b/config.json] [--dtype bfloat16]
                       [--threads 2] [--input-len 512] [--output-len 64] [--rounds 5] [--peer PYTHON] [--json]
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def output_of(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr[-2000:]}")
    return done.stdout


def roof_of(args):
    text = output_of(os.path.join(args.build, "bin", "cpu_kernels"), args.threads, "roof")
    read = re.search(r"read [\d.]+ GB/s by one, ([\d.]+) by all", text)
    peak = dict(re.findall(r"(float32|bfloat16|int8) (\d+) \(", text))
    return {"read_gb_per_s": float(read.group(1)), "peak_gflops": float(peak["float32"]),
            "peak_bfloat16_gflops": float(peak["bfloat16"])}


def prefill_flops(config, tokens):
    """Multiply-adds counted as two: the layers' matrices for every row, causal attention, the head for the last row."""
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    hidden, kv = config["hidden_size"], config.get("num_key_value_heads", heads)
    layer = hidden * dim * (2 * heads + 2 * kv) + 3 * hidden * config["intermediate_size"]
    attention = 2 * heads * dim * tokens * (tokens + 1) // 2
    return 2 * (config["num_hidden_layers"] * (layer * tokens + attention) + hidden * config["vocab_size"])


def tenon_round(args, engine, *options):
    return json.loads(output_of(os.path.join(args.build, "bin", "tenon"), "bench", "latency", "--engine", engine,
                                "--threads", args.threads, "--input-len", args.input_len, "--output-len",
                                args.output_len, "--repeats", 3, "--json", *options))


def peer_round(args):
    return json.loads(output_of(args.peer, os.path.join(ROOT, "bench", "peer_llama_cpp.py"), args.config, args.work,
                                "--threads", args.threads, "--input-len", args.input_len, "--output-len",
                                args.output_len))


def measure(args, config, engine):
    rounds, flops = [], prefill_flops(config, args.input_len)
    for _ in range(args.rounds):
        before, ours = roof_of(args), tenon_round(args, engine)
        theirs, after = peer_round(args) if args.peer else None, roof_of(args)
        read = max(before["read_gb_per_s"], after["read_gb_per_s"])
        peak = max(before["peak_gflops"], after["peak_gflops"])
        one = {"read_gb_per_s": read, "peak_gflops": peak,
               "decode_tokens_per_s": ours["decode_tokens_per_s"],
               "decode_share_of_read": ours["streamed_bytes_per_step"] / (ours["decode_ms_per_step"] * 1e6) / read,
               "prefill_tokens_per_s": ours["prefill_tokens_per_s"],
               "prefill_share_of_peak": flops / (ours["prefill_ms"] * 1e-3) * 1e-9 / peak}
        bf16 = max(before["peak_bfloat16_gflops"], after["peak_bfloat16_gflops"])
        if args.dtype == "bfloat16" and bf16 > 1.2 * peak:  # products of bfloat16 in hardware, if rows are rounded
            rounded = tenon_round(args, engine, "--set", "plugin.cpu.round_rows=true")
            one["peak_bfloat16_gflops"] = bf16
            one["prefill_rounded_tokens_per_s"] = rounded["prefill_tokens_per_s"]
            one["prefill_rounded_share_of_peak"] = flops / (rounded["prefill_ms"] * 1e-3) * 1e-9 / bf16
        if theirs:
            one["peer_decode_tokens_per_s"] = theirs["decode_tokens_per_s"]
            one["peer_prefill_tokens_per_s"] = theirs["prefill_tokens_per_s"]
            one["decode_ratio_to_peer"] = ours["decode_tokens_per_s"] / theirs["decode_tokens_per_s"]
            one["prefill_ratio_to_peer"] = ours["prefill_tokens_per_s"] / theirs["prefill_tokens_per_s"]
        rounds.append(one)
    return rounds


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--build", default=os.path.join(ROOT, "build"))
    a.add_argument("--work", default=os.path.join(ROOT, "build", "bench"))
    a.add_argument("--config", default=os.path.join(ROOT, "bench", "models", "llama-1.1b", "config.json"))
    a.add_argument("--dtype", default="bfloat16")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--input-len", type=int, default=512)
    a.add_argument("--output-len", type=int, default=64)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--peer", metavar="PYTHON", help="a Python that has llama-cpp-python, gguf and numpy")
    a.add_argument("--json", action="store_true")
    args = a.parse_args()
    os.makedirs(args.work, exist_ok=True)
    config = json.load(open(args.config))
    engine = os.path.join(args.work, f"engine-{args.dtype}")
    if not os.path.exists(os.path.join(engine, "model.engine")):
        output_of(os.path.join(args.build, "bin", "tenon"), "build", "--quiet", "--model", os.path.dirname(args.config),
                  "--output", engine, "--dtype", args.dtype, "--load-format", "dummy")
    rounds = measure(args, config, engine)
    if args.json:
        print(json.dumps(rounds, indent=1))
        return
    print(f"{args.dtype}, {args.threads} threads, {args.input_len} tokens in, {args.output_len} out; "
          f"{args.rounds} rounds: median (least to most)")
    for key in rounds[0]:
        values = [r[key] for r in rounds]
        unit = 100 if "share" in key else 1
        print(f"  {key:28} {unit * statistics.median(values):9.2f}{'%' if unit == 100 else ' '}"
              f"  ({unit * min(values):.2f} to {unit * max(values):.2f})")


if __name__ == "__main__":
    main()
