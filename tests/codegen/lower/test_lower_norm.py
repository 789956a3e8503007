"""Composites, inlined from their decompositions."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.codegen.kernel.expr import INDEX, Reduce, Var, postorder
from graphopt.codegen.lower.registry import COMPUTE, Inliner
from graphopt.ir.table import TABLE, Trait
from tests.codegen.lower.lowering import check, make, random

RNG = np.random.default_rng(31)
FLOATS = ["f32", "f16", "bf16", "f64"]


def test_every_composite_is_inlined_but_those_that_are_made_of_products() -> None:
    composites = {name for name, d in TABLE.items() if d.has(Trait.COMPOSITE)}
    assert composites - set(COMPUTE) == {"attention", "fft", "rfft", "irfft"}


@pytest.mark.parametrize("of", FLOATS)
def test_softmax(of: str) -> None:
    for name in ("softmax", "log_softmax"):
        check(name, [random(RNG, of, 3, 5, 7)], axis=1)
        check(name, [random(RNG, of, 4, 9) * 20], axis=1)
        check(name, [random(RNG, of, 2, 1)], axis=1)
        check(name, [random(RNG, of, 0, 3)], axis=1)


def test_softmax_of_infinities() -> None:
    x = np.array([[0, -np.inf, 1], [-np.inf] * 3, [np.nan, 0, 1]], np.float32)
    check("softmax", [x], axis=1)
    check("log_softmax", [x], axis=1)


def test_softmax_has_no_subnormal_numbers() -> None:
    """They would slow every product with them down."""
    [y] = check("softmax", [np.array([[0, -86, -88, -100, -103, -np.inf]], np.float32)], axis=1)
    assert y[0, 0] == 1 and y[0, 1] > 0 and list(y[0, 2:]) == [0, 0, 0, 0]


@pytest.mark.parametrize("of", FLOATS)
def test_normalisations(of: str) -> None:
    x = random(RNG, of, 2, 6, 5, 3)
    c = [random(RNG, of, 6) for _ in range(4)]
    c[3] = np.abs(c[3])
    check("batch_norm", [x, *c], eps=1e-5)
    check("group_norm", [x, c[0], c[1]], groups=3, eps=1e-5)
    check("group_norm", [x], groups=6, eps=1e-5)
    check("layer_norm", [x, random(RNG, of, 5, 3), random(RNG, of, 3)], axis=2, eps=1e-5)
    check("layer_norm", [x, None, random(RNG, of, 3)], axis=3, eps=1e-5)
    check("rms_norm", [x, random(RNG, of, 3)], axis=3, eps=1e-6)
    check("rms_norm", [x], axis=1, eps=1e-6)
    check("lrn", [x], size=3, alpha=1e-2, beta=0.75, bias=1.0)
    check("lrn", [x], size=4, alpha=1e-2, beta=0.5, bias=2.0)


def test_batch_norm_by_what_is_not_finite() -> None:
    inf, nan = np.inf, np.nan
    x = np.stack([np.full(7, v, np.float32) for v in (0, -3, inf, -inf, nan)])
    c = [np.array(v, np.float32) for v in ([inf, -inf, inf, 1, nan, 0, 2], [1, 2, 0, inf, 1, nan, 1], [0.5, -2, 0, 1, 1, 1, inf],
                                           [1, 1, 1, 2, 1, 1, inf])]
    check("batch_norm", [x, *c], eps=1e-5)


def test_a_row_shares_its_reductions() -> None:
    """softmax holds one Reduce for the maximum and one for the sum, neither depending on the position in the row."""
    op = make("softmax", [np.zeros((4, 9), np.float32)], axis=1)
    from graphopt.codegen.kernel.expr import Buffer, free_vars

    i, j = Var("i", INDEX, 0, 3), Var("j", INDEX, 0, 8)
    e = Inliner({op.operands[0]: Buffer("x", "f32", (4, 9))}).at(op.result, (i, j))
    reductions = [n for n in postorder(e) if isinstance(n, Reduce)]
    assert [r.kind for r in reductions] == ["peak", "sum"]
    assert all(j not in free_vars(r) for r in reductions)
