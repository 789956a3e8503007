"""Complex tensors during capture: a pair of values, the real and the imaginary part, and operators that only move elements
applied to both.

The IR has no complex dtypes. Complex inputs and outputs of a graph are one real value with a last axis of 2, which is how their
memory lies (`metadata["complex"]` says which they are); see `graphopt.backends.pipeline.interface`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.table import Refusal
from graphopt.capture.torch.weights import PARTS
from graphopt.ir.dims import DimLike, product
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import DType


class Complex:
    """A complex tensor: parts of one shape and dtype. `real` says that it is a real tensor's cast, so that `im` is 0."""

    def __init__(self, re: Value, im: Value, real: bool = False) -> None:
        self.re, self.im, self.real = re, im, real

    @property
    def shape(self) -> tuple[DimLike, ...]:
        return self.re.shape

    @property
    def rank(self) -> int:
        return self.re.rank

    @property
    def dtype(self) -> DType:
        """That of the parts."""
        return self.re.dtype

    def each(self, f: Callable[[Value], Value]) -> Complex:
        """`f` of both parts."""
        return Complex(f(self.re), f(self.im))


def is_complex(x: Any) -> bool:
    """Is that a complex tensor, number or dtype, or are there some in it?"""
    if isinstance(x, (list, tuple)):
        return any(is_complex(v) for v in x)
    if isinstance(x, (torch.Tensor, torch.dtype)):
        return (x if isinstance(x, torch.dtype) else x.dtype) in PARTS
    return isinstance(x, (Complex, complex))


def values_of(x: Any) -> Iterator[Value]:
    """The values in nested tuples and lists, both parts of complex ones."""
    if isinstance(x, Value):
        yield x
    elif isinstance(x, Complex):
        yield from (x.re, x.im)
    elif isinstance(x, (list, tuple)):
        for part in x:
            yield from values_of(part)


def with_values(x: Any, values: Iterator[Value]) -> Any:
    """The same with other values, in the order of `values_of`."""
    if isinstance(x, Value):
        return next(values)
    if isinstance(x, Complex):
        return Complex(next(values), next(values), x.real)
    return tuple(with_values(part, values) for part in x) if isinstance(x, (list, tuple)) else x


def taken_apart(c: Context, x: Value) -> Complex:
    """The complex tensor whose parts are the last axis [.., 2] of a real one."""
    rows = c.reshape(x, (product(x.shape[:-1]), 2))  # a matrix has no layout to be chosen
    re, im = (c.reshape(c.slice(rows, 1, k, k + 1), x.shape[:-1]) for k in (0, 1))
    return Complex(re, im)


def interleaved(c: Context, z: Complex) -> Value:
    """Both parts along a new last axis."""
    count = product(z.shape)
    return c.reshape(c.concat([c.reshape(v, (count, 1)) for v in (z.re, z.im)], 1), (*z.shape, 2))


# Both parts alike -------------------------------------------------------------------------------
# Arguments of schemas that hold elements of the result; a real tensor there has no imaginary part.
_ELEMENTS = frozenset(("x", "other", "tensors", "src", "source", "values", "value", "input", "tensor"))


def both(c: Context, handler: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """A linear entry of the table on the real parts, then on the imaginary ones."""
    return _paired([handler(c, **{k: _part(c, v, k, p) for k, v in given.items()}) for p in (0, 1)])


def moved(c: Context, handler: Callable[..., Any], given: Mapping[str, Any], numbers: Sequence[str]) -> Any:
    """The same of an entry that only moves elements, which the ops that it builds tell; `numbers` are the arguments that are
    elements, too. Raises Refusal where it does anything else with them."""
    made = []
    for p in (0, 1):
        parts = {k: _part(c, v, k, p, k in numbers) for k, v in given.items()}
        before = c.graph.last
        made.append(handler(c, **parts))
        added = []
        at = c.graph.last
        while at is not None and at is not before:
            added.append(at)
            at = at.prev
        if not _only_moves(added, [parts[k] for k in numbers if k in parts]):
            raise Refusal("on a complex tensor")
    return _paired(made)


def _part(c: Context, x: Any, name: str, p: int, number: bool = False) -> Any:
    if isinstance(x, Complex):
        return x.im if p else x.re
    if isinstance(x, (list, tuple)):
        return [_part(c, v, name, p) for v in x]
    if isinstance(x, complex):
        return x.imag if p else x.real
    if isinstance(x, Value) and name in _ELEMENTS and p:
        return c.full(0, x.shape, x.dtype)
    if number and p and x is not None:
        return 0
    return x


def _paired(made: list[Any]) -> Any:
    re, im = made
    if isinstance(re, (list, tuple)):
        return tuple(None if a is None else Complex(a, b) for a, b in zip(re, im))
    return Complex(re, im)


def _only_moves(ops: Sequence[Op], numbers: Sequence[Any]) -> bool:
    """Do these ops carry floats (`numbers` among them, and zeros) to places, unchanged? Integers and masks may be computed."""
    for op in ops:
        floats = [v for v in op.operands if v is not None and v.dtype.is_float]
        if op.name == "const":
            value = op.attrs["value"].array
            if value.dtype.kind in "iub" or not value.size or not np.any(value):
                continue
            if not any(isinstance(n, (int, float)) and np.all(value == n) for n in numbers):
                return False
        elif floats and not (op.definition.has(Trait.MOVEMENT | Trait.VIEW) or _places(op, floats)):
            return False
    return True


def _places(op: Op, floats: Sequence[Value]) -> bool:
    """Ops that choose among elements, put them into others' places or add them up there, and casts between floats."""
    if op.name == "cast":
        return op.result.dtype.is_float
    return op.name == "where" or (op.name.startswith("scatter") and op.attrs.get("reduction", "none") in ("none", "add"))


__all__ = ["Complex", "both", "interleaved", "is_complex", "moved", "taken_apart", "values_of", "with_values"]
