"""Random ONNX graphs give what onnxruntime and ONNX's ReferenceEvaluator agree on: captured, after all passes, and compiled.

The long run over many more of them is `python -m tests.generate onnx`.
"""

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import printer

from tests.generate.onnx_draft import Case, Skip
from tests.generate.onnx_graphs import draw
from tests.generate.small import made_small
from tests.generate.verdict import Verdict, judge

SEEDS = st.integers(0, 2**32 - 1)


def said(case: Case, verdict: Verdict, compiled: bool) -> str:
    """The verdict, and the smallest model found of which it holds."""
    def fails(smaller: Case) -> bool:
        return judge(smaller, compiled).kind == verdict.kind

    small = made_small(case, fails)
    return f"{verdict}\n{printer.to_text(small.model)}\ninputs {small.inputs}\nright {small.expected}"


def right(seed: int, compiled: bool) -> None:
    try:
        case = draw(random.Random(seed))
    except Skip:
        return
    verdict = judge(case, compiled)
    assert verdict.is_right, said(case, verdict, compiled)


@settings(max_examples=40, derandomize=True)
@given(SEEDS)
def test_graphs_after_all_passes(seed: int) -> None:
    right(seed, compiled=False)


@settings(max_examples=6, derandomize=True)
@given(SEEDS)
def test_graphs_compiled(seed: int) -> None:
    right(seed, compiled=True)


def test_most_that_is_drawn_is_compared() -> None:
    cases = [draw(random.Random(seed)) for seed in range(30)]
    sizes = [len(c.model.graph.node) for c in cases]
    assert min(sizes) >= 5 and max(sizes) >= 25
    assert len({n.op_type for c in cases for n in c.model.graph.node}) > 60
    left_out = sum(sum(c.skipped.values()) for c in cases)
    assert left_out < sum(sizes) / 4


def test_a_wrong_graph_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.ir import table

    relu = table.lookup("relu")
    monkeypatch.setitem(table.TABLE, "relu", dataclasses.replace(relu, evaluate=lambda x: x))
    case = next(c for c in (draw(random.Random(seed)) for seed in range(200))
                if any(n.op_type == "Relu" for n in c.model.graph.node) and judge(c, False).kind == "wrong")
    small = made_small(case, lambda c: judge(c, False).kind == "wrong")
    assert [n.op_type for n in small.model.graph.node] == ["Relu"]
