"""What graphopt-build's --shape means: `ids=1x16..128:16,mask=1x16..128:16` as one set of shapes for every size; and --value."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphopt.cli.models import UsageError, value_array

if TYPE_CHECKING:
    from graphopt.backends.x86.bundle import Case
    from graphopt.ir import Graph
    from graphopt.runtime.model import Spec

Shapes = dict[str, tuple[int, ...]]
LIMIT = 64  # programs for one CPU: each is compiled, and is some hundred kilobytes

HELP = """--shape INPUT=SIZExSIZEx...[,INPUT=...]   one program for each size; may be given several times
  images=1x3x224x224                     one program
  images=1..8x3x224x224                  eight, for 1, 2, 3, ... 8 images
  ids=1x16..128:16                       eight, for 16, 32, 48, ... 128 tokens
  ids=1x16..128:16,mask=1x16..128:16     eight: equal ranges of one --shape go together
  a=1..2x8,b=16x1..4                     eight: other ranges are combined
Inputs whose free dims follow from those given need not be named.

--value INPUT=NUMBER[,NUMBER...]   of an input whose value shapes the program (a sampling rate, axes, sizes)
  rate=16000                             programs for that value, which calls must then give
  rate=8000 and, again, rate=16000       programs for both, with every shape; other inputs' values are combined
  axes=0,                                a list of one number"""

_RANGE = re.compile(r"(\d+)\.\.(\d+)(?::(\d+))?")


def parse(text: str) -> list[Shapes]:
    """The shapes of inputs, once for every size. UsageError names what is wrong."""
    given: dict[str, list[str]] = {}
    for part in text.split(","):
        name, equals, dims = part.rpartition("=")
        if not equals or not name:
            raise _wrong(text, f"{part!r} names no input and its shape")
        if name in given:
            raise _wrong(text, f"{name} is there twice")
        given[name] = dims.split("x") if dims else []
    ranges: dict[str, range] = {}
    for d in itertools.chain.from_iterable(given.values()):
        found = _RANGE.fullmatch(d)
        if found:
            first, last, step = int(found[1]), int(found[2]), int(found[3] or 1)
            if last < first or step < 1:
                raise _wrong(text, f"{d} is empty")
            ranges[d] = range(first, last + 1, step)
        elif not d.isdecimal():
            raise _wrong(text, f"{d!r} is no size")
    count = 1
    for r in ranges.values():
        count *= len(r)
    if count > LIMIT:
        raise _too_many(count, f"--shape {text}")
    made = []
    for sizes in itertools.product(*ranges.values()):
        chosen = dict(zip(ranges, sizes))
        made.append({name: tuple(chosen[d] if d in chosen else int(d) for d in dims) for name, dims in given.items()})
    return made


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(f"--shape {text}: {why}; write INPUT=1x3x224x224 or INPUT=1x16..128:16 (graphopt-build --help)")


def _too_many(count: int, what: str) -> UsageError:
    return UsageError(f"{what}: that is {count} programs for every CPU, and an artifact has {LIMIT} at most. Take larger steps, "
                      "and pad inputs to the next size")


def entries(graph: Graph, inputs: Sequence[Spec], given: Sequence[Shapes]) -> list[Shapes]:
    """The shapes of all inputs for every program that was asked for, each once; those of a model without free dims where none
    were. UsageError where a shape does not fit, or a dim stays open."""
    made = {tuple(found.items()): found for shapes in given or [{}] if (found := _complete(graph, inputs, shapes))}
    if len(made) > LIMIT:
        raise _too_many(len(made), "--shape")
    return list(made.values())


def cases(graph: Graph, inputs: Sequence[Spec], shapes: Sequence[Shapes],
          values: Sequence[tuple[str, float | list[float]]]) -> list[Case]:
    """The same with the values of inputs that shape programs: every set of values with every set of shapes."""
    from graphopt.backends.x86.bundle import Case

    given: dict[str, dict[bytes, Any]] = {}
    for name, value in values:
        array = value_array(graph, name, value)
        given.setdefault(name, {})[array.tobytes() + bytes(array.shape)] = array
    if lacking := [name for name in graph.metadata.get("control_inputs", ()) if name not in given]:
        raise UsageError(f"the value of {', '.join(lacking)} shapes the program: give --value {lacking[0]}=...")
    made = []
    for chosen in itertools.product(*(arrays.values() for arrays in given.values())):
        bound = dict(zip(given, chosen))
        sizes = {name: array.shape for name, array in bound.items()}
        for name, size in sizes.items():
            if wrong := [s[name] for s in shapes if s.get(name, size) != size]:
                raise UsageError(f"--shape {name}={'x'.join(map(str, wrong[0]))}: its --value has the shape {list(size)}")
        made += [Case(found, bound) for found in entries(graph, inputs, [s | sizes for s in shapes or [{}]])]
    if len(made) > LIMIT:
        raise _too_many(len(made), "--shape and --value")
    return made


def _complete(graph: Graph, inputs: Sequence[Spec], shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
    from graphopt.ir.dims import Dim, substitute
    from graphopt.ir.types import TensorType

    names = [s.name for s in inputs]
    if unknown := [name for name in shapes if name not in names]:
        raise UsageError(f"--shape {unknown[0]}: the inputs are {', '.join(map(str, inputs))}")
    dims = {s.name: v.type.shape for s, v in zip(inputs, graph.inputs) if isinstance(v.type, TensorType)}
    symbols: dict[str, int] = {}
    for name, shape in shapes.items():
        known, text = dims.get(name), f"--shape {name}={'x'.join(map(str, shape))}"
        if known is None:
            continue
        if len(known) != len(shape):
            raise UsageError(f"{text}: the input is {inputs[names.index(name)]}")
        for d, n in zip(known, shape):
            if isinstance(d, Dim) and str(d).isidentifier() and symbols.setdefault(str(d), n) != n:
                raise UsageError(f"{text}: {d} is {symbols[str(d)]} elsewhere and {n} here")
    made: Shapes = {}
    for s in inputs:
        known = dims.get(s.name)
        sizes = None if known is None else [substitute(d, symbols) for d in known]
        if sizes is None or not all(isinstance(d, int) for d in sizes):
            if s.name not in shapes:
                raise UsageError(f"the shape of {s} is not known: give --shape {s.name}={_like(s)}")
            sizes = list(shapes[s.name])
        made[s.name] = tuple(d for d in sizes if isinstance(d, int))
        if made[s.name] != shapes.get(s.name, made[s.name]):
            raise UsageError(f"--shape {s.name}={'x'.join(map(str, shapes[s.name]))}: the input is {s}")
    for d, (low, high) in graph.metadata.get("dim_ranges", {}).items():
        if d in symbols and not (low or 0) <= symbols[d] <= (symbols[d] if high is None else high):
            raise UsageError(f"--shape: {d} is {symbols[d]}, outside of the model's range {low}..{high}")
    return made


def _like(s: Spec) -> str:
    return "x".join("1" if isinstance(d, str) else str(d) for d in s.shape) if s.shape is not None else "..."


__all__ = ["HELP", "LIMIT", "Shapes", "cases", "entries", "parse"]
