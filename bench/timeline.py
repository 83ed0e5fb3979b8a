#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What each kernel of a layer costs in whole decode steps, from a file that bench/timeline.c wrote.

    bench/timeline.py FILE [ATTENTION]

A layer is what lies between two launches of decode attention (a kernel whose name contains ATTENTION, "decode"). Steps of the
largest batch count. "costs" is the time from the end of the kernel before to this one's: kernels overlap, and these add up to the
layer. What follows a step's last layer until the next step's first attention is printed once, from a step in the middle.
"""
import collections
import statistics
import sys


def read(path):
    rows = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            begin, end, blocks, threads, shared, _, name = line.split(None, 6)
            rows.append((int(begin), int(end), int(blocks), int(threads), int(shared), name.strip()))
    return rows


def print_run(rows, starts, n):
    total = 0.0
    for k in range(n):
        costs = [(rows[i + k][1] - rows[i + k - 1][1]) / 1e3 for i in starts]
        runs = [(rows[i + k][1] - rows[i + k][0]) / 1e3 for i in starts]
        _, _, blocks, threads, shared, name = rows[starts[0] + k]
        total += statistics.median(costs)
        print("%-44s %5d x %4d  %6d bytes  costs %8.2f us  runs %8.2f us" %
              (name[:44], blocks, threads, shared, statistics.median(costs), statistics.median(runs)))
    print("together %.2f us" % total)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    rows = read(sys.argv[1])
    what = sys.argv[2] if len(sys.argv) == 3 else "decode"
    at = [i for i, r in enumerate(rows) if what in r[5] and i > 0]
    if len(at) < 3:
        sys.exit("%s: fewer than three launches of a kernel named like %r" % (sys.argv[1], what))
    largest = max(rows[i][2] for i in at)
    by_length = collections.defaultdict(list)
    for i, following in zip(at, at[1:]):
        if rows[i][2] == largest:
            by_length[following - i].append(i)
    layer = max(by_length, key=lambda n: len(by_length[n]))
    print("a layer, %d times:" % len(by_length[layer]))
    print_run(rows, by_length[layer], layer)
    longer = [n for n in by_length if n > layer]
    if longer:
        between = max(longer, key=lambda n: len(by_length[n]))
        starts = by_length[between]
        print("from a step's last attention to the next step's first, %d times:" % len(starts))
        print_run(rows, starts[len(starts) // 2:len(starts) // 2 + 1], between)


if __name__ == "__main__":
    main()
