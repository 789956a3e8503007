"""A convolution and the depthwise one that reads its result, as one kernel: rows go from one to the other in cache.

Where a pointwise convolution widens an image six times for a depthwise one (MobileNetV2's inverted residuals), writing the
wide image to memory and reading it back costs more than computing it. Here a few rows of a panel of channels are computed,
consumed at once, and kept in a ring as long as windows of later rows read them, as line buffers of an FPGA do. Each thread
streams through panels and rows of its own; only where it begins within an image are rows computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Buffer, Const, Expr, ExprLike, Var, as_expr, const, minimum, select
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import For, If, Let, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.registry import Inliner
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv import depthwise
from graphopt.codegen.x86.kernels.conv.boxes import choose_box, covers, first_channels, pack_panels
from graphopt.codegen.x86.kernels.conv.depthwise import Lanes, by_channel, choose_strip, is_depthwise, strip_code, window_of
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import pixels_of, reduction_of
from graphopt.codegen.x86.kernels.shares import shares
from graphopt.codegen.x86.kernels.tile import Tile, apart
from graphopt.ir.fused import held, only, outside
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import TensorType, lies_channels_last
from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Plan:
    """`rows` of the result at a time, in panels of `vectors` vectors of channels; boxes of `wide` pixels before."""

    rows: int
    vectors: int
    wide: int

    @property
    def family(self) -> object:
        """What makes plans differ much."""
        return self.vectors


def choose_plan(first: Op, second: Op, machine: X86) -> tuple[float, Plan]:
    """The plan that takes the fewest cycles for an image, and those cycles."""
    return best_of(plans(first, second, machine))


def plans(first: Op, second: Op, machine: X86) -> Iterator[tuple[float, Plan]]:
    """All plans with those cycles."""
    w = first.operands[1]
    assert w is not None
    _, channels, height, width = first.result.static_shape
    out_height, out_width = second.result.static_shape[2:]
    taps, depth, channels_in = window_of(second), math.prod(w.static_shape[1:]), w.static_shape[1]
    costs, size_of = costs_of(machine), first.definition.sum_dtype(first.view()).itemsize
    lanes = lanes_of(machine, first.result.dtype)
    while channels < lanes:
        lanes //= 2
    reach, step = taps.reach(0, 1), taps.stride[0]
    for vectors in range(1, min(6, channels // lanes) + 1):
        panels = -(-channels // (vectors * lanes))
        panel, wide = _widest(width, vectors, machine)
        strip, _ = choose_strip(1, out_width, vectors * lanes, taps, lanes, machine)
        for rows in (1, 2, 4, 7, 8, 14, 16):
            if rows > out_height and rows > 1:
                continue
            size = size_of * taps.reach(1, out_width) * vectors * lanes
            held = size * ((rows - 1) * step + reach)
            # With these: the panel's weights of both, and the row of each image that is read and written.
            near = held + size_of * (vectors * lanes * (depth + math.prod(taps.size) + out_width) + width * channels_in)
            vector_rows = out_width * taps.stride[1] * vectors
            cycles = (panel * depth + costs.box_start * -(-width // wide)) * height + strip * out_height
            cycles += costs.row_step * -(-out_height // rows)
            if near > machine.l1 * 7 // 8:
                cycles += costs.spilled * vector_rows * height
            yield cycles * panels, Plan(rows, vectors, wide)


def _widest(width: int, vectors: int, machine: X86) -> tuple[float, int]:
    """Pixels of the best box within one row, and cycles for the row and a step of the reduction, weights being in L1."""
    best: tuple[float, int] | None = None
    costs = costs_of(machine)
    for wide in range(1, min(width, 28) + 1):
        if wide > 1 and wide * vectors + vectors + 1 > machine.registers:
            break
        step = max(wide * vectors / machine.fma, costs.latency) + costs.box_load * (wide + vectors) + costs.box_step
        cycles = -(-width // wide) * step
        if best is None or cycles < best[0] * (1 - 1e-9):
            best = (cycles, wide)
    assert best is not None
    return best


def pair(first: Op, second: Op) -> tuple[Op, Op] | None:
    """The convolutions of two ops, where the second's only reading of the first is the image of a depthwise window."""
    a, b = only(first, "conv"), only(second, "conv")
    if a is None or b is None or len(first.results) != 1 or len(first.result.uses) != 1:
        return None
    if not all(isinstance(v.type, TensorType) and v.type.is_static for op in (a, b) for v in (*op.operands, *op.results)
               if v is not None):
        return None  # kernels are of fixed shapes
    image = b.operands[0]
    assert image is not None
    if outside(second, image) is not first.result or len(image.uses) != 1 or not is_depthwise(b) \
            or len(b.result.static_shape) != 4:
        return None
    return a, b


