"""This machine's costs beside those that graphopt counts with (graphopt/codegen/x86/costs.py), and how far each is off.

What a core takes is measured by C kernels (calibrate.c), what a layout takes by graphopt's own kernels of one operation each, in
a process that keeps to one core. Both count the core's own time, so that other programs disturb little. Costs of threads are
taken on all cores, by the clock on the wall: a machine that does something else shows there. Every round measures everything
again; a coefficient is the median of its rounds, and the spread is said.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import machine, options, tables, worker
from graphopt.codegen.x86.costs import Costs, coefficients, costs_of
from graphopt.errors import CodegenError
from graphopt.measure.peaks import SOURCE, buffer_sizes, build
from graphopt.runtime.host.machine import caches
from graphopt.targets.x86 import X86

KERNELS = Path(__file__).with_suffix(".c")
TRIES = 5  # of each C kernel, of which the best stands
MEASURED = [name for name, said in coefficients().items() if "calibrate" in said["again"]]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench calibrate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=options.names(MEASURED), default=MEASURED, metavar="NAME,…",
                        help=f"of {', '.join(MEASURED)} (default: all)")
    parser.add_argument("--rounds", type=options.count, default=3, help="how often everything is measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rounds there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 where everything asked for was measured, 1 where something was not."""
    args = build_parser().parse_args(argv)
    here, target = machine.describe(), X86.named(None)
    costs = costs_of(target)
    failed: dict[str, str] = {}
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = build(Path(folder), KERNELS, SOURCE.parent)
        except CodegenError as e:
            print(e, file=sys.stderr)
            return 1
        for _ in tqdm(range(args.rounds), disable=None, unit="round"):
            core = measure(program, TRIES)
            found = of_core(core)
            wanted = [n for n in args.only if n not in found]
            if wanted:
                done = worker.run({"kind": "calibrate", "names": wanted, "clock": core["clock"]})
                failed |= done.get("failed", {}) if "error" not in done else dict.fromkeys(wanted, done["error"])
                found |= done.get("costs", {})
            rounds.append({n: found[n] for n in args.only if n in found})
    rows = compare(costs, rounds)
    print(machine.summary(here))
    print(f"family {costs.family}, stored values of {costs.measured['']}; the clock: {core['clock'] / 1e9:.2f} GHz\n")
    print(show(rows))
    for name, reason in failed.items():
        print(f"{name} was not measured: {reason}", file=sys.stderr)
    rest = [n for n in coefficients() if n not in MEASURED]
    print(f"\nnot told apart from the kernels they are in, but judged by sweeps of those (bench kernels): {', '.join(rest)}")
    if args.json:
        machine.write_json(args.json, {"machine": here, "family": costs.family, "clock": core["clock"], "coefficients": rows})
    return 1 if failed else 0


