"""Shape arithmetic is carried out at capture: what depends on it gets static attributes with symbolic dims."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.ir import Dim
from tests.capture.onnx_models import captured, check, op_names, parse

RNG = np.random.default_rng(0)
SIZES = [(1, 1), (3, 5), (2, 17)]


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 18])
def test_hardmax_of_an_empty_axis_is_empty(opset: int) -> None:
    model = parse("g (float[4, 0] x) => (float[4, 0] y) { y = Hardmax<axis = 1>(x) }", opset=opset)
    check(captured(model), model, {"x": np.zeros((4, 0), np.float32)})
    free = parse("g (float[4, N] x) => (float[A, B] y) { y = Hardmax<axis = 1>(x) }", opset=opset)
    for n in (0, 1, 3):
        check(captured(free), free, {"x": _f32(4, n)})
    check(captured(free), free, {"x": np.full((4, 2), -np.inf, np.float32)})


@pytest.mark.parametrize("text, left", [
    ("""g (float[N, T, 8] x) => (float[A, B] y) {
        s = Shape(x)  zero = Constant<value_int = 0>()  one = Constant<value_int = 1>()
        n = Gather(s, zero)  t = Gather(s, one)  nt = Mul(n, t)
        axes = Constant<value_ints = [0]>()  u = Unsqueeze(nt, axes)  m = Constant<value_ints = [-1]>()
        target = Concat<axis = 0>(u, m)
        y = Reshape(x, target) }""", ["reshape"]),
    ("""g (float[N, T, 8] x) => (float[A, B, C, D] y) {
        target = Constant<value_ints = [0, 0, 2, -1]>()
        y = Reshape(x, target) }""", ["reshape"]),
    ("""g (float[N, T, 8] x) => (float[A, B, C] y) {
        s = Shape(x)  minus = Constant<value_int = -1>()  one = Constant<value_ints = [1, 1, 1]>()
        is_minus = Equal(s, minus)  target = Where(is_minus, one, s)  zero = Constant<value_float = 2.0>()
        y = Expand(zero, target) }""", ["expand"]),
    ("""g (float[N, T, 8] x) => (float[A, B, C] y) {
        end = Shape<start = 1, end = 2>(x)  one = Constant<value_ints = [1]>()  last = Sub(end, one)
        y = Slice(x, last, end, one) }""", ["slice"]),
    ("""g (float[N, T, 8] x) => (float[A, B] y) {
        s = Shape(x)  i = Constant<value_ints = [0, 1]>()  z = Gather(s, i)
        f = Cast<to = 1>(z)  two = Constant<value_float = 2.0>()  g2 = Mul(f, two)  h = Floor(g2)  c = Cast<to = 7>(h)
        y = ConstantOfShape<value = float[1] {3}>(c) }""", ["expand"]),
    ("""g (float[N, T, 8] x) => (int64[A] y) {
        s = Shape(x)  i = Constant<value_int = 1>()  t = Gather(s, i)  zero = Constant<value_int = 0>()
        one = Constant<value_int = 1>()  y = Range(zero, t, one) }""", ["iota"]),
    ("""g (float[N, T, 8] x) => (float[A, B] y, int64 size) {
        size = Size(x)  s = Shape(x)  axes = Constant<value_ints = [0]>()  all = ReduceProd<keepdims = 1>(s, axes)
        one = Constant<value_ints = [1]>()  target = Concat<axis = 0>(all, one)  y = Reshape(x, target) }""",
     ["reshape", "dims", "reshape"]),
    ("""g (float[N, T, 8] x) => (float[A, B, C] y) {
        a, b, c = Split<axis = 0, num_outputs = 3>(s)  target = Concat<axis = 0>(b, a, c)  s = Shape(x)
        y = Reshape(x, target) }""", ["reshape"]),
    ("""g (float[N, T, 8] x) => (float[A, B, C] y) {
        s = Shape(x)  r = Constant<value_ints = [2, 1, 1]>()  grown = Mul(s, r)  most = Max(grown, s)  least = Min(s, grown)
        twice = Div(most, least)  y = Tile(x, twice) }""", None),
])
def test_shape_arithmetic_becomes_attributes(text: str, left: list[str] | None) -> None:
    model = parse(text, opset=18)
    if "s = Shape(x)\n        y" in text:  # written out of order on purpose; onnxruntime wants it sorted
        nodes = sorted(model.graph.node, key=lambda n: n.op_type != "Shape")
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    graph = captured(model)
    if left is not None:
        assert sorted(op_names(graph)) == sorted(left)
    assert graph.metadata["control_inputs"] == [] and "deferred" not in op_names(graph)
    for n, t in SIZES:
        check(graph, model, {"x": _f32(n, t, 8)})


def test_reshape_keeps_the_dims_as_polynomials() -> None:
    graph = captured(parse("""g (float[N, T, 8] x) => (float[A, B] y) {
        target = Constant<value_ints = [-1, 4]>()  y = Reshape(x, target) }"""))
    n, t = Dim.symbol("N"), Dim.symbol("T")
    assert graph.outputs[0].type.shape == (n * t * 2, 4)


def test_dim_params_become_identifiers_each_its_own() -> None:
    model = parse("g (float[a, b, c, d] x) => (float[a, b, c, d] y) { y = Relu(x) }")
    for d, name in zip(model.graph.input[0].type.tensor_type.shape.dim, ["batch size", "batch-size", "1", "min"]):
        d.dim_param = name
    graph = captured(model)
    names = [str(d) for d in graph.inputs[0].type.shape]
    assert len(set(names)) == 4 and all(name.isidentifier() for name in names)


def test_dims_without_name_are_named_after_the_input() -> None:
    graph = captured(parse("g (float[?, 3] x) => (float[?, 3] y) { y = Relu(x) }"))
    assert graph.symbols() == ["x_0"]


def test_shapes_fix_symbols_everywhere() -> None:
    model = parse("g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y) { y = Add(x, z) }")
    graph = captured(model, shapes={"x": (5, 3)})
    assert [v.type.shape for v in graph.inputs] == [(5, 3), (5, 3)] and "recapture" not in graph.metadata


def test_zero_size_and_scalar_shapes() -> None:
    model = parse("""g (float[N, 4] x) => (float[A, B] y, float s) {
        target = Constant<value_ints = [-1, 2]>()  y = Reshape(x, target)
        s = ReduceSum<keepdims = 0>(x) }""", opset=13)
    graph = captured(model)
    for n in (0, 1, 3):
        check(graph, model, {"x": _f32(n, 4)})
    allow = parse("""g (float[N, 4] x) => (float[A, B] y) {
        t = Constant<value_ints = [0, 7]>()  y = Reshape<allowzero = 1>(x, t) }""")
    check(captured(allow), allow, {"x": _f32(0, 4)})


def test_dead_shape_arithmetic_is_gone() -> None:
    graph = captured(parse("g (float[2, 3] x) => (float[6] y) { m = Constant<value_ints = [-1]>()  y = Reshape(x, m) }"))
    assert [op.name for op in graph.ops] == ["reshape"]


def test_data_dependent_sizes_flow_as_symbols() -> None:
    model = parse("""g (float[N] x) => (float[A, 1] y, int64[B] back) {
        i = NonZero(x)  flat = Squeeze<axes = [0]>(i)  picked = Gather(x, flat)
        s = Shape(picked)  one = Constant<value_ints = [1]>()  t = Concat<axis = 0>(s, one)
        y = Reshape(picked, t)  back = Identity(s) }""",
                  opset=11)
    graph = captured(model)
    assert "deferred" not in op_names(graph)
    for x in ([0, 1, 2, 0, 3], [0, 0], [1]):
        check(graph, model, {"x": np.float32(x)})
