# SPDX-License-Identifier: Apache-2.0
"""Decoding of several engines side by side on a machine whose speed changes from minute to minute.

All run at once, but only one at any time: the others are stopped (SIGSTOP), and turns are short, so that a change of the machine's speed meets all alike.
A turn of each in a row is a round, and within it speeds are compared. Tokens are counted by what the process hands out in its turn.
"""
import os
import select
import signal
import subprocess
import time


class Runner:
    """One `tenon run` that generates without end."""

    def __init__(self, command, prompt_len, max_tokens):
        ids = ",".join(str(3 + i % 1000) for i in range(prompt_len))
        args = ["--prompt-ids", ids, "--max-tokens", max_tokens, "--ignore-eos", "--stream", "--json"]
        self.process = subprocess.Popen([str(c) for c in command + args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.fd = self.process.stdout.fileno()
        os.set_blocking(self.fd, False)

    def wait_for_tokens(self, n):
        """Until n tokens have come."""
        while n > 0:
            select.select([self.fd], [], [])
            n -= self.read()

    def read(self):
        """How many tokens came since: with --stream --json each has a line."""
        try:
            text = os.read(self.fd, 1 << 20)
        except BlockingIOError:
            return 0
        if not text:
            raise SystemExit("%s ended: more --max-tokens are needed" % " ".join(map(str, self.process.args[:4])))
        return text.count(b"\n")

    def turn(self, seconds):
        """Tokens per second: counted from token to token, so that what a stop cuts in two does not matter."""
        self.process.send_signal(signal.SIGCONT)
        self.wait_for_tokens(2)  # what was left of the turn before, and the one that its end cut in two
        begin, n, now = time.monotonic(), 0, 0
        while now < begin + seconds:
            select.select([self.fd], [], [], 1)
            got = self.read()
            if got:
                n, now = n + got, time.monotonic()
        self.process.send_signal(signal.SIGSTOP)
        return n / (now - begin)

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


def in_turns(commands, rounds, seconds, prompt_len=128, max_tokens=1500):
    """A list of rounds, each with the tokens per second of every command."""
    runners = []
    try:
        for command in commands:
            runners.append(Runner(command, prompt_len, max_tokens))
            runners[-1].wait_for_tokens(4)
            runners[-1].process.send_signal(signal.SIGSTOP)
        return [[r.turn(seconds) for r in runners] for _ in range(rounds)]
    finally:
        for r in runners:
            r.stop()
