"""Loop nests as C++: one function a kernel. CUDA and HLS are dialects of it.

A product and a sum are rounded one after the other, so compilers must be kept from contracting them (-ffp-contract=off,
-fmad=false); where one rounding is meant, the text says fma.

Data integers wrap: their sums and products are computed unsigned. Index arithmetic is plain. bool is stored as
a byte, f16 and bf16 as their bits; conversions round to nearest even. min and max propagate NaN. Transcendentals
call the C library's function of the dtype (expf, exp). Nodes used more than once within a statement are bound to
locals, so that the text is as long as the expression graph and not as the tree it unfolds to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.codegen.kernel.expr import (
    INDEX,
    TRANSCENDENTAL,
    Apply,
    Buffer,
    Const,
    Expr,
    Load,
    Reduce,
    Var,
    bounds,
    const,
    postorder,
)
from graphopt.codegen.kernel.fission import serial
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
from graphopt.ir.types import DType

VALUE = {"bool": "bool", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t", "u8": "uint8_t", "u16": "uint16_t",
         "u32": "uint32_t", "u64": "uint64_t", "f16": "uint16_t", "bf16": "uint16_t", "f32": "float", "f64": "double"}
STORED = {**VALUE, "bool": "uint8_t"}
BITS = ("f16", "bf16")  # held as their bits
DEEP = 24  # an expression nested deeper is cut: compilers limit brackets, and readers patience
RESERVED = frozenset("""auto bool break case char const continue default do double else enum extern float for goto if inline int
long register return short signed sizeof static struct switch typedef union unsigned void volatile while and or not xor
new delete this true false class template typename operator""".split())

PRELUDE = """\
#ifndef GRAPHOPT_PRELUDE
#define GRAPHOPT_PRELUDE
template <class To, class From> GO_FN To go_bits(From x) { union { From from; To to; } u; u.from = x; return u.to; }
template <class T> GO_FN T go_min(T a, T b) { return a < b ? a : b; }
template <class T> GO_FN T go_max(T a, T b) { return a > b ? a : b; }
// NaN wins, as in numpy.
GO_FN float go_min(float a, float b) { return a != a ? a : a < b ? a : b; }
GO_FN float go_max(float a, float b) { return a != a ? a : a > b ? a : b; }
GO_FN double go_min(double a, double b) { return a != a ? a : a < b ? a : b; }
GO_FN double go_max(double a, double b) { return a != a ? a : a > b ? a : b; }
// Rounds towards minus infinity; the remainder has the divisor's sign.
template <class T> GO_FN T go_floordiv(T a, T b) { T q = a / b; return q * b != a && ((a < 0) != (b < 0)) ? q - 1 : q; }
template <class T> GO_FN T go_floormod(T a, T b) { T r = a % b; return r != 0 && ((r < 0) != (b < 0)) ? r + b : r; }
GO_FN float go_from_bf16(uint16_t x) { return go_bits<float>((uint32_t)x << 16); }
GO_FN uint16_t go_to_bf16(float x) {
  uint32_t b = go_bits<uint32_t>(x);
  if (x != x) return (uint16_t)(b >> 16 | 0x40);
  return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
GO_FN float go_from_f16(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000) << 16, rest = x & 0x7fff;
  if (rest >= 0x7c00) return go_bits<float>(sign | 0x7f800000u | (rest & 0x3ff) << 13);
  float magnitude = rest < 0x400 ? (float)rest * 5.9604644775390625e-8f : go_bits<float>((rest << 13) + 0x38000000u);
  return go_bits<float>(sign | go_bits<uint32_t>(magnitude));
}
GO_FN uint16_t go_to_f16(float x) {
  uint32_t b = go_bits<uint32_t>(x), sign = b >> 16 & 0x8000, rest = b & 0x7fffffff;
  if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
  if (rest >= 0x47800000u) return (uint16_t)(sign | 0x7c00);
  // Below the normal range, adding 1/2 leaves the rounded multiple of 2^-24 in the last bits.
  if (rest < 0x38800000u) return (uint16_t)(sign | (go_bits<uint32_t>(go_bits<float>(rest) + 0.5f) - 0x3f000000u));
  return (uint16_t)(sign | (rest - 0x38000000u + 0xfff + (rest >> 13 & 1)) >> 13);
}
// To f32 with the last bit set where anything is lost: a second rounding to f16 is then right.
GO_FN float go_odd(double x) {
  float f = (float)x;
  if ((double)f == x || x != x) return f;
  uint32_t b = go_bits<uint32_t>(f);
  if ((f < 0 ? -(double)f : (double)f) > (x < 0 ? -x : x)) b -= 1;
  return go_bits<float>(b | 1);
}
#endif
"""


@dataclass(frozen=True)
class Dialect:
    """What differs between compilers. `headers` come first; `helper` qualifies the prelude's functions, `function` a
    kernel; `restrict` qualifies pointers."""

    name: str = "c++"
    headers: str = "#include <cmath>\n#include <cstdint>\n"
    helper: str = "static inline"
    function: str = "static void"
    restrict: str = "__restrict__"
    prefetch: str = "__builtin_prefetch"  # the function of (address, 0, locality); none: hints are left out

    def prelude(self) -> str:
        return f"{self.headers}#define GO_FN {self.helper}\n{PRELUDE}"

    def before_loop(self, s: For) -> Sequence[str]:
        """Lines before the loop (pragmas)."""
        return ("#pragma GCC unroll 64",) if s.scope is Scope.UNROLL else ()

    def in_loop(self, s: For) -> Sequence[str]:
        """Lines at the beginning of the loop's body."""
        return ()


