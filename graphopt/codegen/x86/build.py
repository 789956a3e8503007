"""A program to machine code: one TVM module, private kernels, one public function per stretch of kernel calls."""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tvm
from tvm import ir, tirx

from graphopt.cache import naming, store
from graphopt.cache import objects as disk
from graphopt.codegen.program import steps as walk
from graphopt.codegen.program.plan import Host, Program, Step
from graphopt.codegen.x86 import native
from graphopt.codegen.x86.emit import NEEDS, emit_kernel
from graphopt.codegen.x86.entry import MARK, entry, parameters
from graphopt.codegen.x86.isa import lacking
from graphopt.errors import CodegenError
from graphopt.targets.x86 import X86

# Where programs run in memory: TVM's thread pool would take half of the processors, guessing that they are hyper-threads.
os.environ.setdefault("TVM_NUM_THREADS", str(len(os.sched_getaffinity(0))))

log = logging.getLogger("graphopt")

LARGE_OBJECT = 1 << 26  # bytes: far more than any kernel's


@dataclass
class Code:
    """Compiled stretches of a program: function `names[k]` runs stretch k.

    With a C compiler they are in `library`, a shared object (a file, or its bytes) on top of the runtime library `runtime`,
    and take the address of an array of pointers. Without, `functions` are TVM's and take the pointers. Both want those of
    `parameters`: inputs, outputs, weights, arena.
    """

    names: list[str]
    library: Path | bytes | None = None
    runtime: tuple[Path | bytes, str] | None = None  # and what names that build of it
    functions: list[Callable[..., Any]] = field(default_factory=list)
    seconds: float = 0.0
    from_cache: bool = False
    _module: Any = None
    _source: Callable[[], Any] = field(repr=False, default=lambda: None)

    @property
    def in_memory(self) -> bool:
        """Whether it runs on TVM's runtime and thread pool."""
        return bool(self.names) and self.library is None

    def tir(self) -> str:
        """The TIR of every kernel and of main."""
        return self._source().script()

    def asm(self) -> str:
        """Assembly text, of code in memory."""
        return self._module.inspect_source("asm")


def stretches(program: Program, each: bool = False) -> list[list[Step] | Host]:
    """Runs of steps between host steps; with `each`, every step its own."""
    out: list[list[Step] | Host] = []
    for step in program.steps:
        if isinstance(step, Host):
            out.append(step)
        elif out and isinstance(out[-1], list) and not each:
            out[-1].append(step)
        else:
            out.append([step])
    return out


