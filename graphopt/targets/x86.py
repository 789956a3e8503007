"""x86 CPUs: instruction sets, vector width and cores."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cache

from graphopt.errors import TargetError
from graphopt.runtime.host.machine import caches, missing
from graphopt.targets.base import Target


@dataclass(frozen=True)
class X86(Target):
    """An x86-64 CPU by LLVM's name. `lanes` is f32 elements of a vector register, `registers` how many there are.

    `l1` and `l2` are a core's data caches in bytes, `l3` what all cores share. `fma` is how many multiply-adds on whole vectors
    start in a cycle. `family` names the CPUs that cost alike (codegen/x86/costs.py).
    `winograd` allows convolutions by Winograd's algorithm, with its rounding (see codegen/x86/kernels/conv/winograd.py).
    """

    cpu: str = ""
    features: frozenset[str] = frozenset()
    threads: int = 1
    l1: int = 32 << 10
    l2: int = 1 << 20
    l3: int = 16 << 20
    fma: int = 2
    winograd: bool = True
    family: str = "generic"

    @property
    def lanes(self) -> int:
        return 16 if "avx512f" in self.features else 8 if "avx2" in self.features else 4

    @property
    def fuses(self) -> bool:
        """Whether a product and a sum can be rounded once."""
        return not self.features.isdisjoint(("fma", "fma4"))

    @property
    def registers(self) -> int:
        return 32 if "avx512f" in self.features else 16

    @staticmethod
    def named(cpu: str | None, threads: int | None = None) -> X86:
        """The CPU of that LLVM name, this machine's where None, without the instruction sets that a virtual machine hides.

        `threads` defaults to the cores this process may use.
        """
        from graphopt.targets.toolchain import llvm, tvm

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
        l1, l2 = _CACHES.get(name, (32 << 10, 1 << 20))
        here = caches() if name == native else {}
        l1, l2, l3 = (here.get(level, usual) for level, usual in (("l1", l1), ("l2", l2), ("l3", 16 << 20)))
        # LLVM tells cores by model numbers, which virtual machines make up, and takes some servers, which have tile registers,
        # for the clients of their day, which have half their multiply-adds.
        features = _features(name)
        tiles = "amx-tile" in features or (name == native and not missing(["amx-tile"]))
        fma = 1 if name in _ONE_WIDE_FMA and not tiles else 2
        if cpu is None:
            features -= set(missing(f for f in features if f.startswith(_USED)))
        return X86("x86", f"x86:{name}", name, features, threads or len(os.sched_getaffinity(0)), l1, l2, l3, fma,
                   family=_FAMILIES.get(name, "amx" if tiles else "generic"))

    def with_threads(self, threads: int) -> X86:
        return replace(self, threads=threads)

    def without_winograd(self) -> X86:
        return replace(self, winograd=False)

    def llvm_target(self) -> dict[str, object]:
        """TVM's target description."""
        # Where LLVM prefers 256-bit halves, the masks of our 512-bit vectors cost five times as much.
        return {"kind": "llvm", "mcpu": self.cpu, "mtriple": "x86_64-linux-gnu", "num-cores": self.threads,
                "mattr": ["-prefer-256-bit", *(f"-{f}" for f in sorted(_features(self.cpu) - self.features))]}

    @property
    def instructions(self) -> list[str]:
        """The instruction sets that code for this CPU may use, by LLVM's names, sorted: what a machine must have to run it.

        LLVM's other features are of operating systems, or say what is fast.
        """
        return sorted(f for f in self.features if f.startswith(_USED))


_USED = ("avx", "fma", "f16c", "amx", "sse", "ssse", "bmi", "lzcnt", "movbe", "popcnt")
# (L1, L2) of cores by LLVM's names, where they are not 32 KiB and 1 MiB.
_CACHES = {
    **dict.fromkeys(("haswell", "broadwell", "skylake"), (32 << 10, 256 << 10)),
    **dict.fromkeys(("znver1", "znver2", "znver3"), (32 << 10, 512 << 10)),
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids"), (48 << 10, 2 << 20)),
    "icelake-server": (48 << 10, 1280 << 10), "icelake-client": (48 << 10, 512 << 10), "tigerlake": (48 << 10, 1280 << 10),
    "rocketlake": (48 << 10, 512 << 10), "alderlake": (48 << 10, 1280 << 10), "raptorlake": (48 << 10, 2 << 20),
    "znver5": (48 << 10, 1 << 20),
}
# Cores that have AVX-512, and one 512-bit multiply-add a cycle.
_ONE_WIDE_FMA = frozenset(("znver4", "icelake-client", "tigerlake", "rocketlake", "cannonlake"))

_FAMILIES = {"znver4": "zen4", "znver5": "zen5"}  # by LLVM's names; servers of Intel's by their tile registers


@cache
def _features(cpu: str) -> frozenset[str]:
    from graphopt.targets.toolchain import llvm, tvm

    found = llvm.llvm_get_cpu_features(tvm.target.Target({"kind": "llvm", "mcpu": cpu, "mtriple": "x86_64-linux-gnu"}))
    return frozenset(str(f) for f in found)
