"""Many small computations in one program, each held against the reference evaluator or a wanted result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import graphopt
from graphopt.codegen.lower.kernels import Template
from graphopt.codegen.program.plan import plan
from graphopt.codegen.x86.build import build
from graphopt.codegen.x86.capabilities import X86Capabilities
from graphopt.codegen.x86.kernels.conv import streamed
from graphopt.codegen.x86.link import link
from graphopt.codegen.x86.templates import style_of, templates_of
from graphopt.ir import Builder, Graph, Value, dtype, evaluate, tensor
from graphopt.ir.fused import held
from graphopt.ir.graph import Op
from graphopt.rewrite import default_passes, optimise
from graphopt.targets import parse_target
from graphopt.targets.base import Choice
from graphopt.targets.x86 import X86
from tests.codegen.lower.lowering import same


def made_by(model: Any) -> Counter[str]:
    """How many calls of a compiled model's program are of kernels that each template made."""
    program = model.program if isinstance(model, Built) else model._latest().compiled.program
    return Counter(call.kernel.template for call in program.calls)


class ChannelsLast(X86Capabilities):
    """The kernels of an x86 CPU, to whom a row-major convolution is too dear wherever there is another."""

    def layout_choice(self, op: Op) -> Choice | None:
        choice = super().layout_choice(op)
        if choice is None or choice.last is None or not any(o.name == "conv" for o in held(op)):
            return choice
        return replace(choice, row=1e15)


class AllChannelsLast(X86Capabilities):
    """The same, to whom anything row-major is too dear."""

    def layout_choice(self, op: Op) -> Choice | None:
        choice = super().layout_choice(op)
        return choice if choice is None or choice.last is None else replace(choice, row=1e15)


class Streams(X86Capabilities):
    """The same, to whom memory is too far away for images between two convolutions."""

    def streams(self, first: Op, second: Op) -> str | None:
        return None if streamed.possible(first, second) is None else "asked to"


class Built:
    """A program made as `graphopt.compile` makes one, but by the passes' answers from `by`, and with templates (`first`) that are
    asked before ours."""

    def __init__(self, graph: Graph, by: type[X86Capabilities], target: str = "x86", threads: int | None = None,
                 first: Callable[[X86], Sequence[Template]] = lambda _: (), winograd: bool = True) -> None:
        machine: Any = parse_target(target, threads)
        machine = machine if winograd else machine.without_winograd()
        self.graph = graph.clone()
        optimise(self.graph, default_passes(), target=by(machine))
        self.program = plan(self.graph, style_of(machine), [*first(machine), *templates_of(machine)])
        self.run = link(self.program, build(self.program, machine), machine.threads).run

    def __call__(self, *arrays: Any) -> Any:
        made = self.run([np.ascontiguousarray(a) for a in arrays])
        return made[0] if len(made) == 1 else tuple(made)


class Batch:
    """A graph that grows by `give`; `check` compiles it once and compares every result.

    `x = batch.input(array)`; `batch.give(batch.b.relu(x))`. A result without a wanted array must equal the reference
    evaluator's. Tolerances are those of tests of single lowerings, per dtype.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.b = Builder(self.graph)
        self.arrays: list[np.ndarray] = []
        self.given: list[tuple[Value, np.ndarray | None, str, float | None]] = []

    def input(self, array: Any) -> Value:
        array = np.asarray(array)
        self.arrays.append(array)
        return self.graph.add_input(tensor(dtype(array.dtype), *array.shape), f"x{len(self.arrays)}")

    def give(self, value: Value, want: Any = None, what: str = "", tolerance: float | None = None) -> None:
        self.given.append((value, want, what, tolerance))

    def check(self, made: str = "", beside: Sequence[str] = (), **options: Any) -> Any:
        """Compile with these options of `graphopt.compile`, or of `Built` where one of them is `by`; run, compare. The
        compiled model, for more. The template `made` has made the kernels, but for those that others `beside` it may."""
        self.graph.outputs = [v for v, *_ in self.given]
        model: Any = Built(self.graph, **options) if "by" in options else graphopt.compile(self.graph, **options)
        if made:
            templates = made_by(model)
            assert templates[made] and set(templates) <= {made, *beside}, templates
        before = [a.copy() for a in self.arrays]
        got = model(*self.arrays)
        got = got if isinstance(got, tuple) else (got,)
        for a, b in zip(self.arrays, before):
            np.testing.assert_array_equal(a.view(np.uint8) if a.shape else a, b.view(np.uint8) if b.shape else b)
        reference = evaluate(self.graph, self.arrays)
        for g, r, (v, want, what, tolerance) in zip(got, reference, self.given, strict=True):
            label = what or (v.op.name if v.op is not None else "input")
            wanted = r if want is None else _as(np.asarray(want), r.dtype)
            same(g, wanted, tolerance, f"{label} {v.type}")
        return model


def _as(x: np.ndarray, d: np.dtype) -> np.ndarray:
    """Whole numbers computed in f64 wrap to an integer dtype."""
    return x.astype(np.int64).astype(d) if x.dtype.kind == "f" and d.kind in "iu" else x.astype(d)
