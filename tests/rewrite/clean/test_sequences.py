"""Sequences and optionals of known contents."""

import numpy as np
import pytest

from graphopt.rewrite import Sequences, default_passes
from tests.rewrite.rewriting import check, names, rewritten, unchanged


@pytest.mark.parametrize("index, wanted", [(0, "%a"), (-1, "%b"), (1, "%b")])
def test_an_element_at_a_constant_place(index, wanted):
    check(Sequences(), f"""graph @g(%a: f32[2, 3], %b: f32[2, 3]) -> f32[2, 3] {{
      %s = seq_construct(%a, %b) : seq<f32[2, 3]>
      %i = const {index} : i64[]
      %y = seq_at(%s, %i) : f32[2, 3]
      %z = neg(%y) : f32[2, 3]
      return %z
    }}""", f"""graph @g(%a: f32[2, 3], %b: f32[2, 3]) -> f32[2, 3] {{
      %z = neg({wanted}) : f32[2, 3]
      return %z
    }}""")


def test_what_is_read_is_known_better_than_the_sequence_said():
    graph = rewritten(default_passes(), """graph @g(%a: f32[2, 3], %b: f32[5]) -> f32[*] {
      %e = seq_empty() {element=f32} : seq<f32[*]>
      %s = seq_insert(%e, %a, _) : seq<f32[*]>
      %zero = const 0 : i64[]
      %t = seq_insert(%s, %b, %zero) : seq<f32[*]>
      %i = const 0 : i64[]
      %u = seq_erase(%t, _) : seq<f32[*]>
      %n = seq_length(%u) : i64[]
      %one = const 1 : i64[]
      %k = sub(%n, %one) : i64[]
      %y = seq_at(%u, %i) : f32[*]
      %z = neg(%y) : f32[*]
      return %z
    }""")
    assert names(graph) == ["neg"] and graph.outputs[0].shape == (5,)


@pytest.mark.parametrize("keep, part", [("true", "1, 3"), ("false", "3")])
def test_pieces_of_a_split(keep, part):
    graph = rewritten(Sequences(), f"""graph @g(%x: f32[4, 3]) -> (f32[{part}], i64[]) {{
      %s = split_to_seq(%x, _) {{axis=0, keepdims={keep}}} : seq<f32[{part}]>
      %i = const 2 : i64[]
      %y = seq_at(%s, %i) : f32[{part}]
      %n = seq_length(%s) : i64[]
      return %y, %n
    }}""")
    assert "split_to_seq" not in names(graph) and graph.outputs[1].constant == 4


@pytest.mark.parametrize("lengths", ["[1, 4]", "3"])
def test_pieces_of_given_lengths_put_together_again(lengths):
    kind = "i64[2]" if lengths.startswith("[") else "i64[]"
    graph = rewritten(Sequences(), f"""graph @g(%x: f32[2, 5]) -> f32[2, _0] {{
      %n = const {lengths} : {kind}
      %s = split_to_seq(%x, %n) {{axis=1, keepdims=true}} : seq<f32[*]>
      %y = concat_from_seq(%s) {{axis=1, new_axis=false}} : f32[*]
      return %y
    }}""".replace("f32[2, _0]", "f32[*]"))
    assert names(graph) == ["split", "concat"] and graph.outputs[0].shape == (2, 5)


def test_stacking_along_a_new_axis():
    graph = rewritten(Sequences(), """graph @g(%a: f32[2, 3], %b: f32[2, 3]) -> f32[2, _0, 3] {
      %s = seq_construct(%a, %b) : seq<f32[2, 3]>
      %y = concat_from_seq(%s) {axis=1, new_axis=true} : f32[2, _0, 3]
      return %y
    }""")
    assert names(graph) == ["reshape", "reshape", "concat"] and graph.outputs[0].shape == (2, 2, 3)


def test_a_place_that_only_running_can_tell_and_a_sequence_from_outside_stay():
    unchanged(Sequences(), """graph @g(%a: f32[2], %i: i64[]) -> f32[2] {
      %s = seq_construct(%a, %a) : seq<f32[2]>
      %y = seq_at(%s, %i) : f32[2]
      return %y
    }""", inputs=[np.ones(2, np.float32), np.array(1)])
    unchanged(Sequences(), """graph @g(%s: seq<f32[2]>) -> i64[] {
      %y = seq_length(%s) : i64[]
      return %y
    }""", inputs=[[np.ones(2, np.float32)]])


def test_optionals_that_are_surely_filled():
    graph = rewritten(Sequences(), """graph @g(%x: f32[2]) -> (bool[], f32[2], bool[]) {
      %o = optional_wrap(%x) {element=f32, sequence=false} : opt<f32[2]>
      %h = optional_has(%o) : bool[]
      %y = optional_get(%o) : f32[2]
      %z = neg(%y) : f32[2]
      %n = optional_has(_) : bool[]
      return %h, %z, %n
    }""")
    assert names(graph) == ["neg"]
    assert [graph.outputs[0].constant, graph.outputs[2].constant] == [True, False]
