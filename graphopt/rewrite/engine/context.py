"""What a run of passes carries along: the target, the fuel that bisection limits, and the reasons of every decision."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.ir.graph import Loc, Op, Value
from graphopt.targets.capabilities import Capabilities


@dataclass(frozen=True)
class Reason:
    """Why a pass did (or did not do) something to one op. `names` are the names of its results at that time."""

    pass_name: str
    op: str
    names: tuple[str, ...]
    loc: Loc
    text: str

    def __str__(self) -> str:
        name = f" %{self.names[0]}" if self.names else ""
        at = f" ({', '.join(self.loc)})" if self.loc else ""
        return f"[{self.pass_name}] {self.op}{name}{at}: {self.text}"


class Context:
    """Shared by the passes of one run.

    Every change of a graph is announced first: `if context.take("what", op): change it`. With `fuel` the
    first so many changes are granted and the others refused, which is how the manager finds the one that
    broke a result. `target` answers the passes' questions about the machine; without one they are answered
    for a machine that has no kernel for any composite op.
    """

    def __init__(self, target: Capabilities | None = None, fuel: int | None = None) -> None:
        self.target = target or Capabilities()
        self.fuel = fuel
        self.pass_name = ""
        self.applied = 0  # changes granted since the pass began
        self.last = ""  # the latest of them, in words
        self.subject: Op | None = None  # the op that the pass has at hand, for the message of a crash
        self.reasons: list[Reason] = []

    def begin(self, pass_name: str) -> None:
        """A new pass starts: counts go back to zero, reasons stay."""
        self.pass_name, self.applied, self.last, self.subject = pass_name, 0, "", None

    def take(self, what: str, op: Op) -> bool:
        """May this change be made? True uses up one unit of fuel."""
        self.subject = op
        if self.fuel is not None and self.applied >= self.fuel:
            return False
        self.applied += 1
        self.last = f"{what}, at {op.where()}"
        return True

    def because(self, subject: Value | Op, text: str) -> None:
        """Keep the reason of a decision about an op, or about the op that computes a value."""
        op = subject if isinstance(subject, Op) else subject.op
        results = op.results if op is not None else (subject,) if isinstance(subject, Value) else ()
        names = tuple(r.name for r in results if r.name is not None)
        self.reasons.append(Reason(self.pass_name, op.name if op is not None else "input", names,
                                   op.loc if op is not None else (), text))

    def why(self, name: str) -> list[Reason]:
        """Reasons about the value of that name (with or without %), or about ops from that source location."""
        name = name.removeprefix("%")
        return [r for r in self.reasons if name in r.names or any(name == p or p.startswith(name + "/") for p in r.loc)]
