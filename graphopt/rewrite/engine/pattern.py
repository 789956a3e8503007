"""Patterns of ops, written as text, and the matcher. What is done with a match stands in rules.py.

A pattern reads like the IR's text, nested:

    mul(%x, sigmoid(%x))                             the same name is the same value; commutative ops match either way
    transpose(transpose(%x) {perm=?p}) {perm=?q}     ?p binds an attribute; a literal there must be equal
    add(conv!(%x, #w, ...), #c)                      #w a constant with data; ... whatever operands follow;
                                                     conv! only where all its uses are inside the match
    div(%x, ~1.41421356)                             a constant whose every element is that number (~: to a part in 1000)
    softmax|log_softmax(%x)                          either op
    add(%d=sub(%x, %m), 1)                           names an inner result
    pad(%x, _)                                       _ an absent operand; those not written at the end are absent too
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from graphopt.errors import IRError
from graphopt.ir.graph import Builder, Loc, Op, Value
from graphopt.ir.table import Trait, lookup


# Patterns -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class AnyValue:
    name: str


@dataclass(frozen=True)
class Constant:
    name: str


@dataclass(frozen=True)
class Number:
    value: float
    near: bool = False


@dataclass(frozen=True)
class Absent:
    pass


@dataclass(frozen=True)
class Rest:
    pass


@dataclass(frozen=True)
class Bound:
    """An attribute that the match binds, `?p`."""

    name: str


@dataclass(frozen=True)
class Call:
    names: tuple[str, ...]
    operands: tuple[Node, ...]
    attrs: tuple[tuple[str, Any], ...] = ()
    only: bool = False
    bind: str | None = None

    @cached_property
    def depth(self) -> int:
        return 1 + max((o.depth for o in self.operands if isinstance(o, Call)), default=0)


Node: TypeAlias = AnyValue | Constant | Number | Absent | Rest | Call

_TOKEN = re.compile(r"\s*(?:(?P<value>%\w+)|(?P<const>\#\w+)|(?P<bound>\?\w+)"
                    r"|(?P<number>~?[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf\b))"
                    r'|(?P<string>"[^"]*")|(?P<rest>\.\.\.)|(?P<word>[A-Za-z_]\w*)|(?P<mark>[()\[\]{},=|!]))')


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if match is None:
                raise IRError(f"cannot read {text[at:].strip()[:20]!r}", where=f"pattern {text!r}")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match.group(kind)))
            at = match.end()
        self.tokens.append(("end", ""))
        self.at = 0

    def next(self, *expected: str) -> tuple[str, str]:
        token = self.tokens[self.at]
        if expected and token[0] not in expected and token[1] not in expected:
            raise IRError(f"expected {' or '.join(expected)}, found {token[1]!r}", where=f"pattern {self.text!r}")
        self.at += 1
        return token

    def accept(self, mark: str) -> bool:
        if self.tokens[self.at] == ("mark", mark):
            self.at += 1
            return True
        return False

    def node(self) -> Node:
        kind, text = self.next("value", "const", "number", "rest", "word")
        if kind == "value":
            if self.accept("="):
                call = self.node()
                if not isinstance(call, Call):
                    raise IRError("only an op can be named", where=f"pattern {self.text!r}")
                return Call(call.names, call.operands, call.attrs, call.only, text[1:])
            return AnyValue(text[1:])
        if kind == "const":
            return Constant(text[1:])
        if kind == "number":
            return Number(float(text.lstrip("~")), text.startswith("~"))
        if kind == "rest":
            return Rest()
        if text == "_":
            return Absent()
        if text in ("true", "false"):
            return Number(float(text == "true"))
        names = [text]
        while self.accept("|"):
            names.append(self.next("word")[1])
        for name in names:
            lookup(name)
        only = self.accept("!")
        self.next("(")
        operands: list[Node] = []
        while not self.accept(")"):
            if operands:
                self.next(",")
            operands.append(self.node())
        attrs: list[tuple[str, Any]] = []
        if self.accept("{"):
            while not self.accept("}"):
                if attrs:
                    self.next(",")
                name = self.next("word")[1]
                self.next("=")
                attrs.append((name, self.literal()))
                if all(lookup(n).attr(name) is None for n in names):
                    raise IRError(f"{names[0]} has no attribute {name}", where=f"pattern {self.text!r}")
        return Call(tuple(names), tuple(operands), tuple(attrs), only)

    def literal(self) -> Any:
        if self.accept("["):
            items: list[Any] = []
            while not self.accept("]"):
                if items:
                    self.next(",")
                items.append(self.literal())
            return tuple(items)
        kind, text = self.next("bound", "number", "string", "word")
        if kind == "bound":
            return Bound(text[1:])
        if kind == "number":
            if text[0] == "~":
                return Number(float(text[1:]), True)
            return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
        if kind == "string":
            return text[1:-1]
        return {"true": True, "false": False, "none": None}.get(text, text)


def parse_pattern(text: str) -> Node:
    """The pattern that `text` describes; raises IRError where it cannot be read or names an unknown op."""
    reader = _Reader(text)
    node = reader.node()
    reader.next("end")
    return node


# Matching -----------------------------------------------------------------------------------
class Match:
    """What a pattern bound: `m.x` is value %x or constant #x, or attribute ?x; `m.root` the op to be replaced."""

    def __init__(self, root: Op) -> None:
        self.root = root
        self.values: dict[str, Value] = {}
        self.attrs: dict[str, Any] = {}
        self.ops: list[Op] = []
        self.only: list[Op] = []
        self._build: Builder | None = None

    def __getattr__(self, name: str) -> Any:
        if name in self.values:
            return self.values[name]
        if name in self.attrs:
            return self.attrs[name]
        raise AttributeError(f"the pattern binds no {name!r}")

    def array(self, name: str) -> np.ndarray:
        """The data of constant #name."""
        data = self.values[name].constant
        assert data is not None
        return data

    @property
    def result(self) -> Value:
        return self.root.result

    @property
    def loc(self) -> Loc:
        """Where all matched ops came from."""
        return merge_locs(reversed(self.ops))

    @property
    def build(self) -> Builder:
        """Adds ops at the place of the root."""
        if self._build is None:
            self._build = Builder(self.root.graph, before=self.root, loc=self.loc)  # type: ignore[arg-type]
        return self._build


