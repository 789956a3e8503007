"""Recurrent layers on x86: all sequences of a batch are the rows of one product a step, and the cell follows at once.

Weights are packed by units, [panel][k][gate][unit], so that a step reads them in order; constant ones once, others in each
call. The products with the input need no state: they are taken for many steps at a time. A block of sequences by a panel
of units keeps its sums in registers; units are padded to whole vectors, in the packed weights and in the states. The last
gate of a gru that is reset before its product waits for the whole state: its panels are a second round. Threads take
directions and sequences of their own, or the panels of each step, as `recurrent_plan` finds cheaper. What one step of a
cell is stands in `lower.recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Var, cast, const, fma, minimum, select
from graphopt.codegen.kernel.loops import Alloc, For, If, Kernel, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Match, Packing, Sources
from graphopt.codegen.lower.recurrent import GATES, Unit, activations_of, in_steps, states_of, unit_of, waits
from graphopt.codegen.lower.registry import OpView, computed
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import costs_of
from graphopt.codegen.x86.kernels.recurrent_plan import Layer, Part, cuts, even, most_rows, parted
from graphopt.codegen.x86.kernels.tile import apart
from graphopt.ir.graph import Op
from graphopt.ir.ops.recurrent import DIRECTIONS
from graphopt.targets.x86 import X86

# Which sum a gate's input part and its recurrent part go to: a gru's last gate needs them apart.
GOES_TO = {"lstm": ((0, 1, 2, 3), (0, 1, 2, 3)), "gru": ((0, 1, 2), (0, 1, 3)), "rnn": ((0,), (0,))}


def template(machine: X86) -> Match:
    """The template for recurrent layers on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        if op.name not in GATES or in_steps(op) or any(0 in v.static_shape for v in op.operands if v is not None):
            return None
        return _Recurrent(op, name, style, machine).build()

    return match


