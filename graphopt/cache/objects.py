"""Compiled code on disk: libraries and objects named by the hash of what they were made from."""

from __future__ import annotations

from pathlib import Path

from graphopt.cache import store as disk


def load(key: str, kind: str = "code") -> Path | None:
    """The library stored under `key`, whole, or None. `kind` is a folder of its own."""
    found = _found(key, kind)
    return None if found is None else found[0]


def load_bytes(key: str, kind: str) -> bytes | None:
    """The same, and what it holds."""
    found = _found(key, kind)
    return None if found is None else found[1]


def store(key: str, library: bytes, kind: str = "code") -> Path | None:
    """Keep a library; where it is, or None where there is no cache or no room."""
    root = disk.folder()
    if root is None:
        return None
    try:
        folder = disk.room(kind)
        if folder is None:
            return None
        path = folder / f"{key}.so"
        disk.write(path, disk.sealed(path, library))  # after its sections a shared object may hold anything
        disk.trim(root)
        return path
    except OSError as e:
        disk.cannot_keep(root, e)
        return None


def _found(key: str, kind: str) -> tuple[Path, bytes] | None:
    folder = disk.place(kind)
    if folder is None:
        return None
    path = folder / f"{key}.so"
    try:
        library = disk.read_sealed(path)  # mapping a truncated one would end the process
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as e:
        disk.damaged(path, e)
        return None
    disk.touch(path)
    return path, library
