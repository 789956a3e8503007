"""Contractions against torch in float64, numpy's integers and onnx's reference."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphopt.errors import IRError
from graphopt.ir import Graph, tensor
from graphopt.ir.table import TABLE, Trait
from graphopt.ir.types import DTYPES
from tests.ir.one_op import graph_of, run_op, same
from tests.ir.onnx_node import reference

RNG = np.random.default_rng(0)
NARROW = [np.int8, np.uint8, np.int16, ml_dtypes.int4]


def normal(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


def integers(dtype, *shape):
    info = ml_dtypes.iinfo(dtype)
    wide = np.uint64 if info.min == 0 else np.int64
    return RNG.integers(int(info.min), int(info.max), shape, dtype=wide, endpoint=True).astype(dtype)


def in_f64(f, *arrays, **options):
    """torch's answer in float64."""
    return f(*(None if a is None else torch.tensor(a.astype(np.float64)) for a in arrays), **options).numpy()


@pytest.mark.parametrize("a, b", [((3, 5), (5, 7)), ((2, 1, 3, 5), (4, 5, 1)), ((1, 1), (1, 1)), ((0, 5), (5, 3)),
                                  ((3, 0), (0, 2)), ((2, 3, 17), (17, 33))])
def test_matmul_broadcasts_the_leading_axes(a, b):
    x, y = normal(*a), normal(*b)
    np.testing.assert_allclose(run_op("matmul", x, y), x.astype(np.float64) @ y.astype(np.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, ml_dtypes.int4, ml_dtypes.uint4])
