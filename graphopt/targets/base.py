"""What every target says of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`kind` is x86, cuda or fpga; `name` the full text that parse_target reads."""

    kind: str
    name: str
