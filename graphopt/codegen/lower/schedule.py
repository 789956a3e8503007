"""From compute rules to loop nests: which loops, in what order, vectorised and parallel where it pays.

One strategy serves all ops with compute rules. The result's axes are the loops, adjacent axes merged
where every access allows; a Reduce is computed at the outermost level at which its free variables are
bound, so softmax and the norms become row kernels of a few passes without a template of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphopt.codegen.kernel.effort import reduces_in, transcendental, vectorisable, work
from graphopt.codegen.kernel.expr import (
    INDEX,
    Apply,
    Buffer,
    Const,
    Expr,
    Load,
    Reduce,
    Var,
    bounds,
    combine,
    const,
    free_vars,
    identity_of,
    linear,
    minimum,
    postorder,
    substitute,
)
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import Alloc, For, Seq, Shuffle, Stmt, loop, seq, store
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.lower.columns import columns, judged
from graphopt.codegen.lower.tuning import Pick, analytic

WAYS = ("generic", "tiled", "columns")  # the plainest first
STRETCH = 64  # elements that a tile of a transposition stores in a row
SHORT = 8  # elements of a row for which a tile is too much


@dataclass(frozen=True)
class Style:
    """How a target likes its loops. `lanes`: f32 elements of a vector, 1 for none; `parallel_work`: scalar
    operations below which a kernel stays on one thread; `threads`: how many share a parallel loop. `bind`: one nest a
    kernel, whose loops over result elements have this scope: GRID where every element is a thread's. `templated`: ops that
    have no lowering rule but, whatever their shapes and dtypes, a template of the target's. `pick` decides between a
    template's candidates. `control`: branches and loops are part of programs. `line`: bytes of a line of the caches."""

    lanes: int = 1
    threads: int = 1
    parallel_work: int = 1 << 16
    accumulators: int = 4
    bind: Scope | None = None
    templated: frozenset[str] = frozenset()
    pick: Pick = field(default=analytic, compare=False)
    control: bool = False
    line: int = 64


@dataclass(frozen=True)
class Output:
    """A buffer (flat) and the element to store at each point of the iteration space, in row-major order."""

    buffer: Buffer
    value: Expr


def iteration(shape: Sequence[int]) -> tuple[Var, ...]:
    """Loop variables for a result's axes."""
    return tuple(Var(f"i{k}", INDEX, 0, max(n - 1, 0)) for k, n in enumerate(shape))


def schedule(vars: Sequence[Var], shape: Sequence[int], outputs: Sequence[Output], style: Style,
             place: Expr | None = None) -> Stmt:
    """The loop nest that stores each output at every point of `shape`, at offset `place` (default: row-major)."""
    return scheduled(vars, shape, outputs, style, place)[1]


def scheduled(vars: Sequence[Var], shape: Sequence[int], outputs: Sequence[Output], style: Style,
              place: Expr | None = None) -> tuple[str, Stmt]:
    """The same, after the name of the way that it goes: one of WAYS."""
    if math.prod(shape) == 0:
        return "generic", Seq(())
    used = [(v, n) for v, n in zip(vars, shape) if n != 1]
    ones: dict[Expr, Expr] = {v: const(0, INDEX) for v, n in zip(vars, shape) if n == 1}
    offset = substitute(flat_index(vars, shape) if place is None else place, ones)
    values = [substitute(o.value, ones) if ones else o.value for o in outputs]
    axes, replaced = merge([v for v, _ in used], [n for _, n in used], [*values, offset])
    *values, offset = replaced
    axes = axes or [(Var("i", INDEX, 0, 0), 1)]
    way = "generic"
    if style.lanes > 1 and not style.bind:
        before = axes
        axes, (*values, offset) = tiled(axes, [*values, offset], style.line)
        way = "generic" if axes is before else "tiled"
    stores = [(o.buffer, v) for o, v in zip(outputs, values)]
    down = None if style.bind else judged(axes, values)
    if down is not None:
        lanes = style.lanes // 2 if any(v.dtype.bits == 64 for v in values) else style.lanes
        nest = columns(down, stores, offset, lanes, style.threads, style.parallel_work)
        if nest is not None:
            return "columns", nest
        axes = [*down.rest, down.inner, *down.along]
    return way, _Nest(axes, stores, offset, style).build()


