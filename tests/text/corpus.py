# SPDX-License-Identifier: Apache-2.0
"""The strings that the tokenizers are compared on. The same ones every time; none needs a network."""
import os
import random

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SPACES = [chr(c) for c in (9, 10, 11, 12, 13, 32, 0x1C, 0x1F, 0x85, 0xA0, 0x1680, 0x2000, 0x2003, 0x2009, 0x200A, 0x200B, 0x200C, 0x200D, 0x2028,
                           0x2029, 0x202F, 0x205F, 0x2060, 0x2581, 0x3000, 0xFEFF, 0x120)]
EMOJI = ["\U0001F600", "\u2764\ufe0f", "\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", "\U0001F44D\U0001F3FD", "\U0001F1E9\U0001F1EA",
         "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7", "1\ufe0f\u20e3", "\U0001F3F4\U000E0067\U000E0062\U000E0073\U000E0063\U000E0074\U000E007F",
         "\U0001F575\U0001F3FB\u200d\u2642\ufe0f", "\u00a9\u200d\u00ae", "\U0001FAE8", "\U0001F9D1\u200d\U0001F692"]
WORLD = ["\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05b9\u05dc\u05b8\u05dd", "\u202bab\u202c \u0661\u0662\u0663",
         "Vie\u0323\u0302t Nam", "Vi\u1ec7t Nam", "e\u0301te\u0301 \u00e9t\u00e9", "A\u030aA\u0301\u0323\u0302", "\u1100\u1161\u11a8\uac01\uac00\u11a8", "\u0915\u094d\u0937\u093f \u0939\u093f\u0928\u094d\u0926\u0940",
         "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22\u0e19\u0e33\u0e49", "\u4f60\u597d\uff0c\u4e16\u754c\uff01", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002", "\u30ab\u3099\u30ac\uff76\uff9e", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
         "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5 \u03a3\u03a3\u03c2", "\ufb01ne \ufb03x \u00bd\u2153 \u2460\u2461 x\u00b2 H\u2082O", "\u0130stanbul I\u0307 \u1e9e\u00df",
         "\uff28\uff45\uff4c\uff4c\uff4f\u3000\uff11\uff12", "\u212bngstr\u00f6m \u2126 \u1e9b\u0323", "\u0344\u0374\u037e\u0387", "\U00011935\U00011930 \U0001d15e \U0002f800", "a\u0315\u0300\u05ae\u0300b", "\u0f71\u0f72\u0f74",
         "\u200e\u200f\u061c", "\u06dda \U000110bda", "\u0d4ea", "\u0600\u0661", "\u0301\u0302", "\u094d", "a\u0897b \u1acfx"]
CODE = ["def f(x):\n\treturn {'a': [x, None], \"b\": x**2}  # note\n", "for (int i = 0; i < n; ++i)\n{\n    a[i] += b[i] * 3.14e-10f;\n}\n\n\n", "SELECT * FROM t WHERE a>=1 AND b!='it''s';",
        "<html>\r\n  <body class=\"x\">&nbsp;</body>\r\n</html>", "https://example.org/a/b?c=d&e=%20f#g", "C:\\Users\\x\\file.TXT", "camelCaseHTTPServerID snake_case_name SCREAMING_CASE kebab-case",
        "x=1;y=22;z=333;w=4444;v=55555;u=666666", "{\"k\": [1, 2.5, -3e10, true, null]}\n", "#include <stdio.h>\n#define A(x) ((x)+1)\n", "    \t  mixed\tindent  \n\t\n   \n", "!!!???...---___===+++///\\\\\\"]
WORDS = ["don't", "I'll", "we've", "they're", "it's", "he'd", "I'm", "DON'T", "I'LL", "don\u2019t", "'s", "'tis", "l'eau", "naïve", "co-op", "e.g.", "U.S.A.", "3rd", "10,000.50", "1234567890", "007", "٣٤٥", "Ⅷ", "½", "x²"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end|", "|im_end|>", "<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[PAD]", "<0x41>", "<0xFF>", "<0x-1>", "##ing",
           "<extra>", "<lone>", "<left>", "<right>", "<Norm>", "<norm>", "\u2581<s>", "<s><s>", " <s> ", "x<s>y", "<S>", "<\u200bs>", "<|start|>user<|end|>", "Added", "added", "ADDED", "Added1", "unadded", "caf\u00e9tok", "cafe\u0301tok",
           "tool call", "tool  call"]


