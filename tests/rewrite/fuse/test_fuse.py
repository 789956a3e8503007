"""Fusion: what becomes one kernel, and what does not."""

import numpy as np
import pytest

from graphopt.backends.pipeline import optimise
from graphopt.ir import parse_graph
from graphopt.rewrite import Canonicalise, Context, Decompose, Fuse, PassManager, Simplify
from graphopt.targets import parse_target
from graphopt.targets.capabilities import Capabilities
from tests.rewrite.rewriting import body, check, names, rewritten, unchanged


def kinds(graph):
    return [op.attrs["kind"] for op in graph.ops if op.name == "fused"]


def test_a_chain_is_one_elementwise_kernel_with_numbers_inside_and_tensors_as_operands():
    check(Fuse(), """graph @g(%x: f32[4, 5], %b: f32[5]) -> f32[4, 5] {
      %c = const 2.0 : f32[]
      %y = mul(%x, %c) : f32[4, 5]     # loc("a")
      %z = add(%y, %b) : f32[4, 5]     # loc("b")
      %t = tanh(%z) : f32[4, 5]        # loc("b")
      return %t
    }""", """graph @g(%x: f32[4, 5], %b: f32[5]) -> f32[4, 5] {
      %t = fused(%x, %b) {kind="elementwise"} [
        graph @body(%x: f32[4, 5], %b: f32[5]) -> f32[4, 5] {
          %c = const 2.0 : f32[]
          %y = mul(%x, %c) : f32[4, 5]
          %z = add(%y, %b) : f32[4, 5]
          %t = tanh(%z) : f32[4, 5]
          return %t
        }
      ] : f32[4, 5]
      return %t
    }""")


def test_a_fused_op_stands_at_all_the_places_that_it_came_from():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3]) -> f32[3] {
      %y = exp(%x) : f32[3]     # loc("a")
      %z = neg(%y) : f32[3]     # loc("b")
      return %z
    }""")
    assert next(graph.ops).loc == ("a", "b")


def test_an_op_alone_stays_as_it_is():
    unchanged(Fuse(), """graph @g(%x: f32[3]) -> f32[3] {
      %y = exp(%x) : f32[3]
      return %y
    }""")


def test_a_value_that_is_seen_outside_is_not_computed_twice():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3]) -> (f32[3], f32[3]) {
      %y = exp(%x) : f32[3]
      %z = neg(%y) : f32[3]
      %u = abs(%z) : f32[3]
      return %u, %y
    }""")
    assert names(graph) == ["exp", "fused"]
    assert body(graph) == ["neg", "abs"]


def test_a_diamond_is_one_kernel():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3]) -> f32[3] {
      %y = exp(%x) : f32[3]
      %a = neg(%y) : f32[3]
      %b = sin(%y) : f32[3]
      %z = mul(%a, %b) : f32[3]
      return %z
    }""")
    assert names(graph) == ["fused"]


def test_no_cycle_through_an_op_that_cannot_join():
    # %a and %z could share a kernel, but %m stands between them.
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 3]) -> f32[3, 3] {
      %y = exp(%x) : f32[3, 3]
      %a = neg(%y) : f32[3, 3]
      %m = matmul(%a, %a) : f32[3, 3]
      %z = add(%a, %m) : f32[3, 3]
      return %z
    }""")
    assert names(graph) == ["fused", "fused"]
    assert kinds(graph) == ["elementwise", "contraction"]


def test_the_epilogue_of_a_convolution():
    check(Fuse(), """graph @g(%x: f32[1, 2, 5, 5], %w: f32[3, 2, 3, 3], %s: f32[1, 3, 3, 3]) -> f32[1, 3, 3, 3] {
      %y = conv(%x, %w) {stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], groups=1} : f32[1, 3, 3, 3]
      %z = add(%y, %s) : f32[1, 3, 3, 3]
      %r = relu(%z) : f32[1, 3, 3, 3]
      return %r
    }""", """graph @g(%x: f32[1, 2, 5, 5], %w: f32[3, 2, 3, 3], %s: f32[1, 3, 3, 3]) -> f32[1, 3, 3, 3] {
      %f = fused(%x, %w, %s) {kind="contraction"} [
        graph @body(%x: f32[1, 2, 5, 5], %w: f32[3, 2, 3, 3], %s: f32[1, 3, 3, 3]) -> f32[1, 3, 3, 3] {
          %y = conv(%x, %w, _) {stride=[1, 1], pad=[0, 0, 0, 0], dilation=[1, 1], groups=1} : f32[1, 3, 3, 3]
          %z = add(%y, %s) : f32[1, 3, 3, 3]
          %r = relu(%z) : f32[1, 3, 3, 3]
          return %r
        }
      ] : f32[1, 3, 3, 3]
      return %f
    }""", ulps=4)


