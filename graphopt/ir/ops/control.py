"""Control flow and what only running can decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.dims import Dim, DimLike, dim_symbols
from graphopt.ir.table import Operands, Trait, op
from graphopt.ir.types import BOOL, OptionalType, SequenceType, TensorType, Type, type_symbols


def relax(a: Type, b: Type, symbols: set[str]) -> Type | None:
    """The narrowest type of a value that is either an `a` or a `b`, None where there is none.

    Dims that differ, and those that use other symbols than `symbols`, become None (unknown); ranks that
    differ make the tensor unranked. Elements of sequences and optionals lose their shape instead, since
    no symbol can stand for a dim that changes from element to element.
    """
    if isinstance(a, TensorType) and isinstance(b, TensorType):
        if a.dtype is not b.dtype:
            return None
        if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
            return TensorType(a.dtype, None)
        dims = [m if m == n and dim_symbols(m) <= symbols else None for m, n in zip(a.shape, b.shape)]
        return TensorType(a.dtype, tuple(dims))  # type: ignore[arg-type]
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        element = relax(a.element, b.element, symbols)
        return None if element is None else SequenceType(_without_unknowns(element))
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        inner = [t.element if isinstance(t, OptionalType) else t for t in (a, b)]
        element = relax(inner[0], inner[1], symbols)
        return None if element is None else OptionalType(_without_unknowns(element))
    return None


def _without_unknowns(t: Type) -> Type:
    if isinstance(t, TensorType) and t.shape is not None and any(d is None for d in t.shape):
        return TensorType(t.dtype, None)
    return t


def _symbols(types: Sequence[Type | None]) -> set[str]:
    return set().union(*(type_symbols(t) for t in types if t is not None))


def _region_inputs(o: Operands, region: Any, given: Sequence[Type | None], what: str) -> None:
    if len(region.inputs) != len(given):
        raise o.fail(f"{what} @{region.name} takes {len(region.inputs)} inputs, it is given {len(given)}")
    for i, (v, t) in enumerate(zip(region.inputs, given)):
        if t is not None and (relax(v.type, t, set()) is None or _contradict(v.type, t)):
            raise o.fail(f"input {i} of {what} @{region.name} is {v.type}, it is given {t}")


def _contradict(a: Type, b: Type) -> bool:
    """Whether no tensor can be both: ranks or known dims differ."""
    if not isinstance(a, TensorType) or not isinstance(b, TensorType) or a.shape is None or b.shape is None:
        return False
    return len(a.shape) != len(b.shape) or any(isinstance(m, int) and isinstance(n, int) and m != n
                                               for m, n in zip(a.shape, b.shape))


def _scalar(value: Any, what: str) -> Any:
    array = np.asarray(value)
    if array.size != 1:
        raise EvaluationError(f"{what} must have one element, got shape {list(array.shape)}")
    return array.reshape(-1)[0]


def _if_types(o: Operands) -> list[Type]:
    captures = o.types[1:]
    then, other = o.regions
    for region, name in ((then, "branch"), (other, "branch")):
        _region_inputs(o, region, captures, name)
    if len(then.outputs) != len(other.outputs):
        raise o.fail(f"the branches have {len(then.outputs)} and {len(other.outputs)} outputs")
    # A branch that declares an input more loosely than its operand gives the same symbol another meaning.
    exact = all(v.type == t for region in o.regions for v, t in zip(region.inputs, captures))
    symbols = _symbols(captures) if exact else set()
    out = []
    for i, (a, b) in enumerate(zip(then.outputs, other.outputs)):
        merged = relax(a.type, b.type, symbols)
        if merged is None:
            raise o.fail(f"output {i} is {a.type} in one branch and {b.type} in the other")
        out.append(merged)
    return out


def operations_of(region: Any) -> DimLike:
    """Operations of one run of a region."""
    return sum((o.definition.cost(o.view(), [r.type for r in o.results])[0] for o in region.ops), 0)


def _if_operations(o: Operands, outs: Sequence[TensorType]) -> DimLike:
    """Those of the branch that has fewer: there are at least so many."""
    counts = [operations_of(r) for r in o.regions]
    known = [n for n in counts if isinstance(n, int)]
    return min(known) if len(known) == len(counts) else counts[0]


@op("if(cond: bool, captures*: any) [then, else] -> any*", types=_if_types, traits=Trait.CONTROL, operations=_if_operations)
def if_(cond, *captures, regions):
    """The outputs of `then` where cond, a tensor of one element, is true, else those of `else`.

    Both regions take the captures. A result's type is what the branches agree on.
    """
    return tuple(regions[0 if _scalar(cond, "the condition") else 1](list(captures)))


def _loop_types(o: Operands) -> list[Type]:
    body, carried = o.regions[0], o.carried
    values = o.types[2:]
    if not 0 <= carried <= len(values):
        raise o.fail(f"carried={carried}, but there are {len(values)} values")
    if len(body.inputs) < 2 or len(body.outputs) < 1 + carried:
        raise o.fail(f"the body @{body.name} must take (iteration, condition, carried..., captures...) and give "
                     "(condition, carried..., scans...)")
    _region_inputs(o, body, [None, None, *values], "the body")
    # Symbols of the operands mean the same in every iteration only where every input is declared with the operand's
    # own type and an iteration keeps it.
    exact = all(v.type == t for v, t in zip(body.inputs[2:], values))
    kept = all(v.type == w.type for v, w in zip(body.inputs[2:2 + carried], body.outputs[1:]))
    symbols = _symbols(values) if exact and kept else set()
    out: list[Type] = []
    for i in range(carried):
        start, before, after = values[i], body.inputs[2 + i].type, body.outputs[1 + i].type
        assert start is not None
        if _same_shape(before, after):
            out.append(start)
            continue
        merged = relax(start, after, symbols)
        if merged is None:
            raise o.fail(f"carried value {i} is {start} before the loop and {after} after an iteration")
        out.append(merged)
    count = trip_count(o, body) if o.rows is None else o.rows
    for v in body.outputs[1 + carried:]:
        if not isinstance(v.type, TensorType):
            raise o.fail(f"scan output {v.type} is not a tensor")
        inner = relax(v.type, v.type, symbols)
        assert isinstance(inner, TensorType)
        dims: Any = None if inner.shape is None else (count, *inner.shape)
        out.append(TensorType(inner.dtype, dims))
    return out


def _same_shape(before: Type, after: Type) -> bool:
    """Whether an iteration keeps the shape, whatever it is: the body's types say so with the same known dims."""
    return isinstance(before, TensorType) and before == after and before.shape is not None


