"""What emitted programs of all targets share: the refusal of host ops, launch arguments, and folders written at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.codegen.c import STORED
from graphopt.codegen.plan import Call, Program, Slot
from graphopt.errors import ArtifactError, TargetError
from graphopt.ir.types import TensorType

MANIFEST = "manifest.json"


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


def write_project(folder: str | os.PathLike[str], files: Mapping[str, str | bytes], manifest: Mapping[str, Any]) -> None:
    """Write `files` (relative paths) and a manifest with their SHA-256 to `folder`, all or nothing.

    A project of ours that is already there is replaced; any other non-empty folder is left alone with an ArtifactError.
    """
    target = Path(folder).absolute()
    if target.exists() and not target.is_dir():
        raise ArtifactError("is a file; a folder is needed", where=str(folder))
    if target.is_dir() and any(target.iterdir()) and not _ours(target):
        raise ArtifactError("is not empty and holds no project of graphopt's", where=str(folder), hint="Name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        sums = {}
        for name, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sums[name] = hashlib.sha256(data).hexdigest()
        described = {"format": "graphopt-project", "version": 1, **manifest, "sha256": sums}
        (scratch / MANIFEST).write_text(json.dumps(described, indent=1))
        scratch.chmod(0o755)  # mkdtemp keeps others out
        old = None
        if target.exists():
            old = scratch.with_name(scratch.name + ".old")
            os.rename(target, old)
        os.rename(scratch, target)
        if old is not None:
            shutil.rmtree(old)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _ours(folder: Path) -> bool:
    try:
        return json.loads((folder / MANIFEST).read_text()).get("format") == "graphopt-project"
    except (OSError, ValueError, AttributeError):
        return False


__all__ = ["MANIFEST", "interface", "places", "pointer", "refuse_host_ops", "space_name", "write_project"]
