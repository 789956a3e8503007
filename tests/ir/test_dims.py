"""Symbolic dims: what they simplify to, and that arithmetic and substitution commute."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from graphopt.ir.dims import (
    Dim,
    apply,
    broadcast_dim,
    ceil_div,
    dim_max,
    dim_min,
    dim_symbols,
    is_static,
    never_negative,
    parse_dim,
    product,
    substitute,
)

N, S, T = (Dim.symbol(n) for n in "NST")
FUNCTIONS = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b, "%": lambda a, b: a % b,
    "min": min, "max": max,
}


def combine(function, a, b):
    if function in ("+", "-", "*"):
        return FUNCTIONS[function](a, b)
    return apply(function, a, b)


EXPRESSIONS = st.recursive(
    st.one_of(st.sampled_from(["N", "S", "T"]), st.integers(-5, 9)),
    lambda inner: st.tuples(st.sampled_from(list(FUNCTIONS)), inner, inner), max_leaves=8)


def build(tree):
    if isinstance(tree, tuple):
        return combine(tree[0], build(tree[1]), build(tree[2]))
    return Dim.symbol(tree) if isinstance(tree, str) else tree


def run(tree, values):
    if isinstance(tree, tuple):
        return FUNCTIONS[tree[0]](run(tree[1], values), run(tree[2], values))
    return values[tree] if isinstance(tree, str) else tree


@settings(max_examples=300)
@given(tree=EXPRESSIONS, values=st.fixed_dictionaries({n: st.integers(0, 20) for n in "NST"}))
def test_substitution_gives_what_python_gives(tree, values):
    try:
        wanted = run(tree, values)
        dim = build(tree)
    except (ZeroDivisionError, IRError):
        return
    try:
        got = substitute(dim, values)
    except ZeroDivisionError:
        pytest.fail(f"{dim} divides by zero")
    assert got == wanted, dim


@settings(max_examples=300)
@given(tree=EXPRESSIONS)
def test_printed_dims_parse_to_themselves(tree):
    try:
        dim = build(tree)
    except (ZeroDivisionError, IRError):
        return
    assert parse_dim(str(dim)) == dim
    assert str(parse_dim(str(dim))) == str(dim)


@settings(max_examples=100)
@given(a=EXPRESSIONS, b=EXPRESSIONS, c=EXPRESSIONS)
def test_sums_and_products_are_normal_forms(a, b, c):
    try:
        a, b, c = build(a), build(b), build(c)
    except (ZeroDivisionError, IRError):
        return
    assert a + b == b + a and a * b == b * a
    assert (a + b) + c == a + (b + c) and a * (b + c) == a * b + a * c
    assert a - a == 0 and hash(a + b) == hash(b + a)


@pytest.mark.parametrize("dim, text", [
    (2 * N - N, "N"), (N - N, "0"), (3 - N, "-N + 3"), (N * S * 2 + 1, "2*N*S + 1"), (-N, "-N"), (N // 1, "N"),
    (4 * N // 2, "2*N"), ((4 * N + 3) // 2, "2*N + 1"), ((N + 1) // 2, "((N + 1)//2)"), (N // S, "(N//S)"), (0 // N, "0"),
    (4 * N % 2, "0"), (N % 2, "(N%2)"), (N * S // N, "S"), ((N * S + N) // N, "S + 1"), (product([N, 2, S, 3]), "6*N*S"),
    (dim_min(N, 5), "min(5, N)"), (dim_max(S, N), "max(N, S)"), (dim_min(N, N), "N"), (dim_max(2, 7), "7"),
    (ceil_div(N, 4), "((N + 3)//4)"), (ceil_div(8 * N, 4), "2*N"), (dim_max(N, 0), "N"), (dim_min(N, 0), "0"),
    (dim_min(N, N + S), "N"), (dim_max(N // 2, N), "N"), (dim_max(N - (N + 1) // 2, 0), "N - ((N + 1)//2)"),
    (dim_min(N, 5) + dim_max(N - 5, 0), "N"), (dim_min(N, S) + dim_max(N, S), "N + S"),
    (dim_max(4 * N - 8, 0), "4*max(N - 2, 0)"), (dim_max(dim_max(N - 1, 0) - 2, 0), "max(N - 3, 0)"),
    (dim_max(N * S - N, 0) // N, "max(S - 1, 0)"),
    (dim_min(dim_min(N, 7), 5), "min(5, N)"), (S * dim_min(N, 5) // dim_min(N, 5), "S"), (N % 3 - dim_min(N % 3, 2), "0"),
    (broadcast_dim(N, S), "broadcast(N, S)"), (broadcast_dim(S, broadcast_dim(N, S)), "broadcast(N, S)"),
    (broadcast_dim(N, 1), "N"), (broadcast_dim(7, N), "7"), (broadcast_dim(0, N), "0"),
    (broadcast_dim(N + 2, dim_min(N + 2, 9)), "N + 2"),
])
def test_dims_simplify(dim, text):
    assert str(dim) == text


@settings(max_examples=300)
@given(tree=EXPRESSIONS, values=st.fixed_dictionaries({n: st.integers(0, 20) for n in "NST"}))
def test_what_is_shown_never_to_be_negative_is_not(tree, values):
    try:
        dim, value = build(tree), run(tree, values)
    except (ZeroDivisionError, IRError):
        return
    assert not never_negative(dim) or value >= 0


def test_symbols_are_found_inside_functions():
    assert dim_symbols((N + 1) // 2 + dim_min(S, T * 2)) == {"N", "S", "T"}
    assert dim_symbols(7) == set()


def test_substitution_may_be_partial():
    assert substitute(N * S + 1, {"N": 3}) == 3 * S + 1
    assert substitute(dim_max(N, S), {"N": S}) == S
    assert substitute((N + 1) // 2, {"N": 2 * S}) == S
    assert substitute(5, {"N": 3}) == 5


def test_static_shapes():
    assert is_static((1, 2)) and not is_static((1, N)) and is_static(())


def test_equality_is_with_dims_only():
    assert N == Dim.symbol("N") and N != S and N != "N" and N != 1
    assert len({N, Dim.symbol("N"), S}) == 2


@pytest.mark.parametrize("text", ["", "1.5", "N +", "f(N)", "N / 2", "min(N)", "'N'", "N if S else T", "N**2"])
def test_what_is_not_a_dim_is_refused(text):
    with pytest.raises(IRError, match="is not a dimension"):
        parse_dim(text)


@pytest.mark.parametrize("name", ["", "1a", "a b", "min", "max", "a.b"])
def test_names_of_dims_are_identifiers(name):
    with pytest.raises(IRError, match="not a name"):
        Dim.symbol(name)


def test_division_by_zero_is_refused():
    with pytest.raises(IRError, match="division of the dimension N by zero"):
        N // 0
