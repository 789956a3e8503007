"""Where the time of a program's calls goes, kernel by kernel, and how near each is to what the machine can do.

Kernels run as in any call, one after the other from compiled code, which notes the time after each (some 30 ns); whole calls
of the program itself are timed in turn with them, so that the sum can be held against the call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.ir.fused import ends, held, outsides
from graphopt.ir.graph import Op, Value
from graphopt.ir.ops.control import trip_count
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType
from graphopt.measure.peaks import Peaks, Work
from graphopt.runtime.host.executable import Place

if TYPE_CHECKING:
    from graphopt.backends.x86.static import Compiled
    from graphopt.targets.x86 import X86

MIN_RUNS, MAX_RUNS = 5, 200


@dataclass(frozen=True)
class Row:
    """One step of a call: a kernel, a loop or a branch with all the kernels in it, or an op that the reference evaluator runs
    (`host`). A loop whose number of iterations only running can tell counts no operations, an `if` those of its smaller branch.

    `template` is what made the kernel ("" for what is none), `op` the op's name, `kind` that of the most expensive sort of op in
    it, `what` its shapes in words. `seconds` is the median, `low` and `high` the quartiles. `weights` and
    `activations` are bytes of constants and of other operands and results, each once. `dtype` is what its first operand is of,
    `loc` are source locations.
    """

    step: int
    kernel: str
    template: str
    op: str
    kind: str
    what: str
    seconds: float
    low: float
    high: float
    operations: int
    weights: int
    activations: int
    dtype: str
    loc: tuple[str, ...]
    host: bool

    @property
    def work(self) -> Work:
        return Work(self.operations, self.weights, self.activations)


@dataclass(frozen=True)
class Profile:
    """The steps in order, the median seconds of a whole `call`, how many `runs` they are medians of, and the bytes of all
    `weights` of the program."""

    rows: list[Row]
    call: float
    runs: int
    weights: int
    threads: int

    @property
    def total(self) -> float:
        """Seconds of all steps together."""
        return sum(r.seconds for r in self.rows)

    def floor(self, r: Row, peaks: Peaks) -> tuple[float, str] | None:
        """The least seconds of a step on this machine, and what bounds it (`compute` or `memory`); None for a host op.

        Arithmetic is held against multiply-adds in f32, which half floats are computed in too; one in
        f64 takes the time of two. Integers have no peak of their own and are held against memory alone.
        """
        if r.host:
            return None
        factor = 2.0 if r.dtype == "f64" else 1.0 if r.dtype in ("f32", "f16", "bf16") else 0.0
        arithmetic, memory = factor * peaks.arithmetic(r.work), peaks.memory(r.work, self.weights)
        return (arithmetic, "compute") if arithmetic > memory else (memory, "memory")


def profile(compiled: Compiled, target: X86, arrays: Sequence[Any], repeats: int | None = None, seconds: float = 1.0) -> Profile:
    """Run a program so often (where not given: for some `seconds`) on checked inputs, and take the time of every step."""
    from graphopt.codegen.program.plan import Host
    from graphopt.codegen.x86.build import MARK, build, marks_at, stretches
    from graphopt.codegen.x86.link import link

    program = compiled.program
    parts = stretches(program)
    counts = [1 if isinstance(part, Host) else len(part) for part in parts]
    marks = sum(n + 1 for n, part in zip(counts, parts) if not isinstance(part, Host))
    start = marks_at(program)
    whole = link(program, compiled.code, target.threads)
    marked = link(program, build(program, target, marks=True), target.threads,
                  room=start - program.arena_size + MARK * marks)
    times: list[list[float]] = [[] for _ in program.steps]
    calls: list[float] = []
    read_at: list[tuple[int, int]] = []  # first step and first mark of each part
    step = mark = 0
    for n, part in zip(counts, parts):
        read_at.append((step, mark))
        step, mark = step + n, mark + (0 if isinstance(part, Host) else n + 1)
    last = 0.0

    def observe(k: int, read: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        step, mark = read_at[k]
        if isinstance(parts[k], Host):
            times[step].append(now - last)
        else:
            stamps = read(Place("arena", 0, start + MARK * mark, (counts[k] + 1, 2), np.dtype(np.int64)))
            at = stamps[:, 0] - stamps[0, 0] + 1e-9 * stamps[:, 1]
            for i, passed in enumerate(np.diff(at)):
                times[step + i].append(float(passed))
        last = time.perf_counter()

    began = time.perf_counter()
    for k in range(-1, MAX_RUNS if repeats is None else repeats):  # the first, of both, warms up
        before = time.perf_counter()
        whole.run(arrays)
        calls.append(time.perf_counter() - before)
        last = time.perf_counter()
        marked.run(arrays, observe)
        if repeats is None and k + 1 >= MIN_RUNS and time.perf_counter() - began > seconds:
            break
    rows = [_row(k, s, sorted(taken[1:])) for k, (s, taken) in enumerate(zip(program.steps, times))]
    return Profile(rows, statistics.median(calls[1:]), len(calls) - 1, program.weights_size, target.threads)


def _row(k: int, step: Any, times: list[float]) -> Row:
    op = step.op
    operations = sum(n for o in members(op) if isinstance(n := o.definition.cost(o.view(), [r.type for r in o.results])[0], int))
    weights, activations = moved(op)
    middle = len(times)
    return Row(k, called(step), made_by(step), op.name, principal(op).name, describe(op),
               statistics.median(times), times[middle // 4], times[(3 * middle) // 4], operations, weights, activations,
               _dtype(op), tuple(op.loc), on_evaluator(step))


def called(step: Any) -> str:
    """The name of a step: its kernel's; `loop` or `if`; `host` and the op for one that the reference evaluator runs."""
    kernel = getattr(step, "kernel", None)
    return kernel.name if kernel is not None else f"host {step.op.name}" if on_evaluator(step) else step.op.name


