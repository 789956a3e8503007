"""Recurrent layers on x86: all gates of a few vectors of units are summed in registers, and the cell follows at once.

Weights are packed by units, [panel][k][gate][unit], so that a step reads them in order; constant ones once, others in each
call. Units are padded to whole vectors, in the packed weights and in the states. Sequences of a batch are shared among
threads where there are enough, else the panels of a step. The last gate of a gru that is reset before its product waits for the
whole state: its panels are a second round. What one step of a cell is stands in `lower.recurrent`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from graphopt.codegen.expr import INDEX, Buffer, Expr, Var, cast, const, minimum, select
from graphopt.codegen.kernels import Lowered, Packing, Sources, Template
from graphopt.codegen.loops import Alloc, For, If, Kernel, Stmt, loop, nest, seq, store
from graphopt.codegen.lower.recurrent import GATES, Unit, activations_of, states_of, unit_of, waits
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
        if op.name not in GATES or any(0 in v.static_shape for v in op.operands if v is not None):
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
        self.late = waits(op)
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
        self.held = [self.memory(n, lines * self.padded) for n in ("update", "reset", "input")] if self.late else []
        self.activations = activations_of(self.op)
        self.units = [unit_of(OpView(self.op, []), f) for f in self.activations]
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
        states = list(zip(states_of(self.op), (h, c), (1, 2)))

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

        return seq(*(first(name, s) for name, s, _ in states), loop(self.steps, at, name="t"),
                   *(last(s, out) for _, s, out in states))

    def put(self, out: int, index: Sequence[Expr], value: Expr) -> Stmt:
        buffer, position = self.sources.outputs[out], const(0, INDEX)
        for i, n in zip(index, self.op.results[out].static_shape):
            position = position * n + i  # type: ignore[assignment]
        return store(buffer, position, value.cast(buffer.dtype))

    def step(self, d: int, b: Expr, t: Expr) -> Stmt:
        """All units at time `t`, then the new state in place of the old one."""
        h, new, _ = self.states
        stages = [self.gates_of, self.last_gate] if self.late else [self.panel]
        kind = "parallel" if self.by_panel else "serial"
        panels = [loop(self.panels, lambda p, f=f: f(d, b, t, p), kind, "panel") for f in stages]  # type: ignore[misc]
        base = self.line(d, b)
        copy = loop(self.padded // self.lanes, lambda i: self.along(
            lambda l: [store(h, base + i * self.lanes + l, new[base + i * self.lanes + l])]), name="i")
        return seq(*panels, copy, loop(self.hidden, lambda j: self.put(0, [t, const(d, INDEX), b, j], h[base + j]), name="j"))

    def along(self, f: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return seq(*(For(lane, const(self.lanes, INDEX), s, "vector") for s in f(lane)))

    def panel(self, d: int, b: Expr, t: Expr, p: Expr) -> Stmt:
        """The sums of all gates of one panel of units, and the cell."""
        acc = self.sums()
        x_sums, h_sums = (dict(enumerate(sums)) for sums in SUMS[self.op.name])
        return Alloc(acc, seq(
            *(self.start(acc, d, p, k) for k in range(self.count)),
            self.add(acc, self.w, d, p, x_sums, lambda k: self.read("x", t, b, k)),
            self.add(acc, self.r, d, p, h_sums, lambda k: self.states[0][self.line(d, b) + k]),
            *(self.cell(d, b, p, v, lambda k, l, v=v: acc[self.at(k, v, l)]) for v in range(self.vectors))))  # type: ignore[misc]

    def gates_of(self, d: int, b: Expr, t: Expr, p: Expr) -> Stmt:
        """The sums of one panel of units that need no more than the last state, and what the reset gate leaves of that."""
        acc = self.sums()
        update, reset, given = self.held
        state, f = self.states[0], self.activations[d][0]

        def keep(v: int) -> Stmt:
            def values(l: Expr) -> list[Stmt]:
                place = self.place(d, b, p, v, l)
                return [store(update, place, acc[self.at(0, v, l)]), store(given, place, acc[self.at(2, v, l)]),
                        store(reset, place, f(acc[self.at(1, v, l)]) * state[place])]

            return self.along(values)

        return Alloc(acc, seq(
            *(self.start(acc, d, p, k) for k in range(3)),
            self.add(acc, self.w, d, p, {0: 0, 1: 1, 2: 2}, lambda k: self.read("x", t, b, k)),
            self.add(acc, self.r, d, p, {0: 0, 1: 1}, lambda k: state[self.line(d, b) + k]),
            *(keep(v) for v in range(self.vectors))))

    def last_gate(self, d: int, b: Expr, t: Expr, p: Expr) -> Stmt:
        """The last gate's product with the whole reset state, in as many sums as there are registers for, and the cell."""
        acc, n = self.sums(), self.count
        update, reset, given = self.held

        def part(first: Expr, j: int) -> Stmt:
            return self.once(acc, self.r, d, p, {2: j}, first + j, lambda k: reset[self.line(d, b) + k])

        def sums(k: int, v: int, l: Expr) -> Expr:
            if k < 3:
                return (update, reset, given)[k][self.place(d, b, p, v, l)]  # reset: not asked for
            total: Expr = acc[self.at(0, v, l)]
            for j in range(1, n):
                total = total + acc[self.at(j, v, l)]
            return total

        whole = self.hidden // n
        return Alloc(acc, seq(
            *(self.start(acc, d, p, k, empty=k < 3) for k in range(n)),
            loop(whole, lambda q: seq(*(part(q * n, j) for j in range(n))), name="k"),
            *(part(const(whole * n, INDEX), j) for j in range(self.hidden % n)),
            *(self.cell(d, b, p, v, lambda k, l, v=v: sums(k, v, l)) for v in range(self.vectors))))  # type: ignore[misc]

    def sums(self) -> Buffer:
        return Buffer("acc", self.dtype, (self.count * self.wide,), "local")

    def at(self, k: int, v: int, l: Expr) -> Expr:
        """Where lane `l` of vector `v` of sum `k` is."""
        return (k * self.vectors + v) * self.lanes + l

    def place(self, d: int, b: Expr, p: Expr, v: int, l: Expr) -> Expr:
        """Where that unit's state is."""
        return self.line(d, b) + p * self.wide + v * self.lanes + l

    def start(self, acc: Buffer, d: int, p: Expr, k: int, empty: bool = False) -> Stmt:
        """Sum `k` of a panel: the biases of the gates whose parts go there, or nothing."""
        x_sums, h_sums = SUMS[self.op.name]

        def first(v: int, l: Expr) -> Expr:
            total: Expr = const(0, self.dtype)
            if self.bias is not None and not empty:
                row = (p + d * self.panels) * (2 * self.gates)
                for g in range(2 * self.gates):
                    if (x_sums if g < self.gates else h_sums)[g % self.gates] == k:
                        total = total + self.bias[(row + g) * self.wide + v * self.lanes + l]
            return total

        return seq(*(self.along(lambda l, v=v: [store(acc, self.at(k, v, l), first(v, l))])  # type: ignore[misc]
                     for v in range(self.vectors)))

    def add(self, acc: Buffer, weights: Buffer, d: int, p: Expr, sums: Mapping[int, int],
            element: Callable[[Expr], Expr]) -> Stmt:
        """Products of all elements with the weights of each gate, to the sum that `sums` names for it."""
        return loop(self.width if weights is self.w else self.hidden,
                    lambda k: self.once(acc, weights, d, p, sums, k, element), name="k")

    def once(self, acc: Buffer, weights: Buffer, d: int, p: Expr, sums: Mapping[int, int], k: Expr,
             element: Callable[[Expr], Expr]) -> Stmt:
        depth = self.width if weights is self.w else self.hidden
        row = ((p + d * self.panels) * depth + k) * self.gates

        def product(g: int, s: int, v: int) -> Stmt:
            return self.along(lambda l: [store(acc, self.at(s, v, l), acc[self.at(s, v, l)]
                                               + element(k) * weights[(row + g) * self.wide + v * self.lanes + l])])

        return seq(*(product(g, s, v) for g, s in sums.items() for v in range(self.vectors)))

    def cell(self, d: int, b: Expr, p: Expr, v: int, sums: Callable[[int, Expr], Expr]) -> Stmt:
        """The new state of a vector of units."""
        h, new, c = self.states
        holes = self.peepholes

        def values(l: Expr) -> list[Stmt]:
            place = self.place(d, b, p, v, l)
            peep = None if holes is None else (
                lambda g: holes[((p + d * self.panels) * 3 + g) * self.wide + v * self.lanes + l])
            state = Unit([sums(k, l) for k in range(self.count)], h[place], c[place], peep)
            return [store(into, place, value) for into, value in zip((new, c), self.units[d](state))]

        return self.along(values)


__all__ = ["template"]
