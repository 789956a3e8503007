"""Grouped-query attention of com.microsoft against onnxruntime's: prompts, steps, buffers, windows, sinks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import graphopt
from graphopt.errors import CaptureError
from graphopt.ir import evaluate
from tests.capture.contrib import MS, Case, Fixed, captured, check, check_compiled, model
from tests.capture.onnx_models import run_ort

RNG = np.random.default_rng(11)
f32 = np.float32
N, KV, H = 4, 2, 16
COS, SIN = (Fixed(f(np.outer(np.arange(64), 1 / 100 ** (np.arange(8) / 8))).astype(f32)) for f in (np.cos, np.sin))
ALL_OUT = [True, True, True]


def r(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


def gqa(batch: int, length: int, counts: list[int], total: int, held: int | None = None, packed: bool = False,
        rotary: bool = False, bias: tuple[int, ...] | None = None, sink: bool = False, positions: Any = None,
        **attrs: Any) -> Case:
    """`counts` keys of every batch element after the step, `held` rows in the cache before."""
    q = [r(batch, length, (N + 2 * KV) * H), None, None] if packed else \
        [r(batch, length, N * H), r(batch, length, KV * H), r(batch, length, KV * H)]
    past = [None, None] if held is None else [r(batch, KV, held, H), r(batch, KV, held, H)]
    operands = [*q, *past, np.array(counts, np.int32) - 1, Fixed(np.array(total, np.int32)), COS if rotary else None,
                SIN if rotary else None, positions, None if bias is None else r(*bias), Fixed(r(N)) if sink else None]
    while operands[-1] is None:
        operands.pop()
    return Case("GroupQueryAttention", operands, {"num_heads": N, "kv_num_heads": KV, "do_rotary": int(rotary), **attrs}, ALL_OUT)


CASES = {
    "prompt": gqa(2, 6, [6, 6], 6),
    "prompt, rotary": gqa(2, 6, [6, 6], 6, rotary=True),
    "prompt, interleaved": gqa(1, 6, [6], 6, rotary=True, rotary_interleaved=1),
    "prompt, packed, rotary": gqa(2, 6, [6, 6], 6, packed=True, rotary=True),
    "prompt, empty past": gqa(1, 6, [6], 6, held=0),
    "prompt into a buffer": gqa(1, 6, [6], 6, held=10, rotary=True),
    "step": gqa(1, 1, [8], 8, held=7, rotary=True),
    "step, ragged": gqa(2, 1, [8, 5], 8, held=7, rotary=True),
    "step in a buffer": gqa(2, 1, [8, 5], 8, held=12, packed=True, rotary=True),
    "several steps": gqa(1, 3, [9], 9, held=6, rotary=True),
    "several steps in a buffer": gqa(1, 3, [9], 9, held=20),
    "window, prompt": gqa(1, 9, [9], 9, local_window_size=3),
    "window, step": gqa(2, 1, [9, 6], 9, held=8, local_window_size=4),
    "softcap, scale": gqa(1, 5, [5], 5, softcap=2.0, scale=0.7),
    "smooth softmax": gqa(1, 5, [5], 5, smooth_softmax=1),
    "sinks": gqa(2, 5, [5, 5], 5, sink=True),
    "sinks, step, window": gqa(2, 1, [9, 6], 9, held=8, sink=True, local_window_size=4),
    "bias": gqa(2, 5, [5, 5], 5, bias=(1, N, 5, 5)),
    "bias, step": gqa(2, 1, [8, 5], 8, held=7, bias=(2, 1, 1, 8)),
    "positions": gqa(2, 1, [8, 5], 8, held=7, rotary=True, positions=np.array([[9], [3]])),
    "positions of a prompt": gqa(2, 3, [3, 3], 3, rotary=True, positions=np.array([[5, 9, 1], [2, 8, 3]])),
    "positions of several steps": gqa(1, 3, [9], 9, held=6, rotary=True, positions=np.array([[7, 2, 11]])),
    "both ways": gqa(2, 5, [5, 5], 5, causal=0),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    check(CASES[name])


def test_runs_in_kernels() -> None:
    names = ["prompt, packed, rotary", "step, ragged", "sinks, step, window"]
    check_compiled({name: CASES[name] for name in names})


def test_a_prompt_of_several_lengths() -> None:
    """Rows of padding are not specified; those before them are, as are the keys and values."""
    case = gqa(2, 6, [6, 4], 6, rotary=True)
    m, feeds = model({"case": case}), case.feeds("c0_")
    y, k, v = graphopt.compile(m).run(feeds).values()
    expected, keys, values = run_ort(m, feeds)
    for row, count in enumerate((6, 4)):
        np.testing.assert_allclose(y[row, :count], expected[row, :count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(k[row, :, :count], keys[row, :, :count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(v[row, :, :count], values[row, :, :count], rtol=1e-4, atol=1e-5)


def test_padded_steps() -> None:
    """Each batch element has its own count of new rows; those behind are not specified."""
    case = gqa(2, 3, [9, 6], 12, held=12, rotary=True)
    news = np.array([3, 1], np.int32)
    case.operands = [*case.operands, *[None] * 7, news]
    m, feeds = model({"case": case}), case.feeds("c0_")
    y, k, v = evaluate(captured(m), list(feeds.values()))
    expected, keys, values = run_ort(m, feeds)
    for row, (new, count) in enumerate(zip(news, (9, 6))):
        np.testing.assert_allclose(y[row, :new], expected[row, :new], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(k[row, :, :count], keys[row, :, :count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(v[row, :, :count], values[row, :, :count], rtol=1e-4, atol=1e-5)


def test_norms_of_queries_and_keys() -> None:
    """No kernel for CPUs has them: queries and keys normalised beforehand, in numpy."""
    case = gqa(1, 1, [8], 8, held=7, rotary=True)
    weights = [r(H), r(H)]

    def normalised(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        heads = x.reshape(*x.shape[:2], -1, H).astype(np.float64)
        return (heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-6) * weight).astype(f32).reshape(x.shape)

    before = Case(case.op, [*map(normalised, case.operands[:2], weights), *case.operands[2:]], case.attrs, ALL_OUT)
    after = Case(case.op, [*case.operands, *[None] * 5, *weights], case.attrs, ALL_OUT,
                 expected=run_ort(model({"c": before}), before.feeds("c0_")))
    check(after)


def test_decoding_with_free_sizes() -> None:
    """One model for the prompt and the steps: the total comes from the shape of a mask, as exporters write it."""
    node, operands = helper.make_node, ["q", "k", "v", "pk", "pv", "counts", "total", "cos", "sin"]
    nodes = [node("Shape", ["mask"], ["shape"]), node("Gather", ["shape", "one"], ["long"], axis=0),
             node("Cast", ["long"], ["total"], to=6), node("ReduceSum", ["mask", "one_axis"], ["sum"], keepdims=0),
             node("Sub", ["sum", "one"], ["last"]), node("Cast", ["last"], ["counts"], to=6),
             node("GroupQueryAttention", operands, ["y", "nk", "nv"], domain=MS, num_heads=N, kv_num_heads=KV, do_rotary=1)]
    info = helper.make_tensor_value_info
    inputs = [info(name, 1, ["B", "S", width]) for name, width in (("q", N * H), ("k", KV * H), ("v", KV * H))]
    inputs += [info(name, 1, ["B", KV, "P", H]) for name in ("pk", "pv")] + [info("mask", 7, ["B", "T"])]
    weights = [onnx_array("one", np.array(1)), onnx_array("one_axis", np.array([1])), onnx_array("cos", COS.value),
               onnx_array("sin", SIN.value)]
    outputs = [info("y", 1, ["B", "S", N * H]), *(info(name, 1, ["B", KV, "T", H]) for name in ("nk", "nv"))]
    m = helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, weights), ir_version=10,
                          opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)])
    program = graphopt.compile(m)
    past: list[Any] = [np.zeros((1, KV, 0, H), f32)] * 2
    for length in (4, 1, 1):
        total = past[0].shape[2] + length
        feeds = {"q": r(1, length, N * H), "k": r(1, length, KV * H), "v": r(1, length, KV * H), "pk": past[0], "pv": past[1],
                 "mask": np.ones((1, total), np.int64)}
        got, expected = list(program.run(feeds).values()), run_ort(m, feeds)
        for mine, right in zip(got, expected):
            np.testing.assert_allclose(mine, right, rtol=1e-4, atol=1e-5)
        assert program.host_ops == []
        past = expected[1:]


def onnx_array(name: str, value: np.ndarray) -> Any:
    return numpy_helper.from_array(value, name)


@pytest.mark.parametrize("attrs, words", [
    ({"sliding_window_cache": 1, "local_window_size": 4}, "sliding_window_cache=1"),
    ({"qk_output": 1}, "qk_output=1"),
    ({"k_quant_type": "PER_TENSOR"}, "k_quant_type='PER_TENSOR'"),
])
def test_what_is_left_out_is_named(attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        captured(model({"case": gqa(1, 1, [8], 8, held=7, **attrs)}))
