"""Scalar expressions: what one element of a kernel's result is, in terms of loads at index expressions.

Target-neutral; codegen prints them as TIR, CUDA C++ or HLS C++. Nodes are interned, so equal
expressions are one object and sharing survives inlining. Integer index arithmetic (dtype INDEX) is
simplified as it is built, using the ranges of the loop variables.

Conventions that rules must keep:
- arithmetic happens in f32, f64, bool, INDEX or integer dtypes; f16 and bf16 are only loaded, stored and cast;
- `a * b + c` is rounded twice, `fma(a, b, c)` once, on every target: no compiler below may turn one into the other. Sums of
  products (contractions, reductions, polynomials) say `fma`; what a user's graph multiplies and then adds does not;
- both sides of a `select` are evaluated, so loads must be in bounds whatever the condition says (clamp the index).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from graphopt.codegen.kernel.spaces import Space
from graphopt.errors import CodegenError
from graphopt.ir.types import BOOL, DType, dtype

INDEX = DType("index", "int", 64, np.dtype(np.int64))

ExprLike = Union["Expr", int, float, bool]

# kind -> number of arguments. "cast" and "bitcast" take the node's dtype as the destination.
ARITHMETIC = {"add": 2, "sub": 2, "mul": 2, "div": 2, "floordiv": 2, "floormod": 2, "min": 2, "max": 2, "neg": 1, "abs": 1,
              "fma": 3, "sqrt": 1, "floor": 1, "ceil": 1, "round": 1, "trunc": 1, "fmod": 2}
LOGIC = {"and": 2, "or": 2, "xor": 2, "not": 1, "shl": 2, "shr": 2}  # bitwise on integers, logical on bool
COMPARISONS = {"eq": 2, "ne": 2, "lt": 2, "le": 2}
TRANSCENDENTAL = {"exp": 1, "log": 1, "log1p": 1, "expm1": 1, "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1,
                  "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1, "erf": 1, "pow": 2, "atan2": 2}
OTHER = {"select": 3, "cast": 1, "bitcast": 1, "isnan": 1}
KINDS = {**ARITHMETIC, **LOGIC, **COMPARISONS, **TRANSCENDENTAL, **OTHER}

REDUCTIONS = ("sum", "prod", "max", "min", "any", "all", "peak")  # peak: the greatest element that is no NaN


class Buffer:
    """Memory that kernels index: row-major, of static shape, in a memory space.

    `length` says how many elements there are where only a kernel's scalars do; the shape then has one axis, and is the most that
    there can be. Indices are flat, by strides that may be scalars too.
    """

    __slots__ = ("__weakref__", "dtype", "length", "name", "shape", "space")

    def __init__(self, name: str, dtype_of: DType | str, shape: Sequence[int], space: Space = Space.GLOBAL,
                 length: Expr | None = None) -> None:
        if not isinstance(space, Space):
            raise TypeError(f"buffer {name} in {space!r}, which is no Space")
        self.name, self.dtype, self.shape, self.space = name, dtype(dtype_of), tuple(shape), space
        self.length = length

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: ExprLike | tuple[ExprLike, ...]) -> Load:
        return load(self, index if isinstance(index, tuple) else (index,))

    def __repr__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


class Expr:
    """Base of all nodes. Operators build new nodes; `==` is identity (use `eq` for the comparison node)."""

    __slots__ = ("__weakref__", "dtype")
    dtype: DType

    @property
    def children(self) -> tuple[Expr, ...]:
        return ()

    def __add__(self, o: ExprLike) -> Expr:
        return binary("add", self, o)

    def __radd__(self, o: ExprLike) -> Expr:
        return binary("add", o, self)

    def __sub__(self, o: ExprLike) -> Expr:
        return binary("sub", self, o)

    def __rsub__(self, o: ExprLike) -> Expr:
        return binary("sub", o, self)

    def __mul__(self, o: ExprLike) -> Expr:
        return binary("mul", self, o)

    def __rmul__(self, o: ExprLike) -> Expr:
        return binary("mul", o, self)

    def __truediv__(self, o: ExprLike) -> Expr:
        return binary("div", self, o)

    def __rtruediv__(self, o: ExprLike) -> Expr:
        return binary("div", o, self)

    def __floordiv__(self, o: ExprLike) -> Expr:
        return binary("floordiv", self, o)

    def __mod__(self, o: ExprLike) -> Expr:
        return binary("floormod", self, o)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, o: ExprLike) -> Expr:
        return binary("lt", self, o)

    def __le__(self, o: ExprLike) -> Expr:
        return binary("le", self, o)

    def __gt__(self, o: ExprLike) -> Expr:
        return binary("lt", o, self)

    def __ge__(self, o: ExprLike) -> Expr:
        return binary("le", o, self)

    def __and__(self, o: ExprLike) -> Expr:
        return binary("and", self, o)

    def __or__(self, o: ExprLike) -> Expr:
        return binary("or", self, o)

    def __invert__(self) -> Expr:
        return unary("not", self)

    def eq(self, o: ExprLike) -> Expr:
        return binary("eq", self, o)

    def ne(self, o: ExprLike) -> Expr:
        return binary("ne", self, o)

    def cast(self, to: DType | str) -> Expr:
        """Value conversion; float to integer truncates toward zero."""
        return cast(self, to)

    def __bool__(self) -> bool:
        raise CodegenError("an expression has no truth value", hint="Use select, or compare constants with `.value`")


class Const(Expr):
    __slots__ = ("value",)
    value: Any

    def __repr__(self) -> str:
        return repr(self.value)


class Var(Expr):
    """A loop variable or a bound scalar. `low` and `high` bound an INDEX variable's values, both inclusive."""

    __slots__ = ("high", "low", "name")

    def __init__(self, name: str, dtype_of: DType = INDEX, low: int | None = None, high: int | None = None) -> None:
        self.name, self.dtype, self.low, self.high = name, dtype_of, low, high

    def __repr__(self) -> str:
        return self.name


