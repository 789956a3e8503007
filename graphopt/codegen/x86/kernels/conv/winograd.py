"""3x3 convolutions of stride 1 by Winograd's minimal filtering (Lavin and Gray, CVPR 2016), channels last, groups one after
the other. A dilated one is as many plain ones as its dilations have phases: each on every d-th row and column.

Tiles of m by m outputs are computed from n by n inputs, n = m + 2, as Y = A^T [(G g G^T) * (B^T d B)] A: summed over
channels the middle is n*n matrix products of [tiles, channels] by [channels, outputs], with 2.25 (m = 2) or 4 (m = 4)
times fewer multiplications than the convolution. Weights are transformed in f64 when they are packed. A thread takes a
block of tiles at a time: it transforms their inputs to scratch memory that stays in its L2, then panel by panel of
output channels multiplies, transforms back, and stores through the epilogue. Tiles at the right and lower edges
overlap their neighbours; pixels that two tiles compute are stored from one of them only, so that results do not depend
on how threads meet.

Rounding, measured against f64 relative to the largest |y|, for 64, 128, 256 and 512 channels of normal data after relu:
2e-7, 3e-7, 5e-7, 4e-7 for m = 2 and 0.7e-6, 1.3e-6, 1.6e-6, 2.0e-6 for m = 4, where direct convolution, whose sums are
nine times longer, has 0.8e-6, 1.1e-6, 2.2e-6, 3.0e-6; of data around zero m = 4 has up to twice direct's error. These are of
one draw: with 512 channels others had 2.2e-6 to 4.4e-6 for m = 4. One NaN or infinity in x makes all outputs of the tiles that
read it NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Const, Expr, ExprLike, Var, as_expr, const, minimum
from graphopt.codegen.kernel.loops import Alloc, If, Let, Prefetch, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.conv.boxes import first_channels
from graphopt.codegen.x86.kernels.conv.operands import Convolution
from graphopt.codegen.x86.kernels.conv.pixels import Pixels, pixels_of
from graphopt.codegen.x86.kernels.conv.winograd_plan import Plan, Transform, algorithms
from graphopt.codegen.x86.kernels.conv.winograd_rows import Registers, input_row, output_row, vector
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.dims import ceil_div
from graphopt.ir.graph import Op
from graphopt.targets.x86 import X86


def winograd(op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> Lowered | None:
    """The kernel of a convolution that is faster so than directly; None for others, and where x is read row-major."""
    conv = Convolution(op, inner, sources, name, style, machine)
    plan = style.pick("algorithm", algorithms(op, inner, machine))
    if not isinstance(plan, Plan) or not conv.packable(conv.w):
        return None
    pixels = pixels_of(conv, plan.tile.lanes)
    if pixels.planar or (pixels.in_place and conv.outside(conv.x).type.layout is None):  # type: ignore[union-attr]
        return None
    return Winograd(conv, pixels, plan).build()


class Winograd:
    """The kernel for one plan."""

    def __init__(self, conv: Convolution, pixels: Pixels, plan: Plan) -> None:
        self.conv, self.problem, self.pixels, self.plan, self.transform = conv, conv.problem, pixels, plan, Transform(plan.m)
        p, tile, n = conv.problem, plan.tile, plan.m + 2
        self.lanes = tile.lanes
        self.down, self.across = (ceil_div(ceil_div(size, d), plan.m) for size, d in zip(p.pixels_shape, p.dilation))
        self.panels = -(-p.outs // tile.columns)
        starts = [first_channels(panel, p.outs, tile) for panel in range(self.panels)]
        self.right = conv.pack(conv.w, _pack(self.transform, p.groups, p.outs, p.channels, starts, tile), conv.dtype)
        # Scratch lies [vector of channels][n*n][image tile][lane]: what a transform touches shares few pages, and an odd
        # number of cache lines between the n*n keeps them in different sets of L1.
        line = conv.costs.line // conv.dtype.itemsize
        self.spacing = (-(-plan.block * self.lanes // line) | 1) * line
        self.chunk = n * n * self.spacing
        self.chunks = -(-p.channels // self.lanes)
        self.workers = plan.grid[0] * plan.grid[1]
        self.left = Buffer("left", conv.dtype, (self.workers * self.chunks * self.chunk,))
        self.sums = Buffer("sums", conv.dtype, (self.workers * tile.vectors * self.chunk,))
        conv.scratch += [self.left, self.sums]

    def build(self) -> Lowered:
        conv, body = self.conv, loop(self.workers, self.share, Scope.PARALLEL, "w")
        return conv.finish(seq(*conv.sources.borders(conv.style), *self.pixels.copied, body))

    def share(self, worker: Expr) -> Stmt:
        """What one thread does."""
        plan, n = self.plan, self.plan.m + 2
        along, across = plan.grid
        row, column = worker // across, worker % across
        count = self.problem.batch * math.prod(self.problem.dilation) * self.down * self.across
        first = column * self.panels // across
        panels = (column + 1) * self.panels // across - first
        left, sums = worker * (self.chunks * self.chunk), worker * (plan.tile.vectors * self.chunk)

        def block(g: Expr, k: Expr) -> Stmt:
            start = minimum((row * plan.blocks + k) * count // (along * plan.blocks), count - plan.block)

            def panel(p: Expr) -> Stmt:
                products = loop(n * n, lambda xi: self.product(xi, g * self.panels + first + p, left, sums), name="xi")
                back = loop(plan.tile.vectors, lambda v: loop(plan.block, lambda t: self.at(
                    start + t, lambda *at: self.output(at, g, first + p, v, sums, t)), name="t"), name="v")
                return seq(products, back)

            ahead = loop(self.chunks, lambda c: loop(plan.block, lambda t: self.at(
                start + t, lambda *at: self.input(at, g, c, left, t)), name="t"), name="c")
            return seq(ahead, loop(panels, panel, name="panel"))

        return nest((self.problem.groups, plan.blocks), block, ("g", "block"))

    def at(self, tile: Expr, body: Callable[[Expr, Expr, Expr, Expr, Expr], Stmt]) -> Stmt:
        """`body(image, y, x, skip_y, skip_x)`: where an image tile begins, and how many of its rows and columns its
        neighbours store."""
        bound: list[tuple[Var, Expr]] = []

        def bind(name: str, value: Expr, most: int) -> Expr:
            if isinstance(value, Const):
                return value
            bound.append((Var(name, INDEX, 0, most), value))
            return bound[-1][0]

        def along(name: str, size: int, dilation: int, phase: Expr, step: Expr) -> tuple[Expr, Expr]:
            """The tile's first pixel along an axis, and how many neighbours store: the last tile ends with its phase."""
            m = self.plan.m
            last = (size - 1 - phase) // dilation + 1 - m
            begin = bind(name, minimum(step * m, last), -(-size // dilation) - m)
            whole = size % (dilation * m) == 0
            return begin * dilation + phase, const(0, INDEX) if whole else step * m - begin

        (height, width), (down, across) = self.problem.pixels_shape, self.problem.dilation
        image = bind("image", tile // (self.down * self.across * down * across), self.problem.batch - 1)
        index = tile // (self.down * self.across)
        row = bind("row", index // across % down, down - 1)
        column = bind("column", index % across, across - 1)
        y, skip_y = along("y", height, down, row, tile // self.across % self.down)
        x, skip_x = along("x", width, across, column, tile % self.across)
        inside = body(image, y, x, skip_y, skip_x)
        for var, value in reversed(bound):
            inside = Let(var, value, inside)
        return inside

    def _registers(self, name: str, count: int) -> Registers:
        return Registers(name, self.conv.dtype, self.lanes, count)

    # The three steps ---------------------------------------------------------------------------------------------
    def input(self, at: Sequence[Expr], g: Expr, c: Expr, left: Expr, t: Expr) -> Stmt:
        """B^T d B of one tile and one vector of a group's channels."""
        image, y, x, *_ = at
        n, (down, across) = self.transform.n, self.problem.dilation
        c0 = g * self.problem.channels + minimum(c * self.lanes, self.problem.channels - self.lanes)
        to = left + c * self.chunk + t * self.lanes
        half = self._registers("half", n * n)

        def column(j: int) -> Stmt:
            given = self._registers("d", n)

            def read(i: int) -> Stmt:
                return given.set(i, lambda l: self.pixels.at(
                    image, c0 + l, [y + i * down - self.problem.before[0], x + j * across - self.problem.before[1]]))

            return given.alive([*map(read, range(n)), *input_row(self.transform, given, 0, half, j, n)])

        def row(i: int) -> Stmt:
            whole = self._registers("whole", n)

            def save(j: int) -> Stmt:
                return vector(self.lanes, lambda l: [store(self.left, to + (i * n + j) * self.spacing + l, whole.get(j, l))])

            return whole.alive([*input_row(self.transform, half, i * n, whole, 0, 1), *map(save, range(n))])

        return half.alive([*map(column, range(n)), *map(row, range(n))])

    def product(self, xi: Expr, panel: Expr, left: Expr, sums: Expr) -> Stmt:
        """One of the n*n products, for a block of tiles and a panel of output channels."""
        plan, n, tile, lanes = self.plan, self.transform.n, self.plan.tile, self.lanes
        depth = self.chunks * lanes
        here = (panel * (n * n) + xi) * (depth * tile.columns)
        count = -(-plan.block // tile.rows)

        def rows(r: Expr) -> Stmt:
            r0 = minimum(r * tile.rows, plan.block - tile.rows)

            def pixel(i: int, k: Sequence[Expr]) -> Expr:
                return self.left[left + k[0] * self.chunk + xi * self.spacing + (r0 + i) * lanes + k[1]]

            def weight(v: int, k: Sequence[Expr], l: Expr) -> Expr:
                return self.right[here + (k[0] * lanes + k[1]) * tile.columns + v * lanes + l]

            def write(i: int, v: int, l: Expr, value: Expr) -> list[Stmt]:
                return [store(self.sums, sums + v * self.chunk + xi * self.spacing + (r0 + i) * lanes + l, value)]

            def ahead(k: Sequence[Expr]) -> Stmt:
                """This matrix's weights come to L1 a little before they are used, a share of the next one's to L2."""
                at = k[0] * lanes + k[1]
                soon = here + (at + self.conv.costs.ahead) * tile.columns
                share = -(-tile.columns // count)
                later = here + depth * tile.columns + (r * depth + at) * share
                near = [Prefetch(self.right, soon + v * lanes, 1) for v in range(tile.vectors)]
                return seq(*near, Prefetch(self.right, later, 2))

            return self.conv.block(tile, (self.chunks, lanes), pixel, weight, None, write, lanes, hint=ahead)

        return loop(count, rows, name="r")

    def output(self, at: Sequence[Expr], g: Expr, panel: Expr, v: Expr, sums: Expr, t: Expr) -> Stmt:
        """A^T s A of one tile and one vector of output channels, and what follows the convolution."""
        image, y, x, skip_y, skip_x = at
        m, n, lanes, tile = self.plan.m, self.plan.m + 2, self.lanes, self.plan.tile
        if self.problem.outs <= tile.columns:
            channel = minimum(v * lanes, self.problem.outs - lanes)
        else:
            channel = minimum(panel * tile.columns, self.problem.outs - tile.columns) + v * lanes
        channel, (down, across) = g * self.problem.outs + channel, self.problem.dilation

        def write(i: ExprLike, j: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            if self.conv.bias is not None:
                value = self.conv.added(channel + l) + value
            return self.conv.put([image, channel + l, y + as_expr(i) * down, x + as_expr(j) * across], value)

        of = sums + v * self.chunk + t * lanes
        half, pixels = self._registers("half", m * n), self._registers("pixels", m * m)

        def column(j: int) -> Stmt:
            given = self._registers("s", n)

            def read(i: int) -> Stmt:
                return given.set(i, lambda l: self.sums[of + (i * n + j) * self.spacing + l])

            return given.alive([*map(read, range(n)), output_row(self.transform, given, 0, half, j, n)])

        rows = [output_row(self.transform, half, i * n, pixels, i * m, 1) for i in range(m)]
        store_all = self.pixels_out(pixels, skip_y, skip_x, write)
        return half.alive([pixels.alive([*map(column, range(n)), *rows, store_all])])

    def pixels_out(self, pixels: Registers, skip_y: Expr, skip_x: Expr,
                   write: Callable[[ExprLike, ExprLike, Expr, Expr], list[Stmt]]) -> Stmt:
        """Store a tile: all at once from registers where all of it is its own and the epilogue is short, else in a loop
        over the rest of its rows and columns, through memory."""
        m, lanes = self.plan.m, self.lanes
        memory = Buffer("tile", self.conv.dtype, (m * m * lanes,), Space.LOCAL)

        def spill(i: int) -> Stmt:
            return vector(lanes, lambda l: [store(memory, i * lanes + l, pixels.get(i, l))])

        def one(i: Expr, j: Expr) -> Stmt:
            y, x = i + skip_y, j + skip_x
            return vector(lanes, lambda l: write(y, x, l, memory[(y * m + x) * lanes + l]))

        def straight(i: int) -> Stmt:
            return vector(lanes, lambda l: write(i // m, i % m, l, pixels.get(i, l)))

        rest = loop(m - skip_y, lambda i: loop(m - skip_x, lambda j: one(i, j), name="j"), name="i")
        part = Alloc(memory, seq(*map(spill, range(m * m)), rest))
        if self.conv.is_long(lanes, lambda lane, value: write(0, 0, lane, value)):
            return part
        whole = seq(*map(straight, range(m * m)))
        skip = skip_y + skip_x
        return whole if isinstance(skip, Const) else If(skip.eq(0), whole, part)


def _pack(f: Transform, groups: int, outs: int, channels: int, starts: list[list[int]], tile: Tile) -> Packing:
    """[group][panel][row, column of the transform][channel][output]. Zeros for channels that the last vector has again."""
    columns = [np.concatenate([s + np.arange(tile.lanes) for s in panel]) for panel in starts]
    g = f.weights()
    depth = -(-channels // tile.lanes) * tile.lanes
    rows = np.arange(channels)
    rows[depth - tile.lanes:] += depth - channels

    def parts(w: np.ndarray) -> Iterator[np.ndarray]:
        for group in w.reshape(groups, outs, *w.shape[1:]):
            for c in columns:
                panel = np.zeros((f.n, f.n, depth, tile.columns), np.float32)
                panel[:, :, rows] = np.einsum("ia,ocab,jb->ijco", g, group[c].astype(np.float64), g, optimize=True)
                yield panel

    return Packing(f"winograd{f.m} {groups} {tile}", groups * len(starts) * f.n * f.n * depth * tile.columns * 4, parts)


__all__ = ["winograd"]
