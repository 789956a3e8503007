"""Reshapes move behind the elementwise ops that follow a contraction."""

import pytest

from graphopt.rewrite import Canonicalise, CommonSubexpressions, Fuse, Reshapes
from tests.rewrite.rewriting import body, check, names, rewritten, unchanged


def test_a_flattened_linear_layer_with_its_bias_activation_and_residual():
    text = """graph @g(%x: f32[6, 4], %w: f32[4, 5], %b: f32[5], %r: f32[2, 3, 5]) -> f32[2, 3, 5] {
      %y = matmul(%x, %w) : f32[6, 5]
      %t = reshape(%y) {shape=[2, 3, 5]} : f32[2, 3, 5]
      %u = add(%t, %b) : f32[2, 3, 5]
      %a = gelu(%u) : f32[2, 3, 5]
      %h = const 0.5 : f32[]
      %s = mul(%a, %h) : f32[2, 3, 5]
      %z = add(%r, %s) : f32[2, 3, 5]
      return %z
    }"""
    graph = rewritten([Reshapes(), Fuse()], text, ulps=64)
    assert names(graph) == ["reshape", "fused", "reshape"]
    assert body(graph) == ["matmul", "add", "gelu", "mul", "add"]


def test_two_layers_in_a_row_need_no_reshape_between():
    graph = rewritten([Reshapes(), Canonicalise(), CommonSubexpressions()], """
    graph @g(%x: f32[6, 4], %w: f32[4, 4]) -> f32[6, 4] {
      %y = matmul(%x, %w) : f32[6, 4]
      %t = reshape(%y) {shape=[2, 3, 4]} : f32[2, 3, 4]
      %a = tanh(%t) : f32[2, 3, 4]
      %u = reshape(%a) {shape=[6, 4]} : f32[6, 4]
      %z = matmul(%u, %w) : f32[6, 4]
      return %z
    }""", ulps=64)
    assert names(graph) == ["matmul", "tanh", "matmul"]


@pytest.mark.parametrize("operand", ["f32[3, 5]", "f32[2, 1, 5]", "f32[2, 3, 1]"])
def test_an_operand_that_broadcasts_otherwise_keeps_the_reshape_in_place(operand):
    unchanged(Reshapes(), f"""graph @g(%x: f32[6, 4], %w: f32[4, 5], %b: {operand}) -> f32[2, 3, 5] {{
      %y = matmul(%x, %w) : f32[6, 5]
      %t = reshape(%y) {{shape=[2, 3, 5]}} : f32[2, 3, 5]
      %u = add(%t, %b) : f32[2, 3, 5]
      return %u
    }}""")


def test_a_single_element_of_higher_rank():
    graph = rewritten(Reshapes(), """graph @g(%x: f32[6, 4], %w: f32[4, 5], %b: f32[1, 1, 1]) -> f32[2, 3, 5] {
      %y = matmul(%x, %w) : f32[6, 5]
      %t = reshape(%y) {shape=[2, 3, 5]} : f32[2, 3, 5]
      %u = add(%t, %b) : f32[2, 3, 5]
      return %u
    }""")
    assert names(graph) == ["matmul", "reshape", "add", "reshape"]


def test_without_a_contraction_nothing_moves():
    unchanged(Reshapes(), """graph @g(%x: f32[6, 5]) -> f32[2, 3, 5] {
      %e = exp(%x) : f32[6, 5]
      %t = reshape(%e) {shape=[2, 3, 5]} : f32[2, 3, 5]
      %u = neg(%t) : f32[2, 3, 5]
      return %u
    }""")


def test_a_result_that_is_seen_elsewhere_stays():
    check(Reshapes(), *["""graph @g(%x: f32[6, 4], %w: f32[4, 5]) -> (f32[2, 3, 5], f32[6, 5]) {
      %y = matmul(%x, %w) : f32[6, 5]
      %t = reshape(%y) {shape=[2, 3, 5]} : f32[2, 3, 5]
      %u = neg(%t) : f32[2, 3, 5]
      return %u, %y
    }"""] * 2)
