"""The table of ONNX operators: an entry is a small function from (builder, node) to values.

    @entry("Clip", since=11)
    def clip(b, n): ...

`since` is the opset version from which the entry holds, up to the next one of the same operator.
Operators that are functions in ONNX's own schemas need no entry; they are expanded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphopt.cache import store
from graphopt.ir.graph import Value

if TYPE_CHECKING:
    from graphopt.capture.onnx.context import Context, Node

Results = Value | Sequence[Value | None]
Entry = Callable[["Context", "Node"], Results]

_ENTRIES: dict[tuple[str, str], list[tuple[int, Entry]]] = {}


class Defer(Exception):
    """Raised by an entry that cannot go on: `values` are control operands not known at capture, or none if a shape is not."""

    def __init__(self, reason: str, *values: Value) -> None:
        super().__init__(reason)
        self.reason, self.values = reason, values


class Expand(Exception):
    """Raised by an entry that leaves this form of the operator to the function body in ONNX's schema."""


def entry(*names: str, since: int = 1, domain: str = "") -> Callable[[Entry], Entry]:
    """Register the decorated function for the named operators from opset `since` on."""

    def add(f: Entry) -> Entry:
        store.extends(f)
        for name in names:
            rows = _ENTRIES.setdefault((domain, name), [])
            rows.append((since, f))
            rows.sort(key=lambda row: -row[0])
        return f

    return add


def find(domain: str, name: str, version: int) -> Entry | None:
    """The entry that holds at this opset version, or None."""
    return next((f for since, f in _ENTRIES.get((domain, name), ()) if since <= version), None)


def domain_of(name: str) -> str:
    """`ai.onnx` is the long name of the default domain."""
    return "" if name == "ai.onnx" else name


__all__ = ["Defer", "Entry", "Expand", "Results", "domain_of", "entry", "find"]
