"""Contractions as plain sums of products: exact meaning, any dtype. Targets replace the large ones by templates."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.codegen.kernel.expr import INDEX, Expr, call, cast, clamp, const, reduce, select
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.lower.common import ZERO, all_of, guarded, inside
from graphopt.codegen.lower.registry import OpView, compute
from graphopt.ir.types import DType


def _batch(index: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    """The batch index of an operand whose batch dims `shape` broadcast to `index`."""
    own = index[len(index) - len(shape):]
    return [ZERO if n == 1 else i for i, n in zip(own, shape)]


@compute("matmul")
def matmul(o: OpView, *i: Expr) -> Expr:
    *batch, row, column = i
    a, b = o.shape("a"), o.shape("b")
    ia, ib = _batch(batch, a[:-2]), _batch(batch, b[:-2])
    d = _sums(o)
    return reduce("sum", [a[-1]], lambda k: cast(o.a(*ia, row, k), d) * cast(o.b(*ib, k, column), d))


def _sums(o: OpView) -> DType:
    """What the op's definition says that products are computed and added up in."""
    return o.op.definition.sum_dtype(o.op.view())


def _group(channel: Expr, out_channels: int, in_channels: int, groups: int) -> tuple[Expr, int]:
    """(first input channel of the group that an output channel belongs to, input channels in a group)."""
    per = in_channels // groups
    return (ZERO if groups == 1 else channel // (out_channels // groups) * per), per


def _with_bias(o: OpView, total: Expr, channel: Expr) -> Expr:
    return total if o.bias is None else total + o.bias(channel)


@compute("conv")
def conv(o: OpView, *i: Expr) -> Expr:
    n, oc, *at = i
    x, w = o.shape("x"), o.shape("w")
    first, per = _group(oc, w[0], x[1], o.groups)
    d = _sums(o)

    def term(c: Expr, *k: Expr) -> Expr:
        positions = [p * s - b + q * d for p, s, b, q, d in zip(at, o.stride, o.pad, k, o.dilation)]
        pixel = guarded(lambda *held: o.x(n, first + c, *held), positions, x[2:], 0)
        return cast(pixel, d) * cast(o.w(oc, c, *k), d)

    return _with_bias(o, reduce("sum", [per, *w[2:]], term), oc)


def _strided_back(at: Sequence[Expr], o: OpView, k: Sequence[Expr], sizes: Sequence[int]) -> tuple[Expr, list[Expr]]:
    """Whether kernel offset `k` maps some source position onto `at`, and which (held inside 0..size-1)."""
    conditions, positions = [], []
    for p, s, b, q, d, n in zip(at, o.stride, o.pad, k, o.dilation, sizes):
        reach = p + b - q * d
        position = reach // s
        if s > 1:
            conditions.append((reach % s).eq(0))
        conditions.append(inside(position, n))
        positions.append(position)
    return all_of(conditions), [clamp(p, 0, max(n - 1, 0)) for p, n in zip(positions, sizes)]


@compute("conv_transpose")
def conv_transpose(o: OpView, *i: Expr) -> Expr:
    """Gathered: every output position sums the inputs that the strided kernel would have scattered onto it."""
    n, oc, *at = i
    x, w = o.shape("x"), o.shape("w")
    per_out = w[1]
    group = ZERO if o.groups == 1 else oc // per_out
    per_in, d = x[1] // o.groups, _sums(o)

    def term(c: Expr, *k: Expr) -> Expr:
        hit, held = _strided_back(at, o, k, x[2:])
        channel = group * per_in + c
        product = cast(o.x(n, channel, *held), d) * cast(o.w(channel, oc - group * per_out, *k), d)
        return select(hit, product, const(0, product.dtype))

    return _with_bias(o, reduce("sum", [per_in, *w[2:]], term), oc)


@compute("col2im")
def col2im(o: OpView, *i: Expr) -> Expr:
    """x [N, C * prod(block), L]: each image element sums the block elements that cover it."""
    n, c, *at = i
    block = o.block
    spatial = len(block)
    blocks = [(size + o.pad[d] + o.pad[d + spatial] - o.dilation[d] * (block[d] - 1) - 1) // o.stride[d] + 1
              for d, size in enumerate(o.image)]
    volume = 1
    for size in block:
        volume *= size

    def term(*k: Expr) -> Expr:
        hit, held = _strided_back(at, o, k, blocks)
        element = o.x(n, c * volume + flat_index(k, block), flat_index(held, blocks))
        return select(hit, element, const(0, element.dtype))

    return reduce("sum", list(block), term)



def _deformed_tap(o: OpView, n: Expr, channel: Expr, group: Expr, tap: Expr, base: Sequence[Expr], at: Sequence[Expr]) -> Expr:
    """x sampled bilinearly at `base` moved by the offsets of this tap, zero outside, scaled by the mask."""
    height, width = o.shape("x")[2:]
    taps = o.shape("w")[2] * o.shape("w")[3]
    row = (group * taps + tap) * 2
    d = o.dtype
    y = cast(base[0], d) + o.offset(n, row, *at)
    x = cast(base[1], d) + o.offset(n, row + 1, *at)
    y0, x0 = call("floor", y), call("floor", x)
    total: Expr = const(0, d)
    for yy, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
        for xx, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
            hit = (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
            row_at = clamp(cast(select(hit, yy, 0), INDEX), 0, max(height - 1, 0))
            column_at = clamp(cast(select(hit, xx, 0), INDEX), 0, max(width - 1, 0))
            total = total + select(hit, o.x(n, channel, row_at, column_at) * (wy * wx), 0)
    return total if o.mask is None else total * o.mask(n, group * taps + tap, *at)


@compute("deform_conv")
def deform_conv(o: OpView, *i: Expr) -> Expr:
    n, oc, *at = i
    x, w = o.shape("x"), o.shape("w")
    first, per = _group(oc, w[0], x[1], o.groups)

    def term(c: Expr, *k: Expr) -> Expr:
        channel = first + c
        base = [p * s - b + q * d for p, s, b, q, d in zip(at, o.stride, o.pad, k, o.dilation)]
        group = ZERO if o.offset_groups == 1 else channel // (x[1] // o.offset_groups)
        return _deformed_tap(o, n, channel, group, flat_index(k, w[2:]), base, at) * o.w(oc, c, *k)

    return _with_bias(o, reduce("sum", [per, *w[2:]], term), oc)
