"""Transposes, reshapes and casts meet and cancel."""

import numpy as np

from graphopt.rewrite import CommonSubexpressions, Fold, Transposes
from tests.rewrite.rewriting import check, names, rewritten, unchanged


def test_through_elementwise_ops():
    check(Transposes(), """graph @g(%x: f32[2, 3, 5]) -> f32[2, 3, 5] {
      %a = transpose(%x) {perm=[0, 2, 1]} : f32[2, 5, 3]
      %b = relu(%a) : f32[2, 5, 3]
      %c = const 2.0 : f32[]
      %d = mul(%b, %c) : f32[2, 5, 3]
      %e = transpose(%d) {perm=[0, 2, 1]} : f32[2, 3, 5]
      return %e
    }""", """graph @g(%x: f32[2, 3, 5]) -> f32[2, 3, 5] {
      %b = relu(%x) : f32[2, 3, 5]
      %c = const 2.0 : f32[]
      %d = mul(%b, %c) : f32[2, 3, 5]
      return %d
    }""")


def test_constants_are_transposed_back():
    graph = rewritten([Transposes(), Fold()], """graph @g(%x: f32[2, 3, 5]) -> f32[2, 3, 5] {
      %a = transpose(%x) {perm=[0, 2, 1]} : f32[2, 5, 3]
      %c = const [1.0, 2.0, 3.0] : f32[3]
      %d = add(%a, %c) : f32[2, 5, 3]
      %e = transpose(%d) {perm=[0, 2, 1]} : f32[2, 3, 5]
      return %e
    }""")
    assert names(graph) == ["add"]


def test_two_transposes_into_one():
    graph = rewritten(Transposes(), """graph @g(%x: f32[2, 3], %y: f32[2, 3]) -> f32[3, 2] {
      %a = transpose(%x) {perm=[1, 0]} : f32[3, 2]
      %b = transpose(%y) {perm=[1, 0]} : f32[3, 2]
      %c = add(%a, %b) : f32[3, 2]
      return %c
    }""")
    assert names(graph) == ["add", "transpose"]


def test_nothing_moves_where_nothing_is_won():
    unchanged(Transposes(), """graph @g(%x: f32[2, 3], %y: f32[3, 2]) -> f32[3, 2] {
      %a = transpose(%x) {perm=[1, 0]} : f32[3, 2]
      %b = relu(%a) : f32[3, 2]
      %c = add(%b, %y) : f32[3, 2]
      return %c
    }""")


def test_a_transpose_that_is_used_elsewhere_stays():
    unchanged(Transposes(), """graph @g(%x: f32[2, 3]) -> (f32[2, 3], f32[3, 2]) {
      %a = transpose(%x) {perm=[1, 0]} : f32[3, 2]
      %b = relu(%a) : f32[3, 2]
      %c = transpose(%b) {perm=[1, 0]} : f32[2, 3]
      return %c, %a
    }""")


def test_reductions_take_the_axes_where_they_come_from():
    graph = rewritten(Transposes(), """graph @g(%x: f32[2, 3, 4]) -> (f32[2], f32[4, 1, 1]) {
      %a = transpose(%x) {perm=[0, 2, 1]} : f32[2, 4, 3]
      %b = reduce_max(%a) {axes=[1, 2], keepdims=false} : f32[2]
      %c = transpose(%x) {perm=[2, 0, 1]} : f32[4, 2, 3]
      %d = reduce_max(%c) {axes=[1, 2], keepdims=true} : f32[4, 1, 1]
      return %b, %d
    }""")
    assert "transpose" not in names(graph)


def test_reduction_leaves_the_order_of_the_rest():
    graph = rewritten(Transposes(), """graph @g(%x: f32[2, 3, 4]) -> f32[4, 2] {
      %a = transpose(%x) {perm=[2, 0, 1]} : f32[4, 2, 3]
      %b = reduce_max(%a) {axes=[2], keepdims=false} : f32[4, 2]
      return %b
    }""")
    assert names(graph) == ["reduce_max", "transpose"]


