"""The text form of kernels: `print_kernel`, and its exact inverse `parse_kernel`.

    kernel @k(x: f32[7, 4], w: f32[4]) -> (y: f32[7]) {
      for i < 7 parallel {
        alloc acc: f32[1] local {
          acc[0] = f32(0.0)
          for k < 4 {
            acc[0] = acc[0] + x[i, k] * w[k]
          }
          y[i] = acc[0]
        }
      }
    }

Scratch memory follows in `scratch (...)`, scalars in `scalars (n: [1, 64])`, what made it in `by "matmul"`. A number alone is
an index; others say their dtype. `for i: [0, 3] < n` gives the range that the variable is known to lie in, where it is not 0
to a literal end. Names that several variables or buffers have are told apart by `.1`, `.2`. `$0 = ...` before a statement
names a part that it has more than once. Statements within braces are one sequence, whether they were made as one or as
several.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graphopt.codegen.kernel.dot import INSTRUCTIONS, Instruction
from graphopt.codegen.kernel.expr import (
    COMPARISONS,
    INDEX,
    KINDS,
    Apply,
    Buffer,
    Const,
    Expr,
    Load,
    Reduce,
    Var,
    _apply,
    const,
    load,
    postorder,
)
from graphopt.codegen.kernel.loops import (
    Alloc,
    AsyncCopy,
    Barrier,
    Commit,
    Dot,
    For,
    If,
    Kernel,
    Let,
    Prefetch,
    Seq,
    Shuffle,
    Stmt,
    Store,
    TileDot,
    TileLoad,
    Tiles,
    TileStore,
    TileZero,
    Wait,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.errors import CodegenError
from graphopt.ir.types import BOOL, DTYPES, DType

INFIX = {"eq": ("==", 1), "ne": ("!=", 1), "lt": ("<", 1), "le": ("<=", 1), "add": ("+", 2), "sub": ("-", 2), "mul": ("*", 3),
         "div": ("/", 3), "floordiv": ("//", 3), "floormod": ("%", 3)}  # with how tightly they bind; all are left-associative
KIND_OF = {text: (kind, level) for kind, (text, level) in INFIX.items()}
RESERVED = frozenset((*KINDS, *DTYPES, "index", "_"))
DEEP = 20  # an expression nested deeper is cut


# Printing -----------------------------------------------------------------------------------
def print_kernel(kernel: Kernel) -> str:
    """The kernel as text, ended by a newline."""
    return _Printer().kernel(kernel)


def print_stmt(s: Stmt) -> str:
    """A statement as text, for messages; its free names as they are."""
    p = _Printer()
    p.stmt(s)
    return "\n".join(p.lines)


class _Printer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0
        self.names: dict[Var | Buffer, str] = {}
        self.taken: set[str] = set()
        self.shared: dict[int, str] = {}

    def kernel(self, k: Kernel) -> str:
        scalars = f" scalars ({', '.join(f'{self.name(v)}: {_range(v)}' for v in k.scalars)})" if k.scalars else ""
        groups = [k.params[:k.inputs], k.params[k.inputs:k.inputs + k.outputs], k.params[k.inputs + k.outputs:]]
        ins, outs, scratch = (f"({', '.join(map(self.declared, g))})" for g in groups)
        by = f" by {json.dumps(k.template)}" if k.template != "generic" else ""
        rest = f"{f' scratch {scratch}' if groups[2] else ''}{scalars}{by}"
        self.block(f"kernel @{k.name}{ins} -> {outs}{rest}", k.body)
        return "\n".join(self.lines) + "\n"

    def name(self, of: Var | Buffer) -> str:
        if of not in self.names:
            plain = re.fullmatch(r"[A-Za-z_]\w*", of.name) and of.name not in RESERVED
            base = of.name if plain else json.dumps(of.name)
            name, k = base, 0
            while name in self.taken:
                k += 1
                name = f"{base}.{k}"
            self.taken.add(name)
            self.names[of] = name
        return self.names[of]

    def declared(self, b: Buffer) -> str:
        length = "" if b.length is None else f" of {self.value(b.length)}"
        return f"{self.name(b)}: {b.dtype}[{', '.join(map(str, b.shape))}]{length}"

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def block(self, head: str, body: Stmt) -> None:
        self.line(f"{head} {{")
        self.depth += 1
        self.stmt(body)
        self.depth -= 1
        self.line("}")

    def stmt(self, s: Stmt) -> None:
        if isinstance(s, Seq):
            for x in s.body:
                self.stmt(x)
        elif isinstance(s, For):
            extent, = self.values(s.extent)
            implied = (0, s.extent.value - 1) if isinstance(s.extent, Const) else None
            known = "" if (s.var.low, s.var.high) == implied else f": {_range(s.var)}"
            scope = "" if s.scope is Scope.SERIAL else f" {s.scope.value}"
            self.block(f"for {self.name(s.var)}{known} < {extent}{scope}", s.body)
        elif isinstance(s, Store):
            *index, value = self.values(*s.index, s.value)
            self.line(f"{self.name(s.buffer)}[{', '.join(index)}] = {value}")
        elif isinstance(s, If):
            condition, = self.values(s.condition)
            self.block(f"if {condition}", s.then)
            if s.otherwise is not None:
                self.lines.pop()
                self.block("} else", s.otherwise)
        elif isinstance(s, Let):
            value, = self.values(s.value)
            known = f" {_range(s.var)}" if (s.var.low, s.var.high) != (None, None) else ""
            self.block(f"let {self.name(s.var)}: {s.var.dtype}{known} = {value}", s.body)
        elif isinstance(s, Alloc):
            self.block(f"alloc {self.declared(s.buffer)} {s.buffer.space.value}", s.body)
        elif isinstance(s, Prefetch):
            at, = self.values(s.index)
            self.line(f"prefetch {self.name(s.buffer)}, {at}, {s.level}")
        elif isinstance(s, Shuffle):
            self.line(f"shuffle {self.name(s.target)}, {s.at}, {self.name(s.source)}, {s.a}, {s.b}, {list(s.order)}")
        elif isinstance(s, Barrier):
            self.line(f"barrier {s.scope.value}")
        elif isinstance(s, AsyncCopy):
            to, at = self.values(s.to, s.at)
            self.line(f"copy {self.name(s.target)}, {to}, {self.name(s.source)}, {at}, {s.count}")
        elif isinstance(s, Commit):
            self.line("commit")
        elif isinstance(s, Wait):
            self.line(f"wait {s.left}")
        elif isinstance(s, Dot):
            self.line(f"dot {json.dumps(s.how.name)} {self.name(s.lane)} < {s.lanes}, {self.name(s.step)} < {s.how.depth} {{")
            self.depth += 1
            target, a, b = self.values(s.target, s.a, s.b)
            self.line(f"{target}, {a}, {b}")
            self.depth -= 1
            self.line("}")
        elif isinstance(s, Tiles):
            self.block(f"tiles ({', '.join(map(self.declared, s.buffers))})", s.body)
        elif isinstance(s, TileZero):
            self.line(f"tile_zero {self.name(s.tile)}")
        elif isinstance(s, (TileLoad, TileStore)):
            at, stride = self.values(s.at, s.stride)
            name = "tile_load" if isinstance(s, TileLoad) else "tile_store"
            self.line(f"{name} {self.name(s.tile)}, {self.name(s.buffer)}, {at}, {stride}")
        elif isinstance(s, TileDot):
            self.line(f"tile_dot {json.dumps(s.how.name)}, {', '.join(map(self.name, (s.acc, s.a, s.b)))}")
        else:
            raise CodegenError(f"no text for {type(s).__name__}")

    # Expressions
    def values(self, *exprs: Expr) -> list[str]:
        """Texts of a statement's expressions, after lines that name what is in them more than once, or too deep."""
        self.shared = {}
        order = postorder(*exprs)
        uses: dict[int, int] = {}
        for used in (*exprs, *(c for node in order for c in node.children)):
            uses[id(used)] = uses.get(id(used), 0) + 1
        depth: dict[int, int] = {}
        size: dict[int, int] = {}
        for node in order:
            depth[id(node)] = 1 + max((depth[id(c)] for c in node.children), default=0)
            size[id(node)] = 1 + sum(size[id(c)] for c in node.children)
            if isinstance(node, (Apply, Load)) and ((uses[id(node)] > 1 and size[id(node)] > 8) or depth[id(node)] >= DEEP):
                text = self.value(node)
                self.shared[id(node)] = f"${len(self.shared)}"
                self.line(f"{self.shared[id(node)]} = {text}")
                depth[id(node)] = size[id(node)] = 0
        return [self.value(e) for e in exprs]

    def value(self, e: Expr, above: int = 0) -> str:
        """The text of an expression, in brackets where it binds less tightly than `above`."""
        if (found := self.shared.get(id(e))) is not None:
            return found
        if isinstance(e, Const):
            if e.dtype is INDEX:
                return str(e.value)
            return f"{e.dtype}({str(e.value).lower() if e.dtype is BOOL else repr(e.value)})"
        if isinstance(e, Var):
            return self.name(e)
        if isinstance(e, Load):
            return f"{self.name(e.buffer)}[{', '.join(map(self.value, e.index))}]"
        if isinstance(e, Apply) and e.kind in INFIX:
            text, level = INFIX[e.kind]
            a, b = e.args
            whole = f"{self.value(a, level)} {text} {self.value(b, level + 1)}"
            return f"({whole})" if level < above else whole
        if isinstance(e, Apply):
            to = f"<{e.dtype}>" if e.kind in ("cast", "bitcast") else ""
            return f"{e.kind}{to}({', '.join(map(self.value, e.args))})"
        assert isinstance(e, Reduce)
        raise CodegenError(f"a reduction was not scheduled: {e!r}")


