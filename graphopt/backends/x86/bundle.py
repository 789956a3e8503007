"""Compiled programs to an artifact: several shapes, several CPUs, and the weights of a CPU's programs once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from graphopt.backends.x86.static import Compiled, compile_static, decisions, statistics
from graphopt.codegen.program.interface import interface, specialise_checked
from graphopt.codegen.program.plan import Weight, WeightBlock
from graphopt.errors import ArtifactError
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.measure.records import Records, record_key, state
from graphopt.runtime.artifact import reading as artifact
from graphopt.runtime.artifact import saved
from graphopt.runtime.host.executable import OutputSpec
from graphopt.runtime.model import Spec
from graphopt.targets.x86 import X86
from graphopt.version import __version__

log = logging.getLogger("graphopt")


class Case(NamedTuple):
    """What a program is made for: the shapes of all inputs, and the values of those that shape the program."""

    shapes: Mapping[str, tuple[int, ...]]
    values: Mapping[str, np.ndarray] = MappingProxyType({})


class Bundle:
    """What an artifact will hold: add programs, then `save`. `interface` is that of `saved.model_interface`; `source` names the
    model's file, where it came from one."""

    def __init__(self, interface: Mapping[str, Any], source: str | None = None) -> None:
        self.interface, self.source = dict(interface), source
        self.programs: list[dict[str, Any]] = []
        self._files: dict[str, Any] = {}
        self._blocks: dict[str, WeightBlock] = {}  # by CPU
        self._code: dict[tuple[str, str], str] = {}  # by CPU and digest: the file that holds it
        self._runtime = ""

    def block(self, target: X86) -> WeightBlock:
        """Where the weights of further programs for this target belong."""
        return self._blocks.setdefault(target.cpu, WeightBlock())

    def add(self, d: Compiled, target: X86, values: Mapping[str, np.ndarray] = MappingProxyType({})) -> dict[str, Any]:
        """Add a program, which was planned in the block of its target, or is the target's first, and is for these values of
        control inputs; what the manifest says of it. ArtifactError where it cannot stand alone."""
        why = why_no_artifact(d)
        if why is not None:
            raise ArtifactError(f"the program cannot be saved: {why}")
        block = self.block(target)
        if not block.weights:
            block.weights, block.size = list(d.program.weights), d.program.weights_size
        assert d.code.library is not None and d.code.runtime is not None  # or it could not be saved
        library = d.code.library.read_bytes() if isinstance(d.code.library, Path) else d.code.library
        known = target.cpu, hashlib.sha256(library).hexdigest()
        code = self._code.setdefault(known, f"{target.cpu}/{sum(cpu == target.cpu for cpu, _ in self._code)}.so")
        weights = f"{target.cpu}/weights.bin"
        self._files |= {code: library, weights: None, artifact.RUNTIME: d.code.runtime[0]}
        self._runtime = d.code.runtime[1]
        outputs = [OutputSpec(*known) for known in interface(d.graph, "outputs")]
        said = {"target": target.name, "features": target.instructions, "code": code, "weights": weights,
                "entry": d.code.names[0], "threads": target.threads, "arena": d.program.arena_size,
                "inputs": [list(shape or ()) for shape, _ in interface(d.graph, "inputs")],
                "outputs": [saved.output_json(o) for o in outputs],
                "stats": statistics(d), "decisions": decisions(d, target),
                "tuning": {"mode": d.tune, "records": state(d.records, _record_keys(d, target))}}
        if values:
            said["values"] = {name: np.ascontiguousarray(x).tobytes().hex() for name, x in values.items()}
        self.programs.append(said)
        return said

    def manifest(self) -> dict[str, Any]:
        """All that the manifest says but of the files."""
        made = made_by() if self.source is None else {**made_by(), "model": self.source}
        return {"made_by": made, "runtime": self._runtime, **self.interface, "programs": self.programs}

    def files(self) -> dict[str, Any]:
        """The files and what they hold, for `saving.write`."""
        packed = {f"{cpu}/weights.bin": _packed(b.weights, b.size) for cpu, b in self._blocks.items()}
        return {name: packed.get(name, contents) for name, contents in self._files.items()}

    def save(self, path: Path, force: bool = False) -> None:
        """Write the artifact; one that is there is replaced, and where it was another model's, that is logged. ArtifactError
        where it cannot be, or files that graphopt did not write are there and `force` does not say that they may go; the old
        one stays."""
        from graphopt.ship.cfiles import companions
        from graphopt.ship.saving import standing, write

        manifest = self.manifest()
        try:
            before = standing(path)
            write(path, manifest, {**self.files(), **companions(manifest)}, force=force)
        except OSError as e:
            raise ArtifactError(f"cannot be written: {e.strerror}", where=str(path)) from e
        if before is not None and (other := another(before, manifest)):
            log.warning("%s held another model, which was replaced: %s", path, other)


