"""x86 CPUs: kernels shaped by hand (kernels/), everything through TIR and LLVM to machine code (emit, entry, build).

`template` registers a kernel template from outside; it brings all of ours with it, so not before it is asked for.
"""

from graphopt.moved import had

__getattr__ = had(__name__)