def marks_at(program: Program) -> int:
    """Where in the arena, made larger, the marks of a program that takes the time begin."""
    return -(-program.arena_size // MARK) * MARK


def build(program: Program, target: X86, each: bool = False, in_memory: bool = False, marks: bool = False) -> Code:
    """Compile, or take from the cache on disk. With `each`, one function per kernel call (to look at what each leaves).

    `in_memory` keeps the code with TVM, as it is without a C compiler: only such code has assembly text. With `marks`, every
    function notes the time as it begins and after each kernel: one `struct timespec` after the other from `marks_at` on, those
    of the next function behind, in an arena that the caller has made larger by that.
    """
    calls = [s for s in stretches(program, each) if isinstance(s, list)]
    names = [f"main_{k}" if k else "main" for k in range(len(calls))]
    if not calls:
        return Code([])
    start = time.perf_counter()
    in_memory = in_memory or native.compiler() is None
    clocks = [marks_at(program) + MARK * (sum(map(len, calls[:k])) + k) for k in range(len(calls))] if marks else []
    make = lambda: ir_module(program, calls, names, target.fuses, in_memory, clocks)
    if in_memory:
        module = compile_module(make(), target)
        functions = [module.get_function(n) for n in names]
        return Code(names, functions=functions, seconds=time.perf_counter() - start, _module=module, _source=make)
    key = _digest(program, calls, target, clocks)
    library: Path | bytes | None = disk.load(key)
    cached = library is not None
    if library is None:
        made = native.link(_objects(program, calls, names, target, clocks))
        library = disk.store(key, made) or made
    return Code(names, library, runtime_library(), [], time.perf_counter() - start, cached, None, make)


@cache
def runtime_library() -> tuple[Path | bytes, str]:
    """The library that compiled programs run on, and what names this build of it."""
    key = native.runtime_key()
    found = disk.load(key, "runtime")
    if found is None:
        made = native.build_runtime()
        return disk.store(key, made, "runtime") or made, key
    return found, key


def compile_module(mod: Any, target: X86) -> Any:
    needed = [f for function in mod.functions.values() for f in str((function.attrs or {}).get(NEEDS, "")).split()]
    if without := lacking(target, needed):  # LLVM would end the process
        raise CodegenError(f"the kernels need {', '.join(without)}, and {target.name} has not", hint="Take other rows of isa.py")
    machine = tvm.target.Target(target.llvm_target())
    try:
        return tvm.get_global_func("target.build.llvm")(_lowering(machine)(mod), machine)
    except Exception as e:
        raise CodegenError(f"TVM could not compile the program: {type(e).__name__}: {e}",
                           hint="This is a bug in graphopt; please report it") from e


def _objects(program: Program, calls: list[list[Step]], names: list[str], target: X86, clocks: list[int]) -> list[bytes]:
    """Object files of the kernels and of the functions that call them, made side by side: LLVM takes most of a compilation.

    A kernel's symbol is the hash of what it was made from. Its object is kept on disk: profiles and other models share it.
    """
    base = "\0".join((_compiler(), store.outside(), tvm.__version__, _machine(target), ""))
    keys = {k.name: key for k, key in zip(program.kernels, program.keys)}
    symbols = {name: f"kernel_{hashlib.sha256((base + key).encode()).hexdigest()}" for name, key in keys.items()}
    used = {c.kernel.name: c.kernel for stretch in calls for c in walk.calls(stretch)}

    def kernel(name: str) -> bytes:
        symbol = symbols[name]
        found = disk.load_bytes(symbol, "objects")
        if found is not None:
            return found
        function = emit_kernel(used[name], target.fuses).with_attr("global_symbol", symbol)
        made = _object(tvm.IRModule({ir.GlobalVar(symbol): function}), target)
        disk.store(symbol, made, "objects")
        return made

    def entries() -> bytes:
        mains = {ir.GlobalVar(n): entry(program, c, n, symbols, packed=False, clock=clocks[k] if clocks else None)
                 for k, (n, c) in enumerate(zip(names, calls))}
        return _object(tvm.IRModule(mains), target)

    largest = sorted(used, key=lambda name: -len(keys[name]))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        try:
            made = [workers.submit(kernel, name) for name in largest]
        except RuntimeError as e:  # no thread can be started: one after the other, then
            log.info("kernels are compiled one after the other: %s", e)
            workers.shutdown(cancel_futures=True)
            return [entries(), *map(kernel, largest)]
        return [entries(), *(m.result() for m in made)]


def _object(mod: Any, target: X86) -> bytes:
    """The object file of a module, made in memory: where a file system is full LLVM ends the process."""
    room = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if room != resource.RLIM_INFINITY and room < LARGE_OBJECT:
        raise CodegenError(f"files of this process may have {room} bytes, and LLVM ends it where that is too few",
                           where="ulimit -f", hint=f"Allow at least {LARGE_OBJECT}")
    module = compile_module(mod, target)
    try:
        memory = os.memfd_create("graphopt-code.o", os.MFD_CLOEXEC)
    except OSError as e:
        raise CodegenError(f"there is no memory for an object file: {e.strerror}") from e
    try:
        module.write_to_file(f"/proc/self/fd/{memory}", "o")
        with os.fdopen(os.dup(memory), "rb") as f:
            f.seek(0)
            return f.read()
    finally:
        os.close(memory)


def _lowering(machine: Any) -> Any:
    """The passes that our kernels need, and no others: they come scheduled, flat and without blocks.

    Without LowerTVMBuiltin local buffers stay on the stack, where LLVM promotes them to registers; the pass would
    turn them into allocations at run time. Without StmtSimplify floats keep their meaning: it makes x - x zero and
    x == x true whatever x is, and refuses constants divided by zero. Indices are simplified before they come here.
    """
    t = tirx.transform
    return tvm.ir.transform.Sequential([
        t.BindTarget(machine.with_host(machine)), t.VectorizeLoop(True), t.VerifyMemory(),
        t.SplitHostDevice(), t.LowerIntrin()])


def ir_module(program: Program, calls: list[list[Step]], names: list[str], fuses: bool, packed: bool = False,
              clocks: Sequence[int] = ()) -> Any:
    """The TVM module: kernels under their own names, then the public functions, `packed` for calls through TVM."""
    kernels = {k.name: ir.GlobalVar(k.name) for k in program.kernels}
    functions = {variable: emit_kernel(k, fuses) for k, variable in zip(program.kernels, kernels.values())}
    for k, (name, stretch) in enumerate(zip(names, calls)):
        functions[ir.GlobalVar(name)] = entry(program, stretch, name, kernels, packed, clocks[k] if clocks else None)
    return tvm.IRModule(functions)


def _digest(program: Program, calls: list[list[Step]], target: X86, clocks: Sequence[int]) -> str:
    """Everything that the machine code depends on, hashed: kernels, calls, target, and this compiler itself."""
    h = hashlib.sha256()
    for text in (_compiler(), store.outside(), tvm.__version__, _machine(target), str(parameters(program)), str(clocks),
                 *program.keys):
        h.update(text.encode() + b"\0")
    for stretch in calls:
        h.update(walk.text(stretch).encode() + b"\0")
    return h.hexdigest()


def _machine(target: X86) -> str:
    """All that kernels ask of a target."""
    return " ".join(f"{name}={sorted(v) if isinstance(v, frozenset) else v}" for name, v in sorted(vars(target).items()))


def _compiler() -> str:
    """Names what makes code of a kernel; where a source has changed since this process began, the process is on its own."""
    return naming.sources(*naming.MAKE_CODE) or _ALONE


_ALONE = uuid.uuid4().hex
