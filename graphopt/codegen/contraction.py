"""x86 contractions: which ops go to the register block, and as what."""

from __future__ import annotations

from graphopt.codegen.channels_last import ChannelsLast
from graphopt.codegen.convolution import Convolution
from graphopt.codegen.depthwise import Depthwise, is_depthwise
from graphopt.codegen.kernels import Lowered, Sources, Template
from graphopt.codegen.matmul import Matmul
from graphopt.codegen.schedule import Style
from graphopt.codegen.winograd import Winograd
from graphopt.ir.graph import Op
from graphopt.ir.table import Trait
from graphopt.targets.x86 import X86

SUPPORTED = ("f32", "f64", "f16", "bf16", "i32", "i64")


def template(machine: X86) -> Template:
    """The template for contractions on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        found = _contraction_of(op)
        if found is None:
            return None
        inner, sources = found
        if inner.name == "matmul":
            return Matmul(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _is_channels_last(op) and is_depthwise(inner):
            return Depthwise(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _is_channels_last(op):
            return Winograd(op, inner, sources, name, style, machine).build() \
                or ChannelsLast(op, inner, Sources(op), name, style, machine).build()
        if inner.name == "conv" and all(v is None or v.type.layout is None for v in op.operands):
            return Convolution(op, inner, sources, name, style, machine.registers).build()
        return None

    return match


def _is_channels_last(op: Op) -> bool:
    layout = op.results[0].type.layout
    return layout is not None and layout.order.endswith("C")


def _contraction_of(op: Op) -> tuple[Op, Sources] | None:
    """The one contraction of a plain or fused op, where the template can have it."""
    if op.name == "fused":
        found = [o for o in op.regions[0].ops if o.definition.has(Trait.CONTRACTION)]
        if len(found) != 1 or any(r.shape != found[0].result.shape for r in op.results):
            return None
        inner = found[0]
        if any(v is not None and v.op is not None for v in inner.operands):
            return None  # something is fused into its operands
    elif op.definition.has(Trait.CONTRACTION):
        inner = op
    else:
        return None
    operands = [v for v in inner.operands if v is not None]
    if inner.name not in ("matmul", "conv") or operands[0].dtype.name not in SUPPORTED:
        return None
    if any(0 in v.static_shape for v in (*operands, inner.result)):
        return None
    return inner, Sources(op)


__all__ = ["template"]
