"""Random graphs of ops of every family, compiled for every vector width: as the reference evaluator computes them."""

from __future__ import annotations

import numpy as np
import pytest

import graphopt
from graphopt.ir import evaluate
from tests.rewrite.random_graphs import random_graph

TARGETS = ("x86", "x86:haswell", "x86:x86-64")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(40))
def test_random_graph(seed: int) -> None:
    """The tolerance is what a change of the inputs in their last bit makes of the result: some graphs amplify it."""
    graph = random_graph(seed, 30)
    rng = np.random.default_rng(seed)
    inputs = [rng.uniform(-0.5, 1.5, v.static_shape).astype(np.float32) for v in graph.inputs]
    nearby = [(x * (1 + 2e-7 * rng.choice([-1, 1], x.shape))).astype(np.float32) for x in inputs]
    got = graphopt.compile(graph, target=TARGETS[seed % 3], threads=1 + seed % 2)(*inputs)
    got = got if isinstance(got, tuple) else (got,)
    for y, want, near in zip(got, evaluate(graph, inputs), evaluate(graph, nearby), strict=True):
        assert y.shape == want.shape and y.dtype == want.dtype
        settled = np.isnan(want) == np.isnan(near)  # else whether it is a number depends on the last bit
        tolerance = 1e-4 + 1e-4 * np.abs(want) + 100 * np.abs(want - near)
        right = (np.isnan(y) & np.isnan(want)) | (y == want) | (np.abs(y - want) <= tolerance) | np.isnan(tolerance)
        assert right[settled].all(), f"{y[~right][:3]}, not {want[~right][:3]}"
