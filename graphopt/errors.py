"""Every error that graphopt raises on purpose. Each message says what, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class GraphOptError(Exception):
    """Base of all errors raised by graphopt.

    `what` is the fault, `where` the op, file or argument it concerns, `hint` what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        text = f"{where}: {what}" if where else what
        super().__init__(f"{text}{'' if text.endswith(chr(10)) else '. '}{hint}" if hint else text)


class IRError(GraphOptError):
    """A graph that breaks a rule of the IR: wrong types, broken SSA, an unknown op or attribute."""


class ParseError(GraphOptError):
    """Text that is not a graph."""


class EvaluationError(GraphOptError):
    """The reference evaluator could not compute an op on the given values."""


class CaptureError(GraphOptError):
    """A model that cannot be read, or is not what it claims to be."""


class UnsupportedOperators(CaptureError):
    """A model that uses operators graphopt does not know; `operators` names every one, with its places."""

    def __init__(self, operators: Iterable[tuple[str, str]], *, where: str | None = None, hint: str | None = None) -> None:
        self.operators = list(operators)
        places: dict[str, list[str]] = {}
        for name, place in self.operators:
            places.setdefault(name, []).append(place)
        lines = []
        for name, at in sorted(places.items()):
            shown = ", ".join(at[:3]) + (f" and {len(at) - 3} more" if len(at) > 3 else "")
            lines.append(f"  {name} ({len(at)}x): at {shown}")
        super().__init__(
            f"{len(places)} unsupported operator(s):\n" + "\n".join(lines) + "\n",
            where=where,
            hint=hint or "Replace them in the model, or add them to the capture tables (see CONTRIBUTING.md)",
        )


class RewriteError(GraphOptError):
    """A pass that failed, or that changed what a graph computes."""


class TargetError(GraphOptError):
    """An unknown target, or one that cannot do what is asked."""


class CodegenError(GraphOptError):
    """A kernel that could not be built."""


class InputError(GraphOptError, ValueError):
    """Wrong number, name, dtype or shape of a compiled model's inputs, or a wrong argument."""


class OutOfMemoryError(GraphOptError, MemoryError):
    """No memory for what a compilation or a call needs; says how much that is, where it is known."""


class IndexRangeError(GraphOptError, IndexError):
    """An index out of range, in a model that was compiled with `check_indices=True`."""


class PickleError(GraphOptError, TypeError):
    """A compiled model that something tried to pickle; what pickles expects a TypeError."""


class ArtifactError(GraphOptError):
    """A saved model that is damaged, too new, or built for another machine."""
