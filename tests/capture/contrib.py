"""Models of single nodes of com.microsoft, and many of them in one model that is compiled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import graphopt
from graphopt.ir import evaluate
from tests.capture.onnx_models import captured, run_ort

MS = "com.microsoft"


@dataclass
class Fixed:
    """An operand that is an initializer."""

    value: Any


@dataclass
class Case:
    """A node: arrays are inputs of the model, Fixed ones initializers, None absent. `steps` is how far integers may be off."""

    op: str
    operands: Sequence[Any]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[int] = (True,)  # whether each is wanted, or its element type where onnxruntime does not infer it
    rtol: float = 1e-4
    atol: float = 1e-5
    steps: int = 0
    domain: str = MS
    expected: Sequence[np.ndarray] | None = None  # else onnxruntime's

    def __post_init__(self) -> None:
        self.operands = [Fixed(o) if isinstance(o, (np.generic, float)) else o for o in self.operands]

    def feeds(self, prefix: str = "") -> dict[str, np.ndarray]:
        return {f"{prefix}x{i}": o for i, o in enumerate(self.operands) if isinstance(o, np.ndarray)}


def model(cases: Mapping[str, Case]) -> onnx.ModelProto:
    """All cases side by side."""
    nodes, inputs, outputs, weights = [], [], [], []
    for k, case in enumerate(cases.values()):
        names = []
        for i, o in enumerate(case.operands):
            name = "" if o is None else f"c{k}_x{i}"
            names.append(name)
            if isinstance(o, Fixed):
                weights.append(numpy_helper.from_array(np.asarray(o.value), name))
            elif o is not None:
                code = helper.np_dtype_to_tensor_dtype(o.dtype)
                inputs.append(helper.make_tensor_value_info(name, code, o.shape))
        results = [f"c{k}_y{i}" if wanted else "" for i, wanted in enumerate(case.outputs)]
        outputs += [onnx.ValueInfoProto(name=r) if wanted is True else helper.make_tensor_value_info(r, wanted, None)
                    for r, wanted in zip(results, case.outputs) if r]
        nodes.append(helper.make_node(case.op, names, results, domain=case.domain, **case.attrs))
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), ir_version=10, opset_imports=[
        helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)])


def compare(case: Case, got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for mine, right in zip(got, expected):
        mine, right = np.asarray(mine), np.asarray(right)
        assert mine.dtype == right.dtype and mine.shape == right.shape, (mine.dtype, mine.shape, right.dtype, right.shape)
        if right.dtype.kind in "iub":
            apart = np.abs(mine.astype(np.int64) - right.astype(np.int64))
            assert apart.max(initial=0) <= case.steps, f"{apart.max()} steps apart, {(apart > 0).mean():.1%} differ"
        else:
            np.testing.assert_allclose(mine.astype(np.float64), right.astype(np.float64), rtol=case.rtol, atol=case.atol)


def check(case: Case) -> None:
    """The evaluator against the expected values, or onnxruntime without optimisation."""
    m = model({"case": case})
    feeds = case.feeds("c0_")
    expected = case.expected if case.expected is not None else run_ort(m, feeds)
    graph = captured(m)
    compare(case, evaluate(graph, [feeds[name] for name in graph.input_names]), expected)


def check_compiled(cases: Mapping[str, Case]) -> None:
    """All cases as one program without host ops."""
    m = model(cases)
    feeds = {name: x for k, c in enumerate(cases.values()) for name, x in c.feeds(f"c{k}_").items()}
    program = graphopt.compile(m)
    got = program.run(feeds)
    assert program.host_ops == []
    for k, (name, case) in enumerate(cases.items()):
        mine = [got[f"c{k}_y{i}"] for i, wanted in enumerate(case.outputs) if wanted]
        single = model({name: case})
        expected = case.expected if case.expected is not None else run_ort(single, case.feeds("c0_"))
        try:
            compare(case, mine, expected)
        except AssertionError as e:
            raise AssertionError(f"{name}: {e}") from e


__all__ = ["MS", "Case", "Fixed", "check", "check_compiled", "compare", "model"]
