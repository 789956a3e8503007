"""`python -m bench.latency model.onnx`: milliseconds a call beside onnxruntime, interleaved in one process, outputs compared.

Free dims take `--dim NAME=N` (default 1). Prints the medians, their ratio (above 1: graphopt is faster), the largest
difference of an output relative to its largest element, and the slowest kernels with their rate.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import graphopt
from graphopt.runtime.model import Spec


def example(s: Spec, dims: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """A random input: normal for floats, small non-negative numbers for integers."""
    assert s.shape is not None and s.numpy is not None
    shape = tuple(d if isinstance(d, int) else dims.get(d, 1) for d in s.shape)
    if np.issubdtype(s.numpy, np.floating):
        return rng.standard_normal(shape).astype(s.numpy)
    return rng.integers(0, 2, shape).astype(s.numpy)


def medians(calls: list[Any], rounds: int) -> list[float]:
    """Median seconds of each call; in every round each runs twice unmeasured and once measured, in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, measured in zip(calls, times):
            call()
            call()
            start = time.perf_counter()
            call()
            measured.append(time.perf_counter() - start)
    return [float(np.median(t)) for t in times]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("model", help="an .onnx file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="the size of a free dim")
    args = parser.parse_args(argv)
    import onnxruntime

    dims = {name: int(n) for name, _, n in (d.partition("=") for d in args.dim)}
    start = time.perf_counter()
    model = graphopt.compile(args.model, threads=args.threads)
    rng = np.random.default_rng(0)
    inputs = {s.name: example(s, dims, rng) for s in model.inputs}
    ours = model.run(inputs)
    compiled = time.perf_counter() - start
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    peer = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
    theirs = dict(zip(ours, peer.run(list(ours), inputs)))
    error = max((float(np.max(np.abs(ours[n].astype(np.float64) - theirs[n])) / max(1e-30, float(np.max(np.abs(theirs[n])))))
                 for n in ours if theirs[n].size), default=0.0)
    a, b = medians([lambda: model.run(inputs), lambda: peer.run(None, inputs)], args.rounds)
    print(f"graphopt {1e3 * a:.3f} ms, onnxruntime {1e3 * b:.3f} ms, ratio {b / a:.2f}; {args.threads} threads; "
          f"compiled and first run in {compiled:.1f} s; error {error:.1e}")
    rows = sorted(model.profile(*inputs.values(), repeats=7), key=lambda r: -r["seconds"])
    for r in rows[:10]:
        rate = r["operations"] / r["seconds"] / 1e9 if r["seconds"] else 0.0
        print(f"  {r['kernel']:28} {1e6 * r['seconds']:9.1f} us {rate:7.1f} GFLOP/s  {', '.join(r['loc'][:1])}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
