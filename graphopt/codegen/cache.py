"""Compiled code on disk: shared objects named by the hash of what they were made from."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from graphopt import store as disk

log = logging.getLogger("graphopt")
DIGEST_BYTES = 32


def load(key: str, kind: str = "code") -> Path | None:
    """The library stored under `key`, whole, or None. `kind` is a folder of its own."""
    root = disk.folder()
    path = root / kind / f"{key}.so" if root else None
    if path is None:
        return None
    try:
        if not _whole(path):
            raise ValueError("its digest does not match its contents")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as e:
        log.warning("removing the damaged cache entry %s: %s", path, e)
        disk.remove(path)
        return None
    disk.touch(path)
    return path


def store(key: str, library: bytes, kind: str = "code") -> Path | None:
    """Keep a library; where it is, or None where there is no cache or no room."""
    root = disk.folder()
    if root is None:
        return None
    path = root / kind / f"{key}.so"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write(path, library + hashlib.sha256(library).digest())  # after its sections a shared object may hold anything
        disk.trim(root)
        return path
    except OSError as e:
        disk.cannot_keep(root, e)
        return None


def _whole(library: Path) -> bool:
    """Whether the file is as it was written: mapping a truncated one would end the process."""
    contents = library.read_bytes()
    return hashlib.sha256(contents[:-DIGEST_BYTES]).digest() == contents[-DIGEST_BYTES:]
