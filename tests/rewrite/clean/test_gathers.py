"""Gathers, slices, concats and pads that are known beforehand."""

import numpy as np
import pytest

from graphopt.ir.evaluate import evaluate
from graphopt.rewrite import Canonicalise, Gathers
from tests.rewrite.rewriting import check, names, rewritten, unchanged


def gather(indices: str, index_type: str, result: str, axis: int = 1) -> str:
    return f"""graph @g(%x: f32[3, 7]) -> f32[{result}] {{
      %i = const {indices} : {index_type}
      %y = gather(%x, %i) {{axis={axis}}} : f32[{result}]
      return %y
    }}"""


@pytest.mark.parametrize("indices, index_type, result, left", [
    ("3", "i64[]", "3", ["slice", "reshape"]),
    ("-1", "i32[]", "3", ["slice", "reshape"]),
    ("[2]", "i64[1]", "3, 1", ["slice"]),
    ("[1, 2, 3]", "i64[3]", "3, 3", ["slice"]),
    ("[0, 2, 4, 6]", "i64[4]", "3, 4", ["slice"]),
    ("[-3, -2, -1]", "i64[3]", "3, 3", ["slice"]),
    ("[3, 2, 1]", "i64[3]", "3, 3", ["gather"]),
    ("[1, 2, 4]", "i64[3]", "3, 3", ["gather"]),
    ("[1, 1]", "i64[2]", "3, 2", ["gather"]),
    ("[[1, 2]]", "i64[1, 2]", "3, 1, 2", ["gather"]),
])
def test_gather_of_a_range_is_a_slice(indices, index_type, result, left):
    assert names(rewritten(Gathers(), gather(indices, index_type, result))) == left


def test_choosing_among_dims():
    check(Gathers(), """graph @g(%x: f32[N, 4]) -> (i64[2], i64[], i64[1]) {
      %d = dims() {values=[N, 4, 2*N]} : i64[3]
      %i = const [2, 0] : i64[2]
      %j = const -1 : i64[]
      %a = gather(%d, %i) {axis=0} : i64[2]
      %b = gather(%d, %j) {axis=0} : i64[]
      %c = slice(%d) {axes=[0], starts=[1], ends=[2], steps=[1]} : i64[1]
      return %a, %b, %c
    }""", """graph @g(%x: f32[N, 4]) -> (i64[2], i64[], i64[1]) {
      %a = dims() {values=[2*N, N]} : i64[2]
      %b = dims() {values=[2*N]} : i64[1]
      %c = reshape(%b) {shape=[]} : i64[]
      %d = dims() {values=[4]} : i64[1]
      return %a, %c, %d
    }""")


@pytest.mark.parametrize("first, second, result", [
    ((2, 10, 1), (1, 5, 2), 2), ((0, 20, 3), (1, 9, 2), 2), ((5, 5, 1), (0, 3, 1), 0), ((1, 11, 1), (8, 99, 1), 2)])
def test_a_slice_of_a_slice(first, second, result):
    size = len(range(11)[first[0]:first[1]:first[2]])
    graph = rewritten(Gathers(), f"""graph @g(%x: f32[2, 11]) -> f32[1, {result}] {{
      %a = slice(%x) {{axes=[1], starts=[{first[0]}], ends=[{first[1]}], steps=[{first[2]}]}} : f32[2, {size}]
      %b = slice(%a) {{axes=[0, 1], starts=[1, {second[0]}], ends=[2, {second[1]}], steps=[1, {second[2]}]}} : f32[1, {result}]
      return %b
    }}""")
    assert names(graph) == ["slice"]


def test_a_slice_within_one_part_of_a_concat():
    text = """graph @g(%x: f32[2, 3], %y: f32[2, 4]) -> f32[2, {n}] {{
      %a = concat(%x, %y) {{axis=1}} : f32[2, 7]
      %b = slice(%a) {{axes=[1], starts=[{start}], ends=[{end}], steps=[1]}} : f32[2, {n}]
      return %b
    }}"""
    check(Gathers(), text.format(n=2, start=4, end=6), """graph @g(%x: f32[2, 3], %y: f32[2, 4]) -> f32[2, 2] {
      %b = slice(%y) {axes=[1], starts=[1], ends=[3], steps=[1]} : f32[2, 2]
      return %b
    }""")
    check([Gathers(), Canonicalise()], text.format(n=4, start=3, end=9),
          "graph @g(%x: f32[2, 3], %y: f32[2, 4]) -> f32[2, 4] { return %y }")
    unchanged(Gathers(), text.format(n=3, start=2, end=5))


