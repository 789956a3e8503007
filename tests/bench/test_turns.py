"""Sides in processes of their own: one at a time runs, and one that fails is an answer."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from bench import turns, worker
from bench.cases import Case

CASE = Case("none", 0, "", Path(), Path("/nowhere"))
# Says that it is there, then answers every line; `log` has the beginning and the end of every turn.
PLAYER = """
import sys, time
print('{"equal": true, "error": ""}', flush=True)
for _ in sys.stdin:
    with open("LOG", "a") as f:
        f.write("SIDE+")
    time.sleep(0.005)
    with open("LOG", "a") as f:
        f.write("SIDE-")
    print('{"seconds": [0.25, 0.75]}', flush=True)
"""


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def script(monkeypatch: pytest.MonkeyPatch, text: str, log: Path) -> None:
    monkeypatch.setattr(worker, "command", lambda job: [
        sys.executable, "-c", text.replace("LOG", str(log)).replace("SIDE", job["side"][0])])


def test_sides_take_turns_and_nothing_else_of_them_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    script(monkeypatch, PLAYER, log)
    said = turns.pair(CASE, ["ours", "peer"], 1, 4, 100.0, {})
    assert said["ours"] == said["peer"] == {"equal": True, "error": "", "median": 0.5, "q1": 0.25, "q3": 0.75, "calls": 8}
    assert log.read_text() == "o+o-p+p-p+p-o+o-" * 2


def test_a_side_is_stopped_but_for_its_turns_and_ends_with_its_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, PLAYER, tmp_path / "log")
    with turns.Player(CASE, "ours", 1, {}) as player:
        for _ in range(2):
            os.waitid(os.P_PID, player.process.pid, os.WSTOPPED | os.WNOWAIT)
            assert state(player.process.pid) == "T"
            assert player.turn() == [0.25, 0.75]
    assert player.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("text, reason", [
    ("print('{\"error\": \"no such layer\"}', flush=True)", "no such layer"),
    ("import sys; sys.exit('nothing to see')", "ended with 1: nothing to see"),
    ("import os; print('{\"equal\": true, \"error\": \"\"}', flush=True); input(); os._exit(3)", "ended with 3"),
])
def test_a_side_that_fails_is_an_answer(text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, text, tmp_path)
    said = turns.pair(CASE, ["peer"], 1, 3, 1.0, {})
    assert said["side"] == "peer" and reason in said["error"]
