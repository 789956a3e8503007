"""Elementwise ATen operators against eager PyTorch: values, promotion, special values."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.capture.torch_check import check, each, ops

torch.manual_seed(0)
INF, NAN = math.inf, math.nan
SPECIAL = torch.tensor([[-INF, INF, NAN, 0.0, -0.0], [1.5, 2.5, -2.5, 1e-30, -1e30]])
FLOATS = torch.cat([SPECIAL, torch.randn(3, 5) * 3])
POSITIVE = torch.rand(3, 5) * 4 + 0.1
UNIT = torch.rand(3, 5) * 1.8 - 0.9
INTS = torch.tensor([[-7, -2, -1, 0, 1, 2, 9]])


def named(*names):
    return {n: getattr(torch, n) for n in names}


def test_unary_functions_agree_on_special_values():
    check(
        each(
            named(
                "neg",
                "abs",
                "exp",
                "sin",
                "cos",
                "tanh",
                "sigmoid",
                "floor",
                "ceil",
                "round",
                "trunc",
                "sign",
                "relu",
                "isnan",
                "isinf",
                "isfinite",
                "erf",
                "expm1",
                "atan",
                "sgn",
                "asinh",
                "reciprocal",
                "square",
                "erfc",
            )
        ),
        FLOATS,
    )


def test_functions_with_a_domain():
    check(
        each(
            named("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "exp2", "sinh", "cosh", "tan", "nan_to_num", "logit")
            | {"acosh": lambda x: torch.acosh(x + 1)}
        ),
        POSITIVE,
    )
    check(each(named("asin", "acos", "atanh", "frac", "sinc", "deg2rad")), UNIT)


def test_activations():
    check(
        each(
            {
                "gelu": F.gelu,
                "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
                "silu": F.silu,
                "mish": F.mish,
                "elu": F.elu,
                "elu2": lambda x: F.elu(x, 0.3),
                "selu": F.selu,
                "celu": lambda x: F.celu(x, 0.7),
                "hardswish": F.hardswish,
                "hardsigmoid": F.hardsigmoid,
                "hardtanh": lambda x: F.hardtanh(x, -0.5, 1.2),
                "relu6": F.relu6,
                "softsign": F.softsign,
                "leaky": lambda x: F.leaky_relu(x, 0.2),
                "softplus": F.softplus,
                "softplus2": lambda x: F.softplus(x, 2.0, 3.0),
                "logsigmoid": F.logsigmoid,
                "tanhshrink": F.tanhshrink,
                "softshrink": F.softshrink,
                "hardshrink": F.hardshrink,
                "threshold": lambda x: F.threshold(x, 0.1, 7.0),
                "glu": lambda x: F.glu(x[:, :4], -1),
                "rrelu": F.rrelu,
            }
        ),
        torch.randn(7, 5) * 4,
    )


def test_activations_stay_one_op():
    graph = check(each({"a": F.gelu, "b": F.silu, "c": F.hardswish, "d": F.mish, "e": F.softplus, "f": F.elu}), torch.randn(3, 5))
    assert len(ops(graph)) == 6


def test_prelu_broadcasts_along_channels():
    check(torch.nn.PReLU(3, 0.3), torch.randn(2, 3, 4, 5))
    check(torch.nn.PReLU(1), torch.randn(7))


BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "floor_div": torch.floor_divide,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "alpha": lambda a, b: torch.add(a, b, alpha=3),
    "rsub": lambda a, b: torch.rsub(a, b, alpha=2),
    "div_floor": lambda a, b: torch.div(a, b, rounding_mode="floor"),
    "div_trunc": lambda a, b: torch.div(a, b, rounding_mode="trunc"),
}
COMPARISONS = {"eq": torch.eq, "ne": torch.ne, "lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge}


def test_binary_functions_on_floats():
    check(each(BINARY | COMPARISONS | named("atan2", "fmax", "fmin", "hypot")), torch.randn(3, 1, 5), torch.randn(4, 5) + 3)


def test_nan_and_infinity_through_binary_functions():
    check(each(COMPARISONS | named("maximum", "minimum", "fmax", "fmin")), FLOATS[:2, :, None], FLOATS[:2].flatten())


def test_binary_functions_on_integers():
    divisors = torch.tensor([[-3], [-1], [2], [5]])
    check(each(BINARY | COMPARISONS), INTS, divisors)
    check(each(BINARY | COMPARISONS), INTS.to(torch.int8), divisors.to(torch.int8))


def test_pow():
    check(
        each(
            {
                "tt": torch.pow,
                "2": lambda a, b: a**2,
                "3": lambda a, b: a**3,
                ".5": lambda a, b: a**0.5,
                "-1": lambda a, b: a**-1,
                "st": lambda a, b: 2**b,
                "-1.5": lambda a, b: a**-1.5,
            }
        ),
        POSITIVE,
        POSITIVE.flip(0),
    )
    check(lambda a: a**3, INTS)


@pytest.mark.parametrize("other", [torch.int64, torch.int8, torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_promotion_of_two_dtypes(other):
    check(
        each({"add": torch.add, "mul": torch.mul, "lt": torch.lt, "where": lambda a, b: torch.where(a > 0, a, b)}),
        torch.randn(3, 5),
        torch.tensor([0, 1, 1, 0, 1]).to(other),
    )


def test_promotion_with_numbers_and_scalars():
    zero_dim = torch.tensor(2.5, dtype=torch.float64)
    check(
        each(
            {
                "int+float": lambda a, b: a + 1.5,
                "int*int": lambda a, b: a * 3,
                "int/int": lambda a, b: a / 2,
                "int vs float": lambda a, b: a < 1.5,
                "f32 with 0-d f64": lambda a, b: a.float() + b,
                "bool+int": lambda a, b: (a > 0) + 1,
                "bool*float": lambda a, b: (a > 0) * 2.5,
                "rsub": lambda a, b: 1.5 - a,
                "i8": lambda a, b: a.to(torch.int8) * 2,
            }
        ),
        INTS,
        zero_dim,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_with_numbers_are_computed_as_torch_does(dtype):
    x = torch.randn(7, 9).to(dtype)
    check(
        each(
            {
                "mul": lambda x: x * 0.1,
                "add": lambda x: x + 1e-3,
                "div": lambda x: x / 3,
                "exact": lambda x: x * 0.5,
                "lt": lambda x: x < 0.1,
            }
        ),
        x,
        tolerance=0,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype):
    check(
        each(named("exp", "tanh", "sigmoid", "sqrt", "log2", "erfc") | {"gelu": F.gelu, "softplus": F.softplus}),
        (POSITIVE / 2).to(dtype),
    )


def test_booleans_and_bits():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    functions = named(
        "logical_and",
        "logical_or",
        "logical_xor",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "add",
        "mul",
        "eq",
        "ne",
        "maximum",
        "minimum",
    ) | {"not": lambda a, b: ~a, "lnot": lambda a, b: torch.logical_not(a)}
    check(each(functions), a, b)
    bits = {
        "and": lambda a: a & 6,
        "or": lambda a: a | 9,
        "xor": lambda a: a ^ 5,
        "not": lambda a: ~a,
        "shl": lambda a: a << 2,
        "shr": lambda a: a >> 1,
        "lnot": torch.logical_not,
        "land": lambda a: torch.logical_and(a, a - 1),
    }
    check(each(bits), INTS)


def test_clamps():
    low, high = torch.tensor([-1.0, 0.5, 0.0, 2.0, -3.0]), torch.tensor([1.0, 0.0, 3.0, 2.0, 0.0])
    check(
        each(
            {
                "both": lambda x, a, b: x.clamp(-1, 1),
                "min": lambda x, a, b: x.clamp(min=0.3),
                "max": lambda x, a, b: x.clamp(max=2),
                "tensors": lambda x, a, b: x.clamp(a, b),
                "crossed": lambda x, a, b: x.clamp(2, -2),
            }
        ),
        FLOATS,
        low,
        high,
    )
    check(each({"int": lambda x: x.clamp(-2, 3), "float": lambda x: x.clamp(-1.5, 2.5)}), INTS)


def test_choices():
    mask = torch.tensor([True, False, True, True, False])
    check(
        each(
            {
                "where": lambda x, m: torch.where(m, x, 0.0),
                "numbers": lambda x, m: torch.where(m, 1.5, -2.0),
                "fill": lambda x, m: x.masked_fill(m, -INF),
                "lerp": lambda x, m: torch.lerp(x, x * 2, 0.3),
                "addcmul": lambda x, m: torch.addcmul(x, x, x, value=0.5),
                "addcdiv": lambda x, m: torch.addcdiv(x, x, x.abs() + 1),
            }
        ),
        torch.randn(3, 5),
        mask,
    )


def test_casts():
    x = torch.tensor([-2.7, -0.5, 0.0, 0.5, 2.7, 100.4])
    check(
        each(
            {
                str(d): lambda x, d=d: x.to(d)
                for d in (torch.int64, torch.int32, torch.int8, torch.bool, torch.float16, torch.bfloat16, torch.float64)
            }
        ),
        x,
    )
    check(lambda x: x.view(torch.int32), torch.randn(5))


def test_dropout_and_copies_vanish():
    graph = check(lambda x: F.dropout(x.clone().contiguous().detach(), 0.5, training=False), torch.randn(5))
    assert ops(graph) == []


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_degenerate_shapes(shape):
    check(
        each({"add": lambda x: x + 1, "gelu": F.gelu, "cmp": lambda x: x > 0, "where": lambda x: torch.where(x > 0, x, -x)}),
        torch.randn(shape),
    )


def test_hypot_is_infinite_beside_an_infinity_even_with_nan():
    special = torch.tensor([0.0, -1.0, 3.0, float("inf"), float("-inf"), float("nan"), 1e30])
    a, b = (t.contiguous() for t in torch.meshgrid(special, special, indexing="ij"))
    check(torch.hypot, a, b)
