"""Graph to graph: the pattern matcher, the pass manager, and one file a pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphopt.ir.graph import Graph
from graphopt.rewrite.clean.bodies import Bodies
from graphopt.rewrite.clean.canonicalise import Canonicalise
from graphopt.rewrite.clean.cse import CommonSubexpressions
from graphopt.rewrite.clean.dce import DeadCode
from graphopt.rewrite.clean.fold import Fold
from graphopt.rewrite.clean.fold_norm import FoldNorm
from graphopt.rewrite.clean.gathers import Gathers
from graphopt.rewrite.clean.inline import Inline
from graphopt.rewrite.clean.reshapes import Reshapes
from graphopt.rewrite.clean.sequences import Sequences
from graphopt.rewrite.clean.simplify import Simplify
from graphopt.rewrite.clean.transposes import Transposes
from graphopt.rewrite.clean.unroll import Unroll
from graphopt.rewrite.engine.context import Context, Reason
from graphopt.rewrite.engine.manager import Pass, PassManager, PassResult, Results, Snapshots, WrongResult
from graphopt.rewrite.fuse.absorb import Absorb
from graphopt.rewrite.fuse.join import Join
from graphopt.rewrite.fuse.kernels import Fuse
from graphopt.rewrite.fuse.stream import Stream
from graphopt.rewrite.layout.batches import Batches
from graphopt.rewrite.layout.choose import Layout
from graphopt.rewrite.recognise.composites import Recognise
from graphopt.rewrite.recognise.decompose import Decompose
from graphopt.rewrite.recognise.forests import Forests
from graphopt.rewrite.recognise.heads import Heads
from graphopt.rewrite.recognise.pointwise import Pointwise
from graphopt.rewrite.recognise.projections import Projections
from graphopt.rewrite.recognise.upsample import Upsample
from graphopt.targets.capabilities import Capabilities


def default_passes(*, fuse: bool = True) -> list[Pass]:
    """The passes that every target begins with, in order. Without `fuse` the graph stays flat."""
    passes: list[Pass] = [
        Canonicalise(), Fold(), Simplify(), Gathers(), Fold(), Inline(), Sequences(), Bodies(), Unroll(),
        CommonSubexpressions(), Forests(), DeadCode(), Recognise(), FoldNorm(), Transposes(),
        Decompose(), Upsample(), Pointwise(), Canonicalise(), Fold(), Simplify(), FoldNorm(), Transposes(), Gathers(),
        Reshapes(), Fold(), Bodies(), Fold(),
        CommonSubexpressions(), DeadCode(),
    ]
    if not fuse:
        return passes
    return [*passes, Projections(), Heads(), DeadCode(), Fuse(), DeadCode(), Layout(), Stream(), Absorb(), Join(), Batches()]


def optimise(graph: Graph, passes: Sequence[Pass] | None = None, *, target: Capabilities | None = None,
             **manager: Any) -> Results:
    """Run `passes` (default: `default_passes()`) on `graph`, in place. Keywords go to PassManager."""
    return PassManager(default_passes() if passes is None else passes, **manager).run(graph, Context(target))


__all__ = [
    "Absorb", "Batches", "Bodies", "Canonicalise", "CommonSubexpressions", "Context", "DeadCode", "Decompose", "Fold",
    "FoldNorm", "Forests", "Fuse", "Gathers", "Heads", "Inline", "Join", "Layout", "Pass", "PassManager", "PassResult",
    "Pointwise", "Projections", "Reason", "Recognise", "Reshapes", "Results", "Sequences", "Simplify", "Snapshots", "Stream",
    "Transposes", "Unroll", "Upsample", "WrongResult", "default_passes", "optimise",
]
