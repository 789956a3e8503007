"""What every target says of itself."""

from __future__ import annotations

from dataclasses import dataclass

LINE = 64  # bytes of a cache line
ALIASING = 1024  # bytes between pixels, and multiples of it, at which a dozen of them crowd into a few sets of an L1 cache


@dataclass(frozen=True)
class Target:
    """`kind` is x86, cuda or fpga; `name` the full text that parse_target reads."""

    kind: str
    name: str

    def with_threads(self, threads: int) -> Target:
        """The same for so many threads; the same where threads are none of its business."""
        return self

    def without_winograd(self) -> Target:
        """The same, forbidden to convolve by Winograd's algorithm, if it could."""
        return self


def room_between(channels: int, itemsize: int) -> int:
    """Elements to leave free after every pixel of a channels-last image, so that pixels do not crowd into few sets."""
    return LINE // itemsize if channels * itemsize % ALIASING == 0 else 0


@dataclass(frozen=True)
class Choice:
    """What an op costs in cycles, computed row-major or channels last.

    `last` is None where it cannot be. `reads` says how each operand is read: "same" (in the op's own layout), "row"
    (row-major whatever the op's), or "either" (as it comes where the op is channels last, row-major otherwise).
    `result` is False where the result is row-major always, as that of a transpose to channels last.
    """

    row: float
    last: float | None
    reads: tuple[str, ...]
    result: bool = True
