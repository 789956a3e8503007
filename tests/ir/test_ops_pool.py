"""Pooling against torch in float64 and onnx's reference."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import IRError
from tests.ir.one_op import run_op, same
from tests.ir.onnx_node import reference

RNG = np.random.default_rng(0)
MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def normal(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


@st.composite
def pools(draw, dilated):
    n = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(n)]
    dilation = [draw(st.integers(1, 2)) if dilated else 1 for _ in range(n)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    sizes = [draw(st.integers(s, s + 6)) for s in spans]
    stride = [draw(st.integers(1, 4)) for _ in range(n)]
    pad = [draw(st.integers(0, k // 2)) for k in kernel]
    return sizes, kernel, stride, pad, dilation, draw(st.booleans())


@settings(max_examples=60)
@given(pools(dilated=True))
def test_max_pool_and_its_indices_are_torchs(case):
    sizes, kernel, stride, pad, dilation, ceil = case
    n = len(sizes)
    x = RNG.integers(-3, 4, (2, 3, *sizes)).astype(np.float32)  # many ties
    attrs = {"kernel": kernel, "stride": stride, "pad": [*pad, *pad], "dilation": dilation, "ceil_mode": ceil}
    expected, index = MAX[n - 1](torch.tensor(x), kernel, stride, pad, dilation, ceil, return_indices=True)
    same(run_op("max_pool", x, **attrs), expected.numpy())
    values, indices = run_op("max_pool_indices", x, **attrs)
    same(values, expected.numpy())
    plane = np.prod(sizes)
    same(indices % plane, index.numpy())  # torch counts within the plane
    same(x.reshape(-1)[indices], values)


@settings(max_examples=60)
@given(pools(dilated=False), st.booleans())
def test_avg_pool_is_torchs(case, count_include_pad):
    sizes, kernel, stride, pad, dilation, ceil = case
    x = normal(2, 3, *sizes)
    got = run_op("avg_pool", x, kernel=kernel, stride=stride, pad=[*pad, *pad], dilation=dilation, ceil_mode=ceil,
                 count_include_pad=count_include_pad)
    expected = AVG[len(sizes) - 1](torch.tensor(x).double(), kernel, stride, pad, ceil, count_include_pad)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count_include_pad", [False, True])
def test_avg_pool_with_dilation_and_uneven_padding_is_onnxs(count_include_pad):
    x = normal(1, 2, 9, 10)
    expected = reference("AveragePool", x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[2, 3],
                         count_include_pad=int(count_include_pad))
    got = run_op("avg_pool", x, kernel=[3, 2], stride=[2, 1], pad=[1, 0, 2, 1], dilation=[2, 3],
                 count_include_pad=count_include_pad)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_avg_pool_with_a_divisor():
    x = normal(1, 2, 6, 5)
    got = run_op("avg_pool", x, kernel=[2, 3], stride=[2, 1], pad=[0] * 4, dilation=[1, 1], count_include_pad=True, divisor=7)
    expected = F.avg_pool2d(torch.tensor(x).double(), (2, 3), (2, 1), divisor_override=7)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-6)


def test_a_last_window_that_would_start_in_the_right_padding_is_dropped():
    x = normal(1, 1, 5)
    attrs = {"kernel": [2], "stride": [3], "pad": [1, 1], "dilation": [1]}
    assert run_op("max_pool", x, ceil_mode=False, **attrs).shape == (1, 1, 2)
    assert run_op("max_pool", x, ceil_mode=True, **attrs).shape == (1, 1, 2)


def test_a_nan_wins_and_infinity_is_found():
    x = np.array([[[1, np.nan, 2, -np.inf, -np.inf, -np.inf]]], np.float32)
    values, indices = run_op("max_pool_indices", x, kernel=[2], stride=[2], pad=[1, 1], dilation=[1])
    same(values, np.array([[[1, np.nan, -np.inf, -np.inf]]], np.float32))
    same(indices, np.array([[[0, 1, 3, 5]]]))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, ml_dtypes.bfloat16, np.float64])
def test_max_pool_keeps_the_dtype(dtype):
    x = RNG.integers(-100 if dtype != np.uint8 else 0, 100, (1, 3, 7, 5)).astype(dtype)
    got = run_op("max_pool", x, kernel=[3, 3], stride=[2, 2], pad=[1] * 4, dilation=[1, 1])
    expected = F.max_pool2d(torch.tensor(x.astype(np.float64)), 3, 2, 1).numpy()
    same(got, expected.astype(dtype))


@pytest.mark.parametrize("shape", [(0, 3, 5, 5), (2, 0, 5, 5)])
def test_pooling_nothing_gives_nothing(shape):
    attrs = {"kernel": [2, 2], "stride": [2, 2], "pad": [0] * 4, "dilation": [1, 1]}
    x = np.zeros(shape, np.float32)
    assert run_op("max_pool", x, **attrs).shape == (*shape[:2], 2, 2)
    assert run_op("avg_pool", x, count_include_pad=True, **attrs).shape == (*shape[:2], 2, 2)
    assert run_op("max_pool_indices", x, **attrs)[1].shape == (*shape[:2], 2, 2)


@pytest.mark.parametrize("sizes, output", [((7,), (3,)), ((5, 9), (1, 1)), ((5, 9), (2, 4)), ((3, 2), (5, 7)),
                                           ((4, 5, 6), (3, 1, 4)), ((1, 1), (1, 1))])
def test_adaptive_pooling_is_torchs(sizes, output):
    n = len(sizes)
    x = RNG.integers(-5, 6, (2, 3, *sizes)).astype(np.float32)
    mean = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[n - 1]
    largest = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[n - 1]
    np.testing.assert_allclose(run_op("adaptive_avg_pool", x, output=output), mean(torch.tensor(x).double(), output).numpy(),
                               rtol=1e-6, atol=1e-7)
    values, indices = run_op("adaptive_max_pool", x, output=output)
    expected, index = largest(torch.tensor(x), output, return_indices=True)
    same(values, expected.numpy())
    same(indices, index.numpy())


def test_adaptive_pooling_without_a_batch_and_of_nothing():
    x = normal(3, 5, 6)
    np.testing.assert_allclose(run_op("adaptive_avg_pool", x, output=(2, 3)),
                               F.adaptive_avg_pool2d(torch.tensor(x).double(), (2, 3)).numpy(), rtol=1e-6, atol=1e-7)
    empty = np.zeros((0, 3, 5, 6), np.float32)
    assert run_op("adaptive_avg_pool", empty, output=(2, 3)).shape == (0, 3, 2, 3)
    assert run_op("adaptive_max_pool", empty, output=(2, 3))[0].shape == (0, 3, 2, 3)


def test_avg_pool_in_f16_rounds_once():
    x = normal(1, 2, 9, 9, dtype=np.float16)
    got = run_op("avg_pool", x, kernel=[9, 9], stride=[1, 1], pad=[0] * 4, dilation=[1, 1], count_include_pad=False)
    exact = x.astype(np.float64).mean((2, 3), keepdims=True)
    np.testing.assert_allclose(got.astype(np.float64), exact, rtol=2**-11 + 1e-6, atol=1e-7)


def test_pooling_says_what_does_not_fit():
    with pytest.raises(IRError, match=r"\[N, C, ...\] or \[C, ...\] with 2 spatial dims"):
        run_op("max_pool", normal(2, 3, 4, 5, 6), kernel=[2, 2], stride=[1, 1], pad=[0] * 4, dilation=[1, 1])
    with pytest.raises(IRError, match="window of 7 exceeds the padded input of 5"):
        run_op("max_pool", normal(1, 1, 5), kernel=[7], stride=[1], pad=[0, 0], dilation=[1])


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("stride", [2, 3])
def test_a_window_larger_than_the_input_counts_where_sizes_are_rounded_up(size, stride):
    x = normal(2, 3, size, 7)
    room = size - 3
    attrs = {"kernel": [3, 2], "stride": [stride, 2], "pad": [0] * 4, "dilation": [1, 1], "ceil_mode": True}
    if room <= -stride:
        with pytest.raises(IRError, match="exceeds"):
            run_op("max_pool", x, **attrs)
        return
    theirs = torch.from_numpy(x)
    same(run_op("max_pool", x, **attrs), F.max_pool2d(theirs, (3, 2), (stride, 2), ceil_mode=True).numpy())
    mean = F.avg_pool2d(theirs, (3, 2), (stride, 2), ceil_mode=True).numpy()
    np.testing.assert_allclose(run_op("avg_pool", x, **attrs, count_include_pad=True), mean, rtol=1e-5, atol=1e-6)
