"""Branches with a known condition."""

import numpy as np
import pytest

from graphopt.rewrite import Canonicalise, Fold, Inline, default_passes
from tests.rewrite.rewriting import check, names, rewritten

BRANCHES = """[
        graph @then(%v: f32[2, 3]) -> f32[2, 1, 3] {
          %a = reshape(%v) {shape=[2, 1, 3]} : f32[2, 1, 3]
          return %a
        }
        graph @else(%v: f32[2, 3]) -> f32[2, 3] {
          %a = neg(%v) : f32[2, 3]
          return %a
        }
      ]"""


@pytest.mark.parametrize("cond, op, shape", [("true", "reshape(%x) {shape=[2, 1, 3]}", "2, 1, 3"), ("false", "neg(%x)", "2, 3")])
def test_the_branch_taken_stands_in_its_place(cond, op, shape):
    graph = f"""graph @g(%x: f32[2, 3]) -> f32[*] {{
      %c = const {cond} : bool[]
      %y = if(%c, %x) {BRANCHES} : f32[*]
      %z = tanh(%y) : f32[*]
      return %z
    }}"""
    check(Inline(), graph, f"""graph @g(%x: f32[2, 3]) -> f32[{shape}] {{
      %y = {op} : f32[{shape}]
      %z = tanh(%y) : f32[{shape}]
      return %z
    }}""")


def test_a_condition_that_only_running_can_tell_stays():
    graph = rewritten(default_passes(), f"""graph @g(%c: bool[], %x: f32[2, 3]) -> f32[*] {{
      %y = if(%c, %x) {BRANCHES} : f32[*]
      return %y
    }}""")
    assert names(graph) == ["if"]


def test_open_dims_are_closed_and_those_of_the_branch_get_names_of_their_own():
    graph = rewritten([Canonicalise(), Fold(), Inline(), Fold()], """graph @g(%x: f32[4], %y: f32[3, 4]) 
        -> (i64[_0], f32[_1], i64[1, _2]) {
      %n = nonzero(%x) : i64[1, _0]
      %c = const true : bool[]
      %a, %b = if(%c, %x) [
        graph @then(%v: f32[4]) -> (f32[4], i64[1, _0]) {
          %m = exp(%v) : f32[4]
          %k = nonzero(%m) : i64[1, _0]
          return %m, %k
        }
        graph @else(%v: f32[4]) -> (f32[2], i64[1, _0]) {
          %m = slice(%v) {axes=[0], starts=[0], ends=[2], steps=[1]} : f32[2]
          %k = nonzero(%m) : i64[1, _0]
          return %m, %k
        }
      ] : f32[_1], i64[1, _2]
      %z = neg(%a) : f32[_1]
      %d = reshape(%n) {shape=[_0]} : i64[_0]
      %s = reduce_sum(%y) {axes=[0], keepdims=false} : f32[4]
      %w = add(%z, %s) : f32[_1]
      return %d, %w, %b
    }""",
                      inputs=[np.array([1, 0, 0, 2], np.float32), np.ones((3, 4), np.float32)])
    d, w, b = graph.outputs
    assert w.shape == (4,) and str(d.shape[0]) == "_0" and str(b.shape[1]) not in ("_0", "_1")
