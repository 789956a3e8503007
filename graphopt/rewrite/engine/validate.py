"""Translation validation: does a graph compute the same before and after a pass, and which change is to blame if not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphopt.errors import EvaluationError, RewriteError
from graphopt.ir.dims import DimLike, substitute
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.table import Trait
from graphopt.ir.types import DType, MapType, OptionalType, SequenceType, Type, dtype


def random_inputs(graph: Graph, seed: int = 0, symbols: Mapping[str, int] | None = None) -> list[Any]:
    """Inputs drawn from the types: floats around zero, small non-negative integers, symbolic dims of 2 to 5."""
    sizes: dict[str, int] = dict(symbols or {})
    for s in graph.symbols():
        sizes.setdefault(s, 2 + zlib.crc32(f"{seed}:{s}".encode()) % 4)
    rng = np.random.default_rng(seed)
    return [_random(v.type, sizes, rng) for v in graph.inputs]


def _random(t: Type, sizes: Mapping[str, int], rng: np.random.Generator) -> Any:
    if isinstance(t, SequenceType):
        return [_random(t.element, sizes, rng) for _ in range(2)]
    if isinstance(t, OptionalType):
        return _random(t.element, sizes, rng)
    if isinstance(t, MapType):
        keys = ("a", "b c") if t.key.kind == "str" else (0, 2)
        return {k: _random(t.element, sizes, rng).item() for k in keys}
    if t.shape is None:
        raise RewriteError(f"cannot draw an input of type {t}", hint="Give inputs= to the validation")
    shape = tuple(_size(d, sizes) for d in t.shape)
    return random_array(t.dtype, shape, rng)


def _size(d: DimLike, sizes: Mapping[str, int]) -> int:
    n = substitute(d, sizes)
    assert isinstance(n, int)
    return n


def random_array(d: DType, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """An array of that dtype with ordinary contents."""
    if d.is_float:
        return rng.standard_normal(shape).astype(d.numpy)
    if d.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if d.kind == "str":
        return np.array(rng.choice(["", "a", "b c", "Ä"], shape), dtype=object)
    return rng.integers(0, min(4, 2 ** (d.bits - 1)), shape).astype(d.numpy)


def difference(expected: Any, got: Any, ulps: float, noise: float = 0.0) -> str | None:
    """What differs by more than `ulps`, in words, or None.

    Floats: |a - b| <= ulps · (eps · largest finite magnitude of the tensor + noise), NaN and infinities in the same
    places; `noise` is by how much one ulp on the inputs changes the result; ulps = 0 means equal values. Other dtypes must
    be equal; where ulps > 0, one element in a hundred may differ, since comparisons and roundings sit on the other side
    of a tie.
    """
    if isinstance(expected, list) or isinstance(got, list):
        if not isinstance(expected, list) or not isinstance(got, list) or len(expected) != len(got):
            return "sequences of different length"
        found = (difference(a, b, ulps, noise) for a, b in zip(expected, got))
        return next((f"element {i}: {text}" for i, text in enumerate(found) if text is not None), None)
    if isinstance(expected, dict):
        if not isinstance(got, dict) or list(expected) != list(got):
            return "maps with different keys"
        return difference(np.array(list(expected.values())), np.array(list(got.values())), ulps, noise)
    if expected is None or got is None:
        return None if expected is got else "one is absent"
    if expected.dtype != got.dtype or expected.shape != got.shape:
        return f"{expected.dtype}{list(expected.shape)} became {got.dtype}{list(got.shape)}"
    if expected.size == 0:
        return None
    if not _is_float(expected.dtype):
        wrong = int(np.sum(expected != got))
        allowed = expected.size // 100 if ulps else 0
        return f"{wrong} of {expected.size} elements differ" if wrong > allowed else None
    a, b = expected.astype(np.float64), got.astype(np.float64)
    eps = float(_eps(expected.dtype))
    finite = np.abs(a[np.isfinite(a)])
    allowance = ulps * (eps * (finite.max() if finite.size else 0.0) + noise)
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= allowance))
    if same.all():
        return None
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return (f"{int((~same).sum())} of {a.size} elements differ by more than {ulps:g} ulps of the tensor's magnitude; "
            f"at {list(at)} {a[at]!r} became {b[at]!r}")


def _is_float(d: np.dtype) -> bool:
    return dtype(d).is_float


def _eps(d: np.dtype) -> float:
    return float(ml_dtypes.finfo(d).eps)


def is_deterministic(graph: Graph) -> bool:
    """Do two evaluations give the same? Not where a random op has no seed."""
    return not any(op.definition.has(Trait.RANDOM) and op.attrs.get("seed") is None for op in graph.walk())


@dataclass
class Mismatch:
    """Output number `output` differs, by `text`."""

    output: int
    text: str


def sensitivity(graph: Graph, inputs: Sequence[Any], expected: Sequence[Any], seed: int = 0) -> list[float]:
    """By how much each output changes at most when every float input moves by an ulp: no rewrite can be asked to be nearer.

    Sums that cancel, like that of a standardised row, have no digit of their own; this tells them from wrong ones.
    """
    rng = np.random.default_rng(seed)
    moved = [nudged(x, rng) for x in inputs]
    out = []
    for a, b in zip(expected, evaluate(graph, moved)):
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or not _is_float(a.dtype):
            out.append(0.0)
            continue
        with np.errstate(all="ignore"):
            change = np.abs(a.astype(np.float64) - b.astype(np.float64))
        out.append(float(np.max(change, where=np.isfinite(change), initial=0.0)))
    return out


def nudged(x: Any, rng: np.random.Generator) -> Any:
    """The float array with every element moved by an ulp, up or down; other values as they are."""
    if not isinstance(x, np.ndarray) or not _is_float(x.dtype):
        return x
    with np.errstate(all="ignore"):
        return (x.astype(np.float64) * (1 + _eps(x.dtype) * rng.choice([-1, 1], x.shape))).astype(x.dtype)


def compare(expected: Sequence[Any], graph: Graph, inputs: Sequence[Any], ulps: float,
            noise: Sequence[float] = ()) -> Mismatch | None:
    """The first output of `graph` on `inputs` that is not as expected; `noise` as `sensitivity` gives it."""
    try:
        got = evaluate(graph, inputs)
    except EvaluationError as e:
        return Mismatch(0, f"can no longer be evaluated: {e}")
    if len(got) != len(expected):
        return Mismatch(0, f"{len(expected)} outputs became {len(got)}")
    for i, (a, b) in enumerate(zip(expected, got)):
        text = difference(a, b, ulps, noise[i] if i < len(noise) else 0.0)
        if text is not None:
            return Mismatch(i, text)
    return None


def first_bad_change(changes: int, broken: Callable[[int], bool]) -> int | None:
    """The number of the change, counted from 1, that turns the result from right to wrong; None if none of them does.

    `broken(n)` says whether the result is wrong with the first n changes only.
    """
    if not broken(changes) or broken(0):
        return None
    good, bad = 0, changes
    while bad - good > 1:
        middle = (good + bad) // 2
        if broken(middle):
            bad = middle
        else:
            good = middle
    return bad
