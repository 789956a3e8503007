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

from graphopt.codegen.kernel.expr import INDEX, Buffer, Const, Expr, ExprLike, Var, as_expr, const, fma, minimum
from graphopt.codegen.kernel.loops import Alloc, For, If, Let, Prefetch, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.kernels import Lowered, Packing
from graphopt.codegen.x86.kernels.conv.channels_last import ChannelsLast, first_channels
from graphopt.codegen.x86.kernels.conv.winograd_plan import Plan, Transform, algorithms
from graphopt.codegen.x86.kernels.tile import Tile
from graphopt.ir.dims import ceil_div


class Winograd(ChannelsLast):
    """A convolution that is faster so than directly."""

    def build(self) -> Lowered | None:
        x, w, self.bias = (*self.inner.operands, None)[:3]
        assert x is not None and w is not None
        plan = self.style.pick("algorithm", algorithms(self.op, self.inner, self.machine))
        if not isinstance(plan, Plan) or not self.packable(w):
            return None
        self.plan = plan
        self.transform = Transform(plan.m)
        attrs = self.inner.attrs
        self.groups = attrs["groups"]
        self.batch, outs, *self.pixels_shape = self.inner.result.static_shape  # type: ignore[assignment]
        self.outs, self.channels, self.window = outs // self.groups, w.static_shape[1], w.static_shape[2:]
        self.stride, self.dilation, self.before = (1, 1), tuple(attrs["dilation"]), attrs["pad"][:2]
        self.lanes = plan.tile.lanes
        self.read(x)
        if self.planar or (self.direct and self.x_type.layout is None):
            return None
        tile, m, n = plan.tile, plan.m, plan.m + 2
        self.down, self.across = (ceil_div(ceil_div(size, d), m) for size, d in zip(self.pixels_shape, self.dilation))
        self.panels = -(-self.outs // tile.columns)
        starts = [first_channels(p, self.outs, tile) for p in range(self.panels)]
        self.right = self.pack(w, _pack(self.transform, self.groups, self.outs, self.channels, starts, tile), self.dtype)
        # Scratch lies [vector of channels][n*n][image tile][lane]: what a transform touches shares few pages, and an odd
        # number of cache lines between the n*n keeps them in different sets of L1.
        line = self.costs.line // self.dtype.itemsize
        self.spacing = (-(-plan.block * self.lanes // line) | 1) * line
        self.chunk = n * n * self.spacing
        self.chunks = -(-self.channels // self.lanes)
        workers = plan.grid[0] * plan.grid[1]
        self.left = Buffer("left", self.dtype, (workers * self.chunks * self.chunk,))
        self.sums = Buffer("sums", self.dtype, (workers * tile.vectors * self.chunk,))
        self.scratch += [self.left, self.sums]
        return self.finish(seq(*self.sources.borders(self.style), *self.copied, loop(workers, self.share, Scope.PARALLEL, "w")))

    def share(self, worker: Expr) -> Stmt:
        """What one thread does."""
        plan, n = self.plan, self.plan.m + 2
        along, across = plan.grid
        row, column = worker // across, worker % across
        count = self.batch * math.prod(self.dilation) * self.down * self.across
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

        return nest((self.groups, plan.blocks), block, ("g", "block"))

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

        (height, width), (down, across) = self.pixels_shape, self.dilation
        image = bind("image", tile // (self.down * self.across * down * across), self.batch - 1)
        index = tile // (self.down * self.across)
        row = bind("row", index // across % down, down - 1)
        column = bind("column", index % across, across - 1)
        y, skip_y = along("y", height, down, row, tile // self.across % self.down)
        x, skip_x = along("x", width, across, column, tile % self.across)
        inside = body(image, y, x, skip_y, skip_x)
        for var, value in reversed(bound):
            inside = Let(var, value, inside)
        return inside

    # The three steps ---------------------------------------------------------------------------------------------
    def input(self, at: Sequence[Expr], g: Expr, c: Expr, left: Expr, t: Expr) -> Stmt:
        """B^T d B of one tile and one vector of a group's channels."""
        image, y, x, *_ = at
        n, (down, across) = self.transform.n, self.dilation
        c0 = g * self.channels + minimum(c * self.lanes, self.channels - self.lanes)
        to = left + c * self.chunk + t * self.lanes
        half = Registers("half", self, n * n)

        def column(j: int) -> Stmt:
            given = Registers("d", self, n)

            def read(i: int) -> Stmt:
                return given.set(i, lambda l: self.pixel(
                    image, c0 + l, [y + i * down - self.before[0], x + j * across - self.before[1]]))

            return given.alive([*map(read, range(n)), *self.input_row(given, 0, half, j, n)])

        def row(i: int) -> Stmt:
            whole = Registers("whole", self, n)

            def save(j: int) -> Stmt:
                return self.vector(lambda l: [store(self.left, to + (i * n + j) * self.spacing + l, whole.get(j, l))])

            return whole.alive([*self.input_row(half, i * n, whole, 0, 1), *map(save, range(n))])

        return half.alive([*map(column, range(n)), *map(row, range(n))])

    def input_row(self, d: Registers, first: int, out: Registers, to: int, step: int) -> list[Stmt]:
        """B^T times n elements of d, to out."""
        f, n = self.transform, self.transform.n

        def polynomial(k: int, l: Expr, coefficients: np.ndarray) -> Expr:
            return _sum([(float(c), d.get(first + k + 2 * i, l)) for i, c in enumerate(coefficients)])

        def points(k: int, p: float) -> Stmt:
            """The rows of +p and -p, which differ in the sign of the odd powers."""
            pair = Registers("pair", self, 2)

            def one(s: int) -> Stmt:
                factor = -p if s else p
                return out.set(to + (1 + 2 * k + s) * step, lambda l: _sum([(1.0, pair.get(0, l)), (factor, pair.get(1, l))]))

            even = pair.set(0, lambda l: polynomial(2, l, f.even(p)))
            odd = pair.set(1, lambda l: polynomial(1, l, f.even(p)))
            return pair.alive([even, odd, one(0), one(1)])

        return [out.set(to, lambda l: polynomial(0, l, f.even())), *(points(k, p) for k, p in enumerate(f.points)),
                out.set(to + (n - 1) * step, lambda l: polynomial(1, l, f.even()))]

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
                soon = here + (at + self.costs.ahead) * tile.columns
                share = -(-tile.columns // count)
                later = here + depth * tile.columns + (r * depth + at) * share
                near = [Prefetch(self.right, soon + v * lanes, 1) for v in range(tile.vectors)]
                return seq(*near, Prefetch(self.right, later, 2))

            return self.block(tile, (self.chunks, lanes), pixel, weight, None, write, lanes, hint=ahead)

        return loop(count, rows, name="r")

    def output(self, at: Sequence[Expr], g: Expr, panel: Expr, v: Expr, sums: Expr, t: Expr) -> Stmt:
        """A^T s A of one tile and one vector of output channels, and what follows the convolution."""
        image, y, x, skip_y, skip_x = at
        m, n, lanes, tile = self.plan.m, self.plan.m + 2, self.lanes, self.plan.tile
        if self.outs <= tile.columns:
            channel = minimum(v * lanes, self.outs - lanes)
        else:
            channel = minimum(panel * tile.columns, self.outs - tile.columns) + v * lanes
        channel, (down, across) = g * self.outs + channel, self.dilation

        def write(i: ExprLike, j: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            if self.bias is not None:
                value = self.element(self.bias, channel + l) + value
            place = [image, channel + l, y + as_expr(i) * down, x + as_expr(j) * across]
            return [store(o, offset, e) for o, offset, e in self.epilogue(place, value)]

        of = sums + v * self.chunk + t * lanes
        half, pixels = Registers("half", self, m * n), Registers("pixels", self, m * m)

        def column(j: int) -> Stmt:
            given = Registers("s", self, n)

            def read(i: int) -> Stmt:
                return given.set(i, lambda l: self.sums[of + (i * n + j) * self.spacing + l])

            return given.alive([*map(read, range(n)), self.output_row(given, 0, half, j, n)])

        rows = [self.output_row(half, i * n, pixels, i * m, 1) for i in range(m)]
        store_all = self.pixels_out(pixels, skip_y, skip_x, write)
        return half.alive([pixels.alive([*map(column, range(n)), *rows, store_all])])

    def output_row(self, s: Registers, first: int, out: Registers, to: int, step: int) -> Stmt:
        """A^T times n elements of s, to out."""
        f, m, n = self.transform, self.transform.m, self.transform.n
        pairs = Registers("pairs", self, 2 * len(f.points))  # for each point the sum and the difference of +p and -p

        def pair(k: int) -> list[Stmt]:
            plus, minus = first + 1 + 2 * k, first + 2 + 2 * k
            return [pairs.set(2 * k, lambda l: s.get(plus, l) + s.get(minus, l)),
                    pairs.set(2 * k + 1, lambda l: s.get(plus, l) - s.get(minus, l))]

        def pixel(i: int) -> Stmt:
            ends = [first] if i == 0 else [first + n - 1] if i == m - 1 else []
            return out.set(to + i * step, lambda l: _sum([
                *((1.0, s.get(e, l)) for e in ends), *((p ** i, pairs.get(2 * k + i % 2, l)) for k, p in enumerate(f.points))]))

        return pairs.alive([*(x for k in range(len(f.points)) for x in pair(k)), *map(pixel, range(m))])

    def pixels_out(self, pixels: Registers, skip_y: Expr, skip_x: Expr,
                   write: Callable[[ExprLike, ExprLike, Expr, Expr], list[Stmt]]) -> Stmt:
        """Store a tile: all at once from registers where all of it is its own and the epilogue is short, else in a loop
        over the rest of its rows and columns, through memory."""
        m, lanes = self.plan.m, self.lanes
        memory = Buffer("tile", self.dtype, (m * m * lanes,), Space.LOCAL)

        def spill(i: int) -> Stmt:
            return self.vector(lambda l: [store(memory, i * lanes + l, pixels.get(i, l))])

        def one(i: Expr, j: Expr) -> Stmt:
            y, x = i + skip_y, j + skip_x
            return self.vector(lambda l: write(y, x, l, memory[(y * m + x) * lanes + l]))

        def straight(i: int) -> Stmt:
            return self.vector(lambda l: write(i // m, i % m, l, pixels.get(i, l)))

        rest = loop(m - skip_y, lambda i: loop(m - skip_x, lambda j: one(i, j), name="j"), name="i")
        part = Alloc(memory, seq(*map(spill, range(m * m)), rest))
        if self.is_long(lanes, lambda lane, value: write(0, 0, lane, value)):
            return part
        whole = seq(*map(straight, range(m * m)))
        skip = skip_y + skip_x
        return whole if isinstance(skip, Const) else If(skip.eq(0), whole, part)

    def vector(self, make: Callable[[Expr], Sequence[Stmt]]) -> Stmt:
        lane = Var("l", INDEX, 0, self.lanes - 1)
        return seq(*(For(lane, const(self.lanes, INDEX), s, Scope.VECTOR) for s in make(lane)))


class Registers:
    """Vectors by number, in a local buffer."""

    def __init__(self, name: str, kernel: Winograd, count: int) -> None:
        self.kernel = kernel
        self.buffer = Buffer(name, kernel.dtype, (count * kernel.lanes,), Space.LOCAL)

    def get(self, k: int, lane: Expr) -> Expr:
        return self.buffer[k * self.kernel.lanes + lane]

    def set(self, k: int, make: Callable[[Expr], Expr]) -> Stmt:
        return self.kernel.vector(lambda l: [store(self.buffer, k * self.kernel.lanes + l, make(l))])

    def alive(self, body: Sequence[Stmt]) -> Stmt:
        return Alloc(self.buffer, seq(*body))


def _sum(terms: Sequence[tuple[float, Expr]]) -> Expr:
    """The terms of factor 1 first, so that all others are multiply-adds."""
    total: Expr | None = None
    for factor, x in sorted((t for t in terms if t[0]), key=lambda t: t[0] != 1):
        if total is None:
            total = x if factor == 1 else x * const(factor, x.dtype)
        else:
            total = total + x if factor == 1 else fma(x, factor, total)
    assert total is not None
    return total


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
