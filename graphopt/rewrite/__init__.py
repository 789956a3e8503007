"""Graph to graph: the pattern matcher, the pass manager, and one file a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.graph import Graph
from graphopt.rewrite.absorb import Absorb
from graphopt.rewrite.batches import Batches
from graphopt.rewrite.bodies import Bodies
from graphopt.rewrite.canonicalise import Canonicalise
from graphopt.rewrite.context import Context, Reason
from graphopt.rewrite.cse import CommonSubexpressions
from graphopt.rewrite.dce import DeadCode
from graphopt.rewrite.decompose import Decompose
from graphopt.rewrite.fold import Fold
from graphopt.rewrite.fold_norm import FoldNorm
from graphopt.rewrite.forests import Forests
from graphopt.rewrite.fuse import Fuse
from graphopt.rewrite.gathers import Gathers
from graphopt.rewrite.heads import Heads
from graphopt.rewrite.inline import Inline
from graphopt.rewrite.join import Join
from graphopt.rewrite.layout import Layout
from graphopt.rewrite.manager import Pass, PassManager, PassResult, Results, Snapshots, WrongResult
from graphopt.rewrite.pointwise import Pointwise
from graphopt.rewrite.projections import Projections
from graphopt.rewrite.recognise import Recognise
from graphopt.rewrite.reshapes import Reshapes
from graphopt.rewrite.sequences import Sequences
from graphopt.rewrite.simplify import Simplify
from graphopt.rewrite.stream import Stream
from graphopt.rewrite.transposes import Transposes
from graphopt.rewrite.unroll import Unroll
from graphopt.rewrite.upsample import Upsample


def default_passes(target: Any = None, fuse: bool = True) -> list[Pass]:
    """The passes that every target begins with, in order. `target` answers `keeps(op)` (has it a kernel for this
    composite op?) and, if it likes, `row_kernel(op)`; None keeps no composite op. Without `fuse` the graph stays flat."""
    passes: list[Pass] = [
        Canonicalise(), Fold(), Simplify(), Gathers(), Fold(), Inline(), Sequences(), Bodies(), Unroll(),
        CommonSubexpressions(), Forests(), DeadCode(), Recognise(), FoldNorm(), Transposes(),
        Decompose(target), Upsample(), Pointwise(), Canonicalise(), Fold(), Simplify(), FoldNorm(), Transposes(), Gathers(),
        Reshapes(), Fold(), Bodies(), Fold(),
        CommonSubexpressions(), DeadCode(),
    ]
    if not fuse:
        return passes
    return [*passes, Projections(), Heads(), DeadCode(), Fuse(), DeadCode(), Layout(), Stream(), Absorb(), Join(), Batches()]


def optimise(graph: Graph, passes: Sequence[Pass] | None = None, *, target: Any = None, **manager: Any) -> Results:
    """Run `passes` (default: `default_passes(target)`) on `graph`, in place. Keywords go to PassManager."""
    return PassManager(default_passes(target) if passes is None else passes, **manager).run(graph, Context(target))


__all__ = [
    "Absorb", "Batches", "Bodies", "Canonicalise", "CommonSubexpressions", "Context", "DeadCode", "Decompose", "Fold",
    "FoldNorm", "Forests", "Fuse", "Gathers", "Heads", "Inline", "Join", "Layout", "Pass", "PassManager", "PassResult",
    "Pointwise", "Projections", "Reason", "Recognise", "Reshapes", "Results", "Sequences", "Simplify", "Snapshots", "Stream",
    "Transposes", "Unroll", "Upsample", "WrongResult", "default_passes", "optimise",
]
