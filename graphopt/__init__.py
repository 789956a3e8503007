"""graphopt: a compiler for trained neural networks.

`compile(model, example_inputs, target="x86")` takes a PyTorch or ONNX model and returns something that is
called like it. Errors are GraphOptError and its subclasses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphopt.errors import (
    ArtifactError,
    CaptureError,
    CodegenError,
    EvaluationError,
    GraphOptError,
    IndexRangeError,
    InputError,
    IRError,
    OutOfMemoryError,
    ParseError,
    PickleError,
    RewriteError,
    TargetError,
    UnsupportedOperators,
)

if TYPE_CHECKING:
    from graphopt.compiler import CompiledModel, compile
    from graphopt.runtime.artifact import load

__version__ = "0.1.0"
_LAZY = {"compile": "graphopt.compiler", "CompiledModel": "graphopt.compiler", "load": "graphopt.runtime.artifact"}


def __getattr__(name: str) -> Any:
    """What needs the compiler is imported when first used: `import graphopt` stays cheap."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'graphopt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


__all__ = [
    "ArtifactError", "CaptureError", "CodegenError", "CompiledModel", "EvaluationError", "GraphOptError", "IRError",
    "IndexRangeError", "InputError", "OutOfMemoryError", "ParseError", "PickleError", "RewriteError", "TargetError",
    "UnsupportedOperators", "compile", "load",
]
