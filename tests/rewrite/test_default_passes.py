"""The default passes, all together: on random graphs nothing they do changes a result, and nothing is left undone."""

import pytest

from graphopt.ir import TABLE, Builder, Graph, Trait, tensor, verify
from graphopt.rewrite import default_passes, optimise
from graphopt.targets.capabilities import Capabilities
from tests.rewrite.random_graphs import random_graph
from tests.rewrite.rewriting import names, rewritten


class KeepsSoftmax(Capabilities):
    def keeps(self, op):
        return op.name == "softmax"

    def row_kernel(self, op):
        return op.name == "softmax"


@pytest.mark.parametrize("seed", range(24))
def test_random_graphs_keep_their_values_through_every_pass(seed):
    graph = random_graph(seed, ops=10 + 2 * seed)
    verify(graph)
    optimise(graph, target=KeepsSoftmax() if seed % 2 else None, validate=True)
    assert not any(TABLE[n].has(Trait.COMPOSITE) and n != "softmax" for n in names(graph))


@pytest.mark.parametrize("seed", range(12))
def test_a_second_run_finds_nothing_to_do(seed):
    graph = random_graph(seed, ops=30)
    optimise(graph, default_passes(fuse=False))
    once = names(graph)
    optimise(graph, default_passes(fuse=False))
    assert names(graph) == once


def test_a_small_network():
    graph = rewritten(default_passes(), """graph @net(%x: f32[2, 1, 8, 8]) -> f32[2, 3] {
      %w = const [[[[1.0, 0.5], [0.25, -1.0]]], [[[2.0, -0.5], [0.25, 3.0]]]] : f32[2, 1, 2, 2]
      %s = const [1.5, 0.5] : f32[2]
      %b = const [0.1, -0.1] : f32[2]
      %v = const [1.0, 2.0] : f32[2]
      %fc = const [[1.0], [2.0], [-1.0]] : f32[3, 1]
      %y = conv(%x, %w) {stride=[1, 1], pad=[0, 0, 1, 1], dilation=[1, 1], groups=1} : f32[2, 2, 8, 8]
      %n = batch_norm(%y, %s, %b, %b, %v) {eps=1e-05} : f32[2, 2, 8, 8]
      %r = relu(%n) : f32[2, 2, 8, 8]
      %m = reduce_mean(%r) {axes=[1, 2, 3], keepdims=false} : f32[2]
      %f = reshape(%m) {shape=[2, 1]} : f32[2, 1]
      %t = transpose(%fc) {perm=[1, 0]} : f32[1, 3]
      %l = matmul(%f, %t) : f32[2, 3]
      %p = softmax(%l) {axis=1} : f32[2, 3]
      return %p
    }""", constants={}, ulps=1000)
    assert names(graph) == ["fused", "reduce_mean", "reshape", "matmul", "fused"]


def test_thousands_of_ops_through_all_passes():
    graph = Graph("long")
    value = graph.add_input(tensor("f32", 4, 8), "x")
    b = Builder(graph)
    for i in range(4000):
        value = b.op(("exp", "neg", "sin", "relu", "tanh")[i % 5], [value]).result if i % 3 else b.add(value, 1.5)
    graph.outputs = [value]
    optimise(graph)
    assert len(graph) < 120
