"""Recurrent layers: time is serial, each (direction, sequence) of the batch a line of its own.

The weights are transposed into scratch memory once a call, so that the innermost loop runs over hidden units
with unit stride; the state stays in the dtype of arithmetic and is rounded only where results are stored. x86 has a
template (codegen.recurrent) that packs constant weights ahead and keeps the gates in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, call, cast, const, fma, maximum, minimum, select
from graphopt.codegen.kernel.loops import If, Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.common import PARALLEL_FROM, read, write
from graphopt.codegen.lower.registry import OpView, computed, loops
from graphopt.ir.graph import Op
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


def waits(op: Op) -> bool:
    """Is the state reset before its product with the weights of the last gate, so that this one waits for all of it?"""
    return not op.attrs.get("linear_before_reset", True)


def in_steps(op: Op) -> bool:
    """Does the product with the state see it rounded to 8 bits?"""
    return bool(op.attrs.get("quantize_state", False))


def states_of(op: Op) -> list[str]:
    """The operands that a layer's states begin with, in the order of the results they end in after the first."""
    return [p.name for p in op.definition.operands if p.name in ("h0", "c0")]


def _scratch(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    """Transposed weights, and for every line: gates of the input, gates of the state, the states, one more row; the state in
    steps where the product sees it so."""
    _, batch, width = o.shape("x")
    directions, hidden, gates = len(DIRECTIONS[o.direction]), o.hidden, GATES[o.op.name]
    d = computed(o.types[0].dtype).name
    lines = directions * batch
    return [(d, (directions, width, gates * hidden)), (d, (directions, hidden, gates * hidden)), (d, (lines, gates * hidden)),
            (d, (lines, gates * hidden)), (d, (lines, hidden)), (d, (lines, hidden)),
            *([(d, (lines, hidden))] if in_steps(o.op) else [])]


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
    seen: Buffer  # the state as its product with the weights sees it
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
                return loop(count, lambda j: write(into, [line, first + j], fma(
                    v, weights[self.direction, k, first + j], into[line, first + j])), name="j")

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
        return seq(
            *([] if self.seen is self.h else [self.rounded(line)]),
            self.start(b, self.gates_x, 0), self.start(b, self.gates_h, 1),
            self.multiply(self.gates_x, b, self.wt, lambda k: read(x, t, b, k), 0, count),
            self.multiply(self.gates_h, b, self.rt, lambda k: self.seen[line, k], 0, count - n if waits(self.o.op) else count),
            self.cells(b, t))

    def rounded(self, line: Expr) -> Stmt:
        """seen[line] = the state in 256 steps from its least element to its largest, 0 among them."""
        n, h, top = self.hidden, self.h, const(255, self.dtype)

        def ends(of: Buffer) -> Stmt:
            find = loop(n, lambda j: seq(write(of, [0], minimum(of[0], h[line, j])), write(of, [1], maximum(of[1], h[line, j]))),
                        name="j")
            scale = select((of[1] - of[0]) > 0, (of[1] - of[0]) / top, 1)
            within = lambda e: minimum(maximum(e, 0), top)
            return seq(write(of, [0], const(0, self.dtype)), write(of, [1], const(0, self.dtype)), find,
                       let("scale", scale, lambda s: let("zero", within(call("round", -of[0] / s)), lambda z: loop(
                           n, lambda j: write(self.seen, [line, j], (within(call("round", h[line, j] / s) + z) - z) * s),
                           name="j"))))

        return alloc("ends", self.dtype, (2,), ends)

    def unit(self, b: Expr, j: Expr) -> Unit:
        """What the cell of unit `j` sees."""
        line, peephole = self.line(b), self.operands.get("p")
        part = lambda gates, g: gates[line, g * self.hidden + j]
        sums = [part(self.gates_x, g) + part(self.gates_h, g) for g in range(GATES[self.o.op.name])]
        if self.o.op.name == "gru":
            sums[2:] = [part(self.gates_x, 2), part(self.gates_h, 2)]
        peep = None if peephole is None else (lambda g: read(peephole, self.direction, g * self.hidden + j))
        return Unit(sums, self.h[line, j], self.extra[line, j], peep)

    def finish(self, b: Expr, t: Expr, j: Expr, values: Sequence[Expr]) -> Stmt:
        """The new state of unit j, and its place in y; an lstm's cell besides."""
        line = self.line(b)
        return let("new", values[0], lambda v: seq(
            *(write(self.extra, [line, j], cell) for cell in values[1:]), write(self.h, [line, j], v),
            write(self.outs[0], [t, self.direction, b, j], v)))

    def cells(self, b: Expr, t: Expr) -> Stmt:
        """All units of sequence `b` at time `t`, once their gates are summed up."""
        line, n = self.line(b), self.hidden
        unit = unit_of(self.o, self.functions)
        units = loop(n, lambda j: self.finish(b, t, j, unit(self.unit(b, j))), name="j")
        if not waits(self.o.op):
            return units
        keep = lambda j: self.functions[0](self.unit(b, j).sums[1]) * self.h[line, j]
        reset = loop(n, lambda j: write(self.extra, [line, j], keep(j)), name="j")
        return seq(reset, self.multiply(self.gates_h, b, self.rt, lambda k: self.extra[line, k], 2 * n, n), units)


@dataclass
class Unit:
    """What one unit's cell sees: `sums` of its gates (a gru's last in two, the input's and the state's), the state, an
    lstm's cell, and its peepholes by gate."""

    sums: Sequence[Expr]
    h: Expr
    c: Expr
    peephole: Callable[[int], Expr] | None = None


def unit_of(o: OpView, functions: Sequence[Callable[[Expr], Expr]]) -> Callable[[Unit], list[Expr]]:
    """A unit's new state, and an lstm's new cell."""

    def lstm(u: Unit) -> list[Expr]:
        f, g, h = functions
        peep = lambda k, cell: fma(u.peephole(k), cell, u.sums[k]) if u.peephole is not None else u.sums[k]
        i = f(peep(0, u.c))
        forget = 1 - i if o.input_forget else f(peep(2, u.c))
        cell = fma(forget, u.c, i * g(u.sums[3]))
        return [f(peep(1, cell)) * h(cell), cell]

    def gru(u: Unit) -> list[Expr]:
        f, g = functions
        z = f(u.sums[0])
        new = fma(f(u.sums[1]), u.sums[3], u.sums[2]) if o.linear_before_reset else u.sums[2] + u.sums[3]
        return [fma(1 - z, g(new), z * u.h)]

    def rnn(u: Unit) -> list[Expr]:
        return [functions[0](u.sums[0])]

    return {"lstm": lstm, "gru": gru, "rnn": rnn}[o.op.name]


def _clipped(name: str, alpha: float, beta: float, clip: float | None) -> Callable[[Expr], Expr]:
    f = ACTIVATIONS[name]

    def activation(x: Expr) -> Expr:
        return f(x if clip is None else minimum(maximum(x, -clip), clip), alpha, beta)

    return activation


def activations_of(op: Op) -> list[list[Callable[[Expr], Expr]]]:
    """The activations of each direction. The clip bounds what gates sum up, not the cell that an lstm's third one sees."""
    a, default = op.attrs, DEFAULTS[op.name]
    directions = DIRECTIONS[a["direction"]]
    named = resolve_activations(a["activations"], a["alphas"], a["betas"], default, len(directions))
    functions = [_clipped(*f, a["clip"] if k % len(default) < 2 else None) for k, f in enumerate(named)]
    return [functions[d * len(default):(d + 1) * len(default)] for d in range(len(directions))]


def _lines(s: _Layer, reverse: bool) -> Stmt:
    """One direction: for every sequence its first state, all steps, its last state."""
    steps, batch, width = s.operands["x"].shape
    n, d, lengths = s.hidden, s.direction, s.operands.get("lengths")
    states = list(zip(states_of(s.o.op), (s.h, s.extra), s.outs[1:]))

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
        return seq(*(initial(name, state, b) for name, state, _ in states), loop(steps, lambda k: at_time(b, k), name="t"),
                   *(last(b, state, y) for _, state, y in states))

    work = steps * GATES[s.o.op.name] * n * (width + n)
    return loop(batch, sequence, Scope.PARALLEL if work >= PARALLEL_FROM else Scope.SERIAL, name="b")


@loops("lstm", "gru", "rnn", scratch=_scratch)
def recurrent(o: OpView, ins: Sequence[Buffer | None], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    operands = {p.name: b for p, b in zip(o.op.definition.operands, ins) if b is not None}
    wt, rt, gates_x, gates_h, h, extra, *seen = scratch
    body: list[Stmt] = [_transposed(operands["w"], wt), _transposed(operands["r"], rt)]
    for d, (reverse, own) in enumerate(zip(DIRECTIONS[o.direction], activations_of(o.op))):
        layer = _Layer(o, operands, outs, wt, rt, gates_x, gates_h, h, extra, seen[0] if seen else h, d, own)
        body.append(_lines(layer, reverse))
    return seq(*body)


def _transposed(source: Buffer, target: Buffer) -> Stmt:
    return nest(target.shape, lambda d, k, j: write(target, [d, k, j], read(source, d, j, k)), ("d", "k", "j"))
