"""A program as CUDA C++: kernels, and the function that launches them in order.

The mapping is the plain one. Loops of scope GRID (or PARALLEL) at a kernel's root become a grid-stride loop,
one element (or one row, where rows share a reduction) a thread; kernels without such loops run on one thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.codegen.c.emit import Dialect, Printer
from graphopt.codegen.kernel.expr import Buffer, Const, Expr, Load, Var, postorder
from graphopt.codegen.kernel.fission import serial
from graphopt.codegen.kernel.loops import AsyncCopy, Dot, For, If, Kernel, Let, Seq, Stmt, Store, TileLoad, TileStore, statements
from graphopt.codegen.kernel.spaces import Scope, Space
from graphopt.codegen.program.launches import interface, places, pointer
from graphopt.codegen.program.plan import Program
from graphopt.targets.cuda import Cuda

MOST_BLOCKS = 1 << 16  # more iterations than threads make the grid-stride loop turn

HEADERS = """\
#if defined(GRAPHOPT_EMULATE)
#include "emulation.h"
#elif defined(__CUDACC_RTC__)
typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;
typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned uint32_t; typedef unsigned long long uint64_t;
#else
#include <cmath>
#include <cstdint>
#define GO_LAUNCH(kernel, blocks, threads, stream, ...) kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#endif
"""


@dataclass(frozen=True)
class CudaDialect(Dialect):
    name: str = "cuda"
    prefetch: str = ""
    headers: str = HEADERS
    helper: str = "static __device__ __forceinline__"
    function: str = 'extern "C" __global__ void'

    def before_loop(self, s: For) -> Sequence[str]:
        return ("#pragma unroll",) if s.scope is Scope.UNROLL else ()


@dataclass(frozen=True)
class Launch:
    """How a kernel is launched: blocks, and threads of a block."""

    blocks: int
    threads: int


def chain(s: Stmt) -> tuple[list[tuple[Var, int]], Stmt]:
    """The perfect nest of loops over the grid of known extent that `s` begins with, and what it does for each element."""
    axes: list[tuple[Var, int]] = []
    while isinstance(s, For) and s.scope in (Scope.GRID, Scope.PARALLEL) and isinstance(s.extent, Const):
        axes.append((s.var, s.extent.value))
        s = s.body
    return axes, s


def parts(body: Stmt) -> list[Stmt]:
    return list(body.body) if isinstance(body, Seq) else [body]


def independent(of: Sequence[Stmt]) -> bool:
    """Whether no part touches memory that another one writes: only then may their threads overlap."""
    touched = [_memory(s) for s in of]
    return all(not written & (other_read | other_written)
               for k, (_, written) in enumerate(touched) for j, (other_read, other_written) in enumerate(touched) if j != k)


def _memory(s: Stmt) -> tuple[set[Buffer], set[Buffer]]:
    """Parameters that a statement reads and writes."""
    read: set[Buffer] = set()
    written: set[Buffer] = set()
    for x in statements(s):
        exprs: list[Expr] = []
        if isinstance(x, Store):
            written.add(x.buffer)
            exprs = [x.value, *x.index]
        elif isinstance(x, For):
            exprs = [x.extent]
        elif isinstance(x, If):
            exprs = [x.condition]
        elif isinstance(x, Let):
            exprs = [x.value]
        elif isinstance(x, Dot):
            written.add(x.target.buffer)
            exprs = [x.target, x.a, x.b]
        elif isinstance(x, AsyncCopy):
            read.add(x.source)
            exprs = [x.to, x.at]
        elif isinstance(x, (TileLoad, TileStore)):
            (read if isinstance(x, TileLoad) else written).add(x.buffer)
            exprs = [x.at, x.stride]
        read.update(n.buffer for n in postorder(*exprs) if isinstance(n, Load))
    return {b for b in read if b.space is Space.GLOBAL}, {b for b in written if b.space is Space.GLOBAL}


class CudaPrinter(Printer):
    """Binds the parallel loops at a kernel's root to the grid."""

    def __init__(self, kernel: Kernel, dialect: Dialect, block: int) -> None:
        super().__init__(kernel, dialect)
        body = serial(kernel.body)  # loops over blocks and their threads run on one thread, so far
        pieces = parts(body)
        self.pieces = pieces if independent(pieces) else [body]
        work = max((math.prod(n for _, n in chain(p)[0]) for p in self.pieces), default=1)
        single = not any(chain(p)[0] for p in self.pieces)
        self.launch = Launch(1, 1) if single else Launch(min(-(-work // block), MOST_BLOCKS), block)
        # Unsigned 32-bit positions must not overflow when a stride is added at the end.
        self.position = "uint64_t" if work + MOST_BLOCKS * block >= 1 << 32 else "uint32_t"

    def body(self, s: Stmt) -> None:
        for piece in self.pieces:
            axes, inner = chain(piece)
            if not axes:
                if self.launch.blocks * self.launch.threads == 1:
                    self.stmt(inner)
                else:
                    self.block("if (blockIdx.x == 0 && threadIdx.x == 0)", inner)
                continue
            self.bound(axes, inner)

    def bound(self, axes: list[tuple[Var, int]], inner: Stmt) -> None:
        total = math.prod(n for _, n in axes)
        at, p = Var("at"), self.position
        i = self.name(at)
        first, stride = f"({p})blockIdx.x * blockDim.x + threadIdx.x", f"({p})gridDim.x * blockDim.x"
        self.line(f"for ({p} {i} = {first}; {i} < {total}u; {i} += {stride}) {{")
        self.depth += 1
        step = total
        for k, (var, n) in enumerate(axes):
            step //= n
            part = i if step == 1 else f"{i} / {step}u"
            text = part if k == 0 else f"{part} % {n}u"
            self.line(f"const {self.index_type} {self.name(var)} = ({self.index_type})({text});")
        self.stmt(inner)
        for var, _ in axes:
            self.forget(var)
        self.depth -= 1
        self.line("}")
        self.forget(at)


def emit(program: Program, target: Cuda, name: str = "graphopt_run") -> tuple[str, dict[str, Launch]]:
    """The whole program's text, and how each kernel is launched."""
    dialect = CudaDialect()
    launches: dict[str, Launch] = {}
    kernels = []
    for kernel in program.kernels:
        printer = CudaPrinter(kernel, dialect, target.block)
        text = printer.function()
        launches[kernel.name] = printer.launch
        users = [places(c) for c in program.calls if c.kernel is kernel]
        kernels.append(f"// {'; '.join(users)}\n{text}")
    head = f"// @{program.graph.name} for {target.arch}, written by graphopt\n"
    return "\n".join([head + dialect.prelude(), *kernels, _run(program, launches, name)]), launches


def _run(program: Program, launches: dict[str, Launch], name: str) -> str:
    """The host's part: all launches, in order, on one stream."""
    params = [f"{'const ' if space == 'input' else ''}void* {space}{k}" for space, k, _ in interface(program)]
    params += ["const void* weights", "void* arena", "cudaStream_t stream"]
    lines = []
    for call in program.calls:
        launch = launches[call.kernel.name]
        args = ", ".join(pointer(call, k) for k in range(len(call.args)))
        lines.append(f"  GO_LAUNCH({call.kernel.name}, {launch.blocks}, {launch.threads}, stream, {args});")
    weights, arena = program.weights_size, program.arena_size
    return "\n".join([
        "#if !defined(__CUDACC_RTC__)",
        f"// All launches in order. weights: {weights} bytes, arena: {arena} bytes, in device memory, 64-byte aligned.",
        f'extern "C" int {name}({", ".join(params)}) {{', "  (void)weights; (void)arena;", *lines,
        "  return (int)cudaGetLastError();", "}", "#endif", ""])


__all__ = ["CudaDialect", "CudaPrinter", "Launch", "emit"]
