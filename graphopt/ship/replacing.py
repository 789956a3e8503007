"""Folders that are there whole or not at all: written beside, and exchanged in one step with what stands there.

A folder is made within a scratch folder that its maker holds locked (flock(2)) for as long as it lives. One that nobody holds
was left by a process that was ended, and is cleared by the next that writes there. The exchange is renameat2(2) with
RENAME_EXCHANGE. Where the file system has none (NFS, some FUSE) the old folder is renamed away first, so that for a moment there
is none: that is logged once, and what a process leaves that is ended just then is put back by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

from graphopt.errors import ArtifactError, InputError

log = logging.getLogger("graphopt")
NEW, OLD = "new", "old"  # within a scratch folder
AT_FDCWD, NOREPLACE, EXCHANGE, SYS_RENAMEAT2 = -100, 1, 2, 316  # of Linux on x86-64
LACKING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)  # what is said where there is no such call
SHOWN = 5

# Of a folder, what graphopt wrote to it: by relative path, whether a file still is as it was. None: it is none of graphopt's.
Written = Callable[[Path], Mapping[str, Callable[[Path], bool]] | None]


def folder_named(path: object) -> Path:
    """The folder that a caller names. InputError where it is no path, or cannot be one."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise InputError(f"expected the path of a folder, got {type(path).__name__}", where="path")
    name = os.fsdecode(path)
    if not name or "\0" in name:
        raise InputError(f"{name!r} cannot be the path of a folder", where="path")
    return Path(name)


@contextlib.contextmanager
def scratch(path: Path, private: bool = False) -> Iterator[Path]:
    """A new folder beside `path`, to be filled and given to `put`; gone afterwards. `private`: others may not look into it."""
    clear(path.parent, path.name)
    around, lock = _held(path)
    try:
        (around / NEW).mkdir(mode=0o700 if private else 0o777)
        yield around / NEW
    finally:
        shutil.rmtree(around, ignore_errors=True)
        os.close(lock)


def _held(path: Path) -> tuple[Path, int]:
    """A new scratch folder, and what holds it."""
    while True:
        around = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path.name)))
        try:
            lock = os.open(around, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # cleared before it was held
            continue
        except OSError:
            around.rmdir()
            raise
        with contextlib.suppress(OSError):  # a file system without locks: nobody can hold it, and nobody clears it
            fcntl.flock(lock, fcntl.LOCK_EX)
        if around.is_dir():
            return around, lock
        os.close(lock)


def put(new: Path, path: Path, written: Written, force: bool = False) -> None:
    """Put what `scratch` gave in the place of another folder, or of nothing. ArtifactError where the other holds what graphopt
    did not write, unless `force`; OSError where it cannot be. It then stays as it is."""
    for _ in range(100):
        try:
            if not os.path.lexists(path):
                _rename(new, path, NOREPLACE)
                return
            check(path, written, force)
            _rename(new, path, EXCHANGE)
        except (FileNotFoundError, FileExistsError):  # another process was here first
            if not new.is_dir():
                raise
            continue
        try:
            if new.is_dir():
                check(new, written, force, where=path)  # once more, now that nobody looks for it there
        except ArtifactError:
            _rename(new, path, EXCHANGE)
            raise
        return
    raise ArtifactError("other processes keep writing there", where=str(path))


def check(folder: Path, written: Written, force: bool = False, where: Path | None = None) -> None:
    """ArtifactError where a folder, or what else stands there, may not be replaced."""
    at, hint = str(where or folder), "Remove it, or give another name"
    if folder.is_symlink() or not folder.is_dir():
        raise ArtifactError("something that is not a saved model stands there, and is left alone", where=at, hint=hint)
    if force:
        here = (Path.cwd(), Path.home())
        if any(folder == p or folder in p.parents for p in here) or os.path.ismount(folder):
            raise ArtifactError("is a folder that is never replaced: where this process or its user is at home", where=at,
                                hint="Give another name")
        return
    if not any(folder.iterdir()):
        return
    ours = written(folder)
    if ours is None:
        raise ArtifactError("something that is not a saved model stands there, and is left alone", where=at,
                            hint=f"{hint}, or replace it with force (--force, save(..., force=True))")
    names = [(p, p.relative_to(folder).as_posix()) for p in sorted(folder.rglob("*")) if p.is_symlink() or not p.is_dir()]
    others = [name for p, name in names if p.is_symlink() or name not in ours]
    changed = [name for p, name in names if name not in others and not ours[name](p)]
    if others or changed:
        lines = [f"files that graphopt did not write: {_some(others)}"] * bool(others)
        lines += [f"files that were changed since: {_some(changed)}"] * bool(changed)
        raise ArtifactError(f"holds {' and '.join(lines)}; nothing is replaced", where=at,
                            hint="Move them away, give another name, or replace all of it with force (--force, "
                                 "save(..., force=True))")


def clear(parent: Path, name: str | None = None) -> None:
    """Remove what processes that were ended have left of a folder of that name (of all, without one). What they had taken out of
    its place, and not replaced, is put back."""
    pattern = re.compile(rf"{re.escape(_prefix(name)) if name else r'[.].*[.]graphopt-'}\w{{8}}")
    with contextlib.suppress(OSError):
        for left in [e.path for e in os.scandir(parent) if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]:
            with contextlib.suppress(OSError):  # it is held, or not ours
                _clear(Path(left))


def _clear(left: Path) -> None:
    if left.lstat().st_uid != os.geteuid():
        return
    lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place = left.parent / left.name[1:].rpartition(".graphopt-")[0]
        if (left / OLD).is_dir() and not os.path.lexists(place):
            _rename(left / OLD, place, NOREPLACE)
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(lock)


def _prefix(name: str) -> str:
    return f".{name}.graphopt-"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


# renameat2 --------------------------------------------------------------------------------------
def _rename(a: Path, b: Path, how: int) -> None:
    try:
        renameat2(a, b, how)
    except OSError as e:
        if e.errno not in LACKING:
            raise
        _without(a, b, how)


def renameat2(a: Path, b: Path, how: int) -> None:
    """The system's call. OSError."""
    libc = _libc()
    given = (AT_FDCWD, ctypes.c_char_p(os.fsencode(a)), AT_FDCWD, ctypes.c_char_p(os.fsencode(b)), ctypes.c_uint(how))
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(*given)
    else:
        failed = libc.syscall(ctypes.c_long(SYS_RENAMEAT2), *given)
    if failed:
        n = ctypes.get_errno()
        raise OSError(n, os.strerror(n), str(a), None, str(b))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _without(new: Path, path: Path, how: int) -> None:
    """The same of folders on a file system that lacks it, in several steps."""
    if how == NOREPLACE:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        os.rename(new, path)
        return
    _say_gap(path.parent)
    old = new.parent / OLD
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        if not os.path.lexists(path):
            os.rename(old, path)
        raise
    with contextlib.suppress(OSError):  # all that matters is done
        os.rename(old, new)


@cache
def _say_gap(parent: Path) -> None:
    log.warning("the file system of %s cannot exchange folders (renameat2): while one is replaced there is none for a moment",
                parent)


__all__ = ["Written", "check", "clear", "folder_named", "put", "renameat2", "scratch"]
