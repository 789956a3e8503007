"""The text form of graphs: `print_graph` and `parse_graph`, exact inverses up to constant data held by reference.

    graph @name(%x: f32[N, 64]) -> f32[N, 64] {
      %w = const @weight : f32[64, 64]
      %0 = matmul(%x, %w) : f32[N, 64]                     # loc("layer1")
      %a, %b = split(%0) {axis=1, sizes=[32, 32]} : f32[N, 32], f32[N, 32]
      %1 = if(%c, %0) [
        graph @then(%v: f32[N, 64]) -> f32[N, 64] { ... }
        graph @else(%v: f32[N, 64]) -> f32[N, 64] { ... }
      ] : f32[N, 64]
      return %1
    }

Constants of at most INLINE elements are written out; larger ones print as `@name`, and the parser
takes their data from `constants=` (without it the graph has the type but no data).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import GraphOptError, ParseError
from graphopt.ir.dims import Dim, DimLike, parse_dim
from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.table import TABLE, lookup
from graphopt.ir.types import DTYPES, DType, Layout, OptionalType, SequenceType, TensorType, Type, dtype, type_symbols

INLINE = 8
_NAME = re.compile(r"[A-Za-z0-9_.$/-]+")


# Printing -----------------------------------------------------------------------------------
class _Names:
    """Unique printable names for a graph's values and its constants."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.of: dict[Value, str] = {}
        self.count = 0

    def name(self, value: Value) -> str:
        if value not in self.of:
            if value.name is not None:
                base = re.sub(r"[^A-Za-z0-9_.$/-]", "_", value.name) or "_"
                if base.isdigit():  # numbers are for values without a name, and the parser takes them so
                    base = "_" + base
                name, k = base, 1
                while name in self.taken:
                    name, k = f"{base}.{k}", k + 1
            else:
                while (name := str(self.count)) in self.taken:
                    self.count += 1
                self.count += 1
            self.taken.add(name)
            self.of[value] = name
        return "%" + self.of[value]


class ConstantNames:
    """Names for constants printed by reference: the same Tensor keeps one name, two Tensors never share one."""

    def __init__(self) -> None:
        self.of: dict[int, str] = {}
        self.tensors: dict[str, Tensor] = {}

    def name(self, data: Tensor) -> str:
        if id(data) not in self.of:
            base = re.sub(r"[^A-Za-z0-9_.$/-]", "_", data.name or "c") or "c"
            name, k = base, 1
            while name in self.tensors:
                name, k = f"{base}.{k}", k + 1
            self.of[id(data)], self.tensors[name] = name, data
        return self.of[id(data)]


def _names(graph: Graph) -> _Names:
    names = _Names()
    for v in graph.values():  # source names first, so that numbers fill the gaps
        if v.name is not None:
            names.name(v)
    for v in graph.values():
        names.name(v)
    return names


def value_names(graph: Graph) -> dict[Value, str]:
    """What `print_graph` calls the values of `graph` (nested graphs apart), without the %."""
    return _names(graph).of


def print_graph(graph: Graph, constants: ConstantNames | None = None) -> str:
    """The graph as text. `constants` collects the tensors that were printed by reference."""
    lines: list[str] = []
    _print(graph, lines, "", constants or ConstantNames())
    return "\n".join(lines) + "\n"


def _print(graph: Graph, lines: list[str], indent: str, constants: ConstantNames) -> None:
    names = _names(graph)
    inputs = ", ".join(f"{names.name(v)}: {v.type}" for v in graph.inputs)
    outputs = ", ".join(str(v.type) for v in graph.outputs)
    arrow = f"({outputs})" if len(graph.outputs) != 1 else outputs
    name = re.sub(r"[^A-Za-z0-9_.$/-]", "_", graph.name) or "_"
    lines.append(f"{indent}graph @{name}({inputs}) -> {arrow} {{")
    inner = indent + "  "
    for op in graph.ops:
        _print_op(op, names, lines, inner, constants)
    lines.append(f"{inner}return {', '.join(names.name(v) for v in graph.outputs)}".rstrip())
    lines.append(indent + "}")


