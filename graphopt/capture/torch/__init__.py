"""PyTorch in: `nn.Module`, `fx.GraphModule` or `ExportedProgram` to a graph, through torch.export and one table of ATen ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph


def capture_torch(model: Any, example_inputs: Any = None, dynamic_shapes: Any = None) -> Graph:
    """The graph of a PyTorch model.

    `model` is an `nn.Module` in eval mode, an `fx.GraphModule` of one, or an `ExportedProgram` (which needs no
    example). `example_inputs` is a tuple or list of positional arguments, a dict of arguments by name, or a
    single tensor; numpy arrays may stand for tensors. `dynamic_shapes` is as for `torch.export.export`: dims
    declared with `torch.export.Dim` become symbolic dims of that name, their ranges metadata["dim_ranges"].

    Parameters and buffers are shared with the model, not copied. metadata["call"] is the calling convention
    (`graphopt.runtime.structure.Call`): flatten arguments to the graph's inputs, and outputs back.

    Raises CaptureError where torch.export cannot trace the model or it is not in eval mode, and
    UnsupportedOperators naming every operator that has no entry in the tables.
    """
    from graphopt.capture.torch.translate import capture

    return capture(model, example_inputs, dynamic_shapes)


__all__ = ["capture_torch"]
