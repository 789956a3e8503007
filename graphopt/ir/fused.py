"""What a kernel computes, be it one op or a fused one: a fused op's body, or the op alone, seen the same way."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.ir.graph import Op, Value


def held(op: Op) -> Sequence[Op]:
    """The ops that compute, in order: those in a fused op's body, else the op itself."""
    return list(op.regions[0].ops) if op.name == "fused" else [op]


def kind(op: Op) -> str | None:
    """What sort of fused op it is; None for an op alone."""
    return op.attrs["kind"] if op.name == "fused" else None


def only(op: Op, name: str) -> Op | None:
    """The one op of that name among them; None where there is none, or several."""
    found = [o for o in held(op) if o.name == name]
    return found[0] if len(found) == 1 else None


def entries(op: Op) -> Sequence[Value | None]:
    """The values that stand for `op.operands`, in order, where it computes."""
    return op.regions[0].inputs if op.name == "fused" else op.operands


def ends(op: Op) -> Sequence[Value]:
    """The values that become `op.results`, in order, where it computes."""
    return op.regions[0].outputs if op.name == "fused" else op.results


def outside(op: Op, v: Value) -> Value:
    """The operand of `op` that a value is where it computes; the value itself where it is no operand."""
    return outsides(op).get(v, v)


def outsides(op: Op) -> dict[Value, Value]:
    """The operands by the values that stand for them where it computes: by themselves for an op alone."""
    return {v: o for v, o in zip(entries(op), op.operands) if v is not None and o is not None}


def makes(op: Op, v: Value) -> bool:
    """Is a value, where it computes, made there, and none that stands for an operand?"""
    return v not in entries(op)


def reads(op: Op, v: Value) -> int:
    """How often a value is read where it computes, as a result too."""
    return sum(list(o.operands).count(v) for o in held(op)) + list(ends(op)).count(v)


__all__ = ["ends", "entries", "held", "kind", "makes", "only", "outside", "outsides", "reads"]
