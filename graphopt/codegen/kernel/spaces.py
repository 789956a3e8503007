"""Where memory lies, and what runs a loop's iterations. Every target has some of these; `verify` knows which."""

from __future__ import annotations

from enum import Enum


class Space(Enum):
    """The memory that a buffer lies in. Parameters of a kernel are GLOBAL; what a kernel allocates is any other."""

    GLOBAL = "global"  # addressed by a pointer that the caller gives: operands, results, scratch
    LOCAL = "local"  # one thread's own: registers where all indices are constant, else its stack
    TILE = "tile"  # a tile register (AMX): read and written by instructions on tiles, not by element
    SHARED = "shared"  # one copy for the threads of a block
    STREAM = "stream"  # a queue between two stages of a dataflow: written in order, read once, in order


class Scope(Enum):
    """What runs the iterations of a loop.

    On CPUs: SERIAL; FEW, serial too, and its iterations are few beside those of the loops around and before it (registers are
    theirs first: what is constant within this one is loaded as it is used); PARALLEL, the threads of the pool, in any order;
    VECTOR, lanes of one instruction, statement by statement; UNROLL, serial and written out.
    On GPUs: GRID, all threads of the launch (an iteration is one thread's; PARALLEL is the same there); BLOCK, the blocks of
    the grid; WARP, the warps of a block; THREAD, the threads of the block, or of the warp where a WARP loop is around it.
    On FPGAs: STAGE, iterations are stages of a dataflow that run at once.
    """

    SERIAL = "serial"
    FEW = "few"
    PARALLEL = "parallel"
    VECTOR = "vector"
    UNROLL = "unroll"
    GRID = "grid"
    BLOCK = "block"
    WARP = "warp"
    THREAD = "thread"
    STAGE = "stage"

    @property
    def concurrent(self) -> bool:
        """Whether iterations may overlap in time or come in any order."""
        return self in _CONCURRENT


_CONCURRENT = frozenset((Scope.PARALLEL, Scope.GRID, Scope.BLOCK, Scope.WARP, Scope.THREAD, Scope.STAGE))

__all__ = ["Scope", "Space"]
