"""Loops of a known number of iterations."""

import numpy as np
import pytest

from graphopt.rewrite import Canonicalise, Fold, Gathers, Unroll, default_passes
from tests.rewrite.rewriting import check, names, rewritten, unchanged


def cumulative(trip: str, cond: str = "_", keep: str = "%keep") -> str:
    """A loop that adds up the rows of %x and stacks the sums so far."""
    return f"""graph @g(%start: f32[5], %x: f32[3, 5]) -> (f32[5], f32[_0, 5]) {{
      %n = const {trip} : i64[]
      %stop = const false : bool[]
      %go = const true : bool[]
      %sum, %sums = loop(%n, {cond}, %start, %x) {{carried=1}} [
        graph @body(%i: i64[], %keep: bool[], %s: f32[5], %x: f32[3, 5]) -> (bool[], f32[5], f32[5]) {{
          %stop = const false : bool[]
          %row = gather(%x, %i) {{axis=0}} : f32[5]
          %next = add(%s, %row) : f32[5]
          return {keep}, %next, %next
        }}
      ] : f32[5], f32[_0, 5]
      return %sum, %sums
    }}"""


def test_iterations_follow_each_other_and_scan_outputs_are_stacked():
    text = cumulative("2").replace("_0", "2")
    check([Unroll(), Fold(), Gathers(), Canonicalise()], text, """graph @g(%start: f32[5], %x: f32[3, 5]) -> (f32[5], f32[2, 5]) {
      %0 = slice(%x) {axes=[0], starts=[0], ends=[1], steps=[1]} : f32[1, 5]
      %1 = reshape(%0) {shape=[5]} : f32[5]
      %2 = add(%start, %1) : f32[5]
      %3 = reshape(%2) {shape=[1, 5]} : f32[1, 5]
      %4 = slice(%x) {axes=[0], starts=[1], ends=[2], steps=[1]} : f32[1, 5]
      %5 = reshape(%4) {shape=[5]} : f32[5]
      %6 = add(%2, %5) : f32[5]
      %7 = reshape(%6) {shape=[1, 5]} : f32[1, 5]
      %8 = concat(%3, %7) {axis=0} : f32[2, 5]
      return %6, %8
    }""")


@pytest.mark.parametrize("trip, cond", [("3", "_"), ("1", "%go")])
def test_one_iteration_and_a_condition_that_holds(trip, cond):
    graph = rewritten(default_passes(), cumulative(trip, cond).replace("_0", trip))
    assert "loop" not in names(graph)


def test_what_only_running_can_tell_stays():
    for options in ({"cond": "%stop"}, {"keep": "%stop"}):
        text = cumulative("3", **options)
        text = text.replace("_0", "0") if "cond" in options else text
        assert "loop" in names(rewritten(Unroll(), text))


def test_a_carried_value_that_grows_stays():
    assert "loop" in names(rewritten(Unroll(), """graph @g(%x: f32[2]) -> f32[_0] {
      %n = const 3 : i64[]
      %y = loop(%n, _, %x) {carried=1} [
        graph @body(%i: i64[], %keep: bool[], %s: f32[_1]) -> (bool[], f32[2*_1]) {
          %t = concat(%s, %s) {axis=0} : f32[2*_1]
          return %keep, %t
        }
      ] : f32[_0]
      return %y
    }""", inputs=[np.ones(2, np.float32)]))


def test_the_limit_counts_the_ops_of_all_iterations():
    text = cumulative("3").replace("_0", "3")
    unchanged(Unroll(limit=5), text.replace("%stop = const false : bool[]", "").replace("%go = const true : bool[]", ""))
    assert "loop" not in names(rewritten(Unroll(limit=6), text))


def test_loops_inside_of_loops():
    graph = rewritten(default_passes(), """graph @g(%x: f32[2, 3]) -> f32[2, 3] {
      %n = const 2 : i64[]
      %y = loop(%n, _, %x) {carried=1} [
        graph @outer(%i: i64[], %keep: bool[], %s: f32[2, 3]) -> (bool[], f32[2, 3]) {
          %m = const 3 : i64[]
          %t = loop(%m, _, %s, %i) {carried=1} [
            graph @inner(%j: i64[], %again: bool[], %u: f32[2, 3], %k: i64[]) -> (bool[], f32[2, 3]) {
              %l = add(%j, %k) : i64[]
              %f = cast(%l) {to=f32, saturate=true, rounding="nearest"} : f32[]
              %v = add(%u, %f) : f32[2, 3]
              return %again, %v
            }
          ] : f32[2, 3]
          return %keep, %t
        }
      ] : f32[2, 3]
      return %y
    }""")
    assert "loop" not in names(graph)
