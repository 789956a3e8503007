"""Whose a file is: code and data that are kept between processes are used where this user alone may write them.

Root may write everything anyway. Folders above are trusted as OpenSSH trusts them (StrictModes in sshd_config(5)): where another
user may rename what lies in them, what lies there may be that user's.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def why_not(found: os.stat_result) -> str | None:
    """Why what this describes is not to be used; None where it is this user's, and no other may write it."""
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}, and this is user {os.geteuid()}"
    if found.st_mode & OTHERS_WRITE:
        return f"other users may write it (mode {stat.S_IMODE(found.st_mode):o}); chmod go-w it if what it holds is yours"
    return None


def why_no_folder(folder: Path) -> str | None:
    """The same of a folder, given without links, that need not be there, and of those above it."""
    for place in (folder, *folder.parents):
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as e:
            return e.strerror
        why = why_not(found) if place == folder else _why_not_above(found)
        if why is not None:
            return why if place == folder else f"it lies in {place}, and {why}"
    return None


def _why_not_above(found: os.stat_result) -> str | None:
    if found.st_uid not in (0, os.geteuid()):
        return f"that belongs to user {found.st_uid}, and this is user {os.geteuid()}"
    private = found.st_gid in (0, os.geteuid())  # root's group, or the group of this user alone, by its number
    others = stat.S_IWOTH | (0 if private else stat.S_IWGRP)
    if found.st_mode & others and not found.st_mode & stat.S_ISVTX:  # who may write there may not rename what others have there
        return f"other users may write that (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def open_plain(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """A plain file, opened without following a link and without waiting for a pipe. OSError where it is none."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(f"{path} is no plain file")
    return opened


def read(path: Path) -> bytes:
    """The contents of a plain file that is this user's, and that no other may write: else ValueError, or OSError."""
    opened = open_plain(path)
    with open(opened, "rb") as f:
        why = why_not(os.fstat(opened))
        if why is not None:
            raise ValueError(why)
        return f.read()


def why_not_all(folder: Path) -> str | None:
    """Why a folder of this user's, or anything in it, is not to be used."""
    for path in (folder, *folder.rglob("*")):
        found = os.lstat(path)
        why = "it is a link" if stat.S_ISLNK(found.st_mode) else why_not(found)
        if why is not None:
            return why if path == folder else f"{path.relative_to(folder)}: {why}"
    return None


__all__ = ["open_plain", "read", "why_no_folder", "why_not", "why_not_all"]
