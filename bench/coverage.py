"""Which models are captured, compiled and equal to eager PyTorch: `python -m bench coverage`; `--ops`: which operators.

One process a model and route. `--target evaluator` stops at the reference evaluator; another target compiles.
Equal means |ours - eager| <= ATOL * max|eager| + RTOL * |eager| for every element of every output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench import operators, options

RTOL, ATOL = 2e-3, 1e-4
TIMEOUT = 1800  # seconds for one model
COLUMNS = ("model", "route", "captured", "compiled", "equal", "host ops", "max error", "seconds", "note")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; the exit status is 1 where a model is not equal."""
    parser = argparse.ArgumentParser(prog="python -m bench coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="comma-separated names; all by default")
    parser.add_argument("--target", type=options.target, default="evaluator", help="evaluator (default), x86, …")
    parser.add_argument("--route", default="fx", choices=("fx", "onnx", "both"))
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    parser.add_argument("--ops", nargs="?", const="*", metavar="PATTERNS",
                        help="PyTorch's operators instead of models, on samples of its own operator database: all of them, or "
                             "those whose name matches one of the comma-separated patterns, as nn.functional.*")
    parser.add_argument("--samples", type=int, default=operators.SAMPLES, help="of every operator, with --ops (%(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.ops:
        return operators.report(args.ops.split(","), args.target, args.samples, args.json)
    from bench.zoo import ZOO

    names = args.models.split(",") if args.models else list(ZOO)
    if unknown := [n for n in names if n not in ZOO]:
        parser.error(f"unknown models {', '.join(unknown)}; known: {', '.join(ZOO)}")
    routes = ("fx", "onnx") if args.route == "both" else (args.route,)
    if args.one:
        print(json.dumps(measure(names[0], routes[0], args.target)))
        return 0
    rows = []
    if not args.json:
        print(_line(COLUMNS))
    for name in names:
        for route in routes:
            row = _in_process(name, route, args.target)
            rows.append(row)
            print(json.dumps(row) if args.json else _line([row[c] for c in COLUMNS]), flush=True)
    good = sum(r["equal"] == "yes" for r in rows)
    if not args.json:
        print(f"{good} of {len(rows)} equal to eager within rtol {RTOL} and {ATOL} of the largest element; target {args.target}")
    return 0 if good == len(rows) else 1


def _line(cells: Sequence[Any]) -> str:
    widths = (29, 5, 8, 8, 5, 8, 9, 7)
    return "  ".join(f"{c!s:<{w}}" for c, w in zip(cells, widths)) + f"  {cells[-1]}"


def _in_process(name: str, route: str, target: str) -> dict[str, Any]:
    """Measure in a process of its own, so that memory comes back and a crash is a row."""
    command = [sys.executable, "-m", "bench.coverage", "--one", "--models", name, "--route", route, "--target", target]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return _row(name, route, note=f"more than {TIMEOUT} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return _row(name, route, note=f"exit {done.returncode}: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}")
    return json.loads(lines[-1])


def _row(name: str, route: str, **cells: Any) -> dict[str, Any]:
    return dict.fromkeys(COLUMNS, "") | {"model": name, "route": route, "captured": "no", "compiled": "no", "equal": "no"} | cells


def measure(name: str, route: str, target: str) -> dict[str, Any]:
    """One row: capture, compile (or evaluate), compare with eager."""
    import torch

    from bench.zoo import build

    warnings.simplefilter("ignore")
    start = time.perf_counter()
    module, args, kwargs = build(name)
    row = _row(name, route)
    try:
        with torch.no_grad():
            expected = _tensors(module(*args, **kwargs))
        graph, inputs = _capture(module, args, kwargs, route)
        row["captured"] = "yes"
        if target == "evaluator":
            from graphopt.ir.evaluate import evaluate

            row["compiled"] = row["host ops"] = "-"
            got = evaluate(graph, inputs)
        else:
            import graphopt

            compiled = graphopt.compile(graph, target=target)
            row["compiled"] = "yes"
            row["host ops"] = _host_ops(compiled)
            result = compiled.run(dict(zip(graph.input_names, inputs)))
            got = [np.asarray(result[n]) for n in graph.output_names]
        row["equal"], row["max error"] = compare(got, expected)
    except Exception as e:
        row["note"] = f"{type(e).__name__}: {e}".replace("\n", " ")[:600]
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _host_ops(compiled: Any) -> int | str:
    return len(compiled.host_ops) if hasattr(compiled, "host_ops") else ""


def _capture(module: Any, args: tuple, kwargs: dict[str, Any], route: str) -> tuple[Any, list[np.ndarray]]:
    """(graph, its inputs) by one of the two routes."""
    import torch

    if route == "fx":
        from graphopt.capture.torch import capture_torch

        graph = capture_torch(module, kwargs if kwargs and not args else args if not kwargs else _by_name(module, args, kwargs))
        return graph, [t.numpy() for t in graph.metadata["call"].flatten(args, kwargs)]
    from graphopt.capture import capture

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(module, args, path, kwargs=kwargs, dynamo=True, verbose=False, external_data=True)
        graph = capture(path)
    given = dict(zip(graph.input_names, _tensors((args, kwargs))))
    return graph, [given[n] for n in graph.input_names]


def _by_name(module: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    import inspect

    return dict(zip(inspect.signature(module.forward).parameters, args)) | kwargs


def _tensors(result: Any) -> list[np.ndarray]:
    """Tensors of a nested result, in order."""
    import torch
    from torch.utils import _pytree as pytree

    return [t.detach().numpy() for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


def compare(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], rtol: float = RTOL, atol: float = ATOL) -> tuple[str, str]:
    """("yes" or "no", the largest error as a fraction of the largest element)."""
    if len(got) != len(expected):
        return "no", f"{len(got)} outputs, not {len(expected)}"
    worst, equal = 0.0, True
    for a, b in zip(got, expected):
        if a.shape != b.shape or a.dtype != b.dtype:
            return "no", f"{a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}"
        if not b.size:
            continue
        x, y = a.astype(np.float64), b.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        scale = max(float(np.abs(y[np.isfinite(y)]).max(initial=0.0)), 1e-30)
        with np.errstate(invalid="ignore"):
            error = np.where(same, 0, np.abs(x - y))
            limit = atol * scale + rtol * np.abs(y)
        equal &= bool(np.all(same | (error <= limit)))
        worst = max(worst, float(np.nan_to_num(error, nan=np.inf).max()) / scale)
    return "yes" if equal else "no", f"{worst:.1e}"


if __name__ == "__main__":
    sys.exit(main())
