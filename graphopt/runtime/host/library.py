"""Compiled code in this process: shared libraries, the runtime library beneath them, and its pools of threads."""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import ArtifactError, GraphOptError, OutOfMemoryError

ABI = 1  # GRAPHOPT_ABI of graphopt.h
LAUNCH = "__TVMBackendParallelLaunch"  # the variable through which generated code starts its parallel loops

Pointer = ctypes.c_void_p


class Runtime:
    """The runtime library, loaded. One per process is enough: its pools are shared by all programs."""

    def __init__(self, image: Path | bytes) -> None:
        library = open_library(image)
        library.graphopt_abi.restype = ctypes.c_int
        found = library.graphopt_abi()
        if found != ABI:
            raise ArtifactError(f"the runtime library has the interface {found}, and this graphopt speaks {ABI}",
                                where=str(image) if isinstance(image, Path) else "")
        library.graphopt_pool_create.restype = Pointer
        library.graphopt_pool_create.argtypes = [ctypes.c_int]
        library.graphopt_bind.argtypes = [Pointer]
        library.graphopt_bind.restype = None
        self.call = library.graphopt_call
        self.call.argtypes = [Pointer, Pointer, Pointer]
        self.call.restype = ctypes.c_int
        self.library = library
        self._pools: dict[int, int] = {}
        self._lock = threading.Lock()

    def pool(self, threads: int) -> int:
        """The process's pool of so many threads."""
        with self._lock:
            if threads not in self._pools:
                made = self.library.graphopt_pool_create(threads)
                if not made:
                    raise OutOfMemoryError(f"there is no memory for a pool of {threads} threads")
                self._pools[threads] = made
            return self._pools[threads]

    def entries(self, image: Path | bytes, names: Sequence[str], threads: int) -> list[Entry]:
        """The named functions of a compiled program, to run on so many threads."""
        library = open_library(image)
        try:
            launch = ctypes.addressof(Pointer.in_dll(library, LAUNCH))
        except ValueError:  # no parallel loop
            launch = None
        self.library.graphopt_bind(launch)
        pool = self.pool(threads)
        return [Entry(self, pool, _address(library, n), library) for n in names]


FAILED = GraphOptError("compiled code failed", hint="This is a bug in graphopt; please report it")


class Entry:
    """A stretch of kernels: `entry(*pointers)`, or `call(pool, address, frame)` with an array of pointers; not 0 is a failure.

    Its code stays mapped for as long as this, or `code`, is held.
    """

    __slots__ = ("address", "call", "code", "pool", "runtime")

    def __init__(self, runtime: Runtime, pool: int, address: int, code: Code) -> None:
        self.runtime, self.call, self.pool, self.address = runtime, runtime.call, Pointer(pool), Pointer(address)
        self.code = code

    def __call__(self, *pointers: Any) -> None:
        if self.call(self.pool, self.address, (Pointer * len(pointers))(*pointers)):
            raise FAILED


_RUNTIMES: dict[Any, Runtime] = {}
_LOCK = threading.Lock()


def runtime(image: Path | bytes, key: str) -> Runtime:
    """The loaded runtime library named `key` (builds of the same name are equal)."""
    with _LOCK:
        if key not in _RUNTIMES:
            _RUNTIMES[key] = Runtime(image)
        return _RUNTIMES[key]


def _address(library: ctypes.CDLL, name: str) -> int:
    """Where a function is. OSError where there is none. (ctypes.cast would hold the library in a cycle.)"""
    try:
        return ctypes.addressof(Pointer.in_dll(library, name))
    except ValueError as e:
        raise OSError(str(e)) from e


class Code(ctypes.CDLL):
    """A shared library that is let go with this object, but for one that asks to stay (`-z nodelete`).

    Not as the process ends: other threads may still be in it then.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        weakref.finalize(self, _ctypes.dlclose, self._handle).atexit = False


_OPENED = itertools.count()


def open_library(image: Path | bytes) -> Code:
    """Load a shared library from a file or from memory. OSError where it cannot be.

    The dynamic loader takes a path that it knows for the library that it has from there, whatever the file is by now. It
    is therefore given the open file, by a name that it was never given before; a file that it has already (the same device
    and inode) is still not loaded again.
    """
    if isinstance(image, bytes):
        opened = os.memfd_create("graphopt.so", os.MFD_CLOEXEC)
    else:
        opened = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if isinstance(image, bytes):
            with os.fdopen(os.dup(opened), "wb") as f:
                f.write(image)
        unique = "".join("/." if bit == "1" else "/" for bit in f"{next(_OPENED):b}")  # paths of one meaning
        return Code(f"/proc/self/fd{unique}/{opened}")
    finally:
        os.close(opened)
