"""Control flow that torch.export keeps as nested graphs, and contexts that mean nothing to a compiled program."""

from __future__ import annotations

from typing import Any

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F64, I64, DType


@aten("wrap_with_set_grad_enabled")
def _(c: Context, args: Any) -> Any:
    _, body, *operands = args
    return c.inline(body, operands)


# Numbers computed at run time: rank-0 values, or dims where they come from shapes alone -----------------
@aten("aten._local_scalar_dense.default", "aten.item.default")
def _(c: Context, x: Value) -> Value:
    return c.reshape(x, ())


def _number(ir: str, at: DType | None = None) -> Any:
    """Python arithmetic on numbers, one of them a run-time value: f64 with a float about or where `at` says so, else i64."""
    def entry(c: Context, *xs: Any) -> Value:
        floating = any(isinstance(x, float) or (isinstance(x, Value) and x.dtype.is_float) for x in xs)
        return getattr(c.b, ir)(*(c.operand(x, at or (F64 if floating else I64)) for x in xs))
    return entry


for _name, _ir in {"add": "add", "sub": "sub", "mul": "mul", "floordiv": "floor_div", "mod": "mod", "neg": "neg", "abs": "abs",
                   "ge": "greater_equal", "gt": "greater", "le": "less_equal", "lt": "less", "eq": "equal", "ne": "not_equal",
                   "pow": "pow"}.items():
    aten(f"operator.{_name}")(_number(_ir))
aten("operator.truediv")(_number("div", F64))
aten("torch.sym_max")(_number("maximum"))
aten("torch.sym_min")(_number("minimum"))
aten("torch._sym_sqrt", "math.sqrt")(_number("sqrt", F64))
aten("torch.sym_not")(_number("not_", BOOL))


@aten("torch.sym_float")
def _(c: Context, x: Any) -> Value:
    return c.operand(x, F64)


@aten("torch.sym_int", "math.trunc")
def _(c: Context, x: Any) -> Value:
    return c.operand(x, I64)


@aten("math.floor")
def _(c: Context, x: Any) -> Value:
    return c.cast(c.b.floor(c.operand(x, F64)), I64)


@aten("math.ceil")
def _(c: Context, x: Any) -> Value:
    return c.cast(c.b.ceil(c.operand(x, F64)), I64)


@aten("cond")
def _(c: Context, args: Any) -> Any:
    """torch.cond: both branches see all operands."""
    condition, then, otherwise, *rest = args
    operands = list(rest[0]) if rest else []
    values = [v for v in operands if isinstance(v, Value)]
    regions = [c.region(g, operands, name) for g, name in ((then, "then"), (otherwise, "else"))]
    op = c.b.op("if", [c.boolean(c.reshape(condition, ())), *values], regions=regions)
    return tuple(op.results)
