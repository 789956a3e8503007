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
from graphopt.moved import install
from graphopt.version import __version__

if TYPE_CHECKING:
    from graphopt.backends.x86.model import CompiledModel
    from graphopt.compiler import compile
    from graphopt.runtime.artifact.loading import load

_LAZY = {"compile": "graphopt.compiler", "CompiledModel": "graphopt.backends.x86.model",
         "load": "graphopt.runtime.artifact.loading"}
install()


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
    "UnsupportedOperators", "__version__", "compile", "load",
]
