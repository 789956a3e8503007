"""Pooling: reductions over windows. Windows reach into padding, where loads are held inside and dropped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphopt.codegen.kernel.expr import Expr, binary, cast, clamp, const, identity_of, reduce, select
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.lower.common import TRUE, ZERO, all_of, guarded, inside, is_nan
from graphopt.codegen.lower.registry import OpView, compute, computed
from graphopt.ir.types import I64, DType

WINDOWS = {"max_pool": "max", "avg_pool": "sum"}  # what each combines the elements of a window by


def _split(o: OpView, i: Sequence[Expr], spatial: int) -> tuple[list[Expr], list[Expr], tuple[int, ...]]:
    """(leading index, spatial index, spatial sizes of x); x comes with or without a batch axis."""
    lead = len(i) - spatial
    return list(i[:lead]), list(i[lead:]), o.shape("x")[lead:]


def _positions(o: OpView, at: Sequence[Expr], k: Sequence[Expr]) -> list[Expr]:
    return [p * s - b + q * d for p, s, b, q, d in zip(at, o.stride, o.pad, k, o.dilation)]


def _lowest(o: OpView) -> Expr:
    return identity_of("max", computed(o.types[0].dtype))


def _window_max(o: OpView, i: Sequence[Expr]) -> Expr:
    lead, at, sizes = _split(o, i, len(o.kernel))
    return reduce(WINDOWS["max_pool"], o.kernel,
                  lambda *k: guarded(lambda *p: o.x(*lead, *p), _positions(o, at, k), sizes, _lowest(o)))


@compute("max_pool")
def max_pool(o: OpView, *i: Expr) -> Expr:
    return _window_max(o, i)


@compute("max_pool_indices")
def max_pool_indices(o: OpView, *i: Expr) -> Expr:
    best = _window_max(o, i)
    if o.result == 0:
        return best
    lead, at, sizes = _split(o, i, len(o.kernel))

    def candidate(*k: Expr) -> Expr:
        positions = _positions(o, at, k)
        held = [clamp(p, 0, max(n - 1, 0)) for p, n in zip(positions, sizes)]
        x = o.x(*lead, *held)
        hit = all_of([inside(p, n) for p, n in zip(positions, sizes)]) & (x.eq(best) | is_nan(x))
        return select(hit, cast(flat_index([*lead, *held], o.shape("x")), I64), identity_of("min", I64))

    return reduce("min", o.kernel, candidate)


def _taps(start: Expr, low: int, high: int, kernel: int, dilation: int) -> Expr:
    """How many of start, start + dilation, ... (kernel of them) lie in low <= . < high."""

    def before(limit: int) -> Expr:
        return clamp((limit - start + (dilation - 1)) // dilation, 0, kernel)

    return before(high) - before(low)


@compute("avg_pool")
def avg_pool(o: OpView, *i: Expr) -> Expr:
    spatial = len(o.kernel)
    lead, at, sizes = _split(o, i, spatial)
    total = reduce(WINDOWS["avg_pool"], o.kernel, lambda *k: guarded(lambda *p: o.x(*lead, *p), _positions(o, at, k), sizes, 0))
    return total / shares(o, at, sizes)


def shares(o: OpView, at: Sequence[Expr], sizes: Sequence[int]) -> Expr:
    """What the sum over the window at `at` is divided by: the divisor, or how many elements the window has (at least 1, so
    that one without elements gives 0)."""
    d = computed(o.types[0].dtype)
    if o.divisor is not None:
        return const(o.divisor, d)
    spatial = len(o.kernel)
    count: Expr = const(1, ZERO.dtype)
    starts = _positions(o, at, [ZERO] * spatial)
    for start, n, k, step, begin, end in zip(starts, sizes, o.kernel, o.dilation, o.pad[:spatial], o.pad[spatial:]):
        low, high = (-begin, n + end) if o.count_include_pad else (0, n)
        count = count * _taps(start, low, high, k, step)
    return cast(binary("max", count, 1), d)


class _Cells:
    """The stretch of an axis of n that each of m output elements covers: floor(i*n/m) to ceil((i+1)*n/m)."""

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        self.widest = max(self._end(i) - i * n // m for i in range(m))
        self.uniform = n % m == 0

    def _end(self, i: int) -> int:
        return -(-(i + 1) * self.n // self.m)

    def start(self, i: Expr) -> Expr:
        return i * self.n // self.m

    def width(self, i: Expr) -> Expr:
        return ((i + 1) * self.n + (self.m - 1)) // self.m - self.start(i)

    def contains(self, i: Expr, k: Expr) -> Expr:
        return TRUE if self.uniform else k < self.width(i)


def _over_cells(o: OpView, i: Sequence[Expr], kind: str, element: Callable[[Expr, list[Expr]], Expr], d: DType) -> Expr:
    """`kind` of element(x, position) over the cell of output index `i`."""
    lead, at, sizes = _split(o, i, len(o.output))
    cells = [_Cells(n, m) for n, m in zip(sizes, o.output)]

    def body(*k: Expr) -> Expr:
        positions = [clamp(c.start(p) + q, 0, max(c.n - 1, 0)) for c, p, q in zip(cells, at, k)]
        hit = all_of([c.contains(p, q) for c, p, q in zip(cells, at, k)])
        return select(hit, element(o.x(*lead, *positions), positions), identity_of(kind, d))

    return reduce(kind, [c.widest for c in cells], body)


@compute("adaptive_avg_pool")
def adaptive_avg_pool(o: OpView, *i: Expr) -> Expr:
    _, at, sizes = _split(o, i, len(o.output))
    total = _over_cells(o, i, "sum", lambda x, _: x, o.dtype)
    count: Expr = const(1, ZERO.dtype)
    for p, n, m in zip(at, sizes, o.output):
        count = count * _Cells(n, m).width(p)
    return total / cast(count, total.dtype)


@compute("adaptive_max_pool")
def adaptive_max_pool(o: OpView, *i: Expr) -> Expr:
    best = _over_cells(o, i, "max", lambda x, _: x, computed(o.types[0].dtype))
    if o.result == 0:
        return best
    sizes = o.shape("x")[len(i) - len(o.output):]

    def candidate(x: Expr, positions: list[Expr]) -> Expr:
        hit = x.eq(best) | is_nan(x)
        return select(hit, cast(flat_index(positions, sizes), I64), identity_of("min", I64))

    return _over_cells(o, i, "min", candidate, I64)
