"""Kernels as machine code on this machine, for a CPU by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphopt.codegen.kernel.loops import Kernel
from graphopt.codegen.program.plan import Call, Program, Slot
from graphopt.codegen.x86.build import build
from graphopt.codegen.x86.isa import Row
from graphopt.ir import Graph, tensor
from graphopt.runtime.host.executable import Pointer, address
from graphopt.runtime.host.library import runtime
from graphopt.runtime.host.machine import missing
from graphopt.targets import parse_target
from graphopt.targets.x86 import X86

# The weakest first.
CPUS = ("x86-64", "nehalem", "haswell", "alderlake", "skylake-avx512", "cascadelake", "znver4", "sapphirerapids")


def cpu_for(row: Row) -> X86 | None:
    """The weakest CPU that has the row's instruction, and whose instructions this machine has all; None where there is none."""
    machines = (parse_target(f"x86:{name}", 1) for name in CPUS)
    return next((m for m in machines if row.features <= m.features and not missing(m.instructions)), None)


def run(jobs: Sequence[tuple[Kernel, Sequence[np.ndarray]]], machine: X86, in_memory: bool = True) -> list[np.ndarray]:
    """The first output of each kernel on its inputs, all kernels in one program."""
    graph = Graph()
    program = Program(graph)
    held: list[np.ndarray] = []
    outputs = []
    for n, (kernel, inputs) in enumerate(jobs):
        named = Kernel(f"k{n}", kernel.params, kernel.body, kernel.inputs, kernel.outputs)
        program.kernels.append(named)
        program.keys.append(f"{n}")
        rest = [np.zeros(b.shape, b.dtype.numpy) for b in kernel.params[kernel.inputs:]]
        outputs.append(rest[0])
        slots = []
        for a in (*inputs, *rest):
            slots.append(Slot("input", len(held)))
            graph.add_input(tensor("f32", 1))
            held.append(np.ascontiguousarray(a))
        program.steps.append(Call(named, tuple(slots), graph.return_op))
    code = build(program, machine, in_memory=in_memory)
    pointers = [*(Pointer(address(a)) for a in held), Pointer(0), Pointer(0)]
    if code.library is None or code.runtime is None:
        code.functions[0](*pointers)
    else:
        runtime(*code.runtime).entries(code.library, code.names, machine.threads)[0](*pointers)
    return outputs


__all__ = ["CPUS", "cpu_for", "run"]
