"""What each of the default passes is there for: a graph that, without it, the others leave as something else.

`tools/mutate.py` leaves them out one by one and runs this.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.backends.base import backend_of
from graphopt.ir import Graph, parse_graph
from graphopt.rewrite import default_passes, optimise
from graphopt.targets import parse_target
from graphopt.targets.capabilities import Capabilities
from tests.rewrite.recognise.test_forests import a_tree, graph_of
from tests.rewrite.recognise.test_heads import SPLIT_AND_MERGED, WEIGHTS, projections


def conv(x: str, w: str, groups: int = 1, pad: int = 0) -> str:
    return f"conv(%{x}, %{w}) {{stride=[1, 1], pad=[{pad}, {pad}, {pad}, {pad}], dilation=[1, 1], groups={groups}}}"


def graph_text(inputs: str, result: str, *lines: str) -> str:
    """A graph whose last line names its result."""
    last = lines[-1].partition(" = ")[0]
    return f"graph @g({inputs}) -> {result} {{\n" + "\n".join(f"  {line}" for line in lines) + f"\n  return {last}\n}}"


def loop_text(trip: str, *before: str) -> str:
    return graph_text(f"%start: f32[5]{trip}", "f32[5]", *before, "%k = const [1.0, 2.0, 3.0, 4.0, 5.0] : f32[5]",
                      """%sum = loop(%n, _, %start, %k) {carried=1} [
        graph @body(%i: i64[], %keep: bool[], %s: f32[5], %k: f32[5]) -> (bool[], f32[5]) {
          %e = exp(%k) : f32[5]
          %next = mul(%s, %e) : f32[5]
          return %keep, %next
        }
      ] : f32[5]""")


POOL = "{kernel=[3, 3], stride=[1, 1], pad=[1, 1, 1, 1], dilation=[1, 1], ceil_mode=false} : f32[16, 64, 70, 70]"
SOFTMAX = graph_text("%x: f32[4, 8]", "f32[4, 8]", "%y = softmax(%x) {axis=1} : f32[4, 8]")
# By pass: a graph that no other one brings to the ops that it is after all of them, and those ops.
NEEDED: dict[str, tuple[str, list[str]]] = {
    "Canonicalise": (graph_text("%x: f32[3]", "f32[3]", "%t = const 4.0 : f32[]", "%y = div(%x, %t) : f32[3]"), ["mul"]),
    "Fold": (graph_text("%x: f32[3]", "f32[3]", "%a = const [1.0, 2.0, 4.0] : f32[3]", "%b = exp(%a) : f32[3]",
                        "%y = add(%x, %b) : f32[3]"), ["add"]),
    "Simplify": (graph_text("%x: f32[3]", "f32[3]", "%o = const 1.0 : f32[]", "%y = mul(%x, %o) : f32[3]",
                            "%z = neg(%y) : f32[3]"), ["neg"]),
    "Gathers": (graph_text("%x: f32[3, 7]", "f32[3, 3]", "%i = const [1, 2, 3] : i64[3]",
                           "%y = gather(%x, %i) {axis=1} : f32[3, 3]", "%z = neg(%y) : f32[3, 3]"), ["fused[slice neg]"]),
    "Inline": (graph_text("%x: f32[3]", "f32[3]", "%c = const true : bool[]", """%y = if(%c, %x) [
        graph @then(%v: f32[3]) -> f32[3] {
          %p = exp(%v) : f32[3]
          return %p
        }
        graph @else(%v: f32[3]) -> f32[3] {
          %p = sin(%v) : f32[3]
          return %p
        }
      ] : f32[3]"""), ["exp"]),
    "Sequences": (graph_text("%a: f32[2, 3], %b: f32[5]", "f32[*]", "%e = seq_empty() {element=f32} : seq<f32[*]>",
                             "%s = seq_insert(%e, %a, _) : seq<f32[*]>", "%t = seq_insert(%s, %b, _) : seq<f32[*]>",
                             "%i = const 1 : i64[]", "%y = seq_at(%t, %i) : f32[*]", "%z = neg(%y) : f32[*]"), ["neg"]),
    "Bodies": (loop_text(", %n: i64[]"), ["loop[mul]"]),
    "Unroll": (loop_text("", "%n = const 2 : i64[]"), ["fused[mul mul]"]),
    "CommonSubexpressions": (graph_text("%x: f32[3]", "f32[6]", "%a = exp(%x) : f32[3]", "%b = exp(%x) : f32[3]",
                                        "%y = concat(%a, %b) {axis=0} : f32[6]"), ["exp", "concat"]),
    "DeadCode": (graph_text("%x: f32[3]", "f32[3]", "%b = sin(%x) : f32[3]", "%a = exp(%x) : f32[3]"), ["exp"]),
    "Recognise": (graph_text("%x: f32[4, 8]", "f32[4, 8]", "%m = reduce_max(%x) {axes=[1], keepdims=true} : f32[4, 1]",
                             "%s = sub(%x, %m) : f32[4, 8]", "%e = exp(%s) : f32[4, 8]",
                             "%t = reduce_sum(%e) {axes=[1], keepdims=true} : f32[4, 1]", "%y = div(%e, %t) : f32[4, 8]"),
                  ["softmax"]),
    "FoldNorm": (graph_text("%x: f32[1, 4, 6, 6]", "f32[1, 5, 6, 6]", "%w = const @w : f32[5, 4, 1, 1]",
                            "%s = const @s : f32[5, 1, 1]", f"%y = {conv('x', 'w')} : f32[1, 5, 6, 6]",
                            "%z = mul(%y, %s) : f32[1, 5, 6, 6]"), ["conv"]),
    "Transposes": (graph_text("%x: f32[3, 4]", "f32[3, 4]", "%a = transpose(%x) {perm=[1, 0]} : f32[4, 3]",
                              "%b = exp(%a) : f32[4, 3]", "%c = transpose(%b) {perm=[1, 0]} : f32[3, 4]"), ["exp"]),
    "Upsample": (graph_text("%x: f32[1, 4, 5, 7]", "f32[1, 6, 10, 14]", "%w = const @w : f32[4, 6, 2, 2]",
                            "%y = conv_transpose(%x, %w) {stride=[2, 2], pad=[0, 0, 0, 0], dilation=[1, 1], groups=1, "
                            "output_padding=[0, 0]} : f32[1, 6, 10, 14]"), ["conv", "reshape", "transpose", "reshape"]),
    "Pointwise": (graph_text("%x: f32[2, 4, 1, 1]", "f32[2, 5, 1, 1]", "%w = const @w : f32[5, 4, 1, 1]",
                             f"%y = {conv('x', 'w')} : f32[2, 5, 1, 1]"), ["reshape", "matmul", "reshape"]),
    "Reshapes": (graph_text("%x: f32[8, 4], %r: f32[2, 4, 5]", "f32[2, 4, 5]", "%w = const @w : f32[4, 5]",
                            "%y = matmul(%x, %w) : f32[8, 5]", "%z = reshape(%y) {shape=[2, 4, 5]} : f32[2, 4, 5]",
                            "%q = add(%z, %r) : f32[2, 4, 5]"), ["reshape", "fused[matmul add]", "reshape"]),
    "Projections": (projections("qkv"),
                    ["fused[matmul add]", f"fused[{'slice reshape transpose ' * 3}attention]"]),
    "Heads": (SPLIT_AND_MERGED, ["fused[slice reshape transpose attention transpose]", "reshape"]),
    "Fuse": (graph_text("%x: f32[3]", "f32[3]", "%a = exp(%x) : f32[3]", "%b = sin(%a) : f32[3]"), ["fused[exp sin]"]),
    "Layout": (graph_text("%x: f32[1, 32, 28, 28]", "f32[1, 32, 28, 28]", "%w = const @w : f32[32, 32, 3, 3]",
                          f"%y = {conv('x', 'w', 1, 1)} : f32[1, 32, 28, 28]",
                          f"%z = {conv('y', 'w', 1, 1)} : f32[1, 32, 28, 28]"),
               ["relayout", "conv", "conv", "relayout"]),
    "Stream": (graph_text("%x: f32[1, 56, 56, 16]", "f32[1, 56, 56, 96]", "%w = const @w : f32[96, 16, 1, 1]",
                          "%v = const @v : f32[96, 1, 3, 3]", "%t = transpose(%x) {perm=[0, 3, 1, 2]} : f32[1, 16, 56, 56]",
                          f"%y = {conv('t', 'w')} : f32[1, 96, 56, 56]", f"%z = {conv('y', 'v', 96, 1)} : f32[1, 96, 56, 56]",
                          "%o = transpose(%z) {perm=[0, 2, 3, 1]} : f32[1, 56, 56, 96]"),
               ["transpose", "fused[conv conv]", "transpose"]),
    "Absorb": (graph_text("%x: f32[1, 28, 28, 64]", "f32[1, 28, 28, 96]", "%a = const @a : f32[64, 64, 3, 3]",
                          "%s = const @s : f32[64, 1, 1]", "%w = const @w : f32[32, 64, 1, 1]",
                          "%t = transpose(%x) {perm=[0, 3, 1, 2]} : f32[1, 64, 28, 28]",
                          f"%y = {conv('t', 'a', 1, 1)} : f32[1, 64, 28, 28]", "%m = mul(%y, %s) : f32[1, 64, 28, 28]",
                          "%r = relu(%m) : f32[1, 64, 28, 28]", f"%z = {conv('r', 'w')} : f32[1, 32, 28, 28]",
                          "%c = concat(%z, %y) {axis=1} : f32[1, 96, 28, 28]",
                          "%o = transpose(%c) {perm=[0, 2, 3, 1]} : f32[1, 28, 28, 96]"), ["fused[mul relu conv]"]),
    "Join": (graph_text("%x: f32[8, 16]", "f32[16, 16]", "%a = exp(%x) : f32[8, 16]", "%b = sin(%x) : f32[8, 16]",
                        "%c = concat(%a, %b) {axis=0} : f32[16, 16]", "%d = softmax(%c) {axis=1} : f32[16, 16]"),
             ["exp", "sin", "join", "softmax"]),
    "Batches": (graph_text("%x: f32[16, 64, 70, 70]", "f32[16, 64, 70, 70]", f"%a = max_pool(%x) {POOL}",
                           f"%b = max_pool(%a) {POOL}", f"%c = max_pool(%b) {POOL}"), ["slice", "join"]),
}


def shown(graph: Graph) -> list[str]:
    """The ops, constants apart, with those within them."""
    return [op.name + "".join(f"[{' '.join(shown(r))}]" for r in op.regions) for op in graph.ops if op.name != "const"]


def after_all(text: str, target: Capabilities | None = None) -> list[str]:
    rng = np.random.default_rng(0)
    shapes: dict[str, list[int]] = {"w": [], "v": [], "a": [], "s": []}  # of the constants that the text names, by their types
    for line in text.splitlines():
        name, at, kind = line.strip().partition(" = const @")
        if at and name[1:] in shapes:
            shapes[name[1:]] = [int(n) for n in kind.partition("[")[2].rstrip("]").split(",")]
    constants = {**WEIGHTS, **{n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items() if s}}
    graph = parse_graph(text, constants)
    x86 = parse_target("x86:x86-64-v4", 1)
    optimise(graph, target=backend_of(x86).capabilities(x86) if target is None else target)
    return shown(graph)


@pytest.mark.parametrize("name", NEEDED)
def test_without_a_pass_something_would_be_left_undone(name: str) -> None:
    text, wanted = NEEDED[name]
    found = after_all(text)
    if name in ("Absorb", "Batches"):  # how often, and what lies around it, is for costs to say
        assert set(wanted) <= set(found)
    else:
        assert found == wanted


def test_a_target_without_kernels_of_its_own_gets_primitives() -> None:
    assert after_all(SOFTMAX, Capabilities()) == ["fused[reduce_max sub exp reduce_sum reciprocal mul]"]


def test_functions_of_leaves_go_into_the_leaves() -> None:
    graph = graph_of(lambda b, x: b.exp(b.neg(a_tree(b, x, 1, aggregate="min"))))
    optimise(graph)
    assert shown(graph) == ["tree_ensemble"]


def test_no_pass_is_without_such_a_test() -> None:
    assert {type(p).__name__ for p in default_passes()} == {*NEEDED, "Decompose", "Forests"}
