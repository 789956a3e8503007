"""The reference evaluator as such: dims, observation, errors, nested graphs, runtime values that are no arrays."""

import weakref

import numpy as np
import pytest

from graphopt.errors import EvaluationError
from graphopt.ir import Builder, Dim, Graph, OptionalType, SequenceType, evaluate, evaluate_op, parse_graph, tensor

N = Dim.symbol("N")


def doubled() -> Graph:
    g = Graph("net")
    x, y = g.add_input(tensor("f32", "N", 3), "x"), g.add_input(tensor("f32", "N"), "y")
    b = Builder(g, loc=("layer",))
    g.outputs = [b.add(b.reshape(y, shape=[N, 1]), x), b.dims(values=[N * 2])]
    return g


def test_symbolic_dims_take_the_sizes_of_the_inputs():
    for n in (1, 4, 0):
        x, y = np.ones((n, 3), np.float32), np.arange(n, dtype=np.float32)
        out, dims = evaluate(doubled(), [x, y])
        np.testing.assert_array_equal(out, x + y[:, None])
        assert dims.tolist() == [2 * n]


def test_dims_of_results_are_learned_as_they_come():
    g = parse_graph("""
        graph @g(%x: f32[5]) -> i64[1, K] {
          %0 = nonzero(%x) : i64[1, K]
          %1 = reshape(%0) {shape=[K]} : i64[K]
          %2 = reshape(%1) {shape=[1, K]} : i64[1, K]
          return %2
        }
        """)
    assert evaluate(g, [np.float32([1, 0, 2, 0, 3])])[0].tolist() == [[0, 2, 4]]


def test_inputs_that_contradict_each_other_or_their_types_are_refused():
    x, y = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    with pytest.raises(EvaluationError, match=r"^input %y: dim N is 2 elsewhere and 4 here"):
        evaluate(doubled(), [x, np.ones(4, np.float32)])
    with pytest.raises(EvaluationError, match=r"^input %x: expected f32\[N, 3\], got shape \[2, 4\]"):
        evaluate(doubled(), [np.ones((2, 4), np.float32), y])
    with pytest.raises(EvaluationError, match=r"^input %y: expected f32\[N\], got shape \[2, 1\]"):
        evaluate(doubled(), [x, y[:, None]])
    with pytest.raises(EvaluationError, match="@net takes 2 inputs, got 1"):
        evaluate(doubled(), [x])


def test_a_failing_op_is_named_with_its_location():
    g = Graph()
    x, i = g.add_input(tensor("f32", 3)), g.add_input(tensor("i64", 1))
    op = g.add("gather", [x, i], {"axis": 0}, loc=("embed/Gather",))
    op.result.name = "row"
    g.outputs = [op.result]
    with pytest.raises(EvaluationError, match=r"^gather %row at embed/Gather: index 7 is out of range"):
        evaluate(g, [np.zeros(3, np.float32), np.array([7])])


def test_what_a_reference_gives_must_be_of_the_results_type():
    g = Graph()
    op = g.add("exp", [g.add_input(tensor("f32", 3))])
    with pytest.raises(EvaluationError, match=r"^exp: gave float64 for f32\[3\]"):
        evaluate_op(op, [np.zeros(3)])
    with pytest.raises(EvaluationError, match=r"^exp: gave shape \[4\] for f32\[3\]"):
        evaluate_op(op, [np.zeros(4, np.float32)])


def test_the_observer_sees_every_value_in_order():
    g = doubled()
    seen = []
    evaluate(g, [np.ones((2, 3), np.float32), np.ones(2, np.float32)], lambda v, r: seen.append((v, r.shape)))
    assert [v for v, _ in seen] == [r for op in g.ops for r in op.results]
    assert [s for _, s in seen] == [(2, 1), (2, 3), (1,)]


def test_values_are_dropped_after_their_last_use():
    g = Graph()
    b = Builder(g)
    value = g.add_input(tensor("f32", 4))
    for _ in range(5):
        value = b.exp(b.neg(value))
    g.outputs = [value]
    alive: list[weakref.ref] = []
    most = 0

    def watch(_, result):
        nonlocal most
        alive.append(weakref.ref(result))
        most = max(most, sum(r() is not None for r in alive))

    evaluate(g, [np.zeros(4, np.float32)], watch)
    assert most <= 2


def test_outputs_may_be_inputs_and_repeat():
    g = Graph()
    x = g.add_input(tensor("f32", "N"))
    g.outputs = [x, x]
    a, b = evaluate(g, [np.float32([1, 2])])
    assert a.tolist() == b.tolist() == [1, 2]


def test_sequences_and_absent_optionals_pass_through():
    g = Graph()
    s, o = g.add_input(SequenceType(tensor("f32", "N"))), g.add_input(OptionalType(tensor("f32")))
    g.outputs = [g.add("identity", [s]).result, g.add("identity", [o]).result]
    out, nothing = evaluate(g, [[np.float32([1]), np.float32([1, 2])], None])
    assert [v.tolist() for v in out] == [[1], [1, 2]] and nothing is None


FUSED = """
graph @g(%x: f32[N, 2]) -> f32[N, 2] {
  %0 = fused(%x) {kind="elementwise"} [
    graph @body(%y: f32[N, 2]) -> f32[N, 2] {
      %w = const [1.0, 2.0] : f32[2]
      %0 = mul(%y, %w) : f32[N, 2]
      %1 = expand(%0) {shape=[N, 2]} : f32[N, 2]
      return %1
    }
  ] : f32[N, 2]
  return %0
}
"""


def test_nested_graphs_run_and_know_the_dims():
    assert evaluate(parse_graph(FUSED), [np.float32([[1, 1], [3, 4]])])[0].tolist() == [[1, 2], [3, 8]]


def test_a_failure_inside_a_nested_graph_names_the_inner_op():
    g = parse_graph(FUSED.replace("%w = const [1.0, 2.0] : f32[2]", "%w = const @w : f32[2]"))
    with pytest.raises(EvaluationError, match=r"constant @w has no data\. Pass constants= when parsing"):
        evaluate(g, [np.zeros((1, 2), np.float32)])


def test_overflow_and_division_by_zero_are_values_not_warnings(recwarn):
    g = Graph()
    x = g.add_input(tensor("f32", 3))
    b = Builder(g)
    g.outputs = [b.exp(x), b.div(x, 0.0), b.cast(x, to="f16")]
    exp, div, half = evaluate(g, [np.float32([1e30, -1, 0])])
    assert exp[0] == np.inf and np.isnan(div[2]) and half[0] == np.inf
    assert not recwarn.list
