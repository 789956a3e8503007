"""The instructions that add products to sums on x86: one row each, for kernels, costs and emulation alike.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 2, the entry of each mnemonic; Intel
Architecture Instruction Set Extensions Programming Reference (319433) for VDPBF16PS and AMX; AMD64 Architecture Programmer's
Manual, volume 4 (26568). Cycles: Intel 64 and IA-32 Architectures Optimization Reference Manual (248966; 20.3 for AMX), AMD's
Software Optimization Guides for Zen 2 to Zen 5 (56305, 56665, 57647, 58455), and uops.info; what golden-cove-server says was
measured too (Emerald Rapids, November 2026: chains of one and of twelve accumulators).

How each rounds stands with its meaning in codegen/kernel/dot.py. Integers: VPDPBUSD, VPDPWSSD and the AMX integer products wrap
(the forms that saturate, VPDPBUSDS and VPDPWSSDS, are not here); VPMADDWD's sum of two products wraps only where all four are
-32768, which modulo 2^32 is no difference; VPMADDUBSW saturates between its products, so no row has it. Floats: multiply-adds
follow MXCSR, which is at its default: to nearest even, denormals kept. VDPBF16PS and TDPBF16PS do not read it: to nearest even,
denormal operands are 0 and so are results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphopt.codegen.kernel.dot import (
    INSTRUCTIONS,
    Instruction,
    Meaning,
    bf16_pairs,
    integers,
    once_rounded,
    tile_bf16,
    tile_integers,
    twice_rounded,
)
from graphopt.errors import CodegenError
from graphopt.ir.types import BF16, F32, F64, I8, I16, I32, I64, U8, DType, dtype
from graphopt.targets.x86 import X86

# Cores of one kind, by LLVM's names of CPUs. A CPU that is not here counts as the oldest kind that has its vectors.
FAMILIES = {
    "haswell": ("haswell", "broadwell"),
    "skylake": ("skylake",),
    "skylake-server": ("skylake-avx512", "cascadelake", "cooperlake"),
    "icelake": ("icelake-client", "tigerlake", "rocketlake", "cannonlake"),
    "icelake-server": ("icelake-server",),
    "golden-cove": ("alderlake", "raptorlake", "meteorlake", "arrowlake", "arrowlake-s", "lunarlake", "pantherlake"),
    "golden-cove-server": ("sapphirerapids", "emeraldrapids", "graniterapids", "graniterapids-d"),
    "zen2": ("znver1", "znver2"),
    "zen3": ("znver3",),
    "zen4": ("znver4",),
    "zen5": ("znver5",),
}
_FAMILY = {cpu: family for family, cpus in FAMILIES.items() for cpu in cpus}
WORD = 4  # bytes of each lane of a vector of narrow operands, and of each column of a tile
Cycles = tuple[float, float]  # from one start to the next, and from accumulator to accumulator


@dataclass(frozen=True, kw_only=True, repr=False)
class Row(Instruction):
    """`features` that a CPU must have, by LLVM's names; `registers` of its form; `cycles` by family of cores.

    `mnemonics` are what its assembly is made of. A narrow row is written as a function of one line of LLVM IR: of vectors, which
    `intrinsic` takes as `operands` (and where `adds`, without the accumulators, which are added to its result); of tiles, whose
    numbers are in the opcode. A depth of 1 is a product and a sum, which LLVM selects.
    """

    features: frozenset[str]
    registers: int
    cycles: Mapping[str, Cycles]
    mnemonics: tuple[str, ...]
    intrinsic: str = ""
    operands: str = ""
    adds: bool = False

    def on(self, machine: X86) -> Cycles:
        """(cycles from one start to the next, cycles of latency) on that machine."""
        return self.cycles.get(family(machine)) or max(self.cycles.values())

    def pace(self, machine: X86) -> float:
        """Products a cycle."""
        steps = self.tile[0] * (self.tile[1] // WORD) if self.tile else 1
        return self.lanes * self.depth * steps / self.on(machine)[0]

    @property
    def function(self) -> str:
        """The name of its function in LLVM IR."""
        return "graphopt_" + self.name.replace(".", "_").replace("+", "_")

    def llvm(self) -> str:
        """That function: accumulators, and both operands as words of 32 bits, to accumulators."""
        sums = f"<{self.lanes} x {'i32' if self.acc.is_integer else 'float'}>"
        words = f"<{self.lanes} x i32>"
        given = f"{self.operands} %x, {self.operands} %y"
        taken = f"{self.operands}, {self.operands}"
        dot = f"  %r = call {sums} @{self.intrinsic}({sums} %c, {given})"
        if self.adds:
            dot = f"  %p = call {sums} @{self.intrinsic}({given})\n  %r = add {sums} %c, %p"
        return f"""declare {sums} @{self.intrinsic}({taken if self.adds else f"{sums}, {taken}"})
