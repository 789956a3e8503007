"""What is known of values at capture: constants, and small integer tensors of symbolic dims.

Shape arithmetic (Shape, Gather, Concat, Reshape, …) is carried out while the graph is built, on arrays of
ints and Dims, so that what depends on it gets static attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.errors import GraphOptError
from graphopt.ir.dims import Dim, DimLike, dim_max, dim_min, never_negative
from graphopt.ir.evaluate import evaluate_op
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import DType, SequenceType, TensorType, type_of

LIMIT = 4096  # elements up to which a tensor is followed without being asked for


class Knowledge:
    """Known contents of values. With `eager`, every op is evaluated as it is built, whatever its size."""

    def __init__(self, eager: bool = False) -> None:
        self.eager = eager
        self._known: dict[Value, Any] = {}
        self._foldable: set[Value] = set()

    def bind(self, value: Value, content: Any) -> None:
        """State that `value` has this content: an array, or an object array with Dims; any runtime value when eager."""
        self._known[value] = content

    def get(self, value: Value) -> Any:
        """The content of a value, constant sub-expressions evaluated; None where not known."""
        found = self._known.get(value)
        if found is None:
            found = value.constant
        if found is None and value in self._foldable:
            found = self._fold(value)
        return found

    def settled(self, value: Value) -> np.ndarray | None:
        """The content of a value that is a plain number for all sizes, though it was computed from a shape with symbols."""
        if self.eager or value in self._foldable or value.constant is not None:
            return None  # constant expressions are left to the rewrites: dequantised weights must stay so
        content = self._known.get(value)
        return content if isinstance(content, np.ndarray) and content.dtype != object else None

    def learn(self, op: Op) -> None:
        """Follow a new op."""
        if self.eager:
            self._run(op)
            return
        if op.regions or op.definition.has(Trait.RANDOM):
            return
        symbolic = any(isinstance(a, tuple) and any(isinstance(d, Dim) for d in a) for a in op.attrs.values())
        if not symbolic and all(v is None or v in self._foldable for v in op.operands):
            self._foldable.update(op.results)
        if op.definition.has(Trait.DATA_DEPENDENT):
            self._size(op)
            return
        if op.name == "const" or not all(_small(r) for r in op.results):
            return
        if op.name == "shape":
            t = op.operands[0].type  # type: ignore[union-attr]
            if isinstance(t, TensorType) and t.shape is not None:
                self._known[op.result] = settle(np.array([*t.shape, None], dtype=object)[:-1], op.result.dtype)
            return
        if op.name == "dims":
            self._known[op.result] = settle(np.array([*op.attrs["values"], None], dtype=object)[:-1], op.result.dtype)
            return
        operands = [None if v is None else self._peek(v) for v in op.operands]
        if any(v is not None and x is None for v, x in zip(op.operands, operands)):
            return
        if symbolic or any(x is not None and _is_symbolic(x) for x in operands):
            self._follow(op, operands)
        else:
            self._evaluate(op, operands)

    def _size(self, op: Op) -> None:
        """The sizes that an op's results have by the contents of its operands, where those are known: later ops need them."""
        operands = [None if v is None else self.get(v) for v in op.operands]
        if any(v is not None and (not isinstance(x, np.ndarray) or _is_symbolic(x)) for v, x in zip(op.operands, operands)):
            return
        self._evaluate(op, operands)
        for r in op.results:
            found = self._known.get(r)
            if isinstance(found, np.ndarray) and isinstance(r.type, TensorType):
                r.type = TensorType(r.type.dtype, found.shape)

    def _peek(self, v: Value) -> np.ndarray | None:
        x = self._known.get(v)
        if x is None:
            x = v.constant
        return x if isinstance(x, np.ndarray) and x.size <= LIMIT else None

    def _evaluate(self, op: Op, operands: Sequence[Any]) -> None:
        try:
            results = evaluate_op(op, operands)
        except GraphOptError:
            return  # the op stays, and says at run time what is wrong with its operands
        for r, x in zip(op.results, results):
            if isinstance(x, np.ndarray):
                self._known[r] = x

    def _follow(self, op: Op, operands: Sequence[Any]) -> None:
        rule = RULES.get(op.name)
        if rule is None:
            return
        with np.errstate(all="ignore"):
            try:
                results = rule(op, *(None if x is None else x.astype(object) for x in operands))
            except (_Unknown, GraphOptError, ValueError, IndexError, ZeroDivisionError, TypeError):
                return  # not an expression of dims; the value stays unknown
        results = results if isinstance(results, list) else [results]
        for r, x in zip(op.results, results):
            self._known[r] = settle(np.asarray(x, dtype=object), r.dtype)

    def _run(self, op: Op) -> None:
        operands = [None if v is None else self._known[v] for v in op.operands]
        for r, x in zip(op.results, evaluate_op(op, operands)):
            self._known[r] = x
            if isinstance(x, np.ndarray) and isinstance(r.type, TensorType):
                r.type = TensorType(r.type.dtype, x.shape)
            elif isinstance(x, list) and x:
                r.type = type_of(x) if not isinstance(x[0], np.ndarray) else SequenceType(_common(x))

    def _fold(self, value: Value) -> Any:
        stack = [value]
        while stack:
            v = stack[-1]
            if v in self._known or v.constant is not None:
                stack.pop()
                continue
            assert v.op is not None
            missing = [o for o in v.op.operands if o is not None and o not in self._known and o.constant is None]
            if missing:
                stack.extend(missing)
                continue
            self._evaluate(v.op, [None if o is None else self.get(o) for o in v.op.operands])
            if v not in self._known:
                return None
        return self._known.get(value)


