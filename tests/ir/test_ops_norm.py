"""Normalisations and attention: the reference against torch in float64 and onnx's reference, decompositions against both."""

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from graphopt.errors import IRError
from graphopt.ir import Builder, Trait, evaluate, verify
from graphopt.ir.table import DECOMPOSITIONS, TABLE
from tests.ir.one_op import graph_of, run_op, same
from tests.ir.onnx_node import reference

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float32, scale=1.0, shift=0.0):
    return (RNG.normal(size=shape) * scale + shift).astype(dtype)


def double(a):
    return None if a is None else torch.tensor(a if a.dtype == np.bool_ else a.astype(np.float64))


def decomposed(name, *operands, **attrs):
    """The op's result by its decomposition, which must consist of primitives and keep the type."""
    graph = graph_of(name, operands, attrs)
    op = graph.last
    declared = op.result.type
    value = DECOMPOSITIONS[name](Builder(graph, before=op), op)
    assert value.type == declared
    op.replace_with(value)
    verify(graph)
    assert not any(o.definition.has(Trait.COMPOSITE) for o in graph.ops)
    return evaluate(graph, [a for a in operands if a is not None])[0]


def both_are(expected, name, *operands, **attrs):
    """The reference rounds the exact answer once; the decomposition, in f32, is close to it."""
    got, built = run_op(name, *operands, **attrs), decomposed(name, *operands, **attrs)
    assert got.dtype == built.dtype == operands[0].dtype
    eps = float(ml_dtypes.finfo(got.dtype).eps)
    size = np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0)), initial=0) + 1e-30
    narrow = got.dtype.itemsize < 4
    for result, tolerance in ((got, 1 if narrow else 4), (built, 1.01 if narrow else 64)):
        np.testing.assert_allclose(result.astype(np.float64), np.asarray(expected, np.float64), rtol=tolerance * eps,
                                   atol=max(tolerance * eps * size * (1e-3 if narrow else 1), 1e-6 if narrow else 0))


FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SHAPES = [((3, 5), 1), ((3, 5), 0), ((2, 1, 17), 2), ((2, 1, 17), 1), ((0, 4), 1), ((7,), 0), ((1,), 0)]


@pytest.mark.parametrize("shape, axis", SHAPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_softmax_and_its_logarithm(shape, axis, dtype):
    x = normal(*shape, dtype=dtype, scale=10)
    both_are(torch.softmax(double(x), axis).numpy(), "softmax", x, axis=axis)
    both_are(torch.log_softmax(double(x), axis).numpy(), "log_softmax", x, axis=axis)


def test_softmax_does_not_overflow_and_keeps_nan():
    x = np.array([[1e30, 0, 1e30], [-np.inf, 0, 1], [np.nan, 0, 1], [-np.inf] * 3, [np.inf, 0, 1], [88, 89, 90]], np.float32)
    for f, name in ((torch.softmax, "softmax"), (torch.log_softmax, "log_softmax")):
        both_are(f(double(x), 1).numpy(), name, x, axis=1)


def test_softmax_of_an_empty_axis_is_empty():
    x = np.zeros((3, 0), np.float32)
    assert run_op("softmax", x, axis=1).shape == decomposed("softmax", x, axis=1).shape == (3, 0)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (1, 3, 4, 7), (2, 1, 2, 3, 4), (0, 3, 4)])
@pytest.mark.parametrize("dtype", FLOATS)
def test_batch_norm(shape, dtype):
    x, c = normal(*shape, dtype=dtype), shape[1]
    scale, bias, mean = (normal(c, dtype=dtype) for _ in range(3))
    var = np.abs(normal(c)).astype(dtype)
    expected = F.batch_norm(double(x), double(mean), double(var), double(scale), double(bias), eps=1e-3) if x.size else x
    both_are(np.asarray(expected), "batch_norm", x, scale, bias, mean, var, eps=1e-3)


