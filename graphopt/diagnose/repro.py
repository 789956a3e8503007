"""A failure of the compiler, seen again: the stages of compiling, running and comparing, gone through with the graph of a folder
that `graphopt.ship.crash` wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.ship.crash import COMPARE, COMPILE, RUN, Failure, failure_of, is_failure, load

if TYPE_CHECKING:
    from graphopt.ir.graph import Graph
    from graphopt.targets import Target


def attempt(graph: Graph, target: Target, inputs: Sequence[Any] | None, last: str, report: Any = None) -> Failure | None:
    """Go through the stages up to the `last`; the failure, or None where there is none (or where it is not the compiler's).

    A crash of compiled code ends the process: see `graphopt.diagnose.reduction.tried`.
    """
    from graphopt.backends.base import backend_of
    from graphopt.backends.pipeline import optimise
    from graphopt.compiler import compile
    from graphopt.diagnose.checking import check_kernels
    from graphopt.rewrite import WrongResult
    from graphopt.rewrite.engine.validate import random_inputs
    from graphopt.targets.x86 import X86

    stage, backend = COMPILE, backend_of(target)
    os.environ["GRAPHOPT_CRASH_DIR"] = "0"
    try:
        given = list(inputs) if inputs is not None else None
        if last == COMPARE:
            given = random_inputs(graph) if given is None else given
            optimise(graph, target, True, inputs=given)
        model = compile(graph, None if backend.runs else given, target=target)
        if last == COMPILE or not isinstance(target, X86) or backend.missing(target):  # others are not gone through
            return None
        given = random_inputs(graph) if given is None else given
        arrays = model._checked(given)
        program = model.program(arrays)
        compiled = program.details.compiled
        stage = RUN
        if report is not None:
            report(1)
        program.executable.run(arrays)
        if last == COMPARE:
            stage = COMPARE
            checked = check_kernels(compiled, target, arrays)
            if checked.finding or checked.outputs:
                return Failure(COMPARE, "wrong result", "a kernel" if checked.finding else "the program", "",
                               str(checked.finding or checked.outputs))
    except WrongResult as e:
        return Failure(COMPARE, "wrong result", f"pass {e.pass_name}", "", e.what)
    except Exception as e:
        return failure_of(e, stage) if is_failure(e) else None
    return None


def reproduce(folder: Path) -> Failure | None:
    """What fails of a folder's graph here and now; None where nothing does any more."""
    from graphopt.targets import parse_target, without_winograd

    graph, inputs, about = load(Path(folder))
    of = parse_target if about["winograd"] else without_winograd
    found = attempt(graph, of(about["target"], about["threads"]), inputs, about["failure"]["stage"])
    if found is not None and found.traceback:
        sys.stderr.write(found.traceback)
    return found


__all__ = ["attempt", "reproduce"]
