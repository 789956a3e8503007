"""Attention of com.microsoft against onnxruntime's, over masks, pasts, packings and options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from graphopt.errors import CaptureError
from tests.capture.contrib import Case, Fixed, captured, check, check_compiled, model
from tests.capture.onnx_models import run_ort

RNG = np.random.default_rng(10)
f32 = np.float32
B, S, N, H = 2, 5, 3, 8  # batch, queries, heads, size
D = N * H


def r(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


def i32(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


X, W, BIAS = r(B, S, 12), Fixed(r(12, 3 * D)), Fixed(r(3 * D))
HEADS = {"num_heads": N}
PAST = r(2, B, N, 4, H)
MASK3 = RNG.integers(0, 2, (B, S, S)).astype(np.int32)
MASK3[1, 2] = 0  # a query that sees no key


def att(mask: Any = None, past: Any = None, bias: Any = None, present: bool = False, tol: float = 1e-4, **attrs: Any) -> Case:
    return Case("Attention", [X, W, BIAS, mask, past, bias], {**HEADS, **attrs}, [True, present], rtol=tol, atol=tol)


ATTENTION = {
    "plain": att(),
    "no bias": Case("Attention", [X, W, None], HEADS),
    "causal": att(unidirectional=1),
    "scale": att(scale=0.2),
    "present": att(present=True),
    "keys there are": att(i32(3, 5)),
    "keys from and to": att(i32(4, 5, 1, 0)),
    "mask": att(i32([1, 1, 0, 1, 0], [1, 1, 1, 1, 1])),
    "mask that is all 0": att(i32([0, 0, 0, 0, 0], [1, 1, 1, 1, 1]), tol=3e-3),  # ort rounds the scores at -10000
    "mask of queries": att(MASK3, tol=3e-3),
    "mask, filter value": att(i32([1, 1, 0, 1, 0], [1, 1, 1, 1, 1]), mask_filter_value=-1.0),
    "mask, causal": att(i32([0, 0, 1, 1, 0], [1, 1, 1, 1, 1]), unidirectional=1),
    "causal, filter value": att(unidirectional=1, mask_filter_value=-1.0),
    "past": att(past=PAST, present=True),
    "past, causal, mask": att(i32([1] * 7 + [0] * 2, [1] * 9), PAST, present=True, unidirectional=1),
    "bias of scores": att(bias=r(1, N, S, S)),
    "bias of scores, mask, causal": att(i32(3, 5), bias=r(B, 1, S, S), unidirectional=1),
    "values of another size": Case("Attention", [X, Fixed(r(12, 2 * D + N * 4)), Fixed(r(2 * D + N * 4))],
                                   {**HEADS, "qkv_hidden_sizes": [D, D, N * 4]}),
}
Q, K, V = r(B, S, D), r(B, 6, D), r(B, 6, N * 4)
CACHE_K, CACHE_V, VALUES = r(B, N, 4, H), r(B, N, 4, H), r(B, 6, D)


def mha(*operands: Any, outputs: Any = (True,), **attrs: Any) -> Case:
    return Case("MultiHeadAttention", list(operands), {**HEADS, **attrs}, outputs)


MULTI = {
    "mha": mha(Q, K, V),
    "mha, bias": mha(Q, K, V, Fixed(r(2 * D + N * 4))),
    "mha, causal": mha(Q, Q[:, ::-1].copy(), r(B, S, D), unidirectional=1),
    "mha, keys there are": mha(Q, K, V, None, i32(3, 6)),
    "mha, mask": mha(Q, K, V, None, i32([1, 0, 1, 1, 1, 0], [1] * 6)),
    "mha, mask of queries": mha(Q, K, V, None, RNG.integers(0, 2, (B, S, 6)).astype(np.int32)),
    "mha, bias of scores": mha(Q, K, V, None, None, r(1, N, S, 6), scale=0.3),
    "mha, past": mha(Q, K, VALUES, Fixed(r(3 * D)), None, None, CACHE_K, CACHE_V, outputs=[True, True, True]),
    "mha, past, mask": mha(Q, K, VALUES, None, i32([1] * 8 + [0] * 2, [1] * 10), r(B, 1, S, 10), CACHE_K, CACHE_V,
                           outputs=[True, True, True]),
    "mha, past, causal": mha(Q, Q + 1, r(B, S, D), None, None, None, CACHE_K, CACHE_V, outputs=[True, True, True],
                             unidirectional=1),
    "mha, keys of a cache": mha(Q, r(B, N, 6, H), r(B, N, 6, H)),
    "mha, scores": mha(Q, K, V, None, i32([1, 0, 1, 1, 1, 0], [1] * 6), outputs=[True, False, False, TensorProto.FLOAT]),
}
ONE = r(B, 1, D)
BUFFER = [r(B, N, 9, H), r(B, N, 9, H), i32(4)]


def decoder(*operands: Any, outputs: Any = (True,), **attrs: Any) -> Case:
    return Case("DecoderMaskedMultiHeadAttention", list(operands), {**HEADS, **attrs}, outputs)


def buffered(mask: Any = None, bias: Any = None, projection: Any = None) -> Case:
    """onnxruntime's kernel needs both buffers bound to one memory: the same step with a past of its length instead."""
    new = [ONE + 1, ONE + 2]
    step = mha(ONE, *new, projection, mask, bias, *(np.ascontiguousarray(c[:, :, :4]) for c in BUFFER[:2]), outputs=[True] * 3)
    y, *presents = run_ort(model({"c": step}), step.feeds("c0_"))
    whole = [np.concatenate([p, c[:, :, 5:]], 2) for p, c in zip(presents, BUFFER)]
    return Case("DecoderMaskedMultiHeadAttention", [ONE, *new, mask, bias, *BUFFER, None, None, projection],
                {**HEADS, "past_present_share_buffer": 1}, [True] * 3, expected=[y, *whole])


