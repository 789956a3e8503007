"""Indexing: gathers as loads at loaded indices, scatters and selection of the k largest as loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, binary, cast, clamp, const, maximum, minimum, select
from graphopt.codegen.kernel.loops import If, Seq, Stmt, alloc, let, loop, nest, seq
from graphopt.codegen.lower.common import is_nan, lines, read, wrapped, write
from graphopt.codegen.lower.registry import WIDENED, OpView, compute, loops
from graphopt.ir.types import I32, I64


@compute("gather")
def gather(o: OpView, *i: Expr) -> Expr:
    axis = o.axis
    rank = len(o.types[1].static_shape)
    picked = o.indices(*i[axis:axis + rank])
    return o.x(*i[:axis], wrapped(picked, o.shape("x")[axis]), *i[axis + rank:])


@compute("gather_elements")
def gather_elements(o: OpView, *i: Expr) -> Expr:
    picked = wrapped(o.indices(*i), o.shape("x")[o.axis])
    return o.x(*i[:o.axis], picked, *i[o.axis + 1:])


@compute("gather_nd")
def gather_nd(o: OpView, *i: Expr) -> Expr:
    shape = o.shape("x")
    *outer, depth = o.shape("indices")
    at = i[:len(outer)]
    b = o.batch_dims
    picked = [wrapped(o.indices(*at, const(k, INDEX)), shape[b + k]) for k in range(depth)]
    return o.x(*i[:b], *picked, *i[len(outer):])


@compute("search_sorted")
def search_sorted(o: OpView, *i: Expr) -> Expr:
    """Steps of halving size, each taken where the last key that it passes is still before the element. Places are data and no
    indices: each is used several times, and indices are written out at every use."""
    (n,) = o.shape("keys")
    x: Expr = o.x(*i)
    d = I32 if n < 1 << 30 else I64
    found: Expr = const(0, d)
    if not n:
        return const(0, I64)
    for step in (1 << k for k in reversed(range(n.bit_length()))):
        ahead = found + step
        key = o.keys(cast(minimum(ahead - 1, n - 1), INDEX))
        found = select((ahead <= n) & ((key <= x) if o.right else (key < x)), ahead, found)
    return cast(found, I64)


# Scatter ------------------------------------------------------------------------------------
def _reduced_in_scratch(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    """Narrow floats are combined in f32 and rounded once, after the last update."""
    d = o.types[0].dtype
    return [("f32", o.shape("x"))] if d.name in WIDENED and o.reduction != "none" else []


_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": maximum,
    "min": minimum,
}


def _copy(source: Buffer, target: Buffer) -> Stmt:
    if not source.shape:
        return write(target, (), read(source))
    *outer, n = source.shape

    def row(*i: Expr) -> Stmt:
        return loop(n, lambda j: write(target, (*i, j), read(source, *i, j)), name="j")

    return lines(outer, row, source.size)


def _scatter(o: OpView, x: Buffer, y: Buffer, scratch: Sequence[Buffer], update: Callable[[Callable[..., Stmt]], Stmt]) -> Stmt:
    """`y` as a copy of `x`, then `update(put)`, whose `put(index, value)` combines a value with what is there."""
    target = scratch[0] if scratch else y
    combine = _COMBINE[o.reduction]

    def put(index: Sequence[Expr], value: Expr) -> Stmt:
        return write(target, index, value if o.reduction == "none" else combine(read(target, *index), value))

    return seq(_copy(x, target), update(put), *([_copy(target, y)] if scratch else []))


@loops("scatter_elements", scratch=_reduced_in_scratch)
def scatter_elements(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    x, indices, updates = ins
    axis, n = o.axis, x.shape[o.axis]

    def update(put: Callable[..., Stmt]) -> Stmt:
        def one(*i: Expr) -> Stmt:
            return let("at", wrapped(indices[i], n), lambda at: put([*i[:axis], at, *i[axis + 1:]], read(updates, *i)))

        return nest(indices.shape, one)

    return _scatter(o, x, outs[0], scratch, update)


@loops("scatter_nd", scratch=_reduced_in_scratch)
def scatter_nd(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    x, indices, updates = ins
    *outer, depth = indices.shape

    def update(put: Callable[..., Stmt]) -> Stmt:
        def picked(i: Sequence[Expr], found: tuple[Expr, ...]) -> Stmt:
            k = len(found)
            if k < depth:
                at = wrapped(indices[(*i, const(k, INDEX))], x.shape[k])
                return let(f"at{k}", at, lambda v: picked(i, (*found, v)))
            return nest(x.shape[depth:], lambda *j: put([*found, *j], read(updates, *i, *j)), names=[f"j{n}" for n in range(8)])

        return nest(outer, lambda *i: picked(i, ()))

    return _scatter(o, x, outs[0], scratch, update)


# Selection ----------------------------------------------------------------------------------
INSERTION_LIMIT = 24  # above so many results a heap of the best takes less than insertions
HEAP_SHARE = 4  # below this share of the line, 1 / HEAP_SHARE; for more a merge sort of the whole line takes less
GLANCE = 32  # elements that are compared with the worst of the best before any of them is looked at


def _ahead(largest: bool) -> Callable[[Expr, Expr], Expr]:
    """Whether a stands strictly before b in the result; NaN counts as the greatest."""

    def ahead(a: Expr, b: Expr) -> Expr:
        out = b < a if largest else a < b
        if a.dtype.is_float:
            out = out | (is_nan(a) & ~is_nan(b) if largest else ~is_nan(a) & is_nan(b))
        return out

    return ahead


def _sort_scratch(o: OpView) -> list[tuple[str, tuple[int, ...]]]:
    n = o.shape("x")[o.axis]
    return [("i32", (n,)), ("i32", (n,))] if o.k > max(INSERTION_LIMIT, n // HEAP_SHARE) else []


@loops("top_k", scratch=_sort_scratch)
def top_k(o: OpView, ins: Sequence[Buffer], outs: Sequence[Buffer], scratch: Sequence[Buffer]) -> Stmt:
    (x,), (values, indices) = ins, outs
    axis = o.axis
    others = (*x.shape[:axis], *x.shape[axis + 1:])
    if o.k == 0:
        return Seq(())

    def line(*other: Expr) -> Stmt:
        def at(k: Expr) -> tuple[Expr, ...]:
            return (*other[:axis], k, *other[axis:])

        if scratch:
            return _by_merging(o, x, values, indices, at, scratch)
        return (_by_heap if o.k > INSERTION_LIMIT else _by_insertion)(o, x, values, indices, at)

    # A merge sort has one scratch line for all.
    return nest(others, line) if scratch else lines(others, line, 4 * x.size)


At = Callable[[Expr], tuple[Expr, ...]]


def _by_insertion(o: OpView, x: Buffer, values: Buffer, indices: Buffer, at: At) -> Stmt:
    """One pass that keeps the best k so far in order, in the results themselves."""
    k, n, ahead = o.k, x.shape[o.axis], _ahead(o.largest)

    def insert(j: Expr, v: Expr, place: Buffer) -> Stmt:
        def count(t: Expr) -> Stmt:
            stays = (t < j) & ~ahead(v, read(values, *at(t)))
            return write(place, [0], place[0] + cast(stays, I32))

        def move(t: Expr) -> Stmt:
            to = k - 1 - t
            behind = cast(place[0], INDEX) < to
            return If(behind, seq(write(values, at(to), read(values, *at(to - 1))),
                                  write(indices, at(to), read(indices, *at(to - 1)))))

        here = at(clamp(cast(place[0], INDEX), 0, k - 1))
        return seq(write(place, [0], const(0, I32)), loop(k, count, name="t"), loop(k - 1, move, name="t"),
                   write(values, here, v), write(indices, here, cast(j, I64)))

    def all_of_line(place: Buffer) -> Stmt:
        first = loop(k, lambda j: let("v", read(x, *at(j)), lambda v: insert(j, v, place)), name="j")
        return seq(first, _newcomers(x, k, n, at, lambda: read(values, *at(const(k - 1, INDEX))), ahead,
                                     lambda j, v: insert(j, v, place)))

    return alloc("place", I32, (1,), all_of_line)


def _newcomers(x: Buffer, k: int, n: int, at: At, worst: Callable[[], Expr], ahead: Callable[[Expr, Expr], Expr],
               enter: Callable[[Expr, Expr], Stmt]) -> Stmt:
    """`enter(j, element)` for those behind the first k that stand before the worst of the best so far; mostly there are none
    among many, which vectors see at once."""

    def one(j: Expr) -> Stmt:
        return let("v", read(x, *at(j)), lambda v: If(ahead(v, worst()), enter(j, v)))

    def some(b: Expr) -> Stmt:
        first = b * GLANCE + k

        def glance(found: Buffer) -> Stmt:
            look = let("w", worst(), lambda w: loop(GLANCE, lambda j: write(
                found, [0], found[0] + cast(ahead(read(x, *at(first + j)), w), I32)), name="j"))
            return seq(write(found, [0], const(0, I32)), look,
                       If(found[0] > 0, loop(GLANCE, lambda j: one(first + j), name="j")))

        return alloc("found", I32, (1,), glance)

    whole = (n - k) // GLANCE
    return seq(loop(whole, some, name="b"), loop(n - k - whole * GLANCE, lambda j: one(j + (k + whole * GLANCE)), name="j"))


def _by_heap(o: OpView, x: Buffer, values: Buffer, indices: Buffer, at: At) -> Stmt:
    """One pass that keeps the best k so far as a heap, the worst on top, in the results themselves; then they are put in order
    (heapsort: Williams, CACM 7(6), 1964)."""
    k, n, ahead = o.k, x.shape[o.axis], _ahead(o.largest)
    element = lambda t: read(values, *at(t))
    index = lambda t: read(indices, *at(t))

    def behind(t: Expr, v: Expr, j: Expr) -> Expr:
        """Whether what the heap holds at t stands behind element v of index j; of equals the higher index does."""
        return ahead(v, element(t)) | (~ahead(element(t), v) & (j < index(t)))

    def put(t: Expr, v: Expr, j: Expr) -> Stmt:
        return seq(write(values, at(t), v), write(indices, at(t), j))

    def sift(hole: Buffer, top: Expr, size: Expr, v: Expr, j: Expr) -> Stmt:
        """Element v of index j into the heap of `size` elements whose place `top` is free: worse ones move up."""
        def level(_: Expr) -> Stmt:
            here = clamp(cast(hole[0], INDEX), 0, k - 1)
            child = here * 2 + 1
            left, right = minimum(child, k - 1), minimum(child + 1, k - 1)
            second = (child + 1 < size) & behind(right, element(left), index(left))

            def move(c: Expr) -> Stmt:
                return If(behind(c, v, j), seq(put(here, element(c), index(c)), write(hole, [0], cast(c, I32))),
                          write(hole, [1], const(0, I32)))

            return If((hole[1] > 0) & (child < size), let("c", select(second, right, left), move))

        return seq(write(hole, [0], cast(top, I32)), write(hole, [1], const(1, I32)),
                   loop(k.bit_length() - 1, level, name="level"), put(clamp(cast(hole[0], INDEX), 0, k - 1), v, j))

    def line(hole: Buffer) -> Stmt:
        whole = const(k, INDEX)
        fill = loop(k, lambda t: put(t, read(x, *at(t)), cast(t, I64)), name="t")

        def held(t: Expr, then: Callable[[Expr, Expr], Stmt]) -> Stmt:
            return let("v", element(t), lambda v: let("at", index(t), lambda j: then(v, j)))

        build = loop(k // 2, lambda t: held(k // 2 - 1 - t, lambda v, j: sift(hole, k // 2 - 1 - t, whole, v, j)), name="t")
        scan = _newcomers(x, k, n, at, lambda: element(const(0, INDEX)), ahead,
                          lambda j, v: sift(hole, const(0, INDEX), whole, v, cast(j, I64)))

        def last(t: Expr) -> Stmt:
            """The worst of those left goes to their end."""
            end, top = k - 1 - t, const(0, INDEX)
            return held(end, lambda v, j: seq(put(end, element(top), index(top)), sift(hole, top, end, v, j)))

        return seq(fill, build, scan, loop(k - 1, last, name="t"))

    return alloc("hole", I32, (2,), line)


def _by_merging(o: OpView, x: Buffer, values: Buffer, indices: Buffer, at: At, scratch: Sequence[Buffer]) -> Stmt:
    """A stable bottom-up merge sort of positions, of which the first k are the result."""
    n, ahead = x.shape[o.axis], _ahead(o.largest)
    source, target = scratch
    steps = [loop(n, lambda j: write(source, [j], cast(j, I32)), name="j")]
    width = 1
    while width < n:
        steps.append(_merge_runs(x, at, source, target, n, width, ahead))
        source, target = target, source
        width *= 2

    def result(t: Expr) -> Stmt:
        return let("j", wrapped(source[t], n), lambda j: seq(write(values, at(t), read(x, *at(j))),
                                                             write(indices, at(t), cast(j, I64))))

    return seq(*steps, loop(o.k, result, name="t"))


def _merge_runs(x: Buffer, at: At, source: Buffer, target: Buffer, n: int, width: int,
                ahead: Callable[[Expr, Expr], Expr]) -> Stmt:
    """Merge every two neighbouring runs of `width` positions of `source` into one of `target`."""

    def pair(q: Expr) -> Stmt:
        begin = q * (2 * width)
        middle, end = minimum(begin + width, n), minimum(begin + 2 * width, n)

        def merge(cursor: Buffer) -> Stmt:
            left, right = cast(cursor[0], INDEX), cast(cursor[1], INDEX)

            def take(t: Expr, a: Expr, b: Expr) -> Stmt:
                # The right one goes first only if it is strictly better, so that equals keep their order.
                better = ahead(read(x, *at(wrapped(b, n))), read(x, *at(wrapped(a, n))))
                from_right = binary("le", middle, left) | ((right < end) & better)
                return let("right_first", from_right, lambda r: seq(
                    write(target, [begin + t], select(r, b, a)),
                    If(r, write(cursor, [1], cursor[1] + 1), write(cursor, [0], cursor[0] + 1))))

            def step(t: Expr) -> Stmt:
                return let("a", source[clamp(left, 0, n - 1)], lambda a: let("b", source[clamp(right, 0, n - 1)],
                                                                             lambda b: take(t, a, b)))

            return seq(write(cursor, [0], cast(begin, I32)), write(cursor, [1], cast(middle, I32)),
                       loop(end - begin, step, name="t"))

        return alloc("cursor", I32, (2,), merge)

    return loop(-(-n // (2 * width)), pair, name="q")
