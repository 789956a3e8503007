"""Scalar expressions: simplification keeps values, bounds are sound, constants fold as numpy computes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.codegen.kernel.expr import (
    INDEX,
    Apply,
    Buffer,
    Const,
    Expr,
    Reduce,
    Var,
    binary,
    bounds,
    cast,
    clamp,
    combine,
    const,
    free_vars,
    identity_of,
    linear,
    load,
    postorder,
    reduce,
    select,
    substitute,
)
from graphopt.errors import CodegenError

BINARY = {"add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "floordiv": lambda a, b: a // b,
          "floormod": lambda a, b: a % b, "min": min, "max": max, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
          "eq": lambda a, b: a == b, "ne": lambda a, b: a != b}
VARS = [Var("i", INDEX, 0, 6), Var("j", INDEX, -5, 4), Var("k", INDEX, 3, 3), Var("n", INDEX, 0, 31)]


def value(e: Expr, env: dict[Var, int]) -> Any:
    """The expression's value, by the meaning of its nodes."""
    if isinstance(e, Const):
        return e.value
    if isinstance(e, Var):
        return env[e]
    assert isinstance(e, Apply)
    args = [value(a, env) for a in e.args]
    if e.kind == "select":
        return args[1] if args[0] else args[2]
    return BINARY[e.kind](*args)


