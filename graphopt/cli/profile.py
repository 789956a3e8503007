"""`graphopt-dump --profile`: the time of every kernel, and how near it is to what the machine can do."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graphopt.measure.peaks import LEVELS, Peaks
from graphopt.measure.profiling import Profile, Row

LEAST = 16  # characters of a column of text on a narrow terminal; below that the last one is left out


@dataclass(frozen=True)
class Column:
    """A column of the table; numbers stand right, `text` may be cut."""

    title: str
    of: Callable[[Row], str]
    text: bool = False


def table(p: Profile, peaks: Peaks | None, sort: str, width: int | None) -> str:
    """The kernels by time or in order of the call, their sum beside the whole call, and sums by kind,
    by what made the kernels, and by module.

    `peaks` is None where they are not known: no percentages then. No line is longer than `width`.
    """
    rows = sorted(p.rows, key=lambda r: -r.seconds) if sort == "time" else p.rows
    total = p.total or 1.0
    columns = [Column("share", lambda r: f"{100 * r.seconds / total:.1f} %"), Column("us", lambda r: _digits(1e6 * r.seconds)),
               Column("GFLOP/s", lambda r: _rate(r.operations, r.seconds)),
               Column("GB/s", lambda r: _rate(r.weights + r.activations, r.seconds))]
    if peaks is not None:
        columns += [Column("roofline", lambda r: _percentage(p, r, peaks)), Column("bound", lambda r: _bound(p, r, peaks))]
    columns += [Column("kernel", lambda r: r.kernel), Column("computes", lambda r: r.what, True),
                Column("source", lambda r: ", ".join(r.loc), True)]
    lines = _lines(columns, rows, width)
    by = {"kind": {r.step: r.kind for r in p.rows}, "made by": {r.step: r.template or "-" for r in p.rows}}
    sums = [line for title, names in by.items() for line in _sums(title, p, names)]
    return "\n".join([*lines, "", *_summary(p, peaks), *sums, *_modules(p)]) + "\n"


def _lines(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[str]:
    cells = [[c.of(r) for c in columns] for r in rows]
    widths = [max([len(c.title), *(len(line[k]) for line in cells)]) for k, c in enumerate(columns)]
    texts = [k for k, c in enumerate(columns) if c.text]
    if width is not None:
        room = width - 2 * (len(columns) - 1) - sum(w for k, w in enumerate(widths) if k not in texts)
        while texts and sum(min(widths[k], LEAST) for k in texts) > room:
            room += 2  # of the column that is left out
            widths[texts.pop(0)] = 0
        spare = room - sum(min(widths[k], LEAST) for k in texts)
        for k in reversed(texts):  # where it comes from first
            least = min(widths[k], LEAST)
            more = min(widths[k] - least, spare if k == texts[0] else max(spare // 2, spare - widths[texts[0]] + LEAST))
            widths[k], spare = least + more, spare - more
    shown = [(k, c) for k, c in enumerate(columns) if widths[k]]

    def line(texts: Sequence[str]) -> str:
        return "  ".join(f"{_cut(texts[k], widths[k]):<{widths[k]}}" if c.text or c.title in ("kernel", "bound")
                         else f"{texts[k]:>{widths[k]}}" for k, c in shown).rstrip()

    return [line([c.title for c in columns]), *map(line, cells)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[:max(width - 1, 0)] + "…"


def _digits(x: float) -> str:
    return f"{x:.2f}" if x < 10 else f"{x:.1f}" if x < 1000 else f"{x:.0f}"


def _rate(amount: int, seconds: float) -> str:
    return f"{amount / seconds / 1e9:.1f}" if amount and seconds > 0 else "-"


def _percentage(p: Profile, r: Row, peaks: Peaks) -> str:
    floor = p.floor(r, peaks)
    return f"{100 * floor[0] / r.seconds:.0f} %" if floor and r.seconds > 0 else "-"


def _bound(p: Profile, r: Row, peaks: Peaks) -> str:
    floor = p.floor(r, peaks)
    return floor[1] if floor else "-"


def _summary(p: Profile, peaks: Peaks | None) -> list[str]:
    operations = sum(r.operations for r in p.rows)
    lines = [f"{len(p.rows)} steps take {_us(p.total)} together, a whole call {_us(p.call)} (medians of {p.runs} runs, "
             f"{p.threads} thread{'s' * (p.threads != 1)})"]
    if operations and p.call > 0:
        lines.append(f"{operations / 1e9:.3g} GFLOP a call, {operations / p.call / 1e9:.1f} GFLOP/s")
    if peaks is None:
        return [*lines, "no percentages of the roofline: there is no C compiler (cc) to measure this machine's peaks with"]
    floors = [(p.floor(r, peaks), r) for r in p.rows]
    least = sum(f[0] for f, _ in floors if f)
    speeds = ", ".join(f"{'memory' if level == 'dram' else level.upper()} {peaks.bandwidths[level] / 1e9:.0f}"
                       for level in LEVELS if level in peaks.bandwidths)
    if p.call > 0:
        lines.append(f"roofline: {100 * least / p.call:.0f} % of the call; kernels could take {_us(least)}, by this machine's "
                     f"{peaks.rates['fma'] / 1e9:.0f} GFLOP/s (f32) and GB/s of reading ({speeds})")
    if any(f and f[1] == "compute" and f[0] > 1.02 * r.seconds for f, r in floors):
        lines.append("more than 100 %: operations are counted as the model states them, and Winograd's algorithm needs fewer")
    return lines


def _us(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.1f} us"


def _modules(p: Profile) -> list[str]:
    """Sums by the outermost part of source locations that tells kernels apart."""
    paths = [re.split(r"[./]", r.loc[0].strip("/")) if r.loc else [] for r in p.rows]
    deepest = max((len(path) for path in paths), default=0)
    for depth in range(1, deepest):
        names = {r.step: ".".join(path[:depth]) or "-" for r, path in zip(p.rows, paths)}
        if 1 < len(set(names.values())) <= max(len(p.rows) // 2, 2):
            return _sums("module", p, names)
    return []


def _sums(title: str, p: Profile, names: Mapping[int, str]) -> list[str]:
    """Seconds and steps by the names of steps."""
    seconds: dict[str, float] = {}
    for r in p.rows:
        seconds[names[r.step]] = seconds.get(names[r.step], 0.0) + r.seconds
    count = Counter(names.values())
    lines = ["", f"  share        us  steps  {title}"]
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        lines.append(f"{100 * spent / (p.total or 1.0):5.1f} %  {_digits(1e6 * spent):>8}  {count[name]:5}  {name}")
    return lines


def to_json(p: Profile, peaks: Peaks | None) -> str:
    """The same numbers for other programs: seconds, bytes and operations."""
    def step(r: Row) -> Mapping[str, Any]:
        floor = p.floor(r, peaks) if peaks is not None else None
        return {**asdict(r), "floor": floor[0] if floor else None, "bound": floor[1] if floor else None}

    return json.dumps({"threads": p.threads, "runs": p.runs, "call": p.call, "sum": p.total, "weights": p.weights,
                       "peaks": None if peaks is None else {"rates": peaks.rates, "bandwidths": peaks.bandwidths},
                       "steps": [step(r) for r in p.rows]}, indent=1) + "\n"


__all__ = ["table", "to_json"]
