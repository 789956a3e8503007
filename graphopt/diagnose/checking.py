"""Compiled kernels against the reference evaluator, one by one: each result is compared with what the evaluator makes of the very
operands that the kernel read, so that the first kernel that is wrong is found, and rounding does not add up."""

from __future__ import annotations

import hashlib
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from graphopt.ir.evaluate import bind_symbols, evaluate, evaluate_op
from graphopt.ir.graph import Op, Value
from graphopt.ir.text import value_names
from graphopt.ir.types import TensorType
from graphopt.measure.profiling import called
from graphopt.rewrite.engine.validate import difference, nudged
from graphopt.runtime.host.executable import Executable, Place

if TYPE_CHECKING:
    from graphopt.backends.x86.static import Compiled
    from graphopt.codegen.program.plan import Program
    from graphopt.targets.x86 import X86

Found = TypeVar("Found")

ULPS = 64.0  # of the largest element, and of what an ulp on the operands changes: sums in another order, Winograd
NARROW_ULPS = 4.0  # half floats compute in f32 and round once


@dataclass(frozen=True)
class Finding:
    """The first wrong step: `kernel`, the value it computes, the op, where that comes from, and what is wrong, in words."""

    step: int
    kernel: str
    value: str
    op: str
    loc: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        at = f" at {', '.join(self.loc)}" if self.loc else ""
        return f"kernel {self.kernel} (step {self.step}), which computes {self.op} %{self.value}{at}: {self.text}"


@dataclass
class Checked:
    """How many kernels were compared, and what was found: None where all are right. `outputs` says what is wrong with the outputs
    of the whole program where no kernel alone is to blame."""

    kernels: int
    finding: Finding | None = None
    outputs: str | None = None


def check_kernels(compiled: Compiled, target: X86, arrays: Sequence[Any]) -> Checked:
    """Run a program step by step on its checked inputs, in a process of its own, which a crash of the compiled code only ends."""
    from graphopt.codegen.x86.build import build
    from graphopt.codegen.x86.link import link

    program = compiled.program
    stepwise = link(program, build(program, target, each=True), target.threads, stepwise=True)
    whole = link(program, compiled.code, target.threads)
    result, crashed, reached = in_child(lambda report: _check(compiled, stepwise, whole, arrays, report))
    if result is not None:
        return result
    if reached is None or reached >= len(program.steps):
        return Checked(len(program.calls), None, f"the whole program ended with {crashed}, its kernels one by one do not")
    step = program.steps[reached]
    return Checked(reached, _finding(program, reached, step.op.results[0], f"ended with {crashed}"))


def in_child(work: Callable[[Callable[[int], None]], Found], seconds: float | None = None) \
        -> tuple[Found | None, str, int | None]:
    """What `work(report)` gives in a forked process; else None, what ended it, and what it reported last.

    An exception in the child is raised here. After so many `seconds` it is ended, by `timeout`.
    """
    here, there = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (coverage does not follow)
        os.close(here)
        status = 1
        try:
            with os.fdopen(there, "wb") as out:
                def report(k: int) -> None:
                    pickle.dump(k, out)
                    out.flush()

                try:
                    pickle.dump(("done", work(report)), out)
                except Exception as e:
                    pickle.dump(("failed", e), out)
            status = 0
        finally:
            os._exit(status)
    os.close(there)
    reached: int | None = None
    end: Any = None
    late = threading.Event()

    def stop() -> None:
        late.set()
        os.kill(child, signal.SIGKILL)

    clock = threading.Timer(seconds, stop) if seconds is not None else None
    if clock is not None:
        clock.start()
    with os.fdopen(here, "rb") as pipe:
        try:
            while True:
                said = pickle.load(pipe)
                if isinstance(said, int):
                    reached = said
                else:
                    end = said
        except (EOFError, pickle.UnpicklingError):
            pass
    if clock is not None:
        clock.cancel()
        clock.join()
    _, status = os.waitpid(child, 0)
    if end is not None and end[0] == "failed":
        raise end[1]
    if end is not None:
        return end[1], "", reached
    if late.is_set():
        return None, "timeout", reached
    code = os.waitstatus_to_exitcode(status)
    return None, signal.Signals(-code).name if code < 0 else f"exit code {code}", reached


