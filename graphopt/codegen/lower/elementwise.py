"""Elementwise ops: one element of the result from one element of each broadcast operand."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphopt.codegen.kernel.expr import Const, Expr, binary, bitcast, call, cast, const, fma, maximum, minimum, select
from graphopt.codegen.lower.common import is_nan
from graphopt.codegen.lower.registry import OpView, compute
from graphopt.ir.types import BF16, BOOL, F16, F32, I32, I64, DType


def like(x: Expr, value: float) -> Const:
    return const(value, x.dtype)


# Unary --------------------------------------------------------------------------------------
def _neg(x: Expr) -> Expr:
    return ~x + 1 if x.dtype.kind == "uint" else -x  # TVM's simplifier takes 0 - x of an unsigned x for 0


def _sign(x: Expr) -> Expr:
    # Written so that NaN falls through to itself and -0 becomes 0, as numpy has it.
    below = select(x < 0, like(x, -1) if x.dtype.kind != "uint" else like(x, 0), select(x.eq(0), like(x, 0), x))
    return select(x > 0, like(x, 1), below)


def _sigmoid(x: Expr) -> Expr:
    return 1 / (1 + call("exp", -x))


def _softplus(x: Expr) -> Expr:
    """log(1 + exp(x)) without overflow."""
    return maximum(x, 0) + call("log1p", call("exp", -call("abs", x)))


def _identity_if_integer(kind: str) -> Callable[[Expr], Expr]:
    return lambda x: call(kind, x) if x.dtype.is_float else x


def _float_call(kind: str) -> Callable[[Expr], Expr]:
    return lambda x: call(kind, x)


UNARY: dict[str, Callable[[Expr], Expr]] = {
    **{k: _float_call(k) for k in ("sqrt", "exp", "log", "log1p", "expm1", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
                                   "cosh", "tanh", "asinh", "acosh", "atanh", "erf")},
    **{k: _identity_if_integer(k) for k in ("floor", "ceil", "round", "trunc")},
    "neg": _neg,
    "abs": lambda x: x if x.dtype.kind in ("uint", "bool") else call("abs", x),
    "sign": _sign,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / call("sqrt", x),
    "sigmoid": _sigmoid,
    "relu": lambda x: x if x.dtype.kind == "uint" else maximum(x, 0),
    "silu": lambda x: x / (1 + call("exp", -x)),
    "mish": lambda x: x * call("tanh", _softplus(x)),
    "softsign": lambda x: x / (1 + call("abs", x)),
    "hard_swish": lambda x: x * minimum(maximum(x + 3, 0), 6) * (1 / 6),
    "not": lambda x: ~x,
    "bit_not": lambda x: ~x,
    "isnan": is_nan,
}

# Unary with attributes: f(x, o) ---------------------------------------------------------------


def _gelu(x: Expr, o: OpView) -> Expr:
    if o.approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * fma(x * x * x, 0.044715, x)
        return x / (1 + call("exp", -2 * inner))  # (1 + tanh u) / 2 is the logistic function of 2 u
    return 0.5 * x * (1 + call("erf", x * math.sqrt(0.5)))


def _softplus_attrs(x: Expr, o: OpView) -> Expr:
    scaled = x * o.beta if o.beta != 1 else x
    smooth = _softplus(scaled)
    smooth = smooth / o.beta if o.beta != 1 else smooth
    return smooth if math.isinf(o.threshold) else select(scaled > o.threshold, x, smooth)


def _isinf(x: Expr, o: OpView) -> Expr:
    out: Expr = const(False, BOOL)
    if x.dtype.is_float:
        for wanted, value in ((o.positive, math.inf), (o.negative, -math.inf)):
            if wanted:
                out = out | x.eq(value)
    return out


def _expm1(x: Expr) -> Expr:
    return call("expm1", x)


UNARY_ATTRS: dict[str, Callable[[Expr, OpView], Expr]] = {
    "gelu": _gelu,
    "softplus": _softplus_attrs,
    "elu": lambda x, o: select(x > 0, x, o.alpha * _expm1(x)),
    "celu": lambda x, o: maximum(x, 0) + minimum(o.alpha * _expm1(x / o.alpha), 0),
    "selu": lambda x, o: o.gamma * select(x > 0, x, o.alpha * _expm1(x)),
    "leaky_relu": lambda x, o: select(x < 0, o.alpha * x, x),
    "hard_sigmoid": lambda x, o: minimum(maximum(o.alpha * x + o.beta, 0), 1),
    "isinf": _isinf,
}


# Binary ---------------------------------------------------------------------------------------
def _integer_quotient(kind: str, a: Expr, b: Expr, zero: Expr) -> Expr:
    """A division that never traps: by zero it gives `zero`, and the least integer by -1 wraps."""
    if isinstance(b, Const) and b.value not in (0, -1):
        return binary(kind, a, b)
    traps = b.eq(0) if b.dtype.kind == "uint" else b.eq(0) | b.eq(-1)
    quotient = binary(kind, a, select(traps, like(b, 1), b))
    if b.dtype.kind != "uint":
        quotient = select(b.eq(-1), -a, quotient)
    return select(b.eq(0), zero, quotient)


def _div(a: Expr, b: Expr) -> Expr:
    return a / b if a.dtype.is_float else _integer_quotient("div", a, b, like(a, 0))


def _fmod(a: Expr, b: Expr) -> Expr:
    if a.dtype.is_float:
        return call("fmod", a, b)
    return select(b.eq(0), like(a, 0), a - _div(a, b) * b)


def _mod(a: Expr, b: Expr) -> Expr:
    if not a.dtype.is_float:
        return select(b.eq(0), like(a, 0), a - _floor_div(a, b) * b)
    rest = call("fmod", a, b)
    crosses = rest.ne(0) & (rest < 0).ne(b < 0)
    return select(crosses, rest + b, rest)


def _floor_div(a: Expr, b: Expr) -> Expr:
    if not a.dtype.is_float:
        return _integer_quotient("floordiv", a, b, like(a, 0))
    # As numpy and torch: the quotient of what fmod leaves is nearly whole, and rounds to it; plain floor(a / b) may be one off.
    rest = call("fmod", a, b)
    quotient = (a - rest) / b - select(rest.ne(0) & (rest < 0).ne(b < 0), like(a, 1), like(a, 0))
    whole = call("floor", quotient)
    nearest = select(quotient - whole > 0.5, whole + 1, whole)
    return select(b.eq(0), a / b, nearest)


def _pow(a: Expr, b: Expr) -> Expr:
    if not a.dtype.is_float:
        return _integer_pow(a, b)
    if isinstance(b, Const):
        special = {1: lambda: a, 2: lambda: a * a, 3: lambda: a * a * a, 4: lambda: (a * a) * (a * a), -1: lambda: 1 / a,
                   0.5: lambda: call("sqrt", a),  # as numpy and torch; only pow says that -inf to the 0.5 is inf
                   # -0 to the -0.5 is +inf, and -inf gives 0.
                   -0.5: lambda: select(a.eq(-math.inf), like(a, 0), 1 / call("sqrt", a + 0))}
        if b.value in special:
            return special[b.value]()
    return call("pow", a, b)


def _integer_pow(a: Expr, b: Expr) -> Expr:
    """Square and multiply, wrapping; a negative exponent truncates 1 / a**-b toward zero."""
    one = like(a, 1)
    if isinstance(b, Const) and b.value >= 0:
        bits = int(b.value).bit_length()
    else:
        bits = b.dtype.bits
    out: Expr = one
    power = a
    for k in range(bits):
        if isinstance(b, Const):
            out = out * power if (int(b.value) >> k) & 1 else out
        else:
            taken = (call("shr", b, like(b, k)) & like(b, 1)).ne(0)
            out = select(taken, out * power, out)
        if k + 1 < bits:
            power = power * power
    if b.dtype.kind == "uint" or (isinstance(b, Const) and b.value >= 0):
        return out
    odd = (b & like(b, 1)).ne(0)
    small = select(a.eq(1), one, select(a.eq(-1), select(odd, like(a, -1), one), like(a, 0)))
    return select(b < 0, small, out)


def _shift(kind: str) -> Callable[[Expr, Expr], Expr]:
    def shift(a: Expr, b: Expr) -> Expr:
        width = a.dtype.bits
        if isinstance(b, Const) and 0 <= b.value < width:
            return call(kind, a, b)
        # Shifting by the width or more is undefined in every target language; numpy shifts all bits out.
        outside = b > width - 1 if b.dtype.kind == "uint" else (b > width - 1) | (b < 0)
        gone = like(a, 0) if kind == "shl" or a.dtype.kind == "uint" else call("shr", a, like(a, width - 1))
        return select(outside, gone, call(kind, a, select(outside, like(b, 0), b)))

    return shift


def _compare(kind: str, swap: bool = False) -> Callable[[Expr, Expr], Expr]:
    return lambda a, b: call(kind, b, a) if swap else call(kind, a, b)


def _extreme(kind: str) -> Callable[[Expr, Expr], Expr]:
    def extreme(a: Expr, b: Expr) -> Expr:
        if a.dtype is BOOL:
            return a | b if kind == "max" else a & b
        return call(kind, a, b)

    return extreme


BINARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a | b if a.dtype is BOOL else a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a & b if a.dtype is BOOL else a * b,
    "div": _div,
    "floor_div": _floor_div,
    "mod": _mod,
    "fmod": _fmod,
    "pow": _pow,
    "maximum": _extreme("max"),
    "minimum": _extreme("min"),
    "atan2": lambda a, b: call("atan2", a, b),
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: call("xor", a, b),
    "bit_and": lambda a, b: a & b,
    "bit_or": lambda a, b: a | b,
    "bit_xor": lambda a, b: call("xor", a, b),
    "shift_left": _shift("shl"),
    "shift_right": _shift("shr"),
    "equal": _compare("eq"),
    "not_equal": _compare("ne"),
    "less": _compare("lt"),
    "less_equal": _compare("le"),
    "greater": _compare("lt", swap=True),
    "greater_equal": _compare("le", swap=True),
    "prelu": lambda x, slope: select(x < 0, slope * x, x),
}


def _register() -> None:
    for name, f in UNARY.items():
        compute(name)(lambda o, *i, f=f: f(o.x(*i)))
    for name, g in UNARY_ATTRS.items():
        compute(name)(lambda o, *i, g=g: g(o.x(*i), o))
    for name, h in BINARY.items():
        compute(name)(lambda o, *i, h=h: h(*o.broadcast(i)))


_register()


@compute("where")
def where(o: OpView, *i: Expr) -> Expr:
    return select(*o.broadcast(i))


# Conversions ----------------------------------------------------------------------------------
def convert(x: Expr, to: DType) -> Expr:
    """`x` as the computed dtype `to`: to bool is `!= 0`, float to integer truncates toward zero.

    Floats reach narrow and unsigned integers by way of a wider signed one, whose low bits they keep: a direct
    conversion of what is out of range is undefined in C, and this is what x86 and numpy do.
    """
    if to is BOOL:
        return x if x.dtype is BOOL else x.ne(0)
    if x.dtype.is_float and to.is_integer and (to.bits < 32 or to.name == "u32"):
        return cast(cast(x, I32 if to.bits < 32 else I64), to)
    return cast(x, to)


@compute("cast")
def cast_(o: OpView, *i: Expr) -> Expr:
    return convert(o.x(*i), o.dtype)


@compute("bitcast")
def bitcast_(o: OpView, *i: Expr) -> Expr:
    source = o.types[0].dtype
    x = o.x(*i)
    if source in (F16, BF16):
        x = cast(x, source)
    out = bitcast(x, o.to) if source is not o.to else x
    return cast(out, F32) if o.to in (F16, BF16) else out


__all__ = ["BINARY", "UNARY", "UNARY_ATTRS", "convert"]
