"""Measuring the candidates of a program's kernels: `compile(..., tune="fast")`. What wins is recorded (records.py).

Every distinct kernel whose template has anything to choose is planned once per candidate in one small graph, compiled as
any program is (one shared object, its kernels side by side), and run on this machine: before each timed call all cores
sweep their caches, and other kernels write the operands anew, as they do in a network.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graphopt.codegen.lower.kernels import kernel_key, lower
from graphopt.codegen.lower.registry import why_not
from graphopt.codegen.lower.tuning import Picks, ranked
from graphopt.codegen.program.plan import plan
from graphopt.codegen.x86.build import build
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.errors import TargetError
from graphopt.ir.fused import held
from graphopt.ir.graph import Graph, Op, Value
from graphopt.ir.ops.control import trip_count
from graphopt.ir.table import Trait
from graphopt.ir.types import F32, TensorType
from graphopt.measure.records import Record, Records, record_key
from graphopt.runtime.host.executable import Pointer, address, aligned
from graphopt.runtime.host.library import runtime
from graphopt.runtime.host.machine import missing
from graphopt.targets.x86 import X86

log = logging.getLogger("graphopt")

Assignment = Mapping[str, str]  # kind of choice to the candidate's text
Measure = Callable[[Op, Sequence[Assignment], X86], list[float]]


@dataclass(frozen=True)
class Effort:
    """`candidates` a kernel, each expected to take no more than `within` times the best's time; `share` of the program's
    estimated time from which a kernel is worth it; seconds of measuring a kernel."""

    candidates: int
    within: float
    share: float
    seconds: float


EFFORTS = {"fast": Effort(4, 1.3, 0.005, 0.1), "full": Effort(16, 1.6, 0.0, 0.5)}
GAIN = 0.02  # less than this is noise
ROUNDS = (7, 40)
BYTES_A_CYCLE = 8  # of memory traffic, in the estimate of a kernel's share


def tune(graph: Graph, target: X86, mode: str, records: Records, measure: Measure | None = None) -> None:
    """Measure what has no record yet in an optimised graph of static shapes, and add it to the records."""
    if lacking := missing(target.instructions):
        raise TargetError(f"candidates for {target.name} cannot be measured on this machine, which lacks {', '.join(lacking)}",
                          hint="Tune on the machine itself, and give the records with tuning=path")
    from tqdm import tqdm

    measure = measure or measure_kernel
    effort = EFFORTS[mode]
    found = [(key, op) for key, op in _worth(graph, effort, target)
             if (old := records.get(record_key(target.name, target.threads, key))) is None or not old.covers(mode)]
    try:
        for key, op in tqdm(found, "tuning", unit="kernel", delay=1, disable=not sys.stderr.isatty(), file=sys.stderr):
            record = _tuned(op, target, mode, measure)
            if record is not None:
                records.put(record_key(target.name, target.threads, key), record)
    finally:  # what was measured stays, whatever interrupts the rest
        records.save()


def _worth(graph: Graph, effort: Effort, target: X86) -> Iterator[tuple[str, Op]]:
    """Distinct kernels, those first that take most of the program's time."""
    kernels: dict[str, Op] = {}
    runs: dict[str, int] = {}
    for op, times in _repeated(graph):
        if op.name != "const" and op.results and why_not(op, style_of(target).templated) is None:
            key = kernel_key(op)
            kernels.setdefault(key, op)
            runs[key] = runs.get(key, 0) + times
    cost = {key: runs[key] * _estimate(op, target) for key, op in kernels.items()}
    total = sum(cost.values())
    for key in sorted(kernels, key=lambda k: -cost[k]):
        if cost[key] >= effort.share * total:
            yield key, kernels[key]


def _repeated(graph: Graph, times: int = 1) -> Iterator[tuple[Op, int]]:
    """Every op, those of branches and of loops' bodies too, and how often a call runs it: at least once, where only running
    can tell."""
    for op in graph.ops:
        yield op, times
        if op.definition.has(Trait.CONTROL):
            count = trip_count(op.view(), op.regions[0]) if op.name == "loop" else 1
            for region in op.regions:
                yield from _repeated(region, times * (count if isinstance(count, int) else 1))


def _estimate(op: Op, target: X86) -> float:
    """Cycles, roughly: arithmetic on all cores at its peak, and traffic."""
    operations = sum(o.definition.cost(o.view(), [r.type for r in o.results])[0] for o in held(op))
    _, moved = op.definition.cost(op.view(), [r.type for r in op.results])
    assert isinstance(operations, int) and isinstance(moved, int)
    return operations / (2 * target.lanes * target.fma * target.threads) + moved / BYTES_A_CYCLE


def _tuned(op: Op, target: X86, mode: str, measure: Measure) -> Record | None:
    """The record of one kernel; None where there is nothing to choose."""
    candidates = assignments(op, target, EFFORTS[mode])
    if len(candidates) < 2:
        return None
    seconds = measure(op, candidates, target)
    best = min(range(len(candidates)), key=seconds.__getitem__)
    if seconds[best] < (1 - GAIN) * seconds[0]:  # of many that are equal one is the luckiest: it has to do it again
        seconds[0], seconds[best] = measure(op, [candidates[0], candidates[best]], target)
    if seconds[best] >= (1 - GAIN) * seconds[0]:
        best = 0
    log.debug("%s: %s of %d candidates, %.3g us, the model's %.3g us", op.where(), candidates[best], len(candidates),
              1e6 * seconds[best], 1e6 * seconds[0])
    return Record(dict(candidates[best]) if best else {}, seconds[best], seconds[0], len(candidates), mode, _describe(op))