def _print_op(op: Op, names: _Names, lines: list[str], indent: str, constants: ConstantNames) -> None:
    results = ", ".join(names.name(r) for r in op.results)
    types = ", ".join(str(r.type) for r in op.results)
    loc = f"  # loc({', '.join(json.dumps(p, ensure_ascii=False) for p in op.loc)})" if op.loc else ""
    if op.name == "const":
        lines.append(f"{indent}{results} = const {_print_constant(op.attrs['value'], constants)} : {types}{loc}")
        return
    operands = ", ".join("_" if v is None else names.name(v) for v in op.operands)
    attrs = ", ".join(f"{k}={_print_attr(v)}" for k, v in op.attrs.items() if v is not None)
    text = f"{indent}{results + ' = ' if results else ''}{op.name}({operands})" + (f" {{{attrs}}}" if attrs else "")
    if not op.regions:
        lines.append(f"{text} : {types}{loc}")
        return
    lines.append(text + " [")
    for region in op.regions:
        _print(region, lines, indent + "  ", constants)
    lines.append(f"{indent}] : {types}{loc}")


def _print_constant(data: Tensor, constants: ConstantNames) -> str:
    array = data.array
    if array is None or array.size > INLINE or array.size == 0 or not _inlines(data.type.dtype):
        return "@" + constants.name(data)
    prefix = f"@{constants.name(data)} = " if data.name else ""
    return prefix + _print_nested(array.tolist() if data.type.dtype.name in ("f64", "bool") or data.type.dtype.is_integer
                                  else _floats(array))


def _inlines(d: DType) -> bool:
    return (d.kind in ("bool", "int", "uint") and d.bits >= 8) or d.name in ("f16", "bf16", "f32", "f64")


def _floats(array: np.ndarray) -> Any:
    """Nested lists of the shortest decimal strings that read back as the same elements."""
    if array.ndim:
        return [_floats(a) for a in array]
    x = array[()]
    if isinstance(x, (np.float16, np.float32)):
        size = abs(float(x))
        scientific = 0 < size < 1e-4 or 1e7 <= size < np.inf
        return _Raw(np.format_float_scientific(x, unique=True, trim="-") if scientific else str(x))
    return _Raw(repr(float(x)))


class _Raw(str):
    __slots__ = ()


def _print_nested(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_print_nested(v) for v in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, _Raw) else repr(value)


def _print_attr(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(_print_attr(v) for v in value) + "]"
    if isinstance(value, float):
        return repr(value)
    return str(value)


# Parsing ------------------------------------------------------------------------------------
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<loc>\#\s*loc\()|(?P<comment>\#[^\n]*)|(?P<string>"(?:\\.|[^"\\])*")
    |(?P<value>%[A-Za-z0-9_.$/-]+)|(?P<ref>@[A-Za-z0-9_.$/-]+(?:\+\d+(?:/\d+)?)?)|(?P<arrow>->)
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
            return json.loads(self.expect_kind("string"))
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
            order, _, halo = order.partition("+")
            layout = Layout(order, int(halo or 0), int(pitch or 0))
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
        graph._symbols = itertools.count(max((int(s[1:]) + 1 for v in graph.values() for s in type_symbols(v.type)
                                              if s[0] == "_" and s[1:].isdigit()), default=0))
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
        raise ValueError(f"{_print_attr(literal)} does not fit")
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
    return [*parts, current] if current.strip() else parts


def parse_graph(text: str, constants: Mapping[str, np.ndarray | Tensor] | None = None) -> Graph:
    """The graph that `text` describes; raises ParseError with line and column.

    Types are taken as written; `verify` re-infers them.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph()
    if parser.kind != "end":
        raise parser.error(f"expected the end, found {parser.found}")
    return graph


__all__ = ["ConstantNames", "Dim", "parse_graph", "print_graph", "value_names"]
