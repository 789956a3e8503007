"""Sequences and optionals: Python's lists say what must come out, onnx's reference where it has its own rules."""

import numpy as np
import pytest

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import (
    Builder,
    Dim,
    Graph,
    OptionalType,
    SequenceType,
    TensorType,
    evaluate,
    parse_graph,
    print_graph,
    tensor,
    verify,
)
from tests.ir.onnx_node import reference

ANY = TensorType(tensor("f32").dtype, None)
A, B, C = (np.arange(n, dtype=np.float32).reshape(n, 1) for n in (1, 2, 3))


def run(build, *inputs, types=None):
    """Build a graph over inputs of these values, check it, and give (result types, results)."""
    graph = Graph("g")
    given = types or [SequenceType(ANY) if isinstance(v, list) else tensor(v.dtype, *v.shape) for v in inputs]
    outputs = build(Builder(graph), *(graph.add_input(t) for t in given))
    graph.outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    verify(graph)
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    return [v.type for v in graph.outputs], evaluate(graph, list(inputs))


def one(build, *inputs):
    return run(build, *inputs)[1][0]


def equal(got, expected):
    assert isinstance(got, list) and len(got) == len(expected)
    for a, b in zip(got, expected):
        np.testing.assert_array_equal(a, b, strict=True)


def test_construct_and_length():
    types, (values, n) = run(lambda b, x, y: (s := b.seq_construct(x, y), b.seq_length(s)), A, B)
    equal(values, [A, B])
    assert n == 2 and n.dtype == np.int64
    assert types == [SequenceType(ANY), tensor("i64")]


def test_elements_of_one_type_keep_it():
    types, _ = run(lambda b, x, y: b.seq_construct(x, y), A, A)
    assert types == [SequenceType(tensor("f32", 1, 1))]
    symbolic, _ = run(lambda b, x, y: (s := b.seq_construct(x, y), b.seq_at(s, b.const(np.int64(0)))), A, A,
                      types=[tensor("f32", "N", 1)] * 2)
    assert symbolic == [SequenceType(tensor("f32", "N", 1)), tensor("f32", "N", 1)]


def test_elements_of_two_dtypes_are_refused():
    with pytest.raises(IRError, match="cannot hold both"):
        run(lambda b, x, y: b.seq_construct(x, y), A, A.astype(np.int32))
    with pytest.raises(IRError, match="at least one value"):
        run(lambda b: b.seq_construct())


def test_empty_grows():
    types, (values,) = run(lambda b, x: b.seq_insert(b.seq_empty(element="f32"), x), A)
    equal(values, [A])
    assert types == [SequenceType(ANY)]
    with pytest.raises(IRError, match="cannot hold both"):
        run(lambda b, x: b.seq_insert(b.seq_empty(element="i64"), x), A)


@pytest.mark.parametrize("index", [0, 1, 2, -1, -3])
def test_at(index):
    np.testing.assert_array_equal(one(lambda b, s: b.seq_at(s, b.const(np.int64(index))), [A, B, C]), [A, B, C][index])


@pytest.mark.parametrize("index", [None, 0, 1, 3, -1, -3])
def test_insert(index):
    expected = [A, B, C]
    expected.insert(3 if index is None else index, A)
    at = [] if index is None else [np.int32(index)]
    equal(one(lambda b, s, x: b.seq_insert(s, x, *(b.const(i) for i in at)), [A, B, C], A), expected)


@pytest.mark.parametrize("index", [None, 0, 2, -1, -3])
def test_erase(index):
    expected = [A, B, C]
    del expected[-1 if index is None else index]
    equal(one(lambda b, s: b.seq_erase(s, *([] if index is None else [b.const(np.int64(index))])), [A, B, C]), expected)


@pytest.mark.parametrize("build", [
    lambda b, s: b.seq_at(s, b.const(np.int64(1))), lambda b, s: b.seq_erase(s, b.const(np.int64(-2))),
    lambda b, s: b.seq_insert(s, b.const(np.zeros((1, 1), np.float32)), b.const(np.int64(2))),
])
def test_an_index_out_of_range_is_an_error(build):
    with pytest.raises(EvaluationError, match="out of range for a sequence of 1"):
        run(build, [A])


