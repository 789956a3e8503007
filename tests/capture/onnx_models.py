"""Helpers for the ONNX capture tests: models from text, run against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime

from graphopt.capture import capture
from graphopt.ir import Graph, evaluate, verify


def parse(text: str, opset: int = 18, ir_version: int = 8, functions: str = "") -> onnx.ModelProto:
    """A model from ONNX's text form of its graph."""
    return onnx.parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "local" : 1]>\n{text}\n{functions}')


def run_ort(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds))


def op_names(graph: Graph) -> list[str]:
    """Names of all ops, nested graphs included, constants left out."""
    return [op.name for op in graph.walk() if op.name != "const"]


def captured(model: Any, **kwargs: Any) -> Graph:
    graph = capture(model, **kwargs)
    verify(graph)
    return graph


def check(graph: Graph, model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], rtol: float = 1e-5,
          atol: float = 1e-6) -> list[Any]:
    """Evaluate a captured graph and compare every output with onnxruntime's."""
    got = evaluate(graph, [feeds[name] for name in graph.input_names])
    for mine, expected in zip(got, run_ort(model, feeds), strict=True):
        same(mine, expected, rtol, atol)
    return got


def same(mine: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    if isinstance(expected, list):
        assert isinstance(mine, list) and len(mine) == len(expected)
        for a, b in zip(mine, expected):
            same(a, b, rtol, atol)
        return
    assert mine.dtype == expected.dtype and mine.shape == expected.shape
    if expected.dtype == object:
        np.testing.assert_array_equal(mine, expected)
    else:
        np.testing.assert_allclose(mine, expected, rtol=rtol, atol=atol)
