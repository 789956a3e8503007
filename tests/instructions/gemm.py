"""A small matrix product through the register block, by whichever row of the table of instructions."""

from __future__ import annotations

import numpy as np

from graphopt.codegen.kernel.expr import Buffer, Expr, ExprLike, as_expr, cast, const, minimum
from graphopt.codegen.kernel.loops import Kernel, Prefetch, Stmt, loop, nest, seq, store
from graphopt.codegen.kernel.verify import verify
from graphopt.codegen.x86.isa import Row
from graphopt.codegen.x86.kernels.tile import Pending, Tile, column_of, columns_of, register_block


def tile_for(row: Row, m: int, n: int) -> Tile:
    """Several accumulators each way, with remainders."""
    return Tile(min(m, 24 if row.tile else 3), 2 if n > row.lanes else 1, row.lanes)


def padded(row: Row, k: int) -> int:
    """Elements of k that whole steps take."""
    step = row.tile[1] // (row.a.bits // 8) if row.tile else row.depth
    return -(-k // step) * step


def gemm(row: Row, m: int, n: int, k: int, start: bool = False, blocks: int = 1, drained: bool = False, turns=(1, 1)) -> Kernel:
    """out[m, n] = (c[m, n] where `start`) + a[m, k] @ b; b as `pack` leaves it. `blocks`: parts of k between which sums wait in
    memory; `drained`: sums go through memory to the result; `turns`: see `register_block`."""
    tile, deep = tile_for(row, m, n), padded(row, k)
    panels = -(-n // tile.columns)
    a = Buffer("a", row.a, (m * k,))
    b = Buffer("b", row.b, (panels * deep * tile.columns,))
    c = Buffer("c", row.acc, (m * n,))
    out = Buffer("out", row.acc, (m * n,))
    left = Buffer("left", row.a, (m * deep,))
    tiles, part = -(-m // tile.rows), deep // blocks
    assert part * blocks == deep and part % row.depth == 0
    sums = Buffer("sums", row.acc, (tiles * panels * tile.rows * tile.columns,))
    copy = loop(m, lambda i: seq(loop(k, lambda j: store(left, i * deep + j, a[i * k + j]), name="j"),
                                 loop(deep - k, lambda j: store(left, i * deep + k + j, cast(const(0, "f32"), row.a)), name="j")))

    def block(d: Expr, mt: Expr, pt: Expr) -> Stmt:
        m0 = minimum(mt * tile.rows, m - tile.rows)
        place = lambda i, v, l: (m0 + i) * n + column_of(pt, v, n, tile) + l

        def right(v: int, at: tuple[Expr, ...], l: Expr) -> Expr:
            of = d * part + at[0]
            word, within = of // row.depth, of % row.depth
            return b[(pt * deep + word * row.depth) * tile.columns + (v * tile.lanes + l) * row.depth + within]

        def write(i: ExprLike, v: ExprLike, l: Expr, value: Expr) -> list[Stmt]:
            return [store(out, place(as_expr(i), v, l), value)]

        given = (lambda i, v, l: c[minimum(place(i, v, l), m * n - 1)]) if start else None
        def drain(memory: Buffer) -> Stmt:
            return nest((tile.rows, tile.vectors, min(n, tile.lanes)), lambda i, v, l: seq(
                *write(i, v, l, memory[(i * tile.vectors + v) * tile.lanes + l])))

        rows = lambda i, at: left[(m0 + i) * deep + d * part + at[0]]
        base = (mt * panels + pt) * (tile.rows * tile.columns)
        pending = Pending(sums, base, d.eq(0), d.eq(blocks - 1)) if blocks > 1 else None
        hint = lambda at: Prefetch(b, (pt * deep + d * part + at[0] + 8) * tile.columns, 1)
        return register_block(row, tile, (part,), rows, right, given, None if drained else write, min(n, tile.lanes),
                              drain if drained else None, hint if drained else None, pending, turns)

    body = seq(copy, nest((blocks, tiles, panels), block, ("d", "m", "p")))
    kernel = Kernel("gemm", (a, b, c, out, left, *([sums] if blocks > 1 else [])), body, 3, 1)
    verify(kernel)
    return kernel


def pack(row: Row, b: np.ndarray) -> np.ndarray:
    """b [k, n] in panels of the tile's columns, the elements of a step side by side."""
    k, n = b.shape
    tile, deep = tile_for(row, 1, n), padded(row, k)
    columns = columns_of(n, tile)  # [panels, columns]
    whole = np.zeros((deep, n + 1), b.dtype)
    whole[:k, :n] = b
    steps = whole[:, columns].reshape(deep // row.depth, row.depth, *columns.shape)
    return np.ascontiguousarray(steps.transpose(2, 0, 3, 1)).ravel()


def meant(row: Row, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """c + a @ b by the row's meaning, written down here as the manual has it: one step after the other, from k = 0 on."""
    deep = padded(row, a.shape[1])
    a = np.concatenate([a, np.zeros((a.shape[0], deep - a.shape[1]), a.dtype)], 1)
    b = np.concatenate([b, np.zeros((deep - b.shape[0], b.shape[1]), b.dtype)])
    out = c.copy()
    if row.tile:
        width = row.tile[1] // (row.a.bits // 8)
        for k in range(0, deep, width):
            words = b[k:k + width].reshape(width // row.depth, row.depth, -1).transpose(0, 2, 1).reshape(width // row.depth, -1)
            out = row.meaning(out, a[:, k:k + width], words)
        return out
    for k in range(0, deep, row.depth):
        x, y = a[:, None, k:k + row.depth], b[k:k + row.depth].T[None]
        shape = (*c.shape, row.depth)
        out = row.meaning(out, np.broadcast_to(x, shape), np.broadcast_to(y, shape))
    return out


def operands(row: Row, m: int, n: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a [m, k], b [k, n] and c [m, n]: integers over their whole range; floats with denormals, and sums that cancel."""
    def draw(d, *shape: int) -> np.ndarray:
        if d.is_integer:
            info = np.iinfo(d.numpy)
            return rng.integers(info.min, info.max, shape, d.numpy, endpoint=True)
        x = rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)
        tiny = rng.random(shape)
        x = np.where(tiny < 0.05, x * 2.0**-130, np.where(tiny < 0.1, x * 2.0**-63, x))
        return x.astype(np.float32).astype(d.numpy)

    return draw(row.a, m, k), draw(row.b, k, n), draw(row.acc, m, n)


__all__ = ["gemm", "meant", "operands", "pack", "padded", "tile_for"]
