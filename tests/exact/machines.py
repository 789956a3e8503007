"""One kernel on everything that runs kernels here: the interpreter, the host's C++ compiler, and machine code for x86."""

from __future__ import annotations

import ctypes
import shutil

import numpy as np

from graphopt.codegen.c import host
from graphopt.codegen.c.emit import Dialect, print_kernel
from graphopt.codegen.kernel.loops import Kernel
from graphopt.codegen.kernel.machine import run_kernel
from graphopt.codegen.program.plan import Call, Program, Slot
from graphopt.codegen.x86.build import build
from graphopt.ir import Graph, tensor
from graphopt.runtime.host.executable import Pointer, address
from graphopt.targets import parse_target
from graphopt.targets.x86 import X86


def runs(kernel: Kernel, arrays: list[np.ndarray], *targets: str) -> dict[str, list[np.ndarray]]:
    """The kernel's outputs, by who computed them."""
    found = {"interpreter": run_kernel(kernel, arrays)}
    if shutil.which("g++"):
        found["host C++"] = in_c(kernel, arrays)
    return found | {t: in_machine_code(kernel, arrays, t) for t in targets}


def in_c(kernel: Kernel, arrays: list[np.ndarray]) -> list[np.ndarray]:
    public = Dialect(function='extern "C" void')
    library = host.load({"k.cpp": public.prelude() + print_kernel(kernel, public)}, "k.cpp")
    outs = _outputs(kernel)
    getattr(library, kernel.name)(*(ctypes.c_void_p(a.ctypes.data) for a in (*map(np.ascontiguousarray, arrays), *outs)))
    return outs[:kernel.outputs]


def in_machine_code(kernel: Kernel, arrays: list[np.ndarray], target: str) -> list[np.ndarray]:
    graph, outs = Graph(), _outputs(kernel)
    program = Program(graph)
    program.kernels, program.keys = [kernel], ["k"]
    for _ in (*arrays, *outs):
        graph.add_input(tensor("f32", 1))
    slots = tuple(Slot("input", k) for k in range(len(arrays) + len(outs)))
    program.steps.append(Call(kernel, slots, graph.return_op))
    machine = parse_target(target, 1)
    assert isinstance(machine, X86)
    pointers = [Pointer(address(a)) for a in (*arrays, *outs)]
    build(program, machine, in_memory=True).functions[0](*pointers, Pointer(0), Pointer(0))
    return outs[:kernel.outputs]


def _outputs(kernel: Kernel) -> list[np.ndarray]:
    return [np.zeros(b.shape, b.dtype.numpy) for b in kernel.params[kernel.inputs:]]
