"""What a table entry sees: a builder, torch's own verdict on the result, and helpers for dtypes and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphopt.capture.torch.symbols import Symbols
from graphopt.capture.torch.table import Refusal
from graphopt.capture.torch.weights import PARTS, TORCH_DTYPES
from graphopt.ir.dims import Dim, DimLike, ceil_div, is_static, product
from graphopt.ir.evaluate import content
from graphopt.ir.graph import Builder, Graph, Loc, Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import BOOL, F32, I64, DType, TensorType, Type

_OURS_TO_TORCH = {ours: theirs for theirs, ours in TORCH_DTYPES.items()}


class _Builder(Builder):
    """Gives ops whose results' sizes the data decides those sizes where the data are constant."""

    def op(self, name: str, operands: Sequence[Any], attrs: Mapping[str, Any] | None = None, *,
           regions: Sequence[Graph] = (), types: Sequence[Type] | None = None) -> Op:
        op = super().op(name, operands, attrs, regions=regions, types=types)
        if op.definition.has(Trait.DATA_DEPENDENT):
            for r in op.results:
                if isinstance(r.type, TensorType) and isinstance(found := content(r), np.ndarray):
                    r.type = TensorType(r.type.dtype, found.shape)
        return op


class Context:
    """One operator being translated. `b` builds at its source location, `val` is torch's description of the result. With
    `parts`, complex dtypes are those of their parts."""

    def __init__(self, graph: Graph, symbols: Symbols, loc: Loc = (), val: Any = None, used: frozenset[int] | None = None,
                 inline: Callable[[Any, Sequence[Any]], tuple] | None = None,
                 region: Callable[[Any, Sequence[Any], str], Graph] | None = None, parts: bool = False) -> None:
        self.graph, self.symbols, self.val, self.parts = graph, symbols, val, parts
        self.b = _Builder(graph, loc=loc)
        self._used, self._inline, self._region = used, inline, region

    # What torch says of the result -------------------------------------------------------------
    def type(self, val: Any = None) -> TensorType:
        """The type of a fake tensor, by default the (first) result."""
        if val is None:
            val = self.val[0] if isinstance(self.val, (tuple, list)) else self.val
        return TensorType(self.dtype_of(val.dtype), tuple(self.symbols.dim(d) for d in val.shape))

    @property
    def shape(self) -> tuple[DimLike, ...]:
        """The shape of the (first) result."""
        return self.type().shape  # type: ignore[return-value]

    @property
    def dtype(self) -> DType:
        return self.type().dtype

    def uses(self, result: int) -> bool:
        """Whether anything reads result number `result` of an operator with several."""
        return self._used is None or result in self._used

    def dtype_of(self, d: torch.dtype) -> DType:
        d = PARTS.get(d, d) if self.parts else d
        if d not in TORCH_DTYPES:
            raise Refusal(str(d).removeprefix("torch."))
        return TORCH_DTYPES[d]

    # Nested programs --------------------------------------------------------------------------
    def inline(self, body: Any, operands: Sequence[Any]) -> tuple:
        """The results of a nested fx graph, its nodes translated in place."""
        assert self._inline is not None
        return self._inline(body, operands)

    def region(self, body: Any, operands: Sequence[Any], name: str) -> Graph:
        """A nested fx graph as a graph of its own, with one input for each operand that is a value; or what a function
        `body(context, *operands)` builds there, which gives the outputs."""
        assert self._region is not None
        return self._region(body, operands, name)

    # Values -----------------------------------------------------------------------------------
    def scalar(self, x: Any, dtype: DType) -> Value:
        """A number, a symbolic dim, or a number of run time as a rank-0 value."""
        if isinstance(x, Value):
            return self.cast(x, dtype)
        if isinstance(x, Dim):
            return self.cast(self.reshape(self.b.dims(values=(x,)), ()), dtype)
        if isinstance(x, complex):
            raise Refusal("complex")
        return self.b.const(np.asarray(x), dtype)

    def operand(self, x: Any, dtype: DType) -> Value:
        """A value, number or dim as a value of that dtype."""
        return self.cast(x, dtype) if isinstance(x, Value) else self.scalar(x, dtype)

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if x.dtype is dtype else self.b.cast(x, to=dtype, saturate=False)

    def promoted(self, *xs: Any) -> DType:
        """torch's result dtype for values and numbers: a tensor with dims beats one without, which beats a number."""
        best = None
        for x in xs:
            like = self._like(x)
            best = like if best is None else _Like(torch.result_type(best.sample, like.sample), max(best.rank, like.rank))
        assert best is not None
        return TORCH_DTYPES[best.dtype]

    def _like(self, x: Any) -> _Like:
        if isinstance(x, Value):
            return _Like(_OURS_TO_TORCH[x.dtype], 2 if x.rank else 1)
        if isinstance(x, Dim):
            x = 1
        return _Like(torch.bool if isinstance(x, bool) else torch.int64 if isinstance(x, int) else torch.get_default_dtype(), 0,
                     number=x)

    def exact(self, dtype: DType, *xs: Any) -> DType:
        """Where arithmetic of `dtype` happens: torch computes half types with numbers as f32, so a number that the
        half type cannot hold needs f32 for the same result."""
        if dtype.is_float and dtype.bits == 16:
            for x in xs:
                if isinstance(x, (int, float)) and not isinstance(x, bool) and not _holds(dtype, x):
                    return F32
        return dtype

    # Shapes -----------------------------------------------------------------------------------
    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        return x if tuple(shape) == x.shape else self.b.reshape(x, shape=tuple(shape))

    def expand(self, x: Value, shape: Sequence[DimLike]) -> Value:
        """Broadcast, by numpy's rules, to a shape of the same or higher rank."""
        if tuple(shape) == x.shape:
            return x
        x = self.reshape(x, (*[1] * (len(shape) - x.rank), *x.shape))
        return x if tuple(shape) == x.shape else self.b.expand(x, shape=tuple(shape))

    def permute(self, x: Value, order: Sequence[int]) -> Value:
        order = tuple(order)
        return x if order == tuple(range(x.rank)) else self.b.transpose(x, perm=order)

    def swap(self, x: Value, a: int, b: int) -> Value:
        order = list(range(x.rank))
        order[a], order[b] = order[b], order[a]
        return self.permute(x, order)

    def slice(self, x: Value, axis: int, start: DimLike, end: DimLike, step: int = 1, extent: DimLike | None = None) -> Value:
        """x[..., start:end:step, ...] with bounds that lie within the axis, as torch's guards have it, or of that extent."""
        if start == 0 and end == x.shape[axis] and step == 1:
            return x
        shape = list(x.shape)
        shape[axis] = ceil_div(end - start, step) if extent is None else extent
        known = None if is_static((x.shape[axis], start, end)) else [TensorType(x.dtype, tuple(shape))]
        attrs = {"axes": (axis,), "starts": (start,), "ends": (end,), "steps": (step,)}
        return self.b.op("slice", [x], attrs, types=known).result

    def unsqueeze(self, x: Value, axis: int) -> Value:
        return self.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        return xs[0] if len(xs) == 1 else self.b.concat(*xs, axis=axis)

    def full(self, value: Any, shape: Sequence[DimLike], dtype: DType) -> Value:
        return self.expand(self.operand(value, dtype), shape)

    def boolean(self, x: Value) -> Value:
        """x != 0."""
        return x if x.dtype is BOOL else self.b.not_equal(x, self.scalar(0, x.dtype))

    def indices(self, x: Value) -> Value:
        """Indices of a dtype that the IR's indexing takes."""
        return x if x.dtype.name in ("i32", "i64") else self.cast(x, I64)


class _Like:
    """A sample with the promotion category of an operand: 2 a tensor with dims, 1 without, 0 a number."""

    def __init__(self, dtype: torch.dtype, rank: int, number: Any = None) -> None:
        self.dtype, self.rank = dtype, rank
        self.sample: Any = number if number is not None and rank == 0 else torch.empty((1,) if rank == 2 else (), dtype=dtype)


def _holds(dtype: DType, x: float) -> bool:
    with np.errstate(over="ignore"):
        back = float(np.asarray(x, np.float64).astype(np.float16 if dtype.name == "f16" else ml_dtypes.bfloat16))
    return back == x or math.isnan(x)


def axis_of(axis: int, rank: int) -> int:
    """A torch dim counted from the front."""
    return axis % rank if rank else 0


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """torch's reduction dims counted from the front; None and [] mean all."""
    if axes is None or (not isinstance(axes, int) and len(axes) == 0):
        return tuple(range(rank))
    if rank == 0:
        return ()
    return tuple(sorted({a % rank for a in ([axes] if isinstance(axes, int) else axes)}))


__all__ = ["Context", "Refusal", "axes_of", "axis_of", "product"]
