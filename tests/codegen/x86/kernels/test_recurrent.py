"""Recurrent layers through the x86 template: every option, sizes that fill no vector, constant weights and given ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.codegen.lower.lowering import random
from tests.codegen.x86.compiling import Batch

RNG = np.random.default_rng(23)
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
TARGETS = ["x86", "x86:haswell", "x86:x86-64"]


def layer(batch: Batch, name: str, steps: int, size: int, width: int, hidden: int, *, of: str = "f32", direction: str = "forward",
          constant: bool = True, biased: bool = True, lengths: list[int] | None = None, states: bool = True,
          peepholes: bool = False, scale: float = 1, **attrs: Any) -> None:
    directions, g, b = 2 if direction == "bidirectional" else 1, GATES[name], batch.b

    def make(*shape: int, weight: bool = False) -> Any:
        x = random(RNG, of, *shape, low=-scale if weight else -1, high=scale if weight else 1)
        return b.const(x) if weight and constant else batch.input(x)

    def weight(*shape: int) -> Any:
        return make(*shape, weight=True)

    operands = [make(steps, size, width), weight(directions, g * hidden, width), weight(directions, g * hidden, hidden),
                weight(directions, 2 * g * hidden) if biased else None,
                None if lengths is None else batch.input(np.array(lengths, np.int32)),
                make(directions, size, hidden) if states else None]
    if name == "lstm":
        operands += [make(directions, size, hidden) if states else None, weight(directions, 3 * hidden) if peepholes else None]
    for result in getattr(b, name)(*operands, direction=direction, hidden=hidden, **attrs):
        batch.give(result)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*GATES, "gru, reset before the product"])
def test_sizes_directions_and_lengths(name: str, target: str) -> None:
    batch = Batch()
    more = {"linear_before_reset": True} if name == "gru" else {}
    name = name.split(",")[0]
    for steps, size, width, hidden in [(3, 2, 3, 5), (1, 1, 1, 1), (2, 1, 20, 33), (4, 3, 7, 40)]:
        layer(batch, name, steps, size, width, hidden, **more)
        layer(batch, name, steps, size, width, hidden, constant=False, biased=False, states=False, **more)
    for direction in ("reverse", "bidirectional"):
        layer(batch, name, 4, 2, 6, 18, direction=direction, lengths=[2, 4], **more)
        layer(batch, name, 4, 2, 6, 18, direction=direction, lengths=[0, 1], constant=False, **more)
    batch.check("recurrent", target=target, threads=1)


@pytest.mark.parametrize("of", ["f16", "bf16", "f64"])
def test_narrow_and_wide(of: str) -> None:
    batch = Batch()
    layer(batch, "lstm", 2, 2, 5, 20, of=of)
    layer(batch, "gru", 2, 2, 5, 20, of=of, linear_before_reset=True)
    layer(batch, "gru", 2, 2, 5, 20, of=of)
    batch.check("recurrent")


def test_options() -> None:
    batch = Batch()
    layer(batch, "lstm", 3, 2, 5, 20, peepholes=True)
    layer(batch, "lstm", 3, 2, 5, 20, peepholes=True, constant=False, direction="bidirectional", lengths=[3, 1])
    layer(batch, "lstm", 3, 2, 5, 20, input_forget=True, clip=0.3)
    layer(batch, "gru", 3, 2, 5, 20, linear_before_reset=True, clip=0.2, direction="reverse")
    layer(batch, "gru", 2, 1, 5, 9, direction="bidirectional", activations=["HardSigmoid", "Relu", "Sigmoid", "LeakyRelu"],
          alphas=[0.3, 0.1], betas=[0.6], linear_before_reset=True)
    layer(batch, "gru", 3, 2, 5, 20, clip=0.2, direction="reverse", lengths=[3, 1])
    layer(batch, "gru", 2, 1, 5, 9, direction="bidirectional", activations=["HardSigmoid", "Relu", "Sigmoid", "LeakyRelu"],
          alphas=[0.3, 0.1], betas=[0.6])
    batch.check("recurrent")
    empty = Batch()
    layer(empty, "rnn", 0, 2, 5, 20)
    layer(empty, "rnn", 2, 0, 5, 20)
    empty.check()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_sequences_or_units(threads: int) -> None:
    batch = Batch()
    layer(batch, "lstm", 3, 5, 150, 100)
    layer(batch, "lstm", 2, 1, 200, 260)
    layer(batch, "gru", 2, 1, 300, 330, scale=0.1, direction="bidirectional", linear_before_reset=True)
    layer(batch, "gru", 3, 1, 301, 330, scale=0.1, direction="bidirectional")
    layer(batch, "gru", 3, 5, 150, 101)
    batch.check("recurrent", threads=threads)


def test_against_torch() -> None:
    net = torch.nn.LSTM(21, 37, num_layers=2, bidirectional=True).double().eval()
    x = torch.randn(6, 3, 21, dtype=torch.float64)
    import graphopt

    got = graphopt.compile(net, (x,))(x)
    torch.testing.assert_close(got, net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("target", ["x86", "x86:haswell"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_and_chunks_of_steps(threads: int, target: str) -> None:
    """Sequences that fill several blocks of rows, and inputs that take several chunks of steps, the last one shorter."""
    batch = Batch()
    lengths = [61, 60, 1, 0, 7, 30, 44, 61, 59, 2, 3, 4, 5]
    layer(batch, "lstm", 61, 13, 9, 67, scale=0.1, lengths=lengths)
    layer(batch, "gru", 61, 13, 9, 67, scale=0.1, direction="bidirectional", lengths=lengths)
    layer(batch, "gru", 53, 17, 5, 70, scale=0.1, direction="reverse", linear_before_reset=True, constant=False)
    layer(batch, "rnn", 3, 29, 300, 130, scale=0.1, direction="bidirectional")
    layer(batch, "lstm", 2, 3, 200, 260, of="f64", direction="bidirectional")
    batch.check("recurrent", target=target, threads=threads)


@pytest.mark.parametrize("name", GATES)
def test_what_one_sequence_holds_stays_there(name: str) -> None:
    """NaN and infinity in one sequence, and what lies behind a sequence's end, reach no other result."""
    import graphopt
    from graphopt.ir import Builder, Graph, dtype, tensor

    graph, (steps, size, width, hidden) = Graph(), (4, 7, 6, 20)
    x = graph.add_input(tensor(dtype("f32"), steps, size, width), "x")
    lengths = graph.add_input(tensor(dtype("i32"), size), "lengths")
    b, g = Builder(graph), GATES[name]
    w, r = (b.const(random(RNG, "f32", 1, g * hidden, k, low=-1, high=1)) for k in (width, hidden))
    graph.outputs = list(getattr(b, name)(x, w, r, None, lengths, hidden=hidden))
    model = graphopt.compile(graph, threads=1)
    data, ends = random(RNG, "f32", steps, size, width, low=-1, high=1), np.array([4, 4, 2, 4, 0, 4, 3], np.int32)
    clean = [np.asarray(v) for v in model(data, ends)]
    for k, end in enumerate(ends):
        data[end:, k] = np.nan
    for got, want in zip(model(data, ends), clean):
        np.testing.assert_array_equal(np.asarray(got), want)
    data[1, 3, 0], data[0, 5, 2] = np.nan, np.inf
    others = [0, 1, 2, 4, 6]
    for got, want in zip(model(data, ends), clean):
        np.testing.assert_array_equal(np.asarray(got)[..., others, :], want[..., others, :])
    assert np.isnan(np.asarray(model(data, ends)[0])[1, 0, 3]).any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [torch.nn.GRU, torch.nn.LSTM, torch.nn.RNN])
def test_batches_against_torch(kind: type[torch.nn.Module], threads: int) -> None:
    import graphopt

    net = kind(33, 47, bidirectional=True).eval()  # type: ignore[call-arg]
    x = torch.randn(9, 11, 33)
    torch.testing.assert_close(graphopt.compile(net, (x,), threads=threads)(x), net(x), rtol=1e-4, atol=1e-5)
