"""A graph of concrete shapes to a program: passes, plan, machine code, and what runs it. Read after compiler.py."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

from graphopt.backends.base import backend_of
from graphopt.backends.pipeline import check_data, check_sizes, of_ours, optimise
from graphopt.codegen.program.plan import Program, WeightBlock, plan
from graphopt.codegen.x86.build import Code, build
from graphopt.ir.graph import Graph
from graphopt.measure import tuner
from graphopt.measure.records import Records, from_records, record_key
from graphopt.rewrite import Reason, Results
from graphopt.ship.crash import guarding
from graphopt.targets.x86 import X86

log = logging.getLogger("graphopt")


@dataclass
class Compiled:
    """The compiler's record of one program: what `source`, `explain` and `profile` read."""

    source_graph: Graph
    graph: Graph
    results: Results
    program: Program
    code: Code
    seconds: dict[str, float]
    tune: str | None = None  # how its kernels' parameters were measured for it
    records: Records = field(default_factory=lambda: Records(None))  # of measurements, that it was made with


@guarding
def compile_static(graph: Graph, target: X86, validate: bool = False, tune: str | None = None,
                   records: Records | None = None, block: WeightBlock | None = None, announce: bool = True) -> Compiled:
    """Passes, plan and machine code for a graph of concrete input shapes. Templates decide as `records` say, to which
    `tune` adds what it measures. In `block` the weights lie beside those of other programs. `announce`: say which ops
    run outside of kernels. IRError where the graph's constants are not all there.
    """
    check_data(graph)
    check_sizes(graph)
    start = time.perf_counter()
    optimised, results = optimise(graph, target, validate)
    passes = time.perf_counter()
    records = records or Records(None)
    with of_ours():
        if tune is not None:
            measure(optimised, target, tune, records)
        tuned = time.perf_counter()
        program = plan_static(optimised, results, target, records, block)
        if validate:
            program.verify()
        planned = time.perf_counter()
        code = build(program, target)
    seconds = {"passes": passes - start, **({"tune": tuned - passes} if tune else {}), "plan": planned - tuned,
               "code": time.perf_counter() - planned}
    if announce:
        _announce(program)
    return Compiled(graph, optimised, results, program, code, seconds, tune, records)


def measure(optimised: Graph, target: X86, tune: str, records: Records) -> None:
    """Add to the records what they lack of the graph's kernels, by measuring."""
    tuner.tune(optimised, target, tune, records)


def plan_static(optimised: Graph, results: Results, target: X86, records: Records,
                block: WeightBlock | None = None) -> Program:
    """The program of an optimised graph; how its parameters were chosen joins the reasons of the passes."""
    backend = backend_of(target)
    program = plan(optimised, backend.style(target), backend.templates(target),
                   from_records(records, target.name, target.threads), block)
    for call, text in zip(program.calls, parameters(program, records, target)):
        if text:
            names = tuple(r.name for r in call.op.results if r.name)
            results.context.reasons.append(Reason("tuning", call.op.name, names, call.op.loc, text))
    return program


def _announce(program: Program) -> None:
    """Host ops are never silent."""
    if program.hosts:
        names = sorted({h.op.name for h in program.hosts})
        log.warning("%d op(s) run on the reference evaluator, not in a kernel: %s (see explain())", len(program.hosts),
                    ", ".join(names))


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


def decisions(d: Compiled, target: X86) -> str:
    """The target, what the passes did, and which parameters the kernels have."""
    texts = parameters(d.program, d.records, target)
    said = dict.fromkeys(f"{c.kernel.name}: {text}" for c, text in zip(d.program.calls, texts) if text)
    lines = [f"target {target.name}, {target.threads} threads, {target.lanes} f32 lanes", str(d.results)]
    return "\n".join([*lines, "", "parameters of kernels", *said] if said else lines)


def parameters(program: Program, records: Records, target: X86) -> list[str]:
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
