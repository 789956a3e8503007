"""Kernels to machine code by way of TVM's TIR and LLVM."""

from graphopt.targets import toolchain  # noqa: F401  (TVM, the quick way, before the files here import it)
