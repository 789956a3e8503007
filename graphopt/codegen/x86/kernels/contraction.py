"""x86 contractions: which ops go to the register block, and as what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from graphopt.codegen.lower.kernels import Lowered, Match, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.costs import costs_of, lanes_of
from graphopt.codegen.x86.kernels.conv.channels_last import channels_last
from graphopt.codegen.x86.kernels.conv.depthwise import depthwise, is_depthwise
from graphopt.codegen.x86.kernels.conv.grouped import grouped, is_grouped
from graphopt.codegen.x86.kernels.conv.prologue import is_pointwise, prologue
from graphopt.codegen.x86.kernels.conv.row_major import row_major
from graphopt.codegen.x86.kernels.conv.streamed import streamed
from graphopt.codegen.x86.kernels.conv.winograd import winograd
from graphopt.codegen.x86.kernels.matmul import covers, matmul
from graphopt.ir.fused import ends, held, kind, makes
from graphopt.ir.graph import Op, Value
from graphopt.ir.table import Trait
from graphopt.ir.types import lies_channels_last
from graphopt.targets.x86 import X86

SUPPORTED = ("f32", "f64", "f16", "bf16", "i32", "i64")


class Contraction(NamedTuple):
    """A plain or fused op, and the one contraction in it."""

    op: Op
    inner: Op
    machine: X86

    @property
    def computes_image(self) -> bool:
        """Is it a convolution that computes its image?"""
        return self.inner.name == "conv" and _computes(self.op, self.inner.operands[0])

    @property
    def channels_last(self) -> bool:
        """Is it a convolution, of an image that is there, whose result lies channels last?"""
        return self.inner.name == "conv" and not self.computes_image and lies_channels_last(self.op.results[0].type)

    @property
    def row_major(self) -> bool:
        """Is it a convolution that no layout was chosen for?"""
        return self.inner.name == "conv" and not any(getattr(v.type, "layout", None) for v in self.op.operands if v is not None) \
            and not lies_channels_last(self.op.results[0].type)


def _maker(takes: Callable[[Contraction], bool], build: Callable[..., Lowered | None]) -> Callable[[X86], Match]:
    def template(machine: X86) -> Match:
        def match(op: Op, name: str, style: Style) -> Lowered | None:
            inner = _contraction_of(op)
            if inner is None or not takes(Contraction(op, inner, machine)):
                return None
            return build(op, inner, Sources(op), name, style, machine)

        return match

    return template


def _streamed(machine: X86) -> Match:
    def match(op: Op, name: str, style: Style) -> Lowered | None:
        return streamed(op, Sources(op), name, style, machine) if kind(op) == "stream" else None

    return match


MAKERS: list[tuple[str, Callable[[X86], Match]]] = [  # in the order in which they are asked
    ("conv.streamed", _streamed),
    ("matmul", _maker(lambda c: c.inner.name == "matmul", matmul)),
    ("conv.prologue", _maker(lambda c: c.computes_image, prologue)),
    ("conv.depthwise", _maker(lambda c: c.channels_last and is_depthwise(c.inner), depthwise)),
    ("conv.grouped", _maker(lambda c: c.channels_last and is_grouped(c.inner, c.machine), grouped)),
    ("conv.winograd", _maker(lambda c: c.channels_last, winograd)),
    ("conv.channels_last", _maker(lambda c: c.channels_last, channels_last)),
    ("conv.row_major", _maker(lambda c: c.row_major, row_major))]


def _contraction_of(op: Op) -> Op | None:
    """The one contraction of a plain or fused op, where the template can have it."""
    found = [o for o in held(op) if o.definition.has(Trait.CONTRACTION)]
    if len(found) != 1 or found[0].name not in ("matmul", "conv"):
        return None
    inner = found[0]
    if not _follows(op, inner):
        return None
    image, *others = inner.operands
    if inner.name != "matmul" and (any(_computes(op, v) for v in others) or (
            _computes(op, image) and not (lies_channels_last(op.results[0].type) and is_pointwise(inner)))):
        return None  # something is fused into its operands
    operands = [v for v in inner.operands if v is not None]
    if operands[0].dtype.name not in SUPPORTED:
        return None
    if any(0 in v.static_shape for v in (*operands, inner.result)):
        return None
    return inner


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


__all__ = ["MAKERS", "places", "takes"]
