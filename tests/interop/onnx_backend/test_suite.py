"""Every case of onnx.backend.test (node, simple, pytorch-converted, pytorch-operator) on the reference evaluator.

Each captured graph is verified too. What is excluded is named with its reason; an exclusion that begins to
pass must be taken off the list.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from bench.onnx_suite import cases, run_case

RANDOM = "the expected values are one draw of an unseeded generator"
FRACTION = "takes a fractional size of the result; the specification's text, onnxruntime and PyTorch align whole ones"
GRADIENT = "Gradient asks for automatic differentiation of the model around it, which a compiler for inference does not do"
EXCLUSIONS = {
    "test_attention_4d_causal_fp16_expanded": "expects the rounding of numpy's float16 softmax, step by step; off by one ulp",
    "test_bernoulli": RANDOM,
    "test_bernoulli_double": RANDOM,
    "test_bernoulli_double_expanded": RANDOM,
    "test_bernoulli_expanded": RANDOM,
    "test_bernoulli_seed": RANDOM,
    "test_bernoulli_seed_expanded": RANDOM,
    "test_dft_inverse": "expects the rounding noise of numpy's float32 FFT, 2e-7 where the exact result is 0",
    "test_dft_inverse_opset19": "expects the rounding noise of numpy's float32 FFT, 2e-7 where the exact result is 0",
    "test_gradient_of_add": GRADIENT,
    "test_gradient_of_add_and_mul": GRADIENT,
    "test_resize_downsample_scales_cubic_align_corners": FRACTION,
    "test_resize_downsample_scales_linear_align_corners": FRACTION,
    "test_loop16_seq_none": "its sequence holds a scalar, which onnx's own comparison cannot take the length of",
}
CASES = cases()
BATCH = 64  # cases a test: 2024 tests of a few milliseconds each would spend most of the time in pytest


def test_the_suite_is_the_whole_suite() -> None:
    names = [case.name for _, case in CASES]
    assert len(names) == len(set(names)) == 2024
    assert set(EXCLUSIONS) <= set(names)


@pytest.mark.parametrize("start", range(0, len(CASES), BATCH))
def test_cases_on_the_evaluator(start: int) -> None:
    failed = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for kind, case in CASES[start:start + BATCH]:
            if case.name in EXCLUSIONS:
                continue
            outcome = run_case(kind, case, "evaluator", check=True)
            if outcome.error:
                failed.append(f"{case.name}: {outcome.error}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", sorted(n for n, why in EXCLUSIONS.items() if why != RANDOM))
def test_exclusions_are_needed(name: str) -> None:
    kind, case = next((k, c) for k, c in CASES if c.name == name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run_case(kind, case, "evaluator").error, f"{name} passes now: take it off the list"
