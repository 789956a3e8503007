"""A graph of concrete shapes to a program: passes, plan, machine code, and what runs it. Read after compiler.py."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import CodegenError
from graphopt.ir.evaluate import bind_symbols, evaluate_op
from graphopt.ir.graph import Graph, Value
from graphopt.ir.types import TensorType
from graphopt.pipeline import X86Keeps, check_data, check_sizes, complex_places, interface, of_ours, optimise
from graphopt.records import Records, from_records, record_key
from graphopt.repro import guarding
from graphopt.rewrite.context import Reason
from graphopt.runtime.executable import Executable, HostStep, OutputSpec, Place, aligned
from graphopt.runtime.library import runtime

if TYPE_CHECKING:
    from graphopt.codegen.plan import WeightBlock


@dataclass
class Compiled:
    """The compiler's record of one program: what `source`, `explain` and `profile` read."""

    source_graph: Graph
    graph: Graph
    results: Any  # rewrite.Results
    program: Any  # codegen.plan.Program
    code: Any  # codegen.tir.build.Code
    seconds: dict[str, float]
    tune: str | None = None  # how its kernels' parameters were measured for it
    records: Records = field(default_factory=lambda: Records(None))  # of measurements, that it was made with


@guarding
def compile_static(graph: Graph, target: Any, validate: bool = False, tune: str | None = None,
                   records: Records | None = None, block: WeightBlock | None = None, announce: bool = True) -> Compiled:
    """Passes, plan and machine code for a graph of concrete input shapes. Templates decide as `records` say, to which
    `tune` adds what it measures. In `block` the weights lie beside those of other programs. `announce`: say which ops
    run outside of kernels. IRError where the graph's constants are not all there.
    """
    check_data(graph)
    check_sizes(graph)
    start = time.perf_counter()
    optimised, results = optimise(graph, validate, X86Keeps(target))
    passes = time.perf_counter()
    records = records or Records(None)
    with of_ours():
        if tune is not None:
            measure(optimised, target, tune, records)
        tuned = time.perf_counter()
        program = plan_static(optimised, results, target, records, block)
        planned = time.perf_counter()
        code = build_code(program, target)
    seconds = {"passes": passes - start, **({"tune": tuned - passes} if tune else {}), "plan": planned - tuned,
               "code": time.perf_counter() - planned}
    if announce:
        _announce(program)
    return Compiled(graph, optimised, results, program, code, seconds, tune, records)


def measure(optimised: Graph, target: Any, tune: str, records: Records) -> None:
    """Add to the records what they lack of the graph's kernels, by measuring."""
    from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
    from graphopt.tuner import tune as run

    run(optimised, target, tune, records)


def plan_static(optimised: Graph, results: Any, target: Any, records: Records, block: WeightBlock | None = None) -> Any:
    """The program of an optimised graph; how its parameters were chosen joins the reasons of the passes."""
    from graphopt.codegen import lower  # noqa: F401  (fills the lowering tables)
    from graphopt.codegen.plan import plan
    from graphopt.codegen.x86 import style_of, templates_of

    program = plan(optimised, style_of(target), templates_of(target), from_records(records, target.name, target.threads),
                   block)
    for call, text in zip(program.calls, parameters(program, records, target)):
        if text:
            names = tuple(r.name for r in call.op.results if r.name)
            results.context.reasons.append(Reason("tuning", call.op.name, names, call.op.loc, text))
    return program


def _announce(program: Any) -> None:
    """Host ops are never silent."""
    if program.hosts:
        import logging

        names = sorted({h.op.name for h in program.hosts})
        logging.getLogger("graphopt").warning("%d op(s) run on the reference evaluator, not in a kernel: %s (see explain())",
                                              len(program.hosts), ", ".join(names))


def build_code(program: Any, target: Any, each: bool = False, in_memory: bool = False, marks: bool = False) -> Any:
    from graphopt.codegen.tir.build import build

    return build(program, target, each, in_memory, marks)


