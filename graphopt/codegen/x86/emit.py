"""Loop nests to TIR, built from nodes (parsing script costs more than compiling it).

Storage: bool is a byte, bf16 a 16-bit integer converted with shifts; arithmetic never happens in either.
Indices are 32-bit unless a buffer is too large for that.

TVM lets LLVM contract any product and sum into one rounding, and has no option against it. So a product that is added to
something goes through llvm.arithmetic.fence, which is no instruction and which nothing looks through; `fma` is llvm.fma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

from tvm import ir, tirx

from graphopt.codegen.kernel import math as vector_math
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
from graphopt.codegen.kernel.loops import (
    Alloc,
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
    statements,
)
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.x86.dots import Helpers, word
from graphopt.errors import CodegenError
from graphopt.ir.types import F32, DType

_TVM = {"bool": "bool", "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64", "u8": "uint8", "u16": "uint16",
        "u32": "uint32", "u64": "uint64", "f16": "float16", "f32": "float32", "f64": "float64"}
_STORED = {**_TVM, "bool": "uint8", "bf16": "uint16"}
_FOR = {Scope.SERIAL: tirx.ForKind.SERIAL, Scope.PARALLEL: tirx.ForKind.PARALLEL, Scope.VECTOR: tirx.ForKind.VECTORIZED,
        Scope.UNROLL: tirx.ForKind.UNROLLED}
# Of f64, from libm: TVM's own expansions (quotients of exponentials, short series) lose half the digits near zero.
LIBM = frozenset(("erf", "expm1", "atan2", "log1p", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh",
                  "atanh"))
STATUS = ir.PrimType("int32")
NEEDS = "graphopt.needs"  # an attribute of a kernel: features without which LLVM cannot compile it


def tvm_dtype(d: DType) -> str:
    """TVM's name for the dtype as stored."""
    return _STORED[d.name]


def emit_kernel(kernel: Kernel, fuses: bool = True) -> tirx.PrimFunc:
    """A private function over raw pointers that returns status 0. `fuses`: the machine can multiply and add with one rounding;
    one that cannot does `fma` with two."""
    return _Emitter(kernel, fuses).function()