def test_matmul_of_integers_is_exact_and_wraps(dtype):
    x, y = integers(dtype, 3, 70), integers(dtype, 70, 5)
    exact = x.astype(object).reshape(3, 70) @ y.astype(object)
    bits = ml_dtypes.iinfo(dtype).bits
    wrapped = np.vectorize(lambda v: int(v) % 2**bits, otypes=[object])(exact)
    if ml_dtypes.iinfo(dtype).min < 0:
        wrapped = np.where(wrapped >= 2 ** (bits - 1), wrapped - 2**bits, wrapped)
    same(run_op("matmul", x, y), wrapped.astype(np.int64 if bits < 64 else dtype).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_matmul_of_narrow_floats_rounds_once(dtype):
    x, y = normal(4, 31, dtype=dtype), normal(31, 3, dtype=dtype)
    wide = x.astype(np.float32) @ y.astype(np.float32)
    same(run_op("matmul", x, y), wide.astype(dtype))


def test_matmul_checks_ranks_and_inner_sizes():
    with pytest.raises(IRError, match="rank 2 or more"):
        run_op("matmul", normal(3), normal(3, 2))
    with pytest.raises(IRError, match=r"5 columns.* 4 rows"):
        run_op("matmul", normal(3, 5), normal(4, 2))


CONVS = [
    # x, w, stride, pad, dilation, groups
    ((2, 3, 9), (5, 3, 3), (1,), (1, 1), (1,), 1),
    ((1, 4, 17), (6, 2, 4), (3,), (2, 0), (2,), 2),
    ((2, 3, 7, 11), (17, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((1, 6, 8, 5), (6, 1, 3, 2), (2, 1), (0, 1, 2, 3), (1, 2), 6),
    ((1, 6, 8, 5), (12, 3, 1, 1), (3, 2), (0, 0, 0, 0), (1, 1), 2),
    ((1, 2, 4, 5, 6), (3, 2, 2, 3, 1), (1, 2, 3), (1, 0, 0, 0, 1, 0), (1, 1, 2), 1),
    ((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((2, 3, 0, 4), (2, 3, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
]


def torch_conv(x, w, bias, stride, pad, dilation, groups):
    n = len(stride)
    x = F.pad(x, [p for i in reversed(range(n)) for p in (pad[i], pad[n + i])])
    return (F.conv1d, F.conv2d, F.conv3d)[n - 1](x, w, bias, stride, 0, dilation, groups)


@pytest.mark.parametrize("x, w, stride, pad, dilation, groups", CONVS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_conv_is_torchs(x, w, stride, pad, dilation, groups, with_bias):
    a, b = normal(*x), normal(*w)
    bias = normal(w[0]) if with_bias else None
    got = run_op("conv", a, b, bias, stride=stride, pad=pad, dilation=dilation, groups=groups)
    if 0 in x[2:]:
        assert got.shape == (x[0], w[0], *x[2:])
    else:
        np.testing.assert_allclose(got, in_f64(torch_conv, a, b, bias, stride=stride, pad=pad, dilation=dilation, groups=groups),
                                   rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [*NARROW, np.int32])
def test_conv_of_integers_is_exact_and_wraps(dtype):
    x, w = integers(dtype, 1, 4, 6, 5), integers(dtype, 2, 4, 3, 3)
    got = run_op("conv", x, w, stride=(1, 1), pad=(1, 1, 1, 1), dilation=(1, 1), groups=1)
    exact = torch_conv(torch.tensor(x.astype(np.int64)), torch.tensor(w.astype(np.int64)), None, (1, 1), (1, 1, 1, 1), (1, 1), 1)
    same(got, exact.numpy().astype(np.int32).astype(dtype))


def test_conv_in_f16_rounds_once_bias_included():
    x, w, bias = normal(1, 8, 5, 5, dtype=np.float16), normal(3, 8, 3, 3, dtype=np.float16), normal(3, dtype=np.float16)
    got = run_op("conv", x, w, bias, stride=(1, 1), pad=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    exact = in_f64(torch_conv, x, w, bias, stride=(1, 1), pad=(0, 0, 0, 0), dilation=(1, 1), groups=1)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got.astype(np.float64), exact, rtol=2**-11 + 1e-5)


@pytest.mark.parametrize("change, message", [
    ({"w": normal(5, 2, 3, 3)}, "channels of x: 3, but 2"), ({"groups": 2}, "channels of x: 3, but 6"),
    ({"pad": (0, 0)}, "pad has 2 entries for 2 spatial dims"), ({"stride": (0, 1)}, "must be positive"),
    ({"w": normal(5, 3, 9, 3)}, "window of 9 exceeds the padded input of 7"),
    ({"bias": normal(4)}, "entries of the bias: 4, but 5"),
])
def test_conv_says_what_does_not_fit(change, message):
    given = {"x": normal(1, 3, 7, 7), "w": normal(5, 3, 3, 3), "bias": None, "stride": (1, 1), "pad": (0, 0, 0, 0),
             "dilation": (1, 1), "groups": 1} | change
    operands = (given.pop("x"), given.pop("w"), given.pop("bias"))
    with pytest.raises(IRError, match=message):
        graph_of("conv", operands, given)


def test_conv_counts_two_operations_a_multiply_add():
    graph = graph_of("conv", (normal(2, 6, 8, 8), normal(4, 3, 3, 3)), {"stride": (1, 1), "pad": (1,) * 4, "dilation": (1, 1),
                                                                        "groups": 2})
    op = graph.last
    operations, nbytes = op.definition.cost(op.view(), [r.type for r in op.results])
    assert operations == 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)
    assert nbytes == 4 * (2 * 6 * 64 + 4 * 27 + 2 * 4 * 64)


TRANSPOSED = [
    # x, w, stride, pad, dilation, output_padding, groups
    ((2, 3, 9), (3, 5, 3), (1,), (1, 1), (1,), (0,), 1),
    ((1, 4, 7, 5), (4, 3, 3, 2), (2, 3), (1, 0, 1, 0), (1, 2), (1, 0), 2),
    ((1, 2, 3, 4, 2), (2, 3, 2, 1, 3), (2, 1, 3), (0, 0, 1, 0, 0, 1), (1, 1, 1), (1, 0, 2), 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), (0, 0), 1),
    ((0, 2, 3, 3), (2, 4, 2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (0, 0), 1),
]


@pytest.mark.parametrize("x, w, stride, pad, dilation, output_padding, groups", TRANSPOSED)
@pytest.mark.parametrize("with_bias", [False, True])
def test_conv_transpose_is_torchs(x, w, stride, pad, dilation, output_padding, groups, with_bias):
    a, b = normal(*x), normal(*w)
    bias = normal(w[1] * groups) if with_bias else None
    got = run_op("conv_transpose", a, b, bias, stride=stride, pad=pad, dilation=dilation, output_padding=output_padding,
                 groups=groups)
    n = len(stride)
    f = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    expected = in_f64(f, a, b, bias, stride=stride, padding=pad[:n], output_padding=output_padding, groups=groups,
                      dilation=dilation)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_conv_transpose_with_uneven_padding_crops_each_side():
    x, w = normal(1, 2, 4, 5), normal(2, 3, 3, 3)
    attrs = {"stride": (2, 2), "dilation": (1, 1), "output_padding": (0, 0), "groups": 1}
    whole = run_op("conv_transpose", x, w, pad=(0, 0, 0, 0), **attrs)
    same(run_op("conv_transpose", x, w, pad=(2, 0, 1, 3), **attrs), whole[:, :, 2:-1, :-3])
    grown = run_op("conv_transpose", x, w, pad=(-1, 0, 0, -2), **attrs)
    same(grown, np.pad(whole, ((0, 0), (0, 0), (1, 0), (0, 2))))


@pytest.mark.parametrize("groups, offset_groups, masked, biased", [(1, 1, True, True), (2, 2, False, False), (1, 2, True, False)])
@pytest.mark.parametrize("stride, pad, dilation", [((1, 1), (0, 0, 0, 0), (1, 1)), ((2, 1), (1, 0, 1, 0), (1, 2))])
def test_deform_conv_is_onnxs(groups, offset_groups, masked, biased, stride, pad, dilation):
    x, w = normal(2, 4, 6, 7), normal(4, 4 // groups, 2, 3)
    out = [(s + pad[i] + pad[2 + i] - dilation[i] * (k - 1) - 1) // stride[i] + 1 for i, (s, k) in enumerate(((6, 2), (7, 3)))]
    offset = (normal(2, offset_groups * 12, *out) * 2).astype(np.float32)
    mask = normal(2, offset_groups * 6, *out) if masked else None
    bias = normal(4) if biased else None
    got = run_op("deform_conv", x, w, offset, bias, mask, stride=stride, pad=pad, dilation=dilation, groups=groups,
                 offset_groups=offset_groups, symbolic=False)
    expected = reference("DeformConv", x, w, offset, bias, mask, strides=stride, pads=pad, dilations=dilation, group=groups,
                         offset_group=offset_groups)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_deform_conv_without_offsets_is_conv():
    x, w = normal(1, 3, 5, 4), normal(2, 3, 3, 3)
    attrs = {"stride": (1, 1), "pad": (1, 1, 1, 1), "dilation": (1, 1)}
    plain = run_op("conv", x, w, **attrs)
    moved = run_op("deform_conv", x, w, np.zeros((1, 18, 5, 4), np.float32), symbolic=False, **attrs)
    np.testing.assert_allclose(moved, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("image, block, stride, pad, dilation", [
    ((5, 6), (2, 3), (1, 1), (0, 0), (1, 1)), ((7, 5), (3, 2), (2, 1), (1, 1), (1, 2)), ((1, 1), (1, 1), (1, 1), (0, 0), (1, 1)),
])
@pytest.mark.parametrize("batch", [2, 0])
def test_col2im_is_torchs_fold(image, block, stride, pad, dilation, batch):
    windows = [(s + 2 * p - d * (k - 1) - 1) // st + 1 for s, k, st, p, d in zip(image, block, stride, pad, dilation)]
    length = windows[0] * windows[1]
    x = normal(batch, 3 * block[0] * block[1], length)
    got = run_op("col2im", x, image=image, block=block, stride=stride, pad=(*pad, *pad), dilation=dilation)
    expected = in_f64(F.fold, x, output_size=image, kernel_size=block, dilation=dilation, padding=pad, stride=stride) if batch \
        else np.zeros((0, 3, *image))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_col2im_in_one_and_three_dims():
    for n, dtype in itertools.product((1, 3), (np.int32, np.float32)):
        image, block = (4, 3, 5)[:n], (2, 2, 1)[:n]
        length = int(np.prod([s - k + 1 for s, k in zip(image, block)]))
        x = np.ones((1, int(np.prod(block)), length), dtype)
        got = run_op("col2im", x, image=image, block=block, stride=(1,) * n, pad=(0,) * (2 * n), dilation=(1,) * n)
        # Every element counts the windows that cover it.
        covered = [[sum(0 <= i - j < s - k + 1 for j in range(k)) for i in range(s)] for s, k in zip(image, block)]
        expected = np.ones(image)
        for axis, c in enumerate(covered):
            expected = expected * np.asarray(c).reshape([-1 if i == axis else 1 for i in range(n)])
        same(got, expected[None, None].astype(dtype))


@pytest.mark.parametrize("d,sums", [
    ("f16", "f32"), ("bf16", "f32"), ("f32", "f32"), ("f64", "f64"), ("i8", "i8"), ("i32", "i32")])
def test_the_table_says_in_which_dtype_a_contraction_adds_up(d, sums):
    graph = Graph()
    op = graph.add("matmul", [graph.add_input(tensor(d, 3, 4)), graph.add_input(tensor(d, 4, 2))], {})
    assert op.definition.sum_dtype(op.view()) is DTYPES[sums] and op.result.dtype is DTYPES[d]


def test_every_contraction_says_it_and_nothing_else_does():
    for definition in TABLE.values():
        assert (definition.sums is not None) == definition.has(Trait.CONTRACTION), definition.name
    graph = Graph()
    relu = graph.add("relu", [graph.add_input(tensor("f32", 3))], {})
    with pytest.raises(IRError, match="is no contraction"):
        relu.definition.sum_dtype(relu.view())


def test_halves_are_added_up_in_f32():
    """In f16 the sum would stop at 2048, where 1 more is lost."""
    a, b = np.ones((1, 4096), np.float16), np.ones((4096, 1), np.float16)
    assert run_op("matmul", a, b)[0, 0] == 4096
