"""Operators whose form changed between opsets: each form against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.capture.onnx_models import captured, check, op_names, parse

RNG = np.random.default_rng(4)


def _f32(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


X = "float[2, 3, 4, 5] x"
Y = "float[A, B, C, D] y"
FORMS = [  # opset, inputs, outputs, nodes
    (7, X, Y, "y = Clip<min = -0.5, max = 0.5>(x)"),
    (7, X, Y, "y = Clip(x)"),
    (11, X, Y, "lo = Constant<value = float {-0.5}>()  y = Clip(x, lo)"),
    (13, X, Y, "lo = Constant<value = float {-0.5}>()  hi = Constant<value = float {0.25}>()  y = Clip(x, lo, hi)"),
    (10, X, Y, "s = Constant<value_floats = [1.0, 1.0, 0.6, 1.7]>()  y = Resize(x, s)"),  # no opset-10 Constant, but written
    (7, X, Y, "y = Softmax<axis = 2>(x)"),
    (11, X, Y, "y = LogSoftmax(x)"),
    (12, X, Y, "y = Hardmax<axis = -2>(x)"),
    (13, X, Y, "y = Softmax<axis = 1>(x)"),
    (13, X, Y, "y = Hardmax(x)"),
    (7, X, Y, "y = Pad<pads = [0, 0, 1, 2, 0, 0, 3, 0], value = 2.5>(x)"),
    (7, X, Y, "y = Pad<pads = [0, 0, 1, 2, 0, 0, 3, 1], mode = \"reflect\">(x)"),
    (18, X, Y, "p = Constant<value_ints = [1, 2, 0, 1]>()  a = Constant<value_ints = [-1, 2]>() "
               "y = Pad<mode = \"edge\">(x, p, , a)"),
    (7, X, Y, "y = Slice<axes = [1, 3], starts = [1, -3], ends = [100, -1]>(x)"),
    (7, X, Y, "y = Slice<starts = [1, 0], ends = [2, 2]>(x)"),
    (7, X, "float[A, B, C, D, E] y", "y = Unsqueeze<axes = [0]>(x)"),
    (11, X, "float[A, B, C, D, E, F] y", "y = Unsqueeze<axes = [-1, 1]>(x)"),
    (11, "float[1, 3, 1] x", "float[A] y", "y = Squeeze(x)"),
    (11, "float[1, 3, 1] x", "float[A, B] y", "y = Squeeze<axes = [-1]>(x)"),
    (7, X, "float[A, B, C] y", "y = ReduceMean<axes = [-1], keepdims = 0>(x)"),
    (7, X, Y, "y = ReduceSum(x)"),
    (13, X, Y, "a = Constant<value_ints = [1]>()  y = ReduceSum(x, a)"),
    (18, X, Y, "a = Constant<value_ints = [1, -1]>()  y = ReduceL2(x, a)"),
    (18, X, Y, "y = ReduceMax<noop_with_empty_axes = 1>(x)"),
    (7, X, "float[A, B, C, D] y, float[E, F, G, H] z", "y, z = Split<axis = 3, split = [2, 3]>(x)"),
    (7, X, "float[A, B, C, D] y, float[E, F, G, H] z", "y, z = Split<axis = 2>(x)"),
    (18, X, "float[A, B, C, D] y, float[E, F, G, H] z", "y, z = Split<axis = -1, num_outputs = 2>(x)"),
    (7, X, Y + ", int64[A, B, C, D] i", "y, i = TopK<k = 2, axis = 1>(x)"),
    (11, X, Y + ", int64[A, B, C, D] i", "k = Constant<value_ints = [2]>()  y, i = TopK<largest = 0>(x, k)"),
    (7, X, Y, "y = Upsample<mode = \"nearest\", scales = [1.0, 1.0, 2.0, 3.0]>(x)"),
    (9, X, Y, "s = Constant<value = float[4] {1, 1, 2, 1.5}>()  y = Upsample<mode = \"nearest\">(x, s)"),
    (10, X, Y, "s = Constant<value = float[4] {1, 1, 0.5, 2}>()  y = Resize<mode = \"linear\">(x, s)"),
    (11, X, Y, "e = Constant<value = float[0] {}>()  s = Constant<value = float[4] {1, 1, 2, 2}>()  y = Resize(x, e, s)"),
    (13, X, Y, "s = Constant<value = int64[4] {2, 3, 7, 9}>()  y = Resize<mode = \"cubic\">(x, , , s)"),
    (7, X, Y, "y = Dropout<ratio = 0.4>(x)"),
    (12, X, Y + ", bool[A, B, C, D] m", "y, m = Dropout(x)"),
    (7, X, "float[A, B] y", "y = Flatten<axis = 2>(x)"),
    (7, X, Y, "z = Constant<value = int64[4] {1, 2, 1, 2}>()  y = Tile(x, z)"),
    (7, X, "float[A, B, C] y", "i = Constant<value = int64 {-1}>()  y = Gather<axis = 1>(x, i)"),
    (11, X, Y, "i = Constant<value = int64[1, 1, 1, 2] {1, 0}>()  u = Constant<value = float[1, 1, 1, 2] {7, 8}>() "
               "y = ScatterElements<axis = 3>(x, i, u)"),
    (7, X, Y, "y = LRN<size = 3>(x)"),
    (7, X, Y, "y = LpNormalization<axis = 1, p = 1>(x)"),
    (7, X, Y, "y = AveragePool<kernel_shape = [2, 3], pads = [1, 1, 0, 1], count_include_pad = 1>(x)"),
    (7, X, Y, "y = AveragePool<kernel_shape = [2, 2], auto_pad = \"SAME_LOWER\", strides = [2, 2]>(x)"),
    (7, X, Y, "y = LpPool<kernel_shape = [2, 2], p = 3>(x)"),
    (7, X, Y, "y = GlobalLpPool<p = 2>(x)"),
    (11, X, Y + ", int64[A, B, C, D] i", "y, i = MaxPool<kernel_shape = [2, 2], storage_order = 1>(x)"),
    (7, X, Y, "y = MeanVarianceNormalization(x)"),
    (9, X, Y, "y = Shrink<lambd = 0.3, bias = 0.1>(x)"),
    (7, X, Y, "e = Constant<value = float {2.0}>()  a = Abs(x)  y = Pow(a, e)"),
    (12, "int32[4] x", "int32[4] y", "e = Constant<value = float {2.5}>()  a = Abs(x)  y = Pow(a, e)"),
    (10, "int32[4] x", "int32[4] y", "e = Constant<value = int32 {3}>()  y = Mod(x, e)"),
    (10, "int32[4] x", "int32[4] y", "e = Constant<value = int32 {3}>()  y = Mod<fmod = 1>(x, e)"),
]


@pytest.mark.parametrize("opset, inputs, outputs, nodes", FORMS, ids=[f"{o}-{n.split('=')[-1][:30]}" for o, _, _, n in FORMS])
def test_form(opset: int, inputs: str, outputs: str, nodes: str) -> None:
    model = parse(f"g ({inputs}) => ({outputs}) {{ {nodes} }}", opset=opset)
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = _f32(*dims) if inputs.startswith("float") else RNG.integers(-9, 9, dims).astype(np.int32)
    graph = captured(model)
    assert "deferred" not in op_names(graph)
    check(graph, model, {"x": x})


def test_broadcast_before_opset_7() -> None:
    node = helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)
    b = np.float32([10, 20, 30])
    model = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])], [numpy_helper.from_array(b, "b")]),
        opset_imports=[helper.make_opsetid("", 6)], ir_version=3)
    from graphopt.ir import evaluate

    x = _f32(2, 3, 4)
    np.testing.assert_array_equal(evaluate(captured(model), [x])[0], x + b[:, None])


@pytest.mark.parametrize("equation, shapes", [
    ("ij,jk->ik", [(3, 4), (4, 5)]), ("ij,jk", [(3, 4), (4, 5)]), ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]), ("ij->ji", [(3, 4)]), ("ij->", [(3, 4)]), ("ii->i", [(3, 3)]),
    ("ii", [(3, 3)]), ("i,j->ij", [(3,), (4,)]), ("i,i->", [(3,), (3,)]), ("...ij,...jk->...ik", [(2, 1, 3, 4), (5, 4, 2)]),
    ("ij,ij->ij", [(3, 4), (3, 4)]), ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]), ("bij,bij->b", [(2, 3, 4), (2, 3, 4)]),
    ("i...->...i", [(2, 3, 4)]), ("ijk,k->ij", [(2, 3, 4), (4,)]),
    ("bic,bjd->bij", [(2, 3, 4), (2, 5, 6)]), ("iij,j->i", [(3, 3, 4), (4,)]),
    (" i j , j k -> i k ", [(1, 1), (1, 1)]), ("bij,bjk->ik", [(2, 3, 4), (2, 4, 5)]),
])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    xs = [_f32(*s) for s in shapes]
    names = [f"x{i}" for i in range(len(xs))]
    expected = np.einsum(equation.replace(" ", ""), *(x.astype(np.float64) for x in xs))
    model = helper.make_model(helper.make_graph(
        [helper.make_node("Einsum", names, ["y"], equation=equation)], "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, expected.shape)]), opset_imports=[helper.make_opsetid("", 12)])
    from graphopt.ir import evaluate

    got, = evaluate(captured(model), xs)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "mixed"])
def test_tree_regressor(mode: str) -> None:
    """A full tree of depth 2 and a stump, with a missing value on the way."""
    inner = ["BRANCH_LT", "BRANCH_GTE", "BRANCH_LEQ"] if mode == "mixed" else [mode] * 3
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=2,
        nodes_treeids=[0] * 7 + [1] * 3, nodes_nodeids=[*range(7), *range(3)], nodes_featureids=[0, 1, 2, 0, 0, 0, 0, 1, 0, 0],
        nodes_modes=[*inner, "LEAF", "LEAF", "LEAF", "LEAF", "BRANCH_LEQ" if mode == "mixed" else mode, "LEAF", "LEAF"],
        nodes_values=[0.0, 0.5, -0.5, 0, 0, 0, 0, 0.25, 0, 0], nodes_truenodeids=[1, 3, 5, 0, 0, 0, 0, 1, 0, 0],
        nodes_falsenodeids=[2, 4, 6, 0, 0, 0, 0, 2, 0, 0], nodes_missing_value_tracks_true=[0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        target_treeids=[0, 0, 0, 0, 1, 1], target_nodeids=[3, 4, 5, 6, 1, 2], target_ids=[0, 1, 0, 1, 0, 1],
        target_weights=[1.0, 2.0, 3.0, 4.0, 10.0, 20.0])
    model = helper.make_model(helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]),
        opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 18)], ir_version=8)
    x = _f32(20, 3)
    x[3], x[4, 1] = [0.0, 0.5, -0.5], 0.25
    check(captured(model), model, {"x": x})
