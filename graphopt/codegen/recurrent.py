"""Recurrent layers on x86: all gates of a few vectors of units are summed in registers, and the cell follows at once.

Weights are packed by units, [panel][k][gate][unit], so that a step reads them in order; constant ones once, others in each
call. Units are padded to whole vectors, in the packed weights and in the states. Sequences of a batch are shared among
threads where there are enough, else the panels of a step. What one step of a cell is stands in `lower.recurrent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.expr import INDEX, Buffer, Expr, Var, cast, const, minimum, select
from graphopt.codegen.kernels import Lowered, Packing, Sources, Template
from graphopt.codegen.loops import Alloc, For, If, Kernel, Stmt, loop, nest, seq, store
from graphopt.codegen.lower.recurrent import GATES, Unit, activations_of, unit_of
from graphopt.codegen.lower.registry import OpView, computed
from graphopt.codegen.schedule import Style
from graphopt.ir.graph import Op
from graphopt.ir.ops.recurrent import DIRECTIONS
from graphopt.targets.x86 import X86

ACCUMULATORS = 8  # vectors of sums from which the latency of multiply-adds is hidden
# Which sum a gate's input part and its recurrent part go to: a gru's last gate needs them apart.
SUMS = {"lstm": ((0, 1, 2, 3), (0, 1, 2, 3)), "gru": ((0, 1, 2), (0, 1, 3)), "rnn": ((0,), (0,))}


def template(machine: X86) -> Template:
    """The template for recurrent layers on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        if op.name not in GATES or (op.name == "gru" and not op.attrs["linear_before_reset"]):
            return None  # the last gate of such a gru waits for the whole state
        if any(0 in v.static_shape for v in op.operands if v is not None):
            return None
        return _Recurrent(op, name, style).build()

    return match


