"""What emitted programs of all targets share: the refusal of host ops, launch arguments, and folders written at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graphopt import replacing
from graphopt.codegen.c import STORED
from graphopt.codegen.plan import Call, Program, Slot
from graphopt.errors import ArtifactError, TargetError
from graphopt.ir.types import TensorType

MANIFEST, PROJECT = "manifest.json", "graphopt-project"  # runtime/manifest.py knows it by that


def refuse_host_ops(program: Program, target: str) -> None:
    """TargetError naming every op that has no kernel: the evaluator cannot run beside a GPU or an FPGA."""
    if program.hosts:
        lines = "\n".join(f"  {h.op.where()}: {h.why}" for h in program.hosts)
        raise TargetError(f"{len(program.hosts)} op(s) have no kernel for {target}:\n{lines}\n",
                          hint="Replace them in the model, or compile for x86, where the reference evaluator runs them")


def interface(program: Program) -> list[tuple[str, int, TensorType]]:
    """(space, index, type) of every input, then of every output. All must be tensors of static shape."""
    found = []
    for space, values in (("input", program.graph.inputs), ("output", program.graph.outputs)):
        for k, v in enumerate(values):
            if not isinstance(v.type, TensorType) or not v.type.is_static:
                raise TargetError(f"{space} {v.name} is {v.type}; tensors of static shape are needed")
            found.append((space, k, v.type))
    return found


def space_name(slot: Slot) -> str:
    """The name of the parameter that points to the slot's memory."""
    return f"{slot.space}{slot.index}" if slot.space in ("input", "output") else slot.space


def pointer(call: Call, position: int) -> str:
    """The C++ expression for one argument of a kernel call, over `input0`, ..., `output0`, ..., `weights` and `arena`."""
    slot, buffer = call.args[position], call.kernel.params[position]
    qualifier = "const " if position < call.kernel.inputs else ""
    base = space_name(slot)
    at = f"(({qualifier}char*){base} + {slot.offset})" if slot.offset else base
    return f"({qualifier}{STORED[buffer.dtype.name]}*){at}"


def places(call: Call) -> str:
    """Where the call's op stands in the source model, as a comment."""
    return f"{call.op.name}{' from ' + ', '.join(call.op.loc) if call.op.loc else ''}".replace("\n", " ")


def write_project(folder: str | os.PathLike[str], files: Mapping[str, str | bytes], manifest: Mapping[str, Any],
                  force: bool = False) -> None:
    """Write `files` (relative paths) and a manifest with their SHA-256 to `folder`, all or nothing.

    A project of ours that is already there is replaced, if all its files are as we wrote them, or if `force` says that the others
    may go, too; any other folder that is not empty is left alone with an ArtifactError.
    """
    target = Path(os.path.realpath(replacing.folder_named(folder)))
    if target.exists() and not target.is_dir():
        raise ArtifactError("is a file; a folder is needed", where=str(folder))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            replacing.check(target, _written, force)
        with replacing.scratch(target) as beside:
            sums = {}
            for name, content in sorted(files.items()):
                data = content.encode() if isinstance(content, str) else content
                path = beside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                sums[name] = hashlib.sha256(data).hexdigest()
            described = {"format": PROJECT, "version": 1, **manifest, "sha256": sums}
            (beside / MANIFEST).write_text(json.dumps(described, indent=1))
            replacing.put(beside, target, _written, force)
    except OSError as e:
        raise ArtifactError(f"cannot be written: {e.strerror or e}", where=str(folder)) from e


def _written(folder: Path) -> dict[str, Callable[[Path], bool]] | None:
    """What we wrote to a project; None where it is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text())
        if found["format"] != PROJECT:
            return None
        sums = found["sha256"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    same = lambda digest: lambda p: hashlib.sha256(p.read_bytes()).hexdigest() == digest
    return {**{name: same(digest) for name, digest in sums}, MANIFEST: lambda p: True}


__all__ = ["MANIFEST", "interface", "places", "pointer", "refuse_host_ops", "space_name", "write_project"]
