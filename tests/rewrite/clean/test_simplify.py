"""Algebra: what is exact is done, what is not is left or stated."""

import numpy as np
import pytest

from graphopt.rewrite import Simplify
from tests.rewrite.rewriting import check, names, rewritten, unchanged

SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -3.5], np.float32)


def with_constant(op: str, c: str, d: str = "f32", n: int = 7, result: str | None = None) -> str:
    result = result or d
    return f"""graph @g(%x: {d}[{n}]) -> {result}[{n}] {{
      %c = const {c} : {d}[]
      %y = {op} : {result}[{n}]
      return %y
    }}"""


def nothing(d: str = "f32", n: int = 7) -> str:
    return f"graph @g(%x: {d}[{n}]) -> {d}[{n}] {{ return %x }}"


@pytest.mark.parametrize("op, c", [("mul", "1.0"), ("div", "1.0"), ("add", "-0.0"), ("sub", "0.0"), ("pow", "1.0")])
def test_neutral_elements_of_floats(op, c):
    check(Simplify(), with_constant(f"{op}(%x, %c)", c), nothing(), inputs=[SPECIAL], ulps=0)


@pytest.mark.parametrize("op, c", [("add(%x, %c)", "0.0"), ("mul(%x, %c)", "0.0"), ("sub(%c, %x)", "0.0"),
                                   ("maximum(%x, %c)", "0.0")])
def test_what_is_not_exact_for_floats_is_left(op, c):
    unchanged(Simplify(), with_constant(op, c), inputs=[SPECIAL])


def test_a_float_minus_itself_may_be_nan():
    unchanged(Simplify(), with_constant("sub(%x, %x)", "0.0").replace("%c = const 0.0 : f32[]\n", ""), inputs=[SPECIAL])


@pytest.mark.parametrize("op, c, zero", [("add(%x, %c)", "0", False), ("mul(%x, %c)", "0", True), ("mul(%x, %c)", "1", False),
                                         ("sub(%x, %x)", "0", True)])
def test_integers_are_exact(op, c, zero):
    graph = rewritten(Simplify(), with_constant(op, c, "i8"), inputs=[np.array([-128, 127, 0, 1, 2, 3, 4], np.int8)])
    assert names(graph) == (["expand"] if zero else [])


@pytest.mark.parametrize("op, c, left", [
    ("and(%x, %c)", "true", []), ("and(%x, %c)", "false", ["expand"]), ("or(%x, %c)", "false", []), ("and(%x, %x)", "true", []),
    ("or(%x, %c)", "true", ["expand"]), ("xor(%x, %c)", "true", ["not"]), ("xor(%x, %c)", "false", [])])
def test_logic(op, c, left):
    graph = rewritten(Simplify(), with_constant(op, c, "bool", 2), inputs=[np.array([True, False])])
    assert names(graph) == left


def test_a_neutral_element_that_broadcasts_leaves_the_broadcast():
    check(Simplify(), """graph @g(%x: f32[3]) -> f32[2, 3] {
      %c = const [[1.0], [1.0]] : f32[2, 1]
      %y = mul(%x, %c) : f32[2, 3]
      return %y
    }""", """graph @g(%x: f32[3]) -> f32[2, 3] {
      %y = expand(%x) {shape=[2, 3]} : f32[2, 3]
      return %y
    }""")


def test_powers_become_products():
    graph = rewritten(Simplify(), """graph @g(%x: f32[7]) -> (f32[7], f32[7], f32[7]) {
      %two = const 2.0 : f32[]
      %three = const 3.0 : f32[]
      %minus = const -1.0 : f32[]
      %a = pow(%x, %two) : f32[7]
      %b = pow(%x, %three) : f32[7]
      %c = pow(%x, %minus) : f32[7]
      return %a, %b, %c
    }""", inputs=[SPECIAL], ulps=4)
    assert names(graph) == ["mul", "mul", "mul", "reciprocal"]


