"""Where things are kept between processes: one folder, bounded, and digests of files that need not be taken twice.

`GRAPHOPT_CACHE=0` turns it off, any other value is the folder (default: ~/.cache/graphopt). One user's processes may share it:
entries are written beside and renamed, and the least recently used go first. Code that is found there runs, so that what another
user owns or may write is not used (ownership.py). Every entry carries a digest, over its name too: what does not fit is removed
and made anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from graphopt.cache import ownership

# What only a new entry or a changed file needs is imported where it is used: programs from disk start faster.
LIMIT_BYTES = 8 << 30  # of everything together
BOUNDED = ("code", "objects", "programs", "digests")  # kinds of entries that may go
PIECE = 8 << 20
READ = 256 << 10  # bytes at a time: fresh memory for whole pieces takes as long as their digests
SETTLED_NS = 2_000_000_000  # a file that changed later than this before it was read may change again within its time stamp


LEFT_NS = 3_600_000_000_000  # what lies beside an entry and was not renamed for so long never will be


def folder() -> Path | None:
    """Where entries are, without links; None where nothing is kept, which is said once where others may write there."""
    setting = os.environ.get("GRAPHOPT_CACHE", "")
    if setting == "0":
        return None
    try:
        root = Path(os.path.realpath(setting or Path.home() / ".cache" / "graphopt"))
        why = ownership.why_no_folder(root)
    except (OSError, ValueError, RuntimeError) as e:  # a loop of links, NUL in the name, no home
        root, why = Path(repr(setting)), str(e)
    if why is None:
        return root
    _not_used(root, why)
    return None


def place(kind: str) -> Path | None:
    """The folder of one kind of entries, None where it is not used. It need not be there."""
    root = folder()
    if root is None:
        return None
    try:
        found = os.lstat(root / kind)
    except OSError:
        return root / kind  # who reads or writes there sees why
    why = "it is no folder" if not stat.S_ISDIR(found.st_mode) else ownership.why_not(found)
    if why is None:
        return root / kind
    _not_used(root / kind, why)
    return None


def room(kind: str) -> Path | None:
    """The same, made where it was not there. OSError where it cannot be."""
    path = place(kind)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.mkdir(exist_ok=True, mode=0o700)
    return path


def cannot_keep(root: Path, error: OSError) -> None:
    """Warn that an entry could not be written, once for each folder and cause."""
    _warn(root, error.strerror or str(error))


@cache
def _not_used(path: Path, why: str) -> None:
    import logging

    logging.getLogger("graphopt").warning(
        "the cache %s is not used: %s. Code found there would run as this user (GRAPHOPT_CACHE names another folder, 0 none)",
        path, why)


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
                if path.name.startswith((".new-", ".gone-")) and time.time_ns() - path.lstat().st_mtime_ns > LEFT_NS:
                    _erase(path)  # a process that was ended left it
                    continue
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
        if path.is_dir() and not path.is_symlink():
            import tempfile

            away = Path(tempfile.mkdtemp(dir=path.parent, prefix=".gone-"))
            with contextlib.suppress(OSError):
                path.rename(away / "entry")
            _erase(away)
        else:
            path.unlink(missing_ok=True)


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def touch(path: Path) -> None:
    """Mark an entry as used."""
    with contextlib.suppress(OSError):
        os.utime(path)


# Entries with their digests ---------------------------------------------------------------------------------------
def _seal(path: Path, data: bytes) -> bytes:
    """The digest of an entry's data and name: another entry's file under this name does not fit either."""
    import hashlib

    return hashlib.sha256(f"{path.parent.name}/{path.name}\0".encode() + data).digest()


SEAL_BYTES = 32


def sealed(path: Path, data: bytes) -> bytes:
    """What an entry of these data holds: a file of any format that allows something after its end."""
    return data + _seal(path, data)


def read_sealed(path: Path) -> bytes:
    """The data of an entry. OSError where it cannot be read, ValueError where it is not this user's, or not as it was written."""
    contents = ownership.read(path)
    data, seal = contents[:-SEAL_BYTES], contents[-SEAL_BYTES:]
    if len(seal) != SEAL_BYTES or _seal(path, data) != seal:
        raise ValueError("its digest does not match its contents")
    return data


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` kept; None where there is nothing. What is not as it was written is removed."""
    try:
        found = json.loads(ownership.read(path))
        if not isinstance(found, dict) or found.pop("sha256", None) != _json_seal(path, found):
            raise ValueError("its digest does not match its contents")
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as e:
        damaged(path, e)
        return None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write(path, json.dumps({**value, "sha256": _json_seal(path, value)}).encode())


def _json_seal(path: Path, value: Mapping[str, Any]) -> str:
    return _seal(path, json.dumps(value, sort_keys=True).encode()).hex()


def damaged(path: Path, why: Exception | str) -> None:
    """Say that an entry is not what it should be, and take it away."""
    import logging

    logging.getLogger("graphopt").warning("removing the damaged cache entry %s: %s", path, why)
    remove(path)


def digest(path: Path, again: bool = False) -> str:
    """SHA-256 of the SHA-256 of every 8 MiB of a plain file, taken by several threads. OSError where it cannot be read.

    A file that has neither changed nor moved since its digest was last taken (device, inode, size, times of change of
    its contents and of its entry) is not read again, unless `again` says so.
    """
    identity = _identity(path)
    notes = place("digests")
    note = None if notes is None else notes / "-".join(f"{n:x}" for n in identity)
    if note is not None and not again:
        found = (read_json(note) or {}).get("digest")
        if isinstance(found, str) and len(found) == 64:
            return found
    import hashlib

    now, (_, _, size, modified, changed) = time.time_ns(), identity
    pieces = range(max(1, -(-size // PIECE)))
    if len(pieces) == 1:
        made = hashlib.sha256(_piece(path, 0)).hexdigest()
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(pieces), len(os.sched_getaffinity(0)))) as workers:
            made = hashlib.sha256(b"".join(workers.map(lambda k: _piece(path, k * PIECE), pieces))).hexdigest()
    if note is not None and now - max(modified, changed) > SETTLED_NS and _identity(path) == identity:
        with contextlib.suppress(OSError):
            room("digests")
            write_json(note, {"digest": made})
    return made


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no plain file")
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


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
_HERE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
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
