#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes a corpus with the `tokenizers` library and with Tenon, and compares ids, offsets and texts.

usage: differential.py DRIVER [--require] [--share=N] [--only=NAME,...] [--keep=DIR]

For each of the kinds in kinds.py: of the corpus every Nth string (another N for each kind; 1: all of it). No difference is
allowed; each is printed with the kind, the string and both results. Exits 77 (skipped) if tokenizers is not there,
unless --require is given.
"""
import argparse
import os
import random
import struct
import subprocess
import sys
import tempfile
import threading

import corpus

SHOWN = 5  # differences of one kind that are printed


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument("driver")
    p.add_argument("--require", action="store_true")
    p.add_argument("--share", type=int, default=4)
    p.add_argument("--only", default="")
    p.add_argument("--keep", default="")
    return p.parse_args()


class Answers:
    """What the driver wrote."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def count(self):
        (n,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        return n

    def tokens(self):
        n = self.count()
        v = struct.unpack_from("<%dI" % (3 * n), self.data, self.at)
        self.at += 12 * n
        return list(v[0::3]), list(zip(v[1::3], v[2::3]))

    def text(self):
        n = self.count()
        self.at += n
        return self.data[self.at - n:self.at].decode()


def one_by_one(calls, make):
    """A batch fails as a whole when the library panics on one string; then each is tried alone."""
    try:
        return make(calls)
    except BaseException:  # a panic is no Exception
        out = []
        for call in calls:
            try:
                out += make([call])
            except BaseException:
                out.append(None)
        return out


def id_rows(t, encoded, rng):
    """Ids to decode: what the texts became, and anything at all."""
    size = t.get_vocab_size(True) + 3
    rows = [e.ids for e in encoded if e is not None]
    rows += [[rng.randrange(size) for _ in range(rng.randrange(1, 30))] for _ in range(300)]
    rows += [[i] for i in range(min(size, 600))]
    return rows


def run(driver, path, texts, rows):
    data = [b"E" + struct.pack("<I", len(s)) + s for s in texts]
    data += [b"D" + struct.pack("<I%dI" % len(r), len(r), *r) for r in rows]
    p = subprocess.run([driver, path], input=b"".join(data), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        print(f"the driver ended with {p.returncode}: {p.stderr.decode('utf-8', 'replace')[:2000]}")
        return None
    return Answers(p.stdout)


def show(name, what, subject, want, got):
    at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    lo = max(0, at - 4)
    print(f"DIFFERENCE {name}: {what}\n  of      {ascii(subject)[:600]}\n  at {at}\n  library {ascii(want[lo:at + 8])[:600]}\n  tenon   {ascii(got[lo:at + 8])[:600]}", flush=True)


class Tally:
    def __init__(self, name):
        self.name, self.bad = name, 0

    def check(self, what, subject, want, got):
        if want == got:
            return
        self.bad += 1
        if self.bad <= SHOWN:
            show(self.name, what, subject, want, got)


def compare(driver, folder, name, t, share, first):
    rng = random.Random(first)
    raw = corpus.strings(share=share, first=first)
    texts = [s.decode("utf-8", "replace") for s in raw]
    path = os.path.join(folder, name + ".json")
    t.save(path)
    t = type(t).from_file(path)  # numbers of a file can differ in the last bit from those that were trained
    full = one_by_one(texts, lambda x: t.encode_batch(x, add_special_tokens=True))
    bare = one_by_one(texts, lambda x: t.encode_batch(x, add_special_tokens=False))
    rows = id_rows(t, bare, rng)
    answers = run(driver, path, raw, rows)
    tally = Tally(name)
    if answers is None:
        print(f"DIFFERENCE {name}: no answer")
        return len(texts), 1
    for text, a, b in zip(texts, full, bare):
        for what, e in (("with", a), ("without", b)):
            ids, offsets = answers.tokens()
            if e is None:
                continue
            tally.check(f"ids, {what} special tokens", text, e.ids, ids)
            if e.ids == ids:
                tally.check(f"offsets, {what} special tokens", text, e.offsets, offsets)
    every = one_by_one(rows, lambda x: t.decode_batch(x, skip_special_tokens=False))
    plain = one_by_one(rows, lambda x: t.decode_batch(x, skip_special_tokens=True))
    for row, a, b in zip(rows, every, plain):
        for what, text in (("all tokens", a), ("no special tokens", b)):
            got = answers.text()
            if text is not None:
                tally.check(f"decoding of {what}", row, text, got)
    return len(texts), tally.bad


def main():
    o = arguments()
    try:
        import tokenizers  # noqa: F401
    except ImportError as e:
        print(f"SKIPPED: the differential test of tokenizers needs the library: {e}")
        return 1 if o.require else 77
    import kinds
    every = kinds.all_kinds()
    names = o.only.split(",") if o.only else list(every)
    strings = differences = 0
    lock = threading.Lock()
    queue = list(enumerate(names))

    def work(folder):
        nonlocal strings, differences
        while True:
            with lock:
                if not queue:
                    return
                i, name = queue.pop(0)
            share = o.share * 3 if name.startswith("cut-") else o.share
            n, bad = compare(o.driver, folder, name, every[name], share, i)
            with lock:
                strings += n
                differences += bad

    with tempfile.TemporaryDirectory() as folder:
        workers = [threading.Thread(target=work, args=(o.keep or folder,)) for _ in range(2)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    print(f"{len(names)} tokenizers, {strings} strings of {len(corpus.strings())}: {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