def possible(first: Op, second: Op) -> tuple[Op, Op] | None:
    """The convolutions of two ops that such a kernel can compute; None where there is none."""
    found = pair(first, second)
    if found is None:
        return None
    a, b = found
    types = [op.result.type for op in (first, second)]
    if not all(map(lies_channels_last, types)):
        return None
    w = a.operands[1]
    # A window on the way in would be read once for every panel of channels: measured slower than storing the image.
    if w is None or math.prod(w.static_shape[2:]) > 1 or a.attrs["groups"] != 1 or 0 in second.result.static_shape \
            or not covers(first, a) or not depthwise.covers(second, b):
        return None
    return a, b


def pays(first: Op, second: Op, machine: X86) -> str | None:
    """Why the two are better one kernel; None where they are not, or have no such kernel."""
    found = possible(first, second)
    if found is None:
        return None
    a, b = found
    w, outs = a.operands[1], a.result.static_shape[1]
    assert w is not None
    _, _, height, width = a.result.static_shape
    lanes = min(lanes_of(machine, a.result.dtype), 1 << outs.bit_length() - 1)
    own, _ = choose_box(1, height * width, outs, lanes, machine)
    out_height, out_width = b.result.static_shape[2:]
    strips, _ = choose_strip(out_height, out_width, outs, window_of(b), lanes, machine)
    nbytes = math.prod(a.result.static_shape[1:]) * a.result.dtype.itemsize
    apart = own * math.prod(w.static_shape[1:]) + strips
    costs = costs_of(machine)
    between = nbytes * (costs.outer if nbytes > machine.l2 // 2 else costs.inner)
    together, _ = choose_plan(a, b, machine)
    if together >= apart + between:
        return None
    return f"{together:.3g} cycles an image, apart {apart:.3g} and {between:.3g} for {nbytes:.3g} bytes between them"


def streamed(op: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of both; None where the weights of either cannot be packed."""
    first, second = (Convolution(op, conv, sources, name, style, machine) for conv in held(op) if conv.name == "conv")
    return Streamed(first, second).build() if first.packs() and second.packs() else None


class Producer:
    """The first convolution, row by row, up to the `result` that the second one reads."""

    def __init__(self, conv: Convolution, result: Value, lanes: int, plan: Plan) -> None:
        self.conv, self.problem, self.result = conv, conv.problem, result
        outs = self.problem.outs
        self.pixels = pixels_of(conv, lanes)
        self.reduction = reduction_of(conv, self.pixels)
        self.tile = Tile(plan.wide, plan.vectors, lanes)
        self.panels = -(-outs // self.tile.columns)
        starts = [first_channels(p, outs, self.tile) for p in range(self.panels)]
        packing = pack_panels(1, outs, starts, self.reduction.depth, self.tile, self.reduction.planar, conv.dtype)
        self.right = conv.pack(conv.w, packing, conv.dtype)

    def row(self, b: Expr, panel: Expr, y: Expr, target: Buffer, place: Expr) -> Stmt:
        """One row of one panel into `target`, from `place` on: pixels of the panel's channels."""
        conv, p, r, tile, lanes = self.conv, self.problem, self.reduction, self.tile, self.tile.lanes
        width = p.pixels_shape[-1]
        c0 = minimum(panel * tile.columns, p.outs - tile.columns)

        def box(i: Expr) -> Stmt:
            x0 = minimum(i * tile.rows, width - tile.rows)

            def source(i: int, k: Sequence[Expr]) -> Expr:
                *window, c = r.split(k)
                return self.pixels.at(b, c, p.places((y, x0 + i), window))

            def weight(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
                return self.right[(panel * r.depth + flat_index(k, r.depths)) * tile.columns + v * lanes + lane]

            def start(i: int, v: int, lane: Expr) -> Expr:
                return conv.added(c0 + v * lanes + lane)

            def write(i: ExprLike, v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
                x = x0 + as_expr(i)
                done = self._finished([b, c0 + as_expr(v) * lanes + lane, y, x], value)
                return [store(target, place + x * tile.columns + as_expr(v) * lanes + lane, done)]

            return conv.stored(tile, r.depths, source, weight, start, write)

        return nest((-(-width // tile.rows),), box, ("x",))

    def _finished(self, index: Sequence[Expr], value: Expr) -> Expr:
        """What follows the convolution, of one of its elements."""
        conv, inside = self.conv, self.conv.inner.result
        accessors: dict[Value, object] = {inside: lambda *i: value.cast(inside.dtype).cast(conv.dtype)}
        for v, outer in conv.outer.items():
            accessors[v] = conv.sources.access(outer)  # type: ignore[arg-type]
        return Inliner(accessors).at(self.result, index)  # type: ignore[arg-type]


class Streamed:
    """The whole kernel. The first convolution's rows lie in a ring of `slots`, with the padding that the second's windows see."""

    def __init__(self, first: Convolution, second: Convolution) -> None:
        self.conv, self.first, self.second = second, first.problem, second.problem
        self.taps, self.channels = window_of(second.inner), second.problem.groups
        self.lanes = Lanes(second.lanes_for(self.channels))
        self.plan: Plan = second.style.pick("plan", plans(first.inner, second.inner, second.machine))
        self.producer = Producer(first, second.x, self.lanes.lanes, self.plan)
        self.weights = second.pack(second.w, by_channel(second.dtype, second.w), second.dtype)
        self.columns = self.plan.vectors * self.lanes.lanes
        self.reach, self.step = self.taps.reach(0, 1), self.taps.stride[0]  # rows of a window, and from one to the next
        self.slots = (self.plan.rows - 1) * self.step + self.reach
        self.left, width = self.second.before[1], self.first.pixels_shape[1]
        self.wide = max(self.left + width, self.taps.reach(1, self.second.pixels_shape[1]))
        self.pitch = self.wide * self.columns
        self.parts = -(-self.second.pixels_shape[0] // self.plan.rows)  # steps of rows in an image
        p = self.first
        self.own = shares(p.batch * self.producer.panels * self.parts, second.effort(p.batch * p.pixels * p.outs * p.depth),
                          second.style)
        room = apart(self.slots * self.pitch, second.dtype, second.costs)
        self.rows = Buffer("rows", second.dtype, (self.own.workers * room,))
        self.base = self.own.worker * room
        _, self.strip = choose_strip(1, self.second.pixels_shape[1], self.columns, self.taps, self.lanes.lanes, second.machine)

    def build(self) -> Lowered:
        conv, made = self.conv, self.producer
        conv.packings.update(made.conv.packings)
        conv.scratch += [self.rows, *made.conv.scratch]
        body = self.own.spread(seq(*self._margins(), self.own.each(lambda u, before: self.unit(u, before.eq(0)))))
        return conv.finish(seq(*conv.sources.borders(conv.style), *made.pixels.copied, body))

    def unit(self, u: Expr, is_first: Expr) -> Stmt:
        """A step of rows of a panel: those that are not there from the step before, then the result's rows."""
        plan, panels, step = self.plan, self.producer.panels, self.step
        kept = max(0, self.reach - step)
        # Bound to names: LLVM sees addresses that are sums of them, not the divisions and selects.
        part, panel, b = Var("part", INDEX, 0, self.parts - 1), Var("panel", INDEX, 0, panels - 1), \
            Var("b", INDEX, 0, self.second.batch - 1)
        known = Var("known", INDEX, 0, kept)
        y0 = part * plan.rows
        rows = minimum(const(plan.rows, INDEX), self.second.pixels_shape[0] - y0)
        fresh = is_first | part.eq(0)
        next_row, slot = Var("s", INDEX, 0, self.slots - 1), Var("slot", INDEX, 0, self.slots - 1)
        q = y0 * step + next_row + known  # counted from where the padding begins
        y = q - self.second.before[0]
        inside = (const(0, INDEX) <= y) & (y < self.first.pixels_shape[0])
        place = self.base + slot * self.pitch
        row = self.producer.row(b, panel, y, self.rows, place + self.left * self.columns)
        make = If(inside, row, self._clear(place, self.pitch))
        made = For(next_row, (rows - 1) * step + self.reach - known, Let(slot, q % self.slots, make), Scope.SERIAL)
        r = Var("r", INDEX, 0, plan.rows - 1)
        used = For(r, rows, self.consume(b, panel, y0 + r), Scope.SERIAL)
        body: Stmt = seq(made, used)
        for var, value in ((known, select(fresh, const(0, INDEX), const(kept, INDEX))), (part, u % self.parts),
                           (panel, u // self.parts % panels), (b, u // (self.parts * panels))):
            body = Let(var, value, body)
        return body

    def consume(self, b: Expr, panel: Expr, y: Expr) -> Stmt:
        """Row `y` of the result from the rows that are there, each in its slot of the ring."""
        strip, vectors, width = self.strip, self.plan.vectors, self.second.pixels_shape[1]
        top = Var("top", INDEX, 0, self.slots - 1)
        bound = {k: Var(f"slot{k}", INDEX, 0, self.slots - 1) for k in range(self.reach) if self.taps.covers(0, 1, k)}

        def tile(x: Expr, vector: Expr) -> Stmt:
            x0 = minimum(x * strip.wide, width - strip.wide)
            v0 = minimum(vector * strip.vectors, vectors - strip.vectors)
            at = _StripAt(self, b, panel, y, x0, v0, lambda down: bound[down.value] if isinstance(down, Const)
                          else (top + down) % self.slots)
            return strip_code(self.conv, strip, self.taps, self.lanes, at)

        body = nest((-(-width // strip.wide), -(-vectors // strip.vectors)), tile, ("x", "v"))
        for k, slot in bound.items():
            body = Let(slot, (top + k) % self.slots, body)
        return Let(top, y * self.step % self.slots, body)

    def _margins(self) -> list[Stmt]:
        """What zeroes the padding beside the rows, once."""
        width, columns = self.first.pixels_shape[1], self.columns
        if self.wide == width:
            return []
        right = (self.left + width) * columns

        def row(s: Expr) -> Stmt:
            start = self.base + s * self.pitch
            return seq(self._clear(start, self.left * columns), self._clear(start + right, self.pitch - right))

        return [nest((self.slots,), row, ("s",))]

    def _clear(self, start: Expr, size: int) -> Stmt:
        """Zeroes `size` elements (whole vectors) from `start` on."""
        lanes, zero = self.lanes.lanes, const(0, self.conv.dtype)
        lane = Var("l", INDEX, 0, lanes - 1)
        one = lambda i: For(lane, const(lanes, INDEX), store(self.rows, start + i * lanes + lane, zero), Scope.VECTOR)
        return nest((size // lanes,), one, ("i",))


class _StripAt:
    """A strip of row `y` from pixel `x0` and vector `v0` of its panel on; `slot(k)` is where the k-th row of its window lies."""

    def __init__(self, of: Streamed, b: Expr, panel: Expr, y: Expr, x0: Expr, v0: Expr, slot: Callable[[Expr], Expr]) -> None:
        self.of, self.b, self.y, self.x0, self.v0, self.slot = of, b, y, x0, v0, slot
        self.channel = minimum(panel * of.columns, of.channels - of.columns) + v0 * of.lanes.lanes

    def element(self, offset: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        of = self.of
        down, across = (as_expr(o) for o in offset[-2:])
        place = of.base + self.slot(down) * of.pitch + (self.x0 * of.taps.stride[1] + across) * of.columns
        return of.rows[place + (self.v0 + v) * of.lanes.lanes + lane]

    def weight(self, at: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
        place = flat_index([as_expr(a) for a in at][-2:], self.of.second.window)
        return self.of.weights[place * self.of.channels + self.channel + v * self.of.lanes.lanes + lane]

    def start(self, v: int, lane: Expr) -> Expr:
        return self.of.conv.added(self.channel + v * self.of.lanes.lanes + lane)

    def write(self, at: Sequence[ExprLike], v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
        place = [self.b, self.channel + as_expr(v) * self.of.lanes.lanes + lane, self.y, self.x0 + at[1]]
        return self.of.conv.put(place, value)


__all__ = ["Plan", "choose_plan", "pair", "pays", "plans", "streamed"]