def trip_count(o: Operands, body: Any) -> DimLike | None:
    """The number of iterations where constants tell: the trip count's value and a condition that stays true."""
    trip = o.value("trip")
    if trip is None or trip.size != 1:
        return None
    if o.cond is not None:
        start = o.value("cond")
        if start is None or start.size != 1:
            return None
        if not start.reshape(-1)[0]:
            return 0
    after = body.outputs[0]
    stays = after is body.inputs[1] or (after.constant is not None and bool(after.constant.all()))
    return max(int(trip.reshape(-1)[0]), 0) if stays else None


def _loop_operations(o: Operands, outs: Sequence[TensorType]) -> DimLike:
    """Those of all iterations; none where their number is not known."""
    return (trip_count(o, o.regions[0]) or 0) * operations_of(o.regions[0])


@op("loop(trip?: any, cond?: any, values*: any; carried: int, rows: int?) [body] -> any*", types=_loop_types,
    traits=Trait.CONTROL, operations=_loop_operations)
def loop(trip, cond, *values, carried, rows, regions, result_types):
    """ONNX Loop: run the body while the iteration is below `trip` (absent: no bound) and the condition holds (absent: true).

    values are the carried ones, then captures. The body takes (iteration i64[], condition bool[], carried...,
    captures...) and gives (condition, carried..., scan outputs...). Results are the last carried values, then
    the scan outputs stacked along a new axis 0 (no iterations: size 0). Carried values may change shape. Where there are to be
    so many `rows`, zeros follow those of fewer iterations.
    """
    bound = None if trip is None else int(_scalar(trip, "the trip count"))
    keep = True if cond is None else bool(_scalar(cond, "the condition"))
    state, captures = list(values[:carried]), list(values[carried:])
    scans: list[list[np.ndarray]] = [[] for _ in result_types[carried:]]
    iteration = 0
    while keep and (bound is None or iteration < bound):
        keep_next, *rest = regions[0]([np.asarray(iteration, np.int64), np.asarray(keep, BOOL.numpy), *state, *captures])
        keep = bool(_scalar(keep_next, "the body's condition"))
        state = rest[:carried]
        for kept, value in zip(scans, rest[carried:], strict=True):
            if kept and value.shape != kept[0].shape:
                raise EvaluationError(f"a scan output changes its shape from {list(kept[0].shape)} to {list(value.shape)}")
            kept.append(value)
        iteration += 1
    return (*state, *(_padded(_stack(kept, t), rows) for kept, t in zip(scans, result_types[carried:])))


def _padded(stacked: np.ndarray, rows: int | None) -> np.ndarray:
    if rows is None:
        return stacked
    if len(stacked) > rows:
        raise EvaluationError(f"the loop has {len(stacked)} iterations, more than its {rows} rows")
    return np.concatenate([stacked, np.zeros((rows - len(stacked), *stacked.shape[1:]), stacked.dtype)])


def _stack(kept: list[np.ndarray], t: TensorType) -> np.ndarray:
    if kept:
        return np.stack(kept)
    inner = (0,) if t.shape is None else (0, *(0 if isinstance(d, Dim) else d for d in t.shape[1:]))
    return np.zeros(inner, t.dtype.numpy)


@op("deferred(operands*: any; what: str, run: data) -> any*", types=lambda o: list(o.run.result_types),
    traits=Trait.DATA_DEPENDENT)
def deferred(*operands, what, run):
    """A source operator whose attributes depend on run-time values, or on ranks or sizes unknown at capture.

    `what` names it, `run` is a callable from the list of arrays to the list of results, with `result_types`.
    It runs on the evaluator only.
    """
    return tuple(run(list(operands)))
