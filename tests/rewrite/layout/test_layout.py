"""Layouts: the cheapest labelling of the whole graph, held against every labelling there is."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

import graphopt
from graphopt.ir import Graph, evaluate, parse_graph, print_graph, tensor
from graphopt.ir.graph import Op, Value
from graphopt.rewrite import Context, Layout, PassManager
from graphopt.rewrite.layout.choose import TIE, depends
from graphopt.targets.base import Choice

BYTE, EITHER = 0.25, 0.075  # cycles a byte: converted, read the other way


class Costs:
    """A target whose costs are given op by op."""

    def __init__(self, choices: dict[str, Choice]) -> None:
        self.choices = choices

    def layout_choice(self, op: Op) -> Choice | None:
        return self.choices.get(op.results[0].name or "")

    def conversion(self, v: Value) -> tuple[float, float]:
        return v.type.nbytes * BYTE, v.type.nbytes * EITHER

    def room(self, op: Op, v: object) -> tuple[int, int] | None:
        return None


def laid_out(text: str, target: object) -> Graph:
    graph = parse_graph(text)
    context = Context(target)
    PassManager([Layout()]).run(graph, context)
    graph.metadata["context"] = context
    return graph


def ops(graph: Graph) -> list[str]:
    return [f"{op.name} {op.results[0].type.layout or 'row'}" for op in graph.ops if op.name != "const"]


CHAIN = """graph @g(%x: f32[1, 8, 4, 4]) -> f32[1, 8, 4, 4] {
  %a = exp(%x) : f32[1, 8, 4, 4]
  %b = neg(%a) : f32[1, 8, 4, 4]
  %c = abs(%b) : f32[1, 8, 4, 4]
  return %c
}"""


def test_what_gains_enough_is_channels_last_and_converted_at_its_ends() -> None:
    cheap = Choice(1e6, 0.0, ("same",))
    graph = laid_out(CHAIN, Costs({"a": cheap, "b": Choice(0, 0, ("same",)), "c": cheap}))
    assert ops(graph) == ["relayout NHWC", "exp NHWC", "neg NHWC", "abs NHWC", "relayout row"]
    assert "channels last" in graph.metadata["context"].why("b")[0].text


def test_what_gains_less_than_its_conversions_stays() -> None:
    graph = laid_out(CHAIN, Costs({"b": Choice(2 * 512 * BYTE, 0.0, ("same",))}))
    assert ops(graph) == ["exp row", "neg row", "abs row"]


def test_a_value_is_converted_once_for_all_that_read_it() -> None:
    graph = laid_out("""graph @g(%x: f32[1, 8, 4, 4]) -> (f32[1, 8, 4, 4], f32[1, 8, 4, 4]) {
      %a = exp(%x) : f32[1, 8, 4, 4]
      %b = neg(%x) : f32[1, 8, 4, 4]
      return %a, %b
    }""", Costs({k: Choice(1e6, 0.0, ("same",)) for k in "ab"}))
    assert ops(graph).count("relayout NHWC") == 1


def test_a_transpose_to_channels_last_is_a_view_of_what_lies_so() -> None:
    graph = laid_out("""graph @g(%x: f32[1, 8, 4, 4]) -> f32[1, 4, 4, 8] {
      %a = exp(%x) : f32[1, 8, 4, 4]
      %t = transpose(%a) {perm=[0, 2, 3, 1]} : f32[1, 4, 4, 8]
      return %t
    }""", Costs({"a": Choice(1e6, 0.0, ("same",)), "t": Choice(500, 0.0, ("same",), result=False)}))
    assert ops(graph) == ["relayout NHWC", "exp NHWC", "transpose row"]


def test_one_pixel_and_one_channel_have_no_layout() -> None:
    g = Graph()
    assert not depends(g.add_input(tensor("f32", 2, 8, 1, 1))) and not depends(g.add_input(tensor("f32", 2, 1, 5, 5)))
    assert depends(g.add_input(tensor("f32", 2, 8, 1, 5))) and not depends(g.add_input(tensor("f32", 8, 8)))


def random_case(seed: int) -> tuple[Graph, Costs]:
    rng = random.Random(seed)
    g = Graph("g")
    shape = tensor("f32", 1, 8, 4, 4)
    values = [g.add_input(shape, "x")]
    choices = {}
    for k in range(7):
        operands = [rng.choice(values) for _ in range(rng.choice((1, 1, 2)))]
        op = g.add("abs" if len(operands) == 1 else "add", operands)
        op.result.name = f"v{k}"
        reads = tuple(rng.choice(("same", "same", "row", "either")) for _ in operands)
        choices[f"v{k}"] = Choice(rng.uniform(0, 300), rng.choice((None, rng.uniform(0, 300))), reads, rng.random() < 0.8)
        values.append(op.result)
    g.outputs = [values[-1], rng.choice(values[1:])]
    return g, Costs(choices)


def price(g: Graph, choices: dict[str, Choice], last: set[str]) -> float:
    """The cost of a labelling, added up from its definition."""
    total = 0.0
    for name, c in choices.items():
        total += (c.last if c.last is not None else float("inf")) + TIE if name in last else c.row
    for v in g.values():
        made = v.name in last and choices[v.name].result
        to_row = to_last = False
        for user, i in v.uses:
            c = choices.get(user.results[0].name or "") if user is not g.return_op else None
            reads, reader = ("row", False) if c is None else (c.reads[i], user.results[0].name in last)
            conversion = v.type.nbytes * BYTE + TIE
            if reads == "either":
                either = v.type.nbytes * EITHER + TIE
                total += conversion if made and not reader else either if reader and not made else 0.0
            elif made and not (reads == "same" and reader):
                to_row = True
            elif not made and reads == "same" and reader:
                to_last = True
        total += (to_row + to_last) * (v.type.nbytes * BYTE + TIE)
    return total


@pytest.mark.parametrize("seed", range(150))
def test_the_cut_is_as_cheap_as_the_best_of_all_labellings(seed: int) -> None:
    g, costs = random_case(seed)
    names = list(costs.choices)
    best = min(price(g, costs.choices, set(some)) for n in range(len(names) + 1) for some in itertools.combinations(names, n))
    row = price(g, costs.choices, set())
    graph = g.clone()
    PassManager([Layout()]).run(graph, Context(costs))
    chosen = {n for n in names for op in graph.ops if op.results[0].name == n and op.results[0].type.layout is not None}
    # Ops whose result is row-major in any case show no layout: try both for them.
    hidden = [n for n in names if not costs.choices[n].result]
    got = min(price(g, costs.choices, chosen | set(some)) for n in range(len(hidden) + 1)
              for some in itertools.combinations(hidden, n))
    assert got == pytest.approx(best, abs=1e-6) or (got == pytest.approx(row) and best > row - len(names) * TIE)


def test_layouts_print_and_parse() -> None:
    text = """graph @g(%x: f32[1, 8, 4, 4]@NHWC+1/32) -> f32[1, 8, 4, 4]@NHWC/16 {
  %y = relayout(%x) : f32[1, 8, 4, 4]@NHWC/16
  return %y
}"""
    graph = parse_graph(text)
    assert print_graph(graph).strip() == text and graph.inputs[0].type.storage == (1, 6, 6, 32)
    assert graph.inputs[0].type.storage_axes == (0, 2, 3, 1)


def test_values_are_unchanged_by_layouts_of_a_real_network() -> None:
    rng = np.random.default_rng(0)
    g = Graph("g")
    image = g.add_input(tensor("f32", 1, 16, 30, 30), "x")
    weights = g.constant(rng.standard_normal((64, 16, 3, 3)).astype(np.float32))
    c = g.add("conv", [image, weights, None], {"stride": [1, 1], "pad": [1] * 4, "dilation": [1, 1], "groups": 1}).result
    y = g.add("max_pool", [c], {"kernel": [3, 3], "stride": [2, 2], "pad": [1] * 4, "dilation": [1, 1]}).result
    z = g.add("concat", [y, y], {"axis": 1}).result
    s = g.add("slice", [z], {"axes": [1], "starts": [1], "ends": [3], "steps": [1]}).result
    g.outputs = [g.add("concat", [s, z], {"axis": 1}).result]
    model = graphopt.compile(g, threads=1)
    assert any("NHWC" in str(v.type) for v in model.graph.values()), "nothing is channels last"
    x = rng.standard_normal((1, 16, 30, 30)).astype(np.float32)
    (wanted,) = evaluate(g, [x])
    np.testing.assert_allclose(model(x), wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
