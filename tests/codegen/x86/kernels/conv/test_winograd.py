"""Winograd convolutions: each transform in exact arithmetic, every remainder, epilogue and target against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphopt
from graphopt.codegen.lower.kernels import Lowered, Template
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.conv.winograd_plan import POINTS, Conv, Plan, Transform, choose, problem_of, tiles_of
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.codegen.x86.templates import templates_of
from graphopt.ir import Builder, Graph, tensor
from graphopt.ir.fused import only as only_one
from graphopt.ir.fused import outside
from graphopt.ir.graph import Op
from graphopt.targets import parse_target
from graphopt.targets.base import Choice
from graphopt.targets.x86 import X86
from tests.codegen.x86.compiling import Built, ChannelsLast, made_by

TARGETS = ["x86", "x86:haswell", "x86:x86-64"]
RNG = np.random.default_rng(3)


def of(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


class Anywhere(ChannelsLast):
    """Channels last, and Winograd's algorithm wherever it is possible."""

    def layout_choice(self, op: Op) -> Choice | None:
        choice, conv = super().layout_choice(op), only_one(op, "conv")
        if choice is None or choice.last is None or conv is None or problem_of(op, conv, self.target) is None:
            return choice
        image = outside(op, conv.operands[0])  # type: ignore[arg-type]
        return replace(choice, reads=tuple("same" if v is image else how for v, how in zip(op.operands, choice.reads)))


def by(plan: Callable[[Conv, int], Plan | None] | None = None) -> dict[str, Any]:
    """Winograd wherever it is possible, by `plan(convolution, lanes)` or the cheapest one: our template, whose choice is made."""

    def first(machine: X86) -> list[Template]:
        ours = next(t for t in templates_of(machine) if t.name == "conv.winograd")

        def match(op: Op, name: str, style: Style) -> Lowered | None:
            conv = only_one(op, "conv")
            problem = None if conv is None else problem_of(op, conv, machine)
            if problem is None:
                return None
            found = plan(*problem) if plan is not None else (choose(*problem, machine, machine.threads) or (0, None))[1]
            if found is None:
                return None
            chosen: Any = found
            return ours.match(op, name, replace(style, pick=lambda kind, candidates: chosen))

        return [Template("conv.winograd", match)]

    return {"by": Anywhere, "first": first}


