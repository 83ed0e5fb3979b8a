#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs of several real processes of which one dies, hangs, is slow, is late, or does not belong: somebody says which rank and in
what call, requests end with an error, every process ends with the exit status of the documentation, and nobody hangs.

    processes.py tcp|mpi TENON

With tcp, processes are started by hand (--nnodes); with mpi by mpirun, and exit status 77 (CTest: skipped) says that there is
none. Each test has an address of its own in 127.0.0.0/8, so that tests may run beside each other. Only the standard
library of Python is used.
"""

import ctypes
import hashlib
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TENON = ""
STEP_MS = 2000  # deadline of a step
# Within deadline + 5 s says the documentation; a machine that does a dozen things at once gets more.
PATIENCE_S = 60
MODEL = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 150000,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "initializer_range": 0.02, "bos_token_id": 1,
    "eos_token_id": 2, "dtype": "float32",
}
COMM, REFUSED, USAGE = 4, 3, 2  # exit statuses


def environment():
    e = dict(os.environ)
    e.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1")
    e.update(OMPI_MCA_btl_vader_single_copy_mechanism="none")  # containers forbid it
    return e


LIBC = ctypes.CDLL(None, use_errno=True)


def evict(path):
    """Out of the system's memory, so that what is there later was read since."""
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def resident(path):
    """Bytes of the file that are in memory."""
    n, page = os.path.getsize(path), mmap.PAGESIZE
    state = (ctypes.c_ubyte * ((n + page - 1) // page))()
    with open(path, "rb") as f, mmap.mmap(f.fileno(), n, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as m:
        start = ctypes.c_char.from_buffer(m)
        code = LIBC.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(n), state)
        del start
    if code != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(s & 1 for s in state) * page


class Process:
    """One process whose output is kept."""

    def __init__(self, directory, name, args):
        self.name = name
        self.out, self.err = (os.path.join(directory, "%s.%s" % (name, s)) for s in ("out", "err"))
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.p = subprocess.Popen(args, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=environment())

    def text(self, path):
        with open(path, errors="replace") as f:
            return f.read()

    def said(self):
        return self.text(self.err)

    def ended(self):
        return self.p.poll() is not None

    def wait(self):
        try:
            return self.p.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s hangs:\n%s" % (self.name, self.said())) from None

    def stop(self):
        if not self.ended():
            self.p.kill()
        self.p.wait()


class Base(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="tenon-ranks-")
        self.processes = []
        self.engine = self.build("engine", MODEL)

    def tearDown(self):
        for p in self.processes:
            p.stop()
        shutil.rmtree(self.dir)

    def build(self, name, config):
        model, engine = os.path.join(self.dir, name + "-model"), os.path.join(self.dir, name)
        os.mkdir(model)
        with open(os.path.join(model, "config.json"), "w") as f:
            json.dump(config, f)
        command = [TENON, "build", "--model", model, "--output", engine, "--load-format", "dummy", "--quiet"]
        command += ["--dtype", "float32", "--max-batch-size", "1", "--max-num-tokens", "16"]
        subprocess.run(command, check=True, capture_output=True)
        return engine

    def start(self, name, args):
        p = Process(self.dir, name, args)
        self.processes.append(p)
        return p

    def long_run(self, engine=None):
        """A command that goes on for minutes, a line per token."""
        return [
            "run", "--engine", engine or self.engine, "--prompt-ids", "5,6,7", "--max-tokens", "140000",
            "--ignore-eos", "--stream", "--json", "--threads", "1", "--log-level", "info",
            "--set", "parallel.step_timeout_ms=%d" % STEP_MS,
        ]

    def await_that(self, what, condition):
        until = time.monotonic() + PATIENCE_S
        while not condition():
            self.assertLess(time.monotonic(), until, what + "".join("\n%s:\n%s" % (p.name, p.said()) for p in self.processes))
            time.sleep(0.01)

    def await_tokens(self, leader):
        self.await_that("no tokens came", lambda: leader.ended() or leader.text(leader.out).count("\n") > 3)
        self.assertFalse(leader.ended(), leader.said())

    def assert_ends(self, process, code, *words):
        self.assertEqual(process.wait(), code, process.said())
        for w in words:
            self.assertIn(w, process.said())


class ByHand(Base):
    """Two processes over tcp."""

    def setUp(self):
        super().setUp()
        n = (os.getpid() * 131 + int(time.monotonic() * 1e6)) % (250 * 250 * 250)
        self.host = "127.%d.%d.%d" % (2 + n // 62500 % 250, 2 + n // 250 % 250, 2 + n % 250)
        with socket.socket() as s:
            s.bind((self.host, 0))
            self.port = s.getsockname()[1]
        self.key = self.write_key("key", "sixteen bytes are the least")

    def write_key(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text + "\n")
        return path

    def node(self, rank, args=(), command=None, sizes=("--tp-size", "2"), key=None, nodes=2):
        line = [TENON] + (command or self.long_run()) + list(sizes)
        line += ["--nnodes", str(nodes), "--node-rank", str(rank), "--key-file", key or self.key]
        line += ["--dist-init-addr", "%s:%d" % (self.host, self.port)] + list(args)
        return self.start("node%d" % rank, line)

    def pair(self, *args, **more):
        leader, follower = self.node(0, args, **more), self.node(1, args, **more)
        self.await_tokens(leader)
        return leader, follower

    def listening(self):
        with socket.socket() as s:
            return s.connect_ex((self.host, self.port)) == 0

    # -- Ranks that fail in the middle

    def test_a_follower_that_is_killed(self):
        leader, follower = self.pair()
        follower.p.send_signal(signal.SIGKILL)
        self.assert_ends(leader, COMM, "rank 1", "is gone")

    def test_a_leader_that_is_killed(self):
        leader, follower = self.pair()
        leader.p.send_signal(signal.SIGKILL)
        self.assert_ends(follower, COMM, "rank 0", "is gone")

    def test_a_follower_that_is_stopped(self):
        leader, follower = self.pair()
        follower.p.send_signal(signal.SIGSTOP)
        self.assert_ends(leader, COMM, "rank 1", "all_")
        follower.p.send_signal(signal.SIGCONT)  # finds everybody gone
        self.assert_ends(follower, COMM)

    def test_a_leader_that_is_stopped(self):
        for sizes in (["--tp-size", "2"], ["--pp-size", "2"]):
            with self.subTest(sizes=sizes):
                leader, follower = self.pair(sizes=sizes)
                leader.p.send_signal(signal.SIGSTOP)
                self.assert_ends(follower, COMM, "rank 0")
                leader.p.send_signal(signal.SIGCONT)
                self.assert_ends(leader, COMM)

    def test_a_stage_that_is_stopped(self):
        leader, follower = self.pair(sizes=["--pp-size", "2"])
        follower.p.send_signal(signal.SIGSTOP)
        self.assert_ends(leader, COMM, "rank 1", "recv")

    def test_a_rank_that_is_a_hundred_times_slower(self):
        faults = ["fault=delay", "fault_rank=3", "fault_call=all_reduce", "fault_at=40", "fault_ms=%d" % (100 * STEP_MS)]
        args = [a for f in faults for a in ("--set", "plugin.local." + f)]
        leader, follower = self.node(0, args, sizes=["--tp-size", "2", "--pp-size", "2"]), None
        follower = self.node(1, args, sizes=["--tp-size", "2", "--pp-size", "2"])
        self.assert_ends(leader, COMM, "rank 3", "all_reduce")
        self.assert_ends(follower, COMM, "rank 3", "all_reduce")

    # -- What each host reads

    def test_each_host_reads_what_its_ranks_need(self):
        model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "models", "docs-7m")
        whole = os.path.join(self.dir, "whole")
        subprocess.run([TENON, "build", "--model", model, "--output", whole, "--dtype", "float32", "--quiet"], check=True, capture_output=True)
        size = os.path.getsize(os.path.join(whole, "model.engine"))
        # Six layers are 68% of the file, the embedding 32%, which the last stage needs too, for logits. Rows of a few hundred bytes cannot be
        # told apart from their neighbours in a page: of a real model less is read twice.
        for sizes, shares in ((["--pp-size", "3"], [0.58, 0.26, 0.58]), (["--tp-size", "4"], [0.46] * 4)):
            with self.subTest(sizes=sizes):
                engines = [shutil.copytree(whole, os.path.join(self.dir, "host%d%s" % (i, sizes[0]))) for i in range(len(shares))]
                files = [os.path.join(e, "model.engine") for e in engines]
                for f in files:
                    evict(f)
                    if resident(f) > 0:
                        self.skipTest("files of %s stay in memory" % self.dir)
                runs = []
                for i, e in enumerate(engines):
                    command = ["run", "--engine", e, "--prompt-ids", "5,6,7", "--max-tokens", "3", "--threads", "1"]
                    runs.append(self.node(i, command=command, sizes=sizes, nodes=len(shares)))
                for r in runs:
                    self.assert_ends(r, 0)
                read = [resident(f) / size for f in files]
                for have, most in zip(read, shares):
                    self.assertLessEqual(have, most, read)
                    self.assertGreater(have, most / 2, read)

    # -- Processes that do not fit

    def test_one_that_never_comes(self):
        leader = self.node(0, ["--set", "parallel.join_timeout_ms=1000"])
        self.assert_ends(leader, COMM, "process 1 of 2 has not come")

    def test_a_leader_that_never_comes(self):
        follower = self.node(1, ["--set", "parallel.join_timeout_ms=1000"])
        self.assert_ends(follower, COMM, "process 0, the leader, does not answer at " + self.host)

    def test_one_that_comes_late(self):
        leader = self.node(0)
        self.await_that("nobody listens", lambda: leader.ended() or self.listening())
        self.assertFalse(leader.ended(), leader.said())
        self.node(1)
        self.await_tokens(leader)

    def test_another_number_of_nodes(self):
        leader, follower = self.node(0), self.node(1, nodes=4, sizes=["--tp-size", "4"])
        self.assert_ends(leader, USAGE, "process 1", "parallel.nnodes")
        self.assert_ends(follower, USAGE, "process 1", "parallel.nnodes")

    def test_another_world(self):
        leader, follower = self.node(0), self.node(1, sizes=["--pp-size", "2"])
        self.assert_ends(leader, USAGE, "process 1", "parallel.tp_size")
        self.assert_ends(follower, USAGE, "process 1", "parallel.tp_size")

    def test_another_engine(self):
        other = self.build("other", dict(MODEL, initializer_range=0.03))
        leader, follower = self.node(0), self.node(1, command=self.long_run(other))
        self.assert_ends(leader, REFUSED, "process 1", "another engine")
        self.assert_ends(follower, REFUSED, "process 1", "another engine")

    def test_another_key(self):
        leader = self.node(0, ["--set", "parallel.join_timeout_ms=4000"])
        follower = self.node(1, key=self.write_key("wrong", "sixteen other bytes, or more"))
        self.assert_ends(follower, REFUSED, "does not know the key")
        self.assert_ends(leader, COMM, "process 1 of 2 has not come", "does not know the key")

    # -- Peers made by hand: what another version would say

    def greet(self, version):
        """Sends a greeting, and returns the connection and both numbers, the listener's first."""
        c = socket.create_connection((self.host, self.port), PATIENCE_S)
        mine = os.urandom(16)
        c.sendall(struct.pack("<IHH16s", 0x31464E54, version, 0, mine))
        theirs = c.recv(24, socket.MSG_WAITALL)
        self.assertEqual(struct.unpack("<IHH", theirs[:8]), (0x31464E54, 1, 0))
        return c, theirs[8:] + mine

    def test_a_peer_of_another_protocol(self):
        leader = self.node(0, ["--set", "parallel.join_timeout_ms=4000"])
        self.await_that("nobody listens", lambda: leader.ended() or self.listening())
        c, _ = self.greet(version=77)
        self.assertEqual(c.recv(1), b"")  # turned away
        c.close()
        self.assert_ends(leader, COMM, "process 1 of 2 has not come", "speaks version 77")

    def test_a_leader_of_another_protocol(self):
        with socket.create_server((self.host, self.port)) as s:
            follower = self.node(1)
            c, _ = s.accept()
            with c:
                c.sendall(struct.pack("<IHH16s", 0x31464E54, 77, 0, bytes(16)))
                self.assert_ends(follower, REFUSED, self.host, "speaks version 77")

    def test_a_peer_of_another_release(self):
        def keyed(key, data):
            return hashlib.blake2b(data, key=key, digest_size=32).digest()

        leader = self.node(0)
        self.await_that("nobody listens", lambda: leader.ended() or self.listening())
        c, both = self.greet(version=1)
        key = hashlib.blake2b(b"sixteen bytes are the least", digest_size=32).digest()
        c.sendall(keyed(key, b"client\0" + both))
        self.assertEqual(c.recv(32, socket.MSG_WAITALL), keyed(key, b"server\0" + both))
        hello = struct.pack("<14I32s32s", 2, 1, 2, 2, *[0] * 10, bytes(32), b"77.1.2")
        head = struct.pack("<IHHQQ", 0x31464E54, 1, 1, 0, len(hello))
        c.sendall(head + hello + keyed(keyed(key, b"from client\0" + both), head + hello))
        self.assert_ends(leader, REFUSED, "process 1", "77.1.2")
        c.close()


class Launched(Base):
    """Two processes under mpirun. It ends all when one dies, with the status of that one."""

    def launch(self, args=(), commands=None, sizes=("--tp-size", "2")):
        line = ["mpirun"]
        self.pids = [os.path.join(self.dir, "pid%d" % i) for i in range(2)]
        for i, pid in enumerate(self.pids):
            command = (commands[i] if commands else self.long_run()) + list(sizes) + list(args)
            line += [":"] if i else []
            line += ["-n", "1", "sh", "-c", 'echo $$ >"%s.tmp"; mv "%s.tmp" "%s"; exec "$@"' % (pid, pid, pid), "sh"]
            line += [TENON] + command
        return self.start("mpirun", line)

    def signal(self, rank, number):
        with open(self.pids[rank]) as f:
            os.kill(int(f.read()), number)

    def tearDown(self):
        for path in getattr(self, "pids", []):  # one that is stopped does not hear of mpirun's end
            if os.path.exists(path):
                try:
                    with open(path) as f:
                        os.kill(int(f.read()), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        super().tearDown()

    def test_a_rank_that_is_killed(self):
        for rank in range(2):
            with self.subTest(rank=rank):
                run = self.launch()
                self.await_tokens(run)
                self.signal(rank, signal.SIGKILL)
                self.assertNotEqual(run.wait(), 0)
                self.assertRegex(run.said(), "rank %d" % rank)

    def test_a_follower_that_is_stopped(self):
        for sizes in (["--tp-size", "2"], ["--pp-size", "2"]):
            with self.subTest(sizes=sizes):
                run = self.launch(sizes=sizes)
                self.await_tokens(run)
                self.signal(1, signal.SIGSTOP)
                self.await_that("nobody is named", lambda: run.ended() or "rank 1" in run.said())
                self.signal(1, signal.SIGCONT)
                self.assert_ends(run, COMM, "rank 1", "tenon: ")

    def test_a_rank_that_is_a_hundred_times_slower(self):
        faults = ["fault=delay", "fault_rank=3", "fault_call=all_reduce", "fault_at=40", "fault_ms=%d" % (100 * STEP_MS)]
        run = self.launch([a for f in faults for a in ("--set", "plugin.local." + f)], sizes=["--tp-size", "2", "--pp-size", "2"])
        self.assert_ends(run, COMM, "rank 3", "all_reduce", "tenon: ")

    def test_another_engine(self):
        other = self.build("other", dict(MODEL, initializer_range=0.03))
        run = self.launch(commands=[self.long_run(), self.long_run(other)])
        self.assert_ends(run, REFUSED, "process 1", "another engine")

    def test_another_world(self):
        run = self.launch(commands=[self.long_run(), self.long_run() + ["--set", "scheduler.max_seq_len=1000"]])
        self.assert_ends(run, USAGE, "process 1", "scheduler.max_seq_len")


def main():
    global TENON
    kind, TENON = sys.argv[1], sys.argv[2]
    if kind == "mpi":
        if not shutil.which("mpirun"):
            print("skipped: there is no mpirun")
            return 77
        listed = subprocess.run([TENON, "plugin", "list"], capture_output=True, text=True).stdout
        if not any(line.split()[:2] == ["loaded", "mpi"] for line in listed.splitlines()):
            print("skipped: the plugin mpi was not built or not loaded\n" + listed)
            return 77
    case = {"tcp": ByHand, "mpi": Launched}[kind]
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(case)
    if len(sys.argv) > 3:
        suite = unittest.TestSuite(case(name) for name in sys.argv[3:])
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
