"""graphopt where PyTorch expects its own: a backend of `torch.compile`, and programs as `nn.Module`.

    net = torch.compile(net, backend="graphopt")   # found through the entry point group torch_dynamo_backends
    with torch.no_grad():
        y = net(x)
"""

from __future__ import annotations

from graphopt.interop.torch_backend.dynamo import backend
from graphopt.interop.torch_backend.graphs import TracedGraph, graphs
from graphopt.interop.torch_backend.module import CompiledModule, as_module
from graphopt.interop.torch_backend.settings import MODES, OPTIONS, OptionError, Settings

__all__ = ["MODES", "OPTIONS", "CompiledModule", "OptionError", "Settings", "TracedGraph", "as_module", "backend", "graphs"]
