"""Resampling: resize and grid sampling as expressions; regions of interest as loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Const,
    Expr,
    call,
    cast,
    clamp,
    combine,
    const,
    maximum,
    minimum,
    reduce,
    select,
)
from graphopt.codegen.kernel.fuse import fuses
from graphopt.codegen.kernel.loops import Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.common import all_of, inside, read, wrapped, write
from graphopt.codegen.lower.elementwise import convert
from graphopt.codegen.lower.registry import OpView, compute, loops
from graphopt.ir.ops.resample import leaves_alone, resized
from graphopt.ir.types import BOOL, F32, F64, DType

UNROLLED_TAPS = 4  # above, the taps of one axis are a reduction


def _work_dtype(o: OpView) -> DType:
    """f32 for f32 and narrower; f64 for the rest, so that integers round as the reference does."""
    return o.dtype if o.dtype.is_float else F64


def _rounded(e: Expr, d: DType) -> Expr:
    """`e` in dtype d: to an integer half to even, saturated."""
    if d.is_float or e.dtype is d:
        return cast(e, d)
    info = np.iinfo(d.numpy)
    steps = call("round", e)
    if d.bits < 64:
        return convert(minimum(maximum(steps, info.min), info.max), d)
    # The limits of 64 bits have no float of their own, and converting the one beyond is undefined.
    within = (steps > info.min) & (steps < info.max)
    limit = select(steps <= info.min, const(info.min, d), const(info.max, d))
    return select(within, cast(select(within, steps, 0), d), limit)


# Resize -------------------------------------------------------------------------------------
class _Axis:
    """Where the elements of one resized axis come from: `at = low + part`, 0 <= part < 1.

    Coordinates are affine in the output index. Where both coefficients are multiples of a power of two they
    are computed in integers, which is exact and cheap; elsewhere step by step as the reference does.
    """

    def __init__(self, o: OpView, k: int) -> None:
        self.size, self.out = o.shape("x")[o.axes[k]], o.sizes[k]
        self.axis = resized(k, self.size, self.out, o)
        self.shrink = self.axis.shrink if o.antialias else 1.0
        at = self.axis.coordinate()
        self.crops = o.coordinates == "tf_crop_and_resize" and bool(np.any((at < 0) | (at > self.size - 1)))
        self.affine = None if self.crops else _dyadic(at)

    @property
    def is_identity(self) -> bool:
        return self.affine == (1, 0) and self.shrink == 1 and self.size == self.out

    def position(self, i: Expr) -> Expr:
        """The source coordinate in f64, of the very roundings that the reference has."""
        work = F32 if self.axis.narrow else F64
        at = self.axis.at(cast(i, work), lambda v: const(work.numpy.type(v).item(), work))
        return cast(cast(at, F32) if self.axis.rounded else at, F64)

    def nearest(self, i: Expr, rounding: str) -> Expr:
        """The index of the one source element."""
        if self.affine is not None:
            a, b = self.affine
            unit = _lcm(a, b, Fraction(1, 2))
            n = int(a * unit) * i + int(b * unit)  # the coordinate in units of 1 / unit
            half = unit // 2
            rounded = {"round_prefer_floor": (n - half + (unit - 1)) // unit, "round_prefer_ceil": (n + half) // unit,
                       "floor": n // unit, "ceil": (n + (unit - 1)) // unit}[rounding]
        else:
            at = self.position(i)
            if self.axis.tie and rounding.startswith("round"):
                middle = call("floor", at) + 0.5
                at = select(call("abs", at - middle) <= self.axis.tie, middle, at)
            rounded = cast({"round_prefer_floor": call("ceil", at - 0.5), "round_prefer_ceil": call("floor", at + 0.5),
                            "floor": call("floor", at), "ceil": call("ceil", at)}[rounding], INDEX)
        return clamp(rounded, 0, self.size - 1)

    def split(self, i: Expr, work: DType) -> tuple[Expr, Expr]:
        """(index of the element at or before the coordinate, the fraction beyond it)."""
        if self.affine is not None:
            a, b = self.affine
            unit = _lcm(a, b)
            n = int(a * unit) * i + int(b * unit)
            return n // unit, cast(n % unit, work) * (1 / unit)
        at = self.position(i)
        low = call("floor", at)
        return cast(low, INDEX), cast(at - low, work)

    def outside(self, i: Expr) -> Expr:
        if not self.crops:
            return const(False, BOOL)
        at = self.position(i)
        return (at < 0) | (at > self.size - 1)


def _dyadic(at: np.ndarray) -> tuple[Fraction, Fraction] | None:
    """(a, b) with at[i] = a * i + b exactly, both over a small power of two; None where there are none such."""
    if not len(at):
        return None
    a, b = Fraction(float(at[1] - at[0])) if len(at) > 1 else Fraction(0), Fraction(float(at[0]))
    if max(a.denominator, b.denominator) > 1024 or not np.array_equal(at, float(a) * np.arange(len(at)) + float(b)):
        return None
    return a, b


def _lcm(*fractions: Fraction) -> int:
    return max(f.denominator for f in fractions)  # powers of two


@fuses
def _cubic_near(d: Expr, a: float) -> Expr:
    return ((a + 2) * d - (a + 3)) * (d * d) + 1


@fuses
def _cubic_far(d: Expr, a: float) -> Expr:
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


def _keys_cubic(d: Expr, a: float) -> Expr:
    """Keys' cubic convolution kernel at a non-negative distance."""
    return select(d <= 1, _cubic_near(d, a), select(d < 2, _cubic_far(d, a), 0))


