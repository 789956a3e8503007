"""Ops by their lowering rules, run by the interpreter of the kernel language; for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.codegen.kernel.expr import INDEX, Buffer, Var, cast, free_vars
from graphopt.codegen.kernel.interpret import Evaluation
from graphopt.codegen.kernel.loops import Kernel
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.lower.registry import COMPUTE, LOOPS, SCRATCH, Inliner, OpView
from graphopt.errors import CodegenError
from graphopt.ir.graph import Op


def evaluate_compute(op: Op, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Results of `op`'s compute rule on operand arrays, every element at once."""
    buffers = {v: Buffer(f"x{k}", v.dtype, v.static_shape) for k, v in enumerate(op.operands)
               if v is not None and v.op is None}
    memory = {buffers[v]: np.asarray(a) for v, a in zip(op.operands, arrays) if v in buffers}
    out = []
    for result in op.results:
        shape = result.static_shape
        index = [Var(f"i{k}", INDEX, 0, max(n - 1, 0)) for k, n in enumerate(shape)]
        d = result.dtype
        if 0 in shape:
            out.append(np.zeros(shape, d.numpy))
            continue
        e = cast(Inliner(buffers).at(result, index), d)
        if stray := free_vars(e) - set(index):
            raise CodegenError(f"{op.name}: {stray} are free in the rule's expression")
        grids = {v: np.arange(n).reshape(n, *[1] * (len(shape) - 1 - k)) for k, (v, n) in enumerate(zip(index, shape))}
        with np.errstate(all="ignore"):
            value = np.asarray(Evaluation(grids, memory, len(shape))(e))
        lead = value.ndim - len(shape)
        if lead > 0:
            value = value.reshape(value.shape[lead:])
        out.append(np.broadcast_to(value, shape).astype(d.numpy))
    return out


def evaluate_loops(op: Op, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Results of `op`'s loop rule on operand arrays."""
    return run_kernel(loop_kernel(op), [a for v, a in zip(op.operands, arrays) if v is not None and a is not None])


def loop_kernel(op: Op) -> Kernel:
    """The kernel of an op that has a loop rule: present operands, results, then scratch memory."""
    o = OpView(op, ())
    ins = [None if v is None else Buffer(f"x{k}", v.dtype, v.static_shape) for k, v in enumerate(op.operands)]
    outs = [Buffer(f"y{k}", v.dtype, v.static_shape) for k, v in enumerate(op.results)]
    scratch = [Buffer(f"s{k}", name, shape) for k, (name, shape) in enumerate(SCRATCH[op.name](o) if op.name in SCRATCH else ())]
    body = LOOPS[op.name](o, ins, outs, *([scratch] if op.name in SCRATCH else []))
    present = [b for b in ins if b is not None]
    return Kernel(op.name, (*present, *outs, *scratch), body, len(present), len(outs))


def evaluate(op: Op, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Results of `op` by whichever lowering it has."""
    if op.name in COMPUTE:
        return evaluate_compute(op, arrays)
    if op.name in LOOPS:
        return evaluate_loops(op, arrays)
    raise CodegenError(f"{op.name} has no lowering", where=op.where())


__all__ = ["evaluate", "evaluate_compute", "evaluate_loops", "loop_kernel"]