DECODER = {
    "decoder": buffered(),
    "decoder, mask, bias": buffered(i32([1, 0, 1, 1, 1], [1] * 5), r(1, N, 1, 5), Fixed(r(3 * D))),
    "decoder, cross": decoder(ONE, r(B, N, 4, H), r(B, N, 4, H)),
}
u8, i8 = np.uint8, np.int8
QX, QW = RNG.integers(0, 256, (B, S, 12)).astype(u8), RNG.integers(-128, 128, (12, 3 * D)).astype(i8)


def quantised(mask: Any = None, past: Any = None, per_column: bool = False, present: bool = False, **attrs: Any) -> Case:
    scale: Any = Fixed(np.linspace(.01, .02, 3 * D).astype(f32)) if per_column else f32(.01)
    zero: Any = Fixed(np.arange(3 * D, dtype=i8)) if per_column else i8(4)
    operands = [QX, Fixed(QW), BIAS, f32(.01), scale, mask, u8(120), zero, past]
    return Case("QAttention", operands, {**HEADS, **attrs}, [True, present])


QUANTISED = {
    "quantised": quantised(),
    "quantised, per column": quantised(per_column=True),
    "quantised, causal": quantised(unidirectional=1),
    "quantised, mask": quantised(i32(3, 5)),
    "quantised, past": quantised(past=PAST, present=True, unidirectional=1),
}
ALL = ATTENTION | MULTI | DECODER | QUANTISED


@pytest.mark.parametrize("name", ALL)
def test_equals_onnxruntime(name: str) -> None:
    check(ALL[name])


def test_runs_in_kernels() -> None:
    names = ["mask, causal", "past, causal, mask", "mha, past, mask", "decoder, mask, bias", "quantised, per column"]
    check_compiled({name: ALL[name] for name in names})


def test_packed_queries_keys_and_values() -> None:
    """onnxruntime has no kernel for CPUs: the same operands side by side."""
    q, k, v = (r(B, S, D) for _ in range(3))
    apart = [x.reshape(B, S, N, 1, H) for x in (q, k, v)]
    bias = r(3 * D)
    expected = run_ort(model({"c": mha(q, k, v, bias)}), mha(q, k, v, bias).feeds("c0_"))
    for operands in ([np.concatenate(apart, 3), None, None], [q, np.concatenate(apart[1:], 3), None]):
        case = mha(*operands, bias)
        case.expected = expected
        check(case)


def test_masks_of_four_axes() -> None:
    """[B, 1, M, M] has rows for the past too; onnxruntime has no kernel for CPUs: the mask of its last queries."""
    mask = RNG.integers(0, 2, (B, 1, 12, 12)).astype(np.int32)
    rows = np.ascontiguousarray(mask[:, 0, 4:4 + S, :4 + S])
    whole, part = att(mask, PAST, present=True), att(rows, PAST, present=True)
    whole.expected = run_ort(model({"c": part}), part.feeds("c0_"))
    whole.rtol = whole.atol = 3e-3
    check(whole)


@pytest.mark.parametrize("case, words", [
    (att(do_rotary=1), "do_rotary=1"),
    (att(past=PAST, past_present_share_buffer=1), "past_present_share_buffer=1"),
    (att(i32(1, 2, 3, 4, 5, 6, 7, 8)), r"mask \[8\] for a batch of 2"),
    (mha(Q, K, V, None, None, None, None, None, i32(1)), "operand 8"),
    (mha(Q, None, None), "operand 1, the keys"),
    (decoder(ONE, ONE, ONE, None, None, *BUFFER, i32(2), past_present_share_buffer=1), "beam_width"),
])
def test_what_is_left_out_is_named(case: Case, words: str) -> None:
    with pytest.raises(CaptureError, match=words) as e:
        captured(model({"case": case}))
    assert case.op in str(e.value)
