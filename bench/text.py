#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of tokenizers against the `tokenizers` library, both on one thread, in turns within one run.

usage: bench/text.py [--lib build/lib/libtenon-text.so] [--rounds 7] [--only encode|load]

Encodes the validation text of the bundled model (models/docs-7m), as one document and line by line, with offsets, and
loads a vocabulary of 128,000 tokens. Prints medians of the rounds and their ratio. Needs Python with `tokenizers`.
"""
import argparse
import array
import ctypes
import json
import os
import random
import statistics
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = os.path.join(ROOT, "models", "docs-7m")


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("trusted", ctypes.c_void_p), ("count", ctypes.c_size_t)]


class Tenon:
    """A tokenizer of libtenon-text."""

    ADD_SPECIAL, SPECIAL = 1, 2

    def __init__(self, lib, path):
        self.lib, self.err = lib, ctypes.create_string_buffer(8192)
        self.t, self.e = ctypes.c_void_p(), ctypes.c_void_p()
        if lib.tn_tokenizer_open(path.encode(), ctypes.byref(self.t), self.err):
            raise SystemExit(f"cannot open {path}")
        lib.tn_encoding_new(ctypes.byref(self.e), self.err)
        self.options = Options(ctypes.sizeof(Options), self.ADD_SPECIAL | self.SPECIAL, None, 0)
        self.options_at = ctypes.addressof(self.options)

    def encode(self, data):
        if self.lib.tn_encode(self.t, data, len(data), self.options_at, self.e, self.err):
            raise SystemExit("encoding failed")

    def ids(self):
        n = self.lib.tn_encoding_count(self.e)
        return list(ctypes.cast(self.lib.tn_encoding_ids(self.e), ctypes.POINTER(ctypes.c_uint32))[:n])

    def close(self):
        self.lib.tn_encoding_free(self.e)
        self.lib.tn_tokenizer_close(self.t)


def load_library(path):
    lib = ctypes.CDLL(path)
    lib.tn_encoding_count.restype = ctypes.c_size_t
    lib.tn_encoding_ids.restype = ctypes.c_void_p
    lib.tn_encoding_count.argtypes = lib.tn_encoding_ids.argtypes = [ctypes.c_void_p]
    lib.tn_encode.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    lib.tn_encoding_free.argtypes = lib.tn_tokenizer_close.argtypes = [ctypes.c_void_p]
    return lib


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rounds(count, first, second):
    """Both in turns; the first round warms up."""
    pairs = [(seconds(first), seconds(second)) for _ in range(count + 1)][1:]
    return [a for a, _ in pairs], [b for _, b in pairs]


def row(name, unit, ours, theirs, goal):
    ratios = [b / a for a, b in zip(ours, theirs)]
    print(f"| {name} | {unit(statistics.median(ours))} | {unit(statistics.median(theirs))} | {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f}) | {goal} |", flush=True)


def sentencepiece_like(text, split):
    """As LLaMA 2 has it: spaces become U+2581, the whole text is one word; or cut into words by Metaspace."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.train_from_iterator(text.split("\n"), trainers.BpeTrainer(vocab_size=8192, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"]))
    j = json.loads(t.to_str())
    at = len(j["model"]["vocab"])
    for i in range(256):
        j["model"]["vocab"]["<0x%02X>" % i] = at + i
    if not split:
        j["pre_tokenizer"] = None
    t = Tokenizer.from_str(json.dumps(j))
    if not split:
        t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return t


def big_vocabulary(size=128000):
    """A byte-level BPE vocabulary of random merges, with the pre-tokenizer of the bundled model."""
    with open(os.path.join(MODEL, "tokenizer.json"), encoding="utf-8") as f:
        j = json.load(f)
    rng = random.Random(3)
    j["added_tokens"] = []
    j["post_processor"] = None
    letters = [t for t in j["model"]["vocab"] if len(t) == 1]
    vocab = {t: i for i, t in enumerate(letters)}
    tokens, merges = list(letters), []
    while len(tokens) < size:
        a, b = rng.choice(tokens[: 4000 + len(tokens) // 4]), rng.choice(tokens[:3000])
        if len(a + b) <= 12 and a + b not in vocab:
            vocab[a + b] = len(tokens)
            tokens.append(a + b)
            merges.append([a, b])
    j["model"]["vocab"], j["model"]["merges"] = vocab, merges
    return json.dumps(j, ensure_ascii=False)


def bench_encode(o, lib, folder):
    from tokenizers import Tokenizer

    bundled = Tokenizer.from_file(os.path.join(MODEL, "tokenizer.json"))
    ids = array.array("H")
    with open(os.path.join(MODEL, "valid_ids.u16"), "rb") as f:
        ids.frombytes(f.read())
    text = bundled.decode(list(ids), skip_special_tokens=True)
    data = text.encode()
    lines = text.split("\n")
    line_data = [line.encode() for line in lines]
    rate = lambda s: f"{len(data) / s / 1e6:.1f} MB/s"  # noqa: E731
    print(f"{len(data)} bytes, {len(lines)} lines")
    for name, theirs in (("byte-level BPE", bundled), ("SentencePiece-like BPE, whole text", sentencepiece_like(text, False)), ("SentencePiece-like BPE, words", sentencepiece_like(text, True))):
        path = os.path.join(folder, "t.json")
        theirs.save(path)
        ours = Tenon(lib, path)
        ours.encode(data)
        if ours.ids() != theirs.encode(text).ids:
            raise SystemExit(f"{name}: the ids differ")
        a, b = rounds(o.rounds, lambda: ours.encode(data), lambda: theirs.encode(text))
        row(f"encode, {name}, one document", rate, a, b, "at least 5")
        a, b = rounds(o.rounds, lambda: [ours.encode(x) for x in line_data], lambda: [theirs.encode(x) for x in lines])
        row(f"encode, {name}, line by line", rate, a, b, "at least 5")
        ours.close()


def bench_load(o, lib, folder):
    from tokenizers import Tokenizer

    path = os.path.join(folder, "big.json")
    with open(path, "w", encoding="utf-8") as f:
        f.write(big_vocabulary())
    a, b = rounds(o.rounds, lambda: Tenon(lib, path).close(), lambda: Tokenizer.from_file(path))
    row(f"load, 128,000 tokens, {os.path.getsize(path) / 1e6:.1f} MB", lambda s: f"{s * 1e3:.0f} ms", a, b, "at least 3")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lib", default=os.path.join(ROOT, "build", "lib", "libtenon-text.so"))
    p.add_argument("--rounds", type=int, default=7)
    p.add_argument("--only", choices=("encode", "load"))
    o = p.parse_args()
    lib = load_library(o.lib)
    import tokenizers

    print(f"tokenizers {tokenizers.__version__}, one thread each\n| | Tenon | tokenizers | times as fast | asked for |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        if o.only != "load":
            bench_encode(o, lib, folder)
        if o.only != "encode":
            bench_load(o, lib, folder)


if __name__ == "__main__":
    main()
