"""The content-addressed cache of compiled code on disk: shared objects named by the hash of what they were made from.

`GRAPHOPT_CACHE=0` turns it off, any other value is its folder (default: ~/.cache/graphopt). Processes may share
it: an entry is written beside and renamed, and a damaged one is removed and built anew. It needs a C linker
(`cc`); without one programs are compiled in memory each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger("graphopt")
LIMIT_BYTES = 2 << 30
DIGEST_BYTES = 32


def folder() -> Path | None:
    """Where entries are, None where the cache is off."""
    setting = os.environ.get("GRAPHOPT_CACHE", "")
    if setting == "0":
        return None
    return Path(setting) if setting else Path.home() / ".cache" / "graphopt"


@cache
def _linker() -> str | None:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        log.info("no C linker (cc) found: compiled code is not cached on disk")
    return found


def load(key: str) -> Any | None:
    """The module stored under `key`, or None."""
    import tvm

    where = folder()
    path = where / f"{key}.so" if where else None
    if path is None or not path.exists():
        return None
    try:
        if not _whole(path):
            raise ValueError("its digest does not match its contents")
        module = tvm.runtime.load_module(str(path))
    except Exception as e:
        log.warning("removing the damaged cache entry %s: %s", path, e)
        with contextlib.suppress(OSError):  # a folder that cannot be written, or another process was first
            path.unlink(missing_ok=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return module


def store(key: str, module: Any) -> Any | None:
    """Link and store; the module loaded back, or None where there is no cache, no linker or no room."""
    import tvm

    where, linker = folder(), _linker()
    if where is None or linker is None:
        return None
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=where) as work:
            object_file, library = Path(work) / "code.o", Path(work) / "code.so"
            module.write_to_file(str(object_file))
            linked = subprocess.run([linker, "-shared", "-o", str(library), str(object_file)], capture_output=True, text=True)
            if linked.returncode:
                log.warning("%s could not link compiled code: %s", linker, linked.stderr.strip())
                return None
            _sign(library)
            os.replace(library, where / f"{key}.so")
        _trim(where)
        return tvm.runtime.load_module(str(where / f"{key}.so"))
    except OSError as e:
        log.warning("compiled code could not be cached in %s: %s", where, e)
        return None


def _sign(library: Path) -> None:
    """Append the SHA-256 of the contents; what follows its sections means nothing to a shared object."""
    with library.open("r+b") as f:
        f.write(hashlib.file_digest(f, "sha256").digest())


def _whole(library: Path) -> bool:
    """Whether the file is as it was written: mapping a truncated one would end the process."""
    contents = library.read_bytes()
    return hashlib.sha256(contents[:-DIGEST_BYTES]).digest() == contents[-DIGEST_BYTES:]


def _trim(where: Path) -> None:
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
