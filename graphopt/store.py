"""Where things are kept between processes: one folder, bounded, and digests of files that need not be taken twice.

`GRAPHOPT_CACHE=0` turns it off, any other value is the folder (default: ~/.cache/graphopt). Processes may share it:
entries are written beside and renamed, a damaged one is removed and made anew, and the least recently used go first.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

# What only a new entry or a changed file needs is imported where it is used: programs from disk start faster.
LIMIT_BYTES = 8 << 30  # of everything together
BOUNDED = ("code", "objects", "programs", "digests")  # kinds of entries that may go
PIECE = 8 << 20
READ = 256 << 10  # bytes at a time: fresh memory for whole pieces takes as long as their digests
SETTLED_NS = 2_000_000_000  # a file that changed later than this before it was read may change again within its time stamp


def folder() -> Path | None:
    """Where entries are, None where nothing is kept."""
    setting = os.environ.get("GRAPHOPT_CACHE", "")
    if setting == "0":
        return None
    return Path(setting) if setting else Path.home() / ".cache" / "graphopt"


def cannot_keep(root: Path, error: OSError) -> None:
    """Warn that an entry could not be written, once for each folder and cause."""
    _warn(root, error.strerror or str(error))


@cache
def _warn(root: Path, why: str) -> None:
    import logging

    logging.getLogger("graphopt").warning(
        "what is compiled could not be cached in %s: %s (GRAPHOPT_CACHE names another folder, 0 none)", root, why)


def trim(root: Path) -> None:
    """Drop the least recently used entries beyond LIMIT_BYTES. An entry is a file or a folder, used when its time stamp says."""
    entries = []
    for kind in BOUNDED:
        for path in (root / kind).glob("*"):
            with contextlib.suppress(OSError):  # another process trims too
                size = sum(f.stat().st_size for f in path.rglob("*")) if path.is_dir() else path.stat().st_size
                entries.append((path.stat().st_mtime, size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > LIMIT_BYTES:
            remove(path)


def remove(path: Path) -> None:
    """Take an entry away at once, whoever still has its files open; nothing where it cannot be."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            import shutil
            import tempfile

            away = Path(tempfile.mkdtemp(dir=path.parent, prefix=".gone-"))
            with contextlib.suppress(OSError):
                path.rename(away / "entry")
            shutil.rmtree(away, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Mark an entry as used."""
    with contextlib.suppress(OSError):
        os.utime(path)


def digest(path: Path) -> str:
    """SHA-256 of the SHA-256 of every 8 MiB of a file, taken by several threads. OSError where it cannot be read.

    A file that has neither changed nor moved since its digest was last taken (device, inode, size, times of change of
    its contents and of its entry) is not read again.
    """
    before = path.stat()
    identity = (before.st_dev, before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns)
    root = folder()
    note = None if root is None else root / "digests" / "-".join(f"{n:x}" for n in identity)
    if note is not None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(note.read_text())
            if isinstance(found, str) and len(found) == 64:
                return found
    import hashlib
    from concurrent.futures import ThreadPoolExecutor

    now = time.time_ns()
    pieces = range(max(1, -(-before.st_size // PIECE)))
    with ThreadPoolExecutor(min(len(pieces), len(os.sched_getaffinity(0)))) as workers:
        made = hashlib.sha256(b"".join(workers.map(lambda k: _piece(path, k * PIECE), pieces))).hexdigest()
    if note is not None and now - max(before.st_mtime_ns, before.st_ctime_ns) > SETTLED_NS:
        with contextlib.suppress(OSError):
            note.parent.mkdir(parents=True, exist_ok=True)
            write(note, json.dumps(made).encode())
    return made


def digest_of(data: bytes | memoryview) -> str:
    """The same of bytes in memory."""
    import hashlib

    view = memoryview(data).cast("B") if len(data) else memoryview(b"")
    starts = range(0, max(len(view), 1), PIECE)
    return hashlib.sha256(b"".join(hashlib.sha256(view[s:s + PIECE]).digest() for s in starts)).hexdigest()


def _piece(path: Path, start: int) -> bytes:
    import hashlib

    h, block, left = hashlib.sha256(), memoryview(bytearray(READ)), PIECE
    with open(path, "rb", buffering=0) as f:
        f.seek(start)
        while left and (n := f.readinto(block[:min(READ, left)])):
            h.update(block[:n])
            left -= n
    return h.digest()


def write(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    import tempfile

    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


# What extends the compiler from outside ---------------------------------------------------------------------------
_HERE = os.path.join(os.path.dirname(__file__), "")
_STARTED = time.time()
_OUTSIDE: set[Path | None] = set()  # None: code that no file holds


def extends(what: Any) -> None:
    """Note where something stands that a table of the compiler is given: if outside of it, kept code depends on it too."""
    code = getattr(what, "__code__", None)
    module = sys.modules.get(getattr(what, "__module__", None) or "")
    name = code.co_filename if code is not None else getattr(module, "__file__", None)
    if name is None or not name.startswith(_HERE):
        _OUTSIDE.add(Path(name).resolve() if name and os.path.isfile(name) else None)


def outside() -> str:
    """Names the sources that extend the compiler; empty where there are none.

    A file in a package stands for the whole package. Where a source has changed since this process began, or is in no file
    (a notebook), what runs cannot be named: the process is on its own.
    """
    return _digest_of_sources(frozenset(_OUTSIDE)) if _OUTSIDE else ""


@cache
def _digest_of_sources(paths: frozenset[Path | None]) -> str:
    import hashlib
    import uuid

    h = hashlib.sha256()
    for path in sorted(_sources(p for p in paths if p is not None)):
        if path.stat().st_mtime >= _STARTED:
            return uuid.uuid4().hex
        h.update(str(path).encode() + b"\0" + path.read_bytes())
    return uuid.uuid4().hex if None in paths else h.hexdigest()


def _sources(paths: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    for path in paths:
        root = path
        while (root.parent / "__init__.py").is_file():
            root = root.parent
        found |= {path} if root is path else set(root.rglob("*.py"))
    return found
