"""The LSTM with 8-bit weights of com.microsoft against onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.capture.contrib import Case, Fixed, check, check_compiled

RNG = np.random.default_rng(12)
f32 = np.float32


def r(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(f32)


def lstm(steps: int, batch: int, width: int, hidden: int, *, direction: str = "forward", per_column: bool = False,
         bias: bool = True, states: bool = False, lengths: Any = None, peepholes: bool = False, dtype: Any = np.int8,
         **attrs: Any) -> Case:
    d = 2 if direction == "bidirectional" else 1
    info = np.iinfo(dtype)

    def weights(rows: int) -> tuple[Fixed, Fixed, Fixed]:
        shape = (d, 4 * hidden) if per_column else (d,)
        zero = np.full(shape, (0 if per_column else RNG.integers(-3, 4)) + (128 if info.min == 0 else 0))
        return (Fixed(RNG.integers(info.min, info.max + 1, (d, rows, 4 * hidden)).astype(dtype)),
                Fixed((RNG.random(shape) * .002 + .003).astype(f32)), Fixed(zero.astype(dtype)))

    w, w_scale, w_zero = weights(width)
    rw, r_scale, r_zero = weights(hidden)
    state = [r(d, batch, hidden) * .5 if states else None for _ in range(2)]
    operands = [r(steps, batch, width), w, rw, Fixed(r(d, 8 * hidden) * .1) if bias else None,
                None if lengths is None else np.array(lengths, np.int32), *state,
                Fixed(r(d, 3 * hidden) * .1) if peepholes else None, w_scale, w_zero, r_scale, r_zero]
    return Case("DynamicQuantizeLSTM", operands, {"hidden_size": hidden, "direction": direction, **attrs}, [True] * 3)


CASES = {
    "forward": lstm(5, 1, 8, 6),
    "reverse, no bias": lstm(5, 1, 8, 6, direction="reverse", bias=False),
    "both ways, states": lstm(5, 1, 8, 6, direction="bidirectional", states=True),
    "per column, unsigned": lstm(4, 1, 7, 10, per_column=True, dtype=np.uint8),
    "peepholes, coupled gates, clip": lstm(4, 1, 8, 6, peepholes=True, input_forget=1, clip=0.5),
    "wide": lstm(3, 1, 20, 70, per_column=True),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_onnxruntime(name: str) -> None:
    check(CASES[name])


def test_several_sequences() -> None:
    """Within the rounding of the states: onnxruntime takes ranges over as many sequences as a thread has."""
    case = lstm(4, 3, 8, 6, lengths=[4, 2, 3])
    case.atol = 3e-3
    check(case)


def test_runs_in_kernels() -> None:
    check_compiled({name: CASES[name] for name in ("both ways, states", "peepholes, coupled gates, clip")})