def test_an_epilogue_that_uses_the_result_twice():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 4], %w: f32[4, 5]) -> f32[3, 5] {
      %y = matmul(%x, %w) : f32[3, 5]
      %s = sigmoid(%y) : f32[3, 5]
      %z = mul(%y, %s) : f32[3, 5]
      return %z
    }""")
    assert body(graph) == ["matmul", "sigmoid", "mul"]


def test_one_contraction_a_kernel():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 3], %w: f32[3, 3]) -> f32[3, 3] {
      %a = matmul(%x, %w) : f32[3, 3]
      %b = matmul(%w, %x) : f32[3, 3]
      %z = add(%a, %b) : f32[3, 3]
      return %z
    }""")
    assert names(graph) == ["matmul", "fused"]
    assert body(graph) == ["matmul", "add"]


def test_nothing_is_computed_on_the_way_into_a_contraction():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 3]) -> f32[3, 3] {
      %e = exp(%x) : f32[3, 3]
      %a = matmul(%e, %x) : f32[3, 3]
      %z = add(%a, %e) : f32[3, 3]
      return %z
    }""")
    assert names(graph) == ["exp", "fused"]


def test_no_movement_after_a_contraction():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 4], %w: f32[4, 5], %y: f32[5, 3]) -> f32[3, 5] {
      %a = matmul(%x, %w) : f32[3, 5]
      %t = transpose(%y) {perm=[1, 0]} : f32[3, 5]
      %z = add(%a, %t) : f32[3, 5]
      return %z
    }""")
    assert names(graph) == ["transpose", "fused"]


def test_a_smaller_operand_is_not_recomputed_for_every_row():
    graph = rewritten(Fuse(), """graph @g(%x: f32[30, 5], %y: f32[5]) -> f32[30, 5] {
      %e = exp(%y) : f32[5]
      %z = add(%x, %e) : f32[30, 5]
      %u = neg(%z) : f32[30, 5]
      return %u
    }""")
    assert names(graph) == ["exp", "fused"]


def test_elementwise_before_and_after_a_reduction():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 7]) -> f32[3] {
      %y = mul(%x, %x) : f32[3, 7]
      %s = reduce_sum(%y) {axes=[1], keepdims=false} : f32[3]
      %r = sqrt(%s) : f32[3]
      return %r
    }""")
    assert kinds(graph) == ["reduction"]
    assert body(graph) == ["mul", "reduce_sum", "sqrt"]


@pytest.mark.parametrize("shape", ["3, 7", "1, 1", "2, 5, 17"])
def test_a_decomposed_softmax_is_one_kernel(shape):
    axis = shape.count(",")
    graph = rewritten([Decompose(), Fuse()], f"""graph @g(%x: f32[{shape}], %m: f32[{shape}]) -> f32[{shape}] {{
      %a = add(%x, %m) : f32[{shape}]
      %y = softmax(%a) {{axis={axis}}} : f32[{shape}]
      return %y
    }}""")
    assert kinds(graph) == ["reduction"] and names(graph) == ["fused"]
    assert body(graph) == ["add", "reduce_max", "sub", "exp", "reduce_sum", "reciprocal", "mul"]


def test_a_decomposed_layer_norm_is_one_kernel():
    graph = rewritten([Decompose(), Canonicalise(), Simplify(), Fuse()],
                      """graph @g(%x: f32[2, 3, 7], %s: f32[7], %b: f32[7]) -> f32[2, 3, 7] {
      %y = layer_norm(%x, %s, %b) {axis=2, eps=1e-05} : f32[2, 3, 7]
      return %y
    }""")
    assert kinds(graph) == ["reduction"] and names(graph) == ["fused"]
    assert "rsqrt" in body(graph)


def test_a_row_value_without_its_axis_would_broadcast_along_another():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 3]) -> f32[3, 3] {
      %s = reduce_sum(%x) {axes=[1], keepdims=false} : f32[3]
      %y = sub(%x, %s) : f32[3, 3]
      %z = neg(%y) : f32[3, 3]
      return %z
    }""")
    assert names(graph) == ["reduce_sum", "fused"]


def test_reductions_over_different_axes_stay_apart():
    graph = rewritten(Fuse(), """graph @g(%x: f32[3, 4]) -> f32[3, 4] {
      %a = reduce_sum(%x) {axes=[1], keepdims=true} : f32[3, 1]
      %b = reduce_max(%x) {axes=[0], keepdims=true} : f32[1, 4]
      %y = sub(%x, %a) : f32[3, 4]
      %z = sub(%y, %b) : f32[3, 4]
      return %z
    }""")
    assert len([n for n in names(graph) if n.startswith("reduce")]) == 1
    assert kinds(graph) == ["reduction"]


