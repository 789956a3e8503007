"""The graph around every pass, as data: each op once, however many snapshots show it, and what every pass did to it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from graphopt.cli.page.modules import Modules
from graphopt.ir import Graph, Op, Value
from graphopt.ir.fused import held
from graphopt.ir.graph import Tensor
from graphopt.ir.table import Trait
from graphopt.ir.text import value_names

INLINE = 8  # elements of a constant that are shown
KINDS = ((Trait.CONTRACTION, "contraction"), (Trait.CONTROL, "control"), (Trait.ELEMENTWISE, "elementwise"),
         (Trait.MOVEMENT | Trait.VIEW, "movement"), (Trait.REDUCTION, "reduction"), (Trait.COMPOSITE, "composite"))


def kind_of(op: Op) -> str:
    """The colour an op has, by its first trait of those above."""
    return next((kind for trait, kind in KINDS if op.definition.has(trait)), "other")


class Snapshots:
    """Hooks for the pass manager. Ops are told apart by identity, so that an op that a pass left alone stays the same one.

    `records` are lists [number, op, operands, results as [name, type], attributes, locations, module, regions]; names are those
    of the text form, types, locations and modules stand in `types`, `locs` and `modules`. A snapshot is the inputs, the
    records of its ops in order and the outputs; `passes` say which snapshot each left, with the numbers of the ops it added,
    removed and altered (an op that took the place of another keeps the name of its result: that is an alteration).
    """

    def __init__(self, modules: Modules) -> None:
        self.find_module = modules
        self.records: list[list[Any]] = []
        self.snapshots: list[dict[str, Any]] = []
        self.passes: list[dict[str, Any]] = []
        self.types: dict[str, int] = {}
        self.locs: dict[str, int] = {}
        self.modules: dict[str, int] = {"": 0}
        self.kinds: dict[str, str] = {}
        self._numbers: dict[Op, int] = {}  # holds the ops, so that none is taken for another that is gone
        self._known: dict[Any, int] = {}
        self._essence: dict[int, Any] = {}
        self._text = ""

    def before(self, name: str, graph: Graph) -> None:
        if not self.snapshots:
            self._text = str(graph)
            self.snapshots.append(self._graph(graph)[0])
            self._essence = self._graph(graph)[1]

    def after(self, name: str, graph: Graph) -> None:
        runs = sum(p["name"] == name for p in self.passes)
        entry: dict[str, Any] = {"name": name, "run": runs + 1}
        snapshot, essence = self._graph(graph)
        if snapshot != self.snapshots[-1]:
            text = str(graph)
            entry |= self._changes(self.snapshots[-1], snapshot, self._essence, essence)
            entry["diff"] = "".join(difflib.unified_diff(self._text.splitlines(True), text.splitlines(True),
                                                         f"before {name}", f"after {name}"))
            self._text, self._essence = text, essence
            self.snapshots.append(snapshot)
        entry["snapshot"] = len(self.snapshots) - 1
        self.passes.append(entry)

    def number(self, op: Op) -> int:
        """What tells this op from all others, in all snapshots."""
        return self._numbers.setdefault(op, len(self._numbers))

    def data(self) -> dict[str, Any]:
        return {"records": self.records, "snapshots": self.snapshots, "passes": self.passes, "types": list(self.types),
                "locs": list(self.locs), "modules": list(self.modules), "kinds": self.kinds}

    # One snapshot
    def _graph(self, graph: Graph) -> tuple[dict[str, Any], dict[int, Any]]:
        names = value_names(graph)
        essence: dict[int, Any] = {}
        ops = []
        for op in graph.ops:
            ops.append(self._record(op, names))
            essence[self.number(op)] = _essence(op, self.number)
        inputs = [[names[v], self._type(v)] for v in graph.inputs]
        return {"name": graph.name, "inputs": inputs, "ops": ops, "outputs": [names[v] for v in graph.outputs]}, essence

    def _record(self, op: Op, names: Mapping[Value, str]) -> int:
        self.kinds.setdefault(op.name, kind_of(op))
        regions = [self._graph(r)[0] for r in op.regions]
        module = self.modules.setdefault(self.find_module(op), len(self.modules))
        record = [self.number(op), op.name, [None if v is None else names[v] for v in op.operands],
                  [[names[r], self._type(r)] for r in op.results], _attributes(op),
                  [self.locs.setdefault(p, len(self.locs)) for p in op.loc], module, regions]
        key = repr(record)
        if key not in self._known:
            self._known[key] = len(self.records)
            self.records.append(record)
        return self._known[key]

    def _type(self, v: Value) -> int:
        return self.types.setdefault(str(v.type), len(self.types))

    # Two of them
    def _changes(self, old: Mapping[str, Any], new: Mapping[str, Any], before: Mapping[int, Any],
                 after: Mapping[int, Any]) -> dict[str, Any]:
        """Numbers added and removed, and [number, record it had] of those altered."""
        was = {self.records[r][0]: r for r in old["ops"]}
        gone = {self.records[r][3][0][0]: r for r in old["ops"] if self.records[r][0] not in after and self.records[r][3]}
        added, altered, replaced = [], [], set()
        for r in new["ops"]:
            number, results = self.records[r][0], self.records[r][3]
            if number in before:
                if before[number] != after[number]:
                    altered.append([number, was[number]])
            elif results and results[0][0] in gone:
                earlier = gone.pop(results[0][0])
                replaced.add(self.records[earlier][0])
                altered.append([number, earlier])
            else:
                added.append(number)
        removed = [n for n in before if n not in after and n not in replaced]
        return {"added": added, "removed": removed, "altered": altered}


def _essence(op: Op, number: Any) -> Any:
    """What an op is, whatever the values without names are called by now."""
    operands = [None if v is None else v.name if v.name is not None or v.op is None else (number(v.op), v.index)
                for v in op.operands]
    types = [(r.name, str(r.type)) for r in op.results]
    return (op.name, operands, types, _attributes(op), op.loc, [str(r) for r in op.regions])


def _attributes(op: Op) -> list[list[str]]:
    return [[k, _shown(v)] for k, v in op.attrs.items() if v is not None]


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        small = value.array is not None and value.array.size <= INLINE and value.array.dtype != np.object_
        return str(value.array.tolist()) if small and value.array is not None else f"@{value.name or 'constant'}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def bodies(ops: Iterable[Op]) -> Iterable[Op]:
    """The ops that compute: those in the body of a fused op instead of itself."""
    for op in ops:
        yield from (o for o in held(op) if o is op or o.name != "const")


__all__ = ["Snapshots", "bodies", "kind_of"]
