"""Programs that can be translated for known sizes only: where some operator's entry refuses a symbolic one.

What stands in such an operator's place until the sizes of a call are known, and torch's symbols for the sizes of given inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export.graph_signature import InputKind

from graphopt.errors import EvaluationError
from graphopt.ir.types import Type


class Later:
    """What a `deferred` op runs: nothing, since graphs with one are captured again for the sizes of their inputs."""

    def __init__(self, name: str, result_types: Sequence[Type]) -> None:
        self.name, self.result_types = name, list(result_types)

    def __call__(self, operands: Sequence[Any]) -> list[Any]:
        raise EvaluationError(f"{self.name} needs sizes that are not known", hint="Specialise the graph for the inputs' shapes")

    def __repr__(self) -> str:
        return f"<{self.name} of sizes that are not known>"


def tensor_inputs(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """torch's descriptions of the inputs that are tensors."""
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    vals = [nodes[s.arg.name].meta.get("val") for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    return [v for v in vals if isinstance(v, torch.Tensor)]


def example_sizes(program: torch.export.ExportedProgram) -> dict[str, int]:
    """The sizes that torch's symbols had when the model was traced; empty where some are not known."""
    out: dict[str, int] = {}
    for val in tensor_inputs(program):
        for d in val.shape:
            name = _symbol(d)
            if name is None:
                continue
            hint = getattr(d, "node").hint  # noqa: B009  (a SymInt, which torch calls an int)
            if not isinstance(hint, int):
                return {}
            out[name] = hint
    return out


def given_sizes(program: torch.export.ExportedProgram, names: Sequence[str],
                shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The sizes that torch's symbols have for inputs of these shapes, by the inputs' names."""
    out: dict[str, int] = {}
    for name, val in zip(names, tensor_inputs(program), strict=True):
        for d, n in zip(val.shape, shapes.get(name, ())):
            if (symbol := _symbol(d)) is not None:
                out.setdefault(symbol, int(n))
    return out


def _symbol(d: Any) -> str | None:
    expression = getattr(getattr(d, "node", None), "expr", None)
    return str(expression) if expression is not None and expression.is_Symbol else None


__all__ = ["Later", "example_sizes", "given_sizes", "tensor_inputs"]
