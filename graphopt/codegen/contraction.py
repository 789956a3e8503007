"""x86 contractions: one register-blocked tile, and how matmul and convolution are brought to it.

C[m, n] = sum over k of A[m, k] * B[k, n]. A tile of MR rows by NV vectors of accumulators stays in
registers over the whole k loop; A comes as broadcast scalars, B as vectors along n (GotoBLAS's inner kernel:
Goto and van de Geijn, ACM TOMS 34(3), 2008). Where M or N is no multiple of the tile, the last tile
overlaps its neighbour and stores the same values again; nothing is padded at run time.

- matmul: n is the last axis of the result. A constant right operand is packed once, in panels [N/NR][K][NR].
- convolution: m is the output channel (weights packed [CO/MR][K][MR]), n the pixels, which NCHW keeps
  contiguous. A 1x1 stride-1 convolution reads B in place; others copy a panel of the zero-padded image per task.

The epilogue is the fused op's body, applied to the tile before it is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen import math as vector_math
from graphopt.codegen.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    Var,
    as_expr,
    cast,
    clamp,
    const,
    maximum,
    minimum,
    reduce,
    select,
)
from graphopt.codegen.kernels import Lowered, Packing, Sources, Template
from graphopt.codegen.loops import Alloc, For, Kernel, Stmt, Store, loop, nest, seq, store
from graphopt.codegen.lower.registry import Inliner, computed
from graphopt.codegen.schedule import Output, Style, flat_index, iteration, schedule, work
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import DType

SUPPORTED = ("f32", "f64", "f16", "bf16", "i32", "i64")
HEAVY = 6  # scalar operations of an epilogue above which it is not unrolled with the block
PANEL_BYTES = 1 << 18  # of a packed panel: a quarter of the L2 cache


@dataclass(frozen=True)
class Tile:
    """Rows and vectors of the register block; `lanes` elements a vector."""

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes


def choose_tile(m: int, n: int, lanes: int, registers: int) -> Tile:
    """The tile that wastes least on an m by n result, of those that fit the registers with operands to spare."""
    best: tuple[float, Tile] | None = None
    for vectors in range(1, 8 if registers == 32 else 4):
        for rows in range(1, 15):
            # accumulators, the B vectors of one k, and one broadcast
            if rows * vectors + vectors + 1 > registers and rows * vectors > 1:
                continue
            tile = Tile(min(rows, m), vectors, lanes)
            tiles = math.ceil(m / tile.rows) * math.ceil(n / tile.columns)
            loads = tile.rows + vectors
            # multiply-adds bound the tile from below, and so do loads, of which two start a cycle
            cycles = tiles * (max(tile.rows * vectors, loads / 2, 4) + 0.02 * loads)
            if best is None or cycles < best[0] - 1e-9:
                best = (cycles, tile)
    assert best is not None
    return best[1]


def template(registers: int) -> Template:
    """The template for a machine with so many vector registers."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        found = _contraction_of(op)
        if found is None:
            return None
        inner, sources = found
        if inner.name == "matmul":
            return _Matmul(op, inner, sources, name, style, registers).build()
        if inner.name == "conv":
            return _Convolution(op, inner, sources, name, style, registers).build()
        return None

    return match


def _contraction_of(op: Op) -> tuple[Op, Sources] | None:
    """The one contraction of a plain or fused op, where the template can have it."""
    if op.name == "fused":
        found = [o for o in op.regions[0].ops if o.definition.has(Trait.CONTRACTION)]
        if len(found) != 1 or any(r.shape != found[0].result.shape for r in op.results):
            return None
        inner = found[0]
        if any(v is not None and v.op is not None for v in inner.operands):
            return None  # something is fused into its operands
    elif op.definition.has(Trait.CONTRACTION):
        inner = op
    else:
        return None
    operands = [v for v in inner.operands if v is not None]
    if inner.name not in ("matmul", "conv") or operands[0].dtype.name not in SUPPORTED:
        return None
    if any(0 in v.static_shape for v in (*operands, inner.result)):
        return None
    return inner, Sources(op)


