"""Artifacts as models that take and give arrays: the half of the loader that needs numpy."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ArtifactError, InputError
from graphopt.runtime.artifact.reading import RUNTIME, Artifact, threads_of, values_text
from graphopt.runtime.host.executable import Executable, OutputSpec
from graphopt.runtime.host.library import runtime
from graphopt.runtime.model import Model, Spec, Specialisation, Specialisations, weakly
from graphopt.runtime.structure import Call

SHOWN = 12  # programs that an error lists


def executables(found: Artifact) -> list[Executable]:
    """The programs of an artifact, ready to run. ArtifactError where the system does not let them."""
    made = []
    weights: dict[str, np.ndarray] = {}
    try:
        library = runtime(found.path / RUNTIME, found.manifest["runtime"])
        for p in found.programs:
            if p.weights not in weights:
                weights[p.weights] = _weights(found.path / p.weights)
            entries = library.entries(found.path / p.code, [p.entry], threads_of(p))
            outputs = [OutputSpec(shape, numpy_dtype(name)) for shape, name in p.outputs]
            inputs = [(shape, numpy_dtype(s["numpy"])) for shape, s in zip(p.inputs, found.manifest["inputs"])]
            made.append(Executable(entries, outputs, weights[p.weights], p.arena, inputs))
    except (OSError, AttributeError) as e:  # the loader's reasons, or no such entry
        hint = "Is it on a file system that is mounted noexec?" if "not permitted" in str(e) else None
        raise ArtifactError(f"its code cannot be loaded: {e}", where=str(found.path), hint=hint) from e
    return made


def _weights(path: Path) -> np.ndarray:
    """The file, mapped: calls are as fast as on copies in large pages, and processes share it."""
    size = path.stat().st_size
    if size == 0:
        return np.empty(0, np.uint8)
    with open(path, "rb") as f:
        return np.frombuffer(mmap.mmap(f.fileno(), size, prot=mmap.PROT_READ), np.uint8)


class SavedModel(Model):
    """A loaded model: it has the programs that were saved, and compiles none."""

    def __init__(self, found: Artifact) -> None:
        m = found.manifest
        super().__init__(read_specs(m["inputs"]), read_specs(m["outputs"]), Specialisations(weakly(self._refuse), 1),
                         structure=_structure(m), control_inputs=m.get("control_inputs", ()),
                         ranges={n: (low, high) for n, (low, high) in m.get("ranges", {}).items()})
        self._path = found.path
        self._dtypes = [s.numpy for s in self.inputs]
        self._found = found.programs
        self._deciding = [k for k, name in enumerate(self._names) if name in self._control]  # whose values choose the program
        # By the shapes of inputs, and behind them the values that decide.
        self._programs_by_key = {(*p.inputs, *(p.values[self._names[k]] for k in self._deciding)): Specialisation(e, p)
                                 for p, e in zip(found.programs, executables(found))}
        if self._static:
            self._only = next(iter(self._programs_by_key.values()))

    @property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """The shapes of inputs that there are programs for."""
        return [dict(zip(self._names, p.inputs)) for p in self._found]

    @property
    def values(self) -> list[dict[str, np.ndarray]]:
        """Of the same programs, the values of inputs that each is for; nothing where shapes alone decide."""
        return [{self._names[k]: np.frombuffer(p.values[self._names[k]], self._dtypes[k]).reshape(p.inputs[k])
                 for k in self._deciding} for p in self._found]

    def __repr__(self) -> str:
        return f"SavedModel({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}; {self._path})"

    def program(self, arrays: Sequence[Any]) -> Specialisation:
        """The program for checked inputs. InputError lists what there is where none has their shapes and values."""
        found = self._programs_by_key.get(self._key(arrays))
        return found if found is not None else super().program(arrays)  # which checks the dims first

    def _computed(self, given: Sequence[Any]) -> list[Any]:
        if self._only is None:
            shapes: tuple[Any, ...] = tuple([x.shape if type(x) is np.ndarray else None for x in given])
            found = self._programs_by_key.get(shapes)
            if found is not None:
                self._next(found)
        return super()._computed(given)

    def _key(self, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
        key = tuple([a.shape for a in arrays])
        return (*key, *(arrays[k].tobytes() for k in self._deciding)) if self._deciding else key

    def _refuse(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Specialisation:
        there = [self._case_text(s, p.values) for s, p in zip(self.shapes, self._found)]
        more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
        wanted = self._case_text(shapes, {name: x.tobytes() for name, x in values.items()})
        one, new = ("shapes and values", "those") if self._deciding else ("shapes", "the shape")
        raise InputError(f"{self._path} has no program for {wanted}; it has those for {'; '.join(there[:SHOWN])}{more}",
                         hint=f"Give one of these {one}, or build it with {new} wanted")

    def _case_text(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, bytes]) -> str:
        """As graphopt-build's --shape and --value take it."""
        sizes = ",".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items() if name not in self._control)
        if not values:
            return sizes
        kinds = {s.name: s.numpy.name for s in self.inputs if s.numpy is not None}
        return f"{sizes} with {values_text(values, kinds)}" if sizes else values_text(values, kinds)


def _structure(manifest: Mapping[str, Any]) -> Call | None:
    """How the model is called, None where each input is an argument."""
    try:
        return Call.from_json(manifest["call"]) if "call" in manifest else None
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise ArtifactError(f"its manifest is damaged: the structure of a call is not one: {type(e).__name__} {e}") from e


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


def output_json(o: OutputSpec) -> dict[str, Any]:
    assert o.shape is not None and o.dtype is not None
    return {"shape": list(o.shape), "numpy": o.dtype.name}


def model_interface(inputs: Sequence[Spec], outputs: Sequence[Spec], control: Sequence[str],
                    ranges: Mapping[str, tuple[int | None, int | None]], call: Call | None = None) -> dict[str, Any]:
    """What a manifest says of the model, whatever its programs. `call` says how nested arguments and results of the source
    model are; InputError where a constant among them is no plain data."""
    describe = lambda specs: [spec_json(s) for s in specs]
    return {"inputs": describe(inputs), "outputs": describe(outputs), "control_inputs": list(control),
            "ranges": {k: list(r) for k, r in ranges.items()},
            **({} if call is None or call.plain else {"call": call.to_json()})}


__all__ = ["SavedModel", "executables", "model_interface", "numpy_dtype", "output_json", "read_specs", "spec_json"]
