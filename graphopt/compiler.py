"""`graphopt.compile`: capture, run the target's passes, emit, wrap. Read this file first.

What needs the compiler, or the framework that a model comes from, is imported when it is needed: a program that is
found in the cache needs neither.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt import programs
from graphopt.errors import ArtifactError, InputError, OutOfMemoryError, TargetError
from graphopt.records import Records, check_mode, still_holds
from graphopt.runtime import artifact
from graphopt.runtime.indices import Checked
from graphopt.runtime.machine import missing
from graphopt.runtime.model import Model, Specialisation, Specialisations, weakly
from graphopt.runtime.saved import executables, model_interface, read_specs

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.profiling import Profile
    from graphopt.static import Compiled
    from graphopt.targets import Target

MAX_SPECIALISATIONS = 16
MOST = 1 << 20  # of whatever is counted in options


def compile(model: Any, example_inputs: Any = None, *, target: str | Target = "x86", threads: int | None = None,
            dynamic_shapes: Any = None, max_specialisations: int = MAX_SPECIALISATIONS, validate: bool = False,
            tune: str | None = None, tuning: str | PathLike[str] | None = None, winograd: bool = True,
            check_indices: bool = False, **unknown: Any) -> Any:
    """Compile a trained network for one target.

    - `model`: an `nn.Module` (with `example_inputs`), an `fx.GraphModule`, an `ExportedProgram`, an ONNX `ModelProto`, bytes or
      path, or a graphopt `Graph`.
    - `example_inputs`: a tuple as for `torch.export`; `dynamic_shapes` says which dims vary. CUDA and FPGA take their shapes.
    - `target`: `x86[:cpu]`, `cuda:sm_XY` or `fpga:part`.
    - `threads`: how many a call may use (default: this process's cores).
    - `max_specialisations`: how many programs are kept of a model with symbolic dims, which is compiled for each concrete
      shape when it first occurs.
    - `validate`: check every pass with the reference evaluator.
    - `tune`: `"fast"` or `"full"` measures candidates for the parameters of kernels on this machine (seconds, or minutes) and
      records the best; later compilations take what is recorded.
    - `tuning`: the file of records, in place of GRAPHOPT_TUNING or the one in the cache; `tune` writes it.
    - `winograd`: False forbids x86 kernels by Winograd's algorithm, which 3x3 convolutions of stride 1 in f32 get where it is
      faster. Their error, 1e-6 of the largest result for 64 channels to 2e-6 or 4e-6 for 512, is within a factor of two of direct
      convolution's, but a NaN or an infinity in an image makes NaN of all results in the tiles (2x2 or 4x4) that read it.

    - `check_indices`: raise IndexRangeError (an IndexError) where an index of a gather, scatter or embedding is out of range in
      a call. Without, such indices are held at the border: memory is safe, results are not what was meant. Calls look at all
      indices then, programs are not kept on disk, and the model cannot be saved.

    Programs of ONNX paths and bytes are kept on disk (GRAPHOPT_CACHE) and found again without compiling.
    Raises GraphOptError: UnsupportedOperators, CaptureError, TargetError, ...
    """
    _check_options(unknown)
    _check_counts(threads=threads, max_specialisations=max_specialisations)
    _check_flags(validate=validate, winograd=winograd, check_indices=check_indices)
    if not winograd:
        from graphopt.targets import without_winograd

        target = without_winograd(target, threads)
    with enough_memory():
        return _compiled(model, example_inputs, target, threads, dynamic_shapes, max_specialisations, validate, tune, tuning,
                         check_indices)


def _compiled(model: Any, example_inputs: Any, target: Any, threads: int | None, dynamic_shapes: Any, max_specialisations: int,
              validate: bool, tune: str | None, tuning: str | PathLike[str] | None, check_indices: bool) -> Any:
    recipe = Recipe(model, example_inputs, dynamic_shapes, target, threads, validate, check_mode(tune), tuning, check_indices)
    if str(getattr(target, "kind", target)).partition(":")[0] == "x86":
        return CompiledModel(recipe, max_specialisations)
    if tune is not None or tuning is not None:
        raise InputError(f"kernels for {recipe.target.name} have no parameters to tune", where="tune" if tune else "tuning",
                         hint="Leave it out, or compile for x86")
    if check_indices:
        raise InputError(f"code for {recipe.target.name} does not check indices", where="check_indices",
                         hint="Compile for x86 to look for wrong ones")
    from graphopt.emitted import compile_emitted

    where = recipe.target
    return compile_emitted(recipe.graph, where, example_inputs, validate)


@contextmanager
def enough_memory() -> Iterator[None]:
    """What is done within runs out of memory by an error of ours."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as e:
        raise OutOfMemoryError("there is no memory to compile the model", hint="Its weights are held about twice while it is "
                               "compiled; give the process more, or compile where there is more") from e


def _check_options(unknown: Mapping[str, Any]) -> None:
    """Refuse options that are none."""
    if unknown:
        import difflib
        import inspect

        known = [n for n in inspect.signature(compile).parameters if n not in ("model", "example_inputs", "unknown")]
        name = next(iter(unknown))
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(known)}"
        raise InputError(f"compile has no option {name!r}", hint=hint)


