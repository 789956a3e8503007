"""Convolutions, plain, transposed and deformable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value


def spread(v: Any, n: int) -> list[int]:
    """A number or list as `n` numbers."""
    v = [v] if isinstance(v, int) else list(v)
    return v * n if len(v) == 1 else v


@aten("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default")
def _(c: Context, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
      groups: int = 1) -> Value:
    n = weight.rank - 2
    pad = spread(padding, n)
    return _conv(c, input, weight, bias, spread(stride, n), pad + pad, spread(dilation, n), groups)


@aten("aten.conv1d.padding", "aten.conv2d.padding", "aten.conv3d.padding")
def _(c: Context, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: str = "valid",
      dilation: Any = 1, groups: int = 1) -> Value:
    n = weight.rank - 2
    dilation = spread(dilation, n)
    total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, weight.shape[2:])]
    pad = [t // 2 for t in total] + [t - t // 2 for t in total]
    return _conv(c, input, weight, bias, spread(stride, n), pad, dilation, groups)


@aten("aten.convolution.default", "aten._convolution.default")
def _(c: Context, input: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
      output_padding: Any, groups: int) -> Value:
    n = weight.rank - 2
    stride, pad, dilation = spread(stride, n), spread(padding, n), spread(dilation, n)
    if transposed:
        return _conv_transpose(c, input, weight, bias, stride, pad, spread(output_padding, n), groups, dilation)
    return _conv(c, input, weight, bias, stride, pad + pad, dilation, groups)


@aten("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def _(c: Context, input: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
      output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Value:
    n = weight.rank - 2
    return _conv_transpose(c, input, weight, bias, spread(stride, n), spread(padding, n), spread(output_padding, n), groups,
                           spread(dilation, n))


def _conv(c: Context, x: Value, w: Value, bias: Value | None, stride: list[int], pad: list[int], dilation: list[int],
          groups: int) -> Value:
    batched = x if x.rank == w.rank else c.unsqueeze(x, 0)
    return c.reshape(c.b.conv(batched, w, bias, stride=stride, pad=pad, dilation=dilation, groups=groups), c.shape)


def _conv_transpose(c: Context, x: Value, w: Value, bias: Value | None, stride: list[int], pad: list[int],
                    output_padding: list[int], groups: int, dilation: list[int]) -> Value:
    batched = x if x.rank == w.rank else c.unsqueeze(x, 0)
    out = c.b.conv_transpose(batched, w, bias, stride=stride, pad=pad + pad, dilation=dilation, output_padding=output_padding,
                             groups=groups)
    return c.reshape(out, c.shape)


@aten("torchvision.deform_conv2d.default")
def _(c: Context, input: Value, weight: Value, offset: Value, mask: Value, bias: Value, stride_h: int, stride_w: int, pad_h: int,
      pad_w: int, dilation_h: int, dilation_w: int, groups: int, offset_groups: int, use_mask: bool) -> Value:
    return c.b.deform_conv(input, weight, offset, bias, mask if use_mask else None, stride=[stride_h, stride_w],
                           pad=[pad_h, pad_w, pad_h, pad_w], dilation=[dilation_h, dilation_w], groups=groups,
                           offset_groups=offset_groups)


@aten("aten.conv_tbc.default")
def _(c: Context, x: Value, weight: Value, bias: Value, pad: int = 0) -> Value:
    """x [T, B, C], weight [K, C, O]: a convolution in time."""
    if x.rank != 3:
        raise Refusal("an input of another rank")
    image, kernel = c.permute(x, (1, 2, 0)), c.permute(weight, (2, 1, 0))
    return c.permute(c.b.conv(image, kernel, bias, stride=[1], pad=[pad, pad], dilation=[1], groups=1), (2, 0, 1))


__all__: Sequence[str] = ["spread"]
