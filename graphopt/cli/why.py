"""What became of one value, and for what reasons."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from graphopt.cli.models import UsageError
from graphopt.ir import Graph, Op, Value
from graphopt.ir.text import value_names
from graphopt.rewrite import Reason

if TYPE_CHECKING:
    from graphopt.codegen.program.plan import Program


def why(wanted: str, before: Graph, after: Graph, reasons: Iterable[Reason], program: Program | None = None) -> str:
    """The ops behind `wanted` (a value's name, with or without %, or a source location) in both graphs, the kernels of `program`
    (where there is one) that compute them, and every reason.

    Raises UsageError, with the nearest names, where neither graph nor any reason knows it.
    """
    name = wanted.removeprefix("%")
    places = {"as captured": list(_find(before, name)), "after the passes": list(_find(after, name))}
    locs = {p for found in places.values() for _, op in found if op is not None for p in op.loc}
    said = [r for r in reasons if name in r.names or locs & set(r.loc) or any(_within(name, p) for p in r.loc)]
    if not said and not any(places.values()):
        known = {n for graph in (before, after) for n in _known(graph)}
        near = difflib.get_close_matches(name, sorted(known), 3, 0.5)
        raise UsageError(f"no value or source location {wanted!r}; "
                         f"{'did you mean ' + ' or '.join(near) if near else 'see --after capture and --emit ir'}?")
    lines: list[str] = []
    for place, found in places.items():
        lines.append(f"{place}:" if found else f"{place}: nothing of that name")
        lines += [f"  {line}" for line, _ in found]
    if program is not None:
        lines += _steps(program, {op for _, op in places["after the passes"]})
    lines.append("because:" if said else "no pass has said anything about it")
    lines += [f"  {r}" for r in dict.fromkeys(map(str, said))]
    return "\n".join(lines) + "\n"


def _steps(program: Program, ops: set[Op | None]) -> list[str]:
    """The steps of a program that compute any of these ops."""
    if program is None:
        return []
    from graphopt.measure.profiling import called, describe, made_by, on_evaluator

    lines = []
    for k, step in enumerate(program.steps):
        if _computes(step, ops):
            kernel = getattr(step, "kernel", None)
            name = f"kernel {kernel.name}, made by {made_by(step)}" if kernel else \
                "on the reference evaluator" if on_evaluator(step) else called(step)
            slots = [program.slots[r] for r in step.op.results if r in program.slots]
            at = ", ".join(f"{s.space} at byte {s.offset}" if s.space == "arena" else f"{s.space} {s.index}" for s in slots)
            result = f"; result in {at}" if at else ""
            lines.append(f"  step {k + 1} of {len(program.steps)}, {name}: {describe(step.op)}{result}")
            lines += [f"    in it, {called(s)}: {describe(s.op)}" for s in _inside(step) if step.op in ops or _computes(s, ops)]
    return ["computed by:", *lines] if lines else []


def _computes(step: Any, ops: set[Op | None]) -> bool:
    held = (o for region in step.op.regions for o in region.walk())
    return step.op in ops or any(o in ops for o in held)


def _inside(step: Any) -> Iterator[Any]:
    """The kernels, and the branches and loops around them, in a branch or loop; in order."""
    from graphopt.codegen.program.steps import parts

    for part in parts(step):
        for s in part:
            yield s
            yield from _inside(s)


def _within(name: str, loc: str) -> bool:
    """Is `loc` that location or inside of it?"""
    return loc == name or loc.startswith((name + "/", name + "."))


def _find(graph: Graph, name: str, path: str = "") -> Iterator[tuple[str, Op | None]]:
    names = value_names(graph)
    for v in graph.values():
        if names[v] == name or v.name == name or (v.op is not None and v.index == 0 and any(_within(name, p) for p in v.op.loc)):
            yield f"{path}{_describe(v, names, graph)}", v.op
    for op in graph.ops:
        for region in op.regions:
            at = f"%{names[op.results[0]]}" if op.results else op.name
            yield from _find(region, name, f"{path}in {op.name} {at}: ")


def _describe(v: Value, names: dict[Value, str], graph: Graph) -> str:
    uses = [f"%{names[u.results[0]]} ({u.name})" if u is not graph.return_op and u.results else u.name for u in v.users]
    shown = f"; used by {', '.join(uses[:5])}{f' and {len(uses) - 5} more' if len(uses) > 5 else ''}" if uses else "; not used"
    if v.op is None:
        return f"%{names[v]}: {v.type}, an input{shown}"
    operands = ", ".join("_" if o is None else f"%{names[o]}" for o in v.op.operands)
    at = f", from {', '.join(v.op.loc)}" if v.op.loc else ""
    return f"%{names[v]}: {v.type} = {v.op.name}({operands}){at}{shown}"


def _known(graph: Graph) -> Iterator[str]:
    yield from value_names(graph).values()
    for op in graph.walk():
        yield from op.loc
        for region in op.regions:
            yield from value_names(region).values()
