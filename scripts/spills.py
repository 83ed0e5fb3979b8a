#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tells which device kernels of a build spill registers to local memory or keep arrays there, for each architecture.

    scripts/spills.py [BUILD] [--all]

It reads what ptxas said when the images were compiled (*.fatbin.ptxas in BUILD, "build" if not given); nothing is compiled. For all
architectures: cmake --preset package && cmake --build --preset package, then BUILD is build-package. Exit status 1: some kernel
spills, or there are no reports. --all prints every kernel with its registers."""
import pathlib
import re
import sys

ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def kernels(report):
    """(name, architecture, registers, stack, spilled, reloaded) of each kernel that the report tells of."""
    name = frame = None
    for line in report.read_text(errors="replace").splitlines():
        if entry := ENTRY.search(line):
            name, frame = entry.groups(), None
        elif name and not frame and (found := FRAME.search(line)):
            frame = [int(x) for x in found.groups()]
        elif name and frame and (used := USED.search(line)):
            yield (*name, int(used[1]), *frame)
            name = frame = None


def main(args):
    everything = "--all" in args
    build = pathlib.Path(next((a for a in args if not a.startswith("-")), "build"))
    reports = sorted(build.glob("plugins/**/*.fatbin.ptxas"))
    archs, spilling = {}, 0

    for report in reports:
        image = report.name.removesuffix(".fatbin.ptxas")
        for name, arch, registers, stack, stores, loads in kernels(report):
            count = archs.setdefault(arch, [0, 0, 0])
            count[0] += 1
            count[1] += stack > 0
            count[2] += stores + loads > 0
            spilling += stores + loads > 0
            if everything or stack:
                print(f"sm_{arch:4} {image}: {name}: {registers} registers, stack {stack} bytes, "
                      f"spills {stores} bytes, loads {loads} bytes back")
    for arch, (n, stacked, spilled) in sorted(archs.items(), key=lambda a: int(re.sub(r"\D", "", a[0]))):
        print(f"sm_{arch}: {n} kernels, {stacked} with a stack, {spilled} that spill")
    if not archs:
        print(f"spills: {build} has no reports of ptxas: build its CUDA plugins first", file=sys.stderr)
    return 1 if spilling or not archs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
