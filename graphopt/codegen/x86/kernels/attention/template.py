"""Attention on x86 as one kernel: no row of scores is longer than a block of keys, and none leaves the cache.

What is to be computed and how it is cut stands in cut.py, how operands are read in operands.py, and what a task does in task.py.
"""

from __future__ import annotations

from graphopt.codegen.lower.kernels import Lowered, Match, Sources
from graphopt.codegen.lower.schedule import Style
from graphopt.codegen.x86.kernels.attention.cut import choose
from graphopt.codegen.x86.kernels.attention.operands import Operands
from graphopt.codegen.x86.kernels.attention.task import Memory, Task
from graphopt.ir.fused import held
from graphopt.ir.graph import Op
from graphopt.targets.x86 import X86


def template(machine: X86) -> Match:
    """Attention on that machine."""

    def match(op: Op, name: str, style: Style) -> Lowered | None:
        inner = attention_of(op)
        return None if inner is None else build(Operands(op, inner, Sources(op), name, style, machine))

    return match


def attention_of(op: Op) -> Op | None:
    """The attention op that a plain or fused op is."""
    return next((o for o in held(op) if o.name == "attention"), None)


def build(of: Operands) -> Lowered:
    """The kernel: tasks shared out over the threads, each with memory of its own."""
    shape = of.shape
    if 0 in of.inner.result.static_shape or shape.keys == 0:
        return of.finish(of.zeros())
    choice = choose(shape, of.lanes, of.dtype.itemsize, of.v.dtype is of.dtype, of.style, of.machine)
    memory = Memory.of(of, choice, min(of.style.threads, choice.tasks))
    of.scratch += memory.buffers.values()
    task = lambda worker, t: Task(of, choice, memory, worker, t).code()
    return of.finish(of.spread(choice.tasks, of.effort(shape.multiply_adds), task))


__all__ = ["attention_of", "build", "template"]
