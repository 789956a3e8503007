"""One kernel for reading: its TIR, and the assembly that a program's object of it comes from."""

from __future__ import annotations

import tvm
from tvm import ir

from graphopt.codegen.kernel.loops import Kernel
from graphopt.codegen.x86.build import compile_module
from graphopt.codegen.x86.emit import emit_kernel
from graphopt.targets.x86 import X86


def kernel_texts(kernel: Kernel, target: X86) -> tuple[str, str]:
    """TVM's script of the kernel, and LLVM's assembly of it, as a program has it apart from its symbol."""
    function = emit_kernel(kernel, target.fuses).with_attr("global_symbol", kernel.name)
    mod = tvm.IRModule({ir.GlobalVar(kernel.name): function})
    return mod.script(), compile_module(mod, target).inspect_source("asm")


__all__ = ["kernel_texts"]
