"""Compiled programs as a folder: a manifest, machine code, packed weights, and the runtime library beneath them.

    manifest.json       what the programs take and give, what a machine must have, the size and digest of every other file
    manifest.sha256     its digest, as sha256sum writes it (1.0 had none)
    libgraphopt.so      the runtime library
    <cpu>/<k>.so        program k for that CPU; several programs are one model for several shapes
    <cpu>/weights.bin   the packed weights of all of them, 64-byte aligned, mapped and so shared between processes

Before anything is used it is checked: the form of the manifest, the size of every file, that none is a link or outside of
the folder, and the digest (`graphopt.store.digest`) of all that this machine would use, which is everything but the code and
the weights for other CPUs. No Python runs from it. `graphopt.runtime.saving` writes it.

The format's number is that of the oldest reader that reads it: a reader takes its own major number and minor ones up to its
own, and refuses others by name. 1.0 had a single program, with its files beside the manifest; 1.1 had none for certain values
of inputs, and is still what is written without them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from graphopt import store
from graphopt.errors import ArtifactError
from graphopt.runtime.machine import missing

FORMAT = (1, 2)
MANIFEST, MANIFEST_DIGEST, RUNTIME = "manifest.json", "manifest.sha256", "libgraphopt.so"
# Bytes of an element by numpy's and ml_dtypes' names.
ITEMSIZES = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
             "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "int4": 1, "uint4": 1,
             "int2": 1, "uint2": 1, "float4_e2m1fn": 1, "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1,
             "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1}

# The formats of structs and memoryviews by dtype; others (f16, bf16, 8-bit floats, complex) have none.
ITEM_FORMATS = {"bool": "?", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
                "uint64": "Q", "float32": "f", "float64": "d"}
VALUES_SHOWN = 8

Shapes = tuple[tuple[int, ...], ...]


class Program(NamedTuple):
    """A program of an artifact: where it is, how it is entered, and what it takes and gives."""

    target: str
    features: tuple[str, ...]  # that it needs, by LLVM's names
    code: str
    weights: str
    entry: str
    threads: int
    arena: int
    inputs: Shapes
    outputs: tuple[tuple[tuple[int, ...], str], ...]  # shape, and numpy's or ml_dtypes' name of the dtype
    values: Mapping[str, bytes]  # of the inputs whose values shape it: the elements, row-major and little-endian
    said: Mapping[str, Any]  # of it in the manifest: stats, decisions, tuning


class Artifact(NamedTuple):
    """A checked folder, and its programs for this machine."""

    path: Path
    manifest: dict[str, Any]
    programs: list[Program]


def load(path: str | os.PathLike[str], *, numpy: bool = True) -> Any:
    """A saved model, ready to call with arrays by position or by its inputs' names: a `SavedModel`.

    With `numpy=False` numpy is not imported, which is most of a start: buffers in, memoryviews out, a `BufferModel`. Neither
    imports the compiler or a framework. Raises ArtifactError where the folder is damaged, too new, or made for other machines.
    """
    found = read(Path(path))
    if not numpy:
        from graphopt.runtime.buffers import BufferModel

        return BufferModel(found)
    from graphopt.runtime.saved import SavedModel

    return SavedModel(found)


def read(path: Path) -> Artifact:
    """The folder, if it is whole and this machine can run it. ArtifactError says what is wrong with it."""
    for _ in range(20):
        folder = _identity(path)
        try:
            return _read(path)
        except ArtifactError:
            if folder == _identity(path):
                raise
    return _read(path)  # another process keeps replacing it


def just_written(path: Path) -> Artifact:
    """The folder that this process has made a moment ago for this machine, unchecked."""
    manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    return Artifact(path, manifest, [_program(p) for p in manifest["programs"]])


def format_of(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """The number of the oldest reader that reads an artifact which is written now."""
    return FORMAT if manifest.get("control_inputs") else (1, 1)


def values_text(values: Mapping[str, bytes], dtypes: Mapping[str, str]) -> str:
    """The first elements as graphopt-build's --value takes them: `rate=16000 axes=0,1`. Those of dtypes that memoryviews do not
    know are hexadecimal."""
    return " ".join(f"{name}={_elements(data, dtypes[name])}" for name, data in values.items())


def _elements(data: bytes, dtype: str) -> str:
    kind = ITEM_FORMATS.get(dtype)
    if kind is None:
        return data[:VALUES_SHOWN].hex() + ("..." if len(data) > VALUES_SHOWN else "")
    elements = memoryview(data).cast(kind)  # type: ignore[call-overload]
    return ",".join(map(str, elements[:VALUES_SHOWN].tolist())) + (",..." if len(elements) > VALUES_SHOWN else "")


def _check_manifest(digest: Path, text: bytes, where: str) -> None:
    """A changed digit would be another size of memory. ArtifactError where the text is not what was written."""
    try:
        said = digest.read_bytes()
    except FileNotFoundError:
        return
    except OSError as e:
        raise ArtifactError(f"{MANIFEST_DIGEST} cannot be read: {e.strerror}", where=where) from e
    if said != f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode():
        raise ArtifactError(f"{MANIFEST} is not as it was written: its digest is wrong", where=where)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read(path: Path) -> Artifact:
    where = str(path)
    try:
        text = (path / MANIFEST).read_bytes()
        manifest = json.loads(text)
        major, minor = (int(n) for n in manifest["format"])
    except OSError as e:
        raise ArtifactError(f"{MANIFEST} cannot be read: {e.strerror}", where=where, hint="Is it a compiled model?") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {e}", where=where) from e
    if major != FORMAT[0] or minor > FORMAT[1]:
        by = manifest.get("made_by")
        maker = f" graphopt {by['graphopt']}" if isinstance(by, dict) and "graphopt" in by else " the graphopt that made it"
        raise ArtifactError(f"has format {major}.{minor}, and this graphopt reads {FORMAT[0]}.0 to {FORMAT[0]}.{FORMAT[1]}",
                            where=where, hint=f"Use{maker}, or compile it again")
    try:
        if minor == 0:
            manifest = _from_1_0(manifest)
        every = [_program(p) for p in manifest["programs"]]
        files = {name: (int(f["bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()}
        _check_form(manifest, every)
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {type(e).__name__} {e}", where=where) from e
    _check_manifest(path / MANIFEST_DIGEST, text, where)
    used = _for_this_machine(every, where)
    others = {n for p in every for n in (p.code, p.weights)} - {n for p in used for n in (p.code, p.weights)}
    if lacking := {RUNTIME, *others, *(n for p in used for n in (p.code, p.weights))} - files.keys():
        raise ArtifactError(f"{MANIFEST} does not list all files: {', '.join(sorted(lacking))}", where=where)
    for name, (size, digest) in files.items():
        _check_file(path, name, size, None if name in others else digest)
    return Artifact(path, manifest, used)


def _check_form(manifest: Mapping[str, Any], programs: Sequence[Program]) -> None:
    """ValueError where the parts of a manifest contradict each other."""
    inputs, outputs = manifest["inputs"], manifest["outputs"]
    for s in (*inputs, *outputs):
        if not isinstance(s["name"], str) or not isinstance(s["shape"], (list, NoneType)):
            raise ValueError(f"{s['name']!r}")
        _dtype(s["numpy"])
    if not programs:
        raise ValueError("it has no program")
    if not isinstance(manifest["runtime"], str):
        raise ValueError("runtime")
    control = set(manifest.get("control_inputs", ()))
    if lost := control - {s["name"] for s in inputs}:
        raise ValueError(f"control inputs {sorted(lost)}")
    for p in programs:
        if len(p.inputs) != len(inputs) or len(p.outputs) != len(outputs):
            raise ValueError(f"program {p.code} has {len(p.inputs)} inputs and {len(p.outputs)} outputs")
        for s, shape in zip(inputs, p.inputs):
            dims = shape if s["shape"] is None else s["shape"]
            if len(dims) != len(shape) or any(isinstance(d, int) and d != n for d, n in zip(dims, shape)):
                raise ValueError(f"program {p.code} does not take input {s['name']}")
            if s["name"] in control and len(p.values.get(s["name"], b"")) != math.prod(shape) * ITEMSIZES[s["numpy"]]:
                raise ValueError(f"program {p.code} does not say for which value of {s['name']} it is")
        if p.values.keys() - control:
            raise ValueError(f"program {p.code} is for values of {sorted(p.values.keys() - control)}")


def _for_this_machine(programs: Sequence[Program], where: str) -> list[Program]:
    """The programs for the CPU with the most features of those that this machine can run; the first of several."""
    cpus: dict[tuple[str, tuple[str, ...]], list[Program]] = {}
    for p in programs:
        cpus.setdefault((p.target, p.features), []).append(p)
    lacking = {cpu: missing(cpu[1]) for cpu in cpus}
    able = [cpu for cpu in cpus if not lacking[cpu]]
    if able:
        return cpus[max(able, key=lambda cpu: len(cpu[1]))]
    said = "; ".join(f"{target} needs {', '.join(lacking[target, features])}" for target, features in cpus)
    raise ArtifactError(f"its code needs what this machine's processor lacks: {said}", where=where,
                        hint="Compile it for this machine")


def _check_file(path: Path, name: str, size: int, digest: str | None) -> None:
    """A listed file is within the folder, no link, of its size, and, where it is given, of its digest."""
    where, parts = str(path), name.split("/")
    if len(parts) > 2 or any(part in ("", ".", "..") or "\0" in part for part in parts) or name == MANIFEST:
        raise ArtifactError(f"{MANIFEST} names a file outside of the folder: {name!r}", where=where)
    try:
        if len(parts) == 2 and not stat.S_ISDIR(os.lstat(path / parts[0]).st_mode):
            raise ArtifactError(f"{name} is not as it was written: {parts[0]} is no folder of its own", where=where)
        found = os.lstat(path / name)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactError(f"{name} is not as it was written: it is no plain file", where=where)
        if found.st_size != size:
            raise ArtifactError(f"{name} is not as it was written: its size is wrong ({found.st_size} bytes, not {size})",
                                where=where)
        if digest is not None and store.digest(path / name) != digest:
            raise ArtifactError(f"{name} is not as it was written: its digest is wrong", where=where)
        if digest is None and not os.access(path / name, os.R_OK):
            raise ArtifactError(f"{name} cannot be read: Permission denied", where=where)
    except OSError as e:
        raise ArtifactError(f"{name} cannot be read: {e.strerror}", where=where) from e


# The manifest ---------------------------------------------------------------------------------
def _program(p: Mapping[str, Any]) -> Program:
    """ValueError, KeyError or TypeError where the description is none."""
    outputs = tuple((_shape(o["shape"]), _dtype(o["numpy"])) for o in p["outputs"])
    texts = [p["target"], p["code"], p["weights"], p["entry"], *p["features"]]
    if not all(isinstance(t, str) for t in texts):
        raise ValueError(f"program {texts}")
    threads, arena = _count(p["threads"]), _count(p["arena"])
    return Program(p["target"], tuple(p["features"]), p["code"], p["weights"], p["entry"], max(threads, 1), arena,
                   tuple(_shape(s) for s in p["inputs"]), outputs,
                   {name: bytes.fromhex(data) for name, data in p.get("values", {}).items()}, p)


def _dtype(name: Any) -> str:
    if name not in ITEMSIZES:
        raise ValueError(f"{name!r} is no dtype")
    return name


def _shape(given: Any) -> tuple[int, ...]:
    return tuple(_count(n) for n in given)


def _count(n: Any) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"{n!r} is no count")
    return n


def _from_1_0(m: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format 1.0 in today's form."""
    p = m["program"]
    program = {"target": m["target"], "features": m["features"], "code": "model.so", "weights": "weights.bin",
               "entry": p["entry"], "threads": p["threads"], "arena": p["arena"], "outputs": p["outputs"],
               "inputs": [s["shape"] for s in m["inputs"]], **{k: m[k] for k in ("stats", "decisions", "tuning") if k in m}}
    return {**m, "programs": [program]}


__all__ = ["ITEMSIZES", "ITEM_FORMATS", "MANIFEST", "RUNTIME", "Artifact", "Program", "format_of", "just_written", "load", "read",
           "values_text"]
