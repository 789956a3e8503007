"""Compiled programs as a folder: a manifest, machine code, packed weights, and the runtime library beneath them.

    manifest.json       what the programs take and give, what a machine must have, the size and digest of every other file
    manifest.sha256     its digest, as sha256sum writes it (1.0 had none)
    libgraphopt.so      the runtime library
    <cpu>/<k>.so        program k for that CPU; several programs are one model for several shapes
    <cpu>/weights.bin   the packed weights of all of them, 64-byte aligned, mapped and so shared between processes

Before anything is used it is checked: the manifest (manifest.py) and its digest, the size of every file, that none is a link or
outside of the folder, and the digest (`graphopt.cache.store.digest`) of all that this machine would use, which is everything but
the code and the weights for other CPUs. No Python runs from it. `graphopt.ship.saving` writes it.

The format's number is that of the oldest reader that reads it: a reader takes its own major number and minor ones up to its
own, and refuses others by name. 1.0 had a single program, with its files beside the manifest; 1.1 had none for certain values
of inputs, and is still what is written without them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from graphopt.cache import ownership, store
from graphopt.errors import ArtifactError
from graphopt.runtime.artifact import manifest as manifests
from graphopt.runtime.artifact.manifest import ITEMSIZES, Damaged, Program, program_digest
from graphopt.runtime.host.machine import missing

FORMAT = (1, 2)
MANIFEST, MANIFEST_DIGEST, RUNTIME = "manifest.json", "manifest.sha256", "libgraphopt.so"
MOST_MANIFEST = 256 << 20  # bytes
SMALL = 4096  # bytes: a digest in a file takes fewer

# The formats of structs and memoryviews by dtype; others (f16, bf16, 8-bit floats, complex) have none.
ITEM_FORMATS = {"bool": "?", "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
                "uint64": "Q", "float32": "f", "float64": "d"}
VALUES_SHOWN = 8


class Artifact(NamedTuple):
    """A checked folder, and its programs for this machine."""

    path: Path
    manifest: dict[str, Any]
    programs: list[Program]


def read(path: Path) -> Artifact:
    """The folder, if it is whole and this machine can run it. ArtifactError says what is wrong with it."""
    if "\0" in str(path):
        raise ArtifactError("no folder has NUL in its name", where=repr(str(path)))
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
    return Artifact(path, manifest, manifests.programs_of(manifest))


def format_of(manifest: Mapping[str, Any]) -> tuple[int, int]:
    """The number of the oldest reader that reads an artifact which is written now."""
    return FORMAT if manifest.get("control_inputs") else (1, 1)


def threads_of(p: Program) -> int:
    """How many threads a program runs on: as many as it was made for, if this process has as many processors. model.c does the
    same."""
    return min(p.threads, len(os.sched_getaffinity(0)))


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


def _check_manifest(path: Path, text: bytes, required: bool) -> None:
    """A changed digit would be another size of memory. ArtifactError where the text is not what was written."""
    try:
        said = _contents(path, MANIFEST_DIGEST, SMALL)
    except FileNotFoundError as e:
        if not required:
            return
        raise ArtifactError(f"{MANIFEST_DIGEST}, the digest of {MANIFEST}, is missing", where=str(path),
                            hint="Copy the whole folder, or save the model again") from e
    if said != f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n".encode():
        raise ArtifactError(f"{MANIFEST} is not as it was written: its digest is wrong", where=str(path))


def _contents(path: Path, name: str, most: int) -> bytes:
    """Of a plain file in the folder. ArtifactError where it is none, FileNotFoundError where there is nothing."""
    where = str(path)
    try:
        with open(ownership.open_plain(path / name), "rb") as f:
            found = f.read(most + 1)
    except (FileNotFoundError, NotADirectoryError) as e:
        raise FileNotFoundError(e.errno, e.strerror) from e
    except OSError as e:
        if e.errno in (None, errno.ELOOP, errno.ENXIO):  # a folder, a pipe, a device, a link, a socket
            raise ArtifactError(f"{name} is not as it was written: it is no plain file", where=where) from e
        raise ArtifactError(f"{name} cannot be read: {e.strerror}", where=where) from e
    if len(found) > most:
        raise ArtifactError(f"{name} is not as it was written: its size is wrong (over {most} bytes)", where=where)
    return found


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read(path: Path) -> Artifact:
    where = str(path)
    try:
        text = _contents(path, MANIFEST, MOST_MANIFEST)
        manifest = manifests.parse(text)
        _refuse_project(manifest, where)
        major, minor = manifests.format_of(manifest)
    except FileNotFoundError as e:
        raise ArtifactError(f"{MANIFEST} cannot be read: {e.strerror}", where=where, hint="Is it a compiled model?") from e
    except Damaged as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {e}", where=where) from e
    if major != FORMAT[0] or minor > FORMAT[1]:
        by = manifest.get("made_by")
        maker = f" graphopt {by['graphopt']}" if isinstance(by, dict) and "graphopt" in by else " the graphopt that made it"
        raise ArtifactError(f"has format {major}.{minor}, and this graphopt reads {FORMAT[0]}.0 to {FORMAT[0]}.{FORMAT[1]}",
                            where=where, hint=f"Use{maker}, or compile it again")
    _check_manifest(path, text, required=minor > 0)
    try:
        if minor == 0:
            manifest = _from_1_0(manifest)
        files, every = manifests.files_of(manifest), manifests.programs_of(manifest)
    except Damaged as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {e}", where=where) from e
    used = _for_this_machine(every, where)
    others = {n for p in every for n in (p.code, p.weights)} - {n for p in used for n in (p.code, p.weights)}
    if lacking := {RUNTIME, *others, *(n for p in used for n in (p.code, p.weights))} - files.keys():
        raise ArtifactError(f"{MANIFEST} does not list all files: {', '.join(sorted(lacking))}", where=where)
    try:
        manifests.check_digests(manifest, used)
    except Damaged as e:
        raise ArtifactError(f"{MANIFEST} is damaged: {e}", where=where, hint="Save the model again") from e
    for name, (size, digest) in files.items():
        _check_file(path, name, size, None if name in others else digest)
    return Artifact(path, manifest, used)


def _refuse_project(manifest: Mapping[str, Any], where: str) -> None:
    """Say what a folder of sources is, that was saved for another kind of target."""
    if manifest.get("format") != manifests.PROJECT:
        return
    target = str(manifest.get("target"))
    what, do = {"cuda": ("CUDA C++ sources (kernels.cu, and a cubin where one could be made)",
                         "Build kernels.cu into a program that calls graphopt_run (docs/targets/cuda.md)"),
                "fpga": ("a Vitis HLS project", "Build it with Vitis HLS (docs/targets/fpga.md)"),
                }.get(target.partition(":")[0], ("a project of sources", "Build it with that target's tools"))
    raise ArtifactError(f"it is {what} for {target}, and no model that this machine's processor runs", where=where,
                        hint=f"{do}, or compile the model with target='x86' and save that")


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
        if digest is not None and store.digest(path / name) != digest and store.digest(path / name, again=True) != digest:
            raise ArtifactError(f"{name} is not as it was written: its digest is wrong", where=where)
        if digest is None and not os.access(path / name, os.R_OK):
            raise ArtifactError(f"{name} cannot be read: Permission denied", where=where)
    except OSError as e:
        raise ArtifactError(f"{name} cannot be read: {e.strerror}", where=where) from e


def _from_1_0(m: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format 1.0 in today's form."""
    try:
        p = m["program"]
        if [o["shape"] for o in p["outputs"]] != [o["shape"] for o in m["outputs"]]:
            raise Damaged("program.outputs are not the outputs")
        return {**m, "programs": [_program_of_1_0(m, p)]}
    except (KeyError, TypeError, AttributeError) as e:
        raise Damaged(f"what format 1.0 says of its program is not all there: {e}") from e


def _program_of_1_0(m: Mapping[str, Any], p: Mapping[str, Any]) -> dict[str, Any]:
    return {"target": m["target"], "features": m["features"], "code": "model.so", "weights": "weights.bin",
            "entry": p["entry"], "threads": p["threads"], "arena": p["arena"], "outputs": p["outputs"],
            "inputs": [s["shape"] for s in m["inputs"]], **{k: m[k] for k in ("stats", "decisions", "tuning") if k in m}}


__all__ = ["ITEMSIZES", "ITEM_FORMATS", "MANIFEST", "RUNTIME", "Artifact", "Program", "format_of", "just_written",
           "program_digest", "read", "threads_of", "values_text"]
