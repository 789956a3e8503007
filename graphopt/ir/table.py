"""The op table: every operator's signature, type inference, reference semantics, cost and traits, once.

An entry is a numpy function under the decorator `op`, whose first argument is its signature:

    @op("conv(x: T, w: T, bias?: T; stride: ints, pad: ints, groups: int = 1) -> T", T="float",
        shape=_conv_shape, traits=Trait.CONTRACTION)
    def conv(x, w, bias=None, *, stride, pad, groups): ...

Operands come before `;`, attributes after. `name?` may be absent, `name*` takes any number and is last.
An operand's type is a dtype, a type variable (bound by the keyword of that name to a dtype class, and
the same dtype wherever it stands), `seq`, `opt`, or `any`. `[then, else]` after the brackets names regions.
Results are dtypes or variables, `attr` of kind dtype as `@attr`, or `any*` where `types=` says it all.

Of what passes ask, traits say what is so for the op in general. What depends on an op's attributes and types has a rule:
`rows=` (see `OpDef.rows`), `view=` (see `OpDef.view`).
"""

from __future__ import annotations

import enum
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.cache import store
from graphopt.errors import IRError
from graphopt.ir.dims import Dim, DimLike, Shape, broadcast_dim, dim_min, product
from graphopt.ir.types import DTYPES, DType, TensorType, Type, dtype


class Trait(enum.Flag):
    """What passes may assume of an op without knowing its name."""

    NONE = 0
    ELEMENTWISE = enum.auto()  # each result element depends on one element of each (broadcast) operand
    REDUCTION = enum.auto()  # combines elements along axes
    CONTRACTION = enum.auto()  # sums of products: matmul, convolution
    MOVEMENT = enum.auto()  # every result element is a copy of one operand element or a constant
    VIEW = enum.auto()  # row-major memory of the result is that of the operand
    COMPOSITE = enum.auto()  # has a decomposition
    COMMUTATIVE = enum.auto()  # the first two operands may change places
    CONTROL = enum.auto()  # runs its regions
    RANDOM = enum.auto()  # two evaluations may differ: neither folded nor merged
    DATA_DEPENDENT = enum.auto()  # the result's shape depends on values


# Dtype classes that a type variable may be bound to.
CLASSES: dict[str, frozenset[str]] = {
    "any": frozenset(DTYPES),
    "bool": frozenset({"bool"}),
    "float": frozenset(n for n, d in DTYPES.items() if d.kind == "float"),
    "signed": frozenset(n for n, d in DTYPES.items() if d.kind in ("int", "float")),
    "int": frozenset(n for n, d in DTYPES.items() if d.kind in ("int", "uint")),
    "number": frozenset(n for n, d in DTYPES.items() if d.kind in ("int", "uint", "float")),
}


@dataclass(frozen=True)
class Operand:
    name: str
    type: str
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class Attr:
    """A typed attribute. Kinds: int, float, bool, str, dtype, ints, floats, strs, dims, and `kind?` for may-be-None."""

    name: str
    kind: str
    default: Any = ...

    def check(self, value: Any) -> Any:
        """The value in its canonical Python form; raises ValueError where it is of another kind."""
        kind = self.kind
        if kind.endswith("?"):
            if value is None:
                return None
            kind = kind[:-1]
        return _CONVERT[kind](value)


def _exact_int(v: Any) -> int:
    if isinstance(v, (bool, np.bool_)) or int(v) != v:
        raise ValueError(v)
    return int(v)


def _bool(v: Any) -> bool:
    if v not in (0, 1):
        raise ValueError(v)
    return bool(v)


def _str(v: Any) -> str:
    if not isinstance(v, str):
        raise ValueError(v)
    return v


def _dim(v: Any) -> DimLike:
    return v if isinstance(v, Dim) else _exact_int(v)


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "int": _exact_int,
    "float": float,
    "bool": _bool,
    "str": _str,
    "dtype": dtype,
    "ints": lambda v: tuple(_exact_int(x) for x in v),
    "floats": lambda v: tuple(float(x) for x in v),
    "strs": lambda v: tuple(_str(x) for x in v),
    "dims": lambda v: tuple(_dim(x) for x in v),
    "data": lambda v: v,  # the tensor of a `const`
}


