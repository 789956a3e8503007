"""Dims that only running could tell, and that are known after all, are put wherever they are named."""

import numpy as np
import pytest

from graphopt.errors import IRError
from graphopt.ir import evaluate, verify
from graphopt.rewrite import Context, Fold, Inline, default_passes
from tests.rewrite.rewriting import check, names, parse, rewritten

MASK = "%k = const [1.0, 0.0, 1.0, 1.0] : f32[4]"


def test_attributes_and_types_behind_what_is_folded():
    check(Fold(), f"""graph @g(%x: f32[4]) -> f32[1, _0] {{
      {MASK}
      %nz = nonzero(%k) : i64[1, _0]
      %i = reshape(%nz) {{shape=[_0]}} : i64[_0]
      %g = gather(%x, %i) {{axis=0}} : f32[_0]
      %r = reshape(%g) {{shape=[1, _0]}} : f32[1, _0]
      %y = concat(%r, %r) {{axis=1}} : f32[1, 2*_0]
      %z = slice(%y) {{axes=[1], starts=[_0], ends=[2*_0], steps=[1]}} : f32[1, _0]
      return %z
    }}""", """graph @g(%x: f32[4]) -> f32[1, 3] {
      %i = const [0, 2, 3] : i64[3]
      %g = gather(%x, %i) {axis=0} : f32[3]
      %r = reshape(%g) {shape=[1, 3]} : f32[1, 3]
      %y = concat(%r, %r) {axis=1} : f32[1, 6]
      %z = slice(%y) {axes=[1], starts=[3], ends=[6], steps=[1]} : f32[1, 3]
      return %z
    }""")


def test_a_mask_larger_than_what_folding_keeps():
    graph = rewritten(default_passes(), """graph @g(%x: f32[300]) -> f32[_0] {
      %o = const 1.0 : f32[]
      %e = expand(%o) {shape=[300, 300]} : f32[300, 300]
      %nz = nonzero(%e) : i64[2, _0]
      %c = slice(%nz) {axes=[0], starts=[0], ends=[1], steps=[1]} : i64[1, _0]
      %i = reshape(%c) {shape=[_0]} : i64[_0]
      %y = gather(%x, %i) {axis=0} : f32[_0]
      return %y
    }""")
    assert names(graph) == ["gather"] and graph.outputs[0].shape == (90000,)


def test_specialising_settles_what_it_makes_known():
    graph = parse("""graph @g(%x: f32[N, 2]) -> f32[_0, 2] {
      %o = const true : bool[]
      %e = expand(%o) {shape=[N]} : bool[N]
      %nz = nonzero(%e) : i64[1, _0]
      %i = reshape(%nz) {shape=[_0]} : i64[_0]
      %g = gather(%x, %i) {axis=0} : f32[_0, 2]
      %y = relu(%g) : f32[_0, 2]
      return %y
    }""")
    made = graph.specialise({"N": 5})
    verify(made)
    Fold().run(made, Context())
    verify(made)
    assert made.outputs[0].shape == (5, 2) and all(v.type.is_static for v in made.values())
    x = np.float32(np.arange(10)).reshape(5, 2)
    np.testing.assert_array_equal(evaluate(made, [x])[0], x)
    assert graph.outputs[0].shape != (5, 2)  # the original stays


def test_a_symbol_may_turn_out_to_be_another_dim():
    check(Inline(), """graph @g(%x: f32[N, 2]) -> f32[_0, 2] {
      %c = const true : bool[]
      %y = if(%c, %x) [
        graph @then(%v: f32[N, 2]) -> f32[N, 2] {
          %a = exp(%v) : f32[N, 2]
          return %a
        }
        graph @else(%v: f32[N, 2]) -> f32[3, 2] {
          %a = const [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]] : f32[3, 2]
          return %a
        }
      ] : f32[_0, 2]
      %r = reshape(%y) {shape=[2*_0]} : f32[2*_0]
      %z = reshape(%r) {shape=[_0, 2]} : f32[_0, 2]
      return %z
    }""", """graph @g(%x: f32[N, 2]) -> f32[N, 2] {
      %a = exp(%x) : f32[N, 2]
      %r = reshape(%a) {shape=[2*N]} : f32[2*N]
      %z = reshape(%r) {shape=[N, 2]} : f32[N, 2]
      return %z
    }""")