def test_batch_norm_by_what_is_not_finite():
    """NaN where the infinities of the product and of the shift meet, as in PyTorch."""
    x = np.stack([np.full(10, v, np.float32) for v in (0, -3, 0.25, np.inf, -np.inf, np.nan)])
    scale = np.array([np.inf, -np.inf, np.inf, 1, np.nan, 0, 2, 2, -np.inf, 1], np.float32)
    bias = np.array([1, 2, 0, np.inf, 1, np.nan, 1, -1, 0.5, 3], np.float32)
    mean = np.array([0.5, -0.5, 0, 1, 1, 1, np.inf, np.nan, np.inf, -2], np.float32)
    var = np.array([1, 0.3, 1, 2, 1, 1, 1, 1, np.inf, np.inf], np.float32)
    expected = F.batch_norm(double(x), double(mean), double(var), double(scale), double(bias), eps=1e-3)
    both_are(expected.numpy(), "batch_norm", x, scale, bias, mean, var, eps=1e-3)


@pytest.mark.parametrize("shape, axis", [((3, 17), 1), ((2, 3, 5), 1), ((2, 3, 5), 0), ((1, 1), 1), ((0, 4), 1)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("with_scale, with_bias", [(True, True), (True, False), (False, False)])
def test_layer_norm_and_rms_norm(shape, axis, dtype, with_scale, with_bias):
    x, tail = normal(*shape, dtype=dtype, scale=3), shape[axis:]
    scale = normal(*tail, dtype=dtype) if with_scale else None
    bias = normal(*tail, dtype=dtype) if with_bias else None
    both_are(F.layer_norm(double(x), tail, double(scale), double(bias), 1e-5).numpy(), "layer_norm", x, scale, bias, axis=axis,
             eps=1e-5)
    both_are(F.rms_norm(double(x), tail, double(scale), 1e-6).numpy(), "rms_norm", x, scale, axis=axis, eps=1e-6)


def test_layer_norm_with_a_large_mean_is_not_lost_to_cancellation():
    x = normal(4, 1000, shift=3000)
    exact = F.layer_norm(double(x), (1000,)).numpy()
    np.testing.assert_allclose(run_op("layer_norm", x, axis=1, eps=1e-5), exact, atol=1e-6)
    # The mean itself is rounded to f32, a 3000th part of which is all that may show.
    np.testing.assert_allclose(decomposed("layer_norm", x, axis=1, eps=1e-5), exact, atol=2e-3)


def test_layer_norm_scale_may_broadcast():
    x, scale = normal(2, 3, 5), normal(1, 5)
    expected = F.layer_norm(double(x), (3, 5)) * double(scale)
    both_are(expected.numpy(), "layer_norm", x, scale, axis=1, eps=1e-5)


@pytest.mark.parametrize("shape, groups", [((2, 6, 5), 3), ((1, 4, 3, 7), 1), ((2, 3, 4, 1), 3), ((3, 8), 2), ((0, 4, 5), 2)])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("affine", [False, True])
def test_group_norm(shape, groups, dtype, affine):
    x = normal(*shape, dtype=dtype, scale=2)
    scale, bias = (normal(shape[1], dtype=dtype), normal(shape[1], dtype=dtype)) if affine else (None, None)
    expected = F.group_norm(double(x), groups, double(scale), double(bias), 1e-5) if x.size else double(x)
    both_are(expected.numpy(), "group_norm", x, scale, bias, groups=groups, eps=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 9])
@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (1, 1, 2), (0, 3, 2)])
def test_lrn_is_onnxs(size, shape):
    x = normal(*shape, scale=3)
    alpha, beta, bias = 0.3, 0.75, 1.5
    squares = np.zeros(shape, np.float64)
    for c in range(shape[1]):  # the definition in ONNX's text
        first, last = max(0, c - (size - 1) // 2), min(shape[1] - 1, c + -(-(size - 1) // 2))
        squares[:, c] = (x[:, first:last + 1].astype(np.float64) ** 2).sum(axis=1)
    expected = x / (bias + alpha / size * squares) ** beta
    both_are(expected, "lrn", x, size=size, alpha=alpha, beta=beta, bias=bias)
    if size % 2 and x.size:
        torch_says = F.local_response_norm(double(x), size, alpha, beta, bias)
        np.testing.assert_allclose(run_op("lrn", x, size=size, alpha=alpha, beta=beta, bias=bias), torch_says.numpy(), rtol=1e-6)


ATTENTION = [
    # q, k, v
    ((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 8)),
    ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)),
    ((2, 6, 4, 5), (2, 2, 9, 5), (2, 2, 9, 3)),
    ((1, 4, 17, 16), (1, 1, 17, 16), (1, 1, 17, 16)),
    ((0, 2, 3, 4), (0, 2, 5, 4), (0, 2, 5, 4)),
]


