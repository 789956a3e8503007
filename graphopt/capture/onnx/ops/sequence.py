"""Sequences, optionals and random tensors."""

from __future__ import annotations

import numpy as np

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.capture.onnx.types import Symbols, element_dtype, from_type_proto
from graphopt.ir.graph import Value
from graphopt.ir.table import normalise_axis
from graphopt.ir.types import F32, DType, OptionalType, SequenceType, TensorType


@entry("SequenceConstruct")
def sequence_construct(b: Context, n: Node) -> Results:
    return b.seq_construct(*(v for v in n.inputs if v is not None))


@entry("SequenceEmpty")
def sequence_empty(b: Context, n: Node) -> Results:
    return b.seq_empty(element=n.dtype("dtype", F32))


@entry("SequenceAt")
def sequence_at(b: Context, n: Node) -> Results:
    return b.seq_at(n[0], n[1])


@entry("SequenceInsert")
def sequence_insert(b: Context, n: Node) -> Results:
    return b.op("seq_insert", [n[0], n[1], n.get(2)]).result


@entry("SequenceErase")
def sequence_erase(b: Context, n: Node) -> Results:
    return b.op("seq_erase", [n[0], n.get(1)]).result


@entry("SequenceLength")
def sequence_length(b: Context, n: Node) -> Results:
    return b.seq_length(n[0])


@entry("ConcatFromSequence")
def concat_from_sequence(b: Context, n: Node) -> Results:
    """A negative axis needs the elements' rank."""
    new, axis = bool(n.attr("new_axis", 0)), n.attr("axis")
    if axis < 0:
        from graphopt.capture.onnx.table import Defer

        t = n[0].type
        element = t.element if isinstance(t, SequenceType) else None
        if not isinstance(element, TensorType) or element.shape is None:
            raise Defer("the rank of the sequence's elements is not known")
        axis = normalise_axis(axis, len(element.shape) + new)
    return b.concat_from_seq(n[0], axis=axis, new_axis=new)


@entry("SplitToSequence")
def split_to_sequence(b: Context, n: Node) -> Results:
    return b.op("split_to_seq", [n[0], n.get(1)], {"axis": n.axis(0, len(rank_of(n[0]))),
                                                   "keepdims": bool(n.attr("keepdims", 1))}).result


@entry("Optional")
def optional(b: Context, n: Node) -> Results:
    x = n.get(0)
    if x is not None:
        return b.optional_wrap(x)
    t = from_type_proto(n.attr("type"), Symbols(), "d", n.place)
    inner = t.element if isinstance(t, OptionalType) else t
    sequence = isinstance(inner, SequenceType)
    element = inner.element if isinstance(inner, SequenceType) else inner
    assert isinstance(element, TensorType)
    return b.op("optional_wrap", [None], {"element": element.dtype, "sequence": sequence}).result


@entry("OptionalHasElement")
def optional_has_element(b: Context, n: Node) -> Results:
    x = n.get(0)
    if x is None or not isinstance(x.type, OptionalType):
        return b.const(np.asarray(x is not None))
    return b.optional_has(x)


@entry("OptionalGetElement")
def optional_get_element(b: Context, n: Node) -> Results:
    return b.optional_get(n[0]) if isinstance(n[0].type, OptionalType) else n[0]


def _seed(n: Node) -> float | None:
    return n.attr("seed", None)


def _dtype(n: Node, x: Value | None) -> DType:
    default = x.dtype if x is not None and x.dtype.is_float else F32
    code = n.attr("dtype", 0)
    return element_dtype(code, n.place) if code else default


@entry("RandomUniform", "RandomUniformLike")
def random_uniform(b: Context, n: Node) -> Results:
    x = n.get(0)
    shape = rank_of(x) if x is not None else n.attr("shape")
    return b.random_uniform(shape=shape, low=n.attr("low", 0.0), high=n.attr("high", 1.0), dtype=_dtype(n, x), seed=_seed(n))


@entry("RandomNormal", "RandomNormalLike")
def random_normal(b: Context, n: Node) -> Results:
    x = n.get(0)
    shape = rank_of(x) if x is not None else n.attr("shape")
    return b.random_normal(shape=shape, mean=n.attr("mean", 0.0), scale=n.attr("scale", 1.0), dtype=_dtype(n, x), seed=_seed(n))


@entry("Bernoulli")
def bernoulli(b: Context, n: Node) -> Results:
    x = n[0]
    to = n.dtype("dtype", x.dtype)
    return b.bernoulli(x, dtype=to, seed=_seed(n))


@entry("Multinomial")
def multinomial(b: Context, n: Node) -> Results:
    """Samples by the Gumbel-max trick: the class of the largest log-probability plus Gumbel noise."""
    x = n[0]
    batch, classes = rank_of(x)
    draws = b.random_uniform(shape=(batch, n.attr("sample_size", 1), classes), low=1e-30, high=1.0, dtype=x.dtype, seed=_seed(n))
    noise = b.neg(b.log(b.neg(b.log(draws))))
    best = b.argmax(b.add(b.unsqueezed(x, [1]), noise), axis=2, keepdims=False)
    return b.to(best, n.dtype("dtype") if n.attr("dtype", 0) else "i32")
