"""What things cost on an x86 CPU: every coefficient of the kernels' cost models, in one object a family of CPUs.

A template counts cycles with the costs of its target (`costs_of`) and nothing else, so that a CPU that differs is a line here.
`python -m bench calibrate` measures the coefficients on the machine that it runs on and says how far the stored ones are off;
`--only NAME` takes one. Those that it cannot tell apart from the rest of a kernel are told from sweeps of whole kernels, by
`python -m bench kernels`: each field says which (`again`). Where and when a family's value was measured stands in its `measured`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from graphopt.codegen.lower.registry import computed
from graphopt.ir.types import DType
from graphopt.targets.x86 import X86

CALIBRATE, KERNELS = "python -m bench calibrate --only {}", "python -m bench kernels"


def _of(unit: str, what: str, value: float, by: str = KERNELS) -> Any:
    """A coefficient: its unit, what it is, the value where nothing is known of a CPU, and the command that measures it."""
    return field(default=value, metadata={"unit": unit, "what": what, "again": by})


@dataclass(frozen=True)
class Costs:
    """Cycles are a core's own, of the clock that it multiplies vectors at. What is a byte's is of any dtype; what is a vector's
    is of a whole register. `measured` says of which machine and day a coefficient is, `""` of those that it does not name."""

    family: str
    measured: Mapping[str, str] = field(compare=False, repr=False)

    # The core
    line: int = _of("bytes", "a line of the caches", 64)
    aliasing: int = _of("bytes", "between pixels, and its multiples, at which a dozen of them crowd into a few sets of L1", 1024)
    latency: float = _of("cycles", "until a multiply-add's result can be added to", 4, CALIBRATE)
    loads: float = _of("vectors a cycle", "read from L1", 2, CALIBRATE)
    sums: int = _of("accumulators", "that multiply-adds go to in turns, so that none waits for another", 8, CALIBRATE)
    stream: int = _of("loads", "of one stretch of memory in an iteration, up to which what fetches ahead from L2 follows", 24)
    ahead: int = _of("steps of a reduction", "by which weights are fetched before they are multiplied: some 200 cycles", 16)
    separate: int = _of("bytes", "between what two threads write: two pages to fetch ahead, a line against aliasing", 8192 + 64)

    # Caches and memory
    bytes_from_l2: float = _of("bytes a cycle", "from L2 or to it", 32, CALIBRATE)
    bytes_from_l3: float = _of("bytes a cycle", "from L3, for one core while it multiplies", 10, CALIBRATE)
    bytes_from_memory: float = _of("bytes a cycle", "from memory, for all cores together while they multiply", 3.6, CALIBRATE)
    line_from_l2: float = _of("cycles a line", "of a panel that does not stay in L1, and comes anew for every tile", 0.3,
                              CALIBRATE)
    panel_line: float = _of("cycles a line", "of a panel that comes from L2 while a tile multiplies", 0.1, CALIBRATE)
    rows_line: float = _of("cycles a line", "of a tile's left rows that come from L2, as many streams as there are rows", 0.3,
                           CALIBRATE)
    fetched: float = _of("of the shorter", "of multiplying and panels' coming from L3, that both take besides the longer", 0.1)
    exposed: float = _of("of the shorter", "of multiplying and weights' coming from memory, that multiplying does not hide", 0.3)

    # Threads
    parallel_work: int = _of("operations", "from which a kernel's work is shared among threads", 1 << 16)
    dense: int = _of("operations", "of a contraction in f32 that take as long as one that reads and writes its own element", 16)
    wait: float = _of("cycles", "that threads take to begin a loop together and to wait for its end", 4000, CALIBRATE)

    # Matrix products
    tile_start: float = _of("cycles", "of a tile around its loop over k: zeroes, stores, addresses", 24, CALIBRATE)
    tile_load: float = _of("cycles a load", "of a tile, beside the multiply-adds that hide it", 0.02)
    stored_row: float = _of("cycles a row", "of a tile that is stored to where L2 does not hold it", 0)
    deep: int = _of("elements", "of a block of k, at least", 256)
    reread: int = _of("row tiles", "from which a panel of a right operand in memory is copied: its vectors are aligned then", 3)
    fetching: int = _of("rows of a tile", "from which weights are fetched ahead", 4)
    shared: int = _of("rows", "that make use of a right operand's element, from which it may be computed while it is packed", 16)
    weighed: int = _of("bytes", "of weights that take as long to read as one operation of its own", 3)

    # Convolutions
    box_load: float = _of("cycles a load", "of a box's step, beside the multiply-adds that hide it", 0.15)
    box_weights: float = _of("cycles a vector", "of weights from L2 beside that", 1.0)
    box_step: float = _of("cycles", "of a box's step besides", 0.4)
    few_tiles: int = _of("tiles", "that share a panel of weights in L1", 8)
    far_tiles: int = _of("tiles", "that share a panel of weights, up to which the next panel is fetched meanwhile", 32)
    strip_start: float = _of("cycles", "of a strip of a depthwise convolution: addresses, weights, the loop", 6.0)
    gathered: float = _of("cycles", "of a part on its way to its output's lane: a shuffle and an addition, beside products", 0.5)
    outer: float = _of("cycles a byte", "that one convolution writes and the next reads, where it does not stay in L2", 0.4)
    inner: float = _of("cycles a byte", "the same where it does", 0.05)
    spilled: float = _of("cycles a vector", "of rows between two convolutions that do not stay in L1", 5.0)
    box_start: float = _of("cycles", "of a tile of the first of the two: addresses, the loop, its first products' latency", 16.0)
    row_step: float = _of("cycles", "of a step of rows: its place in the image by divisions", 60.0)
    panel_bytes: int = _of("bytes", "of an image's panel that is copied and stays in L2", 1 << 18)
    transformed_2: float = _of("cycles a vector of channels", "of a Winograd tile's input, F(2x2, 3x3)", 110.0)
    transformed_4: float = _of("cycles a vector of channels", "the same, F(4x4, 3x3)", 250.0)
    restored_2: float = _of("cycles a vector of channels", "of a Winograd tile's output, F(2x2, 3x3)", 80.0)
    restored_4: float = _of("cycles a vector of channels", "the same, F(4x4, 3x3)", 180.0)

    # Attention and recurrent layers
    exponentials: float = _of("cycles a vector of scores", "for its maximum, exponentials and sum", 10.0)
    softmax_row: float = _of("cycles a row", "of scores besides", 40.0)
    rescaled: float = _of("cycles a vector of sums", "of a row, rescaled where keys come in blocks", 2.0)
    rescaled_row: float = _of("cycles a row", "of such sums besides", 30.0)
    packed_keys: float = _of("cycles a vector of a key", "that is transposed", 5.0)
    packed_values: float = _of("cycles a vector of a value", "that is copied", 2.0)
    cell: float = _of("cycles a vector of units", "of a recurrent layer for its activations", 60.0)

    # Layouts
    strided: float = _of("cycles a byte", "that is read against the grain, beyond one read along it", 0.5, CALIBRATE)
    converted: float = _of("cycles a byte", "that is brought from one layout to the other", 0.25, CALIBRATE)
    either: float = _of("cycles a byte", "that is read row-major by a kernel which takes both: pixels from other places", 0.075)
    turned: float = _of("cycles a byte", "that a transpose of its own moves, in squares", 0.25, CALIBRATE)
    pooled: float = _of("cycles a byte", "of a row-major pool's result, for each element of a window along a row", 0.05,
                        CALIBRATE)
    copied: float = _of("cycles a byte", "that is copied", 0.1, CALIBRATE)
    planar: float = _of("of the peak", "that a row-major convolution reaches: its vectors cross lines, or are copied", 0.6,
                        CALIBRATE)
    planar_depthwise: float = _of("of the peak", "the same of depthwise ones: they load nearly as much as they multiply", 0.12,
                                  CALIBRATE)

    # Batches
    through_memory: float = _of("cycles a byte", "from memory and back, beside the arithmetic that hides some", 0.12)
    through_l3: float = _of("cycles a byte", "the same of the cache that cores share", 0.03)
    call: float = _of("cycles", "of one more call of a kernel: threads' waits, tiles at the ends, cold code", 20_000)
    gain: float = _of("of all that is moved", "to be won at least by a program that is longer by more calls", 0.02)

    def effort(self, multiply_adds: int, dtype: DType) -> int:
        """Multiply-adds as so many operations that each read and write an element: what `parallel_work` counts."""
        return 2 * multiply_adds * max(computed(dtype).itemsize, 4) // 4 // self.dense

    def room_between(self, channels: int, itemsize: int) -> int:
        """Elements to leave free after every pixel of a channels-last image, so that pixels do not crowd into few sets."""
        return self.line // itemsize if channels * itemsize % self.aliasing == 0 else 0


def coefficients() -> dict[str, Mapping[str, str]]:
    """Of every coefficient: unit, what, again."""
    return {f.name: {**f.metadata, "again": f.metadata["again"].format(f.name)} for f in fields(Costs) if f.metadata}


_AMD = "AMD EPYC, Zen 4 or Zen 5 (which of them was not written down), 2026-11-21"
_EMERALD = "Emerald Rapids (family 6 model 167 in a virtual machine, two cores), 2026-11-28"
GENERIC = Costs("generic", {"": _AMD})
ZEN4 = replace(GENERIC, family="zen4")
ZEN5 = replace(GENERIC, family="zen5")
# The lines' costs and `stored_row` are those that rank 24 tiles of a product of 1500x384x1536 as their times do.
AMX = replace(GENERIC, family="amx", tile_start=48, panel_line=0.4, rows_line=1.0, stored_row=60, measured={
    "": _AMD, **dict.fromkeys(("latency", "sums", "tile_start", "panel_line", "rows_line", "stored_row"), _EMERALD)})
FAMILIES = {c.family: c for c in (GENERIC, ZEN4, ZEN5, AMX)}


def costs_of(machine: X86) -> Costs:
    """The costs of a target's family."""
    return FAMILIES[machine.family]


def lanes_of(machine: X86, dtype: DType) -> int:
    """Elements of a vector register, in the dtype that elements of this one are computed in."""
    return max(1, machine.lanes * 32 // max(computed(dtype).bits, 32))


__all__ = ["FAMILIES", "GENERIC", "Costs", "coefficients", "costs_of", "lanes_of"]