@pytest.mark.parametrize("q, k, v", ATTENTION)
@pytest.mark.parametrize("masked", ["no", "bool", "float", "row", "causal", "both"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_attention_is_torchs(q, k, v, masked, dtype):
    qs, ks, vs = (normal(*s, dtype=dtype) for s in (q, k, v))
    s, length = q[2], k[2]
    mask = {"bool": RNG.random((q[0], 1, s, length)) < 0.7, "float": normal(q[1], s, length, dtype=dtype),
            "row": RNG.random((length,)) < 0.5, "both": RNG.random((s, length)) < 0.8}.get(masked)
    causal = masked in ("causal", "both")
    allowed = np.broadcast_to(mask, (s, length)) if masked == "row" else mask  # torch wants two axes
    if causal:
        lower = np.tri(s, length, dtype=bool)
        allowed = lower if mask is None else mask & lower
    expected = F.scaled_dot_product_attention(double(qs), double(ks), double(vs), double(allowed), scale=0.3, enable_gqa=True)
    both_are(expected.numpy(), "attention", qs, ks, vs, mask, scale=0.3, causal=causal)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention_is_onnxs_softcap_before_mask(softcap):
    q, k, v = normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    mask = RNG.random((3, 5)) < 0.6
    mask[1] = False  # a query that may see nothing
    expected = reference("Attention", q, k, v, mask, opset=25, softcap=softcap, scale=0.7, is_causal=1)
    attrs = {"scale": 0.7, "causal": True, "softcap": softcap}
    for got in (run_op("attention", q, k, v, mask, **attrs), decomposed("attention", q, k, v, mask, **attrs)):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert (got[:, :, 1] == 0).all()


def test_attention_of_a_query_that_sees_nothing_is_nan_where_asked():
    q, k, v = normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4)
    mask = np.ones((3, 5), bool)
    mask[1] = False
    scores = torch.where(torch.from_numpy(mask), double(q) @ double(k).mT * 0.7, -torch.inf)
    expected = (torch.softmax(scores, -1) @ double(v)).numpy()
    for got in (run(f, q, k, v, mask, scale=0.7, empty="nan") for run, f in ((run_op, "attention"), (decomposed, "attention"))):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(got[:, :, 1]).all()


def test_attention_of_no_heads_is_empty():
    q = normal(2, 0, 3, 4)
    assert run_op("attention", q, q, q, scale=1.0, causal=False).shape == (2, 0, 3, 4)


def test_attention_without_keys_is_zero():
    q, none = normal(1, 2, 3, 4), np.zeros((1, 2, 0, 4), np.float32)
    same(run_op("attention", q, none, none, scale=1.0), np.zeros_like(q))
    same(decomposed("attention", q, none, none, scale=1.0), np.zeros_like(q))


def test_attention_in_f16_does_not_overflow_inside():
    q = normal(1, 1, 4, 64, dtype=np.float16, scale=60)
    expected = F.scaled_dot_product_attention(double(q), double(q), double(q), scale=0.125).numpy()
    both_are(expected, "attention", q, q, q, scale=0.125)


def test_every_composite_of_this_file_has_a_decomposition():
    here = [n for n, d in TABLE.items() if d.evaluate.__module__ == "graphopt.ir.ops.norm"]
    assert here and all(TABLE[n].has(Trait.COMPOSITE) and n in DECOMPOSITIONS for n in here)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(IRError, match="must be \\[3\\]"):
        run_op("batch_norm", normal(2, 3, 4), *(normal(2),) * 4, eps=0.0)
    with pytest.raises(IRError, match="does not broadcast"):
        run_op("layer_norm", normal(2, 3), normal(2, 2, 3), axis=1, eps=0.0)
    with pytest.raises(IRError, match="do not divide into 2 groups"):
        run_op("group_norm", normal(2, 3, 4), groups=2, eps=0.0)
    with pytest.raises(IRError, match="not a multiple of 2 key heads"):
        run_op("attention", normal(1, 3, 2, 4), normal(1, 2, 2, 4), normal(1, 2, 2, 4), scale=1.0)
    with pytest.raises(IRError, match="out of range"):
        run_op("softmax", normal(2, 3), axis=2)
