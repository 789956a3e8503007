"""Every distinct contraction kernel of the models' programs against the roofline, worst first.

Nothing is listed by hand: models are compiled, and each kernel is timed where it stands in its program, with the caches as
the kernels before it left them. A kernel that stands in several places has the median of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench import machine, options, peaks, plots, tables, worker
from bench.cases import Case, of_model
from bench.sides import OURS, open_side
from graphopt.measure.profiling import contractions, describe, moved

REPEATS = 15


@dataclass(frozen=True)
class Timed:
    """A kernel of one model: `seconds` of a call, `count` calls in the program, the bytes of
    all weights of the program that its own come with."""

    key: str
    what: str
    seconds: float
    operations: int
    weights: int
    activations: int
    count: int
    all_weights: int
    models: tuple[str, ...] = field(default=())


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench kernels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_models(parser)
    options.add_threads(parser, ",".join(map(str, sorted({1, machine.cores()}))))
    parser.add_argument("--limit", type=options.count, default=40, help="lines of each table (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of them there, and a plot (.png) beside it")
    options.add_roofline(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every model gave its kernels, 1 where one did not."""
    parser = build_parser()
    args = parser.parse_args(argv)
    options.check_models(parser, args.models or ["mlp"], args.batch)
    options.check_threads(parser, args.threads)
    from bench.models import TEN

    here = machine.describe()
    roofline, reason = peaks.read(args.roofline, here["cpu"])
    if roofline is None:
        parser.error(reason)
    limits = {t: peaks.parse(roofline, t) for t in args.threads}
    if absent := [t for t, p in limits.items() if p is None]:
        parser.error(f"{args.roofline} has no peaks of {absent[0]} threads: run python -m bench roofline --threads "
                     f"{','.join(map(str, args.threads))}")
    print(machine.summary(here), flush=True)
    failed = []
    found: dict[tuple[int, int], list[Timed]] = {}
    work = [(m, b, t) for t in args.threads for b in args.batch for m in args.models or TEN]
    for model, batch, threads in tqdm(work, disable=None, unit="model"):
        case = of_model(model, batch)
        result: dict[str, Any] = {}
        if not case.folder.exists():
            result = worker.run({"kind": "prepare", "case": case.to_json(), "source": "", "dims": {}})
        if "error" not in result:
            result = worker.run({"kind": "kernels", "case": case.to_json(), "threads": threads},
                                {"GRAPHOPT_CACHE": str(machine.cache_folder() / "code" / OURS)})
        if "error" in result:
            failed.append(f"{model} batch {batch} threads {threads}: {result['error']}")
            continue
        found.setdefault((batch, threads), []).extend(replace(Timed(**k), models=(model,)) for k in result["kernels"])
    rows = []
    for (batch, threads), kernels in found.items():
        limit = limits[threads]
        assert limit is not None
        group = [as_row(k, limit, batch) for k in merge(kernels)]
        group.sort(key=lambda r: r["roofline"])
        rows += group
        print(f"\nbatch {batch}, threads {threads}: {len(group)} kernels; {worth(group)}\n{show(group, args.limit)}", flush=True)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    if args.json:
        machine.write_json(args.json, {"machine": here, "kernels": rows})
        points = [(str(r["threads"]), r["operations"] / (r["weights"] + r["activations"]), r["operations"] / r["seconds"])
                  for r in rows]
        plots.roofline({str(t): roofline["peaks"][str(t)] for t in args.threads}, points, args.json.with_suffix(".png"))
    return 1 if failed else 0


def sweep(case: Case, threads: int) -> list[Timed]:
    """The distinct contraction kernels of one model's program, timed where they stand."""
    from graphopt.codegen.lower.kernels import kernel_key

    model = open_side(OURS, case, threads, None).model
    given = case.inputs()
    rows = model.profile(*[given[s.name] for s in model.inputs], repeats=REPEATS)
    program = model._details().program
    found: dict[str, list[float]] = {}
    ops = {}
    for step, row in zip(program.steps, rows, strict=True):
        if contractions(step.op):
            key = kernel_key(step.op)
            found.setdefault(key, []).append(row["seconds"])
            ops[key] = step.op, row["operations"]
    out = []
    for key, seconds in found.items():
        op, operations = ops[key]
        weights, activations = moved(op)
        out.append(Timed(key, describe(op), statistics.median(seconds), operations, weights, activations, len(seconds),
                         program.weights_size))
    return out


def merge(kernels: Iterable[Timed]) -> list[Timed]:
    """One for every kernel that several models share: the median of their times, all of their calls."""
    groups: dict[str, list[Timed]] = {}
    for k in kernels:
        groups.setdefault(k.key, []).append(k)
    return [replace(g[0], seconds=statistics.median(k.seconds for k in g), count=sum(k.count for k in g),
                    all_weights=max(k.all_weights for k in g), models=tuple(dict.fromkeys(m for k in g for m in k.models)))
            for g in groups.values()]


def as_row(k: Timed, limit: peaks.Peaks, batch: int) -> dict[str, Any]:
    """A kernel with its percentage (as a fraction) of the roofline and the seconds that all its calls lose to it."""
    work = [peaks.Work(k.operations, k.weights, k.activations)]
    floor = limit.floor(work, "fma", k.all_weights)
    return {"batch": batch, "threads": limit.threads, "kernel": k.what, "models": list(k.models), "count": k.count,
            "seconds": k.seconds, "operations": k.operations, "weights": k.weights, "activations": k.activations,
            "roofline": floor / k.seconds, "of_l1_peak": limit.floor(work, "fma_l1", k.all_weights) / k.seconds,
            "lost": k.count * (k.seconds - floor)}


def worth(rows: Sequence[Mapping[str, Any]]) -> str:
    """All calls of all kernels together."""
    spent = sum(r["count"] * r["seconds"] for r in rows)
    kept = spent - sum(r["lost"] for r in rows)
    return f"{1e3 * spent:.1f} ms together, {100 * kept / spent:.0f}% of the roofline" if spent else "none"


def show(rows: Sequence[Mapping[str, Any]], limit: int) -> str:
    lines = [[f"{100 * r['roofline']:.0f}%", f"{100 * r['of_l1_peak']:.0f}%", f"{r['operations'] / r['seconds'] / 1e9:.1f}",
              f"{1e6 * r['seconds']:.1f}", str(r["count"]), f"{1e6 * r['lost']:.0f}", ",".join(r["models"])[:30], r["kernel"]]
             for r in rows[:limit]]
    return tables.table(["roofline", "of L1 peak", "GFLOP/s", "us", "calls", "us lost", "models", "kernel"], lines)