class Operands:
    """What a rule sees of an op: operand types by name, attributes by name, constant values.

    `o.x` is the type of operand x (None if absent, a list if variadic) or the value of attribute x.
    """

    def __init__(self, definition: OpDef, types: Sequence[Type | None], attrs: Mapping[str, Any],
                 constants: Callable[[int], np.ndarray | None], regions: Sequence[Any] = ()) -> None:
        self._def, self.attrs, self._constants = definition, attrs, constants
        self.types: list[Any] = list(types)
        self.regions = regions
        self.bound: dict[str, DType] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.attrs:
            return self.attrs[name]
        for i, operand in enumerate(self._def.operands):
            if operand.name == name:
                if operand.variadic:
                    return self.types[i:]
                return self.types[i] if i < len(self.types) else None
        raise AttributeError(f"{self._def.name} has no operand or attribute {name!r}")

    def value(self, name: str) -> np.ndarray | None:
        """The constant value of operand `name`, or None where it is not constant or absent."""
        index = next(i for i, o in enumerate(self._def.operands) if o.name == name)
        if index >= len(self.types) or self.types[index] is None:
            return None
        return self._constants(index)

    def fail(self, message: str) -> IRError:
        return IRError(message, where=self._def.name)


# A shape rule gives one shape, or a list of them for several results. None for a dim or a shape: not known.
ShapeRule = Callable[[Operands], Any]
RowsRule = Callable[[Operands], Sequence[int]]
ViewRule = Callable[[Operands, TensorType], "int | None"]
BoundsRule = Callable[["Operands"], tuple[DimLike, ...]]
SumsRule = Callable[["Operands"], DType]


def f32_or_wider(o: Operands) -> DType:
    """Sums rule: floats narrower than f32 are multiplied and added up in f32, everything else in its own dtype."""
    d: DType = o.types[0].dtype
    return DTYPES["f32"] if d.is_float and d.bits < 32 else d


