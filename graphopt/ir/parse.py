"""Reading the text form of graphs, which `graphopt.ir.text` describes and writes."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import GraphOptError, ParseError
from graphopt.ir.dims import DimLike, parse_dim
from graphopt.ir.graph import Graph, Op, Tensor, Value, first_free
from graphopt.ir.table import TABLE, lookup
from graphopt.ir.text import print_attr
from graphopt.ir.types import DTYPES, Layout, MapType, OptionalType, SequenceType, TensorType, Type, dtype

_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<loc>\#\s*loc\()|(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\])*")
    |(?P<value>%[A-Za-z0-9_.$/-]+)|(?P<ref>@[A-Za-z0-9_.$/-]+(?:\+\d+(?:=-?\d+)?(?:/\d+)?)?)|(?P<arrow>->)
    |(?P<number>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|inf\b|nan\b))|(?P<word>[A-Za-z_]\w*)|(?P<mark>//|[()\[\]{}<>,:=*+%-])""",
    re.X,
)


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray | Tensor]) -> None:
        self.text, self.constants = text, constants
        self.shared: dict[str, Tensor] = {}
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if not match:
                raise self.error(f"cannot read {text[at:at + 20]!r}", at)
            kind = match.lastgroup or ""
            if kind not in ("space", "comment"):
                self.tokens.append((kind, match.group(), at))
            at = match.end()
        self.tokens.append(("end", "", len(text)))
        self.at = 0

    def error(self, message: str, position: int | None = None) -> ParseError:
        position = self.tokens[self.at][2] if position is None else position
        line = self.text.count("\n", 0, position) + 1
        column = position - self.text.rfind("\n", 0, position)
        return ParseError(message, where=f"line {line}, column {column}")

    @property
    def peek(self) -> str:
        return self.tokens[self.at][1]

    @property
    def kind(self) -> str:
        return self.tokens[self.at][0]

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][1]

    def accept(self, text: str) -> bool:
        if self.peek == text and self.kind != "string":
            self.at += 1
            return True
        return False

    @property
    def found(self) -> str:
        return repr(self.peek) if self.kind != "end" else "the end"

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(f"expected {text!r}, found {self.found}")

    def expect_kind(self, kind: str) -> str:
        if self.kind != kind:
            raise self.error(f"expected a {kind}, found {self.found}")
        return self.next()

    def string(self) -> str:
        start = self.tokens[self.at][2]
        try:
            return str(json.loads(self.expect_kind("string")))
        except json.JSONDecodeError as e:
            raise self.error(f"bad string: {e.msg}", start + e.pos) from None

    def list_of(self, item: Any, close: str) -> list[Any]:
        """Comma-separated items up to the closing mark, which is consumed."""
        items: list[Any] = []
        if self.accept(close):
            return items
        while True:
            items.append(item())
            if self.accept(close):
                return items
            self.expect(",")

    # Types
    def type(self) -> Type:
        at = self.tokens[self.at][2]
        word = self.expect_kind("word")
        if word in ("seq", "opt"):
            self.expect("<")
            element = self.type()
            self.expect(">")
            return SequenceType(element) if word == "seq" else OptionalType(element)
        if word == "map":
            self.expect("<")
            key = self.expect_kind("word")
            if key not in DTYPES:
                raise self.error(f"unknown dtype {key!r}")
            self.expect(",")
            element = self.type()
            self.expect(">")
            return MapType(DTYPES[key], element)
        if word not in DTYPES:
            raise self.error(f"unknown dtype {word!r}", at)
        if self.peek != "[":
            raise self.error(f"expected '[' after {word}")
        start = self.tokens[self.at][2] + 1
        depth, self.at = 1, self.at + 1
        while depth:
            if self.kind == "end":
                raise self.error("the shape has no closing bracket")
            depth += {"[": 1, "]": -1}.get(self.peek, 0)
            self.at += 1
        inside = self.text[start:self.tokens[self.at - 1][2]].strip()
        shape = None if inside == "*" else self.read_dims(inside, start)
        layout = None
        if self.kind == "ref":
            order, _, pitch = self.next()[1:].partition("/")
            order, _, border = order.partition("+")
            halo, _, fill = border.partition("=")
            layout = Layout(order, int(halo or 0), int(pitch or 0), int(fill or 0))
        return TensorType(dtype(word), shape, layout)

    def read_dims(self, text: str, at: int) -> tuple[DimLike, ...]:
        try:
            return tuple(parse_dim(d) for d in _split_dims(text))
        except GraphOptError as e:
            raise self.error(str(e), at) from None

    # Graphs
    def graph(self) -> Graph:
        self.expect("graph")
        graph = Graph(self.expect_kind("ref")[1:])
        values: dict[str, Value] = {}
        self.expect("(")

        def parameter() -> None:
            at = self.tokens[self.at][2]
            name = self.expect_kind("value")[1:]
            self.expect(":")
            self.define(values, name, graph.add_input(self.type()), at)

        self.list_of(parameter, ")")
        self.expect("->")
        declared = self.list_of(self.type, ")") if self.accept("(") else [self.type()]
        self.expect("{")
        while not self.accept("return"):
            self.operation(graph, values)
        outputs = []
        if self.peek != "}":
            outputs.append(self.use(values))
            while self.accept(","):
                outputs.append(self.use(values))
        self.expect("}")
        graph.outputs = outputs
        counter = itertools.count(first_free(graph))
        for g in (graph, *(r for op in graph.walk() for r in op.regions)):
            g._symbols = counter
        if [v.type for v in outputs] != declared:
            raise self.error(f"graph @{graph.name} returns {', '.join(str(v.type) for v in outputs)}, "
                             f"but declares {', '.join(map(str, declared))}")
        return graph

    def define(self, values: dict[str, Value], name: str, value: Value, at: int) -> None:
        if name in values:
            raise self.error(f"%{name} is defined twice", at)
        if not name.isdigit():
            value.name = name
        values[name] = value

    def use(self, values: dict[str, Value]) -> Value:
        name = self.expect_kind("value")[1:]
        if name not in values:
            self.at -= 1
            raise self.error(f"%{name} is not defined before its use")
        return values[name]

    def operation(self, graph: Graph, values: dict[str, Value]) -> None:
        names: list[tuple[str, int]] = []  # with where each stands
        if self.kind == "value":
            while not names or self.accept(","):
                names.append((self.expect_kind("value")[1:], self.tokens[self.at - 1][2]))
            self.expect("=")
        start = self.tokens[self.at][2]
        word = self.expect_kind("word")
        if word not in TABLE:
            self.at -= 1
            try:
                lookup(word)
            except GraphOptError as e:
                raise self.error(str(e)) from None
        if word == "const":
            data = self.constant()
            op = graph.add("const", (), {"value": data}, loc=self.loc())
        else:
            self.expect("(")
            operands = self.list_of(lambda: None if self.accept("_") else self.use(values), ")")
            attrs = dict(self.list_of(self.attribute(word), "}")) if self.accept("{") else {}
            regions = []
            if self.accept("["):
                while not self.accept("]"):
                    regions.append(self.graph())
            self.expect(":")
            types = []
            if names:
                types.append(self.type())
                while self.accept(","):
                    types.append(self.type())
            try:
                definition = lookup(word)
                checked = definition.check_attrs(attrs)
            except GraphOptError as e:
                raise self.error(str(e), start) from None
            op = Op(definition, operands, checked, regions, self.loc(), types)
            graph._link(op, None)
        if len(op.results) != len(names):
            raise self.error(f"{word} has {len(op.results)} results, {len(names)} names", start)
        for (name, at), result in zip(names, op.results):
            self.define(values, name, result, at)

    def attribute(self, op_name: str) -> Any:
        def one() -> tuple[str, Any]:
            name = self.expect_kind("word")
            self.expect("=")
            attr = TABLE[op_name].attr(name)
            if attr is not None and attr.kind.startswith("dims"):
                return name, self.dims()
            return name, self.literal()

        return one

    def dims(self) -> tuple[Any, ...]:
        self.expect("[")
        start = self.tokens[self.at][2]
        while self.peek != "]":
            if self.kind == "end":
                raise self.error("the list has no closing bracket")
            self.at += 1
        inside = self.text[start:self.tokens[self.at][2]].strip()
        self.at += 1
        return self.read_dims(inside, start)

    def literal(self) -> Any:
        if self.accept("["):
            return tuple(self.list_of(self.literal, "]"))
        if self.kind == "string":
            return self.string()
        if self.kind == "number":
            return _number(self.next())
        if self.peek in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[self.next()]
        if self.kind == "word":
            word = self.next()
            return float(word) if word in ("inf", "nan") else word
        raise self.error(f"expected a value to write here, found {self.found}")

    def constant(self) -> Tensor:
        at, name = self.tokens[self.at][2], None
        if self.kind == "ref":
            name = self.next()[1:]
            if not self.accept("="):
                self.expect(":")
                return self.bound(name, self.tensor_type(), at)
        at = self.tokens[self.at][2]
        literal = self.literal()
        self.expect(":")
        t = self.tensor_type()
        try:
            tensor = Tensor(_array(literal, t), name)
        except (GraphOptError, ValueError, TypeError, OverflowError) as e:
            raise self.error(f"the constant is not {t}: {e}", at) from None
        return self.shared.setdefault(name, tensor) if name else tensor

    def tensor_type(self) -> TensorType:
        at = self.tokens[self.at][2]
        t = self.type()
        if not isinstance(t, TensorType):
            raise self.error(f"a constant is a tensor, not {t}", at)
        return t

    def bound(self, name: str, t: TensorType, at: int) -> Tensor:
        if name not in self.shared:
            given = self.constants.get(name)
            if isinstance(given, np.ndarray):
                given = Tensor(given, name)
            self.shared[name] = given or Tensor(None, name, t)
        if self.shared[name].type != t:
            raise self.error(f"constant @{name} is {self.shared[name].type}, the text says {t}", at)
        return self.shared[name]

    def loc(self) -> tuple[str, ...]:
        if self.kind != "loc":
            return ()
        self.at += 1
        return tuple(self.list_of(self.string, ")"))


