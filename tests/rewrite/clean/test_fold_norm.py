"""Per-channel constants move into weights, padding into windows."""

import numpy as np
import pytest

from graphopt.rewrite import Canonicalise, Fold, FoldNorm
from tests.rewrite.rewriting import names, rewritten, unchanged

RNG = np.random.default_rng(5)


def weights(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def norm_constants(channels):
    return {**{name: weights(channels) for name in ("scale", "bias", "mean")}, "var": np.abs(weights(channels)) + 0.1}


NORM = """%s = const @scale : f32[{c}]
      %b = const @bias : f32[{c}]
      %m = const @mean : f32[{c}]
      %v = const @var : f32[{c}]
      %z = batch_norm(%y, %s, %b, %m, %v) {{eps=1e-05}} : f32[{shape}]
      return %z"""


def only(graph, name):
    assert names(graph) == [name]
    return next(op for op in graph.ops if op.name == name)


@pytest.mark.parametrize("bias", ["", ", %cb"])
@pytest.mark.parametrize("groups", [1, 3])
def test_batch_norm_after_a_convolution(bias, groups):
    graph = rewritten(FoldNorm(), f"""graph @g(%x: f32[2, 3, 7, 5]) -> f32[2, 9, 7, 5] {{
      %w = const @conv.weight : f32[9, {3 // groups}, 3, 3]
      %cb = const @conv.bias : f32[9]
      %y = conv(%x, %w{bias}) {{stride=[1, 1], pad=[1, 1, 1, 1], dilation=[1, 1], groups={groups}}} : f32[2, 9, 7, 5]
      {NORM.format(c=9, shape="2, 9, 7, 5")}
    }}""", constants={"conv.weight": weights(9, 3 // groups, 3, 3), "conv.bias": weights(9), **norm_constants(9)})
    conv = only(graph, "conv")
    assert conv.operands[1].op.attrs["value"].name.startswith("conv.weight/")
    assert conv.operands[1].dtype.name == "f32"


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_after_a_transposed_convolution(groups):
    graph = rewritten(FoldNorm(), f"""graph @g(%x: f32[1, 4, 5]) -> f32[1, 6, 11] {{
      %w = const @w : f32[4, {6 // groups}, 3]
      %y = conv_transpose(%x, %w) {{stride=[2], pad=[0, 0], dilation=[1], output_padding=[0], groups={groups}}} : f32[1, 6, 11]
      {NORM.format(c=6, shape="1, 6, 11")}
    }}""", constants={"w": weights(4, 6 // groups, 3), **norm_constants(6)})
    only(graph, "conv_transpose")


def test_batch_norm_after_a_linear_layer():
    graph = rewritten(FoldNorm(), f"""graph @g(%x: f32[3, 5]) -> f32[3, 7] {{
      %w = const @w : f32[5, 7]
      %y = matmul(%x, %w) : f32[3, 7]
      {NORM.format(c=7, shape="3, 7")}
    }}""", constants={"w": weights(5, 7), **norm_constants(7)})
    assert names(graph) == ["matmul", "add"]


def test_batch_norm_alone_is_a_product_and_a_sum():
    graph = rewritten(FoldNorm(), f"""graph @g(%y: f32[3, 7, 1]) -> f32[3, 7, 1] {{
      {NORM.format(c=7, shape="3, 7, 1")}
    }}""", constants=norm_constants(7))
    assert names(graph) == ["mul", "add"]


def test_batch_norm_by_an_infinite_scale_is_a_product_and_a_sum_too():
    constants = norm_constants(7)
    constants["scale"][:3] = np.inf, -np.inf, np.nan
    constants["mean"][:4] = 0, 2, 1, np.inf
    x = np.stack([np.full((7, 1), v, np.float32) for v in (1, np.inf, -2)])
    graph = rewritten(FoldNorm(), f"""graph @g(%y: f32[3, 7, 1]) -> f32[3, 7, 1] {{
      {NORM.format(c=7, shape="3, 7, 1")}
    }}""", constants=constants, inputs=[x])
    assert names(graph) == ["mul", "add"]


def test_batch_norm_whose_product_would_overflow_stays():
    constants = norm_constants(7)
    constants["mean"][2], constants["scale"][2] = 1e30, 1e20
    x = np.full((3, 7, 1), 1e30, np.float32)
    graph = rewritten(FoldNorm(), f"""graph @g(%y: f32[3, 7, 1]) -> f32[3, 7, 1] {{
      {NORM.format(c=7, shape="3, 7, 1")}
    }}""", constants=constants, inputs=[x])
    assert names(graph) == ["batch_norm"]


def test_batch_norm_by_inputs_stays():
    unchanged(FoldNorm(), """graph @g(%y: f32[3, 2], %s: f32[2], %b: f32[2]) -> f32[3, 2] {
      %m = const [0.5, 1.5] : f32[2]
      %v = const [0.5, 1.5] : f32[2]
      %z = batch_norm(%y, %s, %b, %m, %v) {eps=1e-05} : f32[3, 2]
      return %z
    }""")


def test_a_convolution_that_is_used_elsewhere_keeps_its_weights():
    unchanged(FoldNorm(), """graph @g(%x: f32[1, 2, 5]) -> (f32[1, 3, 3], f32[1, 3, 3]) {
      %w = const @w : f32[3, 2, 3]
      %y = conv(%x, %w, _) {stride=[1], pad=[0, 0], dilation=[1], groups=1} : f32[1, 3, 3]
      %c = const 2.0 : f32[]
      %z = mul(%y, %c) : f32[1, 3, 3]
      return %z, %y
    }""", constants={"w": weights(3, 2, 3)})


def test_a_constant_that_varies_in_space_stays():
    unchanged(FoldNorm(), """graph @g(%x: f32[1, 2, 5]) -> f32[1, 3, 3] {
      %w = const @w : f32[3, 2, 3]
      %y = conv(%x, %w, _) {stride=[1], pad=[0, 0], dilation=[1], groups=1} : f32[1, 3, 3]
      %c = const [2.0, 1.0, 3.0] : f32[3]
      %z = mul(%y, %c) : f32[1, 3, 3]
      return %z
    }""", constants={"w": weights(3, 2, 3)})


def test_weights_that_would_overflow_stay():
    text = """graph @g(%x: f16[3, 2]) -> f16[3, 2] {{
      %w = const [[1000.0, 2.0], [3.0, 4.0]] : f16[2, 2]
      %c = const {c} : f16[]
      %y = matmul(%x, %w) : f16[3, 2]
      %z = mul(%y, %c) : f16[3, 2]
      return %z
    }}"""
    assert names(rewritten(FoldNorm(), text.format(c="100.0"))) == ["matmul", "mul"]
    assert names(rewritten(FoldNorm(), text.format(c="0.25"))) == ["matmul"]


def test_integers_are_left_alone():
    unchanged(FoldNorm(), """graph @g(%x: i32[1, 2, 5]) -> i32[1, 3, 3] {
      %w = const @w : i32[3, 2, 3]
      %y = conv(%x, %w, _) {stride=[1], pad=[0, 0], dilation=[1], groups=1} : i32[1, 3, 3]
      %c = const 2 : i32[]
      %z = mul(%y, %c) : i32[1, 3, 3]
      return %z
    }""", constants={"w": RNG.integers(-5, 5, (3, 2, 3)).astype(np.int32)})


@pytest.mark.parametrize("pad, shift_moves", [(0, True), (1, False)])
def test_constants_before_a_convolution(pad, shift_moves):
    graph = rewritten(FoldNorm(), f"""graph @g(%x: f32[1, 2, 5]) -> f32[1, 3, {3 + 2 * pad}] {{
      %w = const @w : f32[3, 2, 3]
      %a = const [[2.0], [3.0]] : f32[2, 1]
      %b = const [[0.5], [-3.0]] : f32[2, 1]
      %s = mul(%x, %a) : f32[1, 2, 5]
      %t = add(%s, %b) : f32[1, 2, 5]
      %y = conv(%t, %w) {{stride=[1], pad=[{pad}, {pad}], dilation=[1], groups=1}} : f32[1, 3, {3 + 2 * pad}]
      return %y
    }}""", constants={"w": weights(3, 2, 3)})
    assert names(graph) == (["conv"] if shift_moves else ["mul", "add", "conv"])


def test_zeros_around_the_input_are_the_convolutions_own():
    text = """graph @g(%x: f32[1, 2, 5, 5]) -> f32[1, 3, 6, 8] {{
      %w = const @w : f32[3, 2, 3, 3]
      %v = const {v} : f32[]
      %p = pad(%x, %v) {{pads=[0, 0, 1, 0, 0, 0, 2, 3]}} : f32[1, 2, 8, 8]
      %y = conv(%p, %w) {{stride=[1, 1], pad=[0, 1, 0, 1], dilation=[1, 1], groups=1}} : f32[1, 3, 6, 8]
      return %y
    }}"""
    graph = rewritten(FoldNorm(), text.format(v="0.0"), constants={"w": weights(3, 2, 3, 3)}, ulps=4)
    assert only(graph, "conv").attrs["pad"] == (1, 1, 2, 4)
    assert "pad" in names(rewritten(FoldNorm(), text.format(v="1.0"), constants={"w": weights(3, 2, 3, 3)}))


@pytest.mark.parametrize("pool, v, left", [
    ("max_pool(%p) {{{window}}}", "-inf", ["max_pool"]),
    ("max_pool(%p) {{{window}}}", "0.0", ["pad", "max_pool"]),
    ("avg_pool(%p) {{{window}, count_include_pad=false}}", "0.0", ["avg_pool"]),
])
def test_padding_before_a_pool(pool, v, left):
    pool = pool.format(window="kernel=[3, 3], stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1]")
    graph = rewritten(FoldNorm(), f"""graph @g(%x: f32[1, 2, 5, 5]) -> f32[1, 2, 5, 5] {{
      %v = const {v} : f32[]
      %p = pad(%x, %v) {{pads=[0, 0, 1, 1, 0, 0, 1, 1]}} : f32[1, 2, 7, 7]
      %y = {pool} : f32[1, 2, 5, 5]
      return %y
    }}""", ulps=4)
    assert names(graph) == left


def test_a_decomposed_batch_norm_folds_too():
    graph = rewritten([Canonicalise(), Fold(), FoldNorm()], """graph @g(%x: f32[1, 2, 5]) -> f32[1, 3, 3] {
      %w = const @w : f32[3, 2, 3]
      %m = const [[0.5], [1.5], [2.5]] : f32[3, 1]
      %f = const [[0.1], [10.0], [3.0]] : f32[3, 1]
      %y = conv(%x, %w) {stride=[1], pad=[0, 0], dilation=[1], groups=1} : f32[1, 3, 3]
      %a = sub(%y, %m) : f32[1, 3, 3]
      %b = mul(%a, %f) : f32[1, 3, 3]
      %c = add(%b, %m) : f32[1, 3, 3]
      return %c
    }""", constants={"w": weights(3, 2, 3)})
    only(graph, "conv")
