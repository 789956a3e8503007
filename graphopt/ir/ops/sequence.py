"""ONNX's sequences and optionals: lists of values, and None for what is absent. They run on the evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.ops.control import relax
from graphopt.ir.table import Operands, op
from graphopt.ir.types import BOOL, OptionalType, SequenceType, TensorType, Type, type_symbols

INDEX = "i32|i64"


def _element(o: Operands, t: Type) -> Type:
    if isinstance(t, OptionalType):
        t = t.element
    if not isinstance(t, SequenceType):
        raise o.fail(f"needs a sequence, got {t}")
    return t.element


def _common(o: Operands, elements: list[Type]) -> SequenceType:
    """The type of a sequence that holds all of these."""
    total = SequenceType(elements[0])
    for t in elements[1:]:
        joined = relax(total, SequenceType(t), type_symbols(total) | type_symbols(t))
        if joined is None:
            raise o.fail(f"a sequence cannot hold both {total.element} and {t}")
        assert isinstance(joined, SequenceType)
        total = joined
    return total


def _position(index: Any, length: int, what: str) -> int:
    at = int(np.asarray(index).reshape(-1)[0])
    if not -length <= at < length:
        raise EvaluationError(f"{what} {at} is out of range for a sequence of {length}")
    return at % length


def _construct_types(o: Operands) -> list[Type]:
    if not o.types:
        raise o.fail("needs at least one value; seq_empty makes an empty sequence")
    return [_common(o, list(o.types))]  # type: ignore[arg-type]


@op("seq_construct(xs*: any) -> any", types=_construct_types)
def seq_construct(*xs):
    """The sequence of the operands."""
    return list(xs)


@op("seq_empty(; element: dtype) -> any", types=lambda o: [SequenceType(TensorType(o.element, None))])
def seq_empty(*, element):
    """A sequence without elements, of tensors of one dtype."""
    return []


@op("seq_at(s: seq, index: I) -> any", types=lambda o: [_element(o, o.s)], I=INDEX)
def seq_at(s, index):
    """The element at an index, counted from the end where negative; an error where there is none."""
    return s[_position(index, len(s), "index")]


@op("seq_insert(s: seq, item: any, index?: I) -> any", types=lambda o: [_common(o, [_element(o, o.s), o.item])], I=INDEX)
def seq_insert(s, item, index=None):
    """The sequence with `item` put before the element at `index`, at the end where that is absent or the length.

    A negative index counts from the end.
    """
    at = len(s) if index is None else int(np.asarray(index).reshape(-1)[0])
    if not -len(s) <= at <= len(s):
        raise EvaluationError(f"index {at} is out of range for a sequence of {len(s)}")
    at += len(s) if at < 0 else 0
    return [*s[:at], item, *s[at:]]


@op("seq_erase(s: seq, index?: I) -> any", types=lambda o: [SequenceType(_element(o, o.s))], I=INDEX)
def seq_erase(s, index=None):
    """The sequence without the element at `index`, the last one where that is absent."""
    at = _position(-1 if index is None else index, len(s), "index")
    return [*s[:at], *s[at + 1:]]


@op("seq_length(s: seq) -> i64", shape=lambda o: ())
def seq_length(s):
    """The number of elements."""
    return np.asarray(len(s), np.int64)


def _concat_types(o: Operands) -> list[Type]:
    element = _element(o, o.s)
    if not isinstance(element, TensorType):
        raise o.fail(f"the elements must be tensors, they are {element}")
    if element.shape is None:
        return [element]
    dims: list[Any] = list(element.shape)
    rank = len(dims) + o.new_axis
    if not 0 <= o.axis < rank:
        raise o.fail(f"axis={o.axis} is out of range for a result of rank {rank}")
    if o.new_axis:
        dims.insert(o.axis, None)
    else:
        dims[o.axis] = None
    return [TensorType(element.dtype, tuple(dims))]


@op("concat_from_seq(s: seq; axis: int, new_axis: bool = false) -> any", types=_concat_types)
def concat_from_seq(s, *, axis, new_axis):
    """The elements joined along `axis`, with `new_axis` stacked along a new one. An empty sequence is an error."""
    if not s:
        raise EvaluationError("there is nothing to concatenate in an empty sequence")
    return np.stack(s, axis=axis) if new_axis else np.concatenate(s, axis=axis)


def _split_types(o: Operands) -> list[Type]:
    if not 0 <= o.axis < o.x.rank:
        raise o.fail(f"axis={o.axis} is out of range for {o.x}")
    shape, axis = o.x.shape, o.axis
    if o.split is None:
        rest = (1,) if o.keepdims else ()
        return [SequenceType(TensorType(o.x.dtype, (*shape[:axis], *rest, *shape[axis + 1:])))]
    split, size = o.value("split"), shape[axis]
    sizes = None if split is None or not isinstance(size, int) else lengths(split, size)
    if sizes and len(set(sizes)) == 1:
        return [SequenceType(TensorType(o.x.dtype, (*shape[:axis], sizes[0], *shape[axis + 1:])))]
    return [SequenceType(TensorType(o.x.dtype, None))]


def lengths(split: np.ndarray, size: int) -> list[int]:
    """Sizes of the pieces that split_to_seq cuts an axis of `size` into."""
    if split.ndim == 0:
        each = int(split)
        return [min(each, size - start) for start in range(0, size, each)] if each > 0 else []
    return [int(n) for n in split]


@op("split_to_seq(x: T, split?: I; axis: int, keepdims: bool = true) -> any", types=_split_types, T="any", I=INDEX)
def split_to_seq(x, split=None, *, axis, keepdims):
    """Pieces of x along `axis`: of one element each (without that axis unless `keepdims`), or of the length `split`,
    a scalar, the last piece shorter, or of the lengths `split` [n], which add up to the axis.
    """
    if split is None:
        return [p if keepdims else p.squeeze(axis) for p in np.split(x, x.shape[axis], axis=axis)] if x.shape[axis] else []
    sizes = lengths(split, x.shape[axis])
    if any(n < 0 for n in sizes) or sum(sizes) != x.shape[axis]:
        raise EvaluationError(f"lengths {sizes} do not add up to the axis of {x.shape[axis]}")
    return np.split(x, np.cumsum(sizes)[:-1], axis=axis) if sizes else []


def _wrap_types(o: Operands) -> list[Type]:
    if o.x is not None:
        return [o.x if isinstance(o.x, OptionalType) else OptionalType(o.x)]
    element: Type = TensorType(o.element, None)
    return [OptionalType(SequenceType(element) if o.sequence else element)]


@op("optional_wrap(x?: any; element: dtype = f32, sequence: bool = false) -> any", types=_wrap_types)
def optional_wrap(x=None, *, element, sequence):
    """An optional that holds x, or nothing where x is absent: of tensors (or sequences of them) of dtype `element`."""
    return x


@op("optional_has(x?: any) -> bool", types=lambda o: [TensorType(BOOL, ())])
def optional_has(x=None):
    """Whether there is a value."""
    return np.asarray(x is not None)


@op("optional_get(x: any) -> any", types=lambda o: [o.x.element if isinstance(o.x, OptionalType) else o.x])
def optional_get(x):
    """The value of an optional; an error where it has none."""
    if x is None:
        raise EvaluationError("the optional is empty")
    return x