class _Recurrent:
    def __init__(self, op: Op, name: str, style: Style) -> None:
        self.op, self.name, self.style = op, name, style
        self.sources = Sources(op)
        self.given = {p.name: v for p, v in zip(op.definition.operands, op.operands) if v is not None}
        self.steps, self.batch, self.width = self.given["x"].static_shape
        self.hidden, self.gates = op.attrs["hidden"], GATES[op.name]
        self.directions = DIRECTIONS[op.attrs["direction"]]
        self.dtype = computed(self.given["x"].dtype)
        self.lanes = max(1, style.lanes // (2 if self.dtype.bits == 64 else 1))
        self.count = max(max(SUMS[op.name][0]), max(SUMS[op.name][1])) + 1
        self.vectors = min(-(-ACCUMULATORS // self.count), -(-self.hidden // self.lanes))
        self.panels = -(-self.hidden // (self.vectors * self.lanes))
        self.wide = self.vectors * self.lanes  # units of a panel
        self.padded = self.panels * self.wide
        self.packings: dict[int, Packing] = {}
        self.scratch: list[Buffer] = []
        self.before: list[Stmt] = []  # packs what is not constant

    def build(self) -> Lowered:
        lines = len(self.directions) * self.batch
        self.w = self.arranged("w", self.gates, self.width)
        self.r = self.arranged("r", self.gates, self.hidden)
        self.bias = self.arranged("b", 2 * self.gates, 1) if "b" in self.given else None
        self.peepholes = self.arranged("p", 3, 1) if "p" in self.given else None
        self.states = [self.memory(n, lines * self.padded) for n in ("h", "next", "c")]
        self.units = [unit_of(OpView(self.op, []), f) for f in activations_of(self.op)]
        per_step = self.gates * self.hidden * (self.width + self.hidden) // 8
        threads = self.style.threads
        self.by_line = self.steps * per_step * self.batch >= self.style.parallel_work and self.batch >= threads > 1
        self.by_panel = not self.by_line and threads > 1 and per_step >= self.style.parallel_work // 2
        kind = "parallel" if self.by_line else "serial"
        body = [loop(self.batch, lambda b, d=d, back=back: self.sequence(d, b, back), kind, "b")  # type: ignore[misc]
                for d, back in enumerate(self.directions)]
        params = (*self.sources.buffers.values(), *self.sources.outputs, *self.scratch)
        kernel = Kernel(self.name, params, seq(*self.before, *body), len(self.sources.buffers), len(self.sources.outputs))
        return Lowered(kernel, tuple(self.sources.operands), self.packings, tuple(self.scratch))

    # Memory
    def memory(self, name: str, size: int) -> Buffer:
        buffer = Buffer(name, self.dtype, (size,))
        self.scratch.append(buffer)
        return buffer

    def arranged(self, name: str, rows: int, depth: int) -> Buffer:
        """An operand [D, rows * hidden, depth] as [D][panel][depth][row][unit], padded with zeros."""
        v, d = self.given[name], len(self.directions)
        shape = (d, self.panels, depth, rows, self.wide)
        if v in self.sources.buffers and v.constant is not None and self.op.operands.count(v) == 1:
            hidden, padded, panels, wide, of = self.hidden, self.padded, self.panels, self.wide, self.dtype.numpy

            def parts(a: np.ndarray) -> Iterator[np.ndarray]:
                for one in a.reshape(d, rows, hidden, depth):
                    units = np.zeros((rows, padded, depth), of)
                    units[:, :hidden] = one
                    yield np.ascontiguousarray(units.reshape(rows, panels, wide, depth).transpose(1, 3, 0, 2))

            size = math.prod(shape)
            key = f"units{rows}x{hidden}x{depth}by{self.wide}{self.dtype}"
            self.packings[self.sources.operands.index(v)] = Packing(key, size * self.dtype.itemsize, parts)
            self.sources.buffers[v] = Buffer(self.sources.buffers[v].name, self.dtype, (size,))
            return self.sources.buffers[v]
        into = self.memory(f"packed_{name}", math.prod(shape))

        def copy(i: Expr, p: Expr, k: Expr, row: Expr, u: Expr) -> Stmt:
            unit = p * self.wide + u
            held = row * self.hidden + minimum(unit, self.hidden - 1)
            element = self.read(name, i, held, k) if len(v.static_shape) == 3 else self.read(name, i, held)
            at = (((i * self.panels + p) * depth + k) * rows + row) * self.wide + u
            return store(into, at, select(unit < self.hidden, element, const(0, self.dtype)))

        self.before.append(nest(shape, copy, ("d", "p", "k", "g", "u")))
        return into

    def read(self, name: str, *index: Expr | int) -> Expr:
        element = self.sources.access(self.given[name])(*(i if isinstance(i, Expr) else const(i, INDEX) for i in index))
        return cast(element, self.dtype)

    def line(self, d: int, b: Expr) -> Expr:
        return (b + d * self.batch) * self.padded

    # Time
    def sequence(self, d: int, b: Expr, back: bool) -> Stmt:
        """A direction of one sequence: its first state, all steps, its last state."""
        h, _, c = self.states
        cells = [("h0", h, 1), *([("c0", c, 2)] if self.op.name == "lstm" else [])]

        def first(name: str, state: Buffer) -> Stmt:
            def value(j: Expr) -> Expr:
                zero = const(0, self.dtype)
                if name not in self.given:
                    return zero
                return select(j < self.hidden, self.read(name, d, b, minimum(j, self.hidden - 1)), zero)

            return loop(self.padded, lambda j: store(state, self.line(d, b) + j, value(j)), name="j")

        def last(state: Buffer, out: int) -> Stmt:
            return loop(self.hidden, lambda j: self.put(out, [const(d, INDEX), b, j], state[self.line(d, b) + j]), name="j")

        def at(k: Expr) -> Stmt:
            t = self.steps - 1 - k if back else k
            step = self.step(d, b, t)
            if "lengths" not in self.given:
                return step
            silent = loop(self.hidden, lambda j: self.put(0, [t, const(d, INDEX), b, j], const(0, self.dtype)), name="j")
            return If(t < cast(self.sources.access(self.given["lengths"])(b), INDEX), step, silent)

        return seq(*(first(name, s) for name, s, _ in cells), loop(self.steps, at, name="t"),
                   *(last(s, out) for _, s, out in cells))

    def put(self, out: int, index: Sequence[Expr], value: Expr) -> Stmt:
        buffer, position = self.sources.outputs[out], const(0, INDEX)
        for i, n in zip(index, self.op.results[out].static_shape):
            position = position * n + i  # type: ignore[assignment]
        return store(buffer, position, value.cast(buffer.dtype))

    def step(self, d: int, b: Expr, t: Expr) -> Stmt:
        """All units at time `t`, then the new state in place of the old one."""
        h, new, _ = self.states
        panels = loop(self.panels, lambda p: self.panel(d, b, t, p), "parallel" if self.by_panel else "serial", "panel")
        base = self.line(d, b)
        copy = loop(self.padded // self.lanes, lambda i: self.along(
            lambda l: [store(h, base + i * self.lanes + l, new[base + i * self.lanes + l])]), name="i")
        return seq(panels, copy, loop(self.hidden, lambda j: self.put(0, [t, const(d, INDEX), b, j], h[base + j]), name="j"))

    def along(self, f: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return seq(*(For(lane, const(self.lanes, INDEX), s, "vector") for s in f(lane)))

    def panel(self, d: int, b: Expr, t: Expr, p: Expr) -> Stmt:
        """The sums of all gates of one panel of units, and the cell."""
        acc = Buffer("acc", self.dtype, (self.count * self.wide,), "local")
        base, lanes = self.line(d, b), self.lanes
        h, new, c = self.states
        x_sums, h_sums = SUMS[self.op.name]

        def start(k: int, v: int, l: Expr) -> Expr:
            """The biases of the gates whose parts go to sum `k`."""
            total: Expr = const(0, self.dtype)
            if self.bias is not None:
                row = (p + d * self.panels) * (2 * self.gates)
                for g in range(2 * self.gates):
                    if (x_sums if g < self.gates else h_sums)[g % self.gates] == k:
                        total = total + self.bias[(row + g) * self.wide + v * lanes + l]
            return total

        def add(weights: Buffer, depth: int, sums: Sequence[int], element: Callable[[Expr], Expr]) -> Stmt:
            def one(k: Expr) -> Stmt:
                row = ((p + d * self.panels) * depth + k) * self.gates
                return seq(*(self.along(lambda l, s=s, g=g, v=v: [store(  # type: ignore[misc]
                    acc, (s * self.vectors + v) * lanes + l,
                    acc[(s * self.vectors + v) * lanes + l] + element(k) * weights[(row + g) * self.wide + v * lanes + l])])
                    for g, s in enumerate(sums) for v in range(self.vectors)))

            return loop(depth, one, name="k")

        def cell(v: int, l: Expr) -> list[Stmt]:
            place = base + p * self.wide + v * lanes + l
            holes = self.peepholes
            peep = None if holes is None else (lambda g: holes[((p + d * self.panels) * 3 + g) * self.wide + v * lanes + l])
            sums = [acc[(k * self.vectors + v) * lanes + l] for k in range(self.count)]
            state = Unit(sums, h[place], c[place], peep)
            values = self.units[d](state)
            return [store(into, place, value) for into, value in zip((new, c), values)]

        each = lambda f: seq(*(f(k, v) for k in range(self.count) for v in range(self.vectors)))
        zero = each(lambda k, v: self.along(lambda l: [store(acc, (k * self.vectors + v) * lanes + l, start(k, v, l))]))
        return Alloc(acc, seq(zero, add(self.w, self.width, x_sums, lambda k: self.read("x", t, b, k)),
                              add(self.r, self.hidden, h_sums, lambda k: h[base + k]),
                              *(self.cell_of(cell, v) for v in range(self.vectors))))

    def cell_of(self, cell: Callable[[int, Expr], list[Stmt]], v: int) -> Stmt:
        return self.along(lambda l: cell(v, l))


__all__ = ["template"]
