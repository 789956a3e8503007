"""`graphopt.compile`: capture, run the target's passes, emit, wrap. Read this file first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphopt.errors import InputError, TargetError
from graphopt.ir.evaluate import bind_symbols, evaluate_op
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.pipeline import X86Keeps, optimise, specialise, specs
from graphopt.runtime.executable import Executable, HostStep, OutputSpec, Place, aligned
from graphopt.runtime.library import runtime
from graphopt.runtime.model import Model, Specialisation, Specialisations
from graphopt.targets import Target, parse_target

MAX_SPECIALISATIONS = 16


@dataclass
class Compiled:
    """The compiler's record of one program: what `source`, `explain` and `profile` read."""

    source_graph: Graph
    graph: Graph
    results: Any  # rewrite.Results
    program: Any  # codegen.plan.Program
    code: Any  # codegen.tir.build.Code
    seconds: dict[str, float]


def compile(model: Any, example_inputs: Any = None, *, target: str | Target = "x86", threads: int | None = None,
            dynamic_shapes: Any = None, max_specialisations: int = MAX_SPECIALISATIONS, validate: bool = False) -> Any:
    """Compile a trained network for one target.

    `model`: an `nn.Module` (with `example_inputs`, a tuple as for `torch.export`, and `dynamic_shapes` for
    dims that vary), an `fx.GraphModule`, an `ExportedProgram`, an ONNX `ModelProto`, bytes or path, or a
    graphopt `Graph`. `target`: `x86[:cpu]`, `cuda:sm_XY` or `fpga:part`. `threads`: how many a call may use
    (default: this process's cores). A model with symbolic dims is compiled for each concrete shape when it
    first occurs; `max_specialisations` programs are kept; CUDA and FPGA take the shapes of `example_inputs`.
    `validate` checks every pass with the reference evaluator.
    Raises GraphOptError: UnsupportedOperators, CaptureError, TargetError, ...
    """
    from graphopt.capture import capture

    where = parse_target(target, threads)
    graph = capture(model, example_inputs, dynamic_shapes=dynamic_shapes)
    if where.kind == "x86":
        return CompiledModel(graph, where, max_specialisations, validate)
    from graphopt.emitted import compile_emitted

    return compile_emitted(graph, where, example_inputs, validate)


