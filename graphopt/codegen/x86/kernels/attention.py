"""Attention on x86 as one kernel: no row of scores is longer than a block of keys, and none leaves the cache.

A task takes a stretch of one head's queries past all keys, block by block (Dao et al. 2022, FlashAttention): scores from
the register block, their running maximum and sum (Milakov and Gimelshein 2018, online softmax), and the weighted values
added up by the register block again. A block of keys is transposed, and one of values copied, into scratch memory once
for the whole stretch. Query, key, value and mask are read through whatever movement ops are fused into the kernel, and the
result is stored through those that follow, so that splitting and merging heads costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphopt.codegen.kernel import math as vector_math
from graphopt.codegen.kernel.expr import (
    INDEX,
    Buffer,
    Expr,
    ExprLike,
    Load,
    Var,
    as_expr,
    binary,
    cast,
    const,
    maximum,
    minimum,
    postorder,
    select,
    unary,
)
from graphopt.codegen.kernel.index import flat_index, split_index
from graphopt.codegen.kernel.loops import Alloc, For, If, Prefetch, Seq, Stmt, let, loop, nest, seq, store
from graphopt.codegen.lower.kernels import Lowered, Sources, Template
from graphopt.codegen.lower.schedule import Output, Style, iteration, schedule
from graphopt.codegen.x86.kernels.attention_cut import Problem, cuts
from graphopt.codegen.x86.kernels.square import transposed
from graphopt.codegen.x86.kernels.tile import Blocked, Tile, apart
from graphopt.ir.fused import ends, held
from graphopt.ir.graph import Op, Value
from graphopt.targets.x86 import X86


def template(machine: X86) -> Template:
    """Attention on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        inner = attention_of(op)
        return None if inner is None else Attention(op, inner, Sources(op), name, style, machine).build()

    return match


def attention_of(op: Op) -> Op | None:
    """The attention op that a plain or fused op is."""
    return next((o for o in held(op) if o.name == "attention"), None)