@dataclass(frozen=True, eq=False)
class OpDef:
    name: str
    operands: tuple[Operand, ...]
    attrs: tuple[Attr, ...]
    results: tuple[Operand, ...]
    region_names: tuple[str, ...]
    constraints: Mapping[str, frozenset[str]]
    shape: ShapeRule | None
    types: Callable[[Operands], Sequence[Type]] | None
    evaluate: Callable[..., Any]
    traits: Trait
    operations: Callable[[Operands, Sequence[TensorType]], DimLike] | None
    doc: str
    signature: str
    wants: frozenset[str] = field(default_factory=frozenset)
    rows_rule: RowsRule | None = None
    view_rule: ViewRule | None = None
    picks: str | None = None  # the operand of whose elements each element of the results is one
    sums: SumsRule | None = None  # of a contraction: the dtype in which its products are added up, rounded once at the end
    bounds: BoundsRule | None = None  # of an op with `indices`: the size of the axis that they go along (tuples: of each)

    def rows(self, o: Operands) -> Sequence[int]:
        """The operands, by position, that the op takes row by row: index i along the first axis of every result is made of
        index i of theirs, and of whatever the other operands hold. None of them where no rule says so."""
        if any(t is not None and (not isinstance(t, TensorType) or t.shape is None) for t in o.types):
            return ()
        rule = self.rows_rule or (_aligned if self.has(Trait.ELEMENTWISE) else None)
        return () if rule is None else rule(o)

    def sum_dtype(self, o: Operands) -> DType:
        """In which dtype a contraction multiplies its operands and adds the products up. IRError for other ops."""
        if self.sums is None:
            raise IRError("is no contraction, or does not say in which dtype it adds up", where=self.name,
                          hint="Give its definition sums=")
        return self.sums(o)

    @property
    def may_view(self) -> bool:
        """Can the result be its first operand's memory, or a part of it?"""
        return self.has(Trait.VIEW) or self.view_rule is not None

    def view(self, o: Operands, result: TensorType) -> int | None:
        """Where in the memory of its first operand the result lies as it should, in elements; None where it does not."""
        if self.has(Trait.VIEW):
            return 0
        return None if self.view_rule is None else self.view_rule(o, result)

    def has(self, trait: Trait) -> bool:
        return bool(self.traits & trait)

    def attr(self, name: str) -> Attr | None:
        return next((a for a in self.attrs if a.name == name), None)

    def check_attrs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes in table order, defaults filled in, kinds checked."""
        unknown = set(given) - {a.name for a in self.attrs}
        if unknown:
            known = ", ".join(a.name for a in self.attrs) or "none"
            raise IRError(f"no attribute {', '.join(sorted(unknown))}; it has: {known}", where=self.name)
        out = {}
        for a in self.attrs:
            if a.name in given:
                try:
                    out[a.name] = a.check(given[a.name])
                except (TypeError, ValueError, IRError):
                    raise IRError(f"attribute {a.name}={given[a.name]!r} is not of kind {a.kind}", where=self.name) from None
            elif a.default is ...:
                raise IRError(f"attribute {a.name} ({a.kind}) is missing", where=self.name)
            else:
                out[a.name] = a.default
        return out

    def infer(self, o: Operands) -> list[Type]:
        """Result types; a dim of None in a shape means that the rule cannot know it."""
        self._check_operands(o)
        if self.types is not None:
            return list(self.types(o))
        assert self.shape is not None
        if any(isinstance(t, TensorType) and t.shape is None for t in o.types):
            shapes: list[Any] = [None] * len(self.results)
        else:
            got = self.shape(o)
            shapes = got if isinstance(got, list) else [got] * len(self.results)
        if self.results and self.results[-1].variadic:
            return [TensorType(self._result_dtype(self.results[0].type, o), s) for s in shapes]
        return [TensorType(self._result_dtype(r.type, o), None if s is None else tuple(s))
                for r, s in zip(self.results, shapes, strict=True)]

    def _result_dtype(self, t: str, o: Operands) -> DType:
        if t.startswith("@"):
            given: DType = o.attrs[t[1:]]
            return given
        if t in DTYPES:
            return DTYPES[t]
        if t not in o.bound:
            raise IRError(f"result dtype {t} is not bound by any operand", where=self.name)
        return o.bound[t]

    def _check_operands(self, o: Operands) -> None:
        fixed = [p for p in self.operands if not p.variadic]
        variadic = self.operands[-1] if self.operands and self.operands[-1].variadic else None
        if len(o.types) < len(fixed):
            o.types.extend([None] * (len(fixed) - len(o.types)))
        if len(o.types) > len(fixed) and variadic is None:
            raise IRError(f"takes {len(fixed)} operands, got {len(o.types)}", where=self.name)
        for i, t in enumerate(o.types):
            p = fixed[i] if i < len(fixed) else variadic
            assert p is not None
            if t is None:
                if not p.optional and p is not variadic:
                    raise IRError(f"operand {p.name} is missing", where=self.name)
                continue
            if p.type == "any":
                continue
            if p.type in ("seq", "opt"):
                if isinstance(t, TensorType):
                    raise IRError(f"operand {p.name} must be a {p.type}, got {t}", where=self.name)
                continue
            if not isinstance(t, TensorType):
                raise IRError(f"operand {p.name} must be a tensor, got {t}", where=self.name)
            if p.type in DTYPES:
                if t.dtype.name != p.type:
                    raise IRError(f"operand {p.name} must be {p.type}, got {t}", where=self.name)
                continue
            if t.dtype.name not in self.constraints[p.type]:
                raise IRError(f"operand {p.name} cannot be {t.dtype}", where=self.name)
            if o.bound.setdefault(p.type, t.dtype) is not t.dtype:
                raise IRError(f"operand {p.name} is {t.dtype}, but {p.type} is {o.bound[p.type]} elsewhere", where=self.name)

    def cost(self, o: Operands, results: Sequence[Type]) -> tuple[DimLike, DimLike]:
        """(operations, bytes moved) of one execution; a multiply-add counts two operations."""
        outs = [t for t in results if isinstance(t, TensorType) and t.shape is not None]
        ins = [t for t in o.types if isinstance(t, TensorType) and t.shape is not None]
        nbytes: DimLike = 0 if self.has(Trait.VIEW) else sum([*self.touched(o, results), *(t.nbytes for t in outs)], 0)
        if self.operations is not None:
            return self.operations(o, outs), nbytes
        if self.has(Trait.MOVEMENT | Trait.VIEW):
            return 0, nbytes
        of = ins[:1] if self.has(Trait.REDUCTION) else outs
        return sum((t.size for t in of), 0), nbytes

    def touched(self, o: Operands, results: Sequence[Type]) -> list[DimLike]:
        """How many bytes of each operand are read at most; 0 where it is absent or its size unknown. Where elements are picked
        from an operand (the rows of an embedding table), those are no more than the results have."""
        size = sum((t.size for t in results if isinstance(t, TensorType) and t.shape is not None), 0)
        made: list[DimLike] = []
        for k, t in enumerate(o.types):
            known = isinstance(t, TensorType) and t.shape is not None
            made.append(0 if not known else t.nbytes if self.picks != self.operands[min(k, len(self.operands) - 1)].name
                        else dim_min(t.size, size) * t.dtype.itemsize)
        return made


TABLE: dict[str, OpDef] = {}
DECOMPOSITIONS: dict[str, Callable[..., Any]] = {}


def op(signature: str, *, shape: ShapeRule | None = None, types: Callable[[Operands], Sequence[Type]] | None = None,
       traits: Trait = Trait.NONE, operations: Callable[..., DimLike] | None = None, rows: RowsRule | None = None,
       view: ViewRule | None = None, picks: str | None = None, bounds: BoundsRule | None = None,
       sums: SumsRule | None = None, **constraints: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an op to the table; the decorated numpy function is its reference semantics and its docstring the text."""

    def add(evaluate: Callable[..., Any]) -> Callable[..., Any]:
        name, operands, attrs, regions, results = _parse_signature(signature)
        if name in TABLE:
            raise IRError(f"op {name} is defined twice")
        if (shape is None) == (types is None):
            raise IRError("give shape= or types=, one of them", where=name)
        if sums is not None and not traits & Trait.CONTRACTION:
            raise IRError("only contractions have sums=", where=name)
        bound = {v: _dtype_class(c) for v, c in constraints.items()}
        variables = {p.type for p in operands} - set(DTYPES) - {"any", "seq", "opt"}
        if variables != set(bound):
            raise IRError(f"type variables {sorted(variables)} but constraints {sorted(bound)}", where=name)
        if not evaluate.__doc__:
            raise IRError("an op needs a docstring", where=name)
        store.extends(evaluate)
        parameters = frozenset(inspect.signature(evaluate).parameters)
        TABLE[name] = OpDef(name, operands, attrs, results, regions, bound, shape, types, evaluate, traits, operations,
                            inspect.cleandoc(evaluate.__doc__), signature, parameters, rows, view, picks, sums, bounds)
        return evaluate

    return add


