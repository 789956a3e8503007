"""Models in: one dispatcher, and a side for each source (`onnx`, `torch`), each imported when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from graphopt.errors import CaptureError
from graphopt.ir.graph import Graph


def capture(model: Any, example_inputs: Any = None, *, dynamic_shapes: Any = None,
            shapes: Mapping[str, Sequence[int]] | None = None, values: Mapping[str, Any] | None = None,
            overridden: Collection[str] = ()) -> Graph:
    """The graph of a model.

    `model` is a path to an .onnx file, its bytes, a `ModelProto`, an `nn.Module`, an `fx.GraphModule`, an
    `ExportedProgram`, or a Graph, which is returned as it is. `example_inputs` and `dynamic_shapes` are
    torch.export's and are needed for torch modules only. For ONNX, `shapes` fixes the shapes of inputs, and
    `values` binds inputs to constants; bound inputs stay in the signature; `overridden` names initialisers that are inputs too,
    whose default is not to be used. Raises CaptureError, and UnsupportedOperators with every operator that is not known.
    """
    if isinstance(model, Graph):
        return model
    if _is_onnx(model):
        if dynamic_shapes is not None:
            raise CaptureError("dynamic_shapes= is for torch models: an ONNX model names its own dynamic dims",
                               hint="Use shapes={input: shape} to fix them")
        from graphopt.capture.onnx import capture_onnx

        return capture_onnx(model, shapes=shapes, values=values, overridden=overridden)
    if _is_torch(model):
        if shapes is not None or values is not None:
            raise CaptureError("shapes= and values= are for ONNX models", hint="Use example_inputs and dynamic_shapes")
        from graphopt.capture.torch import capture_torch

        return capture_torch(model, example_inputs, dynamic_shapes)
    raise CaptureError(f"cannot read a model of type {type(model).__module__}.{type(model).__qualname__}",
                       hint="Give a path to an .onnx file, its bytes, a ModelProto, an nn.Module, an fx.GraphModule, an "
                            "ExportedProgram or a graphopt Graph")


def _is_onnx(model: Any) -> bool:
    if isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        return True
    return any(c.__name__ == "ModelProto" for c in type(model).__mro__)


def _is_torch(model: Any) -> bool:
    torch = sys.modules.get("torch")  # an object of torch's cannot exist before torch is imported
    if torch is None:
        return False
    return isinstance(model, torch.nn.Module) or any(c.__name__ == "ExportedProgram" for c in type(model).__mro__)


__all__ = ["capture"]
