"""The program: which kernels run in which order over which memory. Shared by all targets.

Every tensor lives somewhere: in the caller's inputs and outputs, in the weights (constants, packed once),
in the arena (one block per call, offsets fixed here), or with the host where its shape is only known when
running. Views share their operand's memory and cost nothing.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from graphopt.codegen.kernels import Lowered, Packing, Template, inlined, kernel_key, lower
from graphopt.codegen.loops import Kernel
from graphopt.codegen.lower.registry import why_not
from graphopt.codegen.schedule import Style
from graphopt.codegen.tuning import Picks, Wanted, nothing_wanted
from graphopt.ir.graph import Graph, Op, Tensor, Value
from graphopt.ir.types import TensorType

ALIGN = 64
ROUNDS = 40  # of placing again while the arena is larger than it need be


@dataclass(frozen=True)
class Slot:
    """Where bytes are: `space` is input, output, weights, arena or host; `index` counts inputs, outputs or host values."""

    space: str
    index: int = 0
    offset: int = 0

    def shifted(self, by: int) -> Slot:
        return Slot(self.space, self.index, self.offset + by)


@dataclass(frozen=True)
class Call:
    """One kernel launch; `args` in the order of the kernel's parameters."""

    kernel: Kernel
    args: tuple[Slot, ...]
    op: Op


@dataclass(frozen=True)
class Host:
    """An op that the reference evaluator runs, and why. `args` is None for absent operands and for constants."""

    op: Op
    args: tuple[Slot | None, ...]
    results: tuple[Slot, ...]
    why: str


@dataclass
class Weight:
    tensor: Tensor
    packing: Packing | None
    offset: int
    nbytes: int


class WeightBlock:
    """The packed weights of several programs in one block: what one of them has placed is there for those that follow.

    Equal bytes lie there once, whatever they are of: passes fold constants anew for every program, and arrangements of
    different names may be equal.
    """

    def __init__(self) -> None:
        self.weights: list[Weight] = []
        self.size = 0
        self._placed: dict[str, Weight] = {}  # by the digest of what is packed

    def place(self, tensor: Tensor, packing: Packing | None) -> Weight:
        h = hashlib.sha256()
        array = tensor.numpy()
        for part in [array] if packing is None else packing.parts(array):
            h.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        found = self._placed.get(h.hexdigest())
        if found is None:
            found = Weight(tensor, packing, self.size, packing.size if packing else nbytes(tensor))
            self._placed[h.hexdigest()] = found
            self.weights.append(found)
            self.size += _round(found.nbytes)
        return found


@dataclass
class Program:
    graph: Graph
    kernels: list[Kernel] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # of each kernel what its code depends on: kernel_key and choices
    picks: dict[str, tuple[str, Picks]] = field(default_factory=dict)  # by kernel name: kernel_key, and what was decided in it
    steps: list[Call | Host] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    weights_size: int = 0  # up to the end of the last one
    arena_size: int = 0
    arena_bound: int = 0  # largest sum of live tensors: no plan needs less
    slots: dict[Value, Slot] = field(default_factory=dict)
    lifetimes: list[tuple[int, int, int, int]] = field(default_factory=list)  # (first step, last step, offset, bytes)
    host_values: int = 0

    @property
    def calls(self) -> list[Call]:
        return [s for s in self.steps if isinstance(s, Call)]

    @property
    def hosts(self) -> list[Host]:
        return [s for s in self.steps if isinstance(s, Host)]

    def pack_weights(self, allocate: Callable[[int], np.ndarray]) -> np.ndarray:
        """The block of weights, filled piece by piece so that no second packed copy exists."""
        block = allocate(self.weights_size)
        for w in self.weights:
            array = w.tensor.numpy()
            at = w.offset
            for part in [array] if w.packing is None else w.packing.parts(array):
                np.copyto(block[at:at + part.nbytes].view(part.dtype).reshape(part.shape), part)
                at += part.nbytes
            assert at == w.offset + w.nbytes
        return block


