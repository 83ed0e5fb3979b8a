#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times llama.cpp on a model of the same shape and width of weights as a Tenon dummy engine.

Needs `pip install llama-cpp-python gguf numpy`. Writes a GGUF with random bfloat16 weights from a
config.json (once), then times prefill and decode the way `tenon bench latency` does: median of
repeats after a warm-up, ids random, one sequence.

    bench/peer_llama_cpp.py CONFIG_JSON WORK_DIR --threads 2 --input-len 512 --output-len 64
"""
import argparse
import ctypes
import json
import os
import statistics
import time

import numpy as np


def write_gguf(config, path):
    import gguf

    c = config
    heads, kv = c["num_attention_heads"], c.get("num_key_value_heads", c["num_attention_heads"])
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    w = gguf.GGUFWriter(path + ".tmp", "llama")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_dimension_count(head_dim)
    w.add_vocab_size(c["vocab_size"])
    w.add_tokenizer_model("none")
    rng = np.random.default_rng(1)

    def matrix(name, rows, cols):
        f = rng.standard_normal((rows, cols), dtype=np.float32) * 0.02
        bf16 = (f.view(np.uint32) >> 16).astype(np.uint16)
        w.add_tensor(name, bf16.view(np.uint8).reshape(rows, cols * 2),
                     raw_shape=(rows, cols * 2), raw_dtype=gguf.GGMLQuantizationType.BF16)

    def ones(name, n):
        w.add_tensor(name, np.ones(n, dtype=np.float32))

    h, ffn = c["hidden_size"], c["intermediate_size"]
    matrix("token_embd.weight", c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"blk.{i}."
        ones(p + "attn_norm.weight", h)
        matrix(p + "attn_q.weight", heads * head_dim, h)
        matrix(p + "attn_k.weight", kv * head_dim, h)
        matrix(p + "attn_v.weight", kv * head_dim, h)
        matrix(p + "attn_output.weight", h, heads * head_dim)
        ones(p + "ffn_norm.weight", h)
        matrix(p + "ffn_gate.weight", ffn, h)
        matrix(p + "ffn_up.weight", ffn, h)
        matrix(p + "ffn_down.weight", h, ffn)
    ones("output_norm.weight", h)
    if not c.get("tie_word_embeddings"):
        matrix("output.weight", c["vocab_size"], h)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.rename(path + ".tmp", path)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("config")
    a.add_argument("work")
    a.add_argument("--threads", type=int, default=os.cpu_count())
    a.add_argument("--input-len", type=int, default=512)
    a.add_argument("--output-len", type=int, default=64)
    a.add_argument("--repeats", type=int, default=3)
    args = a.parse_args()
    config = json.load(open(args.config))
    path = os.path.join(args.work, "peer.gguf")
    if not os.path.exists(path):
        write_gguf(config, path)

    import llama_cpp as ll

    quiet = ll.llama_log_callback(lambda level, text, user: None)
    ll.llama_log_set(quiet, None)
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
    cp = ll.llama_context_default_params()
    cp.n_ctx = args.input_len + args.output_len + 8
    cp.n_batch = cp.n_ubatch = args.input_len
    cp.n_threads = cp.n_threads_batch = args.threads
    ctx = ll.llama_init_from_model(model, cp)
    memory = ll.llama_get_memory(ctx)
    rng = np.random.default_rng(2)
    prefill, decode = [], []
    for r in range(args.repeats + 1):
        ll.llama_memory_clear(memory, True)
        ids = (ctypes.c_int32 * args.input_len)(*rng.integers(0, config["vocab_size"], args.input_len).tolist())
        t0 = time.perf_counter()
        assert ll.llama_decode(ctx, ll.llama_batch_get_one(ids, args.input_len)) == 0
        ll.llama_synchronize(ctx)
        t1 = time.perf_counter()
        for _ in range(args.output_len - 1):
            one = (ctypes.c_int32 * 1)(int(rng.integers(0, config["vocab_size"])))
            assert ll.llama_decode(ctx, ll.llama_batch_get_one(one, 1)) == 0
            ll.llama_synchronize(ctx)
        t2 = time.perf_counter()
        if r:
            prefill.append(t1 - t0)
            decode.append((t2 - t1) / (args.output_len - 1))
    print(json.dumps({
        "peer": "llama.cpp, llama-cpp-python " + ll.__version__, "threads": args.threads,
        "prefill_tokens_per_s": args.input_len / statistics.median(prefill),
        "decode_tokens_per_s": 1 / statistics.median(decode),
        "decode_ms_per_step": 1e3 * statistics.median(decode)}))


if __name__ == "__main__":
    main()