class _Recurrent:
    def __init__(self, op: Op, name: str, style: Style, machine: X86) -> None:
        self.op, self.name, self.machine, self.costs = op, name, machine, costs_of(machine)
        self.sources = Sources(op)
        self.given = {p.name: v for p, v in zip(op.definition.operands, op.operands) if v is not None}
        self.steps, self.batch, self.width = self.given["x"].static_shape
        self.hidden, self.gates = op.attrs["hidden"], GATES[op.name]
        self.directions = DIRECTIONS[op.attrs["direction"]]
        self.dtype = computed(self.given["x"].dtype)
        self.lanes = max(1, style.lanes // (2 if self.dtype.bits == 64 else 1))
        rounds = ((0, 2), (2, 1)) if waits(op) else ((0, self.gates),)
        layer = Layer(self.steps, self.batch, self.width, self.hidden, len(self.directions), rounds, self.lanes,
                      self.dtype.itemsize)
        self.cut = style.pick("cut", cuts(layer, machine, style.threads))
        self.rows = self.cut.rows  # sequences of a task
        self.rounds = [parted(layer, self.rows, *r, self.hidden, machine) for r in rounds]
        self.chunk = self.cut.chunk  # steps whose products with the input are taken at a time
        self.input = parted(layer, self.rows * self.chunk, 0, self.gates, self.width, machine)
        self.padded = max(p.padded for p in (self.input, *self.rounds))
        self.packings: dict[int, Packing] = {}
        self.scratch: list[Buffer] = []
        self.before: list[Stmt] = []  # packs what is not constant
        plain = lambda rows: [Part(0, rows, 1, self.padded // self.lanes, 1, self.lanes)]
        self.w = self.arranged("w", self.gates, [self.input])
        self.r = self.arranged("r", self.gates, self.rounds)
        self.bias = self.arranged("b", 2 * self.gates, plain(2 * self.gates)) if "b" in self.given else None
        self.peepholes = self.arranged("p", 3, plain(3)) if "p" in self.given else None
        self.tasks = tasks = len(self.directions) * self.cut.groups
        self.own = apart(self.rows * self.padded, self.dtype, self.costs)  # of a task's states
        self.h, self.c = self.memory("h", 2 * tasks * self.own), self.memory("c", tasks * self.own)
        self.held = [self.memory(n, tasks * self.own) for n in ("update", "reset")] if len(self.rounds) > 1 else []
        self.ahead = apart(self.chunk * self.rows * self.gates * self.padded, self.dtype, self.costs)
        self.sums_x = self.memory("ahead", tasks * self.ahead)
        self.activations = activations_of(self.op)
        self.units = [unit_of(OpView(self.op, []), f) for f in self.activations]

    def build(self) -> Lowered:
        def task(i: Expr) -> Stmt:
            first = minimum(i % self.cut.groups * self.rows, self.batch - self.rows)
            body: Stmt | None = None
            for d, back in reversed(list(enumerate(self.directions))):
                one = _Line(self, d, back, i, first).sequence()
                body = one if body is None else If(i < (d + 1) * self.cut.groups, one, body)
            assert body is not None
            return body

        if not self.cut.parallel:
            lines = [_Line(self, d, back, const(d, INDEX), const(0, INDEX)).sequence() for d, back in enumerate(self.directions)]
            body = seq(*lines)
        else:
            body = loop(self.tasks, task, Scope.PARALLEL, "task")
        params = (*self.sources.buffers.values(), *self.sources.outputs, *self.scratch)
        kernel = Kernel(self.name, params, seq(*self.before, body), len(self.sources.buffers), len(self.sources.outputs))
        return Lowered(kernel, tuple(self.sources.operands), self.packings, tuple(self.scratch))

    # Memory
    def memory(self, name: str, size: int) -> Buffer:
        buffer = Buffer(name, self.dtype, (size,))
        self.scratch.append(buffer)
        return buffer

    def arranged(self, name: str, rows: int, parts: Sequence[Part]) -> Buffer:
        """An operand [D, rows * hidden, depth] as [D] of all parts, each [panel][depth][row][unit], padded with zeros."""
        v, d, hidden, depth = self.given[name], len(self.directions), self.hidden, parts[0].depth
        size = sum(p.size for p in parts)
        if v in self.sources.buffers and v.constant is not None and self.op.operands.count(v) == 1:
            of = self.dtype.numpy

            def pieces(a: np.ndarray) -> Iterator[np.ndarray]:
                for one in a.reshape(d, rows, hidden, depth):
                    for p in parts:
                        units = np.zeros((p.gates, p.padded, depth), of)
                        units[:, :hidden] = one[p.first:p.first + p.gates]
                        yield np.ascontiguousarray(units.reshape(p.gates, p.panels, p.wide, depth).transpose(1, 3, 0, 2))

            key = f"units{rows}x{hidden}x{depth}by{'+'.join(f'{p.gates}x{p.wide}x{p.panels}' for p in parts)}{self.dtype}"
            self.packings[self.sources.operands.index(v)] = Packing(key, d * size * self.dtype.itemsize, pieces)
            self.sources.buffers[v] = Buffer(self.sources.buffers[v].name, self.dtype, (d * size,))
            return self.sources.buffers[v]
        into = self.memory(f"packed_{name}", d * size)
        start = 0
        for p in parts:
            def copy(i: Expr, panel: Expr, k: Expr, row: Expr, u: Expr, p: Part = p, start: int = start) -> Stmt:
                unit = panel * p.wide + u
                held = (row + p.first) * hidden + minimum(unit, hidden - 1)
                element = self.read(name, i, held, k) if len(v.static_shape) == 3 else self.read(name, i, held)
                at = ((panel * depth + k) * p.gates + row) * p.wide + u + start + i * size
                return store(into, at, select(unit < hidden, element, const(0, self.dtype)))

            self.before.append(nest((d, p.panels, depth, p.gates, p.wide), copy, ("d", "p", "k", "g", "u")))
            start += p.size
        return into

    def read(self, name: str, *index: Expr | int) -> Expr:
        element = self.sources.access(self.given[name])(*(i if isinstance(i, Expr) else const(i, INDEX) for i in index))
        return cast(element, self.dtype)

    def put(self, out: int, index: Sequence[Expr], value: Expr) -> Stmt:
        buffer, position = self.sources.outputs[out], const(0, INDEX)
        for i, n in zip(index, self.op.results[out].static_shape):
            position = position * n + i  # type: ignore[assignment]
        return store(buffer, position, value.cast(buffer.dtype))

    def along(self, f: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return seq(*(For(lane, const(self.lanes, INDEX), s, Scope.VECTOR) for s in f(lane)))


class _Line:
    """One direction of the sequences of one task, from sequence `first` on."""

    def __init__(self, of: _Recurrent, d: int, back: bool, task: Expr, first: Expr) -> None:
        self.of, self.d, self.back, self.task, self.first = of, d, back, task, first
        self.scope = Scope.PARALLEL if of.cut.by_units else Scope.SERIAL
        self.x_sums, self.h_sums = GOES_TO[of.op.name]

    def line(self, i: Expr) -> Expr:
        """Where the state of the task's sequence `i` begins."""
        return self.task * self.of.own + i * self.of.padded

    def state(self, k: Expr, i: Expr) -> Expr:
        """Where that is before step `k`: each step reads one state and writes the other."""
        return (self.task * 2 + k % 2) * self.of.own + i * self.of.padded

    def time(self, k: Expr) -> Expr:
        return self.of.steps - 1 - k if self.back else k

    def sequence(self) -> Stmt:
        """The first states, all steps, the last states."""
        of = self.of
        places = {"h0": (of.h, self.state, 1), "c0": (of.c, lambda k, i: self.line(i), 2)}
        states = [(name, *places[name]) for name in states_of(of.op)]

        def first(name: str, buffer: Buffer, place: Callable[[Expr, Expr], Expr]) -> Stmt:
            def value(i: Expr, j: Expr) -> Stmt:
                zero = const(0, of.dtype)
                given = zero if name not in of.given else select(
                    j < of.hidden, of.read(name, self.d, self.first + i, minimum(j, of.hidden - 1)), zero)
                return store(buffer, place(const(0, INDEX), i) + j, given)

            return nest((of.rows, of.padded), value, ("b", "j"))

        def last(buffer: Buffer, place: Callable[[Expr, Expr], Expr], out: int) -> Stmt:
            end = const(of.steps, INDEX)
            return nest((of.rows, of.hidden), lambda i, j: of.put(
                out, [const(self.d, INDEX), self.first + i, j], buffer[place(end, i) + j]), ("b", "j"))

        def some(c: Expr) -> Stmt:
            """A chunk of steps. The last one's products with the input overlap those of the one before."""
            begin = minimum(c * of.chunk, of.steps - of.chunk)
            whole = of.steps % of.chunk == 0
            count: ExprLike = of.chunk if whole else minimum(of.steps - c * of.chunk, of.chunk)
            return seq(self.products(begin), loop(count, lambda k: self.step(c * of.chunk + k, begin), name="t"))

        return seq(*(first(name, buffer, place) for name, buffer, place, _ in states),
                   loop(-(-of.steps // of.chunk), some, name="chunk"),
                   *(last(buffer, place, out) for _, buffer, place, out in states))

    def at_input(self, row: Expr, g: int) -> Expr:
        """Where the input's part of gate `g` begins for a row (step and sequence) of the chunk."""
        of = self.of
        return self.task * of.ahead + (row * of.gates + g) * of.padded

    def bias(self, g: int, unit: Expr) -> Expr:
        of = self.of
        assert of.bias is not None
        return of.bias[(self.d * 2 * of.gates + g) * of.padded + unit]

    def products(self, begin: Expr) -> Stmt:
        """The products of all gates with the inputs of a chunk of steps from `begin` on, and their biases."""
        of, p = self.of, self.of.input

        def start(i: Expr, g: int, unit: Expr) -> Expr:
            if of.bias is None:
                return const(0, of.dtype)
            own = self.bias(g, unit)
            return own + self.bias(of.gates + g, unit) if self.x_sums[g] == self.h_sums[g] else own

        def element(i: Expr, k: Expr) -> Expr:
            return of.read("x", self.time(begin + i // of.rows), self.first + i % of.rows, k)

        def write(i: Expr, g: int, unit: Expr, value: Expr) -> Sequence[Stmt]:
            return [store(of.sums_x, self.at_input(i, g) + unit, value)]

        def panel(q: Expr) -> Stmt:
            def block(i: Expr, rows: int) -> Stmt:
                return self.block(p, of.w, 0, q, i, rows, start, element, write)

            return self.blocks(p, of.chunk * of.rows, block)

        return loop(p.panels, panel, self.scope, "panel")

    def step(self, k: Expr, begin: Expr) -> Stmt:
        """All units of all sequences of the task at step `k`."""
        of = self.of
        parts, offset = [], 0
        for n, p in enumerate(of.rounds):
            def panel(q: Expr, p: Part = p, n: int = n, offset: int = offset) -> Stmt:
                return self.blocks(p, of.rows, lambda i, rows: self.round(k, begin, p, n, offset, q, i, rows))

            parts.append(loop(p.panels, panel, self.scope, "panel"))
            offset += p.size
        return seq(*parts)

    def round(self, k: Expr, begin: Expr, p: Part, n: int, offset: int, panel: Expr, first: Expr, rows: int) -> Stmt:
        """A panel of units of some sequences: the sums that round `n` takes, then the cell, or what the next round needs."""
        of = self.of
        row_of = lambda i: (k - begin) * of.rows + i  # among the inputs' products
        waiting = len(of.rounds) > 1

        def start(i: Expr, g: int, unit: Expr) -> Expr:
            if self.x_sums[g] == self.h_sums[g]:
                return of.sums_x[self.at_input(row_of(i), g) + unit]
            return const(0, of.dtype) if of.bias is None else self.bias(of.gates + g, unit)

        def element(i: Expr, j: Expr) -> Expr:
            return of.held[1][self.line(i) + j] if n else of.h[self.state(k, i) + j]

        def drain(block: Buffer) -> Stmt:
            def value(i: Expr, g: int, v: Expr, l: Expr) -> Expr:
                return block[(((i - first) * p.gates + g) * p.vectors + v) * of.lanes + l]

            def keep(i: Expr, v: Expr) -> Stmt:
                """What the last gate's round needs: the update gate's sum, and the state as the reset gate leaves it."""
                def values(l: Expr) -> list[Stmt]:
                    unit = panel * p.wide + v * of.lanes + l
                    left = of.activations[self.d][0](value(i, 1, v, l)) * of.h[self.state(k, i) + unit]
                    return [store(of.held[0], self.line(i) + unit, value(i, 0, v, l)),
                            store(of.held[1], self.line(i) + unit, left)]

                return of.along(values)

            def sums(i: Expr, s: int, v: Expr, l: Expr) -> Expr:
                unit = panel * p.wide + v * of.lanes + l
                for g in range(p.first, p.first + p.gates):
                    if self.h_sums[g] == s:
                        return value(i, g - p.first, v, l)
                if n and s == 0:
                    return of.held[0][self.line(i) + unit]
                return of.sums_x[self.at_input(row_of(i), min(s, 2)) + unit]  # the reset gate's is not asked for any more

            def cells(r: Expr) -> Stmt:
                i = first + r
                new = loop(p.vectors, lambda v: keep(i, v) if waiting and not n else self.cell(
                    k, i, panel * p.wide + v * of.lanes, lambda s, l: sums(i, s, v, l)), Scope.FEW, "v")
                if waiting and not n:
                    return new
                said = self.said(k, i, p, panel, silent=False)
                if "lengths" not in of.given:
                    return seq(new, said)
                length = cast(of.sources.access(of.given["lengths"])(self.first + i), INDEX)
                same = of.along(lambda l: [store(of.h, self.state(k + 1, i) + unit + l, of.h[self.state(k, i) + unit + l])
                                           for unit in [panel * p.wide + v * of.lanes for v in range(p.vectors)]])
                return If(self.time(k) < length, seq(new, said), seq(same, self.said(k, i, p, panel, silent=True)))

            return loop(rows, cells, Scope.FEW, "i")

        return self.block(p, of.r, offset, panel, first, rows, start, element, drain=drain)

    def said(self, k: Expr, i: Expr, p: Part, panel: Expr, silent: bool) -> Stmt:
        """The result of step `k`: the new state of a panel's units, or 0."""
        of = self.of

        def put(j: Expr) -> Stmt:
            unit = panel * p.wide + j
            value = const(0, of.dtype) if silent else of.h[self.state(k + 1, i) + unit]
            return of.put(0, [self.time(k), const(self.d, INDEX), self.first + i, unit], value)

        def units(n: int) -> Stmt:
            whole = n // of.lanes
            return seq(*(of.along(lambda l, v=v: [put(l + v * of.lanes)]) for v in range(whole)),  # type: ignore[misc]
                       loop(n - whole * of.lanes, lambda j: put(j + whole * of.lanes), name="j"))

        left = of.hidden - (p.panels - 1) * p.wide
        if left == p.wide or p.panels == 1:
            return units(left)
        return If(panel < p.panels - 1, units(p.wide), units(left))

    def cell(self, k: Expr, i: Expr, unit: Expr, sums: Callable[[int, Expr], Expr]) -> Stmt:
        """The new state of a vector of units from `unit` on."""
        of = self.of
        holes, count = of.peepholes, max(max(self.x_sums), max(self.h_sums)) + 1

        def values(l: Expr) -> list[Stmt]:
            place = self.line(i) + unit + l
            peep = None if holes is None else (lambda g: holes[(self.d * 3 + g) * of.padded + unit + l])
            seen = Unit([sums(s, l) for s in range(count)], of.h[self.state(k, i) + unit + l], of.c[place], peep)
            new = of.units[self.d](seen)
            into = [(of.h, self.state(k + 1, i) + unit + l), (of.c, place)]
            return [store(buffer, at, value) for (buffer, at), value in zip(into, new)]

        return of.along(values)

    def blocks(self, p: Part, rows: int, block: Callable[[Expr, int], Stmt]) -> Stmt:
        """`block(first, rows)` for blocks of rows that fit the registers and differ by at most one."""
        parts, done = [], 0
        for count, size in even(rows, most_rows(p, self.of.machine)):
            parts.append(loop(count, lambda b, size=size, done=done: block(b * size + done, size), name="b"))  # type: ignore[misc]
            done += count * size
        return seq(*parts)

    def block(self, p: Part, weights: Buffer, offset: int, panel: Expr, first: Expr, rows: int,
              start: Callable[[Expr, int, Expr], Expr], element: Callable[[Expr, Expr], Expr],
              write: Callable[[Expr, int, Expr, Expr], Sequence[Stmt]] | None = None,
              drain: Callable[[Buffer], Stmt] | None = None) -> Stmt:
        """The sums of `rows` rows from `first` on and a panel of units: `start(row, gate, unit)` and the products of
        `element(row, k)` with the weights. Stored from registers (`write`), or through memory (`drain`)."""
        of = self.of
        size, across = rows * p.gates * p.wide, p.gates * p.vectors
        # One row waits for nothing but the weights: see `tile.steps`. Sums of their own for some k lose fewer digits, too.
        costs = self.of.costs
        at_once, sets = (max(1, costs.stream // across), max(2, -(-costs.sums // across))) if rows == 1 else (1, 1)
        acc = Buffer("acc", of.dtype, (size * sets,), Space.LOCAL)
        base = offset + self.d * sum(q.size for q in (of.rounds if weights is of.r else [of.input]))

        def each(f: Callable[[int, int, int, Expr, Expr], Sequence[Stmt]]) -> Stmt:
            def one(r: int, g: int, v: int) -> Stmt:
                return of.along(lambda l: f(r, g, v, l, ((r * p.gates + g) * p.vectors + v) * of.lanes + l))

            return seq(*(one(r, g, v) for r in range(rows) for g in range(p.gates) for v in range(p.vectors)))

        def unit(v: int, l: Expr) -> Expr:
            return panel * p.wide + v * of.lanes + l

        def add(k: Expr, s: int) -> Stmt:
            row = (panel * p.depth + k) * p.gates
            return each(lambda r, g, v, l, at: [store(acc, at + s * size, fma(
                element(first + r, k), weights[(row + g) * p.wide + v * of.lanes + l + base], acc[at + s * size]))])

        begin = [each(lambda r, g, v, l, at: [store(acc, at, start(first + r, p.first + g, unit(v, l)))]),
                 *(each(lambda r, g, v, l, at, s=s: [store(acc, at + s * size, const(0, of.dtype))])  # type: ignore[misc]
                   for s in range(1, sets))]
        whole = p.depth // at_once
        steps = [loop(whole, lambda k: seq(*(add(k * at_once + s, s % sets) for s in range(at_once))), name="k"),
                 *(add(const(whole * at_once + s, INDEX), s % sets) for s in range(p.depth - whole * at_once)),
                 *(each(lambda r, g, v, l, at, s=s: [store(acc, at, acc[at] + acc[at + s * size])])  # type: ignore[misc]
                   for s in range(1, sets))]
        if write is not None:
            end = each(lambda r, g, v, l, at: write(first + r, p.first + g, unit(v, l), acc[at]))
            return Alloc(acc, seq(*begin, *steps, end))
        assert drain is not None
        memory = Buffer("block", of.dtype, (size,), Space.LOCAL)
        spill = each(lambda r, g, v, l, at: [store(memory, at, acc[at])])
        return Alloc(acc, seq(*begin, *steps, Alloc(memory, seq(spill, drain(memory)))))


__all__ = ["template"]
