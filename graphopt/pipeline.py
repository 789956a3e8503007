"""What all targets share on the way from a captured graph to an optimised one, and how its interface is described."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphopt.errors import CodegenError, GraphOptError, InputError, IRError, TargetError
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Builder, Graph, Value
from graphopt.ir.types import TensorType, Type
from graphopt.runtime.model import Spec


class Keeps:
    """What the passes ask of a target: which composite ops it has kernels for, and of which kind."""

    def keeps(self, op: Any) -> bool:
        from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
        from graphopt.codegen.lower.registry import why_not

        return why_not(op) is None

    def row_kernel(self, op: Any) -> bool:
        """Softmax, the norms and their like are computed row by row, with what is elementwise around them."""
        from graphopt.ir.table import Trait

        return op.definition.has(Trait.COMPOSITE) and op.definition.has(Trait.REDUCTION) and self.keeps(op)


class X86Keeps(Keeps):
    """The same, and in which layouts x86 computes what."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def keeps(self, op: Any) -> bool:
        from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
        from graphopt.codegen.lower.registry import why_not
        from graphopt.codegen.x86 import TEMPLATED

        return why_not(op, TEMPLATED) is None

    def loops(self, op: Any) -> bool:
        """Can a program hold a loop as one? (Composite ops in its body will have been decomposed where they need be.)"""
        from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
        from graphopt.codegen.control import why_not
        from graphopt.codegen.x86 import TEMPLATED
        from graphopt.ir.table import DECOMPOSITIONS

        return why_not(op, {*TEMPLATED, *DECOMPOSITIONS}) is None

    def takes(self, op: Any, k: int) -> bool:
        from graphopt.codegen.contraction import takes

        return takes(op, k, self.target)

    def places(self, op: Any) -> bool:
        from graphopt.codegen.contraction import places

        return places(op, self.target)

    def layout_choice(self, op: Any) -> Any:
        from graphopt.codegen.layouts import layout_choice

        return layout_choice(op, self.target)

    def conversion(self, v: Any) -> tuple[float, float]:
        from graphopt.codegen.layouts import conversion

        return conversion(v)

    def parts(self, ops: Any, cuts: Any, batch: int) -> tuple[int, int] | None:
        """How many of the first ops are best run for how many images at a time; None where all images at once are best."""
        from graphopt.codegen.batches import parts

        kernels = next((k for k, op in enumerate(ops) if not self.keeps(op)), len(ops))  # host ops cost by the call
        return parts(ops, [cut for cut in cuts if cut <= kernels], batch, self.target)

    def joins(self, op: Any) -> bool:
        """Is the op a kernel that reads and writes tensors wherever they lie?"""
        from graphopt.codegen.lower.registry import why_not

        return len(op.results) == 1 and op.name != "transpose" and why_not(op) is None

    def streams(self, first: Any, second: Any) -> str | None:
        """Why two ops are better one kernel that takes rows from one to the other; None where they are not."""
        from graphopt.codegen.streamed import pays

        return pays(first, second, self.target)

    def absorbs(self, first: Any, second: Any) -> str | None:
        """Why the second of two ops should compute, piece by piece, what the first makes for it; None where it cannot."""
        from graphopt.codegen.prologue import absorbs

        return absorbs(first, second)

    def room(self, op: Any, v: Any) -> tuple[int, int] | None:
        from graphopt.codegen.layouts import room

        return room(op, v)


def asked(target: Any) -> Keeps:
    """What answers the passes' questions for a target."""
    return X86Keeps(target) if target.kind == "x86" else Keeps()


def optimise(graph: Graph, validate: bool = False, target: Any = None, **hooks: Any) -> tuple[Graph, Any]:
    """The graph after all passes (a copy), and what they did."""
    from graphopt import rewrite

    copy = graph.clone()
    return copy, rewrite.optimise(copy, target=target or Keeps(), validate=validate, **hooks)


def check_data(graph: Graph) -> None:
    """Refuse a graph whose text left out constants: it can be shown and rewritten, but is no program. IRError names them."""
    lacking = names_without_data(graph)
    if lacking:
        shown = ", ".join(f"@{n}" for n in lacking[:8]) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
        raise IRError(f"it cannot be compiled: {len(lacking)} of its constants are without data: {shown}", where="graph",
                      hint="The text form leaves out large constants: give constants= to parse_graph, or save the graph as a "
                           ".gir file (graphopt-dump MODEL --after capture -o net.gir)")


@contextmanager
def of_ours() -> Iterator[None]:
    """What fails within, but for want of memory or of a file, is the code generator's fault: an error of ours."""
    try:
        yield
    except (GraphOptError, OSError, MemoryError):
        raise
    except Exception as e:
        raise CodegenError(f"the code generator failed: {type(e).__name__}: {e}",
                           hint="This is a bug in graphopt; please report it") from e


MOST_BYTES = 1 << 47  # what a process can address


def check_sizes(graph: Graph) -> None:
    """Refuse a graph with a value that no memory holds: TargetError with its size."""
    for v in graph.values():
        if isinstance(v.type, TensorType) and v.type.is_static and v.type.nbytes > MOST_BYTES:  # type: ignore[operator]
            at = f"input %{v.name}" if v.op is None else v.op.where()
            raise TargetError(f"{v.type} takes {v.type.nbytes} bytes, more than a process can address", where=at,
                              hint="Its shape is wrong, or not meant for one machine")


def names_without_data(graph: Graph) -> list[str]:
    """The constants of a graph and of those that it holds that are only named: what is read from text has not their data."""
    return [op.attrs["value"].name or "?" for op in graph.walk() if op.name == "const" and op.attrs["value"].array is None]


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
