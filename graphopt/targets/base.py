"""What every target says of itself."""

from __future__ import annotations

from dataclasses import dataclass


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
