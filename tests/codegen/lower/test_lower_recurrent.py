"""Recurrent layers as loop nests: every gate, direction and option against the op table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.codegen.lower.lowering import check, random

RNG = np.random.default_rng(71)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STEPS, BATCH, WIDTH, HIDDEN = 3, 2, 3, 5


def run(name: str, of: str = "f32", direction: str = "forward", biased: bool = True, lengths: list[int] | None = None,
        states: bool = True, peepholes: bool = False, steps: int = STEPS, **attrs: Any) -> None:
    directions = 2 if direction == "bidirectional" else 1
    g = GATES[name]

    def make(*shape: int) -> np.ndarray:
        return random(RNG, of, *shape, low=-1, high=1)

    operands = [make(steps, BATCH, WIDTH), make(directions, g * HIDDEN, WIDTH), make(directions, g * HIDDEN, HIDDEN),
                make(directions, 2 * g * HIDDEN) if biased else None,
                None if lengths is None else np.array(lengths, np.int32), make(directions, BATCH, HIDDEN) if states else None]
    if name == "lstm":
        operands += [make(directions, BATCH, HIDDEN) if states else None, make(directions, 3 * HIDDEN) if peepholes else None]
    check(name, operands, direction=direction, hidden=HIDDEN, **attrs)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_directions_and_lengths(name: str, direction: str) -> None:
    run(name, direction=direction)
    run(name, direction=direction, lengths=[2, 3], biased=False)
    run(name, direction=direction, lengths=[1, 0], states=False)


@pytest.mark.parametrize("name", GATES)
def test_narrow_and_wide(name: str) -> None:
    run(name, of="f16")
    run(name, of="f64", direction="reverse")


def test_no_time_at_all() -> None:
    run("lstm", steps=0)


def test_lstm_options() -> None:
    run("lstm", peepholes=True)
    run("lstm", peepholes=True, direction="bidirectional", lengths=[3, 1])
    run("lstm", input_forget=True, clip=0.3)
    run("lstm", quantize_state=True, direction="bidirectional", lengths=[3, 1])


def test_gru_resets_after_the_product() -> None:
    run("gru", linear_before_reset=True)
    run("gru", linear_before_reset=True, biased=False, clip=0.2, direction="reverse")


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
                                        "HardSigmoid", "Elu", "Softsign", "Softplus"])
def test_activations(activation: str) -> None:
    run("rnn", activations=[activation], alphas=[0.7], betas=[0.4], steps=2)


def test_activations_differ_by_direction() -> None:
    activations = ["HardSigmoid", "Relu", "Sigmoid", "LeakyRelu"]
    run("gru", direction="bidirectional", activations=activations, alphas=[0.3, 0.1], betas=[0.6])
