"""Ops that the IR itself needs."""

from __future__ import annotations

from typing import Any

from graphopt.ir.table import Operands, op
from graphopt.ir.types import Type, logical


@op("const(; value: data) -> any*", types=lambda o: [o.attrs["value"].type], operations=lambda o, results: 0)
def const(*, value):
    """A constant, held by reference."""
    return value.numpy()


@op("return(values*: any) -> any*", types=lambda o: [])
def return_(*values):
    """The end of a graph: its operands are the outputs. Held by the graph, never among its ops."""
    return values


def _body_types(o: Operands) -> list[Type]:
    body = o.regions[0]
    if [logical(v.type) for v in body.inputs] != [logical(t) for t in o.types]:
        raise o.fail(f"operands {', '.join(map(str, o.types))} do not match the body's inputs "
                     f"{', '.join(str(v.type) for v in body.inputs)}")
    return [v.type for v in body.outputs]


@op("fused(operands*: any; kind: str) [body] -> any*", types=_body_types)
def fused(*operands: Any, kind, regions):
    """Ops that become one kernel. `kind` is the reason's short name: elementwise, reduction, contraction, stream."""
    return tuple(regions[0](list(operands)))