def compare(costs: Costs, rounds: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """A row for every coefficient that was measured."""
    known = coefficients()
    names = list(dict.fromkeys(n for r in rounds for n in r))
    return [{"name": n, "unit": known[n]["unit"], "what": known[n]["what"], "stored": getattr(costs, n),
             "of": costs.measured.get(n, costs.measured[""]), "measured": statistics.median(runs), "runs": runs}
            for n in names for runs in [[r[n] for r in rounds if n in r]]]


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """Stored and measured in columns; `off` is measured / stored."""
    lines = []
    for r in rows:
        low, high = min(r["runs"]), max(r["runs"])
        lines.append([r["name"], f"{r['stored']:.4g}", f"{r['measured']:.3g}", f"{r['measured'] / r['stored']:.2f}",
                      f"{low:.3g} to {high:.3g}", r["unit"]])
    return tables.table(["coefficient", "stored", "measured", "off", "rounds", "unit"], lines)


# The core: C kernels ----------------------------------------------------------------------------------------------------
def measure(program: Path, tries: int) -> dict[str, float]:
    """What the C kernels say."""
    threads = machine.cores()
    sizes = buffer_sizes(caches(), 32 << 30, threads)
    command = [str(program), str(tries), str(threads), *(str(sizes.get(level, 0)) for level in ("l1", "l2", "l3", "dram"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}


def of_core(said: Mapping[str, float]) -> dict[str, float]:
    """Coefficients from cycles of tiles: their differences, by what differs between them."""
    line = 64
    deep, rows, columns = said["deep"], said["rows"], said["columns"]
    panel = deep * columns * 4
    pace = (said["held"] - said["held_shallow"]) / (deep - said["shallow"])
    started = 1 / (2 * said["lanes"] * said["register_add"])  # multiply-adds a cycle
    found = {"latency": said["waiting"], "sums": said["waiting"] * started, "loads": 1 / said["l1_byte"] / (4 * said["lanes"]),
             "tile_start": said["held_shallow"] - pace * said["shallow"], "bytes_from_l2": 1 / said["l2_byte"]}
    ways = {"panel_line": ("panels_from_l2", "held", panel), "rows_line": ("rows_from_l2", "held", deep * rows * 4),
            "line_from_l2": ("thin_from_l2", "thin_held", panel)}
    found |= {n: max(said[far] - said[near], 0.0) / (size / line) for n, (far, near, size) in ways.items() if far in said}
    streams = {"bytes_from_l3": "thin_from_l3", "bytes_from_memory": "thin_from_memory"}
    return found | {n: panel / said[far] for n, far in streams.items() if far in said}


# Layouts and threads: graphopt's own kernels, in a process of their own (bench.worker) -------------------------------------
def of_kernels(names: Sequence[str], clock: float) -> dict[str, dict[str, Any]]:
    """Coefficients by name, and why of those that could not be measured."""
    costs, failed = {}, {}
    for name in names:
        try:
            costs[name] = WAYS[name](clock)
        except CodegenError as e:
            failed[name] = str(e)
    return {"costs": costs, "failed": failed}


def cycles(op: Any, clock: float, threads: int = 1) -> float:
    """Of one call of the op's kernel, its operands as the ops before it leave them: the thread's own time of one thread."""
    from graphopt.measure.tuner import measure_kernel

    count = time.thread_time if threads == 1 else time.perf_counter
    (seconds,) = measure_kernel(op, [{}], X86.named(None, threads), count)
    return seconds * clock


def _alone(name: str, *shapes: tuple[int, ...], **attrs: Any) -> Any:
    """One op on inputs of these shapes, row-major."""
    from graphopt.ir import Graph, tensor

    graph = Graph(name)
    return graph.add(name, [graph.add_input(tensor("f32", *s)) for s in shapes], attrs)


IMAGE = (1, 64, 56, 56)
Way = Callable[[float], float]  # a coefficient, given the clock
_size = lambda v: v.type.nbytes


def _moved(name: str, shape: tuple[int, ...] = IMAGE, **attrs: Any) -> Way:
    def way(clock: float) -> float:
        op = _alone(name, shape, **attrs)
        return cycles(op, clock) / _size(op.result)

    return way


def _last(v: Any) -> None:
    """Have an image lie channels last."""
    from graphopt.ir.types import channels_last

    v.type = replace(v.type, layout=channels_last(4))


def _converted(clock: float) -> float:
    op = _alone("relayout", IMAGE)
    _last(op.result)
    return cycles(op, clock) / _size(op.result)


def _strided(clock: float) -> float:
    """Of a sum one operand of which is read against the grain, beyond one whose operands are not."""
    from graphopt.backends.pipeline import optimise
    from graphopt.ir import Builder, Graph, tensor

    taken = []
    for turned in (True, False):
        graph = Graph("strided")
        b = Builder(graph)
        x, y = (graph.add_input(tensor("f32", 512, 512)) for _ in "xy")
        graph.outputs = [b.add(b.relu(x), b.transpose(y, perm=[1, 0]) if turned else b.neg(y))]
        graph, _ = optimise(graph, X86.named(None, 1))
        (op,) = (o for o in graph.ops if o.name != "const")
        taken.append(cycles(op, clock))
    return max(taken[0] - taken[1], 0.0) / (512 * 512 * 4)


def _pooled(clock: float) -> float:
    """Of a row-major pool beyond one whose images lie channels last."""
    op = _alone("max_pool", IMAGE, kernel=[3, 3], stride=[2, 2], pad=[1, 1, 1, 1], dilation=[1, 1])
    row = cycles(op, clock)
    for v in (op.operands[0], op.result):
        _last(v)
    return max(row - cycles(op, clock), 0.0) / (_size(op.result) * 3)


def _planar(groups: int) -> Way:
    def way(clock: float) -> float:
        import numpy as np

        from graphopt.ir import Graph, tensor

        graph = Graph("planar")
        x = graph.add_input(tensor("f32", *IMAGE))
        w = graph.constant(np.ones((64, 64 // groups, 3, 3), np.float32))
        op = graph.add("conv", [x, w], {"stride": [1, 1], "pad": [1, 1, 1, 1], "dilation": [1, 1], "groups": groups})
        target = X86.named(None, 1)
        least = math.prod(IMAGE) * 64 // groups * 9 / (target.fma * target.lanes)
        return least / cycles(op, clock)

    return way


def _wait(clock: float) -> float:
    """What a kernel on two cores takes beyond half of what it takes on one."""
    if machine.cores() < 2:
        raise CodegenError("it takes two cores")
    op = _alone("exp", (1 << 16,))
    one, two = (cycles(op, clock, threads) for threads in (1, 2))
    return max(two - one / 2, 1.0)


WAYS: dict[str, Way] = {"strided": _strided, "converted": _converted, "turned": _moved("transpose", perm=[0, 2, 3, 1]),
        "copied": _moved("slice", (1, 128, 56, 56), axes=[1], starts=[32], ends=[96], steps=[1]), "pooled": _pooled,
        "planar": _planar(1), "planar_depthwise": _planar(64), "wait": _wait}


if __name__ == "__main__":
    sys.exit(main())
