"""Dead code."""

from __future__ import annotations

from graphopt.ir.graph import Graph
from graphopt.ir.live import is_dead
from graphopt.rewrite.engine.context import Context
from graphopt.rewrite.engine.manager import GraphPass


class DeadCode(GraphPass):
    """Before: any graph. After: every op has a result that is used, or that alone shows a size which other ops name."""

    name = "dce"

    def run_on(self, graph: Graph, context: Context) -> bool:
        changed = False
        op = graph.last
        while op is not None:
            previous = op.prev
            if is_dead(op) and context.take("dead op", op):
                op.erase()
                changed = True
            op = previous
        return changed
