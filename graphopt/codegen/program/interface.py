"""What a program takes and gives: the sizes that it is made for, and its inputs and outputs as the source model has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from graphopt.errors import InputError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Builder, Graph, Value
from graphopt.ir.types import TensorType, Type
from graphopt.runtime.model import Spec


def specialise(graph: Graph, names: Sequence[str], shapes: Mapping[str, tuple[int, ...]],
               values: Mapping[str, np.ndarray]) -> Graph:
    """The graph with every input shape fixed, and those input values that shape the program."""
    recapture: Callable[..., Graph] | None = graph.metadata.get("recapture")
    if recapture is not None:
        return recapture(shapes, values)
    if values:
        graph = bound(graph, names, values)
    if not graph.symbols():
        return graph
    symbols: dict[str, int] = {}
    for v, name in zip(graph.inputs, names):
        if isinstance(v.type, TensorType) and v.type.shape is not None:
            for d, n in zip(v.type.shape, shapes[name]):
                if isinstance(d, Dim) and str(d).isidentifier():
                    symbols[str(d)] = n
    return graph.specialise(symbols)


def bound(graph: Graph, names: Sequence[str], values: Mapping[str, np.ndarray]) -> Graph:
    """A copy in which inputs of these names are read as constants; they stay in the signature. For graphs that were saved: one
    that has its source is captured again, which also settles what the capture left open."""
    made = graph.clone()
    for v, name in zip(made.inputs, names):
        if name in values and v.uses:
            v.replace_all_uses_with(Builder(made, before=next(iter(made.ops))).const(np.array(values[name]), name=name))
    made.metadata["control_inputs"] = [n for n in made.metadata.get("control_inputs", ()) if n not in values]
    return made.specialise({})  # types follow from constants


def specialise_checked(graph: Graph, inputs: Sequence[Spec], shapes: Mapping[str, tuple[int, ...]],
                       values: Mapping[str, np.ndarray]) -> Graph:
    """The same. InputError where the graph then has other shapes: they contradict each other."""
    made = specialise(graph, [s.name for s in inputs], shapes, values)
    for s, (shape, _) in zip(inputs, interface(made, "inputs")):
        if s.name in shapes and shape is not None and shape != shapes[s.name]:
            raise InputError(f"expected shape [{', '.join(map(str, s.shape or ()))}], here {list(shape)}, "
                             f"got {list(shapes[s.name])}", where=f"input {s.name}")
    return made


def specs(graph: Graph) -> tuple[list[Spec], list[Spec]]:
    """Inputs and outputs as the source model names them."""
    return (_specs(graph, "inputs", graph.input_names), _specs(graph, "outputs", graph.output_names))


def _specs(graph: Graph, which: str, names: Sequence[str]) -> list[Spec]:
    values = getattr(graph, which)
    if len(names) != len(values):
        names = [v.name or f"{which[:-1]}{k}" for k, v in enumerate(values)]
    complex_ones = complex_places(graph, which)
    return [spec(v, n, k in complex_ones) for k, (v, n) in enumerate(zip(values, names))]


def spec(v: Value, name: str, is_complex: bool = False) -> Spec:
    """The public description of an input or output."""
    t: Type = v.type
    if not isinstance(t, TensorType):
        return Spec(name, None, None)
    shape = None if t.shape is None else tuple(d if isinstance(d, int) else str(d) for d in t.shape)
    if is_complex:
        as_numpy = _COMPLEX[t.dtype.numpy]
        return Spec(name, as_numpy.name, None if shape is None else shape[:-1], as_numpy)
    return Spec(name, t.dtype.name, shape, t.dtype.numpy)


# Complex tensors: the graph has real ones with a last axis of two parts, which is how their memory lies -----------
_COMPLEX: dict[np.dtype, np.dtype] = {np.dtype(np.float32): np.dtype(np.complex64), np.dtype(np.float64): np.dtype(np.complex128)}


def complex_places(graph: Graph, which: str) -> frozenset[int]:
    """Which of the graph's `inputs` or `outputs` are complex arrays to its callers."""
    return frozenset(graph.metadata.get("complex", {}).get(which, ()))


def interface(graph: Graph, which: str) -> list[tuple[tuple[int, ...] | None, np.dtype | None]]:
    """Shape and numpy dtype of each of the `inputs` or `outputs`, as arrays; None for what is not known before a call."""
    complex_ones = complex_places(graph, which)
    made: list[tuple[tuple[int, ...] | None, np.dtype | None]] = []
    for k, v in enumerate(getattr(graph, which)):
        t = v.type
        if not isinstance(t, TensorType) or not t.is_static:
            made.append((None, None))
        elif k in complex_ones:
            made.append((t.static_shape[:-1], _COMPLEX[t.dtype.numpy]))
        else:
            made.append((t.static_shape, t.dtype.numpy))
    return made


__all__ = ["bound", "complex_places", "interface", "spec", "specialise", "specialise_checked", "specs"]