def _array(literal: Any, t: TensorType) -> np.ndarray:
    """The elements as written, which the dtype may round but not otherwise change."""
    given = np.array(literal, dtype=np.float64 if t.dtype.is_float else object if t.dtype.is_integer else None)
    if given.shape != t.static_shape:
        raise ValueError(f"its elements have shape {list(given.shape)}")
    with np.errstate(all="ignore"):
        wide = given.astype({"int": np.int64, "uint": np.uint64}.get(t.dtype.kind, given.dtype))
        array = wide.astype(t.dtype.numpy)
    if t.dtype.is_float:
        fits = (np.isinf(array.astype(np.float64)) == np.isinf(given)).all()
    elif t.dtype.is_integer:
        fits = all(type(v) is int for v in given.flat) and (array.astype(wide.dtype) == given).all()
    else:
        fits = given.dtype.kind == {"bool": "b", "str": "U"}[t.dtype.kind]
    if not fits:
        raise ValueError(f"{print_attr(literal)} does not fit")
    return array


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _split_dims(text: str) -> list[str]:
    """Split at commas outside parentheses."""
    parts, depth, current = [], 0, ""
    for c in text:
        depth += {"(": 1, ")": -1}.get(c, 0)
        if c == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += c
    return [*parts, current] if parts or current.strip() else parts


def parse_graph(text: str, constants: Mapping[str, np.ndarray | Tensor] | None = None) -> Graph:
    """The graph that `text` describes; raises ParseError with line and column.

    Types are taken as written; `verify` re-infers them.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph()
    if parser.kind != "end":
        raise parser.error(f"expected the end, found {parser.found}")
    return graph


__all__ = ["parse_graph"]
