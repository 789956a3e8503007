"""The content-addressed cache of compiled code on disk: shared objects named by the hash of what they were made from.

`GRAPHOPT_CACHE=0` turns it off, any other value is its folder (default: ~/.cache/graphopt). Processes may share
it: an entry is written beside and renamed, and a damaged one is removed and built anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

log = logging.getLogger("graphopt")
LIMIT_BYTES = 2 << 30
DIGEST_BYTES = 32


def folder() -> Path | None:
    """Where entries are, None where the cache is off."""
    setting = os.environ.get("GRAPHOPT_CACHE", "")
    if setting == "0":
        return None
    return Path(setting) if setting else Path.home() / ".cache" / "graphopt"


def load(key: str, kind: str = "code") -> Path | None:
    """The library stored under `key`, whole, or None. `kind` is a folder of its own."""
    where = folder()
    path = where / kind / f"{key}.so" if where else None
    if path is None:
        return None
    try:
        if not _whole(path):
            raise ValueError("its digest does not match its contents")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        log.warning("removing the damaged cache entry %s: %s", path, e)
        with contextlib.suppress(OSError):  # a folder that cannot be written, or another process was first
            path.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return path


def store(key: str, library: bytes, kind: str = "code") -> Path | None:
    """Keep a library; where it is, or None where there is no cache or no room."""
    root = folder()
    if root is None:
        return None
    where, beside = root / kind, None
    try:
        where.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=where)
        with os.fdopen(handle, "wb") as f:
            f.write(library + hashlib.sha256(library).digest())  # after its sections a shared object may hold anything
        os.replace(beside, where / f"{key}.so")
        trim(where)
        return where / f"{key}.so"
    except OSError as e:
        log.warning("compiled code could not be cached in %s: %s", where, e)
        if beside is not None:
            with contextlib.suppress(OSError):
                os.unlink(beside)
        return None


def _whole(library: Path) -> bool:
    """Whether the file is as it was written: mapping a truncated one would end the process."""
    contents = library.read_bytes()
    return hashlib.sha256(contents[:-DIGEST_BYTES]).digest() == contents[-DIGEST_BYTES:]


def trim(where: Path) -> None:
    """Drop the least recently used entries beyond LIMIT_BYTES."""
    entries = []
    for path in where.glob("*.so"):
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            status = path.stat()
            entries.append((status.st_mtime, status.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > LIMIT_BYTES:
            path.unlink(missing_ok=True)
