"""x86 CPUs: instruction sets, vector width and cores."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

from graphopt.errors import TargetError
from graphopt.targets.base import Target


@dataclass(frozen=True)
class X86(Target):
    """An x86-64 CPU by LLVM's name. `lanes` is f32 elements of a vector register, `registers` how many there are."""

    cpu: str = ""
    features: frozenset[str] = frozenset()
    threads: int = 1

    @property
    def lanes(self) -> int:
        return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4

    @property
    def registers(self) -> int:
        return 32 if "avx512f" in self.features else 16

    @staticmethod
    def named(cpu: str | None, threads: int | None = None) -> X86:
        """The CPU of that LLVM name, this machine's where None. `threads` defaults to the cores this process may use."""
        import tvm
        import tvm.target.codegen as llvm

        native = llvm.llvm_get_system_cpu()
        known = llvm.llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu"}))
        if cpu is not None and cpu not in known:
            import difflib

            near = difflib.get_close_matches(cpu, list(map(str, known)), 3)
            hint = f"Did you mean {' or '.join(near)}?" if near else "Use LLVM's -mcpu names"
            raise TargetError(f"unknown x86 CPU {cpu!r}", hint=hint)
        if threads is not None and threads < 1:
            raise TargetError(f"threads must be at least 1, got {threads}")
        name = cpu or str(native)
        return X86("x86", f"x86:{name}", name, _features(name), threads or len(os.sched_getaffinity(0)))

    def llvm_target(self) -> dict[str, object]:
        """TVM's target description."""
        return {"kind": "llvm", "mcpu": self.cpu, "mtriple": "x86_64-linux-gnu", "num-cores": self.threads, "mattr": ["-prefer-256-bit"]}

    def missing(self) -> list[str]:
        """Vector features that code for this CPU may use and this machine lacks."""
        here = X86.named(None).features
        return sorted(f for f in self.features - here if f.startswith(("avx", "fma", "f16c", "amx", "sse")))


@cache
def _features(cpu: str) -> frozenset[str]:
    import tvm
    import tvm.target.codegen as llvm

    found = llvm.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": cpu, "mtriple": "x86_64-linux-gnu"}))
    return frozenset(str(f) for f in found)
