"""Symbolic dimensions: integer polynomials over named symbols, with floor division, max and broadcasting as atoms.

A dimension is an `int` where it is known and a `Dim` where it is not; arithmetic on either gives
whichever the result is. Equality is structural after normalisation, so `2*N - N == N` holds. Symbols are sizes of tensors,
so never negative: `max(N, 0)` is N. A minimum is written with a maximum, `min(N, 5) = N - max(N - 5, 0)`, so that the parts
of an axis that is cut add up to the whole: `min(N, 5) + max(N - 5, 0) == N`.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import Union, overload

import numpy as np

from graphopt.errors import IRError

DimLike = Union[int, "Dim"]
Shape = tuple[DimLike, ...]
# An atom is a symbol's name, or (function, left, right) with function one of //, %, max (of what it is and 0), broadcast,
# scaled, scaled64.
Atom = str | tuple[str, DimLike, DimLike]
Monomial = tuple[Atom, ...]


def _scaled(d: int, bits: int) -> int:
    return int(np.float32(d) * np.uint32(bits).view(np.float32))


def _scaled64(d: int, bits: int) -> int:
    return int(np.float64(d) * np.uint64(bits).view(np.float64))


def _broadcast(a: int, b: int) -> int:
    return b if a == 1 else a


CALLED = ("min", "max", "broadcast", "scaled", "scaled64")  # written as calls, so no names of symbols
_FUNCTIONS: dict[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
    "broadcast": _broadcast,
    "scaled": _scaled,
    "scaled64": _scaled64,
}


class Dim:
    """A non-constant integer polynomial; make symbols with `Dim.symbol`, everything else by arithmetic."""

    __slots__ = ("_hash", "_text", "terms", "weight")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)
        self._text: str | None = None
        self.weight: int = sum(map(_atom_weight, (a for m, _ in terms for a in m)))  # how many symbols stand in it

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
                if other > 0 and (nested := _quotient_in(remainder)) is not None:
                    return whole + nested[0] // (nested[1] * other)
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
        if self._text is None:
            self._text = _extreme_text(self) or self._sum()
        return self._text

    def _sum(self) -> str:
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


def _atom_weight(atom: Atom) -> int:
    return 1 if isinstance(atom, str) else sum(d.weight for d in atom[1:] if isinstance(d, Dim))


def _show_atom(atom: Atom) -> str:
    if isinstance(atom, str):
        return atom
    function, a, b = atom
    if function in CALLED:
        return f"{function}({a}, {b})"
    return f"({_bracketed(a)}{function}{_bracketed(b)})"


def _bracketed(d: DimLike) -> str:
    return f"({d})" if isinstance(d, Dim) and not _is_symbol(d) else str(d)


def _extreme_text(d: Dim) -> str | None:
    """A sum that is c*min(a, b) or c*max(a, b), so written where that is shorter."""
    for term in d.terms:
        monomial, c = term
        if len(monomial) != 1 or isinstance(monomial[0], str) or monomial[0][0] != "max":
            continue
        inner, rest = monomial[0][1], _normalise(t for t in d.terms if t is not term)
        c, function = (-c, "min") if c < 0 else (c, "max")
        if rest == 0 or any(k % c for _, k in _terms(rest)):
            continue
        a = _normalise((m, k // c) for m, k in _terms(rest))
        b = a - inner if function == "min" else a + inner
        if len(_terms(a)) + len(_terms(b)) <= len(d.terms):
            a, b = sorted((a, b), key=str)
            return f"{'' if c == 1 else f'{c}*'}{function}({a}, {b})"
    return None


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


def _order(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    """Monomials so that a product of two greater ones is greater: by degree, then by their letters."""
    return len(monomial), tuple(map(str, monomial))


def _quotient_in(d: DimLike) -> tuple[DimLike, int] | None:
    """What `d`, a//k + b, is the quotient of, and by which k: a + k*b."""
    for m, c in _terms(d):
        if c == 1 and len(m) == 1 and m[0][0] == "//" and isinstance(k := m[0][2], int) and k > 0:
            return (d - _normalise([(m, c)])) * k + m[0][1], k  # type: ignore[operator]
    return None


