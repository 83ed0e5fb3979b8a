#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Perplexity of quantized engines over all of a model's validation ids, against its golden float32 figure.

    quant_quality.py --tenon build/bin/tenon --model models/docs-7m --calib calib.jsonl --work DIR
                     [--calib-samples N] [--max-windows N] [--only NAME ...]

Prints a table for bench/RESULTS.md. Only the standard library. Takes some minutes per row. Calibration is `tenon build`'s
default (512 sequences) unless --calib-samples says otherwise. With --max-windows, the model as it is on
those windows takes the place of the golden figure.
"""

import argparse
import json
import os
import subprocess

ROWS = [
    ("as it is", [], []),
    ("int8_sq", ["--quant", "int8_sq"], []),
    ("int8_sq, alpha=search", ["--quant", "int8_sq", "--quant-option", "alpha=search"], []),
    ("int8_sq, act=tensor", ["--quant", "int8_sq", "--quant-option", "act=tensor"], []),
    ("int8_sq, smooth=off", ["--quant", "int8_sq", "--quant-option", "smooth=off"], []),
    ("int8_sq, head=off", ["--quant", "int8_sq", "--quant-option", "head=off"], []),
    ("fp8", ["--quant", "fp8"], []),
    ("fp8, feedback=off", ["--quant", "fp8", "--quant-option", "feedback=off"], []),
    ("FP8 cache", ["--kv-cache-dtype", "fp8"], []),
    ("INT8 cache", ["--kv-cache-dtype", "int8"], []),
    ("int4_g128", ["--quant", "int4_g128"], []),
    ("int4_g128, awq=off", ["--quant", "int4_g128", "--quant-option", "awq=off"], []),
    ("int4_g128, feedback=off", ["--quant", "int4_g128", "--quant-option", "feedback=off"], []),
    ("int4_g128, group=128", ["--quant", "int4_g128", "--quant-option", "group=128"], []),
]


def main():
    p = argparse.ArgumentParser()
    for name in ("tenon", "model", "calib", "work"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--only", nargs="+", help="rows with these names, beside the model as it is")
    p.add_argument("--calib-samples", type=int)
    p.add_argument("--max-windows", type=int)
    a = p.parse_args()
    os.makedirs(a.work, exist_ok=True)
    with open(os.path.join(a.model, "golden.json"), encoding="utf-8") as f:
        golden = json.load(f)["perplexity"]
    base = golden["float32"] if isinstance(golden, dict) and "float32" in golden else None
    print("| engine | perplexity | against float32 | bytes of linears |\n|---|---|---|---|")
    for name, build, run in ROWS:
        if a.only and name not in a.only and name != "as it is":
            continue
        engine = os.path.join(a.work, name.replace(", ", "-").replace(" ", "-").replace("=", "-"))
        calib = ["--calib-data", a.calib] if build else []
        if build and a.calib_samples:
            calib += ["--calib-samples", str(a.calib_samples)]
        subprocess.run([a.tenon, "build", "--quiet", "--model", a.model, "--output", engine, *build, *calib],
                       check=True, stdout=subprocess.DEVNULL)
        windows = ["--max-windows", str(a.max_windows)] if a.max_windows else []
        out = subprocess.run([a.tenon, "eval", "perplexity", "--engine", engine, "--ids",
                              os.path.join(a.model, "valid_ids.u16"), "--json", *windows, *run],
                             check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        ppl = json.loads(out)["perplexity"]
        if base is None or a.max_windows:
            base = ppl if name == "as it is" else base
        quant = json.loads(subprocess.run([a.tenon, "engine", "inspect", "--json", engine], check=True,
                                          stdout=subprocess.PIPE).stdout)["meta"].get("quant") or {}
        size = quant.get("bytes")
        share = "%.3f" % (size["after"] / size["before"]) if size else "-"
        print("| %s | %.4f | %+.3f %% | %s |" % (name, ppl, 100 * (ppl / base - 1), share), flush=True)


if __name__ == "__main__":
    main()
