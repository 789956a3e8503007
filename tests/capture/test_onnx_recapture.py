"""Operands that shape the program but are not known: deferred ops, and capturing again with what settles them."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.ir import evaluate
from tests.capture.onnx_models import captured, check, op_names, parse, run_ort

RNG = np.random.default_rng(3)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
CASES = {
    "reshape": ("float[2, 3, 4] x, int64[2] s", "float[A, B] y", "y = Reshape(x, s)", {"s": np.array([4, -1])}),
    "expand": ("float[2, 3, 4] x, int64[4] s", "float[A, B, C, D] y", "y = Expand(x, s)", {"s": np.array([5, 1, 3, 4])}),
    "tile": ("float[2, 3, 4] x, int64[3] s", "float[A, B, C] y", "y = Tile(x, s)", {"s": np.array([1, 2, 3])}),
    "slice": ("float[2, 3, 4] x, int64[1] a, int64[1] e, int64[1] ax, int64[1] st", "float[A, B, C] y",
              "y = Slice(x, a, e, ax, st)",
              {"a": np.array([-1]), "e": np.array([-100]), "ax": np.array([2]), "st": np.array([-2])}),
    "reduce": ("float[2, 3, 4] x, int64[2] a", "float[A] y", "y = ReduceSum<keepdims = 0>(x, a)", {"a": np.array([0, -1])}),
    "top_k": ("float[2, 3, 4] x, int64[1] k", "float[A, B, C] y, int64[A, B, C] i", "y, i = TopK(x, k)", {"k": np.array([2])}),
    "pad": ("float[2, 3, 4] x, int64[6] p, float v", "float[A, B, C] y", "y = Pad(x, p, v)",
            {"p": np.array([0, 1, 2, 1, 0, 0]), "v": np.array(7, np.float32)}),
    "unsqueeze": ("float[2, 3, 4] x, int64[2] a", "float[A, B, C, D, E] y", "y = Unsqueeze(x, a)", {"a": np.array([0, -1])}),
    "resize": ("float[1, 2, 3, 4] x, float[4] s", "float[A, B, C, D] y", "y = Resize<mode = \"linear\">(x, , s)",
               {"s": np.float32([1, 1, 2, 1.5])}),
    "one_hot": ("int64[3] x, int64 d, float[2] v", "float[A, B] y", "y = OneHot(x, d, v)",
                {"d": np.array(4), "v": np.float32([0, 1])}),
    "range": ("int64 a, int64 b, int64 c", "int64[A] y", "y = Range(a, b, c)",
              {"a": np.array(2), "b": np.array(11), "c": np.array(3)}),
    "cumsum": ("float[2, 3, 4] x, int64 a", "float[2, 3, 4] y", "y = CumSum(x, a)", {"a": np.array(1)}),
    "split": ("float[2, 3, 4] x, int64[2] s", "float[A, B, C] y, float[A, B, D] z", "y, z = Split<axis = 2>(x, s)",
              {"s": np.array([1, 3])}),
    "arithmetic": ("float[2, 3, 4] x, int64 n", "float[A, B] y",
                   "m = Constant<value_ints = [-1]>()  ax = Constant<value_ints = [0]>()  two = Constant<value_int = 2>() "
                   "k = Mul(n, two)  u = Unsqueeze(k, ax)  s = Concat<axis = 0>(u, m)  y = Reshape(x, s)", {"n": np.array(3)}),
    "chained": ("float[2, 3, 4] x, int64[2] s, int64[1] a", "float[A] y",
                "h = Reshape(x, s)  r = ReduceMax<keepdims = 0>(h, a)  y = Relu(r)", {"s": np.array([6, 4]), "a": np.array([1])}),
}


DATA = {"resize": RNG.standard_normal((1, 2, 3, 4)).astype(np.float32), "one_hot": np.array([0, 3, -1])}


def _feeds(name: str) -> dict[str, np.ndarray]:
    return dict(CASES[name][3]) if name == "range" else {"x": DATA.get(name, X), **CASES[name][3]}


@pytest.mark.parametrize("name", CASES)
def test_control_inputs_settle_what_is_deferred(name: str) -> None:
    inputs, outputs, nodes, control = CASES[name]
    model = parse(f"g ({inputs}) => ({outputs}) {{ {nodes} }}")
    feeds = _feeds(name)
    graph = captured(model)
    wanted = {n for n in control if (name, n) not in {("pad", "v"), ("one_hot", "v")}}
    assert set(graph.metadata["control_inputs"]) == wanted and "deferred" in op_names(graph)
    check(graph, model, feeds)  # deferred ops run, if slowly
    settled = graph.metadata["recapture"]({n: v.shape for n, v in feeds.items()},
                                          {n: feeds[n] for n in graph.metadata["control_inputs"]})
    assert "deferred" not in op_names(settled) and settled.input_names == graph.input_names
    check(settled, model, feeds)


def test_deferred_ops_take_any_value() -> None:
    inputs, outputs, nodes, _ = CASES["reshape"]
    model = parse(f"g ({inputs}) => ({outputs}) {{ {nodes} }}")
    graph = captured(model)
    for shape in ([2, 12], [6, 4], [-1, 8], [0, -1]):
        check(graph, model, {"x": X, "s": np.array(shape)})


def test_values_bind_inputs_at_once() -> None:
    inputs, outputs, nodes, control = CASES["reshape"]
    model = parse(f"g ({inputs}) => ({outputs}) {{ {nodes} }}")
    graph = captured(model, values=control)
    assert op_names(graph) == ["reshape"] and graph.outputs[0].type.shape == (4, 6)
    assert graph.input_names == ["x", "s"]


def test_control_that_depends_on_data_stays_deferred_and_asks_for_nothing() -> None:
    model = parse("""g (float[4, 5] x) => (float[A, 5] y) {
        m = ReduceMax<keepdims = 0>(x)  k = Cast<to = 7>(m)  ax = Constant<value_ints = [0]>()  u = Unsqueeze(k, ax)
        one = Constant<value_ints = [0]>()  y = Slice(x, one, u) }""")
    graph = captured(model)
    assert graph.metadata["control_inputs"] == [] and "deferred" in op_names(graph)
    x = np.abs(RNG.standard_normal((4, 5))).astype(np.float32)
    x[0, 0] = 2.5
    check(graph, model, {"x": x})


def test_unknown_rank_defers_until_the_shape_is_given() -> None:
    model = parse("g (float[N] x) => (float[N] y) { s = Softmax<axis = -1>(x)  y = Transpose(s) }")
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.ClearField("shape")
    graph = captured(model)
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    expected = run_ort(model, {"x": x})[0]
    np.testing.assert_allclose(evaluate(graph, [x])[0], expected, rtol=1e-6)
    settled = graph.metadata["recapture"]({"x": (3, 4)}, {})
    assert op_names(settled) == ["softmax", "transpose"]
    np.testing.assert_allclose(evaluate(settled, [x])[0], expected, rtol=1e-6)


def test_symbolic_sizes_that_cannot_be_attributes_wait_for_the_shape() -> None:
    model = parse("""g (float[1, 1, H, 8] x) => (float[A, B, C, D] y) <float[1, 1, 3, 3] w = {1,1,1,1,1,1,1,1,1}> {
        y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, w) }""")
    graph = captured(model)
    assert op_names(graph) == ["deferred"]
    x = RNG.standard_normal((1, 1, 7, 8)).astype(np.float32)
    check(graph, model, {"x": x})
    settled = graph.metadata["recapture"]({"x": x.shape}, {})
    assert op_names(settled) == ["conv"]
    check(settled, model, {"x": x})


@pytest.mark.parametrize("node", ["GatherND(x, i)", "ScatterND(x, i, x)"])
def test_index_tuples_of_unknown_length_wait_for_a_shape(node: str) -> None:
    model = parse(f"g (float[2, 3] x, int64[N, D] i) => (float[] y) {{ y = {node} }}")
    x, i = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([[1], [0]], np.int64)
    for graph in (captured(model), captured(model, shapes={"i": (2, 1)})):
        check(graph, model, {"x": x, "i": i})


def test_what_alone_shows_a_size_stays() -> None:
    """The mask is no constant, so that how many rows it keeps is known once it is applied; nothing else reads the result."""
    model = parse("""g (float[3, 2] x, bool[3] m, float[4] y) => (float[] z) {
        k = Compress<axis = 0>(x, m)  s = Shape(k)  i = Constant<value_ints = [0]>()  n = Gather(s, i)
        t = Constant<value_ints = [-1]>()  d = Concat<axis = 0>(n, t)  z = Reshape(y, d) }""")
    feeds = {"x": np.ones((3, 2), np.float32), "m": np.array([True, False, True]), "y": np.arange(4, dtype=np.float32)}
    graph = captured(model)
    check(graph, model, feeds)
    compiled = graphopt.compile(model)
    np.testing.assert_array_equal(compiled.run(feeds)["z"], feeds["y"].reshape(2, 2))


def test_a_slice_beyond_a_short_axis_refuses_nothing_that_is_valid() -> None:
    """x[-3:-1] is taken to have two elements, but of two it takes one, which then broadcasts."""
    model = parse("""g (float[N, 4] x, float[3, 4] b) => (float[] y) {
        s = Constant<value_ints = [-3]>()  e = Constant<value_ints = [-1]>()  a = Constant<value_ints = [0]>()
        z = Slice(x, s, e, a)  y = Add(z, b) }""")
    x, b = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    assert "N" in captured(model).symbols()
    check(captured(model, shapes={"x": (2, 4)}), model, {"x": x, "b": b})