def test_regions_take_what_is_known_outside_but_not_for_their_own_dims():
    graph = rewritten(Fold(), f"""graph @g(%x: f32[4], %c: bool[]) -> (f32[_1], i64[1, _2]) {{
      {MASK}
      %nz = nonzero(%k) : i64[1, _0]
      %i = reshape(%nz) {{shape=[_0]}} : i64[_0]
      %g = gather(%x, %i) {{axis=0}} : f32[_0]
      %y, %n = if(%c, %g) [
        graph @then(%v: f32[_0]) -> (f32[1, _0], i64[1, _1]) {{
          %r = reshape(%v) {{shape=[1, _0]}} : f32[1, _0]
          %m = nonzero(%v) : i64[1, _1]
          return %r, %m
        }}
        graph @else(%w: f32[_0]) -> (f32[1, _0], i64[1, _1]) {{
          %r = reshape(%w) {{shape=[1, _0]}} : f32[1, _0]
          %s = neg(%w) : f32[_0]
          %m = nonzero(%s) : i64[1, _1]
          return %r, %m
        }}
      ] : f32[1, _0], i64[1, _2]
      %z = reshape(%y) {{shape=[_0]}} : f32[_0]
      return %z, %n
    }}""".replace("(f32[_1], i64[1, _2])", "(f32[_0], i64[1, _2])"), inputs=[np.float32([1, 2, 0, 4]), np.array(True)])
    branch = next(op for op in graph.ops if op.name == "if").regions[0]
    assert branch.inputs[0].shape == (3,) and branch.outputs[0].shape == (1, 3)
    assert str(branch.outputs[1].shape[1]) == "_1" and not graph.outputs[1].type.is_static


def test_an_inner_symbol_hides_an_outer_one_of_that_name():
    graph = rewritten(Fold(), f"""graph @g(%x: f32[4], %c: bool[]) -> (i64[1, _0], i64[1, _1]) {{
      {MASK}
      %nz = nonzero(%k) : i64[1, _0]
      %n = if(%c, %x) [
        graph @then(%v: f32[4]) -> i64[1, _0] {{
          %m = nonzero(%v) : i64[1, _0]
          return %m
        }}
        graph @else(%v: f32[4]) -> i64[1, _0] {{
          %s = neg(%v) : f32[4]
          %m = nonzero(%s) : i64[1, _0]
          return %m
        }}
      ] : i64[1, _1]
      return %nz, %n
    }}""", inputs=[np.float32([0, 2, 0, 0]), np.array(True)])
    assert graph.outputs[0].shape == (1, 3) and not graph.outputs[1].type.is_static


def test_a_dim_of_one_tells_nothing_of_what_it_broadcasts_against():
    """`add` of two unknown sizes is given the first one's; where that is 1, the result has the other's."""
    graph = rewritten(Fold(), """graph @g(%x: f32[4]) -> f32[_0] {
      %k = const [0.0, 3.0] : f32[2]
      %one = nonzero(%k) : i64[1, _0]
      %i = reshape(%one) {shape=[_0]} : i64[_0]
      %a = gather(%x, %i) {axis=0} : f32[_0]
      %nz = nonzero(%x) : i64[1, _1]
      %j = reshape(%nz) {shape=[_1]} : i64[_1]
      %b = gather(%x, %j) {axis=0} : f32[_1]
      %y = add(%a, %b) : f32[_0]
      return %y
    }""", inputs=[np.float32([1, 2, 0, 4])])
    assert str(graph.outputs[0].shape[0]) == "_1"


def test_unrolled_loops():
    graph = rewritten(default_passes(), f"""graph @g(%x: f32[4]) -> f32[2, _0] {{
      {MASK}
      %nz = nonzero(%k) : i64[1, _0]
      %i = reshape(%nz) {{shape=[_0]}} : i64[_0]
      %g = gather(%x, %i) {{axis=0}} : f32[_0]
      %t = const 2 : i64[]
      %s, %y = loop(%t, _, %g) {{carried=1}} [
        graph @body(%n: i64[], %c: bool[], %v: f32[_0]) -> (bool[], f32[_0], f32[_0]) {{
          %r = reshape(%v) {{shape=[1, _0]}} : f32[1, _0]
          %e = exp(%r) : f32[1, _0]
          %q = reshape(%e) {{shape=[_0]}} : f32[_0]
          return %c, %q, %q
        }}
      ] : f32[_0], f32[2, _0]
      return %y
    }}""", ulps=10)
    assert "loop" not in names(graph) and graph.outputs[0].shape == (2, 3)


def test_contradictions_are_named():
    graph = parse("""graph @g(%x: f32[N], %y: f32[M]) -> f32[N + M] {
      %a = concat(%x, %y) {axis=0} : f32[N + M]
      %z = reshape(%a) {shape=[2*N]} : f32[2*N]
      return %a
    }""")
    with pytest.raises(IRError, match="reshape"):
        graph.specialise({"N": 2, "M": 3})
