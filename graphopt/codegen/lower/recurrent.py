"""Recurrent layers: time is serial, each (direction, sequence) of the batch a line of its own.

The weights are transposed into scratch memory once a call, so that the innermost loop runs over hidden units
with unit stride; the state stays in the dtype of arithmetic and is rounded only where results are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.codegen.expr import INDEX, Buffer, Expr, call, cast, const, maximum, minimum, select
from graphopt.codegen.loops import If, Stmt, let, loop, nest, seq
from graphopt.codegen.lower.common import PARALLEL_FROM, read, write
from graphopt.codegen.lower.registry import OpView, computed, loops
from graphopt.ir.ops.recurrent import DIRECTIONS, resolve_activations
from graphopt.ir.types import DType


def _sigmoid(x: Expr) -> Expr:
    return 1 / (1 + call("exp", -x))


ACTIVATIONS: dict[str, Callable[[Expr, float, float], Expr]] = {
    "relu": lambda x, a, b: maximum(x, 0),
    "tanh": lambda x, a, b: call("tanh", x),
    "sigmoid": lambda x, a, b: _sigmoid(x),
    "affine": lambda x, a, b: a * x + b,
    "leakyrelu": lambda x, a, b: select(x >= 0, x, a * x),
    "thresholdedrelu": lambda x, a, b: select(x > a, x, 0 * x),
    "scaledtanh": lambda x, a, b: a * call("tanh", b * x),
    "hardsigmoid": lambda x, a, b: minimum(maximum(a * x + b, 0), 1),
    "elu": lambda x, a, b: select(x >= 0, x, a * call("expm1", minimum(x, 0))),
    "softsign": lambda x, a, b: x / (1 + call("abs", x)),
    "softplus": lambda x, a, b: maximum(x, 0) + call("log1p", call("exp", -call("abs", x))),
}
DEFAULTS = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _scratch(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    """Transposed weights, and for every line: gates of the input, gates of the state, the states, one more row."""
    _, batch, width = o.shape("x")
    directions, hidden, gates = len(DIRECTIONS[o.direction]), o.hidden, GATES[o.op.name]
    d = computed(o.types[0].dtype).name
    lines = directions * batch
    return [(d, (directions, width, gates * hidden)), (d, (directions, hidden, gates * hidden)), (d, (lines, gates * hidden)),
            (d, (lines, gates * hidden)), (d, (lines, hidden)), (d, (lines, hidden))]


@dataclass
class _Layer:
    """One op's buffers, and one direction's activations."""

    o: OpView
    operands: dict[str, Buffer]
    outs: Sequence[Buffer]
    wt: Buffer
    rt: Buffer
    gates_x: Buffer
    gates_h: Buffer
    h: Buffer
    extra: Buffer  # the cell of an lstm, the reset state of a gru
    direction: int
    functions: list[Callable[[Expr], Expr]]

    @property
    def dtype(self) -> DType:
        return self.h.dtype

    @property
    def hidden(self) -> int:
        return self.o.hidden

    def line(self, b: Expr) -> Expr:
        return b + self.direction * self.operands["x"].shape[1]

    def multiply(self, into: Buffer, b: Expr, weights: Buffer, vector: Callable[[Expr], Expr], first: int, count: int) -> Stmt:
        """into[line, first + j] += vector[k] * weights[direction, k, first + j] for j < count, all k."""
        line = self.line(b)

        def row(k: Expr) -> Stmt:
            def add(v: Expr) -> Stmt:
                return loop(count, lambda j: write(into, [line, first + j],
                                                   into[line, first + j] + v * weights[self.direction, k, first + j]), name="j")

            return let("v", vector(k), add)

        return loop(weights.shape[1], row, name="k")

    def start(self, b: Expr, into: Buffer, part: int) -> Stmt:
        """into[line] = the input bias (part 0) or the recurrent one (part 1)."""
        count = GATES[self.o.op.name] * self.hidden
        bias = self.operands.get("b")

        def value(j: Expr) -> Expr:
            return const(0, self.dtype) if bias is None else read(bias, self.direction, part * count + j)

        return loop(count, lambda j: write(into, [self.line(b), j], value(j)), name="j")

    def step(self, b: Expr, t: Expr) -> Stmt:
        """All gates of sequence `b` at time `t`, then its new state."""
        x, line, n = self.operands["x"], self.line(b), self.hidden
        count = GATES[self.o.op.name] * n
        lazy = self.o.op.name == "gru" and not self.o.linear_before_reset  # the last gate waits for the reset
        return seq(
            self.start(b, self.gates_x, 0), self.start(b, self.gates_h, 1),
            self.multiply(self.gates_x, b, self.wt, lambda k: read(x, t, b, k), 0, count),
            self.multiply(self.gates_h, b, self.rt, lambda k: self.h[line, k], 0, count - n if lazy else count),
            CELLS[self.o.op.name](self, b, t))

    def gate(self, b: Expr, g: int, j: Expr) -> Expr:
        line = self.line(b)
        return self.gates_x[line, g * self.hidden + j] + self.gates_h[line, g * self.hidden + j]

    def finish(self, b: Expr, t: Expr, j: Expr, value: Expr) -> Stmt:
        """The new state of unit j, and its place in y."""
        return let("new", value, lambda v: seq(write(self.h, [self.line(b), j], v),
                                               write(self.outs[0], [t, self.direction, b, j], v)))


def _lstm_cell(s: _Layer, b: Expr, t: Expr) -> Stmt:
    f, g, h = s.functions
    line, peephole = s.line(b), s.operands.get("p")

    def unit(j: Expr) -> Stmt:
        def peep(k: int, cell: Expr) -> Expr:
            return const(0, s.dtype) if peephole is None else read(peephole, s.direction, k * s.hidden + j) * cell

        def gate(k: int, p: int, cell: Expr) -> Expr:
            return s.gate(b, k, j) if peephole is None else s.gate(b, k, j) + peep(p, cell)

        def with_input(i: Expr) -> Stmt:
            old = s.extra[line, j]
            forget = 1 - i if s.o.input_forget else f(gate(2, 2, old))
            return let("cell", forget * old + i * g(s.gate(b, 3, j)), with_cell)

        def with_cell(cell: Expr) -> Stmt:
            return seq(write(s.extra, [line, j], cell), s.finish(b, t, j, f(gate(1, 1, cell)) * h(cell)))

        return let("i", f(gate(0, 0, s.extra[line, j])), with_input)

    return loop(s.hidden, unit, name="j")


def _gru_cell(s: _Layer, b: Expr, t: Expr) -> Stmt:
    f, g = s.functions
    line, n = s.line(b), s.hidden

    def unit(j: Expr) -> Stmt:
        recurrent: Expr = s.gates_h[line, 2 * n + j]
        if s.o.linear_before_reset:
            recurrent = f(s.gate(b, 1, j)) * recurrent
        new = g(s.gates_x[line, 2 * n + j] + recurrent)
        return let("z", f(s.gate(b, 0, j)), lambda z: s.finish(b, t, j, (1 - z) * new + z * s.h[line, j]))

    units = loop(n, unit, name="j")
    if s.o.linear_before_reset:
        return units
    reset = loop(n, lambda j: write(s.extra, [line, j], f(s.gate(b, 1, j)) * s.h[line, j]), name="j")
    return seq(reset, s.multiply(s.gates_h, b, s.rt, lambda k: s.extra[line, k], 2 * n, n), units)


def _rnn_cell(s: _Layer, b: Expr, t: Expr) -> Stmt:
    return loop(s.hidden, lambda j: s.finish(b, t, j, s.functions[0](s.gate(b, 0, j))), name="j")


CELLS: dict[str, Callable[[_Layer, Expr, Expr], Stmt]] = {"lstm": _lstm_cell, "gru": _gru_cell, "rnn": _rnn_cell}


def _clipped(name: str, alpha: float, beta: float, clip: float | None) -> Callable[[Expr], Expr]:
    f = ACTIVATIONS[name]

    def activation(x: Expr) -> Expr:
        return f(x if clip is None else minimum(maximum(x, -clip), clip), alpha, beta)

    return activation


def _lines(s: _Layer, reverse: bool) -> Stmt:
    """One direction: for every sequence its first state, all steps, its last state."""
    steps, batch, width = s.operands["x"].shape
    n, d, lengths = s.hidden, s.direction, s.operands.get("lengths")
    is_lstm = s.o.op.name == "lstm"

    def initial(name: str, into: Buffer, b: Expr) -> Stmt:
        given = s.operands.get(name)
        state = lambda j: const(0, s.dtype) if given is None else read(given, d, b, j)
        return loop(n, lambda j: write(into, [s.line(b), j], state(j)), name="j")

    def at_time(b: Expr, k: Expr) -> Stmt:
        t = steps - 1 - k if reverse else k
        step = s.step(b, t)
        if lengths is None:
            return step
        silent = loop(n, lambda j: write(s.outs[0], [t, d, b, j], const(0, s.dtype)), name="j")
        return If(t < cast(lengths[b], INDEX), step, silent)

    def last(b: Expr, state: Buffer, y: Buffer) -> Stmt:
        return loop(n, lambda j: write(y, [d, b, j], state[s.line(b), j]), name="j")

    def sequence(b: Expr) -> Stmt:
        states = [(s.h, s.outs[1]), *([(s.extra, s.outs[2])] if is_lstm else [])]
        return seq(initial("h0", s.h, b), *([initial("c0", s.extra, b)] if is_lstm else []),
                   loop(steps, lambda k: at_time(b, k), name="t"),
                   *(last(b, state, y) for state, y in states))

    work = steps * GATES[s.o.op.name] * n * (width + n)
    return loop(batch, sequence, "parallel" if work >= PARALLEL_FROM else "serial", name="b")


@loops("lstm", "gru", "rnn", scratch=_scratch)
def recurrent(o: OpView, ins: Sequence[Buffer | None], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    operands = {p.name: b for p, b in zip(o.op.definition.operands, ins) if b is not None}
    wt, rt, gates_x, gates_h, h, extra = scratch
    default = DEFAULTS[o.op.name]
    directions = DIRECTIONS[o.direction]
    named = resolve_activations(o.activations, o.alphas, o.betas, default, len(directions))
    # The clip bounds the inputs of the gates, not the cell that an lstm's third activation sees.
    functions = [_clipped(*a, o.clip if k % len(default) < 2 else None) for k, a in enumerate(named)]
    body: list[Stmt] = [_transposed(operands["w"], wt), _transposed(operands["r"], rt)]
    for d, reverse in enumerate(directions):
        own = functions[d * len(default):(d + 1) * len(default)]
        layer = _Layer(o, operands, outs, wt, rt, gates_x, gates_h, h, extra, d, own)
        body.append(_lines(layer, reverse))
    return seq(*body)


def _transposed(source: Buffer, target: Buffer) -> Stmt:
    return nest(target.shape, lambda d, k, j: write(target, [d, k, j], read(source, d, j, k)), ("d", "k", "j"))
