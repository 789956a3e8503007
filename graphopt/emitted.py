"""Models compiled to another machine's source: CUDA C++ and HLS C++, with the graph passes, lowering and memory plan of x86."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from graphopt import store
from graphopt.errors import InputError, TargetError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.pipeline import check_data, check_sizes, of_ours, optimise, specialise, specs
from graphopt.pipeline import interface as interface_of
from graphopt.repro import guarded
from graphopt.runtime.executable import Executable, OutputSpec, aligned
from graphopt.runtime.model import Model, Specialisation, Specialisations
from graphopt.targets import Target
from graphopt.targets.cuda import Cuda
from graphopt.targets.fpga import Fpga


class EmittedModel(Model):
    """A program as source for `target`. It does not run where it was compiled; its kind's `emulated()` gives a model that
    does, built by the host's C++ compiler. `graph` is the optimised graph, `save` writes everything to a folder."""

    forms: tuple[str, ...] = ()  # what `source` gives, the default first

    def __init__(self, graph: Graph, target: Target, style: Any, validate: bool = False) -> None:
        from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
        from graphopt.codegen.plan import plan
        from graphopt.codegen.project import interface, refuse_host_ops

        check_data(graph)
        check_sizes(graph)
        self.target, self._source = target, graph
        start = time.perf_counter()
        self.graph, self._results = optimise(graph, validate)
        passes = time.perf_counter()
        with of_ours():
            self._plan = plan(self.graph, style)
        refuse_host_ops(self._plan, target.name)
        self._interface = interface(self._plan)
        self._seconds = {"passes": passes - start, "plan": time.perf_counter() - passes}
        inputs, outputs = specs(graph)
        super().__init__(inputs, outputs, Specialisations(self._cannot_run, 1), structure=graph.metadata.get("call"))

    def _cannot_run(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, np.ndarray]) -> Specialisation:
        raise TargetError(f"a model compiled for {self.target.name} does not run in this process",
                          hint="Use save(folder) and run it on its machine, or emulated() to run it on the host, slowly")

    def _on_host(self, function: Callable[..., Any]) -> Model:
        """A model that runs `function`, which takes pointers to inputs, outputs, weights and arena."""
        model = Model(self.inputs, self.outputs, Specialisations(self._cannot_run, 1), structure=self._structure)
        weights = self._plan.pack_weights(aligned)
        outputs = [OutputSpec(*o) for o in interface_of(self.graph, "outputs")]
        run = Executable([function], outputs, weights, self._plan.arena_size, interface_of(self.graph, "inputs"))
        model._only = Specialisation(run, self)
        return model

    def _form(self, kind: str | None) -> str:
        if kind is not None and kind not in self.forms:
            raise InputError(f"no source of kind {kind!r} for {self.target.name}", hint=f"Use {self.forms[0]!r}")
        return kind or self.forms[0]

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and sizes: ops, kernels, operations, bytes, arena, weights, seconds."""
        operations, moved = 0, 0
        for op in self._source.ops:
            a, b = op.definition.cost(op.view(), [r.type for r in op.results])
            operations += a if isinstance(a, int) else 0
            moved += b if isinstance(b, int) else 0
        p = self._plan
        return {"ops": len(self._source), "ops_after": len(self.graph), "kernels": len(p.kernels), "calls": len(p.calls),
                "host_ops": 0, "operations": operations, "bytes": moved, "arena_bytes": p.arena_size,
                "arena_lower_bound_bytes": p.arena_bound, "weights_bytes": p.weights_size, "seconds": self._seconds}

    def explain(self) -> str:
        """What the compiler did: passes, kernels, memory."""
        s = self.stats
        return "\n".join([
            f"target {self.target.name}", str(self._results), "", f"{s['calls']} kernel calls ({s['kernels']} different kernels)",
            f"arena {s['arena_bytes']} bytes (no plan needs less than {s['arena_lower_bound_bytes']})",
            f"weights {s['weights_bytes']} bytes"])

    def _manifest(self) -> dict[str, Any]:
        def tensors(specs: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"name": s.name, "dtype": s.dtype, "shape": list(s.shape)} for s in specs]

        return {"target": self.target.name, "inputs": tensors(self.inputs), "outputs": tensors(self.outputs)}

    def __repr__(self) -> str:
        ins, outs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return f"{type(self).__name__}({ins} -> {outs}; {self.target.name})"


class CudaModel(EmittedModel):
    """A network as CUDA C++ for one architecture."""

    forms = ("cuda",)

    def __init__(self, graph: Graph, target: Cuda, validate: bool = False) -> None:
        from graphopt.codegen import cuda

        super().__init__(graph, target, cuda.STYLE, validate)
        self._text, self.launches = cuda.emit(self._plan, target)
        self._code: bytes | None = None

    def source(self, kind: str | None = None) -> str:
        """The CUDA C++ text: kernels and the function that launches them."""
        self._form(kind)
        return self._text

    def cubin(self) -> bytes:
        """Machine code of the kernels, made once; no GPU is needed. TargetError where there is neither nvcc nor NVRTC."""
        if self._code is None:
            from graphopt.codegen.cuda import cubin

            self._code = cubin(self._text, self.target.arch)  # type: ignore[attr-defined]
        return self._code

    def launch_list(self) -> list[dict[str, Any]]:
        """What to launch, in order: kernel, blocks, threads of a block, and arguments as (space, index, byte offset)."""
        return [{"kernel": c.kernel.name, "blocks": self.launches[c.kernel.name].blocks,
                 "threads": self.launches[c.kernel.name].threads, "args": [[s.space, s.index, s.offset] for s in c.args],
                 "op": c.op.name, "loc": list(c.op.loc)} for c in self._plan.calls]

    def save(self, folder: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write kernels.cu, kernels.cubin (where it can be made), weights.bin, emulation.h and the launch list to `folder`,
        all or nothing. What was saved there before is replaced; `force`: with files that graphopt did not write."""
        from graphopt.codegen import cuda
        from graphopt.codegen.project import write_project

        files: dict[str, str | bytes] = {"kernels.cu": self._text, "emulation.h": cuda.HEADER,
                                         "weights.bin": self._plan.pack_weights(aligned).tobytes()}
        if cuda.available():
            files["kernels.cubin"] = self.cubin()
        write_project(folder, files, {**self._manifest(), "arena_bytes": self._plan.arena_size,
                                      "weights_bytes": self._plan.weights_size, "launches": self.launch_list()}, force)

    def emulated(self, reverse: bool = False) -> Model:
        """The same kernels on the host, one thread after the other; with `reverse`, the last thread first."""
        from graphopt.codegen.cuda import HEADER
        from graphopt.codegen.host_cc import FLAGS, load

        flags = (*FLAGS, "-DGRAPHOPT_EMULATE", "-w", "-x", "c++", *(["-DGRAPHOPT_REVERSE"] if reverse else []))
        library = load({"kernels.cu": self._text, "emulation.h": HEADER}, "kernels.cu", flags)
        return self._on_host(lambda *pointers: library.graphopt_run(*pointers, None))


