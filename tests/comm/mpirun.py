#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs of several processes under a real mpirun, on this host: the same logits as the goldens, the same tokens as one rank.

    mpirun.py TENON SOURCE_DIR GOLDENS

GOLDENS is the program of test_mpi.c. Exit status 77 (CTest: skipped) where there is no mpirun or no plugin mpi. Only the standard library of Python is used.
"""

import array
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

TENON = ""
SOURCE = ""
GOLDENS = ""
TOLERANCE = 2e-3
# Processes, sizes, parts of a step, and who joins ranks: with "auto" two ranks of each process are joined by local.
GOLDEN_LAYOUTS = [(2, 2, 1, 0, "mpi"), (4, 4, 1, 0, "mpi"), (2, 1, 2, 0, "mpi"), (3, 1, 3, 5, "mpi"), (4, 2, 2, 4, "mpi"), (2, 2, 2, 0, "auto")]
# Processes and what each is told.
LAYOUTS = [
    (2, ["--tp-size", "2"]),
    (4, ["--tp-size", "4"]),
    (2, ["--pp-size", "2"]),
    (4, ["--tp-size", "2", "--pp-size", "2", "--set", "parallel.micro_batches=4"]),
    (3, ["--pp-size", "3"]),
    (2, ["--tp-size", "2", "--pp-size", "2", "--comm", "auto"]),  # two ranks in each process
]


def read_tensor(path, name):
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        entry = json.loads(f.read(n))[name]
        begin, end = entry["data_offsets"]
        f.seek(8 + n + begin)
        data = array.array({"F32": "f", "I32": "i"}[entry["dtype"]])
        data.frombytes(f.read(end - begin))
    return data


def environment():
    e = dict(os.environ)
    # CI runs as root, on machines with fewer cores than ranks.
    e.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1")
    e.update(OMPI_MCA_btl_vader_single_copy_mechanism="none")  # containers forbid it
    return e


class Mpi(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tenon-mpi-")

    def tearDown(self):
        shutil.rmtree(self.dir)

    def run_tenon(self, processes, args, code=0):
        launch = ["mpirun", "-n", str(processes)] if processes > 1 else []
        p = subprocess.run(launch + [TENON] + args, env=environment(), capture_output=True, text=True, timeout=100)
        self.assertEqual(p.returncode, code, "%s\n%s\n%s" % (launch + args, p.stdout, p.stderr))
        return p

    def build(self, model):
        engine = os.path.join(self.dir, model)
        source = os.path.join(SOURCE, "tests", "models", model)
        self.run_tenon(1, ["build", "--model", source, "--output", engine, "--dtype", "float32", "--quiet"])
        return engine, os.path.join(source, "golden.safetensors")

    def test_every_golden_holds_and_quantized_engines_agree(self):
        for processes, tp, pp, parts, comm in GOLDEN_LAYOUTS:
            with self.subTest(processes=processes, tp=tp, pp=pp, comm=comm):
                command = ["mpirun", "-n", str(processes), GOLDENS, self.dir] + [str(v) for v in (tp, pp, parts, comm)]
                p = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
                self.assertEqual(p.returncode, 0, "%s\n%s\n%s" % (command, p.stdout, p.stderr))
                self.assertEqual(p.stdout.count("100%: Checks: 2"), processes, p.stdout)

    def test_logits_are_those_of_the_goldens(self):
        engine, golden = self.build("llama-gqa")
        want = read_tensor(golden, "logits")
        for processes, layout in LAYOUTS[3:]:
            with self.subTest(processes=processes, layout=layout):
                out = os.path.join(self.dir, "out.safetensors")
                self.run_tenon(processes, ["eval", "logits", "--engine", engine, "--ids", golden, "--out", out] + layout)
                got = read_tensor(out, "logits")
                self.assertEqual(len(got), len(want))
                self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want)), TOLERANCE)

    def test_tokens_are_those_of_one_rank(self):
        engine, golden = self.build("llama-gqa")
        prompt = ",".join(str(i) for i in read_tensor(golden, "greedy_ids")[:12])
        args = ["run", "--engine", engine, "--prompt-ids", prompt, "--max-tokens", "40", "--ignore-eos"]
        one = self.run_tenon(1, args).stdout
        self.assertTrue(one.strip())
        for processes, layout in LAYOUTS:
            with self.subTest(processes=processes, layout=layout):
                self.assertEqual(self.run_tenon(processes, args + layout).stdout, one)

    def test_two_hosts_of_two_ranks(self):
        engine, golden = self.build("llama-gqa")
        for layout in [["--tp-size", "2", "--pp-size", "2"], ["--tp-size", "4"]]:
            command = [os.path.join(SOURCE, "scripts", "netns.sh"), TENON, engine, golden] + layout
            p = subprocess.run(command, capture_output=True, text=True, timeout=250)
            if p.returncode == 77:
                self.skipTest(p.stdout.strip())
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def test_a_start_that_waits_for_others_says_so(self):
        engine, golden = self.build("llama-gqa")
        seen = os.path.join(self.dir, "seen")
        first = [TENON, "eval", "logits", "--engine", engine, "--ids", golden, "--out", os.path.join(self.dir, "out"), "--tp-size", "2"]
        other = ["sh", "-c", "until [ -e %s ]; do sleep 0.2; done" % seen]  # never begins with MPI
        p = subprocess.Popen(["mpirun", "-n", "1"] + first + [":", "-n", "1"] + other, env=environment(), stderr=subprocess.PIPE, text=True)
        guard = threading.Timer(100, p.terminate)  # mpirun ends its processes
        guard.start()
        said = []
        for line in p.stderr:
            said.append(line)
            if "MPI_Init_thread has not returned for 10 s: not all processes have come to it" in line:
                open(seen, "w").close()
        guard.cancel()
        p.wait()
        p.stderr.close()
        self.assertTrue(os.path.exists(seen), "".join(said))
        self.assertNotEqual(p.returncode, 0)

    def test_processes_that_do_not_find_each_other_are_told(self):
        engine, _ = self.build("llama-gqa")
        args = [TENON, "run", "--engine", engine, "--prompt-ids", "1,2,3", "--max-tokens", "4", "--ignore-eos"]
        for told, said in (("auto", True), ("local", False)):
            # As where srun has another PMI than this MPI: each process is a world of its own.
            p = subprocess.run(args + ["--comm", told], env=dict(environment(), PMI_SIZE="4"), capture_output=True, text=True, timeout=100)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.assertEqual("a launcher started 4 processes (PMI_SIZE)" in p.stderr, said, p.stderr)

    def test_a_world_of_the_wrong_size_is_refused(self):
        engine, golden = self.build("llama-gqa")
        args = ["eval", "logits", "--engine", engine, "--ids", golden, "--out", os.path.join(self.dir, "out")]
        p = self.run_tenon(3, args + ["--tp-size", "4"], code=2)
        self.assertIn("cannot be shared out among 3 processes", p.stderr)


def main():
    global TENON, SOURCE, GOLDENS
    TENON, SOURCE, GOLDENS = sys.argv[1:4]
    if not shutil.which("mpirun"):
        print("skipped: there is no mpirun")
        return 77
    listed = subprocess.run([TENON, "plugin", "list"], capture_output=True, text=True).stdout
    if not any(line.split()[:2] == ["loaded", "mpi"] for line in listed.splitlines()):
        print("skipped: the plugin mpi was not built or not loaded\n" + listed)
        return 77
    unittest.main(argv=sys.argv[:1], verbosity=2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
