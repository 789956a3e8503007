"""The host's linker and C compiler: objects become shared libraries, and our runtime library is built once.

Without a C compiler (`cc`) programs run in memory on TVM's own runtime and thread pool instead.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from graphopt.errors import CodegenError

log = logging.getLogger("graphopt")
SOURCES = Path(__file__).parents[2] / "runtime" / "native"
# Never unloaded: pool threads run in it, and code bound to it may outlive who loaded it.
FLAGS = ("-O2", "-std=c11", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden", "-Wl,-z,nodelete,-z,defs",
         "-Wl,-soname,libgraphopt.so")


@cache
def compiler() -> str | None:
    """The C compiler, None where there is none."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is None:
        log.info("no C compiler (cc) found: programs run on TVM's runtime and are not cached on disk")
    return found


def link(objects: Sequence[bytes]) -> bytes:
    """A shared library of these object files. CodegenError where the linker refuses, or where a symbol is missing."""
    with _scratch() as work:
        paths = []
        for k, contents in enumerate(objects):
            paths.append(work / f"code{k}.o")
            paths[-1].write_bytes(contents)
        return _run(["-shared", "-nostartfiles", "-Wl,-z,defs", *map(str, paths), "-lm", "-lgcc", "-lc"], work)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder. CodegenError where there is none, it is full, or nothing can be started in it."""
    try:
        with tempfile.TemporaryDirectory(prefix="graphopt-") as work:
            yield Path(work)
    except OSError as e:
        raise CodegenError(f"the program cannot be linked: {e.strerror or e}", where=str(e.filename or "temporary folder"),
                           hint="The linker must start, and have a temporary folder with room: TMPDIR names another") from e


def runtime_key() -> str:
    """What names a build of the runtime library: its sources and how they are compiled."""
    h = hashlib.sha256(repr((compiler(), FLAGS)).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        h.update(path.read_bytes())
    return h.hexdigest()


def build_runtime() -> bytes:
    """The runtime library, compiled."""
    with _scratch() as work:
        return _run([*FLAGS, *map(str, sorted(SOURCES.glob("*.c"))), "-ldl"], work)


def _run(arguments: list[str], work: Path) -> bytes:
    output = work / "library.so"
    command = [compiler() or "cc", *arguments, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        if "No space left" in done.stderr or "File too large" in done.stderr or done.returncode < 0:
            raise OSError(errno.ENOSPC, f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}", str(work))
        raise CodegenError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[:2000]}",
                           hint="The C compiler is broken or incomplete. Repair it, or take it out of PATH to run in memory")
    return output.read_bytes()


__all__ = ["SOURCES", "build_runtime", "compiler", "link", "runtime_key"]
