"""if, loop and deferred: values against Python, types against what may come out."""

import numpy as np
import pytest

from graphopt.errors import EvaluationError, IRError
from graphopt.ir import Builder, Dim, Graph, SequenceType, TensorType, evaluate, parse_graph, print_graph, tensor, verify
from graphopt.ir.types import OptionalType

N = Dim.symbol("N")


def region(owner, name, inputs, build):
    """A nested graph; `build(builder, *values)` gives its outputs."""
    graph = owner.nested(name)
    outputs = build(Builder(graph), *(graph.add_input(t) for t in inputs))
    graph.outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    return graph


def checked(graph, *inputs):
    verify(graph)
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    return evaluate(graph, list(inputs))


def conditional(then, other, types):
    graph = Graph("g")
    cond = graph.add_input(tensor("bool"))
    values = [graph.add_input(t) for t in types]
    regions = [region(graph, n, types, f) for n, f in (("then", then), ("else", other))]
    graph.outputs = list(graph.add("if", [cond, *values], regions=regions).results)
    return graph


def looped(body, carried, captures=(), trip=True, cond=True, declared=None):
    """A loop whose trip count and condition are inputs of the graph; `declared` are the body's input types."""
    graph = Graph("g")
    t = graph.add_input(tensor("i64"), "trip") if trip else None
    c = graph.add_input(tensor("bool"), "cond") if cond else None
    values = [graph.add_input(v) for v in (*carried, *captures)]
    inner = region(graph, "body", [tensor("i64"), tensor("bool"), *(declared or [*carried, *captures])], body)
    graph.outputs = list(graph.add("loop", [t, c, *values], {"carried": len(carried)}, regions=[inner]).results)
    return graph


