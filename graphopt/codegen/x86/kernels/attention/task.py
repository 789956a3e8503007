"""What a task of attention does: a stretch of one head's queries past all keys, block by block (Dao et al. 2022, FlashAttention).

Scores come from the register block, their running maximum and sum follow (Milakov and Gimelshein 2018, online softmax), and the
weighted values are added up by the register block again. A block of keys is transposed, and one of values copied, into scratch
memory once for the whole stretch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphopt.codegen.kernel import math as vector_math
from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    Load,
    Var,
    binary,
    cast,
    const,
    maximum,
    minimum,
    postorder,
    select,
    unary,
)
from graphopt.codegen.kernel.loops import Alloc, For, If, Prefetch, Seq, Stmt, let, loop, nest, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.x86.kernels.attention.cut import Choice
from graphopt.codegen.x86.kernels.attention.operands import Operands
from graphopt.codegen.x86.kernels.square import transposed
from graphopt.codegen.x86.kernels.tile import Tile, apart


@dataclass(frozen=True)
class Memory:
    """Scratch memory: each buffer has `strides` elements for each worker."""

    buffers: dict[str, Buffer]
    strides: dict[str, int]

    @staticmethod
    def of(operands: Operands, choice: Choice, workers: int) -> Memory:
        """What the tasks of a choice need: packed keys and values, scores, of each row the maximum and the factor, and between
        blocks of keys the sums."""
        size, d = operands.shape.size, operands.dtype
        sizes = {"keys": choice.block_keys * size, "values": 0 if choice.values_in_place else choice.block_keys * choice.padded,
                 "scores": choice.cut.groups * choice.cut.tile * choice.block_keys, "most": choice.rows, "scale": choice.rows}
        if choice.blocks > 1:
            sizes["total"] = choice.rows * operands.lanes
        if not choice.direct:
            sizes["sums"] = choice.rows * choice.padded
        if operands.narrow:
            sizes["queries"] = choice.rows * size
        strides = {n: apart(max(size, 1), d, operands.costs) for n, size in sizes.items()}
        return Memory({n: Buffer(n, d, (workers * size,)) for n, size in strides.items()}, strides)


class Task:
    """Task `t`, done by a worker: a chunk of the rows of one part of an image."""

    def __init__(self, of: Operands, choice: Choice, memory: Memory, worker: Expr, t: Expr) -> None:
        self.of, self.choice, self.memory, self.shape = of, choice, memory, of.shape
        self.dtype, self.lanes, self.at = of.dtype, of.lanes, of.at
        self.base = {n: worker * size for n, size in memory.strides.items()}
        chunk, head = t % choice.chunks, t // choice.chunks
        self.part, self.b = head % choice.parts, head // choice.parts
        self.first = chunk * choice.rows
        self.key_head = self.part if choice.merged else self.part // self.shape.group

    def code(self) -> Stmt:
        if self.choice.blocks == 1:
            end = Seq(()) if self.choice.direct else self.write_out()
            return seq(self.pack_queries(), self.block_of_keys(const(0, INDEX)), end)
        return seq(self.pack_queries(), self.start(), For(*self.range_of_blocks()), self.write_out())

    def place(self, row: Expr) -> tuple[Expr, Expr]:
        """(head, query) of a row of the part."""
        if not self.choice.merged:
            return self.part, row
        return self.part * self.shape.group + row // self.shape.queries, row % self.shape.queries

    def range_of_blocks(self) -> tuple[Var, Expr, Stmt]:
        """The loop over blocks of keys; with causality, as far as the last query sees."""
        var = Var("block", INDEX, 0, self.choice.blocks - 1)
        count: Expr = const(self.choice.blocks, INDEX)
        if self.choice.causal:
            count = minimum(count, (self.first + (self.choice.rows - 1)) // self.choice.block_keys + 1)
        return var, count, self.block_of_keys(var)

    def row(self, i: ExprLike) -> Expr:
        """The task's i-th row; those beyond the last repeat it."""
        row = self.first + i
        return row if self.choice.chunks * self.choice.rows == self.choice.total else minimum(row, self.choice.total - 1)

    def get(self, name: str, offset: ExprLike) -> Expr:
        return self.memory.buffers[name][self.base[name] + offset]

    def put(self, name: str, offset: ExprLike, value: Expr) -> Stmt:
        return store(self.memory.buffers[name], self.base[name] + offset, value)

    def over(self, count: int, body: Callable[[Expr], Stmt], width: int = 0) -> Stmt:
        """A loop over `count` lanes' worth of elements, in vectors and a rest."""
        w = width or self.lanes
        parts = [loop(count // w, lambda n: self.vector(lambda l: body(n * w + l), w), Scope.SERIAL, "n")] if count >= w else []
        if count % w:
            parts.append(loop(count % w, lambda l: body(l + count // w * w), Scope.SERIAL, "l"))
        return seq(*parts)

    def vector(self, body: Callable[[Expr], Stmt], width: int = 0) -> Stmt:
        lane = Var("l", INDEX, 0, (width or self.lanes) - 1)
        return For(lane, const(width or self.lanes, INDEX), body(lane), Scope.VECTOR)

    def pack_queries(self) -> Stmt:
        """Halves become floats once."""
        if not self.of.narrow:
            return Seq(())

        def one(i: Expr) -> Stmt:
            head, s = self.place(self.row(i))
            size = self.shape.size
            return self.over(size, lambda d: self.put("queries", i * size + d, self.at(self.of.q, self.b, head, s, d)))

        return loop(self.choice.rows, one, Scope.SERIAL, "i")

    def start(self) -> Stmt:
        zero = const(0, self.dtype)
        return seq(loop(self.choice.rows, lambda i: self.put("most", i, const(-math.inf, self.dtype))),
                   self.over(self.choice.rows * self.lanes, lambda e: self.put("total", e, zero)),
                   self.over(self.choice.rows * self.choice.padded, lambda e: self.put("sums", e, zero)))

    def block_of_keys(self, block: Expr) -> Stmt:
        begin = block * self.choice.block_keys
        groups, each = self.choice.rows // self.choice.cut.tile, self.choice.cut.groups

        def part(p: Expr) -> Stmt:
            """So many rows that their scores stay in L1."""
            first = p * each
            count: Expr = const(each, INDEX) if groups % each == 0 else minimum(each, groups - first)
            row0, rows = first * self.choice.cut.tile, count * self.choice.cut.tile
            return seq(self.scores(count, row0), self.each_row(rows, row0, lambda i, s: self.largest(i, s, begin)),
                       self.each_row(rows, row0, self.weights), self.weigh(count, row0, begin))

        parts = -(-groups // each)
        if not self.choice.causal or self.choice.blocks == 1:
            rows = loop(parts, part, Scope.SERIAL, "p")
        else:  # rows before the block see none of its keys
            blind = maximum((begin - self.first) // (each * self.choice.cut.tile), 0)
            p = Var("p", INDEX, 0, parts - 1)
            rows = For(p, parts - blind, part(minimum(blind + p, parts - 1)), Scope.SERIAL)
        return seq(self.pack_keys(begin), self.pack_values(begin), rows)

    def each_row(self, count: Expr, row0: Expr, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """`body(row of the task, where its scores begin)` for so many rows from `row0` on."""
        var = Var("i", INDEX, 0, self.choice.cut.groups * self.choice.cut.tile - 1)
        return For(var, count, body(row0 + var, var * self.choice.block_keys), Scope.SERIAL)

    def key(self, begin: Expr, j: ExprLike) -> Expr:
        """A key's number; a block's that lie beyond the last repeat it, and get no weight."""
        return begin + j if self.choice.is_whole else minimum(begin + j, self.shape.keys - 1)

    def pack_keys(self, begin: Expr) -> Stmt:
        """keys[vector, d, lane]: transposed, so that a register holds one component of several keys."""
        w, size = self.lanes, self.shape.size

        def load(j: ExprLike, d: ExprLike) -> Expr:
            return self.at(self.of.k, self.b, self.key_head, self.key(begin, j), d)

        def group(n: Expr) -> Stmt:
            if size < w:
                return nest((size, w), lambda d, l: self.put("keys", (n * size + d) * w + l, load(n * w + l, d)))
            steps = -(-size // w)

            def square(step: Expr) -> Stmt:
                d = minimum(step * w, size - w)
                # Sixteen rows a little at a time is no stream that hardware follows: ask for the next group's lines.
                return seq(*(ahead(load(n * w + (w + r), d)) for r in range(w)),
                           transposed(w, self.dtype, lambda r, l: load(n * w + r, d + l),
                                      lambda c, l, x: self.put("keys", (n * size + d + c) * w + l, x)))

            return loop(steps, square, Scope.SERIAL, "d")

        return loop(self.choice.block_keys // w, group, Scope.SERIAL, "n")

    def pack_values(self, begin: Expr) -> Stmt:
        if self.choice.values_in_place:
            return Seq(())

        def one(j: Expr) -> Stmt:
            key = self.key(begin, j)
            row = self.over(self.shape.width, lambda d: self.put("values", j * self.choice.padded + d,
                                                           self.at(self.of.v, self.b, self.key_head, key, d)))
            rest = loop(self.choice.padded - self.shape.width,
                        lambda d: self.put("values", j * self.choice.padded + self.shape.width + d, const(0, self.dtype)))
            return seq(row, rest)

        return loop(self.choice.block_keys, one, Scope.SERIAL, "j")

    def scores(self, count: Expr, row0: Expr) -> Stmt:
        """scores[row, key] = scale * (query . key)."""
        w, groups = self.lanes, self.choice.block_keys // self.lanes
        tile = Tile(self.choice.cut.tile, self.choice.cut.score_vectors, w)
        scale = const(self.of.inner.attrs["scale"], self.dtype)

        def one(nt: Expr, mt: Expr) -> Stmt:
            n0 = minimum(nt * tile.vectors, groups - tile.vectors)

            def left(i: int, k: Expr) -> Expr:
                row = row0 + mt * tile.rows + i
                if self.of.narrow:
                    return self.get("queries", row * self.shape.size + k)
                head, s = self.place(self.row(row))
                return self.at(self.of.q, self.b, head, s, k)

            def right(n: int, k: Expr, l: Expr) -> Expr:
                return self.get("keys", ((n0 + n) * self.shape.size + k) * w + l)

            def write(i: int, n: int, l: Expr, x: Expr) -> list[Stmt]:
                return [self.put("scores", (mt * tile.rows + i) * self.choice.block_keys + (n0 + n) * w + l, x * scale)]

            return self.product(tile, self.shape.size, left, right, None, write)

        return self.tiles(-(-groups // tile.vectors), count, one)

    def product(self, tile: Tile, depth: int, a: Callable[[int, Expr], Expr], b: Callable[[int, Expr, Expr], Expr],
                start: Callable[[int, int, Expr], Expr] | None, write: Callable[[int, int, Expr, Expr], list[Stmt]]) -> Stmt:
        """A tile, its loop taken two steps at a time: it is short, and its end costs."""
        pair = 2 if depth % 2 == 0 else 1
        at = lambda k: k[0] * pair + k[1] if pair > 1 else k[0]
        return self.of.block(tile, (depth // pair, pair)[:pair], lambda i, k: a(i, at(k)), lambda v, k, l: b(v, at(k), l), start,
                          write, self.lanes)

    def tiles(self, panels: int, count: Expr, one: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """All tiles of `panels` panels and `count` groups of rows: a panel stays in L1 meanwhile."""
        rows = Var("m", INDEX, 0, self.choice.cut.groups - 1)
        return loop(panels, lambda n: For(rows, count, one(n, rows), Scope.SERIAL), Scope.SERIAL, "n")

    def largest(self, i: Expr, at: Expr, begin: Expr) -> Stmt:
        """Mask, softcap and causality of one row of scores, then their maximum and what that means for earlier blocks."""
        w, keys = self.lanes, self.choice.block_keys
        most = Buffer("m", self.dtype, (w,), Space.LOCAL)

        def step(n: Expr) -> Stmt:
            here = at + n * w
            seen = self.vector(lambda l: store(most, l, _greater(self.get("scores", here + l), most[l])))
            if not self.changes():
                return seen

            def changed(inside: bool) -> Stmt:
                def lane(l: Expr) -> Stmt:
                    score = self.get("scores", here + l)
                    return self.put("scores", here + l, self.changed(i, begin + n * w + l, score, inside))

                calls = self.dtype.bits == 64 and self.of.inner.attrs["softcap"] > 0  # tanh of f64 is libm's
                return self.vector(lane) if inside and not calls else loop(w, lane, Scope.SERIAL, "l")

            if self.choice.is_whole:
                return seq(changed(True), seen)
            return seq(If(begin + n * w + (w - 1) < self.shape.keys, changed(True), changed(False)), seen)

        found = seq(self.vector(lambda l: store(most, l, const(-math.inf, self.dtype))), loop(keys // w, step, Scope.SERIAL, "n"),
                    *_fold(most, _greater))
        if self.choice.blocks == 1:
            return Alloc(most, seq(found, self.put("most", i, most[0])))
        # Where nothing was seen before, the factor is of no consequence: the sums are zero.
        factor = vector_math.exp_negative(self.get("most", i) - _finite(most[0]))
        return Alloc(most, seq(found, store(most, 0, _greater(most[0], self.get("most", i))),
                               self.put("scale", i, factor), self.put("most", i, most[0])))

    def weights(self, i: Expr, at: Expr) -> Stmt:
        """Scores of one row become weights, and their sum joins that of earlier blocks."""
        w = self.lanes
        sums = Buffer("t", self.dtype, (w,), Space.LOCAL)

        def step(n: Expr, top: Expr) -> Stmt:
            here = at + n * w

            def weight(l: Expr) -> Stmt:
                return self.put("scores", here + l, vector_math.exp_negative(self.get("scores", here + l) - top))

            raised = self.vector(weight) if self.dtype.bits == 32 else loop(w, weight, Scope.SERIAL, "l")  # exp of f64 is libm's
            return seq(raised, self.vector(lambda l: store(sums, l, sums[l] + self.get("scores", here + l))))

        def before(l: Expr) -> Expr:
            return const(0, self.dtype) if self.choice.blocks == 1 else self.get("total", i * w + l) * self.get("scale", i)

        steps = lambda top: loop(self.choice.block_keys // w, lambda n: step(n, top), Scope.SERIAL, "n")
        return Alloc(sums, seq(self.vector(lambda l: store(sums, l, before(l))), let("top", _finite(self.get("most", i)), steps),
                               *self.add_up(i, sums)))

    def add_up(self, i: Expr, sums: Buffer) -> list[Stmt]:
        if self.choice.blocks > 1:
            return [self.vector(lambda l: self.put("total", i * self.lanes + l, sums[l]))]
        return [*_fold(sums, lambda a, b: a + b), self.put("scale", i, self.inverse(sums[0]))]

    def inverse(self, total: Expr) -> Expr:
        """What the weighted values are multiplied with at the end; zero for a query that saw no key, where that gives zeros."""
        one, zero = const(1, self.dtype), const(0, self.dtype)
        return one / total if self.of.inner.attrs["empty"] == "nan" else select(total.eq(0.0), zero, one / total)

    def changes(self) -> bool:
        """Whether scores are more than products."""
        a = self.of.inner.attrs
        return self.of.mask is not None or a["causal"] or a["softcap"] > 0 or not self.choice.is_whole

    def changed(self, i: Expr, j: Expr, score: Expr, inside: bool) -> Expr:
        """The score of row i and key j after softcap, mask and causality; that of a key that there is not is -inf."""
        cap, low = self.of.inner.attrs["softcap"], const(-math.inf, self.dtype)
        if cap > 0:
            score = unary("tanh", score * (1 / cap)) * cap
        head, s = self.place(self.row(i))
        if self.of.mask is not None:
            shape = self.of.mask.static_shape
            full = (self.b, head, s, j if inside else minimum(j, self.shape.keys - 1))
            own = [const(0, INDEX) if n == 1 else x for n, x in zip(shape, full[4 - len(shape):])]
            element = self.of.inliner.at(self.of.mask, own)
            score = select(element, score, low) if self.of.mask.dtype.kind == "bool" else score + cast(element, self.dtype)
        if self.of.inner.attrs["causal"]:
            score = select(binary("le", j, s), score, low)
        return score if inside else select(j < self.shape.keys, score, low)

    def weigh(self, count: Expr, row0: Expr, begin: Expr) -> Stmt:
        """Sums of values by weight, added to what came before, or stored where this is all."""
        w = self.lanes
        tile = Tile(self.choice.cut.tile, self.choice.cut.value_vectors, w)

        def one(nt: Expr, mt: Expr) -> Stmt:
            n0, i0 = nt * tile.vectors, row0 + mt * tile.rows

            def left(i: int, k: Expr) -> Expr:
                return self.get("scores", (mt * tile.rows + i) * self.choice.block_keys + k)

            def right(n: int, k: Expr, l: Expr) -> Expr:
                if self.choice.values_in_place:
                    return self.at(self.of.v, self.b, self.key_head, self.key(begin, k), (n0 + n) * w + l)
                return self.get("values", k * self.choice.padded + (n0 + n) * w + l)

            def place(i: int, n: int, l: Expr) -> Expr:
                return (i0 + i) * self.choice.padded + (n0 + n) * w + l

            def start(i: int, n: int, l: Expr) -> Expr:
                return self.get("sums", place(i, n, l)) * self.get("scale", i0 + i)

            def write(i: int, n: int, l: Expr, x: Expr) -> list[Stmt]:
                if self.choice.direct:
                    return [self.finished(i0 + i, (n0 + n) * w + l, x * self.get("scale", i0 + i))]
                return [self.put("sums", place(i, n, l), x)]

            return self.product(tile, self.choice.block_keys, left, right, start if self.choice.blocks > 1 else None, write)

        return self.tiles(self.choice.vectors // tile.vectors, count, one)

    def finished(self, i: Expr, d: Expr, value: Expr) -> Stmt:
        head, s = self.place(self.row(i))
        return self.of.result((self.b, head, s, d), value)

    def write_out(self) -> Stmt:
        sums = Buffer("t", self.dtype, (self.lanes,), Space.LOCAL)

        def one(i: Expr) -> Stmt:
            begin, width = i * self.choice.padded, self.shape.width
            scaled = lambda c: self.over(width, lambda d: self.finished(i, d, self.get("sums", begin + d) * c))
            if self.choice.blocks == 1:
                return let("c", self.get("scale", i), scaled)
            total = seq(self.vector(lambda l: store(sums, l, self.get("total", i * self.lanes + l))),
                        *_fold(sums, lambda a, b: a + b))
            return Alloc(sums, seq(total, let("c", self.inverse(sums[0]), scaled)))

        return loop(self.choice.rows, one, Scope.SERIAL, "i")


def ahead(element: Expr) -> Stmt:
    """A hint that an element will be loaded soon."""
    loads = [node for node in postorder(element) if isinstance(node, Load)]
    return seq(*(Prefetch(node.buffer, node.index[0], 1) for node in loads[:1]))


def _greater(a: Expr, b: Expr) -> Expr:
    """The greater one; NaN may get lost, which the sum of weights keeps."""
    return select(b < a, a, b)


def _finite(m: Expr) -> Expr:
    """What to subtract from scores whose maximum is m."""
    return select(m.eq(-math.inf), const(0, m.dtype), m)


def _fold(x: Buffer, f: Callable[[Expr, Expr], Expr]) -> list[Stmt]:
    """Halve a vector until x[0] is the result."""
    parts: list[Stmt] = []
    width = x.size
    while width > 1:
        width //= 2
        lane = Var("l", INDEX, 0, width - 1)
        parts.append(For(lane, const(width, INDEX), store(x, lane, f(x[lane], x[lane + width])), Scope.VECTOR))
    return parts


__all__ = ["Memory", "Task"]
