"""Capture a function of tensors by way of PyTorch and hold its evaluation against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphopt.capture.torch import capture_torch
from graphopt.capture.torch.weights import array_of
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.verify import verify

TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-5, torch.float64: 1e-10, torch.complex64: 1e-5,
             torch.complex128: 1e-10}


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self.f = f

    def forward(self, *xs: Any) -> Any:
        return self.f(*xs)


def each(functions: dict[str, Callable[..., Any]]) -> Callable[..., dict[str, Any]]:
    """Many functions of the same tensors as one: exporting costs more than running."""
    return lambda *xs: {name: f(*xs) for name, f in functions.items()}


def capture(model: Any, *inputs: Any, dynamic: Any = None) -> Graph:
    module = model if isinstance(model, nn.Module) else Of(model)
    graph = capture_torch(module.eval(), inputs, dynamic)
    verify(graph)
    return graph


def plain(t: torch.Tensor) -> np.ndarray:
    """The tensor's elements as a graph has them: of complex ones, both parts along a last axis."""
    return array_of(torch.view_as_real(t.detach().resolve_conj().resolve_neg()) if t.is_complex() else t)


def run(graph: Graph, *inputs: Any) -> Any:
    """The graph's result in the structure of the model's."""
    call = graph.metadata["call"]
    arrays = [plain(t) for t in call.flatten(inputs, {})]
    return call.unflatten(evaluate(graph, arrays))


def same(got: Any, expected: Any, tolerance: float | None = None) -> None:
    """Equal structure, dtypes and shapes, and values within the dtype's tolerance."""
    ours, theirs = pytree.tree_leaves_with_path(got), pytree.tree_leaves_with_path(expected)
    assert [p for p, _ in ours] == [p for p, _ in theirs]
    for (path, a), (_, b) in zip(ours, theirs):
        where = pytree.keystr(path)
        if not isinstance(b, torch.Tensor):
            assert a == b, where
            continue
        want = plain(b)
        assert (a.dtype, a.shape) == (want.dtype, want.shape), where
        limit = tolerance if tolerance is not None else TOLERANCE.get(b.dtype, 0)
        np.testing.assert_allclose(a.astype(np.float64), want.astype(np.float64), rtol=limit, atol=limit, err_msg=where)


def check(model: Any, *inputs: Any, dynamic: Any = None, tolerance: float | None = None) -> Graph:
    """Capture, verify, evaluate, compare."""
    module = model if isinstance(model, nn.Module) else Of(model)
    graph = capture(module, *inputs, dynamic=dynamic)
    with torch.no_grad():
        expected = module(*inputs)
    same(run(graph, *inputs), expected, tolerance)
    return graph


def ops(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops if op.name != "const"]
