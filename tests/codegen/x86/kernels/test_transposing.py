"""Copies whose innermost axis changes: every size, dtype, halo and pitch, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.lower.kernels import Template, lower
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.transposing import template
from graphopt.ir import Graph, dtype, tensor
from graphopt.ir.types import channels_last
from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch, made_by
from tests.codegen.x86.kernels.test_contraction import TARGETS

RNG = np.random.default_rng(8)
SIZE = st.integers(1, 70)


def there_and_back(batch: Batch, x: np.ndarray, *, halo: int = 0, pitch: int = 0) -> None:
    """To channels last and back, with something computed from the halo's neighbourhood on the way."""
    there = batch.b.relayout(batch.input(x))
    there.type = replace(there.type, layout=channels_last(x.ndim, halo, pitch))
    batch.give(batch.b.relayout(there), x, f"{x.dtype}{x.shape} +{halo} /{pitch}")


@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=3)
@given(st.lists(st.tuples(st.integers(1, 2), SIZE, SIZE, SIZE, st.integers(0, 2), st.sampled_from([0, 3, 16])),
                min_size=6, max_size=6))
def test_images_of_any_size(target: str, cases: list[tuple[int, ...]]) -> None:
    batch = Batch()
    for n, c, h, w, halo, more in [(2, 37, 7, 9, 1, 3), *cases]:  # the first is large enough for squares, whatever comes after
        there_and_back(batch, random(RNG, "f32", n, c, h, w, special=True), halo=halo, pitch=more and c + more)
    batch.check("transpose", beside=["generic", "tiled"], target=target, threads=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("of", ["f64", "i32", "u32", "i64", "f16", "bf16", "i8", "bool"])
def test_dtypes(of: str, target: str) -> None:
    batch = Batch()
    there_and_back(batch, random(RNG, of, 2, 37, 7, 9, special=True), halo=1, pitch=40)
    x = random(RNG, of, 3, 21, 50, special=True)
    batch.give(batch.b.transpose(batch.input(x), perm=[2, 0, 1]), x.transpose(2, 0, 1))
    made = set(made_by(batch.check(target=target)))
    squares = ("i32", "u32") if target == "x86:x86-64" else ("f64", "i32", "u32", "i64")  # two lanes of 64 bits are too few
    assert made == {"transpose"} if of in squares else "transpose" not in made


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_and_other_ranks(threads: int) -> None:
    batch = Batch()
    there_and_back(batch, random(RNG, "f32", 2, 130, 201), halo=1)
    there_and_back(batch, random(RNG, "f32", 2, 33, 5, 19, 23), halo=1)
    there_and_back(batch, random(RNG, "f32", 1, 256, 56, 56), halo=1)
    for shape, perm in (((300, 301), (1, 0)), ((5, 0, 7), (2, 1, 0)), ((4, 40, 6, 20), (0, 2, 3, 1)),
                        ((4, 40, 6, 20), (3, 2, 1, 0)), ((1, 40, 1, 20), (3, 2, 1, 0)), ((2, 12, 64, 48), (0, 2, 1, 3)),
                        ((2, 12, 64, 48), (0, 1, 3, 2))):
        x = random(RNG, "f32", *shape)
        batch.give(batch.b.transpose(batch.input(x), perm=list(perm)), x.transpose(perm), f"{shape} {perm}")
    batch.check("transpose", beside=["generic", "tiled"], threads=threads)


@pytest.mark.parametrize("shape, taken", [
    ((1, 64, 7, 7), True), ((1, 64, 3, 1), False), ((1, 3, 224, 224), False), ((2, 4, 2, 2), True)])
def test_rows_too_short_for_a_square_go_by_the_rule(shape: tuple[int, ...], taken: bool) -> None:
    graph = Graph()
    y = graph.add("relayout", [graph.add_input(tensor(dtype("f32"), *shape))], {}).result
    y.type = replace(y.type, layout=channels_last(4))
    assert y.op is not None
    found = template(y.op, "k", Style(lanes=16))
    assert (found is not None) == taken
    kernel = lower(y.op, "k", Style(lanes=16), (Template("transpose", template),)).kernel
    assert kernel.template == ("transpose" if taken else "generic")
