"""NVIDIA GPUs, named by the architecture that machine code is made for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from graphopt.errors import TargetError
from graphopt.targets.base import Target

# Those that CUDA 13 compiles for; a trailing `a` admits the instructions that later GPUs do not have.
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_88", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_100a", "sm_103",
                 "sm_103a", "sm_110", "sm_110a", "sm_120", "sm_120a", "sm_121", "sm_121a")


@dataclass(frozen=True)
class Cuda(Target):
    """A GPU architecture by nvcc's name. `block` is the number of threads that a block of a plain kernel has."""

    arch: str = ""
    block: int = 256

    @staticmethod
    def named(arch: str | None) -> Cuda:
        """`sm_90` and the like; code is for one architecture, so there is no default. TargetError for an unknown one."""
        if arch is None:
            raise TargetError("cuda needs the GPU's architecture",
                              hint=f"Use cuda:sm_90 (H100, H200), ...: {', '.join(ARCHITECTURES)}")
        if arch not in ARCHITECTURES:
            near = difflib.get_close_matches(arch, ARCHITECTURES, 1)
            raise TargetError(f"unknown GPU architecture {arch!r}", hint=(f"Did you mean {near[0]}? " if near else "")
                              + f"Known: {', '.join(ARCHITECTURES)}")
        return Cuda("cuda", f"cuda:{arch}", arch)