def test_movement_is_read_through():
    graph = rewritten(Fuse(), """graph @g(%x: f32[4, 3], %y: f32[3, 9]) -> f32[3, 4] {
      %e = exp(%x) : f32[4, 3]
      %t = transpose(%e) {perm=[1, 0]} : f32[3, 4]
      %s = slice(%y) {axes=[1], starts=[2], ends=[6], steps=[1]} : f32[3, 4]
      %z = add(%t, %s) : f32[3, 4]
      return %z
    }""")
    assert names(graph) == ["fused"]


def test_what_is_read_repeatedly_is_computed_before():
    graph = rewritten(Fuse(), """graph @g(%x: f32[1, 3], %y: f32[8, 3]) -> f32[8, 3] {
      %e = exp(%x) : f32[1, 3]
      %b = expand(%e) {shape=[8, 3]} : f32[8, 3]
      %z = add(%y, %b) : f32[8, 3]
      %u = tanh(%z) : f32[8, 3]
      return %u
    }""")
    assert names(graph) == ["exp", "fused"]
    assert body(graph) == ["expand", "add", "tanh"]


def test_what_no_kernel_can_compute_stays_out():
    graph = rewritten(Fuse(), """graph @g(%x: f32[4], %n: f32[N]) -> (f32[4], f32[N]) {
      %a = cast(%x) {to=f8e4m3fn} : f8e4m3fn[4]
      %b = cast(%a) {to=f32} : f32[4]
      %c = neg(%n) : f32[N]
      %d = exp(%c) : f32[N]
      return %b, %d
    }""")
    assert names(graph) == ["cast", "cast", "neg", "exp"]


def test_a_kernel_has_bounds():
    lines, value = [], "x"
    for i in range(200):
        lines.append(f"%v{i} = sin(%{value}) : f32[3]")
        value = f"v{i}"
    graph = rewritten(Fuse(), "graph @g(%x: f32[3]) -> f32[3] {\n" + "\n".join(lines) + f"\nreturn %{value}\n}}")
    assert all(len(op.regions[0]) <= 64 for op in graph.ops) and len(graph) == 4
    operands = [f"%x{i}: f32[3]" for i in range(60)]
    adds = [f"%v{i} = add(%{'x0' if i == 1 else f'v{i - 1}'}, %x{i}) : f32[3]" for i in range(1, 60)]
    graph = rewritten(Fuse(), f"graph @g({', '.join(operands)}) -> f32[3] {{\n" + "\n".join(adds) + "\nreturn %v59\n}")
    assert all(len(op.operands) <= 24 for op in graph.ops) and len(graph) == 3


def test_a_row_kernel_of_the_target_takes_what_is_around_it():
    class Rows(Capabilities):
        def keeps(self, op):
            return True

        def row_kernel(self, op):
            return op.name == "softmax"

    text = """graph @g(%x: f32[3, 7], %m: f32[7]) -> f16[3, 7] {
      %a = add(%x, %m) : f32[3, 7]
      %y = softmax(%a) {axis=1} : f32[3, 7]
      %z = cast(%y) {to=f16} : f16[3, 7]
      return %z
    }"""
    assert body(rewritten([Decompose(), Fuse()], text, target=Rows())) == ["add", "softmax", "cast"]
    assert names(rewritten(Fuse(), text)) == ["add", "softmax", "cast"]


def test_reasons_are_kept():
    graph = parse_graph("""graph @g(%x: f32[3]) -> f32[3] {
      %y = exp(%x) : f32[3]
      %z = neg(%y) : f32[3]
      return %z
    }""")
    context = Context()
    PassManager([Fuse()]).run(graph, context)
    (reason,) = context.why("%z")
    assert "fused (exp, neg)" in str(reason)


def test_what_is_kept_apart_has_a_reason_too():
    graph = parse_graph("""graph @g(%x: f32[3], %y: f32[8, 3]) -> (f32[3], f32[3], f32[8, 3]) {
      %a = exp(%x) : f32[3]
      %b = neg(%a) : f32[3]
      %c = abs(%a) : f32[3]
      %e = exp(%x) : f32[3]
      %d = add(%y, %e) : f32[8, 3]
      return %b, %c, %d
    }""")
    context = Context()
    PassManager([Fuse()]).run(graph, context)
    assert ["2 kernels read it (neg, abs)" in r.text for r in context.why("a")] == [True]
    assert ["cannot compute it on the way" in r.text for r in context.why("e")] == [True]


def test_values_survive_nan_and_infinity():
    rewritten(Fuse(), """graph @g(%x: f32[4]) -> f32[4] {
      %y = maximum(%x, %x) : f32[4]
      %z = sqrt(%y) : f32[4]
      return %z
    }""", inputs=[np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)])