define {sums} @{self.function}({sums} %c, {words} %a, {words} %b) alwaysinline {{
  %x = bitcast {words} %a to {self.operands}
  %y = bitcast {words} %b to {self.operands}
{dot}
  ret {sums} %r
}}
"""


def family(machine: X86) -> str:
    """The kind of cores that a machine has. A server with tiles that LLVM does not know (a virtual machine hides its number) is
    one of Golden Cove's."""
    features = machine.features
    if "amx-tile" in features or machine.family == "amx":
        return "golden-cove-server"
    found = _FAMILY.get(machine.cpu)
    return found or ("skylake-server" if "avx512f" in features else "haswell" if "avx2" in features else "")


ROWS: list[Row] = []


def _row(name: str, features: str, of: tuple[DType, DType, DType], depth: int, lanes: int, registers: int,
         cycles: Mapping[str, Cycles], mnemonics: str, meaning: Meaning, **more: Any) -> None:
    a, b, acc = of
    row = Row(name=name, features=frozenset(features.split()), a=a, b=b, acc=acc, depth=depth, lanes=lanes, registers=registers,
              cycles=cycles, mnemonics=tuple(mnemonics.split()), meaning=meaning, **more)
    ROWS.append(row)
    INSTRUCTIONS[row.name] = row


def _cycles(**given: Cycles) -> dict[str, Cycles]:
    """By family; words that several families share stand for them."""
    return {family: cycles for word, cycles in given.items() for family in _GROUPS.get(word, (word.replace("_", "-"),))}


_GROUPS = {"two_of_512": ("skylake-server", "icelake-server", "golden-cove-server", "zen5"), "one_of_512": ("icelake", "zen4"),
           "intel_256": ("skylake", "skylake-server", "icelake", "icelake-server", "golden-cove", "golden-cove-server"),
           "amd_256": ("zen3", "zen4", "zen5"), "vnni_256": ("icelake", "icelake-server", "golden-cove", "golden-cove-server"),
           "old": ("haswell", "zen2")}

