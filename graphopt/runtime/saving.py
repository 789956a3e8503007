"""The writing half of `graphopt.runtime.artifact`: a folder is written beside and renamed, so that it is there whole or not."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import store
from graphopt.errors import ArtifactError
from graphopt.runtime.artifact import MANIFEST, MANIFEST_DIGEST, format_of

Contents = bytes | Path | Iterable[np.ndarray]  # of a file: its bytes, another file, or pieces


def write(path: Path, manifest: Mapping[str, Any], files: Mapping[str, Contents]) -> None:
    """Make the folder, all of it or nothing; an artifact that is there is replaced. Names of files may have one folder.

    ArtifactError where something else stands there, OSError where the folder cannot be written.
    """
    path = Path(os.path.realpath(path))  # through a link to the artifact, the artifact is replaced, not the link
    check_replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        listed = {}
        for name, contents in files.items():
            where = beside / name
            where.parent.mkdir(exist_ok=True)
            if isinstance(contents, Path):
                shutil.copyfile(contents, where)
            else:
                with open(where, "wb") as f:
                    for piece in [contents] if isinstance(contents, bytes) else contents:
                        f.write(piece)  # type: ignore[arg-type]
            listed[name] = {"bytes": where.stat().st_size, "sha256": store.digest(where)}
        text = json.dumps({"format": format_of(manifest), **manifest, "files": listed}, indent=1, allow_nan=False)
        (beside / MANIFEST).write_bytes(text.encode())
        (beside / MANIFEST_DIGEST).write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  {MANIFEST}\n")  # as sha256sum
        os.chmod(beside, 0o777 & ~_umask())
        _replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """ArtifactError where anything but an artifact, an empty folder or nothing is."""
    if os.path.lexists(path.parent) and not path.parent.is_dir():
        raise ArtifactError(f"cannot be written: there is no such folder as {path.parent}", where=str(path))
    if not os.path.lexists(path) or (path.is_dir() and ((path / MANIFEST).exists() or not any(path.iterdir()))):
        return
    raise ArtifactError("something that is not a saved model stands there, and is left alone", where=str(path),
                        hint="Remove it, or give another name")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(new: Path, path: Path) -> None:
    """Put a folder in the place of another, which stays where that fails, or of nothing."""
    for _ in range(100):
        try:
            os.rename(new, path)
            return
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
        try:
            os.rename(path, aside / "old")
            os.rename(new, path)
            return
        except FileNotFoundError:  # another process was here first
            continue
        except OSError as e:
            if (aside / "old").exists() and not path.exists():
                os.rename(aside / "old", path)
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise ArtifactError("other processes keep writing there", where=str(path))


__all__ = ["Contents", "check_replaceable", "write"]
