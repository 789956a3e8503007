"""`graphopt.load`: a saved model, ready to call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from graphopt.errors import InputError
from graphopt.runtime.artifact.reading import read


def load(path: str | os.PathLike[str], *, numpy: bool = True) -> Any:
    """A saved model, ready to call with arrays by position or by its inputs' names: a `SavedModel`.

    With `numpy=False` numpy is not imported, which is most of a start: buffers in, memoryviews out, a `BufferModel`. Neither
    imports the compiler or a framework. Raises ArtifactError where the folder is damaged, too new, or made for other machines.
    """
    try:
        where = Path(os.fsdecode(path))
    except TypeError as e:
        raise InputError(f"expected the path of a saved model, got {type(path).__name__}", where="path") from e
    found = read(where)
    if not numpy:
        from graphopt.runtime.artifact.buffers import BufferModel

        return BufferModel(found)
    from graphopt.runtime.artifact.saved import SavedModel

    return SavedModel(found)


__all__ = ["load"]
