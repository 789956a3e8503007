"""The finished program as data: its steps, kernels, memory, and what was measured of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from os import sched_getaffinity
from typing import TYPE_CHECKING, Any

from graphopt.cli.page.assembly import counts, hot_loop, listing, loops
from graphopt.codegen.program.steps import calls
from graphopt.errors import CodegenError, EvaluationError
from graphopt.ir.graph import Graph
from graphopt.ir.types import TensorType
from graphopt.measure.profiling import called, on_evaluator

if TYPE_CHECKING:
    from graphopt.backends.x86.static import Compiled
    from graphopt.codegen.program.plan import Program
    from graphopt.rewrite import Results
    from graphopt.targets import Target
    from graphopt.targets.x86 import X86


@dataclass(frozen=True)
class Built:
    """What is shown of a program: the plan, whose steps are ops of the page's last snapshot, and the texts of its kernels."""

    plan: Program
    kernels: list[dict[str, Any]]
    notes: list[str]
    profile: Mapping[str, Any] | None = None


def build_program(graph: Graph, captured: Graph, results: Results, target: X86, arrays: Sequence[Any], runs: bool) -> Built:
    """Plan, code and times of an optimised graph of static shapes; `runs` says whether this machine can run it."""
    from graphopt.backends.x86 import static
    from graphopt.codegen.x86.build import build
    from graphopt.codegen.x86.listing import kernel_texts
    from graphopt.measure.records import Records

    records = Records.load()
    program = static.plan_static(graph, results, target, records)
    with ThreadPoolExecutor(len(sched_getaffinity(0))) as workers:
        texts = list(workers.map(lambda kernel: kernel_texts(kernel, target), program.kernels))
    kernels = [{"name": kernel.name, "texts": [tir_data(tir), asm_data(asm)]}
               for kernel, (tir, asm) in zip(program.kernels, texts)]
    if not runs:
        return Built(program, kernels, [f"No times: code for {target.name} does not run on the machine that wrote this page."])
    code = build(program, target)
    compiled = static.Compiled(captured, graph, results, program, code, {}, None, records)
    try:
        profile, notes = measure(compiled, target, arrays)
    except EvaluationError as e:
        return Built(program, kernels, [f"No times: the program does not run on these inputs ({e}); give others with --inputs."])
    return Built(program, kernels, notes, profile)


def build_emitted(graph: Graph, target: Target) -> Built:
    """Plan and source of a program for a GPU or an FPGA, which is not run."""
    from graphopt.backends.emitted import emit

    model = emit(graph, target)
    plan, language = model._plan, model.forms[0]
    text = model.source(language)
    kernels = [{"name": k.name, "texts": [{"language": language, "lines": _function(text, k.name)}]}
               for k in plan.kernels]
    return Built(plan, kernels, [f"No times: a program for {target.name} does not run on the machine that wrote this page."])


def tir_data(text: str) -> dict[str, Any]:
    """TVM's script of one kernel, without the module around it."""
    lines = text.splitlines()
    first = next((k for k, line in enumerate(lines) if "@T.prim_func" in line), 0)
    return {"language": "TIR", "lines": [line[4:] if line.startswith("    ") else line for line in lines[first:]]}


def asm_data(text: str) -> dict[str, Any]:
    """The listing of one kernel, its loops as [first, last, depth], and what stands in the hot one."""
    lines = listing(text)
    hot = hot_loop(lines)
    data: dict[str, Any] = {"language": "assembly", "lines": lines, "loops": [[p.first, p.last, p.depth] for p in loops(lines)]}
    if hot is not None:
        data |= {"hot": [hot.first, hot.last], "counts": counts(lines[hot.first:hot.last + 1])}
    return data


def _function(text: str, name: str) -> list[str]:
    """A function of C++ source with the comment above it, by its name; it ends with a brace at the beginning of a line."""
    lines = text.splitlines()
    begin = re.compile(rf"^\S.*\b{re.escape(name)}\(.*\{{$")
    first = next((k for k, line in enumerate(lines) if begin.match(line)), None)
    if first is None:
        raise CodegenError(f"the source has no function {name}", hint="This is a bug in graphopt; please report it")
    last = next((k for k in range(first, len(lines)) if lines[k].startswith("}")), len(lines) - 1)
    above = first - 1 if first and lines[first - 1].startswith("//") else first
    return lines[above:last + 1]


# What was measured ------------------------------------------------------------------------------
def measure(compiled: Compiled, target: X86, arrays: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """Median seconds of every step and of whole calls, with floors where the machine's peaks can be had; and what is amiss."""
    from graphopt.measure import peaks, profiling

    notes = []
    found = profiling.profile(compiled, target, arrays)
    try:
        limits = peaks.here(target.threads)
    except CodegenError as e:
        limits = None
        notes.append(f"No floors and no roofline: {e}")
    rows = []
    for row in found.rows:
        floor = found.floor(row, limits) if limits is not None else None
        rows.append({k: v for k, v in asdict(row).items() if k in ("kind", "what", "seconds", "low", "high", "operations",
                                                                   "weights", "activations", "dtype")}
                    | {"floor": floor[0] if floor else None, "bound": floor[1] if floor else None})
    return {"rows": rows, "call": found.call, "runs": found.runs, "threads": found.threads,
            "peaks": None if limits is None else {"rates": dict(limits.rates), "bandwidths": dict(limits.bandwidths),
                                                  "sizes": dict(limits.sizes)}}, notes


# Steps and memory -------------------------------------------------------------------------------
def steps(plan: Any, number: Any) -> list[dict[str, Any]]:
    """The calls in order: the number of the op, that of the kernel (none for an op on the evaluator, which says why, and for a
    branch or loop, which says what it is), and where operands and results lie as [space, index, offset]."""
    at = {k.name: i for i, k in enumerate(plan.kernels)}
    out = []
    for s in plan.steps:
        kernel = getattr(s, "kernel", None)
        data: dict[str, Any] = {"op": number(s.op), "name": s.op.name, "loc": list(s.op.loc)}
        if kernel is not None:
            data |= {"kernel": at[kernel.name], "args": [[a.space, a.index, a.offset] for a in s.args], "inputs": kernel.inputs}
        elif on_evaluator(s):
            data |= {"why": s.why}
        else:
            data |= {"control": called(s), "kernels": sorted({at[c.kernel.name] for c in calls([s])})}
        out.append(data)
    return out


def memory(plan: Any, names: Mapping[Any, str], number: Any) -> dict[str, Any]:
    """The arena: of every block its first and last step, offset and bytes, and what lies in it (empty: scratch of a kernel)."""
    at = {s.op: k for k, s in enumerate(plan.steps)}
    placed: dict[int, list[Any]] = {}
    for v, slot in plan.slots.items():
        if slot.space == "arena" and v.op is not None and isinstance(v.type, TensorType):
            placed.setdefault(at.get(v.op, -1), []).append((slot.offset, v))
    blocks = []
    for first, last, offset, size in plan.lifetimes:
        inside = [v for place, v in placed.get(first, ()) if offset <= place < offset + size]
        owner = inside[0] if inside else None
        blocks.append([first, last, offset, size, "" if owner is None else names.get(owner, ""),
                       None if owner is None else number(owner.op)])
    return {"size": plan.arena_size, "bound": plan.arena_bound, "weights": plan.weights_size, "blocks": blocks,
            "steps": len(plan.steps)}


__all__ = ["Built", "asm_data", "build_emitted", "build_program", "measure", "memory", "steps", "tir_data"]
