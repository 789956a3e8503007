"""Symbolic dimensions: integer polynomials over named symbols, with floor division, min and max as atoms.

A dimension is an `int` where it is known and a `Dim` where it is not; arithmetic on either gives
whichever the result is. Equality is structural after normalisation, so `2*N - N == N` holds.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Union, overload

import numpy as np

from graphopt.errors import IRError

DimLike = Union[int, "Dim"]
Shape = tuple[DimLike, ...]
# An atom is a symbol's name, or (function, left, right) with function one of //, %, min, max, scaled, scaled64.
Atom = str | tuple[str, DimLike, DimLike]
Monomial = tuple[Atom, ...]

def _scaled(d: int, bits: int) -> int:
    return int(np.float32(d) * np.uint32(bits).view(np.float32))


def _scaled64(d: int, bits: int) -> int:
    return int(np.float64(d) * np.uint64(bits).view(np.float64))


CALLED = ("min", "max", "scaled", "scaled64")  # written as calls, so no names of symbols
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
    "scaled": _scaled,
    "scaled64": _scaled64,
}


class Dim:
    """A non-constant integer polynomial; make symbols with `Dim.symbol`, everything else by arithmetic."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    @staticmethod
    def symbol(name: str) -> Dim:
        if not name.isidentifier() or name in CALLED:
            raise IRError(f"{name!r} is not a name for a dimension", hint="Use a Python identifier")
        return Dim((((name,), 1),))

    # Arithmetic -----------------------------------------------------------------------------
    def __add__(self, other: DimLike) -> DimLike:
        return _normalise([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> DimLike:
        return self * -1

    def __sub__(self, other: DimLike) -> DimLike:
        return self + other * -1

    def __rsub__(self, other: DimLike) -> DimLike:
        return self * -1 + other

    def __mul__(self, other: DimLike) -> DimLike:
        return _normalise(
            (tuple(sorted(m1 + m2, key=str)), c1 * c2) for m1, c1 in self.terms for m2, c2 in _terms(other)
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: DimLike) -> DimLike:
        if isinstance(other, int):
            if other == 0:
                raise IRError(f"division of the dimension {self} by zero")
            exact = [(m, c) for m, c in self.terms if c % other == 0]
            if rest := [(m, c) for m, c in self.terms if c % other]:
                whole = _normalise((m, c // other) for m, c in exact)
                if other == 1:
                    return whole
                remainder = _normalise(rest)
                inner = remainder // other if isinstance(remainder, int) else _atom("//", remainder, other)
                return whole + inner
            return _normalise((m, c // other) for m, c in exact)
        quotient = _divide(self, other)
        return quotient if quotient is not None else _atom("//", self, other)

    def __rfloordiv__(self, other: int) -> DimLike:
        return 0 if other == 0 else _atom("//", other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        if self == other or (isinstance(other, int) and all(c % other == 0 for _, c in self.terms)):
            return 0
        return _atom("%", self, other)

    # Comparison and printing ---------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            factors = "*".join(_show_atom(a) for a in monomial)
            size = abs(coefficient)
            term = str(size) if not monomial else factors if size == 1 else f"{size}*{factors}"
            text += (" - " if coefficient < 0 else " + ") + term
        return text[3:] if text.startswith(" + ") else "-" + text[3:]

    def __repr__(self) -> str:
        return f"Dim({self})"

    # Questions -----------------------------------------------------------------------------
    def symbols(self) -> set[str]:
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, str):
                    found.add(atom)
                else:
                    found |= dim_symbols(atom[1]) | dim_symbols(atom[2])
        return found

    def substitute(self, values: Mapping[str, DimLike]) -> DimLike:
        """Replace symbols by values; symbols that `values` lacks stay."""
        total: DimLike = 0
        for monomial, coefficient in self.terms:
            product: DimLike = coefficient
            for atom in monomial:
                if isinstance(atom, str):
                    factor = values.get(atom)
                    product = product * (Dim.symbol(atom) if factor is None else factor)
                else:
                    function, a, b = atom
                    product = product * apply(function, substitute(a, values), substitute(b, values))
            total = total + product
        return total


def _show_atom(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom
    function, a, b = atom
    if function in CALLED:
        return f"{function}({a}, {b})"
    wrap = lambda d: f"({d})" if isinstance(d, Dim) and not _is_symbol(d) else str(d)
    return f"({wrap(a)}{function}{wrap(b)})"


def _is_symbol(d: Dim) -> bool:
    return len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1 and isinstance(d.terms[0][0][0], str)


def _terms(d: DimLike) -> tuple[tuple[Monomial, int], ...]:
    return d.terms if isinstance(d, Dim) else (((), int(d)),)


def _atom(function: str, a: DimLike, b: DimLike) -> Dim:
    return Dim(((((function, a, b),), 1),))


def _normalise(terms: Iterable[tuple[Monomial, int]]) -> DimLike:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = sorted(((m, c) for m, c in total.items() if c), key=lambda t: (-len(t[0]), str(t[0])))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Dim(tuple(kept))


def _divide(a: Dim, b: Dim) -> DimLike | None:
    """a / b where b is one monomial that divides every term of a."""
    if len(b.terms) != 1:
        return 1 if a == b else None
    monomial, coefficient = b.terms[0]
    out = []
    for m, c in a.terms:
        rest = list(m)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if c % coefficient:
            return None
        out.append((tuple(rest), c // coefficient))
    return _normalise(out)


def apply(function: str, a: DimLike, b: DimLike) -> DimLike:
    """`a function b` for //, %, min or max, folded where both are known or equal."""
    if isinstance(a, int) and isinstance(b, int):
        return _FUNCTIONS[function](a, b)
    if function == "//":
        return a // b
    if function == "%":
        return a % b if isinstance(a, Dim) else _atom("%", a, b)
    if function in ("scaled", "scaled64"):
        return _atom(function, a, b)
    if a == b:
        return a
    a, b = sorted((a, b), key=str)
    return _atom(function, a, b)


def dim_min(a: DimLike, b: DimLike) -> DimLike:
    return apply("min", a, b)


def dim_max(a: DimLike, b: DimLike) -> DimLike:
    return apply("max", a, b)


def scaled(d: DimLike, scale: float, wide: bool = False) -> DimLike:
    """The size that resizing `d` elements by `scale` gives: their product, rounded down, in f32 as onnxruntime computes it, or
    with `wide` in f64 as PyTorch does (5 * 1.4 is 7 in both, and not 6.99...). Multiples of a power of two give a polynomial."""
    factor = np.float64(scale) if wide else np.float32(scale)
    exact = Fraction(float(factor))
    if isinstance(d, Dim) and exact.denominator <= 64 and exact.numerator < 4096:  # no product of a tensor's size is rounded
        return d * exact.numerator // exact.denominator
    return apply("scaled64", d, int(factor.view(np.uint64))) if wide else apply("scaled", d, int(factor.view(np.uint32)))


@overload
def ceil_div(a: int, b: int) -> int: ...
@overload
def ceil_div(a: DimLike, b: DimLike) -> DimLike: ...
def ceil_div(a: DimLike, b: DimLike) -> DimLike:
    """The quotient rounded up; b is positive."""
    return (a + b - 1) // b


def product(dims: Iterable[DimLike]) -> DimLike:
    total: DimLike = 1
    for d in dims:
        total = total * d
    return total


def substitute(d: DimLike, values: Mapping[str, DimLike]) -> DimLike:
    return d.substitute(values) if isinstance(d, Dim) else d


def dim_symbols(d: DimLike) -> set[str]:
    return d.symbols() if isinstance(d, Dim) else set()


def is_static(shape: Iterable[DimLike]) -> bool:
    return all(isinstance(d, int) for d in shape)


def parse_dim(text: str) -> DimLike:
    """Read a dimension as printed: Python's arithmetic over names and integers with + - * // % min max scaled scaled64."""

    def build(node: ast.expr) -> DimLike:
        match node:
            case ast.Constant(value=int(v)):
                return v
            case ast.Name(id=name):
                return Dim.symbol(name)
            case ast.UnaryOp(op=ast.USub(), operand=x):
                return build(x) * -1
            case ast.BinOp(left=a, op=op, right=b):
                left, right = build(a), build(b)
                if isinstance(op, ast.Add):
                    return left + right
                if isinstance(op, ast.Sub):
                    return left - right
                if isinstance(op, ast.Mult):
                    return left * right
                if isinstance(op, ast.FloorDiv):
                    return apply("//", left, right)
                if isinstance(op, ast.Mod):
                    return apply("%", left, right)
            case ast.Call(func=ast.Name(id="min" | "max" | "scaled" | "scaled64" as function), args=[a, b]):
                return apply(function, build(a), build(b))
        raise IRError(f"{text!r} is not a dimension", hint="Write an integer, a name, or + - * // % min() max() of them")

    try:
        return build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise IRError(f"{text!r} is not a dimension") from None
