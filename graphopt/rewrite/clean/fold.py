"""Constant folding."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.dims import Dim
from graphopt.ir.evaluate import content, evaluate_op
from graphopt.ir.graph import Graph, Op, Tensor
from graphopt.ir.settle import Settling
from graphopt.ir.table import Trait
from graphopt.ir.types import TensorType
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

log = logging.getLogger("graphopt.rewrite")


class Fold(GraphPass):
    """Before: any graph. After: no op has only constant operands, but for random ones, control flow, and those whose
    result would need more than `growth` bytes more than their operands (iota, expand and tile stay computed); none whose
    result's size depends on values has constant expressions for them. What that tells of sizes stands wherever they are named.

    The values are the reference evaluator's.
    """

    name = "fold"

    def __init__(self, growth: int = 1 << 16) -> None:
        self.growth = growth

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        walk = Settling(graph)
        for op in graph.ops:
            context.subject = op
            changed |= walk.visit(op)  # what a folded op told of its result's size lets others fold
            given = self._given(op)
            if given is None:
                continue
            try:
                # A transposed or cut weight stays a view of it: weights may be most of the memory there is.
                values = evaluate_op(op, given, order="K" if op.definition.has(Trait.MOVEMENT) else "C")
            except EvaluationError as e:
                # Wrong at compile time is wrong at run time, but only if it is reached: a branch may never be.
                context.because(op, f"not folded: {e}")
                log.warning("not folded: %s", e)
                continue
            if not all(isinstance(v, np.ndarray) for v in values):
                continue
            if not context.take("fold", op):
                break
            name = next((v.op.attrs["value"].name for v in op.operands
                         if v is not None and v.op is not None and v.constant is not None), None)
            constants = [graph.constant(Tensor(v, _derived(name, op)), loc=op.loc, before=op) for v in values]
            context.because(op, "all operands are constant")
            op.replace_with(constants)
            changed = True
        return changed

    def _given(self, op: Op) -> list[Any] | None:
        """The operands' values where the op is to be folded, else None."""
        if op.name == "const" or op.regions or not op.results or op.definition.has(Trait.RANDOM | Trait.CONTROL):
            return None
        data_dependent = op.definition.has(Trait.DATA_DEPENDENT)
        if not data_dependent and any(v is not None and v.constant is None for v in op.operands):
            return None
        if any(isinstance(d, Dim) for a in op.attrs.values() if isinstance(a, tuple) for d in a):
            return None  # the attribute is known when the program runs
        if not all(isinstance(r.type, TensorType) for r in op.results):
            return None
        if data_dependent:  # whatever the size of the mask that it looks at: only so is that of its result known
            values = [None if v is None else content(v) for v in op.operands]
            return None if any(v is not None and x is None for v, x in zip(op.operands, values)) else values
        constants = [None if v is None else v.constant for v in op.operands]
        if not all(isinstance(r.type, TensorType) and (r.type.shape is None or r.type.is_static) for r in op.results):
            return None
        known = [r.type.nbytes for r in op.results if isinstance(r.type, TensorType) and r.type.shape is not None]
        given = sum(c.nbytes for c in constants if c is not None)
        return constants if sum(n for n in known if isinstance(n, int)) <= given + self.growth else None


def _derived(name: str | None, op: Op) -> str | None:
    """A constant made from a weight says so: `conv1.weight/transpose`."""
    return None if name is None else f"{name.partition('/')[0]}/{op.name}"