def _common(items: Sequence[np.ndarray]) -> TensorType:
    """The type of a sequence's elements: dims in which they differ are left open by leaving out the shape."""
    first = type_of(items[0])
    assert isinstance(first, TensorType)
    return first if all(x.shape == items[0].shape for x in items) else TensorType(first.dtype, None)


def _small(v: Value) -> bool:
    t = v.type
    if not isinstance(t, TensorType):
        return False
    return t.shape is None or not t.is_static or t.size <= LIMIT  # type: ignore[operator]


def _is_symbolic(x: np.ndarray) -> bool:
    return x.dtype == object and any(isinstance(d, Dim) for d in x.flat)


def settle(x: np.ndarray, to: DType) -> np.ndarray:
    """An object array as a numeric one where no symbol is left in it."""
    if _is_symbolic(x) or to.kind == "str":
        return x
    return x.astype(to.numpy)


class _Unknown(Exception):
    """The result is no polynomial of dims."""


def _sign(d: Any) -> int:
    """-1, 0 or 1; raises _Unknown where it depends on the symbols."""
    if not isinstance(d, Dim):
        return (d > 0) - (d < 0)
    if never_negative(d - 1):
        return 1
    if never_negative(-d - 1):
        return -1
    raise _Unknown


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, Dim) or isinstance(b, Dim)):
        return bool(a == b)
    difference = a - b
    if isinstance(difference, Dim):
        return _sign(difference) == 0
    return difference == 0


def _integral(x: Any) -> Any:
    """Floats that are integers, as integers, so that Dims can take them."""
    return int(x) if isinstance(x, float) and x == int(x) else x


