"""Every case of onnx.backend.test compiled for x86: kernels where there are any, host ops where not."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from bench.onnx_suite import run_case
from tests.onnx_backend.test_suite import CASES, EXCLUSIONS

BATCH = 32


@pytest.mark.parametrize("start", range(0, len(CASES), BATCH))
def test_cases_on_x86(start: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "graphopt")  # host ops are announced in every second case
    failed = []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for kind, case in CASES[start:start + BATCH]:
            if case.name in EXCLUSIONS:
                continue
            outcome = run_case(kind, case, "x86")
            if outcome.error:
                failed.append(f"{case.name}: {outcome.error}")
    assert not failed, "\n".join(failed)
