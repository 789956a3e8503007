"""Many small computations in one program, each held against the reference evaluator or a wanted result."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

import graphopt
from graphopt.ir import Builder, Graph, Value, dtype, evaluate, tensor
from tests.codegen.lower.lowering import same


def made_by(model: Any) -> Counter[str]:
    """How many calls of a compiled model's program are of kernels that each template made."""
    return Counter(call.kernel.template for call in model._latest().compiled.program.calls)


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

    def check(self, **options: Any) -> Any:
        """Compile with these options of `graphopt.compile`, run, compare. The compiled model, for more."""
        self.graph.outputs = [v for v, *_ in self.given]
        model = graphopt.compile(self.graph, **options)
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
