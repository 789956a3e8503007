"""`graphopt-dump --repro DIR`: a folder that reproduces a failure of the compiler, with the smallest graph that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphopt.cli.models import NothingFound, UsageError

if TYPE_CHECKING:
    from graphopt.ir import Graph
    from graphopt.targets import Target


def repro(graph: Graph, target: Target, inputs: Sequence[Any] | None, folder: Path) -> str:
    """Look for a failure of compiling, running or computing; make its graph small; write the folder. What was done, in words.

    Raises NothingFound where nothing fails, UsageError where the folder holds something else.
    """
    from tqdm import tqdm

    from graphopt.backends.base import backend_of
    from graphopt.diagnose import reduction
    from graphopt.rewrite.engine.validate import random_inputs
    from graphopt.ship.crash import COMPILE, write

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / "about.json").is_file():
        raise UsageError(f"--repro {folder}: there is something else of that name")
    failure = reduction.find(graph, target, inputs)
    if failure is None:
        raise NothingFound(f"--repro {folder}: nothing fails: the model compiles"
                         f"{', runs, and computes what it should' if backend_of(target).runs else ''}")
    ops = sum(op.name != "const" for op in graph.ops)
    with tqdm(disable=None, desc=f"{ops} ops", unit=" graphs", leave=False) as bar:
        def progress(left: int, tried: int) -> None:
            bar.set_description(f"tried {left} of {ops} ops", refresh=False)
            bar.update(tried - bar.n)

        found = reduction.reduce(graph, target, inputs, failure, progress)
    small = found.graph
    small.input_names, small.output_names = [], []
    given = found.inputs
    if given is None and found.failure.stage != COMPILE:
        given = random_inputs(small)
    said = write(folder.absolute(), small, target, found.failure, {}, inputs=given, drawn=found.drawn, reduced=True)
    left = sum(op.name != "const" for op in small.ops)
    return f"{found.failure}\n{ops} ops became {left} ({found.tried} graphs tried). {said}\nTo see it: python {folder}/repro.py\n"


__all__ = ["repro"]
