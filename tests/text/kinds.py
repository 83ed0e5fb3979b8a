# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of every kind that models are published with, trained when the test runs."""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models as M, normalizers as N, pre_tokenizers as P, processors as X, trainers as T

import charsmap
import corpus

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
META = "\u2581"


def training_text():
    return corpus.text_lines()[:6000] + (corpus.WORLD + corpus.EMOJI + corpus.CODE + corpus.WORDS) * 5


def split(pattern, behavior="isolated", invert=False):
    return P.Split(Regex(pattern), behavior, invert)


def byte_level(*steps):
    return P.Sequence([split(s) if isinstance(s, str) else s for s in steps] + [P.ByteLevel(add_prefix_space=False, use_regex=False)])


def clone(t):
    return Tokenizer.from_str(t.to_str())


def variant(t, **fields):
    """A copy with members of the model changed."""
    j = json.loads(t.to_str())
    j["model"].update(fields)
    return Tokenizer.from_str(json.dumps(j))


def train(model, trainer, **parts):
    t = Tokenizer(model)
    for name, part in parts.items():
        setattr(t, name, part)
    t.train_from_iterator(training_text(), trainer)
    return t


def bos(t, token, eos=None):
    ids = [(x, t.token_to_id(x)) for x in (token, eos) if x]
    tail = f" {eos}" if eos else ""
    return X.TemplateProcessing(single=f"{token} $A{tail}", pair=f"{token} $A{tail} {token} $B:1{tail}", special_tokens=ids)


def flagged(t):
    """Added tokens with every flag; some look like others."""
    t.add_tokens([AddedToken("Added"), AddedToken("<lone>", single_word=True), AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True, normalized=False), AddedToken("<Norm>", normalized=True),
                  AddedToken("caf\u00e9tok", normalized=True), AddedToken("tool call", normalized=False), AddedToken("U.S.", single_word=True, lstrip=True, rstrip=True)])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True), AddedToken("<pad>", special=True, normalized=False), AddedToken("<|im_start|>", special=True, normalized=True),
                          AddedToken("[MASK]", special=True, lstrip=True, rstrip=True), AddedToken("<|im_end|>", rstrip=True, special=True, normalized=False)])
    return t