def _check(compiled: Compiled, stepwise: Executable, whole: Executable, arrays: Sequence[Any],
           report: Callable[[int], None]) -> Checked:
    from graphopt.codegen.program.plan import Host

    program, graph = compiled.program, compiled.graph
    found: list[Finding] = []
    symbols: dict[str, int] = {}
    for v, x in zip(graph.inputs, arrays):
        bind_symbols(v.type, x, symbols, "")
    written: dict[Value, tuple[bytes, str]] = {}
    report(0)

    def observe(k: int, read: Any) -> None:
        step = program.steps[k]
        op: Op = step.op
        if not found and op.graph is graph:
            given = [None if v is None else _value(program, read, v) for v in op.operands]
            results = [_value(program, read, r) for r in op.results]
            for v, x in zip(op.operands, given):
                if v in written and isinstance(x, np.ndarray) and written[v][0] != _digest(x):
                    found.append(_finding(program, k, v, f"reads what is no longer what {written[v][1]} wrote: another step has "
                                                         "overwritten it"))
            if not isinstance(step, Host) and not found:
                expected = evaluate_op(op, given, symbols)
                for r, a, b in zip(op.results, expected, results):
                    text = _wrong(op, given, symbols, r.index, a, b)
                    if text:
                        found.append(_finding(program, k, r, text))
                        break
            for r, x in zip(op.results, results):
                bind_symbols(r.type, x, symbols, op.where(), check=False)
                if isinstance(x, np.ndarray) and x.dtype != np.object_:
                    written[r] = _digest(x), called(step)
        report(k + 1)

    stepwise.run(arrays, observe)
    if found:
        return Checked(len(program.calls), found[0])
    got = whole.run(arrays)
    for k, (a, b) in enumerate(zip(evaluate(graph, list(arrays)), got)):
        text = _wrong(None, (), {}, 0, a, b, slack=100)
        if text:
            name = graph.output_names[k] if graph.output_names else str(k)
            return Checked(len(program.calls), None, f"output {name}: {text}")
    return Checked(len(program.calls))


def _finding(program: Program, k: int, v: Value, text: str) -> Finding:
    step = program.steps[k]
    name = value_names(program.graph).get(v, v.name or "?")
    return Finding(k, called(step), name, step.op.name, tuple(step.op.loc), text)


def _digest(x: np.ndarray) -> bytes:
    return hashlib.blake2b(x.tobytes(), digest_size=16).digest()


def _wrong(op: Op | None, given: Sequence[Any], symbols: dict[str, int], index: int, expected: Any, got: Any,
           slack: float = 1.0) -> str | None:
    """What differs by more than rounding explains: the tolerance widens by what an ulp on the operands changes."""
    narrow = isinstance(expected, np.ndarray) and expected.dtype.itemsize <= 2
    ulps = slack * (NARROW_ULPS if narrow else ULPS)
    text = difference(expected, got, ulps)
    if text is None or op is None:
        return text
    rng = np.random.default_rng(0)
    moved = evaluate_op(op, [nudged(x, rng) for x in given], symbols)[index]
    if not isinstance(moved, np.ndarray) or moved.shape != expected.shape or not np.issubdtype(moved.dtype, np.floating):
        return text
    with np.errstate(all="ignore"):
        change = np.abs(moved.astype(np.float64) - expected.astype(np.float64))
    return difference(expected, got, ulps, float(np.max(change, where=np.isfinite(change), initial=0.0)))


def _value(program: Program, read: Callable[[Place], Any], v: Value) -> Any:
    """A value as the program holds it, row-major."""
    if v.constant is not None:
        return v.constant
    slot = program.slots[v]
    t = v.type
    if slot.space == "host" or not isinstance(t, TensorType) or not t.is_static or t.dtype.numpy == np.object_:
        return read(Place(slot.space, slot.index, slot.offset, None, None))
    flat = Place(slot.space, slot.index, slot.offset, (_extent(t),), t.dtype.numpy)
    return np.array(logical(read(flat), t))


def _extent(t: TensorType) -> int:
    """Elements in memory from the first to the last: behind those of the last row nothing of a pitch need be there."""
    sizes = t.storage
    if 0 in sizes:
        return 0
    own = replace(t, layout=replace(t.layout, pitch=0)).storage if t.layout is not None else sizes
    return int(np.prod(sizes)) - (sizes[-1] - own[-1] if sizes else 0)


def logical(flat: np.ndarray, t: TensorType) -> np.ndarray:
    """The elements of a value, by its logical shape, in the memory where it lies: without halo, axes in their own order."""
    if t.layout is None or 0 in t.static_shape:
        return flat.reshape(t.static_shape)
    sizes, axes = t.storage, t.storage_axes
    strides = [flat.itemsize * int(np.prod(sizes[k + 1:])) for k in range(len(sizes))]
    halo = [t.layout.halo if a >= 2 else 0 for a in axes]
    start = sum(h * s for h, s in zip(halo, strides)) // flat.itemsize
    shape = tuple(t.static_shape[a] for a in axes)
    stored = np.lib.stride_tricks.as_strided(flat[start:], shape, strides, writeable=False)
    return stored.transpose(np.argsort(axes))


__all__ = ["Checked", "Finding", "check_kernels", "in_child", "logical"]