class Load(Expr):
    __slots__ = ("buffer", "index")
    buffer: Buffer
    index: tuple[Expr, ...]

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.index

    def __repr__(self) -> str:
        return f"{self.buffer.name}[{', '.join(map(repr, self.index))}]"


class Apply(Expr):
    """`kind` applied to `args`; see KINDS."""

    __slots__ = ("args", "kind")
    args: tuple[Expr, ...]
    kind: str

    @property
    def children(self) -> tuple[Expr, ...]:
        return self.args

    def __repr__(self) -> str:
        name = f"{self.kind}<{self.dtype}>" if self.kind in ("cast", "bitcast") else self.kind
        return f"{name}({', '.join(map(repr, self.args))})"


class Reduce(Expr):
    """`kind` over all values of `vars` (each from 0 to its extent) of `body`, from the kind's identity."""

    __slots__ = ("body", "extents", "kind", "vars")

    def __init__(self, kind: str, vars: Sequence[Var], extents: Sequence[int], body: Expr) -> None:
        self.kind, self.vars, self.extents, self.body = kind, tuple(vars), tuple(extents), body
        self.dtype = body.dtype

    @property
    def children(self) -> tuple[Expr, ...]:
        return (self.body,)

    def __repr__(self) -> str:
        loops = ", ".join(f"{v}<{n}" for v, n in zip(self.vars, self.extents))
        return f"{self.kind}[{loops}]({self.body!r})"


_INTERNED: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()


def const(value: Any, of: DType | str) -> Const:
    """A literal of dtype `of`; integers wrap, floats round."""
    d = INDEX if of is INDEX else dtype(of)
    if d.kind == "bool":
        value = bool(value)
    elif d.kind == "float":
        with np.errstate(over="ignore"):
            value = float(np.asarray(value).astype(d.numpy))
    else:
        value = int(np.asarray(int(value)).astype(d.numpy)) if d is not INDEX else int(value)
    key = ("const", d, repr(value))
    node = _INTERNED.get(key)
    if node is None:
        node = Const.__new__(Const)
        node.dtype, node.value = d, value
        _INTERNED[key] = node
    return node  # type: ignore[return-value]


def as_expr(value: ExprLike, like: DType = INDEX) -> Expr:
    return value if isinstance(value, Expr) else const(value, like)


