"""Common subexpressions."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any

import numpy as np

from graphopt.ir.graph import Graph, Op, Tensor
from graphopt.ir.table import Trait
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

COMPARE_BYTES = 1 << 16  # larger constants are the same only where they share their memory


class CommonSubexpressions(GraphPass):
    """Before: any graph. After: no two ops without regions or randomness compute the same from the same operands; equal
    small constants, and constants over the same memory, are one."""

    name = "cse"

    def run_on(self, graph: Graph, context: Context) -> bool:
        first: dict[Hashable, Op] = {}
        changed = False
        for op in graph.ops:
            if op.regions or op.definition.has(Trait.RANDOM | Trait.CONTROL):
                continue
            key = _key(op)
            same = first.setdefault(key, op)
            if same is op or any(a.type != b.type for a, b in zip(same.results, op.results)):
                continue
            if not context.take("common subexpression", op):
                break
            if op.name != "const":
                context.because(same, f"also stands for {op.where()}, which computed the same")
            op.replace_with(same.results)
            changed = True
        return changed


def _key(op: Op) -> Hashable:
    operands: list[int] = [0 if v is None else id(v) for v in op.operands]
    if op.definition.has(Trait.COMMUTATIVE):
        operands[:2] = sorted(operands[:2])
    return op.name, tuple(operands), tuple((k, _freeze(v)) for k, v in sorted(op.attrs.items()))


def _freeze(value: Any) -> Hashable:
    """Equal exactly where two attribute values mean the same: 0.0 is not -0.0, 1 is not 1.0, a NaN is itself."""
    if isinstance(value, float):
        return "float", struct.pack("d", value)
    if isinstance(value, tuple):
        return tuple(_freeze(v) for v in value)
    if isinstance(value, Tensor):
        return _freeze_tensor(value)
    try:
        hash(value)
    except TypeError:
        return "object", id(value)
    return type(value).__name__, value


def _freeze_tensor(tensor: Tensor) -> Hashable:
    array = tensor.array
    if array is None or array.dtype == object:
        return "object", id(tensor)
    if array.nbytes <= COMPARE_BYTES:
        return "data", array.dtype.str, array.dtype.name, array.shape, np.ascontiguousarray(array).tobytes()
    return "memory", array.__array_interface__["data"][0], array.dtype.name, array.shape, array.strides
