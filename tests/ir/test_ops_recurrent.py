"""Recurrent layers against onnxruntime, torch and, for peepholes and odd activations, the equations in ONNX's text."""

import numpy as np
import pytest
import torch

from graphopt.errors import IRError
from tests.ir.one_op import run_op
from tests.ir.onnx_node import runtime

RNG = np.random.default_rng(0)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def normal(*shape, dtype=np.float32):
    return (RNG.normal(size=shape) * 0.6).astype(dtype)


def layer(kind, direction="forward", steps=5, batch=3, width=4, hidden=7, *, bias=True, lengths=True, start=True, peephole=False):
    """Operands in ONNX's order."""
    d, g = DIRECTIONS[direction], GATES[kind]
    x = normal(steps, batch, width)
    out = [x, normal(d, g * hidden, width), normal(d, g * hidden, hidden), normal(d, 2 * g * hidden) if bias else None,
           RNG.integers(0 if steps == 0 else 1, steps + 1, batch).astype(np.int32) if lengths else None,
           normal(d, batch, hidden) if start else None]
    if kind == "lstm":
        out += [normal(d, batch, hidden) if start else None, normal(d, 3 * hidden) if peephole else None]
    return out


def onnxruntime_says(kind, operands, **attrs):
    return runtime(kind.upper(), *operands, outputs=2 + (kind == "lstm"), **attrs)


def agree(got, expected):
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("options", [{}, {"bias": False, "lengths": False, "start": False},
                                     {"lengths": False, "batch": 1, "steps": 1}])
def test_plain_layers_are_onnxruntimes(kind, direction, options):
    operands = layer(kind, direction, **options)
    agree(run_op(kind, *operands, direction=direction, hidden=7, symbolic=False),
          onnxruntime_says(kind, operands, direction=direction, hidden_size=7))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_lstm_with_peepholes(direction):
    operands = layer("lstm", direction, peephole=True)
    agree(run_op("lstm", *operands, direction=direction, hidden=7, symbolic=False),
          onnxruntime_says("lstm", operands, direction=direction, hidden_size=7))


def test_lstm_with_coupled_gates():
    operands = layer("lstm")
    agree(run_op("lstm", *operands, input_forget=True, hidden=7, symbolic=False),
          onnxruntime_says("lstm", operands, input_forget=1, hidden_size=7))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gru_with_the_reset_after_the_product(direction):
    operands = layer("gru", direction)
    agree(run_op("gru", *operands, direction=direction, linear_before_reset=True, hidden=7, symbolic=False),
          onnxruntime_says("gru", operands, direction=direction, linear_before_reset=1, hidden_size=7))


@pytest.mark.parametrize("kind, activations, alphas, betas", [
    ("rnn", ["Relu"], [], []), ("rnn", ["LeakyRelu"], [0.2], []), ("rnn", ["Affine"], [0.4], [0.1]),
    ("rnn", ["ScaledTanh"], [0.7], [0.6]), ("rnn", ["HardSigmoid"], [0.3], [0.4]), ("rnn", ["Elu"], [0.5], []),
    ("rnn", ["Softsign"], [], []), ("rnn", ["Softplus"], [], []), ("rnn", ["ThresholdedRelu"], [0.1], []),
    ("gru", ["HardSigmoid", "ScaledTanh"], [0.3, 0.7], [0.4, 0.6]),
    ("lstm", ["Sigmoid", "LeakyRelu", "ScaledTanh"], [0.2, 0.5], [0.9]),
])
def test_activations_consume_their_parameters_in_order(kind, activations, alphas, betas):
    operands = layer(kind, lengths=False)
    got = run_op(kind, *operands, activations=activations, alphas=alphas, betas=betas, hidden=7, symbolic=False)
    agree(got, onnxruntime_says(kind, operands, activations=activations, activation_alpha=alphas, activation_beta=betas,
                                hidden_size=7))


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_clip_bounds_the_input_of_the_gates(kind, direction):
    operands = layer(kind, direction)
    agree(run_op(kind, *operands, direction=direction, clip=0.3, hidden=7, symbolic=False),
          onnxruntime_says(kind, operands, direction=direction, clip=0.3, hidden_size=7))


@pytest.mark.parametrize("kind", GATES)
def test_layers_are_torchs(kind):
    steps, batch, width, hidden = 6, 2, 3, 5
    module = getattr(torch.nn, kind.upper())(width, hidden, bidirectional=True).double()
    order = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2], "rnn": [0]}[kind]  # torch: i f g o; r z n

    def gates(name):
        both = []
        for suffix in ("", "_reverse"):
            p = getattr(module, f"{name}_l0{suffix}").detach().numpy()
            both.append(np.concatenate([np.split(p, GATES[kind])[i] for i in order]))
        return np.stack(both)

    x = normal(steps, batch, width, dtype=np.float64)
    extra = {"linear_before_reset": True} if kind == "gru" else {}
    got = run_op(kind, x, gates("weight_ih"), gates("weight_hh"), np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1),
                 direction="bidirectional", hidden=hidden, symbolic=False, **extra)
    y, states = module(torch.tensor(x))
    states = states if kind == "lstm" else (states,)
    np.testing.assert_allclose(got[0].transpose(0, 2, 1, 3).reshape(steps, batch, -1), y.detach().numpy(), rtol=1e-9, atol=1e-12)
    for a, b in zip(got[1:], states, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("steps, batch", [(0, 2), (3, 0)])
def test_no_steps_and_no_batch(kind, steps, batch):
    operands = layer(kind, steps=steps, batch=batch, lengths=False)
    results = run_op(kind, *operands, hidden=7)
    assert results[0].shape == (steps, 1, batch, 7)
    np.testing.assert_array_equal(results[1], operands[5])


@pytest.mark.parametrize("kind", GATES)
def test_symbolic_steps_and_batch(kind):
    run_op(kind, *layer(kind, "bidirectional", steps=5, batch=3, width=6, hidden=7), direction="bidirectional", hidden=7)


@pytest.mark.parametrize("kind", GATES)
def test_f16_is_computed_in_f32_and_rounded_at_the_end(kind):
    operands = [a if a is None or a.dtype == np.int32 else a.astype(np.float16) for a in layer(kind, lengths=False)]
    got = run_op(kind, *operands, hidden=7, symbolic=False)
    wide = run_op(kind, *(None if a is None else a.astype(np.float32) for a in operands), hidden=7, symbolic=False)
    for a, b in zip(got, wide):
        np.testing.assert_array_equal(a, b.astype(np.float16))


def test_what_does_not_fit_is_refused():
    x, w, r, *_ = layer("gru")
    with pytest.raises(IRError, match=r"r is f32\[1, 21, 7\], it must be \[1, 18, 6\]"):
        run_op("gru", x, w[:, :18], r, hidden=6)
    with pytest.raises(IRError, match="unknown activation 'sinus'"):
        run_op("gru", x, w, r, hidden=7, activations=["Sinus", "Tanh"])
    with pytest.raises(IRError, match="1 activations for 1 direction"):
        run_op("gru", x, w, r, hidden=7, activations=["Tanh"])