def tiled(axes: list[tuple[Var, int]], exprs: list[Expr], line: int) -> tuple[list[tuple[Var, int]], list[Expr]]:
    """The loops of a transposition, tiled: where operands are read against the grain, along another axis than the last one,
    as many elements of that axis are taken at a time as share a cache line, so that lines are read once."""
    *outer, (inner, n) = axes
    if n < SHORT or any(isinstance(node, Reduce) for e in exprs for node in postorder(e)):
        return axes, exprs
    along: set[Var] = set()
    per_line = line
    for node in postorder(*exprs):
        if isinstance(node, Load):
            coefficients, _, _ = linear(node.index[-1])
            size = node.buffer.dtype.itemsize
            if abs(coefficients.get(inner, 0)) * size >= line // 2:
                along |= {v for v, extent in outer if coefficients.get(v) == 1 and extent > 1}
                per_line = min(per_line, line // size)
    if len(along) != 1:
        return axes, exprs
    [u] = along
    extent = dict(outer)[u]
    rest = [(v, m) for v, m in outer if v is not u]
    replaced: dict[Expr, Expr] = {}

    def cut(v: Var, extent: int, size: int) -> tuple[list[tuple[Var, int]], tuple[Var, int]]:
        """The loop over blocks, and the one within; the last block overlaps its neighbour rather than being shorter."""
        if extent < 2 * size:
            return [], (v, extent)
        block, within = Var(f"{v.name}b", INDEX, 0, -(-extent // size) - 1), Var(v.name, INDEX, 0, size - 1)
        replaced[v] = (block * size if extent % size == 0 else minimum(block * size, extent - size)) + within
        return [(block, -(-extent // size))], (within, size)

    columns, column = cut(inner, n, STRETCH)
    rows, row = cut(u, extent, per_line)
    return [*rest, *columns, *rows, row, column], [substitute(e, replaced) for e in exprs] if replaced else exprs


def merge(vars: Sequence[Var], extents: Sequence[int], exprs: Sequence[Expr]) -> tuple[list[tuple[Var, int]], list[Expr]]:
    """Merge adjacent loops wherever all uses of the two variables are `outer * inner_extent + inner`."""
    axes = list(zip(vars, extents))
    exprs = list(exprs)
    k = len(axes) - 2
    while k >= 0:
        (a, n), (b, m) = axes[k], axes[k + 1]
        if _mergeable(a, b, m, exprs):
            both = Var(f"{a.name}{b.name}" if len(a.name) < 6 else a.name, INDEX, 0, n * m - 1)
            exprs = [substitute(e, {a: const(0, INDEX), b: both}) for e in exprs]
            axes[k:k + 2] = [(both, n * m)]
        k -= 1
    return axes, exprs


def _mergeable(a: Var, b: Var, m: int, exprs: Sequence[Expr]) -> bool:
    memo: dict[int, frozenset[Var]] = {}
    for root in exprs:
        free_vars(root, memo)
        for node in postorder(root):
            for child in node.children:
                if child.dtype is not INDEX or not memo[id(child)] & {a, b}:
                    continue
                if node.dtype is INDEX and not isinstance(node, Load) and _is_sum(node):
                    continue  # part of a larger sum, judged at its top
                if not _joint(child, a, b, m, memo):
                    return False
        if root.dtype is INDEX and not _joint(root, a, b, m, memo):
            return False
    return True


def _is_sum(node: Expr) -> bool:
    return isinstance(node, Apply) and (node.kind == "add" or (node.kind == "mul" and isinstance(node.args[1], Const)))


def _joint(e: Expr, a: Var, b: Var, m: int, memo: dict[int, frozenset[Var]]) -> bool:
    coefficients, rest, _ = linear(e)
    if coefficients.get(a, 0) != coefficients.get(b, 0) * m:
        return False
    return not any(free_vars(r, memo) & {a, b} for r in rest)


class _Nest:
    def __init__(self, axes: list[tuple[Var, int]], stores: list[tuple[Buffer, Expr]], offset: Expr, style: Style) -> None:
        self.axes, self.stores, self.offset, self.style = axes, stores, offset, style
        self.names = iter(range(1 << 30))
        self.in_place = False  # whether the results' last loop changes what is stored there already: no element twice
        self.own = style.bind or Scope.SERIAL  # the scope of loops over result elements

    def build(self) -> Stmt:
        axes, style = self.axes, self.style
        total = math.prod(n for _, n in axes)
        effort = total * sum(max(1, work(v)) for _, v in self.stores)
        parallel = style.threads > 1 and effort >= style.parallel_work
        *outer, (inner, n) = axes
        values = [v for _, v in self.stores]
        if not parallel:
            return self.level(outer, inner, n, values, frozenset(), self.offset)
        # Enough of the outer axes become one parallel loop; one long axis is split into blocks.
        count, taken = 1, 0
        while taken < len(outer) and count < 4 * style.threads:
            count *= outer[taken][1]
            taken += 1
        if count >= style.threads:
            p = Var("p", INDEX, 0, count - 1)
            index: Expr = p
            decode: dict[Var, Expr] = {}
            for v, extent in reversed(outer[:taken]):
                decode[v] = index % extent if v is not outer[0][0] else index
                index = index // extent
            bound = frozenset((p,))
            *values, offset = (substitute(v, decode) for v in (*values, self.offset))
            body = self.level(outer[taken:], inner, n, values, bound, offset)
            return For(p, const(count, INDEX), body, Scope.PARALLEL)
        lanes = max(style.lanes, 1)
        blocks = min(style.threads * 4, n // (lanes * 16))
        if blocks < 2 or any(inner not in free_vars(r) for v in values for r in postorder(v) if isinstance(r, Reduce)):
            return self.level(outer, inner, n, values, frozenset(), self.offset)
        size = -(-n // blocks // lanes) * lanes
        blocks = -(-n // size)
        p = Var("p", INDEX, 0, blocks - 1)
        # The last block overlaps its neighbour rather than being shorter: every element is stored with the same value.
        start = minimum(p * size, n - size)
        shifted = Var(inner.name, INDEX, 0, size - 1)
        move = {inner: start + shifted}
        *values, offset = (substitute(v, move) for v in (*values, self.offset))
        body = self.level(outer, shifted, size, values, frozenset((p,)), offset)
        return For(p, const(blocks, INDEX), body, Scope.PARALLEL)

    def level(self, outer: list[tuple[Var, int]], inner: Var, n: int, values: list[Expr], bound: frozenset[Var],
              offset: Expr) -> Stmt:
        def then(values: list[Expr]) -> Stmt:
            if outer:
                (v, extent), *rest = outer
                return For(v, const(extent, INDEX), self.level(rest, inner, n, values, bound | {v}, offset), self.own)
            return self.innermost(inner, n, values, bound, offset)

        return self.hoist(values, bound, then, None if outer else (inner, n, offset))

    def innermost(self, inner: Var, n: int, values: list[Expr], bound: frozenset[Var], offset: Expr) -> Stmt:
        low, high = interior(values, inner, n)
        if (low, high) == (0, n) or self.style.bind:
            return self.row(inner, n, values, bound, offset)
        parts = []
        for first, end in ((0, low), (low, high), (high, n)):
            if end > first:
                part = Var(inner.name, INDEX, 0, end - first - 1)
                moved = {inner: part + first if end - first > 1 else const(first, INDEX)}
                *there, place = (substitute(v, moved) for v in (*values, offset))
                parts.append(self.row(part, end - first, there, bound, place))
        return seq(*parts)

    def row(self, inner: Var, n: int, values: list[Expr], bound: frozenset[Var], offset: Expr) -> Stmt:
        """The innermost loop, vectorised where it pays."""
        lanes = self.lanes_for(values)
        while lanes > 4 and n < lanes:
            lanes //= 2  # a short row still fills a narrower vector
        if lanes == 1 or n < lanes or not vectorisable(values, inner):
            return For(inner, const(n, INDEX), self.hoist(values, bound | {inner}, lambda vs: self.write(vs, offset)), self.own)
        reducing = any(isinstance(r, Reduce) for v in values for r in postorder(v))
        wide = lanes * (self.style.accumulators if reducing and n >= lanes * self.style.accumulators else 1)

        def block(start: Expr, width: int) -> Stmt:
            lane = Var("l", INDEX, 0, width - 1)
            moved = {inner: start + lane}
            return self.vector(lane, width, lanes, [substitute(v, moved) for v in values], substitute(offset, moved))

        parts = [loop(n // wide, lambda b: block(b * wide, wide), Scope.SERIAL, inner.name)]
        left = n % wide
        parts += [block(const(n - left + k, INDEX), lanes) for k in range(0, left - lanes + 1, lanes)]
        if left % lanes and self.in_place:
            tail = Var("t", INDEX, 0, left % lanes - 1)
            moved: dict[Expr, Expr] = {inner: tail + (n - left % lanes)}
            rest = self.write([substitute(v, moved) for v in values], substitute(offset, moved))
            parts.append(For(tail, const(left % lanes, INDEX), rest, Scope.SERIAL))
        elif left % lanes:
            parts.append(block(const(n - lanes, INDEX), lanes))  # overlaps what is done already
        return seq(*parts)

    def lanes_for(self, values: list[Expr]) -> int:
        wide = any(node.dtype.name in ("f64", "i64", "u64") and node.dtype is not INDEX for v in values for node in postorder(v))
        return max(1, self.style.lanes // 2) if wide else self.style.lanes

    def write(self, values: list[Expr], offset: Expr) -> Stmt:
        return seq(*(store(b, offset, v.cast(b.dtype)) for (b, _), v in zip(self.stores, values)))

    def vector(self, lane: Var, width: int, lanes: int, values: list[Expr], offset: Expr) -> Stmt:
        """One block of lanes, in vectors of `lanes`; reductions that differ per lane keep `width` accumulators."""
        replaced: dict[Expr, Expr] = {}
        parts: list[Stmt] = []
        buffers: list[Buffer] = []

        def each(f: Callable[[Callable[[Expr], Expr]], Stmt]) -> Stmt:
            """`f`, given how expressions are moved to a vector's lanes."""
            return in_vectors(width, lanes, lambda l: f(lambda e: substitute(e, {lane: l})))

        for r in _outermost_reduces(values):
            acc = Buffer(f"acc{next(self.names)}", r.dtype, (width,), Space.LOCAL)
            buffers.append(acc)
            element = substitute(r.body, replaced)
            init = each(lambda move, r=r, acc=acc: store(acc, move(lane), identity_of(r.kind, r.dtype)))  # type: ignore[misc]
            step = each(lambda move, r=r, acc=acc, x=element: store(  # type: ignore[misc]
                acc, move(lane), combine(r.kind, acc[move(lane)], move(x))))
            parts += [init, _serial(r, step)]
            replaced[r] = acc[lane]
        final = [substitute(v, replaced) for v in values]
        parts.append(each(lambda move: self.write([move(v) for v in final], move(offset))))
        body = seq(*parts)
        for b in reversed(buffers):
            body = Alloc(b, body)
        return body

    def hoist(self, values: list[Expr], bound: frozenset[Var], then: Callable[[list[Expr]], Stmt],
              row: tuple[Var, int, Expr] | None = None) -> Stmt:
        """Compute every Reduce whose free variables are bound, innermost first, then go on with the rest. `row`: the innermost
        loop that is left, its extent, and where its elements are stored."""
        memo: dict[int, frozenset[Var]] = {}
        for r in reduces_in(values):
            inside = (c for c in postorder(r.body) if isinstance(c, Reduce))
            if free_vars(r, memo) <= bound and not any(free_vars(c, memo) <= bound for c in inside):
                acc = Buffer(f"acc{next(self.names)}", r.dtype, (1,), Space.LOCAL)
                rest = [substitute(v, {r: acc[0]}) for v in values]
                kept = self.kept(r, rest, row)
                if kept is not None:
                    element, place = kept
                    self.in_place = True
                    rest = [substitute(v, {element: self.stores[0][0][row[2]]}) for v in rest]  # type: ignore[index]
                    return Alloc(acc, seq(self.reduction(r, acc, bound, place), self.hoist(rest, bound, then, row)))
                return Alloc(acc, seq(self.reduction(r, acc, bound), self.hoist(rest, bound, then, row)))
        return then(values)

    def kept(self, r: Reduce, values: list[Expr], row: tuple[Var, int, Expr] | None) -> tuple[Expr, Expr] | None:
        """What is summed up, as the row's own loop would compute it once more, and where the sum's loop may leave it instead:
        the row of results, which that loop fills next. So softmax takes each exponential once."""
        if row is None or len(self.stores) != 1 or len(r.vars) != 1 or r.extents[0] != row[1] or self.style.bind:
            return None
        if r.dtype is not self.stores[0][0].dtype or not transcendental(r.body):
            return None
        inner, _, offset = row
        if vectorisable([r.body], r.vars[0]) and linear(offset)[0].get(inner, 0) != 1:
            return None
        element = substitute(r.body, {r.vars[0]: inner})
        if not any(node is element for v in values for node in postorder(v)):
            return None
        return element, substitute(offset, {inner: r.vars[0]})

    def reduction(self, r: Reduce, acc: Buffer, bound: frozenset[Var], place: Expr | None = None) -> Stmt:
        """Statements that leave the reduction's value in acc[0], and every element of it at `place` of the result if given."""
        if place is not None:
            axes, body = [(r.vars[0], r.extents[0])], r.body
        else:
            axes, (body,) = merge(r.vars, r.extents, [r.body])
        *outer, (last, n) = axes
        start = store(acc, 0, identity_of(r.kind, r.dtype))
        lanes = self.lanes_for([body])
        nested = any(isinstance(node, Reduce) for node in postorder(body))
        if nested or lanes == 1 or n < lanes or not vectorisable([body], last):
            def one(vs: list[Expr]) -> Stmt:
                return self.added(acc, const(0, INDEX), r.kind, vs[0], place)

            inside = self.hoist([body], bound | {v for v, _ in axes}, one)
            for v, extent in reversed(axes):
                inside = For(v, const(extent, INDEX), inside, Scope.SERIAL)
            return seq(start, inside)
        width = lanes * (self.style.accumulators if n >= lanes * self.style.accumulators else 1)
        partial = Buffer(f"part{next(self.names)}", r.dtype, (width,), Space.LOCAL)

        def step(base: Expr, count: int) -> Stmt:
            def one(lane: Expr) -> Stmt:
                move = {last: base + lane}
                there = None if place is None else substitute(place, move)
                return self.added(partial, lane, r.kind, substitute(body, move), there)

            return in_vectors(count, lanes, one)

        main = loop(n // width, lambda b: step(b * width, width), Scope.SERIAL, last.name)
        left = n % width
        parts = [main, *(step(const(n - left + k, INDEX), lanes) for k in range(0, left - lanes + 1, lanes))]
        if left % lanes:
            first = n - left % lanes
            tail = Var("t", INDEX, 0, left % lanes - 1)
            move = {last: tail + first}
            added = self.added(acc, const(0, INDEX), r.kind, substitute(body, move),
                               None if place is None else substitute(place, move))
            parts.append(For(tail, const(left % lanes, INDEX), added, Scope.SERIAL))
        inside = seq(*parts)
        for v, extent in reversed(outer):
            inside = For(v, const(extent, INDEX), inside, Scope.SERIAL)
        init = in_vectors(width, lanes, lambda lane: store(partial, lane, identity_of(r.kind, r.dtype)))
        return Alloc(partial, seq(start, init, inside, _fold(r.kind, partial, width, lanes, acc)))


    def added(self, acc: Buffer, at: Expr, kind: str, value: Expr, place: Expr | None) -> Stmt:
        """One step of a reduction, its element left at `place` of the result if given."""
        if place is None:
            return store(acc, at, combine(kind, acc[at], value))
        result = self.stores[0][0]
        return seq(store(result, place, value), store(acc, at, combine(kind, acc[at], result[place])))


def interior(values: Sequence[Expr], var: Var, n: int) -> tuple[int, int]:
    """The range of `var` in which comparisons that involve it (window borders, padding) are settled, if it is worth its own loop.

    Within it, clamps and selects fold away and accesses become vectors; outside of it the loop stays general.
    """
    low, high = 0, n
    memo: dict[int, frozenset[Var]] = {}
    for node in postorder(*values):
        if not (isinstance(node, Apply) and node.kind in ("lt", "le", "min", "max") and node.args[0].dtype is INDEX):
            continue
        if var not in free_vars(node, memo):
            continue
        coefficients, rest, constant = linear(node.args[1] - node.args[0])
        step = coefficients.pop(var, 0)
        if step == 0 or any(var in free_vars(r, memo) for r in rest):
            continue
        others: Expr = const(constant, INDEX)
        for v, c in coefficients.items():
            others = others + v * c
        least, most = bounds(others)
        for r in rest:
            a, b = bounds(r)
            least, most = least + a, most + b
        if not (math.isfinite(least) and math.isfinite(most)):
            continue
        # step * var + others is positive throughout on one side of the border, negative throughout on the other
        borders = sorted((math.floor(-least / step) + 1, math.floor(-most / step) + 1)) if step > 0 else \
            sorted((math.ceil(least / -step), math.ceil(most / -step)))
        first, last = borders
        if last <= (n + 1) // 2:
            low = max(low, last)
        elif first >= n // 2:
            high = min(high, first)
    low, high = max(low, 0), min(high, n)
    return (low, high) if high - low >= max(4, n // 2) else (0, n)


def in_vectors(width: int, lanes: int, body: Callable[[Expr], Stmt]) -> Stmt:
    """`body` of every lane of a block of so many, a vector at a time: what a wide one stores and a narrow one loads goes through
    integers in LLVM."""
    parts: list[Stmt] = []
    for first in range(0, width, lanes):
        lane = Var("l", INDEX, 0, min(lanes, width) - 1)
        parts.append(For(lane, const(min(lanes, width), INDEX), body(lane + first), Scope.VECTOR))
    return seq(*parts)


def _fold(kind: str, partial: Buffer, width: int, lanes: int, acc: Buffer) -> Stmt:
    """Halve the vectors of partial results until one is left; then add its lanes to it in other orders, so that all lanes hold
    the result (LLVM makes dozens of instructions of vectors that become narrower); then add that to acc[0]."""
    parts: list[Stmt] = []
    while width > lanes:
        width //= 2
        parts.append(in_vectors(width, lanes, lambda l, width=width: store(  # type: ignore[misc]
            partial, l, combine(kind, partial[l], partial[l + width]))))
    turned = Buffer(f"{partial.name}_turned", partial.dtype, (lanes,), Space.LOCAL)
    lane, by = Var("l", INDEX, 0, lanes - 1), lanes // 2
    while by:
        parts.append(Shuffle(turned, 0, partial, 0, 0, tuple((k + by) % lanes for k in range(lanes))))
        joined = store(partial, lane, combine(kind, partial[lane], turned[lane]))
        parts.append(For(lane, const(lanes, INDEX), joined, Scope.VECTOR))
        by //= 2
    return Alloc(turned, seq(*parts, store(acc, 0, combine(kind, acc[0], partial[0]))))


def _serial(r: Reduce, body: Stmt) -> Stmt:
    for v, extent in reversed(list(zip(r.vars, r.extents))):
        body = For(v, const(extent, INDEX), body, Scope.SERIAL)
    return body


def _outermost_reduces(values: Sequence[Expr]) -> list[Reduce]:
    """Reduces not inside the body of another one, in an order in which later ones may use earlier ones."""
    found = reduces_in(values)
    inner = {id(c) for r in found for c in postorder(r.body) if isinstance(c, Reduce)}
    return [r for r in found if id(r) not in inner]


__all__ = ["WAYS", "Output", "Style", "bounds", "iteration", "schedule", "scheduled", "work"]
