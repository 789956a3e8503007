"""AMD FPGAs: what a part holds, and the clock that it is usually run at."""

from __future__ import annotations

from dataclasses import dataclass

from graphopt.errors import TargetError
from graphopt.targets.base import Target

# device -> (full part, DSP slices, BRAM blocks of 18 Kbit, LUTs, flip-flops, clock in ns), from AMD's product tables.
PARTS: dict[str, tuple[str, int, int, int, int, float]] = {
    "xc7z010": ("xc7z010clg400-1", 80, 120, 17_600, 35_200, 10.0),
    "xc7z020": ("xc7z020clg400-1", 220, 280, 53_200, 106_400, 10.0),
    "xc7z045": ("xc7z045ffg900-2", 900, 1_090, 218_600, 437_200, 8.0),
    "xczu3eg": ("xczu3eg-sbva484-1-e", 360, 432, 70_560, 141_120, 5.0),
    "xczu7ev": ("xczu7ev-ffvc1156-2-e", 1_728, 624, 230_400, 460_800, 4.0),
    "xczu9eg": ("xczu9eg-ffvb1156-2-e", 2_520, 1_824, 274_080, 548_160, 4.0),
    "xck26": ("xck26-sfvc784-2LV-c", 1_248, 288, 117_120, 234_240, 5.0),
    "xcu250": ("xcu250-figd2104-2L-e", 12_288, 5_376, 1_728_000, 3_456_000, 3.33),
    "xcu280": ("xcu280-fsvh2892-2L-e", 9_024, 4_032, 1_303_680, 2_607_360, 3.33),
}


@dataclass(frozen=True)
class Fpga(Target):
    """A part with its resources. `part` is what Vitis HLS takes, `bram` counts blocks of 18 Kbit, `clock_ns` is the period."""

    device: str = ""
    part: str = ""
    dsp: int = 0
    bram: int = 0
    lut: int = 0
    ff: int = 0
    clock_ns: float = 10.0

    @staticmethod
    def named(part: str | None) -> Fpga:
        """A device (`xc7z020`) or a full part of it (`xc7z020clg484-1`). TargetError for an unknown one."""
        if part is None:
            raise TargetError("fpga needs the part", hint=f"Use fpga:xc7z020, ...: {', '.join(PARTS)}")
        device = next((d for d in PARTS if part.lower().startswith(d)), None)
        if device is None:
            raise TargetError(f"unknown FPGA part {part!r}",
                              hint=f"Known devices, alone or with package and speed grade: {', '.join(PARTS)}")
        full, dsp, bram, lut, ff, clock = PARTS[device]
        return Fpga("fpga", f"fpga:{part}", device, full if part.lower() == device else part, dsp, bram, lut, ff, clock)
