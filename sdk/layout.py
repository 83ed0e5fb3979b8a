#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The layout of every struct that crosses the plugin ABI, so that no change of it goes unnoticed.

    layout.py generate HEADER...     prints a C program that prints sizes and offsets of all structs in the headers
    layout.py check PROGRAM GOLDEN   runs that program and compares; --update writes the golden file instead

The structs are read from the headers themselves, so a new field or struct needs no other edit than an updated
golden file: whoever changes the ABI sees in the diff of that file what has changed. Within a major version only
lines at the end of a struct may be added (abi.h, rule 3).
"""

import os
import re
import subprocess
import sys

STRUCT = re.compile(r"typedef\s+struct\s+(?:__attribute__\(\(\w+\)\)\s+)?(\w+)\s*\{(.*?)\n\}\s*(\w+)\s*;", re.S)


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.S)


def fields_of(name, body):
    """Names of the fields of a struct's body, in order."""
    fields = []
    for declaration in body.split(";"):
        declaration = " ".join(declaration.split())
        if not declaration:
            continue
        function = re.match(r".*?\(\s*\*\s*(\w+)\s*\)\s*\(", declaration)
        if function:
            fields.append(function.group(1))
            continue
        for part in declaration.split(","):
            m = re.search(r"(\w+)\s*(?:\[[^\]]*\]\s*)*$", part)
            if not m:
                sys.exit(f"layout.py: cannot read a field of {name}: {declaration}")
            fields.append(m.group(1))
    return fields


def generate(headers):
    out = ['#include <stddef.h>', '#include <stdio.h>', ""]
    out += [f'#include "tenon/{os.path.basename(h)}"' for h in headers]
    out += ["", "/* The ABI has no implicit padding, so a hole is a field that was overlooked, or a reserved one that is missing. */",
            "static int holes;", "",
            "static size_t field(const char *name, size_t offset, size_t size, size_t end)", "{",
            "    holes += offset != end;",
            '    printf("    %-22s offset %5zu  size %5zu\\n", name, offset, size);',
            "    return offset + size;", "}", "", "int main(void)", "{", "    size_t end;", ""]
    count = 0
    for header in headers:
        with open(header, encoding="utf-8") as f:
            text = without_comments(f.read())
        out.append(f'    printf("%s\\n", "{os.path.basename(header)}");')
        for tag, body, name in STRUCT.findall(text):
            count += 1
            out.append(f'    printf("  %s size %zu\\n", "{name}", sizeof({name}));')
            out.append("    end = 0;")
            for field in fields_of(name, body):
                out.append(f'    end = field("{field}", offsetof({name}, {field}), sizeof((({name} *)0)->{field}), end);')
            out.append(f"    holes += end != sizeof({name});")
    if count == 0:
        sys.exit("layout.py: the headers have no structs")
    out += ["    return holes;", "}", ""]
    print("\n".join(out))


def check(program, golden, update):
    run = subprocess.run([program], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"layout.py: {run.returncode} structs or fields have a hole in front or behind\n{run.stdout}")
    if update:
        with open(golden, "w", encoding="utf-8") as f:
            f.write(run.stdout)
        return
    with open(golden, encoding="utf-8") as f:
        want = f.read()
    if run.stdout == want:
        print(f"{len(want.splitlines())} lines agree")
        return
    import difflib

    sys.stdout.writelines(difflib.unified_diff(want.splitlines(True), run.stdout.splitlines(True), golden, "now"))
    sys.exit("layout.py: the layout of the ABI has changed. If this is meant: layout.py check PROGRAM GOLDEN --update, "
             "and read the rules in abi.h first.")


def main(args):
    if len(args) >= 2 and args[0] == "generate":
        generate(args[1:])
    elif len(args) >= 3 and args[0] == "check":
        check(args[1], args[2], "--update" in args[3:])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
