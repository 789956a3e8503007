"""The verifier: SSA dominance, use lists, attributes and types, with messages that point at the op."""

from __future__ import annotations

from graphopt.errors import IRError
from graphopt.ir.graph import Graph, Op, Value, refine
from graphopt.ir.types import TensorType


def verify(graph: Graph) -> None:
    """Raise IRError at the first broken rule. Near-linear in the number of ops."""
    _verify(graph, f"@{graph.name}")


def _verify(graph: Graph, path: str) -> None:
    defined: set[Value] = set(graph.inputs)
    previous = None
    for op in graph.ops:
        where = f"{path}: {op.where()}"
        if op.graph is not graph or op.prev is not previous:
            raise IRError("the list of ops is broken here", where=where)
        previous = op
        for i, v in enumerate(op.operands):
            if v is None:
                continue
            if v not in defined:
                raise IRError(f"operand {i} ({_describe(v)}) is not defined before its use", where=where)
            if (op, i) not in v.uses:
                raise IRError(f"operand {i} ({_describe(v)}) does not list this use", where=where)
        _verify_attributes(op, where)
        for region in op.regions:
            _verify(region, f"{where} > @{region.name}")
        _verify_types(op, where)
        for i, r in enumerate(op.results):
            if r.op is not op or r.index != i:
                raise IRError(f"result {i} does not know its producer", where=where)
        defined.update(op.results)
    for i, v in enumerate(graph.outputs):
        if v not in defined:
            raise IRError(f"output {i} ({_describe(v)}) is not a value of the graph", where=path)
        if (graph.return_op, i) not in v.uses:
            raise IRError(f"output {i} ({_describe(v)}) does not list this use", where=path)
    for v in defined:
        for user, i in v.uses:
            inside = user is graph.return_op or user.graph is graph
            if not inside or i >= len(user.operands) or user.operands[i] is not v:
                raise IRError(f"{_describe(v)} lists a use that is not there: operand {i} of {user.where()}", where=path)


def _verify_attributes(op: Op, where: str) -> None:
    if set(op.attrs) != {a.name for a in op.definition.attrs}:
        raise IRError(f"attributes are {sorted(op.attrs)}, the table says {[a.name for a in op.definition.attrs]}", where=where)
    for a in op.definition.attrs:
        try:
            same = a.check(op.attrs[a.name])
        except (TypeError, ValueError, IRError):
            same = ...
        if same is ... or type(same) is not type(op.attrs[a.name]):
            raise IRError(f"attribute {a.name}={op.attrs[a.name]!r} is not of kind {a.kind}", where=where)
    if len(op.regions) < len(op.definition.region_names):
        raise IRError(f"needs the regions {list(op.definition.region_names)}", where=where)


def _verify_types(op: Op, where: str) -> None:
    try:
        inferred = op.definition.infer(op.view())
    except IRError as e:
        raise IRError(e.what, where=where, hint=e.hint) from None
    if len(inferred) != len(op.results):
        raise IRError(f"has {len(op.results)} results, the table says {len(inferred)}", where=where)
    for i, (r, t) in enumerate(zip(op.results, inferred)):
        try:
            refine(r.type, t)
        except IRError:
            raise IRError(f"result {i} is {r.type}, but inference says {t}", where=where) from None
        layout = r.type.layout if isinstance(r.type, TensorType) else None
        if layout is not None and not r.dtype.holds(layout.fill):
            raise IRError(f"the border of result {i}, {r.type}: {layout.fill} is no {r.dtype}", where=where,
                          hint="Fill it with a number that the dtype has")


def _describe(v: Value) -> str:
    return f"%{v.name or '?'}: {v.type}"