def _check_flags(**given: Any) -> None:
    """Refuse arguments that are neither True nor False."""
    for name, flag in given.items():
        if not isinstance(flag, bool):
            raise InputError(f"must be True or False, got {flag!r}", where=name)


def _check_counts(**given: Any) -> None:
    """Refuse arguments that are neither None nor a whole number from 1 on."""
    for name, n in given.items():
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise InputError(f"must be a whole number of at least 1, got {n!r}", where=name)
        if n is not None and n > MOST:
            raise InputError(f"must be at most {MOST}, got {n}", where=name)


@dataclass
class Recipe:
    """What `compile` was given, and what was made of it so far."""

    model: Any
    example_inputs: Any
    dynamic_shapes: Any
    target_given: Any
    threads: int | None
    validate: bool
    tune: str | None = None
    tuning: str | PathLike[str] | None = None
    check_indices: bool = False
    again: bool = False  # whether a program was already made of the model
    overridden: tuple[str, ...] = ()  # inputs of an ONNX model whose defaults are not used

    @cached_property
    def key(self) -> str | None:
        """What names this compilation on disk; None where it cannot be kept there."""
        from os import sched_getaffinity

        if self.validate or self.check_indices or self.dynamic_shapes is not None:
            return None
        threads = self.threads or len(sched_getaffinity(0))
        given = self.target_given
        target = given if isinstance(given, str) else [(k, sorted(v) if isinstance(v, frozenset) else v)
                                                       for k, v in sorted(vars(given).items())]
        return programs.model_key(self.model, {"target": target, "threads": threads, "overridden": self.overridden})

    @cached_property
    def target(self) -> Any:
        from graphopt.targets import parse_target

        return parse_target(self.target_given, self.threads)

    @cached_property
    def records(self) -> Records:
        """What was measured of kernels, so far."""
        return Records.load(self.tuning, to_write=self.tune is not None)

    def holds(self, manifest: Mapping[str, Any]) -> bool:
        """Is a program on disk what this recipe would make, by what is recorded now?"""
        return still_holds(manifest.get("tuning", {}), self.records, self.tune)

    @cached_property
    def graph(self) -> Graph:
        from graphopt.capture import capture

        graph = capture(self.model, self.example_inputs, dynamic_shapes=self.dynamic_shapes, overridden=self.overridden)
        if self.again and self.key != replace(self).key:
            raise InputError("the model's file has changed since it was compiled", where=str(self.model),
                             hint="Compile it again")
        return graph

    def forget(self) -> None:
        """Give back the memory of the graph and its weights; they can be had again."""
        self.again = True
        self.__dict__.pop("graph", None)
        gc.collect()  # graphs are cycles


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

    def __init__(self, recipe: Recipe, max_specialisations: int = MAX_SPECIALISATIONS) -> None:
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
        from graphopt.pipeline import specs

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
        from graphopt import bundle, static

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
        executable = static.link(compiled, self.target.threads)
        if checks := compiled.source_graph.metadata.get("index_checks"):
            return Specialisation(Checked(executable, checks, len(self.outputs)), details)
        return Specialisation(executable, details)

    def _compile(self, shapes: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> Compiled:
        from graphopt import static
        from graphopt.pipeline import specialise_checked

        start = time.perf_counter()
        graph = specialise_checked(self._recipe.graph, self.inputs, shapes, values)
        if self._recipe.check_indices:
            from graphopt.rewrite.indices import with_index_checks

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
        return latest.details

    def _details(self) -> Compiled:
        return self._latest().compiled

    @property
    def graph(self) -> Graph:
        """The optimised graph of the latest program; the captured one before the first call of a symbolic model."""
        latest = self._only or self._programs.latest
        return latest.details.compiled.graph if latest is not None else self._recipe.graph

    def source(self, kind: str = "tir") -> str:
        """The latest program's code: `tir` or `asm`."""
        from graphopt.static import build_code

        if kind not in ("tir", "asm"):
            raise InputError(f"no source of kind {kind!r} for {self.target.name}", hint="Use 'tir' or 'asm'")
        details = self._details()
        if kind == "asm":  # shared objects have no text
            return build_code(details.program, self.target, in_memory=True).asm()
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

        Kernels are timed from within compiled code, one after the other as in any call; see `graphopt.profiling.Row` for what
        the keys mean.
        """
        from dataclasses import asdict

        _check_counts(repeats=repeats)
        given = self._structure.flatten(args, kwargs) if self._structure is not None else self._by_position(args, kwargs)
        rows = self._profile(given, repeats).rows
        return [{**asdict(r), "bytes": r.weights + r.activations, "loc": list(r.loc)} for r in rows]

    def _profile(self, given: Sequence[Any], repeats: int | None = None) -> Profile:
        """The same of inputs in order, with the time of whole calls."""
        from graphopt.profiling import profile

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
        from graphopt import bundle, replacing

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


__all__ = ["MAX_SPECIALISATIONS", "CompiledModel", "compile"]
