"""Finished programs on disk: what an ONNX file was compiled to, found again without capturing or compiling it.

An entry is an artifact (`graphopt.runtime.artifact.reading`) named by the digest of the model's file, the options, the machine
and this compiler. Models with data in other files also list those, with their digests. Nothing here imports the
compiler, onnx or TVM.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.cache import naming, store
from graphopt.cache.ownership import why_not_all
from graphopt.errors import ArtifactError
from graphopt.runtime.artifact import reading as artifact
from graphopt.runtime.host.machine import identity

log = logging.getLogger("graphopt")


def model_key(model: Any, options: Mapping[str, Any]) -> str | None:
    """What names everything compiled from this model with these options; None where it cannot be named cheaply, or nothing
    is kept."""
    if store.folder() is None or not isinstance(model, (str, os.PathLike, bytes, bytearray, memoryview)):
        return None
    try:
        if isinstance(model, (str, os.PathLike)):
            path = Path(os.fspath(model))
            if not path.is_file():  # what is no file may have no end
                return None
            digest, place = store.digest(path), str(path.resolve())  # external data is looked for beside the file
        else:
            digest, place = store.digest_of(bytes(model)), ""
    except (OSError, ValueError):  # the capture says why it cannot be read
        return None
    compiler = naming.compiler()
    if compiler is None:
        return None
    given = [digest, compiler, store.outside(), identity(), place, sorted((k, repr(v)) for k, v in options.items())]
    return hashlib.sha256(json.dumps(given).encode()).hexdigest()


def program_key(model: str, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> str:
    """What names a program of the model for these input shapes and values."""
    h = hashlib.sha256(model.encode())
    h.update(json.dumps(sorted((n, list(s)) for n, s in shapes.items())).encode())
    for n in sorted(values):
        h.update(f"{n} {values[n].dtype.str} {values[n].shape}".encode() + values[n].tobytes())
    return h.hexdigest()


def find(key: str, holds: Callable[[Mapping[str, Any]], bool]) -> artifact.Artifact | None:
    """The whole entry of that name if what the manifest says of its program `holds`, else None; a damaged one is removed."""
    folder = store.place("programs")
    path = folder / key if folder else None
    if path is None or not os.path.lexists(path):
        return None
    try:
        if (why := why_not_all(path)) is not None:
            raise ValueError(why)
        found = artifact.read(path)
        said = found.programs[0].said
        if found.manifest["key"] != key or not isinstance(said["stats"], dict) or not isinstance(said["decisions"], str):
            raise ValueError("it is another entry")
        if not holds(said):
            return None
        for file, digest in found.manifest["external"]:
            if store.digest(Path(file)) != digest:
                return None  # nothing is wrong with the entry but its age
    except (ArtifactError, KeyError, TypeError, ValueError) as e:
        store.damaged(path, e)
        return None
    except OSError:
        return None
    store.touch(path)
    return found


def keep(key: str, manifest: Mapping[str, Any], files: Mapping[str, Any], external: Sequence[Path]) -> artifact.Artifact | None:
    """Store a program, in the place of one that no longer holds; the entry, or None where there is no room for it."""
    root = store.folder()
    if root is None:
        return None
    from graphopt.ship.saving import write

    try:
        folder = store.room("programs")
        if folder is None:
            return None
        outside = [[str(f), store.digest(f)] for f in external]
        write(folder / key, {**manifest, "key": key, "external": outside}, files, force=True, private=True)
        store.trim(root)
        return artifact.just_written(folder / key)
    except OSError as e:
        store.cannot_keep(root, e)
    except ArtifactError as e:
        log.warning("the program could not be cached: %s", e)
    return None


def interface(key: str) -> dict[str, Any] | None:
    """What `keep_interface` stored of a model whose programs depend on its inputs' shapes."""
    folder = store.place("programs")
    path = folder / f"{key}.json" if folder else None
    found = store.read_json(path) if path else None
    if path is None or found is None:
        return None
    try:
        if not {"inputs", "outputs", "control_inputs", "ranges"} <= found.keys():
            raise ValueError("it describes no model")
        if any(store.digest(Path(file)) != digest for file, digest in found["external"]):
            return None
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        store.damaged(path, e)
        return None
    except OSError:
        return None
    store.touch(path)
    return found


def keep_interface(key: str, description: Mapping[str, Any], external: Sequence[Path]) -> None:
    """Remember the inputs and outputs of such a model."""
    root = store.folder()
    if root is None:
        return
    try:
        outside = [[str(f), store.digest(f)] for f in external]
        folder = store.room("programs")
        if folder is not None:
            store.write_json(folder / f"{key}.json", {**description, "external": outside})
    except OSError as e:
        store.cannot_keep(root, e)


__all__ = ["find", "interface", "keep", "keep_interface", "model_key", "program_key"]
