"""Every case of onnx.backend.test compiled for x86: kernels for all ordinary numeric ops, host ops for the rest.

The rest is what depends on run-time values, draws random numbers, or works on strings, sequences, optionals, 8-bit floats
and integers narrower than a byte.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest

from bench.onnx_suite import run_case
from tests.interop.onnx_backend.test_suite import CASES, EXCLUSIONS

BATCH = 32
STRINGS = {"label_encode", "tfidf"}  # string operators that also take numbers


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
            failed += [f"{case.name}: {why}" for op, why in outcome.host.items()
                       if why.endswith("has no lowering") and op not in STRINGS]
    assert not failed, "\n".join(failed)