def text_lines():
    lines = []
    for folder, _, names in sorted(os.walk(os.path.join(ROOT, "docs"))):
        for name in sorted(names):
            if name.endswith(".md"):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    lines += f.read().split("\n")
    for name in ("README.md", "CONTRIBUTING.md", "core/base/json.c", "core/base/err.c", "tests/walls.py", "text/bpe.c", "text/unidata.c"):
        path = os.path.join(ROOT, name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                lines += f.read().split("\n")
    return [line for line in lines if line]


def blocks():
    """Every 32 code points of the planes that are in use, plain and in two kinds of company."""
    out = []
    for plane in (0, 1, 2, 3, 14, 16):
        used = {2: 0x20000 + 0x400, 3: 0x30000 + 0x200, 14: 0xE0200, 16: 0x100040}.get(plane, (plane + 1) * 0x10000)
        for first in range(plane * 0x10000, used, 32):
            chars = [chr(c) for c in range(first, first + 32) if not 0xD800 <= c < 0xE000]
            if not chars:
                continue
            out.append("".join(chars))
            out.append(" ".join(chars))
            if plane < 2:
                out.append("a" + "a1".join(chars))
    return out


def pieces(rng):
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice(EMOJI)
    if kind == 1:
        return rng.choice(WORLD)
    if kind == 2:
        return rng.choice(SPECIAL)
    if kind == 3:
        return rng.choice(WORDS)
    if kind == 4:
        return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 5)))
    if kind == 5:
        return str(rng.randrange(10 ** rng.randrange(1, 12)))
    if kind == 6:
        return rng.choice(CODE)[: rng.randrange(1, 40)]
    if kind == 7:
        return chr(rng.choice([rng.randrange(32), rng.randrange(0x7F, 0xA0), rng.randrange(0x20, 0x7F)]))
    if kind == 8:
        return "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(rng.randrange(1, 6)))
    if kind == 9:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFG") for _ in range(rng.randrange(1, 10)))
    if kind == 10:
        return rng.choice(" \n\t.,;:!?'\"-_/()")
    while True:
        c = rng.choice([rng.randrange(0x80, 0x3000), rng.randrange(0x3000, 0x10000), rng.randrange(0x10000, 0x20000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c) * rng.choice([1, 1, 2, 3])


def mixtures(rng, count):
    return ["".join(pieces(rng) for _ in range(rng.randrange(1, 12))) for _ in range(count)]


def damaged(rng, count, lines):
    """Bytes that are no UTF-8, more or less."""
    out = []
    for i in range(count):
        if i % 2:
            out.append(bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40))))
        else:
            b = bytearray(rng.choice(WORLD + EMOJI + lines).encode())
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(b))
                b[at:at + rng.randrange(3)] = bytes([rng.choice([0x80, 0xBF, 0xC0, 0xC1, 0xC3, 0xE0, 0xED, 0xA0, 0xF0, 0xF4, 0x90, 0xF5, 0xFF, 0])])
            out.append(bytes(b))
    return out


def long_ones(rng, lines):
    return ["a" * 20000, "Z" * 3000 + " " * 3000 + "\n" * 500, " " * 5000 + "x", "ab" * 5000, "\u4f60\u597d" * 2000, "a\u0301" * 2000, "\u0301\u0327" * 500, "\U0001F468\u200d" * 500, "1234567890" * 500,
            "-=" * 2000, "".join(rng.choice("abc") for _ in range(10000)), "\n".join(lines[:400]), "\u2581" * 1000, "<s>" * 500, "\x00" * 300, "'" * 2000, "\t \t" * 1000, "\ufb03" * 500]


def strings(seed=7, share=1, first=0):
    """All strings, as bytes; `share` n keeps every nth of each large kind, beginning with `first`."""
    rng = random.Random(seed)
    lines = text_lines()
    single = [chr(c) for c in list(range(0x250)) + list(range(0x2000, 0x2070))]
    kinds = [["", " ", "  ", "a", " a", "a ", "\n", "\r\n", "\x00"], lines, EMOJI, WORLD, CODE, WORDS, SPECIAL, SPACES, single, blocks(), mixtures(rng, 9000), damaged(rng, 1500, lines),
             [a + b + c for a in SPECIAL for b in SPECIAL[:12] for c in (" x", "")], [s + w for s in SPACES for w in WORDS], long_ones(rng, lines)]
    out = []
    for kind in kinds:
        some = kind if len(kind) < 100 else kind[first % share::share]
        out += [s if isinstance(s, bytes) else s.encode() for s in some]
    return out