def test_operations_leave_their_operand_alone():
    given = [A, B]
    run(lambda b, s, x: (b.seq_insert(s, x), b.seq_erase(s)), given, C)
    equal(given, [A, B])


@pytest.mark.parametrize("axis", [0, 1])
def test_concat_joins(axis):
    values = [B, B * 2] if axis else [A, B, C]
    np.testing.assert_array_equal(one(lambda b, s: b.concat_from_seq(s, axis=axis), values), np.concatenate(values, axis))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat_stacks_along_a_new_axis(axis):
    got = one(lambda b, s: b.concat_from_seq(s, axis=axis, new_axis=True), [B, B * 2])
    np.testing.assert_array_equal(got, np.stack([B, B * 2], axis))


def test_concat_knows_every_dim_but_the_joined():
    types, _ = run(lambda b, x, y: (s := b.seq_construct(x, y), b.concat_from_seq(s, axis=1),
                                    b.concat_from_seq(s, axis=0, new_axis=True)), B, B)
    _, joined, stacked = types
    assert joined.shape[0] == 2 and isinstance(joined.shape[1], Dim)
    assert isinstance(stacked.shape[0], Dim) and stacked.shape[1:] == (2, 1)
    with pytest.raises(EvaluationError, match="nothing to concatenate"):
        run(lambda b, s: b.concat_from_seq(s, axis=0), [])


X = np.arange(42, dtype=np.float32).reshape(7, 6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("split", [None, np.int64(2), np.int64(1), np.int64(9), "uneven"])
@pytest.mark.parametrize("keepdims", [True, False])
def test_split_is_onnxs(axis, split, keepdims):
    lengths = np.array([1, 0, X.shape[axis] - 1]) if isinstance(split, str) else None if split is None else np.array(split)
    expected = reference("SplitToSequence", X, lengths, axis=axis, keepdims=int(keepdims))
    given = [X] if lengths is None else [X, lengths]
    types, (got,) = run(lambda b, x, *s: b.split_to_seq(x, *s, axis=axis, keepdims=keepdims), *given)
    equal(got, list(expected))
    element = types[0].element
    if split is None:
        assert element.shape == got[0].shape


def test_split_with_constant_equal_lengths_knows_its_elements():
    types, _ = run(lambda b, x: [b.split_to_seq(x, b.const(np.int64(n)), axis=1) for n in (3, 4)], X)
    assert types == [SequenceType(tensor("f32", 7, 3)), SequenceType(ANY)]


def test_split_of_nothing_and_lengths_that_do_not_add_up():
    assert one(lambda b, x: b.split_to_seq(x, axis=0), np.zeros((0, 3), np.float32)) == []
    with pytest.raises(EvaluationError, match=r"\[3, 3\] do not add up to the axis of 7"):
        run(lambda b, x: b.split_to_seq(x, b.const(np.array([3, 3])), axis=0), X)


def test_optionals():
    types, results = run(lambda b, x: (o := b.optional_wrap(x), b.optional_has(o), b.optional_get(o)), A)
    assert types == [OptionalType(tensor("f32", 1, 1)), tensor("bool"), tensor("f32", 1, 1)]
    np.testing.assert_array_equal(results[2], A)
    assert results[1] and results[1].dtype == np.bool_
    types, results = run(lambda b: (o := b.optional_wrap(element="i64", sequence=True), b.optional_has(o)))
    assert types[0] == OptionalType(SequenceType(TensorType(tensor("i64").dtype, None)))
    assert results[0] is None and not results[1]
    with pytest.raises(EvaluationError, match="empty"):
        run(lambda b: b.optional_get(b.optional_wrap()))


def test_an_optional_input_may_be_none_and_a_plain_value_is_present():
    has = lambda b, o: b.optional_has(o)
    assert not run(has, None, types=[OptionalType(ANY)])[1][0]
    assert run(has, A, types=[OptionalType(ANY)])[1][0]
    assert run(has, A)[1][0]
    equal(one(lambda b, s: b.optional_get(b.optional_wrap(s)), [A, B]), [A, B])