def link(compiled: Compiled, threads: int, each: Any = None, marked: Any = None, room: int = 0) -> Executable:
    """Bind code, weights and host ops into something that runs. With `each`, code of one step per kernel call; with `marked`,
    code that takes the time, which needs so many bytes of `room` behind the arena."""
    from graphopt.codegen.tir.build import stretches

    program, code = compiled.program, each or marked or compiled.code
    try:
        functions = iter(code.functions if code.library is None else
                         runtime(*code.runtime).entries(code.library, code.names, threads))
    except OSError as e:
        raise CodegenError(f"the compiled program cannot be loaded: {e}", hint="Is the cache (GRAPHOPT_CACHE) on a file system "
                           "that allows code (exec)?") from e
    steps: list[Any] = []
    for part in stretches(program, each is not None):
        if isinstance(part, list):
            steps.append(next(functions))
        else:
            op = part.op
            steps.append(HostStep(partial(_evaluate, op),
                                  tuple(None if s is None else place(s, v) for s, v in zip(part.args, op.operands)),
                                  tuple(place(s, r) for s, r in zip(part.results, op.results)), op.name, part.why))
    outputs = []
    for v, (shape, dt) in zip(compiled.graph.outputs, interface(compiled.graph, "outputs")):
        slot = program.slots.get(v)
        dynamic = shape is None or (slot is not None and slot.space == "host")
        host = place(slot, v) if dynamic and slot is not None else None
        outputs.append(OutputSpec(shape, dt, host))
    return Executable(steps, outputs, _weights(compiled, program), program.arena_size + room,
                      interface(compiled.graph, "inputs"), _largest(program), complex_places(compiled.graph, "outputs"))


def _largest(program: Any) -> str:
    """The largest value between kernels, in words; empty where there is none."""
    inside = [v for v, slot in program.slots.items()
              if slot.space == "arena" and isinstance(v.type, TensorType) and v.type.is_static]
    if not inside:
        return ""
    v = max(inside, key=lambda v: v.type.nbytes)  # type: ignore[union-attr]
    at = f" at {', '.join(v.op.loc)}" if v.op is not None and v.op.loc else ""
    return f"the largest is %{v.name or '?'}{at}: {v.type}, {v.type.nbytes} bytes"  # type: ignore[union-attr]


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


def place(slot: Any, v: Value | None) -> Place:
    """Where the bytes of a row-major value lie."""
    t = v.type if v is not None else None
    static = isinstance(t, TensorType) and t.is_static
    return Place(slot.space, slot.index, slot.offset, t.static_shape if static else None,  # type: ignore[union-attr]
                 t.dtype.numpy if isinstance(t, TensorType) else None)


# What a program says of itself ------------------------------------------------------------------
def statistics(d: Compiled) -> dict[str, Any]:
    """Counts and sizes: ops, kernels, host ops, operations, bytes, arena, weights, seconds."""
    operations, moved = 0, 0
    for op in d.source_graph.ops:
        a, b = op.definition.cost(op.view(), [r.type for r in op.results])
        operations += a if isinstance(a, int) else 0
        moved += b if isinstance(b, int) else 0
    return {"ops": len(d.source_graph), "ops_after": len(d.graph), "kernels": len(d.program.kernels),
            "calls": len(d.program.calls), "host_ops": len(d.program.hosts), "operations": operations, "bytes": moved,
            "arena_bytes": d.program.arena_size, "arena_lower_bound_bytes": d.program.arena_bound,
            "weights_bytes": d.program.weights_size, "seconds": d.seconds, "from_cache": d.code.from_cache,
            "loaded": False, "runtime": "tvm" if d.code.in_memory else "graphopt"}


def decisions(d: Compiled, target: Any) -> str:
    """The target, what the passes did, and which parameters the kernels have."""
    texts = parameters(d.program, d.records, target)
    said = dict.fromkeys(f"{c.kernel.name}: {text}" for c, text in zip(d.program.calls, texts) if text)
    lines = [f"target {target.name}, {target.threads} threads, {target.lanes} f32 lanes", str(d.results)]
    return "\n".join([*lines, "", "parameters of kernels", *said] if said else lines)


def parameters(program: Any, records: Records, target: Any) -> list[str]:
    """Of every kernel call how its template's parameters were chosen; empty where there was nothing to choose."""
    texts = {}
    for name, (key, picks) in program.picks.items():
        record = records.get(record_key(target.name, target.threads, key))
        chosen = ", ".join(f"{kind} {text}" for kind, text in picks.answers.items())
        if not picks.open:
            texts[name] = ""
        elif record is None:
            texts[name] = f"{chosen}, by the model"
        elif picks.changed:
            texts[name] = f"{chosen}, the best of {record.tried} measured ({record.mode}): {1e6 * record.seconds:.4g} us, " \
                          f"the model's choice {1e6 * record.analytic_seconds:.4g} us ({record.gain:.2f}x)"
        elif all(picks.answers.get(kind) == text for kind, text in record.choices.items()):
            texts[name] = f"{chosen}, by the model, and none of {record.tried} measured ({record.mode}) is faster"
        else:
            texts[name] = f"{chosen}, by the model: what was recorded ({', '.join(record.choices.values())}) is no candidate here"
    return [texts[c.kernel.name] for c in program.calls]
