"""x86 contractions: which ops go to the register block, and as what."""

from __future__ import annotations

import math

from graphopt.codegen.lower.kernels import Lowered, Sources, Template
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv.channels_last import ChannelsLast
from graphopt.codegen.x86.kernels.conv.depthwise import Depthwise, is_depthwise
from graphopt.codegen.x86.kernels.conv.grouped import Grouped, is_grouped
from graphopt.codegen.x86.kernels.conv.prologue import Prologue, is_pointwise
from graphopt.codegen.x86.kernels.conv.row_major import row_major
from graphopt.codegen.x86.kernels.conv.streamed import Streamed
from graphopt.codegen.x86.kernels.conv.winograd import Winograd
from graphopt.codegen.x86.kernels.matmul import Matmul, covers
from graphopt.ir.fused import ends, held, kind, makes
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import lies_channels_last
from graphopt.targets.x86 import X86

SUPPORTED = ("f32", "f64", "f16", "bf16", "i32", "i64")


def template(machine: X86) -> Template:
    """The template for contractions on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        if kind(op) == "stream":
            return Streamed(op, Sources(op), name, style, machine).build()
        found = _contraction_of(op)
        if found is None:
            return None
        inner, sources = found
        if inner.name == "matmul":
            return Matmul(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _computes(op, inner.operands[0]):
            return Prologue(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _is_channels_last(op) and is_depthwise(inner):
            return Depthwise(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _is_channels_last(op) and is_grouped(inner, machine):
            return Grouped(op, inner, sources, name, style, machine).build()
        if inner.name == "conv" and _is_channels_last(op):
            return Winograd(op, inner, sources, name, style, machine).build() \
                or ChannelsLast(op, inner, Sources(op), name, style, machine).build()
        if inner.name == "conv" and not any(getattr(v.type, "layout", None) for v in op.operands if v is not None):
            return row_major(op, inner, sources, name, style, machine)
        return None

    return match


def _is_channels_last(op: Op) -> bool:
    return lies_channels_last(op.results[0].type)


def _contraction_of(op: Op) -> tuple[Op, Sources] | None:
    """The one contraction of a plain or fused op, where the template can have it."""
    found = [o for o in held(op) if o.definition.has(Trait.CONTRACTION)]
    if len(found) != 1 or found[0].name not in ("matmul", "conv"):
        return None
    inner = found[0]
    if not _follows(op, inner):
        return None
    image, *others = inner.operands
    if inner.name != "matmul" and (any(_computes(op, v) for v in others) or (
            _computes(op, image) and not (_is_channels_last(op) and is_pointwise(inner)))):
        return None  # something is fused into its operands
    operands = [v for v in inner.operands if v is not None]
    if operands[0].dtype.name not in SUPPORTED:
        return None
    if any(0 in v.static_shape for v in (*operands, inner.result)):
        return None
    return inner, Sources(op)


def _computes(whole: Op, v: Value | None) -> bool:
    return v is not None and makes(whole, v)


def _follows(whole: Op, inner: Op) -> bool:
    """Whether all results of an op are those of the contraction in it, element by element, perhaps at other places."""
    stages = {inner.result: 0}
    for op in held(whole):
        sources = [v for v in op.operands if v is not None and v in stages]
        if not sources:
            continue
        if len({stages[v] for v in sources}) > 1 or len(op.results) != 1:
            return False
        if op.name in ("transpose", "reshape"):
            stages[op.result] = len(stages)
        elif op.definition.has(Trait.ELEMENTWISE) and op.result.shape == sources[0].shape:
            stages[op.result] = stages[sources[0]]
        else:
            return False
    return all(v in stages for v in ends(whole))


def takes(op: Op, k: int, machine: X86) -> bool:
    """Whether the kernel of a contraction computes its operand `k` element by element, each once, when ops are fused into it."""
    if not places(op, machine):
        return False
    *_, m, _ = op.result.static_shape
    return k == 0 or (k == 1 and m >= costs_of(machine).shared)


def places(op: Op, machine: X86) -> bool:
    """Whether the kernel of a contraction stores its result element by element, so that transposes after it are free."""
    if op.name != "matmul":
        return False
    a, b = op.operands
    assert a is not None and b is not None
    if a.dtype.name not in SUPPORTED or any(0 in v.static_shape for v in (a, b, op.result)):
        return False
    constant = b.constant is not None and len(b.uses) == 1 and math.prod(b.static_shape[:-2]) == 1
    return covers(op, constant, lanes_of(machine, a.dtype))


__all__ = ["places", "takes", "template"]