def _weights(part: Expr, mode: str, a: float) -> list[Expr]:
    """The weights of the neighbours of a coordinate `part` beyond one of them: two linear ones, or Keys' four."""
    if mode == "linear":
        return [1 - part, part]
    return [_cubic_far(part + 1, a), _cubic_near(part, a), _cubic_near(1 - part, a), _cubic_far(2 - part, a)]


def _interpolated(o: OpView, axis: _Axis, i: Expr, element: Callable[[Expr], Expr], work: DType) -> Expr:
    """The sum of weight * element(source index) over the taps of one axis."""
    low, part = axis.split(i, work)
    reach = 1 if o.mode == "linear" else 2
    first = int(np.floor(-reach / axis.shrink)) + 1 if axis.shrink else 1 - reach
    count = 2 - first - first

    fixed = _weights(part, o.mode, o.cubic_a)

    def weight(k: Expr) -> Expr:
        offset = k + first
        if axis.shrink == 1:
            assert isinstance(k, Const)
            w = fixed[k.value]
        else:
            d = call("abs", cast(offset, work) - part) * axis.shrink
            w = maximum(1 - d, 0) if o.mode == "linear" else _keys_cubic(d, o.cubic_a)
        return select(inside(low + offset, axis.size), w, 0) if o.exclude_outside else w

    def term(k: Expr) -> Expr:
        return element(clamp(low + (k + first), 0, axis.size - 1)) * weight(k)

    def total(of: Callable[[Expr], Expr]) -> Expr:
        if count > UNROLLED_TAPS:
            return reduce("sum", [count], of)
        out = of(const(0, INDEX))
        for k in range(1, count):
            one = of(const(k, INDEX))
            # Integers are rounded in the end: a sum next to a half must come out as the reference's, which rounds each product.
            out = combine("sum", out, one) if o.types[0].dtype.is_float else out + one
        return out

    if not (o.exclude_outside or o.antialias):
        return total(term)
    weights = total(weight)
    return total(term) / select(weights.eq(0), 1, weights)


@compute("resize")
def resize(o: OpView, *i: Expr) -> Expr:
    """One axis after the other, the last one outermost, as the reference sums."""
    if leaves_alone(o.shape("x"), o):
        return o.x(*i)
    axes = [_Axis(o, k) for k in range(len(o.axes))]
    work = o.dtype if o.mode == "nearest" else _work_dtype(o)

    def level(k: int, at: list[Expr]) -> Expr:
        if k < 0:
            return cast(o.x(*at), work)
        axis, d = axes[k], o.axes[k]

        def element(source: Expr) -> Expr:
            return level(k - 1, [*at[:d], source, *at[d + 1:]])

        if axis.is_identity:
            return element(at[d])
        if o.mode == "nearest":
            return element(axis.nearest(at[d], o.nearest))
        return _interpolated(o, axis, at[d], element, work)

    value = level(len(axes) - 1, list(i))
    for d, axis in zip(o.axes, axes):
        value = select(axis.outside(i[d]), const(o.extrapolation, work), value)
    return _rounded(value, o.dtype)


