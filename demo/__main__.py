"""The whole way on a real network: capture by both routes, compile, check, time beside onnxruntime: python -m demo

Fails (exit code 1) where a program is less accurate than the network or differs from PyTorch or onnxruntime.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
import torch

import graphopt
from demo.digits import ONNX, Split, load_split, trained_net

ACCURACY = 0.98  # what the trained network reaches with room to spare
TOLERANCE = 1e-5  # of a probability


def compile_both(threads: int | None) -> dict[str, Any]:
    """The network compiled for this machine from PyTorch and from ONNX, for any batch size."""
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 1, 8, 8)
    return {
        "PyTorch": graphopt.compile(trained_net(), (example,), dynamic_shapes=({0: batch},), threads=threads),
        "ONNX": graphopt.compile(ONNX, threads=threads),
    }


def check(programs: Mapping[str, Any], split: Split, session: onnxruntime.InferenceSession) -> bool:
    """Print accuracy on the held-out digits and agreement with PyTorch and onnxruntime; True where all is well."""
    images, labels = split.test_images, split.test_labels
    with torch.no_grad():
        eager = trained_net()(torch.from_numpy(images)).numpy()
    (reference,) = session.run(None, {"images": images})
    print(f"\n{len(labels)} held-out digits{'':12}accuracy   from PyTorch   from onnxruntime   (largest difference)")
    good = True
    for route, program in programs.items():
        got = np.asarray(program(images))
        accuracy = float(np.mean(got.argmax(1) == labels))
        differences = [float(np.abs(got - other).max()) for other in (eager, reference)]
        fine = accuracy >= ACCURACY and max(differences) <= TOLERANCE
        print(f"  compiled from {route:16}{accuracy:10.2%}{differences[0]:15.1e}{differences[1]:19.1e}   "
              f"{'ok' if fine else 'WRONG'}")
        good &= fine
    return good


def interleaved(runs: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of each call, taken in turns so that the machine's moods hit all alike."""
    for call in calls:
        for _ in range(10):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(runs):
        for call, seconds in zip(calls, times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def latency(program: Any, session: onnxruntime.InferenceSession, images: np.ndarray, runs: int) -> None:
    print(f"\nmedian of {runs} runs, in turns, one thread{'':6}graphopt   onnxruntime   ratio")
    for batch in (1, 32):
        inputs = {"images": np.ascontiguousarray(images[:batch])}
        ours, theirs = interleaved(runs, lambda inputs=inputs: program.run(inputs),
                                   lambda inputs=inputs: session.run(None, inputs))
        print(f"  batch {batch:<38}{ours * 1e6:6.1f} us{theirs * 1e6:11.1f} us{theirs / ours:8.2f}x")


def elsewhere(images: np.ndarray) -> None:
    """The same network as source for a GPU and an FPGA; neither needs to be here."""
    print("\nthe same network for other machines, one image at a time")
    for target, language in (("cuda:sm_90", "CUDA C++"), ("fpga:xc7z020", "Vitis HLS C++")):
        program = graphopt.compile(ONNX, {"images": images[:1]}, target=target)
        lines = len(program.source().splitlines())
        print(f"  {target:14}{lines} lines of {language}, arena {program.stats['arena_bytes']} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=500, help="timed runs of each program (default: %(default)s)")
    args = parser.parse_args()

    split = load_split()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(ONNX, options, providers=["CPUExecutionProvider"])

    start = time.perf_counter()
    programs = compile_both(threads=1)
    print(f"captured the network from PyTorch and from ONNX in {time.perf_counter() - start:.1f} s")
    good = check(programs, split, session)
    program = programs["PyTorch"]
    print("\nwhat the compiler did with the network from PyTorch:")
    print(program.explain())
    latency(program, session, split.test_images, args.runs)
    elsewhere(split.test_images)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
