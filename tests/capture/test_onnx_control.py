"""If, Loop, Scan, local functions: as regions or inlined, with types that hold for every iteration."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphopt.errors import CaptureError
from graphopt.ir import evaluate
from tests.capture.onnx_models import captured, check, op_names, parse

RNG = np.random.default_rng(1)
IF = """g (float[N, 3] x, bool c) => (float[A, 3] y) {
    w = Constant<value = float[3] {1, 2, 3}>()
    y = If(c) <then_branch = a () => (float[A, 3] p) { q = Mul(x, w)  p = Relu(q) },
               else_branch = b () => (float[B, 3] r) { two = Constant<value_ints = [0]>()  end = Constant<value_ints = [1]>()
                                                      r = Slice(x, two, end) }> }"""


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("c", [True, False])
def test_if_on_an_input_is_an_op_that_its_value_settles(c: bool) -> None:
    model = parse(IF)
    graph = captured(model)
    feeds = {"x": _f32(4, 3), "c": np.array(c)}
    assert "if" in op_names(graph) and graph.metadata["control_inputs"] == ["c"]
    check(graph, model, feeds)
    settled = graph.metadata["recapture"]({"x": (4, 3), "c": ()}, {"c": np.array(c)})
    assert "if" not in op_names(settled) and settled.input_names == ["x", "c"]
    check(settled, model, feeds)


def test_if_on_computed_data_asks_for_no_input() -> None:
    model = parse("""g (float[2, 3] x) => (float[2, 3] y) {
        s = ReduceSum<keepdims = 0>(x)  z = Constant<value_float = 0.0>()  c = Greater(s, z)
        y = If(c) <then_branch = a () => (float[2, 3] p) { p = Neg(x) },
                   else_branch = b () => (float[2, 3] r) { r = Exp(x) }> }""")
    graph = captured(model)
    assert graph.metadata["control_inputs"] == []
    for sign in (1, -1):
        check(graph, model, {"x": np.abs(_f32(2, 3)) * np.float32(sign)})


def test_if_on_a_float_input_asks_for_no_input() -> None:
    """A threshold may differ at every call: specialising on it would compile anew each time."""
    model = parse("""g (float[2] x, float t) => (float[2] y) {
        z = Constant<value_float = 0.5>()  c = Greater(t, z)
        y = If(c) <then_branch = a () => (float[2] p) { p = Neg(x) }, else_branch = b () => (float[2] r) { r = Exp(x) }> }""")
    graph = captured(model)
    assert graph.metadata["control_inputs"] == []
    check(graph, model, {"x": _f32(2), "t": np.array(0.7, np.float32)})


def test_nested_ifs_capture_from_two_levels_up() -> None:
    model = parse("""g (float[N, 3] x, bool c, bool d) => (float[A, 3] y) {
        h = Sigmoid(x)
        y = If(c) <then_branch = a () => (float[A, 3] p) {
                       p = If(d) <then_branch = aa () => (float[A, 3] pp) { pp = Mul(x, h) },
                                  else_branch = ab () => (float[A, 3] pq) { pq = Add(h, h) }> },
                   else_branch = b () => (float[A, 3] r) { r = Sub(x, h) }> }""")
    graph = captured(model)
    for c in (True, False):
        for d in (True, False):
            check(graph, model, {"x": _f32(2, 3), "c": np.array(c), "d": np.array(d)})


LOOP = """g (int64 m, float[N] x) => (float[A] last, float[S, B] all) {
    keep = Constant<value = bool {1}>()
    last, all = Loop(m, keep, x) <body = b (int64 i, bool k, float[C] v) => (bool ko, float[D] vo, float[E] out) {
        ko = Identity(k)  f = Cast<to = 1>(i)  out = Add(x, f)  vo = Add(v, x) }> }"""


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_loop_keeps_known_shapes(trips: int) -> None:
    model = parse(LOOP)
    graph = captured(model)
    assert graph.outputs[0].type.shape == graph.inputs[1].type.shape
    check(graph, model, {"m": np.array(trips), "x": _f32(5)})


@pytest.mark.parametrize("trips", [0, 1, 3])
def test_loop_whose_value_grows(trips: int) -> None:
    model = parse("""g (int64 m, float[2, N] x) => (float[A, B] last) {
        keep = Constant<value = bool {1}>()
        last = Loop(m, keep, x) <body = b (int64 i, bool k, float[C, D] v) => (bool ko, float[E, F] vo) {
            ko = Identity(k)  two = Concat<axis = 0>(v, x)  s = Shape(two)  minus = Constant<value_ints = [-1]>()
            flat = Reshape(two, minus)  vo = Reshape(flat, s) }> }""")
    graph = captured(model)
    assert "deferred" not in op_names(graph)
    check(graph, model, {"m": np.array(trips), "x": _f32(2, 3)})


def test_loop_whose_rank_changes_is_deferred_inside() -> None:
    body = """b (int64 i, bool k, float[] v) => (bool ko, float[] vo) {
        ko = Identity(k)  axes = Constant<value_ints = [0]>()  vo = Unsqueeze(v, axes) }"""
    model = parse("g (int64 m, float[N] x) => (float[] last) { keep = Constant<value = bool {1}>() "
                  f"last = Loop(m, keep, x) <body = {body}> }}")
    for part in (model.graph.output[0], *(i for n in model.graph.node for a in n.attribute if a.HasField("g")
                                          for i in (a.g.input[2], a.g.output[1]))):
        part.type.tensor_type.ClearField("shape")
    graph = captured(model)
    x = _f32(3)
    for trips in (0, 1, 3):
        got, = evaluate(graph, [np.array(trips), x])
        assert got.shape == (1,) * trips + (3,)


def test_loop_ends_by_its_condition_and_without_a_bound() -> None:
    model = parse("""g (float x) => (float last) {
        keep = Constant<value = bool {1}>()  none = Constant<value_float = 100.0>()
        last = Loop(, keep, x) <body = b (int64 i, bool k, float v) => (bool ko, float vo) {
            vo = Add(v, v)  ko = Less(vo, none) }> }""")
    graph = captured(model)
    assert evaluate(graph, [np.float32(3)])[0] == 192


@pytest.mark.parametrize("reverse, axis", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_scan(reverse: int, axis: int) -> None:
    model = parse(f"""g (float[2] start, float[N, 2] x) => (float[2] last, float[A, B] all) {{
        last, all = Scan(start, x) <num_scan_inputs = 1, scan_input_directions = [{reverse}], scan_output_axes = [{axis}],
                                    scan_output_directions = [{1 - reverse}],
          body = b (float[2] s, float[2] item) => (float[2] so, float[2] out) {{
              so = Add(s, item)  out = Mul(so, start) }}> }}""")
    graph = captured(model)
    for n in (1, 4):
        check(graph, model, {"start": _f32(2), "x": _f32(n, 2)})


FUNCTION = """<opset_import: ["" : 18], domain: "local">
twice <alpha> (x) => (y) { a = Constant<value_float: float = @alpha>()  z = Mul(x, a)  y = once(z) }
<opset_import: ["" : 18], domain: "local"> once (x) => (y) { y = Relu(x) }"""


def test_local_functions_are_inlined_with_their_attributes() -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = local.twice<alpha = 3.0>(x)  y = local.once(h) }",
                  functions=FUNCTION.replace("y = once(z)", "y = local.once(z)"))
    graph = captured(model)
    assert sorted(op_names(graph)) == ["mul", "relu", "relu"]
    x = _f32(6)
    np.testing.assert_array_equal(evaluate(graph, [x])[0], np.maximum(x * np.float32(3), 0))
    assert any("/" in place for op in graph.ops for place in op.loc)


def test_a_function_that_calls_itself_is_refused() -> None:
    model = parse("g (float[N] x) => (float[N] y) { y = local.f(x) }",
                  functions='<opset_import: ["" : 18, "local" : 1], domain: "local"> f (x) => (y) { y = local.f(x) }')
    with pytest.raises(CaptureError, match=r"calls itself|nested too deeply"):
        captured(model)


def test_constants_and_shapes_are_known_inside_bodies() -> None:
    model = parse("""g (float[N, T] x, int64 m) => (float[A, B] y) {
        s = Shape(x)  keep = Constant<value = bool {1}>()  axes = Constant<value_ints = [1]>()
        y = Loop(m, keep, x) <body = b (int64 i, bool k, float[N, T] v) => (bool ko, float[N, T] vo) {
            ko = Identity(k)  r = ReduceSum<keepdims = 1>(v, axes)  wide = Expand(r, s)  vo = Sub(v, wide) }> }""")
    graph = captured(model)
    assert "deferred" not in op_names(graph)
    check(graph, model, {"x": _f32(2, 3), "m": np.array(2)})
    fixed = captured(model, shapes={"x": (2, 3)})
    assert not any(isinstance(v, onnx.ModelProto) for v in fixed.metadata.values())
    check(fixed, model, {"x": _f32(2, 3), "m": np.array(2)})
