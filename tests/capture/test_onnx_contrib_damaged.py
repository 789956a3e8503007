"""Nodes of com.microsoft with an operand or attribute left out are captured or refused, never anything else."""

from __future__ import annotations

import dataclasses

import pytest

from graphopt.capture import capture
from graphopt.errors import GraphOptError
from tests.capture import (
    test_onnx_contrib_attention,
    test_onnx_contrib_fused,
    test_onnx_contrib_grouped,
    test_onnx_contrib_integer,
    test_onnx_contrib_qlinear,
    test_onnx_contrib_recurrent,
)
from tests.capture.contrib import Case, model

CASES = {
    **test_onnx_contrib_qlinear.CASES, **test_onnx_contrib_integer.PRODUCTS, **test_onnx_contrib_integer.QUANTISED,
    **test_onnx_contrib_integer.BLOCKS, **test_onnx_contrib_fused.ALL, **test_onnx_contrib_attention.ALL,
    **test_onnx_contrib_grouped.CASES, **test_onnx_contrib_recurrent.CASES,
}
ONE_OF_EACH = {case.op: case for case in CASES.values()}


@pytest.mark.parametrize("op", ONE_OF_EACH)
def test_something_is_missing(op: str) -> None:
    whole = ONE_OF_EACH[op]
    without = [dataclasses.replace(whole, operands=[None if j == i else o for j, o in enumerate(whole.operands)])
               for i in range(len(whole.operands))]
    without += [dataclasses.replace(whole, attrs={k: v for k, v in whole.attrs.items() if k != name}) for name in whole.attrs]
    for case in without:
        tried(case)


def tried(case: Case) -> None:
    try:
        capture(model({"case": case}))
    except GraphOptError as e:
        assert case.op in str(e)
