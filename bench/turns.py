"""Sides that take turns, each in a process of its own that is stopped while another's turn lasts.

Most runtimes' threads go on looking for work for a while after a call. In one process, or on the same cores, they would take
time from the side whose turn it is.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from bench import worker
from bench.cases import Case
from bench.machine import ROOT
from bench.measure import interleave


class SideError(Exception):
    """A side gave nothing, and why."""

    def __init__(self, side: str, reason: str) -> None:
        super().__init__(reason)
        self.side = side


def pair(case: Case, sides: Sequence[str], threads: int, rounds: int, seconds: float, env: Mapping[str, str]) -> dict[str, Any]:
    """The named sides beside each other: times, and whether each is right; or {"error": the reason, "side": whose}."""
    with ExitStack() as open_ones:
        try:
            players, result = [], {}
            for name in sides:
                players.append(open_ones.enter_context(Player(case, name, threads, env)))
                result[name] = players[-1].opened
            for name, times in zip(sides, interleave([p.turn for p in players], rounds, seconds)):
                result[name] |= asdict(times)
        except SideError as e:
            return {"error": str(e), "side": e.side}
    return result


class Player:
    """One side's process, stopped but for its turns."""

    def __init__(self, case: Case, side: str, threads: int, env: Mapping[str, str]) -> None:
        self.side, self.ahead = side, b""
        self.errors = tempfile.TemporaryFile()
        job = {"kind": "side", "case": case.to_json(), "side": side, "threads": threads}
        self.process = subprocess.Popen(worker.command(job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
                                        cwd=ROOT, env={**os.environ, **env})
        try:
            self.opened = self.answer()
        except BaseException:
            self.__exit__()
            raise

    def turn(self) -> list[float]:
        """Seconds of the calls of a turn."""
        self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"turn\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its answer says how it ended
        seconds: list[float] = self.answer()["seconds"]
        return seconds

    def answer(self) -> dict[str, Any]:
        """The next line that it says; it is stopped then. SideError where it says that it failed, ends, or says nothing."""
        assert self.process.stdout is not None
        fd, end = self.process.stdout.fileno(), time.monotonic() + worker.TIMEOUT
        while b"\n" not in self.ahead:
            ready, _, _ = select.select([fd], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise SideError(self.side, f"more than {worker.TIMEOUT} s")
            more = os.read(fd, 1 << 16)
            if not more:
                status = self.process.wait()
                self.errors.seek(0)
                raise SideError(self.side, worker.ended(status, self.errors.read().decode(errors="replace")))
            self.ahead += more
        line, _, self.ahead = self.ahead.partition(b"\n")
        self.process.send_signal(signal.SIGSTOP)
        said: dict[str, Any] = json.loads(line)
        if "equal" not in said and "error" in said:
            raise SideError(self.side, said["error"])
        return said

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                pipe.close()
