"""`mode=` and `options=` of torch.compile, as this backend understands them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

from torch._dynamo.exc import ShortenTraceback

from graphopt.errors import GraphOptError, InputError
from graphopt.measure.records import Records

# torch.compile's modes, and what they mean here: a call has no launches whose overhead a mode could reduce.
MODES: Mapping[str, Mapping[str, Any]] = {
    "default": {}, "reduce-overhead": {}, "max-autotune": {"tune": "fast"}, "max-autotune-no-cudagraphs": {"tune": "fast"},
}


class OptionError(InputError, ShortenTraceback):
    """A mode or an option that is not known, or has a wrong value. torch passes it on as it is, since it is of torch's kind."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        GraphOptError.__init__(self, what, where=where, hint=hint)
        self.first_useful_frame = None


@dataclass(frozen=True)
class Settings:
    """How graphs are compiled.

    `target`, `threads`, `tune`, `tuning`, `winograd`, `validate` are those of `graphopt.compile`; threads are torch's
    (`torch.get_num_threads()`) where none are given. `weights`: "frozen" packs parameters and buffers into the program, and
    watches them for changes; "read" reads them at every call. `fallback`: whether a graph that cannot be compiled runs in
    eager PyTorch, with a warning, or is an error. `max_specialisations`: for how many sets of sizes a graph is compiled;
    others run in eager PyTorch.
    """

    target: str = "x86"
    threads: int | None = None
    tune: str | None = None
    tuning: str | PathLike[str] | None = None
    winograd: bool = True
    validate: bool = False
    weights: str = "frozen"
    fallback: bool = True
    max_specialisations: int = 16


OPTIONS = tuple(f.name for f in fields(Settings))
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "tune": (None, "fast", "full"), "winograd": (True, False), "validate": (True, False), "weights": ("frozen", "read"),
    "fallback": (True, False),
}


def read_settings(mode: str | None, options: Mapping[str, Any] | None) -> Settings:
    """Both, checked. Raises OptionError naming what is known."""
    if mode is not None and mode not in MODES:
        raise OptionError(f"no mode {mode!r}{_meant(mode, tuple(MODES))}", where="torch.compile(backend='graphopt')",
                          hint=f"The modes are {', '.join(MODES)}")
    given = {**MODES[mode or "default"], **(options or {})}
    for name, value in given.items():
        if name not in OPTIONS:
            raise OptionError(f"no option {name!r}{_meant(name, OPTIONS)}", where="torch.compile(backend='graphopt')",
                              hint=f"The options are {', '.join(OPTIONS)}")
        _check(name, value)
    settings = replace(Settings(), **given)
    try:
        Records.load(settings.tuning, to_write=settings.tune is not None)
    except GraphOptError as e:
        raise OptionError(e.what, where=e.where, hint=e.hint) from e
    return settings


def _check(name: str, value: Any) -> None:
    where = f"option {name}"
    choices = _CHOICES.get(name)
    if choices is not None and not any(value is c or (isinstance(c, str) and value == c) for c in choices):
        raise OptionError(f"must be one of {', '.join(map(repr, choices))}, got {value!r}", where=where)
    if name in ("threads", "max_specialisations") and not (value is None and name == "threads") and (
            isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise OptionError(f"must be a whole number of at least 1, got {value!r}", where=where)
    if name == "tuning" and not (value is None or isinstance(value, (str, PathLike))):
        raise OptionError(f"must be the path of a file, got {value!r}", where=where)
    if name == "target":
        _check_target(value)


def _check_target(value: Any) -> None:
    from graphopt.backends.base import backend_of
    from graphopt.errors import TargetError
    from graphopt.targets import parse_target

    try:
        target: Any = parse_target(value, None)
    except TargetError as e:
        raise OptionError(e.what, where="option target", hint=e.hint) from e
    backend = backend_of(target)
    if not backend.runs:
        raise OptionError(f"torch.compile runs on the CPU, {value!r} does not", where="option target", hint="Use 'x86'")
    if lacking := backend.missing(target):
        raise OptionError(f"code for {target.name} may use what this machine lacks: {', '.join(lacking)}", where="option target")


def _meant(given: Any, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(given), known, 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


__all__ = ["MODES", "OPTIONS", "OptionError", "Settings", "read_settings"]