def merge_locs(ops: Iterable[Op]) -> Loc:
    """The source locations of several ops, each once."""
    return tuple(dict.fromkeys(p for op in ops for p in op.loc))


def match(pattern: Node, op: Op) -> Match | None:
    """The first way in which `pattern` matches with `op` as its root, or None."""
    if not isinstance(pattern, Call) or op.name not in pattern.names:
        return None
    found = Match(op)
    for _ in _match_op(pattern, op, found):
        matched = set(found.ops)
        if all(user in matched for inner in found.only for r in inner.results for user, _ in r.uses):
            return found
    return None


def _match_value(node: Node, value: Value | None, m: Match) -> Iterator[None]:
    if value is None:
        if isinstance(node, Absent):
            yield
        return
    if isinstance(node, Call):
        op = value.op
        if op is not None and op.name in node.names and len(op.results) == 1:
            yield from _match_op(node, op, m)
    elif isinstance(node, Number):
        if is_number(value, node.value, node.near):
            yield
    elif isinstance(node, (AnyValue, Constant)):
        if isinstance(node, Constant) and value.constant is None:
            return
        bound = m.values.get(node.name)
        if bound is None:
            m.values[node.name] = value
            yield
            m.values.pop(node.name, None)
        elif bound is value:
            yield


def _match_op(node: Call, op: Op, m: Match) -> Iterator[None]:
    if node.bind is not None:
        bound = m.values.get(node.bind)
        if bound is not None:
            if bound.op is op:
                yield
            return
    if not _operands_may_match(node, op):
        return
    new_attrs = []
    for name, wanted in node.attrs:
        got = op.attrs.get(name)
        if isinstance(wanted, Bound):
            if wanted.name not in m.attrs:
                m.attrs[wanted.name] = got
                new_attrs.append(wanted.name)
            elif m.attrs[wanted.name] != got:
                break
        elif isinstance(wanted, Number):
            if got is None or not np.isclose(got, wanted.value, rtol=1e-3, atol=0):
                break
        elif got != wanted and str(got) != wanted:
            break
    else:
        if node.bind is not None:
            m.values[node.bind] = op.results[0]
        m.ops.append(op)
        if node.only:
            m.only.append(op)
        orders = [op.operands]
        if op.definition.has(Trait.COMMUTATIVE) and op.operands[0] is not op.operands[1]:
            orders.append((op.operands[1], op.operands[0], *op.operands[2:]))
        for operands in orders:
            yield from _match_operands(node.operands, operands, 0, m)
        m.ops.pop()
        if node.only:
            m.only.pop()
        if node.bind is not None:
            m.values.pop(node.bind, None)
    for name in new_attrs:
        m.attrs.pop(name, None)


def _operands_may_match(node: Call, op: Op) -> bool:
    """A cheap look before the search: every op named among the operands is produced by some operand."""
    for wanted in node.operands:
        if isinstance(wanted, Call) and wanted.bind is None:
            if not any(v is not None and v.op is not None and v.op.name in wanted.names for v in op.operands):
                return False
        elif isinstance(wanted, (Number, Constant)):
            if not any(v is not None and v.op is not None and v.op.name == "const" for v in op.operands):
                return False
    return True


def _match_operands(nodes: tuple[Node, ...], operands: Sequence[Value | None], i: int, m: Match) -> Iterator[None]:
    if i == len(nodes):
        if all(v is None for v in operands[i:]):
            yield
        return
    if isinstance(nodes[i], Rest):
        yield
        return
    value = operands[i] if i < len(operands) else None
    for _ in _match_value(nodes[i], value, m):
        yield from _match_operands(nodes, operands, i + 1, m)


def is_number(value: Value, number: float, near: bool = False) -> bool:
    """Is the value a constant with every element that number? `near` allows a part in 1000; -0.0 is not 0.0."""
    data = value.constant
    if data is None or data.size == 0 or data.dtype == object:
        return False
    if data.size > 64 and data.flat[0] != number and not near:
        return False
    if near:
        return bool(np.all(np.isclose(data.astype(np.float64), number, rtol=1e-3, atol=0)))
    if data.dtype.kind in "biu":
        return bool(np.all(data == number))
    wide = data.astype(np.float64)
    return bool(np.all(wide == number) and (number != 0 or np.all(np.signbit(wide) == np.signbit(number))))