PLAIN = Dialect()


def print_kernel(kernel: Kernel, dialect: Dialect = PLAIN) -> str:
    """The kernel as a function over raw pointers, in the order of its parameters."""
    return Printer(kernel, dialect).function()


def identifier(text: str) -> str:
    """A C name close to `text`."""
    name = re.sub(r"\W", "_", text) or "x"
    return f"_{name}" if name[0].isdigit() else f"{name}_" if name in RESERVED else name


class Printer:
    """Prints one kernel. Dialects with their own idea of a function's body override `body`."""

    def __init__(self, kernel: Kernel, dialect: Dialect) -> None:
        self.kernel, self.dialect = kernel, dialect
        self.wide = any(b.size >= 1 << 31 for b in kernel.params)
        self.index_type = "int64_t" if self.wide else "int"
        self.names: dict[Buffer | Var, str] = {}
        self.taken: set[str] = set(RESERVED)
        self.memo: dict[int, str] = {}
        self.lines: list[str] = []
        self.depth = 1

    def function(self) -> str:
        k = self.kernel
        params = [("const " if position < k.inputs else "") + self.parameter(b) for position, b in enumerate(k.params)]
        for v in k.scalars:
            given = Var(f"{v.name}_given")
            params.append(f"int64_t {self.name(given)}")
            self.line(f"const {self.index_type} {self.name(v)} = ({self.index_type}){self.name(given)};")
        self.body(serial(k.body))
        return f"{self.dialect.function} {k.name}({', '.join(params)}) {{\n" + "\n".join(self.lines) + "\n}\n"

    def parameter(self, b: Buffer) -> str:
        return f"{self.stored_type(b)}* {self.dialect.restrict} {self.name(b)}"

    def stored_type(self, b: Buffer) -> str:
        return STORED[b.dtype.name]

    def body(self, s: Stmt) -> None:
        self.stmt(s)

    # Names and lines
    def name(self, of: Buffer | Var) -> str:
        if of not in self.names:
            base = identifier(of.name)
            name, k = base, 0
            while name in self.taken:
                k += 1
                name = f"{base}_{k}"
            self.taken.add(name)
            self.names[of] = name
        return self.names[of]

    def forget(self, of: Buffer | Var) -> None:
        """The name's scope has ended: it may be used again."""
        self.taken.discard(self.names.pop(of, ""))

    def line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def pragma(self, lines: Sequence[str]) -> None:
        self.lines.extend(lines)

    # Statements
    def stmt(self, s: Stmt) -> None:
        if isinstance(s, Seq):
            for x in s.body:
                self.stmt(x)
        elif isinstance(s, For):
            self.loop(s)
        elif isinstance(s, Store):
            flat = self.flat_index(s.buffer, s.index)
            temporaries = self.share([flat, s.value])
            value = self.value(s.value)
            stored = f"(uint8_t)({value})" if s.buffer.dtype.kind == "bool" else value
            self.close(temporaries, f"{self.name(s.buffer)}[{self.value(flat)}] = {stored};")
        elif isinstance(s, If):
            temporaries = self.share([s.condition])
            condition = self.value(s.condition)
            self.memo = {}
            self.block(f"if ({condition})", s.then)
            if s.otherwise is not None:
                self.block("else", s.otherwise)
            self.close(temporaries)
        elif isinstance(s, Let):
            temporaries = self.share([s.value])
            value = self.value(s.value)
            self.memo = {}
            self.scope(s.var, f"const {self.type_of(s.var.dtype)} {self.name(s.var)} = {value};", s.body)
            self.close(temporaries)
        elif isinstance(s, Alloc):
            self.scope(s.buffer, f"{self.stored_type(s.buffer)} {self.name(s.buffer)}[{max(s.buffer.size, 1)}];", s.body)
        elif isinstance(s, Prefetch):
            if self.dialect.prefetch:
                self.line(f"{self.dialect.prefetch}({self.name(s.buffer)} + ({self.value(s.index)}), 0, {4 - s.level});")
        elif isinstance(s, Shuffle):
            self.shuffle(s)
        elif isinstance(s, Dot):
            self.stmt(s.plain())
        elif isinstance(s, Tiles):
            for tile in s.buffers:
                self.line(f"{self.stored_type(tile)} {self.name(tile)}[{tile.size}];")
            self.stmt(s.body)
        elif isinstance(s, TileZero):
            self.line(f"for (int go_i = 0; go_i < {s.tile.size}; ++go_i) {self.name(s.tile)}[go_i] = 0;")
        elif isinstance(s, (TileLoad, TileStore)):
            rows, columns = s.tile.shape
            element = f"{self.name(s.tile)}[go_r * {columns} + go_c]"
            place = f"{self.name(s.buffer)}[{self.operand(s.at)} + go_r * {self.operand(s.stride)} + go_c]"
            moved = f"{element} = {place}" if isinstance(s, TileLoad) else f"{place} = {element}"
            self.line(f"for (int go_r = 0; go_r < {rows}; ++go_r) for (int go_c = 0; go_c < {columns}; ++go_c) {moved};")
        elif isinstance(s, TileDot):
            self.tile_dot(s)
        elif isinstance(s, AsyncCopy):  # at once, which is before any wait for it
            to, at = (f"{self.name(b)}[{self.operand(e)} + go_i]" for b, e in ((s.target, s.to), (s.source, s.at)))
            self.line(f"for (int go_i = 0; go_i < {s.count}; ++go_i) {to} = {at};")
        elif isinstance(s, (Barrier, Commit, Wait)):
            pass  # one thread runs all of it
        else:
            raise CodegenError(f"no C++ for {type(s).__name__}", where=self.kernel.name)

    def shuffle(self, s: Shuffle) -> None:
        """All lanes are read before one is written."""
        w, source, target = len(s.order), self.name(s.source), self.name(s.target)
        at = [s.a + k if k < w else s.b + k - w for k in s.order]
        self.line("{")
        self.depth += 1
        self.line(f"const {self.stored_type(s.source)} go_lanes[{w}] = {{{', '.join(f'{source}[{k}]' for k in at)}}};")
        self.line(f"for (int go_i = 0; go_i < {w}; ++go_i) {target}[{s.at} + go_i] = go_lanes[go_i];")
        self.depth -= 1
        self.line("}")

    def tile_dot(self, s: TileDot) -> None:
        """A product of tiles of integers, whose sums may come in any order."""
        if not s.how.exact:
            raise CodegenError(f"no C++ rounds as {s.how.name} does", where=self.kernel.name)
        (rows, columns), (_, depth), step = s.acc.shape, s.a.shape, s.how.depth
        acc, a, b = (self.name(t) for t in (s.acc, s.a, s.b))
        each = (("go_m", rows), ("go_n", columns), ("go_k", depth))
        self.line(" ".join(f"for (int {v} = 0; {v} < {n}; ++{v})" for v, n in each))
        right = f"{b}[go_k / {step} * {columns * step} + go_n * {step} + go_k % {step}]"
        held = self.stored_type(s.acc)
        wide = f"(uint32_t)({held}){a}[go_m * {depth} + go_k] * (uint32_t)({held}){right}"
        self.line(f"  {acc}[go_m * {columns} + go_n] = ({held})((uint32_t){acc}[go_m * {columns} + go_n] + {wide});")

    def scope(self, named: Var | Buffer, declaration: str, body: Stmt) -> None:
        """Braces in which something is declared for a statement."""
        self.line("{")
        self.depth += 1
        self.line(declaration)
        self.stmt(body)
        self.forget(named)
        self.depth -= 1
        self.line("}")

    def block(self, head: str, body: Stmt, first: Sequence[str] = ()) -> None:
        self.line(f"{head} {{")
        self.pragma(first)
        self.depth += 1
        self.stmt(body)
        self.depth -= 1
        self.line("}")

    def loop(self, s: For) -> None:
        temporaries = self.share([s.extent])
        extent = self.value(s.extent)
        self.memo = {}
        i = self.name(s.var)
        self.pragma(self.dialect.before_loop(s))
        self.block(f"for ({self.index_type} {i} = 0; {i} < {extent}; ++{i})", s.body, self.dialect.in_loop(s))
        self.forget(s.var)
        self.close(temporaries)

    def share(self, exprs: Sequence[Expr]) -> list[Var]:
        """Bind nodes used more than once, and the middle of long chains, to locals in a block that `close` ends."""
        self.memo = {}
        order = postorder(*exprs)
        uses: dict[int, int] = {}
        for used in (*exprs, *(c for node in order for c in node.children)):
            uses[id(used)] = uses.get(id(used), 0) + 1
        depth: dict[int, int] = {}
        temporaries: list[Var] = []
        for node in order:
            if isinstance(node, Reduce):
                raise CodegenError("a reduction was not scheduled", where=self.kernel.name)
            depth[id(node)] = 1 + max((depth[id(c)] for c in node.children), default=0)
            if not self.worth_a_name(node) or (uses[id(node)] < 2 and depth[id(node)] < DEEP):
                continue
            text = self.value(node)
            if not temporaries:
                self.line("{")
                self.depth += 1
            t = Var("t", node.dtype)
            temporaries.append(t)
            self.line(f"const {self.type_of(node.dtype)} {self.name(t)} = {text};")
            self.memo[id(node)] = self.name(t)
            depth[id(node)] = 0
        return temporaries

    @staticmethod
    def worth_a_name(node: Expr) -> bool:
        if isinstance(node, Load):
            return node.buffer.space is not Space.LOCAL
        if not isinstance(node, Apply):
            return False
        return node.dtype is not INDEX or any(isinstance(c, Apply) for c in node.args)

    def close(self, temporaries: Sequence[Var], text: str | None = None) -> None:
        if text is not None:
            self.line(text)
        self.memo = {}
        if temporaries:
            for t in temporaries:
                self.forget(t)
            self.depth -= 1
            self.line("}")

    # Expressions: text of an expression, bracketed so that it may stand as an operand
    def type_of(self, d: DType) -> str:
        return self.index_type if d is INDEX else VALUE[d.name]

    @staticmethod
    def flat_index(buffer: Buffer, index: Sequence[Expr]) -> Expr:
        offset: Expr = index[0] if index else const(0, INDEX)
        for i, n in zip(index[1:], buffer.shape[1:]):
            offset = offset * n + i
        return offset

    def value(self, e: Expr) -> str:
        """The expression's text, without the brackets around a whole operator expression."""
        text = self.operand(e)
        return _stripped(text) if isinstance(e, Apply) else text

    def operand(self, e: Expr) -> str:
        """The expression's text, in brackets where it is an operator expression."""
        found = self.memo.get(id(e))
        if found is not None:
            return found
        if isinstance(e, Const):
            return self.literal(e)
        if isinstance(e, Var):
            if e not in self.names:
                raise CodegenError(f"variable {e.name} is not bound", where=self.kernel.name)
            return self.name(e)
        if isinstance(e, Load):
            if e.buffer not in self.names:
                raise CodegenError(f"buffer {e.buffer.name} is not a parameter", where=self.kernel.name)
            text = f"{self.name(e.buffer)}[{self.value(self.flat_index(e.buffer, e.index))}]"
            return self.loaded(text, e.dtype)
        assert isinstance(e, Apply)
        return self.apply(e)

    def loaded(self, text: str, d: DType) -> str:
        """A value from its stored form."""
        return f"({text} != 0)" if d.kind == "bool" else text

    def literal(self, e: Const) -> str:
        d, v = e.dtype, e.value
        if d.kind == "bool":
            return "true" if v else "false"
        if d.name in BITS:
            return f"(uint16_t){int(np.asarray(v).astype(d.numpy).view(np.uint16))}u"
        if d.is_float:
            narrow = d.name == "f32"
            if not math.isfinite(v):
                # No macro that every compiler has; the bits are the same everywhere.
                bits = 0x7FC00000 if v != v else 0x7F800000 if v > 0 else 0xFF800000
                return f"go_bits<float>(0x{bits:08x}u)" if narrow else f"(double)go_bits<float>(0x{bits:08x}u)"
            text = f"{np.float32(v)!s}f" if narrow else repr(float(v))
            text = text if re.search(r"[.e]", text) else f"{text.removesuffix('f')}.0{'f' if narrow else ''}"
            return f"({text})" if text.startswith("-") else text
        if d is INDEX:
            return f"({v})" if v < 0 else f"{v}LL" if v >= 1 << 31 else str(v)
        if d.name == "i64":
            return "(-9223372036854775807LL - 1)" if v == -(1 << 63) else f"(int64_t){v}LL" if v >= 0 else f"((int64_t){v}LL)"
        if d.name == "u64":
            return f"(uint64_t){v}ULL"
        if d.name == "u32":
            return f"{v}u"
        if v == -(1 << 31):
            return "(-2147483647 - 1)"
        return f"({VALUE[d.name]})({v})" if d.bits < 32 else f"({v})" if v < 0 else str(v)

    def apply(self, e: Apply) -> str:
        kind, d = e.kind, e.dtype
        of = e.args[0].dtype
        if kind == "cast":
            return self.cast(e.args[0], d)
        if kind == "bitcast":
            return f"go_bits<{VALUE[d.name]}>({self.value(e.args[0])})"
        if kind in ("min", "max", "floordiv", "floormod"):
            return self.extremum_or_floor(e)
        a = [self.operand(x) for x in e.args]
        if kind == "select":
            return f"({a[0]} ? {a[1]} : {a[2]})"
        if kind == "isnan":
            return f"({a[0]} != {a[0]})"
        if kind in ("eq", "ne", "lt", "le"):
            return f"({a[0]} {_COMPARE[kind]} {a[1]})"
        if of.kind == "bool":
            if kind == "not":
                return f"!{a[0]}"
            if kind in _LOGICAL:
                return f"({a[0]} {_LOGICAL[kind]} {a[1]})"
        if of.is_float or of is INDEX:
            if kind in _OPERATOR:
                return f"({self.term(e.args[0], a[0], kind, True)} {_OPERATOR[kind]} {self.term(e.args[1], a[1], kind, False)})"
            if kind == "neg":
                return f"(-{a[0]})"
            if of is INDEX and kind == "abs":
                return f"({a[0]} < 0 ? -{a[0]} : {a[0]})"
            if of.name in ("f32", "f64") and kind in _FUNCTION:
                return f"{self.function_name(e)}({', '.join(map(_stripped, a))})"
        elif of.is_integer:
            text = self.integer(kind, of, a)
            if text is not None:
                return text
        raise CodegenError(f"no C++ for {kind} of {of}", where=self.kernel.name)

    def function_name(self, e: Apply) -> str:
        """The C library's function of the dtype for a node of `kind`."""
        if e.kind not in _FUNCTION:
            raise CodegenError(f"no C++ for {e.kind} of {e.args[0].dtype}", where=self.kernel.name)
        return f"{_FUNCTION[e.kind]}{'f' if e.args[0].dtype.name == 'f32' else ''}"

    def term(self, e: Expr, text: str, kind: str, left: bool) -> str:
        """The operand `text` of a `kind`, without brackets where C's precedence and association say the same."""
        if id(e) in self.memo or not isinstance(e, Apply) or e.kind not in _OPERATOR or not _bracketed(text):
            return text
        binds_tighter = e.kind in ("mul", "div") and kind in ("add", "sub")
        same_level = (e.kind in ("mul", "div")) == (kind in ("mul", "div"))
        return text[1:-1] if binds_tighter or (left and same_level) else text

    @staticmethod
    def integer(kind: str, d: DType, a: Sequence[str]) -> str | None:
        """Data integers: two's complement, wrapping."""
        own, unsigned = VALUE[d.name], "uint64_t" if d.bits == 64 else "uint32_t"
        if kind in ("add", "sub", "mul"):
            return f"({own})(({unsigned}){a[0]} {_OPERATOR[kind]} ({unsigned}){a[1]})"
        if kind == "neg":
            return f"({own})(({unsigned})0 - ({unsigned}){a[0]})"
        if kind == "abs":
            return a[0] if d.kind == "uint" else f"({a[0]} < 0 ? ({own})(({unsigned})0 - ({unsigned}){a[0]}) : {a[0]})"
        if kind in ("div", "fmod"):  # truncating, as C's
            return f"({own})({a[0]} {'/' if kind == 'div' else '%'} {a[1]})"
        if kind in _BITWISE:
            return f"({own})({a[0]} {_BITWISE[kind]} {a[1]})"
        if kind == "not":
            return f"({own})~{a[0]}"
        if kind == "shl":
            return f"({own})(({unsigned}){a[0]} << {a[1]})"
        if kind == "shr":
            return f"({own})({a[0]} >> {a[1]})"
        return None

    def extremum_or_floor(self, e: Apply) -> str:
        of = e.args[0].dtype
        if of.name in BITS or (e.kind in ("floordiv", "floormod") and (of.is_float or of.kind == "bool")):
            raise CodegenError(f"no C++ for {e.kind} of {of}", where=self.kernel.name)
        if e.kind in ("floordiv", "floormod") and (of.kind == "uint" or (of is INDEX and bounds(e.args[0])[0] >= 0)):
            a, b = (self.operand(v) for v in e.args)
            return f"({a} {'/' if e.kind == 'floordiv' else '%'} {b})"
        a, b = (self.value(x) for x in e.args)
        return f"go_{e.kind}({a}, {b})" if of.is_float else f"go_{e.kind}<{self.type_of(of)}>({a}, {b})"

    def cast(self, x: Expr, d: DType) -> str:
        source = x.dtype
        if source.name in BITS:
            wide = f"go_from_{source.name}({self.value(x)})"
            return wide if d.name == "f32" else self.converted(wide, "f32", d)
        return self.converted(self.operand(x), source.name, d)

    def converted(self, text: str, source: str, d: DType) -> str:
        if d.name == "bf16":
            return f"go_to_bf16({text if source == 'f32' else f'(float){text}'})"
        if d.name == "f16":
            return f"go_to_f16({text})" if source == "f32" else f"go_to_f16(go_odd((double){text}))"
        if d.kind == "bool":
            return f"({text} != 0)"
        return f"({self.type_of(d)}){text}"


def _stripped(text: str) -> str:
    return text[1:-1] if _bracketed(text) else text


def _bracketed(text: str) -> bool:
    """Whether the first bracket closes at the end."""
    if not text.startswith("("):
        return False
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return k == len(text) - 1
    return False


_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_LOGICAL = {"and": "&&", "or": "||", "xor": "!="}
_BITWISE = {"and": "&", "or": "|", "xor": "^"}
_OPERATOR = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_FUNCTION = {**{k: k for k in TRANSCENDENTAL}, "abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "trunc": "trunc",
             "round": "rint", "fmod": "fmod", "fma": "fma"}

__all__ = ["PLAIN", "PRELUDE", "STORED", "Dialect", "Printer", "identifier", "print_kernel"]
