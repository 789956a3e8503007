"""Code, weights and host ops bound into something that runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from graphopt.codegen.program.interface import complex_places, interface
from graphopt.codegen.program.plan import Program, Slot
from graphopt.codegen.x86.build import Code, stretches
from graphopt.errors import CodegenError
from graphopt.ir.evaluate import bind_symbols, evaluate_op
from graphopt.ir.graph import Op, Value
from graphopt.ir.types import TensorType
from graphopt.runtime.host.executable import Executable, HostStep, OutputSpec, Place, aligned
from graphopt.runtime.host.library import runtime


def link(program: Program, code: Code, threads: int, stepwise: bool = False, room: int = 0) -> Executable:
    """Bind code, weights and host ops into something that runs. `stepwise`: the code has one function per kernel call; `room` is
    so many bytes behind the arena, which code that takes the time needs."""
    graph = program.graph
    try:
        functions = iter(code.functions if code.library is None or code.runtime is None else
                         runtime(*code.runtime).entries(code.library, code.names, threads))
    except OSError as e:
        raise CodegenError(f"the compiled program cannot be loaded: {e}", hint="Is the cache (GRAPHOPT_CACHE) on a file system "
                           "that allows code (exec)?") from e
    steps: list[Any] = []
    for part in stretches(program, stepwise):
        if isinstance(part, list):
            steps.append(next(functions))
        else:
            op = part.op
            steps.append(HostStep(partial(_evaluate, op),
                                  tuple(None if s is None else place(s, v) for s, v in zip(part.args, op.operands)),
                                  tuple(place(s, r) for s, r in zip(part.results, op.results)), op.name, part.why))
    outputs = []
    for v, (shape, dt) in zip(graph.outputs, interface(graph, "outputs")):
        slot = program.slots.get(v)
        dynamic = shape is None or (slot is not None and slot.space == "host")
        host = place(slot, v) if dynamic and slot is not None else None
        outputs.append(OutputSpec(shape, dt, host))
    return Executable(steps, outputs, _weights(program), program.arena_size + room,
                      interface(graph, "inputs"), _largest(program), complex_places(graph, "outputs"))


def _largest(program: Program) -> str:
    """The largest value between kernels, in words; empty where there is none."""
    inside = [(v.type.nbytes, v) for v, slot in program.slots.items()
              if slot.space == "arena" and isinstance(v.type, TensorType) and isinstance(v.type.nbytes, int)]
    if not inside:
        return ""
    size, v = max(inside, key=lambda of: of[0])
    at = f" at {', '.join(v.op.loc)}" if v.op is not None and v.op.loc else ""
    return f"the largest is %{v.name or '?'}{at}: {v.type}, {size} bytes"


def _evaluate(op: Op, arguments: list[Any], dims: dict[str, int]) -> list[Any]:
    """An op's results by the reference evaluator; dims that they show are known to later ones."""
    given = [x if v is None or v.constant is None else v.constant for v, x in zip(op.operands, arguments)]
    results = evaluate_op(op, given, dims)
    for r, value in zip(op.results, results):
        bind_symbols(r.type, value, dims, op.where(), check=False)
    return results


def _weights(program: Program) -> np.ndarray:
    """The packed weights, made once per program."""
    kept = program.graph.metadata
    if "weights" not in kept:
        kept["weights"] = program.pack_weights(aligned)
    return kept["weights"]


def place(slot: Slot, v: Value | None) -> Place:
    """Where the bytes of a row-major value lie."""
    t = v.type if v is not None else None
    static = isinstance(t, TensorType) and t.is_static
    return Place(slot.space, slot.index, slot.offset, t.static_shape if static else None,  # type: ignore[union-attr]
                 t.dtype.numpy if isinstance(t, TensorType) else None)


__all__ = ["link", "place"]