def only(m: int) -> Callable[[Conv, int], Plan | None]:
    """F(m, 3) in small blocks that do not divide."""

    def plan(c: Conv, lanes: int) -> Plan | None:
        count = tiles_of(c, m)
        if c.least < m:
            return None
        vectors = 2 if c.outs >= 2 * lanes else 1
        return Plan(m, Tile(min(3, -(-count // 2)), vectors, lanes), (1, 1), 2, -(-count // 2))

    return plan


def network(x: np.ndarray, w: np.ndarray, pad: list[int], bias: np.ndarray | None = None,
            after: Callable[[Builder, object], object] | None = None) -> Graph:
    graph = Graph()
    b = Builder(graph)
    image = b.relu(graph.add_input(tensor("f32", *x.shape), "x"))
    y = b.conv(image, b.const(w), None if bias is None else b.const(bias), stride=[1, 1], pad=pad, dilation=[1, 1], groups=1)
    graph.outputs = [b.relu(y) if after is None else after(b, y)]
    return graph


def of_groups(x: np.ndarray, w: np.ndarray, pad: list[int], dilation: list[int], groups: int, bias: np.ndarray | None = None
              ) -> tuple[Graph, np.ndarray]:
    """A dilated convolution of groups, and its results in f64; `pad` is the same at both ends."""
    graph = Graph()
    b = Builder(graph)
    y = b.conv(b.relu(graph.add_input(tensor("f32", *x.shape), "x")), b.const(w), None if bias is None else b.const(bias),
               stride=[1, 1], pad=[*pad, *pad], dilation=dilation, groups=groups)
    graph.outputs = [b.relu(y)]
    tensors = [None if t is None else torch.from_numpy(t).double() for t in (np.maximum(x, 0), w, bias)]
    return graph, torch.relu(torch.conv2d(*tensors, padding=pad, dilation=dilation, groups=groups)).numpy()


def reference(x: np.ndarray, w: np.ndarray, pad: list[int], bias: np.ndarray | None = None) -> np.ndarray:
    """The convolution of relu(x), in f64."""
    top, left, bottom, right = pad
    padded = torch.nn.functional.pad(torch.relu(torch.from_numpy(x).double()), (left, right, top, bottom))
    return torch.conv2d(padded, torch.from_numpy(w).double(), None if bias is None else torch.from_numpy(bias).double()).numpy()


def uses_winograd(model: object) -> bool:
    return made_by(model)["conv.winograd"] > 0


def check(how: dict[str, Any], x: np.ndarray, w: np.ndarray, pad: list[int], bias: np.ndarray | None = None,
          tolerance: float = 4e-6, **options: Any) -> None:
    model = Built(network(x, w, pad, bias), **how, **options)
    assert uses_winograd(model)
    want = np.maximum(reference(x, w, pad, bias), 0)
    assert np.abs(model(x) - want).max() <= tolerance * np.abs(want).max()


# The transforms
@pytest.mark.parametrize("m", sorted(POINTS))
def test_the_transforms_filter_exactly(m: int) -> None:
    """In rational arithmetic Y = A^T [(G g) * (B^T d)] is the filter, whatever the data."""
    f = Transform(m)
    points = [Fraction(0), *(s * Fraction(p) for p in f.points for s in (1, -1))]
    for p in points:
        assert float(p) == p  # exact in binary

    def times(polynomial: list[Fraction], x: Fraction) -> list[Fraction]:
        """The product with (t - x)."""
        return [a - x * b for a, b in zip([Fraction(0), *polynomial], [*polynomial, Fraction(0)])]

    rows = []
    for skip in range(f.n):
        product = [Fraction(1)]
        for k, x in enumerate(points):
            if k != skip:
                product = times(product, x)
        rows.append(product + [Fraction(0)] * (f.n - len(product)))
    g = [Fraction(int(v)) for v in RNG.integers(-9, 9, 3)]
    d = [Fraction(int(v)) for v in RNG.integers(-9, 9, f.n)]
    weights = np.array([[Fraction(x) ** k / np.prod([x - y for y in points if y != x]) for k in range(3)] for x in points]
                       + [[Fraction(0), Fraction(0), Fraction(1)]])
    np.testing.assert_allclose(f.weights(), weights.astype(float), rtol=1e-15)
    products = (weights @ g) * np.array([sum(a * b for a, b in zip(row, d)) for row in rows])
    y = [sum(products[k] * x ** i for k, x in enumerate(points)) + (products[-1] if i == m - 1 else 0) for i in range(m)]
    assert y == [sum(g[k] * d[i + k] for k in range(3)) for i in range(m)]
    for p in f.points:  # what the kernel computes rows from
        even = [Fraction(float(c)) for c in f.even(p)]
        plus = rows[points.index(Fraction(p))]
        assert plus[2:f.n - 1:2] == even and plus[1:f.n - 2:2] == [Fraction(p) * c for c in even]


# Shapes
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m", sorted(POINTS))
def test_sizes_that_divide_by_nothing(target: str, m: int) -> None:
    how = by(only(m))
    for batch, channels, height, width, outs, pad in [
            (1, 16, 8, 8, 16, [1, 1, 1, 1]), (2, 20, 7, 13, 37, [1, 1, 1, 1]), (1, 5, 9, 6, 70, [0, 0, 0, 0]),
            (3, 33, 11, 14, 4, [0, 1, 1, 0]), (1, 17, 5, 5, 19, [1, 0, 1, 1])]:
        check(how, of(batch, channels, height, width), of(outs, channels, 3, 3), pad, of(outs), target=target, threads=1)


@settings(max_examples=12)
@given(st.integers(1, 3), st.integers(4, 40), st.integers(6, 23), st.integers(6, 23), st.integers(4, 70),
       st.lists(st.integers(0, 1), min_size=4, max_size=4), st.sampled_from(TARGETS), st.integers(1, 3))
def test_any_sizes(batch: int, channels: int, height: int, width: int, outs: int, pad: list[int], target: str,
                   threads: int) -> None:
    check(by(), of(batch, channels, height, width), of(outs, channels, 3, 3), pad, target=target, threads=threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("grid", [(3, 1), (1, 2), (2, 2)])
def test_threads_share_tiles_and_channels(threads: int, grid: tuple[int, int]) -> None:
    def plan(c: Conv, lanes: int) -> Plan:
        return Plan(4, Tile(3, 1, lanes), grid, 2, -(-tiles_of(c, 4) // (2 * grid[0])))

    how = by(plan)
    x, w = of(2, 24, 18, 15), of(50, 24, 3, 3)
    check(how, x, w, [1, 1, 1, 1], threads=threads)


def test_every_call_gives_the_same_bits() -> None:
    """Also where tiles of different threads overlap."""
    how = by(lambda c, lanes: Plan(4, Tile(2, 1, lanes), (2, 1), 1, -(-tiles_of(c, 4) // 2)))
    x, w = of(1, 40, 14, 14), of(48, 40, 3, 3)
    model = Built(network(x, w, [1] * 4), **how, threads=2)
    first = model(x)
    for _ in range(20):
        np.testing.assert_array_equal(model(x), first)


@pytest.mark.parametrize("m", sorted(POINTS))
def test_what_follows_is_fused(m: int) -> None:
    how = by(only(m))
    for size in (12, 11):
        x, w, bias, residual = of(1, 18, size, size), of(21, 18, 3, 3), of(21), of(1, 21, size, size)
        want = reference(x, w, [1] * 4, bias)
        for after, wanted in [
                (lambda b, y, r=residual: b.relu(b.add(y, b.const(r))), np.maximum(want + residual, 0)),
                (lambda b, y: b.silu(y), want / (1 + np.exp(-want)))]:
            model = Built(network(x, w, [1] * 4, bias, after), **how)
            assert uses_winograd(model)
            assert np.abs(model(x) - wanted).max() <= 4e-6 * np.abs(want).max()


def test_a_window_reads_the_halo_of_another_kernel() -> None:
    how = by(only(4))
    x, ws = of(1, 16, 14, 14), [of(32, 16, 3, 3) / 12, of(16, 32, 3, 3) / 17, of(24, 16, 3, 3) / 12]
    graph = Graph()
    b = Builder(graph)
    y = graph.add_input(tensor("f32", *x.shape), "x")
    want = torch.from_numpy(x).double()
    for w in ws:
        y = b.relu(b.conv(y, b.const(w), stride=[1, 1], pad=[1] * 4, dilation=[1, 1], groups=1))
        want = torch.relu(torch.conv2d(want, torch.from_numpy(w).double(), padding=1))
    graph.outputs = [y]
    assert np.abs(Built(graph, **how)(x) - want.numpy()).max() <= 1e-5 * want.max()


# Error
@pytest.mark.parametrize(("m", "bound"), [(2, 1.5e-6), (4, 4e-6)])
def test_error_is_as_stated(m: int, bound: float) -> None:
    how = by(only(m))
    for seed, channels in ((0, 64), (1, 64), (2, 512), (3, 512)):  # draws of their own: the largest of many errors varies
        rng = np.random.default_rng(seed)
        x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, channels, 14, 14), (32, channels, 3, 3)))
        check(how, x, w, [1] * 4, tolerance=bound)


def test_a_nan_spreads_over_its_tiles_and_no_further() -> None:
    how = by(only(4))
    x, w = of(1, 16, 16, 16), of(16, 16, 3, 3)
    x[0, 3, 6, 6] = np.nan
    graph = network(x, w, [1] * 4, after=lambda b, y: b.neg(y))
    bad = np.isnan(Built(graph, **how)(x)[0])
    assert bad[:, 5:8, 5:8].all() and not bad[:, 8:].any() and not bad[:, :, 8:].any() and not bad[:, :4].any()


# Groups and dilation
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("m", sorted(POINTS))
@pytest.mark.parametrize(("channels", "outs", "groups", "size", "pad", "dilation"), [
    (24, 24, 1, (16, 16), [2, 2], [2, 2]), (20, 33, 1, (17, 14), [2, 2], [2, 2]), (16, 16, 1, (19, 22), [3, 2], [3, 2]),
    (16, 16, 1, (14, 13), [0, 1], [2, 1]), (8, 16, 1, (21, 23), [4, 0], [4, 3]), (48, 48, 2, (9, 14), [1, 1], [1, 1]),
    (72, 51, 3, (8, 7), [1, 1], [1, 1]), (40, 60, 2, (15, 12), [2, 2], [2, 2])])
def test_groups_and_dilations(target: str, m: int, channels: int, outs: int, groups: int,
                              size: tuple[int, int], pad: list[int], dilation: list[int]) -> None:
    """Also phases of unlike size: the last tiles of the smaller ones are their neighbours' altogether."""
    how = by(only(m))
    x, w, bias = of(2, channels, *size), of(outs, channels // groups, 3, 3), of(outs)
    graph, want = of_groups(x, w, pad, dilation, groups, bias)
    model = Built(graph, **how, target=target)
    assert uses_winograd(model)
    assert np.abs(model(x) - want).max() <= 4e-6 * want.max()


@pytest.mark.parametrize("grid", [(1, 3), (3, 1)])
def test_threads_share_groups_and_phases(grid: tuple[int, int]) -> None:
    def plan(c: Conv, lanes: int) -> Plan:
        return Plan(2, Tile(3, 1, lanes), grid, 2, -(-tiles_of(c, 2) // (2 * grid[0])))

    how = by(plan)
    x, w = of(1, 96, 15, 14), of(96, 48, 3, 3)
    graph, want = of_groups(x, w, [2, 2], [2, 2], 2)
    model = Built(graph, **how, threads=3)
    assert uses_winograd(model)
    first = model(x)
    assert np.abs(first - want).max() <= 4e-6 * want.max()
    assert all((model(x) == first).all() for _ in range(20))


# The choice
def test_it_can_be_forbidden() -> None:
    x, w = of(1, 64, 28, 28), of(64, 64, 3, 3)
    graph = network(x, w, [1] * 4)
    assert uses_winograd(graphopt.compile(graph))
    assert not uses_winograd(graphopt.compile(graph, winograd=False))
    assert not uses_winograd(graphopt.compile(graph, target="x86:haswell", threads=1, winograd=False))


@pytest.mark.parametrize("conv", [
    {"stride": [2, 2]}, {"groups": 16}, {"pad": [2, 2, 2, 2]}, {"pad": [3] * 4, "dilation": [2, 2]}, {"dilation": [7, 7]},
    {"kernel": 5}, {"dtype": "f64"}])
def test_others_are_computed_directly(conv: dict) -> None:
    how = by()
    kernel, d = conv.pop("kernel", 3), conv.pop("dtype", "f32")
    attrs = {"stride": [1, 1], "pad": [1] * 4, "dilation": [1, 1], "groups": 1, **conv}
    kind = np.float64 if d == "f64" else np.float32
    x, w = of(1, 32, 16, 16).astype(kind), of(32, 32 // attrs["groups"], kernel, kernel).astype(kind)
    graph = Graph()
    b = Builder(graph)
    graph.outputs = [b.relu(b.conv(b.relu(graph.add_input(tensor(d, *x.shape))), b.const(w), **attrs))]
    model = Built(graph, **how)
    assert not uses_winograd(model)
    want = torch.relu(torch.conv2d(torch.relu(torch.from_numpy(x)).double(), torch.from_numpy(w).double(), stride=attrs["stride"],
                                   padding=attrs["pad"][0], dilation=attrs["dilation"], groups=attrs["groups"])).numpy()
    assert np.abs(model(x) - want).max() <= 4e-6 * want.max()


def test_plans_cover_all_tiles() -> None:
    machine = parse_target("x86:znver4", 8)
    cases = (Conv(1, 56, 56, 64, 64), Conv(1, 14, 14, 256, 256), Conv(3, 7, 9, 30, 50), Conv(1, 5, 3, 8, 8),
             Conv(1, 28, 28, 48, 48, 4), Conv(1, 29, 30, 64, 64, 1, (2, 4)))
    for c in cases:
        found = choose(c, 16 if c.channels >= 16 else 8, machine, 8)  # type: ignore[arg-type]
        assert found is not None
        plan = found[1]
        assert plan.grid[0] * plan.grid[1] <= 8 and plan.tile.rows <= plan.block
        assert plan.grid[0] * plan.blocks * plan.block >= tiles_of(c, plan.m)
