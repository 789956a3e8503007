"""A program to machine code: one TVM module, private kernels, one public function per stretch of kernel calls."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import ir, tirx

from graphopt.codegen import cache as disk
from graphopt.codegen.plan import Call, Host, Program, Slot
from graphopt.codegen.tir.emit import STATUS, emit_kernel
from graphopt.errors import CodegenError
from graphopt.targets.x86 import X86

log = logging.getLogger("graphopt")

# TVM's thread pool would take half of the processors, on the guess that the others are hyper-threads.
os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))


@dataclass
class Code:
    """Compiled stretches of a program. `functions[k]` runs stretch k: pointers to inputs, outputs, weights and arena."""

    names: list[str]
    functions: list[Callable[..., Any]]
    seconds: float
    from_cache: bool
    _module: Any
    _source: Callable[[], Any] = field(repr=False, default=lambda: None)

    def tir(self) -> str:
        """The TIR of every kernel and of main."""
        return self._source().script()

    def asm(self) -> str:
        return self._module.inspect_source("asm")


def stretches(program: Program, each: bool = False) -> list[list[Call] | Host]:
    """Runs of kernel calls between host steps; with `each`, every call its own."""
    out: list[list[Call] | Host] = []
    for step in program.steps:
        if isinstance(step, Host):
            out.append(step)
        elif out and isinstance(out[-1], list) and not each:
            out[-1].append(step)
        else:
            out.append([step])
    return out


def build(program: Program, target: X86, each: bool = False, use_cache: bool = True) -> Code:
    """Compile, or load from the cache on disk. With `each`, one function per kernel call (for profiles).

    Code from the cache has no assembly text; `use_cache=False` compiles in memory.
    """
    calls = [s for s in stretches(program, each) if isinstance(s, list)]
    names = [f"main_{k}" if k else "main" for k in range(len(calls))]
    if not calls:
        return Code([], [], 0.0, False, None)
    start = time.perf_counter()
    make = lambda: ir_module(program, calls, names)
    key = _digest(program, calls, target)
    module = disk.load(key) if use_cache else None
    cached = module is not None
    if module is None:
        module = _compile(make(), target, key if use_cache else None)
    functions = [module.get_function(n) for n in names]
    return Code(names, functions, time.perf_counter() - start, cached, module, make)


def _compile(mod: Any, target: X86, key: str | None) -> Any:
    machine = tvm.target.Target(target.llvm_target())
    try:
        module = tvm.get_global_func("target.build.llvm")(_lowering(machine)(mod), machine)
    except Exception as e:
        raise CodegenError(f"TVM could not compile the program: {type(e).__name__}: {e}",
                           hint="This is a bug in graphopt; please report it") from e
    stored = disk.store(key, module) if key else None
    return module if stored is None else stored


def _lowering(machine: Any) -> Any:
    """The passes that our kernels need, and no others: they come scheduled, flat and without blocks.

    Without LowerTVMBuiltin local buffers stay on the stack, where LLVM promotes them to registers; the pass would
    turn them into allocations at run time. Without StmtSimplify floats keep their meaning: it makes x - x zero and
    x == x true whatever x is, and refuses constants divided by zero. Indices are simplified before they come here.
    """
    t = tirx.transform
    return tvm.ir.transform.Sequential([
        t.BindTarget(machine.with_host(machine)), t.VectorizeLoop(True), t.VerifyMemory(),
        t.AnnotateEntryFunc(), t.SplitHostDevice(), t.MakePackedAPI(), t.LowerIntrin()])


def ir_module(program: Program, calls: list[list[Call]], names: list[str]) -> Any:
    """The TVM module: kernels under their own names, then the public functions."""
    kernels = {k.name: ir.GlobalVar(k.name) for k in program.kernels}
    functions = {kernels[k.name]: emit_kernel(k) for k in program.kernels}
    for name, stretch in zip(names, calls):
        functions[ir.GlobalVar(name)] = _main(program, stretch, name, kernels)
    return tvm.IRModule(functions)


def parameters(program: Program) -> list[tuple[str, int]]:
    """What a public function takes: (space, index) of every pointer."""
    graph = program.graph
    return [*(("input", k) for k in range(len(graph.inputs))), *(("output", k) for k in range(len(graph.outputs))),
            ("weights", 0), ("arena", 0)]


def _main(program: Program, calls: list[Call], name: str, kernels: dict[str, Any]) -> Any:
    spaces = {p: tirx.Var(f"{p[0]}{p[1]}", "handle") for p in parameters(program)}

    def pointer(s: Slot) -> Any:
        base = spaces[s.space, s.index]
        return base if s.offset == 0 else tirx.handle_add_byte_offset(base, tirx.const(s.offset, "int64"))

    body: list[Any] = []
    for c in calls:
        if body:
            body.append(_barrier(spaces["arena", 0]))
        body.append(tirx.Evaluate(ir.Call(kernels[c.kernel.name], [pointer(s) for s in c.args], ret_ty=STATUS)))
    main = tirx.PrimFunc(list(spaces.values()), body[0] if len(body) == 1 else tirx.SeqStmt(body))
    return main.with_attr("global_symbol", name)


def _barrier(pointer: Any) -> Any:
    """Keep loads and stores of different kernels in order once LLVM has inlined them into main.

    TVM tags every buffer variable of a noalias function as memory of its own (TBAA). That holds within a kernel, but
    what one kernel writes the next one reads under another name. `llvm.clear_cache` may touch any memory as far
    as LLVM knows, and is no instruction on x86.
    """
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.clear_cache", pointer, pointer))


def _digest(program: Program, calls: list[list[Call]], target: X86) -> str:
    """Everything that the machine code depends on, hashed: kernels, calls, target, and this compiler itself."""
    h = hashlib.sha256()
    machine = f"{target.name} {target.llvm_target()} {target.l1} {target.l2} {target.fma}"
    for text in (_compiler_digest(), tvm.__version__, machine, str(parameters(program)), *program.keys):
        h.update(text.encode() + b"\0")
    for stretch in calls:
        h.update(b"|".join(f"{c.kernel.name}{[(s.space, s.index, s.offset) for s in c.args]}".encode() for c in stretch) + b"\0")
    return h.hexdigest()


_LOADED = time.time()


@cache
def _compiler_digest() -> str:
    """Hash of the sources of codegen and ir: a changed compiler finds no stale code.

    Where a source has changed since this process began, what runs is not what would be hashed: the process is on its own.
    """
    root = Path(__file__).parents[2]
    h = hashlib.sha256()
    for path in sorted([*root.glob("codegen/**/*.py"), *root.glob("ir/**/*.py")]):
        if path.stat().st_mtime >= _LOADED:
            return uuid.uuid4().hex
        h.update(path.read_bytes())
    return h.hexdigest()
