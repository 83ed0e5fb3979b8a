#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the walls of the house: docs/architecture.md, section "Rooms and floors".

    walls.py [ROOT]        checks a tree; prints one line per finding, "FILE:LINE: what"; exit status 1 if any
    walls.py --self-test   builds small trees with one fault each and expects every fault to be found

What is checked:
  * every #include of core/, text/, apps/, plugins/, sdk/, bench/ and examples/: a room includes rooms below it,
    libraries that its row in ROOMS names, and headers of C, POSIX and Linux;
  * that the core's code (comments and strings aside) uses no identifier of a vendor's API;
  * that a file is at most 800 lines and a function at most 100 (the house rule is 60; between the two, people decide);
  * the licence line, marks of unfinished work, assert with side effects, and blocks of code that stand twice.

An include is judged by the file it reaches, not by its spelling. Only the standard library of Python is used.
"""

import os
import re
import sys
import tempfile

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 100
TWIN_LINES = 15  # so many lines of code in a row, equal but for white space, are one function too few

# Files that may be longer, with the reason: {"core/x/y.c": "generated from ..."}.
LONG_FILES = {}

# Where quoted includes are looked up, after the directory of the including file. As in cmake/Tenon.cmake.
INCLUDE_ROOTS = ["sdk/include", "core", "core/include", "text", "text/include", "apps", ""]

CORE_ROOMS = ["base", "conf", "plugin", "kv", "engine", "exec", "sched", "loop", "build", "api"]


class Room:
    """What a room may include: other rooms, and libraries by their header's name (a regular expression)."""

    def __init__(self, floor, rooms="", libraries=None):
        self.floor = floor
        self.rooms = set(rooms.split())
        self.libraries = re.compile(libraries + r"$") if libraries else None


# What one plugin lends another: it would lie in common/, but has to build outside the tree with its plugin.
LENT = {"plugins/quant/int4_g128/feedback.h": "plugins/quant/fp8"}

# The floors are docs/architecture.md's. Each list of rooms is the rule "what stands below", less what would be
# surprising; widening one is a change of the architecture and belongs on that page, too.
ROOMS = {
    "sdk": Room(0),
    "base": Room(1, "sdk", r"jansson\.h|xxhash\.h|sodium(/.*)?\.h"),
    "conf": Room(2, "sdk base", r"libconfig\.h"),
    "plugin": Room(2, "sdk base", r"dlfcn\.h|elf\.h|link\.h|cpuid\.h"),
    "kv": Room(2, "sdk base", r"xxhash\.h"),  # keyed hashes of prefixes, on the scheduler's path
    "engine": Room(2, "sdk base", r"jansson\.h"),
    "exec": Room(3, "sdk base conf plugin kv engine"),
    "sched": Room(3, "sdk base conf plugin kv engine"),
    "loop": Room(4, "sdk base conf plugin kv engine exec sched"),
    "build": Room(4, "sdk base conf plugin kv engine exec sched", r"jansson\.h"),
    "api": Room(5, "sdk base conf plugin kv engine exec sched loop build tenon.h", r"jansson\.h"),
    "tenon.h": Room(5, "sdk"),
    "jinja": Room(2, "sdk base", r"jansson\.h|utf8proc\.h"),
    "text": Room(2, "sdk base jinja tenon_text.h", r"jansson\.h|utf8proc\.h|pcre2\.h"),
    "tenon_text.h": Room(2, "sdk"),
    "apps": Room(6, "sdk base api tenon.h tenon_text.h", r"jansson\.h|microhttpd\.h"),
    "bench": Room(
        6, "sdk jinja text tenon.h tenon_text.h " + " ".join(CORE_ROOMS), r"jansson\.h|dlfcn\.h|immintrin\.h|cupti\.h"
    ),
    "examples": Room(7, "sdk tenon.h tenon_text.h"),
    # A plugin sees the SDK, its own directory, and plugins/FAMILY/common/. Which vendor it needs is its business.
    "plugins": Room(1, "sdk"),
}

STANDARD = set(
    """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
    stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype
    dirent fcntl fnmatch ifaddrs getopt glob grp libgen netdb poll pthread pwd sched semaphore spawn strings syslog termios
    unistd malloc endian
    arpa/inet net/if netinet/in netinet/tcp sys/auxv sys/epoll sys/eventfd sys/file sys/ioctl sys/mman sys/prctl
    sys/random sys/resource sys/select sys/sendfile sys/signalfd sys/socket sys/stat sys/statvfs sys/syscall
    sys/sysinfo sys/time sys/timerfd sys/types sys/uio sys/un sys/utsname sys/vfs sys/wait
    linux/memfd linux/mempolicy linux/limits""".split()
)

