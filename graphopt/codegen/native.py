"""The host's linker and C compiler: objects become shared libraries, and our runtime library is built once.

Without a C compiler (`cc`) programs run in memory on TVM's own runtime and thread pool instead.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from graphopt.errors import CodegenError

log = logging.getLogger("graphopt")
SOURCES = Path(__file__).parents[1] / "runtime" / "native"
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
    with tempfile.TemporaryDirectory(prefix="graphopt-") as work:
        paths = []
        for k, contents in enumerate(objects):
            paths.append(Path(work) / f"code{k}.o")
            paths[-1].write_bytes(contents)
        return _run(["-shared", "-nostartfiles", "-Wl,-z,defs", *map(str, paths), "-lm", "-lgcc", "-lc"], Path(work))


def runtime_key() -> str:
    """What names a build of the runtime library: its sources and how they are compiled."""
    h = hashlib.sha256(repr((compiler(), FLAGS)).encode())
    for path in sorted(SOURCES.glob("*.[ch]")):
        h.update(path.read_bytes())
    return h.hexdigest()


def build_runtime() -> bytes:
    """The runtime library, compiled."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as work:
        return _run([*FLAGS, *map(str, sorted(SOURCES.glob("*.c"))), "-ldl"], Path(work))


def _run(arguments: list[str], work: Path) -> bytes:
    output = work / "library.so"
    command = [compiler() or "cc", *arguments, "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CodegenError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()[:2000]}",
                           hint="The C compiler is broken or incomplete. Repair it, or take it out of PATH to run in memory")
    return output.read_bytes()


__all__ = ["SOURCES", "build_runtime", "compiler", "link", "runtime_key"]
