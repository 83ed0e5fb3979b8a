#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Encodes a corpus with `sentencepiece` and `tiktoken` and, from the same vocabulary files, with Tenon; compares ids.

usage: differential_import.py DRIVER [--require] [--share=N] [--keep=DIR]

Strings that spell a special token are left out: Tenon is asked to recognise those, and the libraries are not. Exits 77
(skipped) if the libraries are not there, unless --require is given.
"""
import argparse
import base64
import io
import json
import os
import sys
import tempfile

import corpus
import differential


def sentencepiece_models():
    import sentencepiece

    common = dict(vocab_size=800, hard_vocab_limit=False, num_threads=1, minloglevel=2, character_coverage=0.995)
    models = {
        "spm-unigram": dict(model_type="unigram"),
        "spm-unigram-bytes": dict(model_type="unigram", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False),
        "spm-unigram-user": dict(model_type="unigram", user_defined_symbols=["<tool>", "\u2581\u2581", "ing", "<tool><tool>"], control_symbols=["<ctl>"], normalization_rule_name="nfkc_cf"),
        "spm-unigram-suffix": dict(model_type="unigram", treat_whitespace_as_suffix=True),
        "spm-bpe": dict(model_type="bpe"),
        "spm-llama": dict(model_type="bpe", byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
        "spm-bpe-user": dict(model_type="bpe", byte_fallback=True, user_defined_symbols=["<tool>", "a.b*", "ing", "\u2581\u2581", "<start_of_turn>"], normalization_rule_name="nfkc"),
        "spm-bpe-plain": dict(model_type="bpe", add_dummy_prefix=False),
    }
    lines = corpus.text_lines()[:5000] + (corpus.WORLD + corpus.CODE + corpus.WORDS) * 3
    for name, options in models.items():
        out = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=out, **common, **options)
        sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
        special = [sp.id_to_piece(i) for i in range(sp.get_piece_size()) if sp.is_control(i) or sp.is_unknown(i)]
        yield name, "tokenizer.model", out.getvalue(), {"add_bos_token": False}, special, sp.encode


def tiktoken_files():
    import kinds
    import tiktoken
    from tokenizers import models, pre_tokenizers, trainers

    t = kinds.train(models.BPE(), trainers.BpeTrainer(vocab_size=1500, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()), pre_tokenizer=kinds.byte_level(kinds.LLAMA3))
    letters = {}
    free = 256
    for b in range(256):
        if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b:
            letters[chr(b)] = b
        else:
            letters[chr(free)] = b
            free += 1
    ranks = {bytes(letters[c] for c in text): i for text, i in t.get_vocab().items()}
    lines = "".join(f"{base64.b64encode(token).decode()} {i}\n" for token, i in sorted(ranks.items(), key=lambda x: x[1])).encode()
    for name, file, pattern in (("tiktoken", "tiktoken.model", kinds.LLAMA3), ("tiktoken-ranks", "tokenizer.model", kinds.LLAMA3), ("tiktoken-o200k", "o200k_base.tiktoken", kinds.O200K)):
        special = {"<|im_start|>": len(ranks), "<|im_end|>": len(ranks) + 2}
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
        config = {"added_tokens_decoder": {str(i): {"content": c, "special": True} for c, i in special.items()}}
        yield name, file, lines, config, list(special) + ["<|reserved_token_"], encoding.encode_ordinary


LONG = " ".join(corpus.text_lines())[:120_000]


def compare(driver, folder, model, share, first):
    name, file, data, config, special, encode = model
    path = os.path.join(folder, name)
    os.makedirs(path, exist_ok=True)
    for n, content in ((file, data), ("tokenizer_config.json", json.dumps(config).encode())):
        with open(os.path.join(path, n), "wb") as f:
            f.write(content)
    # The last is long enough for SentencePiece to start its sums anew (kScoreResetThreshold).
    raw = list(corpus.strings(share=share, first=first)) + [LONG.encode()]
    raw = [s for s in raw if not any(x in s.decode("utf-8", "replace") for x in special)]
    answers = differential.run(driver, path, raw, [])
    tally = differential.Tally(name)
    if answers is None:
        print(f"DIFFERENCE {name}: no answer")
        return len(raw), 1
    for s in raw:
        text = s.decode("utf-8", "replace")
        answers.tokens()
        tally.check("ids", text, list(encode(text)), answers.tokens()[0])
    return len(raw), tally.bad


def main():
    p = argparse.ArgumentParser()
    p.add_argument("driver")
    p.add_argument("--require", action="store_true")
    p.add_argument("--share", type=int, default=4)
    p.add_argument("--keep", default="")
    o = p.parse_args()
    try:
        import sentencepiece  # noqa: F401
        import tiktoken  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as e:
        print(f"SKIPPED: the differential test of importers needs the libraries: {e}")
        return 1 if o.require else 77
    strings = differences = count = 0
    with tempfile.TemporaryDirectory() as folder:
        for make in (sentencepiece_models, tiktoken_files):
            for model in make():
                n, bad = compare(o.driver, o.keep or folder, model, o.share, count)
                count, strings, differences = count + 1, strings + n, differences + bad
    print(f"{count} vocabulary files, {strings} strings: {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
