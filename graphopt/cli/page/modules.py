"""Which module of the source model an op belongs to, as a path of names with dots between them."""

from __future__ import annotations

from itertools import takewhile

from graphopt.ir import Graph, Op


class Modules:
    """From source locations to modules, and from ops to the innermost module that holds all of their locations.

    A location is a path itself where PyTorch (`layer1.0.conv1`) or an exporter (`/layer1/layer1.0/conv1/Conv`) made it one, or
    the capture knows its module (`metadata["modules"]`). Where no location of a model says anything, the names of weights do:
    an op belongs to the module of its first named weight, and one without to the module around that of the op before it.
    """

    def __init__(self, graph: Graph) -> None:
        self.known: dict[str, str] = dict(graph.metadata.get("modules", {}))
        locs = [p for op in graph.walk() for p in op.loc]
        if not any(self._of(p) for p in locs):
            self._by_weights(graph)

    def __call__(self, op: Op) -> str:
        found = [m for p in op.loc if (m := self._of(p))]
        return common(found) or (found[0] if found else "")

    def _of(self, loc: str) -> str:
        return self.known[loc] if loc in self.known else path_of(loc)

    def _by_weights(self, graph: Graph) -> None:
        current = ""
        for op in graph.ops:
            if op.name == "const" or not op.loc:
                continue
            names = [v.name for v in op.operands  # one that several ops share says nothing
                     if v is not None and v.constant is not None and v.name and len(v.users) == 1]
            named = next((n.rpartition(".")[0] for n in names if "." in n), "")
            current = named or current
            self.known.update(dict.fromkeys(op.loc, named or current.rpartition(".")[0]))


def path_of(loc: str) -> str:
    """The module in a location that is a path, else nothing. With slashes, the last name is the node's own."""
    if "/" in loc:
        return ".".join(part for part in loc.split("/")[:-1] if part)
    return loc if "." in loc else ""


def common(paths: list[str]) -> str:
    """The longest path that all of them begin with."""
    columns = zip(*(p.split(".") for p in paths))
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, columns))


__all__ = ["Modules", "common", "path_of"]