def _binary(f: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def one(a: Any, b: Any) -> Any:
        if isinstance(a, Dim) or isinstance(b, Dim):
            a, b = _integral(a), _integral(b)
            if isinstance(a, float) or isinstance(b, float):
                raise _Unknown
        return f(a, b)

    apply = np.frompyfunc(one, 2, 1)
    return lambda op, a, b: apply(a, b)


def _divide(a: Any, b: Any) -> Any:
    if not isinstance(a, Dim) and not isinstance(b, Dim):
        if isinstance(a, float) or isinstance(b, float):
            return a / b
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    least = 0 if isinstance(b, Dim) else 1  # a dim as divisor is not zero: the model would fail
    if not never_negative(b - least) or not (never_negative(a) or _divides(a, b)):
        raise _Unknown  # truncation and floor differ below zero
    return a // b


def _divides(a: Any, b: Any) -> bool:
    return isinstance(b, int) and isinstance(a, Dim) and all(c % b == 0 for _, c in a.terms)


def _div_rule(op: Op, a: np.ndarray, b: np.ndarray) -> Any:
    if op.result.dtype.is_float:
        def exact(x: Any, y: Any) -> Any:
            x, y = _integral(x), _integral(y)
            if isinstance(x, Dim) and isinstance(y, int) and y and not _divides(x, y):
                raise _Unknown
            return _divide(x, y) if isinstance(x, Dim) else x / y
        return np.frompyfunc(exact, 2, 1)(a, b)
    return np.frompyfunc(_divide, 2, 1)(a, b)


def _extreme(symbolic: Callable[[DimLike, DimLike], DimLike], plain: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: symbolic(a, b) if isinstance(a, Dim) or isinstance(b, Dim) else plain(a, b)


_max, _min = _extreme(dim_max, max), _extreme(dim_min, min)


def _compare(test: Callable[[int], bool]) -> Callable[..., Any]:
    return _binary(lambda a, b: test(_sign(a - b)))


def _same(op: Op, x: np.ndarray, *_: Any) -> Any:
    return x


def _whole(op: Op, x: np.ndarray) -> Any:
    """floor, ceil, round, trunc: dims are whole already."""
    import math

    f: Any = {"floor": math.floor, "ceil": math.ceil, "trunc": math.trunc}.get(op.name, round)
    def whole(v: Any) -> Any:
        return v if isinstance(v, Dim) else f(v)

    apply: Any = np.frompyfunc(whole, 1, 1)
    return apply(x)


def _cast(op: Op, x: np.ndarray) -> Any:
    to = op.attrs["to"]
    if to.kind == "bool":
        return np.frompyfunc(lambda v: not _equal(v, 0), 1, 1)(x)
    if to.kind == "str":
        raise _Unknown
    if to.is_integer:
        return np.frompyfunc(lambda v: v if isinstance(v, Dim) else int(v), 1, 1)(x)
    return x


def _where(op: Op, cond: np.ndarray, a: np.ndarray, b: np.ndarray) -> Any:
    return np.frompyfunc(lambda c, x, y: x if c else y, 3, 1)(cond, a, b)


def _reduce(f: Callable[[Any, Any], Any], start: Any) -> Callable[..., Any]:
    def rule(op: Op, x: np.ndarray) -> Any:
        import functools

        axes, keep = op.attrs["axes"], op.attrs["keepdims"]
        rest = [a for a in range(x.ndim) if a not in axes]
        flat = np.transpose(x, [*rest, *axes]).reshape(*(x.shape[a] for a in rest), -1)
        out = np.empty(flat.shape[:-1], dtype=object)
        for i in np.ndindex(out.shape):
            items = list(flat[i])
            out[i] = functools.reduce(f, items[1:], items[0]) if items else start
        return out.reshape([1 if a in axes else x.shape[a] for a in range(x.ndim)] if keep else out.shape)

    return rule


def _static(dims: Sequence[DimLike]) -> list[int]:
    if any(isinstance(d, Dim) for d in dims):
        raise _Unknown
    return [int(d) for d in dims]  # type: ignore[arg-type]


def _slice(op: Op, x: np.ndarray) -> Any:
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(op.attrs["axes"], _static(op.attrs["starts"]), _static(op.attrs["ends"]),
                                      op.attrs["steps"]):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _split(op: Op, x: np.ndarray) -> Any:
    ends = np.cumsum(_static(op.attrs["sizes"]))[:-1]
    return [np.asarray(p, dtype=object) for p in np.split(x, ends, axis=op.attrs["axis"])]


def _logic(f: Callable[..., bool], arity: int) -> Callable[..., Any]:
    apply = np.frompyfunc(f, arity, 1)
    return lambda op, *xs: apply(*xs)


# Rules over object arrays, for ops of the IR that shape arithmetic is made of.
RULES: dict[str, Callable[..., Any]] = {
    "identity": _same,
    "cast": _cast,
    "floor": _whole, "ceil": _whole, "round": _whole, "trunc": _whole,
    "reshape": lambda op, x: x.reshape(_static(op.attrs["shape"])),
    "transpose": lambda op, x: x.transpose(op.attrs["perm"]),
    "expand": lambda op, x: np.broadcast_to(x, _static(op.attrs["shape"])),
    "tile": lambda op, x: np.tile(x, op.attrs["repeats"]),
    "flip": lambda op, x: np.flip(x, op.attrs["axes"]),
    "slice": _slice,
    "split": _split,
    "concat": lambda op, *xs: np.concatenate(xs, axis=op.attrs["axis"]),
    "gather": lambda op, x, i: np.take(x, i.astype(np.int64), axis=op.attrs["axis"]),
    "neg": lambda op, x: -x,
    "add": _binary(lambda a, b: a + b),
    "sub": _binary(lambda a, b: a - b),
    "mul": _binary(lambda a, b: a * b),
    "div": _div_rule,
    "floor_div": _binary(lambda a, b: a // b),
    "mod": _binary(lambda a, b: a % b),
    "maximum": _binary(_max),
    "minimum": _binary(_min),
    "equal": _binary(_equal),
    "not_equal": _binary(lambda a, b: not _equal(a, b)),
    "less": _compare(lambda s: s < 0),
    "less_equal": _compare(lambda s: s <= 0),
    "greater": _compare(lambda s: s > 0),
    "greater_equal": _compare(lambda s: s >= 0),
    "where": _where,
    "not": _logic(lambda a: not a, 1),
    "and": _logic(lambda a, b: bool(a and b), 2),
    "or": _logic(lambda a, b: bool(a or b), 2),
    "reduce_sum": _reduce(lambda a, b: a + b, 0),
    "reduce_prod": _reduce(lambda a, b: a * b, 1),
    "reduce_max": _reduce(_max, 0),
    "reduce_min": _reduce(_min, 0),
}

__all__ = ["LIMIT", "RULES", "Knowledge", "settle"]
