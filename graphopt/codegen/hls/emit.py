"""A program as a Vitis HLS design: one C++ top function that calls the kernels in order over on-chip arrays.

Inputs and outputs are AXI masters, copied in and out in bursts; weights are constants; the memory plan's arena becomes
one array for each of its blocks, shared by the tensors that the plan put there.

In f32 a product and a sum are two operators, rounded each, and `fma` is fmaf: Vitis may join them only under
unsafe_math_optimizations, which our configuration does not turn on. In fixed point an `fma` is rounded once to the accumulator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphopt.codegen.c.emit import PRELUDE, STORED, Dialect, Printer, identifier
from graphopt.codegen.c.host import FLAGS, load
from graphopt.codegen.hls import bench
from graphopt.codegen.hls.ap_types import include_flags
from graphopt.codegen.hls.number import FixedPrinter, Number
from graphopt.codegen.kernel.expr import Buffer
from graphopt.codegen.kernel.loops import For, Kernel, statements
from graphopt.codegen.kernel.spaces import Scope
from graphopt.codegen.program.launches import interface, places
from graphopt.codegen.program.plan import Call, Program, Slot
from graphopt.errors import TargetError
from graphopt.ir.types import DType
from graphopt.targets.fpga import Fpga


@dataclass(frozen=True)
class HlsDialect(Dialect):
    """Array parameters instead of pointers, and a pragma in every innermost loop."""

    name: str = "hls"
    prefetch: str = ""
    headers: str = ""
    restrict: str = ""

    def before_loop(self, s: For) -> Sequence[str]:
        return ()

    def in_loop(self, s: For) -> Sequence[str]:
        if s.scope is Scope.UNROLL:
            return ("#pragma HLS UNROLL",)
        return () if any(isinstance(x, For) for x in statements(s.body)) else ("#pragma HLS PIPELINE",)


class _ArrayParameters(Printer):
    def parameter(self, b: Buffer) -> str:
        return f"{self.stored_type(b)} {self.name(b)}[{max(b.size, 1)}]"


class _FixedParameters(_ArrayParameters, FixedPrinter):
    def __init__(self, kernel: Kernel, dialect: Dialect, number: Number) -> None:
        super().__init__(kernel, dialect)
        self.number = number


class Design:
    """The files of one program for one part. `number` is `float` or `ap_fixed<W,I>`."""

    def __init__(self, program: Program, target: Fpga, number: str = "float") -> None:
        self.program, self.target, self.number = program, target, Number.parse(number)
        self.name = f"{identifier(program.graph.name)}_top"
        self.ports = interface(program)

    def files(self) -> dict[str, str]:
        """The design and its build scripts, by file name."""
        return {"graphopt.h": f"#pragma once\n#include <cmath>\n#include <cstdint>\n#define GO_FN static inline\n{PRELUDE}",
                "top.h": self.header(), "top.cpp": self.top(), "weights.h": self.weights(),
                "hls_config.cfg": bench.config(self.name, self.target), "build.tcl": bench.tcl(self.name, self.target),
                "Makefile": bench.makefile()}

    def test_bench(self, samples: Sequence[Sequence[np.ndarray]], expected: Sequence[Sequence[np.ndarray]],
                   rtol: float | None = None, atol: float | None = None) -> dict[str, str]:
        """A program that runs the samples and compares with what is expected; it exits with 1 where they differ."""
        rtol, atol = (self.number.tolerance if given is None else given for given in (rtol, atol))
        return bench.test_bench(self.name, self.ports, samples, expected, rtol, atol)

    # Text
    def signature(self) -> str:
        ports = [f"{'const ' if space == 'input' else ''}{STORED[t.dtype.name]} {space}{k}[{max(bench.count(t), 1)}]"
                 for space, k, t in self.ports]
        return f"void {self.name}({', '.join(ports)})"

    def header(self) -> str:
        return f'#pragma once\n#include "graphopt.h"\n{self.number.declarations()}\n{self.signature()};\n'

    def held(self, d: DType) -> str:
        """The C++ type of an on-chip array's elements."""
        return "data_t" if self.number.fixed and d.name == "f32" else STORED[d.name]

    def weights(self) -> str:
        lines = ["#pragma once", '#include "top.h"', ""]
        for k, w in enumerate(self.program.weights):
            array = w.tensor.numpy() if w.packing is None else w.packing.apply(w.tensor.numpy())
            held = self.held(w.tensor.type.dtype)
            lines.append(f"static const {held} w{k}[{max(array.size, 1)}] = {bench.initialiser(array)};")
        return "\n".join(lines) + "\n"

    def kernel(self, kernel: Kernel) -> str:
        dialect = HlsDialect()
        printer = _FixedParameters(kernel, dialect, self.number) if self.number.fixed else _ArrayParameters(kernel, dialect)
        return printer.function()

    def top(self) -> str:
        program = self.program
        parts = [f"// @{program.graph.name} for {self.target.part}, written by graphopt",
                 '#include "top.h"', '#include "weights.h"', ""]
        for kernel in program.kernels:
            users = "; ".join(places(c) for c in program.calls if c.kernel is kernel)
            parts += [f"// {users}", self.kernel(kernel)]
        parts += [f"{self.signature()} {{"]
        for n, (space, k, t) in enumerate(self.ports):
            depth = max(bench.count(t), 1)
            parts.append(f"#pragma HLS INTERFACE m_axi port={space}{k} offset=slave bundle=gmem{n} depth={depth}")
        parts.append("#pragma HLS INTERFACE s_axilite port=return")
        for space, k, t in self.ports:
            parts.append(f"  static {self.held(t.dtype)} {space}{k}_held[{max(bench.count(t), 1)}];")
        for (at, d), size in self.arrays.items():
            parts.append(f"  static {self.held(d)} a{at}_{d}[{size}];")
        parts += [self.copy(f"{s}{k}_held", f"{s}{k}", t.dtype, bench.count(t), True) for s, k, t in self.ports if s == "input"]
        for step, call in enumerate(program.calls):
            args = ", ".join(self.argument(call, position, step) for position in range(len(call.args)))
            parts.append(f"  {call.kernel.name}({args});  // {places(call)}")
        parts += [self.copy(f"{s}{k}", f"{s}{k}_held", t.dtype, bench.count(t), False) for s, k, t in self.ports if s == "output"]
        return "\n".join([*parts, "}", ""])

    def copy(self, to: str, source: str, d: DType, size: int, into: bool) -> str:
        element = f"{source}[i]"
        if self.number.fixed and d.name == "f32":
            element = f"go_fixed({element})" if into else f"{element}.to_float()"
        return f"  for (int i = 0; i < {size}; ++i) {{\n#pragma HLS PIPELINE\n    {to}[i] = {element};\n  }}"

    # Memory
    @cached_property
    def arrays(self) -> dict[tuple[int, DType], int]:
        """Elements of the array for each arena block, by its offset and dtype."""
        found: dict[tuple[int, DType], int] = {}
        dtypes: dict[tuple[int, int], DType] = {}
        for step, call in enumerate(self.program.calls):
            for slot, buffer in zip(call.args, call.kernel.params):
                if slot.space == "arena":
                    first, _, at, size = self.block(slot, step)
                    self.one_dtype(dtypes.setdefault((at, first), buffer.dtype), buffer.dtype, call)
                    key = (at, buffer.dtype)
                    found[key] = max(found.get(key, 0), size // buffer.dtype.itemsize)
        return dict(sorted(found.items(), key=lambda item: (item[0][0], item[0][1].name)))

    @staticmethod
    def one_dtype(held: DType, read: DType, call: Call) -> None:
        if held is not read:
            raise TargetError(f"memory of {held} is read as {read}, which HLS cannot do", where=call.op.where(),
                              hint="Remove the bit cast from the model")

    def block(self, slot: Slot, step: int) -> tuple[int, int, int, int]:
        """The arena block (first step, last step, offset, bytes) that the slot lies in when step `step` runs."""
        lifetimes = self.program.lifetimes
        step = min(step, max(last for _, last, _, _ in lifetimes))  # copies to outputs come after all other steps
        return next(b for b in lifetimes if b[0] <= step <= b[1] and b[2] <= slot.offset < b[2] + b[3])

    def argument(self, call: Call, position: int, step: int) -> str:
        slot, buffer = call.args[position], call.kernel.params[position]
        if slot.space in ("input", "output"):
            held = next(t.dtype for space, k, t in self.ports if (space, k) == (slot.space, slot.index))
            self.one_dtype(held, buffer.dtype, call)
            name, start = f"{slot.space}{slot.index}_held", 0
        elif slot.space == "arena":
            _, _, start, _ = self.block(slot, step)
            name = f"a{start}_{buffer.dtype}"
        else:
            k = max(k for k, w in enumerate(self.program.weights) if w.offset <= slot.offset)
            name, start = f"w{k}", self.program.weights[k].offset
        offset = (slot.offset - start) // buffer.dtype.itemsize
        return f"{name} + {offset}" if offset else name

    # On the host
    def host_function(self) -> Callable[..., Any]:
        """The design built by the host's compiler: a function of pointers to inputs and outputs (and two more, ignored)."""
        params = ", ".join(f"{'const ' if s == 'input' else ''}void* {s}{k}" for s, k, _ in self.ports)
        args = ", ".join(f"({'const ' if s == 'input' else ''}{STORED[t.dtype.name]}*){s}{k}" for s, k, t in self.ports)
        wrapper = f'#include "top.cpp"\nextern "C" void graphopt_run({params}) {{ {self.name}({args}); }}\n'
        flags = (*FLAGS, "-Wno-unknown-pragmas", *(include_flags() if self.number.fixed else ()))
        library = load({**self.files(), "wrapper.cpp": wrapper}, "wrapper.cpp", flags)
        lock = threading.Lock()  # the arrays on the chip are static

        def run(*pointers: Any) -> None:
            with lock:
                library.graphopt_run(*pointers[:len(self.ports)])

        return run


__all__ = ["Design", "HlsDialect"]
