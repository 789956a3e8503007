"""A compiled program as a folder: `manifest.json`, `model.so`, `weights.bin` (64-byte aligned) and the runtime library.

The manifest says what the program takes and gives, what the machine must have, and the size and digest of every other
file (`graphopt.store.digest`). A folder is written beside and renamed; reading one checks all of that first, and runs no
Python from it.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import store
from graphopt.errors import ArtifactError
from graphopt.runtime.executable import Executable, OutputSpec, aligned
from graphopt.runtime.library import runtime
from graphopt.runtime.machine import missing
from graphopt.runtime.model import Model, Spec, Specialisation, Specialisations

FORMAT = (1, 0)  # readers refuse a newer major number, and take any minor one
MANIFEST, CODE, WEIGHTS, RUNTIME = "manifest.json", "model.so", "weights.bin", "libgraphopt.so"
# Smaller weights are copied to memory of large pages: they fit a cache, where small pages cost address translation.
MAPPED_FROM = 32 << 20


@dataclass(frozen=True)
class Program:
    """How the code is entered: `inputs` and `outputs` count pointers, shapes and dtypes are those of the outputs."""

    entry: str
    inputs: int
    outputs: tuple[OutputSpec, ...]
    arena: int
    threads: int


@dataclass(frozen=True)
class Artifact:
    """A checked folder."""

    path: Path
    manifest: dict[str, Any]

    def executable(self) -> Executable:
        """The program, ready to run."""
        m = self.manifest
        p = read_program(m["program"])
        library = runtime(self.path / RUNTIME, m["runtime"])
        entries = library.entries(self.path / CODE, [p.entry], p.threads)
        return Executable(entries, p.outputs, _weights(self.path / WEIGHTS), p.arena, p.inputs)


def load(path: str | os.PathLike[str]) -> Model:
    """A saved model, ready to call with arrays by position or by its inputs' names.

    Neither the compiler nor a framework is imported. Raises ArtifactError where the folder is damaged, too new, or made
    for another machine.
    """
    found = read(Path(path))
    m = found.manifest

    def refuse(shapes: Any, values: Any) -> Specialisation:
        raise ArtifactError("has one program, for the shapes of its inputs", where=str(path))

    model = Model(read_specs(m["inputs"]), read_specs(m["outputs"]), Specialisations(refuse, 1))
    model._only = Specialisation(found.executable(), found)
    return model


def write(path: Path, manifest: Mapping[str, Any], files: Mapping[str, bytes | Path | Iterable[np.ndarray]]) -> None:
    """Make the folder, all of it or nothing; one that is there is replaced. A file is given as its bytes, in pieces, or by
    another file. OSError where there is no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        listed = {}
        for name, contents in files.items():
            where = beside / name
            if isinstance(contents, Path):
                shutil.copyfile(contents, where)
            else:
                with open(where, "wb") as f:
                    for piece in [contents] if isinstance(contents, bytes) else contents:
                        f.write(piece)  # type: ignore[arg-type]
            listed[name] = {"bytes": where.stat().st_size, "sha256": store.digest(where)}
        text = json.dumps({"format": list(FORMAT), **manifest, "files": listed}, indent=1)
        (beside / MANIFEST).write_text(text, encoding="utf-8")
        os.chmod(beside, 0o777 & ~_umask())
        _replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _replace(new: Path, path: Path) -> None:
    """Put a folder in the place of another, which stays where that fails, or of nothing."""
    for _ in range(100):
        try:
            os.rename(new, path)
            return
        except OSError as e:
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
        try:
            os.rename(path, aside / "old")
            os.rename(new, path)
            return
        except FileNotFoundError:  # another process was here first
            continue
        except OSError as e:
            if (aside / "old").exists() and not path.exists():
                os.rename(aside / "old", path)
            if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    raise ArtifactError("other processes keep writing there", where=str(path))


def read(path: Path) -> Artifact:
    """The folder, if it is whole and this machine can run it. ArtifactError says what is wrong with it."""
    where = str(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        major, minor = (int(n) for n in manifest["format"])
        files: dict[str, Any] = manifest["files"]
    except OSError as e:
        raise ArtifactError(f"{MANIFEST} cannot be read: {e.strerror}", where=where, hint="Is it a compiled model?") from e
    except (ValueError, KeyError, TypeError) as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {e}", where=where) from e
    if major != FORMAT[0]:
        raise ArtifactError(f"has format {major}.{minor}, and this graphopt reads {FORMAT[0]}.x", where=where,
                            hint="Use the graphopt that made it, or compile the model again")
    lacking = missing(manifest.get("features", []))
    if lacking:
        raise ArtifactError(f"its code needs what this machine's processor lacks: {', '.join(lacking)}", where=where,
                            hint="Compile it for this machine")
    if not {CODE, WEIGHTS, RUNTIME} <= files.keys():
        raise ArtifactError(f"{MANIFEST} does not list all files", where=where)
    for name, expected in files.items():
        if Path(name).name != name or name == MANIFEST:
            raise ArtifactError(f"{MANIFEST} names a file outside of the folder: {name!r}", where=where)
        file = path / name
        try:
            if file.is_symlink() or file.stat().st_size != expected["bytes"]:
                raise ArtifactError(f"{name} is not as it was written: its size is wrong", where=where)
            if store.digest(file) != expected["sha256"]:
                raise ArtifactError(f"{name} is not as it was written: its digest is wrong", where=where)
        except OSError as e:
            raise ArtifactError(f"{name} cannot be read: {e.strerror}", where=where) from e
    return Artifact(path, manifest)


def _weights(path: Path) -> np.ndarray:
    size = path.stat().st_size
    if size >= MAPPED_FROM:
        with open(path, "rb") as f:
            return np.frombuffer(mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ), np.uint8)
    block = aligned(size)
    with open(path, "rb", buffering=0) as f:
        f.readinto(memoryview(block))  # type: ignore[arg-type]
    block.flags.writeable = False
    return block


# Descriptions ---------------------------------------------------------------------------------
def spec_json(s: Spec) -> dict[str, Any]:
    """An input or output; what has no dtype of numpy's has no place in an artifact."""
    return {"name": s.name, "dtype": s.dtype, "shape": None if s.shape is None else list(s.shape),
            "numpy": None if s.numpy is None else s.numpy.name}


def read_specs(given: Sequence[Mapping[str, Any]]) -> list[Spec]:
    return [Spec(s["name"], s["dtype"], None if s["shape"] is None else tuple(s["shape"]),
                 None if s["numpy"] is None else numpy_dtype(s["numpy"])) for s in given]


def numpy_dtype(name: str) -> np.dtype:
    """numpy's dtype, or ml_dtypes' where numpy has none."""
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


def program_json(p: Program) -> dict[str, Any]:
    outputs = [{"shape": list(o.shape or ()), "numpy": o.dtype.name} for o in p.outputs if o.dtype is not None]
    return {"entry": p.entry, "inputs": p.inputs, "outputs": outputs, "arena": p.arena, "threads": p.threads}


def read_program(p: Mapping[str, Any]) -> Program:
    outputs = tuple(OutputSpec(tuple(o["shape"]), numpy_dtype(o["numpy"])) for o in p["outputs"])
    return Program(p["entry"], p["inputs"], outputs, p["arena"], p["threads"])


__all__ = ["CODE", "RUNTIME", "WEIGHTS", "Artifact", "Program", "load", "numpy_dtype", "program_json", "read", "read_program",
           "read_specs", "spec_json", "write"]
