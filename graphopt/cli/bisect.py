"""`graphopt-dump --bisect`: the first pass, then the first op, after which results are wrong; if none, the first wrong kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.errors import EvaluationError
from graphopt.ir.evaluate import evaluate
from graphopt.ir.text import value_names
from graphopt.rewrite.engine.validate import difference

if TYPE_CHECKING:
    from graphopt.ir import Graph
    from graphopt.rewrite import Results, WrongResult


def wrong_pass(error: WrongResult, inputs: Sequence[Any]) -> str:
    """What a pass got wrong: the change, and the first value that differs with it."""
    lines = [f"first wrong pass: {error.pass_name}", *(f"  {said}" for said in (error.changed, error.culprit) if said)]
    first = first_difference(error.right, error.wrong, inputs, error.ulps)
    if first:
        lines.append(f"first op that differs: {first}")
    return "\n".join(lines) + "\n"


def first_difference(right: Graph, wrong: Graph, inputs: Sequence[Any], ulps: float) -> str:
    """The first value of `wrong`, in order, that both graphs have by its name and that differs; empty where there is none."""
    names = value_names(right)
    known: dict[str, Any] = {}
    evaluate(right, inputs, lambda v, x: known.__setitem__(names[v], x))
    found: list[str] = []
    new = value_names(wrong)

    def observe(v: Any, x: Any) -> None:
        name = new[v]
        if not found and v.name is not None and name in known and v.op is not None:
            text = difference(known[name], x, max(ulps, 1.0))
            if text:
                at = f" at {', '.join(v.op.loc)}" if v.op.loc else ""
                found.append(f"%{name} = {v.op.name}(...) : {v.type}{at}; {text}")

    try:
        evaluate(wrong, inputs, observe)
    except EvaluationError as e:  # that is what is wrong
        found.append(str(e))
    return found[0] if found else ""


def right_passes(results: Results) -> str:
    changed = sum(p.changed for p in results.passes)
    return f"passes: {changed} of {len(results.passes)} changed the graph, and after each it computes the same\n"


def kernels(program: Any, inputs: Sequence[Any]) -> tuple[str, bool]:
    """What comparing a compiled model's kernels with the evaluator showed, in words, and whether all is right."""
    from graphopt.diagnose.checking import check_kernels

    arrays = [np.asarray(x, order="C") if isinstance(x, np.ndarray) else x for x in program._checked(inputs)]
    checked = check_kernels(program.program(arrays).details.compiled, program.target, arrays)
    if checked.finding is not None:
        return f"first wrong kernel: {checked.finding}\n", False
    if checked.outputs is not None:
        return (f"kernels: each of {checked.kernels} computes what the reference evaluator makes of the same operands\n"
                f"wrong all the same: {checked.outputs}\n"), False
    return f"kernels: each of {checked.kernels} computes what the reference evaluator does, and so does the whole program\n", True


__all__ = ["first_difference", "kernels", "right_passes", "wrong_pass"]