def decomposition(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """State how a COMPOSITE op is built from others: `f(builder, op) -> Value or list of Values`."""

    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        if not TABLE[name].has(Trait.COMPOSITE):
            raise IRError("a decomposition needs Trait.COMPOSITE", where=name)
        store.extends(f)
        DECOMPOSITIONS[name] = f
        return f

    return add


def lookup(name: str) -> OpDef:
    if name not in TABLE:
        import difflib

        near = difflib.get_close_matches(name, TABLE, 1)
        raise IRError(f"unknown op {name!r}", hint=f"Did you mean {near[0]!r}?" if near else None)
    return TABLE[name]


def _dtype_class(text: str) -> frozenset[str]:
    names: set[str] = set()
    for part in text.split("|"):
        names |= CLASSES[part] if part in CLASSES else {dtype(part).name}
    return frozenset(names)


_SIGNATURE = re.compile(r"(\w+)\((.*?)\)\s*(?:\[(.*?)\])?\s*->\s*(.*)", re.S)


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    return [p.strip() for p in re.split(r",(?![^\[\]]*\])", text) if p.strip()]


def _parse_signature(text: str) -> tuple[str, tuple[Operand, ...], tuple[Attr, ...], tuple[str, ...], tuple[Operand, ...]]:
    match = _SIGNATURE.fullmatch(text.strip())
    if not match:
        raise IRError(f"bad signature {text!r}")
    name, inside, regions, results = match.groups()
    before, _, after = inside.partition(";")
    attrs = []
    for part in _split(after):
        attr_name, _, rest = part.partition(":")
        kind, eq, default = (s.strip() for s in rest.partition("="))
        if kind.rstrip("?") not in _CONVERT:
            raise IRError(f"bad attribute kind {kind!r} in {text!r}")
        if not eq:
            value: Any = None if kind.endswith("?") else ...
        elif default in ("true", "false", "none"):
            value = {"true": True, "false": False, "none": None}[default]
        elif kind.rstrip("?") == "str":
            value = default.strip('"')
        elif kind.rstrip("?") == "dtype":
            value = DTYPES[default]
        elif default.startswith("["):
            value = tuple(float(v) if kind.startswith("floats") else int(v) for v in _split(default[1:-1]))
        else:
            value = float(default) if kind.rstrip("?") == "float" else int(default)
        attrs.append(Attr(attr_name.strip(), kind, value))
    results = results.strip()
    if results.startswith("("):
        results = results[1:-1]
    return (name, tuple(_operand(p) for p in _split(before)), tuple(attrs),
            tuple(_split(regions or "")), tuple(_operand(p if ":" in p else f"result: {p}") for p in _split(results)))


def _operand(text: str) -> Operand:
    name, _, type_text = (s.strip() for s in text.partition(":"))
    variadic = name.endswith("*") or type_text.endswith("*")
    return Operand(name.rstrip("?*"), type_text.rstrip("*"), name.endswith("?"), variadic)


def same_shape(o: Operands) -> Shape:
    """Shape rule: that of the first operand."""
    shape: Shape = o.types[0].shape
    return shape


def broadcast_dims(shapes: Iterable[Sequence[DimLike]]) -> Shape:
    """The common shape under numpy's broadcasting."""
    shapes = [tuple(s) for s in shapes]
    rank = max((len(s) for s in shapes), default=0)
    out: list[DimLike] = []
    for axis in range(rank):
        dims = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        if len({d for d in dims if isinstance(d, int) and d != 1}) > 1:
            raise IRError(f"shapes {', '.join(str(list(map(str, s))) for s in shapes)} do not broadcast")
        out.append(functools.reduce(broadcast_dim, dims))
    return tuple(out)


def broadcast(o: Operands) -> Shape:
    """Shape rule: all tensor operands broadcast together."""
    return broadcast_dims(t.shape for t in o.types if t is not None)


def _aligned(o: Operands) -> Sequence[int]:
    """Rows rule of elementwise ops: what has the result's first axis, and is not broadcast along it."""
    shape = broadcast_dims(t.shape for t in o.types if t is not None)
    return [k for k, t in enumerate(o.types) if t is not None and shape and len(t.shape) == len(shape) and t.shape[0] == shape[0]]


def first_rows(o: Operands) -> Sequence[int]:
    """Rows rule: of the first operand, whatever the attributes say."""
    return (0,)


def rows_beside(o: Operands) -> Sequence[int]:
    """Rows rule: of the first operand, where the attribute `axis` or `axes` names other axes than the first alone."""
    return () if 0 in (o.axes if "axes" in o.attrs else (o.axis,)) else (0,)


def normalise_axis(axis: int, rank: int, where: str = "axis") -> int:
    """A negative axis counted from the end; raises IRError when out of range."""
    if not -rank <= axis < max(rank, 1):
        raise IRError(f"axis {axis} is out of range for rank {rank}", where=where)
    return axis % max(rank, 1)


def normalise_axes(axes: Iterable[int] | None, rank: int, where: str = "axes") -> tuple[int, ...]:
    """Sorted non-negative axes; None means all of them."""
    if axes is None:
        return tuple(range(rank))
    out = tuple(sorted(normalise_axis(a, rank, where) for a in axes))
    if len(set(out)) != len(out):
        raise IRError(f"axis named twice in {out}", where=where)
    return out


__all__ = [
    "CLASSES", "DECOMPOSITIONS", "TABLE", "Attr", "OpDef", "Operand", "Operands", "Trait", "broadcast", "broadcast_dims",
    "f32_or_wider",
    "decomposition", "first_rows", "lookup", "normalise_axes", "normalise_axis", "op", "product", "rows_beside", "same_shape",
]
