"""Elementwise operators: promotion is torch's, semantics are the IR's ops of the same name or a short chain of them."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphopt.capture.torch.context import Context, Refusal
from graphopt.capture.torch.table import aten
from graphopt.ir.graph import Value
from graphopt.ir.types import BOOL, F32, DType

# One IR op each, computed in the result's dtype. torch name -> IR name.
_UNARY = {
    "neg": "neg", "abs": "abs", "sqrt": "sqrt", "rsqrt": "rsqrt", "reciprocal": "reciprocal", "exp": "exp", "log": "log",
    "log1p": "log1p", "expm1": "expm1", "sin": "sin", "cos": "cos", "tan": "tan", "asin": "asin", "acos": "acos",
    "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "erf": "erf", "special_erf": "erf", "sigmoid": "sigmoid", "silu": "silu", "mish": "mish", "hardswish": "hard_swish",
}
_ROUNDING = {"floor": "floor", "ceil": "ceil", "round": "round", "trunc": "trunc"}
_COMPARISONS = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}


def _unary(ir: str) -> Any:
    def entry(c: Context, x: Value) -> Value:
        return getattr(c.b, ir)(c.cast(x, c.dtype))
    return entry


def _rounding(ir: str) -> Any:
    def entry(c: Context, x: Value) -> Value:
        return getattr(c.b, ir)(x) if x.dtype.is_float else x
    return entry


def _comparison(ir: str) -> Any:
    def entry(c: Context, x: Any, other: Any) -> Value:
        at = c.promoted(x, other)
        a, b = c.operand(x, at), c.operand(other, at)
        if at is BOOL:
            a, b = (v if ir in ("equal", "not_equal") else c.cast(v, c.dtype_of(torch.uint8)) for v in (a, b))
            if ir in ("equal", "not_equal"):
                return c.b.xor(a, b) if ir == "not_equal" else c.b.not_(c.b.xor(a, b))
        return getattr(c.b, ir)(a, b)
    return entry


for _name, _ir in _UNARY.items():
    aten(f"aten.{_name}.default")(_unary(_ir))
for _name, _ir in _ROUNDING.items():
    aten(f"aten.{_name}.default")(_rounding(_ir))
for _name, _ir in _COMPARISONS.items():
    aten(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(_comparison(_ir))


def arithmetic(c: Context, ir: str, x: Any, other: Any) -> Value:
    """One binary op in the result's dtype, to which a number is rounded first, as torch does but for mul and div."""
    return getattr(c.b, ir)(c.operand(x, c.dtype), c.operand(other, c.dtype))


def _with_exact_number(c: Context, ir: str, x: Any, other: Any) -> Value:
    """The same for mul and div, where torch keeps the number exact: through f32 where a half type cannot hold it."""
    at = c.exact(c.dtype, x, other)
    return c.cast(getattr(c.b, ir)(c.operand(x, at), c.operand(other, at)), c.dtype)


