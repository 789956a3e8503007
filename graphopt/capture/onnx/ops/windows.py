"""Window parameters of convolutions and pools."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.capture.onnx.context import Node
from graphopt.capture.onnx.table import Defer
from graphopt.ir.dims import Dim, DimLike


@dataclass(frozen=True)
class Window:
    """Per spatial axis; `pad` is begins then ends."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    def attrs(self) -> dict[str, tuple[int, ...]]:
        """Attributes of a convolution: all but the kernel's size, which its weights have."""
        return {"stride": self.stride, "pad": self.pad, "dilation": self.dilation}


def window(n: Node, space: tuple[DimLike, ...], kernel: tuple[DimLike, ...] | None = None) -> Window:
    """The window of a node over these spatial sizes; `auto_pad` is resolved, which may need static sizes.

    SAME_UPPER and SAME_LOWER pad as much as the kernel reaches over the image, never less than nothing. The kernel of a pool (one
    that has no `kernel` given) counts as if it were not dilated: the specification has ceil(size / stride) results then too, but
    onnxruntime, which files are made for, and ONNX's reference have fewer. (onnxruntime refuses such convolutions.)
    """
    k = len(space)
    given = n.attr("kernel_shape", None) or kernel
    if given is None or any(isinstance(d, Dim) for d in given):
        raise Defer("the kernel's size is not known")
    size = tuple(int(d) for d in given)  # type: ignore[arg-type]
    stride = tuple(n.attr("strides", None) or [1] * k)
    dilation = tuple(n.attr("dilations", None) or [1] * k)
    auto = n.attr("auto_pad", "NOTSET") or "NOTSET"
    if auto == "NOTSET":
        pad = tuple(n.attr("pads", None) or [0] * (2 * k))
    elif auto == "VALID":
        pad = (0,) * (2 * k)
    else:
        begins, ends = [], []
        for d, w, s, r in zip(space, size, stride, dilation):
            reach = (r * (w - 1) if kernel is not None else w - 1) + 1
            if isinstance(d, int):
                total = max((-(-d // s) - 1) * s + reach - d, 0)
            elif s == 1:
                total = reach - 1
            else:
                raise Defer(f"auto_pad={auto} depends on a size that is not known")
            less, more = total // 2, total - total // 2
            begins.append(less if auto == "SAME_UPPER" else more)
            ends.append(more if auto == "SAME_UPPER" else less)
        pad = (*begins, *ends)
    if not len(size) == len(stride) == len(dilation) == k or len(pad) != 2 * k:
        raise n.error(f"has {k} spatial axes, but kernel {size}, strides {stride}, dilations {dilation}, pads {pad}")
    return Window(size, stride, pad, dilation)