def load(buffer: Buffer, index: Iterable[ExprLike]) -> Load:
    idx = tuple(as_expr(i) for i in index)
    if len(idx) != len(buffer.shape):
        raise CodegenError(f"{len(idx)} indices into {buffer!r}")
    key = ("load", id(buffer), *map(id, idx))
    node = _INTERNED.get(key)
    if node is None:
        node = Load.__new__(Load)
        node.dtype, node.buffer, node.index = buffer.dtype, buffer, idx
        _INTERNED[key] = node
    return node  # type: ignore[return-value]


def _apply(kind: str, args: tuple[Expr, ...], d: DType) -> Expr:
    key = (kind, d, *map(id, args))
    node = _INTERNED.get(key)
    if node is None:
        node = Apply.__new__(Apply)
        node.dtype, node.kind, node.args = d, kind, args
        _INTERNED[key] = node
    return node


def unary(kind: str, x: Expr) -> Expr:
    if isinstance(x, Const) and kind == "neg" and x.dtype is INDEX:
        return const(-x.value, INDEX)
    if kind == "not" and isinstance(x, Const) and x.dtype is BOOL:
        return const(not x.value, BOOL)
    if kind == "neg" and x.dtype is INDEX:
        return x * -1
    return _apply(kind, (x,), BOOL if kind == "isnan" else x.dtype)


def binary(kind: str, a: ExprLike, b: ExprLike) -> Expr:
    like = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else INDEX
    x, y = as_expr(a, like), as_expr(b, like)
    if x.dtype is not y.dtype:
        raise CodegenError(f"{kind} of {x.dtype} and {y.dtype}", hint="Cast one of them")
    if x.dtype is INDEX:
        return _index_binary(kind, x, y)
    if kind in ("and", "or") and x.dtype is BOOL:
        for p, q in ((x, y), (y, x)):
            if isinstance(p, Const):
                return (q if p.value else p) if kind == "and" else (p if p.value else q)
    return _apply(kind, (x, y), BOOL if kind in COMPARISONS else x.dtype)


def call(kind: str, *args: Expr) -> Expr:
    """Any kind of KINDS but cast and select, with dtypes checked."""
    if len(args) == 1:
        return unary(kind, args[0])
    if len(args) == 2:
        return binary(kind, args[0], args[1])
    return select(*args) if kind == "select" else fma(*args)


def fma(a: ExprLike, b: ExprLike, c: ExprLike) -> Expr:
    """a * b + c of floats with one rounding; of integers and indices, where nothing is rounded, a product and a sum.

    x86 CPUs that have no such instruction multiply and add, and round twice: a call for each lane would take fifty times as long.
    """
    like = next((x.dtype for x in (a, b, c) if isinstance(x, Expr)), INDEX)
    args = tuple(as_expr(x, like) for x in (a, b, c))
    if any(x.dtype is not like for x in args):
        raise CodegenError(f"fma of {', '.join(str(x.dtype) for x in args)}", hint="Cast them to one dtype")
    return _apply("fma", args, like) if like.is_float else args[0] * args[1] + args[2]


def select(condition: Expr, a: ExprLike, b: ExprLike) -> Expr:
    """`a` where `condition` holds, else `b`; both are evaluated."""
    like = a.dtype if isinstance(a, Expr) else b.dtype if isinstance(b, Expr) else INDEX
    x, y = as_expr(a, like), as_expr(b, like)
    if x.dtype is not y.dtype:
        raise CodegenError(f"select of {x.dtype} and {y.dtype}")
    if isinstance(condition, Const):
        return x if condition.value else y
    return x if x is y else _apply("select", (condition, x, y), x.dtype)


def cast(x: Expr, to: DType | str) -> Expr:
    d = INDEX if to is INDEX else dtype(to)
    if x.dtype is d:
        return x
    if isinstance(x, Const) and d.name not in ("f16", "bf16"):
        if d.is_float or d.kind == "bool" or isinstance(x.value, (int, bool)):
            return const(x.value, d)
    return _apply("cast", (x,), d)


