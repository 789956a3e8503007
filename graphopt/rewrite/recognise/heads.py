"""Splitting and merging heads, taken into the attention kernel."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Op, Value
from graphopt.rewrite.engine.body import Body
from graphopt.rewrite.engine.common import static_shape
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass

BEFORE = frozenset(("transpose", "reshape", "slice", "expand", "split"))
AFTER = frozenset(("transpose", "reshape"))
REACH = 12  # movement ops in a row that are followed


class Heads(GraphPass):
    """Before: attention ops stand only where the target has a kernel for them, with transposes, reshapes and slices around
    them that split a projection into heads and merge their results. After: attention and those are one `fused` op of
    kind="attention": its kernel reads and writes where they lead to, and no transposed copy is made."""

    name = "heads"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        for op in list(graph.ops):
            if op.name != "attention" or not _known(op):
                continue
            after = _after(op, graph)
            before = {v: chain for v in op.operands if v is not None and (chain := _before(v))}
            if not after and not before:
                continue
            if not context.take("take the heads' movement into attention", op):
                break
            _build(op, before, after, context)
            changed = True
        return changed


def _known(op: Op) -> bool:
    return all(v is None or static_shape(v) is not None for v in (*op.operands, *op.results))


def _before(v: Value) -> list[Op]:
    """The movement ops that lead to an operand, first one first. They may have other users, for which they stay."""
    chain: list[Op] = []
    while v.op is not None and v.op.name in BEFORE and _known(v.op) and len(chain) < REACH and v.op.operands[0] is not None:
        chain.append(v.op)
        v = v.op.operands[0]
    while chain and chain[-1].name == "reshape":
        chain.pop()  # a view anyway
    return chain[::-1]


def _after(op: Op, graph: Graph) -> list[Op]:
    """The movement ops that all of the result goes through."""
    chain: list[Op] = []
    v = op.result
    while v not in graph.outputs and len(v.uses) == 1 and v.users[0].name in AFTER and _known(v.users[0]):
        chain.append(v.users[0])
        v = v.users[0].result
    while chain and chain[-1].name == "reshape":
        chain.pop()
    return chain


def _build(op: Op, before: dict[Value, list[Op]], after: list[Op], context: Context) -> None:
    body = Body()
    for o in (*(o for chain in before.values() for o in chain), op, *after):
        if o.results[0] not in body.inside:
            body.copy(o)
    last = after[-1] if after else op
    members = [*(o for chain in before.values() for o in chain), op, *after]
    context.because(last, f"fused ({', '.join(o.name for o in members)}): the kernel reads and writes heads where they lie")
    body.finish(last, "attention", members)
    for o in reversed((op, *after[:-1]) if after else ()):
        o.erase()