def _describe(op: Op) -> str:
    """What a kernel computes, for people who read the records."""
    shapes = ", ".join(str(v.type) for v in op.operands if v is not None)
    return f"{'+'.join(o.name for o in held(op) if o.name != 'const')}({shapes})"


def assignments(op: Op, target: X86, effort: Effort) -> list[Assignment]:
    """The choices worth a try, the model's own first: every other differs from one before it in one choice. Which questions
    a template asks may depend on the answers (a tile's size on the algorithm), so that each is lowered to see."""
    style, templates = style_of(target), templates_of(target)
    found: dict[tuple[tuple[str, str], ...], Assignment] = {}
    count = itertools.count()
    queue: list[tuple[int, float, int, dict[str, str]]] = [(0, 1.0, next(count), {})]
    while queue and len(found) < effort.candidates:
        rank, slowdown, _, wanted = heapq.heappop(queue)
        picks = Picks(wanted)
        lower(op, "k", replace(style, pick=picks), templates)
        answers = tuple(picks.answers.items())
        if answers in found or any(picks.answers.get(kind) != text for kind, text in wanted.items()):
            continue
        found[answers] = dict(picks.answers)
        before: dict[str, str] = {}
        for kind, candidates in picks.asked.items():
            if kind not in wanted:
                for place, (factor, candidate) in enumerate(ranked(candidates, effort.within)[:effort.candidates]):
                    if str(candidate) != picks.answers[kind]:
                        other = {**before, kind: str(candidate)}
                        heapq.heappush(queue, (max(rank, place), slowdown * factor, next(count), other))
            before[kind] = picks.answers[kind]
    return list(found.values())


# Running ---------------------------------------------------------------------------------------------------------------
def measure_kernel(op: Op, candidates: Sequence[Assignment], target: X86,
                   clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Median seconds of the op's kernel with each of the choices, in turns."""
    trial = Graph("tuning")
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []

    def given(t: TensorType) -> Value:
        arrays.append(_random(t, rng))
        return trial.add_input(t)

    # Twice what the cores' L2 hold, so that weights come from where they come from in a network.
    swept = trial.add("neg", [given(TensorType(F32, (2 * target.l2 * target.threads // 4,)))]).result
    operands: dict[Value, Value] = {}
    for v in op.operands:
        if v is None or v in operands:
            continue
        t = v.type
        assert isinstance(t, TensorType)
        if v.op is not None and v.op.name == "const":
            operands[v] = trial.constant(v.op.attrs["value"])
        elif t.dtype.is_float:
            fresh = trial.add("neg", [given(t)])
            fresh.result.type = t
            operands[v] = fresh.result
        else:
            operands[v] = given(t)
    before = sum(o.name != "const" for o in trial.ops)
    wanted: dict[Op, Assignment] = {}
    for choice in candidates:
        copy = trial.add(op.name, [None if v is None else operands[v] for v in op.operands], op.attrs,
                         regions=[r.clone() for r in op.regions], types=[r.type for r in op.results])
        for r, old in zip(copy.results, op.results):
            r.type = old.type
        wanted[copy] = choice
    trial.outputs = [swept, *(r for o in wanted for r in o.results)]
    program = plan(trial, style_of(target), templates_of(target), lambda o, key: wanted.get(o, {}))
    code = build(program, target, each=True)
    calls = code.functions if code.library is None else \
        runtime(*code.runtime).entries(code.library, code.names, target.threads)  # type: ignore[misc]
    outputs = [aligned(_bytes(v.type)) for v in trial.outputs]
    weights, arena = program.pack_weights(aligned), aligned(program.arena_size)
    pointers = [Pointer(address(a)) for a in (*arrays, *outputs, weights, arena)]

    def prepare() -> None:
        for call in calls[:before]:
            call(*pointers)

    return medians([lambda c=c: c(*pointers) for c in calls[before:]], prepare,  # type: ignore[misc]
                   EFFORTS["full" if len(candidates) > EFFORTS["fast"].candidates else "fast"].seconds, clock)


def medians(calls: Sequence[Callable[[], None]], prepare: Callable[[], None], seconds: float,
            clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Median duration of each call, all in turns, `prepare` before each; for about so many seconds, within ROUNDS."""
    times: list[list[float]] = [[] for _ in calls]

    def turn() -> None:
        for call, taken in zip(calls, times):
            prepare()
            start = clock()
            call()
            taken.append(clock() - start)

    turn()  # the first calls fault their pages in
    for taken in times:
        taken.clear()
    start = clock()
    turn()
    for _ in range(min(max(ROUNDS[0], math.ceil(seconds / max(clock() - start, 1e-9))), ROUNDS[1]) - 1):
        turn()
    return [float(np.median(taken)) for taken in times]


def _bytes(t: object) -> int:
    assert isinstance(t, TensorType)
    return max(1, math.prod(t.storage)) * t.dtype.itemsize


def _random(t: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Bytes of a tensor: floats around zero; indices and masks are zeros, which are valid everywhere."""
    block = aligned(_bytes(t))
    block[:] = 0
    if t.dtype.is_float:
        values = block.view(t.dtype.numpy)
        values[:] = rng.standard_normal(values.size, np.float32).astype(t.dtype.numpy)
    return block


__all__ = ["Measure", "assignments", "measure_kernel", "medians", "tune"]
