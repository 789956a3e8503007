"""The host's C++ compiler: emitted CUDA and HLS code is built and run with it where there is no GPU and no Vitis."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from graphopt.errors import CodegenError, TargetError

FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off")


def compiler() -> str:
    """The C++ compiler to use: $CXX, g++, c++ or clang++. TargetError where there is none."""
    for name in (os.environ.get("CXX"), "g++", "c++", "clang++"):
        if name and shutil.which(name):
            return name
    raise TargetError("no C++ compiler found", hint="Install g++, or name one in CXX")


def build(files: Mapping[str, str], main: str, output: Path, flags: Sequence[str] = FLAGS) -> None:
    """Write `files` into a scratch folder, compile `main` with the others beside it, and leave the result at `output`."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        for name, text in files.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        run([compiler(), *flags, main, "-o", str(output.absolute())], Path(scratch))


def run(command: Sequence[str], cwd: Path, where: str = "the C++ compiler") -> str:
    """Standard output of a command that must succeed; CodegenError with what it printed otherwise."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CodegenError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n" + "\n".join(said[:30]), where=where)
    return done.stdout


def load(files: Mapping[str, str], main: str, flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """Compile to a shared object and load it."""
    with tempfile.TemporaryDirectory(prefix="graphopt-") as scratch:
        output = Path(scratch) / "code.so"
        build(files, main, output, (*flags, "-shared", "-fPIC"))
        return ctypes.CDLL(str(output))  # stays mapped once its file is gone


__all__ = ["FLAGS", "build", "compiler", "load", "run"]
