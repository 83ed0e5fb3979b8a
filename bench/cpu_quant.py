#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Quantized engines on the CPU against bfloat16 of the same model, in the same run.

Builds engines with random weights (once), then measures them in turns, round by round; a round's figures are set against
bfloat16 in that round, and the median of the rounds counts. With --turns N decoding is measured once more, in N turns of
half a second of engines that are all loaded (turns.py), which says more where the machine's speed changes.

    bench/cpu_quant.py [--build build] [--work DIR] [--config bench/models/llama-1.1b/config.json] [--threads 2]
                       [--input-len 256] [--output-len 16] [--rounds 3] [--turns N] [--only NAME ...]
"""
import argparse
import json
import os
import statistics
import sys

from cpu_model import ROOT, output_of
from turns import in_turns

ENGINES = {
    "bfloat16": ([], []),
    "int8_sq": (["--quant", "int8_sq"], []),
    "fp8": (["--quant", "fp8"], []),
    "int4_g128": (["--quant", "int4_g128"], []),
    "bfloat16, fp8 cache": (["--kv-cache-dtype", "fp8"], ["--kv-cache-dtype", "fp8"]),
    "bfloat16, bfloat16 cache": ([], ["--kv-cache-dtype", "bfloat16"]),
}


def report_turns(names, rounds):
    print("| engine, %d turns | decode, tokens/s | of bfloat16, median (quartiles) |\n|---|---|---|" % len(rounds))
    for i, name in enumerate(names):
        low, mid, high = statistics.quantiles([r[i] / r[0] for r in rounds], n=4)
        print("| %s | %.2f | %.2f (%.2f to %.2f) |" % (name, statistics.median(r[i] for r in rounds), mid, low, high), flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--work", default=os.path.join(ROOT, "build", "bench"))
    p.add_argument("--config", default=os.path.join(ROOT, "bench", "models", "llama-1.1b", "config.json"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--input-len", type=int, default=256)
    p.add_argument("--output-len", type=int, default=16)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--turns", type=int, default=0)
    p.add_argument("--only", nargs="*", help="these beside bfloat16")
    p.add_argument("--prepare", action="store_true", help="build the engines, measure nothing")
    a = p.parse_args()
    tenon = os.path.join(a.build, "bin", "tenon")
    names = [n for n in ENGINES if n == "bfloat16" or not a.only or n in a.only]
    os.makedirs(a.work, exist_ok=True)
    for name in names:
        engine = os.path.join(a.work, "quant-" + "-".join(ENGINES[name][0]).replace("--", "") if ENGINES[name][0] else "quant-none")
        if not os.path.exists(os.path.join(engine, "model.engine")):
            output_of(tenon, "build", "--quiet", "--model", os.path.dirname(a.config), "--output", engine, "--dtype",
                      "bfloat16", "--load-format", "dummy", *ENGINES[name][0])
        ENGINES[name] = (engine, ENGINES[name][1])
    if a.prepare:
        return
    if a.turns:
        commands = [[tenon, "run", "--engine", ENGINES[n][0], "--threads", a.threads, *ENGINES[n][1]] for n in names]
        report_turns(names, in_turns(commands, a.turns, 0.5, a.input_len))
    rounds = []
    for _ in range(a.rounds):
        rounds.append({})
        for name in names:
            engine, options = ENGINES[name]
            r = json.loads(output_of(tenon, "bench", "latency", "--engine", engine, "--threads", a.threads, "--input-len",
                                     a.input_len, "--output-len", a.output_len, "--repeats", 1, "--json", *options))
            rounds[-1][name] = (r["decode_tokens_per_s"], r["prefill_tokens_per_s"])
            print("%s: %.2f and %.2f tokens/s" % (name, *rounds[-1][name]), file=sys.stderr, flush=True)
    if not rounds:
        return
    print("| engine | decode, tokens/s | of bfloat16 | prefill, tokens/s | of bfloat16 |\n|---|---|---|---|---|")
    for name in names:
        cells = []
        for i in range(2):
            ratios = [r[name][i] / r["bfloat16"][i] for r in rounds]
            cells.append("%.1f" % statistics.median(r[name][i] for r in rounds))
            cells.append("%.2f (%.2f to %.2f)" % (statistics.median(ratios), min(ratios), max(ratios)))
        print("| %s | %s |" % (name, " | ".join(cells)), flush=True)


if __name__ == "__main__":
    main()
