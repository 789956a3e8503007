"""Artifacts of earlier formats still load: tests/data holds one of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.runtime.host.machine import missing

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.skipif(bool(missing(["avx2", "fma"])), reason="its code is for AVX2 (x86:x86-64-v3)")
def test_format_1_0_runs() -> None:
    """Made by graphopt 0.1.0 of a convolution, ReLU, pooling, a linear layer and softmax; expected: PyTorch in float64."""
    model = graphopt.load(DATA / "format-1.0" / "net")
    expected = np.load(DATA / "format-1.0" / "expected.npz")
    assert [str(s) for s in (*model.inputs, *model.outputs)] == ["input: f32[2, 3, 8, 8]", "output: f32[2, 5]"]
    np.testing.assert_allclose(model(expected["x"]), expected["y"], atol=1e-6)
    with pytest.raises(graphopt.InputError, match=r"expected shape \[2, 3, 8, 8\], got \[1, 3, 8, 8\]"):
        model(expected["x"][:1])
