"""Algebra. A rule without `ulps` is exact for every value, infinities, NaN and -0.0 included."""

from __future__ import annotations

import numpy as np

from graphopt.ir.graph import Value
from graphopt.rewrite.engine.common import as_result, filled, is_float, is_integer, merged, operand_as_result, static_shape
from graphopt.rewrite.engine.manager import RulePass
from graphopt.rewrite.engine.pattern import Match
from graphopt.rewrite.engine.rules import Rule


def _merge(op: str, f: np.ufunc) -> Rule:
    """op(op(x, c), d) is op(x, f(c, d))."""
    def build(m: Match) -> Value | None:
        c = merged(m, "c", "d", f)
        return None if c is None else m.build.op(op, [m.x, c]).result

    exact = op in ("maximum", "minimum", "and", "or", "bit_and", "bit_or", "bit_xor")
    return Rule(f"{op} of two constants", f"{op}({op}!(%x, #c), #d)", build, when=None if exact else is_integer)


def _negated(m: Match) -> Value:
    c = m.array("c")
    with np.errstate(all="ignore"):
        return m.build.mul(m.x, m.build.const(np.asarray(np.negative(c)).astype(c.dtype)))


def _signed(m: Match) -> bool:
    return bool(m.x.dtype.is_float or m.x.dtype.kind == "int")


def _reciprocal_root(m: Match) -> Value | None:
    root = m.build.rsqrt(m.y)
    return m.build.mul(m.x, root) if m.x.dtype is m.result.dtype else None


def _taps_that_see(m: Match) -> Value | None:
    """A convolution without the outer taps of its window that meet nothing but padding, as those of a wide dilation do."""
    x, w, bias = (*m.root.operands, None)[:3]
    shape, kernel, out = static_shape(x), static_shape(w), static_shape(m.root.result)
    if x is None or w is None or shape is None or kernel is None or out is None or 0 in (*shape, *kernel, *out):
        return None
    a, n = m.root.attrs, len(shape) - 2
    before, after, dilation = list(a["pad"][:n]), list(a["pad"][n:]), list(a["dilation"])
    kept = []
    for axis in range(n):
        d, size = dilation[axis], kernel[axis + 2]
        at = np.arange(out[axis + 2])[:, None] * a["stride"][axis] - before[axis] + np.arange(size) * d
        seen = np.flatnonzero(((at >= 0) & (at < shape[axis + 2])).any(axis=0))
        if not seen.size:
            return None
        first = min(int(seen[0]), max(before[axis], 0) // d)  # padding does not become negative
        end = max(int(seen[-1]) + 1, size - max(after[axis], 0) // d)
        before[axis] -= first * d
        after[axis] -= (size - end) * d
        kept.append((first, end))
    if all(end - first == size for (first, end), size in zip(kept, kernel[2:])) or not np.isfinite(m.array("w")).all():
        return None
    axes = [axis + 2 for axis in range(n)]
    w = m.build.slice(w, axes=axes, starts=[f for f, _ in kept], ends=[e for _, e in kept], steps=[1] * n)
    dilation = [1 if e - f == 1 else d for (f, e), d in zip(kept, dilation)]
    return m.build.conv(x, w, bias, stride=a["stride"], pad=[*before, *after], dilation=dilation, groups=a["groups"])


RULES = [
    Rule("times one", "mul(%x, 1)", operand_as_result("x")),
    Rule("divided by one", "div(%x, 1)", operand_as_result("x")),
    Rule("times minus one", "mul(%x, -1)", lambda m: as_result(m, m.build.neg(m.x)), when=_signed),
    Rule("plus zero", "add(%x, 0)", operand_as_result("x"), when=is_integer),
    Rule("plus minus zero", "add(%x, -0.0)", operand_as_result("x"), when=is_float),
    Rule("minus zero", "sub(%x, 0)", operand_as_result("x")),
    Rule("times zero", "mul(%x, 0)", lambda m: filled(m, 0), when=is_integer),
    Rule("minus itself", "sub(%x, %x)", lambda m: filled(m, 0), when=is_integer),
    Rule("equal to itself", "equal(%x, %x)", lambda m: filled(m, True), when=lambda m: not m.x.dtype.is_float),
    Rule("unequal to itself", "not_equal(%x, %x)", lambda m: filled(m, False), when=lambda m: not m.x.dtype.is_float),
    Rule("and true", "and(%x, true)", operand_as_result("x")),
    Rule("and false", "and(%x, false)", lambda m: filled(m, False)),
    Rule("or false", "or(%x, false)", operand_as_result("x")),
    Rule("or true", "or(%x, true)", lambda m: filled(m, True)),
    Rule("xor false", "xor(%x, false)", operand_as_result("x")),
    Rule("xor true", "xor(%x, true)", lambda m: as_result(m, m.build.not_(m.x))),
    Rule("with itself", "and|or|maximum|minimum|bit_and|bit_or(%x, %x)", operand_as_result("x")),
    Rule("power of one", "pow(%x, 1)", operand_as_result("x")),
    Rule("square", "pow(%x, 2)", lambda m: as_result(m, m.build.mul(m.x, m.x)),
         when=lambda m: m.x.dtype is m.result.dtype, ulps=2),
    Rule("cube", "pow(%x, 3)", lambda m: as_result(m, m.build.mul(m.build.mul(m.x, m.x), m.x)),
         when=lambda m: m.x.dtype is m.result.dtype, ulps=3),
    Rule("power of minus one", "pow(%x, -1)", lambda m: as_result(m, m.build.reciprocal(m.x)),
         when=lambda m: is_float(m) and m.x.dtype is m.result.dtype, ulps=2),
    Rule("one divided by", "div(1, %x)", lambda m: as_result(m, m.build.reciprocal(m.x)), when=is_float),
    Rule("reciprocal of a root", "reciprocal(sqrt!(%x))", "rsqrt(%x)", ulps=4),
    Rule("division by a root", "div(%x, sqrt!(%y))", _reciprocal_root, ulps=4),
    Rule("sign into a factor", "mul(neg!(%x), #c)", _negated),
    Rule("sign of a product", "neg(mul!(%x, #c))", _negated),
    Rule("relu of what is not negative", "relu(%y=exp|sigmoid|abs(%x))", "%y"),
    Rule("convolution of padding", "conv(%x, #w, ...)", _taps_that_see, ulps=10),
    _merge("add", np.add), _merge("mul", np.multiply), _merge("maximum", np.maximum), _merge("minimum", np.minimum),
    _merge("and", np.logical_and), _merge("or", np.logical_or),
    _merge("bit_and", np.bitwise_and), _merge("bit_or", np.bitwise_or), _merge("bit_xor", np.bitwise_xor),
]


class Simplify(RulePass):
    """Before: a canonical graph. After: no operation with its neutral or absorbing element, no chain of integer additions or
    products of constants (floats only where the result is the same to the last bit, `min` and `max` say), small integer
    powers are products, one over a root is `rsqrt`, no convolution has outer taps that meet padding alone."""

    name = "simplify"
    rules = RULES