def test_a_product_of_transposes():
    check([Transposes(), CommonSubexpressions()], """graph @g(%x: f32[2, 3], %y: f32[5, 2]) -> f32[5, 3] {
      %a = transpose(%x) {perm=[1, 0]} : f32[3, 2]
      %b = transpose(%y) {perm=[1, 0]} : f32[2, 5]
      %c = matmul(%a, %b) : f32[3, 5]
      %d = transpose(%c) {perm=[1, 0]} : f32[5, 3]
      return %d
    }""", """graph @g(%x: f32[2, 3], %y: f32[5, 2]) -> f32[5, 3] {
      %d = matmul(%y, %x) : f32[5, 3]
      return %d
    }""", ulps=4)


def test_around_axes_of_one():
    graph = rewritten(Transposes(), """graph @g(%x: f32[2, 3, 4]) -> f32[2, 1, 3, 4] {
      %a = transpose(%x) {perm=[0, 2, 1]} : f32[2, 4, 3]
      %b = reshape(%a) {shape=[2, 4, 1, 3]} : f32[2, 4, 1, 3]
      %c = transpose(%b) {perm=[0, 2, 3, 1]} : f32[2, 1, 3, 4]
      return %c
    }""")
    assert names(graph) == ["reshape"]
    graph = rewritten(Transposes(), """graph @g(%x: f32[2, 3, 4]) -> f32[1, 3, 2, 4] {
      %a = transpose(%x) {perm=[0, 2, 1]} : f32[2, 4, 3]
      %b = reshape(%a) {shape=[2, 4, 1, 3]} : f32[2, 4, 1, 3]
      %c = transpose(%b) {perm=[2, 3, 0, 1]} : f32[1, 3, 2, 4]
      return %c
    }""")
    assert names(graph) == ["transpose", "reshape"]


def test_parts_that_are_transposed_alike_are_joined_first():
    check(Transposes(), """
    graph @g(%x: f32[2, 3, 5], %y: f32[2, 4, 5]) -> f32[5, 2, 7] {
      %a = transpose(%x) {perm=[2, 0, 1]} : f32[5, 2, 3]
      %b = transpose(%y) {perm=[2, 0, 1]} : f32[5, 2, 4]
      %d = concat(%a, %b) {axis=2} : f32[5, 2, 7]
      return %d
    }""", """
    graph @g(%x: f32[2, 3, 5], %y: f32[2, 4, 5]) -> f32[5, 2, 7] {
      %a = concat(%x, %y) {axis=1} : f32[2, 7, 5]
      %d = transpose(%a) {perm=[2, 0, 1]} : f32[5, 2, 7]
      return %d
    }""")
    unchanged(Transposes(), """
    graph @g(%x: f32[3, 3, 3], %y: f32[3, 3, 3]) -> f32[3, 3, 6] {
      %a = transpose(%x) {perm=[2, 0, 1]} : f32[3, 3, 3]
      %b = transpose(%y) {perm=[1, 2, 0]} : f32[3, 3, 3]
      %d = concat(%a, %b) {axis=2} : f32[3, 3, 6]
      return %d
    }""")


def test_split_undoes_concat():
    check(Transposes(), """graph @g(%x: f32[2, 3], %y: f32[2, 4]) -> (f32[2, 3], f32[2, 4]) {
      %a = concat(%x, %y) {axis=1} : f32[2, 7]
      %b, %c = split(%a) {axis=1, sizes=[3, 4]} : f32[2, 3], f32[2, 4]
      return %b, %c
    }""", "graph @g(%x: f32[2, 3], %y: f32[2, 4]) -> (f32[2, 3], f32[2, 4]) { return %x, %y }")


def test_casts_cancel():
    check(Transposes(), """graph @g(%x: f16[2]) -> f16[2] {
      %a = cast(%x) {to=f32} : f32[2]
      %b = cast(%a) {to=f16} : f16[2]
      return %b
    }""", "graph @g(%x: f16[2]) -> f16[2] { return %x }", inputs=[np.array([np.nan, 6e-8], np.float16)])


def test_a_long_chain_is_crossed():
    lines = ["%a = transpose(%x) {perm=[1, 0]} : f32[3, 2]"]
    value = "a"
    for i in range(20):
        lines.append(f"%v{i} = sin(%{value}) : f32[3, 2]")
        value = f"v{i}"
    lines.append(f"%z = transpose(%{value}) {{perm=[1, 0]}} : f32[2, 3]")
    graph = rewritten(Transposes(), "graph @g(%x: f32[2, 3]) -> f32[2, 3] {\n" + "\n".join(lines) + "\nreturn %z\n}")
    assert names(graph) == ["sin"] * 20
