"""What a program does, in order: calls of kernels, ops that the evaluator runs, and the branches and loops around them.

A step names memory by `Slot`s. Within a branch or a loop's body, planned as a graph of its own, they are first relative to it
(its own inputs, outputs and arena) and are `bound` once it is known where those lie in the graph around it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from graphopt.codegen.kernel.loops import Kernel
from graphopt.ir.graph import Op
from graphopt.ir.types import DType


@dataclass(frozen=True)
class Stride:
    """How far a slot moves with the iterations of the loop of that number: so many bytes each, or back and forth by as many,
    there in odd iterations, where it is `alternating`. After the loop, by the number of iterations that there were."""

    loop: int
    nbytes: int
    alternating: bool = False


@dataclass(frozen=True)
class Slot:
    """Where bytes are: `space` is input, output, weights, arena or host; `index` counts inputs, outputs or host values."""

    space: str
    index: int = 0
    offset: int = 0
    strides: tuple[Stride, ...] = ()

    def shifted(self, by: int, *strides: Stride) -> Slot:
        return Slot(self.space, self.index, self.offset + by, (*self.strides, *strides))


@dataclass(frozen=True)
class Call:
    """One kernel launch; `args` in the order of the kernel's parameters."""

    kernel: Kernel
    args: tuple[Slot, ...]
    op: Op


@dataclass(frozen=True)
class Host:
    """An op that the reference evaluator runs, and why. `args` is None for absent operands and for constants."""

    op: Op
    args: tuple[Slot | None, ...]
    results: tuple[Slot, ...]
    why: str


@dataclass(frozen=True)
class Branch:
    """An `if`: the steps of one branch or of the other, by the byte that `condition` holds."""

    op: Op
    condition: Slot
    then: tuple[Step, ...]
    otherwise: tuple[Step, ...]


@dataclass(frozen=True)
class Repeat:
    """A `loop`. The steps `before`, once; those of the `body` while the iteration's number is below `trip` (a number, or where
    one of that dtype lies; None: no bound) and the bytes `condition` (before the first iteration) and `again` (after each)
    are not zero (None: they never are); the steps `after`, once. `counter` is where the body reads the iteration's number (i64),
    `alive` where it reads a true condition, None where it does not."""

    op: Op
    number: int
    trip: int | tuple[Slot, DType] | None
    condition: Slot | None
    counter: Slot | None
    alive: Slot | None
    before: tuple[Step, ...]
    body: tuple[Step, ...]
    again: Slot | None
    after: tuple[Step, ...]


Step = Call | Host | Branch | Repeat


def parts(step: Step) -> tuple[tuple[Step, ...], ...]:
    """The sequences of steps within a step."""
    if isinstance(step, Branch):
        return step.then, step.otherwise
    return (step.before, step.body, step.after) if isinstance(step, Repeat) else ()


def calls(steps: Iterable[Step]) -> Iterator[Call]:
    """Every call of a kernel in some steps, those within branches and loops too, each once."""
    for step in steps:
        if isinstance(step, Call):
            yield step
        for part in parts(step):
            yield from calls(part)


def bound(steps: Iterable[Step], inputs: Sequence[Slot], outputs: Sequence[Slot], arena: Slot) -> tuple[Step, ...]:
    """The steps of a branch or body whose inputs, outputs and arena lie in these slots of the graph around it."""

    def at(s: Slot) -> Slot:
        base = {"input": inputs, "output": outputs}[s.space][s.index] if s.space in ("input", "output") else \
            arena if s.space == "arena" else Slot(s.space, s.index)
        return base.shifted(s.offset, *s.strides)

    def maybe(s: Slot | None) -> Slot | None:
        return None if s is None else at(s)

    def within(part: tuple[Step, ...]) -> tuple[Step, ...]:
        return bound(part, inputs, outputs, arena)

    made: list[Step] = []
    for step in steps:
        if isinstance(step, Call):
            made.append(replace(step, args=tuple(map(at, step.args))))
        elif isinstance(step, Branch):
            made.append(Branch(step.op, at(step.condition), within(step.then), within(step.otherwise)))
        elif isinstance(step, Repeat):
            trip = (at(step.trip[0]), step.trip[1]) if isinstance(step.trip, tuple) else step.trip
            made.append(Repeat(step.op, step.number, trip, maybe(step.condition), maybe(step.counter), maybe(step.alive),
                               within(step.before), within(step.body), maybe(step.again), within(step.after)))
        else:
            raise AssertionError(f"{step.op.name} on the evaluator within a body")
    return tuple(made)


def text(steps: Iterable[Step]) -> str:
    """The steps in words that two sequences share exactly where the same code serves both."""
    return ";".join(_text(s) for s in steps)


def _text(step: Step) -> str:
    if isinstance(step, Call):
        return f"{step.kernel.name}{step.args}"
    if isinstance(step, Branch):
        return f"if {step.condition} [{text(step.then)}] [{text(step.otherwise)}]"
    if isinstance(step, Repeat):
        return f"repeat {step.number} {step.trip} {step.condition} {step.counter} {step.alive} {step.again} " \
               f"[{text(step.before)}] [{text(step.body)}] [{text(step.after)}]"
    raise AssertionError(f"{step.op.name} is no code")


__all__ = ["Branch", "Call", "Host", "Repeat", "Slot", "Step", "Stride", "bound", "calls", "parts", "text"]
