"""How ops become scalar expressions or loop nests: two tables, one entry an op, and the inlining between them.

A *compute rule* says what one element of the result is, given its index:

    @compute("transpose")
    def transpose(o, *i):
        return o.x(*(i[o.perm.index(d)] for d in range(len(i))))

`o.x(*index)` is operand x at an index (another rule's expression when it is fused), `o.shape("x")` its
static shape, `o.perm` an attribute, `o.dtype` the result's dtype, `o.out` its shape, `o.types` the operand types.
For f16 and bf16 tensors the operands come as f32 and the result is cast back, so rules are written once.
An op with several results takes `o.result`, the index of the wanted one.

A *loop rule* writes the whole kernel: `@loops("top_k")`, `f(o, ins, outs) -> Stmt`, over Buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.cache import store
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, as_expr, cast, const, load
from graphopt.codegen.kernel.loops import Stmt
from graphopt.errors import CodegenError
from graphopt.ir.dims import Dim
from graphopt.ir.fused import held, kind
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import TABLE, Trait
from graphopt.ir.types import F32, DType, TensorType

Accessor = Callable[..., Expr]
COMPUTE: dict[str, Callable[..., Expr]] = {}
CUTS: dict[str, Callable[[Op], tuple[int, list[int]]]] = {}
LOOPS: dict[str, Callable[..., Stmt]] = {}
SCRATCH: dict[str, Callable[[OpView], list[tuple[str, tuple[int, ...]]]]] = {}
WIDENED = ("f16", "bf16")  # stored narrow, computed in f32
COMPUTABLE = frozenset(("bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64"))


class OpView:
    """What a lowering rule sees of an op."""

    def __init__(self, op: Op, operands: Sequence[Accessor | None], result: int = 0) -> None:
        self.op, self.result, self._operands = op, result, list(operands)
        self.attrs = op.attrs
        self.types: list[Any] = [None if v is None else v.type for v in op.operands]

    @property
    def out(self) -> tuple[int, ...]:
        return self.op.results[self.result].static_shape

    @property
    def dtype(self) -> DType:
        """The result's dtype as computed: f32 for f16 and bf16."""
        return computed(self.op.results[self.result].dtype)

    def shape(self, name: str) -> tuple[int, ...]:
        v = self.op.operand(name)
        if v is None:
            raise CodegenError(f"operand {name} is absent", where=self.op.where())
        return v.static_shape

    def operands(self) -> list[Accessor]:
        """Accessors of the variadic operand's values."""
        first = sum(not p.variadic for p in self.op.definition.operands)
        return [a for a in self._operands[first:] if a is not None]

    def accessor(self, name: str) -> Accessor | None:
        """The operand of that name, for names that mean something else here; None where absent."""
        k = next(k for k, p in enumerate(self.op.definition.operands) if p.name == name)
        return self._operands[k] if k < len(self._operands) else None

    def value(self, name: str) -> np.ndarray | None:
        """The operand's value where it is constant, else None."""
        v = self.op.operand(name)
        return None if v is None else v.constant

    def __getattr__(self, name: str) -> Any:
        if name in self.attrs:
            return self.attrs[name]
        for k, p in enumerate(self.op.definition.operands):
            if p.name == name:
                return self._operands[k] if k < len(self._operands) else None
        raise AttributeError(f"{self.op.name} has no operand or attribute {name!r}")

    def broadcast(self, index: Sequence[Expr]) -> list[Expr]:
        """Every operand at the element that numpy's broadcasting pairs with result index `index`."""
        out = []
        for access, t in zip(self._operands, self.types):
            assert access is not None and isinstance(t, TensorType)
            shape = t.static_shape
            own = index[len(index) - len(shape):] if shape else ()
            out.append(access(*(const(0, INDEX) if n == 1 else i for i, n in zip(own, shape))))
        return out


def compute(*names: str, cuts: Callable[[Op], tuple[int, list[int]]] | None = None) -> Callable[..., Any]:
    """Register a compute rule `f(o, *index) -> Expr` for ops.

    `cuts(op)` names an axis of the result and the sizes of stretches along it between which the rule's conditions
    change: each stretch gets a loop nest of its own, in which they fold away.
    """

    return _registered(COMPUTE, names, CUTS, cuts)


def loops(*names: str, scratch: Callable[[OpView], list[tuple[str, tuple[int, ...]]]] | None = None) -> Callable[..., Any]:
    """Register a loop rule `f(o, ins, outs[, scratch]) -> Stmt`.

    `ins` are Buffers (None for absent operands), `outs` Buffers; `scratch(o)` lists (dtype name, shape) of
    memory that the plan provides.
    """

    return _registered(LOOPS, names, SCRATCH, scratch)


