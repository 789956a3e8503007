"""Points between passes: which graph `PASS`, `PASS:2` and `capture` mean, and what lies between two of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphopt.cli.models import UsageError
from graphopt.cli.options import CAPTURE

if TYPE_CHECKING:
    from graphopt.ir import Graph


def position(names: Sequence[str], point: str, option: str) -> int:
    """After how many of the passes `names` the graph of a point is: 0 for the capture, for a pass its last run, for PASS:2
    its second. Raises UsageError, with the nearest name."""
    name, _, run = point.partition(":")
    if point == CAPTURE:
        return 0
    places = [i + 1 for i, n in enumerate(names) if n == name]
    if not places:
        near = difflib.get_close_matches(name, [CAPTURE, *names], 1, 0.4)
        raise UsageError(f"{option} {point}: there is no such pass. {f'Did you mean {near[0]!r}? ' if near else ''}"
                         f"In order: {', '.join(dict.fromkeys([CAPTURE, *names]))}")
    if not run:
        return places[-1]
    if not run.isdigit() or not 1 <= int(run) <= len(places):
        raise UsageError(f"{option} {point}: that pass runs {len(places)} time(s)")
    return places[int(run) - 1]


def spans(names: Sequence[str], diff: str, kept: int) -> list[tuple[int, int]]:
    """Which graphs `--diff` compares, as positions: `A..B` one pair, `PASS` one around each of its runs. `kept` passes run."""
    if ".." in diff:
        first, _, last = diff.partition("..")
        found = [(position(names, first or CAPTURE, "--diff"), position(names, last, "--diff") if last else kept)]
        if found[0][0] >= found[0][1]:
            raise UsageError(f"--diff {diff}: {first or CAPTURE} does not come before {last or 'the end'}")
    elif diff == CAPTURE:
        raise UsageError(f"--diff {diff}: the capture changes nothing; {CAPTURE}..PASS compares with it")
    else:
        at = position(names, diff, "--diff")
        name = diff.partition(":")[0]
        found = [(at - 1, at)] if ":" in diff else [(i, i + 1) for i, n in enumerate(names) if n == name]
        found = [f for f in found if f[1] <= kept] or found
    if found[0][1] > kept:
        raise UsageError(f"--diff {diff}: that comes later than --after")
    return found


class Snapshots:
    """Hooks for `optimise` that keep the texts of the graph at some positions, with names that stay."""

    def __init__(self, names: Sequence[str], wanted: Sequence[tuple[int, int]]) -> None:
        from graphopt.ir.text import ConstantNames, StableNames

        self.names, self.spans = list(names), list(wanted)
        self.texts: dict[int, str] = {}
        self._constants, self._values, self._runs = ConstantNames(), StableNames(), 0

    def before(self, name: str, graph: Graph) -> None:
        if self._runs == 0:
            self._keep(graph)

    def after(self, name: str, graph: Graph) -> None:
        self._runs += 1
        self._keep(graph)

    def _keep(self, graph: Graph) -> None:
        from graphopt.ir import print_graph

        if any(self._runs in span for span in self.spans):
            self.texts[self._runs] = print_graph(graph, self._constants, self._values)

    def diff(self, what: str) -> str:
        """Unified diffs of the pairs, those that differ."""
        found: list[str] = []
        for a, b in self.spans:
            texts = self.texts[a].splitlines(True), self.texts[b].splitlines(True)
            if b - a == 1 and ".." not in what:
                found += difflib.unified_diff(*texts, f"before {self._label(b)}", f"after {self._label(b)}")
            else:
                found += difflib.unified_diff(*texts, f"after {self._label(a)}", f"after {self._label(b)}")
        return "".join(found) or f"{what} changed nothing\n"

    def _label(self, at: int) -> str:
        if at == 0:
            return CAPTURE
        name = self.names[at - 1]
        return f"{name} (run {self.names[:at].count(name)})"


__all__ = ["Snapshots", "position", "spans"]