class Attention(Blocked):
    """One attention op with the movement ops around it."""

    def __init__(self, op: Op, inner: Op, sources: Sources, name: str, style: Style, machine: X86) -> None:
        super().__init__(op, inner, sources, name, style, machine.registers)
        self.machine = machine

    def build(self) -> Lowered:
        q, k, v = (self.inner.operand(n) for n in ("q", "k", "v"))
        assert q is not None and k is not None and v is not None
        self.q, self.k, self.v, self.mask = q, k, v, self.inner.operand("mask")
        self.batch, self.heads, self.queries, self.size = q.static_shape
        _, self.shared_heads, self.keys, self.width = v.static_shape
        self.inliner, _ = self.sources.inliner()
        if 0 in self.inner.result.static_shape or self.keys == 0:
            return self.finish(self.zeros())
        self.sizes()
        w = self.lanes
        workers = min(self.style.threads, self.tasks)
        per_worker = {"keys": self.block_keys * self.size, "values": 0 if self.values_in_place else self.block_keys * self.padded,
                      "scores": self.cut.groups * self.cut.tile * self.block_keys, "most": self.rows, "scale": self.rows}
        if self.blocks > 1:
            per_worker["total"] = self.rows * w
        if not self.direct:
            per_worker["sums"] = self.rows * self.padded
        if self.narrow:
            per_worker["queries"] = self.rows * self.size
        per_worker = {n: apart(max(size, 1), self.dtype) for n, size in per_worker.items()}
        self.memory = {n: Buffer(n, self.dtype, (workers * size,)) for n, size in per_worker.items()}
        self.strides = per_worker
        self.scratch += self.memory.values()
        effort = 2 * self.batch * self.heads * self.queries * self.keys * (self.size + self.width) // 16
        return self.finish(self.spread(self.tasks, effort, self.task))

    def sizes(self) -> None:
        """Which rows make a task, and how they and the keys are cut."""
        w = self.lanes
        group = self.heads // self.shared_heads
        # The heads of a group read the same keys: few queries of each are rows of one task.
        self.merged = group > 1 and self.queries < 2 * w
        self.parts, self.total = (self.shared_heads, group * self.queries) if self.merged else (self.heads, self.queries)
        self.causal = self.inner.attrs["causal"] and not self.merged
        self.vectors = -(-self.width // w)
        self.padded = self.vectors * w
        problem = Problem(self.batch * self.parts, self.total, self.keys, self.size, self.vectors, self.dtype.itemsize,
                          self.causal)
        self.cut = self.style.pick("cut", cuts(problem, w, self.machine, self.style.threads))
        self.block_keys, self.blocks, self.rows = self.cut.keys, -(-self.keys // self.cut.keys), self.cut.queries
        self.chunks = -(-self.total // self.rows)
        self.tasks = self.batch * self.parts * self.chunks
        self.narrow = self.q.dtype is not self.dtype
        # Values that a single row of tiles reads are read where they are.
        self.values_in_place = self.rows == self.cut.tile and self.padded == self.width and self.v.dtype is self.dtype
        self.direct = self.blocks == 1 and self.padded == self.width  # results go from registers to where they belong

    # Elements
    def place(self, row: Expr, part: Expr) -> tuple[Expr, Expr]:
        """(head, query) of a row of a task."""
        if not self.merged:
            return part, row
        return part * (self.heads // self.shared_heads) + row // self.queries, row % self.queries

    def at(self, v: Value, *index: ExprLike) -> Expr:
        """An element of an operand, in the dtype that is computed in."""
        return cast(self.inliner.at(v, [as_expr(i) for i in index]), self.dtype)

    def result(self, index: Sequence[Expr], value: Expr) -> Stmt:
        """Store one element of the attention's result where the ops after it move it to."""
        v, at = self.inner.result, list(index)
        while v not in self.ends():
            (user,) = v.users
            if user.name == "transpose":
                at = [at[p] for p in user.attrs["perm"]]
            else:
                assert user.name == "reshape"
                at = split_index(flat_index(at, v.static_shape), user.result.static_shape)
            v = user.result
        out = self.sources.outputs[0]
        return store(out, flat_index(at, v.static_shape), cast(cast(value, self.inner.result.dtype), out.dtype))

    def ends(self) -> Sequence[Value]:
        return ends(self.op)

    def zeros(self) -> Stmt:
        """No key to look at."""
        shape = self.op.result.static_shape
        value = cast(const(0, self.dtype), self.op.result.dtype)
        return schedule(iteration(shape), shape, [Output(self.sources.outputs[0], value)], self.style)

    # The task
    def task(self, worker: Expr, t: Expr) -> Stmt:
        chunk, head = t % self.chunks, t // self.chunks
        part, b = head % self.parts, head // self.parts
        first = chunk * self.rows
        self.base = {n: worker * size for n, size in self.strides.items()}
        self.b, self.part, self.first = b, part, first
        self.key_head = part if self.merged else part // (self.heads // self.shared_heads)
        if self.blocks == 1:
            return seq(self.pack_queries(), self.block_of_keys(const(0, INDEX)), Seq(()) if self.direct else self.write_out())
        return seq(self.pack_queries(), self.start(), For(*self.range_of_blocks()), self.write_out())

    def range_of_blocks(self) -> tuple[Var, Expr, Stmt]:
        """The loop over blocks of keys; with causality, as far as the last query sees."""
        var = Var("block", INDEX, 0, self.blocks - 1)
        count: Expr = const(self.blocks, INDEX)
        if self.causal:
            count = minimum(count, (self.first + (self.rows - 1)) // self.block_keys + 1)
        return var, count, self.block_of_keys(var)

    def row(self, i: ExprLike) -> Expr:
        """The task's i-th row; those beyond the last repeat it."""
        row = self.first + i
        return row if self.chunks * self.rows == self.total else minimum(row, self.total - 1)

    def cell(self, name: str, offset: ExprLike) -> tuple[Buffer, Expr]:
        return self.memory[name], self.base[name] + offset

    def get(self, name: str, offset: ExprLike) -> Expr:
        buffer, place = self.cell(name, offset)
        return buffer[place]

    def put(self, name: str, offset: ExprLike, value: Expr) -> Stmt:
        buffer, place = self.cell(name, offset)
        return store(buffer, place, value)

    def over(self, count: int, body: Callable[[Expr], Stmt], width: int = 0) -> Stmt:
        """A loop over `count` lanes' worth of elements, in vectors and a rest."""
        w = width or self.lanes
        parts = [loop(count // w, lambda n: self.vector(lambda l: body(n * w + l), w), "serial", "n")] if count >= w else []
        if count % w:
            parts.append(loop(count % w, lambda l: body(l + count // w * w), "serial", "l"))
        return seq(*parts)

    def vector(self, body: Callable[[Expr], Stmt], width: int = 0) -> Stmt:
        lane = Var("l", INDEX, 0, (width or self.lanes) - 1)
        return For(lane, const(width or self.lanes, INDEX), body(lane), "vector")

    def pack_queries(self) -> Stmt:
        """Halves become floats once."""
        if not self.narrow:
            return Seq(())

        def one(i: Expr) -> Stmt:
            head, s = self.place(self.row(i), self.part)
            return self.over(self.size, lambda d: self.put("queries", i * self.size + d, self.at(self.q, self.b, head, s, d)))

        return loop(self.rows, one, "serial", "i")

    def start(self) -> Stmt:
        zero = const(0, self.dtype)
        return seq(loop(self.rows, lambda i: self.put("most", i, const(-math.inf, self.dtype))),
                   self.over(self.rows * self.lanes, lambda e: self.put("total", e, zero)),
                   self.over(self.rows * self.padded, lambda e: self.put("sums", e, zero)))

    def block_of_keys(self, block: Expr) -> Stmt:
        begin = block * self.block_keys
        groups, each = self.rows // self.cut.tile, self.cut.groups

        def part(p: Expr) -> Stmt:
            """So many rows that their scores stay in L1."""
            first = p * each
            count: Expr = const(each, INDEX) if groups % each == 0 else minimum(each, groups - first)
            self.group, self.row0 = first, first * self.cut.tile
            rows = count * self.cut.tile
            return seq(self.scores(count), self.each_row(rows, lambda i, s: self.largest(i, s, begin)),
                       self.each_row(rows, self.weights), self.weigh(count, begin))

        parts = -(-groups // each)
        if not self.causal or self.blocks == 1:
            rows = loop(parts, part, "serial", "p")
        else:  # rows before the block see none of its keys
            blind = maximum((begin - self.first) // (each * self.cut.tile), 0)
            p = Var("p", INDEX, 0, parts - 1)
            rows = For(p, parts - blind, part(minimum(blind + p, parts - 1)), "serial")
        return seq(self.pack_keys(begin), self.pack_values(begin), rows)

    def each_row(self, count: Expr, body: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """`body(row of the task, where its scores begin)`."""
        var = Var("i", INDEX, 0, self.cut.groups * self.cut.tile - 1)
        return For(var, count, body(self.row0 + var, var * self.block_keys), "serial")

    def key(self, begin: Expr, j: ExprLike) -> Expr:
        """A key's number; a block's that lie beyond the last repeat it, and get no weight."""
        return begin + j if self.blocks * self.block_keys == self.keys else minimum(begin + j, self.keys - 1)

    def pack_keys(self, begin: Expr) -> Stmt:
        """keys[vector, d, lane]: transposed, so that a register holds one component of several keys."""
        w = self.lanes

        def load(j: ExprLike, d: ExprLike) -> Expr:
            return self.at(self.k, self.b, self.key_head, self.key(begin, j), d)

        def group(n: Expr) -> Stmt:
            if self.size < w:
                return nest((self.size, w), lambda d, l: self.put("keys", (n * self.size + d) * w + l, load(n * w + l, d)))
            steps = -(-self.size // w)

            def square(step: Expr) -> Stmt:
                d = minimum(step * w, self.size - w)
                # Sixteen rows a little at a time is no stream that hardware follows: ask for the next group's lines.
                return seq(*(ahead(load(n * w + (w + r), d)) for r in range(w)),
                           transposed(w, self.dtype, lambda r, l: load(n * w + r, d + l),
                                      lambda c, l, x: self.put("keys", (n * self.size + d + c) * w + l, x)))

            return loop(steps, square, "serial", "d")

        return loop(self.block_keys // w, group, "serial", "n")

    def pack_values(self, begin: Expr) -> Stmt:
        if self.values_in_place:
            return Seq(())

        def one(j: Expr) -> Stmt:
            key = self.key(begin, j)
            row = self.over(self.width, lambda d: self.put("values", j * self.padded + d,
                                                           self.at(self.v, self.b, self.key_head, key, d)))
            rest = loop(self.padded - self.width,
                        lambda d: self.put("values", j * self.padded + self.width + d, const(0, self.dtype)))
            return seq(row, rest)

        return loop(self.block_keys, one, "serial", "j")

    def scores(self, count: Expr) -> Stmt:
        """scores[row, key] = scale * (query . key)."""
        w, groups = self.lanes, self.block_keys // self.lanes
        tile = Tile(self.cut.tile, self.cut.score_vectors, w)
        scale = const(self.inner.attrs["scale"], self.dtype)

        def one(nt: Expr, mt: Expr) -> Stmt:
            n0 = minimum(nt * tile.vectors, groups - tile.vectors)

            def left(i: int, k: Expr) -> Expr:
                row = self.row0 + mt * tile.rows + i
                if self.narrow:
                    return self.get("queries", row * self.size + k)
                head, s = self.place(self.row(row), self.part)
                return self.at(self.q, self.b, head, s, k)

            def right(n: int, k: Expr, l: Expr) -> Expr:
                return self.get("keys", ((n0 + n) * self.size + k) * w + l)

            def write(i: int, n: int, l: Expr, x: Expr) -> list[Stmt]:
                return [self.put("scores", (mt * tile.rows + i) * self.block_keys + (n0 + n) * w + l, x * scale)]

            return self.product(tile, self.size, left, right, None, write)

        return self.tiles(-(-groups // tile.vectors), count, one)

    def product(self, tile: Tile, depth: int, a: Callable[[int, Expr], Expr], b: Callable[[int, Expr, Expr], Expr],
                start: Callable[[int, int, Expr], Expr] | None, write: Callable[[int, int, Expr, Expr], list[Stmt]]) -> Stmt:
        """A tile, its loop taken two steps at a time: it is short, and its end costs."""
        pair = 2 if depth % 2 == 0 else 1
        at = lambda k: k[0] * pair + k[1] if pair > 1 else k[0]
        return self.block(tile, (depth // pair, pair)[:pair], lambda i, k: a(i, at(k)), lambda v, k, l: b(v, at(k), l), start,
                          write, self.lanes)

    def tiles(self, panels: int, count: Expr, one: Callable[[Expr, Expr], Stmt]) -> Stmt:
        """All tiles of `panels` panels and `count` groups of rows: a panel stays in L1 meanwhile."""
        rows = Var("m", INDEX, 0, self.cut.groups - 1)
        return loop(panels, lambda n: For(rows, count, one(n, rows), "serial"), "serial", "n")

    def largest(self, i: Expr, at: Expr, begin: Expr) -> Stmt:
        """Mask, softcap and causality of one row of scores, then their maximum and what that means for earlier blocks."""
        w, keys = self.lanes, self.block_keys
        most = Buffer("m", self.dtype, (w,), "local")

        def step(n: Expr) -> Stmt:
            here = at + n * w
            seen = self.vector(lambda l: store(most, l, _greater(self.get("scores", here + l), most[l])))
            if not self.changes():
                return seen

            def changed(inside: bool) -> Stmt:
                def lane(l: Expr) -> Stmt:
                    score = self.get("scores", here + l)
                    return self.put("scores", here + l, self.changed(i, begin + n * w + l, score, inside))

                calls = self.dtype.bits == 64 and self.inner.attrs["softcap"] > 0  # tanh of f64 is libm's
                return self.vector(lane) if inside and not calls else loop(w, lane, "serial", "l")

            if self.blocks * keys == self.keys:
                return seq(changed(True), seen)
            return seq(If(begin + n * w + (w - 1) < self.keys, changed(True), changed(False)), seen)

        found = seq(self.vector(lambda l: store(most, l, const(-math.inf, self.dtype))), loop(keys // w, step, "serial", "n"),
                    *_fold(most, _greater))
        if self.blocks == 1:
            return Alloc(most, seq(found, self.put("most", i, most[0])))
        # Where nothing was seen before, the factor is of no consequence: the sums are zero.
        factor = vector_math.exp_negative(self.get("most", i) - _finite(most[0]))
        return Alloc(most, seq(found, store(most, 0, _greater(most[0], self.get("most", i))),
                               self.put("scale", i, factor), self.put("most", i, most[0])))

    def weights(self, i: Expr, at: Expr) -> Stmt:
        """Scores of one row become weights, and their sum joins that of earlier blocks."""
        w = self.lanes
        sums = Buffer("t", self.dtype, (w,), "local")

        def step(n: Expr, top: Expr) -> Stmt:
            here = at + n * w

            def weight(l: Expr) -> Stmt:
                return self.put("scores", here + l, vector_math.exp_negative(self.get("scores", here + l) - top))

            raised = self.vector(weight) if self.dtype.bits == 32 else loop(w, weight, "serial", "l")  # exp of f64 is libm's
            return seq(raised, self.vector(lambda l: store(sums, l, sums[l] + self.get("scores", here + l))))

        def before(l: Expr) -> Expr:
            return const(0, self.dtype) if self.blocks == 1 else self.get("total", i * w + l) * self.get("scale", i)

        steps = lambda top: loop(self.block_keys // w, lambda n: step(n, top), "serial", "n")
        return Alloc(sums, seq(self.vector(lambda l: store(sums, l, before(l))), let("top", _finite(self.get("most", i)), steps),
                               *self.add_up(i, sums)))

    def add_up(self, i: Expr, sums: Buffer) -> list[Stmt]:
        if self.blocks > 1:
            return [self.vector(lambda l: self.put("total", i * self.lanes + l, sums[l]))]
        return [*_fold(sums, lambda a, b: a + b), self.put("scale", i, self.inverse(sums[0]))]

    def inverse(self, total: Expr) -> Expr:
        """What the weighted values are multiplied with at the end; zero for a query that saw no key, where that gives zeros."""
        one = const(1, self.dtype)
        return one / total if self.inner.attrs["empty"] == "nan" else select(total.eq(0.0), const(0, self.dtype), one / total)

    def changes(self) -> bool:
        """Whether scores are more than products."""
        a = self.inner.attrs
        return self.mask is not None or a["causal"] or a["softcap"] > 0 or self.blocks * self.block_keys != self.keys

    def changed(self, i: Expr, j: Expr, score: Expr, inside: bool) -> Expr:
        """The score of row i and key j after softcap, mask and causality; that of a key that there is not is -inf."""
        cap, low = self.inner.attrs["softcap"], const(-math.inf, self.dtype)
        if cap > 0:
            score = unary("tanh", score * (1 / cap)) * cap
        head, s = self.place(self.row(i), self.part)
        if self.mask is not None:
            shape = self.mask.static_shape
            full = (self.b, head, s, j if inside else minimum(j, self.keys - 1))
            own = [const(0, INDEX) if n == 1 else x for n, x in zip(shape, full[4 - len(shape):])]
            element = self.inliner.at(self.mask, own)
            score = select(element, score, low) if self.mask.dtype.kind == "bool" else score + cast(element, self.dtype)
        if self.inner.attrs["causal"]:
            score = select(binary("le", j, s), score, low)
        return score if inside else select(j < self.keys, score, low)

    def weigh(self, count: Expr, begin: Expr) -> Stmt:
        """Sums of values by weight, added to what came before, or stored where this is all."""
        w = self.lanes
        tile = Tile(self.cut.tile, self.cut.value_vectors, w)

        def one(nt: Expr, mt: Expr) -> Stmt:
            n0, i0 = nt * tile.vectors, self.row0 + mt * tile.rows

            def left(i: int, k: Expr) -> Expr:
                return self.get("scores", (mt * tile.rows + i) * self.block_keys + k)

            def right(n: int, k: Expr, l: Expr) -> Expr:
                if self.values_in_place:
                    return self.at(self.v, self.b, self.key_head, self.key(begin, k), (n0 + n) * w + l)
                return self.get("values", k * self.padded + (n0 + n) * w + l)

            def place(i: int, n: int, l: Expr) -> Expr:
                return (i0 + i) * self.padded + (n0 + n) * w + l

            def start(i: int, n: int, l: Expr) -> Expr:
                return self.get("sums", place(i, n, l)) * self.get("scale", i0 + i)

            def write(i: int, n: int, l: Expr, x: Expr) -> list[Stmt]:
                if self.direct:
                    return [self.finished(i0 + i, (n0 + n) * w + l, x * self.get("scale", i0 + i))]
                return [self.put("sums", place(i, n, l), x)]

            return self.product(tile, self.block_keys, left, right, start if self.blocks > 1 else None, write)

        return self.tiles(self.vectors // tile.vectors, count, one)

    def finished(self, i: Expr, d: Expr, value: Expr) -> Stmt:
        head, s = self.place(self.row(i), self.part)
        return self.result((self.b, head, s, d), value)

    def write_out(self) -> Stmt:
        sums = Buffer("t", self.dtype, (self.lanes,), "local")

        def one(i: Expr) -> Stmt:
            scaled = lambda c: self.over(self.width, lambda d: self.finished(i, d, self.get("sums", i * self.padded + d) * c))
            if self.blocks == 1:
                return let("c", self.get("scale", i), scaled)
            total = seq(self.vector(lambda l: store(sums, l, self.get("total", i * self.lanes + l))),
                        *_fold(sums, lambda a, b: a + b))
            return Alloc(sums, seq(total, let("c", self.inverse(sums[0]), scaled)))

        return loop(self.rows, one, "serial", "i")


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
        parts.append(For(lane, const(width, INDEX), store(x, lane, f(x[lane], x[lane + width])), "vector"))
    return parts


__all__ = ["Attention", "attention_of", "template"]