# Grid sampling ------------------------------------------------------------------------------
Tap = tuple[Expr, Expr, Expr]  # source index, weight, whether it lies inside


def _reflect(at: Expr, low: float, high: float) -> Expr:
    """Mirror a coordinate at both borders until it lies between them."""
    if high <= low:
        return const(0, at.dtype)
    span = high - low
    distance = call("abs", at - low)
    extra, flips = call("fmod", distance, const(span, at.dtype)), call("floor", distance / span)
    odd = (flips - 2 * call("floor", flips * 0.5)).ne(0)
    return select(odd, high - extra, extra + low)


def _padded(at: Expr, size: int, padding: str, align_corners: bool) -> Expr:
    if padding == "zeros":
        return at
    if padding == "reflection":
        at = _reflect(at, 0, size - 1) if align_corners else _reflect(at, -0.5, size - 0.5)
    return minimum(maximum(at, 0), size - 1)


def _grid_taps(o: OpView, g: Expr, size: int, work: DType) -> list[Tap]:
    """The source elements that a normalised coordinate takes from one axis."""
    at = (g + 1) / 2 * (size - 1) if o.align_corners else ((g + 1) * size - 1) / 2
    # Far outside is as good as infinitely far, and fits an integer; NaN lies outside.
    at = minimum(maximum(select(call("isnan", at), -1e9, at), -1e9), 1e9)
    places: list[Expr]
    weights: list[Expr]
    if o.mode == "cubic":
        low = call("floor", at)
        part = cast(at - low, work)
        places = [_padded(low + k, size, o.padding, o.align_corners) for k in (-1, 0, 1, 2)]
        weights = _weights(part, "cubic", -0.75)
    else:
        at = _padded(at, size, o.padding, o.align_corners)
        if o.mode == "nearest":
            places, weights = [call("round", at)], [const(1, work)]
        else:
            low = call("floor", at)
            part = cast(at - low, work)
            places, weights = [low, low + 1], _weights(part, "linear", 0)
    return [(clamp(cast(p, INDEX), 0, size - 1), w, (p >= 0) & (p <= size - 1)) for p, w in zip(places, weights)]


@compute("grid_sample")
def grid_sample(o: OpView, *i: Expr) -> Expr:
    n, c, *point = i
    sizes = o.shape("x")[2:]
    work = o.dtype if o.mode == "nearest" else _work_dtype(o)
    if not all(sizes):
        return const(0, o.dtype)
    axes = [_grid_taps(o, o.grid(n, *point, const(len(sizes) - 1 - k, INDEX)), size, work) for k, size in enumerate(sizes)]

    def corners(k: int, chosen: list[Tap]) -> Expr:
        if k < len(axes):
            parts = [corners(k + 1, [*chosen, tap]) for tap in axes[k]]
            out = parts[0]
            for p in parts[1:]:
                out = out + p
            return out
        value = cast(o.x(n, c, *(place for place, _, _ in chosen)), work)
        if o.mode != "nearest":
            weight = chosen[0][1]
            for _, w, _ in chosen[1:]:
                weight = weight * w
            value = value * weight
        return select(all_of([hit for _, _, hit in chosen]), value, 0)

    return _rounded(corners(0, []), o.dtype)


# Regions of interest ------------------------------------------------------------------------
MOST_SAMPLES = 1 << 16  # a bin: bounds the loop where a box is not a number


def _bilinear(at: Expr, size: int) -> list[tuple[Expr, Expr]]:
    """(index, weight) of the neighbours of a coordinate; weights are zero more than one outside."""
    valid = (at >= -1) & (at <= size)
    held = select(valid, minimum(maximum(at, 0), size - 1), 0)
    low = call("floor", held)
    part = held - low
    index = clamp(cast(low, INDEX), 0, size - 1)
    return [(index, select(valid, 1 - part, 0)), (minimum(index + 1, size - 1), select(valid, part, 0))]


