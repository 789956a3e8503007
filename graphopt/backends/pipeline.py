"""What all targets share on the way from a captured graph to an optimised one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from graphopt import rewrite
from graphopt.backends.base import backend_of
from graphopt.errors import CodegenError, GraphOptError, IRError, TargetError
from graphopt.ir.graph import Graph
from graphopt.ir.serial import names_without_data
from graphopt.ir.types import TensorType
from graphopt.targets import Target


def optimise(graph: Graph, target: Target, validate: bool = False, passes: Sequence[rewrite.Pass] | None = None,
             **hooks: Any) -> tuple[Graph, rewrite.Results]:
    """The graph after all of the target's passes, or these (a copy), and what they did. `hooks` go to the PassManager."""
    copy = graph.clone()
    backend = backend_of(target)
    return copy, rewrite.optimise(copy, backend.passes(target) if passes is None else passes, validate=validate,
                                  target=backend.capabilities(target), **hooks)


def check_data(graph: Graph) -> None:
    """Refuse a graph whose text left out constants: it can be shown and rewritten, but is no program. IRError names them."""
    lacking = names_without_data(graph)
    if lacking:
        shown = ", ".join(f"@{n}" for n in lacking[:8]) + (f" and {len(lacking) - 8} more" if len(lacking) > 8 else "")
        raise IRError(f"it cannot be compiled: {len(lacking)} of its constants are without data: {shown}", where="graph",
                      hint="The text form leaves out large constants: give constants= to parse_graph, or save the graph as a "
                           ".gir file (graphopt-dump MODEL --after capture -o net.gir)")


@contextmanager
def of_ours() -> Iterator[None]:
    """What fails within, but for want of memory or of a file, is the code generator's fault: an error of ours."""
    try:
        yield
    except (GraphOptError, OSError, MemoryError):
        raise
    except Exception as e:
        raise CodegenError(f"the code generator failed: {type(e).__name__}: {e}",
                           hint="This is a bug in graphopt; please report it") from e


MOST_BYTES = 1 << 47  # what a process can address


def check_sizes(graph: Graph) -> None:
    """Refuse a graph with a value that no memory holds: TargetError with its size."""
    for v in graph.values():
        if isinstance(v.type, TensorType) and v.type.is_static and v.type.nbytes > MOST_BYTES:  # type: ignore[operator]
            at = f"input %{v.name}" if v.op is None else v.op.where()
            raise TargetError(f"{v.type} takes {v.type.nbytes} bytes, more than a process can address", where=at,
                              hint="Its shape is wrong, or not meant for one machine")


__all__ = ["check_data", "check_sizes", "of_ours", "optimise"]