class _Emitter:
    def __init__(self, kernel: Kernel, fuses: bool) -> None:
        self.kernel, self.fuses = kernel, fuses
        large = any(b.size >= 1 << 31 for b in kernel.params)
        self.index_type = "int64" if large else "int32"
        self.buffers: dict[Buffer, tirx.Buffer] = {}
        self.vars: dict[Var, Any] = {}
        self.is_one: dict[Expr, bool] = {}  # is_product's answers
        self.memo: dict[int, Any] = {}  # bound data expressions of the statement being emitted
        self.lane: tuple[Any, int] | None = None  # the vector loop that we are in: its variable and extent
        self.helpers = Helpers(kernel.name)

    def function(self) -> tirx.PrimFunc:
        handles, declared = [], []
        for b in self.kernel.params:
            handle = tirx.Var(b.name, ir.PointerType(ir.PrimType(tvm_dtype(b.dtype)), "global"))
            buffer = tirx.decl_buffer((max(b.size, 1),), tvm_dtype(b.dtype), b.name, data=handle)
            self.buffers[b] = buffer
            handles.append(handle)
            declared.append(tirx.DeclBuffer(buffer, data=handle))
        for v in self.kernel.scalars:
            given = tirx.Var(f"{v.name}_given", "int64")
            handles.append(given)
            self.vars[v] = tirx.Var(v.name, self.index_type)
            declared.append(tirx.Bind(self.vars[v], tirx.Cast(self.index_type, given)))
        body = tirx.SeqStmt([*declared, self.stmt(self.kernel.body), tirx.Return(tirx.const(0, "int32"))])
        if self.helpers.text:
            body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", ir.StringImm(self.helpers.text), body)
        function = tirx.PrimFunc(handles, body, ret_type=STATUS)
        needs = {NEEDS: " ".join(sorted(self.helpers.features))} if self.helpers.features else {}
        return function.with_attr({"tirx.noalias": True, "tirx.is_scheduled": True, **needs})

    # Statements
    def stmt(self, s: Stmt) -> Any:
        if isinstance(s, Seq):
            if not s.body:
                return tirx.Evaluate(tirx.const(0, "int32"))
            return self.stmt(s.body[0]) if len(s.body) == 1 else tirx.SeqStmt([self.stmt(x) for x in s.body])
        if isinstance(s, For):
            return self.loop(s)
        if isinstance(s, Store):
            return self.with_shared([s.value, *s.index], lambda value, *index: tirx.BufferStore(
                self.buffers[s.buffer], self.stored(self.value(value), s.buffer.dtype), [self.flat(s.buffer, index)]))
        if isinstance(s, If):
            return self.with_shared([s.condition], lambda condition: tirx.IfThenElse(
                self.value(condition), self.stmt(s.then), None if s.otherwise is None else self.stmt(s.otherwise)))
        if isinstance(s, Let):
            def bind(value: Expr) -> Any:
                self.vars[s.var] = tirx.Var(s.var.name, self.type_of(s.var.dtype))
                return tirx.SeqStmt([tirx.Bind(self.vars[s.var], self.rounded(value)), self.stmt(s.body)])

            return self.with_shared([s.value], bind)
        if isinstance(s, Prefetch):
            line = tirx.address_of(tirx.BufferLoad(self.buffers[s.buffer], [self.value(s.index)]))
            # a read (0), into L1 and all below or L2 and all below, of data (1)
            hints = [tirx.const(x, "int32") for x in (0, 4 - s.level, 1)]
            return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", line, *hints))
        if isinstance(s, Alloc):
            buffer = tirx.decl_buffer((max(s.buffer.size, 1),), tvm_dtype(s.buffer.dtype), s.buffer.name, scope="local")
            self.buffers[s.buffer] = buffer
            return tirx.SeqStmt([tirx.AllocBuffer(buffer), self.stmt(s.body)])
        if isinstance(s, Shuffle):
            lanes = lambda at: [tirx.Ramp(tirx.const(at, self.index_type), tirx.const(1, self.index_type), len(s.order))]
            parts = [tirx.BufferLoad(self.buffers[s.source], lanes(at)) for at in (s.a, s.b)]
            order = [tirx.const(k, "int32") for k in s.order]
            return tirx.BufferStore(self.buffers[s.target], tirx.Shuffle(parts, order), lanes(s.at))
        if isinstance(s, Dot):
            return self.stmt(s.plain()) if s.how.depth == 1 else self.dot(s)
        if isinstance(s, Tiles):
            configure, release = self.helpers.tiles(s.buffers)
            made = tirx.SeqStmt([_call(configure), self.stmt(s.body), _call(release)])
            self.helpers.end()
            return made
        if isinstance(s, TileZero):
            return _call(self.helpers.zero(s.tile))
        if isinstance(s, TileDot):
            return _call(self.helpers.product(s.acc, s.a, s.b, s.how))
        if isinstance(s, (TileLoad, TileStore)):
            first = tirx.address_of(tirx.BufferLoad(self.buffers[s.buffer], [self.value(s.at)]))
            stride = tirx.Mul(tirx.Cast("int64", self.value(s.stride)), tirx.const(s.buffer.dtype.itemsize, "int64"))
            return _call(self.helpers.move(s.tile, s.buffer, isinstance(s, TileLoad)), first, stride)
        raise CodegenError(f"no TIR for {type(s).__name__}", where=self.kernel.name)

    def dot(self, s: Dot) -> Any:
        """One instruction: both operands as words of 32 bits, a word of the same elements in each lane or one of its own."""
        name, index = self.helpers.dot(s), self.index_type
        lanes = lambda at, n: tirx.Ramp(self.value(at), tirx.const(1, index), n)
        words = []
        for e, d in ((s.a, s.how.a), (s.b, s.how.b)):
            source = word(s, e, d, self.kernel.name)
            count = s.how.depth * (s.lanes if source.each else 1)
            loaded = tirx.BufferLoad(self.buffers[source.buffer], [lanes(source.at, count)])
            packed = tirx.reinterpret(f"int32x{s.lanes}" if source.each else "int32", loaded)
            words.append(packed if source.each else tirx.Broadcast(packed, s.lanes))
        sums = word(s, s.target, s.how.acc, self.kernel.name, depth=1)
        place = [lanes(sums.at, s.lanes)]
        before = tirx.BufferLoad(self.buffers[sums.buffer], place)
        after = tirx.call_pure_extern(f"{tvm_dtype(s.how.acc)}x{s.lanes}", name, before, *words)
        return tirx.BufferStore(self.buffers[sums.buffer], after, place)

    def loop(self, s: For) -> Any:
        if s.scope is Scope.UNROLL and isinstance(s.extent, Const):
            # Written out here, so that every index into a register block is a constant.
            return tirx.SeqStmt([self.unrolled(s, k) for k in range(s.extent.value)])
        var = tirx.Var(s.var.name, self.index_type)
        self.vars[s.var] = var
        extent = self.value(s.extent)
        if s.scope is Scope.FEW:
            return self.few(s, var, extent)
        one = isinstance(s.extent, Const) and s.extent.value == 1  # a vector of one lane is no vector
        if s.scope is Scope.VECTOR and not one:
            assert isinstance(s.extent, Const) and self.lane is None
            self.lane = (var, s.extent.value)
        body = self.stmt(s.body)
        if s.scope is Scope.VECTOR:
            self.lane = None
        return tirx.For(var, tirx.const(0, self.index_type), extent, _FOR[Scope.SERIAL if one else s.scope], body)

    def few(self, s: For, var: Any, extent: Any) -> Any:
        """TVM marks the way back of each of its For loops as a million times likelier than the way on. LLVM then takes all
        innermost loops for equally hot, and spills the accumulators of a product's loop to keep constants of an epilogue's
        loop in registers. A While has no mark, and counts for some thirty iterations."""
        zero = tirx.const(0, self.index_type)
        counter = tirx.decl_buffer((1,), self.index_type, f"{s.var.name}_count", scope="local")
        at = tirx.BufferLoad(counter, [zero])
        step = tirx.BufferStore(counter, tirx.Add(var, tirx.const(1, self.index_type)), [zero])
        body = tirx.SeqStmt([tirx.Bind(var, at), self.stmt(s.body), step])
        return tirx.SeqStmt([tirx.AllocBuffer(counter), tirx.BufferStore(counter, zero, [zero]),
                             tirx.While(tirx.LT(at, extent), body)])

    def unrolled(self, s: For, k: int) -> Any:
        self.vars[s.var] = tirx.const(k, self.index_type)
        return self.stmt(s.body)

    def with_shared(self, exprs: list[Expr], then: Any) -> Any:
        """`then(*exprs)` under bindings of the data expressions that are used more than once, so that a DAG does not become
        a tree. What `then` gets has its transcendentals written out."""
        exprs = [vector_math.expand(e) if e.dtype is not INDEX else e for e in exprs]
        self.memo = {}
        self.roots = exprs
        uses: dict[int, int] = {}
        order = postorder(*exprs)
        for node in order:
            for child in node.children:
                uses[id(child)] = uses.get(id(child), 0) + _copies(node)
        binds: list[Any] = []
        for node in order:
            if isinstance(node, Reduce):
                raise CodegenError("a reduction was not scheduled", where=self.kernel.name)
            if uses.get(id(node), 0) > 1 and node.dtype is not INDEX and not isinstance(node, (Const, Var)) and \
                    not (isinstance(node, Load) and node.buffer.space is Space.LOCAL):
                before, self.memo[id(node)] = self.hold(f"t{len(binds) // 2}", node.dtype, self.value(node))
                binds += before
        done = then(*exprs)
        return tirx.SeqStmt([*binds, done]) if binds else done

    def hold(self, name: str, d: DType, value: Any) -> tuple[list[Any], Any]:
        """Keep a data value in a local of its own: statements before, and the load.

        A TIR Bind would do, but TVM's analyzer inlines bound values into each other, exponentially in their nesting.
        """
        index, count = self.lane or (tirx.const(0, self.index_type), 1)
        buffer = tirx.decl_buffer((count,), "uint8" if d.kind == "bool" else self.type_of(d), name, scope="local")
        loaded = tirx.BufferLoad(buffer, [index])
        statements = [tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, self.stored(value, d), [index])]
        return statements, tirx.NE(loaded, tirx.const(0, "uint8")) if d.kind == "bool" else loaded

    # Expressions
    def type_of(self, d: DType) -> str:
        return self.index_type if d is INDEX else _TVM[d.name]

    def flat(self, buffer: Buffer, index: tuple[Expr, ...]) -> Any:
        if len(index) == 1:
            return self.value(index[0])
        offset: Expr = index[0] if index else const(0, INDEX)
        for i, n in zip(index[1:], buffer.shape[1:]):
            offset = offset * n + i
        return self.value(offset)

    def stored(self, value: Any, d: DType) -> Any:
        return tirx.Cast("uint8", value) if d.kind == "bool" else value

    def value(self, e: Expr) -> Any:
        found = self.memo.get(id(e)) if isinstance(e, (Apply, Load)) else None
        if found is not None:
            return found
        if isinstance(e, Const):
            return self.constant(e)
        if isinstance(e, Var):
            return self.vars[e]
        if isinstance(e, Load):
            loaded = tirx.BufferLoad(self.buffers[e.buffer], [self.flat(e.buffer, e.index)])
            return tirx.NE(loaded, tirx.const(0, "uint8")) if e.dtype.kind == "bool" else loaded
        if isinstance(e, Apply):
            return self.apply(e)
        raise CodegenError(f"no TIR for {e!r}", where=self.kernel.name)

    def constant(self, e: Const) -> Any:
        if e.dtype.is_float and not math.isfinite(e.value):
            kind = _TVM[e.dtype.name]
            if math.isnan(e.value):
                bits = {"float32": ("uint32", 0x7FC00000), "float64": ("uint64", 0x7FF8000000000000)}[kind]
                return tirx.reinterpret(kind, tirx.const(bits[1], bits[0]))
            return tirx.infinity(kind) if e.value > 0 else -tirx.infinity(kind)
        if e.dtype.name == "bf16":
            raise CodegenError("a bf16 literal must be cast from f32", where=self.kernel.name)
        return tirx.const(e.value, self.type_of(e.dtype))

    def apply(self, e: Apply) -> Any:
        if e.kind == "cast":
            return self.cast(e.args[0], e.dtype)
        if e.kind in ("floordiv", "floormod") and e.dtype is INDEX and bounds(e.args[0])[0] >= 0:
            node = tirx.Div if e.kind == "floordiv" else tirx.Mod
            return node(*map(self.value, e.args))
        if e.kind in ("min", "max") and e.dtype.is_float:
            return self.extremum(e)
        added = {"add": (0, 1), "sub": (0, 1), "fma": (2,)}.get(e.kind, ())
        args = [self.rounded(a) if k in added else self.value(a) for k, a in enumerate(e.args)]
        simple = _NODES.get(e.kind)
        if simple is not None:
            return simple(*args)
        is_bool = e.args[0].dtype.kind == "bool"
        match e.kind:
            case "select":
                return tirx.Select(*args)
            case "bitcast":
                return tirx.reinterpret(_TVM[e.dtype.name], args[0])
            case "neg":
                return tirx.Mul(args[0], tirx.const(-1, self.type_of(e.dtype))) if not e.dtype.is_float \
                    else tirx.Sub(tirx.const(-0.0, _TVM[e.dtype.name]), args[0])
            case "abs":
                return tirx.abs(args[0])
            case "fma":
                # TVM's LowerIntrin makes llvm.fmuladd of this sum, and of operands that are converted from half floats vectors
                # before the conversion: one instruction for all lanes, where there are two for the one and its broadcast.
                if not self.fuses or any(isinstance(a, tirx.Cast) for a in args[:2]):
                    return tirx.Add(args[2], tirx.Mul(args[0], args[1]))
                return tirx.call_llvm_pure_intrin(_TVM[e.dtype.name], "llvm.fma", *args)
            case "isnan":
                return _is_nan(args[0], e.args[0].dtype.bits)
            case "and":
                return tirx.And(*args) if is_bool else tirx.bitwise_and(*args)
            case "or":
                return tirx.Or(*args) if is_bool else tirx.bitwise_or(*args)
            case "xor":
                return tirx.NE(*(tirx.Cast("uint8", a) for a in args)) if is_bool else tirx.bitwise_xor(*args)
            case "not":
                return _not(args[0]) if is_bool else tirx.bitwise_not(args[0])
            case "eq" | "ne" if is_bool:
                node = tirx.EQ if e.kind == "eq" else tirx.NE
                return node(*(tirx.Cast("uint8", a) for a in args))
            case "eq":
                return tirx.EQ(*args)
            case "ne":
                return _not(tirx.EQ(*args)) if e.args[0].dtype.is_float else tirx.NE(*args)
            case "shl":
                return tirx.shift_left(*args)
            case "shr":
                return tirx.shift_right(*args)
            case "fmod":
                return tirx.call_pure_extern(_TVM[e.dtype.name], "fmod" if e.dtype.name == "f64" else "fmodf", *args)
            case "round":
                return tirx.call_llvm_pure_intrin(_TVM[e.dtype.name], "llvm.roundeven", args[0])
            case kind if kind in LIBM:
                return tirx.call_pure_extern(_TVM[e.dtype.name], kind, *args)
        function = getattr(tirx, e.kind, None)
        if function is None:
            raise CodegenError(f"no TIR for {e.kind}", where=self.kernel.name)
        return function(*args)

    def rounded(self, e: Expr) -> Any:
        """The value of something that is added or may come to be, as what it was rounded to."""
        value = self.value(e)
        if not self.fuses or not self.is_product(e):
            return value
        return tirx.call_llvm_pure_intrin(_TVM[e.dtype.name], "llvm.arithmetic.fence", value)

    def is_product(self, e: Expr) -> bool:
        """Whether a float is a product, of either sign, in any branch, or read where the kernel itself has put one: LLVM sees
        through memory."""
        found = self.is_one.get(e)
        if found is None:
            found = self.is_one[e] = _may_be_product(e, self.products, self.is_product)
        return found

    @cached_property
    def products(self) -> frozenset[Buffer]:
        """Buffers that take products, or may."""
        taken: frozenset[Buffer] = frozenset()
        while True:
            found = {target for target, value in self.moves if _may_be_product(value, taken)}
            if found <= taken:
                return taken
            taken |= found

    @cached_property
    def moves(self) -> list[tuple[Buffer, Expr]]:
        """What is put into buffers, by which."""
        every = list(statements(self.kernel.body))
        stores = [(s.buffer, s.value) for s in every if isinstance(s, Store) and s.value.dtype.is_float]
        return [*stores, *((s.target, s.source[0]) for s in every if isinstance(s, Shuffle) and s.source.dtype.is_float)]

    def extremum(self, e: Apply) -> Any:
        """min and max that propagate NaN; one instruction where an argument is a constant, else three: with `x` in place of the
        literal NaN, LLVM would join both conditions, and a comparison is no min or max any more."""
        a, b = e.args
        test = tirx.LT if e.kind == "min" else tirx.GT
        if isinstance(a, Const):
            a, b = b, a
        x, y = self.value(a), self.value(b)
        if isinstance(b, Const) and not math.isnan(b.value):
            return tirx.Select(test(y, x), y, x)
        return tirx.Select(_is_nan(x, e.dtype.bits), self.value(const(math.nan, e.dtype)), tirx.Select(test(x, y), x, y))

    def cast(self, x: Expr, d: DType) -> Any:
        value = self.value(x)
        if x.dtype.name == "bf16":
            wide = tirx.reinterpret("float32", tirx.shift_left(tirx.Cast("uint32", value), tirx.const(16, "uint32")))
            return wide if d is F32 else tirx.Cast(self.type_of(d), wide)
        if d.name == "bf16":
            if x.dtype is not F32:
                value = tirx.Cast("float32", value)
            return _to_bf16(value)
        if d.kind == "bool":
            zero = tirx.const(0, self.type_of(x.dtype))
            return _not(tirx.EQ(value, zero)) if x.dtype.is_float else tirx.NE(value, zero)
        if x.dtype.kind == "bool":
            value = tirx.Select(value, tirx.const(1, "uint8"), tirx.const(0, "uint8"))
        return tirx.Cast(self.type_of(d), value)


