"""x86 CPUs: kernels shaped by hand (kernels/), everything through TIR and LLVM to machine code (emit, entry, build)."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`template` registers a kernel template from outside; it brings all of ours with it, so not before it is asked for."""
    if name == "template":
        from graphopt.codegen.x86.templates import template

        return template
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
