"""Folders of emitted source: written at once, with a manifest that knows them again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError
from graphopt.ship import replacing

MANIFEST, PROJECT = "manifest.json", "graphopt-project"  # runtime/artifact/manifest.py knows it by that


def write_project(folder: str | os.PathLike[str], files: Mapping[str, str | bytes], manifest: Mapping[str, Any],
                  force: bool = False) -> None:
    """Write `files` (relative paths) and a manifest with their SHA-256 to `folder`, all or nothing.

    A project of ours that is already there is replaced, if all its files are as we wrote them, or if `force` says that the others
    may go, too; any other folder that is not empty is left alone with an ArtifactError.
    """
    target = Path(os.path.realpath(replacing.folder_named(folder)))
    if target.exists() and not target.is_dir():
        raise ArtifactError("is a file; a folder is needed", where=str(folder))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            replacing.check(target, _written, force)
        with replacing.scratch(target) as beside:
            sums = {}
            for name, content in sorted(files.items()):
                data = content.encode() if isinstance(content, str) else content
                path = beside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                sums[name] = hashlib.sha256(data).hexdigest()
            described = {"format": PROJECT, "version": 1, **manifest, "sha256": sums}
            (beside / MANIFEST).write_text(json.dumps(described, indent=1))
            replacing.put(beside, target, _written, force)
    except OSError as e:
        raise ArtifactError(f"cannot be written: {e.strerror or e}", where=str(folder)) from e


def _written(folder: Path) -> dict[str, Callable[[Path], bool]] | None:
    """What we wrote to a project; None where it is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if found["format"] != PROJECT:
            return None
        sums = found["sha256"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    def same(digest: str) -> Callable[[Path], bool]:
        return lambda p: hashlib.sha256(p.read_bytes()).hexdigest() == digest

    return {**{name: same(digest) for name, digest in sums}, MANIFEST: lambda p: True}


__all__ = ["MANIFEST", "write_project"]
