"""A compiled model as an `nn.Module`, for where a module is expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphopt.errors import InputError
from graphopt.runtime.model import Model


def as_module(model: Model) -> CompiledModule:
    """A compiled or loaded model as a module for inference: in `nn.Sequential`, with forward hooks, in a larger model.

    It is called as the model is, has no parameters (the weights are in the program) and always is in eval mode; `train()`
    changes nothing. It cannot be moved to another device or dtype, nor be differentiated: InputError.
    """
    if not isinstance(model, Model):
        raise InputError(f"takes what graphopt.compile or graphopt.load returns, got {type(model).__name__}", where="as_module")
    return CompiledModule(model)


class CompiledModule(torch.nn.Module):
    """See `as_module`. `compiled` is the model."""

    def __init__(self, compiled: Model) -> None:
        super().__init__()
        self.compiled = compiled
        self.training = False

    @torch.compiler.disable(reason="graphopt has compiled it already")
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            for path, x in pytree.tree_leaves_with_path((args, kwargs)):
                if isinstance(x, torch.Tensor) and x.requires_grad:
                    raise InputError("gradients cannot flow through a compiled model", where=f"argument {_name(path)}",
                                     hint="Call it under torch.no_grad() or torch.inference_mode(), or detach() the argument")
        return self.compiled(*args, **kwargs)

    def train(self, mode: bool = True) -> CompiledModule:
        """Stays in eval mode, so that a model around it can be trained."""
        return self

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> CompiledModule:
        """What `.to()`, `.half()`, `.cuda()` and their like come down to."""
        floats = [s.dtype for s in self.compiled.inputs if s.dtype in _FLOATS]
        probe = torch.empty(0, dtype=_FLOATS[floats[0] or ""] if floats else torch.float32)
        moved = fn(probe)
        if moved.device != probe.device or moved.dtype != probe.dtype:
            to = moved.device if moved.device != probe.device else moved.dtype
            raise InputError(f"a compiled model cannot be moved to {to}", where=repr(self.compiled),
                             hint="Move the model that it was compiled from, and compile that")
        return self

    def _replicate_for_data_parallel(self) -> Any:
        raise InputError("a compiled model cannot be replicated over devices", where="nn.DataParallel",
                         hint="Its threads are its parallelism: graphopt.compile(..., threads=)")

    def extra_repr(self) -> str:
        c = self.compiled
        return f"{', '.join(map(str, c.inputs))} -> {', '.join(map(str, c.outputs))}"


_FLOATS = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32, "f64": torch.float64}


def _name(path: Any) -> str:
    """Of a leaf in (args, kwargs): its position or name, then the way within."""
    return f"{getattr(path[1], 'idx', getattr(path[1], 'key', '?'))}{pytree.keystr(path[2:])}"


__all__ = ["CompiledModule", "as_module"]
