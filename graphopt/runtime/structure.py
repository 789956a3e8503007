"""The calling convention of a captured model: nested arguments to a flat list of tensors, and outputs back.

Plain data (`to_json`, `from_json`), so that an artifact carries it without pickling; it imports neither
torch nor the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphopt.errors import InputError

_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Node:
    """One level of structure.

    `kind`: `tensor` (a leaf), `number` (an output that is a Python int), `constant` (`value`, fixed at
    capture), `tuple`, `list`, `dict` or `object` (a named tuple, dataclass or other registered container
    with fields `keys`; `cls` is its class where known, `take` and `build` how torch takes it apart and builds it).
    """

    kind: str
    keys: tuple[Any, ...] = ()
    children: tuple[Node, ...] = ()
    value: Any = None
    name: str = ""
    cls: type | None = None
    take: Callable[[Any], Sequence[Any]] | None = None
    build: Callable[[Sequence[Any]], Any] | None = None

    @property
    def leaves(self) -> Iterator[Node]:
        if not self.children and self.kind in ("tensor", "number", "constant"):
            yield self
        for c in self.children:
            yield from c.leaves

    def names(self, prefix: str = "") -> list[str]:
        """A dotted name for each tensor or number leaf."""
        if self.kind in ("tensor", "number"):
            return [prefix]
        out: list[str] = []
        for key, c in zip(self.keys, self.children):
            out += c.names(f"{prefix}.{key}" if prefix else str(key))
        return out

    # Calling --------------------------------------------------------------------------------
    def flatten(self, given: Any, where: str, out: list[Any]) -> None:
        """Append the tensors of `given` to `out`. Raises InputError where the structure differs."""
        if self.kind in ("tensor", "number"):
            if given is None or isinstance(given, (str, dict, tuple)):
                raise InputError(f"expected a tensor, got {_show(given)}", where=where)
            out.append(given)
            return
        if self.kind == "constant":
            if not (given is self.value or (type(given) is type(self.value) and given == self.value)):
                raise InputError(f"was captured as {_show(self.value)}, which is now part of the program; got {_show(given)}",
                                 where=where, hint="Capture the model again with the other value")
            return
        parts = self._parts(given, where)
        for key, c, part in zip(self.keys, self.children, parts):
            c.flatten(part, f"{where}.{key}" if where else str(key), out)

    def _parts(self, given: Any, where: str) -> Sequence[Any]:
        if self.kind in ("tuple", "list"):
            if not isinstance(given, (tuple, list)):
                raise InputError(f"expected a {self.kind} of {len(self.children)}, got {_show(given)}", where=where)
            if len(given) != len(self.children):
                raise InputError(f"expected a {self.kind} of {len(self.children)}, got {len(given)} elements", where=where)
            return given
        if self.kind == "dict":
            if not isinstance(given, Mapping):
                raise InputError(f"expected a dict with keys {', '.join(map(str, self.keys))}, got {_show(given)}", where=where)
            missing = [k for k in self.keys if k not in given]
            extra = [k for k in given if k not in self.keys]
            if missing or extra:
                raise InputError("; ".join([f"missing key {k!r}" for k in missing] + [f"unexpected key {k!r}" for k in extra]),
                                 where=where)
            return [given[k] for k in self.keys]
        if self.cls is not None and not isinstance(given, self.cls):
            raise InputError(f"expected a {self.name}, got {_show(given)}", where=where)
        if self.take is not None:
            parts = list(self.take(given))
            if len(parts) != len(self.children):
                raise InputError(f"expected a {self.name} with {', '.join(map(str, self.keys))}, got {len(parts)} parts",
                                 where=where)
            return parts
        return [given[k] if isinstance(given, Mapping) else getattr(given, str(k)) for k in self.keys]

    def unflatten(self, values: Iterator[Any]) -> Any:
        """The structure with `values` as its tensors, in order."""
        if self.kind == "tensor":
            return next(values)
        if self.kind == "number":
            return int(next(values))
        if self.kind == "constant":
            return self.value
        parts = [c.unflatten(values) for c in self.children]
        if self.kind == "tuple":
            return tuple(parts)
        if self.kind == "list":
            return parts
        if self.kind == "dict":
            return (self.cls or dict)(zip(self.keys, parts))
        if self.build is not None:
            return self.build(parts)
        return Record(self.name, zip((str(k) for k in self.keys), parts))

    # Plain data -----------------------------------------------------------------------------
    def to_json(self) -> Any:
        """Nested dicts and lists of strings and numbers. Raises InputError for a constant that is not plain."""
        if self.kind in ("tensor", "number"):
            return self.kind
        if self.kind == "constant":
            if not isinstance(self.value, _PLAIN):
                raise InputError(f"the constant argument {_show(self.value)} cannot be saved")
            return {"constant": self.value}
        out: dict[str, Any] = {"kind": self.kind, "children": [c.to_json() for c in self.children]}
        if self.kind in ("dict", "object"):
            out["keys"] = list(self.keys)
        if self.kind == "object":
            out["name"] = self.name
        return out

    @staticmethod
    def from_json(data: Any) -> Node:
        if isinstance(data, str):
            return Node(data)
        if "constant" in data:
            return Node("constant", value=data["constant"])
        children = tuple(Node.from_json(c) for c in data["children"])
        return Node(data["kind"], tuple(data.get("keys", range(len(children)))), children, name=data.get("name", ""))


class Record(dict):
    """What stands for a named tuple or dataclass whose class is not at hand: items by name, also as attributes."""

    def __init__(self, name: str, items: Any = ()) -> None:
        super().__init__(items)
        self.__name__ = name

    def __getattr__(self, key: str) -> Any:
        if key in self:
            return self[key]
        raise AttributeError(f"{self.__name__} has no field {key!r}; it has {', '.join(self)}")


@dataclass(frozen=True)
class Call:
    """A model's arguments by name, in the order of its signature, and the structure of its result."""

    arguments: tuple[tuple[str, Node], ...]
    result: Node
    parameters: tuple[str, ...] = ()  # every name that the model takes, in order; those not captured are refused with a reason

    @property
    def plain(self) -> bool:
        """Is it a call with a tensor for each argument, that gives a tensor or a tuple of some?"""
        parts = self.result.children
        result = self.result.kind == "tensor" or (self.result.kind == "tuple" and len(parts) > 1)
        return result and all(node.kind == "tensor" for node in (*parts, *(node for _, node in self.arguments)))

    @property
    def plain_by_position(self) -> bool:
        """Is it plain, and are all inputs given, in their order, by as many arguments?"""
        names = tuple(name for name, _ in self.arguments)
        return self.plain and self.parameters[:len(names)] in (names, ())

    @property
    def input_names(self) -> list[str]:
        return [n for name, node in self.arguments for n in node.names(name)]

    @property
    def output_names(self) -> list[str]:
        if self.result.kind in ("tensor", "number"):
            return ["output"]
        return self.result.names("output" if self.result.kind in ("tuple", "list") else "")

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The tensors of a call, one for each input of the graph. Raises InputError naming what is wrong."""
        names = [name for name, _ in self.arguments]
        order = self.parameters or tuple(names)
        if len(args) > len(order):
            raise InputError(f"takes {len(order)} positional arguments ({', '.join(order)}), got {len(args)}")
        given = dict(zip(order, args))
        for name, value in kwargs.items():
            if name in given:
                raise InputError("given by position and by name", where=name)
            given[name] = value
        out: list[Any] = []
        for name in given:
            if name not in names and given[name] is not None:
                known = ", ".join(names) or "none"
                hint = "Capture the model with an example of it" if name in order else f"The arguments are: {known}"
                raise InputError("not an argument of the captured model", where=name, hint=hint)
        for name, node in self.arguments:
            if name in given:
                node.flatten(given[name], name, out)
            elif any(leaf.kind != "constant" for leaf in node.leaves):
                raise InputError("missing argument", where=name, hint=f"The arguments are: {', '.join(names)}")
        return out

    def unflatten(self, values: Sequence[Any]) -> Any:
        """The model's result from the graph's outputs."""
        return self.result.unflatten(iter(values))

    def to_json(self) -> dict[str, Any]:
        return {"arguments": [[name, node.to_json()] for name, node in self.arguments],
                "parameters": list(self.parameters), "result": self.result.to_json()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Call:
        return Call(tuple((name, Node.from_json(n)) for name, n in data["arguments"]),
                    Node.from_json(data["result"]), tuple(data["parameters"]))


def _show(value: Any) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else "")
