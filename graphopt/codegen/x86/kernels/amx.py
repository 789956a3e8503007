"""The register block on AMX's tiles: sums of 16 rows by 16 columns in each of up to four, over the whole loop of k.

Two tiles of the left operand's rows and two of the right one's columns make four products, so that each waits for one load. The
left is read in place, rows at any stride; the right is packed like any other: `depth` elements of k of each column side by
side. Sums go through memory, since no instruction reads a tile but another one of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Const,
    Expr,
    ExprLike,
    Load,
    Var,
    as_expr,
    const,
    free_vars,
    linear,
    substitute,
)
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import (
    Alloc,
    For,
    If,
    Stmt,
    TileDot,
    TileLoad,
    Tiles,
    TileStore,
    TileZero,
    nest,
    seq,
    store,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.x86.isa import Row
from graphopt.errors import CodegenError

if TYPE_CHECKING:
    from graphopt.codegen.x86.kernels.tile import Pending, Tile


def tile_block(row: Row, tile: Tile, depths: Sequence[ExprLike], a: Callable[[int, Sequence[Expr]], Expr],
               b: Callable[[int, Sequence[Expr], Expr], Expr], start: Callable[[int, int, Expr], Expr] | None,
               write: Callable[[int, int, Expr, Expr], list[Stmt]] | None, count: int, drain: Callable[[Buffer], Stmt] | None,
               hint: Callable[[Sequence[Expr]], Stmt] | None, pending: Pending | None) -> Stmt:
    """`register_block` (see kernels/tile.py) by a row of tiles; `tile.lanes` is the columns of one."""
    assert row.tile is not None
    most, line = row.tile
    groups = [min(most, tile.rows - first) for first in range(0, tile.rows, most)]
    if len(groups) * tile.vectors + len(groups) + tile.vectors > row.registers or tile.lanes > row.lanes:
        raise CodegenError(f"{tile.rows} rows by {tile.vectors} vectors of {tile.lanes} lanes on {row.registers} tiles",
                           hint="At most 32 rows by 2 vectors of 16 lanes")
    words = _words(depths[-1], row, line)
    deep, width, columns = words * row.depth, tile.lanes, tile.vectors * tile.lanes
    left = [Buffer(f"left{g}", row.a, (m, deep), Space.TILE) for g, m in enumerate(groups)]
    right = [Buffer(f"right{v}", row.b, (words, width * row.depth), Space.TILE) for v in range(tile.vectors)]
    sums = [[Buffer(f"sums{g}_{v}", row.acc, (m, width), Space.TILE) for v in range(tile.vectors)] for g, m in enumerate(groups)]
    memory = Buffer("block", row.acc, (tile.rows * columns,), Space.LOCAL)
    whole, whole_lanes = const(columns, INDEX), const(width, INDEX)

    def each(move: Callable[[Buffer, Expr], Stmt]) -> Stmt:
        """Something with each tile of sums and its place in the block."""
        return seq(*(move(sums[g][v], const(g * most * columns + v * width, INDEX))
                     for g in range(len(groups)) for v in range(tile.vectors)))

    def elements(of: Callable[[Expr, Expr, Expr], Sequence[Stmt]], count: int) -> Stmt:
        def vector(i: Expr, v: Expr) -> Stmt:
            lane, scope = Var("l", INDEX, 0, count - 1), Scope.VECTOR if count == width else Scope.SERIAL
            return seq(*(For(lane, const(count, INDEX), s, scope) for s in of(i, v, lane)))

        return nest((tile.rows, tile.vectors), vector, ("i", "v"), Scope.FEW)

    at = lambda i, v, l: i * columns + v * width + l
    first = each(lambda t, _: TileZero(t))
    if start is not None:
        given = start
        lanes = [(i, v, Var("l", INDEX, 0, width - 1)) for i in range(tile.rows) for v in range(tile.vectors)]
        fill = [For(l, whole_lanes, store(memory, at(i, v, l), given(i, v, l)), Scope.VECTOR) for i, v, l in lanes]
        first = seq(*fill, each(lambda t, place: TileLoad(t, memory, place, whole)))
    if pending is not None:
        waiting = pending
        first = If(waiting.first, first, each(lambda t, place: TileLoad(t, waiting.sums, waiting.base + place, whole)))

    def multiply(*k: Expr) -> Stmt:
        at_first = (*k[:-1], k[-1] * deep)
        load_b = [TileLoad(t, *_rows(row, v, at_first, b)) for v, t in enumerate(right)]
        load_a = [TileLoad(t, *_left(row, g * most, groups[g], at_first, a)) for g, t in enumerate(left)]
        dots = [TileDot(sums[g][v], left[g], right[v], row) for g in range(len(groups)) for v in range(tile.vectors)]
        return seq(*([] if hint is None else [hint(at_first)]), *load_b, *load_a, *dots)

    count_of = as_expr(depths[-1])
    assert isinstance(count_of, Const)
    step = nest((*depths[:-1], count_of.value // deep), multiply, ("k", "kh", "kw"))
    end = each(lambda t, place: TileStore(t, memory, place, whole))
    if pending is not None:
        end = If(waiting.last, end, each(lambda t, place: TileStore(t, waiting.sums, waiting.base + place, whole)))
    registers = (*(t for g in sums for t in g), *left, *right)
    if drain is not None:
        after = drain(memory)
    else:
        assert write is not None
        out = write
        after = elements(lambda i, v, l: out(i, v, l, memory[at(i, v, l)]), count)  # type: ignore[arg-type]
    if pending is not None:
        after = If(waiting.last, after)
    return Alloc(memory, seq(Tiles(registers, seq(first, step, end)), after))


def _words(depth: ExprLike, row: Row, line: int) -> int:
    """Words of k a step: the most that fill a tile and divide the depth."""
    count = as_expr(depth)
    if not isinstance(count, Const) or count.value % row.depth:
        raise CodegenError(f"{row.name} takes {row.depth} elements of k at once, of {depth!r}", hint="Pack k up to a multiple")
    words = count.value // row.depth
    return next(n for n in range(line // 4, 0, -1) if words % n == 0) if words else 1


def _left(row: Row, first: int, rows: int, k: Sequence[Expr],
          a: Callable[[int, Sequence[Expr]], Expr]) -> tuple[Buffer, Expr, Expr]:
    """Where rows of the left operand lie: buffer, first element, stride."""
    s = Var("s", INDEX, 0, row.depth - 1)
    buffer, at = _place(row, a(first, (*k[:-1], k[-1] + s)), row.a, {s: 1})
    return buffer, at, _stride(row, at, [_place(row, a(first + i, k), row.a, {})[1] for i in range(1, rows)])


def _rows(row: Row, v: int, k: Sequence[Expr], b: Callable[[int, Sequence[Expr], Expr], Expr]) -> tuple[Buffer, Expr, Expr]:
    """Where words of k of the right operand lie, a row of a tile each: buffer, first element, stride."""
    s, l = Var("s", INDEX, 0, row.depth - 1), Var("l", INDEX, 0, row.lanes - 1)
    buffer, at = _place(row, b(v, (*k[:-1], k[-1] + s), l), row.b, {s: 1, l: row.depth})
    zero = const(0, INDEX)
    nexts = [_place(row, b(v, (*k[:-1], k[-1] + row.depth), zero), row.b, {})[1]]
    return buffer, at, _stride(row, at, nexts)


def _place(row: Row, e: Expr, d: object, along: dict[Var, int]) -> tuple[Buffer, Expr]:
    """The buffer of an element, and where it lies with 0 for the variables, along which it must move by so many elements."""
    if not isinstance(e, Load) or e.dtype is not d:
        raise CodegenError(f"{row.name} takes {d} from memory, not {e!r}", hint="Store it in a buffer first")
    at = flat_index(e.index, e.buffer.shape)
    coefficients, rest, _ = linear(at)
    if any(coefficients.get(v, 0) != n or any(v in free_vars(r) for r in rest) for v, n in along.items()):
        raise CodegenError(f"{row.name} takes {row.depth} elements of k side by side, not {e!r}", hint="Pack the operand so")
    return e.buffer, substitute(at, {v: const(0, INDEX) for v in along})


def _stride(row: Row, first: Expr, others: Sequence[Expr]) -> Expr:
    """Elements from one row to the next."""
    steps = [b - a for a, b in zip([first, *others], others)]
    if any(s is not steps[0] for s in steps):
        raise CodegenError(f"{row.name} takes rows at one stride, not {steps!r} elements apart", hint="Copy the operand first")
    return steps[0] if steps else const(0, INDEX)


__all__ = ["tile_block"]