class FpgaModel(EmittedModel):
    """A network as a Vitis HLS project for one part."""

    forms = ("hls",)

    def __init__(self, graph: Graph, target: Fpga, validate: bool = False) -> None:
        from graphopt.codegen import hls

        super().__init__(graph, target, hls.STYLE, validate)

    def source(self, kind: str | None = None, number: str = "float") -> str:
        """The top function with its kernels. `number` is float, or `ap_fixed<W,I>` to compute in fixed point."""
        self._form(kind)
        return self._design(number).files()["top.cpp"]

    def _design(self, number: str) -> Any:
        from graphopt.codegen.hls import Design

        return Design(self._plan, self.target, number)  # type: ignore[arg-type]

    def save(self, folder: str | os.PathLike[str], *, number: str = "float", stimulus: Sequence[Sequence[Any]] | None = None,
             rtol: float | None = None, atol: float | None = None, force: bool = False) -> None:
        """Write the Vitis HLS project to `folder`, all or nothing. What was saved there before is replaced; `force`: with files
        that graphopt did not write.

        The test bench runs `stimulus`, a list of samples (each a list of arrays, one an input; three random ones where not
        given), and expects what the reference evaluator gives within `atol + rtol * |expected|` (default 1e-5, or 64 units
        of the last place in fixed point).
        """
        from graphopt.codegen.project import write_project

        design = self._design(number)
        samples = [self._sample(s) for s in stimulus] if stimulus is not None else [self._random(seed) for seed in range(3)]
        expected = [evaluate(self._source, s) for s in samples]
        files = {**design.files(), **design.test_bench(samples, expected, rtol, atol)}
        write_project(folder, files, {**self._manifest(), "part": design.target.part, "number": number, "top": design.name},
                      force)

    def _sample(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        if len(arrays) != len(self.inputs):
            raise InputError(f"a sample has {len(arrays)} arrays; the model takes {len(self.inputs)} inputs", where="stimulus")
        from graphopt.runtime.arrays import to_numpy

        return [self._check(s, to_numpy(a, s.name)) for s, a in zip(self.inputs, arrays)]

    def _random(self, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [_random_array(rng, t) for space, _, t in self._interface if space == "input"]

    def emulated(self, number: str = "float") -> Model:
        """The design on the host, built with its C++ compiler (fixed point: with the ap_types headers of hls4ml)."""
        return self._on_host(self._design(number).host_function())


def _random_array(rng: np.random.Generator, t: TensorType) -> np.ndarray:
    if t.dtype.is_float:
        return rng.uniform(-1, 1, t.static_shape).astype(t.dtype.numpy)
    return rng.integers(0, 2, t.static_shape).astype(t.dtype.numpy)


MODELS: dict[str, Callable[[Graph, Any, bool], EmittedModel]] = {"cuda": CudaModel, "fpga": FpgaModel}  # by kind of target
Made = TypeVar("Made", bound=Callable[[Graph, Any, bool], EmittedModel])


def emits(kind: str) -> Callable[[Made], Made]:
    """Register what compiles for a kind of target (`graphopt.targets.named`): `model(graph, target, validate)`."""

    def add(model: Made) -> Made:
        if kind in MODELS:
            raise TargetError(f"there is a compiler for {kind!r} already")
        store.extends(model)
        MODELS[kind] = model
        return model

    return add


def compile_emitted(graph: Graph, target: Target, example_inputs: Any = None, validate: bool = False) -> EmittedModel:
    """The model for a target other than x86. Symbolic dims are fixed by `example_inputs`: arrays in order, or by name."""
    if graph.symbols():
        graph = _fixed(graph, target, example_inputs)
    if target.kind not in MODELS:
        raise TargetError(f"no code for {target.name}", hint="Register what compiles for it with graphopt.emitted.emits")
    with guarded(graph, target):
        return MODELS[target.kind](graph, target, validate)


def _fixed(graph: Graph, target: Target, example_inputs: Any) -> Graph:
    names = [s.name for s in specs(graph)[0]]
    if example_inputs is None:
        raise TargetError(f"{target.name} needs static shapes; the model has the symbolic dims {', '.join(graph.symbols())}",
                          hint="Give example_inputs of the wanted shapes, or capture it with fixed ones")
    given = example_inputs if isinstance(example_inputs, Mapping) else dict(zip(names, example_inputs))
    missing = [n for n in names if n not in given]
    if missing:
        raise InputError(f"example_inputs lack {', '.join(missing)}", hint=f"The inputs are: {', '.join(names)}")
    return specialise(graph, names, {n: tuple(np.shape(given[n])) for n in names}, {})


__all__ = ["CudaModel", "EmittedModel", "FpgaModel", "compile_emitted", "emits"]
