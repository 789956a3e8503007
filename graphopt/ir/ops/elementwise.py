"""Elementwise ops. Operands broadcast as in numpy; integers wrap; floats narrower than f32 compute in f32 and round once.

Transcendental functions of f32 are computed in f64 and rounded, so that they are right to half an ulp or so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.ir.ops.numeric import erf as erf64
from graphopt.ir.ops.numeric import narrow, same_dtype, widen
from graphopt.ir.table import Operands, Trait, broadcast, op, same_shape


def _unary(name: str, dtypes: str, doc: str, f: Callable[..., np.ndarray], attrs: str = "", result: str = "T") -> None:
    """Define `name(x; attrs)`; `f` gets a widened array, and its result is rounded to the result's dtype."""
    run = same_dtype(f) if result == "T" else lambda x, **given: np.asarray(f(widen(x), **given))
    run.__doc__, run.__module__ = doc, __name__
    op(f"{name}(x: T{'; ' + attrs if attrs else ''}) -> {result}", T=dtypes, shape=same_shape, traits=Trait.ELEMENTWISE)(run)


def _binary(name: str, dtypes: str, doc: str, f: Callable[..., np.ndarray], result: str = "T", commutes: bool = False) -> None:
    """Define `name(a, b)` with broadcasting."""
    run = same_dtype(f) if result == "T" else lambda a, b: np.asarray(f(widen(a), widen(b)), bool)
    run.__doc__, run.__module__ = doc, __name__
    op(f"{name}(a: T, b: T) -> {result}", T=dtypes, shape=broadcast,
       traits=Trait.ELEMENTWISE | (Trait.COMMUTATIVE if commutes else Trait.NONE))(run)


def _in_f64(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda x, **attrs: f(x.astype(np.float64), **attrs)


# Unary --------------------------------------------------------------------------------------
_unary("neg", "number", "-x; unsigned integers wrap.", np.negative)
_unary("abs", "number", "|x|; the least integer stays itself.", np.abs)
_unary("sign", "number", "-1, 0 or 1 with the sign of x; NaN stays NaN.", np.sign)
_unary("reciprocal", "float", "1 / x.", np.reciprocal)
_unary("floor", "float", "The greatest integer not above x.", np.floor)
_unary("ceil", "float", "The least integer not below x.", np.ceil)
_unary("round", "float", "The nearest integer, halves to the even one.", np.rint)
_unary("trunc", "float", "x without its fraction.", np.trunc)
_unary("sqrt", "float", "Square root; NaN below zero.", np.sqrt)
_unary("rsqrt", "float", "1 / sqrt(x).", _in_f64(lambda x: 1 / np.sqrt(x)))
_unary("exp", "float", "e^x.", _in_f64(np.exp))
_unary("log", "float", "Natural logarithm; -inf at zero, NaN below.", _in_f64(np.log))
_unary("log1p", "float", "log(1 + x), exact near zero.", _in_f64(np.log1p))
_unary("expm1", "float", "e^x - 1, exact near zero.", _in_f64(np.expm1))
for _name in ("sin", "cos", "tan", "sinh", "cosh", "tanh"):
    _unary(_name, "float", f"{_name}(x), x in radians." if len(_name) == 3 else f"{_name}(x).", _in_f64(getattr(np, _name)))
for _name in ("sin", "cos", "tan", "sinh", "cosh", "tanh"):
    _unary(f"a{_name}", "float", f"The inverse of {_name}; NaN outside its range.", _in_f64(getattr(np, f"arc{_name}")))
_unary("erf", "float", "The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.", erf64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def _softplus(x: np.ndarray, beta: float = 1.0, threshold: float = np.inf) -> np.ndarray:
    scaled = x * beta
    return np.where(scaled > threshold, x, np.logaddexp(0, scaled) / beta)


_unary("sigmoid", "float", "1 / (1 + exp(-x)).", _in_f64(_sigmoid))
_unary("relu", "number", "max(x, 0); NaN stays NaN.", lambda x: np.maximum(x, x.dtype.type(0)))
_unary("silu", "float", "x * sigmoid(x).", _in_f64(lambda x: x * _sigmoid(x)))
_unary("mish", "float", "x * tanh(softplus(x)) (Misra, 2019).", _in_f64(lambda x: x * np.tanh(_softplus(x))))
_unary("softsign", "float", "x / (1 + |x|).", _in_f64(lambda x: x / (1 + np.abs(x))))
_unary("hard_swish", "float", "x * clip(x + 3, 0, 6) / 6 (Howard et al., 2019).",
       _in_f64(lambda x: x * np.clip(x + 3, 0, 6) / 6))
_unary("not", "bool", "Logical not.", np.logical_not)
_unary("bit_not", "int", "Every bit inverted.", np.invert)
_unary("isnan", "float", "Whether x is not a number.", np.isnan, result="bool")


# Unary with attributes ----------------------------------------------------------------------
def _gelu_shape(o: Operands) -> Any:
    if o.approximate not in ("none", "tanh"):
        raise o.fail(f'approximate must be "none" or "tanh", got {o.approximate!r}')
    return same_shape(o)


@op('gelu(x: T; approximate: str = "none") -> T', T="float", shape=_gelu_shape, traits=Trait.ELEMENTWISE)
def gelu(x, *, approximate):
    """x * Phi(x), Phi the normal distribution (Hendrycks and Gimpel, 2016).

    "none" is exact; "tanh" is x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
    """
    wide = widen(x).astype(np.float64)
    if approximate == "tanh":
        out = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    else:
        out = wide / 2 * (1 + erf64(wide / np.sqrt(2)))
    return narrow(out, x.dtype)


def _alpha_elu(x: np.ndarray, alpha: float, gamma: float = 1.0, inner: float = 1.0) -> np.ndarray:
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.where(x > 0, 0, x) * inner))  # -0.0 stays what it is