@aten("aten.add.Tensor", "aten.add.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Value:
    if c.dtype is BOOL:
        return c.b.or_(c.operand(x, BOOL), c.operand(other, BOOL))
    return _scaled_sum(c, "add", x, other, alpha)


@aten("aten.sub.Tensor", "aten.sub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Value:
    return _scaled_sum(c, "sub", x, other, alpha)


@aten("aten.rsub.Tensor", "aten.rsub.Scalar")
def _(c: Context, x: Any, other: Any, alpha: Any = 1) -> Value:
    return _scaled_sum(c, "sub", other, x, alpha)


def _scaled_sum(c: Context, ir: str, x: Any, other: Any, alpha: Any) -> Value:
    """x ± alpha * other, rounded once."""
    if alpha == 1:
        return arithmetic(c, ir, x, other)
    at = F32 if c.dtype.is_float and c.dtype.bits == 16 else c.dtype
    x, other, alpha = (c.cast(c.operand(v, c.dtype), at) for v in (x, other, alpha))
    return c.cast(getattr(c.b, ir)(x, c.b.mul(other, alpha)), c.dtype)


@aten("aten.mul.Tensor", "aten.mul.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    if c.dtype is BOOL:
        return c.b.and_(c.operand(x, BOOL), c.operand(other, BOOL))
    return _with_exact_number(c, "mul", x, other)


@aten("aten.div.Tensor", "aten.div.Scalar", "aten.div.Tensor_mode", "aten.div.Scalar_mode", "aten.true_divide.Tensor")
def _(c: Context, x: Any, other: Any, rounding_mode: str | None = None) -> Value:
    if rounding_mode == "floor":
        return arithmetic(c, "floor_div", x, other)
    q = _with_exact_number(c, "div", x, other)
    return c.b.trunc(q) if rounding_mode == "trunc" and c.dtype.is_float else q


@aten("aten.floor_divide.default", "aten.floor_divide.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return arithmetic(c, "floor_div", x, other)


@aten("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def _(c: Context, x: Any, other: Any) -> Value:
    return arithmetic(c, "mod", x, other)


@aten("aten.fmod.Tensor", "aten.fmod.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return arithmetic(c, "fmod", x, other)


@aten("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def _(c: Context, x: Any, exponent: Any) -> Value:
    if not isinstance(exponent, Value):
        if exponent == 2:
            return c.b.mul(c.cast(x, c.dtype), c.cast(x, c.dtype))
        if exponent == 0.5:
            return c.b.sqrt(c.cast(x, c.dtype))
    return arithmetic(c, "pow", x, exponent)


@aten("aten.exp2.default")
def _(c: Context, x: Value) -> Value:
    return arithmetic(c, "pow", 2, x)


@aten("aten.log2.default")
def _(c: Context, x: Value) -> Value:
    return _in_f32(c, x, lambda v, at: c.b.mul(c.b.log(v), c.scalar(1 / math.log(2), at)))


@aten("aten.log10.default")
def _(c: Context, x: Value) -> Value:
    return _in_f32(c, x, lambda v, at: c.b.mul(c.b.log(v), c.scalar(1 / math.log(10), at)))


def _in_f32(c: Context, x: Value, f: Any) -> Value:
    """f(x, dtype) at f32 for the half types, rounded once, as torch's kernels do."""
    at: DType = F32 if c.dtype.is_float and c.dtype.bits == 16 else c.dtype
    return c.cast(f(c.cast(x, at), at), c.dtype)


@aten("aten.round.decimals")
def _(c: Context, x: Value, decimals: int = 0) -> Value:
    """round(x 10^decimals) / 10^decimals in the tensor's dtype, as torch has it; for negative decimals the other way round."""
    if not x.dtype.is_float:
        return x
    scale = c.scalar(10.0 ** abs(decimals), x.dtype)
    if decimals == 0:
        return c.b.round(x)
    if decimals > 0:
        return c.b.div(c.b.round(c.b.mul(x, scale)), scale)
    return c.b.mul(c.b.round(c.b.div(x, scale)), scale)


@aten("aten.angle.default")
def _(c: Context, x: Value) -> Value:
    """Of a real number: pi below zero, else 0; NaN stays."""
    x = c.cast(x, c.dtype)
    zero = c.scalar(0, c.dtype)
    return c.b.where(c.b.isnan(x), x, c.b.where(c.b.less(x, zero), c.scalar(math.pi, c.dtype), zero))


@aten("aten.square.default")
def _(c: Context, x: Value) -> Value:
    return c.b.mul(x, x)


@aten("aten.sign.default", "aten.sgn.default")
def _(c: Context, x: Value) -> Value:
    if x.dtype is BOOL:
        return x
    sign = c.b.sign(x)  # of NaN it is NaN in numpy and ONNX, 0 in torch
    return c.b.where(c.b.isnan(x), c.scalar(0, x.dtype), sign) if x.dtype.is_float else sign


@aten("aten.relu.default")
def _(c: Context, x: Value) -> Value:
    return c.b.relu(x) if x.dtype.is_float else c.b.maximum(x, c.scalar(0, x.dtype))


@aten("aten.relu6.default")
def _(c: Context, x: Value) -> Value:
    return _clamp(c, x, 0, 6)


@aten("aten.hardtanh.default")
def _(c: Context, x: Value, min_val: float = -1, max_val: float = 1) -> Value:
    return _clamp(c, x, min_val, max_val)


@aten("aten.clamp.default", "aten.clamp.Tensor", "aten.clip.default", "aten.clip.Tensor")
def _(c: Context, x: Value, min: Any = None, max: Any = None) -> Value:
    return _clamp(c, x, min, max)


@aten("aten.clamp_min.default", "aten.clamp_min.Tensor")
def _(c: Context, x: Value, min: Any) -> Value:
    return _clamp(c, x, min, None)


@aten("aten.clamp_max.default", "aten.clamp_max.Tensor")
def _(c: Context, x: Value, max: Any) -> Value:
    return _clamp(c, x, None, max)


def _clamp(c: Context, x: Value, low: Any, high: Any) -> Value:
    """min(max(x, low), high) as torch has it: where low > high the result is high."""
    x = c.cast(x, c.dtype)
    if low is not None:
        x = c.b.maximum(x, c.operand(low, c.dtype))
    return x if high is None else c.b.minimum(x, c.operand(high, c.dtype))


@aten("aten.maximum.default", "aten.max.other")
def _(c: Context, x: Value, other: Value) -> Value:
    return c.b.or_(x, other) if c.dtype is BOOL else arithmetic(c, "maximum", x, other)


@aten("aten.minimum.default", "aten.min.other")
def _(c: Context, x: Value, other: Value) -> Value:
    return c.b.and_(x, other) if c.dtype is BOOL else arithmetic(c, "minimum", x, other)


@aten("aten.fmax.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return _ignoring_nan(c, "maximum", x, other)


@aten("aten.fmin.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return _ignoring_nan(c, "minimum", x, other)


def _ignoring_nan(c: Context, ir: str, x: Value, other: Value) -> Value:
    x, other = c.cast(x, c.dtype), c.cast(other, c.dtype)
    best = getattr(c.b, ir)(x, other)
    if not c.dtype.is_float:
        return best
    return c.b.where(c.b.isnan(x), other, c.b.where(c.b.isnan(other), x, best))


@aten("aten.atan2.default", "aten.arctan2.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return arithmetic(c, "atan2", x, other)


@aten("aten.hypot.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return length(c, c.cast(x, c.dtype), c.cast(other, c.dtype))


def length(c: Context, x: Value, y: Value) -> Value:
    """sqrt(x² + y²) of floats of one dtype, the larger taken out so that it does not overflow."""
    a, b, d = c.b.abs(x), c.b.abs(y), x.dtype
    big, ratio = c.b.maximum(a, b), c.b.div(c.b.minimum(a, b), c.b.maximum(a, b))
    size = c.b.mul(big, c.b.sqrt(c.b.add(c.b.mul(ratio, ratio), c.scalar(1, d))))
    infinite = c.b.or_(c.b.isinf(a), c.b.isinf(b))  # beside NaN, too (C11, F.10.4.3)
    return c.b.where(infinite, c.scalar(math.inf, d), c.b.where(c.b.equal(big, c.scalar(0, d)), big, size))


# Activations ----------------------------------------------------------------------------------
@aten("aten.gelu.default")
def _(c: Context, x: Value, approximate: str = "none") -> Value:
    return c.b.gelu(x, approximate=approximate)


@aten("aten.softplus.default")
def _(c: Context, x: Value, beta: float = 1, threshold: float = 20) -> Value:
    return c.b.softplus(x, beta=beta, threshold=threshold)


@aten("aten.log_sigmoid.default")
def _(c: Context, x: Value) -> Value:
    return c.b.neg(c.b.softplus(c.b.neg(x), beta=1.0, threshold=math.inf))


@aten("aten.elu.default")
def _(c: Context, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Value:
    if input_scale != 1:
        raise Refusal("input_scale")
    return c.b.elu(x, alpha=alpha) if scale == 1 else c.b.selu(x, alpha=alpha, gamma=scale)


@aten("aten.selu.default")
def _(c: Context, x: Value) -> Value:
    return c.b.selu(x, alpha=1.6732632423543772848170429916717, gamma=1.0507009873554804934193349852946)


@aten("aten.celu.default")
def _(c: Context, x: Value, alpha: float = 1) -> Value:
    return c.b.celu(x, alpha=alpha)


@aten("aten.leaky_relu.default")
def _(c: Context, x: Value, negative_slope: float = 0.01) -> Value:
    return c.b.leaky_relu(x, alpha=negative_slope)


@aten("aten.rrelu_with_noise_functional.default", "aten.rrelu_with_noise.default")
def _(c: Context, x: Value, lower: float, upper: float, training: bool = False) -> Any:
    if training:
        raise Refusal("rrelu in training mode; call model.eval() first")
    out = c.b.leaky_relu(x, alpha=(lower + upper) / 2)
    return (out,) if isinstance(c.val, (tuple, list)) else out


@aten("aten.hardsigmoid.default")
def _(c: Context, x: Value) -> Value:
    return c.b.hard_sigmoid(x, alpha=1 / 6, beta=0.5)


@aten("aten.prelu.default", "aten._prelu_kernel.default")
def _(c: Context, x: Value, weight: Value) -> Value:
    if weight.rank == 1 and x.rank > 1:
        weight = c.reshape(weight, (weight.shape[0], *[1] * (x.rank - 2)))
    return c.b.prelu(x, weight)


# Logic ----------------------------------------------------------------------------------------
@aten("aten.logical_not.default")
def _(c: Context, x: Value) -> Value:
    return c.b.not_(c.boolean(x))


@aten("aten.logical_and.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return c.b.and_(c.boolean(x), c.boolean(other))


@aten("aten.logical_or.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return c.b.or_(c.boolean(x), c.boolean(other))


@aten("aten.logical_xor.default")
def _(c: Context, x: Value, other: Value) -> Value:
    return c.b.xor(c.boolean(x), c.boolean(other))


@aten("aten.bitwise_not.default")
def _(c: Context, x: Value) -> Value:
    return c.b.not_(x) if x.dtype is BOOL else c.b.bit_not(x)


def _bitwise(on_bool: str, on_int: str) -> Any:
    def entry(c: Context, x: Any, other: Any) -> Value:
        return getattr(c.b, on_bool if c.dtype is BOOL else on_int)(c.operand(x, c.dtype), c.operand(other, c.dtype))
    return entry


for _name, _on_bool, _on_int in (("and", "and_", "bit_and"), ("or", "or_", "bit_or"), ("xor", "xor", "bit_xor")):
    aten(f"aten.bitwise_{_name}.Tensor", f"aten.bitwise_{_name}.Scalar", f"aten.__{_name}__.Tensor",
         f"aten.__{_name}__.Scalar")(_bitwise(_on_bool, _on_int))


@aten("aten.bitwise_left_shift.Tensor", "aten.bitwise_left_shift.Tensor_Scalar", "aten.__lshift__.Tensor",
      "aten.__lshift__.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return arithmetic(c, "shift_left", x, other)


@aten("aten.bitwise_right_shift.Tensor", "aten.bitwise_right_shift.Tensor_Scalar", "aten.__rshift__.Tensor",
      "aten.__rshift__.Scalar")
def _(c: Context, x: Any, other: Any) -> Value:
    return arithmetic(c, "shift_right", x, other)


@aten("aten.isnan.default")
def _(c: Context, x: Value) -> Value:
    return c.b.isnan(x) if x.dtype.is_float else c.full(False, c.shape, BOOL)


@aten("aten.isinf.default")
def _(c: Context, x: Value) -> Value:
    return c.b.isinf(x) if x.dtype.is_float else c.full(False, c.shape, BOOL)


@aten("aten.isfinite.default")
def _(c: Context, x: Value) -> Value:
    if not x.dtype.is_float:
        return c.full(True, c.shape, BOOL)
    return c.b.not_(c.b.or_(c.b.isnan(x), c.b.isinf(x)))


# Choice and casts -----------------------------------------------------------------------------
@aten("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def _(c: Context, condition: Value, x: Any, other: Any) -> Value:
    return c.b.where(c.boolean(condition), c.operand(x, c.dtype), c.operand(other, c.dtype))


@aten("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _(c: Context, x: Value, mask: Value, value: Any) -> Value:
    return c.b.where(mask, c.operand(value, c.dtype), x)


@aten("aten._to_copy.default", "aten.to.dtype", "aten.to.device", "aten.to.dtype_layout", "prims.convert_element_type.default",
      "aten.type_as.default")
def _(c: Context, x: Value) -> Value:
    return c.cast(x, c.dtype)


@aten("aten.view.dtype", "prims.view_of_dtype.default")
def _(c: Context, x: Value) -> Value:
    if x.dtype.itemsize != c.dtype.itemsize:
        raise Refusal("a view of another element size")
    return c.b.bitcast(x, to=c.dtype)


@aten("aten.clone.default", "aten.detach.default", "aten.alias.default", "aten.contiguous.default",
      "aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.positive.default", "aten.detach_.default",
      "aten.conj.default", "aten.resolve_conj.default", "aten.conj_physical.default",
      "aten.resolve_neg.default", "prims.view_of.default", "prims.copy_strided.default", "aten._conj.default",
      "aten.real.default")
def _(c: Context, x: Value) -> Value:
    return x


@aten("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default", "aten.native_dropout.default")
def _(c: Context, input: Value, train: bool) -> Any:
    if train:
        raise Refusal("dropout in training mode; call model.eval() first")
    return (input, None) if isinstance(c.val, (tuple, list)) else input
