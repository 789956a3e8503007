"""What dynamo traces, as torch.compile hands it to a backend: made functional by AOTAutograd, then one graph.

Everything is an argument there, the weights too, and sizes come as numbers of their own. AOTAutograd takes care of what a
graph of values cannot say: arguments changed in place, results that are views of arguments, tensor subclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

from graphopt.capture.torch.context import Context
from graphopt.capture.torch.decompositions import decompositions
from graphopt.capture.torch.pairs import Complex
from graphopt.capture.torch.symbols import Symbols
from graphopt.capture.torch.table import Refusal
from graphopt.capture.torch.translate import Translation, location, target_name
from graphopt.capture.torch.weights import Weights
from graphopt.errors import CaptureError, UnsupportedOperators
from graphopt.ir.dims import Dim
from graphopt.ir.graph import Graph, Value


@dataclass(frozen=True)
class Result:
    """One result of the traced function.

    `kind`: `tensor` (output `of` of the graph, its dims permuted by `order` where it is not row-major), `argument` (argument
    number `of`, as it is), `number` (a dim `of` the graph's symbols) or `constant` (`of` itself).
    """

    kind: str
    of: Any
    order: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Lifted:
    """A graph, and how it is called: `inputs` are the arguments that are its inputs, `symbols` where a dim's size is found,
    as (argument, axis), or (argument, None) where the argument is the number itself.
    """

    graph: Graph
    inputs: tuple[int, ...]
    symbols: Mapping[str, tuple[int, int | None]]
    results: tuple[Result, ...]


# To a functional graph --------------------------------------------------------------------------
def functional(traced: fx.GraphModule, example_inputs: Sequence[Any], inference: Callable[[fx.GraphModule], Callable[..., Any]],
               training: Callable[[], Any]) -> Callable[..., Any]:
    """`traced` by way of AOTAutograd: what calls the function that `inference` makes of a functional graph of ATen ops.

    That function takes a list of arguments and gives a list of results. The operators that the table has an entry for stay
    whole. `training` is called (to raise) where gradients turn out to be needed.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch.export.exported_program import _override_composite_implicit_decomp

    def forward(graph: fx.GraphModule, examples: Any) -> Callable[..., Any]:
        return training()

    def compiler(graph: fx.GraphModule, examples: Any) -> Callable[..., Any]:
        run = inference(graph)

        def boxed(arguments: list[Any]) -> Any:
            return run(arguments)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    composite, decompositions = _decompositions()
    with _override_composite_implicit_decomp(composite):
        return aot_autograd(fw_compiler=forward, inference_compiler=compiler,
                            decompositions=decompositions)(traced, example_inputs)


@cache
def _decompositions() -> tuple[Any, Any]:
    """Rules for what the table lacks: of composite operators, and of all others."""
    from torch.export.exported_program import _split_decomp_table_to_cia_and_python_decomp

    composite, others = _split_decomp_table_to_cia_and_python_decomp(decompositions())
    return composite, others


def inputs_changed() -> frozenset[int]:
    """The arguments that the graph being compiled changes in place (by AOTAutograd's account); called by its compiler."""
    tracing = torch._guards.TracingContext.try_get()
    metadata = tracing.fw_metadata if tracing is not None else None
    given = metadata.input_info if metadata is not None else ()
    return frozenset(k for k, info in enumerate(given) if info.mutates_data or info.mutates_metadata)


def weights_among(arguments: int) -> tuple[int, ...]:
    """Which arguments of the graph being compiled are parameters and buffers of modules; called by its compiler.

    Empty where AOTAutograd has rearranged the arguments, since some of them share memory.
    """
    tracing = torch._guards.TracingContext.try_get()
    metadata = tracing.fw_metadata if tracing is not None else None
    if metadata is None or len(metadata.input_info) != arguments:
        return ()
    changed = inputs_changed()
    return tuple(k for k in metadata.static_input_indices if k not in changed)


# To a graph of ours -----------------------------------------------------------------------------
def lift(functional: fx.GraphModule, constants: Mapping[int, torch.Tensor], name: str = "graph") -> Lifted:
    """The graph of a functional fx graph; the arguments in `constants` are part of it, with those values.

    Raises UnsupportedOperators and CaptureError.
    """
    try:
        return _Lifting(Graph(name), Symbols(), Weights()).lift(functional.graph, constants)
    except Refusal as e:
        raise CaptureError(f"{e}, which is not supported", where=name) from e


class _Lifting(Translation):
    def lift(self, graph: fx.Graph, constants: Mapping[int, torch.Tensor]) -> Lifted:
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        self._on_cpu(graph)
        sources: dict[str, tuple[int, int | None]] = {}
        for k, node in enumerate(placeholders):
            self._sizes(k, node.meta.get("val"), sources)
        inputs = [k for k, node in enumerate(placeholders) if self._argument(k, node, constants)]
        self._walk(graph)
        self._effects(graph)
        results = self._results(graph, placeholders)
        if self.refused:
            raise UnsupportedOperators(self.refused)
        unknown = sorted(set(self.graph.symbols()) - set(sources))
        if unknown:
            raise CaptureError("a size is known only as part of another", where=", ".join(unknown))
        return Lifted(self.graph, tuple(inputs), sources, tuple(results))

    def _on_cpu(self, graph: fx.Graph) -> None:
        """Refuse tensors elsewhere, and tensors of no plain layout."""
        for node in graph.nodes:
            val = node.meta.get("val")
            for v in val if isinstance(val, (tuple, list)) else (val,):
                if not isinstance(v, torch.Tensor):
                    continue
                if v.device.type != "cpu":
                    raise CaptureError(f"a tensor is on {v.device}", where=", ".join(location(node)),
                                       hint="This target runs on the CPU")
                if v.layout is not torch.strided:
                    raise CaptureError(f"layout {v.layout} is not supported", where=", ".join(location(node)))

    def _sizes(self, k: int, val: Any, sources: dict[str, tuple[int, int | None]]) -> None:
        """Note where symbols are found: numbers first, then tensors' dims."""
        if isinstance(val, torch.Tensor):
            for axis, d in enumerate(val.shape):
                self.symbols.declare(d)
                if (symbol := _symbol(d)) is not None:
                    sources.setdefault(symbol, (k, axis))
        elif isinstance(val, torch.SymInt):
            self.symbols.declare(val)
            if (symbol := _symbol(val)) is not None:
                sources[symbol] = (k, None)

    def _argument(self, k: int, node: fx.Node, constants: Mapping[int, torch.Tensor]) -> bool:
        """Enter an argument; whether it is an input of the graph."""
        val = node.meta.get("val")
        if k in constants:
            self._pending[node] = (constants[k], node.name)
            return False
        if not node.users:
            return False
        if isinstance(val, torch.Tensor):
            self.env[node] = self.tensor_input(val, node.name, f"argument {node.name}")
            return True
        if isinstance(val, torch.SymInt):
            self.env[node] = self.symbols.dim(val)
            return False
        if val is None or isinstance(val, (bool, int, float)):
            self.env[node] = val
            return False
        raise CaptureError(f"an argument of type {type(val).__name__} that varies from call to call is not supported",
                           where=f"argument {node.name}", hint="Pass it as a tensor")

    def _effects(self, graph: fx.Graph) -> None:
        """Refuse what is there for its effect alone, such as an assertion on data; checks of sizes are dynamo's guards."""
        for node in graph.nodes:
            if node in self.env or node in self._pending or node.op != "call_function" or not node.is_impure(False):
                continue
            name = target_name(node.target)
            if not name.startswith(("aten._assert_scalar", "aten._assert_tensor_metadata", "aten.sym_constrain_range")):
                self.refused.append((name, ", ".join(location(node))))

    def _results(self, graph: fx.Graph, placeholders: Sequence[fx.Node]) -> list[Result]:
        (returned,) = next(n for n in reversed(graph.nodes) if n.op == "output").args
        numbers = {n: k for k, n in enumerate(placeholders)}
        outputs: list[Value] = []
        results = []
        for node in returned if isinstance(returned, (tuple, list)) else (returned,):
            if not isinstance(node, fx.Node):
                results.append(Result("constant", node))
                continue
            if node in numbers:
                results.append(Result("argument", numbers[node]))
                continue
            value, val = self.argument(node), node.meta.get("val")
            if isinstance(value, (Value, Complex)) and isinstance(val, torch.Tensor):
                order, c = _memory_order(val), Context(self.graph, self.symbols, location(node))
                if order is not None:
                    value = Complex(c.permute(value.re, order), c.permute(value.im, order)) if isinstance(value, Complex) else \
                        c.permute(value, order)
                if isinstance(value, Complex):
                    self.note_complex("outputs", [len(outputs)])
                results.append(Result("tensor", len(outputs), None if order is None else _inverse(order), val.dtype))
                outputs.append(self.output(value, location(node)))
            elif isinstance(value, Dim):
                results.append(Result("number", value))
            elif value is None or isinstance(value, (bool, int, float)):
                results.append(Result("constant", value))
            else:
                self.refused.append((f"a result that is a {type(val).__name__}", node.name))
        self.graph.outputs = outputs
        self.graph.output_names = [f"output{k}" for k in range(len(outputs))]
        return results


def _symbol(size: Any) -> str | None:
    """The symbol that a size is, None for a number or an expression."""
    e = getattr(getattr(size, "node", None), "expr", None)
    return str(e) if e is not None and e.is_Symbol else None


def _memory_order(val: torch.Tensor) -> tuple[int, ...] | None:
    """The dims of a dense result from the slowest to the fastest; None where that is their order, or it is not dense.

    Eager code sees the strides of what it computes (`view`, `is_contiguous`), so ours are the same.
    """
    try:
        sizes, strides = [_hint(d) for d in val.shape], [_hint(s) for s in val.stride()]
    except Refusal:
        return None
    if 0 in sizes:
        return None
    order = sorted((k for k in range(len(sizes))), key=lambda k: (-strides[k], -sizes[k]))
    expected = 1
    for k in reversed(order):
        if sizes[k] != 1 and strides[k] != expected:
            return None
        expected *= sizes[k]
    moving = [k for k in order if sizes[k] != 1]
    return tuple(order) if moving != sorted(moving) else None


def _hint(size: Any) -> int:
    if isinstance(size, int):
        return size
    hint = size.node.hint
    if hint is None:
        raise Refusal("a size computed from the data")
    return int(hint)


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=lambda k: order[k]))


__all__ = ["Lifted", "Result", "functional", "inputs_changed", "lift", "weights_among"]
