"""Faster torch.export for a process that traces many small modules; nothing that it computes changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def hasten_export() -> None:
    """Spare torch.export two thirds of the time that it takes whatever the module: what registers kernels of its own meanwhile
    would not be seen.

    It lists all composite operators anew for each program, and while it decomposes one it sets some ten kernels of each of
    them aside, by a function that evaluates annotations of types with every call.
    """
    import torch
    from torch._ops import OperatorBase

    utils: Any = torch._export.utils
    if hasattr(utils._materialize_cpp_cia_ops, "cache_info"):
        return
    utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
    original = OperatorBase.py_impl

    def py_impl(self: Any, key: Any) -> Callable[[Any], Any]:
        if not isinstance(key, torch._C.DispatchKey):
            return original(self, key)

        def register(f):  # type: ignore[no-untyped-def]
            if key in self.py_kernels:
                raise AssertionError(f"{key} of {self} is there already")
            self.py_kernels[key] = f
            self._dispatch_cache.clear()
            return f

        return register

    OperatorBase.py_impl = py_impl  # type: ignore[method-assign, assignment]


__all__ = ["hasten_export"]
