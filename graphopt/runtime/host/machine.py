"""What this machine's processor can do, from the system alone."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path

# What Linux calls otherwise than LLVM, both without dots and underscores.
_LINUX = {"pni": "sse3", "bmi1": "bmi", "abm": "lzcnt", "cx16": "cx16", "lahflm": "sahf"}


@cache
def _fields() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


@cache
def features() -> frozenset[str]:
    """Instruction sets of the processor: LLVM's names without dots, dashes and underscores."""
    flags = {f.replace("_", "") for f in _fields().get("flags", "").split()}
    return frozenset(_LINUX.get(f, f) for f in flags)


def missing(needed: Iterable[str]) -> list[str]:
    """Those of LLVM's features that this machine lacks."""
    here = features()
    return [f for f in needed if f.translate(str.maketrans("", "", "._-")) not in here]


@cache
def permit_tiles() -> bool:
    """Have Linux let this process use tile registers (AMX). It grants their 8 KiB of state once a process, to all its threads;
    without that the first tile instruction ends the process. Whether it does; False where there are none.

    To be asked before the first call of code that uses tiles. No program does yet; where they do, `library.Runtime.entries` asks,
    and native/model.c where it checks the features of an artifact.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return not missing(["amx-tile"]) and libc.syscall(ctypes.c_long(_ARCH_PRCTL), ctypes.c_long(_ARCH_REQ_XCOMP_PERM),
                                                      ctypes.c_long(_XFEATURE_XTILEDATA)) == 0


# Linux, Documentation/arch/x86/xstate.rst, and the numbers in asm/prctl.h and asm/fpu/types.h
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XFEATURE_XTILEDATA = 158, 0x1023, 18


@cache
def identity() -> str:
    """What tells this kind of processor from others."""
    fields = _fields()
    names = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
    return " | ".join(fields.get(n, "?") for n in names)


@cache
def caches() -> dict[str, int]:
    """Bytes of L1 (data), L2 and L3 as Linux tells them, each as one core sees it. What is not told is left out."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        if kind in ("Data", "Unified"):
            found[f"l{level}"] = byte_count(size)
    return found


def byte_count(text: str) -> int:
    """`48K` and the like, as Linux writes sizes."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)
