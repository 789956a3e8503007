"""Control flow that torch.export keeps as nested graphs, and contexts that mean nothing to a compiled program."""

from __future__ import annotations

from typing import Any

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value


@aten("wrap_with_set_grad_enabled")
def _(c: Context, args: Any) -> Any:
    _, body, *operands = args
    return c.inline(body, operands)


@aten("cond")
def _(c: Context, args: Any) -> Any:
    """torch.cond: both branches see all operands."""
    condition, then, otherwise, *rest = args
    operands = list(rest[0]) if rest else []
    values = [v for v in operands if isinstance(v, Value)]
    regions = [c.region(g, operands, name) for g, name in ((then, "then"), (otherwise, "else"))]
    op = c.b.op("if", [c.boolean(c.reshape(condition, ())), *values], regions=regions)
    return tuple(op.results)