def another(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What model an artifact is of, if it is another one than that of a second manifest: one of another file's name, or with
    other inputs or outputs."""
    names = [m["made_by"].get("model") if isinstance(m.get("made_by"), dict) else None for m in (before, now)]
    faces = []
    for m in (before, now):
        try:
            tensors = {kind: [(s["name"], s["numpy"], s["shape"]) for s in m[kind]] for kind in ("inputs", "outputs")}
        except (KeyError, TypeError):
            return "one whose manifest is damaged"
        faces.append(tensors)
    if faces[0] == faces[1] and (None in names or names[0] == names[1]):
        return ""
    def dims(shape: Sequence[object] | None) -> str:
        return "*" if shape is None else ", ".join(map(str, shape))

    ins, outs = (", ".join(f"{n}: {t}[{dims(s)}]" for n, t, s in faces[0][kind]) for kind in ("inputs", "outputs"))
    return f"{f'{names[0]}, ' if names[0] else ''}{ins} -> {outs}"


def build(graph: Graph, inputs: Sequence[Spec], bundle: Bundle, target: X86, cases: Sequence[Case], *,
          validate: bool = False, tune: str | None = None, records: Records | None = None,
          done: Callable[[Mapping[str, Any]], None] = lambda said: None) -> None:
    """Compile a captured model for a target and each of the cases, and add the programs. `done` hears of each."""
    for shapes, values in cases:
        static_graph, block = specialise_checked(graph, inputs, shapes, values), bundle.block(target)
        compiled = compile_static(static_graph, target, validate, tune, records, block)
        done(bundle.add(compiled, target, values))


def why_no_artifact(d: Compiled) -> str | None:
    """Why a program cannot be stored, None where it can."""
    if d.program.hosts:
        return f"{d.program.hosts[0].op.name} runs on the reference evaluator, which belongs to the compiler"
    if d.code.library is None or len(d.code.names) != 1:
        return "its code is in memory: there is no C compiler (cc) to link with"
    interface = (*d.graph.inputs, *d.graph.outputs)
    if any(not isinstance(v.type, TensorType) or not v.type.is_static or v.type.dtype.numpy == np.object_ for v in interface):
        return "its inputs and outputs are not all numeric tensors of known shapes"
    return None


def made_by() -> dict[str, str]:
    """The versions that made an artifact, and when."""
    from graphopt.targets.toolchain import llvm, tvm

    return {"graphopt": __version__, "tvm": tvm.__version__, "llvm": str(llvm.llvm_version_major()),
            "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _packed(weights: Sequence[Weight], size: int) -> Iterator[np.ndarray]:
    """The block of weights in pieces, so that it is never in memory as a whole."""
    at = 0
    for w in weights:
        yield np.zeros(w.offset - at, np.uint8)
        array = w.tensor.numpy()
        for part in [array] if w.packing is None else w.packing.parts(array):
            yield np.ascontiguousarray(part).reshape(-1).view(np.uint8)
        at = w.offset + w.nbytes
    yield np.zeros(size - at, np.uint8)


def _record_keys(d: Compiled, target: X86) -> list[str]:
    """What the records are asked for by the kernels that have anything to choose."""
    return [record_key(target.name, target.threads, key) for key, picks in d.program.picks.values() if picks.open]


__all__ = ["Bundle", "Case", "build", "made_by", "why_no_artifact"]