@st.composite
def index_expressions(draw: st.DrawFn, depth: int = 4) -> tuple[Expr, Any]:
    """An index expression built with its simplifications, and a function that computes it without any."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        if draw(st.booleans()):
            v = draw(st.sampled_from(VARS))
            return v, lambda env: env[v]
        c = draw(st.integers(-9, 9))
        return const(c, INDEX), lambda env: c
    kind = draw(st.sampled_from(["add", "sub", "mul", "floordiv", "floormod", "min", "max", "select"]))
    a, f = draw(index_expressions(depth=depth - 1))
    if kind == "mul":
        c = draw(st.integers(-4, 4))
        return (a * c, lambda env: f(env) * c) if draw(st.booleans()) else (c * a, lambda env: c * f(env))
    if kind in ("floordiv", "floormod"):
        c = draw(st.integers(1, 12))
        return (a // c, lambda env: f(env) // c) if kind == "floordiv" else (a % c, lambda env: f(env) % c)
    b, g = draw(index_expressions(depth=depth - 1))
    if kind == "select":
        test = draw(st.sampled_from(["lt", "le", "eq", "ne"]))
        condition = {"lt": a < b, "le": a <= b, "eq": a.eq(b), "ne": a.ne(b)}[test]
        return select(condition, a, b), lambda env: f(env) if BINARY[test](f(env), g(env)) else g(env)
    return binary(kind, a, b), lambda env: BINARY[kind](f(env), g(env))


POINTS = [dict(zip(VARS, p)) for p in itertools.product((0, 1, 5, 6), (-5, -1, 0, 4), (3,), (0, 1, 17, 31))]


@settings(max_examples=300)
@given(index_expressions())
def test_simplification_keeps_values_and_bounds_are_sound(pair: tuple[Expr, Any]) -> None:
    e, meaning = pair
    low, high = bounds(e)
    for env in POINTS:
        want = meaning(env)
        assert value(e, env) == want, (e, env)
        assert low <= want <= high, (e, env)


@settings(max_examples=150)
@given(index_expressions(), index_expressions(depth=2))
def test_substitution_commutes_with_evaluation(pair: tuple[Expr, Any], replacement: tuple[Expr, Any]) -> None:
    (e, meaning), (r, inner) = pair, replacement
    free = Var("i", INDEX)  # without bounds: the replacement may have any value
    outer = substitute(substitute(e, {VARS[0]: free}), {free: r})
    for env in POINTS:
        assert value(outer, env) == meaning({**env, VARS[0]: inner(env)}) or not 0 <= inner(env) <= 6


@settings(max_examples=100)
@given(index_expressions())
def test_linear_form_is_the_same_sum(pair: tuple[Expr, Any]) -> None:
    e, _ = pair
    coefficients, rest, constant = linear(e)
    if any(isinstance(f, Apply) for f in rest):
        return  # the coefficients of other terms are not given
    for env in POINTS:
        assert sum(c * env[v] for v, c in coefficients.items()) + constant == value(e, env)


@given(st.integers(-100, 100), st.integers(1, 20))
def test_division_floors(a: int, b: int) -> None:
    assert (const(a, INDEX) // b).value == a // b  # type: ignore[attr-defined]
    assert (const(a, INDEX) % b).value == a % b  # type: ignore[attr-defined]


def test_reshaping_there_and_back_leaves_nothing() -> None:
    i, j, k = (Var(n, INDEX, 0, m - 1) for n, m in zip("ijk", (3, 5, 7)))
    flat = (i * 5 + j) * 7 + k
    assert flat % 7 is k
    assert flat // 7 % 5 is j
    assert flat // 35 is i
    assert (flat // 35 * 5 + flat // 7 % 5) * 7 + flat % 7 is flat
    x = Var("x", INDEX)
    assert x // 6 * 6 + x % 6 is x
    assert (x + 2) // 6 * 6 + (x + 2) % 6 is x + 2
    assert x * 2 - x - x is const(0, INDEX)


def test_comparisons_known_from_bounds_are_constants() -> None:
    i = Var("i", INDEX, 0, 6)
    assert (i < 7).value is True and (i < 0).value is False  # type: ignore[attr-defined]
    assert (i >= 0).value is True and i.eq(9).value is False  # type: ignore[attr-defined]
    assert clamp(i, 0, 6) is i and clamp(i + 10, 0, 6) is const(6, INDEX)
    assert select(i < 7, i, i + 1) is i


def test_equal_expressions_are_one_object() -> None:
    b = Buffer("b", "f32", (4, 5))
    i = Var("i", INDEX, 0, 3)
    assert b[i, i + 1] is b[i, 1 + i]
    assert b[i, i].cast("f64") is cast(load(b, (i, i)), "f64")
    assert const(0.0, "f32") is not const(-0.0, "f32") and const(math.nan, "f32") is const(math.nan, "f32")
    assert const(True, "bool") is not const(1, "i8")


CASTS = [("f32", "i32", 2.0), ("i32", "i8", 300), ("i64", "u64", -1), ("i32", "bool", 5), ("bool", "f32", True),
         ("f64", "f32", 0.1), ("i64", "f32", 16777217), ("u64", "f64", 2**64 - 1), ("f32", "bool", 0.5)]


@pytest.mark.parametrize("of,to,x", CASTS)
def test_casts_of_constants_fold_as_numpy_converts(of: str, to: str, x: Any) -> None:
    from graphopt.ir.types import dtype

    folded = cast(const(x, of), to)
    wanted = np.asarray(x).astype(dtype(of).numpy).astype(dtype(to).numpy)
    assert folded.dtype.name == to
    if isinstance(folded, Const):
        assert folded.value == wanted.item()


def test_float_constants_round_to_their_dtype() -> None:
    assert const(0.1, "f32").value == float(np.float32(0.1))
    assert const(1e39, "f32").value == math.inf
    assert const(300, "u8").value == 44 and const(-1, "u32").value == 2**32 - 1


def test_select_folds_only_what_is_known() -> None:
    x, y, c = (Var(n, const(0, d).dtype) for n, d in (("x", "f32"), ("y", "f32"), ("c", "bool")))
    assert select(const(True, "bool"), x, y) is x and select(const(False, "bool"), x, y) is y
    assert select(c, x, x) is x
    kept = select(c, x, y)
    assert isinstance(kept, Apply) and kept.kind == "select"
    assert (c & True) is c and (c | False) is c and (c & False).value is False and (c | True).value is True  # type: ignore[attr-defined]


def test_float_arithmetic_is_not_reassociated() -> None:
    x = Var("x", const(0, "f32").dtype)
    assert isinstance(x * 0.0, Apply) and isinstance(x + 0.0, Apply) and isinstance(x - x, Apply)


def test_reductions_of_nothing_and_of_one() -> None:
    b = Buffer("b", "f32", (8,))
    assert reduce("sum", [0], lambda k: b[k]) is const(0.0, "f32")
    assert reduce("max", [3, 0], lambda k, l: b[k]) is const(-math.inf, "f32")
    assert reduce("sum", [1], lambda k: b[k]) is b[0]
    r = reduce("sum", [8], lambda k: b[k])
    assert isinstance(r, Reduce) and not free_vars(r)
    nested = reduce("sum", [8], lambda k: b[k] * reduce("sum", [8], lambda l: b[(k + l) % 8]))
    assert not free_vars(nested) and len([n for n in postorder(nested) if isinstance(n, Reduce)]) == 2


@pytest.mark.parametrize("of", ["f32", "f64", "i8", "i64", "u8", "bool"])
def test_identities_are_neutral(of: str) -> None:
    from graphopt.ir.types import dtype

    d = dtype(of)
    samples = [False, True] if of == "bool" else [-math.inf, -1.5, 0.0, math.inf] if d.is_float else \
        [np.iinfo(d.numpy).min, 0, 1, np.iinfo(d.numpy).max]
    functions = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}
    for kind, f in functions.items():
        if of == "bool" and kind in ("sum", "prod"):
            continue
        neutral = np.asarray(identity_of(kind, d).value).astype(d.numpy)
        for s in samples:
            x = np.asarray(s).astype(d.numpy)
            assert f(x, neutral) == x, (kind, s)


def test_mixed_dtypes_are_refused() -> None:
    x, y = Var("x", const(0, "f32").dtype), Var("y", const(0, "f64").dtype)
    for wrong in (lambda: x + y, lambda: select(const(True, "bool"), x, y), lambda: combine("sum", x, y),
                  lambda: Buffer("b", "f32", (2, 2))[0], lambda: bool(x), lambda: const(1, INDEX) // 0,
                  lambda: reduce("median", [3], lambda k: k)):
        with pytest.raises(CodegenError):
            wrong()
