"""Movement around attention, in its kernel; projections of one value, merged."""

import numpy as np
import pytest

from graphopt.rewrite import DeadCode, Heads, Projections
from tests.rewrite.rewriting import check, names, rewritten, unchanged

SPLIT_AND_MERGED = """graph @g(%x: f32[2, 5, 12], %k: f32[2, 2, 7, 3], %v: f32[2, 2, 7, 3]) -> f32[2, 5, 6] {
  %p = slice(%x) {axes=[2], starts=[6], ends=[12], steps=[1]} : f32[2, 5, 6]
  %h = reshape(%p) {shape=[2, 5, 2, 3]} : f32[2, 5, 2, 3]
  %q = transpose(%h) {perm=[0, 2, 1, 3]} : f32[2, 2, 5, 3]
  %y = attention(%q, %k, %v, _) {scale=0.5, causal=false, softcap=0.0, empty="zero"} : f32[2, 2, 5, 3]
  %t = transpose(%y) {perm=[0, 2, 1, 3]} : f32[2, 5, 2, 3]
  %z = reshape(%t) {shape=[2, 5, 6]} : f32[2, 5, 6]
  return %z
}"""


def test_heads_are_split_and_merged_by_the_kernel():
    check([Heads(), DeadCode()], SPLIT_AND_MERGED, """
    graph @g(%x: f32[2, 5, 12], %k: f32[2, 2, 7, 3], %v: f32[2, 2, 7, 3]) -> f32[2, 5, 6] {
      %f = fused(%x, %k, %v) {kind="attention"} [
        graph @body(%x: f32[2, 5, 12], %k: f32[2, 2, 7, 3], %v: f32[2, 2, 7, 3]) -> f32[2, 5, 2, 3] {
          %p = slice(%x) {axes=[2], starts=[6], ends=[12], steps=[1]} : f32[2, 5, 6]
          %h = reshape(%p) {shape=[2, 5, 2, 3]} : f32[2, 5, 2, 3]
          %q = transpose(%h) {perm=[0, 2, 1, 3]} : f32[2, 2, 5, 3]
          %y = attention(%q, %k, %v, _) {scale=0.5, causal=false, softcap=0.0, empty="zero"} : f32[2, 2, 5, 3]
          %t = transpose(%y) {perm=[0, 2, 1, 3]} : f32[2, 5, 2, 3]
          return %t
        }
      ] : f32[2, 5, 2, 3]
      %z = reshape(%f) {shape=[2, 5, 6]} : f32[2, 5, 6]
      return %z
    }""")


def test_what_others_read_too_stays():
    """Keys that are returned, and a result that is read before its heads are merged."""
    graph = rewritten([Heads(), DeadCode()], """
    graph @g(%q: f32[1, 2, 5, 3], %c: f32[1, 7, 2, 3]) -> (f32[1, 5, 2, 3], f32[1, 2, 7, 3], f32[1, 2, 5, 3]) {
      %k = transpose(%c) {perm=[0, 2, 1, 3]} : f32[1, 2, 7, 3]
      %y = attention(%q, %k, %k, _) {scale=0.5, causal=false, softcap=0.0, empty="zero"} : f32[1, 2, 5, 3]
      %t = transpose(%y) {perm=[0, 2, 1, 3]} : f32[1, 5, 2, 3]
      return %t, %k, %y
    }""")
    assert names(graph) == ["transpose", "fused", "transpose"]


def test_without_movement_nothing_changes():
    unchanged(Heads(), """
    graph @g(%q: f32[1, 2, 5, 3], %x: f32[1, 14, 3]) -> f32[1, 2, 5, 3] {
      %k = reshape(%x) {shape=[1, 2, 7, 3]} : f32[1, 2, 7, 3]
      %y = attention(%q, %k, %k, _) {scale=0.5, causal=false, softcap=0.0, empty="zero"} : f32[1, 2, 5, 3]
      return %y
    }""")


WEIGHTS = {n: np.random.default_rng(k).standard_normal((6, 4 if n != "v" else 8)).astype(np.float32) for k, n in enumerate("qkv")}


def projections(biases: str) -> str:
    """Attention on projections of %x, those named in `biases` with one."""
    lines = []
    for n in "qkv":
        size = WEIGHTS[n].shape[1]
        numbers = [i + 0.5 for i in range(size)]
        lines += [f"%w{n} = const @{n} : f32[6, {size}]", f"%b{n} = const {numbers} : f32[{size}]",
                  f"%p{n} = matmul(%x, %w{n}) : f32[1, 5, {size}]"]
        last = f"p{n}"
        if n in biases:
            lines.append(f"%a{n} = add(%b{n}, %p{n}) : f32[1, 5, {size}]")
            last = f"a{n}"
        lines += [f"%h{n} = reshape(%{last}) {{shape=[1, 5, 2, {size // 2}]}} : f32[1, 5, 2, {size // 2}]",
                  f"%{n} = transpose(%h{n}) {{perm=[0, 2, 1, 3]}} : f32[1, 2, 5, {size // 2}]"]
    return "graph @g(%x: f32[1, 5, 6]) -> f32[1, 2, 5, 4] {\n" + "\n".join(lines) + """
      %y = attention(%q, %k, %v, _) {scale=0.5, causal=false, softcap=0.0, empty="zero"} : f32[1, 2, 5, 4]
      return %y
    }"""


@pytest.mark.parametrize("biases", ["", "qkv", "qv"])
def test_projections_become_one_product(biases):
    graph = rewritten([Projections(), DeadCode()], projections(biases), constants=WEIGHTS)
    found = [n for n in names(graph) if n not in ("const", "reshape", "transpose", "attention")]
    assert found == ["matmul", *["add"][:len(biases)], "slice", "slice", "slice"]
    product = next(op for op in graph.ops if op.name == "matmul")
    weight = product.operands[1]
    assert weight is not None
    np.testing.assert_array_equal(weight.constant, np.concatenate([*WEIGHTS.values()], axis=1))


def test_projections_with_an_epilogue_stay_apart():
    """Gate and projection of a feed-forward layer: the one's activation is applied before it is stored."""
    unchanged(Projections(), """
    graph @g(%x: f32[5, 6]) -> f32[5, 4] {
      %w = const @q : f32[6, 4]
      %u = const @k : f32[6, 4]
      %a = matmul(%x, %w) : f32[5, 4]
      %b = matmul(%x, %u) : f32[5, 4]
      %s = silu(%a) : f32[5, 4]
      %y = mul(%s, %b) : f32[5, 4]
      return %y
    }""", constants=WEIGHTS)


def test_projections_of_different_values_stay_apart():
    """Cross attention merges keys and values, which project the same."""
    text = projections("").replace("%x: f32[1, 5, 6]", "%x: f32[1, 5, 6], %m: f32[1, 5, 6]")
    text = text.replace("matmul(%x, %wq)", "matmul(%m, %wq)")
    graph = rewritten([Projections(), DeadCode()], text, constants=WEIGHTS)
    assert names(graph).count("matmul") == 2 and names(graph).count("slice") == 2
