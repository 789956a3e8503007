"""Models for x86: programs by the shapes of a call, found on disk or compiled."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.backends.options import check_counts
from graphopt.backends.recipe import Recipe
from graphopt.errors import ArtifactError, InputError, TargetError
from graphopt.runtime.artifact import reading as artifact
from graphopt.runtime.artifact.saved import executables, model_interface, read_specs
from graphopt.runtime.host.machine import missing
from graphopt.runtime.indices import Checked
from graphopt.runtime.model import Model, Specialisation, Specialisations, weakly
from graphopt.ship import programs

if TYPE_CHECKING:
    from graphopt.backends.x86.static import Compiled
    from graphopt.ir.graph import Graph
    from graphopt.measure.profiling import Profile

@dataclass
class Details:
    """A program's own record: `summary` is there at once, `compiled` is made again where the program came from disk."""

    summary: dict[str, Any]
    decisions: str
    host_ops: list[tuple[str, str, str]]
    _make: Callable[[], Compiled]
    _compiled: Compiled | None = field(default=None, repr=False)

    @property
    def compiled(self) -> Compiled:
        if self._compiled is None:
            self._compiled = self._make()
        return self._compiled


class CompiledModel(Model):
    """A network compiled for x86: call it as its source is called, or `run` it by names.

    A program from the cache on disk is compiled anew (but for its machine code) where `graph`, `source` or `profile`
    want to look into it.
    """

    def __init__(self, recipe: Recipe, max_specialisations: int) -> None:
        self._recipe = recipe
        _ = recipe.records  # a wrong file is refused before any work
        self._missing: list[str] = []
        self._overriding: dict[tuple[str, ...], CompiledModel] = {}  # by the inputs whose defaults are not used
        kept = Specialisations(weakly(self._build), max_specialisations)
        found = recipe.key and programs.find(recipe.key, recipe.holds)
        known = found.manifest if found else recipe.key and programs.interface(recipe.key)
        if known:
            super().__init__(read_specs(known["inputs"]), read_specs(known["outputs"]), kept,
                             control_inputs=known["control_inputs"], ranges=known["ranges"])
        else:
            self._from_graph(kept)
        if found:
            recipe.again = True
            self._only = self._from_disk(found, time.perf_counter(), {}, {})
        elif self._static:
            shapes: Any = {s.name: s.shape for s in self.inputs}
            self._only = kept.get((tuple(sorted(shapes.items())), ()), shapes, {})
        elif recipe.key and not known and self._storable():
            programs.keep_interface(recipe.key, self._interface(), self._external())

    def _from_graph(self, kept: Specialisations) -> None:
        from graphopt.codegen.program.interface import specs

        self._missing = missing(self._recipe.target.instructions)  # a wrong target is refused before the work of a capture
        graph = self._recipe.graph
        inputs, outputs = specs(graph)
        super().__init__(inputs, outputs, kept, structure=graph.metadata.get("call"),
                         control_inputs=graph.metadata.get("control_inputs", ()), ranges=graph.metadata.get("dim_ranges"))

    @property
    def target(self) -> Any:
        """The machine that the code is for."""
        return self._recipe.target

    def program(self, arrays: Sequence[Any]) -> Specialisation:
        """The program for checked inputs, built if it is the first call with their shapes. Refused where it cannot run."""
        if self._missing:
            raise TargetError(f"code for {self.target.name} may use what this machine lacks: {', '.join(self._missing)}",
                              hint="Look at its source(), or compile with target='x86' for this machine")
        return super().program(arrays)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Named arrays in, named arrays out; names are the source model's.

        Initialisers that an ONNX model declares as inputs, too, may be given: another program is compiled the first time.
        """
        unknown = inputs.keys() - self._named if isinstance(inputs, Mapping) else ()
        if unknown and unknown <= set(self._recipe.graph.metadata.get("defaults", ())):
            names = tuple(sorted(unknown))
            if names not in self._overriding:
                self._overriding[names] = CompiledModel(replace(self._recipe, overridden=names, again=False),
                                                        self._programs.limit)
            return self._overriding[names].run(inputs)
        return super().run(inputs)

    # Building -----------------------------------------------------------------------------------
    def _build(self, shapes: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> Specialisation:
        from graphopt.backends.x86 import bundle, static
        from graphopt.codegen.x86.link import link

        start = time.perf_counter()
        recipe = self._recipe
        key = recipe.key if self._static else recipe.key and programs.program_key(recipe.key, shapes, values)
        found = programs.find(key, recipe.holds) if key and not self._static else None
        if found:
            return self._from_disk(found, start, shapes, values)
        compiled = self._compile(shapes, values)
        compiled.seconds["all"] = time.perf_counter() - start
        details = Details(static.statistics(compiled), static.decisions(compiled, self.target),
                          [(h.op.name, ", ".join(h.op.loc), h.why) for h in compiled.program.hosts],
                          partial(weakly(self._compile), shapes, values), compiled)
        if key and not self._missing and self._storable() and bundle.why_no_artifact(compiled) is None:
            made = bundle.Bundle(self._interface())
            made.add(compiled, self.target, values)
            stored = programs.keep(key, made.manifest(), made.files(), self._external())
            if stored:  # from here on as if it had come from there: the weights are held once, by the file
                details._compiled = None
                if self._static:
                    del compiled, made
                    recipe.forget()
                return Specialisation(executables(stored)[0], details)
        executable = link(compiled.program, compiled.code, self.target.threads)
        if checks := compiled.source_graph.metadata.get("index_checks"):
            return Specialisation(Checked(executable, checks, len(self.outputs)), details)
        return Specialisation(executable, details)

    def _compile(self, shapes: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> Compiled:
        from graphopt.backends.x86 import static
        from graphopt.codegen.program.interface import specialise_checked

        start = time.perf_counter()
        graph = specialise_checked(self._recipe.graph, self.inputs, shapes, values)
        if self._recipe.check_indices:
            from graphopt.rewrite.clean.indices import with_index_checks

            graph, checks = with_index_checks(graph)
            graph.metadata["index_checks"] = checks
        specialised = time.perf_counter()
        compiled = static.compile_static(graph, self.target, self._recipe.validate, self._recipe.tune, self._recipe.records)
        compiled.seconds = {"specialise": specialised - start, **compiled.seconds}
        return compiled

    def _from_disk(self, found: artifact.Artifact, start: float, shapes: dict[str, tuple[int, ...]],
                   values: dict[str, np.ndarray]) -> Specialisation:
        executable, program = executables(found)[0], found.programs[0]
        shapes = shapes or {s.name: s.shape for s in self.inputs}  # type: ignore[misc]
        summary = {**program.said["stats"], "from_cache": True, "loaded": True,
                   "seconds": {"load": time.perf_counter() - start}}
        details = Details(summary, program.said["decisions"], [], partial(weakly(self._compile), shapes, values))
        return Specialisation(executable, details)

    def _storable(self) -> bool:
        """Whether what the model is called with can be described in an artifact."""
        specs = (*self.inputs, *self.outputs)
        return self._structure is None and all(s.numpy is not None and s.numpy != np.object_ for s in specs)

    def _interface(self) -> dict[str, Any]:
        return model_interface(self.inputs, self.outputs, self._control, self._ranges, self._structure)

    def _values(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, bytes]) -> dict[str, np.ndarray]:
        """What the keys of programs hold, as arrays."""
        return {s.name: np.frombuffer(values[s.name], s.numpy).reshape(shapes[s.name]) for s in self.inputs if s.name in values}

    def _external(self) -> list[Any]:
        return list(self._recipe.graph.metadata.get("external", ()))

    # What the compiler did ----------------------------------------------------------------------
    def _latest(self) -> Details:
        latest = self._only or self._programs.latest
        if latest is None:
            raise InputError("the model has symbolic dims and has not been called yet",
                             hint="Call it once with inputs of the wanted shape")
        details: Details = latest.details
        return details

    def _details(self) -> Compiled:
        return self._latest().compiled

    @property
    def graph(self) -> Graph:
        """The optimised graph of the latest program; the captured one before the first call of a symbolic model."""
        latest = self._only or self._programs.latest
        return latest.details.compiled.graph if latest is not None else self._recipe.graph

    def source(self, kind: str = "tir") -> str:
        """The latest program's code: `tir` or `asm`."""
        from graphopt.codegen.x86.build import build

        if kind not in ("tir", "asm"):
            raise InputError(f"no source of kind {kind!r} for {self.target.name}", hint="Use 'tir' or 'asm'")
        details = self._details()
        if kind == "asm":  # shared objects have no text
            return build(details.program, self.target, in_memory=True).asm()
        return details.code.tir()

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and sizes of the latest program: ops, kernels, host ops, operations, bytes, arena, weights, seconds.

        `from_cache` says that its machine code was found on disk, `loaded` that all of it was.
        """
        return dict(self._latest().summary)

    @property
    def host_ops(self) -> list[tuple[str, str, str]]:
        """Ops that the reference evaluator runs: (name, place, why)."""
        return list(self._latest().host_ops)

    def profile(self, *args: Any, repeats: int = 20, **kwargs: Any) -> list[dict[str, Any]]:
        """Median seconds of every step of a call on the given inputs, with the source locations it came from.

        Kernels are timed from within compiled code, one after the other as in any call; see
        `graphopt.measure.profiling.Row` for what the keys mean.
        """
        from dataclasses import asdict

        check_counts(repeats=repeats)
        given = self._structure.flatten(args, kwargs) if self._structure is not None else self._by_position(args, kwargs)
        rows = self._profile(given, repeats).rows
        return [{**asdict(r), "bytes": r.weights + r.activations, "loc": list(r.loc)} for r in rows]

    def _profile(self, given: Sequence[Any], repeats: int | None = None) -> Profile:
        """The same of inputs in order, with the time of whole calls."""
        from graphopt.measure.profiling import profile

        arrays = self._checked(given)
        return profile(self.program(arrays).details.compiled, self.target, arrays, repeats)

    def explain(self) -> str:
        """What the compiler did: passes, kernels, memory, host ops."""
        d, s = self._latest(), self.stats
        lines = [d.decisions, "",
                 f"{s['calls']} kernel calls ({s['kernels']} different kernels), {s['host_ops']} host ops",
                 f"arena {s['arena_bytes']} bytes (no plan needs less than {s['arena_lower_bound_bytes']})",
                 f"weights {s['weights_bytes']} bytes",
                 "seconds: " + ", ".join(f"{k} {v:.3f}" for k, v in s["seconds"].items()),
                 "program from the cache on disk" if s["loaded"] else
                 "code from the cache on disk" if s["from_cache"] else "code made now"]
        if s["runtime"] == "tvm":
            lines.append("in memory, on TVM's slower runtime and thread pool: there is no C compiler (cc) here to link with")
        lines += [f"host op {name} at {loc or '?'}: {why}" for name, loc, why in self.host_ops]
        return "\n".join(lines)

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write the model as a folder that `graphopt.load` runs without the compiler; one that is there is replaced, if all in it
        was written by graphopt and is as it was, or if `force` says that the rest may go, too.

        Of a model with symbolic dims, or with inputs whose values shape the program, it holds the programs for the shapes and
        values that it was called with (the latest `max_specialisations` of them), their weights once. Raises ArtifactError
        where a program cannot stand alone or the folder cannot be written.
        """
        from graphopt.backends.x86 import bundle
        from graphopt.ship import replacing

        folder = replacing.folder_named(path)
        if self._recipe.check_indices:
            raise ArtifactError("a model that checks its indices cannot be saved: artifacts do not", where=str(path),
                                hint="Compile it without check_indices")
        where, made = str(path), bundle.Bundle(self._interface(), self._file_name())
        try:
            if self._only is not None:
                made.add(self._details(), self.target)
            else:
                cases = [bundle.Case(shapes, self._values(shapes, values)) for shapes, values in self._programs.cases()]
                if not cases:
                    why, what = ("symbolic dims", "shape") if not self._control else (
                        f"inputs whose values shape the program ({', '.join(self._control)})", "shape and value")
                    raise ArtifactError(f"the model has {why}, and no program yet", where=where,
                                        hint=f"Call it with inputs of every {what} that is wanted, or use graphopt-build")
                recipe = self._recipe
                bundle.build(recipe.graph, self.inputs, made, self.target, cases, validate=recipe.validate, tune=recipe.tune,
                             records=recipe.records)
        except ArtifactError as e:
            raise e if e.where else ArtifactError(e.what, where=where, hint=e.hint) from e
        made.save(folder, force)

    def _file_name(self) -> str | None:
        """Of the model's file, None where it came from none."""
        given = self._recipe.model
        return Path(given).name if isinstance(given, (str, PathLike)) else None

    def __repr__(self) -> str:
        target = getattr(self._recipe.target_given, "name", self._recipe.target_given)
        return f"CompiledModel({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}; {target})"


__all__ = ["CompiledModel", "Details"]
