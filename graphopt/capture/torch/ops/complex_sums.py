"""Sums and products of complex tensors: along axes, of matrices, and convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.capture.torch.context import Context, Refusal, axis_of, product
from graphopt.capture.torch.ops import convolution, reduction  # noqa: F401  (their entries)
from graphopt.capture.torch.ops.complex import added, complex_of, modulus, operands, shaped, times
from graphopt.capture.torch.pairs import Complex, both
from graphopt.capture.torch.table import ATEN, aten_complex, parameters
from graphopt.ir.graph import Value

Z = Complex


# Reductions ---------------------------------------------------------------------------------------
def _linear(*names: str) -> None:
    """Entries that are linear in `x`: done to both parts."""
    for name in names:
        def entry(c: Context, x: Any, dim: Any = None, keepdim: bool = False, handler: Any = ATEN[name]) -> Any:
            given = {"x": complex_of(c, x), "dim": dim, "keepdim": keepdim}
            return both(c, handler, {k: v for k, v in given.items() if k in parameters(handler)})
        aten_complex(name)(entry)


_linear("aten.sum.default", "aten.sum.dim_IntList", "aten.mean.default", "aten.mean.dim", "aten.cumsum.default")


@aten_complex("aten.prod.default", "aten.prod.dim_int")
def _(c: Context, x: Any, dim: Any = None, keepdim: bool = False) -> Z:
    """Halves of the axis are multiplied until one element is left."""
    z = complex_of(c, x)
    if z.rank == 0:
        return z
    if dim is None:
        z, axis = z.each(lambda v: c.reshape(v, (product(v.shape),))), 0
    else:
        axis = axis_of(dim, z.rank)
    one = complex_of(c, 1)
    size = z.shape[axis]
    if not isinstance(size, int):
        raise Refusal("a product over a symbolic dim")
    if size == 0:
        return shaped(c, one)
    while size > 1:
        half = size // 2
        low, high, odd = (_cut(c, z, axis, *ends) for ends in ((0, half), (half, 2 * half), (2 * half, size)))
        z = times(c, low, high)
        if size % 2:
            z = Z(c.concat([z.re, odd.re], axis), c.concat([z.im, odd.im], axis))
        size -= half
    return z.each(lambda v: c.reshape(v, c.shape))


@aten_complex("aten.cumprod.default")
def _(c: Context, x: Any, dim: int) -> Z:
    """Each element with that a power of two before it, as many times as it takes."""
    z = complex_of(c, x)
    if z.rank == 0:
        return z
    axis = axis_of(dim, z.rank)
    size = z.shape[axis]
    if not isinstance(size, int):
        raise Refusal("a product over a symbolic dim")
    step = 1
    while step < size:
        first, before, later = (_cut(c, z, axis, *ends) for ends in ((0, step), (0, size - step), (step, size)))
        later = times(c, before, later)
        z = Z(c.concat([first.re, later.re], axis), c.concat([first.im, later.im], axis))
        step *= 2
    return z


def _cut(c: Context, z: Z, axis: int, start: int, end: int) -> Z:
    return z.each(lambda v: c.slice(v, axis, start, end))


@aten_complex("aten.var.correction", "aten.var.dim", "aten.var.default")
def _(c: Context, x: Z, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return _variance(c, x, dim, correction, unbiased, keepdim)


@aten_complex("aten.std.correction", "aten.std.dim", "aten.std.default")
def _(c: Context, x: Z, dim: Any = None, correction: Any = None, unbiased: Any = None, keepdim: bool = False) -> Value:
    return c.b.sqrt(_variance(c, x, dim, correction, unbiased, keepdim))


def _variance(c: Context, x: Z, dim: Any, correction: Any, unbiased: Any, keepdim: bool) -> Value:
    """That of the parts, added."""
    return c.b.add(*(ATEN["aten.var.correction"](c, v, dim, correction, unbiased, keepdim) for v in (x.re, x.im)))


@aten_complex("aten.linalg_vector_norm.default")
def _(c: Context, x: Z, ord: float = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.linalg_vector_norm.default"](c, _sizes(c, x), ord, dim, keepdim)


@aten_complex("aten.norm.ScalarOpt_dim", "aten.norm.Scalar", "aten.norm.ScalarOpt_dtype", "aten.norm.ScalarOpt_dim_dtype")
def _(c: Context, x: Z, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Value:
    return ATEN["aten.norm.ScalarOpt_dim"](c, _sizes(c, x), p, dim, keepdim)


def _sizes(c: Context, x: Z) -> Value:
    return modulus(c, complex_of(c, x))


# Products -----------------------------------------------------------------------------------------
def _bilinear(c: Context, f: Callable[[Value, Value], Value], a: Z, b: Z) -> Z:
    return Z(c.b.sub(f(a.re, b.re), f(a.im, b.im)), c.b.add(f(a.re, b.im), f(a.im, b.re)))


def _matmul(c: Context, a: Any, b: Any) -> Z:
    return _bilinear(c, lambda x, y: ATEN["aten.matmul.default"](c, x, y), *operands(c, a, b))


@aten_complex("aten.mm.default", "aten.bmm.default", "aten.mv.default", "aten.dot.default", "aten.matmul.default",
              "aten.linalg_matmul.default")
def _(c: Context, x: Any, mat2: Any = None, vec: Any = None, tensor: Any = None, other: Any = None) -> Z:
    return _matmul(c, x, next(v for v in (mat2, vec, tensor, other) if v is not None))


@aten_complex("aten.vdot.default")
def _(c: Context, x: Any, other: Any) -> Z:
    a = complex_of(c, x)
    return _matmul(c, Z(a.re, c.b.neg(a.im)), other)


@aten_complex("aten.linear.default")
def _(c: Context, input: Any, weight: Any, bias: Any = None) -> Z:
    out = _matmul(c, input, complex_of(c, weight).each(lambda v: c.swap(v, 0, 1) if v.rank == 2 else v))
    return out if bias is None else added(c, out, complex_of(c, bias))


@aten_complex("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default", "aten.addbmm.default")
def _(c: Context, x: Any, mat1: Any = None, mat2: Any = None, batch1: Any = None, batch2: Any = None, mat: Any = None,
      vec: Any = None, beta: Any = 1, alpha: Any = 1) -> Z:
    out = _matmul(c, next(v for v in (mat1, batch1, mat) if v is not None), next(v for v in (mat2, batch2, vec) if v is not None))
    if out.rank > len(c.shape):  # addbmm adds up the batch
        out = out.each(lambda v: c.b.reduce_sum(v, axes=(0,)))
    out = out if alpha == 1 else times(c, out, complex_of(c, alpha))
    if beta == 0:
        return out
    x = complex_of(c, x)
    return added(c, out, x if beta == 1 else times(c, x, complex_of(c, beta)))


@aten_complex("aten.outer.default", "aten.ger.default")
def _(c: Context, x: Any, vec2: Any) -> Z:
    a, b = operands(c, x, vec2)
    return times(c, a.each(lambda v: c.unsqueeze(v, 1)), b.each(lambda v: c.unsqueeze(v, 0)))


def _convolution(*names: str) -> None:
    """Four real convolutions; the bias goes with the last two."""
    for name in names:
        handler = ATEN[name]
        taken = parameters(handler)

        def entry(c: Context, input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                  transposed: bool = False, output_padding: Any = 0, groups: int = 1, *, handler: Any = handler,
                  taken: Any = taken) -> Z:
            options = {"stride": stride, "padding": padding, "dilation": dilation, "transposed": transposed,
                       "output_padding": output_padding, "groups": groups}
            given = {k: v for k, v in options.items() if k in taken}
            out = _bilinear(c, lambda x, w: handler(c, input=x, weight=w, bias=None, **given), *operands(c, input, weight))
            if bias is None:
                return out
            spatial = weight.rank - 2
            per_channel = complex_of(c, bias).each(lambda v: c.reshape(v, (v.shape[0], *[1] * spatial)))
            return added(c, out, per_channel)

        aten_complex(name)(entry)


_convolution("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv1d.padding", "aten.conv2d.padding",
             "aten.conv3d.padding", "aten.convolution.default", "aten.conv_transpose1d.default", "aten.conv_transpose2d.input",
             "aten.conv_transpose3d.input")