def _registered(table: dict[str, Any], names: Sequence[str], besides: dict[str, Any], value: Any) -> Callable[..., Any]:
    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        store.extends(f)
        for name in names:
            _check(name, COMPUTE, LOOPS)
            table[name] = f
            if value is not None:
                besides[name] = value
        return f

    return add


def _check(name: str, *tables: dict[str, Any]) -> None:
    if name not in TABLE or any(name in t for t in tables):
        raise CodegenError(f"lowering of {name!r}: not in the op table, or defined twice")


def computed(d: DType) -> DType:
    """The dtype that arithmetic on `d` happens in."""
    return F32 if d.name in WIDENED else d


def why_not(op: Op, templated: Collection[str] = ()) -> str | None:
    """Why `op` has no kernel (it is then a host op), or None where it has one. `templated` names ops for which the target
    has a template, so that they need no rule here."""
    if kind(op) is not None:
        return next((r for inner in held(op) if (r := why_not(inner, templated))), None)
    if reason := why_not_values(op):
        return reason
    if op.name == "const":
        return None
    if op.definition.has(Trait.RANDOM):
        return f"{op.name} draws random numbers"
    if op.definition.has(Trait.CONTROL):
        return f"{op.name} is control flow, not a kernel"
    if op.definition.has(Trait.DATA_DEPENDENT):
        return f"{op.name} depends on run-time values"
    if op.name not in COMPUTE and op.name not in LOOPS and op.name not in templated:
        return f"{op.name} has no lowering"
    return None


def why_not_values(op: Op) -> str | None:
    """Why no kernel can read or write what `op` does; None where one can."""
    for v in (*op.operands, *op.results):
        if v is None:
            continue
        if not isinstance(v.type, TensorType):
            return f"{v.type} is not a tensor"
        if v.dtype.name not in COMPUTABLE:
            return f"dtype {v.dtype} has no kernels"
        if not v.type.is_static:
            return f"the shape of {v.type} is not known before running"
    for name, a in op.attrs.items():
        if isinstance(a, tuple) and any(isinstance(d, Dim) for d in a):
            return f"{name}=[{', '.join(map(str, a))}] is not known before running"
    return None


class Inliner:
    """Expressions for the values of a graph whose ops all have compute rules, sharing equal accesses."""

    def __init__(self, sources: Mapping[Value, Buffer | Accessor]) -> None:
        """`sources`: where values of the graph come from, as memory or as what another rule computes."""
        self.sources = sources
        self._memo: dict[tuple, Expr] = {}

    def at(self, value: Value, index: Sequence[Expr]) -> Expr:
        """Element `index` of `value`, in its computed dtype."""
        idx = tuple(as_expr(i) for i in index)
        key = (value, *map(id, idx))
        if key not in self._memo:
            self._memo[key] = self._build(value, idx)
            self._memo[(key, "keep")] = idx  # type: ignore[assignment]  # ids stay valid while the memo lives
        return self._memo[key]

    def _build(self, value: Value, index: tuple[Expr, ...]) -> Expr:
        if value in self.sources:
            source = self.sources[value]
            element = load(source, index) if isinstance(source, Buffer) else source(*index)
            return cast(element, computed(element.dtype))
        op = value.op
        if op is None:
            raise CodegenError(f"no source for {value!r}")
        if op.name == "const":
            array = op.attrs["value"].numpy()
            if array.size != 1:
                raise CodegenError(f"a constant of {array.size} elements cannot be inlined", where=op.where())
            return const(array.reshape(())[()], computed(value.dtype))
        if op.name not in COMPUTE:
            raise CodegenError(f"{op.name} has no compute rule", where=op.where())
        accessors = [None if v is None else (lambda *i, v=v: self.at(v, i)) for v in op.operands]
        return round_to(COMPUTE[op.name](OpView(op, accessors, value.index), *index), value.dtype, op)


def round_to(e: Expr, d: DType, op: Op) -> Expr:
    """The rule's result in the computed form of dtype `d`, rounded where storage is narrower than arithmetic."""
    if d.name in WIDENED:
        return e if op.definition.has(Trait.MOVEMENT | Trait.VIEW) else cast(cast(e, d), F32)
    if e.dtype is not d:
        raise CodegenError(f"the lowering gave {e.dtype} for {d}", where=op.where())
    return e


__all__ = ["COMPUTE", "CUTS", "LOOPS", "SCRATCH", "Accessor", "Inliner", "OpView", "compute", "computed", "loops", "why_not",
           "why_not_values"]
