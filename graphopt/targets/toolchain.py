"""TVM, whose LLVM makes our machine code, imported without what only its other users need."""

from __future__ import annotations

import sys

# TVM's interface layer imports torch where it is installed, for conversions between their tensors: more than a second and
# 200 MB for nothing here. While TVM is imported torch is therefore not to be found, unless it is there already.
_hidden = "torch" not in sys.modules
if _hidden:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    import tvm
    import tvm.target.codegen as llvm
finally:
    if _hidden:
        del sys.modules["torch"]

__all__ = ["llvm", "tvm"]