def _divide(a: Dim, b: Dim) -> DimLike | None:
    """a / b where b divides a as a polynomial (with integers for coefficients)."""
    monomial, coefficient = max(b.terms, key=lambda t: _order(t[0]))
    out: list[tuple[Monomial, int]] = []
    rest: DimLike = a
    while isinstance(rest, Dim) or rest:
        if len(out) > len(a.terms) + len(b.terms):
            return None
        m, c = max(_terms(rest), key=lambda t: _order(t[0]))
        left = list(m)
        for atom in monomial:
            if atom not in left:
                return None
            left.remove(atom)
        if c % coefficient:
            return None
        out.append((tuple(left), c // coefficient))
        rest = rest - b * _normalise(out[-1:])
    return _normalise(out)


def apply(function: str, a: DimLike, b: DimLike) -> DimLike:
    """`a function b` for //, %, min, max or broadcast, folded where both are known or equal."""
    if isinstance(a, int) and isinstance(b, int):
        return _FUNCTIONS[function](a, b)
    if function == "//":
        return a // b
    if function == "%":
        return a % b if isinstance(a, Dim) else _atom("%", a, b)
    if function in ("scaled", "scaled64"):
        return _atom(function, a, b)
    if function == "broadcast":
        return broadcast_dim(a, b)
    return dim_min(a, b) if function == "min" else dim_max(a, b)


def dim_min(a: DimLike, b: DimLike) -> DimLike:
    return a - positive(a - b)


def dim_max(a: DimLike, b: DimLike) -> DimLike:
    return b + positive(a - b)


def positive(d: DimLike) -> DimLike:
    """max(d, 0), with what divides all terms taken out, and of a sign that d and -d agree on."""
    if isinstance(d, int):
        return max(d, 0)
    if never_negative(d):
        return d
    if never_negative(-d):
        return 0
    if (factor := _common_factor(d)) != 1:
        return factor * positive(d // factor)
    if (flat := _of_positive(d)) is not None:
        return flat
    if (flat := _of_positive(-d)) is not None:
        return flat + d
    return _atom("max", d, 0) if d.terms[0][1] > 0 else _atom("max", -d, 0) + d


def _common_factor(d: Dim) -> DimLike:
    """What divides all terms and is never negative."""
    shared = list(d.terms[0][0])
    for m, _ in d.terms[1:]:
        shared = [a for k, a in enumerate(shared) if shared[:k + 1].count(a) <= m.count(a)]
    return _normalise([(tuple(filter(_atom_never_negative, shared)), math.gcd(*(c for _, c in d.terms)))])


def _of_positive(d: DimLike) -> DimLike | None:
    """An axis that is cut twice: max(c*max(a, 0) - b, 0) as max(c*a - b, 0) where b is not negative, and
    max(b - c*max(a, 0), 0) as max(b, 0) - c*max(a, 0) where b - c*a is not."""
    for m, c in _terms(d):
        if len(m) != 1 or m[0][0] != "max":
            continue
        cut, inner = _normalise([(m, c)]), m[0][1]
        assert not isinstance(inner, str)
        rest, whole = d - cut, d - cut + inner * c
        if c > 0 and never_negative(-rest):
            return positive(whole)
        if c < 0 and never_negative(whole):
            return positive(rest) + cut
    return None


def broadcast_dim(a: DimLike, b: DimLike) -> DimLike:
    """What two dims that fit each other broadcast to: either, if it is not 1."""
    if a == b or (isinstance(b, int) and b == 1) or (isinstance(a, int) and a != 1):
        return a
    if isinstance(a, int) or isinstance(b, int):
        return b
    for x, y in ((a, b), (b, a)):
        if never_negative(x - y) and never_negative(y - dim_min(x, 1)):
            return x  # y is neither more, nor 0 where x is 1
    first, *others = sorted({*_broadcasted(a), *_broadcasted(b)}, key=str)
    return functools.reduce(functools.partial(_atom, "broadcast"), others, first)


def _broadcasted(d: Dim) -> Iterable[Dim]:
    """The dims that `d` is the broadcast of, or itself."""
    if len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        atom = d.terms[0][0][0]
        if not isinstance(atom, str) and atom[0] == "broadcast":
            return [*_broadcasted(atom[1]), *_broadcasted(atom[2])]  # type: ignore[arg-type]
    return [d]


MOST_CASES = 40  # that are told apart to show that a dim is not negative


def never_negative(d: DimLike) -> bool:
    """Is `d` at least 0 for all sizes? False where that cannot be shown."""
    return d >= 0 if isinstance(d, int) else _shown(d)


@functools.lru_cache(maxsize=1 << 14)
def _shown(d: Dim) -> bool:
    return _at_least_0(d, [MOST_CASES])


def _at_least_0(d: DimLike, left: list[int]) -> bool:
    """The same, with at most so many cases more: every atom is replaced by what it may be, or by its bounds."""
    if isinstance(d, int):
        return d >= 0
    left[0] -= 1
    if left[0] < 0 or (substitute(d, dict.fromkeys(d.symbols(), 0)) if _total(d) else 0) < 0:  # type: ignore[operator]
        return False
    if all(c > 0 and all(map(_atom_never_negative, m)) for m, c in d.terms):
        return True
    falling = {a for m, c in d.terms if c < 0 for a in m if not isinstance(a, str)}
    rising = {a for m, c in d.terms if c > 0 for a in m if not isinstance(a, str)}
    for atom in sorted(falling, key=str) + sorted(rising - falling, key=str):
        function, a, b = atom
        least, most = _monotone(d, atom) and atom not in falling, _monotone(d, atom) and atom not in rising
        divides = isinstance(b, int) and b > 0 and (least or most)
        if function in ("max", "broadcast"):  # is one or the other
            tests = (_at_least_0(_with(d, atom, v), left) for v in (a, b))
            shown = any(tests) if least and function == "max" else all(tests)
        elif function == "//" and divides:  # b times the quotient is at most a, and at least a - (b - 1)
            shown = least and never_negative(a) and _at_least_0(_with(d, atom, 0), left)
            shown = shown or _at_least_0(_bounded(d, atom, a - (b - 1) if least else a, b), left)  # type: ignore[arg-type]
        elif function == "%" and divides:
            shown = _at_least_0(_with(d, atom, 0 if least else b - 1), left)
        else:
            continue
        if shown:
            return True
    return False


def _monotone(d: Dim, atom: Atom) -> bool:
    """Does the atom stand in products with what is never negative alone?"""
    return all(_atom_never_negative(a) for m, _ in d.terms if atom in m for a in m if a != atom) and \
        all(m.count(atom) < 2 for m, _ in d.terms)


def _total(d: DimLike) -> bool:
    """Is there a value for every size? There is none where one divides by another."""
    return all(a[0] not in ("//", "%") or (isinstance(a[2], int) and a[2] > 0) for a in _atoms(d))


def _atoms(d: DimLike) -> Iterable[tuple[str, DimLike, DimLike]]:
    for m, _ in _terms(d):
        for a in m:
            if not isinstance(a, str):
                yield a
                yield from _atoms(a[1])
                yield from _atoms(a[2])


def _atom_never_negative(a: Atom) -> bool:
    if isinstance(a, str):
        return True
    function, left, right = a
    if function == "max":
        return True
    if function == "%":
        return never_negative(right)
    return never_negative(left) and (function.startswith("scaled") or never_negative(right))


def _with(d: Dim, atom: Atom, value: DimLike) -> DimLike:
    """`d` with an atom replaced."""
    total: DimLike = 0
    for m, c in d.terms:
        rest: DimLike = _normalise([(tuple(a for a in m if a != atom), c)])
        for _ in range(m.count(atom)):
            rest = rest * value
        total = total + rest
    return total


def _bounded(d: Dim, atom: Atom, bound: DimLike, divisor: int) -> DimLike:
    """divisor*d with divisor*atom replaced by its bound; the atom stands once in a product. Where this is above -divisor, d is
    above -1, which is enough for an integer: what is added says so."""
    without, with_one = _with(d, atom, 0), _with(d, atom, 1)
    return without * divisor + (with_one - without) * bound + (divisor - 1)


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


MOST_SYMBOLS = 12  # in a dim; each may stand in the next op's twice


def too_long(d: DimLike) -> bool:
    """Is a dim better a symbol of its own, which is known as soon as the value is?"""
    return isinstance(d, Dim) and d.weight > MOST_SYMBOLS


def dim_symbols(d: DimLike) -> set[str]:
    return d.symbols() if isinstance(d, Dim) else set()


def is_static(shape: Iterable[DimLike]) -> bool:
    return all(isinstance(d, int) for d in shape)


def parse_dim(text: str) -> DimLike:
    """Read a dimension as printed: Python's arithmetic over names and integers with + - * // % and calls of CALLED."""

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
            case ast.Call(func=ast.Name(id=function), args=[a, b]) if function in CALLED:
                return apply(function, build(a), build(b))
        raise IRError(f"{text!r} is not a dimension", 
                      hint="Write an integer, a name, or + - * // % min() max() broadcast() of them")

    try:
        return build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        raise IRError(f"{text!r} is not a dimension") from None