def test_an_op_without_operands_beside_elementwise_ops_is_left_in_peace():
    graph = rewritten(Fuse(), """graph @g(%x: f32[N, 2]) -> i64[1] {
      %d = dims() {values=[3*N]} : i64[1]
      %y = neg(%d) : i64[1]
      return %y
    }""")
    assert "dims" in names(graph)


def test_contiguous_pieces_of_what_is_stored_stay_views():
    graph = rewritten(Fuse(), """graph @g(%x: f32[6, 4]) -> (f32[2, 4], f32[2, 4], f32[6, 2]) {
      %a = slice(%x) {axes=[0], starts=[0], ends=[2], steps=[1]} : f32[2, 4]
      %b = slice(%x) {axes=[0], starts=[2], ends=[4], steps=[1]} : f32[2, 4]
      %c = slice(%x) {axes=[1], starts=[2], ends=[4], steps=[1]} : f32[6, 2]
      %d = exp(%a) : f32[2, 4]
      %e = exp(%b) : f32[2, 4]
      %f = exp(%c) : f32[6, 2]
      return %d, %e, %f
    }""")
    assert names(graph) == ["slice", "slice", "exp", "exp", "fused"]


class Products(Capabilities):
    """A target whose products compute their left operand as they read it, and store their result anywhere."""

    def keeps(self, op):
        return True

    def takes(self, op, k):
        return op.name == "matmul" and k == 0

    def places(self, op):
        return op.name == "matmul"


def test_what_a_product_alone_reads_is_computed_in_its_kernel_where_the_target_can():
    text = """graph @g(%x: f32[4, 6, 3], %w: f32[18, 5], %c: f32[5]) -> f32[4, 5] {
      %a = transpose(%x) {perm=[1, 0, 2]} : f32[6, 4, 3]
      %b = transpose(%a) {perm=[1, 0, 2]} : f32[4, 6, 3]
      %r = relu(%b) : f32[4, 6, 3]
      %f = reshape(%r) {shape=[4, 18]} : f32[4, 18]
      %y = matmul(%f, %w) : f32[4, 5]
      %z = add(%y, %c) : f32[4, 5]
      return %z
    }"""
    graph = rewritten(Fuse(), text, target=Products())
    assert names(graph) == ["fused"] and kinds(graph) == ["contraction"]
    assert body(graph) == ["transpose", "transpose", "relu", "reshape", "matmul", "add"]


def test_a_product_stores_through_a_transpose_where_the_target_can():
    text = """graph @g(%x: f32[4, 6], %w: f32[6, 10], %s: f32[5, 4, 2]) -> f32[5, 4, 2] {
      %y = matmul(%x, %w) : f32[4, 10]
      %r = relu(%y) : f32[4, 10]
      %h = reshape(%r) {shape=[4, 5, 2]} : f32[4, 5, 2]
      %t = transpose(%h) {perm=[1, 0, 2]} : f32[5, 4, 2]
      %z = add(%t, %s) : f32[5, 4, 2]
      return %z
    }"""
    graph = rewritten(Fuse(), text, target=Products())
    assert names(graph) == ["fused"] and body(graph) == ["matmul", "relu", "reshape", "transpose", "add"]


def test_an_epilogue_goes_before_a_prologue():
    graph = rewritten(Fuse(), """graph @g(%x: f32[4, 6], %w: f32[6, 10], %v: f32[10, 3]) -> f32[4, 3] {
      %y = matmul(%x, %w) : f32[4, 10]
      %r = gelu(%y) : f32[4, 10]
      %z = matmul(%r, %v) : f32[4, 3]
      return %z
    }""", target=Products())
    assert names(graph) == ["fused", "matmul"] and body(graph) == ["matmul", "gelu"]


def test_what_others_read_too_stays_stored_before_a_product():
    graph = rewritten(Fuse(), """graph @g(%x: f32[4, 6], %w: f32[6, 5]) -> (f32[4, 5], f32[4, 6]) {
      %r = relu(%x) : f32[4, 6]
      %y = matmul(%r, %w) : f32[4, 5]
      return %y, %r
    }""", target=Products())
    assert names(graph) == ["relu", "matmul"]


def test_what_moves_a_result_of_no_known_shape_is_looked_at_without_it():
    graph = parse_graph("""graph @g(%x: f32[N, 0, 7, 6], %w: f32[6]) -> f32[0, 6, 7] {
      %y = layer_norm(%x, %w) {axis=3, eps=1e-05} : f32[N, 0, 7, 6]
      %r = reshape(%y) {shape=[0, 7, 6]} : f32[0, 7, 6]
      %t = transpose(%r) {perm=[0, 2, 1]} : f32[0, 6, 7]
      return %t
    }""")
    final, _ = optimise(graph, parse_target("x86"))
    assert final.outputs[0].static_shape == (0, 6, 7)
