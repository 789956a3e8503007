"""Loop nests: the imperative form of a kernel, between scalar expressions and a target's own language."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.dot import Instruction
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, ExprLike, Load, Var, as_expr, call, cast, const, substitute
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.errors import CodegenError


class Stmt:
    __slots__ = ()


@dataclass(frozen=True, eq=False)
class For(Stmt):
    """`var` from 0 to `extent` - 1; what runs the iterations is the `scope`. No extent, or a negative one: no iteration."""

    var: Var
    extent: Expr
    body: Stmt
    scope: Scope = Scope.SERIAL

    def __post_init__(self) -> None:
        if not isinstance(self.scope, Scope):
            raise TypeError(f"loop over {self.var!r} in {self.scope!r}, which is no Scope")


@dataclass(frozen=True, eq=False)
class Store(Stmt):
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Seq(Stmt):
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class If(Stmt):
    condition: Expr
    then: Stmt
    otherwise: Stmt | None = None


@dataclass(frozen=True, eq=False)
class Let(Stmt):
    """Bind `var` to `value` within `body`."""

    var: Var
    value: Expr
    body: Stmt


@dataclass(frozen=True, eq=False)
class Alloc(Stmt):
    """A local buffer that lives for `body`; small ones become registers where every index is constant."""

    buffer: Buffer
    body: Stmt


@dataclass(frozen=True, eq=False)
class Prefetch(Stmt):
    """A hint that the cache line of `buffer[index]` is wanted soon, in the cache of `level` (1 or 2). Means nothing; the
    index may lie outside of the buffer."""

    buffer: Buffer
    index: Expr
    level: int = 2


@dataclass(frozen=True, eq=False)
class Shuffle(Stmt):
    """target[at + l] = (source[a], ..., source[a + w - 1], source[b], ..., source[b + w - 1])[order[l]] for all l of w lanes.

    For targets with vectors in registers, where element by element the compiler loses sight of the pattern.
    """

    target: Buffer
    at: int
    source: Buffer
    a: int
    b: int
    order: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Barrier(Stmt):
    """No thread of the block (or, with scope WARP, of the warp) goes on before all of them are here; what they have written until
    here is seen by all behind. It stands in a loop over threads, where all of them pass it equally often, or between two."""

    scope: Scope = Scope.BLOCK


@dataclass(frozen=True, eq=False)
class AsyncCopy(Stmt):
    """target[to + k] = source[at + k] for k from 0 to `count` - 1, by flat positions, from global memory to shared: begun here,
    done at some time until the thread's `Wait` for it. Until then neither side may be touched. It joins the thread's open
    group."""

    target: Buffer
    to: Expr
    source: Buffer
    at: Expr
    count: int


@dataclass(frozen=True, eq=False)
class Commit(Stmt):
    """Closes the thread's group of copies that were begun since the last one, and opens the next."""


@dataclass(frozen=True, eq=False)
class Wait(Stmt):
    """The copies of all groups of this thread but the last `left` ones are done. Other threads see them behind a barrier."""

    left: int = 0


@dataclass(frozen=True, eq=False)
class Dot(Stmt):
    """The inner step of a contraction, one instruction: for all `lane` of `lanes` at once, `target` becomes itself plus the
    products a * b over `step` of how.depth, in the arithmetic that `how` says.

    `target` is an element that `lane` tells, `a` and `b` are elements (how.a and how.b) that `lane` and `step` tell. Where the
    depth is over 1 each must lie in memory as the instruction takes it: its steps side by side, and the lanes side by side or
    all the same.
    """

    target: Load
    lane: Var
    lanes: int
    step: Var
    a: Expr
    b: Expr
    how: Instruction

    def plain(self) -> Stmt:
        """The same in other statements. CodegenError where none has its rounding."""
        if self.how.depth > 1 and not self.how.exact:
            raise CodegenError(f"no other instructions round as {self.how.name} does", hint="Take it where the target has it")
        value: Expr = self.target
        for k in range(self.how.depth):
            a, b = (cast(substitute(x, {self.step: const(k, INDEX)}), self.how.acc) for x in (self.a, self.b))
            value = call("fma", a, b, value) if self.how.fused else value + a * b
        return For(self.lane, const(self.lanes, INDEX), Store(self.target.buffer, self.target.index, value), Scope.VECTOR)


@dataclass(frozen=True, eq=False)
class Tiles(Stmt):
    """Tile registers, in the shapes of `buffers` (in Space.TILE, [rows, elements of a row]), configured while `body` runs and
    released after it. They hold anything at first. Not within one another; a parallel loop stands around and not inside."""

    buffers: tuple[Buffer, ...]
    body: Stmt