def _range(v: Var) -> str:
    return f"[{', '.join('_' if x is None else str(x) for x in (v.low, v.high))}]"


# Parsing ------------------------------------------------------------------------------------
_TOKEN = re.compile(r"""\s*(?:(?P<comment>\#[^\n]*)|(?P<name>(?:[A-Za-z_]\w*|"(?:[^"\\]|\\.)*")(?:\.\d+)?)
    |(?P<number>\d+(?:\.\d*)?(?:e[-+]?\d+)?)|(?P<part>\$\d+)|(?P<mark>->|//|==|!=|<=|[][(){}<>,:=+\-*/%@]))""", re.X)


def parse_kernel(text: str) -> Kernel:
    """The kernel that a text says. CodegenError with the line where it says none."""
    return _Parser(text).kernel()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens = list(self.split())
        self.named: dict[str, Var | Buffer] = {}
        self.parts: dict[str, Expr] = {}

    def split(self) -> Iterator[tuple[str, str, int]]:
        """(kind, text, place) of all tokens, and one of kind "end"."""
        at, end = 0, len(self.text.rstrip())
        while at < end:
            m = _TOKEN.match(self.text, at)
            if m is None:
                raise self.wrong("no token begins here", at)
            at = m.end()
            if m.lastgroup != "comment":
                yield m.lastgroup or "", m[m.lastgroup or 0], m.start(m.lastgroup or 0)
        yield "end", "the end", end

    def wrong(self, what: str, at: int | None = None) -> CodegenError:
        at = self.tokens[min(self.at, len(self.tokens) - 1)][2] if at is None else at
        return CodegenError(f"{what}: {self.text[at:].lstrip().split(chr(10))[0][:60]!r}",
                            where=f"line {self.text.count(chr(10), 0, at) + 1} of a kernel's text")

    # Tokens
    def peek(self, *texts: str) -> bool:
        return self.tokens[self.at][1] in texts and self.tokens[self.at][0] != "end"

    def take(self, text: str | None = None, kind: str | None = None) -> str:
        k, found, _ = self.tokens[self.at]
        if k == "end" or (text is not None and found != text) or (kind is not None and k != kind):
            raise self.wrong(f"expected {text or kind or 'more'}")
        self.at += 1
        return found

    def skip(self, text: str) -> bool:
        if self.peek(text):
            self.at += 1
            return True
        return False

    def many(self, one: Callable[[], Any], first: str, last: str) -> list[Any]:
        self.take(first)
        out: list[Any] = []
        while not self.skip(last):
            if out:
                self.take(",")
            out.append(one())
        return out

    def integer(self) -> int:
        sign = -1 if self.skip("-") else 1
        text = self.take(kind="number")
        if not text.isdigit():
            self.at -= 1
            raise self.wrong("expected an integer")
        return sign * int(text)

    def dtype(self) -> DType:
        name = self.take(kind="name")
        if name == "index":
            return INDEX
        if name not in DTYPES:
            self.at -= 1
            raise self.wrong("expected a dtype")
        return DTYPES[name]

    # Names
    def quoted(self) -> str:
        """A name that always stands in quotes."""
        text = self.take(kind="name")
        try:
            return str(json.loads(text))
        except ValueError:
            self.at -= 1
            raise self.wrong("expected a name in quotes") from None

    def own(self, text: str) -> str:
        """The name that a variable or buffer has, of the one that it has in the text."""
        base = re.sub(r"\.\d+$", "", text)
        try:
            return str(json.loads(base)) if base.startswith('"') else base
        except ValueError:
            raise self.wrong(f"{base} is no name, and stands before this") from None

    def var(self, text: str, d: DType, low: int | None, high: int | None) -> Var:
        """The variable of that name: the same one where it is bound again, and just so."""
        found = self.named.get(text)
        if isinstance(found, Var) and (found.dtype, found.low, found.high) == (d, low, high):
            return found
        self.named[text] = made = Var(self.own(text), d, low, high)
        return made

    def buffer(self) -> Buffer:
        text = self.take(kind="name")
        found = self.named.get(text)
        if not isinstance(found, Buffer):
            self.at -= 1
            raise self.wrong(f"no buffer is called {text}")
        return found

    def range(self) -> tuple[int | None, int | None]:
        ends = self.many(lambda: None if self.skip("_") else self.integer(), "[", "]")
        if len(ends) != 2:
            raise self.wrong("a range has two ends")
        return ends[0], ends[1]

    def declared(self, space: bool = False, lies: Space = Space.GLOBAL) -> Buffer:
        text = self.take(kind="name")
        self.take(":")
        d = self.dtype()
        shape = self.many(self.integer, "[", "]")
        length = self.expr() if self.skip("of") else None
        lies = self.choice(Space) if space else lies
        found = self.named.get(text)
        if not (lies is not Space.GLOBAL and isinstance(found, Buffer) and length is None
                and (found.dtype, found.shape, found.space) == (d, tuple(shape), lies)):
            found = self.named[text] = Buffer(self.own(text), d, shape, lies, length)
        return found

    def choice(self, of: Any) -> Any:
        text = self.take(kind="name")
        if text not in {x.value for x in of}:
            self.at -= 1
            raise self.wrong(f"expected one of {', '.join(x.value for x in of)}")
        return of(text)

    # Statements
    def kernel(self) -> Kernel:
        self.take("kernel")
        self.take("@")
        name = self.take(kind="name")
        start = self.at  # scalars are said last, and lengths of buffers before them are made of those
        while not self.peek("{", "scalars") and self.tokens[self.at][0] != "end":
            self.at += 1
        scalars = self.many(self.scalar, "(", ")") if self.skip("scalars") else []
        self.at = start
        ins = self.many(self.declared, "(", ")")
        self.take("->")
        outs = self.many(self.declared, "(", ")")
        scratch = self.many(self.declared, "(", ")") if self.skip("scratch") else []
        if self.skip("scalars"):
            self.many(self.scalar, "(", ")")
        template = self.quoted() if self.skip("by") else "generic"
        body = self.block()
        if self.tokens[self.at][0] != "end":
            raise self.wrong("expected nothing more")
        return Kernel(name, (*ins, *outs, *scratch), body, len(ins), len(outs), template, tuple(scalars))

    def scalar(self) -> Var:
        name = self.take(kind="name")
        self.take(":")
        return self.var(name, INDEX, *self.range())

    def block(self) -> Stmt:
        self.take("{")
        out = []
        while not self.skip("}"):
            out.append(self.stmt())
        return out[0] if len(out) == 1 else Seq(tuple(out))

    def stmt(self) -> Stmt:
        self.shared()
        word = self.tokens[self.at][1]
        made = getattr(self, f"_{word}", None) if word in STATEMENTS and self.tokens[self.at + 1][1] != "[" else None
        if made is not None:
            self.at += 1
            return made()  # type: ignore[no-any-return]
        b = self.buffer()
        index = self.many(self.expr, "[", "]")
        self.take("=")
        return Store(b, tuple(index), self.expr())

    def shared(self) -> None:
        """The parts of a statement that it has more than once."""
        self.parts = {}
        while self.tokens[self.at][0] == "part":
            part = self.take()
            self.take("=")
            self.parts[part] = self.expr()

    def _for(self) -> Stmt:
        name = self.take(kind="name")
        known = self.range() if self.skip(":") else None
        self.take("<")
        extent = self.expr()
        scope = Scope.SERIAL if self.peek("{") else self.choice(Scope)
        if known is None:
            if not isinstance(extent, Const):
                raise self.wrong("a loop to a computed end says its variable's range")
            known = (0, extent.value - 1)
        var = self.var(name, INDEX, *known)
        return For(var, extent, self.block(), scope)

    def _if(self) -> Stmt:
        condition = self.expr()
        then = self.block()
        return If(condition, then, self.block() if self.skip("else") else None)

    def _let(self) -> Stmt:
        name = self.take(kind="name")
        self.take(":")
        d = self.dtype()
        known = self.range() if self.peek("[") else (None, None)
        self.take("=")
        value = self.expr()
        var = self.var(name, d, *known)
        return Let(var, value, self.block())

    def _alloc(self) -> Stmt:
        b = self.declared(space=True)
        return Alloc(b, self.block())

    def _prefetch(self) -> Stmt:
        b, at = self.buffer(), self.after(self.expr)
        return Prefetch(b, at, self.after(self.integer))

    def _shuffle(self) -> Stmt:
        target, to, source = self.buffer(), self.after(self.integer), self.after(self.buffer)
        a, b = self.after(self.integer), self.after(self.integer)
        return Shuffle(target, to, source, a, b, tuple(self.after(lambda: self.many(self.integer, "[", "]"))))

    def _barrier(self) -> Stmt:
        return Barrier(self.choice(Scope))

    def _copy(self) -> Stmt:
        target, to, source = self.buffer(), self.after(self.expr), self.after(self.buffer)
        at = self.after(self.expr)
        return AsyncCopy(target, to, source, at, self.after(self.integer))

    def _commit(self) -> Stmt:
        return Commit()

    def _wait(self) -> Stmt:
        return Wait(self.integer())

    def instruction(self) -> Instruction:
        name = self.quoted()
        if name not in INSTRUCTIONS:
            self.at -= 1
            raise self.wrong("no instruction of that name is known (a target's table is, once it is imported)")
        return INSTRUCTIONS[name]

    def _dot(self) -> Stmt:
        how = self.instruction()
        names, counts = [], []
        for k in range(2):
            names.append(self.take(kind="name") if k == 0 else self.after(lambda: self.take(kind="name")))
            self.take("<")
            counts.append(self.integer())
        if counts[1] != how.depth:
            raise self.wrong(f"{how.name} takes {how.depth} steps")
        lane, step = (self.var(name, INDEX, 0, n - 1) for name, n in zip(names, counts))
        self.take("{")
        self.shared()
        target, a, b = self.expr(), self.after(self.expr), self.after(self.expr)
        self.take("}")
        if not isinstance(target, Load):
            raise self.wrong("a dot adds to an element of a buffer")
        return Dot(target, lane, counts[0], step, a, b, how)

    def _tiles(self) -> Stmt:
        return Tiles(tuple(self.many(lambda: self.declared(lies=Space.TILE), "(", ")")), self.block())

    def _tile_zero(self) -> Stmt:
        return TileZero(self.buffer())

    def _tile_load(self) -> Stmt:
        return TileLoad(self.buffer(), self.after(self.buffer), self.after(self.expr), self.after(self.expr))

    def _tile_store(self) -> Stmt:
        return TileStore(self.buffer(), self.after(self.buffer), self.after(self.expr), self.after(self.expr))

    def _tile_dot(self) -> Stmt:
        how = self.instruction()
        return TileDot(self.after(self.buffer), self.after(self.buffer), self.after(self.buffer), how)

    def after(self, one: Callable[[], Any]) -> Any:
        self.take(",")
        return one()

    # Expressions
    def expr(self, level: int = 1) -> Expr:
        """Operators that bind at least as tightly as `level`."""
        left = self.atom()
        while (found := KIND_OF.get(self.tokens[self.at][1])) is not None and found[1] >= level:
            self.at += 1
            left = self.made(found[0], [left, self.expr(found[1] + 1)])
        return left

    def made(self, kind: str, args: Sequence[Expr], to: DType | None = None) -> Expr:
        """Just that node, and not what it could be simplified to."""
        if KINDS[kind] != len(args):
            raise self.wrong(f"{kind} takes {KINDS[kind]} arguments before this")
        d = to or (BOOL if kind in COMPARISONS or kind == "isnan" else args[1].dtype if kind == "select" else args[0].dtype)
        return _apply(kind, tuple(args), d)

    def atom(self) -> Expr:
        kind, text, _ = self.tokens[self.at]
        if kind == "number" or text == "-":
            return const(self.integer(), INDEX)
        self.at += 1
        if kind == "part" and text in self.parts:
            return self.parts[text]
        if text == "(":
            inner = self.expr()
            self.take(")")
            return inner
        if kind == "name" and text in self.named and not self.peek("("):
            found = self.named[text]
            if isinstance(found, Var):
                return found
            index = self.many(self.expr, "[", "]")
            if len(index) != len(found.shape):
                raise self.wrong(f"{len(index)} indices into {found!r} before this")
            return load(found, index)
        if kind == "name" and text in DTYPES and self.peek("("):
            return self.literal(DTYPES[text])
        if kind == "name" and text in KINDS and self.peek("(", "<"):
            to = None
            if text in ("cast", "bitcast"):
                self.take("<")
                to = self.dtype()
                self.take(">")
            return self.made(text, self.many(self.expr, "(", ")"), to)
        self.at -= 1
        raise self.wrong("expected an expression")

    def literal(self, d: DType) -> Const:
        self.take("(")
        minus = self.skip("-")
        text = self.take()
        self.take(")")
        if d is BOOL:
            return const(text == "true", d)
        try:
            return const((-1 if minus else 1) * (float(text) if d.is_float else int(text)), d)
        except ValueError:
            self.at -= 2
            raise self.wrong(f"expected a literal of {d}") from None


STATEMENTS = frozenset(("for", "if", "let", "alloc", "prefetch", "shuffle", "barrier", "copy", "commit", "wait",
                        "dot", "tiles", "tile_zero", "tile_load", "tile_store", "tile_dot"))

__all__ = ["parse_kernel", "print_kernel", "print_stmt"]
