#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes text/unitable.c: the Unicode facts the tokenizers need.

The `tokenizers` library mixes several Unicode versions (Oniguruma, the Rust standard library, and crates whose
tables are ten years old). To give the same ids for every character we keep one table of general categories and,
per code point, since when which of these parts knows it. The facts are measured from the installed library,
so run this only to follow a new release of it:

    python3 tests/text/gen_unitable.py text/unitable.c

Needs the packages tokenizers and regex.
"""
import sys

import regex
from tokenizers import Regex, normalizers as N, pre_tokenizers as P

CATS = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs").split()
CPS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
ALL = "".join(map(chr, CPS))


def newest():
    """General category in the newest version known to the regex module (17.0)."""
    gc = {}
    for name in CATS[1:-1]:
        for m in regex.finditer(r"\p{%s}+" % name, ALL):
            for ch in m.group():
                gc[ord(ch)] = CATS.index(name)
    return gc


def onig():
    gc = {}
    for name in CATS[1:-1]:
        split = P.Split(Regex(r"\p{%s}+" % name), "removed", True)
        for text, _ in split.pre_tokenize_str(ALL):
            for ch in text:
                gc[ord(ch)] = CATS.index(name)
    return gc


def removed_by(norm):
    return {c for c in CPS if norm.normalize_str(chr(c)) == ""}


def bert(clean, accents):
    return N.BertNormalizer(clean_text=clean, handle_chinese_chars=False, strip_accents=accents, lowercase=False)


def ages(gc, og):
    import unicodedata

    assert unicodedata.unidata_version == "14.0.0", "PCRE2 10.42 knows Unicode 14; run this with Python 3.11"
    other = removed_by(bert(True, False))
    mn = removed_by(bert(False, True))
    mark = removed_by(N.StripAccents())
    punct = {c for c in CPS if not P.Punctuation("removed").pre_tokenize_str(chr(c))}
    age = {}
    for c in CPS:
        cat = CATS[gc.get(c, 0)]
        a = 0
        if cat == "Cn":
            continue
        if c not in og:
            a = 4
        elif unicodedata.category(chr(c)) == "Cn":
            a = 3
        elif cat[0] == "P" and c not in punct:
            a = 1
        elif cat[0] == "M" and c not in mark:
            a = 2
        elif cat == "Mn" and c not in mn:
            a = 1
        elif cat == "Cf" and c not in other:
            a = 1
        age[c] = a
    return age


def ranges(value):
    out = []
    prev = 0
    for c in range(0x110000):
        v = value(c)
        if v != prev:
            out.append(c << 8 | v)
            prev = v
    return out


def lowercase():
    """Rows (first, count, step, delta): first, first+step, ... each plus delta."""
    low = N.Lowercase()
    pairs = []
    for c in CPS:
        t = low.normalize_str(chr(c))
        if t == chr(c):
            continue
        if len(t) != 1:
            assert c == 0x130 and t == "i\u0307", hex(c)
            continue
        pairs.append((c, ord(t) - c))
    rows = []
    for c, d in pairs:
        if rows:
            first, count, step, delta = rows[-1]
            last = first + (count - 1) * step
            if delta == d and count == 1 and c - last in (1, 2):
                rows[-1] = (first, 2, c - last, d)
                continue
            if delta == d and count > 1 and c - last == step:
                rows[-1] = (first, count + 1, step, d)
                continue
        rows.append((c, 1, 1, d))
    return rows


def words(gc):
    """Code points that \\w matches in Rust though they are no letter, mark, decimal digit or connector."""
    from tokenizers import pre_tokenizers

    ws = pre_tokenizers.Whitespace()
    base = {"Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Mn", "Mc", "Me", "Nd", "Pc"}
    extra = []
    for c in CPS:
        r = ws.pre_tokenize_str(chr(c) + "a")
        is_word = len(r) == 1 and r[0][0] != "a"
        if is_word and CATS[gc.get(c, 0)] not in base:
            if extra and extra[-1][1] == c - 1:
                extra[-1][1] = c
            else:
                extra.append([c, c])
    return extra


def put(f, items, per_line, fmt):
    for i in range(0, len(items), per_line):
        f.write("    " + " ".join(fmt % x + "," for x in items[i:i + per_line]) + "\n")


def main():
    gc, og = newest(), onig()
    age = ages(gc, og)

    def value(c):
        if 0xD800 <= c < 0xE000:
            return CATS.index("Cs")
        # Where old and new disagree (one code point) the version that the split regexes see counts.
        cat = og.get(c, gc.get(c, 0))
        return cat | age.get(c, 0) << 5

    table = ranges(value)
    low = lowercase()
    with open(sys.argv[1], "w", encoding="ascii") as f:
        f.write("/* SPDX-License-Identifier: Apache-2.0 */\n")
        f.write("/* Made by tests/text/gen_unitable.py from Unicode 17; do not edit. The format is explained in\n"
                " * unitable.h. */\n")
        f.write('#include "unitable.h"\n\n/* clang-format off */\n')
        f.write("const uint32_t unitable_class[] = {\n")
        put(f, table, 9, "0x%x")
        f.write("};\nconst size_t unitable_class_count = sizeof unitable_class / sizeof *unitable_class;\n\n")
        f.write("const struct unitable_case unitable_lower[] = {\n")
        put(f, ["{0x%x, %d, %d, %d}" % r for r in low], 4, "%s")
        f.write("};\nconst size_t unitable_lower_count = sizeof unitable_lower / sizeof *unitable_lower;\n\n")
        f.write("const struct unitable_range unitable_word[] = {\n")
        put(f, ["{0x%x, 0x%x}" % tuple(r) for r in words(gc)], 4, "%s")
        f.write("};\nconst size_t unitable_word_count = sizeof unitable_word / sizeof *unitable_word;\n")


main()