@dataclass(frozen=True, eq=False)
class TileZero(Stmt):
    tile: Buffer


@dataclass(frozen=True, eq=False)
class TileLoad(Stmt):
    """Row r of a tile is `buffer[at + r * stride]` and what follows, a row's elements; `buffer` has one axis."""

    tile: Buffer
    buffer: Buffer
    at: Expr
    stride: Expr


@dataclass(frozen=True, eq=False)
class TileStore(Stmt):
    """The reverse of `TileLoad`."""

    tile: Buffer
    buffer: Buffer
    at: Expr
    stride: Expr


@dataclass(frozen=True, eq=False)
class TileDot(Stmt):
    """`acc` becomes itself plus the product of `a` and `b`, as `how` (an instruction on tiles) says."""

    acc: Buffer
    a: Buffer
    b: Buffer
    how: Instruction


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function over raw pointers: `params` in order, inputs first, then outputs, then scratch memory.

    `template` is what made it: a target's template by its name; else `columns`, `tiled` or `generic` for the schedule's ways,
    `loops` for a loop rule.

    Behind the buffers come `scalars`, as 64-bit integers: sizes that are known when it is called only. Ends of loops, indices and
    lengths of buffers may be made of them; each lies in the range that its variable says.
    """

    name: str
    params: tuple[Buffer, ...]
    body: Stmt
    inputs: int
    outputs: int
    template: str = "generic"
    scalars: tuple[Var, ...] = ()


def loop(extent: ExprLike, body: Callable[[Expr], Stmt], scope: Scope = Scope.SERIAL, name: str = "i") -> Stmt:
    """`loop(n, lambda i: store(...))`. A loop of one iteration disappears, one of none is an empty statement."""
    count = as_expr(extent)
    value = getattr(count, "value", None)
    if value == 0:
        return Seq(())
    if value == 1:
        return body(const(0, INDEX))
    var = Var(name, INDEX, 0, None if value is None else value - 1)
    return For(var, count, body(var), scope)


def nest(extents: Sequence[ExprLike], body: Callable[..., Stmt], names: Sequence[str] = (), scope: Scope = Scope.SERIAL) -> Stmt:
    """Nested loops, outermost first; `body` takes one index per extent."""

    def level(k: int, index: tuple[Expr, ...]) -> Stmt:
        if k == len(extents):
            return body(*index)
        return loop(extents[k], lambda i: level(k + 1, (*index, i)), scope, names[k] if k < len(names) else f"i{k}")

    return level(0, ())


def store(buffer: Buffer, index: Sequence[ExprLike] | ExprLike, value: Expr) -> Store:
    idx = tuple(as_expr(i) for i in (index if isinstance(index, (tuple, list)) else (index,)))
    if len(idx) != len(buffer.shape):
        raise ValueError(f"{len(idx)} indices into {buffer!r}")
    if value.dtype is not buffer.dtype:
        raise ValueError(f"storing {value.dtype} into {buffer!r}")
    return Store(buffer, idx, value)


def seq(*body: Stmt) -> Stmt:
    """Statements in order, flattened."""
    flat: list[Stmt] = []
    for s in body:
        flat.extend(s.body if isinstance(s, Seq) else (s,))
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def dot(target: Load, a: Callable[[Expr], Expr], b: Callable[[Expr, Expr], Expr], lane: Var, lanes: int, how: Instruction) -> Dot:
    """`target` plus the products of a(step) and b(step, lane), as the instruction has them: they may come the other way round."""
    step = Var("s", INDEX, 0, how.depth - 1)
    k: Expr = step if how.depth > 1 else const(0, INDEX)
    x, y = a(k), b(k, lane)
    if x.dtype is not how.a and (y.dtype, x.dtype) == (how.a, how.b):
        x, y = y, x
    return Dot(target, lane, lanes, step, x, y, how)


def let(name: str, value: Expr, body: Callable[[Expr], Stmt]) -> Stmt:
    var = Var(name, value.dtype)
    return Let(var, value, body(var))


def alloc(name: str, dtype_of: object, shape: Sequence[int], body: Callable[[Buffer], Stmt],
          space: Space = Space.LOCAL) -> Stmt:
    buffer = Buffer(name, dtype_of, shape, space)  # type: ignore[arg-type]
    return Alloc(buffer, body(buffer))


def statements(s: Stmt) -> Iterator[Stmt]:
    """The statement and all within it, outermost first."""
    yield s
    if isinstance(s, Seq):
        for x in s.body:
            yield from statements(x)
    elif isinstance(s, (For, Let, Alloc, Tiles)):
        yield from statements(s.body)
    elif isinstance(s, If):
        yield from statements(s.then)
        if s.otherwise is not None:
            yield from statements(s.otherwise)