def bitcast(x: Expr, to: DType | str) -> Expr:
    return _apply("bitcast", (x,), dtype(to))


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    return binary("min", a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    return binary("max", a, b)


def clamp(x: Expr, low: int, high: int) -> Expr:
    """An INDEX expression held within low..high inclusive."""
    return minimum(maximum(x, low), high)


def reduce(kind: str, extents: Sequence[int], body: Callable[..., Expr]) -> Expr:
    """`reduce("sum", [n], lambda k: x[k])`; identity where an extent is zero; the body where all are one and nothing to sum."""
    if kind not in REDUCTIONS:
        raise CodegenError(f"unknown reduction {kind}")
    vars = [Var(f"r{k}", INDEX, 0, max(n - 1, 0)) for k, n in enumerate(extents)]
    if all(n == 1 for n in extents):
        return body(*(const(0, INDEX) for _ in extents))
    inner = body(*vars)
    if any(n == 0 for n in extents):
        return identity_of(kind, inner.dtype)
    return Reduce(kind, vars, extents, inner)


def identity_of(kind: str, d: DType) -> Const:
    """The neutral element of a reduction."""
    if kind == "sum":
        return const(0, d)
    if kind == "prod":
        return const(1, d)
    if kind in ("any", "all"):
        return const(kind == "all", BOOL)
    if d.kind == "bool":
        return const(kind == "min", BOOL)
    if d.is_float:
        return const(-math.inf if kind in ("max", "peak") else math.inf, d)
    info = np.iinfo(d.numpy)
    return const(info.min if kind in ("max", "peak") else info.max, d)


def combine(kind: str, a: Expr, b: Expr) -> Expr:
    """One step of a reduction: `a` so far, and the element `b`. max and min propagate NaN; products are added as they are, not
    rounded before."""
    if kind == "sum" and isinstance(b, Apply) and b.kind == "mul" and b.dtype.is_float:
        x, y = b.args
        return fma(x, y, a)
    if kind == "peak":
        return select(a < b, b, a)
    name = {"sum": "add", "prod": "mul", "any": "or", "all": "and"}.get(kind, kind)
    if a.dtype is BOOL and name in ("max", "min"):
        name = {"max": "or", "min": "and"}[name]
    elif name in ("max", "min"):
        return binary(name, b, a)  # whether the first is NaN is asked: of the element, which waits for no other step
    return binary(name, a, b)


# Index arithmetic ---------------------------------------------------------------------------
def bounds(e: Expr) -> tuple[float, float]:
    """Least and greatest value of an INDEX expression, infinite where not known."""
    if isinstance(e, Const):
        return e.value, e.value
    if isinstance(e, Var):
        return (-math.inf if e.low is None else e.low), (math.inf if e.high is None else e.high)
    if isinstance(e, Apply):
        if e.kind in ("add", "sub", "mul", "min", "max", "floordiv", "floormod"):
            (a, b), (c, d) = bounds(e.args[0]), bounds(e.args[1])
            if e.kind == "add":
                return a + c, b + d
            if e.kind == "sub":
                return a - d, b - c
            if e.kind == "min":
                return min(a, c), min(b, d)
            if e.kind == "max":
                return max(a, c), max(b, d)
            if e.kind == "mul":
                products = [0 if 0 in (x, y) else x * y for x in (a, b) for y in (c, d)]
                return min(products), max(products)
            if c == d and c > 0:
                if e.kind == "floormod":
                    return (a, b) if 0 <= a and b < c else (0, c - 1)
                return (a // c if math.isfinite(a) else a), (b // c if math.isfinite(b) else b)
        if e.kind == "select":
            (a, b), (c, d) = bounds(e.args[1]), bounds(e.args[2])
            return min(a, c), max(b, d)
    return -math.inf, math.inf


def _terms(e: Expr) -> Iterator[tuple[Expr, int]]:
    """A sum as (factor, coefficient) pairs; the constant has factor const(1)."""
    if isinstance(e, Apply) and e.kind == "add":
        yield from _terms(e.args[0])
        yield from _terms(e.args[1])
    elif isinstance(e, Apply) and e.kind == "mul" and isinstance(e.args[1], Const):
        for f, c in _terms(e.args[0]):
            yield f, c * e.args[1].value
    elif isinstance(e, Const):
        yield const(1, INDEX), e.value
    else:
        yield e, 1


def _sum(terms: Iterable[tuple[Expr, int]]) -> Expr:
    total: dict[int, list[Any]] = {}
    for f, c in terms:
        total.setdefault(id(f), [f, 0])[1] += c
    one = const(1, INDEX)
    _rejoin(total)
    constant = total.pop(id(one), [one, 0])[1]
    out: Expr | None = None
    for f, c in total.values():
        if c == 0:
            continue
        term = f if c == 1 else _apply("mul", (f, const(c, INDEX)), INDEX)
        out = term if out is None else _apply("add", (out, term), INDEX)
    if out is None:
        return const(constant, INDEX)
    return out if constant == 0 else _apply("add", (out, const(constant, INDEX)), INDEX)


def _rejoin(total: dict[int, list[Any]]) -> None:
    """x % b * c + x // b * (b * c) is x * c: what reshaping there and back leaves behind."""
    changed = True
    while changed:
        changed = False
        for f, c in list(total.values()):
            if not (c and isinstance(f, Apply) and f.kind == "floormod" and isinstance(f.args[1], Const)):
                continue
            x, by = f.args[0], f.args[1].value
            quotient = [*_terms(_divide("floordiv", x, by))]
            if len(quotient) == 1 and quotient[0][1] == 1 and total.get(id(quotient[0][0]), (0, 0))[1] == c * by:
                del total[id(quotient[0][0])]
                del total[id(f)]
                for g, k in _terms(x):
                    total.setdefault(id(g), [g, 0])[1] += k * c
                changed = True
                break


def linear(e: Expr) -> tuple[dict[Var, int], list[Expr], int]:
    """An INDEX expression as coefficients of variables, other terms, and a constant."""
    coefficients: dict[Var, int] = {}
    rest: list[Expr] = []
    constant = 0
    for f, c in _terms(e):
        if isinstance(f, Var):
            coefficients[f] = coefficients.get(f, 0) + c
        elif isinstance(f, Const):
            constant += c
        else:
            rest.append(f)
    return coefficients, rest, constant


def _index_binary(kind: str, x: Expr, y: Expr) -> Expr:
    if isinstance(x, Const) and isinstance(y, Const):
        a, b = x.value, y.value
        if kind in ("floordiv", "floormod", "div") and b == 0:
            raise CodegenError("index division by zero")
        value = {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "floordiv": lambda: a // b,
                 "div": lambda: abs(a) // abs(b) * (1 if a * b >= 0 else -1), "floormod": lambda: a % b,
                 "min": lambda: min(a, b), "max": lambda: max(a, b),
                 "eq": lambda: a == b, "ne": lambda: a != b, "lt": lambda: a < b, "le": lambda: a <= b}[kind]()
        return const(value, BOOL if kind in COMPARISONS else INDEX)
    if kind == "add":
        return _sum([*_terms(x), *_terms(y)])
    if kind == "sub":
        return _sum([*_terms(x), *((f, -c) for f, c in _terms(y))])
    if kind == "mul":
        if isinstance(x, Const):
            x, y = y, x
        if isinstance(y, Const):
            return _sum((f, c * y.value) for f, c in _terms(x))
    if kind in ("floordiv", "floormod") and isinstance(y, Const) and y.value > 0:
        return _divide(kind, x, y.value)
    if kind in ("min", "max", "lt", "le", "eq", "ne"):
        (a, b), (c, d) = bounds(x), bounds(y)
        if kind == "min" and (b <= c or d <= a):
            return x if b <= c else y
        if kind == "max" and (a >= d or c >= b):
            return x if a >= d else y
        if kind == "lt" and (b < c or a >= d):
            return const(b < c, BOOL)
        if kind == "le" and (b <= c or a > d):
            return const(b <= c, BOOL)
        if kind in ("eq", "ne") and (b < c or d < a):
            return const(kind == "ne", BOOL)
    return _apply(kind, (x, y), BOOL if kind in COMPARISONS else INDEX)


def _divide(kind: str, x: Expr, by: int) -> Expr:
    """x // by or x % by: terms divisible by `by` are split off, and a remainder known to lie in 0..by-1 vanishes."""
    if by == 1:
        return x if kind == "floordiv" else const(0, INDEX)
    whole = [(f, c // by) for f, c in _terms(x) if c % by == 0]
    rest = _sum((f, c) for f, c in _terms(x) if c % by)
    low, high = bounds(rest)
    if 0 <= low and high < by:
        return _sum(whole) if kind == "floordiv" else rest
    if isinstance(rest, Const):
        return _sum([*whole, (const(1, INDEX), rest.value // by)]) if kind == "floordiv" else const(rest.value % by, INDEX)
    split = _fine(rest, by)
    if split is not None:
        coarse, fine, grain = split
        if kind == "floordiv":
            return _sum([*whole, *_terms(_divide(kind, coarse, by // grain))])
        return _divide(kind, coarse, by // grain) * grain + fine
    common = math.gcd(by, *(c for _, c in _terms(rest)))
    if common > 1 and kind == "floordiv":
        return _sum([*whole, *_terms(_divide(kind, _sum((f, c // common) for f, c in _terms(rest)), by // common))])
    if isinstance(rest, Apply) and rest.kind == "floormod" and isinstance(rest.args[1], Const) \
            and kind == "floormod" and rest.args[1].value % by == 0:
        return _divide("floormod", rest.args[0], by)
    if isinstance(rest, Apply) and rest.kind == "floordiv" and isinstance(rest.args[1], Const) and kind == "floordiv":
        return _sum([*whole, *_terms(_divide("floordiv", rest.args[0], rest.args[1].value * by))])
    core = _apply(kind, (rest, const(by, INDEX)), INDEX)
    return core if kind == "floormod" else _sum([*whole, (core, 1)])


def _fine(x: Expr, by: int) -> tuple[Expr, Expr, int] | None:
    """x = coarse * grain + fine with 0 <= fine < grain and grain a divisor of `by`: lanes within an aligned vector."""
    terms = list(_terms(x))
    for grain in sorted({math.gcd(by, c) for _, c in terms} - {1, by}, reverse=True):
        small = _sum((f, c) for f, c in terms if c % grain)
        low, high = bounds(small)
        if low >= 0 and high < grain and not isinstance(small, Const):
            return _sum((f, c // grain) for f, c in terms if c % grain == 0), small, grain
    return None


# Walking ------------------------------------------------------------------------------------
def postorder(*roots: Expr) -> list[Expr]:
    """Every node reachable from the roots once, children first."""
    seen: set[int] = set()
    out: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        node, done = stack.pop()
        if done:
            out.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(node.children))
    return out


def free_vars(e: Expr, memo: dict[int, frozenset[Var]] | None = None) -> frozenset[Var]:
    """Variables of `e` not bound by a Reduce within it."""
    memo = {} if memo is None else memo
    for node in postorder(e):
        if id(node) in memo:
            continue
        if isinstance(node, Var):
            memo[id(node)] = frozenset((node,))
        else:
            found = frozenset().union(*(memo[id(c)] for c in node.children))
            memo[id(node)] = found - frozenset(node.vars) if isinstance(node, Reduce) else found
    return memo[id(e)]


def rebuild(e: Expr, children: Sequence[Expr]) -> Expr:
    """The node with other children, simplified anew."""
    if isinstance(e, Load):
        return load(e.buffer, children)
    if isinstance(e, Reduce):
        return Reduce(e.kind, e.vars, e.extents, children[0])
    if isinstance(e, Apply):
        if e.kind == "cast":
            return cast(children[0], e.dtype)
        if e.kind == "bitcast":
            return bitcast(children[0], e.dtype)
        return call(e.kind, *children)
    return e


def substitute(e: Expr, replacements: Mapping[Any, Expr]) -> Expr:
    """Replace whole nodes (variables, loads, reductions), sharing kept."""
    memo: dict[int, Expr] = {id(k): v for k, v in replacements.items()}

    def go(node: Expr) -> Expr:
        for n in postorder_until(node, memo):
            children = n.children
            new = [memo[id(c)] for c in children]
            memo[id(n)] = n if all(a is b for a, b in zip(children, new)) else rebuild(n, new)
        return memo[id(node)]

    return go(e)


def postorder_until(root: Expr, known: dict[int, Any]) -> list[Expr]:
    """Post-order of the nodes below `root` that `known` (by id) does not hold, not descending into those it does."""
    seen: set[int] = set()
    out: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            out.append(node)
        elif id(node) not in seen and id(node) not in known:
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((c, False) for c in node.children)
    return out
