"""Fourier transforms: the reference and the decompositions against numpy in float64."""

import numpy as np
import pytest

from graphopt.errors import IRError
from graphopt.ir import Builder, Trait, evaluate, verify
from graphopt.ir.ops.fourier import roots, split
from graphopt.ir.table import DECOMPOSITIONS
from graphopt.rewrite import Decompose
from graphopt.rewrite.engine.context import Context
from tests.ir.one_op import graph_of, run_op

RNG = np.random.default_rng(0)
# One, short ones, primes with a matrix of their own and one without, what splits into two and into more factors.
SIZES = [1, 2, 3, 7, 31, 101, 257, 512, 521, 1000, 1042, 4096]


def decomposed(name, *operands, **attrs):
    """The op's results by its decomposition, which must consist of primitives and keep the types."""
    graph = graph_of(name, operands, attrs)
    op = graph.last
    made = DECOMPOSITIONS[name](Builder(graph, before=op), op)
    made = made if isinstance(made, list) else [made]
    assert [v.type for v in made] == [r.type for r in op.results]
    op.replace_with(made)
    verify(graph)
    assert not any(o.definition.has(Trait.COMPOSITE) for o in graph.ops)
    got = evaluate(graph, list(operands))
    return got[0] if len(got) == 1 else got


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", SIZES)
def test_transforms_of_all_sorts_of_lengths(n, dtype):
    re, im = RNG.standard_normal((2, 2, n)).astype(dtype)
    z, x, eps, h = re + 1j * im.astype(np.float64), re.astype(np.float64), np.finfo(dtype).eps, n // 2 + 1
    cases = [("fft", (re, im), {"axis": 1}, np.fft.fft(z)),
             ("fft", (re, im), {"axis": 1, "inverse": True, "norm": "n"}, np.fft.ifft(z)),
             ("rfft", (re,), {"axis": 1, "norm": "root"}, np.fft.rfft(x, norm="ortho")),
             ("irfft", (re[:, :h], im[:, :h]), {"axis": 1, "n": [n], "norm": "n"}, np.fft.irfft(z[:, :h], n))]
    for name, operands, attrs, expected in cases:
        for f, ulps in ((lambda *a, **k: run_op(*a, symbolic=False, **k), 1), (decomposed, 1.5)):
            got = f(name, *operands, **attrs)
            got = got[0] + 1j * got[1].astype(np.float64) if isinstance(got, list) else got.astype(np.float64)
            error = np.abs(got - expected).max() / np.abs(expected).max()
            assert error <= ulps * eps * (np.log2(n) + 1), (name, error / eps)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_any_axis(axis):
    re, im = RNG.standard_normal((2, 3, 4, 5))
    z = re + 1j * im
    expected = np.fft.fft(z, axis=axis)
    for f in (run_op, decomposed):
        got = f("fft", re, im, axis=axis)
        np.testing.assert_allclose(got[0] + 1j * got[1], expected, atol=1e-12)
        n = z.shape[axis] * 2 - 1
        back = f("irfft", re, im, axis=axis, n=[n]) if f is decomposed else f("irfft", re, im, axis=axis, n=[n], symbolic=False)
        np.testing.assert_allclose(back, np.fft.irfft(z, n, axis) * n, atol=1e-12)
    none = np.zeros((0, 4), np.float32)
    assert [y.shape for y in decomposed("rfft", none, axis=1)] == [(0, 3)] * 2


def test_ends_of_a_half_spectrum_have_no_imaginary_part():
    re, im = RNG.standard_normal((2, 1, 5))
    for n in (8, 9):
        wild = im.copy()
        wild[0, 0] = np.nan
        if n == 8:
            wild[0, 4] = np.inf
        for f in (lambda *a, **k: run_op(*a, symbolic=False, **k), decomposed):
            np.testing.assert_array_equal(f("irfft", re, wild, axis=1, n=[n]), f("irfft", re, im, axis=1, n=[n]))


def test_a_length_that_is_not_known_waits():
    graph = graph_of("rfft", (np.zeros((3, 6), np.float32),), {"axis": 1}, symbolic=True)
    assert str(graph.outputs[0].type) == "f32[n3, (n6//2) + 1]"
    Decompose().run_on(graph, Context())
    assert [op.name for op in graph.ops] == ["rfft"]
    fixed = graph.specialise({"n3": 3, "n6": 6})
    Decompose().run_on(fixed, Context())
    assert "rfft" not in [op.name for op in fixed.ops]
    assert fixed.outputs[0].static_shape == (3, 4)


def test_wrong_attributes_are_refused():
    x = np.zeros((3, 4), np.float32)
    for name, operands, attrs, text in [("rfft", (x,), {"axis": 2}, "axis"), ("rfft", (x,), {"axis": 1, "norm": "ortho"}, "norm"),
                                        ("fft", (x, x[:2]), {"axis": 1}, "parts"), ("irfft", (x, x), {"axis": 1, "n": [9]}, "9"),
                                        ("rfft", (x[:, :0],), {"axis": 1}, "empty")]:
        with pytest.raises(IRError, match=text):
            graph_of(name, operands, attrs)


def test_constants_are_exact_where_they_can_be():
    for n in (4, 8, 12, 360, 1 << 20):
        w = roots(np.array([0, n // 4, n // 2, 3 * n // 4, n, -n // 4]), n, 1)
        assert list(w) == [1, 1j, -1, -1j, 1, -1j]
    assert np.abs(np.abs(roots(np.arange(1000), 1000, -1)) - 1).max() < 3e-16
    assert [split(n, n) for n in (12, 13, 4096, 2018)] == [3, None, 64, 2]
