"""Windows of stride 1 over row-major images: where output pixels are numbered along the padded plane, the right operand is a
slice of it, shifted by the window's position, and nothing is copied but the padding. The few columns between rows are computed
and dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Var, const, maximum, minimum
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import For, Stmt, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.kernels import Lowered
from graphopt.codegen.x86.kernels.conv.images import Pixels, RowMajor, weight_at
from graphopt.codegen.x86.kernels.tile import Tile, result_tiles


class Sliding:
    """The kernel for one tile."""

    def __init__(self, conv: RowMajor) -> None:
        self.conv, self.problem = conv, conv.problem
        p = self.problem
        self.tile: Tile = conv.style.pick("tile", result_tiles(p.outs, p.span, conv.lanes, conv.machine))
        self.row_tiles, self.panels = -(-p.outs // self.tile.rows), -(-p.span // self.tile.columns)
        self.left = conv.pack_left(self.tile.rows)
        self.pad, self.source = conv.image(self.tile.columns)

    def build(self) -> Lowered:
        p = self.problem
        tasks = p.images * self.panels * self.row_tiles
        effort = self.conv.effort(p.multiply_adds)
        return self.conv.finish(seq(self.pad, self.conv.spread(tasks, effort, lambda worker, t: self.task(t))))

    def task(self, t: Expr) -> Stmt:
        """One tile: rows of output channels, columns of the padded plane."""
        p, conv, tile = self.problem, self.conv, self.tile
        row_tile, panel, image = t % self.row_tiles, t // self.row_tiles % self.panels, t // (self.row_tiles * self.panels)
        group, b = image % p.groups, image // p.groups
        m0 = minimum(row_tile * tile.rows, p.outs - tile.rows)
        n0 = minimum(panel * tile.columns, max(p.span - tile.columns, 0))

        def weight(i: int, k: Sequence[Expr]) -> Expr:
            return weight_at(conv, self.left, tile, group, row_tile, m0, i, flat_index(k, (p.channels, *p.window)))

        def start(i: int, v: int, lane: Expr) -> Expr:
            return conv.added(group * p.outs + m0 + i)

        return conv.block(tile, (p.channels, *p.window), weight, self._pixel(self.source, b, group, n0), start,
                          drain=lambda block: self._drain(block, b, group * p.outs + m0, n0))

    def _pixel(self, source: Pixels, b: Expr, group: Expr, n0: Expr) -> Callable[[int, Sequence[Expr], Expr], Expr]:
        p, tile = self.problem, self.tile
        zeros = [const(0, INDEX)] * (len(p.padded) - 1)

        def pixel(v: int, k: Sequence[Expr], lane: Expr) -> Expr:
            shift = flat_index([o * d for o, d in zip(k[1:], p.dilation)], p.padded)
            return source(b, group * p.channels + k[0], [*zeros, shift + n0 + v * tile.lanes + lane])

        return pixel

    def _drain(self, block: Buffer, b: Expr, channel: Expr, n0: Expr) -> Stmt:
        """Store a tile: of each row of the plane that its columns touch, those that are output pixels."""
        p, conv, columns = self.problem, self.conv, self.tile.columns
        wide, across = p.padded[-1], p.pixels_shape[-1]
        is_plane = len(p.pixels_shape) == 2
        height = p.pixels_shape[0] if is_plane else 1

        def stretch(i: Expr, r: Expr) -> Stmt:
            y = n0 // wide + r
            first = maximum(y * wide - n0, 0)
            end = minimum(minimum(y * wide + across, p.span) - n0, columns)
            x = Var("x", INDEX, 0, min(across, columns) - 1)
            lane = first + x
            place = [b, channel + i, *([y] if is_plane else []), n0 + lane - y * wide]
            stores = [store(o, offset, value) for o, offset, value in conv.epilogue(place, block[i * columns + lane])]
            return For(x, maximum(end - first, 0), seq(*stores), Scope.SERIAL)

        return nest((self.tile.rows, (columns - 1) // wide + 2 if height > 1 else 1), stretch, ("i", "r"))


__all__ = ["Sliding"]
