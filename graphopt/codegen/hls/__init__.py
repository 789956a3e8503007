"""A Vitis HLS project from the shared loop nests, checked on the host's compiler."""

from __future__ import annotations

from graphopt.codegen.hls.emit import Design
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.lower.schedule import Style

STYLE = Style(bind=Scope.SERIAL)  # one loop nest a kernel, without the copies that vectors want

__all__ = ["STYLE", "Design"]
