"""The meaning of expressions over numpy arrays. Slow; for tests, and to settle what a node means. Statements: machine.py.

Every load is checked: an index outside its buffer raises, negative ones included, also where a select drops the element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.codegen.kernel.expr import Apply, Buffer, Const, Expr, Load, Reduce, Var, postorder_until
from graphopt.errors import CodegenError
from graphopt.ir.ops.numeric import fma


def _truncated(a: Any, b: Any) -> Any:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    if np.any(b == 0):
        raise CodegenError("integer division by zero", hint="Guard the divisor: machines trap")
    if a.dtype.kind == "i" and np.any((a == np.iinfo(a.dtype).min) & (b == -1)):
        raise CodegenError("the least integer divided by -1", hint="Guard the divisor: machines trap")
    return (a - np.fmod(a, b)) // b


def _floored(kind: str) -> Callable[[Any, Any], Any]:
    def divide(a: Any, b: Any) -> Any:
        _truncated(a, b)
        return np.floor_divide(a, b) if kind == "floordiv" else np.mod(a, b)

    return divide


def _shift(f: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def shift(a: Any, b: Any) -> Any:
        if np.any((b < 0) | (b >= a.dtype.itemsize * 8)):
            raise CodegenError("a shift by the width or more", hint="Guard the count: it is undefined in C")
        return f(a, b)

    return shift


def _erf(x: Any) -> Any:
    import math

    return np.vectorize(math.erf, otypes=[np.float64])(x).astype(x.dtype)


APPLY: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _truncated, "floordiv": _floored("floordiv"),
    "floormod": _floored("floormod"), "min": np.minimum, "max": np.maximum, "neg": np.negative, "abs": np.abs,
    "fma": fma, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "fmod": np.fmod, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "shl": _shift(np.left_shift), "shr": _shift(np.right_shift), "eq": np.equal, "ne": np.not_equal, "lt": np.less,
    "le": np.less_equal, "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _erf, "pow": np.power, "atan2": np.arctan2,
    "select": np.where, "isnan": np.isnan,
}
REDUCE: dict[str, np.ufunc] = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum, "peak": np.fmax,
                               "any": np.logical_or, "all": np.logical_and}


class Evaluation:
    """Values of expressions under an assignment of variables, vectorised over whatever shape these have.

    Each reduction variable takes a new leading axis, so that values broadcast against each other.
    """

    def __init__(self, variables: Mapping[Var, Any], arrays: Mapping[Buffer, np.ndarray], rank: int = 0) -> None:
        self.arrays = arrays
        self._rank = rank
        self._axes: dict[Var, int] = {}  # counted from the last
        self._variables = dict(variables)
        self._memo: dict[int, Any] = {}
        self._keep: list[Expr] = []

    def __call__(self, e: Expr) -> Any:
        nodes = postorder_until(e, self._memo)
        for node in nodes:
            if isinstance(node, Reduce):
                self._bind(node)
        for node in nodes:
            self._keep.append(node)
            if not isinstance(node, Reduce) and any(id(c) not in self._memo for c in node.children):
                raise CodegenError(f"no value for {node!r}")
            self._memo[id(node)] = self._value(node)
        return self._memo[id(e)]

    def _bind(self, node: Reduce) -> None:
        for var, n in zip(node.vars, node.extents):
            if var not in self._axes:
                self._axes[var] = self._rank
                self._variables[var] = np.arange(n).reshape(n, *[1] * self._rank)
                self._rank += 1

    def _value(self, node: Expr) -> Any:
        if isinstance(node, Const):
            return node.dtype.numpy.type(node.value)
        if isinstance(node, Var):
            if node not in self._variables:
                raise CodegenError(f"variable {node!r} is not bound")
            return self._variables[node]
        children = [self._memo[id(c)] for c in node.children]
        if isinstance(node, Load):
            return self._load(node, children)
        if isinstance(node, Reduce):
            return self._reduce(node, children[0])
        assert isinstance(node, Apply)
        if node.kind == "cast":
            return np.asarray(children[0]).astype(node.dtype.numpy)[()]
        if node.kind == "bitcast":
            return np.asarray(children[0]).view(node.dtype.numpy)[()]
        children = [np.asarray(c) if not isinstance(c, (np.ndarray, np.generic)) else c for c in children]
        out = APPLY[node.kind](*children)
        if out.dtype != node.dtype.numpy:
            raise CodegenError(f"{node.kind} of {', '.join(str(c.dtype) for c in children)} gave {out.dtype}, not {node.dtype}")
        return out

    def _load(self, node: Load, index: Sequence[Any]) -> Any:
        array = self.arrays[node.buffer]
        for i, n in zip(index, array.shape):
            if np.size(i) and (np.min(i) < 0 or np.max(i) >= n):
                raise CodegenError(f"{node!r}: index {np.min(i)}..{np.max(i)} leaves 0..{n - 1} of {node.buffer!r}")
        return array[tuple(index)] if index else array[()]

    def _reduce(self, node: Reduce, body: Any) -> Any:
        if not node.vars:
            return body
        axes = [-1 - self._axes[v] for v in node.vars]
        body = np.asarray(body)
        rank = max(-min(axes), body.ndim)
        shape = list((1,) * (rank - body.ndim) + body.shape)
        for a, n in zip(axes, node.extents):
            shape[a] = n
        out = REDUCE[node.kind].reduce(np.broadcast_to(body, shape), axis=tuple(axes), keepdims=True, dtype=body.dtype)
        return out.astype(node.dtype.numpy)


__all__ = ["APPLY", "Evaluation"]
