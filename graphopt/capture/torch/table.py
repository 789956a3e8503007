"""The table of ATen operators: one small function an operator, registered by its full name.

    @aten("aten.add.Tensor", "aten.add.Scalar")
    def _(c, x, other, alpha=1): ...

Parameters bear the names of the operator's schema (`self`, and the `a` of prims, is spelled `x`), defaults are the schema's; a
function names only those that it needs. `c` is the Context. It returns the result, a tuple of results where
the operator has several (None for one that is not provided), or raises Refusal.
What has an entry is kept whole when a program is decomposed; everything else torch decomposes first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

Handler = Callable[..., Any]
ATEN: dict[str, Handler] = {}
COMPLEX: dict[str, Handler] = {}  # the same for complex operands or results, which come as pairs of values
_PARAMETERS: dict[Handler, frozenset[str]] = {}


class Refusal(Exception):
    """An operator that has an entry, used in a way that the entry does not cover; collected with the unknown ones."""


def aten(*names: str) -> Callable[[Handler], Handler]:
    """Register a function for operators given as `namespace.name.overload`."""

    def add(handler: Handler) -> Handler:
        for name in names:
            if name in ATEN:
                raise KeyError(f"{name} is in the table twice")
            ATEN[name] = handler
        _PARAMETERS[handler] = frozenset(list(inspect.signature(handler).parameters)[1:])
        return handler

    return add


def aten_complex(*names: str) -> Callable[[Handler], Handler]:
    """Register a function for these operators where an operand or a result is complex. Operands may be real as well; complex
    ones are `graphopt.capture.torch.pairs.Complex`, and so is a complex result. What has no entry here but one in ATEN, and only
    moves elements, is done to both parts."""

    def add(handler: Handler) -> Handler:
        for name in names:
            if name in COMPLEX:
                raise KeyError(f"{name} is in the table of complex operators twice")
            COMPLEX[name] = handler
        _PARAMETERS[handler] = frozenset(list(inspect.signature(handler).parameters)[1:])
        return handler

    return add


def has_entry(name: str) -> bool:
    """Is an operator kept whole?"""
    return name in ATEN or name in COMPLEX


def parameters(handler: Handler) -> frozenset[str]:
    """Names of the schema arguments that a handler takes."""
    return _PARAMETERS[handler]


def parameter(schema_name: str) -> str:
    """What a handler calls a schema's argument."""
    return "x" if schema_name in ("self", "a") else schema_name


def arguments(target: Any, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an OpOverload by schema name (`self`, and the `a` of prims, as `x`), defaults filled in."""
    out: dict[str, Any] = {}
    for i, a in enumerate(target._schema.arguments):
        name = parameter(a.name)
        if i < len(args) and not a.kwarg_only:
            out[name] = args[i]
        elif a.name in kwargs:
            out[name] = kwargs[a.name]
        else:
            out[name] = a.default_value if a.has_default_value() else None
    return out
