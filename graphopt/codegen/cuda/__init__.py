"""CUDA C++ from the shared loop nests, built without a GPU, and run on the host through an emulation header."""

from __future__ import annotations

from graphopt.codegen.cuda.build import available, cubin
from graphopt.codegen.cuda.emit import Launch, emit
from graphopt.codegen.cuda.emulation import HEADER
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.schedule import Style

STYLE = Style(bind=Scope.GRID)

__all__ = ["HEADER", "STYLE", "Launch", "available", "cubin", "emit"]
