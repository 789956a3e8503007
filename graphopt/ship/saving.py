"""The writing half of `graphopt.runtime.artifact.reading`: a folder that is there whole or not (`graphopt.ship.replacing`)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.cache import store
from graphopt.errors import ArtifactError
from graphopt.runtime.artifact.reading import MANIFEST, MANIFEST_DIGEST, MOST_MANIFEST, format_of, program_digest
from graphopt.ship import replacing

Contents = bytes | Path | Iterable[np.ndarray]  # of a file: its bytes, another file, or pieces
COMPARED = 1 << 20  # bytes: larger files than this are no text that somebody has edited


def write(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Contents], *, force: bool = False,
          private: bool = False) -> None:
    """Make the folder, all of it or nothing; an artifact that is there is replaced. Names of files may have one folder.

    ArtifactError where something else stands there, or holds files that graphopt did not write, unless `force`; OSError where
    the folder cannot be written. `private`: others may not read it.
    """
    path = Path(os.path.realpath(path))  # through a link to the artifact, the artifact is replaced, not the link
    check_replaceable(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing.scratch(path, private) as beside:
        listed = {}
        for name, contents in files.items():
            where = beside / name
            where.parent.mkdir(exist_ok=True, mode=0o700 if private else 0o777)
            with _created(where, private) as f:
                if isinstance(contents, Path):
                    shutil.copyfile(contents, where)
                else:
                    for piece in [contents] if isinstance(contents, bytes) else contents:
                        f.write(piece)
            listed[name] = {"bytes": where.stat().st_size, "sha256": store.digest(where)}
        said = {"format": format_of(manifest), **manifest, "files": listed}
        said["programs"] = [{**p, "digest": program_digest(said, p)} for p in said.get("programs", ())]
        text = json.dumps(said, indent=1, allow_nan=False).encode()
        digest = f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode()  # as sha256sum writes it
        for name, data in ((MANIFEST, text), (MANIFEST_DIGEST, digest)):
            with _created(beside / name, private) as f:
                f.write(data)
        replacing.put(beside, path, written, force)


def check_replaceable(path: Path, force: bool = False) -> None:
    """ArtifactError where anything but an artifact, an empty folder or nothing is, or files that graphopt did not write are in
    it, unless `force` says that a folder may go."""
    path = Path(os.path.realpath(path))
    if os.path.lexists(path.parent) and not path.parent.is_dir():
        raise ArtifactError(f"cannot be written: there is no such folder as {path.parent}", where=str(path))
    if os.path.lexists(path):
        replacing.check(path, written, force)


def written(folder: Path) -> dict[str, Callable[[Path], bool]] | None:
    """What graphopt wrote to an artifact. The rest of a folder, and of its small files those that were edited, are somebody's."""
    manifest = standing(folder)
    if manifest is None:
        return None

    def as_it_was(said: Any) -> Callable[[Path], bool]:
        digest = said.get("sha256") if isinstance(said, dict) else None
        return lambda p: p.suffix in (".so", ".bin") or p.stat().st_size > COMPARED or store.digest(p) == digest

    listed = {name: as_it_was(said) for name, said in manifest["files"].items()}
    return {**listed, MANIFEST: lambda p: True, MANIFEST_DIGEST: lambda p: True}


def standing(folder: Path) -> dict[str, Any] | None:
    """The manifest of an artifact that may be replaced, unchecked; None where there is none that graphopt wrote."""
    try:
        if (folder / MANIFEST).is_symlink() or (folder / MANIFEST).stat().st_size > MOST_MANIFEST:
            return None
        found: Any = json.loads((folder / MANIFEST).read_bytes()) if (folder / MANIFEST).is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("format"), list) or not isinstance(found.get("files"), dict):
        return None
    return found if "programs" in found or "program" in found else None


def _created(path: Path, private: bool) -> Any:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666), "wb")


__all__ = ["Contents", "check_replaceable", "standing", "write", "written"]
