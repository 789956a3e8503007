"""The backend function of `torch.compile(net, backend="graphopt")`: what to compile, and what to leave to eager PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dynamo.utils import counters

from graphopt.capture.torch.lifted import functional
from graphopt.errors import GraphOptError, UnsupportedOperators
from graphopt.interop.torch_backend.graphs import NotCompiled, TracedGraph, said
from graphopt.interop.torch_backend.settings import Settings, read_settings

log = logging.getLogger("graphopt")
_said: set[Any] = set()  # why graphs ran in eager, so far: each reason is given once


def backend(traced: fx.GraphModule, example_inputs: Sequence[Any], *, mode: str | None = None,
            options: Mapping[str, Any] | None = None) -> Callable[..., Any]:
    """What torch.compile calls with every graph that dynamo traced; what it returns is called like the graph.

    Programs are compiled at the first call with their sizes. A graph that cannot be compiled runs in eager PyTorch, and a
    warning says why, once for each reason. `mode` and `options`: see `graphopt.interop.torch_backend.Settings`.
    Raises OptionError for those that are not known; GraphOptError at a call where `fallback` is off.
    """
    settings = read_settings(mode, options)
    graph = TracedGraph(settings, _place(traced))
    try:
        _without_gradients(traced, example_inputs)
        run = functional(traced, example_inputs, graph.start, _refuse_gradients)
    except GraphOptError as e:
        return _eager(traced, graph, e)

    def call(*arguments: Any) -> Any:
        if graph.why_eager is None:
            try:
                return run(*arguments)
            except NotCompiled as e:  # before anything was computed or changed
                _explain(graph, e.why)
        return traced(*arguments)

    return call


def reset() -> None:
    """Called by torch.compiler.reset(): reasons are given anew."""
    _said.clear()


backend.reset = reset  # type: ignore[attr-defined]


def _eager(traced: fx.GraphModule, graph: TracedGraph, why: GraphOptError) -> Callable[..., Any]:
    graph.why_eager = why
    _explain(graph, why)
    return traced.forward


def _explain(graph: TracedGraph, why: GraphOptError) -> None:
    """One warning for each reason; an error where falling back is off."""
    counters["graphopt"]["eager"] += 1
    if not graph.settings.fallback:
        raise why
    reason = tuple(sorted({name for name, _ in why.operators})) if isinstance(why, UnsupportedOperators) else (why.what,)
    if reason not in _said:
        _said.add(reason)
        log.warning("torch.compile(backend='graphopt'): the graph from %s runs in eager PyTorch: %s", graph.place, said(why))


class GradientsNeeded(GraphOptError):
    """A graph that gradients are to flow through."""


def _refuse_gradients() -> Any:
    raise GradientsNeeded("gradients are to flow through it, and graphopt compiles inference",
                          hint="Call the model under torch.no_grad() or torch.inference_mode()")


def _without_gradients(traced: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
    given = [*example_inputs, *traced.parameters()]
    if any(isinstance(x, torch.Tensor) and x.requires_grad for x in given):
        turned_on = any(n.target is torch._C._set_grad_enabled and n.args[0] is True for n in traced.graph.nodes)
        if turned_on or torch.is_grad_enabled():
            _refuse_gradients()


def _place(traced: fx.GraphModule) -> str:
    """The line of the user's code that a graph begins with."""
    for node in traced.graph.nodes:
        lines = [line.strip() for line in (node.stack_trace or "").splitlines() if line.strip().startswith("File ")]
        if lines and '"' in lines[-1] and ", line " in lines[-1]:
            file = lines[-1].split('"')[1].rsplit("/", 1)[-1]
            return f"{file}:{lines[-1].split(', line ')[1].split(',')[0]}"
    return "the model"


__all__ = ["GradientsNeeded", "Settings", "backend", "reset"]