# if -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("cond", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_if_takes_one_branch(cond, shape):
    graph = Graph("g")
    c, x = graph.add_input(tensor("bool", *shape)), graph.add_input(tensor("f32", "N"))
    regions = [region(graph, n, [x.type], f) for n, f in (("then", lambda b, v: b.add(v, 1)), ("else", lambda b, v: b.neg(v)))]
    graph.outputs = [graph.add("if", [c, x], regions=regions).result]
    assert graph.outputs[0].type == tensor("f32", "N")
    got, = checked(graph, np.full(shape, cond), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(got, [2, 3] if cond else [-1, -2])


def test_if_results_are_what_the_branches_agree_on():
    graph = conditional(lambda b, x: (b.concat(x, x, axis=0), b.const(1.0, "f32"), b.identity(x)),
                        lambda b, x: (b.identity(x), b.const([1.0], "f32"), b.neg(x)), [tensor("f32", "N", 3)])
    doubled, scalar, same = (v.type for v in graph.outputs)
    assert doubled.rank == 2 and doubled.shape[1] == 3 and doubled.shape[0] not in (N, 2 * N)
    assert scalar == TensorType(scalar.dtype, None)
    assert same == tensor("f32", "N", 3)
    x = np.ones((2, 3), np.float32)
    assert [r.shape for r in checked(graph, np.array(True), x)] == [(4, 3), (), (2, 3)]
    assert [r.shape for r in checked(graph, np.array(False), x)] == [(2, 3), (1,), (2, 3)]


def test_if_refuses_branches_that_cannot_meet():
    with pytest.raises(IRError, match=r"output 0 is f32\[3\] in one branch and i32\[3\] in the other"):
        conditional(lambda b, x: b.neg(x), lambda b, x: b.cast(x, to="i32"), [tensor("f32", 3)])
    with pytest.raises(IRError, match="1 and 2 outputs"):
        conditional(lambda b, x: b.neg(x), lambda b, x: (b.neg(x), b.neg(x)), [tensor("f32", 3)])


def test_if_wants_one_truth_value():
    graph = Graph("g")
    c = graph.add_input(tensor("bool", 2))
    regions = [region(graph, n, [], lambda b: b.const(1.0, "f32")) for n in ("then", "else")]
    graph.outputs = [graph.add("if", [c], regions=regions).result]
    with pytest.raises(EvaluationError, match="one element"):
        evaluate(graph, [np.array([True, False])])


# loop ---------------------------------------------------------------------------------------
def fibonacci(b, i, c, x, y, limit):
    return b.less(y, limit), b.identity(y), b.add(x, y), b.identity(x)


@pytest.mark.parametrize("trip, start", [(10, True), (3, True), (0, True), (10, False), (2**62, True)])
def test_loop_runs_while_both_bounds_hold(trip, start):
    scalar = tensor("i64")
    graph = looped(fibonacci, [scalar, scalar], [scalar])
    assert [str(v.type).startswith(s) for v, s in zip(graph.outputs, ("i64[]", "i64[]", "i64[_"))] == [True] * 3
    x, y, seen, steps, go = 0, 1, [], 0, start
    while steps < trip and go:
        go, x, y = y < 20, y, x + y
        seen.append(y - x)
        steps += 1
    got = checked(graph, np.array(trip), np.array(start), np.array(0), np.array(1), np.array(20))
    assert got[0] == x and got[1] == y and got[2].tolist() == seen and got[2].dtype == np.int64


@pytest.mark.parametrize("trip, cond", [(True, False), (False, True), (False, False)])
def test_loop_without_trip_count_or_condition(trip, cond):
    def body(b, i, c, x):
        more = b.add(x, b.const(np.int64(1)))
        return b.less(more, b.const(np.int64(5))), more

    graph = looped(body, [tensor("i64")], trip=trip, cond=cond)
    inputs = ([np.array(3)] if trip else []) + ([np.array(True)] if cond else []) + [np.array(0)]
    assert checked(graph, *inputs)[0] == (3 if trip else 5)


def test_loop_passes_the_iteration_and_the_condition():
    graph = looped(lambda b, i, c, x: (b.const(True), b.add(x, i), b.identity(i), b.identity(c)), [tensor("i64")], cond=False)
    total, iterations, conditions = checked(graph, np.array(4), np.array(10))
    assert total == 16 and iterations.tolist() == [0, 1, 2, 3] and conditions.tolist() == [True] * 4


def test_scan_outputs_of_no_iterations_are_empty():
    graph = looped(lambda b, i, c, x: (b.identity(c), b.identity(x), b.neg(x), b.identity(i)), [tensor("f32", 2, 3)])
    x, values, numbers = checked(graph, np.array(0), np.array(True), np.ones((2, 3), np.float32))
    assert x.shape == (2, 3) and values.shape == (0, 2, 3) and values.dtype == np.float32 and numbers.shape == (0,)


def test_carried_values_may_grow():
    def body(b, i, c, x):
        return b.identity(c), b.concat(x, x, axis=0)

    graph = looped(body, [tensor("f32", 1)], declared=[tensor("f32", "M")])
    result = graph.outputs[0].type
    assert result.rank == 1 and isinstance(result.shape[0], Dim)
    assert checked(graph, np.array(5), np.array(True), np.ones(1, np.float32))[0].shape == (32,)


def test_carried_values_may_change_their_rank():
    def body(b, i, c, x):
        wrapped = b.op("deferred", [x], {"what": "Unsqueeze", "run": Unsqueeze()}, types=Unsqueeze.result_types).result
        return b.identity(c), wrapped

    graph = looped(body, [tensor("f32")], declared=[TensorType(tensor("f32").dtype, None)])
    assert graph.outputs[0].type == TensorType(tensor("f32").dtype, None)
    verify(graph)
    got, = evaluate(graph, [np.array(3), np.array(True), np.array(2, np.float32)])
    assert got.shape == (1, 1, 1)


class Unsqueeze:
    """What a capture puts into a deferred op."""

    result_types = [TensorType(tensor("f32").dtype, None)]

    def __call__(self, operands):
        return [operands[0][None]]


def test_types_that_an_iteration_keeps_are_those_of_the_operands():
    graph = looped(lambda b, i, c, x, y: (b.identity(c), b.neg(x), b.add(x, y)), [tensor("f32", "N", 4)], [tensor("f32", "N", 4)])
    state, scan = (v.type for v in graph.outputs)
    assert state == tensor("f32", "N", 4)
    assert scan.shape[1:] == (N, 4)
    # The same body over symbols of its own keeps the shape as well, whatever it is.
    loose = looped(lambda b, i, c, x: (b.identity(c), b.neg(x)), [tensor("f32", "N", 4)], declared=[tensor("f32", "A", "B")])
    assert loose.outputs[0].type == tensor("f32", "N", 4)


def test_a_symbol_means_nothing_outside_where_an_iteration_changes_it():
    """N is the operand's size in the first iteration only, so a scan output of the body's N has no known size."""
    def body(b, i, c, x):
        return b.identity(c), b.slice(x, axes=[0], starts=[1], ends=[N], steps=[1]), b.reduce_sum(x, axes=[1])

    graph = looped(body, [tensor("f32", "N", 4)])
    state, scan = (v.type for v in graph.outputs)
    assert N not in (state.shape[0], scan.shape[1])


def test_a_constant_trip_count_sizes_the_scan_outputs():
    def counted(build_cond, start=None):
        graph = Graph("g")
        b = Builder(graph)
        x = graph.add_input(tensor("f32", 3))
        inner = region(graph, "body", [tensor("i64"), tensor("bool"), x.type],
                       lambda b, i, c, v: (build_cond(b, c, v), b.neg(v), b.exp(v)))
        start_value = None if start is None else b.const(start)
        graph.outputs = list(graph.add("loop", [b.const(np.int64(4)), start_value, x], {"carried": 1}, regions=[inner]).results)
        return graph.outputs[1].type.shape[0]

    assert counted(lambda b, c, v: c) == 4
    assert counted(lambda b, c, v: b.const(True), start=True) == 4
    assert counted(lambda b, c, v: c, start=False) == 0
    assert isinstance(counted(lambda b, c, v: b.less(b.reduce_sum(v, axes=[0]), 0.0)), Dim)


def test_loop_carries_sequences_and_optionals():
    element = tensor("f32", 2)
    start = SequenceType(TensorType(element.dtype, None))

    graph = Graph("g")
    trip, x = graph.add_input(tensor("i64")), graph.add_input(element)
    b = Builder(graph)
    empty = b.seq_empty(element="f32")
    inner = region(graph, "body", [tensor("i64"), tensor("bool"), start, element],
                   lambda b, i, c, s, v: (b.identity(c), b.seq_insert(s, b.add(v, b.cast(i, to="f32")))))
    graph.outputs = list(graph.add("loop", [trip, None, empty, x], {"carried": 1}, regions=[inner]).results)
    assert graph.outputs[0].type == start
    got, = checked(graph, np.array(3), np.array([1, 2], np.float32))
    assert [v.tolist() for v in got] == [[1, 2], [2, 3], [3, 4]]
    maybe = conditional(lambda b, v: b.optional_wrap(v), lambda b, v: b.optional_wrap(), [element])
    assert isinstance(maybe.outputs[0].type, OptionalType)
    assert checked(maybe, np.array(False), np.zeros(2, np.float32)) == [None]


def test_loop_refuses_what_cannot_be():
    scalar = tensor("f32")
    with pytest.raises(IRError, match=r"carried value 0 is f32\[\] before the loop and i32\[\] after"):
        looped(lambda b, i, c, x: (b.identity(c), b.cast(x, to="i32")), [scalar])
    with pytest.raises(IRError, match="takes 3 inputs, it is given 4"):
        looped(lambda b, i, c, x: (b.identity(c), b.identity(x)), [scalar], [scalar], declared=[scalar])
    with pytest.raises(IRError, match=r"input 2 of the body @body is f32\[3\], it is given f32\[4\]"):
        looped(lambda b, i, c, x: (b.identity(c), b.identity(x)), [tensor("f32", 4)], declared=[tensor("f32", 3)])
    with pytest.raises(IRError, match=r"\(condition, carried"):
        looped(lambda b, i, c, x: b.identity(c), [scalar])


def test_a_scan_output_must_keep_its_shape():
    graph = looped(lambda b, i, c, x: (b.identity(c), b.concat(x, x, axis=0), b.identity(x)), [tensor("f32", 1)],
                   declared=[tensor("f32", "M")])
    with pytest.raises(EvaluationError, match=r"changes its shape from \[1\] to \[2\]"):
        evaluate(graph, [np.array(2), np.array(True), np.ones(1, np.float32)])


def test_loops_nest_and_specialise():
    vector = tensor("f32", "N")

    def outer(b, i, c, x):
        inner = region(b.graph, "inner", [tensor("i64"), tensor("bool"), vector],
                       lambda b, i, c, v: (b.identity(c), b.add(v, b.cast(b.reshape(i, shape=[1]), to="f32"))))
        return b.identity(c), b.op("loop", [b.add(i, b.const(np.int64(1))), None, x], {"carried": 1}, regions=[inner]).result

    graph = looped(outer, [vector])
    x = np.array([1, 2, 3], np.float32)
    got, = checked(graph, np.array(3), np.array(True), x)
    np.testing.assert_array_equal(got, x + 4)  # 0, then 0+1, then 0+1+2
    fixed = graph.specialise({"N": 3})
    assert fixed.outputs[0].type == tensor("f32", 3)
    np.testing.assert_array_equal(checked(fixed, np.array(3), np.array(True), x)[0], x + 4)


# deferred -----------------------------------------------------------------------------------
class Doubled:
    """A run with two results, the second more exact than its declared type."""

    result_types = [tensor("f32", 2), TensorType(tensor("i64").dtype, None)]

    def __call__(self, operands):
        return [operands[0] * 2, np.array([operands[0].size])]


def test_deferred_runs_what_the_capture_gave():
    graph = Graph("g")
    x = graph.add_input(tensor("f32", 2))
    op = graph.add("deferred", [x, None], {"what": "Doubled", "run": Doubled()}, types=[tensor("f32", 2), tensor("i64", 1)])
    graph.outputs = list(op.results)
    verify(graph)
    assert [v.type for v in graph.outputs] == [tensor("f32", 2), tensor("i64", 1)]
    doubled, size = evaluate(graph, [np.array([1, 2], np.float32)])
    assert doubled.tolist() == [2, 4] and size.tolist() == [2]
    with pytest.raises(IRError, match="contradicts"):
        graph.add("deferred", [x], {"what": "Doubled", "run": Doubled()}, types=[tensor("f64", 2), tensor("i64", 1)])
