"""Einsum as transposes, reductions and one matrix product for every two operands."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.capture.onnx.context import Context, Node, rank_of
from graphopt.capture.onnx.table import Results, entry
from graphopt.ir.dims import DimLike, broadcast_dim, product
from graphopt.ir.graph import Value
from graphopt.ir.types import I64


@entry("Einsum")
def einsum(b: Context, n: Node) -> Results:
    xs = [v for v in n.inputs if v is not None]
    terms, result = parse(n.attr("equation"), [len(rank_of(x)) for x in xs], n)
    return contract(b, xs, terms, result)


def parse(equation: str, ranks: Sequence[int], n: Node) -> tuple[list[str], str]:
    """Index letters of each operand and of the result; an ellipsis becomes letters of its own."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise n.error(f"the equation {equation!r} has {len(terms)} terms for {len(ranks)} operands")
    extra = max([r - len(t.replace("...", "")) for t, r in zip(terms, ranks) if "..." in t], default=0)
    letters = "".join(chr(0x3B1 + i) for i in range(extra))
    full = []
    for t, r in zip(terms, ranks):
        if "..." in t:
            t = t.replace("...", letters[extra - (r - len(t) + 3):])
        if len(t) != r:
            raise n.error(f"the term {t!r} of {equation!r} does not fit an operand of rank {r}")
        full.append(t)
    if arrow:
        result = right.replace("...", letters)
    else:
        joined = "".join(full)
        result = letters + "".join(sorted(c for c in set(joined) if joined.count(c) == 1 and c not in letters))
    return full, result


def contract(b: Context, xs: Sequence[Value], terms: Sequence[str], result: str) -> Value:
    """The sum over all indices that are not in the result of the product of the operands."""
    pairs = [_diagonal(b, x, t) for x, t in zip(xs, terms)]
    x, term = pairs[0]
    for i, (y, other) in enumerate(pairs[1:], 1):
        later = set(result).union(*(t for _, t in pairs[i + 1:]))
        x, term = _two(b, x, term, y, other, later)
    x, term = _summed(b, x, term, set(result))
    return b.permuted(x, [term.index(c) for c in result])


def _diagonal(b: Context, x: Value, term: str) -> tuple[Value, str]:
    """Repeated letters within a term: keep the elements where their indices agree."""
    while len(set(term)) < len(term):
        c = next(c for c in term if term.count(c) > 1)
        i = term.index(c)
        j = term.index(c, i + 1)
        shape = rank_of(x)
        rows = b.iota(shape=[d if a == i else 1 for a, d in enumerate(shape)], axis=i, dtype=I64)
        columns = b.iota(shape=[d if a == j else 1 for a, d in enumerate(shape)], axis=j, dtype=I64)
        x = b.reduce_sum(b.where(b.equal(rows, columns), x, b.const(0, x.dtype)), axes=(j,), keepdims=False)
        term = term[:j] + term[j + 1:]
    return x, term


def _summed(b: Context, x: Value, term: str, keep: set[str]) -> tuple[Value, str]:
    axes = tuple(i for i, c in enumerate(term) if c not in keep)
    if axes:
        x = b.reduce_sum(x, axes=axes, keepdims=False)
    return x, "".join(c for c in term if c in keep)


def _two(b: Context, x: Value, s: str, y: Value, t: str, later: set[str]) -> tuple[Value, str]:
    """Contract two operands over the letters that only they have."""
    x, s = _summed(b, x, s, later | set(t))
    y, t = _summed(b, y, t, later | set(s))
    sizes: dict[str, DimLike] = {}
    for term, v in ((s, x), (t, y)):
        for c, d in zip(term, rank_of(v)):
            sizes[c] = broadcast_dim(sizes.get(c, 1), d)
    x, y = _grown(b, x, s, t, sizes), _grown(b, y, t, s, sizes)
    batch = [c for c in s if c in t and c in later]
    inner = [c for c in s if c in t and c not in later]
    left, right = [c for c in s if c not in t], [c for c in t if c not in s]
    if not inner:
        order = [*batch, *left, *right]
        a = b.permuted(x, [s.index(c) for c in (*batch, *left)])
        a = b.reshaped(a, [*(sizes[c] for c in (*batch, *left)), *([1] * len(right))])
        z = b.permuted(y, [t.index(c) for c in (*batch, *right)])
        z = b.reshaped(z, [*(sizes[c] for c in batch), *([1] * len(left)), *(sizes[c] for c in right)])
        return b.mul(a, z), "".join(order)
    a = b.permuted(x, [s.index(c) for c in (*batch, *left, *inner)])
    z = b.permuted(y, [t.index(c) for c in (*batch, *inner, *right)])
    outer = [sizes[c] for c in batch]
    rows, depth, columns = (product(sizes[c] for c in group) for group in (left, inner, right))
    m = b.matmul(b.reshaped(a, [*outer, rows, depth]), b.reshaped(z, [*outer, depth, columns]))
    order = [*batch, *left, *right]
    return b.reshaped(m, [sizes[c] for c in order]), "".join(order)


def _grown(b: Context, x: Value, term: str, other: str, sizes: dict[str, DimLike]) -> Value:
    """Shared letters of size 1 broadcast to the other operand's size."""
    shape = tuple(sizes[c] if c in other else d for c, d in zip(term, rank_of(x)))
    return x if shape == rank_of(x) else b.expand(x, shape=shape)


__all__ = ["contract", "parse"]
