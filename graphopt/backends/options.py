"""The arguments of `compile`, checked before any work."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from graphopt.errors import InputError, OutOfMemoryError

MOST = 1 << 20  # of whatever is counted


def refuse(unknown: Mapping[str, Any], of: Callable[..., Any]) -> None:
    """Refuse options that the function has none of, with those that it has."""
    if unknown:
        known = [p.name for p in inspect.signature(of).parameters.values() if p.kind is p.KEYWORD_ONLY]
        name = next(iter(unknown))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known)}"
        raise InputError(f"{of.__name__} has no option {name!r}", hint=hint)


def check_flags(**given: Any) -> None:
    """Refuse arguments that are neither True nor False."""
    for name, flag in given.items():
        if not isinstance(flag, bool):
            raise InputError(f"must be True or False, got {flag!r}", where=name)


def check_counts(**given: Any) -> None:
    """Refuse arguments that are neither None nor a whole number from 1 on."""
    for name, n in given.items():
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise InputError(f"must be a whole number of at least 1, got {n!r}", where=name)
        if n is not None and n > MOST:
            raise InputError(f"must be at most {MOST}, got {n}", where=name)


@contextmanager
def enough_memory() -> Iterator[None]:
    """What is done within runs out of memory by an error of ours."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as e:
        raise OutOfMemoryError("there is no memory to compile the model", hint="Its weights are held about twice while it is "
                               "compiled; give the process more, or compile where there is more") from e


__all__ = ["check_counts", "check_flags", "enough_memory", "refuse"]