def test_one_over_a_root():
    graph = rewritten(Simplify(), """graph @g(%x: f32[7], %y: f32[7]) -> (f32[7], f32[7]) {
      %one = const 1.0 : f32[]
      %a = sqrt(%x) : f32[7]
      %b = div(%one, %a) : f32[7]
      %c = sqrt(%y) : f32[7]
      %d = div(%x, %c) : f32[7]
      return %b, %d
    }""", inputs=[SPECIAL, np.abs(SPECIAL)], ulps=4)
    assert names(graph) == ["rsqrt", "rsqrt", "mul"]


def test_constants_of_integers_add_up_those_of_floats_do_not():
    text = """graph @g(%x: {d}[3]) -> {d}[3] {{
      %a = const {a} : {d}[]
      %b = const {b} : {d}[3]
      %y = {op}(%x, %a) : {d}[3]
      %z = {op}(%y, %b) : {d}[3]
      return %z
    }}"""
    check(Simplify(), text.format(d="i8", op="add", a="100", b="[100, 1, 2]"), """graph @g(%x: i8[3]) -> i8[3] {
      %c = const [-56, 101, 102] : i8[3]
      %z = add(%x, %c) : i8[3]
      return %z
    }""")
    assert len(rewritten(Simplify(), text.format(d="u8", op="mul", a="16", b="[16, 3, 2]"))) == 2
    unchanged(Simplify(), text.format(d="f32", op="add", a="0.1", b="[0.2, 0.3, 0.4]"))
    clipped = rewritten(Simplify(), text.format(d="f32", op="minimum", a="6.0", b="[1.0, nan, 9.0]"),
                        inputs=[np.array([np.nan, 3, 7], np.float32)])
    assert names(clipped) == ["minimum"]


def test_two_constants_that_would_grow_are_left():
    unchanged(Simplify(), """graph @g(%x: i32[2, 3]) -> i32[2, 3] {
      %a = const [[1], [2]] : i32[2, 1]
      %b = const [1, 2, 3] : i32[3]
      %y = add(%x, %a) : i32[2, 3]
      %z = add(%y, %b) : i32[2, 3]
      return %z
    }""")


def test_signs_go_into_factors():
    graph = rewritten(Simplify(), """graph @g(%x: f32[7]) -> (f32[7], f32[7]) {
      %c = const 3.0 : f32[]
      %a = neg(%x) : f32[7]
      %b = mul(%a, %c) : f32[7]
      %d = mul(%x, %c) : f32[7]
      %e = neg(%d) : f32[7]
      return %b, %e
    }""", inputs=[SPECIAL])
    assert names(graph) == ["mul", "mul"]


def test_the_tolerance_is_stated():
    assert Simplify().ulps > 0
    assert all(rule.ulps == 0 for rule in Simplify.rules if "zero" in rule.name)


@pytest.mark.parametrize("size, stride, dilation, pad, window", [
    ((5, 7), 1, 6, [6, 6, 6, 6], [1, 3]),  # rows further off than there are
    ((5, 5), 1, 9, [9, 9, 9, 9], [1, 1]),
    ((4, 4), 1, 4, [0, 8, 8, 0], [1, 1]),  # only the last and the first tap see anything
    ((5, 5), 2, 4, [4, 4, 3, 4], [2, 3]),
    ((5, 5), 1, 1, [1, 1, 1, 1], None),
    ((1, 6), 1, 1, [1, 1, 1, 1], [1, 3]),
])
def test_convolutions_of_padding(size, stride, dilation, pad, window):
    out = [(n + pad[k] + pad[k + 2] - 2 * dilation - 1) // stride + 1 for k, n in enumerate(size)]
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    result = f"f32[2, 4, {out[0]}, {out[1]}]"
    text = f"""graph @g(%x: f32[2, 3, {size[0]}, {size[1]}]) -> {result} {{
      %w = const @w : f32[4, 3, 3, 3]
      %y = conv(%x, %w) {{stride=[{stride}, {stride}], pad={pad}, dilation=[{dilation}, {dilation}], groups=1}} : {result}
      return %y
    }}"""
    graph = rewritten(Simplify(), text, constants={"w": w})
    conv = next(op for op in graph.ops if op.name == "conv")
    assert list(conv.operands[1].shape[2:]) == (window or [3, 3])
