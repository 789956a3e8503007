"""What names the things that are kept on disk: everything that can change them, this compiler's own sources among it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import time
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAKE_CODE = ("codegen", "ir", "targets")  # rooms on which the machine code of a kernel depends
_LOADED = time.time()


@cache
def sources(*rooms: str) -> str | None:
    """Hash of the sources in these rooms of graphopt, of all where none is named.

    None where one has changed since this process began: what runs here is not what would be hashed.
    """
    h = hashlib.sha256()
    paths = [p for r in rooms or (".",) for kind in ("*.py", "*.[ch]") for p in (ROOT / r).rglob(kind)]
    for path in sorted(paths):
        if path.stat().st_mtime >= _LOADED:
            return None
        h.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return h.hexdigest()


@cache
def compiler() -> str | None:
    """Hash of this compiler and of the versions of what it builds on: a changed one finds no stale programs. None as above."""
    own = sources()
    if own is None:
        return None
    h = hashlib.sha256(own.encode())
    for name in ("tvm", "onnx", "numpy"):
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin
        status = os.stat(origin) if origin else None
        h.update(f"{name} {origin} {status and (status.st_size, status.st_mtime_ns)}".encode())
    return h.hexdigest()


__all__ = ["MAKE_CODE", "compiler", "sources"]
