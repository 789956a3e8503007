"""Real trained models against recorded results of onnxruntime without optimisation; skipped where they are absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphopt.capture import capture
from graphopt.ir import evaluate, verify

FOLDER = Path(__file__).parents[3] / "shared" / "models"
MODELS = sorted(p.stem for p in FOLDER.glob("*.onnx"))
# Sums in another order round an activation of a quantised model the other way now and then, and what follows
# differs. onnxruntime's own two modes say how much of that is natural.
QUANTISED = {"yolox_nano_qdq"}


@pytest.mark.parametrize("name", MODELS or [pytest.param("", marks=pytest.mark.skip("no models here"))])
def test_equals_the_recorded_outputs(name: str) -> None:
    graph = capture(FOLDER / f"{name}.onnx")
    verify(graph)
    data = np.load(FOLDER / f"{name}.npz")
    feeds = {n: data[f"in_{n}"] for n in graph.input_names}
    if "recapture" in graph.metadata:
        _check(graph, feeds, data, name)  # with symbolic dims, then with all of them known
        graph = graph.metadata["recapture"]({n: v.shape for n, v in feeds.items()},
                                            {n: feeds[n] for n in graph.metadata["control_inputs"]})
        verify(graph)
        assert not any(op.name in ("deferred", "if") for op in graph.walk())
    _check(graph, feeds, data, name)


def _check(graph: object, feeds: dict, data: object, name: str) -> None:
    for output, got in zip(graph.output_names, evaluate(graph, [feeds[n] for n in graph.input_names])):
        expected = data[f"ref_{output}"]
        assert got.dtype == expected.dtype and got.shape == expected.shape
        if name in QUANTISED:
            natural, error = np.abs(data[f"out_{output}"] - expected), np.abs(got - expected)
            assert error.mean() <= natural.mean() and error.max() <= 2 * natural.max()
        else:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
