# SPDX-License-Identifier: Apache-2.0
"""Writes SentencePiece's precompiled character maps (text/charsmap.h), for tests."""
import struct
import unicodedata


def build(mapping):
    """mapping: text to text. Returns the bytes of the map."""
    texts, trie = b"", {}
    for key, value in mapping.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[-1] = len(texts)
        texts += value.encode() + b"\0"
    units, first_free = {0: 0}, 1
    todo = [(trie, 0, 0)]
    while todo:
        node, pos, label = todo.pop()
        labels = [max(c, 0) for c in node]
        base = first_free
        while any((base ^ c) in units for c in labels) or (pos ^ base) >= 1 << 21:
            base += 1
        while first_free in units:
            first_free += 1
        for c in labels:
            units[base ^ c] = 0
        units[pos] = (pos ^ base) << 10 | (1 << 8 if -1 in node else 0) | label
        for c, child in node.items():
            if c == -1:
                units[base] = 1 << 31 | child
            else:
                todo.append((child, base ^ c, c))
    size = (max(units) | 255) + 1
    return struct.pack("<I", 4 * size) + struct.pack("<%dI" % size, *(units.get(i, 0) for i in range(size))) + texts


def nfkc_like():
    """What nmt_nfkc does to the first planes, more or less: enough to meet every case."""
    mapping = {"e\u0301": "\u00e9", "\u304b\u3099": "\u304c"}
    for c in list(range(1, 0x600)) + list(range(0x1E00, 0x2800)) + list(range(0x3000, 0x3400)) + list(range(0xF900, 0x10000)):
        ch = chr(c)
        if c < 9 or 13 < c < 32 or c in (11, 12, 0x7F, 0xAD, 0x200B, 0x200C, 0x2060):
            mapping[ch] = ""
        elif c in (9, 10, 13, 0xA0, 0x1680, 0x3000, 0x2581, 0x2028) or 0x2000 <= c <= 0x200A:
            mapping[ch] = " "
        elif unicodedata.normalize("NFKC", ch) != ch:
            mapping[ch] = unicodedata.normalize("NFKC", ch)
    return mapping