class CompiledModel(Model):
    """A network compiled for x86: call it as its source is called, or `run` it by names."""

    def __init__(self, graph: Graph, target: Any, max_specialisations: int = MAX_SPECIALISATIONS, validate: bool = False) -> None:
        self.target = target
        self._source, self._validate = graph, validate
        self._missing = target.missing()
        programs = Specialisations(self._build, max_specialisations)
        inputs, outputs = specs(graph)
        super().__init__(inputs, outputs, programs, structure=graph.metadata.get("call"),
                         control_inputs=graph.metadata.get("control_inputs", ()), ranges=graph.metadata.get("dim_ranges"))
        if self._static:
            shapes = {s.name: s.shape for s in self.inputs}
            self._only = programs.get((tuple(sorted(shapes.items())), ()), shapes, {})  # type: ignore[arg-type]

    def program(self, arrays: Sequence[Any]) -> Specialisation:
        """The program for checked inputs, built if it is the first call with their shapes. Refused where it cannot run."""
        if self._missing:
            raise TargetError(f"code for {self.target.name} may use what this machine lacks: {', '.join(self._missing)}",
                              hint="Look at its source(), or compile with target='x86' for this machine")
        return super().program(arrays)

    def _build(self, shapes: dict[str, tuple[int, ...]], values: dict[str, np.ndarray]) -> Specialisation:
        start = time.perf_counter()
        graph = specialise(self._source, [s.name for s in self.inputs], shapes, values)
        for s, v in zip(self.inputs, graph.inputs):
            if s.name in shapes and isinstance(v.type, TensorType) and v.type.is_static and v.static_shape != shapes[s.name]:
                raise InputError(f"expected shape [{', '.join(map(str, s.shape or ()))}], here {list(v.static_shape)}, "
                                 f"got {list(shapes[s.name])}", where=f"input {s.name}")
        specialised = time.perf_counter()
        compiled = compile_static(graph, self.target, self._validate)
        compiled.seconds = {"specialise": specialised - start, **compiled.seconds}
        return Specialisation(link(compiled, self.target.threads), compiled)

    # What the compiler did ----------------------------------------------------------------------
    def _details(self) -> Compiled:
        latest = self._only or self._programs.latest
        if latest is None:
            raise InputError("the model has symbolic dims and has not been called yet",
                             hint="Call it once with inputs of the wanted shape")
        return latest.details

    @property
    def graph(self) -> Graph:
        """The optimised graph of the latest program; the captured one before the first call of a symbolic model."""
        latest = self._only or self._programs.latest
        return latest.details.graph if latest is not None else self._source

    def source(self, kind: str = "tir") -> str:
        """The latest program's code: `tir` or `asm`."""
        if kind not in ("tir", "asm"):
            raise InputError(f"no source of kind {kind!r} for {self.target.name}", hint="Use 'tir' or 'asm'")
        code = self._details().code
        if kind == "asm":  # shared objects from the cache have no text
            code = _build_code(self._details().program, self.target, in_memory=True)
        return code.tir() if kind == "tir" else code.asm()

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and sizes of the latest program: ops, kernels, host ops, operations, bytes, arena, weights, seconds."""
        d = self._details()
        operations, moved = 0, 0
        for op in d.source_graph.ops:
            a, b = op.definition.cost(op.view(), [r.type for r in op.results])
            operations += a if isinstance(a, int) else 0
            moved += b if isinstance(b, int) else 0
        return {"ops": len(d.source_graph), "ops_after": len(d.graph), "kernels": len(d.program.kernels),
                "calls": len(d.program.calls), "host_ops": len(d.program.hosts), "operations": operations, "bytes": moved,
                "arena_bytes": d.program.arena_size, "arena_lower_bound_bytes": d.program.arena_bound,
                "weights_bytes": d.program.weights_size, "seconds": d.seconds, "from_cache": d.code.from_cache,
                "runtime": "tvm" if d.code.in_memory else "graphopt"}

    @property
    def host_ops(self) -> list[tuple[str, str, str]]:
        """Ops that the reference evaluator runs: (name, place, why)."""
        return [(h.op.name, ", ".join(h.op.loc), h.why) for h in self._details().program.hosts]

    def profile(self, *args: Any, repeats: int = 20, **kwargs: Any) -> list[dict[str, Any]]:
        """Median seconds of every step on the given inputs, with the source locations it came from.

        Each kernel is called on its own here, so the sum is a little above the time of a whole call.
        """
        given = self._structure.flatten(args, kwargs) if self._structure is not None else self._by_position(args, kwargs)
        from graphopt.runtime.arrays import to_numpy

        arrays = [self._check(s, to_numpy(x)) for s, x in zip(self.inputs, given, strict=True)]
        details: Compiled = self.program(arrays).details
        steps = link(details, self.target.threads, each=_build_code(details.program, self.target, each=True))
        marks: list[list[float]] = [[] for _ in steps.steps]
        for _ in range(repeats):
            last = time.perf_counter()

            def observe(k: int) -> None:
                nonlocal last
                now = time.perf_counter()
                marks[k].append(now - last)
                last = time.perf_counter()

            steps.run(arrays, observe)
        rows = []
        for step, times in zip(details.program.steps, marks):
            operations, moved = step.op.definition.cost(step.op.view(), [r.type for r in step.op.results])
            if step.op.name == "fused":
                operations = sum(o.definition.cost(o.view(), [r.type for r in o.results])[0] for o in step.op.regions[0].ops)
            kernel = getattr(step, "kernel", None)
            rows.append({"kernel": kernel.name if kernel else f"host {step.op.name}", "op": step.op.name,
                         "seconds": float(np.median(times)), "operations": operations, "bytes": moved, "loc": list(step.op.loc)})
        return rows

    def explain(self) -> str:
        """What the compiler did: passes, kernels, memory, host ops."""
        d, s = self._details(), self.stats
        lines = [f"target {self.target.name}, {self.target.threads} threads, {self.target.lanes} f32 lanes",
                 str(d.results), "",
                 f"{s['calls']} kernel calls ({s['kernels']} different kernels), {s['host_ops']} host ops",
                 f"arena {s['arena_bytes']} bytes (no plan needs less than {s['arena_lower_bound_bytes']})",
                 f"weights {s['weights_bytes']} bytes",
                 "seconds: " + ", ".join(f"{k} {v:.3f}" for k, v in d.seconds.items()),
                 "code from the cache on disk" if s["from_cache"] else "code made now"]
        if s["runtime"] == "tvm":
            lines.append("in memory, on TVM's slower runtime and thread pool: there is no C compiler (cc) here to link with")
        lines += [f"host op {name} at {loc or '?'}: {why}" for name, loc, why in self.host_ops]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"CompiledModel({', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}; {self.target.name})"


def compile_static(graph: Graph, target: Any, validate: bool = False) -> Compiled:
    """Passes, plan and machine code for a graph of concrete input shapes."""
    from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
    from graphopt.codegen.plan import plan
    from graphopt.codegen.x86 import style_of, templates_of

    start = time.perf_counter()
    optimised, results = optimise(graph, validate, X86Keeps(target))
    passes = time.perf_counter()
    program = plan(optimised, style_of(target), templates_of(target))
    planned = time.perf_counter()
    code = _build_code(program, target)
    seconds = {"passes": passes - start, "plan": planned - passes, "code": time.perf_counter() - planned}
    _announce(program)
    return Compiled(graph, optimised, results, program, code, seconds)


def _announce(program: Any) -> None:
    """Host ops are never silent."""
    if program.hosts:
        import logging

        names = sorted({h.op.name for h in program.hosts})
        logging.getLogger("graphopt").warning("%d op(s) run on the reference evaluator, not in a kernel: %s (see explain())",
                                              len(program.hosts), ", ".join(names))


def _build_code(program: Any, target: Any, each: bool = False, in_memory: bool = False) -> Any:
    from graphopt.codegen.tir.build import build

    return build(program, target, each, in_memory)


def link(compiled: Compiled, threads: int, each: Any = None) -> Executable:
    """Bind code, weights and host ops into something that runs. With `each`, one step per kernel call."""
    from graphopt.codegen.tir.build import stretches

    program, code = compiled.program, each or compiled.code
    functions = iter(code.functions if code.library is None else
                     runtime(*code.runtime).entries(code.library, code.names, threads))
    steps: list[Any] = []
    for part in stretches(program, each is not None):
        if isinstance(part, list):
            steps.append(next(functions))
        else:
            op = part.op
            steps.append(HostStep(partial(_evaluate, op),
                                  tuple(None if s is None else _place(s, v) for s, v in zip(part.args, op.operands)),
                                  tuple(_place(s, r) for s, r in zip(part.results, op.results)), op.name, part.why))
    outputs = []
    for v in compiled.graph.outputs:
        slot = program.slots.get(v)
        static = isinstance(v.type, TensorType) and v.type.is_static
        dynamic = not static or (slot is not None and slot.space == "host")
        host = _place(slot, v) if dynamic and slot is not None else None
        shape, dt = (v.type.static_shape, v.type.dtype.numpy) if static else (None, None)  # type: ignore[union-attr]
        outputs.append(OutputSpec(shape, dt, host))
    return Executable(steps, outputs, _weights(compiled, program), program.arena_size, len(compiled.graph.inputs))


def _evaluate(op: Any, arguments: list[Any], dims: dict[str, int]) -> list[Any]:
    """An op's results by the reference evaluator; dims that they show are known to later ones."""
    given = [x if v is None or v.constant is None else v.constant for v, x in zip(op.operands, arguments)]
    results = evaluate_op(op, given, dims)
    for r, value in zip(op.results, results):
        bind_symbols(r.type, value, dims, op.where(), check=False)
    return results


def _weights(compiled: Compiled, program: Any) -> np.ndarray:
    """The packed weights, made once per program."""
    if "weights" not in compiled.graph.metadata:
        compiled.graph.metadata["weights"] = program.pack_weights(aligned)
    return compiled.graph.metadata["weights"]


def _place(slot: Any, v: Value | None) -> Place:
    t = v.type if v is not None else None
    static = isinstance(t, TensorType) and t.is_static
    return Place(slot.space, slot.index, slot.offset, t.static_shape if static else None,  # type: ignore[union-attr]
                 t.dtype.numpy if isinstance(t, TensorType) else None)
