"""Models compiled to another machine's source, with the graph passes, lowering and memory plan of all targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graphopt.backends.base import Backend, backend_of
from graphopt.backends.pipeline import check_data, check_sizes, of_ours, optimise
from graphopt.backends.recipe import Recipe
from graphopt.codegen.program.interface import interface as interface_of
from graphopt.codegen.program.interface import specialise, specs
from graphopt.codegen.program.launches import interface, refuse_host_ops
from graphopt.codegen.program.plan import plan
from graphopt.errors import InputError, TargetError
from graphopt.ir.graph import Graph
from graphopt.runtime.host.executable import Executable, OutputSpec, aligned
from graphopt.runtime.model import Model, Specialisation, Specialisations
from graphopt.ship.crash import guarded
from graphopt.targets import Target


class EmittedModel(Model):
    """A program as source for `target`. It does not run where it was compiled; its kind's `emulated()` gives a model that
    does, built by the host's C++ compiler. `graph` is the optimised graph, `save` writes everything to a folder."""

    forms: tuple[str, ...] = ()  # what `source` gives, the default first

    def __init__(self, graph: Graph, target: Target, validate: bool = False) -> None:
        backend = backend_of(target)
        check_data(graph)
        check_sizes(graph)
        self.target, self._source = target, graph
        start = time.perf_counter()
        self.graph, self._results = optimise(graph, target, validate)
        passes = time.perf_counter()
        with of_ours():
            self._plan = plan(self.graph, backend.style(target), backend.templates(target))
            if validate:
                self._plan.verify()
        refuse_host_ops(self._plan, target.name)
        self._interface = interface(self._plan)
        self._seconds = {"passes": passes - start, "plan": time.perf_counter() - passes}
        inputs, outputs = specs(graph)
        super().__init__(inputs, outputs, Specialisations(self._cannot_run, 1), structure=graph.metadata.get("call"))

    def _cannot_run(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Specialisation:
        raise TargetError(f"a model compiled for {self.target.name} does not run in this process",
                          hint="Use save(folder) and run it on its machine, or emulated() to run it on the host, slowly")

    def _on_host(self, function: Callable[..., Any]) -> Model:
        """A model that runs `function`, which takes pointers to inputs, outputs, weights and arena."""
        model = Model(self.inputs, self.outputs, Specialisations(self._cannot_run, 1), structure=self._structure)
        weights = self._plan.pack_weights(aligned)
        outputs = [OutputSpec(*o) for o in interface_of(self.graph, "outputs")]
        run = Executable([function], outputs, weights, self._plan.arena_size, interface_of(self.graph, "inputs"))
        model._only = Specialisation(run, self)
        return model

    def source(self, kind: str | None = None) -> str:
        """The text of the program."""
        raise NotImplementedError

    def _form(self, kind: str | None) -> str:
        if kind is not None and kind not in self.forms:
            raise InputError(f"no source of kind {kind!r} for {self.target.name}", hint=f"Use {self.forms[0]!r}")
        return kind or self.forms[0]

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and sizes: ops, kernels, operations, bytes, arena, weights, seconds."""
        operations, moved = 0, 0
        for op in self._source.ops:
            a, b = op.definition.cost(op.view(), [r.type for r in op.results])
            operations += a if isinstance(a, int) else 0
            moved += b if isinstance(b, int) else 0
        p = self._plan
        return {"ops": len(self._source), "ops_after": len(self.graph), "kernels": len(p.kernels), "calls": len(p.calls),
                "host_ops": 0, "operations": operations, "bytes": moved, "arena_bytes": p.arena_size,
                "arena_lower_bound_bytes": p.arena_bound, "weights_bytes": p.weights_size, "seconds": self._seconds}

    def explain(self) -> str:
        """What the compiler did: passes, kernels, memory."""
        s = self.stats
        return "\n".join([
            f"target {self.target.name}", str(self._results), "", f"{s['calls']} kernel calls ({s['kernels']} different kernels)",
            f"arena {s['arena_bytes']} bytes (no plan needs less than {s['arena_lower_bound_bytes']})",
            f"weights {s['weights_bytes']} bytes"])

    def _manifest(self) -> dict[str, Any]:
        def tensors(specs: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]

        return {"target": self.target.name, "inputs": tensors(self.inputs), "outputs": tensors(self.outputs)}

    def __repr__(self) -> str:
        ins, outs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"{type(self).__name__}({ins} -> {outs}; {self.target.name})"


class EmittedBackend(Backend):
    """A kind of target whose programs are source: `model(graph, target, validate)` makes them of a graph of static shapes."""

    model: ClassVar[type[EmittedModel]]

    def compile(self, recipe: Recipe, max_specialisations: int) -> EmittedModel:
        return emit(recipe.graph, recipe.target, recipe.example_inputs, recipe.validate)


def emit(graph: Graph, target: Target, example_inputs: Any = None, validate: bool = False) -> EmittedModel:
    """The model for a target that gets source. Symbolic dims are fixed by `example_inputs`: arrays in order, or by name."""
    backend = backend_of(target)
    assert isinstance(backend, EmittedBackend)
    if graph.symbols():
        graph = _fixed(graph, target, example_inputs)
    with guarded(graph, target):
        return backend.model(graph, target, validate)


def _fixed(graph: Graph, target: Target, example_inputs: Any) -> Graph:
    names = [s.name for s in specs(graph)[0]]
    if example_inputs is None:
        raise TargetError(f"{target.name} needs static shapes; the model has the symbolic dims {', '.join(graph.symbols())}",
                          hint="Give example_inputs of the wanted shapes, or capture it with fixed ones")
    given = example_inputs if isinstance(example_inputs, Mapping) else dict(zip(names, example_inputs))
    missing = [n for n in names if n not in given]
    if missing:
        raise InputError(f"example_inputs lack {', '.join(missing)}", hint=f"The inputs are: {', '.join(names)}")
    return specialise(graph, names, {n: tuple(np.shape(given[n])) for n in names}, {})


__all__ = ["EmittedBackend", "EmittedModel", "emit"]
