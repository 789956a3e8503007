"""Control flow that torch.export keeps as nested graphs, and contexts that mean nothing to a compiled program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F64, I64, DType, TensorType


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


Step = tuple[Any, Sequence[Any], Sequence[Any]]  # what an iteration gives: the condition (None: none), the carried, the stacked


@aten("while_loop")
def _(c: Context, args: Any) -> Any:
    """torch.while_loop: the condition is asked for before the first iteration, and after each."""
    condition, body, carried, rest = args
    start = [_tensor(c, x) for x in carried]

    def step(inner: Context, state: Sequence[Any], item: Any, captured: Sequence[Any]) -> Step:
        after = [inner.operand(x, v.dtype) for x, v in zip(inner.inline(body, [*state, *captured]), start)]
        (keep,) = inner.inline(condition, [*after, *captured])
        return keep, after, ()

    (first,) = c.inline(condition, [*start, *rest])
    return _loop(c, None, first, start, [], rest, step)


@aten("scan")
def _(c: Context, args: Any) -> Any:
    """Higher-order scan: carried values, then a slice of each of `xs` along dim 0; what it gives besides is stacked."""
    combine, init, xs, *rest = args
    start = [_tensor(c, x) for x in init]

    def step(inner: Context, state: Sequence[Any], item: Any, captured: Sequence[Any]) -> Step:
        results = inner.inline(combine, [*state, *item, *captured])
        return None, results[:len(start)], results[len(start):]

    return _loop(c, xs[0].shape[0], None, start, xs, list(rest[0]) if rest else [], step)


@aten("map_impl")
def _(c: Context, args: Any) -> Any:
    """Higher-order map: a scan that carries nothing."""
    body, xs, rest = args
    return _loop(c, xs[0].shape[0], None, [], xs, rest,
                 lambda inner, state, item, captured: (None, (), inner.inline(body, [*item, *captured])))


def _tensor(c: Context, x: Any) -> Value:
    return x if isinstance(x, Value) else c.scalar(x, BOOL if isinstance(x, bool) else F64 if isinstance(x, float) else I64)


def _loop(c: Context, trip: Any, condition: Any, start: Sequence[Value], xs: Sequence[Value], captured: Sequence[Any],
          step: Any) -> tuple[Value, ...]:
    """A loop of `step(context, carried, slices of xs, captured) -> (condition or None, carried, stacked)`."""
    iteration, keep = (Value(TensorType(t, ()), None, 0, None, name) for t, name in ((I64, "iteration"), (BOOL, "keep")))
    outside = [v for v in captured if isinstance(v, Value)]

    def body(inner: Context, at: Value, going: Value, *values: Value) -> list[Value]:
        state, sequences = values[:len(start)], values[len(start):len(start) + len(xs)]
        given = iter(values[len(start) + len(xs):])
        inside = [next(given) if isinstance(v, Value) else v for v in captured]
        after, carried, stacked = step(inner, state, [inner.b.gather(s, at, axis=0) for s in sequences], inside)
        return [going if after is None else inner.boolean(inner.reshape(_tensor(inner, after), ())), *carried, *stacked]

    region = c.region(body, [iteration, keep, *start, *xs, *outside], "body")
    count = None if trip is None else c.scalar(trip, I64)
    first = None if condition is None else c.boolean(c.reshape(_tensor(c, condition), ()))
    return tuple(c.b.op("loop", [count, first, *start, *xs, *outside], {"carried": len(start)}, regions=[region]).results)
