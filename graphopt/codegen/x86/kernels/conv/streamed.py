"""A convolution and the depthwise one that reads its result, as one kernel: rows go from one to the other in cache.

Where a pointwise convolution widens an image six times for a depthwise one (MobileNetV2's inverted residuals), writing the
wide image to memory and reading it back costs more than computing it. Here a few rows of a panel of channels are computed,
consumed at once, and kept in a ring as long as windows of later rows read them, as line buffers of an FPGA do. Each thread
streams through panels and rows of its own; only where it begins within an image are rows computed twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.expr import INDEX, Buffer, Const, Expr, ExprLike, Var, as_expr, const, minimum, select
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import For, If, Let, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered, Sources
from graphopt.codegen.lower.registry import Inliner, computed
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.lower.tuning import best_of
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv import depthwise
from graphopt.codegen.x86.kernels.conv.channels_last import ChannelsLast, choose_box, covers, first_channels, pack_panels
from graphopt.codegen.x86.kernels.conv.depthwise import Depthwise, Window, by_channel, choose_strip, is_depthwise, window_of
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
    costs, size_of = costs_of(machine), computed(first.result.dtype).itemsize
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


class Producer(ChannelsLast):
    """The first convolution, row by row."""

    def examine(self) -> bool:
        if not super().examine():
            return False
        self.depth = self.channels * math.prod(self.window)
        return True

    def prepare(self, result: Value, wide: int, vectors: int) -> None:
        """Pack the weights; `result` is what its epilogue ends in."""
        w = self.inner.operands[1]
        assert w is not None
        self.result, self.block_tile = result, Tile(wide, vectors, self.lanes)
        self.panels = -(-self.outs // self.block_tile.columns)
        starts = [first_channels(p, self.outs, self.block_tile) for p in range(self.panels)]
        packing = pack_panels(1, self.outs, starts, self.depth, self.block_tile, self.planar, self.dtype)
        self.right = self.pack(w, packing, self.dtype)

    def finished(self, index: Sequence[Expr], value: Expr) -> Expr:
        inside = self.inner.result
        accessors: dict[Value, object] = {inside: lambda *i: value.cast(inside.dtype).cast(self.dtype)}
        for v, outer in self.outer.items():
            accessors[v] = self.sources.access(outer)  # type: ignore[arg-type]
        return Inliner(accessors).at(self.result, index)  # type: ignore[arg-type]

    def row(self, b: Expr, panel: Expr, y: Expr, target: Buffer, place: Expr) -> Stmt:
        """One row of one panel into `target`, from `place` on: pixels of the panel's channels."""
        tile, lanes, width = self.block_tile, self.lanes, self.pixels_shape[-1]
        c0 = minimum(panel * tile.columns, self.outs - tile.columns)

        def box(i: Expr) -> Stmt:
            x0 = minimum(i * tile.rows, width - tile.rows)

            def source(i: int, k: Sequence[Expr]) -> Expr:
                *window, c = self.split(k)
                at = [p * s - q + o * d for p, s, q, o, d in
                      zip((y, x0 + i), self.stride, self.before, window, self.dilation)]
                return self.pixel(b, c, at)

            def weight(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
                return self.right[(panel * self.depth + flat_index(k, self.depths)) * tile.columns + v * lanes + lane]

            def start(i: int, v: int, lane: Expr) -> Expr:
                return const(0, self.dtype) if self.bias is None else self.element(self.bias, c0 + v * lanes + lane)

            def write(i: ExprLike, v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
                x = x0 + as_expr(i)
                done = self.finished([b, c0 + as_expr(v) * lanes + lane, y, x], value)
                return [store(target, place + x * tile.columns + as_expr(v) * lanes + lane, done)]

            return self.stored(tile, self.depths, source, weight, start, write)

        return nest((-(-width // tile.rows),), box, ("x",))


class Streamed(Depthwise):
    """The whole kernel; as a depthwise convolution it is that of its second part."""

    def __init__(self, op: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        first, second = [o for o in held(op) if o.name == "conv"]
        super().__init__(op, second, sources, name, style, machine)
        self.first = Producer(op, first, sources, name, style, machine)

    def build(self) -> Lowered | None:
        first, w = self.first, self.inner.operands[1]
        if not first.examine() or not self.examine():
            return None
        image = self.inner.operands[0]
        assert image is not None and w is not None
        plan = self.style.pick("plan", plans(first.inner, self.inner, self.machine))
        first.prepare(image, plan.wide, plan.vectors)
        self.weights = self.pack(w, by_channel(self.dtype, w), self.dtype)
        body = self.stream(plan)
        self.packings.update(first.packings)
        self.scratch += first.scratch
        return self.finish(seq(*self.sources.borders(self.style), *first.copied, body))

    def stream(self, plan: Plan) -> Stmt:
        first, taps = self.first, window_of(self.inner)
        height, width = first.pixels_shape
        out_height, out_width = self.pixels_shape
        columns = plan.vectors * self.lanes
        step = taps.stride[0]
        slots = (plan.rows - 1) * step + taps.reach(0, 1)
        kept = max(0, taps.reach(0, 1) - step)
        left = self.before[1]
        wide = max(left + width, taps.reach(1, out_width))
        pitch = wide * columns
        steps = -(-out_height // plan.rows)
        units = self.batch * first.panels * steps
        effort = self.effort(self.batch * math.prod(first.pixels_shape) * first.outs * first.depth)
        own, room = shares(units, effort, self.style), apart(slots * pitch, self.dtype, self.costs)
        held = Buffer("rows", self.dtype, (own.workers * room,))
        self.scratch.append(held)
        base = own.worker * room
        nothing = const(0, self.dtype)

        def copy(target: Expr, size: int, value: object) -> Stmt:
            """`size` elements (whole vectors) from `target` on, each what `value(offset)` gives."""
            lane = Var("l", INDEX, 0, self.lanes - 1)
            move = lambda i: For(lane, const(self.lanes, INDEX), store(
                held, target + i * self.lanes + lane, value(i * self.lanes + lane)), Scope.VECTOR)  # type: ignore[operator]
            return nest((size // self.lanes,), move, ("i",))

        def unit(u: Expr, first_of_worker: Expr) -> Stmt:
            # Bound to names: LLVM sees addresses that are sums of them, not the divisions and selects.
            part, panel, b = Var("part", INDEX, 0, steps - 1), Var("panel", INDEX, 0, first.panels - 1), \
                Var("b", INDEX, 0, self.batch - 1)
            known = Var("known", INDEX, 0, kept)
            y0 = part * plan.rows
            rows = minimum(const(plan.rows, INDEX), out_height - y0)
            fresh = first_of_worker | part.eq(0)
            next_row, slot = Var("s", INDEX, 0, slots - 1), Var("slot", INDEX, 0, slots - 1)
            q = y0 * step + next_row + known  # counted from where the padding begins
            y = q - self.before[0]
            inside = (const(0, INDEX) <= y) & (y < height)
            place = base + slot * pitch
            make = If(inside, first.row(b, panel, y, held, place + left * columns), copy(place, pitch, lambda i: nothing))
            made = For(next_row, (rows - 1) * step + taps.reach(0, 1) - known, Let(slot, q % slots, make), Scope.SERIAL)
            r = Var("r", INDEX, 0, plan.rows - 1)
            used = For(r, rows, self.consume(plan, taps, held, b, panel, base, y0, r, pitch, slots), Scope.SERIAL)
            body: Stmt = seq(made, used)
            for var, value in ((known, select(fresh, const(0, INDEX), const(kept, INDEX))), (part, u % steps),
                               (panel, u // steps % first.panels), (b, u // (steps * first.panels))):
                body = Let(var, value, body)
            return body

        margins = [] if wide == width else [nest((slots,), lambda s: seq(
            copy(base + s * pitch, left * columns, lambda i: nothing),
            copy(base + s * pitch + (left + width) * columns, (wide - left - width) * columns, lambda i: nothing)), ("s",))]
        return own.spread(seq(*margins, own.each(lambda u, before: unit(u, before.eq(0)))))

    def consume(self, plan: Plan, taps: Window, held: Buffer, b: Expr, panel: Expr, base: Expr, y0: Expr, r: Expr,
                pitch: int, slots: int) -> Stmt:
        """One row of the result from the rows that are there, each in its slot of the ring."""
        lanes, columns, width = self.lanes, plan.vectors * self.lanes, self.pixels_shape[1]
        _, strip = choose_strip(1, width, columns, taps, lanes, self.machine)
        c0 = minimum(panel * columns, self.channels - columns)
        top = Var("top", INDEX, 0, slots - 1)
        reach = taps.reach(0, 1)
        bound = {k: Var(f"slot{k}", INDEX, 0, slots - 1) for k in range(reach) if taps.covers(0, 1, k)}

        def tile(x: Expr, vector: Expr) -> Stmt:
            x0 = minimum(x * strip.wide, width - strip.wide)
            v0 = minimum(vector * strip.vectors, plan.vectors - strip.vectors)
            channel = c0 + v0 * lanes

            def element(offset: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
                down, across = (as_expr(o) for o in offset[-2:])
                slot = bound[down.value] if isinstance(down, Const) else (top + down) % slots
                return held[base + slot * pitch + (x0 * taps.stride[1] + across) * columns + (v0 + v) * lanes + lane]

            def weight(at: Sequence[ExprLike], v: int, lane: Expr) -> Expr:
                place = flat_index([as_expr(a) for a in at][-2:], self.window)
                return self.weights[place * self.channels + channel + v * lanes + lane]

            def start(v: int, lane: Expr) -> Expr:
                return const(0, self.dtype) if self.bias is None else self.element(self.bias, channel + v * lanes + lane)

            def write(at: Sequence[ExprLike], v: ExprLike, lane: Expr, value: Expr) -> list[Stmt]:
                place = [b, channel + as_expr(v) * lanes + lane, y0 + r, x0 + at[1]]
                return [store(o, offset, y) for o, offset, y in self.epilogue(place, value)]

            return self.strip(strip, taps, element, weight, start, write)

        body = nest((-(-width // strip.wide), -(-plan.vectors // strip.vectors)), tile, ("x", "v"))
        for k, slot in bound.items():
            body = Let(slot, (top + k) % slots, body)
        return Let(top, (y0 + r) * taps.stride[0] % slots, body)
