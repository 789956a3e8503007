"""What a convolution is to compute, whatever kernel does it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import Expr
from graphopt.ir.graph import Op


@dataclass(frozen=True)
class Problem:
    """`channels` and `outs` are those of one of the `groups`; `image`, `pixels_shape`, `window`, `stride`, `dilation` and the
    padding `before` and `after` have one number for each axis of space."""

    batch: int
    groups: int
    channels: int
    outs: int
    image: tuple[int, ...]
    pixels_shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @staticmethod
    def of(conv: Op) -> Problem:
        """That of an op `conv` of static shapes."""
        x, w = conv.operands[:2]
        assert x is not None and w is not None
        groups, pad, spatial = conv.attrs["groups"], conv.attrs["pad"], len(x.static_shape) - 2
        return Problem(x.static_shape[0], groups, x.static_shape[1] // groups, conv.result.static_shape[1] // groups,
                       tuple(x.static_shape[2:]), tuple(conv.result.static_shape[2:]), tuple(w.static_shape[2:]),
                       tuple(conv.attrs["stride"]), tuple(conv.attrs["dilation"]), tuple(pad[:spatial]), tuple(pad[spatial:]))

    @property
    def is_padded_outside(self) -> bool:
        """Does the padding add to the image, or leave it as it is, rather than cut some of it away?"""
        return min(*self.before, *self.after, 0) >= 0

    @property
    def behind(self) -> tuple[int, ...]:
        """How far the last windows reach beyond the image; less than 0 where they do not see its end."""
        return tuple((o - 1) * s + (k - 1) * d + 1 - n - p for o, s, k, d, n, p in zip(
            self.pixels_shape, self.stride, self.window, self.dilation, self.image, self.before))

    def places(self, pixel: Sequence[Expr], window: Sequence[Expr]) -> list[Expr]:
        """Where in the image, from minus the padding on, a pixel of the result reads at a position of its window."""
        return [i * s - q + o * d for i, s, q, o, d in zip(pixel, self.stride, self.before, window, self.dilation)]

    @property
    def padded(self) -> tuple[int, ...]:
        """The image with its padding."""
        return tuple(n + p + q for n, p, q in zip(self.image, self.before, self.after))

    @property
    def pixels(self) -> int:
        """Of a channel of the result."""
        return math.prod(self.pixels_shape)

    @property
    def depth(self) -> int:
        """Products in the sum that an element of the result is."""
        return self.channels * math.prod(self.window)

    @property
    def images(self) -> int:
        """Products of matrices: one for each image and group."""
        return self.batch * self.groups

    @property
    def multiply_adds(self) -> int:
        return self.images * self.outs * self.pixels * self.depth

    @property
    def span(self) -> int:
        """Elements of the padded plane from the first output pixel's to the last one's, of stride 1."""
        last = 0
        for n, o in zip(self.padded, self.pixels_shape):
            last = last * n + o - 1
        return last + 1

    @property
    def slides(self) -> bool:
        """Is it a window of more than one element, of stride 1, on a line or a plane?"""
        return len(self.image) <= 2 and all(s == 1 for s in self.stride) and math.prod(self.window) > 1

    @property
    def reads_in_place(self) -> bool:
        """Are the pixels that it reads the image's own, one for one?"""
        return all(k == 1 for k in self.window) and all(s == 1 for s in self.stride) and self.padded == self.image


__all__ = ["Problem"]
