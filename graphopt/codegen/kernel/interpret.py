"""The meaning of expressions and loop nests, over numpy arrays. Slow; for tests, and to settle what a node means.

Every load is checked: an index outside its buffer raises, negative ones included, also where a select drops the element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Apply, Buffer, Const, Expr, Load, Reduce, Var, postorder_until
from graphopt.codegen.kernel.loops import (
    Alloc,
    Dot,
    For,
    If,
    Kernel,
    Let,
    Seq,
    Stmt,
    Store,
    TileDot,
    TileLoad,
    Tiles,
    TileStore,
    TileZero,
)
from graphopt.errors import CodegenError
from graphopt.ir.ops.numeric import fma
from graphopt.ir.types import BOOL, dtype


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


def run_kernel(kernel: Kernel, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a kernel on its inputs. What it does not write comes back as a telling pattern (NaN, or 0x5A bytes)."""
    if len(arrays) != kernel.inputs:
        raise CodegenError(f"@{kernel.name} takes {kernel.inputs} arrays, got {len(arrays)}")
    memory: dict[Buffer, np.ndarray] = {}
    for buffer, array in zip(kernel.params, arrays):
        if np.shape(array) != buffer.shape or array.dtype != buffer.dtype.numpy:
            raise CodegenError(f"@{kernel.name}: {buffer!r} given {array.dtype}{list(np.shape(array))}")
        memory[buffer] = np.asarray(array)
    for buffer in kernel.params[kernel.inputs:]:
        memory[buffer] = _unwritten(buffer)
    with np.errstate(all="ignore"):
        _Machine(memory).run(kernel.body, {})
    return [memory[b] for b in kernel.params[kernel.inputs:kernel.inputs + kernel.outputs]]


def _unwritten(buffer: Buffer) -> np.ndarray:
    d = dtype(buffer.dtype) if buffer.dtype is not INDEX else INDEX
    if d.is_float:
        return np.full(buffer.shape, np.nan).astype(d.numpy)
    if d is BOOL:
        return np.zeros(buffer.shape, bool)
    return np.frombuffer(b"\x5a" * (d.numpy.itemsize * max(buffer.size, 1)), d.numpy)[:buffer.size].reshape(buffer.shape).copy()


class _Machine:
    def __init__(self, memory: dict[Buffer, np.ndarray]) -> None:
        self.memory = memory

    def value(self, e: Expr, env: Mapping[Var, Any]) -> Any:
        if isinstance(e, Const):
            return e.dtype.numpy.type(e.value)
        out = Evaluation(env, self.memory)(e)
        return out.reshape(())[()] if isinstance(out, np.ndarray) else out

    def run(self, s: Stmt, env: dict[Var, Any]) -> None:
        if isinstance(s, Seq):
            for x in s.body:
                self.run(x, env)
        elif isinstance(s, For):
            for k in range(int(self.value(s.extent, env))):
                self.run(s.body, {**env, s.var: np.int64(k)})
        elif isinstance(s, Store):
            index = tuple(int(self.value(i, env)) for i in s.index)
            array = self.memory[s.buffer]
            if any(not 0 <= i < n for i, n in zip(index, array.shape)):
                raise CodegenError(f"store to {list(index)} leaves {s.buffer!r}")
            array[index] = self.value(s.value, env)
        elif isinstance(s, If):
            if self.value(s.condition, env):
                self.run(s.then, env)
            elif s.otherwise is not None:
                self.run(s.otherwise, env)
        elif isinstance(s, Let):
            self.run(s.body, {**env, s.var: self.value(s.value, env)})
        elif isinstance(s, Alloc):
            self.memory[s.buffer] = _unwritten(s.buffer)
            self.run(s.body, env)
        elif isinstance(s, Dot):
            self.dot(s, env)
        elif isinstance(s, Tiles):
            self.memory |= {tile: _unwritten(tile) for tile in s.buffers}
            self.run(s.body, env)
            for tile in s.buffers:
                del self.memory[tile]
        elif isinstance(s, TileZero):
            self.memory[s.tile][:] = 0
        elif isinstance(s, TileDot):
            acc, a, b = (self.memory[t] for t in (s.acc, s.a, s.b))
            acc[:] = s.how.meaning(acc, a, b)
        elif isinstance(s, TileLoad):
            self.memory[s.tile][:] = self.memory[s.buffer][self.rows(s, env)]
        elif isinstance(s, TileStore):
            self.memory[s.buffer][self.rows(s, env)] = self.memory[s.tile]
        else:
            raise CodegenError(f"unknown statement {s!r}")

    def rows(self, s: TileLoad | TileStore, env: Mapping[Var, Any]) -> np.ndarray:
        """Where the elements of a tile lie in its buffer, which has one axis."""
        rows, columns = s.tile.shape
        at, stride = (int(self.value(e, env)) for e in (s.at, s.stride))
        places = at + stride * np.arange(rows)[:, None] + np.arange(columns)
        if places.min() < 0 or places.max() >= s.buffer.size:
            raise CodegenError(f"a tile at {at} by {stride} leaves {s.buffer!r}")
        return places

    def dot(self, s: Dot, env: Mapping[Var, Any]) -> None:
        shape = (s.lanes, s.how.depth)
        lanes, steps = (np.arange(n).reshape(k) for n, k in zip(shape, ((-1, 1), (1, -1))))
        each = Evaluation({**env, s.lane: lanes, s.step: steps}, self.memory, 2)
        a, b = (np.broadcast_to(each(x), shape) for x in (s.a, s.b))
        if (a.dtype, b.dtype) != (s.how.a.numpy, s.how.b.numpy):
            raise CodegenError(f"{s.how.name} takes {s.how.a} and {s.how.b}, got {a.dtype} and {b.dtype}")
        places = tuple(np.broadcast_to(each(i), (s.lanes, 1))[:, 0] for i in s.target.index)
        before = np.broadcast_to(each(s.target), (s.lanes, 1))[:, 0]  # its index is checked
        self.memory[s.target.buffer][places] = s.how.meaning(before, a, b)


__all__ = ["Evaluation", "run_kernel"]
