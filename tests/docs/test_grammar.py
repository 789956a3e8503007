"""The grammar on the page of the text form reads what is printed, and refuses what the parser refuses."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from graphopt.backends.pipeline import optimise
from graphopt.capture import capture
from graphopt.errors import GraphOptError
from graphopt.ir import Graph, parse_graph, print_graph
from graphopt.targets import parse_target

lark = pytest.importorskip("lark", reason="lark parses with the documented grammar")
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "demo" / "digits.onnx"


@cache
def grammar() -> Any:
    page = (ROOT / "docs" / "reference" / "text.md").read_text()
    found = re.search(r"```\{\.text \.grammar\}\n(.*?)```", page, re.S)
    assert found is not None
    return lark.Lark(found[1], start="graph", parser="lalr")


def read(text: str) -> None:
    grammar().parse(text)


WRITTEN = """
graph @g(%x: f32[N, 64]@NHWC+1/72, %s: seq<opt<i64[*]>>, %m: map<str, f32[]>) -> (f32[2*N + 1, (N//2), max(N, 4)], bool[]) {  # a
  %w = const @weight : f32[64, 64]  # loc("a \\"quoted\\" place", "b")
  %c = const @small = [[1, -2], [3e-05, inf]] : f32[2, 2]
  %d = const -inf : f32[]
  %e = const ["%x", "# loc("] : str[2]
  %f = const [true, false] : bool[2]
  %0, %1.part/of-it$ = split(%x, _) {axis=-1, sizes=[N - 1, (N%3)], mode="a, b", to=f32, v=-1.5, z=none, e=[]} : f32[-N], f32[]
  nothing(%0) :  # loc("c")
  %2 = if(%c) [
    graph @then() -> f32[] {
      return %d
    }
    graph @else(%v: f32[]) -> () {
      return
    }
  ] : f32[]
  return %0, %2
}
"""


def test_the_grammar_reads_every_construct() -> None:
    read(WRITTEN)


def test_the_grammar_reads_a_model_after_every_pass() -> None:
    x86 = parse_target("x86")
    for shapes in (None, {"images": (3, 1, 8, 8)}):
        graph = capture(DIGITS, shapes=shapes)
        texts = [print_graph(graph)]
        optimise(graph, x86, after=[lambda name, g, texts=texts: texts.append(str(g))])
        assert len(texts) > 20
        for text in dict.fromkeys(texts):
            read(text)


def test_the_grammar_reads_graphs_of_all_kinds() -> None:
    """ONNX's own test models: control flow, sequences, strings, symbolic dims, every family of operators."""
    from onnx.backend.test.case.node import collect_testcases

    read_ones = 0
    for case in collect_testcases(None)[::10]:
        try:
            graph = capture(case.model)
        except GraphOptError:
            continue  # what is not supported has no graph
        if any(op.name == "deferred" for op in graph.walk()):
            continue  # it holds code
        text = print_graph(graph)
        read(text)
        assert print_graph(parse_graph(text)) == text
        read_ones += 1
    assert read_ones > 100


def model_of(*nodes: onnx.NodeProto, shape: list[int | str]) -> Graph:
    tensor = lambda name, s: helper.make_tensor_value_info(name, TensorProto.FLOAT, s)
    graph = helper.make_graph(list(nodes), "g", [tensor("x", shape)], [tensor("y", None)])
    return capture(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def test_the_grammar_reads_arithmetic_on_dims() -> None:
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[3], strides=[2], ceil_mode=1)
    text = str(model_of(pool, shape=["batch", "channels", "length"]))
    assert "//" in text
    read(text)


BROKEN = [
    "graph @g(%x: f32[2]) -> f32[2] { return %x",
    "graph g(%x: f32[2]) -> f32[2] { return %x }",
    "graph @g(%x f32[2]) -> f32[2] { return %x }",
    "graph @g(%x: f32) -> f32[2] { return %x }",
    "graph @g(%x: f32[2]) -> f32[2] { %0 = relu %x : f32[2] return %0 }",
    "graph @g(%x: f32[2]) -> f32[2] { %0 = relu(%x) return %0 }",
    "graph @g(%x: f32[2]) -> f32[2] { %0 = relu(%x,) : f32[2] return %0 }",
    "graph @g(%x: f32[2]) -> f32[2] { %0 = relu(%x) {axis} : f32[2] return %0 }",
    "graph @g(%x: f32[2 2]) -> f32[2] { return %x }",
    "graph @g(%x: seq<f32[2]) -> f32[2] { return %x }",
    'graph @g(%x: f32[2]) -> f32[2] { %0 = relu(%x) : f32[2] # loc("a) return %0 }',
    "graph @g(%x: f32[2]) -> f32[2] { return %x } x",
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_graph_is_refused_by_both(text: str) -> None:
    with pytest.raises(GraphOptError):
        parse_graph(text)
    with pytest.raises(lark.exceptions.LarkError):
        read(text)


def test_the_parser_takes_nothing_that_the_grammar_refuses() -> None:
    """Whatever becomes of a text when a token of it is dropped or doubled: if it still parses, the grammar has it."""
    text = str(optimise(capture(DIGITS, shapes={"images": (1, 1, 8, 8)}), parse_target("x86"))[0])
    pieces = re.findall(r'\s+|"[^"]*"|[%@]?[\w.$/-]+|.', text)
    taken = 0
    for k in range(0, len(pieces), max(1, len(pieces) // 150)):
        for changed in (pieces[:k] + pieces[k + 1:], pieces[:k] + pieces[k:k + 1] * 2 + pieces[k + 1:]):
            try:
                parse_graph("".join(changed))
            except GraphOptError:
                continue
            read("".join(changed))
            taken += 1
    assert taken > 10
