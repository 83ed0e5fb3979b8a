#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The model of docs/scaling.md: how much of n GPUs a tensor or pipeline parallel run makes use of.

    scaling.py                       prints the tables
    scaling.py --measure BUILD DIR   measures on this machine what the model assumes: time of a local all-reduce, and the bubble of
                                     a pipeline (makes an engine of random weights in DIR; a minute or two)

Constants are published or measured figures; docs/scaling.md says which. Times in seconds, sizes in bytes.
"""

import json
import os
import subprocess
import sys

US = 1e-6

# Of one GPU: bytes per second that reading weights reaches, FLOP/s that large products reach, memory, multiprocessors.
GPUS = {
    "A100": dict(read=1.70e12, bf16=240e12, fp8=240e12, memory=80e9, units=108),
    "H100": dict(read=3.11e12, bf16=565e12, fp8=1130e12, memory=80e9, units=132),
    "H200": dict(read=4.30e12, bf16=785e12, fp8=1467e12, memory=141e9, units=132),
}

# Of an all-reduce: time of the smallest, and bytes per second of a GPU, of one kernel that reads its peers (small ones) and of a ring or a
# switch (large ones).
LINKS = {
    "A100 NVLink": dict(small=4.3 * US, rate=55e9, start=18 * US, bus=230e9),
    "H100 NVLink": dict(small=4.5 * US, rate=65e9, start=15 * US, bus=360e9),
    "PCIe 4 x16": dict(small=12 * US, rate=18e9, start=30 * US, bus=18e9),
    "PCIe 5 x16": dict(small=10 * US, rate=36e9, start=30 * US, bus=36e9),
}
LINKS["H200 NVLink"] = LINKS["H100 NVLink"]

# The comm plugin local over NVLink 4: its large sums copy through rooms of their own.
LOCAL = dict(LINKS["H100 NVLink"], start=6 * US, bus=210e9)

MODELS = {
    "LLaMA-2-7B": dict(layers=32, hidden=4096, vocab=32000, params=6.6e9, kv=2 * 32 * 32 * 128, heads=32, kv_heads=32, inner=11008),
    "LLaMA-2-70B": dict(layers=80, hidden=8192, vocab=32000, params=69e9, kv=2 * 80 * 8 * 128, heads=64, kv_heads=8, inner=28672),
}
HEAD = 128  # elements

# Of steps with many rows: time per layer that neither rows nor ranks change, and how often a layer reads or writes rows of `hidden` elements
# that every rank has whole (norms, residuals, copies). Fitted to 1/1, 1/2, 1/4 and 1/8 of LLaMA-2-7B on one H200.
LAYER, PASSES = 45 * US, 17


def all_reduce(link, n, size):
    """The faster of one kernel that reads its peers, and a ring or switch. Both move 2 (n - 1) / n of the bytes per GPU."""
    if n == 1:
        return 0.0
    moved = 2 * size * (n - 1) / n
    return min(link["small"] + moved / link["rate"], link["start"] + moved / link["bus"])


def step(model, gpu, link, n, rows, width, context, fixed, kind):
    """Time of a step of `rows` token rows, one per sequence, on n tensor-parallel GPUs. `width`: bytes of a weight. `fixed`: time per layer that
    does not shrink with n: launches, norms, ramps of kernels."""
    m, g = MODELS[model], GPUS[gpu]
    weights = m["params"] * width / n
    products = max(weights / g["read"], 2.0 * m["params"] * rows / n / g[kind])
    cache = rows * context * m["kv"] * (1 if kind == "fp8" else 2) / n / g["read"]
    sums = (2 * m["layers"] + 1) * all_reduce(link, n, rows * m["hidden"] * 2)
    gather = 0 if n == 1 else link["small"] + rows * m["vocab"] / n * 4 * (n - 1) / link["bus"]
    return products + cache + m["layers"] * fixed + sums + gather


def waves(units, rows, outputs):
    """Rows of a matrix, in tiles of 128 tokens, that the busiest multiprocessor computes, with tiles as wide as serves best."""
    tokens = -(-rows // 128)
    return min(-(-(-(-outputs // tile) * tokens) // units) * tile for tile in (256, 192, 128))


def compute(model, gpu, n, rows):
    """Time of a step of `rows` rows of one prompt in 16 bits, on one of n tensor-parallel GPUs, without its sums."""
    m, g = MODELS[model], GPUS[gpu]
    h, q, kv, inner = m["hidden"], m["heads"] * HEAD // n, max(m["kv_heads"] // n, 1) * HEAD, m["inner"] // n
    products = sum(2.0 * waves(g["units"], rows, outputs) * 128 * inputs * g["units"] / g["bf16"]
                   for outputs, inputs in ((q + 2 * kv, h), (h, q), (2 * inner, h), (h, inner)))
    attention = 2.0 * rows * rows * q / (0.5 * g["bf16"])
    return m["layers"] * (products + attention + LAYER + PASSES * rows * h * 2 / g["read"])


def prompts(model, gpu, link, n, rows):
    """The same with its sums."""
    m = MODELS[model]
    return compute(model, gpu, n, rows) + (2 * m["layers"] + 1) * all_reduce(link, n, rows * m["hidden"] * 2)


def decode(model, gpu, link, fixed, ns=(1, 2, 4, 8)):
    """Tokens per second of one sequence, and the share of n times one GPU."""
    t = [step(model, gpu, link, n, 1, 2, 512, fixed, "bf16") for n in ns]
    return [1 / x for x in t], [t[0] / (n / ns[0]) / x for n, x in zip(ns, t)]


def prefill(model, gpu, link, fixed, rows, ns=(1, 2, 4, 8)):
    t = [step(model, gpu, link, n, rows, 2, 0, fixed, "bf16") for n in ns]
    return [t[0] / n / x for n, x in zip(ns, t)]


def throughput(model, gpu, link, fixed, prompt, output, ns=(1, 2, 4, 8), most=2048):
    """As many sequences as fit beside the weights in FP8, each with its longest cache reserved: more GPUs have more room, which is why two can be more
    than twice as fast as one."""
    m, rates = MODELS[model], []
    for n in ns:
        room = n * (0.9 * GPUS[gpu]["memory"] - 5e9) - m["params"]
        rows = min(most, int(room / ((prompt + output) * m["kv"])))
        rates.append(rows / step(model, gpu, link, n, rows, 1, prompt + output / 2, fixed, "fp8"))
    return rates, [r / rates[0] / n for n, r in zip(ns, rates)]


def bubble(stages, parts):
    return (stages - 1) / (parts + stages - 1)


def percent(shares):
    return " / ".join("%.0f" % (100 * s) for s in shares[1:]) + "%"


def shares(times):
    """Of 1, 2, 4 and 8 GPUs, in percent."""
    return percent([times[0] / n / t for n, t in zip((1, 2, 4, 8), times)])


def tables():
    fast, ours = 55 * US, 18 * US
    print("| run | TP 2 / 4 / 8, predicted | published |\n|---|---|---|")
    _, found = decode("LLaMA-2-7B", "A100", LINKS["A100 NVLink"], fast)
    print("| 7B, 1 sequence, A100 NVLink, 55 us per layer | %s | 80 / 61 / 39%% (gpt-fast) |" % percent(found))
    for o, was in ((2048, "105 / 86 / 67%"), (128, "78 / 54 / 32%")):
        _, found = throughput("LLaMA-2-70B", "H200", LINKS["H200 NVLink"], ours, 128, o)
        print("| 70B FP8, 128 in, %d out, H200 NVLink, as many as fit | %s | %s (TensorRT-LLM 0.10) |" % (o, percent(found), was))
    found = prefill("LLaMA-2-70B", "A100", LINKS["A100 NVLink"], ours, 8192)
    print("| 70B, prefill of 8,192 rows, A100 NVLink | %s | 93 / 90 / 88%% (its model and batch are not told) |" % percent(found))
    print("\n| Tenon, 18 us per layer | %s |\n|---|%s" % (" | ".join(["link", "decode, 1 sequence", "decode, 64 sequences", "prefill by 2,048 rows"]), "---|" * 4))
    for gpu, link in (("A100", "A100 NVLink"), ("A100", "PCIe 4 x16"), ("H100", "H100 NVLink"), ("H100", "PCIe 5 x16"), ("H200", "H200 NVLink"), ("H200", "PCIe 5 x16")):
        cells = [link]
        way = LOCAL if link in ("H100 NVLink", "H200 NVLink") else LINKS[link]
        for rows in (1, 64):
            t = [step("LLaMA-2-70B" if rows == 64 else "LLaMA-2-7B", gpu, way, n, rows, 2, 1024, ours, "bf16") for n in (1, 2, 4, 8)]
            cells.append(shares(t))
        cells.append(shares([prompts("LLaMA-2-70B", gpu, way, n, 2048) for n in (1, 2, 4, 8)]))
        print("| %s | %s |" % (gpu, " | ".join(cells)))
    print("\n| pipeline | m = 1 | 2 | 4 | 8 | 16 |\n|---|---|---|---|---|---|")
    for p in (2, 4, 8):
        print("| p = %d | %s |" % (p, " | ".join("%.0f%%" % (100 * (1 - bubble(p, m))) for m in (1, 2, 4, 8, 16))))


    print("\n| LLaMA-2-7B, ms per step | 1 / 2 / 4 / 8 GPUs, without sums | with sums | share |\n|---|---|---|---|")
    for gpu in ("H100", "H200"):
        for rows in (512, 2048):
            times = [prompts("LLaMA-2-7B", gpu, LOCAL, n, rows) for n in (1, 2, 4, 8)]
            both = (" / ".join("%.1f" % (1e3 * x) for x in t) for t in ([compute("LLaMA-2-7B", gpu, n, rows) for n in (1, 2, 4, 8)], times))
            print("| %s, %s rows | %s | %s |" % (gpu, format(rows, ","), " | ".join(both), shares(times)))


CONFIG = dict(model_type="llama", vocab_size=1024, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
              num_key_value_heads=12, max_position_embeddings=2048, rms_norm_eps=1e-5, tie_word_embeddings=False, initializer_range=0.02,
              bos_token_id=1, eos_token_id=2, dtype="float32")


def run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(build, folder):
    tenon, model, engine = os.path.join(build, "bin", "tenon"), os.path.join(folder, "model"), os.path.join(folder, "engine")
    os.makedirs(model, exist_ok=True)
    with open(os.path.join(model, "config.json"), "w", encoding="utf-8") as f:
        json.dump(CONFIG, f)
    print(run([os.path.join(build, "bin", "bench_comm"), "2"]))
    run([tenon, "build", "--model", model, "--output", engine, "--load-format", "dummy", "--dtype", "float32", "--quiet"])

    def prefill_ms(*flags):
        """The fastest of some runs: others on the machine disturb the rest."""
        command = [tenon, "bench", "latency", "--engine", engine, "--input-len", "256", "--output-len", "2", "--repeats", "1", "--threads", "1", "--json"]
        return min(json.loads(run(command + list(flags)))["prefill_ms"] for _ in range(5))

    one = prefill_ms()
    print("prefill of 256 rows, one rank, one thread: %.0f ms" % one)
    for m in (1, 2, 4):
        two = prefill_ms("--pp-size", "2", "--set", "parallel.micro_batches=%d" % m)
        print("2 stages, %d parts: %.0f ms, idle %.0f%% of the time; (p-1)/(m+p-1) = %.0f%%" % (m, two, 100 * (1 - one / 2 / two), 100 * bubble(2, m)))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--measure":
        measure(sys.argv[2], sys.argv[3])
    else:
        tables()
