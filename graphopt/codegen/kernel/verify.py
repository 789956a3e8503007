"""Whether a kernel is well formed: what every lowering and template must keep, checked before any target prints it.

Names are bound once and used within their scope; dtypes are those that the nodes of expr.py take; an index has the rank of its
buffer, and lies within it where the ranges of its variables prove that or the contrary (what neither is proved of is
counted in the report: the interpreter checks it with values); statements touch the memory spaces that they may; scopes of
loops nest as machines do; a barrier stands where all its threads come by; and no element of a buffer of the kernel's own is
read that nothing before can have written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from graphopt.codegen.kernel.expr import (
    COMPARISONS,
    INDEX,
    KINDS,
    LOGIC,
    TRANSCENDENTAL,
    Apply,
    Buffer,
    Const,
    Expr,
    Load,
    Reduce,
    Var,
    bounds,
    const,
    free_vars,
    linear,
    load,
    postorder,
    substitute,
)
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    Dot,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Seq,
    Shuffle,
    Stmt,
    Store,
    TileDot,
    TileLoad,
    Tiles,
    TileStore,
    TileZero,
    Wait,
    statements,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.errors import CodegenError
from graphopt.ir.types import BOOL, DType

CARRIED = ("f16", "bf16")  # dtypes that are loaded, stored, cast and chosen, and never computed in
FLOATING = frozenset(("sqrt", "floor", "ceil", "round", "trunc", "isnan", *TRANSCENDENTAL))
MOVES = frozenset(("select", "cast", "bitcast"))
INDEX_KINDS = frozenset(("add", "sub", "mul", "div", "floordiv", "floormod", "min", "max", "neg", "abs", "select", "cast",
                         *COMPARISONS))
TRACKED = 1 << 20  # elements of a buffer up to which each is followed


@dataclass
class Report:
    """What was proved of the accesses of a kernel, by counts, and those of which nothing was."""

    proved: int = 0
    open: list[Expr | Stmt] = field(default_factory=list)


def verify(kernel: Kernel) -> Report:
    """CodegenError that names the kernel and the fault, where there is one."""
    return _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.report = kernel, Report()
        self.bound: dict[Var, For | Let | None] = {}
        self.buffers: set[Buffer] = set()
        self.written: dict[Buffer, np.ndarray] = {}  # of buffers of the kernel's own: elements that something may have written
        self.scopes: list[Scope] = []
        self.made: list[Expr] = []  # kept, since what is known of expressions is known by their ids
        self.held = 0  # one more than the scopes around the tiles that we are in
        self.doubts = 0  # conditions around that may not hold
        self.since: dict[Buffer, int] = {}  # how many of them there were where a buffer was allocated
        self.varying: set[Var] = set()  # variables that differ among the threads of a block
        self.apart: list[Expr] = []  # conditions and ends of loops around that do
        self.checked: set[int] = set()
        self.free: dict[int, frozenset[Var]] = {}

    def fail(self, what: str) -> CodegenError:
        return CodegenError(what, where=self.kernel.name, hint="A kernel that graphopt wrote itself is a bug: please report it")

    def run(self) -> Report:
        k = self.kernel
        if not 0 <= k.inputs <= k.inputs + k.outputs <= len(k.params):
            raise self.fail(f"{k.inputs} inputs and {k.outputs} outputs of {len(k.params)} parameters")
        for b in k.params:
            if b in self.buffers:
                raise self.fail(f"parameter {b!r} twice")
            if b.space not in (Space.GLOBAL, Space.STREAM):
                raise self.fail(f"parameter {b!r} is in {b.space}")
            self.buffers.add(b)
        for v in k.scalars:
            if v.dtype is not INDEX or v in self.bound:
                raise self.fail(f"a scalar {v!r} of {v.dtype}, or twice")
            self.bound[v] = None
        for b in k.params:
            if b.length is not None:
                self.expr(b.length)
                if len(b.shape) != 1 or b.length.dtype is not INDEX or bounds(b.length)[0] > b.shape[0]:
                    raise self.fail(f"{b!r} of {b.length!r} elements")
        self.stmt(k.body)
        return self.report

    # Statements
    def stmt(self, s: Stmt) -> None:
        if isinstance(s, Seq):
            for x in s.body:
                self.stmt(x)
        elif isinstance(s, For):
            self.loop(s)
        elif isinstance(s, Store):
            self.expr(s.value, *s.index)
            self.access(s, s.buffer, s.index, store=True)
            if s.value.dtype is not s.buffer.dtype:
                raise self.fail(f"{s.value.dtype} stored into {s.buffer!r}")
        elif isinstance(s, If):
            self.expr(s.condition)
            if s.condition.dtype is not BOOL:
                raise self.fail(f"a condition of {s.condition.dtype}: {s.condition!r}")
            with self.perhaps(), self.alike(s.condition):
                self.stmt(s.then)
                if s.otherwise is not None:
                    self.stmt(s.otherwise)
        elif isinstance(s, Let):
            self.let(s)
        elif isinstance(s, Alloc):
            self.alloc(s)
        elif isinstance(s, Prefetch):
            self.expr(s.index)
            self.known(s.buffer)
            if s.index.dtype is not INDEX or s.buffer.space is not Space.GLOBAL or s.level not in (1, 2):
                raise self.fail(f"no prefetch of {s.buffer!r} at {s.index!r} into L{s.level}")
        elif isinstance(s, Shuffle):
            self.shuffle(s)
        elif isinstance(s, Barrier):
            self.barrier(s)
        elif isinstance(s, AsyncCopy):
            self.copy(s)
        elif isinstance(s, (Commit, Wait)):
            if Scope.BLOCK not in self.scopes or (isinstance(s, Wait) and s.left < 0):
                raise self.fail(f"{s!r} is not a thread's of a block, or waits for less than nothing")
        elif isinstance(s, Dot):
            self.dot(s)
        elif isinstance(s, Tiles):
            self.tiles(s)
        elif isinstance(s, (TileZero, TileLoad, TileStore, TileDot)):
            self.tile(s)
        else:
            raise self.fail(f"unknown statement {type(s).__name__}")

    def loop(self, s: For) -> None:
        self.expr(s.extent)
        if s.extent.dtype is not INDEX or s.var.dtype is not INDEX:
            raise self.fail(f"a loop of {s.var!r} over {s.extent.dtype}")
        low, high = bounds(s.extent)
        if s.scope is Scope.VECTOR:
            if not isinstance(s.extent, Const):
                raise self.fail(f"a vector of {s.extent!r} lanes")
            if Scope.VECTOR in self.scopes:
                raise self.fail(f"vectors within vectors: {s.var!r}")
        self.nesting(s)
        if high > 0 and ((s.var.low or 0) > 0 or (s.var.high is not None and s.var.high < low - 1)):
            raise self.fail(f"{s.var!r} runs from 0 to {low - 1}, and says {s.var.low} to {s.var.high}")
        if s.scope in (Scope.WARP, Scope.THREAD):
            self.varying.add(s.var)
            if not isinstance(s.extent, Const) and any(isinstance(x, Barrier) for x in statements(s.body)):
                raise self.fail(f"a barrier within a loop of {s.extent!r} threads, which are not known")
        self.scopes.append(s.scope)
        with self.binding(s.var, s), self.alike(s.extent):
            if low >= 1:
                self.stmt(s.body)
            else:
                with self.perhaps():
                    self.stmt(s.body)
        self.scopes.pop()

    def nesting(self, s: For) -> None:
        around = self.scopes
        if s.scope in (Scope.GRID, Scope.BLOCK) and set(around) & {Scope.BLOCK, Scope.WARP, Scope.THREAD, Scope.VECTOR}:
            raise self.fail(f"a loop over the {s.scope.value} within one over {around[-1].value}")
        if s.scope is Scope.BLOCK and Scope.GRID in around:
            raise self.fail("a loop over blocks within one over the grid")
        if s.scope is Scope.WARP and (Scope.BLOCK not in around or set(around) & {Scope.WARP, Scope.THREAD}):
            raise self.fail("a loop over warps is not in one over blocks, or in one over warps or threads")
        if s.scope is Scope.THREAD and (Scope.BLOCK not in around or Scope.THREAD in around):
            raise self.fail("a loop over threads is not in one over blocks, or in another")

    def let(self, s: Let) -> None:
        self.expr(s.value)
        if s.value.dtype is not s.var.dtype:
            raise self.fail(f"{s.var!r} of {s.var.dtype} is {s.value.dtype}")
        if s.var.dtype is INDEX:
            low, high = bounds(s.value)
            if (s.var.low is not None and high < s.var.low) or (s.var.high is not None and low > s.var.high):
                raise self.fail(f"{s.var!r} = {s.value!r} is never in {s.var.low} to {s.var.high}")
        if free_vars(s.value, self.free) & self.varying:
            self.varying.add(s.var)
        with self.binding(s.var, s):
            self.stmt(s.body)

    def alloc(self, s: Alloc) -> None:
        b = s.buffer
        if b in self.buffers:
            raise self.fail(f"{b!r} is allocated where it is there already")
        if b.space is Space.GLOBAL:
            raise self.fail(f"{b!r} is allocated in global memory, which is the caller's")
        if b.space is Space.SHARED and (Scope.BLOCK not in self.scopes or set(self.scopes) & {Scope.WARP, Scope.THREAD}):
            raise self.fail(f"{b!r} is shared by a block's threads, and allocated by one of them or outside of blocks")
        self.buffers.add(b)
        if b.size <= TRACKED:
            self.written[b] = np.zeros(b.shape, bool)
        self.since[b] = self.doubts
        self.stmt(s.body)
        self.written.pop(b, None)
        self.buffers.discard(b)

    def shuffle(self, s: Shuffle) -> None:
        w = len(s.order)
        for b in (s.target, s.source):
            self.known(b)
            if len(b.shape) != 1 or b.space is not Space.LOCAL:
                raise self.fail(f"a shuffle of {b!r}, which is no vector in registers")
        if s.target.dtype is not s.source.dtype:
            raise self.fail(f"a shuffle of {s.source!r} into {s.target!r}")
        if not all(0 <= k < 2 * w for k in s.order):
            raise self.fail(f"a shuffle of {w} lanes by {list(s.order)}")
        for at, b in ((s.a, s.source), (s.b, s.source), (s.at, s.target)):
            if not 0 <= at <= b.shape[0] - w:
                raise self.fail(f"{w} lanes from {at} leave {b!r}")
        for k in s.order:
            self.initialised(s.source, [(s.a + k, s.a + k) if k < w else (s.b + k - w, s.b + k - w)], s)
        self.mark(s.target, [(s.at, s.at + w - 1)])

    def barrier(self, s: Barrier) -> None:
        if s.scope not in (Scope.BLOCK, Scope.WARP) or s.scope not in self.scopes:
            raise self.fail(f"a barrier of the {s.scope.value}, and no loop over those around it")
        if self.apart:
            raise self.fail(f"a barrier to which only some threads come: {self.apart[-1]!r}")
        if set(self.scopes) & {Scope.VECTOR, Scope.GRID}:
            raise self.fail("a barrier within a loop over lanes or over the grid")

    def copy(self, s: AsyncCopy) -> None:
        self.expr(s.to, s.at)
        if s.target.space is not Space.SHARED or s.source.space is not Space.GLOBAL or s.count < 1 \
                or s.target.dtype is not s.source.dtype:
            raise self.fail(f"no asynchronous copy of {s.count} from {s.source!r} to {s.target!r}")
        for b, first in ((s.target, s.to), (s.source, s.at)):
            self.known(b)
            low, high = bounds(first)
            if high < 0 or low > b.size - s.count:
                raise self.fail(f"a copy of {s.count} from {low} to {high} on leaves {b!r}")
        if (written := self.written.get(s.target)) is not None:
            low, high = bounds(s.to)
            written.reshape(-1)[int(max(low, 0)):int(min(high, s.target.size)) + s.count] = True

    def dot(self, s: Dot) -> None:
        how, found = s.how, (s.a.dtype, s.b.dtype, s.target.dtype)
        if found != (how.a, how.b, how.acc) or how.tile is not None:
            raise self.fail(f"{how.name} of {', '.join(map(str, found))}")
        if Scope.VECTOR in self.scopes:
            raise self.fail(f"{how.name} within a vector")
        lanes, steps = (For(v, const(n, INDEX), Seq(())) for v, n in ((s.lane, s.lanes), (s.step, how.depth)))
        with self.binding(s.lane, lanes), self.binding(s.step, steps):
            self.expr(s.a, s.b, s.target)
            self.access(Store(s.target.buffer, s.target.index, s.target), s.target.buffer, s.target.index, store=True)

    def tiles(self, s: Tiles) -> None:
        if self.held or Scope.VECTOR in self.scopes:
            raise self.fail("tiles within tiles, or within a vector")
        for b in s.buffers:
            if b.space is not Space.TILE or len(b.shape) != 2 or b in self.buffers:
                raise self.fail(f"{b!r} is no tile, or there already")
            self.buffers.add(b)
        self.held = len(self.scopes) + 1
        self.stmt(s.body)
        self.held = 0
        self.buffers -= set(s.buffers)

    def tile(self, s: TileZero | TileLoad | TileStore | TileDot) -> None:
        tiles = (s.acc, s.a, s.b) if isinstance(s, TileDot) else (s.tile,)
        for b in tiles:
            self.known(b)
            if b.space is not Space.TILE:
                raise self.fail(f"{b!r} is no tile")
        if any(scope.concurrent for scope in self.scopes[self.held - 1:]):
            raise self.fail("a loop whose iterations run at once within tiles, which are one thread's")
        if isinstance(s, TileDot):
            (m, n), (rows, k), (steps, columns) = s.acc.shape, s.a.shape, s.b.shape
            how, found = s.how, (s.a.dtype, s.b.dtype, s.acc.dtype)
            if found != (how.a, how.b, how.acc) or how.tile is None or \
                    (rows, k, columns) != (m, steps * how.depth, n * how.depth):
                raise self.fail(f"{how.name} of {s.acc!r}, {s.a!r} and {s.b!r}")
        elif isinstance(s, (TileLoad, TileStore)):
            self.moved(s)

    def moved(self, s: TileLoad | TileStore) -> None:
        b, (rows, columns) = s.buffer, s.tile.shape
        self.known(b)
        if b.space not in (Space.GLOBAL, Space.LOCAL) or len(b.shape) != 1 or b.dtype is not s.tile.dtype:
            raise self.fail(f"{s.tile!r} of {b!r}")
        r, c = Var("r", INDEX, 0, rows - 1), Var("c", INDEX, 0, columns - 1)
        index = (s.at + r * s.stride + c,)
        self.made.append(index[0])
        with self.binding(r, For(r, const(rows, INDEX), Seq(()))), self.binding(c, For(c, const(columns, INDEX), Seq(()))):
            self.expr(*index)
            element = load(b, index)
            self.access(Store(b, index, element) if isinstance(s, TileStore) else element, b, index, isinstance(s, TileStore))

    # Scopes
    @contextmanager
    def alike(self, e: Expr) -> Iterator[None]:
        """Within what runs as `e` says: do all threads of a block come by there?"""
        differs = bool(free_vars(e, self.free) & self.varying)
        if differs:
            self.apart.append(e)
        yield
        if differs:
            self.apart.pop()

    @contextmanager
    def binding(self, var: Var, by: For | Let) -> Iterator[None]:
        if var in self.bound:
            raise self.fail(f"{var!r} is bound within itself")
        self.bound[var] = by
        yield
        del self.bound[var]

    @contextmanager
    def perhaps(self) -> Iterator[None]:
        self.doubts += 1
        yield
        self.doubts -= 1

    def known(self, b: Buffer) -> None:
        if b not in self.buffers:
            raise self.fail(f"{b!r} is neither a parameter nor allocated here")

    # Expressions
    def expr(self, *roots: Expr) -> None:
        for root in roots:
            if loose := [v for v in free_vars(root, self.free) if v not in self.bound]:
                raise self.fail(f"{', '.join(sorted(v.name for v in loose))} is not bound in {root!r}")
        for node in postorder(*roots):
            if isinstance(node, Load):
                self.access(node, node.buffer, node.index, store=False)
            if id(node) in self.checked:
                continue
            self.checked.add(id(node))
            if isinstance(node, Apply):
                self.apply(node)
            elif isinstance(node, Load):
                if node.dtype is not node.buffer.dtype:
                    raise self.fail(f"{node!r} of {node.dtype} is read from {node.buffer!r}")
            elif isinstance(node, Reduce):
                raise self.fail(f"a reduction was not scheduled: {node!r}")

    def apply(self, e: Apply) -> None:
        of = [a.dtype for a in e.args]
        if KINDS.get(e.kind) != len(of):
            raise self.fail(f"{e.kind} of {len(of)} arguments")
        fine = self.typed(e.kind, of, e.dtype)
        if not fine:
            raise self.fail(f"{e.kind} of {', '.join(map(str, of))} is no {e.dtype}: {e!r}")

    @staticmethod
    def typed(kind: str, of: Sequence[DType], d: DType) -> bool:
        """Whether `kind` of arguments of dtypes `of` gives a `d`."""
        if kind == "cast":
            return True
        if kind == "bitcast":
            return of[0].bits == d.bits and not {of[0], d} & {BOOL, INDEX}
        if kind == "select":
            return of[0] is BOOL and of[1] is d and of[2] is d
        if any(x is not of[0] for x in of) or d is not (BOOL if kind in COMPARISONS or kind == "isnan" else of[0]):
            return False
        x = of[0]
        if x.name in CARRIED:
            return False
        if x is INDEX:
            return kind in INDEX_KINDS
        if kind in LOGIC:
            return (x is BOOL and kind not in ("shl", "shr")) or x.is_integer
        if kind in FLOATING:
            return x.is_float
        return x is not BOOL or kind in ("eq", "ne", "lt", "le", "min", "max")

    # Memory
    def access(self, of: Load | Store, b: Buffer, index: Sequence[Expr], store: bool) -> None:
        self.known(b)
        if b.space in (Space.TILE, Space.STREAM):
            raise self.fail(f"{b!r} is not read or written by element")
        if store and b in self.kernel.params[:self.kernel.inputs]:
            raise self.fail(f"a store into the input {b!r}")
        if len(index) != len(b.shape):
            raise self.fail(f"{len(index)} indices into {b!r}")
        ranges = []
        proved = b.length is None or bounds(b.length - self.greatest(index[0]))[0] > 0
        if b.length is not None and not self.doubts and bounds(b.length - index[0])[1] <= 0:
            raise self.fail(f"{index[0]!r} leaves {b!r} of {b.length!r}")
        for i, n in zip(index, b.shape):
            if i.dtype is not INDEX:
                raise self.fail(f"an index of {i.dtype} into {b!r}: {i!r}")
            low, high = bounds(i)
            out = low > n - 1 or high < 0 or ((low < 0 or high >= n) and self.attained(i))
            if out and not self.doubts:  # what never runs may say what it likes
                raise self.fail(f"{'a store at' if store else 'a load of'} {i!r}, which is {low} to {high}, leaves {b!r}")
            proved = proved and 0 <= low and high < n
            ranges.append((int(max(low, 0)), int(min(high, n - 1))))
        self.report.proved += proved
        if not proved:
            self.report.open.append(of)
        if store:
            self.mark(b, ranges)
        else:
            self.initialised(b, ranges, of)

    def greatest(self, i: Expr) -> Expr:
        """The most that a linear index can be, by the ends of loops, which may be made of scalars."""
        for var, by in reversed(self.bound.items()):
            step = linear(i)[0].get(var, 0)
            if isinstance(by, For) and step:
                i = substitute(i, {var: by.extent - 1 if step > 0 else const(0, INDEX)})
        return i

    def attained(self, i: Expr) -> bool:
        """Whether an index takes the ends of its range whenever its statement runs: independent loops of known extents."""
        coefficients, rest, _ = linear(i)
        if rest:
            return False
        for var in coefficients:
            by = self.bound.get(var)
            extent = by.extent if isinstance(by, For) else None
            if not isinstance(extent, Const) or (var.low or 0, var.high) != (0, extent.value - 1):
                return False
        return True

    def mark(self, b: Buffer, ranges: Sequence[tuple[int, int]]) -> None:
        if (written := self.written.get(b)) is not None:
            written[tuple(slice(low, high + 1) for low, high in ranges)] = True

    def initialised(self, b: Buffer, ranges: Sequence[tuple[int, int]], by: Expr | Stmt) -> None:
        """Some element of the range may have been written before; where the reader runs only at times, it may be later in a loop
        around it, so nothing is said."""
        written = self.written.get(b)
        if written is None or self.doubts > self.since[b] or math.prod(written.shape) == 0:
            return
        if not written[tuple(slice(low, high + 1) for low, high in ranges)].any():
            raise self.fail(f"{b!r} is read before anything is written there: {by!r}")




__all__ = ["Report", "verify"]
