"""Decompose: every composite of the table equals what it is made of, unless the target keeps it."""

import numpy as np
import pytest

from graphopt.ir import DTYPES, TABLE, Trait
from graphopt.rewrite import Decompose
from graphopt.targets.capabilities import Capabilities
from tests.rewrite.rewriting import names, rewritten, unchanged

NORMS = {
    "softmax": "softmax(%x) {axis=1}",
    "log_softmax": "log_softmax(%x) {axis=1}",
    "layer_norm": "layer_norm(%x, %c, %c) {axis=2, eps=1e-05}",
    "rms_norm": "rms_norm(%x, %c) {axis=2, eps=1e-05}",
    "group_norm": "group_norm(%x, %s, %s) {groups=2, eps=1e-05}",
    "batch_norm": "batch_norm(%x, %s, %s, %s, %v) {eps=1e-05}",
    "lrn": "lrn(%x) {size=3, alpha=0.1, beta=0.75, bias=1.0}",
}


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
@pytest.mark.parametrize("op", list(NORMS))
def test_a_composite_is_what_it_is_made_of(op, dtype):
    d, rng = dtype, np.random.default_rng(0)
    inputs = [(rng.random(shape) + 0.1).astype(DTYPES[d].numpy) for shape in ((2, 4, 5), (5,), (4,), (4,))]
    graph = rewritten(Decompose(), f"""graph @g(%x: {d}[2, 4, 5], %c: {d}[5], %s: {d}[4], %v: {d}[4]) -> {d}[2, 4, 5] {{
      %y = {NORMS[op]} : {d}[2, 4, 5]
      return %y
    }}""", inputs=inputs, ulps=64)
    assert not any(TABLE[n].has(Trait.COMPOSITE) for n in names(graph))


def test_what_the_target_keeps_stays():
    class Keeps(Capabilities):
        def keeps(self, op):
            return op.name == "softmax"

    text = """graph @g(%x: f32[2, 4]) -> f32[2, 4] {
      %y = softmax(%x) {axis=1} : f32[2, 4]
      return %y
    }"""
    unchanged(Decompose(), text, target=Keeps())
    assert "softmax" not in names(rewritten(Decompose(), text))
