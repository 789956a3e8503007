"""How the rows of isa.py come into a kernel's code: functions of one line of LLVM IR, which TVM imports and LLVM inlines.

Narrow vectors do not survive TVM's passes (bf16 least of all), and LLVM's intrinsics change the types that they take; tiles have
their numbers in the opcode. So an instruction is a function on words of 32 bits, and a tile's one for each number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphopt.codegen.kernel.dot import Instruction
from graphopt.codegen.kernel.expr import INDEX, Buffer, Expr, Load, const, free_vars, linear, substitute
from graphopt.codegen.kernel.index import flat_index
from graphopt.codegen.kernel.loops import Dot
from graphopt.codegen.x86.isa import Row
from graphopt.errors import CodegenError
from graphopt.ir.types import DType

TILES, TILE_ROWS, TILE_BYTES = 8, 16, 64  # of palette 1


@dataclass(frozen=True)
class Word:
    """Elements of a buffer from `at` on: one word for all lanes, or where `each`, one after the other for each."""

    buffer: Buffer
    at: Expr
    each: bool


def word(s: Dot, e: Expr, d: DType, where: str, depth: int | None = None) -> Word:
    """Where an operand's elements lie. CodegenError where an instruction cannot take them as they do."""
    depth = s.how.depth if depth is None else depth
    if not isinstance(e, Load) or e.dtype is not d:
        raise CodegenError(f"{s.how.name} takes {d} from memory, not {e!r}", where=where, hint="Store it in a buffer first")
    at = flat_index(e.index, e.buffer.shape)
    coefficients, rest, _ = linear(at)
    steps, lanes = coefficients.get(s.step, 0), coefficients.get(s.lane, 0)
    if any(v in free_vars(r) for r in rest for v in (s.step, s.lane)) or (depth > 1 and steps != 1) or lanes not in (0, depth):
        raise CodegenError(f"{s.how.name} takes {depth} elements side by side for each lane, or the same for all, not {e!r}",
                           where=where, hint=f"Pack the operand with {depth} elements of k next to each other")
    zero = const(0, INDEX)
    return Word(e.buffer, substitute(at, {s.step: zero, s.lane: zero}), lanes == depth)


class Helpers:
    """The functions that one kernel's code calls, their text in LLVM IR, and the features that they need."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.declared: dict[str, None] = {}
        self.defined: dict[str, str] = {}
        self.features: set[str] = set()
        self.numbers: dict[Buffer, int] = {}  # of the tile registers

    @property
    def text(self) -> str:
        return "\n".join((*self.declared, *self.defined.values()))

    def row(self, how: Instruction) -> Row:
        if not isinstance(how, Row):
            raise CodegenError(f"{how.name} is no instruction of x86", where=self.kernel)
        self.features |= how.features
        return how

    def dot(self, s: Dot) -> str:
        row = self.row(s.how)
        if s.lanes != row.lanes or row.tile:
            raise CodegenError(f"{row.name} has {row.lanes} lanes, not {s.lanes}", where=self.kernel)
        self.defined.setdefault(row.function, row.llvm())
        return row.function

    # Tiles
    def tiles(self, buffers: Sequence[Buffer]) -> tuple[str, str]:
        """What configures tile registers in the shapes of these buffers, and what releases them."""
        if self.numbers:
            raise CodegenError("tiles within tiles", where=self.kernel)
        if len(buffers) > TILES:
            raise CodegenError(f"{len(buffers)} tiles, and there are {TILES}", where=self.kernel)
        shape = bytearray(64)  # Intel SDM, LDTILECFG: the palette, then bytes of a row from 16 on, rows from 48 on
        shape[0] = 1
        for k, b in enumerate(buffers):
            rows, width = b.shape[0], b.shape[1] * b.dtype.itemsize
            if not (0 < rows <= TILE_ROWS and 0 < width <= TILE_BYTES and width % 4 == 0):
                raise CodegenError(f"a tile of {rows} rows of {width} bytes: {b!r}", where=self.kernel,
                                   hint=f"At most {TILE_ROWS} rows of {TILE_BYTES} bytes, a multiple of 4")
            shape[16 + 2 * k:18 + 2 * k] = width.to_bytes(2, "little")
            shape[48 + k] = rows
            self.numbers[b] = k
        name = f"graphopt_tiles_{shape[:16 + 2 * len(buffers)].hex()[32:]}_{shape[48:48 + len(buffers)].hex()}"
        text = "".join(f"\\{x:02X}" for x in shape)
        self.defined[f"{name}_shapes"] = f'@{name}_shapes = private unnamed_addr constant [64 x i8] c"{text}", align 64'
        release = self.tile("graphopt_tile_release", "tilerelease", "", "")
        return self.tile(name, "ldtilecfg", "ptr", f"ptr @{name}_shapes"), release

    def end(self) -> None:
        self.numbers = {}

    def number(self, b: Buffer) -> int:
        if b not in self.numbers:
            raise CodegenError(f"{b!r} is no tile here", where=self.kernel, hint="Name it in the Tiles statement around")
        return self.numbers[b]

    def zero(self, tile: Buffer) -> str:
        n = self.number(tile)
        return self.tile(f"graphopt_tile_zero_{n}", "tilezero", "i8 immarg", f"i8 {n}")

    def move(self, tile: Buffer, memory: Buffer, load: bool) -> str:
        n, name = self.number(tile), "load" if load else "store"
        if memory.dtype is not tile.dtype or len(memory.shape) != 1:
            raise CodegenError(f"tile {tile!r} of {memory!r}", where=self.kernel, hint="One axis, and the tile's dtype")
        return self.tile(f"graphopt_tile_{name}_{n}", f"tile{name}d64", "i8 immarg, ptr, i64", f"i8 {n}, ptr %p, i64 %s",
                         "ptr %p, i64 %s")

    def product(self, acc: Buffer, a: Buffer, b: Buffer, how: Instruction) -> str:
        row = self.row(how)
        (m, n), (rows, k), (steps, columns) = acc.shape, a.shape, b.shape
        kinds = (acc.dtype, a.dtype, b.dtype) == (row.acc, row.a, row.b)
        if not row.tile or not kinds or rows != m or k != steps * row.depth or columns != n * row.depth:
            raise CodegenError(f"{row.name} of {acc!r}, {a!r} and {b!r}", where=self.kernel,
                               hint=f"[m, n] of {row.acc}, [m, k * {row.depth}] of {row.a} and [k, n * {row.depth}] of {row.b}")
        c, x, y = map(self.number, (acc, a, b))
        return self.tile(f"graphopt_{row.name}_{c}_{x}_{y}", row.intrinsic.removeprefix("llvm.x86."),
                         "i8 immarg, i8 immarg, i8 immarg", f"i8 {c}, i8 {x}, i8 {y}")

    def tile(self, name: str, intrinsic: str, types: str, given: str, parameters: str = "") -> str:
        """A function of one instruction on tiles."""
        self.features.add("amx-tile")
        self.declared[f"declare void @llvm.x86.{intrinsic}({types})"] = None
        self.defined[name] = f"""define void @{name}({parameters}) alwaysinline {{
  call void @llvm.x86.{intrinsic}({given})
  ret void
}}"""
        return name


__all__ = ["TILES", "TILE_BYTES", "TILE_ROWS", "Helpers", "Word", "word"]