def byte_kinds(out):
    trainer = T.BpeTrainer(vocab_size=1200, show_progress=False, special_tokens=["<|endoftext|>", "<s>"], initial_alphabet=P.ByteLevel.alphabet())
    gpt2 = train(M.BPE(), trainer, pre_tokenizer=P.ByteLevel(add_prefix_space=False), decoder=D.ByteLevel(), post_processor=X.ByteLevel(trim_offsets=True))
    out["gpt2"] = gpt2
    t = flagged(clone(gpt2))
    t.pre_tokenizer = P.ByteLevel(add_prefix_space=True)
    t.post_processor = X.RobertaProcessing(("<|endoftext|>", t.token_to_id("<|endoftext|>")), ("<s>", t.token_to_id("<s>")), trim_offsets=True, add_prefix_space=True)
    out["roberta"] = t
    t = train(M.BPE(ignore_merges=True), trainer, pre_tokenizer=byte_level(LLAMA3), decoder=D.ByteLevel())
    t.post_processor = X.Sequence([X.ByteLevel(trim_offsets=False), bos(t, "<|endoftext|>")])
    out["llama3"] = t
    out["llama3-merges"] = flagged(variant(t, ignore_merges=False))
    for name, steps, norm in (("qwen2", [QWEN2], N.NFC()), ("qwen3.5", [QWEN35], N.NFC()), ("cl100k", [CL100K], None), ("o200k", [O200K], None), ("tekken", [TEKKEN], None),
                              ("deepseek-v3", [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK], None),
                              ("deepseek-coder", ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", P.Digits(True)], None),
                              ("starcoder", [P.Digits(True), P.ByteLevel(add_prefix_space=False, use_regex=True)], None)):
        t = clone(gpt2)
        t.post_processor = X.ByteLevel(trim_offsets=False)
        t.pre_tokenizer = byte_level(*steps) if name != "starcoder" else P.Sequence(steps)
        if norm:
            t.normalizer = norm
        out[name] = flagged(t) if name in ("qwen2", "deepseek-v3") else t
    t = clone(gpt2)
    t.normalizer, t.pre_tokenizer = N.Sequence([N.NFKC(), N.ByteLevel()]), split("\u0120")
    out["byte-normalizer"] = t


def char_kinds(out):
    prep = N.Sequence([N.Prepend(META), N.Replace(" ", META)])
    trainer = T.BpeTrainer(vocab_size=1500, show_progress=False, limit_alphabet=300, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)])
    base = train(M.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True), trainer, pre_tokenizer=P.Metaspace())
    decoder = D.Sequence([D.Replace(META, " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    # Bytes are no special tokens in real files.
    j = json.loads(base.to_str())
    j["added_tokens"] = [t for t in j["added_tokens"] if not t["content"].startswith("<0x")]
    j["pre_tokenizer"] = None
    base = Tokenizer.from_str(json.dumps(j))
    t = clone(base)
    t.normalizer, t.decoder, t.post_processor = prep, decoder, bos(t, "<s>")
    out["llama2"] = t
    out["llama2-flags"] = flagged(clone(t))
    for scheme in ("first", "always", "never"):
        for cut in (True, False):
            t = variant(base, byte_fallback=scheme != "never", fuse_unk=cut)
            t.pre_tokenizer = P.Metaspace(META, prepend_scheme=scheme, split=cut)
            t.decoder = D.Metaspace(META, prepend_scheme=scheme, split=cut) if cut else decoder
            out[f"metaspace-{scheme}-{'split' if cut else 'whole'}"] = flagged(t) if scheme == "first" else t
    t = clone(base)
    t.normalizer, t.pre_tokenizer, t.decoder = N.Replace(" ", META), P.Split(" ", "merged_with_previous"), D.Sequence([D.Replace(META, " "), D.ByteFallback(), D.Fuse()])
    t.post_processor = bos(t, "<s>", "</s>")
    out["gemma"] = t
    out["no-unk"] = variant(out["gemma"], byte_fallback=False, unk_token=None)
    clip = T.BpeTrainer(vocab_size=900, show_progress=False, limit_alphabet=200, special_tokens=["<unk>", "<s>", "</s>"], end_of_word_suffix="</w>")
    t = train(M.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), clip, normalizer=N.Sequence([N.NFC(), N.Replace(Regex(r"\s+"), " "), N.Lowercase()]),
              pre_tokenizer=P.Sequence([split(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", "removed", True)]), decoder=D.BPEDecoder())
    t.post_processor = bos(t, "<s>", "</s>")
    out["clip"] = t


def unigram_kinds(out):
    spm = N.Precompiled(charsmap.build(charsmap.nfkc_like()))
    trainer = T.UnigramTrainer(vocab_size=1000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"])
    t = train(M.Unigram(), trainer, normalizer=N.Sequence([spm, N.Replace(Regex(" {2,}"), " ")]), pre_tokenizer=P.Metaspace(), decoder=D.Metaspace())
    t.post_processor = bos(t, "<s>", "</s>")
    out["unigram"] = t
    u = flagged(clone(t))
    u.normalizer = N.Sequence([spm, N.Strip(False, True), N.Replace(Regex(" {2,}"), META)])
    u.pre_tokenizer = P.Sequence([P.WhitespaceSplit(), P.Metaspace(META, prepend_scheme="always")])
    out["t5"] = u
    j = json.loads(t.to_str())
    j["model"]["vocab"] += [["<0x%02X>" % i, -12.0] for i in range(256)]
    j["model"]["byte_fallback"] = True
    u = Tokenizer.from_str(json.dumps(j))
    u.normalizer, u.pre_tokenizer = N.Sequence([N.Nmt(), N.NFKC(), N.Prepend(META), N.Replace(" ", META)]), P.Metaspace(META, prepend_scheme="never", split=False)
    u.decoder = D.Sequence([D.Replace(META, " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)])
    out["unigram-bytes"] = u
    u = clone(t)
    u.normalizer = N.Sequence([N.Replace("``", '"'), N.Replace("''", '"'), N.NFKD(), N.StripAccents(), N.Lowercase(), spm, N.Replace(Regex(" {2,}"), " ")])
    u.pre_tokenizer = P.Sequence([P.Punctuation("isolated"), P.Metaspace()])
    out["albert"] = u


def word_kinds(out):
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    trainer = T.WordPieceTrainer(vocab_size=1200, show_progress=False, limit_alphabet=300, special_tokens=special)
    t = train(M.WordPiece(unk_token="[UNK]"), trainer, normalizer=N.BertNormalizer(), pre_tokenizer=P.BertPreTokenizer(), decoder=D.WordPiece())
    t.post_processor = X.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    out["bert-uncased"] = t
    u = flagged(variant(t, max_input_chars_per_word=12))
    u.normalizer = N.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=False)
    u.decoder = D.WordPiece("##", cleanup=False)
    out["bert-cased"] = u
    u = clone(t)
    u.normalizer, u.pre_tokenizer, u.post_processor = N.Sequence([N.NFD(), N.Lowercase(), N.StripAccents(), N.Strip()]), P.Whitespace(), bos(u, "[CLS]", "[SEP]")
    out["wordpiece-whitespace"] = u
    t = train(M.WordLevel(unk_token="[UNK]"), T.WordLevelTrainer(vocab_size=1500, show_progress=False, special_tokens=special), pre_tokenizer=P.Whitespace())
    out["wordlevel"] = flagged(t)
    cuts = {"digits": P.Sequence([P.WhitespaceSplit(), P.Digits(False)]), "delimiter": P.CharDelimiterSplit("e"), "fixed": P.FixedLength(3),
            "bert-digits": P.Sequence([P.BertPreTokenizer(), P.Digits(True)])}
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        cuts["punctuation-" + behavior] = P.Sequence([P.Punctuation(behavior)])
        cuts["split-" + behavior] = split(r"\s+|[,.]", behavior)
        cuts["invert-" + behavior] = split(r"\w+|[^\w\s]+", behavior, True)
        cuts["text-" + behavior] = P.Split("e", behavior)
    for name, cut in cuts.items():
        u = clone(t)
        u.pre_tokenizer = cut
        out["cut-" + name] = u


def all_kinds():
    out = {}
    for make in (byte_kinds, char_kinds, unigram_kinds, word_kinds):
        make(out)
    return out