def plan(graph: Graph, style: Style, templates: Sequence[Template] = (), wanted: Wanted = nothing_wanted,
         block: WeightBlock | None = None) -> Program:
    """Kernels, order and memory for a graph of static shapes (ops that have none become host steps).

    `wanted` gives the choices recorded for an op's kernel, which go before the templates' own. In `block` the program's weights
    lie beside those of other programs.
    """
    return _Planner(graph, style, templates, wanted, block).run()


def _round(n: int) -> int:
    return -(-n // ALIGN) * ALIGN


def nbytes(v: Value | Tensor) -> int:
    """Bytes of what has a static shape."""
    assert isinstance(v.type, TensorType)
    return math.prod(v.type.storage) * v.type.dtype.itemsize


class _Planner:
    def __init__(self, graph: Graph, style: Style, templates: Sequence[Template], wanted: Wanted,
                 block: WeightBlock | None = None) -> None:
        self.graph, self.style, self.templates, self.wanted, self.block = graph, style, templates, wanted, block
        self.program = Program(graph)
        self.lowered: dict[str, tuple[Lowered, dict[Value, int]]] = {}
        self.weights: dict[tuple[int, str], Weight] = {}
        self.blocks: dict[Value, list[int]] = {}  # arena roots: [first step, last step, bytes]
        self.scratch: list[tuple[int, int, int]] = []  # step, bytes, position in args

    def run(self) -> Program:
        program = self.program
        roots = self.alias()
        self.place_interface(roots)
        pending: list[tuple[Op, Lowered | None, str]] = []
        for op in self.graph.ops:
            if op.name == "const" or op in self.views:
                continue
            why = why_not(op, self.style.templated)
            pending.append((op, None if why else self.lower(op), why or ""))
        copies = [(v, k) for k, v in enumerate(self.graph.outputs) if self.needs_copy(v, k, roots)]
        self.lifetimes(pending, roots, copies)
        self.assign()
        for step, (op, low, why) in enumerate(pending):
            results = [self.slot(r, roots) for r in op.results]
            if low is None:
                # constants reach a host op as they are, strings included
                args = tuple(None if v is None or v.constant is not None else self.slot(v, roots) for v in op.operands)
                program.steps.append(Host(op, args, tuple(results), why))
            else:
                ins = [self.operand(v, low.packings.get(k), roots) for k, v in enumerate(low.operands)]
                extra = [Slot("arena", 0, offset) for s, offset in self.scratch_at if s == step]
                program.steps.append(Call(low.kernel, (*ins, *results, *extra), op))
        for v, k in copies:
            self.copy_out(v, k, roots)
        for v in self.graph.values():
            if v.op is None or v.op.name != "const":
                program.slots[v] = self.slot(v, roots)
        return program

    # Views
    def alias(self) -> dict[Value, tuple[Value, int]]:
        """Values that are memory of another: value -> (root, byte offset)."""
        found: dict[Value, tuple[Value, int]] = {}
        self.views: set[Op] = set()  # ops that have nothing to do
        for op in reversed(list(self.graph.ops)):
            if op.name == "join":
                self.views.add(op)
                _alias_parts(op, found)
        for op in self.graph.ops:
            if op.name in ("const", "join") or not op.results or not _static(op):
                continue
            offset = _view_offset(op)
            if offset is None:
                continue
            source = op.operands[0]
            assert source is not None
            if source.constant is not None:
                continue
            root, base = found.get(source, (source, 0))
            found[op.results[0]] = (root, base + offset)
            self.views.add(op)
        return found

    def place_interface(self, roots: dict[Value, tuple[Value, int]]) -> None:
        self.fixed: dict[Value, Slot] = {v: Slot("input", k) for k, v in enumerate(self.graph.inputs)}
        for k, v in enumerate(self.graph.outputs):
            root, offset = roots.get(v, (v, 0))
            if not isinstance(v.type, TensorType) or not v.type.is_static or root.op is None or root in self.fixed \
                    or root.constant is not None or not _is_static(root):
                continue
            if offset == 0 and nbytes(root) == nbytes(v):
                self.fixed[root] = Slot("output", k)

    def needs_copy(self, v: Value, k: int, roots: dict[Value, tuple[Value, int]]) -> bool:
        root, _ = roots.get(v, (v, 0))
        if not isinstance(v.type, TensorType) or not _is_static(root) or not v.type.is_static:
            return False
        return self.fixed.get(root) != Slot("output", k)

    # Kernels
    def lower(self, op: Op) -> Lowered:
        kernel = kernel_key(op)
        choices = self.wanted(op, kernel)
        key = f"{kernel} {sorted(choices.items())}" if choices else kernel
        if key not in self.lowered:
            picks = Picks(choices)
            low = lower(op, f"k{len(self.lowered)}_{op.name}", replace(self.style, pick=picks), self.templates)
            positions = {v: k for k, v in enumerate(op.operands) if v is not None}
            self.lowered[key] = (low, {v: positions[v] for v in low.operands})
            self.program.kernels.append(low.kernel)
            self.program.keys.append(kernel + picks.tag())
            self.program.picks[low.kernel.name] = (kernel, picks)
        low, positions = self.lowered[key]
        operands = tuple(op.operands[positions[v]] for v in low.operands)
        return Lowered(low.kernel, operands, low.packings, low.scratch)  # type: ignore[arg-type]

    # Memory
    def lifetimes(self, pending: list[tuple[Op, Lowered | None, str]], roots: dict[Value, tuple[Value, int]],
                  copies: list[tuple[Value, int]]) -> None:
        def touch(v: Value, step: int) -> None:
            root, _ = roots.get(v, (v, 0))
            if root in self.fixed or root.constant is not None or not _is_static(root):
                return
            if root not in self.blocks:
                self.blocks[root] = [step, step, nbytes(root)]
            self.blocks[root][1] = step

        for step, (op, low, _) in enumerate(pending):
            for r in op.results:
                touch(r, step)
            for v in op.operands:
                if v is not None:
                    touch(v, step)
            if low is not None:
                for b in low.scratch:
                    self.scratch.append((step, b.size * b.dtype.itemsize, 0))
        for v, _ in copies:
            touch(v, len(pending))

    def assign(self) -> None:
        """Offsets for what lives in the arena."""
        items: list[tuple[int, int, int, Value | int]] = [(b[2], b[0], b[1], v) for v, b in self.blocks.items()]
        items += [(size, step, step, k) for k, (step, size, _) in enumerate(self.scratch)]
        lives = [(_round(max(size, 1)), first, last) for size, first, last, _ in items]
        self.program.arena_bound = largest_sum(lives)
        places, self.program.arena_size = arrange(lives, self.program.arena_bound)
        self.offsets: dict[Value, int] = {}
        scratch_offsets: dict[int, int] = {}
        for (size, first, last), at, (_, _, _, owner) in zip(lives, places, items):
            self.program.lifetimes.append((first, last, at, size))
            if isinstance(owner, int):
                scratch_offsets[owner] = at
            else:
                self.offsets[owner] = at
        self.scratch_at = [(self.scratch[k][0], scratch_offsets[k]) for k in range(len(self.scratch))]

    def slot(self, v: Value, roots: dict[Value, tuple[Value, int]]) -> Slot:
        root, offset = roots.get(v, (v, 0))
        if root in self.fixed:
            return self.fixed[root].shifted(offset)
        if root.constant is not None:
            return self.weight(root, None).shifted(offset)
        if root in self.offsets:
            return Slot("arena", 0, self.offsets[root] + offset)
        index = self.program.host_values
        self.program.host_values += 1
        self.fixed[root] = Slot("host", index)
        return self.fixed[root]

    def operand(self, v: Value, packing: Packing | None, roots: dict[Value, tuple[Value, int]]) -> Slot:
        return self.weight(v, packing) if v.constant is not None else self.slot(v, roots)

    def weight(self, v: Value, packing: Packing | None) -> Slot:
        tensor = v.op.attrs["value"]  # type: ignore[union-attr]
        key = (id(tensor), packing.key if packing else "")
        if key not in self.weights:
            if self.block is not None:
                w = self.block.place(tensor, packing)
            else:
                w = Weight(tensor, packing, self.program.weights_size, packing.size if packing else nbytes(tensor))
            self.weights[key] = w
            self.program.weights.append(w)
            self.program.weights_size = max(self.program.weights_size, w.offset + _round(w.nbytes))
        return Slot("weights", 0, self.weights[key].offset)

    def copy_out(self, v: Value, k: int, roots: dict[Value, tuple[Value, int]]) -> None:
        """An output that is an input, a constant, part of another tensor, or returned twice."""
        scratch = Graph("copy")
        source = scratch.add_input(v.type, "x")
        op = scratch.add("identity", [source])
        scratch.outputs = [op.result]
        low = self.lower(op)
        self.program.steps.append(Call(low.kernel, (self.operand(v, None, roots), Slot("output", k)), op))


def largest_sum(lives: Sequence[tuple[int, int, int]]) -> int:
    """The most bytes that are live in one step; lives are (bytes, first step, last step)."""
    change: dict[int, int] = {}
    for size, first, last in lives:
        change[first] = change.get(first, 0) + size
        change[last + 1] = change.get(last + 1, 0) - size
    return max(itertools.accumulate(change[step] for step in sorted(change)), default=0)


def arrange(lives: Sequence[tuple[int, int, int]], bound: int) -> tuple[list[int], int]:
    """An offset for each life, so that no two overlap in time and place, and the bytes that takes.

    Largest first, each in the lowest gap that is free over its whole life (Pisarchyk and Lee, arXiv:2001.03288); while that
    takes more than `bound`, what reaches highest is placed earlier, at a (repeatable) random turn, and the rest again.
    """
    random = Random(0)
    order = sorted(range(len(lives)), key=lambda k: (-lives[k][0], lives[k][1], k))
    best, size = _fit(lives, order)
    for _ in range(ROUNDS):
        if size <= bound:
            break
        turn = max(range(len(order)), key=lambda t: best[order[t]] + lives[order[t]][0])
        other = list(order)
        other.insert(random.randint(0, turn), other.pop(turn))
        if random.random() < 0.5:
            other.insert(random.randint(0, len(other) - 1), other.pop(random.randrange(len(other))))
        places, needed = _fit(lives, other)
        if needed <= size:
            best, size, order = places, needed, other
    return best, size


def _fit(lives: Sequence[tuple[int, int, int]], order: Sequence[int]) -> tuple[list[int], int]:
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last; sorted
    places = [0] * len(lives)
    for k in order:
        size, first, last = lives[k]
        at = 0
        for start, end, f, l in placed:
            if l < first or f > last:
                continue
            if start - at >= size:
                break
            at = max(at, end)
        bisect.insort(placed, (at, at + size, first, last))
        places[k] = at
    return places, max((end for _, end, _, _ in placed), default=0)


def _is_static(v: Value) -> bool:
    return isinstance(v.type, TensorType) and v.type.is_static


def _static(op: Op) -> bool:
    return all(v is None or _is_static(v) for v in (*op.operands, *op.results))


def _alias_parts(op: Op, found: dict[Value, tuple[Value, int]]) -> None:
    """Place a join's operands in its result, or the result where its operands lie already."""
    parts = op.variadic()
    if parts[0] in found:
        found.setdefault(op.result, found[parts[0]])
        return
    root, at = found.get(op.result, (op.result, 0))
    for v in parts:
        found[v] = (root, at)
        assert isinstance(v.type, TensorType)
        within = v.type.layout is not None and op.attrs["axis"] == 1  # a pixel
        at += v.static_shape[1] * v.dtype.itemsize if within else nbytes(v)


def _view_offset(op: Op) -> int | None:
    """Byte offset of a view's memory in its operand's, None where the op is no view."""
    t = op.results[0].type
    assert isinstance(t, TensorType)
    offset = op.definition.view(op.view(), t)
    return None if offset is None else offset * t.dtype.itemsize


__all__ = ["ALIGN", "Call", "Host", "Program", "Slot", "Weight", "WeightBlock", "inlined", "plan"]
