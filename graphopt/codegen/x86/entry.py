"""The entry function of a stretch of a program in TIR: calls of kernels in order, and the branches and loops around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import ir, tirx

from graphopt.codegen.program.plan import Program
from graphopt.codegen.program.steps import Branch, Call, Repeat, Slot, Step
from graphopt.codegen.x86.emit import STATUS, tvm_dtype
from graphopt.errors import CodegenError
from graphopt.ir.types import I64, U8, DType

PACKED = 1  # tvm::CallingConv::kCPackedFunc: no wrapper is made around it
CLOCK = 1  # CLOCK_MONOTONIC of Linux
MARK = 16  # bytes of a struct timespec


def parameters(program: Program) -> list[tuple[str, int]]:
    """What a public function takes: (space, index) of every pointer."""
    graph = program.graph
    return [*(("input", k) for k in range(len(graph.inputs))), *(("output", k) for k in range(len(graph.outputs))),
            ("weights", 0), ("arena", 0)]


def entry(program: Program, steps: Sequence[Step], name: str, kernels: Mapping[str, Any], packed: bool,
          clock: int | None = None) -> Any:
    """`int32_t name(void **pointers)`; packed: TVM's calling convention, whose arguments are of 16 bytes, a tag before each.

    `kernels` gives a kernel's function in this module, or its symbol in another; `clock` where in the arena it notes the time.
    """
    return _Entry(program, kernels, packed).function(steps, name, clock)


class _Entry:
    def __init__(self, program: Program, kernels: Mapping[str, Any], packed: bool) -> None:
        self.spaces, self.kernels, self.packed = parameters(program), kernels, packed
        self.given = tirx.Var("pointers", ir.PointerType(ir.PrimType("uint64"), "global"))
        self.stride, self.first = (2, 1) if packed else (1, 0)
        self.words = tirx.decl_buffer((self.stride * len(self.spaces),), "uint64", "pointers", data=self.given)
        self.numbers: dict[int, Any] = {}  # by loop, what loads the number of its iteration
        self.names = 0

    def function(self, steps: Sequence[Step], name: str, clock: int | None) -> Any:
        body: list[Any] = [tirx.DeclBuffer(self.words, data=self.given), *self.mark(clock, 0)]
        for k, step in enumerate(steps):
            body += [*self.step(step), *self.mark(clock, k + 1)]
        body.append(tirx.Return(tirx.const(0, "int32")))
        around = [tirx.Var("self", "handle"), self.given, tirx.Var("count", "int32"), tirx.Var("result", "handle")] \
            if self.packed else [self.given]
        main = tirx.PrimFunc(around, tirx.SeqStmt(body), ret_type=STATUS)
        return main.with_attr({"global_symbol": f"__tvm_ffi_{name}" if self.packed else name, "calling_conv": PACKED})

    def mark(self, clock: int | None, k: int) -> list[Any]:
        return [] if clock is None else [tirx.Evaluate(tirx.call_extern(
            "int32", "clock_gettime", tirx.const(CLOCK, "int32"), self.pointer(Slot("arena", 0, clock + MARK * k))))]

    # Memory
    def word(self, space: str, index: int) -> Any:
        at = self.spaces.index((space, index)) * self.stride + self.first
        return tirx.BufferLoad(self.words, [tirx.const(at, "int32")])

    def base(self, space: str, index: int) -> Any:
        return tirx.reinterpret("handle", self.word(space, index))

    def pointer(self, s: Slot) -> Any:
        start = self.base(s.space, s.index)
        return start if s.offset == 0 and not s.strides else tirx.handle_add_byte_offset(start, self.offset(s))

    def offset(self, s: Slot) -> Any:
        offset: Any = tirx.const(s.offset, "int64")
        for stride in s.strides:
            number = self.numbers[stride.loop]
            if stride.alternating:
                number = tirx.bitwise_and(number, tirx.const(1, "int64"))
            offset = tirx.Add(offset, tirx.Mul(number, tirx.const(stride.nbytes, "int64")))
        return offset

    def at(self, s: Slot, d: DType) -> tuple[list[Any], Any]:
        """Statements before, and the one element of that dtype that lies in a slot."""
        kind = tvm_dtype(d)
        self.names += 1
        pointer = ir.PointerType(ir.PrimType(kind), "global")
        data = tirx.Var(f"word{self.names}", pointer)
        buffer = tirx.decl_buffer((1,), kind, data.name, data=data)
        address = tirx.Add(self.word(s.space, s.index), tirx.Cast("uint64", self.offset(s)))
        return [tirx.Bind(data, tirx.reinterpret(pointer, address)), tirx.DeclBuffer(buffer, data=data)], buffer

    def read(self, s: Slot, d: DType) -> tuple[list[Any], Any]:
        before, buffer = self.at(s, d)
        return [self.barrier(), *before], tirx.BufferLoad(buffer, [tirx.const(0, "int32")])

    def write(self, s: Slot, d: DType, value: Any) -> list[Any]:
        before, buffer = self.at(s, d)
        return [self.barrier(), *before, tirx.BufferStore(buffer, value, [tirx.const(0, "int32")])]

    def barrier(self) -> Any:
        """Keep loads and stores of different kernels in order once LLVM has inlined them into main, and of main itself.

        TVM tags every buffer variable of a noalias function as memory of its own (TBAA). That holds within a kernel, but
        what one kernel writes the next one reads under another name. `llvm.clear_cache` may touch any memory as far
        as LLVM knows, and is no instruction on x86.
        """
        arena = self.base("arena", 0)
        return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.clear_cache", arena, arena))

    # Steps
    def sequence(self, steps: Sequence[Step]) -> Any:
        made = [s for step in steps for s in self.step(step)]
        return tirx.SeqStmt(made) if len(made) > 1 else made[0] if made else tirx.Evaluate(tirx.const(0, "int32"))

    def step(self, step: Step) -> list[Any]:
        if isinstance(step, Call):
            return self.call(step)
        if isinstance(step, Branch):
            before, taken = self.read(step.condition, U8)
            return [*before, tirx.IfThenElse(tirx.NE(taken, tirx.const(0, "uint8")), self.sequence(step.then),
                                             self.sequence(step.otherwise))]
        if isinstance(step, Repeat):
            return self.repeat(step)
        raise CodegenError("a step of the evaluator is no code", where=step.op.where())

    def call(self, c: Call) -> list[Any]:
        callee, arguments = self.kernels[c.kernel.name], [self.pointer(s) for s in c.args]
        if isinstance(callee, str):
            return [tirx.Evaluate(tirx.call_extern("int32", callee, *arguments))]
        return [self.barrier(), tirx.Evaluate(ir.Call(callee, arguments, ret_ty=STATUS))]

    def repeat(self, r: Repeat) -> list[Any]:
        zero, one = tirx.const(0, "int32"), tirx.const(1, "int64")
        number = tirx.decl_buffer((1,), "int64", f"iteration{r.number}", scope="local")
        going = tirx.decl_buffer((1,), "uint8", f"going{r.number}", scope="local")
        n, on = tirx.BufferLoad(number, [zero]), tirx.BufferLoad(going, [zero])
        self.numbers[r.number] = n
        made: list[Any] = [tirx.AllocBuffer(number), tirx.AllocBuffer(going),
                           tirx.BufferStore(number, tirx.const(0, "int64"), [zero])]
        for s in r.before:
            made += self.step(s)
        before, first = self.read(r.condition, U8) if r.condition is not None else ([], tirx.const(1, "uint8"))
        made += [*before, tirx.BufferStore(going, first, [zero])]
        if r.alive is not None:
            made += self.write(r.alive, U8, tirx.const(1, "uint8"))
        test = tirx.NE(on, tirx.const(0, "uint8"))
        if isinstance(r.trip, int):
            test = tirx.And(tirx.LT(n, tirx.const(r.trip, "int64")), test)
        elif r.trip is not None:
            slot, d = r.trip
            before, count = self.read(slot, d)
            bound = tirx.decl_buffer((1,), "int64", f"trip{r.number}", scope="local")
            made += [tirx.AllocBuffer(bound), *before, tirx.BufferStore(bound, tirx.Cast("int64", count), [zero])]
            test = tirx.And(tirx.LT(n, tirx.BufferLoad(bound, [zero])), test)
        body: list[Any] = [] if r.counter is None else self.write(r.counter, I64, n)
        for s in r.body:
            body += self.step(s)
        if r.again is not None:
            before, again = self.read(r.again, U8)
            body += [*before, tirx.BufferStore(going, again, [zero])]
        body.append(tirx.BufferStore(number, tirx.Add(n, one), [zero]))
        made.append(tirx.While(test, tirx.SeqStmt(body) if len(body) > 1 else body[0]))
        for s in r.after:
            made += self.step(s)
        return made


__all__ = ["MARK", "entry", "parameters"]