class _Template:
    """What matmul and convolution share: operands, accumulator dtype, epilogue, the tile itself."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, registers: int) -> None:
        self.op, self.inner, self.sources, self.name, self.style = op, inner, sources, name, style
        self.registers = registers
        self.dtype: DType = computed(inner.result.dtype)
        self.lanes = max(1, style.lanes // (2 if self.dtype.bits == 64 else 1))
        self.packings: dict[int, Packing] = {}
        self.scratch: list[Buffer] = []
        self.outer = dict(zip(op.regions[0].inputs, op.operands)) if op.name == "fused" else {}

    def outside(self, v: Value) -> Value:
        """The value outside of the fused op that an operand of the contraction is."""
        return self.outer.get(v, v)  # type: ignore[return-value]

    def buffer(self, v: Value) -> Buffer:
        return self.sources.buffers[self.outside(v)]

    def element(self, v: Value, offset: Expr) -> Expr:
        """Element `offset` of a value, in the accumulator's dtype."""
        outer = self.outside(v)
        if outer in self.sources.buffers:
            return cast(self.sources.buffers[outer][offset], self.dtype)
        return cast(self.sources.access(outer)(), self.dtype)

    def pack(self, v: Value, packing: Packing, d: DType) -> Buffer:
        """Have a constant operand packed; its buffer afterwards."""
        outer = self.outside(v)
        position = self.sources.operands.index(outer)
        self.packings[position] = packing
        old = self.sources.buffers[outer]
        self.sources.buffers[outer] = Buffer(old.name, d, (packing.size // d.itemsize,))
        return self.sources.buffers[outer]

    def packable(self, v: Value) -> bool:
        """A constant that nothing but the contraction reads."""
        outer = self.outside(v)
        if outer.constant is None or outer not in self.sources.buffers or self.op.operands.count(outer) != 1:
            return False
        return len(v.uses) == 1 if self.op.name == "fused" else True

    def finish(self, body: Stmt) -> Lowered:
        params = (*self.sources.buffers.values(), *self.sources.outputs, *self.scratch)
        kernel = Kernel(self.name, params, body, len(self.sources.buffers), len(self.sources.outputs))
        return Lowered(kernel, tuple(self.sources.operands), self.packings, tuple(self.scratch))

    def epilogue(self, index: Sequence[Expr], value: Expr) -> list[tuple[Buffer, Expr, Expr]]:
        """What to store where for result element `index` of the contraction: (buffer, offset, value)."""
        offset = flat_index(index, self.inner.result.static_shape)
        if self.op.name != "fused":
            return [(self.sources.outputs[0], offset, value.cast(self.op.result.dtype))]
        inside = self.inner.result
        value = cast(cast(value, inside.dtype), self.dtype)  # rounded as the op on its own would be
        accessors: dict[Value, object] = {inside: lambda *i: value}
        for v, outer in self.outer.items():
            accessors[v] = self.sources.access(outer)  # type: ignore[arg-type]
        inliner = Inliner(accessors)  # type: ignore[arg-type]
        outs = self.op.regions[0].outputs
        return [(b, offset, inliner.at(v, index).cast(b.dtype)) for b, v in zip(self.sources.outputs, outs)]

    def tile(self, tile: Tile, depth: int, a: Callable[[int, Expr], Expr], b: Callable[[int, Expr, Expr], Expr],
             write: Callable[[ExprLike, ExprLike, Expr, Expr], list[Stmt]],
             start: Callable[[int, int, Expr], Expr] | None = None, partial: int | None = None) -> Stmt:
        """The register block. `a(row, k)` is a scalar, `b(vector, k, lane)` a lane; `write(row, vector, lane, value)`
        stores one; `start` gives what to add to (default zero). `partial`: valid lanes of a single vector."""
        sample = write(0, 0, Var("l", INDEX, 0, tile.lanes - 1), Var("x", self.dtype))
        effort = sum(work(vector_math.expand(s.value)) for s in sample if isinstance(s, Store))
        count = tile.lanes if partial is None else partial
        if tile.rows * tile.vectors == 1 or effort <= HEAVY:
            return self.block(tile, (depth,), lambda i, k: a(i, k[0]), lambda v, k, l: b(v, k[0], l), start, write, count)

        # A long epilogue is written once, as a loop; the block goes through memory, since registers have no index.
        def drain(block: Buffer) -> Stmt:
            def one(i: Expr, v: Expr) -> Stmt:
                lane = Var("l", INDEX, 0, count - 1)
                kind = "vector" if count == tile.lanes else "serial"
                value = block[(i * tile.vectors + v) * tile.lanes + lane]
                return seq(*(For(lane, const(count, INDEX), s, kind) for s in write(i, v, lane, value)))

            return nest((tile.rows, tile.vectors), one, ("i", "v"))

        return self.block(tile, (depth,), lambda i, k: a(i, k[0]), lambda v, k, l: b(v, k[0], l), start, drain=drain)

    def block(self, tile: Tile, depths: Sequence[int], a: Callable[[int, Sequence[Expr]], Expr],
              b: Callable[[int, Sequence[Expr], Expr], Expr], start: Callable[[int, int, Expr], Expr] | None = None,
              write: Callable[[int, int, Expr, Expr], list[Stmt]] | None = None, count: int = 0,
              drain: Callable[[Buffer], Stmt] | None = None) -> Stmt:
        """Multiply and add over nested loops of `depths`, then store from registers (`write`, `count` lanes of a vector)
        or through memory (`drain`, given the block as rows of vectors of lanes)."""
        width = tile.lanes
        size = tile.rows * tile.vectors * width
        acc = Buffer("acc", self.dtype, (size,), "local")

        def each(f: Callable[[int, int, Expr], Sequence[Stmt]], count: int = width) -> Stmt:
            kind = "vector" if count == width else "serial"
            parts: list[Stmt] = []
            for i in range(tile.rows):
                for v in range(tile.vectors):
                    lane = Var("l", INDEX, 0, count - 1)
                    parts += [For(lane, const(count, INDEX), s, kind) for s in f(i, v, lane)]
            return seq(*parts)

        at = lambda i, v, l: (i * tile.vectors + v) * width + l
        zero = const(0, self.dtype)
        first = each(lambda i, v, l: [store(acc, at(i, v, l), start(i, v, l) if start else zero)])
        step = nest(depths, lambda *k: each(
            lambda i, v, l: [store(acc, at(i, v, l), acc[at(i, v, l)] + a(i, k) * b(v, k, l))]), ("k", "kh", "kw"))
        if drain is None:
            assert write is not None
            return Alloc(acc, seq(first, step, each(lambda i, v, l: write(i, v, l, acc[at(i, v, l)]), count)))
        memory = Buffer("block", self.dtype, (size,), "local")
        spill = each(lambda i, v, l: [store(memory, at(i, v, l), acc[at(i, v, l)])])
        return Alloc(acc, seq(first, step, Alloc(memory, seq(spill, drain(memory)))))

    def shared(self, tasks: int, effort: int, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """`body(worker, task)` for all tasks, in contiguous ranges over the threads where there is enough to do."""
        workers = min(self.style.threads, tasks) if effort >= self.style.parallel_work else 1
        if workers == 1:
            return loop(tasks, lambda t: body(const(0, INDEX), t), "serial", "task")
        per = -(-tasks // workers)
        worker = Var("w", INDEX, 0, workers - 1)
        task = Var("task", INDEX, 0, per - 1)
        # A range that runs over the end repeats the last task's work rather than branching.
        index = minimum(worker * per, tasks - per) + task if tasks % workers else worker * per + task
        bounded = _bounded(index, tasks)
        return For(worker, const(workers, INDEX), For(task, const(per, INDEX), body(worker, bounded), "serial"), "parallel")


def _bounded(e: Expr, count: int) -> Expr:
    return clamp(e, 0, count - 1)


class _Matmul(_Template):
    def build(self) -> Lowered | None:
        a, b = self.inner.operands
        assert a is not None and b is not None
        self.ashape, self.bshape = a.static_shape, b.static_shape
        out = self.inner.result.static_shape
        self.batch, self.m, self.n, self.k = out[:-2], out[-2], out[-1], self.ashape[-1]
        batch = math.prod(self.batch)
        if math.prod(self.bshape[:-2]) == 1 and batch > 1 and math.prod(self.ashape[:-2]) == batch:
            # One right operand for the whole batch: more rows of one matrix.
            self.rows_merged = True
            self.m, batches = self.m * math.prod(self.batch), 1
        else:
            self.rows_merged = False
            batches = math.prod(self.batch)
        packed = self.packable(b) and math.prod(self.bshape[:-2]) == 1
        if self.n < self.lanes and not packed:
            return None
        if self.m * self.n * self.k < 8 or (self.n < 4 and self.k < 16):
            return None
        tile = choose_tile(self.m, self.n, self.lanes, self.registers)
        tile = Tile(tile.rows, min(tile.vectors, -(-self.n // self.lanes)), self.lanes)
        starts = _panel_starts(self.n, tile)
        panels, tiles = len(starts), -(-self.m // tile.rows)
        if packed:
            right = self.pack(b, _pack_right(self.n, self.k, tile, self.dtype), self.dtype)
        valid = self.n if self.n < self.lanes else None

        def task(worker: Expr, t: Expr) -> Stmt:
            mt, pt, bt = t % tiles, t // tiles % panels, t // (tiles * panels)
            m0 = minimum(mt * tile.rows, self.m - tile.rows)
            column = lambda v, l: _column(pt, v, self.n, tile) + l
            index = _unravel(bt, self.batch)
            abase, bbase = self.base(a, self.ashape, index), self.base(b, self.bshape, index)

            def left(i: int, k: Expr) -> Expr:
                return self.element(a, abase + (m0 + i) * self.k + k)

            def from_panel(v: int, k: Expr, l: Expr) -> Expr:
                return right[(pt * self.k + k) * tile.columns + v * tile.lanes + l]

            def in_place(v: int, k: Expr, l: Expr) -> Expr:
                return self.element(b, bbase + k * self.n + column(v, l))

            def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
                row, col = m0 + i, column(v, l)
                place = [*_unravel(row, (*self.batch, self.inner.result.static_shape[-2])), col] if self.rows_merged \
                    else [*index, row, col]
                return [store(o, offset, x) for o, offset, x in self.epilogue(place, value)]

            return self.tile(tile, self.k, left, from_panel if packed else in_place, write, partial=valid)

        tasks = batches * panels * tiles
        return self.finish(self.shared(tasks, 2 * batches * self.m * self.n * self.k // 16, task))

    def base(self, v: Value, shape: tuple[int, ...], index: Sequence[Expr]) -> Expr:
        """Offset of the matrix that batch `index` uses, with broadcasting."""
        own = index[len(index) - (len(shape) - 2):] if len(shape) > 2 else ()
        if self.rows_merged:
            return const(0, INDEX)
        place = [const(0, INDEX) if n == 1 else i for i, n in zip(own, shape[:-2])]
        return flat_index(place, shape[:-2]) * (shape[-2] * shape[-1])


def _panel_starts(n: int, tile: Tile) -> list[int]:
    """First column of each panel; the last one overlaps its neighbour."""
    if n <= tile.columns:
        return [0]
    return [min(p * tile.columns, n - tile.columns) for p in range(-(-n // tile.columns))]


def _column(panel: Expr, v: ExprLike, n: int, tile: Tile) -> Expr:
    """First column of vector v of a panel."""
    if n < tile.lanes:
        return const(0, INDEX)
    if n <= tile.columns:
        return minimum(as_expr(v) * tile.lanes, n - tile.lanes)
    return minimum(panel * tile.columns, n - tile.columns) + v * tile.lanes


def _unravel(flat: Expr, shape: Sequence[int]) -> list[Expr]:
    out: list[Expr] = []
    for n in reversed(shape):
        out.append(flat % n)
        flat = flat // n
    return out[::-1]


def _columns_of(n: int, tile: Tile) -> np.ndarray:
    """Column index of every panel element, [panels, columns]; -1 where there is none."""
    lane = np.arange(tile.lanes)
    if n < tile.lanes:
        return np.where(lane < n, lane, -1)[None]
    if n <= tile.columns:
        return np.concatenate([min(v * tile.lanes, n - tile.lanes) + lane for v in range(tile.vectors)])[None]
    return np.array(_panel_starts(n, tile))[:, None] + np.arange(tile.columns)


def _pack_right(n: int, k: int, tile: Tile, d: DType) -> Packing:
    columns = _columns_of(n, tile)

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        w = w.reshape(k, n)
        for c in columns:
            panel = w[:, np.maximum(c, 0)]
            panel[:, c < 0] = 0
            yield panel.astype(d.numpy, copy=False)

    return Packing(f"right{tile}{d}", columns.size * k * d.itemsize, parts)


class _Convolution(_Template):
    def build(self) -> Lowered | None:
        x, w, self.bias = (*self.inner.operands, None)[:3]
        assert x is not None and w is not None
        self.x, attrs = x, self.inner.attrs
        self.groups, self.stride, self.dilation = attrs["groups"], attrs["stride"], attrs["dilation"]
        shape, wshape = x.static_shape, w.static_shape
        out = self.inner.result.static_shape
        spatial = len(shape) - 2
        self.batch, self.channels, self.image = shape[0], shape[1] // self.groups, shape[2:]
        self.outs, self.pixels_shape, self.window = out[1] // self.groups, out[2:], wshape[2:]
        self.before, self.after = attrs["pad"][:spatial], attrs["pad"][spatial:]
        if any(p < 0 for p in attrs["pad"]):
            return None
        self.padded = tuple(n + p + q for n, p, q in zip(self.image, self.before, self.after))
        self.pixels, self.depth = math.prod(self.pixels_shape), self.channels * math.prod(self.window)
        if self.outs == 1 or self.depth * self.outs < 16:
            return self.direct(w)
        packed = self.packable(w)
        if len(self.image) <= 2 and all(s == 1 for s in self.stride) and math.prod(self.window) > 1 \
                and self.span() >= self.lanes and self.lanes > 1:
            return self.sliding(w, packed)
        if not packed and self.pixels < self.lanes:
            return None
        return self.blocked(x, w, packed)

    # Few channels a group: no reuse to block for, one accumulator a lane over the padded image.
    def direct(self, w: Value) -> Lowered | None:
        pad, source = self.padded_image()
        shape = self.inner.result.static_shape
        vars = iteration(shape)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, shape)]
        def term(*r: Expr) -> Expr:
            c, window = r[0], r[1:]
            group = index[1] // self.outs
            at = [p * s + k * d for p, s, k, d in zip(index[2:], self.stride, window, self.dilation)]
            image = source(index[0], group * self.channels + c, at)
            return image * self.element(w, flat_index([index[1], c, *window], w.static_shape))

        total = reduce("sum", [self.channels, *self.window], term)
        if self.bias is not None:
            total = total + self.element(self.bias, index[1])
        outputs = [Output(b, value) for b, _, value in self.epilogue(index, total)]
        return self.finish(seq(pad, schedule(vars, shape, outputs, self.style)))

    def padded_image(self, slack: int = 0) -> tuple[Stmt, Callable[[Expr, Expr, Sequence[Expr]], Expr]]:
        """Statements that make the zero-padded image, where it needs any, and access to it: (batch, channel, position).

        With `slack` it is a copy in any case, and so many elements of any value can be read after its end.
        """
        shape = self.x.static_shape
        if self.padded == self.image and not slack:
            return seq(), lambda b, c, at: self.element(self.x, flat_index([b, c, *at], shape))
        full = (*shape[:2], *self.padded)
        copy = Buffer("image", self.dtype, (math.prod(full) + slack,))
        self.scratch.append(copy)
        vars = iteration(full)
        index = [v if n != 1 else const(0, INDEX) for v, n in zip(vars, full)]
        inside = const(True, "bool")
        at = []
        for v, p, n in zip(index[2:], self.before, self.image):
            inside = inside & (v >= p) & (v < n + p)
            at.append(clamp(v - p, 0, n - 1))
        value = select(inside, self.element(self.x, flat_index([*index[:2], *at], shape)), const(0, self.dtype))
        fill = schedule(vars, full, [Output(copy, value)], self.style)
        return fill, lambda b, c, at: copy[flat_index([b, c, *at], full)]

    def span(self) -> int:
        """Elements of the padded plane from the first output pixel's to the last one's."""
        last = 0
        for n, o in zip(self.padded, self.pixels_shape):
            last = last * n + o - 1
        return last + 1

    # Stride 1: where output pixels are numbered along the padded plane, B is a slice of it, shifted by the window's
    # position, and nothing is copied. The few columns between rows are computed and dropped.
    def sliding(self, w: Value, packed: bool) -> Lowered:
        span, wide, depth = self.span(), self.padded[-1], self.depth
        tile = choose_tile(self.outs, span, self.lanes, self.registers)
        rows, columns = tile.rows, tile.columns
        left = self.pack(w, _pack_left(self.groups, self.outs, depth, rows, self.dtype), self.dtype) if packed else None
        pad, source = self.padded_image(columns)
        row_tiles, panels = -(-self.outs // rows), -(-span // columns)
        height = self.pixels_shape[0] if len(self.pixels_shape) == 2 else 1

        def task(worker: Expr, t: Expr) -> Stmt:
            mt, pt, image = t % row_tiles, t // row_tiles % panels, t // (row_tiles * panels)
            group, b = image % self.groups, image // self.groups
            m0 = minimum(mt * rows, self.outs - rows)
            n0 = minimum(pt * columns, max(span - columns, 0))

            def weight(i: int, k: Sequence[Expr]) -> Expr:
                flat = flat_index(k, (self.channels, *self.window))
                if left is not None:
                    return left[((group * row_tiles + mt) * depth + flat) * rows + i]
                return self.element(w, (group * self.outs + m0 + i) * depth + flat)

            def pixel(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
                shift = flat_index([o * d for o, d in zip(k[1:], self.dilation)], self.padded)
                zeros = [const(0, INDEX)] * (len(self.padded) - 1)
                return source(b, group * self.channels + k[0], [*zeros, shift + n0 + v * tile.lanes + lane])

            def start(i: int, v: int, lane: Expr) -> Expr:
                return self.element(self.bias, group * self.outs + m0 + i) if self.bias is not None else const(0, self.dtype)

            def drain(block: Buffer) -> Stmt:
                def stretch(i: Expr, r: Expr) -> Stmt:
                    y = n0 // wide + r
                    first = maximum(y * wide - n0, 0)
                    end = minimum(minimum(y * wide + self.pixels_shape[-1], span) - n0, columns)
                    x = Var("x", INDEX, 0, min(self.pixels_shape[-1], columns) - 1)
                    lane = first + x
                    column = n0 + lane - y * wide
                    place = [b, group * self.outs + m0 + i, *([y] if height > 1 or len(self.pixels_shape) == 2 else []), column]
                    stores = [store(o, offset, value) for o, offset, value in self.epilogue(place, block[i * columns + lane])]
                    return For(x, maximum(end - first, 0), seq(*stores), "serial")

                touched = (columns - 1) // wide + 2 if height > 1 else 1
                return nest((rows, touched), stretch, ("i", "r"))

            return self.block(tile, (self.channels, *self.window), weight, pixel, start, drain=drain)

        tasks = self.batch * self.groups * panels * row_tiles
        effort = 2 * self.batch * self.groups * self.outs * self.pixels * depth // 16
        return self.finish(seq(pad, self.shared(tasks, effort, task)))

    def blocked(self, x: Value, w: Value, packed: bool) -> Lowered | None:
        tile = choose_tile(self.outs, self.pixels, self.lanes, self.registers)
        tile = Tile(tile.rows, min(tile.vectors, -(-self.pixels // self.lanes)), self.lanes)
        rows, columns, depth = tile.rows, tile.columns, self.depth
        row_tiles, panels = -(-self.outs // rows), len(_panel_starts(self.pixels, tile))
        wsize = self.outs * depth
        left = self.pack(w, _pack_left(self.groups, self.outs, depth, rows, self.dtype), self.dtype) if packed else None
        in_place = all(k == 1 for k in self.window) and all(s == 1 for s in self.stride) and self.padded == self.image \
            and self.pixels >= self.lanes
        pad, source = (seq(), None) if in_place else self.padded_image()
        valid = self.pixels if self.pixels < self.lanes else None
        images = self.batch * self.groups
        effort = 2 * images * self.outs * self.pixels * depth // 16
        workers = min(self.style.threads, images * panels * row_tiles) if effort >= self.style.parallel_work else 1
        # Threads share panels where there are enough of them, else rows (each then makes its own copy of the panel).
        by_rows = images * panels < workers or (images * panels < 4 * workers and images * panels % workers)
        row = columns * self.dtype.itemsize
        block = depth if depth * row <= PANEL_BYTES else max(1, PANEL_BYTES // row)
        blocks = -(-depth // block)
        block = -(-depth // blocks)
        if in_place:
            block, blocks = depth, 1
        panel = sums = table = None
        if not in_place:
            panel = Buffer("panel", self.dtype, (workers * block * columns,))
            table = Buffer("pixels", "i32", (workers * columns,))
            self.scratch += [panel, table]
            if blocks > 1:
                sums = Buffer("sums", self.dtype, (workers * row_tiles * rows * columns,))
                self.scratch.append(sums)
        window = math.prod(self.window)

        def panel_task(worker: Expr, t: Expr, tile_range: Callable[[Callable[[Expr], Stmt]], Stmt]) -> Stmt:
            pt, image = t % panels, t // panels
            group, b = image % self.groups, image // self.groups

            def positions() -> Stmt:
                assert table is not None
                lane = Var("l", INDEX, 0, columns - 1)
                pixel = self.pixel_of(pt, lane, tile)
                at = [p * s for p, s in zip(_unravel(pixel, self.pixels_shape), self.stride)]
                put = store(table, worker * columns + lane, flat_index(at, self.padded).cast("i32"))
                return For(lane, const(columns, INDEX), put, "serial")

            def fill(first: int, count: int) -> Stmt:
                assert panel is not None and table is not None and source is not None
                q, lane = Var("q", INDEX, 0, count - 1), Var("l", INDEX, 0, columns - 1)
                k = q + first
                shift = [o * d for o, d in zip(_unravel(k % window, self.window), self.dilation)]
                plane = flat_index(shift, self.padded)
                offset = table[worker * columns + lane].cast(INDEX)
                zeros = [const(0, INDEX)] * (len(self.padded) - 1)
                value = source(b, group * self.channels + k // window, [*zeros, plane + offset])
                put = store(panel, (worker * block + q) * columns + lane, value)
                return For(q, const(count, INDEX), For(lane, const(columns, INDEX), put, "serial"), "serial")

            def rows_of(first: int, count: int, is_first: bool, is_last: bool) -> Stmt:
                def one(mt: Expr) -> Stmt:
                    m0 = minimum(mt * rows, self.outs - rows)

                    def a(i: int, k: Expr) -> Expr:
                        if left is not None:
                            return left[((group * row_tiles + mt) * depth + first + k) * rows + i]
                        return self.element(w, group * wsize + (m0 + i) * depth + first + k)

                    def from_image(v: int, k: Expr, l: Expr) -> Expr:
                        channel = (b * self.groups + group) * self.channels + k
                        return self.element(x, channel * self.pixels + _column(pt, v, self.pixels, tile) + l)

                    def from_panel(v: int, k: Expr, l: Expr) -> Expr:
                        assert panel is not None
                        return panel[(worker * block + k) * columns + v * tile.lanes + l]

                    def partial_sum(i: ExprLike, v: ExprLike, l: Expr) -> Expr:
                        return ((worker * row_tiles + mt) * rows + i) * columns + as_expr(v) * tile.lanes + l

                    def start(i: int, v: int, l: Expr) -> Expr:
                        if not is_first:
                            assert sums is not None
                            return sums[partial_sum(i, v, l)]
                        channel = group * self.outs + m0 + i
                        return self.element(self.bias, channel) if self.bias is not None else const(0, self.dtype)

                    def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
                        if not is_last:
                            assert sums is not None
                            return [store(sums, partial_sum(i, v, l), value)]
                        pixel = _column(pt, v, self.pixels, tile) + l
                        place = [b, group * self.outs + m0 + i, *_unravel(pixel, self.pixels_shape)]
                        return [store(o, offset, y) for o, offset, y in self.epilogue(place, value)]

                    return self.tile(tile, count, a, from_image if in_place else from_panel, write, start,
                                     valid if is_last else None)

                return tile_range(one)

            if in_place:
                return rows_of(0, depth, True, True)
            parts = [positions()]
            for j in range(blocks):
                first = j * block
                count = min(block, depth - first)
                parts += [fill(first, count), rows_of(first, count, j == 0, j == blocks - 1)]
            return seq(*parts)

        if workers > 1 and by_rows:
            per = -(-row_tiles // workers)
            worker = Var("w", INDEX, 0, workers - 1)
            start_tile = minimum(worker * per, row_tiles - per)
            some = lambda f: loop(per, lambda r: f(_bounded(start_tile + r, row_tiles)), "serial", "m")
            body: Stmt = For(worker, const(workers, INDEX),
                             loop(images * panels, lambda t: panel_task(worker, t, some), "serial", "task"), "parallel")
        else:
            every = lambda f: loop(row_tiles, f, "serial", "m")
            body = self.shared(images * panels, effort, lambda worker, t: panel_task(worker, t, every))
        return self.finish(seq(pad, body))

    def pixel_of(self, panel: Expr, lane: Expr, tile: Tile) -> Expr:
        """The pixel in a lane of a panel; lanes beyond the last pixel repeat it."""
        if self.pixels < tile.lanes:
            return clamp(lane, 0, self.pixels - 1)
        if self.pixels <= tile.columns:
            v, l = lane // tile.lanes, lane % tile.lanes
            return minimum(v * tile.lanes, self.pixels - tile.lanes) + l
        return minimum(panel * tile.columns, self.pixels - tile.columns) + lane


def _pack_left(groups: int, outs: int, depth: int, rows: int, d: DType) -> Packing:
    tiles = -(-outs // rows)
    starts = [min(t * rows, outs - rows) for t in range(tiles)]

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, depth):
            for s in starts:
                yield group[s:s + rows].T.astype(d.numpy, copy=False)

    return Packing(f"left{rows}x{groups}{d}", groups * tiles * depth * rows * d.itemsize, parts)


__all__ = ["Tile", "choose_tile", "template"]