def _call(name: str, *arguments: Any) -> Any:
    return tirx.Evaluate(tirx.call_extern("void", name, *arguments))


def _copies(node: Expr) -> int:
    """How often the TIR of a node repeats its arguments."""
    if not isinstance(node, Apply):
        return 1
    twice = (node.kind in ("min", "max") and node.dtype.is_float) or node.kind == "isnan" or \
        (node.kind == "cast" and node.dtype.name == "bf16")
    return 2 if twice else 1


def _may_be_product(e: Expr, products: frozenset[Buffer], of: Callable[[Expr], bool] | None = None) -> bool:
    """Whether a float can come out of a multiplication, or out of a buffer of `products`; functions may be polynomials."""
    if isinstance(e, Load):
        return e.buffer in products
    if not isinstance(e, Apply) or not e.dtype.is_float:
        return False
    within = e.args[1:] if e.kind == "select" else e.args if e.kind == "neg" else ()
    return e.kind == "mul" or e.kind in TRANSCENDENTAL or any(
        _may_be_product(a, products) if of is None else of(a) for a in within)


def _to_bf16(value: Any) -> Any:
    """Round to nearest even, NaN kept quiet."""
    bits = tirx.reinterpret("uint32", value)
    u = lambda v: tirx.const(v, "uint32")
    odd = tirx.bitwise_and(tirx.shift_right(bits, u(16)), u(1))
    rounded = tirx.shift_right(tirx.Add(tirx.Add(bits, u(0x7FFF)), odd), u(16))
    quiet = tirx.bitwise_or(tirx.shift_right(bits, u(16)), u(0x40))
    return tirx.Cast("uint16", tirx.Select(_is_nan(value, 32), quiet, rounded))


def _not(x: Any) -> Any:
    """As a byte compared: TVM's simplifier turns Not(a < b) into b <= a, and its a != b is ordered; NaN contradicts both."""
    return tirx.EQ(tirx.Cast("uint8", x), tirx.const(0, "uint8"))


def _is_nan(x: Any, bits: int) -> Any:
    """Whether a float of so many bits is NaN, asked in integers: TVM folds `x != x` to false, and of its isnan in a vector LLVM
    gets single lanes, which it joins at random."""
    whole = f"uint{bits}"
    magnitude = tirx.bitwise_and(tirx.reinterpret(whole, x), tirx.const((1 << (bits - 1)) - 1, whole))
    return tirx.GT(magnitude, tirx.const(INFINITY[bits], whole))


INFINITY = {16: 0x7C00, 32: 0x7F800000, 64: 0x7FF0000000000000}  # its bits, by the width of the float
_NODES = {"add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul, "lt": tirx.LT, "le": tirx.LE, "div": tirx.Div,
          "floordiv": tirx.FloorDiv, "floormod": tirx.FloorMod, "min": tirx.Min, "max": tirx.Max}