def _lets(values: Sequence[tuple[str, Expr]], body: Callable[..., Stmt], bound: tuple[Expr, ...] = ()) -> Stmt:
    """`body` of variables bound to the values."""
    if len(bound) == len(values):
        return body(*bound)
    name, value = values[len(bound)]
    return let(name, value, lambda v: _lets(values, body, (*bound, v)))


@loops("roi_align")
def roi_align(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer]) -> Stmt:
    x, rois, batch_indices = ins
    images, _, height, width = x.shape
    rows, columns = o.output
    y = outs[0]
    empty = not (height and width and images)

    def edge(r: Expr, k: int) -> Expr:
        return cast(read(rois, r, k), F64) * o.scale - (0.5 if o.half_pixel else 0.0)

    def samples(extent: Expr, bins: int) -> Expr:
        if o.sampling_ratio > 0:
            return const(o.sampling_ratio, INDEX)
        most = minimum(maximum(call("ceil", extent / bins), 0), MOST_SAMPLES)
        return cast(select(call("isnan", most), 0, most), INDEX)

    def extent(begin: Expr, end: Expr) -> Expr:
        return end - begin if o.half_pixel else maximum(end - begin, 1)

    def region(r: Expr) -> Stmt:
        def corners(left: Expr, top: Expr, right: Expr, bottom: Expr, image: Expr) -> Stmt:
            return _lets([("tall", extent(top, bottom)), ("broad", extent(left, right))],
                         lambda tall, broad: _lets([("fy", samples(tall, rows)), ("fx", samples(broad, columns))],
                                                   lambda fy, fx: bins(left, top, tall, broad, fy, fx, image)))

        def bins(left: Expr, top: Expr, tall: Expr, broad: Expr, fy: Expr, fx: Expr, image: Expr) -> Stmt:
            down, across = (top, tall, fy, rows, height), (left, broad, fx, columns, width)
            return nest((x.shape[1], rows, columns), lambda c, p, q: one(c, p, q, down, across, image, r), ("c", "p", "q"))

        return _lets([("left", edge(r, 0)), ("top", edge(r, 1)), ("right", edge(r, 2)), ("bottom", edge(r, 3)),
                      ("image", wrapped(batch_indices[r], images))], corners)

    def place(bin_: Expr, k: Expr, begin: Expr, span: Expr, count: Expr, bins: int) -> Expr:
        step = span / bins
        return begin + cast(bin_, F64) * step + (cast(k, F64) + 0.5) * (step / cast(count, F64))

    def one(c: Expr, p: Expr, q: Expr, down: tuple, across: tuple, image: Expr, r: Expr) -> Stmt:
        count = down[2] * across[2]

        def over(acc: Buffer) -> Stmt:
            def sample(yy: Expr, xx: Expr) -> Stmt:
                terms = [cast(read(x, image, c, iy, ix), F64) * (wy * wx)
                         for iy, wy in _bilinear(yy, height) for ix, wx in _bilinear(xx, width)]
                new: Expr = acc[0]
                for t in terms:
                    new = combine("sum", new, t) if o.mode == "avg" else maximum(new, t)
                return write(acc, [0], new)

            visit = loop(down[2], lambda ky: let("yy", place(p, ky, *down[:4]), lambda yy: loop(
                across[2], lambda kx: let("xx", place(q, kx, *across[:4]), lambda xx: sample(yy, xx)), name="kx")), name="ky")
            value = acc[0] / cast(maximum(count, 1), F64) if o.mode == "avg" else select(count > 0, acc[0], 0)
            return seq(write(acc, [0], const(0 if o.mode == "avg" else -np.inf, F64)), visit, write(y, [r, c, p, q], value))

        return alloc("acc", F64, (1,), over)

    if empty:
        return nest(y.shape, lambda *i: write(y, i, const(0, F64)))
    per_region = x.shape[1] * rows * columns * max(o.sampling_ratio, 2) ** 2 * 16
    return loop(y.shape[0], region, Scope.PARALLEL if per_region > 1 << 16 else Scope.SERIAL, name="r")