def made_by(step: Any) -> str:
    """What made a step's kernel: the name of a template, or of a way of writing loops; "" where the step is no kernel."""
    kernel = getattr(step, "kernel", None)
    return "" if kernel is None else str(kernel.template)


def on_evaluator(step: Any) -> bool:
    return getattr(step, "why", None) is not None


# What a kernel is -------------------------------------------------------------------------------
def members(op: Op) -> list[Op]:
    """What is fused in an op, or itself."""
    return [o for o in held(op) if o.name != "const"]


def contractions(op: Op) -> list[Op]:
    """The contractions of an op, or of what is fused in it."""
    return [o for o in members(op) if o.definition.has(Trait.CONTRACTION)]


def principal(op: Op) -> Op:
    """The op by which a kernel is known: of what is fused in it the first of the most expensive sort."""
    order = (Trait.CONTRACTION, Trait.COMPOSITE, Trait.REDUCTION, Trait.ELEMENTWISE)
    of = members(op)
    return next((o for trait in order for o in of if o.definition.has(trait)), of[0])


def moved(op: Op) -> tuple[int, int]:
    """Bytes of an op's constants, and of its other operands and its results; each once, unknown sizes left out. Where the ops
    that read an operand touch parts of it alone (rows of a table), as many bytes as those can be at most."""
    read: dict[Value, int] = {}
    stands = outsides(op)
    for o in held(op):
        for v, n in zip(o.operands, o.definition.touched(o.view(), [r.type for r in o.results])):
            if v in stands and isinstance(n, int):
                read[stands[v]] = read.get(stands[v], 0) + n
    for v in ends(op):
        if v in stands:  # an operand that is a result too
            read[stands[v]] = _size(stands[v])
    read = {v: min(n, _size(v)) for v, n in read.items()}
    weights = sum(n for v, n in read.items() if v.constant is not None)
    return weights, sum(read.values()) - weights + sum(_size(v) for v in op.results)


def _size(v: Value) -> int:
    """Its bytes, 0 where they are not known."""
    return n if isinstance(v.type, TensorType) and v.type.is_static and isinstance(n := v.type.nbytes, int) else 0


def describe(op: Op) -> str:
    """`conv 1x64x56x56 * 64x64x3x3 stride=[1, 1] -> 1x64x56x56 NHWC, and 2 more`."""
    if op.definition.has(Trait.CONTROL):
        return _describe_control(op)
    first = principal(op)
    shapes = [_shape(v.type) for v in first.operands[:2] if v is not None]
    attrs = [f"{k}={list(first.attrs[k])}" for k in ("stride", "dilation") if any(n != 1 for n in first.attrs.get(k, ()))]
    attrs += [f"groups={first.attrs['groups']}"] if first.attrs.get("groups", 1) != 1 else []
    more = len(members(op)) - 1
    text = " ".join([first.name, " * ".join(shapes), *attrs, "->", _shape(op.results[0].type)])
    return text + (f", and {more} more" if more else "")


def _describe_control(op: Op) -> str:
    """`loop of 812 iterations: 3 ops -> 812x5`, `if: 2 ops, else 1 -> 1x64`."""
    sizes = [sum(o.name != "const" for o in r.ops) for r in op.regions]
    results = " and ".join(_shape(r.type) for r in op.results)
    if op.name == "loop":
        count = trip_count(op.view(), op.regions[0])
        return f"loop of {'some' if count is None else count} iterations: {sizes[0]} op{'s' * (sizes[0] != 1)} -> {results}"
    return f"{op.name}: {sizes[0]} op{'s' * (sizes[0] != 1)}" + "".join(f", else {n}" for n in sizes[1:]) + f" -> {results}"


def _dtype(op: Op) -> str:
    types = [v.type for v in (*principal(op).operands, *op.results) if v is not None]
    return next((t.dtype.name for t in types if isinstance(t, TensorType)), "")


def _shape(t: Any) -> str:
    if not isinstance(t, TensorType) or t.shape is None:
        return str(t)
    return ("x".join(map(str, t.shape)) or "scalar") + (f" {t.layout.order}" if t.layout is not None else "")


__all__ = ["Profile", "Row", "called", "contractions", "describe", "made_by", "members", "moved", "on_evaluator", "principal",
           "profile"]
