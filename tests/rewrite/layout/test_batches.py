"""Large batches in parts: what is cut where, what must not be, and that nothing changes but the order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import graphopt
from graphopt.codegen.x86.batches import parts
from graphopt.codegen.x86.capabilities import X86Capabilities
from graphopt.ir import Graph, evaluate, parse_graph, tensor
from graphopt.ir.graph import Op
from graphopt.rewrite import Batches, Context, PassManager
from graphopt.targets import parse_target

RNG = np.random.default_rng(3)


class Asked:
    """A target that cuts where it is told; it keeps what it was offered."""

    def __init__(self, count: int | None = None, images: int = 1) -> None:
        self.count, self.images = count, images
        self.ops: list[str] = []
        self.cuts: list[int] = []

    def parts(self, ops: Sequence[Op], cuts: Sequence[int], batch: int) -> tuple[int, int] | None:
        self.ops, self.cuts = [op.name for op in ops], list(cuts)
        return None if self.count is None or self.count not in cuts else (self.count, self.images)


def offered(text: str) -> list[str]:
    """The ops that could be had for a part of the batch."""
    target = Asked()
    PassManager([Batches()]).run(parse_graph(text), Context(target))
    return target.ops


def test_ops_up_to_a_cut_are_there_for_every_part_and_joined() -> None:
    graph = parse_graph("""graph @g(%x: f32[4, 3]) -> (f32[4, 3], f32[4, 3]) {
      %a = exp(%x) : f32[4, 3]
      %b = neg(%a) : f32[4, 3]
      %c = add(%a, %b) : f32[4, 3]
      %d = flip(%c) {axes=[0]} : f32[4, 3]
      return %d, %b
    }""")
    before = graph.clone()
    PassManager([Batches()]).run(graph, Context(Asked(2, 2)))
    assert [op.name for op in graph.ops] == ["slice", "exp", "neg"] * 2 + ["join", "join", "add", "flip"]
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    for got, want in zip(evaluate(graph, [x]), evaluate(before, [x])):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("body", [
    "%y = flip(%x) {axes=[0]} : f32[4, 4]",
    "%y = softmax(%x) {axis=0} : f32[4, 4]",
    "%y = transpose(%x) {perm=[1, 0]} : f32[4, 4]",
    "%y = matmul(%x, %x) : f32[4, 4]",  # every image of the second operand is in every row
    "%s = reduce_sum(%x) {axes=[0], keepdims=true} : f32[1, 4]\n %y = add(%x, %s) : f32[4, 4]",
    "%s = reduce_sum(%x) {axes=[1], keepdims=false} : f32[4]\n %y = add(%x, %s) : f32[4, 4]",  # aligned with the last axis
    "%s = reduce_sum(%x) {axes=[1], keepdims=false} : f32[4]\n %y = expand(%s) {shape=[4, 4]} : f32[4, 4]",
    "%y = pad(%x) {pads=[-1, 0, 1, 0]} : f32[4, 4]",  # as many images, but others
])
def test_what_mixes_images_stays_whole(body: str) -> None:
    ops = offered(f"graph @g(%x: f32[4, 4]) -> f32[4, 4] {{\n {body}\n return %y\n}}")
    assert set(ops) <= {"reduce_sum"}


def test_the_first_axis_of_recurrent_layers_is_time() -> None:
    g = Graph("g")
    x = g.add_input(tensor("f32", 4, 4, 8), "x")
    w, r = (g.constant(RNG.standard_normal((1, 4, k)).astype(np.float32)) for k in (8, 4))
    g.outputs = [g.add("rnn", [x, w, r], {"hidden": 4}).results[0]]
    target = Asked()
    PassManager([Batches()]).run(g, Context(target))
    assert target.ops == []


def test_inputs_of_different_first_dims_have_no_batch() -> None:
    assert offered("""graph @g(%x: f32[4, 3], %y: f32[2, 3]) -> (f32[4, 3], f32[2, 3]) {
      %a = exp(%x) : f32[4, 3]
      %b = exp(%y) : f32[2, 3]
      return %a, %b
    }""") == []


def network(batch: int) -> Graph:
    """Convolutions with a residual, a concatenation in place, squeeze and excite, a pool and a classifier."""
    g = Graph("g")
    const = lambda *shape: g.constant((RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def conv(x, outs, k=3, stride=1):
        attrs = {"stride": [stride] * 2, "pad": [k // 2] * 4, "dilation": [1, 1], "groups": 1}
        return g.add("relu", [g.add("conv", [x, const(outs, x.static_shape[1], k, k), const(outs)], attrs).result]).result

    x = conv(g.add_input(tensor("f32", batch, 3, 33, 31), "x"), 16, stride=2)
    x = g.add("add", [x, conv(conv(x, 24), 16, k=1)]).result
    x = g.add("concat", [x, conv(x, 16)], {"axis": 1}).result
    s = g.add("reduce_mean", [x], {"axes": [2, 3], "keepdims": True}).result
    x = g.add("mul", [x, g.add("sigmoid", [conv(s, 32, k=1)]).result]).result
    x = g.add("max_pool", [x], {"kernel": [3, 3], "stride": [2, 2], "pad": [1] * 4, "dilation": [1, 1]}).result
    x = g.add("reduce_mean", [conv(x, 40)], {"axes": [2, 3], "keepdims": False}).result
    g.outputs = [g.add("matmul", [x, const(40, 10)]).result]
    return g


@pytest.mark.parametrize(("batch", "images"), [(8, 1), (6, 2), (2, 1)])
def test_every_cut_of_a_network_gives_what_the_whole_does(batch: int, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network(batch)
    offers: list[list[int]] = []

    def ask(self, ops, cuts, size):
        offers.append(list(cuts))
        return None

    monkeypatch.setattr(X86Capabilities, "parts", ask)
    x = RNG.standard_normal((batch, 3, 33, 31)).astype(np.float32)
    whole = graphopt.compile(graph, threads=2)(x)
    (want,) = evaluate(graph, [x])
    np.testing.assert_allclose(whole, want, rtol=0, atol=3e-6 * np.abs(want).max())
    cuts = offers[-1]
    assert len(cuts) > 5
    for cut in cuts[::2] + cuts[-1:]:
        monkeypatch.setattr(X86Capabilities, "parts", lambda self, ops, cuts, size, cut=cut: (cut, images))
        model = graphopt.compile(graph, threads=2)
        assert sum(op.name == "slice" for op in model.graph.ops) >= batch // images
        np.testing.assert_allclose(model(x), want, rtol=0, atol=3e-6 * np.abs(want).max(), err_msg=f"cut {cut}")


def test_the_target_cuts_where_values_leave_its_cache_and_not_where_weights_would() -> None:
    g = Graph("g")
    x = g.add_input(tensor("f32", 8, 64, 70, 70), "x")
    y = g.add("exp", [x]).result
    z = g.add("reduce_mean", [g.add("exp", [y]).result], {"axes": [2, 3], "keepdims": False}).result
    out = g.add("matmul", [z, g.constant(np.zeros((64, 500_000), np.float32))]).result
    g.outputs = [out]
    ops = [op for op in g.ops if op.name != "const"]
    chosen = parts(ops, range(1, len(ops) + 1), 8, parse_target("x86:haswell", 2))
    assert chosen is not None and chosen[0] == 3 and chosen[1] < 8
    small = Graph("g")
    small.outputs = [small.add("exp", [small.add_input(tensor("f32", 8, 64, 20, 20), "x")]).result]
    assert parts(list(small.ops), [1], 8, parse_target("x86:haswell", 2)) is None


def test_a_batch_of_thousands_of_millions_is_cut_by_its_divisors() -> None:
    """Not by trying every number up to it."""
    g = Graph("g")
    y = g.add("exp", [g.add_input(tensor("f32", 9_999_999_999, 8), "x")]).result
    g.outputs = [g.add("reduce_max", [g.add("exp", [y]).result], {"axes": [1], "keepdims": False}).result]
    chosen = parts(list(g.ops), [1, 2, 3], 9_999_999_999, parse_target("x86:haswell", 2))
    assert chosen is not None and 9_999_999_999 % chosen[1] == 0 and chosen[1] < 9_999_999_999