# A product and a sum on a whole vector; the latency is that of the accumulator. A row's name ends with its register's bits.
_FMA_512 = _cycles(two_of_512=(0.5, 4), one_of_512=(1, 4))
_FMA_256 = _cycles(intel_256=(0.5, 4), amd_256=(0.5, 4), old=(0.5, 5))
_BOTH = _cycles(intel_256=(1, 4), amd_256=(1, 3), old=(1, 3))  # of two instructions, on what has SSE only most of all
for _d, _s in ((F32, "ps"), (F64, "pd")):
    _of, _n = (_d, _d, _d), 512 // _d.bits
    _fused: dict[str, Any] = {"mnemonics": f"vfmadd(132|213|231){_s}", "meaning": once_rounded, "fused": True}
    _row(f"vfmadd{_s}.512", "avx512f", _of, 1, _n, 32, _FMA_512, **_fused)
    _row(f"vfmadd{_s}.256", "fma", _of, 1, _n // 2, 16, _FMA_256, **_fused)
    _row(f"vfmadd{_s}.128", "fma", _of, 1, _n // 4, 16, _FMA_256, **_fused)
    _row(f"vfmadd{_s}.fma4", "fma4", _of, 1, _n // 4, 16, _cycles(zen2=(0.5, 5)), f"vfmadd{_s}", once_rounded, fused=True)
    _row(f"mul{_s}+add{_s}", "sse2", _of, 1, _n // 4, 16, _BOTH, f"v?mul{_s} v?add{_s}", twice_rounded)

# VPMULLD is two multiplications on Intel's cores. Without VPMULLQ a product of 64 bits is three of 32, two sums and four shifts.
_I32, _I64 = (I32, I32, I32), (I64, I64, I64)
_MULLD = _cycles(intel_256=(1.5, 1), amd_256=(1, 1), old=(2, 1))
_MULLQ = _cycles(intel_256=(2, 1), amd_256=(1, 1), old=(4, 1))
_row("vpmulld.512", "avx512f", _I32, 1, 16, 32, _cycles(two_of_512=(1.5, 1), one_of_512=(2, 1)), "vpmulld vpaddd", integers)
_row("vpmulld.256", "avx2", _I32, 1, 8, 16, _MULLD, "vpmulld vpaddd", integers)
_row("pmulld.128", "sse4.1", _I32, 1, 4, 16, _MULLD, "v?pmulld v?paddd", integers)
_row("pmuludq.i32.128", "sse2", _I32, 1, 4, 16, _MULLQ, "v?pmuludq v?paddd", integers)
_row("vpmullq.512", "avx512dq", _I64, 1, 8, 32, _cycles(two_of_512=(1.5, 1), one_of_512=(3, 1)), "vpmullq vpaddq", integers)
_row("vpmullq.256", "avx512dq avx512vl", _I64, 1, 4, 32, _MULLQ, "vpmullq vpaddq", integers)
_LONG = _cycles(intel_256=(4, 1), amd_256=(4, 1), old=(5, 1))
_row("vpmuludq.i64.512", "avx512f", _I64, 1, 8, 32, _cycles(two_of_512=(4, 1), one_of_512=(5, 1)), "vpmuludq vpaddq", integers)
_row("vpmuludq.i64.256", "avx2", _I64, 1, 4, 16, _LONG, "vpmuludq vpaddq", integers)
_row("pmuludq.i64.128", "sse2", _I64, 1, 2, 16, _LONG, "v?pmuludq v?paddq", integers)

# Pairs and quadruples of narrow products. What VNNI does in one instruction two or three do before it.
_BYTES, _WORDS, _BF16 = (U8, I8, I32), (I16, I16, I32), (BF16, BF16, F32)
_VNNI_512 = _cycles(skylake_server=(0.5, 5), icelake=(1, 5), icelake_server=(0.5, 5), golden_cove_server=(0.5, 5), zen4=(1, 4),
                    zen5=(0.5, 4))
_VNNI_256 = _cycles(skylake_server=(0.5, 5), vnni_256=(0.5, 5), zen4=(0.5, 4), zen5=(0.5, 4))
for _m, _of, _bytes in (("vpdpbusd", _BYTES, 1), ("vpdpwssd", _WORDS, 2)):
    for _form, _features, _registers, _cost in (
            ("512", "avx512vnni", 32, _VNNI_512), ("256", "avx512vnni avx512vl", 32, _VNNI_256),
            ("256.vex", "avxvnni", 16, _VNNI_256)):
        _bits = int(_form[:3])
        _row(f"{_m}.{_form}", _features, _of, WORD // _bytes, _bits // 32, _registers, _cost, _m, integers,
             intrinsic=f"llvm.x86.avx512.{_m}.{_bits}", operands=f"<{_bits // 8 // _bytes} x i{8 * _bytes}>")
_DP_512 = _cycles(skylake_server=(1, 6), golden_cove_server=(2, 8), zen4=(1, 6), zen5=(0.5, 6))
_DP_256 = _cycles(skylake_server=(1, 6), golden_cove_server=(1.85, 7.5), zen4=(0.5, 6), zen5=(0.5, 6))
for _bits, _features, _cost in ((512, "avx512bf16", _DP_512), (256, "avx512bf16 avx512vl", _DP_256)):
    _row(f"vdpbf16ps.{_bits}", _features, _BF16, 2, _bits // 32, 32, _cost, "vdpbf16ps", bf16_pairs,
         intrinsic=f"llvm.x86.avx512bf16.dpbf16ps.{_bits}", operands=f"<{_bits // 16} x bfloat>")
_MADD_512 = _cycles(two_of_512=(1, 1), one_of_512=(1.5, 1))
_MADD_256 = {**_cycles(intel_256=(0.83, 1), amd_256=(0.75, 1), old=(1, 1)),
             **_cycles(golden_cove=(0.65, 1), golden_cove_server=(0.65, 1))}
for _bits, _v, _intrinsic, _features, _registers, _cost in (
        (512, "v", "llvm.x86.avx512.pmaddw.d.512", "avx512bw", 32, _MADD_512),
        (256, "v", "llvm.x86.avx2.pmadd.wd", "avx2", 16, _MADD_256),
        (128, "", "llvm.x86.sse2.pmadd.wd", "sse2", 16, _MADD_256)):
    # a CPU with VNNI gets VPDPWSSD from LLVM, which knows the two for one
    _row(f"{_v}pmaddwd.{_bits}", _features, _WORDS, 2, _bits // 32, _registers, _cost, "v?pmaddwd v?paddd", integers,
         intrinsic=_intrinsic, operands=f"<{_bits // 16} x i16>", adds=True)

# Tiles: 16 rows of 64 bytes. Sixteen cycles each, row after row of the accumulators, so that a chain waits for little.
_TILES = _cycles(golden_cove_server=(16, 17))
for _m, _of in (("tdpbusd", _BYTES), ("tdpbssd", (I8, I8, I32)), ("tdpbsud", (I8, U8, I32)), ("tdpbuud", (U8, U8, I32))):
    _row(_m, "amx-tile amx-int8", _of, 4, 16, 8, _TILES, _m, tile_integers, intrinsic=f"llvm.x86.{_m}", tile=(16, 64))
_row("tdpbf16ps", "amx-tile amx-bf16", _BF16, 2, 16, 8, _TILES, "tdpbf16ps", tile_bf16, intrinsic="llvm.x86.tdpbf16ps",
     tile=(16, 64))
TILE_LOAD, TILE_STORE, TILE_CONFIGURE = 9, 16, 180  # cycles on golden-cove-server: from L1; into it; configured and released


# Choosing ---------------------------------------------------------------------------------------
def rows(machine: X86, a: DType | str, b: DType | str | None = None, acc: DType | str | None = None) -> list[Row]:
    """What the machine has to multiply elements of `a` by those of `b` (the same where None) and add them to `acc` (any where
    None); the most products a cycle first. To vectors both orders are one: either may be what all lanes have in common. Of tiles
    `a` is what lies by rows."""
    x, y = dtype(a), dtype(a if b is None else b)
    found = [r for r in ROWS if r.features <= machine.features and (acc is None or r.acc is dtype(acc))
             and ((r.a, r.b) == (x, y) or ((r.a, r.b) == (y, x) and r.tile is None))]
    return sorted(found, key=lambda r: -r.pace(machine))


def multiply_add(machine: X86, d: DType, lanes: int) -> Row:
    """The row of depth 1 for vectors of `lanes`: of that width, else the widest, of which LLVM makes them."""
    found = [r for r in rows(machine, d, d, d) if r.depth == 1]
    if not found:
        raise CodegenError(f"no instruction of {machine.name} multiplies {d} and adds", hint="Cast to f32, f64, i32 or i64")
    return min(found, key=lambda r: (r.lanes != lanes, not r.fused, -r.lanes, -r.pace(machine)))


def lacking(machine: X86, needed: Iterable[str]) -> list[str]:
    """Features of rows that the machine has not."""
    return sorted(set(needed) - machine.features)


__all__ = ["FAMILIES", "ROWS", "TILE_CONFIGURE", "TILE_LOAD", "TILE_STORE", "Row", "family", "lacking", "multiply_add", "rows"]