_unary("softplus", "float", "log(1 + exp(beta x)) / beta, and x itself where beta x > threshold; ONNX has threshold inf.",
       _in_f64(_softplus), "beta: float = 1, threshold: float = 20")
_unary("elu", "float", "x above zero, alpha (e^x - 1) below.", _in_f64(_alpha_elu), "alpha: float = 1")
_unary("celu", "float", "x above zero, alpha (e^(x / alpha) - 1) below.",
       _in_f64(lambda x, alpha: _alpha_elu(x, alpha, inner=1 / alpha)), "alpha: float = 1")
_unary("selu", "float", "gamma x above zero, gamma alpha (e^x - 1) below (Klambauer et al., 2017).", _in_f64(_alpha_elu),
       "alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805")
_unary("leaky_relu", "float", "x where it is not negative, alpha x below.",
       lambda x, alpha: np.where(x < 0, x * x.dtype.type(alpha), x), "alpha: float = 0.01")
_unary("hard_sigmoid", "float", "clip(alpha x + beta, 0, 1).",
       _in_f64(lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1)), "alpha: float = 0.2, beta: float = 0.5")
_unary("isinf", "float", "Whether x is infinite, counting +inf where `positive` and -inf where `negative`.",
       lambda x, positive, negative: (x == np.inf) & positive | (x == -np.inf) & negative,
       "positive: bool = true, negative: bool = true", result="bool")


# Binary -------------------------------------------------------------------------------------
def _is_float(x: np.ndarray) -> bool:
    return x.dtype.kind == "f"


def _div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if _is_float(a):
        return a / b
    quotient = np.floor_divide(a, b)
    inexact = (quotient * b != a) & (b != 0)
    return quotient + (inexact & ((a < 0) != (b < 0)))


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if _is_float(a):
        return np.power(a.astype(np.float64), b.astype(np.float64))
    if a.dtype.kind == "u":
        return np.power(a, b)
    a, b = np.broadcast_arrays(a, b)
    out = np.power(a, np.maximum(b, 0))
    odd = np.where(b % 2 == 0, 1, a)
    return np.where(b < 0, np.where(np.abs(a) == 1, odd, 0), out)


_binary("add", "number", "a + b.", np.add, commutes=True)
_binary("sub", "number", "a - b.", np.subtract)
_binary("mul", "number", "a * b.", np.multiply, commutes=True)
_binary("div", "number", "a / b; integers truncate towards zero, and dividing one by zero gives 0.", _div)
_binary("floor_div", "number", "floor(a / b); dividing an integer by zero gives 0.", np.floor_divide)
_binary("mod", "number", "a - b floor(a / b), the remainder with the sign of b; an integer modulo zero gives 0.", np.mod)
_binary("fmod", "number", "a - b trunc(a / b), the remainder with the sign of a; an integer modulo zero gives 0.", np.fmod)
_binary("pow", "number", "a to the power b. An integer to a negative power is its reciprocal, truncated (0 for a = 0).", _pow)
_binary("maximum", "number", "The greater of the two; NaN if either is.", np.maximum, commutes=True)
_binary("minimum", "number", "The lesser of the two; NaN if either is.", np.minimum, commutes=True)
_binary("atan2", "float", "The angle of the point (b, a), from -pi to pi.",
        lambda a, b: np.arctan2(a.astype(np.float64), b.astype(np.float64)))
_binary("and", "bool", "Logical and.", np.logical_and, commutes=True)
_binary("or", "bool", "Logical or.", np.logical_or, commutes=True)
_binary("xor", "bool", "Logical exclusive or.", np.logical_xor, commutes=True)
_binary("bit_and", "int", "Bitwise and.", np.bitwise_and, commutes=True)
_binary("bit_or", "int", "Bitwise or.", np.bitwise_or, commutes=True)
_binary("bit_xor", "int", "Bitwise exclusive or.", np.bitwise_xor, commutes=True)
_binary("gcd", "int", "The greatest common divisor of |a| and |b|; that of 0 and 0 is 0.", np.gcd, commutes=True)
_binary("shift_left", "int", "a * 2^b, wrapped; 0 where b is the width or more. b is not negative.", np.left_shift)
_binary("shift_right", "int", "floor(a / 2^b): the sign is kept, into unsigned a move zeros. b is not negative.", np.right_shift)
_binary("equal", "any", "a == b; NaN equals nothing.", np.equal, result="bool", commutes=True)
_binary("not_equal", "any", "a != b; NaN differs from everything.", np.not_equal, result="bool", commutes=True)
_binary("less", "number", "a < b; false with NaN.", np.less, result="bool")
_binary("less_equal", "number", "a <= b; false with NaN.", np.less_equal, result="bool")
_binary("greater", "number", "a > b; false with NaN.", np.greater, result="bool")
_binary("greater_equal", "number", "a >= b; false with NaN.", np.greater_equal, result="bool")


@op("prelu(x: T, slope: T) -> T", T="signed", shape=broadcast, traits=Trait.ELEMENTWISE)
@same_dtype
def prelu(x, slope):
    """x where it is not negative, slope * x below; `slope` broadcasts as in numpy."""
    return np.where(x < 0, x * slope, x)


@op("where(cond: bool, a: T, b: T) -> T", T="any", shape=broadcast, traits=Trait.ELEMENTWISE)
def where(cond, a, b):
    """a where `cond` holds, else b; all three broadcast."""
    return np.where(cond, a, b)