def test_concats_flatten_and_neighbours_join():
    check([Gathers(), Canonicalise()], """graph @g(%x: f32[2, 7], %y: f32[2, 1]) -> f32[2, 9] {
      %a, %b = split(%x) {axis=1, sizes=[3, 4]} : f32[2, 3], f32[2, 4]
      %c = concat(%y, %a) {axis=1} : f32[2, 4]
      %d = concat(%c, %b, %y) {axis=1} : f32[2, 9]
      return %d
    }""", """graph @g(%x: f32[2, 7], %y: f32[2, 1]) -> f32[2, 9] {
      %d = concat(%y, %x, %y) {axis=1} : f32[2, 9]
      return %d
    }""")


def test_a_shuffle_is_no_identity():
    unchanged(Gathers(), """graph @g(%x: f32[2, 7]) -> f32[2, 7] {
      %a, %b = split(%x) {axis=1, sizes=[3, 4]} : f32[2, 3], f32[2, 4]
      %c = concat(%b, %a) {axis=1} : f32[2, 7]
      return %c
    }""")


def test_pads_add_up():
    text = """graph @g(%x: f32[2, 3]) -> f32[4, 6] {{
      %v = const {v} : f32[]
      %a = pad(%x) {{pads=[1, 0, 0, 2]}} : f32[3, 5]
      %b = pad(%a, %v) {{pads=[0, 1, 1, 0]}} : f32[4, 6]
      return %b
    }}"""
    assert names(rewritten(Gathers(), text.format(v="0.0"))) == ["pad"]
    assert names(rewritten(Gathers(), text.format(v="1.0"))) == ["pad", "pad"]


@pytest.mark.parametrize("start, end, step", [(-5, 99, 3), (-5, 99, 1), (-6, -2, 2), (1, 99, 2), (-2, 99, 1), (2, -1, 1)])
def test_a_slice_of_a_concat_counts_from_where_it_stands(start, end, step):
    size = len(range(7)[start:end:step])
    graph = rewritten(Gathers(), f"""graph @g(%a: f32[1, 1], %b: f32[1, 6]) -> f32[1, {size}] {{
      %c = concat(%a, %b) {{axis=1}} : f32[1, 7]
      %y = slice(%c) {{axes=[1], starts=[{start}], ends=[{end}], steps=[{step}]}} : f32[1, {size}]
      return %y
    }}""")
    assert names(graph) == ["slice"]
    a, b = np.zeros((1, 1), np.float32), 100 + np.arange(6, dtype=np.float32)[None]
    [got] = evaluate(graph, [a, b])
    np.testing.assert_array_equal(got, np.concatenate([a, b], 1)[:, start:end:step])


def test_an_empty_slice_has_no_neighbours():
    graph = rewritten(Gathers(), """graph @g(%x: f32[5]) -> f32[3] {
      %a = slice(%x) {axes=[0], starts=[3], ends=[1], steps=[1]} : f32[0]
      %b = slice(%x) {axes=[0], starts=[1], ends=[4], steps=[1]} : f32[3]
      %y = concat(%a, %b) {axis=0} : f32[3]
      return %y
    }""")
    [got] = evaluate(graph, [np.arange(5, dtype=np.float32)])
    np.testing.assert_array_equal(got, [1, 2, 3])


@pytest.mark.parametrize("mask, axis, result, left", [
    ("[true, false, true, true]", "1", "3, 3", ["gather"]),
    ("[true, false]", "0", "1, 4", ["slice"]),  # shorter than the axis
    ("[false, true, false, false, false]", "1", "3, 1", ["slice"]),  # longer, but false past its end
    ("[true, true, false, false, true, false]", "none", "3", ["reshape", "gather"]),
])
def test_a_mask_that_is_known_picks_known_places(mask, axis, result, left):
    count = len(mask.split(","))
    shape = "_0" if axis == "none" else {"0": "_0, 4", "1": "3, _0"}[axis]
    graph = rewritten(Gathers(), f"""graph @g(%x: f32[3, 4]) -> f32[{shape}] {{
      %m = const {mask} : bool[{count}]
      %y = compress(%x, %m) {{axis={axis}}} : f32[{shape}]
      %z = neg(%y) : f32[{shape}]
      return %z
    }}""")
    assert names(graph) == [*left, "neg"]
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    keep = np.array([w == "true" for w in mask.strip("[]").split(", ")])
    want = -np.compress(keep, x, None if axis == "none" else int(axis))
    assert want.shape == tuple(int(d) for d in result.split(","))
    np.testing.assert_array_equal(evaluate(graph, [x])[0], want)