# Libraries of the host: a plugin that wants one carries its own.
HOST_LIBRARIES = re.compile(r"(jansson|libconfig|xxhash|pcre2|utf8proc|check|microhttpd)\.h|sodium(/.*)?\.h")

VENDOR_NAMES = re.compile(
    r"\b(cuda[A-Z]\w*|cu(?:Mem|Device|Ctx|Stream|Event|Module|Launch|Graph|Init|blas)\w*|CU(?:result|device|stream|"
    r"context)\w*|nccl[A-Z]\w*|nvml[A-Z]\w*|nvrtc[A-Z]\w*|hip[A-Z]\w*|MPI_\w+|__global__|__device__)\b"
)

SOURCE = (".c", ".h", ".cu", ".cuh")
TREES = ["core", "text", "apps", "plugins", "sdk", "bench", "examples"]
MORE_TREES = ["tests"]  # only what every file must keep to


# -- Reading C ----------------------------------------------------------------------------------------------------


def blank_out(text, strings):
    """The text with comments (and, if asked, strings) replaced by spaces; lines stay where they are."""

    def spaces(m):
        s = m.group(0)
        if not strings and s[0] in "\"'":
            return s
        return re.sub(r"[^\n]", " ", s)

    return re.sub(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", spaces, text, flags=re.S)


def functions(code):
    """(name, first line, last line) of each function body. clang-format puts its braces into the first column."""
    lines = code.split("\n")
    begin = None
    for i, line in enumerate(lines):
        if line.rstrip() == "{" and begin is None:
            begin = i
        elif line.rstrip() == "}" and begin is not None:
            head = " ".join(lines[max(0, begin - 8) : begin])
            names = re.findall(r"(\w+)\s*\(", head.rsplit(";", 1)[-1].rsplit("}", 1)[-1])
            yield (names[0] if names else "?", begin, i)
            begin = None


def room_of(path):
    """The row of ROOMS that a file of the tree belongs to; None for tests and the like."""
    parts = path.split("/")
    if path == "core/include/tenon.h":
        return "tenon.h"
    if parts[:2] == ["text", "include"]:
        return "tenon_text.h"
    if parts[0] == "core":
        return parts[1] if len(parts) > 2 else None
    if parts[0] == "text":
        return parts[1] if len(parts) > 2 and parts[1] in ROOMS else "text"
    return parts[0] if parts[0] in ROOMS else None


# -- Checks -------------------------------------------------------------------------------------------------------


class Tree:
    def __init__(self, root):
        self.root = root
        self.findings = []
        self.files = {}
        self.long_functions = 0
        for top in TREES + MORE_TREES:
            for folder, folders, names in os.walk(os.path.join(root, top)):
                folders[:] = sorted(d for d in folders if not d.startswith((".", "build")))
                for name in sorted(names):
                    if name.endswith(SOURCE):
                        path = os.path.relpath(os.path.join(folder, name), root)
                        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as f:
                            self.files[path] = f.read()

    def finding(self, path, line, what):
        self.findings.append("%s:%d: %s" % (path, line, what))

    def resolve(self, path, name):
        """The file of the tree that an include reaches, or None."""
        for folder in [os.path.dirname(path)] + INCLUDE_ROOTS:
            candidate = os.path.normpath(os.path.join(folder, name))
            if not candidate.startswith("..") and os.path.isfile(os.path.join(self.root, candidate)):
                return candidate
        return None

    def check_includes(self, path, code):
        if room_of(path) is None:
            return  # tests include what they test
        for m in re.finditer(r"^[ \t]*#[ \t]*include[ \t]*(.*)$", code, flags=re.M):
            line = code.count("\n", 0, m.start()) + 1
            spelled = re.match(r"[<\"]([^>\"]+)[>\"]", m.group(1))
            if not spelled:
                self.finding(path, line, "includes what a macro says; name the file")
                continue
            name = spelled.group(1)
            target = self.resolve(path, name)
            if target:
                why = self.judge_own(path, target)
            elif m.group(1)[0] == '"':
                why = "there is no such file in the tree"
            else:
                why = self.judge_foreign(path, name)
            if why:
                self.finding(path, line, "includes %s: %s" % (name, why))

    def judge_own(self, path, target):
        """Why `path` may not include the file `target` of this tree, or None."""
        room, other = room_of(path), room_of(target)
        if target.endswith(".c"):
            return "a .c file is compiled, not included"
        if room == "plugins":
            if other == "sdk":
                return None
            family, common = path.split("/")[1], target.split("/")
            if common[:3] == ["plugins", family, "common"] or LENT.get(target) == os.path.dirname(path):
                return None
            if other == "plugins" and common[:3] == path.split("/")[:3]:
                return None
            return "a plugin sees sdk/include, its own directory, and plugins/%s/common" % family
        if room not in ROOMS:
            return "core/%s is not a room that this test knows; add it to the table with its floor" % room
        if other == room or other in ROOMS[room].rooms:
            return None
        if other is None or other not in ROOMS:
            return "%s is no room" % os.path.dirname(target)
        if other == "plugins":
            return "nothing but the loader reaches plugins, and at run time"
        if room == "sdk":
            return "the SDK stands on the ground: it includes only itself and libc"
        below = ROOMS[other].floor < ROOMS[room].floor
        return "%s (floor %d) may not see %s (floor %d)%s" % (
            room,
            ROOMS[room].floor,
            other,
            ROOMS[other].floor,
            ", though it stands below" if below else "",
        )

    def judge_foreign(self, path, name):
        """Why `path` may not include <name>, a header from outside the tree, or None."""
        room = room_of(path)
        if name.endswith(".h") and name[:-2] in STANDARD:
            return None
        if room == "plugins":
            return "a library of the host is none of a plugin's" if HOST_LIBRARIES.match(name) else None
        allowed = ROOMS[room].libraries if room in ROOMS else None
        if allowed and allowed.match(name):
            return None
        return "is no header of C, POSIX or Linux, nor a library that %s may use" % room

    def check_vendor_names(self, path, code):
        if not path.startswith(("core/", "text/", "sdk/")):
            return
        for m in VENDOR_NAMES.finditer(code):
            self.finding(
                path, code.count("\n", 0, m.start()) + 1, "%s is a vendor's name; that belongs in a plugin" % m.group(0)
            )

    def check_size(self, path, text, code):
        n = text.count("\n")
        if n > MAX_FILE_LINES and path not in LONG_FILES:
            self.finding(path, n, "%d lines; a file has at most %d and one subject" % (n, MAX_FILE_LINES))
        for name, begin, end in functions(code):
            lines = end - begin - 1
            self.long_functions += 60 < lines <= MAX_FUNCTION_LINES
            if lines > MAX_FUNCTION_LINES:
                what = "%s() has %d lines; at most %d are allowed, 60 are the rule"
                self.finding(path, begin + 1, what % (name, lines, MAX_FUNCTION_LINES))

    def check_marks(self, path, text, code):
        if "SPDX-License-Identifier: Apache-2.0" not in text[:200]:
            self.finding(path, 1, "the licence line is missing")
        for m in re.finditer(r"\b(TODO|FIXME|XXX|HACK)\b", text):
            self.finding(path, text.count("\n", 0, m.start()) + 1, "%s: finish it, or file it" % m.group(1))
        for m in re.finditer(r"\bassert\s*\(", code):
            condition = balanced(code, m.end() - 1)
            if re.search(r"\+\+|--|[^=!<>]=[^=]|<<=|>>=", condition):
                line = code.count("\n", 0, m.start()) + 1
                self.finding(path, line, "assert(%s) has a side effect; NDEBUG would drop it" % condition.strip())

    def check_twins(self):
        """Runs of TWIN_LINES equal lines of code. Tests and generated tables may repeat themselves."""
        seen = {}
        reported = set()
        for path, text in self.files.items():
            if room_of(path) is None or path.endswith("_tables.h"):
                continue
            lines = [
                (i + 1, re.sub(r"\s+", "", line)) for i, line in enumerate(blank_out(text, False).split("\n"))
            ]
            lines = [(i, s) for i, s in lines if s not in ("", "{", "}", "};") and not s.startswith("#include")]
            for k in range(len(lines) - TWIN_LINES + 1):
                key = "\n".join(s for _, s in lines[k : k + TWIN_LINES])
                other = seen.setdefault(key, (path, lines[k][0]))
                pair = (other[0], path)
                overlaps = other[0] == path and lines[k][0] - other[1] < TWIN_LINES
                if not overlaps and pair not in reported:
                    reported.add(pair)
                    self.finding(
                        path, lines[k][0], "%d lines of code stand in %s:%d, too" % (TWIN_LINES, other[0], other[1])
                    )

    def check(self):
        for path, text in self.files.items():
            code = blank_out(text, True)
            self.check_size(path, text, code)
            self.check_marks(path, text, code)
            self.check_vendor_names(path, code)
            self.check_includes(path, blank_out(text, False))
        self.check_twins()
        return self.findings


def balanced(code, at):
    """What stands between the parenthesis at `at` and its partner."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] == "(") - (code[i] == ")")
        if depth == 0:
            return code[at + 1 : i]
    return code[at + 1 :]


# -- Self-test ----------------------------------------------------------------------------------------------------

LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */\n"

GOOD = {
    "sdk/include/tenon/abi.h": "#include <stdint.h>\n",
    "core/include/tenon.h": '#include "tenon/abi.h"\n',
    "core/base/err.h": '#include "tenon/abi.h"\n',
    "core/base/json.c": "#include <jansson.h>\n#include <sodium/crypto_hash_sha256.h>\n",
    "core/conf/conf.h": '#include "base/err.h"\n',
    "core/conf/load.c": '#include <libconfig.h>\n#include "conf/conf.h"\n',
    "core/kv/pool.h": '#include "base/err.h"\n/* #include "api/x.h": a comment is no include */\n',
    "core/sched/sched.c": '#include "kv/pool.h"\n',
    "core/exec/bind.h": '#include "base/err.h"\n',
    "core/loop/loop.h": '#include "exec/bind.h"\n',
    "core/build/build.h": '#include "exec/bind.h"\n',
    "core/api/runtime.c": '#include "loop/loop.h"\n#include "build/build.h"\n#include "tenon.h"\n',
    "core/api/tools.h": '#include "tenon.h"\n',
    "text/include/tenon_text.h": '#include "tenon/abi.h"\n',
    "text/jinja/jinja.h": '#include "base/err.h"\n',
    "text/chat.c": '#include "jinja/jinja.h"\n#include <pcre2.h>\n#include "tenon_text.h"\n',
    "apps/opt.h": "#include <stdbool.h>\n",
    "apps/main.c": '#include "opt.h"\n#include "api/tools.h"\n#include "tenon_text.h"\n',
    "plugins/models/x/x.h": "",
    "plugins/models/x/x.c": '#include "x.h"\n#include "tenon/abi.h"\n#include "../common/y.h"\n',
    "plugins/models/common/y.h": "",
    "plugins/kernels/cuda/a.cu": "#include <cuda.h>\nint f(void)\n{\n    cudaFree(0);\n}\n",
    "examples/e.c": "#include <tenon.h>\n",
    "tests/base/test.c": '#include "base/err.h"\n',
}

LONG_FUNCTION = "int f(int a)\n{\n" + "".join("    a += %d;\n" % i for i in range(MAX_FUNCTION_LINES + 1)) + "}\n"
TWIN = "".join("int twin_%d = %d;\n" % (i, i) for i in range(TWIN_LINES))

# Each: the files that are added to the good tree, and a part of the one finding that must come of it.
BAD = [
    ({"core/base/x.c": '#include "kv/pool.h"\n'}, "base (floor 1) may not see kv (floor 2)"),
    ({"core/kv/x.c": '#include "conf/conf.h"\n'}, "kv (floor 2) may not see conf (floor 2)"),
    ({"core/sched/x.c": '#include "exec/bind.h"\n'}, "sched (floor 3) may not see exec (floor 3)"),
    ({"core/loop/x.c": '#include "../build/build.h"\n'}, "loop (floor 4) may not see build (floor 4)"),
    ({"core/loop/x.c": '#include "tenon.h"\n'}, "loop (floor 4) may not see tenon.h (floor 5)"),
    ({"core/attic/x.c": '#include "base/err.h"\n'}, "not a room that this test knows"),
    ({"text/x.c": '#include "kv/pool.h"\n'}, "text (floor 2) may not see kv (floor 2)"),
    ({"text/jinja/x.c": '#include "tenon_text.h"\n'}, "jinja (floor 2) may not see tenon_text.h"),
    ({"apps/x.c": '#include "loop/loop.h"\n'}, "may not see loop (floor 4), though it stands below"),
    ({"apps/x.c": '#include "jinja/jinja.h"\n'}, "may not see jinja"),
    ({"sdk/include/tenon/x.h": '#include "base/err.h"\n'}, "the SDK stands on the ground"),
    ({"plugins/models/z/z.c": '#include "base/err.h"\n'}, "a plugin sees sdk/include"),
    ({"plugins/models/z/z.c": '#include "../x/x.h"\n'}, "a plugin sees sdk/include"),
    ({"plugins/models/z/z.c": "#include <jansson.h>\n"}, "a library of the host"),
    ({"core/kv/x.c": '#include "plugins/models/x/x.h"\n'}, "nothing but the loader reaches plugins"),
    ({"core/exec/x.c": "#include <cuda.h>\n"}, "no header of C, POSIX or Linux"),
    ({"core/exec/x.c": "#include <nccl.h>\n"}, "no header of C, POSIX or Linux"),
    ({"core/base/x.c": "#  include <libconfig.h>\n"}, "no header of C, POSIX or Linux"),
    ({"core/sched/x.c": "#include <jansson.h>\n"}, "nor a library that sched may use"),
    ({"core/engine/x.c": "#include <dlfcn.h>\n"}, "nor a library that engine may use"),
    ({"core/base/x.c": '#include "base/gone.h"\n'}, "no such file"),
    ({"core/base/x.c": "#include HEADER\n"}, "what a macro says"),
    ({"core/base/y.c": "", "core/base/x.c": '#include "base/y.c"\n'}, "compiled, not included"),
    ({"examples/x.c": '#include "base/err.h"\n'}, "may not see base"),
    ({"core/exec/x.c": "void f(void)\n{\n    cudaMalloc(0, 1);\n}\n"}, "cudaMalloc is a vendor's name"),
    ({"core/base/x.c": "\n" * (MAX_FILE_LINES + 1)}, "802 lines"),
    ({"core/base/x.c": LONG_FUNCTION}, "f() has 101 lines"),
    ({"core/base/x.c": "/* TODO: more */\n"}, "TODO"),
    ({"tests/base/x.c": "/* FIXME */\n"}, "FIXME"),
    ({"core/base/x.c": "void f(int a)\n{\n    assert(g(a) && a++ < 3);\n}\n"}, "has a side effect"),
    ({"core/base/x.c": "void f(int a)\n{\n    assert((a = g()) == 3);\n}\n"}, "has a side effect"),
    ({"core/base/x.c": TWIN, "core/conf/y.c": TWIN}, "15 lines of code stand in core/base/x.c"),
]


def check_files(files, licence=True):
    with tempfile.TemporaryDirectory(prefix="tenon-walls-") as root:
        for path, text in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as f:
                f.write((LICENCE if licence else "") + text)
        return Tree(root).check()


def self_test():
    failed = 0
    found = check_files(GOOD)
    if found:
        failed += 1
        print("the good tree is not clean:\n  " + "\n  ".join(found))
    quiet = "void f(int a, int b)\n{\n    assert(a <= b && a == 3 && b != 4);\n    g(\"cudaMalloc\");\n}\n"
    if check_files({**GOOD, "core/base/x.c": quiet}):
        failed += 1
        print("a harmless assert or string is reported: %s" % check_files({**GOOD, "core/base/x.c": quiet}))
    if not any("licence" in f for f in check_files(GOOD, licence=False)):
        failed += 1
        print("a missing licence line is not found")
    for files, expected in BAD:
        found = check_files({**GOOD, **files})
        if len(found) != 1 or expected not in found[0]:
            failed += 1
            print("%s: expected one finding with %r, got %s" % (", ".join(files), expected, found))
    total = len(BAD) + 3
    print("walls self-test: %d of %d cases hold" % (total - failed, total))
    return 1 if failed else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    tree = Tree(root)
    if not tree.files:
        print("walls: there are no sources under %s" % root)
        return 1
    findings = tree.check()
    for f in findings:
        print(f)
    counts = (len(tree.files), len(findings), tree.long_functions)
    print("walls: %d files, %d findings; %d functions have 61 to 100 lines" % counts)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
