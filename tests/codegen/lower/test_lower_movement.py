"""Data movement: positions computed from positions, in every dtype."""

from __future__ import annotations

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(11)


@pytest.mark.parametrize("of", ["f32", "f16", "bf16", "f64", "i8", "u16", "i64", "bool"])
def test_copies_are_exact_in_every_dtype(of: str) -> None:
    x = random(RNG, of, 3, 4, 5, special=True)
    check("transpose", [x], perm=[2, 0, 1])
    check("reshape", [x], shape=[5, 12])
    check("concat", [x, x[:, :1], x], axis=1)
    check("pad", [x], pads=[1, 0, 2, 0, 1, 3])


@pytest.mark.parametrize("before,after", [
    ((3, 4), (12,)), ((12,), (2, 3, 2)), ((1, 6, 1), (6,)), ((4, 6), (8, 3)), ((6, 1, 4), (3, 8)), ((1,), ()), ((), (1, 1)),
    ((0, 3), (5, 0)), ((2, 3, 4), (2, 12)), ((2, 12), (2, 3, 4))])
def test_reshape(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    check("reshape", [random(RNG, "f32", *before)], shape=after)


def test_expand_tile_flip() -> None:
    check("expand", [random(RNG, "f32", 3, 1)], shape=[2, 3, 4])
    check("expand", [random(RNG, "f32")], shape=[2])
    check("expand", [random(RNG, "f32", 1)], shape=[0])
    check("tile", [random(RNG, "i32", 2, 3)], repeats=[3, 1])
    check("tile", [random(RNG, "i32", 2, 3)], repeats=[0, 2])
    check("flip", [random(RNG, "f32", 3, 5, 1)], axes=[0, 2])
    check("flip", [random(RNG, "f32", 3, 5)], axes=[])
    check("identity", [random(RNG, "f32", 3, 5)])


@pytest.mark.parametrize("axes,starts,ends,steps", [
    ([0], [1], [5], [2]), ([1], [-3], [2**31], [1]), ([0, 1], [6, -1], [-(2**63), 1], [-2, -1]), ([0], [5], [2], [1]),
    ([1], [-100], [100], [3]), ([0], [100], [-100], [-1]), ([0], [-1], [0], [-3])])
def test_slice(axes: list[int], starts: list[int], ends: list[int], steps: list[int]) -> None:
    check("slice", [random(RNG, "f32", 7, 6)], axes=axes, starts=starts, ends=ends, steps=steps)


def test_concat_and_split() -> None:
    parts = [random(RNG, "f32", 2, n, 3) for n in (1, 0, 4, 2)]
    check("concat", parts, axis=1)
    check("concat", parts[:1], axis=1)
    check("concat", [parts[1], parts[1]], axis=1)
    check("split", [random(RNG, "f32", 2, 7)], axis=1, sizes=[1, 0, 4, 2])
    check("split", [random(RNG, "i8", 5)], axis=0, sizes=[5])


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [[1, 0, 0, 2], [2, 3, 1, 1], [-1, 2, 1, -1], [0, -2, -1, 0], [9, 0, 4, 11]])
def test_pad(mode: str, pads: list[int]) -> None:
    check("pad", [random(RNG, "f32", 3, 4)], pads=pads, mode=mode)
    check("pad", [random(RNG, "f16", 5, 4)], pads=pads, mode=mode)


def test_pad_values_and_edges() -> None:
    check("pad", [random(RNG, "f32", 3), np.float32(np.nan)], pads=[1, 2])
    check("pad", [random(RNG, "i32", 3), np.array([7], np.int32)], pads=[1, -2])
    check("pad", [random(RNG, "f32", 0, 2), np.float32(2)], pads=[1, 0, 2, 1])
    check("pad", [random(RNG, "f32", 1, 2)], pads=[3, 0, 2, 1], mode="reflect")
    check("pad", [random(RNG, "f32", 0, 2)], pads=[0, 1, 0, 1], mode="edge")
    check("pad", [random(RNG, "f32", 2)], pads=[-1, -1], mode="constant")


@pytest.mark.parametrize("of", ["i64", "f32", "f16", "i8", "u8"])
def test_iota(of: str) -> None:
    check("iota", [], shape=[3, 200], axis=1, dtype=of)
    check("iota", [], shape=[3, 2], axis=0, dtype=of)


def test_shapes_as_tensors() -> None:
    check("shape", [random(RNG, "f32", 3, 1, 0, 5)])
    check("shape", [random(RNG, "f32")])
    check("dims", [], values=[4, -1, 7])
