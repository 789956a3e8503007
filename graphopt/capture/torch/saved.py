"""Exported programs from disk."""

from __future__ import annotations

import os
from typing import Any

import torch

from graphopt.errors import CaptureError


def load_program(path: str | os.PathLike[str]) -> Any:
    """The `torch.export.ExportedProgram` that torch.export.save wrote to `path`. Raises CaptureError.

    Reading one runs torch's own loader; torch advises against files from sources that you do not trust.
    """
    try:
        return torch.export.load(path)
    except Exception as e:  # whatever its zip reader, its JSON or its schema check raised
        raise CaptureError(f"torch cannot read it as an exported program: {type(e).__name__}: {e}", where=os.fspath(path),
                           hint="Write it with torch.export.save, and with this version of torch or an older one") from e


__all__ = ["load_program"]
