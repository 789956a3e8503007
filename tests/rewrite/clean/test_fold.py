"""Constant folding, common subexpressions, dead code."""

import numpy as np

from graphopt.rewrite import CommonSubexpressions, DeadCode, Fold
from tests.rewrite.rewriting import check, names, rewritten, unchanged


def test_what_is_constant_is_computed():
    check(Fold(), """graph @g(%x: f32[2]) -> f32[2] {
      %a = const [1.0, 2.0] : f32[2]
      %b = const 3.0 : f32[]
      %c = mul(%a, %b) : f32[2]
      %d = neg(%c) : f32[2]
      %y = add(%x, %d) : f32[2]
      return %y
    }""", """graph @g(%x: f32[2]) -> f32[2] {
      %d = const [-3.0, -6.0] : f32[2]
      %y = add(%x, %d) : f32[2]
      return %y
    }""")


def test_several_results():
    graph = rewritten(Fold(), """graph @g() -> (i64[1], i64[2]) {
      %a = const [1, 2, 3] : i64[3]
      %b, %c = split(%a) {axis=0, sizes=[1, 2]} : i64[1], i64[2]
      return %b, %c
    }""")
    assert names(graph) == []


def test_a_result_whose_shape_depends_on_values():
    graph = rewritten(Fold(), """graph @g() -> i64[1, K] {
      %a = const [1.0, 0.0, 3.0] : f32[3]
      %b = nonzero(%a) : i64[1, K]
      return %b
    }""")
    assert names(graph) == [] and graph.outputs[0].shape == (1, 2)


def test_random_numbers_are_never_folded():
    graph = rewritten(Fold(), """graph @g() -> f32[3] {
      %r = random_uniform() {shape=[3], low=0.0, high=1.0, dtype=f32, seed=1.0} : f32[3]
      return %r
    }""")
    assert names(graph) == ["random_uniform"]


def test_small_things_do_not_become_large_ones():
    big = """graph @g(%x: f32[1000, 1000]) -> f32[1000, 1000] {
      %c = const [1.0, 2.0] : f32[2]
      %s = reduce_sum(%c) {axes=[0], keepdims=false} : f32[]
      %e = expand(%s) {shape=[1000, 1000]} : f32[1000, 1000]
      %y = add(%x, %e) : f32[1000, 1000]
      return %y
    }"""
    assert names(rewritten(Fold(), big)) == ["expand", "add"]
    assert names(rewritten(Fold(growth=1 << 23), big)) == ["add"]


def test_a_symbolic_dim_is_no_constant():
    unchanged(Fold(), """graph @g(%x: f32[N]) -> i64[1] {
      %d = dims() {values=[N]} : i64[1]
      return %d
    }""")


def test_a_folded_weight_keeps_its_name():
    w = np.arange(20, dtype=np.float32).reshape(4, 5)
    graph = rewritten(Fold(), """graph @g(%x: f32[3, 5]) -> f32[3, 4] {
      %w = const @fc.weight : f32[4, 5]
      %t = transpose(%w) {perm=[1, 0]} : f32[5, 4]
      %y = matmul(%x, %t) : f32[3, 4]
      return %y
    }""", constants={"fc.weight": w})
    assert next(graph.ops).attrs["value"].name == "fc.weight/transpose"


def test_what_cannot_be_computed_is_left_for_the_run(caplog):
    text = """graph @g(%c: bool[], %x: f32[2]) -> f32[2] {
      %y = if(%c, %x) [
        graph @then(%v: f32[2]) -> f32[2] {
          %i = const [7, 0] : i64[2]
          %t = const [1.0, 2.0] : f32[2]
          %g = gather(%t, %i) {axis=0} : f32[2]
          return %g
        }
        graph @else(%v: f32[2]) -> f32[2] {
          return %v
        }
      ] : f32[2]
      return %y
    }"""
    graph = rewritten(Fold(), text, inputs=[np.array(False), np.ones(2, np.float32)])
    assert "not folded" in caplog.text and len(graph) == 1


def test_the_same_computed_twice_is_computed_once():
    check(CommonSubexpressions(), """graph @g(%x: f32[2], %y: f32[2]) -> (f32[2], f32[2]) {
      %a = const 2.0 : f32[]
      %b = const 2.0 : f32[]
      %c = mul(%x, %a) : f32[2]
      %d = mul(%b, %x) : f32[2]
      %e = sub(%x, %y) : f32[2]
      %f = sub(%y, %x) : f32[2]
      %g = add(%c, %e) : f32[2]
      %h = add(%d, %f) : f32[2]
      return %g, %h
    }""", """graph @g(%x: f32[2], %y: f32[2]) -> (f32[2], f32[2]) {
      %a = const 2.0 : f32[]
      %c = mul(%x, %a) : f32[2]
      %e = sub(%x, %y) : f32[2]
      %f = sub(%y, %x) : f32[2]
      %g = add(%c, %e) : f32[2]
      %h = add(%c, %f) : f32[2]
      return %g, %h
    }""")


def test_what_only_looks_the_same_is_not():
    unchanged(CommonSubexpressions(), """graph @g(%x: f32[2]) -> (f32[2], f32[2], f32[2], i32[2], f32[2]) {
      %a = const 0.0 : f32[]
      %b = const -0.0 : f32[]
      %c = add(%x, %a) : f32[2]
      %d = add(%x, %b) : f32[2]
      %e = leaky_relu(%x) {alpha=0.5} : f32[2]
      %f = leaky_relu(%x) {alpha=0.25} : f32[2]
      %i = const [0, 0] : i32[2]
      %z = const [0.0, 0.0] : f32[2]
      %g = add(%e, %f) : f32[2]
      %h = add(%g, %z) : f32[2]
      return %c, %d, %g, %i, %h
    }""")


def test_an_attribute_known_only_when_running_is_not_folded(caplog):
    unchanged(Fold(), """graph @g(%x: f32[N, 2]) -> (f32[N, 2], i64[1]) {
      %d = dims() {values=[3*N]} : i64[1]
      return %x, %d
    }""")
    assert not caplog.records


def test_random_numbers_are_never_merged():
    text = """graph @g() -> (f32[3], f32[3]) {
      %r = random_uniform() {shape=[3], low=0.0, high=1.0, dtype=f32, seed=1.0} : f32[3]
      %s = random_uniform() {shape=[3], low=0.0, high=1.0, dtype=f32, seed=1.0} : f32[3]
      return %r, %s
    }"""
    assert names(rewritten(CommonSubexpressions(), text)) == ["random_uniform"] * 2


def test_dead_code_goes_but_inputs_stay():
    check(DeadCode(), """graph @g(%x: f32[2], %y: f32[2]) -> f32[2] {
      %a = neg(%y) : f32[2]
      %b = exp(%a) : f32[2]
      %c = sin(%x) : f32[2]
      return %c
    }""", """graph @g(%x: f32[2], %y: f32[2]) -> f32[2] {
      %c = sin(%x) : f32[2]
      return %c
    }""")
